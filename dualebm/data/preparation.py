"""How rows of a table become points of a space, and points become rows in the units of the data."""

import math
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm import row_weights
from dualebm._internal import checks
from dualebm.data import tables
from dualebm.data.columns import first_place
from dualebm.data.tables import Origin, Table
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import Positive, checked
from dualebm.spaces import Euclidean, Sphere, Torus

SPACES = ("sphere", "euclidean", "torus")
"""The names of the spaces that rows may be mapped to."""

LATITUDES, LONGITUDES = ("lat", "latitude"), ("lon", "long", "lng", "longitude")
"""The names, in small letters, of columns of latitudes and of longitudes."""

FAR = 1e9
"""The largest distance of a value from the median of its column, in interquartile ranges. Beyond it the other rows are one point."""

_COMPARED = 10_000  # the number of rows in which different values that become equal are sought


class Preparation(NamedTuple):
    """The map from rows of a table to points of a space, and back.

    Args:
        space: the space of the points.
        columns: the names of the columns that are used, in their order, or None where the data have no names.
        latlon: whether rows are latitude and longitude in degrees, in this order, and points lie on the sphere S^2.
        normalise: whether rows are divided by their norms, on a sphere.
        mean: the means of the columns in float64, (d,), where rows are standardised to (x - mean) / scale, else None.
        scale: the scales of the columns in float64, (d,), where rows are standardised, else None.
    """

    space: Space
    columns: tuple[str, ...] | None = None
    latlon: bool = False
    normalise: bool = False
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None


@checked
def prepare(
    x: Any, space: str, *, normalise: bool = False, standardise: bool = False, latlon: bool = False, period: Positive | None = None,
    rows: np.ndarray | None = None,
) -> Preparation:  # fmt: skip
    """Return the map of the rows of a table to points of a space.

    Args:
        x: the table, or what `tables.as_table` takes, with d columns.
        space: "sphere" for S^(d-1) or, with `latlon`, S^2; "euclidean" for R^d; "torus" for coordinates in [0, period).
        normalise: whether to divide rows by their norms, on a sphere.
        standardise: whether to subtract the mean of each column and to divide by its standard deviation, on Euclidean space. Both are
            weighted where the table has weights.
        latlon: whether the two columns are a latitude and a longitude in degrees. Names such as `lat` and `lon` tell which is the
            latitude. Under other names it is the first of the columns that were chosen by `columns`.
        period: the period of the coordinates of a torus. None for 1.
        rows: the indices of the rows to standardise by. None for all.

    Returns:
        The map.

    Raises:
        ValueError: a setting does not suit the space or the columns.

    >>> prepare([[3.0, 0.0], [5.0, 8.0]], "euclidean", standardise=True).scale.tolist()
    [1.0, 4.0]
    """
    table = tables.as_table(x)
    checks.choice("space", space, SPACES)
    for flag, value, home in (
        ("normalise", normalise, "sphere"), ("standardise", standardise, "euclidean"), ("latlon", latlon, "sphere"),
        ("period", period, "torus"),
    ):  # fmt: skip
        if value not in (None, False) and space != home:
            raise ValueError(f"{flag} is {value} and space is {space!r}; allowed: {home!r}")
    name, columns, width = table.origin.name, table.columns, table.rows.shape[1]
    if latlon:
        if normalise:
            raise ValueError("latlon and normalise are True; points of latitude and longitude have norm 1 already")
        return Preparation(Sphere(3), _latitude_first(table), latlon=True)
    if space == "sphere":
        if width < 2:
            raise ValueError(f"{name} has 1 column; points of a sphere must have at least 2")
        latitudes, longitudes = ([column for column in columns or () if column.lower() in words] for words in (LATITUDES, LONGITUDES))
        if latitudes and longitudes:
            raise ValueError(
                f"{name} has the columns {latitudes[0]!r} and {longitudes[0]!r}, which are degrees and no points of a sphere; "
                "give latlon, with columns where there are others"
            )
        return Preparation(Sphere(width), columns, normalise=normalise)
    if space == "torus":
        return Preparation(Torus(width, 1.0 if period is None else period), columns)
    _check_far(table)
    mean, scale = _column_scales(table, rows) if standardise else (None, None)
    return Preparation(Euclidean(width), columns, mean=mean, scale=scale)


@checked
def to_space(preparation: Preparation, x: Any, dtype: Any) -> Samples:
    """Map the rows of a table to points of the space of a preparation.

    Where both the table and the data of the preparation have column names, columns are matched by name, and others are left out. Else
    they are taken by position. Rows are mapped in float64, and points are cast to `dtype`. `warnings.warn` tells of a column in
    which more than one in 100 different values become equal by the cast.

    Args:
        preparation: the map.
        x: the table, or what `tables.as_table` takes, (n, d).
        dtype: the dtype of the points, float32 or float64.

    Returns:
        The points, (n, d), or (n, 3) for latitudes and longitudes, with the logarithms of the weights of the table, divided by their sum.
        Where the table has none, or equal ones, the weights are equal.

    Raises:
        ValueError: a column is missing, or a row is no point of the space. The message names the row and the column.

    >>> preparation = Preparation(Sphere(3), ("lat", "lon"), latlon=True)
    >>> table = tables.as_table([[0.0, 90.0]])
    >>> to_space(preparation, table, "float32").points.round(6).tolist()
    [[0.0, 1.0, 0.0]]
    """
    table, space, dtype = _matched(preparation, tables.as_table(x, wanted=preparation.columns)), preparation.space, checks.precision(dtype)
    rows = table.rows
    if preparation.latlon:
        rows = _from_degrees(table)
    elif preparation.mean is not None:
        rows = (rows - preparation.mean) / preparation.scale
    elif preparation.normalise:
        norms = np.linalg.norm(rows, axis=1)
        if not norms.all():
            raise ValueError(f"{tables.where(table, int(np.argmin(norms)))}: found zeros; a row must have a direction to be normalised")
        rows = space.normalise(rows)
    else:
        _check_points(table, space)
    large = np.abs(rows) > math.sqrt(np.finfo(dtype).max / rows.shape[1])  # a log density is not finite where |x|^2 is not
    if large.any():
        row, column = first_place(large)
        found = f"{tables.where(table, row, column)}: found {table.rows[row, column]:g}"
        far = "" if preparation.scale is None else f", {abs(rows[row, column]):.3g} standard deviations from the mean of the fit"
        raise ValueError(f"{found}{far}, whose square {dtype} does not hold; leave the row out")
    _warn_of_merged(table, rows, dtype)
    samples, shares = tables.as_samples(rows, space, dtype=dtype, name=table.origin.name), _shares(table)
    return samples if shares is None else samples._replace(log_weights=jnp.asarray(np.log(shares).astype(dtype)))


@checked
def to_points(preparation: Preparation, x: Float[Array, "*shape d"]) -> Float[Array, "*shape p"]:
    """Map rows to points of the space in JAX, without checks. It is the map of `to_space` in the precision of x.

    Args:
        preparation: the map.
        x: the rows in the units of the data, (..., d). With `latlon` a row is a latitude and a longitude.

    Returns:
        The points, (..., p).

    >>> import jax.numpy as jnp
    >>> to_points(Preparation(Sphere(2), normalise=True), jnp.array([3.0, 4.0])).round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    if preparation.latlon:
        latitude, longitude = jnp.radians(x[..., 0]), jnp.radians(x[..., 1])
        across = jnp.cos(latitude)
        return jnp.stack([across * jnp.cos(longitude), across * jnp.sin(longitude), jnp.sin(latitude)], axis=-1)
    if preparation.mean is not None:
        mean, scale = (jnp.expand_dims(jnp.asarray(v, x.dtype), range(x.ndim - 1)) for v in (preparation.mean, preparation.scale))
        return (x - mean) / scale
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if preparation.normalise else x


@checked
def from_space(preparation: Preparation, points: Float[Array, "n d"]) -> Table:
    """Map points of the space to rows in the units of the data, in float64 and with the column names of the data.

    Args:
        preparation: the map.
        points: the points, (n, d).

    Returns:
        The table. Latitudes and longitudes are in degrees, the longitudes from -180 to 180.

    >>> from_space(Preparation(Sphere(3), latlon=True), jnp.array([[0.0, -1.0, 0.0]])).rows.tolist()
    [[0.0, -90.0]]
    """
    x = np.asarray(points).astype(np.float64)
    if preparation.latlon:
        x = np.degrees(np.stack([np.arctan2(x[:, 2], np.hypot(x[:, 0], x[:, 1])), np.arctan2(x[:, 1], x[:, 0])], axis=1))
    elif preparation.mean is not None and preparation.scale is not None:
        x = x * preparation.scale + preparation.mean
    origin = Origin("points", "row", np.arange(1, len(x) + 1), tuple(range(x.shape[1])), preparation.columns, False)
    return Table(x, preparation.columns, origin, 0)


def _shares(table: Table) -> row_weights.Shares:
    """Return the weights of a table divided by their sum, or None for equal ones."""
    return row_weights.shares_of("weights", table.weights, len(table.rows))


# -- Columns ---------------------------------------------------------------------------------------


def _matched(preparation: Preparation, table: Table) -> Table:
    """Return a table, of which `tables.as_table` took the wanted columns. Raises ValueError unless it has those of a preparation."""
    name, width = table.origin.name, table.rows.shape[1]
    if preparation.columns is not None and table.columns is not None:
        missing = [column for column in preparation.columns if column not in table.columns]
        if missing:
            shown = ", ".join(map(repr, missing[:20]))
            raise ValueError(f"{name} lacks the columns {shown}; it must have {', '.join(map(repr, preparation.columns[:20]))}")
        return table
    count = 2 if preparation.latlon else preparation.space.dimension
    if width != count:
        raise ValueError(f"{name} has {width} column{'s' if width > 1 else ''}; it must have {count}, as the data of the model")
    return table


def _latitude_first(table: Table) -> tuple[str, ...] | None:
    """Return the names of the columns of latitude and longitude, in this order, or None where the table has no names."""
    name, columns, width = table.origin.name, table.columns, table.rows.shape[1]
    if width != 2:
        raise ValueError(f"latlon is True and {name} has {width} columns; columns must choose a latitude and a longitude")
    kinds = ["latitude" if c.lower() in LATITUDES else "longitude" if c.lower() in LONGITUDES else None for c in columns or ()]
    if columns is not None and any(kinds):
        if kinds[0] == kinds[1]:
            raise ValueError(f"latlon is True and {name} has the columns {columns[0]!r} and {columns[1]!r}, each a {kinds[0]}")
        return columns if kinds[0] == "latitude" or kinds[1] == "longitude" else columns[::-1]
    if not table.origin.chosen:
        raise ValueError(
            f"latlon is True and the names of the columns of {name} do not tell the latitude; "
            f"columns must give the latitude first, then the longitude, such as {','.join(columns or ('1', '2'))}"
        )
    return columns


def _check_far(table: Table) -> None:
    """Raise ValueError for a value that is so far from its column that the other rows could not be told apart beside it."""
    quarter, middle, rest = np.quantile(table.rows, (0.25, 0.5, 0.75), axis=0)
    spread = rest - quarter
    far = (np.abs(table.rows - middle) > FAR * spread) & (spread > 0)
    if far.any():
        row, column = first_place(far)
        value = table.rows[row, column]
        distance = abs(value - middle[column]) / spread[column]
        raise ValueError(
            f"{tables.where(table, row, column)}: found {value:g}, which is {distance:.3g} interquartile ranges from the median of its "
            f"column; at most {FAR:g} are allowed: leave the row out, or take the logarithm of the column"
        )


def _column_scales(table: Table, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each column, (d,) in float64. Raises ValueError for a constant column."""
    index = slice(None) if rows is None else rows
    x, shares = table.rows[index], row_weights.subset(_shares(table), index)
    mean, scale = np.mean(x, axis=0), np.std(x, axis=0)
    if shares is not None:
        mean = shares @ x
        scale = np.sqrt(shares @ (x - mean) ** 2)
    usable = scale > 1e-12 * np.abs(mean)
    if not np.isfinite(scale).all():
        column = table.origin.positions[int(np.argmin(np.isfinite(scale)))] + 1
        raise ValueError(f"{table.origin.name} has values in column {column} that are too large to be standardised")
    if not usable.all():
        column = table.origin.positions[int(np.argmin(usable))] + 1
        value = mean[int(np.argmin(usable))]
        raise ValueError(f"{table.origin.name} has the one value {value:g} in column {column}; a column must vary to be standardised")
    return mean, scale


# -- Rows ------------------------------------------------------------------------------------------


def _from_degrees(table: Table) -> np.ndarray:
    """Return the points (cos lat cos lon, cos lat sin lon, sin lat), (n, 3)."""
    for column, kind, low, high in ((0, "latitude", -90, 90), (1, "longitude", -180, 360)):
        values = table.rows[:, column]
        outside = (values < low) | (values > high)
        if outside.any():
            row = int(np.argmax(outside))
            place = f"{tables.where(table, row, column)}: found the {kind} {values[row]:g}"
            raise ValueError(f"{place}; it must be from {low} to {high} degrees")
    latitude, longitude = np.radians(table.rows).T
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1)


def _check_points(table: Table, space: Space) -> None:
    """Raise ValueError for a row off the sphere or outside the torus, with what to do about it."""
    rows = table.rows
    if isinstance(space, Sphere):
        norms = np.linalg.norm(rows, axis=1)
        outside = np.abs(norms - 1) > checks.ON_SPACE
        if outside.any():
            row = int(np.argmax(outside))
            degrees = space.dimension == 2 and (np.abs(rows) <= (90, 360)).all() | (np.abs(rows) <= (360, 90)).all()
            advice = "give latlon if the columns are a latitude and a longitude in degrees, else normalise" if degrees else "give normalise"
            raise ValueError(f"{tables.where(table, row)}: found a row of norm {norms[row]:.6g} off the unit sphere; {advice}")
    if isinstance(space, Torus):
        outside = (rows < -checks.ON_SPACE) | (rows > space.period + checks.ON_SPACE)
        if outside.any():
            row, column = first_place(outside)
            place = tables.where(table, row, column)
            raise ValueError(f"{place}: found {rows[row, column]:g}; it must be from 0 to the period {space.period:g}")


def _warn_of_merged(table: Table, rows: np.ndarray, dtype: np.dtype) -> None:
    """Warn of columns in which more than one in 100 different values become equal in `dtype`."""
    if dtype == np.float64:
        return
    for column in range(rows.shape[1]):
        before, after = (len(np.unique(values)) for values in (rows[:_COMPARED, column], rows[:_COMPARED, column].astype(dtype)))
        if after < 0.99 * before:
            place = f"{table.origin.name}, column {column + 1}"
            warnings.warn(
                f"{place}: {before} different values become {after} in {dtype}; standardise columns, or use float64", stacklevel=3
            )
