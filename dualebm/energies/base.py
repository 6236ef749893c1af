"""Energies U: the model of an energy is the probability measure exp(-U) tau / Z, with tau the base measure of the space (temperature 1).

Points come and go as rows, (N, d); inside they are the columns of blocks (see `dualebm._internal.blocks`).
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal.blocks import block_columns, map_blocks, once


class Located(NamedTuple):
    """Points (columns), with U, its ambient gradient, and the products <theta, x> that a ridge energy made of them (else None).

    What is not used is not computed; a move that keeps some points and replaces others keeps all of this with them.
    """

    points: Float[Array, "d B"]
    energy: Float[Array, " B"]
    gradient: Float[Array, "d B"]
    products: Float[Array, "m B"] | None


class Energy(eqx.Module):
    """An energy U. Subclass it and write `__call__`, x `(N, d)` -> U(x) `(N,)`; the gradient comes from JAX.

    `__call__` must treat rows independently, and take its means over atoms as products (jaxlib 0.10.2 miscompiles a
    vmapped mean).

    >>> class Quadratic(Energy):
    ...     stiffness: float
    ...     def __call__(self, x):
    ...         return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)
    >>> Quadratic(3.0).gradient(jnp.array([[1.0, 2.0]])).tolist()
    [[3.0, 6.0]]
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(64)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient at points that are columns, all at once."""
        x = once(x)
        value, pull_back = jax.vjp(lambda x: self(x.T), x)
        return Located(x, value, pull_back(jnp.ones_like(value))[0], None)

    def value_and_gradient(self, x: Float[Array, "N d"]) -> tuple[Float[Array, " N"], Float[Array, "N d"]]:
        """U(x) and the ambient gradient of U at every row of x."""

        def block(x):
            located = self.locate(x)
            return located.energy, located.gradient

        value, gradient = map_blocks(block, x.T, self.width)
        return value, gradient.T

    def gradient(self, x: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The ambient gradient of U at every row of x."""
        return self.value_and_gradient(x)[1]


class Tempered(Energy):
    """t U: the energy of the model at temperature 1 / t.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> Tempered(Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])), jnp.array(0.5))(jnp.array([[1.0, 0.0]])).tolist()
    [-1.0]
    """

    energy: Energy
    factor: Float[Array, ""]

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return self.energy.width

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """t U(x), in units of temperature."""
        return self.factor * self.energy(x)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """t U and its gradient at points that are columns."""
        there = self.energy.locate(x)
        return there._replace(energy=self.factor * there.energy, gradient=self.factor * there.gradient)


def precision_of(energy: Energy) -> np.dtype:
    """The dtype of the floating arrays of an energy.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> precision_of(Shallow(ReLU(), jnp.eye(2), jnp.ones(2))).name
    'float32'
    """
    leaves = [leaf for leaf in jax.tree.leaves(energy) if hasattr(leaf, "shape") or isinstance(leaf, float)]
    return jnp.result_type(*(leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)))


def log_density(energy: Energy, x: Float[Array, "N d"]) -> Float[Array, " N"]:
    """log dnu/dtau(x) + log Z = -U(x): the log density of the model in its base measure, up to log Z.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> log_density(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0]])).tolist()
    [-0.5]
    """
    return -energy(x)
