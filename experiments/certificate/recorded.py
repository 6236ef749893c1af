"""What is recorded of a run beside its certificate: metrics at some iterations, and the excess of its loss."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from dualebm import measures, metrics
from dualebm.energies.base import Energy
from dualebm.measures import Samples
from dualebm.metrics.base import Metric


class At(Metric):
    """A metric at some iterations, NaN at the others."""

    metric: Callable
    iterations: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, key, iterate):
        """Returns the value of the metric, or NaN."""
        made = lambda: self.metric(key, iterate)  # noqa: E731
        shape = jax.eval_shape(made)
        none = lambda: jnp.full(shape.shape, jnp.nan, shape.dtype)  # noqa: E731
        return jax.lax.cond(jnp.any(iterate.state.step == jnp.array(self.iterations)), made, none)


def particles(key, iterate):
    """Returns the particles of the training, (N, d): a metric."""
    del key
    return iterate.state.particles


class Excess(Metric):
    """L(f) - L(f*) = E_data r + log E* exp(-r), r = f - f*, and its standard error over samples of the teacher (0 by quadrature).

    It holds L = E_data f + log Z to the digits that a difference of losses needs: log Z = log Z* + log E* exp(-r).
    """

    teacher: Energy
    samples: Samples
    reference: jax.Array
    long_name, units = "loss less that of the teacher's energy", "nat"

    def __init__(self, teacher: Energy, samples: Samples):
        self.teacher, self.samples, self.reference = teacher, samples, teacher(samples.points)

    def __call__(self, key, iterate):
        """Returns the excess and its error, (2,)."""
        return self.of(iterate.energy, iterate.data)

    def of(self, energy: Energy, data: Samples) -> jax.Array:
        """Returns the excess of an energy at data and its error, (2,)."""
        difference = energy(self.samples.points) - self.reference
        log_ratio = metrics.relative_entropy(energy, self.reference, self.samples) - measures.mean(difference, self.samples.log_weights)
        error = jnp.zeros_like(log_ratio)
        if self.samples.log_weights is None:
            error = jnp.std(jnp.exp(-difference - log_ratio)) / math.sqrt(difference.size)
        return jnp.stack([jnp.mean(energy(data.points) - self.teacher(data.points)) + log_ratio, error])
