"""The base measures tau of spaces. The model of an energy U is exp(-U) tau / Z.

A base measure is a frozen dataclass of static settings. A space holds it as its field `base`, and its methods take the space.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key

Points = Float[Array, "*points"]
"""Points, whose coordinates lie along the last axis, (..., dimension), or along `axis`."""
Scalars = Float[Array, "*batch"]
"""One number for each point."""
FinePlaces = tuple[Float[np.ndarray, "K d"], Float[np.ndarray, " K"]]
"""Points at which a function changes over short lengths, and these lengths, in NumPy float64."""


@runtime_checkable
class Geometry(Protocol):
    """The part of a space that a base measure needs. `dualebm.geometry.Space` satisfies it."""

    compact: ClassVar[bool]
    """Whether the space is bounded."""

    @property
    def dimension(self) -> int:
        """Returns d, the number of coordinates of a point."""
        ...

    @property
    def mean_curvature(self) -> int:
        """Returns d - 1 on a sphere and 0 on flat spaces."""
        ...

    @property
    def unit(self) -> float:
        """Returns the radius of the circles of a torus, and 1 on other spaces."""
        ...

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors v at points x onto the tangent space.

        Args:
            x: points of the space, (..., d) or with the components along another axis.
            v: ambient vectors, of the shape of x.
            axis: the axis of the components.

        Returns:
            The tangent parts of the vectors, of the shape of v.
        """
        ...

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Draws `count` independent points, uniform on a compact space.

        Args:
            key: a random key.
            count: the number of points.
            dtype: the floating dtype of the points.

        Returns:
            The points, (count, d).
        """
        ...

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Maps standard normal vectors to uniform points of a compact space.

        Args:
            z: standard normal vectors, (..., d) or with the components along another axis.
            axis: the axis of the components.

        Returns:
            Points of the space, of the shape of z.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BaseMeasure(abc.ABC):
    """A measure tau on a space. It is a probability measure where it is `proper`."""

    proper: ClassVar[bool] = True
    """Whether the total mass is 1, so that the measure can be sampled."""

    @property
    def positive(self) -> bool:
        """Tells whether the density is known to be positive everywhere. Otherwise the rows of data are checked."""
        return True

    @property
    def from_normal_exists(self) -> bool:
        """Tells whether `from_normal` exists. Restarts at the base measure and independence Metropolis moves need it."""
        return self.proper

    @abc.abstractmethod
    def fits(self, space: Geometry) -> bool:
        """Tells whether this is a measure on the space.

        Args:
            space: the space.

        Returns:
            True where the measure is one on the space.
        """

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns the log density of this base measure tau with respect to a reference measure.

        The reference is Lebesgue's measure on R^d, and the uniform probability measure on compact spaces (spheres and tori). Where
        tau is the reference measure itself, the log density is 0.

        Args:
            space: the space.
            x: points of the space.
            axis: the axis of x along which the d coordinates of a point lie.

        Returns:
            The log densities in nats, of the shape of x without the axis.
        """
        del space
        return jnp.zeros_like(jnp.take(x, 0, axis))

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns the gradient of `log_density` along the space.

        Args:
            space: the space.
            x: points of the space.
            axis: the axis of x along which the d coordinates of a point lie.

        Returns:
            Tangent vectors, of the shape of x.
        """
        del space, axis
        return jnp.zeros_like(x)

    def finest(self, space: Geometry) -> FinePlaces | None:
        """Returns where the density changes over the shortest lengths, and these lengths. None where that is not known.

        A quadrature of the space refines its cells around these points.

        Args:
            space: the space of the density.

        Returns:
            Points of the space, (K, d), and lengths, (K,), or None.
        """
        del space
        return None

    @abc.abstractmethod
    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws independent points.

        Args:
            space: the space.
            key: a key of `jax.random`.
            count: the number of points.
            dtype: the dtype of the points.

        Returns:
            Points, (count, d).

        Raises:
            ValueError: when the measure is not proper.
        """

    @abc.abstractmethod
    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Maps standard normal vectors to independent draws.

        Args:
            space: the space.
            z: standard normal vectors, of any shape with d components along `axis`.
            axis: the axis of z along which the d components of a vector lie.

        Returns:
            Points of the space, of the shape of z.

        Raises:
            ValueError: when the measure has no such map (see `from_normal_exists`).
        """


@dataclasses.dataclass(frozen=True)
class Uniform(BaseMeasure):
    """The uniform probability measure of a sphere or a torus. Densities on these spaces refer to it, so that its log density is 0.

    >>> from dualebm.spaces import Torus
    >>> Uniform().from_normal(Torus(1, 4.0), jnp.zeros(1)).tolist()
    [2.0]
    """

    def fits(self, space: Geometry) -> bool:
        """Tells whether the space is compact."""
        return space.compact

    def finest(self, space: Geometry) -> FinePlaces:
        """Returns no point, because the density is constant."""
        return np.zeros((0, space.dimension)), np.zeros(0)

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points, uniform on the space."""
        check_key(key)
        return space.sample_uniform(key, count, dtype)

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Returns z / |z| on the sphere, and the period times the normal distribution function of z on a torus."""
        return space.uniform_from_normal(z, axis)


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless a value is one finite number greater than 0.

    Args:
        name: the name of the argument in the error.
        value: the value.

    Raises:
        ValueError: the value is another, such as a text.

    >>> check_positive("period", "x")
    Traceback (most recent call last):
    ...
    ValueError: period is 'x'; it must be a positive number
    """
    try:
        allowed = not isinstance(value, bool) and math.isfinite(value) and value > 0
    except (TypeError, ValueError, OverflowError):
        allowed = False
    if not allowed:
        raise ValueError(f"{name} is {value!r}; it must be a positive number")


def numbers(name: str, values: Any) -> np.ndarray:
    """Returns numbers as an array of float64, of any shape.

    Args:
        name: the name of the argument in the error.
        values: an array, or nested sequences of numbers.

    Raises:
        ValueError: when a value is no number, or when sequences differ in length.

    >>> numbers("mean", [1, 2]).tolist()
    [1.0, 2.0]
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {values!r:.200}; it must be an array of numbers") from error


@dataclasses.dataclass(frozen=True)
class Gaussian(BaseMeasure):
    """The normal distribution N(0, scale^2 I) on R^d.

    Args:
        scale: the standard deviation of each coordinate.

    Raises:
        ValueError: when the scale is no positive number.

    >>> from dualebm.spaces import Euclidean
    >>> Gaussian(2.0).score(Euclidean(2), jnp.array([4.0, -4.0])).tolist()
    [-1.0, 1.0]
    """

    scale: float = 1.0

    def __post_init__(self):
        check_positive("scale", self.scale)

    def fits(self, space: Geometry) -> bool:
        """Tells whether the space is R^d."""
        return not space.compact

    def finest(self, space: Geometry) -> FinePlaces:
        """Returns the mean, 0, and the length scale."""
        return np.zeros((1, space.dimension)), np.array([self.scale])

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns -|x|^2 / 2 scale^2 - d log(scale sqrt(2 pi))."""
        normaliser = space.dimension * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * jnp.sum(x * x, axis=axis) / self.scale**2 - normaliser

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns -x / scale^2."""
        del space, axis
        return -x / self.scale**2

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points."""
        check_key(key)
        return self.scale * jax.random.normal(key, (space.dimension, count), dtype).T

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Returns scale z."""
        del space, axis
        return self.scale * z


@dataclasses.dataclass(frozen=True)
class Flat(BaseMeasure):
    """Lebesgue's measure on R^d. Densities on R^d refer to it, so that its log density is 0.

    It is not proper. Sampling it raises ValueError.

    >>> Flat().proper
    False
    """

    proper: ClassVar[bool] = False

    def fits(self, space: Geometry) -> bool:
        """Tells whether the space is R^d."""
        return not space.compact

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Raises ValueError, because the measure is not proper."""
        del key, count, dtype
        raise ValueError(f"space is {space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Raises ValueError, because the measure is not proper."""
        del z, axis
        raise ValueError(f"space is {space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")
