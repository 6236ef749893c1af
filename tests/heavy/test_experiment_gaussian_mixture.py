"""The experiment from end to end at toy size, its metrics beside NumPy, and its bad inputs."""

import json

import numpy as np
import pytest

from experiments.gaussian_mixture.__main__ import main
from experiments.gaussian_mixture.sweeps import RECORDS, Settings, variants


def test_end_to_end_and_again_from_its_folders(tmp_path, capsys):
    settings = Settings(
        dimension=2, n=40, walkers=20, steps=2 * RECORDS, seeds=2, walker_dimension=2, walker_counts=(20, 40), walker_seeds=2,
        test_points=50, out=tmp_path,
    )  # fmt: skip
    rows = main(settings)
    parts = ["Jarzynski", "Jarzynski, adjusted", "PCD", "CD"]
    parts += ["N = 20", "N = 40"]
    assert [row["part"] for row in rows if row["what"] == "mass of the first mode"] == parts
    assert all(row["least"] <= row["mean"] <= row["largest"] for row in rows if np.isfinite(row["mean"]))
    report = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(report["figures"]) == {f"gaussian_mixture{name}.png" for name in ("", "_weights", "_walkers")}
    assert "--walker-counts 20 40" in report["command"] and report["rows"][0]["have"].endswith("of 2")
    assert [row["mean"] for row in main(settings)] == [pytest.approx(row["mean"], nan_ok=True) for row in rows]
    assert "Jarzynski, mass of the first mode" in capsys.readouterr().out


def test_modes_are_found_by_the_correction_alone(tmp_path):
    settings = Settings(dimension=3, n=400, walkers=400, steps=8000, seeds=1, walker_counts=(), test_points=2000, out=tmp_path)
    found = {(row["part"], row["what"]): row["mean"] for row in main(settings)}
    assert found["Jarzynski", "mass of the first mode"] == pytest.approx(0.25, abs=0.08)
    assert found["PCD", "mass of the first mode"] < 0.05 and found["CD", "mass of the first mode"] > 0.4
    assert found["Jarzynski, adjusted", "mass of the first mode"] == pytest.approx(0.25, abs=0.08)  # 400 walkers
    assert max(found[name, "resamplings"] for name in ("Jarzynski", "Jarzynski, adjusted")) < 20
    assert found["Jarzynski", "KL, fresh data"] < 0.06 < found["CD", "KL, fresh data"] < found["PCD", "KL, fresh data"]
    assert found["Jarzynski", "mean 1, first coordinate"] == pytest.approx(-10, abs=0.3)


def test_variants_end_to_end(tmp_path):
    settings = Settings(
        methods=("jarzynski",), dimension=2, n=40, walkers=20, steps=2 * RECORDS, seeds=1, walker_counts=(), variants=True, test_points=50,
        out=tmp_path,
    )  # fmt: skip
    rows = main(settings)
    masses = {row["part"]: row["mean"] for row in rows if row["what"] == "mass of the first mode"}
    assert list(masses) == ["Jarzynski", *variants()]
    assert masses["Jarzynski"] == masses["as the others"] != masses["increment uncorrected"]
