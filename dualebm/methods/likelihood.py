"""Maximum likelihood of two-layer networks, active (F1) or lazy (F2), by stochastic gradients (arXiv 2104.07531).

    L = E_data f + log Z,   m grad L in (w_j, theta_j) = (-F(theta_j), -w_j grad F(theta_j)),   F = E_model phi - E_data phi

The steps are those of `flows.two_layer`. The expectation under the model exp(-f) tau / Z is estimated by Markov chains
whose moves leave the model invariant, or by points of tau with the weights exp(-f). `Likelihood` trains coefficients
w_j and free positions theta_j. `WeightedLikelihood` has the other parametrisation of the paper: each neuron has a
charge, a weight and a position on the sphere.

The wrapper `methods.tracked.Tracked` follows log Z along training from the moves themselves. `log_z` estimates it anew
for a given energy, by sampling or by annealing.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow, Sums, feature_mean, feature_sums
from dualebm.features import Feature, ReLU, RidgeFeature
from dualebm.flows import langevin, two_layer
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.measures import Samples, effective_sample_size
from dualebm.methods.base import VALIDATION, Info, Method
from dualebm.rates import NonNegative, ParticleStepOrNone
from dualebm.settings import Count, CountFrom2, Positive

Sampler = Literal["mala", "independence", "importance"]
"""How the expectation under the model is estimated: chains of MALA, chains of independence Metropolis, or weighted points of tau."""


class LikelihoodRates(NamedTuple):
    """The scalars of `Likelihood`.

    Args:
        particle_step: the time step of MALA, > 0. It is 0 for the other samplers, which have none.
        learning_rate: the step of the coefficients, >= 0.
        position_rate: the step of the positions, divided by the step of the coefficients, >= 0.
        weight_decay: the decay of the parameters, >= 0.
    """

    particle_step: ParticleStepOrNone
    learning_rate: NonNegative = 0.05
    position_rate: NonNegative = 100.0
    weight_decay: NonNegative = 0.0


class Weighted(NamedTuple):
    """Neurons with charges and weights: f = (1/m) sum_j w_j c_j phi(., z_j).

    Args:
        positions: the positions z_j, (m, p).
        charges: the real charges c_j, (m,).
        log_weights: the logarithms of the weights w_j, whose mean is 1, (m,).
    """

    positions: Float[Array, "m p"]
    charges: Float[Array, " m"]
    log_weights: Float[Array, " m"]


class LikelihoodState(NamedTuple):
    """The state of `Likelihood` and of `WeightedLikelihood`.

    Args:
        columns: the last points of the N chains as the columns of an array, (d, N). None where the model is sampled by
            weighted points, which are not kept.
        neurons: the neurons, a `Shallow` or a `Weighted`.
        optimiser: the state of the optimiser.
        step: the number of iterations done.
    """

    columns: Float[Array, "d N"] | None
    neurons: Any
    optimiser: Any
    step: Int[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The last points of the chains as rows, (N, d). There must be chains."""
        assert self.columns is not None
        return self.columns.T


def _check_sampler(method) -> None:
    """Raise ValueError for moves, fresh chains or a space that do not go with the sampler."""
    if method.sampler == "importance" and (method.moves != 1 or method.fresh):
        raise ValueError(f"moves is {method.moves}, fresh {method.fresh} and sampler 'importance', which moves none; allowed: 1, False")
    if not method.space.base.proper:
        raise ValueError(f"space is {method.space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")
    if method.sampler == "independence" and not method.space.base.from_normal_exists:
        lacking = f"sampler is 'independence' on {method.space}, whose base has no map of normal vectors"
        raise ValueError(f"{lacking}; allowed: 'mala', 'importance'")


def _check_step(method, rates) -> None:
    """Raise ValueError for a particle step that does not go with the sampler: only MALA has one."""
    if method.sampler == "mala":
        checks.number("particle_step", rates.particle_step, positive=True)
    elif rates.particle_step != 0:
        raise ValueError(f"particle_step is {rates.particle_step} and sampler {method.sampler!r}, which has no step; it must be 0")


def _particle_step(method) -> float:
    return method.space.default_particle_step if method.sampler == "mala" else 0.0


def _first_chains(method, key, dtype) -> Float[Array, "d N"]:
    return method.space.sample_base(key, method.chains, dtype).T


def _expectation(method, key, energy: Shallow, columns, step) -> tuple[Sums, Any, Info]:
    """Estimate E_model phi(., theta_j) and its gradient in theta_j.

    Returns these two, the chains after their moves (None without chains), and the diagnostics.
    """
    start_key, noise_key = jax.random.split(key)
    if method.sampler == "importance":
        points = method.space.sample_base(start_key, method.chains, energy.coefficients.dtype)
        log_weights = -energy(points)
        model = feature_mean(energy.feature, energy.positions, Samples(points, log_weights))
        return model, None, Info(effective_fraction=effective_sample_size(log_weights) / method.chains)
    if method.fresh:
        columns = _first_chains(method, start_key, energy.coefficients.dtype)

    def sums(located):
        return feature_sums(energy.feature, energy.positions, located.points, products=located.products)

    draw = drawn(noise_key, columns.shape[0], columns.dtype, "independent")
    columns, acceptance, total = langevin.move(
        method.sampler, method.space, draw, columns, energy, step, steps=method.moves, observe=sums
    )
    return jax.tree.map(lambda a: a / columns.shape[1], total), columns, Info(acceptance)


class _Sampled(Method):
    """The part that both methods share: samples of the model."""

    sampler: Sampler

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves."""
        return self.sampler == "mala"

    @property
    def validation_share(self) -> float:
        """The share of the rows that a fit sets aside as validation rows."""
        return VALIDATION

    def samples(self, state: LikelihoodState) -> Samples | None:
        """Return the last points of the chains, with equal weights, and None where the model is sampled by weighted points."""
        return None if state.columns is None else Samples(state.particles)


@dataclasses.dataclass(frozen=True)
class Likelihood(_Sampled):
    """A two-layer network trained by maximum likelihood.

    Args:
        space: the space of the data: a sphere, or a Euclidean space with a Gaussian base measure.
        feature: phi, a ridge feature. Its positions need not be unit vectors.
        neurons: the number m of neurons.
        regime: "active", where coefficients and positions move, or "lazy", where only the coefficients do.
        sampler: how the expectation under the model is estimated: by chains of "mala" moves, by chains of
            "independence" Metropolis moves, or by "importance": points of the base measure with the weights exp(-f).
        chains: the number N of chains, or of weighted points, at least 2.
        moves: the number of moves of each chain in an iteration. It is 1 with "importance".
        fresh: whether the chains start at the base measure in every iteration (the authors' program for arXiv
            2104.07531, with thousands of moves of one chain). Otherwise they go on from where they were. It is False with "importance".
        optimiser: "gradient", "adam", "momentum" or "rms".
        initial_scale: in the active regime, the variance of the coefficients and of the components of the positions at
            the start.

    Raises:
        ValueError: a setting is not allowed, the feature is not a ridge, or the base measure is flat. The message names
            the setting, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Likelihood(Sphere(3), neurons=8, chains=100), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    feature: RidgeFeature = ReLU()
    neurons: Count = 500
    regime: two_layer.Regime = "active"
    sampler: Sampler = "mala"
    chains: CountFrom2 = 2000
    moves: Count = 1
    fresh: bool = False
    optimiser: two_layer.Optimiser = "gradient"
    initial_scale: Positive = 0.1

    def __post_init__(self):
        settings.check(self)
        two_layer.check_ridge(self.feature)
        _check_sampler(self)

    @property
    def rates(self) -> LikelihoodRates:
        """The default rates. The particle step is the space's default with MALA, else 0."""
        return LikelihoodRates(_particle_step(self))

    def check(self, rates: LikelihoodRates, data: Samples) -> None:
        """Check the rates and the data, that the particle step goes with the sampler, and that the feature goes with the space."""
        super().check(rates, data)
        _check_step(self, rates)
        self.feature.parameter_space(self.space)

    def init(self, key: Key[Array, ""], rates: LikelihoodRates, data: Samples) -> LikelihoodState:
        """Return the network as `flows.two_layer.network` starts it, with chains at the base measure."""
        check_key(key)
        del rates
        network_key, chain_key = jax.random.split(key)
        dtype = data.points.dtype
        network = two_layer.network(network_key, self.feature, self.space, self.neurons, self.regime, self.initial_scale, dtype)
        chains = None if self.sampler == "importance" else _first_chains(self, chain_key, dtype)
        return LikelihoodState(chains, network, two_layer.start(self.optimiser, network), jnp.int32(0))

    def step(
        self, key: Key[Array, ""], state: LikelihoodState, rates: LikelihoodRates, data: Samples
    ) -> tuple[LikelihoodState, Info]:
        """Do one iteration: the expectation under the model, and the step of the network."""
        check_key(key)
        network = state.neurons
        model, columns, info = _expectation(self, key, network, state.columns, rates.particle_step)
        value, gradient = jax.tree.map(jnp.subtract, feature_mean(self.feature, network.positions, data), model)
        slopes = (value, network.coefficients[:, None] * gradient)
        network, optimiser = two_layer.descend(self.optimiser, self.regime, network, slopes, state.optimiser, rates)
        return LikelihoodState(columns, network, optimiser, state.step + 1), info

    def energy(self, state: LikelihoodState, rates: LikelihoodRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j w_j phi(., theta_j)."""
        del rates, data
        return state.neurons


# -- Neurons with a charge and a weight ----------------------------------------------------------------


class WeightedRates(NamedTuple):
    """The scalars of `WeightedLikelihood`.

    Args:
        particle_step: the time step of MALA, > 0. It is 0 for the other samplers, which have none.
        charge_step: s_c >= 0, the step of the charges.
        transport_step: s_z >= 0, the step of the positions.
        reaction_step: s_w >= 0, the step of the logarithms of the weights.
        charge_decay: the decay of the charges, >= 0.
    """

    particle_step: ParticleStepOrNone
    charge_step: NonNegative = 1.0
    transport_step: NonNegative = 1.0
    reaction_step: NonNegative = 1.0
    charge_decay: NonNegative = 1e-4


@dataclasses.dataclass(frozen=True)
class WeightedLikelihood(_Sampled):
    """Maximum likelihood by neurons with charges and weights: the authors' program for the sphere S^2 (arXiv 2104.07531).

        charges    c <- c exp(-decay s_c) + F(z) (1 - exp(-decay s_c)) / decay
        positions  z <- retract(z + s_z sign(c) min(|w c|, 1) P grad F(z))
        weights    w <- w exp(s_w c F(z)), then divided by their mean

    All three use F = E_model phi - E_data phi at the old neurons. At the start c = 0 and w = 1.

    Args:
        space: the space of the data: a sphere, a torus, or a space with a Gaussian base measure.
        feature: phi. The neurons live in `feature.parameter_space(space)`.
        neurons: the number m of neurons.
        sampler: how the expectation under the model is estimated: by chains of "mala" moves, by chains of
            "independence" Metropolis moves, or by "importance": points of the base measure with the weights exp(-f).
        chains: the number N of chains, or of weighted points, at least 2.
        moves: the number of moves of each chain in an iteration. It is 1 with "importance".
        fresh: whether the chains start at the base measure in every iteration (the authors' program for arXiv
            2104.07531, with thousands of moves of one chain). Otherwise they go on from where they were. It is False with "importance".

    Raises:
        ValueError: a setting is not allowed, or the base measure is flat. The message names the setting, its value and
            what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = WeightedLikelihood(Sphere(3), neurons=8, chains=100), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> float(step(jax.random.key(2), method, state, method.rates, data)[0].neurons.log_weights.sum())
    0.0
    """

    space: Space
    feature: Feature = ReLU()
    neurons: Count = 64
    sampler: Sampler = "importance"
    chains: CountFrom2 = 10_000
    moves: Count = 1
    fresh: bool = False

    def __post_init__(self):
        settings.check(self)
        _check_sampler(self)

    @property
    def rates(self) -> WeightedRates:
        """The default rates of the authors' program for arXiv 2104.07531. The particle step is the space's default with MALA, else 0."""
        return WeightedRates(_particle_step(self))

    def check(self, rates: WeightedRates, data: Samples) -> None:
        """Check the rates and the data, and that the particle step goes with the sampler."""
        super().check(rates, data)
        _check_step(self, rates)
        self.feature.parameter_space(self.space)

    def init(self, key: Key[Array, ""], rates: WeightedRates, data: Samples) -> LikelihoodState:
        """Return neurons at drawn positions (`FeatureMap.draw`) with charges 0 and weights 1, and chains at the base measure."""
        check_key(key)
        del rates
        position_key, chain_key = jax.random.split(key)
        dtype = data.points.dtype
        positions = self.feature.draw(position_key, self.space, self.neurons, data)
        zero = jnp.zeros(self.neurons, dtype)
        chains = None if self.sampler == "importance" else _first_chains(self, chain_key, dtype)
        return LikelihoodState(chains, Weighted(positions, zero, zero), None, jnp.int32(0))

    def step(
        self, key: Key[Array, ""], state: LikelihoodState, rates: WeightedRates, data: Samples
    ) -> tuple[LikelihoodState, Info]:
        """Do one iteration: the expectation under the model, and the step of the neurons."""
        check_key(key)
        neurons = state.neurons
        energy = self.energy(state, rates, data)
        model, columns, info = _expectation(self, key, energy, state.columns, rates.particle_step)
        witness, gradient = jax.tree.map(jnp.subtract, model, feature_mean(self.feature, neurons.positions, data))
        parameters, c = self.feature.parameter_space(self.space), neurons.charges
        faded = rates.charge_decay * rates.charge_step
        growth = jnp.where(faded > 0, -jnp.expm1(-faded) / jnp.where(faded > 0, rates.charge_decay, 1), rates.charge_step)
        pull = jnp.clip(energy.coefficients, -1, 1)[:, None] * parameters.tangent(neurons.positions, gradient)
        log_weights = neurons.log_weights + rates.reaction_step * c * witness
        neurons = Weighted(
            parameters.retract(neurons.positions, rates.transport_step * pull),
            c * jnp.exp(-faded) + growth * witness,
            jax.nn.log_softmax(log_weights) + jnp.log(jnp.asarray(self.neurons, c.dtype)),
        )
        return LikelihoodState(columns, neurons, None, state.step + 1), info

    def energy(self, state: LikelihoodState, rates: WeightedRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j w_j c_j phi(., z_j)."""
        del rates, data
        neurons = state.neurons
        return Shallow(self.feature, neurons.positions, jnp.exp(neurons.log_weights) * neurons.charges)
