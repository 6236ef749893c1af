"""Algorithm 1 with Jarzynski's weights: log Z along dual training beside quadrature, on S^2 and on S^14."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.energies.shallow import feature_mean
from dualebm.features import ReLU
from dualebm.flows import jarzynski, wfr
from dualebm.log_z.quadrature import log_partition, mean_energy
from dualebm.measures import Samples, coefficients, total_variation
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.spaces import Sphere
from dualebm.training.simulate import simulate, start, step


def on_the_sphere(count):
    x = np.random.default_rng(0).normal(size=(count, 3))
    return Samples(jnp.array(x / np.linalg.norm(x, axis=1, keepdims=True)))


def run_of(method, rates, data, metrics, steps=60, every=20):
    def whole(key):
        state = method.init(key, rates, data)
        return simulate(jax.random.fold_in(key, 1), method, state, rates, data, steps=steps, every=every, metrics=metrics)

    return jax.jit(whole)


@pytest.mark.heavy
def test_log_z_along_dual_training_beside_quadrature():
    """Neurons that move fast, particles that hardly do: weighted, log Z within 5 sigma at each record, after many resamplings."""
    teacher = targets.teacher("s2_bimodal")
    cloud = teacher.quadrature()
    data, _ = targets.sample(jax.random.key(0), teacher, 1000)
    method = WeightedDual(teacher.space, neurons=16, particles=20_000)
    rates = method.rates._replace(particle_step=0.01, transport_step=1.0, reaction_step=1.0, threshold=0.9)

    def both(key, iterate):
        energy = iterate.energy
        unweighted = jnp.mean(energy(iterate.state.particles))
        weighted = jnp.sum(jax.nn.softmax(iterate.state.log_weights) * energy(iterate.state.particles))
        exact = log_partition(energy, cloud), mean_energy(energy, cloud)
        return jnp.stack([*jarzynski.log_partition(iterate.state.weights), *exact, weighted, unweighted])

    state, records = run_of(method, rates, data, {"both": both})(jax.random.key(1))
    value, error, exact, mean, weighted, unweighted = np.asarray(records["both"], float).T
    assert int(state.weights.resamplings) >= 2 and abs(exact[-1]) > 1
    assert (np.abs(value - exact) < 5 * error).all() and error.max() < 0.01, (value - exact, error)
    # the particles alone are far from the model
    assert np.abs(weighted - mean).max() < 0.03 and np.abs(unweighted - mean).max() > 0.1, (weighted - mean, unweighted - mean)


def test_a_step_is_that_of_the_neurons_with_weighted_particles(x64):
    space = Sphere(3)
    data = on_the_sphere(20)
    method = WeightedDual(space, ReLU(), neurons=4, particles=60, resampling="none")
    rates = method.rates._replace(particle_step=1e-30, radius=0.7)  # particles stay, and the budget binds
    state = start(jax.random.key(1), method, rates, data)
    after, _ = step(jax.random.key(2), method, state, rates, data)

    @jax.jit
    def parts(state, after):
        model, observed = (feature_mean(ReLU(), state.atoms.positions, s) for s in (Samples(state.particles, state.log_weights), data))
        witness = jax.tree.map(jnp.subtract, model, observed)
        atoms, _ = wfr.update(state.atoms, witness, rates.transport_step, rates.reaction_step, rates.radius, space, "multiplicative")
        change = method.energy(state, rates, data)(state.particles) - method.energy(after, rates, data)(state.particles)
        return atoms, coefficients(atoms), coefficients(after.atoms), total_variation(after.atoms), state.log_weights + change

    atoms, charges, found, total, log_weights = parts(state, after)
    np.testing.assert_allclose(after.atoms.positions, atoms.positions, rtol=1e-12)
    np.testing.assert_allclose(found, charges, rtol=1e-12)
    assert float(total) == pytest.approx(0.7)
    np.testing.assert_allclose(after.log_weights, log_weights, rtol=1e-10, atol=1e-13)


def test_several_moves_go_as_far_as_moves_in_a_row():
    """Of small steps the mean squared distance grows as their number."""
    space, data = Sphere(3), on_the_sphere(20)

    method = WeightedDual(space, neurons=4, particles=4000, noise="independent", resampling="none")
    rates = method.rates._replace(particle_step=1e-4)
    state = start(jax.random.key(1), method, rates, data)

    def distance(moves):
        after, _ = step(jax.random.key(2), dataclasses.replace(method, particle_moves=moves), state, rates, data)
        return np.mean(np.sum((np.asarray(after.particles) - np.asarray(state.particles)) ** 2, axis=1))

    one, three = distance(1), distance(3)  # 2 h for each of two directions
    assert one == pytest.approx(4e-4, rel=0.1) and three == pytest.approx(12e-4, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(particles=7), "particles is 7; it must be even"),
        (dict(resampling="multi"), "resampling is 'multi'"),
        (dict(neurons=0), "neurons is 0"),
        (dict(signs="all"), "signs is 'all'"),
    ],
)
def test_bad_choices(changes, message):
    with pytest.raises(ValueError, match=message):
        WeightedDual(Sphere(3), **changes)


def test_bad_thresholds():
    method = WeightedDual(Sphere(3), neurons=4, particles=10)
    with pytest.raises(ValueError, match=r"threshold is 1\.2"):
        method.check(method.rates._replace(threshold=1.2), on_the_sphere(3))
