"""`dualebm fit`: a fit of an energy to the rows of a file."""

import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from dualebm import model
from dualebm.cli import evaluate, output, report, rows
from dualebm.cli.commands import Fit
from dualebm.cli.methods import Given, build
from dualebm.data import preparation
from dualebm.data.preparation import Preparation
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import Samples
from dualebm.methods.base import Method
from dualebm.methods.dual import annealing_over
from dualebm.training.fingerprint import describe
from dualebm.training.run import run as train


def run(settings: Fit, given: Given) -> None:
    """Fit the energy, write the folder of the run and the model, and print log Z and the mean log densities.

    Raises ValueError for a setting or a file that is not allowed, and `Diverged` when the run diverges.
    """
    with jax.enable_x64(settings.precision == 64):
        _fit(settings, given)


class Task(NamedTuple):
    """What a fit trains, and the points.

    Attributes:
        method: the training method.
        rates: the rates of the method, a NamedTuple of scalars.
        data: the points to train on, (n, d).
        held_out: the points that are not trained on, (k, d), where k may be 0.
        preparation: the map of rows of the file to points.
    """

    method: Method
    rates: Any
    data: Samples
    held_out: Samples
    preparation: Preparation


def _fit(settings: Fit, given: Given) -> None:
    split_key, run_key, partition_key = jax.random.split(jax.random.key(settings.seed), 3)
    task = _task(split_key, settings, given)
    method, rates, data, space = task.method, task.rates, task.data, task.method.space
    if not space.compact and not settings.standardise:
        _note(report.note_of_scales(data.points))
    recorded = evaluate.monitors(method, rates, data, task.held_out)
    state, results = train(
        run_key, method, rates, data, steps=settings.steps, every=settings.every, metrics=recorded,
        schedule=annealing_over(settings.steps, given.flags.get("anneal", 0.0)), folder=settings.out, progress=sys.stderr.isatty(),
    )  # fmt: skip
    energy = method.energy(state, rates, data)
    particles = evaluate.particles_of(run_key, partition_key, energy, space, method.samples(state))
    log_partition = estimate_log_partition(partition_key, energy, space, particles)
    fitted = model.Model(energy, task.preparation, log_partition, evaluate.particle_step_of(rates, space))
    likelihoods = {
        "trained_on": evaluate.likelihood(fitted, data.points),
        "held_out": evaluate.likelihood(fitted, task.held_out.points),
    }
    chains = given.flags.get("gap_chains", 0)
    gap = evaluate.gap_of(partition_key, energy, space, rates, data, ball=method.ball, chains=chains)
    count, digest = len(data.points) + len(task.held_out.points), hashlib.sha256(settings.data.read_bytes()).hexdigest()
    about = {
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in given.flags.items()},
        "data": {"file": str(settings.data), "sha256": digest, "rows": count},
        "method": describe(method),
        "rates": describe(rates),
        "duality_gap": gap,
        **likelihoods,
    }
    model.save(settings.out, fitted, about)
    print(f"{len(data.points)} rows of {settings.data} on {space}, {len(task.held_out.points)} held out; {settings.steps} iterations")
    print(report.last_records(results, list(recorded)))
    print("\n".join(report.evaluation(log_partition, likelihoods, gap)))
    print(f"written to {settings.out}")
    _note(report.note_of_radius(results, rates))


def _note(note: str | None) -> None:
    if note is not None:
        print(note, file=sys.stderr)


def _task(key: Key[Array, ""], settings: Fit, given: Given) -> Task:
    """Read the file, and make the method, its rates and the points. Raise ValueError for what is not allowed."""
    if settings.steps % settings.every:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of every, which is {settings.every}")
    output.check_folder(settings.out)
    table = rows.read(settings.data, settings.columns, settings.drop_missing)
    kept, held = split_rows(key, len(table.rows), settings.holdout)
    prepared = preparation.prepare(
        table, settings.space, normalise=settings.normalise, standardise=settings.standardise, latlon=settings.latlon,
        period=settings.period, rows=kept,
    )  # fmt: skip
    method = build(given.choice, prepared.space, given.values)
    points = preparation.to_space(prepared, table, f"float{settings.precision}").points
    data = Samples(points[kept])
    rates = method.rates_for(data)
    rates = rates._replace(**{name: value for name, value in given.values.items() if name in rates._fields})
    method.check(rates, data)
    return Task(method, rates, data, Samples(points[held]), prepared)


def split_rows(key: Key[Array, ""], count: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows to train on and of the rows that are held out, both in increasing order.

    Args:
        key: The key of the draw of held-out rows.
        count: The number of rows.
        holdout: The fraction of the rows to hold out, from 0 to 1.

    Returns:
        Two arrays of indices.

    Raises:
        ValueError: When no row is left to train on, or none is held out although `holdout` is not 0.

    >>> [len(part) for part in split_rows(jax.random.key(0), 10, 0.2)]
    [8, 2]
    """
    held = round(count * holdout)
    if held == count or (holdout and not held):
        raise ValueError(f"holdout is {holdout} of {count} rows, which is {held} rows; at least one row must be held out and one be left")
    order = np.asarray(jax.random.permutation(key, count))
    return np.sort(order[held:]), np.sort(order[:held])
