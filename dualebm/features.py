"""Feature maps phi(x, theta): frozen dataclasses of static settings, called on batches of points and of parameters.

A feature is called as `feature(x, theta)` with x `(N, d)` and theta `(m, p)` and returns the matrix `(N, m)`. The energies
and the witness differentiate that batched product, so that a new `FeatureMap` needs nothing else but the space of theta.

A `Ridge` feature is a function of one product, phi(x, theta) = profile(<theta, x>), or of <theta, (x, 1)> with a bias. Its
energies and witnesses need no differentiation. They use `profile`, the derivatives `slope` and `curvature`, and the product.
A `ScaledBump` has closed forms of both gradients too.
"""

import abc
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm import settings
from dualebm._internal.blocks import product
from dualebm._internal.keys import check_key
from dualebm.base_measures import FinePlaces
from dualebm.geometry import ParameterSpace, Space
from dualebm.measures import Samples, draw_indices
from dualebm.parameters import ScaledCentres
from dualebm.settings import Count, Positive
from dualebm.spaces import Sphere

Inputs = Float[Array, "N d"]
Parameters = Float[Array, "m p"]
Matrix = Float[Array, "N m"]


def _inner(x, theta, bias):
    """Returns <theta, x>, or <theta, (x, 1)> with a bias, in full float32 precision."""
    if theta.shape[1] != x.shape[1] + bias:
        allowed = x.shape[1] + bias
        raise ValueError(f"theta has {theta.shape[1]} components and x has {x.shape[1]}; allowed: {allowed} for theta")
    product = jnp.matmul(x, theta[:, : x.shape[1]].T, precision=jax.lax.Precision.HIGHEST)
    return product + theta[None, :, -1] if bias else product


def _check_geometry(space, other):
    """Raises ValueError when two spaces differ by more than their base measures."""
    if type(space) is not type(other) or dataclasses.replace(space, base=other.base) != other:
        raise ValueError(f"space is {space}; this feature was built for {other}")


class FeatureMap(abc.ABC):
    """The common part of features. A subclass defines `parameter_space` and the call."""

    @property
    def homogeneity(self) -> int | None:
        """Returns k where phi is homogeneous of degree k in theta, and None for other features."""
        return None

    @abc.abstractmethod
    def parameter_space(self, space: Space) -> ParameterSpace:
        """Returns the space of theta for points x of a space.

        Args:
            space: the space of the points x.

        Returns:
            The space of theta.
        """

    def draw(self, key: Key[Array, ""], space: Space, count: int, data: Samples) -> Parameters:
        """Draws the parameters with which neurons start, from the base measure of their space.

        Args:
            key: a key of `jax.random`.
            space: the space of x.
            count: the number m of parameters.
            data: the data, whose dtype the parameters take.

        Returns:
            The parameters, (m, p).

        Raises:
            ValueError: when the base measure is not proper, or when the feature does not fit the space.
        """
        check_key(key)
        return self.parameter_space(space).sample_base(key, count, data.points.dtype)

    def finest(self, theta: Parameters) -> FinePlaces | None:
        """Returns where phi(., theta_j) changes over the shortest lengths, and these lengths. None where that is not known.

        A quadrature of the space refines its cells around these points.

        Args:
            theta: the parameters, (m, p).

        Returns:
            Points of the space, (K, d), and lengths, (K,), or None.
        """
        del theta
        return None

    def widths(self, space: Space, theta: Parameters) -> Float[Array, "m #p"]:
        """Returns the length over which phi changes with each coordinate of theta: the unit of the space, unless a feature is narrower.

        Args:
            space: the space of x.
            theta: the parameters, (m, p).

        Returns:
            The lengths, (m, p) or (m, 1).
        """
        return jnp.full((len(theta), 1), space.unit, theta.dtype)

    @abc.abstractmethod
    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j).

        Args:
            x: points as rows, (N, d).
            theta: parameters as rows, (m, p).

        Returns:
            The matrix, (N, m).
        """


class Ridge(FeatureMap):
    """The common part of features of one product. A subclass defines `bias`, `profile`, `slope` and `curvature`.

    Args:
        bias: whether the product is <theta, (x, 1)> instead of <theta, x>.
    """

    bias: bool

    @abc.abstractmethod
    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns phi as a function of the product.

        Args:
            product: products <theta, x>, an array of any shape.

        Returns:
            phi, of the same shape.
        """

    @abc.abstractmethod
    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the derivative of `profile`.

        Args:
            product: products <theta, x>, an array of any shape.

        Returns:
            The derivatives, of the same shape.
        """

    @abc.abstractmethod
    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the derivative of `slope`.

        Args:
            product: products <theta, x>, an array of any shape.

        Returns:
            The second derivatives of phi, of the same shape.
        """

    def finest(self, theta: Parameters) -> FinePlaces:
        """Returns no point, because a function of one product changes along a plane, where no cell of a quadrature misses it."""
        return np.zeros((0, theta.shape[1] - self.bias)), np.zeros(0)

    def parameter_space(self, space: Space) -> Sphere:
        """Returns the space of theta: the unit sphere of R^d, or of R^{d+1} with a bias.

        Raises:
            ValueError: when the space is periodic. A function of <theta, x> jumps where the coordinates start again.
        """
        if space.periodic:
            raise ValueError(f"feature is {self} and space is {space}, where it is not continuous; allowed: Bump(space)")
        return Sphere(space.dimension + self.bias)

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        return self.profile(_inner(x, theta, self.bias))


@dataclasses.dataclass(frozen=True)
class ReLU(Ridge):
    """The rectifier phi(x, theta) = max(<theta, x>, 0)^power, with theta on the unit sphere. A bias adds a constant coordinate.

    `ReLU()` is the feature of every experiment in arXiv 2107.05134 (Section 5). It is homogeneous of degree `power` in theta.
    Without a bias it spans only even plus linear functions on the sphere.

    Args:
        power: the exponent, an integer of at least 1.
        bias: whether the product is <theta, (x, 1)>, with theta on the sphere of R^{d+1}.

    Raises:
        ValueError: when the power or the bias is not allowed.

    >>> ReLU()(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.0], [-1.0, 0.0]])).tolist()
    [[2.0, 0.0]]
    """

    power: Count = 1
    bias: bool = False

    def __post_init__(self):
        settings.check(self)

    @property
    def homogeneity(self) -> int:
        """Returns k with theta . grad_theta phi = k phi. Thanks to it one product gives the witness and its gradient."""
        return self.power

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns max(t, 0)^power."""
        return jnp.maximum(product, 0) ** self.power

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns power max(t, 0)^(power - 1), and 0 where t <= 0."""
        on = (product > 0).astype(product.dtype)
        return on if self.power == 1 else self.power * jnp.maximum(product, 0) ** (self.power - 1)

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns power (power - 1) max(t, 0)^(power - 2), and 0 where t <= 0.

        Raises:
            ValueError: when the power is 1, because the second derivative is then a point mass.
        """
        if self.power == 1:
            raise ValueError("power is 1; the curvature of a ReLU is a point mass: allowed are powers of at least 2")
        return self.power * ReLU(self.power - 1).slope(product)


@dataclasses.dataclass(frozen=True)
class Softplus(Ridge):
    """The smooth rectifier phi(x, theta) = log(1 + exp(sharpness <theta, x>)) / sharpness, with theta on the unit sphere.

    Args:
        sharpness: a positive number. The feature tends to the rectifier as it grows.
        bias: whether the product is <theta, (x, 1)>, with theta on the sphere of R^{d+1}.

    Raises:
        ValueError: when the sharpness or the bias is not allowed.

    >>> round(float(Softplus()(jnp.zeros((1, 2)), jnp.eye(2))[0, 0]), 4)
    0.6931
    """

    sharpness: Positive = 1.0
    bias: bool = False

    def __post_init__(self):
        settings.check(self)

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns log(1 + exp(sharpness t)) / sharpness."""
        return jax.nn.softplus(self.sharpness * product) / self.sharpness

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns 1 / (1 + exp(-sharpness t))."""
        return jax.nn.sigmoid(self.sharpness * product)

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns sharpness s (1 - s), with the slope s."""
        return self.sharpness * self.slope(product) * self.slope(-product)


@dataclasses.dataclass(frozen=True)
class Bump(FeatureMap):
    """A smooth bump around theta, with theta in the space of x. It is exp(a proximity(x, theta)), and 1 at x = theta.

    With a = `concentration` it is exp(a sum_k (cos(2 pi (x_k - theta_k) / period) - 1)) on the torus, exp(a (<theta, x> - 1)) on
    the sphere, and exp(-a |x - theta|^2 / 2) on Euclidean space. On the torus of one dimension it is the toy example of the
    programs of the authors of arXiv 2107.05134.

    Args:
        space: the space of x and theta.
        concentration: a, a positive number.

    Raises:
        ValueError: when the concentration is no positive number.

    >>> from dualebm.spaces import Torus
    >>> Bump(Torus(1), concentration=10.0)(jnp.array([[0.25]]), jnp.array([[0.25]])).tolist()
    [[1.0]]
    """

    space: Space
    concentration: Positive = 10.0

    def __post_init__(self):
        settings.check(self)

    def parameter_space(self, space: Space) -> Space:
        """Returns the space of the points, which is also the space of theta.

        Raises:
            ValueError: when it differs from the space of the feature by more than its base measure.
        """
        _check_geometry(space, self.space)
        return space

    def finest(self, theta: Parameters) -> FinePlaces:
        """Returns the centres theta_j and the length unit / sqrt(a)."""
        return np.asarray(theta, np.float64), np.full(len(theta), self.space.unit / math.sqrt(self.concentration))

    def widths(self, space: Space, theta: Parameters) -> Float[Array, "m #p"]:
        """Returns unit / sqrt(concentration), (m, 1)."""
        return super().widths(space, theta) / self.concentration**0.5

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        for name, points in (("x", x), ("theta", theta)):
            if points.shape[1] != self.space.dimension:
                raise ValueError(f"{name} has {points.shape[1]} components; it must have {self.space.dimension}, as {self.space}")
        return jnp.exp(self.concentration * self.space.proximity(x, theta))


@dataclasses.dataclass(frozen=True)
class ScaledBump(FeatureMap):
    """A smooth bump with a centre c and a concentration k that both move, phi(x, (c, log k)) = exp(k proximity(x, c)).

    It is exp(-k |x - c|^2 / 2) on Euclidean space, exp(k (<c, x> - 1)) on the sphere, and exp(k sum_a (cos(2 pi (x_a - c_a) / period)
    - 1)) on the torus. The parameter is theta = (c, unit log k) in `parameters.ScaledCentres`, with the unit of length of the space.

    Every phi(., theta) has the maximum 1, whatever its concentration. So the F1 norm of f is the smallest total variation of a measure
    over (c, log k) that represents f, and the energies of the ball of radius R have |f| <= R at all scales.

    Args:
        space: the space of x and of the centres.
        smallest_concentration: the smallest k, a positive number. It bounds the width of a bump, about 1 / sqrt(k) units, from above.
        largest_concentration: the largest k, at least as large. It bounds the width from below: moves of particles must resolve it.

    Raises:
        ValueError: when a concentration is no positive number, or when the smallest is larger than the largest.

    >>> from dualebm.spaces import Euclidean
    >>> bump, theta = ScaledBump(Euclidean(1)), jnp.array([[0.0, jnp.log(2.0)]])
    >>> [round(float(value), 4) for value in bump(jnp.array([[0.0], [1.0]]), theta)[:, 0]]
    [1.0, 0.3679]
    """

    space: Space
    smallest_concentration: Positive = 1.0
    largest_concentration: Positive = 100.0

    def __post_init__(self):
        settings.check(self)
        if self.smallest_concentration > self.largest_concentration:
            raise ValueError(
                f"smallest_concentration is {self.smallest_concentration} and largest_concentration is {self.largest_concentration}; "
                "the smallest must be at most the largest"
            )

    def parameter_space(self, space: Space) -> ScaledCentres:
        """Returns the space of centres and concentrations.

        Raises:
            ValueError: when it differs from the space of the feature by more than its base measure.
        """
        _check_geometry(space, self.space)
        return ScaledCentres(space, self.smallest_concentration, self.largest_concentration)

    def draw(self, key: Key[Array, ""], space: Space, count: int, data: Samples) -> Parameters:
        """Draws centres at data points, and concentrations whose logarithm is uniform between the bounds.

        Args:
            key: a key of `jax.random`.
            space: the space of x.
            count: the number m of parameters.
            data: the data. A point is drawn with the probability of its weight.

        Returns:
            The parameters, (m, d + 1).

        Raises:
            ValueError: when the space is not the space of the feature.
        """
        check_key(key)
        index_key, scale_key = jax.random.split(key)
        centres = data.points[draw_indices(index_key, data, (count,))]
        return self.parameter_space(space).around(scale_key, centres)

    def finest(self, theta: Parameters) -> FinePlaces:
        """Returns the centres c_j and the lengths unit / sqrt(k_j)."""
        rows = np.asarray(theta, np.float64)
        return rows[:, :-1], self.space.unit * np.exp(-0.5 * rows[:, -1] / self.space.unit)

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        return jnp.exp(self.exponents(x.T, theta)).T

    def widths(self, space: Space, theta: Parameters) -> Float[Array, "m #p"]:
        """Returns unit / sqrt(k_j) for the coordinates of the centre, and the unit for log k, (m, d + 1)."""
        unit = super().widths(space, theta)
        narrow = unit / jnp.sqrt(self._concentrations(theta))[:, None]
        return jnp.concatenate([jnp.broadcast_to(narrow, theta[:, :-1].shape), unit], axis=1)

    def exponents(self, x: Float[Array, "d N"], theta: Parameters) -> Float[Array, "m N"]:
        """Returns log phi(x_i, theta_j) = k_j proximity(x_i, c_j).

        Args:
            x: points as columns, (d, N).
            theta: centres and unit log k, (m, d + 1).

        Returns:
            The logarithms, (m, N).

        Raises:
            ValueError: the points or the parameters have another number of components.
        """
        d = self.space.dimension
        for name, size, allowed in (("x", x.shape[0], d), ("theta", theta.shape[1], d + 1)):
            if size != allowed:
                raise ValueError(f"{name} has {size} components; it must have {allowed}, as {self.space}")
        return self._concentrations(theta)[:, None] * self.space.proximity_of_columns(x, theta[:, :-1].T)

    def combine(
        self, coefficients: Float[Array, " m"], theta: Parameters, x: Float[Array, "d N"], exponents: Float[Array, "m N"]
    ) -> tuple[Float[Array, " N"], Float[Array, "d N"]]:
        """Returns sum_j a_j phi(x_i, theta_j) and its ambient gradient in x_i, by one product of matrices.

        Args:
            coefficients: a_j, (m,).
            theta: the parameters, (m, d + 1).
            x: the points, as columns, (d, N).
            exponents: log phi, (m, N), from `exponents`.

        Returns:
            The sums, (N,), and their gradients, (d, N).
        """
        pull = coefficients * self._concentrations(theta)
        rows = jnp.concatenate([coefficients[None], pull[None], pull[None] * self.space.lift(theta[:, :-1].T)])
        sums = product(rows, jnp.exp(exponents))
        return sums[0], self.space.proximity_slope(x, sums[1], sums[2:])

    def sums(
        self, theta: Parameters, x: Float[Array, "d N"], weights: Float[Array, " N"] | None, exponents: Float[Array, "m N"]
    ) -> tuple[Float[Array, " m"], Float[Array, "m p"]]:
        """Returns sum_i w_i phi(x_i, theta_j) and its ambient gradient in theta_j. The derivative in log k is sum_i w_i phi log phi.

        Args:
            theta: the parameters, (m, d + 1).
            x: the points, as columns, (d, N).
            weights: w_i, (N,), or None for 1.
            exponents: log phi, (m, N), from `exponents`.

        Returns:
            The sums, (m,), and their gradients, (m, d + 1).
        """
        phi = jnp.exp(exponents) if weights is None else jnp.exp(exponents) * weights[None]
        columns = jnp.concatenate([jnp.ones((1, x.shape[1]), x.dtype), self.space.lift(x)])
        sums = product(phi, columns.T).T
        centres = theta[:, :-1].T
        slope = self._concentrations(theta)[None] * self.space.proximity_slope(centres, sums[0], sums[1:])
        along = jnp.sum(phi * exponents, axis=1) / self.space.unit
        return sums[0], jnp.concatenate([slope, along[None]]).T

    def generator(self, theta: Parameters, x: Float[Array, "d N"], force: Float[Array, "d N"]) -> Matrix:
        """Returns <grad phi, force> - Lap phi along the space, phi (k <grad g, force> - k Lap g - k^2 |grad g|^2) with the proximity g.

        Args:
            theta: the parameters, (m, d + 1).
            x: the points, as columns, (d, N).
            force: tangent vectors at the points, as columns, (d, N).

        Returns:
            The values for point i and parameter j, (N, m).
        """
        k = self._concentrations(theta)[:, None]
        g, along, square, laplacian = self.space.proximity_derivatives(x, theta[:, :-1].T, force)
        return (jnp.exp(k * g) * k * (along - laplacian - k * square)).T

    def _concentrations(self, theta):
        return self.parameter_space(self.space).concentrations(theta)


@dataclasses.dataclass(frozen=True)
class Custom(FeatureMap):
    """A feature given by a function of one point and one parameter. JAX differentiates it.

    The function is vmapped over points and parameters. The mean over atoms stays a product.

    Args:
        function: maps x (d,) and theta (p,) to the scalar phi(x, theta).
        parameters: the space of theta.

    Raises:
        ValueError: when the function cannot be called, or `parameters` is no space.

    >>> from dualebm.spaces import Euclidean
    >>> cosine = Custom(lambda x, theta: jnp.cos(jnp.dot(x, theta)), Euclidean(2))
    >>> cosine(jnp.zeros((3, 2)), jnp.ones((4, 2))).shape
    (3, 4)
    """

    function: Callable[[Float[Array, " d"], Float[Array, " p"]], Float[Array, ""]]
    parameters: Space

    def __post_init__(self):
        settings.check(self)

    def parameter_space(self, space: Space) -> Space:
        """Returns the space of theta that was given."""
        del space
        return self.parameters

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        return jax.vmap(jax.vmap(self.function, (None, 0)), (0, None))(x, theta)


RidgeFeature = ReLU | Softplus
"""The features of one product. Another subclass of `Ridge` may stand in for them."""

Feature = RidgeFeature | Bump | ScaledBump | Custom
"""The features. Another `FeatureMap` may stand in for them."""


def suited(space: Space, kind: type[RidgeFeature | Bump | ScaledBump] | None = None) -> RidgeFeature | Bump | ScaledBump:
    """Returns the feature that suits density estimation on a space: a bump on a periodic space, and elsewhere a ridge with a bias.

    Without a bias, ReLUs span only even plus linear functions on the sphere.

    Args:
        space: the space of the data.
        kind: the class of the feature. None for `Bump` on a periodic space and `ReLU` elsewhere.

    Returns:
        The feature: `kind(space)` for the class of a bump, or `kind(bias=True)` for the class of a ridge.

    >>> from dualebm.spaces import Torus
    >>> suited(Sphere(3)), suited(Torus(1)).concentration
    (ReLU(power=1, bias=True), 10.0)
    """
    kind = kind or (Bump if space.periodic else ReLU)
    return kind(space) if issubclass(kind, Bump | ScaledBump) else kind(bias=True)
