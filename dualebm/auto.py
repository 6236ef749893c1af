"""A density of rows nobody has seen before: base measure, feature and radius are chosen by validation, and the model is fitted again.

    p = exp(-f) tau / Z,   f in the F1 ball of radius R

A candidate is a base measure tau with a feature. Its path (`radii`) starts at R = 0, where p = tau, and goes through growing radii. The
rows are dealt to folds. A path is trained on the rows of all folds but one, to which tau is fitted too, and its log densities are taken
at the rows of that fold. The few weights of a stacked tau, and the bounds of the widths of bumps, are of all rows. The candidate and the
radius of the largest mean log density are chosen. Then tau, and the path up to that radius, are fitted to all rows.

Rows may have weights. They enter all fits, the training and all means over rows.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm import row_weights, settings
from dualebm._internal import checks, files, folders
from dualebm._internal.keys import check_key
from dualebm.base_measures import Gaussian, Uniform
from dualebm.candidates import FOLDS, Auto, Candidate, candidates_of
from dualebm.data.kernel_bases import deal
from dualebm.energies.base import evaluated
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.geometry import Space
from dualebm.log_z.estimate import LogPartitionEstimate, estimate_log_partition
from dualebm.measures import Samples, resample
from dualebm.radii import FEW, Followed, Plan, Report, Task, follow, grown, plan_of
from dualebm.row_weights import Shares
from dualebm.settings import checked
from dualebm.training import segments
from dualebm.training.fingerprint import warned_once
from dualebm.training.run import Diverged

PATHS = "paths"
"""The folder, within that of a fit, of the runs of its paths."""

SMALLEST_FRACTION = 0.02
"""The effective fraction of draws of the base measure below which a radius is not chosen, because its log Z is not known."""

LARGEST_SHARE = 0.05
"""The share in Z that a validation row may have, were it one of the draws. Beyond it the draws miss a region of the model, and log Z is not
known."""

LARGEST_SLOPE = 0.05
"""The slope of the loss along the scale of the energy, in nats, up to which a path counts as converged."""

PARTICLES = 2**14
"""The number of weighted draws that estimate the mean energy of the model."""


class Stage(NamedTuple):
    """A radius of the path of a candidate. Numbers over rows are means over the rows of the validated folds.

    Args:
        candidate: the name of the candidate.
        stage: the number of the stage. Stage 0 has the radius 0.
        radius: the total variation of the neurons, the mean over folds.
        log_density: the mean log density of the rows that were not trained on, in nats.
        gain: this mean less that of stage 0, in nats.
        gain_error: the standard error of the gain, over rows.
        effective_fraction: the least effective fraction of draws over folds.
        log_z_error: the largest standard error of log Z over folds, in nats.
    """

    candidate: str
    stage: int
    radius: float
    log_density: float
    gain: float
    gain_error: float
    effective_fraction: float
    log_z_error: float


class Lead(NamedTuple):
    """How far the chosen stage is above the best stage of another candidate, in the mean log density of rows that both have.

    Args:
        candidate: the name of the other candidate.
        radius: the radius of its best stage.
        difference: the mean of the log density of the chosen stage less its own, row by row, in nats.
        error: the standard error of the difference, with those of both log Z, in nats.
    """

    candidate: str
    radius: float
    difference: float
    error: float


class Fit(NamedTuple):
    """A chosen and fitted model exp(-U) tau / Z.

    Args:
        energy: the energy U.
        space: the space with the base measure tau.
        log_partition: the estimate of log Z.
        radius: the total variation of the neurons.
        chosen: the stage that was chosen.
        validated: the number of rows whose log densities made the choice.
        log_density: their mean log density in the chosen stage, with its standard error over rows, in nats. The choice makes it too
            large, which this error does not contain.
        path: all stages of all candidates.
        notes: sentences about what has not converged or is at a bound, with a remedy.
        leads: the leads of the chosen stage over the other candidates, in the order of candidates.
    """

    energy: Shallow
    space: Space
    log_partition: LogPartitionEstimate
    radius: float
    chosen: Stage
    validated: int
    log_density: tuple[float, float]
    path: tuple[Stage, ...]
    notes: tuple[str, ...]
    leads: tuple[Lead, ...] = ()


# -- The fit ---------------------------------------------------------------------------------------


@checked
def fit(
    key: Key[Array, ""], points: Float[Array, "n d"], space: Space, auto: Auto | None = None, *, weights: Any = None,
    folder: files.PathLike | None = None, progress: bool = False, callback: Report | None = None,
) -> Fit:  # fmt: skip
    """Fit a density to rows.

    Args:
        key: the key of the fit, one typed threefry key.
        points: the rows as points of the space, (n, d). On R^d their columns have about the scale 1.
        space: the space. Its base measure is replaced.
        auto: the settings. None for the defaults.
        weights: the non-negative weights of the rows, (n,), of which only ratios matter. None for equal weights. Rows of weight 0 are left
            out. Where a number of rows sets a default, Kish's effective number 1 / sum_i p_i^2 stands for it, with the shares p_i of the
            weights.
        folder: the folder in which the same call continues after an interruption, and which holds the records of the paths. None writes
            nothing.
        progress: whether to show a bar on standard error, with the radius, the validated gain and the time that remains.
        callback: function of a dictionary of plain numbers, called after each segment of a path is saved, such as a logger. The
            dictionary has the `candidate` of the path, the number of its validation `fold` from 0, or None for all rows, and the numbers
            that `radii.follow` reports. The log density is in nats per row, with respect to the coordinates of the points.

    Returns:
        The fit.

    Raises:
        ValueError: when a setting does not suit the space or the rows, or a weight is not allowed.
        OSError: when the folder cannot be written.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the current stages are saved.
    """
    check_key(key)
    auto = auto or Auto()
    checks.samples("points", Samples(points), space)
    shares = row_weights.shares_of("weights", weights, len(points))
    if shares is not None and not shares.all():
        points, shares = points[np.flatnonzero(shares)], row_weights.subset(shares, shares > 0)
    count = int(row_weights.effective_count(len(points), shares))
    if count < 2 * FOLDS:
        few = f"points has {count} rows" if shares is None else f"weights leaves {count} of {len(points)} rows by Kish's effective number"
        raise ValueError(f"{few}; validation on {FOLDS} folds needs at least {2 * FOLDS}")
    path_key, fit_key, last_key = jax.random.split(key, 3)
    geometry = dataclasses.replace(space, base=Uniform() if space.compact else Gaussian())
    seed, place = int(jax.random.key_data(key)[-1]), None if folder is None else Path(folder) / PATHS
    fold = deal(len(points), FOLDS, seed)
    numbers = {name: getattr(auto, name) for name in ("neurons", "stages", "iterations", "draws")}
    candidates = candidates_of(np.asarray(points), geometry, fold, auto, seed, shares)
    few, particles = count < FEW, None if shares is None else 2 * len(points)
    held_rows = np.concatenate([split(fold, number)[1] for number in range(FOLDS)])
    judges = None if shares is None else shares[held_rows]  # of the rows of all folds, in their order

    def report_of(candidate: Candidate, fold: int | None) -> Report | None:
        call = callback
        return call and (lambda numbers: call({"candidate": candidate.name, "fold": fold, **numbers}))

    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folders.hold(folder))
            stack.enter_context(warned_once(f"folder {folder}"))
        bar = stack.enter_context(segments.bar(0, 0, "radius", progress))

        def validate(candidate: Candidate, plan: Plan, folds: int) -> list[Followed]:
            runs = []
            bar.total += folds * plan.stages
            for number in range(folds):
                train, held = split(fold, number)
                bar.set_description(f"{candidate.name}, fold {number + 1} of {folds}")
                task = Task(candidate.fold_bases[number], plan, _samples(points, shares, train), _samples(points, shares, held))
                where = place and place / "-".join([*candidate.name.split(), settings.word(type(plan.method)), str(number)])
                runs.append(follow(path_key, task, plan.stages, where, bar, early=folds == 1, report=report_of(candidate, number)))
            return runs

        plans, stages, rows = [], [], []
        for candidate in candidates:
            plan, folds = plan_of(geometry, candidate.feature, count, **numbers), auto.paths or (FOLDS if few else 1)
            if isinstance(candidate.feature, ReLU) and candidate.base == Uniform():
                path, values = summarised(candidate, validate(candidate, plan, 1), plan.checked, judges)
                radius, folds = smallest_good_radius(path, values, judges), auto.paths or FOLDS
                plan = grown(plan, radius, particles) if radius else plan
            path, values = summarised(candidate, validate(candidate, plan, folds), plan.checked, judges)
            for listed, item in ((plans, plan), (stages, path), (rows, values)):
                listed.append(item)
        errors = [[stage.log_z_error for stage in path] for path in stages]
        best, stage = choose(rows, errors, judges)
        tops = [_best(values, judges) for values in rows]
        lead = lambda index: _difference(rows, errors, judges, (best, tops[best]), (index, tops[index]))  # noqa: E731
        others = [(index, path[tops[index]]) for index, path in enumerate(stages) if index != best]
        leads = tuple(Lead(other.candidate, other.radius, *lead(index)) for index, other in others)
        candidate = candidates[best]
        bar.set_description(f"{candidate.name}, all rows")
        bar.total += stage
        task = Task(candidate.base, plans[best], _samples(points, shares, slice(None)), _samples(points, None, slice(0)))
        try:
            final, diverged = follow(fit_key, task, stage, place and place / "all", bar, early=False, report=report_of(candidate, None)), ()
        except Diverged as error:
            stage, diverged = 0, (f"the base measure alone is fitted, because {error}",)
            final = follow(fit_key, task, 0, None, bar, early=False)
    fitted = dataclasses.replace(space, base=candidate.base)
    draw_key, choice_key, partition_key = jax.random.split(last_key, 3)
    draws = fitted.sample_base(draw_key, PARTICLES, points.dtype)
    particles = jnp.asarray(np.asarray(draws)[np.asarray(resample(choice_key, -evaluated(final.energy, draws), len(draws)))])
    log_partition = estimate_log_partition(partition_key, final.energy, fitted, particles)
    values, chosen = rows[best][stage], stages[best][stage]
    judge = _first(judges, values)
    mean = row_weights.mean(values, judge), row_weights.standard_error(values, judge)
    notes = (*notes_of(plans[best], stages[best], stage, final), *diverged)
    return Fit(final.energy, fitted, log_partition, float(final.radius[-1]), chosen, len(values), mean, sum(stages, ()), notes, leads)


def _samples(points, shares, index):
    """Return the rows of an index with their log weights."""
    weights = row_weights.subset(shares, index)
    return Samples(jnp.asarray(np.asarray(points)[index]), None if weights is None else jnp.log(jnp.asarray(weights, points.dtype)))


# -- The choice ------------------------------------------------------------------------------------


def _first(shares: Shares, values: np.ndarray) -> Shares:
    """Return the shares of as many first rows as there are values."""
    return row_weights.subset(shares, slice(len(values)))


def split(fold: Int[np.ndarray, " n"], number: int) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " l"]]:
    """Return the indices of the rows of all folds but one, and of the rows of this fold.

    Each has as many rows for one fold as for another, so that one compiled program serves all folds. So a row may be in neither.

    Args:
        fold: the fold of each row, (n,).
        number: the number of the fold.

    >>> train, held = split(np.array([0, 1, 0, 1, 0]), 0)
    >>> train.tolist(), held.tolist()
    ([1, 3], [0, 2])
    """
    inside, outside, sizes = np.flatnonzero(fold == number), np.flatnonzero(fold != number), np.bincount(fold)
    return outside[: len(fold) - sizes.max()], inside[: sizes.min()]


def summarised(
    candidate: Candidate, folds: Sequence[Followed], draws: int, shares: Shares = None
) -> tuple[tuple[Stage, ...], list[np.ndarray]]:
    """Return the stages of a candidate, and for each stage the log densities of the rows of all validated folds.

    The log densities of a stage are -inf where its energy is not finite or its log Z is not known. A stage that some fold did not reach
    is left out.

    Args:
        candidate: the candidate.
        folds: what came of its path on each fold.
        draws: the number of draws of the base measure by which log Z was estimated.
        shares: the weights of the rows of all folds in their order, up to a factor, or None for equal ones. There may be rows of more
            folds.

    Returns:
        The stages, and as many arrays of log densities, in nats.
    """
    reached = min(len(run.radius) for run in folds)
    rows = [np.concatenate([run.log_densities[stage] for run in folds]) for stage in range(reached)]
    stages, judges = [], _first(shares, rows[0])
    for stage, values in enumerate(rows):
        fraction = min(run.fraction[stage] for run in folds)
        gain = values - rows[0]  # the log of the density relative to the base measure
        known = fraction >= SMALLEST_FRACTION and gain.max() <= math.log(LARGEST_SHARE * draws)
        if not (np.isfinite(values).all() and known):
            rows[stage] = values = np.full_like(values, -np.inf)
            gain = values - rows[0]
        radius = float(np.mean([run.radius[stage] for run in folds]))
        error = row_weights.standard_error(gain, judges) if np.isfinite(gain).all() else math.inf
        log_z_error = float(max(run.log_z_error[stage] for run in folds))
        mean, gained = row_weights.mean(values, judges), row_weights.mean(gain, judges)
        stages.append(Stage(candidate.name, stage, radius, mean, gained, error, float(fraction), log_z_error))
    return tuple(stages), rows


def _best(rows: Sequence[np.ndarray], shares: Shares) -> int:
    """Return the stage whose log densities have the largest mean."""
    judges = _first(shares, rows[0])
    return int(np.argmax([row_weights.mean(values, judges) for values in rows]))


def _difference(rows, log_z_errors, shares, new, old):
    """Return the mean log density of a stage less that of another one, row by row, with its error. A stage is (candidate, stage)."""
    (a, b), errors = (rows[i][j] for i, j in (new, old)), [log_z_errors[i][j] for i, j in (new, old)]
    common = min(len(a), len(b))
    difference = a[:common] - b[:common]
    judges = _first(shares, difference)
    return row_weights.mean(difference, judges), math.hypot(row_weights.standard_error(difference, judges), *errors)


def smallest_good_radius(path: Sequence[Stage], rows: Sequence[np.ndarray], shares: Shares = None) -> float:
    """Return the smallest radius above 0 whose mean log density is within one standard error of the largest, or 0 where that is best.

    Differences are taken row by row. This is the one-standard-error rule (Breiman, Friedman, Olshen, Stone 1984, section 3.4.3).

    Args:
        path: the stages of one candidate.
        rows: for each stage the log densities of the same rows, in nats.
        shares: the weights of these rows and of others after them, up to a factor, or None for equal ones.

    >>> path = [Stage("a", stage, 2.0 * stage, 0.0, 0.0, 0.0, 1.0, 0.0) for stage in range(3)]
    >>> smallest_good_radius(path, [np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.5, 0.6])])
    2.0
    """
    best, judges = _best(rows, shares), _first(shares, rows[0])
    lags = [rows[best] - values for values in rows]
    near = lambda lag: row_weights.mean(lag, judges) <= row_weights.standard_error(lag, judges)  # noqa: E731
    good = [bool(np.isfinite(lag).all()) and near(lag) for lag in lags]
    return path[good.index(True, 1)].radius if best else 0.0


def choose(
    rows: Sequence[Sequence[np.ndarray]], log_z_errors: Sequence[Sequence[float]], shares: Shares = None
) -> tuple[int, int]:
    """Return the index of the chosen candidate and its stage.

    Of each candidate the stage of the largest mean is taken. A later candidate replaces an earlier one where its mean is larger by one
    standard error of the mean difference. Differences are taken row by row, over the rows that both have, and their error includes those
    of both log Z, which all rows share.

    Args:
        rows: for each candidate and each stage the log densities of rows in one order, in nats. One candidate may have more rows than
            another.
        log_z_errors: for each candidate and each stage the standard error of log Z, in nats.
        shares: the weights of the rows in this order, up to a factor, or None for equal ones.

    >>> flat, better = np.array([0.0, 0.1]), np.array([1.0, 1.2])
    >>> choose([[flat, flat - 1], [flat - 2, better]], [[0.0, 0.1], [0.0, 0.1]])
    (1, 1)
    >>> choose([[flat, flat - 1], [flat - 2, better]], [[0.0, 0.1], [0.0, 2.0]])
    (0, 0)
    """
    best, chosen = [_best(path, shares) for path in rows], 0
    for index in range(1, len(rows)):
        difference, error = _difference(rows, log_z_errors, shares, (index, best[index]), (chosen, best[chosen]))
        if difference > error:
            chosen = index
    return chosen, best[chosen]


def notes_of(plan: Plan, stages: Sequence[Stage], stage: int, final: Followed) -> tuple[str, ...]:
    """Return sentences about what is at a bound or has not converged, with a remedy.

    Args:
        plan: the plan of the chosen path.
        stages: the stages of the chosen candidate.
        stage: the chosen stage.
        final: the path that was fitted to all rows.
    """
    notes, radius = [], final.radius[-1]
    if not stage:
        return ()
    if stage == plan.stages:
        notes.append(f"the best radius, {radius:.3g}, is the largest of the path; more stages than {plan.stages} may fit better")
    elif stage + 1 < len(stages) and stages[stage + 1].log_density == -math.inf:
        notes.append(
            f"the path ends at the radius {radius:.3g}, because beyond it too few draws of the base measure count for log Z; a base "
            "measure nearer to the rows would allow more"
        )
    slope, error = final.slope[-1]
    if abs(slope) > max(3 * error, LARGEST_SLOPE):
        notes.append(
            f"the energy has not converged at its radius: the slope of the loss along its scale is {slope:.2g} +- {error:.1g} nat, and 0 "
            "at an optimum; more iterations may fit better"
        )
    return tuple(notes)
