"""The ratio alpha with more data."""

import numpy as np

from dualebm.plotting import charts
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common
from experiments.time_scales.common import (
    BASE,
    INTEGRATOR_NAMES,
    INTEGRATORS,
    Settings,
    Study,
    floor_of,
    grid_seeds,
    is_paper,
    paper_rates,
    ratio_axis,
    ratios_of,
    rows_of,
)

CAPTION = (
    "The ratio alpha with more data, on logarithmic axes: KL at the end (left) and iterations from which KL stays within twice its "
    "least (right). Lines are medians over {} seeds, bands their least and largest."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    n = 10_000 if is_paper(settings) else 4000
    grid = product(n=[n], integrator=INTEGRATORS, ratio=ratios_of(settings), seed=grid_seeds(settings, 3))
    return Study("The ratio alpha with more data.", grid, BASE, paper_rates, draw)


def draw(results):
    """Draws KL at the end and iterations to twice its floor, against alpha."""
    kl = by_setting(results, ("integrator", "ratio", "seed")).kl
    figure, (panels,) = _common.panels_of(1, 2, 2.8)
    floor = floor_of(kl[..., -1])
    for i, integrator in enumerate(kl.integrator.values):
        one = kl.sel(integrator=integrator)
        for panel, values in zip(panels, (one[..., -1], _common.stays_below(one, 2 * floor)), strict=True):
            _common.band(panel, one.ratio, values.transpose("seed", "ratio"), i, np.nanmedian, label=INTEGRATOR_NAMES[str(integrator)])
    for panel, title in zip(panels, ("KL at the end (nat)", f"iterations to KL {2 * floor:.2g}"), strict=True):
        ratio_axis(panel)
        charts.log_axis(panel.yaxis)
        panel.set_ylabel(title)
    figure.suptitle(f"{_common.named('s14_monomodal')}, n = {charts.number(float(results.n[0]))}", fontsize=8)
    _common.legend(figure, panels[:1], 2, title=_common.of_seeds(kl.sizes["seed"], "median"))
    return {"large": (figure, CAPTION.format(kl.sizes["seed"]))}, rows_of(kl, ("integrator", "ratio"))
