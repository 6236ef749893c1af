"""The experiment on hidden dimensions: its divergences beside independent ones, its reading of n, and a small one from end to end."""

import json

import numpy as np
import pytest
import xarray

from experiments import hidden_dimension
from experiments.hidden_dimension import (
    Settings,
    main,
    teacher,
)


def test_rows_and_figures_of_known_numbers(tmp_path, monkeypatch):
    """KL = 5 d / n of F1, 5 d^2 / n of F2, which falls to 0.05 at n = 100 d and 100 d^2, or beyond the last n."""

    def solve(settings, hidden, dimension, regime):
        n = np.repeat(settings.n, 2)
        kl = 5 * dimension ** (1 if regime == "active" else 2) / n
        return xarray.Dataset({"kl": ("run", kl * np.tile([0.5, 1.5], len(settings.n)))}, {"n": ("run", n)})

    monkeypatch.setattr(hidden_dimension, "solve", solve)
    main(Settings(hidden=(1, 2), dimensions=(3, 20), n=(100, 1000, 10_000), fraction=0.1, out=tmp_path))
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert [(row["k"], row["d"]) for row in said["rows"]] == [(1, 3), (1, 20), (2, 3), (2, 20)]
    for row in said["rows"]:
        d = row["d"]
        assert row["weight"] == pytest.approx(float(teacher(row["k"], d).energy.coefficients[0]))
        assert row["F1_needs"] == pytest.approx(100 * d)
        assert row["F2_needs"] == (pytest.approx(900) if d == 3 else "nan")
        assert [row[f"F2_KL_{n}"] for n in (100, 1000, 10_000)] == pytest.approx([5 * d * d / n for n in (100, 1000, 10_000)])
    for name in said["figures"]:
        assert (tmp_path / "quick" / name).stat().st_size > 10_000


def test_from_end_to_end(tmp_path, monkeypatch):
    for name, value in dict(STEPS=20, RECORDS=4, FEATURES=16, TEST=200, RADII={"active": (0.5, 1.0), "lazy": (1.0, 2.0)}).items():
        monkeypatch.setattr(hidden_dimension, name, value)
    main(Settings(dimensions=(4,), n=(20, 40), out=tmp_path))
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    (row,) = said["rows"]
    assert (row["k"], row["d"]) == (1, 4)
    assert all(0 < row[f"{label}_KL_{n}"] < 5 for label in ("F1", "F2") for n in (20, 40))
    assert "--dimensions 4 --n 20 40" in said["command"]
    assert set(said["figures"]) == {"hidden_dimension.png"}
    for name in said["figures"]:
        assert (tmp_path / "quick" / name).stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"quick", "quick_k=1_d=4_active", "quick_k=1_d=4_lazy"}
