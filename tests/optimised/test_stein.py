"""Stein discrepancies: values and gradients beside loops and differences, Stein's identity, critics, and what training by them does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.kernels import RBF
from dualebm.measures import Samples
from dualebm.spaces import Sphere
from tests import oracles
from tests.package.test_stein import kernelised, pull_back, score


def test_production_size_in_single_precision():
    """n = 5000 on S^14, m = 500, compiled, beside NumPy in float64: value, and gradient in the coefficients."""
    space, n, m = Sphere(15), 5000, 500
    rng = np.random.default_rng(0)
    x = jnp.array(oracles.normalise(rng.normal(size=(n, 15))), jnp.float32)
    energy = Shallow(ReLU(), *(jnp.array(a, jnp.float32) for a in (rng.normal(size=(m, 15)), 3 * rng.normal(size=m))))

    @jax.jit
    def ours(energy, x):
        value, slopes = kernelised(RBF(), space, Samples(x), score(energy, space, x))
        return value, pull_back(energy, space, x, slopes).coefficients

    value, slope = ours(energy, x)
    x, theta, w = (np.asarray(a, np.float64) for a in (x, energy.positions, energy.coefficients))
    on = (x @ theta.T > 0) / m
    ambient = (on * w) @ theta
    s = -(ambient - np.sum(ambient * x, axis=1, keepdims=True) * x) - 14 * x
    own = np.sum(s * x, axis=1)
    total, pulled = 0.0, np.zeros((n, 15))
    for i in range(0, n, 500):  # columns of a block against all rows
        y, b, ours = x[i : i + 500], s[i : i + 500], own[i : i + 500]
        t = x @ y.T
        k = np.exp(t - 1)
        u = k * (s @ b.T + own[:, None] + ours + 13 - t * (s @ y.T + x @ b.T + 1 - t - t * t))
        total += u.sum() - np.trace(u[i : i + 500])
        pulled[i : i + 500] = 2 * (k.T @ s - b + k.sum(axis=0)[:, None] * y - (k * t).T @ x)  # k = 1 at the point itself
    assert float(value) == pytest.approx(total / n / (n - 1), rel=2e-5)
    pulled = pulled / n / (n - 1)
    pulled -= np.sum(pulled * x, axis=1, keepdims=True) * x
    expected = -np.sum((on.T @ pulled) * theta, axis=1)
    np.testing.assert_allclose(slope, expected, atol=2e-4 * np.abs(expected).max())
