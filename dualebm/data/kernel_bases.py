"""Kernel density estimates of rows: one concentration by cross-validation, or concentrations by the distances to near rows.

All of it is on the host, in NumPy. The rows must be points of the space of the training: fit after standardising.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from dualebm import row_weights
from dualebm._internal import checks
from dualebm.base_kernels import KernelBase, log_normalisers
from dualebm.data.bases import Rows, finite_rows, unit_rows, weighted_rows
from dualebm.geometry import Space
from dualebm.settings import Count, Positive, Seed, checked

SCORED, PAIRS = 2000, 2**25
"""The largest number of rows whose likelihood chooses the concentration, and of pairs of such a row and any row."""

LARGEST_ON_FLAT, LARGEST_ON_COMPACT = 3e3, 3e5
"""The largest concentrations that are tried: on R^d, of rows of mean variance 1; on spheres and tori."""

NEIGHBOUR = 7
"""The neighbour of a row whose distance sets the width of the kernel there."""

LARGEST_AT_NEIGHBOURS = 1e6
"""The largest concentration of a kernel whose width is set by a neighbour."""


@checked
def points_of(points, space: Space) -> Rows:
    """Returns rows as points of a space, in float64.

    Args:
        points: the rows, (n, d). On a sphere they are normalised, and on a torus taken modulo the period.
        space: the space.

    Raises:
        ValueError: when the rows are no points of the space, fewer than 2, not finite or all equal.

    >>> from dualebm.spaces import Torus
    >>> points_of([[0.5], [1.25]], Torus(1)).tolist()
    [[0.5], [0.25]]
    """
    rows = unit_rows(points) if space.mean_curvature > 0 else finite_rows(points)
    if rows.shape[1] != space.dimension:
        raise ValueError(f"points has {rows.shape[1]} columns; the space has dimension {space.dimension}")
    return np.mod(rows, 2 * math.pi * space.unit) if space.periodic else rows


@checked
def deal(n: Count, folds: Count, seed: Seed) -> Int[np.ndarray, " n"]:
    """Deals n rows to folds whose sizes differ by at most one, in a random order, and returns the index of the fold of each row.

    Args:
        n: the number of rows.
        folds: the number of folds, from 2 to n.
        seed: the seed of the order.

    Raises:
        ValueError: when the number of folds or the seed is not allowed.

    >>> np.bincount(deal(7, 3, 0)).tolist()
    [3, 2, 2]
    """
    checks.count("folds", folds, 2, n)
    fold = np.empty(n, int)
    fold[np.random.default_rng(seed).permutation(n)] = np.arange(n) % folds
    return fold


def _chordal(rows, space):
    """Returns coordinates X of rows with proximity -|X - Y|^2 / 2: on a torus the cosines and sines of the angles, else the rows."""
    return np.concatenate([np.cos(rows / space.unit), np.sin(rows / space.unit)], axis=1) if space.periodic else rows


def _manifold_dimension(space):
    """Returns the dimension of the space as a manifold: d - 1 on a sphere, else d."""
    return space.dimension - (space.mean_curvature > 0)


def _largest(score: Callable[[float], float], start: float, low: float, high: float) -> float:
    """Returns a point near `start` where a function of the logarithm of a number is largest, between bounds.

    It walks in steps of log 2 both ways until two values in a row are lower than the best one, and refines the best one by Brent's method.
    """
    from scipy.optimize import minimize_scalar

    values = {start: score(start)}
    for bound in (high, low):
        z, worse = start, 0
        while worse < 2 and z != bound:
            z = min(z + math.log(2), bound) if bound == high else max(z - math.log(2), bound)
            worse = worse + 1 if (value := score(z)) <= max(values.values()) else 0
            values[z] = value
    best = max(values, key=lambda z: values[z])
    near = max(best - math.log(2), low), min(best + math.log(2), high)
    if near[0] == near[1]:
        return best
    refined: Any = minimize_scalar(lambda z: -score(z), bounds=near, method="bounded", options={"xatol": 0.02})
    return float(refined.x) if -refined.fun > values[best] else best


@checked
def fit_kernel(points, space: Space, *, folds: Count = 5, seed: Seed = 0, weights=None) -> KernelBase:
    """Fits a kernel density estimate whose kernels have one concentration, the one of the largest cross-validated log likelihood.

    The density at a row is that of the kernels around the rows of other folds. At most 2000 rows are scored, and fewer where there are
    more than 16,777 rows, so that the pairs stay in memory. The concentration lies between 0.1 / s^2 and a bound, with s^2 the mean
    variance of the rows along a direction of the space. The bound is 3000 / s^2 on R^d, and 3e5 on spheres and tori: with repeated
    rows the likelihood would grow with the concentration without a bound. With weights of rows the likelihood and s^2 are weighted, and
    the weights of the kernels are those of the rows.

    Args:
        points: the rows, points of the space, (n, d).
        space: the space. Its base plays no part.
        folds: the number of folds, from 2 to n.
        seed: the seed of the folds and of the choice of the scored rows.
        weights: the non-negative weights of the rows, (n,). None for equal weights.

    Returns:
        The base measure, with the rows of positive weight as centres.

    Raises:
        ValueError: when the rows are no points of the space, fewer than 2, not finite or all equal, or the number of folds or a weight is
            not allowed.

    >>> from dualebm.spaces import Euclidean
    >>> fitted = fit_kernel(np.random.default_rng(1).normal(size=(200, 1)), Euclidean(1))
    >>> 2 < fitted.concentrations[0] < 40
    True
    """
    from scipy.spatial.distance import cdist

    rows, shares = weighted_rows(points_of(points, space), weights)
    n, x, dimension = len(rows), _chordal(rows, space), _manifold_dimension(space)
    fold = deal(n, folds, seed)
    scored = np.random.default_rng([seed, 1]).permutation(n)[: min(SCORED, max(PAIRS // n, 1))]
    lag = (0.5 * cdist(x[scored], x, "sqeuclidean")).astype(np.float32)
    lag[fold[scored][:, None] == fold[None]] = np.inf
    nearest = lag.min(axis=1)
    lag -= nearest[:, None]
    judges = row_weights.subset(shares, scored)
    relative = None if shares is None else (shares / shares.max()).astype(np.float32)

    def score(log_concentration):  # up to a constant, the mean log of the numbers of kernels
        k = math.exp(log_concentration)
        kernels = np.exp(np.float32(-k) * lag)
        sums = kernels.sum(axis=1) if relative is None else np.maximum(kernels @ relative, np.finfo(np.float32).tiny)
        return row_weights.mean(np.log(sums) - k * nearest, judges) - float(log_normalisers(space, np.array([k]))[0])

    square = np.var(x, axis=0) if shares is None else shares @ (x - shares @ x) ** 2
    variance = float(np.sum(square)) / dimension
    high = LARGEST_ON_COMPACT if space.compact else LARGEST_ON_FLAT / variance
    low = min(0.1 / variance, high)
    start = min(max(row_weights.effective_count(n, shares) ** (2 / (dimension + 4)) / variance, low), high)
    concentration = math.exp(_largest(score, *map(math.log, (start, low, high))))
    return KernelBase(rows, np.full(n, concentration), shares)


@checked
def fit_neighbours(points, space: Space, factor: Positive, weights=None) -> KernelBase:
    """Returns a kernel density estimate whose kernels are narrow where rows are dense (Breiman, Meisel, Purcell 1977).

    The concentration at a row is factor m / r^2, with m the dimension of the space as a manifold, and r the distance to the 7th nearest
    other row: a chord on spheres and on the circles of a torus, in the unit of length of the space. It is at most 1e6. With weights, r is
    the distance within which the other rows have 7 / k of the weight of all rows, with Kish's effective number k of rows.

    Args:
        points: the rows, points of the space, (n, d), n at least 8.
        space: the space. Its base plays no part.
        factor: the factor, positive. With 1, the root mean square distance of draws of a kernel from its centre is about r.
        weights: the non-negative weights of the rows, (n,), k at least 8. None for equal weights.

    Returns:
        The base measure, with the rows of positive weight as centres.

    Raises:
        ValueError: when the rows are no points of the space, too few, not finite or all equal, the factor is not positive, or a weight is
            not allowed.

    >>> from dualebm.spaces import Euclidean
    >>> fit_neighbours(np.arange(8.0)[:, None], Euclidean(1), 49.0).concentrations[0]
    1.0
    """
    rows, shares = weighted_rows(points_of(points, space), weights)
    count = row_weights.effective_count(len(rows), shares)
    if count <= NEIGHBOUR:
        many = f"{count} rows" if shares is None else f"{len(rows)} rows, {count:.3g} by Kish's effective number"
        raise ValueError(f"points has {many}; kernels by neighbours need at least {NEIGHBOUR + 1}")
    distance = _distance_to(NEIGHBOUR / count, _chordal(rows, space), shares)
    scale = factor * _manifold_dimension(space)
    return KernelBase(rows, scale / np.maximum(distance**2, scale / LARGEST_AT_NEIGHBOURS), shares)


def _distance_to(mass, x, shares):
    """Returns the distance from each row within which the other rows have a given share of the weight, (n,)."""
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    tree, nearest, n = cKDTree(x), NEIGHBOUR + 1, len(x)
    if shares is None:
        return tree.query(x, nearest)[0][:, -1]
    distance, left = np.empty(n), np.arange(n)
    while len(left):  # rows whose nearest rows have too little weight take twice as many
        nearest = min(2 * nearest, n)
        distances, index = tree.query(x[left], nearest)
        # A row among rows that are equal to it need not be the first, and counts itself nowhere.
        inside = np.cumsum(np.where(index == left[:, None], 0, shares[index]), axis=1) >= mass * (1 - 1e-9)
        place = np.where(inside.any(axis=1), np.argmax(inside, axis=1), nearest - 1)
        done = inside.any(axis=1) | (nearest == n)
        distance[left[done]] = distances[np.arange(len(left)), place][done]
        left = left[~done]
    return distance
