"""Reproducing kernels and the sums over their N x n matrices, streamed by blocks of both kinds of points.

A kernel is a frozen dataclass, called as `kernel(x, y)` with x `(N, d)` and y `(n, d)`. It returns the matrix `(N, n)`. All but
`RBF` and `Distance` are kernels of features: k(x, y) = E phi(x, theta) phi(y, theta) with theta uniform, whose ball of functions is
F2 (arXiv 2107.05134, Section 2).
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import i0e
from jaxtyping import Array, Float

from dualebm import settings
from dualebm._internal.blocks import block_columns, map_blocks, once, sum_blocks, total
from dualebm.base_measures import Uniform
from dualebm.energies.base import Energy, Located
from dualebm.features import Bump, Feature, ReLU
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import Positive, checked
from dualebm.spaces import UNROLLED, Sphere, Torus

SOURCES = 4096
"""The number of points y in a block of k(x, y)."""

Matrix = Float[Array, "N n"]


def _inner(x, y):
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


@jax.custom_jvp
def arc_cosine(c: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return sin w + (pi - w) cos w with cos w = c. Its derivative in c is pi - w, also at c = 1.

    Args:
        c: cosines, an array of any shape.

    Returns:
        The values, of the same shape.

    >>> [round(float(value), 4) for value in arc_cosine(jnp.array([-1.0, 1.0]))]
    [0.0, 3.1416]
    """
    c = jnp.clip(c, -1, 1)
    return jnp.sqrt((1 - c) * (1 + c)) + (math.pi - jnp.arccos(c)) * c


@arc_cosine.defjvp
def _arc_cosine_jvp(primals, tangents):
    (c,), (direction,) = primals, tangents
    return arc_cosine(c), (math.pi - jnp.arccos(jnp.clip(c, -1, 1))) * direction


class Derivatives(NamedTuple):
    """A kernel k(x_i, y_j) and its derivatives along a space, each (N, n). On the sphere the gradients are tangential.

    Args:
        value: k.
        cross: the factor of y in grad_x k = cross y + first x, and of x in grad_y k = cross x + second y.
        first: the factor of x in grad_x k.
        second: the factor of y in grad_y k.
        trace: the trace of grad_x grad_y k, sum_a d/dx_a d/dy_a k.
    """

    value: Matrix
    cross: Matrix
    first: Matrix
    second: Matrix
    trace: Matrix


@dataclasses.dataclass(frozen=True)
class ArcCosine:
    """k(x, y) = |x| |y| (sin w + (pi - w) cos w) / (2 pi d), with w the angle between x and y.

    It is the kernel of ReLU features with theta uniform on the sphere in R^d.

    >>> ArcCosine()(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [-2.0, 0.0]])).round(4).tolist()
    [[0.25, 0.0]]
    """

    def __call__(self, x: Float[Array, "N d"], y: Float[Array, "n d"]) -> Matrix:
        """Return the matrix k(x_i, y_j).

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).

        Returns:
            The matrix, (N, n).
        """
        lengths = [jnp.linalg.norm(z, axis=1) for z in (x, y)]
        outer = lengths[0][:, None] * lengths[1][None]
        return outer * arc_cosine(_inner(x, y) / outer) / (2 * math.pi * x.shape[1])

    def derivatives(self, x: Float[Array, "N d"], y: Float[Array, "n d"], space: Space) -> Derivatives:
        """Return the kernel and its derivatives along a space.

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).
            space: a sphere, whose points have length 1, or R^d, where the kernel is not smooth at 0.

        Returns:
            The `Derivatives` at all pairs of points, each (N, n).
        """
        d = x.shape[1]
        if isinstance(space, Sphere):
            t = jnp.clip(_inner(x, y), -1, 1)
            sine, angle = jnp.sqrt((1 - t) * (1 + t)), math.pi - jnp.arccos(t)
            parts = (sine + angle * t, angle, -angle * t, -angle * t, angle * (d - 2 + t**2) - t * sine)
        else:
            a, b = (jnp.linalg.norm(z, axis=1) for z in (x, y))
            t = jnp.clip(_inner(x, y) / (a[:, None] * b[None]), -1, 1)
            sine, angle = jnp.sqrt((1 - t) * (1 + t)), math.pi - jnp.arccos(t)
            ratio = b[None] / a[:, None]
            parts = (a[:, None] * b[None] * (sine + angle * t), angle, ratio * sine, sine / ratio, d * angle)
        return Derivatives(*(part / (2 * math.pi * d) for part in parts))


@dataclasses.dataclass(frozen=True)
class RBF:
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)), the Gaussian kernel.

    On the unit sphere with bandwidth 1 the kernel is exp(-(1 - <x, y>)).

    Args:
        bandwidth: the length over which the kernel falls.

    Raises:
        ValueError: the bandwidth is not positive.

    >>> round(float(RBF()(jnp.zeros((1, 2)), jnp.eye(2))[0, 1]), 4)
    0.6065
    """

    bandwidth: Positive = 1.0

    def __post_init__(self):
        settings.check(self)

    def __call__(self, x: Float[Array, "N d"], y: Float[Array, "n d"]) -> Matrix:
        """Return the matrix k(x_i, y_j).

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).

        Returns:
            The matrix, (N, n).
        """
        squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None] - 2 * _inner(x, y)
        return jnp.exp(-0.5 * squares / self.bandwidth**2)

    def derivatives(self, x: Float[Array, "N d"], y: Float[Array, "n d"], space: Space) -> Derivatives:
        """Return the kernel and its derivatives along a space.

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).
            space: a sphere or R^d.

        Returns:
            The `Derivatives` at all pairs of points, each (N, n).
        """
        d, scale = x.shape[1], 1 / self.bandwidth**2
        if isinstance(space, Sphere):
            t = _inner(x, y)
            k = jnp.exp(scale * (t - 1))
            cross = scale * k
            return Derivatives(k, cross, -cross * t, -cross * t, cross * (d - 2 + t**2 - scale * t * (1 - t) * (1 + t)))
        squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None] - 2 * _inner(x, y)
        k = jnp.exp(-0.5 * scale * squares)
        cross = scale * k
        return Derivatives(k, cross, -cross, -cross, cross * (d - scale * squares))


@dataclasses.dataclass(frozen=True)
class BumpKernel:
    """The kernel of the bumps exp(a (cos - 1)) with centres uniform on a torus or a circle.

    On a torus it is prod_k exp(-2a) I_0(2a cos(pi (x_k - y_k) / period)). On the unit circle of R^2 it is exp(-2a) I_0(a |x + y|).

    Args:
        space: the torus or the circle `Sphere(2)`.
        concentration: the concentration a of the bumps.

    Raises:
        ValueError: the space is another, or the concentration is not positive.

    >>> round(float(BumpKernel(Torus(1), 10.0)(jnp.zeros((1, 1)), jnp.zeros((1, 1)))[0, 0]), 4)
    0.0898
    """

    space: Space
    concentration: Positive = 10.0

    def __post_init__(self):
        settings.check(self)
        if not self.space.periodic and self.space.circumference is None:
            raise ValueError(f"space is {self.space}; allowed: a Torus, Sphere(2)")

    def __call__(self, x: Float[Array, "N d"], y: Float[Array, "n d"]) -> Matrix:
        """Return the matrix k(x_i, y_j).

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).

        Returns:
            The matrix, (N, n).
        """
        a = self.concentration
        if not isinstance(self.space, Torus):
            argument = a * jnp.sqrt(jnp.maximum(2 + 2 * _inner(x, y), jnp.finfo(x.dtype).tiny))
            return i0e(argument) * jnp.exp(argument - 2 * a)
        argument = 2 * a * jnp.abs(jnp.cos(math.pi / self.space.period * (x[:, None] - y[None])))
        return jnp.prod(i0e(argument) * jnp.exp(argument - 2 * a), axis=2)


@jax.custom_jvp
def squared_distances(x: Float[Array, "N d"], y: Float[Array, "n d"]) -> Matrix:
    """Return |x_i - y_j|^2 in ambient space.

    With up to 16 components the relative error is a few eps, however near the points are. With more, and in the derivative, it goes by
    inner products about the mean c of y. The error is then a few eps |x - c|^2, so that equal points may come out at a distance of
    sqrt(eps) |x - c|. The error of the derivative is eps |x - c| |dx|.

    Args:
        x: points as rows, (N, d).
        y: points as rows, (n, d).

    Returns:
        The squared distances, (N, n).

    >>> squared_distances(jnp.array([[1000.0, 0.0]]), jnp.array([[1000.0, 0.0], [1003.0, 4.0]])).tolist()
    [[0.0, 25.0]]
    """
    if x.shape[1] <= UNROLLED:
        return total([(a[:, None] - b[None]) ** 2 for a, b in zip(x.T, y.T, strict=True)])
    x, y = _centred(x, y)
    squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None] - 2 * _inner(x, y)
    return jnp.maximum(squares, 0)


@squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
    """Use products, so that no reverse pass holds an (N, n, d) array."""
    (x, y), (dx, dy) = _centred(*primals), tangents
    one, other = (jnp.sum(z * dz, axis=1) for z, dz in ((x, dx), (y, dy)))
    return squared_distances(*primals), 2 * (one[:, None] + other[None] - _inner(dx, y) - _inner(x, dy))


def _centred(x, y):
    centre = jnp.mean(y, axis=0, keepdims=True)
    return x - centre, y - centre


@dataclasses.dataclass(frozen=True)
class Distance:
    """k(x, y) = -|x - y| in ambient space, whose `squared_mmd` is the energy distance.

    The kernel is conditionally positive definite. The energy distance is 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely, Rizzo 2013). The
    gradient at x = y is 0. See `squared_distances` for rounding.

    >>> Distance()(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[-5.0, 0.0]]
    """

    def __call__(self, x: Float[Array, "N d"], y: Float[Array, "n d"]) -> Matrix:
        """Return the matrix k(x_i, y_j).

        Args:
            x: points as rows, (N, d).
            y: points as rows, (n, d).

        Returns:
            The matrix, (N, n).
        """
        squares = squared_distances(x, y)
        apart = squares > 0
        return jnp.where(apart, -jnp.sqrt(jnp.where(apart, squares, 1)), 0)


Kernel = ArcCosine | RBF | BumpKernel | Distance


@checked
def kernel_of(feature: Feature, space: Space) -> Kernel:
    """Return the kernel of a feature whose parameters are uniform on the feature's parameter space.

    That is `ArcCosine` for `ReLU()`, and `BumpKernel` for `Bump` on a torus or a circle with the base `Uniform()`, from which its
    parameters are drawn.

    Args:
        feature: the feature.
        space: the space of the points.

    Returns:
        The kernel.

    Raises:
        ValueError: the kernel of the feature or the base is not known in closed form, or the feature does not go with the space.

    >>> kernel_of(ReLU(), Sphere(3))
    ArcCosine()
    """
    feature.parameter_space(space)  # raises where they do not go together
    if feature == ReLU():
        return ArcCosine()
    if isinstance(feature, Bump) and space.compact and space.base == Uniform():
        return BumpKernel(space, feature.concentration)
    raise ValueError(f"feature is {feature}; allowed: ReLU(), and Bump on a torus or a circle with the base Uniform(); or give a kernel")


# -- Products --------------------------------------------------------------------------------------------


class Embedding(Energy):
    """U(x) = sum_i c_i k(x, y_i), the energy of a kernel and of points with coefficients of both signs.

    Args:
        kernel: the kernel k.
        points: the points y_i as rows, (n, d).
        coefficients: the coefficients c_i, (n,).

    >>> Embedding(RBF(), jnp.zeros((1, 2)), jnp.array([-2.0]))(jnp.zeros((3, 2))).tolist()
    [-2.0, -2.0, -2.0]
    """

    kernel: Any = eqx.field(static=True)
    points: Float[Array, "n d"]
    coefficients: Float[Array, " n"]

    @property
    def width(self) -> int:
        """Return the number of points x that are evaluated at a time."""
        return block_columns(min(self.points.shape[0], SOURCES))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Return U(x), in units of temperature."""
        sources = once(self.points.T)

        def block(x):
            return sum_blocks(lambda y, c: jnp.matmul(self.kernel(x.T, y.T), c, precision="highest"), (sources, self.coefficients), SOURCES)

        return map_blocks(block, x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Return U and its gradient at points that are columns."""
        x = once(x)

        def block(y, c):
            value, pull_back = jax.vjp(lambda x: jnp.matmul(self.kernel(x.T, y.T), c, precision="highest"), x)
            return value, pull_back(jnp.ones_like(value))[0]

        value, gradient = sum_blocks(block, (once(self.points.T), self.coefficients), SOURCES)
        return Located(x, value, gradient, None)


@checked
def embedding(kernel: Kernel, samples: Samples) -> Embedding:
    """Return the mean embedding of a sample, x -> E_samples k(x, .), as an energy.

    Args:
        kernel: the kernel k.
        samples: the sample, points (n, d).

    Returns:
        The energy x -> sum_i p_i k(x_i, x), with p_i the weights of the sample.

    >>> embedding(RBF(), Samples(jnp.zeros((4, 2))))(jnp.zeros((1, 2))).tolist()
    [1.0]
    """
    return Embedding(kernel, samples.points, samples.weights)


@checked
def mean_kernel(kernel: Kernel, first: Samples, second: Samples) -> Float[Array, ""]:
    """Return E k(x, y) with x and y independent, x from one sample and y from the other.

    Args:
        kernel: the kernel k.
        first: the sample of x.
        second: the sample of y.

    Returns:
        The mean, a scalar.

    >>> float(mean_kernel(RBF(), Samples(jnp.zeros((3, 2))), Samples(jnp.zeros((4, 2)))))
    1.0
    """
    one = embedding(kernel, first)
    return jnp.sum(one.coefficients * embedding(kernel, second)(first.points))


@checked
def squared_mmd(kernel: Kernel, first: Samples, second: Samples) -> Float[Array, ""]:
    """Return MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) of two samples.

    It is the V-statistic, which is never below 0 but for rounding.

    Args:
        kernel: the kernel k.
        first: the sample of x.
        second: the sample of y.

    Returns:
        MMD^2, a scalar.

    >>> cloud = Samples(jnp.eye(2))
    >>> float(squared_mmd(RBF(), cloud, cloud))
    0.0
    """
    return mean_kernel(kernel, first, first) + mean_kernel(kernel, second, second) - 2 * mean_kernel(kernel, first, second)
