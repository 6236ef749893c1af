"""Pairs of columns: rows of data over samples of a model, for models of many dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dualebm.plotting import regions
from dualebm.plotting.charts import WIDTHS
from dualebm.settings import CountOrZero, Positive, checked

COLUMNS = 6
"""The largest number of columns that are drawn."""

SHARES = (0.95, 0.75, 0.5, 0.25)
"""The shares of the samples that contours bound."""

CELLS, BLUR = 60, 2.0
"""The number of cells along each side of a histogram of two columns, and the standard deviation in cells by which it is smoothed."""


@checked
def pairs(
    samples: Float[np.ndarray, "k d"], rows: Float[np.ndarray, "n d"] | None, names: Sequence[str], period: Positive | None = None
) -> Figure:
    """Draw each pair of columns, the rows as dots over regions of the samples, and each column alone as histograms of both.

    Args:
        samples: samples of the model, in the units of the data, (k, d).
        rows: the rows of data, (n, d). None for none.
        names: the names of the d columns. The first 6 columns are drawn.
        period: the period of all columns, which begin at 0. None for columns without a period.

    Returns:
        The figure, in which panel (i, j) has column j to the right and column i upwards.

    Raises:
        ValueError: the samples or rows are empty, not finite, or have other columns than the names.

    >>> normal = np.random.default_rng(0).normal(size=(500, 3))
    >>> figure = pairs(normal, normal[:50], ["a", "b", "c"])
    >>> [panel.get_xlabel() for panel in figure.axes if panel.get_xlabel()], len(figure.axes)
    (['a', 'b', 'c'], 6)
    """
    from scipy.ndimage import gaussian_filter

    given = {"samples": samples} if rows is None else {"samples": samples, "rows": rows}
    for argument, points in given.items():
        if points.shape[1] != len(names) or not points.size or not np.isfinite(points).all():
            raise ValueError(f"{argument} has shape {points.shape}; it must be finite, with {len(names)} columns as names, and not empty")
    count, everything = min(len(names), COLUMNS), points
    low, high = np.quantile(everything, [0.002, 0.998], axis=0)
    low, high = low - 0.12 * (high - low), high + 0.12 * (high - low)
    if period is not None:
        low, high = np.zeros(len(low)), np.full(len(high), period)
    figure = Figure(figsize=(WIDTHS["double"], WIDTHS["double"] * 0.95), layout="constrained")
    panels: Any = figure.subplots(count, count, squeeze=False, sharex="col")
    for i in range(count):
        for j in range(count):
            panel = panels[i, j]
            if j > i:
                panel.remove()
                continue
            if i == j:
                _histograms(panel, samples[:, i], None if rows is None else rows[:, i], (low[i], high[i]))
            else:
                bounds = [(low[j], high[j]), (low[i], high[i])]
                heights, x, y = np.histogram2d(samples[:, j], samples[:, i], CELLS, bounds)
                smooth = gaussian_filter(heights.T, BLUR, mode="constant" if period is None else "wrap")
                regions.fill(panel, *np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2), smooth, shares=SHARES)
                if rows is not None:
                    size, alpha = (3.0, 0.7) if len(rows) <= 400 else (1.2, 0.5)
                    panel.scatter(rows[:, j], rows[:, i], s=size, c="black", alpha=alpha, linewidths=0, zorder=2, rasterized=True)
                panel.set_ylim(*bounds[1])
            panel.set_xlim(low[j], high[j])
            panel.tick_params(labelsize=6, labelbottom=i == count - 1, labelleft=j == 0 and i > 0)
            if i == count - 1:
                panel.set_xlabel(names[j])
            if j == 0 and i > 0:
                panel.set_ylabel(names[i])
    handles: list[Any] = [
        Patch(facecolor=regions.DENSITY_COLOURS(0.7), label="samples of the model, in pairs"),
        Line2D([], [], color=regions.DENSITY_COLOURS(1.0), label="samples of the model, one column"),
    ]
    if rows is not None:
        handles += [Line2D([], [], linestyle="", marker=".", markersize=4, color="black", label="rows, in pairs")]
        handles += [Patch(facecolor="0.82", label="rows, one column")]
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.98, 0.97))
    return figure


def _histograms(panel, samples, rows, bounds):
    """Draw the histogram of a column of rows, filled, and of the samples, a line."""
    if rows is not None:
        heights, edges = np.histogram(rows, int(np.clip(2 * len(rows) ** (1 / 3), 8, 40)), bounds)
        panel.stairs(heights / (len(rows) * np.diff(edges)), edges, fill=True, color="0.82")
    heights, edges = np.histogram(samples, 40, bounds)
    panel.stairs(heights / (len(samples) * np.diff(edges)), edges, color=regions.DENSITY_COLOURS(1.0), linewidth=1.0)
    panel.set(yticks=[], ylim=(0, None))
    panel.spines["left"].set_visible(False)


@checked
def caption(names: Sequence[str], samples: CountOrZero, rows: str | None) -> str:
    """Return the caption of `pairs`.

    Args:
        names: the names of all columns.
        samples: the number of samples of the model.
        rows: the rows in words. None for none.

    >>> caption(["a", "b"], 100, None)
    'Columns alone and in pairs. Each line bounds the smallest region that holds 95%, 75%, 50% or 25% of 100 samples of the model.'
    """
    shares = [f"{share:.0%}" for share in SHARES]
    text = "Columns alone and in pairs. Each line bounds the smallest region that holds "
    text += f"{', '.join(shares[:-1])} or {shares[-1]} of {samples} samples of the model."
    if rows is not None:
        text += f" Dots are {rows}."
    if len(names) > COLUMNS:
        text += f" The columns {', '.join(names[COLUMNS:])} are not drawn."
    return text
