"""A figure in words and numbers: what its panels show, for readers who do not see it, and the points of its curves with their places."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

POINTS = 60
"""The points of a curve that a page reads out, at most; the table of a figure has all of them."""


class Curve(NamedTuple):
    """A curve of a panel: its name in the legend, its colour, its points in units of the axes and as parts of the figure, (T,) each."""

    name: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    across: np.ndarray
    down: np.ndarray


def words(label: str) -> str:
    """Returns a label in plain text, without the marks of mathtext.

    >>> words("particle step $h_x$\\n(S^14, $\\\\gamma_+$)")
    'particle step h_x (S^14, gamma_+)'
    """
    return " ".join(re.sub(r"[${}\\]", "", label).split())


def panels_of(figure: Figure) -> list[Axes]:
    """Returns the panels of a figure, without the bars of its colours."""
    return [panel for panel in figure.axes if panel.get_label() != "<colorbar>" and panel.get_visible()]


def label_of(panel: Axes, axis: str) -> str:
    """Returns the label of an axis, "x" or "y"; where it has none, the label of the last panel of its column or the first of its row."""
    own = getattr(panel, f"get_{axis}label")()
    place = panel.get_subplotspec()
    if own or place is None:
        return words(own)
    span = "colspan" if axis == "x" else "rowspan"
    others = [
        other for other in panels_of(panel.figure)  # pyright: ignore[reportArgumentType]
        if (spec := other.get_subplotspec()) is not None and getattr(spec, span) == getattr(place, span)
    ]  # fmt: skip
    labels = [words(getattr(other, f"get_{axis}label")()) for other in others]
    return next((label for label in (labels[::-1] if axis == "x" else labels) if label), "")


def named(panel: Axes) -> Iterator[tuple[Line2D, str]]:
    """Yields the lines of a panel that have a place in its data, each with its label, which is "" where it has none."""
    of_bars = {}
    for bars in panel.containers:
        if isinstance(bars, ErrorbarContainer):
            middle, caps, _ = bars.lines
            of_bars |= {middle: str(bars.get_label())} | dict.fromkeys(caps)
    for line in panel.get_lines():
        label = of_bars.get(line, str(line.get_label()))
        if label is not None and all(line.get_transform().contains_branch_seperately(panel.transData)):
            yield line, "" if label.startswith("_") else words(label)


def look(line: Line2D) -> tuple[str, str, str]:
    """Returns what tells a line from others: its colour, its dashes and its marker."""
    return to_hex(line.get_color()), str(line.get_linestyle()), str(line.get_marker())  # pyright: ignore[reportArgumentType]


def curves_of(figure: Figure) -> list[list[Curve]]:
    """Returns the curves of each panel of a figure that has been drawn. A line without a label has that of a line that looks the same."""
    panels = panels_of(figure)
    names = {look(line): name for panel in reversed(panels) for line, name in named(panel) if name}
    drawn = []
    for panel in panels:
        curves = []
        for line, name in named(panel):
            x, y = (np.ma.filled(np.ma.asarray(values, float), np.nan).ravel() for values in (line.get_xdata(), line.get_ydata()))
            kept = np.isfinite(x) & np.isfinite(y)
            with np.errstate(all="ignore"):
                places = panel.transData.transform(np.stack([x[kept], y[kept]], axis=1))
            across, up = figure.transFigure.inverted().transform(places).T
            own = name or names.get(look(line), "")
            curves.append(Curve(own, look(line)[0], x[kept], y[kept], across, 1 - up))
        drawn.append([curve for curve in curves if curve.x.size])
    return drawn


def described(figure: Figure) -> str:
    """Returns words for a figure: of each panel the title, the quantities of its axes and what is logarithmic, and the names of the curves.

    >>> figure = Figure()
    >>> panel = figure.subplots()
    >>> _ = panel.loglog([1, 2], [3, 4], label="ours")
    >>> _ = panel.set(xlabel="iteration", ylabel="KL (nat)", title="S^2")
    >>> described(figure)
    'One panel. S^2: KL (nat) against iteration, both axes logarithmic. Curves: ours.'
    """
    panels, sentences = panels_of(figure), []
    for i, panel in enumerate(panels):
        title = words(panel.get_title() or panel.get_title("left")) or (f"Panel {i + 1}" if len(panels) > 1 else "It shows")
        x, y = label_of(panel, "x"), label_of(panel, "y")
        coloured = [one for one in (*panel.images, *panel.collections) if isinstance(one, QuadMesh) or one in panel.images]
        bar = next((one.colorbar for one in coloured if one.colorbar is not None), None)
        if coloured:
            what = (words(bar.ax.get_ylabel()) if bar is not None else "") or "an image"
            sentences.append(f"{title}: {what} in colours" + (f", over {x} and {y}." if x and y else "."))
        elif x or y:
            logarithmic = [name for name in "xy" if getattr(panel, f"get_{name}scale")() in ("log", "symlog")]
            scale = {2: ", both axes logarithmic", 1: f", {''.join(logarithmic)} axis logarithmic", 0: ""}[len(logarithmic)]
            sentences.append(f"{title}: {f'{y} against {x}' if x and y else x or y}{scale}.")
    labels = [words(str(text)) for panel in panels for text in panel.get_legend_handles_labels()[1]]
    names = list(dict.fromkeys(label for label in labels if label))
    count = "One panel" if len(panels) == 1 else f"{len(panels)} panels"
    return " ".join([f"{count}.", *sentences, *([f"Curves: {', '.join(names)}."] if names else [])])


def thinned(curve: Curve) -> dict[str, Any]:
    """Returns a curve as a page reads it out: places in ten-thousandths of the figure, and values of four digits."""
    inside = np.flatnonzero((np.abs(curve.across - 0.5) <= 0.5) & (np.abs(curve.down - 0.5) <= 0.5))  # False for NaN
    kept = inside[np.unique(np.linspace(0, inside.size - 1, min(inside.size, POINTS)).astype(int))]
    places = [np.round(1e4 * values[kept]).astype(int).tolist() for values in (curve.across, curve.down)]
    values = [[float(f"{value:.4g}") for value in values[kept]] for values in (curve.x, curve.y)]
    return dict(name=curve.name, colour=curve.colour, points=[list(point) for point in zip(*places, *values, strict=True)])


def readable(figure: Figure) -> dict[str, Any]:
    """Returns what a page says of a figure that has been drawn: words for it, and of each panel the place, the labels and the curves."""
    panels = []
    for panel, curves in zip(panels_of(figure), curves_of(figure), strict=True):
        left, bottom, right, top = panel.get_window_extent().transformed(figure.transFigure.inverted()).extents
        box = [round(1e4 * float(part)) for part in (left, 1 - top, right, 1 - bottom)]
        inside = [one for one in curves if one.name]
        panels.append(dict(box=box, x=label_of(panel, "x"), y=label_of(panel, "y"), curves=[thinned(one) for one in inside]))
    return dict(alt=described(figure), panels=[panel for panel in panels if panel["curves"]])


def write_table(figure: Figure, path: Path) -> None:
    """Writes the points of all curves of a figure that has been drawn as CSV, with the panel and the name of each. No curve, no file."""
    drawn = curves_of(figure)
    if not any(drawn):
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("panel", "title", "curve", "x", "y"))
        for i, (panel, curves) in enumerate(zip(panels_of(figure), drawn, strict=True), 1):
            title = words(panel.get_title() or panel.get_title("left"))
            for curve in curves:
                table.writerows((i, title, curve.name, x, y) for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True))
