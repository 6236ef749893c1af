"""Planted teachers with exact samples and exact integrals.

A planted target is the Gibbs measure of a shallow ReLU energy f* on the sphere (arXiv 2107.05134, Section 5). Its
integrals are quadratures in NumPy float64 on the host, whatever JAX's precision. Its samples are exact and independent,
not those of a Markov chain.
"""

import functools
import importlib.resources
import itertools
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from dualebm._internal import checks, memory
from dualebm._internal.keys import check_key
from dualebm.base_measures import Uniform
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import kinks, plane, plane_nodes, plane_quadrature, rank, sphere_nodes, sphere_quadrature
from dualebm.measures import Samples
from dualebm.settings import Count, checked
from dualebm.spaces import Sphere

TEACHERS = ("s14_monomodal", "s14_bimodal", "s2_bimodal", "s2_monomodal")
"""The planted teachers of arXiv 2107.05134, two neurons each: two on S^14, two on S^2."""

LOWEST_ACCEPTANCE = 1e-6
"""The acceptance rate below which `sample` does not try rejection from the uniform measure."""

ENUMERATED = 10
"""Up to this many neurons the least energy is exact, by enumeration of faces. For more neurons it is searched by descent."""

BATCH = 2**17
"""The number of points that rejection from the uniform measure draws at a time. The results depend on it."""


class Target(eqx.Module):
    """The measure exp(-f*) tau / Z on a sphere, with f* = (1/J) sum_j w_j relu(<theta_j, x>) and tau uniform.

    `planted` and `teacher` make targets. The integrals are exact to 1e-12 where the neurons span a plane or a line (J
    <= 2 on any sphere, any J on S^1). On S^2 with more neurons they are product quadratures, with an error of about
    1e-6 where |w| is 10, and of 1e-4 for `squared_score`. Elsewhere they raise ValueError.

    Args:
        space: a `Sphere`.
        energy: f*, a `Shallow` with the feature `ReLU()`.
        name: the name of the target in errors.

    Raises:
        ValueError: the space is not a sphere, or the energy is not such an energy on it.

    >>> target = teacher("s14_monomodal")
    >>> round(target.log_partition, 4), round(target.kl_to_uniform, 4), round(target.min_energy, 4)
    (1.9649, 1.1293, -7.7465)
    """

    space: Sphere = eqx.field(static=True)
    energy: Shallow
    name: str = eqx.field(static=True, default="target")

    def __check_init__(self):
        if not isinstance(self.space, Sphere) or self.space.base != Uniform():
            raise ValueError(f"space is {self.space!r}; it must be a Sphere with the base Uniform()")
        if not isinstance(self.energy, Shallow) or self.energy.feature != ReLU():
            raise ValueError(f"energy is {self.energy!r}; it must be Shallow with the feature ReLU()")
        if self.energy.positions.shape[-1] != self.space.dimension:
            components = self.energy.positions.shape[-1]
            raise ValueError(f"energy.positions has {components} components; it must have {self.space.dimension}")

    @property
    def log_partition(self) -> float:
        """log Z = log E_tau exp(-f*), in nats."""
        return self._integrals()[0]

    @property
    def kl_to_uniform(self) -> float:
        """KL(target || uniform) = -E_target f* - log Z, in nats. It is the KL divergence of a student with zero energy."""
        return self._integrals()[1]

    @property
    def squared_score(self) -> float:
        """E_target |grad_S f*|^2, the mean squared tangential score, without a factor 1/2. It is the score error of a
        student with zero energy.
        """
        return self._integrals()[2]

    @property
    def min_energy(self) -> float:
        """min f* over the sphere. It is exact where the neurons span a plane or J <= 10, and else the least end of many descents."""
        return _least_energy(self.energy)

    def quadrature(self, dtype=jnp.float32, nodes: int = 100) -> Samples:
        """Return a quadrature of tau, for `log_z` and for metrics.

        On S^1 and S^2 it is `sphere_quadrature`, which is good for every energy. On S^1 it has 20 `nodes` points, for
        the kinks. On other spheres it is `plane_quadrature` of the plane of the teacher's neurons. It is good only for
        functions of the projection on this plane, such as f* at any temperature. The neurons of a student leave the
        plane.

        Args:
            dtype: float32 or float64, the dtype of the nodes.
            nodes: the resolution on S^1 and S^2.

        Returns:
            The nodes (K, d) with log weights (K,).

        Raises:
            ValueError: the neurons span more than a plane, on a sphere other than S^1 and S^2.

        >>> teacher("s2_bimodal").quadrature(nodes=10).points.shape
        (200, 3)
        """
        if self.space.dimension > 3:
            return plane_quadrature(self._positions_in_plane(), *_plane_counts(self.energy), dtype)
        return sphere_quadrature(self.space, 20 * nodes if self.space.dimension == 2 else nodes, dtype)

    def _positions_in_plane(self):
        """Return the positions of the neurons. Raises ValueError where they span more than a plane."""
        if (span := rank(self.energy.positions)) > 2:
            raise ValueError(
                f"{self.name} has neurons that span {span} dimensions of R^{self.space.dimension}; exact integrals are "
                "allowed for at most two neurons (or more in one plane), and on S^1 and S^2"
            )
        return self.energy.positions

    def _integrals(self):
        """Return log Z, the KL divergence to the uniform measure and the mean squared score, in float64."""
        positions, weights = _host(self.energy)
        if self.space.dimension == 3 and rank(self.energy.positions) > 2:
            points, log_weights = sphere_nodes(self.space, 300)
        else:
            points, log_weights = plane_nodes(self._positions_in_plane(), *_plane_counts(self.energy))
        energy, square = np.empty(len(points)), np.empty(len(points))
        for rows in np.array_split(np.arange(len(points)), 1 + len(points) * len(weights) // 2**21):
            reach = points[rows] @ positions.T
            energy[rows] = np.maximum(reach, 0) @ weights / len(weights)
            square[rows] = np.sum((((reach > 0) * weights) @ positions / len(weights)) ** 2, axis=1)
        logits = log_weights - energy
        log_z = float(logits.max() + np.log(np.sum(np.exp(logits - logits.max()))))
        p = np.exp(logits - log_z)
        return log_z, float(-p @ energy) - log_z, float(p @ (square - energy**2))  # x . grad f* = f*: homogeneity


@checked
def planted(positions, weights, dtype=jnp.float32, name: str = "planted") -> Target:
    """Return a teacher with J neurons of any sign: f*(x) = (1/J) sum_j w_j relu(<theta_j, x>) on the unit sphere of R^d.

    Args:
        positions: the positions theta_j, (J, d) with J >= 1 and d >= 2. They are normalised to unit length.
        weights: the real weights w_j, (J,).
        dtype: float32 or float64, the dtype of the energy.
        name: the name of the target in errors.

    Returns:
        The target.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, a position is 0, or the dtype is neither float32 nor
            float64.

    >>> round(planted([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]], [-4.0, 2.0]).min_energy, 6)
    -2.0
    """
    dtype = checks.precision(dtype)
    arrays = []
    for label, value, axes in (("positions", positions, 2), ("weights", weights, 1)):
        array = np.asarray(value)
        if array.ndim != axes or array.dtype.kind not in "iuf" or array.shape[0] < 1:
            shape = "(J, d)" if axes == 2 else "(J,)"
            properties = f"shape {array.shape} and dtype {array.dtype}"
            raise ValueError(f"{label} has {properties}; it must be real, {shape} with J >= 1")
        arrays.append(array.astype(np.float64))
        if not np.isfinite(arrays[-1]).all():
            raise ValueError(f"{label} is {value}; its values must be finite")
    positions, weights = arrays
    if weights.shape != positions.shape[:1]:
        raise ValueError(f"weights has shape {weights.shape}; it must be {positions.shape[:1]}, one per position")
    norms = np.linalg.norm(positions, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"positions has zeros in row {int(np.argmin(norms))}; rows must have a direction")
    neurons = jnp.asarray((positions / norms).astype(dtype))
    return Target(Sphere(positions.shape[1]), Shallow(ReLU(), neurons, jnp.asarray(weights.astype(dtype))), name)


@checked
def teacher(name: str, dtype=jnp.float32) -> Target:
    """Return a teacher of arXiv 2107.05134, Section 5: two neurons of weight -10.

    Args:
        name: one of `TEACHERS`.
        dtype: the dtype of the energy, float32 or float64.

    Returns:
        The teacher.

    Raises:
        ValueError: there is no teacher of this name. The message has the nearest name.

    >>> teacher("s14_bimodal").space
    Sphere(dimension=15, base=Uniform())
    """
    checks.choice("name", name, TEACHERS)
    text = (importlib.resources.files("dualebm") / "data" / "teachers.json").read_text(encoding="utf-8")
    return planted(**json.loads(text)["teachers"][name], dtype=dtype, name=name)


# ---- f* on the host ---------------------------------------------------------------------------------------


def _host(energy):
    """Return positions and weights in NumPy float64."""
    return np.asarray(energy.positions, np.float64), np.asarray(energy.coefficients, np.float64)


def _steepness(energy) -> float:
    """Return a bound on |grad f*|."""
    positions, weights = _host(energy)
    return float(np.mean(np.abs(weights) * np.linalg.norm(positions, axis=1)))


def _plane_counts(energy):
    """Return the numbers of radial and arc nodes that resolve the peaks of exp(-f*), which are 1 / sqrt(steepness) wide."""
    extra = int(4 * math.sqrt(_steepness(energy)))
    return 64 + extra, 24 + extra


def _value(x, positions, weights):
    """Return f*(x) for x (N, d), or for coordinates in a plane, (N, 2)."""
    return np.maximum(x @ positions.T, 0) @ weights / len(weights)


def _circle(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _turning_angles(coordinates, weights):
    """Return the sorted angles of the plane between which f* is monotone on the circle: kinks and stationary points."""
    bends = kinks(coordinates)
    middle = 0.5 * (bends + np.append(bends[1:], bends[0] + 2 * np.pi))
    force = ((_circle(middle) @ coordinates.T > 0) * weights) @ coordinates  # f* = r <force, circle(p)> / J on the arc
    stationary = np.arctan2(force[:, 1], force[:, 0])
    return np.sort(np.concatenate([bends, stationary, stationary + np.pi]) % (2 * np.pi))


def _least_energy(energy) -> float:
    """Return min f* over the sphere.

    As f* is homogeneous, it is least at unit length in the span of the neurons, or it is 0, its value off the span.
    """
    positions, weights = _host(energy)
    span, dimension = rank(energy.positions), positions.shape[1]
    if span <= 2:
        coordinates = plane(energy.positions).coordinates
        least, span = _value(_circle(_turning_angles(coordinates, weights)), coordinates, weights).min(), 2
    else:
        _, _, rows = np.linalg.svd(positions, full_matrices=False)
        coordinates = positions @ rows[:span].T
        search = _stationary if len(weights) <= ENUMERATED else _descents
        least = min(_value(x, coordinates, weights).min() for x in search(coordinates, weights))
    return float(min(least, 0.0) if span < dimension else least)


def _stationary(positions, weights):
    """Yield points (N, d) among which f* is least: for each set of neurons at their kink, the points where it is stationary.

    f* is linear, <v, x>, on each face of the arrangement of the hyperplanes <theta_j, x> = 0. In a face that spans the
    space L it is least at -P_L v / |P_L v|. If P_L v = 0 it is 0, as at the ends of the face, where L is a line.
    """
    count, dimension = positions.shape
    for size in range(dimension):
        for zero in itertools.combinations(range(count), size):
            rest = [j for j in range(count) if j not in zero]
            active = np.array(list(itertools.product((0.0, 1.0), repeat=len(rest)))).reshape(2 ** len(rest), len(rest))
            across = np.linalg.pinv(positions[list(zero)]) @ positions[list(zero)] if zero else 0.0
            project = np.eye(dimension) - across
            x = np.concatenate([-active @ (weights[rest, None] * positions[rest]) @ project, project, -project])
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            yield (x / np.where(norms > 1e-9, norms, np.inf))[norms[:, 0] > 1e-9]


def _descents(positions, weights, starts=2048, steps=200):
    """Yield the ends (N, d) of descents from many starts, with ever shorter steps. Nothing proves that the least energy is among them."""
    x = np.random.default_rng(0).standard_normal((starts, positions.shape[1]))
    x = np.concatenate([x, positions, -positions])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for length in np.geomspace(0.5, 1e-7, steps):
        slope = ((x @ positions.T > 0) * weights) @ positions
        slope -= np.sum(slope * x, axis=1, keepdims=True) * x
        x = x - length * slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    yield x


# ---- exact samples ----------------------------------------------------------------------------------------


@checked
def sample(key: Key[Array, ""], target: Target, count: Count) -> tuple[Samples, float]:
    """Draw independent exact samples of a target, and return them with the acceptance rate of the rejection.

    Where the neurons span a plane or a line (J <= 2 on any sphere), the projection (r cos p, r sin p) on the plane is
    drawn by rejection from cells, each weighted by the maximum of exp(-f*) in it, and the rest of x is uniform. The
    acceptance is above 0.9 whatever d is (0.7 where |w| is 1000). Elsewhere points that are uniform on the sphere are
    accepted with probability exp(min f* - f*). The draws are deterministic in the key. The function loops on the host
    and cannot be compiled by jit.

    Args:
        key: a random key, threefry.
        target: the target.
        count: the number of samples, at least 1.

    Returns:
        The samples (count, d), with equal weights, and the acceptance rate.

    Raises:
        ValueError: the count is below 1, the key is not threefry, or the expected acceptance is below 1e-6.
        RuntimeError: a drawn point has an energy below the estimated minimum, which is possible with more than 10
            neurons only.

    >>> samples, acceptance = sample(jax.random.key(0), teacher("s14_monomodal"), 1000)
    >>> samples.points.shape, acceptance > 0.8
    ((1000, 15), True)
    """
    check_key(key)
    memory.check_points("count", count, target.space.dimension, 8)
    draw = _sample_plane if rank(target.energy.positions) <= 2 else _reject_from_uniform
    points, acceptance = draw(key, target, count)
    return Samples(points), acceptance


def _sample_plane(key, target, count):
    """Draw by rejection from cells of (q, p), the coordinates in which the uniform measure is dq dp / 2 pi.

    q = (1 - r^2)^{(d-2)/2} is the probability of a larger r, kept as its logarithm. f* = r s(p) with s monotone in each
    cell, so that its least value in the cell is at a corner. All is computed in float64 on the host, from random bits
    of the key.
    """
    dimension = target.space.dimension
    basis, coordinates = plane(target.energy.positions)
    weights = _host(target.energy)[1]
    steepest = _steepness(target.energy)
    arcs = int(np.clip(20 * np.pi * steepest, 16, 4096))
    p = np.sort(np.concatenate([_turning_angles(coordinates, weights), 2 * np.pi * np.arange(arcs + 1) / arcs]))
    s = _value(_circle(p), coordinates, weights)
    lowest = np.minimum(s[:-1], s[1:])
    r = np.linspace(0.0, 1.0, int(np.clip(10 * steepest, 8, 1024)) + 1) if dimension > 2 else np.ones(2)
    half = 0.5 * (dimension - 2)
    with np.errstate(divide="ignore"):  # log 0 = -inf at r = 1
        log_q = half * np.log1p(-(r**2)) if dimension > 2 else np.array([0.0, -np.inf])
        log_mass = (log_q[:-1] + np.log1p(-np.exp(log_q[1:] - log_q[:-1])))[:, None] + np.log(np.diff(p))
    bound = np.where(lowest < 0, r[1:, None] * lowest, r[:-1, None] * lowest)  # f* is at least this
    cumulative = np.cumsum(np.exp((log_mass - bound) - (log_mass - bound).max()))
    kept, drawn = [], 0
    plane_key, rest_key = jax.random.split(key)
    size = count + count // 4 + 64
    for batch in itertools.count():
        u = _uniform(jax.random.fold_in(plane_key, batch), size)
        cell = np.searchsorted(cumulative, u[0] * cumulative[-1], side="right")
        i, k = np.divmod(np.minimum(cell, len(cumulative) - 1), len(lowest))
        if dimension > 2:
            log_rest = (log_q[i] + np.log1p(u[1] * np.expm1(log_q[i + 1] - log_q[i]))) / half  # log (1 - r^2)
            along, across = np.sqrt(-np.expm1(log_rest)), np.exp(0.5 * log_rest)
        else:
            along, across = np.ones(size), np.zeros(size)
        flat = along[:, None] * _circle(p[k] + u[2] * (p[k + 1] - p[k]))
        excess = _value(flat, coordinates, weights) - bound[i, k]
        _check_envelope(target, excess.min(), np.finfo(np.float64).eps)
        accepted = np.log1p(-u[3]) <= -excess
        kept.append(np.concatenate([flat, across[:, None]], axis=1)[accepted])
        drawn += size
        accepted_count = sum(map(len, kept))
        if accepted_count >= count:
            break
    dtype = target.energy.positions.dtype
    projected = jnp.asarray(np.concatenate(kept)[:count].astype(dtype))
    return _embed(rest_key, projected, jnp.asarray(basis[:2].astype(dtype))), accepted_count / drawn


def _check_envelope(target, least_excess, precision):
    """Raise RuntimeError where an energy is below its bound by more than rounding, which means an acceptance above 1."""
    if least_excess < -100 * precision * (1 + _steepness(target.energy)):
        raise RuntimeError(
            f"{target.name} has a drawn point with an energy {-least_excess:.3g} below the least that was found: the "
            "samples would be wrong. Sample by MCMC: dualebm.flows.langevin.sample"
        )


def _uniform(key, count):
    """Return four rows of `count` numbers in [0, 1) with 53 bits, whatever JAX's precision."""
    bits = np.asarray(jax.random.bits(key, (2, 4, count), "uint32")).astype(np.float64)
    return (np.floor(bits[0] / 2**5) * 2**26 + np.floor(bits[1] / 2**6)) / 2**53


@jax.jit
def _embed(key, projected, basis):
    """Return points of the sphere with given coordinates in the plane and a given length outside it, in a uniform direction."""
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    x = product(projected[:, :2], basis)
    if basis.shape[1] > 2:
        rest = jax.random.normal(key, basis.shape[1:] + projected.shape[:1], projected.dtype).T
        for _ in range(2):  # the second pass removes the rounding of the first, which is large where little is left
            rest = rest - product(product(rest, basis.T), basis)
            rest = rest / jnp.linalg.norm(rest, axis=1, keepdims=True)
        x = x + projected[:, 2:] * rest
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


@eqx.filter_jit
def _propose(key, target, least):
    """Return uniform points, their energy above the least, and whether each is accepted."""
    point_key, accept_key = jax.random.split(key)
    dtype = target.energy.positions.dtype
    x = target.space.sample_base(point_key, BATCH, dtype)
    excess = target.energy(x) - least
    # One float32 number has no digits below 1e-7, but most accepted points of a peak need them.
    coarse, fine = jax.random.uniform(accept_key, (2, BATCH), dtype)
    return x, excess, jnp.log(coarse + fine * jnp.finfo(dtype).eps) <= -excess


def _reject_from_uniform(key, target, count):
    """Draw uniform points, and accept each with probability exp(least - f*)."""
    dtype = target.energy.positions.dtype
    margin = 0 if target.energy.coefficients.size <= ENUMERATED else 1e-3  # the ends of descents lie a little above the least
    least = jnp.asarray(_least_energy(target.energy) - margin, dtype)
    kept, drawn = [], 0
    for batch in itertools.count():
        x, excess, accepted = map(np.asarray, _propose(jax.random.fold_in(key, batch), target, least))
        _check_envelope(target, excess.min(), np.finfo(dtype).eps)
        if batch == 0 and (expected := float(np.mean(np.exp(-excess.astype(np.float64))))) < LOWEST_ACCEPTANCE:
            raise ValueError(
                f"{target.name} has an expected acceptance of {expected:.2g} by rejection from the uniform measure; it "
                f"must be at least {LOWEST_ACCEPTANCE:g}. Sample by MCMC: dualebm.flows.langevin.sample"
            )
        kept.append(x[accepted])
        drawn += BATCH
        accepted_count = sum(map(len, kept))
        if accepted_count >= count:
            break
    return jnp.asarray(np.concatenate(kept)[:count]), accepted_count / drawn
