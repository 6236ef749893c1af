"""The experiment on the two limits: what it measures with, against NumPy and closed forms; from end to end; and its bad settings."""

import json

import pytest

from dualebm.features import ReLU
from dualebm.spaces import Sphere
from experiments.mean_field import many, matching, measured
from experiments.mean_field.__main__ import Settings, main


def test_end_to_end(tmp_path, monkeypatch):
    data = lambda count: measured.smooth_data(Sphere(2), count)  # noqa: E731
    case = many.Case("circle, ReLU", Sphere(2), ReLU(), data, 10.0, 0.2, 8, ((16, 16), (32, 32)))
    monkeypatch.setattr(many, "cases", lambda paper: {"circle": case})
    monkeypatch.setattr(many, "FINE", 16)
    monkeypatch.setattr(many, "COARSE", 8)
    monkeypatch.setattr(matching, "PARTICLE_CELLS", 32)
    monkeypatch.setattr(matching, "NEURON_CELLS", (32, 64))
    monkeypatch.setattr(matching, "ATOMS", 64)
    monkeypatch.setattr(matching, "PLANS", {"quick": matching.Matching((8, 16, 32, 64), (2, 4, 6, 8), (8, 16))})
    rows = main(Settings(only=("circle", "matching"), seeds=2, sizes=2, out=tmp_path))
    assert len(rows) == 2 * many.RECORDS + 3 + 2 + 1 and all(row.keys() == rows[0].keys() for row in rows)
    assert rows[0]["case"] == "circle, nu" and rows[0]["expected"] == -0.5 and rows[0]["bias"] > 0
    assert rows[8]["slope"] == pytest.approx(-1, abs=0.25)  # the equations to score matching
    content = json.loads((tmp_path / "report.json").read_text())
    assert {f"mean_field_{name}.png" for name in ("errors", "circle_densities", "matching")} == set(content["figures"])
    assert all((tmp_path / name).stat().st_size > 10_000 for name in content["figures"])
