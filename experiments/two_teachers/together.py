"""Draws runs of several commands as one figure, a row of panels for each teacher and number of data.

    R=results/two_teachers
    python -m experiments.two_teachers.together $R/s14_monomodal_default_n=10000 $R/s14_bimodal_default_n=100000

Each folder is one that `python -m experiments.two_teachers` has written. The curves of a row share its panels: runs with other restarts,
methods or signs. The figure is `--out`, a PNG or a PDF.
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

from dualebm._internal import checks
from dualebm.plotting import charts
from experiments import _common, report
from experiments.two_teachers.reading import METHODS, references
from experiments.two_teachers.runs import Settings


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is drawn, and where."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `python -m experiments.two_teachers`."""
    out: Path = Path("results/two_teachers/together.png")
    """The file of the figure."""


class Runs(NamedTuple):
    """The runs of a folder: their settings, n, signs, and records."""

    settings: Settings
    n: int
    signs: str
    results: xarray.Dataset


def runs_of(folder: Path) -> Runs:
    """Returns the runs of a folder.

    Raises:
        ValueError: The folder is none of the study, or its runs have not ended.
    """
    named = re.match(r"(s\d+_[a-z]+)_([a-z]+)_n=(\d+)", folder.name)
    if named is None or not (folder / "results.nc").is_file():
        raise ValueError(f"folders has {folder}, which is no folder of `python -m experiments.two_teachers` with its results.nc")
    teacher, method, n = named.groups()
    period = re.search(r"restart_every=(\d+)", folder.name)
    signs = re.search(r"signs='(\w+)'", json.loads((folder / "summary.json").read_text())["method"])
    settings = Settings(teacher=teacher, method=method, n=int(n), restart_every=int(period[1]) if period else None)
    return Runs(settings, int(n), signs[1] if signs else "", xarray.load_dataset(folder / "results.nc"))


def label_of(runs: Runs) -> str:
    """Returns the label of runs: their method, restarts and signs.

    >>> label_of(Runs(Settings(method="program", restart_every=40), 100, "all_negative", xarray.Dataset()))
    "the authors' program, $p_R$ = 1/40, all signs −1"
    """
    period = runs.settings.restart_every
    restarts = [] if period is None else [f"$p_R$ = {'1' if period == 1 else f'1/{period}'}"]
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
                restarts = runs.settings.restart_every
                period = "" if len(known) == 1 or restarts is None else f", $p_R$ = {'1' if restarts == 1 else f'1/{restarts}'}"
                published |= {f"{label}{period}": curve for label, curve in references(runs.settings, n).items()}
            for panel, name in zip(panels, names, strict=True):
                charts.draw_curves(panel, name, settings, published)
                panel.set_xlabel("iteration")
            panels[0].set_title(f"{_common.named(teacher)}, n = {charts.number(n)}", loc="left")
            part.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, title=charts.BAND, title_fontsize=7)
    return figure


def main(drawn: Drawn) -> None:
    """Draws the figure into its file.

    Raises:
        ValueError: There is no folder, or one is none of the study.
    """
    if not drawn.folders:
        raise ValueError("folders is empty; give at least one folder of `python -m experiments.two_teachers`")
    checks.choice("out's ending", drawn.out.suffix, (".png", ".pdf"))
    figure = draw([runs_of(folder) for folder in drawn.folders])
    drawn.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn.out)
    print(f"{len(drawn.folders)} folders: {drawn.out}")


if __name__ == "__main__":
    report.script(main, Drawn, __doc__)
