"""Contrastive divergence and its kin: a step beside its parts, where walkers restart, and what the weights of a diagnosis know."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualebm.base_measures import Flat, Gaussian
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import MLP
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.flows.jarzynski import first_walkers, log_partition
from dualebm.flows.likelihood import Training
from dualebm.log_z.quadrature import mean_energy, sphere_quadrature
from dualebm.measures import Samples, effective_sample_size
from dualebm.methods.contrastive import Contrastive, contrastive_divergence
from dualebm.methods.jarzynski import FIXED, Jarzynski
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.simulate import start, step
from tests.cases import heavy

AXES = Samples(jnp.array(np.eye(3)))


def shifted(state):
    arrays = jax.tree.map(lambda a: jnp.array(np.asarray(a) + 0.1), state.training.arrays)
    return state._replace(training=Training(arrays, state.training.optimiser))


def test_a_step_is_the_gradient_of_the_likelihood_and_the_decay(x64):
    """Of walkers after their move: plain gradient steps; and Adam's first, which is the sign of the gradient."""
    space = Sphere(3)
    points = np.random.default_rng(0).normal(size=(30, 3))
    data = Samples(jnp.array(points / np.linalg.norm(points, axis=1, keepdims=True)))
    method = Contrastive(space, MLP(4), optimiser="gradient", walkers=20, integrator="geodesic", **FIXED)
    rates = method.rates._replace(particle_step=0.05, learning_rate=0.3, weight_decay=0.1)
    state = shifted(start(jax.random.key(1), method, rates, data))
    after, _ = step(jax.random.key(2), method, state, rates, data)
    adam = dataclasses.replace(method, optimiser="adam")
    begun = shifted(start(jax.random.key(1), adam, rates, data))
    moved, _ = step(jax.random.key(2), adam, begun, rates._replace(weight_decay=0.0), data)
    network = method.energy(state, rates, data)
    assert np.abs(np.asarray(after.columns) - np.asarray(state.columns)).min(axis=1).max() > 1e-3
    slope = jax.jit(jax.grad(lambda network, x: jnp.mean(network(x))))
    gradients = [slope(network, x) for x in (data.points, after.columns.T)]
    trees = (network, after.training.arrays, moved.training.arrays, *gradients)
    for leaves in zip(*map(jax.tree.leaves, trees), strict=True):
        before, new, signed, observed, model = map(np.asarray, leaves)
        np.testing.assert_allclose(new, before - 0.3 * (observed - model + 0.1 * before), rtol=1e-9, atol=1e-12)
        large = np.abs(observed - model) > 1e-5
        np.testing.assert_allclose(np.where(large, signed - before, 0), np.where(large, -0.3 * np.sign(observed - model), 0), rtol=2e-3)


@pytest.mark.parametrize("kind", [Contrastive, heavy(Jarzynski)])
def test_the_gradient_of_a_batch_of_data_is_of_those_that_are_drawn(kind, x64):
    """In each step at most 3 of 8 points change the parameters; each of them does in some of 40 steps."""
    space = Euclidean(2, Flat())
    method = kind(space, Mixture(2, separation=1.0), walkers=10, data_batch=3, optimiser="gradient", **FIXED)
    data = Samples(jnp.array(np.random.default_rng(0).normal(size=(8, 2))))
    state = start(jax.random.key(1), method, method.rates, data)

    def means(points, key):
        return method.energy(method.step(key, state, method.rates, Samples(points))[0], method.rates, data).means

    slopes = jax.jit(jax.vmap(jax.jacobian(means), (None, 0)))(data.points, jax.random.split(jax.random.key(2), 40))
    seen = np.abs(np.asarray(slopes)).sum(axis=(1, 2, 4)) > 0  # by step and point
    assert seen.sum(axis=1).max() == 3 and seen.any(axis=0).all()


def test_walkers_that_begin_at_the_model_are_of_it_without_weights():
    """Of an energy that is annealed with uneven weights: E U within 5 sigma of quadrature, where the walkers as annealed are not."""
    space = Sphere(3)
    steep = Shallow(ReLU(), jnp.array([[1.0, 0.0, 0.0]]), jnp.array([-60.0]))
    method = Contrastive(space, lambda key, space, dtype: steep, walkers=4000, begin="model", **FIXED)

    @jax.jit
    def energies(key):
        state = method.init(key, method.rates, AXES)
        annealed, weights = first_walkers(jax.random.split(key)[1], steep, space, 4000)
        exact = mean_energy(steep, sphere_quadrature(space, 200))
        return steep(state.particles), steep(annealed.T), effective_sample_size(weights.log_weights) / 4000, exact

    found, raw, ess, exact = (np.asarray(a, float) for a in energies(jax.random.key(1)))
    error = found.std() / np.sqrt(4000 * ess)
    assert abs(found.mean() - exact) < 5 * error and abs(raw.mean() - exact) > 8 * error, (found.mean(), raw.mean(), exact, error)


def near(x, y):
    """For each row of x, the distance to the nearest of y."""
    return np.sqrt(((np.asarray(x)[:, None] - np.asarray(y)) ** 2).sum(2)).min(1)


@pytest.mark.parametrize("walkers", [None, 50])
def test_walkers_of_contrastive_divergence_begin_at_the_data(walkers):
    """In iterations 0, 3, 6 of `restart_every=3`, and not between."""
    space = Euclidean(2)
    data = Samples(jnp.array(30 * np.random.default_rng(0).normal(size=(40, 2))))
    method = Contrastive(space, MLP(4), walkers=walkers, restart_every=3, integrator="geodesic", **FIXED)
    rates = method.rates._replace(particle_step=1e-4, learning_rate=0.0)
    state, far = start(jax.random.key(1), method, rates, data), []
    for i in range(5):
        state = state._replace(columns=jnp.array(np.asarray(state.columns) + 500))
        state, _ = step(jax.random.key(i), method, state, rates, data)
        far.append(near(state.columns.T, data.points).max())
    assert [f > 100 for f in far] == [False, True, True, False, True]
    assert contrastive_divergence(space, MLP(), 7, walkers=10) == Contrastive(space, MLP(), moves=7, restart_every=1, walkers=10)


def test_a_fraction_of_the_walkers_begins_anew():
    """A quarter of 4000, at the base measure or at data."""
    space = Euclidean(2, Gaussian(0.1))
    data = Samples(jnp.array(np.full((10, 2), 300.0)))
    method = Contrastive(space, MLP(4), walkers=4000, integrator="geodesic", **FIXED)
    rates = method.rates._replace(particle_step=1e-6, learning_rate=0.0, restart_probability=0.25)
    state = start(jax.random.key(1), method, rates, data)._replace(columns=jnp.array(np.full((2, 4000), -500.0)))
    for restart_at, place in (("base", 0.0), ("data", 300.0)):
        method = dataclasses.replace(method, restart_at=restart_at)
        after, _ = step(jax.random.key(2), method, state, rates, data)
        there = np.abs(np.asarray(after.particles) - place).max(1) < 1
        assert abs(there.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)
        assert np.abs(np.asarray(after.particles)[~there] + 500).max() < 1


@pytest.mark.heavy
def test_a_diagnosis_knows_log_z_and_changes_nothing():
    """Walkers that are never resampled, whose own law is not the model's: the weights are, the training does not use them."""
    space = Euclidean(2, Flat())
    data = Samples(jnp.array(np.random.default_rng(0).normal([3.0, 0.0], size=(500, 2))))

    def steps():
        return optax.sgd(0.01)

    method = Contrastive(
        space, Mixture(2, separation=1.0), walkers=20_000, begin="model", diagnosis=True, integrator="geodesic", optimiser=steps, moves=2,
        **FIXED,
    )
    rates = method.rates._replace(particle_step=0.5)  # of which the weights know a bias of 7 errors

    def moved(method):
        state = start(jax.random.key(1), method, rates, data)
        for i in range(60):
            state, _ = step(jax.random.key(i), method, state, rates, data)
        return state

    state, without = moved(method), moved(dataclasses.replace(method, diagnosis=False))
    energy = method.energy(state, rates, data)
    known = jax.jit(lambda energy, diagnosis: (*log_partition(diagnosis), energy.log_partition(space)))
    value, error, exact = map(float, known(energy, state.diagnosis))
    assert abs(value - exact) < 5 * error < 0.2
    assert float(np.abs(np.asarray(energy.means)).max()) > 1.2 and int(state.diagnosis.resamplings) == 0
    np.testing.assert_allclose(without.training.arrays.means, state.training.arrays.means, rtol=1e-4)
    assert not hasattr(state, "log_weights")  # so that no metric weighs the walkers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(optimiser="adagrad"), "optimiser is 'adagrad'"),
        (dict(moves=0), "moves is 0"),
        (dict(walkers=3), "walkers is 3; it must be even"),
        (dict(begin="modell"), "did you mean 'model'"),
        (dict(begin="model"), "begin is 'model' and walkers is None"),
        (dict(restart_at="bse"), "did you mean 'base'"),
        (dict(restart_every=0), "restart_every is 0"),
        (dict(diagnosis=True), "diagnosis is True with begin 'data'"),
        (dict(diagnosis=True, begin="model", walkers=10, restart_every=2), "and restart_every 2"),
        (dict(space=Euclidean(3, Flat()), restart_at="base"), "restart_at is 'base'"),
        (dict(data_batch=0), "data_batch is 0"),
    ],
)
def test_bad_choices(changes, message):
    with pytest.raises(ValueError, match=message):
        Contrastive(**{**dict(space=Sphere(3), start=MLP()), **changes})


@pytest.mark.parametrize("name", ["particle_step", "learning_rate", "weight_decay", "energy_penalty", "restart_probability"])
def test_bad_rates(name):
    method = Contrastive(Sphere(3), MLP(), **FIXED)
    with pytest.raises(ValueError, match=f"{name} is -1"):
        method.check(method.rates._replace(**{name: -1.0}), AXES)


def test_rates_that_do_not_go_together():
    data = AXES
    every = Contrastive(Sphere(3), MLP(), restart_every=2, **FIXED)
    with pytest.raises(ValueError, match="and restart_every is 2; give one"):
        every.check(every.rates._replace(restart_probability=0.1), data)
    told = Contrastive(Sphere(3), MLP(), walkers=10, begin="model", diagnosis=True, **FIXED)
    with pytest.raises(ValueError, match="a restart has no weight"):
        told.check(told.rates._replace(restart_probability=0.1), data)
    copies = Contrastive(Sphere(3), MLP(), **FIXED)
    with pytest.raises(ValueError, match="copies of the data"):
        copies.check(copies.rates, Samples(AXES.points, jnp.array(np.zeros(3))))
