"""Metrics on rows that training does not use, or with log Z by draws of the base measure that training does not use."""

from typing import ClassVar

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from dualebm import measures, settings
from dualebm._internal.keys import check_key
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric

LARGEST_ERROR = 0.1
"""The standard error of log Z, in nats, above which a loss is not known. An effective number of 100 weighted draws has this error."""


class LogDensities(Metric):
    """The log density -U - log Z of each of some points with respect to the base measure, (k,), in nats.

    Args:
        points: the points, (k, d).
        draws: draws of the base measure, (M, d), for log Z = log mean exp(-U).
    """

    points: Float[Array, "k d"]
    draws: Float[Array, "M d"]
    long_name: ClassVar[str | None] = "log density relative to the base measure"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the log densities, (k,)."""
        del key
        values = iterate.energy(self.draws)
        log_partition = logsumexp(-values) - jnp.log(jnp.asarray(len(values), values.dtype))
        return -iterate.energy(self.points) - log_partition


class DrawnFraction(Metric):
    """Kish's effective fraction of draws of the base measure with the weights exp(-U), in (0, 1].

    Args:
        draws: the draws, (M, d).
    """

    draws: Float[Array, "M d"]
    long_name: ClassVar[str | None] = "effective fraction of draws"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the fraction, a scalar."""
        del key
        return measures.effective_sample_size(-iterate.energy(self.draws)) / len(self.draws)


class FitGap(Metric):
    """E_data U - E_model U with the standard error of its second term, (2,), in units of temperature.

    For an energy that a penalty lambda |gamma|_TV holds back, it is -lambda |gamma|_TV at an optimum (`methods.penalised`).

    Args:
        draws: draws of the base measure, (M, d), whose weights exp(-U) give the mean under the model.
    """

    draws: Float[Array, "M d"]
    long_name: ClassVar[str | None] = "mean energy of the data less that of the model"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the gap and its error, (2,)."""
        del key
        energy, data = iterate.energy, iterate.data
        values = energy(self.draws)
        weights = measures.shares(-values)
        model = jnp.sum(weights * values)
        error = jnp.sqrt(jnp.sum(weights**2 * (values - model) ** 2))
        return jnp.stack([measures.mean(energy(data.points), data.log_weights) - model, error])


class Loss(Metric):
    """Minus the mean log density of points in the units of the data, in nats, or NaN where log Z is not known.

    The loss is E U + log Z - E log tau, with the density tau of the base measure in the units of the data. So runs of any methods, base
    measures and standardisations can be compared. log Z counts as not known where its standard error is above `LARGEST_ERROR`.

    Args:
        cross_entropy: a metric that returns E U + log Z over the points and the standard error of log Z, (2,), such as `CrossEntropy`.
        log_base: the mean of log tau over the points, a scalar.
    """

    cross_entropy: Metric
    log_base: Float[Array, ""]
    long_name: ClassVar[str | None] = "loss, minus the mean log density"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the loss, a scalar."""
        check_key(key)
        value, error = self.cross_entropy(key, iterate)
        return jnp.where(error <= LARGEST_ERROR, value - self.log_base, jnp.nan)


class RowError(Metric):
    """The standard error over rows of the mean log density of points, in nats.

    With weights p_i of sum 1 it is sqrt(k / (k - 1) sum_i p_i^2 (v_i - mean)^2), where v_i is a log density up to a constant.

    Args:
        samples: the points, (k, d).
        log_base: the log density of the base measure at each point, up to a constant, (k,).
    """

    samples: Samples
    log_base: Float[Array, " k"]
    long_name: ClassVar[str | None] = "standard error of the mean log density"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the error, a scalar."""
        del key
        values, weights = self.log_base - iterate.energy(self.samples.points), self.samples.weights
        count = jnp.asarray(len(values), values.dtype)
        squares = jnp.sum(weights**2 * (values - jnp.sum(weights * values)) ** 2)
        return jnp.sqrt(squares * count / (count - 1))
