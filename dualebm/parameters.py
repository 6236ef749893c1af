"""The space of a centre and a concentration, in which the parameters of `features.ScaledBump` live."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key
from dualebm.base_measures import Points
from dualebm.geometry import Space


@dataclasses.dataclass(frozen=True)
class ScaledCentres:
    """The product of a space of centres c and an interval of log k, the logarithm of a concentration k.

    A parameter is theta = (c, unit log k), with `unit` the unit of length of the space: 1 on spheres and R^d, period / 2 pi on a torus.
    So its last coordinate is a length, and the metric is |dc|^2 + unit^2 (d log k)^2: a factor e of the concentration is as long as
    one unit. The interval runs from log `smallest` to log `largest`. A move that leaves it ends at its bound, so that concentrations
    stay finite. A neuron whose velocity leads out of the interval rests at the bound.

    Args:
        space: the space of the centres.
        smallest: the smallest concentration, > 0.
        largest: the largest concentration, at least as large as `smallest`.

    Raises:
        ValueError: when the bounds are not 0 < smallest <= largest.

    >>> from dualebm.spaces import Euclidean
    >>> parameters = ScaledCentres(Euclidean(1), 1.0, math.e)
    >>> parameters.retract(jnp.array([[0.0, 0.5]]), jnp.array([[1.0, 2.0]])).tolist()
    [[1.0, 1.0]]
    """

    space: Space
    smallest: float
    largest: float

    def __post_init__(self):
        if not 0 < self.smallest <= self.largest < math.inf:
            raise ValueError(f"smallest is {self.smallest} and largest is {self.largest}; they must be 0 < smallest <= largest")

    @property
    def dimension(self) -> int:
        """Returns d + 1, the coordinates of the centre and one for the concentration."""
        return self.space.dimension + 1

    @property
    def bounds(self) -> tuple[float, float]:
        """Returns the bounds of the last coordinate, unit log smallest and unit log largest."""
        return self.space.unit * math.log(self.smallest), self.space.unit * math.log(self.largest)

    def concentrations(self, theta: Float[Array, "m p"]) -> Float[Array, " m"]:
        """Returns the concentrations k_j of parameters.

        Args:
            theta: the parameters, (m, d + 1).

        Returns:
            The concentrations, (m,).
        """
        return jnp.exp(theta[:, -1] / self.space.unit)

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors onto the tangent space. Their last component stays.

        Args:
            x: parameters.
            v: ambient vectors at x, of the same shape.
            axis: the axis of the components.

        Returns:
            Tangent vectors, of the same shape.
        """
        (x, _), (v, last) = _apart(x, axis), _apart(v, axis)
        return jnp.concatenate([self.space.tangent(x, v, axis), last], axis)

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Moves parameters along ambient vectors. The last coordinate is clipped to its `bounds`.

        Args:
            x: parameters.
            v: ambient vectors at x, of the same shape.
            axis: the axis of the components.

        Returns:
            Parameters, of the same shape.
        """
        (x, last), (v, along) = _apart(x, axis), _apart(v, axis)
        return jnp.concatenate([self.space.retract(x, v, axis), jnp.clip(last + along, *self.bounds)], axis)

    def log(self, x: Points, y: Points) -> Points:
        """Returns the tangent vectors at x that lead to y.

        Args:
            x: parameters, (..., d + 1).
            y: parameters, (..., d + 1).

        Returns:
            The tangent vectors, (..., d + 1).
        """
        (x, last), (y, other) = _apart(x, -1), _apart(y, -1)
        return jnp.concatenate([self.space.log(x, y), other - last], -1)

    def around(self, key: Key[Array, ""], centres: Float[Array, "m d"]) -> Float[Array, "m p"]:
        """Returns parameters with given centres, and concentrations whose logarithm is uniform in the interval.

        Args:
            key: a random key.
            centres: the centres, (m, d).

        Returns:
            The parameters, (m, d + 1).
        """
        check_key(key)
        low, high = self.bounds
        last = jax.random.uniform(key, (centres.shape[0], 1), centres.dtype, low, high)
        return jnp.concatenate([centres, last], axis=1)

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws centres of the base measure of the space, and concentrations whose logarithm is uniform in the interval.

        Args:
            key: a key of `jax.random`.
            count: the number of parameters.
            dtype: the dtype of the parameters.

        Returns:
            Independent parameters, (count, d + 1).

        Raises:
            ValueError: when the base measure of the space is not proper.
        """
        check_key(key)
        centre_key, scale_key = jax.random.split(key)
        return self.around(scale_key, self.space.sample_base(centre_key, count, dtype))


def _apart(x, axis):
    """Returns the coordinates of the centre and the last coordinate."""
    last = x.shape[axis] - 1
    return jax.lax.slice_in_dim(x, 0, last, axis=axis), jax.lax.slice_in_dim(x, last, last + 1, axis=axis)
