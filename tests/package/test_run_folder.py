"""Results are written by region on whole chunks, take no memory before, and export to netCDF."""

import json

import numpy as np
import pytest
import xarray

from dualebm.training import run_folder

VARIABLES = {
    "kl": run_folder.Variable((), "float32", {"units": "nat", "long_name": "KL(teacher, student)"}),
    "weights": run_folder.Variable((4,), "float64", {}),
    "diverged": run_folder.Variable((), "int32", {}),
}


def a_store(folder, runs=5, records=7, chunk=(2, 3), **changes):
    given = dict(coordinates={"radius": np.linspace(1, 2, runs)}, attributes={"settings": {"every": 10}, "none": None})
    run_folder.create_results(folder, np.arange(records) * 10, VARIABLES, runs=runs, chunk=chunk, **{**given, **changes})


def some_records(runs, records):
    values = np.random.default_rng(0).normal(size=(runs, records, 4))
    return {"kl": values[..., 0].astype("float32"), "weights": values, "diverged": np.zeros((runs, records), "int32")}


def test_a_sweep_is_written_by_region_on_whole_chunks(tmp_path):
    a_store(tmp_path)
    found = run_folder.open_results(tmp_path)
    assert dict(found.sizes) == {"run": 5, "step": 7, "weights_0": 4}
    assert found.step.values.tolist() == list(range(0, 70, 10)) and found.run.values.tolist() == [0, 1, 2, 3, 4]
    assert "radius" in found.coords and found.radius.dims == ("run",)
    assert np.isnan(found.kl).all() and np.isnan(found.weights).all() and (found.diverged == -1).all()
    assert found.kl.attrs == VARIABLES["kl"].attributes and found.attrs["settings"] == {"every": 10}

    expected = some_records(5, 7)
    runs = {name: values[2:4, 3:6] for name, values in expected.items()}
    run_folder.write_results(tmp_path, runs, run=2, record=3)
    run_folder.write_results(tmp_path, {name: values[4:, 6:] for name, values in expected.items()}, run=4, record=6)
    found = run_folder.open_results(tmp_path).load()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].values[2:4, 3:6], values[2:4, 3:6])
        np.testing.assert_array_equal(found[name].values[4:, 6:], values[4:, 6:])
    assert np.isfinite(found.kl).sum() == 6 + 1 and (found.diverged == 0).sum() == 7

    for start, size in ((1, 3), (3, 2), (0, 4)):
        with pytest.raises(ValueError, match="is not made of whole chunks of 3"):
            run_folder.write_results(tmp_path, {"kl": np.zeros((2, size), "float32")}, run=0, record=start)
    with pytest.raises(ValueError, match=r"\[1, 3\) on axis 0 is not made of whole chunks of 2"):
        run_folder.write_results(tmp_path, {"kl": np.zeros((2, 3), "float32")}, run=1)
    xarray.testing.assert_identical(run_folder.open_results(tmp_path).load(), found)


def test_a_store_is_preallocated_without_memory(tmp_path):
    a_store(tmp_path, runs=1_000_000, records=10_001, chunk=(512, 100), coordinates=None)
    run_folder.write_results(tmp_path, {"kl": np.ones((512, 100), "float32")}, run=512_000, record=9_900)
    found = run_folder.open_results(tmp_path)
    assert found.kl.shape == (1_000_000, 10_001)
    assert float(found.kl[512_100, 9_950]) == 1 and np.isnan(found.kl[0, 0])


def test_netcdf_holds_the_same(tmp_path):
    a_store(tmp_path)
    run_folder.write_results(tmp_path, {name: v[:, :3] for name, v in some_records(5, 3).items()})
    run_folder.to_netcdf(tmp_path, tmp_path / "results.nc")
    found, there = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf"), run_folder.open_results(tmp_path).load()
    xarray.testing.assert_equal(found, there)
    assert found.kl.attrs == there.kl.attrs and found.diverged.dtype == np.int32
    assert json.loads(found.attrs["settings"]) == {"every": 10} and json.loads(found.attrs["none"]) is None
    with pytest.raises(FileNotFoundError, match=r"\[Errno 2\] folder .* holds no results"):
        run_folder.to_netcdf(tmp_path / "empty", tmp_path / "other.nc")
    with pytest.raises(OSError, match="cannot write"):
        run_folder.to_netcdf(tmp_path, tmp_path / "results.nc" / "x.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.nc", "results.zarr"]
