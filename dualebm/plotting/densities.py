"""The figure of a fitted model: its density, with rows of data, in the units of the data."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from dualebm._internal.keys import check_key
from dualebm.data.preparation import from_space, to_space
from dualebm.model import Model, density_name, errors_at, log_densities_at, precision
from dualebm.plotting import pairs, projection, regions
from dualebm.plotting.charts import STYLE, WIDTHS
from dualebm.sampling import draw
from dualebm.settings import Count, checked

ROWS = 2000
"""The largest number of rows that a figure shows."""

SAMPLES = 4000
"""The number of samples of the model that stand for it where its density cannot be drawn."""

ON_LINE, ON_PLANE, ON_MAP = 1200, 160, 240
"""The numbers of points along a line, and along each side of a plane and of a map, at which the density is computed."""

WIDTH = 4.8
"""The width of the figure of a line or a plane, in inches."""

INTERVAL = 1.73
"""An interval of 90% is this number of errors of 20 replicates to either side (Student's distribution with 19 degrees of freedom)."""

COVERED = 0.98
"""The share of the mass below which the caption says that the figure does not show all of it."""


class Drawing(NamedTuple):
    """A figure and the sentences that say what it shows.

    Args:
        figure: the figure of Matplotlib.
        caption: the sentences.
    """

    figure: Figure
    caption: str


@checked
def density(key: Key[Array, ""], model: Model, rows: Any = None, words: str | None = None) -> Drawing:
    """Draw the density of a fitted model with rows of data.

    A density on R^1, a circle or a torus of one coordinate is a curve over a histogram of the rows. On R^2, a torus of two coordinates and
    S^2 it is filled by regions (`regions.fill`), on S^2 in an equal-area map. In more dimensions samples of the model stand for it
    (`pairs.pairs`).

    Args:
        key: the random key of the samples.
        model: the fitted model. A model of 64 bits needs x64.
        rows: the rows in the units of the data, as `tables.as_table` takes them, (n, d). At most 2000 of them are drawn. None for none.
        words: what the rows are, in the caption. None for their number.

    Returns:
        The figure with its caption.

    Raises:
        ValueError: a row is no point of the model's space.

    >>> import jax; from dualebm.data.preparation import Preparation; from dualebm.energies.shallow import Shallow
    >>> from dualebm.features import ReLU
    >>> from dualebm.log_z.estimate import LogPartitionEstimate; from dualebm.spaces import Torus
    >>> log_z = LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> flat = Model(Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), Preparation(Torus(1, 4.0), ("phase",)), log_z, 0.1)
    >>> drawn = density(jax.random.key(0), flat, [[1.0], [2.0]])
    >>> drawn.figure.axes[0].get_xlabel(), drawn.caption
    ('phase', 'The density of the model (line) and a histogram of 2 rows.')
    """
    check_key(key)
    space: Any = model.preparation.space
    points = None if rows is None else to_space(model.preparation, rows, precision(model)).points
    if points is not None:
        total, points = len(points), thinned(points)
        words = words or (f"{total} rows" if len(points) == total else f"{len(points)} of {total} rows, drawn at random")
    curved = space.mean_curvature > 0
    with matplotlib.rc_context(STYLE):
        if space.dimension - curved == 1:
            return _line(key, model, points, words)
        if curved and space.dimension == 3:
            return _map(model, points, words)
        if space.dimension == 2:
            return _plane(key, model, points, words)
        drawn = from_space(model.preparation, draw(key, model, SAMPLES).points).rows
        shown = None if points is None else from_space(model.preparation, points).rows
        figure = pairs.pairs(drawn, shown, names_of(model), space.period if space.periodic else None)
        return Drawing(figure, pairs.caption(names_of(model), len(drawn), words))


def names_of(model: Model) -> tuple[str, ...]:
    """Return the names of the columns of the data, or "column 1" and so on where they have none.

    Args:
        model: the model.

    Returns:
        The names.
    """
    width = 2 if model.preparation.latlon else model.preparation.space.dimension
    return model.preparation.columns or tuple(f"column {i + 1}" for i in range(width))


@checked
def thinned(rows: Any, count: Count = ROWS) -> Any:
    """Return some of the rows, drawn at random by a fixed seed, in their order.

    Args:
        rows: the rows, (n, d).
        count: the largest number of rows to return.

    Returns:
        At most `count` rows.

    >>> len(thinned(np.zeros((5000, 2)))), thinned([[1.0], [2.0]])
    (2000, [[1.0], [2.0]])
    """
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]


def densities_at(model: Model, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return the density in the units of the data at points of the space.

    Args:
        model: the model.
        points: the points, (n, d).

    Returns:
        The densities, (n,), per unit of volume of the data.
    """
    values = log_densities_at(model, jnp.asarray(points, precision(model)))
    return np.exp(values[density_name(model.preparation.space)])


def _window(key, model, points):
    """Return the least and the largest coordinates to draw: all of a torus, else those of the middle of rows or of samples and a margin."""
    space = model.preparation.space
    if space.periodic:
        return np.zeros(space.dimension), np.full(space.dimension, 2 * np.pi * space.unit)
    shown = draw(key, model, SAMPLES).points if points is None else points
    low, high = np.quantile(np.asarray(shown, np.float64), [0.002, 0.998], axis=0)
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _in_units(preparation, grid):
    """Return points of R^d or a torus (n, d) in the units of the data, in float64. `from_space` takes points of the model's precision."""
    return grid if preparation.mean is None else preparation.mean + grid * preparation.scale


def _line(key, model, points, words):
    """Draw a density of one coordinate, which on a circle is the angle in degrees."""
    preparation, names = model.preparation, names_of(model)
    space = preparation.space
    circle = space.mean_curvature > 0
    if circle:
        angles = (np.arange(ON_LINE) + 0.5) / ON_LINE * 2 * np.pi - np.pi
        grid, x = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.degrees(angles)
        rows = None if points is None else np.degrees(np.arctan2(*np.asarray(points, np.float64).T[::-1]))
        label, unit, one = f"angle from {names[0]} towards {names[1]} (degrees)", "radian", np.radians(1)
    else:
        low, high = _window(key, model, points)
        grid = low + (np.arange(ON_LINE)[:, None] + 0.5) / ON_LINE * (high - low)
        x, rows = _in_units(preparation, grid)[:, 0], None if points is None else from_space(preparation, points).rows[:, 0]
        label, unit, one = names[0], f"unit of {names[0]}", 1.0
    values = densities_at(model, grid)
    errors = errors_at(model, jnp.asarray(grid, precision(model)))
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    panel: Any = figure.subplots()
    step = x[1] - x[0]
    ends = x[0] - step / 2, x[-1] + step / 2
    if rows is not None:
        count = int(np.clip(3 * len(rows) ** (1 / 3), 8, 60))
        heights, edges = np.histogram(rows, count, ends)
        panel.stairs(heights / (len(rows) * np.diff(edges) * one), edges, fill=True, color="0.82", label="rows")
        panel.plot(rows, np.zeros(len(rows)), "|", color="0.3", markersize=5, alpha=min(1.0, 60 / len(rows)), zorder=2.5)
    if errors is not None:
        factor = np.exp(INTERVAL * errors.rows)
        panel.fill_between(x, values / factor, values * factor, color="0.45", alpha=0.5, linewidth=0, label="90% interval", zorder=2.8)
    panel.plot(x, values, color=regions.DENSITY_COLOURS(1.0), label="model", zorder=3)
    panel.set(xlabel=label, ylabel=f"density per {unit}", xlim=ends, ylim=(0, None))
    if circle:
        panel.set_xticks(np.arange(-180, 181, 45))
    panel.legend()
    line = "The density of the model (line" + (")" if errors is None else ", with an interval of 90% for what finite rows leave uncertain)")
    return Drawing(figure, _sentences(line, " and a histogram of {}", words, values.sum() * step * one, model))


def _plane(key, model, points, words):
    """Draw a density of two coordinates as filled regions with the rows."""
    preparation, (first, second) = model.preparation, names_of(model)
    low, high = _window(key, model, points)
    steps = low + (np.arange(-1, ON_PLANE + 1)[:, None] + 0.5) / ON_PLANE * (high - low)  # one more on each side, for contours to the edge
    a, b = np.meshgrid(steps[:, 0], steps[:, 1])
    inside = np.pad(np.full((ON_PLANE, ON_PLANE), True), 1)
    grid = np.stack([a.ravel(), b.ravel()], axis=1)
    x, y = np.moveaxis(_in_units(preparation, grid).reshape(*a.shape, 2), -1, 0)
    values = densities_at(model, grid).reshape(a.shape)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panel: Any = figure.subplots()
    filled = regions.fill(panel, x, y, values, inside)
    if points is not None:
        shown = from_space(preparation, points).rows
        _dots(panel, shown)
    panel.set(xlabel=first, ylabel=second, xlim=(x[0, :2].mean(), x[0, -2:].mean()), ylim=(y[:2, 0].mean(), y[-2:, 0].mean()))
    if preparation.space.periodic:
        panel.set_aspect("equal")
    if filled is not None:
        regions.bar(figure, panel, filled, "per unit of area")
    mass = values[inside].sum() * (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])
    return Drawing(figure, _sentences(_filled(filled, values[inside]), " with {} (dots)", words, mass, model))


def _map(model, points, words):
    """Draw a density on S^2 on an equal-area map."""
    preparation = model.preparation
    directions, inside = projection.map_points(ON_MAP)
    values = np.zeros(inside.shape)
    values[inside] = densities_at(model, directions[inside])
    # Contours end at the edge of the map only where the pixels around it have values.
    values = _extended(values, inside)
    vertical, horizontal = np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in inside.shape), indexing="ij")
    figure = Figure(figsize=(WIDTHS["double"], 3.3), layout="constrained")
    panel: Any = figure.subplots()
    edge = Ellipse((0, 0), 4, 2, facecolor="none", edgecolor="0.3", linewidth=0.8, zorder=3, clip_on=False)
    panel.add_patch(edge)
    filled = regions.fill(panel, 2 * horizontal, vertical, values, inside)
    for drawn in panel.collections:
        drawn.set_clip_path(edge)
    projection.draw_graticule(panel)
    if preparation.latlon:
        projection.label_degrees(panel)
    else:
        projection.label_axes(panel, names_of(model))
    if points is not None:
        _dots(panel, projection.map_position(points))
    panel.set(xlim=(-2.02, 2.02), ylim=(-1.02, 1.02), aspect="equal")
    panel.set_axis_off()
    if filled is not None:
        regions.bar(figure, panel, filled, "per steradian")
    mass = 4 * np.pi * values[inside].mean()
    text = _sentences(_filled(filled, values[inside]), " with {} (dots)", words, mass, model)
    return Drawing(figure, f"{text} The map keeps areas.")


def _extended(values, inside):
    """Return values on the map (r, c) in which each pixel outside the ellipse has the value of the nearest pixel inside in its row."""
    middle = np.arange(inside.shape[1])
    first, last = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return np.take_along_axis(values, np.clip(middle[None], first[:, None], last[:, None]), axis=1)


def _dots(panel, rows):
    """Draw rows (n, 2) as dots that are smaller and fainter where there are many."""
    size, alpha = (6.0, 0.8) if len(rows) <= 100 else (3.0, 0.6) if len(rows) <= 600 else (2.0, 0.5)
    panel.scatter(*np.asarray(rows).T, s=size, c="black", alpha=alpha, linewidths=0, zorder=2.5, rasterized=True)


def _filled(filled, values):
    """Say what the filled regions are."""
    if filled is None:
        return f"The density of the model is constant, {values.mean():.3g},"
    shares = ", ".join(f"{share:.0%}" for share in regions.SHARES[:-1])
    return (
        f"The density of the model. Each line bounds the smallest region that holds {shares} or {regions.SHARES[-1]:.0%} of its mass,"
    )


def _sentences(what, how, words, mass, model):
    """Return the caption of a density with rows, of which the window shows a share of the mass."""
    if words is not None:
        what += how.format(words)
    sentences = [what.rstrip(",") + "."]
    if not model.log_partition.trusted:
        sentences.append("log Z is not to be trusted, and so the height of the density is not.")
    elif mass < COVERED and not model.preparation.space.compact:
        sentences.append(f"The window holds {mass:.0%} of the mass of the model.")
    elif abs(mass - 1) > 1 - COVERED:
        sentences.append(f"Some peaks are narrower than the cells of the figure, whose densities add up to {mass:.2f} in place of 1.")
    return " ".join(sentences)
