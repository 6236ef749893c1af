"""Steps of two-layer networks beside loops, the penalty that decay is, and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualebm.energies.files import load_energy, save_energy
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump, ReLU, Softplus
from dualebm.flows import two_layer
from dualebm.methods.likelihood import Likelihood
from dualebm.spaces import Sphere, Torus
from tests import oracles_stein

RATES = two_layer.NetworkRates(0.3, 7.0, 0.2)


descend = jax.jit(two_layer.descend, static_argnums=(0, 1))
network = jax.jit(two_layer.network, static_argnums=(1, 2, 3, 4, 5, 6))


def some(shape, seed):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("regime", two_layer.REGIMES)
def test_a_step_beside_a_loop(regime, x64):
    before = Shallow(ReLU(), some((5, 3), 0), some(5, 1))
    gradient = (some(5, 2), some((5, 3), 3))
    after, _ = descend("gradient", regime, before, gradient, two_layer.start("gradient", before), RATES)
    theta, w = (np.asarray(a) for a in (before.positions, before.coefficients))
    theta, w = oracles_stein.network_step(theta, w, [np.asarray(g) for g in gradient], 0.3, 7.0, 0.2)
    np.testing.assert_allclose(after.coefficients, w, rtol=1e-13)
    np.testing.assert_allclose(after.positions, theta if regime == "active" else before.positions, rtol=1e-13)


def test_optimisers_are_those_of_optax(x64):
    """Two steps, so that a state that is not kept would show."""
    for name, transformation in {"adam": optax.scale_by_adam(), "momentum": optax.trace(0.9), "rms": optax.scale_by_rms()}.items():
        energy = Shallow(ReLU(), some((5, 3), 0), some(5, 1))
        state, (w, theta) = two_layer.start(name, energy), (energy.coefficients, energy.positions)
        theirs = transformation.init((w, theta))
        for i in range(2):
            gradient = (some(5, 10 + i), some((5, 3), 20 + i))
            energy, state = descend(name, "active", energy, gradient, state, RATES)
            (a, b), theirs = transformation.update(gradient, theirs)
            w, theta = (np.asarray(z) for z in (w, theta))
            w, theta = w - 0.3 * (np.asarray(a) + 0.2 * w), theta - 2.1 * (np.asarray(b) + 0.2 * theta)
        np.testing.assert_allclose(energy.coefficients, w, rtol=1e-12)
        np.testing.assert_allclose(energy.positions, theta, rtol=1e-12)


def test_the_decay_of_both_layers_is_the_norm_of_f1(x64):
    """min over a of (a^2 w^2 + |theta|^2 / a^2) / 2 is |w| |theta|, the term of `norm`."""
    energy = Shallow(ReLU(), some((6, 3), 0), some(6, 1))
    scales = np.exp(np.linspace(-4, 4, 20_001))
    lengths = np.linalg.norm(energy.positions, axis=1)
    least = [np.min(w**2 * scales**2 + t**2 / scales**2) / 2 for w, t in zip(np.asarray(energy.coefficients), lengths, strict=True)]
    assert float(jax.jit(two_layer.norm)(energy)) == pytest.approx(np.mean(least), rel=1e-6)


def test_the_start(x64):
    lazy = network(jax.random.key(0), ReLU(bias=True), Sphere(4), 20_000, "lazy", 0.1, float)
    active = network(jax.random.key(0), ReLU(), Sphere(4), 20_000, "active", 0.1, jnp.float32)
    assert lazy.positions.shape == (20_000, 5) and active.positions.dtype == jnp.float32
    np.testing.assert_array_equal(lazy.coefficients, 0)
    sigma = np.sqrt(2 / 80_000)  # of the variance of so many normals, relative
    for values, variance in ((lazy.positions, 1), (active.positions, 0.1), (active.coefficients, 0.1)):
        assert np.var(np.float64(values)) == pytest.approx(variance, rel=5 * sigma * np.sqrt(100_000 / values.size))


def test_schedules_multiply_the_learning_rate_alone():
    schedule = two_layer.scheduled(optax.cosine_decay_schedule(1.0, 100))
    for step in (0, 30, 100):
        rates = schedule(step, RATES)
        assert float(rates.learning_rate) == pytest.approx(0.15 * (1 + np.cos(np.pi * step / 100)), abs=1e-6)
        assert rates._replace(learning_rate=0.3) == RATES
    assert float(two_layer.inverse_time(0.005)(600)) == pytest.approx(1 / 4)


def test_bad_settings_are_named():
    for changes, message in (
        (dict(feature=Bump(Torus(1))), "feature is Bump"),
        (dict(neurons=0), "neurons is 0"),
        (dict(regime="activ"), "regime is 'activ'; did you mean 'active'"),
        (dict(optimiser="sgd"), "optimiser is 'sgd'"),
        (dict(initial_scale=0.0), "initial_scale is 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Likelihood(Sphere(3), **changes)
    with pytest.raises(ValueError, match="rate is -1"):
        two_layer.inverse_time(-1)


def test_a_network_of_free_positions_goes_to_a_file_and_back(tmp_path):
    energy = network(jax.random.key(0), Softplus(2.0), Sphere(3), 7, "active", 0.1, jnp.float32)
    save_energy(tmp_path / "energy.npz", energy)
    again = load_energy(tmp_path / "energy.npz")
    np.testing.assert_array_equal(again.positions, energy.positions)
