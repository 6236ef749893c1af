"""Files that are written whole or not at all, and `.npz` files of leaves by path with a JSON header.

No file holds code, and none is unpickled.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT = 3
"""The version of the format. Files of another version are refused."""

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
    """Turns an OSError into one of the same kind that names the path.

    >>> with writing(Path("a.npz")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    OSError: [Errno 28] cannot write a.npz: No space left on device
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def commit(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file whole or not at all.

    `write` receives a temporary path in the same folder. The file is then flushed to the disk and renamed to `path`.

    Raises:
        OSError: when the file cannot be written.

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
    """Raises ValueError unless a file has the given kind and the version of this program.

    Args:
        path: the path of the file, for the error.
        header: the header of the file.
        kind: the kind of file that is expected.

    Raises:
        ValueError: when the kind or the version differs.

    >>> check_format(Path("a.npz"), {"kind": "state", "format": FORMAT}, "energy")
    Traceback (most recent call last):
    ...
    ValueError: a.npz holds 'state'; it must hold 'energy', written by dualebm
    """
    stored = header.get("kind") if isinstance(header, dict) else None
    if stored != kind:
        raise ValueError(f"{path} holds {stored!r}; it must hold {kind!r}, written by dualebm")
    version = header.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        advice = "install a newer dualebm" if newer else "write it again, or read it with the version of dualebm that wrote it"
        raise ValueError(f"{path} has format version {version!r}; this version of dualebm reads {FORMAT}: {advice}")


def finite(numbers: Any) -> dict[str, Any]:
    """Returns a NamedTuple as JSON, which has no infinities. Numbers that are not finite are null.

    >>> import collections
    >>> finite(collections.namedtuple("Mean", "value error")(1.0, float("inf")))
    {'value': 1.0, 'error': None}
    """
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in numbers._asdict().items()}


# -- Leaves by path --------------------------------------------------------------------------------


def is_key(leaf: Any) -> bool:
    """Tells whether a leaf holds typed PRNG keys.

    >>> is_key(jax.random.key(0)), is_key(np.zeros(2))
    (True, False)
    """
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree that are arrays or numbers, by their path in the tree.

    >>> leaves({"x": 1.5, "name": "a"})
    {"leaf['x']": 1.5}
    """
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {"leaf" + jax.tree_util.keystr(path): leaf for path, leaf in flat}
    return {
        name: leaf for name, leaf in named.items() if hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))
    }


def save(path: PathLike, kind: str, tree: Any, header: dict) -> None:
    """Writes the leaves of a tree and a header to an `.npz` file.

    Args:
        path: the path of the file.
        kind: the kind of file, which `load` checks.
        tree: a pytree. Its arrays and numbers are written by their path, and typed keys as their data.
        header: values for JSON, under names other than kind, format and keys.

    Raises:
        OSError: when the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tree.npz"
    >>> save(path, "tree", {"x": np.arange(3)}, {"about": "an example"})
    >>> header, arrays = load(path, "tree")
    >>> header["about"], fill(path, {"x": np.zeros(3, int)}, header, arrays)["x"].tolist()
    ('an example', [0, 1, 2])
    """
    named = leaves(tree)
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in named.items() if is_key(leaf)}
    text = json.dumps({"kind": kind, "format": FORMAT, "keys": keys, **header}, default=lambda value: value.item())
    arrays: dict[str, Any] = {name: np.asarray(_plain(leaf)) for name, leaf in named.items()}

    def write(temporary):
        with temporary.open("wb") as file:
            np.savez(file, header=np.array(text), **arrays)

    commit(Path(path), write)


def load(path: PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the header of a file of the given kind and its arrays by path.

    Raises:
        ValueError: when the file is damaged, or is of another kind or version.
        OSError: when the file is missing or cannot be opened.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise almost anything on damaged bytes.
        raise ValueError(f"{path} is truncated or corrupt ({type(error).__name__}: {error})") from error
    check_format(path, header, kind)
    return header, arrays


def fill(path: PathLike, like: Any, header: dict, arrays: dict[str, np.ndarray]) -> Any:
    """Returns a tree with its arrays and numbers replaced by the arrays of a file.

    Args:
        path: the path of the file, for the error.
        like: a tree of the same structure, shapes and dtypes.
        header: the header of the file, from `load`.
        arrays: the arrays of the file, from `load`.

    Returns:
        The new tree.

    Raises:
        ValueError: when an array is missing or superfluous, or has another shape or dtype.
    """

    def shown(leaf):
        return "missing" if leaf is None else f"{getattr(leaf, 'dtype', type(leaf).__name__)} of shape {np.shape(leaf)}"

    wanted, stored = leaves(like), dict(arrays)
    for name in header["keys"].keys() & arrays.keys():
        stored[name] = jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=header["keys"][name])
    for name in {**wanted, **stored}:
        a, b = stored.get(name), wanted.get(name)
        if a is None or b is None or a.shape != np.shape(b) or a.dtype != getattr(b, "dtype", a.dtype):
            raise ValueError(f"{path}: {name.removeprefix('leaf')} is {shown(a)} there and {shown(b)} here")

    def take(place, leaf):
        name = "leaf" + jax.tree_util.keystr(place)
        if name not in wanted:
            return leaf
        return jnp.asarray(stored[name]) if hasattr(leaf, "dtype") else type(leaf)(stored[name])

    return jax.tree_util.tree_map_with_path(take, like)
