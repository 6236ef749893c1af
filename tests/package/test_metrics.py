"""Metrics against the NumPy oracle, grids of their own, and exact samples at 5 sigma."""

import decimal
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics, stein, stein_critics
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow, from_atoms
from dualebm.features import ReLU
from dualebm.kernels import RBF, Embedding
from dualebm.log_z.quadrature import log_partition, sphere_quadrature
from dualebm.measures import Atoms, Samples
from dualebm.methods.base import Info, Iterate
from dualebm.metrics import EffectiveTemperature, KLDivergence, ScoreError, exact_samples, relative_entropy
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles

METHOD = SimpleNamespace(energy=lambda state, rates, data: state)  # the state is the energy
PAPER = {  # KL(teacher || uniform), E* |grad f*|^2, by quadrature
    "s2_bimodal": (0.63253, 7.311), "s2_monomodal": (1.31603, 10.194),
    "s14_bimodal": (0.38129, 20.370), "s14_monomodal": (1.12933, 38.095),
}  # fmt: skip


@eqx.filter_jit
def measured(space, teacher, samples, *energies):
    metrics = KLDivergence(teacher, samples), ScoreError(space, teacher, samples)
    return [[metric(None, Iterate(METHOD, energy, None, None)) for metric in metrics] for energy in energies]


@jax.jit
def entropy(energy, reference, samples):
    """KL to an energy, of a reference that is an energy or its values."""
    return relative_entropy(energy, reference(samples.points) if isinstance(reference, Energy) else reference, samples)


def kl_and_score(space, teacher, samples, *energies):
    """Both metrics of every energy."""
    results = jax.device_get(measured(space, teacher, samples, *energies))
    assert all(r.shape == () and r.dtype == samples.points.dtype for pair in results for r in pair)
    return results if len(energies) > 1 else results[0]


def shallow(positions, coefficients, dtype):
    return Shallow(ReLU(), jnp.array(positions, dtype), jnp.array(coefficients, dtype))


def oracle_energy(x, energy):
    """The shallow ReLU energy of many points in NumPy float64."""
    x, theta, c = (np.float64(a) for a in (x, energy.positions, energy.coefficients))
    return np.maximum(x @ theta.T, 0) @ c / len(c)


def rows(rng, count):
    return oracles.normalise(rng.normal(size=(count, 3)))


def no_energy(space, dtype):
    return shallow(np.eye(1, space.dimension), [0.0], dtype)


def pair(d, seed=0):
    """Positions and weights of a teacher, those of a student, and points: float32 values in float64."""
    rng = np.random.default_rng(seed)
    teacher, student, x = (oracles.normalise(rng.normal(size=(k, d))) for k in (2, 5, 80))
    arrays = teacher, np.array([-6.0, -3.0]), student, rng.normal(size=5) * 5, x
    return [np.float64(np.float32(a)) for a in arrays]


@pytest.mark.parametrize(
    ("dtype", "d"),
    [
        pytest.param("float32", 3, marks=pytest.mark.heavy),
        ("float32", 15),
        ("float64", 3),
        pytest.param("float64", 15, marks=pytest.mark.heavy),
    ],
    indirect=["dtype"],
)
def test_kl_and_score_equal_the_oracle(d, dtype):
    theta, w, student, c, x = pair(d)
    times = np.random.default_rng(1).integers(0, 4, len(x))  # weights that are counts: the means over repeated points
    with np.errstate(divide="ignore"):
        weighted = Samples(jnp.array(x, dtype), jnp.array(np.log(times) + 7, dtype))
    for samples, points in [(Samples(jnp.array(x, dtype)), x), (weighted, np.repeat(x, times, axis=0))]:
        kl, score = oracles.kl_and_score(points, theta, w, student, c)
        teacher, energy = shallow(theta, w, dtype), shallow(student, c, dtype)
        rtol = 1e-12 if dtype == "float64" else 2e-5
        np.testing.assert_allclose(kl_and_score(Sphere(d), teacher, samples, energy), (kl, score), rtol=rtol)


def test_the_score_error_is_ambient_on_flat_space(x64):
    theta, w, student, c, x = pair(3)
    teacher, energy = shallow(theta, w, "float64"), shallow(student, c, "float64")
    difference = oracles.energy_gradient(x, student, c) - oracles.energy_gradient(x, theta, w)
    expected = np.mean(np.sum(difference**2, axis=1))
    _, score = kl_and_score(Euclidean(3), teacher, Samples(jnp.array(x)), energy)
    np.testing.assert_allclose(score, expected, rtol=1e-12)


def test_kl_over_a_quadrature_is_exact_on_the_two_sphere(x64):
    """Against a midpoint grid in height and azimuth, on which KL is its definition: the mean of p log(p / q)."""
    theta, w, student, c, _ = pair(3)
    n = 800
    z, azimuth = np.meshgrid((2 * np.arange(n) + 1) / n - 1, (np.arange(n) + 0.5) * 2 * np.pi / n, indexing="ij")
    across = np.sqrt(1 - z**2)
    x = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z], axis=-1).reshape(-1, 3)
    p, q = (np.exp(-np.maximum(x @ t.T, 0) @ weights / len(weights)) for t, weights in ((theta, w), (student, c)))
    p, q = p / p.mean(), q / q.mean()
    teacher = shallow(theta, w, "float64")
    samples = jax.jit(exact_samples)(teacher, sphere_quadrature(Sphere(3), 200, "float64"))
    result, _ = kl_and_score(Sphere(3), teacher, samples, shallow(student, c, "float64"))
    np.testing.assert_allclose(result, np.mean(p * np.log(p / q)), rtol=2e-5)


@pytest.mark.parametrize(("strength", "other"), [(-10.0, -2.0), (3.0, -1.0), (-5.0, -5.01)])
def test_kl_of_two_strengths_of_one_neuron_in_closed_form(strength, other, x64):
    """z = <theta, x> is uniform on [-1, 1]: log Z(c) = log(1/2 + (1 - exp(-c)) / 2c); KL is its Bregman divergence."""

    def log_z(c):
        return np.log(0.5 + (1 - np.exp(-c)) / (2 * c))

    def slope(c):
        return ((np.exp(-c) * (c + 1) - 1) / (2 * c**2)) / np.exp(log_z(c))

    theta = np.array([[0.0, 0.0, 1.0]])
    teacher, student = (shallow(theta, [c], "float64") for c in (strength, other))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    z = np.concatenate([0.5 * (nodes - 1), 0.5 * (nodes + 1)])  # a rule for each side of the kink
    points = np.stack([np.sqrt(1 - z**2), 0 * z, z], axis=1)
    quadrature = Samples(jnp.array(points), jnp.array(np.log(np.tile(weights, 2))))
    result, _ = kl_and_score(Sphere(3), teacher, jax.jit(exact_samples)(teacher, quadrature), student)
    expected = log_z(other) - log_z(strength) - (other - strength) * slope(strength)
    np.testing.assert_allclose(result, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "dtype"),  # each teacher once, each sphere in each precision
    [("s2_bimodal", "float32"), ("s2_monomodal", "float64"), ("s14_bimodal", "float64"), ("s14_monomodal", "float32")],
    indirect=["dtype"],
)
def test_the_zero_energy_loses_what_the_paper_says(name, dtype):
    """Acceptance test 2: the first KL of every archived run is KL(teacher || uniform), the score E* |grad f*|^2."""
    teacher = targets.teacher(name, dtype)
    samples = jax.jit(exact_samples)(teacher.energy, teacher.quadrature(dtype, nodes=200))
    (kl, score), itself = kl_and_score(
        teacher.space, teacher.energy, samples, no_energy(teacher.space, dtype), teacher.energy
    )
    tolerance = 1e-5 if teacher.space == Sphere(3) or dtype == "float32" else 1e-11
    np.testing.assert_allclose(kl, teacher.kl_to_uniform, rtol=tolerance)
    np.testing.assert_allclose(score, teacher.squared_score, rtol=2 * tolerance)
    np.testing.assert_allclose([kl, score], PAPER[name], rtol=1e-4)
    assert np.abs(itself).max() < 1e-6


def test_the_zero_energy_on_samples_within_5_sigma():
    """exp(f*) has a small variance under the teacher of S^2; the error of KL is that of mean(exp(f* + log Z) - f*)."""
    teacher = targets.teacher("s2_bimodal")
    samples, _ = targets.sample(jax.random.key(0), teacher, 20_000)
    kl, _ = kl_and_score(teacher.space, teacher.energy, samples, no_energy(teacher.space, "float32"))
    f = np.float64(oracle_energy(samples.points, teacher.energy))
    sigma = (np.exp(f) / np.exp(f).mean() - f).std() / np.sqrt(20_000)
    assert abs(kl - teacher.kl_to_uniform) < 5 * sigma < 0.1


@pytest.mark.parametrize("distance", [0.1, 1e-2, 1e-3, 1e-4])
def test_small_divergences_keep_their_digits_in_float32(distance):
    """Against float64, in which log mean exp is a sum of expm1: KL from 1e-1 to 1e-7."""
    rng = np.random.default_rng(0)
    teacher = targets.teacher("s14_bimodal")
    samples, _ = targets.sample(jax.random.key(0), teacher, 20_000)
    theta, w = np.float64(teacher.energy.positions), np.float64(teacher.energy.coefficients)
    moved = np.float64(np.float32(theta + distance * rng.normal(size=theta.shape)))
    x = np.float64(samples.points)
    gap = (np.maximum(x @ moved.T, 0) - np.maximum(x @ theta.T, 0)) @ w / 2
    gap -= gap.mean()
    expected = np.log1p(np.mean(np.expm1(-gap) + gap))
    energy = shallow(moved, w, "float32")
    equal_weights = Samples(samples.points, np.full(20_000, 3, np.float32))
    for s in (samples, equal_weights):
        result = entropy(energy, teacher.energy, s)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, rtol=2e-5)


class Constant(Energy):
    """U(x) = slope x_1 + offset."""

    slope: jax.Array
    offset: jax.Array

    def __call__(self, x):
        return self.slope * x[:, 0] + self.offset


def test_divergences_of_large_energies_do_not_overflow():
    """Energies differ by up to 4000, and by a constant of 1e4 that no divergence sees."""
    samples, zero = Samples(np.float32([[-1, 0], [1, 0], [1, 0], [1, 0]])), np.zeros(4, np.float32)
    kl = entropy(Constant(jnp.array(2000, jnp.float32), jnp.array(1e4, jnp.float32)), zero, samples)
    np.testing.assert_allclose(kl, 2000 + np.log(1 / 4) + 2000 * 0.5, rtol=1e-6)
    assert np.isnan(entropy(Constant(jnp.array(np.nan, jnp.float32), jnp.array(0, jnp.float32)), zero, samples))


@pytest.mark.parametrize("size", [1e-3, 0.09, 0.11, 1.0, 30.0, 70.0])
def test_divergences_on_both_sides_of_each_formula_in_float64(size, x64):
    """Energy differences of `size` and smaller ones back: log mean exp and mean, in decimals of 50 digits."""
    x = size * np.array([1.0, -0.25, -0.3, -0.45])
    result = entropy(Constant(jnp.array(1.0), jnp.array(0.0)), np.zeros(4), Samples(np.stack([x, 0 * x], axis=1)))
    with decimal.localcontext(prec=50):
        exact = [decimal.Decimal(float(t)) for t in x]
        expected = float((sum((-t).exp() for t in exact) / 4).ln() + sum(exact) / 4)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@jax.jit
def over_particles(metric, energy, particles, data=None):
    """A metric of an energy and particles."""
    samples = lambda state: Samples(particles)  # noqa: E731
    method = SimpleNamespace(energy=lambda state, rates, data: energy, samples=samples)
    return metric(None, Iterate(method, None, None, data))


@pytest.mark.parametrize(("name", "temperature"), [("s2_monomodal", 1.0), ("s14_bimodal", 1.0), ("s14_bimodal", 0.7)])
def test_exact_samples_have_their_temperature_within_5_sigma(name, temperature):
    """exp(-U / T) is the teacher of the weights w / T. T errs as the mean of U does, over dE/dT = Var(U) / T^2."""
    teacher = targets.teacher(name)
    theta, w = np.asarray(teacher.energy.positions), np.asarray(teacher.energy.coefficients)
    heated = targets.planted(theta, w / temperature)
    samples, _ = targets.sample(jax.random.key(2), heated, 20_000)
    result = over_particles(EffectiveTemperature(teacher.quadrature()), teacher.energy, samples.points)
    sigma = temperature**2 / np.std(oracle_energy(samples.points, teacher.energy)) / np.sqrt(20_000)
    assert abs(result - temperature) < 5 * sigma < 0.15


def test_total_variation_and_acceptance():
    atoms = Atoms(jnp.array(np.eye(3)), jnp.array([np.log(2.0), -np.inf, np.log(7.0)]), jnp.array([1.0, -1.0, -1.0]))

    @jax.jit
    def found(atoms):
        points = atoms.positions
        energies = from_atoms(ReLU(), atoms), Embedding(RBF(), points, jnp.ones(3))
        return [metrics.TotalVariation()(None, Iterate(METHOD, energy, None, Samples(points))) for energy in energies]

    of_neurons, of_a_kernel = found(atoms)
    np.testing.assert_allclose(of_neurons, 3, rtol=1e-6)
    assert np.isnan(of_a_kernel)
    assert metrics.Acceptance()(None, Iterate(METHOD, None, None, Samples(jnp.eye(2)), Info(jnp.array(0.25)))) == 0.25


def test_the_standard_monitors_are_those_of_the_paper():
    theta, w, *_, x = pair(3)
    teacher, samples = shallow(theta, w, "float32"), Samples(jnp.array(x, jnp.float32))
    kinds = {name: type(m) for name, m in eqx.filter_jit(metrics.standard)(Sphere(3), teacher, samples).items()}
    assert kinds == {
        "kl": KLDivergence, "score": ScoreError,
        "total_variation": metrics.TotalVariation, "acceptance": metrics.Acceptance,
    }  # fmt: skip


def test_exact_samples_of_points_with_equal_weights():
    nodes = jax.jit(exact_samples)(shallow([[1.0, 0.0]], [-2.0], "float32"), Samples(np.eye(2, dtype=np.float32)))
    assert nodes.log_weights.tolist() == [2, 0]


def test_energy_gap_is_the_slope_of_the_likelihood(x64):
    """d/dt of the mean negative log-likelihood of exp(-(1 + t) U), where the particles are the model's own measure."""
    rng = np.random.default_rng(0)
    data, quadrature = Samples(rows(rng, 50), np.linspace(-1, 1, 50)), sphere_quadrature(Sphere(3), 60, "float64")
    energy = shallow(rows(rng, 4), [-9.0, -6.0, 3.0, -4.0], "float64")
    at_nodes = oracle_energy(quadrature.points, energy)
    p = np.exp(np.asarray(quadrature.log_weights) - at_nodes)
    index = rng.choice(len(p), 200_000, p=p / p.sum())

    @jax.jit
    @jax.grad
    def slope(t):
        fit = jnp.sum(jax.nn.softmax(data.log_weights) * energy(jnp.asarray(data.points)))
        return (1 + t) * fit + log_partition(energy, quadrature, 1 / (1 + t))

    gap = over_particles(metrics.EnergyGap(data), energy, np.asarray(quadrature.points)[index], data)
    sigma = np.std(at_nodes[index]) / np.sqrt(200_000)
    assert abs(float(gap) - float(slope(0.0))) < 5 * sigma and abs(float(gap)) > 50 * sigma


def test_cross_entropy_is_that_of_the_model(x64):
    """By quadrature the KL of the model to the teacher less that of the uniform measure; by annealing the same, within its error."""
    teacher, rng = targets.teacher("s2_bimodal", "float64"), np.random.default_rng(0)
    nodes, energy = teacher.quadrature(), shallow(rows(rng, 6), np.resize([1.0, -1.0], 6), "float64")

    @jax.jit
    def found(energy):
        exact, key = metrics.exact_samples(teacher.energy, nodes), jax.random.key(1)
        kinds = KLDivergence(teacher.energy, exact), *(metrics.CrossEntropy(exact, teacher.space, q) for q in (nodes, None))
        return [metric(key, Iterate(METHOD, energy, None, None)) for metric in kinds]

    kl, (value, none), (sampled, error) = (np.asarray(a) for a in found(energy))
    assert none == 0 and value == pytest.approx(kl - 0.632529, abs=1e-5)
    assert abs(sampled - value) < 5 * error < 0.1


def test_the_cross_entropy_by_points_of_the_base_measure(x64):
    """0 of the zero energy; of another within 5 of its errors of the quadrature's; with a key the same whatever the record's."""
    teacher = targets.teacher("s2_bimodal", float)
    points, nodes = targets.sample(jax.random.key(0), teacher, 500)[0], teacher.quadrature(float)

    @eqx.filter_jit
    def by(energy, seed, **options):
        return metrics.CrossEntropy(points, teacher.space, **options)(jax.random.key(seed), Iterate(METHOD, energy, None, None))

    zero, few = shallow(teacher.energy.positions, [0.0, 0.0], "float64"), dict(draws=1000)
    np.testing.assert_array_equal(by(zero, 1, **few), 0)
    (exact, _), (value, error) = (np.asarray(by(teacher.energy, 1, **m)) for m in (dict(quadrature=nodes), dict(draws=20_000)))
    assert 1e-3 < error < 0.02 and abs(value - exact) < 5 * error
    key = jax.random.key(9)
    fixed, fresh = ([np.asarray(by(teacher.energy, i, **few, **more))[0] for i in (1, 2)] for more in (dict(key=key), {}))
    assert fixed[0] == fixed[1] and fresh[0] != fresh[1]
    with pytest.raises(ValueError, match="draws is 10 and a quadrature is given"):
        metrics.CrossEntropy(points, teacher.space, nodes, draws=10)


@pytest.mark.heavy
def test_stein_discrepancies_as_metrics(x64):
    teacher = targets.teacher("s2_bimodal", float)
    points = targets.sample(jax.random.key(0), teacher, 300)[0]

    @jax.jit
    def found(kinds, points):
        key, scores = jax.random.key(1), stein.score(teacher.energy, teacher.space, points.points)
        by_kernel = stein.kernelised(RBF(), teacher.space, points, scores)[0]
        expected = by_kernel, stein_critics.by_critics(key, teacher.space, points, scores, 4, 5)
        return [metric(key, Iterate(METHOD, teacher.energy, None, None)) for metric in kinds], expected

    kinds = metrics.SteinDiscrepancy(points, teacher.space), metrics.NetworkSteinDiscrepancy(points, teacher.space, width=4, steps=5)
    np.testing.assert_allclose(*found(kinds, points), rtol=1e-9)
    few = np.asarray(points.points)
    for make, message in (
        (lambda: metrics.SteinDiscrepancy(Samples(few[:1]), teacher.space), "samples has 1 point"),
        (lambda: metrics.SteinDiscrepancy(points, Torus(3)), "space is Torus"),
        (lambda: metrics.SteinDiscrepancy(points, teacher.space, None), "kernel is None"),
        (lambda: metrics.NetworkSteinDiscrepancy(points, teacher.space, width=0), "width is 0"),
        (lambda: metrics.CrossEntropy(Samples(few[:0]), teacher.space), "samples is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
