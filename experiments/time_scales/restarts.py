"""The ratio alpha by the restart probability."""

from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common
from experiments.time_scales.common import (
    BASE,
    Settings,
    Study,
    floor_of,
    grid_seeds,
    paper_rates,
    ratios_of,
    rows_of,
    two_maps,
)

CAPTION = (
    "The ratio alpha and the restart probability p_R: KL at the end (above) and iterations from which KL stays within twice the "
    "least of the table (below), in colours on a logarithmic scale, with the number in each cell. Hatched "
    "cells never reach it. Medians over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    probabilities = [0.0, 0.001, 0.01, 0.025, 0.1, 1.0]
    grid = product(ratio=ratios_of(settings), restart_probability=probabilities, seed=grid_seeds(settings, 4))
    return Study("The ratio alpha by the restart probability.", grid, BASE, paper_rates, draw)


def draw(results):
    """Draws the phase diagram alpha x p_R."""
    kl = by_setting(results, ("ratio", "restart_probability", "seed")).kl
    figure, panels = _common.panels_of(2, 1, 4.8, sharex=True)
    images = two_maps(panels[:, 0], kl, "ratio", "restart_probability")
    titles = ("KL at the end", f"iterations to KL {2 * floor_of(kl[..., -1]):.2g}")
    for panel, image, title, label in zip(panels[:, 0], images, titles, ("KL at the end (nat)", "iterations"), strict=True):
        panel.set_title(title, loc="left")
        _common.colour_bar(figure, image, panel, label)
    panels[0, 0].set_xlabel("")
    figure.suptitle(f"{_common.named('s14_monomodal')}, MALA, n = 1000, median of {kl.sizes['seed']} seeds", fontsize=8)
    return {"restarts": (figure, CAPTION.format(kl.sizes["seed"]))}, rows_of(kl, ("ratio", "restart_probability"))
