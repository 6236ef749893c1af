"""The contract of a space that particles and atoms live in.

A space is a frozen dataclass of static settings. Its methods are pure functions of points. The coordinates of a point
lie along the last axis, `(..., dimension)`, or along `axis`, which is 0 for points that are the columns of an array.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm.base_measures import BaseMeasure

Points = Float[Array, "*points"]
"""Points along the last axis, (..., dimension), or along `axis`."""
Scalars = Float[Array, "*batch"]


def dot(x: Float[Array, "..."], y: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Returns the inner products <x, y> along `axis`, which is kept with length 1."""
    return jnp.sum(x * y, axis=axis, keepdims=True)


def norm(x: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Returns Euclidean norms along `axis`, kept with length 1. The derivative at the origin is zero instead of NaN."""
    square = dot(x, x, axis)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@dataclasses.dataclass(frozen=True)
class Space(abc.ABC):
    """A Riemannian submanifold of R^d, or a quotient of R^d, with a base measure tau, the field `base` of every space.

    Args:
        dimension: d, the number of coordinates of a point.

    Raises:
        ValueError: for a dimension that is too small, and for a base measure that is not one on this space.
    """

    dimension: int

    smallest: ClassVar[int] = 1
    """The smallest dimension."""

    def __post_init__(self):
        d = self.dimension
        if isinstance(d, bool) or not isinstance(d, int) or d < self.smallest:
            raise ValueError(f"dimension is {d!r}; it must be an integer of at least {self.smallest}")
        if not (isinstance(self.base, BaseMeasure) and self.base.fits(self)):
            allowed = "Uniform()" if self.compact else "Gaussian(scale), Flat()"
            raise ValueError(f"base is {self.base} and the space a {type(self).__name__}; allowed: {allowed}")

    # -- What a space is -------------------------------------------------------------------------------

    compact: ClassVar[bool] = True
    """Whether the space is bounded. Densities are then relative to the uniform probability measure, else to Lebesgue's."""

    periodic: ClassVar[bool] = False
    """Whether coordinates are of a period, so that a function of them must be periodic and `ambient` is another point."""

    @property
    def mean_curvature(self) -> int:
        """H: the Laplacian along the space of the ambient coordinate functions is -H times the unit normal. 0 where flat."""
        return 0

    @property
    def unit(self) -> float:
        """The length that moves are measured in: the radius of the space's circles, 1 where it has none."""
        return 1.0

    @property
    def circumference(self) -> float | None:
        """The length of a space that is one closed curve, a circle; None for all others."""
        return None

    @property
    def longest_move(self) -> float:
        """The injectivity radius: moves of this length or longer are not undone by `log`."""
        return math.inf

    @property
    def default_particle_step(self) -> float:
        """The step h = 0.6 unit^2 / d of Langevin moves: a MALA move is accepted while h d / unit^2 is of order 1."""
        return 0.6 / self.dimension * self.unit**2

    @property
    def largest_particle_step(self) -> float:
        """The step h beyond which the noise of a Langevin move, of length sqrt(2 h d), would go half way round the space."""
        return math.inf

    # -- Moves -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors onto the tangent space.

        Args:
            x: points of the space.
            v: ambient vectors at them, of the same shape.
            axis: the axis of the components.

        Returns:
            Tangent vectors, of the same shape.
        """

    @abc.abstractmethod
    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """Follows geodesics for a unit of time, and turns back.

        Args:
            x: points of the space.
            v: tangent vectors at them, of the same shape.
            axis: the axis of the components.

        Returns:
            The points y = exp(x, v), and the velocities at y that lead back to x: `log(y, x)` where v is not `too_long`.
        """

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """The exponential map: the end of the geodesic from x of velocity v, with arguments as of `exp_and_back`."""
        return self.exp_and_back(x, v, axis)[0]

    @abc.abstractmethod
    def log(self, x: Points, y: Points) -> Points:
        """Inverts `exp`.

        Args:
            x: points of the space, (..., d).
            y: other points, (..., d).

        Returns:
            The initial velocities of the shortest geodesics from x to y, (..., d).
        """

    @abc.abstractmethod
    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Moves along any ambient vector, as `exp` does to first order in tangent vectors.

        Args:
            x: points of the space.
            v: ambient vectors at them, of the same shape.
            axis: the axis of the components.

        Returns:
            Points of the space, of the same shape.
        """

    def too_long(self, v: Points, axis: int = -1) -> Bool[Array, "*batch"]:
        """Whether `log` would return another vector than v: a proposal to reject.

        Args:
            v: tangent vectors.
            axis: the axis of the components.

        Returns:
            Booleans of the shape of v without the axis.
        """
        return jnp.squeeze(norm(v, axis), axis) >= self.longest_move

    # -- Curvature -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def normal(self, x: Points) -> Points:
        """The unit normal of the space at points x; 0 where the space fills R^d. Both of shape (..., d)."""

    @abc.abstractmethod
    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """|P a|^2, the squared length of the tangential part of vectors a.

        Args:
            inner: <a, x> at points x of the space.
            square: |a|^2, of a shape that broadcasts.

        Returns:
            The squares, of a shape that broadcasts to that of `inner`.
        """

    @abc.abstractmethod
    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """The Laplacian along the space of x -> g(<a, x> + b): |P a|^2 g'' - H <a, n> g', with the normal n.

        Args:
            inner: <a, x> at points x of the space.
            square: |P a|^2, from `tangential_square`.
            slope: g', of the shape of `inner`.
            curvature: g'', of the same shape.

        Returns:
            The Laplacian, of the same shape.
        """

    @abc.abstractmethod
    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """The Laplacian along the space of a function at a point: the trace of P hessian P, less H <gradient, n>.

        Args:
            x: a point of the space, (d,).
            gradient: the function's derivatives in R^d, (d,).
            hessian: its second derivatives, (d, d).

        Returns:
            A scalar.
        """

    # -- Distances -------------------------------------------------------------------------------------

    def ambient(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Coordinates of points in the Euclidean space in which distances between them are taken, (n, k)."""
        return x

    @abc.abstractmethod
    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """-|X - Y|^2 / 2 unit^2 with X and Y the points' `ambient` coordinates: 0 for equal points, else negative.

        Args:
            x: points, (N, d).
            y: other points, (m, d).

        Returns:
            The matrix of all pairs, (N, m).
        """

    @abc.abstractmethod
    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """Finds the nearest of the centres.

        Args:
            x: points, (n, d).
            centres: other points, (K, d).

        Returns:
            The number of the centre nearest to each point, (n,).
        """

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The position of points on a space that is a circle, in turns; raises ValueError for all others."""
        raise ValueError(f"space is {self}; allowed: Torus(1), Sphere(2)")

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """So many points of a space that is a circle, equally spaced from 0 turns on, NumPy float64; raises as `turns`."""
        raise ValueError(f"space is {self}; allowed: Torus(1), Sphere(2)")

    # -- Points from outside ---------------------------------------------------------------------------

    @abc.abstractmethod
    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in the space: (..., d) to (...)."""

    def misplaced(self, row: int, point: np.ndarray) -> str:
        """Says how a row of data lies outside the space, and what to do."""
        return f"rows outside {self} (row {row} is {point}); wrap them into it"

    def normalise(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Divides rows by their norms, on a sphere.

        Args:
            x: the rows, (n, d).
            name: what an error calls them.

        Returns:
            Rows of norm 1 in the dtype of x; those that are not finite as they are.

        Raises:
            ValueError: for a row of zeros, and on a space that is not a sphere.
        """
        del x, name
        raise ValueError(f"normalise is True and space is {self}; allowed: a Sphere")

    # -- The base measure ------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def base(self) -> BaseMeasure:
        """tau, a field of each space."""

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`base.sample`: independent points, (count, d)."""
        return self.base.sample(self, key, count, dtype)

    def from_normal(self, z: Points, axis: int = -1) -> Points:
        """`base.from_normal`: draws of the base measure from standard normal vectors, of the same shape."""
        return self.base.from_normal(self, z, axis)

    def log_base(self, x: Points, axis: int = -1) -> Scalars:
        """`base.log_density`, of the shape of x without the axis."""
        return self.base.log_density(self, x, axis)

    def grad_log_base(self, x: Points) -> Points:
        """`base.score`: the gradient of `log_base`, (..., d)."""
        return self.base.score(self, x)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Draws points uniformly, where the space is compact; the base measure is another matter.

        Args:
            key: of `jax.random`.
            count: the number of points.
            dtype: theirs.

        Returns:
            Independent points, (count, d).

        Raises:
            ValueError: where the space is not compact.
        """
        del key, count, dtype
        raise ValueError(f"space is {self}, which is not compact and has no uniform measure")

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Maps standard normal vectors to uniform points, of the same shape; raises ValueError as `sample_uniform`."""
        del z, axis
        raise ValueError(f"space is {self}, which is not compact and has no uniform measure")
