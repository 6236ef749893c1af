"""The experiment from end to end and again from its folders, what it tells of the digits, and its bad inputs."""

import dataclasses
import json

import matplotlib.image
import numpy as np
import pytest
import xarray

from experiments.images import training
from experiments.images.__main__ import main
from experiments.images.training import CD, JARZYNSKI, PCD, picture
from tests.experiments.test_images import TOY, folder_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of a run of both methods, and where it is."""
    out = tmp_path_factory.mktemp("images")
    return main(dataclasses.replace(TOY, out=out, first_seed=7)), out


def test_end_to_end(whole):
    rows, out = whole
    assert [row["method"] for row in rows] == [JARZYNSKI, PCD, CD, "held-out images", "normal", "mixture", "kernels"]
    assert all(row["seed"] == 7 for row in rows)
    assert rows[0]["train"] < 0 and rows[0]["effective"] > 0.3 and rows[1]["train"] is None
    for row in rows[:3]:
        assert sum(row[f"mass_{c}"] for c in (2, 3, 6)) == pytest.approx(1, abs=1e-5)
        assert row["annealed_train"] == pytest.approx(row["annealed_held_out"], abs=3) and row["seconds"] > 0
    folder = out / "quick_Jarzynski_seed=7"
    with xarray.open_zarr(folder / "run" / "results.zarr", consolidated=False) as found:
        assert found.masses.shape == (1, 7, 3) and found.images.shape == (1, 7, 64, 64) and found.log_partition.shape == (1, 7, 2)
        last = found.isel(run=0, step=-1).load()
    assert rows[0]["train"] == float(last.train) and rows[0]["error"] == float(last.log_partition[1])
    assert rows[0]["mass_error"] == pytest.approx(np.abs(last.masses.values - np.array([4, 2, 1]) / 7).max(), abs=1e-6)
    assert [path.stat().st_size > 1000 for path in folder.glob("*.png")] == [True] * 4
    shown = matplotlib.image.imread(folder / "samples_12.png")
    np.testing.assert_allclose(shown[3::7, 3::7, 0], (picture(last.images.values, (8, 8)) + 1) / 2, atol=0.01)
    told = json.loads((out / "quick" / "report.json").read_text())
    assert set(told["figures"]) == {"samples.png", "chains.png", "training.png"} and "--walkers 64" in told["command"]
    assert (out / "quick" / "training.png").stat().st_size > 10_000 and "Largest error of a mass" in told["summary"]


def test_a_run_that_was_killed_ends_as_one_that_was_not(whole, tmp_path, monkeypatch):
    rows, out = whole
    settings, kept, calls = dataclasses.replace(TOY, out=tmp_path, first_seed=7), training.save_samples, []

    def killed(folder, known, results):
        calls.append(int(results.step.values[-1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return kept(folder, known, results)

    monkeypatch.setattr(training, "save_samples", killed)
    with pytest.raises(KeyboardInterrupt):
        main(settings)
    assert calls == [2, 6, 10] and (tmp_path / "quick_Jarzynski_seed=7" / "samples_6.png").exists()
    monkeypatch.setattr(training, "save_samples", kept)
    rest = main(settings)
    assert [{**row, "seconds": 0} for row in rest] == [{**row, "seconds": 0} for row in rows]
    for folder in ("quick_Jarzynski_seed=7", "quick_PCD_data_seed=7"):
        assert {p.name: p.read_bytes() for p in (tmp_path / folder).glob("*.png")} == {
            p.name: p.read_bytes() for p in (out / folder).glob("*.png")
        }
    manifest = (tmp_path / "quick_PCD_data_seed=7" / "run" / "manifest.json").read_bytes()
    again = main(settings)
    assert (tmp_path / "quick_PCD_data_seed=7" / "run" / "manifest.json").read_bytes() == manifest  # nothing was done again
    assert all(row["seconds"] > one["seconds"] for row, one in zip(again[:3], rest[:3], strict=True))


def test_the_network_of_the_paper_on_idx_files(tmp_path):
    folder = folder_of(tmp_path / "idx")
    settings = dataclasses.replace(
        TOY, preset="paper", data=folder, walkers=16, walker_batch=8, walker_batches=2, moves=1, steps=4, records=2, out=tmp_path / "out"
    )
    rows = main(settings)
    assert all(np.isfinite(row["annealed_train"]) for row in rows[:3]) and (tmp_path / "out" / "paper" / "samples.png").exists()


def test_a_small_run_at_14_x_14_from_end_to_end(tmp_path):
    """All methods and simple densities; the normal distribution, which is the base measure, has the cross-entropy 0."""
    folder = folder_of(tmp_path / "idx", each=60)
    settings = dataclasses.replace(
        TOY, preset="medium", data=folder, copies=2, walkers=32, walker_batch=None, renewal=4, moves=1, steps=4, records=2,
        out=tmp_path / "out",
    )  # fmt: skip
    rows = {row["method"]: row for row in main(settings)}
    assert list(rows) == [JARZYNSKI, PCD, CD, "held-out images", "normal", "mixture", "kernels"]
    assert rows["normal"]["last_held_out"] == pytest.approx(0, abs=1e-3) and rows["mixture"]["chosen"].endswith("components")
    for label in (JARZYNSKI, PCD, CD):
        row = rows[label]
        assert np.isfinite([row["last_held_out"], row["annealed_held_out"], row["lag"], row["median_share"]]).all()
        assert row["median_moves"] == 1
        assert sum(row[f"model_mass_{c}"] for c in (2, 3, 6)) == pytest.approx(1, abs=1e-5) and row["trusted"] in ("yes", "no")
    assert all((tmp_path / "out" / "medium" / f"{name}.png").exists() for name in ("samples", "chains", "training"))
    followed = tmp_path / "out" / "medium_CD_seed=0" / "run" / "results.zarr"
    with xarray.open_zarr(followed, consolidated=False) as found:
        assert found.followed.shape == (1, 3, 8, 196) and found.steps.shape == (1, 3, 3)
