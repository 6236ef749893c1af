"""The equal-area (Mollweide) map of S^2."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from dualebm._internal import checks

BOX: dict[str, Any] = dict(facecolor="white", alpha=0.6, linewidth=0, pad=0.6)
"""The box behind words on a map."""

Points = Float[Array | np.ndarray, "N d"]


def map_points(rows: int, view: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of S^2 at the pixels of a Mollweide map, and which pixels lie in its ellipse.

    The projection preserves areas: a mean over the pixels inside is an integral over the uniform measure. Row 0 is the south, and the
    longitude grows to the right from -pi to pi.

    Args:
        rows: the number of rows of pixels, at least 2. There are twice as many columns.
        view: the directions, as the rows of an orthonormal matrix (3, 3), that appear in the centre of the map, at longitude pi/2 on the
            equator, and in the north. None for the identity.

    Returns:
        The points, (rows, 2 rows, 3), and the booleans, (rows, 2 rows).

    Raises:
        ValueError: there are too few rows, or the rows of the view are not orthonormal.

    >>> points, inside = map_points(100)
    >>> bool(np.allclose((points[inside] ** 2).mean(axis=0), 1 / 3, atol=1e-3))
    True
    """
    checks.count("rows", rows, 2)
    y = (2 * np.arange(rows)[:, None] + 1) / rows - 1
    x = (2 * np.arange(2 * rows)[None, :] + 1) / (2 * rows) - 1
    inside = x**2 + y**2 <= 1
    half_width = np.sqrt(1 - y**2)
    angle = np.arcsin(y)
    sine = (2 * angle + np.sin(2 * angle)) / np.pi
    longitude = np.pi * np.clip(x / half_width, -1, 1)  # pixels beyond the edge take the value of the edge, and the ellipse cuts them
    cosine = np.sqrt(1 - sine**2)
    points = np.stack([cosine * np.cos(longitude), cosine * np.sin(longitude), sine + 0 * x], axis=-1)
    return points @ _rotation(view), inside


def map_position(x: Points, view: np.ndarray | None = None) -> np.ndarray:
    """Return the positions of points of S^2 on the map of `map_points` with the same view.

    The map is the ellipse |horizontal| <= 2, |vertical| <= 1.

    Args:
        x: the points, (N, 3).
        view: the view, (3, 3), as for `map_points`.

    Returns:
        The horizontal and vertical positions, (N, 2).

    >>> map_position(np.eye(3)).round(3).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    a, b, c = (np.asarray(x, float) @ _rotation(view).T).T
    table = np.linspace(-np.pi / 2, np.pi / 2, 4001)
    angle = np.interp(c, (2 * table + np.sin(2 * table)) / np.pi, table)
    return np.stack([2 * np.arctan2(b, a) / np.pi * np.cos(angle), np.sin(angle)], axis=1)


def _rotation(view):
    """Return `view` as a checked rotation. None is the identity: the x axis in the centre, the z axis in the north."""
    if view is None:
        return np.eye(3)
    view = np.asarray(view, float)
    if view.shape != (3, 3) or not np.allclose(view @ view.T, np.eye(3), atol=1e-5):
        raise ValueError(f"view is {view.tolist()}; it must be (3, 3) with orthonormal rows, as `view_of` returns")
    return view


def view_of(directions: Points) -> np.ndarray:
    """Return the view with the mean of directions in the centre of the map and their spread along its equator.

    Args:
        directions: the directions, (N, 3), of any length but 0.

    Returns:
        The view, (3, 3).

    >>> map_position(np.eye(3)[:2], view_of(np.eye(3)[:2])).round(6)[:, 1].tolist()
    [0.0, 0.0]
    """
    directions = np.asarray(directions, float)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    centre = directions.mean(axis=0)
    if np.linalg.norm(centre) < 1e-6:
        centre = directions[0]
    centre = centre / np.linalg.norm(centre)
    spread = directions - np.outer(directions @ centre, centre)
    _, _, axes = np.linalg.svd(np.vstack([1e3 * len(directions) * centre, spread]))
    east = axes[1] - (axes[1] @ centre) * centre
    east /= np.linalg.norm(east)
    return np.stack([centre, east, np.cross(centre, east)])


def draw_graticule(panel) -> None:
    """Draw parallels every 30 degrees and meridians every 60 on a map.

    Args:
        panel: the axes of Matplotlib that hold the map.
    """
    form: dict[str, Any] = dict(color="0.55", linewidth=0.3, zorder=1.5)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 91)
    for longitude in np.radians([-120, -60, 0, 60, 120]):
        circle = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
        panel.plot(*map_position(np.stack(circle, axis=1)).T, **form)
    for height in map_position(np.array([[0, 0, np.sin(a)] for a in np.radians([-60, -30, 0, 30, 60])]))[:, 1]:
        edge = 2 * np.sqrt(1 - height**2)
        panel.plot([-edge, edge], [height, height], **form)


def label_degrees(panel) -> None:
    """Label the meridians of the graticule along the equator, and its parallels at the left edge, in degrees.

    Args:
        panel: the axes of Matplotlib that hold the map.
    """
    form: dict[str, Any] = dict(fontsize=5.5, color="0.3", zorder=3.5)
    for degrees in (-120, -60, 0, 60, 120):
        text = f"{abs(degrees)}°{'W' if degrees < 0 else 'E'}" if degrees else "0°"
        panel.text(degrees / 90, -0.015, text, ha="center", va="top", bbox=BOX, **form)
    for degrees in (-60, -30, 0, 30, 60):
        (x, y), angle = map_position(_on_edge(degrees))[0], np.radians(degrees)
        text = f"{abs(degrees)}°{'S' if degrees < 0 else 'N'}" if degrees else "0°"
        panel.text(-abs(x) - 0.03, y + 0.03 * np.sin(angle), text, ha="right", va="center", **form)


def _on_edge(degrees):
    """Return the point of S^2 at a latitude in degrees on the left edge of the map, (1, 3)."""
    angle = np.radians(degrees)
    return np.array([[-np.cos(angle), -1e-9, np.sin(angle)]])


def label_axes(panel, names: Sequence[str]) -> None:
    """Mark the directions of the three axes of R^3, and the opposite ones, by the names of the coordinates.

    Args:
        panel: the axes of Matplotlib that hold the map.
        names: the three names.
    """
    for index, name in enumerate(names):
        for sign in (1, -1):
            x, y = map_position(sign * np.eye(3)[index : index + 1])[0]
            word = ("+" if sign > 0 else "\u2212") + name
            if index == 2:
                panel.text(0, 1.03 * sign, word, fontsize=6, color="0.3", ha="center", va="bottom" if sign > 0 else "top")
            elif index == 0 and sign < 0:
                panel.text(-2.03, 0, word, fontsize=6, color="0.3", ha="right", va="center")
            else:
                panel.plot(x, y, "+", color="0.3", markersize=4, zorder=3.5)
                panel.text(x, y - 0.03, word, fontsize=6, color="0.3", ha="center", va="top", bbox=BOX, zorder=3.5)
