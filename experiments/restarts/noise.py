"""The noise of the witness after restarts: one step of the particles from the data, at p_R = 1, against the particle step."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dualebm.data import targets
from dualebm.energies.shallow import feature_mean, from_atoms
from dualebm.features import ReLU
from dualebm.flows import initialise, langevin
from dualebm.flows.noise import drawn
from dualebm.measures import Atoms, Samples
from dualebm.methods import presets
from dualebm.plotting import charts
from experiments import _common
from experiments.restarts.problem import HX, Settings, problems

WAYS = ("random data points, antithetic noise", "data in order, independent noise", "data in order, antithetic noise")
"""Starts of the particles at p_R = 1, and the noise of their step: Bernoulli restarts; periodic ones, the last as in the program."""


CAPTION = (
    "Signal and noise of the witness F after one step of the particles from the data, at p_R = 1, against the particle step h_x, on "
    "logarithmic axes: root mean squares over the 64 neurons. The black line is the mean of F / h_x over {} draws, dashed lines are "
    "its standard deviation over the draws for three kinds of restart. The grey vertical line is the step of the authors' program."
)


@partial(jax.jit, static_argnames=("space", "way"))
def _witnesses(keys, space, atoms: Atoms, data: Samples, step, way: str):
    feature = ReLU()

    def one(key):
        restart_key, noise_key = jax.random.split(key)
        x = initialise.copies(data, 2 * data.points.shape[0])
        if way == WAYS[0]:
            x = initialise.restart(restart_key, x, data, 1.0)
        draw = drawn(noise_key, x.shape[0], x.dtype, "independent" if way == WAYS[1] else "antithetic")
        moved = langevin.move("projected", space, draw, x, from_atoms(feature, atoms), step)[0]
        return feature_mean(feature, atoms.positions, Samples(moved.T))[0]

    return jax.lax.map(one, keys) - feature_mean(feature, atoms.positions, data)[0][None]


def witnesses(keys, target: targets.Target, data: Samples, step: float, way: str) -> np.ndarray:
    """Returns F at the 64 neurons of the program's start after one projected step of 2n particles that have restarted.

    Args:
        keys: Keys of the restarts and of the noise; the neurons have one fixed key, all signs -1 and weights 1.
        target: The teacher.
        data: The data, (n, d).
        step: The particle step.
        way: One of `WAYS`.

    Returns:
        The witness (keys, 64).
    """
    method = presets.program(target.space)
    atoms = method.init(jax.random.key(0), method.rates, data).atoms
    return np.asarray(_witnesses(keys, target.space, atoms, data, jnp.asarray(step, data.points.dtype), way))


def study(settings: Settings, folder: Path) -> dict[str, Any]:
    """Measures the RMS over neurons of the mean of F / h_x over draws of restarts and noise, and of its standard deviation, against h_x."""
    del folder  # seconds of work: nothing to continue
    teachers = problems(settings, "noise")
    first, second = _common.seeds_of(settings, 2)
    draws = 100 if settings.preset == "paper" else 20
    rows = []
    figure, (panels,) = _common.panels_of(1, len(teachers), 3.0, 3.5 * len(teachers))
    steps = (2e-4, 6e-4, 2e-3, 6e-3, HX, 6e-2)
    root = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
    for panel, problem in zip(panels, teachers, strict=True):
        data = targets.sample(jax.random.key(first), problem.target, problem.n)[0]
        keys = jax.random.split(jax.random.key(second), draws)
        of_ways = {way: [witnesses(keys, problem.target, data, step, way) / step for step in steps] for way in WAYS}
        # Of the program's way, as the mean over draws keeps the least of its noise; its expectation is that of all ways.
        signal = np.array([root(values.mean(0)) for values in of_ways[WAYS[-1]]])
        panel.plot(steps, signal, color="black", label="signal: the mean over draws")
        for i, (way, values) in enumerate(of_ways.items()):
            spread = np.array([root(v.std(0, ddof=1)) for v in values])
            for step, mean, deviation in zip(steps, signal, spread, strict=True):
                cell = dict(teacher=problem.name, n=problem.n, start=way, particle_step=step)
                rows.append(cell | dict(signal=mean, noise=deviation, ratio=deviation / mean))
            panel.plot(steps, spread, label=f"noise: {way}", linestyle="--", **_common.look(i))
        panel.axvline(HX, color="0.7", linewidth=0.8, zorder=0)
        panel.text(HX * 1.1, 0.02, "program", transform=panel.get_xaxis_transform(), fontsize=6, color="0.4")
        panel.set(title=f"{_common.named(problem.name)}, n = {charts.number(problem.n)}", xlabel="particle step $h_x$")
        charts.log_axis(panel.xaxis, [1e-4, 1e-3, 1e-2, 1e-1])
        charts.log_axis(panel.yaxis)
    panels[0].set_ylabel("$F / h_x$, RMS over neurons")
    _common.legend(figure, panels, 1 if len(teachers) == 1 else 2)
    at = [row for row in rows if row["particle_step"] == HX and row["teacher"] == teachers[0].name]
    ratios = ", ".join(f"{row['ratio']:.2g} ({row['start']})" for row in at)
    return dict(
        title="Score matching by restarts: the noise of the witness",
        about="One step of the particles from the data gives F = -h_x V. Restarts at random data points leave their own sampling noise "
        "in F, of order N^(-1/2) whatever h_x; two copies of the data in order leave none but that of the step. Neurons of the start.",
        rows=rows, figures={"noise": (figure, CAPTION.format(draws))}, seeds=(first, second),
        summary=f"Noise over signal at h_x = {HX}, {teachers[0].name}: {ratios}; {draws} draws.",
        paper="Proposition 3 and Appendix G: p_R = 1 is score matching, for infinitely many particles; the text restarts at random data "
        "points, the authors' program at the data in order.",
    )  # fmt: skip


