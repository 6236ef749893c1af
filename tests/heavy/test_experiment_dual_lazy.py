"""The experiment on neurons that move and neurons that stay: its numbers beside loops, and a small one from end to end."""

import json

import numpy as np

from dualebm.sweeps.folder import open_sweep
from dualebm.sweeps.grid import product
from experiments import dual_lazy
from experiments.dual_lazy import Settings, main


def small(tmp_path, **changes):
    return Settings(teachers=("s2_bimodal",), n=(12,), kernel_n=12, seeds=1, steps=20, test_points=50, out=tmp_path, **changes)


def test_a_sweep(tmp_path):
    """Its numbers are the means over the second half of the records."""
    grid = product(kind=["F2"], teacher=["s2_bimodal"], n=[12], radius=[5.0, 10.0], features=[16], seed=[0])
    found = dual_lazy.solve(small(tmp_path), "F2", "s2_bimodal", grid, "F2")
    records = open_sweep(tmp_path / "quick_s2_bimodal_F2").kl
    assert records.step.values.tolist() == list(range(0, 21, 2))
    by_hand = np.mean(records.values[:, 6:], axis=1, dtype=float)
    np.testing.assert_allclose(found.kl.values.ravel(), by_hand, rtol=1e-5)
    assert (found.acceptance.values > 0.3).all()


def test_from_end_to_end(tmp_path):
    main(small(tmp_path, more_features=16))
    (row,) = json.loads((tmp_path / "quick" / "report.json").read_text())["rows"]
    assert row["F1_least"] <= row["F1"] <= row["F1_largest"]
    assert row["F2_radius"] in dual_lazy.RADII["F2"]
