"""Contrastive divergence and its persistent form, for any energy, with unweighted particles.

    restart     X_i <- a data point: all particles in every k-th iteration, or each with probability p_R
    Langevin    X_i <- X_i - h (grad U - grad log tau) + sqrt(2 h) xi_i
    parameters  theta <- theta - s (an optimiser's direction for E_data dU - E_particles dU + decay theta)
    renewal     now and then, X_i <- fresh samples of the model (`flows.renewal`)

With `restart_every=1` and `moves=k` it is contrastive divergence, CD-k (Hinton 2002). Without restarts it is persistent
contrastive divergence, PCD (Tieleman 2008). With p_R > 0 it is the replay buffer of Du and Mordatch (2019). None of
these is the gradient of the likelihood, as the particles are not samples of the model. By default s, the number of moves and h follow from
the particles (`flows.adaptation`), which lag behind the model the less. The parameters are not held in a
ball. The weight decay takes its place, and the ratio s / h corresponds to the ratio alpha of the dual scheme (arXiv
2107.05134, Section 6).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal import collectives
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.energies.starts import Start
from dualebm.flows import adaptation, initialise, jarzynski, langevin, likelihood, renewal
from dualebm.flows.adaptation import Adapted
from dualebm.flows.jarzynski import Weights
from dualebm.flows.likelihood import Optimiser, Training
from dualebm.flows.noise import NoiseKind
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.any_energy import (
    adapted_info,
    adapted_moves,
    adapted_step,
    batch_of,
    check_adaptation,
    check_training,
    check_walkers,
    noise_of,
    rates_of_data,
)
from dualebm.methods.base import VALIDATION, Info, Method
from dualebm.rates import NonNegative, ParticleStep, Probability
from dualebm.settings import Count, CountFrom2, Positive

Begin = Literal["data", "model"]
"""Where the particles are at the start: at the data, or at samples of the model of the first energy."""

RestartAt = Literal["data", "base"]
"""Where particles go that restart with `restart_probability`: to the data, or to draws of the base measure."""


KEEPING_UP = 16
"""The factor of the largest number of moves that is chosen, where no largest number is given. With 4, which is enough for weighted
particles, particles fell so far behind a narrow model that the training collapsed."""


class ContrastiveRates(NamedTuple):
    """The scalars of `Contrastive`.

    Args:
        particle_step: h > 0, the time step of a Langevin move.
        learning_rate: s >= 0, the step of the parameters. It is the first one where it is adapted.
        weight_decay: the decay of the parameters, >= 0.
        energy_penalty: the factor of E U^2 over data and particles that is added to the loss, >= 0. Over few rows it
            keeps a network from learning them by heart.
        restart_probability: p_R in [0, 1], for each particle in each iteration.
    """

    particle_step: ParticleStep
    learning_rate: NonNegative = 3e-3
    weight_decay: NonNegative = 0.0
    energy_penalty: NonNegative = 0.0
    restart_probability: Probability = 0.0


class ContrastiveState(NamedTuple):
    """The state of `Contrastive`.

    Args:
        columns: the N particles as the columns of an array, (d, N).
        training: the arrays of the energy, and the state of the optimiser.
        step: the number of iterations done.
        diagnosis: the weights of the particles, which the training does not use. None where they are not asked for.
        adapted: what the training adapts, or None for fixed steps.
    """

    columns: Float[Array, "d N"]
    training: Training
    step: Int[Array, ""]
    diagnosis: Weights | None
    adapted: Adapted | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class Contrastive(Method):
    """Contrastive divergence of any energy: training against unweighted particles.

    Args:
        space: the space of the data. The model is exp(-U) times its base measure.
        start: a function `start(key, space, dtype)` that returns the energy at the start, such as
            `energies.networks.MLP()` or your own function.
        walkers: the number N of particles, even, drawn from the data at the start. None starts them at two copies of
            the data.
        integrator: the move of the particles: "mala" (which leaves the model invariant), "geodesic" (unadjusted
            Langevin), "projected" (not on a sphere), "independence" (Metropolis with proposals from the base measure),
            or "gibbs" for an energy that has such a move.
        moves: the number of moves of each particle in an iteration. It is the least number where it is adapted.
        target: the effective fraction at the least of weights by which the particles would follow the model through an iteration, in
            (0, 1]. The learning rate grows and falls within this bound, and the number of moves (but not with `restart_every`) and the
            particle step of "mala" adapt too. None for the given ones.
        largest_moves: the largest number of moves that is chosen. None for 16 times `moves`: particles without weights must keep up.
        renewal: the number of iterations after which the particles are replaced by fresh samples of the model. None, or `restart_every`,
            for never. For the flat measure they need an energy with a sampler, and are never replaced otherwise.
        noise: the Gaussian noise of the particles: "independent", "antithetic" (opposite for particles i and i + N/2)
            or "orthogonal" (see `flows.noise.drawn`).
        begin: where the particles are at the start: at the "data", or at samples of the "model" of the first energy,
            which needs a number `walkers`.
        restart_every: move all particles to the data before the moves of every k-th iteration, from the first on. None
            for never.
        restart_at: where particles go that restart with probability p_R: to the "data", or to draws of the "base"
            measure.
        data_batch: the number of data points drawn for the gradient in each iteration. None for all data.
        optimiser: "gradient", "adam", "momentum" or "rms", or a function without arguments that makes an optax
            optimiser, such as `lambda: optax.adam(schedule)`. The steps of an optax optimiser are multiplied by
            `learning_rate`, whose default is then 1.
        clip: the largest global norm of the gradient. None for no bound.
        fixed: the names of the fields of the energy that are not trained.
        diagnosis: whether to follow Jarzynski's weights of the particles. The training does not use them. They give log
            Z, and show how far the particles are from the model. They need particles that begin at the model and never
            restart.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> method, data = Contrastive(Sphere(3), MLP(width=8), restart_every=1, moves=5), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    start: Start
    walkers: CountFrom2 | None = None
    integrator: langevin.Move = "mala"
    moves: Count = 1
    target: settings.Fraction | None = 0.99
    largest_moves: Count | None = None
    renewal: Count | None = 100
    noise: NoiseKind = "antithetic"
    begin: Begin = "data"
    restart_every: Count | None = None
    restart_at: RestartAt = "data"
    data_batch: Count | None = None
    optimiser: Optimiser = "adam"
    clip: Positive | None = None
    fixed: tuple[str, ...] = ()
    diagnosis: bool = False

    def __post_init__(self):
        settings.check(self)
        check_walkers(self)
        check_adaptation(self)
        if self.largest_moves is not None and self.restart_every is not None:
            raise ValueError(f"largest_moves is {self.largest_moves} and restart_every is {self.restart_every}, by which moves are fixed")
        if self.begin == "model" and self.walkers is None:
            raise ValueError("begin is 'model' and walkers is None, which is copies of the data; give their number")
        if self.diagnosis and (self.begin == "data" or self.restart_every is not None):
            raise ValueError(
                f"diagnosis is True with begin {self.begin!r} and restart_every {self.restart_every}; particles at data have no known "
                "weights: allowed are begin='model' and restart_every=None"
            )
        if self.restart_at == "base" and not self.space.base.from_normal_exists:
            raise ValueError(f"restart_at is 'base' on {self.space}, whose base has no map of normal vectors, as Gaussian(scale) has")

    @property
    def range_of_moves(self) -> tuple[int, int]:
        """The least and the largest number of moves that is chosen, where it is adapted. With `restart_every` the number is given."""
        largest = self.moves if self.restart_every is not None else self.largest_moves or KEEPING_UP * self.moves
        return self.moves, largest

    @property
    def validation_share(self) -> float:
        """The share of the rows that a fit sets aside as validation rows."""
        return VALIDATION

    @property
    def adapts(self) -> bool:
        """Whether the method chooses its steps."""
        return self.target is not None

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves."""
        return self.integrator == "mala"

    @property
    def rates(self) -> ContrastiveRates:
        """The default rates: the space's default particle step, and learning_rate 3e-3, or 1 for an optax optimiser."""
        return ContrastiveRates(self.space.default_particle_step, 3e-3 if isinstance(self.optimiser, str) else 1.0)

    def rates_for(self, data: Samples) -> ContrastiveRates:
        """Return `rates`, with a penalty on the energy of a network that suits the number of rows (see `any_energy.rates_of_data`)."""
        return rates_of_data(self, data)

    def check(self, rates: ContrastiveRates, data: Samples) -> None:
        """Check the rates, the data and the energy, and that the restarts go with the other settings."""
        super().check(rates, data)
        check_training(self, data)
        initialise.check_copies("walkers", self.walkers, data)
        if self.restart_every is not None and rates.restart_probability != 0:
            conflict = f"restart_probability is {rates.restart_probability} and restart_every is {self.restart_every}"
            raise ValueError(f"{conflict}; give one of them")
        if self.diagnosis and rates.restart_probability != 0:
            conflict = f"restart_probability is {rates.restart_probability} and diagnosis is True"
            raise ValueError(f"{conflict}; a restart has no weight, so that only 0 is allowed")
        if self.begin == "model":
            jarzynski.check_start(eqx.filter_eval_shape(self.start, key_of_seed(0), self.space, data.points.dtype), self.space)

    def init(self, key: Key[Array, ""], rates: ContrastiveRates, data: Samples) -> ContrastiveState:
        """Return the energy of `start`, with particles at the data or of its model."""
        check_key(key)
        del rates
        energy_key, walker_key = jax.random.split(key)
        energy: Any = self.start(energy_key, self.space, data.points.dtype)
        weights = None
        if self.begin == "data":
            x = initialise.start(walker_key, self.walkers, data)
        else:
            x, weights = jarzynski.first_walkers(walker_key, energy, self.space, self.walkers or 0)
            if not self.diagnosis:  # resample to equal weights
                x, weights, _ = jarzynski.advance(jax.random.fold_in(walker_key, 2), x, weights, 0 * weights.log_weights, 1.0)
        training = likelihood.began(energy, self.optimiser, self.clip, self.fixed)
        if weights is not None and self.renewal is not None:
            weights = renewal.begin(weights)
        adapted = None if self.target is None else adaptation.begin(likelihood.partition(energy, self.fixed)[0], x.dtype)
        return ContrastiveState(x, training, jnp.int32(0), weights if self.diagnosis else None, adapted)

    def paired(self, state: ContrastiveState) -> ContrastiveState:
        """Mark the particles, and the log weights and ancestors of the diagnosis, which are paired."""
        none = jax.tree.map(lambda _: False, state)
        diagnosis = none.diagnosis._replace(log_weights=True, ancestors=True) if self.diagnosis else None
        return none._replace(columns=True, diagnosis=diagnosis)

    def step(
        self, key: Key[Array, ""], state: ContrastiveState, rates: ContrastiveRates, data: Samples
    ) -> tuple[ContrastiveState, Info]:
        """Do one iteration: the restarts, the moves, the gradient and the step of the parameters."""
        check_key(key)
        restart_key, noise_key = jax.random.split(key)
        x, before = self._restarted(restart_key, state, rates, data), self.energy(state, rates, data)
        draw, diagnosis, effective = noise_of(self, noise_key, before, x), state.diagnosis, None
        start, size, moves = x, rates.particle_step, self.moves
        if state.adapted is not None:
            size, moves = adapted_moves(self, state.adapted, size)
        if diagnosis is None and state.adapted is None:
            x, acceptance, _ = langevin.move(self.integrator, self.space, draw, x, before, size, steps=self.moves)
        else:
            x, increments, acceptance = jarzynski.walk(self.integrator, self.space, draw, x, before, before, size, steps=moves)
        observed = batch_of(jax.random.fold_in(key, 2), data, self.data_batch)  # 0 and 1 would give the keys of split(key)
        gradient = likelihood.likelihood_gradient(before, Samples(x.T), observed, self.fixed, rates.energy_penalty)
        after, optimiser = likelihood.descend(
            before, gradient, state.training.optimiser, rates, self.optimiser, self.clip, self.fixed
        )
        info, adapted = Info(collectives.mean_over(acceptance)), None
        if state.adapted is not None:
            equal = jnp.zeros(x.shape[1], x.dtype)
            after, adapted = adapted_step(self, state.adapted, gradient, before, after, equal, x)
            info, adapted = adapted_info(self, adapted, before, after, start, x, moves, acceptance)
        if diagnosis is not None:
            increments = increments + jarzynski.reweigh(before, after, x)
            _, diagnosis, effective = jarzynski.advance(key, x, diagnosis, increments, 0.0, "none")
        period = self.renewal if self.restart_every is None else None
        x, diagnosis = renewal.every(noise_key, period, state.step, after, self.space, x, diagnosis)
        training = Training(eqx.filter(after, eqx.is_array), optimiser)
        return ContrastiveState(x, training, state.step + 1, diagnosis, adapted), info._replace(effective_fraction=effective)

    def _restarted(self, key, state, rates, data):
        """Return the particles after the restarts of an iteration, as columns."""
        x = state.columns
        if self.restart_every is not None:
            all_key = jax.random.fold_in(key, 3)
            count = x.shape[1]

            def to_data():
                return initialise.copies(data, count) if self.walkers is None else initialise.restart(all_key, x, data, 1.0)

            return jax.lax.cond(state.step % self.restart_every == 0, to_data, lambda: x)
        if self.restart_at == "data":
            return initialise.restart(key, x, data, rates.restart_probability)
        return initialise.refresh(key, x, self.space, rates.restart_probability)

    def energy(self, state: ContrastiveState, rates: ContrastiveRates, data: Samples) -> Any:
        """Return the energy U."""
        del rates
        return eqx.combine(state.training.arrays, likelihood.skeleton(self.start, self.space, data.points.dtype))

    def log_partition(self, state: ContrastiveState) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """Return log Z by the weights of the diagnosis and its error (see `jarzynski.value_of_training`), and None without them."""
        return None if state.diagnosis is None else jarzynski.value_of_training(state.diagnosis, "none")

    def samples(self, state: ContrastiveState) -> Samples:
        """Return the particles, with equal weights."""
        return Samples(state.particles)


def contrastive_divergence(space: Space, start: Start, moves: int, **changes) -> Contrastive:
    """Return the method CD-k: in every iteration all particles start at the data and make k moves.

    Args:
        space: the space of the data.
        start: a function `start(key, space, dtype)` that returns the energy at the start.
        moves: the number k of moves in an iteration.
        **changes: other fields of `Contrastive`.

    Returns:
        A `Contrastive` with `restart_every=1`.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> contrastive_divergence(Sphere(3), MLP(), 10).restart_every
    1
    """
    return Contrastive(space, start, **{**dict(moves=moves, restart_every=1), **changes})
