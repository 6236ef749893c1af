"""Filled contours of a density on a grid. Each contour bounds the smallest region with a given share of the mass."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap

DENSITY_COLOURS = LinearSegmentedColormap.from_list("density", matplotlib.colormaps["Blues"](np.linspace(0, 0.8, 256)))
"""Colours from white to a blue on which black dots are seen. Their lightness falls evenly, so that they keep their order in grey."""

SHARES = (0.99, 0.9, 0.75, 0.5, 0.25, 0.1)
"""The shares of the mass that contours bound."""

FLAT = 1.02
"""The ratio of the largest to the smallest density up to which a density counts as constant."""


def thresholds(density: Float[np.ndarray, "*grid"], shares: Sequence[float] = SHARES) -> Float[np.ndarray, " K"]:
    """Return the densities t for which the places with a density of at least t hold given shares of the mass (Hyndman 1996).

    Args:
        density: the density at the middle of cells of equal size. Its sum need not be 1.
        shares: the K shares, between 0 and 1.

    Returns:
        The densities, one for each share.

    >>> thresholds(np.array([1.0, 6.0, 3.0]), [0.9, 0.6]).tolist()
    [3.0, 6.0]
    """
    ordered = np.sort(np.ravel(density))[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return ordered[np.minimum(np.searchsorted(held, np.asarray(shares) * (1 - 1e-9)), len(ordered) - 1)]


def fill(
    panel: Any, x: Float[np.ndarray, "r c"], y: Float[np.ndarray, "r c"], density: Float[np.ndarray, "r c"], inside: Any = None,
    shares: Sequence[float] = SHARES,
) -> Any:  # fmt: skip
    """Fill the regions of a density on a panel of Matplotlib, the densest one darkest.

    Args:
        panel: the panel.
        x: the first coordinates of the grid, whose cells have equal sizes.
        y: the second coordinates.
        density: the density at the middle of the cells.
        inside: which cells are on the map, (r, c). None for all.
        shares: the shares of the mass, from the largest to the smallest.

    Returns:
        The contours, for `bar`. None where the density is constant, and nothing is drawn.

    >>> from matplotlib.figure import Figure
    >>> x, y = np.meshgrid(np.linspace(-3, 3, 50), np.linspace(-3, 3, 50))
    >>> len(fill(Figure().subplots(), x, y, np.exp(-(x**2 + y**2) / 2)).levels)
    7
    """
    values = density if inside is None else density[inside]
    if values.max() <= FLAT * values.min():
        return None
    levels = thresholds(values, shares)
    levels = [*levels, max(values.max(), levels[-1]) * (1 + 1e-6)]
    for i in range(1, len(levels)):  # contours need levels that grow
        levels[i] = max(levels[i], levels[i - 1] * (1 + 1e-9) + 1e-300)
    colours = DENSITY_COLOURS(np.linspace(0.15, 1, len(shares)))
    filled = panel.contourf(x, y, density, levels=levels, colors=colours, zorder=1)
    panel.contour(x, y, density, levels=levels[:-1], colors="0.35", linewidths=0.25, zorder=1.1)
    return filled


def bar(figure: Any, panel: Any, filled: Any, unit: str, shares: Sequence[float] = SHARES) -> None:
    """Draw the colour bar of `fill`, which has the density at each contour and the share of the mass above it.

    Args:
        figure: the figure of Matplotlib.
        panel: the panel of the contours.
        filled: what `fill` has returned.
        unit: the unit of the density, such as "per steradian".
        shares: the shares of the mass that `fill` was given.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure(); panel = figure.subplots()
    >>> x, y = np.meshgrid(np.linspace(-3, 3, 50), np.linspace(-3, 3, 50))
    >>> bar(figure, panel, fill(panel, x, y, np.exp(-(x**2 + y**2) / 2), shares=[0.9, 0.5]), "per unit", [0.9, 0.5])
    >>> [label.get_text() for label in figure.axes[1].get_yticklabels()]
    ['0.1  (90%)', '0.5  (50%)']
    """
    drawn = figure.colorbar(filled, ax=panel, shrink=0.9, pad=0.02, spacing="uniform", aspect=18)
    ticks = filled.levels[:-1]
    drawn.set_ticks(ticks, labels=[f"{value:.2g}  ({share:.0%})" for value, share in zip(ticks, shares, strict=True)])
    drawn.set_label(f"density {unit} (share of the mass above it)")
    drawn.outline.set_linewidth(0.5)
