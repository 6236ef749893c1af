"""Figure 1 with the authors' archived curves, and the speed-ups."""

from typing import Any

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from experiments import _common, reference
from experiments.figure1.runs import ALGORITHMS, THRESHOLDS, VARIABLES, label

LABELS = {"kl": _common.KL, "score": "mean squared score error", "total_variation": "total variation"}
CLAIM = (10, 20)
"""The speed-up that the caption of Figure 1 tells."""

ARCHIVED_MONOMODAL = {1000: 0.824, 2000: 0.543, 5000: 0.195}
"""KL of the authors' archived primal run on the monomodal teacher, n = 1e5, at three iterations: all that is known of its curve."""


def archived(teacher: str, algorithm: str, variable: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Returns iterations, values and n of the authors' archived curve, where one is known."""
    name = VARIABLES[variable]
    if (teacher, algorithm) == ("s14_bimodal", "primal"):
        curve = reference.author_primal()
        return curve["iterations"], curve[name]["mean"], 100_000
    if (teacher, algorithm) == ("s14_monomodal", "dual"):
        curve = reference.author_runs("d15_mono_n1e4_p_R=0")
        return curve["iterations"], curve[name]["mean"], 10_000
    if (teacher, algorithm, variable) == ("s14_monomodal", "primal", "kl"):
        return np.array(list(ARCHIVED_MONOMODAL)), np.array(list(ARCHIVED_MONOMODAL.values())), 100_000
    return None


def draw(teachers: tuple[str, ...], n: int, reading: str, by_case: dict) -> Figure:
    """Draws Figure 1 in one reading: a row for each teacher, KL, score error and total variation against the iteration, log-log."""
    figure, panels = _common.panels_of(len(teachers), len(VARIABLES), 0.7 + 2.1 * len(teachers), sharex=True)
    for row, teacher in zip(panels, teachers, strict=True):
        for panel, variable in zip(row, VARIABLES, strict=True):
            for i, algorithm in enumerate(ALGORITHMS):
                runs = xarray.concat([r[variable] for r in by_case[reading, teacher, algorithm]], "seed", join="outer")
                runs = runs.isel(step=slice(1, None)).dropna("step")  # where one seed has ended the mean would jump
                own, marks = f"{algorithm}, ours (n = {charts.number(n)})", charts.marks(runs.step.values, 2 * i)
                _common.band(panel, runs.step, runs, i, label=own, markevery=marks)
                # The archived curves are of the archived settings; of another n the last value alone is comparable.
                known = archived(teacher, algorithm, variable) if reading == "archived" else None
                if known is not None:
                    x, y, its_n = known
                    name = f"{algorithm}, authors' archive (n = {charts.number(its_n)})"
                    colour = ("#003A5C", "#8A5A00")[i]  # darker than ours
                    form: dict[str, Any] = dict(color=colour, zorder=3)
                    if its_n != n:
                        panel.plot(x[-1], y[-1], linestyle="", marker="*", markersize=7, label=f"{name}, last value", **form)
                    elif len(x) == len(ARCHIVED_MONOMODAL):
                        panel.plot(x, y, linestyle="", marker="x", markersize=5, label=f"{name}, three points", **form)
                    else:
                        panel.plot(x, y, linestyle="--", linewidth=1, label=name, **form)
            panel.set_ylabel(LABELS[variable])
            for name, threshold in THRESHOLDS[teacher]:
                if name == variable:
                    panel.axhline(threshold, color="0.8", linewidth=0.5, zorder=0)
            charts.log_axis(panel.yaxis)
            charts.log_axis(panel.xaxis)
            charts.log_axis(panel.xaxis, [10.0**k for k in range(1, 6)])
            panel.set_xlim(9, 2.2e5)
            panel.set_title(_common.named(teacher) if variable == "kl" else "", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    steps = {
        "archived": "archived settings: $h_x$ 0.02; neuron steps 0.005, additive (primal) against 0.2 (dual); all signs \u22121",
        "text": "settings of the text: $(h_x, h_θ)$ = (0.02, 0.001) (primal, α = 0.05) against (0.001, 0.02) (dual, α = 20); random signs",
    }
    figure.suptitle(steps[reading], fontsize=8)
    seeds = len(next(iter(by_case.values())))
    _common.legend(figure, panels.flat, 2, title=f"ours: {_common.of_seeds(seeds)}")
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
        panel.set_title(f"{_common.named(teacher)}, n = {charts.number(n)}", loc="left")
        panel.set_xlabel("threshold (KL in nat)")
    panels[0].set_ylim(5, 200)
    charts.log_axis(panels[0].yaxis)
    panels[0].set_ylabel("iterations, primal / dual")
    seeds = len(next(iter(ratios.values())))
    _common.legend(figure, panels[:1], 3, title=_common.of_seeds(seeds, shape="bar"))
    return figure
