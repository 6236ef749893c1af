"""Intervals of a log density cover the truth about as often as they say, on planted densities that the fit does not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from dualebm import auto, bootstrap
from dualebm.data import targets
from dualebm.spaces import Euclidean

pytestmark = pytest.mark.heavy

SETS, ROWS, PLACES = 50, 400, 200
QUANTILE = float(stats.t.ppf(0.95, bootstrap.REPLICATES - 1))
"""Intervals of 90% are this number of errors to either side."""

COMPONENTS = (
    (0.5, [-2.0, 0.0], [[1.0, 0.8], [0.8, 1.0]]), (0.3, [2.0, 1.0], [[0.5, -0.2], [-0.2, 0.3]]), (0.2, [0.0, 3.0], [[0.2, 0.0], [0.0, 2.0]])
)  # fmt: skip


def three_normals(seed, count):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3, count, p=[weight for weight, _, _ in COMPONENTS])
    return np.array([rng.multivariate_normal(*COMPONENTS[k][1:]) for k in chosen])


def log_three_normals(x):
    return np.log(sum(weight * stats.multivariate_normal(mean, covariance).pdf(x) for weight, mean, covariance in COMPONENTS))


def banana(seed, count):
    first, second = np.random.default_rng(seed).normal(size=(2, count))
    return np.stack([first, first**2 / 2 + 0.4 * second], axis=1)


def log_banana(x):
    return stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], x[:, 0] ** 2 / 2, 0.4)


def directions(seed, count):
    return np.asarray(targets.sample(jax.random.key(seed), targets.teacher("s2_bimodal"), count)[0].points)


def log_directions(x):
    teacher = targets.teacher("s2_bimodal")
    draws = teacher.space.sample_base(jax.random.key(1), 2**18, jnp.float32)
    log_z = logsumexp(-np.asarray(teacher.energy(draws), np.float64)) - np.log(len(draws))
    return -np.asarray(teacher.energy(jnp.asarray(x)), np.float64) - log_z


CASES = {
    "directions": (targets.teacher("s2_bimodal").space, directions, log_directions),
    "three normals": (Euclidean(2), three_normals, log_three_normals),
    "banana": (Euclidean(2), banana, log_banana),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover(case):
    space, draw, log_density = CASES[case]
    places = draw(10**6, PLACES)
    truth, covered = log_density(places), []
    for seed in range(SETS):
        rows = draw(seed, ROWS)
        mean, scale = (np.zeros(rows.shape[1]), 1.0) if space.compact else (rows.mean(axis=0), rows.std(axis=0))
        unit = 0.0 if space.compact else float(np.sum(np.log(scale)))
        points, at = (jnp.asarray((x - mean) / scale, jnp.float32) for x in (rows, places))
        fitted = auto.fit(jax.random.key(seed), points, space)
        values = np.asarray(fitted.space.log_base(at) - fitted.energy(at), np.float64) - fitted.log_partition.value - unit
        replicates = bootstrap.replicate(jax.random.key(seed), fitted.energy, fitted.space, points)
        errors = bootstrap.errors(bootstrap.log_densities(replicates, fitted.space, at) - unit, values)
        covered.append(float(np.mean(np.abs(values - truth) <= QUANTILE * errors)))
    print(f"{case}: {np.mean(covered):.3f} of {PLACES} places, over {SETS} data sets {np.min(covered):.3f} to {np.max(covered):.3f}")
    assert 0.80 <= np.mean(covered) <= 0.97
