"""The experiment from end to end, its estimate beside quadrature, and bad settings."""

import jax
import numpy as np
import pytest

from dualebm import metrics
from dualebm.data import targets
from dualebm.flows import jarzynski
from dualebm.log_z.quadrature import log_partition
from dualebm.methods.base import Info, Iterate
from dualebm.methods.weighted_dual import WeightedDual
from experiments.weighted_dual import Settings, checked, monitors, steps_of


def test_the_estimate_beside_the_exact_divergence():
    target = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), target, 100)
    method = WeightedDual(target.space, neurons=4, particles=1000)
    state = jax.jit(method.init)(jax.random.key(1), method.rates, data)
    iterate = Iterate(method, state, method.rates, data, Info(effective_fraction=jax.numpy.float32(0.5)))
    (by_walkers, beside, error, ess) = monitors(jax.random.key(2), "s2_bimodal", 0)["kl"](None, iterate)
    exact = metrics.KLDivergence(target.energy, metrics.exact_samples(target.energy, target.quadrature()))
    assert float(beside) == pytest.approx(float(exact(None, Iterate(method, state, method.rates, data))), abs=2e-4)
    value, of_value = jarzynski.log_partition(state.weights)
    off = float(value - log_partition(method.energy(state, method.rates, data), target.quadrature()))
    assert float(by_walkers - beside) == pytest.approx(off, abs=1e-4) and float(error) == float(of_value) and float(ess) == 0.5


def test_what_is_slow_is_slower():
    default = steps_of("s2_bimodal", 1.0)
    slow_particles, slow_neurons = steps_of("s2_bimodal", 10.0), steps_of("s2_bimodal", 0.1)
    assert slow_particles["particle_step"] == pytest.approx(default["particle_step"] / 10)
    assert slow_neurons["reaction_step"] == pytest.approx(default["reaction_step"] / 10)
    for found in (slow_particles, slow_neurons):
        ratio = found["transport_step"] / found["particle_step"] / (default["transport_step"] / default["particle_step"])
        assert np.isclose(ratio, 10) or np.isclose(ratio, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(teachers=("s2_bimodel",)), "did you mean 's2_bimodal'"),
        (dict(teachers=()), r"teachers is \(\); it must have at least one"),
        (dict(ratios=(0.0,)), "ratios is 0"),
        (dict(steps=30), "steps is 30; it must be a multiple of 20"),
        (dict(seeds=0), "seeds is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
