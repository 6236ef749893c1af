"""The contract of an energy U. Its model is the probability measure exp(-U) tau / Z, with the base measure tau of the space.

The temperature is 1. Public functions take and return points as rows, (N, d). Inside, points are the columns of blocks
(see `dualebm._internal.blocks`).
"""

import abc
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal import checks
from dualebm._internal.blocks import block_columns, map_blocks, once
from dualebm._internal.programs import brief
from dualebm.base_measures import FinePlaces
from dualebm.settings import checked


class Located(NamedTuple):
    """Points with their energy, its gradient, and what a feature with closed forms needs again.

    XLA does not compute the fields that a program does not use. A move that replaces some points replaces their fields too.

    Args:
        points: the points, as columns, (d, B).
        energy: U at the points, (B,).
        gradient: the ambient gradient of U, as columns, (d, B).
        products: <theta, x> of a ridge feature, or log phi of a scaled bump, (m, B). None for other energies.
    """

    points: Float[Array, "d B"]
    energy: Float[Array, " B"]
    gradient: Float[Array, "d B"]
    products: Float[Array, "m B"] | None


class Energy(eqx.Module):
    """An energy U. A subclass defines `__call__`, which maps x `(N, d)` to U(x) `(N,)`. JAX derives the gradient.

    `__call__` must treat rows independently. It must take means over atoms as products, because jaxlib 0.10.2 miscompiles a
    vmapped mean.

    >>> class Quadratic(Energy):
    ...     stiffness: float
    ...     def __call__(self, x):
    ...         return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)
    >>> Quadratic(3.0).gradient(jnp.array([[1.0, 2.0]])).tolist()
    [[3.0, 6.0]]
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature.

        Args:
            x: points as rows, (N, d).

        Returns:
            The energies, (N,).
        """

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        return block_columns(64)

    def finest(self) -> FinePlaces | None:
        """Returns where U changes over the shortest lengths, and these lengths. None where that is not known.

        A quadrature of the space refines its cells around these points.
        """
        return None

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Evaluates U and its gradient at points that are columns, all at once.

        Args:
            x: the points as columns, (d, B).

        Returns:
            The points with U, (B,), and the ambient gradient of U, (d, B).
        """
        x = once(x)
        value, pull_back = jax.vjp(lambda x: self(x.T), x)
        return Located(x, value, pull_back(jnp.ones_like(value))[0], None)

    def value_and_gradient(self, x: Float[Array, "N d"]) -> tuple[Float[Array, " N"], Float[Array, "N d"]]:
        """Returns U and its ambient gradient at every row of x, in blocks of points.

        Args:
            x: the points as rows, (N, d).

        Returns:
            U, (N,), and its gradient, (N, d).
        """

        def block(x):
            located = self.locate(x)
            return located.energy, located.gradient

        value, gradient = map_blocks(block, x.T, self.width)
        return value, gradient.T

    def gradient(self, x: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """Returns the ambient gradient of U at every row of x.

        Args:
            x: the points as rows, (N, d).

        Returns:
            The gradient, (N, d).
        """
        return self.value_and_gradient(x)[1]


class Tempered(Energy):
    """The energy t U. It is the energy of the model at temperature 1 / t.

    Args:
        energy: U.
        factor: t, a scalar array.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> Tempered(Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])), jnp.array(0.5))(jnp.array([[1.0, 0.0]])).tolist()
    [-1.0]
    """

    energy: Energy
    factor: Float[Array, ""]

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        return self.energy.width

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns t U(x), in units of temperature, (N,)."""
        return self.factor * self.energy(x)

    def finest(self) -> FinePlaces | None:
        """Returns the fine places of U."""
        return self.energy.finest()

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Evaluates t U and its gradient at points that are columns, (d, B)."""
        located = self.energy.locate(x)
        return located._replace(energy=self.factor * located.energy, gradient=self.factor * located.gradient)


def check(name: str, energy: Any, space: Any) -> None:
    """Raises ValueError unless an energy takes points of a space, (N, d), and returns a number for each, (N,). It computes nothing.

    Args:
        name: the name of the argument in the error.
        energy: the energy.
        space: the space.

    Raises:
        ValueError: it is no `Energy`, does not take such points, or returns another shape or integers.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow; from dualebm.spaces import Sphere
    >>> check("energy", Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Sphere(3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: energy is a Shallow, which fails at points (2, 3) of Sphere(...): theta has 2 components and x has 3; ...
    """
    checks.space("space", space)
    if not isinstance(energy, Energy):
        raise ValueError(f"{name} is {energy!r:.200}; it must be an Energy, an object and no class or function")
    shape = (2, space.dimension)
    try:
        made = jax.eval_shape(lambda x: energy(x), jax.ShapeDtypeStruct(shape, precision_of(energy)))
    except Exception as error:  # a user's energy may raise anything
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is a {type(energy).__name__}, which fails at points {shape} of {space}: {said}") from error
    if getattr(made, "shape", None) != (2,) or not jnp.issubdtype(made.dtype, jnp.floating):
        shown = f"{made.dtype} of shape {made.shape}" if hasattr(made, "shape") else type(made).__name__
        raise ValueError(f"{name} is a {type(energy).__name__}, which returns {shown} at points {shape}; it must return (2,) floats")


def precision_of(energy: Energy) -> np.dtype:
    """Returns the dtype of the floating arrays of an energy. It is the default of JAX for an energy that has none.

    Args:
        energy: the energy.

    Returns:
        The dtype, float32 or float64.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> precision_of(Shallow(ReLU(), jnp.eye(2), jnp.ones(2))).name
    'float32'
    """
    leaves = [leaf for leaf in jax.tree.leaves(energy) if hasattr(leaf, "shape") or isinstance(leaf, float)]
    return jnp.result_type(*([leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)] or [float]))


@partial(brief, jit=eqx.filter_jit)
def evaluated(energy: Energy, x: Float[Array, "N d"]) -> Float[Array, " N"]:
    """Returns U(x) by one compiled program. Outside of a compiled function each operation of `energy(x)` would be a program of its own.

    Args:
        energy: the energy U.
        x: the points as rows, (N, d).

    Returns:
        The values, (N,), in units of temperature.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> evaluated(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0]])).tolist()
    [0.5]
    """
    return energy(x)


@checked
def log_density(energy: Energy, x: Float[Array, "N d"]) -> Float[Array, " N"]:
    """Returns log dnu/dtau(x) + log Z = -U(x), the log density of the model nu with respect to tau up to log Z.

    Args:
        energy: the energy U.
        x: the points as rows, (N, d).

    Returns:
        The unnormalised log densities, (N,), in nats.

    >>> from dualebm.features import ReLU; from dualebm.energies.shallow import Shallow
    >>> log_density(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0]])).tolist()
    [-0.5]
    """
    return -energy(x)
