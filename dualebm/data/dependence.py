"""Columns that are functions of other columns, exactly or nearly: rows near a plane, a curve or a surface have no bounded density.

Exact relations are linear and are sought in all rows. Others are sought in normal scores: the k-th smallest of n values becomes the normal
quantile of (k - 1/2) / n, so that units, outliers and clusters of tight rows do not change what is measured.
"""

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "n d"]

CONSTANT = 1e-12
"""The range of a column, relative to its largest absolute value, at or below which the column counts as constant."""

NEARLY_FUNCTION = 0.03
"""The standard deviation of a column about a function of another, in normal scores, below which it is nearly that function."""

THIN, FLAT = 0.025, 0.12
"""The thickness of neighbourhoods in normal scores, and its ratio to their width, below which rows lie near a surface.

For d independent normal columns the ratio is above 0.3.
"""

FEWEST_ROWS, COMPARED_ROWS, COMPARED_COLUMNS = 50, 2000, 100
"""Functions are sought in at least so many rows, and among at most so many rows and columns."""

NEIGHBOURHOODS, SURFACE_COLUMNS = 500, 30
"""Surfaces are sought in about so many neighbourhoods, and in at most so many columns, as principal components take long in more."""


def unit_range(x: Rows) -> Rows:
    """Return (x - min) / (max - min) of each column, or zeros for a column of one value. Values of any size may occur.

    Args:
        x: finite rows, (n, d).

    Returns:
        Rows in [0, 1], (n, d).

    >>> unit_range(np.array([[-1e308, 3.0], [1e308, 3.0]])).tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    x = x / 2 - x.min(axis=0) / 2  # halves keep the range finite
    largest = x.max(axis=0)
    return x / np.where(largest > 0, largest, 1)


def standardised(x: Rows) -> Rows:
    """Return columns of mean 0 and variance 1.

    Args:
        x: finite rows, (n, d), of which no column is constant.

    Returns:
        The standardised rows, (n, d).

    >>> standardised(np.array([[1e300], [3e300]])).tolist()
    [[-1.0], [1.0]]
    """
    z = unit_range(x)
    z = z - z.mean(axis=0)
    return z / np.sqrt(np.mean(z**2, axis=0))


def constant_columns(x: Rows) -> list[int]:
    """Return the columns that are constant up to rounding.

    Args:
        x: finite rows, (n, d).

    Returns:
        The positions of these columns, from 0.

    >>> constant_columns(np.array([[0.0, 7.0], [1.0, 7.0]]))
    [1]
    """
    low, high = x.min(axis=0), x.max(axis=0)
    return np.flatnonzero(high / 2 - low / 2 <= CONSTANT / 2 * np.maximum(np.abs(low), np.abs(high))).tolist()


def equal_columns(x: Rows) -> list[int]:
    """Return the first column that others equal, and these.

    Args:
        x: rows, (n, d).

    Returns:
        Their positions, from 0, or an empty list where all columns differ.

    >>> equal_columns(np.array([[0.0, 1.0, 0.0], [1.0, 3.0, 1.0]]))
    [0, 2]
    """
    groups = {}
    for j, column in enumerate(x.T):
        groups.setdefault((column + 0.0).tobytes(), []).append(j)  # adding 0 makes -0 equal to 0
    return next((columns for columns in groups.values() if len(columns) > 1), [])


def linear_functions(x: Rows, share: float) -> list[tuple[int, list[int], float]]:
    """Return the columns that are linear functions of columns before them, up to a share of their variance.

    The regression of column j on the columns before it that are no such functions leaves 1 - R^2 of its variance. It is the square of
    an entry of the Cholesky factor of the correlations.

    Args:
        x: the rows, (n, d), without constant columns.
        share: the largest share of the variance that a linear function leaves.

    Returns:
        For each such column its index, those of the columns with a coefficient that counts, and the share that is left.

    >>> rows = np.random.default_rng(0).normal(size=(9, 3))
    >>> [(j, others) for j, others, _ in linear_functions(np.c_[rows, rows[:, 0] - 3 * rows[:, 2]], 1e-8)]
    [(3, [0, 2])]
    """
    from scipy.linalg import solve_triangular

    z = standardised(x)
    correlations = z.T @ z / len(z)
    d = len(correlations)
    try:  # quickly for many columns: where the smallest eigenvalue is above `share`, all that is left is above it
        np.linalg.cholesky(correlations - share * np.eye(d))
        return []
    except np.linalg.LinAlgError:
        pass
    factor, kept, functions = np.zeros((d, d)), [], []
    for j in range(d):
        k = len(kept)
        row = solve_triangular(factor[:k, :k], correlations[kept, j], lower=True) if k else np.zeros(0)
        left = max(0.0, 1 - float(row @ row))
        if left > share:
            factor[k, :k], factor[k, k] = row, np.sqrt(left)
            kept.append(j)
            continue
        coefficients = np.abs(solve_triangular(factor[:k, :k].T, row, lower=False))
        least = max(0.01 * coefficients.max(), left**0.5)
        functions.append((j, [i for i, size in zip(kept, coefficients, strict=True) if size > least], left))
    return functions


def normal_scores(x: Rows) -> Rows:
    """Return the normal scores of the ranks within each column. Equal values get ranks in a random order with a fixed seed.

    Args:
        x: rows, (n, d).

    Returns:
        The quantiles of N(0, 1) at (rank + 1/2) / n, with ranks from 0, (n, d).

    >>> normal_scores(np.array([[3.0], [1e9], [2.0]])).round(2).tolist()
    [[0.0], [0.97], [-0.97]]
    """
    from scipy.special import ndtri

    generator, n = np.random.default_rng(0), len(x)
    scores, quantiles = np.empty(x.shape), ndtri((np.arange(n) + 0.5) / n)
    for j, column in enumerate(x.T):
        scores[np.lexsort((generator.random(n), column)), j] = quantiles
    return scores


def functions_of_one(scores: Rows) -> list[tuple[int, int, float]]:
    """Return the columns that are nearly functions of another column.

    Rows are put in the order of column i. The residual of y_k about the line through the rows before and after it has the variance
    s^2 (1 + w^2 + (1 - w)^2), where w is the place of x_k between theirs, as the function is nearly linear between neighbours
    (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73, 1986). The median of the absolute residuals gives s.

    Args:
        scores: the rows in normal scores, (n, d).

    Returns:
        For each such column its index, that of the column of which it is a function, and s. No column is a function of one that
        is in the list. Of two that are functions of each other, the later is in the list.

    >>> x = np.linspace(-1, 2, 100)
    >>> functions_of_one(normal_scores(np.stack([x**2, np.sin(99 * x), x], axis=1)))[0][:2]
    (0, 2)
    """
    d = scores.shape[1]
    spread = np.full((d, d), np.inf)  # of column j about a function of column i
    for i in range(d):
        z = scores[np.argsort(scores[:, i])]
        before, at, after = z[:-2], z[1:-1], z[2:]
        w = (at[:, i] - before[:, i]) / (after[:, i] - before[:, i])
        residuals = at - (1 - w)[:, None] * before - w[:, None] * after
        spread[i] = np.median(np.abs(residuals) / np.sqrt(1 + w**2 + (1 - w) ** 2)[:, None], axis=0) / 0.6745
        spread[i, i] = np.inf
    functions = {}
    for j in reversed(range(d)):
        left = np.where(np.isin(np.arange(d), list(functions)), np.inf, spread[:, j])
        if left.min() < NEARLY_FUNCTION:
            functions[j] = (int(np.argmin(left)), float(left.min()))
    return [(j, *functions[j]) for j in sorted(functions)]


def surface(scores: Rows) -> tuple[list[int], float] | None:
    """Return the columns in which rows lie near a curve or a surface, or None where they do not.

    The thickness of a neighbourhood of 3 (d + 1) rows is the standard deviation along its last principal component.

    Args:
        scores: the rows in normal scores, (n, d).

    Returns:
        The columns across which neighbourhoods are thin, and the median of their thickness. None also for more than 30 columns.

    >>> angle = np.linspace(0, 6, 400)
    >>> surface(normal_scores(np.stack([np.cos(angle), np.sin(angle)], axis=1)))[0]
    [0, 1]
    """
    from scipy.spatial import KDTree

    n, d = scores.shape
    size = 3 * (d + 1)
    if d > SURFACE_COLUMNS or n < 4 * size:
        return None
    centres = scores[:: max(1, n // NEIGHBOURHOODS)]
    near = scores[KDTree(scores).query(centres, size)[1]]
    near = near - near.mean(axis=1, keepdims=True)
    variances, directions = np.linalg.eigh(np.swapaxes(near, 1, 2) @ near / size)
    thickness, width = np.sqrt(np.maximum(variances[:, 0], 0)), np.sqrt(variances[:, -1])
    if np.median(thickness) >= THIN or np.median(thickness / width) >= FLAT:
        return None
    weights = np.mean(directions[:, :, 0] ** 2, axis=0)
    return np.flatnonzero(weights > 0.5 / d).tolist(), float(np.median(thickness))
