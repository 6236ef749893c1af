"""The perceptron's gradient beside differences, a step beside a loop, and what it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics, saved, targets
from dualebm.measures import Samples
from dualebm.methods.deep import Deep, Perceptron, mean_gradient
from dualebm.simulate import simulate
from dualebm.spaces import Sphere


def network_of(depth=2, activation="tanh", seed=0):
    made = Perceptron.create(jax.random.key(seed), 3, width=5, depth=depth, activation=activation, dtype=float)
    leaves, tree = jax.tree.flatten(made)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(tree, [0.5 * jax.random.normal(k, a.shape, float) for k, a in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize(
    ("activation", "function"),
    [("tanh", np.tanh), ("relu", lambda t: np.maximum(t, 0)), ("silu", lambda t: t / (1 + np.exp(-t)))],
)
def test_the_energy_beside_a_loop_over_points(activation, function, x64):
    network, x = network_of(3, activation), np.random.default_rng(0).standard_normal((7, 3))
    for i, point in enumerate(x):
        h = point
        for a, b in zip(network.weights[:-1], network.biases[:-1], strict=True):
            h = function(h @ np.asarray(a) + np.asarray(b))
        expected = float(h @ np.asarray(network.weights[-1])[:, 0] + network.biases[-1][0])
        assert float(network(jnp.asarray(x))[i]) == pytest.approx(expected, rel=1e-12)


def test_the_mean_gradient_by_differences_with_weights_and_in_blocks(x64, monkeypatch):
    network = network_of()
    samples = Samples(jax.random.normal(jax.random.key(3), (700, 3), float), jnp.linspace(-1, 1, 700))
    whole = mean_gradient(network, samples)
    monkeypatch.setattr(Perceptron, "width", 256)
    blocks = mean_gradient(network, samples)
    share = np.exp(np.linspace(-1, 1, 700))
    share /= share.sum()
    value = lambda leaves: float(np.sum(share * np.asarray(jax.tree.unflatten(tree, leaves)(samples.points))))  # noqa: E731
    leaves, tree = jax.tree.flatten(network)
    for k, (leaf, ours, streamed) in enumerate(zip(leaves, jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True)):
        np.testing.assert_allclose(streamed, ours, rtol=1e-11, atol=1e-13)
        place = np.unravel_index(leaf.size // 2, leaf.shape)
        ends = [value([*leaves[:k], leaf.at[place].add(e), *leaves[k + 1 :]]) for e in (1e-5, -1e-5)]
        assert float(ours[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_a_step_is_the_gradient_of_the_likelihood_and_the_decay(x64):
    """Of particles that stay: plain gradient steps; and Adam's first, which is the sign of the gradient."""
    space = Sphere(3)
    data = Samples(space.sample_base(jax.random.key(0), 30, float))
    method = Deep(space, width=4, optimiser="gradient", particles=20, integrator="geodesic")
    rates = method.rates._replace(particle_step=1e-30, learning_rate=0.3, weight_decay=0.1)
    state = method.init(jax.random.key(1), rates, data)
    state = state._replace(network=jax.tree.map(lambda a: a + 0.1, state.network))
    after = jax.jit(method.step)(jax.random.key(2), state, rates, data)
    adam = dataclasses.replace(method, optimiser="adam")
    start = adam.init(jax.random.key(1), rates, data)._replace(network=state.network)
    moved = jax.jit(adam.step)(jax.random.key(2), start, rates._replace(weight_decay=0.0), data)
    gradients = [jax.grad(lambda n, x=x: jnp.mean(n(x)))(state.network) for x in (data.points, state.particles)]
    trees = (state.network, after.network, moved.network, *gradients)
    for before, new, signed, observed, model in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(new, before - 0.3 * (observed - model + 0.1 * before), rtol=1e-9, atol=1e-12)
        large = np.abs(observed - model) > 1e-5
        np.testing.assert_allclose(np.where(large, signed - before, 0), np.where(large, -0.3 * np.sign(observed - model), 0), rtol=2e-3)


@pytest.mark.heavy
def test_it_learns_a_planted_teacher(tmp_path):
    """And its state goes to a file and back."""
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 2000)
    exact = metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature()))
    method = Deep(teacher.space, particle_moves=4)
    rates = method.rates._replace(learning_rate=0.01)
    state = method.init(jax.random.key(1), rates, data)
    counts = dict(steps=400, every=200, metrics={"kl": exact})
    run = jax.jit(lambda state, data: simulate(jax.random.key(2), method, state, rates, data, **counts))
    state, records = run(state, data)
    assert float(records["kl"][-1]) < 0.03  # of the uniform measure 0.6325
    saved.save_state(tmp_path / "state.npz", state)
    back = saved.load_state(tmp_path / "state.npz", method.init(jax.random.key(1), method.rates, data))
    np.testing.assert_array_equal(back.network(data.points), state.network(data.points))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(activation="gelu"), "activation is 'gelu'"),
        (dict(optimiser="adagrad"), "optimiser is 'adagrad'"),
        (dict(depth=0), "depth is 0"),
        (dict(particles=3), "particles is 3; it must be even"),
    ],
)
def test_bad_choices(changes, message):
    with pytest.raises(ValueError, match=message):
        Deep(Sphere(3), **changes)


@pytest.mark.parametrize("name", ["particle_step", "learning_rate", "weight_decay", "restart_probability"])
def test_bad_rates(name):
    method = Deep(Sphere(3))
    with pytest.raises(ValueError, match=f"{name} is -1"):
        method.check(method.rates._replace(**{name: -1.0}), Samples(jnp.eye(3)))
