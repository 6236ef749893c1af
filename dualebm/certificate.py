"""How far an energy is from the best of the F1 ball, in nats: a duality gap that needs no partition function (arXiv 2107.05134, Theorem 1).

For f of a signed measure gamma in the ball of radius R, with F(theta) = E_model phi - E_data phi and the model that of f itself,

    G(gamma) = R sup_theta |F(theta)| - int F dgamma >= L(gamma) - min over the ball of L,   L(gamma) = E_data f + log Z_f,

because L is convex and G is its largest linear decrease. As int F dgamma = E_model f - E_data f, with theta* and its sign s where the
supremum is,

    G = E_model g - E_data g,   g = R s phi(., theta*) - f,

is one difference of means. With samples of the model the supremum is sought on one half of them and evaluated on the other, where G is then
unbiased for that theta*; a search that stops at a local supremum still underestimates it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import checks, measures, partition
from dualebm.energy import Shallow, feature_mean
from dualebm.measures import Samples, shares
from dualebm.spaces import Space

BALLS = ("full", "negative", "positive")
"""Energies against which is certified: all of the ball, or those of one sign."""

FIRST_STEP, SHRINK = 0.3, 0.93
"""Of the ascent to the supremum: the length of its first step, in units of the parameters, and the factor from each to the next."""


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


def certify(
    key: Key[Array, ""],
    energy: Shallow,
    space: Space,
    data: Samples,
    radius: Float[Array, ""] | float,
    *,
    quadrature: Samples | None = None,
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
            and its error 0. None for `chains` annealed ones (`partition.anneal`) in each half, whose error falls as R / sqrt(chains).
        ball: "full", or "negative" or "positive", of energies whose charges all have that sign.
        starts, steps: of the ascent to the supremum.

    Raises ValueError for a ball or a count that is not allowed. Pure and jittable; the counts are static.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> data = Samples(jnp.array([[1.0, 0.0, 0.0]]))
    >>> found = certify(jax.random.key(0), energy, Sphere(3), data, 2.0, quadrature=partition.sphere_quadrature(Sphere(3), 32))
    >>> round(float(found.gap), 2), float(found.error)  # 2 sup |1/4 - phi((1, 0, 0), theta)|
    (1.5, 0.0)
    """
    for name, value in (("chains", chains), ("temperatures", temperatures), ("starts", starts), ("steps", steps)):
        checks.count(name, value)
    search_key, first_key, second_key = jax.random.split(key, 3)
    judge: Any
    if quadrature is not None:
        base = 0 if quadrature.log_weights is None else quadrature.log_weights
        seen = judge = Samples(quadrature.points, base - energy(quadrature.points))
    else:
        seen, judge = (partition.anneal(k, energy, space, chains, temperatures=temperatures) for k in (first_key, second_key))
    position, sign = supremum(search_key, energy, space, seen, data, ball=ball, starts=starts, steps=steps)

    def decrease(x):
        return radius * sign * energy.feature(x, position[None])[:, 0] - energy(x)

    values, observed = decrease(judge.points), measures.mean(decrease(data.points), data.log_weights)
    weights = shares(judge.log_weights)
    mean = jnp.sum(weights * values)
    error = jnp.zeros_like(mean) if quadrature is not None else jnp.sqrt(jnp.sum((weights * (values - mean)) ** 2))
    return Certificate(mean - observed, error, position, sign)


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
