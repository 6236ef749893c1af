"""log Z along any training, without bias: walkers that the training never sees follow its energy with Jarzynski's weights.

The weights of walkers that also make the steps of the parameters are exact for a path of energies that does not depend on them; it does,
and log Z comes out low by an amount that falls as one over the walkers. Given the path, walkers of their own have E e^A = Z / Z_0 exactly,
whatever the method and however few they are, and the error told is that of log Z. They cost their moves, and two evaluations of the energy.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import checks
from dualebm.flows import jarzynski, langevin
from dualebm.flows.jarzynski import Weights
from dualebm.measures import Samples
from dualebm.methods.base import Info, Wrapper
from dualebm.methods.jarzynski import warning_of_weights

ASIDE = 2**31 - 1
"""Folded into the key of a step for the walkers; no method draws with this number."""


class AuditedState(NamedTuple):
    """inner, the state of the method within; columns (d, N), walkers that it does not see, and their weights."""

    inner: Any
    columns: Float[Array, "d N"]
    weights: Weights

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles of the method within, as rows."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The iterations done."""
        return self.inner.step


@dataclasses.dataclass(frozen=True)
class Audited(Wrapper):
    """A method, and walkers that know log Z of its energy.

    Args:
        method: any. walkers: N, even; at the start of its first model, exactly or by annealing.
        moves: of each walker in an iteration, by MALA of `particle_step`; None for the space's default.
        threshold: of the effective fraction, in (0, 1], below which the walkers are resampled (systematically).

    Raises ValueError for what is not allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Audited(Dual(Sphere(3), neurons=8), walkers=100), Samples(jax.numpy.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> [bool(jax.numpy.isfinite(number)) for number in method.log_partition(state)]  # log Z and its error
    [True, True]
    """

    method: Any
    walkers: int = 10_000
    moves: int = 1
    particle_step: float | None = None
    threshold: float = 0.5

    def __post_init__(self):
        checks.count("walkers", self.walkers, 2)
        if self.walkers % 2:
            raise ValueError(f"walkers is {self.walkers}; it must be even: walkers i and i + N/2 are a pair")
        checks.count("moves", self.moves)
        if self.particle_step is not None:
            checks.number("particle_step", self.particle_step, positive=True)
        checks.number("threshold", self.threshold, positive=True, largest=1)

    def check(self, rates, data: Samples) -> None:
        """Raises the errors of the method, and ValueError where walkers of its first model cannot be drawn."""
        super().check(rates, data)
        init = lambda: self.method.energy(self.method.init(jax.random.key(0), rates, data), rates, data)  # noqa: E731
        jarzynski.check_start(eqx.filter_eval_shape(init), self.space)

    def init(self, key: Key[Array, ""], rates, data: Samples) -> AuditedState:
        """The start of the method under the same key, and walkers of its model."""
        inner = self.method.init(key, rates, data)
        energy = self.method.energy(inner, rates, data)
        x, weights = jarzynski.first_walkers(jax.random.fold_in(key, 1), energy, self.space, self.walkers)
        return AuditedState(inner, x, weights)

    def step(self, key: Key[Array, ""], state: AuditedState, rates, data: Samples) -> tuple[AuditedState, Info]:
        """One iteration of the method, under the same key; then the walkers move under the energy that it found, and are weighted."""
        inner, info = self.method.step(key, state.inner, rates, data)
        before, after = (self.method.energy(one, rates, data) for one in (state.inner, inner))
        resample_key, noise_key = jax.random.split(jax.random.fold_in(key, ASIDE))
        draw = langevin.drawn(noise_key, self.space.dimension, state.columns.dtype, "independent")
        size = self.space.default_particle_step if self.particle_step is None else self.particle_step
        x, increments, _ = jarzynski.walk("mala", self.space, draw, state.columns, before, after, size, steps=self.moves)
        x, weights, effective = jarzynski.advance(resample_key, x, state.weights, increments, self.threshold)
        return AuditedState(inner, x, weights), info._replace(effective_fraction=effective)

    def log_partition(self, state: AuditedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """log Z and its standard error: see `flows.jarzynski.log_partition`."""
        return jarzynski.log_partition(state.weights)

    def paired(self, state: AuditedState) -> AuditedState | None:
        """Which arrays hold the particles of the method and the walkers; None where the method's particles cannot be split."""
        inner, none = self.method.paired(state.inner), jax.tree.map(lambda _: False, state)
        if inner is None:
            return None
        return AuditedState(inner, True, none.weights._replace(log_weights=True, ancestors=True))  # pyright: ignore[reportArgumentType]

    def resamplings(self, state: AuditedState) -> Int[Array, ""]:
        """How often the walkers have been resampled."""
        return state.weights.resamplings

    def warning(self, state: AuditedState, info: Info) -> str | None:
        """Say when the weights have collapsed to one walker."""
        return warning_of_weights(state.weights, info)
