"""From maximum likelihood to score matching by restarts of the particles, and restarts that are annealed (arXiv 2107.05134, Section 4).

    python -m experiments.restarts --preset quick
    python -m experiments.restarts --preset paper
    python -m experiments.restarts --preset paper --only annealed --teachers s14_monomodal

The restart probability p_R moves Algorithm 1 from maximum likelihood (p_R = 0) to score matching (p_R = 1, Proposition 3). A restart
is either of each particle by itself, at a data point drawn at random, with probability p_R (Bernoulli, the text), or of all particles
at once, at two copies of the data in order, every k = 1 / p_R iterations (periodic, the authors' program). Three studies, each a folder
under `--out` that survives a kill:

    noise       the witness F = E_particles phi - E_data phi one step after each kind of restart at p_R = 1: signal and noise
    continuum   KL, score error and total variation against p_R, by both restarts, for the authors' program and the same with MALA
    annealed    p_R from high to low over a warm-up (the paper's future work): shapes and lengths chosen on some seeds, told on others
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.shallow import feature_mean, from_atoms
from dualebm.features import ReLU
from dualebm.flows import initialise, langevin
from dualebm.measures import Atoms, Samples
from dualebm.methods import dual
from dualebm.methods.dual import Dual, DualRates
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import cross, product, zipped
from experiments import report
from experiments.reference import author_runs
from experiments.time_scales import first_below

STUDIES = ("noise", "continuum", "annealed")
TEACHERS = ("s14_monomodal", "s14_bimodal", "s2_bimodal")
INTEGRATORS = {"program": "projected", "MALA": "mala"}
"""The authors' program, and the same with its particles' step made exact: integrator of each."""

HX, AGE = 0.02, 0.1
"""The program's particle step, and its t_r: particles that restart with probability p are about h_x / p old, and F is of the order of
their age, so that the neuron steps are multiplied by 1 + t_r p / h_x."""

WAYS = ("random data points, antithetic noise", "data in order, independent noise", "data in order, antithetic noise")
"""Starts of the particles at p_R = 1, and the noise of their step: Bernoulli restarts; periodic ones, the last as in the program."""

THRESHOLDS = (0.1, 0.03, 0.01)
"""KL, in nats, to which iterations are told."""

EVERY = 20
"""Iterations between records."""

AWAY = 100
"""The seeds on which the annealed are told are those on which they are chosen plus this."""

AUTHORS = {
    "s14_monomodal": {0: "d15_mono_n1e4_p_R=0", 40: "d15_mono_n1e4_p_R=1/40", 1: "d15_mono_n1e4_p_R=1"},
    "s2_bimodal": {0: "d3_bimodal_n1000_p_R=0", 60: "d3_bimodal_n1000_p_R=1/60", 1: "d3_bimodal_n1000_p_R=1"},
}
"""Teacher -> period, 0 for never -> the archived set."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (minutes) or paper (n = 1e4 on S^14)."""
    only: tuple[str, ...] = STUDIES
    """Which of noise, continuum, annealed."""
    teachers: tuple[str, ...] = ()
    """Which of s14_monomodal, s14_bimodal, s2_bimodal; none for those of the preset."""
    periods: tuple[int, ...] = ()
    """The k = 1 / p_R of the continuum; none for those of the preset."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Runs of each cell, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ...; those on which the annealed are told are 100 further."""
    steps: int | None = None
    """Iterations of a run, a multiple of 20."""
    test_points: int = 10_000
    """Fresh draws of the teacher for KL and score."""
    out: Path = Path("results/restarts")
    """Where results and figures are written."""


class Problem(NamedTuple):
    """A teacher and what the program takes for it; `warmups` are the lengths of the annealed, `default` the schedule of our default."""

    name: str
    target: targets.Target
    n: int
    steps: int
    neuron_step: float
    periods: tuple[int, ...]
    warmups: tuple[int, ...]
    default: Callable


def problems(settings: Settings, study: str) -> list[Problem]:
    """The teachers of a study with their sizes. Raises ValueError naming the setting.

    >>> [(p.name, p.n, p.steps) for p in problems(Settings(preset="paper"), "continuum")]
    [('s14_monomodal', 10000, 1000), ('s14_bimodal', 2000, 1000), ('s2_bimodal', 1000, 4000)]
    """
    report.check(settings)
    for name in settings.only:
        checks.choice("only", name, STUDIES)
    for name in settings.teachers:
        checks.choice("teachers", name, TEACHERS)
    for period in settings.periods:
        checks.count("periods", period)
    if (settings.steps or EVERY) % EVERY:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of {EVERY}")
    if (settings.seeds or 1) > AWAY:
        raise ValueError(f"seeds is {settings.seeds}; it must be at most {AWAY}, or runs would be told on seeds that chose")
    paper = settings.preset == "paper"
    presets = {
        "noise": ("s14_monomodal", "s2_bimodal") if paper else ("s14_monomodal",),
        "continuum": TEACHERS if paper else ("s14_monomodal",),
        "annealed": ("s14_monomodal", "s2_bimodal") if paper else ("s14_monomodal",),
    }
    found = []
    for name in settings.teachers or presets[study]:
        target = targets.teacher(name)
        on_s2 = target.space == Sphere(3)
        n = settings.n or (1000 if on_s2 or not paper else 10_000 if name == "s14_monomodal" else 2000)
        steps = settings.steps or ((4000 if study == "continuum" else 2000) if on_s2 else 1000) // (1 if paper else 2)
        middle = 60 if on_s2 else 40  # of the archived runs
        periods = settings.periods or ((1, 3, 10, middle, 100, 300, 1000) if paper else (1, middle))
        warmups = (200, 1000) if on_s2 else (100, 400)
        default = dual.annealing(400, 0.5) if on_s2 else dual.annealing()
        neuron_step, warmups = (0.04 if on_s2 else 0.2), warmups if paper else warmups[:1]
        found.append(Problem(name, target, n, steps, neuron_step, tuple(sorted(set(periods))), warmups, default))
    return found


def seeds_of(settings: Settings, first: int = 0) -> range:
    """The seeds, from the setting's first plus `first`."""
    count = settings.seeds or (4 if settings.preset == "paper" else 2)
    return range(settings.first_seed + first, settings.first_seed + first + count)


def trained(problem: Problem, settings: Settings, grid, method, rates, folder: Path, schedule=None) -> xarray.Dataset:
    """A sweep with the paper's monitors along (lane, step); the lanes of one seed share their data, start and noise."""
    target, n, count = problem.target, problem.n, settings.test_points

    def data(key):
        return targets.sample(key, target, n)[0]

    def monitors(key):
        return metrics.standard(target.space, target.energy, targets.sample(key, target, count)[0])

    return sweep(
        grid, method, rates, data, steps=problem.steps, every=EVERY, metrics=monitors, schedule=schedule, common=True, folder=folder,
        progress=sys.stderr.isatty(),
    ).load()  # fmt: skip


def picked(results: xarray.Dataset, **settings) -> xarray.Dataset:
    """The lanes with these settings, along (seed, step).

    >>> lanes = dict(period=("lane", [1, 3, 1]), seed=("lane", [0, 0, 1]))
    >>> picked(xarray.Dataset({"kl": ("lane", [0.1, 0.2, 0.3])}, lanes), period=1).kl.values.tolist()
    [0.1, 0.3]
    """
    chosen = np.logical_and.reduce([results[name].values == value for name, value in settings.items()])
    return along_seeds(results.isel(lane=np.flatnonzero(chosen)))


def along_seeds(results: xarray.Dataset) -> xarray.Dataset:
    """Lanes that differ in their seed alone, along (seed, step)."""
    return results.drop_vars([name for name in results.coords if name != "step"]).rename(lane="seed")


def told_of(values: xarray.DataArray, name: str) -> dict[str, float]:
    """Mean over seeds, least and largest."""
    return {name: float(values.mean()), f"{name}_least": float(values.min()), f"{name}_largest": float(values.max())}


def reach(values: xarray.DataArray) -> np.ndarray:
    """From the mean down to the least and up to the largest, as `errorbar` asks for it."""
    return np.array([[float(values.mean() - values.min())], [float(values.max() - values.mean())]])


# -- The witness after one step from the data ------------------------------------------------------------


@partial(jax.jit, static_argnames=("space", "way"))
def _witnesses(keys, space, atoms: Atoms, data: Samples, step, way: str):
    feature = ReLU()

    def one(key):
        restart_key, noise_key = jax.random.split(key)
        x = initialise.copies(data, 2 * data.points.shape[0])
        if way == WAYS[0]:
            x = initialise.restart(restart_key, x, data, 1.0)
        draw = langevin.drawn(noise_key, x.shape[0], x.dtype, "independent" if way == WAYS[1] else "antithetic")
        moved = langevin.move("projected", space, draw, x, from_atoms(feature, atoms), step)[0]
        return feature_mean(feature, atoms.positions, Samples(moved.T))[0]

    return jax.lax.map(one, keys) - feature_mean(feature, atoms.positions, data)[0][None]


def witnesses(keys, target: targets.Target, data: Samples, step: float, way: str) -> np.ndarray:
    """F at the 64 neurons of the program's start after one projected step of 2n particles that restarted in one of `WAYS`, a row a key.

    The neurons are those of one fixed key, all signs -1, weights 1: only restarts and noise are of `keys`.
    """
    method = dual.program(target.space)
    atoms = method.init(jax.random.key(0), method.rates, data).atoms
    return np.asarray(_witnesses(keys, target.space, atoms, data, jnp.asarray(step, data.points.dtype), way))


def noise_study(settings: Settings, folder: Path) -> dict[str, Any]:
    """RMS over neurons of the mean of F / h_x over draws of restarts and noise, and of its standard deviation, against h_x."""
    del folder  # seconds of work: nothing to continue
    found = problems(settings, "noise")
    draws = 100 if settings.preset == "paper" else 20
    rows = []
    figure = Figure(figsize=(3.5 * len(found), 3.0), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    steps = (2e-4, 6e-4, 2e-3, 6e-3, HX, 6e-2)
    root = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
    for panel, problem in zip(panels, found, strict=True):
        data = targets.sample(jax.random.key(settings.first_seed), problem.target, problem.n)[0]
        keys = jax.random.split(jax.random.key(settings.first_seed + 1), draws)
        of_ways = {way: [witnesses(keys, problem.target, data, step, way) / step for step in steps] for way in WAYS}
        # Of the program's way, as the mean over draws keeps the least of its noise; its expectation is that of all ways.
        signal = np.array([root(values.mean(0)) for values in of_ways[WAYS[-1]]])
        panel.plot(steps, signal, color="black", label="signal: the mean over draws")
        for i, (way, values) in enumerate(of_ways.items()):
            spread = np.array([root(v.std(0, ddof=1)) for v in values])
            for step, mean, deviation in zip(steps, signal, spread, strict=True):
                said = dict(teacher=problem.name, n=problem.n, start=way, particle_step=step)
                rows.append(said | dict(signal=mean, noise=deviation, ratio=deviation / mean))
            style = dict(marker=charts.MARKERS[i], color=charts.COLOURS[i], linestyle="--")
            panel.plot(steps, spread, label=f"noise: {way}", **style)
        panel.axvline(HX, color="0.7", linewidth=0.8, zorder=0)
        panel.text(HX * 1.1, 0.02, "program", transform=panel.get_xaxis_transform(), fontsize=6, color="0.4")
        panel.set(title=f"{problem.name}, n = {problem.n}", xlabel="particle step $h_x$")
        charts.log_axis(panel.xaxis, [1e-4, 1e-3, 1e-2, 1e-1])
        charts.log_axis(panel.yaxis)
    panels[0].set_ylabel("$F / h_x$, RMS over neurons")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=1 if len(found) == 1 else 2)
    at = [row for row in rows if row["particle_step"] == HX and row["teacher"] == found[0].name]
    ratios = ", ".join(f"{row['ratio']:.2g} ({row['start']})" for row in at)
    return dict(
        title="Score matching by restarts: the noise of the witness",
        about="One step of the particles from the data gives F = -h_x V. Restarts at random data points leave their own sampling noise "
        "in F, of order N^(-1/2) whatever h_x; two copies of the data in order leave none but that of the step. Neurons of the start.",
        rows=rows, figures={"noise": figure},
        told=f"Noise over signal at h_x = {HX}, {found[0].name}: {ratios}; {draws} draws.",
        paper="Proposition 3 and Appendix G: p_R = 1 is score matching, for infinitely many particles; the text restarts at random data "
        "points, the authors' program at the data in order.",
    )  # fmt: skip


# -- The continuum ---------------------------------------------------------------------------------------


def continuum_method(target: targets.Target, algorithm: str, restarts: str, period: int) -> Dual:
    """The program, or the same with MALA; periodic restarts are the method's (period 0: never)."""
    every = period if restarts == "periodic" and period else None
    return dual.program(target.space, integrator=INTEGRATORS[algorithm], restart_every=every)


def continuum_rates(neuron_step: float, restarts: str, period: int) -> DualRates:
    """The program's: neuron steps times 1 + 0.1 p_R / h_x for both kinds of restart; Bernoulli restarts are a rate.

    >>> rates = continuum_rates(0.2, "bernoulli", 40)
    >>> rates.restart_probability, round(float(rates.transport_step), 6)
    (0.025, 0.225)
    """
    rates = dual.program_rates(period or None, neuron_step, HX)
    return rates._replace(restart_probability=1 / period if restarts == "bernoulli" else 0.0)


def continuum_cells(periods: tuple[int, ...]) -> list[tuple[str, int]]:
    """(kind of restart, period), the period 0 for never: that is the same in both kinds, and run once."""
    return [("periodic", 0), *((kind, period) for kind in ("periodic", "bernoulli") for period in periods)]


def continuum_study(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains all cells of all teachers; rows and the figure."""
    found, all_results = problems(settings, "continuum"), []
    for problem in found:
        cells = continuum_cells(problem.periods)
        kinds = zipped(restarts=[kind for kind, _ in cells], period=[period for _, period in cells])
        grid = cross(kinds, product(algorithm=list(INTEGRATORS), seed=seeds_of(settings)))
        method = partial(continuum_method, problem.target)
        rates = partial(continuum_rates, problem.neuron_step)
        all_results.append(trained(problem, settings, grid, method, rates, folder / problem.name))
    rows = [row for problem, results in zip(found, all_results, strict=True) for row in continuum_rows(problem, results)]
    least = found[0].periods[0]
    at = {(row["teacher"], row["algorithm"], row["restarts"]): f"{row['KL']:.3g}" for row in rows if row["k"] == least}
    pairs = [(problem.name, algorithm) for problem in found for algorithm in INTEGRATORS]
    gaps = [f"{t} {a} {at[t, a, 'bernoulli']} against {at[t, a, 'periodic']}" for t, a in pairs]
    return dict(
        title="The continuum from maximum likelihood to score matching",
        about="Algorithm 1 with restarts, all signs -1, h_x = 0.02, neuron steps 0.2 (S^14) and 0.04 (S^2) times 1 + 0.1 p_R / h_x, "
        f"constant, budget 10. Lines are means over {len(seeds_of(settings))} seeds, bands their least and largest. p_R = 0 is maximum "
        "likelihood, 1 score matching.",
        rows=rows, figures={"continuum": continuum_figure(found, all_results)},
        told=f"Mean KL at the end at p_R = {1 / least:.3g}, Bernoulli against periodic: {'; '.join(gaps)}.",
        paper="Proposition 3 has the two ends. The authors' archived runs (periodic) have KL at iteration 4000 for p_R = 0, 1/40, 1 of "
        "0.0209, 0.0194, 0.0216 (S^14, n = 1e4), and for 0, 1/60, 1 of 0.0044, 0.0039, 0.0107 (S^2, n = 1e3; at p_R = 1 without the "
        "budget).",
    )  # fmt: skip


def continuum_rows(problem: Problem, results: xarray.Dataset) -> list[dict[str, Any]]:
    """A row for each algorithm and cell: means over seeds at the end, and the least KL along training with its iteration."""
    rows = []
    for algorithm in INTEGRATORS:
        for kind, period in continuum_cells(problem.periods):
            cell = picked(results, algorithm=algorithm, restarts=kind, period=period)
            end = cell.isel(step=-1)
            mean = cell.kl.mean("seed", skipna=False)
            best_at = int(mean.step[np.nanargmin(mean.values)])
            rows.append(dict(
                teacher=problem.name, n=problem.n, steps=problem.steps, seeds=cell.sizes["seed"], algorithm=algorithm,
                restarts=kind if period else "none", k=period, p_R=1 / period if period else 0.0, **told_of(end.kl, "KL"),
                best_KL=float(cell.kl.min("step").mean()), best_at=best_at,
                score=float(end.score.mean()), TV=float(end.total_variation.mean()),
            ))  # fmt: skip
    return rows


def continuum_figure(found: list[Problem], all_results: list[xarray.Dataset]) -> Figure:
    """KL, least KL, score error and total variation against p_R, a column for each teacher."""
    measures: tuple[tuple[str, Callable, Callable], ...] = (
        ("KL at the end (nat)", lambda r: r.kl[:, -1], lambda a, i: a["KL"]["mean"][i]),
        ("least KL along training (nat)", lambda r: r.kl.min("step"), lambda a, i: a["KL"]["mean"][: i + 1].min()),
        ("score error at the end", lambda r: r.score[:, -1], lambda a, i: a["SM"]["mean"][i]),
        ("total variation at the end", lambda r: r.total_variation[:, -1], lambda a, i: a["TV"]["mean"][i]),
    )
    whose = "authors (S^14: n = 1e4)"
    figure = Figure(figsize=(max(2.4 * len(found), 4.8), 8.0), layout="constrained")
    panels = figure.subplots(len(measures), len(found), squeeze=False, sharex="col")
    for column, (problem, results) in enumerate(zip(found, all_results, strict=True)):
        never = 1 / (4 * max(problem.periods))  # where p_R = 0 is drawn on the logarithmic axis
        for row, (label, of_runs, of_authors) in enumerate(measures):
            panel = panels[row, column]
            for i, (algorithm, kind) in enumerate((a, k) for a in INTEGRATORS for k in ("periodic", "bernoulli")):
                cells = [of_runs(picked(results, algorithm=algorithm, restarts=kind, period=k)) for k in problem.periods]
                x = [1 / k for k in problem.periods]
                mean, low, high = (np.array([float(getattr(c, f)()) for c in cells]) for f in ("mean", "min", "max"))
                text = f"{algorithm}, {'periodic' if kind == 'periodic' else 'Bernoulli'}"
                style = dict(color=charts.COLOURS[i], marker=charts.MARKERS[i], linestyle="-" if kind == "periodic" else "--")
                panel.plot(x, mean, label=text, **style)
                panel.fill_between(x, low, high, color=charts.COLOURS[i], alpha=0.18, linewidth=0)
                if kind == "periodic":
                    start = of_runs(picked(results, algorithm=algorithm, restarts=kind, period=0))
                    panel.errorbar([never], [float(start.mean())], reach(start), capsize=2, **style)
            for period, name in AUTHORS.get(problem.name, {}).items():
                runs = author_runs(name)
                x = 1 / period if period else never
                last = int(np.flatnonzero(runs["iterations"] <= problem.steps)[-1])
                form = dict(linestyle="none", color="black", markersize=7, zorder=5)
                panel.plot(x, of_authors(runs, len(runs["iterations"]) - 1), marker="*", label=f"{whose}, iteration 4000", **form)
                panel.plot(x, of_authors(runs, last), marker="*", markerfacecolor="none", label=f"{whose}, at our last iteration", **form)
            panel.set_xlim(never / 1.6, 1.6)
            if not column:
                panel.set_ylabel(label)
            if row < 3:
                charts.log_axis(panel.yaxis)
            shown = [p for p in (0.001, 0.01, 0.1, 1.0) if p > 2 * never]
            charts.log_axis(panel.xaxis, [never, *shown])
            panel.xaxis.set_ticks([never, *shown], ["0", *(f"{p:g}" for p in shown)])
            between = [m * 10.0**e for e in range(-4, 0) for m in range(1, 10)]
            panel.xaxis.set_ticks([p for p in between if p > 2 * never], minor=True)
            panel.text(2 * never, 0, "//", transform=panel.get_xaxis_transform(), ha="center", va="center", fontsize=8, clip_on=False)
        panels[0, column].set_title(f"{problem.name}\nn = {problem.n}, {problem.steps} iterations")
        panels[-1, column].set_xlabel("restart probability $p_R$ = 1 / k")
    handles = {text: handle for panel in panels[0] for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(found))
    return figure


# -- Annealed restarts -----------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[int], optax.Schedule]] = {
    "linear": lambda warmup: optax.linear_schedule(1.0, 0.0, warmup),
    "cosine": lambda warmup: optax.cosine_decay_schedule(1.0, warmup),
    "exponential": lambda warmup: optax.exponential_decay(1.0, warmup, 1e-3, end_value=1e-3),
    "step": lambda warmup: optax.piecewise_constant_schedule(1.0, {warmup: 0.0}),
    "step_in_order": lambda warmup: optax.piecewise_constant_schedule(1.0, {warmup: 0.0}),
    "reversed": lambda warmup: optax.linear_schedule(0.0, 1.0, warmup),
}
"""p_R over a warm-up: 1 to 0 along a line, a cosine, a step; 1 to 1e-3; and, a control, 0 to 1. In "step_in_order" all particles restart at
two copies of the data in each iteration of the warm-up; the others are Bernoulli restarts."""

QUICK_SHAPES = ("linear", "exponential", "step_in_order", "reversed")
"""Those of the quick preset: each compiles a program of its own."""


def annealed(schedule: optax.Schedule, age_factor: bool, bernoulli: bool = True) -> Callable:
    """The schedule of rates with p_R = schedule(step) and, with the age factor, neuron steps times 1 + 0.1 p_R / h_x.

    bernoulli: False where the method itself restarts (`restart_every`, `restart_until`), so that the rate stays as it is.

    >>> rates = annealed(optax.linear_schedule(1.0, 0.0, 100), True)(50, dual.program_rates())
    >>> round(float(rates.restart_probability), 6), round(float(rates.transport_step), 6)
    (0.5, 0.7)
    """

    def anneal(step, rates):
        probability = schedule(step)
        factor = 1 + AGE * probability / rates.particle_step if age_factor else 1.0
        return rates._replace(
            restart_probability=probability if bernoulli else rates.restart_probability,
            transport_step=rates.transport_step * factor,
            reaction_step=rates.reaction_step * factor,
        )

    return anneal


class Variant(NamedTuple):
    """A way to train: its name, which is that of its folder, and what `sweep` needs."""

    name: str
    method: Dual
    rates: DualRates
    schedule: Callable | None = None


def annealed_variant(problem: Problem, shape: str, warmup: int, age_factor: bool, default: bool = False) -> Variant:
    """MALA at the program's rates under an annealed p_R; or, by `default`, our default rates and schedule with it on top."""
    in_order = shape == "step_in_order"
    restarts = dict(restart_every=1, restart_until=warmup) if in_order else {}
    method = dual.program(problem.target.space, integrator="mala", **restarts)
    anneal = annealed(SHAPES[shape](warmup), age_factor, not in_order)
    name = f"{shape}_{warmup}{'_age' if age_factor else ''}"
    if not default:
        return Variant(name, method, dual.program_rates(None, problem.neuron_step, HX), anneal)
    before = problem.default
    return Variant(f"default_{name}", method, method.rates, lambda step, rates: anneal(step, before(step, rates)))


def constant_variants(problem: Problem) -> list[Variant]:
    """What the annealed are compared with: constant p_R = 0, 1/40 and 1 with the age factor, MALA; and our default."""
    variants = []
    for kind, period in continuum_cells((1, 40)):
        method = continuum_method(problem.target, "MALA", kind, period)
        name = f"constant_{kind}_{period}" if period else "constant_0"
        variants.append(Variant(name, method, continuum_rates(problem.neuron_step, kind, period)))
    method = dual.program(problem.target.space, integrator="mala")
    return [*variants, Variant("default", method, method.rates, problem.default)]


def title_of(name: str) -> str:
    """A variant's name for readers.

    >>> title_of("constant_bernoulli_40"), title_of("default_linear_100_age")
    ('p_R = 1/40, Bernoulli', 'default and linear, 100, age factor')
    """
    if name.startswith("constant_"):
        kind, _, period = name.removeprefix("constant_").partition("_")
        p = {"": "0", "1": "1"}.get(period, f"1/{period}")
        return f"p_R = {p}{', ' + {'bernoulli': 'Bernoulli'}.get(kind, kind) if period else ''}"
    if name == "default":
        return "our default"
    if name.startswith("default_"):
        return f"default and {title_of(name.removeprefix('default_'))}"
    shape, warmup, *age = name.replace("step_in_order", "step in order").split("_")
    return f"{shape}, {warmup}{', age factor' if age else ''}"


def annealed_row(problem: Problem, name: str, seeds: range, results: xarray.Dataset, part: str) -> dict[str, Any]:
    """Of a variant: KL at the end, least KL along training, and the median iterations from which KL stays below the thresholds."""
    kl = results.kl
    times = {f"to_{level:g}": float(first_below(kl, level).median()) for level in THRESHOLDS}
    said = dict(teacher=problem.name, n=problem.n, steps=problem.steps, part=part, seeds=f"{seeds[0]}-{seeds[-1]}", variant=title_of(name))
    return said | told_of(kl[:, -1], "KL") | dict(best_KL=float(kl.min("step").mean())) | times


def chosen_of(runs: dict[str, xarray.Dataset]) -> str:
    """The name with the least mean KL at the end; NaN, a run that diverged, is never the least.

    >>> runs = {name: xarray.Dataset({"kl": (("seed", "step"), [[1.0, end]])}) for name, end in [("a", np.nan), ("b", 0.2), ("c", 0.3)]}
    >>> chosen_of(runs)
    'b'
    """
    return min(runs, key=lambda name: np.nan_to_num(float(runs[name].kl[:, -1].mean(skipna=False)), nan=np.inf))


def fastest_of(runs: dict[str, xarray.Dataset]) -> str:
    """The name with the least median iterations to the middle threshold; of equal ones, that with the least KL at the end."""
    return min(runs, key=lambda name: (float(first_below(runs[name].kl, THRESHOLDS[1]).median()), float(runs[name].kl[:, -1].mean())))


def beats(ours: np.ndarray, other: np.ndarray) -> str:
    """In words: whether every seed of ours is below every seed of the other, and the differences of seeds, which share their data.

    >>> beats(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    'below, bands apart (2 of 2 seeds lower, differences -2 to -2)'
    >>> beats(np.array([1.0, 3.5]), np.array([3.0, 4.0]))
    'bands overlap (2 of 2 seeds lower, differences -2 to -0.5)'
    """
    difference = ours - other
    lower = f"{int((difference < 0).sum())} of {len(ours)} seeds lower, differences {difference.min():.2g} to {difference.max():.2g}"
    apart = "below, bands apart" if ours.max() < other.min() else "above, bands apart" if ours.min() > other.max() else "bands overlap"
    return f"{apart} ({lower})"


def annealed_study(settings: Settings, folder: Path) -> dict[str, Any]:
    """Chooses, of each shape and for speed, the warm-up and age factor on some seeds; tells these, constants and our default on others."""
    rows, figures, told, choices = [], {}, [], []
    first, other = seeds_of(settings), seeds_of(settings, AWAY)
    for problem in problems(settings, "annealed"):

        def run(variant: Variant, seeds: range, part: str, problem=problem) -> xarray.Dataset:
            grid = product(seed=seeds)
            where = folder / problem.name / part / variant.name
            results = trained(problem, settings, grid, variant.method, variant.rates, where, variant.schedule)
            return along_seeds(results)

        paper = settings.preset == "paper"
        ages = (True, False) if paper else (True,)
        variants, best = {}, {}
        for shape in SHAPES if paper else QUICK_SHAPES:
            runs = {}
            for warmup in problem.warmups:
                for age in ages:
                    variant = annealed_variant(problem, shape, warmup, age)
                    variants[variant.name] = (variant, shape, warmup, age)
                    runs[variant.name] = run(variant, first, "choosing")
                    rows.append(annealed_row(problem, variant.name, first, runs[variant.name], "choosing"))
            best[shape] = chosen_of(runs), runs
        candidates = {name: found for _, runs in best.values() for name, found in runs.items()}
        choices.append((problem, variants, candidates))
        # The control is told too, but does not compete.
        competing = {name: found for name, found in candidates.items() if variants[name][1] != "reversed"}
        winner, fastest = chosen_of(competing), fastest_of(competing)
        _, shape, warmup, _ = variants[winner]
        told_names = dict.fromkeys([*(name for name, _ in best.values()), fastest])
        compared = [*(variants[name][0] for name in told_names), *constant_variants(problem)]
        compared.append(annealed_variant(problem, shape, warmup, False, default=True))
        results = {variant.name: run(variant, other, "telling") for variant in compared}
        rows += [annealed_row(problem, name, other, r, "telling") for name, r in results.items()]
        figures[f"annealed_{problem.name}"] = annealed_figure(problem, winner, fastest, results)
        ends = {name: r.kl[:, -1].values for name, r in results.items()}
        against = [name for name in ends if name.startswith("constant_") or name == "default"]
        verdicts = "; ".join(f"{title_of(name)}: {beats(ends[winner], ends[name])}" for name in against)
        on_top = f"The default with it on top, against the default: {beats(ends[compared[-1].name], ends['default'])}."
        times = {name: float(first_below(r.kl, THRESHOLDS[1]).median()) for name, r in results.items()}
        slow = ", ".join(f"{times[name]:.0f} ({title_of(name)})" for name in against)
        speed = f"Fastest to KL {THRESHOLDS[1]:g} was {title_of(fastest)}: {times[fastest]:.0f} iterations, against {slow}."
        told.append(f"{problem.name}: chosen was {title_of(winner)}; KL at the end, against {verdicts}. {on_top} {speed}")
    figures["choosing"] = choosing_figure(choices)
    return dict(
        title="Annealed restarts",
        about="MALA at the program's rates (all signs -1, h_x = 0.02) with p_R from 1 to 0 over a warm-up, with and without the factor "
        f"1 + 0.1 p_R / h_x on the neuron steps. Of each shape the cell with the least mean KL at the end on seeds {first[0]} to "
        f"{first[-1]}, and the fastest cell there, are told on seeds {other[0]} to {other[-1]}, beside constant p_R and our default (its "
        "own steps and schedule, all signs -1). Means, least and largest over seeds; the variants share the data of a seed.",
        rows=rows, figures=figures, told=" ".join(told),
        paper="Section 4 leaves annealed restarts, from high to low p_R, as future work; there are no numbers.",
    )  # fmt: skip


def annealed_figure(problem: Problem, winner: str, fastest: str, results: dict[str, xarray.Dataset]) -> Figure:
    """KL against iterations of the chosen, the constants and the default; and KL of all, at the end and at its least."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 4.0), layout="constrained")
    curves, ends = figure.subplots(1, 2, width_ratios=[1, 0.9])
    on_top = next(name for name in results if name.startswith("default_"))
    shown = list(dict.fromkeys([winner, "constant_0", "constant_periodic_40", "constant_periodic_1", "default", on_top, fastest]))
    for i, name in enumerate(shown):
        kl = results[name].kl[:, 1:]
        mean, low, high = kl.mean("seed"), kl.min("seed"), kl.max("seed")
        curves.plot(kl.step, mean, color=charts.COLOURS[i], marker=charts.MARKERS[i], markevery=(0.04 * i, 0.2), label=title_of(name))
        curves.fill_between(kl.step, low, high, color=charts.COLOURS[i], alpha=0.2, linewidth=0)
    curves.set(xlabel="iteration", ylabel="KL(teacher || student) (nat)")
    charts.log_axis(curves.xaxis, [t for t in (20, 50, 100, 200, 500, 1000, 2000) if t <= problem.steps])
    charts.log_axis(curves.yaxis)
    curves.legend(fontsize=6)
    names, marks = list(results)[::-1], {fastest: " (fastest)"} | {winner: " (chosen)"}
    for y, name in enumerate(names):
        colour = charts.COLOURS[shown.index(name)] if name in shown else "0.45"
        kl = results[name].kl
        for values, offset, marker, fill, kind in (
            (kl[:, -1], 0.12, "o", colour, "at the end"),
            (kl.min("step"), -0.12, "s", "white", "least along training"),
        ):
            style = dict(marker=marker, color=colour, markerfacecolor=fill, capsize=2, linestyle="none")
            ends.errorbar([float(values.mean())], [y + offset], xerr=reach(values), label="" if y else kind, **style)
    ends.set_yticks(range(len(names)), [title_of(name) + marks.get(name, "") for name in names], fontsize=6)
    low, high = ends.get_xlim()
    charts.log_axis(ends.xaxis, [m * 10.0**e for e in range(-4, 1) for m in (1, 1.5, 2, 3, 5, 7) if low <= m * 10.0**e <= high])
    ends.set_xlabel("KL(teacher || student) (nat)")
    ends.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    ends.grid(axis="x", color="0.9", linewidth=0.5)
    seeds = results[winner].sizes["seed"]
    figure.suptitle(f"{problem.name}, n = {problem.n}, MALA, all signs -1; mean, least and largest of {seeds} seeds")
    return figure


def choosing_figure(choices: list[tuple]) -> Figure:
    """KL at the end of all candidates on the seeds that choose, a panel for each teacher."""
    figure = Figure(figsize=(charts.WIDTHS["double"], 2.6 * len(choices) + 0.4), layout="constrained")
    panels = figure.subplots(len(choices), 1, squeeze=False)[:, 0]
    for panel, (problem, variants, runs) in zip(panels, choices, strict=True):
        kinds = list(dict.fromkeys((warmup, age) for _, _, warmup, age in variants.values()))
        shapes = list(dict.fromkeys(shape for _, shape, _, _ in variants.values()))
        for name, (_, shape, warmup, age) in variants.items():
            i, values = kinds.index((warmup, age)), runs[name].kl[:, -1]
            x, value = shapes.index(shape) + 0.16 * (i - (len(kinds) - 1) / 2), float(values.mean())
            label = f"warm-up {warmup}, {'with' if age else 'without'} age factor" if shape == shapes[0] else ""
            style = dict(marker=charts.MARKERS[i], color=charts.COLOURS[i], capsize=2, linestyle="none")
            panel.errorbar([x], [value], reach(values), label=label, **style)
        ranges = {"reversed": "0 to 1", "exponential": "1 to 0.001"}
        panel.set_xticks(range(len(shapes)), [f"{shape.replace('_', ' ')}\n{ranges.get(shape, '1 to 0')}" for shape in shapes])
        panel.set(title=f"{problem.name}, n = {problem.n}", ylabel=f"KL at iteration {problem.steps} (nat)")
        charts.log_axis(panel.yaxis)
        panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# -- The command -----------------------------------------------------------------------------------------


def main(settings: Settings) -> None:
    """Runs the studies; each leaves its figures and numbers in a folder of its own."""
    for name in STUDIES:
        problems(settings, name)  # raises what is not allowed before anything is computed
    studies = {"noise": noise_study, "continuum": continuum_study, "annealed": annealed_study}
    for name in settings.only:
        begin = time.perf_counter()
        folder = settings.out / f"{settings.preset}_{name}"
        with matplotlib.rc_context(charts.STYLE):
            told = studies[name](settings, folder)
        own = report.command("restarts", dataclasses.replace(settings, only=(name,)))
        report.write(folder, command=own, seconds=time.perf_counter() - begin, **told)


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
