"""log Z by sampling: importance sampling from the base measure, and annealing, which also gives weighted samples of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, Tempered, precision_of
from dualebm.flows import langevin
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import Count, CountFrom2, Positive, checked

DRAWS = 2**14
"""The number of points that `log_partition_by_sampling` draws at a time. It is part of the definition of its results."""

Scalar = Float[Array, ""] | float


@checked
def log_partition_by_sampling(key: Key[Array, ""], energy: Energy, space: Space, count: CountFrom2) -> tuple[Scalar, Scalar, Scalar]:
    """Estimate log Z = log E_tau exp(-U) by importance sampling from the base measure.

    With w_i = exp(-U(x_i)) and x_i ~ tau, the estimate is the log of the mean w. Its error, by the delta method, is
    s / (mean w sqrt(count)), with s^2 the sample variance of w. The effective sample size is Kish's (sum w)^2 / sum w^2. Weights are taken
    relative to the largest, and points are drawn and evaluated block by block.

    Neither the error nor the effective sample size accounts for a region that no draw has reached. The estimate needs of the
    order of exp(KL) draws, with KL the divergence of the model from tau (Chatterjee, Diaconis 2018, Theorem 1.1). The
    function is pure, and `count` is static.

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of draws.

    Returns:
        log Z and its standard error, both in nats, and the effective sample size.

    Raises:
        ValueError: for fewer than two draws, and for the flat base measure, which cannot be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> [float(x) for x in log_partition_by_sampling(jax.random.key(0), energy, Sphere(3), 1000)]
    [0.0, 0.0, 1000.0]
    """
    check_key(key)
    value, error, size, _ = sampled_moments(key, energy, space, count)
    return value, error, size


@checked
def sampled_moments(key: Key[Array, ""], energy: Energy, space: Space, count: CountFrom2) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Return what `log_partition_by_sampling` returns, and the weighted mean energy of the draws.

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of draws.

    Returns:
        log Z and its standard error, the effective sample size, and E U under the model.

    Raises:
        ValueError: as `log_partition_by_sampling`.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> [float(x) for x in sampled_moments(jax.random.key(0), energy, Sphere(3), 1000)]
    [0.0, 0.0, 1000.0, 0.0]
    """
    check_key(key)
    dtype = precision_of(energy)
    width = min(count, DRAWS)
    blocks = -(-count // width)

    def block(_, index):
        """Return the largest -U of a block, and the number, mean and summed squared deviation of w relative to it, and the mean w U."""
        x = space.sample_base(jax.random.fold_in(key, index), width, dtype)
        counted = index * width + jnp.arange(width) < count
        values = jnp.where(counted, -energy(x), -jnp.inf)
        top = jnp.max(values)
        weights, number = jnp.exp(values - top), jnp.sum(counted, dtype=dtype)
        mean = jnp.sum(weights) / number
        held = jnp.where(weights > 0, -values, 0)
        return None, (top, number, mean, jnp.sum(jnp.where(counted, (weights - mean) ** 2, 0)), jnp.sum(weights * held) / number)

    _, (tops, numbers, means, squares, energies) = jax.lax.scan(block, None, jnp.arange(blocks))
    top = jnp.max(tops)
    scale = jnp.exp(tops - top)
    mean = jnp.sum(numbers * scale * means) / count
    square = jnp.sum(scale**2 * squares + numbers * (scale * means - mean) ** 2) / mean**2
    standard_error = jnp.sqrt(square / count / (count - 1))
    mean_energy = jnp.sum(numbers * scale * energies) / (count * mean)
    return top + jnp.log(mean), standard_error, count / (1 + square / count), mean_energy


@checked
def anneal(
    key: Key[Array, ""],
    energy: Energy,
    space: Space,
    count: Count,
    *,
    temperatures: Count = 200,
    moves: Count = 1,
    step: Scalar | None = None,
    power: Positive = 2.0,
) -> Samples:
    """Draw weighted samples of a model by annealed importance sampling from the base measure (Neal 2001).

    With weights w, the weighted mean of g estimates E_model g, and the mean w is an unbiased estimate of Z. `count` chains start at x ~ tau
    and go through the energies t_k U with t_k = (k / K)^power. At each, their log weight grows by -(t_k - t_{k-1}) U(x), and then they make
    some steps of MALA under t_k U. As MALA is reversible there is no bias in Z, for any K and step size, and one of O(1 / count) in
    weighted means. The function is pure, and its counts are static.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of chains.
        temperatures: the number K of energies.
        moves: the number of steps of MALA under each energy.
        step: the step size of MALA. None for the default of the space.
        power: the exponent of the schedule t_k.

    Returns:
        The weighted samples, `count` of them.

    Raises:
        ValueError: for fewer than two chains, other counts below 1, and the flat base measure, which cannot be sampled.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> anneal(jax.random.key(0), teacher.energy, teacher.space, 100, temperatures=10).points.shape
    (100, 3)
    """
    check_key(key)
    for name, value, smallest in (("count", count, 2), ("temperatures", temperatures, 1), ("moves", moves, 1)):
        checks.count(name, value, smallest)
    start_key, chain_key = jax.random.split(key)
    dtype = precision_of(energy)
    size = space.default_particle_step if step is None else step
    x = space.sample_base(start_key, count, dtype).T
    factors = jnp.asarray((np.arange(temperatures + 1) / temperatures) ** power, dtype)

    def at(carry, k):
        x, log_weights = carry
        log_weights = log_weights - (factors[k] - factors[k - 1]) * energy(x.T)
        draw = drawn(jax.random.fold_in(chain_key, k), space.dimension, dtype, "independent")
        x, _, _ = langevin.move("mala", space, draw, x, Tempered(energy, factors[k]), size, steps=moves)
        return (x, log_weights), None

    (x, log_weights), _ = jax.lax.scan(at, (x, jnp.zeros(count, dtype)), jnp.arange(1, temperatures + 1))
    return Samples(x.T, log_weights)


@checked
def log_partition_by_annealing(
    key: Key[Array, ""], energy: Energy, space: Space, count: CountFrom2, **options
) -> tuple[Scalar, Scalar, Scalar]:
    """Estimate log Z as the log of the mean weight of `anneal`.

    The error is that of the mean, by the delta method. It does not account for a region that no chain has reached.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of chains.
        **options: the other arguments of `anneal`.

    Returns:
        log Z and its standard error, both in nats, and the effective sample size of the weights.

    Raises:
        ValueError: as `anneal`.

    >>> from dualebm.data import targets; from dualebm.log_z.quadrature import log_partition
    >>> teacher = targets.teacher("s2_bimodal")
    >>> log_z, error, _ = log_partition_by_annealing(jax.random.key(0), teacher.energy, teacher.space, 1000, temperatures=50)
    >>> bool(abs(log_z - log_partition(teacher.energy, teacher.quadrature())) < 5 * error)
    True
    """
    check_key(key)
    log_weights: Any = anneal(key, energy, space, count, **options).log_weights
    return log_mean_weight(log_weights)


def log_mean_weight(log_weights: Float[Array, " count"]) -> tuple[Scalar, Scalar, Scalar]:
    """Return the log of the mean of independent weights w, its standard error by the delta method, and (sum w)^2 / sum w^2.

    Args:
        log_weights: log w, (count,).

    Returns:
        The log mean in nats, its error in nats, and the effective number of weights, three scalars.

    >>> [float(x) for x in log_mean_weight(jnp.zeros(4))]
    [0.0, 0.0, 4.0]
    """
    count = log_weights.size
    top = jnp.max(log_weights)
    weights = jnp.exp(log_weights - top)
    mean = jnp.mean(weights)
    square = jnp.sum((weights / mean - 1) ** 2)
    return top + jnp.log(mean), jnp.sqrt(square / count / (count - 1)), count / (1 + square / count)
