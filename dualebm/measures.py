"""Measures: weighted samples of a probability measure, and the atoms of a signed measure."""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal.collectives import split_axis
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief


class Samples(NamedTuple):
    """Weighted points x_i that represent a probability measure.

    Args:
        points: the points, (n, d).
        log_weights: log weights up to a constant, (n,), or None for equal weights.

    >>> Samples(jnp.zeros((4, 2))).weights.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    points: Float[Array, "n d"]
    log_weights: Float[Array, " n"] | None = None

    @property
    def weights(self) -> Float[Array, " n"]:
        """Returns the weights p_i of the points, (n,). They are softmax(log_weights), or 1 / n, and sum to 1."""
        if self.log_weights is not None:
            return shares(self.log_weights)
        return jnp.full(self.points.shape[0], 1 / self.points.shape[0], self.points.dtype)


class Atoms(NamedTuple):
    """The signed measure gamma = (1/m) sum_j sigma_j w_j delta_{theta_j} over parameters (arXiv 2107.05134, eq. 8).

    A weight of zero is a log weight of -inf. Such an atom is dead and stays dead.

    Args:
        positions: theta_j, (m, p).
        log_weights: log w_j, (m,).
        signs: sigma_j, +1 or -1, (m,).

    >>> atoms = Atoms(jnp.eye(2), jnp.log(jnp.array([1.0, 3.0])), jnp.array([1.0, -1.0]))
    >>> [round(float(c), 6) for c in coefficients(atoms)], round(float(total_variation(atoms)), 6)
    ([1.0, -3.0], 2.0)
    """

    positions: Float[Array, "m p"]
    log_weights: Float[Array, " m"]
    signs: Float[Array, " m"]


def draw_indices(key: Key[Array, ""], data: Samples, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Draw indices of data points independently with the weights of the data.

    Args:
        key: the random key.
        data: the data.
        shape: the shape of the result.

    Returns:
        The indices.

    >>> draw_indices(jax.random.key(0), Samples(jnp.ones((1, 2))), (3,)).tolist()
    [0, 0, 0]
    """
    check_key(key)
    if data.log_weights is None:
        return jax.random.randint(key, shape, 0, data.points.shape[0])
    cumulative = jnp.cumsum(jax.nn.softmax(data.log_weights))
    uniform = jax.random.uniform(key, shape, data.points.dtype) * cumulative[-1]
    return jnp.searchsorted(cumulative, uniform, side="right").clip(0, data.points.shape[0] - 1)


def coefficients(atoms: Atoms) -> Float[Array, " m"]:
    """Returns the real coefficients sigma_j w_j of the shallow energy that the atoms define (see `Atoms`).

    Args:
        atoms: the m atoms.

    Returns:
        The coefficients, (m,).

    >>> coefficients(Atoms(jnp.eye(2), jnp.zeros(2), jnp.array([1.0, -1.0]))).tolist()
    [1.0, -1.0]
    """
    return atoms.signs * jnp.exp(atoms.log_weights)


def log_total_variation(atoms: Atoms) -> Float[Array, ""]:
    """Returns log((1/m) sum_j w_j) without overflow.

    Args:
        atoms: the m atoms.

    Returns:
        The logarithm, a scalar.

    >>> log_total_variation(Atoms(jnp.eye(2), jnp.full(2, 1000.0), jnp.array([1.0, -1.0]))).tolist()
    1000.0
    """
    return logsumexp(atoms.log_weights) - jnp.log(jnp.asarray(atoms.log_weights.size, atoms.log_weights.dtype))


def total_variation(atoms: Atoms) -> Float[Array, ""]:
    """Returns the total variation |gamma|_TV = (1/m) sum_j w_j of the measure of the atoms (see `Atoms`).

    Args:
        atoms: the m atoms.

    Returns:
        The total variation, a scalar.

    Raises:
        ValueError: when the argument is no `Atoms`.

    >>> total_variation(Atoms(jnp.eye(2), jnp.zeros(2), jnp.array([1.0, -1.0]))).tolist()
    1.0
    """
    if not isinstance(atoms, Atoms):
        raise ValueError(f"atoms is {atoms!r:.200}; it must be Atoms(positions, log_weights, signs)")
    return jnp.exp(log_total_variation(atoms))


def shares(log_weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns softmax(log_weights), the shares of the particles in the total weight.

    Where several devices share the particles, each device holds n of them. The softmax then runs over the particles of all devices, and
    each device receives the shares of its n particles times the number of devices. The mean over the devices of sum_i shares_i values_i
    is then the weighted mean of all values.

    Args:
        log_weights: the logarithms of the weights, (n,).

    Returns:
        The shares, (n,).

    >>> jax.vmap(lambda w: shares(w), axis_name="particles")(jnp.zeros((2, 2))).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    axis = split_axis()
    if axis is None:
        return jax.nn.softmax(log_weights)
    parts = jax.lax.all_gather(log_weights, axis)
    return jax.nn.softmax(parts, axis=(0, 1))[jax.lax.axis_index(axis)] * parts.shape[0]


def mean(values: Float[Array, "n *k"], log_weights: Float[Array, " n"] | None) -> Float[Array, "*k"]:
    """Returns the weighted mean sum_i p_i values_i with p = softmax(log_weights).

    Args:
        values: the values, (n, *k).
        log_weights: the logarithms of the weights, (n,), or None for the plain mean.

    Returns:
        The mean, (*k).

    >>> float(mean(jnp.array([1.0, 2.0, 6.0]), None))
    3.0
    """
    if log_weights is None:
        return jnp.mean(values, axis=0)
    weights = jax.nn.softmax(log_weights).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(weights * values, axis=0)  # `sum` adds pairwise. A dot product of many terms would lose two more digits.


def log_mean_exp(centred: Float[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns log sum_i p_i exp(v_i) for values v of weighted mean 0, and keeps the digits of small values.

    Args:
        centred: the values v, whose mean sum_i p_i v_i is 0, (n,).
        weights: the weights p, of sum 1, (n,). They may have both signs.

    Returns:
        The logarithm, a scalar.

    >>> round(float(log_mean_exp(jnp.array([1e-4, -1e-4]), jnp.array([0.5, 0.5])) / 5e-9), 4)
    1.0
    """
    # It is log(1 + E (exp(v) - 1 - v)). This sum of positive terms keeps the digits of small values.
    series = term = centred**2 / 2
    for k in range(3, 10):  # to the ninth power: 1e-14 of the sum at 0.1
        term = term * centred / k
        series = series + term
    bounded = jnp.minimum(centred, 50)
    excess = jnp.where(jnp.abs(centred) < 0.1, series, jnp.expm1(bounded) - bounded)
    small = jnp.log1p(jnp.sum(weights * excess))
    return jnp.where(jnp.max(centred) < 50, small, logsumexp(centred, b=weights))


@brief
def effective_sample_size(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns Kish's effective sample size (sum w)^2 / sum w^2.

    Args:
        log_weights: log w, (n,).

    Returns:
        A scalar between 1 and n.

    >>> round(float(effective_sample_size(jnp.zeros(7))), 5)
    7.0
    """
    return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))


def check_not_empty(samples: Samples) -> None:
    """Checks that the samples hold a point.

    Args:
        samples: the samples.

    Raises:
        ValueError: they hold no point.

    >>> check_not_empty(Samples(jnp.eye(2)))
    """
    if samples.points.shape[0] < 1:
        raise ValueError(f"samples is empty, shape {samples.points.shape}; it must hold at least one point")


Resampling = Literal["systematic", "stratified", "residual", "multinomial"]
RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
"""The kinds of resampling, from the least noise to the most. See `resample`."""


def resample(key: Key[Array, ""], log_weights: Float[Array, " n"], count: int, kind: Resampling = "systematic") -> Int[Array, " count"]:
    """Draws the indices of `count` ancestors (Douc, Cappe, Moulines 2005).

    Every kind draws index i on average count * p_i times, with p = softmax(log_weights).

    - "systematic" places a comb of equal teeth by one uniform number. Index i occurs count * p_i times, rounded up or down.
    - "stratified" draws one uniform number in each tooth.
    - "residual" takes the whole part of count * p_i copies of each index and draws the rest independently.
    - "multinomial" draws all indices independently.

    Args:
        key: a key of `jax.random`.
        log_weights: log weights up to a constant, (n,).
        count: the number of ancestors.
        kind: one of `RESAMPLINGS`.

    Returns:
        Indices of 0 .. n - 1, (count,).

    >>> sorted(resample(jax.random.key(0), jnp.log(jnp.array([0.25, 0.75])), 4).tolist())
    [0, 1, 1, 1]
    """
    check_key(key)
    return _resample(key, log_weights, count, kind)


@functools.partial(brief, static_argnums=(2, 3))
def _resample(key, log_weights, count, kind):
    """Draws the ancestors of `resample`."""
    if kind == "residual":
        expected = count * jax.nn.softmax(log_weights)
        whole = jnp.floor(expected * (1 + 8 * jnp.finfo(expected.dtype).eps))  # Rounding alone would leave equal weights to chance.
        places = jnp.cumsum(whole)
        certain = jnp.searchsorted(places, jnp.arange(count, dtype=whole.dtype), side="right")
        drawn = _inverse(jnp.cumsum(jnp.maximum(expected - whole, 0)), jax.random.uniform(key, (count,), log_weights.dtype))
        return jnp.where(jnp.arange(count) < places[-1], certain, drawn)
    shape = () if kind == "systematic" else (count,)
    uniform = jax.random.uniform(key, shape, log_weights.dtype)
    comb = uniform if kind == "multinomial" else (jnp.arange(count) + uniform) / count
    return _inverse(jnp.cumsum(jax.nn.softmax(log_weights)), comb)


def _inverse(cumulative, uniform):
    """Finds the interval of the cumulative weights in which each uniform number falls. The weights need not end at 1."""
    uniform = jnp.minimum(uniform, 1 - jnp.finfo(uniform.dtype).epsneg)  # The last tooth may round to 1, past the last living index.
    return jnp.searchsorted(cumulative / cumulative[-1], uniform, side="right")
