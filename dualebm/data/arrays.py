"""The columns of arrays, tensors, lists and DataFrames in float64."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from dualebm.data.columns import place


def as_columns(x: Any, name: str) -> tuple[tuple[str, ...] | None, int, Callable[[int], np.ndarray]]:
    """Return the columns of x, each converted to float64 when it is asked for.

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
