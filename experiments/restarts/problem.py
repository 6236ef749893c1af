"""The problems of the restart studies: teachers with the sizes and steps of the authors' program, and runs under both kinds of restart."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.methods import dual, presets
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Sphere
from experiments import _common

STUDIES = ("noise", "continuum", "annealed")
TEACHERS = ("s14_monomodal", "s14_bimodal", "s2_bimodal")
INTEGRATORS = {"program": "projected", "MALA": "mala"}
"""The authors' program, and the same with its particles' step made exact: integrator of each."""

HX = 0.02
"""The particle step of the authors' program."""

EVERY = 20
"""Iterations between records."""

AWAY = 100
"""The seeds that compare the annealed restarts are the seeds that choose them plus this."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (minutes) or paper (n = 1e4 on S^14)."""
    only: tuple[str, ...] = STUDIES
    """Which of noise, continuum, annealed."""
    teachers: tuple[str, ...] = ()
    """Which of s14_monomodal, s14_bimodal, s2_bimodal; none for those of the preset."""
    periods: tuple[int, ...] = ()
    """The k = 1 / p_R of the continuum; none for those of the preset."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Runs of each cell, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ...; those that compare the annealed are 100 further."""
    steps: int | None = None
    """Iterations of a run, a multiple of 20."""
    test_points: int = 10_000
    """Fresh draws of the teacher for KL and score."""
    out: Path = Path("results/restarts")
    """Where results and figures are written."""


class Problem(NamedTuple):
    """A teacher and what the program takes for it; `warmups` are the lengths of the annealed, `default` the schedule of our default."""

    name: str
    target: targets.Target
    n: int
    steps: int
    neuron_step: float
    periods: tuple[int, ...]
    warmups: tuple[int, ...]
    default: Callable


def problems(settings: Settings, study: str) -> list[Problem]:
    """Returns the problems of a study, one for each of its teachers.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> [(p.name, p.n, p.steps) for p in problems(Settings(preset="paper"), "continuum")]
    [('s14_monomodal', 10000, 1000), ('s14_bimodal', 2000, 1000), ('s2_bimodal', 1000, 4000)]
    """
    _common.check(settings)
    _common.check_each("only", settings.only, checks.choice, STUDIES)
    _common.check_each("teachers", settings.teachers or None, checks.choice, TEACHERS)
    for period in settings.periods:
        checks.count("periods", period)
    _common.check_multiple("steps", settings.steps, EVERY)
    if (settings.seeds or 1) > AWAY:
        raise ValueError(f"seeds is {settings.seeds}; it must be at most {AWAY}, or seeds that choose would also compare")
    paper = settings.preset == "paper"
    presets = {
        "noise": ("s14_monomodal", "s2_bimodal") if paper else ("s14_monomodal",),
        "continuum": TEACHERS if paper else ("s14_monomodal",),
        "annealed": ("s14_monomodal", "s2_bimodal") if paper else ("s14_monomodal",),
    }
    chosen = []
    for name in settings.teachers or presets[study]:
        target = targets.teacher(name)
        on_s2 = target.space == Sphere(3)
        n = settings.n or (1000 if on_s2 or not paper else 10_000 if name == "s14_monomodal" else 2000)
        steps = settings.steps or ((4000 if study == "continuum" else 2000) if on_s2 else 1000) // (1 if paper else 2)
        middle = 60 if on_s2 else 40  # of the archived runs
        periods = settings.periods or ((1, 3, 10, middle, 100, 300, 1000) if paper else (1, middle))
        warmups = (200, 1000) if on_s2 else (100, 400)
        default = dual.annealing(400, 0.5) if on_s2 else dual.annealing()
        neuron_step, warmups = (0.04 if on_s2 else 0.2), warmups if paper else warmups[:1]
        chosen.append(Problem(name, target, n, steps, neuron_step, tuple(sorted(set(periods))), warmups, default))
    return chosen


def seeds_of(settings: Settings, first: int = 0) -> range:
    """Returns the seeds, from the first seed of the settings plus `first` on."""
    count = settings.seeds or (4 if settings.preset == "paper" else 2)
    return _common.seeds_of(settings, first + count)[first:]


def method_of(target: targets.Target, algorithm: str, restarts: str, period: int) -> Dual:
    """Returns the program, or the same with MALA; periodic restarts are a setting of the method, and a period of 0 is none."""
    every = period if restarts == "periodic" and period else None
    return presets.program(target.space, integrator=INTEGRATORS[algorithm], restart_every=every)


def rates_of(neuron_step: float, restarts: str, period: int) -> DualRates:
    """Returns the program's rates: neuron steps times 1 + 0.1 p_R / h_x for both kinds of restart; Bernoulli restarts are a rate.

    >>> rates = rates_of(0.2, "bernoulli", 40)
    >>> rates.restart_probability, round(float(rates.transport_step), 6)
    (0.025, 0.225)
    """
    rates = presets.program_rates(period or None, neuron_step, hx=HX)
    return rates._replace(restart_probability=1 / period if restarts == "bernoulli" else 0.0)


def cells(periods: tuple[int, ...]) -> list[tuple[str, int]]:
    """Returns (kind of restart, period); the period 0 is no restart, which is the same in both kinds and is run once."""
    return [("periodic", 0), *((kind, period) for kind in ("periodic", "bernoulli") for period in periods)]


def trained(problem: Problem, settings: Settings, grid, method, rates, folder: Path, schedule=None) -> xarray.Dataset:
    """Sweeps with the paper's metrics; the runs of one seed share their data, start and noise.

    Args:
        problem: The teacher and its sizes.
        settings: The settings of the study.
        grid: The settings of the runs.
        method: The method, or a function of the runs' settings.
        rates: The rates, or a function of the runs' settings.
        folder: Where the runs are written.
        schedule: The schedule of the rates.

    Returns:
        The records along (run, step).
    """
    target, n, count = problem.target, problem.n, settings.test_points

    def data(key):
        return targets.sample(key, target, n)[0]

    def monitors(key):
        return metrics.standard(target.space, target.energy, targets.sample(key, target, count)[0])

    steps = dict(steps=problem.steps, every=EVERY)
    return _common.swept(grid, method, rates, data, **steps, metrics=monitors, schedule=schedule, common=True, folder=folder)


def along_seeds(results: xarray.Dataset) -> xarray.Dataset:
    """Returns runs that differ in their seed alone, along (seed, step)."""
    return results.drop_vars([name for name in results.coords if name != "step"]).rename(run="seed")


def reach(values: xarray.DataArray) -> np.ndarray:
    """Returns the distances from the mean to the least and to the largest, as `errorbar` asks for them."""
    return np.array([[float(values.mean() - values.min())], [float(values.max() - values.mean())]])
