"""How far an energy is from the best of the F1 ball, in nats, by a bound from duality that needs no partition function.

The source is arXiv 2107.05134, Theorem 1. Let f be the energy of a signed measure gamma in the ball of radius R, and F(theta) =
E_model phi - E_data phi with the model of f. Then

    G(f) = R sup_theta |F(theta)| - int F dgamma >= L(f) - L*,   L(f) = E_data f + log Z_f,   L* = min of L over the ball,

because L is convex and G is its largest linear decrease. G is of first order in f - f* and L(f) - L* of second order, so that G is far
too large near the best f*. But for every g

    L(f) - L* <= L(f) - L(g) + G(g),   L(f) - L(g) = E_data (f - g) - log E_f exp(f - g),

which is nearly L(f) - L* where g is nearly the best. Such a g is found from f by fully corrective Frank-Wolfe (`frank_wolfe`): the
polish. The bound is that of f, whatever g is.

**From samples** each half of them has its own L, whose means are those over the half. The least value of such an L has an expectation of
at most L*, as it is a minimum of means, and so has its logarithm of a mean, by Jensen's inequality (Mak, Morton, Wood 1999). So the bound
of the half, with its own g and its own supremum, is at least L(f) - L* in expectation. Nothing in it is of first order in the noise: its
error is that of E (exp(f - g) - 1), and that of the least value is of the order of (the number of atoms) / (the number of samples).
Control variates lower both (`control_variates`). They come from the other half. What g gains, L(f) - L(g), is evaluated on
the half that did not choose it, so that it is at most L(f) - L* in expectation.

A search that stops at a local supremum still underestimates G. By quadrature it starts from a grid of all parameters, where these fill a
space of few dimensions. Elsewhere the bound is called estimated.

The samples must be samples of the model. The particles of a training are not: they lag behind the energy, and the energy has been fitted
to them. `relaxation` detects the lag but not the fit.
"""

import functools
import math
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm import measures
from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.control_variates import crossed, errors
from dualebm.energies.shallow import Shallow
from dualebm.frank_wolfe import fall, polish
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal, log_mean_weight
from dualebm.measures import Samples, shares
from dualebm.relaxation import DOUBTFUL, relaxation
from dualebm.settings import Count, CountOrZero, NonNegative, Positive, checked
from dualebm.suprema import PEAKS, SIGNS, Measure, parameter_grid, tilted

BALLS = tuple(SIGNS)
"""The sets of energies among which `certify` looks for the best: the whole ball, or its energies of one sign."""

SMALLEST_FRACTION = 0.1
"""The effective fraction of the weights exp(f - g) below which samples of f do not stand for the model of g."""

STAGES = 4
"""The largest number of energies of which samples are drawn, one after the other, for one certificate."""

USELESS = 1.0
"""The bound above which `doubt` calls it useless, in nats."""

FAR = 0.5
"""The total variation below which `doubt` says that the budget is far from reached, as a part of that of the polished energy."""


class Certificate(NamedTuple):
    """A bound of the distance L(f) - L* of an energy f to the best of a ball.

    Args:
        gap: the bound L(f) - L(g) + G(g), in nats. Without a polish g is f.
        error: its standard error, in nats, which is 0 by quadrature.
        gain: L(f) - L(g), what the polished energy gains, in nats. It is at most L(f) - L*, in expectation.
        energy: the polished energy g. It is nearer to the maximum-likelihood estimate in the ball, which has not the least KL to what the
            data are drawn from.
        position: the parameter theta* where the supremum of G(g) is attained, (p,).
        sign: the sign of F at theta*, or 0 where no charge at all is best.
        total_variation: the total variation of f, the mean |c_j|.
        fraction: the effective fraction of the weights exp(f - g) of the samples.
        exact: whether means are by quadrature and the supremum was sought from a grid of all parameters.
    """

    gap: Float[Array, ""]
    error: Float[Array, ""]
    gain: Float[Array, ""]
    energy: Shallow
    position: Float[Array, " p"]
    sign: Float[Array, ""]
    total_variation: Float[Array, ""]
    fraction: Float[Array, ""]
    exact: Bool[Array, ""]


def _warn_where_not_relaxation(key, energy, space, model) -> None:
    change = eqx.filter_jit(relaxation)(key, energy, space, model)
    if isinstance(change.error, Tracer):
        return
    before, after, error = map(float, change)
    if abs(after - before) > DOUBTFUL * error:
        warnings.warn(
            f"model is not relaxed: its mean energy goes from {before:.4g} to {after:.4g} under MALA, by {abs(after - before) / error:.0f} "
            "standard errors; the gap is that of these samples, not of samples of the energy: leave model out",
            stacklevel=3,
        )


class _Problem(NamedTuple):
    """What all bounds of a certificate share."""

    space: Space
    data: Samples
    radius: Any
    ball: str
    candidates: Float[Array, "P p"]
    polish: Int[Array, ""]
    steps: int


def _polished(problem, measure, energy):
    space, data, radius, ball, candidates, rounds, steps = problem
    return polish(energy, space, measure, data, candidates, radius, ball, rounds=rounds, steps=steps)


def _by_quadrature(problem, energy, quadrature, exact):
    base = 0 if quadrature.log_weights is None else quadrature.log_weights
    measure = Measure(quadrature.points.T, shares(base - energy(quadrature.points)))
    found = _polished(problem, measure, energy)
    gained, weights = fall(measure, found.point.change, found.point.observed), tilted(measure, found.point.change).weights
    fraction = jnp.sum(measure.weights**2) / jnp.sum(weights**2)
    return _certificate(energy, found, found.bound, jnp.zeros_like(found.bound), gained, fraction, exact)


def _certificate(f, found, gap, error, gain, fraction, exact):
    """Put a certificate together. Where several polishes were made, the energy is their mean, which lies in the ball."""
    found = found if found.bound.ndim else jax.tree.map(lambda x: x[None], found)
    count, at = found.bound.shape[0], jnp.argmax(found.bound)
    none = found.rounds == 0  # then g is f
    own, a = f.coefficients / f.coefficients.shape[0], found.point.coefficients
    a = jnp.concatenate([jnp.mean(none, dtype=a.dtype) * own, jnp.where(none[:, None], 0, a).ravel() / count])
    theta = jnp.concatenate([f.positions, found.point.positions.reshape(-1, f.positions.shape[1])])
    used = jnp.mean(jnp.abs(f.coefficients))
    energy = Shallow(f.feature, theta, len(a) * a)
    return Certificate(gap, error, gain, energy, found.position[at], found.sign[at], used, fraction, jnp.asarray(exact))


def _by_samples(problem, energy, model):
    """Return the polishes of both halves of samples, with the mean bound, its error, what the other half gains, and the least fraction."""
    halves = _halves(model)
    samples, logs = crossed(energy, problem.space, halves), halves.log_weights
    points = halves.points.reshape(-1, halves.points.shape[2])
    f, columns = energy(points), points.T
    found = jax.lax.map(lambda weights: _polished(problem, Measure(columns, weights), energy), samples.weights)

    def values(found, weights):
        """Return the derivative of the bound of a half in the weights of the points."""
        model = tilted(Measure(columns, weights), found.point.change)
        ratio = model.weights / jnp.where(weights == 0, 1, weights)
        charge = problem.radius * found.sign * energy.feature(points, found.position[None])[:, 0]
        decrease = charge - (f - found.point.change)
        first = ratio * (decrease - jnp.sum(model.weights * decrease))  # of G(g), which a polish makes small
        return jnp.where(found.rounds == 0, first, 0) - (ratio - 1)

    error = errors(samples, jax.vmap(values)(found, samples.weights))
    other = jax.vmap(lambda weights, point: fall(Measure(columns, weights), point.change, point.observed))
    gain = jnp.mean(other(samples.weights[::-1], found.point))
    own = jnp.diagonal(found.point.change.reshape(2, 2, -1)).T  # f - g of each half at its own points
    size = jax.vmap(lambda log_weights: jnp.sum(shares(log_weights) ** 2))
    return found, jnp.mean(found.bound), jnp.sqrt(jnp.sum(error**2)) / 2, gain, jnp.min(size(logs) / size(logs + own))


def _halves(model: Samples) -> Any:
    """Return every other sample, points (2, n, d). Particles i and i + N/2 share noise, and stay together where N is a multiple of 4."""
    count = model.points.shape[0] // 2 * 2
    log_weights = jnp.zeros_like(model.points[:, 0]) if model.log_weights is None else model.log_weights
    points = model.points[:count].reshape(-1, 2, model.points.shape[1])
    return Samples(jnp.swapaxes(points, 0, 1), log_weights[:count].reshape(-1, 2).T)


def _by_drawn_samples(key, problem, energy, chains, temperatures):
    """Draw samples of f, and where they do not stand for the model of g, of g itself, until they do."""
    size, a = max(energy.coefficients.shape[0], 2 * PEAKS), energy.coefficients / energy.coefficients.shape[0]
    more = size - len(a)

    def shallow(theta, a):
        return Shallow(energy.feature, theta, len(a) * a)

    def observed(energy):
        return measures.mean(energy(problem.data.points), problem.data.log_weights)

    first = shallow(
        jnp.concatenate([energy.positions, jnp.broadcast_to(energy.positions[:1], (more, energy.positions.shape[1]))]),
        jnp.concatenate([a, jnp.zeros(more, a.dtype)]),
    )

    def stage(carry):
        i, reference, log_z, _ = carry
        model = anneal(jax.random.fold_in(key, i), reference, problem.space, 2 * chains, temperatures=temperatures)
        weights: Any = model.log_weights
        here, uncertain, _ = log_mean_weight(weights)
        log_z = jax.tree.map(lambda known, new: jnp.where(i == 0, new, known), log_z, (here, uncertain))
        offset = jnp.where(i == 0, 0, observed(energy) - observed(reference) + log_z[0] - here)
        variance = jnp.where(i == 0, 0, log_z[1] ** 2 + uncertain**2)
        found, bound, error, gain, fraction = _by_samples(problem, reference, model)
        made = _certificate(reference, found, bound + offset, jnp.sqrt(error**2 + variance), gain + offset, fraction, False)
        theta, a = found.point.positions[0], found.point.coefficients[0]
        kept = jnp.argsort(-jnp.abs(a))[:size]
        rest = size - len(kept)
        places = jnp.concatenate([theta[kept], jnp.broadcast_to(theta[:1], (rest, theta.shape[1]))])
        return i + 1, shallow(places, jnp.concatenate([a[kept], jnp.zeros(rest, a.dtype)])), log_z, made

    kinds = jax.eval_shape(stage, (jnp.int32(0), first, (jnp.zeros((), a.dtype),) * 2, None))[3]
    none = jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), kinds)
    carry = (jnp.int32(0), first, (jnp.zeros((), a.dtype),) * 2, none)
    again = lambda carry: (carry[0] < STAGES) & (carry[3].fraction < SMALLEST_FRACTION)  # noqa: E731
    made = jax.lax.while_loop(again, stage, carry)[3]
    return made._replace(total_variation=jnp.mean(jnp.abs(energy.coefficients)))


@functools.partial(brief, jit=eqx.filter_jit)
def _bounded(key, energy, space, data, radius, quadrature, model, ball, polish, chains, temperatures, starts, steps):
    """Return the certificate. One program serves all radii, numbers of rounds and energies of one size."""
    parameter_key, model_key = jax.random.split(key)
    feature = energy.feature
    grid = None if quadrature is None else parameter_grid(feature, space)
    about = data if quadrature is None else Samples(jnp.concatenate([quadrature.points, data.points]))
    drawn = feature.draw(parameter_key, space, starts, about)
    known = [] if grid is None else [jnp.asarray(grid, energy.positions.dtype)]
    problem = _Problem(space, data, radius, ball, jnp.concatenate([*known, drawn, energy.positions]), polish, steps)
    if quadrature is not None:
        return _by_quadrature(problem, energy, quadrature, grid is not None)
    if model is not None:
        found, bound, error, gain, fraction = _by_samples(problem, energy, model)
        return _certificate(energy, found, bound, error, gain, fraction, False)
    return _by_drawn_samples(model_key, problem, energy, chains, temperatures)


@checked
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
    polish: CountOrZero = 3,
    chains: Count = 20_000,
    temperatures: Count = 100,
    starts: Count = 256,
    steps: Count = 80,
) -> Certificate:
    """Return a bound of how far an energy is from the best of the ball of a radius, or of its part of one sign.

    The function is pure and jittable but for its warning. The counts are static, apart from `polish` in its program.

    Args:
        key: the random key of the search and of the samples.
        energy: the shallow energy f. Its total variation, the mean |c_j|, need not be within the radius.
        space: the space of the data.
        data: the data.
        radius: the radius R of the ball, in units of temperature.
        quadrature: a quadrature of the base measure that is exact for f, as any energy on S^1 and S^2 has. The bound is then exact, and its
            error is 0. None to draw `chains` annealed samples (`annealing.anneal`) in each half. Where they do not stand for the model of
            the polished energy, samples of that are drawn, and the bound has the errors of both log Z.
        model: known samples of exp(-f) tau, at least four, in place of drawn ones. Every other one is of the same half. Particles of a
            training are not samples of its energy. The bound from them need not hold, because the energy was fitted to them, and its
            error is wrong too. Outside of jit a warning says where `relaxation` sees that they move. There is no warning within
            jit, nor for fitted particles that are at rest.
        ball: one of `BALLS`: "full", or "negative" or "positive" for energies whose charges all have that sign.
        polish: the largest number of rounds of the polish, which ends where a round lowers the bound by less than 1%. With 0 the bound
            is the duality gap G of f itself, which is far larger.
        chains: the number of annealed samples in each half.
        temperatures: the number of temperatures of the annealing.
        starts: the number of drawn parameters among which the search of the supremum starts, beside the atoms and, by quadrature, a grid.
        steps: the number of steps of its ascents.

    Returns:
        The bound with its error, what the polished energy gains, and that energy.

    Raises:
        ValueError: for a ball or a count that is not allowed, fewer than four samples of the model, and both a quadrature and a model.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere; from dualebm.log_z.quadrature import sphere_quadrature
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> data, nodes = Samples(jnp.array([[1.0, 0.0, 0.0]])), sphere_quadrature(Sphere(3), 32)
    >>> unpolished = certify(jax.random.key(0), energy, Sphere(3), data, 2.0, quadrature=nodes, polish=0)
    >>> round(float(unpolished.gap), 2)  # 2 sup |1/4 - phi((1, 0, 0), theta)|
    1.5
    >>> certificate = certify(jax.random.key(0), energy, Sphere(3), data, 2.0, quadrature=nodes)
    >>> round(float(certificate.gap), 2), round(float(certificate.gain), 2), float(certificate.error)  # f* = -2 phi(., (1, 0, 0))
    (1.26, 1.26, 0.0)
    """
    check_key(key)
    checks.choice("ball", ball, BALLS)
    for name, value in (("chains", chains), ("temperatures", temperatures), ("starts", starts), ("steps", steps)):
        checks.count(name, value)
    if model is not None and quadrature is not None:
        raise ValueError("quadrature and model are both given; give one of them, or neither")
    if model is not None:
        checks.count("model.points, in number,", model.points.shape[0], 4)
        _warn_where_not_relaxation(key, energy, space, model)
    radius = jnp.asarray(radius, energy.coefficients.dtype)
    return _bounded(key, energy, space, data, radius, quadrature, model, ball, jnp.int32(polish), chains, temperatures, starts, steps)


@checked
def doubt(certificate: Certificate) -> str | None:
    """Return why the bound of a certificate says little about its energy, or None.

    Args:
        certificate: the certificate.

    Returns:
        A sentence without a full stop: too few samples count, the energy is far from its budget, or the bound is above 1 nat. The budget
        is far from reached where a polished energy has twice the total variation.

    >>> from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([900.0, 1100.0]))
    >>> of = lambda gap, used: Certificate(gap, 0.0, 0.0, energy, jnp.zeros(2), 1.0, used, 1.0, True)
    >>> doubt(of(806.0, 990.0)), doubt(of(0.3, 12.0)), doubt(of(0.3, 990.0))
    ('its bound is above 1 nat', 'its total variation 12 is far from that of a better energy, 1000', None)
    """
    if not certificate.fraction >= SMALLEST_FRACTION:
        return f"only {100 * float(certificate.fraction):.2g}% of the samples count for a better energy"
    used, better = float(certificate.total_variation), float(jnp.mean(jnp.abs(certificate.energy.coefficients)))
    if used < FAR * better:
        return f"its total variation {used:.4g} is far from that of a better energy, {better:.4g}"
    if not math.isfinite(certificate.gap):
        return "its bound is not finite"
    return None if certificate.gap <= USELESS else f"its bound is above {USELESS:g} nat"


@checked
def summary(certificate: Certificate, radius: float, ball: str = "full") -> str:
    """Return a certificate as a sentence.

    It has no number where the number says little (see `doubt`). The number is an estimate where it is from samples, and where a search
    may have missed the supremum.

    Args:
        certificate: the certificate.
        radius: the radius of the ball.
        ball: one of `BALLS`.

    Returns:
        The sentence, without a full stop.

    Raises:
        ValueError: for a ball that does not exist.

    >>> from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([9.0, 11.0]))
    >>> exact = Certificate(0.0213, 0.0, 0.02, energy, jnp.zeros(2), 1.0, 10.0, 1.0, True)
    >>> summary(exact, 10.0, "negative")
    'within 0.0213 nats of the best negative F1 energy of radius 10 (by quadrature)'
    >>> summary(exact._replace(error=0.0021, exact=False), 10.0)
    'estimated within 0.0213 +- 0.0021 nats of the best F1 energy of radius 10'
    >>> summary(exact._replace(total_variation=2.0), 10.0)
    'not known to be near the best F1 energy of radius 10: its total variation 2 is far from that of a better energy, 10'
    """
    checks.choice("ball", ball, BALLS)
    gap, error, exact = float(certificate.gap), float(certificate.error), bool(certificate.exact)
    return stated(gap, error, exact, doubt(certificate), float(radius), ball)


def stated(gap: float | None, error: float | None, exact: bool, doubt: str | None, radius: float, ball: str = "full") -> str:
    """Return a bound, or the reason why there is none, as the sentence of `summary`.

    Args:
        gap: the bound, in nats.
        error: its standard error, in nats, which is 0 by quadrature.
        exact: whether the supremum was sought from a grid of all parameters.
        doubt: why the bound says little, or None.
        radius: the radius of the ball.
        ball: one of `BALLS`.

    Returns:
        The sentence, without a full stop.

    >>> stated(0.5, 0.0, False, None, 3.5)
    'estimated within 0.5000 nats of the best F1 energy of radius 3.5 (by quadrature)'
    """
    best = f"the best {'' if ball == 'full' else ball + ' '}F1 energy of radius {radius:g}"
    if doubt is not None:
        return f"not known to be near {best}: {doubt}"
    if error:
        return f"estimated within {gap:.4f} +- {error:.4f} nats of {best}"
    return f"{'' if exact else 'estimated '}within {gap:.4f} nats of {best} (by quadrature)"


@checked
def within(tolerance: Positive, sigmas: NonNegative = 2.0):
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
    def stop(results) -> bool:
        gap, error = results.gap.values[-1]
        return bool(gap + sigmas * error <= tolerance)

    return stop
