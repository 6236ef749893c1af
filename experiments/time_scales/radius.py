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
    rows_of,
    step_rates,
    steps_of_plane,
)

CAPTION = (
    "The plane of the particle step and the neuron step where particles mix badly, a row for each radius: KL at the end (left) and "
    "the error of a mode's mass among the particles (right), in colours on a logarithmic scale of all radii, with the number "
    "in each cell. Hatched cells diverged. Medians over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    teachers = dict(teacher=["s14_bimodal"], radius=[30.0, 60.0, 100.0])
    grid = product(**teachers, **steps_of_plane(settings), seed=grid_seeds(settings, 3))
    about = "The same plane where particles mix badly: the bimodal teacher with larger radii."
    return Study(about, grid, BASE, step_rates, draw)


def draw(results):
    """Draws the maps of the KL, and of the error of the mode's mass among the particles, each on one scale of all radii."""
    cells = by_setting(results, ("radius", "particle_step", "neuron_step", "seed"))
    figure, panels = _common.panels_of(cells.sizes["radius"], 2, 7.2, sharex=True, sharey=True)
    rows, images = [], []
    finals, errors = cells.kl[..., -1].median("seed"), np.abs(cells.mode_mass[..., -1]).median("seed")
    norms = [_common.log_norm(values) for values in (finals, errors)]
    for row, radius in enumerate(cells.radius.values):
        shown = [values.sel(radius=radius, drop=True) for values in (finals, errors)]
        triples = zip(panels[row], shown, norms, strict=True)
        images = [heat(panel, values, "particle_step", "neuron_step", norm) for panel, values, norm in triples]
        for panel, words in zip(panels[row], ("KL at the end", "error of a mode's mass"), strict=True):
            panel.set_title(f"radius {radius:g}: {words}", loc="left")
        its_kl = cells.kl.sel(radius=radius, drop=True)
        for row in rows_of(its_kl, ("particle_step", "neuron_step")):
            ratio = float(f"{row['neuron_step'] / row['particle_step']:.2g}")
            rows.append(dict(radius=float(radius), ratio=ratio) | row)
    for panel in panels[:-1].flat:
        panel.set_xlabel("")
    for panel in panels[:, 1]:
        panel.set_ylabel("")
    for column, (image, label) in enumerate(zip(images, ("KL at the end (nat)", "error of a mode's mass, particles"), strict=True)):
        _common.colour_bar(figure, image, panels[:, column], label)
    figure.suptitle(f"{_common.named('s14_bimodal')}, MALA, n = 1000, median of {cells.sizes['seed']} seeds", fontsize=8)
    return {"radius": (figure, CAPTION.format(cells.sizes["seed"]))}, rows
