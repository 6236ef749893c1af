"""The grammar of the values that a sweep gives to a setting: ranges, lists, single values and names, as text."""

import difflib
import math
import re
from fractions import Fraction

LARGEST = 1_000_000
"""The largest number of values of a range."""

INTEGER, NAME = re.compile(r"[+-]?\d+", re.ASCII), re.compile(r"[A-Za-z_][\w-]*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SPACING = re.compile(r"(?P<before>\d*)\s*(?P<word>[A-Za-z]+)\s*(?P<count>.*)", re.ASCII)
"""The spacing of a range and its count, as log9, and what may be meant as one, as 9log or lgo9."""
SPACINGS = ("log", "lin")
NOT_FINITE = ("nan", "inf", "infinity")

ALLOWED = "0.05:20:log9, 0:1:lin5, 0:32, 0:32:4, a list such as 0,1/40,1, one value, or names such as mala,projected"


def parse(text: str) -> list:
    """Return the values that a text spells: integers, floats where one of them is not spelt as an integer, or names.

        0.05:20:log9      9 floats with equal ratios, both ends included
        0:1:lin5          5 floats with equal differences, both ends included
        0:32, 0:32:4      the integers of Python's range(0, 32) and range(0, 32, 4), without the end
        0,1/40,1          a list of numbers and fractions
        mala,projected    a list of names

    Raises ValueError, which says what is wrong and what is allowed, for an empty text or range, a number that is not
    finite, an end of log that is not positive, fewer than two values of lin or log, a value that comes twice, and names
    among numbers.

    >>> parse("0:1:lin5"), parse("0:8:4"), parse("0,1/40,1"), parse("mala,projected")
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0, 4], [0.0, 0.025, 1.0], ['mala', 'projected'])
    """
    where = f"range is {text!r}"
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 1:
        values = _listed(where, [item.strip() for item in text.split(",")])
    elif "," in text:
        raise ValueError(f"{where}, which has a comma;{_hint(text.replace(',', '.'))} allowed: {ALLOWED}")
    elif len(parts) > 3:
        raise ValueError(f"{where}, which has {len(parts)} parts; allowed: {ALLOWED}")
    elif len(parts) == 3 and _is_spacing(parts[2]):
        kind, count = _spacing(where, parts[2])
        values = _spaced(where, _number(where, parts[0]), _number(where, parts[1]), kind, count)
    elif len(parts) == 3 and _is_spacing(parts[0]):
        hint = _hint(f"{parts[1]}:{parts[2]}:{parts[0]}")
        raise ValueError(f"{where}, in which {parts[0]!r} comes first;{hint} allowed: {ALLOWED}")
    else:
        values = _integers(where, parts)
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{where}, which has {value!r} twice; values must differ")
        seen.add(value)
    return values


def _hint(text) -> str:
    """Return a question whether a text was meant, or an empty text where it is not allowed either."""
    try:
        parse(text)
    except ValueError:
        return ""
    return f" did you mean {text!r}?"


def _is_spacing(text) -> bool:
    return bool(SPACING.fullmatch(text)) and not NUMBER.fullmatch(text) and text.lower() not in NOT_FINITE


def _spacing(where, text) -> tuple[str, int]:
    """Return "log" or "lin" and the number of values."""
    before, word, count = SPACING.fullmatch(text).group("before", "word", "count")  # pyright: ignore[reportOptionalMemberAccess]
    if before or word not in SPACINGS or (count and text != word + count):
        near = difflib.get_close_matches(word.lower(), SPACINGS, 1, cutoff=0.4)
        hint = f" did you mean {near[0] + (count or before)!r}?" if near and INTEGER.fullmatch(count or before) else ""
        raise ValueError(f"{where}, in which {text!r} is no spacing;{hint} allowed: log or lin with the number of values, as log9")
    if not INTEGER.fullmatch(count):
        raise ValueError(f"{where}, in which the count of {word} is {count or 'missing'}; it must be an integer, as {word}9")
    return word, int(_number(where, count))


def _number(where, text) -> Fraction:
    """Return the exact value of a decimal or a fraction. It is finite also as a float."""
    numerator, slash, denominator = (part.strip() for part in text.partition("/"))
    value = _decimal(where, numerator)
    if slash:
        below = _decimal(where, denominator)
        if not below:
            raise ValueError(f"{where}, in which {text!r} divides by zero; the denominator must not be 0")
        value /= below
    return value


def _decimal(where, text) -> Fraction:
    if not text:
        raise ValueError(f"{where}, in which a number is missing; allowed: {ALLOWED}")
    if not NUMBER.fullmatch(text):
        kind = "not finite" if text.lower().lstrip("+-") in NOT_FINITE else "not a number"
        raise ValueError(f"{where}, in which {text!r} is {kind}; allowed: {ALLOWED}")
    if not math.isfinite(float(text)):
        raise ValueError(f"{where}, in which {text!r} is not finite; numbers must be at most 1.7e308")
    # The float comes first, because the exact fraction of 1e-999999999 would fill the memory.
    return Fraction(int(text)) if INTEGER.fullmatch(text) else Fraction(repr(float(text)))


def _as_float(where, value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{where}, which has a number that is not finite; numbers must be at most 1.7e308") from None


def _listed(where, items) -> list:
    if items == [""]:
        raise ValueError(f"{where}, which is empty; allowed: {ALLOWED}")
    if "" in items:
        raise ValueError(f"{where}, in which a value is missing between commas; allowed: {ALLOWED}")
    names = [item for item in items if NAME.fullmatch(item) and item.lower() not in NOT_FINITE]
    if len(names) == len(items):
        return items
    if names:
        raise ValueError(f"{where}, in which {names[0]!r} is a name; values must be all numbers or all names")
    numbers = [_number(where, item) for item in items]
    if all(INTEGER.fullmatch(item) for item in items):
        return [int(number) for number in numbers]
    return [_as_float(where, number) for number in numbers]


def _spaced(where, first: Fraction, last: Fraction, kind: str, count: int) -> list[float]:
    """Return `count` floats from first to last, both included."""
    if not 2 <= count <= LARGEST:
        raise ValueError(f"{where}, which has {count} values; {kind} must have between 2 and {LARGEST}")
    start, end = _as_float(where, first), _as_float(where, last)
    if kind == "log":
        if start <= 0 or end <= 0:
            raise ValueError(f"{where}, with the end {min(start, end)!r}; both ends of log must be greater than 0")
        low, high = math.log(start), math.log(end)
        between = [math.exp(low + (high - low) * k / (count - 1)) for k in range(1, count - 1)]
    else:
        between = [_as_float(where, first + (last - first) * Fraction(k, count - 1)) for k in range(1, count - 1)]
    return [start, *between, end]


def _integers(where, parts) -> list[int]:
    for part in parts:
        if not INTEGER.fullmatch(part):
            _number(where, part)  # raises a more precise error for a text that is no number
            meant = [_hint(f"{parts[0]}:{parts[1]}:{kind}{parts[-1]}") for kind in SPACINGS] if len(parts) == 3 else []
            hint = next(filter(None, meant), "")
            raise ValueError(f"{where}, in which {part!r} is not an integer;{hint} a range of floats needs a count, as 0:1:lin5")
    integers = [int(_number(where, part)) for part in parts]
    if len(parts) == 3 and integers[2] == 0:
        raise ValueError(f"{where}, with the step 0; the step must not be 0")
    values = range(*integers)
    empty = integers[1] <= integers[0] if len(parts) == 2 or integers[2] > 0 else integers[1] >= integers[0]
    if empty:
        raise ValueError(f"{where}, which is empty: it starts at {integers[0]} and stops before {integers[1]}")
    if values[LARGEST:]:
        raise ValueError(f"{where}, which has more than {LARGEST} values")
    return list(values)
