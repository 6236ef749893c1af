"""The ratio alpha by the restart probability."""

from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments.time_scales.common import (
    BASE,
    Settings,
    Study,
    grid_seeds,
    paper_rates,
    ratios_of,
    rows_of,
    two_maps,
)

CAPTION = (
    "The ratio alpha and the restart probability p_R: KL at the end (left) and iterations from which KL stays within twice the least "
    "of the table (right), in colours on a logarithmic scale, with the number in each cell. Medians over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    probabilities = [0.0, 0.001, 0.01, 0.025, 0.1, 1.0]
    grid = product(ratio=ratios_of(settings), restart_probability=probabilities, seed=grid_seeds(settings, 4))
    return Study("The ratio alpha by the restart probability.", grid, BASE, paper_rates, draw)


def draw(results):
    """Draws the phase diagram alpha x p_R."""
    kl = by_setting(results, ("ratio", "restart_probability", "seed")).kl
    figure = two_maps(kl, "ratio", "restart_probability", "S^14 monomodal, MALA, n = 1000")
    return {"restarts": (figure, CAPTION.format(kl.sizes["seed"]))}, rows_of(kl, ("ratio", "restart_probability"))
