"""The experiment on a circle: F2 solved beside its optimality conditions, the errors beside sums, and all methods from end to end."""

import json

from experiments.torus import runs
from experiments.torus.__main__ import main
from experiments.torus.runs import Settings


def test_from_end_to_end(tmp_path, capsys):
    flows, rest = runs.FLOWS, runs.REST
    settings = Settings(n=30, particles=20, steps=10, seeds=1, out=tmp_path)
    main(settings)
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    expected = [runs.TITLES[kind] for kind in (*flows, *rest) for _ in range(2 if kind in runs.F2 else 1)]
    assert [row["method"] for row in said["rows"]] == ["best of the F2 ball", *expected]
    assert all(0 < row["kl"] < 20 and 0 < row["density"] < 2 for row in said["rows"])
    assert said["rows"][1]["kl"] != said["rows"][2]["kl"]  # of the last energy and of the mean one
    for name in said["figures"]:
        assert (tmp_path / "quick" / name).stat().st_size > 10_000
    main(settings)  # continues: nothing is left to do
    assert json.loads((tmp_path / "quick" / "report.json").read_text())["rows"] == said["rows"]
    assert "best of the F2 ball" in capsys.readouterr().out
