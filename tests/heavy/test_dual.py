"""Algorithm 1 against the authors' traces and against NumPy loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dualebm.flows.noise import given
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Sphere
from dualebm.training.simulate import start, step
from tests.package.test_dual import sphere_points, still


def test_data_batches_are_a_control_variate(x64):
    """Exact where the atoms have not moved since the snapshot; otherwise unbiased, and closer than the batch alone."""
    d, n = 4, 2000
    data = Samples(jnp.array(sphere_points(1, n, d)))
    full = Dual(Sphere(d), neurons=8)
    method = dataclasses.replace(full, data_batch=100, data_refresh=3)
    rates = DualRates(0.1, 0.05, 0.05, 0.0, 10.0)
    state, exact = (start(jax.random.key(0), m, rates, data) for m in (method, full))
    key = lambda i: jax.random.fold_in(jax.random.key(5), i)  # noqa: E731
    first, right = step(key(0), method, state, rates, data)[0], step(key(0), full, exact, rates, data)[0]
    np.testing.assert_allclose(first.atoms.positions, right.atoms.positions, atol=1e-12)
    np.testing.assert_array_equal(first.snapshot.positions, state.atoms.positions)

    moved = first._replace(atoms=first.atoms._replace(positions=jnp.array(sphere_points(7, 8, d)) * 0.05 + first.atoms.positions))
    held = DualRates(1e-12, 0.0, 1.0, 0.0, 1e9)  # the logarithms of the weights then change by F, with its sign

    def reacted(method, noise, state, data, batch=None):
        return method.advance(given(*noise), state.columns, state, held, data, batch)[0].atoms.log_weights

    @jax.jit
    def reactions(noise, state, exact, data):
        batches = jax.random.choice(jax.random.key(1), data.points, (400, 100))
        estimates = jax.vmap(lambda batch: reacted(method, noise, state, data, Samples(batch)))(batches)
        plain = jax.vmap(lambda batch: reacted(full, noise, exact, Samples(batch)))(batches)
        return reacted(full, noise, exact, data), estimates, plain

    truth, estimates, plain = map(np.asarray, reactions(still(2 * n, d), moved, moved._replace(snapshot=None), data))
    error = np.abs(estimates.mean(0) - truth) / (estimates.std(0) / 20)
    assert error.max() < 5 and estimates.std(0).mean() < 0.5 * plain.std(0).mean()

    later = first
    for i in range(1, 4):
        later, _ = step(key(i), method, later, rates, data)
        assert np.array_equal(later.snapshot.positions, first.snapshot.positions) == (i < 3)
