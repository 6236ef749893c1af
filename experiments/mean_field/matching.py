"""Restarts at a high rate (Proposition 3): the energy with restarts at the rate alpha against that of the score matching flow."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from dualebm._internal.finite_volume import cells
from dualebm.features import Softplus
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.grid import cross, product, zipped
from experiments import _common, report
from experiments.mean_field.measured import (
    RADIUS,
    Settings,
    admissible,
    after,
    centred_energy,
    extrapolated,
    fitted_slope,
    root_mean_square,
    row,
    sizes_of,
    smooth_data,
    system_seeds,
)


class Matching(NamedTuple):
    """Restart rates alpha: of the equations, with either neuron step; with that of Algorithm 1 and alpha s = 1 / 2 alpha; of particles."""

    ratios: tuple[int, ...]
    vanishing: tuple[int, ...]
    of_particles: tuple[int, ...]


END, STEP = 0.5, 0.1
"""The time, and alpha s, the particle step s in units of 1 / alpha."""

PARTICLE_CELLS, NEURON_CELLS, ATOMS = 128, (256, 512), 1024
"""Cells of the equations' particles, and of their neurons on two grids; atoms of the limit, equally far apart."""

FITTED = 4
"""The largest restart rates, to which slopes are fitted."""

PLANS = {
    "quick": Matching((4, 8, 16, 32, 64, 128, 256), (4, 8, 16, 32), (4, 32)),
    "paper": Matching((4, 8, 16, 32, 64, 128, 256, 512, 1024), (4, 8, 16, 32, 64, 128), (4, 16, 64, 256)),
}


CAPTION = (
    "Restarts at a high rate become score matching. Left: distance of the energy of the equations with restarts to that of the score "
    "matching flow, relative to the latter, against the restart rate alpha, with a line of slope -1. Right: distance of particle "
    "systems to the equations, against the number of particles N, root mean square over {} seeds, with fitted slopes. All axes are "
    "logarithmic."
)


def restarting(ratio: float, steps: int, clock: bool) -> DualRates:
    """Returns the rates of Algorithm 1 with p_R = 1 - exp(-alpha s) and neuron steps alpha s, or with `clock` p_R.

    A particle moves 1 / p_R times between restarts, so that F = -(s / p_R) V to first order: neurons go s in an iteration where their step
    is p_R, and alpha s / p_R = 1 + alpha s / 2 + ... times as far where it is alpha s.

    >>> restarting(10, 50, clock=True).transport_step == restarting(10, 50, clock=True).restart_probability
    True
    """
    step = END / steps
    restart = -math.expm1(-ratio * step)
    neuron = restart if clock else ratio * step
    return DualRates(step, neuron, neuron, restart, RADIUS)


def iterations(ratio: int) -> int:
    """Returns the iterations with which alpha s = STEP."""
    return round(END * ratio / STEP)


def matching_data() -> Samples:
    """Returns the mixture on the circle."""
    return smooth_data(Sphere(2), PARTICLE_CELLS)


def limit_energy() -> tuple[np.ndarray, float]:
    """Returns the energy of the score matching flow, extrapolated in its step, and how much the extrapolation changes it."""
    data, energies = matching_data(), []
    method = ScoreMatching(Sphere(2), Softplus(), neurons=ATOMS)
    half = jnp.asarray(cells(Sphere(2), ATOMS // 2).centres, jnp.float32)
    for steps in (200, 400):
        rates = ScoreMatchingRates(END / steps, END / steps, RADIUS)
        state = method.init(jax.random.key(0), rates, data)
        state = state._replace(atoms=state.atoms._replace(positions=jnp.concatenate([half, half])))
        state = after(method, state, rates, data, steps)
        energies.append(np.asarray(centred_energy(None, Iterate(method, state, rates, data))))
    limit = extrapolated(*energies)
    return limit, float(root_mean_square(limit - energies[-1]))


def restarted_equations(runs: list[tuple[int, int, bool]]) -> list[tuple[np.ndarray, float]]:
    """Returns for each (alpha, steps, clock) the energy of the equations, extrapolated in the neurons' cells, and by how much."""
    data, energies = matching_data(), []
    rates = [restarting(*one) for one in runs]
    for neuron_cells in NEURON_CELLS:
        method = MeanField(Sphere(2), Softplus(), PARTICLE_CELLS, neuron_cells)
        method = dataclasses.replace(method, substeps=max(admissible(method, one, data).substeps for one in rates))
        state = method.init(jax.random.key(0), rates[0], data)
        for one, (_, steps, _) in zip(rates, runs, strict=True):
            last = after(method, state, one, data, steps)
            energies.append(np.asarray(centred_energy(None, Iterate(method, last, one, data))))
    pairs = zip(energies[: len(runs)], energies[len(runs) :], strict=True)
    return [(extrapolated(*pair), float(root_mean_square(pair[1] - pair[0]))) for pair in pairs]


def restarted_systems(ratio: int, sizes: list[int], seeds: range, folder: Path) -> np.ndarray:
    """Runs particle systems with restarts, and returns their energies, (sizes, seeds, points)."""
    steps = iterations(ratio)
    grid = cross(zipped(particles=sizes, neurons=[size // 10 for size in sizes]), product(seed=seeds))
    results = _common.swept(
        grid, Dual(Sphere(2), Softplus(), integrator="geodesic", noise="independent"), restarting(ratio, steps, True),
        matching_data(), steps=steps, every=steps, metrics={"f": centred_energy}, folder=folder / f"particles_{ratio}",
    )  # fmt: skip
    return np.stack([np.asarray(results.f[:, -1], float)[results.particles.values == size] for size in sizes])


def study(settings: Settings) -> tuple[dict[str, report.Captioned], list[dict[str, Any]]]:
    """Runs the study of restarts, and returns figures and rows."""
    paper, plan = settings.preset == "paper", PLANS[settings.preset]
    sizes, seeds = sizes_of(settings, 5 if paper else 4), system_seeds(settings, 16 if paper else 8)
    folder = settings.out / f"{settings.preset}_matching"
    limit, limit_error = limit_energy()
    variants = {
        "neuron step p_R": [(ratio, iterations(ratio), True) for ratio in plan.ratios],
        f"neuron step αs, αs = {STEP:g}": [(ratio, iterations(ratio), False) for ratio in plan.ratios],
        "neuron step αs, αs = 1 / 2α": [(ratio, round(2 * END * ratio**2), False) for ratio in plan.vanishing],
    }
    every = list(itertools.chain.from_iterable(variants.values()))
    solved = dict(zip(every, restarted_equations(every), strict=True))
    curves, rows = {}, []
    for (label, runs), expected in zip(variants.items(), (-1.0, None, -1.0), strict=True):
        ratios, error = [run[0] for run in runs], np.array([root_mean_square(solved[run][0] - limit) for run in runs])
        curves[label] = (np.array(ratios), error)
        slope, uncertain, _ = fitted_slope(ratios[-FITTED:], error[-FITTED:])
        at = f"alpha {ratios[-FITTED]} to {ratios[-1]}"
        rows.append(row(
            f"matching, {label}", at, "alpha", expected, slope, uncertain, error[-FITTED:], grid=solved[runs[-1]][1], step=limit_error
        ))  # fmt: skip
    known = {ratio: solved[ratio, iterations(ratio), True][0] for ratio in plan.of_particles}
    clouds = {ratio: restarted_systems(ratio, sizes, seeds, folder) for ratio in plan.of_particles}
    spread = {ratio: root_mean_square(cloud - known[ratio], keep=1) for ratio, cloud in clouds.items()}
    for ratio, values in spread.items():
        slope, uncertain, _ = fitted_slope(sizes, values)
        bias = root_mean_square((clouds[ratio][-1] - known[ratio]).mean(axis=0))
        chance = root_mean_square(clouds[ratio][-1].std(axis=0, ddof=1)) / math.sqrt(len(seeds))
        rows.append(row("matching, particles", f"alpha = {ratio}", "N", -0.5, slope, uncertain, values, bias=bias, chance=chance))
    at_largest = [values[-1] for values in spread.values()]
    slope, uncertain, _ = fitted_slope(plan.of_particles, at_largest)
    rows.append(row("matching, particles", f"N = {sizes[-1]}", "alpha", None, slope, uncertain, at_largest))
    scale = float(root_mean_square(limit))
    return {"mean_field_matching": (draw_matching(curves, sizes, spread, scale), CAPTION.format(len(seeds)))}, rows


def draw_matching(curves, sizes, spread, scale: float) -> Figure:
    """Draws distances of the equations to the limit against alpha, and of particles to the equations against N, in units of the limit."""
    figure, ((first, second),) = _common.panels_of(1, 2, 3.7)
    for i, (label, (ratios, error)) in enumerate(curves.items()):
        first.plot(ratios, error / scale, label=label.replace("p_R", "$p_R$"), **_common.look(i))
    ratios, error = curves["neuron step p_R"]
    first.plot(ratios, error[-1] / scale * ratios[-1] / ratios, color="0.5", linestyle="--", linewidth=0.8, label="slope -1")
    first.set(title="equations to score matching", xlabel="restart rate α", ylabel="relative distance of energies")
    for i, (ratio, values) in enumerate(spread.items()):
        slope, uncertain, constant = fitted_slope(sizes, values)
        label = f"α = {ratio}: slope {slope:.2f} ± {uncertain:.2f}"
        second.plot(sizes, values / scale, linestyle="", label=label, **_common.look(i))
        second.plot(sizes, np.exp(constant) * np.asarray(sizes) ** slope / scale, color=_common.look(i)["color"], linewidth=0.8)
    second.set(title="particles to equations", xlabel="particles N (with N / 10 neurons)")
    for panel, ticks in ((first, ratios[::2].tolist()), (second, sizes)):
        charts.log_axis(panel.xaxis, ticks)
        charts.log_axis(panel.yaxis)
        panel.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure
