"""The gradient of the likelihood of any energy beside differences, in blocks, with weights; what is trained and what is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import MLP, Perceptron
from dualebm.flows import likelihood
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere


def network_of():
    shapes = jax.eval_shape(lambda: MLP(5, 2, "tanh")(jax.random.key(0), Sphere(3), float))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.array(0.5 * rng.normal(size=a.shape)), shapes)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_mean_gradient_by_differences_with_weights_and_in_blocks(penalty, x64, monkeypatch):
    network = network_of()
    log_weights = np.linspace(-1, 1, 700)
    samples = Samples(jnp.array(np.random.default_rng(3).normal(size=(700, 3))), jnp.array(log_weights))
    gradient = lambda: jax.device_get(jax.jit(lambda: likelihood.mean_gradient(network, samples, (), penalty))())  # noqa: E731
    whole = gradient()
    monkeypatch.setattr(Perceptron, "width", 256)
    blocks = gradient()
    share = np.exp(log_weights)
    share /= share.sum()
    energies = jax.jit(lambda leaves: jax.tree.unflatten(tree, leaves)(samples.points))

    def value(leaves):
        u = np.asarray(energies(leaves))
        return float(np.sum(share * (u + penalty * u**2)))

    def moved(leaf, place, e):
        leaf = np.array(leaf)
        leaf[place] += e
        return leaf

    leaves, tree = jax.tree.flatten(network)
    for k, (leaf, ours, streamed) in enumerate(zip(leaves, jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True)):
        np.testing.assert_allclose(streamed, ours, rtol=1e-11, atol=1e-13)
        place = np.unravel_index(leaf.size // 2, leaf.shape)
        ends = [value([*leaves[:k], moved(leaf, place, e), *leaves[k + 1 :]]) for e in (1e-5, -1e-5)]
        assert float(ours[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_what_is_fixed_is_not_trained():
    energy = jax.jit(lambda key: Mixture(3, covariances="full")(key, Euclidean(2, Flat()), jnp.float32))(jax.random.key(0))
    trained, rest = likelihood.partition(energy, ("roots", "means"))
    assert trained.means is None and trained.roots is None and trained.offsets.shape == (2,)
    assert jax.tree.structure(eqx.combine(trained, rest)) == jax.tree.structure(energy)
    x = jnp.array(np.random.default_rng(0).normal(size=(10, 2)))
    gradient = jax.eval_shape(lambda x: likelihood.likelihood_gradient(energy, Samples(x), Samples(2 * x), ("roots", "means")), x)
    assert gradient.means is None and gradient.offsets.shape == (2,)


def test_a_skeleton_and_its_arrays_are_the_energy():
    space = Sphere(3)
    energy = jax.jit(lambda key: MLP(4, 1, "silu")(key, space, jnp.float32))(jax.random.key(0))
    skeleton = likelihood.skeleton(MLP(4, 1, "silu"), space, jnp.float32)
    assert not jax.tree.leaves(skeleton) and skeleton.activation == "silu"
    back = eqx.combine(eqx.filter(energy, eqx.is_array), skeleton)
    assert eqx.tree_equal(back, energy)
