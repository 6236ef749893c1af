"""What in a table would make a fit of a density go wrong: errors, and notes that name the column, the measured value and the remedy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dualebm._internal import checks
from dualebm.data import dependence
from dualebm.data.preparation import SPACES
from dualebm.data.tables import Table

Rows = Float[np.ndarray, "n d"]

LINEAR, NEARLY_LINEAR = 1e-8, 1e-4
"""The share of the variance of a column, beyond a linear function of others, at or below which there is an error, and a note."""

REPEATED = 0.05
"""The share of repeated rows from which there is a note. A factor e in the width of spikes at them is then worth 0.05 d nats per row."""

FEW_VALUES, WIDE_STEP = 10, 0.5
"""The number of values below which, and the step of rounding in standard deviations above which, values count as categories.

A rounded normal column with a step of 0.5 standard deviations has about 10 values, and the rounding adds 2% to its variance.
"""

FINEST_STEP = 1e-9
"""The smallest step of rounding over the range of a column that counts as rounding."""

PILE, PILE_SHARE, PILE_RATIO = 5, 0.01, 5.0
"""The number and the share of rows at one value, and their ratio to the mean number at near values, from which there is a note."""

SKEWED = 1.0
"""The skewness above which a positive column is skewed. A logarithm is advised where it at least halves the absolute skewness."""

NEAR_BOUND = 0.01
"""How near to 0 and to 1 the values of a proportion come where a logit is advised."""


def check_rows(table: Table, space: str, rows: np.ndarray | None = None) -> None:
    """Raise ValueError for rows that have no density.

    On Euclidean space these are fewer than d + 2 rows, a constant column, equal columns, or a column that is a linear function of others:
    the rows then lie in a plane, or d + 1 of them have the shape of a simplex, whatever the density. On the sphere and the torus they
    are one row or equal rows.

    Args:
        table: the table, with d columns.
        space: "sphere", "euclidean" or "torus".
        rows: the indices of the rows to train on. None for all.

    Raises:
        ValueError: the rows have no density. The message names the columns.

    >>> from dualebm.data.tables import as_table
    >>> check_rows(as_table([[0.0, 7.0], [1.0, 7.0], [3.0, 7.0], [4.0, 7.0]]), "euclidean")
    Traceback (most recent call last):
    ...
    ValueError: x has the one value 7 in column 2; a density needs columns that vary, so columns must leave it out
    """
    checks.choice("space", space, SPACES)
    x, name = _chosen(table, rows), table.origin.name
    n, d = x.shape
    counted = f"{n} row{'' if n == 1 else 's'}{'' if rows is None else ' to train on'}"
    least = d + 2 if space == "euclidean" else 2
    if n < least:
        columns = f" of {d} column{'' if d == 1 else 's'}" if space == "euclidean" else ""
        raise ValueError(f"{name} has {counted}; a density{columns} needs at least {least} rows")
    if (x == x[0]).all():
        raise ValueError(f"{name} has {counted}, which are all equal; a density needs rows that differ")
    if space != "euclidean":
        return
    constant = dependence.constant_columns(x)
    if constant:
        first, *more = constant
        others = f", and one value in {'each of ' if len(more) > 1 else ''}{_names(table, more)}" if more else ""
        raise ValueError(
            f"{name} has the one value {x[0, first]:g} in {_names(table, [first])}{others}; a density needs columns that vary, "
            f"so columns must leave {'them' if more else 'it'} out"
        )
    equal = dependence.equal_columns(x)
    if equal:
        raise ValueError(
            f"{name} has equal values in {_names(table, equal)}; such rows lie in a plane and have no density, "
            "so columns must keep one of them"
        )
    for column, others, share in dependence.linear_functions(x, LINEAR):
        raise ValueError(
            f"{name} has {_names(table, [column])}, which is a linear function of {_names(table, others)} "
            f"up to {share:.1g} of its variance; such rows lie in a plane and have no density, so columns must leave it out"
        )


def advise(table: Table, space: str, rows: np.ndarray | None = None) -> list[str]:
    """Return notes on what would make a fit of a density to rows go wrong, one sentence for each kind.

    The kinds are repeated rows on all spaces; columns of few values and many rows at one value, on Euclidean space and the torus; and
    on Euclidean space positive skewed columns, proportions, and columns that are nearly functions of others. Such functions are sought
    among 2000 rows by the residuals of neighbours (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73, 1986), and surfaces by the
    smallest principal components of neighbourhoods. Both use normal scores of the ranks, which outliers and units do not change.

    Args:
        table: the table, with d columns.
        space: "sphere", "euclidean" or "torus".
        rows: the indices of the rows to train on. None for all.

    Returns:
        At most six notes, without a final full stop.

    Raises:
        ValueError: `check_rows` refuses the rows.

    >>> from dualebm.data.tables import as_table
    >>> advise(as_table([[0.1], [0.1], [0.3], [0.7]]), "torus")[0].partition(",")[0]
    '1 of 4 rows repeats an earlier row'
    """
    check_rows(table, space, rows)
    x = _chosen(table, rows)
    different = np.unique(x, axis=0)
    values = [_values(column) for column in x.T]
    rounded = all(len(v.values) < FEW_VALUES or _step(v.values) for v in values)
    notes = [_note_of_repeats(len(x), len(x) - len(different), rounded)]
    if space != "sphere":
        few = {j: f"{len(v.values)} values" for j, v in enumerate(values) if _is_few(v, len(x))}
        piles = {j: text for j, v in enumerate(values) if j not in few and (text := _pile(v, len(x)))}
        notes.append(_sentence(table, few, ("takes", "take"), (
            "few values, so that it is a category or coarsely rounded and has probabilities in place of a density; "
            "leave it out, or fit the rows of each value alone",
            "few values, so that they are categories or coarsely rounded and have probabilities in place of a density; "
            "leave them out, or fit the rows of each value alone",
        )))  # fmt: skip
        notes.append(_sentence(table, piles, ("has", "have"), (
            "many rows at one value, which has a probability and no density; fit the other rows alone, or leave the column out",
            "many rows at one value, which has a probability and no density; fit the other rows alone, or leave the columns out",
        )))  # fmt: skip
        if space == "euclidean":
            smooth = [j for j in range(x.shape[1]) if j not in few and j not in piles]
            notes += [*_notes_of_maps(table, x, smooth), _note_of_functions(table, x, different, smooth)]
    return [note for note in notes if note is not None]


# -- Words -----------------------------------------------------------------------------------------


def _chosen(table: Table, rows: np.ndarray | None) -> Rows:
    return table.rows if rows is None else table.rows[rows]


def _name(table: Table, column: int) -> str:
    """Return the name of a column in quotes, or its position in the file from 1."""
    return repr(table.columns[column]) if table.columns is not None else str(table.origin.positions[column] + 1)


def _join(words: Sequence[str]) -> str:
    """Return words with commas and `and`, and only the number of those after the third."""
    shown = [*words[:3], *([f"{len(words) - 3} more"] if len(words) > 3 else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _names(table: Table, columns: Sequence[int]) -> str:
    return f"column{'s' if len(columns) > 1 else ''} {_join([_name(table, j) for j in columns])}"


def _sentence(table: Table, measured: dict[int, str], verbs: tuple[str, str], ends: tuple[str, str]) -> str | None:
    """Return a sentence on columns with what was measured in each, or None where there are none. Words are for one column and for more."""
    if not measured:
        return None
    several = len(measured) > 1
    columns = _join([f"{_name(table, j)} ({text})" for j, text in measured.items()])
    return f"column{'s' if several else ''} {columns} {verbs[several]} {ends[several]}"


# -- Rows and single columns -----------------------------------------------------------------------


class _Values(NamedTuple):
    """The different values of a column in increasing order, how many rows have each, and its standard deviation over its range."""

    values: np.ndarray
    counts: np.ndarray
    deviation: float


def _values(column: np.ndarray) -> _Values:
    values, counts = np.unique(column, return_counts=True)
    scaled = dependence.unit_range(values[:, None])[:, 0]
    mean = np.average(scaled, weights=counts)
    return _Values(values, counts, float(np.sqrt(np.average((scaled - mean) ** 2, weights=counts))))


def _note_of_repeats(count: int, repeats: int, rounded: bool) -> str | None:
    """Return the note on repeated rows, whose remedy depends on whether all columns are rounded."""
    if repeats < REPEATED * count:
        return None
    remedy = "keep widths above the steps to which the columns are rounded, or add uniform noise within them"
    return (
        f"{repeats} of {count} rows {'repeats' if repeats == 1 else 'repeat'} an earlier row, and a density may grow without bound at "
        f"repeated rows, so that its values there depend on the smallest width allowed; {remedy if rounded else 'leave the repeats out'}"
    )


def _is_few(column: _Values, count: int) -> bool:
    """Tell whether a column takes few values, of which most come more than once, or values with a wide step."""
    if 2 * len(column.values) > count:
        return False
    return len(column.values) < FEW_VALUES or _step(column.values) > WIDE_STEP * column.deviation


def _step(values: np.ndarray) -> float:
    """Return the step of the grid on which increasing values lie, over their range, or 0 where they lie on none."""
    gaps = np.diff(dependence.unit_range(values[:, None])[:, 0])
    step = float(gaps.min())
    multiples = gaps / max(step, FINEST_STEP)
    return step if (np.abs(multiples - np.round(multiples)) < 1e-3).all() else 0.0


def _pile(column: _Values, count: int) -> str:
    """Return in words the value at which rows pile up: the smallest, the largest, or any where values are not rounded. "" without one."""
    values, counts, _ = column
    # Rounding alone makes some values frequent.
    inner = [] if _step(values) else [(int(np.argmax(counts)), "the value")]
    for i, place in [(0, "its smallest value"), (len(values) - 1, "its largest value"), *inner]:
        near = np.delete(counts[max(i - 3, 0) : i + 4], min(i, 3))
        if counts[i] >= max(PILE, PILE_SHARE * count, PILE_RATIO * near.mean()):
            return f"{counts[i]} of {count} rows at {place} {values[i]:g}"
    return ""


def _skewness(x: np.ndarray) -> float:
    z = dependence.standardised(x[:, None])[:, 0]
    return float(np.mean(z**3))


def _notes_of_maps(table: Table, x: Rows, columns: list[int]) -> list[str | None]:
    """Return the notes on columns that are easier to fit after a logarithm or a logit."""
    logits, logarithms = {}, {}
    for j in columns:
        low, high = x[:, j].min(), x[:, j].max()
        if 0 < low <= NEAR_BOUND and 1 - NEAR_BOUND <= high < 1:
            logits[j] = f"from {low:.2g} to 1 - {1 - high:.2g}"
        elif low > 0 and (skewness := _skewness(x[:, j])) > SKEWED and abs(after := _skewness(np.log(x[:, j]))) < skewness / 2:
            logarithms[j] = f"skewness {skewness:.2f}, {after:.2f} after a logarithm"
    return [
        _sentence(table, logarithms, ("is", "are"), (
            "positive and skewed; its logarithm is easier to fit", "positive and skewed; their logarithms are easier to fit",
        )),
        _sentence(table, logits, ("comes", "come"), (
            "near both ends of [0, 1]; its logit, log(x / (1 - x)), is easier to fit, as it has no bounds",
            "near both ends of [0, 1]; their logits, log(x / (1 - x)), are easier to fit, as they have no bounds",
        )),
    ]  # fmt: skip


# -- Columns that are nearly functions of others ---------------------------------------------------


def _note_of_functions(table: Table, x: Rows, different: Float[np.ndarray, "k d"], columns: list[int]) -> str | None:
    """Return the note on columns that are nearly functions of others, among columns without atoms.

    Args:
        table: the table, for names.
        x: the rows, (n, d).
        different: the rows without repeats, (k, d).
        columns: the columns to compare.
    """
    if len(columns) < 2 or len(x) < dependence.FEWEST_ROWS:
        return None
    measured = {}
    for j, others, share in dependence.linear_functions(x[:, columns], NEARLY_LINEAR):
        names = _join([_name(table, columns[i]) for i in others])
        measured[columns[j]] = f"a linear function of {names} to {share**0.5:.1g} of its spread"
    columns = [j for j in columns if j not in measured][: dependence.COMPARED_COLUMNS]
    count = min(len(different), dependence.COMPARED_ROWS)
    compared = count >= dependence.FEWEST_ROWS and len(columns) > 1
    rows = different[np.random.default_rng(0).permutation(len(different))[:count]][:, columns]
    scores = dependence.normal_scores(rows)
    for j, i, spread in dependence.functions_of_one(scores) if compared else []:
        measured[columns[j]] = f"a function of {_name(table, columns[i])} to {spread:.1g} of its spread"
    thin = dependence.surface(scores) if compared and not measured else None
    if thin is not None:
        return (
            f"rows lie near a curve or a surface in {_names(table, [columns[i] for i in thin[0]])} (to {thin[1]:.1g} of their spread), and "
            "the density may grow without bound near it; leave one of the columns out, or fit coordinates along the curve or surface"
        )
    return _sentence(table, measured, ("is", "are"), (
        "nearly a function of other columns, and the density may grow without bound near its graph; "
        "leave it out, or fit its difference from that function",
        "nearly functions of other columns, and the density may grow without bound near their graphs; "
        "leave them out, or fit their differences from these functions",
    ))  # fmt: skip
