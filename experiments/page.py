"""The page of all reports below a folder: `index.html`, which loads nothing but the figures and films beside it.

The frame of the page is `page.html`, its look `page.css`, its behaviour `page.js`; the page holds all three. Tables can be sorted, studies
searched, and values of curves read out at the pointer, without any library. A browser without scripts shows the same text and figures.
"""

import html
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import report

FILES = Path(__file__).parent
KEY_FIGURES = ("curves.png", "figure1_speed_up.png", "tables.png", "earth_maps.png")
"""The figures at the top of the page, each of the first study that has it."""

OUTCOMES = {
    "better": "ours is better", "worse": "ours is worse", "within": "ranges overlap", "below": "below the claim",
    "above": "above the claim",
}  # fmt: skip
"""Where our runs lie beside a published number, in words."""

LONGEST = 260
"""The letters of an outcome in the table at the top, about."""


class Study(NamedTuple):
    """A report: its folder, as a path relative to the page; an anchor; and what it holds."""

    folder: Path
    link: str
    anchor: str
    content: dict[str, Any]


# -- Text ------------------------------------------------------------------------------------------------


def text(words: Any) -> str:
    """Returns text of HTML, in which powers and the indices of a few symbols stand as such.

    >>> text("h_x < 1 on S^14, n^(-1/2)")
    'h<sub>x</sub> &lt; 1 on S<sup>14</sup>, n<sup>-1/2</sup>'
    """
    escaped = html.escape(str(words).replace(" +- ", "\u00a0±\u00a0"))
    escaped = re.sub(r"(?<=\w)\^(?:\((-?[\w/.]+)\)|(-?\d+|\w))", lambda power: f"<sup>{power[1] or power[2]}</sup>", escaped)
    return re.sub(r"\b([hpse])_(x|w|R|theta|0|1)\b", lambda name: f"{name[1]}<sub>{'θ' if name[2] == 'theta' else name[2]}</sub>", escaped)


def attribute(words: Any) -> str:
    """Returns text of an attribute of HTML."""
    return html.escape(str(words), quote=True)


def first_sentence(words: str) -> str:
    """Returns the first sentence of a text.

    >>> first_sentence("KL is 0.5 nat at p_R = 1. It falls.")
    'KL is 0.5 nat at p_R = 1.'
    """
    return re.split(r"(?<=[.!?]) +(?=[A-Z])", words, maxsplit=1)[0]


def shortened(words: str) -> str:
    """Returns the first sentence of a text; of a long one the parts that fit into `LONGEST` letters, with dots.

    >>> shortened("a first part; " + "a second part " * 20)
    'a first part …'
    """
    words = first_sentence(words)
    if len(words) <= LONGEST:
        return words
    parts = re.split(r"(?<=[;,:]) ", words)
    kept = parts[0]
    for part in parts[1:]:
        if len(kept) + len(part) > LONGEST:
            break
        kept += f" {part}"
    return f"{kept[:LONGEST].rstrip(';,: ')} …"


def sentence(words: str) -> str:
    """Returns a text that begins with a capital and ends with a full stop.

    >>> sentence("nothing on it"), sentence("s2_bimodal: 0.5")
    ('Nothing on it.', 's2_bimodal: 0.5.')
    """
    words = words.strip()
    begins = words[:1].upper() + words[1:] if re.match(r"[a-z]+(?![\w^])", words) else words  # no name of a teacher
    return begins + ("" if words.endswith((".", "!", "?")) else ".") if words else ""


def spelled(seconds: float) -> str:
    """Returns a time in the unit that suits it.

    >>> spelled(3.2), spelled(600), spelled(9000)
    ('3 s', '10 min', '2.5 h')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def numbers(values: Iterable[int]) -> str:
    """Returns whole numbers with runs of neighbours as ranges.

    >>> numbers([0, 1, 2, 3, 100])
    '0 to 3, 100'
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


# -- Parts -----------------------------------------------------------------------------------------------


def table(name: str, heads: Sequence[str], rows: Iterable[Sequence[tuple[str, Any]]], kind: str = "") -> str:
    """Returns a table that scrolls inside itself and whose columns a reader can sort.

    Args:
        name: What it shows, for readers who do not see it.
        heads: The names of its columns.
        rows: Of each cell its HTML, and the number by which it is sorted or None for its text.
        kind: A class of the table.
    """
    order, rows, body = '<span class="order" aria-hidden="true"></span>', [list(row) for row in rows], []
    right = [' class="number"' if rows and all(row[i][1] is not None for row in rows) else "" for i in range(len(heads))]
    columns = zip(right, heads, strict=True)
    head = "".join(f'<th scope="col"{kind}><button type="button">{text(one)}{order}</button></th>' for kind, one in columns)
    for row in rows:
        kinds = ("" if value is None else f' class="number" data-value="{value!r}"' for _, value in row)
        body.append(f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, (cell, _) in zip(kinds, row, strict=True))}</tr>")
    wide = " wide" if len(heads) > 9 else ""
    return (
        f'<div class="scroll{wide}" role="region" aria-label="{attribute(name)}" tabindex="0"><table class="sortable {kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def cell_of(value: Any) -> tuple[str, float | None]:
    """Returns the HTML of a value of a row, and the number by which it is sorted."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return text(report.shown(value)), float(value)
    if value in ("inf", "-inf"):
        return ("never reached" if value == "inf" else "−∞"), float(value)
    number = re.match(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?(?= \+- )", str(value))  # with an error
    return text(report.shown(value)), float(number[0]) if number else None


def rows_table(study: Study) -> str:
    """Returns the table of the rows of a report."""
    rows = study.content["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([cell_of(row.get(name)) for name in names] for row in rows)
    heads = [name if re.fullmatch("[A-Za-z]_[A-Za-z]", name) else name.replace("_", " ") for name in names]
    return table(f"Numbers of: {study.content['title']}", heads, cells)


def outcome_of(one: Mapping[str, Any]) -> str:
    """Returns where our runs lie beside a published number, a key of `OUTCOMES`.

    >>> outcome_of(dict(compared="below", less_is_better=True)), outcome_of(dict(compared="above", less_is_better=None))
    ('better', 'above')
    """
    if one["compared"] == "overlaps":
        return "within"
    if one["less_is_better"] is None:
        return one["compared"]
    return "better" if (one["compared"] == "below") == one["less_is_better"] else "worse"


def interval(one: Mapping[str, Any]) -> str:
    """Returns our number with the range of its runs."""
    middle, least, largest = (f"{one[name]:.3g}" for name in ("ours", "least", "largest"))
    return middle if least == largest else f"{middle} <small>({least} to {largest})</small>"


def mark(one: Mapping[str, Any], reach: float) -> str:
    """Returns a small drawing of our number over the published one on a logarithmic axis, the line of 1 in its middle."""
    values = [one[name] for name in ("least", "ours", "largest")]
    low, high = one["published"], one["published_to"] or one["published"]
    if min(*values, low) <= 0 or reach <= 1:
        return ""
    middle = math.sqrt(low * high)
    place = lambda value: 60 + 54 * max(-1.0, min(1.0, math.log(value / middle) / math.log(reach)))  # noqa: E731
    least, ours, largest = map(place, values)
    return (
        f'<svg class="mark {outcome_of(one)}" viewBox="0 0 120 16" width="120" height="16" aria-hidden="true" focusable="false">'
        f'<rect class="theirs" x="{place(low) - 1:.1f}" y="1" width="{place(high) - place(low) + 2:.1f}" height="14"/>'
        f'<path d="M{least:.1f} 8H{largest:.1f}"/><circle cx="{ours:.1f}" cy="8" r="3.5"/></svg>'
    )


def published_table(studies: Iterable[Study], name: str, linked: bool = True) -> str:
    """Returns the table of published numbers beside ours, or "" where there are none."""
    pairs = [(study, one) for study in studies for one in study.content.get("published", ())]
    if not pairs:
        return ""
    ratios = [
        abs(math.log(one[of] / math.sqrt(one["published"] * (one["published_to"] or one["published"]))))
        for _, one in pairs for of in ("least", "largest") if min(one["least"], one["published"]) > 0
    ]  # fmt: skip
    reach = math.exp(max(ratios, default=0)) * 1.05
    rows = []
    for study, one in pairs:
        theirs = f"{one['published']:.3g}" + (f" to {one['published_to']:.3g}" if one["published_to"] is not None else "")
        quantity = f'<a href="#{study.anchor}">{text(one["quantity"])}</a>' if linked else text(one["quantity"])
        rows.append([
            (quantity, None), (interval(one), one["ours"]), (theirs, one["published"]), (mark(one, reach), None),
            (f'<span class="{outcome_of(one)}">{OUTCOMES[outcome_of(one)]}</span>', None), (text(one["source"]), None),
        ])  # fmt: skip
    heads = ["quantity", "ours (least to largest)", "published", "ours over published, logarithmic", "outcome", "published where"]
    if not any(row[3][0] for row in rows):  # a number that is not positive has no ratio
        rows, heads = [[*row[:3], *row[4:]] for row in rows], [*heads[:3], *heads[4:]]
    return table(name, heads, rows, "published")


def film_of(study: Study, file: str, caption: str) -> str:
    """Returns a film with its caption and its link."""
    at, name = attribute(f"{study.link}/{file}"), attribute(first_sentence(caption))
    return (
        f'<figure><video controls loop muted playsinline preload="metadata" src="{at}" aria-label="Film: {name}"></video>'
        f'<figcaption>{text(sentence(caption))} <span class="files"><a href="{at}">MP4</a></span></figcaption></figure>'
    )


def picture(study: Study, identity: str, file: str, caption: str, alt: str, size: tuple[int, int], below: str, kind: str = "") -> str:
    """Returns a figure that can be enlarged, with HTML below it."""
    shape = f' width="{size[0]}" height="{size[1]}"' if size[0] else ""
    return (
        f'<figure id="{identity}"><div class="picture {kind}"><button type="button" class="enlarge" '
        f'aria-label="Enlarge: {attribute(first_sentence(caption))}"><img alt="{attribute(alt)}" '
        f'src="{attribute(f"{study.link}/{file}")}"{shape} decoding="async"></button></div><figcaption>{below}</figcaption></figure>'
    )


def figure_of(study: Study, root: Path, file: str, caption: str, key: bool = False) -> tuple[str, dict[str, Any]]:
    """Returns a figure with its caption and links, and by its name what can be read out at the pointer.

    Args:
        study: The report that has it.
        root: The folder of the page.
        file: Its file in the folder of the report.
        caption: Its caption.
        key: Whether it stands at the top of the page, with the first sentence of its caption and a link to its section.
    """
    stem, folder = file.removesuffix(".png"), root / study.folder
    known = folder / f"{stem}.json"
    said = json.loads(known.read_text()) if known.is_file() else {}
    alt, size = said.get("alt") or first_sentence(caption), size_of(folder / file)
    identity = attribute(f"figure-{study.anchor}-{re.sub(r'[^A-Za-z0-9]+', '-', stem)}")
    if key:
        below = f'{text(first_sentence(sentence(caption)))} In full: <a href="#{study.anchor}">{text(study.content["title"])}</a>.'
        return picture(study, f"key-{identity}", file, caption, alt, size, below), {}
    links = [(f"{stem}.{kind}", label) for kind, label in (("png", "PNG"), ("pdf", "PDF"), ("csv", "points of the curves, CSV"))]
    found = [f'<a href="{attribute(f"{study.link}/{name}")}">{label}</a>' for name, label in links if (folder / name).is_file()]
    below = f'{text(sentence(caption))} <span class="files">{" · ".join(found)}</span>'
    panels = said.get("panels")
    return picture(study, identity, file, caption, alt, size, below, "readable" if panels else ""), {identity: panels} if panels else {}


def size_of(path: Path) -> tuple[int, int]:
    """Returns the pixels of a PNG across and down, so that a page keeps their place before it has loaded; (0, 0) for another file."""
    if not path.is_file():
        return 0, 0
    with path.open("rb") as file:
        head = file.read(24)
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return 0, 0
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def stores_below(folder: Path) -> list[Path]:
    """Returns the Zarr stores and netCDF files of a study: in its folder, and in folders beside it whose names begin with its name."""
    found = []
    for top in [folder, *sorted(folder.parent.glob(f"{folder.name}_*/"))]:
        for place, folders, files in os.walk(top):
            found += [Path(place, name) for name in sorted(folders) if name.endswith(".zarr")]
            found += [Path(place, name) for name in sorted(files) if name.endswith(".nc")]
            folders[:] = sorted(name for name in folders if not name.endswith(".zarr"))
    return found


def origin_of(study: Study, root: Path) -> str:
    """Returns the part that says how a report was made and where its data are."""
    content, folder = study.content, root / study.folder
    origin = content.get("provenance", {})
    versions = ", ".join(f"{name} {version}" for name, version in (origin.get("versions") or {}).items())
    files = {report.ROWS: "rows as CSV", report.REPORT: "report as JSON"}
    links = [f'<a href="{attribute(f"{study.link}/{file}")}">{label}</a>' for file, label in files.items() if (folder / file).is_file()]
    stores = stores_below(folder)
    shown = [f'<a href="{attribute(os.path.relpath(one, root))}">{text(os.path.relpath(one, folder.parent))}</a>' for one in stores[:3]]
    more = f" and {len(stores) - 3} more below <code>{text(os.path.relpath(folder.parent, root))}</code>" if len(stores) > 3 else ""
    revision = origin.get("git_revision")
    dirty = " (the sources had changes that no commit has)" if revision and revision.endswith("-dirty") else ""
    facts = [
        ("Time", f"{spelled(content['seconds'])}{' on ' + text(origin['machine']) if origin.get('machine') else ''}"),
        ("Seeds", numbers(origin.get("seeds", ()))),
        ("Date", text(origin.get("date", "").replace("T", " ").replace("+00:00", " UTC"))),
        ("Revision", f"<code>{text(revision.removesuffix('-dirty'))}</code>{dirty}" if revision else ""),
        ("Versions", text(versions)),
        ("Device", text(f"{origin['device_count']} of {origin['backend']}") if origin.get("backend") else ""),
        ("Data", ", ".join([*links, *shown]) + more),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts if value)
    command = html.escape(content["command"])
    return (
        f'<div class="command"><pre tabindex="0" aria-label="Command"><code>{command}</code></pre>'
        f'<button type="button" class="copy">Copy<span class="hidden"> the command of {text(content["title"])}</span></button></div>'
        f'<dl class="facts">{items}</dl>'
    )


def section(study: Study, root: Path) -> tuple[str, dict[str, Any]]:
    """Returns the section of a study, and what can be read out at the pointer by the names of its figures."""
    content, readable = study.content, {}
    parts = [f'<h2 id="{study.anchor}"><a href="#{study.anchor}">{text(content["title"])}</a></h2>']
    parts += [f'<p class="outcome">{text(sentence(content["summary"]))}</p>'] if content["summary"] else []
    published = text(sentence(content["paper"]))
    parts += [f"<p>{text(sentence(content['about']))}</p>", f'<p class="paper"><strong>Published:</strong> {published}</p>']
    for file, caption in content["figures"].items():
        drawn, points = (film_of(study, file, caption), {}) if file.endswith(".mp4") else figure_of(study, root, file, caption)
        parts.append(drawn)
        readable |= points
    beside = published_table([study], f"Published numbers beside ours: {content['title']}", linked=False)
    parts += [f"<h3>Published numbers beside ours</h3>{beside}"] if beside else []
    parts += [f'<div class="sheet"><h3>Numbers</h3>{rows_table(study)}</div>'] if content["rows"] else []
    parts.append(f"<h3>How it was made</h3>{origin_of(study, root)}")
    return f'<section class="study" aria-labelledby="{study.anchor}">{"".join(parts)}</section>', readable


def counted(count: int, word: str, words: str = "") -> str:
    """Returns a number with a word in the form that it needs.

    >>> counted(1, "study", "studies"), counted(2, "figure")
    ('1 study', '2 figures')
    """
    return f"{count} {word if count == 1 else words or word + 's'}"


def verdict_of(studies: Sequence[Study]) -> str:
    """Returns the sentences at the top of the page: what there is, and how our numbers lie beside published ones."""
    figures = sum(len(study.content["figures"]) for study in studies)
    said = f"{counted(len(studies), 'study', 'studies')} with {counted(figures, 'figure')}."
    outcomes = [(outcome_of(one), one["less_is_better"]) for study in studies for one in study.content.get("published", ())]
    results = [outcome for outcome, better in outcomes if better is not None]
    claims = [outcome for outcome, better in outcomes if better is None]
    if results:
        said += (
            f" Beside {counted(len(results), 'published result')}, <strong>ours is better in {results.count('better')} and worse in "
            f"{results.count('worse')}; in {results.count('within')} the published number lies within the range of our runs</strong>."
        )
    if claims:
        said += f" Of {counted(len(claims), 'comparison')} with a claim of a paper, {claims.count('within')} overlap the claimed range."
    quick = sum("--preset quick" in study.content["command"] for study in studies)
    if quick:
        count = "All" if quick == len(studies) else f"{quick} of the {len(studies)}"
        said += f" {count} studies are quick ones, smaller than the published; <code>--preset paper</code> runs them in full."
    return f'<p class="verdict">{said}</p>'


def overview(studies: Sequence[Study], root: Path, missing: Sequence[str]) -> str:
    """Returns the part at the top: the verdict, published numbers beside ours, a few figures, and what each study found."""
    parts = ['<section aria-labelledby="in-short"><h2 id="in-short">In short</h2>', verdict_of(studies)]
    key = [next(((study, name) for study in studies if name in study.content["figures"]), None) for name in KEY_FIGURES]
    chosen = [figure_of(one[0], root, one[1], one[0].content["figures"][one[1]], key=True)[0] for one in key if one]
    parts += [f'<h3>Key figures</h3><div class="keys">{"".join(chosen)}</div>'] if chosen else []
    beside = published_table(studies, "Published numbers beside ours, of all studies")
    if beside:
        words = "Ours is the middle over runs, with the least and the largest. “Ranges overlap” where the published one meets ours."
        parts.append(f"<h3>Published numbers beside ours</h3><p>{words}</p>{beside}")
    rows = [
        [
            (f'<a href="#{study.anchor}">{text(study.content["title"])}</a>', None),
            (text(shortened(sentence(study.content["summary"]))) or "See its table.", None),
            (text(shortened(sentence(study.content["paper"]))), None),
            (spelled(study.content["seconds"]), float(study.content["seconds"])),
        ]
        for study in studies
    ]  # fmt: skip
    parts.append(f"<h3>Outcomes</h3>{table('Outcomes of all studies', ('study', 'outcome', 'published', 'time'), rows, 'outcomes')}")
    parts += [f"<p>Without a report here: {text(', '.join(missing))}.</p>"] if missing else []
    return "".join([*parts, "</section>"])


# -- The page --------------------------------------------------------------------------------------------


def name_of(content: Mapping[str, Any]) -> str:
    """Returns the name of the study whose command made a report."""
    found = re.search(r"experiments\.(\w+)", content["command"])
    return found[1] if found else ""


def studies_below(root: Path, order: Sequence[str] = ()) -> list[Study]:
    """Returns the reports below a folder: studies in the order of the names that are given, then others, each by its folder.

    Raises:
        ValueError: The folder holds no report.
    """
    studies = []
    for path in sorted(root.rglob(report.REPORT)):
        folder = path.parent.relative_to(root)
        anchor = re.sub(r"[^\w.=-]+", "-", folder.as_posix()).strip("-.") or "report"
        studies.append(Study(folder, folder.as_posix(), f"study-{anchor}", json.loads(path.read_text())))
    if not studies:
        raise ValueError(f"{root} holds no {report.REPORT}; run an experiment into it first")
    titles = [study.content["title"] for study in studies]
    for study in studies:  # titles differ, by the folder if need be
        if titles.count(title := study.content["title"]) > 1:
            study.content["title"] = f"{title} ({study.link})"
    places = {name: place for place, name in enumerate(order)}
    return sorted(studies, key=lambda study: places.get(name_of(study.content), len(places)))


def index(root: Path, order: Sequence[str] = ()) -> Path:
    """Writes `index.html`, a page of all reports below a folder, and returns its path.

    Args:
        root: The folder. The page is written into it, and links the figures where they are.
        order: Names of studies, in the order of their sections. The page says which of them have no report.

    Raises:
        ValueError: The folder holds no report.
    """
    studies = studies_below(root, order)
    sections, readable = [], {}
    for study in studies:
        its_section, points = section(study, root)
        sections.append(its_section)
        readable |= points
    present = {name_of(study.content) for study in studies}
    dates = sorted(study.content.get("provenance", {}).get("date", "")[:10] for study in studies)
    contents = [f'<li><a href="#{study.anchor}">{text(study.content["title"])}</a></li>' for study in studies]
    parts = dict(
        style=(FILES / "page.css").read_text(), script=(FILES / "page.js").read_text(), contents="".join(contents),
        overview=overview(studies, root, [name for name in order if name not in present]), sections="\n".join(sections),
        readable=json.dumps(readable, separators=(",", ":")).replace("<", "\\u003c"), date=dates[-1] if dates[-1] else "",
    )  # fmt: skip
    page = (FILES / "page.html").read_text()
    path = root / "index.html"
    path.write_text(re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], page))
    return path
