"""Cells of a space, for equations on a grid: centres, volumes, and the faces between neighbours.

On the circle and the torus of one dimension equal arcs; on S^2 the Voronoi cells of a Fibonacci lattice, whose faces are perpendicular to
the arcs between the centres, so that a difference over an arc is a flux through its face. Made on the host, in NumPy float64, once.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from dualebm._internal import checks
from dualebm.geometry import Space
from dualebm.spaces import Sphere


class Cells(NamedTuple):
    """centres (K, d); shares (K), of the volume, which sum to 1; for each face the cells `first` and `second` on its sides, (E), and its
    `conductance`: length / (distance of the centres x volume of the space), so that a density's flux is it times a difference."""

    centres: np.ndarray
    shares: np.ndarray
    first: np.ndarray
    second: np.ndarray
    conductance: np.ndarray


@functools.lru_cache(maxsize=8)
def cells(space: Space, count: int) -> Cells:
    """So many cells of a space. Raises ValueError for other spaces than Sphere(2), Torus(1) and Sphere(3), and for fewer than 4.

    >>> found = cells(Sphere(3), 100)
    >>> found.centres.shape, round(float(found.shares.sum()), 12), len(found.first)  # 3 faces a cell less 6
    ((100, 3), 1.0, 294)
    """
    checks.count("count", count, 4)
    length = space.circumference
    if length is not None:
        first = np.arange(count)
        conductance = np.full(count, count / length**2)  # 1 / (distance x circumference), with a face of length 1
        return Cells(space.equispaced(count), np.full(count, 1 / count), first, (first + 1) % count, conductance)
    if space != Sphere(3):
        raise ValueError(f"space is {space}; allowed: Sphere(2), Torus(1), Sphere(3)")
    from scipy.spatial import SphericalVoronoi

    height = 1 - (2 * np.arange(count) + 1) / count
    turn = math.pi * (1 + math.sqrt(5)) * np.arange(count)
    across = np.sqrt(1 - height**2)
    centres = np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)
    diagram = SphericalVoronoi(centres)
    diagram.sort_vertices_of_regions()
    sides: dict[tuple[int, int], list[int]] = {}
    for cell, region in enumerate(diagram.regions):
        for a, b in zip(region, region[1:] + region[:1], strict=True):
            sides.setdefault((min(a, b), max(a, b)), []).append(cell)
    faces = [(vertices, owners) for vertices, owners in sides.items() if len(owners) == 2]
    ends, owners = np.array([f[0] for f in faces]), np.array([f[1] for f in faces])
    length = _arc(diagram.vertices[ends[:, 0]], diagram.vertices[ends[:, 1]])
    distance = _arc(centres[owners[:, 0]], centres[owners[:, 1]])
    volumes = diagram.calculate_areas()
    return Cells(centres, volumes / volumes.sum(), owners[:, 0], owners[:, 1], length / distance / (4 * math.pi))


def _arc(x, y):
    """The angle between unit vectors, also small ones."""
    return 2 * np.arcsin(np.minimum(np.linalg.norm(x - y, axis=1) / 2, 1))
