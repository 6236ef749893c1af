"""Base measures stacked: a mixture of several kinds of fits, whose weights maximise the likelihood of rows that no fit has seen."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dualebm import row_weights
from dualebm._internal import checks
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import BaseMeasure, Uniform
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import Rows, fit_mixture, fit_normal
from dualebm.data.kernel_bases import deal, fit_kernel, fit_neighbours, points_of
from dualebm.data.spherical_bases import fit_von_mises_fisher
from dualebm.geometry import Space
from dualebm.row_weights import Shares
from dualebm.settings import Count, Seed, checked

SPHERICAL_KERNELS = (300.0, 3e3, 3e4, 3e5)
"""The concentrations of the kernels on spheres."""

TOROIDAL_KERNELS = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""The concentrations of the kernels on tori."""

FACTORS = (1.0, 4.0, 16.0)
"""The factors of the kernels by neighbours."""

ROUNDS = 300
"""The number of rounds of expectation and maximisation of the weights."""

LEAST_ON_FLAT, LEAST_ON_COMPACT = 0.01, 0.003
"""The weight below which a component is dropped, on R^d and on spheres and tori."""


class Stacked(NamedTuple):
    """A stacked base measure, with what its weights are made of. The K kinds are those that were kept.

    Args:
        base: the base measure fitted to all rows: a `MixtureBase` of K components, or the one component.
        fold_bases: for each fold the base measure of the same weights, whose components are fitted to the rows of the other folds.
        fold: the index of the fold of each row, (n,).
        names: the names of the kinds.
        weights: the weights of the kinds. Their sum is 1.
        log_densities: the log density of each kind at each row, fitted to the rows of the other folds, (n, K), in nats.
    """

    base: BaseMeasure
    fold_bases: tuple[BaseMeasure, ...]
    fold: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    log_densities: Float[np.ndarray, "n K"]


@checked
def fits_of(space: Space, folds: Count = 5, seed: Seed = 0) -> Mapping[str, Callable[[Rows, Shares], BaseMeasure]]:
    """Returns the kinds of fits on a space by name. Each maps rows and their weights, or None for equal ones, to a base measure.

    Args:
        space: the space.
        folds: the number of folds of the cross-validation inside `fit_kernel`.
        seed: the seed of the fits.

    >>> from dualebm.spaces import Euclidean
    >>> list(fits_of(Euclidean(2)))
    ['normal', 'mixture', 'kernel']
    """

    def kernels(concentrations):
        return {f"kernel {k:g}": lambda rows, shares, k=k: KernelBase(rows, np.full(len(rows), k), shares) for k in concentrations}

    if not space.compact:
        return {
            "normal": fit_normal,
            "mixture": lambda rows, shares: fit_mixture(rows, min(8, len(rows)), seed, shares),
            "kernel": lambda rows, shares: fit_kernel(rows, space, folds=min(folds, len(rows)), seed=seed, weights=shares),
        }
    uniform = {"uniform": lambda rows, shares: Uniform()}
    if space.periodic:
        return uniform | kernels(TOROIDAL_KERNELS)
    return (
        uniform
        | {"mixture": lambda rows, shares: fit_von_mises_fisher(rows, min(8, len(rows)), seed, shares)}
        | kernels(SPHERICAL_KERNELS)
        | {f"neighbours {factor:g}": lambda rows, shares, factor=factor: fit_neighbours(rows, space, factor, shares) for factor in FACTORS}
    )


def stacking_weights(log_densities: Float[np.ndarray, "n K"], weights=None) -> Float[np.ndarray, " K"]:
    """Returns the weights w on the simplex that maximise sum_i v_i log sum_k w_k exp(L_ik), by expectation and maximisation.

    Args:
        log_densities: L, the log density of each of K measures at each of n rows, (n, K).
        weights: the non-negative weights v_i of the rows, (n,). None for equal weights.

    >>> stacking_weights(np.log([[2.0, 1.0], [1.0, 2.0]])).tolist()
    [0.5, 0.5]
    """
    densities = np.exp(log_densities - log_densities.max(axis=1, keepdims=True))
    shares = row_weights.shares_of("weights", weights, len(densities))
    mixing = np.full(densities.shape[1], 1 / densities.shape[1])
    for _ in range(ROUNDS):
        joint = densities * mixing
        parts = joint / joint.sum(axis=1, keepdims=True)
        mixing = np.mean(parts, axis=0) if shares is None else shares @ parts
    return mixing


def _mixed(weights, components):
    """Returns the mixture of components, or the one component."""
    return MixtureBase(weights, components) if len(components) > 1 else components[0]


@checked
def stack(points, space: Space, *, kinds: Sequence[str] | None = None, folds: Count = 5, seed: Seed = 0, weights=None) -> Stacked:
    """Fits a mixture of several kinds of base measures by stacked density estimation (Smyth, Wolpert 1999).

    The rows are dealt to folds. Each kind is fitted to the rows outside each fold, and its density is taken at the rows of the fold. The
    weights maximise the mean log of the mixture of these densities, so that a kind that merely repeats its rows gains no weight. Components
    whose weight is below 0.01, or 0.003 on spheres and tori, are dropped. The kinds are

    - on R^d: `fit_normal`, `fit_mixture` and `fit_kernel`;
    - on spheres: uniform, `fit_von_mises_fisher`, kernels of the concentrations 300, 3e3, 3e4 and 3e5, and `fit_neighbours` with the
      factors 1, 4 and 16;
    - on tori: uniform, and kernels of the concentrations 4, 16, 64, 256, 1024 and 4096.

    A kind whose fit raises ValueError, such as a normal distribution of too few rows, is left out with a warning.

    Args:
        points: the rows, points of the space, (n, d). Standardise them first on R^d, because kernels are isotropic.
        space: the space. Its base plays no part.
        kinds: the names of the kinds to take, as `fits_of` names them. None takes all.
        folds: the number of folds, from 2 to n.
        seed: the seed of the folds and of the fits.
        weights: the non-negative weights of the rows, (n,). None for equal weights.

    Returns:
        The base measure, with its weights and with the fits and densities of the folds.

    Raises:
        ValueError: when the rows are no points of the space, a name, a number or a weight is not allowed, or no kind can be
            fitted.

    >>> from dualebm.spaces import Euclidean
    >>> rows = np.random.default_rng(0).normal(size=(300, 1))
    >>> stack(rows, Euclidean(1), kinds=["normal"]).weights
    (1.0,)
    """
    rows = points_of(points, space)
    fold, fits, shares = deal(len(rows), folds, seed), fits_of(space, folds, seed), row_weights.shares_of("weights", weights, len(rows))
    outside = [fold != index for index in range(folds)]
    names, wholes, parts, columns = [], [], [], []
    for name in fits if kinds is None else kinds:
        checks.choice("kinds", name, fits)
        try:
            part = [fits[name](rows[index], row_weights.subset(shares, index)) for index in outside]
            whole = fits[name](rows, shares)
        except ValueError as error:
            warnings.warn(f"the component {name!r} of the base is left out: {error}", stacklevel=2)
            continue
        column = np.empty(len(rows))
        for index, base in enumerate(part):
            column[fold == index] = base.log_density(space, jnp.asarray(rows[fold == index]))
        for values, value in ((names, name), (wholes, whole), (parts, part), (columns, column)):
            values.append(value)
    if not names:
        raise ValueError(f"kinds is {kinds!r}; none of them can be fitted to {len(rows)} rows of {space.dimension} columns")
    densities = np.stack(columns, axis=1)
    mixing = stacking_weights(densities, shares)
    kept = np.flatnonzero(mixing >= (LEAST_ON_COMPACT if space.compact else LEAST_ON_FLAT))
    mixing = mixing[kept] / mixing[kept].sum()
    choose = lambda values: tuple(values[index] for index in kept)  # noqa: E731
    return Stacked(
        _mixed(mixing, choose(wholes)),
        tuple(_mixed(mixing, choose([part[index] for part in parts])) for index in range(folds)),
        fold,
        choose(names),
        tuple(mixing.tolist()),
        densities[:, kept],
    )
