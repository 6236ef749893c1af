"""The certificates of runs beside their distances to the least loss: rows, and figures."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dualebm.plotting import charts
from dualebm.relaxation import DOUBTFUL
from experiments import _common
from experiments.certificate.runs import LINES, Run

FLOOR = 1e-4
"""The least distance that is drawn, in nats."""


class Reading(NamedTuple):
    """Of a method: kl and distance L - L* (seed, step); the iterations that are certified; and by name what `gaps` made (seed, ...)."""

    step: np.ndarray
    kl: np.ndarray
    distance: np.ndarray
    at: np.ndarray
    gaps: dict[str, np.ndarray]


def read(results: dict[tuple[str, int], Run]) -> dict[str, Reading]:
    """Returns the runs of a teacher by method. L* of a seed is the least loss that any of its runs or of their polished energies has."""
    seeds = sorted({seed for _, seed in results})
    lowest = np.array([
        min(min(r.excess[:, 0].min(), r.gaps["polished"][0]) for (_, s), r in results.items() if s == seed) for seed in seeds
    ])  # fmt: skip
    readings = {}
    for label in dict.fromkeys(label for label, _ in results):
        runs = [results[label, seed] for seed in seeds]
        distance = np.stack([r.excess[:, 0] for r in runs]) - lowest[:, None]
        made = {name: np.stack([r.gaps[name] for r in runs]) for name in runs[0].gaps}
        readings[label] = Reading(runs[0].step, np.stack([r.kl for r in runs]), distance, np.array(runs[0].at), made)
    return readings


def rows_of(teacher: str, n: int, readings: dict[str, Reading], seconds: dict[str, float]) -> list[dict]:
    """Returns a row for each method at the iterations that are certified: means over seeds, and the standard error of the mean bound."""
    rows = []
    for label, one in readings.items():
        for k, step in enumerate(one.at):
            at = int(np.searchsorted(one.step, step))
            gap, bound = one.gaps["gap"][:, k], one.gaps["bound"][:, k]
            own = one.gaps["particles"][:, k] if one.gaps["particles"].size else np.full((1, 3), np.nan)
            last = step == one.at[-1]
            negative = float(one.gaps["negative"][:, 0].mean()) if last and "negative" in one.gaps else None
            error = np.sqrt(np.sum(bound[:, 1] ** 2)) / len(bound)
            rows.append(dict(
                teacher=_common.named(teacher), n=n, method=label, iteration=int(step), gap=float(gap[:, 0].mean()),
                bound=float(bound[:, 0].mean()), error=float(error) or None, gain=float(bound[:, 2].mean()),
                distance=float(one.distance[:, at].mean()), KL=float(one.kl[:, at].mean()),
                polished_KL=float(one.gaps["polished"][:, 2].mean()) if last else None,
                particles=None if np.isnan(own[0, 0]) else float(own[:, 0].mean()), negative=negative,
                moved=None if np.isnan(own[0, 2]) else float(np.abs(own[:, 2]).mean()), end="last" if last else "before",
                seconds=seconds[label] * int(step),
            ))  # fmt: skip
    return rows


def figure_of(readings: dict[str, Reading], teacher: str, exact: bool) -> Figure:
    """Draws the bounds and the distance, and KL, against iterations; the bounds are by quadrature where they are exact."""
    figure, ((left, right),) = _common.panels_of(1, 2, 3.1)
    for i, label in enumerate(label for label in LINES if label in readings):
        one = readings[label]
        form = _common.look(i) | dict(linewidth=1.0)
        bound, error = one.gaps["bound"][..., 0].mean(0), np.sqrt(np.sum(one.gaps["bound"][..., 1] ** 2, 0)) / len(one.kl)
        named = label.replace(", half", ", signs half and half").replace("-1", "\u22121")
        left.errorbar(one.at, bound, None if exact else 2 * error, elinewidth=0.6, label=named, **form)
        left.plot(one.at, one.gaps["gap"][..., 0].mean(0), **form | dict(linestyle=":", mfc="white"))
        _common.band(left, one.step[1:], np.maximum(one.distance[:, 1:], FLOOR), i, alpha=0.1, linestyle="--", linewidth=0.9, marker="")
        _common.band(right, one.step[1:], one.kl[:, 1:], i, alpha=0.15, markevery=np.flatnonzero(np.isin(one.step[1:], one.at)).tolist())
    for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):
        charts.log_axis(axis)
    left.set_ylabel("bounds and distance (nat)")
    right.set_ylabel(_common.KL)
    left.set_title(f"{_common.named(teacher)}; bounds {'by quadrature' if exact else 'estimated'}", loc="left")
    for panel in (left, right):
        panel.set_xlabel("iteration")
    left.plot([], [], color="black", label="polished bound")
    left.plot([], [], color="black", linestyle=":", label="gap without a polish")
    left.plot([], [], color="black", linestyle="--", linewidth=0.9, label="distance $L - L^*$")
    bars = "" if exact else "; bars: two standard errors"
    _common.legend(figure, [left], 3, title=f"{_common.of_seeds(len(readings[LINES[0]].kl))}{bars}")
    return figure


def particles_figure(readings: dict[str, dict[str, Reading]]) -> Figure:
    """Draws the bound by the training's particles beside that by samples of the model, and how far the former are from samples."""
    figure, panels = _common.panels_of(2, len(readings), 4.2, height_ratios=(3, 2), sharex="col")
    for (above, below), (teacher, known) in zip(panels.T, readings.items(), strict=True):
        for i, label in enumerate(label for label in LINES if label in known):
            one = known[label]
            if one.gaps["particles"].size:
                form = _common.look(i)
                above.plot(one.at, one.gaps["bound"][..., 0].mean(0), label=f"{label}: samples of the model", **form)
                form |= dict(linestyle=":", mfc="white")
                above.plot(one.at, one.gaps["particles"][..., 0].mean(0), label=f"{label}: its own particles", **form)
                below.plot(one.at, np.abs(one.gaps["particles"][..., 2]).mean(0), **form)
        below.axhline(DOUBTFUL, color="black", linewidth=0.8)
        below.text(0.02, DOUBTFUL * 1.1, "warning above", fontsize=6, transform=below.get_yaxis_transform())
        charts.log_axis(above.yaxis)
        above.set_title(_common.named(teacher))
        below.set_xlabel("iteration")
        charts.log_axis(below.xaxis)
        charts.log_axis(below.yaxis)
    panels[0, 0].set_ylabel("bound (nat)")
    panels[1, 0].set_ylabel("change of mean energy\n(standard errors)")
    _common.legend(figure, panels[0, :1], 3, title="mean over seeds")
    return figure
