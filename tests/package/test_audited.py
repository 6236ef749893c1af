"""log Z by walkers that a method does not see, beside quadrature; the method is as it is without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.log_z.quadrature import log_partition
from dualebm.measures import Samples
from dualebm.methods.audited import Audited
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.simulate import start, step

TEACHER = targets.teacher("s2_bimodal")
POINTS = Samples(jnp.array(np.concatenate([np.eye(3), -np.eye(3)])))
INNER = Contrastive(Sphere(3), MLP(4), **FIXED)
ALONGSIDE = Audited(INNER, walkers=4000, particle_step=1e-4)


@pytest.mark.heavy
def test_errors_of_log_z_along_dual_training_are_calibrated():
    """Neurons fast beside their particles, 64 keys: no bias, and errors that are right."""
    data, _ = targets.sample(jax.random.key(0), TEACHER, 500)
    cloud = TEACHER.quadrature()
    inner = Dual(TEACHER.space, neurons=8, particles=500)
    method = Audited(inner, walkers=500, threshold=0.95, particle_step=0.02)
    rates = inner.rates._replace(particle_step=0.02)

    def one(key):
        state = method.init(key, rates, data)
        state = jax.lax.fori_loop(0, 25, lambda i, s: method.step(jax.random.fold_in(key, i), s, rates, data)[0], state)
        exact = log_partition(method.energy(state, rates, data), cloud)
        return jnp.stack([*method.log_partition(state), exact, state.weights.resamplings.astype(jnp.float32)])

    value, error, exact, resamplings = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(1), 64))).T
    score = (value - exact) / error
    assert abs(exact.mean()) > 0.5 and resamplings.mean() > 1
    assert abs(score.mean()) < 5 / np.sqrt(64) and 0.7 < np.sqrt(np.mean(score**2)) < 1.4, (score.mean(), score.std())


@pytest.mark.heavy
def test_several_moves_go_as_far_as_moves_in_a_row():
    """Of small steps the mean squared distance grows as their number."""
    state = start(jax.random.key(1), ALONGSIDE, INNER.rates, POINTS)

    def distance(moves):
        method = dataclasses.replace(ALONGSIDE, moves=moves)
        after, _ = step(jax.random.key(2), method, state, INNER.rates, POINTS)
        return np.mean(np.sum((np.asarray(after.columns) - np.asarray(state.columns)) ** 2, axis=0))

    one, three = distance(1), distance(3)  # 2 h for each of two directions
    assert one == pytest.approx(4e-4, rel=0.1) and three == pytest.approx(12e-4, rel=0.1)


def test_the_method_is_as_without_walkers():
    states = [start(jax.random.key(1), method, INNER.rates, POINTS) for method in (ALONGSIDE, INNER)]
    (after, info), (expected, alone) = (
        step(jax.random.key(2), method, state, INNER.rates, POINTS) for method, state in zip((ALONGSIDE, INNER), states, strict=True)
    )
    for a, b in zip(jax.tree.leaves(after.inner), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert int(after.step) == 1 and info.acceptance == alone.acceptance
    samples = ALONGSIDE.samples(after)  # metrics see the particles of the method
    assert samples.log_weights is None and samples.points.shape == (12, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(walkers=3), "walkers is 3; it must be even"),
        (dict(threshold=0.0), "threshold is 0"),
        (dict(threshold=1.5), "threshold is 1"),
        (dict(moves=0), "moves is 0"),
        (dict(particle_step=0.0), "particle_step is 0"),
    ],
)
def test_bad_choices(changes, message):
    with pytest.raises(ValueError, match=message):
        Audited(Dual(Sphere(3)), **changes)


def test_a_first_model_that_cannot_be_sampled():
    method = Audited(Contrastive(Euclidean(2, Flat()), MLP(4), **FIXED), walkers=20)
    with pytest.raises(ValueError, match="flat measure cannot be sampled"):
        method.check(method.rates, Samples(jnp.array(np.ones((3, 2)))))
