"""The experiment on likelihood on S^2: its teacher and data, its smoothing beside loops, and a small one from end to end."""

import json

import pytest

from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from experiments import reference, sphere2_likelihood
from experiments.sphere2_likelihood import (
    Settings,
    main,
    smoothed,
    teacher,
)


def test_from_end_to_end(tmp_path, monkeypatch, capsys):
    methods = dict(network=Likelihood(teacher().space, neurons=64, sampler="importance", chains=1000))
    monkeypatch.setattr(sphere2_likelihood, "method_of", lambda case: methods.get(case, WeightedLikelihood(teacher().space, chains=1000)))
    monkeypatch.setattr(sphere2_likelihood, "NODES", 20)
    main(Settings(steps=20, out=tmp_path))
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert [row["iteration"] for row in said["rows"]] == [10, 20]
    first, last = said["rows"]
    for case in sphere2_likelihood.CASES:
        for row in said["rows"]:
            assert 0 < row[f"{case}_least"] <= row[case] <= row[f"{case}_largest"] < 0.2
        assert sphere2_likelihood.CASES[case] in said["summary"]
    assert last["stay"] < first["stay"] < teacher().kl_to_uniform and last["react"] < first["react"]
    assert first["authors"] == pytest.approx(smoothed(*reference.author_sphere2_likelihood(), 10))
    assert "--steps 20" in said["command"] and said["summary"] in capsys.readouterr().out
    assert list(said["figures"]) == ["sphere2_likelihood.png"]
    assert (tmp_path / "quick" / "sphere2_likelihood.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"quick", "quick_stay", "quick_react", "quick_network"}
