"""`dualebm score`: the log density of a fitted model at new rows."""

import sys
from collections.abc import Mapping

import jax
import numpy as np

from dualebm import model, model_files, quality, row_weights
from dualebm._internal.keys import key_of_seed
from dualebm.cli import evaluate, output, report, rows
from dualebm.cli.commands import Score
from dualebm.data import preparation, tables

LOW_ACCEPTANCE = 0.3
"""The acceptance below which a note says that the samples of --quality may not be samples of the model."""


def run(settings: Score) -> None:
    """Write the log densities, and print log Z and the mean log densities with their errors.

    With --quality it also prints how near samples of the model are to the rows. Raises ValueError for a setting or a
    row that is not allowed.
    """
    output.check(settings.out)
    if settings.out is not None and settings.out.exists() and settings.rows.exists() and settings.out.samefile(settings.rows):
        raise ValueError(f"out is {str(settings.out)!r}, which is the file of the rows; give another file")
    if settings.quality and settings.weights is not None:
        raise ValueError(f"quality is {settings.quality} and weights is {settings.weights!r}; these comparisons take rows of equal weights")
    with jax.enable_x64(model_files.read(settings.model)["precision"] == 64):
        fitted = model_files.load(settings.model)
        table = rows.read(settings.rows, settings.columns, settings.drop_missing, fitted.preparation.columns, settings.weights)
        data = preparation.to_space(fitted.preparation, table, model.precision(fitted))
        points = data.points
        densities, shares = model.log_densities_at(fitted, points), evaluate.shares_of(data)
        _check_finite(table, densities)
        errors = model.errors_at(fitted, points, shares)
        measured = None
        if settings.quality:
            measured = quality.quality(key_of_seed(settings.seed), fitted, points, settings.quality, name=str(settings.rows))
        if errors is not None:
            _check_finite(table, {"log_density_error": errors.rows})
    columns = densities if errors is None else {**densities, "log_density_error": errors.rows}
    output.write(settings.out, list(columns), [np.stack(list(columns.values()), axis=1)], len(points))
    summary = output.summary(settings.out)
    print(fitted.log_partition.summary(), file=summary)
    means = {"rows": len(points)} | ({} if shares is None else {"effective_rows": row_weights.effective_count(len(points), shares)})
    for name in [name for name in report.LOG_DENSITIES if name in densities]:
        mean = report.with_error(*model.mean_with_error(densities[name], fitted.log_partition.standard_error, shares))
        print(f"mean {report.LOG_DENSITIES[name]} of {report.counted(means)} = {mean} nat", file=summary)
    if errors is not None:
        print(report.errors({"mean": errors.mean, "rows": float(np.median(errors.rows))}), file=summary)
    if measured is not None:
        print("\n".join(quality.summary(measured)), file=summary)
        if measured.get("acceptance", 1.0) < LOW_ACCEPTANCE:
            print("note: fewer than 30% of the samples' moves were accepted; they may not be samples of the model", file=sys.stderr)
    if settings.out is not None:
        print(f"written to {settings.out}")


def _check_finite(table: tables.Table, columns: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, which names the row, where a number of a row is not finite."""
    for name, values in columns.items():
        finite = np.isfinite(values)
        if not finite.all():
            row = int(np.argmin(finite))
            more = f", and so are those of {np.sum(~finite) - 1} other rows" if np.sum(~finite) > 1 else ""
            place = tables.where(table, row)
            raise ValueError(f"{place}: {name} is {values[row]}{more}; the model has no number there, so leave such rows out")
