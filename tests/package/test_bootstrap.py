"""The Bayesian bootstrap of a fitted density against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import bootstrap
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import fit_normal
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.spaces import Euclidean, Sphere

RNG = np.random.default_rng(0)


def zero(dimension):
    return Shallow(ReLU(), jnp.eye(dimension, dtype=jnp.float32), jnp.zeros(dimension, jnp.float32))


def test_the_errors_of_a_normal_distribution_are_those_of_the_delta_method():
    n, count = 400, 40
    rows = RNG.normal(size=(n, 1))
    space = Euclidean(1, fit_normal(rows))
    points, places = jnp.asarray(rows, jnp.float32), jnp.linspace(-2, 2, 9, dtype=jnp.float32)[:, None]
    replicates = bootstrap.replicate(jax.random.key(1), zero(1), space, points, count=count)
    assert (replicates.log_partition == 0).all()
    measured = bootstrap.log_densities(replicates, space, places).std(axis=0)
    standard = (rows - rows.mean()) / rows.std()
    z = (np.asarray(places)[:, 0] - rows.mean()) / rows.std()
    # d log p = z dm + (z^2 - 1) ds, with dm the weighted mean of the rows and 2 ds that of their squares
    influence = z[None] * standard + 0.5 * (z[None] ** 2 - 1) * (standard**2 - 1)
    np.testing.assert_allclose(measured, influence.std(axis=0) / np.sqrt(n), rtol=5 / np.sqrt(2 * count))


def test_a_weight_of_the_rows_multiplies_that_of_the_bootstrap():
    rows = np.array([[-1.0], [1.0], [50.0]])
    points = jnp.asarray(rows, jnp.float32)
    fitted = Normal([0.0], [[1.0]])
    for least in (0.0, 1e-6):  # a row of weight 0 is left out
        weights = np.array([1.0, 1.0, least])
        replicates = bootstrap.replicate(jax.random.key(0), zero(1), Euclidean(1, fitted), points, weights, count=4)
        assert all(abs(base.mean[0]) < 1.1 for base in replicates.bases)


BASES = {
    "kernels": lambda rows, w: KernelBase(rows, np.full(len(rows), 30.0), w),
    "directions": lambda rows, w: MixtureBase([0.3, 0.7], [VonMisesFisher(rows[0], 2.0 + w[0]), VonMisesFisher(rows[1], 9.0)]),
    "stacked": lambda rows, w: MixtureBase([0.5, 0.5], [KernelBase(rows, np.full(len(rows), 30.0), w), VonMisesFisher(rows[0], 2.0)]),
}


def directions(n):
    rows = RNG.normal(size=(n, 3))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", BASES)
def test_log_densities_of_all_bases_are_those_of_each(kind):
    rows, space = directions(50), Sphere(3)
    bases = [BASES[kind](rows, weights / weights.sum()) for weights in RNG.exponential(size=(3, 50))]
    points = jnp.asarray(directions(20), jnp.float32)
    expected = [base.log_density(space, points) for base in bases]
    np.testing.assert_allclose(bootstrap.log_bases(bases, space, points), expected, rtol=0, atol=2e-5)


def test_estimates_of_different_kernels_are_refused():
    pair = [KernelBase([[0.0], [1.0]], [1.0, concentration]) for concentration in (1.0, 2.0)]
    with pytest.raises(ValueError, match="different kernels"):
        bootstrap.log_bases(pair, Euclidean(1), jnp.zeros((1, 1), jnp.float32))


@pytest.fixture(scope="module")
def circle():
    """Replicates of a model on the circle whose base measure is a kernel density estimate."""
    angles = RNG.normal(0.5, 0.7, 60)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    space = Sphere(2, KernelBase(rows, np.full(60, 20.0)))
    energy = Shallow(ReLU(), jnp.eye(2, dtype=jnp.float32), jnp.array([-2.0, 1.0], jnp.float32))
    points = jnp.asarray(rows, jnp.float32)
    return space, energy, points, bootstrap.replicate(jax.random.key(0), energy, space, points, count=2)


def test_a_replicate_has_the_total_mass_1(circle):
    space, _, _, replicates = circle
    nodes = sphere_quadrature(Sphere(2), 2000, "float32")
    masses = np.exp(bootstrap.log_densities(replicates, space, nodes.points)) @ np.asarray(nodes.weights)
    np.testing.assert_allclose(masses, 1, atol=0.02)  # 2^15 draws, of which half count


def test_replicates_are_trained_on_their_weights(circle):
    space, energy, points, replicates = circle
    nodes = sphere_quadrature(Sphere(2), 2000, "float32")
    values = jax.jit(lambda x: energy(x))
    at_points, at_nodes = (bootstrap.log_bases(replicates.bases, space, x) for x in (points, nodes.points))
    log_z = np.log(np.exp(at_nodes - np.asarray(values(nodes.points))) @ np.asarray(nodes.weights))
    untrained = at_points - np.asarray(values(points)) - log_z[:, None]
    trained = bootstrap.log_densities(replicates, space, points)
    for index, base in enumerate(replicates.bases):
        assert np.dot(base.weights, trained[index] - untrained[index]) > 0.01
        assert not np.allclose(replicates.energies.coefficients[index], energy.coefficients)


def test_replicates_come_back_from_their_file(circle, tmp_path):
    space, energy, points, replicates = circle
    path = tmp_path / "replicates.npz"
    bootstrap.save(path, replicates, space.base)
    again = bootstrap.load(path, space, energy)
    assert again.bases == replicates.bases
    np.testing.assert_array_equal(bootstrap.log_densities(again, space, points), bootstrap.log_densities(replicates, space, points))
    with pytest.raises(ValueError, match="is corrupt"):
        bootstrap.load(path, Euclidean(2), energy)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        bootstrap.load(path, space, energy)
