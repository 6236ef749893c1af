"""Adaptive quadrature of log Z on the circle and on S^2, for any energy and any base measure.

The space is covered by patches, which are images of the unit cube. The circle is one patch. S^2 is the six faces of a cube, projected from
its centre, with angles as coordinates. These charts are smooth everywhere, so that no point of the sphere is special, as the poles of
heights and azimuths are. Their cells are nearly square, and the areas of cells of one size differ by at most a factor of 1.42.

A cell is halved along each coordinate. Its error is the distance of the Gauss rule on the cell to the sum of the rules on its children.
Sums are made on the host in NumPy float64, and so are the points. An energy that knows its scales is evaluated in float64 too, because in
float32 a bump exp(k (<c, x> - 1)) has an error of about 1e-7 k in its exponent. Other energies and base measures may be functions of the
user's that allow one precision, and are evaluated in it.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dualebm.base_measures import FinePlaces
from dualebm.energies.base import Energy, precision_of
from dualebm.geometry import Space
from dualebm.settings import Count, NonNegative, checked

TOLERANCE = 1e-4
"""The estimated error of log Z, in nats, at which the refinement ends."""

LARGEST_COUNT = 4_000_000
"""The largest number of evaluations of the energy."""

LARGEST_WORK = 2**35
"""The largest number of evaluations times parameters of the energy, and of the fine places of the base measure."""

BATCH = 2**15
"""The number of points that one program evaluates."""

ORDER = 3
"""The number of Gauss nodes along each coordinate of a cell."""

SMALLEST_SIDE = 2.0**-40
"""The side of the smallest cells, in the unit cube."""

SEED_SIDE, SEED_REACH = 4.0, 3.0
"""Cells within `SEED_REACH` lengths of a fine place are split until their side is at most `SEED_SIDE` lengths."""

GAUSS = np.polynomial.legendre.leggauss(ORDER)


class Patches(NamedTuple):
    """The charts of a space.

    Args:
        count: the number of patches.
        start: the number of cells along a coordinate with which the refinement starts.
        volume: the length of the circle, or the area of the sphere.
        side: the length of a side of a patch.
        embed: maps patches, (n,), and coordinates, (n, k), to points, (n, d), and the log density of the uniform measure, (n,).
        coordinates: k, the number of coordinates.
    """

    count: int
    start: int
    volume: float
    side: float
    embed: Callable
    coordinates: int


def _sphere_patch(patch: Int[np.ndarray, " n"], u: Float[np.ndarray, "n k"]):
    """Return points of S^2 on the faces of a cube, and the log of dx / (4 pi du) (Ronchi, Iacono, Paolucci 1996)."""
    t = np.tan(0.5 * np.pi * (u - 0.5))
    square = 1 + np.sum(t**2, axis=1)
    direction = np.concatenate([np.ones((len(u), 1)), t], axis=1) / np.sqrt(square)[:, None]
    columns = (np.arange(3)[None] - (patch % 3)[:, None]) % 3
    points = (1 - 2 * (patch // 3))[:, None] * np.take_along_axis(direction, columns, axis=1)
    return points, math.log(np.pi / 16) + np.sum(np.log1p(t**2), axis=1) - 1.5 * np.log(square)


@checked
def patches_of(space: Space) -> Patches | None:
    """Return the charts of a circle and of S^2, and None for other spaces.

    Args:
        space: the space.

    Returns:
        The charts, or None.

    >>> from dualebm.spaces import Sphere
    >>> patches_of(Sphere(3)).count, patches_of(Sphere(4))
    (6, None)
    """
    if space.circumference is not None:

        def circle(patch, u):
            angle = 2 * np.pi * u
            points = space.unit * angle if space.periodic else np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
            return points, np.zeros(len(patch))

        return Patches(1, 1024, space.circumference, space.circumference, circle, 1)
    if space.mean_curvature == 2:
        return Patches(6, 32, 4 * math.pi, 0.5 * math.pi, _sphere_patch, 2)
    return None


class Quadrature(NamedTuple):
    """The result of an adaptive quadrature.

    Args:
        value: log Z, in nats.
        error: its estimated error, in nats. It is the sum of the errors of the cells, and so an upper bound in most cases.
        nodes: the number of evaluations of the energy.
        mean_energy: E U under the model.
        known_scales: whether the energy and the base measure know where they are finest.
    """

    value: float
    error: float
    nodes: int
    mean_energy: float
    known_scales: bool


class _Cells(NamedTuple):
    """Cells with the logs of the integrals over each by one rule, (n,), and over its children, (n, 2^k), whose mean energies are beside."""

    patch: Int[np.ndarray, " n"]
    corner: Float[np.ndarray, "n k"]
    side: Float[np.ndarray, " n"]
    coarse: Float[np.ndarray, " n"]
    fine: Float[np.ndarray, "n c"]
    energy: Float[np.ndarray, "n c"]


@eqx.filter_jit
def _log_integrand(energy, space, x):
    values = energy(x)
    return jnp.stack([space.log_base(x) - values, values])


class _Integrand:
    """The log of exp(-U) tau and U at points and over cells. It counts evaluations and notes whether U was 0 at all points."""

    def __init__(self, energy: Energy, space: Space, patches: Patches, dtype: np.dtype):
        self.energy = jax.tree.map(lambda a: np.asarray(a, dtype) if eqx.is_inexact_array(a) else a, energy)
        self.dtype, self.space, self.patches, self.nodes, self.zero = dtype, space, patches, 0, True

    def at(self, points: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return the logs and U at points, in batches of one size."""
        found = np.empty((2, len(points)))
        for start in range(0, len(points), BATCH):
            part = points[start : start + BATCH]
            full = np.concatenate([part, np.broadcast_to(part[:1], (BATCH - len(part), part.shape[1]))])
            found[:, start : start + BATCH] = _log_integrand(self.energy, self.space, full.astype(self.dtype))[:, : len(part)]
        self.nodes += len(points)
        self.zero = self.zero and not found[1].any()
        return found[0], found[1]

    def over(self, patch, corner, side) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return the logs of the integrals over cells by the Gauss rule, and the mean energies of the model in them."""
        k = self.patches.coordinates
        offset = np.stack(np.meshgrid(*[0.5 * (GAUSS[0] + 1)] * k, indexing="ij"), axis=-1).reshape(-1, k)
        weight = np.prod(np.stack(np.meshgrid(*[0.5 * GAUSS[1]] * k, indexing="ij"), axis=-1).reshape(-1, k), axis=1)
        each, (logs, means) = len(offset), np.empty((2, len(patch)))
        for start in range(0, len(patch), 2**17):
            part = slice(start, start + 2**17)
            u = corner[part, None] + side[part, None, None] * offset[None]
            points, density = self.patches.embed(np.repeat(patch[part], each), u.reshape(-1, k))
            values, energies = self.at(points)
            values = (values + density).reshape(-1, each)
            top = np.max(values, axis=1, keepdims=True)
            top = np.where(np.isfinite(top), top, 0)
            with np.errstate(divide="ignore"):
                shares = np.exp(values - top) * weight
                total = np.sum(shares, axis=1)
                logs[part] = top[:, 0] + np.log(total) + k * np.log(side[part])
            held = np.where(shares > 0, energies.reshape(-1, each), 0)
            means[part] = np.sum(shares * held, axis=1) / np.maximum(total, np.finfo(float).tiny)
        return logs, means


def _children(patch, corner, side):
    """Return the children of cells: their patches, corners and sides, with the children of a cell in a row."""
    k = corner.shape[1]
    steps = np.array(list(itertools.product((0.0, 0.5), repeat=k)))
    corners = corner[:, None] + side[:, None, None] * steps[None]
    return np.repeat(patch, 2**k), corners.reshape(-1, k), np.repeat(0.5 * side, 2**k)


def _cells(integrand, patch, corner, side, coarse) -> _Cells:
    fine, energy = (values.reshape(len(patch), -1) for values in integrand.over(*_children(patch, corner, side)))
    return _Cells(patch, corner, side, coarse, fine, energy)


def _split(integrand, cells: _Cells, chosen) -> _Cells:
    """Return the cells with the chosen ones replaced by their children."""
    patch, corner, side = _children(cells.patch[chosen], cells.corner[chosen], cells.side[chosen])
    new = _cells(integrand, patch, corner, side, cells.fine[chosen].ravel())
    return _Cells(*(np.concatenate([old[~chosen], fresh]) for old, fresh in zip(cells, new, strict=True)))


def _work(patches: Patches) -> int:
    """Return the number of evaluations that splitting a cell takes."""
    return (4 * ORDER) ** patches.coordinates


def _start(integrand) -> _Cells:
    patches = integrand.patches
    index = np.indices((patches.count, *[patches.start] * patches.coordinates)).reshape(1 + patches.coordinates, -1)
    corner, side = index[1:].T / patches.start, np.full(index.shape[1], 1 / patches.start)
    return _cells(integrand, index[0], corner, side, integrand.over(index[0], corner, side)[0])


def _centres(space, patches, cells):
    return _on_circle(space, patches.embed(cells.patch, cells.corner + 0.5 * cells.side[:, None])[0])


def _on_circle(space, points):
    """Return points in coordinates in which near points have near coordinates."""
    if not space.periodic:
        return points
    angle = points / space.unit
    return space.unit * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _seeded(integrand, cells: _Cells, places: FinePlaces, budget: int, tolerance: float) -> tuple[_Cells, float]:
    """Return cells that resolve the fine places whose neighbourhood holds a share of Z that matters, and the log of the other shares.

    Places that the budget does not resolve count among the others.

    The share of a place is at most the measure of the ball of three lengths times the largest integrand in it. That is estimated by the
    integrand at the place, and around it by the mean of the cell that holds the place.
    """
    from scipy.spatial import KDTree

    space, patches = integrand.space, integrand.patches
    points, lengths = places
    if not len(points):
        return cells, -math.inf
    k = patches.coordinates
    at, _ = integrand.at(points)
    points = _on_circle(space, points)
    log_cells = np.logaddexp.reduce(cells.fine, axis=1)
    nearest = KDTree(_centres(space, patches, cells)).query(points)[1]
    around = log_cells[nearest] + k * math.log(patches.start) + math.log(patches.count)
    measure = np.minimum(k * math.log(2 * SEED_REACH) + k * np.log(lengths) - math.log(patches.volume), 0)
    share = measure + np.maximum(at, around)
    kept = ~(share < np.logaddexp.reduce(log_cells) + math.log(0.1 * tolerance / len(points)))
    other = float(np.logaddexp.reduce(share[~kept], initial=-np.inf))
    points, lengths, share = points[kept], lengths[kept], share[kept]
    while True:
        centres, chosen, coarse = _centres(space, patches, cells), np.zeros(len(cells.patch), bool), np.zeros(len(points), bool)
        for side in np.unique(cells.side):
            length = side * patches.side
            wanting, level = length > SEED_SIDE * lengths, np.flatnonzero(cells.side == side)
            if wanting.any() and side > SMALLEST_SIDE:
                reach = SEED_REACH * lengths[wanting] + 0.75 * length
                near = KDTree(centres[level]).query_ball_point(points[wanting], reach)
                chosen[level[np.unique(np.concatenate([np.asarray(cell, int) for cell in near]))]] = True
                coarse[wanting] |= np.array([bool(cell) for cell in near])
        if not chosen.any() or integrand.nodes + _work(patches) * np.sum(chosen) > budget:
            return cells, float(np.logaddexp.reduce(share[coarse], initial=other))
        cells = _split(integrand, cells, chosen)


def fine_places(energy: Energy, space: Space) -> FinePlaces | None:
    """Return where the integrand exp(-U) tau has its smallest scales.

    Args:
        energy: U.
        space: the space, with its base measure tau.

    Returns:
        Points, (K, d), and lengths, (K,), or None where the energy or the base measure does not know them.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import Bump; from dualebm.spaces import Sphere
    >>> energy = Shallow(Bump(Sphere(3), 100.0), jnp.eye(1, 3), jnp.ones(1))
    >>> fine_places(energy, Sphere(3))[1].tolist()
    [0.1]
    """
    of_energy, of_base = energy.finest(), space.base.finest(space)
    if of_energy is None or of_base is None:
        return None
    return np.concatenate([of_energy[0], of_base[0]]), np.concatenate([of_energy[1], of_base[1]])


def largest_count(energy: Any, count: int) -> int:
    """Return the largest number of evaluations of an energy: fewer for an energy of many parameters.

    Args:
        energy: the energy, a pytree.
        count: the largest number for any energy.

    Returns:
        `count`, or `LARGEST_WORK` divided by the number of parameters where that is smaller.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> largest_count(Shallow(ReLU(), jnp.zeros((2**13, 3)), jnp.zeros(2**13)), 2**22) == 2**20
    True
    """
    return min(count, LARGEST_WORK // max(sum(np.size(leaf) for leaf in jax.tree.leaves(energy)), 1))


def _budget(energy: Energy, space: Space, count: int) -> int:
    """Return the largest number of evaluations. One of a kernel density estimate takes as long as its centres are many."""
    places = space.base.finest(space)
    return largest_count(energy, count) if places is None else largest_count((energy, places), count)


@checked
def suits(energy: Energy, space: Space) -> bool:
    """Tell whether the space has patches, and the energy and the base measure are cheap enough for the cells of the start.

    Args:
        energy: U.
        space: the space, with its base measure.

    Returns:
        True where adaptive quadrature can be used.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> suits(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Sphere(3)), suits(Shallow(ReLU(), jnp.eye(4), jnp.zeros(4)), Sphere(4))
    (True, False)
    """
    patches = patches_of(space)
    if patches is None:
        return False
    start = patches.count * (patches.start * ORDER) ** patches.coordinates * (1 + 2**patches.coordinates)
    return start <= _budget(energy, space, LARGEST_COUNT)


@checked
def log_partition(energy: Energy, space: Space, tolerance: NonNegative = TOLERANCE, count: Count = LARGEST_COUNT) -> Quadrature:
    """Return log Z = log of the integral of exp(-U) tau by adaptive quadrature.

    The cells with the largest errors are split until the sum of all errors is at most the tolerance, relative to Z. Where the energy and
    the base measure know their fine places, the cells there are split first, so that no narrow bump lies between nodes. An energy
    that is 0 at every node has log Z = 0, because the base measure is a probability measure.

    Args:
        energy: the energy U.
        space: a circle or S^2, with its base measure tau.
        tolerance: the error of log Z at which the refinement ends, in nats.
        count: the largest number of evaluations. It is smaller for energies of many parameters (see `largest_count`).

    Returns:
        The quadrature. Its error exceeds the tolerance where the evaluations did not suffice.

    Raises:
        ValueError: for another space.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import Bump; from dualebm.spaces import Sphere
    >>> energy = Shallow(Bump(Sphere(3), 1e4), jnp.eye(1, 3), jnp.array([-8.0]))
    >>> round(log_partition(energy, Sphere(3)).value, 4)  # log E exp(8 exp(1e4 (t - 1))) with t uniform in [-1, 1]
    0.0217
    """
    patches = patches_of(space)
    if patches is None:
        raise ValueError(f"space is {space}; allowed: a circle, which is Torus(1) or Sphere(2), and S^2, which is Sphere(3)")
    budget, places = _budget(energy, space, count), fine_places(energy, space)
    dtype = precision_of(energy) if places is None else np.dtype(np.float64)
    with jax.enable_x64(dtype.itemsize == 8):
        integrand = _Integrand(energy, space, patches, dtype)
        cells, other = _start(integrand), -math.inf
        if places is not None:
            cells, other = _seeded(integrand, cells, places, budget, tolerance)
        while True:
            top = np.max(cells.fine)
            sums = np.sum(np.exp(cells.fine - top), axis=1)
            errors = np.abs(sums - np.exp(cells.coarse - top))
            total, error = float(np.sum(sums)), float(np.sum(errors)) + math.exp(min(other - top, 700))
            room = (budget - integrand.nodes) // _work(patches)
            if room < 1 or not error > tolerance * total:
                break
            chosen = np.zeros(len(errors), bool)
            order = np.argsort(errors)
            rest = np.searchsorted(np.cumsum(errors[order]), 0.25 * tolerance * total, side="right")
            chosen[order[max(rest, len(order) - room) :]] = True
            chosen &= cells.side > SMALLEST_SIDE
            if not chosen.any():
                break
            cells = _split(integrand, cells, chosen)
    if integrand.zero:
        return Quadrature(0.0, 0.0, integrand.nodes, 0.0, places is not None)
    mean_energy = float(np.sum(np.exp(cells.fine - top) * cells.energy)) / total
    return Quadrature(float(top) + math.log(total), error / total, integrand.nodes, mean_energy, places is not None)
