"""The runs on the planted teachers: settings, the problem that they describe, and training."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import xarray

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods import dual, presets
from dualebm.spaces import Sphere
from dualebm.training.run import run
from experiments import _common


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset and the method."""

    preset: str = "quick"
    """quick (n = 1e4, minutes) or paper (the paper's n = 1e5; n = 1e4 for the authors' program; n = 1e3 on S^2)."""
    teacher: str = "s14_monomodal"
    """s14_monomodal, s14_bimodal, s2_monomodal or s2_bimodal."""
    method: str = "default"
    """default (ours), program (the authors' program) or text (the paper's Algorithm 1)."""
    n: int | None = None
    """Data points; there are 2n particles."""
    neurons: int = 64
    """Neurons m."""
    signs: str | None = None
    """Signs of the neurons: half, random or all_negative (which knows the teachers)."""
    integrator: str | None = None
    """Of the particles: mala, geodesic or projected."""
    particle_step: float | None = None
    """h_x, at temperature 1."""
    neuron_step: float | None = None
    """h_theta = h_w; for the program before its factor 1 + 0.1 / (k h_x)."""
    restart_every: int | None = None
    """All particles to the data every k iterations (the program's p_R = 1/k)."""
    restart_probability: float = 0.0
    """Each particle to a random data point with this probability (the text's p_R)."""
    budget: bool = True
    """Keep the total variation within 10."""
    steps: int | None = None
    """Iterations."""
    every: int = 10
    """Iterations between records."""
    seeds: int | None = None
    """Runs, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    test_points: int = 100_000
    """Fresh draws of the teacher for KL and score."""
    precision: int = 32
    """32 or 64 bits."""
    film: bool = False
    """On S^2, write film.mp4 of one more run of the first seed, recorded in 60 frames."""
    out: Path = Path("results/two_teachers")
    """Where a folder named after the settings is written."""


class Problem(NamedTuple):
    """What the settings say: the target, the method, its rates and their schedule, and the counts."""

    target: targets.Target
    method: dual.Dual
    rates: dual.DualRates
    schedule: Callable | None
    n: int
    steps: int
    seeds: int


def problem(settings: Settings) -> Problem:
    """Returns the problem of the settings.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> problem(Settings(method="program")).rates.particle_step
    0.02
    """
    _common.check(settings)
    checks.choice("teacher", settings.teacher, targets.TEACHERS)
    checks.choice("method", settings.method, presets.PRESETS)
    checks.choice("precision", settings.precision, (32, 64))
    target = targets.teacher(settings.teacher, jnp.float32 if settings.precision == 32 else jnp.float64)
    on_s2, paper, ours = target.space == Sphere(3), settings.preset == "paper", settings.method == "default"
    n = settings.n or (1_000 if on_s2 else 100_000 if paper and ours else 10_000)
    steps = settings.steps or (600 if ours and not on_s2 else 4_000)
    seeds = settings.seeds or (8 if paper and not ours else 4)
    changes = dict(neurons=settings.neurons, restart_every=settings.restart_every, budget=settings.budget)
    changes |= {k: getattr(settings, k) for k in ("signs", "integrator") if getattr(settings, k) is not None}
    if settings.method == "text":
        changes["particles"] = 2 * n
    method = presets.PRESETS[settings.method](target.space, **changes)
    if settings.method == "program":
        hz, hw = (0.04, 0.02 if settings.teacher == "s2_monomodal" else 0.04) if on_s2 else (0.2, 0.2)  # the authors' scripts
        hz, hw = (hz, hw) if settings.neuron_step is None else (settings.neuron_step,) * 2
        particle_step = 0.02 if settings.particle_step is None else settings.particle_step
        rates = presets.program_rates(settings.restart_every, hz, hw, particle_step)
    else:
        rates = method.rates if ours else presets.rates_from_paper(0.2, 1.0, 10.0)
        if settings.particle_step is not None:
            rates = rates._replace(particle_step=settings.particle_step)
        if settings.neuron_step is not None:
            rates = rates._replace(transport_step=settings.neuron_step, reaction_step=settings.neuron_step)
    rates = rates._replace(restart_probability=settings.restart_probability)
    method.check(rates, Samples(target.energy.positions))  # the rates, before any data are drawn
    checks.count("every", settings.every, 2)
    _common.check_multiple("steps", steps, settings.every, "every")
    if settings.film and not on_s2:
        raise ValueError(f"film is True and {settings.teacher} lives on {target.space}; allowed on S^2: s2_*")
    annealing = dual.annealing(400, 0.5) if on_s2 else dual.annealing()
    return Problem(target, method, rates, annealing if ours else None, n, steps, seeds)


def train(settings: Settings, task: Problem, folder: Path) -> tuple[xarray.Dataset, list]:
    """Trains one run a seed, or continues those in its folder; returns the records along (run, step), and the last states."""
    runs: list[xarray.Dataset] = []
    states = []
    for seed in _common.seeds_of(settings, task.seeds):
        key, data, test = _common.draws(seed, task.target, task.n, settings.test_points)
        monitors = metrics.standard(task.target.space, task.target.energy, test)
        if task.target.space == Sphere(3):
            nodes = sphere_quadrature(task.target.space, 50, data.points.dtype)
            monitors["effective_temperature"] = metrics.EffectiveTemperature(nodes)
        state, results = run(
            key, task.method, task.rates, data, steps=task.steps, every=settings.every, metrics=monitors,
            schedule=task.schedule, folder=folder / f"seed_{seed}", progress=sys.stderr.isatty(),
        )  # fmt: skip
        runs.append(results)
        states.append(state)
    return xarray.concat(runs, "run", combine_attrs="drop_conflicts"), states
