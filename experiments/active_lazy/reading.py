"""The figure and the rows of active against lazy training."""

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from experiments import _common
from experiments.active_lazy.runs import (
    LOSSES,
    OVER,
    REGIMES,
    Selections,
    Settings,
    counts_of,
    cross_entropy,
    dimension_of,
    teacher,
)


def band_of(best: xarray.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns n, and the mean and the standard deviation over repetitions of a metric (for a metric with an error, of its value)."""
    values = best[name].values
    values = values[:, 0] if values.ndim > 1 else values
    counts = np.unique(best.n.values)
    groups = [values[best.n.values == n] for n in counts]
    return counts, np.array([g.mean() for g in groups]), np.array([g.std(ddof=1) if len(g) > 1 else 0.0 for g in groups])


def draw(selections: Selections, name: str, settings: Settings) -> Figure:
    """Draws test cross-entropy (above) and KL (below) of a teacher against n, a column for each loss."""
    losses = [loss for loss in settings.losses if (name, loss, "active") in selections]
    figure, panels = _common.panels_of(2, len(losses), 4.2, sharex=True, sharey="row")
    for column, loss in zip(panels.T, losses, strict=True):
        target = teacher(name, dimension_of(loss))
        least, error = cross_entropy(target)
        column[0].set_title(f"{LOSSES[loss]}\n$d$ = {dimension_of(loss)}")
        column[0].axhline(0, color="black", linestyle="--", linewidth=0.8, label="zero energy (uniform)")
        column[1].axhline(-least, color="black", linestyle="--", linewidth=0.8)
        column[0].axhline(least, color="black", linewidth=0.8, label="teacher")
        if error:
            column[0].axhspan(least - 2 * error, least + 2 * error, color="black", alpha=0.2, linewidth=0)
        for i, (regime, label) in enumerate(REGIMES.items()):
            best = selections[name, loss, regime].best
            for panel, metric in zip(column, ("cross_entropy", "kl"), strict=True):
                n, mean, spread = band_of(best, metric)
                panel.errorbar(n, mean, spread, capsize=2, label=f"{regime} ({label})", **_common.look(i))
        charts.log_axis(column[1].xaxis, settings.n)
        column[1].set_xlim(min(settings.n) / 1.5, max(settings.n) * 1.5)  # pyright: ignore[reportArgumentType]
        column[1].set_xlabel("data points n")
    charts.log_axis(panels[1, 0].yaxis)
    panels[0, 0].set_ylabel("test cross-entropy (nat)")
    panels[1, 0].set_ylabel(_common.KL)
    title = f"mean of {settings.repeats} runs; bar: standard deviation"
    _common.legend(figure, panels[0, :1], 4, title=title)
    return figure


def rows_of(selections: Selections, settings: Settings) -> list[dict]:
    """Returns for each teacher, loss and n the KL and cross-entropy of both regimes, mean and standard deviation, and what was chosen."""
    rows = []
    for name in settings.teachers:  # pyright: ignore[reportOptionalIterable]
        for loss in settings.losses:
            least = cross_entropy(teacher(name, dimension_of(loss)))[0]
            for i, n in enumerate(counts_of(settings, loss)):
                row: dict = dict(teacher=name, loss=loss, d=dimension_of(loss), n=n)
                for regime, label in REGIMES.items():
                    selection = selections[name, loss, regime]
                    for metric, short in (("kl", "KL"), ("cross_entropy", "CE")):
                        _, mean, spread = band_of(selection.best, metric)
                        row |= {f"{label}_{short}": mean[i], f"{label}_{short}_std": spread[i]}
                    chosen = next(c for c in selection.chosen if c["n"] == n)
                    row[f"{label}_chosen"] = " ".join(f"{chosen[k]:g}" for k in OVER[settings.preset][loss, regime])
                rows.append(row | dict(teacher_CE=least, ratio=row["F2_KL"] / row["F1_KL"]))
    return rows
