"""The numbers and the maps of the sets of places, from the files of their cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from dualebm.plotting.projection import draw_graticule, map_points, map_position
from dualebm.plotting.regions import DENSITY_COLOURS
from experiments import _common, report
from experiments.densities import (
    OURS,
    Rows,
    best_rival,
    costs,
    difference,
    energy_adds,
    means,
    signed_logarithmic,
    verdict,
)
from experiments.earth.sets import NAMES, PUBLISHED

MAP_ROWS = 120
"""The pixels of a map from south to north."""

LABELS = {
    OURS: "automatic fit", "kernel": "kernels, one concentration", "neighbours": "kernels by neighbours",
    "mixture": "von Mises-Fisher mixture",
}  # fmt: skip
Cases = Mapping[tuple[str, bool], Mapping[str, Sequence[Mapping[str, Any]]]]
"""The cases by set and whether places count once, and by method, one a split."""


def _cell(of: Sequence[Mapping]) -> str:
    """Returns the mean negative log density over splits and its standard deviation, as the published numbers are given."""
    values = -means(of)
    return f"{values.mean():.2f}" + (f" +- {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def rows_of(cases: Cases) -> list[dict[str, Any]]:
    """Returns a row for each method, measured or published, with a column for each set; then rows of differences and of choices."""
    names: list[str] = [name for name in NAMES if any(name == known for known, _ in cases)]
    methods = list(next(iter(cases.values())))
    rows = []
    for distinct, where in ((False, "all rows"), (True, "distinct places")):
        columns = {name: cases[name, distinct] for name in names if (name, distinct) in cases}
        if not columns:
            continue

        def row(label, cell, columns=columns, where=where):
            cells = [cell(columns[name]) if name in columns else "" for name in names]
            return {"rows": where, "method": label} | dict(zip(names, cells, strict=True))

        rows += [row(LABELS[method], lambda each, method=method: _cell(each[method])) for method in methods]
        rows += [
            row("automatic less best rival", _lag), row("best rival", best_rival),
            row("chosen in the first split", lambda each: each[OURS][0]["chosen"]),
            row("energy adds", lambda each: energy_adds(each[OURS])),
        ]  # fmt: skip
        if not distinct:
            published: dict[str, dict[str, str]] = {label: dict(zip(NAMES, of, strict=True)) for label, of in PUBLISHED.items()}
            rows += [dict(rows=where, method=label) | {name: values[name] for name in names} for label, values in published.items()]
    return rows


def _lag(each: Mapping[str, Sequence[Mapping]]) -> str:
    """Returns the difference of negative log densities to the best rival, its standard error over splits, least and largest."""
    lag = difference(each[best_rival(each)], each[OURS])
    return f"{lag.mean:+.3f} +- {lag.error:.3f} ({lag.least:+.3f} to {lag.largest:+.3f})"


def published_of(cases: Cases) -> list[report.Published]:
    """Returns the negative log-likelihood of the automatic fit on each set beside the least of the published ones."""
    pairs = []
    for (name, distinct), each in cases.items():
        known = {label: float(of[NAMES.index(name)].split()[0]) for label, of in PUBLISHED.items()}
        best = min(known, key=lambda label: known[label])
        if not distinct:
            quantity = f"negative log-likelihood (nat), {name}"
            numbers: dict[str, Any] = _common.spread(-means(each[OURS]), "ours")
            pairs.append(report.Published(quantity, **numbers, published=known[best], source=f"{best}; other splits"))
    return pairs


def outcome(cases: Cases) -> str:
    """Returns sentences on who wins where, and on the cost of each method."""
    sentences = []
    for (name, distinct), each in cases.items():
        rival = best_rival(each)
        lag = difference(each[OURS], each[rival])
        where = f"{name}{', distinct places' if distinct else ''}"
        sentences.append(f"{where}: {verdict(lag)}, {lag.mean:+.3f} +- {lag.error:.3f} nat, {LABELS[rival]}")
    return (
        "The log density of the automatic fit beside that of its best rival, where two standard errors decide: "
        f"{'; '.join(sentences)}. Median seconds of the processor: {costs(cases.values())}."
    )


def maps_of(cases: Cases, rows: Mapping[str, Rows]) -> Figure:
    """Draws the log density of the automatic fit of the first split on an equal-area map, a panel a set, with at most 1500 of its rows.

    Args:
        cases: The cases. That of the automatic fit, all rows, first split, holds the `map`.
        rows: The rows of each set, (n, 3).
    """
    names = list(rows)
    figure, panels = _common.panels_of(-(-len(names) // 2), min(len(names), 2), 2.1 * -(-len(names) // 2))
    _, inside = map_points(MAP_ROWS)
    image = None
    for panel, name in zip(panels.flat, names, strict=False):
        values = np.array(cases[name, False][OURS][0]["map"])
        form: dict[str, Any] = dict(extent=(-2, 2, -1, 1), origin="lower", cmap=DENSITY_COLOURS, vmin=-8, vmax=4)
        edge = panel.add_patch(Ellipse((0, 0), 4, 2, facecolor="none", edgecolor="0.3", linewidth=0.6, clip_on=False))
        image = panel.imshow(np.where(inside, values, values[inside].min()), interpolation="bilinear", clip_path=edge, **form)
        draw_graticule(panel)
        drawn = rows[name][np.random.default_rng(0).permutation(len(rows[name]))[:1500]]
        panel.scatter(*map_position(drawn).T, s=0.6, color="black", linewidths=0, alpha=0.5)
        panel.set(title=f"{name}, n = {len(rows[name])}", xticks=[], yticks=[], frame_on=False)
    for panel in panels.flat[len(names) :]:
        panel.remove()
    form = dict(location="bottom", shrink=0.5, aspect=30, pad=0.02, extend="both", ticks=range(-8, 5, 2))
    figure.colorbar(image, ax=panels, label="log density by area (nat)", **form)  # pyright: ignore[reportArgumentType]
    return figure


def figure_of(cases: Cases) -> Figure:
    """Draws the difference of the automatic fit to each rival: the mean over splits, with a line from the least to the largest."""
    figure, ((panel,),) = _common.panels_of(1, 1, 0.9 + 0.32 * len(cases))
    methods = [method for method in next(iter(cases.values())) if method != OURS]
    for y, each in enumerate(cases.values()):
        for i, method in enumerate(methods):
            lag, form = difference(each[OURS], each[method]), _common.look(i)
            place = y + 0.18 * (i - (len(methods) - 1) / 2)
            panel.plot([lag.least, lag.largest], [place, place], color=form["color"], linewidth=1)
            dot: dict[str, Any] = dict(linestyle="", markersize=4, markeredgecolor="black", markeredgewidth=0.4)
            panel.plot([lag.mean], [place], label=LABELS[method], **dot, **form)
    panel.axvline(0, color="black", linewidth=0.8, zorder=0)
    labels = [f"{name}{', distinct' if distinct else ''}" for name, distinct in cases]
    panel.set(yticks=range(len(cases)), yticklabels=labels, ylim=(len(cases) - 0.4, -0.6), xlabel="automatic − rival, log density (nat)")
    signed_logarithmic(panel)
    panel.set_title("mean, and least to largest over splits; right of 0 the automatic fit is better")
    _common.legend(figure, [panel], 3)
    return figure
