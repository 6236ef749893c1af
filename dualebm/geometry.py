"""The contract of a space that particles and atoms live in.

A space is a frozen dataclass of static settings. Its methods are pure functions of points. The coordinates of a point
lie along the last axis, `(..., dimension)`, or along `axis`, which is 0 for points that are the columns of an array.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm._internal.keys import check_key
from dualebm.base_measures import BaseMeasure, Points, Scalars


def dot(x: Float[Array, "..."], y: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Returns the inner products <x, y> along an axis. The axis is kept with length 1.

    Args:
        x: vectors, with their components along `axis`.
        y: vectors of a shape that broadcasts with the shape of x.
        axis: the axis of the components.

    Returns:
        The inner products, of the broadcast shape with length 1 along `axis`.

    >>> dot(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
    [[11.0]]
    """
    return jnp.sum(x * y, axis=axis, keepdims=True)


def norm(x: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Returns Euclidean norms along an axis. The derivative at the origin is zero instead of NaN.

    Args:
        x: vectors.
        axis: the axis of their components.

    Returns:
        The norms. The axis is kept with length 1.

    >>> norm(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[5.0], [0.0]]
    """
    square = dot(x, x, axis)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@runtime_checkable
class ParameterSpace(Protocol):
    """The part of a space that the flow of neurons needs. Every `Space` has it, and so has `parameters.ScaledCentres`."""

    @property
    def dimension(self) -> int:
        """Returns p, the number of coordinates of a parameter."""
        ...

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors v onto the tangent space at x.

        Args:
            x: parameters, (..., p) or with the components along another axis.
            v: ambient vectors, of the shape of x.
            axis: the axis of the components.

        Returns:
            The tangent parts, of the shape of v.
        """
        ...

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Moves parameters x along ambient vectors v.

        Args:
            x: parameters, (..., p) or with the components along another axis.
            v: ambient vectors, of the shape of x.
            axis: the axis of the components.

        Returns:
            The moved parameters, of the shape of x.
        """
        ...

    def log(self, x: Points, y: Points) -> Points:
        """Returns the tangent vectors at x that lead to y.

        Args:
            x: parameters, (..., p).
            y: parameters, (..., p).

        Returns:
            The tangent vectors, (..., p).
        """
        ...

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent parameters.

        Args:
            key: a random key.
            count: the number of parameters.
            dtype: their floating dtype.

        Returns:
            The parameters, (count, p).
        """
        ...


@dataclasses.dataclass(frozen=True)
class Space(abc.ABC):
    """A Riemannian submanifold of R^d, or a quotient of R^d, with a base measure tau. Every space has tau as its field `base`.

    Args:
        dimension: d, the number of coordinates of a point.

    Raises:
        ValueError: when the dimension is too small, or when the base measure is no measure on this space.
    """

    dimension: int

    smallest: ClassVar[int] = 1
    """The smallest allowed dimension."""

    def __post_init__(self):
        d = self.dimension
        if isinstance(d, bool) or not isinstance(d, int) or d < self.smallest:
            raise ValueError(f"dimension is {d!r}; it must be an integer of at least {self.smallest}")
        if not (isinstance(self.base, BaseMeasure) and self.base.fits(self)):
            named = "Uniform(), VonMisesFisher on a sphere" if self.compact else "Gaussian(scale), Normal, Flat()"
            allowed = f"{named}, and MixtureBase, KernelBase or CustomBase, of dimension {d}"
            raise ValueError(f"base is {self.base} and the space a {type(self).__name__} of dimension {d}; allowed: {allowed}")

    # -- Definition ------------------------------------------------------------------------------------

    compact: ClassVar[bool] = True
    """Whether the space is bounded. Densities then refer to the uniform probability measure, else to Lebesgue's."""

    periodic: ClassVar[bool] = False
    """Whether coordinates are periodic. Functions of them must then be periodic, and `ambient` changes the coordinates."""

    @property
    def mean_curvature(self) -> int:
        """Returns H, which is 0 where flat. The Laplacian of the ambient coordinates is -H times the unit normal."""
        return 0

    @property
    def log_volume(self) -> float:
        """Returns the logarithm of the volume of a compact space, and 0 on R^d. Densities relative to the reference measure refer to it."""
        return 0.0

    @property
    def unit(self) -> float:
        """Returns the length that moves are measured in. It is the radius of the circles of the space, else 1.
        """
        return 1.0

    @property
    def circumference(self) -> float | None:
        """Returns the length of a space that is one closed curve, a circle. Returns None for all other spaces."""
        return None

    @property
    def longest_move(self) -> float:
        """Returns the injectivity radius. A move of this length or longer is not inverted by `log`."""
        return math.inf

    @property
    def default_particle_step(self) -> float:
        """Returns the step h = 0.6 unit^2 / d of Langevin moves. MALA accepts moves while h d / unit^2 is of order 1."""
        return 0.6 / self.dimension * self.unit**2

    @property
    def largest_particle_step(self) -> float:
        """Returns the step h at which the noise of a Langevin move, of length sqrt(2 h d), goes half way round.
        """
        return math.inf

    # -- Moves -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors onto the tangent space.

        Args:
            x: points of the space.
            v: ambient vectors at the points x, of the same shape.
            axis: the axis of the components.

        Returns:
            Tangent vectors, of the same shape.
        """

    @abc.abstractmethod
    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """Follows geodesics for a unit of time and returns their ends with the velocities that lead back.

        Args:
            x: points of the space.
            v: tangent vectors at the points x, of the same shape.
            axis: the axis of the components.

        Returns:
            The points y = exp(x, v), and the velocities at y that lead back to x: `log(y, x)` unless v is `too_long`.
        """

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns the end of the geodesic from x of velocity v after a unit of time. This is the exponential map.

        Args:
            x: points of the space.
            v: tangent vectors at the points x, of the same shape.
            axis: the axis of the components.

        Returns:
            Points of the space, of the same shape.
        """
        return self.exp_and_back(x, v, axis)[0]

    @abc.abstractmethod
    def log(self, x: Points, y: Points) -> Points:
        """Inverts `exp`.

        Args:
            x: points of the space, (..., d).
            y: other points of the space, (..., d).

        Returns:
            The initial velocities of the shortest geodesics from x to y, (..., d).
        """

    @abc.abstractmethod
    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Moves points along any ambient vectors. The move agrees with `exp` to first order in tangent vectors.

        Args:
            x: points of the space.
            v: ambient vectors at the points x, of the same shape.
            axis: the axis of the components.

        Returns:
            Points of the space, of the same shape.
        """

    def too_long(self, v: Points, axis: int = -1) -> Bool[Array, "*batch"]:
        """Tells which moves `log` would not invert. A sampler rejects them.

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
        """Returns the unit normals of the space at points, or 0 where the space fills R^d.

        Args:
            x: points, (..., d).

        Returns:
            The normals, (..., d).
        """

    @abc.abstractmethod
    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """Returns |P a|^2, the squared length of the tangential part of vectors a.

        Args:
            inner: <a, x> at points x of the space.
            square: |a|^2, of a shape that broadcasts with the shape of `inner`.

        Returns:
            The squares, of a shape that broadcasts with the shape of `inner`.
        """

    @abc.abstractmethod
    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """Returns the Laplacian along the space of x -> g(<a, x> + b): |P a|^2 g'' - H <a, n> g', with the normal n.

        Args:
            inner: <a, x> at points x of the space.
            square: |P a|^2, from `tangential_square`.
            slope: g', of the shape of `inner`.
            curvature: g'', of the shape of `inner`.

        Returns:
            The Laplacian, of the shape of `inner`.
        """

    @abc.abstractmethod
    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns the Laplacian along the space of a function at a point: the trace of P hessian P, less H <gradient, n>.

        Args:
            x: a point of the space, (d,).
            gradient: the derivatives of the function in R^d, (d,).
            hessian: the second derivatives of the function in R^d, (d, d).

        Returns:
            The Laplacian, a scalar.
        """

    # -- Distances -------------------------------------------------------------------------------------

    def ambient(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Embeds points in the Euclidean space in which their distances are taken.

        Args:
            x: points, (n, d).

        Returns:
            Coordinates, (n, k).
        """
        return x

    @abc.abstractmethod
    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """Returns -|X - Y|^2 / 2 unit^2, with X and Y the `ambient` coordinates of the points.

        Args:
            x: points, (N, d).
            y: other points, (m, d).

        Returns:
            The matrix of all pairs, (N, m).
        """

    @abc.abstractmethod
    def proximity_of_columns(self, x: Float[Array, "d N"], y: Float[Array, "d m"]) -> Float[Array, "m N"]:
        """Returns the `proximity` g(x_i, y_j) of points that are columns.

        Args:
            x: points, as columns, (d, N).
            y: other points, as columns, (d, m).

        Returns:
            The matrix of all pairs, (m, N).
        """

    @abc.abstractmethod
    def lift(self, y: Float[Array, "d m"]) -> Float[Array, "r m"]:
        """Returns the r functions of points in which the gradient of the proximity is linear. `proximity_slope` takes their weighted sums.

        Args:
            y: points as columns, (d, m).

        Returns:
            The values of the functions, (r, m).
        """

    @abc.abstractmethod
    def proximity_slope(self, x: Float[Array, "d N"], total: Float[Array, " N"], lifted: Float[Array, "r N"]) -> Float[Array, "d N"]:
        """Returns sum_j w_ij grad_x g(x_i, y_j), the weighted sum of ambient gradients of the proximity g.

        The sums over j are products of matrices, which need no array of N m d elements.

        Args:
            x: the points x_i, as columns, (d, N).
            total: sum_j w_ij, (N,).
            lifted: sum_j w_ij lift(y_j), (r, N).

        Returns:
            The sums, as columns, (d, N).
        """

    @abc.abstractmethod
    def proximity_derivatives(
        self, x: Float[Array, "d N"], y: Float[Array, "d m"], v: Float[Array, "d N"]
    ) -> tuple[Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"]]:
        """Returns the proximity g(x_i, y_j) and its derivatives in x_i along the space.

        Args:
            x: points, as columns, (d, N).
            y: other points, as columns, (d, m).
            v: tangent vectors at the points x, as columns, (d, N).

        Returns:
            g, <grad g, v>, |grad g|^2 and the Laplacian of g, each (m, N).
        """

    @abc.abstractmethod
    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """Returns the index of the centre that is nearest to each point.

        Args:
            x: points, (n, d).
            centres: points of the space, (K, d).

        Returns:
            Indices into `centres`, (n,).
        """

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the positions of points on a space that is a circle, in turns.

        Args:
            x: points, (n, d).

        Returns:
            The positions, (n,).

        Raises:
            ValueError: when the space is no circle.
        """
        raise ValueError(f"space is {self}; allowed: Torus(1), Sphere(2)")

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """Returns `count` equally spaced points of a space that is a circle. The first one is at 0 turns.

        Args:
            count: the number of points.

        Returns:
            The points as a NumPy float64 array, (count, d).

        Raises:
            ValueError: when the space is no circle.
        """
        raise ValueError(f"space is {self}; allowed: Torus(1), Sphere(2)")

    # -- Checks of data --------------------------------------------------------------------------------

    @abc.abstractmethod
    def distance_from(self, x: Points) -> Scalars:
        """Returns how far points lie outside the space. It is 0 on the space.

        Args:
            x: points, (..., d).

        Returns:
            The distances, (...).
        """

    def misplaced(self, row: int, point: np.ndarray) -> str:
        """Says how a row of data lies outside the space, and what to do about it.

        Args:
            row: the number of the row.
            point: the row, (d,).

        Returns:
            The text of an error.
        """
        return f"rows outside {self} (row {row} is {point}); wrap them into it"

    def normalise(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Divides rows by their norms, on a sphere.

        Args:
            x: the rows, (n, d).
            name: the name of x in an error.

        Returns:
            Rows of norm 1 in the dtype of x. Rows that are not finite stay as they are.

        Raises:
            ValueError: when a row is zero, or when the space is not a sphere.
        """
        del x, name
        raise ValueError(f"normalise is True and space is {self}; allowed: a Sphere")

    # -- The base measure ------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def base(self) -> BaseMeasure:
        """Returns the base measure tau, a field of each space."""

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws independent points of the base measure.

        Args:
            key: a key of `jax.random`.
            count: the number of points.
            dtype: the dtype of the points.

        Returns:
            Points, (count, d).

        Raises:
            ValueError: when the base measure is not proper.
        """
        check_key(key)
        return self.base.sample(self, key, count, dtype)

    def from_normal(self, z: Points, axis: int = -1) -> Points:
        """Maps standard normal vectors to independent draws of the base measure.

        Args:
            z: standard normal vectors.
            axis: the axis of the components.

        Returns:
            Points of the space, of the same shape.

        Raises:
            ValueError: when the base measure is not proper.
        """
        return self.base.from_normal(self, z, axis)

    def log_base(self, x: Points, axis: int = -1) -> Scalars:
        """Returns the log density of the base measure at points.

        Args:
            x: points, (..., d) or with the components along another axis.
            axis: the axis of the components.

        Returns:
            The log densities, of the shape of x without this axis, in nats.
        """
        return self.base.log_density(self, x, axis)

    def grad_log_base(self, x: Points, axis: int = -1) -> Points:
        """Returns the gradient of `log_base` along the space.

        Args:
            x: points of the space.
            axis: the axis of the components.

        Returns:
            Tangent vectors, of the same shape.
        """
        return self.base.score(self, x, axis)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Draws points uniformly from a compact space.

        Args:
            key: a key of `jax.random`.
            count: the number of points.
            dtype: the dtype of the points.

        Returns:
            Independent points, (count, d).

        Raises:
            ValueError: when the space is not compact.
        """
        del key, count, dtype
        raise ValueError(f"space is {self}, which is not compact and has no uniform measure")

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Maps standard normal vectors to uniform points of a compact space.

        Args:
            z: standard normal vectors.
            axis: the axis of the components.

        Returns:
            Points of the space, of the same shape.

        Raises:
            ValueError: when the space is not compact.
        """
        del z, axis
        raise ValueError(f"space is {self}, which is not compact and has no uniform measure")
