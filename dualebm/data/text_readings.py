"""The reading of lines of numbers: the separator, the form of the numbers, and whether the first line has names.

Lines are read where exactly one reading makes all lines equally wide and each value a number or a missing word. Where two readings
give different numbers, the lines are refused.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dualebm.data.columns import place

MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
     "None", "n/a", "nan", "null")
)  # fmt: skip
"""The words for a missing value, which are those of pandas. The empty word is one of them."""

WHOLE = "\x1f"
"""The separator of a table of one column. No text has it."""

BLANKS = " "
"""The separator of values with one or more blanks or tabs between them."""

SEPARATORS = ("\t", ";", ",", BLANKS, WHOLE)
"""The separators that are tried."""

_MARK = "\x1e"  # a separator for a moment, which no text has

INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
"""The words for an infinite value."""


def _pattern(decimal: str, thousands: str | None) -> re.Pattern:
    whole = r"\d+" if thousands is None else rf"(?:[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+|\d+)"
    number = rf"(?:{whole}\.?\d*|\.\d+)" if decimal == "." else rf"{whole}(?:,\d+)?"
    return re.compile(rf"[+-]?{number}(?:[eE][+-]?\d+)?", re.ASCII)


FORMS = {
    (decimal, thousands): _pattern(decimal, thousands)
    for thousands in (None, ",", ".", " ", "\u00a0", "\u202f", "'")
    for decimal in (".", ",")
    if decimal != thousands
}
"""The forms of a number by their marks of decimals and of thousands."""

_PLAIN, _COMMA, _GROUPED = (".", None), (",", None), (".", ",")  # 1234.5; 1234,5; 1,234.5


class Reading(NamedTuple):
    """How lines become numbers.

    Attributes:
        separator: the separator of the values of a line.
        form: the marks of decimals and of thousands. None where two forms give different numbers.
        header: whether the first line has names. None where it may have names or numbers.
    """

    separator: str
    form: tuple[str, str | None] | None
    header: bool | None


def split(line: str, separator: str) -> list[str]:
    """Return the values of a line without blanks around them."""
    if separator == BLANKS:
        return [cell.strip('"') for cell in re.findall(r'"[^"]*"|[^ \t"]+', line)]
    if '"' in line:  # parts in quotation marks alternate with parts that have separators
        parts = line.split('"')
        line = "".join(part if i % 2 else part.replace(separator, _MARK) for i, part in enumerate(parts))
        separator = _MARK
    return [cell.strip(" \t") for cell in line.split(separator)]


def count_values(line: str, separator: str) -> int:
    """Return the number of values of a line."""
    if '"' in line:
        return len(split(line, separator))
    return len(line.split()) if separator == BLANKS else line.count(separator) + 1


def sample_size(lines: Sequence[str]) -> int:
    """Return the number of lines by which the reading is recognised at first."""
    return max(3, min(200, 10**6 // (1 + len(lines[0]))))


def find_readings(lines: Sequence[str], separators: Sequence[str], columns: Sequence[str] | None) -> list[Reading]:
    """Return the readings under which lines are equally wide and hold numbers, one per width.

    Args:
        lines: the lines, at least one.
        separators: the separators to try.
        columns: the names or positions of the columns to read, or None. Other columns need not hold numbers.

    Returns:
        The readings. The lines can be read where there is one, whose form and header are not None.

    >>> find_readings(["x;y", "1,5;2"], SEPARATORS, None)
    [Reading(separator=';', form=(',', None), header=True)]
    """
    readings: dict[int, Reading] = {}
    for separator in separators:
        width = count_values(lines[0], separator)
        if width in readings or (width == 1) != (separator == WHOLE) or any(count_values(line, separator) != width for line in lines):
            continue
        rows = [split(line, separator) for line in lines]
        header = _header(rows, columns)
        forms = _forms(_cells(rows, header, columns), separator)
        if separator == WHOLE and header:  # names with a separator between them are no name of one column
            forms = [form for form in forms if not any(mark in rows[0][0] for mark in (",", ";", "\t", form[1] or ","))]
        if forms:
            form = None if _PLAIN not in forms and {_COMMA, _GROUPED} <= {*forms} else forms[0]
            readings[width] = Reading(separator, form, header)
    return list(readings.values())


def _cells(rows: list[list[str]], header: bool | None, columns: Sequence[str] | None) -> set[str]:
    """Return the different values of the rows below the header, in the columns that are asked for if they are known."""
    body, first = rows[header is True :], rows[0]
    if columns is not None and header and all(column in first for column in columns):
        return {row[first.index(column)] for row in body for column in columns}
    if columns is not None and not header and _are_positions(columns, len(first)):
        return {row[int(column) - 1] for row in body for column in columns}
    return {cell for row in body for cell in row}


def _are_positions(columns: Sequence[str], width: int) -> bool:
    return all(column.isdecimal() and 1 <= int(column) <= width for column in columns)


def _forms(cells: set[str], separator: str) -> list[tuple[str, str | None]]:
    """Return the forms that all values have, or the plain form alone where they have it.

    A blank is no mark of thousands where commas or blanks separate values.
    """
    cells = {cell for cell in cells if cell not in MISSING and not INFINITE.fullmatch(cell)}
    if all(FORMS[_PLAIN].fullmatch(cell) for cell in cells):
        return [_PLAIN]
    allowed = [form for form in FORMS if form[1] != " " or separator not in (",", BLANKS)]
    return [form for form in allowed if all(FORMS[form].fullmatch(cell) for cell in cells)]


def is_number(cell: str) -> bool:
    """Tell whether a value is a number in any form, which may be infinite."""
    return bool(INFINITE.fullmatch(cell)) or any(pattern.fullmatch(cell) for pattern in FORMS.values())


def _header(rows: list[list[str]], columns: Sequence[str] | None) -> bool | None:
    """Tell whether the first row holds names. None where it may hold names or numbers.

    pandas writes the names 0, 1, ... of unnamed columns. They are taken for names where there are at least three, or two above values
    that all have decimals. One 0, or 0 and 1 above whole numbers, may as well be a point.
    """
    first, body = rows[0], rows[1:]
    if columns is not None and any(column in first and not _are_positions([column], len(first)) for column in columns):
        return True
    counted = [str(i) for i in range(len(first))]
    if body and (first == counted or (len(first) > 1 and first == ["", *counted[:-1]])):
        if len(first) >= 3 or not first[0]:
            return True
        return True if len(first) == 2 and all(re.search(r"[.,eE]", cell) for row in body for cell in row) else None
    if columns is not None and _are_positions(columns, len(first)):
        first = [first[int(column) - 1] for column in columns]
    numbers = [is_number(cell) for cell in first]
    return not any(numbers) and any(cell not in MISSING for cell in first)


def nearest(lines: Sequence[str], separators: Sequence[str], columns: Sequence[str] | None) -> Reading:
    """Return the reading that fits most lines and values, so that its first misfit can be named.

    Args:
        lines: the lines, which no reading fits.
        separators: the separators to try.
        columns: the names or positions of the columns to read, or None.

    Returns:
        A reading.

    >>> nearest(["1.5,2", "3,x"], SEPARATORS, None).separator
    ','
    """

    def fit(separator: str) -> tuple[float, Reading]:
        rows = [split(line, separator) for line in lines[: sample_size(lines)]]
        widths = [len(row) for row in rows]
        common = max(set(widths), key=widths.count)
        header = bool(_header(rows, columns))
        cells = [cell for row in rows[header:] or rows for cell in row if cell not in MISSING]
        counts = {form: sum(bool(FORMS[form].fullmatch(cell)) for cell in cells) for form in (_PLAIN, _COMMA, _GROUPED)}
        form = max(counts, key=lambda form: counts[form])
        share = (1 + counts[form]) / (1 + len(cells)) * widths.count(common) / len(rows)
        return share * (0.3 if common == 1 else 1), Reading(separator, form, header)

    return max((fit(separator) for separator in separators), key=lambda pair: pair[0])[1]


def check_clear(readings: list[Reading], lines: Sequence[str], numbers: Sequence[int], name: str, unit: str) -> None:
    """Raise ValueError where lines have two readings.

    Args:
        readings: the readings of the lines.
        lines: the lines.
        numbers: their numbers in the file, from 1.
        name: the name of the file in errors.
        unit: the word for a line in errors.

    Raises:
        ValueError: there are two readings, or one that leaves its form or its header open.

    >>> lines = ["0 1", "2 3"]
    >>> check_clear(find_readings(lines, SEPARATORS, None), lines, [1, 2], "a.csv", "line")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: a.csv, line 1: found '0 1', which may be names, as pandas writes them, or a point; write a first line of names ...
    """
    separator, form, header = readings[0]
    if len(readings) > 1:
        widths = " or ".join(str(count_values(lines[0], reading.separator)) for reading in readings)
        first = place(name, unit, numbers[0])
        raise ValueError(
            f"{first}: found {lines[0][:40]!r}, which is {widths} columns, as commas or blanks may stand within numbers; "
            "write a first line of column names, or semicolons between columns"
        )
    if header is None:
        raise ValueError(
            f"{place(name, unit, numbers[0])}: found {lines[0]!r}, which may be names, as pandas writes them, or a point; "
            "write a first line of names that are words"
        )
    if form is None:
        at, cell = next(
            (number, cell) for line, number in zip(lines[header:], numbers[header:], strict=True) for cell in split(line, separator)
            if "," in cell
        )  # fmt: skip
        raise ValueError(
            f"{place(name, unit, at)}: found {cell!r}, whose comma may stand before decimals or after thousands; "
            "write decimal points, and no mark of thousands"
        )
