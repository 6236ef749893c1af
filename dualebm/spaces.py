"""The spaces that particles and atoms live in: the sphere, Euclidean space and the flat torus.

`dimension` is the ambient dimension everywhere: the sphere S^14 is `Sphere(15)`.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm._internal.blocks import once, product, total
from dualebm._internal.keys import check_key
from dualebm.base_measures import BaseMeasure, Gaussian, Points, Scalars, Uniform, check_positive
from dualebm.geometry import Space, dot, norm

UNROLLED = 16
"""The largest number of components for which squared distances are sums of squared differences. Those are as fast as inner products
up to this number, and exact for near points."""


@dataclasses.dataclass(frozen=True)
class Sphere(Space):
    """The unit sphere S^{d-1} in R^d. Its base measure tau is by default the uniform probability measure.

    Args:
        dimension: d, the ambient dimension, at least 2.
        base: the base measure: `Uniform()`, `VonMisesFisher`, `KernelBase`, `MixtureBase` or `CustomBase`.

    Raises:
        ValueError: when the dimension is less than 2, or when the base measure is no measure on this space.

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
        """Returns d - 1, for the outer normal x. The mean curvature vector is -(d - 1) x."""
        return self.dimension - 1

    @property
    def circumference(self) -> float | None:
        """Returns 2 pi for the circle S^1 and None for other spheres."""
        return 2 * math.pi if self.dimension == 2 else None

    @property
    def longest_move(self) -> float:
        """Returns pi."""
        return math.pi

    @property
    def largest_particle_step(self) -> float:
        """Returns pi^2 / 2d."""
        return math.pi**2 / (2 * self.dimension)

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Projects ambient vectors v onto the tangent space at x: (I - x x^T) v."""
        return v - dot(x, v, axis) * x

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """Returns y = x cos|v| + v sin|v|/|v| and the velocity that leads back, |v| sin|v| x - cos|v| v.

        The point y is normalised against rounding.
        """
        angle = norm(v, axis)
        small = angle < 1e-4
        cosine = once(jnp.cos(angle))
        sinc = once(jnp.where(small, 1 - angle**2 / 6, jnp.sin(angle) / jnp.where(small, 1, angle)))
        y = x * cosine + v * sinc
        return y * (1 / norm(y, axis)), angle**2 * sinc * x - cosine * v

    def log(self, x: Points, y: Points) -> Points:
        """Returns the initial velocity of the shortest geodesic from x to y. It inverts `exp` for |v| < pi."""
        tangent = self.tangent(x, y)
        sine, cosine = norm(tangent), dot(x, y)
        angle = jnp.arctan2(sine, cosine)
        return tangent * jnp.where(sine > 0, angle / jnp.where(sine > 0, sine, 1), 1)

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Moves points along any ambient vectors to first order: (x + v) / |x + v|."""
        y = x + v
        return y * (1 / norm(y, axis))

    def normal(self, x: Points) -> Points:
        """Returns x, the outer normal."""
        return x

    @property
    def log_volume(self) -> float:
        """Returns the logarithm of the area of S^{d-1}, 2 pi^{d/2} / Gamma(d/2)."""
        return math.log(2) + 0.5 * self.dimension * math.log(math.pi) - math.lgamma(0.5 * self.dimension)

    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """Returns |a|^2 - <a, x>^2."""
        return square - inner**2

    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """Returns |P a|^2 g'' - (d - 1) <a, x> g'."""
        return square * curvature - self.mean_curvature * inner * slope

    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns Tr hessian - <x, hessian x> - (d - 1) <x, gradient>."""
        return jnp.trace(hessian) - product(x, product(hessian, x)) - self.mean_curvature * product(x, gradient)

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """Returns <x, y> - 1 for all pairs."""
        return product(x, y.T) - 1

    def proximity_of_columns(self, x: Float[Array, "d N"], y: Float[Array, "d m"]) -> Float[Array, "m N"]:
        """Returns <x, y> - 1 for all pairs of columns."""
        return product(y.T, x) - 1

    def lift(self, y: Float[Array, "d m"]) -> Float[Array, "r m"]:
        """Returns y."""
        return y

    def proximity_slope(self, x: Float[Array, "d N"], total: Float[Array, " N"], lifted: Float[Array, "r N"]) -> Float[Array, "d N"]:
        """Returns sum_j w_ij y_j."""
        del x, total
        return lifted

    def proximity_derivatives(
        self, x: Float[Array, "d N"], y: Float[Array, "d m"], v: Float[Array, "d N"]
    ) -> tuple[Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"]]:
        """Returns g, <y, v>, 1 - <x, y>^2 and -(d - 1) <x, y>."""
        g = self.proximity_of_columns(x, y)
        return g, product(y.T, v), -g * (2 + g), -self.mean_curvature * (g + 1)

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """Returns the index of the centre with the largest inner product."""
        return jnp.argmax(product(x, centres.T), axis=1)

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the angle divided by 2 pi, on the circle S^1."""
        return super().turns(x) if self.dimension != 2 else jnp.arctan2(x[:, 1], x[:, 0]) / (2 * math.pi)

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """Returns points at equally spaced angles, on the circle S^1."""
        if self.dimension != 2:
            return super().equispaced(count)
        angle = 2 * math.pi * np.arange(count) / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def distance_from(self, x: Points) -> Scalars:
        """Returns | |x| - 1 |."""
        return jnp.abs(norm(x)[..., 0] - 1)

    def misplaced(self, row: int, point: np.ndarray) -> str:
        """Says the norm of a row, and how rows are normalised."""
        length = np.linalg.norm(point)
        return f"rows off the unit sphere (row {row} has norm {length:.6g}); normalise them: x / np.linalg.norm(x, axis=1, keepdims=True)"

    def normalise(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Divides rows by their norms, which are taken in float64."""
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            row = int(np.argmin(norms))
            raise ValueError(f"{name} has zeros in row {row}; rows must have a direction to be normalised")
        return np.where(np.isfinite(norms), x / np.where(np.isfinite(norms), norms, 1), x).astype(x.dtype)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Draws `count` independent points, uniform on the sphere."""
        check_key(key)
        x = jax.random.normal(key, (self.dimension, count), dtype).T
        return x / norm(x)

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Returns z / |z|."""
        return z / norm(z, axis)


class FlatSpace(Space):
    """A space whose tangent space is R^d itself. A subclass defines `exp` and `log`."""

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns v: every vector is tangent."""
        del x, axis
        return v

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """Returns exp(x, v) and -v."""
        return self.exp(x, v, axis), -v

    @abc.abstractmethod
    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns x + v, as a point of the space."""

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns exp(x, v)."""
        return self.exp(x, v, axis)

    def normal(self, x: Points) -> Points:
        """Returns 0, because a flat space has no normal."""
        return jnp.zeros_like(x)

    def tangential_square(self, inner: Scalars, square: Float[Array, "*#batch"]) -> Float[Array, "*#batch"]:
        """Returns |a|^2."""
        del inner
        return square

    def ridge_laplacian(self, inner: Scalars, square: Float[Array, "*#batch"], slope: Scalars, curvature: Scalars) -> Scalars:
        """Returns |a|^2 g''."""
        del inner, slope
        return square * curvature

    def laplacian(self, x: Float[Array, " d"], gradient: Float[Array, " d"], hessian: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns the trace of the second derivatives."""
        del x, gradient
        return jnp.trace(hessian)


@dataclasses.dataclass(frozen=True)
class Euclidean(FlatSpace):
    """Euclidean space R^d. Its base measure is by default N(0, I).

    Args:
        dimension: d, at least 1.
        base: the base measure: `Gaussian(scale)`, `Normal`, `Flat()`, `KernelBase`, `MixtureBase` or `CustomBase`.

    Raises:
        ValueError: when the dimension is less than 1, or when the base measure is no measure on this space.

    >>> import jax.numpy as jnp
    >>> Euclidean(2, Gaussian(2.0)).grad_log_base(jnp.array([4.0, -4.0])).tolist()
    [-1.0, 1.0]
    """

    base: BaseMeasure = Gaussian()

    compact: ClassVar[bool] = False

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns x + v."""
        del axis
        return x + v

    def log(self, x: Points, y: Points) -> Points:
        """Returns y - x."""
        return y - x

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """Returns -|x - y|^2 / 2 for all pairs."""
        return -0.5 * jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)

    def proximity_of_columns(self, x: Float[Array, "d N"], y: Float[Array, "d m"]) -> Float[Array, "m N"]:
        """Returns -|x - y|^2 / 2 for all pairs of columns.

        With up to 16 components it sums squared differences, which are exact for near points and as fast as inner products. With
        more it takes inner products about the mean c of y, with an error of a few eps |x - c|^2.
        """
        if self.dimension <= UNROLLED:
            squares = [(y[k][:, None] - x[k][None]) ** 2 for k in range(self.dimension)]
            return -0.5 * total(squares)
        centre = jnp.mean(y, axis=1, keepdims=True)
        x, y = x - centre, y - centre
        squares = jnp.sum(y**2, axis=0)[:, None] + jnp.sum(x**2, axis=0)[None] - 2 * product(y.T, x)
        return -0.5 * jnp.maximum(squares, 0)

    def lift(self, y: Float[Array, "d m"]) -> Float[Array, "r m"]:
        """Returns y."""
        return y

    def proximity_slope(self, x: Float[Array, "d N"], total: Float[Array, " N"], lifted: Float[Array, "r N"]) -> Float[Array, "d N"]:
        """Returns sum_j w_ij (y_j - x_i)."""
        return lifted - total[None] * x

    def proximity_derivatives(
        self, x: Float[Array, "d N"], y: Float[Array, "d m"], v: Float[Array, "d N"]
    ) -> tuple[Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"]]:
        """Returns g, <y - x, v>, |y - x|^2 and -d."""
        g = self.proximity_of_columns(x, y)
        return g, product(y.T, v) - jnp.sum(x * v, axis=0)[None], -2 * g, jnp.full_like(g, -self.dimension)

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """Returns the index of the centre at the smallest distance."""
        return jnp.argmax(self.proximity(x, centres), axis=1)

    def distance_from(self, x: Points) -> Scalars:
        """Returns 0: all points of R^d lie in the space."""
        return jnp.zeros(x.shape[:-1], x.dtype)


@dataclasses.dataclass(frozen=True)
class Torus(FlatSpace):
    """The flat torus (R / period Z)^d. Its base measure is by default the uniform probability measure. Coordinates lie in [0, period).

    Args:
        dimension: d, at least 1.
        period: the length of each coordinate's circle.
        base: the base measure: `Uniform()`, `KernelBase`, `MixtureBase` or `CustomBase`.

    Raises:
        ValueError: when the dimension is less than 1, the period is no positive number, or the base is no measure on it.

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
        check_positive("period", self.period)
        super().__post_init__()

    @property
    def log_volume(self) -> float:
        """Returns d log(period)."""
        return self.dimension * math.log(self.period)

    @property
    def unit(self) -> float:
        """Returns period / 2 pi. The torus is the product of circles of this radius."""
        return self.period / (2 * math.pi)

    @property
    def circumference(self) -> float | None:
        """Returns the period in one dimension, else None."""
        return self.period if self.dimension == 1 else None

    @property
    def longest_move(self) -> float:
        """Returns half a period, the limit of the largest component of a move."""
        return self.period / 2

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Returns x + v modulo the period."""
        del axis
        y = jnp.mod(x + v, self.period)
        return jnp.where(y < self.period, y, 0)  # mod of a tiny negative number rounds to the period itself

    def log(self, x: Points, y: Points) -> Points:
        """Returns the shortest displacement from x to y, with each coordinate in [-period/2, period/2)."""
        half = self.period / 2
        return jnp.mod(y - x + half, self.period) - half

    def too_long(self, v: Points, axis: int = -1) -> Bool[Array, "*batch"]:
        """Tells for which moves a component reaches half a period."""
        return jnp.max(jnp.abs(v), axis=axis) >= self.longest_move

    def _on_circles(self, x):
        """Returns the (cos, sin) of the angles of points, on circles of radius 1."""
        angle = 2 * math.pi / self.period * x
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)

    def ambient(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Returns the points of the circles on which the coordinates lie, (n, 2d). The length of each circle is the period."""
        return self.unit * self._on_circles(x)

    def proximity(self, x: Float[Array, "N d"], y: Float[Array, "m d"]) -> Float[Array, "N m"]:
        """Returns sum_k (cos(2 pi (x_k - y_k) / period) - 1) for all pairs."""
        return product(self._on_circles(x), self._on_circles(y).T) - self.dimension

    def proximity_of_columns(self, x: Float[Array, "d N"], y: Float[Array, "d m"]) -> Float[Array, "m N"]:
        """Returns sum_k (cos(2 pi (x_k - y_k) / period) - 1) for all pairs of columns."""
        return product(self.lift(y).T, self.lift(x)) - self.dimension

    def lift(self, y: Float[Array, "d m"]) -> Float[Array, "r m"]:
        """Returns the cosines of the d angles 2 pi y_k / period, and then their sines, (2d, m)."""
        angle = 2 * math.pi / self.period * y
        return jnp.concatenate([once(jnp.cos(angle)), once(jnp.sin(angle))])

    def proximity_slope(self, x: Float[Array, "d N"], total: Float[Array, " N"], lifted: Float[Array, "r N"]) -> Float[Array, "d N"]:
        """Returns sum_j w_ij sin(2 pi (y_j - x_i) / period) 2 pi / period, by the sine of a difference."""
        del total
        on_circles, d = self.lift(x), self.dimension
        cosine, sine = on_circles[:d], on_circles[d:]
        return (lifted[d:] * cosine - lifted[:d] * sine) / self.unit

    def proximity_derivatives(
        self, x: Float[Array, "d N"], y: Float[Array, "d m"], v: Float[Array, "d N"]
    ) -> tuple[Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"], Float[Array, "m N"]]:
        """Returns g, and the derivatives of a sum of cosines of angles 2 pi (x_k - y_k) / period."""
        g, d, one, other = self.proximity_of_columns(x, y), self.dimension, self.lift(x), self.lift(y)
        along = product(other.T, jnp.concatenate([-one[d:] * v, one[:d] * v])) / self.unit
        sines = [(other[d + k][:, None] * one[k][None] - other[k][:, None] * one[d + k][None]) / self.unit for k in range(d)]
        return g, along, total([sine**2 for sine in sines]), -(g + d) / self.unit**2

    def nearest(self, x: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Int[Array, " n"]:
        """Returns the index of the centre with the shortest displacement."""
        turns = (x[:, None] - centres[None]) / self.period
        return jnp.argmin(jnp.sum((turns - jnp.round(turns)) ** 2, axis=2), axis=1)

    def turns(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns x / period, in one dimension."""
        return super().turns(x) if self.dimension != 1 else x[:, 0] / self.period

    def equispaced(self, count: int) -> Float[np.ndarray, "count d"]:
        """Returns multiples of period / count, in one dimension."""
        return super().equispaced(count) if self.dimension != 1 else self.period * np.arange(count)[:, None] / count

    def distance_from(self, x: Points) -> Scalars:
        """Returns for each point the largest distance of its coordinates from the interval [0, period]."""
        return jnp.max(jnp.maximum(jnp.maximum(-x, x - self.period), 0), axis=-1)

    def sample_uniform(self, key: Key[Array, ""], count: int, dtype: Any) -> Float[Array, "count dimension"]:
        """Draws `count` independent points, uniform on the torus."""
        check_key(key)
        return self.period * jax.random.uniform(key, (self.dimension, count), dtype).T

    def uniform_from_normal(self, z: Points, axis: int) -> Points:
        """Returns the period times the normal distribution function of z."""
        del axis
        y = self.period * jax.scipy.special.ndtr(z)
        return jnp.where(y < self.period, y, 0)
