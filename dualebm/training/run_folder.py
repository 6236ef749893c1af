"""The folder of a run: results in one Zarr store, a manifest that counts, and a lock.

It holds

    manifest.json        what the run is and how far it has come; it names the checkpoint that counts
    checkpoint-R.npz     the state after R records (see `dualebm.training.checkpoints`)
    results.zarr         each metric, (run, step, ...), NaN where nothing is written yet

A segment is committed in the order results, checkpoint, manifest. Each file is written under a temporary name, flushed
to the disk and renamed, so a run that is killed leaves the last manifest and all that it names; what lies beyond it is
written again.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray
import zarr

from dualebm._internal import files
from dualebm._internal.files import FORMAT, PathLike

MANIFEST, RESULTS = "manifest.json", "results.zarr"
UNRECORDED = -1
"""Stands in integer variables (`diverged`) where NaN stands in others: not yet written."""


# -- The folder ------------------------------------------------------------------------------------


@contextlib.contextmanager
def hold(folder: PathLike) -> Iterator[None]:
    """Makes the folder where there is none and keeps other processes from writing to it.

    The lock is the kernel's, on the folder itself: it leaves no file, and ends with the process however that ends.
    Raises OSError where the folder cannot be made or written to, or where another process holds it.

    >>> import tempfile
    >>> with hold(Path(tempfile.mkdtemp()) / "runs" / "a"):
    ...     pass
    """
    folder = Path(folder)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"folder {folder} is in use: another run writes to it") from error
        yield
    finally:
        os.close(descriptor)


def read_manifest(folder: PathLike) -> dict | None:
    """The manifest of a run's folder; None where the folder is empty or missing.

    Raises ValueError for a folder with other files in it, a corrupt manifest, and one of another format version.

    >>> read_manifest("no/such/folder")
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        if others := [name for name in names if not name.startswith(f".{MANIFEST}.")]:
            raise ValueError(
                f"folder {folder} holds other files ({', '.join(others[:3])}); give a new or an empty folder"
            )
        return None
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}); give another folder") from error
    files.check_format(path, manifest, "run")
    return manifest


def write_manifest(folder: PathLike, manifest: dict) -> None:
    """Replaces the manifest, then removes the checkpoints that it no longer names.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_manifest(folder, {"checkpoint": None})
    >>> read_manifest(folder)
    {'kind': 'run', 'format': 3, 'checkpoint': None}
    """
    folder = Path(folder)
    text = json.dumps({"kind": "run", "format": FORMAT, **manifest}, indent=1)
    files.commit(folder / MANIFEST, lambda path: path.write_text(text))
    for path in [*folder.glob("checkpoint-*.npz"), *folder.glob(".*.tmp")]:
        if path.name != manifest["checkpoint"]:
            path.unlink()


# -- Results ---------------------------------------------------------------------------------------


class Variable(NamedTuple):
    """What is recorded under a name: shape and dtype of one record, and attributes (`units`, `long_name`)."""

    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]

    def dimensions(self, name: str) -> list[str]:
        """(run, step), then one per axis of an array-valued metric."""
        return ["run", "step", *(f"{name}_{axis}" for axis in range(len(self.shape)))]

    @property
    def fill(self) -> float:
        """What stands where nothing is written yet."""
        return UNRECORDED if np.issubdtype(self.dtype, np.integer) else np.nan


STEP_ATTRIBUTES = {"long_name": "iterations done", "units": "1"}


def dataset(
    records: dict[str, np.ndarray], steps: np.ndarray, variables: dict[str, Variable], attributes: dict
) -> xarray.Dataset:
    """The records of one run, (steps, ...), in the form of `open_results(folder).isel(run=0, drop=True)`.

    >>> dataset({"kl": np.zeros(2)}, np.array([0, 10]), {"kl": Variable((), float, {"units": "nat"})}, {}).kl.units
    'nat'
    """
    data = {name: (v.dimensions(name)[1:], records[name], v.attributes) for name, v in variables.items()}
    return xarray.Dataset(data, {"step": ("step", steps, STEP_ATTRIBUTES)}, attributes)


def create_results(
    folder: PathLike,
    steps: np.ndarray,
    variables: dict[str, Variable],
    *,
    chunk: tuple[int, int],
    runs: int = 1,
    coordinates: dict[str, np.ndarray] | None = None,
    attributes: dict | None = None,
) -> None:
    """Makes the store of results, whole and empty; one that is there is replaced.

    Args:
        folder: of the run.
        steps: iterations done at each record.
        variables: what is recorded, by name.
        chunk: (runs of a batch, records of a segment).
        runs: in the store.
        coordinates: what distinguishes the runs (a swept rate, the seed), by name, each (runs,).
        attributes: of the whole, JSON.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> create_results(folder, np.array([0, 10, 20]), {"kl": Variable((), "float32", {})}, chunk=(1, 2))
    >>> write_results(folder, {"kl": np.ones((1, 2), "float32")}, record=0)
    >>> open_results(folder).kl.values.tolist()
    [[1.0, 1.0, nan]]
    """
    path = Path(folder) / RESULTS
    with files.writing(path):
        if path.exists():
            shutil.rmtree(path)
        root = zarr.create_group(store=str(path), zarr_format=3, attributes=attributes or {})
        of_runs = {"run": (np.arange(runs), {}), **{name: (values, {}) for name, values in (coordinates or {}).items()}}
        for name, (values, attrs) in {**of_runs, "step": (np.asarray(steps), STEP_ATTRIBUTES)}.items():
            names, values = ["step" if name == "step" else "run"], np.asarray(values)
            if values.dtype.kind == "U":  # text of a fixed length has no specification in Zarr 3
                values = values.astype(np.dtypes.StringDType())
            root.create_array(name, data=values, dimension_names=names, attributes=attrs)
        for name, variable in variables.items():
            root.create_array(
                name,
                shape=(runs, len(steps), *variable.shape),
                chunks=(*chunk, *(max(size, 1) for size in variable.shape)),
                dtype=variable.dtype,
                fill_value=variable.fill,
                dimension_names=variable.dimensions(name),
                attributes=variable.attributes,
            )


def write_results(folder: PathLike, records: dict[str, np.ndarray], *, run: int = 0, record: int = 0) -> None:
    """Writes records (runs, records, ...) from `run` and `record` on, as whole chunks, and flushes them to the disk.

    Raises ValueError for a region that is not made of whole chunks: another writer's records would be lost.
    """
    path = Path(folder) / RESULTS
    with files.writing(path):
        root = zarr.open_group(str(path), mode="r+")
        for name, values in records.items():
            array: Any = root[name]
            blocks = []
            for axis, start in enumerate((run, record)):
                size, stop = array.chunks[axis], start + values.shape[axis]
                if start % size or (stop % size and stop != array.shape[axis]):
                    raise ValueError(f"{name}: [{start}, {stop}) on axis {axis} is not made of whole chunks of {size}")
                blocks.append(range(start // size, -(-stop // size)))
            array[run : run + values.shape[0], record : record + values.shape[1]] = values
            for block in itertools.product(*blocks):
                file = path / name / array.metadata.encode_chunk_key((*block, *(0 for _ in values.shape[2:])))
                if file.exists():  # a chunk of nothing but NaN is not written
                    files.flush(file)
                    files.flush(file.parent)


def open_results(folder: PathLike) -> xarray.Dataset:
    """The results of a run or of a group of runs, finished or still running: dims (run, step, ...), NaN where not yet written.

    Values are read when they are used (`.load()` reads them all); of integers, -1 stands for not yet written.
    Raises FileNotFoundError where there are no results, ValueError where the manifest is of another format version.
    """
    path = Path(folder) / RESULTS
    if not path.is_dir():
        raise FileNotFoundError(2, f"folder {folder} holds no results ({RESULTS})")
    if (Path(folder) / MANIFEST).exists():
        read_manifest(folder)
    results = xarray.open_dataset(path, engine="zarr", chunks=None, consolidated=False, zarr_format=3, decode_cf=False)
    return results.set_coords([name for name, v in results.data_vars.items() if v.dims == ("run",)])


def to_netcdf(results: xarray.Dataset | PathLike, path: PathLike) -> None:
    """Exports results, or those of a folder, to one netCDF 4 file; attributes that netCDF cannot hold become JSON text.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> create_results(folder, np.array([0, 10]), {"kl": Variable((), "float32", {})}, chunk=(1, 2), attributes={"key": [0, 1]})
    >>> to_netcdf(folder, folder / "results.nc")
    >>> xarray.load_dataset(folder / "results.nc").attrs["key"]
    '[0, 1]'
    """
    exported = (results.copy() if isinstance(results, xarray.Dataset) else open_results(results)).load()
    exported.attrs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in exported.attrs.items()}
    files.commit(Path(path), lambda temporary: exported.to_netcdf(temporary, engine="h5netcdf"))
