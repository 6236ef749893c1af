"""The report that every study writes: its figures, its numbers beside the paper's and its command; and one page of all reports.

A study is a module or a folder `experiments.NAME`. It has `Settings`, a frozen dataclass with `preset` and `out`, and `main(settings)`,
which ends in `run` or `write`. `python -m experiments all` runs each study and calls `index`.
"""

import dataclasses
import datetime
import html
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from matplotlib.figure import Figure

from dualebm.plotting import charts
from dualebm.training.fingerprint import provenance
from dualebm.training.run import Diverged

REPORT = "report.json"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>dualebm: experiments</title><style>
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #111 }}
h2 {{ margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem }}
code, pre {{ background: #f3f3f3; padding: .1rem .3rem }} pre {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto }}
td, th {{ padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee }}
img, video {{ max-width: 100% }} figcaption {{ color: #444; font-size: .9rem }}
</style></head><body><h1>dualebm: experiments</h1>
<ul>{contents}</ul>
{sections}
</body></html>
"""


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
    write(folder, **dict(command=command(name, settings), seconds=time.perf_counter() - begin) | content)
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
    figures: Mapping[str, Figure] | None = None,
    files: Mapping[str, str] | None = None,
    summary: str = "",
) -> None:
    """Writes the figures, as `NAME.png` and `NAME.pdf`, and `report.json`, and prints the rows as a table.

    Args:
        folder: Where they are written; it is made if it does not exist.
        title: The title of the study's section of the page.
        about: A sentence or two on what the figures and the rows show.
        command: The command of the study, see `command`.
        seconds: The time that it took.
        rows: The numbers, each row with the same names.
        paper: What the paper says, or that it says nothing.
        figures: The figures by their names.
        files: Captions of figures and films that are in the folder already, by their names.
        summary: A sentence on the outcome.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown_files = dict(files or {})
    with matplotlib.rc_context(charts.STYLE):
        for name, figure in (figures or {}).items():
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.pdf")
            shown_files[f"{name}.png"] = name.replace("_", " ")
    content = dict(
        title=title, about=about, command=command, seconds=round(seconds, 1), paper=paper, summary=summary, figures=shown_files,
        rows=[{k: plain(v) for k, v in row.items()} for row in rows], provenance=origin(),
    )  # fmt: skip
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


def origin() -> dict[str, Any]:
    """Returns where the numbers of a report come from: revision, versions, devices, the machine, and the date in UTC.

    >>> sorted(origin())
    ['backend', 'date', 'device_count', 'git_revision', 'machine', 'versions']
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**provenance(), "date": date, "machine": f"{cores} cores ({processor()})"}


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


def index(root: Path) -> Path:
    """Writes `index.html`, a page with a section for each report below a folder, in the order of their names, and returns its path.

    Raises:
        ValueError: The folder holds no report.
    """
    paths = sorted(root.rglob(REPORT))
    if not paths:
        raise ValueError(f"{root} holds no {REPORT}; run an experiment into it first")
    contents, sections = [], []
    for path in paths:
        content = json.loads(path.read_text())
        folder, title = os.path.relpath(path.parent, root), html.escape(content["title"])
        anchor = html.escape(folder.replace(os.sep, "-"), quote=True)
        contents.append(f'<li><a href="#{anchor}">{title}</a></li>')
        parts = [f'<h2 id="{anchor}">{title}</h2>', f"<p>{html.escape(content['about'])}</p>"]
        parts.append(f"<pre>{html.escape(content['command'])}</pre><p>{content['seconds']:.0f} s on this machine.</p>")
        for file, caption in content["figures"].items():
            at, text = html.escape(f"{folder}/{file}", quote=True), html.escape(caption)
            kind = f'<video controls loop src="{at}"></video>' if file.endswith(".mp4") else f'<img alt="{text}" src="{at}">'
            parts.append(f"<figure>{kind}<figcaption>{text}</figcaption></figure>")
        if content["rows"]:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in content["rows"][0])
            body = ("".join(f"<td>{html.escape(shown(v))}</td>" for v in row.values()) for row in content["rows"])
            parts.append(f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>")
        parts += [f"<p>{html.escape(content['summary'])}</p>"] if content["summary"] else []
        parts.append(f"<p><em>The paper:</em> {html.escape(content['paper'])}</p>")
        sections.append("\n".join(parts))
    page = root / "index.html"
    page.write_text(PAGE.format(contents="".join(contents), sections="\n".join(sections)))
    return page


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
