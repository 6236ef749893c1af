"""States and energies in `.npz` files: leaves by path, with a JSON header. No file holds code, and none is unpickled.

Each file is written under a temporary name, flushed to the disk and renamed, as are those of `dualebm.training.run_folder`.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dualebm._internal import checks
from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.energies.boltzmann import BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture
from dualebm.energies.networks import Convolutional, Perceptron
from dualebm.energies.shallow import Energy, Shallow, Tabulated
from dualebm.features import Bump, Feature, ReLU, Softplus
from dualebm.kernels import RBF, ArcCosine, BumpKernel, Distance, Embedding
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.fingerprint import check_settings, differences

FORMAT = 3
"""The version of the files' format; files of another version are refused."""

PathLike = str | os.PathLike


# -- Files -----------------------------------------------------------------------------------------


def flush(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into one of the same kind that names the path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def commit(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file under a temporary name in its folder, flushes it to the disk and renames it: all of it or none.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note"
    >>> commit(path, lambda temporary: temporary.write_text("whole"))
    >>> path.read_text()
    'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            write(temporary)
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def check_format(path: Path, header: Any, kind: str) -> None:
    """Raises ValueError unless a file's header says that it is of this kind and of the version read here."""
    found = header.get("kind") if isinstance(header, dict) else None
    if found != kind:
        raise ValueError(f"{path} holds {found!r}; it must hold {kind!r}, written by dualebm")
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format version {header.get('format')!r}; this version of dualebm reads {FORMAT}")


# -- Leaves by path --------------------------------------------------------------------------------


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

    commit(Path(path), write)


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
    check_format(path, header, kind)
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


# -- States ----------------------------------------------------------------------------------------


def save_state(path: PathLike, state: Any, settings: dict | None = None) -> None:
    """Writes the arrays of a state to an `.npz` file by their path in the tree; typed keys as their data.

    `settings` (JSON, see `dualebm.training.fingerprint.describe`) say what the state is of; `load_state` compares them.
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


# -- Energies --------------------------------------------------------------------------------------

ENERGIES = {
    kind.__name__: kind
    for kind in (Shallow, Embedding, Perceptron, Convolutional, GaussianMixture, BoltzmannMachine, Tabulated)
}
"""The energies that are built anew from a file alone."""

_NAMED = {
    kind.__name__: kind
    for kind in (
        ReLU, Softplus, Bump, Sphere, Euclidean, Torus, Uniform, Gaussian, Flat, ArcCosine, RBF, BumpKernel, Distance,
    )
}  # fmt: skip


def _spell(value: Any) -> Any:
    """A feature, a kernel or a space as JSON; callables are left out."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {"name": getattr(value, "__name__", type(value).__name__), "fields": {}} if callable(value) else value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    spelt = {name: _spell(item) for name, item in fields.items()}
    return {"name": type(value).__name__, "fields": {name: item for name, item in spelt.items() if not callable(item)}}


def _build(spelt: Any) -> Any:
    if isinstance(spelt, list):  # JSON has no tuples
        return tuple(spelt)
    if not isinstance(spelt, dict):
        return spelt
    return _NAMED[spelt["name"]](**{name: _build(item) for name, item in spelt["fields"].items()})


def _static(energy: Energy) -> dict[str, Any]:
    """What of an energy is no array, by field: its feature, its kernel, its activation; and fields that are None."""
    values = {f.name: getattr(energy, f.name) for f in dataclasses.fields(energy)}
    return {f.name: values[f.name] for f in dataclasses.fields(energy) if f.metadata.get("static") or values[f.name] is None}


def save_energy(path: PathLike, energy: Energy) -> None:
    """Writes an energy to an `.npz` file: its arrays, and for those of `ENERGIES` what else it is made of, by name and fields.

    The callable of a `Custom` feature and the class of an energy of your own are not stored: `load_energy` takes them.
    """
    static = {name: _spell(value) for name, value in _static(energy).items()} if type(energy).__name__ in ENERGIES else {}
    _save(path, "energy", energy, {"energy": type(energy).__name__, "static": static})


def load_energy(path: PathLike, feature: Feature | None = None, *, like: Energy | None = None) -> Energy:
    """The energy in `path`.

    Args:
        path: written by `save_energy`.
        feature: needed where it was `Custom`, whose callable is not stored; elsewhere it must equal the stored one.
        like: for an energy that is not of `ENERGIES`, one of the same structure, shapes and dtypes; its arrays are replaced.

    Raises ValueError for a file that is damaged or of another format version, for a feature or structure that differs,
    and for 64-bit arrays while x64 is off.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "energy.npz"
    >>> save_energy(path, Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])))
    >>> load_energy(path).feature, load_energy(path).coefficients.tolist()
    (ReLU(power=1, bias=False), [-4.0, 2.0])
    """
    header, arrays = _load(path, "energy")
    if any(a.dtype in (np.float64, np.int64) for n, a in arrays.items() if a.ndim) and not checks.x64_enabled():
        raise ValueError(f"{path} holds 64-bit arrays and JAX would round them: set JAX_ENABLE_X64=1")
    if like is not None:
        if type(like).__name__ != header["energy"]:
            raise ValueError(f"like is a {type(like).__name__}; {path} holds a {header['energy']}")
        return _fill(path, like, header, arrays)
    if header["energy"] not in ENERGIES:
        raise ValueError(f"like is None; {path} holds a {header['energy']}: pass one of the same structure, like=")
    kind, static = ENERGIES[header["energy"]], dict(header["static"])
    spelt = static.get("feature")
    if feature is not None:
        if found := differences(spelt, _spell(feature), "feature"):
            raise ValueError(f"{path}: {'; '.join(found)}")
    elif unknown := [(name, value["name"]) for name, value in static.items() if isinstance(value, dict) and value["name"] not in _NAMED]:
        name, kind_of = unknown[0]
        argument = "feature" if name == "feature" else "like"
        raise ValueError(f"{argument} is None; {path} was saved with the {name} {kind_of}, and code is not stored: give {argument}")
    fields = {name: _build(value) for name, value in static.items() if feature is None or name != "feature"}
    fields |= {} if feature is None else {"feature": feature}
    for name in [f.name for f in dataclasses.fields(kind) if f.name not in fields]:
        if f"leaf.{name}" in arrays:
            fields[name] = jnp.asarray(arrays[f"leaf.{name}"])
        elif f"leaf.{name}[0]" in arrays:  # a list of arrays
            places = (f"leaf.{name}[{i}]" for i in itertools.count())
            fields[name] = [jnp.asarray(arrays[place]) for place in itertools.takewhile(arrays.__contains__, places)]
        else:
            raise ValueError(f"{path} is corrupt: it lacks leaf.{name}")
    return kind(**fields)
