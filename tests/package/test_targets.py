"""Teachers against the paper's constants and the oracle; exact samples against quadrature."""

import importlib.resources
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dualebm.data import targets
from dualebm.data.targets import Target, planted, sample, teacher
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import effective_temperature, log_partition, mean_energy, plane, plane_nodes
from dualebm.spaces import Sphere
from tests import oracles

# The planted teachers: log Z, KL(teacher || uniform), E |grad_S f*|^2, min f*, the angle between the neurons
CONSTANTS = {
    "s14_monomodal": (np.log(7.1342), 1.12933, 38.0931, -7.74649, 1.36927),
    "s14_bimodal": (np.log(3.99589), 0.38129, 20.370, -5.0, 2.86499),
    "s2_bimodal": (None, 0.63253, 7.311, -5.0, 2.55239),
    "s2_monomodal": (None, 1.31603, 10.194, None, 1.57483),
}


def neurons(dimension, angles, seed=0):
    """Unit vectors at the angles of a random plane of R^d."""
    frame, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, 2)))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) @ frame.T


def oracle(angle, weights, dimension):
    return oracles.two_neuron_quadrature(angle, weights, dimension, radial_nodes=90, arc_nodes=60)


def check_integrals(target, exact, rel):
    assert target.log_partition == pytest.approx(exact["log_partition"], rel=rel, abs=rel)
    assert target.kl_to_uniform == pytest.approx(exact["kl_to_uniform"], rel=rel, abs=rel)
    assert target.squared_score == pytest.approx(exact["squared_gradient"], rel=rel, abs=rel)
    assert target.min_energy == pytest.approx(exact["min_energy"], rel=rel, abs=rel)


# ---- teachers and their integrals --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), list(zip(targets.TEACHERS, ["float32", "float64", "float32", "float64"], strict=True)))
def test_teachers_have_the_constants_of_the_paper(name, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    target = teacher(name, jnp.dtype(dtype))
    assert target.energy.positions.dtype == target.energy.coefficients.dtype == dtype and target.name == name
    log_z, kl, score, least, angle = CONSTANTS[name]
    assert target.kl_to_uniform == pytest.approx(kl, abs=1e-5)
    assert target.squared_score == pytest.approx(score, abs=5e-4)
    assert log_z is None or target.log_partition == pytest.approx(log_z, abs=1e-5)
    assert least is None or target.min_energy == pytest.approx(least, abs=1e-5)
    a, b = np.asarray(target.energy.positions, np.float64)
    assert np.arccos(a @ b) == pytest.approx(angle, abs=1e-5)
    exact = oracle(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), [-10, -10], len(a))
    check_integrals(target, exact, rel=1e-6 if dtype == "float32" else 1e-11)
    assert {type(value) for value in (target.log_partition, target.squared_score, target.min_energy)} == {float}


def test_the_stored_teachers_are_the_named_ones():
    stored = json.loads((importlib.resources.files("dualebm") / "data" / "teachers.json").read_text())["teachers"]
    assert tuple(stored) == targets.TEACHERS == tuple(CONSTANTS)


@pytest.mark.parametrize("dimension", [2, 3, 15])
@pytest.mark.parametrize("weights", [(-12, 7), (9, -4), (6, 3), (0, -5)])
def test_integrals_of_two_neurons_of_any_sign_equal_the_oracle(dimension, weights, x64):
    target = planted(3 * neurons(dimension, [0.2, 2.2]), weights, jnp.float64)
    check_integrals(target, oracle(2.0, weights, dimension), rel=1e-11)


def test_one_neuron_parallel_neurons_and_more_in_one_plane(x64):
    single = oracle(0.0, [-6.0, 0.0], 5)  # -3 relu
    check_integrals(planted([[1, 0, 0, 0, 0]], [-3], jnp.float64), single, rel=1e-11)
    check_integrals(planted([[1, 0, 0, 0, 0], [2, 0, 0, 0, 0]], [-7, 1], jnp.float64), single, rel=1e-11)
    three = planted(neurons(5, [0.0, 1.3, 0.0]), [-15, 7.5, 3], jnp.float64)  # -8 / 2 and 5 / 2
    check_integrals(three, oracle(1.3, [-8.0, 5.0], 5), rel=1e-11)


@pytest.mark.parametrize("dimension", [2, 15])
def test_integrals_of_steep_targets_equal_the_oracle(dimension, x64):
    exact = oracles.two_neuron_quadrature(1.0, [-1000, -500], dimension, 200, 200)
    check_integrals(planted(neurons(dimension, [0.0, 1.0]), [-1000, -500], jnp.float64), exact, rel=1e-9)


def test_many_neurons_on_the_circle_against_a_fine_sum(x64):
    rng = np.random.default_rng(2)
    angles, weights = rng.uniform(0, 2 * np.pi, 7), rng.normal(0, 8, 7)
    target = planted(neurons(2, angles), weights, jnp.float64)
    p = 2 * np.pi * (np.arange(200_000) + 0.5) / 200_000
    s = np.cos(p[:, None] - angles)
    f, slope = np.maximum(s, 0) @ weights / 7, -((s > 0) * np.sin(p[:, None] - angles)) @ weights / 7
    log_z, density = np.log(np.mean(np.exp(-f))), np.exp(-f) / np.mean(np.exp(-f))
    exact = (log_z, -np.mean(density * f) - log_z, np.mean(density * slope**2), f.min())
    found = (target.log_partition, target.kl_to_uniform, target.squared_score, target.min_energy)
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    np.testing.assert_allclose(found[:2], exact[:2], rtol=1e-8)


def test_more_neurons_on_the_two_sphere(x64):
    """Neurons of weight zero off the plane change nothing but the rule; a rotation changes nothing."""
    positions = neurons(3, [0.2, 2.2])
    padded = planted(np.concatenate([positions, np.eye(3)]), [-30, 17.5, 0, 0, 0], jnp.float64)
    exact = oracle(2.0, [-12.0, 7.0], 3)
    assert padded.log_partition == pytest.approx(exact["log_partition"], abs=1e-6)
    assert padded.kl_to_uniform == pytest.approx(exact["kl_to_uniform"], abs=1e-6)
    assert padded.squared_score == pytest.approx(exact["squared_gradient"], rel=2e-4)
    assert padded.min_energy == pytest.approx(exact["min_energy"], abs=1e-12)


def test_more_neurons_in_more_dimensions_have_no_exact_integrals():
    target = planted(np.eye(5)[:3], [-4, -3, 2])
    for call in (
        lambda: target.log_partition,
        lambda: target.kl_to_uniform,
        lambda: target.squared_score,
        lambda: target.quadrature(),
    ):
        with pytest.raises(
            ValueError, match=r"planted has neurons that span 3 dimensions of R\^5; exact integrals are al"
        ):
            call()


@pytest.mark.parametrize(
    "name,dtype,tolerance", [("s14_monomodal", "float32", 5e-6), ("s2_monomodal", "float64", 1e-5)]
)
def test_the_quadrature_of_a_target_serves_partition(name, dtype, tolerance, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    target = teacher(name, jnp.dtype(dtype))
    samples = target.quadrature(jnp.dtype(dtype))
    assert samples.points.dtype == dtype and samples.points.shape[1] == target.space.dimension
    log_z = eqx.filter_jit(log_partition)(target.energy, samples)
    mean = eqx.filter_jit(mean_energy)(target.energy, samples)
    assert float(log_z) == pytest.approx(target.log_partition, abs=tolerance)
    assert float(-mean - log_z) == pytest.approx(target.kl_to_uniform, abs=tolerance)


def test_the_quadrature_on_the_circle_and_the_two_sphere_serves_every_energy(x64):
    for dimension in (2, 3):
        target = planted(np.eye(dimension)[:1], [-10], jnp.float64)
        student = Shallow(ReLU(), jnp.array(np.eye(dimension)[-1:]), jnp.array([-10.0]))  # off the teacher's line
        log_z = float(eqx.filter_jit(log_partition)(student, target.quadrature(jnp.float64)))
        assert log_z == pytest.approx(target.log_partition, abs=1e-5)


# ---- the least energy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count,dimension", [(3, 3), (6, 3), (9, 3), (4, 4), (7, 4)])
@pytest.mark.parametrize("signs", ["negative", "mixed", "positive"])
def test_min_energy_is_the_least_of_many_points(count, dimension, signs):
    rng = np.random.default_rng(10 * count + dimension)
    weights = rng.uniform(3, 12, count) * {"negative": -1, "positive": 1, "mixed": rng.choice([-1, 1], count)}[signs]
    target = planted(rng.standard_normal((count, dimension)), weights)
    positions, weights = (np.asarray(a, np.float64) for a in (target.energy.positions, target.energy.coefficients))
    x = oracles.normalise(rng.standard_normal((6000, dimension)))
    for width in (0.0, 0.1, 0.02, 0.004, 8e-4, 1.6e-4, 3e-5):  # the neighbourhood of the best so far, ever smaller
        x = oracles.normalise(x + width * rng.standard_normal(x.shape))
        values = np.maximum(x @ positions.T, 0) @ weights / count
        x = np.repeat(x[np.argsort(values)[:60]], 100, axis=0)
    assert target.min_energy <= values.min() + 1e-9
    assert target.min_energy == pytest.approx(values.min(), abs=2e-3)


def test_min_energy_of_positive_neurons_is_zero_unless_they_surround_the_origin():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert planted(corners[:3], [5, 5, 5]).min_energy == pytest.approx(0, abs=1e-6)
    tetrahedron = planted(
        corners, [4, 4, 4, 4]
    )  # f* = sum_j |<theta_j, x>| / 2, least where two neurons have their kinks
    assert tetrahedron.min_energy == pytest.approx(np.sqrt(2 / 3), abs=1e-6)
    assert planted(corners, [0, 0, 0, 0]).min_energy == 0
    assert planted(np.pad(corners, ((0, 0), (0, 1))), [4, 4, 4, 4]).min_energy == 0  # the fourth axis


def test_descents_find_what_enumeration_finds(monkeypatch):
    rng = np.random.default_rng(5)
    target = planted(rng.standard_normal((8, 5)), rng.choice([-10.0, 7.0], 8))
    enumerated = target.min_energy
    monkeypatch.setattr(targets, "ENUMERATED", 7)
    assert target.min_energy == pytest.approx(enumerated, abs=1e-6) and target.min_energy != enumerated


# ---- exact samples ---------------------------------------------------------------------------------------


def check_moments(target, points, count, nodes=(80, 40)):
    """Means of the energy and of the projections along, across and off the plane, at 5 standard errors."""
    across = plane(target.energy.positions)
    nodes, log_weights = plane_nodes(target.energy.positions, *nodes)
    weights = np.asarray(target.energy.coefficients, np.float64)

    def features(x):
        flat = x @ across.basis[:2].T
        energy = np.maximum(flat @ across.coordinates.T, 0) @ weights / len(weights)
        return np.concatenate([flat, flat**2, flat[:, :1] * flat[:, 1:], energy[:, None], energy[:, None] ** 2], axis=1)

    at_nodes = features(nodes)
    tilt = np.exp(log_weights - at_nodes[:, 5] - (log_weights - at_nodes[:, 5]).max())
    tilt /= tilt.sum()
    exact, values = tilt @ at_nodes, features(points)
    dimension = target.space.dimension
    if dimension > 2:
        rest = 1 - np.sum((nodes @ across.basis[:2].T) ** 2, axis=1)
        off = points @ across.basis[2]
        values = np.concatenate([values, off[:, None], off[:, None] ** 2, off[:, None] ** 4], axis=1)
        fourth = 3 * (tilt @ rest**2) / (dimension * (dimension - 2))
        exact = np.concatenate([exact, [0, tilt @ rest / (dimension - 2), fourth]])
    error = values.std(axis=0) / np.sqrt(count)
    assert np.all(np.abs(values.mean(axis=0) - exact) < 5 * error + 1e-6), (values.mean(axis=0) - exact) / error


@pytest.mark.parametrize("name,dtype", list(zip(targets.TEACHERS, ["float32", "float64"] * 2, strict=True)))
def test_samples_of_the_teachers_have_the_exact_moments(name, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    target = teacher(name, jnp.dtype(dtype))
    samples, acceptance = sample(jax.random.key(3), target, 40_000)
    assert samples.points.dtype == dtype and samples.log_weights is None and samples.points.shape[0] == 40_000
    assert 0.9 < acceptance < 1
    points = np.asarray(samples.points, np.float64)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-6 if dtype == "float32" else 1e-14)
    check_moments(target, points, 40_000)


@pytest.mark.parametrize(
    ("angles", "weights", "dimension"),
    [  # the circle, S^2, and more dimensions, each with signs that are equal and that differ
        ([0.2, 2.2], [-12, 7], 2), ([0.2, 2.2], [-12, 7], 3), ([0.2, 2.2], [-12, 7], 15),
        ([0.5, 1.0], [9, -25], 5), ([0.3, 1.9], [8, 6], 2), ([0.3, 1.9], [8, 6], 3), ([0.3, 1.9], [8, 6], 15),
        ([1.0], [-9], 2), ([1.0], [-9], 15), ([0.4, 0.4 + np.pi], [-8, -12], 2), ([0.4, 0.4 + np.pi], [-8, -12], 5),
        ([0.1, 2.0, 4.0], [-20, 9, -15], 2), ([0.1, 2.0, 4.0], [-20, 9, -15], 3), ([0.1, 2.0, 4.0], [-20, 9, -15], 15),
        ([0.0, 2.0], [0, 0], 3),
    ],
)  # fmt: skip
def test_samples_in_a_plane_have_the_exact_moments(angles, weights, dimension):
    target = planted(neurons(dimension, angles), weights)
    samples, acceptance = sample(jax.random.key(4), target, 10_000)
    assert acceptance > 0.8
    check_moments(target, np.asarray(samples.points, np.float64), 10_000)


@pytest.mark.parametrize("dimension,weight", [(15, -100), (15, -1000), (400, -10)])
def test_steep_targets_and_many_dimensions_are_sampled_too(dimension, weight):
    target = planted(neurons(dimension, [0.0, 1.0]), [weight, weight / 2])
    samples, acceptance = sample(jax.random.key(5), target, 10_000)
    assert acceptance > (0.6 if weight == -1000 else 0.8)
    nodes = (180, 140) if dimension == 15 else (80, 40)
    check_moments(target, np.asarray(samples.points, np.float64), 10_000, nodes)


@pytest.mark.parametrize("name,weights", [("s14_monomodal", [-10, -10]), ("s2_bimodal", [-12, 8])])
def test_the_projection_has_its_law_bin_by_bin(name, weights):
    """A chi-square test of (r, p) in 12 x 16 bins against a midpoint sum of the density."""
    positions, count, dimension = teacher(name).energy.positions, 100_000, teacher(name).space.dimension
    target = planted(positions, weights)
    across = plane(positions)
    t = 0.5 * np.pi * (np.arange(1200) + 0.5) / 1200  # r = sin t
    p = 2 * np.pi * (np.arange(1600) + 0.5) / 1600 - np.pi
    slope = np.maximum(np.stack([np.cos(p), np.sin(p)], axis=1) @ across.coordinates.T, 0) @ np.array(weights) / 2
    density = (np.sin(t) * np.cos(t) ** (dimension - 3))[:, None] * np.exp(-np.sin(t)[:, None] * slope)
    expected = density.reshape(12, 100, 16, 100).sum(axis=(1, 3)).ravel()
    expected *= count / expected.sum()
    flat = np.asarray(sample(jax.random.key(6), target, count)[0].points, np.float64) @ across.basis[:2].T
    radius, angle = np.minimum(np.linalg.norm(flat, axis=1), 1), np.arctan2(flat[:, 1], flat[:, 0])
    edges = (np.linspace(0, 0.5 * np.pi, 13), np.linspace(-np.pi, np.pi, 17))
    observed = np.histogram2d(np.arcsin(radius), angle, edges)[0].ravel()
    common = expected > 10
    assert observed.sum() == count and common.sum() > 80
    statistic = np.sum((observed - expected)[common] ** 2 / expected[common])
    assert stats.chi2.sf(statistic, common.sum()) > 1e-6


def test_samples_are_deterministic_in_the_key():
    target, key = planted(neurons(3, [0.2, 2.2]), [-12, 7]), jax.random.key(0)
    first, acceptance = sample(key, target, 500)
    again, same = sample(key, target, 500)
    other, _ = sample(jax.random.key(1), target, 500)
    assert acceptance == same and np.array_equal(first.points, again.points)
    assert not np.isclose(np.asarray(first.points), np.asarray(other.points)).all(axis=1).any()
    assert len(np.unique(np.asarray(first.points), axis=0)) == 500


@pytest.mark.parametrize("count,dtype", [(5, "float32"), (12, "float64")])
def test_rejection_from_the_uniform_measure_against_quadrature(count, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    rng = np.random.default_rng(count)
    target = planted(rng.standard_normal((count, 3)), rng.choice([-24.0, 10.0], count), jnp.dtype(dtype))
    samples, acceptance = sample(jax.random.key(7), target, 15_000)
    assert samples.points.dtype == dtype and samples.points.shape == (15_000, 3)
    assert acceptance == pytest.approx(np.exp(target.min_energy + target.log_partition), rel=0.02)
    cloud = target.quadrature(jnp.dtype(dtype))

    def features(x):
        x = np.asarray(x, np.float64)
        outer = (x[:, :, None] * x[:, None]).reshape(-1, 9)
        positions, weights = (np.asarray(a, np.float64) for a in (target.energy.positions, target.energy.coefficients))
        return np.concatenate([x, outer, np.maximum(x @ positions.T, 0) @ weights[:, None] / count], axis=1)

    at_nodes, values = features(cloud.points), features(samples.points)
    tilt = np.exp(np.asarray(cloud.log_weights, np.float64) - at_nodes[:, -1])
    error = values.std(axis=0) / np.sqrt(15_000)
    assert np.all(np.abs(values.mean(axis=0) - tilt @ at_nodes / tilt.sum()) < 5 * error + 1e-5)
    assert np.array_equal(samples.points[:100], sample(jax.random.key(7), target, 100)[0].points)
    assert len(np.unique(np.asarray(samples.points), axis=0)) == 15_000  # batches have their own keys


def test_batches_of_rejection_have_their_own_keys(monkeypatch):
    monkeypatch.setattr(targets, "BATCH", 2**12)
    target = planted(np.eye(3)[[0, 1, 2, 0]], [-10, -10, -10, 0])
    points = np.asarray(sample(jax.random.key(0), target, 3000)[0].points)
    assert len(np.unique(points, axis=0)) == 3000


def test_the_direction_off_the_plane_is_orthogonal_to_it():
    """The plane's coordinates are drawn in float64. In three dimensions little of a normal vector may be left: its rounding is large."""
    positions, found = np.float32(neurons(3, [0.1, 2.0])), []
    basis = plane(positions).basis[:2]
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            points = sample(jax.random.key(0), planted(positions, [-7.3, -2.1], dtype), 40_000)[0].points
            found.append(np.asarray(points, np.float64) @ basis.T)
    assert np.mean(np.abs(found[0] - found[1]) > 1e-6) < 1e-3  # a few may be drawn in the cell beside


def test_a_point_below_the_least_energy_found_is_an_error(monkeypatch):
    target = planted(np.random.default_rng(0).standard_normal((12, 3)), [-10.0] * 12)
    monkeypatch.setattr(targets, "_descents", lambda positions, weights: iter([-np.mean(positions, axis=0)[None]]))
    with pytest.raises(
        RuntimeError, match=r"planted has a drawn point with an energy .* below the least .*langevin.sample"
    ):
        sample(jax.random.key(0), target, 10)


def test_hopeless_rejection_is_refused_with_its_rate():
    target = planted(np.eye(30)[:3], [-300.0] * 3)
    with pytest.raises(ValueError, match=r"planted has an expected acceptance of .*e-\d\d by .* at least 1e-06"):
        sample(jax.random.key(0), target, 10)


@pytest.mark.parametrize("name,temperature", [("s14_monomodal", 0.87), ("s14_monomodal", 1.0), ("s2_bimodal", 1.7)])
def test_the_effective_temperature_of_exact_samples_is_theirs(name, temperature):
    target, count = teacher(name), 20_000
    hot = planted(target.energy.positions, target.energy.coefficients / temperature)
    points = sample(jax.random.key(8), hot, count)[0].points
    values = np.asarray(eqx.filter_jit(Shallow.__call__)(target.energy, points), np.float64)
    find = eqx.filter_jit(effective_temperature)
    found = find(target.energy, target.quadrature(), jnp.float32(values.mean()))
    error = temperature**2 / np.sqrt(count * values.var())
    assert abs(float(found) - temperature) < 5 * error < 0.1 * temperature


# ---- other bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: teacher("s14_bimodel"), "name is 's14_bimodel'; did you mean 's14_bimodal'. Allowed: 's14_monomodal'"),
        (lambda: teacher("s2_bimodal", jnp.float64), "dtype is float64 .*JAX_ENABLE_X64=1"),
        (lambda: teacher("s2_bimodal", "int32"), "dtype is 'int32'; it must be float32 or float64"),
        (lambda: planted(np.ones(3), [1]), r"positions has shape \(3,\) and dtype float64; it must be real, \(J, d\)"),
        (lambda: planted(np.ones((0, 3)), []), r"positions has shape \(0, 3\)"),
        (lambda: planted(np.ones((2, 3)) * 1j, [1, 2]), "positions has shape .* dtype complex128"),
        (lambda: planted(np.ones((2, 3)), ["a", "b"]), "weights has shape .* dtype <U1"),
        (lambda: planted(np.ones((2, 3)), [[1, 2]]), r"weights has shape \(1, 2\) .*must be real, \(J,\)"),
        (lambda: planted(np.ones((2, 3)), [1, 2, 3]), r"weights has shape \(3,\); it must be \(2,\)"),
        (lambda: planted([[1, 0], [np.inf, 0]], [1, 2]), "positions is .*inf.*; its values must be finite"),
        (lambda: planted(np.eye(2), [1, np.nan]), "weights is .*nan.*; its values must be finite"),
        (lambda: planted([[1, 0], [0, 0]], [1, 2]), "positions has zeros in row 1"),
        (lambda: planted([[1]], [1]), "dimension is 1; it must be an integer of at least 2"),
        (lambda: sample(jax.random.key(0), teacher("s2_bimodal"), 0), "count is 0; it must be an integer of at least"),
        (lambda: sample(jax.random.key(0, impl="rbg"), teacher("s2_bimodal"), 9), "key is .*must be one typed threefry"),
        (
            lambda: Target(Sphere(3), Shallow(ReLU(2), jnp.array(np.eye(3)), jnp.array(np.ones(3)))),
            r"energy is .*; it must be Shallow with the feature ReLU\(\)",
        ),
        (
            lambda: Target(Sphere(2), Shallow(ReLU(), jnp.array(np.eye(3)), jnp.array(np.ones(3)))),
            "energy.positions has 3 components; it must have 2",
        ),
        (lambda: teacher("s2_bimodal").quadrature(nodes=0), "nodes is 0"),
    ],
)
def test_errors_name_the_argument_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
