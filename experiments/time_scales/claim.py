"""KL against the ratio alpha, in both conventions of the step, for the projected and the MALA step, on both S^14 teachers."""

import matplotlib
import numpy as np
import xarray

from dualebm.plotting import charts
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common, report
from experiments.time_scales.common import (
    BASE,
    FACTORS,
    INTEGRATOR_NAMES,
    INTEGRATORS,
    Settings,
    Study,
    floor_of,
    grid_seeds,
    paper_rates,
    ratio_axis,
    ratios_of,
    times_of,
)

TEACHERS = ("s14_monomodal", "s14_bimodal")
SCALES = {"particle": "particle step fixed", "fast": "faster step fixed"}
PRODUCTS = {"projected": 5, "mala": 6}
"""Products of N m d numbers that an iteration takes: two for the gradient at each point at which it is evaluated, the witness (one
more, or two where the products at the new points are not known) and the data's sums (two of N / 2)."""


CURVES = (
    "KL(teacher || student) on {} along training for each ratio alpha, against the iteration on logarithmic axes: "
    "MALA on the left and the projected step on the right, with the faster of both steps fixed above and the particle step fixed "
    "below. Lines are means over {} seeds, bands their least and largest."
)
CAPTION = (
    "What the ratio alpha changes on {}, on logarithmic axes: KL at the end, and the work and the iterations from which KL stays "
    "below a threshold. Lines are medians over {} seeds, bars their least and largest; a line has a gap where no seed reaches the "
    "threshold."
)


def study(settings: Settings) -> Study:
    """Returns the sweep.

    >>> len(study(Settings(preset="paper")).grid["seed"])
    576
    """
    grid = product(
        teacher=TEACHERS, scale=["particle", "fast"], integrator=INTEGRATORS, ratio=ratios_of(settings), seed=grid_seeds(settings, 8)
    )
    about = "KL against the ratio alpha, in both conventions of the step, for the projected and the MALA step."
    return Study(about, grid, BASE, paper_rates, draw)


def draw(results: xarray.Dataset) -> tuple[dict[str, report.Captioned], list[dict]]:
    """Draws for each teacher the curves of KL by alpha; and the KL at the end, and iterations and work to thresholds, against alpha."""
    kl = by_setting(results, ("teacher", "scale", "integrator", "ratio", "seed")).kl
    figures, rows = {}, []
    for teacher in kl.teacher.values:
        curves, panels = _common.panels_of(2, 2, 5.2, sharex=True, sharey=True)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, kl.sizes["ratio"]))
        for row, scale in enumerate(kl.scale.values):
            for column, integrator in enumerate(kl.integrator.values):
                panel = panels[row, column]
                for i, (colour, ratio) in enumerate(zip(colours, kl.ratio.values, strict=True)):
                    values = kl.sel(teacher=teacher, scale=scale, integrator=integrator, ratio=ratio)[..., 1:]
                    form = dict(color=colour, linewidth=1, markersize=2.5, markevery=charts.marks(values.step.values, i, 4))
                    _common.band(panel, values.step, values, i, alpha=0.1, label=f"{ratio:g}", **form)
                panel.set_title(f"{INTEGRATOR_NAMES[str(integrator)]}, {SCALES[str(scale)]}", loc="left")
                charts.log_axis(panel.xaxis)
                charts.log_axis(panel.yaxis)
                if row:
                    panel.set_xlabel("iteration")
                if not column:
                    panel.set_ylabel(_common.KL)
        title = r"$\alpha$ of the text"
        curves.legend(*panels[0, 0].get_legend_handles_labels(), title=title, title_fontsize=7, loc="outside right center")
        curves.suptitle(f"{_common.named(teacher)}, n = 1000; {_common.of_seeds(kl.sizes['seed'])}", fontsize=8)
        figures[f"claim_{teacher}_curves"] = (curves, CURVES.format(teacher, kl.sizes["seed"]))
    for teacher in kl.teacher.values:
        floor = floor_of(kl.sel(teacher=teacher)[..., -1])
        summary, panels = _common.panels_of(2, 2, 5.2)
        for i, (integrator, scale) in enumerate((k, s) for k in kl.integrator.values for s in kl.scale.values):
            one = kl.sel(teacher=teacher, integrator=integrator, scale=scale)
            label = f"{INTEGRATOR_NAMES[str(integrator)]}, {SCALES[str(scale)]}"
            near, far = (_common.stays_below(one, factor * floor) for factor in FACTORS)
            shown = (one[..., -1], near * PRODUCTS[str(integrator)], near, far)
            for panel, values in zip(panels.flat, shown, strict=True):
                _common.bars(panel, one.ratio, values.transpose("seed", "ratio"), i, 4, np.nanmedian, label=label)
            for ratio in one.ratio.values:
                at = one.sel(ratio=ratio)
                cell = dict(teacher=str(teacher), integrator=str(integrator), scale=str(scale), alpha=float(ratio))
                rows.append(cell | _common.spread(at[:, -1], "final") | times_of(at, floor))
        near, far = (f"KL {factor * floor:.2g}" for factor in FACTORS)
        titles = ("KL at the end (nat)", f"work to {near} (products of N m d)", f"iterations to {near}", f"iterations to {far}")
        for i, (panel, title) in enumerate(zip(panels.flat, titles, strict=True)):
            ratio_axis(panel, label=i > 1, both=i < 2)
            charts.log_axis(panel.yaxis)
            panel.set_ylabel(title)
        summary.suptitle(f"{_common.named(teacher)}, n = 1000", fontsize=8)
        _common.legend(summary, panels[0, :1], 2, title=_common.of_seeds(kl.sizes["seed"], "median", "bar"))
        figures[f"claim_{teacher}"] = (summary, CAPTION.format(teacher, kl.sizes["seed"]))
    return figures, rows
