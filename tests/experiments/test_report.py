"""The form in which experiments end, the page of them all, and the command that runs them."""

import dataclasses
import importlib
import inspect
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import __main__ as runner
from experiments import report

FOLDER = Path(report.__file__).parent
DOCS = FOLDER.parent / "docs"


def written(folder, **changes):
    figure = Figure()
    figure.subplots().plot([0, 1])
    given = dict(
        title="A <title>", about="What is seen.", command="python -m experiments.x --preset quick", seconds=1.26,
        rows=[{"n": np.int64(3), "KL": np.float32(0.25)}, {"n": 4, "KL": float("inf")}], paper="the paper's numbers & words",
        figures={"the_curves": figure}, summary="It holds.",
    )  # fmt: skip
    report.write(folder, **(given | changes))


def test_a_report_is_json_that_any_tool_reads(tmp_path, capsys):
    written(tmp_path / "one")
    told = json.loads((tmp_path / "one/report.json").read_text(), parse_constant=pytest.fail)
    assert told["rows"] == [{"n": 3, "KL": 0.25}, {"n": 4, "KL": "inf"}] and told["seconds"] == 1.3
    assert told["figures"] == {"the_curves.png": "the curves"}
    assert (tmp_path / "one/the_curves.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "one/the_curves.pdf").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:6] == ["n    KL", "3  0.25", "4   inf"] and "It holds." in lines


def test_the_page_has_every_figure_command_and_number(tmp_path):
    written(tmp_path / "b/deeper", files={"film.mp4": "a film"})
    written(tmp_path / "a", title="Another")
    page = report.index(tmp_path)
    text = page.read_text()
    sources = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            sources.extend(value for name, value in attrs if name == "src")

    Reader().feed(text)
    assert sources == ["a/the_curves.png", "b/deeper/film.mp4", "b/deeper/the_curves.png"]
    assert all((tmp_path / source).exists() for source in sources if source.endswith("png"))
    assert text.count("<code>") == 0 and text.count("python -m experiments.x --preset quick") == 2
    assert "A &lt;title&gt;" in text and "numbers &amp; words" in text and "<td>0.25</td>" in text
    assert text.index("Another") < text.index("A &lt;")


def test_an_empty_folder_has_no_page(tmp_path):
    with pytest.raises(ValueError, match=r"holds no report\.json; run an experiment"):
        report.index(tmp_path)


def test_every_experiment_is_run_by_all_and_has_the_same_form():
    studies = {path.stem for path in FOLDER.glob("*.py") if "\nclass Settings" in path.read_text()}
    folders = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert (studies - {"__main__"}) | folders == set(runner.EXPERIMENTS)
    for name in runner.EXPERIMENTS:
        module = importlib.import_module(f"experiments.{name}.__main__" if name in folders else f"experiments.{name}")
        fields = {field.name: field.default for field in dataclasses.fields(module.Settings)}
        assert fields["preset"] == "quick" and fields["out"] == Path("results") / name
        source = inspect.getsource(module)
        assert ("report.write(" in source or "report.run(" in source) and "report.script(" in source
        page = DOCS / f"reproductions/{name}.md"
        assert f"`{name}`" in (FOLDER / "README.md").read_text() and f"python -m experiments.{name}" in page.read_text(), name


def test_all_goes_on_after_one_that_fails(tmp_path, monkeypatch, capsys):
    ran = []

    def run(words):
        ran.append(words[2:])
        name = words[2].split(".")[1]
        if name == "torus":
            return type("Done", (), {"returncode": 2})
        written(Path(words[-1]))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="failed: torus"):
        runner.main(runner.Settings(("all",), "paper", tmp_path))
    assert [words[0] for words in ran] == [f"experiments.{name}" for name in runner.EXPERIMENTS]
    assert ran[0][1:] == ["--preset", "paper", "--out", str(tmp_path / runner.EXPERIMENTS[0])]
    assert f"written to {tmp_path}/index.html" in capsys.readouterr().out


@pytest.mark.parametrize(("names", "preset"), [(("torsu",), "quick"), (("all",), "fast")])
def test_bad_names(names, preset, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean 'torus'|preset is 'fast'"):
        runner.main(runner.Settings(names, preset, tmp_path))
    assert not list(tmp_path.iterdir())
