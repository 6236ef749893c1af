"""Restricted Boltzmann machines: their marginal energy, block Gibbs moves, log Z and samples by enumeration of the hidden states."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.blocks import block_columns, map_blocks, product
from dualebm.base_measures import Gaussian
from dualebm.energies.base import Energy, Located
from dualebm.geometry import Space

LARGEST_ENUMERATION = 20
"""Hidden units of a machine whose 2^m states are still enumerated."""


def _gaussian(space: Space, dimension: int) -> float:
    """s where the space is R^d with the base measure N(0, s^2 I); raises ValueError elsewhere."""
    if not isinstance(space.base, Gaussian) or space.dimension != dimension:
        raise ValueError(f"space is {space}; a Boltzmann machine needs a Gaussian base measure, Euclidean({dimension}, Gaussian(s))")
    return space.base.scale


class BoltzmannMachine(Energy):
    """U(x) = -<b, x> - sum_j log(1 + exp(c_j + <w_j, x>)): a Gaussian-Bernoulli restricted Boltzmann machine, hidden units summed out.

    weights w (m, d), visible b (d,), hidden c (m,). On `Euclidean(d, Gaussian(s))`, whose base measure is N(0, s^2 I),
    x given h is N(s^2 (b + W^T h), s^2 I), and h_j given x is 1 with probability sigmoid(c_j + <w_j, x>), else 0.

    >>> from dualebm.spaces import Euclidean
    >>> energy = BoltzmannMachine(jnp.array([[1.0, 0.0]]), jnp.array([0.0, 2.0]), jnp.zeros(1))
    >>> [round(float(u), 4) for u in energy(jnp.array([[0.0, 0.0], [0.0, 1.0]]))]  # -log 2 and -2 - log 2
    [-0.6931, -2.6931]
    >>> round(float(energy.log_partition(Euclidean(2))), 4)  # log(exp(4 / 2) + exp(5 / 2))
    2.9741
    """

    weights: Float[Array, "m d"]
    visible: Float[Array, " d"]
    hidden: Float[Array, " m"]

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(max(self.weights.shape))

    @property
    def uniforms(self) -> int:
        """Uniform numbers that a Gibbs move needs for each particle: m."""
        return self.weights.shape[0]

    def _fields(self, x):
        """c_j + <w_j, x>, (m, B)."""
        return product(self.weights, x) + self.hidden[:, None]

    def _value(self, x, fields):
        return -product(self.visible, x) - jnp.sum(jax.nn.softplus(fields), axis=0)

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        return map_blocks(lambda x: self._value(x, self._fields(x)), x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient -b - W^T sigmoid(c + W x) at points that are columns."""
        fields = self._fields(x)
        gradient = -self.visible[:, None] - product(self.weights.T, jax.nn.sigmoid(fields))
        return Located(x, self._value(x, fields), gradient, None)

    def _drives(self, h):
        """b + W^T h, (d, B), for hidden states that are columns."""
        return self.visible[:, None] + product(self.weights.T, h)

    def gibbs(self, space: Space, noise: Any, x: Float[Array, "d B"]) -> Float[Array, "d B"]:
        """One block Gibbs move of columns: all h_j = [uniform_j < sigmoid(c_j + <w_j, x>)], then x = s^2 (b + W^T h) + s normal.

        noise: what a `Noise` has: `normal` (d, B), and `uniform` in [0, 1), here (m, B). Leaves the model invariant. Raises
        ValueError for a space without a Gaussian base measure.
        """
        s = _gaussian(space, self.weights.shape[1])
        h = (noise.uniform < jax.nn.sigmoid(self._fields(x))).astype(x.dtype)
        return s**2 * self._drives(h) + s * noise.normal

    def _states(self, index):
        """Hidden states (m, B) by number: h_1 is the highest of the m bits."""
        place = jnp.arange(self.uniforms - 1, -1, -1)
        return ((index[None] >> place[:, None]) & 1).astype(self.weights.dtype)

    def _log_weights(self, scale):
        """<c, h> + s^2 |b + W^T h|^2 / 2 of all 2^m hidden states h, by number, in blocks."""
        if self.uniforms > LARGEST_ENUMERATION:
            raise ValueError(f"the machine has {self.uniforms} hidden units; the enumeration allows at most {LARGEST_ENUMERATION}")

        def block(index):
            h = self._states(index)
            return product(self.hidden, h) + 0.5 * scale**2 * jnp.sum(self._drives(h) ** 2, axis=0)

        return map_blocks(block, jnp.arange(2**self.uniforms), self.width)

    def log_partition(self, space: Space) -> Float[Array, ""]:
        """log Z with respect to N(0, s^2 I): log sum_h exp(<c, h> + s^2 |b + W^T h|^2 / 2), over the 2^m hidden states.

        Raises ValueError for more than 20 hidden units, and for a space without a Gaussian base measure.
        """
        return logsumexp(self._log_weights(_gaussian(space, self.weights.shape[1])))

    def sample(self, key: Key[Array, ""], space: Space, count: int) -> Float[Array, "count d"]:
        """`count` independent draws of the model: hidden states by their exact masses, then x; errors as of `log_partition`."""
        m, d = self.weights.shape
        scale = _gaussian(space, d)
        # One unit after the other given those before it: the cumulative sum of 2^m masses would leave few digits to each.
        levels = [self._log_weights(scale)]
        while levels[-1].size > 1:
            levels.append(jnp.logaddexp(*levels[-1].reshape(-1, 2).T))
        unit_key, normal_key = jax.random.split(key)
        uniform = jax.random.uniform(unit_key, (m, count), self.weights.dtype)
        state = jnp.zeros(count, int)
        for u, above, below in zip(uniform, levels[:0:-1], levels[-2::-1], strict=True):
            state = 2 * state + (u < jnp.exp(below[2 * state + 1] - above[state]))
        normal = jax.random.normal(normal_key, (d, count), self.weights.dtype)
        return (scale**2 * self._drives(self._states(state)) + scale * normal).T


@dataclasses.dataclass(frozen=True)
class Boltzmann:
    """Start of a `BoltzmannMachine`: weights spread * N(0, 1), biases 0.

    Args:
        hidden: m, the hidden units. spread: of the weights.

    Raises ValueError for a setting that is not allowed, and for a space without a Gaussian base measure.

    >>> from dualebm.spaces import Euclidean
    >>> Boltzmann(hidden=4)(jax.random.key(0), Euclidean(3), jnp.float32).weights.shape
    (4, 3)
    """

    hidden: int = 16
    spread: float = 0.01

    def __post_init__(self):
        checks.count("hidden", self.hidden)
        checks.number("spread", self.spread)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> BoltzmannMachine:
        """The machine at the start of training."""
        _gaussian(space, space.dimension)
        weights = self.spread * jax.random.normal(key, (self.hidden, space.dimension), dtype)
        return BoltzmannMachine(weights, jnp.zeros(space.dimension, dtype), jnp.zeros(self.hidden, dtype))
