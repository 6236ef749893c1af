"""Maximum likelihood: steps beside loops, expectations beside quadrature, log Z by increments, and what it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics, partition, targets
from dualebm.energy import Shallow, feature_mean
from dualebm.features import ReLU, Softplus
from dualebm.flows import langevin
from dualebm.measures import Samples
from dualebm.methods import likelihood
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.methods.tracked import Tracked
from dualebm.simulate import simulate
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles_stein


def points_of(space, count, seed=0, dtype=float):
    return space.sample_base(jax.random.key(seed), count, dtype)


@pytest.mark.parametrize("regime", ["active", "lazy"])
def test_a_step_beside_a_loop(regime, x64):
    """Of chains that stay; the data have weights."""
    space = Sphere(3)
    data = Samples(points_of(space, 12), jnp.linspace(-1, 1, 12))
    method = Likelihood(space, neurons=5, chains=10, regime=regime)
    rates = likelihood.LikelihoodRates(1e-30, 0.3, 7.0, 0.2)
    state = method.init(jax.random.key(1), rates, data)
    start = state.neurons
    state = state._replace(neurons=Shallow(ReLU(), start.positions, jnp.linspace(-2, 2, 5)))
    after = jax.jit(method.step)(jax.random.key(2), state, rates, data)
    theta, w = np.asarray(start.positions), np.linspace(-2, 2, 5)
    share = np.exp(np.linspace(-1, 1, 12))
    # of the oracle's two measures the second has the weights, and is here the data: the signs are the other way round
    gradients = oracles_stein.likelihood_gradient(theta, w, np.asarray(after.particles), np.asarray(data.points), share / share.sum())
    gradients = tuple(-g for g in gradients)
    theta, w = oracles_stein.network_step(theta, w, gradients, 0.3, 7.0, 0.2)
    np.testing.assert_allclose(after.neurons.coefficients, w, rtol=1e-10)
    np.testing.assert_allclose(after.neurons.positions, theta if regime == "active" else start.positions, rtol=1e-10)


def test_the_step_is_down_the_exact_likelihood(x64):
    """Differences of E_data f + log Z by quadrature, with weighted points that are the quadrature's number: within their error."""
    space, feature = Sphere(3), Softplus(3.0)
    quadrature = partition.sphere_quadrature(space, 40, float)
    data = Samples(points_of(space, 30))
    energy = Shallow(feature, jax.random.normal(jax.random.key(3), (4, 3), float), jnp.array([3.0, -2.0, 1.0, -4.0]))

    def loss(coefficients, positions):
        f = Shallow(feature, positions, coefficients)
        return jnp.mean(f(data.points)) + partition.log_partition(f, quadrature)

    exact = jax.grad(loss, (0, 1))(energy.coefficients, energy.positions)
    method = Likelihood(space, feature=feature, neurons=4, sampler="importance", chains=400_000)
    rates = likelihood.LikelihoodRates(0.0, 1.0, 1.0)
    state = method.init(jax.random.key(0), rates, data)._replace(neurons=energy)
    after = jax.jit(method.step)(jax.random.key(1), state, rates, data)
    sigma = 3 / np.sqrt(float(after.ess))  # phi is about 1, its gradient too, coefficients up to 4
    np.testing.assert_allclose(energy.coefficients - after.neurons.coefficients, 4 * exact[0], atol=sigma)
    np.testing.assert_allclose(energy.positions - after.neurons.positions, 4 * exact[1], atol=4 * sigma)
    assert 1000 < float(after.ess) < 400_000


def test_the_samplers_agree_with_quadrature(x64):
    """E_model phi at the teacher's neurons, of as many independent points as there are chains, or effective ones; 5 sigma."""
    teacher = targets.planted([[1.0, 0, 0], [0, 0.6, 0.8]], [-6.0, 4.0], dtype=float)
    nodes = metrics.exact_samples(teacher.energy, teacher.quadrature(float))
    exact = feature_mean(ReLU(), teacher.energy.positions, nodes)[0]
    for sampler, moves, step in (("mala", 60, 0.2), ("independence", 60, 0.0), ("importance", 1, 0.0)):
        method = Likelihood(teacher.space, neurons=2, sampler=sampler, chains=20_000, moves=moves)
        chains = None if sampler == "importance" else points_of(teacher.space, 20_000).T
        (values, _), _, seen = jax.jit(likelihood._expectation, static_argnums=0)(
            method, jax.random.key(1), teacher.energy, chains, step
        )
        effective = float(seen) if sampler == "importance" else 20_000
        np.testing.assert_allclose(values, exact, atol=5 * 0.4 / np.sqrt(effective), err_msg=sampler)
        assert 0.1 < float(seen) / (20_000 if sampler == "importance" else 1) <= 1


def test_independence_metropolis_beside_a_loop(x64):
    space = Sphere(4)
    energy = Shallow(ReLU(), points_of(space, 3, 1), jnp.array([-5.0, 3.0, -4.0]))
    x, normal = points_of(space, 11), jax.random.normal(jax.random.key(5), (11, 4), float)
    uniform = jax.random.uniform(jax.random.key(6), (11,), float)
    moved, acceptance, _ = langevin.move("independence", space, langevin.given(normal, uniform), x.T, energy, 0.0)
    proposals = np.asarray(normal / jnp.linalg.norm(normal, axis=1, keepdims=True))
    expected, accepted = oracles_stein.independence_metropolis(
        np.asarray(x), proposals, np.asarray(uniform), lambda p: np.asarray(energy(jnp.asarray(p)))
    )
    np.testing.assert_allclose(moved.T, expected, rtol=1e-12)
    assert float(acceptance) == pytest.approx(accepted.mean()) and 0 < accepted.sum() < 11


@pytest.mark.parametrize("space", [Sphere(3), Euclidean(2, 2.0), Torus(2, 3.0)], ids=str)
def test_proposals_are_of_the_base_measure(space, x64):
    """Moments of `from_normal` beside those of `sample_base`, 5 sigma."""
    made = space.from_normal(jax.random.normal(jax.random.key(0), (space.dimension, 100_000), float), axis=0).T
    drawn = points_of(space, 100_000, 1)
    for power in (1, 2, 4):
        a, b = made**power, drawn**power
        error = jnp.sqrt((jnp.var(a, axis=0) + jnp.var(b, axis=0)) / 100_000)
        assert bool((jnp.abs(jnp.mean(a, axis=0) - jnp.mean(b, axis=0)) < 5 * error).all())
    assert float(jnp.max(space.distance_from(made))) < 1e-12




def test_log_partition_by_increments_beside_quadrature(x64):
    """`Tracked` around it, from the network's own start, over moves that keep up."""
    space = Sphere(3)
    teacher = targets.teacher("s2_bimodal", float)
    data = targets.sample(jax.random.key(0), teacher, 500)[0]
    method = Tracked(Likelihood(space, neurons=16, chains=2000, moves=4), chains=1000)
    rates = method.rates._replace(learning_rate=0.05, position_rate=1.0)
    state = method.init(jax.random.key(1), rates, data)
    advance = eqx.filter_jit(lambda state: simulate(jax.random.key(2), method, state, rates, data, steps=300, every=150, metrics={}))
    energy = method.energy(advance(state)[0], rates, data)
    exact = float(partition.log_partition(energy, partition.sphere_quadrature(space, 40, float)))
    assert exact > 0.2
    assert float(advance(state)[0].log_partition) == pytest.approx(exact, abs=0.02)


def test_weighted_neurons_beside_a_loop(x64):
    space = Sphere(3)
    data = Samples(points_of(space, 20), jnp.linspace(-1, 1, 20))
    method = WeightedLikelihood(space, neurons=4, sampler="mala", chains=10)
    rates = likelihood.WeightedRates(1e-30, 0.7, 0.5, 0.3, 0.2)
    state = method.init(jax.random.key(1), rates, data)
    weights = np.array([0.5, 1.5, 0.7, 1.3])
    neurons = state.neurons._replace(charges=jnp.array([-3.0, 2.0, 0.3, -0.4]), log_weights=jnp.log(weights))
    state = state._replace(neurons=neurons)
    share = np.exp(np.linspace(-1, 1, 20))
    model = np.asarray(state.particles)
    expected = oracles_stein.measure_step(
        np.asarray(neurons.charges), weights, np.asarray(neurons.positions), np.asarray(data.points), share / share.sum(), model,
        np.full(len(model), 1 / len(model)), steps=(0.7, 0.5, 0.3), decay=0.2,
    )  # fmt: skip
    after = jax.jit(method.step)(jax.random.key(2), state, rates, data).neurons
    for value, oracle in zip((after.charges, jnp.exp(after.log_weights), after.positions), expected, strict=True):
        np.testing.assert_allclose(value, oracle, rtol=1e-9)
    no_decay = jax.jit(method.step)(jax.random.key(2), state, rates._replace(charge_decay=0.0), data).neurons
    small = jax.jit(method.step)(jax.random.key(2), state, rates._replace(charge_decay=1e-9), data).neurons
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
        Likelihood(Euclidean(3, None))
    for method, rates, message in (
        (Likelihood(space, sampler="importance"), dict(particle_step=0.1), "particle_step is 0.1 and sampler 'importance'"),
        (Likelihood(space), dict(particle_step=0.0), "particle_step is 0.0"),
        (Likelihood(space), dict(learning_rate=-1.0), "learning_rate is -1.0"),
        (WeightedLikelihood(space), dict(charge_decay=-1.0), "charge_decay is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            method.check(method.rates._replace(**rates), data)
    with pytest.raises(ValueError, match="off the unit sphere"):
        Likelihood(space).check(Likelihood(space).rates, Samples(2 * data.points))
