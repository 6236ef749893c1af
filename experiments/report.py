"""The report that every study writes: its figures, its numbers beside published ones, its command, and where they come from.

A study is a module or a folder `experiments.NAME`. It has `Settings`, a frozen dataclass with `preset` and `out`, and `main(settings)`,
which ends in `run` or `write`. `python -m experiments all` runs each study, and `experiments.page` makes one page of all reports.
"""

import csv
import dataclasses
import datetime
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import tyro
from matplotlib.figure import Figure

from dualebm._internal import cores
from dualebm._internal.files import commit_figure
from dualebm.plotting import charts
from dualebm.training import fingerprint
from dualebm.training.run import Diverged
from experiments import curves

REPORT, ROWS = "report.json", "rows.csv"

Captioned = tuple[Figure, str]
"""A figure and its caption."""

class Published(NamedTuple):
    """A published number beside ours.

    Attributes:
        quantity: What it is, with its unit.
        ours: The middle over our runs.
        least: The least of our runs.
        largest: The largest of our runs.
        published: The published number, or the lower end of a published range.
        source: Where it is published, and its settings where they differ from ours.
        published_to: The upper end of a published range.
        less_is_better: False where more is better, None for a claim, which is neither.
    """

    quantity: str
    ours: float
    least: float
    largest: float
    published: float
    source: str
    published_to: float | None = None
    less_is_better: bool | None = True


def compared(one: Published) -> str:
    """Returns where our runs lie beside a published number: "below", "above" or "overlaps", of the least and the largest of our runs.

    >>> compared(Published("KL", 0.2, 0.1, 0.3, 0.4, "")), compared(Published("ratio", 12, 8, 15, 10, "", 20))
    ('below', 'overlaps')
    """
    if one.largest < one.published:
        return "below"
    return "above" if one.least > (one.published if one.published_to is None else one.published_to) else "overlaps"


def command(name: str, settings: Any) -> str:
    """Returns the command of a study, with those settings as flags that differ from the defaults.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Settings:
    ...     preset: str = "quick"
    ...     only: tuple[str, ...] = ()
    ...     budget: bool = True
    >>> command("torus", Settings("paper", ("a", "b c"), False))
    "python -m experiments.torus --preset paper --only a 'b c' --no-budget"
    """
    words = [f"python -m experiments.{name} --preset {settings.preset}"]
    for field in dataclasses.fields(settings):
        value, flag = getattr(settings, field.name), field.name.replace("_", "-")
        if field.name in ("preset", "out") or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (tuple, list)):
            words.append(" ".join([f"--{flag}", *(shlex.quote(str(one)) for one in value)]))
        else:
            words.append(f"--{flag} {shlex.quote(str(value))}")
    return " ".join(words)


def run(name: str, settings: Any, folder: Path, study: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs a study in the style of all figures, takes the time, and writes its report.

    Args:
        name: The name of the study's module.
        settings: The settings as they were given, before their preset decided the others.
        folder: Where the report is written.
        study: Runs the study, and returns the other arguments of `write`. A study that reads earlier results returns `seconds` too, the
            time that all of its numbers took.

    Returns:
        The rows of the report.
    """
    begin = time.perf_counter()
    with matplotlib.rc_context(charts.STYLE):
        content = study()
    measured: dict[str, Any] = dict(command=command(name, settings), seconds=time.perf_counter() - begin)
    write(folder, **measured | content)
    return content["rows"]


def write(
    folder: Path,
    *,
    title: str,
    about: str,
    command: str,
    seconds: float,
    rows: list[dict[str, Any]],
    paper: str,
    figures: Mapping[str, Captioned] | None = None,
    files: Mapping[str, str] | None = None,
    summary: str = "",
    published: Iterable[Published] = (),
    seeds: Iterable[int] = (),
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes the figures, `report.json` and `rows.csv`, and prints the rows as a table.

    A figure becomes `NAME.png` and `NAME.pdf`, `NAME.csv` with the points of its curves, and `NAME.json` with what a page reads out.

    Args:
        folder: Where they are written; it is made if it does not exist.
        title: The title of the study's section of the page.
        about: A sentence or two on what the figures and the rows show.
        command: The command of the study, see `command`.
        seconds: The time that it took. An earlier report of the same command keeps its time where that is longer: a call that finds all
            results does not say what they cost.
        rows: The numbers, each row with the same names.
        paper: What the paper says, or that it says nothing.
        figures: The figures by their names, each with its caption: what is drawn against what, what lines and bands are, and of how
            many seeds.
        files: Captions of figures and films that are in the folder already, by their names.
        summary: A sentence on the outcome.
        published: Published numbers beside ours.
        seeds: The seeds of the runs.
        provenance: Where the numbers come from, in the form of `origin` with the seeds; by default this call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / REPORT).exists():
        earlier = json.loads((folder / REPORT).read_text())
        seconds = max(seconds, earlier["seconds"]) if earlier["command"] == command else seconds
    shown_files = dict(files or {})
    with matplotlib.rc_context(charts.STYLE):
        for name, (figure, caption) in (figures or {}).items():
            for suffix in ("pdf", "png"):
                commit_figure(folder / f"{name}.{suffix}", figure)
            curves.write_table(figure, folder / f"{name}.csv")
            (folder / f"{name}.json").write_text(json.dumps(curves.readable(figure)))
            shown_files[f"{name}.png"] = caption
    content: dict[str, Any] = dict(
        title=title, about=about, command=command, seconds=round(seconds, 1), paper=paper, summary=summary, figures=shown_files,
        published=[{k: plain(v) for k, v in one._asdict().items()} | dict(compared=compared(one)) for one in published],
        rows=[{k: plain(v) for k, v in row.items()} for row in rows],
        provenance=provenance or origin() | dict(seeds=[int(seed) for seed in seeds]),
    )  # fmt: skip
    write_rows(content["rows"], folder / ROWS)
    partial = folder / f".{REPORT}"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(folder / REPORT)
    print(f"\n{title}: {command}\n{seconds:.0f} s; written to {folder}")
    if rows:
        cells = [list(rows[0]), *([shown(v) for v in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(*(line for line in (summary, f"paper: {paper}") if line), sep="\n")


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the rows of a report as CSV, with a column for each name of any row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        table.writeheader()
        table.writerows(rows)


def origin() -> dict[str, Any]:
    """Returns where the numbers of a report come from: revision, versions, devices, the machine, and the date in UTC.

    >>> sorted(origin())
    ['backend', 'date', 'device_count', 'git_revision', 'machine', 'versions']
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**fingerprint.provenance(), "date": date, "machine": f"{cores.count()} cores ({processor()})"}


def processor() -> str:
    """Returns the name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: a scalar of NumPy as one of Python, and text for a number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Any) -> str:
    """Returns the text of a value in a table.

    >>> shown(0.000123456), shown(None), shown("mala")
    ('0.0001235', '', 'mala')
    """
    value = plain(value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def script(main: Callable[[Any], Any], settings: type, about: str | None) -> None:
    """Runs a study as a command whose flags are its settings; an error of the settings is one line, with the exit code 2."""
    try:
        main(tyro.cli(settings, description=about))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Diverged as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        sys.exit(str(interrupt) or "interrupted")
