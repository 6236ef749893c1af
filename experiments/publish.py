"""Copies the report of a study and its figures to the pages of the site, which take their tables and numbers from it.

    python -m experiments.publish torus results/torus/paper
    python -m experiments.publish deep results/deep_s14 results/deep_s2

The report becomes `docs/reproductions/reports/NAME.json`, and each figure that a page shows `docs/figures/NAME_FIGURE.png`. Words with
which the name of the report ends and that of the figure begins are written once. Reports of several calls of a study become one, with the
rows of all and the figures of the first. Tables of the README below a line `<!-- NAME: | {COLUMN} | ... -->` receive the rows anew. A
report of sources that differ from a commit is refused, because nobody could make it again.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import tyro

from experiments import report

DOCS = Path(__file__).parents[1] / "docs"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is published, and where."""

    name: tyro.conf.Positional[str]
    """The name of the report among the pages."""
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the study that hold a `report.json`; usually one."""
    docs: Path = DOCS
    """The folder of the pages."""


def refreshed(text: str, name: str, rows: list[dict[str, Any]]) -> str:
    """Returns a page whose tables of a report have its rows, each in the form that a comment above the table gives.

    >>> page = "<!-- torus: | {n} | {kl:.2f} | -->\\n| n | KL |\\n|---|---|\\n| old | row |\\n\\nText.\\n"
    >>> print(refreshed(page, "torus", [{"n": 10, "kl": 0.123}, {"n": 20, "kl": 0.1}]))
    <!-- torus: | {n} | {kl:.2f} | -->
    | n | KL |
    |---|---|
    | 10 | 0.12 |
    | 20 | 0.10 |
    <BLANKLINE>
    Text.
    <BLANKLINE>
    """
    table = re.compile(rf"(<!-- {name}: (\|.*\|) -->\n\|.*\n\|.*\n)((?:\|.*\n)*)")
    return table.sub(lambda match: match[1] + "".join(match[2].format_map(row) + "\n" for row in rows), text)


def read(folder: Path) -> dict[str, Any]:
    """Returns the report in a folder.

    Raises:
        ValueError: The folder has no report, or the report has no commit.

    >>> read(Path("results"))
    Traceback (most recent call last):
    ...
    ValueError: folders has results, which holds no report.json; run the study first
    """
    path = folder / report.REPORT
    if not path.is_file():
        raise ValueError(f"folders has {folder}, which holds no {report.REPORT}; run the study first")
    content = json.loads(path.read_text())
    revision = content.get("provenance", {}).get("git_revision")
    if not revision or revision.endswith("-dirty"):
        raise ValueError(f"{path} is of sources that are no commit ({revision}); commit them and run the study again")
    return content


def joined(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the report of several calls of a study: the first with the commands, the seconds, the rows and the published numbers of all.

    Raises:
        ValueError: There is no report, their rows have other columns, or they are of several revisions.

    >>> one = dict(command="python -m experiments.deep", seconds=1.5, rows=[{"kl": 0.1}], published=[], provenance={"git_revision": "a"})
    >>> both = joined([one, one | dict(command="python -m experiments.deep --n 9", rows=[{"kl": 0.2}])])
    >>> both["command"], both["seconds"], both["rows"]
    ('python -m experiments.deep; python -m experiments.deep --n 9', 3.0, [{'kl': 0.1}, {'kl': 0.2}])
    """
    if not contents:
        raise ValueError("folders is empty; give at least one folder of a study")
    rows = [row for content in contents for row in content["rows"]]
    for what, values in (
        ("revisions", {content["provenance"]["git_revision"] for content in contents}),
        ("lists of columns", {", ".join(row) for row in rows}),
    ):
        if len(values) > 1:
            raise ValueError(f"folders has reports of {len(values)} {what}, {' and '.join(sorted(values))}; they must be alike")
    return contents[0] | dict(
        command="; ".join(content["command"] for content in contents),
        seconds=sum(content["seconds"] for content in contents),
        rows=rows,
        published=[one for content in contents for one in content["published"]],
    )


def published_as(name: str, figure: str) -> str:
    """Returns the name of a figure among the pages: those of report and figure, with the words that they share written once.

    >>> published_as("torus", "curves"), published_as("torus", "torus_curves"), published_as("time_scales_radius", "radius_cells")
    ('torus_curves', 'torus_curves', 'time_scales_radius_cells')
    """
    words, more = name.split("_"), figure.split("_")
    shared = max(k for k in range(len(more) + 1) if words[len(words) - k :] == more[:k])
    return "_".join(words + more[shared:])


def main(settings: Settings) -> None:
    """Copies the report and its figures, and renews the tables of the README.

    Raises:
        ValueError: The name is not one of a file, a folder has no report, a report has no commit, or reports are not alike.

    >>> main(Settings("../torus", (Path("results"),)))
    Traceback (most recent call last):
    ...
    ValueError: name is '../torus'; it must be letters, digits and underscores
    """
    if not re.fullmatch(r"\w+", settings.name):
        raise ValueError(f"name is {settings.name!r}; it must be letters, digits and underscores")
    content = joined([read(folder) for folder in settings.folders])
    reports, figures = settings.docs / "reproductions/reports", settings.docs / "figures"
    for folder in (reports, figures):
        folder.mkdir(parents=True, exist_ok=True)
    pages, unused = "".join(page.read_text() for page in settings.docs.rglob("*.md")), []
    for name in (name for name in content["figures"] if name.endswith(".png")):
        flat = published_as(settings.name, name.removesuffix(".png").replace("/", "_")) + ".png"
        if f"figures/{flat}" in pages:
            shutil.copyfile(settings.folders[0] / name, figures / flat)
        else:
            unused.append(flat)
    (reports / f"{settings.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    readme = settings.docs.parent / "README.md"
    if readme.is_file():
        readme.write_text(refreshed(readme.read_text(), settings.name, content["rows"]))
    revision = content["provenance"]["git_revision"]
    left = f"; no page shows {', '.join(unused)}" if unused else ""
    print(f"{settings.name}: {len(content['rows'])} rows of revision {revision[:7]}{left}")


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
