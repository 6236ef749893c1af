"""Jarzynski's weights beside loops, closed forms and quadrature, whatever the move, the order and the resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.flows import jarzynski
from dualebm.measures import Samples
from dualebm.methods.jarzynski import algorithm_1
from tests.package.test_jarzynski import LINE, at_rest, final, protocol, weighted_moments

NUMBERS = {"exact": (-0.4576, 1.5, 0.3995), "uncorrected": (-0.4511, 1.524, 0.451), "trapezoid": (-0.498, 1.5, 0.456),
           "release": (-0.479, 1.546, 0.445)}  # fmt: skip


@pytest.mark.parametrize("increment", jarzynski.INCREMENTS)
def test_a_moving_gaussian_at_a_large_step(increment):
    """h = 0.1, 30 steps, 4e5 walkers: log Z'/Z = log(0.4) / 2, mean and variance within 5 sigma; the biased increments where they are."""
    method = algorithm_1(LINE, at_rest, walkers=400_000, optimiser=protocol, increment=increment, resampling="none")
    rates, data = method.rates._replace(particle_step=0.1), Samples(jnp.array([[0.0]]))

    @jax.jit
    def run(key):
        state = final(key, method, rates, data)
        return state, jarzynski.log_partition(state.weights, "none")

    state, (value, error) = run(jax.random.key(0))
    value, error = float(value), float(error)
    mean, mean_error, variance, variance_error = weighted_moments(state)
    found = np.array([value - 0.5 * np.log(2 * np.pi), mean, variance])
    errors = np.array([error, mean_error, variance_error])
    assert errors.max() < 0.005
    if increment == "exact":
        assert (np.abs(found - [0.5 * np.log(0.4), 1.5, 0.4]) < 5 * errors).all(), (found, errors)
    else:  # the numbers of an independent program, which has its own error
        assert (np.abs(found - NUMBERS[increment]) < 7 * errors).all(), (found, errors)
        assert (np.abs(found - NUMBERS["exact"]) > 10 * errors).any()
