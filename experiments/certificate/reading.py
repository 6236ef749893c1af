"""The certificates of runs beside their distances to the least loss: rows, and figures."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dualebm import duality_gap
from dualebm.plotting import charts
from experiments import _common
from experiments.certificate.runs import LINES, Run


class Reading(NamedTuple):
    """Of a method: kl and distance L - L* (seed, step); the iterations that are certified; and by name what `gaps` made (seed, ...)."""

    step: np.ndarray
    kl: np.ndarray
    distance: np.ndarray
    at: np.ndarray
    gaps: dict[str, np.ndarray]


def read(results: dict[tuple[str, int], Run]) -> dict[str, Reading]:
    """Returns the runs of a teacher by method. L* of a seed is the least loss that any of its runs has reached."""
    seeds = sorted({seed for _, seed in results})
    lowest = np.array([min(r.excess[:, 0].min() for (_, s), r in results.items() if s == seed) for seed in seeds])
    readings = {}
    for label in dict.fromkeys(label for label, _ in results):
        runs = [results[label, seed] for seed in seeds]
        distance = np.stack([r.excess[:, 0] for r in runs]) - lowest[:, None]
        made = {name: np.stack([r.gaps[name] for r in runs]) for name in runs[0].gaps}
        readings[label] = Reading(runs[0].step, np.stack([r.kl for r in runs]), distance, np.array(runs[0].at), made)
    return readings


def rows_of(teacher: str, readings: dict[str, Reading], seconds: dict[str, float], exact: bool) -> list[dict]:
    """Returns the rows: of each method the gap at some iterations, and at the end by every kind of samples."""
    rows = []
    for label, one in readings.items():

        def row(step, gap, samples, ball="full", label=label, one=one):
            at = int(np.searchsorted(one.step, step))
            return dict(
                teacher=teacher, method=label, ball=ball, samples=samples, iteration=int(step), gap=float(gap[:, 0].mean()),
                error=float(np.sqrt(np.sum(gap[:, 1] ** 2)) / len(gap)), largest=float(gap[:, 0].max()),
                distance=float(one.distance[:, at].mean()) if ball == "full" else None, KL=float(one.kl[:, at].mean()),
                seconds=seconds[label] * int(step) if label in seconds else None,
            )  # fmt: skip

        last, best = one.at[-1], "quadrature" if exact else "teacher's"
        for k in range(len(one.at) - 1, -1, -3)[::-1]:
            rows.append(row(one.at[k], one.gaps["gap"][:, k], "quadrature" if exact else "annealed"))
        if "known" in one.gaps:
            rows.append(row(last, one.gaps["known"], best))
        if "negative" in one.gaps:
            rows.append(row(last, one.gaps["negative"], best, "negative"))
        if one.gaps["particles"].size:
            rows.append(row(last, one.gaps["particles"][:, -1], "particles"))
    return rows


def figure_of(readings: dict[str, dict[str, Reading]], exact: Collection[str]) -> Figure:
    """Draws gap and distance, and KL, against iterations, a row for each teacher; the gap is by quadrature for those in `exact`."""
    figure, panels = _common.panels_of(len(readings), 2, 0.6 + 2.5 * len(readings))
    for (left, right), (teacher, known) in zip(panels, readings.items(), strict=True):
        _draw_gaps(left, right, known, teacher in exact)
        how = "by quadrature" if teacher in exact else "estimated"
        left.set_title(f"{_common.named(teacher)}; gap {how}", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    left = panels[0, 0]
    left.plot([], [], color="black", label="duality gap")
    left.plot([], [], color="black", linestyle="--", linewidth=0.9, label="distance $L - L^*$")
    counts = {len(known[LINES[0]].kl) for known in readings.values()}
    seeds = _common.of_seeds(counts.pop()) if len(counts) == 1 else "mean over seeds; band: least to largest"
    bars = "; bars: two standard errors, arrows: at most so much" if set(readings) - set(exact) else ""
    _common.legend(figure, [left], 3, title=f"{seeds}{bars}")
    return figure


def _draw_gaps(left, right, readings: dict[str, Reading], exact: bool) -> None:
    """Draws gap and distance, and KL, of a teacher."""
    shown = []
    for i, label in enumerate(label for label in LINES if label in readings):
        one = readings[label]
        gap, errors = one.gaps["gap"][..., 0].mean(0), np.sqrt(np.sum(one.gaps["gap"][..., 1] ** 2, 0)) / len(one.kl)
        most = (gap <= 2 * errors) & (not exact)  # not distinguishable from 0: an arrow down from its upper bound
        shape = np.where(most, gap + 2 * errors, gap)
        bars = np.where(most, 0.35 * shape, 2 * errors)
        form = _common.look(i) | dict(label=label.replace(", half", ", signs half and half").replace("-1", "\u22121"))
        form |= dict(linewidth=1.0, elinewidth=0.6)
        left.errorbar(one.at, shape, None if exact else bars, uplims=most, **form)
        if exact:
            each = one.gaps["gap"][..., 0]
            left.fill_between(one.at, each.min(0), each.max(0), color=form["color"], alpha=0.15, linewidth=0)
        _common.band(left, one.step[1:], one.distance[:, 1:], i, alpha=0.1, linestyle="--", linewidth=0.9, marker="")
        _common.band(right, one.step[1:], one.kl[:, 1:], i, alpha=0.15, markevery=np.flatnonzero(np.isin(one.step[1:], one.at)).tolist())
        shown += [*shape, *one.distance.mean(0)[np.isin(one.step, one.at)]]
    limits = max(min(value for value in shown if value > 0) / 1.5, 1e-4), 1.5 * max(shown)
    for panel in (left, right):
        charts.log_axis(panel.xaxis)
    left.set_ylim(limits)
    charts.log_axis(left.yaxis)
    left.set_ylim(limits)
    charts.log_axis(right.yaxis)
    left.set_ylabel("gap and distance (nat)")
    right.set_ylabel(_common.KL)


def particles_figure(readings: dict[str, dict[str, Reading]]) -> Figure:
    """Draws the gap by the training's particles beside the gap by samples of the model, and how far the former are from samples."""
    figure, panels = _common.panels_of(2, len(readings), 4.2, height_ratios=(3, 2), sharex="col")
    for (above, below), (teacher, known) in zip(panels.T, readings.items(), strict=True):
        for i, label in enumerate(label for label in LINES if label in known):
            one = known[label]
            if one.gaps["particles"].size:
                form = _common.look(i)
                above.plot(one.at, one.gaps["gap"][..., 0].mean(0), label=f"{label}: samples of the model", **form)
                form |= dict(linestyle=":", mfc="white")
                above.plot(one.at, one.gaps["particles"][..., 0].mean(0), label=f"{label}: its own particles", **form)
                below.plot(one.at, np.abs(one.gaps["particles"][..., 2]).mean(0), **form)
        below.axhline(duality_gap.DOUBTFUL, color="black", linewidth=0.8)
        below.text(0.02, duality_gap.DOUBTFUL * 1.1, "warning above", fontsize=6, transform=below.get_yaxis_transform())
        above.axhline(0, color="0.7", linewidth=0.6)
        charts.signed_axis(above.yaxis, 0.1)
        above.set_title(_common.named(teacher))
        below.set_xlabel("iteration")
        charts.log_axis(below.xaxis)
        charts.log_axis(below.yaxis)
    panels[0, 0].set_ylabel("gap (nat)")
    panels[1, 0].set_ylabel("change of mean energy\n(standard errors)")
    _common.legend(figure, panels[0, :1], 3, title="mean over seeds")
    return figure
