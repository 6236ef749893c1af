"""Stein terms: their means by quadrature. Means with control variates beside exact ones, and their errors beside their spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_families import VonMisesFisher
from dualebm.base_measures import Gaussian
from dualebm.control_variates import crossed, errors, stein_terms
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump, ReLU, Softplus
from dualebm.log_z.quadrature import line_quadrature, sphere_quadrature
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus

THETA = np.array([[0.6, 0.8, 0.0], [0.0, -0.6, 0.8]])


def cases():
    """Of each kind of space: a space, an energy, and a quadrature of its base measure."""
    tilted = VonMisesFisher([0.0, 0.6, 0.8], 1.5)
    globe = sphere_quadrature(Sphere(3), 40, float)
    yield Sphere(3, tilted), Softplus(3.0), THETA, globe
    line = line_quadrature(Euclidean(1, Gaussian(1.5)), 60, float)
    grid = np.stack(np.meshgrid(line.points[:, 0], line.points[:, 0]), axis=-1).reshape(-1, 2)
    weights = np.add.outer(np.asarray(line.log_weights), np.asarray(line.log_weights)).ravel()
    yield Euclidean(2, Gaussian(1.5)), Softplus(3.0), np.array([[0.6, 0.8], [0.0, -1.0]]), Samples(grid, weights)
    ring = 3.0 * np.arange(64) / 64
    grid = np.stack(np.meshgrid(ring, ring), axis=-1).reshape(-1, 2)
    yield Torus(2, 3.0), Bump(Torus(2, 3.0), 2.0), np.array([[0.3, 1.0], [2.0, 2.5]]), Samples(grid, np.zeros(len(grid)))


@pytest.mark.parametrize("case", range(3))
def test_the_terms_have_mean_zero(case, x64):
    space, feature, theta, nodes = list(cases())[case]
    energy = Shallow(feature, jnp.asarray(theta), jnp.array([2.0, -1.0]))

    @jax.jit
    def means(points, log_weights):
        base = space.log_base(points) if space.compact else 0
        weights = jax.nn.softmax(log_weights + base - energy(points))
        terms = stein_terms(energy, space, points)
        return weights @ terms, weights @ jnp.abs(terms)

    mean, size = means(jnp.asarray(nodes.points), jnp.asarray(nodes.log_weights))
    assert len(mean) == {0: 3 + 6, 1: 2 + 3, 2: 4 + 10}[case]
    assert np.all(np.abs(mean) < 1e-4) and np.median(size) > 0.1


def test_many_coordinates_have_squares_alone():
    space = Sphere(25)
    energy, x = Shallow(ReLU(), jnp.eye(1, 25), jnp.zeros(1)), jnp.eye(2, 25)
    terms = jax.jit(lambda: stein_terms(energy, space, x))()
    assert terms.shape == (2, 50)
    np.testing.assert_allclose(terms[0, [0, 1, 25, 26]], [-24, 0, -48, 2], atol=1e-4)  # the Laplacian of x^2 is 2 - 2 d x^2


def test_means_with_control_variates_are_right_and_their_errors_their_spread():
    """Over 200 pairs of halves, of a function that the terms explain in part: mean 0 and variance 1 within 5 sigma, a smaller variance."""
    space = Sphere(4)
    energy = Shallow(Softplus(3.0), jnp.eye(2, 4), jnp.array([3.0, -2.0]))
    theta = jnp.array([[0.5, 0.5, 0.5, 0.5]])
    value = lambda x: jnp.maximum(x @ theta[0], 0)  # noqa: E731

    def one(key):
        x = space.sample_base(key, 600, jnp.float32).reshape(2, 300, 4)
        halves = Samples(x, -energy(x.reshape(-1, 4)).reshape(2, 300))
        samples = crossed(energy, space, halves)
        values = value(x.reshape(-1, 4))
        means = samples.weights @ values
        plain = jnp.sum(jax.nn.softmax(halves.log_weights[0]) * values[:300])
        return means, errors(samples, values[None] - means[:, None]), plain

    @jax.jit
    def all_of(keys):
        many = space.sample_base(jax.random.key(1), 400_000, jnp.float32)
        exact = jax.nn.softmax(-energy(many)) @ value(many)
        return *jax.lax.map(one, keys), exact

    means, found, plain, exact = (np.asarray(x, float) for x in all_of(jax.random.split(jax.random.key(0), 200)))
    scores = (means - exact) / found
    assert abs(scores.mean()) < 5 / np.sqrt(400) + 0.1 and abs((scores**2).mean() - 1) < 5 * np.sqrt(2 / 400) + 0.1
    assert means.std() < 0.5 * plain.std()


def test_a_base_measure_that_may_be_zero_has_no_control_variates():
    class Bounded(VonMisesFisher):
        positive = False

    space = Sphere(3, Bounded([0.0, 0.0, 1.0], 1.0))
    x = jnp.asarray(np.tile(np.eye(5, 3), (4, 1)).reshape(2, 10, 3), jnp.float32)
    energy = Shallow(ReLU(), jnp.eye(1, 3), jnp.ones(1))
    weights = jax.jit(lambda: crossed(energy, space, Samples(x, jnp.zeros((2, 10)))).weights)()
    np.testing.assert_allclose(weights, np.kron(np.eye(2), np.full(10, 0.1)), atol=1e-7)
