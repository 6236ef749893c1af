"""Data from arrays, `.npy`, `.npz` and CSV files, validated: nothing is converted in silence and nothing unpickled."""

import csv
import math
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dualebm._internal import checks
from dualebm.measures import Samples
from dualebm.spaces import Space

SUFFIXES = (".npy", ".npz", ".csv")
"""The files that `load` reads."""


def as_samples(x, space: Space, normalise: bool = False, dtype=None, name: str = "x") -> Samples:
    """Data from an array (n, d), as float32 or float64 points of a space with equal weights.

    normalise: divide the rows by their norms (a Sphere only). dtype: float32 or float64 to cast to; None keeps the
    array's own. name: what errors call the array. Raises ValueError for another shape, points that are not finite or
    not in the space, and an array that is neither float32 nor float64: nothing is converted in silence.

    >>> from dualebm.spaces import Sphere
    >>> as_samples(np.array([[3.0, 4.0]], np.float32), Sphere(2), normalise=True).points.round(3).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    x = np.asarray(x)
    if x.dtype in (np.float32, np.float64):  # other dtypes are errors of `checks.points`
        if normalise and x.ndim == 2:
            x = space.normalise(x, name)
        if dtype is not None:
            with np.errstate(over="ignore"):  # becomes inf, an error of `checks.points`
                x = x.astype(checks.precision(dtype))
    checks.points(name, x, space)
    return Samples(jnp.asarray(x))


def load(path, space: Space, normalise: bool = False, dtype=None) -> Samples:
    """Data from a file, one point per row: `.npy`, `.npz` with one array or an array `points`, or `.csv`.

    A CSV file may have one line of column names first, blank lines, and comments after `#`; its numbers are read as
    float64. dtype: of the points; None keeps the array's own, float32 for CSV. normalise: as in `as_samples`. Raises
    FileNotFoundError, and ValueError naming the file, for CSV also the line, and what was found.

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
    """The array of a file as it is there, float64 for CSV, for `as_samples`; raises as `load` does for what is no array.

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
    """The array of a `.npy` file, or the only one, or `points`, of a `.npz` file; nothing is unpickled."""
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
    """The numbers of a CSV file, (n, d) in float64."""
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
                found = f"{field!r}" if field else "nothing"
                where = f"{path}, line {number}, column {column}"
                raise ValueError(f"{where}: found {found}; it must be a finite number")
        if not header:
            rows.append(values)
    if not rows:
        raise ValueError(f"{path} holds no points; it must have one per line, its numbers separated by commas")
    return np.array(rows)


def _number(field):
    """The number that a field spells, or None."""
    try:
        return None if "_" in field else float(field)
    except ValueError:
        return None
