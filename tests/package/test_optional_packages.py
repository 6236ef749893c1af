"""Packages that only some functions need: the error that misses one names it, with the command that installs it."""

import re
import sys

import h5netcdf  # noqa: F401, which looks for h5py once, when it is imported
import pytest
import xarray

from dualebm import to_netcdf
from dualebm.data import tables
from dualebm.estimator import EnergyModel
from dualebm.plotting import films


def fitted():
    model = EnergyModel()
    model.model_ = None  # what says that it is fitted
    return model


@pytest.mark.parametrize(
    ("package", "need", "message", "install"),
    [
        ("pyarrow", lambda folder: tables.read(folder / "a.parquet"), "a.parquet needs the package pyarrow", "'dualebm[tables]'"),
        ("openpyxl", lambda folder: tables.read(folder / "a.xlsx"), "a.xlsx needs the package openpyxl", "'dualebm[tables]'"),
        ("arviz", lambda folder: fitted().to_arviz(4), "to_arviz needs the package arviz", "'arviz<1'"),
        ("imageio_ffmpeg", lambda folder: films.film(folder / "a.gif", []), "a film needs the package imageio_ffmpeg", "imageio-ffmpeg"),
        ("h5netcdf", lambda folder: to_netcdf(xarray.Dataset(), folder / "a.nc"), "to_netcdf needs the package h5netcdf", "h5netcdf h5py"),
        ("h5py", lambda folder: to_netcdf(xarray.Dataset(), folder / "a.nc"), "to_netcdf needs the package h5py", "h5netcdf h5py"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, need, message, install):
    for name in ("a.parquet", "a.xlsx"):
        (tmp_path / name).write_bytes(b"")
    before = set(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{re.escape(message)} \(.*\): pip install {re.escape(install)}$"):
        need(tmp_path)
    assert set(tmp_path.iterdir()) == before
