"""What weighted walkers tell along training: log Z, the cross-entropy, how many of them count. Metrics as those of `dualebm.metrics`.

>>> from jax import random; from dualebm.training.simulate import start
>>> from dualebm.methods.weighted_dual import WeightedDual; from dualebm.spaces import Sphere
>>> method, data = WeightedDual(Sphere(3), neurons=8, particles=100), Samples(jnp.eye(3))
>>> state = start(random.key(1), method, method.rates, data)
>>> [round(float(f(random.key(2), method, state, method.rates, data)), 2) for f in (EffectiveFraction(), Resamplings())]
[1.0, 0.0]
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from dualebm import measures
from dualebm.measures import Samples, cloud


class EffectiveFraction(eqx.Module):
    """(sum_i p_i^2)^-1 / N of the walkers when the last step ended, before it resampled: between 1/N and 1."""

    long_name: ClassVar[str] = "effective fraction of the walkers"
    units: ClassVar[str] = "1"

    def __call__(self, key, method, state, rates, data):
        """The fraction, a scalar."""
        del key, method, rates, data
        return state.ess


class Resamplings(eqx.Module):
    """How often the walkers have been resampled so far."""

    long_name: ClassVar[str] = "resamplings"
    units: ClassVar[str] = "1"

    def __call__(self, key, method, state, rates, data):
        """The number, a scalar."""
        del key, method, rates
        return state.weights.resamplings.astype(data.points.dtype)


class LogPartition(eqx.Module):
    """log Z by the weights of the walkers and its standard error, (2,): see `flows.jarzynski.log_partition`."""

    long_name: ClassVar[str] = "log Z by the walkers"
    units: ClassVar[str] = "nat"

    def __call__(self, key, method, state, rates, data):
        """log Z and its error."""
        del key, rates, data
        return jnp.stack(method.log_partition(state))


class WalkerCrossEntropy(eqx.Module):
    """E U + log Z over samples, with log Z by the weights of the walkers: (value, standard error of log Z). It costs no sampling.

    Raises ValueError for no samples.
    """

    samples: Samples
    long_name: ClassVar[str] = "cross-entropy to the base measure, by the walkers"
    units: ClassVar[str] = "nat"

    def __check_init__(self):
        measures.check_not_empty(self.samples)

    def __call__(self, key, method, state, rates, data):
        """The cross-entropy and its error, (2,)."""
        del key
        value, error = method.log_partition(state)
        mean = measures.mean(method.energy(state, rates, data)(self.samples.points), self.samples.log_weights)
        return jnp.stack([mean + value, error])


class Walkers(eqx.Module):
    """`count` walkers, drawn by their weights (systematic resampling), (count, d): samples of the model to look at as training goes."""

    count: int = eqx.field(static=True)
    long_name: ClassVar[str] = "walkers"
    units: ClassVar[str] = "1"

    def __call__(self, key, method, state, rates, data):
        """The walkers, as rows."""
        del method, rates, data
        particles, log_weights = cloud(state)
        if log_weights is None:
            log_weights = jnp.zeros(particles.shape[0], particles.dtype)
        return particles[measures.resample(key, log_weights, self.count)]
