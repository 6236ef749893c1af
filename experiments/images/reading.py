"""The rows of digits in their proportions, and the figures."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.spaces import Euclidean
from experiments import _common
from experiments.images.sets import Images
from experiments.images.training import JARZYNSKI, Settings, picture

WEIGHTED = ("train", "held_out", "error", "effective", "median_effective", "resamplings")
"""Columns of a row that only walkers with weights have."""

OF_ENERGY = (
    "annealed_train", "annealed_held_out", "annealed_error", "bits", "last_train", "last_held_out", "last_error", "trusted", "last_size",
    "lag",
)  # fmt: skip
"""Columns of a row that the last energy gives."""


def bits(cross_entropy: float, space: Euclidean, x: np.ndarray, log_volume: float = 0.0) -> float:
    """Returns a cross-entropy to the base measure, in nat an image, as bits a pixel to Lebesgue measure, over points (n, d).

    Args:
        cross_entropy: The cross-entropy.
        space: The space of the points.
        x: The points.
        log_volume: The log of the volume in pixels of a unit volume of points.

    >>> round(bits(0.0, Euclidean(2), np.zeros((1, 2))), 4)  # log2 sqrt(2 pi)
    1.3257
    """
    nats = cross_entropy - float(np.mean(np.asarray(space.log_base(jnp.asarray(x))))) + log_volume
    return nats / (space.dimension * math.log(2))


def masses_row(settings: Settings, masses: np.ndarray, name: str) -> dict[str, float]:
    """Returns the masses of the digits and the largest error as columns, whose names begin with `name`.

    >>> masses_row(Settings(classes=(2, 3), masses=(0.5, 0.5)), np.array([0.75, 0.25]), "mass")
    {'mass_2': 0.75, 'mass_3': 0.25, 'mass_error': 0.25}
    """
    each = {f"{name}_{c}": float(mass) for c, mass in zip(settings.classes, masses, strict=True)}
    return each | {f"{name}_error": float(errors_of(masses[None], settings.masses)[0])}


def errors_of(masses: np.ndarray, wanted) -> np.ndarray:
    """Returns the largest difference to the masses that are wanted, of each row.

    >>> errors_of(np.array([[0.5, 0.5], [0.25, 0.75]]), [0.5, 0.5]).tolist()
    [0.0, 0.25]
    """
    return np.max(np.abs(masses - np.asarray(wanted)[None]), axis=-1)


def row_of(settings: Settings, label: str, seed: int, results: xarray.Dataset, last: dict[str, Any], seconds: float) -> dict:
    """Returns the row of a method: masses at the end, their error over the last quarter, walkers that count, and what `last` says.

    `last` holds the columns `OF_ENERGY` and the masses of fresh samples of the last energy.
    """
    masses, errors = results.masses.values, errors_of(results.masses.values, settings.masses)
    late = errors[-max(settings.records // 4, 1) :].mean()
    weighted = {}
    if label == JARZYNSKI:
        weighted = {name: float(results[name].values[-1]) for name in ("train", "held_out", "effective", "resamplings")}
        weighted |= dict(error=float(results.log_partition.values[-1, 1]), median_effective=float(np.nanmedian(results.effective.values)))
    steps = results.steps.values[1:]
    share, moves = (None, settings.moves) if np.isnan(steps).all() else np.median(steps, axis=0)[:2].tolist()
    return dict(
        method=label, seed=seed, **masses_row(settings, masses[-1], "mass"),
        late_mass_error=float(late), worst_mass_error=float(errors.max()),
        **{name: weighted.get(name) for name in WEIGHTED}, median_share=share, median_moves=moves, **last, chosen="", seconds=seconds,
    )  # fmt: skip


def rival_row(settings: Settings, name: str, seed: int, held_out: float | None, masses: np.ndarray, chosen: str) -> dict:
    """Returns the row of a density that is no energy, or of held-out images: its cross-entropy is exact, its masses are of draws."""
    none: dict[str, Any] = dict.fromkeys(("late_mass_error", "worst_mass_error", *WEIGHTED, "median_share", "median_moves", *OF_ENERGY))
    none |= dict(last_held_out=held_out, last_error=None if held_out is None else 0.0)
    own = masses_row(settings, masses, "model_mass")
    return dict(
        method=name, seed=seed, **dict.fromkeys(masses_row(settings, masses, "mass")), **none, **own, chosen=chosen, seconds=None
    )  # fmt: skip


def samples_figure(shape, shown: dict[str, np.ndarray]) -> Figure:
    """Draws a panel of images for each label, three in a row."""
    lines = -(-len(shown) // 3)
    figure, panels = _common.panels_of(lines, 3, 2.6 * lines)
    for panel in panels.flat:
        panel.axis("off")
    for panel, (label, rows) in zip(panels.flat, shown.items(), strict=False):
        panel.imshow(picture(rows, shape), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(label)
    return figure


def chains_figure(known: Images, results: dict[str, xarray.Dataset], count: int = 9) -> Figure:
    """Draws the walkers in the first places along each training: a panel for each method, a line for each place, a column for a record."""
    figure, (panels,) = _common.panels_of(1, len(results), 2.6)
    for panel, (label, one) in zip(panels, results.items(), strict=True):
        records = np.linspace(0, one.step.size - 1, min(count, one.step.size)).round().astype(int)
        places = np.swapaxes(one.followed.values[records], 0, 1)
        rows = np.asarray(known.pixels(places.reshape(-1, places.shape[-1])))
        panel.imshow(picture(rows, known.shape, columns=len(records)), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(label)
        panel.axis("off")
    return figure


def training_figure(settings: Settings, results: dict[str, list[xarray.Dataset]]) -> Figure:
    """Draws masses of each method against iterations above; below what the weights of Jarzynski say, and what a training adapts."""
    adapts = settings.target is not None
    figure, panels = _common.panels_of(3 if adapts else 2, 3, 6.6 if adapts else 4.6, sharex=True)
    for panel, (label, runs) in zip(panels[0], results.items(), strict=True):
        for i, (digit, wanted) in enumerate(zip(settings.classes, settings.masses, strict=True)):
            panel.axhline(wanted, color=_common.look(i)["color"], linestyle=":", linewidth=0.9)
            for j, one in enumerate(runs):
                form: dict[str, Any] = _common.look(i) | dict(markevery=(2 * i, 8), alpha=1 if j == 0 else 0.5)
                panel.plot(one.step.values, one.masses.values[:, i], label=None if j else f"digit {digit}", **form)
        panel.set(title=label, ylabel="mass among the walkers", ylim=(0, 1))
    panels[0][0].legend(ncols=len(settings.classes), loc="upper right", columnspacing=0.8, handletextpad=0.3)
    entropy, effective, resamplings = panels[1]
    for j, one in enumerate(results[JARZYNSKI]):
        alpha, error = 1 if j == 0 else 0.5, 2 * one.log_partition.values[:, 1]
        for i, (name, text) in enumerate({"train": "training images", "held_out": "held-out images"}.items()):
            form = dict(color=_common.look(i)["color"], linestyle=("-", "--")[i], alpha=alpha)
            entropy.plot(one.step.values, one[name].values, label=None if j else text, **form)
            low, high = one[name].values - error, one[name].values + error
            entropy.fill_between(one.step.values, low, high, color=form["color"], alpha=0.2, linewidth=0)
        form = _common.look(0) | dict(markevery=4, alpha=alpha)
        effective.plot(one.step.values, one.effective.values, label=None if j else "mean since the last record", **form)
        resamplings.plot(one.step.values, one.resamplings.values, **form)
    entropy.set(title=f"{JARZYNSKI}, by the walkers", ylabel="cross-entropy to the base (nat)")
    entropy.legend()
    effective.axhline(settings.threshold, color="black", linestyle=":", linewidth=0.9, label="resampled below")
    effective.set(title=f"{JARZYNSKI}, walkers that count", ylabel="effective fraction", ylim=(0, 1.05))
    effective.legend()
    resamplings.set(title=f"{JARZYNSKI}, resamplings so far", ylabel="resamplings", ylim=(0, None))
    if adapts:
        words = ("share of the learning rate", "moves of a walker", "factor of the particle step")
        for k, (panel, text) in enumerate(zip(panels[2], words, strict=True)):
            for i, (label, runs) in enumerate(results.items()):
                for j, one in enumerate(runs):
                    form = _common.look(i) | dict(markevery=(2 * i, 8), alpha=1 if j == 0 else 0.5)
                    panel.plot(one.step.values, one.steps.values[:, k], label=None if j else label, **form)
            panel.set(ylabel=text, ylim=(0, None))
        panels[2][0].set_ylim(0, 1.1)
        panels[2][0].legend()
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    return figure
