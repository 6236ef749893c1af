"""Maximum likelihood with the F1 norm as a penalty, by weighted draws of the base measure, along a path of penalties.

    L = E_data f + log E_tau exp(-f) + lambda sum_j |a_j|,   f = sum_j a_j phi(., theta_j)

The means under the model are those of a fixed pool of draws of tau with the weights exp(-f), of which each iteration takes one part.
So no particle moves, and log Z comes with the draws. This works where the model is not far from its base measure: the effective number
of draws is about their number times exp(-KL). The coefficients a_j, with a smooth |a|, and the positions theta_j follow Adam.

At lambda_max = max_j |E_data phi_j - E_tau phi_j| and above it f = 0 is optimal for the first positions. A smaller penalty is a larger
radius of the F1 ball: the penalty is the multiplier of the constraint on the total variation. `paths.Lowering` lowers it stage by stage.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.blocks import take
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Feature, ReLU
from dualebm.geometry import Space
from dualebm.measures import Atoms, Samples, draw_indices, effective_sample_size
from dualebm.methods.base import Info, Method
from dualebm.rates import Fraction, NonNegative
from dualebm.settings import Count, CountFrom2

ROUNDING = 1e-3
"""The a, in nats, below which the penalty sqrt(a^2 + ROUNDING^2) is smooth."""

MEMORY = 0.98
"""The share of the average that an iteration keeps. The energy is that of the average."""


class PenalisedRates(NamedTuple):
    """The scalars of `PenalisedLikelihood`.

    Args:
        penalty: lambda / lambda_max, in (0, 1].
        coefficient_step: the step of the coefficients a_j, >= 0, in nats.
        position_step: the step of the positions theta_j, >= 0, in widths of the feature.
    """

    penalty: Fraction = 0.05
    coefficient_step: NonNegative = 0.1
    position_step: NonNegative = 0.05


class Network(NamedTuple):
    """The coefficients and the positions of the neurons.

    Args:
        coefficients: a_j, (m,).
        positions: theta_j, (m, p).
    """

    coefficients: Float[Array, " m"]
    positions: Float[Array, "m p"]


class PenalisedState(NamedTuple):
    """The state of `PenalisedLikelihood`.

    Args:
        network: the neurons.
        average: the exponential average of the neurons.
        optimiser: the state of Adam.
        draws: the pool of draws of the base measure, as columns, (d, M).
        largest_penalty: lambda_max, in nats.
        step: the number of iterations done.
    """

    network: Network
    average: Network
    optimiser: Any
    draws: Float[Array, "d M"]
    largest_penalty: Float[Array, ""]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class PenalisedLikelihood(Method):
    """Maximum likelihood with a penalty on the F1 norm, by weighted draws of the base measure.

    Args:
        space: the space of the data. Its base measure can be sampled.
        feature: phi. The neurons live in `feature.parameter_space(space)`.
        neurons: the number m of neurons.
        draws: the number M of draws of the base measure.
        batch: the number of draws that an iteration takes, at most M.
        rows: the number of data points that an iteration takes. It takes all where there are no more.

    Raises:
        ValueError: a setting is not allowed, or the base measure is flat. The message names the setting, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = PenalisedLikelihood(Sphere(3), neurons=8, draws=512, batch=256), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    feature: Feature = ReLU()
    neurons: Count = 256
    draws: CountFrom2 = 2**16
    batch: CountFrom2 = 4096
    rows: Count = 1024

    def __post_init__(self):
        settings.check(self)
        if self.batch > self.draws:
            raise ValueError(f"batch is {self.batch} and draws is {self.draws}; an iteration can take at most all draws")
        if not self.space.base.proper:
            raise ValueError(f"space is {self.space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")

    @property
    def rates(self) -> PenalisedRates:
        """The default rates."""
        return PenalisedRates()

    def check(self, rates: PenalisedRates, data: Samples) -> None:
        """Check the rates and the data, and that the feature goes with the space."""
        super().check(rates, data)
        self.feature.parameter_space(self.space)

    def init(self, key: Key[Array, ""], rates: PenalisedRates, data: Samples) -> PenalisedState:
        """Return neurons at drawn positions (`FeatureMap.draw`) with coefficients 0, and a pool of draws."""
        check_key(key)
        del rates
        position_key, draw_key = jax.random.split(key)
        return self.begin(position_key, self.space.sample_base(draw_key, self.draws, data.points.dtype), data)

    def begin(self, key: Key[Array, ""], draws: Float[Array, "M d"], data: Samples) -> PenalisedState:
        """Return the state in which training starts with given draws of a base measure.

        The base measure enters the training by its draws alone. So one compiled program trains from many base measures.

        Args:
            key: the key of the positions.
            draws: the draws, (M, d).
            data: the training data, points (n, d).

        Returns:
            The state.
        """
        check_key(key)
        if len(draws) != self.draws:
            raise ValueError(f"draws has {len(draws)} points; the method takes {self.draws}")
        positions = self.feature.draw(key, self.space, self.neurons, data)
        network = Network(jnp.zeros(self.neurons, data.points.dtype), positions)
        observed, model = (feature_mean(self.feature, positions, Samples(points)) for points in (data.points, draws))
        if data.log_weights is not None:
            observed = feature_mean(self.feature, positions, data)
        largest = jnp.max(jnp.abs(observed[0] - model[0]))
        return PenalisedState(network, network, _adam().init(network), draws.T, largest, jnp.int32(0))

    def resumed(self, energy: Shallow, draws: Float[Array, "M d"], penalty: Float[Array, ""] | float) -> PenalisedState:
        """Return the state in which training goes on from an energy, with new draws and a new penalty.

        Args:
            energy: the energy. Its neurons have the number and the feature of the method.
            draws: the draws of the base measure, (M, d).
            penalty: the penalty lambda in nats that `PenalisedRates.penalty` is a share of.

        Returns:
            The state.
        """
        network = Network(energy.coefficients / self.neurons, energy.positions)
        largest = jnp.asarray(penalty, draws.dtype)
        return PenalisedState(network, network, _adam().init(network), draws.T, largest, jnp.int32(0))

    def step(
        self, key: Key[Array, ""], state: PenalisedState, rates: PenalisedRates, data: Samples
    ) -> tuple[PenalisedState, Info]:
        """Do one iteration: the means over one part of the draws and of the data, and the step of Adam."""
        check_key(key)
        draw_key, row_key = jax.random.split(key)
        coefficients, positions = state.network
        part = jax.random.randint(draw_key, (), 0, self.draws // self.batch)
        draws = take(state.draws, part * self.batch, self.batch).T
        log_weights = -self._shallow(state.network)(draws)
        if self.rows < len(data.points):
            data = Samples(data.points[draw_indices(row_key, data, (self.rows,))])
        observed = feature_mean(self.feature, positions, data)
        model = feature_mean(self.feature, positions, Samples(draws, log_weights))
        value, slope = jax.tree.map(jnp.subtract, observed, model)
        penalty = self.penalty(state, rates) * coefficients / jnp.sqrt(coefficients**2 + ROUNDING**2)
        parameters = self.feature.parameter_space(self.space)
        gradient = Network(value + penalty, coefficients[:, None] * parameters.tangent(positions, slope))
        widths = self.feature.widths(self.space, positions)
        direction, optimiser = _adam().update(gradient, state.optimiser)
        move = -rates.position_step * widths * direction.positions
        network = Network(
            coefficients - rates.coefficient_step * direction.coefficients,
            parameters.retract(positions, parameters.tangent(positions, move)),
        )
        old = state.average
        average = Network(
            MEMORY * old.coefficients + (1 - MEMORY) * network.coefficients,
            parameters.retract(old.positions, (1 - MEMORY) * parameters.log(old.positions, network.positions)),
        )
        fraction = effective_sample_size(log_weights) / self.batch
        state = PenalisedState(network, average, optimiser, state.draws, state.largest_penalty, state.step + 1)
        return state, Info(effective_fraction=fraction)

    def energy(self, state: PenalisedState, rates: PenalisedRates, data: Samples) -> Shallow:
        """Return the energy f of the average of the neurons."""
        del rates, data
        return self._shallow(state.average)

    def penalty(self, state: PenalisedState, rates: PenalisedRates) -> Any:
        """Return lambda = rates.penalty lambda_max, in nats."""
        return rates.penalty * state.largest_penalty

    def atoms(self, state: PenalisedState) -> Atoms:
        """Return the average of the neurons."""
        coefficients, positions = state.average
        return Atoms(positions, jnp.log(jnp.abs(coefficients) * self.neurons), jnp.where(coefficients < 0, -1, 1).astype(positions.dtype))

    def _shallow(self, network: Network) -> Shallow:
        return Shallow(self.feature, network.positions, self.neurons * network.coefficients)


def _adam() -> Any:
    import optax  # here, as it takes long to import and few methods need it

    return optax.scale_by_adam(b1=0.9, b2=0.99)
