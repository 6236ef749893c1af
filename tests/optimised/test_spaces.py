"""Spaces: geometry against NumPy loops, finite differences and measured orders; base measures against exact moments."""

import math

import numpy as np

from dualebm.spaces import Sphere, Torus
from tests.package.test_spaces import draw, everywhere, exponential, on_device, unit_velocity


def gap(space, a, b):
    """The largest componentwise distance, around the circle on the torus."""
    difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return np.max(np.minimum(difference, space.period - difference) if isinstance(space, Torus) else difference)


@everywhere
def test_exp_equals_the_loop_and_log_undoes_it(space, dtype):
    """Moves of no length, tiny, on both sides of the switch to a series, and one that is just short of the longest."""
    eps, reach = np.finfo(dtype).eps, space.longest_move if math.isfinite(space.longest_move) else 1.0
    fractions = np.array([0, 1e-30, 1e-9, 1e-5, 9.9e-5 / reach, 1.01e-4 / reach, 1e-2, 0.5, 0.9, 1 - 1e3 * eps**0.75])
    x, v = draw(space, 10, 1)
    v = fractions[:, None, None] * reach * unit_velocity(space, x, v)
    x, v = np.broadcast_to(x, v.shape).astype(dtype), v.astype(dtype)

    def there_and_back(x, v):
        y = space.exp(x, v)
        back = space.log(x, y)
        return y, back, space.exp(x, back), space.too_long(v)

    y, back, again, flagged = on_device(there_and_back, x, v)
    size = max(reach, np.abs(x).max())
    expected = [exponential(space, np.float64(p), np.float64(w)) for p, w in zip(x, v, strict=True)]
    assert gap(space, y, np.stack(expected)) <= 10 * eps * size
    assert not flagged.any()
    loss = 1 / (1 - fractions) if isinstance(space, Sphere) else np.ones(10)  # directions lose digits near the antipode
    assert (np.abs(back - v).max((1, 2)) <= 20 * eps * size * loss).all()
    assert gap(space, again, y) <= 20 * eps * size
    assert y.dtype == back.dtype == dtype
