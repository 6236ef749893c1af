"""Fresh samples of a model, with log Z and the mean energy by them: what particles of a training are compared with, or replaced by.

They owe nothing to the training. So log Z by them is unbiased given the energy, and its error is known.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.log_z import tempering
from dualebm.log_z.estimate import LARGEST_SPREAD, SMALLEST_SAMPLE
from dualebm.log_z.temperatures import FRACTION, MOVES, choose_path
from dualebm.measures import mean

Scalar = Float[Array, ""]


class Fresh(NamedTuple):
    """Fresh weighted samples of a model, and what they say of it.

    Args:
        points: the samples as rows, (N, d).
        log_weights: their log weights, (N,), up to a constant.
        log_partition: log Z, in nats.
        error: its standard error, in nats.
        mean_energy: the mean energy of the model.
        energy_error: its standard error.
        trusted: whether the error can be trusted. The effective sample size is then at least `estimate.SMALLEST_SAMPLE`, and islands of
            samples scatter as far as their weights explain (`estimate.LARGEST_SPREAD`).
    """

    points: Float[Array, "N d"]
    log_weights: Float[Array, " N"]
    log_partition: Scalar
    error: Scalar
    mean_energy: Scalar
    energy_error: Scalar
    trusted: Bool[Array, ""]


def available(energy: Any, space: Space) -> bool:
    """Tell whether `draw` can draw samples: from an energy with `sample` and `log_partition`, or by a base measure of total mass 1.

    Args:
        energy: the energy, or its shapes.
        space: the space, with its base measure.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> available(MLP(), Sphere(3))
    True
    """
    return bool(space.base.proper) or _exact(energy)


def _exact(energy: Any) -> bool:
    return hasattr(energy, "sample") and hasattr(energy, "log_partition")


def draw(key: Key[Array, ""], energy: Any, space: Space, count: int, *, moves: int = MOVES, fraction: float = FRACTION) -> Fresh:
    """Draw samples of a model: exact ones where the energy has a sampler, else by tempering from the base measure.

    The function is pure, and `count` is static. On several devices that share the particles, call it by `collectives.undivided`.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure.
        count: the least number of samples. By tempering it is rounded up to a multiple of `tempering.ISLANDS`.
        moves: the number of moves at each temperature. Where islands scatter too much, give more.
        fraction: the effective fraction of the weights from one temperature to the next.

    Returns:
        The samples.

    Raises:
        ValueError: the base measure cannot be sampled and the energy has no sampler, or a number is not allowed.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> found = draw(jax.random.key(0), teacher.energy, teacher.space, 1000)
    >>> found.points.shape, bool(found.trusted), bool(abs(found.log_partition - teacher.log_partition) < 5 * found.error)
    ((1024, 3), True, True)
    """
    check_key(key)
    if _exact(energy):
        points = energy.sample(key, space, count)
        values, zero = energy(points), jnp.zeros((), points.dtype)
        log_partition = jnp.asarray(energy.log_partition(space), points.dtype)
        error = jnp.std(values) / jnp.sqrt(jnp.asarray(count, points.dtype))
        return Fresh(points, jnp.zeros(count, points.dtype), log_partition, zero, jnp.mean(values), error, jnp.asarray(True))
    path_key, follow_key = jax.random.split(key)
    size = -(-count // tempering.ISLANDS) * tempering.ISLANDS
    path = choose_path(path_key, energy, space, moves=moves, fraction=fraction)
    islands = tempering.follow(follow_key, energy, space, path, size, moves=moves)
    found = tempering.estimate(islands)
    mean_energy, energy_error = _mean_energy(energy, islands)
    enough = found.effective_sample_size >= min(SMALLEST_SAMPLE, size / 2)
    trusted = jnp.logical_and(enough, found.spread <= LARGEST_SPREAD)
    log_partition, error = jnp.asarray(found.value), jnp.asarray(found.standard_error)
    return Fresh(islands.points, islands.log_weights, log_partition, error, mean_energy, energy_error, trusted)


def _mean_energy(energy: Energy, islands: tempering.Islands) -> tuple[Scalar, Scalar]:
    """Return the weighted mean energy of islands, and its standard error by their spread."""
    means: Any = jnp.mean(energy(islands.points).reshape(islands.log_partitions.size, -1), axis=1)
    shares, count = jax.nn.softmax(islands.log_partitions), islands.log_partitions.size
    whole = mean(means, islands.log_partitions)
    return whole, jnp.sqrt(jnp.sum((shares * (means - whole)) ** 2) * count / (count - 1))
