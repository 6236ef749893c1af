"""Files that are written whole or not at all, and `.npz` files of leaves by path with a JSON header.

No file holds code, and none is unpickled.
"""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from dualebm._internal import archives, folders

FORMAT = 3
"""The version of the format. Files of another version are refused."""

PathLike = str | os.PathLike


# -- Files -----------------------------------------------------------------------------------------


def commit(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file whole or not at all.

    `write` receives a new temporary file in the same folder, open for bytes. It is then flushed to the disk and renamed to `path`.

    Raises:
        OSError: when the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note"
    >>> commit(path, lambda file: file.write(b"whole"))
    >>> path.read_bytes()
    b'whole'
    """
    commit_all(path.parent, {path.name: write})


def commit_all(folder: Path, writes: Mapping[str, Callable[[BinaryIO], Any]]) -> None:
    """Writes files of one folder, each whole or not at all. None is in place before all of them are on the disk.

    Args:
        folder: the folder.
        writes: for each name the function that writes the file (see `commit`).

    Raises:
        OSError: when a file cannot be written.
    """
    temporary: dict[str, str] = {}
    with folders.writing(folder / next(iter(writes), "")), folders.entered(folder) as parent:
        try:
            for name, write in writes.items():
                temporary[name] = folders.temporary_name()
                with open(folders.create(temporary[name], parent), "wb") as file:  # noqa: PTH123
                    write(file)
                    file.flush()
                    folders.flush(file.fileno())
            for name in writes:
                os.replace(temporary[name], name, src_dir_fd=parent, dst_dir_fd=parent)
            folders.flush(parent)
        finally:
            for name in temporary.values():
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=parent)


def commit_figure(path: Path, figure: Any, **options: Any) -> None:
    """Writes a figure whole or not at all. It is drawn into memory, so that an error of drawing leaves the old file too.

    Args:
        path: the file, whose suffix gives the format.
        figure: a `matplotlib.figure.Figure`.
        options: the options of its `savefig`.

    Raises:
        OSError: when the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), **options)
    commit(path, lambda file: file.write(drawn.getbuffer()))


DIGEST = "sha256"
"""The name under which a JSON file states the SHA-256 of the rest of its content."""


def digest(content: Any) -> str:
    """Returns the SHA-256 of values that JSON can hold. It does not depend on the order of names.

    >>> digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
    True
    """
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of the bytes of a file.

    Raises:
        OSError: there is no such file, it is a link, or it cannot be opened.
        ValueError: it is no file of bytes.
    """
    with folders.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Writes values as JSON with the kind of file, the version of the format, and the SHA-256 of all these.

    Raises:
        OSError: when the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.json"
    >>> write_json(path, "note", {"about": "an example"})
    >>> read_json(path, "note")["about"]
    'an example'
    """
    whole = {"kind": kind, "format": FORMAT, **content}
    text = json.dumps({**whole, DIGEST: digest(whole)}, indent=1)
    commit(path, lambda file: file.write(text.encode()))


def read_json(path: Path, *kinds: str) -> dict[str, Any]:
    """Returns the values that `write_json` wrote, with `kind` and `format`.

    Args:
        path: the path of the file.
        kinds: the kinds of file that are expected.

    Raises:
        ValueError: when the file is damaged, or is of another kind or version.
        OSError: when the file is missing or cannot be opened.
    """
    content = folders.read(path)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}); give another folder") from error
    check_format(path, values, *kinds)
    stated = values.pop(DIGEST, None)
    if stated != digest(values):
        why = "it states no SHA-256, as files of earlier versions" if stated is None else "its SHA-256 is not that which it states"
        raise ValueError(f"{path} is not as dualebm wrote it: {why}; restore the file, or give another folder")
    return values


def check_format(path: Path, header: Any, *kinds: str) -> None:
    """Raises ValueError unless a file has one of the given kinds and the version of this program.

    Args:
        path: the path of the file, for the error.
        header: the header of the file.
        kinds: the kinds of file that are expected.

    Raises:
        ValueError: when the kind or the version differs.

    >>> check_format(Path("a.npz"), {"kind": "state", "format": FORMAT}, "energy")
    Traceback (most recent call last):
    ...
    ValueError: a.npz holds 'state'; it must hold 'energy', written by dualebm
    """
    stored = header.get("kind") if isinstance(header, dict) else None
    if stored not in kinds:
        raise ValueError(f"{path} holds {stored!r}; it must hold {' or '.join(map(repr, kinds))}, written by dualebm")
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

    commit(Path(path), lambda file: np.savez(file, header=np.array(text), **arrays))


def load(path: PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the header of a file of the given kind and its arrays by path.

    Raises:
        ValueError: when the file is damaged, or is of another kind or version.
        OSError: when the file is missing, is a link, or cannot be opened.
    """
    path = Path(path)
    arrays = archives.read(path)
    try:
        header = json.loads(str(arrays.pop("header", None)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or corrupt (its header is no JSON: {error})") from error
    check_format(path, header, kind)
    if not isinstance(header.get("keys"), dict) or not all(isinstance(value, str) for value in header["keys"].values()):
        raise ValueError(f"{path} is truncated or corrupt (its header states no random keys)")
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
        try:
            stored[name] = jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=header["keys"][name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name.removeprefix('leaf')} holds no random keys ({error})") from error
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
