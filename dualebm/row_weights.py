"""Weights of rows: their check, their effective number, weighted means with standard errors, and copies of rows in their proportion.

A row of weight w counts as w equal rows, up to a common factor: only ratios of weights matter. So weights are divided by their sum, and
equal weights are None. All of it is on the host, in NumPy float64.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Shares = Float[np.ndarray, " _"] | None
"""Weights of sum 1, (n,), or None for equal weights."""


def check(name: str, weights: Any, count: int) -> Float[np.ndarray, " n"]:
    """Return weights of rows in float64, or raise ValueError where they are not allowed.

    Args:
        name: the name of the argument in errors.
        weights: the weights, non-negative, (n,).
        count: the number n of rows.

    Returns:
        The weights, (n,).

    Raises:
        ValueError: a weight is negative or not finite, all are zero, or their number is not that of the rows.

    >>> check("weights", [1, 3], 2).tolist()
    [1.0, 3.0]
    """
    values = np.asarray(weights)
    if values.dtype.kind not in "biuf" or values.shape != (count,):
        raise ValueError(f"{name} has shape {values.shape} and dtype {values.dtype}; it must have one number for each of {count} rows")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name} has {values[row]:g} at row {row + 1}; weights must be finite and not negative")
    if not values.any():
        raise ValueError(f"{name} is zero at all {count} rows; at least one weight must be positive")
    return values


def shares_of(name: str, weights: Any, count: int) -> Shares:
    """Return weights divided by their sum, or None where all are equal.

    Args:
        name: the name of the argument in errors.
        weights: the weights, non-negative, (n,), or None for equal weights.
        count: the number n of rows.

    Returns:
        The shares, (n,), or None.

    Raises:
        ValueError: the weights are not allowed (`check`).

    >>> shares_of("weights", [1, 3], 2).tolist(), shares_of("weights", [2, 2], 2)
    ([0.25, 0.75], None)
    """
    if weights is None:
        return None
    values = check(name, weights, count)
    if (values == values[0]).all():
        return None
    largest = float(values.max())  # the sum of large weights may not be finite
    total = math.fsum(values / largest)
    return values if abs(total * largest - 1) < 1e-14 else values / largest / total  # shares stay as they are


def subset(shares: Shares, index: Any) -> Shares:
    """Return the shares of some rows, divided by their sum, or None where they are equal.

    Args:
        shares: the shares of all rows, (n,), or None for equal ones.
        index: the indices of the rows, or booleans, (n,).

    >>> subset(np.array([0.5, 0.125, 0.375]), [1, 2]).tolist()
    [0.25, 0.75]
    """
    return None if shares is None else shares_of("weights", shares[index], len(shares[index]))


def effective_count(count: int, shares: Shares) -> float:
    """Return Kish's effective number of rows, 1 / sum_i p_i^2, which is n where the n shares p_i are equal.

    Args:
        count: the number n of rows.
        shares: their shares, (n,), or None.

    >>> effective_count(3, None), effective_count(3, np.array([0.5, 0.5, 0.0]))
    (3, 2.0)
    """
    return count if shares is None else float(1 / np.sum(shares**2))


def mean(values: Float[np.ndarray, " n"], shares: Shares) -> float:
    """Return the weighted mean sum_i p_i v_i of values, or the plain mean.

    Args:
        values: the values v_i, (n,).
        shares: the positive shares p_i, (n,), of sum 1, or None for equal shares.

    Returns:
        The mean.

    >>> mean(np.array([1.0, 5.0]), np.array([0.75, 0.25]))
    2.0
    """
    return float(np.mean(values) if shares is None else np.sum(shares * values))


def standard_error(values: Float[np.ndarray, " n"], shares: Shares) -> float:
    """Return the standard error of the weighted mean of independent values, sqrt(sum_i p_i^2 (v_i - mean)^2 / c).

    With c = 1 - 2 sum_i p_i^3 / sum_i p_i^2 + sum_i p_i^2 its square has the right mean, where the values have one variance whatever their
    shares p_i. For equal shares it is the standard deviation (divisor n - 1) over sqrt(n). It is infinite for a single value.

    Args:
        values: the values v_i, (n,).
        shares: their positive shares p_i, (n,), or None.

    >>> standard_error(np.array([1.0, 3.0]), None), round(standard_error(np.array([1.0, 3.0]), np.array([0.25, 0.75])), 6)
    (1.0, 1.118034)
    """
    if len(values) < 2:
        return math.inf
    if shares is None:
        return float(np.std(values, ddof=1) / math.sqrt(len(values)))
    square, cube = float(np.sum(shares**2)), float(np.sum(shares**3))
    spread, factor = float(np.sum(shares**2 * (values - mean(values, shares)) ** 2)), 1 - 2 * cube / square + square
    return math.sqrt(spread / factor) if factor > 1e-12 else math.inf  # one row has all the weight


def copies(shares: Float[np.ndarray, " n"], total: int) -> Int[np.ndarray, " total"]:
    """Return the indices of `total` copies of rows: row i occurs total p_i times, rounded up or down (systematic sampling).

    Args:
        shares: the shares p_i of the rows, (n,).
        total: the number of copies of all rows together.

    >>> copies(np.array([0.25, 0.0, 0.75]), 4).tolist()
    [0, 2, 2, 2]
    """
    edges = np.cumsum(shares)
    return np.searchsorted(edges / edges[-1], (np.arange(total) + 0.5) / total, side="right")
