"""Maximum likelihood with Jarzynski's correction, for any energy (arXiv 2305.19414, Algorithms 1 and 4).

    gradient    D = E_data dU/dtheta - sum_i p_i dU/dtheta(X_i),   p = softmax(A)
    parameters  theta <- theta - s (an optimiser's direction for D + decay theta)
    walkers     moves under the energy before (or after) the step of the parameters
    weights     A_i as `flows.jarzynski`: exact whatever the size of the steps
    resampling  where (sum p_i^2)^-1 / N < threshold

The gradient is that of the cross-entropy at every iteration, though the walkers are never in equilibrium, and the cross-entropy itself is
known: log Z = log Z_0 + log mean e^A, added up over the resamplings. Both are so in the mean over many walkers: the parameters follow the
noise of the same walkers, which lowers log Z by about s sum_i p_i^2 |dU/dtheta(X_i)|^2 in each iteration, 1/N in all.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import measures
from dualebm._internal import blocks, checks, collectives, random
from dualebm.flows import initialise, jarzynski, langevin, likelihood
from dualebm.flows.jarzynski import Weights
from dualebm.flows.likelihood import Optimiser, Start, Training
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.rates import Fraction, NonNegative, ParticleStep
from dualebm.spaces import Space

ORDERS = ("particles_first", "parameters_first")
"""Whether walkers move under the energy before the step of the parameters (Algorithm 1) or after it (the authors' program of images)."""


class JarzynskiRates(NamedTuple):
    """particle_step h > 0; learning_rate s >= 0; weight_decay >= 0; energy_penalty >= 0, of E U^2 over data and model (the authors' 0.01
    for images; not part of the likelihood); threshold of the effective fraction of the walkers, in (0, 1].

    The weights of unadjusted moves never rest: under a fixed Gaussian energy A_k = h/4 (|grad U(X_0)|^2 - |grad U(X_k)|^2), whose variance
    is d h^2 / 4 in units of its width. A threshold near 1 (1 / 1.05 is recommended elsewhere) then resamples every few iterations, and each
    time what would have come back is lost: log Z and the masses of modes walk at random. Choose it below exp(-d h^2 / 4), or take "mala".
    """

    particle_step: ParticleStep
    learning_rate: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    energy_penalty: NonNegative = 0.0
    threshold: Fraction = 0.5


class WalkerState(NamedTuple):
    """columns (d, N), the walkers; weights, of them; training; step."""

    columns: Float[Array, "d N"]
    weights: Weights
    training: Training
    step: Int[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The walkers, as rows."""
        return self.columns.T

    @property
    def log_weights(self) -> Float[Array, " N"]:
        """Of the walkers, up to a constant."""
        return self.weights.log_weights


def threshold_of_variation(square: float) -> float:
    """The threshold of the effective fraction that is CV^2 > `square`, the squared coefficient of variation of the weights.

    >>> threshold_of_variation(0.25)
    0.8
    """
    checks.number("square", square)
    return 1 / (1 + square)


@dataclasses.dataclass(frozen=True)
class Jarzynski(Method):
    """Any energy, trained against weighted walkers.

    Args:
        space: where the data live. The model is exp(-U) times its base measure.
        start: the energy at the start, `start(key, space, dtype) -> Energy`: such as `networks.MLP`, or your own function.
        walkers: N, even; at the start they are of the model, exactly or by annealing with its weights.
        integrator: "geodesic" (unadjusted Langevin), "mala", "independence", or "gibbs" of energies that have it.
        moves: of each walker that moves in an iteration. noise: "independent" or as for `Dual`.
        order: of `ORDERS`. increment: "exact", or for comparison one that is biased, of `flows.jarzynski.INCREMENTS`.
        walker_batch: walkers that move in an iteration, drawn one pair of each N / walker_batch consecutive ones; the others are weighted
            where they are, and the gradient is of those drawn first, with their weights. None for all. walker_batches: draws an iteration.
        data_batch: data points drawn for the gradient; None for all.
        optimiser: a word of `flows.two_layer.OPTIMISERS`, or a function that makes one of optax: `lambda: optax.adam(schedule)`, whose
            steps are times learning_rate, then 1 by default. clip: the largest global norm of the gradient. fixed: fields of the energy
            that are not trained.
        resampling: of `measures.RESAMPLINGS`, or "none".

    Raises ValueError for a choice that does not exist.

    >>> from dualebm.training.simulate import start, step; from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> method, data = Jarzynski(Sphere(3), MLP(width=8), walkers=100), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> bool(abs(method.log_partition(state)[0]) < 0.1)  # log Z; its error is the second
    True
    """

    space: Space
    start: Start
    walkers: int = 10_000
    integrator: str = "geodesic"
    moves: int = 1
    noise: str = "independent"
    order: str = "particles_first"
    increment: str = "exact"
    walker_batch: int | None = None
    walker_batches: int = 1
    data_batch: int | None = None
    optimiser: Optimiser = "adam"
    clip: float | None = None
    fixed: tuple[str, ...] = ()
    resampling: str = "systematic"

    def __post_init__(self):
        likelihood.check_settings(self)
        check_walkers(self)
        checks.choice("order", self.order, ORDERS)
        checks.choice("increment", self.increment, jarzynski.INCREMENTS)
        checks.choice("resampling", self.resampling, (*measures.RESAMPLINGS, "none"))
        checks.count("walker_batches", self.walker_batches)
        if self.walker_batch is not None:
            checks.count("walker_batch", self.walker_batch, 2)
            if self.walkers % self.walker_batch or self.walker_batch % 2:
                raise ValueError(f"walker_batch is {self.walker_batch}; it must be even and divide walkers, which is {self.walkers}")
        elif self.walker_batches > 1:
            raise ValueError(f"walker_batches is {self.walker_batches} and walker_batch is None; give both, or use moves")
        if self.increment in ("trapezoid", "release") and (self.walker_batch or self.order != "particles_first"):
            raise ValueError(f"increment is {self.increment!r}; it goes with order 'particles_first' and walker_batch None alone")

    @property
    def rates(self) -> JarzynskiRates:
        """The space's default particle step; learning_rate 1e-3, or 1 for an optimiser of optax."""
        return JarzynskiRates(self.space.default_particle_step, 1e-3 if isinstance(self.optimiser, str) else 1.0)

    def check(self, rates: JarzynskiRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        check_training(self, data)
        jarzynski.check_start(eqx.filter_eval_shape(self.start, jax.random.key(0), self.space, data.points.dtype), self.space)

    def init(self, key: Key[Array, ""], rates: JarzynskiRates, data: Samples) -> WalkerState:
        """The energy of `start`, and walkers of its model."""
        del rates
        energy_key, walker_key = jax.random.split(key)
        energy: Any = self.start(energy_key, self.space, data.points.dtype)
        x, weights = jarzynski.first_walkers(walker_key, energy, self.space, self.walkers)
        training = likelihood.began(energy, self.optimiser, self.clip, self.fixed)
        return WalkerState(x, weights, training, jnp.int32(0))

    def paired(self, state: WalkerState) -> WalkerState:
        """True in place of the arrays whose last axis is the walkers, i paired with i + N/2; False in place of the others."""
        none = jax.tree.map(lambda _: False, state)
        return none._replace(columns=True, weights=none.weights._replace(log_weights=True, ancestors=True))

    def step(
        self, key: Key[Array, ""], state: WalkerState, rates: JarzynskiRates, data: Samples
    ) -> tuple[WalkerState, Info]:
        """One iteration; the key belongs to this step alone."""
        data_key, resample_key, *batch_keys = jax.random.split(key, 2 + self.walker_batches)
        x, weights, before = state.columns, state.weights, self.energy(state, rates, data)
        chosen = [self._chosen(jax.random.fold_in(batch_key, 2), x.shape[1], x.dtype) for batch_key in batch_keys]
        model = Samples(_taken(x, chosen[0]).T, _taken(weights.log_weights, chosen[0]))
        observed = batch_of(data_key, data, self.data_batch)
        gradient = likelihood.likelihood_gradient(before, model, observed, self.fixed, rates.energy_penalty)
        after, optimiser = likelihood.descend(
            before, gradient, state.training.optimiser, rates, self.optimiser, self.clip, self.fixed
        )

        def walk(key, x, first, second):
            draw = drawn(self, key, first, x)
            return jarzynski.walk(
                self.integrator, self.space, draw, x, first, second, rates.particle_step, steps=self.moves, increment=self.increment
            )

        def walk_batches(x, energy):
            increments, accepted = jnp.zeros_like(weights.log_weights), []
            for batch_key, pairs in zip(batch_keys, chosen, strict=True):
                there, change, acceptance = walk(batch_key, _taken(x, pairs), energy, energy)
                x, increments = _put(x, there, pairs), _put(increments, _taken(increments, pairs) + change, pairs)
                accepted.append(acceptance)
            return x, increments, jnp.mean(jnp.stack(accepted))

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
        training = Training(eqx.filter(after, eqx.is_array), optimiser)
        return WalkerState(x, weights, training, state.step + 1), Info(acceptance, effective)

    def _chosen(self, key, count, dtype):
        """Of each of the strata of consecutive pairs the place of the one that is drawn, (batch / 2,); None for all walkers.

        The key is none of those of the noise, which are split(key) of the batch.
        """
        if self.walker_batch is None:
            return None
        size = self.walkers // self.walker_batch
        strata, rest = divmod(count // 2, size)
        if rest:
            found = f"a device holds {count // 2} pairs of walkers and walker_batch is {self.walker_batch} of {self.walkers}"
            raise ValueError(f"{found}; the pairs must be a multiple of {size}")
        draw = langevin.sharded(lambda k, start, pairs: _strata(key, start, pairs, dtype), strata)
        return jnp.minimum((draw(None, 0, strata) * size).astype(jnp.int32), size - 1)

    def energy(self, state: WalkerState, rates: JarzynskiRates, data: Samples) -> Any:
        """U."""
        del rates
        return eqx.combine(state.training.arrays, likelihood.skeleton(self.start, self.space, data.points.dtype))

    def log_partition(self, state: WalkerState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """log Z and its standard error: see `flows.jarzynski.log_partition`."""
        return jarzynski.log_partition(state.weights, self.resampling)

    def resamplings(self, state: WalkerState) -> Int[Array, ""]:
        """How often the walkers have been resampled."""
        return state.weights.resamplings

    def warning(self, state: WalkerState, info: Info) -> str | None:
        """Say when the weights have collapsed to one walker."""
        return warning_of_weights(state.weights, info)

    def samples(self, state: WalkerState) -> Samples:
        """The walkers, with their weights."""
        return Samples(state.particles, state.log_weights)


# -- What methods with walkers have in common ----------------------------------------------------------


def check_walkers(method) -> None:
    """Raises ValueError for settings of walkers that are not allowed: walkers, moves, integrator, noise, data_batch."""
    checks.count("walkers", method.walkers, 2)
    if method.walkers % 2:
        raise ValueError(f"walkers is {method.walkers}; it must be even: walkers i and i + N/2 are a pair")
    checks.count("moves", method.moves)
    checks.choice("integrator", method.integrator, langevin.MOVES)
    jarzynski.check_integrator(method.integrator, method.space)
    checks.choice("noise", method.noise, langevin.NOISES)
    if method.data_batch is not None:
        checks.count("data_batch", method.data_batch)


def check_training(method, data: Samples) -> None:
    """Raises ValueError for an energy that is not allowed."""
    likelihood.check(method, data)
    if method.integrator == "gibbs":
        energy = eqx.filter_eval_shape(method.start, jax.random.key(0), method.space, data.points.dtype)
        if not hasattr(energy, "gibbs"):
            allowed = "allowed: 'geodesic', 'mala', 'independence'"
            raise ValueError(f"integrator is 'gibbs' and {type(energy).__name__} has no such move; {allowed}")


def drawn(method, key: Key[Array, ""], energy, x: Float[Array, "d N"]) -> langevin.Draw:
    """The noise of the walkers of a method."""
    uniforms = energy.uniforms if method.integrator == "gibbs" else None
    return langevin.drawn(key, x.shape[0], x.dtype, method.noise, uniforms)


def batch_of(key: Key[Array, ""], data: Samples, size: int | None) -> Samples:
    """`size` points drawn of all data, or the data of this device where None."""
    if size is None:
        return data
    index = initialise.draw_indices(key, collectives.whole(data), (size,))
    return Samples(collectives.pick(data.points, index))


def warning_of_weights(weights: Weights, info: Info) -> str | None:
    """Words for weights that have collapsed to one walker, or None."""
    count = weights.log_weights.shape[-1]
    effective = count if info.effective_fraction is None else count * float(info.effective_fraction)
    if not effective < 2:
        return None
    return (
        f"the weights have collapsed to one walker: the effective sample size is {effective:.3g} of {count}; the gradient and log Z are "
        "those of one point. Lower learning_rate, give more moves or more walkers, or raise threshold"
    )


def _strata(key, start, count, dtype):
    return random.draw("uniform", key, start // blocks.GRAIN, -(-count // blocks.GRAIN), 1, dtype)[0, :count]


def _split(x, chosen):
    """(*rows, N) as (*rows, 2, strata, size)."""
    return x.reshape(*x.shape[:-1], 2, chosen.shape[0], -1)


def _taken(x, chosen):
    """Columns of the chosen pairs, (*rows, batch); all where None."""
    if chosen is None:
        return x
    parts = _split(x, chosen)
    index = jnp.broadcast_to(chosen.reshape(*[1] * (parts.ndim - 2), -1, 1), (*parts.shape[:-1], 1))
    return jnp.take_along_axis(parts, index, axis=-1).reshape(*x.shape[:-1], -1)


def _put(x, there, chosen):
    """x with the columns of the chosen pairs replaced."""
    if chosen is None:
        return there
    parts = _split(x, chosen)
    at = (jnp.arange(parts.shape[-1])[None] == chosen[:, None]).reshape(*[1] * (parts.ndim - 2), *parts.shape[-2:])
    return jnp.where(at, there.reshape(*parts.shape[:-1], 1), parts).reshape(x.shape)
