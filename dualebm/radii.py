"""A path of radii: an energy that is trained from radius 0 on, each radius from the end of the one before, and validated at each.

Bumps, and ridges on a base measure that was fitted, are trained by weighted draws of the base measure (`methods.penalised`), whose
penalty falls. On the uniform measure of a sphere ridges are trained by Algorithm 1 (`methods.dual`), whose radius grows. Its neurons
stay where they gather, and spread less into the noise of the rows.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, Key

from dualebm import row_weights
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.base_measures import BaseMeasure
from dualebm.data.bases import Rows
from dualebm.energies.shallow import Shallow
from dualebm.features import Feature, ScaledBump
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.base import Method
from dualebm.methods.dual import Dual
from dualebm.methods.paths import Growth, Lowering
from dualebm.methods.penalised import PenalisedLikelihood, PenalisedRates
from dualebm.metrics import TotalVariation
from dualebm.metrics.held_out import DrawnFraction, FitGap, LogDensities
from dualebm.row_weights import Shares
from dualebm.training.run import Diverged, run

FEW = 600
"""The number of rows, Kish's effective number of weighted ones, below which all folds are validated, and paths are made for few rows."""

COMPARED = 3000
"""The number of rows between which distances are measured."""

PATIENCE = 2
"""The number of radii without a better validation after which a path may end."""

LOWEST, RATIO = 0.7, 1.06
"""Algorithm 1 begins at this fraction of the radius that draws have found, and each of its radii is larger by this ratio."""


class Plan(NamedTuple):
    """The numbers of a path.

    Args:
        method: the training method, on the space with its default base measure.
        rates: the rates of its first stage.
        schedule: the schedule of the rates, with the number of iterations of a stage.
        stages: the largest number of stages.
        draws: the number of draws of the base measure that train the energy, or 0 where the method moves particles.
        checked: the number of draws of the base measure by which log Z is estimated along the path.
    """

    method: Method
    rates: Any
    schedule: Lowering | Growth
    stages: int
    draws: int
    checked: int


def plan_of(
    geometry: Space, feature: Feature, n: int, *, neurons: int | None = None, iterations: int | None = None, stages: int | None = None,
    draws: int | None = None,
) -> Plan:  # fmt: skip
    """Return the numbers of a path that is trained by draws.

    Args:
        geometry: the space with its default base measure.
        feature: phi.
        n: the number of rows, or Kish's effective number of weighted rows, rounded down.
        neurons: the number of neurons. None for one that suits the rows, as for the others.
        iterations: the number of iterations of a stage.
        stages: the largest number of stages.
        draws: the number of draws of the base measure.

    Returns:
        The plan.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> plan_of(Sphere(3), ReLU(), 100, neurons=7).method.neurons
    7
    """
    few = n < FEW
    draws = draws or 2 ** (15 if few else 17 if geometry.compact else 16)
    neurons = neurons or min(128 if few else 256, n)
    method = PenalisedLikelihood(geometry, feature, neurons, draws, min(2048 if few else 4096, draws), rows=2**14)
    rates, ratio = (PenalisedRates(0.6, 0.03), 0.6) if few else (PenalisedRates(0.5, 0.1), 0.5)
    return Plan(method, rates, Lowering(ratio, iterations or (100 if few else 150)), stages or (8 if few else 12), draws, 2**15)


def grown(plan: Plan, radius: float, particles: int | None) -> Plan:
    """Return the plan of a path of Algorithm 1 around a radius that a path of the plan has found.

    It has 5 stages for 3 of the plan, each of 2 iterations for 15. The neurons need a radius that is not small at the start: where it is,
    all of them gather at one place and stay there.

    Args:
        plan: the plan by draws. The number of neurons is at most 64.
        radius: the radius.
        particles: the number of particles, which start at rows drawn by their weights. None for two copies of rows of equal weights.
    """
    draws: Any = plan.method
    method = Dual(draws.space, draws.feature, neurons=min(draws.neurons, 64), particles=particles)
    iterations = max(2 * plan.schedule.iterations // 15, 2)
    return Plan(method, method.rates._replace(radius=LOWEST * radius), Growth(RATIO, iterations), -(-5 * plan.stages // 3), 0, 2**17)


def bump_of(points: Rows, geometry: Space, concentration: float, shares: Shares = None) -> ScaledBump:
    """Return bumps whose widths reach from 3 widths of the kernels of a kernel density estimate to the spread of the rows.

    Narrower bumps fit the noise of the rows. The widest have twice the root mean squared distance of the rows to their mean, in ambient
    coordinates.

    Args:
        points: the rows, (n, d).
        geometry: the space with its default base measure.
        concentration: the concentration of the kernels.
        shares: the weights of the rows, of sum 1, (n,), or None for equal ones.

    >>> from dualebm.spaces import Euclidean
    >>> bump_of(np.eye(2), Euclidean(2), 30.0).largest_concentration
    3.0
    """
    x = np.asarray(geometry.ambient(jnp.asarray(points)), np.float64) / geometry.unit
    centre = x.mean(axis=0) if shares is None else shares @ x
    smallest = 1 / (4 * row_weights.mean(np.sum((x - centre) ** 2, axis=1), shares))
    return ScaledBump(geometry, float(smallest), float(max(concentration / 10, 2 * smallest)))


# -- Training ------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What a path is trained on.

    Args:
        base: the base measure.
        plan: the numbers of the path.
        data: the rows to train on, (n, d), with their weights.
        held: the rows at which log densities are taken, (k, d), with their weights.
    """

    base: BaseMeasure
    plan: Plan
    data: Samples
    held: Samples


class Followed(NamedTuple):
    """What came of a path. Its arrays have one entry for each stage, from stage 0 on, where the energy is 0.

    Args:
        energy: the energy at the end.
        radius: the total variation, (stages,).
        log_densities: the log densities at the held rows, (stages, k), in nats. NaN after the path diverged.
        fraction: the effective fraction of draws, (stages,).
        log_z_error: the standard error of log Z, which all log densities of a stage share, (stages,), in nats.
        slope: the slope of the loss along the scale of the energy, with its error, (stages, 2). At an optimum it is 0.
    """

    energy: Shallow
    radius: Float[np.ndarray, " stages"]
    log_densities: Float[np.ndarray, "stages k"]
    fraction: Float[np.ndarray, " stages"]
    log_z_error: Float[np.ndarray, " stages"]
    slope: Float[np.ndarray, "stages 2"]


Report = Callable[[dict[str, Any]], Any]
"""A function of a small dictionary of plain numbers."""

_begin = brief(PenalisedLikelihood.begin, static_argnums=0)


def follow(
    key: Key[Array, ""], task: Task, stages: int, folder: Path | None, bar: Any, *, early: bool, report: Report | None = None
) -> Followed:
    """Train a path of radii.

    Args:
        key: the key of the path.
        task: the rows, the base measure and the numbers of the path.
        stages: the number of radii.
        folder: the folder of the run, or None.
        bar: the bar. Each radius is one unit of it.
        early: whether the path ends where the last two radii have not raised the mean log density.
        report: function of the numbers of the last radius, called after each segment is saved. They are `step`, `radius`, `seconds` since
            the call began, `effective_fraction` of the draws, and `log_density`, the mean over the held rows in nats, or None where none
            are held.

    Returns:
        The energy and its numbers.

    Raises:
        Diverged: when a path without held rows diverges.
    """
    check_key(key)
    start_key, draw_key, checked_key, run_key = jax.random.split(key, 4)
    (method, rates, schedule, _, draws, count), data, held = task.plan, task.data, task.held
    space, dtype = dataclasses.replace(method.space, base=task.base), data.points.dtype
    judges = None if held.log_weights is None else np.asarray(held.weights, np.float64)
    checked = space.sample_base(checked_key, count, dtype)
    state: Any = _begin(method, start_key, space.sample_base(draw_key, draws, dtype), data) if draws else None
    at_base, done = np.asarray(space.log_base(held.points), np.float64), bar.n
    if not stages:
        positions = method.feature.draw(start_key, method.space, 1, data)  # pyright: ignore[reportAttributeAccessIssue]
        zero = Shallow(method.feature, positions, jnp.zeros(1, dtype))  # pyright: ignore[reportAttributeAccessIssue]
        return Followed(zero, np.zeros(1), at_base[None], np.ones(1), np.zeros(1), np.zeros((1, 2)))
    metrics = {
        "radius": TotalVariation(), "log_densities": LogDensities(held.points, checked), "fraction": DrawnFraction(checked),
        "gap": FitGap(checked),
    }  # fmt: skip

    begun = time.perf_counter()

    def average(values: np.ndarray) -> Any:
        return values.mean(axis=-1) if judges is None else values @ judges

    def show(results: xarray.Dataset) -> np.ndarray:
        radius, made = float(results.radius[-1]), results.sizes["step"] - 1
        bar.set_postfix(radius=f"{radius:.3g}", refresh=False)
        bar.update(done + made - bar.n)
        means = average(results.log_densities.values) if held.points.size else np.zeros(0)
        if len(means):
            bar.set_postfix(radius=f"{radius:.3g}", gain=f"{means[-1]:+.3f} nat", refresh=False)
        return means

    def after_segment(results: xarray.Dataset) -> bool:
        means = show(results)
        if report is not None:
            log_density = float(means[-1] + average(at_base)) if len(means) else None
            last = dict(step=int(results.step[-1]), radius=float(results.radius[-1]), effective_fraction=float(results.fraction[-1]))
            report({**last, "log_density": log_density, "seconds": time.perf_counter() - begun})
        return early and len(means) > 0 and len(means) - 1 - int(np.nanargmax(means)) >= PATIENCE

    options: dict[str, Any] = dict(schedule=schedule, state=state, folder=folder, segment=2, progress=False, callback=after_segment)
    every = schedule.iterations
    try:
        state, results = run(run_key, method, rates, data, steps=stages * every, every=every, metrics=metrics, **options)
    except Diverged as error:
        if not held.points.size:
            raise
        state, results = error.state, error.results
    show(results)
    bar.total -= done + stages - bar.n
    radius, relative, fraction, slope = (results[name].values.astype(np.float64) for name in metrics)
    # Stage 0 is the base measure, although the neurons of Algorithm 1 have weights before its first iteration.
    radius[0], relative[0], fraction[0], slope[0] = 0, 0, 1, 0
    slope[1:, 0] += radius[1:] * [float(method.penalty(state, schedule(stage * every, rates))) for stage in range(len(radius) - 1)]
    error = np.sqrt(np.maximum(1 / fraction - 1, 0) / count)  # a fraction is 1 up to rounding
    return Followed(method.energy(state, rates, data), radius, relative + at_base, fraction, error, slope)
