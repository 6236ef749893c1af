"""Sweeps: runs alone, in batches and after kills; groups, manifests, locks, errors."""

import numpy as np

from dualebm.sweeps.plan import plan_of
from dualebm.training.run import run
from tests.package.test_sweep import GRID, METHOD, METRICS, data, go


def test_a_run_is_the_run_of_its_key(x64):
    """100 steps in float64: alone by `run`, and in batches of any size, side by side or in turn."""
    counts = dict(steps=100, every=20, segment=3)
    planned = plan_of(GRID, METHOD, None, data, metrics=METRICS, **counts)
    one = go(batch_size=1, **counts)
    for replica in (planned.replicas[2], planned.replicas[7]):
        points = planned.study.make("data", replica.settings, {})
        _, alone = run(replica.key, replica.method, replica.rates, points, metrics=METRICS, progress=False, **counts)
        for name in METRICS:
            np.testing.assert_allclose(one[name][replica.index], alone[name], rtol=0, atol=1e-9)
    for changes in (dict(batch_size=5, vmapped=2),):
        other = go(**counts, **changes)
        for name in METRICS:
            np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-9)
    assert np.ptp(one.weights.values[:, -1], axis=0).min() > 1e-3  # the runs differ
