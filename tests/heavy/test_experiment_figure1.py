"""Figure 1: its settings, iterations to thresholds on known curves, a small comparison from end to end, and bad settings."""

import json

import numpy as np
import pytest

from dualebm.training import run_folder
from experiments.figure1 import figures, runs
from experiments.figure1.__main__ import main
from experiments.figure1.runs import ALGORITHMS, TEACHERS, Settings, scale_of, train


def test_end_to_end(tmp_path, capsys, monkeypatch):
    for module in (runs, figures):
        monkeypatch.setattr(module, "THRESHOLDS", dict.fromkeys(TEACHERS, (("kl", 0.8),)))
    small = dict(n=50, seeds=1, primal_steps=8_000, dual_steps=60, test_points=200, teachers=("s14_monomodal",), readings=("archived",))
    rows = main(Settings(**small, out=tmp_path))
    assert [row["to"] for row in rows] == ["KL 0.8"] and rows[0]["seeds"] == "1 of 1" and rows[0]["speed_up"] > 10
    told = json.loads((tmp_path / "report.json").read_text())
    assert set(told["figures"]) == {"figure1_archived.png", "figure1_speed_up.png"}
    assert "--n 50" in told["command"] and all((tmp_path / file).stat().st_size > 10_000 for file in told["figures"])
    records = {a: run_folder.open_results(tmp_path / "n=50" / f"s14_monomodal_archived_{a}_0").isel(run=0) for a in ALGORITHMS}
    ended = records["primal"].step.values[np.isfinite(records["primal"].kl.values)]
    assert rows[0]["primal"] < ended[-1] < 8_000, "a primal run ends when it has passed all"
    # The same data, test points and (all signs -1, weights 1) the same neurons: a pair.
    assert float(records["dual"].kl[0]) == pytest.approx(float(records["primal"].kl[0]), rel=1e-6)
    assert np.isfinite(records["dual"].kl.values).all()
    before = {path: path.read_bytes() for path in tmp_path.rglob("manifest.json")}
    settings = Settings(**small, out=tmp_path)
    done = train(settings, scale_of(settings), "s14_monomodal", "archived", "primal", 0)
    assert done.step.values.tolist() == ended.tolist(), "what is done is not done again"
    assert all(path.read_bytes() == text for path, text in before.items())
    assert "s14_monomodal, archived, primal, seed 0: KL" in capsys.readouterr().out
