"""Is a deeper energy better? Perceptrons trained by persistent particles beside the shallow energy, on planted teachers.

    python -m experiments.deep --preset quick
    python -m experiments.deep --preset paper

The test that arXiv 2107.05134, Section 6 suggests: `Contrastive`, softplus perceptrons of depth 1, 2 and 3 and width 64 under Adam, with a
cosine decay of the learning rate, beside `Dual` with its default rates and annealing. All have the same data, number of particles and
particle steps; the learning rate of each depth and teacher is the one of a grid with the least KL at the end on seeds of its own (and, to
save time, on at most 2000 data points).
KL(teacher || student) against iterations, and against seconds of steps, which are timed without metrics, the methods in turn.

The teachers are shallow themselves and the steps of `Dual` were tuned on them: it is the shallow energy's best case.
Each sweep is a folder under `--out` from which the same command continues.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.measures import Samples
from dualebm.methods import dual
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.plotting import charts
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import product
from experiments import _common, report

TEACHERS = ("s14_monomodal", "s14_bimodal", "s2_bimodal")
SIZES = {"quick": dict(teachers=TEACHERS[::2], n=1000, seeds=2), "paper": dict(teachers=TEACHERS, n=10_000, seeds=4)}
"""Of the settings that a preset decides."""

STEPS = {("quick", 15): 200, ("quick", 3): 500, ("paper", 15): 400, ("paper", 3): 600}
"""Iterations by preset and dimension."""

CHOOSING, CHOOSING_N = 1000, 2000
"""The first of the seeds on which the learning rate is chosen, and the most data that they have."""

RECORDS = 20
SHALLOW = "shallow"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 1e3, 2 seeds) or paper (n = 1e4, 4 seeds)."""
    teachers: tuple[str, ...] | None = None
    """Which of s14_monomodal, s14_bimodal, s2_bimodal; quick has the first and the last."""
    depths: tuple[int, ...] = (1, 2, 3)
    """Hidden layers."""
    width: int = 64
    """Of each layer, and neurons of the shallow energy."""
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """The grid of the learning rate, of Adam."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Runs of each method."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    choosing_seeds: int = 1
    """Runs, of seeds 1000 on and at most 2000 data points, of each learning rate."""
    steps: int | None = None
    """Iterations, in place of those of the preset."""
    test_points: int = 20_000
    """Exact draws of the teacher on S^14, for KL and score."""
    out: Path = Path("results/deep")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """The settings with the values of the preset. Raises ValueError naming what is not allowed.

    >>> checked(Settings()).n
    1000
    """
    _common.check(settings)
    for name, allowed in (("teachers", TEACHERS), ("depths", None), ("learning_rates", None)):
        values = getattr(settings, name)
        if values is None:
            continue
        if not values:
            raise ValueError(f"{name} is empty; it must have at least one")
        for value in values:
            if allowed is not None:
                checks.choice(name, value, allowed)
            elif name == "depths":
                checks.count(name, value)
            else:
                checks.number(name, value, positive=True)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    settings = Settings(**{**SIZES[settings.preset], **given})
    if settings.steps is not None and settings.steps % RECORDS:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of {RECORDS}")
    if settings.first_seed + settings.seeds > CHOOSING:  # type: ignore[operator]
        raise ValueError(f"first_seed is {settings.first_seed}; the last seed must be below {CHOOSING}, where those that choose begin")
    return settings


def steps_of(settings: Settings, teacher: str) -> int:
    """The iterations of a run."""
    return settings.steps or STEPS[settings.preset, targets.teacher(teacher).space.dimension]


@functools.cache
def cosine(steps: int):
    """A schedule for `run`: the learning rate times (1 + cos(pi t / steps)) / 2 (optax); one object a length, so that it compiles once.

    >>> from dualebm.spaces import Sphere
    >>> round(float(cosine(100)(50, Contrastive(Sphere(3), MLP()).rates._replace(learning_rate=0.02)).learning_rate), 6)
    0.01
    """
    factor = optax.cosine_decay_schedule(1.0, steps)
    return lambda step, rates: rates._replace(learning_rate=rates.learning_rate * factor(step))


@functools.cache
def annealing(dimension: int):
    """Of `Dual`, as it goes with its default rates."""
    return dual.annealing() if dimension > 3 else dual.annealing(400, 0.5)


def methods(settings: Settings, teacher: str) -> dict[str, Any]:
    """The methods by label.

    >>> list(methods(Settings(), "s2_bimodal"))
    ['shallow', 'depth 1', 'depth 2', 'depth 3']
    """
    space = targets.teacher(teacher).space
    deep = {f"depth {depth}": Contrastive(space, MLP(settings.width, depth)) for depth in settings.depths}
    return {SHALLOW: Dual(space, neurons=settings.width), **deep}


def data(key, teacher, n) -> Samples:
    """n points of the teacher."""
    return targets.sample(key, targets.teacher(teacher), n)[0]


def monitors(key, teacher, test_points) -> dict:
    """KL, score error and acceptance: exact on S^2, else over test points of the seed."""
    target = targets.teacher(teacher)
    exact = target.space.dimension == 3
    samples = metrics.exact_samples(target.energy, target.quadrature(nodes=60)) if exact else targets.sample(key, target, test_points)[0]
    return {
        "kl": metrics.KLDivergence(target.energy, samples),
        "score": metrics.ScoreError(target.space, target.energy, samples),
        "acceptance": metrics.Acceptance(),
    }


def swept(settings: Settings, teacher: str, label: str, method, name: str, n, **grid) -> xarray.Dataset:
    """The lanes of a method on a teacher with n data points."""
    steps = steps_of(settings, teacher)
    schedule = annealing(method.space.dimension) if label == SHALLOW else cosine(steps)
    print(f"{teacher}: {label}, {name}", file=sys.stderr)
    lanes = product(teacher=[teacher], n=[n], test_points=[settings.test_points], **grid)
    return sweep(
        lanes, method, None, data, metrics=monitors, steps=steps, every=steps // RECORDS, schedule=schedule, common=True, batch_size=1,
        folder=settings.out / f"{settings.preset}_{teacher}" / f"{label.replace(' ', '_')}_{name}", progress=sys.stderr.isatty(),
    ).load()  # fmt: skip


def chosen_rate(results: xarray.Dataset) -> float:
    """The learning rate with the least mean KL at the end; one with a lane that diverged is none.

    >>> kl = xarray.DataArray([[1.0, 0.2], [1.0, 0.1], [1.0, np.nan]], {"learning_rate": ("lane", [0.1, 0.2, 0.3])}, ("lane", "step"))
    >>> chosen_rate(xarray.Dataset({"kl": kl}))
    0.2
    """
    rates = np.unique(results.learning_rate.values)
    final = results.kl.values[:, -1]
    means = [float(np.mean(final[results.learning_rate.values == rate])) for rate in rates]
    if not np.isfinite(means).any():
        raise ValueError(f"learning_rates is {rates.tolist()}; a run diverged with each of them: give smaller ones")
    return float(rates[int(np.nanargmin(means))])


def measured(settings: Settings, teacher: str) -> tuple[dict[str, xarray.Dataset], dict[str, float], dict[str, float]]:
    """By method: the records along (lane, step), the learning rate that was chosen, and the seconds of a step."""
    first, chosen, results = settings.first_seed, {}, {}
    known = methods(settings, teacher)
    seeds = range(first, first + settings.seeds)  # type: ignore[operator]
    for label, method in known.items():
        grid = {}
        if label != SHALLOW:
            among = dict(learning_rate=settings.learning_rates, seed=range(CHOOSING, CHOOSING + settings.choosing_seeds))
            chosen[label] = chosen_rate(swept(settings, teacher, label, method, "choice", min(settings.n, CHOOSING_N), **among))  # type: ignore
            grid = dict(learning_rate=[chosen[label]])
        results[label] = swept(settings, teacher, label, method, "runs", settings.n, **grid, seed=seeds)
    timed = _common.seconds_a_step(known, data(jax.random.key(first), teacher, settings.n), 5)
    return results, chosen, timed


# -- Rows and figures ----------------------------------------------------------------------------------


def first_below(steps, kl, threshold: float) -> float:
    """The first record at or below a threshold; inf where there is none.

    >>> first_below(np.array([0, 10, 20]), np.array([1.0, 0.3, 0.1]), 0.3)
    10.0
    """
    reached = np.flatnonzero(kl <= threshold)
    return float(steps[reached[0]]) if reached.size else float("inf")


def rows_of(teacher: str, results: dict[str, xarray.Dataset], chosen: dict[str, float], seconds: dict[str, float]) -> list[dict]:
    """A row for each method: KL at the end, iterations and seconds to twice the shallow energy's, seconds of all its steps."""
    threshold = 2 * float(np.mean(results[SHALLOW].kl.values[:, -1]))
    rows = []
    for label, found in results.items():
        kl, steps = found.kl.values, found.step.values
        final, to = kl[:, -1], first_below(steps, kl.mean(0), threshold)
        rows.append(dict(
            teacher=teacher, energy=label, learning_rate=chosen.get(label), KL=float(final.mean()), least=float(final.min()),
            largest=float(final.max()), best=float(kl.mean(0).min()), score=float(found.score.values[:, -1].mean()),
            acceptance=float(found.acceptance.values[:, -1].mean()), ms_a_step=1e3 * seconds[label],
            seconds=seconds[label] * int(steps[-1]), threshold=threshold, iterations_to=to, seconds_to=to * seconds[label],
        ))  # fmt: skip
    return rows


def figure_of(results: dict[str, dict[str, xarray.Dataset]], seconds: dict[str, dict[str, float]]) -> Figure:
    """KL against iterations above and against seconds of steps below, a column for each teacher."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 4.6), layout="constrained")
        panels = figure.subplots(2, len(results), squeeze=False, sharey="col")
        for column, (teacher, found) in enumerate(results.items()):
            for row, panel in enumerate(panels[:, column]):
                for i, (label, one) in enumerate(found.items()):
                    kl = one.kl.values[:, 1:]
                    x = one.step.values[1:] * (seconds[teacher][label] if row else 1)
                    name = "shallow (Dual)" if label == SHALLOW else f"perceptron, {label}"
                    panel.plot(x, np.nanmean(kl, 0), color=charts.COLOURS[i], marker=charts.MARKERS[i], markevery=(i, 5), label=name)
                    panel.fill_between(x, np.nanmin(kl, 0), np.nanmax(kl, 0), color=charts.COLOURS[i], alpha=0.18, linewidth=0)
                charts.log_axis(panel.xaxis)
                charts.log_axis(panel.yaxis)
                panel.set_xlabel("seconds of steps" if row else "iteration")
            panels[0, column].set_title(teacher)
        for panel in panels[:, 0]:
            panel.set_ylabel("KL(teacher || student) (nat)")
        count = next(iter(next(iter(results.values())).values())).sizes["lane"]
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, title=f"mean of {count} seeds; band: least to largest")
    return figure


# -- The command ---------------------------------------------------------------------------------------


def main(settings: Settings) -> list[dict]:
    """Chooses, runs, times, writes; returns the rows."""
    given, settings, begin = settings, checked(settings), time.perf_counter()
    results, seconds, rows, sentences = {}, {}, [], []
    for teacher in settings.teachers or ():
        results[teacher], chosen, seconds[teacher] = measured(settings, teacher)
        found = rows_of(teacher, results[teacher], chosen, seconds[teacher])
        rows += found
        best = min(found[1:], key=lambda row: row["KL"] if np.isfinite(row["KL"]) else np.inf)
        sentences.append(
            f"{teacher}: shallow {found[0]['KL']:.4g} nat after {found[0]['seconds']:.3g} s of steps; the best perceptron "
            f"({best['energy']}) {best['KL']:.4g} after {best['seconds']:.3g} s."
        )
    report.write(
        settings.out / settings.preset,
        title="Deeper energies beside the shallow one",
        about=f"Perceptrons of width {settings.width} under Adam with persistent particles beside Dual; n = {settings.n} data, 2n "
        "particles. KL at the end: mean over seeds, least and largest; best: the least of the mean along the run; threshold: twice the "
        "shallow energy's KL.",
        command=report.command("deep", given), seconds=time.perf_counter() - begin, rows=rows, summary=" ".join(sentences),
        figures={"deep": figure_of(results, seconds)},
        paper="Section 6 says that the scheme generalizes to deeper networks and could be tested with them; it shows no such experiment.",
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
