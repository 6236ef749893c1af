"""What every experiment leaves behind in one form: its figures, its numbers beside the paper's and its command, and one page of them all.

An experiment is a module with `Settings`, a frozen dataclass with `preset` and `out`, and `main(settings)`, which ends in `write`.
`python -m experiments all` runs each and calls `index`.
"""

import dataclasses
import html
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from matplotlib.figure import Figure

from dualebm._internal import checks
from dualebm.plotting import charts
from dualebm.training.run import Diverged

REPORT = "report.json"
PRESETS = ("quick", "paper")

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
    """The command that has these settings: those that differ from the defaults, as flags.

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


def check(settings: Any) -> None:
    """Raises ValueError for a preset that does not exist and for whole numbers below 1 (a `first_seed` may be 0).

    >>> from experiments.less_work import Settings
    >>> check(Settings(seeds=0))
    Traceback (most recent call last):
    ...
    ValueError: seeds is 0; it must be an integer of at least 1
    """
    checks.choice("preset", settings.preset, PRESETS)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            checks.count(field.name, value, 0 if field.name == "first_seed" else 1)


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
    made: Mapping[str, str] | None = None,
    told: str = "",
) -> None:
    """Writes the figures, `NAME.png` and `NAME.pdf`, and `report.json`, and prints the rows as a table.

    Args:
        folder: made where it is not there. title: of the section of the page. about: what is seen, in a sentence or two.
        command: see `command`. seconds: that it took. rows: the numbers, each row with the same names.
        paper: what the paper says, or that it says nothing.
        figures: name -> figure. made: file -> caption, of figures and films that are in the folder already.
        told: a sentence on the outcome, printed and on the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = dict(made or {})
    with matplotlib.rc_context(charts.STYLE):
        for name, figure in (figures or {}).items():
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.pdf")
            files[f"{name}.png"] = name.replace("_", " ")
    said = dict(
        title=title, about=about, command=command, seconds=round(seconds, 1), paper=paper, told=told, figures=files,
        rows=[{k: plain(v) for k, v in row.items()} for row in rows],
    )  # fmt: skip
    partial = folder / f".{REPORT}"
    partial.write_text(json.dumps(said, indent=1))
    partial.replace(folder / REPORT)
    print(f"\n{title}: {command}\n{seconds:.0f} s; written to {folder}")
    if rows:
        cells = [list(rows[0]), *([shown(v) for v in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(*(line for line in (told, f"paper: {paper}") if line), sep="\n")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy's scalars as Python's, and text for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Any) -> str:
    """A cell of a table.

    >>> shown(0.000123456), shown(None), shown("mala")
    ('0.0001235', '', 'mala')
    """
    value = plain(value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def index(root: Path) -> Path:
    """Writes `index.html`, a page with a section for each report below a folder, in the order of their names; returns its path.

    Raises ValueError where there is none.
    """
    found = sorted(root.rglob(REPORT))
    if not found:
        raise ValueError(f"{root} holds no {REPORT}; run an experiment into it first")
    contents, sections = [], []
    for path in found:
        told = json.loads(path.read_text())
        folder, title = os.path.relpath(path.parent, root), html.escape(told["title"])
        anchor = html.escape(folder.replace(os.sep, "-"), quote=True)
        contents.append(f'<li><a href="#{anchor}">{title}</a></li>')
        parts = [f'<h2 id="{anchor}">{title}</h2>', f"<p>{html.escape(told['about'])}</p>"]
        parts.append(f"<pre>{html.escape(told['command'])}</pre><p>{told['seconds']:.0f} s on this machine.</p>")
        for file, caption in told["figures"].items():
            at, text = html.escape(f"{folder}/{file}", quote=True), html.escape(caption)
            kind = f'<video controls loop src="{at}"></video>' if file.endswith(".mp4") else f'<img alt="{text}" src="{at}">'
            parts.append(f"<figure>{kind}<figcaption>{text}</figcaption></figure>")
        if told["rows"]:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in told["rows"][0])
            body = ("".join(f"<td>{html.escape(shown(v))}</td>" for v in row.values()) for row in told["rows"])
            parts.append(f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>")
        parts += [f"<p>{html.escape(told['told'])}</p>"] if told["told"] else []
        parts.append(f"<p><em>The paper:</em> {html.escape(told['paper'])}</p>")
        sections.append("\n".join(parts))
    page = root / "index.html"
    page.write_text(PAGE.format(contents="".join(contents), sections="\n".join(sections)))
    return page


def script(main: Callable[[Any], Any], settings: type, about: str | None) -> None:
    """An experiment as a command: its settings are flags; what is not allowed is told in one line, with exit code 2."""
    try:
        main(tyro.cli(settings, description=about))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Diverged as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        sys.exit(str(interrupt) or "interrupted")
