"""The folder of a run: results in one Zarr store, and a manifest that counts the records.

The folder holds

    manifest.json        the settings of the run, the number of records done, and the name of the valid checkpoint
    checkpoint-R.npz     the state after R records (see `dualebm.training.checkpoints`)
    results.zarr         each metric, (run, step, ...), NaN where nothing is written yet

A segment is committed in the order results, checkpoint, manifest. Each file is written under a temporary name, flushed
to the disk and renamed. So a run that is killed leaves the last manifest and every file that it names. Records beyond
those that the manifest counts are written again.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray
from zarr.storage import MemoryStore

from dualebm._internal import checks, files, folders, stores
from dualebm._internal.files import PathLike
from dualebm.settings import checked

MANIFEST, RESULTS = "manifest.json", "results.zarr"

KINDS = ("run", "group")
"""The kinds of manifests: of one run, and of a group of runs of a sweep."""

CHECKPOINT = re.compile(r"checkpoint(-\d+)+\.npz")
"""The names of checkpoints. Others are not removed."""

UNRECORDED = -1
"""The value of an integer variable (`diverged`) that is not written yet. Other variables have NaN."""


# -- The folder ------------------------------------------------------------------------------------


def read_manifest(folder: PathLike, *kinds: str) -> dict | None:
    """Return the manifest in a folder of records, or None where the folder is empty or missing.

    Args:
        folder: the folder.
        kinds: the kinds of folder that are expected: "run", or "group" for runs of a sweep. None given stands for both.

    Returns:
        The manifest, or None.

    Raises:
        ValueError: the folder holds other files, or the manifest is damaged, or of another kind or format version.

    >>> read_manifest("no/such/folder")
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not os.path.lexists(path):
        if others := [name for name in folders.names(folder) if not folders.TEMPORARY.fullmatch(name)]:
            raise ValueError(
                f"folder {folder} holds other files ({', '.join(others[:3])}); give a new or an empty folder"
            )
        return None
    return files.read_json(path, *(kinds or KINDS))


def write_manifest(folder: PathLike, manifest: dict, kind: str = "run") -> None:
    """Replace the manifest, and then remove the checkpoints that it does not name.

    The keys `kind`, `format` (the version of the format) and `sha256` (of all the rest) are added to the file.

    Args:
        folder: The folder of the run, or of a group of runs.
        manifest: A dictionary of values that JSON can hold. Its key "checkpoint" is the file name of the valid checkpoint, or
            None.
        kind: "run", or "group" for runs of a sweep.

    Raises:
        OSError: When the manifest cannot be written.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_manifest(folder, {"checkpoint": None})
    >>> read_manifest(folder)
    {'kind': 'run', 'format': 3, 'checkpoint': None}
    """
    files.write_json(Path(folder) / MANIFEST, kind, manifest)
    folders.remove(Path(folder), CHECKPOINT, but=(manifest["checkpoint"],))


def clean(folder: PathLike) -> None:
    """Remove temporary files that a killed process has left in the folder of a run and in its results.

    Args:
        folder: the folder, which this process holds.

    Raises:
        OSError: a file cannot be removed.
    """
    store = Path(folder) / RESULTS
    inner = [store / name for name in folders.names(store)]
    for place in (Path(folder), store, *inner):
        if place.is_dir():
            folders.remove_temporary(place)


def has_records(folder: PathLike) -> bool:
    """Return whether a folder holds records, or a manifest that counts some.

    Args:
        folder: the folder of a run, or of a group of runs.

    Raises:
        ValueError: the manifest is damaged or of another format version.
    """
    manifest = read_manifest(folder) if os.path.lexists(Path(folder) / MANIFEST) else None
    counted = manifest is not None and (manifest["records"] or manifest.get("batch", 0))
    return bool(counted) or stores.has_records(Path(folder) / RESULTS)


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


COORDINATES = "coordinates"
"""The attribute of a store that lists the names of its coordinates."""

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
    """Create the store of results, in full size and empty. An existing store is replaced, and other files within it are refused.

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
        ValueError: When a file that is not of a store lies in the place of the store.
        OSError: When the store cannot be written.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> create_results(folder, np.array([0, 10, 20]), {"kl": Variable((), "float32", {})}, chunk=(1, 2))
    >>> write_results(folder, {"kl": np.ones((1, 2), "float32")}, record=0)
    >>> open_results(folder).kl.values.tolist()
    [[1.0, 1.0, nan]]
    """
    path = Path(folder) / RESULTS
    of_runs = {"run": np.arange(runs), **{name: np.asarray(values) for name, values in (coordinates or {}).items()}}

    def add(root) -> None:
        for name, values in {**of_runs, "step": np.asarray(steps)}.items():
            if values.dtype.kind == "U":  # Zarr 3 does not specify text of a fixed length
                values = values.astype(np.dtypes.StringDType())
            dimension, attrs = ("step", STEP_ATTRIBUTES) if name == "step" else ("run", {})
            root.create_array(name, data=values, dimension_names=[dimension], attributes=attrs, **stores.FORM)
        for name, variable in variables.items():
            root.create_array(
                name,
                shape=(runs, len(steps), *variable.shape),
                chunks=(*chunk, *(max(size, 1) for size in variable.shape)),
                dtype=variable.dtype,
                fill_value=variable.fill,
                dimension_names=variable.dimensions(name),
                attributes=variable.attributes,
                **stores.FORM,
            )

    stores.clear(path)
    # xarray reads by this attribute which variables are coordinates.
    stores.create(path, {**(attributes or {}), COORDINATES: " ".join(of_runs)}, add)


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
    stores.write(Path(folder) / RESULTS, records, (run, record))


@checked
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
        ValueError: a file is damaged, or records that the manifest counts are missing. A damaged chunk of records raises when it is read.
    """
    path = Path(folder) / RESULTS
    if not path.is_dir():
        raise FileNotFoundError(2, f"folder {folder} holds no results ({RESULTS})")
    manifest = read_manifest(folder) if os.path.lexists(Path(folder) / MANIFEST) else None
    stored = stores.Files(path)
    stored.require(() if manifest is None else written(manifest, stored.arrays()))
    store: Any = MemoryStore(stored, read_only=True)
    results = xarray.open_dataset(store, engine="zarr", chunks=None, consolidated=True, zarr_format=3, decode_cf=False)
    for name in (COORDINATES, files.DIGEST):
        results.attrs.pop(name, None)
    return results.set_coords([name for name, v in results.data_vars.items() if v.dims == ("run",)])


def written(manifest: dict, arrays: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the chunks, on the axes of runs and of records, that hold the records which a manifest counts.

    Args:
        manifest: the manifest of a run, or of a group of runs, whose batches are done one after another.
        arrays: for each name the description of an array, as Zarr stores it.

    Yields:
        The number of the batch and the number of the segment.

    >>> array = {"shape": [5, 7], "chunk_grid": {"configuration": {"chunk_shape": [2, 3]}}}
    >>> list(written({"batch": 1, "records": 6, "of": 7}, {"kl": array}))
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    """
    segment = next(a["chunk_grid"]["configuration"]["chunk_shape"][1] for a in arrays.values() if len(a["shape"]) > 1)
    batch = manifest.get("batch", 0)
    for number, records in [*((number, manifest["of"]) for number in range(batch)), (batch, manifest["records"])]:
        yield from ((number, block) for block in range(-(-records // segment)))


@checked
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
    files.commit(Path(path), lambda file: file.write(exported.to_netcdf(engine="h5netcdf")))
