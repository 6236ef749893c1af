"""The spaces that particles and atoms live in.

A space is a frozen dataclass of static settings; its methods are pure functions of points, which lie along the last
axis, `(..., dimension)`, or along `axis`: 0 for points that are the columns of an array. `dimension` is the AMBIENT
dimension everywhere: the sphere S^14 is `Sphere(15)`.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm._internal.blocks import once, product
from dualebm.base_measures import BaseMeasure, Gaussian, Uniform

Points = Float[Array, "*points"]
"""Points along the last axis, (..., dimension), or along `axis`."""
Scalars = Float[Array, "*batch"]


def _dot(x, y, axis=-1):
    return jnp.sum(x * y, axis=axis, keepdims=True)


def _norm(x, axis=-1):
    """Euclidean norm whose derivative at the origin is zero instead of NaN."""
    square = _dot(x, x, axis)
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
        return jnp.squeeze(_norm(v, axis), axis) >= self.longest_move

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


@dataclasses.dataclass(frozen=True)
class Sphere(Space):
    """The unit sphere S^{d-1} in R^d with the uniform probability measure as its base measure tau.

    `dimension` is d, the ambient dimension (at least 2). Densities are with respect to tau, so `log_base` is 0.

    >>> import jax.numpy as jnp
    >>> sphere = Sphere(3)
    >>> pole, east = jnp.array([0.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
    >>> bool(jnp.allclose(sphere.exp(pole, sphere.log(pole, east)), east, atol=1e-6))
    True
    """

    base: BaseMeasure = Uniform()

    smallest: ClassVar[int] = 2

    @property
    def mean_curvature(self) -> int:
        """d - 1, with the outer normal x: the mean curvature vector is -(d - 1) x."""
        return self.dimension - 1

    @property
    def circumference(self) -> float | None:
        """2 pi for the circle S^1; None for other spheres."""
        return 2 * math.pi if self.dimension == 2 else None

    @property
    def longest_move(self) -> float:
        """pi."""
        return math.pi

    @property
    def largest_particle_step(self) -> float:
        """pi^2 / 2d."""
        return math.pi**2 / (2 * self.dimension)

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Orthogonal projection (I - x x^T) v of an ambient vector onto the tangent space at x."""
        return v - _dot(x, v, axis) * x

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """y = x cos|v| + v sin|v|/|v|, normalised against rounding, and the velocity that leads back, |v| sin|v| x - cos|v| v."""
        angle = _norm(v, axis)
        small = angle < 1e-4
        cosine = once(jnp.cos(angle))
        sinc = once(jnp.where(small, 1 - angle**2 / 6, jnp.sin(angle) / jnp.where(small, 1, angle)))
        y = x * cosine + v * sinc
        return y * (1 / _norm(y, axis)), angle**2 * sinc * x - cosine * v

    def log(self, x: Points, y: Points) -> Points:
        """Inverse of `exp` for |v| < pi: the initial velocity of the shortest geodesic from x to y."""
        tangent = self.tangent(x, y)
        sine, cosine = _norm(tangent), _dot(x, y)
        angle = jnp.arctan2(sine, cosine)
        return tangent * jnp.where(sine > 0, angle / jnp.where(sine > 0, sine, 1), 1)

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """First-order move (x + v)/|x + v| along any ambient vector v."""
        y = x + v
        return y * (1 / _norm(y, axis))

    def normal(self, x: Points) -> Points:
        """x."""
        return x

    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """|a|^2 - <a, x>^2."""
        return square - inner**2

    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """|P a|^2 g'' - (d - 1) <a, x> g'."""
        return square * curvature - self.mean_curvature * inner * slope

    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """Tr hessian - <x, hessian x> - (d - 1) <x, gradient>."""
        return jnp.trace(hessian) - jnp.dot(x, product(hessian, x)) - self.mean_curvature * jnp.dot(x, gradient)

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """<x, y> - 1."""
        return product(x, y.T) - 1

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """The centre of the largest inner product."""
        return jnp.argmax(product(x, centres.T), axis=1)

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The angle divided by 2 pi, on the circle S^1."""
        return super().turns(x) if self.dimension != 2 else jnp.arctan2(x[:, 1], x[:, 0]) / (2 * math.pi)

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """Points of equally spaced angles, on the circle S^1."""
        if self.dimension != 2:
            return super().equispaced(count)
        angle = 2 * math.pi * np.arange(count) / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in the space: | |x| - 1 |."""
        return jnp.abs(_norm(x)[..., 0] - 1)

    def misplaced(self, row: int, point: np.ndarray) -> str:
        """Says the norm of a row, and how rows are normalised."""
        norm = np.linalg.norm(point)
        return f"rows off the unit sphere (row {row} has norm {norm:.6g}); normalise them: x / np.linalg.norm(x, axis=1, keepdims=True)"

    def normalise(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Rows divided by their norms, which are taken in float64."""
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            row = int(np.argmin(norms))
            raise ValueError(f"{name} has zeros in row {row}; rows must have a direction to be normalised")
        return np.where(np.isfinite(norms), x / np.where(np.isfinite(norms), norms, 1), x).astype(x.dtype)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """`count` independent points, uniform on the sphere."""
        x = jax.random.normal(key, (self.dimension, count), dtype).T
        return x / _norm(x)

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """z / |z|."""
        return z / _norm(z, axis)


class FlatSpace(Space):
    """What spaces have in common whose tangent space is R^d itself; a subclass has `exp` and `log`."""

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """The identity."""
        del x, axis
        return v

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """exp(x, v) and -v."""
        return self.exp(x, v, axis), -v

    @abc.abstractmethod
    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v, in the space."""

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """exp(x, v)."""
        return self.exp(x, v, axis)

    def normal(self, x: Points) -> Points:
        """0: a point has no normal."""
        return jnp.zeros_like(x)

    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """|a|^2."""
        del inner
        return square

    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """|a|^2 g''."""
        del inner, slope
        return square * curvature

    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """The trace of the second derivatives."""
        del x, gradient
        return jnp.trace(hessian)


@dataclasses.dataclass(frozen=True)
class Euclidean(FlatSpace):
    """R^d with the base measure N(0, I), or another `Gaussian`, or the `Flat` measure.

    >>> import jax.numpy as jnp
    >>> Euclidean(2, Gaussian(2.0)).grad_log_base(jnp.array([4.0, -4.0])).tolist()
    [-1.0, 1.0]
    """

    base: BaseMeasure = Gaussian()

    compact: ClassVar[bool] = False

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v."""
        del axis
        return x + v

    def log(self, x: Points, y: Points) -> Points:
        """y - x."""
        return y - x

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """-|x - y|^2 / 2."""
        return -0.5 * jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """The centre of the shortest difference."""
        return jnp.argmax(self.proximity(x, centres), axis=1)

    def distance_from(self, x: Points) -> Scalars:
        """0."""
        return jnp.zeros(x.shape[:-1], x.dtype)


@dataclasses.dataclass(frozen=True)
class Torus(FlatSpace):
    """The flat torus (R / period Z)^d with the uniform probability measure; coordinates in [0, period).

    >>> import jax.numpy as jnp
    >>> Torus(1).exp(jnp.array([0.875]), jnp.array([0.25])).tolist()
    [0.125]
    >>> Torus(1, 2 * math.pi).ambient(jnp.array([[0.0], [math.pi]])).round(3).tolist()
    [[1.0, 0.0], [-1.0, -0.0]]
    """

    period: float = 1.0
    base: BaseMeasure = Uniform()

    periodic: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.period) and self.period > 0):
            raise ValueError(f"period is {self.period!r}; it must be a positive number")

    @property
    def unit(self) -> float:
        """period / 2 pi, the radius of the circles of which the torus is the product."""
        return self.period / (2 * math.pi)

    @property
    def circumference(self) -> float | None:
        """The period, in one dimension."""
        return self.period if self.dimension == 1 else None

    @property
    def longest_move(self) -> float:
        """Half a period, of the largest component."""
        return self.period / 2

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v modulo the period."""
        del axis
        y = jnp.mod(x + v, self.period)
        return jnp.where(y < self.period, y, 0)  # rounding: mod of a tiny negative number is the period itself

    def log(self, x: Points, y: Points) -> Points:
        """The shortest displacement from x to y, each coordinate in [-period/2, period/2)."""
        half = self.period / 2
        return jnp.mod(y - x + half, self.period) - half

    def too_long(self, v: Points, axis: int = -1) -> Bool[Array, "*batch"]:
        """Whether a component reaches half a period."""
        return jnp.max(jnp.abs(v), axis=axis) >= self.longest_move

    def _on_circles(self, x):
        """(cos, sin) of the angles of points, on circles of radius 1."""
        angle = 2 * math.pi / self.period * x
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)

    def ambient(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """(cos, sin) of the angles of each coordinate, on circles whose length is the period, (n, 2d)."""
        return self.unit * self._on_circles(x)

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """sum_k (cos(2 pi (x_k - y_k) / period) - 1)."""
        return product(self._on_circles(x), self._on_circles(y).T) - self.dimension

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """The centre of the shortest displacement."""
        turns = (x[:, None] - centres[None]) / self.period
        return jnp.argmin(jnp.sum((turns - jnp.round(turns)) ** 2, axis=2), axis=1)

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """x / period, in one dimension."""
        return super().turns(x) if self.dimension != 1 else x[:, 0] / self.period

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """Multiples of period / count, in one dimension."""
        return super().equispaced(count) if self.dimension != 1 else self.period * np.arange(count)[:, None] / count

    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in [0, period)^d."""
        return jnp.max(jnp.maximum(jnp.maximum(-x, x - self.period), 0), axis=-1)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """`count` independent points, uniform on the torus."""
        return self.period * jax.random.uniform(key, (self.dimension, count), dtype).T

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """period times the normal distribution function."""
        del axis
        y = self.period * jax.scipy.special.ndtr(z)
        return jnp.where(y < self.period, y, 0)
