"""What weighted walkers tell, of a state whose weights are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.measures import Samples
from dualebm.methods.base import Info, Iterate
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.metrics import walkers
from dualebm.spaces import Sphere
from dualebm.training.simulate import start

METHOD, DATA = WeightedDual(Sphere(3), neurons=8, particles=100), Samples(jnp.eye(3))


@pytest.fixture(scope="module")
def state():
    """All weight is on walker 7, of four resamplings."""
    state = start(jax.random.key(1), METHOD, METHOD.rates, DATA)
    alone = np.full(100, -np.inf, "float32")
    alone[7] = 0.0
    return state._replace(weights=state.weights._replace(log_weights=jnp.array(alone), resamplings=jnp.int32(4)))


def read(metric, state, method=METHOD):
    return np.asarray(metric(jax.random.key(2), Iterate(method, state, METHOD.rates, DATA)))


def test_walkers_are_drawn_by_their_weights(state):
    drawn = read(walkers.Walkers(5), state)
    np.testing.assert_array_equal(drawn, np.asarray(state.particles)[[7] * 5])
    unweighted = state._replace(weights=state.weights._replace(log_weights=jnp.zeros(100)))
    assert len(np.unique(read(walkers.Walkers(50), unweighted), axis=0)) == 50


def test_the_number_of_resamplings_and_the_effective_fraction(state):
    assert read(walkers.Resamplings(), state) == 4
    iterate = Iterate(METHOD, state, METHOD.rates, DATA, Info(effective_fraction=jnp.array(0.25)))
    assert walkers.EffectiveFraction()(jax.random.key(2), iterate) == 0.25 and np.isnan(read(walkers.EffectiveFraction(), state))


def test_the_cross_entropy_is_the_mean_energy_and_log_z(state):
    class Known(WeightedDual):
        def log_partition(self, state):
            return jnp.float32(0.5), jnp.float32(0.125)

    method = Known(Sphere(3), neurons=8, particles=100)
    samples = Samples(jnp.eye(3), jnp.array([0.0, -jnp.inf, -jnp.inf]))
    mean = float(METHOD.energy(state, METHOD.rates, DATA)(jnp.eye(3))[0])
    assert read(walkers.LogPartition(), state, method).tolist() == [0.5, 0.125]
    assert read(walkers.WalkerCrossEntropy(samples), state, method) == pytest.approx([mean + 0.5, 0.125], abs=1e-6)
    with pytest.raises(ValueError, match="empty"):
        walkers.WalkerCrossEntropy(Samples(jnp.zeros((0, 3))))
