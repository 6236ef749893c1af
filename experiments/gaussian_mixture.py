"""Two far modes of unequal mass, learnt with and without Jarzynski's correction (arXiv 2305.19414, the Gaussian mixture in d = 50).

    python -m experiments.gaussian_mixture --preset quick
    python -m experiments.gaussian_mixture --preset paper

The teacher is .25 N(-10 e_1, I) + .75 N(6 e_1, I), the student a mixture of two that begins at 0 with equal masses. Walkers cannot cross
between the modes. `Jarzynski` weights them; PCD has them begin at the data and persist; CD puts them back to the data every 4 iterations
and has learning rates ten times as large, as the paper has. All move by unadjusted Langevin steps of .1, one for each gradient step. The
weights of such steps vary even where the parameters rest, to an effective fraction of about exp(-d h^2 / 4) = .88. Resampled below .5, as
here, that is all; below the recommended 1 / 1.05 it is done in every third iteration, and each adds noise to the masses (`--variants`).
Beside them are the same walkers with an adjusted (Metropolis) step, whose weights change by the step of the parameters alone.

A second part has `Jarzynski` with fewer and more walkers: the parameters follow the noise of the walkers that weigh them, which lowers the
estimated log Z by about sum_k sum_i p_i^2 (s_means |dU/dmeans|^2 + s_offsets |dU/doffsets|^2) at walker i, of order 1/N.
Each sweep is a folder under `--out` from which the same command continues.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dualebm._internal import checks
from dualebm.measures import RESAMPLINGS
from dualebm.methods.jarzynski import threshold_of_variation
from dualebm.plotting import charts
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import cross, product, zipped
from experiments import _common, report
from experiments.far_modes import (
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

WALKERS_N = 2000
"""Data points where the number of walkers is what changes."""

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
    """The settings with the values of the preset. Raises ValueError naming what is not allowed.

    >>> checked(Settings()).walkers
    2000
    """
    _common.check(settings)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    settings = Settings(**{**PRESETS[settings.preset], **given})
    if not settings.methods:
        raise ValueError("methods is empty; it must have at least one")
    for name in settings.methods:
        checks.choice("methods", name, METHODS)
    if settings.n % 4:  # pyright: ignore[reportOptionalOperand]
        raise ValueError(f"n is {settings.n}; it must be a multiple of 4")
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


def swept(settings: Settings, name: str, of: str, dimension: int, n: int, walkers: int, grid: dict) -> xarray.Dataset:
    """The lanes of a method."""
    method, rates = method_of(name, dimension, walkers)
    print(f"{of}: {METHODS[name]}", file=sys.stderr)
    lanes = cross(product(n=[n], dimension=[dimension], test_points=[settings.test_points]), grid)
    return sweep(
        lanes, method, rates, data, metrics=weighted_monitors if name in WEIGHTED else monitors, steps=settings.steps,
        every=settings.steps // RECORDS, common=True, batch_size=1, folder=settings.out / f"{settings.preset}_{of}_{name}",
        progress=sys.stderr.isatty(),
    ).load()  # fmt: skip


def variants() -> dict[str, tuple[str, str, float]]:
    """By name: increment, resampling and threshold of the effective fraction.

    >>> list(variants())[:3]
    ['as the others', 'systematic below 1 / 1.05', 'increment uncorrected']
    """
    usual = THRESHOLD
    found = {"as the others": ("exact", "systematic", usual), "systematic below 1 / 1.05": ("exact", "systematic", 1 / 1.05)}
    found |= {f"increment {increment}": (increment, "systematic", usual) for increment in ("uncorrected", "release")}
    found |= {f"{kind} resampling": ("exact", kind, usual) for kind in RESAMPLINGS if kind not in ("systematic", "multinomial")}
    for square in VARIATIONS:
        found[f"multinomial at CV^2 > {square:g}"] = ("exact", "multinomial", threshold_of_variation(square))
    return found


# -- Reading -------------------------------------------------------------------------------------------


def accumulated(step: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The sum over iterations of a rate that is known at some of them, by trapezoids; along the last axis.

    >>> accumulated(np.array([0, 10, 20]), np.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 5.0, 15.0]
    """
    parts = 0.5 * (rate[..., 1:] + rate[..., :-1]) * np.diff(step)
    return np.concatenate([np.zeros_like(parts[..., :1]), np.cumsum(parts, axis=-1)], axis=-1)


def slope(counts: np.ndarray, errors: np.ndarray) -> float:
    """d log |error| / d log N, where the noise of an error goes as N^-1/2 and so its share in the error as N^1/2.

    errors: means over runs, below 0; those that are not are left out. NaN where fewer than two are left.

    >>> round(slope(np.array([10, 100, 1000]), -3.0 / np.array([10, 100, 1000])), 6)
    -1.0
    """
    kept = errors < 0
    if kept.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(counts[kept]), np.log(-errors[kept]), 1, w=1 / np.sqrt(counts[kept]))[0])


def row_of(part: str, what: str, asked: str, values, within: tuple[float, float] | None = None) -> dict:
    """A row: what was asked, what was found over the runs, and how many runs have it."""
    values = np.asarray(values, float)
    have = "" if within is None else f"{int(np.sum((values >= within[0]) & (values <= within[1])))} of {len(values)}"
    return dict(
        part=part, what=what, asked=asked, mean=float(values.mean()), least=float(values.min()), largest=float(values.max()), have=have
    )


def rows_of_methods(found: dict[str, xarray.Dataset]) -> list[dict]:
    """Last records of the methods; of those with weights log Z and resamplings too."""
    rows = []
    names = {"mass": "mass of the first mode", "kl": "KL, training data", "kl_fresh": "KL, fresh data"}
    for name, results in found.items():
        for variable, label in names.items():
            within = WITHIN[name].get(variable)
            asked = "" if within is None else f"{within[0]:.2g} to {within[1]:.2g}"
            rows.append(row_of(METHODS[name], label, asked, results[variable].values[:, -1], within))
        for i, mean in enumerate((FIRST, SECOND)):
            rows.append(row_of(METHODS[name], f"mean {i + 1}, first coordinate", f"{mean:g}", results.means.values[:, -1, i]))
        if name in WEIGHTED:
            predicted = -accumulated(results.step.values, results.drift.values)[:, -1]
            rows.append(row_of(METHODS[name], "log Z error", f"{predicted.mean():.3g}", results.partition_error.values[:, -1, 0]))
            rows.append(row_of(METHODS[name], "resamplings", "", results.resamplings.values[:, -1]))
    return rows


def by_count(results: xarray.Dataset) -> dict[int, dict[str, np.ndarray]]:
    """By the number of walkers: error, predicted error and mass at the end, of each run."""
    predicted = -accumulated(results.step.values, results.drift.values)[:, -1]
    found = {}
    for count in np.unique(results.walkers.values):
        lanes = results.walkers.values == count
        error, mass = results.partition_error.values[lanes, -1, 0], results.mass.values[lanes, -1]
        found[int(count)] = dict(error=error, predicted=predicted[lanes], mass=mass)
    return found


def slopes(found: dict[int, dict[str, np.ndarray]]) -> tuple[float, float]:
    """`slope` of the errors that were seen and of those that were predicted."""
    counts = np.array(list(found))
    return tuple(slope(counts, np.array([one[name].mean() for one in found.values()])) for name in ("error", "predicted"))  # type: ignore


def rows_of_counts(found: dict[int, dict[str, np.ndarray]]) -> list[dict]:
    """log Z error and mass for each number of walkers, and the slopes."""
    rows = []
    for count, one in found.items():
        part = f"N = {count}"
        rows.append(row_of(part, "log Z error", f"{one['predicted'].mean():.3g}", one["error"]))
        rows.append(row_of(part, "mass of the first mode", f"{MASS:g}", one["mass"]))
    if len(found) > 1:
        seen, predicted = slopes(found)
        rows += [row_of("all N", "slope of the error in N", "-1", [seen]), row_of("all N", "slope as expected", "-1", [predicted])]
    return rows


# -- Figures -------------------------------------------------------------------------------------------


def band(panel, x, values, i: int, label: str | None, **look) -> None:
    """The mean over runs and, as a band, the least to the largest."""
    panel.plot(x, values.mean(0), color=charts.COLOURS[i], label=label, **look)
    panel.fill_between(x, values.min(0), values.max(0), color=charts.COLOURS[i], alpha=0.2, linewidth=0)


def draw_methods(found: dict[str, xarray.Dataset]) -> Figure:
    """Masses, means and KL against iterations, of all methods."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 2.8), layout="constrained")
    masses, means, kls = figure.subplots(1, 3)
    for i, (name, results) in enumerate(found.items()):
        step, label = results.step.values, METHODS[name]
        look: dict[str, Any] = dict(marker=charts.MARKERS[i], markevery=(6 * i, 24))
        band(masses, step, results.mass.values, i, label, **look)
        for component in range(2):
            band(means, step, results.means.values[:, :, component], i, None, **look)
        positive = np.where(results.kl_fresh.values[:, 1:] > 1e-4, results.kl_fresh.values[:, 1:], 1e-4)
        band(kls, step[1:], positive, i, None, **look)
    masses.axhline(MASS, color="black", linestyle=":", linewidth=0.8, label="teacher")
    for mean in (FIRST, SECOND):
        means.axhline(mean, color="black", linestyle=":", linewidth=0.8)
    masses.set(ylabel="mass of the first mode", ylim=(0, None))
    means.set_ylabel("first coordinates of the means")
    kls.set_ylabel("KL, fresh data (nat)")
    charts.log_axis(kls.yaxis)
    for panel in (masses, means, kls):
        panel.set_xlabel("iteration")
    count = next(iter(found.values())).sizes["lane"]
    figure.legend(*masses.get_legend_handles_labels(), loc="outside lower center", ncols=5, title=told_of(count))
    return figure


def told_of(count: int) -> str:
    """The legend's words.

    >>> told_of(5)
    'mean of 5 seeds; band: least to largest'
    """
    return f"mean of {count} seeds; band: least to largest" if count > 1 else "1 seed"


def draw_weights(found: dict[str, xarray.Dataset]) -> Figure:
    """Of the methods with weights: effective fraction, resamplings, and the error of log Z beside what is expected of finite walkers."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 2.8), layout="constrained")
    fractions, times, errors = figure.subplots(1, 3)
    for name, results in found.items():
        step, i = results.step.values, list(METHODS).index(name)
        band(fractions, step, results.ess.values, i, METHODS[name])
        band(times, step, results.resamplings.values, i, None)
        band(errors, step, results.partition_error.values[:, :, 0], i, None)
        expected = -accumulated(step, results.drift.values)
        errors.plot(step, expected.mean(0), color=charts.COLOURS[i], linestyle="--", linewidth=1)
    errors.plot([], [], color="black", linestyle="--", linewidth=1, label="expected of finite walkers")
    fractions.axhline(THRESHOLD, color="black", linestyle=":", linewidth=0.8, label="threshold")
    fractions.set_ylabel("effective fraction, at records")
    times.set_ylabel("resamplings")
    times.yaxis.set_major_locator(MaxNLocator(integer=True))
    errors.set_ylabel("error of log Z (nat)")
    for panel in (fractions, times, errors):
        panel.set_xlabel("iteration")
    handles, names = (a + b for a, b in zip(fractions.get_legend_handles_labels(), errors.get_legend_handles_labels(), strict=True))
    count = next(iter(found.values())).sizes["lane"]
    figure.legend(handles, names, loc="outside lower center", ncols=4, title=told_of(count))
    return figure


def draw_counts(found: dict[int, dict[str, np.ndarray]]) -> Figure:
    """The error of log Z and the mass at the end against the number of walkers, a mark for each run."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 3.0), layout="constrained")
    errors, masses = figure.subplots(1, 2)
    form: dict[str, Any] = dict(color=charts.COLOURS[0], marker=charts.MARKERS[0], linestyle="", fillstyle="none")
    counts = np.array(list(found))
    x = np.repeat(counts, [len(one["error"]) for one in found.values()])
    loss = -np.concatenate([one["error"] for one in found.values()])
    errors.plot(x[loss > 0], loss[loss > 0], label="a run", **form)  # what noise has above 0 is in the rows
    masses.plot(x, np.concatenate([one["mass"] for one in found.values()]), **form)
    errors.plot(counts, [-one["predicted"].mean() for one in found.values()], color="black", linestyle="--", label="expected")
    masses.axhline(MASS, color="black", linestyle=":", linewidth=0.8, label="teacher")
    charts.log_axis(errors.yaxis)
    errors.set_ylabel("less than log Z by (nat)")
    masses.set_ylabel("mass of the first mode at the end")
    for panel in (errors, masses):
        charts.log_axis(panel.xaxis, counts.tolist())
        panel.set_xlim(counts.min() / 1.5, counts.max() * 1.5)
        panel.set_xlabel("walkers N")
    handles, names = (a + b for a, b in zip(errors.get_legend_handles_labels(), masses.get_legend_handles_labels(), strict=True))
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


# -- The command ---------------------------------------------------------------------------------------


def main(settings: Settings) -> list[dict]:
    """Runs the sweeps; writes results, figures and the report; returns the rows."""
    given, settings, begin = settings, checked(settings), time.perf_counter()
    d, n, walkers, first = settings.dimension, settings.n, settings.walkers, settings.first_seed
    seeds = range(first, first + settings.seeds)  # type: ignore[operator]
    found, rows, figures = {}, [], {}
    for name in settings.methods:
        found[name] = swept(settings, name, "methods", d, n, walkers, product(seed=seeds))  # type: ignore[arg-type]
    rows += rows_of_methods(found)
    with matplotlib.rc_context(charts.STYLE):
        figures["gaussian_mixture"] = draw_methods(found)
        if weighted := {name: results for name, results in found.items() if name in WEIGHTED}:
            figures["gaussian_mixture_weights"] = draw_weights(weighted)
    if settings.walker_counts:
        grid = product(walkers=settings.walker_counts, seed=range(first, first + settings.walker_seeds))  # type: ignore
        counts = by_count(swept(settings, "jarzynski", "walkers", settings.walker_dimension, WALKERS_N, 2, grid))  # type: ignore[arg-type]
        rows += rows_of_counts(counts)
        with matplotlib.rc_context(charts.STYLE):
            figures["gaussian_mixture_walkers"] = draw_counts(counts)
    if settings.variants:
        known = variants()
        increments, kinds, thresholds = zip(*known.values(), strict=True)
        few = seeds[: settings.variant_seeds]
        grid = cross(zipped(increment=increments, resampling=kinds, threshold=thresholds), product(seed=few))
        results = swept(settings, "jarzynski", "variants", d, n, walkers, grid)  # type: ignore[arg-type]
        for i, label in enumerate(known):
            mine = results.isel(lane=slice(i * len(few), (i + 1) * len(few)))
            rows.append(row_of(label, "mass of the first mode", f"{MASS:g}", mine.mass.values[:, -1]))
            rows.append(row_of(label, "KL, fresh data", "", mine.kl_fresh.values[:, -1]))
            rows.append(row_of(label, "log Z error", "", mine.partition_error.values[:, -1, 0]))
            rows.append(row_of(label, "resamplings", "", mine.resamplings.values[:, -1]))
    report.write(
        settings.out / settings.preset,
        title="A Gaussian mixture with Jarzynski's correction",
        about=f"A mixture of two in d = {d}, n = {n} data, {walkers} walkers, {settings.steps} iterations: what was asked (at the size of "
        "the paper preset) beside the mean, least and largest over seeds at the end. Asked of log Z: the error expected of finite walkers.",
        command=report.command("gaussian_mixture", given), seconds=time.perf_counter() - begin, rows=rows, figures=figures,
        summary="; ".join(f"{row['part']}, {row['what']}: {row['have']} seeds within {row['asked']}" for row in rows if row["have"]),
        paper="Jarzynski's walkers, unadjusted, find the masses, PCD loses a mode, CD finds the means and not the masses; its curves are "
        "shown without numbers.",
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
