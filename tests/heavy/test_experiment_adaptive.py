"""The adapted steps against NumPy recursions, dense matrices, and the stability of exact dynamics on the circle."""

import json

import numpy as np
import xarray

from experiments import adaptive as experiment


def test_experiment_end_to_end(tmp_path, capsys):
    small = dict(teachers=("s2_bimodal",), signs=("half",), n=100, neurons=4, steps=8, warmup=4, seeds=2)
    (row,) = experiment.main(experiment.Settings(**small, test_points=100, out=tmp_path))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} == {"results.nc", "summary.json"} and (tmp_path / "adaptive_half.png").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert (row["kl"], row["ratio"]) == (summary["at"]["2.0"]["kl"], summary["at"]["2.0"]["ratio"])
    results = xarray.load_dataset(folder / "results.nc")
    assert results.kl.shape == (2, 3, 5, 4) and results.adapted.shape == (2, 4) and np.isfinite(results.adapted).all()
    assert "s2_bimodal, half, n = 100" in capsys.readouterr().out
