"""The plane of the two steps where particles mix badly: the bimodal teacher with larger radii."""

import numpy as np

from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common
from experiments.time_scales.common import (
    BASE,
    Settings,
    Study,
    grid_seeds,
    heat,
    log_norm,
    rows_of,
    step_rates,
    steps_of_plane,
)

CAPTION = (
    "The plane of the particle step and the neuron step where particles mix badly, a row for each radius: KL at the end (left) and "
    "the error of a mode's mass among the particles (right), in colours on a logarithmic scale, with the number in each cell. "
    "Medians over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    teachers = dict(teacher=["s14_bimodal"], radius=[30.0, 60.0, 100.0])
    grid = product(**teachers, **steps_of_plane(settings), seed=grid_seeds(settings, 3))
    about = "The same plane where particles mix badly: the bimodal teacher with larger radii."
    return Study(about, grid, BASE, step_rates, draw)


def draw(results):
    """Draws the maps of the KL, and of the error of the mode's mass among the particles."""
    cells = by_setting(results, ("radius", "particle_step", "neuron_step", "seed"))
    figure, panels = _common.panels_of(cells.sizes["radius"], 2, 7.6)
    rows = []
    for row, radius in enumerate(cells.radius.values):
        one = cells.sel(radius=radius, drop=True)
        final = one.kl[..., -1].median("seed")
        error = np.abs(one.mode_mass[..., -1]).median("seed")
        heat(figure, panels[row, 0], final, "particle_step", "neuron_step", "KL at the end (nat)", log_norm(final))
        heat(figure, panels[row, 1], error, "particle_step", "neuron_step", "error of a mode's mass, particles", log_norm(error))
        panels[row, 0].set_title(f"radius {radius:g}", fontsize=7, loc="left")
        rows += [dict(radius=float(radius)) | row for row in rows_of(one.kl, ("particle_step", "neuron_step"))]
    figure.suptitle("S^14 bimodal, MALA, n = 1000, median over seeds")
    return {"radius": (figure, CAPTION.format(cells.sizes["seed"]))}, rows
