"""The page `report.html` of a fitted model: its figures, its numbers, and a sentence that explains each number.

The page holds everything that it shows. It has no script and loads nothing.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dualebm._internal import files
from dualebm._internal.keys import key_of_seed
from dualebm.base_mixtures import in_words
from dualebm.cli import report
from dualebm.data.preparation import from_space
from dualebm.measures import Samples
from dualebm.model import Model, density_name, log_unit
from dualebm.plotting import charts, densities

FIGURE, REPORT, ROWS = "figure.png", "report.html", "rows.npy"
"""The files of the figure, the page, and the rows that they show, in the folder of a model."""

RESOLUTION = 220
"""The pixels of a figure per inch."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #111; --quiet: #444; --ground: #fff; --raised: #f3f3f3; --line: #ccc; --alarm: #b00 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8e8e8; --quiet: #b0b0b0; --ground: #16181b; --raised: #24272b; --line: #484c52;
--alarm: #ff8a80 }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--ground);
overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem; line-height: 1.2 }}
h2 {{ font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: .8rem }}
figure {{ margin: 1rem 0 }} img {{ max-width: 100%; height: auto; display: block; margin: 0 auto; background: #fff }}
figcaption {{ color: var(--quiet); font-size: .85rem; margin-top: .4rem }}
code {{ background: var(--raised); padding: .1rem .3rem; font-size: .9em; white-space: pre-wrap }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }}
td, th {{ padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }}
.warning {{ border: 2px solid var(--alarm); padding: .6rem .9rem; margin: 1rem 0 }}
dt {{ font-weight: 600; margin-top: .8rem }} dd {{ margin: 0 }} dd + dd {{ color: var(--quiet); font-size: .9rem }}
@media print {{ :root {{ color-scheme: light; --ink: #000; --quiet: #444; --ground: #fff; --raised: #f3f3f3; --line: #ccc;
--alarm: #b00 }}
body {{ font-size: 10.5pt; max-width: none; padding: 0 }} figure, table, dt, .warning {{ break-inside: avoid }}
.wide {{ overflow: visible }}
h2 {{ break-after: avoid }} dt {{ break-after: avoid }} details > * {{ display: block }} }}
</style></head><body><main>
<h1>{title}</h1>
{body}
</main></body></html>
"""


def save_rows(folder: Path, model: Model, points: Samples) -> int:
    """Write at most 2000 of the points of a fit, drawn at random, as rows in the units of the data, for figures.

    Args:
        folder: the folder of the model.
        model: the fitted model.
        points: all points of the file, trained on or held out, (n, d). Those with weights are drawn with replacement by their weights.

    Returns:
        The number of rows.
    """
    every = np.asarray(points.points)
    if points.log_weights is not None:
        shares = np.exp(np.asarray(points.log_weights, np.float64))
        every = every[np.random.default_rng(0).choice(len(every), min(len(every), densities.ROWS), p=shares / shares.sum())]
    drawn = from_space(model.preparation, jax.numpy.asarray(densities.thinned(every))).rows

    files.commit(folder / ROWS, lambda file: np.save(file, drawn))
    return len(drawn)


def read_rows(folder: Path, digest: str) -> Float[np.ndarray, "n d"] | None:
    """Read the rows that `save_rows` wrote to a folder.

    Args:
        folder: the folder of the model.
        digest: the SHA-256 of the file.

    Returns:
        The rows, or None where there are none.

    Raises:
        ValueError: the file is another.
        OSError: the file is a link, or cannot be opened.
    """
    path = folder / ROWS
    if not path.exists():
        return None
    if files.digest_of(path) != digest:
        raise ValueError(f"{path} is not the file that the fit has written (its SHA-256 differs); restore it, remove it, or fit again")
    return np.load(path, allow_pickle=False)


def write(folder: Path, header: Mapping[str, Any], model: Model, figure: Path) -> None:
    """Draw the density of the model of a folder, and write the page into the folder.

    Args:
        folder: the folder of the model.
        header: its `model.json`.
        model: the fitted model.
        figure: the file of the figure. Its suffix gives the format.
    """
    data, rows = header["data"], read_rows(folder, header["data"]["drawn_sha256"])
    words = f"{data['rows']} rows" if data["drawn"] == data["rows"] else f"{data['drawn']} of {data['rows']} rows, drawn at random"
    if data["weighted"]:
        words = f"{data['drawn']} draws of the {data['rows']} rows by their weights"
    drawing = densities.density(key_of_seed(header["settings"]["seed"]), model, rows, words if rows is not None else None)
    text = page(header, model, [(drawing.figure, drawing.caption)])
    files.commit_figure(figure, drawing.figure, dpi=RESOLUTION)
    files.commit(folder / REPORT, lambda file: file.write(text.encode()))


def page(header: Mapping[str, Any], model: Model, figures: Iterable[tuple[Any, str]]) -> str:
    """Return the page of a fitted model.

    Args:
        header: its `model.json`.
        model: the model.
        figures: the figures of its density, each with its caption.
    """
    title = f"A density of {Path(header['data']['file']).name}"
    doubt = model.log_partition.doubt
    parts = [] if doubt is None else [_warning(doubt)]
    chosen = report.choice(header) if "path" in header else [*report.kept(header), header["records"]]
    parts += [_paragraph(sentence) for sentence in chosen]
    parts += [_image(figure, caption) for figure, caption in figures]
    parts += ["<h2>Held-out rows</h2>", *_held_out(header, model)]
    if "path" in header:
        unit = log_unit(model.preparation)
        stages = [{**s, "log_density": None if s["log_density"] is None else s["log_density"] - unit} for s in header["path"]]
        parts += ["<h2>What was chosen</h2>", _image(charts.path(stages, header["chosen"]), PATH_CAPTION)]
    parts += ["<h2>The numbers</h2>", _explained(_numbers(header, model))]
    if header["notes"]:
        parts += ["<h2>Notes and remedies</h2>", "<ul>", *(f"<li>{_text(note)}</li>" for note in header["notes"]), "</ul>"]
    parts += ["<h2>Where it comes from</h2>", _explained(_origin(header))]
    return PAGE.format(title=_text(title), body="\n".join(parts))


PATH_CAPTION = (
    "The mean log density of validated rows, which were not trained on, against the radius, for each candidate. Bands are one standard "
    "error of the gain over radius 0. The ring is what was chosen."
)


def _text(value: Any) -> str:
    """Return a value as text of HTML, in which a number and its error stay on one line."""
    return html.escape(str(value).replace(" +- ", "\u00a0±\u00a0"))


def _paragraph(text: str) -> str:
    return f"<p>{_text(text[:1].upper() + text[1:])}.</p>"


def _warning(doubt: str) -> str:
    return (
        f'<div class="warning" role="alert"><strong>log Z is not to be trusted: {_text(doubt)}.</strong> A wrong log Z shifts all log '
        "densities by one constant. Do not report log densities of this fit, nor compare them with others. Differences between rows of "
        "this model, and its samples, do not depend on log Z.</div>"
    )


def _image(figure: Any, caption: str) -> str:
    """Return a figure with its caption, whose first sentence is also the text for readers who do not see the figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=RESOLUTION)
    encoded, first = base64.b64encode(data.getvalue()).decode(), caption.partition(". ")[0].rstrip(".")
    image = f'<img alt="{_text(first)}." src="data:image/png;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"


def _table(lines: Iterable[Iterable[str]]) -> str:
    """Return a table whose first line has the names of the columns."""
    head, *rest = [[_text(cell) for cell in line] for line in lines]
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in rest)
    region = '<div class="wide" role="region" aria-label="Table of log densities" tabindex="0">'
    return f'{region}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _held_out(header, model):
    """Return the table of the model and its rivals, or the sentence that says why there is none."""
    if not header["held_out"]["rows"]:
        return [_paragraph(report.beside(header, model)[0])]
    kind = report.LOG_DENSITIES[density_name(model.preparation.space)]
    return [
        _table([("density", "mean (nat)", "model less it (nat)"), *report.rival_cells(header, model)]),
        f"<p>The mean {_text(kind)} of {header['held_out']['rows']} rows that took no part in any fit, and its standard error over rows. "
        "Larger is better. The other densities were fitted to the same training rows as the model. The last column is the mean of "
        "the differences row by row. It varies less than the means do. Where it is more than about two standard errors above 0, chance "
        "alone does not explain it.</p>",
    ]


def _numbers(header, model):
    """Return the numbers of the fit in words: for each its name, its value and what it means."""
    validated = [("Validation", report.validation(header), VALIDATION)] if "path" in header else []
    gap, scale = header["duality_gap"], model.log_partition
    means = [("Rows trained on", line, TRAINED) for line in report.likelihood("trained_on", header.get("trained_on", {"rows": 0}))[:1]]
    base = [line for line in report.likelihood("held_out", header["held_out"])[1:] if line.startswith("held out")]
    bars = [("Error bars", report.errors(header["held_out"]["errors"]), ERRORS)] if "errors" in header["held_out"] else []
    named = [
        *([("Base measure", in_words(model.preparation.space.base), BASE)] if "path" in header else []),
        *([("Radius", f"{header['radius']:.4g}", RADIUS)] if "path" in header else []),
        ("log Z", scale.summary(), LOG_Z), *validated, *means,
        *(("Held-out rows, against the base measure", line, AGAINST_BASE) for line in base), *bars,
        *([("Duality gap", gap["summary"], GAP)] if gap else []),
        ("Test of fit", report.fit_test(header["test_of_fit"]), TEST),
    ]  # fmt: skip
    return [(name, line.partition(": ")[2] if line.partition(": ")[0] in LABELS else line, meaning) for name, line, meaning in named]


LABELS = ("validation", "cross-validation", "trained on", "held out", "error bars", "duality gap", "test of fit")
"""The words before the colon of printed lines, in whose place the page has names."""


BASE = "The density that is fitted first. The model is exp(-U) times it, divided by Z, with the energy U."
RADIUS = "The total variation of the neurons. It bounds how far the model departs from the base measure. At 0 they are the same."
LOG_Z = "The logarithm of the constant that makes the integral of the density 1. Its error is part of the error of every mean log density."
VALIDATION = "Base measure, feature and radius were chosen on these rows, so that this mean is too large. Its error does not contain that."
TRAINED = "The model was fitted to these rows, so that their mean is too large. The mean of held-out rows is the one to report."
AGAINST_BASE = "The log density relative to the base measure says how much the energy adds to it."
ERRORS = (
    "The fit was repeated with random weights of its rows. These are the root mean squares of the changes. They are no part of the "
    "standard error above, and do not contain the error of log Z nor what the base measure cannot follow."
)
GAP = (
    "An upper bound on what any other energy of the same radius and base measure would gain on the rows that were trained on, in nats a "
    "row. A small gap says that training has converged."
)
TEST = (
    "A kernel Stein test. p is the probability that as many rows of the model itself would differ from it as much as the held-out rows "
    "do. A small p says that the model is wrong somewhere. A large p says that the test sees nothing, which few rows make likely."
)


def _origin(header):
    """Return where the numbers come from: command, data, time and versions."""
    data, versions = header["data"], ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    rows = f"{data['file']}, {data['rows']} rows, {data['trained_on']} trained on and {header['held_out']['rows']} held out"
    return [
        ("Command", header["command"], "With the same file, versions and kind of machine it gives the same numbers."),
        ("Data", rows, f"SHA-256 {data['sha256']}"),
        ("Time", f"{header['seconds']:.0f} s", "The time of the command that finished the fit."),
        ("Versions", versions, ""),
    ]


def _explained(numbers):
    """Return a list of names, values and explanations."""
    words = lambda value: f"<code>{_text(value)}</code>" if value.startswith("dualebm ") else _text(value)  # noqa: E731
    items = [
        f"<dt>{_text(name)}</dt><dd>{words(value)}</dd>" + (f"<dd>{_text(meaning)}</dd>" if meaning else "")
        for name, value, meaning in numbers
    ]
    return f"<dl>{''.join(items)}</dl>"
