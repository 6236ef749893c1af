"""The particle step by the neuron step, each over a factor of 100."""

from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments.time_scales.common import (
    BASE,
    INTEGRATORS,
    Settings,
    Study,
    grid_seeds,
    rows_of,
    step_rates,
    steps_of_plane,
    two_maps,
)

CAPTION = (
    "The plane of the particle step and the neuron step, {} step of the particles: KL at the end (left) and iterations from which KL "
    "stays within twice the least of the plane (right), in colours on a logarithmic scale, with the number in each cell. Medians "
    "over {} seeds."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    grid = product(integrator=INTEGRATORS, **steps_of_plane(settings), seed=grid_seeds(settings, 4))
    return Study("The particles' step by the neurons' step.", grid, BASE, step_rates, draw)


def draw(results):
    """Draws the maps of particle step x neuron step, for each integrator."""
    kl = by_setting(results, ("integrator", "particle_step", "neuron_step", "seed")).kl
    figures, rows = {}, []
    for integrator in kl.integrator.values:
        one = kl.sel(integrator=integrator, drop=True)
        drawn = two_maps(one, "particle_step", "neuron_step", f"S^14 monomodal, {integrator}, n = 1000")
        figures[f"plane_{integrator}"] = (drawn, CAPTION.format(integrator, kl.sizes["seed"]))
        rows += [dict(integrator=str(integrator)) | row for row in rows_of(one, ("particle_step", "neuron_step"))]
    return figures, rows
