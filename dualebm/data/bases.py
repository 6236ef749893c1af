"""Base measures fitted to rows by maximum likelihood: a normal distribution, Gaussian mixtures, von Mises-Fisher mixtures.

All of it is on the host, in NumPy float64. The rows must be points of the space of the training: fit after standardising.
"""

import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from dualebm._internal import checks
from dualebm.base_families import Normal, VonMisesFisher, log_excess
from dualebm.base_mixtures import MixtureBase

Rows = Float[np.ndarray, "n d"]

COLLINEAR = 1e-8
"""The eigenvalue of the correlations of columns at or below which a column counts as a linear function of others."""

FLOOR = 1e-6
"""The variance that scikit-learn adds to each component, where the rows have variance 1."""

LARGEST_CONCENTRATION = 1e7
"""The largest concentration of a von Mises-Fisher component."""

STARTS = 3
"""The number of starts of each fit of a mixture. The best one counts."""

ROUNDS = 500
"""The largest number of rounds of expectation and maximisation."""

FIRST_ROUNDS = 30
"""The number of rounds from each start of a von Mises-Fisher mixture. Only the best one goes on (Biernacki, Celeux, Govaert 2003)."""

PATIENCE = 3
"""The number of counts of components after that of the smallest BIC, at which no larger ones are tried."""

TOLERANCE = 1e-9
"""The gain of the mean log likelihood, in nats, at which the rounds end."""


def finite_rows(points, columns: int = 1) -> Rows:
    """Returns rows in float64, to which a measure can be fitted.

    Args:
        points: the rows, (n, d).
        columns: the smallest allowed d.

    Raises:
        ValueError: when the array is no matrix, or the rows are fewer than 2, not finite or all equal.

    >>> finite_rows([[1], [2]]).tolist()
    [[1.0], [2.0]]
    """
    rows = np.asarray(points, np.float64)
    if rows.ndim != 2 or rows.shape[1] < columns:
        raise ValueError(f"points has shape {rows.shape}; it must be rows of coordinates, (n, d)")
    if not np.isfinite(rows).all():
        raise ValueError(f"points has numbers that are not finite in row {int(np.argmin(np.isfinite(rows).all(axis=1)))}")
    if len(rows) < 2:
        raise ValueError(f"points has {len(rows)} rows; a fit needs at least 2")
    if (rows == rows[0]).all():
        raise ValueError("points has equal rows; a fit needs rows that differ")
    return rows


def unit_rows(points) -> Rows:
    """Returns rows of norm 1 in float64. Rows that are near the unit sphere are normalised.

    Args:
        points: the rows, (n, d), d at least 2.

    Raises:
        ValueError: when `finite_rows` raises it, or when the norm of a row is not 1.

    >>> unit_rows([[1, 0], [0, 1.0001]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    rows = finite_rows(points, 2)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    worst = int(np.argmax(np.abs(norms - 1)))
    if abs(norms[worst, 0] - 1) > checks.ON_SPACE:
        raise ValueError(f"points has rows off the unit sphere (row {worst} has norm {norms[worst, 0]:.6g}); normalise them")
    return rows / norms


def _standardised(rows: Rows) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Returns rows of mean 0 and variance 1, the means and the scales, or raises ValueError where the covariance is singular."""
    mean = rows.mean(axis=0)
    scale = np.sqrt(np.mean((rows - mean) ** 2, axis=0))
    # The rounding of the mean leaves a constant column a scale of this size.
    constant = np.flatnonzero(scale <= 1e-14 * np.abs(rows).max(axis=0))
    if constant.size:
        raise ValueError(f"points has the constant columns {constant.tolist()}; leave them out")
    n, d = rows.shape
    if n <= d:
        raise ValueError(f"points has {n} rows of {d} columns; a covariance matrix needs at least {d + 1} rows")
    standard = (rows - mean) / scale
    values, vectors = np.linalg.eigh(standard.T @ standard / n)
    if values[0] <= COLLINEAR:
        columns = np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3)
        raise ValueError(
            f"points has columns {columns.tolist()} of which one is a linear function of the others, or equals another; leave it out"
        )
    return standard, mean, scale


def _check_counts(max_components: int, seed: int, n: int) -> None:
    checks.count("max_components", max_components)
    checks.seed("seed", seed)
    if max_components > n:
        raise ValueError(f"max_components is {max_components}; points has {n} rows, and each component needs one")


def fit_normal(points) -> Normal:
    """Fits a normal distribution: the mean and the covariance of the rows, with divisor n.

    Args:
        points: the rows, (n, d), n at least d + 1.

    Returns:
        The base measure, for `Euclidean(d)`.

    Raises:
        ValueError: when the rows are too few or not finite, or a column is constant or a linear function of other columns.

    >>> fit_normal([[0.0], [2.0], [4.0]]).mean
    (2.0,)
    """
    rows = finite_rows(points)
    standard, mean, scale = _standardised(rows)
    return Normal(mean, standard.T @ standard / len(rows) * scale * scale[:, None])


def fit_mixture(points, max_components: int = 8, seed: int = 0) -> MixtureBase:
    """Fits a mixture of normal distributions by expectation maximisation, with scikit-learn's `GaussianMixture`.

    The number of components, from 1 to `max_components`, and the kind of the covariances, full or diagonal, are those of the smallest
    BIC, -2 log likelihood + (number of parameters) log n. The search ends after three counts in a row of a larger BIC.
    A mixture that has a component of fewer than two rows, or one whose variance in some direction shrinks to the floor, is left out. Such
    components sit on repeated rows, where the likelihood has no bound.

    Args:
        points: the rows, (n, d), n at least d + 1.
        max_components: the largest number of components.
        seed: the seed of the starts.

    Returns:
        The base measure, a `MixtureBase` of `Normal` components, for `Euclidean(d)`.

    Raises:
        ImportError: when scikit-learn is not installed.
        ValueError: when the rows are too few or not finite, a column is constant or a linear function of other columns, or there are more
            components than rows.

    >>> rows = np.random.default_rng(0).normal(size=(400, 1)) + np.repeat([[-9.0], [9.0]], 200, axis=0)
    >>> [round(weight, 2) for weight in fit_mixture(rows, 3).weights]
    [0.5, 0.5]
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ImportError("fit_mixture needs the package scikit-learn: pip install 'dualebm[bases]'") from error
    rows = finite_rows(points)
    _check_counts(max_components, seed, len(rows))
    standard, mean, scale = _standardised(rows)
    n, d = rows.shape
    # Full covariances are fitted in two coordinates. Where the covariance of all rows is I, the floor is small in every direction. Those of
    # the standardised rows often have better starts, because k-means sees the columns in their units.
    bases = ("full", np.linalg.cholesky(standard.T @ standard / n)), ("full", np.eye(d)), ("diag", np.eye(d))

    def candidate(count, kind, basis):
        white = np.linalg.solve(basis, standard.T).T
        model: Any = GaussianMixture(count, covariance_type=kind, reg_covar=FLOOR, n_init=STARTS, max_iter=ROUNDS, random_state=seed)
        with warnings.catch_warnings():  # a fit that has not converged is still a density, and BIC judges it
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(white)
        covariances = model.covariances_ if kind == "full" else model.covariances_[:, None, :] * np.eye(d)
        kept = model.weights_.min() * n >= 2 and np.linalg.eigvalsh(covariances).min() > 10 * FLOOR
        bic = model.bic(white) + 2 * n * np.sum(np.log(np.diag(basis)))  # of the standardised rows
        return bic, model.weights_, model.means_ @ basis.T, basis @ covariances @ basis.T, kept

    fits = []
    for kind, basis in bases[:1] if d == 1 else bases:
        least, rises = math.inf, 0
        for count in range(1, max_components + 1):
            bic, *parameters, kept = candidate(count, kind, basis)
            if not kept:
                continue
            fits.append((bic, parameters))
            least, rises = (bic, 0) if bic < least else (least, rises + 1)
            if rises == PATIENCE:
                break
    _, (weights, means, covariances) = min(fits, key=lambda fit: fit[0])
    components = zip(means * scale + mean, covariances * scale * scale[:, None], strict=True)
    return MixtureBase(weights, [Normal(centre, covariance) for centre, covariance in components])


def mean_resultant(dimension: int, concentration: float) -> float:
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


def concentration_of(dimension: int, resultant: float) -> float:
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


def _maximised(rows, shares):
    """Returns the weights, mean directions and concentrations that maximise the likelihood under the shares (n, K) of rows."""
    totals, sums = shares.sum(axis=0), shares.T @ rows
    lengths = np.linalg.norm(sums, axis=1)
    concentrations = [concentration_of(rows.shape[1], length / total) for length, total in zip(lengths, totals, strict=True)]
    return totals / len(rows), sums / lengths[:, None], np.array(concentrations)


def _log_joint(rows, weights, means, concentrations):
    """Returns log weight + log density of each component at each row, (n, K)."""
    excess = np.array([log_excess(rows.shape[1], k) for k in concentrations])
    return np.log(weights) + concentrations * (rows @ means.T - 1) - excess


def _expectation_maximisation(rows, parameters, rounds):
    """Returns the log likelihood and the parameters after rounds that start at parameters. None where a component dies."""
    last = -math.inf
    for _ in range(rounds):
        joint = _log_joint(rows, *parameters)
        largest = joint.max(axis=1, keepdims=True)
        shares = np.exp(joint - largest)
        sums = shares.sum(axis=1, keepdims=True)
        shares, evidence = shares / sums, largest + np.log(sums)
        if (shares.sum(axis=0) < 2).any() or not np.linalg.norm(shares.T @ rows, axis=1).all():
            return None
        if evidence.mean() - last < TOLERANCE:
            break
        last, parameters = evidence.mean(), _maximised(rows, shares)
    return float(evidence.sum()), parameters


def _spread(rng, rows, count):
    """Returns `count` rows as first means: each is drawn with a mass proportional to 1 - <row, nearest mean> (k-means++)."""
    chosen = [rows[rng.integers(len(rows))]]
    while len(chosen) < count:
        lag = np.maximum(1 - (rows @ np.array(chosen).T).max(axis=1), 0)
        if not lag.sum() > 0:
            return None
        chosen.append(rows[rng.choice(len(rows), p=lag / lag.sum())])
    return np.array(chosen)


def _best_start(rng, rows, count):
    """Returns the parameters of the largest likelihood after a few rounds from each of several random starts, or None."""
    fits = []
    for _ in range(STARTS if count > 1 else 1):
        means = _spread(rng, rows, count)
        if means is not None:
            first = np.full(count, 1 / count), means, np.full(count, 2.0 * rows.shape[1])
            fits.append(_expectation_maximisation(rows, first, FIRST_ROUNDS))
    fits = [fit for fit in fits if fit is not None and fit[1][2].max() < LARGEST_CONCENTRATION]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def fit_von_mises_fisher(points, max_components: int = 8, seed: int = 0) -> MixtureBase:
    """Fits a mixture of von Mises-Fisher distributions by expectation maximisation (Banerjee et al. 2005).

    The maximisation is exact: the mean direction of a component is that of the weighted mean of the rows, and its concentration inverts
    A(k) = I_{d/2}(k) / I_{d/2-1}(k) at the length of that mean. The number of components, from 1 to `max_components`, is that of the
    smallest BIC, -2 log likelihood + (number of parameters) log n. The search ends after three counts in a row of a larger BIC.
    A mixture that has a component of fewer than two rows, or one of the largest concentration, 1e7, is left out. Such components sit on
    repeated rows, where the likelihood has no bound.

    Args:
        points: the rows, of norm 1, (n, d).
        max_components: the largest number of components.
        seed: the seed of the starts.

    Returns:
        The base measure, a `MixtureBase` of `VonMisesFisher` components, for `Sphere(d)`.

    Raises:
        ValueError: when the rows are too few, not finite, not of norm 1 or all equal, or there are more components than rows.

    >>> rows = np.random.default_rng(0).normal(size=(400, 3)) + np.repeat([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]], 200, axis=0)
    >>> [round(weight, 2) for weight in fit_von_mises_fisher(rows / np.linalg.norm(rows, axis=1, keepdims=True), 3).weights]
    [0.5, 0.5]
    """
    rows = unit_rows(points)
    _check_counts(max_components, seed, len(rows))
    n, d = rows.shape
    rng = np.random.default_rng(seed)
    best, least, rises = None, math.inf, 0
    for count in range(1, max_components + 1):
        start = _best_start(rng, rows, count)
        fit = None if start is None else _expectation_maximisation(rows, start, ROUNDS)
        if fit is None or fit[1][2].max() >= LARGEST_CONCENTRATION:
            continue
        bic = -2 * fit[0] + (count * (d + 1) - 1) * math.log(n)
        if bic < least:
            best, least, rises = fit[1], bic, 0
        elif (rises := rises + 1) == PATIENCE:
            break
    if best is None:
        raise ValueError("points has rows that are too close to each other, or of mean 0; no component has a direction and a spread")
    weights, means, concentrations = best
    components = [VonMisesFisher(mean, k) for mean, k in zip(means, concentrations, strict=True)]
    return MixtureBase(weights, components)
