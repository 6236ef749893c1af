"""Stein discrepancies: values and gradients beside loops and differences, Stein's identity, critics, and what training by them does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energy import Shallow
from dualebm.features import ReLU
from dualebm.measures import Samples
from dualebm.rkhs import RBF
from dualebm.spaces import Sphere
from tests.package.test_stein import kernelised, pull_back, score


def test_production_size_in_single_precision():
    """n = 5000 on S^14, m = 500, compiled, beside NumPy in float64, row by row: value, and gradient in the coefficients."""
    space, n, m = Sphere(15), 5000, 500
    x = space.sample_base(jax.random.key(0), n, jnp.float32)
    keys = jax.random.split(jax.random.key(1))
    energy = Shallow(ReLU(), jax.random.normal(keys[0], (m, 15)), 3 * jax.random.normal(keys[1], (m,)))

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
    for i in range(n):
        t = x @ x[i]
        k = np.exp(t - 1)
        u = k * (s @ s[i] + own - t * (s @ x[i]) + own[i] - t * (x @ s[i]) - t + t**3 + 13 + t**2)
        total += u.sum() - u[i]
        pulled[i] = 2 * (k @ s - k[i] * s[i] + k.sum() * x[i] - (k * t) @ x)
    assert float(value) == pytest.approx(total / n / (n - 1), rel=2e-5)
    pulled = pulled / n / (n - 1)
    pulled -= np.sum(pulled * x, axis=1, keepdims=True) * x
    expected = -np.sum((on.T @ pulled) * theta, axis=1)
    np.testing.assert_allclose(slope, expected, atol=2e-4 * np.abs(expected).max())
