"""Distances between samples beside NumPy loops in float64, SciPy on the line, OTT-JAX, and closed forms at 5 sigma."""

import numpy as np
import pytest

from dualebm.measures import Samples
from tests.package.test_distances import cloud, energy, sliced_loop, slices


def test_production_size_in_float32():
    """20 000 weighted points beside 2000 in 15 dimensions: NumPy in float64, to the digits that the docstrings promise."""
    n, m, d = 20_000, 2000, 15
    x, y = cloud(n, d, dtype=np.float32), np.float32(1.05) * cloud(m, d, 1, np.float32)
    log_weights = cloud(n, 1, 2, np.float32)[:, 0]
    p = np.exp(np.float64(log_weights))
    first, second = (np.float64(x), p / p.sum()), (np.float64(y), np.full(m, 1 / m))

    def mean(one, other):
        (a, p), (b, q), value = one, other, 0.0
        for i in range(0, len(a), 1000):  # of a sample with itself each pair once
            block, rest = slice(i, i + 1000), slice(i + 1000 if one is other else 0, None)
            for columns, times in ((rest, 2), (block, 1)) if one is other else ((rest, 1),):
                squares = a[block] @ b[columns].T
                squares *= -2
                squares += np.sum(a[block] ** 2, axis=1)[:, None]
                squares += np.sum(b[columns] ** 2, axis=1)
                np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
                value += times * (p[block] @ squares @ q[columns])
        return value

    between, eps = mean(first, second), np.finfo("float32").eps
    expected = 2 * between - mean(first, first) - mean(second, second)
    arguments = Samples(x, log_weights), Samples(y)
    assert abs(float(energy(*arguments)) - expected) < 10 * eps * between and expected > 1000 * eps * between
    for order, found in zip((1, 2), slices(*arguments, 4), strict=True):
        assert float(found) == pytest.approx(sliced_loop(first, second, 4, order, np.float32), rel=1e-4)
