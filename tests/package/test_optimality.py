"""The gap of an automatic fit beside sums over a fine grid in NumPy float64, and the reasons why it is not known."""

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

TRUSTED = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)
STAGE = Stage("uniform relu", 1, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def fit_of(energy, space, radius, log_partition=TRUSTED):
    return Fit(energy, space, log_partition, radius, STAGE, 1, (0.0, 0.0), (), ())


def exact_gap(weights, phi, energy, data_energy, data_phi, radius):
    """Return R sup |F| - int F dgamma over a grid of points (weights, (Q,)) and of parameters (columns of phi, (Q, P))."""
    model = weights * np.exp(-energy)
    model /= model.sum()
    return radius * np.abs(model @ phi - data_phi).max() - (model @ energy - data_energy)


@pytest.mark.parametrize("base_kappa", [0.0, 2.0])
def test_the_gap_on_a_circle_is_exact(base_kappa):
    radius, angles = 3.0, 2 * np.pi * np.arange(2000) / 2000
    nodes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    space = Sphere(2, VonMisesFisher([0.0, 1.0], base_kappa)) if base_kappa else Sphere(2)
    energy = Shallow(ReLU(), jnp.array([[0.6, 0.8], [-1.0, 0.0]]), jnp.array([2.0, -1.0]))
    data, log_weights = nodes[[10, 500, 900]], np.log([0.2, 0.3, 0.5])
    value = lambda x: np.maximum(x @ [0.6, 0.8], 0) - 0.5 * np.maximum(-x[:, 0], 0)  # noqa: E731
    features = lambda x: np.maximum(x @ nodes.T, 0)  # noqa: E731
    weights = np.exp(base_kappa * nodes[:, 1])
    expected = exact_gap(
        weights, features(nodes), value(nodes), np.exp(log_weights) @ value(data), np.exp(log_weights) @ features(data), radius
    )
    points = Samples(jnp.asarray(data, jnp.float32), jnp.asarray(log_weights, jnp.float32))
    gap = gap_of_fit(jax.random.key(0), fit_of(energy, space, radius), points)
    assert gap.doubt is None and gap.standard_error == 0
    assert abs(gap.nats - expected) < 1e-3 * expected


def test_the_gap_by_draws_is_that_of_a_sum_over_a_grid(monkeypatch):
    monkeypatch.setattr(optimality, "DRAWS", 2**13)
    space, radius = Euclidean(1, Normal([0.5], [[1.0]])), 2.0
    bump = ScaledBump(Euclidean(1), 1.0, 4.0)
    energy = Shallow(bump, jnp.array([[0.0, np.log(2.0)], [1.0, 0.5]], jnp.float32), jnp.array([1.0, -2.0]))
    grid, data = np.linspace(-6, 7, 4001)[:, None], np.array([[-0.5], [0.3], [1.4]])
    value = lambda x: 0.5 * np.exp(-(x[:, 0] ** 2)) - np.exp(-0.5 * np.exp(0.5) * (x[:, 0] - 1) ** 2)  # noqa: E731
    centres, concentrations = (each.ravel() for each in np.meshgrid(np.linspace(-3, 3, 121), np.geomspace(1, 4, 41)))
    features = lambda x: np.exp(-0.5 * concentrations * (x - centres) ** 2)  # noqa: E731
    weights = np.exp(-0.5 * (grid[:, 0] - 0.5) ** 2)
    expected = exact_gap(weights, features(grid), value(grid), value(data).mean(), features(data).mean(axis=0), radius)
    gap = gap_of_fit(jax.random.key(1), fit_of(energy, space, radius), Samples(jnp.asarray(data, jnp.float32)))
    assert 0 < gap.standard_error < 0.1 * expected
    assert abs(gap.nats - expected) < 5 * gap.standard_error


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
