"""What is recorded of a run beside its certificate: metrics at some iterations, the excess of its loss; and descent on the loss itself."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dualebm import measures, metrics
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.energies.shallow import feature_mean, from_atoms
from dualebm.measures import Samples
from dualebm.methods.base import Info
from dualebm.methods.dual import Dual
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
        energy = iterate.energy
        difference = energy(self.samples.points) - self.reference
        log_ratio = metrics.relative_entropy(energy, self.reference, self.samples) - measures.mean(difference, self.samples.log_weights)
        error = jnp.zeros_like(log_ratio)
        if self.samples.log_weights is None:
            error = jnp.std(jnp.exp(-difference - log_ratio)) / math.sqrt(difference.size)
        return jnp.stack([jnp.mean(energy(iterate.data.points) - self.teacher(iterate.data.points)) + log_ratio, error])


@dataclasses.dataclass(frozen=True)
class Descent(Dual):
    """`Dual` with the model's own mean in place of that of its particles: descent on L, of which it finds the least.

    The model is known from the teacher: on S^2 by its quadrature, elsewhere by exact samples of it (the particles, which stay) reweighted.
    """

    teacher: str = "s2_bimodal"

    def step(self, key, state, rates, data):
        """Moves the atoms along the gradient of L."""
        del key
        target, energy = targets.teacher(self.teacher, data.points.dtype), from_atoms(self.feature, state.atoms)
        if self.space.dimension == 3:
            nodes: Any = target.quadrature(data.points.dtype)
        else:
            nodes = Samples(state.particles, target.energy(state.particles))
        model = Samples(nodes.points, nodes.log_weights - energy(nodes.points))
        witness = jax.tree.map(
            jnp.subtract, *(feature_mean(self.feature, energy.positions, seen) for seen in (model, data))
        )
        atoms, _ = self.update_atoms(state.atoms, witness, rates)
        return state._replace(atoms=atoms, step=state.step + 1), Info()
