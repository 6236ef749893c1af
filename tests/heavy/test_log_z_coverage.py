"""Do the intervals of log Z cover where they call themselves trusted? 200 repetitions of each energy whose log Z is known."""

import jax
import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import log_z
from benchmarks.known_log_z import KNOWN
from dualebm.log_z import adaptive, quadrature
from dualebm.spaces import Sphere

pytestmark = pytest.mark.heavy

REPETITIONS = 200
DOUBTFUL = ("mixture of 40, d = 2", "funnel, d = 10", "many-well, d = 50")
"""Energies on which an estimate may distrust itself; on the others at least nine in ten are trusted."""


def check_coverage(found, exact):
    """The number of covered intervals is one that a coverage of 93 to 97% makes likely."""
    value, error, _ = found[found[:, 2] > 0].T
    count, covered = len(value), int(np.sum(np.abs(value - exact) <= 1.96 * error))
    assert binom.cdf(covered, count, 0.93) > 1e-3 and binom.sf(covered - 1, count, 0.97) > 1e-3, (covered, count)


@pytest.mark.parametrize("name", KNOWN)
def test_tempered_islands(name):
    known = KNOWN[name]()
    found = log_z.repeated(log_z.by_tempering(known), REPETITIONS, {}, name, lambda: None)
    trusted = np.mean(found[:, 2])
    assert trusted >= 0.9 or name in DOUBTFUL
    if trusted > 0.05:
        check_coverage(found, known.log_partition)


@pytest.mark.parametrize("name", KNOWN)
def test_draws_of_the_base_measure(name):
    known = KNOWN[name]()
    found = log_z.repeated(log_z.by_draws(known, log_z.mean_energy_of(known)), REPETITIONS, {}, name, lambda: None)
    if np.mean(found[:, 2]) > 0.05:
        check_coverage(found, known.log_partition)


def test_quadrature_beside_finer_nodes(x64):
    """The stated error is at least the distance to independent nodes, on the circle and on S^2."""
    for name, space in (("teacher on S^1", Sphere(2)), ("teacher on S^2", Sphere(3))):
        energy = jax.tree.map(lambda a: a.astype("float64"), KNOWN[name]().energy)
        finer = quadrature.sphere_quadrature(space, 200_000 if space.dimension == 2 else 1500, "float64")
        exact = float(jax.jit(quadrature.log_partition)(energy, finer))
        found = adaptive.log_partition(energy, space)
        assert abs(found.value - exact) < found.error + 1e-7 and found.error <= adaptive.TOLERANCE
