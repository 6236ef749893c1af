"""Columns of a table by names or positions, and the place of a value in words."""

import difflib
from collections.abc import Sequence

import numpy as np

COLUMNS = 16_384
"""The largest number of columns, which is that of an Excel sheet."""


def place(name: str, unit: str, number: int, column: int | None = None, names: Sequence[str] | None = None) -> str:
    """Return the place of a value in words, for errors.

    Args:
        name: the name of the table.
        unit: "line" or "row".
        number: the number of the line or row, from 1.
        column: the position of the column, from 0, or None for the whole line.
        names: the names of all columns, or None.

    >>> place("a.csv", "line", 3, 1, ["x", "y"])
    "a.csv, line 3, column 2 ('y')"
    """
    label = "" if column is None else f", column {column + 1}"
    return f"{name}, {unit} {number}{label}" + (f" ({names[column]!r})" if names and column is not None and names[column] else "")


def first_place(marks: np.ndarray) -> tuple[int, int]:
    """Return the row and the column, from 0, of the first True of an array of booleans, (n, d), row by row.

    >>> first_place(np.array([[False, False], [False, True]]))
    (1, 1)
    """
    row, column = divmod(int(np.argmax(marks)), marks.shape[1])
    return row, column


def check_columns(columns: Sequence[str] | None) -> None:
    """Raise ValueError unless the columns to read are None or a list of at least one word.

    >>> check_columns("xy")
    Traceback (most recent call last):
    ...
    ValueError: columns is 'xy'; it must list names of columns, or positions as digits
    """
    if columns is not None and (isinstance(columns, str) or not len(columns) or not all(isinstance(c, str) for c in columns)):
        raise ValueError(f"columns is {columns!r}; it must list names of columns, or positions as digits")


def select(
    columns: Sequence[str] | None, names: Sequence[str] | None, width: int, name: str, wanted: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Return the positions of columns, from 0.

    Args:
        columns: names of columns, or positions from 1 where there are no names. None for all columns.
        names: the names of all columns, or None.
        width: the number of columns.
        name: the name of the table in errors.
        wanted: the names of columns that are chosen where `columns` is None and all of them are among `names`.

    Returns:
        The positions, in the order of `columns`.

    Raises:
        ValueError: a column is unknown or given twice.

    >>> select(["y", "x"], ["x", "y", "z"], 3, "a.csv"), select(["3", "1"], None, 3, "a.csv")
    ((1, 0), (2, 0))
    """
    if columns is None:
        if names is not None and wanted is not None and {*wanted} <= {*names}:
            return tuple(list(names).index(column) for column in wanted)
        return tuple(range(width))
    positions = []
    for column in columns:
        if names is not None and column in names:
            positions.append(list(names).index(column))
        elif names is not None:
            near = difflib.get_close_matches(column, names, 1)
            hint = f" did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"columns has {column!r}, which {name} lacks;{hint} Allowed: {shown}")
        elif column.isdecimal() and 1 <= int(column) <= width:
            positions.append(int(column) - 1)
        else:
            raise ValueError(f"columns has {column!r}, and {name} has no column names; columns must be positions from 1 to {width}")
    if len(set(positions)) < len(positions):
        raise ValueError(f"columns is {list(columns)}; it must give each column once")
    return tuple(positions)
