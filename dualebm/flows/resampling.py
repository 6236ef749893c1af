"""Samples of a model by weighted draws of its base measure, where enough of the draws count.

Draws x of tau have the weights w = exp(-U(x)). Systematic resampling (Kitagawa 1996) keeps each draw on average in proportion to its
weight, and keeps none twice unless its weight is above the total divided by the number of samples. This is sampling-importance-resampling
(Rubin 1987). The draws of the largest log w + Gumbel noise (Efraimidis, Spirakis 2006) are all different, but they hold too few
draws of large weight: means are then wrong by up to a few per cent of a standard deviation, however many samples there are.
"""

from collections.abc import Iterator

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, precision_of
from dualebm.geometry import Space
from dualebm.measures import effective_sample_size, resample

DRAWS = 2**16
"""The number of draws of the base measure in a block. It is part of the definition of the samples."""

SPARE = 16
"""The effective number of draws for each sample, so that few draws are kept twice."""


def _weighted(key, energy, space):
    points = space.sample_base(key, DRAWS, precision_of(energy))
    return points, -energy(points)


@eqx.filter_jit
def _effective_size(key, energy, space):
    return effective_sample_size(_weighted(key, energy, space)[1])


@eqx.filter_jit
def _kept(key, energy, space, count):
    draw_key, choice_key = jax.random.split(key)
    points, log_weights = _weighted(draw_key, energy, space)
    return points[resample(choice_key, log_weights, count)]


def effective_fraction(key: Key[Array, ""], energy: Energy, space: Space) -> float:
    """Return the effective fraction of `DRAWS` draws of the base measure with the weights exp(-U), in (0, 1].

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with a base measure that can be sampled.

    Returns:
        Kish's effective sample size, divided by the number of draws.

    Raises:
        ValueError: when the base measure cannot be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> import jax.numpy as jnp
    >>> effective_fraction(jax.random.key(0), Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Sphere(3))
    1.0
    """
    check_key(key)
    return min(float(_effective_size(key, energy, space)) / DRAWS, 1.0)


def resampled(key: Key[Array, ""], energy: Energy, space: Space, count: int, fraction: float) -> Iterator[Float[Array, "k d"]]:
    """Draw samples of the model exp(-U) tau / Z by weighted draws of the base measure, block by block.

    Each block of `DRAWS` draws gives its effective number of draws, divided by `SPARE`, as samples. Memory holds one block.
    Block b has the key fold_in(key, b), so that more samples begin with the same ones.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with a base measure that can be sampled.
        count: the number of samples.
        fraction: the effective fraction of draws, in (0, 1], such as `effective_fraction` returns.

    Returns:
        An iterator over the blocks of samples, (k, d), which have `count` samples in all.

    Raises:
        ValueError: when the count or the fraction is not allowed, the fraction allows no sample of a block, or the base measure cannot
            be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> import jax.numpy as jnp
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-5.0, 0.0]))
    >>> blocks = list(resampled(jax.random.key(0), energy, Sphere(2), 3000, 0.5))
    >>> [len(block) for block in blocks], bool(blocks[0][:, 0].mean() > 0.3)
    ([2048, 952], True)
    """
    check_key(key)
    checks.count("count", count)
    checks.number("fraction", fraction, positive=True, largest=1)
    each = int(fraction * DRAWS / SPARE)
    if not each:
        raise ValueError(f"fraction is {fraction}; it must be at least {SPARE / DRAWS:g}, so that a block of draws gives a sample")
    firsts = range(0, count, each)
    return (_kept(jax.random.fold_in(key, first // each), energy, space, each)[: count - first] for first in firsts)
