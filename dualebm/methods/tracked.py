"""log Z along training from the particles of the training: log Z_{k+1} = log Z_k + log E_particles exp(U_k - U_{k+1}).

The particles of an iteration have moved under U_k when the energy becomes U_{k+1}. The increment is exact in the mean
for samples of the model of U_k. Two errors add up over the iterations. Particles that lag behind the model bias each
increment in the same direction. Steps that are computed from the same particles follow their noise, which makes log Z
too low by an amount of order 1/N. The method costs two evaluations of the energy in each iteration, where annealing
(`log_partition_by_annealing`) costs hundreds and starts afresh. arXiv 2104.07531 does the same with fresh chains.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.keys import check_key
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method, Wrapper
from dualebm.settings import CountOrZero


class TrackedState(NamedTuple):
    """The state of `Tracked`.

    Args:
        inner: the state of the wrapped method.
        log_partition: log Z of its energy, a scalar in nats.
    """

    inner: Any
    log_partition: Float[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The number of iterations done."""
        return self.inner.step


@dataclasses.dataclass(frozen=True)
class Tracked(Wrapper):
    """A method with particles that also follows log Z of its energy.

    Args:
        method: a method whose state has `particles`, which an iteration moves under the energy before it.
        chains: the number of annealed chains that estimate log Z of the first energy. 0 where this log Z is known to be
            0, as for methods that start at U = 0.

    Raises:
        ValueError: `chains` is not a whole number of at least 0.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Tracked(Dual(Sphere(3), neurons=8)), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> bool(jnp.isfinite(state.log_partition)), int(state.step)
    (True, 1)
    """

    method: Method
    chains: CountOrZero = 10_000

    def __post_init__(self):
        settings.check(self)

    def init(self, key: Key[Array, ""], rates, data: Samples) -> TrackedState:
        """Return the start of the wrapped method under the same key, with log Z of its energy."""
        check_key(key)
        inner = self.method.init(key, rates, data)
        value: Any = jnp.zeros((), data.points.dtype)
        if self.chains:
            energy = self.method.energy(inner, rates, data)
            annealing_key = jax.random.fold_in(key, 1)
            value, _, _ = log_partition_by_annealing(annealing_key, energy, self.space, self.chains, temperatures=100)
        return TrackedState(inner, value)

    def step(self, key: Key[Array, ""], state: TrackedState, rates, data: Samples) -> tuple[TrackedState, Info]:
        """Do one iteration of the wrapped method, and add the increment of log Z."""
        check_key(key)
        inner, info = self.method.step(key, state.inner, rates, data)
        before, after = (self.method.energy(one, rates, data) for one in (state.inner, inner))
        change = before(inner.particles) - after(inner.particles)
        increment = logsumexp(change) - math.log(change.size)
        return TrackedState(inner, state.log_partition + increment), info

    def log_partition(self, state: TrackedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return log Z, and NaN for its standard error, which is not known."""
        return state.log_partition, jnp.full_like(state.log_partition, jnp.nan)
