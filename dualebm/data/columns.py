"""Columns of a table by names or positions, the place of a value in words, and the columns of arrays and DataFrames in float64."""

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

COLUMNS = 16_384
"""The largest number of columns, which is that of an Excel sheet."""


class Origin(NamedTuple):
    """Where the rows of a table come from, for errors.

    Args:
        name: the name of the file or of the array.
        unit: "line" in a text, or "row".
        lines: the numbers of the rows in the file, (n,), from 1.
        positions: the positions of the columns in the file, (d,), from 0.
        names: the names of all columns of the file, or None.
        chosen: whether the columns were chosen by `columns`.
    """

    name: str
    unit: str
    lines: np.ndarray
    positions: tuple[int, ...]
    names: tuple[str, ...] | None
    chosen: bool


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
    """Return the row and the column of the first True of an array of booleans, row by row.

    Args:
        marks: the booleans, (n, d), of which at least one is True.

    Returns:
        The row and the column, from 0.

    >>> first_place(np.array([[False, False], [False, True]]))
    (1, 1)
    """
    row, column = divmod(int(np.argmax(marks)), marks.shape[1])
    return row, column


def check_columns(columns: Sequence[str] | None) -> None:
    """Check that the columns to read are None or a list of at least one word.

    Args:
        columns: names of columns, or positions as digits, or None for all columns.

    Raises:
        ValueError: columns is anything else.

    >>> check_columns("xy")
    Traceback (most recent call last):
    ...
    ValueError: columns is 'xy'; it must list names of columns, or positions as digits
    """
    if columns is not None and (isinstance(columns, str) or not len(columns) or not all(isinstance(c, str) for c in columns)):
        raise ValueError(f"columns is {columns!r}; it must list names of columns, or positions as digits")


def _position(column: str, names: Sequence[str] | None, width: int, name: str, argument: str) -> int:
    """Return the position of a column, from 0. Raise ValueError for an unknown column: `argument` says which argument has it."""
    if names is not None:
        if column in names:
            return list(names).index(column)
        near = difflib.get_close_matches(column, names, 1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise ValueError(f"{argument} {column!r}, which {name} lacks;{hint} Allowed: {shown}")
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    needed = "columns must be positions" if argument.startswith("columns") else "it must be a position"
    raise ValueError(f"{argument} {column!r}, and {name} has no column names; {needed} from 1 to {width}")


def select(
    columns: Sequence[str] | None, names: Sequence[str] | None, width: int, name: str, wanted: Sequence[str] | None = None,
    weights: str | None = None,
) -> tuple[int, ...]:  # fmt: skip
    """Return the positions of columns, from 0.

    Args:
        columns: names of columns, or positions from 1 where there are no names. None for all columns.
        names: the names of all columns, or None.
        width: the number of columns.
        name: the name of the table in errors.
        wanted: the names of columns that are chosen where `columns` is None and all of them are among `names`.
        weights: the name or the position of one more column, the last of the result, that is not among the others. None for no such
            column.

    Returns:
        The positions, in the order of `columns`.

    Raises:
        ValueError: a column is unknown or given twice.

    >>> select(["y", "x"], ["x", "y", "z"], 3, "a.csv"), select(["3", "1"], None, 3, "a.csv")
    ((1, 0), (2, 0))
    >>> select(None, ["x", "w", "y"], 3, "a.csv", weights="w")
    (0, 2, 1)
    """
    last = None if weights is None else _position(weights, names, width, name, "weights is")
    if columns is not None:
        positions = tuple(_position(column, names, width, name, "columns has") for column in columns)
        if len(set(positions)) < len(positions):
            raise ValueError(f"columns is {list(columns)}; it must give each column once")
    elif names is not None and wanted is not None and {*wanted} <= {*names}:
        positions = tuple(list(names).index(column) for column in wanted)
    else:
        positions = tuple(i for i in range(width) if i != last)
        if not positions:
            raise ValueError(f"weights is {weights!r}, the only column of {name}; it must have columns of coordinates too")
    if last is None:
        return positions
    if last in positions:
        others = ", ".join(map(repr, columns or wanted or ()))
        raise ValueError(f"weights is {weights!r}, which is among the columns {others}; the weights must be another column")
    return (*positions, last)


def is_chosen(columns: Sequence[str] | None, wanted: Sequence[str] | None, names: Sequence[str] | None) -> bool:
    """Tell whether columns are chosen by names or positions, so that none of them is taken for an index.

    Args:
        columns: the names or positions of the columns to read, or None.
        wanted: the names of the columns that `select` prefers, or None.
        names: the names of all columns, or None.
    """
    return columns is not None or (wanted is not None and names is not None and {*wanted} <= {*names})


# -- Arrays ----------------------------------------------------------------------------------------


def as_columns(x: Any, name: str) -> tuple[tuple[str, ...] | None, int, Callable[[int], np.ndarray]]:
    """Return the columns of x, each converted to float64 when it is used.

    Args:
        x: rows of numbers, as `tables.as_table` takes them.
        name: the name of x in errors.

    Returns:
        The names of the columns or None, the number of columns, and a function of the position of a column, from 0, that returns it in
        float64, (n,), with NaN for missing values.

    Raises:
        ValueError: x is no table of integers or floating-point numbers.

    >>> as_columns([[1, 2], [3, 4]], "x")[2](1).tolist()
    [2.0, 4.0]
    """
    if type(x).__module__.partition(".")[0] == "pandas":
        frame = x.to_frame() if x.ndim == 1 and hasattr(x, "to_frame") else x
        if frame.ndim != 2:
            raise ValueError(f"{name} is a {type(x).__name__}; it must be a DataFrame")
        labels = tuple(str(label) for label in frame.columns)
        return labels, len(labels), lambda i: _frame_column(frame.iloc[:, i], i, labels, name)
    x = _as_array(x, name)
    if x.ndim != 2:
        hint = "; x[:, None] is a column of numbers, and x[None] one point" if x.ndim == 1 else ""
        raise ValueError(f"{name} has shape {x.shape}; it must be (rows, columns){hint}")
    if not x.size:
        raise ValueError(f"{name} is empty, shape {x.shape}; it must hold at least one point")
    return None, x.shape[1], lambda i: x[:, i]


def _as_array(x: Any, name: str) -> np.ndarray:
    """Return an array, a tensor or nested lists in float64, with NaN for masked values."""
    if hasattr(x, "detach"):  # a tensor of PyTorch; NumPy has no bfloat16
        x = x.detach().cpu().resolve_conj()
        x = (x.double() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        array = x if isinstance(x, np.ma.MaskedArray) else np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths; it must be (rows, columns)") from error
    if not (array.dtype.kind in "iuf" or jnp.issubdtype(array.dtype, jnp.floating)):
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold integers or floating-point numbers")
    values = array.astype(np.float64)
    for i in range(array.shape[1] if array.ndim == 2 and array.dtype.kind in "iu" else 0):
        _warn_of_merged(array[:, i], values[:, i], f"{name}, column {i + 1}")
    return values.filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values


def _frame_column(column: Any, position: int, names: tuple[str, ...], name: str) -> np.ndarray:
    """Return a column of a DataFrame in float64, with NaN for missing values."""
    kind = getattr(column.dtype, "kind", "O")
    if kind not in "iuf":
        words = {"b": "a boolean", "M": "a date", "m": "a time", "c": "a complex number"}.get(kind, "text or an object")
        row, value = next(((row, v) for row, v in enumerate(column, start=1) if v == v and v is not None), (1, "nothing"))
        at = place(name, "row", row, position, names)
        raise ValueError(f"{at}: found {str(value)[:40]!r}, {words}; a column must hold integers or floating-point numbers")
    values = column.to_numpy(np.float64, na_value=np.nan)
    if kind in "iu":
        _warn_of_merged(column.dropna().to_numpy(), values[~np.isnan(values)], f"{name}, column {position + 1} ({names[position]!r})")
    return values


def _warn_of_merged(whole: np.ndarray, values: np.ndarray, place: str) -> None:
    """Warn where different integers beyond 2^53 are equal in float64."""
    if len(whole) and max(abs(int(whole.max())), abs(int(whole.min()))) > 2**53:
        before, after = len(np.unique(whole)), len(np.unique(values))
        if after < before:
            warnings.warn(f"{place} has {before} different integers, of which {after} differ in float64; subtract an offset", stacklevel=5)
