"""Feature maps phi(x, theta): frozen dataclasses of static settings, called on batches of points and of parameters.

A feature is called as `feature(x, theta)` with x `(N, d)` and theta `(m, p)` and returns the matrix `(N, m)`. The
energies and the witness differentiate that one batched product, so nothing else has to be written for a new feature.

A `Ridge` feature is a function of one product, phi(x, theta) = profile(<theta, x>), or of <theta, (x, 1)> with a bias: its
energies and witnesses need no differentiation, only `profile`, its derivatives `slope` and `curvature`, and that product.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualebm.geometry import Space
from dualebm.spaces import Sphere

Inputs = Float[Array, "N d"]
Parameters = Float[Array, "m p"]
Matrix = Float[Array, "N m"]


def _inner(x, theta, bias):
    """<theta, x>, or <theta, (x, 1)> with a bias: a product in full float32 precision."""
    if theta.shape[1] != x.shape[1] + bias:
        allowed = x.shape[1] + bias
        raise ValueError(f"theta has {theta.shape[1]} components and x has {x.shape[1]}; allowed: {allowed} for theta")
    product = jnp.matmul(x, theta[:, : x.shape[1]].T, precision=jax.lax.Precision.HIGHEST)
    return product + theta[None, :, -1] if bias else product


def _check_positive(name, value):
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; it must be a positive number")


class Ridge:
    """What features of one product have in common; a subclass has `bias`, `profile`, `slope` and `curvature`."""

    bias: bool

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """phi as a function of the product."""
        raise NotImplementedError

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The derivative of `profile`."""
        raise NotImplementedError

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The derivative of `slope`."""
        raise NotImplementedError

    def parameter_space(self, space: Space) -> Sphere:
        """The unit sphere of R^d, or of R^{d+1} with a bias."""
        return Sphere(space.dimension + self.bias)

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """The matrix phi(x_i, theta_j), (N, m)."""
        return self.profile(_inner(x, theta, self.bias))


@dataclasses.dataclass(frozen=True)
class ReLU(Ridge):
    """phi(x, theta) = max(<theta, x>, 0)^power, with `bias` <theta, (x, 1)>; theta on the unit sphere.

    The case of every experiment in arXiv 2107.05134 (Section 5) is `ReLU()`. Homogeneous of degree `power` in theta.
    Without bias it spans only even plus linear functions on the sphere; with bias theta lives on the sphere of R^{d+1}.

    >>> ReLU()(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.0], [-1.0, 0.0]])).tolist()
    [[2.0, 0.0]]
    """

    power: int = 1
    bias: bool = False

    def __post_init__(self):
        if isinstance(self.power, bool) or not isinstance(self.power, int) or self.power < 1:
            raise ValueError(f"power is {self.power!r}; it must be an integer of at least 1")
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias is {self.bias!r}; it must be True or False")

    @property
    def homogeneity(self) -> int:
        """k with theta . grad_theta phi = k phi, so that one product gives the witness and its gradient."""
        return self.power

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """max(t, 0)^power."""
        return jnp.maximum(product, 0) ** self.power

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """power max(t, 0)^(power - 1), and 0 where t <= 0."""
        on = (product > 0).astype(product.dtype)
        return on if self.power == 1 else self.power * jnp.maximum(product, 0) ** (self.power - 1)

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """power (power - 1) max(t, 0)^(power - 2), and 0 where t <= 0; raises ValueError for power 1, where it is no function."""
        if self.power == 1:
            raise ValueError("power is 1; the curvature of a ReLU is a point mass: allowed are powers of at least 2")
        return self.power * ReLU(self.power - 1).slope(product)


@dataclasses.dataclass(frozen=True)
class Softplus(Ridge):
    """phi(x, theta) = log(1 + exp(sharpness <theta, x>)) / sharpness, a smooth ReLU; theta on the unit sphere.

    >>> round(float(Softplus()(jnp.zeros((1, 2)), jnp.eye(2))[0, 0]), 4)
    0.6931
    """

    sharpness: float = 1.0
    bias: bool = False

    def __post_init__(self):
        _check_positive("sharpness", self.sharpness)

    homogeneity = None

    def profile(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """log(1 + exp(sharpness t)) / sharpness."""
        return jax.nn.softplus(self.sharpness * product) / self.sharpness

    def slope(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """1 / (1 + exp(-sharpness t))."""
        return jax.nn.sigmoid(self.sharpness * product)

    def curvature(self, product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """sharpness s (1 - s), with s the slope."""
        return self.sharpness * self.slope(product) * self.slope(-product)


@dataclasses.dataclass(frozen=True)
class Bump:
    """A smooth bump around theta, 1 at x = theta, which lives in the space of x itself: the exponential of its `proximity`.

    On the torus exp(a sum_k (cos(2 pi (x_k - theta_k) / period) - 1)) (in one dimension the toy of the authors'
    programs), on the sphere exp(a (<theta, x> - 1)), on Euclidean space exp(-a |x - theta|^2 / 2), with a =
    `concentration`.

    >>> from dualebm.spaces import Torus
    >>> Bump(Torus(1), concentration=10.0)(jnp.array([[0.25]]), jnp.array([[0.25]])).tolist()
    [[1.0]]
    """

    space: Space
    concentration: float = 10.0

    def __post_init__(self):
        _check_positive("concentration", self.concentration)

    homogeneity = None

    def parameter_space(self, space: Space) -> Space:
        """The space of the points."""
        if space != self.space:
            raise ValueError(f"space is {space}; this feature was built for {self.space}")
        return space

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """The matrix phi(x_i, theta_j), (N, m)."""
        for name, points in (("x", x), ("theta", theta)):
            if points.shape[1] != self.space.dimension:
                raise ValueError(f"{name} has {points.shape[1]} components; it must have {self.space.dimension}, as {self.space}")
        return jnp.exp(self.concentration * self.space.proximity(x, theta))


@dataclasses.dataclass(frozen=True)
class Custom:
    """Any feature: `function(x, theta)` of one point `(d,)` and one parameter `(p,)`, a scalar, differentiated by JAX.

    `parameters` is the space of theta. The function is vmapped over points and parameters; the mean over atoms stays a
    product.

    >>> from dualebm.spaces import Euclidean
    >>> cosine = Custom(lambda x, theta: jnp.cos(jnp.dot(x, theta)), Euclidean(2))
    >>> cosine(jnp.zeros((3, 2)), jnp.ones((4, 2))).shape
    (3, 4)
    """

    function: Callable[[Float[Array, " d"], Float[Array, " p"]], Float[Array, ""]]
    parameters: Space

    homogeneity = None

    def parameter_space(self, space: Space) -> Space:
        """The space given."""
        del space
        return self.parameters

    def __call__(self, x: Inputs, theta: Parameters) -> Matrix:
        """The matrix phi(x_i, theta_j), (N, m)."""
        return jax.vmap(jax.vmap(self.function, (None, 0)), (0, None))(x, theta)


Feature = ReLU | Softplus | Bump | Custom
