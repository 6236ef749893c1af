"""The runs of Figure 1: both algorithms in both readings, and the iterations to thresholds."""

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.methods import dual, presets
from dualebm.spaces import Sphere
from dualebm.training.run import run
from experiments import _common

TEACHERS = ("s14_monomodal", "s14_bimodal")
READINGS = ("archived", "text")
ALGORITHMS = ("primal", "dual")
VARIABLES = {"kl": "KL", "score": "SM", "total_variation": "TV"}
"""What is drawn, and its name in the archived curves."""

THRESHOLDS = {
    "s14_monomodal": (("kl", 0.8), ("kl", 0.5), ("kl", 0.2), ("kl", 0.1), ("total_variation", 1.7)),
    "s14_bimodal": (("kl", 0.35), ("kl", 0.3), ("kl", 0.2), ("kl", 0.15), ("total_variation", 1.7)),
}
"""Of each teacher, the values to which iterations are counted; the zero energy has a KL of 1.129 and 0.381."""


class Scale(NamedTuple):
    """Data points; pairs of runs; the most iterations of a primal run, those of a dual run; test points."""

    n: int
    seeds: int
    primal_steps: int
    dual_steps: int
    test_points: int


PRESETS = {"quick": Scale(1_000, 2, 24_000, 2_000, 5_000), "paper": Scale(100_000, 2, 40_000, 4_000, 100_000)}
EVERY = {"primal": 100, "dual": 10}
"""Iterations between records."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 1e3, two minutes) or paper (n = 1e5; by the time of a step, an hour a seed on two idle cores)."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Pairs of a primal and a dual run, each pair with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    primal_steps: int | None = None
    """Iterations of a primal run at the most, a multiple of 100."""
    dual_steps: int | None = None
    """Iterations of a dual run, a multiple of 10."""
    stop: bool = True
    """End a primal run when it has passed every threshold."""
    teachers: tuple[str, ...] = TEACHERS
    """Which of s14_monomodal, s14_bimodal."""
    readings: tuple[str, ...] = READINGS
    """Which of archived, text."""
    test_points: int | None = None
    """Fresh draws of the teacher for KL and score."""
    out: Path = Path("results/figure1")
    """Where the runs and the figures are written."""


def scale_of(settings: Settings) -> Scale:
    """Returns the scale of the preset with what the settings change.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> scale_of(Settings(preset="paper", seeds=1)).n
    100000
    """
    _common.check(settings)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("readings", settings.readings, checks.choice, READINGS)
    given = {name: getattr(settings, name) for name in Scale._fields if getattr(settings, name) is not None}
    scale = PRESETS[settings.preset]._replace(**given)
    for algorithm, every in EVERY.items():
        _common.check_multiple(f"{algorithm}_steps", getattr(scale, f"{algorithm}_steps"), every)
    return scale


class Setting(NamedTuple):
    """A method and its rates."""

    method: dual.Dual
    rates: dual.DualRates


def setting(reading: str, algorithm: str, n: int) -> Setting:
    """Returns the primal or the dual algorithm in one of the readings: see the top of this file.

    >>> setting("text", "dual", 100).rates
    DualRates(particle_step=0.001, transport_step=0.02, reaction_step=0.02, restart_probability=0.0, radius=10.0)
    """
    primal, space = algorithm == "primal", Sphere(15)
    if reading == "archived":
        neuron_step = 0.005 if primal else 0.2
        method = presets.program(space, weight_update="additive" if primal else "multiplicative")
        return Setting(method, presets.rates_from_program(0.02, neuron_step, neuron_step, 10.0))
    rates = presets.rates_from_paper(0.02, 0.05 if primal else 20.0, 1.0, scale="fast")
    # Weights in [0, 1) and not in [0, 10): the total variation of the paper's figure starts near 1 and grows to the budget.
    return Setting(presets.text(space, particles=2 * n, weight_unit="one"), rates._replace(radius=10.0))


# -- Iterations to a threshold ---------------------------------------------------------------------------


def passed(values: xarray.DataArray, threshold: float, rising: bool) -> float:
    """Returns the iteration at which a run first passes a threshold, between two records on a line in the logarithm of the values.

    Args:
        values: Along `step`.
        threshold: The value that is passed.
        rising: Whether it is passed from below.

    Returns:
        The iteration, infinite where the threshold is never passed.

    >>> kl = xarray.DataArray([1.0, 0.1], {"step": [0, 10]}, ("step",))
    >>> round(passed(kl, 0.1**0.5, rising=False), 6), passed(kl, 0.01, rising=False)
    (5.0, inf)
    """
    sign = -1 if rising else 1
    heights = sign * (np.log(values.values) - np.log(threshold))
    below = np.flatnonzero(heights <= 0)
    if not below.size:
        return np.inf
    last = below[0]
    if last == 0:
        return float(values.step[0])
    return float(np.interp(0, heights[[last, last - 1]], values.step.values[[last, last - 1]]))


def iterations(results: xarray.Dataset, teacher: str) -> list[float]:
    """Returns for a run the iterations to each threshold of its teacher."""
    return [passed(results[name], value, rising=name != "kl") for name, value in THRESHOLDS[teacher]]


def label(threshold: tuple[str, float]) -> str:
    """Returns a threshold in words.

    >>> label(("kl", 0.8))
    'KL 0.8'
    """
    return f"{VARIABLES[threshold[0]]} {threshold[1]:g}"


def speed_ups(primal: np.ndarray, dual_: np.ndarray) -> np.ndarray:
    """Returns primal / dual, iterations (seed, threshold), where both have passed and took more than none; else NaN.

    >>> speed_ups(np.array([[30.0, np.inf]]), np.array([[2.0, 5.0]])).tolist()
    [[15.0, nan]]
    """
    both = np.isfinite(primal) & np.isfinite(dual_) & (dual_ > 0)
    return np.where(both, primal / np.where(both, dual_, 1), np.nan)


def rows_of(teacher: str, reading: str, primal: np.ndarray, dual_: np.ndarray) -> list[dict]:
    """Returns a row for each threshold: means over the seeds in which both algorithms have passed it, and how many they are."""
    ratio, rows = speed_ups(primal, dual_), []
    for i, threshold in enumerate(THRESHOLDS[teacher]):
        kept = np.isfinite(ratio[:, i])
        means = [float(values[kept, i].mean()) if kept.any() else None for values in (primal, dual_, ratio)]
        least, largest = (float(of(ratio[kept, i])) if kept.any() else None for of in (np.min, np.max))
        rows.append(dict(
            teacher=teacher, reading=reading, to=label(threshold), primal=means[0], dual=means[1], speed_up=means[2], least=least,
            largest=largest, seeds=f"{kept.sum()} of {len(kept)}",
        ))  # fmt: skip
    return rows


# -- Runs --------------------------------------------------------------------------------------------------


def train(settings: Settings, scale: Scale, teacher: str, reading: str, algorithm: str, seed: int) -> xarray.Dataset:
    """Trains one run in a folder; the seed alone decides the data and the keys, so that the runs of a seed are a pair."""
    target = targets.teacher(teacher)
    key, data, test = _common.draws(seed, target, scale.n, scale.test_points)
    method, rates = setting(reading, algorithm, scale.n)
    monitors = metrics.standard(target.space, target.energy, test)
    stop = None
    if settings.stop and algorithm == "primal":
        stop = lambda records: bool(np.isfinite(iterations(records, teacher)).all())  # noqa: E731
    steps = scale.primal_steps if algorithm == "primal" else scale.dual_steps
    _, results = run(
        key, method, rates, data, steps=steps, every=EVERY[algorithm], metrics=monitors, callback=stop,
        folder=settings.out / f"n={scale.n}" / f"{teacher}_{reading}_{algorithm}_{seed}", progress=sys.stderr.isatty(),
    )  # fmt: skip
    return results
