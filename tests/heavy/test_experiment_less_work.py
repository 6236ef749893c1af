"""The experiment from end to end, and its bad inputs."""

import json

import numpy as np
import xarray

from experiments import less_work
from experiments.less_work import Settings, main, options


def test_end_to_end(tmp_path, capsys, monkeypatch):
    few = ("default", "data batch n/10", "4 moves of particles")
    monkeypatch.setattr(less_work, "options", lambda n: {label: options(n)[label] for label in few})
    monkeypatch.setattr(less_work, "TEACHERS", ("s2_bimodal",))
    settings = Settings(n=200, seeds=2, steps=60, repetitions=1, test_points=500, out=tmp_path)
    rows = main(settings)
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.nc", "summary.json", "report.json", "rows.csv", *(f"less_work.{kind}" for kind in ("png", "pdf", "csv", "json")),
    }  # fmt: skip
    results = xarray.load_dataset(tmp_path / "results.nc")
    assert dict(results.kl.sizes) == {"teacher": 1, "option": 3, "seed": 2, "step": 7}
    assert np.isfinite(results.kl).all() and (results.seconds > 0).all()
    at_start = results.kl.isel(step=0, teacher=0)
    np.testing.assert_allclose(at_start, at_start.sel(option="default").broadcast_like(at_start), rtol=1e-5)  # the same data and state
    default, batch = (results.kl.sel(option=label).isel(step=-1).values for label in few[:2])
    assert (default < 0.8 * at_start.sel(option="default").values).all() and (default != batch).any()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {row["teacher and option"]: row["KL in equal time"] for row in rows} == {name: one["kl"] for name, one in summary.items()}
    assert "4 moves of particles" in capsys.readouterr().out
