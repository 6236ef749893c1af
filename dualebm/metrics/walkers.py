"""Metrics of the weights of particles along training: log Z, the cross-entropy, and how many particles count.

>>> from jax import random; from dualebm.training.simulate import start
>>> from dualebm.methods.base import Info; from dualebm.methods.weighted_dual import WeightedDual; from dualebm.spaces import Sphere
>>> method, data = WeightedDual(Sphere(3), neurons=8, particles=100), Samples(jnp.eye(3))
>>> state = start(random.key(1), method, method.rates, data)
>>> iterate = Iterate(method, state, method.rates, data, Info(effective_fraction=jnp.ones(())))
>>> [round(float(f(random.key(2), iterate)), 2) for f in (EffectiveFraction(), Resamplings())]
[1.0, 0.0]
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from dualebm import measures, settings
from dualebm._internal.keys import check_key
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric
from dualebm.settings import Count


class EffectiveFraction(Metric):
    """The effective fraction (sum_i p_i^2)^-1 / N of weighted particles, before any resampling, between 1/N and 1.

    It is the mean since the last record, and NaN where the method has no weights and before the first iteration.
    """

    long_name: ClassVar[str | None] = "effective fraction of the particles"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """Return the fraction, a scalar."""
        del key
        unknown = jnp.full((), jnp.nan, iterate.data.points.dtype)
        return unknown if iterate.info.effective_fraction is None else iterate.info.effective_fraction


class Resamplings(Metric):
    """The number of times that the weighted particles have been resampled. It is NaN where the method never resamples."""

    long_name: ClassVar[str | None] = "resamplings"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """Return the number, a scalar."""
        del key
        count = iterate.method.resamplings(iterate.state)
        return jnp.full((), jnp.nan, iterate.data.points.dtype) if count is None else count.astype(iterate.data.points.dtype)


class AdaptedSteps(Metric):
    """The array [factor of the learning rate, number of moves, factor of the particle step], (3,), that a training has chosen.

    It is the mean since the last record, and NaN where the method adapts no steps and before the first iteration.
    """

    long_name: ClassVar[str | None] = "factor of the learning rate, moves, and factor of the particle step"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """Return the array, (3,)."""
        del key
        unknown = jnp.full(3, jnp.nan, iterate.data.points.dtype)
        return unknown if iterate.info.adapted is None else jnp.stack(iterate.info.adapted)


class LogPartition(Metric):
    """The array [log Z, its standard error], (2,), in nats, as the method follows them by its particles along training.

    `Audited` knows both (see `flows.jarzynski.log_partition`). `WeightedDual`, `Jarzynski`, `Contrastive` with `diagnosis` and `Tracked`
    know log Z by particles that also train the energy. The error is then known where renewals measure it, and NaN otherwise. For other
    methods a record raises ValueError.
    """

    long_name: ClassVar[str | None] = "log Z by the particles"
    units: ClassVar[str | None] = "nat"

    def __call__(self, key, iterate: Iterate):
        """Return log Z and its standard error, (2,)."""
        del key
        return jnp.stack(iterate.log_partition)


class WalkerCrossEntropy(Metric):
    """The array [E U + log Z, the standard error of log Z], (2,), in nats: the cross-entropy of test samples to the model.

    The mean of the energy U is over the samples. log Z comes from the weights of the particles in training, so that the metric
    needs no samples of the model. The error is NaN where these particles also train the energy (see `LogPartition`). For a method that
    does not know log Z, a record raises ValueError.

    Args:
        samples: the test samples, with points (n, d), n at least 1.

    Raises:
        ValueError: there is no sample.
    """

    samples: Samples
    long_name: ClassVar[str | None] = "cross-entropy to the base measure, by the particles"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)
        measures.check_not_empty(self.samples)

    def __call__(self, key, iterate: Iterate):
        """Return the cross-entropy and the standard error of log Z, (2,)."""
        del key
        value, error = iterate.log_partition
        mean = measures.mean(iterate.energy(self.samples.points), self.samples.log_weights)
        return jnp.stack([mean + value, error])


class Walkers(Metric):
    """Some of the particles, drawn by their weights with systematic resampling: samples of the model to look at as training goes.

    Args:
        count: the number of particles to draw.
    """

    count: Count = eqx.field(static=True)
    long_name: ClassVar[str | None] = "particles"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the particles as rows, (count, d)."""
        check_key(key)
        particles, log_weights = iterate.samples
        if log_weights is None:
            log_weights = jnp.zeros(particles.shape[0], particles.dtype)
        return particles[measures.resample(key, log_weights, self.count)]
