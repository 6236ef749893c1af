"""The folder of a run: results in one Zarr store, a manifest that counts the records, and a lock.

The folder holds

    manifest.json        the settings of the run, the number of records done, and the name of the valid checkpoint
    checkpoint-R.npz     the state after R records (see `dualebm.training.checkpoints`)
    results.zarr         each metric, (run, step, ...), NaN where nothing is written yet

A segment is committed in the order results, checkpoint, manifest. Each file is written under a temporary name, flushed
to the disk and renamed. So a run that is killed leaves the last manifest and every file that it names. Records beyond
those that the manifest counts are written again.
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

from dualebm._internal import checks, files
from dualebm._internal.files import FORMAT, PathLike

MANIFEST, RESULTS = "manifest.json", "results.zarr"
UNRECORDED = -1
"""The value of an integer variable (`diverged`) that is not written yet. Other variables have NaN."""


# -- The folder ------------------------------------------------------------------------------------


@contextlib.contextmanager
def hold(folder: PathLike) -> Iterator[None]:
    """Create the folder where it is missing, and keep other processes from writing to it within the block.

    The lock is an advisory lock of the operating system on the folder itself. It leaves no file, and it ends with the process, however
    the process ends.

    Args:
        folder: the folder.

    Raises:
        OSError: the folder cannot be made or written to, or another process holds it.

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
    """Return the manifest in the folder of a run, or None where the folder is empty or missing.

    Args:
        folder: the folder.

    Returns:
        The manifest, or None.

    Raises:
        ValueError: the folder holds other files, or the manifest is corrupt or of another format version.

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
    """Replace the manifest, and then remove the checkpoints that it does not name, and temporary files.

    The keys `kind` ("run") and `format` (the version of the format) are added to the file.

    Args:
        folder: The folder of the run.
        manifest: A dictionary of values that JSON can hold. Its key "checkpoint" is the file name of the valid checkpoint, or
            None.

    Raises:
        OSError: When the manifest cannot be written.

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
    """What is recorded under a name.

    Args:
        shape: The shape of one record.
        dtype: The dtype of one record.
        attributes: Labels, such as `units` and `long_name`.
    """

    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]

    def dimensions(self, name: str) -> list[str]:
        """Return the dimensions of the variable in the store: run, step, then one for each axis of a record.

        Args:
            name: the name of the variable.

        Returns:
            The names of the dimensions.
        """
        return ["run", "step", *(f"{name}_{axis}" for axis in range(len(self.shape)))]

    @property
    def fill(self) -> float:
        """The value that stands where nothing is written yet."""
        return UNRECORDED if np.issubdtype(self.dtype, np.integer) else np.nan


STEP_ATTRIBUTES = {"long_name": "iterations done", "units": "1"}


def dataset(
    records: dict[str, np.ndarray], steps: np.ndarray, variables: dict[str, Variable], attributes: dict
) -> xarray.Dataset:
    """Return the records of one run in the form of `open_results(folder).isel(run=0, drop=True)`.

    Args:
        records: For each name the records, (steps, ...).
        steps: The number of iterations done at each record, (steps,).
        variables: For each name the shape, dtype and labels of one record.
        attributes: Attributes of the whole, as JSON.

    Returns:
        The records along `step`.

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
    """Create the store of results, in full size and empty. An existing store is replaced.

    Args:
        folder: The folder of the run.
        steps: The number of iterations done at each record, (steps,).
        variables: For each name the shape, dtype and labels of one record.
        chunk: The number of runs and the number of records in each chunk, which is one file of the store. They are the runs
            of a batch and the records of a segment.
        runs: The number of runs in the store.
        coordinates: For each name the values, (runs,), that distinguish the runs, such as a swept rate or the seed.
        attributes: Attributes of the whole, as JSON.

    Raises:
        OSError: When the store cannot be written.

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
            if values.dtype.kind == "U":  # Zarr 3 does not specify text of a fixed length
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
    """Write a block of records into the store of results, and flush it to the disk.

    The store keeps each variable in chunks of a fixed number of runs and records (see `create_results`), one file each. The block
    must consist of whole chunks, because records of another writer in the same chunk would be lost.

    Args:
        folder: The folder of the run.
        records: For each name the values to write, (runs of the block, records of the block, ...).
        run: The index, in the store, of the first run of the block.
        record: The index, in the store, of the first record of the block.

    Raises:
        ValueError: When the block begins or ends within a chunk, other than at the end of the store.
        OSError: When the store cannot be written.
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
                if file.exists():  # Zarr writes no file for a chunk that is all NaN
                    files.flush(file)
                    files.flush(file.parent)


def open_results(folder: PathLike) -> xarray.Dataset:
    """Return the results of a run or of a group of runs, finished or still running.

    The dimensions are (run, step, ...). A value that is not written yet is NaN, or -1 in an integer variable. Values are read when they
    are used, and `.load()` reads them all.

    Args:
        folder: the folder of the run or of the group.

    Returns:
        The results.

    Raises:
        FileNotFoundError: the folder holds no results.
        ValueError: the manifest is of another format version.
    """
    path = Path(folder) / RESULTS
    if not path.is_dir():
        raise FileNotFoundError(2, f"folder {folder} holds no results ({RESULTS})")
    if (Path(folder) / MANIFEST).exists():
        read_manifest(folder)
    results = xarray.open_dataset(path, engine="zarr", chunks=None, consolidated=False, zarr_format=3, decode_cf=False)
    return results.set_coords([name for name, v in results.data_vars.items() if v.dims == ("run",)])


def to_netcdf(results: xarray.Dataset | PathLike, path: PathLike) -> None:
    """Export results to one netCDF 4 file.

    Attributes that netCDF cannot hold become JSON text.

    Args:
        results: the results, or the folder that holds them.
        path: the file to write.

    Raises:
        OSError: the file cannot be written.
        ImportError: the packages h5netcdf and h5py are not installed.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> create_results(folder, np.array([0, 10]), {"kl": Variable((), "float32", {})}, chunk=(1, 2), attributes={"key": [0, 1]})
    >>> to_netcdf(folder, folder / "results.nc")
    >>> xarray.load_dataset(folder / "results.nc").attrs["key"]
    '[0, 1]'
    """
    for name in ("h5netcdf", "h5py"):
        checks.package(name, "to_netcdf", "h5netcdf h5py")
    exported = (results.copy() if isinstance(results, xarray.Dataset) else open_results(results)).load()
    exported.attrs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in exported.attrs.items()}
    files.commit(Path(path), lambda temporary: exported.to_netcdf(temporary, engine="h5netcdf"))
