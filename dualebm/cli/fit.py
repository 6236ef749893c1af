"""`dualebm fit`: a fit of an energy to the rows of a file."""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Key

from dualebm import auto, bootstrap, candidates, model, model_files, rivals
from dualebm._internal import files, folders
from dualebm._internal.keys import key_of_seed
from dualebm._internal.programs import aside
from dualebm.candidates import Auto
from dualebm.cli import evaluate, output, page, report, rows
from dualebm.cli.commands import PASSING, Fit
from dualebm.cli.methods import AUTOMATIC, Given, build
from dualebm.data import preparation
from dualebm.data.advice import advise
from dualebm.data.preparation import Preparation
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import Samples
from dualebm.methods.dual import annealing_over
from dualebm.methods.validated import Validated, divided
from dualebm.metrics.validation import ValidationCheck, risen, settled
from dualebm.optimality import gap_of_fit
from dualebm.sweeps.folder import SWEEP
from dualebm.training import run_folder
from dualebm.training.descriptions import describe
from dualebm.training.fingerprint import check_settings, provenance
from dualebm.training.run import run as train


def run(settings: Fit, given: Given) -> None:
    """Fit the density, write the folder of the run, the model, the figure and the report, and print what came of it.

    Raises ValueError for a setting or a file that is not allowed, and `Diverged` when the run diverges.
    """
    begin = time.monotonic()
    output.check_folder(settings.out)
    check_out(settings, given)
    before = model_files.read(settings.out).get("seconds") if (settings.out / model_files.MODEL).exists() else None
    notes: list[str] = []
    with jax.enable_x64(settings.precision == 64), _heard(notes):
        split_key, run_key, partition_key = jax.random.split(key_of_seed(settings.seed), 3)
        fit = _choose if given.choice.kind is Auto else _train
        points = _read(split_key, settings, notes, automatic=fit is _choose)
        fitted, about = fit(run_key, partition_key, points, settings, given, notes)
        test_key = jax.random.fold_in(partition_key, 1)
        about |= {
            "held_out": evaluate.likelihood(fitted, points.held_out),
            "rivals": [files.finite(rival) for rival in rivals.compare(fitted, points.data, points.held_out, settings.seed)],
            "test_of_fit": evaluate.fit_test(test_key, fitted, points.held_out),
            "notes": list(dict.fromkeys(notes)),
            "seconds": time.monotonic() - begin if before is None else before,  # a finished fit keeps its time
        }
        with folders.hold(settings.out):
            header = _save(settings, given, points, fitted, about)
            print("\n".join(report.lines(header, fitted)))
            page.write(settings.out, header, fitted, settings.out / page.FIGURE)
    print(f"written to {settings.out}; {settings.out / page.REPORT} explains the numbers")


def check_out(settings: Fit, given: Given) -> None:
    """Check that a fit replaces nothing in its folder but what it has written there itself.

    Args:
        settings: the settings of the command.
        given: the settings of the method.

    Raises:
        ValueError: the folder holds another fit, a sweep, runs of a sweep, or files that the fit would replace.
    """
    out, automatic = settings.out, given.choice.kind is Auto
    if (out / SWEEP).exists():
        raise ValueError(f"out is {str(out)!r}, which holds a sweep ({SWEEP}); give a new or an empty folder")
    begun = (out / run_folder.MANIFEST).exists() and run_folder.read_manifest(out, "run") is not None
    if begun and automatic:
        raise ValueError(f"out is {str(out)!r}, which holds a run ({run_folder.MANIFEST}); give a new or an empty folder")
    if (out / model_files.MODEL).exists():
        header = model_files.read(out)
        stored = {name: value for name, value in header.get("settings", {}).items() if name not in WITHOUT_EFFECT}
        current = {name: value for name, value in flags_of(given).items() if name not in WITHOUT_EFFECT}
        digests = ({"data_sha256": header.get("data", {}).get("sha256")}, {"data_sha256": _sha256(settings.data)})
        check_settings(f"folder {out}", stored | digests[0], json.loads(json.dumps(current)) | digests[1])
        return
    written = (model_files.ENERGY, model_files.REPLICATES, page.ROWS, page.FIGURE, page.REPORT)
    if not (begun or (out / auto.PATHS).exists()) and (found := [name for name in written if (out / name).exists()]):
        raise ValueError(f"out is {str(out)!r}, whose {found[0]} the fit would replace; give a new or an empty folder")


WITHOUT_EFFECT = (*PASSING, "data")
"""Flags that change no number of a fit. Of the file of the rows its content counts."""


def flags_of(given: Given) -> dict[str, Any]:
    """Return the values of all flags by name, as JSON."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.flags.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Rows(NamedTuple):
    """The points of a file.

    Args:
        data: the points to train on, (n, d), with their weights.
        held_out: the points that are not trained on, (k, d), where k may be 0, with their weights.
        preparation: the map of rows of the file to points.
    """

    data: Samples
    held_out: Samples
    preparation: Preparation


def _read(key: Key[Array, ""], settings: Fit, notes: list[str], *, automatic: bool) -> Rows:
    """Read the file and make its points. Raise ValueError for what is not allowed. `automatic` standardises columns of Euclidean space."""
    table = rows.read(settings.data, settings.columns, settings.drop_missing, weights=settings.weights)
    kept, held = split_rows(key, len(table.rows), settings.holdout)
    if automatic:
        for note in advise(table, settings.space, kept):
            _note(notes, note)
    prepared = preparation.prepare(
        table, settings.space, normalise=settings.normalise, latlon=settings.latlon, period=settings.period, rows=kept,
        standardise=settings.space == "euclidean" if automatic else settings.standardise,
    )  # fmt: skip
    points = preparation.to_space(prepared, table, f"float{settings.precision}")
    taken = lambda index: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), points)  # noqa: E731
    return Rows(taken(kept), taken(held), prepared)


Made = tuple[model.Model, dict[str, Any]]
"""A fitted model, and what is particular to how it was made, which goes to `model.json`."""


QUIET = 30.0
"""The seconds after which a fit whose bar nobody sees says how far it has come."""


def now_and_then(words: Callable[[Any], str]) -> Callable[[Any], None] | None:
    """Return a callback that prints how far a fit has come, a line each half minute, or None where a terminal shows a bar.

    Args:
        words: makes a line of what the fit tells its callback.
    """
    if sys.stderr.isatty():
        return None
    begin = last = time.monotonic()

    def say(told: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET:
            last = time.monotonic()
            print(f"{words(told)}, {last - begin:.0f} s", file=sys.stderr, flush=True)

    return say


def _place(record: Mapping[str, Any]) -> str:
    """Return in words where an automatic fit stands.

    >>> _place({"candidate": "stacked scaled_bump", "fold": 0, "radius": 2.5})
    'fitting stacked scaled_bump, fold 1, radius 2.5'
    """
    rows = "all rows" if record["fold"] is None else f"fold {record['fold'] + 1}"
    return f"fitting {record['candidate']}, {rows}, radius {record['radius']:.3g}"


def _choose(
    key: Key[Array, ""], partition_key: Key[Array, ""], points: Rows, settings: Fit, given: Given, notes: list[str]
) -> Made:
    """Fit a density that is chosen by validation."""
    data, held_out, prepared = points
    chosen = Auto(**given.values)
    if not len(held_out.points) and chosen.paths is None:  # every row has then a part in the value that is printed
        chosen = dataclasses.replace(chosen, paths=candidates.FOLDS)
    options: dict[str, Any] = dict(weights=evaluate.shares_of(data), folder=settings.out, progress=sys.stderr.isatty())
    fitted = auto.fit(key, data.points, prepared.space, chosen, callback=now_and_then(_place), **options)
    for note in fitted.notes:
        _note(notes, note)
    gap = aside(gap_of_fit, jax.random.fold_in(partition_key, 0), fitted, data)  # beside the replicates
    step = model.resolving_step(fitted.energy, fitted.space)
    replicates = None
    if settings.replicates:
        weights, replicate_key = evaluate.shares_of(data), jax.random.fold_in(partition_key, 2)
        replicates = bootstrap.replicate(replicate_key, fitted.energy, fitted.space, data.points, weights, settings.replicates)
    result = model.Model(fitted.energy, prepared._replace(space=fitted.space), fitted.log_partition, step, replicates)
    gap = gap.result()
    mean, error = fitted.log_density
    validation = {"rows": fitted.validated, "log_density": model.density_name(prepared.space)}
    return result, {
        "path": [files.finite(stage) for stage in fitted.path], "chosen": files.finite(fitted.chosen), "radius": fitted.radius,
        "leads": [files.finite(lead) for lead in fitted.leads],
        "validation": {**validation, "mean": mean - model.log_unit(prepared), "standard_error": error},
        "automatic": describe(chosen), "duality_gap": {**gap._asdict(), "summary": f"duality gap: {gap.summary()}"},
    }  # fmt: skip


def _train(
    key: Key[Array, ""], partition_key: Key[Array, ""], points: Rows, settings: Fit, given: Given, notes: list[str]
) -> Made:
    """Train an energy by the method that is given."""
    data, held_out, prepared = points
    plain = build(given.choice, prepared.space, given.values)
    default = evaluate.MOST_STEPS if plain.adapts else evaluate.STEPS
    steps = default if settings.steps is None else settings.steps
    if steps % settings.every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {settings.every}")
    draw_key = jax.random.fold_in(partition_key, 3)
    method, data = evaluate.validated(draw_key, plain, data, steps, settings.every, settings.validation, settings.mend)
    watched = method if isinstance(method, Validated) else None
    trained = data if watched is None else divided(data, watched.rows)[0]
    rates = plain.rates_for(trained)
    rates = rates._replace(**{name: value for name, value in given.values.items() if name in rates._fields})
    method.check(rates, data)
    space = method.space
    if not space.compact and not settings.standardise:
        _note(notes, report.note_of_scales(data.points))
    recorded = evaluate.monitors(plain, trained, held_out)
    checked: dict[str, Any] = {"check": ValidationCheck(watched.mends)} if watched is not None else {}
    if watched is None:
        checked = dict(evaluate.checks_of(steps, settings.every, data, held_out))
    said = now_and_then(lambda results: f"iteration {int(results.step[-1])} of {steps}")

    def ended(results: xarray.Dataset) -> bool:
        if said is not None:
            said(results)
        if watched is None:
            return False
        made = results.check.values[results.step.values % watched.every == 0][1:]
        return risen(made) or (plain.adapts and settled(made))

    state, results = train(
        key, method, rates, data, steps=steps, every=settings.every, metrics=recorded | checked,
        schedule=annealing_over(steps, given.flags.get("anneal", 0.0)), folder=settings.out, progress=sys.stderr.isatty(),
        callback=ended,
    )  # fmt: skip
    kept = None if watched is None else evaluate.kept_of(watched, state)
    end = state if watched is None else state.inner if kept is None else state.kept.state
    if watched is not None:
        _note(notes, report.note_of_validation(kept))
    if kept is not None:
        results = results.sel(step=slice(None, kept.iteration))
    energy, by_particles = plain.energy(end, rates, trained), evaluate.log_partition_of(plain, end)
    particles = evaluate.particles_of(key, partition_key, energy, space, plain.samples(end))
    log_partition = estimate_log_partition(partition_key, energy, space, particles)
    fitted = model.Model(energy, prepared, log_partition, evaluate.particle_step_of(rates, space))
    chains = given.flags.get("gap_chains", 0)
    gap = evaluate.gap_of(partition_key, energy, space, rates, trained, ball=method.ball, chains=chains)
    _note(notes, report.note_of_radius(results, rates))
    wrong = report.note_of_particles(by_particles, log_partition)
    _note(notes, wrong)
    if watched is None and checked:
        _note(notes, report.note_of_rise(results.check.values))
    return fitted, {
        "method": describe(method), "rates": describe(rates), "duality_gap": gap,
        "trained_on": evaluate.likelihood(fitted, trained),
        "kept": kept and files.finite(kept),
        "records": f"{int(results.step[-1])} iterations: {report.last_records(results, list(recorded), report.DOUBTFUL if wrong else '')}",
        "log_partition_by_particles": by_particles and files.finite(by_particles),
        "checks": [files.finite(check) for name in checked for check in report.checks(results, name)],
    }  # fmt: skip


def _save(settings: Fit, given: Given, points: Rows, fitted: model.Model, about: dict[str, Any]) -> dict[str, Any]:
    """Write the rows to draw and the model, with the flags and the file that it comes from. Return `model.json`."""
    every = jax.tree.map(lambda *parts: np.concatenate(parts), points.data, points.held_out)
    count = page.save_rows(settings.out, fitted, every)
    source = {
        "settings": flags_of(given),
        "command": report.command(Fit, {name: v for name, v in given.flags.items() if (name, v) != ("method", AUTOMATIC)}),
        "versions": provenance()["versions"],
        "data": {
            "file": str(settings.data), "sha256": _sha256(settings.data), "rows": len(every.points),
            "trained_on": len(points.data.points), "drawn": count, "weighted": every.log_weights is not None,
            "drawn_sha256": files.digest_of(settings.out / page.ROWS), "space": repr(points.preparation.space),
        },
    }  # fmt: skip
    model_files.save(settings.out, fitted, {**source, **about})
    return model_files.read(settings.out)


def _note(notes: list[str], note: str | None) -> None:
    """Print a note on standard error and keep it for the report."""
    if note is not None:
        notes.append(note)
        print(f"note: {note}", file=sys.stderr)


@contextlib.contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """Keep the warnings of this package for the report. `cli.main` prints them."""
    shown = warnings.showwarning

    def show(message, category, *arguments, **options):
        if category is UserWarning:
            notes.append(" ".join(str(message).split()))
        shown(message, category, *arguments, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


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
