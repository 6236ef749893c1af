"""The sweeps of the Gaussian mixture, and the rows of their tables."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from dualebm._internal import checks
from dualebm.measures import RESAMPLINGS
from dualebm.methods.jarzynski import threshold_of_variation
from dualebm.sweeps.grid import cross, product
from dualebm.sweeps.placement import Placement
from experiments import _common
from experiments.gaussian_mixture.mixture import (
    FIRST,
    MASS,
    METHODS,
    SECOND,
    THRESHOLD,
    WEIGHTED,
    data,
    method_of,
    monitors,
    weighted_monitors,
)

RECORDS = 160

VARIATIONS = (0.1, 0.2, 0.4, 0.8, 1.0)
"""Squared coefficients of variation of the weights at which the paper's program resamples."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(dimension=20, n=2000, walkers=2000, seeds=2, walker_dimension=10, walker_counts=(500, 2000), walker_seeds=2),
    "paper": dict(
        dimension=50, n=10_000, walkers=10_000, seeds=5, walker_dimension=20, walker_counts=(1000, 3000, 10_000, 30_000, 100_000),
        walker_seeds=2,
    ),
}  # fmt: skip

WITHIN = {
    **{name: {"mass": (MASS - 0.03, MASS + 0.03), "kl": (-0.02, 0.02), "kl_fresh": (-0.02, 0.02)} for name in WEIGHTED},
    "pcd": {"mass": (0.0, 0.01)},
    "cd": {"mass": (0.46, 0.5)},
}
"""What is wanted of the last record of the paper preset, by method."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (d = 20, 2000 walkers, 2 seeds) or paper (d = 50, 1e4 walkers, 5 seeds)."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which of jarzynski, adjusted, pcd, cd."""
    dimension: int | None = None
    """d of the comparison of methods."""
    n: int | None = None
    """Data points, a multiple of 4: a quarter of them is in the first mode."""
    walkers: int | None = None
    """N of the comparison of methods."""
    steps: int = 8000
    """Iterations."""
    seeds: int | None = None
    """Runs of each method."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    walker_counts: tuple[int, ...] | None = None
    """Numbers of walkers of the second part; none for leaving it out."""
    walker_dimension: int | None = None
    """d of the second part."""
    walker_seeds: int | None = None
    """Runs for each number of walkers."""
    variants: bool = False
    """Also Jarzynski with other thresholds (the recommended one; the paper's, of CV^2), resamplings, and increments that are biased."""
    variant_seeds: int = 1
    """Runs of each of those."""
    test_points: int = 10_000
    """Fresh draws of the teacher, on which the KL is seen too."""
    out: Path = Path("results/gaussian_mixture")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).walkers
    2000
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_each("methods", settings.methods, checks.choice, METHODS)
    _common.check_multiple("n", settings.n, 4)
    if settings.steps % RECORDS or settings.steps == RECORDS:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of {RECORDS}, and at least {2 * RECORDS}")
    for count in (settings.walkers, *(settings.walker_counts or ())):
        checks.count("walkers", count, 2)
        if count % 2:  # pyright: ignore[reportOptionalOperand]
            raise ValueError(f"walkers is {count}; it must be even")
    if len(set(settings.walker_counts or ())) < len(settings.walker_counts or ()):
        raise ValueError(f"walker_counts is {settings.walker_counts}; it must have each number once")
    return settings


# -- The runs ------------------------------------------------------------------------------------------


def swept(settings: Settings, name: str, part: str, dimension: int, n: int, walkers: int, grid: dict) -> xarray.Dataset:
    """Sweeps one method.

    Args:
        settings: The settings of the study.
        name: One of `METHODS`.
        part: The part of the study, which names the folder.
        dimension: d.
        n: Data points.
        walkers: N.
        grid: The settings of the runs.

    Returns:
        The records along (run, step).
    """
    method, rates = method_of(name, dimension, walkers)
    print(f"{part}: {METHODS[name]}", file=sys.stderr)
    runs = cross(product(n=[n], dimension=[dimension], test_points=[settings.test_points]), grid)
    return _common.swept(
        runs, method, rates, data, metrics=weighted_monitors if name in WEIGHTED else monitors, steps=settings.steps,
        every=settings.steps // RECORDS, common=True, placement=Placement(batch_size=1),
        folder=settings.out / f"{settings.preset}_{part}_{name}",
    )  # fmt: skip


def variants() -> dict[str, tuple[str, str, float]]:
    """Returns by name the increment, the resampling and the threshold of the effective fraction.

    >>> list(variants())[:3]
    ['as the others', 'systematic below 1 / 1.05', 'increment uncorrected']
    """
    usual = THRESHOLD
    known = {"as the others": ("exact", "systematic", usual), "systematic below 1 / 1.05": ("exact", "systematic", 1 / 1.05)}
    known |= {f"increment {increment}": (increment, "systematic", usual) for increment in ("uncorrected", "release")}
    known |= {f"{kind} resampling": ("exact", kind, usual) for kind in RESAMPLINGS if kind not in ("systematic", "multinomial")}
    for square in VARIATIONS:
        known[f"multinomial at CV^2 > {square:g}"] = ("exact", "multinomial", threshold_of_variation(square))
    return known


# -- Reading -------------------------------------------------------------------------------------------


def accumulated(step: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Sums over iterations a rate that is known at some of them, by trapezoids; along the last axis.

    >>> accumulated(np.array([0, 10, 20]), np.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 5.0, 15.0]
    """
    parts = 0.5 * (rate[..., 1:] + rate[..., :-1]) * np.diff(step)
    return np.concatenate([np.zeros_like(parts[..., :1]), np.cumsum(parts, axis=-1)], axis=-1)


def slope(counts: np.ndarray, errors: np.ndarray) -> float:
    """Fits d log |error| / d log N, where the noise of an error goes as N^-1/2 and so its share in the error as N^1/2.

    Args:
        counts: The numbers of walkers N.
        errors: The mean error of each over runs; an error that is not below 0 is left out.

    Returns:
        The slope, or NaN where fewer than two errors are left.

    >>> round(slope(np.array([10, 100, 1000]), -3.0 / np.array([10, 100, 1000])), 6)
    -1.0
    """
    kept = errors < 0
    if kept.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(counts[kept]), np.log(-errors[kept]), 1, w=1 / np.sqrt(counts[kept]))[0])


def row_of(part: str, what: str, expected: str, values, within: tuple[float, float] | None = None) -> dict:
    """Returns a row: what was expected, the values over the runs, and how many runs are within what was expected."""
    values = np.asarray(values, float)
    have = "" if within is None else f"{int(np.sum((values >= within[0]) & (values <= within[1])))} of {len(values)}"
    return dict(part=part, what=what, expected=expected, **_common.spread(values, "mean"), have=have)


def rows_of_methods(by_method: dict[str, xarray.Dataset]) -> list[dict]:
    """Returns the rows of the methods' last records; log Z and resamplings too of those with weights."""
    rows = []
    names = {"mass": "mass of the first mode", "kl": "KL, training data", "kl_fresh": "KL, fresh data"}
    for name, results in by_method.items():
        for variable, label in names.items():
            within = WITHIN[name].get(variable)
            expected = "" if within is None else f"{within[0]:.2g} to {within[1]:.2g}"
            rows.append(row_of(METHODS[name], label, expected, results[variable].values[:, -1], within))
        for i, mean in enumerate((FIRST, SECOND)):
            rows.append(row_of(METHODS[name], f"mean {i + 1}, first coordinate", f"{mean:g}", results.means.values[:, -1, i]))
        if name in WEIGHTED:
            predicted = -accumulated(results.step.values, results.drift.values)[:, -1]
            rows.append(row_of(METHODS[name], "log Z error", f"{predicted.mean():.3g}", results.partition_error.values[:, -1, 0]))
            rows.append(row_of(METHODS[name], "resamplings", "", results.resamplings.values[:, -1]))
    return rows


def by_count(results: xarray.Dataset) -> dict[int, dict[str, np.ndarray]]:
    """Returns by the number of walkers the error, the predicted error and the mass at the end of each run."""
    predicted = -accumulated(results.step.values, results.drift.values)[:, -1]
    counts = {}
    for count in np.unique(results.walkers.values):
        runs = results.walkers.values == count
        error, mass = results.partition_error.values[runs, -1, 0], results.mass.values[runs, -1]
        counts[int(count)] = dict(error=error, predicted=predicted[runs], mass=mass)
    return counts


def slopes(by_number: dict[int, dict[str, np.ndarray]]) -> tuple[float, float]:
    """Returns the slopes of the errors that were seen and of the predicted errors."""
    counts = np.array(list(by_number))
    return tuple(slope(counts, np.array([one[name].mean() for one in by_number.values()])) for name in ("error", "predicted"))  # type: ignore


def rows_of_counts(by_number: dict[int, dict[str, np.ndarray]]) -> list[dict]:
    """Returns the rows of the error of log Z and of the mass for each number of walkers, and of the slopes."""
    rows = []
    for count, one in by_number.items():
        part = f"N = {count}"
        rows.append(row_of(part, "log Z error", f"{one['predicted'].mean():.3g}", one["error"]))
        rows.append(row_of(part, "mass of the first mode", f"{MASS:g}", one["mass"]))
    if len(by_number) > 1:
        seen, predicted = slopes(by_number)
        rows += [row_of("all N", "slope of the error in N", "-1", [seen]), row_of("all N", "slope as expected", "-1", [predicted])]
    return rows
