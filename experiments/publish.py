"""Copies the report of a study and its figures to the pages of the site, which take their tables and numbers from it.

    python -m experiments.publish torus results/torus/paper
    python -m experiments.publish two_teachers_s2 results/two_teachers/s2_bimodal_default

The report becomes `docs/reproductions/reports/NAME.json`, and each figure `docs/figures/NAME_FIGURE.png`, or `FIGURE.png` where its name
begins with that of the report. A report of sources that differ from a
commit is refused, because nobody could make it again.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

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


def main(settings: Settings) -> None:
    """Copies the report and its figures.

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
    print(f"{settings.name}: {len(content['rows'])} rows and {len(content['figures'])} figures of revision {revision[:7]}")


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
