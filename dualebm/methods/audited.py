"""log Z along any training, without bias: independent particles follow the energy of the training with Jarzynski's weights.

The weights of particles that also make the steps of the parameters would be exact for a path of energies that does not
depend on them. It does depend on them, and log Z comes out low by an error of order 1/N. Given the path, particles that
the training never sees have E e^A = Z / Z_0 exactly, whatever the method and however few they are, and the standard
error covers the whole error of log Z. They cost their moves and two evaluations of the energy in each iteration.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.flows import jarzynski
from dualebm.flows.jarzynski import Weights
from dualebm.flows.noise import drawn
from dualebm.measures import Samples
from dualebm.methods.any_energy import warnings_of_weights
from dualebm.methods.base import Info, Method, Wrapper
from dualebm.settings import Count, CountFrom2, Fraction, Positive

ASIDE = 2**31 - 1
"""The number that makes the key of the independent particles from the key of a step. No method uses it."""


class AuditedState(NamedTuple):
    """The state of `Audited`.

    Args:
        inner: the state of the wrapped method.
        columns: the N independent particles as the columns of an array, (d, N).
        weights: the log weights of the independent particles, (N,), with what log Z needs besides.
    """

    inner: Any
    columns: Float[Array, "d N"]
    weights: Weights

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles of the wrapped method as rows, (N', d)."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The number of iterations done."""
        return self.inner.step


@dataclasses.dataclass(frozen=True)
class Audited(Wrapper):
    """A method, with independent particles that follow log Z of its energy.

    Args:
        method: any method.
        walkers: the number N of independent particles, even. At the start they are samples of the first model, exact
            where the energy has a sampler and else annealed.
        moves: the number of MALA moves of each independent particle in an iteration.
        particle_step: the time step of these moves, > 0. None for the space's default.
        threshold: the effective fraction of the independent particles below which they are resampled (systematically),
            in (0, 1].

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Audited(Dual(Sphere(3), neurons=8), walkers=100), Samples(jax.numpy.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> [bool(jax.numpy.isfinite(number)) for number in method.log_partition(state)]  # log Z and its error
    [True, True]
    """

    method: Method
    walkers: CountFrom2 = 10_000
    moves: Count = 1
    particle_step: Positive | None = None
    threshold: Fraction = 0.5

    def __post_init__(self):
        settings.check(self)
        if self.walkers % 2:
            raise ValueError(f"walkers is {self.walkers}; it must be even: particles i and i + N/2 are a pair")

    def check(self, rates, data: Samples) -> None:
        """Raise the errors of the wrapped method, and ValueError where samples of its first model cannot be drawn."""
        super().check(rates, data)
        init = lambda: self.method.energy(self.method.init(key_of_seed(0), rates, data), rates, data)  # noqa: E731
        jarzynski.check_start(eqx.filter_eval_shape(init), self.space)

    def init(self, key: Key[Array, ""], rates, data: Samples) -> AuditedState:
        """Return the start of the wrapped method under the same key, with independent particles of its model."""
        check_key(key)
        inner = self.method.init(key, rates, data)
        energy = self.method.energy(inner, rates, data)
        x, weights = jarzynski.first_walkers(jax.random.fold_in(key, 1), energy, self.space, self.walkers)
        return AuditedState(inner, x, weights)

    def step(self, key: Key[Array, ""], state: AuditedState, rates, data: Samples) -> tuple[AuditedState, Info]:
        """Do one iteration of the wrapped method under the same key, then move and weigh the independent particles."""
        check_key(key)
        inner, info = self.method.step(key, state.inner, rates, data)
        before, after = (self.method.energy(one, rates, data) for one in (state.inner, inner))
        resample_key, noise_key = jax.random.split(jax.random.fold_in(key, ASIDE))
        draw = drawn(noise_key, self.space.dimension, state.columns.dtype, "independent")
        size = self.space.default_particle_step if self.particle_step is None else self.particle_step
        x, increments, _ = jarzynski.walk("mala", self.space, draw, state.columns, before, after, size, steps=self.moves)
        x, weights, effective = jarzynski.advance(resample_key, x, state.weights, increments, self.threshold)
        return AuditedState(inner, x, weights), info._replace(effective_fraction=effective, inner=info)

    def log_partition(self, state: AuditedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return log Z and its standard error by the independent particles (see `flows.jarzynski.log_partition`)."""
        return jarzynski.log_partition(state.weights)

    def paired(self, state: AuditedState) -> AuditedState | None:
        """Mark the particles of the wrapped method and the independent ones, and return None where the method's cannot be shared."""
        inner, none = self.method.paired(state.inner), jax.tree.map(lambda _: False, state)
        if inner is None:
            return None
        return AuditedState(inner, True, none.weights._replace(log_weights=True, ancestors=True))  # pyright: ignore[reportArgumentType]

    def resamplings(self, state: AuditedState) -> Int[Array, ""]:
        """Return how often the independent particles have been resampled."""
        return state.weights.resamplings

    def warnings(self, state: AuditedState, info: Info) -> dict[str, str]:
        """Warn when the weights of the independent particles have collapsed to one of them, and of what the method inside warns."""
        advice = "log Z is then an estimate from few points. Give more moves or more walkers, or lower the steps of the method"
        apart = {f"audit_{kind}": said for kind, said in warnings_of_weights(state.weights, info, advice).items()}
        return apart | self.method.warnings(state.inner, info.inner)
