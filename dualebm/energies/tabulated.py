"""Energies on a circle that are given by their values at equally spaced points."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm.base_measures import FinePlaces
from dualebm.energies.base import Energy
from dualebm.geometry import Space


class Tabulated(Energy):
    """An energy on `Torus(1)` or `Sphere(2)` that is linear between its values at K equally spaced points.

    Args:
        space: the circle.
        values: U at the points, (K,). The first point lies at coordinate or angle 0.

    >>> from dualebm.spaces import Torus
    >>> Tabulated(Torus(1), jnp.array([0.0, 4.0, 0.0, 0.0]))(jnp.array([[0.25], [0.125], [0.5]])).tolist()
    [4.0, 2.0, 0.0]
    """

    space: Space = eqx.field(static=True)
    values: Float[Array, " K"]

    def finest(self) -> FinePlaces:
        """Returns the K points and their distance."""
        count = self.values.shape[0]
        return self.space.equispaced(count), np.full(count, 2 * math.pi * self.space.unit / count)

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        place = self.space.turns(x) * self.values.shape[0]
        cell = jnp.floor(place)
        left, right = (jnp.take(self.values, cell.astype(jnp.int32) + i, mode="wrap") for i in (0, 1))
        return left + (place - cell) * (right - left)
