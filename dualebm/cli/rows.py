"""The rows of a file, as the flags of `dualebm fit` and `dualebm score` choose them."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from dualebm.data import tables
from dualebm.data.tables import Table


def read(
    path: Path, columns: str | None, drop_missing: bool, wanted: Sequence[str] | None = None, weights: str | None = None
) -> Table:
    """Read the rows of a file, and say on standard error how many were left out.

    Args:
        path: the file.
        columns: the value of --columns: names or numbers, separated by commas. None for all columns.
        drop_missing: whether to leave out rows with missing values.
        wanted: the names of the columns to read where `columns` is None and the file has all of them.
        weights: the value of --weights: the name or the number of the column of weights. None for equal weights.

    Returns:
        The table.

    Raises:
        ValueError: the file holds no table of finite numbers.
        OSError: the file cannot be read.
        ImportError: a package that reads such files is missing.
    """
    table = tables.read(path, split_names(columns), drop_missing, wanted=wanted, weights=weights)
    for count, what in ((table.dropped, "missing values"), (table.weightless, "the weight 0")):
        if count:
            rows, have, are = ("rows", "have", "are") if count > 1 else ("row", "has", "is")
            print(f"note: {count} {rows} of {path} {have} {what} and {are} left out", file=sys.stderr)
    return table


def split_names(text: str | None) -> list[str] | None:
    """Return the names that a text separates by commas. A name with a comma is quoted as in CSV.

    >>> split_names('east,north'), split_names('"speed, m/s",2'), split_names(None)
    (['east', 'north'], ['speed, m/s', '2'], None)
    """
    return None if text is None else next(csv.reader([text], skipinitialspace=True))
