"""Columns of numbers, written to a file or to standard output."""

import io
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dualebm._internal import checks, files

SUFFIXES = (".csv", ".npy")
"""The suffixes of the files that the commands write."""

BYTES = {".csv": 20, ".npy": 8}
"""The bytes that a number takes in a file, for .csv about."""

ROWS = 10_000
"""The number of rows that are turned into text at a time."""


def check(out: Path | None, suffixes: Iterable[str] = SUFFIXES) -> None:
    """Check that a file can be written to a path. None stands for standard output.

    Args:
        out: the path.
        suffixes: the allowed suffixes.

    Raises:
        ValueError: the suffix is not allowed.
        OSError: the folder is missing, or the path is a folder.

    >>> check(Path("samples.txt"))
    Traceback (most recent call last):
    ...
    ValueError: the suffix of samples.txt is '.txt'; Allowed: '.csv', '.npy'
    """
    if out is None:
        return
    checks.choice(f"the suffix of {out}", out.suffix.lower(), suffixes)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out is {str(out)!r}; there is no folder {str(out.parent)!r}")
    if out.is_dir():
        raise IsADirectoryError(f"out is {str(out)!r}, which is a folder; it must be a file")


def check_folder(out: Path) -> None:
    """Check that a path is that of a folder, which may be a new one. Raises NotADirectoryError for a file.

    >>> check_folder(Path(__file__).parent)
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out is {str(out)!r}, which is a file; it must be a folder")


def check_size(out: Path | None, count: int, columns: int) -> None:
    """Raise ValueError where the disk of a file has no room for it. Standard output has room.

    Args:
        out: the file, .csv or .npy, or None for standard output.
        count: the number of rows.
        columns: the number of columns.

    Raises:
        ValueError: the file would not fit.

    >>> check_size(None, 10**15, 3)
    """
    if out is None:
        return
    row, free = columns * BYTES[out.suffix.lower()], shutil.disk_usage(out.parent).free
    if count * row > free:
        raise ValueError(
            f"count is {count}, and {out} would take about {count * row / 1e9:.3g} GB of the {free / 1e9:.3g} GB that its disk has free; "
            f"it must be at most about {free // row}"
        )


def write(out: Path | None, names: list[str], blocks: Iterable[np.ndarray], count: int) -> None:
    """Write columns in float64 as CSV with a line of their names, or to a .npy file.

    A number has as many digits as it needs to come back unchanged. Memory holds one block of rows.

    Args:
        out: the file, whose suffix gives the format, or None for CSV on standard output.
        names: the names of the columns.
        blocks: the columns, block by block, (rows, columns).
        count: the number of rows of all blocks.

    Raises:
        OSError: when the file cannot be written.
    """
    if out is None:
        _write_csv(sys.stdout, names, blocks)
        return

    def save(file: Any) -> None:
        if out.suffix.lower() == ".npy":
            whole = np.broadcast_to(np.zeros((), "<f8"), (count, len(names)))  # an array of these sizes that takes no memory
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
            for values in blocks:
                file.write(np.ascontiguousarray(values, "<f8").data)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)
            _write_csv(text, names, blocks)
            text.detach()

    files.commit(out, save)


def _write_csv(file: Any, names: list[str], blocks: Iterable[np.ndarray]) -> None:
    """Write a header and rows. Names with a comma, a quote or a line break are quoted."""
    import csv

    csv.writer(file, lineterminator="\n").writerow(names)
    for values in blocks:
        for first in range(0, len(values), ROWS):
            file.writelines(",".join(map(repr, row)) + "\n" for row in values[first : first + ROWS].tolist())


def summary(out: Path | None) -> Any:
    """Return where a summary is printed: standard error where the columns go to standard output.

    >>> summary(None) is sys.stderr
    True
    """
    return sys.stderr if out is None else sys.stdout
