"""A report becomes a file of the pages, with its figures, where a commit made it."""

import json
from pathlib import Path

import pytest

from experiments import publish, report

REPORTS = publish.DOCS / "reproductions/reports"


def study(folder: Path, revision: str | None, **row: float) -> None:
    """Writes a folder as a study leaves it."""
    folder.mkdir()
    content = dict(
        command=f"python -m experiments.{folder.name}", seconds=2.5, rows=[row or {"n": 1}], published=[],
        figures={"curves.png": "curves", "film.mp4": "a film"}, provenance=dict(git_revision=revision),
    )  # fmt: skip
    (folder / report.REPORT).write_text(json.dumps(content))
    (folder / "curves.png").write_bytes(b"a figure")


def test_a_report_and_its_figures_are_copied(tmp_path, capsys):
    study(tmp_path / "run", "a" * 40)
    publish.main(publish.Settings("torus", (tmp_path / "run",), tmp_path / "docs"))
    assert "no page shows torus_curves.png" in capsys.readouterr().out and not list((tmp_path / "docs/figures").iterdir())
    (tmp_path / "docs/page.md").write_text("![curves](figures/torus_curves.png)")
    publish.main(publish.Settings("torus", (tmp_path / "run",), tmp_path / "docs"))
    copied = json.loads((tmp_path / "docs/reproductions/reports/torus.json").read_text())
    assert copied == json.loads((tmp_path / "run" / report.REPORT).read_text())
    assert [path.name for path in (tmp_path / "docs/figures").iterdir()] == ["torus_curves.png"]
    assert "aaaaaaa" in capsys.readouterr().out


def test_reports_of_several_calls_become_one(tmp_path):
    for name, kl in (("first", 0.1), ("second", 0.2)):
        study(tmp_path / name, "a" * 40, kl=kl)
    folders = (tmp_path / "first", tmp_path / "second")
    publish.main(publish.Settings("deep", folders, tmp_path / "docs"))
    content = json.loads((tmp_path / "docs/reproductions/reports/deep.json").read_text())
    assert content["rows"] == [{"kl": 0.1}, {"kl": 0.2}] and content["seconds"] == 5
    assert content["command"] == "python -m experiments.first; python -m experiments.second"
    study(tmp_path / "other_columns", "a" * 40, n=1)
    study(tmp_path / "other_revision", "b" * 40, kl=0.3)
    for name, message in (("other_columns", "2 lists of columns, kl and n"), ("other_revision", "2 revisions")):
        with pytest.raises(ValueError, match=message):
            publish.main(publish.Settings("deep", (*folders, tmp_path / name), tmp_path / "docs"))
    with pytest.raises(ValueError, match="folders is empty"):
        publish.main(publish.Settings("deep", (), tmp_path / "docs"))


@pytest.mark.parametrize("revision", [None, "a" * 40 + "-dirty"])
def test_a_report_of_no_commit_is_refused(tmp_path, revision):
    study(tmp_path / "run", revision)
    with pytest.raises(ValueError, match="no commit"):
        publish.main(publish.Settings("torus", (tmp_path / "run",), tmp_path / "docs"))
    assert not (tmp_path / "docs").exists()


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no report"):
        publish.main(publish.Settings("torus", (tmp_path,), tmp_path / "docs"))


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_published_report_says_where_it_comes_from(path):
    content = json.loads(path.read_text())
    revision = content["provenance"]["git_revision"]
    assert len(revision) == 40 and int(revision, 16) and content["provenance"]["date"][:2] == "20" and content["provenance"]["machine"]
    assert content["command"].startswith("python -m experiments.") and "/work" not in content["command"] and content["rows"]
    assert len({tuple(row) for row in content["rows"]}) == 1  # each row has the same columns


def test_tables_of_the_readme_have_the_rows_of_their_reports():
    text, names = (publish.DOCS.parent / "README.md").read_text(), 0
    for path in REPORTS.glob("*.json"):
        names += f"<!-- {path.stem}: |" in text
        assert publish.refreshed(text, path.stem, json.loads(path.read_text())["rows"]) == text
    assert names
