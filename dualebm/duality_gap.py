"""How far an energy is from the best of the F1 ball, in nats: a duality gap that needs no partition function (arXiv 2107.05134, Theorem 1).

For f of a signed measure gamma in the ball of radius R, with F(theta) = E_model phi - E_data phi and the model that of f itself,

    G(gamma) = R sup_theta |F(theta)| - int F dgamma >= L(gamma) - min over the ball of L,   L(gamma) = E_data f + log Z_f,

because L is convex and G is its largest linear decrease. As int F dgamma = E_model f - E_data f, with theta* and its sign s where the
supremum is,

    G = E_model g - E_data g,   g = R s phi(., theta*) - f,

is one difference of means. With samples of the model the supremum is sought on one half of them and evaluated on the other, where G is then
unbiased for that theta*; a search that stops at a local supremum still underestimates it.

The samples must be those of the model. The particles of a training are not: they lag behind the energy, and the energy has been fitted to
them. `relaxation` sees the lag, not the fit.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from dualebm import measures
from dualebm._internal import checks
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.flows import langevin
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal
from dualebm.measures import Samples, shares

BALLS = ("full", "negative", "positive")
"""Energies against which is certified: all of the ball, or those of one sign."""

FIRST_STEP, SHRINK = 0.3, 0.93
"""Of the ascent to the supremum: the length of its first step, in units of the parameters, and the factor from each to the next."""

DOUBTFUL = 4
"""Standard errors by which the mean energy of samples may move under MALA before `certify` warns."""


class Certificate(NamedTuple):
    """gap G, in nats, with its standard error (0 by quadrature); theta* and its sign s (0 where the best is no charge at all)."""

    gap: Float[Array, ""]
    error: Float[Array, ""]
    position: Float[Array, " p"]
    sign: Float[Array, ""]


def supremum(
    key: Key[Array, ""],
    energy: Shallow,
    space: Space,
    model: Samples,
    data: Samples,
    *,
    ball: str = "full",
    starts: int = 64,
    steps: int = 80,
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """theta* and s with s F(theta*) the largest that is found, by ascent from the atoms and from `starts` uniform parameters; s is 0 where
    a ball of one sign has its best at no charge.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    >>> points = Sphere(2).sample_base(jax.random.key(0), 500, jnp.float32)
    >>> theta, sign = supremum(jax.random.key(1), energy, Sphere(2), Samples(points), Samples(jnp.array([[1.0, 0.0]])))
    >>> bool(theta[0] > 0.99), float(sign)
    (True, -1.0)
    """
    checks.choice("ball", ball, BALLS)
    feature = energy.feature
    parameters = feature.parameter_space(space)
    uniform = parameters.sample_base(key, starts, energy.positions.dtype)
    theta = jnp.concatenate([energy.positions, uniform])
    signs = {"full": [1, -1], "negative": [-1], "positive": [1]}[ball]
    sign = jnp.repeat(jnp.asarray(signs, theta.dtype), theta.shape[0])
    theta = jnp.tile(theta, (len(signs), 1))

    def witness(theta):
        return jax.tree.map(jnp.subtract, feature_mean(feature, theta, model), feature_mean(feature, theta, data))

    def ascend(carry, k):
        theta, best, value = carry
        here, gradient = witness(theta)
        better = sign * here > value
        best, value = jnp.where(better[:, None], theta, best), jnp.where(better, sign * here, value)
        slope = sign[:, None] * parameters.tangent(theta, gradient)
        length = jnp.linalg.norm(slope, axis=1, keepdims=True)
        direction = slope / jnp.maximum(length, jnp.finfo(theta.dtype).tiny)
        return (parameters.retract(theta, FIRST_STEP * SHRINK**k * direction), best, value), None

    first = (theta, theta, jnp.full(theta.shape[0], -jnp.inf, theta.dtype))
    (_, best, value), _ = jax.lax.scan(ascend, first, jnp.arange(steps))
    at = jnp.argmax(value)
    none = (value[at] <= 0) & (len(signs) == 1)
    return best[at], jnp.where(none, 0, sign[at])


class Relaxation(NamedTuple):
    """The mean energy of samples before and after moves under that energy, and the standard error of its change."""

    before: Float[Array, ""]
    after: Float[Array, ""]
    error: Float[Array, ""]


def relaxation(key: Key[Array, ""], energy: Energy, space: Space, model: Samples, *, moves: int = 100) -> Relaxation:
    """The change of E f over samples under `moves` steps of MALA of the space's default size.

    They leave the model exp(-f) tau as it is, so that for its own samples the change is 0 but for the error.

    Within a mode alone: of modes with wrong masses, between which nothing moves, and of an energy that was fitted to these samples it says
    nothing. Pure; `moves` is static. Raises ValueError for fewer than one.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> at_data, _ = targets.sample(jax.random.key(0), teacher, 1000)
    >>> found = relaxation(jax.random.key(1), teacher.energy, teacher.space, at_data)
    >>> bool(abs(found.after - found.before) < DOUBTFUL * found.error)
    True
    """
    checks.count("moves", moves)
    draw = drawn(key, space.dimension, model.points.dtype, "independent")
    moved, _, _ = langevin.move("mala", space, draw, model.points.T, energy, space.default_particle_step, steps=moves)
    before, after = energy(model.points), energy(moved.T)
    log_weights = jnp.zeros_like(before) if model.log_weights is None else model.log_weights
    mean, error = _mean_and_error(after - before, log_weights)
    at_first = measures.mean(before, log_weights)
    return Relaxation(at_first, at_first + mean, error)


def _mean_and_error(values, log_weights):
    """The weighted mean, and its standard error for independent samples by the delta method."""
    weights = shares(log_weights)
    mean = jnp.sum(weights * values)
    return mean, jnp.sqrt(jnp.sum((weights * (values - mean)) ** 2))


def _halves(model: Samples) -> list[Samples]:
    """Every other sample: particles i and i + N/2, whose noise is of one draw, stay together where N is a multiple of 4."""
    log_weights = jnp.zeros_like(model.points[:, 0]) if model.log_weights is None else model.log_weights
    return [Samples(model.points[i::2], log_weights[i::2]) for i in range(2)]


def _warn_where_not_relaxed(key, energy, space, model) -> None:
    found = relaxation(key, energy, space, model)
    if isinstance(found.error, Tracer):
        return
    before, after, error = map(float, found)
    if abs(after - before) > DOUBTFUL * error:
        warnings.warn(
            f"model is not relaxed: its mean energy goes from {before:.4g} to {after:.4g} under MALA, by {abs(after - before) / error:.0f} "
            "standard errors; the gap is of these samples, not of the energy's own: leave model out",
            stacklevel=3,
        )


def certify(
    key: Key[Array, ""],
    energy: Shallow,
    space: Space,
    data: Samples,
    radius: Float[Array, ""] | float,
    *,
    quadrature: Samples | None = None,
    model: Samples | None = None,
    ball: str = "full",
    chains: int = 20_000,
    temperatures: int = 100,
    starts: int = 64,
    steps: int = 80,
) -> Certificate:
    """The duality gap of an energy, within the ball of a radius or its part of one sign.

    Args:
        energy: f; its total variation, the mean |c_j|, must be within the radius, or the gap is of the ball that holds it.
        quadrature: of the base measure, exact for f (any energy on S^1 and S^2): the gap is then exact but for the search of theta*,
            and its error 0. None for `chains` annealed ones (`annealing.anneal`) in each half, whose error falls as R / sqrt(chains).
        model: samples of exp(-f) tau that are known, at least four, in place of those that are drawn: every other one is for the search.
            Only as good as they are. Particles of a training are not samples of its energy, and the gap from them is too small, as the
            energy was fitted to them; nor is the error then right. Outside of jit there is a warning where `relaxation` sees that they
            move; within jit, and where they are fitted but at rest, there is none.
        ball: "full", or "negative" or "positive", of energies whose charges all have that sign.
        starts, steps: of the ascent to the supremum.

    Raises ValueError for a ball or a count that is not allowed, and for both a quadrature and a model. Pure and jittable but for the
    warning; the counts are static.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere; from dualebm.log_z.quadrature import sphere_quadrature
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> data = Samples(jnp.array([[1.0, 0.0, 0.0]]))
    >>> found = certify(jax.random.key(0), energy, Sphere(3), data, 2.0, quadrature=sphere_quadrature(Sphere(3), 32))
    >>> round(float(found.gap), 2), float(found.error)  # 2 sup |1/4 - phi((1, 0, 0), theta)|
    (1.5, 0.0)
    """
    for name, value in (("chains", chains), ("temperatures", temperatures), ("starts", starts), ("steps", steps)):
        checks.count(name, value)
    if model is not None and quadrature is not None:
        raise ValueError("quadrature and model are both given; give one of them, or neither")
    search_key, model_key = jax.random.split(key)
    judge: Any
    if quadrature is not None:
        base = 0 if quadrature.log_weights is None else quadrature.log_weights
        seen = judge = Samples(quadrature.points, base - energy(quadrature.points))
    elif model is not None:
        checks.count("model.points, in number,", model.points.shape[0], 4)
        _warn_where_not_relaxed(model_key, energy, space, model)
        seen, judge = _halves(model)
    else:
        seen, judge = _halves(anneal(model_key, energy, space, 2 * chains, temperatures=temperatures))
    position, sign = supremum(search_key, energy, space, seen, data, ball=ball, starts=starts, steps=steps)

    def decrease(x):
        return radius * sign * energy.feature(x, position[None])[:, 0] - energy(x)

    values, observed = decrease(judge.points), measures.mean(decrease(data.points), data.log_weights)
    mean, error = _mean_and_error(values, judge.log_weights)
    return Certificate(mean - observed, error if quadrature is None else jnp.zeros_like(error), position, sign)


def told(certificate: Certificate, radius: float, ball: str = "full") -> str:
    """A certificate as a sentence; exact where its error is 0, which is by quadrature, else an estimate with its standard error.

    >>> told(Certificate(jnp.float32(0.0213), jnp.float32(0.0021), jnp.zeros(3), jnp.ones(())), 10.0)
    'estimated within 0.0213 +- 0.0021 nats of the best F1 energy of radius 10'
    >>> told(Certificate(jnp.float32(0.0213), jnp.float32(0.0), jnp.zeros(3), jnp.ones(())), 10.0, "negative")
    'within 0.0213 nats of the best negative F1 energy of radius 10 (by quadrature)'
    """
    checks.choice("ball", ball, BALLS)
    gap, error = float(certificate.gap), float(certificate.error)
    best = f"nats of the best {'' if ball == 'full' else ball + ' '}F1 energy of radius {float(radius):g}"
    return f"estimated within {gap:.4f} +- {error:.4f} {best}" if error else f"within {gap:.4f} {best} (by quadrature)"


def within(tolerance: float, sigmas: float = 2.0):
    """A rule for `stop` of `run`, where a metric `gap` is recorded: the last gap plus so many errors is at most `tolerance` nats.

    >>> import numpy as np, xarray
    >>> rule = within(0.1)
    >>> rule(xarray.Dataset({"gap": (("step", "gap_0"), np.array([[0.5, 0.01], [0.07, 0.01]]))}))
    True
    """
    checks.number("tolerance", tolerance, positive=True)
    checks.number("sigmas", sigmas)

    def stop(results) -> bool:
        gap, error = results.gap.values[-1]
        return bool(gap + sigmas * error <= tolerance)

    return stop
