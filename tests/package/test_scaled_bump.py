"""Bumps with a learnt concentration: closed forms against `jax.grad`, blocks, their parameter space, starts at the data, the methods."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import duality_gap
from dualebm._internal import platforms
from dualebm.base_measures import Flat
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Bump, ReLU, ScaledBump, Softplus
from dualebm.flows import wfr
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Atoms, Samples
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.dual import Dual
from dualebm.methods.lazy import Lazy
from dualebm.methods.likelihood import WeightedLikelihood
from dualebm.methods.score_matching import ScoreMatching, loss
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.parameters import ScaledCentres
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import start, step
from tests.cases import heavy, in_turns

SPACES = [Euclidean(2), Euclidean(17), Sphere(3), Torus(2, period=1.5)]
every_space = pytest.mark.parametrize("space", SPACES, ids=str)


@functools.partial(jax.jit, static_argnames=("space", "count", "dtype"))
def points_of(space, count, seed, dtype="float32"):
    return space.sample_base(jax.random.key(seed), count, dtype)


def population(space, dtype="float32", count=5):
    """A feature, positions (count, p), coefficients (count,), and weighted points (700, d)."""
    feature = ScaledBump(space, 0.5, 8.0)
    data = Samples(points_of(space, 700, 0, dtype), jnp.linspace(-1, 1, 700, dtype=dtype))
    theta = jax.jit(feature.draw, static_argnums=(1, 2))(jax.random.key(1), space, count, Samples(points_of(space, 40, 2, dtype)))
    return feature, theta, jnp.linspace(-2, 3, count, dtype=dtype), data


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=str)
def test_closed_forms_equal_jax_grad(space, dtype):
    """Of the energy in x and of the weighted mean in theta, in both precisions. The derivative is of the matrix phi."""
    feature, theta, c, data = population(space, dtype)

    def both():
        energy = Shallow(feature, theta, c)
        u = lambda x: jnp.sum(jnp.matmul(feature(x, theta), c / c.size, precision="highest"))  # noqa: E731
        mean = lambda t: jnp.matmul(data.weights, feature(data.points, t), precision="highest")  # noqa: E731
        located = energy.locate(data.points.T)
        closed = (*energy.value_and_gradient(data.points), *feature_mean(feature, theta, data), energy(data.points), located.products)
        value, slope = mean(theta), jax.grad(lambda t: jnp.sum(mean(t)))(theta)
        alone = jnp.matmul(feature(data.points, theta), c / c.size, precision="highest")
        return closed, (alone, jax.grad(u)(data.points), value, slope, alone, jnp.log(feature(data.points, theta)).T)

    tolerance = {"float32": 2e-5, "float64": 1e-13}[dtype]
    for closed, expected in zip(*jax.jit(both)(), strict=True):
        assert closed.dtype == dtype and closed.shape == expected.shape
        far = np.asarray(expected) < -80  # where phi underflows in float32, its logarithm is -inf
        np.testing.assert_allclose(np.where(far, 0, closed), np.where(far, 0, expected), atol=tolerance * max(1, space.dimension))


@pytest.mark.parametrize("space", [heavy(Euclidean(2)), heavy(Euclidean(17)), Sphere(3), heavy(Torus(2, period=1.5))], ids=str)
def test_blocks_change_only_rounding(space, monkeypatch, x64):
    """Blocks of 256 columns and one block give the same energies and sums."""
    feature, theta, c, data = population(space, "float64")
    whole, in_blocks = [], []
    for results, elements in ((whole, 10**9), (in_blocks, 1)):
        monkeypatch.setitem(platforms.CHOICES, "cpu", platforms.CPU._replace(block_elements=elements))
        jax.clear_caches()
        energy = Shallow(feature, theta, c)
        results += jax.jit(lambda energy=energy: (*energy.value_and_gradient(data.points), *feature_mean(feature, theta, data)))()
        assert energy.width == (256 if elements == 1 else elements // (256 * 5) * 256)
    for one, other in zip(whole, in_blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


# -- The parameter space --------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=str)
def test_a_neuron_moves_in_both_factors_and_stays_between_the_bounds(space, dtype):
    parameters, unit = ScaledCentres(space, 0.5, 8.0), space.unit
    assert parameters.dimension == space.dimension + 1
    centres, move = points_of(space, 4, 0, dtype), 0.1 * jnp.ones((4, space.dimension), dtype)
    last = unit * jnp.log(jnp.array([[1.0], [7.0], [0.6], [4.0]], dtype))
    along = unit * jnp.array([[0.5], [1.0], [-1.0], [0.0]], dtype)
    theta, v = jnp.concatenate([centres, last], 1), jnp.concatenate([move, along], 1)
    moved, transposed, tangent, expected, flat = jax.jit(
        lambda: (parameters.retract(theta, v), parameters.retract(theta.T, v.T, 0), parameters.tangent(theta, v),
                 space.retract(centres, move), space.tangent(centres, move))
    )()  # fmt: skip
    np.testing.assert_allclose(moved[:, :-1], expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(moved[:, -1] / unit), [math.exp(0.5), 8.0, 0.5, 4.0], rtol=1e-5)
    np.testing.assert_allclose(transposed.T, moved, atol=1e-6)
    np.testing.assert_allclose(tangent, np.concatenate([flat, along], 1), rtol=1e-6)


def test_an_atom_of_either_sign_widens_or_narrows_along_the_witness():
    """d/dt theta = sigma grad F, in log k too: opposite signs move by opposite steps."""
    parameters = ScaledCentres(Euclidean(1), 0.1, 10.0)
    atoms = Atoms(jnp.zeros((2, 2)), jnp.zeros(2), jnp.array([1.0, -1.0]))
    moved = wfr.transport(atoms, jnp.array([[1.0, 2.0], [1.0, 2.0]]), 0.5, parameters)
    assert moved.positions.tolist() == [[0.5, 1.0], [-0.5, -1.0]]


def test_draws_of_the_base_measure_fill_the_interval_evenly():
    parameters = ScaledCentres(Torus(2, period=3.0), 2.0, 50.0)
    theta = np.asarray(parameters.sample_base(jax.random.key(0), 20_000, "float32"))
    share = (theta[:, -1] / Torus(2, 3.0).unit - math.log(2)) / math.log(25)
    assert theta.shape == (20_000, 3) and share.min() >= -1e-6 and share.max() <= 1 + 1e-6
    assert share.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 20_000)) and theta[:, :2].max() < 3
    with pytest.raises(ValueError, match="flat measure cannot be sampled"):
        ScaledCentres(Euclidean(2, Flat()), 1.0, 2.0).sample_base(jax.random.key(0), 3)


@pytest.mark.parametrize(("smallest", "largest"), [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_bad_bounds(smallest, largest):
    with pytest.raises(ValueError, match="they must be 0 < smallest <= largest"):
        ScaledCentres(Sphere(3), smallest, largest)
    with pytest.raises(ValueError, match=r"smallest_concentration is|largest_concentration is"):
        ScaledBump(Sphere(3), smallest, largest)


def test_the_space_of_the_feature_is_that_of_the_data():
    with pytest.raises(ValueError, match=r"space is Torus.*this feature was built for Sphere"):
        Dual(Torus(2), ScaledBump(Sphere(3))).check(Dual(Torus(2)).rates, Samples(jnp.zeros((4, 2))))


# -- Starts -----------------------------------------------------------------------------------------------


@every_space
def test_centres_start_at_data_points_by_their_weights(space):
    points = points_of(space, 3, 0)
    data = Samples(points, jnp.log(jnp.array([0.5, 0.5, 0.0])))
    theta = ScaledBump(space).draw(jax.random.key(0), space, 4000, data)
    which = np.argmin(np.abs(np.asarray(theta)[:, None, :-1] - np.asarray(points)[None]).sum(axis=2), axis=1)
    np.testing.assert_array_equal(theta[:, :-1], points[which])
    np.testing.assert_allclose(np.bincount(which, minlength=3) / 4000, [0.5, 0.5, 0], atol=5 * 0.5 / math.sqrt(4000))
    k = np.exp(theta[:, -1] / space.unit)
    assert 1 - 1e-5 <= k.min() < 1.1 and 90 < k.max() <= 100 * (1 + 1e-5)


@pytest.mark.parametrize("feature", [ReLU(bias=True), Softplus(), Bump(Sphere(3))], ids=str)
def test_other_features_start_uniform_whatever_the_data(feature):
    """Bit for bit the draws of the base measure of their parameters, in `wfr.population` too."""
    key, space = jax.random.key(3), Sphere(3)
    expected = feature.parameter_space(space).sample_base(key, 6, "float32")
    for seed in (0, 1):
        data = Samples(points_of(space, 10, seed))
        np.testing.assert_array_equal(feature.draw(key, space, 6, data), expected)
        np.testing.assert_array_equal(wfr.population((key, key, key), feature, space, 6, "half", "one", 1.0, data).positions, expected)


# -- Methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "space"),
    in_turns([Dual, WeightedDual, WeightedLikelihood, ScoreMatching, Lazy, Adaptive], [Torus(2), Sphere(3), Euclidean(2)]),
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_method_moves_neurons_within_their_space(kind, space):
    feature, data = ScaledBump(space, 1.0, 20.0), Samples(points_of(space, 60, 0))
    few = {Lazy: dict(features=8), Adaptive: {}, WeightedDual: dict(particles=100)}.get(kind, dict(neurons=8))
    method = Adaptive(Dual(space, feature, neurons=8), warmup=3) if kind is Adaptive else kind(space, feature, **few)
    state = first = start(jax.random.key(1), method, method.rates, data)
    for i in range(2):
        state, _ = step(jax.random.key(2 + i), method, state, method.rates, data)
    before, after = (np.asarray(method.energy(s, method.rates, data).positions) for s in (first, state))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
    k = np.exp(after[:, -1] / space.unit)
    assert ((k > 1 - 1e-5) & (k < 20 * (1 + 1e-5))).all() and np.asarray(space.distance_from(jnp.asarray(after[:, :-1]))).max() < 1e-5
    for columns in (slice(0, -1), slice(-1, None)):
        moved = np.abs(after - before)[:, columns].max() > 0
        assert moved == (kind is not Lazy and (kind is not WeightedLikelihood or bool(np.any(state.neurons.charges))))


def test_score_matching_has_the_loss_of_a_gaussian(x64):
    """f = -w exp(-k x^2 / 2) at x = 0: grad f = 0 and f'' = w k, so that the loss is -w k (with the flat measure)."""
    space = Euclidean(1, Flat())
    atoms = Atoms(jnp.array([[0.0, math.log(3.0)]]), jnp.log(jnp.array([2.0])), jnp.array([-1.0]))
    value = loss(ScaledBump(space), space, atoms, Samples(jnp.zeros((1, 1))), 0.0)
    assert float(value) == pytest.approx(-6.0, abs=1e-12)


def test_the_certificate_looks_for_the_centre_and_the_concentration():
    """The model is uniform and the data lie at one point: F(c, k) = E phi - phi(x, c) is least at c = x, at the largest k, where
    E phi = (1 - exp(-2 k)) / 2 k on S^2."""
    space, feature = Sphere(3), ScaledBump(Sphere(3), 1.0, 40.0)
    north = jnp.array([[0.0, 0.0, 1.0]])
    energy = Shallow(feature, jnp.array([[1.0, 0.0, 0.0, math.log(3.0)]]), jnp.zeros(1))
    certificate = eqx.filter_jit(duality_gap.certify)(
        jax.random.key(0), energy, space, Samples(north), 2.0, quadrature=sphere_quadrature(space, 64), starts=16, polish=0
    )
    assert float(certificate.sign) == -1 and certificate.position[2] > 0.999
    assert float(jnp.exp(certificate.position[3])) == pytest.approx(40, rel=1e-3)
    assert float(certificate.gap) == pytest.approx(2 * (1 - 1 / 80), abs=1e-3)
