"""Feature maps phi(x, theta): frozen dataclasses of static settings, called on batches of points and of parameters.

A feature is called as `feature(x, theta)` with x `(N, d)` and theta `(m, p)` and returns the matrix `(N, m)`. The energies
and the witness differentiate that batched product, so that a new feature needs nothing else.

A `Ridge` feature is a function of one product, phi(x, theta) = profile(<theta, x>), or of <theta, (x, 1)> with a bias. Its
energies and witnesses need no differentiation. They use `profile`, the derivatives `slope` and `curvature`, and the product.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualebm import settings
from dualebm.geometry import Space
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


class Ridge:
    """The common part of features of one product. A subclass defines `bias`, `profile`, `slope` and `curvature`."""

    bias: bool

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns phi as a function of the product."""
        raise NotImplementedError

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the derivative of `profile`."""
        raise NotImplementedError

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the derivative of `slope`."""
        raise NotImplementedError

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

    homogeneity = None

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
class Bump:
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

    homogeneity = None

    def parameter_space(self, space: Space) -> Space:
        """Returns the space of the points, which is also the space of theta.

        Raises:
            ValueError: when it is not the space of the feature.
        """
        if space != self.space:
            raise ValueError(f"space is {space}; this feature was built for {self.space}")
        return space

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        for name, points in (("x", x), ("theta", theta)):
            if points.shape[1] != self.space.dimension:
                raise ValueError(f"{name} has {points.shape[1]} components; it must have {self.space.dimension}, as {self.space}")
        return jnp.exp(self.concentration * self.space.proximity(x, theta))


@dataclasses.dataclass(frozen=True)
class Custom:
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

    homogeneity = None

    def parameter_space(self, space: Space) -> Space:
        """Returns the space of theta that was given."""
        del space
        return self.parameters

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """Returns the matrix phi(x_i, theta_j), (N, m)."""
        return jax.vmap(jax.vmap(self.function, (None, 0)), (0, None))(x, theta)


RidgeFeature = ReLU | Softplus
"""The features of one product. Another subclass of `Ridge` may stand in for them."""

Feature = RidgeFeature | Bump | Custom
"""The features. Another class with the same functions may stand in for them."""


def suited(space: Space, kind: type[RidgeFeature | Bump] | None = None) -> RidgeFeature | Bump:
    """Returns the feature that suits density estimation on a space: a bump on a periodic space, and elsewhere a ridge with a bias.

    Without a bias, ReLUs span only even plus linear functions on the sphere.

    Args:
        space: the space of the data.
        kind: the class of the feature. None for `Bump` on a periodic space and `ReLU` elsewhere.

    Returns:
        The feature: `Bump(space)`, or `kind(bias=True)` for the class of a ridge.

    >>> from dualebm.spaces import Torus
    >>> suited(Sphere(3)), suited(Torus(1)).concentration
    (ReLU(power=1, bias=True), 10.0)
    """
    kind = kind or (Bump if space.periodic else ReLU)
    return Bump(space) if issubclass(kind, Bump) else kind(bias=True)
