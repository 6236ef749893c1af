"""Mixtures of von Mises-Fisher distributions fitted to rows on spheres by maximum likelihood.

All of it is on the host, in NumPy float64.
"""

import math
from typing import Any

import numpy as np

from dualebm import row_weights
from dualebm.base_families import VonMisesFisher, log_excess
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import PATIENCE, ROUNDS, STARTS, TOLERANCE, Rows, check_counts, unit_rows, weighted_rows
from dualebm.row_weights import Shares
from dualebm.settings import Count, NonNegative, Seed, checked

LARGEST_CONCENTRATION = 1e7
"""The largest concentration of a component."""

FIRST_ROUNDS = 30
"""The number of rounds from each start. Only the best one goes on (Biernacki, Celeux, Govaert 2003)."""


@checked
def mean_resultant(dimension: Count, concentration: NonNegative) -> float:
    """Returns A(k) = E <mean, x> = I_{d/2}(k) / I_{d/2-1}(k) of the von Mises-Fisher distribution on S^{d-1}.

    The equation is in Mardia, Jupp 2000, section 9.3.2.

    Args:
        dimension: d.
        concentration: k, at least 0.

    >>> round(mean_resultant(3, 2.0), 6) == round(1 / math.tanh(2) - 1 / 2, 6)
    True
    """
    from scipy.special import ive

    k, order = concentration, dimension / 2
    below = float(ive(order - 1, k))
    if below > 1e-290 and k > 0:
        return float(ive(order, k)) / below
    ratio = 0.0  # ive underflows where k is small beside d, and the continued fraction of the ratio converges at once
    for step in range(200, -1, -1):
        ratio = k / (2 * (order + step) + k * ratio)
    return ratio


@checked
def concentration_of(dimension: Count, resultant: NonNegative) -> float:
    """Inverts `mean_resultant`, by bisection and secants between A max(d, (d - 2) / (1 - A^2)) and A d / (1 - A^2) (Tanabe et al. 2007).

    Args:
        dimension: d.
        resultant: the length A of the mean of unit vectors, in [0, 1].

    Returns:
        k, at most 1e7.

    >>> round(concentration_of(3, mean_resultant(3, 50.0)), 6)
    50.0
    """
    from scipy.optimize import brentq

    if resultant < 1e-9:
        return 0.0
    if resultant >= mean_resultant(dimension, LARGEST_CONCENTRATION):
        return LARGEST_CONCENTRATION
    spread = 1 - resultant**2
    low, high = resultant * max(dimension, (dimension - 2) / spread), resultant * dimension / spread
    # The ends are widened against rounding, because the bounds meet where A is small.
    root: Any = brentq(lambda k: mean_resultant(dimension, k) - resultant, 0.999 * low, 1.001 * high, xtol=1e-12 * low)
    return root


def _maximised(rows, parts, n):
    """Returns the weights, mean directions and concentrations that maximise the likelihood of n rows, of which each has parts (n, K)."""
    totals, sums = parts.sum(axis=0), parts.T @ rows
    lengths = np.linalg.norm(sums, axis=1)
    concentrations = [concentration_of(rows.shape[1], length / total) for length, total in zip(lengths, totals, strict=True)]
    return totals / n, sums / lengths[:, None], np.array(concentrations)


def _log_joint(rows, weights, means, concentrations):
    """Returns log weight + log density of each component at each row, (n, K)."""
    excess = np.array([log_excess(rows.shape[1], k) for k in concentrations])
    return np.log(weights) + concentrations * (rows @ means.T - 1) - excess


def _expectation_maximisation(rows, shares, parameters, rounds, tolerance=TOLERANCE):
    """Returns the log likelihood and the parameters after rounds that start at parameters. None where a component dies.

    Weighted rows count as Kish's effective number n of rows, of which row i is n p_i, with its share p_i.
    """
    last, n = -math.inf, row_weights.effective_count(len(rows), shares)
    for _ in range(rounds):
        joint = _log_joint(rows, *parameters)
        largest = joint.max(axis=1, keepdims=True)
        parts = np.exp(joint - largest)
        sums = parts.sum(axis=1, keepdims=True)
        parts, values = parts / sums, (largest + np.log(sums))[:, 0]
        evidence = row_weights.mean(values, shares)
        if shares is not None:
            parts *= n * shares[:, None]
        if (parts.sum(axis=0) < 2).any() or not np.linalg.norm(parts.T @ rows, axis=1).all():
            return None
        if evidence - last < tolerance:
            break
        last, parameters = evidence, _maximised(rows, parts, n)
    return float(values.sum() if shares is None else n * evidence), parameters


def _spread(rng, rows, shares, count):
    """Returns `count` rows as first means: each is drawn with a mass proportional to p_i (1 - <row, nearest mean>) (k-means++)."""
    chosen = [rows[rng.integers(len(rows)) if shares is None else rng.choice(len(rows), p=shares)]]
    while len(chosen) < count:
        lag = np.maximum(1 - (rows @ np.array(chosen).T).max(axis=1), 0)
        lag = lag if shares is None else lag * shares
        if not lag.sum() > 0:
            return None
        chosen.append(rows[rng.choice(len(rows), p=lag / lag.sum())])
    return np.array(chosen)


def _best_start(rng, rows, shares, count):
    """Returns the parameters of the largest likelihood after a few rounds from each of several random starts, or None."""
    fits = []
    for _ in range(STARTS if count > 1 else 1):
        means = _spread(rng, rows, shares, count)
        if means is not None:
            first = np.full(count, 1 / count), means, np.full(count, 2.0 * rows.shape[1])
            fits.append(_expectation_maximisation(rows, shares, first, FIRST_ROUNDS))
    fits = [fit for fit in fits if fit is not None and fit[1][2].max() < LARGEST_CONCENTRATION]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


@checked
def fit_von_mises_fisher(points, max_components: Count = 8, seed: Seed = 0, weights=None) -> MixtureBase:
    """Fits a mixture of von Mises-Fisher distributions by expectation maximisation (Banerjee et al. 2005).

    The maximisation is exact: the mean direction of a component is that of the weighted mean of the rows, and its concentration inverts
    A(k) = I_{d/2}(k) / I_{d/2-1}(k) at the length of that mean. The number of components, from 1 to `max_components`, is that of the
    smallest BIC, -2 log likelihood + (number of parameters) log n. The search ends after three counts in a row of a larger BIC.
    A mixture that has a component of fewer than two rows, or one of the largest concentration, 1e7, is left out. Such components sit on
    repeated rows, where the likelihood has no bound. With weights the likelihood is weighted, and n is Kish's effective number of rows.

    Args:
        points: the rows, of norm 1, (n, d).
        max_components: the largest number of components.
        seed: the seed of the starts.
        weights: the non-negative weights of the rows, (n,). None for equal weights.

    Returns:
        The base measure, a `MixtureBase` of `VonMisesFisher` components, for `Sphere(d)`.

    Raises:
        ValueError: when the rows are too few, not finite, not of norm 1 or all equal, a weight is not allowed, or there are more components
            than rows.

    >>> rows = np.random.default_rng(0).normal(size=(400, 3)) + np.repeat([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]], 200, axis=0)
    >>> [round(weight, 2) for weight in fit_von_mises_fisher(rows / np.linalg.norm(rows, axis=1, keepdims=True), 3).weights]
    [0.5, 0.5]
    """
    rows, shares = weighted_rows(unit_rows(points), weights)
    check_counts(max_components, seed, len(rows))
    d, n = rows.shape[1], row_weights.effective_count(len(rows), shares)
    rng = np.random.default_rng(seed)
    best, least, rises = None, math.inf, 0
    for count in range(1, max_components + 1):
        start = _best_start(rng, rows, shares, count)
        fit = None if start is None else _expectation_maximisation(rows, shares, start, ROUNDS)
        if fit is None or fit[1][2].max() >= LARGEST_CONCENTRATION:
            continue
        bic = -2 * fit[0] + (count * (d + 1) - 1) * math.log(n)
        if bic < least:
            best, least, rises = fit[1], bic, 0
        elif (rises := rises + 1) == PATIENCE:
            break
    if best is None:
        raise ValueError("points has rows that are too close to each other, or of mean 0; no component has a direction and a spread")
    return _mixture(*best)


def _mixture(weights, means, concentrations):
    """Returns the mixture with these weights (K,), mean directions (K, d) and concentrations (K,)."""
    return MixtureBase(weights, [VonMisesFisher(mean, k) for mean, k in zip(means, concentrations, strict=True)])


def improve_directions(mixture: MixtureBase, rows: Rows, shares: Shares, rounds: int, tolerance: float) -> MixtureBase:
    """Returns a mixture of von Mises-Fisher distributions after rounds of expectation and maximisation with weights of rows.

    Where a component would be left with fewer than two effective rows it returns the mixture as it is.

    Args:
        mixture: the mixture to begin with.
        rows: the rows, of norm 1, (n, d).
        shares: their shares, (n,), or None for equal ones.
        rounds: the largest number of rounds.
        tolerance: the gain of the mean log likelihood, in nats, at which the rounds end.

    Returns:
        The mixture, of the same number of components.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    >>> start = MixtureBase((1.0,), (VonMisesFisher([1.0, 0.0], 2.0),))
    >>> [round(x, 6) for x in improve_directions(start, rows, None, 9, 0.0).components[0].mean]
    [0.707107, 0.707107]
    """
    components: Any = mixture.components
    means, concentrations = (np.array([getattr(component, name) for component in components]) for name in ("mean", "concentration"))
    fit = _expectation_maximisation(rows, shares, (np.asarray(mixture.weights), means, concentrations), rounds, tolerance)
    return mixture if fit is None else _mixture(*fit[1])
