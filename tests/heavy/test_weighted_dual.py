"""Algorithm 1 with Jarzynski's weights: log Z along dual training beside quadrature, on S^2 and on S^14."""

import jax
import numpy as np

from dualebm.data import targets
from dualebm.flows import jarzynski
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.methods.weighted_dual import WeightedDual
from tests.package.test_weighted_dual import run_of


def test_on_s14_beside_the_exact_plane():
    """Signs all negative and neurons near the teacher's plane have no closed form; annealing with many chains has a small error."""
    teacher = targets.teacher("s14_monomodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 2000)
    method = WeightedDual(teacher.space, neurons=32, particles=20_000)
    rates = method.rates._replace(transport_step=0.5, reaction_step=0.5)
    state, _ = run_of(method, rates, data, {}, 200, 100)(jax.random.key(1))
    value, error = map(float, jarzynski.log_partition(state.weights))
    energy = method.energy(state, rates, data)
    anneal = jax.jit(lambda key: log_partition_by_annealing(key, energy, teacher.space, 20_000, temperatures=400))
    other, other_error, _ = map(float, anneal(jax.random.key(3)))
    assert abs(value - other) < 5 * np.hypot(error, other_error) < 0.5, (value, other, error, other_error)
