"""Curves of runs and sweeps, and the style of all figures.

Every function returns what it made and shows nothing. Figures are made without pyplot and with a style of their own, so
that no global setting changes and no window opens. `figure.savefig("name.pdf")` writes one. The colours are those of
Okabe and Ito, with a dark purple in place of their yellow, which is faint on white. Lines and markers differ in form
too, for readers of greyscale.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import xarray
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, SymmetricalLogLocator

from dualebm._internal import checks
from dualebm.settings import checked

WIDTHS = {"single": 3.4, "double": 7.0}
"""The widths of a figure in one and in two columns of a journal, in inches."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "mathtext.fontset": "dejavusans",
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#4B2E83")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OTHER_COLOURS = ("black", "#D55E00", "#56B4E9", "#999999")  # for references that belong to no setting
DASHES = ("--", (0, (1, 1)), "-.", (0, (5, 1, 1, 1, 1, 1)))

BAND = "lines: mean over runs; bands: least to largest"
"""The title of a legend."""

QUANTITIES = {
    "kl": ("KL", "KL(teacher ∥ student)", "nat", "log"),
    "score": ("SM", "mean squared score difference", "", "log"),
    "total_variation": ("TV", "total variation", "", "linear"),
}
"""By variable: its name in a reference, its label and unit where it has no such attributes, and the scale of its axis."""


@checked
def curves(
    results: xarray.Dataset | Mapping[str, xarray.Dataset],
    reference: Mapping | None = None,
    *,
    variables: Iterable[str] = tuple(QUANTITIES),
    width: str = "double",
) -> Figure:
    """Draw KL, score and total variation against the iteration: the mean over runs, with a band from minimum to maximum.

    The axis of iterations is logarithmic, and has a place for step 0 at its left end. Runs with NaN at the end have diverged. From
    there on the mean is over the others, and the legend says how many have diverged.

    Args:
        results: a Dataset with the coordinate `step` (iterations done) and with `variables` over `step` and any other
            dimensions, which are the runs. For several settings, a mapping from label to Dataset. The attributes
            `long_name` and `units` of a variable label its axis.
        reference: published curves, drawn dashed, as `experiments.reference.author_runs` returns them, or a mapping
            from label to such curves. A reference under a label of `results` takes that colour, darker. One with a single
            iteration is a mark. None for none.
        variables: the panels, each one of "kl" (log-log), "score" (log-log) and "total_variation" (log-linear).
        width: "single" (a column of 3.4 inches, panels below each other) or "double" (7 inches, panels side by side).

    Returns:
        The figure.

    Raises:
        ValueError: a variable or the width is unknown, or there is nothing finite to draw.

    >>> attributes = {"long_name": "KL", "units": "nat"}
    >>> kl = xarray.DataArray([[0.5, 0.2], [0.7, 0.4]], dims=("run", "step"), attrs=attributes)
    >>> figure = curves(xarray.Dataset({"kl": kl}, {"step": [10, 20]}), variables=["kl"])
    >>> figure.axes[0].get_ylabel(), figure.axes[0].lines[0].get_ydata().round(3).tolist()
    ('KL (nat)', [0.6, 0.3])
    """
    checks.choice("width", width, WIDTHS)
    variables = tuple(variables)
    for variable in variables:
        checks.choice("variables", variable, QUANTITIES)
    settings = {"dualebm": results} if isinstance(results, xarray.Dataset) else dict(results)
    if not settings or not variables:
        raise ValueError(f"results has {len(settings)} settings, variables {len(variables)} names; give at least 1")
    published = {} if reference is None else {"authors": reference} if "iterations" in reference else dict(reference)
    for label, dataset in settings.items():
        present = [str(name) for name in dataset.data_vars]
        for variable in variables:
            checks.choice(f"variables, in the results of {label!r},", variable, present)
    rows, columns = (len(variables), 1) if width == "single" else (1, len(variables))
    size = (WIDTHS[width], 0.5 + 1.7 * rows if width == "single" else 2.6)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06))
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, variable in zip(panels, variables, strict=True):
            draw_curves(panel, variable, settings, published)
            if width == "double" or variable == variables[-1]:
                panel.set_xlabel("iteration")
        # Legends fill by columns, so that sorting by gid puts a reference below its setting.
        handles = sorted(
            (line for line in figure.axes[0].get_lines() if not str(line.get_label()).startswith("_")), key=lambda line: str(line.get_gid())
        )
        longest = max(len(str(handle.get_label())) for handle in handles)
        per_row = max(min(int(18 * WIDTHS[width] / (longest + 8)), 4), 1)  # about 18 letters an inch
        columns = len(handles) if len(handles) <= per_row else min(-(-len(handles) // 2), per_row)
        title = BAND if any(panel.collections for panel in figure.axes) else None
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title, title_fontsize=7)
    return figure


def draw_curves(panel, variable: str, settings: Mapping[str, xarray.Dataset], published: Mapping[str, Mapping]) -> None:
    """Draw one panel of `curves`.

    Args:
        panel: the axes of Matplotlib.
        variable: one of `QUANTITIES`.
        settings: the results by their labels.
        published: the references by their labels.

    >>> panel = Figure().subplots()
    >>> draw_curves(panel, "kl", {"ours": xarray.Dataset({"kl": ("step", [0.5, 0.2])}, {"step": [0, 20]})}, {})
    >>> panel.lines[0].get_xdata().tolist(), [label.get_text() for label in panel.get_xticklabels()]
    ([0, 20], ['0', '20'])
    """
    name, label, unit, scale = QUANTITIES[variable]
    attributes = next(iter(settings.values()))[variable].attrs
    label, unit = attributes.get("long_name", label), attributes.get("units", unit)
    colours, drawn = {}, []
    for i, (setting, dataset) in enumerate(settings.items()):
        colours[setting] = COLOURS[i % len(COLOURS)]
        step, mean, low, high, runs, lost = _over_runs(dataset, variable, setting)
        count = f"{runs} run{'s'[: runs != 1]}" + (f", {lost} diverged" if lost else "")
        form: dict[str, Any] = dict(marker=MARKERS[i % len(MARKERS)], markevery=marks(step, i), gid=f"{i:03}")
        panel.plot(step, mean, color=colours[setting], label=f"{setting} ({count})", zorder=3, **form)
        if runs > 1:
            panel.fill_between(step, low, high, color=colours[setting], alpha=0.25, linewidth=0)
        drawn += [mean, low, high]
    order = {setting: f"{i:03} reference" for i, setting in enumerate(settings)}
    for i, (setting, curve) in enumerate(published.items()):
        step = np.asarray(curve["iterations"])
        mean, low, high = (np.asarray(curve[name][kind]) for kind in ("mean", "min", "max"))
        darker = tuple(0.55 * np.array(to_rgb(colours[setting]))) if setting in colours else None
        colour = darker or OTHER_COLOURS[i % len(OTHER_COLOURS)]
        text = f"{setting}, authors" if setting in settings else setting
        form = dict(linestyle=DASHES[i % len(DASHES)], gid=order.get(setting, "rest"))  # the legend is sorted by gid
        if len(step) == 1:
            form |= dict(linestyle="", marker="*", markersize=8, clip_on=False)
        panel.plot(step, mean, color=colour, label=text, zorder=3.5, **form)
        if not np.array_equal(low, high, equal_nan=True) and len(step) == 1:
            panel.errorbar(step, mean, [mean - low, high - mean], color=colour, capsize=2, linewidth=0.8, linestyle="", zorder=3.4)
        elif not np.array_equal(low, high, equal_nan=True):
            panel.fill_between(step, low, high, facecolor=colour, alpha=0.2, linewidth=0, hatch="/////")
        drawn += [mean, low, high]
    label = label.replace("||", "∥")
    label = label if unit in ("", "1") else f"{label} ({'nat' if unit == 'nats' else unit})"
    panel.set(yscale=scale, ylabel=textwrap.fill(label, 24))
    values = np.concatenate([np.ravel(values) for values in drawn])
    values = values[np.isfinite(values) & ((values > 0) | (scale == "linear"))]
    if scale == "log" and values.size:  # negative estimates of a small KL must not set the limits
        panel.set_ylim(values.min() / 1.3, values.max() * 1.3)
    elif scale == "linear":
        panel.set_ylim(0, 1.05 * values.max() or 1)
    if scale == "log":
        log_axis(panel.yaxis)
    step_axis(panel.xaxis, np.concatenate([np.ravel(line.get_xdata()) for line in panel.get_lines()]))
    panel.grid(which="major", color="0.9", linewidth=0.5)
    panel.set_axisbelow(True)


def _over_runs(dataset, variable, setting):
    """Take the mean, minimum and maximum of a variable over the runs, at the steps with a finite value.

    Returns the steps, these three, the number of runs, and the number of runs that have diverged.
    """
    values = dataset[variable].transpose(..., "step").values
    values = np.where(np.isfinite(values), values, np.nan).reshape(-1, values.shape[-1])
    step = np.asarray(dataset["step"])
    written = np.isfinite(values).any(axis=0)
    if not (written & (step > 0)).any():
        raise ValueError(f"results of {setting!r} has no finite {variable!r} at a step > 0; there is nothing to draw")
    values = values[:, written]
    lost = int(np.isnan(values[:, -1]).sum())
    return step[written], np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0), len(values), lost


@checked
def path(stages: Iterable[Mapping[str, Any]], chosen: Mapping[str, Any]) -> Figure:
    """Draw the mean log density of validated rows against the radius, with bands of one standard error of the gain over radius 0.

    Args:
        stages: the stages of the paths of an automatic fit (`auto.Stage`) as mappings with `candidate`, `radius`, `log_density` and
            `gain_error`. Stages of which log Z is not known have no log density (None) and are left out.
        chosen: the `candidate` and the `stage` that were chosen, which a ring marks.

    Returns:
        The figure.

    >>> stage = {"candidate": "normal scaled_bump", "stage": 0, "radius": 0.0, "log_density": 0.0, "gain_error": 0.0}
    >>> path([stage, stage | {"stage": 1, "radius": 2.0, "log_density": 0.5}], stage).axes[0].lines[0].get_ydata().tolist()
    [0.0, 0.5]
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 2.9), layout=ConstrainedLayoutEngine(w_pad=0.06))
        panel, known = figure.subplots(), [stage for stage in stages if stage["log_density"] is not None]
        for index, name in enumerate(dict.fromkeys(stage["candidate"] for stage in known)):
            numbers = [[s["radius"], s["log_density"], s["gain_error"]] for s in known if s["candidate"] == name]
            radius, mean, error = np.array(numbers).T
            dash, marker = ("-", *DASHES)[index % 5], MARKERS[index % len(MARKERS)]
            form: dict[str, Any] = dict(color=COLOURS[index % len(COLOURS)], linestyle=dash, marker=marker)
            panel.plot(radius, mean, label=name.replace("_", " "), **form)
            panel.fill_between(radius, mean - error, mean + error, color=form["color"], alpha=0.2, linewidth=0)
        ring = [(s["radius"], s["log_density"]) for s in known if (s["candidate"], s["stage"]) == (chosen["candidate"], chosen["stage"])]
        panel.plot(*np.array(ring).T, "o", markersize=9, markerfacecolor="none", markeredgecolor="black", label="chosen")
        panel.set_xlabel("radius (total variation of the neurons)")
        panel.set_ylabel("mean log density\nof validated rows (nat)")
        panel.legend()
    return figure


def number(value: float) -> str:
    """Return the text of a number in a figure: plain from 0.001 to below 10,000, else with a power of ten.

    Args:
        value: the number.

    Returns:
        The text, with the power as mathtext.

    >>> number(0.02), number(3000), number(100_000), number(2e-5)
    ('0.02', '3000', '$10^{5}$', '$2·10^{-5}$')
    """
    size = abs(value)
    if size == 0 or 1e-3 * (1 - 1e-9) <= size < 1e4 * (1 - 1e-9):
        return f"{value:g}"
    exponent = math.floor(math.log10(size) + 1e-9)
    factor = f"{value / 10.0**exponent:.3g}"
    power = f"10^{{{exponent}}}"
    return {"1": f"${power}$", "-1": f"$-{power}$"}.get(factor, f"${factor}·{power}$")


def marks(x: Any, curve: int = 0, count: int = 5) -> list[int]:
    """Return the indices of the points of a curve that have a marker: the first, and others evenly spaced in the logarithm of x.

    They are the same in all panels whose x are the same. Those of other curves lie between.

    Args:
        x: the places of the points, from small to large.
        curve: the number of the curve.
        count: the number of markers behind the first.

    Returns:
        The indices, from small to large.

    >>> marks([0, 1, 10, 100, 1000, 10_000], count=2), marks([0, 1, 10, 100, 1000, 10_000], curve=2, count=2)
    ([0, 1, 3], [0, 2, 4])
    """
    x = np.asarray(list(x), float)
    positive = np.flatnonzero(x > 0)
    if len(positive) < 2:
        return list(range(len(x)))
    places = np.log(x[positive])
    wanted = places[0] + (places[-1] - places[0]) * (np.arange(count) + curve % 4 / 4) / count
    return sorted({0, *(int(positive[np.abs(places - place).argmin()]) for place in wanted)})


def step_axis(axis, steps: Any) -> None:
    """Make an axis of iterations logarithmic, with a place for 0 at its left end where 0 is one of the steps.

    Args:
        axis: an axis of Matplotlib, such as `axes.xaxis`.
        steps: the iterations that are drawn. At least one is above 0.

    >>> axes = Figure().subplots()
    >>> step_axis(axes.xaxis, [0, 10, 4000])
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['0', '10', '100', '1000']
    """
    steps = np.asarray(list(steps), float)
    first, last = steps[steps > 0].min(), steps.max()
    decades = [10.0**k for k in range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last) + 1e-9) + 1)]
    if len(decades) < 2:
        decades = sorted({first, *decades, last})
    if (steps > 0).all():
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    else:
        getattr(axis.axes, f"set_{axis.axis_name}scale")("symlog", linthresh=first, linscale=0.45)
        getattr(axis.axes, f"set_{axis.axis_name}lim")(-0.12 * first, 1.15 * last)
        decades = [0.0, *decades]
    axis.set_ticks(decades, [number(value) for value in decades])
    axis.set_ticks([k * 10.0**e for e in range(-3, 9) for k in range(2, 10) if first < k * 10.0**e < last], minor=True)
    axis.set_minor_formatter(NullFormatter())


def signed_axis(axis, linear: float) -> None:
    """Make an axis logarithmic in either sign, and linear between minus and plus a number, with plain labels.

    Args:
        axis: an axis of Matplotlib, such as `axes.xaxis`.
        linear: the number.

    >>> axes = Figure().subplots()
    >>> _ = axes.plot([1, 2], [-1, 1])
    >>> signed_axis(axes.yaxis, 0.1)
    >>> [label.get_text() for label in axes.get_yticklabels() if abs(label.get_position()[1]) <= 1]
    ['-1', '-0.1', '0', '0.1', '1']
    """
    getattr(axis.axes, f"set_{axis.axis_name}scale")("symlog", linthresh=linear)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
    axis.set_major_formatter(FuncFormatter(lambda value, position: number(value)))
    axis.set_minor_formatter(NullFormatter())


def log_axis(axis, values: Any = None) -> None:
    """Make an axis logarithmic, with few, plain labels.

    Args:
        axis: an axis of Matplotlib, such as `axes.xaxis`.
        values: where to put labels. None puts them at 1, 2 and 5 of each decade, or at 1 alone over many decades.

    >>> axes = Figure().subplots()
    >>> _ = axes.plot([20, 90], [1, 2])
    >>> log_axis(axes.xaxis)
    >>> [label.get_text() for label in axes.get_xticklabels() if 20 <= label.get_position()[0] <= 90]
    ['20', '50']
    """
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_minor_formatter(NullFormatter())
    if values is not None:
        ticks = list(values)
        axis.set_ticks(ticks, [number(value) for value in ticks])
        return
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, position: number(value)))


@checked
def varied(results: xarray.Dataset) -> list[str]:
    """Return the names of the settings of a sweep that have several values over its runs, without the seed.

    Args:
        results: the results of the sweep, whose settings are coordinates over `run`.

    Returns:
        The names.

    >>> runs = {"radius": ("run", [1.0, 2.0]), "n": ("run", [5, 5]), "seed": ("run", [0, 1])}
    >>> varied(xarray.Dataset(coords=runs))
    ['radius']
    """
    names = [str(name) for name, values in results.coords.items() if values.dims == ("run",) and name not in ("run", "seed")]
    return [name for name in names if len(set(results[name].values.tolist())) > 1]


@checked
def sweep(results: xarray.Dataset, variable: str = "kl") -> Figure:
    """Draw a metric of a sweep: its last record against a setting, and its curves by that setting.

    The setting is the numeric one with the most values. Each line is for one combination of the other settings, with the median over
    seeds and a band from minimum to maximum. The curves are those of the first combination. Without a numeric setting only curves are
    drawn. Runs that are not finite are left out.

    Args:
        results: the results of the sweep, with the metric over `run` and `step`.
        variable: the name of the metric.

    Returns:
        The figure.

    Raises:
        ValueError: the metric does not exist, or has no finite value.

    >>> kl = xarray.DataArray([[0.5, 0.2], [0.7, 0.4]], {"radius": ("run", [1.0, 2.0]), "step": [10, 20]}, ("run", "step"))
    >>> [axes.get_xlabel() for axes in sweep(xarray.Dataset({"kl": kl})).axes]
    ['radius', 'iteration']
    """
    checks.choice("variable", variable, [str(name) for name in results.data_vars])
    metric = results[variable]
    values, step = metric.values, results.step.values
    if not np.isfinite(values).any():
        raise ValueError(f"results has no finite {variable!r}; there is nothing to draw")
    label, unit = metric.attrs.get("long_name", variable), metric.attrs.get("units", "")
    label = label if unit in ("", "1") else f"{label} ({unit})"
    settings = varied(results)
    numeric = [name for name in settings if np.issubdtype(results[name].dtype, np.number)]
    across = max(numeric, key=lambda name: len(np.unique(results[name].values)), default=None)
    others = [name for name in settings if name != across]
    combinations = list(dict.fromkeys(zip(*(results[name].values.tolist() for name in others), strict=True))) if others else [()]
    runs = np.arange(results.sizes["run"])

    def selected(combination):
        """Which runs have this combination of the other settings."""
        return np.all([results[n].values == v for n, v in zip(others, combination, strict=True)] or [runs >= 0], axis=0)

    positive = bool((values[np.isfinite(values)] > 0).all())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTHS["double"], 3.2), layout=ConstrainedLayoutEngine(w_pad=0.06))
        panels = list(figure.subplots(1, 1 if across is None else 2, squeeze=False).flat)
        if across is not None:
            points = np.unique(results[across].values)
            last = np.array([row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in values])
            for i, combination in enumerate(combinations):
                rows = [last[selected(combination) & (results[across].values == x)] for x in points]
                rows = [row[np.isfinite(row)] for row in rows]
                median, low, high = (np.array([f(row) if len(row) else np.nan for row in rows]) for f in (np.median, np.min, np.max))
                name = ", ".join(f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in zip(others, combination, strict=True))
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                panels[0].plot(points, median, label=name or None, color=colour, marker=marker, linestyle=("-", *DASHES)[i // 7 % 5])
                panels[0].fill_between(points, low, high, color=colour, alpha=0.2, linewidth=0)
            panels[0].set(xlabel=across, ylabel=f"last {label}")
            if (points > 0).all() and points[-1] / points[0] > 20:
                log_axis(panels[0].xaxis, points)
        shown = np.unique(results[across].values) if across is not None else np.array([0.0])
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(shown)))
        for x, colour in zip(shown, colours, strict=True):
            rows = values[selected(combinations[0]) & ((results[across].values == x) if across is not None else True)]
            rows = rows[:, step > 0]
            kept = np.isfinite(rows).any(axis=0)
            if kept.any():
                at = step[step > 0][kept]
                panels[-1].plot(at, np.nanmedian(rows[:, kept], axis=0), color=colour, label=f"{across} {x:g}" if across else None)
                panels[-1].fill_between(at, np.nanmin(rows[:, kept], 0), np.nanmax(rows[:, kept], 0), color=colour, alpha=0.15, linewidth=0)
        panels[-1].set(xlabel="iteration", ylabel=label)
        log_axis(panels[-1].xaxis)
        for panel in panels:
            if positive:
                log_axis(panel.yaxis)
            panel.grid(which="major", color="0.9", linewidth=0.5)
            panel.set_axisbelow(True)
            handles, names = panel.get_legend_handles_labels()
            if 1 < len(handles) <= 24:
                form: dict[str, Any] = dict(loc="upper center", bbox_to_anchor=(0.5, -0.2), title="median of runs; band: least to largest")
                panel.legend(handles, names, fontsize=5.5, title_fontsize=6, ncols=2 + len(handles) // 9, **form)
    return figure
