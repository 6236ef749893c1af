"""Restricted Boltzmann machines: the marginal energy, block Gibbs moves, exact log Z and exact samples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import settings
from dualebm._internal.blocks import block_columns, map_blocks, product
from dualebm._internal.keys import check_key
from dualebm.base_measures import Gaussian
from dualebm.energies.base import Energy, Located
from dualebm.geometry import Space
from dualebm.settings import Count, NonNegative

LARGEST_ENUMERATION = 20
"""The largest number m of hidden units whose 2^m states are enumerated."""


def _gaussian(space: Space, dimension: int) -> float:
    """Returns s where the space is R^d with the base measure N(0, s^2 I), and raises ValueError elsewhere."""
    if not isinstance(space.base, Gaussian) or space.dimension != dimension:
        raise ValueError(f"space is {space}; a Boltzmann machine needs Euclidean({dimension}, Gaussian(s))")
    return space.base.scale


class BoltzmannMachine(Energy):
    """A Gaussian-Bernoulli restricted Boltzmann machine: U(x) = -<b, x> - sum_j log(1 + exp(c_j + <w_j, x>)).

    The hidden units h are summed out. On `Euclidean(d, Gaussian(s))`, whose base measure is N(0, s^2 I), x given h is
    N(s^2 (b + W^T h), s^2 I), and h_j given x is 1 with probability sigmoid(c_j + <w_j, x>), else 0.

    Args:
        weights: the matrix W of rows w_j, (m, d), for m hidden and d visible units.
        visible: the biases b of the visible units, (d,).
        hidden: the biases c of the hidden units, (m,).

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
        """Returns the number of points that are evaluated at a time."""
        return block_columns(max(self.weights.shape))

    @property
    def uniforms(self) -> int:
        """Returns m, the number of uniform numbers that a Gibbs move needs for each particle."""
        return self.weights.shape[0]

    def _fields(self, x):
        """Returns c_j + <w_j, x>, (m, B)."""
        return product(self.weights, x) + self.hidden[:, None]

    def _value(self, x, fields):
        return -product(self.visible, x) - jnp.sum(jax.nn.softplus(fields), axis=0)

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        return map_blocks(lambda x: self._value(x, self._fields(x)), x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Evaluates U and its gradient -b - W^T sigmoid(c + W x) at points.

        W are the weights, (m, d), b the biases of the visible units, (d,), and c the biases of the hidden units, (m,).

        Args:
            x: the points, as columns, (d, B).

        Returns:
            A `Located`: the points, U as (B,), the gradient as columns, (d, B), and None as the products.
        """
        fields = self._fields(x)
        gradient = -self.visible[:, None] - product(self.weights.T, jax.nn.sigmoid(fields))
        return Located(x, self._value(x, fields), gradient, None)

    def _drives(self, h):
        """Returns b + W^T h, (d, B), for hidden states that are columns."""
        return self.visible[:, None] + product(self.weights.T, h)

    def gibbs(self, space: Space, noise: Any, x: Float[Array, "d B"]) -> Float[Array, "d B"]:
        """Moves points by one block Gibbs step, which leaves the model invariant.

        First h_j is 1 where uniform_j < sigmoid(c_j + <w_j, x>), else 0. Then x = s^2 (b + W^T h) + s normal. W are the weights with the
        rows w_j, b and c the biases of the visible and hidden units.

        Args:
            space: a space with the base measure N(0, s^2 I).
            noise: an object with fields `normal`, (d, B), and `uniform` in [0, 1), (m, B), such as a `Noise`.
            x: the points, as columns, (d, B).

        Returns:
            The new points, as columns, (d, B).

        Raises:
            ValueError: when the space has no Gaussian base measure.
        """
        s = _gaussian(space, self.weights.shape[1])
        h = (noise.uniform < jax.nn.sigmoid(self._fields(x))).astype(x.dtype)
        return s**2 * self._drives(h) + s * noise.normal

    def _states(self, index):
        """Returns hidden states (m, B) by their number. h_1 is the highest of the m bits."""
        place = jnp.arange(self.uniforms - 1, -1, -1)
        return ((index[None] >> place[:, None]) & 1).astype(self.weights.dtype)

    def _log_weights(self, scale):
        """Returns <c, h> + s^2 |b + W^T h|^2 / 2 of all 2^m hidden states h, in the order of their numbers."""
        if self.uniforms > LARGEST_ENUMERATION:
            raise ValueError(f"the machine has {self.uniforms} hidden units; the enumeration allows at most {LARGEST_ENUMERATION}")

        def block(index):
            h = self._states(index)
            return product(self.hidden, h) + 0.5 * scale**2 * jnp.sum(self._drives(h) ** 2, axis=0)

        return map_blocks(block, jnp.arange(2**self.uniforms), self.width)

    def log_partition(self, space: Space) -> Float[Array, ""]:
        """Returns log Z with respect to N(0, s^2 I): log sum_h exp(<c, h> + s^2 |b + W^T h|^2 / 2), a scalar.

        The sum runs over all 2^m states h of the hidden units. W are the weights, b and c the biases of the visible and hidden units.

        Args:
            space: Euclidean space with the base measure `Gaussian(s)`.

        Raises:
            ValueError: when there are more than 20 hidden units, or when the space has no Gaussian base measure.
        """
        return logsumexp(self._log_weights(_gaussian(space, self.weights.shape[1])))

    def sample(self, key: Key[Array, ""], space: Space, count: int) -> Float[Array, "count d"]:
        """Draws independent points of the model: hidden states by their exact masses, then x given them.

        Args:
            key: a key of `jax.random`.
            space: a space with the base measure N(0, s^2 I).
            count: the number of points.

        Returns:
            Points, (count, d).

        Raises:
            ValueError: when there are more than 20 hidden units, or when the space has no Gaussian base measure.
        """
        check_key(key)
        m, d = self.weights.shape
        scale = _gaussian(space, d)
        # Each unit is drawn given the units before it. A cumulative sum of 2^m masses would leave few digits to each.
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
    """The settings with which a `BoltzmannMachine` starts. The weights are spread * N(0, 1) and the biases are 0.

    Calling it with (key, space, dtype) returns the energy.

    Args:
        hidden: m, the number of hidden units.
        spread: the standard deviation of the weights.

    Raises:
        ValueError: when a setting is not allowed, or on the call when the space has no Gaussian base measure.

    >>> from dualebm.spaces import Euclidean
    >>> Boltzmann(hidden=4)(jax.random.key(0), Euclidean(3), jnp.float32).weights.shape
    (4, 3)
    """

    hidden: Count = 16
    spread: NonNegative = 0.01

    def __post_init__(self):
        settings.check(self)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> BoltzmannMachine:
        """Returns the machine at the start of training.

        Args:
            key: a random key.
            space: Euclidean space with a Gaussian base measure.
            dtype: the floating dtype of the machine.

        Returns:
            The machine, with normal weights and biases of 0.

        Raises:
            ValueError: the base measure is not Gaussian.
        """
        check_key(key)
        _gaussian(space, space.dimension)
        weights = self.spread * jax.random.normal(key, (self.hidden, space.dimension), dtype)
        return BoltzmannMachine(weights, jnp.zeros(space.dimension, dtype), jnp.zeros(self.hidden, dtype))
