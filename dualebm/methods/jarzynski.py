"""Maximum likelihood with Jarzynski's correction, for any energy (arXiv 2305.19414, Algorithms 1 and 4).

    gradient    D = E_data dU/dtheta - sum_i p_i dU/dtheta(X_i),   p = softmax(A)
    parameters  theta <- theta - s (an optimiser's direction for D + decay theta)
    particles   X_i moves under the energy before (or after) the step of the parameters
    weights     A_i grows as in `flows.jarzynski`: exact whatever the size of the steps
    resampling  where (sum p_i^2)^-1 / N < threshold

By default the learning rate, the number of moves and their step size follow from the particles (`flows.adaptation`), and the particles are
redrawn from time to time (`flows.renewal`). The papers have fixed steps and no renewal: `target` and `renewal` are then None, and
`integrator` is "geodesic".

D is the gradient of the cross-entropy at every iteration, although the particles are never in equilibrium. The
cross-entropy itself is known too: log Z = log Z_0 + log mean e^A, added up over the resamplings. Both statements hold
in the mean over many particles. The parameters follow the noise of the same particles, which lowers log Z by about s
sum_i p_i^2 |dU/dtheta(X_i)|^2 in each iteration, an error of order 1/N in all. Renewals measure it and take it away.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal import blocks, checks, collectives, random
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.energies.starts import Start
from dualebm.flows import adaptation, jarzynski, langevin, likelihood, renewal
from dualebm.flows.adaptation import Adapted
from dualebm.flows.jarzynski import Weights
from dualebm.flows.likelihood import Optimiser, Training
from dualebm.flows.noise import NoiseKind, sharded
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
    warnings_of_weights,
)
from dualebm.methods.base import VALIDATION, Info, Method
from dualebm.rates import Fraction, NonNegative, ParticleStep
from dualebm.settings import Count, CountFrom2

Order = Literal["particles_first", "parameters_first"]
"""The particles move under the energy before the step of the parameters (Algorithm 1) or after it (the authors' program of images)."""


MOST = 4
"""The factor of the largest number of moves that is chosen, where no largest number is given."""


class JarzynskiRates(NamedTuple):
    """The scalars of `Jarzynski`.

    The weights of unadjusted moves fluctuate even under an energy that does not change. Under a Gaussian energy A_k =
    h/4 (|grad U(X_0)|^2 - |grad U(X_k)|^2), whose variance is d h^2 / 4 in units of the Gaussian's width. A threshold
    near 1 (1 / 1.05 is recommended elsewhere) then resamples every few iterations, each time before the fluctuation has
    reversed, so that log Z and the masses of the modes do a random walk. Choose a threshold below exp(-d h^2 / 4), or
    the integrator "mala".

    Args:
        particle_step: h > 0, the time step of a Langevin move.
        learning_rate: s >= 0, the step of the parameters. It is the first one where it is adapted.
        weight_decay: the decay of the parameters, >= 0.
        energy_penalty: the factor of E U^2 over data and model that is added to the loss, >= 0. The authors use 0.01
            for images. It is not part of the likelihood. Over few rows it keeps a network from learning them by heart.
        threshold: the effective fraction of the particles below which they are resampled, in (0, 1].
    """

    particle_step: ParticleStep
    learning_rate: NonNegative = 3e-3
    weight_decay: NonNegative = 0.0
    energy_penalty: NonNegative = 0.0
    threshold: Fraction = 0.5


class WalkerState(NamedTuple):
    """The state of a method with weighted particles.

    Args:
        columns: the N particles as the columns of an array, (d, N).
        weights: the log weights of the particles, (N,), with what log Z needs besides.
        training: the arrays of the energy, and the state of the optimiser.
        step: the number of iterations done.
        adapted: what the training adapts, or None for fixed steps.
    """

    columns: Float[Array, "d N"]
    weights: Weights
    training: Training
    step: Int[Array, ""]
    adapted: Adapted | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.columns.T

    @property
    def log_weights(self) -> Float[Array, " N"]:
        """The log weights of the particles, (N,), up to a constant."""
        return self.weights.log_weights


def threshold_of_variation(square: float) -> float:
    """Return the `threshold` 1 / (1 + square) that is equivalent to a bound on the coefficient of variation of the weights.

    The effective fraction is below this threshold when CV^2 > `square`.

    Args:
        square: the bound on CV^2, at least 0.

    Returns:
        The threshold, in (0, 1].

    Raises:
        ValueError: the bound is negative or not finite.

    >>> threshold_of_variation(0.25)
    0.8
    """
    checks.number("square", square)
    return 1 / (1 + square)


@dataclasses.dataclass(frozen=True)
class Jarzynski(Method):
    """Maximum likelihood of any energy, trained against weighted particles.

    Args:
        space: the space of the data. The model is exp(-U) times its base measure.
        start: a function `start(key, space, dtype)` that returns the energy at the start, such as
            `energies.networks.MLP()` or your own function.
        walkers: the number N of particles, even. At the start they are samples of the model, exact where the energy has
            a sampler and else annealed, with the weights of the annealing.
        integrator: the move of the particles: "mala"; "geodesic" (unadjusted Langevin, as in the papers) or "projected" (the same, not on a
            sphere); "independence" (Metropolis with proposals from the base measure); or "gibbs" for an energy that has such a move.
        moves: the number of moves of each moving particle in an iteration. It is the least number where it is adapted.
        target: the share of the effective fraction of the particles that an iteration may leave at the least, in (0, 1]. The learning rate
            grows and falls within this bound, and the number of moves and the particle step of "mala" adapt too. None for the given ones,
            as in the papers.
        largest_moves: the largest number of moves that is chosen. None for 4 times `moves`.
        renewal: the number of iterations after which the particles are replaced by fresh samples of the model, which also measures the
            error of log Z. None for never, as in the papers. Particles of an energy without a sampler for the flat measure are never
            replaced, as it cannot be sampled.
        noise: the Gaussian noise of the particles: "independent", "antithetic" (opposite for particles i and i + N/2)
            or "orthogonal" (see `flows.noise.drawn`).
        order: with `target` None, "particles_first" (Algorithm 1: the particles move under the energy before the step of the parameters) or
            "parameters_first" (the authors' program of images: they move under the energy after it). With a target, particles are
            resampled after the step of the parameters, and then move.
        increment: the increment of the log weights: "exact", or for comparison a biased one of
            `flows.jarzynski.INCREMENTS`.
        walker_batch: the number of particles that move in an iteration, even and a divisor of `walkers`. One pair is
            drawn of each walkers / walker_batch consecutive pairs. The other particles stay and are weighted. The
            gradient uses the particles of the first draw, with their weights. None moves all particles.
        walker_batches: the number of draws of `walker_batch` particles in an iteration.
        data_batch: the number of data points drawn for the gradient in each iteration. None for all data.
        optimiser: "gradient", "adam", "momentum" or "rms", or a function without arguments that makes an optax optimiser, such
            as `lambda: optax.adam(schedule)`. The steps of an optax optimiser are multiplied by `learning_rate`, whose
            default is then 1.
        clip: the largest global norm of the gradient. None for no bound.
        fixed: the names of the fields of the energy that are not trained.
        resampling: the rule by which particles are resampled: a name of `measures.RESAMPLINGS`, or "none".

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> method, data = Jarzynski(Sphere(3), MLP(width=8), walkers=100), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> bool(abs(method.log_partition(state)[0]) < 0.1)  # log Z; the second is NaN
    True
    """

    space: Space
    start: Start
    walkers: CountFrom2 = 4096
    integrator: langevin.Move = "mala"
    moves: Count = 1
    target: settings.Fraction | None = 0.99
    largest_moves: Count | None = None
    renewal: Count | None = 100
    noise: NoiseKind = "independent"
    order: Order = "particles_first"
    increment: jarzynski.Increment = "exact"
    walker_batch: CountFrom2 | None = None
    walker_batches: Count = 1
    data_batch: Count | None = None
    optimiser: Optimiser = "adam"
    clip: settings.Positive | None = None
    fixed: tuple[str, ...] = ()
    resampling: jarzynski.Resampling = "systematic"

    def __post_init__(self):
        settings.check(self)
        check_walkers(self)
        check_adaptation(self)
        if self.target is not None and (self.order != "particles_first" or self.increment != "exact"):
            raise ValueError(
                f"target is {self.target}, order is {self.order!r} and increment is {self.increment!r}; other orders and increments go "
                "with target None alone"
            )
        if self.walker_batch is not None:
            if self.walkers % self.walker_batch or self.walker_batch % 2:
                raise ValueError(f"walker_batch is {self.walker_batch}; it must be even and divide walkers, which is {self.walkers}")
        elif self.walker_batches > 1:
            raise ValueError(f"walker_batches is {self.walker_batches} and walker_batch is None; give both, or use moves")
        if self.increment in ("trapezoid", "release") and (self.walker_batch or self.order != "particles_first"):
            raise ValueError(f"increment is {self.increment!r}; it goes with order 'particles_first' and walker_batch None alone")

    @property
    def range_of_moves(self) -> tuple[int, int]:
        """The least and the largest number of moves that is chosen, where it is adapted."""
        return self.moves, self.largest_moves or MOST * self.moves

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
    def rates(self) -> JarzynskiRates:
        """The default rates: the space's default particle step, and learning_rate 3e-3, or 1 for an optax optimiser."""
        return JarzynskiRates(self.space.default_particle_step, 3e-3 if isinstance(self.optimiser, str) else 1.0)

    def rates_for(self, data: Samples) -> JarzynskiRates:
        """Return `rates`, with a penalty on the energy of a network that suits the number of rows (see `any_energy.rates_of_data`)."""
        return rates_of_data(self, data)

    def check(self, rates: JarzynskiRates, data: Samples) -> None:
        """Check the rates, the data and the energy, and that the first particles can be drawn."""
        super().check(rates, data)
        check_training(self, data)
        jarzynski.check_start(eqx.filter_eval_shape(self.start, key_of_seed(0), self.space, data.points.dtype), self.space)

    def init(self, key: Key[Array, ""], rates: JarzynskiRates, data: Samples) -> WalkerState:
        """Return the energy of `start`, with particles of its model."""
        check_key(key)
        del rates
        energy_key, walker_key = jax.random.split(key)
        energy: Any = self.start(energy_key, self.space, data.points.dtype)
        x, weights = jarzynski.first_walkers(walker_key, energy, self.space, self.walkers)
        if self.renewal is not None:
            weights = renewal.begin(weights)
        training = likelihood.began(energy, self.optimiser, self.clip, self.fixed)
        adapted = None if self.target is None else adaptation.begin(likelihood.partition(energy, self.fixed)[0], x.dtype)
        return WalkerState(x, weights, training, jnp.int32(0), adapted)

    def paired(self, state: WalkerState) -> WalkerState:
        """Mark the particles, their log weights and their ancestors, which are paired."""
        none = jax.tree.map(lambda _: False, state)
        return none._replace(columns=True, weights=none.weights._replace(log_weights=True, ancestors=True))

    def step(
        self, key: Key[Array, ""], state: WalkerState, rates: JarzynskiRates, data: Samples
    ) -> tuple[WalkerState, Info]:
        """Do one iteration: the gradient, the step of the parameters, the moves, the weights and the resampling."""
        check_key(key)
        data_key, resample_key, *batch_keys = jax.random.split(key, 2 + self.walker_batches)
        x, weights, before = state.columns, state.weights, self.energy(state, rates, data)
        chosen = [self._chosen(jax.random.fold_in(batch_key, 2), x.shape[1], x.dtype) for batch_key in batch_keys]
        model = Samples(_taken(x, chosen[0]).T, _taken(weights.log_weights, chosen[0]))
        observed = batch_of(data_key, data, self.data_batch)
        gradient = likelihood.likelihood_gradient(before, model, observed, self.fixed, rates.energy_penalty)
        after, optimiser = likelihood.descend(
            before, gradient, state.training.optimiser, rates, self.optimiser, self.clip, self.fixed
        )

        size, moves = rates.particle_step, self.moves
        if state.adapted is not None:
            size, moves = adapted_moves(self, state.adapted, rates.particle_step)

        def walk(key, x, first, second):
            draw = noise_of(self, key, first, x)
            return jarzynski.walk(self.integrator, self.space, draw, x, first, second, size, steps=moves, increment=self.increment)

        def walk_batches(x, energy):
            increments, accepted = jnp.zeros_like(weights.log_weights), []
            for batch_key, pairs in zip(batch_keys, chosen, strict=True):
                moved, change, acceptance = walk(batch_key, _taken(x, pairs), energy, energy)
                x, increments = _put(x, moved, pairs), _put(increments, _taken(increments, pairs) + change, pairs)
                accepted.append(acceptance)
            return x, increments, jnp.mean(jnp.stack(accepted))

        if state.adapted is not None:
            after, adapted = adapted_step(self, state.adapted, gradient, before, after, weights.log_weights, x)
            jump = jarzynski.reweigh(before, after, x)
            x, weights, effective = jarzynski.advance(resample_key, x, weights, jump, rates.threshold, self.resampling)
            moved, _, acceptance = walk_batches(x, after)  # these moves leave the model as it is, and no increment
            info, adapted = adapted_info(self, adapted, before, after, x, moved, moves, acceptance)
            x, weights = renewal.every(resample_key, self.renewal, state.step, after, self.space, moved, weights)
            training = Training(eqx.filter(after, eqx.is_array), optimiser)
            return WalkerState(x, weights, training, state.step + 1, adapted), info._replace(effective_fraction=effective)
        if self.order == "parameters_first":
            jump = jarzynski.reweigh(before, after, x)
            x, increments, acceptance = walk_batches(x, after)
            increments = jump + increments
        elif self.walker_batch is None:
            x, increments, acceptance = walk(batch_keys[0], x, before, after)
        else:
            x, increments, acceptance = walk_batches(x, before)
            increments = increments + jarzynski.reweigh(before, after, x)
        acceptance = collectives.mean_over(acceptance)
        x, weights, effective = jarzynski.advance(resample_key, x, weights, increments, rates.threshold, self.resampling)
        x, weights = renewal.every(resample_key, self.renewal, state.step, after, self.space, x, weights)
        training = Training(eqx.filter(after, eqx.is_array), optimiser)
        return WalkerState(x, weights, training, state.step + 1), Info(acceptance, effective)

    def _chosen(self, key, count, dtype):
        """Draw one pair of each stratum of consecutive pairs. Returns its place in the stratum, (walker_batch / 2,), or
        None for all particles.

        `key` must differ from the keys of the noise, which are split(key) of the batch.
        """
        if self.walker_batch is None:
            return None
        size = self.walkers // self.walker_batch
        strata, rest = divmod(count // 2, size)
        if rest:
            sizes = f"a device holds {count // 2} pairs of particles and walker_batch is {self.walker_batch} of {self.walkers}"
            raise ValueError(f"{sizes}; the pairs must be a multiple of {size}")
        draw = sharded(lambda k, start, pairs: _strata(key, start, pairs, dtype), strata)
        return jnp.minimum((draw(None, 0, strata) * size).astype(jnp.int32), size - 1)

    def energy(self, state: WalkerState, rates: JarzynskiRates, data: Samples) -> Any:
        """Return the energy U."""
        del rates
        return eqx.combine(state.training.arrays, likelihood.skeleton(self.start, self.space, data.points.dtype))

    def log_partition(self, state: WalkerState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return log Z by the weights, and its error where renewals have measured it, else NaN (see `jarzynski.value_of_training`)."""
        return jarzynski.value_of_training(state.weights, self.resampling)

    def resamplings(self, state: WalkerState) -> Int[Array, ""]:
        """Return how often the particles have been resampled."""
        return state.weights.resamplings

    def warnings(self, state: WalkerState, info: Info) -> dict[str, str]:
        """Warn when the weights have collapsed to few particles."""
        advice = (
            "the gradient and log Z are then estimates from few points. Lower learning_rate, give more moves or more walkers, or raise "
            "threshold"
        )
        return warnings_of_weights(state.weights, info, advice)

    def samples(self, state: WalkerState) -> Samples:
        """Return the particles, with their weights."""
        return Samples(state.particles, state.log_weights)


def algorithm_1(space: Space, start: Start, **changes) -> Jarzynski:
    """Return the method with the settings of arXiv 2305.19414, Algorithm 1: unadjusted moves of a fixed number and size, and no renewal.

    Args:
        space: the space of the data.
        start: a function `start(key, space, dtype)` that returns the energy at the start.
        **changes: other fields of `Jarzynski`.

    Returns:
        A `Jarzynski` with `target` and `renewal` None.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> algorithm_1(Sphere(3), MLP(), moves=2).integrator
    'geodesic'
    """
    return Jarzynski(space, start, **{**FIXED, "integrator": "geodesic", **changes})


FIXED: dict[str, Any] = dict(target=None, renewal=None)
"""The settings of `Jarzynski` and of `Contrastive` without adaptation and renewal, as in the papers."""


# -- Batches of particles: one pair of each stratum of consecutive pairs -------------------------------------


def _strata(key, start, count, dtype):
    """Uniform numbers in [0, 1) for the strata from `start` on, (count,)."""
    return random.draw("uniform", key, start // blocks.GRAIN, -(-count // blocks.GRAIN), 1, dtype)[0, :count]


def _split(x, chosen):
    """Reshape (*rows, N) to (*rows, 2, strata, size): the halves of the pairs, the strata, and the places in a stratum."""
    return x.reshape(*x.shape[:-1], 2, chosen.shape[0], -1)


def _taken(x, chosen):
    """Return the columns of the chosen pairs, (*rows, walker_batch). With `chosen` None return all columns."""
    if chosen is None:
        return x
    parts = _split(x, chosen)
    index = jnp.broadcast_to(chosen.reshape(*[1] * (parts.ndim - 2), -1, 1), (*parts.shape[:-1], 1))
    return jnp.take_along_axis(parts, index, axis=-1).reshape(*x.shape[:-1], -1)


def _put(x, new, chosen):
    """Return x with the columns of the chosen pairs replaced by `new`."""
    if chosen is None:
        return new
    parts = _split(x, chosen)
    at = (jnp.arange(parts.shape[-1])[None] == chosen[:, None]).reshape(*[1] * (parts.ndim - 2), *parts.shape[-2:])
    return jnp.where(at, new.reshape(*parts.shape[:-1], 1), parts).reshape(x.shape)
