"""Quadrature: log Z, mean energies and temperatures of any energy, without Monte Carlo error.

A quadrature of the base measure tau is `Samples(points, log_weights)` with E_tau g = sum_q p_q g(x_q), p = exp(log_weights). Nodes are
made on the host in NumPy float64 and cast at the end. The functions that use them are pure JAX.
"""

import itertools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from dualebm._internal import checks
from dualebm.base_measures import Gaussian, Uniform
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import Bound, Count, checked
from dualebm.spaces import Sphere

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e3
"""The range in which `effective_temperature` searches."""

BISECTIONS = 60
"""The number of halvings of the range in log T, more than float64 can resolve."""

NODES: dict[Space, int] = {Sphere(2): 2000, Sphere(3): 100}
"""The `nodes` of `sphere_quadrature` with which means of a fit are computed, on the spaces that have one."""

Scalar = Float[Array, ""] | float
Nodes = tuple[Float[np.ndarray, "Q d"], Float[np.ndarray, " Q"]]


def _samples(nodes: Nodes, dtype) -> Samples:
    points, log_weights = nodes
    return Samples(jnp.asarray(points.astype(dtype)), jnp.asarray(log_weights.astype(dtype)))


def _gauss_legendre(start: float, end: float, count: int):
    """Return nodes and weights of the `count`-point rule on [start, end]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * (end - start) * nodes + 0.5 * (end + start), 0.5 * (end - start) * weights


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    top = log_weights.max()
    return log_weights - top - np.log(np.sum(np.exp(log_weights - top)))


# ---- nodes of the whole sphere, the circle and the line ------------------------------------------------


@checked
def sphere_nodes(space: Space, nodes: Count) -> Nodes:
    """Return the nodes of `sphere_quadrature` in NumPy float64.

    Args:
        space: Sphere(2) or Sphere(3).
        nodes: the number of nodes, as for `sphere_quadrature`.

    Returns:
        Points, (Q, d), and normalised log weights, (Q,).

    Raises:
        ValueError: the space is another, or there is less than one node.

    >>> sphere_nodes(Sphere(2), 4)[0].round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, -1.0]]
    """
    if space not in (Sphere(2), Sphere(3)):
        raise ValueError(f"space is {space}; allowed: Sphere(2), Sphere(3) (elsewhere see plane_quadrature)")
    if space.dimension == 2:
        return space.equispaced(nodes), np.full(nodes, -math.log(nodes))
    height, weights = _gauss_legendre(-1.0, 1.0, nodes)
    # each circle is turned by another angle, because errors of a kink along a meridian would otherwise add up
    turn = np.arange(2 * nodes) + np.arange(nodes)[:, None] * 0.5 * (math.sqrt(5) - 1)
    angle, height = np.broadcast_arrays(np.pi * turn / nodes, height[:, None])
    across = np.sqrt((1 - height) * (1 + height))
    points = np.stack([across * np.cos(angle), across * np.sin(angle), height], axis=-1)
    return points.reshape(-1, 3), _normalised(np.repeat(np.log(weights), 2 * nodes))


@checked
def sphere_quadrature(space: Space, nodes: Count, dtype=jnp.float32) -> Samples:
    """Return a quadrature of the uniform measure of S^1 or S^2, for functions of every point.

    On Sphere(2) it has equispaced points (the trapezoid rule). On Sphere(3) it has Gauss-Legendre heights z times twice as many equispaced
    azimuths, exact for polynomials of degree below 2 `nodes`. Energies of ReLUs have kinks, and their error is O(nodes^-2) on both.

    Args:
        space: Sphere(2) or Sphere(3).
        nodes: the number of points of Sphere(2), or the number of heights of Sphere(3).
        dtype: float32 or float64.

    Returns:
        The quadrature, of `nodes` points on Sphere(2) and 2 `nodes`^2 on Sphere(3).

    Raises:
        ValueError: for another space, fewer than one node, or another dtype.

    >>> cloud = sphere_quadrature(Sphere(3), 8)
    >>> cloud.points.shape, round(float(jnp.sum(jnp.exp(cloud.log_weights) * cloud.points[:, 0] ** 2)), 5)
    ((128, 3), 0.33333)
    """
    return _samples(sphere_nodes(space, nodes), checks.precision(dtype))


@checked
def quadrature_of(space: Space, dtype: Any) -> Samples | None:
    """Return `sphere_quadrature` with the `NODES` of a circle or of S^2 with the base `Uniform()`.

    Args:
        space: the space.
        dtype: the floating dtype of the nodes.

    Returns:
        The nodes with their weights, or None on other spaces.

    >>> from dualebm.spaces import Euclidean
    >>> quadrature_of(Sphere(2), "float32").points.shape, quadrature_of(Euclidean(2), "float32")
    ((2000, 2), None)
    """
    return sphere_quadrature(space, NODES[space], dtype) if space in NODES else None


@checked
def line_quadrature(space: Space, nodes: Count, dtype=jnp.float32) -> Samples:
    """Return a quadrature of the base measure in one dimension: equispaced on `Torus(1)`, Gauss-Hermite on `Euclidean(1)`.

    Args:
        space: Torus(1) with the base `Uniform()`, or Euclidean(1) with a base `Gaussian(scale)`.
        nodes: the number of points.
        dtype: float32 or float64.

    Returns:
        The quadrature, of `nodes` points.

    Raises:
        ValueError: for another space or another base measure, fewer than one node, or another dtype.

    >>> from dualebm.spaces import Euclidean
    >>> cloud = line_quadrature(Euclidean(1, Gaussian(2.0)), 8)
    >>> round(float(jnp.sum(jnp.exp(cloud.log_weights) * cloud.points[:, 0] ** 2)), 4)
    4.0
    """
    dtype = checks.precision(dtype)
    if space.periodic and space.dimension == 1 and space.base == Uniform():
        return _samples((space.equispaced(nodes), np.full(nodes, -math.log(nodes))), dtype)
    if isinstance(space.base, Gaussian) and space.dimension == 1:
        from scipy.special import roots_hermitenorm

        points, weights = roots_hermitenorm(nodes)
        with np.errstate(divide="ignore"):  # the outermost weights of many nodes underflow to 0: log weight -inf
            return _samples((space.base.scale * points[:, None], _normalised(np.log(weights))), dtype)
    raise ValueError(f"space is {space}; allowed: Torus(1) with the base Uniform(), and Euclidean(1) with a base Gaussian(scale)")


# ---- nodes for functions of a projection on a plane ------------------------------------------------------


class Plane(NamedTuple):
    """A plane through the origin that holds given directions.

    Args:
        basis: an orthonormal basis of the plane as rows, and for d > 2 a third row that is orthogonal to it, (rows, d).
        coordinates: the coordinates of the directions in the plane, (k, 2).
    """

    basis: Float[np.ndarray, "rows d"]
    coordinates: Float[np.ndarray, "k 2"]


def _span(directions):
    """Return directions in float64 and an orthonormal basis of their span, up to the rounding of the directions' dtype."""
    directions = np.asarray(directions)
    if not np.issubdtype(directions.dtype, np.floating):
        directions = directions.astype(np.float64)
    if directions.ndim != 2 or directions.shape[0] < 1 or directions.shape[1] < 2:
        raise ValueError(f"directions has shape {directions.shape}; it must be (at least 1, at least 2)")
    tolerance = 10 * math.sqrt(len(directions)) * np.finfo(directions.dtype).eps
    directions = directions.astype(np.float64)
    norms = np.linalg.norm(directions, axis=1)
    if not (np.isfinite(norms) & (norms > 0)).all():
        row = int(np.argmin(np.isfinite(norms) & (norms > 0)))
        raise ValueError(f"directions has the row {row} of norm {norms[row]}; rows must be finite and not zero")
    _, singular, rows = np.linalg.svd(directions / norms[:, None], full_matrices=False)
    return directions, rows[singular > tolerance]


def rank(directions) -> int:
    """Return the dimension of the span of directions, up to the rounding of their dtype.

    Args:
        directions: finite directions, not all zero, (k, d) with d of at least 2.

    Returns:
        The dimension.

    Raises:
        ValueError: the directions are not finite, zero, or of another shape.

    >>> rank(jnp.array([[0.0, 3.0, 0.0], [0.0, -1.0, 0.0]]))
    1
    """
    return len(_span(directions)[1])


def plane(directions) -> Plane:
    """Return the plane of directions that span a plane or a line.

    Args:
        directions: the directions, (k, d).

    Returns:
        The plane.

    Raises:
        ValueError: they span more, or are not allowed (see `rank`).

    >>> plane(np.array([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])).basis.shape
    (3, 3)
    """
    directions, basis = _span(directions)
    if len(basis) > 2:
        raise ValueError(f"directions spans {len(basis)} dimensions; a plane quadrature allows at most 2")
    while len(basis) < min(3, directions.shape[1]):  # add the part of the axis farthest from the span that is orthogonal to it
        rest = np.eye(1, directions.shape[1], int(np.argmin(np.sum(basis**2, axis=0))))[0]
        for _ in range(2):  # the second pass takes away the rounding of the first
            rest = rest - basis.T @ (basis @ rest)
            rest /= np.linalg.norm(rest)
        basis = np.concatenate([basis, rest[None]])
    return Plane(basis, directions @ basis[:2].T)


def kinks(coordinates: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, " twice_k"]:
    """Return the sorted angles at which relu(<coordinate, (cos p, sin p)>) bends for one of the coordinates.

    Args:
        coordinates: vectors of the plane, (k, 2).

    Returns:
        The angles p in [0, 2 pi), (2 k,), in radians.

    >>> (kinks(np.array([[1.0, 0.0]])) / np.pi).tolist()
    [0.5, 1.5]
    """
    angles = np.arctan2(coordinates[:, 1], coordinates[:, 0])
    return np.sort(np.concatenate([angles - np.pi / 2, angles + np.pi / 2]) % (2 * np.pi))


def plane_nodes(directions, radial_nodes: int, arc_nodes: int) -> Nodes:
    """Return the nodes of `plane_quadrature` in NumPy float64.

    Args:
        directions: the directions, (k, d), as for `plane_quadrature`.
        radial_nodes: the number of nodes in the radius.
        arc_nodes: the number of nodes on each arc between kinks.

    Returns:
        The points, (Q, d), and their normalised log weights, (Q,).

    Raises:
        ValueError: for counts below 1, and for directions that `plane` refuses.

    >>> plane_nodes(np.eye(2), 5, 3)[0].shape
    (12, 2)
    """
    checks.count("radial_nodes", radial_nodes)
    checks.count("arc_nodes", arc_nodes)
    basis, coordinates = plane(directions)
    dimension = basis.shape[1]
    bends = kinks(coordinates)
    ends = np.append(bends, bends[0] + 2 * np.pi)
    arcs = [_gauss_legendre(a, b, arc_nodes) for a, b in itertools.pairwise(ends) if b - a > 1e-12]
    angle, arc_weight = (np.concatenate(part) for part in zip(*arcs, strict=True))
    circle = np.cos(angle)[:, None] * basis[0] + np.sin(angle)[:, None] * basis[1]
    if dimension == 2:
        return circle, _normalised(np.log(arc_weight))
    # r = sin t has density (d - 2) sin t cos^{d-3} t; t = (pi / 2) y^2 has nodes near 0, the mass of high d
    y, weight = _gauss_legendre(0.0, 1.0, radial_nodes)
    t = 0.5 * np.pi * y**2
    log_radial = np.log(weight * y * np.sin(t)) + (dimension - 3) * np.log(np.cos(t))
    points = np.sin(t)[:, None, None] * circle + np.cos(t)[:, None, None] * basis[2]
    return points.reshape(-1, dimension), _normalised((log_radial[:, None] + np.log(arc_weight)).ravel())


@checked
def plane_quadrature(directions, radial_nodes: Count = 64, arc_nodes: Count = 24, dtype=jnp.float32) -> Samples:
    """Return a quadrature of the uniform measure of S^{d-1}, d >= 2, for functions of the projection of x on a plane.

    The projection (r cos p, r sin p) has a density proportional to r (1 - r^2)^{(d-4)/2}, with r = 1 on the circle. The rule
    is Gauss-Legendre in r, and on the arcs between the kinks of every relu(<direction, x>), so that the error falls
    exponentially in the nodes. The points lie on the sphere, in the span of the plane and one more direction. An energy with
    neurons OUTSIDE the plane gets a wrong answer.

    Args:
        directions: vectors of any length but zero that span the plane, or a line in it, (k, d).
        radial_nodes: the number of nodes in the radius.
        arc_nodes: the number of nodes on each arc between kinks.
        dtype: float32 or float64.

    Returns:
        The quadrature.

    Raises:
        ValueError: for directions that span more than a plane, are not finite or zero, for counts below 1, or another dtype.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> neurons = jnp.eye(1, 15)
    >>> cloud = plane_quadrature(neurons)
    >>> energy = Shallow(ReLU(), neurons, jnp.array([-10.0]))
    >>> round(float(log_partition(energy, cloud)), 4)
    2.8942
    """
    dtype = checks.precision(dtype)
    return _samples(plane_nodes(directions, radial_nodes, arc_nodes), dtype)


# ---- what a quadrature gives -------------------------------------------------------------------------------


@checked
def log_partition(energy: Energy, quadrature: Samples, temperature: Scalar = 1.0) -> Float[Array, ""]:
    """Return log Z = log E_tau exp(-U / T) by quadrature, or by any weighted sample of tau.

    Args:
        energy: the energy U.
        quadrature: a quadrature of tau.
        temperature: the temperature T.

    Returns:
        log Z, a scalar in nats.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> abs(float(log_partition(energy, sphere_quadrature(Sphere(3), 8)))) < 1e-6
    True
    """
    log_weights = quadrature.log_weights
    value = -energy(quadrature.points) / temperature
    if log_weights is None:
        return logsumexp(value) - jnp.log(jnp.asarray(value.size, value.dtype))
    return logsumexp(log_weights + value) - logsumexp(log_weights)


def _mean_at(values, log_weights, temperature):
    """Return the mean of `values`, energies less their minimum, under their Gibbs measure at a temperature."""
    logits = -values / temperature if log_weights is None else log_weights - values / temperature
    return jnp.sum(jax.nn.softmax(logits) * values)  # a sum: on CPUs a product of long vectors loses digits


@checked
def mean_energy(energy: Energy, quadrature: Samples, temperature: Scalar = 1.0) -> Float[Array, ""]:
    """Return E U under exp(-U / T) tau / Z by quadrature. It increases with T.

    Args:
        energy: the energy U.
        quadrature: a quadrature of tau.
        temperature: the temperature T.

    Returns:
        The mean energy, a scalar in units of temperature.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.array([-9.0, -6.0, 3.0]))
    >>> cloud = sphere_quadrature(Sphere(3), 16)
    >>> bool(mean_energy(energy, cloud, 0.5) < mean_energy(energy, cloud))
    True
    """
    values = energy(quadrature.points)
    lowest = jnp.min(values)
    return lowest + _mean_at(values - lowest, quadrature.log_weights, temperature)


@checked
def effective_temperature(energy: Energy, quadrature: Samples, particle_mean: Annotated[Scalar, Bound(signed=True)]) -> Float[Array, ""]:
    """Return the temperature T at which `mean_energy` equals the particles' mean of U, which is 1 for samples of exp(-U) tau.

    It is found by bisection in log T between 1e-3 and 1e3, because the mean energy increases with T. Its slope is Var_T(U) /
    T^2, which turns an error of the mean into an error of T. The function is pure and jittable, and evaluates U once.

    Args:
        energy: the energy U.
        quadrature: a quadrature of tau.
        particle_mean: the mean of U over the particles, in units of temperature.

    Returns:
        T, a scalar. It is NaN where the mean lies outside of that range, and where U is constant.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.array([-9.0, -6.0, 3.0]))
    >>> cloud = sphere_quadrature(Sphere(3), 16)
    >>> round(float(effective_temperature(energy, cloud, mean_energy(energy, cloud, 0.75))), 4)
    0.75
    """
    values = energy(quadrature.points)
    lowest = jnp.min(values)
    values, target = values - lowest, particle_mean - lowest
    low, high = (jnp.asarray(math.log(t), values.dtype) for t in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))

    def mean_at(log_temperature):
        return _mean_at(values, quadrature.log_weights, jnp.exp(log_temperature))

    def halve(_, bracket):
        middle = 0.5 * (bracket[0] + bracket[1])
        above = mean_at(middle) > target
        return jnp.where(above, bracket[0], middle), jnp.where(above, middle, bracket[1])

    inside = (mean_at(low) < target) & (target < mean_at(high))
    bracket = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return jnp.where(inside, jnp.exp(0.5 * (bracket[0] + bracket[1])), jnp.nan)
