"""log Z of many bumps of all scales beside importance draws in NumPy, and as users compile it, in the time that it may take."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU, ScaledBump
from dualebm.log_z import adaptive
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.spaces import Euclidean, Sphere
from tests.package.test_estimate import of_model

pytestmark = pytest.mark.heavy


def test_bumps_of_all_scales_beside_importance_draws():
    """The proposal is half uniform and half a mixture of the bumps themselves, as densities on the sphere."""
    rng, m, count = np.random.default_rng(0), 300, 2_000_000
    centres = rng.normal(size=(m, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    log_k = rng.uniform(0, np.log(1e5), m)
    depth = rng.uniform(-5, 5, m) * np.minimum(1, np.exp(log_k) / 1e3)
    with jax.enable_x64(True):
        theta = jnp.asarray(np.concatenate([centres, log_k[:, None]], axis=1))
        energy = Shallow(ScaledBump(Sphere(3), 0.5, 1e6), theta, jnp.asarray(-m * depth))
    found = adaptive.log_partition(energy, Sphere(3))
    k, weights = np.exp(log_k), []
    for _ in range(20):
        n = count // 20
        z = rng.normal(size=(n, 3))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        chosen = rng.integers(m, size=n)
        lag = -np.log1p(rng.uniform(size=n) * np.expm1(-2 * k[chosen])) / k[chosen]
        mean = centres[chosen]
        across = z - mean * np.sum(z * mean, axis=1, keepdims=True)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        near = mean * (1 - lag)[:, None] + np.sqrt(lag * (2 - lag))[:, None] * across
        x = np.where((np.arange(n) % 2 == 0)[:, None], z, near)
        bumps = np.exp(k * (x @ centres.T - 1))
        proposal = 0.5 + 0.5 * bumps @ (2 * k / -np.expm1(-2 * k)) / m
        weights.append(np.exp(bumps @ depth) / proposal)
    w = np.concatenate(weights)
    error = np.std(w) / np.mean(w) / np.sqrt(len(w))
    assert error < 2e-3 and abs(found.value - np.log(np.mean(w))) < 4 * error and found.error <= adaptive.TOLERANCE


def test_the_time_of_an_estimate():
    """512 neurons: quadrature of S^2, and 4 million draws in 13 dimensions."""
    theta = np.random.default_rng(0).normal(size=(512, 14))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    for space, limit, scale in ((Sphere(3), 5, 30.0), (Euclidean(13), 40, 20.0)):
        d = space.dimension
        rows = theta[:, : d + 1] / np.linalg.norm(theta[:, : d + 1], axis=1, keepdims=True)
        energy = Shallow(ReLU(bias=True), jnp.asarray(rows, jnp.float32), jnp.asarray(-scale * np.sign(rows[:, 0]), jnp.float32))
        points = of_model(energy, space)
        start = time.perf_counter()
        found = estimate_log_partition(jax.random.key(0), energy, space, points)
        assert found.trusted and time.perf_counter() - start < limit
