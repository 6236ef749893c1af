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
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.methods import dual
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED
from dualebm.plotting import charts
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
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
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).n
    1000
    """
    settings = _common.settled(settings, SIZES)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("depths", settings.depths, checks.count)
    _common.check_each("learning_rates", settings.learning_rates, checks.number, positive=True)
    _common.check_multiple("steps", settings.steps, RECORDS)
    if settings.first_seed + settings.seeds > CHOOSING:  # type: ignore[operator]
        raise ValueError(f"first_seed is {settings.first_seed}; the last seed must be below {CHOOSING}, where those that choose begin")
    return settings


def steps_of(settings: Settings, teacher: str) -> int:
    """Returns the iterations of a run."""
    return settings.steps or STEPS[settings.preset, targets.teacher(teacher).space.dimension]


@functools.cache
def cosine(steps: int):
    """Returns the schedule that multiplies the learning rate by (1 + cos(pi t / steps)) / 2: one object a length, so that it compiles once.

    >>> from dualebm.spaces import Sphere
    >>> round(float(cosine(100)(50, Contrastive(Sphere(3), MLP()).rates._replace(learning_rate=0.02)).learning_rate), 6)
    0.01
    """
    factor = optax.cosine_decay_schedule(1.0, steps)
    return lambda step, rates: rates._replace(learning_rate=rates.learning_rate * factor(step))


@functools.cache
def annealing(dimension: int):
    """Returns the annealing of `Dual` that goes with its default rates."""
    return dual.annealing() if dimension > 3 else dual.annealing(400, 0.5)


def methods(settings: Settings, teacher: str) -> dict[str, Any]:
    """Returns the methods by label.

    >>> list(methods(Settings(), "s2_bimodal"))
    ['shallow', 'depth 1', 'depth 2', 'depth 3']
    """
    space = targets.teacher(teacher).space
    deep = {f"depth {depth}": Contrastive(space, MLP(settings.width, depth), **FIXED) for depth in settings.depths}
    return {SHALLOW: Dual(space, neurons=settings.width), **deep}


def monitors(key, teacher, test_points) -> dict:
    """Returns the metrics, KL, score error and acceptance: exact on S^2, else over test points of the seed."""
    target = targets.teacher(teacher)
    exact = target.space.dimension == 3
    samples = metrics.exact_samples(target.energy, target.quadrature(nodes=60)) if exact else targets.sample(key, target, test_points)[0]
    return {
        "kl": metrics.KLDivergence(target.energy, samples),
        "score": metrics.ScoreError(target.space, target.energy, samples),
        "acceptance": metrics.Acceptance(),
    }


def swept(settings: Settings, teacher: str, label: str, method, name: str, n, **grid) -> xarray.Dataset:
    """Sweeps a method on a teacher with n data points."""
    steps = steps_of(settings, teacher)
    schedule = annealing(method.space.dimension) if label == SHALLOW else cosine(steps)
    print(f"{teacher}: {label}, {name}", file=sys.stderr)
    runs = product(teacher=[teacher], n=[n], test_points=[settings.test_points], **grid)
    return _common.swept(
        runs, method, None, _common.data, metrics=monitors, steps=steps, every=steps // RECORDS, schedule=schedule, common=True,
        placement=Placement(batch_size=1), folder=settings.out / f"{settings.preset}_{teacher}" / f"{label.replace(' ', '_')}_{name}",
    )  # fmt: skip


def chosen_rate(results: xarray.Dataset) -> float:
    """Returns the learning rate with the least mean KL at the end; a rate with a run that diverged is not chosen.

    >>> kl = xarray.DataArray([[1.0, 0.2], [1.0, 0.1], [1.0, np.nan]], {"learning_rate": ("run", [0.1, 0.2, 0.3])}, ("run", "step"))
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
    """Returns by method the records along (run, step), the learning rate that was chosen, and the seconds of a step."""
    chosen, results, known = {}, {}, methods(settings, teacher)
    for label, method in known.items():
        grid = {}
        if label != SHALLOW:
            among = dict(learning_rate=settings.learning_rates, seed=range(CHOOSING, CHOOSING + settings.choosing_seeds))
            chosen[label] = chosen_rate(swept(settings, teacher, label, method, "choice", min(settings.n, CHOOSING_N), **among))  # type: ignore
            grid = dict(learning_rate=[chosen[label]])
        results[label] = swept(settings, teacher, label, method, "runs", settings.n, **grid, seed=_common.seeds_of(settings))
    timed = _common.seconds_a_step(known, _common.data(jax.random.key(settings.first_seed), teacher, settings.n), 5)
    return results, chosen, timed


# -- Rows and figures ----------------------------------------------------------------------------------


def rows_of(teacher: str, results: dict[str, xarray.Dataset], chosen: dict[str, float], seconds: dict[str, float]) -> list[dict]:
    """Returns a row for each method: KL at the end, iterations and seconds to twice the shallow energy's, seconds of all its steps."""
    threshold = 2 * float(np.mean(results[SHALLOW].kl.values[:, -1]))
    rows = []
    for label, one in results.items():
        kl, steps = one.kl.values, one.step.values
        final, to = kl[:, -1], _common.first_below(steps, kl.mean(0), threshold)
        rows.append(dict(
            teacher=teacher, energy=label, learning_rate=chosen.get(label), **_common.spread(final, "KL"),
            best=float(kl.mean(0).min()), score=float(one.score.values[:, -1].mean()),
            acceptance=float(one.acceptance.values[:, -1].mean()), ms_a_step=1e3 * seconds[label],
            seconds=seconds[label] * int(steps[-1]), threshold=threshold, iterations_to=to, seconds_to=to * seconds[label],
        ))  # fmt: skip
    return rows


def figure_of(results: dict[str, dict[str, xarray.Dataset]], seconds: dict[str, dict[str, float]]) -> Figure:
    """Draws KL against iterations above and against seconds of steps below, a column for each teacher."""
    figure, panels = _common.panels_of(2, len(results), 4.6, sharey="col")
    for column, (teacher, runs) in enumerate(results.items()):
        for row, panel in enumerate(panels[:, column]):
            for i, (label, one) in enumerate(runs.items()):
                x = one.step.values[1:] * (seconds[teacher][label] if row else 1)
                name = "shallow (Dual)" if label == SHALLOW else f"perceptron, {label}"
                _common.band(panel, x, one.kl.values[:, 1:], i, alpha=0.15, markevery=(i, 5), label=name)
            charts.log_axis(panel.xaxis)
            charts.log_axis(panel.yaxis)
            panel.set_xlabel("seconds of steps" if row else "iteration")
        panels[0, column].set_title(_common.named(teacher))
    for panel in panels[:, 0]:
        panel.set_ylabel(_common.KL)
    count = next(iter(next(iter(results.values())).values())).sizes["run"]
    _common.legend(figure, panels[0, :1], 4, title=_common.of_seeds(count))
    return figure


# -- The command ---------------------------------------------------------------------------------------


CAPTION = (
    "KL(teacher || student) of the shallow energy and of perceptrons of depth 1 to 3, on logarithmic axes, a column for each "
    "teacher: above against the iteration, below against the seconds of the steps. Lines are means over {} seeds, bands their least "
    "and largest."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    results, seconds, rows, sentences = {}, {}, [], []
    for teacher in settings.teachers or ():
        results[teacher], chosen, seconds[teacher] = measured(settings, teacher)
        its_rows = rows_of(teacher, results[teacher], chosen, seconds[teacher])
        rows += its_rows
        best = min(its_rows[1:], key=lambda row: row["KL"] if np.isfinite(row["KL"]) else np.inf)
        sentences.append(
            f"{teacher}: shallow {its_rows[0]['KL']:.4g} nat after {its_rows[0]['seconds']:.3g} s of steps; the best perceptron "
            f"({best['energy']}) {best['KL']:.4g} after {best['seconds']:.3g} s."
        )
    return dict(
        title="Deeper energies beside the shallow one",
        about=f"Perceptrons of width {settings.width} under Adam with persistent particles beside Dual; n = {settings.n} data, 2n "
        "particles. KL at the end: mean over seeds, least and largest; best: the least of the mean along the run; threshold: twice the "
        "shallow energy's KL.",
        rows=rows, summary=" ".join(sentences),
        figures={"deep": (figure_of(results, seconds), CAPTION.format(settings.seeds))}, seeds=_common.seeds_of(settings),
        paper="Section 6 says that the scheme generalizes to deeper networks and could be tested with them; it shows no such experiment.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("deep", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
