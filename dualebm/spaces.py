"""The spaces that particles and atoms live in.

A space is a frozen dataclass of static settings; its methods are pure functions of points, which lie along the last
axis, `(..., dimension)`, or along `axis`: 0 for points that are the columns of an array. `dimension` is the AMBIENT
dimension everywhere: the sphere S^14 is `Sphere(15)`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dualebm._internal.columns import once

Points = Float[Array, "*points"]
"""Points along the last axis, (..., dimension), or along `axis`."""
Scalars = Float[Array, "*batch"]


def _dot(x, y, axis=-1):
    return jnp.sum(x * y, axis=axis, keepdims=True)


def _norm(x, axis=-1):
    """Euclidean norm whose derivative at the origin is zero instead of NaN."""
    square = _dot(x, x, axis)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _check_dimension(dimension: int, smallest: int) -> None:
    if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < smallest:
        raise ValueError(f"dimension is {dimension!r}; it must be an integer of at least {smallest}")


@dataclasses.dataclass(frozen=True)
class Sphere:
    """The unit sphere S^{d-1} in R^d with the uniform probability measure as its base measure tau.

    `dimension` is d, the ambient dimension (at least 2). Densities are with respect to tau, so `log_base` is 0.

    >>> import jax.numpy as jnp
    >>> sphere = Sphere(3)
    >>> pole, east = jnp.array([0.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
    >>> bool(jnp.allclose(sphere.exp(pole, sphere.log(pole, east)), east, atol=1e-6))
    True
    """

    dimension: int

    def __post_init__(self):
        _check_dimension(self.dimension, 2)

    @property
    def longest_move(self) -> float:
        """Moves of this length or longer are not undone by `log`: the injectivity radius, pi."""
        return math.pi

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Orthogonal projection (I - x x^T) v of an ambient vector onto the tangent space at x."""
        return v - _dot(x, v, axis) * x

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """Exponential map x cos|v| + v sin|v|/|v| of a tangent vector, normalised against rounding."""
        return self.exp_and_back(x, v, axis)[0]

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """y = exp(x, v) and the velocity at y that leads back, |v| sin|v| x - cos|v| v; `log(y, x)` for |v| < pi."""
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

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`count` independent points, uniform on the sphere."""
        x = jax.random.normal(key, (self.dimension, count), dtype).T
        return x / _norm(x)

    def from_normal(self, z: Points, axis: int = -1) -> Points:
        """Points of the base measure from standard normal vectors: z / |z|."""
        return z / _norm(z, axis)

    def log_base(self, x: Points, axis: int = -1) -> Scalars:
        """Log density of the base measure in the measure that log Z and `log_density` refer to: 0."""
        return jnp.zeros_like(jnp.take(x, 0, axis))

    def grad_log_base(self, x: Points) -> Points:
        """Gradient of the log base density: 0."""
        return jnp.zeros_like(x)

    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in the space: | |x| - 1 |."""
        return jnp.abs(_norm(x)[..., 0] - 1)


@dataclasses.dataclass(frozen=True)
class Euclidean:
    """R^d with the base measure N(0, scale^2 I), or flat (Lebesgue) where `scale` is None.

    The flat measure is not a probability measure: sampling it raises.

    >>> import jax.numpy as jnp
    >>> Euclidean(2, scale=2.0).grad_log_base(jnp.array([4.0, -4.0])).tolist()
    [-1.0, 1.0]
    """

    dimension: int
    scale: float | None = 1.0

    def __post_init__(self):
        _check_dimension(self.dimension, 1)
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is {self.scale!r}; it must be a positive number, or None for the flat measure")

    @property
    def longest_move(self) -> float:
        """Every move is undone by `log`."""
        return math.inf

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """The identity."""
        del x, axis
        return v

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v."""
        del axis
        return x + v

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """x + v and the velocity that leads back, -v."""
        return self.exp(x, v, axis), -v

    def log(self, x: Points, y: Points) -> Points:
        """y - x."""
        return y - x

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v."""
        return self.exp(x, v, axis)

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`count` independent draws of N(0, scale^2 I); raises ValueError for the flat measure."""
        if self.scale is None:
            raise ValueError("scale is None: the flat measure on R^d cannot be sampled; give a positive scale")
        return self.scale * jax.random.normal(key, (self.dimension, count), dtype).T

    def from_normal(self, z: Points, axis: int = -1) -> Points:
        """Points of the base measure from standard normal vectors: scale z; raises ValueError for the flat measure."""
        del axis
        if self.scale is None:
            raise ValueError("scale is None: the flat measure on R^d cannot be sampled; give a positive scale")
        return self.scale * z

    def log_base(self, x: Points, axis: int = -1) -> Scalars:
        """Log density of N(0, scale^2 I) with respect to Lebesgue measure; 0 where flat."""
        if self.scale is None:
            return jnp.zeros_like(jnp.take(x, 0, axis))
        normaliser = self.dimension * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * jnp.sum(x * x, axis=axis) / self.scale**2 - normaliser

    def grad_log_base(self, x: Points) -> Points:
        """-x / scale^2; 0 where flat."""
        return jnp.zeros_like(x) if self.scale is None else -x / self.scale**2

    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in the space: 0."""
        return jnp.zeros(x.shape[:-1], x.dtype)


@dataclasses.dataclass(frozen=True)
class Torus:
    """The flat torus (R / period Z)^d with the uniform probability measure; coordinates in [0, period).

    >>> import jax.numpy as jnp
    >>> Torus(1).exp(jnp.array([0.875]), jnp.array([0.25])).tolist()
    [0.125]
    """

    dimension: int
    period: float = 1.0

    def __post_init__(self):
        _check_dimension(self.dimension, 1)
        if not (math.isfinite(self.period) and self.period > 0):
            raise ValueError(f"period is {self.period!r}; it must be a positive number")

    @property
    def longest_move(self) -> float:
        """Moves of half a period or longer are not undone by `log`."""
        return self.period / 2

    def tangent(self, x: Points, v: Points, axis: int = -1) -> Points:
        """The identity."""
        del x, axis
        return v

    def exp(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v modulo the period."""
        del axis
        y = jnp.mod(x + v, self.period)
        return jnp.where(y < self.period, y, 0)  # rounding: mod of a tiny negative number is the period itself

    def exp_and_back(self, x: Points, v: Points, axis: int = -1) -> tuple[Points, Points]:
        """exp(x, v) and the velocity that leads back, -v; `log(y, x)` where v is shorter than half a period."""
        return self.exp(x, v, axis), -v

    def log(self, x: Points, y: Points) -> Points:
        """The shortest displacement from x to y, each coordinate in [-period/2, period/2)."""
        half = self.period / 2
        return jnp.mod(y - x + half, self.period) - half

    def retract(self, x: Points, v: Points, axis: int = -1) -> Points:
        """x + v modulo the period."""
        return self.exp(x, v, axis)

    def sample_base(self, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """`count` independent points, uniform on the torus."""
        return self.period * jax.random.uniform(key, (self.dimension, count), dtype).T

    def from_normal(self, z: Points, axis: int = -1) -> Points:
        """Points of the base measure from standard normal vectors: period times the normal distribution function."""
        del axis
        y = self.period * jax.scipy.special.ndtr(z)
        return jnp.where(y < self.period, y, 0)

    def log_base(self, x: Points, axis: int = -1) -> Scalars:
        """Log density of the base measure in the measure that log Z and `log_density` refer to: 0."""
        return jnp.zeros_like(jnp.take(x, 0, axis))

    def grad_log_base(self, x: Points) -> Points:
        """Gradient of the log base density: 0."""
        return jnp.zeros_like(x)

    def distance_from(self, x: Points) -> Scalars:
        """How far points are from lying in [0, period)^d."""
        return jnp.max(jnp.maximum(jnp.maximum(-x, x - self.period), 0), axis=-1)


Space = Sphere | Euclidean | Torus


def too_long(space: Space, v: Points, axis: int = -1) -> Bool[Array, "*batch"]:
    """Where a tangent vector reaches so far that `space.log` would return another one (a proposal to reject).

    >>> too_long(Sphere(2), jnp.array([[0.0, 3.0], [0.0, 4.0]])).tolist()
    [False, True]
    """
    length = jnp.max(jnp.abs(v), axis=axis) if isinstance(space, Torus) else jnp.squeeze(_norm(v, axis), axis)
    return length >= space.longest_move
