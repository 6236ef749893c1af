"""Cells of a space, for equations on a grid: centres, volumes, and the faces between neighbours.

On the circle and on the torus of one dimension the cells are equal arcs. On S^2 they are the Voronoi cells of a Fibonacci
lattice. Their faces are perpendicular to the arcs between the centres, so that a difference along an arc gives the flux through
the face. The cells are made once on the host, in NumPy float64.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from dualebm._internal import checks
from dualebm.base_measures import Uniform
from dualebm.geometry import ParameterSpace, Space
from dualebm.spaces import Sphere


class Cells(NamedTuple):
    """The cells of a space and the faces between them.

    Args:
        centres: the centres, (K, d).
        shares: the shares of the cells in the volume of the space, (K,). They sum to 1.
        first: the index of the cell on one side of each face, (E,).
        second: the index of the cell on the other side, (E,).
        conductance: length of the face / (distance of the centres * volume of the space), (E,). The flux of a density
            through a face is the conductance times the difference of the density.
    """

    centres: np.ndarray
    shares: np.ndarray
    first: np.ndarray
    second: np.ndarray
    conductance: np.ndarray


@functools.lru_cache(maxsize=8)
def cells(space: ParameterSpace, count: int) -> Cells:
    """Returns `count` cells of a space, which is a circle or S^2.

    Raises:
        ValueError: when the space is none of Sphere(2), Torus(1) and Sphere(3) with the base `Uniform()`, or when
            `count` is no integer of at least 4.

    >>> grid = cells(Sphere(3), 100)
    >>> grid.centres.shape, round(float(grid.shares.sum()), 12), len(grid.first)  # 3 faces a cell less 6
    ((100, 3), 1.0, 294)
    """
    checks.count("count", count, 4)
    if isinstance(space, Space) and space.base != Uniform():
        raise ValueError(f"space is {space}; cells have the masses of the base Uniform(), which is the only one allowed")
    if isinstance(space, Space) and (length := space.circumference) is not None:
        first = np.arange(count)
        conductance = np.full(count, count / length**2)  # 1 / (distance * circumference), for a face of length 1
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
    """Returns the angle between unit vectors, precise for small angles too."""
    return 2 * np.arcsin(np.minimum(np.linalg.norm(x - y, axis=1) / 2, 1))
