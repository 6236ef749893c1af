"""Training against particles whose learning rate, number of moves and particle step follow from what the particles and the gradient say.

A step of the parameters by delta changes the log weight of particle i by about -s_i, the slope s_i = <delta, dU/dtheta(X_i)>. D is the
gradient of the loss.

    learning rate   its factor r grows while the gradient still points along the last step delta, or is against it by no more than the
                    noise of the gradient and the walls of a narrow valley bring about, and falls where that step went too far:
                    log r <- log r + gain (cos(delta, -D) + slack)
    largest step    the largest share c of the step, at most 1, for which the effective fraction of the log weights A - c s is at least
                    `target` times that of A. The factor becomes c r
    moves           rho is the correlation of the slopes before and after the moves of an iteration. Where it stays above 1/2, the
                    increments of the weights add up in the same particles: their variance grows (1 + rho) / (1 - rho) times as
                    fast as that of particles that forget. So the number of moves goes towards log(1/2) / log(rho) of them
    step            of a Metropolis-adjusted move: log h <- log h + gain (acceptance - aim)

Particles without weights have A = 0. The slopes are those of the energy itself, to first order in delta. So a step that would be far too
long is cut without an evaluation of the energy that it leads to. The log weights then grow by the difference of the energies, and stay
exact. As all choices depend on the particles, means by N of them have an additional error of order 1/N. Adapting a rate to the effective
sample size is an idea of arXiv 2505.18427 and 2601.22003, whose rules differ. -<delta, D> is the derivative of the loss by the learning
rate of the last step, up to a factor, by which hypergradient descent (arXiv 1703.04782) adapts it; here it is scaled to a cosine.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dualebm import measures
from dualebm._internal import blocks, collectives
from dualebm.flows import jarzynski

Scalar = Float[Array, ""]

ACCEPTANCE = 0.6
"""The fraction of moves that are accepted, near the best of MALA, 0.574 (Roberts, Rosenthal 1998)."""

GAIN = 0.1
"""The gain of all logarithms that are adapted, in each iteration."""

SLACK = 0.3
"""The opposition of step and gradient, minus their cosine, at which the learning rate stays as it is. At 0 the rate falls in each narrow
valley, whose walls throw a fast training from side to side while it still gets on. It was chosen on four rings in the plane. There 2000
iterations of `Jarzynski` reached a cross-entropy of -0.19 nat at 0, -0.60 at 0.1, -0.84 at 0.2 and -0.99 at 0.4."""

FORGETTING = 0.5
"""The correlation of slopes, before and after the moves of an iteration, at which the moves aim."""

SAMPLE = 1000
"""The number of particles that measure this correlation, at most."""

HALVINGS = 30
"""The number of halvings in the search for the share of a step."""

LONGEST = 20.0
"""The largest factor of the particle step and of the learning rate. The inverse of the smallest factor is its square."""


class Adapted(NamedTuple):
    """What a training adapts.

    Args:
        log_rate: the log factor of the learning rate.
        change: the last step of the trained parameters, with their structure.
        log_particle: the log factor of the particle step.
        log_moves: the log factor of the number of moves, at least 0.
    """

    log_rate: Scalar
    change: Any
    log_particle: Scalar
    log_moves: Scalar


def begin(trained: Any, dtype: Any) -> Adapted:
    """Return the start: the given steps, and the least number of moves.

    Args:
        trained: the trained parameters, as `likelihood.partition` returns them.
        dtype: the floating dtype of the particles.

    >>> float(begin(jnp.ones(2), jnp.float32).log_rate)
    0.0
    """
    zero = jnp.zeros((), dtype)
    return Adapted(zero, jax.tree.map(jnp.zeros_like, trained), zero, zero)


def cosine(a: Any, b: Any) -> Scalar:
    """Return the cosine of the angle between two vectors. It is 0 where one of them is 0.

    Args:
        a: a vector, as a pytree of arrays.
        b: a vector of the same structure.

    Returns:
        the cosine, in [-1, 1].

    >>> round(float(cosine({"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, 1.0])})), 6)
    0.707107
    """
    dot = lambda a, b: sum(jnp.vdot(p, q, precision="highest") for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))  # noqa: E731
    scale = jnp.sqrt(dot(a, a)) * jnp.sqrt(dot(b, b))
    return jnp.where(scale > 0, dot(a, b) / jnp.where(scale > 0, scale, 1), 0)


def log_rate_of(adapted: Adapted, gradient: Any, largest: float) -> Scalar:
    """Return the log factor of the learning rate of an iteration, before its step is cut: log r + gain (cos(delta, -D) + slack).

    Args:
        adapted: what the training has adapted.
        gradient: the gradient D of the loss, with the structure of the trained parameters.
        largest: the largest factor.

    >>> adapted = begin(jnp.ones(2), jnp.float32)._replace(change=jnp.array([1.0, 0.0]))
    >>> [round(float(log_rate_of(adapted, jnp.array([slope, 0.0]), 20.0)), 6) for slope in (-2.0, 2.0)]
    [0.13, -0.07]
    """
    return clipped(adapted.log_rate + GAIN * (SLACK - cosine(adapted.change, gradient)), largest)


def clipped(log_factor: Scalar, largest: float) -> Scalar:
    """Return a log factor between those of the smallest and the largest factor.

    Args:
        log_factor: the log factor, of any size.
        largest: the largest factor.

    Returns:
        the log factor, between -2 log `LONGEST` and log `largest`.

    >>> round(float(clipped(jnp.array(3.0), 20.0)), 3)
    2.996
    """
    return jnp.clip(log_factor, -2 * math.log(LONGEST), math.log(largest))


def slopes(before: Any, after: Any, x: Float[Array, "d N"]) -> Float[Array, " N"]:
    """Return the derivative of the energy at particles along a step of the parameters, streamed by blocks.

    Args:
        before: the energy U.
        after: the energy after the whole step.
        x: the particles as columns, (d, N).

    Returns:
        The slopes, (N,).

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, changed = (Shallow(ReLU(), jnp.eye(2), jnp.full(2, c)) for c in (1.0, 3.0))
    >>> slopes(energy, changed, jnp.eye(2)).tolist()
    [1.0, 1.0]
    """
    return blocks.map_blocks(lambda x: jarzynski.derivative(before, after, before, x), x, before.width)


def share_of_step(log_weights: Float[Array, " N"], slopes: Float[Array, " N"], target: Scalar | float) -> Scalar:
    """Return the largest share c in (0, 1] of a step for which the effective fraction of A - c s is at least `target` times that of A.

    Where devices share the particles, all receive the same share.

    Args:
        log_weights: the log weights A of the particles, (N,).
        slopes: their slopes s, (N,).
        target: the share of the effective fraction that is kept, in (0, 1].

    Returns:
        The share, a scalar.

    >>> slope = jnp.array([-1.0, 1.0])  # the effective fraction of +-c is 1 / (1 + tanh(c)^2)
    >>> round(float(share_of_step(jnp.zeros(2), slope, 1 / (1 + jnp.tanh(0.25) ** 2))), 5)
    0.25
    """
    log_weights, slopes = collectives.gather_pairs(log_weights), collectives.gather_pairs(slopes)
    least = target * measures.effective_sample_size(log_weights)

    def enough(share):
        return measures.effective_sample_size(log_weights - share * slopes) >= least

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    zero = jnp.zeros((), slopes.dtype)
    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (zero, zero + 1))
    return jnp.where(enough(zero + 1), 1, low)


def part_of_step(before: Any, after: Any, share: Scalar) -> Any:
    """Return the energy whose floating arrays lie at a share of the way from those of one energy to those of another.

    Args:
        before: the energy at the share 0.
        after: the energy at the share 1. Its other fields are kept.
        share: the share.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, changed = (Shallow(ReLU(), jnp.eye(2), jnp.full(2, c)) for c in (1.0, 3.0))
    >>> part_of_step(energy, changed, jnp.array(0.5)).coefficients.tolist()
    [2.0, 2.0]
    """
    old, (new, rest) = eqx.filter(before, eqx.is_inexact_array), eqx.partition(after, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda p, q: p + share * (q - p), old, new), rest)


def moves_of(adapted: Adapted, least: int, largest: int) -> Int[Array, ""]:
    """Return the number of moves of an iteration.

    Args:
        adapted: what the training has adapted.
        least: the least number.
        largest: the largest number.

    >>> int(moves_of(begin(jnp.ones(2), jnp.float32), 2, 8))
    2
    """
    return jnp.clip(jnp.round(least * jnp.exp(adapted.log_moves)).astype(jnp.int32), least, largest)


def correlation(before: Any, after: Any, x: Float[Array, "d N"], moved: Float[Array, "d N"]) -> Scalar:
    """Return the correlation of the slopes of the first `SAMPLE` particles before and after their moves.

    Where devices share the particles, all take the same ones.

    Args:
        before: the energy at the beginning of the step of the parameters.
        after: the energy at its end.
        x: the particles before the moves, as columns, (d, N).
        moved: the same particles after them.

    Returns:
        The correlation, a scalar, 0 where the slopes do not vary.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, changed = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Shallow(ReLU(), jnp.eye(2), jnp.array([2.0, 1.0]))
    >>> float(correlation(energy, changed, jnp.eye(2), -jnp.eye(2))), round(float(correlation(energy, changed, jnp.eye(2), jnp.eye(2))), 5)
    (0.0, 1.0)
    """
    few = [collectives.gather_pairs(points)[:, :SAMPLE] for points in (x, moved)]
    a, b = (jarzynski.derivative(before, after, before, points) for points in few)
    a, b = a - jnp.mean(a), b - jnp.mean(b)
    scale = jnp.sqrt(jnp.mean(a * a) * jnp.mean(b * b))
    return jnp.where(scale > 0, jnp.mean(a * b) / jnp.where(scale > 0, scale, 1), 0)


def adapt(adapted: Adapted, moves: Int[Array, ""], rho: Scalar, acceptance: Scalar, least: int, largest: int) -> Adapted:
    """Return what is adapted after the moves of an iteration.

    Args:
        adapted: what was adapted before them.
        moves: their number.
        rho: the correlation of slopes before and after them.
        acceptance: the fraction of them that were accepted.
        least: the least number of moves.
        largest: the largest number of moves.

    Returns:
        What is adapted.

    >>> after = adapt(begin(jnp.ones(2), jnp.float32), jnp.int32(2), jnp.array(0.5), jnp.array(0.8), 2, 8)
    >>> round(float(after.log_particle), 6), float(after.log_moves)
    (0.02, 0.0)
    """
    aim = moves * math.log(FORGETTING) / jnp.log(jnp.clip(rho, 1e-3, 1 - 1e-3))
    towards = jnp.log(jnp.clip(aim / least, 1, largest / least))
    log_moves = adapted.log_moves + GAIN * (towards - adapted.log_moves)
    log_particle = clipped(adapted.log_particle + GAIN * (acceptance - ACCEPTANCE), LONGEST)
    return adapted._replace(log_particle=log_particle, log_moves=log_moves)
