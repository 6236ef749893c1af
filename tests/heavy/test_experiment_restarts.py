"""Restarts: the witness after them against NumPy, the annealed rates, the rows on known curves, and small studies from end to end."""

import json

from experiments.restarts import continuum, problem
from experiments.restarts.__main__ import Settings, main


def test_the_continuum_from_end_to_end(tmp_path, monkeypatch, capsys):
    for module in (continuum, problem):
        monkeypatch.setattr(module, "INTEGRATORS", {"program": "projected"})
    chosen = Settings(only=("continuum",), teachers=("s2_bimodal",), periods=(1,), n=30, steps=20, seeds=1, test_points=100, out=tmp_path)
    main(chosen)
    told = json.loads((tmp_path / "quick_continuum" / "report.json").read_text())
    assert [(row["restarts"], row["p_R"]) for row in told["rows"]] == [("none", 0), ("periodic", 1), ("bernoulli", 1)]
    assert all(0 < row["KL"] < 2 and row["KL"] == row["KL_least"] for row in told["rows"])
    assert len({row["KL"] for row in told["rows"]}) == 3
    assert (tmp_path / "quick_continuum" / "continuum.png").stat().st_size > 10_000
    assert "--only continuum --teachers s2_bimodal --periods 1" in capsys.readouterr().out
