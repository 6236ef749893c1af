"""Samples of a model by weighted draws of its base measure, where enough of the draws count.

Draws x of tau have the weights w = exp(-U(x)). The k draws of the largest log w + Gumbel noise are a sample without replacement, whose
points are chosen with the odds of their weights (Efraimidis, Spirakis 2006; sampling-importance-resampling of Rubin 1987).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm.energies.base import Energy, precision_of
from dualebm.geometry import Space
from dualebm.measures import effective_sample_size

DRAWS = 2**16
"""The number of draws of the base measure at a time. It is part of the definition of the samples."""

SPARE = 16
"""The effective number of draws for each sample. The choice without replacement then changes means by a few per cent of their error."""


@eqx.filter_jit
def _weighted(key, energy, space):
    draw_key, noise_key = jax.random.split(key)
    points = space.sample_base(draw_key, DRAWS, precision_of(energy))
    log_weights = -energy(points)
    return points, log_weights, log_weights + jax.random.gumbel(noise_key, (DRAWS,), log_weights.dtype)


def effective_fraction(key: Key[Array, ""], energy: Energy, space: Space) -> float:
    """Return the effective fraction of `DRAWS` draws of the base measure with the weights exp(-U), in (0, 1].

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with a base measure that can be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> effective_fraction(jax.random.key(0), Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Sphere(3))
    1.0
    """
    return float(effective_sample_size(_weighted(key, energy, space)[1])) / DRAWS


def resampled(key: Key[Array, ""], energy: Energy, space: Space, count: int, fraction: float) -> Float[Array, "count d"]:
    """Draw samples of the model exp(-U) tau / Z, by weighted draws of the base measure without replacement.

    Blocks of `DRAWS` draws each give as many samples as their effective number allows. So memory does not grow with the number of draws.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with a base measure that can be sampled.
        count: the number of samples.
        fraction: the effective fraction of draws, in (0, 1], such as `effective_fraction` returns.

    Returns:
        The samples, (count, d).

    Raises:
        ValueError: when the count or the fraction is not allowed, or the fraction allows no sample of a block.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-5.0, 0.0]))
    >>> bool(resampled(jax.random.key(0), energy, Sphere(2), 1000, 0.5)[:, 0].mean() > 0.3)
    True
    """
    checks.count("count", count)
    checks.number("fraction", fraction, positive=True, largest=1)
    each = int(fraction * DRAWS / SPARE)
    if not each:
        raise ValueError(f"fraction is {fraction}; it must be at least {SPARE / DRAWS:g}, so that a block of draws gives a sample")
    parts = []
    for block in range(-(-count // each)):
        points, _, keys = _weighted(jax.random.fold_in(key, block), energy, space)
        chosen = jax.lax.top_k(keys, each)[1]
        parts.append(points[jax.random.permutation(jax.random.fold_in(key, block), chosen)])
    return jnp.concatenate(parts)[:count]
