"""The reports in which experiments end, and the command that runs them all."""

import dataclasses
import importlib
import inspect
import json
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
    panel = figure.subplots()
    panel.loglog([1, 10], [2, 3], label="ours")
    panel.fill_between([1, 10], [1, 2], [3, 4])
    panel.set(xlabel="iteration", ylabel="$h_x$ (nat)", title="S^2")
    given = dict(
        title="A <title>", about="What is seen.", command="python -m experiments.x --preset quick", seconds=1.26,
        rows=[{"n": np.int64(3), "KL": np.float32(0.25)}, {"n": 4, "KL": float("inf")}], paper="the paper's numbers & words",
        figures={"the_curves": (figure, "The curves. Bands are <seeds>.")}, summary="It holds.", seeds=range(3),
        published=[report.Published("KL (nat) of x", 0.2, 0.1, 0.3, 0.4, "a table")],
    )  # fmt: skip
    report.write(folder, **(given | changes))


def test_a_report_is_json_that_any_tool_reads(tmp_path, capsys):
    written(tmp_path / "one")
    told = json.loads((tmp_path / "one/report.json").read_text(), parse_constant=pytest.fail)
    assert told["rows"] == [{"n": 3, "KL": 0.25}, {"n": 4, "KL": "inf"}] and told["seconds"] == 1.3
    assert told["figures"] == {"the_curves.png": "The curves. Bands are <seeds>."} and told["provenance"]["seeds"] == [0, 1, 2]
    assert told["published"][0]["compared"] == "below" and told["published"][0]["published"] == 0.4
    assert (tmp_path / "one/rows.csv").read_text().splitlines() == ["n,KL", "3,0.25", "4,inf"]
    assert (tmp_path / "one/the_curves.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "one/the_curves.pdf").exists()
    points = (tmp_path / "one/the_curves.csv").read_text().splitlines()
    assert points == ["panel,title,curve,x,y", "1,S^2,ours,1.0,2.0", "1,S^2,ours,10.0,3.0"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:6] == ["n    KL", "3  0.25", "4   inf"] and "It holds." in lines


def test_a_call_that_finds_all_results_keeps_what_they_cost(tmp_path):
    seconds = lambda: json.loads((tmp_path / "report.json").read_text())["seconds"]  # noqa: E731
    other = {"command": "python -m experiments.y"}
    for took, changes, expected in ((30.0, {}, 30.0), (2.0, {}, 30.0), (40.0, {}, 40.0), (2.0, other, 2.0)):
        written(tmp_path, seconds=took, **changes)
        assert seconds() == expected


def test_every_experiment_is_run_by_all_and_has_the_same_form():
    studies = {path.stem for path in FOLDER.glob("*.py") if "\nclass Settings" in path.read_text()}
    folders = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert (studies - {"__main__", "publish"}) | folders == set(runner.EXPERIMENTS)
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
        written(Path(words[-1]), command=f"python -m {words[2]} --preset paper")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="failed: torus"):
        runner.main(runner.Settings(("all",), "paper", tmp_path))
    assert [words[0] for words in ran] == [f"experiments.{name}" for name in runner.EXPERIMENTS]
    assert ran[0][1:] == ["--preset", "paper", "--out", str(tmp_path / runner.EXPERIMENTS[0])]
    assert f"written to {tmp_path}/index.html" in capsys.readouterr().out
    assert "Without a report here: torus." in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("names", "preset"), [(("torsu",), "quick"), (("all",), "fast")])
def test_bad_names(names, preset, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean 'torus'|preset is 'fast'"):
        runner.main(runner.Settings(names, preset, tmp_path))
    assert not list(tmp_path.iterdir())
