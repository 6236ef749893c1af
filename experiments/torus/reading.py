"""The errors on the circle, as figures and rows."""

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from experiments import _common
from experiments.torus.exact import ERRORS, Best, density, errors, nodes, teacher
from experiments.torus.runs import F2, METHODS, TITLES


def style(kind: str) -> dict:
    """Returns the colour, the marker and the label of a method."""
    return _common.look(METHODS.index(kind)) | dict(label=TITLES[kind])


def draw_errors(parts: list[xarray.Dataset], best: list[Best]) -> Figure:
    """Draws errors against iterations: above of the last energy, below of the mean one; median over seeds, least to largest."""
    figure, panels = _common.panels_of(2, 3, 4.6, sharex=True, sharey="col")
    of_best = [errors(one.energy) for one in best]
    for (row, column), panel in np.ndenumerate(panels):
        name = list(ERRORS)[column]
        for part in parts:
            for kind in part.kind.values:
                if row and kind not in F2:
                    continue
                values = errors(part.profile.sel(kind=kind).values[:, 1:, row])[name]
                i = METHODS.index(str(kind))
                places = charts.marks(part.step.values[1:], i)
                _common.band(panel, part.step[1:], values, i, np.nanmedian, alpha=0.15, markevery=places, label=TITLES[str(kind)])
        level = np.median([one[name] for one in of_best])
        panel.axhline(level, color="black", linestyle="--", linewidth=0.8, label="best of the F2 ball")
        charts.log_axis(panel.xaxis)
        charts.log_axis(panel.yaxis)
        panel.set_title(ERRORS[name] if not row else None)
        if row:
            panel.set_xlabel("iteration")
    for row, label in enumerate(("last energy", "mean energy")):
        panels[row, 0].set_ylabel(label)
    _common.legend(figure, panels[0, :1], 4, title=_common.of_seeds(len(best), "median"))
    return figure


def draw_profiles(parts: list[xarray.Dataset], best: Best) -> Figure:
    """Draws energies and densities at the end, of the first seed."""
    figure, panels = _common.panels_of(2, 3, 4.4, sharex=True, sharey="row")
    x = nodes()
    known = {"teacher": (teacher(x), "-"), "best of the F2 ball": (best.energy, "--")}
    for column, (title, row, kinds) in enumerate((("F2, last energy", 0, F2), ("F2, mean energy", 1, F2), ("F1", 0, METHODS[4:]))):
        lines = [(energy, dict(color="black", linestyle=dash, label=label)) for label, (energy, dash) in known.items()]
        for part in parts:
            lines += [
                (part.profile.sel(kind=kind)[0, -1, row].values, style(str(kind)) | dict(markevery=(5 * METHODS.index(kind), 40)))
                for kind in part.kind.values
                if kind in kinds
            ]
        for energy, look in lines:
            look |= dict(linewidth=1)
            panels[0, column].plot(x, energy - np.mean(energy), **look)
            panels[1, column].plot(x, density(np.asarray(energy, np.float64)), **look)
        panels[0, column].set_title(title)
        panels[1, column].set_xlabel("x (the circle has length 1)")
    panels[0, 0].set_ylabel("energy, centred")
    panels[1, 0].set_ylabel("density")
    _common.legend(figure, panels[0, ::2], 4)
    return figure


def rows_of(parts: list[xarray.Dataset], best: list[Best]) -> list[dict]:
    """Returns the errors at the end of each method, medians over seeds, and how far its density is from that of the best of the F2 ball."""
    empty = dict(of="", iterations=None, to_best=None, acceptance=None)
    rows = [dict(method="best of the F2 ball", **medians_of([errors(b.energy) for b in best]), **empty)]
    for part in parts:
        for kind in part.kind.values:
            for i, label in enumerate(("last", "mean") if kind in F2 else ("last",)):
                ends = part.profile.sel(kind=kind)[:, -1, i].values
                apart = [float(np.mean(np.abs(density(f.astype(float)) - density(b.energy)))) for f, b in zip(ends, best, strict=True)]
                rows.append(dict(
                    method=TITLES[str(kind)], **medians_of([errors(f) for f in ends]), of=label, iterations=int(part.step[-1]),
                    to_best=float(np.median(apart)) if kind in F2 else None,
                    acceptance=float(part.acceptance.sel(kind=kind)[:, 1:].min()),
                ))  # fmt: skip
    return rows


def medians_of(each: list[dict]) -> dict[str, float]:
    """Returns medians over seeds, and the least and the largest KL.

    >>> medians_of([{"kl": 1.0}, {"kl": 2.0}])
    {'kl': 1.5, 'least_kl': 1.0, 'largest_kl': 2.0}
    """
    kl = [float(one["kl"]) for one in each]
    medians = {name: float(np.median([one[name] for one in each])) for name in each[0]}
    return medians | dict(least_kl=min(kl), largest_kl=max(kl))
