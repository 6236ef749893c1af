"""The particle step by the neuron step, each over a factor of 100."""

import numpy as np

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
    maps_of,
    rows_of,
    step_rates,
    steps_of_plane,
    two_maps,
)

CAPTION = (
    "The plane of the particle step and the neuron step, a row for each step of the particles: KL at the end (left) and iterations "
    "from which KL stays within twice the least of the plane (right), in colours on a logarithmic scale of both rows, with the number "
    "in each cell. Hatched cells diverged, or never reach that KL. Medians over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    grid = product(integrator=INTEGRATORS, **steps_of_plane(settings), seed=grid_seeds(settings, 4))
    return Study("The particles' step by the neurons' step.", grid, BASE, step_rates, draw)


def draw(results):
    """Draws the maps of particle step x neuron step, a row for each integrator, on common scales."""
    kl = by_setting(results, ("integrator", "particle_step", "neuron_step", "seed")).kl
    figure, panels = _common.panels_of(kl.sizes["integrator"], 2, 0.5 + 2.5 * kl.sizes["integrator"], sharex=True, sharey=True)
    each, rows, images = [kl.sel(integrator=one, drop=True) for one in kl.integrator.values], [], []
    norms = [_common.log_norm(np.stack(values)) for values in zip(*(maps_of(one) for one in each), strict=True)]
    for row, (integrator, one) in enumerate(zip(kl.integrator.values, each, strict=True)):
        images = two_maps(panels[row], one, "particle_step", "neuron_step", norms)
        goal = f"{2 * floor_of(one[..., -1]):.2g}"
        for panel, words in zip(panels[row], ("KL at the end", f"iterations to KL {goal}"), strict=True):
            panel.set_title(f"{INTEGRATOR_NAMES[str(integrator)]}: {words}", loc="left")
        rows += [dict(integrator=str(integrator)) | row for row in rows_of(one, ("particle_step", "neuron_step"))]
    for panel in panels[:-1].flat:
        panel.set_xlabel("")
    for panel in panels[:, 1]:
        panel.set_ylabel("")
    for column, (image, label) in enumerate(zip(images, ("KL at the end (nat)", "iterations"), strict=True)):
        _common.colour_bar(figure, image, panels[:, column], label)
    figure.suptitle(f"{_common.named('s14_monomodal')}, n = 1000, median of {kl.sizes['seed']} seeds", fontsize=8)
    return {"plane": (figure, CAPTION.format(kl.sizes["seed"]))}, rows
