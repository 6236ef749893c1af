"""Distances between two samples in ambient space, which need neither log Z nor a density.

The samples may have weights and any counts. MMD^2 is `kernels.squared_mmd`. On a torus these are distances between coordinates,
which see its seam.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm._internal.keys import check_key
from dualebm.kernels import Distance, squared_mmd
from dualebm.measures import Samples, shares
from dualebm.settings import Count, checked

ELEMENTS = 2**20
"""The number of projected points that are in memory at a time."""


@checked
def check_pair(first: Samples, second: Samples) -> None:
    """Check that both samples hold points of the same number of components, and weights of the points' shape.

    Args:
        first: a sample.
        second: another sample.

    Raises:
        ValueError: a sample is empty, or a shape is another.

    >>> check_pair(Samples(jnp.eye(2)), Samples(jnp.eye(3)))
    Traceback (most recent call last):
    ...
    ValueError: second has points of shape (3, 3); it must be (count, 2), as first
    """
    for name, samples in (("first", first), ("second", second)):
        if samples.points.ndim != 2 or not samples.points.shape[0]:
            raise ValueError(f"{name} has points of shape {samples.points.shape}; it must hold at least one point, (count, d)")
        weights = samples.log_weights
        if weights is not None and weights.shape != samples.points.shape[:1]:
            raise ValueError(f"{name} has log_weights of shape {weights.shape}; it must be {samples.points.shape[:1]}")
    if first.points.shape[1] != second.points.shape[1]:
        raise ValueError(f"second has points of shape {second.points.shape}; it must be (count, {first.points.shape[1]}), as first")


@checked
def energy_distance(first: Samples, second: Samples) -> Float[Array, ""]:
    """Return the energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of two samples (Szekely, Rizzo 2013).

    It is the V-statistic, streamed in time n m. Between two samples of one law its mean is (1/n + 1/m) E|x - x'|, not 0. Its rounding is
    a few eps of E|x - y|.

    Args:
        first: the points x, (n, d), with or without weights.
        second: the points y, (m, d), with or without weights.

    Returns:
        The distance, a scalar in units of length.

    Raises:
        ValueError: the samples do not fit together (see `check_pair`).

    >>> float(energy_distance(Samples(jnp.zeros((2, 1))), Samples(jnp.ones((3, 1)))))
    2.0
    """
    check_pair(first, second)
    return squared_mmd(Distance(), first, second)


def quantile_coupling(
    first: Float[Array, " n"], second: Float[Array, " m"]
) -> tuple[Int[Array, " n+m"], Int[Array, " n+m"], Float[Array, " n+m"]]:
    """Return the monotone coupling (i, j, mass) of two laws on the line, which puts mass_k on the pair of points (i_k, j_k).

    The coupling has n + m pairs. Where one law has more mass by rounding, the excess goes with the last point of the other.

    Args:
        first: the cumulative weights of the sorted points of one law, (n,), which end at 1.
        second: those of the other law, (m,), which end at 1.

    Returns:
        The indices i, the indices j and the masses, each (n + m,).

    >>> [a.tolist() for a in quantile_coupling(jnp.array([0.5, 1.0]), jnp.array([0.25, 1.0]))]
    [[0, 0, 1, 1], [0, 1, 1, 1], [0.25, 0.25, 0.5, 0.0]]
    """
    n, m = first.shape[0], second.shape[0]
    is_first = jnp.concatenate([jnp.ones(n, jnp.int32), jnp.zeros(m, jnp.int32)])
    levels, is_first = jax.lax.sort((jnp.concatenate([first, second]), is_first), num_keys=1)
    passed = jnp.cumsum(is_first) - is_first  # levels of the first below this one
    i, j = jnp.minimum(passed, n - 1), jnp.minimum(jnp.arange(n + m) - passed, m - 1)
    return i, j, jnp.diff(levels, prepend=0)


@checked
def sliced_wasserstein(
    key: Key[Array, ""], first: Samples, second: Samples, *, projections: Count = 100, order: Literal[1, 2] = 2
) -> Float[Array, ""]:
    """Return the sliced Wasserstein distance: (the mean over random unit directions of W_p^p of the projections)^(1/p).

    Each W_p is exact (Rabin et al. 2011; Bonneel et al. 2015). Of a translation by s, the distance of order 2 is |s| / sqrt(d)
    in the mean square. Cumulative weights round to eps, so that a point at a distance r may add eps r^p to W_p^p.

    Args:
        key: the random key of the directions.
        first: one sample.
        second: the other sample.
        projections: the number of directions.
        order: the order p, 1 or 2.

    Returns:
        The distance, a scalar in units of length.

    Raises:
        ValueError: for another order, a number of projections below 1, or samples that `check_pair` refuses.

    >>> line = jnp.array([[0.0], [1.0]])
    >>> float(sliced_wasserstein(jax.random.key(0), Samples(line), Samples(line + 3), projections=2))
    3.0
    """
    check_key(key)
    check_pair(first, second)
    centre = jnp.mean(second.points, axis=0, keepdims=True)  # keeps the digits that differ between large coordinates
    points = [_living(samples) - centre for samples in (first, second)]
    n, m = (x.shape[0] for x in points)
    dtype = points[0].dtype
    weights = [None if s.log_weights is None else shares(s.log_weights) for s in (first, second)]
    equal = [jnp.arange(1, count + 1, dtype=dtype) / count for count in (n, m)]
    fixed = quantile_coupling(*equal) if all(w is None for w in weights) else None  # the same for all directions

    def cost(direction):
        lines = [jnp.matmul(x, direction, precision="highest") for x in points]
        values, levels = zip(*map(_sorted, lines, weights, equal), strict=True)
        i, j, mass = fixed or quantile_coupling(*levels)
        return jnp.sum(mass * jnp.abs(values[0][i] - values[1][j]) ** order)

    directions = jax.random.normal(key, (projections, points[0].shape[1]), dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    costs = jax.lax.map(cost, directions, batch_size=min(projections, max(ELEMENTS // (n + m), 1)))
    return jnp.mean(costs) ** (1 / order)


def _living(samples: Samples) -> Float[Array, "n d"]:
    """Return the points, with points of weight zero moved to the heaviest point. Rounding of cumulative weights may give them mass."""
    x, log_weights = samples
    if log_weights is None:
        return x
    return jnp.where((shares(log_weights) > 0)[:, None], x, x[jnp.argmax(log_weights)][None])


def _sorted(values, weights, equal):
    """Return the values in ascending order and their cumulative weights."""
    if weights is None:
        return jnp.sort(values), equal
    values, weights = jax.lax.sort((values, weights), num_keys=1)
    return values, jnp.cumsum(weights)


@checked
def median_distance(
    x: Float[np.ndarray, "n d"] | Float[Array, "n d"], largest: Count = 1000, name: str = "points"
) -> float:
    """Return the median distance between two different points, a bandwidth for kernels (median heuristic, Gretton et al. 2012).

    Args:
        x: the points as rows, (n, d).
        largest: the largest number of rows that are used, evenly spaced in their order.
        name: the name of x in the error.

    Returns:
        The median of the distances that are not zero, in units of length.

    Raises:
        ValueError: when the points are none, not finite, or all equal among the rows that are used.

    >>> median_distance(np.array([[0.0], [0.0], [3.0], [4.0]]))
    3.0
    """
    from scipy.spatial.distance import pdist  # it takes a tenth of a second to import

    x = np.asarray(x, np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"{name} has shape {x.shape} and {(~np.isfinite(x)).sum()} values that are not finite; give finite points")
    x = x[np.unique(np.linspace(0, len(x) - 1, largest).astype(int))]
    distances = pdist(x)
    if not distances.any():
        raise ValueError(f"{name} has no two different points among {len(x)}; a median distance needs them")
    return float(np.median(distances[distances > 0]))
