"""`dualebm show`: the table and the figure of a sweep or a run, or the report of a fit."""

import sys
from collections.abc import Iterable

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import model_files
from dualebm._internal import checks, files
from dualebm.cli import output, page, report
from dualebm.cli.commands import Show
from dualebm.plotting import charts
from dualebm.sweeps.folder import SWEEP, open_sweep
from dualebm.sweeps.selection import sweeps_of
from dualebm.training import run_folder

PREFERRED = ("kl", "validation")
"""The metrics that are shown first where they were recorded."""


def run(settings: Show) -> None:
    """Print the table and write the figure. Raises ValueError for a metric that was not recorded."""
    if (settings.folder / model_files.MODEL).exists() and (settings.metric is None or "path" in model_files.read(settings.folder)):
        _show_model(settings)
        return
    folder = sweeps_of(settings.folder)[0]
    if (folder / SWEEP).exists() or list(folder.glob(f"process-*/{SWEEP}")):
        results = open_sweep(folder)
    else:
        results = run_folder.open_results(settings.folder)
    recorded = [str(name) for name, v in results.data_vars.items() if v.dims == ("run", "step") and name != "diverged"]
    name = metric_of(recorded) if settings.metric is None else settings.metric
    checks.choice("metric", name, recorded)
    path = settings.out or settings.folder / page.FIGURE
    output.check(path, [f".{suffix}" for suffix in Figure().canvas.get_supported_filetypes()])
    print_table(results, name)
    files.commit_figure(path, charts.sweep(results, name))
    print(f"drawn in {path}")


def metric_of(recorded: Iterable[str]) -> str:
    """Return the metric that is shown where none is given: the first of `PREFERRED` that was recorded, or else the first by name.

    Args:
        recorded: the names of the metrics that are numbers.

    Raises:
        ValueError: there is none.

    >>> metric_of(["score", "kl"]), metric_of(["score", "effective"])
    ('kl', 'effective')
    """
    names = sorted(recorded)
    if not names:
        raise ValueError("folder holds no metric that is one number a record, and so nothing to show; `open_results` reads the others")
    return next((name for name in PREFERRED if name in names), names[0])


def _show_model(settings: Show) -> None:
    """Print what `dualebm fit` has printed, with the radii, and write the figure and the report again, all from the folder."""
    if settings.metric is not None:
        raise ValueError(f"metric is {settings.metric!r}; a fit that was chosen by validation has radii and no metrics")
    header, out = model_files.read(settings.folder), settings.out or settings.folder / page.FIGURE
    output.check(out, [f".{suffix}" for suffix in Figure().canvas.get_supported_filetypes()])
    if "test_of_fit" not in header:
        raise ValueError(f"folder is {str(settings.folder)!r}, whose model was not written by this version of dualebm fit; fit it again")
    with jax.enable_x64(header["precision"] == 64):
        fitted = model_files.load(settings.folder)
        try:
            lines, notes = [*report.lines(header, fitted), *report.radii(header, fitted)], [f"note: {note}" for note in header["notes"]]
            page.write(settings.folder, header, fitted, out)
        except (AttributeError, LookupError, TypeError) as error:
            path = settings.folder / model_files.MODEL
            raise ValueError(f"{path} is corrupt in what it states of the fit ({type(error).__name__}: {error}); fit it again") from error
    print("\n".join(lines))
    if not (settings.folder / page.ROWS).exists():
        notes.append(f"note: {settings.folder / page.ROWS} is missing, and so the figure has no rows")
    for note in notes:
        print(note, file=sys.stderr)
    print(f"drawn in {out}; {settings.folder / page.REPORT} explains the numbers")


def print_table(results: xarray.Dataset, name: str = "kl") -> None:
    """Print a table with a line for each combination of the settings other than the seed.

    A line has the mean, least and largest last record of the metric `name` over the seeds, the step, and the number of
    runs and of diverged runs.
    """
    names = charts.varied(results)
    values = results[name].values
    groups: dict[tuple, list[int]] = {}
    for run in range(results.sizes["run"]):
        groups.setdefault(tuple(results[n].values[run].item() for n in names), []).append(run)
    widths = [max(len(n), 9) for n in names]
    heads = [f"{n:>{w}}" for n, w in zip(names, widths, strict=True)]
    print("  ".join([*heads, *(f"{head:>11}" for head in (name, "least", "largest")), "   step", "runs"]))
    for key, runs in groups.items():
        rows = values[runs]
        written = np.isfinite(rows)
        last = [row[w][-1] for row, w in zip(rows, written, strict=True) if w.any()]
        step = int(results.step.values[np.flatnonzero(written.any(axis=0))[-1]]) if last else 0
        lost = int((results["diverged"].values[runs] > 0).any(axis=1).sum())
        cells = [f"{value:>{w}}" if isinstance(value, str) else f"{value:>{w}.5g}" for value, w in zip(key, widths, strict=True)]
        figures = [f"{f(last):>11.5g}" if last else f"{'':>11}" for f in (np.mean, np.min, np.max)]
        print("  ".join([*cells, *figures, f"{step:>7}", f"{len(last):>4}" + (f", {lost} diverged" if lost else "")]))
