"""Two limits of arXiv 2107.05134, measured: many neurons and particles (Proposition 2), and restarts at a high rate (Proposition 3).

    python -m experiments.mean_field --preset quick
    python -m experiments.mean_field --preset paper
    python -m experiments.mean_field --preset paper --only circle

    circle      N particles and N / 10 neurons of Algorithm 1 against the coupled equations of the measures nu and gamma (eq. 6), solved by
                finite volumes, on the circle: the error of integrals of test functions against N, at several times; and the densities
    sphere      the same on S^2
    matching    restarts at the rate alpha, neurons at the speed alpha: the energy against that of the score matching flow, against alpha,
                for the equations and for N particles

The equations are solved on three grids, the cells of each half as wide as those of the one before. Their upwind fluxes are of order 1, so
that pairs of grids are extrapolated. Shown beside the error of particles: what the extrapolated values change from one pair of grids to the
next, and what half the time step changes.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from dualebm._internal import checks
from dualebm._internal.finite_volume import cells
from dualebm.features import Feature, ReLU, Softplus
from dualebm.measures import Samples, coefficients
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates
from dualebm.plotting import charts
from dualebm.spaces import Space, Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import cross, product, zipped
from dualebm.training.run import run
from experiments import _common, report

STUDIES = ("circle", "sphere", "matching")
RADIUS = 10.0
RECORDS = 4
"""Times of a record, equally far apart."""

FINE, COARSE = 256, 64
"""Arcs of the densities of the equations, and of the histograms of particles."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (about two minutes) or paper (about a quarter of an hour, on two cores)."""
    only: tuple[str, ...] = STUDIES
    """Which of circle, sphere, matching."""
    seeds: int | None = None
    """Particle systems of each size, each with its own neurons, particles and noise."""
    sizes: int | None = None
    """Sizes of the particle systems: 200 particles and 20 neurons, 400 and 40, ..."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    out: Path = Path("results/mean_field")
    """Where results and figures are written."""


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


class Matching(NamedTuple):
    """Restart rates alpha: of the equations, with either neuron step; with that of Algorithm 1 and alpha s = 1 / 2 alpha; of particles."""

    ratios: tuple[int, ...]
    vanishing: tuple[int, ...]
    of_particles: tuple[int, ...]


# -- Data and what is measured ---------------------------------------------------------------------------


def log_density(x: np.ndarray) -> np.ndarray:
    """Of a mixture of two von Mises-Fisher bumps, without the constant."""
    first, second = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    first[:2], second[:2] = (math.cos(0.7), math.sin(0.7)), (math.cos(2.2), -math.sin(2.2))
    return np.logaddexp(np.log(0.65) + 4 * (x @ first - 1), np.log(0.35) + 10 * (x @ second - 1))


def drawn_data(count: int) -> Samples:
    """100 draws of the mixture on the circle, each at the centre of one of 256 arcs, which grids of 256, 512, ... cells all have.

    >>> drawn_data(512).points.shape
    (100, 2)
    """
    if count % 256:
        raise ValueError(f"count is {count}; it must be a multiple of 256")
    centres = cells(Sphere(2), 256).centres
    density = np.exp(log_density(centres))
    chosen = np.random.default_rng(0).choice(256, 100, p=density / density.sum())
    return Samples(jnp.asarray(centres[chosen], jnp.float32))


def smooth_data(space: Space, count: int) -> Samples:
    """The mixture itself, as weights of the centres of so many cells."""
    grid = cells(space, count)
    log_weights = log_density(grid.centres) + np.log(grid.shares)
    return Samples(jnp.asarray(grid.centres, jnp.float32), jnp.asarray(log_weights, jnp.float32))


def harmonics(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """The test functions: spherical harmonics of degree 1 and 2, x_i, 2 x_i x_j (i < j) and x_i^2 - x_{i+1}^2.

    >>> [round(float(value), 2) for value in harmonics(jnp.array([[0.6, 0.8]]))[0]]
    [0.6, 0.8, 0.96, -0.28]
    """
    i, j = np.triu_indices(x.shape[1], 1)
    return jnp.concatenate([x, 2 * x[:, i] * x[:, j], x[:, :-1] ** 2 - x[:, 1:] ** 2], axis=1)


def measures(method, state):
    """nu as points and masses, and gamma as points and the masses of either sign: of cells, or of particles and neurons."""
    if isinstance(method, MeanField):
        x, theta = (jnp.asarray(grid.centres, state.nu.dtype) for grid in method.grids)
        return (x, state.nu), (theta, state.gamma[0], state.gamma[1])
    x, mass = state.particles, coefficients(state.atoms) / method.neurons
    uniform = jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)
    return (x, uniform), (state.atoms.positions, jnp.maximum(mass, 0), jnp.maximum(-mass, 0))


def of_particles(key, iterate):
    """Integrals of the harmonics in nu."""
    del key
    (x, mass), _ = measures(iterate.method, iterate.state)
    return mass @ harmonics(x)


def of_neurons(key, iterate):
    """Integrals of 1 and of the harmonics in gamma."""
    del key
    _, (theta, plus, minus) = measures(iterate.method, iterate.state)
    return jnp.append((plus - minus) @ harmonics(theta), jnp.sum(plus - minus))


class Densities(eqx.Module):
    """On the circle: nu, and gamma of the signs + and -, in so many arcs, with respect to the uniform measure: (3, bins)."""

    bins: int = eqx.field(static=True)

    def __call__(self, key, iterate):
        """The densities."""
        del key
        (x, mass), (theta, plus, minus) = measures(iterate.method, iterate.state)

        def of(points, mass):
            turn = jnp.arctan2(points[:, 1], points[:, 0]) / (2 * math.pi)
            arc = jnp.floor(turn * self.bins + 1e-3).astype(int) % self.bins  # the centre of a cell is where an arc begins: never below it
            return self.bins * jnp.zeros(self.bins, mass.dtype).at[arc].add(mass)

        return jnp.stack([of(x, mass), of(theta, plus), of(theta, minus)])


def centred_energy(key, iterate):
    """f at 64 points of the circle, less its mean."""
    del key
    f = iterate.energy(jnp.asarray(cells(Sphere(2), 64).centres, iterate.data.points.dtype))
    return f - jnp.mean(f)


MEASURES = {"nu": of_particles, "gamma": of_neurons}
"""Name of a measure -> the integrals in it."""


def root_mean_square(x, *, keep: int = 0) -> np.ndarray:
    """Over all but the first axes, of which so many are kept.

    >>> root_mean_square([[3.0, 4.0], [0.0, 0.0]], keep=1).round(3).tolist()
    [3.536, 0.0]
    """
    x = np.asarray(x, float)
    return np.sqrt(np.mean(x**2, axis=tuple(range(keep, x.ndim))))


def fitted_slope(x, y) -> tuple[float, float, float]:
    """Of log y against log x by least squares: the slope, its standard error (NaN for two points), and the constant.

    >>> [round(value, 6) for value in fitted_slope([1, 10, 100], [2.0, 0.2, 0.02])]
    [-1.0, 0.0, 0.693147]
    """
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    across = x - x.mean()
    slope = float(across @ y / (across @ across))
    constant = float(y.mean() - slope * x.mean())
    rest = y - constant - slope * x
    error = math.sqrt(rest @ rest / (len(x) - 2) / (across @ across)) if len(x) > 2 else math.nan
    return slope, error, constant


def extrapolated(coarse, fine):
    """The limit of values whose error halves from one grid to the next."""
    return 2 * np.asarray(fine, float) - np.asarray(coarse, float)


def admissible(method: MeanField, rates: DualRates, data: Samples) -> MeanField:
    """The method with as many substeps as these steps need."""
    needed = [float(getattr(rates, name)) / limit for name, limit in method.largest_steps(rates, data).items()]
    return dataclasses.replace(method, substeps=math.ceil(1.01 * max(needed)))


@partial(jax.jit, static_argnums=0)
def after(method, state, rates, data: Samples, steps):
    """The state of a method that draws nothing, so many steps later: one program for any number of steps."""
    return jax.lax.fori_loop(0, steps, lambda _, state: method.step(jax.random.key(0), state, rates, data)[0], state)


# -- Many neurons and particles (Proposition 2) ------------------------------------------------------------


def cases(paper: bool) -> dict[str, Case]:
    """The coupled systems."""
    circle = tuple((k, 4 * k) for k in ((256, 512, 1024) if paper else (256, 512)))
    sphere = tuple((k, k) for k in ((256, 1024, 4096) if paper else (256, 1024)))
    return {
        "circle": Case("circle, ReLU", Sphere(2), ReLU(), drawn_data, 10.0, 1.0, 200, circle),
        "sphere": Case("S^2, ReLU", Sphere(3), ReLU(), lambda count: smooth_data(Sphere(3), count), 10.0, 1.0, 200, sphere),
    }


def rates_of(case: Case, steps: int) -> DualRates:
    """Of Algorithm 1 without restarts: the neuron steps are `ratio` times the particle step."""
    step = case.end / steps
    return DualRates(step, case.ratio * step, case.ratio * step, 0.0, RADIUS)


def equations(case: Case, grid: tuple[int, int], steps: int, folder: Path) -> xarray.Dataset:
    """The records of the equations on a grid."""
    data, rates = case.data(grid[0]), rates_of(case, steps)
    method = admissible(MeanField(case.space, case.feature, *grid), rates, data)
    metrics = MEASURES | ({"densities": Densities(FINE)} if case.space == Sphere(2) else {})
    folder = folder / f"equations_{grid[0]}_{steps}"
    return run(
        jax.random.key(0), method, rates, data, steps=steps, every=steps // RECORDS, metrics=metrics, folder=folder, progress=False
    )[1]


def systems(case: Case, sizes: list[int], seeds: range, folder: Path) -> xarray.Dataset:
    """The records of the particle systems of each size and seed, along (lane, step)."""
    grid = cross(zipped(particles=sizes, neurons=[size // 10 for size in sizes]), product(seed=seeds))
    metrics = MEASURES | ({"densities": Densities(COARSE)} if case.space == Sphere(2) else {})
    return sweep(
        grid, Dual(case.space, case.feature, integrator="geodesic", noise="independent"), rates_of(case, case.steps),
        case.data(case.grids[-1][0]), steps=case.steps, every=case.steps // RECORDS, metrics=metrics,
        folder=folder / "particles", progress=False,
    ).load()  # fmt: skip


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


def errors_of(name: str, found: xarray.Dataset, grids: list[xarray.Dataset], halved: xarray.Dataset) -> Errors:
    """The errors of a measure of `MEASURES`."""
    values = [np.asarray(result[name], float) for result in grids]
    pairs = [extrapolated(coarse, fine) for coarse, fine in itertools.pairwise(values)]
    limit, before = pairs[-1], (pairs[-2] if len(pairs) > 1 else values[-1])
    sizes = np.unique(found.particles)
    error = [np.asarray(found[name])[found.particles.values == size] - limit[None] for size in sizes]  # (seed, record, function)
    by_size = np.stack([root_mean_square(np.moveaxis(e, 1, 0), keep=1) for e in error])
    return Errors(
        by_size=by_size,
        bias=root_mean_square(error[-1].mean(axis=0), keep=1),
        chance=root_mean_square(error[-1].std(axis=0, ddof=1), keep=1) / math.sqrt(len(error[-1])),
        grid=root_mean_square(limit - before, keep=1),
        step=root_mean_square(np.asarray(halved[name]) - values[0], keep=1),
        scale=root_mean_square(limit - limit[:1], keep=1),
    )


def many(name: str, case: Case, settings: Settings) -> tuple[dict[str, Figure], list[dict[str, Any]]]:
    """The study of a case: figures and rows."""
    paper = settings.preset == "paper"
    sizes = [200 * 2**k for k in range(settings.sizes or (6 if paper else 4))]
    seeds = range(settings.first_seed, settings.first_seed + (settings.seeds or (32 if paper else 12)))
    folder = settings.out / f"{settings.preset}_{name}"
    grids = [equations(case, grid, case.steps, folder) for grid in case.grids]
    halved = equations(case, case.grids[0], 2 * case.steps, folder)
    found = systems(case, sizes, seeds, folder)
    errors = {measure: errors_of(measure, found, grids, halved) for measure in MEASURES}
    times = np.arange(1, RECORDS + 1) * case.end / RECORDS
    rows = []
    for measure, error in errors.items():
        for i, moment in enumerate(times, 1):
            slope, uncertain, _ = fitted_slope(sizes, error.by_size[:, i])
            rows.append(row(
                f"{name}, {measure}", f"t = {moment:g}", "N", -0.5, slope, uncertain, error.by_size[:, i],
                bias=error.bias[i], chance=error.chance[i], grid=error.grid[i], step=error.step[i],
            ))  # fmt: skip
    figures = {f"mean_field_{name}_errors": draw_errors(case, sizes, times, errors)}
    if case.space == Sphere(2):
        figures[f"mean_field_{name}_densities"] = draw_densities(grids[-1], found, times)
    return figures, rows


def row(case, at, against, expected, slope, uncertain, values, bias=None, chance=None, grid=None, step=None) -> dict[str, Any]:
    """A row of the table: a slope of errors, the first and the last of them, and floors."""
    return dict(
        case=case, at=at, against=against, expected=expected, slope=slope, slope_error=uncertain, first=values[0], last=values[-1],
        bias=bias, chance=chance, grid_floor=grid, step_floor=step,
    )  # fmt: skip


def draw_errors(case: Case, sizes, times, errors: dict[str, Errors]) -> Figure:
    """Errors against N with the lines of their slopes, and floors, for either measure."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = {"nu": "particles: $\\int \\psi \\, d\\nu$", "gamma": "neurons: $\\int \\psi \\, d\\gamma$"}
    for panel, (measure, error) in zip(panels, errors.items(), strict=True):
        for i, moment in enumerate(times, 1):
            colour, marker = charts.COLOURS[i - 1], charts.MARKERS[i - 1]
            slope, uncertain, constant = fitted_slope(sizes, error.by_size[:, i])
            label = f"t = {moment:g}: slope {slope:.2f} ± {uncertain:.2f}"
            panel.plot(sizes, error.by_size[:, i], marker, color=colour, label=label)
            panel.plot(sizes, np.exp(constant) * np.asarray(sizes) ** slope, color=colour, linewidth=0.8)
        for floor, dashes, label in ((error.grid, ":", "other grids, t = {:g}"), (error.step, "--", "half the time step, t = {:g}")):
            panel.axhline(floor[-1], color="0.4", linestyle=dashes, linewidth=1, label=label.format(times[-1]))
        charts.log_axis(panel.xaxis, sizes[:: 2 if len(sizes) > 4 else 1])
        charts.log_axis(panel.yaxis)
        panel.set(xlabel="particles N (with N / 10 neurons)", ylabel="error, root mean square", title=f"{case.title}; {labels[measure]}")
        panel.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def draw_densities(limit: xarray.Dataset, found: xarray.Dataset, times) -> Figure:
    """nu above and gamma below, of the equations and of the largest particle system, at the start and at the records."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 3.6), layout="constrained")
    panels = figure.subplots(2, RECORDS + 1, sharex=True)
    largest = found.isel(lane=int(np.argmax(found.particles.values)))
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
        below.set(xlabel="angle / π", xlim=(0, 2), xticks=(0, 1, 2), yscale="symlog")
        below.set_ylim(-1.2 * solved[:, 2].max(), 1.2 * solved[:, 1].max())
        if column:
            below.set_yticklabels([])
        if column > 1:
            above.set_yticklabels([])
    panels[0, 0].set_ylabel("density of particles ν")
    panels[1, 0].set_ylabel("density of neurons\n$\\gamma_+$ above, $-\\gamma_-$ below")
    figure.suptitle(f"lines: the equations; filled: one system of {size} particles and {neurons} neurons")
    return figure


# -- Restarts at a high rate (Proposition 3) ---------------------------------------------------------------

END, STEP = 0.5, 0.1
"""Of the matching study: the time, and alpha s, the particle step s in units of 1 / alpha."""

PARTICLE_CELLS, NEURON_CELLS, ATOMS = 128, (256, 512), 1024
"""Of the matching study: cells of the equations' particles, and of their neurons on two grids; atoms of the limit, equally far apart."""

FITTED = 4
"""The largest restart rates, to which slopes are fitted."""

PLANS = {
    "quick": Matching((4, 8, 16, 32, 64, 128, 256), (4, 8, 16, 32), (4, 32)),
    "paper": Matching((4, 8, 16, 32, 64, 128, 256, 512, 1024), (4, 8, 16, 32, 64, 128), (4, 16, 64, 256)),
}


def restarting(ratio: float, steps: int, clock: bool) -> DualRates:
    """Algorithm 1 with p_R = 1 - exp(-alpha s) and neuron steps alpha s, or with `clock` p_R.

    A particle moves 1 / p_R times between restarts, so that F = -(s / p_R) V to first order: neurons go s in an iteration where their step
    is p_R, and alpha s / p_R = 1 + alpha s / 2 + ... times as far where it is alpha s.

    >>> restarting(10, 50, clock=True).transport_step == restarting(10, 50, clock=True).restart_probability
    True
    """
    step = END / steps
    restart = -math.expm1(-ratio * step)
    neuron = restart if clock else ratio * step
    return DualRates(step, neuron, neuron, restart, RADIUS)


def iterations(ratio: int) -> int:
    """So many that alpha s = STEP."""
    return round(END * ratio / STEP)


def matching_data() -> Samples:
    """The mixture on the circle."""
    return smooth_data(Sphere(2), PARTICLE_CELLS)


def limit_energy() -> tuple[np.ndarray, float]:
    """The energy of the score matching flow, extrapolated in its step, and what its extrapolation changes."""
    data, energies = matching_data(), []
    method = ScoreMatching(Sphere(2), Softplus(), neurons=ATOMS)
    half = jnp.asarray(cells(Sphere(2), ATOMS // 2).centres, jnp.float32)
    for steps in (200, 400):
        rates = ScoreMatchingRates(END / steps, END / steps, RADIUS)
        state = method.init(jax.random.key(0), rates, data)
        state = state._replace(atoms=state.atoms._replace(positions=jnp.concatenate([half, half])))
        state = after(method, state, rates, data, steps)
        energies.append(np.asarray(centred_energy(None, Iterate(method, state, rates, data))))
    limit = extrapolated(*energies)
    return limit, float(root_mean_square(limit - energies[-1]))


def restarted_equations(runs: list[tuple[int, int, bool]]) -> list[tuple[np.ndarray, float]]:
    """Of each (alpha, steps, clock) the energy of the equations, extrapolated in the cells of the neurons, and what that changes."""
    data, energies = matching_data(), []
    rates = [restarting(*one) for one in runs]
    for neuron_cells in NEURON_CELLS:
        method = MeanField(Sphere(2), Softplus(), PARTICLE_CELLS, neuron_cells)
        method = dataclasses.replace(method, substeps=max(admissible(method, one, data).substeps for one in rates))
        state = method.init(jax.random.key(0), rates[0], data)
        for one, (_, steps, _) in zip(rates, runs, strict=True):
            last = after(method, state, one, data, steps)
            energies.append(np.asarray(centred_energy(None, Iterate(method, last, one, data))))
    pairs = zip(energies[: len(runs)], energies[len(runs) :], strict=True)
    return [(extrapolated(*pair), float(root_mean_square(pair[1] - pair[0]))) for pair in pairs]


def restarted_systems(ratio: int, sizes: list[int], seeds: range, folder: Path) -> np.ndarray:
    """The energies of particle systems with restarts, (sizes, seeds, points)."""
    steps = iterations(ratio)
    grid = cross(zipped(particles=sizes, neurons=[size // 10 for size in sizes]), product(seed=seeds))
    found = sweep(
        grid, Dual(Sphere(2), Softplus(), integrator="geodesic", noise="independent"), restarting(ratio, steps, True),
        matching_data(), steps=steps, every=steps, metrics={"f": centred_energy},
        folder=folder / f"particles_{ratio}", progress=False,
    ).load()  # fmt: skip
    return np.stack([np.asarray(found.f[:, -1], float)[found.particles.values == size] for size in sizes])


def matching(settings: Settings) -> tuple[dict[str, Figure], list[dict[str, Any]]]:
    """The study of restarts: figures and rows."""
    paper = settings.preset == "paper"
    plan = PLANS[settings.preset]
    sizes = [200 * 2**k for k in range(settings.sizes or (5 if paper else 4))]
    seeds = range(settings.first_seed, settings.first_seed + (settings.seeds or (16 if paper else 8)))
    folder = settings.out / f"{settings.preset}_matching"
    limit, own = limit_energy()
    variants = {
        "neuron step p_R": [(ratio, iterations(ratio), True) for ratio in plan.ratios],
        f"neuron step αs, αs = {STEP:g}": [(ratio, iterations(ratio), False) for ratio in plan.ratios],
        "neuron step αs, αs = 1 / 2α": [(ratio, round(2 * END * ratio**2), False) for ratio in plan.vanishing],
    }
    every = list(itertools.chain.from_iterable(variants.values()))
    solved = dict(zip(every, restarted_equations(every), strict=True))
    curves, rows = {}, []
    for (label, runs), expected in zip(variants.items(), (-1.0, None, -1.0), strict=True):
        ratios, error = [run[0] for run in runs], np.array([root_mean_square(solved[run][0] - limit) for run in runs])
        curves[label] = (np.array(ratios), error)
        slope, uncertain, _ = fitted_slope(ratios[-FITTED:], error[-FITTED:])
        at = f"alpha {ratios[-FITTED]} to {ratios[-1]}"
        rows.append(row(
            f"matching, {label}", at, "alpha", expected, slope, uncertain, error[-FITTED:], grid=solved[runs[-1]][1], step=own
        ))  # fmt: skip
    known = {ratio: solved[ratio, iterations(ratio), True][0] for ratio in plan.of_particles}
    clouds = {ratio: restarted_systems(ratio, sizes, seeds, folder) for ratio in plan.of_particles}
    spread = {ratio: root_mean_square(cloud - known[ratio], keep=1) for ratio, cloud in clouds.items()}
    for ratio, values in spread.items():
        slope, uncertain, _ = fitted_slope(sizes, values)
        bias = root_mean_square((clouds[ratio][-1] - known[ratio]).mean(axis=0))
        chance = root_mean_square(clouds[ratio][-1].std(axis=0, ddof=1)) / math.sqrt(len(seeds))
        rows.append(row("matching, particles", f"alpha = {ratio}", "N", -0.5, slope, uncertain, values, bias=bias, chance=chance))
    at_largest = [values[-1] for values in spread.values()]
    slope, uncertain, _ = fitted_slope(plan.of_particles, at_largest)
    rows.append(row("matching, particles", f"N = {sizes[-1]}", "alpha", None, slope, uncertain, at_largest))
    scale = float(root_mean_square(limit))
    return {"mean_field_matching": draw_matching(curves, sizes, spread, scale)}, rows


def draw_matching(curves, sizes, spread, scale: float) -> Figure:
    """Distances of the equations to the limit against alpha, and of particles to the equations against N, in units of the limit's size."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 3.0), layout="constrained")
    first, second = figure.subplots(1, 2)
    for i, (label, (ratios, error)) in enumerate(curves.items()):
        first.plot(ratios, error / scale, marker=charts.MARKERS[i], color=charts.COLOURS[i], label=label)
    ratios, error = curves["neuron step p_R"]
    first.plot(ratios, error[-1] / scale * ratios[-1] / ratios, color="0.5", linestyle="--", linewidth=0.8, label="slope -1")
    first.set(title="equations to score matching", xlabel="restart rate α", ylabel="relative distance of energies")
    for i, (ratio, values) in enumerate(spread.items()):
        slope, uncertain, constant = fitted_slope(sizes, values)
        colour = charts.COLOURS[i]
        second.plot(sizes, values / scale, charts.MARKERS[i], color=colour, label=f"α = {ratio}: slope {slope:.2f} ± {uncertain:.2f}")
        second.plot(sizes, np.exp(constant) * np.asarray(sizes) ** slope / scale, color=colour, linewidth=0.8)
    second.set(title="particles to equations", xlabel="particles N (with N / 10 neurons)")
    for panel, ticks in ((first, ratios[::2].tolist()), (second, sizes)):
        charts.log_axis(panel.xaxis, ticks)
        charts.log_axis(panel.yaxis)
        panel.legend(fontsize=6)
    return figure


# -- The command -----------------------------------------------------------------------------------------


def main(settings: Settings) -> list[dict[str, Any]]:
    """Runs the studies, writes figures and the report, and returns its rows."""
    _common.check(settings)
    for name in settings.only:
        checks.choice("only", name, STUDIES)
    for name in ("seeds", "sizes"):
        if getattr(settings, name) is not None:
            checks.count(name, getattr(settings, name), 2)
    begin, figures, rows = time.perf_counter(), {}, []
    known = cases(settings.preset == "paper")
    with matplotlib.rc_context(charts.STYLE):
        for name in settings.only:
            drawn, told = matching(settings) if name == "matching" else many(name, known[name], settings)
            figures |= drawn
            rows += told
    report.write(
        settings.out,
        title="The limits of many particles and of many restarts",
        about="Particles and neurons against the mean-field equations, and the equations with restarts against score matching: errors "
        "(root mean square) of the first and the last size or rate, their slope, and what the grids and the time step may add.",
        command=report.command("mean_field", settings),
        seconds=time.perf_counter() - begin,
        rows=rows,
        paper="proves both limits (Propositions 2 and 3) and measures neither; a law of large numbers has the rate N^(-1/2), "
        "and the quasi-static expansion in its proof the rate 1 / alpha",
        figures=figures,
    )
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
