"""Tables of numbers in text. `text_readings` recognises how lines become numbers, and pandas reads the numbers."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dualebm.data.columns import COLUMNS, first_place, place, select
from dualebm.data.text_readings import (
    BLANKS,
    FORMS,
    INFINITE,
    MISSING,
    SEPARATORS,
    Reading,
    check_clear,
    count_values,
    find_readings,
    is_number,
    nearest,
    sample_size,
    split,
)

_COMMENT = re.compile(r'(?:"[^"]*"|[^"#]|#(?=(?:NA|N/A|N/A N/A)\s*(?:[,;"\t]|$)))*')  # what stands before a comment
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")
_BOOLEAN = re.compile(r"true|false|yes|no", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}.*")


class Text(NamedTuple):
    """The columns of a text that are asked for.

    Attributes:
        values: the numbers in float64, (n, d). A missing value is NaN.
        names: the names of all columns of the text, or None. The name of an unnamed column is empty.
        positions: the positions of the d columns in the text, from 0.
        lines: the numbers of the lines in the file, (n,), from 1.
    """

    values: np.ndarray
    names: tuple[str, ...] | None
    positions: tuple[int, ...]
    lines: np.ndarray


def decode(content: bytes, name: str) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    `name` is the name of the file in errors. Raises ValueError for bytes that are no such text.

    >>> decode(b"\\xef\\xbb\\xbf1;2", "a.csv"), decode("1;2".encode("utf-16"), "a.csv")
    ('1;2', '1;2')
    """
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise ValueError(f"{name}, line {line}: found bytes that are no text in UTF-8; save the file as text in UTF-8") from error
    control = _CONTROL.search(text)
    if control is not None:
        line = 1 + text[: control.start()].count("\n")
        raise ValueError(f"{name}, line {line}: found the control character {control.group()!r}; the file must be text")
    return text


def content_lines(text: str, name: str) -> tuple[list[str], list[int]]:
    """Return the lines of a text without comments and blank lines, and their numbers from 1.

    A comment goes from # to the end of its line. Lines end with LF, CRLF or CR. `name` is the name of the file in errors.
    Raises ValueError for a quotation mark without a partner on its line.

    >>> content_lines("# wind\\r\\nx,y  # east, north\\r\\n\\r\\n1,2", "a.csv")
    (['x,y', '1,2'], [2, 4])
    """
    kept, numbers = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if "#" in line:
            line = _COMMENT.match(line).group()  # pyright: ignore[reportOptionalMemberAccess] (it matches the empty string too)
        if line.count('"') % 2:
            raise ValueError(f"{name}, line {number}: found a quotation mark without a partner; a value must end on its line")
        if line.strip():
            kept.append(line.strip(" "))
            numbers.append(number)
    return kept, numbers


def parse(
    lines: Sequence[str], numbers: Sequence[int], name: str, columns: Sequence[str] | None = None,
    wanted: Sequence[str] | None = None, separator: str | None = None, unit: str = "line",
) -> Text:  # fmt: skip
    """Read the numbers of lines that are neither blank nor comments.

    Args:
        lines: the lines.
        numbers: their numbers in the file, from 1.
        name: the name of the file in errors.
        columns: the names of the columns to read, in their order, or positions from 1 in a text without names. None for all.
        wanted: the names of the columns to read where `columns` is None and the text has all of them.
        separator: the separator, or None to recognise it.
        unit: the word for a line in errors.

    Returns:
        The columns.

    Raises:
        ValueError: the lines are no table of numbers, or could be read in two ways. The message names the line and the column.

    >>> parse(["x;y", "1,5;2", "-0,25;NA"], [1, 2, 3], "a.csv").values.tolist()
    [[1.5, 2.0], [-0.25, nan]]
    """
    if not lines:
        raise ValueError(f"{name} holds no points; it must have one per {unit}")
    separators = SEPARATORS if separator is None else (separator,)
    width = max(count_values(lines[0], s) for s in separators)
    if width > COLUMNS:
        raise ValueError(f"{place(name, unit, numbers[0])}: found {width} columns; at most {COLUMNS} are allowed")
    likely = wanted if columns is None else columns
    readings = find_readings(lines[: sample_size(lines)], separators, likely)
    counted = len(readings) == 1 and split(lines[0], readings[0].separator) == ["0", "1"]  # all lines tell whether these are names
    if len(readings) == 1 and None not in readings[0][1:] and not counted:
        text = _read(lines, numbers, readings[0], name, unit, columns, wanted, fast=True)
        if text is not None:
            return text
    readings = find_readings(lines, separators, likely) or [nearest(lines, separators, likely)]
    check_clear(readings, lines, numbers, name, unit)
    text = _read(lines, numbers, readings[0], name, unit, columns, wanted, fast=False)
    assert text is not None
    return text


# -- Reading ---------------------------------------------------------------------------------------


def _read(lines, numbers, reading: Reading, name: str, unit: str, columns, wanted, *, fast: bool) -> Text | None:
    """Return the columns under a reading, or None where `fast` pandas meets a value that is no number."""
    separator, form, header = reading
    first = split(lines[0], separator)
    width = len(first)
    for line, number in zip(lines, numbers, strict=True):
        if count_values(line, separator) != width:
            values = f"{count_values(line, separator)} values; it must have {width}, as {unit} {numbers[0]}"
            raise ValueError(f"{place(name, unit, number)}: found {values}")
    names = tuple(first) if header else None
    body, at = lines[bool(header) :], numbers[bool(header) :]
    if not body:
        raise ValueError(f"{name} holds no points below the names in {unit} {numbers[0]}; it must have one per {unit}")
    while width > 1 and not first[width - 1] and all(not split(line, separator)[width - 1] for line in body):
        width -= 1  # each line ends with a separator
    names = None if names is None else names[:width]
    positions = select(columns, names, width, name, wanted)
    _check_names(names, positions, place(name, unit, numbers[0]))
    values = _by_pandas(body, separator, form, len(first), positions) if fast else None
    if values is None and fast:
        return None
    if values is None:
        values = _by_value(body, at, separator, form, positions, name, unit, names)
    infinite = np.isinf(values)
    if infinite.any():
        row, column = first_place(infinite)
        where = place(name, unit, at[row], positions[column], names)
        raise ValueError(f"{where}: found {split(body[row], separator)[positions[column]][:40]!r}; it must be a finite number")
    return Text(values, names, positions, np.array(at))


def _check_names(names: Sequence[str] | None, positions: Sequence[int], where: str) -> None:
    """Raise ValueError for columns that share a name, and for an unnamed column that is read, unless it is the first of the table."""
    for i, column in enumerate(names or ()):
        if column and column in (names or ())[:i]:
            raise ValueError(f"{where}, column {i + 1}: found the name {column!r} a second time; names must differ")
        if not column and i and i in positions:
            raise ValueError(f"{where}, column {i + 1}: found no name; each column must have one, or columns must choose those to read")


def _by_pandas(body, separator, form, width, positions) -> np.ndarray | None:
    """Return the numbers in C order, or None where a value is no number. From 3.1 on pandas rounds to the nearest float64."""
    import pandas

    if form[1] is not None:  # pandas takes 1,23 for 123
        return None
    try:
        frame = pandas.read_csv(
            io.StringIO("\n".join(body)), sep=r"\s+" if separator == BLANKS else separator, header=None, names=list(range(width)),
            usecols=sorted(positions), index_col=False, dtype=np.float64, decimal=form[0], keep_default_na=False,
            na_values=sorted(MISSING), skip_blank_lines=False, skipinitialspace=True,
        )  # fmt: skip
    except ValueError:
        return None
    return np.ascontiguousarray(frame[list(positions)].to_numpy(np.float64)) if len(frame) == len(body) else None


def _by_value(body, at, separator, form, positions, name, unit, names) -> np.ndarray:
    """Return the numbers, one by one. Raises ValueError for the first value that is no number."""
    decimal, thousands = form
    values = np.empty((len(body), len(positions)))
    for row, line in enumerate(body):
        cells = split(line, separator)
        for column, position in enumerate(positions):
            cell = cells[position]
            if cell in MISSING:
                values[row, column] = np.nan
            elif FORMS[form].fullmatch(cell) or INFINITE.fullmatch(cell):
                values[row, column] = float((cell.replace(thousands, "") if thousands else cell).replace(decimal, "."))
            else:
                fault = _fault(cell, cells, first=row == 0 and names is not None)
                raise ValueError(f"{place(name, unit, at[row], position, names)}: found {cell[:40]!r}{fault}")
    return values


def _fault(cell: str, cells: list[str], first: bool) -> str:
    """Say what a value is that is no number, and what to do about it."""
    if _BOOLEAN.fullmatch(cell):
        return ", a boolean; write 1 or 0"
    if _DATE.fullmatch(cell):
        return ", a date or a time; write a number, such as the seconds since a date"
    if first and not any(is_number(other) for other in cells):
        return "; it must be a finite number, and only one line may hold names"
    return "; it must be a finite number" + (", or columns must choose columns of numbers" if len(cells) > 1 else "")
