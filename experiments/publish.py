"""Copies the report of a study and its figures to the pages of the site, which take their tables and numbers from it.

    python -m experiments.publish torus results/torus/paper
    python -m experiments.publish two_teachers_s2 results/two_teachers/s2_bimodal_default

The report becomes `docs/reproductions/reports/NAME.json`, and each figure `docs/figures/NAME_FIGURE.png`, or `FIGURE.png` where its name
begins with that of the report. Tables of the README below a line `<!-- NAME: | {COLUMN} | ... -->` receive the rows anew. A report of
sources that differ from a commit is refused, because nobody could make it again.
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
    folder: tyro.conf.Positional[Path]
    """The folder of the study that holds `report.json`."""
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


def main(settings: Settings) -> None:
    """Copies the report and its figures, and renews the tables of the README.

    Raises:
        ValueError: The name is not one of a file, the folder has no report, or the report has no commit.

    >>> main(Settings("../torus", Path("results")))
    Traceback (most recent call last):
    ...
    ValueError: name is '../torus'; it must be letters, digits and underscores
    """
    if not re.fullmatch(r"\w+", settings.name):
        raise ValueError(f"name is {settings.name!r}; it must be letters, digits and underscores")
    path = settings.folder / report.REPORT
    if not path.is_file():
        raise ValueError(f"folder is {settings.folder}, which holds no {report.REPORT}; run the study first")
    content = json.loads(path.read_text())
    revision = content.get("provenance", {}).get("git_revision")
    if not revision or revision.endswith("-dirty"):
        raise ValueError(f"{path} is of sources that are no commit ({revision}); commit them and run the study again")
    reports, figures = settings.docs / "reproductions/reports", settings.docs / "figures"
    for folder in (reports, figures):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (name for name in content["figures"] if name.endswith(".png")):
        shutil.copyfile(settings.folder / name, figures / (name if name.startswith(settings.name) else f"{settings.name}_{name}"))
    (reports / f"{settings.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    readme = settings.docs.parent / "README.md"
    if readme.is_file():
        readme.write_text(refreshed(readme.read_text(), settings.name, content["rows"]))
    print(f"{settings.name}: {len(content['rows'])} rows and {len(content['figures'])} figures of revision {revision[:7]}")


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
