"""Tables of numbers from files and from arrays. pandas reads them, and then they are checked. Nothing is guessed, and nothing unpickled."""

import difflib
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dualebm import row_weights
from dualebm._internal import checks
from dualebm.data.columns import COLUMNS, Origin, as_columns, check_columns, first_place, is_chosen, place, select
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import CountOrZero, checked

TEXTS = (".csv", ".tsv", ".txt")
SUFFIXES = (*TEXTS, ".npy", ".npz", ".parquet", ".xlsx")
"""The suffixes of the files that `read` reads."""

INDEX_NAMES = ("id", "idx", "index", "level_0", "no", "nr", "row", "row_id", "rownum")
"""The names, in small letters, under which a column that counts the rows is taken for an index."""


class Table(NamedTuple):
    """Finite numbers in rows and columns.

    Args:
        rows: the numbers in float64, (n, d).
        columns: the names of the columns, or None.
        origin: where the rows come from.
        dropped: the number of rows that were dropped, as a value was missing.
        weights: the positive weights of the rows in float64, (n,), or None where rows have none.
        weightless: the number of rows that were dropped, as their weight was 0.
    """

    rows: np.ndarray
    columns: tuple[str, ...] | None
    origin: Origin
    dropped: int
    weights: np.ndarray | None = None
    weightless: int = 0


@checked
def where(table: Table, row: CountOrZero, column: CountOrZero | None = None) -> str:
    """Return the place of a value of a table in its file, for errors.

    Args:
        table: the table.
        row: the row, from 0.
        column: the column, from 0, or None for the whole row.

    >>> where(as_table([[3.0, 4.0]], name="x"), 0, 1)
    'x, row 1, column 2'
    """
    origin = table.origin
    position = None if column is None else origin.positions[column]
    return place(origin.name, origin.unit, int(origin.lines[row]), position, origin.names)


@checked
def read(
    path, columns: Sequence[str] | None = None, drop_missing: bool = False, *, wanted: Sequence[str] | None = None,
    weights: str | None = None,
) -> Table:  # fmt: skip
    """Read a table from a file with one point per row.

    The suffix tells the kind of file. `.csv`, `.tsv` and `.txt` are text in UTF-8 or UTF-16, with commas, semicolons, tabs or blanks
    between values, decimal points or commas, at most one line of column names, and comments after `#`. `.npz` holds one array or
    an array `points`. `.parquet` and `.xlsx`, of one sheet, need the packages of `pip install 'dualebm[tables]'`.

    An unnamed first column that counts the rows from 0 or 1, as pandas and R write it, is left out. A column that counts the rows
    under a name such as `id` may be data or not, so `columns` must choose. Names 0, 1, ... as pandas writes them are names.

    Args:
        path: the file.
        columns: the names of the columns to read, in their order, or their positions from 1 as digits where the file has no names.
            None for all columns.
        drop_missing: whether to drop rows in which a value is missing.
        wanted: the names of the columns to read where `columns` is None and the file has all of them, such as those of a model.
        weights: the name of the column of weights of the rows, or its position from 1 as digits where the file has no names. It is no
            coordinate. Rows of weight 0 are dropped. None for no weights.

    Returns:
        The table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no table of finite numbers, or could be read in two ways, or a weight is negative or all are 0. The
            message names the file and, where there is one, the line or row and the column.
        ImportError: a package of the extra `tables` is missing.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "wind.csv"
    >>> _ = path.write_text("hour;east;north\\n1;0,5;4\\n2;-1,5;3\\n")
    >>> table = read(path, ["north", "east"])
    >>> table.rows.tolist(), table.columns
    ([[4.0, 0.5], [3.0, -1.5]], ('north', 'east'))
    """
    path = Path(path)
    check_columns(columns)
    _check_weights(weights)
    _check_file(path)
    suffix, name = path.suffix.lower(), str(path)
    try:
        if suffix not in TEXTS and suffix != ".xlsx":
            content = _parquet(path) if suffix == ".parquet" else _numpy(path)
            return as_table(content, columns, drop_missing, name, wanted=wanted, weights=weights)
        from dualebm.data import text_tables  # which imports pandas

        text = _excel_lines(path) if suffix == ".xlsx" else text_tables.content_lines(path.read_bytes(), name)
    except PermissionError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from error
    return _checked(*text_tables.parse(text, columns, wanted, weights), drop_missing, weights is not None)


@checked
def as_table(
    x: Any, columns: Sequence[str] | None = None, drop_missing: bool = False, name: str = "x", *, wanted: Sequence[str] | None = None,
    weights: Any = None,
) -> Table:  # fmt: skip
    """Return numbers as a table.

    Args:
        x: rows of integers or floating-point numbers, (n, d): an array of NumPy or JAX, a tensor of PyTorch, nested lists, a DataFrame
            or a Series of pandas, or a `Table`. NaN and masked values are missing. A Series is one column.
        columns: the names of the columns to take, in their order, or their positions from 1 as digits where x has no names. None for
            all columns.
        drop_missing: whether to drop rows in which a value is missing.
        name: the name of x in errors.
        wanted: the names of the columns to take where `columns` is None and x has all of them.
        weights: the name or the position of the column of weights of the rows, which is no coordinate, or the weights, (n,). Rows of
            weight 0 are dropped. None for the weights of a `Table`, or no weights.

    Returns:
        The table, in float64.

    Raises:
        ValueError: x has another shape, a value is no finite number, or a weight is negative or all are 0. The message names the row,
            from 1, and the column.

    >>> as_table(np.array([[1, 2], [3, 4]], np.int8), columns=["2"]).rows.tolist()
    [[2.0], [4.0]]
    >>> table = as_table([[1, 2], [3, 4]], weights="1")
    >>> table.rows.tolist(), table.weights.tolist()
    ([[2.0], [4.0]], [1.0, 3.0])
    """
    check_columns(columns)
    column_of_weights = weights if isinstance(weights, str) else None
    if column_of_weights is not None:
        _check_weights(column_of_weights)
    if isinstance(x, Table):
        if weights is not None and x.weights is not None:
            raise ValueError(f"weights is given, and {x.origin.name} has weights already; give them once")
        width, origin = x.rows.shape[1], x.origin
        positions = select(columns, x.columns, width, origin.name, wanted, column_of_weights)
        if weights is not None:
            origin = origin._replace(positions=tuple(origin.positions[i] for i in positions), chosen=True)
            return _checked(np.ascontiguousarray(x.rows[:, positions]), origin, False, column_of_weights is not None or weights, x.dropped)
        if positions == tuple(range(width)):
            return x._replace(origin=origin._replace(chosen=origin.chosen or columns is not None))
        origin = origin._replace(positions=tuple(origin.positions[i] for i in positions), chosen=True)
        names = None if x.columns is None else tuple(x.columns[i] for i in positions)
        return x._replace(rows=np.ascontiguousarray(x.rows[:, positions]), columns=names, origin=origin)
    names, width, column = as_columns(x, name)
    if width > COLUMNS:
        raise ValueError(f"{name} has {width} columns; at most {COLUMNS} are allowed")
    for i, label in enumerate(names or ()):
        if label in (names or ())[:i]:
            raise ValueError(f"{name}, column {i + 1}: found the name {label!r} a second time; names must differ")
    positions = select(columns, names, width, name, wanted, column_of_weights)
    rows = np.stack([column(i) for i in positions], axis=1)
    origin = Origin(name, "row", np.arange(1, len(rows) + 1), positions, names, is_chosen(columns, wanted, names))
    return _checked(rows, origin, drop_missing, column_of_weights is not None or weights)


@checked
def as_samples(x, space: Space, normalise: bool = False, dtype=None, name: str = "x") -> Samples:
    """Return an array as data: float32 or float64 points of a space, with equal weights.

    Args:
        x: an array (n, d) of float32 or float64.
        space: the space of the points.
        normalise: whether to divide each row by its norm, which only a `Sphere` allows.
        dtype: float32 or float64, to which the points are cast. None keeps the dtype of the array.
        name: the name of the array in errors.

    Returns:
        The points (n, d).

    Raises:
        ValueError: the array has another shape or is neither float32 nor float64, or a point is not finite or not in
            the space.

    >>> from dualebm.spaces import Sphere
    >>> as_samples(np.array([[3.0, 4.0]], np.float32), Sphere(2), normalise=True).points.round(3).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    x = np.asarray(x)
    if x.dtype in (np.float32, np.float64):  # `checks.points` refuses other dtypes
        if normalise and x.ndim == 2:
            x = space.normalise(x, name)
        if dtype is not None:
            with np.errstate(over="ignore"):  # a value that overflows becomes inf, which `checks.points` refuses
                x = x.astype(checks.precision(dtype))
    checks.points(name, x, space)
    return Samples(jnp.asarray(x))


# -- Checks ----------------------------------------------------------------------------------------


def _check_file(path: Path) -> None:
    """Raise an error unless a path is a regular file with a suffix that is read. A device could be read without end."""
    suffix = path.suffix.lower()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise ValueError(f"{path} is {kind}; it must be a file that ends with {', '.join(SUFFIXES)}")
    if suffix not in SUFFIXES:
        near = difflib.get_close_matches(suffix, SUFFIXES, 1, cutoff=0.7)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the suffix of {path} is {suffix!r};{hint} Allowed: {', '.join(map(repr, SUFFIXES))}")
    if mode is None:
        raise FileNotFoundError(f"path is {str(path)!r}; there is no such file")


def _check_weights(weights: Any) -> None:
    """Raise ValueError unless the column of weights is a word or None."""
    if weights is not None and (not isinstance(weights, str) or not weights):
        raise ValueError(f"weights is {weights!r}; it must name a column, or give its position as digits")


def _checked(rows: np.ndarray, origin: Origin, drop_missing: bool, weights: Any = None, dropped: int = 0) -> Table:
    """Return rows as a table.

    It has no unnamed index, no rows of weight 0 and, where `drop_missing` says so, no rows that lack a value.

    Args:
        rows: the numbers, (n, d), with NaN for missing values.
        origin: where they come from.
        drop_missing: whether to drop rows that lack a value.
        weights: True where the last column holds the weights, the weights of the rows, (n,), or None or False for no weights.
        dropped: the number of rows that were dropped before.
    """
    if not len(rows):
        raise ValueError(f"{origin.name} is empty; it must have one point per {origin.unit}")
    given = None if weights is None or isinstance(weights, bool) else row_weights.check("weights", weights, len(rows))
    weighted = weights is True
    rows, origin = _without_index(rows, origin, rows.shape[1] - weighted)
    table = Table(rows, None, origin, 0)
    infinite = np.isinf(rows)
    if infinite.any():
        i, j = first_place(infinite)
        raise ValueError(f"{where(table, i, j)}: found {rows[i, j]}; it must be a finite number")
    kept, missing = np.ones(len(rows), bool), np.isnan(rows)
    if missing.any():
        _check_missing(table, missing, drop_missing)
        kept = ~missing.any(axis=1)
    dropped += int(np.sum(~kept))
    if weighted:
        given = rows[:, -1]
        if (given < 0).any():
            i = int(np.argmax(given < 0))
            raise ValueError(f"{where(table, i, rows.shape[1] - 1)}: found the weight {given[i]:g}; weights must not be negative")
        if not given[kept].any():
            counted = f"{kept.sum()} row{'s' if kept.sum() > 1 else ''}"
            raise ValueError(f"{origin.name} has no positive weight in {counted}; at least one weight must be positive")
        rows, origin = rows[:, :-1], origin._replace(positions=origin.positions[:-1])
    weightless = 0
    if given is not None:
        weightless = int(np.sum(given[kept] == 0))
        kept &= given > 0
        given = given[kept]
    if not kept.all():
        rows, origin = rows[kept], origin._replace(lines=origin.lines[kept])
    names = None if origin.names is None else tuple(origin.names[i] for i in origin.positions)
    return Table(np.ascontiguousarray(rows), names, origin, dropped, given, weightless)


def _without_index(rows: np.ndarray, origin: Origin, width: int) -> tuple[np.ndarray, Origin]:
    """Leave out an unnamed index among the first `width` columns, which are the coordinates. Raise ValueError where one may be an index."""
    name, _, _, positions, names, chosen = origin
    if chosen or names is None:
        return rows, origin
    words = [names[i] for i in positions[:width]]
    counting = [i for i in range(width) if any((rows[:, i] == np.arange(start, start + len(rows))).all() for start in (0, 1))]
    if positions[0] == 0 and (not words[0] or words[0].startswith("Unnamed: ")):
        if 0 not in counting:
            raise ValueError(f"{name}, column 1: found no name, and values that do not count rows; columns must choose those to read")
        if width == 1:
            raise ValueError(f"{name} has one column, which counts the rows; it must have columns of numbers")
        rows, origin = np.ascontiguousarray(rows[:, 1:]), origin._replace(positions=positions[1:])
    named = [i for i in counting if words[i].lower() in INDEX_NAMES]
    if named and len(rows) > 1:
        others = ",".join(column for i, column in enumerate(words) if column and i not in named)
        raise ValueError(
            f"{name}, column {positions[named[0]] + 1} ({words[named[0]]!r}): found values that count the rows, which may be no data; "
            f"columns must choose those to read, such as {others[:60] or words[named[0]]}"
        )
    return rows, origin


def _check_missing(table: Table, missing: np.ndarray, drop_missing: bool) -> None:
    """Raise ValueError for missing values, unless their rows may be dropped and another row is left."""
    incomplete, name = missing.any(axis=1), table.origin.name
    count, (i, j) = int(missing.sum()), first_place(missing)
    if not drop_missing:
        lacking = f"{count} missing value{'s' if count > 1 else ''} in {int(incomplete.sum())} of {len(missing)} rows"
        raise ValueError(f"{where(table, i, j)}: found no value, the first of {lacking}; drop_missing leaves out such rows")
    if incomplete.all():
        raise ValueError(f"{name} has a missing value in each of {len(missing)} rows, first in {where(table, i, j).partition(', ')[2]}")


# -- Files -----------------------------------------------------------------------------------------


def _numpy(path: Path) -> np.ndarray:
    """Return the array of a `.npy` file, or the only array or the array `points` of a `.npz` file. Nothing is unpickled."""
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            names = stored.files
            if "points" in names or len(names) == 1:
                return stored["points" if "points" in names else names[0]]
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no plain array ({error}); it must be one that numpy.save wrote") from error
    raise ValueError(f"{path} holds the arrays {names}; it must hold one, or one named 'points'")


def _parquet(path: Path) -> Any:
    """Return the DataFrame of a Parquet file."""
    checks.package("pyarrow", str(path), "'dualebm[tables]'")
    import pandas
    from pyarrow.lib import ArrowException

    try:
        return pandas.read_parquet(path, engine="pyarrow")
    except (ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path} is no Parquet file ({' '.join(str(error).split())[:120]})") from error


def _excel_lines(path: Path) -> Any:
    """Return the rows of the only sheet that is not empty as `text_tables.Lines`, with tabs between quoted cells."""
    checks.package("openpyxl", str(path), "'dualebm[tables]'")
    import pandas

    from dualebm.data import text_tables

    try:
        sheets = pandas.read_excel(path, sheet_name=None, header=None, dtype=object, keep_default_na=False, na_values=[], engine="openpyxl")
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no Excel file ({' '.join(str(error).split())[:120]})") from error
    filled = {title: sheet for title, sheet in sheets.items() if sheet.size}
    if len(filled) > 1:
        raise ValueError(f"{path} has the sheets {list(filled)}; it must have one")
    cells = [[_word(cell) for cell in row] for sheet in filled.values() for row in sheet.to_numpy(object)]
    kept = [(row, number) for number, row in enumerate(cells, start=1) if any(row)]
    lines = ["\t".join(f'"{word}"' for word in row) for row, _ in kept]
    return text_tables.Lines(lines, [number for _, number in kept], str(path), "row", ("\t", text_tables.WHOLE))


def _word(cell: Any) -> str:
    """Return a cell of a sheet as a word without marks that separate or quote words. All digits of a number are kept."""
    return " ".join(str(cell).replace('"', "'").split()) if cell is not None else ""
