"""A base measure that is a kernel density estimate: the mixture of one kernel around each of n centres, with equal or other weights.

The sums over the n centres run in blocks of points, so that memory does not grow with the number of pairs of a centre and a point.
They are compiled functions of the centres, which another base measure with as many centres shares.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import row_weights
from dualebm._internal.blocks import block_columns, map_blocks, product
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.base_families import Vector, at_lag, draw_lags, log_excess, proposal_of, vector
from dualebm.base_measures import BaseMeasure, FinePlaces, Gaussian, Geometry, Points, Scalars, Uniform, numbers

UNIT_LENGTH = 1e-5
"""The largest allowed distance of the norm of a centre on a sphere from 1."""


def _curved(space: Geometry) -> bool:
    """Tells whether the space is a sphere."""
    return space.mean_curvature > 0


def _toroidal(space: Geometry) -> bool:
    """Tells whether the space is a torus."""
    return space.compact and not _curved(space)


def _geometry(space: Any) -> Any:
    """Returns the space with its default base. A compiled function takes it as a static argument, whatever the base."""
    return dataclasses.replace(space, base=Uniform() if space.compact else Gaussian())


def log_normalisers(space: Geometry, concentrations: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns log M(k), with M(k) the integral of exp(k g(x, c)) over x under the reference measure of the space.

    The proximity g is -|x - c|^2 / 2 on R^d and spheres, and sum_a (cos((x_a - c_a) / unit) - 1) on a torus. So M is (2 pi / k)^{d/2} on
    R^d and (exp(-k) I_0(k))^d on a torus. On spheres `base_families.log_excess` is log M.

    Args:
        space: the space.
        concentrations: the concentrations k, positive, (n,).

    Returns:
        The logarithms, (n,), in float64.

    >>> from dualebm.spaces import Euclidean
    >>> log_normalisers(Euclidean(3), np.array([2 * np.pi])).tolist()
    [0.0]
    """
    from scipy.special import i0e

    k, d = concentrations, space.dimension
    if _curved(space):
        different, place = np.unique(k, return_inverse=True)
        return np.array([log_excess(d, value) for value in different.tolist()])[place]
    return d * np.log(i0e(k)) if space.compact else 0.5 * d * np.log(2 * np.pi / k)


def _lag(space, x, centres):
    """Returns -g for all pairs of columns of x, (d, N), and centres, (d, n), as (n, N). Differences keep all digits near a centre."""

    def add(a, lag):
        difference = centres[a][:, None] - x[a][None]
        return lag + (2 * jnp.sin(difference / (2 * space.unit)) ** 2 if _toroidal(space) else 0.5 * difference**2)

    return jax.lax.fori_loop(0, space.dimension, add, jnp.zeros((centres.shape[1], x.shape[1]), x.dtype))


@functools.partial(brief, static_argnums=0)
def _log_density(space, x, centres, concentrations, offsets):
    """Returns log sum_i exp(offset_i + k_i g(x, c_i)) at columns x."""
    values = lambda x: logsumexp(offsets[:, None] - concentrations[:, None] * _lag(space, x, centres), axis=0)  # noqa: E731
    return map_blocks(values, x, block_columns(centres.shape[1]))


@functools.partial(brief, static_argnums=0)
def _log_densities(space, x, centres, concentrations, offsets, weights):
    """Returns log sum_i w_bi exp(offset_i + k_i g(x, c_i)) at columns x for each row of the weights, (B, n), as (B, N)."""

    def values(x):
        exponents = offsets[:, None] - concentrations[:, None] * _lag(space, x, centres)
        largest = jnp.max(exponents, axis=0)
        return largest[None] + jnp.log(product(weights, jnp.exp(exponents - largest[None])))

    return map_blocks(values, x, block_columns(centres.shape[1]))


@functools.partial(brief, static_argnums=0)
def _score(space, x, centres, concentrations, offsets):
    """Returns the gradients of `_log_density` along the space, (d, N): sums over the kernels of their shares, k_i, and grad g."""

    def values(x):
        lag = _lag(space, x, centres)
        pulls = jax.nn.softmax(offsets[:, None] - concentrations[:, None] * lag, axis=0) * concentrations[:, None]

        def along(pair):
            difference = pair[0][:, None] - pair[1][None]
            slope = jnp.sin(difference / space.unit) / space.unit if _toroidal(space) else difference
            return jnp.sum(pulls * slope, axis=0)

        ambient = jax.lax.map(along, (centres, x))
        return ambient + x * jnp.sum(pulls * lag, axis=0)[None] if _curved(space) else ambient

    return map_blocks(values, x, block_columns(centres.shape[1]))


@functools.partial(brief, static_argnums=(0, 2))
def _sample(space, key, count, centres, concentrations, constants, edges):
    """Draws columns (d, count): the centre of each uniformly, or by the sums of its and earlier weights (edges), then its kernel."""
    index_key, key, noise_key = jax.random.split(key, 3)
    if edges is None:
        index = jax.random.randint(index_key, (count,), 0, centres.shape[1])
    else:
        index = jnp.searchsorted(edges, jax.random.uniform(index_key, (count,), centres.dtype), side="right")
    c, k, (first, second), d = centres[:, index], concentrations[index], constants[:, index], space.dimension
    if not space.compact:
        return c + jax.random.normal(noise_key, c.shape, c.dtype) / jnp.sqrt(k)[None]
    if _toroidal(space):
        k, first, second = (jnp.broadcast_to(values, c.shape) for values in (k[None], first[None], second[None]))
        angle = 2 * jnp.arcsin(jnp.sqrt(0.5 * draw_lags(key, 2, k, (first, second), c)))
        return space.exp(c, space.unit * angle * jax.random.rademacher(noise_key, c.shape, c.dtype), 0)
    z = jax.random.normal(noise_key, c.shape, c.dtype)
    if d == 3:  # the distribution function has an inverse in closed form, as in VonMisesFisher
        u = z / jnp.linalg.norm(z, axis=0, keepdims=True)
        q = jnp.clip(0.25 * jnp.sum((c - u) ** 2, axis=0), 0, 1)
        return at_lag(c, jnp.clip(-jnp.log1p(q * first) / k, 0, 2)[None], u, 0)
    return at_lag(c, draw_lags(key, d, k, (first, second), k)[None], z, 0)


@dataclasses.dataclass(frozen=True, repr=False)
class KernelBase(BaseMeasure):
    """The mixture of n kernels, whose density is sum_i w_i exp(k_i g(x, c_i)) / M(k_i), with centres c_i and weights w_i.

    The proximity g is that of the space, and M(k) is the total mass of a kernel (`log_normalisers`). So a kernel is the normal
    distribution N(c_i, I / k_i) on R^d, the von Mises-Fisher distribution on a sphere, and a product of von Mises distributions of the
    angles on a torus. With the rows of data as centres it is a kernel density estimate (Silverman 1986).

    Args:
        centres: the centres c_i, points of the space, (n, d).
        concentrations: the concentrations k_i, positive, (n,). The width of a kernel is about unit / sqrt(k), with the unit of length
            of the space: period / 2 pi on a torus, else 1.
        weights: the weights w_i, non-negative, (n,). They are divided by their sum. None for equal weights, 1 / n.

    Raises:
        ValueError: when a shape is wrong, a number is not finite, a concentration is not positive, or a weight is not allowed.

    >>> from dualebm.spaces import Euclidean
    >>> two = KernelBase([[-1.0], [1.0]], [4.0, 4.0])
    >>> round(float(Euclidean(1, two).log_base(jnp.zeros(1))), 4)  # log(2 / sqrt(2 pi)) - 2
    -2.2258
    """

    centres: Sequence[Sequence[float]] | Float[np.ndarray, "n d"]
    concentrations: Vector
    weights: Vector | None = None

    def __post_init__(self):
        centres, concentrations = numbers("centres", self.centres), np.asarray(vector("concentrations", self.concentrations))
        if centres.ndim != 2 or not centres.size or not np.isfinite(centres).all():
            raise ValueError(f"centres has shape {centres.shape}; it must be an array (n, d) of finite numbers")
        if len(centres) != len(concentrations):
            raise ValueError(f"concentrations has {len(concentrations)} numbers; centres has {len(centres)} rows")
        if not (concentrations > 0).all():
            raise ValueError(f"concentrations has the number {concentrations.min()}; concentrations must be positive")
        shares = row_weights.shares_of("weights", self.weights, len(centres))
        object.__setattr__(self, "weights", None if shares is None else tuple(shares.tolist()))
        object.__setattr__(self, "centres", tuple(map(tuple, centres.tolist())))
        object.__setattr__(self, "concentrations", tuple(concentrations.tolist()))

    @functools.cached_property
    def _digest(self) -> int:
        """Returns a hash of the centres, the concentrations and the weights."""
        columns, concentrations, weights = self._arrays
        content = hashlib.sha256(repr(columns.shape).encode() + columns.tobytes() + concentrations.tobytes() + weights.tobytes())
        return int.from_bytes(content.digest()[:8], "little", signed=True)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"KernelBase({len(self.centres)} centres of dimension {len(self.centres[0])})"

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the centres as columns, (d, n), the concentrations, (n,), and the weights, (n,) or for equal ones (1,), in float64."""
        columns = np.ascontiguousarray(np.asarray(self.centres).T) + 0.0  # -0 equals 0 and hashes as 0
        return columns, np.asarray(self.concentrations), np.asarray(self.weights or (1 / len(self.centres),)) + 0.0

    @property
    def from_normal_exists(self) -> bool:
        """Returns False: the choice of a kernel needs a random number of its own."""
        return False

    def fits(self, space: Geometry) -> bool:
        """Tells whether the centres have the dimension of the space, and norm 1 on a sphere."""
        columns = self._arrays[0]
        norms = np.linalg.norm(columns, axis=0)
        return len(columns) == space.dimension and (not _curved(space) or bool((np.abs(norms - 1) < UNIT_LENGTH).all()))

    def finest(self, space: Geometry) -> FinePlaces:
        """Returns the centres c_i and the lengths unit / sqrt(k_i), at most unit."""
        columns, concentrations, _ = self._arrays
        return columns.T, space.unit / np.sqrt(np.maximum(concentrations, 1))

    def _apply(self, function, space, x, axis):
        """Returns a compiled function of points, of the centres, the concentrations and log(w / M), at points as columns."""
        columns, concentrations, weights = self._arrays
        with np.errstate(divide="ignore"):  # a weight of 0
            shift = -np.log(len(concentrations)) if self.weights is None else np.log(weights)
        offsets = shift - log_normalisers(space, concentrations)
        settings = (jnp.asarray(values.astype(x.dtype)) for values in (columns, concentrations, offsets))
        rows = jnp.moveaxis(x, axis, 0)
        values = function(_geometry(space), rows.reshape(space.dimension, -1), *settings)
        return values.reshape(*values.shape[:-1], *rows.shape[1:])

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns log sum_i w_i exp(k_i g(x, c_i)) / M(k_i)."""
        return self._apply(_log_density, space, x, axis)

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns sum_i s_i k_i grad g(x, c_i), with the probabilities s_i of the kernels given x."""
        return jnp.moveaxis(self._apply(_score, space, x, axis), 0, axis)

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points: for each a centre by the weights, then a point of its kernel.

        On S^2 the distribution function of <c, x> has an inverse (Ulrich 1984). Other spheres, and the angles of a torus, take rejection
        (Wood 1994, Algorithm VM*).
        """
        check_key(key)
        columns, k, weights = self._arrays
        constants = np.stack([np.expm1(-2 * k), k])
        if _toroidal(space) or (_curved(space) and space.dimension != 3):
            constants = np.array([proposal_of(space.dimension if _curved(space) else 2, value) for value in k.tolist()]).T
        kind = jax.dtypes.canonicalize_dtype(dtype)
        edges = None if self.weights is None else np.cumsum(weights)[:-1]
        settings = (None if values is None else jnp.asarray(values.astype(kind)) for values in (columns, k, constants, edges))
        return _sample(_geometry(space), key, count, *settings).T

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Raises ValueError, because a normal vector leaves no number for the choice of a kernel."""
        del z, axis
        raise ValueError(f"space is {space}; normal vectors cannot be mapped to draws of its KernelBase")


def log_densities(bases: Sequence[KernelBase], space: Any, x: Points) -> Float[np.ndarray, "B N"]:
    """Returns the log densities of kernel density estimates of the same kernels and of different weights, in nats.

    Each kernel is evaluated once, and a product of matrices serves all estimates.

    Args:
        bases: B estimates of the same centres and concentrations, with positive weights.
        space: the space. Its base plays no part.
        x: the points, (N, d).

    Raises:
        ValueError: when two estimates have different kernels.

    >>> from dualebm.spaces import Euclidean
    >>> pair = [KernelBase([[0.0], [9.0]], [1.0, 1.0], weights) for weights in ([0.5, 0.5], [0.25, 0.75])]
    >>> log_densities(pair, Euclidean(1), jnp.zeros((1, 1))).round(4).tolist()  # log(w / sqrt(2 pi))
    [[-1.6121], [-2.3052]]
    """
    first = bases[0]
    if any(base.centres != first.centres or base.concentrations != first.concentrations for base in bases):
        raise ValueError("bases holds estimates of different kernels; they must differ in their weights alone")
    columns, concentrations, _ = first._arrays
    weights = np.stack([np.broadcast_to(base._arrays[2], concentrations.shape) for base in bases])
    offsets = -log_normalisers(space, concentrations)
    settings = (jnp.asarray(values.astype(x.dtype)) for values in (columns, concentrations, offsets, weights))
    return np.asarray(_log_densities(_geometry(space), x.T, *settings), np.float64)
