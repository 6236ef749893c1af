"""Measures: weighted samples of a probability measure, and the atoms of a signed measure."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key


class Samples(NamedTuple):
    """Points x_i of a probability measure, with log weights up to a constant, or equal weights where None.

    >>> Samples(jnp.zeros((4, 2))).points.shape
    (4, 2)
    """

    points: Float[Array, "n d"]
    log_weights: Float[Array, " n"] | None = None


class Atoms(NamedTuple):
    """The signed measure gamma = (1/m) sum_j sigma_j w_j delta_{theta_j} over parameters (arXiv 2107.05134, eq. 8).

    A weight of zero is a log weight of -inf: the atom is dead and stays dead.

    >>> atoms = Atoms(jnp.eye(2), jnp.log(jnp.array([1.0, 3.0])), jnp.array([1.0, -1.0]))
    >>> [round(float(c), 6) for c in coefficients(atoms)], round(float(total_variation(atoms)), 6)
    ([1.0, -3.0], 2.0)
    """

    positions: Float[Array, "m p"]
    log_weights: Float[Array, " m"]
    signs: Float[Array, " m"]


def coefficients(atoms: Atoms) -> Float[Array, " m"]:
    """The real coefficients sigma_j w_j of the shallow energy that the atoms define (see `Atoms`)."""
    return atoms.signs * jnp.exp(atoms.log_weights)


def log_total_variation(atoms: Atoms) -> Float[Array, ""]:
    """log of (1/m) sum_j w_j, without overflow."""
    return logsumexp(atoms.log_weights) - jnp.log(jnp.asarray(atoms.log_weights.size, atoms.log_weights.dtype))


def total_variation(atoms: Atoms) -> Float[Array, ""]:
    """|gamma|_TV = (1/m) sum_j w_j (see `Atoms`)."""
    return jnp.exp(log_total_variation(atoms))


def shares(log_weights: Float[Array, " n"], axis: str | None = None) -> Float[Array, " n"]:
    """softmax(log_weights). Over a mesh axis, where each device holds n of all weights: this device's part, times the devices.

    The mean over the devices of sum_i shares_i values_i is then the mean of all values.

    >>> jax.vmap(lambda w: shares(w, "particles"), axis_name="particles")(jnp.zeros((2, 2))).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    if axis is None:
        return jax.nn.softmax(log_weights)
    parts = jax.lax.all_gather(log_weights, axis)
    return jax.nn.softmax(parts, axis=(0, 1))[jax.lax.axis_index(axis)] * parts.shape[0]


def mean(values: Float[Array, "n *k"], log_weights: Float[Array, " n"] | None) -> Float[Array, "*k"]:
    """sum_i p_i values_i with p = softmax(log_weights), or the plain mean where the weights are None.

    >>> float(mean(jnp.array([1.0, 2.0, 6.0]), None))
    3.0
    """
    if log_weights is None:
        return jnp.mean(values, axis=0)
    weights = jax.nn.softmax(log_weights).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(weights * values, axis=0)  # pairwise summation: a dot product of many terms loses two digits more


def effective_sample_size(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Kish's (sum w)^2 / sum w^2, between 1 and n.

    >>> round(float(effective_sample_size(jnp.zeros(7))), 5)
    7.0
    """
    return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))


def resample(key: Key[Array, ""], log_weights: Float[Array, " n"], count: int) -> Int[Array, " count"]:
    """Indices of `count` ancestors by systematic resampling: each index i appears count * p_i times, rounded up or down.

    >>> sorted(resample(jax.random.key(0), jnp.log(jnp.array([0.25, 0.75])), 4).tolist())
    [0, 1, 1, 1]
    """
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    comb = (jnp.arange(count) + jax.random.uniform(key, dtype=log_weights.dtype)) / count
    comb = jnp.minimum(comb, 1 - jnp.finfo(comb.dtype).epsneg)  # the last tooth may round to 1, past the last living index
    return jnp.searchsorted(cumulative / cumulative[-1], comb, side="right")
