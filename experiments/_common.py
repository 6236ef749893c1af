"""The form that studies share: their settings, data and metrics, sweeps over seeds, times, levels of a curve, and the look of figures."""

import dataclasses
import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dualebm._internal import checks
from dualebm.data import targets
from dualebm.measures import Samples
from dualebm.plotting import charts
from dualebm.sweeps.engine import sweep

S = TypeVar("S")
PRESETS = ("quick", "paper")
KL = "KL(teacher ∥ student) (nat)"
"""The label of an axis."""

TIMED = 10
"""Steps of one timing."""

# -- Settings ------------------------------------------------------------------------------------------


def check(settings: Any, presets: Iterable[str] = PRESETS) -> None:
    """Checks the preset and the whole numbers of a study's settings.

    Args:
        settings: A dataclass with a field `preset`.
        presets: The names of the presets that the study has.

    Raises:
        ValueError: The preset does not exist, a whole number is below 1, or a seed is not allowed.

    >>> @dataclasses.dataclass
    ... class Settings:
    ...     preset: str = "quick"
    ...     seeds: int = 0
    >>> check(Settings())
    Traceback (most recent call last):
    ...
    ValueError: seeds is 0; it must be an integer of at least 1
    """
    checks.choice("preset", settings.preset, tuple(presets))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            (checks.seed if field.name == "first_seed" else checks.count)(field.name, value)
    if hasattr(settings, "first_seed") and settings.seeds:
        seeds_of(settings)


def settled(settings: S, presets: Mapping[str, Mapping[str, Any]]) -> S:
    """Checks settings, and gives those that are None the values of their preset.

    Args:
        settings: A frozen dataclass with a field `preset`.
        presets: The values of each preset by the names of the settings.

    Returns:
        The settings without what the preset decides being None.

    Raises:
        ValueError: `check` refuses the settings.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Settings:
    ...     preset: str = "quick"
    ...     n: int | None = None
    >>> settled(Settings(), {"quick": dict(n=100)}).n
    100
    """
    check(settings, presets)
    known: Any = settings
    unset = {name: value for name, value in presets[known.preset].items() if getattr(known, name) is None}
    return dataclasses.replace(known, **unset)


def check_each(name: str, values: Iterable | None, check: Callable, *arguments, **bounds) -> None:
    """Checks a setting that has several values; None, which a preset will decide, is allowed.

    Args:
        name: The name of the setting.
        values: Its values.
        check: Checks one value, `checks.choice`, `checks.count` or `checks.number`.
        *arguments: What is allowed, as `check` asks for it after the name and the value.
        **bounds: The same, by name.

    Raises:
        ValueError: The setting has no value, has one twice, or has one that is not allowed.

    >>> check_each("n", (100, 1), checks.count, 2)
    Traceback (most recent call last):
    ...
    ValueError: n is 1; it must be an integer of at least 2
    """
    if values is None:
        return
    values = tuple(values)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} is {values}; it must have at least one value, each once")
    for value in values:
        check(name, value, *arguments, **bounds)


def check_multiple(name: str, value: int | None, of: int, of_name: str = "") -> None:
    """Raises ValueError unless a setting is None or a multiple of a number, which may be another setting.

    >>> check_multiple("steps", 30, 20, "every")
    Traceback (most recent call last):
    ...
    ValueError: steps is 30; it must be a multiple of every, which is 20
    """
    if value is not None and value % of:
        raise ValueError(f"{name} is {value}; it must be a multiple of {f'{of_name}, which is ' if of_name else ''}{of}")


def seeds_of(settings: Any, count: int | None = None) -> range:
    """Returns the seeds of a study: `count` or `settings.seeds` integers from `first_seed` on. Raises ValueError when one is no seed."""
    seeds = range(settings.first_seed, settings.first_seed + (settings.seeds if count is None else count))
    if seeds:
        checks.seed("first_seed + seeds - 1", seeds[-1])
    return seeds


# -- Data, metrics and sweeps ----------------------------------------------------------------------------


class Draws(NamedTuple):
    """What a seed decides: the key of the run, the data, and fresh points of the teacher that test the run."""

    key: jax.Array
    data: Samples
    test: Samples


def draws(seed: int, target: targets.Target, n: int, test_points: int) -> Draws:
    """Draws the data and the test points of a seed.

    Args:
        seed: Decides the keys of the run, of the data and of the test points.
        target: The teacher.
        n: How many data are drawn.
        test_points: How many test points are drawn.

    Returns:
        The key of the run, the data (n, d) and the test points (test_points, d).

    >>> draws(0, targets.teacher("s2_bimodal"), 5, 7).test.points.shape
    (7, 3)
    """
    key, data_key, test_key = jax.random.split(jax.random.key(seed), 3)
    return Draws(key, targets.sample(data_key, target, n)[0], targets.sample(test_key, target, test_points)[0])


def data(key, teacher, n) -> Samples:
    """Draws n points of a planted teacher by its name: the data of a run, as `sweep` asks for them.

    >>> data(jax.random.key(0), "s2_bimodal", 4).points.shape
    (4, 3)
    """
    return targets.sample(key, targets.teacher(teacher), n)[0]


def positions(key, iterate):
    """Returns the positions of the neurons, (m, p): a metric."""
    del key
    return iterate.energy.positions


def coefficients(key, iterate):
    """Returns the coefficients of the neurons, (m,): a metric."""
    del key
    return iterate.energy.coefficients


def swept(grid, method, rates, data, **arguments) -> xarray.Dataset:
    """Runs `sweep` with a bar of its progress on a terminal, and loads its results.

    Args:
        grid: The settings of the runs.
        method: The method, or a function of the settings that returns it.
        rates: The rates, or a function of the settings that returns them; None for those of the method.
        data: The data, or a function of a key and of the settings that returns them.
        **arguments: The others of `sweep`.

    Returns:
        The records along (run, step).
    """
    return sweep(grid, method, rates, data, progress=sys.stderr.isatty(), **arguments).load()


# -- Times -----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _timed_steps(method, key, state, rates, data):
    return jax.lax.fori_loop(0, TIMED, lambda i, state: method.step(jax.random.fold_in(key, i), state, rates, data)[0], state)


def seconds_a_step(methods: Mapping[str, Any], data: Samples, repetitions: int) -> dict[str, float]:
    """Times a step of each method at its default rates, without metrics.

    Args:
        methods: The methods by their labels; they are timed in turn.
        data: The data, (n, d).
        repetitions: Timings of `TIMED` steps of each method.

    Returns:
        The median seconds of a step by the labels.
    """
    programs = {}
    for label, method in methods.items():
        rates = jax.tree.map(jnp.float32, method.rates)
        start = jax.jit(method.init)(jax.random.key(0), rates, data)
        programs[label] = (method, jax.random.key(1), start, rates, data)
    taken = {label: [] for label in programs}
    for _ in range(repetitions + 1):
        for label, arguments in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(_timed_steps(*arguments))
            taken[label].append(time.perf_counter() - begin)
    return {label: float(np.median(times[1:])) / TIMED for label, times in taken.items()}  # the first has compiled


# -- Numbers of curves -----------------------------------------------------------------------------------


def first_below(steps, values, level: float) -> float:
    """Returns the first step whose value is at or below a level; infinity where there is none.

    >>> first_below(np.array([0, 10, 20]), np.array([1.0, 0.3, 0.1]), 0.3)
    10.0
    """
    below = np.flatnonzero(np.asarray(values) <= level)
    return float(steps[below[0]]) if below.size else np.inf


def stays_below(values: xarray.DataArray, level: float, never: float = np.inf) -> xarray.DataArray:
    """Returns the step from which values stay at or below a level.

    Args:
        values: Along `step` and any other dimensions; NaN is above every level.
        level: The level.
        never: What is returned where the last value is above the level.

    Returns:
        The steps along the other dimensions.

    >>> kl = xarray.DataArray([3.0, 0.5, 2.0, 0.9, 0.8], {"step": [0, 1, 2, 3, 4]}, "step")
    >>> float(stays_below(kl, 1.0)), float(stays_below(kl, 0.1))
    (3.0, inf)
    """
    last = xarray.where(~(values <= level), values.step, -1).max("step")
    return values.step.where(values.step > last).min("step").fillna(never)


def spread(values, middle: str, least: str = "least", largest: str = "largest", of: str = "mean") -> dict[str, float]:
    """Returns the middle of values over runs, the least and the largest, as cells of a row.

    Args:
        values: Values of the runs; an `xarray.DataArray` leaves NaN out, an array of NumPy does not.
        middle: The name of the middle.
        least: The name of the least.
        largest: The name of the largest.
        of: The middle is the "mean" or, of an `xarray.DataArray`, the "median".

    Returns:
        The three numbers by their names.

    >>> spread(np.array([1.0, 2.0, 6.0]), "KL")
    {'KL': 3.0, 'least': 1.0, 'largest': 6.0}
    """
    return {middle: float(getattr(values, of)()), least: float(values.min()), largest: float(values.max())}


# -- Figures ---------------------------------------------------------------------------------------------


SIGNS = {"all_negative": "all signs \u22121", "half": "signs half and half", "random": "random signs"}
"""The signs of the neurons for readers."""

MODES = {"monomodal": "one mode", "bimodal": "two modes", "trimodal": "three modes"}


def named(teacher: str) -> str:
    """Returns the name of a planted teacher for readers.

    >>> named("s14_bimodal")
    '$S^{14}$, two modes'
    """
    sphere, _, modes = str(teacher).partition("_")
    return f"$S^{{{sphere.removeprefix('s')}}}$, {MODES.get(modes, modes)}"


def look(i: int) -> dict[str, Any]:
    """Returns the colour and the marker of the i-th curve of a panel."""
    return dict(color=charts.COLOURS[i % len(charts.COLOURS)], marker=charts.MARKERS[i % len(charts.MARKERS)])


def band(panel: Axes, x, values, i: int, middle: Callable = np.nanmean, alpha: float = 0.2, **line) -> None:
    """Draws the middle of values over runs as a line, and their least to largest as a band.

    Args:
        panel: The axes.
        x: The places of the values, (T,).
        values: Values of the runs, (runs, T). NaN, a run that diverged, is left out; what is infinite is not drawn.
        i: The number of the curve, which decides its colour and marker.
        middle: The middle over the first axis.
        alpha: The opacity of the band.
        **line: Changes of the line's form.

    >>> panel = Figure().subplots()
    >>> band(panel, [0, 1], np.array([[1.0, 2.0], [3.0, np.inf]]), 0)
    >>> panel.lines[0].get_ydata().tolist()
    [2.0, nan]
    """
    drawn, low, high = _over_runs(values, middle)
    form = look(i) | line
    panel.plot(x, drawn, **form)
    panel.fill_between(x, low, high, color=form["color"], alpha=alpha, linewidth=0)


def _over_runs(values, middle: Callable) -> list[np.ndarray]:
    """Returns the middle of values over runs, their least and their largest, NaN where one is not finite."""
    values = np.asarray(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a number
        curves = [np.asarray(of(values, axis=0), float) for of in (middle, np.nanmin, np.nanmax)]
    return [np.where(np.isfinite(curve), curve, np.nan) for curve in curves]


def bars(panel: Axes, x, values, i: int, count: int, middle: Callable = np.nanmean, apart: float = 1.06, **line) -> None:
    """Draws the middle of values over runs as a line, and their least to largest as bars, where bands would cover each other.

    Args:
        panel: The axes, whose x are logarithmic.
        x: The places of the values, (T,).
        values: Values of the runs, (runs, T), as for `band`.
        i: The number of the curve, which decides its colour and marker.
        count: How many curves there are: they are drawn side by side.
        middle: The middle over the first axis.
        apart: The ratio of the places of neighbours.
        **line: Changes of the line's form.

    >>> panel = Figure().subplots()
    >>> bars(panel, [1.0, 10.0], np.array([[1.0, 2.0], [3.0, np.inf]]), 0, 1)
    >>> panel.lines[0].get_ydata().tolist()
    [2.0, nan]
    """
    drawn, low, high = _over_runs(values, middle)
    x = np.asarray(x, float) * apart ** (i - (count - 1) / 2)
    form = look(i) | line
    panel.plot(x, drawn, **form)
    thin: dict[str, Any] = dict(fmt="none", ecolor=form["color"], elinewidth=0.7, capsize=1.5, capthick=0.7)
    panel.errorbar(x, drawn, (drawn - low, high - drawn), **thin)


def log_norm(values) -> LogNorm:
    """Returns a logarithmic scale from the least to the largest finite positive value, or any scale where there is none.

    >>> log_norm([0.0, 2.0, np.inf, 8.0]).vmax
    8.0
    """
    values = np.asarray(values)
    finite = values[np.isfinite(values) & (values > 0)]
    return LogNorm(finite.min(), finite.max()) if finite.size else LogNorm(1, 10)


def heat(panel: Axes, values, x, y, norm: LogNorm, missing: str, lift: float = 0.0) -> Any:
    """Draws a table of cells as colours, each with its number; a cell without a number is hatched, and has a word.

    Args:
        panel: The axes.
        values: The values of the cells, (len(y), len(x)); what is not finite is missing.
        x: The values of the columns.
        y: The values of the rows, the first of which is below.
        norm: The scale of the colours.
        missing: The word of a missing cell.
        lift: How far above the middle of a cell its number is, where the height of a cell is 1.

    Returns:
        The image, for a colour bar.

    >>> panel = Figure().subplots()
    >>> image = heat(panel, np.array([[2.0, np.inf]]), [0.1, 1.0], [5.0], LogNorm(1, 4), "never")
    >>> [text.get_text() for text in panel.texts], [label.get_text() for label in panel.get_xticklabels()]
    (['2', 'never'], ['0.1', '1'])
    """
    values = np.asarray(values, float)
    values = np.where(np.isfinite(values), values, np.nan)
    colours = matplotlib.colormaps["viridis_r"].with_extremes(bad=(1, 1, 1, 0))
    panel.patch.set(facecolor="white", edgecolor="0.8", hatch="/////", linewidth=0)
    image = panel.imshow(np.ma.masked_invalid(values), origin="lower", aspect="auto", cmap=colours, norm=norm)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        form: dict[str, Any] = dict(ha="center", va="center", fontsize=5.5)
        if np.isfinite(value):
            dark = np.dot(colours(norm(value))[:3], (0.299, 0.587, 0.114)) < 0.5
            text = f"{value:.0f}" if value >= 100 else f"{value:.2g}"
            panel.text(column, row + lift, text, color="white" if dark else "black", **form)
        else:
            box = dict(facecolor="white", linewidth=0, pad=0.8)
            panel.text(column, row + lift, missing, color="0.3", style="italic", bbox=box, **form)
    for axis, names in ((panel.xaxis, x), (panel.yaxis, y)):
        axis.set_ticks(range(len(names)), [charts.number(float(f"{float(v):.2g}")) for v in names], fontsize=6)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.tick_params(length=0)
    return image


def colour_bar(figure: Figure, image: Any, panels: Any, label: str) -> None:
    """Draws the colour bar of `heat`, with plain labels, for one panel or several of one scale."""
    bar = figure.colorbar(image, ax=panels, label=label, pad=0.02)
    charts.log_axis(bar.ax.yaxis)
    bar.outline.set_visible(False)

def panels_of(rows: int, columns: int, height: float, width: float = charts.WIDTHS["double"], **arguments) -> tuple[Figure, np.ndarray]:
    """Makes a figure with panels in rows and columns.

    Args:
        rows: How many rows there are.
        columns: How many columns there are.
        height: The height of the figure, in inches.
        width: Its width, in inches.
        **arguments: Those of `Figure.subplots`.

    Returns:
        The figure, and its panels (rows, columns).

    >>> panels_of(2, 3, 4.0)[1].shape
    (2, 3)
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **arguments)


def legend(figure: Figure, panels: Iterable[Axes], columns: int, **arguments) -> None:
    """Writes one legend of several panels below a figure, each label once."""
    handles = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    form = dict(title_fontsize=7) | arguments
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, **form)


def of_seeds(count: int, middle: str = "mean", shape: str = "band") -> str:
    """Returns the title of a legend whose bands, or bars, are over seeds.

    >>> of_seeds(5), of_seeds(1), of_seeds(3, "median", "bar")
    ('mean of 5 seeds; band: least to largest', '1 seed', 'median of 3 seeds; bar: least to largest')
    """
    return f"{middle} of {count} seeds; {shape}: least to largest" if count > 1 else "1 seed"
