"""Many neurons and particles (Proposition 2): particle systems of Algorithm 1 against the coupled equations of the measures."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.features import Feature, ReLU
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.grid import cross, product, zipped
from dualebm.training.run import run
from experiments import _common, report
from experiments.mean_field.measured import (
    MEASURES,
    RADIUS,
    Densities,
    Settings,
    admissible,
    drawn_data,
    extrapolated,
    fitted_slope,
    root_mean_square,
    row,
    sizes_of,
    smooth_data,
    system_seeds,
)

RECORDS = 4
"""Times of a record, equally far apart."""

FINE, COARSE = 256, 64
"""Arcs of the densities of the equations, and of the histograms of particles."""


ERRORS = (
    "Particle systems of Algorithm 1 against the mean-field equations, a row for each space: root mean square error of integrals of "
    "test functions, over {} seeds, against the number of particles N, on logarithmic axes. Left: integrals over the particles; right: "
    "over the neurons. Lines are fitted slopes; a law of large numbers has -1/2. The words in a panel are what the grid and the time "
    "step of the equations may add."
)
DENSITIES = (
    "Densities on the circle at the start and at four times: particles above, neurons below, those of positive sign upwards and "
    "those of negative sign downwards on a logarithmic axis. Lines are the equations, filled areas one particle system of the "
    "largest size."
)


class Case(NamedTuple):
    """A coupled system: its space and feature; data, for so many cells; neuron steps over the particle step; the time and the iterations;
    cells of particles and of neurons on each grid."""

    title: str
    space: Space
    feature: Feature
    data: Callable[[int], Samples]
    ratio: float
    end: float
    steps: int
    grids: tuple[tuple[int, int], ...]


def cases(paper: bool) -> dict[str, Case]:
    """Returns the coupled systems by their names."""
    circle = tuple((k, 4 * k) for k in ((256, 512, 1024) if paper else (256, 512)))
    sphere = tuple((k, k) for k in ((256, 1024, 4096) if paper else (256, 1024)))
    return {
        "circle": Case("circle, ReLU", Sphere(2), ReLU(), drawn_data, 10.0, 1.0, 200, circle),
        "sphere": Case("$S^2$, ReLU", Sphere(3), ReLU(), lambda count: smooth_data(Sphere(3), count), 10.0, 1.0, 200, sphere),
    }


def rates_of(case: Case, steps: int) -> DualRates:
    """Returns the rates of Algorithm 1 without restarts: the neuron steps are `ratio` times the particle step."""
    step = case.end / steps
    return DualRates(step, case.ratio * step, case.ratio * step, 0.0, RADIUS)


def equations(case: Case, grid: tuple[int, int], steps: int, folder: Path) -> xarray.Dataset:
    """Solves the equations on a grid, and returns the records."""
    data, rates = case.data(grid[0]), rates_of(case, steps)
    method = admissible(MeanField(case.space, case.feature, *grid), rates, data)
    metrics = MEASURES | ({"densities": Densities(FINE)} if case.space == Sphere(2) else {})
    folder = folder / f"equations_{grid[0]}_{steps}"
    return run(
        jax.random.key(0), method, rates, data, steps=steps, every=steps // RECORDS, metrics=metrics, folder=folder, progress=False
    )[1]


def systems(case: Case, sizes: list[int], seeds: range, folder: Path) -> xarray.Dataset:
    """Runs the particle systems of each size and seed, and returns the records along (run, step)."""
    grid = cross(zipped(particles=sizes, neurons=[size // 10 for size in sizes]), product(seed=seeds))
    metrics = MEASURES | ({"densities": Densities(COARSE)} if case.space == Sphere(2) else {})
    method = Dual(case.space, case.feature, integrator="geodesic", noise="independent")
    return _common.swept(
        grid, method, rates_of(case, case.steps), case.data(case.grids[-1][0]), steps=case.steps, every=case.steps // RECORDS,
        metrics=metrics, folder=folder / "particles",
    )  # fmt: skip


class Errors(NamedTuple):
    """Of a measure at the records: root mean square over seeds and test functions by size, (sizes, records); of the mean over seeds at
    the largest size, and what is expected of it by chance; change from one pair of grids to the next (of the pair's extrapolation where
    there is one); change by half the step; and how much the integrals change in all."""

    by_size: np.ndarray
    bias: np.ndarray
    chance: np.ndarray
    grid: np.ndarray
    step: np.ndarray
    scale: np.ndarray


def errors_of(name: str, particles: xarray.Dataset, grids: list[xarray.Dataset], halved: xarray.Dataset) -> Errors:
    """Returns the errors of a measure of `MEASURES`."""
    values = [np.asarray(result[name], float) for result in grids]
    pairs = [extrapolated(coarse, fine) for coarse, fine in itertools.pairwise(values)]
    limit, before = pairs[-1], (pairs[-2] if len(pairs) > 1 else values[-1])
    sizes = np.unique(particles.particles)
    error = [np.asarray(particles[name])[particles.particles.values == size] - limit[None] for size in sizes]  # (seed, record, function)
    by_size = np.stack([root_mean_square(np.moveaxis(e, 1, 0), keep=1) for e in error])
    return Errors(
        by_size=by_size,
        bias=root_mean_square(error[-1].mean(axis=0), keep=1),
        chance=root_mean_square(error[-1].std(axis=0, ddof=1), keep=1) / math.sqrt(len(error[-1])),
        grid=root_mean_square(limit - before, keep=1),
        step=root_mean_square(np.asarray(halved[name]) - values[0], keep=1),
        scale=root_mean_square(limit - limit[:1], keep=1),
    )


def seeds_of(settings: Settings) -> range:
    """Returns the seeds of the particle systems."""
    return system_seeds(settings, 32 if settings.preset == "paper" else 12)


class Measured(NamedTuple):
    """What a study draws: its case, the sizes of the particle systems, the times, and the errors of each measure."""

    case: Case
    sizes: list[int]
    times: np.ndarray
    errors: dict[str, Errors]


def study(name: str, settings: Settings) -> tuple[Measured, dict[str, report.Captioned], list[dict[str, Any]]]:
    """Runs the study of a case, and returns what `draw_errors` draws, figures and rows."""
    paper = settings.preset == "paper"
    case, sizes, seeds = cases(paper)[name], sizes_of(settings, 6 if paper else 4), seeds_of(settings)
    folder = settings.out / f"{settings.preset}_{name}"
    grids = [equations(case, grid, case.steps, folder) for grid in case.grids]
    halved = equations(case, case.grids[0], 2 * case.steps, folder)
    particles = systems(case, sizes, seeds, folder)
    errors = {measure: errors_of(measure, particles, grids, halved) for measure in MEASURES}
    times = np.arange(1, RECORDS + 1) * case.end / RECORDS
    rows = []
    for measure, error in errors.items():
        for i, moment in enumerate(times, 1):
            slope, uncertain, _ = fitted_slope(sizes, error.by_size[:, i])
            rows.append(row(
                f"{name}, {measure}", f"t = {moment:g}", "N", -0.5, slope, uncertain, error.by_size[:, i],
                bias=error.bias[i], chance=error.chance[i], grid=error.grid[i], step=error.step[i],
            ))  # fmt: skip
    figures: dict[str, report.Captioned] = {}
    if case.space == Sphere(2):
        figures[f"mean_field_{name}_densities"] = (draw_densities(grids[-1], particles, times), DENSITIES)
    return Measured(case, sizes, times, errors), figures, rows


def draw_errors(studies: list[Measured]) -> Figure:
    """Draws errors against N with the lines of their slopes, a row for each case: particles on the left, neurons on the right.

    What the grids and the time step may add lies far below the errors, and is written into the panels.
    """
    figure, panels = _common.panels_of(len(studies), 2, 0.4 + 2.6 * len(studies))
    labels = {"nu": r"particles, $\int \psi \, d\nu$", "gamma": r"neurons, $\int \psi \, d\gamma$"}
    for (line, column), panel in np.ndenumerate(panels):
        case, sizes, times, errors = studies[line]
        measure = list(errors)[column]
        error = errors[measure]
        for i, moment in enumerate(times, 1):
            form = _common.look(i - 1)
            slope, uncertain, constant = fitted_slope(sizes, error.by_size[:, i])
            panel.plot(sizes, error.by_size[:, i], linestyle="", label=f"t = {moment:g}: {slope:.2f} ± {uncertain:.2f}", **form)
            panel.plot(sizes, np.exp(constant) * np.asarray(sizes) ** slope, color=form["color"], linewidth=0.8)
        floors = [charts.number(float(f"{floor[-1]:.1g}")) for floor in (error.grid, error.step)]
        words = f"at t = {times[-1]:g} other grids change {floors[0]},\nhalf the time step {floors[1]}"
        panel.text(0.03, 0.03, words, transform=panel.transAxes, fontsize=6, va="bottom")
        least, largest = error.by_size[:, 1:].min(), error.by_size[:, 1:].max()
        panel.set_ylim(least / (largest / least) ** 0.3, 1.2 * largest)  # room for these words
        charts.log_axis(panel.xaxis, sizes[:: 2 if len(sizes) > 4 else 1])
        charts.log_axis(panel.yaxis)
        panel.set_title(f"{case.title}: {labels[measure]}", loc="left")
        panel.legend(title="slope ± standard error", title_fontsize=6, fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
        if not column:
            panel.set_ylabel("error, root mean square")
        if line == len(studies) - 1:
            panel.set_xlabel("particles N (with N / 10 neurons)")
    return figure


def draw_densities(limit: xarray.Dataset, particles: xarray.Dataset, times) -> Figure:
    """Draws nu above and gamma below, of the equations and of the largest particle system, at the start and at the records."""
    figure, panels = _common.panels_of(2, RECORDS + 1, 3.6, sharex=True)
    largest = particles.isel(run=int(np.argmax(particles.particles.values)))
    size, neurons = int(largest.particles), int(largest.neurons)
    system, solved = np.asarray(largest.densities), np.asarray(limit.densities)  # (record, measure, bin)
    arcs = 2 * np.arange(COARSE + 1) / COARSE
    for column, moment in enumerate((0.0, *times)):
        above, below = panels[:, column]
        for i, (panel, sign, colour) in enumerate(((above, 1, 0), (below, 1, 5), (below, -1, 2))):
            panel.stairs(sign * system[column, i], arcs, fill=True, color=charts.COLOURS[colour], alpha=0.35, linewidth=0)
            if column or i:
                panel.plot(2 * (np.arange(FINE) + 0.5) / FINE, sign * solved[column, i], color=charts.COLOURS[colour], linewidth=0.9)
            else:  # the data are atoms: their density depends on the arcs
                panel.stairs(solved[0, 0].reshape(COARSE, -1).mean(axis=1), arcs, color=charts.COLOURS[colour], linewidth=0.9)
        top = (system[1:, 0] if column else system[0, 0]).max()
        above.set(title=f"t = {moment:g}", ylim=(0, 1.1 * max(top, solved[1:, 0].max())))
        below.axhline(0, color="0.6", linewidth=0.5)
        below.set(xlabel="angle / π", xlim=(0, 2), xticks=(0, 1, 2))
        charts.signed_axis(below.yaxis, 2.0)
        below.set_ylim(-1.2 * solved[:, 2].max(), 1.2 * solved[:, 1].max())
        if column:
            below.set_yticklabels([])
        if column > 1:
            above.set_yticklabels([])
    panels[0, 0].set_ylabel("density of particles ν")
    panels[1, 0].set_ylabel("density of neurons\n$\\gamma_+$ above, $-\\gamma_-$ below")
    figure.suptitle(f"lines: the equations; filled: one system of {size} particles and {neurons} neurons", fontsize=8)
    return figure
