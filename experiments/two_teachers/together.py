"""Puts runs of several commands into one report: a row of the table for each command, a row of panels for each teacher and number of data.

    R=results/two_teachers
    python -m experiments.two_teachers.together $R/s14_monomodal_default_n=10000 $R/s14_bimodal_default_n=100000

Each folder is one that `python -m experiments.two_teachers` has written. The curves of a row of panels are runs with
other restarts, methods or signs. The report is written into `--out`. It comes from where the runs come from, so all are of one revision.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import tyro
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from experiments import _common, reference, report
from experiments.two_teachers.reading import AUTHORS, METHODS, authors_curve, references
from experiments.two_teachers.runs import Settings

ABOUT = "Section 5 of arXiv 2107.05134: planted energies, learnt from their samples. Each row is a command of `experiments.two_teachers`."
CAPTION = (
    "KL(teacher || student), score error and total variation against the iteration, a row for each teacher and n. Solid lines are means "
    "over our seeds, bands their least and largest. Dashed lines are the authors' archived runs with the same n; a star is the last value "
    "of a run with another n."
)
PAPER = "the authors archived runs on three teachers; the rows have their KL at their last iteration."


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is put together, and where."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `python -m experiments.two_teachers`."""
    out: Path = Path("results/two_teachers_together")
    """The folder of the report."""


class Runs(NamedTuple):
    """The runs of a folder: their settings, n, signs, records, and what their own report says."""

    settings: Settings
    n: int
    signs: str
    results: xarray.Dataset
    report: dict[str, Any]


def runs_of(folder: Path) -> Runs:
    """Returns the runs of a folder.

    Raises:
        ValueError: The folder is none of the study, or its runs have not ended.
    """
    named = re.match(r"(s\d+_[a-z]+)_([a-z]+)_n=(\d+)", folder.name)
    if named is None or not all((folder / name).is_file() for name in ("results.nc", report.REPORT)):
        raise ValueError(f"folders has {folder}, which is no folder of `python -m experiments.two_teachers` with its results and report")
    teacher, method, n = named.groups()
    period = re.search(r"restart_every=(\d+)", folder.name)
    signs = re.search(r"signs='(\w+)'", json.loads((folder / "summary.json").read_text())["method"])
    settings = Settings(teacher=teacher, method=method, n=int(n), restart_every=int(period[1]) if period else None)
    content = json.loads((folder / report.REPORT).read_text())
    return Runs(settings, int(n), signs[1] if signs else "", xarray.load_dataset(folder / "results.nc"), content)


def restarts_of(settings: Settings) -> str:
    """Returns the restart probability of settings as text.

    >>> restarts_of(Settings(restart_every=40)), restarts_of(Settings(restart_every=1)), restarts_of(Settings())
    ('1/40', '1', '0')
    """
    return {None: "0", 1: "1"}.get(settings.restart_every, f"1/{settings.restart_every}")


def row_of(runs: Runs) -> dict[str, Any]:
    """Returns the row of runs: their settings, their KL at the end over the seeds, and what the authors archived.

    The counts of agreement are of archived iterations at which the authors' bands, widened, hold our means (see `reference.compare`).
    """
    end, seeds = runs.results.isel(step=-1), runs.report["provenance"]["seeds"]
    authors = authors_curve(runs.settings)
    compared = reference.compare(runs.results, authors) if authors and runs.settings.method == "program" else {}
    counts = {
        f"{name}_agrees": f"{compared[key]['agree']} of {compared[key]['of']}" if key in compared else ""
        for name, key in (("kl", "KL"), ("score", "SM"), ("total_variation", "TV"))
    }
    return {
        "teacher": runs.settings.teacher.replace("_", " ").replace("s", "S^", 1),
        "n": runs.n,
        "signs": _common.SIGNS[runs.signs].removeprefix("signs "),
        "p_R": restarts_of(runs.settings),
        "seeds": f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(seeds[0]),
        "iteration": int(end.step),
        **_common.spread(end.kl, "kl", "kl_least", "kl_largest"),
        "score": float(end.score.mean()),
        "authors_kl": float(authors["KL"]["mean"][-1]) if authors else None,
        "authors_n": AUTHORS[runs.settings.teacher][1] if authors else None,
        "authors_iteration": int(authors["iterations"][-1]) if authors else None,
        **counts,
        "seconds": runs.report["seconds"],
        "settings": runs.report["command"].removeprefix("python -m experiments.two_teachers "),
    }


def origin_of(every: list[Runs]) -> dict[str, Any]:
    """Returns where runs come from, which is one revision, with the date of the latest and the seeds of all.

    Raises:
        ValueError: The runs are of several revisions.
    """
    origins = sorted((runs.report["provenance"] for runs in every), key=lambda one: one["date"])
    revisions = {str(one["git_revision"]) for one in origins}
    if len(revisions) > 1:
        raise ValueError(f"folders has runs of the revisions {', '.join(sorted(revisions))}; run all commands at one of them")
    return origins[-1] | dict(seeds=sorted({seed for one in origins for seed in one["seeds"]}))


def label_of(runs: Runs) -> str:
    """Returns the label of runs: their method, restarts and signs.

    >>> label_of(Runs(Settings(method="program", restart_every=40), 100, "all_negative", xarray.Dataset(), {}))
    "the authors' program, $p_R$ = 1/40, all signs −1"
    """
    restarts = [] if runs.settings.restart_every is None else [f"$p_R$ = {restarts_of(runs.settings)}"]
    return ", ".join([METHODS[runs.settings.method], *restarts, _common.SIGNS[runs.signs]])


def draw(every: list[Runs]) -> Figure:
    """Draws a row for each teacher and n, with a legend of its own."""
    rows: dict[tuple[str, int], list[Runs]] = {}
    for runs in every:
        rows.setdefault((runs.settings.teacher, runs.n), []).append(runs)
    names = list(charts.QUANTITIES)
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 0.3 + 2.5 * len(rows)), layout="constrained")
        parts: Any = figure.subfigures(len(rows), 1, squeeze=False)
        for part, ((teacher, n), known) in zip(parts.flat, rows.items(), strict=True):
            panels = part.subplots(1, len(names))
            settings, published = {label_of(runs): runs.results for runs in known}, {}
            for runs in known:
                period = "" if len(known) == 1 or runs.settings.restart_every is None else f", $p_R$ = {restarts_of(runs.settings)}"
                published |= {f"{label}{period}": curve for label, curve in references(runs.settings, n).items()}
            for panel, name in zip(panels, names, strict=True):
                charts.draw_curves(panel, name, settings, published)
                panel.set_xlabel("iteration")
            panels[0].set_title(f"{_common.named(teacher)}, n = {charts.number(n)}", loc="left")
            part.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, title=charts.BAND, title_fontsize=7)
    return figure


def main(drawn: Drawn) -> None:
    """Writes the report.

    Raises:
        ValueError: There is no folder, one is none of the study, or their runs are of several revisions.
    """
    if not drawn.folders:
        raise ValueError("folders is empty; give at least one folder of `python -m experiments.two_teachers`")
    every = [runs_of(folder) for folder in drawn.folders]
    origin = origin_of(every)
    report.write(
        drawn.out, title="Two teachers: several settings", about=ABOUT,
        command="python -m experiments.two_teachers.together " + " ".join(folder.name for folder in drawn.folders),
        seconds=sum(runs.report["seconds"] for runs in every), rows=[row_of(runs) for runs in every], paper=PAPER,
        figures={"together": (draw(every), CAPTION)}, provenance=origin,
    )  # fmt: skip


if __name__ == "__main__":
    report.script(main, Drawn, __doc__)
