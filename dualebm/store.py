"""Every file the package writes: results in one Zarr store, checkpoints and energies in `.npz`, a manifest that counts.

The folder of a run holds

    manifest.json        what the run is and how far it has come; it names the checkpoint that counts
    checkpoint-R.npz     the state after R records
    results.zarr         each metric, (lane, step, ...), NaN where nothing is written yet

A segment is committed in the order results, checkpoint, manifest. Each file is written under a temporary name, flushed
to the disk and renamed, so a run that is killed leaves the last manifest and all that it names; what lies beyond it is
written again. No file holds code, and none is unpickled.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
import zarr

from dualebm.energy import Energy, Shallow
from dualebm.features import Bump, Feature, ReLU, Softplus
from dualebm.spaces import Euclidean, Sphere, Torus

FORMAT = 1
"""The version of the files' format; files of another version are refused."""

MANIFEST, RESULTS = "manifest.json", "results.zarr"
UNRECORDED = -1
"""Stands in integer variables (`diverged`) where NaN stands in others: not yet written."""

PathLike = str | os.PathLike


# -- What a run is ---------------------------------------------------------------------------------


def describe(value: Any, depth: int = 8) -> Any:
    """`value` as JSON that is the same in every process: settings by field, arrays by dtype, shape and SHA-256.

    A function is told by its name, the floating constants in it and what it closes over (a schedule by its numbers).

    >>> describe(Sphere(3)), describe(np.float32(0.1)), describe(np.zeros(2))["shape"]
    ({'type': 'Sphere', 'dimension': 3}, 0.1, [2])
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(_plain(value))
        if array.ndim == 0:
            return float(str(array)) if array.dtype.kind == "f" else array.item()
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}
    if depth == 0:
        return type(value).__name__
    inner = functools.partial(describe, depth=depth - 1)
    if isinstance(value, dict):
        return {str(name): inner(item) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return {"type": type(value).__name__, **inner(value._asdict())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [inner(item) for item in value]
    if isinstance(value, functools.partial):
        return {"type": "partial", "function": inner(value.func), "arguments": inner([value.args, value.keywords])}
    function = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    if inspect.isfunction(function):
        constants = [c for c in function.__code__.co_consts if isinstance(c, float)]
        held = [c.cell_contents for c in function.__closure__ or () if c != types.CellType()]  # a cell may be empty
        return {"function": function.__qualname__, "constants": constants, "closure": inner(held)}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """The settings in which two descriptions differ, each with both values.

    >>> differences({"every": 10, "rates": {"radius": 10.0}}, {"every": 10, "rates": {"radius": 5.0}})
    ['rates.radius is 10.0 there and 5.0 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = ((name, there.get(name), here.get(name)) for name in {**there, **here})
        return [found for name, a, b in pairs for found in differences(a, b, f"{path}.{name}" if path else name)]
    return [] if there == here else [f"{path} is {there!r} there and {here!r} here"]


def check_settings(where: str, there: dict, here: dict) -> None:
    """Raises ValueError naming each setting that differs, with both values.

    >>> check_settings("folder runs/a", {"every": 10}, {"every": 20})
    Traceback (most recent call last):
    ...
    ValueError: folder runs/a is of another run: every is 10 there and 20 here; give another, or the same settings
    """
    if found := differences(there, here):
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise ValueError(f"{where} is of another run: {'; '.join(found[:4])}{more}; give another, or the same settings")


def provenance() -> dict[str, Any]:
    """What the numbers come from: versions, git revision of the sources (None outside git), backend, devices.

    >>> sorted(provenance())
    ['backend', 'device_count', 'git_revision', 'versions']
    """
    versions = {name: importlib.metadata.version(name) for name in ("dualebm", "jax", "jaxlib", "numpy")}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        revision = found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = None
    return {
        "versions": {**versions, "python": platform.python_version()},
        "git_revision": revision,
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
    }


# -- Files and folders -----------------------------------------------------------------------------


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an OSError into one of the same kind that names the path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def _commit(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file under a temporary name in its folder, flushes it to the disk and renames it: all of it or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        try:
            write(temporary)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


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
    with _writing(folder):
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
    _check_format(path, manifest, "run")
    return manifest


def write_manifest(folder: PathLike, manifest: dict) -> None:
    """Replaces the manifest, then removes the checkpoints that it no longer names.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_manifest(folder, {"checkpoint": None})
    >>> read_manifest(folder)
    {'kind': 'run', 'format': 1, 'checkpoint': None}
    """
    folder = Path(folder)
    text = json.dumps({"kind": "run", "format": FORMAT, **manifest}, indent=1)
    _commit(folder / MANIFEST, lambda path: path.write_text(text))
    for path in [*folder.glob("checkpoint-*.npz"), *folder.glob(".*.tmp")]:
        if path.name != manifest["checkpoint"]:
            path.unlink()


def _check_format(path: Path, header: Any, kind: str) -> None:
    found = header.get("kind") if isinstance(header, dict) else None
    if found != kind:
        raise ValueError(f"{path} holds {found!r}; it must hold {kind!r}, written by dualebm")
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format version {header.get('format')!r}; this version of dualebm reads {FORMAT}")


# -- Results ---------------------------------------------------------------------------------------


class Variable(NamedTuple):
    """What is recorded under a name: shape and dtype of one record, and attributes (`units`, `long_name`)."""

    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]

    def dimensions(self, name: str) -> list[str]:
        """(lane, step), then one per axis of an array-valued metric."""
        return ["lane", "step", *(f"{name}_{axis}" for axis in range(len(self.shape)))]

    @property
    def fill(self) -> float:
        """What stands where nothing is written yet."""
        return UNRECORDED if np.issubdtype(self.dtype, np.integer) else np.nan


STEP_ATTRIBUTES = {"long_name": "iterations done", "units": "1"}


def dataset(
    records: dict[str, np.ndarray], steps: np.ndarray, variables: dict[str, Variable], attributes: dict
) -> xarray.Dataset:
    """The records of one lane, (steps, ...), in the form of `open_results(folder).isel(lane=0, drop=True)`.

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
    lanes: int = 1,
    coordinates: dict[str, np.ndarray] | None = None,
    attributes: dict | None = None,
) -> None:
    """Makes the store of results, whole and empty; one that is there is replaced.

    Args:
        folder: of the run. steps: iterations done at each record.
        variables: what is recorded, by name. chunk: (lanes of a batch, records of a segment).
        lanes: runs in the store. coordinates: what tells them apart (a swept rate, the seed), by name, each (lanes,).
        attributes: of the whole, JSON.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> create_results(folder, np.array([0, 10, 20]), {"kl": Variable((), "float32", {})}, chunk=(1, 2))
    >>> write_results(folder, {"kl": np.ones((1, 2), "float32")}, record=0)
    >>> open_results(folder).kl.values.tolist()
    [[1.0, 1.0, nan]]
    """
    path = Path(folder) / RESULTS
    with _writing(path):
        if path.exists():
            shutil.rmtree(path)
        root = zarr.create_group(store=str(path), zarr_format=3, attributes=attributes or {})
        lane = {"lane": (np.arange(lanes), {}), **{name: (values, {}) for name, values in (coordinates or {}).items()}}
        for name, (values, attrs) in {**lane, "step": (np.asarray(steps), STEP_ATTRIBUTES)}.items():
            names = ["step" if name == "step" else "lane"]
            root.create_array(name, data=np.asarray(values), dimension_names=names, attributes=attrs)
        for name, variable in variables.items():
            root.create_array(
                name,
                shape=(lanes, len(steps), *variable.shape),
                chunks=(*chunk, *(max(size, 1) for size in variable.shape)),
                dtype=variable.dtype,
                fill_value=variable.fill,
                dimension_names=variable.dimensions(name),
                attributes=variable.attributes,
            )


def write_results(folder: PathLike, records: dict[str, np.ndarray], *, lane: int = 0, record: int = 0) -> None:
    """Writes records (lanes, records, ...) from `lane` and `record` on, as whole chunks, and flushes them to the disk.

    Raises ValueError for a region that is not made of whole chunks: another writer's records would be lost.
    """
    path = Path(folder) / RESULTS
    with _writing(path):
        root = zarr.open_group(str(path), mode="r+")
        for name, values in records.items():
            array: Any = root[name]
            blocks = []
            for axis, start in enumerate((lane, record)):
                size, stop = array.chunks[axis], start + values.shape[axis]
                if start % size or (stop % size and stop != array.shape[axis]):
                    raise ValueError(f"{name}: [{start}, {stop}) on axis {axis} is not made of whole chunks of {size}")
                blocks.append(range(start // size, -(-stop // size)))
            array[lane : lane + values.shape[0], record : record + values.shape[1]] = values
            for block in itertools.product(*blocks):
                file = path / name / array.metadata.encode_chunk_key((*block, *(0 for _ in values.shape[2:])))
                if file.exists():  # a chunk of nothing but NaN is not written
                    _sync(file)
                    _sync(file.parent)


def open_results(folder: PathLike) -> xarray.Dataset:
    """The results of a run or a sweep, finished or still running: dims (lane, step, ...), NaN where not yet written.

    Values are read when they are used (`.load()` reads them all); of integers, -1 stands for not yet written.
    Raises FileNotFoundError where there are no results.
    """
    path = Path(folder) / RESULTS
    if not path.is_dir():
        raise FileNotFoundError(2, f"folder {folder} holds no results ({RESULTS})")
    found = xarray.open_dataset(path, engine="zarr", chunks=None, consolidated=False, zarr_format=3, decode_cf=False)
    return found.set_coords([name for name, v in found.data_vars.items() if v.dims == ("lane",)])


def to_netcdf(results: xarray.Dataset | PathLike, path: PathLike) -> None:
    """Exports results, or those of a folder, to one netCDF 4 file; attributes that netCDF cannot hold become JSON text.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> kl = Variable((), "float32", {})
    >>> create_results(folder, np.array([0, 10]), {"kl": kl}, chunk=(1, 2), attributes={"key": [0, 1]})
    >>> to_netcdf(folder, folder / "results.nc")
    >>> xarray.load_dataset(folder / "results.nc").attrs["key"]
    '[0, 1]'
    """
    found = (results.copy() if isinstance(results, xarray.Dataset) else open_results(results)).load()
    found.attrs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.attrs.items()}
    _commit(Path(path), lambda temporary: found.to_netcdf(temporary, engine="h5netcdf"))


# -- States and energies ---------------------------------------------------------------------------


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed PRNG keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves that are arrays or numbers, by their path in the tree."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {"leaf" + jax.tree_util.keystr(path): leaf for path, leaf in flat}
    return {
        name: leaf for name, leaf in named.items() if hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))
    }


def _save(path: PathLike, kind: str, tree: Any, header: dict) -> None:
    leaves = _leaves(tree)
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if is_key(leaf)}
    text = json.dumps({"kind": kind, "format": FORMAT, "keys": keys, **header}, default=lambda value: value.item())
    arrays: dict[str, Any] = {name: np.asarray(_plain(leaf)) for name, leaf in leaves.items()}

    def write(temporary):
        with temporary.open("wb") as file:
            np.savez(file, header=np.array(text), **arrays)

    _commit(Path(path), write)


def _load(path: PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(header, arrays by path); raises ValueError for a file that is damaged, or not of this kind and version."""
    path = Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile and numpy raise almost anything on damaged bytes
        raise ValueError(f"{path} is truncated or corrupt ({type(error).__name__}: {error})") from error
    _check_format(path, header, kind)
    return header, arrays


def _fill(path: PathLike, like: Any, header: dict, arrays: dict[str, np.ndarray]) -> Any:
    """`like` with its arrays and numbers replaced by those of the file; raises ValueError where they do not fit."""

    def shown(leaf):
        return "missing" if leaf is None else f"{getattr(leaf, 'dtype', type(leaf).__name__)} of shape {np.shape(leaf)}"

    wanted, found = _leaves(like), dict(arrays)
    for name in header["keys"].keys() & arrays.keys():
        found[name] = jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=header["keys"][name])
    for name in {**wanted, **found}:
        a, b = found.get(name), wanted.get(name)
        if a is None or b is None or a.shape != np.shape(b) or a.dtype != getattr(b, "dtype", a.dtype):
            raise ValueError(f"{path}: {name.removeprefix('leaf')} is {shown(a)} there and {shown(b)} here")

    def take(place, leaf):
        name = "leaf" + jax.tree_util.keystr(place)
        if name not in wanted:
            return leaf
        return jnp.asarray(found[name]) if hasattr(leaf, "dtype") else type(leaf)(found[name])

    return jax.tree_util.tree_map_with_path(take, like)


def save_state(path: PathLike, state: Any, settings: dict | None = None) -> None:
    """Writes the arrays of a state to an `.npz` file by their path in the tree; typed keys as their data.

    `settings` (JSON, see `describe`) say what the state is of; `load_state` compares them.
    """
    _save(path, "state", state, {"settings": settings})


def load_state(path: PathLike, like: Any, settings: dict | None = None) -> Any:
    """The state in `path`, with the structure, shapes and dtypes of `like` (arrays, or `jax.ShapeDtypeStruct`).

    Raises ValueError for a file that is truncated, corrupt, of another format version, of other settings (where given)
    or of other shapes, naming what differs with both values.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save_state(path, {"x": jnp.arange(3)})
    >>> load_state(path, {"x": jnp.zeros(3, int)})["x"].tolist()
    [0, 1, 2]
    """
    header, arrays = _load(path, "state")
    if settings is not None:
        check_settings(f"checkpoint {path}", header["settings"] or {}, settings)
    return _fill(path, like, header, arrays)


_NAMED = {kind.__name__: kind for kind in (ReLU, Softplus, Bump, Sphere, Euclidean, Torus)}


def _spell(value: Any) -> Any:
    """A feature or a space as JSON; callables are left out."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    spelt = {name: _spell(item) for name, item in fields.items()}
    return {"name": type(value).__name__, "fields": {name: item for name, item in spelt.items() if not callable(item)}}


def _build(spelt: Any) -> Any:
    if not isinstance(spelt, dict):
        return spelt
    return _NAMED[spelt["name"]](**{name: _build(item) for name, item in spelt["fields"].items()})


def save_energy(path: PathLike, energy: Energy) -> None:
    """Writes an energy to an `.npz` file: its arrays, and for a `Shallow` the name and fields of its feature.

    The callable of a `Custom` feature and the class of an energy of your own are not stored: `load_energy` takes them.
    """
    feature = _spell(energy.feature) if isinstance(energy, Shallow) else None
    _save(path, "energy", energy, {"energy": type(energy).__name__, "feature": feature})


def load_energy(path: PathLike, feature: Feature | None = None, *, like: Energy | None = None) -> Energy:
    """The energy in `path`.

    Args:
        path: written by `save_energy`.
        feature: needed where it was `Custom`, whose callable is not stored; elsewhere it must equal the stored one.
        like: for an energy other than `Shallow`, one of the same structure, shapes and dtypes; its arrays are replaced.

    Raises ValueError for a file that is damaged or of another format version, for a feature or structure that differs,
    and for 64-bit arrays while x64 is off.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "energy.npz"
    >>> save_energy(path, Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])))
    >>> load_energy(path).feature, load_energy(path).coefficients.tolist()
    (ReLU(power=1, bias=False), [-4.0, 2.0])
    """
    header, arrays = _load(path, "energy")
    if any(a.dtype in (np.float64, np.int64) for n, a in arrays.items() if a.ndim) and not jax.config.jax_enable_x64:
        raise ValueError(f"{path} holds 64-bit arrays and JAX would round them: set JAX_ENABLE_X64=1")
    if like is not None:
        if type(like).__name__ != header["energy"]:
            raise ValueError(f"like is a {type(like).__name__}; {path} holds a {header['energy']}")
        return _fill(path, like, header, arrays)
    if header["energy"] != "Shallow":
        raise ValueError(f"like is None; {path} holds a {header['energy']}: pass one of the same structure, like=")
    spelt = header["feature"]
    if feature is not None:
        if found := differences(spelt, _spell(feature), "feature"):
            raise ValueError(f"{path}: {'; '.join(found)}")
    elif spelt["name"] not in _NAMED:
        raise ValueError(
            f"feature is None; it must be the {spelt['name']} that {path} was saved with: code is not stored"
        )
    built = _build(spelt) if feature is None else feature
    missing = {"leaf.positions", "leaf.coefficients"} - set(arrays)
    if missing:
        raise ValueError(f"{path} is corrupt: it lacks {', '.join(sorted(missing))}")
    return Shallow(built, jnp.asarray(arrays["leaf.positions"]), jnp.asarray(arrays["leaf.coefficients"]))
