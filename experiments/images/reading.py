"""The rows of digits in their proportions, and the figures."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualebm.spaces import Euclidean
from experiments import _common
from experiments.images.training import JARZYNSKI, Settings, picture


def bits(cross_entropy: float, space: Euclidean, x: np.ndarray) -> float:
    """Returns a cross-entropy to the base measure, in nat an image, as bits a pixel to Lebesgue measure, over points (n, d).

    >>> round(bits(0.0, Euclidean(2), np.zeros((1, 2))), 4)  # log2 sqrt(2 pi)
    1.3257
    """
    return (cross_entropy - float(np.mean(np.asarray(space.log_base(jnp.asarray(x)))))) / (space.dimension * math.log(2))


def errors_of(masses: np.ndarray, wanted) -> np.ndarray:
    """Returns the largest difference to the masses that are wanted, of each row.

    >>> errors_of(np.array([[0.5, 0.5], [0.25, 0.75]]), [0.5, 0.5]).tolist()
    [0.0, 0.25]
    """
    return np.max(np.abs(masses - np.asarray(wanted)[None]), axis=-1)


def row_of(settings: Settings, label: str, seed: int, results: xarray.Dataset, entropies: dict[str, float], seconds: float) -> dict:
    """Returns a row: masses at the end, their error then and over the last quarter, cross-entropies, walkers that count, seconds."""
    masses = results.masses.values
    errors = errors_of(masses, settings.masses)
    late = errors[-max(settings.records // 4, 1) :].mean()
    weighted = {}
    if label == JARZYNSKI:
        weighted = {name: float(results[name].values[-1]) for name in ("train", "held_out", "effective", "resamplings")}
        weighted |= dict(error=float(results.log_partition.values[-1, 1]), median_effective=float(np.nanmedian(results.effective.values)))
    names = ("train", "held_out", "error", "effective", "median_effective", "resamplings")
    return dict(
        method=label, seed=seed, **{f"mass_{c}": float(m) for c, m in zip(settings.classes, masses[-1], strict=True)},
        mass_error=float(errors[-1]), late_mass_error=float(late), **{name: weighted.get(name) for name in names}, **entropies,
        seconds=seconds,
    )  # fmt: skip


def samples_figure(shape, shown: dict[str, np.ndarray]) -> Figure:
    """Draws a panel of images for each label."""
    figure, (panels,) = _common.panels_of(1, len(shown), 2.6)
    for panel, (label, rows) in zip(panels, shown.items(), strict=True):
        panel.imshow(picture(rows, shape), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(label)
        panel.axis("off")
    return figure


def training_figure(settings: Settings, results: dict[str, list[xarray.Dataset]]) -> Figure:
    """Draws masses of both methods against iterations above; cross-entropy and effective fraction of Jarzynski below."""
    figure, panels = _common.panels_of(2, 2, 4.6, sharex=True)
    for panel, (label, runs) in zip(panels[0], results.items(), strict=True):
        for i, (digit, wanted) in enumerate(zip(settings.classes, settings.masses, strict=True)):
            panel.axhline(wanted, color=_common.look(i)["color"], linestyle=":", linewidth=0.9)
            for j, one in enumerate(runs):
                form: dict[str, Any] = _common.look(i) | dict(markevery=(2 * i, 8), alpha=1 if j == 0 else 0.5)
                panel.plot(one.step.values, one.masses.values[:, i], label=None if j else f"digit {digit}", **form)
        handles, names = panel.get_legend_handles_labels()
        handles, names = [*handles, Line2D([], [], color="black", linestyle=":", linewidth=0.9)], [*names, "data"]
        panel.legend(handles, names, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.08), columnspacing=0.8, handletextpad=0.3)
        panel.set(title=f"{label}, masses of the digits", ylabel="mass", ylim=(0, 1))
    entropy, effective = panels[1]
    for j, one in enumerate(results[JARZYNSKI]):
        alpha, error = 1 if j == 0 else 0.5, 2 * one.log_partition.values[:, 1]
        for i, (name, text) in enumerate({"train": "training images", "held_out": "held-out images"}.items()):
            form = dict(color=_common.look(i)["color"], linestyle=("-", "--")[i], alpha=alpha)
            entropy.plot(one.step.values, one[name].values, label=None if j else text, **form)
            low, high = one[name].values - error, one[name].values + error
            entropy.fill_between(one.step.values, low, high, color=form["color"], alpha=0.2, linewidth=0)
        form = _common.look(0) | dict(markevery=4, alpha=alpha)
        effective.plot(one.step.values, one.effective.values, label=None if j else "mean since the last record", **form)
    entropy.set(title=f"{JARZYNSKI}, by the walkers (band: 2 standard errors)", ylabel="cross-entropy to the base (nat)")
    effective.axhline(settings.threshold, color="black", linestyle=":", linewidth=0.9, label="resampled below")
    effective.set(title=f"{JARZYNSKI}, walkers that count", ylabel="effective fraction", ylim=(0, 1.05))
    for panel in panels[1]:
        panel.set_xlabel("iteration")
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure
