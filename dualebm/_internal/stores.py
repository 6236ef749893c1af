"""Zarr stores as files: created and written whole, and read with each file checked.

Zarr makes the bytes in memory, and `dualebm._internal.files` writes them. A store is a folder with a folder for each array, whose chunks
end with their checksum (the codec crc32c). The `zarr.json` of the store holds that of all arrays, which Zarr calls consolidated metadata,
and the SHA-256 of itself. It is written last, so that a store without it is not complete.
"""

import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from dualebm._internal import files, folders

METADATA = "zarr.json"

FORM: dict[str, Any] = dict(
    compressors=(ZstdCodec(), Crc32cCodec()), chunk_key_encoding={"name": "default", "separator": "."}
)
"""The options of all arrays. A chunk is one file in the folder of its array, such as `c.0.2`."""

WHOLE = {"array.write_empty_chunks": True}
"""The setting of Zarr by which a chunk of fill values is a file too, so that a chunk that is missing is a loss."""

CHUNK = re.compile(r"c(\.\d+)+")
"""The names of the files of chunks."""

RECORDS = re.compile(r"c\.\d+(\.\d+)+")
"""The names of the files of chunks that hold records. The chunks of coordinates have one number."""

CHECKSUM = 4
"""The bytes of the checksum at the end of a chunk."""


# -- Writing ---------------------------------------------------------------------------------------


def create(path: Path, attributes: dict[str, Any], add: Callable[[zarr.Group], None]) -> None:
    """Create a store where there is none.

    Args:
        path: the folder of the store.
        attributes: the attributes of the whole, as JSON.
        add: function that adds the arrays to the root of the store, with the options `FORM`.

    Raises:
        OSError: when the store cannot be written.
    """
    made: dict[str, Any] = {}
    store = MemoryStore(made)
    with zarr.config.set(WHOLE):
        add(zarr.create_group(store=store, zarr_format=3, attributes=attributes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are no part of the specification yet
        zarr.consolidate_metadata(store, zarr_format=3)
    contents = {key: value.to_bytes() for key, value in made.items()}
    root = json.loads(contents.pop(METADATA))
    root["attributes"][files.DIGEST] = files.digest(root)
    folders.make(path)
    _commit(path, contents)
    files.commit(path / METADATA, lambda file: file.write(json.dumps(root, indent=2).encode()))


def write(path: Path, records: dict[str, np.ndarray], first: tuple[int, ...]) -> None:
    """Write a block of each array, and flush it to the disk. The block consists of whole chunks.

    Args:
        path: the folder of the store.
        records: for each name the values to write.
        first: the place of the first value on the first axes.

    Raises:
        ValueError: when a block begins or ends within a chunk, other than at the end of the array.
        OSError: when the store cannot be written.
    """
    made: dict[str, Any] = {METADATA: default_buffer_prototype().buffer.from_bytes(read_metadata(path))}
    with zarr.config.set(WHOLE):
        root = zarr.open_group(MemoryStore(made), mode="r+", use_consolidated=True)
        for name, values in records.items():
            array: Any = root[name]
            for axis, start in enumerate(first):
                size, stop = array.chunks[axis], start + values.shape[axis]
                if start % size or (stop % size and stop != array.shape[axis]):
                    raise ValueError(f"{name}: [{start}, {stop}) on axis {axis} is not made of whole chunks of {size}")
            array[tuple(slice(start, start + size) for start, size in zip(first, values.shape, strict=False))] = values
    _commit(path, {key: value.to_bytes() for key, value in made.items() if key != METADATA})


def _commit(path: Path, contents: dict[str, bytes]) -> None:
    """Write files by their keys, array by array."""
    for name, keys in itertools.groupby(sorted(contents), lambda key: key.partition("/")[0]):
        folders.make(path / name)
        writes = {key.partition("/")[2]: contents[key] for key in keys}
        files.commit_all(path / name, {key: lambda file, content=content: file.write(content) for key, content in writes.items()})


def clear(path: Path) -> None:
    """Remove a store, whole or not, where there is one.

    Raises:
        ValueError: when it holds a file that no store holds. Nothing is removed then.
        OSError: when it cannot be removed.
    """
    own = re.compile(rf"{re.escape(METADATA)}|{CHUNK.pattern}|{folders.TEMPORARY.pattern}")
    inner = [path / name for name in folders.names(path) if not own.fullmatch(name)]
    for folder in inner:
        others = [name for name in folders.names(folder) if not own.fullmatch(name)] if folder.is_dir() else [""]
        if others:
            raise ValueError(f"{folder / others[0]} is no file of dualebm, and its folder would be replaced; move it to another folder")
    for folder in (path, *inner):
        if folder.is_dir():
            folders.remove(folder, own)
    for folder in (*inner, path):
        folders.remove_empty(folder)


def has_records(path: Path) -> bool:
    """Return whether a store holds a chunk of records, be it complete or not."""
    inner = [path / name for name in folders.names(path)]
    return any(RECORDS.fullmatch(name) for folder in inner if folder.is_dir() for name in folders.names(folder))


# -- Reading ---------------------------------------------------------------------------------------


def read_metadata(path: Path) -> bytes:
    """Return the content of the `zarr.json` of a store, which describes all arrays.

    Args:
        path: the folder of the store.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, or was written by an earlier version of this package.
    """
    file = path / METADATA
    content = folders.read(file)
    try:
        root = json.loads(content)
        stated = root["attributes"].pop(files.DIGEST)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or corrupt, or of an earlier version of dualebm; give another folder") from error
    if stated != files.digest(root):
        raise ValueError(f"{file} is not as dualebm wrote it: its SHA-256 is not that which it states; restore it, or give another folder")
    return content


class Files(MutableMapping[str, Any]):
    """The files of a store by their keys, each read and checked when it is used, in the form that `MemoryStore` takes.

    Args:
        path: the folder of the store.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metadata = read_metadata(path)
        self.required: frozenset[str] = frozenset()

    def __getitem__(self, key: str) -> Any:
        if key == METADATA:
            content = self.metadata
        elif not CHUNK.fullmatch(key.rpartition("/")[2]):
            raise KeyError(key)
        else:
            try:
                content = folders.read(self.path / key)
            except FileNotFoundError:
                if key in self.required:
                    raise ValueError(_lost(self.path / key)) from None
                raise KeyError(key) from None
            value, stated = content[:-CHECKSUM], content[-CHECKSUM:]
            if len(stated) < CHECKSUM or google_crc32c.value(value).to_bytes(CHECKSUM, "little") != stated:
                raise ValueError(f"{self.path / key} is truncated or corrupt: its checksum is not that of its content; {REMEDY}")
        return default_buffer_prototype().buffer.from_bytes(content)

    def __setitem__(self, key, value):
        raise TypeError("the store is read only")

    def __delitem__(self, key):
        raise TypeError("the store is read only")

    def __iter__(self) -> Iterator[str]:
        yield METADATA
        for name in self.arrays():
            yield from (f"{name}/{file}" for file in folders.names(self.path / name) if CHUNK.fullmatch(file))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def arrays(self) -> dict[str, Any]:
        """Return the description of each array by its name, as Zarr stores it."""
        return json.loads(self.metadata)["consolidated_metadata"]["metadata"]

    def require(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Check that chunks exist, and let their loss be an error from now on. A chunk that is not required reads as fill values.

        Args:
            blocks: the numbers of the chunks on the axes of runs and of records. Chunks of coordinates are required always.

        Raises:
            ValueError: a chunk is missing. The message names its file.
        """
        keys, places = set(), list(blocks)
        for name, array in self.arrays().items():
            shape, size = array["shape"], array["chunk_grid"]["configuration"]["chunk_shape"]
            there = set(folders.names(self.path / name))
            if 0 in shape:
                wanted = []
            elif len(shape) > 1:
                wanted = [".".join(["c", *map(str, place), *("0" for _ in shape[2:])]) for place in places]
            else:
                wanted = [f"c.{number}" for number in range(-(-shape[0] // size[0]))]
            for missing in (chunk for chunk in wanted if chunk not in there):
                raise ValueError(_lost(self.path / name / missing))
            keys |= {f"{name}/{chunk}" for chunk in wanted}
        self.required = frozenset(keys)


REMEDY = "restore it, or give another folder to run anew"


def _lost(path: Path) -> str:
    return f"{path} is missing, although its records were written; {REMEDY}"
