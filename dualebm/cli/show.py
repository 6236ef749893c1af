"""`dualebm show` and `dualebm runs`: the table and the figure of a sweep or a run, and the state of each run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro
import xarray

from dualebm._internal import checks
from dualebm.plotting import charts
from dualebm.sweeps.folder import SWEEP, manifest, open_sweep
from dualebm.training import presence, run_folder

FIGURE = "figure.png"
"""The name of the figure that `show` writes into the folder."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Shows the table and the figure of a sweep or a run, finished or still running.

    For example: dualebm show results/alpha --metric kl
    """

    folder: tyro.conf.Positional[Path]
    """The folder of a sweep, of a run, or of dualebm fit."""
    metric: str | None = None
    """The metric to show; None for kl, or the first metric where kl was not recorded."""
    out: Path | None = None
    """The figure to write; None for figure.png in the folder."""


def show(settings: Show) -> None:
    """Print the table and write the figure. Raises ValueError for a metric that was not recorded."""
    if (settings.folder / SWEEP).exists() or list(settings.folder.glob(f"process-*/{SWEEP}")):
        results = open_sweep(settings.folder)
    else:
        results = run_folder.open_results(settings.folder)
    recorded = [str(name) for name, v in results.data_vars.items() if v.dims == ("run", "step") and name != "diverged"]
    name = settings.metric or ("kl" if "kl" in recorded else recorded[0])
    checks.choice("metric", name, recorded)
    path = settings.out or settings.folder / FIGURE
    figure = charts.sweep(results, name)
    figure.savefig(path)
    print_table(results, name)
    print(f"drawn in {path}")


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


@dataclasses.dataclass(frozen=True)
class Runs:
    """Lists the runs of a sweep: which are done, running, waiting, diverged or failed, at which step, and why.

    For example: dualebm runs results/alpha
    """

    folder: tyro.conf.Positional[Path]
    """The folder of the sweep."""
    json: bool = False
    """Print a line of JSON for each run in place of the table."""


def runs(settings: Runs) -> None:
    """Print the manifest of a sweep and the status of its processes."""
    members = manifest(settings.folder)
    for run in members:
        if settings.json:
            print(json.dumps(run))
        else:
            about = ", ".join(f"{name} {value}" for name, value in run["settings"].items())
            print(f"{run['state']:9} {run['step']:>7}  {about}" + (f"  ({run['why']})" if run["why"] else ""))
    statuses = presence.processes(settings.folder)
    for status in statuses:
        if settings.json:
            print(json.dumps(status))
        elif status["state"] != "lost":
            why = f" ({status['why']})" if status["why"] else ""
            print(f"process {status['process']} of {status['of']}: {status['state']}{why}")
    if not settings.json:
        if lost := presence.describe_lost(statuses):
            print(f"{lost}; the same command on all processes continues the sweep")
        states = [run["state"] for run in members]
        print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
