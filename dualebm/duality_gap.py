"""How far an energy is from the best of the F1 ball, in nats, by a duality gap that needs no partition function.

The source is arXiv 2107.05134, Theorem 1. Let f be the energy of a signed measure gamma in the ball of radius R, and F(theta) =
E_model phi - E_data phi with the model of f. Then

    G(gamma) = R sup_theta |F(theta)| - int F dgamma >= L(gamma) - min over the ball of L,   L(gamma) = E_data f + log Z_f,

because L is convex and G is its largest linear decrease. As int F dgamma = E_model f - E_data f, with theta* where the supremum is
attained and s the sign of F there,

    G = E_model g - E_data g,   g = R s phi(., theta*) - f,

is one difference of means. With samples of the model the supremum is sought on one half of them and G is evaluated on the other half,
where it is unbiased for that theta*. A search that stops at a local supremum still underestimates G.

The samples must be samples of the model. The particles of a training are not: they lag behind the energy, and the energy has been fitted
to them. `relaxation` detects the lag but not the fit.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from dualebm import measures
from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.flows import langevin
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal
from dualebm.measures import Samples, shares

BALLS = ("full", "negative", "positive")
"""The sets of energies among which `certify` looks for the best: the whole ball, or its energies of one sign."""

FIRST_STEP, SHRINK = 0.3, 0.93
"""The steps of the ascent to the supremum: the length of the first, in units of the parameters, and the factor from each to the next."""

DOUBTFUL = 4
"""The number of standard errors by which the mean energy of samples may move under MALA before `certify` warns."""


class Certificate(NamedTuple):
    """A duality gap and the parameter where its supremum is attained.

    Args:
        gap: the gap G, in nats.
        error: its standard error, in nats, which is 0 by quadrature.
        position: the parameter theta*, (p,).
        sign: the sign s of F at theta*, or 0 where no charge at all is best.
    """

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
    """Find theta* and s with s F(theta*) largest, by ascent from the atoms and from drawn parameters.

    The drawn ones are those of `FeatureMap.draw`: uniform for most features. For a `ScaledBump` their centres are points of the model
    and of the data in equal parts, and the ascent is over centres and concentrations.

    Args:
        key: the random key of the drawn parameters.
        energy: the shallow energy f.
        space: the space of the samples.
        model: samples of the model of f.
        data: the data.
        ball: one of `BALLS`.
        starts: the number of drawn parameters.
        steps: the number of steps of each ascent.

    Returns:
        theta*, (p,), and s, which is 0 where a ball of one sign has its best at no charge.

    Raises:
        ValueError: for a ball that does not exist.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    >>> points = Sphere(2).sample_base(jax.random.key(0), 500, jnp.float32)
    >>> theta, sign = supremum(jax.random.key(1), energy, Sphere(2), Samples(points), Samples(jnp.array([[1.0, 0.0]])))
    >>> bool(theta[0] > 0.99), float(sign)
    (True, -1.0)
    """
    check_key(key)
    checks.choice("ball", ball, BALLS)
    feature = energy.feature
    parameters = feature.parameter_space(space)
    both = Samples(jnp.concatenate([model.points, data.points]), jnp.log(jnp.concatenate([model.weights, data.weights])))
    theta = jnp.concatenate([energy.positions, feature.draw(key, space, starts, both)])
    signs = {"full": [1, -1], "negative": [-1], "positive": [1]}[ball]
    sign = jnp.repeat(jnp.asarray(signs, theta.dtype), theta.shape[0])
    theta = jnp.tile(theta, (len(signs), 1))

    def witness(theta):
        return jax.tree.map(jnp.subtract, feature_mean(feature, theta, model), feature_mean(feature, theta, data))

    def ascend(carry, k):
        theta, best, value = carry
        values, gradient = witness(theta)
        better = sign * values > value
        best, value = jnp.where(better[:, None], theta, best), jnp.where(better, sign * values, value)
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
    """The mean energy of samples before and after moves under that energy.

    Args:
        before: the mean energy before the moves.
        after: the mean energy after the moves.
        error: the standard error of the change.
    """

    before: Float[Array, ""]
    after: Float[Array, ""]
    error: Float[Array, ""]


def relaxation(key: Key[Array, ""], energy: Energy, space: Space, model: Samples, *, moves: int = 100) -> Relaxation:
    """Measure the change of E f over samples under `moves` steps of MALA of the space's default size.

    The moves leave the model exp(-f) tau invariant, so that for samples of the model the change is 0 up to its error. The change shows
    relaxation only within a mode. It does not show wrong masses of modes between which no particle moves, nor that an energy was fitted
    to the samples. The function is pure, and `moves` is static.

    Args:
        key: the random key of the moves.
        energy: the energy f.
        space: the space of the samples.
        model: the samples, with or without weights.
        moves: the number of moves.

    Returns:
        The mean energies before and after the moves, and the error of the change.

    Raises:
        ValueError: for fewer than one move.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> at_data, _ = targets.sample(jax.random.key(0), teacher, 1000)
    >>> change = relaxation(jax.random.key(1), teacher.energy, teacher.space, at_data)
    >>> bool(abs(change.after - change.before) < DOUBTFUL * change.error)
    True
    """
    check_key(key)
    checks.count("moves", moves)
    draw = drawn(key, space.dimension, model.points.dtype, "independent")
    moved, _, _ = langevin.move("mala", space, draw, model.points.T, energy, space.default_particle_step, steps=moves)
    before, after = energy(model.points), energy(moved.T)
    log_weights = jnp.zeros_like(before) if model.log_weights is None else model.log_weights
    mean, error = _mean_and_error(after - before, log_weights)
    at_first = measures.mean(before, log_weights)
    return Relaxation(at_first, at_first + mean, error)


def _mean_and_error(values, log_weights):
    """Return the weighted mean, and its standard error for independent samples by the delta method."""
    weights = shares(log_weights)
    mean = jnp.sum(weights * values)
    return mean, jnp.sqrt(jnp.sum((weights * (values - mean)) ** 2))


def _halves(model: Samples) -> list[Samples]:
    """Return every other sample. Particles i and i + N/2 share their noise and stay together where N is a multiple of 4."""
    log_weights = jnp.zeros_like(model.points[:, 0]) if model.log_weights is None else model.log_weights
    return [Samples(model.points[i::2], log_weights[i::2]) for i in range(2)]


def _warn_where_not_relaxed(key, energy, space, model) -> None:
    change = relaxation(key, energy, space, model)
    if isinstance(change.error, Tracer):
        return
    before, after, error = map(float, change)
    if abs(after - before) > DOUBTFUL * error:
        warnings.warn(
            f"model is not relaxed: its mean energy goes from {before:.4g} to {after:.4g} under MALA, by {abs(after - before) / error:.0f} "
            "standard errors; the gap is that of these samples, not of samples of the energy: leave model out",
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
    """Return the duality gap of an energy within the ball of a radius, or within its part of one sign.

    The function is pure and jittable but for its warning. The counts are static.

    Args:
        key: the random key of the search and of the samples.
        energy: the shallow energy f. Its total variation, the mean |c_j|, must be within the radius. Otherwise the gap is that of the
            larger ball that holds it.
        space: the space of the data.
        data: the data.
        radius: the radius R of the ball, in units of temperature.
        quadrature: a quadrature of the base measure that is exact for f, as any energy on S^1 and S^2 has. The gap is then exact up
            to the search of theta*, and its error is 0. None to draw `chains` annealed samples (`annealing.anneal`) in each half, with an
            error that falls as R / sqrt(chains).
        model: known samples of exp(-f) tau, at least four, in place of drawn ones. Every other one is used for the search. Particles of a
            training are not samples of its energy. The gap from them is too small, because the energy was fitted to them, and its
            error is wrong too. Outside of jit a warning says where `relaxation` sees that they move. There is no warning within
            jit, nor for fitted particles that are at rest.
        ball: one of `BALLS`: "full", or "negative" or "positive" for energies whose charges all have that sign.
        chains: the number of annealed samples in each half.
        temperatures: the number of temperatures of the annealing.
        starts: the number of drawn parameters from which the ascent to the supremum starts (see `supremum`).
        steps: the number of steps of that ascent.

    Returns:
        The gap with its error, and theta* with its sign.

    Raises:
        ValueError: for a ball or a count that is not allowed, fewer than four samples of the model, and both a quadrature and a model.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere; from dualebm.log_z.quadrature import sphere_quadrature
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> data = Samples(jnp.array([[1.0, 0.0, 0.0]]))
    >>> certificate = certify(jax.random.key(0), energy, Sphere(3), data, 2.0, quadrature=sphere_quadrature(Sphere(3), 32))
    >>> round(float(certificate.gap), 2), float(certificate.error)  # 2 sup |1/4 - phi((1, 0, 0), theta)|
    (1.5, 0.0)
    """
    check_key(key)
    for name, value in (("chains", chains), ("temperatures", temperatures), ("starts", starts), ("steps", steps)):
        checks.count(name, value)
    if model is not None and quadrature is not None:
        raise ValueError("quadrature and model are both given; give one of them, or neither")
    search_key, model_key = jax.random.split(key)
    judge: Any
    if quadrature is not None:
        base = 0 if quadrature.log_weights is None else quadrature.log_weights
        search = judge = Samples(quadrature.points, base - energy(quadrature.points))
    elif model is not None:
        checks.count("model.points, in number,", model.points.shape[0], 4)
        _warn_where_not_relaxed(model_key, energy, space, model)
        search, judge = _halves(model)
    else:
        search, judge = _halves(anneal(model_key, energy, space, 2 * chains, temperatures=temperatures))
    position, sign = supremum(search_key, energy, space, search, data, ball=ball, starts=starts, steps=steps)

    def decrease(x):
        return radius * sign * energy.feature(x, position[None])[:, 0] - energy(x)

    values, observed = decrease(judge.points), measures.mean(decrease(data.points), data.log_weights)
    mean, error = _mean_and_error(values, judge.log_weights)
    return Certificate(mean - observed, error if quadrature is None else jnp.zeros_like(error), position, sign)


def summary(certificate: Certificate, radius: float, ball: str = "full") -> str:
    """Return a certificate as a sentence.

    An error of 0, which is by quadrature, makes the gap exact. Otherwise it is an estimate with its standard error.

    Args:
        certificate: the certificate.
        radius: the radius of the ball.
        ball: one of `BALLS`.

    Returns:
        The sentence, without a full stop.

    Raises:
        ValueError: for a ball that does not exist.

    >>> summary(Certificate(jnp.float32(0.0213), jnp.float32(0.0021), jnp.zeros(3), jnp.ones(())), 10.0)
    'estimated within 0.0213 +- 0.0021 nats of the best F1 energy of radius 10'
    >>> summary(Certificate(jnp.float32(0.0213), jnp.float32(0.0), jnp.zeros(3), jnp.ones(())), 10.0, "negative")
    'within 0.0213 nats of the best negative F1 energy of radius 10 (by quadrature)'
    """
    checks.choice("ball", ball, BALLS)
    gap, error = float(certificate.gap), float(certificate.error)
    best = f"nats of the best {'' if ball == 'full' else ball + ' '}F1 energy of radius {float(radius):g}"
    return f"estimated within {gap:.4f} +- {error:.4f} {best}" if error else f"within {gap:.4f} {best} (by quadrature)"


def within(tolerance: float, sigmas: float = 2.0):
    """Make a rule for the argument `callback` of `run`, for a run that records the metric `gap`.

    The run stops once the last gap plus `sigmas` of its standard errors is at most `tolerance`.

    Args:
        tolerance: the largest allowed gap, in nats.
        sigmas: the number of standard errors to add to the gap.

    Returns:
        The rule: a function of the results of a run that returns True where the run shall stop.

    Raises:
        ValueError: the tolerance is not positive, or sigmas is negative.

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
