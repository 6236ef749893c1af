"""The bound of an automatic fit beside the optimum, found by another algorithm in NumPy float64, and the reasons why it is not known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import optimality
from dualebm.auto import Fit, Stage
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump, ReLU, ScaledBump
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.measures import Samples
from dualebm.optimality import gap_of_fit
from dualebm.spaces import Euclidean, Sphere
from tests.oracles_ball import circle, least_loss, loss, relu

TRUSTED = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)
STAGE = Stage("uniform relu", 1, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def fit_of(energy, space, radius, log_partition=TRUSTED):
    return Fit(energy, space, log_partition, radius, STAGE, 1, (0.0, 0.0), (), ())


def exact_distance(nodes, weights, data, value, phi, parameters, radius):
    """L(f) - L* over the ball, by another algorithm over a grid of parameters."""
    least, slack = least_loss(nodes, weights / weights.sum(), data, radius, (1, -1), parameters, phi)
    assert slack < 1e-4
    return loss(value(nodes), value(data).mean(), weights / weights.sum()) - least


@pytest.mark.parametrize("base_kappa", [pytest.param(0.0, marks=pytest.mark.heavy), 2.0])
def test_the_bound_on_a_circle_is_the_distance(base_kappa):
    radius, nodes = 1.5, circle(2000)
    space = Sphere(2, VonMisesFisher([0.0, 1.0], base_kappa)) if base_kappa else Sphere(2)
    energy = Shallow(ReLU(), jnp.array([[0.6, 0.8], [-1.0, 0.0]]), jnp.array([2.0, -1.0]))
    data, counts = nodes[[10, 500, 900]], [2, 3, 5]
    value = lambda x: np.maximum(x @ [0.6, 0.8], 0) - 0.5 * np.maximum(-x[:, 0], 0)  # noqa: E731
    weights = np.exp(base_kappa * nodes[:, 1])
    expected = exact_distance(nodes, weights, np.repeat(data, counts, axis=0), value, relu, circle(720), radius)
    points = Samples(jnp.asarray(data, jnp.float32), jnp.log(jnp.asarray(counts, jnp.float32)))
    gap = gap_of_fit(jax.random.key(0), fit_of(energy, space, radius), points)
    assert gap.doubt is None and gap.standard_error == 0 and gap.exact
    assert -1e-4 < gap.nats - expected < 0.01 * expected


@pytest.mark.heavy
def test_the_bound_by_draws_is_the_distance(monkeypatch):
    monkeypatch.setattr(optimality, "DRAWS", 2**12)
    space, radius = Euclidean(1, Normal([0.5], [[1.0]])), 2.0
    bump = ScaledBump(Euclidean(1), 1.0, 4.0)
    energy = Shallow(bump, jnp.array([[0.0, np.log(2.0)], [1.0, 0.5]], jnp.float32), jnp.array([1.0, -2.0]))
    grid, data = np.linspace(-6, 7, 801)[:, None], np.array([[-0.5], [0.3], [1.4]])
    value = lambda x: 0.5 * np.exp(-(x[:, 0] ** 2)) - np.exp(-0.5 * np.exp(0.5) * (x[:, 0] - 1) ** 2)  # noqa: E731
    phi = lambda x, theta: np.exp(-0.5 * np.exp(theta[:, 1]) * (x - theta[:, 0]) ** 2)  # noqa: E731
    parameters = np.stack(np.meshgrid(np.linspace(-3, 3, 121), np.linspace(0, np.log(4), 21)), axis=-1).reshape(-1, 2)
    weights = np.exp(-0.5 * (grid[:, 0] - 0.5) ** 2)
    expected = exact_distance(grid, weights, data, value, phi, parameters, radius)
    gap = gap_of_fit(jax.random.key(1), fit_of(energy, space, radius), Samples(jnp.asarray(data, jnp.float32)))
    assert 0 < gap.standard_error < 0.1 * expected and not gap.exact
    assert -3 * gap.standard_error < gap.nats - expected < 0.1 * expected + 3 * gap.standard_error


def test_a_gap_that_is_not_known_says_why():
    energy, data = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Samples(jnp.eye(2))
    narrow = Shallow(Bump(Sphere(3), 1e4), jnp.eye(3)[:1], jnp.array([-12.0]))
    cases = [
        (fit_of(energy, Sphere(2), 0.0), data, "the ball holds no energy but 0"),
        (fit_of(energy, Sphere(2), 1.0, TRUSTED._replace(doubt="two estimates disagree")), data, "log Z is not to be trusted"),
        (fit_of(narrow, Sphere(3), 12.0), Samples(jnp.eye(3)), "draws of the base measure count"),  # nodes would miss the bump
    ]
    for fit, points, reason in cases:
        gap = gap_of_fit(jax.random.key(0), fit, points)
        assert gap.nats is None and gap.standard_error is None and reason in gap.summary()


def test_nodes_stand_for_the_model_where_they_resolve_it():
    nodes = optimality.quadrature_of(Sphere(3), "float32")
    for concentration, resolved in ((50.0, True), (500.0, False)):
        energy = Shallow(Bump(Sphere(3), concentration), jnp.eye(3), jnp.ones(3))
        assert optimality._resolve(nodes, energy, Sphere(3)) is resolved
    assert optimality._resolve(nodes, Shallow(ReLU(), jnp.eye(3), jnp.ones(3)), Sphere(3, VonMisesFisher([1.0, 0.0, 0.0], 500.0))) is False
