"""log Z by tempering: islands of particles follow a path of temperatures that other particles have chosen.

`temperatures.choose_path` chooses the temperatures and the moves, and `follow` takes other particles along this path as it is. As the path
does not depend on them, the mean of their weights is an unbiased estimate of Z, whatever the path and however short the moves (Del Moral,
Doucet, Jasra 2006).

The particles are divided into islands, each of which is resampled by itself. So the islands give independent unbiased estimates of Z, and
the standard error of their mean comes from their spread. Where the moves mix slowly, or where few particles hold most of the weight, the
islands scatter more than the weights at each temperature explain. `Estimate.spread` says how much more.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm._internal import blocks, checks
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, precision_of
from dualebm.geometry import Space
from dualebm.log_z import temperatures
from dualebm.log_z.temperatures import FRACTION, MOVES, Path, choose_path
from dualebm.measures import effective_sample_size, resample
from dualebm.settings import Count, CountFrom2, Fraction, checked

ISLANDS = 32
"""The number of islands."""

Scalar = Float[Array, ""] | float


class Islands(NamedTuple):
    """Particles that have followed a path, in R islands of equal size.

    Args:
        log_partitions: log of the estimate of Z by each island, (R,).
        points: the particles as rows, (N, d), those of the first island first.
        log_weights: their log weights, (N,), equal within an island.
        least_variance: the relative variance of these estimates if the moves of each temperature made the particles independent.
    """

    log_partitions: Float[Array, " R"]
    points: Float[Array, "N d"]
    log_weights: Float[Array, " N"]
    least_variance: Float[Array, ""]


class Estimate(NamedTuple):
    """log Z by islands.

    Args:
        value: log Z, in nats.
        standard_error: its standard error, in nats.
        effective_sample_size: the number of independent draws of the model that would give this error, at most that of the particles.
        spread: the variance of the islands' estimates, divided by `Islands.least_variance`.
    """

    value: Scalar
    standard_error: Scalar
    effective_sample_size: Scalar
    spread: Scalar


class Bounds(NamedTuple):
    """Bounds of log Z that hold in expectation, with standard errors, in nats.

    Args:
        lower: the mean log estimate of Z by islands that start at the base measure.
        lower_error: its standard error.
        upper: minus the mean log estimate of 1 / Z by islands that start at samples of the model.
        upper_error: its standard error.
    """

    lower: Scalar
    lower_error: Scalar
    upper: Scalar
    upper_error: Scalar


@checked
def follow(
    key: Key[Array, ""],
    energy: Energy,
    space: Space,
    path: Path,
    count: Count,
    *,
    moves: Count = MOVES,
    islands: CountFrom2 = ISLANDS,
    kept: Count = 1,
) -> Islands:
    """Take new particles from the base measure along a path to the model, in islands that are resampled systematically.

    With `kept` = P > 1 it is waste-free (Dau, Chopin 2022): at each temperature `count` / P particles are resampled and make P - 1
    moves, and all states of these chains are the particles of the next temperature.

    Args:
        key: the random key. It must differ from that of `choose_path`.
        energy: the energy U.
        space: the space, with its base measure tau.
        path: the path.
        count: the number N of particles, a multiple of `islands` times `kept`.
        moves: the number of moves at each temperature. It is not used where `kept` is above 1.
        islands: the number of islands, at least 2.
        kept: the number of states of a chain that are kept as particles.

    Returns:
        The islands.

    Raises:
        ValueError: a count is not allowed, or the base measure cannot be sampled.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> path = choose_path(jax.random.key(0), teacher.energy, teacher.space, 500)
    >>> follow(jax.random.key(1), teacher.energy, teacher.space, path, 640).log_partitions.shape
    (32,)
    """
    check_key(key)
    _check(count, moves, islands, kept)
    start_key, chain_key = jax.random.split(key)
    x = space.sample_base(start_key, count, precision_of(energy)).T
    return _carried(chain_key, energy, space, path, x, moves, islands, kept, back=False)


@checked
def follow_back(
    key: Key[Array, ""],
    energy: Energy,
    space: Space,
    path: Path,
    points: Float[Array, "N d"],
    *,
    moves: Count = MOVES,
    islands: CountFrom2 = ISLANDS,
) -> Islands:
    """Take exact samples of the model along a path back to the base measure. The islands estimate 1 / Z.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        path: the path.
        points: independent samples of the model as rows, (N, d), with N a multiple of `islands`.
        moves: the number of moves at each temperature.
        islands: the number of islands, at least 2.

    Returns:
        The islands, whose `log_partitions` are the logs of the estimates of 1 / Z.

    Raises:
        ValueError: a count is not allowed.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> path = choose_path(jax.random.key(0), teacher.energy, teacher.space, 500)
    >>> samples, _ = targets.sample(jax.random.key(2), teacher, 640)
    >>> back = follow_back(jax.random.key(1), teacher.energy, teacher.space, path, samples.points)
    >>> bool(abs(estimate(back).value + teacher.log_partition) < 5 * estimate(back).standard_error)
    True
    """
    check_key(key)
    _check(points.shape[0], moves, islands, 1)
    return _carried(key, energy, space, path, points.T, moves, islands, 1, back=True)


def _check(count, moves, islands, kept):
    checks.count("moves", moves)
    checks.count("islands", islands, 2)
    checks.count("kept", kept)
    checks.count("count", count, islands * kept)
    if count % (islands * kept):
        raise ValueError(f"count is {count}; it must be a multiple of islands times kept, which is {islands * kept}")


def _carried(key, energy, space, path, x, moves, islands, kept, back) -> Islands:
    """Take columns along a path, forward from t = 0 or back from t = 1."""
    count, zero = x.shape[1], jnp.zeros((), x.dtype)
    each = count // islands

    def factor_at(index):
        return jnp.where(index < 0, zero, path.factors[jnp.maximum(index, 0)])

    def moved(key, x, factor, at):
        root = None if path.roots is None else path.roots[at]
        if kept == 1:
            return temperatures.moved(key, space, x, energy, factor, path.steps[at], root, moves)[0]

        def one(x, key):
            x, _ = temperatures.moved(key, space, x, energy, factor, path.steps[at], root, 1)
            return x, x

        _, states = jax.lax.scan(one, x, jax.random.split(key, kept - 1))
        states = jnp.concatenate([x[None], states]).reshape(kept, x.shape[0], islands, -1)
        return jnp.transpose(states, (1, 2, 0, 3)).reshape(x.shape[0], count)

    def advance(k, carry):
        x, logs, variance = carry
        before, after = (path.length - 1 - k, path.length - 2 - k) if back else (k - 1, k)
        increments = ((factor_at(before) - factor_at(after)) * energy(x.T)).reshape(islands, each)
        logs = logs + logsumexp(increments, axis=1) - math.log(each)
        variance = variance + (count / effective_sample_size(increments.ravel()) - 1) / each
        resample_key, move_key = jax.random.split(jax.random.fold_in(key, k))
        choose = jax.vmap(lambda key, increments: resample(key, increments, each // kept))
        chosen = choose(jax.random.split(resample_key, islands), increments) + each * jnp.arange(islands)[:, None]
        x = blocks.choose(x, chosen.ravel())
        return moved(move_key, x, factor_at(after), jnp.maximum(after, 0)), logs, variance

    x, logs, variance = jax.lax.fori_loop(0, path.length, advance, (x, jnp.zeros(islands, x.dtype), zero))
    return Islands(logs, x.T, jnp.repeat(logs, each), variance)


@checked
def estimate(islands: Islands) -> Estimate:
    """Return log Z with its standard error by the spread of islands.

    The error is the delta method's, times a factor that makes +-1.96 errors an interval of 95% although a few islands give them.

    Args:
        islands: the islands.

    Returns:
        The estimate.

    >>> alike = Islands(jnp.ones(4), jnp.zeros((8, 1)), jnp.ones(8), jnp.ones(()))
    >>> [float(x) for x in estimate(alike)]
    [1.0, 0.0, 8.0, 0.0]
    """
    count, particles = islands.log_partitions.size, islands.log_weights.size
    top = jnp.max(islands.log_partitions)
    weights = jnp.exp(islands.log_partitions - top)
    mean = jnp.mean(weights)
    variance = jnp.sum((weights / mean - 1) ** 2) / (count - 1)
    error = jnp.sqrt(variance / count) * (1 + (1.96**2 + 1) / (4 * (count - 1)))
    return Estimate(top + jnp.log(mean), error, 1 / (error**2 + 1 / particles), variance / islands.least_variance)


@checked
def log_partition_by_tempering(
    key: Key[Array, ""], energy: Energy, space: Space, count: Count, *, moves: Count = MOVES, fraction: Fraction = FRACTION
) -> Estimate:
    """Estimate log Z by a path that `choose_path` chooses and other particles that follow it.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of particles that follow, a multiple of `ISLANDS`.
        moves: the number of moves at each temperature.
        fraction: the effective fraction of the weights from one temperature to the next.

    Returns:
        The estimate. Its error does not account for a region that no particle has reached.

    Raises:
        ValueError: as `choose_path` and `follow`.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> found = log_partition_by_tempering(jax.random.key(0), teacher.energy, teacher.space, 640)
    >>> bool(abs(found.value - teacher.log_partition) < 5 * found.standard_error)
    True
    """
    check_key(key)
    path_key, follow_key = jax.random.split(key)
    path = choose_path(path_key, energy, space, moves=moves, fraction=fraction)
    return estimate(follow(follow_key, energy, space, path, count, moves=moves))


@checked
def bounds(key: Key[Array, ""], energy: Energy, space: Space, path: Path, points: Float[Array, "N d"], *, moves: Count = MOVES) -> Bounds:
    """Bound log Z in expectation from both sides, where exact samples of the model exist (Grosse, Ancha, Roy 2016).

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        path: the path.
        points: independent samples of the model as rows, (N, d), with N a multiple of `ISLANDS`.
        moves: the number of moves at each temperature.

    Returns:
        The bounds. Their distance is the cost of the path in nats, and is 0 for islands without noise.

    Raises:
        ValueError: as `follow_back`.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> path = choose_path(jax.random.key(0), teacher.energy, teacher.space, 500)
    >>> samples, _ = targets.sample(jax.random.key(2), teacher, 640)
    >>> found = bounds(jax.random.key(1), teacher.energy, teacher.space, path, samples.points)
    >>> bool(found.lower - 3 * found.lower_error < teacher.log_partition < found.upper + 3 * found.upper_error)
    True
    """
    check_key(key)
    there_key, back_key = jax.random.split(key)
    there: Any = follow(there_key, energy, space, path, points.shape[0], moves=moves).log_partitions
    back: Any = follow_back(back_key, energy, space, path, points, moves=moves).log_partitions
    root = math.sqrt(ISLANDS)
    return Bounds(jnp.mean(there), jnp.std(there, ddof=1) / root, -jnp.mean(back), jnp.std(back, ddof=1) / root)
