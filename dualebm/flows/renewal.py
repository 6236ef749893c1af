"""Renewal: particles of a training are replaced by fresh samples of its model, and log Z by them is checked on the way.

Particles that follow a training lose modes that they cannot reach, descend from fewer and fewer of the first, and lower log Z by the noise
that they share with the energy. Fresh samples, tempered from the base measure, have none of this. At a renewal

    drift          log Z by the particles less log Z by the fresh samples
    particles      drawn from the fresh samples, with equal weights
    log Z          that by the fresh samples, and its error

log Z stays exact, because fresh samples give an unbiased estimate of Z whatever the energy. Where the fresh samples are not to be trusted
(`log_z.fresh.Fresh`), the particles stay, and the drift is not known.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import measures
from dualebm._internal import blocks, collectives
from dualebm._internal.keys import check_key
from dualebm.flows.jarzynski import Renewed, Weights
from dualebm.geometry import Space
from dualebm.log_z import fresh

ASIDE = 2
"""The number that makes the key of a renewal from one that is used itself. 0 and 1 would give the keys of its split."""


def begin(weights: Weights) -> Weights:
    """Mark weights as those of particles that will be renewed. Until the first check the drift is not known.

    Args:
        weights: the weights at the start.

    >>> start = Weights(jnp.zeros(2), jnp.zeros(()), jnp.arange(2, dtype=jnp.int32), jnp.int32(0))
    >>> bool(begin(start).renewed.known)
    False
    """
    zero = jnp.zeros_like(weights.log_partition)
    return weights._replace(renewed=Renewed(zero, zero, zero, jnp.asarray(False), jnp.zeros_like(weights.resamplings)))


def renew(
    key: Key[Array, ""], energy: Any, space: Space, x: Float[Array, "d N"], weights: Weights | None
) -> tuple[Float[Array, "d N"], Any]:
    """Replace particles by fresh samples of the model, where these can be trusted.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure.
        x: the particles as columns, (d, N). Over a mesh axis each device holds its part.
        weights: their weights, or None for particles without weights.

    Returns:
        The particles, and their weights or None.

    Raises:
        ValueError: as `log_z.fresh.draw`.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> first = begin(Weights(jnp.zeros(256), jnp.ones(()), jnp.arange(256, dtype=jnp.int32), jnp.int32(0)))
    >>> x, weights = renew(jax.random.key(0), teacher.energy, teacher.space, jnp.ones((3, 256)), first)
    >>> bool(abs(weights.log_partition - teacher.log_partition) < 0.1), bool(abs(weights.renewed.drift - 1 + weights.log_partition) < 1e-5)
    (True, True)
    """
    check_key(key)
    draw_key, choose_key = jax.random.split(key)
    count = x.shape[1]
    total = collectives.gather_pairs(jnp.zeros((1, count))).shape[1]
    found: fresh.Fresh = collectives.undivided(lambda: fresh.draw(draw_key, energy, space, total))
    local = collectives.scatter_pairs(measures.resample(choose_key, found.log_weights, total), count)
    replaced = lambda new, old: jnp.where(found.trusted, new, old)  # noqa: E731
    moved = replaced(blocks.choose(found.points.T, local), x)
    if weights is None:
        return moved, None
    everyone = collectives.gather_pairs(weights.log_weights)
    value = weights.log_partition + logsumexp(everyone) - jnp.log(jnp.asarray(total, x.dtype))
    before: Any = weights.renewed
    renewed = Renewed(
        replaced(found.error, before.error),
        replaced(value - found.log_partition, before.drift),
        replaced(jnp.zeros_like(before.age), before.age),
        found.trusted,
        replaced(weights.resamplings, before.resamplings),
    )
    first = collectives.scatter_pairs(jnp.arange(total, dtype=jnp.int32), count)
    anew = Weights(jnp.zeros_like(weights.log_weights), found.log_partition, first, weights.resamplings, renewed)
    kept = weights._replace(renewed=renewed)
    return moved, jax.tree.map(replaced, anew, kept)


def every(
    key: Key[Array, ""], period: int | None, step: Any, energy: Any, space: Space, x: Float[Array, "d N"], weights: Weights | None
) -> tuple[Float[Array, "d N"], Any]:
    """Renew particles after each `period` iterations, and leave them as they are after the others.

    Where runs are vmapped, a renewal is computed in every iteration, and used in those that need it.

    Args:
        key: the random key of the iteration, from which that of the renewal is made.
        period: the number of iterations between renewals. None for none.
        step: the number of iterations done before this one.
        energy: the energy U after the iteration.
        space: the space, with its base measure.
        x: the particles as columns, (d, N).
        weights: their weights, or None for particles without weights.

    Returns:
        The particles, and their weights or None.

    >>> from dualebm.spaces import Sphere
    >>> x, weights = every(jax.random.key(0), None, jnp.int32(0), None, Sphere(2), jnp.eye(2), None)
    >>> x.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    check_key(key)
    if period is None or not fresh.available(energy, space):
        return x, weights
    if weights is not None and weights.renewed is not None:
        weights = weights._replace(renewed=weights.renewed._replace(age=weights.renewed.age + 1 / period))
    due = (step + 1) % period == 0
    return jax.lax.cond(due, lambda: renew(jax.random.fold_in(key, ASIDE), energy, space, x, weights), lambda: (x, weights))
