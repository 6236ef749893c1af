"""Algorithm 1 against the authors' traces and against NumPy loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Sphere
from tests.package.test_dual import sphere_points


def test_data_batches_are_a_control_variate(x64):
    """Exact where the atoms have not moved since the snapshot; otherwise unbiased, and closer than the batch alone."""
    d, n = 4, 2000
    data = Samples(jnp.array(sphere_points(1, n, d)))
    full = Dual(Sphere(d), neurons=8)
    method = dataclasses.replace(full, data_batch=100, data_refresh=3)
    rates = DualRates(0.1, 0.05, 0.05, 0.0, 10.0)
    state, exact = (jax.jit(m.init)(jax.random.key(0), rates, data) for m in (method, full))
    step = lambda method: jax.jit(method.step)  # noqa: E731
    key = lambda i: jax.random.fold_in(jax.random.key(5), i)  # noqa: E731
    first, right = step(method)(key(0), state, rates, data), step(full)(key(0), exact, rates, data)
    np.testing.assert_allclose(first.atoms.positions, right.atoms.positions, atol=1e-12)
    np.testing.assert_array_equal(first.snapshot.positions, state.atoms.positions)

    moved = first._replace(atoms=first.atoms._replace(positions=jnp.array(sphere_points(7, 8, d)) * 0.05 + first.atoms.positions))
    truth = method._data_mean(moved.atoms.positions, data, None, None, None)[1]
    batches = jax.random.choice(jax.random.key(1), data.points, (400, 100))
    estimates = jax.vmap(lambda b: method._data_mean(moved.atoms.positions, data, first.snapshot, Samples(b), None)[1])(batches)
    plain = jax.vmap(lambda b: method._data_mean(moved.atoms.positions, Samples(b), None, None, None)[1])(batches)
    error = jnp.abs(estimates.mean(0) - truth) / (estimates.std(0) / 20)
    assert float(error.max()) < 5 and float(estimates.std(0).mean()) < 0.5 * float(plain.std(0).mean())

    later = first
    for i in range(1, 4):
        later = step(method)(key(i), later, rates, data)
        assert np.array_equal(later.snapshot.positions, first.snapshot.positions) == (i < 3)
