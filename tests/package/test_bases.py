"""Base measures with parameters: densities against SciPy, scores against JAX, draws by moments and Kolmogorov-Smirnov tests, refusals."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import hyp0f1

from dualebm._internal.finite_volume import cells
from dualebm.base_families import Normal, VonMisesFisher, log_excess
from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.base_mixtures import CustomBase, MixtureBase
from dualebm.data import targets
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.files import build, spell
from dualebm.energies.networks import MLP
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump, ReLU
from dualebm.flows.langevin import move
from dualebm.flows.noise import drawn
from dualebm.kernels import RBF, kernel_of
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.log_z.quadrature import line_quadrature, sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import Jarzynski
from dualebm.methods.likelihood import Likelihood
from dualebm.methods.mean_field import MeanField
from dualebm.methods.score_matching import ScoreMatching
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.stein import goodness_of_fit
from dualebm.training import descriptions
from dualebm.training.simulate import start
from dualebm.training.simulate import step as one_step
from tests.cases import heavy, in_turns

MEAN, COVARIANCE = (1.0, -2.0), ((2.0, 0.6), (0.6, 0.5))
NORMAL = Normal(MEAN, COVARIANCE)
LEFT, FLATTENED = Normal((-4.0, 0.0), ((0.3, -0.1), (-0.1, 1.0))), Normal((3.0, 3.0), ((1.0, 0.0), (0.0, 0.1)))
MIXTURE = MixtureBase((0.2, 0.5, 0.3), (NORMAL, LEFT, FLATTENED))
POLE = (0.6, 0.0, 0.8)
SPHERICAL = MixtureBase((0.3, 0.6, 0.1), (VonMisesFisher(POLE, 20.0), VonMisesFisher((0.0, 1.0, 0.0), 3.0), Uniform()))
LAPLACE = CustomBase(lambda x: -jnp.sum(jnp.abs(x) + math.log(2)), lambda key, n: jax.random.laplace(key, (n, 2)))


def around(dimension, concentration):
    """A von Mises-Fisher distribution on S^{d-1} around a direction that is along no axis."""
    return Sphere(dimension, VonMisesFisher(np.arange(1.0, dimension + 1), concentration))


FLAT_SPACES = [Euclidean(2, NORMAL), Euclidean(2, MIXTURE)]
ROUND_SPACES = [Sphere(3, SPHERICAL), around(2, 3.0), around(3, 1e4), around(15, 40.0)]
SPACES = [*FLAT_SPACES, *ROUND_SPACES]


def name(value):
    """The name of a case, the same in every process."""
    base = getattr(value, "base", None)
    return None if base is None else f"{type(base).__name__}-{value.dimension}-{getattr(base, 'concentration', '')}"


@functools.partial(jax.jit, static_argnames=("space", "count", "dtype"))
def sample_base(space, key, count, dtype):
    return space.sample_base(key, count, dtype)


@functools.partial(jax.jit, static_argnames=("space", "axis"))
def log_base(space, x, axis=-1):
    return space.log_base(x, axis)


@functools.partial(jax.jit, static_argnames=("space", "axis"))
def grad_log_base(space, x, axis=-1):
    return space.grad_log_base(x, axis)


@functools.partial(jax.jit, static_argnames=("space", "axis"))
def from_normal(space, z, axis=-1):
    return space.from_normal(z, axis)


annealed = eqx.filter_jit(log_partition_by_annealing)


def points_of(space, count, dtype="float64"):
    """Points in the bulk of the base measure."""
    return sample_base(space, jax.random.key(7), count, dtype)


def log_density(space, x):
    """The log density in NumPy and SciPy, float64."""
    base = space.base
    if isinstance(base, Uniform):
        return np.zeros(len(x))
    if isinstance(base, Normal):
        return stats.multivariate_normal(base.mean, base.covariance).logpdf(x)
    if isinstance(base, VonMisesFisher):
        area = math.log(2) + 0.5 * space.dimension * math.log(math.pi) - math.lgamma(0.5 * space.dimension)
        mean = np.asarray(base.mean)
        return stats.vonmises_fisher(mean / np.linalg.norm(mean), base.concentration).logpdf(x) + area
    parts = [log_density(type(space)(space.dimension, c), x) + math.log(w) for w, c in zip(base.weights, base.components, strict=True)]
    return np.logaddexp.reduce(parts)


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=name)
def test_densities_are_those_of_scipy(space, dtype):
    x = np.asarray(points_of(space, 50, dtype))
    value = np.asarray(log_base(space, x))
    x = x.astype("float64") if not space.compact else x / np.linalg.norm(x.astype("float64"), axis=1, keepdims=True)
    assert value.dtype == dtype and value.shape == (50,)
    np.testing.assert_allclose(value, log_density(space, x), rtol=0, atol=3e-4 if dtype == "float32" else 1e-8)
    columns = log_base(space, x.T.astype(dtype), axis=0)
    np.testing.assert_allclose(columns, value, rtol=0, atol=3e-4 if dtype == "float32" else 1e-8)


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=name)
def test_scores_are_the_gradients_along_the_space(space, dtype):
    x = np.asarray(points_of(space, 20, dtype))
    score = np.asarray(grad_log_base(space, x))
    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(lambda x: space.tangent(x, jax.vmap(jax.grad(space.log_base))(x)))(x.astype("float64")))
    size = np.abs(gradient).max()
    assert score.dtype == dtype
    np.testing.assert_allclose(score, gradient, rtol=0, atol=size * (1e-5 if dtype == "float32" else 1e-10))
    columns = np.asarray(grad_log_base(space, x.T, axis=0))
    np.testing.assert_allclose(columns.T, score, rtol=0, atol=size * (1e-5 if dtype == "float32" else 1e-12))
    if space.compact:
        concentration = getattr(space.base, "concentration", 20)
        np.testing.assert_allclose(np.sum(score * x, axis=1), 0, atol=concentration * (5e-7 if dtype == "float32" else 1e-15))


CONCENTRATIONS = [(2, 1e-3), (3, 1e-6), (3, 30.0), (15, 2.0), (784, 5.0), (784, 60.0), (5001, 900.0)]


@pytest.mark.parametrize(("dimension", "concentration"), CONCENTRATIONS)
def test_normalisers_also_where_bessel_functions_underflow(dimension, concentration):
    expected = math.log(hyp0f1(dimension / 2, concentration**2 / 4)) - concentration
    assert log_excess(dimension, concentration) == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_no_concentration_is_the_uniform_measure():
    space = around(3, 0.0)
    z = jax.random.normal(jax.random.key(0), (5, 3))
    assert log_excess(15, 0.0) == 0 and (space.log_base(z) == 0).all()
    uniform = from_normal(Sphere(3), z)
    np.testing.assert_allclose(from_normal(space, z), uniform, atol=1e-6)
    np.testing.assert_allclose(from_normal(around(3, 1e-4), z), uniform, atol=1e-3)


def test_the_mass_on_the_sphere_is_one():
    nodes = sphere_quadrature(Sphere(3), 60)
    for base in (SPHERICAL, VonMisesFisher(POLE, 0.5)):
        assert np.sum(np.exp(nodes.log_weights + log_base(Sphere(3, base), nodes.points))) == pytest.approx(1, abs=1e-5)


def moments(space):
    """The mean and the second moments E x_i x_j of a base measure, in closed form."""
    base = space.base
    if isinstance(base, Uniform):
        return np.zeros(space.dimension), np.eye(space.dimension) / space.dimension
    if isinstance(base, Normal):
        return np.asarray(base.mean), np.asarray(base.covariance) + np.outer(base.mean, base.mean)
    if isinstance(base, VonMisesFisher):
        from scipy.special import ive

        d, k, mean = space.dimension, base.concentration, np.asarray(base.mean)
        first, across = ive(d / 2, k) / ive(d / 2 - 1, k), ive(d / 2, k) / ive(d / 2 - 1, k) / k
        return first * mean, across * np.eye(d) + (1 - d * across) * np.outer(mean, mean)
    parts = [moments(type(space)(space.dimension, component)) for component in base.components]
    return tuple(sum(w * part[i] for w, part in zip(base.weights, parts, strict=True)) for i in range(2))


def assert_moments(space, x):
    """The means of x_i and x_i x_j within 5 standard errors, and no two points equal."""
    x = np.asarray(x, "float64")
    values = np.concatenate([x, (x[:, :, None] * x[:, None]).reshape(len(x), -1)], axis=1)
    expected = np.concatenate([part.ravel() for part in moments(space)])
    error = values.std(axis=0) / math.sqrt(len(x))
    assert (np.abs(values.mean(axis=0) - expected) <= 5 * error + 1e-7).all()
    assert len(np.unique(x, axis=0)) > 0.999 * len(x)


def distribution(base, direction):
    """The distribution function of <direction, x> under a base measure: of normal components, and of S^2 along the mean."""
    if isinstance(base, Normal):
        return stats.norm(np.dot(base.mean, direction), math.sqrt(direction @ np.asarray(base.covariance) @ direction)).cdf
    if isinstance(base, VonMisesFisher):
        k = base.concentration
        return lambda t: (np.exp(k * (t - 1)) - np.exp(-2 * k)) / -np.expm1(-2 * k)
    parts = [(weight, distribution(component, direction)) for weight, component in zip(base.weights, base.components, strict=True)]
    return lambda t: sum(weight * cdf(t) for weight, cdf in parts)


DRAWS = 20_000


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=name)
def test_samples_have_the_moments(space, dtype):
    x = sample_base(space, jax.random.key(3), DRAWS, dtype)
    assert x.shape == (DRAWS, space.dimension) and x.dtype == dtype
    assert_moments(space, x)
    if space.compact:
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "draws"),
    in_turns(
        [*FLAT_SPACES, around(3, 2.0), around(3, 1e4)],
        [(False, "float64"), (True, "float32"), (False, "float32"), (True, "float64")],
    ),
    ids=name,
)
def test_draws_follow_the_distribution_along_a_line(space, draws):
    mapped, dtype = draws
    key = jax.random.key(11)
    with jax.enable_x64(dtype == "float64"):
        z = jax.random.normal(key, (DRAWS, space.dimension), dtype)
        x = from_normal(space, z) if mapped else sample_base(space, key, DRAWS, dtype)
    assert x.dtype == dtype
    for direction in [np.asarray(space.base.mean)] if space.compact else [np.array([1.0, 0.0]), np.array([0.6, 0.8])]:
        assert stats.kstest(np.asarray(x, "float64") @ direction, distribution(space.base, direction)).pvalue > 1e-3


@pytest.mark.parametrize(("dimension", "concentration"), [heavy(2, 5.0), (15, 40.0), heavy(15, 1e4)])
def test_rejection_follows_the_distribution_along_the_mean(dimension, concentration, x64):
    space = around(dimension, concentration)
    t = np.asarray(sample_base(space, jax.random.key(2), DRAWS, "float64")) @ np.asarray(space.base.mean)
    angle = np.linspace(0, min(np.pi, 12 / math.sqrt(concentration) + 0.5), 100_001)
    density = np.sin(angle) ** (dimension - 2) * np.exp(concentration * (np.cos(angle) - 1))
    mass = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    assert stats.kstest(np.arccos(np.clip(t, -1, 1)), lambda a: np.interp(a, angle, mass / mass[-1])).pvalue > 1e-3


@pytest.mark.parametrize(
    ("space", "dtype"),
    in_turns([Euclidean(2, MIXTURE), Sphere(3, SPHERICAL), Euclidean(2, NORMAL), around(3, 1e4)]),
    indirect=["dtype"],
    ids=name,
)
def test_normal_vectors_are_mapped_to_the_law_and_antithetic_ones_too(space, dtype):
    z = np.asarray(jax.random.normal(jax.random.key(5), (DRAWS, space.dimension), dtype))
    x = np.asarray(from_normal(space, z))
    assert x.dtype == dtype and np.isfinite(x).all()
    assert_moments(space, x)
    assert_moments(space, from_normal(space, -z))
    np.testing.assert_allclose(from_normal(space, z[:6].T, axis=0).T, x[:6], atol=1e-5)
    np.testing.assert_allclose(from_normal(space, z[:6].reshape(2, 3, -1)).reshape(6, -1), x[:6], atol=1e-5)
    np.testing.assert_allclose(from_normal(space, z[0]), x[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [heavy("float32"), "float64"], indirect=True)
def test_the_map_keeps_the_position_within_a_component(dtype):
    """With equal components the map is the identity but for the order: a point of the interval goes to the quantile of its position."""
    base = MixtureBase((0.25, 0.5, 0.25), [Normal([mean], [[1.0]]) for mean in (-100.0, 0.0, 100.0)])
    u = np.array([0.01, 0.2, 0.3, 0.45, 0.55, 0.7, 0.8, 0.99, 1e-6, 1 - 1e-6])
    x = np.asarray(from_normal(Euclidean(1, base), stats.norm.ppf(u)[:, None].astype(dtype)))[:, 0]
    left = np.array([0, 0, 0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0, 0.75])
    weight = np.array([0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    expected = stats.norm.ppf((u - left) / weight) + np.array([-100, -100, 0, 0, 0, 0, 100, 100, -100, 100])
    np.testing.assert_allclose(x, expected, atol=2e-3 if dtype == "float32" else 1e-8)


@pytest.mark.parametrize("dtype", ["float32", heavy("float64")], indirect=True)
def test_extreme_normal_numbers_stay_finite(dtype):
    z = np.append([-40.0, -6, 0, 6, 40], stats.norm.ppf([0.2, 0.7])).astype(dtype)  # the last two are edges between components
    x = np.asarray(from_normal(Euclidean(2, MIXTURE), np.stack([z, 0 * z], axis=1)))
    assert np.isfinite(x).all() and (np.abs(x[5:]) < 20).all()


def zero(dimension):
    return Shallow(ReLU(), jnp.eye(dimension), jnp.zeros(dimension))


@pytest.mark.parametrize(
    ("space", "integrator"),
    [
        *in_turns([Sphere(3, SPHERICAL), Euclidean(2, MIXTURE)], ["mala", "independence"]),
        *(heavy(Euclidean(2, NORMAL), integrator) for integrator in ("mala", "independence")),
        heavy(around(15, 40.0), "mala"),
    ],
    ids=name,
)
def test_moves_without_an_energy_keep_the_base(space, integrator):
    x = sample_base(space, jax.random.key(0), DRAWS, "float32").T
    draw = drawn(jax.random.key(1), space.dimension, x.dtype, "independent")
    step = 0.3 / space.dimension**2 if space.compact else 0.1
    moved, acceptance, _ = jax.jit(lambda x: move(integrator, space, draw, x, zero(space.dimension), step, steps=20))(x)
    assert_moments(space, moved.T)
    assert float(acceptance) == 1 if integrator == "independence" else 0.5 < float(acceptance) < 1


@pytest.mark.parametrize("integrator", ["geodesic", heavy("projected")])
def test_unadjusted_moves_relax_to_the_base(integrator):
    """From one point, within the error O(h) of the moves."""
    space = around(3, 10.0)
    x = jnp.tile(jnp.array([[0.0], [0.0], [1.0]]), DRAWS)
    draw = drawn(jax.random.key(1), 3, x.dtype, "independent")
    moved, _, _ = jax.jit(lambda x: move(integrator, space, draw, x, zero(3), 0.002, steps=200))(x)
    np.testing.assert_allclose(moved.mean(axis=1), moments(space)[0], atol=0.01)


@pytest.mark.parametrize("space", [*map(heavy, SPACES[1:]), Euclidean(2, NORMAL), Euclidean(2, LAPLACE)], ids=name)
def test_annealing_to_no_energy_is_exact(space):
    value, error, size = annealed(jax.random.key(0), zero(space.dimension), space, 50, temperatures=3)
    assert (float(value), float(error), float(size)) == (0, 0, 50)


def tilted(slope):
    """U(x) = -<slope, x>, as two ReLUs."""
    slope = jnp.asarray(slope)
    return Shallow(ReLU(), jnp.stack([slope, -slope]), jnp.array([-2.0, 2.0]))


@pytest.mark.parametrize("space", [heavy(Euclidean(2, NORMAL)), Euclidean(2, MIXTURE)], ids=name)
def test_annealing_to_a_shifted_normal_distribution(space):
    """log E exp(<a, x>) = <a, m> + a^T C a / 2 for each component."""
    slope = np.array([0.5, -0.8])
    base = space.base if isinstance(space.base, MixtureBase) else MixtureBase((1.0,), (space.base,))
    parts = [slope @ np.asarray(c.mean) + 0.5 * slope @ np.asarray(c.covariance) @ slope for c in base.components]
    value, error, _ = annealed(jax.random.key(0), tilted(slope), space, 4000, temperatures=20)
    assert abs(float(value) - np.log(np.dot(base.weights, np.exp(parts)))) < 5 * float(error) < 0.2


@pytest.mark.heavy
def test_annealing_to_another_concentration():
    space = around(3, 5.0)
    value, error, _ = annealed(jax.random.key(0), tilted(4 * np.asarray(space.base.mean)), space, 4000, temperatures=20)
    assert abs(float(value) - (log_excess(3, 9.0) + 9 - log_excess(3, 5.0) - 5)) < 5 * float(error) < 0.1


@pytest.mark.heavy
def test_log_z_of_the_base_is_zero_by_quadrature_and_draws():
    for space, method in ((Sphere(3, SPHERICAL), "quadrature"), (Euclidean(2, MIXTURE), "draws")):
        x = points_of(space, 500, "float32")
        estimate = estimate_log_partition(jax.random.key(0), zero(space.dimension), space, x)
        assert estimate.method == method and estimate.value == estimate.standard_error == 0 and estimate.trusted


@pytest.mark.parametrize("space", [Euclidean(2, MIXTURE), heavy(Sphere(3, SPHERICAL))], ids=name)
def test_stein_discrepancies_see_the_base(space):
    """Draws of the base have a small discrepancy to exp(-0) times the base, and draws of another base a large one."""
    other = type(space)(space.dimension)
    samples = [points_of(drawn_from, 300, "float32") for drawn_from in (space, other)]
    right, wrong = (goodness_of_fit(jax.random.key(0), RBF(), space, zero(space.dimension), x).p_value for x in samples)
    assert right > 0.01 > wrong


# -- By value ------------------------------------------------------------------------------------------------


def test_measures_compare_hash_and_spell_by_value():
    for space in SPACES:
        again = build(spell(space))
        assert again == space and hash(again) == hash(space)
        assert descriptions.describe(again) == descriptions.describe(space)
    assert Normal(np.array(MEAN), np.array(COVARIANCE)) == NORMAL != Normal(MEAN, ((2.0, 0.6), (0.6, 0.51)))
    assert VonMisesFisher((0.0, 2.0), 3) == VonMisesFisher((0.0, 1.0), 3.0) != VonMisesFisher((0.0, 1.0), 4.0)
    pair = (NORMAL, Gaussian())
    assert MixtureBase((1, 3), pair) == MixtureBase((0.25, 0.75), pair) != MixtureBase((1, 1), pair)
    assert len(repr(Euclidean(40, Normal(np.zeros(40), np.eye(40))))) < 100


def test_the_fingerprint_of_a_run_sees_every_number_of_its_base():
    from dualebm.methods.adaptive import Adaptive
    from dualebm.methods.audited import Audited

    def described(corner):
        base = MixtureBase((1.0,), (Normal(MEAN, ((2.0, 0.6), (0.6, corner))),))
        return descriptions.describe({"run": {"method": Audited(Adaptive(Dual(Euclidean(2, base))))}})

    assert described(0.5) == described(0.5) != described(0.5000001)


def test_no_code_is_written_to_files():
    with pytest.raises(ValueError, match="base is a CustomBase, whose functions are code"):
        spell(Euclidean(2, LAPLACE))
    with pytest.raises(ValueError, match="base is a CustomBase"):
        spell(Euclidean(2, MixtureBase((0.5, 0.5), (LAPLACE, NORMAL))))


# -- The functions of a user ---------------------------------------------------------------------------------


def test_functions_of_a_user_make_a_base():
    space = Euclidean(2, LAPLACE)
    x = jnp.array([[3.0, -1.0], [0.5, 2.0], [-1.0, -1.0]])
    np.testing.assert_allclose(space.log_base(x), stats.laplace.logpdf(np.asarray(x)).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(space.log_base(x.T, axis=0), space.log_base(x))
    np.testing.assert_allclose(space.grad_log_base(x.T, axis=0), -np.sign(x.T))
    assert stats.kstest(np.asarray(space.sample_base(jax.random.key(0), DRAWS, "float32"))[:, 0], stats.laplace.cdf).pvalue > 1e-3
    assert space == Euclidean(2, LAPLACE) and hash(space) == hash(Euclidean(2, LAPLACE))
    sphere = Sphere(3, CustomBase(lambda x: 5 * x[0] - log_excess(3, 5.0) - 5, lambda key, n: around(3, 5.0).sample_base(key, n)))
    x, expected = points_of(Sphere(3), 10, "float32"), Sphere(3, VonMisesFisher((1.0, 0.0, 0.0), 5.0))
    np.testing.assert_allclose(sphere.log_base(x), expected.log_base(x), atol=1e-5)
    np.testing.assert_allclose(sphere.grad_log_base(x), expected.grad_log_base(x), atol=1e-5)


def test_functions_of_a_user_that_are_refused():
    density = lambda x: jnp.sum(x)  # noqa: E731
    for arguments, message in (
        ((density, None), "sampler is None; it must be a function"),
        ((None, density), "log_density_at is None; it must be a function"),
        ((Unhashable(), density), "log_density_at is not hashable; wrap it in a function"),
    ):
        with pytest.raises(ValueError, match=message):
            CustomBase(*arguments)
    wrong = Euclidean(2, CustomBase(lambda x: x, lambda key, n: jnp.zeros((n, 3))))
    with pytest.raises(ValueError, match=r"sampler returns the shape \(4, 3\) for 4 points; it must be \(4, 2\)"):
        wrong.sample_base(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"log_density_at returns the shape \(2,\) for one point; it must be a scalar"):
        wrong.log_base(jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="its sampler takes a key"):
        Euclidean(2, LAPLACE).from_normal(jnp.zeros((1, 2)))


def test_data_of_no_density_are_refused():
    """A density on the unit square, alone, and beside a component that is positive everywhere."""
    square = CustomBase(lambda x: jnp.where(jnp.all((x >= 0) & (x <= 1)), 0, -jnp.inf), lambda key, n: jax.random.uniform(key, (n, 2)))
    inside, outside = Samples(jnp.array([[0.5, 0.5], [0.1, 0.9]])), Samples(jnp.array([[0.5, 0.5], [0.1, 1.5]]))
    method = Dual(Euclidean(2, square))
    method.check(method.rates, inside)
    with pytest.raises(ValueError, match=r"data.points has rows at which the density of the base is 0 or not finite \(row 1 is"):
        method.check(method.rates, outside)
    method = Dual(Euclidean(2, MixtureBase((0.5, 0.5), (square, NORMAL))))
    method.check(method.rates, outside)


class Unhashable:
    __hash__ = None

    def __call__(self, x):
        return x


# -- Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal([[0.0]], [[1.0]]), "mean is .*; it must be a vector of finite numbers"),
        (lambda: Normal([0.0, 0.0], [[1.0]]), r"covariance has shape \(1, 1\); it must be \(2, 2\)"),
        (lambda: Normal([0.0], [[math.nan]]), "covariance has shape .* finite numbers"),
        (lambda: Normal([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "covariance is not symmetric"),
        (lambda: Normal([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), "covariance is not positive definite"),
        (lambda: Normal([0.0, 0.0], [[-1.0, 0.0], [0.0, 1.0]]), "covariance is not positive definite"),
        (lambda: Normal([0.0, 0.0], [[0.0, 0.0], [0.0, 1.0]]), "covariance is not positive definite"),
        (lambda: VonMisesFisher([0.0, 0.0], 1.0), "mean is .*; it must have a direction"),
        (lambda: VonMisesFisher([1.0, 0.0], -1.0), "concentration is -1.0; it must be a finite number of at least 0"),
        (lambda: VonMisesFisher([1.0, 0.0], math.inf), "concentration is inf"),
        (lambda: MixtureBase((1.0, 0.0), (NORMAL, NORMAL)), "weights must be positive"),
        (lambda: MixtureBase((1.0,), (NORMAL, NORMAL)), "components has 2 measures; weights has 1"),
        (lambda: MixtureBase((1.0,), (Flat(),)), r"components holds Flat\(\)"),
        (lambda: Euclidean(3, NORMAL), r"base is Normal\(dimension 2\) and the space a Euclidean of dimension 3"),
        (lambda: Sphere(2, NORMAL), r"base is Normal\(dimension 2\) and the space a Sphere"),
        (lambda: Euclidean(3, SPHERICAL), "base is MixtureBase"),
        (lambda: Sphere(15, SPHERICAL), "base is MixtureBase"),
        (lambda: Torus(3, base=VonMisesFisher(POLE, 1.0)), "base is VonMisesFisher.* and the space a Torus"),
        (lambda: around(15, 1.0).from_normal(jnp.zeros((1, 15))), "mapped to von Mises-Fisher draws on S.2 only"),
    ],
)
def test_bad_measures(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: line_quadrature(Euclidean(1, Normal([0.0], [[1.0]])), 8), r"Euclidean\(1\) with a base Gaussian\(scale\)"),
        (lambda: line_quadrature(Torus(1, base=LAPLACE), 8), r"Torus\(1\) with the base Uniform\(\)"),
        (lambda: sphere_quadrature(Sphere(3, SPHERICAL), 8), r"allowed: Sphere\(2\), Sphere\(3\)"),
        (lambda: cells(Sphere(3, SPHERICAL), 100), r"the base Uniform\(\), which is the only one allowed"),
        (lambda: cells(around(2, 1.0), 100), r"the base Uniform\(\), which is the only one allowed"),
        (lambda: MeanField(around(2, 1.0)), r"the base Uniform\(\), which is the only one allowed"),
        (lambda: kernel_of(Bump(around(2, 1.0)), around(2, 1.0)), r"a torus or a circle with the base Uniform\(\)"),
        (lambda: Boltzmann()(jax.random.key(0), Euclidean(2, NORMAL), jnp.float32), r"needs Euclidean\(2, Gaussian\(s\)\)"),
        (lambda: targets.Target(Sphere(3, SPHERICAL), zero(3)), r"it must be a Sphere with the base Uniform\(\)"),
        (lambda: Likelihood(around(15, 1.0), sampler="independence"), "sampler is 'independence' .* no map of normal vectors"),
        (lambda: Contrastive(around(15, 1.0), MLP(4), restart_at="base", restart_every=1), "restart_at is 'base' .* no map of normal"),
        (lambda: Jarzynski(around(15, 1.0), MLP(4), integrator="independence"), "integrator is 'independence' .* no map of normal vectors"),
    ],
)
def test_what_holds_for_other_bases_only_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("space", "kind"),
    in_turns([Euclidean(2, MIXTURE), Sphere(3, SPHERICAL), Euclidean(2, LAPLACE)], [Likelihood, Dual, ScoreMatching]),
    ids=name,
)
def test_methods_take_a_step_on_any_base(kind, space):
    method = kind(space)
    data = Samples(points_of(space, 64, "float32"))
    state = start(jax.random.key(0), method, method.rates, data)
    state, _ = one_step(jax.random.key(1), method, state, method.rates, data)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
