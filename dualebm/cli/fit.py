"""`dualebm fit`: a fit of an energy to the rows of a file."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from dualebm import auto, candidates, model
from dualebm._internal import files
from dualebm.candidates import Auto
from dualebm.cli import evaluate, output, report, rows
from dualebm.cli.commands import Fit
from dualebm.cli.methods import Given, build
from dualebm.data import preparation
from dualebm.data.advice import advise
from dualebm.data.preparation import Preparation
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import Samples
from dualebm.methods.dual import annealing_over
from dualebm.training.fingerprint import describe
from dualebm.training.run import run as train


def run(settings: Fit, given: Given) -> None:
    """Fit the density, write the folder of the run and the model, and print log Z and the mean log densities.

    Raises ValueError for a setting or a file that is not allowed, and `Diverged` when the run diverges.
    """
    output.check_folder(settings.out)
    with jax.enable_x64(settings.precision == 64):
        split_key, run_key, partition_key = jax.random.split(jax.random.key(settings.seed), 3)
        fit = _choose if given.choice.kind is Auto else _train
        fit(run_key, partition_key, _read(split_key, settings, automatic=fit is _choose), settings, given)


class Rows(NamedTuple):
    """The points of a file.

    Attributes:
        data: the points to train on, (n, d), with their weights.
        held_out: the points that are not trained on, (k, d), where k may be 0, with their weights.
        preparation: the map of rows of the file to points.
    """

    data: Samples
    held_out: Samples
    preparation: Preparation


def _read(key: Key[Array, ""], settings: Fit, *, automatic: bool) -> Rows:
    """Read the file and make its points. Raise ValueError for what is not allowed. `automatic` standardises columns of Euclidean space."""
    table = rows.read(settings.data, settings.columns, settings.drop_missing, weights=settings.weights)
    kept, held = split_rows(key, len(table.rows), settings.holdout)
    if automatic:
        for note in advise(table, settings.space, kept):
            _note(f"note: {note}")
    prepared = preparation.prepare(
        table, settings.space, normalise=settings.normalise, latlon=settings.latlon, period=settings.period, rows=kept,
        standardise=settings.space == "euclidean" if automatic else settings.standardise,
    )  # fmt: skip
    points = preparation.to_space(prepared, table, f"float{settings.precision}")
    taken = lambda index: jax.tree.map(lambda leaf: leaf[index], points)  # noqa: E731
    return Rows(taken(kept), taken(held), prepared)


def _choose(key: Key[Array, ""], partition_key: Key[Array, ""], points: Rows, settings: Fit, given: Given) -> None:
    """Fit a density that is chosen by validation."""
    del partition_key
    data, held_out, prepared = points
    chosen = Auto(**given.values)
    if not len(held_out.points) and chosen.paths is None:  # every row has then a part in the value that is printed
        chosen = dataclasses.replace(chosen, paths=candidates.FOLDS)
    options: dict[str, Any] = dict(weights=evaluate.shares_of(data), folder=settings.out, progress=sys.stderr.isatty())
    fitted = auto.fit(key, data.points, prepared.space, chosen, **options)
    step = model.resolving_step(fitted.energy, fitted.space)
    result = model.Model(fitted.energy, prepared._replace(space=fitted.space), fitted.log_partition, step)
    likelihoods = {"held_out": evaluate.likelihood(result, held_out)}
    about = {"path": [files.finite(stage) for stage in fitted.path], "chosen": files.finite(fitted.chosen), "automatic": describe(chosen)}
    _save(settings, given, points, result, {**about, **likelihoods})
    _print_rows(settings, points)
    print("\n".join(report.choice(fitted, prepared, len(data.points))))
    print("\n".join(report.evaluation(result.log_partition, likelihoods, None)))
    print(f"written to {settings.out}")
    for note in fitted.notes:
        _note(f"note: {note}")


def _train(key: Key[Array, ""], partition_key: Key[Array, ""], points: Rows, settings: Fit, given: Given) -> None:
    """Train an energy by the method that is given."""
    if settings.steps % settings.every:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of every, which is {settings.every}")
    data, held_out, prepared = points
    method = build(given.choice, prepared.space, given.values)
    rates = method.rates_for(data)
    rates = rates._replace(**{name: value for name, value in given.values.items() if name in rates._fields})
    method.check(rates, data)
    space = method.space
    if not space.compact and not settings.standardise:
        _note(report.note_of_scales(data.points))
    recorded = evaluate.monitors(method, rates, data, held_out)
    state, results = train(
        key, method, rates, data, steps=settings.steps, every=settings.every, metrics=recorded,
        schedule=annealing_over(settings.steps, given.flags.get("anneal", 0.0)), folder=settings.out, progress=sys.stderr.isatty(),
    )  # fmt: skip
    energy = method.energy(state, rates, data)
    particles = evaluate.particles_of(key, partition_key, energy, space, method.samples(state))
    log_partition = estimate_log_partition(partition_key, energy, space, particles)
    fitted = model.Model(energy, prepared, log_partition, evaluate.particle_step_of(rates, space))
    likelihoods = {
        "trained_on": evaluate.likelihood(fitted, data),
        "held_out": evaluate.likelihood(fitted, held_out),
    }
    chains = given.flags.get("gap_chains", 0)
    gap = evaluate.gap_of(partition_key, energy, space, rates, data, ball=method.ball, chains=chains)
    about = {"method": describe(method), "rates": describe(rates), "duality_gap": gap, **likelihoods}
    _save(settings, given, points, fitted, about)
    _print_rows(settings, points)
    print(f"{settings.steps} iterations: {report.last_records(results, list(recorded))}")
    print("\n".join(report.evaluation(log_partition, likelihoods, gap)))
    print(f"written to {settings.out}")
    _note(report.note_of_radius(results, rates))


def _save(settings: Fit, given: Given, points: Rows, fitted: model.Model, about: dict[str, Any]) -> None:
    """Write the model, with the flags and the file that it comes from."""
    count, digest = len(points.data.points) + len(points.held_out.points), hashlib.sha256(settings.data.read_bytes()).hexdigest()
    source = {
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in given.flags.items()},
        "data": {"file": str(settings.data), "sha256": digest, "rows": count},
    }
    model.save(settings.out, fitted, {**source, **about})


def _print_rows(settings: Fit, points: Rows) -> None:
    print(f"{len(points.data.points)} rows of {settings.data} on {points.preparation.space}, {len(points.held_out.points)} held out")


def _note(note: str | None) -> None:
    if note is not None:
        print(note, file=sys.stderr)


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
