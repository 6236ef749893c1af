"""Tables of numbers in text. pandas splits the lines and converts the words, and the result is checked.

Each separator is tried with each form of numbers. A reading fits if it makes all lines equally wide and each word a number or
missing. A text is read if one reading fits, and refused if two fit that give different numbers.
"""

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas

from dualebm.data.columns import COLUMNS, Origin, first_place, is_chosen, place, select

MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
]  # fmt: skip
"""The words for a missing value, which are those of pandas."""

BLANKS, WHOLE = " ", "\x1f"
"""The separators of values with one or more blanks or tabs between them, and of a table of one column."""

SEPARATORS = ("\t", ";", ",", BLANKS, WHOLE)

FORMS = tuple(itertools.product(".,", (None, ",", " ", "\u00a0", "\u202f", "'")))
"""The forms of a number: the mark of decimals and the mark of thousands. The forms (",", ",") have points as marks of thousands."""

PLAIN = FORMS[0]
"""The form 1234.5. If all words have it, other forms are not tried."""

_SWAP = str.maketrans(",.", ".,")
_CONTENT = re.compile(r'(?:"[^"]*"|[^"#]|#(?=(?:NA|N/A|N/A N/A)\s*(?:[,;"\t]|$)))*')  # a line up to its comment
_QUOTED = re.compile(r'(?:^|(?<=[\t;, ]))(?:"[^"]*")+')  # a value in quotation marks
_BOOLEAN = re.compile(r"true|false|yes|no", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}.*")


class Lines(NamedTuple):
    """The lines of a table in text, without blank lines and comments.

    Args:
        lines: the lines. Each holds one point or the names of the columns.
        numbers: the numbers of the lines in the file, from 1.
        name: the name of the file.
        unit: the word for a line in errors.
        separators: the separators to try.
    """

    lines: list[str]
    numbers: list[int]
    name: str
    unit: str = "line"
    separators: tuple[str, ...] = SEPARATORS

    def at(self, row: int, column: int | None = None, names: Sequence[str] | None = None) -> str:
        """Return the place of a line, or of a value on it, in words.

        Args:
            row: the position of the line, from 0.
            column: the position of the column, from 0, or None for the whole line.
            names: the names of all columns, or None.
        """
        return place(self.name, self.unit, self.numbers[row], column, names)


class Reading(NamedTuple):
    """Lines as they are read by one separator.

    Args:
        separator: the separator.
        cells: the words of the lines that are as wide as the first line, (n, width).
        rows: the positions of these lines, (n,), from 0.
        header: whether the first line has names. None if it may have names or numbers.
        form: the form that most words have. None if all words also have another form, which gives other numbers.
        values: the numbers of the chosen columns, in this form and without missing words.
        share: how well the lines fit. 1 if all lines are equally wide and all words are numbers. Negative for a wrong separator.
    """

    separator: str
    cells: np.ndarray
    rows: np.ndarray
    header: bool | None
    form: tuple[str, str | None] | None
    values: np.ndarray
    share: float


def content_lines(content: bytes, name: str) -> Lines:
    """Return the lines of a file without comments and blank lines.

    Args:
        content: text in UTF-8, with or without a byte-order mark, or in UTF-16 with one. Lines end with LF, CRLF or CR. A comment goes
            from # to the end of its line.
        name: the name of the file in errors.

    Returns:
        The lines.

    Raises:
        ValueError: the bytes are no such text, or a value in quotation marks does not end on its line.

    >>> content_lines(b"# wind\\r\\nx,y  # east, north\\r\\n\\r\\n1,2", "a.csv")[:2]
    (['x,y  ', '1,2'], [2, 4])
    """
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise ValueError(f"{name}, line {line}: found bytes that are no text in UTF-8; save the file as text in UTF-8") from error
    for mark in ("\0", WHOLE):
        if mark in text:
            line = 1 + text[: text.index(mark)].count("\n")
            raise ValueError(f"{name}, line {line}: found the control character {mark!r}; the file must be text")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if "#" in text:
        lines = [_CONTENT.match(line).group() for line in lines]  # pyright: ignore[reportOptionalMemberAccess] (it matches any line)
    for i in range(len(lines) if '"' in text else 0):
        if '"' in _QUOTED.sub("", lines[i]):
            raise ValueError(f"{name}, line {i + 1}: found a quotation mark without a partner; a value must end on its line")
    numbers = [number for number, line in enumerate(lines, start=1) if line and not line.isspace()]
    return Lines([lines[number - 1] for number in numbers], numbers, name)


def parse(
    text: Lines, columns: Sequence[str] | None = None, wanted: Sequence[str] | None = None, weights: str | None = None
) -> tuple[np.ndarray, Origin]:
    """Read the numbers of lines of text.

    Args:
        text: the lines.
        columns: the names of the columns to read, in their order, or positions from 1 in a text without names. None for all. Other
            columns need not hold numbers.
        wanted: the names of the columns to read where `columns` is None and the text has all of them.
        weights: the name or the position of a column of weights, which becomes the last one. None for no such column.

    Returns:
        The numbers in float64, (n, d), with NaN for missing values, and where they come from. Unnamed columns have the name "".

    Raises:
        ValueError: the lines are no table of numbers, or could be read in two ways. The message names the line and the column.

    >>> parse(content_lines(b"x;y\\n1,5;2\\n-0,25;NA", "a.csv"))[0].tolist()
    [[1.5, 2.0], [-0.25, nan]]
    """
    lines, separators = text.lines, text.separators
    if not lines:
        raise ValueError(f"{text.name} holds no points; it must have one per {text.unit}")
    width = max(len(lines[0].split()) if separator == BLANKS else lines[0].count(separator) + 1 for separator in separators)
    if width > COLUMNS:
        raise ValueError(f"{text.at(0)}: found {width} columns; at most {COLUMNS} are allowed")
    # The first lines tell how a long text is likely to be read. Only all lines tell whether a first line of 0 and 1 holds names.
    sample = lines if re.sub(r"\D", "", lines[0]) in ("0", "01") else lines[: max(3, min(200, 10**6 // (1 + len(lines[0]))))]
    chosen = columns, wanted, weights
    readings = _readings(sample, separators, chosen)
    if readings[0].share == 1 and len(sample) < len(lines):
        if len(readings) == 1 and None not in (readings[0].header, readings[0].form):
            origin = _origin(text, readings[0], chosen)
            values = _read_at_once(lines, readings[0], origin.positions)
            if values is not None:
                return values, origin
        sample = lines
        readings = _readings(lines, [reading.separator for reading in readings], chosen)
    _check(text, readings, len(sample))
    origin = _origin(text, readings[0], chosen)
    values = _convert(text, readings[0], origin)
    assert len(values) == len(origin.lines)  # a sample that does not fit raises an error
    return values, origin


# -- Readings --------------------------------------------------------------------------------------


def _frame(text: str, separator: str, **options) -> pandas.DataFrame:
    blanks = r"\s+" if separator == BLANKS else separator
    return pandas.read_csv(io.StringIO(text), sep=blanks, header=None, keep_default_na=False, skipinitialspace=True, **options)


def _split(lines: Sequence[str], separator: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the words of the lines that are as wide as the first line, (n, width), and the positions of these lines, (n,).

    The position of each line is appended as a last cell. pandas skips lines that are wider. In narrower lines the last cell is empty.
    """
    text = "".join(f"{line}{separator}{row}\n" for row, line in enumerate(lines))
    try:
        frame = _frame(text, separator, dtype=object, na_filter=False, on_bad_lines="skip")
    except pandas.errors.ParserError:  # A quotation mark has no partner under this separator.
        return np.array([lines[:1]], object), np.array([0])
    cells = frame[frame.iloc[:, -1] != ""].to_numpy(object)
    words = pandas.Series(cells[:, :-1].ravel(), dtype=object).str.strip()
    return words.to_numpy(object).reshape(len(cells), -1), cells[:, -1].astype(int)


def _numbers(words: Any, form: tuple[str, str | None]) -> np.ndarray:
    """Convert a Series of words to float64, (n,). A word that is no number of the form becomes NaN."""
    decimal, mark = form
    if decimal == ",":  # Points become commas, which pandas refuses. A decimal comma must have digits on both sides.
        words = words.str.translate(_SWAP).str.replace(r"(?<!\d)\.|\.(?!\d)", ",", regex=True)
    if mark is not None:  # The option `thousands` of `read_csv` would take 1,23 for 123.
        grouped = rf"^[+-]?[1-9]\d{{0,2}}(?:{mark}\d{{3}})+(?=[.eE]|$)"
        words = words.str.replace(grouped, lambda match: match[0].replace(mark, ""), regex=True)
    # Among integers alone pandas takes -0 for 0. The number 0.5 beside them keeps the sign.
    return np.asarray(pandas.to_numeric(np.append(words, "0.5"), errors="coerce"), np.float64)[:-1]


def _readings(lines: Sequence[str], separators: Sequence[str], chosen) -> list[Reading]:
    """Return the readings that fit all lines and give different numbers. If none fits, return only the nearest.

    The columns are those that `select` chooses by its arguments `columns`, `wanted` and `weights`, which are `chosen`.
    """
    readings = [_reading(lines, separator, chosen) for separator in separators]
    fitting = {(reading.cells.shape, reading.values.tobytes()): reading for reading in readings[::-1] if reading.share == 1}
    return list(fitting.values())[::-1] or [max(readings, key=lambda reading: reading.share)]


def _reading(lines: Sequence[str], separator: str, chosen) -> Reading:
    """Return the reading of lines by a separator, and by the form that most words of the chosen columns have."""
    cells, rows = _split(lines, separator)
    first, width = cells[0].tolist(), cells.shape[1]
    if (width == 1) != (separator == WHOLE):
        return Reading(separator, cells, rows, None, None, np.empty(0), -1.0)
    header = _header(first, cells[1:], chosen)
    try:
        positions = select(chosen[0], first if header else None, width, "", *chosen[1:])
    except ValueError:  # `_origin` raises it again if this reading is chosen
        positions = tuple(range(width))
    words: Any = pandas.Series(cells[header is True :, positions].ravel(), dtype=object)
    words = words[~words.isin(MISSING)]
    odd = words[np.isnan(_numbers(words, PLAIN))]
    # A blank is no mark of thousands where commas or blanks separate values.
    forms = [form for form in FORMS if form[1] != " " or separator not in (",", BLANKS)] if len(odd) else [PLAIN]
    fitting = [form for form in forms if not any(np.isnan(_numbers(part, form)).any() for part in (odd[:100], odd, words))]
    form = fitting[0] if fitting else max(forms, key=lambda form: np.sum(~np.isnan(_numbers(words[:10_000], form))))
    values = _numbers(words, form)
    share = len(rows) / len(lines) * (1 if fitting else float(np.mean(~np.isnan(values))))
    if header and len(cells) == 1:
        share *= 0.9  # names alone are no table
    if separator == WHOLE:
        marks = "[,;\t ]" if form[1] == " " else "[,;\t]"
        if header and re.search(marks, _QUOTED.sub("", lines[0]).strip()):
            share = 0.0  # several names are no name of one column
        elif not fitting:
            share *= 0.3  # a wrong word is likelier than a wrong separator
    clear = all(np.array_equal(values, _numbers(words, other)) for other in fitting[1:])
    return Reading(separator, cells, rows, header, form if clear else None, values, share)


def _header(first: list[str], body: np.ndarray, chosen) -> bool | None:
    """Tell whether the first line holds names. None where it may hold names or numbers.

    pandas writes the names 0, 1, ... of unnamed columns. They are taken for names where there are at least three, or two above values
    that all have decimals. One 0, or 0 and 1 above whole numbers, may as well be a point.
    """
    columns, wanted, weights = chosen
    coordinates, extra = columns or wanted or (), () if weights is None else (weights,)
    named = [*coordinates, *extra]
    positions = [column for column in named if column.isdecimal() and 1 <= int(column) <= len(first)]
    if any(column in first and column not in positions for column in named):
        return True
    counted = [str(i) for i in range(len(first))]
    if len(body) and (first == counted or first == ["", *counted[:-1]] != [""]):
        if len(first) >= 3 or not first[0]:
            return True
        return True if len(first) == 2 and pandas.Series(body.ravel(), dtype=object).str.contains("[.,eE]").all() else None
    if coordinates and len(positions) == len(named):
        first = [first[int(column) - 1] for column in positions]
    return not _are_numbers(first).any() and any(word not in MISSING for word in first)


def _are_numbers(words: Any) -> np.ndarray:
    """Return whether words are numbers, whatever their marks of decimals and of thousands, (n,)."""
    words = pandas.Series(words, dtype=object).str.replace("[,.' \u00a0\u202f]", "", regex=True)
    return ~np.isnan(_numbers(words, PLAIN))


def _read_at_once(lines: Sequence[str], reading: Reading, positions: Sequence[int]) -> np.ndarray | None:
    """Return the numbers of many lines, (n, d). None where a word is no finite number, or a line has another width."""
    separator, width, (decimal, _) = reading.separator, reading.cells.shape[1], reading.form or PLAIN
    if not any(reading.cells[:, -1]):
        return None
    # The zeros of a first line fix the width, and beside them pandas does not take True for 1. A zero at the end marks whole lines.
    text = f"{separator}0\n".join([separator.join("0" * width), *lines[reading.header is True :], ""])
    kinds = dict.fromkeys(range(width), object) | dict.fromkeys([*positions, width], np.float64)
    try:
        frame = _frame(text, separator, dtype=kinds, decimal=decimal, na_values=MISSING)
    except ValueError:
        return None
    values = np.ascontiguousarray(frame[list(positions)].to_numpy(np.float64)[1:])
    return None if frame[width].hasnans or np.isinf(values).any() else values


# -- Checks ----------------------------------------------------------------------------------------


def _check(text: Lines, readings: list[Reading], count: int) -> None:
    """Raise ValueError where the first `count` lines are not equally wide, or have two readings."""
    separator, cells, rows, header, form, _, share = readings[0]
    if len(rows) < count:
        row = int(np.argmax(np.append(rows, -1) != np.arange(len(rows) + 1)))
        width = _split(text.lines[row : row + 1], separator)[0].shape[1]
        raise ValueError(f"{text.at(row)}: found {width} values; it must have {cells.shape[1]}, as {text.unit} {text.numbers[0]}")
    if len(readings) > 1:
        widths = " or ".join(dict.fromkeys(str(reading.cells.shape[1]) for reading in readings))
        raise ValueError(
            f"{text.at(0)}: found {text.lines[0][:40]!r}, which is {widths} columns, as commas or blanks may stand within numbers; "
            "write a first line of column names, or semicolons between columns"
        )
    if header is None and share == 1:
        raise ValueError(
            f"{text.at(0)}: found {text.lines[0]!r}, which may be names, as pandas writes them, or a point; "
            "write a first line of names that are words"
        )
    if form is None:
        row, word = next((row, word) for row in range(header is True, len(cells)) for word in cells[row] if "," in word)
        raise ValueError(
            f"{text.at(row)}: found {word!r}, whose comma may stand before decimals or after thousands; "
            "write decimal points, and no mark of thousands"
        )


def _origin(text: Lines, reading: Reading, chosen) -> Origin:
    """Return where the values come from. Raises ValueError for unknown columns, and for names that are missing or not unique."""
    cells, width, header = reading.cells, reading.cells.shape[1], reading.header is True
    if header and len(text.lines) == 1:
        raise ValueError(f"{text.name} holds no points below the names in {text.unit} {text.numbers[0]}; it must have one per {text.unit}")
    while width > 1 and not any(cells[:, width - 1]):
        width -= 1  # each line ends with a separator
    names = tuple(cells[0, :width]) if header else None
    columns, wanted, weights = chosen
    positions = select(columns, names, width, text.name, wanted, weights)
    for i, column in enumerate(names or ()):
        if column and column in cells[0, :i]:
            raise ValueError(f"{text.at(0, i)}: found the name {column!r} a second time; names must differ")
        if not column and i and i in positions:
            raise ValueError(f"{text.at(0, i)}: found no name; each column must have one, or columns must choose those to read")
    return Origin(text.name, text.unit, np.array(text.numbers[header:]), positions, names, is_chosen(columns, wanted, names))


def _convert(text: Lines, reading: Reading, origin: Origin) -> np.ndarray:
    """Return the numbers of a reading, (n, d). Raises ValueError for the first word that is no finite number."""
    start = int(reading.header is True)
    cells = reading.cells[start:, origin.positions]
    words = pandas.Series(cells.ravel(), dtype=object)
    values = _numbers(words, reading.form or PLAIN)
    bad = (~np.isfinite(values) & ~words.isin(MISSING).to_numpy()).reshape(cells.shape)
    if not bad.any():
        return values.reshape(cells.shape)
    row, column = first_place(bad)
    word, line = cells[row, column], reading.cells[start + row].tolist()
    fault = "; it must be a finite number" + (", or columns must choose columns of numbers" if len(line) > 1 else "")
    if _BOOLEAN.fullmatch(word):
        fault = ", a boolean; write 1 or 0"
    elif _DATE.fullmatch(word):
        fault = ", a date or a time; write a number, such as the seconds since a date"
    elif start and not row and not _are_numbers(line).any():
        fault = "; it must be a finite number, and only one line may hold names"
    raise ValueError(f"{text.at(start + row, origin.positions[column], origin.names)}: found {word[:40]!r}{fault}")
