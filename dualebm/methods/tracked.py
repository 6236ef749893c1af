"""log Z along training, from the particles at hand: log Z_{k+1} = log Z_k + log E_particles exp(U_k - U_{k+1}).

The particles of an iteration have moved under U_k when the energy becomes U_{k+1}; the increment is exact in the mean for particles of the
model of U_k. Particles that lag behind it bias each increment alike, and the errors add up; so does that of steps found from the same
particles, whose noise they follow: log Z comes out low, by an amount that falls as one over the particles. It costs two evaluations of the
energy, where annealing (`annealing.log_partition_by_annealing`) costs hundreds and starts afresh. (arXiv 2104.07531 does so from fresh
chains.)
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import checks
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.measures import Samples
from dualebm.methods.base import Info, Wrapper


class TrackedState(NamedTuple):
    """inner, the state of the method within; log_partition, log Z of its energy."""

    inner: Any
    log_partition: Float[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles, as rows."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The iterations done."""
        return self.inner.step


@dataclasses.dataclass(frozen=True)
class Tracked(Wrapper):
    """A method with particles, and log Z of its energy in its state.

    method: with `state.particles`, which an iteration moves under the energy that it found. chains: of the annealing that finds log Z of
    the first energy; 0 where this is known to be 0, as of methods that start at U = 0.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Tracked(Dual(Sphere(3), neurons=8)), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> bool(jnp.isfinite(state.log_partition)), int(state.step)
    (True, 1)
    """

    method: Any
    chains: int = 10_000

    def __post_init__(self):
        checks.count("chains", self.chains, 0)

    def init(self, key: Key[Array, ""], rates, data: Samples) -> TrackedState:
        """The start of the method under the same key, and log Z of its energy."""
        inner = self.method.init(key, rates, data)
        value: Any = jnp.zeros((), data.points.dtype)
        if self.chains:
            energy = self.method.energy(inner, rates, data)
            aside = jax.random.fold_in(key, 1)
            value, _, _ = log_partition_by_annealing(aside, energy, self.space, self.chains, temperatures=100)
        return TrackedState(inner, value)

    def step(self, key: Key[Array, ""], state: TrackedState, rates, data: Samples) -> tuple[TrackedState, Info]:
        """One iteration of the method."""
        inner, info = self.method.step(key, state.inner, rates, data)
        before, after = (self.method.energy(one, rates, data) for one in (state.inner, inner))
        change = before(inner.particles) - after(inner.particles)
        increment = logsumexp(change) - math.log(change.size)
        return TrackedState(inner, state.log_partition + increment), info

    def log_partition(self, state: TrackedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """log Z, and NaN: its error is not known."""
        return state.log_partition, jnp.full_like(state.log_partition, jnp.nan)
