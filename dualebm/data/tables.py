"""Data from arrays and from `.npy`, `.npz` and CSV files. They are validated: nothing is converted silently, and nothing is unpickled."""

import csv
import math
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dualebm._internal import checks
from dualebm.geometry import Space
from dualebm.measures import Samples

SUFFIXES = (".npy", ".npz", ".csv")
"""The files that `load` reads."""


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


def load(path, space: Space, normalise: bool = False, dtype=None) -> Samples:
    """Read data from a file with one point per row.

    The file is `.npy`, `.npz` with one array or with an array `points`, or `.csv`. A CSV file may begin with one line
    of column names, and may have blank lines and comments after `#`. Its numbers are read as float64.

    Args:
        path: the file.
        space: the space of the points.
        normalise: whether to divide each row by its norm, which only a `Sphere` allows.
        dtype: float32 or float64, to which the points are cast. None keeps the dtype of a stored array, and gives
            float32 for CSV.

    Returns:
        The points (n, d), with equal weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the content is not allowed. The message names the file and its fault, for CSV also the line.

    >>> import tempfile; from dualebm.spaces import Sphere
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "wind.csv"
    ...     _ = path.write_text("east,north\\n3,4  # a gust\\n0,-1\\n")
    ...     load(path, Sphere(2), normalise=True).points.shape
    (2, 2)
    """
    x = read(path)
    if dtype is None and Path(path).suffix.lower() == ".csv":
        dtype = jnp.float32
    return as_samples(x, space, normalise, dtype, name=str(path))


def read(path) -> np.ndarray:
    """Read the array of a file as it is stored, float64 for CSV. `as_samples` turns it into data.

    The `path` has one of the suffixes `.npy`, `.npz` and `.csv`. Raises FileNotFoundError where there is no such file,
    and ValueError where the file holds no array.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "wind.csv"
    >>> _ = path.write_text("east,north\\n3,4\\n")
    >>> read(path).tolist()
    [[3.0, 4.0]]
    """
    path = Path(path)
    checks.choice(f"the suffix of {path}", path.suffix.lower(), SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"path is {str(path)!r}; there is no such file")
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_numpy(path)


def _read_numpy(path):
    """Return the array of a `.npy` file, or the only array or the array `points` of a `.npz` file. Nothing is unpickled."""
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            names = stored.files
            if "points" in names or len(names) == 1:
                return stored["points" if "points" in names else names[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no plain array ({error}); it must be one that numpy.save wrote") from error
    raise ValueError(f"{path} holds the arrays {names}; it must hold one, or one named 'points'")


def _read_csv(path):
    """Return the numbers of a CSV file, (n, d) in float64."""
    rows, width = [], None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text ({error}); it must be a CSV file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        line = line.partition("#")[0]
        if not line.strip():
            continue
        fields = [field.strip() for field in next(csv.reader([line]))]
        values = [_number(field) for field in fields]
        header = width is None and all(value is None for value in values) and all(fields)
        width = width or len(fields)
        if len(fields) != width:
            raise ValueError(f"{path}, line {number}: found {len(fields)} values; it must have {width}, as before")
        for column, (field, value) in enumerate(zip(fields, values, strict=True), start=1):
            if not header and (value is None or not math.isfinite(value)):
                content = f"{field!r}" if field else "nothing"
                where = f"{path}, line {number}, column {column}"
                raise ValueError(f"{where}: found {content}; it must be a finite number")
        if not header:
            rows.append(values)
    if not rows:
        raise ValueError(f"{path} holds no points; it must have one per line, its numbers separated by commas")
    return np.array(rows)


def _number(field):
    """Return the number that a field spells, or None."""
    try:
        return None if "_" in field else float(field)
    except ValueError:
        return None
