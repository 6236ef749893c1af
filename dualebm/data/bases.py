"""Base measures fitted to rows on R^d by maximum likelihood: a normal distribution and Gaussian mixtures. Checks of rows.

All of it is on the host, in NumPy float64. The rows must be points of the space of the training: fit after standardising. Rows may have
weights (`row_weights`).
"""

import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from dualebm import row_weights
from dualebm._internal import checks
from dualebm.base_families import Normal
from dualebm.base_measures import numbers
from dualebm.base_mixtures import MixtureBase
from dualebm.row_weights import Shares
from dualebm.settings import Count, Seed, checked

Rows = Float[np.ndarray, "n d"]

COLLINEAR = 1e-8
"""The eigenvalue of the correlations of columns at or below which a column counts as a linear function of others."""

FLOOR = 1e-6
"""The variance that scikit-learn adds to each component, where the rows have variance 1."""

STARTS = 3
"""The number of starts of each fit of a mixture. The best one counts."""

ROUNDS = 500
"""The largest number of rounds of expectation and maximisation."""

PATIENCE = 3
"""The number of counts of components after that of the smallest BIC, at which no larger ones are tried."""

TOLERANCE = 1e-9
"""The gain of the mean log likelihood, in nats, at which the rounds end."""

COPIES = 4
"""The mean number of copies of a row by which scikit-learn sees weights."""


@checked
def finite_rows(points, columns: Count = 1) -> Rows:
    """Returns rows in float64, to which a measure can be fitted.

    Args:
        points: the rows, (n, d).
        columns: the smallest allowed d.

    Raises:
        ValueError: when the array is no matrix, or the rows are fewer than 2, not finite or all equal.

    >>> finite_rows([[1], [2]]).tolist()
    [[1.0], [2.0]]
    """
    rows = numbers("points", points)
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


def weighted_rows(rows: Rows, weights) -> tuple[Float[np.ndarray, "k d"], Shares]:
    """Returns the rows of positive weight, and their weights divided by their sum, or None where these are equal.

    Args:
        rows: the rows, (n, d).
        weights: non-negative weights, (n,), or None for equal weights.

    Raises:
        ValueError: when the weights are not allowed, or the rows of positive weight are fewer than 2 or all equal.

    >>> rows, shares = weighted_rows(np.array([[1.0], [2.0], [3.0]]), [1, 0, 3])
    >>> rows.tolist(), shares.tolist()
    ([[1.0], [3.0]], [0.25, 0.75])
    """
    shares = row_weights.shares_of("weights", weights, len(rows))
    if shares is None or (shares > 0).all():
        return rows, shares
    return finite_rows(rows[shares > 0]), row_weights.subset(shares, shares > 0)


def _standardised(rows: Rows, shares: Shares) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Returns rows of mean 0 and variance 1, the means and the scales, or raises ValueError where the covariance is singular."""
    mean = rows.mean(axis=0) if shares is None else shares @ rows
    square = (rows - mean) ** 2
    scale = np.sqrt(np.mean(square, axis=0) if shares is None else shares @ square)
    # The rounding of the mean leaves a constant column a scale of this size.
    constant = np.flatnonzero(scale <= 1e-14 * np.abs(rows).max(axis=0))
    if constant.size:
        raise ValueError(f"points has the constant columns {constant.tolist()}; leave them out")
    n, d = rows.shape
    if n <= d:
        raise ValueError(f"points has {n} rows of {d} columns; a covariance matrix needs at least {d + 1} rows")
    standard = (rows - mean) / scale
    values, vectors = np.linalg.eigh(_second_moments(standard, shares))
    if values[0] <= COLLINEAR:
        columns = np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3)
        raise ValueError(
            f"points has columns {columns.tolist()} of which one is a linear function of the others, or equals another; leave it out"
        )
    return standard, mean, scale


def _second_moments(rows: Rows, shares: Shares) -> np.ndarray:
    """Returns the mean of x x^T over rows x, (d, d)."""
    return rows.T @ rows / len(rows) if shares is None else rows.T @ (shares[:, None] * rows)


def check_counts(max_components: int, seed: int, n: int) -> None:
    """Check that a number of components and a seed are allowed for n rows.

    Args:
        max_components: the largest number of components of a mixture.
        seed: the seed of the fits.
        n: the number of rows.

    Raises:
        ValueError: a number is not allowed, or there are more components than rows.

    >>> check_counts(8, 0, 20)
    """
    checks.count("max_components", max_components)
    checks.seed("seed", seed)
    if max_components > n:
        raise ValueError(f"max_components is {max_components}; points has {n} rows, and each component needs one")


def fit_normal(points, weights=None) -> Normal:
    """Fits a normal distribution: the mean and the covariance of the rows, with divisor n, or those of weighted rows.

    Args:
        points: the rows, (n, d), n at least d + 1.
        weights: the non-negative weights of the rows, (n,). None for equal weights.

    Returns:
        The base measure, for `Euclidean(d)`.

    Raises:
        ValueError: when the rows are too few or not finite, a weight is not allowed, or a column is constant or a linear function of other
            columns.

    >>> fit_normal([[0.0], [2.0], [4.0]]).mean, fit_normal([[0.0], [2.0], [4.0]], [2, 1, 1]).mean
    ((2.0,), (1.5,))
    """
    rows, shares = weighted_rows(finite_rows(points), weights)
    standard, mean, scale = _standardised(rows, shares)
    return Normal(mean, _second_moments(standard, shares) * scale * scale[:, None])


# -- Mixtures --------------------------------------------------------------------------------------


@checked
def fit_mixture(points, max_components: Count = 8, seed: Seed = 0, weights=None) -> MixtureBase:
    """Fits a mixture of normal distributions by expectation maximisation, with scikit-learn's `GaussianMixture`.

    The number of components, from 1 to `max_components`, and the kind of the covariances, full or diagonal, are those of the smallest
    BIC, -2 log likelihood + (number of parameters) log n. The search ends after three counts in a row of a larger BIC.
    A mixture that has a component of fewer than two rows, or one whose variance in some direction shrinks to the floor, is left out. Such
    components sit on repeated rows, where the likelihood has no bound.

    scikit-learn takes no weights. It sees weighted rows as copies in proportion to the weights, 4 copies a row on average, because a copy
    costs time and whole numbers of copies are not the weights. The weighted likelihood itself judges each mixture, and n in BIC is Kish's
    effective number of rows, because copies add no information. Rounds of expectation and maximisation with the weights
    (`improve_mixture`) then take the chosen mixture to a maximum of the weighted likelihood.

    Args:
        points: the rows, (n, d), n at least d + 1.
        max_components: the largest number of components.
        seed: the seed of the starts.
        weights: the non-negative weights of the rows, (n,). None for equal weights.

    Returns:
        The base measure, a `MixtureBase` of `Normal` components, for `Euclidean(d)`.

    Raises:
        ValueError: when the rows are too few or not finite, a weight is not allowed, a column is constant or a linear function of other
            columns, or there are more components than rows.

    >>> rows = np.random.default_rng(0).normal(size=(400, 1)) + np.repeat([[-9.0], [9.0]], 200, axis=0)
    >>> [round(weight, 2) for weight in fit_mixture(rows, 3).weights]
    [0.5, 0.5]
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    rows, shares = weighted_rows(finite_rows(points), weights)
    check_counts(max_components, seed, len(rows))
    standard, mean, scale = _standardised(rows, shares)
    d, n = rows.shape[1], row_weights.effective_count(len(rows), shares)
    repeated = slice(None) if shares is None else row_weights.copies(shares, COPIES * len(rows))
    # Full covariances are fitted in two coordinates. Where the covariance of all rows is I, the floor is small in every direction. Those of
    # the standardised rows often have better starts, because k-means sees the columns in their units.
    bases = ("full", np.linalg.cholesky(_second_moments(standard, shares))), ("full", np.eye(d)), ("diag", np.eye(d))

    def candidate(count, kind, basis):
        white = np.linalg.solve(basis, standard.T).T
        model: Any = GaussianMixture(count, covariance_type=kind, reg_covar=FLOOR, n_init=STARTS, max_iter=ROUNDS, random_state=seed)
        # Threads cost more than they gain where rows are few, and on a core that others use they wait for each other for minutes.
        with threadpool_limits(1), warnings.catch_warnings():  # a fit that has not converged is still a density, and BIC judges it
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(white[repeated])
        covariances = model.covariances_ if kind == "full" else model.covariances_[:, None, :] * np.eye(d)
        kept = model.weights_.min() * n >= 2 and np.linalg.eigvalsh(covariances).min() > 10 * FLOOR
        parameters = count * (d + (d * (d + 1) // 2 if kind == "full" else d)) + count - 1
        bic = -2 * row_weights.mean(model.score_samples(white), shares) * n + parameters * np.log(n)
        bic += 2 * n * np.sum(np.log(np.diag(basis)))  # of the standardised rows
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
    mixture = _normals(weights, means * scale + mean, covariances * scale * scale[:, None])
    return mixture if shares is None else improve_mixture(mixture, rows, shares, ROUNDS, TOLERANCE)


def _normals(weights, means, covariances):
    """Returns the mixture of normal distributions with these weights (K,), means (K, d) and covariances (K, d, d)."""
    return MixtureBase(weights, [Normal(mean, covariance) for mean, covariance in zip(means, covariances, strict=True)])


def improve_mixture(mixture: MixtureBase, rows: Rows, shares: Shares, rounds: int, tolerance: float) -> MixtureBase:
    """Returns a mixture of normal distributions after rounds of expectation and maximisation with weights of rows.

    Each round sets w_k = sum_i p_i s_ik, and the mean and the covariance of component k to those of the rows x_i under the weights
    p_i s_ik, with the shares p_i of the rows and the probabilities s_ik of the components given x_i. Diagonal covariances stay diagonal.
    As in scikit-learn, 1e-6 of the variance of a column is added to the variances. The rounds end before one that would leave a component
    with fewer than two effective rows or with a variance near this floor.

    Args:
        mixture: the mixture to begin with.
        rows: the rows x_i, (n, d).
        shares: their shares p_i, (n,), or None for equal ones.
        rounds: the largest number of rounds.
        tolerance: the gain of the mean log likelihood, in nats, at which the rounds end.

    Returns:
        The mixture, of the same number of components.

    >>> rows = np.array([[0.0], [1.0], [0.0], [1.0], [9.0], [10.0]])
    >>> start = MixtureBase((0.5, 0.5), (Normal([0.0], [[1.0]]), Normal([9.0], [[1.0]])))
    >>> improve_mixture(start, rows, np.array([1, 1, 1, 1, 1, 3]) / 8, 9, 0.0).components[1].mean
    (9.75,)
    """
    standard, centre, scale = _standardised(rows, shares)
    n, d = row_weights.effective_count(len(rows), shares), rows.shape[1]
    masses = np.full(len(rows), 1 / len(rows)) if shares is None else shares
    weights = np.asarray(mixture.weights)
    means = (np.array([component.mean for component in mixture.components]) - centre) / scale  # pyright: ignore[reportAttributeAccessIssue]
    covariances = np.array([c.covariance for c in mixture.components]) / scale / scale[:, None]  # pyright: ignore[reportAttributeAccessIssue]
    diagonal, last = not (covariances * (1 - np.eye(d))).any(), -math.inf
    for _ in range(rounds):
        factors = np.linalg.cholesky(covariances)
        white = np.linalg.solve(factors, standard.T - means[:, :, None])
        normalisers = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1) + 0.5 * d * math.log(2 * math.pi)
        joint = (np.log(weights) - normalisers)[:, None] - 0.5 * np.sum(white * white, axis=1)
        largest = joint.max(axis=0)
        probabilities = np.exp(joint - largest)
        sums = probabilities.sum(axis=0)
        evidence = float(masses @ (largest + np.log(sums)))
        if evidence - last < tolerance:
            break
        parts = probabilities / sums * masses
        totals = parts.sum(axis=1)
        if totals.min() * n < 2:
            break
        new_means = parts @ standard / totals[:, None]
        lag = standard - new_means[:, None]
        new = np.swapaxes(lag, 1, 2) @ (parts[:, :, None] * lag) / totals[:, None, None]
        new = (new * np.eye(d) if diagonal else new) + FLOOR * np.eye(d)
        if np.linalg.eigvalsh(new).min() <= 10 * FLOOR:
            break
        last, weights, means, covariances = evidence, totals, new_means, new
    return _normals(weights, means * scale + centre, covariances * scale * scale[:, None])
