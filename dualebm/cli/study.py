"""Runs on the rows of a file: how a seed divides the rows, and the data, method, rates and metrics of each run of a grid.

Each run trains on some rows and has its validation loss on others. What a run depends on is described by the values of flags and by the
SHA-256 of the file, so that a sweep that continues refuses a file whose content has changed.
"""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from dualebm import metrics, model, settings
from dualebm._internal.keys import key_of_seed
from dualebm.cli import evaluate
from dualebm.cli import rows as rows_of_file
from dualebm.cli.commands import Points, Table
from dualebm.cli.fit import split_rows
from dualebm.cli.methods import Choice, Given, build
from dualebm.data import preparation, tables
from dualebm.data.preparation import Preparation
from dualebm.geometry import Space
from dualebm.log_z.quadrature import quadrature_of
from dualebm.measures import Samples, mean
from dualebm.metrics.held_out import Loss, RowError
from dualebm.metrics.walkers import WalkerCrossEntropy
from dualebm.sweeps import folder, selection

VALIDATION, TEST, TEST_ERROR = "validation", "test", "test_error"
"""The names of the records of the loss on validation rows, of the loss on test rows, and of its standard error over these rows."""

DRAWS = 2**14
"""The number of draws of the base measure that estimate log Z in each record, the same draws in all records and runs of a seed."""

KEPT = 8
"""The number of seeds of which the rows, as points, are kept in memory."""


class Parts(NamedTuple):
    """The points of a seed.

    Args:
        train: the points to train on, (n, d).
        validation: the points of the validation loss, (k, d).
        test: the points of the test loss, (l, d), or None.
        preparation: the map of rows to points. It standardises by the rows to train on.
    """

    train: Samples
    validation: Samples
    test: Samples | None
    preparation: Preparation


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a file, and how they are divided.

    Args:
        sha256: the SHA-256 of the file.
        read: the flags of the group `Table` that say how the file is read, by name.
        prepared: the flags of the group `Points` that say how rows become points, by name.
        precision: the precision of the points in bits.
        holdout: the fraction of the rows that are held out.
        split: the seed of the held-out rows, or None where each seed draws its own.
        validation: the fraction of the rows that are not held out that are validation rows. None where the held-out rows are.
        table: the rows. Flags and SHA-256 define them.
    """

    sha256: str
    read: Mapping[str, Any]
    prepared: Mapping[str, Any]
    precision: int
    holdout: float
    split: int | None
    validation: float | None
    table: tables.Table = dataclasses.field(repr=False)

    def divided(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the indices of the rows to train on, of the validation rows and of the test rows, of which there may be none.

        The rows that are held out under a seed are those of `dualebm fit` under this seed.

        Raises:
            ValueError: no row is left for one of them.
        """
        kept, held = split_rows(_split_key(seed if self.split is None else self.split), len(self.table.rows), self.holdout)
        if not len(held):
            raise ValueError(f"holdout is {self.holdout}; the loss needs held-out rows: it must be greater than 0")
        if self.validation is None:
            return kept, held, held[:0]
        share = round(len(kept) * self.validation)
        if not 0 < share < len(kept):
            raise ValueError(
                f"validation is {self.validation} of {len(kept)} rows, which is {share} rows; at least one must validate and one be left"
            )
        train, validation = split_rows(_split_key(seed), len(kept), self.validation)
        return kept[train], kept[validation], held

    def parts(self, seed: int) -> Parts:
        """Return the points of a seed. Raises ValueError where a part is empty or a row is no point of the space."""
        return _parts(self, seed)


@functools.lru_cache(maxsize=KEPT)
def _parts(rows: Rows, seed: int) -> Parts:
    train, validation, test = rows.divided(seed)
    prepared = preparation.prepare(rows.table, **rows.prepared, rows=train)
    samples = preparation.to_space(prepared, rows.table, f"float{rows.precision}")

    def chosen(indices):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[indices]), samples)

    return Parts(chosen(train), chosen(validation), chosen(test) if len(test) else None, prepared)


def _split_key(seed: int) -> Array:
    return jax.random.split(key_of_seed(seed), 3)[0]


def read(flags: Any, *, split: int | None, validation: float | None = None) -> Rows:
    """Read the rows that the flags of a command name.

    Args:
        flags: the settings of the command, with the groups `Table` and `Points`, and a precision.
        split: the seed of the held-out rows, or None where each seed draws its own.
        validation: the fraction of the other rows that are validation rows. None where the held-out rows are.

    Returns:
        The rows.

    Raises:
        ValueError: the file holds no table of finite numbers, or a flag does not suit it.
        OSError: the file cannot be read.
    """
    of_table, of_points = ({f.name: getattr(flags, f.name) for f in dataclasses.fields(kind)} for kind in (Table, Points))
    data, holdout = of_table.pop("data"), of_points.pop("holdout")
    table = rows_of_file.read(data, **of_table)
    digest = hashlib.sha256(Path(data).read_bytes()).hexdigest()
    given = Rows(digest, of_table, of_points, flags.precision, holdout, split, validation, table)
    given.parts(0)
    return given


def check_folder(out: Path, data: Path, rows: Rows) -> None:
    """Check that the sweep in a folder, where there is one, is of a file of this content.

    Args:
        out: the folder of the sweep.
        data: the file, for the message.
        rows: the rows of the file.

    Raises:
        ValueError: the content is another, or the sweep has no file.
    """
    for path in folder.folders_of(out):
        if not (path / folder.SWEEP).exists():
            continue
        stored = folder.read(path)["settings"]["data"]
        digest = stored.get("rows", {}).get("sha256") if isinstance(stored, dict) else None
        if digest is None:
            raise ValueError(f"out is {str(out)!r}, which holds a sweep on no file; give a new folder, or leave out {str(data)!r}")
        if digest != rows.sha256:
            raise ValueError(
                f"data is {str(data)!r}, whose content is not that of the sweep in {out} (SHA-256 {rows.sha256[:12]} in place of "
                f"{digest[:12]}); give the file of that content, or a new folder"
            )


# -- The runs ----------------------------------------------------------------------------------------


class Sources(NamedTuple):
    """What a sweep takes: functions of the settings of a run.

    Args:
        method: the method.
        rates: the rates. None for those of the method.
        data: the points to train on.
        metrics: the metrics by name.
    """

    method: Callable[..., Any]
    rates: Callable[..., Any] | None
    data: Callable[..., Samples]
    metrics: Callable[..., dict[str, Any]]


def sources(given: Given, rows: Rows, names: Sequence[str]) -> Sources:
    """Return the method, the rates, the data and the metrics of the runs of a grid.

    The rates are those that the method suits to the points to train on, as in `dualebm fit`. The metrics are those of `metrics_of`.

    Args:
        given: the settings of the method.
        rows: the rows.
        names: the names of the settings of the grid.

    Returns:
        The functions.
    """
    kinds = [given.choice.kind, *(kind for kind in given.choice.objects.values() if kind is not None)]
    of_method = tuple(name for kind in kinds for name in settings.fields(kind) if name in names)
    method = _Method(given.choice, rows.parts(0).preparation.space, of_method)
    return Sources(method, _Rates(method, rows), _Data(rows), _Metrics(method, rows))


# The functions are dataclasses, so that a folder holds their fields in words. A field with repr=False is not compared.


def _signature(*names: str) -> inspect.Signature:
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


@dataclasses.dataclass(frozen=True, eq=False)
class _Method:
    choice: Choice
    space: Space
    names: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def __signature__(self):
        return _signature(*self.names)

    def __call__(self, **changes):
        return build(self.choice, self.space, changes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Data:
    rows: Rows

    def __call__(self, seed):
        return self.rows.parts(seed).train


@dataclasses.dataclass(frozen=True, eq=False)
class _Rates:
    method: _Method = dataclasses.field(repr=False)
    rows: Rows = dataclasses.field(repr=False)

    @property
    def __signature__(self):
        return _signature("seed", *self.method.names)

    def __call__(self, seed, **changes):
        return _suited(self.rows, self.method(**changes), seed)


@functools.lru_cache(maxsize=4096)
def _suited(rows: Rows, method: Any, seed: int) -> Any:
    """Return the rates of a method for the points of a seed. Runs with other rates share them."""
    return method.rates_for(rows.parts(seed).train)


@dataclasses.dataclass(frozen=True, eq=False)
class _Metrics:
    method: _Method = dataclasses.field(repr=False)
    rows: Rows = dataclasses.field(repr=False)
    draws: int = DRAWS

    @property
    def __signature__(self):
        return _signature("seed", *self.method.names)

    def __call__(self, seed, **changes):
        return metrics_of(self.method(**changes), self.rows.parts(seed), key_of_seed(seed), self.draws)


def least(results: Any, names: Sequence[str]) -> str:
    """Return a sentence about the least validation loss of a sweep.

    Args:
        results: the results of the sweep.
        names: the names of the settings other than the seed.

    Returns:
        The sentence. A run counts at its early stop, and values of the settings by their mean over the seeds.
    """
    try:
        (chosen,) = selection.choose(results, [], names, VALIDATION)
    except ValueError:
        return "no values of the settings have a finite validation loss for all seeds: runs diverged, or log Z is not known"
    losses = selection.stopped_early(results, VALIDATION)[VALIDATION].values
    counted = [all(results[name].values[run] == value for name, value in chosen.items()) for run in range(len(losses))]
    about = " and ".join(f"{name} {value}" for name, value in chosen.items())
    return f"least validation loss, each run at its early stop: {losses[counted].mean():.5g} nat{' with ' * bool(about)}{about}"


# -- The records -------------------------------------------------------------------------------------


def metrics_of(method: Any, parts: Parts, key: Key[Array, ""], draws: int = DRAWS) -> dict[str, Any]:
    """Return the metrics of a run on rows.

    They are the loss `validation`, and where there are test rows the loss `test` and its standard error over rows `test_error`. The
    log Z of a loss is by quadrature on the circle and S^2, by the particles where the method follows log Z, and elsewhere by draws of the
    base measure. The other metrics are those of `evaluate.monitors` besides the cross-entropies, which differ from losses by a constant.

    Args:
        method: the method.
        parts: the points.
        key: the key of the draws.
        draws: the number of draws.

    Returns:
        The metrics by name.
    """
    space, dtype = method.space, parts.train.points.dtype
    follows, _ = evaluate.abilities(method, parts.train)
    quadrature = quadrature_of(space, dtype)
    recorded: dict[str, Any] = {}
    for name, points in ((VALIDATION, parts.validation), (TEST, parts.test)):
        if points is None:
            continue
        if quadrature is not None:
            cross_entropy = metrics.CrossEntropy(points, space, quadrature)
        elif follows:
            cross_entropy = WalkerCrossEntropy(points)
        else:
            cross_entropy = metrics.CrossEntropy(points, space, draws=draws, key=key)
        log_base = space.log_base(points.points) - jnp.asarray(model.log_unit(parts.preparation), dtype)
        recorded[name] = Loss(cross_entropy, mean(log_base, points.log_weights))
        if points is parts.test:
            recorded[TEST_ERROR] = RowError(points, log_base)
    return recorded | evaluate.signs(method, parts.train, parts.validation)
