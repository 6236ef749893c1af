"""Other estimators of a density on the sphere: von Mises-Fisher kernels of one concentration or by near neighbours, and mixtures.

A von Mises-Fisher kernel of concentration k around y has the density k exp(-k |x - y|^2 / 2) / (2 pi (1 - exp(-2 k))) at x, with respect to
the area of S^2. Settings are chosen by cross-validation on the rows of the fit.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from dualebm.data.kernel_bases import deal
from dualebm.data.spherical_bases import fit_von_mises_fisher
from experiments.densities import Rows, Scored, Values
from experiments.earth.sets import SPHERE

CONCENTRATIONS = tuple(np.geomspace(30, 1e6, 40).round(1).tolist())
"""The concentrations that are tried: standard deviations of a direction from 10 degrees to 0.06 degrees."""

NEIGHBOURS = (2, 3, 5, 7, 10, 15, 25)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
LARGEST = 1e6
"""The neighbours and the factors that are tried, and the largest concentration of a kernel."""

SHARES = (0.0, 0.01, 0.05, 0.15)
"""The shares of a uniform part that are tried."""

FOLDS, SCORED = 5, 2000
"""The folds of the cross-validation, and the largest number of rows that it scores."""

COMPONENTS = 24
"""The largest number of components of a mixture."""

BLOCK = 200
"""The rows that are scored at once."""


def log_kernels(x: Rows, centres: Rows, concentrations: Float[np.ndarray, " n"]) -> Values:
    """Returns the log density of the mean of kernels, with respect to area.

    Args:
        x: The rows to score, (k, 3).
        centres: The centres of the kernels, (n, 3).
        concentrations: Their concentrations, (n,).

    >>> log_kernels(np.eye(3), np.eye(3)[:1], np.array([1e-9])).round(3).tolist()
    [-2.531, -2.531, -2.531]
    """
    from scipy.special import logsumexp

    constants = np.log(concentrations / (2 * math.pi * len(centres))) - np.log(-np.expm1(-2 * concentrations))
    parts = [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
    return np.concatenate([logsumexp(constants - concentrations * _lag(part, centres), axis=1) for part in parts])


def _lag(x, y):
    """Returns |x - y|^2 / 2 of unit vectors as a sum of squares, exact where they are near, (k, n)."""
    return 0.5 * sum((x[:, None, i] - y[None, :, i]) ** 2 for i in range(3))


def by_neighbours(centres: Rows, neighbour: int, factor: float) -> Float[np.ndarray, " n"]:
    """Returns the concentrations 2 factor / r^2, r the distance of a centre to its neighbour, at most `LARGEST`.

    Args:
        centres: The centres, (n, 3).
        neighbour: Which neighbour: 1 is the nearest other centre.
        factor: The factor.

    >>> by_neighbours(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), 1, 4.0).round(9).tolist()
    [4.0, 4.0]
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    distances, _ = cKDTree(centres).query(centres, neighbour + 1)
    return 2 * factor / np.maximum(distances[:, -1] ** 2, 2 * factor / LARGEST)


def shared(log_densities: Values, share: float) -> Values:
    """Returns the log density of a mixture of a density and the uniform one, of the weights 1 - share and share.

    >>> shared(np.array([-np.inf, 0.0]), 0.5).round(3).tolist()
    [-3.224, -0.617]
    """
    uniform = math.log(share) - SPHERE.log_volume if share else -math.inf
    return np.logaddexp(math.log1p(-share) + log_densities, uniform)


def _kernels(train: Rows, held: Rows, seed: int, settings: Sequence, concentrations: Callable[[Rows, Any], Any]) -> Scored:
    """Scores rows by the kernels of the setting, and the share of a uniform part, of the best mean over folds of the training rows."""
    fold, places = deal(len(train), FOLDS, seed), np.arange(len(train))
    scored = [places[fold == number][: -(-SCORED // FOLDS)] for number in range(FOLDS)]
    means = np.zeros((len(settings), len(SHARES)))
    for i, setting in enumerate(settings):
        values = []
        for number, chosen in enumerate(scored):
            centres = train[fold != number]
            values.append(log_kernels(train[chosen], centres, concentrations(centres, setting)))
        means[i] = [shared(np.concatenate(values), share).mean() for share in SHARES]
    i, j = divmod(int(np.argmax(means)), len(SHARES))
    values = shared(log_kernels(held, train, concentrations(train, settings[i])), SHARES[j])
    return values, dict(setting=settings[i], share=SHARES[j], validated=float(means[i, j]))


def kernel(train: Rows, held: Rows, seed: int) -> Scored:
    """Scores rows by kernels of one concentration, chosen by cross-validation."""
    return _kernels(train, held, seed, CONCENTRATIONS, lambda centres, k: np.full(len(centres), k))


def neighbours(train: Rows, held: Rows, seed: int) -> Scored:
    """Scores rows by kernels whose concentrations follow from the distance to a neighbour, chosen with a factor by cross-validation."""
    settings = [(neighbour, factor) for neighbour in NEIGHBOURS for factor in FACTORS]
    return _kernels(train, held, seed, settings, lambda centres, setting: by_neighbours(centres, *setting))


def mixture(train: Rows, held: Rows, seed: int) -> Scored:
    """Scores rows by a mixture of von Mises-Fisher distributions of the smallest BIC."""
    import jax.numpy as jnp

    fit = fit_von_mises_fisher(train, COMPONENTS, seed)
    values = np.asarray(fit.log_density(SPHERE, jnp.asarray(held, jnp.float32)), float) - SPHERE.log_volume
    return values, dict(components=len(getattr(fit, "weights", (1.0,))))


NAMES = ("kernel", "neighbours", "mixture")


def rival(name: str, seed: int) -> tuple[Callable[[Rows, Rows], Scored], dict[str, Any]]:
    """Returns a rival, a function of the rows of the fit and the rows to score, and what decides its numbers beside them, as JSON.

    >>> rival("mixture", 3)[1]
    {'components': 24}
    """
    same = dict(folds=FOLDS, scored=SCORED, shares=SHARES)
    match name:
        case "kernel":
            return partial(kernel, seed=seed), same | dict(concentrations=CONCENTRATIONS)
        case "neighbours":
            return partial(neighbours, seed=seed), same | dict(neighbours=NEIGHBOURS, factors=FACTORS, largest=LARGEST)
        case _:
            return partial(mixture, seed=seed), dict(components=COMPONENTS)
