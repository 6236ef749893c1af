"""Figure 1 of arXiv 2107.05134 (Section 5): how much faster is the dual algorithm than the primal one?

    python -m experiments.figure1 --preset quick
    python -m experiments.figure1 --preset paper --n 10000 --seeds 3
    python -m experiments.figure1 --preset paper

KL, score error and total variation along the primal (neurons slow) and the dual (neurons fast) algorithm on S^14, m = 64, N = 2n, p_R = 0,
for both teachers, in two readings, because the text's settings do not give the curves that the authors archived:

    archived    what reproduces the archived curves: h_x = 0.02 for both, all signs -1, weights from 1. Primal: additive weights,
                h_theta = h_w = 0.005. Dual: multiplicative weights, h_theta = h_w = 0.2.
    text        Section 5: s = 0.02 is the step of the faster process, alpha = 0.05 against 20, so (h_x, h_theta) = (0.02, 0.001) against
                (0.001, 0.02); multiplicative weights, uniform in [0, 1) at the start, random signs, independent noise. Temperature 1 and
                a ball of radius 10, which the teachers' weights need: in the text's ball of radius 1 neither could be learnt.

An iteration costs the same in all of them. A primal run ends at its last iteration, or when it has passed every threshold (`--no-stop` lets
it go on); a dual run goes to its last iteration. Each run has a folder under `--out`, and the same command continues what was interrupted.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.methods import dual
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.training.run import run
from experiments import _common, reference, report

TEACHERS = ("s14_monomodal", "s14_bimodal")
READINGS = ("archived", "text")
ALGORITHMS = ("primal", "dual")
VARIABLES = {"kl": "KL", "score": "SM", "total_variation": "TV"}
"""What is drawn, and its name in the archived curves."""

THRESHOLDS = {
    "s14_monomodal": (("kl", 0.8), ("kl", 0.5), ("kl", 0.2), ("kl", 0.1), ("total_variation", 1.7)),
    "s14_bimodal": (("kl", 0.35), ("kl", 0.3), ("kl", 0.2), ("kl", 0.15), ("total_variation", 1.7)),
}
"""Of each teacher, the values to which iterations are counted; the zero energy has a KL of 1.129 and 0.381."""

CLAIM = (10, 20)
"""The speed-up that the caption of Figure 1 tells."""

ARCHIVED_MONOMODAL = {1000: 0.824, 2000: 0.543, 5000: 0.195}
"""KL of the authors' archived primal run on the monomodal teacher, n = 1e5, at three iterations: all that is known of its curve."""


class Scale(NamedTuple):
    """Data points; pairs of runs; the most iterations of a primal run, those of a dual run; test points."""

    n: int
    seeds: int
    primal_steps: int
    dual_steps: int
    test_points: int


PRESETS = {"quick": Scale(1_000, 2, 24_000, 2_000, 5_000), "paper": Scale(100_000, 2, 40_000, 4_000, 100_000)}
EVERY = {"primal": 100, "dual": 10}
"""Iterations between records."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 1e3, two minutes) or paper (n = 1e5; by the time of a step, an hour a seed on two idle cores)."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Pairs of a primal and a dual run, each pair with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    primal_steps: int | None = None
    """Iterations of a primal run at the most, a multiple of 100."""
    dual_steps: int | None = None
    """Iterations of a dual run, a multiple of 10."""
    stop: bool = True
    """End a primal run when it has passed every threshold."""
    teachers: tuple[str, ...] = TEACHERS
    """Which of s14_monomodal, s14_bimodal."""
    readings: tuple[str, ...] = READINGS
    """Which of archived, text."""
    test_points: int | None = None
    """Fresh draws of the teacher for KL and score."""
    out: Path = Path("results/figure1")
    """Where the runs and the figures are written."""


def scale_of(settings: Settings) -> Scale:
    """Returns the scale of the preset with what the settings change.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> scale_of(Settings(preset="paper", seeds=1)).n
    100000
    """
    _common.check(settings)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("readings", settings.readings, checks.choice, READINGS)
    given = {name: getattr(settings, name) for name in Scale._fields if getattr(settings, name) is not None}
    scale = PRESETS[settings.preset]._replace(**given)
    for algorithm, every in EVERY.items():
        _common.check_multiple(f"{algorithm}_steps", getattr(scale, f"{algorithm}_steps"), every)
    return scale


class Setting(NamedTuple):
    """A method and its rates."""

    method: dual.Dual
    rates: dual.DualRates


def setting(reading: str, algorithm: str, n: int) -> Setting:
    """Returns the primal or the dual algorithm in one of the readings: see the top of this file.

    >>> setting("text", "dual", 100).rates
    DualRates(particle_step=0.001, transport_step=0.02, reaction_step=0.02, restart_probability=0.0, radius=10.0)
    """
    primal, space = algorithm == "primal", Sphere(15)
    if reading == "archived":
        neuron_step = 0.005 if primal else 0.2
        method = dual.program(space, weight_update="additive" if primal else "multiplicative")
        return Setting(method, dual.rates_from_program(0.02, neuron_step, neuron_step, 10.0))
    rates = dual.rates_from_paper(0.02, 0.05 if primal else 20.0, 1.0, scale="fast")
    # Weights in [0, 1) and not in [0, 10): the total variation of the paper's figure starts near 1 and grows to the budget.
    return Setting(dual.text(space, particles=2 * n, weight_unit="one"), rates._replace(radius=10.0))


# -- Iterations to a threshold ---------------------------------------------------------------------------


def passed(values: xarray.DataArray, threshold: float, rising: bool) -> float:
    """Returns the iteration at which a run first passes a threshold, between two records on a line in the logarithm of the values.

    Args:
        values: Along `step`.
        threshold: The value that is passed.
        rising: Whether it is passed from below.

    Returns:
        The iteration, infinite where the threshold is never passed.

    >>> kl = xarray.DataArray([1.0, 0.1], {"step": [0, 10]}, ("step",))
    >>> round(passed(kl, 0.1**0.5, rising=False), 6), passed(kl, 0.01, rising=False)
    (5.0, inf)
    """
    sign = -1 if rising else 1
    heights = sign * (np.log(values.values) - np.log(threshold))
    below = np.flatnonzero(heights <= 0)
    if not below.size:
        return np.inf
    last = below[0]
    if last == 0:
        return float(values.step[0])
    return float(np.interp(0, heights[[last, last - 1]], values.step.values[[last, last - 1]]))


def iterations(results: xarray.Dataset, teacher: str) -> list[float]:
    """Returns for a run the iterations to each threshold of its teacher."""
    return [passed(results[name], value, rising=name != "kl") for name, value in THRESHOLDS[teacher]]


def label(threshold: tuple[str, float]) -> str:
    """Returns a threshold in words.

    >>> label(("kl", 0.8))
    'KL 0.8'
    """
    return f"{VARIABLES[threshold[0]]} {threshold[1]:g}"


def speed_ups(primal: np.ndarray, dual_: np.ndarray) -> np.ndarray:
    """Returns primal / dual, iterations (seed, threshold), where both have passed and took more than none; else NaN.

    >>> speed_ups(np.array([[30.0, np.inf]]), np.array([[2.0, 5.0]])).tolist()
    [[15.0, nan]]
    """
    both = np.isfinite(primal) & np.isfinite(dual_) & (dual_ > 0)
    return np.where(both, primal / np.where(both, dual_, 1), np.nan)


def rows_of(teacher: str, reading: str, primal: np.ndarray, dual_: np.ndarray) -> list[dict]:
    """Returns a row for each threshold: means over the seeds in which both algorithms have passed it, and how many they are."""
    ratio, rows = speed_ups(primal, dual_), []
    for i, threshold in enumerate(THRESHOLDS[teacher]):
        kept = np.isfinite(ratio[:, i])
        means = [float(values[kept, i].mean()) if kept.any() else None for values in (primal, dual_, ratio)]
        least, largest = (float(of(ratio[kept, i])) if kept.any() else None for of in (np.min, np.max))
        rows.append(dict(
            teacher=teacher, reading=reading, to=label(threshold), primal=means[0], dual=means[1], speed_up=means[2], least=least,
            largest=largest, seeds=f"{kept.sum()} of {len(kept)}",
        ))  # fmt: skip
    return rows


# -- Runs --------------------------------------------------------------------------------------------------


def train(settings: Settings, scale: Scale, teacher: str, reading: str, algorithm: str, seed: int) -> xarray.Dataset:
    """Trains one run in a folder; the seed alone decides the data and the keys, so that the runs of a seed are a pair."""
    target = targets.teacher(teacher)
    key, data, test = _common.draws(seed, target, scale.n, scale.test_points)
    method, rates = setting(reading, algorithm, scale.n)
    monitors = metrics.standard(target.space, target.energy, test)
    stop = None
    if settings.stop and algorithm == "primal":
        stop = lambda records: bool(np.isfinite(iterations(records, teacher)).all())  # noqa: E731
    steps = scale.primal_steps if algorithm == "primal" else scale.dual_steps
    _, results = run(
        key, method, rates, data, steps=steps, every=EVERY[algorithm], metrics=monitors, stop=stop,
        folder=settings.out / f"n={scale.n}" / f"{teacher}_{reading}_{algorithm}_{seed}", progress=sys.stderr.isatty(),
    )  # fmt: skip
    return results


# -- Figures -----------------------------------------------------------------------------------------------


def archived(teacher: str, algorithm: str, variable: str) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Returns iterations, values and label of the authors' archived curve, where one is known."""
    name = VARIABLES[variable]
    if (teacher, algorithm) == ("s14_bimodal", "primal"):
        curve = reference.author_primal()
        return curve["iterations"], curve[name]["mean"], "primal, authors' archive (n = 1e5)"
    if (teacher, algorithm) == ("s14_monomodal", "dual"):
        curve = reference.author_runs("d15_mono_n1e4_p_R=0")
        return curve["iterations"], curve[name]["mean"], "dual, authors' archive (n = 1e4)"
    if (teacher, algorithm, variable) == ("s14_monomodal", "primal", "kl"):
        return np.array(list(ARCHIVED_MONOMODAL)), np.array(list(ARCHIVED_MONOMODAL.values())), "primal, authors' archive (n = 1e5)"
    return None


def draw(teachers: tuple[str, ...], n: int, reading: str, found: dict) -> Figure:
    """Draws Figure 1 in one reading: a row for each teacher, KL, score error and total variation against the iteration, log-log."""
    figure, panels = _common.panels_of(len(teachers), len(VARIABLES), 0.7 + 2.1 * len(teachers), sharex=True)
    for row, teacher in zip(panels, teachers, strict=True):
        for panel, variable in zip(row, VARIABLES, strict=True):
            for i, algorithm in enumerate(ALGORITHMS):
                runs = xarray.concat([r[variable] for r in found[reading, teacher, algorithm]], "seed", join="outer")
                runs = runs.isel(step=slice(1, None)).dropna("step")  # where one seed has ended the mean would jump
                _common.band(panel, runs.step, runs, i, markevery=(0.05 + 0.05 * i, 0.2), label=f"{algorithm}, ours (n = {n:g})")
                known = archived(teacher, algorithm, variable)
                if known is not None:
                    x, y, name = known
                    points = len(x) == len(ARCHIVED_MONOMODAL)
                    colour = ("#003A5C", "#8A5A00")[i]  # darker than ours
                    form = dict(linestyle="", marker="x", markersize=5) if points else dict(linestyle="--", linewidth=1)
                    panel.plot(x, y, color=colour, zorder=3, label=f"{name}, three points" if points else name, **form)
            unit = found[reading, teacher, "dual"][0][variable].attrs
            words = f"{unit['long_name']}" + (f" ({unit['units']})" if unit["units"] != "1" else "")
            panel.set_ylabel(words)
            for name, threshold in THRESHOLDS[teacher]:
                if name == variable:
                    panel.axhline(threshold, color="0.8", linewidth=0.5, zorder=0)
            charts.log_axis(panel.yaxis)
            charts.log_axis(panel.xaxis)
            panel.xaxis.set_ticks([10.0**k for k in range(1, 6)], [f"$10^{k}$" for k in range(1, 6)])
            panel.set_xlim(9, 2.2e5)
            panel.set_title(teacher.replace("s14_", "S^14, ") if variable == "kl" else "", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    steps = {
        "archived": "archived settings: $h_x$ 0.02; neuron steps 0.005, additive (primal) against 0.2 (dual); all signs -1",
        "text": "settings of the text: $(h_x, h_θ)$ = (0.02, 0.001) (primal, α = 0.05) against (0.001, 0.02) (dual, α = 20); random signs",
    }
    figure.suptitle(steps[reading], fontsize=8)
    _common.legend(figure, panels.flat, 3)
    return figure


def draw_speed_ups(teachers: tuple[str, ...], n: int, ratios: dict[tuple[str, str], np.ndarray]) -> Figure:
    """Draws iterations of the primal over those of the dual algorithm, to each threshold: the mean over seeds, least to largest."""
    figure, (panels,) = _common.panels_of(1, len(teachers), 2.6, sharey=True)
    for panel, teacher in zip(panels, teachers, strict=True):
        names = [label(threshold) for threshold in THRESHOLDS[teacher]]
        panel.axhspan(*CLAIM, color="0.85", linewidth=0, label="caption of Figure 1: 10 to 20")
        for i, reading in enumerate(dict.fromkeys(reading for reading, _ in ratios)):
            ratio = ratios[reading, teacher]
            kept = np.flatnonzero(np.isfinite(ratio).any(axis=0))
            mean, low, high = (of(ratio[:, kept], axis=0) for of in (np.nanmean, np.nanmin, np.nanmax))
            form = _common.look(i) | dict(capsize=2, linestyle="")
            side = 0.12 * (2 * i - 1)
            panel.errorbar(kept + side, mean, (mean - low, high - mean), label=f"{reading} settings", **form)
            for missing in set(range(len(names))) - set(kept.tolist()):
                form = dict(rotation=90, color="0.3", fontsize=6, ha="center", va="bottom")
                panel.text(missing + side, 5.3, f"{reading}: not reached", **form)
        panel.set_xticks(range(len(names)), names)
        panel.set_xlim(-0.5, len(names) - 0.5)
        panel.set_title(f"{teacher.replace('s14_', 'S^14, ')}, n = {n:g}", loc="left")
        panel.set_xlabel("threshold (KL in nats)")
    panels[0].set_ylim(5, 200)
    charts.log_axis(panels[0].yaxis)
    panels[0].set_ylabel("iterations, primal / dual")
    _common.legend(figure, panels[:1], 3)
    return figure


def content_of(settings: Settings, scale: Scale) -> dict[str, Any]:
    """Trains all pairs of runs, and returns the content of the report."""
    found: dict[tuple[str, str, str], list[xarray.Dataset]] = {}
    for seed in _common.seeds_of(settings, scale.seeds):
        for reading in settings.readings:
            for teacher in settings.teachers:
                for algorithm in ALGORITHMS:
                    results = train(settings, scale, teacher, reading, algorithm, seed)
                    found.setdefault((reading, teacher, algorithm), []).append(results)
                    end = f"KL {float(results.kl[-1]):.4g} at iteration {int(results.step[-1])}"
                    print(f"{teacher}, {reading}, {algorithm}, seed {seed}: {end}", flush=True)
    rows: list[dict] = []
    ratios = {}
    for reading in settings.readings:
        for teacher in settings.teachers:
            primal, fast = (np.array([iterations(r, teacher) for r in found[reading, teacher, a]]) for a in ALGORITHMS)
            ratios[reading, teacher] = speed_ups(primal, fast)
            rows += rows_of(teacher, reading, primal, fast)
    figures = {f"figure1_{reading}": draw(settings.teachers, scale.n, reading, found) for reading in settings.readings}
    figures["figure1_speed_up"] = draw_speed_ups(settings.teachers, scale.n, ratios)
    ends = []
    for (reading, teacher, algorithm), runs in found.items():
        last = [int(r.step[-1]) for r in runs]
        kl = np.mean([float(r.kl[-1]) for r in runs])
        at = f"{last[0]}" if len(set(last)) == 1 else f"{min(last)} to {max(last)}"
        ends.append(f"{teacher}, {reading}, {algorithm}: {kl:.4g} at {at}")
    return dict(
        title="Figure 1: the primal and the dual algorithm",
        about=f"S^14, m = 64, n = {scale.n}, N = {2 * scale.n}, p_R = 0; bands are the least to the largest of {scale.seeds} seeds. "
        "Two readings: archived, the settings that reproduce the authors' archived curves (h_x 0.02, neuron steps 0.005 additive against "
        "0.2); text, s = 0.02 for the faster process, alpha 0.05 against 20, random signs, weights in [0, 1), radius 10.",
        rows=rows, figures=figures, summary=f"Mean KL where the runs end, and the iteration: {'; '.join(ends)}.",
        paper="the dual algorithm is about 10 to 20 times faster than the primal one (caption of Figure 1).",
    )  # fmt: skip


def main(settings: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    scale = scale_of(settings)
    return report.run("figure1", settings, settings.out, lambda: content_of(settings, scale))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
