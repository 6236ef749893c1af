"""Maximum likelihood: steps beside loops, expectations beside quadrature, log Z by increments, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU, Softplus
from dualebm.flows import langevin
from dualebm.flows.noise import given
from dualebm.log_z.quadrature import log_partition, sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods import likelihood
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.methods.tracked import Tracked
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import simulate, start, step
from tests import oracles, oracles_stein
from tests.cases import heavy


def points_of(space, count, seed=0, dtype=float):
    return jnp.array(oracles.normalise(np.random.default_rng(seed).normal(size=(count, space.dimension))), dtype)


@pytest.mark.parametrize("regime", ["active", "lazy"])
def test_a_step_beside_a_loop(regime, x64):
    """Of chains that stay; the data have weights."""
    space = Sphere(3)
    data = Samples(points_of(space, 12), jnp.array(np.linspace(-1, 1, 12)))
    method = Likelihood(space, neurons=5, chains=10, regime=regime)
    rates = likelihood.LikelihoodRates(1e-30, 0.3, 7.0, 0.2)
    state = start(jax.random.key(1), method, rates, data)
    theta, w = np.asarray(state.neurons.positions), np.linspace(-2, 2, 5)
    state = state._replace(neurons=Shallow(ReLU(), state.neurons.positions, jnp.array(w)))
    after, _ = step(jax.random.key(2), method, state, rates, data)
    share = np.exp(np.linspace(-1, 1, 12))
    # of the oracle's two measures the second has the weights, and is here the data: the signs are the other way round
    gradients = oracles_stein.likelihood_gradient(theta, w, np.asarray(after.particles), np.asarray(data.points), share / share.sum())
    gradients = tuple(-g for g in gradients)
    moved, w = oracles_stein.network_step(theta, w, gradients, 0.3, 7.0, 0.2)
    np.testing.assert_allclose(after.neurons.coefficients, w, rtol=1e-10)
    np.testing.assert_allclose(after.neurons.positions, moved if regime == "active" else theta, rtol=1e-10)


def test_the_step_is_down_the_exact_likelihood(x64):
    """Differences of E_data f + log Z by quadrature, with weighted points that are the quadrature's number: within their error."""
    space, feature = Sphere(3), Softplus(3.0)
    quadrature = sphere_quadrature(space, 40, float)
    data = Samples(points_of(space, 30))
    positions = np.random.default_rng(3).normal(size=(4, 3))
    energy = Shallow(feature, jnp.array(positions), jnp.array([3.0, -2.0, 1.0, -4.0]))

    @jax.jit
    @jax.grad
    def exact(f):
        return jnp.mean(f(data.points)) + log_partition(f, quadrature)

    method = Likelihood(space, feature=feature, neurons=4, sampler="importance", chains=200_000)
    rates = likelihood.LikelihoodRates(0.0, 1.0, 1.0)
    state = start(jax.random.key(0), method, rates, data)._replace(neurons=energy)
    (after, info), slope = jax.device_get((step(jax.random.key(1), method, state, rates, data), exact(energy)))
    effective = 200_000 * info.effective_fraction
    sigma = 3 / np.sqrt(effective)  # phi is about 1, its gradient too, coefficients up to 4
    np.testing.assert_allclose(energy.coefficients - after.neurons.coefficients, 4 * slope.coefficients, atol=sigma)
    np.testing.assert_allclose(positions - after.neurons.positions, 4 * slope.positions, atol=4 * sigma)
    assert 1000 < effective < 200_000 and np.abs(slope.positions).max() > 2 * sigma


@pytest.mark.parametrize(("sampler", "moves", "particle_step"), [heavy("mala", 40, 0.2), ("independence", 40, 0.0), ("importance", 1, 0.0)])
def test_the_samplers_agree_with_quadrature(sampler, moves, particle_step, x64):
    """E_model phi at the teacher's neurons, of as many independent points as there are chains, or effective ones; 5 sigma."""
    count, teacher = 10_000, targets.planted([[1.0, 0, 0], [0, 0.6, 0.8]], [-6.0, 4.0], dtype=float)
    x, log_weights = (np.asarray(a) for a in teacher.quadrature(float))
    phi = lambda x: np.maximum(x @ np.asarray(teacher.energy.positions).T, 0)  # noqa: E731
    p = np.exp(log_weights - phi(x) @ [-3.0, 2.0])
    data = Samples(points_of(teacher.space, 10))
    method = Likelihood(teacher.space, neurons=2, sampler=sampler, chains=count, moves=moves)
    rates = likelihood.LikelihoodRates(particle_step, 1.0, 0.0)
    state = start(jax.random.key(0), method, rates, data)._replace(neurons=teacher.energy)
    after, info = jax.device_get(step(jax.random.key(1), method, state, rates, data))
    found = phi(np.asarray(data.points)).mean(axis=0) + after.neurons.coefficients - teacher.energy.coefficients
    effective = count * info.effective_fraction if sampler == "importance" else count
    np.testing.assert_allclose(found, p @ phi(x) / p.sum(), atol=5 * 0.4 / np.sqrt(effective))
    assert 0.1 < (effective / count if sampler == "importance" else info.acceptance) <= 1


def test_independence_metropolis_beside_a_loop(x64):
    space = Sphere(4)
    energy = Shallow(ReLU(), points_of(space, 3, 1), jnp.array([-5.0, 3.0, -4.0]))
    rng, x = np.random.default_rng(5), points_of(space, 11)
    normal, uniform = rng.normal(size=(11, 4)), rng.uniform(size=11)

    @jax.jit
    def move(x, normal, uniform):
        return langevin.move("independence", space, given(normal, uniform), x.T, energy, 0.0)[:2]

    moved, acceptance = move(x, normal, uniform)
    theta, c = np.asarray(energy.positions), np.asarray(energy.coefficients)
    expected, accepted = oracles_stein.independence_metropolis(
        np.asarray(x), oracles.normalise(normal), uniform, lambda p: oracles.energy(p, theta, c)
    )
    np.testing.assert_allclose(np.asarray(moved).T, expected, rtol=1e-12)
    assert float(acceptance) == pytest.approx(accepted.mean()) and 0 < accepted.sum() < 11


@pytest.mark.parametrize("space", [Sphere(3), Euclidean(2, Gaussian(2.0)), Torus(2, 3.0)], ids=str)
def test_proposals_are_of_the_base_measure(space, x64):
    """Moments of `from_normal` beside those of `sample_base`, 5 sigma."""
    count = 20_000

    @jax.jit
    def found(normal):
        made = space.from_normal(normal, axis=0).T
        return made, space.sample_base(jax.random.key(1), count, float), space.distance_from(made)

    made, drawn, off = jax.device_get(found(np.random.default_rng(0).normal(size=(space.dimension, count))))
    for power in (1, 2, 4):
        a, b = made**power, drawn**power
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * np.sqrt((a.var(axis=0) + b.var(axis=0)) / count)).all()
    assert off.max() < 1e-12


@pytest.mark.heavy
def test_log_partition_by_increments_beside_quadrature(x64):
    """`Tracked` around it, from the network's own start, over moves that keep up."""
    space = Sphere(3)
    teacher = targets.teacher("s2_bimodal", float)
    data = targets.sample(jax.random.key(0), teacher, 500)[0]
    method = Tracked(Likelihood(space, neurons=16, chains=1000, moves=4), chains=1000)
    rates = method.rates._replace(learning_rate=0.1, position_rate=1.0)
    state = start(jax.random.key(1), method, rates, data)

    @jax.jit
    def found(state):
        state = simulate(jax.random.key(2), method, state, rates, data, steps=150, every=150, metrics={})[0]
        return state.log_partition, log_partition(method.energy(state, rates, data), quadrature)

    quadrature = sphere_quadrature(space, 40, float)
    tracked, exact = map(float, found(state))
    assert exact > 0.2
    assert tracked == pytest.approx(exact, abs=0.02)


def test_weighted_neurons_beside_a_loop(x64):
    space = Sphere(3)
    data = Samples(points_of(space, 20), jnp.array(np.linspace(-1, 1, 20)))
    method = WeightedLikelihood(space, neurons=4, sampler="mala", chains=10)
    rates = likelihood.WeightedRates(1e-30, 0.7, 0.5, 0.3, 0.2)
    state = start(jax.random.key(1), method, rates, data)
    weights = np.array([0.5, 1.5, 0.7, 1.3])
    neurons = state.neurons._replace(charges=jnp.array([-3.0, 2.0, 0.3, -0.4]), log_weights=jnp.array(np.log(weights)))
    state = state._replace(neurons=neurons)
    share = np.exp(np.linspace(-1, 1, 20))
    model = np.asarray(state.particles)
    expected = oracles_stein.measure_step(
        np.asarray(neurons.charges), weights, np.asarray(neurons.positions), np.asarray(data.points), share / share.sum(), model,
        np.full(len(model), 1 / len(model)), steps=(0.7, 0.5, 0.3), decay=0.2,
    )  # fmt: skip
    after, no_decay, small = (
        jax.device_get(step(jax.random.key(2), method, state, rates._replace(charge_decay=decay), data)[0]).neurons
        for decay in (0.2, 0.0, 1e-9)
    )
    for value, oracle in zip((after.charges, np.exp(after.log_weights), after.positions), expected, strict=True):
        np.testing.assert_allclose(value, oracle, rtol=1e-9)
    np.testing.assert_allclose(no_decay.charges, small.charges, rtol=1e-6)


def test_bad_settings_are_named():
    space, data = Sphere(3), Samples(points_of(Sphere(3), 5, dtype=jnp.float32))
    for kind, changes, message in (
        (Likelihood, dict(sampler="gibbs"), "sampler is 'gibbs'"),
        (Likelihood, dict(chains=1), "chains is 1"),
        (Likelihood, dict(moves=0), "moves is 0"),
        (Likelihood, dict(sampler="importance", moves=3), "moves is 3"),
        (WeightedLikelihood, dict(neurons=0), "neurons is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(space, **changes)
    with pytest.raises(ValueError, match="flat measure"):
        Likelihood(Euclidean(3, Flat()))
    for method, rates, message in (
        (Likelihood(space, sampler="importance"), dict(particle_step=0.1), "particle_step is 0.1 and sampler 'importance'"),
        (Likelihood(space), dict(particle_step=0.0), "particle_step is 0.0"),
        (Likelihood(space), dict(learning_rate=-1.0), "learning_rate is -1.0"),
        (WeightedLikelihood(space), dict(charge_decay=-1.0), "charge_decay is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            method.check(method.rates._replace(**rates), data)
    with pytest.raises(ValueError, match="off the unit sphere"):
        Likelihood(space).check(Likelihood(space).rates, Samples(2 * np.asarray(data.points)))
