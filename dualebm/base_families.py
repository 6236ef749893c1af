"""Base measures with parameters: the normal distribution on R^d and the von Mises-Fisher distribution on a sphere.

The parameters are tuples of floats, so that a measure is hashable, compares by value and is written to files as JSON. Constants are
computed from them in NumPy float64 and rounded once to the dtype of the points.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.base_measures import BaseMeasure, FinePlaces, Geometry, Points, Scalars, numbers

Vector = Sequence[float] | Float[np.ndarray, " d"]
Matrix = Sequence[Sequence[float]] | Float[np.ndarray, "d d"]

NEARLY_SINGULAR = 1e-13
"""The smallest allowed eigenvalue of a matrix of correlations. Below it a column is a linear function of others, up to rounding."""


def vector(name: str, values: Any) -> tuple[float, ...]:
    """Returns finite numbers as a tuple of floats.

    Args:
        name: the name of the argument in an error.
        values: the numbers, (d,), d at least 1.

    Raises:
        ValueError: when the array is of another shape, empty or not finite.

    >>> vector("mean", np.array([1, 2]))
    (1.0, 2.0)
    """
    array = numbers(name, values)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} is {values!r:.200}; it must be a vector of finite numbers")
    return tuple(array.tolist())


def _apply(matrix, x, axis: int):
    """Returns the products of a matrix with the vectors along an axis, in full precision."""
    rows = jnp.asarray(matrix.astype(x.dtype))
    return jnp.moveaxis(jnp.tensordot(rows, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)


def _along(values: Sequence[float] | np.ndarray, x, axis: int):
    """Returns a vector in the dtype of x, shaped so that it broadcasts with x along an axis."""
    shape = [1] * x.ndim
    shape[axis] = len(values)
    return jnp.asarray(np.asarray(values).astype(x.dtype)).reshape(shape)


@functools.partial(brief, static_argnums=1)
def _draw(key, count, mean, factor):
    """Returns `count` draws of mean + L z with normal z, (count, d)."""
    return (mean[:, None] + _apply(factor, jax.random.normal(key, (len(mean), count), mean.dtype), 0)).T


@functools.partial(brief, static_argnums=4)
def _log_normal(x, mean, whitening, normaliser, axis):
    """Returns -|W (x - mean)|^2 / 2 less the normaliser, for the whitening matrix W."""
    shape = [1] * x.ndim
    shape[axis] = len(mean)
    white = _apply(whitening, x - mean.reshape(shape), axis)
    return -0.5 * jnp.sum(white * white, axis=axis) - normaliser


@dataclasses.dataclass(frozen=True, repr=False)
class Normal(BaseMeasure):
    """The normal distribution N(mean, covariance) on R^d.

    Args:
        mean: the mean, (d,).
        covariance: the covariance matrix, (d, d), symmetric and positive definite.

    Raises:
        ValueError: when a shape is wrong, a number is not finite, or the matrix is not symmetric and positive definite.

    >>> from dualebm.spaces import Euclidean
    >>> base = Normal([1.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])
    >>> Euclidean(2, base).grad_log_base(jnp.array([5.0, 2.0])).tolist()
    [-1.0, -2.0]
    """

    mean: Vector
    covariance: Matrix

    def __post_init__(self):
        mean, covariance = vector("mean", self.mean), numbers("covariance", self.covariance)
        d = len(mean)
        if covariance.shape != (d, d) or not np.isfinite(covariance).all():
            raise ValueError(f"covariance has shape {covariance.shape}; it must be ({d}, {d}), as the mean, with finite numbers")
        scale = np.sqrt(np.abs(np.diag(covariance)))
        correlation = covariance / np.where(scale > 0, scale, 1) / np.where(scale > 0, scale, 1)[:, None]
        if np.abs(correlation - correlation.T).max() > 1e-6:
            raise ValueError("covariance is not symmetric")
        smallest = float(np.linalg.eigvalsh(correlation)[0])
        if smallest < NEARLY_SINGULAR:
            raise ValueError(f"covariance is not positive definite: the smallest eigenvalue of its correlations is {smallest:.3g}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", tuple(map(tuple, (0.5 * (covariance + covariance.T)).tolist())))

    def __repr__(self) -> str:
        return f"Normal(dimension {len(self.mean)})"

    @functools.cached_property
    def factor(self) -> Float[np.ndarray, "d d"]:
        """Returns the lower triangular L with L L^T = covariance, in float64."""
        return np.linalg.cholesky(np.asarray(self.covariance))

    @functools.cached_property
    def _whitening(self) -> np.ndarray:
        """Returns L^{-1}."""
        return np.linalg.inv(self.factor)

    def fits(self, space: Geometry) -> bool:
        """Tells whether the space is R^d, with d the length of the mean."""
        return not space.compact and space.dimension == len(self.mean)

    def finest(self, space: Geometry) -> FinePlaces:
        """Returns the mean and the standard deviation along the shortest axis of the covariance."""
        del space
        return np.asarray(self.mean)[None], np.linalg.svd(self.factor, compute_uv=False)[-1:]

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns -|L^{-1} (x - mean)|^2 / 2 - log det L - d log(2 pi) / 2."""
        normaliser = float(np.sum(np.log(np.diag(self.factor)))) + 0.5 * space.dimension * math.log(2 * math.pi)
        return _log_normal(x, *(np.asarray(values).astype(x.dtype) for values in (self.mean, self._whitening, normaliser)), axis)

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns -covariance^{-1} (x - mean)."""
        del space
        white = _apply(self._whitening, x - _along(self.mean, x, axis), axis)
        return -_apply(self._whitening.T, white, axis)

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points."""
        del space
        check_key(key)
        kind = jax.dtypes.canonicalize_dtype(dtype)
        return _draw(key, count, np.asarray(self.mean).astype(kind), self.factor.astype(kind))

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Returns mean + L z."""
        del space
        return _along(self.mean, z, axis) + _apply(self.factor, z, axis)


def log_excess(dimension: int, concentration: float) -> float:
    """Returns log M - k for the von Mises-Fisher distribution of concentration k on S^{d-1}, with M = E exp(k <mean, x>) under uniform x.

    M = Gamma(d/2) (2/k)^{d/2-1} I_{d/2-1}(k), and sinh(k) / k on S^2 (Mardia, Jupp 2000, section 9.3.2).

    Args:
        dimension: d.
        concentration: k, at least 0.

    >>> round(log_excess(3, 2.0), 6) == round(math.log(math.sinh(2) / 2) - 2, 6)
    True
    """
    from scipy.special import gammaln, ive

    k, order = concentration, dimension / 2 - 1
    if k == 0:
        return 0.0
    if dimension == 3:
        return math.log(-math.expm1(-2 * k) / (2 * k))
    bessel = float(ive(order, k))
    if bessel > 1e-290:
        return float(gammaln(order + 1)) + order * math.log(2 / k) + math.log(bessel)
    # exp(-k) I(k) underflows where k is small beside the dimension: M is the sum of (k/2)^{2j} Gamma(d/2) / (j! Gamma(d/2 + j))
    largest = 0.5 * (math.hypot(order, k) - order)
    j = np.arange(int(largest + 40 * math.sqrt(largest + 1)) + 50)
    terms = 2 * j * math.log(k / 2) - gammaln(j + 1) - gammaln(order + 1 + j) + gammaln(order + 1)
    return float(np.logaddexp.reduce(terms)) - k


def at_lag(mean: Float[Array, "..."], lag: Float[Array, "..."], z: Points, axis: int) -> Points:
    """Returns the unit vectors x with 1 - <mean, x> = lag that lie on the side of vectors z from the mean.

    Args:
        mean: unit vectors, of a shape that broadcasts with z.
        lag: numbers from 0 to 2, of the shape of z with length 1 along the axis.
        z: vectors.
        axis: the axis of the components.

    Returns:
        The unit vectors, of the shape of z.

    >>> at_lag(jnp.array([0.0, 1.0]), jnp.array([1.0]), jnp.array([3.0, 0.5]), 0).tolist()
    [1.0, 0.0]
    """
    across = z - mean * jnp.sum(mean * z, axis=axis, keepdims=True)
    length = jnp.linalg.norm(across, axis=axis, keepdims=True)
    x = mean * (1 - lag) + jnp.sqrt(lag * (2 - lag)) * across / jnp.where(length > 0, length, 1)
    return x / jnp.linalg.norm(x, axis=axis, keepdims=True)


def proposal_of(dimension: int, concentration: float) -> tuple[float, float]:
    """Returns the parameter b of the proposal of Wood (1994), Algorithm VM*, on S^{d-1}, and 1 - x_0 = 2 b / (1 + b) of the same source.

    Args:
        dimension: d.
        concentration: k, at least 0.

    >>> proposal_of(3, 0.0)
    (1.0, 1.0)
    """
    n = dimension - 1
    b = n / (math.hypot(2 * concentration, n) + 2 * concentration)
    return b, 2 * b / (1 + b)


def draw_lags(
    key: Key[Array, ""], dimension: int, concentration: float | Scalars, proposal: tuple[float | Scalars, float | Scalars], like: Scalars
) -> Scalars:
    """Draws 1 - <mean, x> for independent von Mises-Fisher draws x on S^{d-1}, by rejection (Wood 1994, Algorithm VM*).

    Args:
        key: a key of `jax.random`.
        dimension: d.
        concentration: k, one number or one for each draw.
        proposal: what `proposal_of` returns for the concentrations.
        like: an array of the shape and the dtype of the draws.

    Returns:
        Independent numbers from 0 to 2.

    >>> lags = draw_lags(jax.random.key(0), 2, 50.0, proposal_of(2, 50.0), jnp.zeros(3))
    >>> bool((lags > 0).all() and (lags < 0.5).all())
    True
    """
    check_key(key)
    k, n, (b, gap) = concentration, dimension - 1, proposal

    def attempt(carry):
        lag, accepted, number = carry
        beta_key, uniform_key = jax.random.split(jax.random.fold_in(key, number))
        beta = jax.random.beta(beta_key, n / 2, n / 2, lag.shape, lag.dtype)
        proposed = 2 * b * beta / (1 - beta + b * beta)
        log_ratio = k * (gap - proposed) + n * jnp.log((gap + (1 - gap) * proposed) / (gap * (2 - gap)))
        good = jnp.log(jax.random.uniform(uniform_key, lag.shape, lag.dtype)) <= log_ratio
        return jnp.where(accepted, lag, proposed), accepted | good, number + 1

    # A proposal that is not accepted is replaced by the next one.
    first = (jnp.zeros_like(like), jnp.zeros(like.shape, bool), jnp.int32(0))
    return jax.lax.while_loop(lambda carry: ~jnp.all(carry[1]), attempt, first)[0]


@dataclasses.dataclass(frozen=True, repr=False)
class VonMisesFisher(BaseMeasure):
    """The von Mises-Fisher distribution on S^{d-1}. Its density is proportional to exp(k <mean, x>), with the concentration k.

    Args:
        mean: the mean direction, (d,). It is normalised.
        concentration: k, at least 0.

    Raises:
        ValueError: when the direction is not finite or zero, or the concentration is no finite number of at least 0.

    >>> from dualebm.spaces import Sphere
    >>> base = VonMisesFisher([0.0, 0.0, 1.0], 2.0)
    >>> Sphere(3, base).grad_log_base(jnp.array([1.0, 0.0, 0.0])).tolist()
    [0.0, 0.0, 2.0]
    """

    mean: Vector
    concentration: float

    def __post_init__(self):
        mean = np.asarray(vector("mean", self.mean))
        length = float(np.linalg.norm(mean))
        if not (math.isfinite(length) and length > 0):
            raise ValueError(f"mean is {self.mean!r}; it must have a direction")
        number = isinstance(self.concentration, (int, float, np.number)) and not isinstance(self.concentration, bool)
        if not (number and math.isfinite(self.concentration) and self.concentration >= 0):
            raise ValueError(f"concentration is {self.concentration!r}; it must be a finite number of at least 0")
        # A mean of length 1 up to rounding stays as it is, so that a measure that is built from its fields equals it.
        object.__setattr__(self, "mean", tuple((mean if abs(length - 1) < 1e-14 else mean / length).tolist()))
        object.__setattr__(self, "concentration", float(self.concentration))

    def __repr__(self) -> str:
        return f"VonMisesFisher(dimension {len(self.mean)}, concentration {self.concentration:g})"

    @property
    def from_normal_exists(self) -> bool:
        """Tells whether the sphere is S^2, where the distribution function of <mean, x> is inverted in closed form."""
        return len(self.mean) == 3

    def fits(self, space: Geometry) -> bool:
        """Tells whether the space is the sphere S^{d-1}, with d the length of the mean."""
        return space.compact and space.mean_curvature > 0 and space.dimension == len(self.mean)

    def finest(self, space: Geometry) -> FinePlaces:
        """Returns the mean direction and the length 1 / sqrt(k), at most 1."""
        del space
        return np.asarray(self.mean)[None], np.array([1 / math.sqrt(max(self.concentration, 1))])

    def _nearness(self, x, axis):
        """Returns mean - x, and 1 - <mean, x> = |x - mean|^2 / 2 with the axis kept. Near the mean it keeps all digits."""
        difference = _along(self.mean, x, axis) - x
        return difference, 0.5 * jnp.sum(difference * difference, axis=axis, keepdims=True)

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns k <mean, x> - log M, with M = E exp(k <mean, x>) under the uniform measure."""
        _, lag = self._nearness(x, axis)
        return -self.concentration * jnp.squeeze(lag, axis) - log_excess(space.dimension, self.concentration)

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns k (mean - <mean, x> x)."""
        del space
        difference, lag = self._nearness(x, axis)
        return self.concentration * (difference + lag * x)

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points: on S^2 by `from_normal`, elsewhere by rejection (Wood 1994, Algorithm VM*)."""
        check_key(key)
        normal_key, rejection_key = jax.random.split(key)
        z = jax.random.normal(normal_key, (space.dimension, count), dtype)
        if self.from_normal_exists:
            return self.from_normal(space, z, 0).T
        k, d = self.concentration, space.dimension
        lag = draw_lags(rejection_key, d, k, proposal_of(d, k), jnp.zeros(count, z.dtype))
        return at_lag(_along(self.mean, z, 0), lag[None], z, 0).T

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Maps standard normal vectors to draws on S^2.

        The direction u = z / |z| is uniform, so that q = (1 - <mean, u>) / 2 is uniform on [0, 1]. The draw x lies in the plane
        of the mean and u, with 1 - <mean, x> = -log(1 - q (1 - exp(-2 k))) / k (Ulrich 1984).

        Raises:
            ValueError: on other spheres, where the distribution function of <mean, x> has no inverse in closed form.
        """
        if not self.from_normal_exists:
            raise ValueError(f"space is {space}; normal vectors are mapped to von Mises-Fisher draws on S^2 only, which is Sphere(3)")
        u = z / jnp.linalg.norm(z, axis=axis, keepdims=True)
        q = jnp.clip(0.5 * self._nearness(u, axis)[1], 0, 1)
        k = self.concentration
        lag = 2 * q if k == 0 else jnp.clip(-jnp.log1p(q * math.expm1(-2 * k)) / k, 0, 2)
        return at_lag(_along(self.mean, u, axis), lag, u, axis)
