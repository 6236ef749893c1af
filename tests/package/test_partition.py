"""Quadrature against closed forms and the NumPy oracle; temperatures found again."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.base import Energy, Tempered
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.annealing import DRAWS, log_partition_by_annealing, log_partition_by_sampling
from dualebm.log_z.quadrature import (
    effective_temperature,
    line_quadrature,
    log_partition,
    mean_energy,
    plane_quadrature,
    rank,
    sphere_quadrature,
)
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles


class Quadratic(Energy):
    """U(x) = stiffness |x|^2 / 2."""

    stiffness: float

    def __call__(self, x):
        return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)


def two_neurons(dimension, angle, seed=0):
    """Two unit vectors at an angle, in a random plane of R^d, float64."""
    frame, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, 2)))
    return np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]]) @ frame.T


def shallow(positions, weights, dtype):
    return Shallow(ReLU(), jnp.asarray(positions, dtype), jnp.asarray(weights, dtype))


def oracle(angle, weights, dimension):
    return oracles.two_neuron_quadrature(angle, weights, dimension, radial_nodes=90, arc_nodes=60)


@eqx.filter_jit
def log_partition_and_mean(energy, samples, temperature=1.0):
    return (
        log_partition(energy, samples, temperature),
        mean_energy(energy, samples, temperature),
    )


def expectation(samples, values):
    return np.exp(np.asarray(samples.log_weights, np.float64)) @ np.asarray(values, np.float64)


def moments(samples):
    """Sum of the weights, E x, E x x^T, E |Ax|^4 / 8 with A the first axis, in float64."""
    x = np.asarray(samples.points, np.float64)
    second = np.einsum("q,qi,qj->ij", np.exp(np.asarray(samples.log_weights, np.float64)), x, x)
    return expectation(samples, np.ones(len(x))), expectation(samples, x), second, expectation(samples, x[:, 0] ** 4)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 2e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("dimension", [2, 3])
def test_sphere_quadrature_has_the_moments_of_the_uniform_measure(dimension, dtype, tolerance, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    samples = sphere_quadrature(Sphere(dimension), 12, jnp.dtype(dtype))
    assert samples.points.dtype == samples.log_weights.dtype == dtype
    assert samples.points.shape == ((12, 2) if dimension == 2 else (288, 3))
    total, first, second, fourth = moments(samples)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(samples.points), axis=1), 1, atol=tolerance)
    np.testing.assert_allclose(total, 1, atol=tolerance)
    np.testing.assert_allclose(first, 0, atol=tolerance)
    np.testing.assert_allclose(second, np.eye(dimension) / dimension, atol=tolerance)
    np.testing.assert_allclose(fourth, 3 / (dimension * (dimension + 2)), atol=tolerance)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 5e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("dimension", [2, 3, 4, 5, 15, 300])
def test_plane_quadrature_has_the_moments_of_the_projection(dimension, dtype, tolerance, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    directions = two_neurons(dimension, 0.7)
    samples = plane_quadrature(3 * directions, dtype=jnp.dtype(dtype))
    x = np.asarray(samples.points, np.float64)
    assert samples.points.dtype == samples.log_weights.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=tolerance)
    flat = x @ np.linalg.qr(directions.T)[0]
    d = dimension
    np.testing.assert_allclose(expectation(samples, np.ones(len(x))), 1, atol=tolerance)
    np.testing.assert_allclose(expectation(samples, flat), 0, atol=tolerance)
    second = np.stack([expectation(samples, flat[:, [i]] * flat) for i in range(2)])
    np.testing.assert_allclose(second * d, np.eye(2), atol=3 * tolerance)
    np.testing.assert_allclose(expectation(samples, flat**4) * d * (d + 2) / 3, 1, atol=3 * tolerance)


CASES = [(angle, weights) for angle in (0.3, 1.36927, 2.86499) for weights in ((-10, -10), (-12, 7))]
CASES = [(dimension, *case) for dimension in (2, 3, 5, 15) for case in [*CASES, (1.0, (0, 10)), (2.0, (-60, 30))]]
CASES += [(dimension, *case) for dimension in (2, 5) for case in [(0.0, (-10, 4)), (np.pi, (-9, -3))]]  # on a line


@pytest.mark.parametrize("dimension,angle,weights", CASES)
def test_plane_quadrature_equals_the_oracle_in_float64(dimension, angle, weights, x64):
    exact = oracle(angle, weights, dimension)
    positions = two_neurons(dimension, angle)
    energy, samples = shallow(positions, weights, jnp.float64), plane_quadrature(positions, dtype=jnp.float64)
    log_z, mean = log_partition_and_mean(energy, samples)
    assert float(log_z) == pytest.approx(exact["log_partition"], abs=1e-11)
    assert float(-mean - log_z) == pytest.approx(exact["kl_to_uniform"], abs=1e-11)


@pytest.mark.parametrize("dimension", [2, 3, 15])
def test_plane_quadrature_equals_the_oracle_in_float32(dimension):
    exact = oracle(1.1, (-12.0, 7.0), dimension)
    positions = two_neurons(dimension, 1.1).astype(np.float32)
    energy, samples = shallow(positions, [-12, 7], jnp.float32), plane_quadrature(positions)
    log_z, mean = log_partition_and_mean(energy, samples)
    assert log_z.dtype == mean.dtype == jnp.float32
    assert float(log_z) == pytest.approx(exact["log_partition"], abs=1e-5)
    assert float(-mean - log_z) == pytest.approx(exact["kl_to_uniform"], abs=5e-6)


@pytest.mark.parametrize("dimension,nodes,tolerance", [(2, 2000, 1e-5), (3, 100, 3e-5)])
def test_sphere_quadrature_equals_the_oracle(dimension, nodes, tolerance, x64):
    exact = oracle(1.1, (-12.0, 7.0), dimension)
    energy = shallow(two_neurons(dimension, 1.1), [-12, 7], jnp.float64)
    samples = sphere_quadrature(Sphere(dimension), nodes, jnp.float64)
    log_z, mean = log_partition_and_mean(energy, samples)
    assert float(log_z) == pytest.approx(exact["log_partition"], abs=tolerance)
    assert float(-mean - log_z) == pytest.approx(exact["kl_to_uniform"], abs=tolerance)


def test_sphere_quadrature_is_as_good_where_kinks_lie_along_meridians(x64):
    exact = oracle(np.pi / 2, (-12.0, 7.0), 3)
    samples = sphere_quadrature(Sphere(3), 100, jnp.float64)
    log_z, mean = log_partition_and_mean(shallow(np.eye(3)[:2], [-12, 7], jnp.float64), samples)
    assert float(log_z) == pytest.approx(exact["log_partition"], abs=1e-6)
    assert float(-mean - log_z) == pytest.approx(exact["kl_to_uniform"], abs=1e-6)


def test_three_neurons_in_one_plane(x64):
    a, b = two_neurons(7, 1.3)
    exact = oracle(1.3, (-8.0, 5.0), 7)  # -15/3 + 3/3 = -8/2, 7.5/3 = 5/2
    positions = np.stack([a, b, a])
    samples = plane_quadrature(positions, dtype=jnp.float64)
    log_z, _ = log_partition_and_mean(shallow(positions, [-15, 7.5, 3], jnp.float64), samples)
    assert float(log_z) == pytest.approx(exact["log_partition"], abs=1e-11)


def test_line_quadrature_of_the_torus_and_the_gaussian(x64):
    torus = line_quadrature(Torus(1, period=3.0), 8, jnp.float64)
    x = np.asarray(torus.points)[:, 0]
    assert expectation(torus, np.ones(8)) == pytest.approx(1, abs=1e-14)
    for wave in range(1, 8):
        assert expectation(torus, np.cos(2 * np.pi * wave * x / 3)) == pytest.approx(0, abs=1e-13)
    gauss = line_quadrature(Euclidean(1, Gaussian(1.5)), 20, jnp.float64)
    assert expectation(gauss, gauss.points[:, 0] ** 2) == pytest.approx(1.5**2, rel=1e-12)
    assert expectation(gauss, gauss.points[:, 0] ** 6) == pytest.approx(15 * 1.5**6, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_partition_of_a_gaussian_with_weights_that_underflow(dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    samples = line_quadrature(Euclidean(1, Gaussian(1.5)), 500, jnp.dtype(dtype))
    assert np.isneginf(np.asarray(samples.log_weights)).any()
    for temperature in (0.5, 2.0):
        log_z, mean = log_partition_and_mean(Quadratic(3.0), samples, jnp.asarray(temperature, dtype))
        assert float(log_z) == pytest.approx(-0.5 * np.log1p(3 * 1.5**2 / temperature), abs=1e-6)
        assert float(mean) == pytest.approx(1.5 / (3 / temperature + 1.5**-2), abs=1e-5)


def test_log_partition_does_not_depend_on_the_weights_constant_nor_overflow():
    energy = shallow(np.eye(3), [-3000.0, 1, 2], jnp.float32)
    samples = sphere_quadrature(Sphere(3), 20)
    shifted = Samples(samples.points, samples.log_weights + 30)
    value, mean = log_partition_and_mean(energy, samples)
    assert 900 < float(value) < -float(mean) < 1000
    np.testing.assert_allclose(log_partition_and_mean(energy, shifted), (value, mean), rtol=1e-6)
    equal = Samples(jnp.array([[1.0, 0, 0], [0, 1, 0]]))
    value, mean = log_partition_and_mean(shallow(np.eye(3), [-12, 6, 6], jnp.float32), equal)
    total = np.exp(4.0) + np.exp(-2.0)
    assert float(value) == pytest.approx(np.log(total / 2))
    assert float(mean) == pytest.approx((-4 * np.exp(4.0) + 2 * np.exp(-2.0)) / total)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_mean_energy_is_the_slope_of_the_log_partition(temperature, x64):
    energy = shallow(np.random.default_rng(0).standard_normal((5, 3)), [-9, 4, -7, 2, 3], jnp.float64)
    samples = sphere_quadrature(Sphere(3), 30, jnp.float64)
    slope = jax.jit(jax.grad(lambda inverse: log_partition(energy, samples, 1 / inverse)))(1 / temperature)
    _, mean = log_partition_and_mean(energy, samples, jnp.asarray(temperature))
    assert float(mean) == pytest.approx(-float(slope), abs=1e-10)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 2e-4), ("float64", 1e-9)])
def test_effective_temperature_inverts_the_mean_energy(dtype, tolerance, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    positions = two_neurons(15, 1.3).astype(dtype)
    energy = shallow(positions, [-10, -10], dtype)
    samples = plane_quadrature(positions, dtype=jnp.dtype(dtype))
    temperatures = np.array([0.05, 0.5, 0.87, 1.0, 3.0, 40.0], dtype)
    means = jax.jit(jax.vmap(lambda t: mean_energy(energy, samples, t)))(temperatures)
    found = jax.jit(jax.vmap(lambda mean: effective_temperature(energy, samples, mean)))(means)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found), temperatures, rtol=5 * tolerance)
    np.testing.assert_allclose(np.asarray(found)[1:4], temperatures[1:4], rtol=tolerance)


def test_effective_temperature_is_nan_where_there_is_none():
    find = eqx.filter_jit(effective_temperature)
    energy, samples = shallow(np.eye(3), [-9, -9, 3], jnp.float32), sphere_quadrature(Sphere(3), 20)
    at_infinity = float(jnp.mean(energy(samples.points) * jnp.exp(samples.log_weights))) * samples.points.shape[0]
    assert find(energy, samples, jnp.asarray(at_infinity - 0.01)) > 30
    for mean in (-5.0, at_infinity + 0.01, np.nan):
        assert np.isnan(find(energy, samples, jnp.asarray(mean)))
    assert np.isnan(find(shallow(np.eye(3), [0, 0, 0], jnp.float32), samples, jnp.asarray(0.0)))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: sphere_quadrature(Sphere(4), 10), r"space is Sphere\(dimension=4, base=Uniform\(\)\); allowed: Sphere\(2\)"),
        (lambda: sphere_quadrature(Torus(3), 10), r"space is Torus\(.*allowed: Sphere\(2\)"),
        (lambda: sphere_quadrature(Sphere(2), 0), "nodes is 0; it must be an integer of at least 1"),
        (lambda: sphere_quadrature(Sphere(2), 4, jnp.float64), "dtype is float64 .* JAX_ENABLE_X64=1"),
        (lambda: sphere_quadrature(Sphere(2), 4, jnp.float16), "dtype is .*float16.*; it must be float32 or"),
        (lambda: sphere_quadrature(Sphere(2), 4, "double float"), "dtype is 'double float'; it must be"),
        (lambda: line_quadrature(Torus(2), 4), r"space is Torus\(dimension=2.*allowed: Torus\(1\)"),
        (lambda: line_quadrature(Euclidean(1, Flat()), 4), r"space is Euclid.*Flat\(\)\); allowed: Torus\(1\)"),
        (lambda: line_quadrature(Torus(1), True), "nodes is True"),
        (lambda: plane_quadrature(np.eye(3)), "directions spans 3 dimensions; .* at most 2"),
        (lambda: plane_quadrature(np.ones(3)), r"directions has shape \(3,\)"),
        (lambda: plane_quadrature(np.ones((2, 1))), r"directions has shape \(2, 1\)"),
        (lambda: plane_quadrature([[1, 0, 0], [0, 0, 0]]), "directions has the row 1 of norm 0"),
        (lambda: plane_quadrature([[1, np.nan, 0]]), "directions has the row 0 of norm nan"),
        (lambda: plane_quadrature(np.eye(2), radial_nodes=0), "radial_nodes is 0"),
        (lambda: plane_quadrature(np.eye(2), arc_nodes=-1), "arc_nodes is -1"),
    ],
)
def test_errors_name_the_argument_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_is_found_up_to_the_rounding_of_the_dtype(dtype):
    a, b = two_neurons(15, 1.3)
    c = two_neurons(15, 1.3, seed=1)[0]
    assert rank(np.stack([a, b, a - 2 * b, 5 * b]).astype(dtype)) == 2
    assert rank(np.stack([a, -a]).astype(dtype)) == 1
    assert rank(np.stack([a, b, c]).astype(dtype)) == 3
    assert rank(np.stack([a, b, a + 1e-4 * c]).astype(dtype)) == 3


# ---- log Z by sampling --------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sampling_agrees_with_quadrature_and_knows_its_error(dtype, x64):
    """Over 64 keys the errors in units of the standard error have mean 0 and variance 1, within 5 sigma."""
    energy = shallow(np.random.default_rng(3).standard_normal((4, 3)), [-9.0, -6.0, 3.0, -4.0], dtype)
    exact = float(log_partition_and_mean(energy, sphere_quadrature(Sphere(3), 200, dtype))[0])
    estimate = jax.jit(jax.vmap(lambda key: log_partition_by_sampling(key, energy, Sphere(3), 3000)))
    log_z, error, size = jax.device_get(estimate(jax.random.split(jax.random.key(0), 64)))
    assert log_z.dtype == dtype
    scores = (np.asarray(log_z, np.float64) - exact) / np.asarray(error, np.float64)
    assert abs(scores.mean()) < 5 / np.sqrt(64) and abs(scores.var() - 1) < 5 * np.sqrt(2 / 64)
    assert size.min() > 100 and size.max() < 3000


@pytest.mark.parametrize("count", [2, 1000, pytest.param(DRAWS, marks=pytest.mark.heavy), 2 * DRAWS + 77])
def test_sampling_is_the_mean_of_the_weights_of_all_its_draws(count, x64):
    """Against NumPy on the same draws, with a last block that is short, energies far from 0."""
    space, key, energy = Euclidean(2, Gaussian(1.5)), jax.random.key(7), Quadratic(jnp.array(3.0))
    width = min(count, DRAWS)

    @jax.jit
    def everything(key):
        draws = [space.sample_base(jax.random.fold_in(key, b), width, float) for b in range(-(-count // width))]
        tried = [log_partition_by_sampling(key, e, space, count) for e in (energy, Shifted(jnp.array(3.0)))]
        return energy(jnp.concatenate(draws)[:count]), tried

    energies, tried = jax.device_get(everything(key))
    weights = np.exp(-energies)
    for (log_z, error, size), shift in zip(tried, (0.0, 2000.0), strict=True):
        assert float(log_z) == pytest.approx(np.log(weights.mean()) - shift, rel=1e-12, abs=1e-12)
        assert float(error) == pytest.approx(weights.std(ddof=1) / np.sqrt(count) / weights.mean(), rel=1e-9)
        assert float(size) == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-9)


class Shifted(Energy):
    """U(x) = stiffness |x|^2 / 2 + 2000, whose exp(-U) underflows."""

    stiffness: jax.Array

    def __call__(self, x):
        return 0.5 * self.stiffness * jnp.sum(x**2, axis=1) + 2000


@pytest.mark.parametrize("dimension,stiffness", [(1, 2.0), (3, 0.5)])
def test_sampling_of_a_gaussian(dimension, stiffness):
    """log Z = -(d / 2) log(1 + stiffness scale^2), within 5 standard errors, and the closed form of the error."""
    space, count = Euclidean(dimension, Gaussian(1.5)), 40_000
    estimate = jax.jit(lambda key: log_partition_by_sampling(key, Quadratic(stiffness), space, count))
    log_z, error, size = estimate(jax.random.key(1))
    one, two = (1 + k * stiffness * 1.5**2 for k in (1, 2))
    assert abs(float(log_z) + 0.5 * dimension * np.log(one)) < 5 * float(error)
    spread = (one**2 / two) ** (dimension / 2)  # E w^2 / (E w)^2
    assert float(error) == pytest.approx(np.sqrt((spread - 1) / count), rel=0.1)
    assert float(size) == pytest.approx(count / spread, rel=0.1)


def test_sampling_refuses():
    with pytest.raises(ValueError, match="count is 1; it must be an integer of at least 2"):
        log_partition_by_sampling(jax.random.key(0), Quadratic(1.0), Euclidean(1), 1)
    with pytest.raises(ValueError, match="whose flat measure cannot be sampled"):
        log_partition_by_sampling(jax.random.key(0), Quadratic(1.0), Euclidean(1, Flat()), 10)


# -- Annealed importance sampling --------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("temperatures", [2, 40])
def test_annealing_agrees_with_quadrature_and_knows_its_error(temperatures):
    """Over 64 keys the errors in units of the standard error have mean 0 and variance 1, within 5 sigma, however few the temperatures."""
    energy = shallow(np.random.default_rng(3).standard_normal((4, 3)), [-9.0, -6.0, 3.0, -4.0], "float32")
    exact = float(log_partition_and_mean(energy, sphere_quadrature(Sphere(3), 200))[0])

    @jax.jit
    def estimates(keys):
        anneal = lambda key: log_partition_by_annealing(key, energy, Sphere(3), 2000, temperatures=temperatures)  # noqa: E731
        return jax.lax.map(anneal, keys)

    log_z, error, size = jax.device_get(estimates(jax.random.split(jax.random.key(0), 64)))
    scores = (np.asarray(log_z, np.float64) - exact) / np.asarray(error, np.float64)
    assert abs(scores.mean()) < 5 / np.sqrt(64) and abs(scores.var() - 1) < 5 * np.sqrt(2 / 64)
    assert (size.min() > 1000) == (temperatures == 40)


@pytest.mark.heavy
def test_annealing_reaches_where_draws_of_the_base_measure_do_not():
    """The monomodal teacher on S^14 (log Z 1.964898), and at a sixth of the temperature, of which uniform draws see next to nothing."""
    teacher = targets.teacher("s14_monomodal")
    cloud = teacher.quadrature()

    @jax.jit
    def estimates(key, inverse):
        energy = Tempered(teacher.energy, inverse)
        drawn = log_partition_by_sampling(key, energy, teacher.space, 2000)
        annealed = log_partition_by_annealing(key, energy, teacher.space, 2000, temperatures=400)
        return annealed, drawn[2], log_partition(energy, cloud)

    (log_z, error, size), _, exact = jax.device_get(estimates(jax.random.key(0), jnp.array(1.0)))
    assert exact == pytest.approx(1.964898, abs=1e-5)
    assert abs(log_z - exact) < 5 * error < 0.1 and size > 1000
    (log_z, error, size), drawn, exact = jax.device_get(estimates(jax.random.key(1), jnp.array(6.0)))
    assert abs(log_z - exact) < 5 * error < 1 and size > 200
    assert drawn < 10  # effective draws


@pytest.mark.parametrize(
    ("changes", "message"), [(dict(count=1), "count is 1"), (dict(temperatures=0), "temperatures is 0"), (dict(moves=0), "moves is 0")]
)
def test_annealing_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        log_partition_by_annealing(jax.random.key(0), Quadratic(1.0), Euclidean(1), **{"count": 10, **changes})
