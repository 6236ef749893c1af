"""The base measures tau of spaces: the model of an energy U is exp(-U) tau / Z.

A base measure is a frozen dataclass of static settings, which a space holds as its `base`; its functions take the space.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Points = Float[Array, "*points"]
"""Points along the last axis, (..., dimension), or along `axis`."""
Scalars = Float[Array, "*batch"]


@runtime_checkable
class Geometry(Protocol):
    """What a base measure asks of a space; see `dualebm.geometry.Space`."""

    compact: ClassVar[bool]
    """Whether the space is bounded."""

    @property
    def dimension(self) -> int:
        """d."""
        ...

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Independent points, uniform on a compact space."""
        ...

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Points, uniform on a compact space, from standard normal vectors."""
        ...


@dataclasses.dataclass(frozen=True)
class BaseMeasure(abc.ABC):
    """A measure tau on a space: a probability measure where it is `proper`."""

    proper: ClassVar[bool] = True
    """Whether its total mass is 1, so that it can be sampled."""

    @abc.abstractmethod
    def fits(self, space: Geometry) -> bool:
        """Whether it is a measure on the space."""

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Its log density in the measure that log Z refers to, Lebesgue's on R^d; 0 where it is that measure itself.

        Args:
            space: the space.
            x: points of the space.
            axis: the axis of the components.

        Returns:
            Scalars, of the shape of x without the axis.
        """
        del space
        return jnp.zeros_like(jnp.take(x, 0, axis))

    def score(self, space: Geometry, x: Points) -> Points:
        """The gradient of `log_density` at points, of the shape of x: (..., d)."""
        del space
        return jnp.zeros_like(x)

    @abc.abstractmethod
    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws independent points.

        Args:
            space: the space.
            key: of `jax.random`.
            count: the number of points.
            dtype: theirs.

        Returns:
            Points, (count, d).

        Raises:
            ValueError: for a measure that is not proper.
        """

    @abc.abstractmethod
    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Maps standard normal vectors to independent draws.

        Args:
            space: the space.
            z: normal vectors.
            axis: the axis of the components.

        Returns:
            Points, of the same shape.

        Raises:
            ValueError: for a measure that is not proper.
        """


@dataclasses.dataclass(frozen=True)
class Uniform(BaseMeasure):
    """The uniform probability measure of a sphere or a torus, in which densities are given there: its log density is 0.

    >>> from dualebm.spaces import Torus
    >>> Uniform().from_normal(Torus(1, 4.0), jnp.zeros(1)).tolist()
    [2.0]
    """

    def fits(self, space: Geometry) -> bool:
        """On a compact space."""
        return space.compact

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`count` independent points, uniform on the space."""
        return space.sample_uniform(key, count, dtype)

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """On the sphere z / |z|, on a torus the period times the normal distribution function."""
        return space.uniform_from_normal(z, axis)


@dataclasses.dataclass(frozen=True)
class Gaussian(BaseMeasure):
    """N(0, scale^2 I) on R^d.

    >>> from dualebm.spaces import Euclidean
    >>> Gaussian(2.0).score(Euclidean(2), jnp.array([4.0, -4.0])).tolist()
    [-1.0, 1.0]
    """

    scale: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is {self.scale!r}; it must be a positive number")

    def fits(self, space: Geometry) -> bool:
        """On R^d."""
        return not space.compact

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """-|x|^2 / 2 scale^2 - d log(scale sqrt(2 pi))."""
        normaliser = space.dimension * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * jnp.sum(x * x, axis=axis) / self.scale**2 - normaliser

    def score(self, space: Geometry, x: Points) -> Points:
        """-x / scale^2."""
        del space
        return -x / self.scale**2

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`count` independent draws."""
        return self.scale * jax.random.normal(key, (space.dimension, count), dtype).T

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """scale z."""
        del space, axis
        return self.scale * z


@dataclasses.dataclass(frozen=True)
class Flat(BaseMeasure):
    """Lebesgue's measure on R^d, in which densities are given there. It is not proper, and sampling it raises ValueError.

    >>> Flat().proper
    False
    """

    proper: ClassVar[bool] = False

    def fits(self, space: Geometry) -> bool:
        """On R^d."""
        return not space.compact

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Raises ValueError."""
        del key, count, dtype
        raise ValueError(f"space is {space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Raises ValueError."""
        del z, axis
        raise ValueError(f"space is {space}, whose flat measure cannot be sampled; give it the base Gaussian(scale)")
