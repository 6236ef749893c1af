"""Fully corrective Frank-Wolfe over the F1 ball: the loss L(g) = E_data g + log Z_g is lowered until the duality gap is small.

The ball of radius R holds the energies g = sum_j a_j phi(., theta_j) with sum_j |a_j| <= R. A step adds the parameters where F is locally
largest as atoms of coefficient 0, with F(theta) = E_g phi - E_data phi, and then minimises L over all coefficients of the ball. That is a
convex problem, because L is convex and g linear in a.

Means under g are those of a measure that represents the model of another energy f, with the weights exp(f - g). So
L(f) - L(g) = E_data (f - g) - log E_f exp(f - g) needs no log Z. The points may be the nodes of a quadrature or samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax.projections import projection_simplex

from dualebm._internal.blocks import block_columns, map_blocks, product, sum_blocks
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Feature
from dualebm.geometry import Space
from dualebm.measures import Samples, log_mean_exp, mean
from dualebm.suprema import PEAKS, SIGNS, Measure, Peaks, means, peaks, tilted

KEPT = 128
"""The number of atoms of the largest coefficients of f from which a polish starts. Each step adds `PEAKS`."""

NEWTON, INNER, HALVINGS = 12, 600, 6
"""The largest number of Newton steps over coefficients, the iterations of the quadratic problem of each, and the step sizes it tries."""

SMALL = 0.01
"""A Newton method ends where the gap over its atoms is this part of the best bound, and a polish where a round lowers the bound by less."""


def combined(feature: Feature, theta: Float[Array, "m p"], a: Float[Array, " m"], columns: Float[Array, "d N"]) -> Float[Array, " N"]:
    """Return sum_j a_j phi(x_i, theta_j) at points that are columns.

    Args:
        feature: phi.
        theta: the parameters, (m, p).
        a: the coefficients, (m,).
        columns: the points, as columns, (d, N).

    Returns:
        The sums, (N,).

    >>> from dualebm.features import ReLU
    >>> combined(ReLU(), jnp.eye(2), jnp.array([2.0, 3.0]), jnp.eye(2)).tolist()
    [2.0, 3.0]
    """
    return map_blocks(lambda x: product(feature(x.T, theta), a), columns, block_columns(theta.shape[0]))


# -- The coefficients ----------------------------------------------------------------------------------


def projected(a: Float[Array, " m"], radius: Float[Array, ""] | float, ball: str) -> Float[Array, " m"]:
    """Return the coefficients of a ball that are nearest to given ones.

    Args:
        a: the coefficients, (m,).
        radius: the radius of the ball.
        ball: one of `SIGNS`.

    Returns:
        Coefficients, (m,), of the signs of the ball, whose absolute values sum to at most the radius.

    >>> projected(jnp.array([3.0, -2.0]), 2.0, "full").tolist(), projected(jnp.array([3.0, -2.0]), 2.0, "positive").tolist()
    ([1.5, -0.5], [2.0, 0.0])
    """
    sign = jnp.sign(a) if ball == "full" else SIGNS[ball][0]
    size = jnp.maximum(sign * a, 0)
    return sign * jnp.where(jnp.sum(size) <= radius, size, projection_simplex(size, radius))


def quadratic_step(
    slope: Float[Array, " m"], covariance: Float[Array, "m m"], a: Float[Array, " m"], radius: Float[Array, ""] | float, ball: str
) -> Float[Array, " m"]:
    """Return the b in a ball with the least slope . (b - a) + (b - a) covariance (b - a) / 2, by projected gradients with momentum.

    The momentum starts again where it leads uphill (O'Donoghue, Candes 2015).

    Args:
        slope: the slope at a, (m,).
        covariance: the curvature, (m, m).
        a: the coefficients, (m,).
        radius: the radius of the ball.
        ball: one of `SIGNS`.

    Returns:
        The coefficients b, (m,).

    >>> quadratic_step(jnp.array([-1.0, -3.0]), jnp.eye(2), jnp.zeros(2), 2.0, "full").round(4).tolist()
    [0.0, 2.0]
    """
    rate = 1 / jnp.max(jnp.sum(jnp.abs(covariance), axis=1))

    def step(carry, _):
        x, y, t = carry
        new = projected(y - rate * (slope + product(covariance, y - a)), radius, ball)
        t = jnp.where(product(y - new, new - x) > 0, 1.0, t)
        after = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return (new, new + (t - 1) / after * (new - x), after), None

    (b, _, _), _ = jax.lax.scan(step, (a, a, jnp.ones((), a.dtype)), None, length=INNER)
    return b


class Point(NamedTuple):
    """An energy g = sum_j a_j phi(., theta_j) beside an energy f.

    Args:
        positions: theta_j, (M, p).
        coefficients: a_j, (M,).
        seen: E_data phi(., theta_j), (M,).
        change: f - g at the points of the measure, (N,).
        observed: E_data (f - g).
    """

    positions: Float[Array, "M p"]
    coefficients: Float[Array, " M"]
    seen: Float[Array, " M"]
    change: Float[Array, " N"]
    observed: Float[Array, ""]


def fall(measure: Measure, change: Float[Array, " N"], observed: Float[Array, ""]) -> Float[Array, ""]:
    """Return L(f) - L(g) = E_data (f - g) - log E_f exp(f - g).

    Args:
        measure: the model of f.
        change: f - g at its points, (N,).
        observed: E_data (f - g).

    Returns:
        How much lower the loss of g is, in nats.

    >>> two = Measure(jnp.eye(2), jnp.array([0.5, 0.5]))
    >>> round(float(fall(two, jnp.array([0.0, jnp.log(3.0)]), jnp.array(0.0))), 4)  # -log 2
    -0.6931
    """
    centre = jnp.sum(measure.weights * change)
    return observed - centre - log_mean_exp(change - centre, measure.weights)


def weighed(feature: Feature, measure: Measure, at: Point, radius: Any, ball: str, tolerance: Float[Array, ""]) -> Point:
    """Minimise L over the coefficients of a ball, by Newton steps whose quadratic problem is solved within the ball.

    Args:
        feature: phi.
        measure: the model of f.
        at: the first energy g.
        radius: the radius of the ball.
        ball: one of `SIGNS`.
        tolerance: the duality gap over the atoms at which it ends, in nats.

    Returns:
        The last energy g.

    >>> from dualebm.features import ReLU
    >>> axes = Measure(jnp.eye(2), jnp.array([0.5, 0.5]))
    >>> start = Point(jnp.eye(2), jnp.zeros(2), jnp.array([0.25, 0.75]), jnp.zeros(2), jnp.zeros(()))
    >>> best = weighed(ReLU(), axes, start, 9.0, "full", jnp.array(1e-6))  # the model has the masses of the data
    >>> [round(float(weight), 3) for weight in tilted(axes, best.change).weights]
    [0.25, 0.75]
    """
    theta, seen, columns = at.positions, at.seen, measure.columns
    width = block_columns(theta.shape[0])

    def step(carry):
        i, at, _ = carry
        model = tilted(measure, at.change)
        centre = means(feature, theta, model)[0]

        def second(x, w):
            centred = feature(x.T, theta) - centre[None]
            return product(centred.T * w[None], centred)

        slope, covariance = seen - centre, sum_blocks(second, tuple(model), width)
        covariance = covariance + 1e-6 * jnp.mean(jnp.diag(covariance)) * jnp.eye(len(slope), dtype=slope.dtype)
        way = quadratic_step(slope, covariance, at.coefficients, radius, ball) - at.coefficients
        along, observed = combined(feature, theta, way, columns), product(seen, way)
        sizes = jnp.append(0.5 ** jnp.arange(HALVINGS, dtype=slope.dtype), 0)
        size = sizes[jnp.argmax(jax.lax.map(lambda t: fall(measure, at.change - t * along, at.observed - t * observed), sizes))]
        highest = jnp.maximum(jnp.max(jnp.stack([jnp.max(-s * slope) for s in SIGNS[ball]])), 0)
        gap = radius * highest + product(at.coefficients, slope)  # of the g before the step
        moved = at._replace(
            coefficients=at.coefficients + size * way, change=at.change - size * along, observed=at.observed - size * observed
        )
        return i + 1, moved, jnp.where(size > 0, gap, 0)

    start = (jnp.int32(0), at, jnp.asarray(jnp.inf, seen.dtype))
    return jax.lax.while_loop(lambda carry: (carry[0] < NEWTON) & (carry[2] > tolerance), step, start)[1]


# -- The polish ----------------------------------------------------------------------------------------


class Polished(NamedTuple):
    """The best bound of L(f) - L* that a polish found, with the energy g that gave it.

    Args:
        point: g beside f. With 0 rounds g is f, and the atoms are the largest of f.
        bound: L(f) - L(g) + G(g), in nats.
        position: the parameter where the supremum of G(g) is attained, (p,).
        sign: the sign of F there, or 0 where no charge is best.
        rounds: the number of rounds that led to it.
    """

    point: Point
    bound: Float[Array, ""]
    position: Float[Array, " p"]
    sign: Float[Array, ""]
    rounds: Int[Array, ""]


def polish(
    energy: Shallow, space: Space, measure: Measure, data: Samples, candidates: Float[Array, "P p"], radius: Any, ball: str, *, rounds: Any,
    steps: int,
) -> Polished:  # fmt: skip
    """Lower L from an energy f on, in rounds of two corrective steps each, while the bound L(f) - L(g) + G(g) falls.

    The second step of a round adds the maxima where they have moved to.

    Args:
        energy: f.
        space: the space of the points.
        measure: the model of f.
        data: the data.
        candidates: parameters from which the supremum of |F| is sought, (P, p).
        radius: the radius of the ball.
        ball: one of `SIGNS`.
        rounds: the largest number of rounds, which may be a traced integer. With 0 the bound is G(f).
        steps: the number of steps of each ascent to a maximum.

    Returns:
        The least bound.
    """
    feature, columns, f = energy.feature, measure.columns, energy(measure.columns.T)
    own = mean(energy(data.points), data.log_weights)
    known = feature_mean(feature, candidates, data)[0]

    def point(theta, a):
        seen = feature_mean(feature, theta, data)[0]
        return Point(theta, a, seen, f - combined(feature, theta, a, columns), own - product(seen, a))

    def step(carry):
        i, at, found, best, before, _ = carry

        def corrected():
            worst = jnp.argsort(jnp.abs(at.coefficients))[:PEAKS]
            inside = projected(at.coefficients.at[worst].set(0), radius, ball)  # where f lies outside of the ball
            more = point(at.positions.at[worst].set(found.positions), inside)
            return weighed(feature, measure, more, radius, ball, SMALL * best.bound)

        at = jax.lax.cond(i > 0, corrected, lambda: at)
        model = tilted(measure, at.change)
        places, seen = jnp.concatenate([candidates, at.positions]), jnp.concatenate([known, at.seen])
        found = peaks(feature, space, model, data, places, seen, ball, steps=steps)
        top = jnp.argmax(found.values)
        charge = jnp.sum(model.weights * (f - at.change)) - (own - at.observed)  # int F dgamma = E_g g - E_data g
        bound = fall(measure, at.change, at.observed) + radius * jnp.maximum(found.values[top], 0) - charge
        new = Polished(at, bound, found.positions[top], jnp.where(found.values[top] > 0, found.signs[top], 0), (i + 1) // 2)
        best = jax.tree.map(lambda one, other: jnp.where(bound < best.bound, one, other), new, best)
        ends = i % 2 == 0  # a round
        on = (i == 0) | (best.bound < (1 - SMALL) * before) | ~ends
        return i + 1, at, found, best, jnp.where(ends, best.bound, before), on

    a = energy.coefficients / energy.coefficients.shape[0]
    kept = jnp.argsort(-jnp.abs(a))[:KEPT]
    theta = jnp.concatenate([energy.positions[kept], jnp.broadcast_to(energy.positions[:1], (PEAKS, energy.positions.shape[1]))])
    a = jnp.concatenate([a[kept], jnp.zeros(PEAKS, a.dtype)])
    zero = jnp.zeros((), a.dtype)
    first = Point(theta, a, feature_mean(feature, theta, data)[0], jnp.zeros_like(f), zero)  # g = f, which may have more atoms
    none = Peaks(jnp.zeros_like(theta[:PEAKS]), jnp.zeros_like(a[:PEAKS]), jnp.zeros_like(a[:PEAKS]))
    highest = Polished(first, zero + jnp.inf, theta[0], zero, jnp.int32(0))
    carry = (jnp.int32(0), first, none, highest, zero + jnp.inf, jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: (carry[0] <= 2 * rounds) & carry[-1], step, carry)[3]
