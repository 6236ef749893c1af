"""Metrics of a model whose log Z is estimated by draws of its base measure that training does not use."""

from typing import ClassVar

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from dualebm import measures
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric


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

    def __call__(self, key, iterate: Iterate):
        """Return the gap and its error, (2,)."""
        del key
        energy, data = iterate.energy, iterate.data
        values = energy(self.draws)
        weights = measures.shares(-values)
        model = jnp.sum(weights * values)
        error = jnp.sqrt(jnp.sum(weights**2 * (values - model) ** 2))
        return jnp.stack([measures.mean(energy(data.points), data.log_weights) - model, error])
