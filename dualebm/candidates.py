"""The settings of the automatic fit, and its candidates: base measures fitted to rows, each with a feature."""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dualebm import row_weights, settings
from dualebm.base_measures import BaseMeasure, Uniform
from dualebm.data.bases import Rows, fit_normal
from dualebm.data.kernel_bases import fit_kernel
from dualebm.data.stacking import stack
from dualebm.features import Feature, ReLU
from dualebm.geometry import Space
from dualebm.radii import bump_of
from dualebm.row_weights import Shares
from dualebm.settings import Bound, Count, CountFrom2

FOLDS = 5
"""The number of folds to which the rows are dealt."""

LOCAL_KINDS = ("uniform", "mixture")
"""The kinds of the stacked base measure on spheres of more than 2 dimensions."""

BaseName = Literal["auto", "stacked", "normal", "uniform"]
FeatureName = Literal["auto", "scaled_bump", "relu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """Chooses base measure, feature and radius by validation.

    Args:
        base: the base measure: stacked (a mixture of simple densities, whose weights are chosen by cross-validation), normal (euclidean),
            uniform (sphere, torus), or auto to choose among them.
        feature: the feature: scaled_bump, relu (sphere, euclidean), or auto to choose among them.
        neurons: the number of neurons, or none for a number that suits the rows.
        stages: the largest number of radii of a path, or none for 8 radii where rows are few and 12 else.
        iterations: the number of iterations at each radius, or none for 100 where rows are few and 150 else.
        draws: the number of draws of the base measure that train the energy, or none for a number that suits the rows.
        paths: the number of folds, of 5, on which each path is validated, or none for 5 where rows are few and 1 else. Rows are few below
            600, of weighted rows below 600 by Kish's effective number.

    Raises:
        ValueError: when a setting is not allowed.

    >>> Auto(stages=0)
    Traceback (most recent call last):
    ...
    ValueError: stages is 0; it must be an integer of at least 1
    """

    base: BaseName | BaseMeasure = "auto"
    feature: FeatureName = "auto"
    neurons: Count | None = None
    stages: Count | None = None
    iterations: CountFrom2 | None = None
    draws: CountFrom2 | None = None
    paths: Annotated[int, Bound(least=1, largest=FOLDS)] | None = None

    def __post_init__(self):
        settings.check(self)


class Candidate(NamedTuple):
    """A base measure, fitted to all rows and to the rows of all folds but one, and a feature.

    Args:
        name: the names of the base measure and of the feature.
        base: the base measure fitted to all rows.
        fold_bases: the base measure fitted to the rows of all folds but one, for each fold.
        feature: the feature.
    """

    name: str
    base: BaseMeasure
    fold_bases: tuple[BaseMeasure, ...]
    feature: Feature


def candidates_of(
    points: Rows, geometry: Space, fold: Int[np.ndarray, " n"], auto: Auto, seed: int, shares: Shares = None
) -> list[Candidate]:
    """Return the candidates, the default first.

    By default they are bumps on the stacked base measure and on a normal distribution, and on a sphere ridges on the uniform measure,
    without and with a bias, and bumps on the stacked one.

    Args:
        points: the rows, (n, d).
        geometry: the space with its default base measure.
        fold: the fold of each row, (n,).
        auto: the settings.
        seed: the seed of the fits of base measures.
        shares: the weights of the rows, of sum 1, (n,), or None for equal ones.

    Returns:
        The candidates.

    Raises:
        ValueError: when a base measure or a feature does not suit the space or the rows.
    """
    simple = "uniform" if geometry.compact else "normal"
    if auto.base in ("normal", "uniform") and auto.base != simple:
        raise ValueError(f"base is {auto.base!r} and space is {geometry}; allowed: 'stacked', {simple!r}, 'auto'")
    if auto.feature == "relu" and geometry.periodic:
        raise ValueError(f"feature is 'relu' and space is {geometry}, where it is not continuous; allowed: 'scaled_bump', 'auto'")
    curved = geometry.compact and not geometry.periodic
    base, feature = auto.base if isinstance(auto.base, str) else "given", auto.feature
    second = "relu" if curved else "scaled_bump"
    if base == "auto":
        pairs = [("stacked", "scaled_bump"), (simple, second)] if feature == "auto" else [("stacked", feature), (simple, feature)]
        pairs = pairs[::-1] if curved else pairs
    else:
        pairs = [(base, feature)] if feature != "auto" else [(base, "scaled_bump"), (base, "relu")][: 1 + curved]
    made: dict[str, Any] = {"biased_relu": ReLU(bias=True), "relu": ReLU()}
    # Without a bias ridges have fewer parameters, and on a sphere they span the even and the linear functions alone.
    both = lambda pair: [pair, (pair[0], "biased_relu")] if curved else [(pair[0], "biased_relu")]  # noqa: E731
    pairs = [each for pair in pairs for each in (both(pair) if pair[1] == "relu" else [pair])]
    if any(kind == "scaled_bump" for _, kind in pairs):
        kernels = fit_kernel(points, geometry, seed=seed, weights=shares)
        made["scaled_bump"] = bump_of(points, geometry, kernels.concentrations[0], shares)
    for name, _ in pairs:
        if name in made:
            continue
        if name == "stacked":
            # Where dimensions are many no kernel is near to a new row.
            kinds = LOCAL_KINDS if curved and geometry.dimension > 3 else None
            stacked = stack(points, geometry, kinds=kinds, folds=FOLDS, seed=seed, weights=shares)
            made[name] = stacked.base, stacked.fold_bases
        elif name == "normal":
            outside = [fold != number for number in range(FOLDS)]
            fits = (fit_normal(points[index], row_weights.subset(shares, index)) for index in outside)
            made[name] = fit_normal(points, shares), tuple(fits)
        else:
            measure = Uniform() if name == "uniform" else auto.base
            check_base(measure, geometry, points)
            made[name] = measure, (measure,) * FOLDS
    return [Candidate(f"{name} {kind}", made[name][0], made[name][1], made[kind]) for name, kind in pairs]


def check_base(base: Any, geometry: Space, points: Rows) -> None:
    """Raise ValueError for a base measure that is not on the space, cannot be sampled, or is zero at a row.

    Args:
        base: the base measure.
        geometry: the space.
        points: the rows, (n, d).
    """
    if not isinstance(base, BaseMeasure) or not base.fits(geometry):
        raise ValueError(f"base is {base!r}; it must be a base measure on {geometry}")
    if not base.proper:
        raise ValueError(f"base is {base!r}, which cannot be sampled; it must be a probability measure")
    values = np.asarray(base.log_density(geometry, jnp.asarray(points)))
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"base is {base!r}, whose log density is {values[row]} at row {row}; it must be positive at every row")
