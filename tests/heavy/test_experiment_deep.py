"""The experiment from end to end, what it chooses and times, and its bad inputs."""

import json

import xarray

from experiments.deep import Settings, main


def test_end_to_end_and_again_from_its_folders(tmp_path, capsys):
    settings = Settings(
        teachers=("s2_bimodal",), depths=(1,), width=8, learning_rates=(1e-4, 0.03), n=100, seeds=2, steps=40, test_points=200, out=tmp_path
    )
    rows = main(settings)
    assert [row["energy"] for row in rows] == ["shallow", "depth 1"]
    assert rows[0]["learning_rate"] is None and rows[1]["learning_rate"] == 0.03  # 1e-4 cannot move in 40 iterations
    assert all(row["least"] <= row["KL"] <= row["largest"] < 0.6325 and row["seconds"] > 0 for row in rows)  # of the uniform measure 0.6325
    folder = tmp_path / "quick_s2_bimodal"
    with xarray.open_zarr(next((folder / "depth_1_runs").rglob("results.zarr")), consolidated=False) as found:
        assert found.kl.shape == (2, 21)
    report = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(report["figures"]) == {"deep.png"} and (tmp_path / "quick" / "deep.png").stat().st_size > 10_000
    assert "--depths 1 --width 8" in report["command"]
    again = main(settings)
    assert [row["KL"] for row in again] == [row["KL"] for row in rows]
    assert "the best perceptron (depth 1)" in capsys.readouterr().out
