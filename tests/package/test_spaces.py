"""Spaces: geometry against NumPy loops, finite differences and measured orders; base measures against exact moments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.energies.networks import MLP
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump
from dualebm.flows.langevin import move
from dualebm.flows.noise import drawn
from dualebm.kernels import RBF
from dualebm.log_z.annealing import anneal
from dualebm.measures import Samples
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.audited import Audited
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import Jarzynski
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.methods.tracked import Tracked
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.relaxation import relaxation
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import start
from dualebm.training.simulate import step as one_step
from tests import oracles

SPHERES = [Sphere(2), Sphere(3), Sphere(15)]
FLAT = [Euclidean(4, Gaussian(2.5)), Euclidean(3, Flat()), Torus(3, period=2.5)]
SPACES = SPHERES + FLAT
# Each space in one precision, and each kind of space in both: dimensions and scales do not meet the precision in the code.
CASES = [
    (Sphere(2), "float32"), (Sphere(3), "float64"), (Sphere(15), "float32"), (Euclidean(4, Gaussian(2.5)), "float64"),
    (Euclidean(3, Flat()), "float32"), (Torus(3, period=2.5), "float32"), (Torus(3, period=2.5), "float64"),
]  # fmt: skip


def of_kind(*kinds):
    """The cases of these kinds of spaces."""
    cases = [case for case in CASES if isinstance(case[0], kinds)]
    return pytest.mark.parametrize(("space", "dtype"), cases, indirect=["dtype"], ids=str)


everywhere, on_spheres, where_flat = of_kind(Sphere, Euclidean, Torus), of_kind(Sphere), of_kind(Euclidean, Torus)


def draw(space, count, seed):
    """Points of a space and ambient vectors of length about 1, float64."""
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, count, space.dimension))
    if isinstance(space, Sphere):
        x = oracles.normalise(x)
    if isinstance(space, Torus):
        x = space.period * rng.uniform(size=x.shape)
    return x, v


def tangent(space, x, v):
    return oracles.tangent(x, v) if isinstance(space, Sphere) else v


def unit_velocity(space, x, v):
    """Tangent vectors of length 1, where length is what `longest_move` bounds: the largest component on the torus."""
    v = tangent(space, x, v)
    order = np.inf if isinstance(space, Torus) else 2
    return v / np.linalg.norm(v, order, axis=1, keepdims=True)


def exponential(space, x, v):
    """The exponential map in NumPy float64."""
    if isinstance(space, Sphere):
        return oracles.sphere_exp(x, v)
    return x + v - space.period * np.floor((x + v) / space.period) if isinstance(space, Torus) else x + v


def on_device(function, *arrays):
    """The results, NumPy arrays, of a compiled function of NumPy arrays."""
    return jax.device_get(jax.jit(function)(*map(jnp.asarray, arrays)))


@everywhere
def test_tangent_is_the_orthogonal_projection(space, dtype):
    x, v = draw(space, 20, 0)
    eps = np.finfo(dtype).eps
    projected, twice = on_device(
        lambda x, v: (space.tangent(x, v), space.tangent(x, space.tangent(x, v))), x.astype(dtype), v.astype(dtype)
    )
    d = space.dimension
    matrices = [np.eye(d) - np.outer(p, p) if isinstance(space, Sphere) else np.eye(d) for p in x]
    np.testing.assert_allclose(projected, [m @ w for m, w in zip(matrices, v, strict=True)], atol=20 * eps)
    np.testing.assert_allclose(twice, projected, atol=20 * eps)
    assert projected.dtype == dtype


@everywhere
def test_log_between_any_two_points_is_the_shortest_velocity(space, dtype):
    x, y = (draw(space, 50, seed)[0] for seed in (2, 3))
    eps = np.finfo(dtype).eps
    v = on_device(space.log, x.astype(dtype), y.astype(dtype))
    if isinstance(space, Sphere):
        expected = oracles.sphere_log(x, y)
    elif isinstance(space, Torus):
        turns = space.period * np.arange(-1, 2)[:, None, None]
        choices = (y - x)[None] + turns
        expected = np.take_along_axis(choices, np.abs(choices).argmin(0)[None], 0)[0]
    else:
        expected = y - x
    np.testing.assert_allclose(v, expected, atol=1e3 * eps)


@pytest.mark.parametrize(
    ("space", "longest"), [(Sphere(3), np.pi), (Torus(3, period=2.5), 1.25), (Euclidean(3), np.inf)], ids=str
)
def test_moves_beyond_the_longest_are_flagged_and_not_undone(space, longest, dtype):
    assert space.longest_move == longest
    x, v = draw(space, 20, 4)
    scale = np.array([0.99, 1.01, 1.5])[:, None, None] * (longest if math.isfinite(longest) else 1e6)
    v = (scale * unit_velocity(space, x, v)).astype(dtype)
    x = np.broadcast_to(x, v.shape).astype(dtype)
    back, flagged = on_device(lambda x, v: (space.log(x, space.exp(x, v)), space.too_long(v)), x, v)
    undone = np.abs(back - v).max(-1) < 1e-3 if math.isfinite(longest) else np.ones((3, 20), bool)
    np.testing.assert_array_equal(flagged, ~undone)
    np.testing.assert_array_equal(~undone, np.full((3, 20), math.isfinite(longest)) & (np.arange(3) > 0)[:, None])


def test_the_torus_measures_the_longest_move_by_component():
    v = np.array([[0.4, 0.4, 0.4], [0.1, -0.5, 0.0], [0.1, 0.6, 0.0]], "float32")  # the first is longer than 0.5 as a whole
    assert on_device(lambda v: Torus(3).too_long(v), v).tolist() == [False, True, True]


@everywhere
def test_exp_and_retract_keep_points_in_the_space(space, dtype):
    """1000 moves in turn, with velocities beyond the longest: rounding must not add up."""
    x, _ = draw(space, 8, 5)
    moves = np.random.default_rng(0).normal(size=(1000, 8, space.dimension)).astype(dtype)

    def body(points, v):
        moved, retracted = points
        points = space.exp(moved, space.tangent(moved, v)), space.retract(retracted, 0.1 * v)
        return points, [space.distance_from(x) for x in points]

    points, distances = on_device(lambda x, moves: jax.lax.scan(body, (x, x), moves), x.astype(dtype), moves)
    assert np.max(distances) <= 3 * np.finfo(dtype).eps
    if isinstance(space, Torus):
        assert np.min(points) >= 0 and np.max(points) < space.period


def test_the_torus_is_half_open_under_rounding(dtype):
    """0 - tiny is the period itself after rounding: it must come out as 0."""
    periods = (1.0, 0.3, 7.7)
    tiny = np.array([[1e-30], [1e-12], [1e-9]], dtype)
    for period, y in zip(periods, on_device(lambda v: [Torus(1, p).exp(jnp.zeros_like(v), -v) for p in periods], tiny), strict=True):
        assert ((y >= 0) & (y < np.asarray(period, dtype))).all()


@pytest.mark.parametrize("space", SPHERES, ids=str)
def test_retract_agrees_with_exp_to_second_order(space, x64):
    """|retract - exp| = |v|^3 / 3 + O(|v|^5): the arctangent; order and constant are measured."""
    x, v = draw(space, 10, 6)
    v = unit_velocity(space, x, v)
    steps = np.array([0.08, 0.04, 0.02, 0.01])
    moves = steps[:, None, None] * v
    x = np.broadcast_to(x, moves.shape)
    errors = np.linalg.norm(on_device(lambda x, v: space.retract(x, v) - space.exp(x, v), x, moves), axis=2)
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 3, atol=0.02)
    np.testing.assert_allclose(errors[-1] / steps[-1] ** 3, 1 / 3, rtol=1e-3)


@where_flat
def test_retract_is_exp_where_the_space_is_flat(space, dtype):
    x, v = (a.astype(dtype) for a in draw(space, 10, 7))
    np.testing.assert_array_equal(on_device(space.retract, x, v), on_device(space.exp, x, v))


@on_spheres
def test_retract_of_an_ambient_vector_is_the_normalised_sum(space, dtype):
    x, v = draw(space, 10, 8)
    moved = on_device(space.retract, x.astype(dtype), v.astype(dtype))
    np.testing.assert_allclose(moved, oracles.normalise(x + v), atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("space", [Sphere(3), Torus(2, period=0.5)], ids=str)
def test_derivatives_of_exp_and_log_equal_finite_differences(space, x64):
    """In both arguments, at velocities of no length, tiny and of length 0.2; NaN is what a bare norm gives at none."""
    x, v = draw(space, 3, 9)
    v = np.array([[0.0], [1e-5], [0.2]]) * unit_velocity(space, x, v)
    y = exponential(space, x, v)
    maps = [lambda v, x: space.exp(x, v), space.exp, lambda y, x: space.log(x, y), space.log]
    arguments = [tuple(map(jnp.array, pair)) for pair in ((v, x), (x, v), (y, x), (x, y))]
    h = 1e-5
    steps = h * np.concatenate([np.eye(space.dimension), -np.eye(space.dimension)])

    def all_ways():
        for f, (at, other) in zip(maps, arguments, strict=True):
            plus, minus = jnp.split(jax.vmap(f, (0, None))(at[None] + jnp.array(steps)[:, None], other), 2)
            derivatives = [jax.vmap(jacobian(f))(at, other) for jacobian in (jax.jacfwd, jax.jacrev)]
            yield jnp.moveaxis((plus - minus) / (2 * h), 0, -1), derivatives

    for expected, derivatives in jax.jit(lambda: list(all_ways()))():
        for value in derivatives:
            np.testing.assert_allclose(value, expected, atol=1e-8)


def moments(space):
    """(statistic of the points, its exact mean under the base measure)."""
    d = space.dimension
    off = ~np.eye(d, dtype=bool)
    if isinstance(space, Torus):
        for k in (1, 2):
            yield lambda x, k=k: np.cos(2 * np.pi * k * x / space.period), 0
            yield lambda x, k=k: np.sin(2 * np.pi * k * x / space.period), 0
        yield lambda x: x, space.period / 2
        yield lambda x: x**2, space.period**2 / 3
        yield lambda x: ((x[:, None] - space.period / 2) * (x[:, :, None] - space.period / 2))[:, off], 0
        return
    variance, fourth = (1 / d, 3 / (d * (d + 2))) if isinstance(space, Sphere) else (space.base.scale**2, 3 * space.base.scale**4)
    yield lambda x: x, 0
    yield lambda x: x**2, variance
    yield lambda x: x**3, 0
    yield lambda x: x**4, fourth
    yield lambda x: (x[:, None] * x[:, :, None])[:, off], 0
    yield lambda x: x > 0, 0.5


@pytest.mark.parametrize("space", [s for s in SPACES if s != Euclidean(3, Flat())], ids=str)
def test_samples_of_the_base_measure_have_its_moments(space):
    sample = jax.jit(lambda key: space.sample_base(key, 20_000, jnp.float32))
    x = np.float64(sample(jax.random.key(0)))
    for statistic, expected in moments(space):
        values = statistic(x)
        if values.size:
            sigma = values.std(axis=0) / math.sqrt(len(values))
            assert (np.abs(values.mean(axis=0) - expected) <= 5 * sigma).all()
    if isinstance(space, Sphere):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
    if isinstance(space, Torus):
        assert x.min() >= 0 and x.max() < space.period
    assert not (np.asarray(sample(jax.random.key(1))) == x).all(axis=1).any()


@everywhere
def test_samples_follow_the_dtype(space, dtype):
    if space != Euclidean(3, Flat()):
        for arguments in ((dtype,), ()):  # without a dtype JAX's own default
            x = jax.eval_shape(lambda key, a=arguments: space.sample_base(key, 5, *a), jax.random.key(0))
            assert x.shape == (5, space.dimension) and x.dtype == dtype


def test_the_flat_measure_cannot_be_sampled():
    with pytest.raises(ValueError, match=r"base=Flat\(\)\), whose flat measure cannot be sampled"):
        Euclidean(3, Flat()).sample_base(jax.random.key(0), 5)


@everywhere
def test_grad_log_base_is_the_gradient_of_log_base(space, dtype):
    x = draw(space, 20, 10)[0].astype(dtype)
    gradient, expected, value = on_device(
        lambda x: (space.grad_log_base(x), jax.vmap(jax.grad(space.log_base))(x), space.log_base(x)), x
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert value.shape == (20,) and value.dtype == gradient.dtype == dtype


@pytest.mark.parametrize(("dimension", "scale"), [(1, 0.3), (3, 2.5)])
def test_the_gaussian_base_has_mass_one_and_its_variance(dimension, scale, x64):
    """The trapezoid rule on a box of 9 standard deviations: exact to rounding for a Gaussian."""
    axis = scale * np.linspace(-9, 9, 37)
    grid = np.stack(np.meshgrid(*[axis] * dimension), axis=-1).reshape(-1, dimension)
    mass = np.exp(on_device(Euclidean(dimension, Gaussian(scale)).log_base, grid)) * (axis[1] - axis[0]) ** dimension
    np.testing.assert_allclose([mass.sum(), mass @ grid[:, 0] ** 2], [1, scale**2], rtol=1e-7)


@pytest.mark.parametrize("space", [Sphere(3), Torus(3, period=2.5), Euclidean(3, Flat())], ids=str)
def test_densities_refer_to_the_base_measure_itself_elsewhere(space):
    assert (on_device(space.log_base, draw(space, 5, 0)[0].astype("float32")) == 0).all()


def test_distance_from_the_space():
    around, off = np.array([[0.6, 0.8], [0, 3.0], [0, 0]], "float32"), np.array([[0.0, 1.9], [-0.5, 1.0], [2.25, -0.1]], "float32")
    sphere, torus, plane = on_device(
        lambda x, y: (Sphere(2).distance_from(x), Torus(2, period=2.0).distance_from(y), Euclidean(2).distance_from(1e9 * x)), around, off
    )
    np.testing.assert_allclose(sphere, [0, 2, 1], atol=1e-6)
    np.testing.assert_allclose(torus, [0, 0.5, 0.25], atol=1e-6)
    assert plane.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("space", "smallest"), [(Sphere, 2), (Euclidean, 1), (Torus, 1)])
def test_bad_dimensions(space, smallest):
    for dimension in (smallest - 1, -3, True):
        with pytest.raises(ValueError, match=f"dimension is {dimension}; it must be an integer of at least {smallest}"):
            space(dimension)
    assert space(smallest).dimension == smallest


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_bad_scales_and_periods(value):
    with pytest.raises(ValueError, match=f"scale is {value}; it must be a positive number"):
        Gaussian(value)
    with pytest.raises(ValueError, match=f"period is {value}; it must be a positive number"):
        Torus(2, period=value)


def test_spaces_compare_and_hash_by_their_settings():
    assert Sphere(3) == Sphere(3) != Sphere(4) and Euclidean(2) != Torus(2)
    assert hash(Torus(2)) == hash(Torus(2, period=1.0))


def test_lengths_and_steps_of_the_spaces():
    """The default step is 0.6 / d in units of the space; the largest is that whose noise, sqrt(2 h d), reaches pi on the sphere."""
    assert [s.unit for s in (Sphere(3), Euclidean(3), Torus(3, period=np.pi))] == [1, 1, 0.5]
    assert [s.circumference for s in (Sphere(2), Torus(1, 3.0))] == [2 * np.pi, 3]
    assert {s.circumference for s in (Sphere(3), Euclidean(1), Torus(2))} == {None}
    steps = [s.default_particle_step for s in (Sphere(15), Euclidean(4), Torus(2, period=2.0))]
    assert steps == pytest.approx([0.6 / 15, 0.15, 0.3 / np.pi**2])
    assert math.sqrt(2 * Sphere(15).largest_particle_step * 15) == pytest.approx(math.pi)
    assert {s.largest_particle_step for s in (Euclidean(3), Torus(3))} == {math.inf}


def test_default_particle_steps_are_those_of_the_space():
    """A thousandth of 0.6 / d, which would go many times round this torus."""
    space = Torus(2, period=1.0)
    feature, network = Bump(space), MLP(4)
    step = space.default_particle_step
    assert step == pytest.approx(0.3 / (2 * np.pi) ** 2)
    made = [
        Dual(space, feature), WeightedDual(space, feature), Adaptive(Dual(space, feature)), Tracked(Dual(space, feature)),
        Audited(Dual(space, feature)), Lazy(space, feature), KernelFlow(space, RBF()), Likelihood(space),
        WeightedLikelihood(space, feature, sampler="mala"), Jarzynski(space, network), Contrastive(space, network),
    ]  # fmt: skip
    assert [method.rates.particle_step for method in made] == [step] * len(made)
    rates = Dual(space, feature).rates
    assert (rates.transport_step, rates.reaction_step) == pytest.approx((0.8 / (2 * np.pi) ** 2, 0.8))


def test_default_steps_within_functions_are_those_of_the_space():
    """Each gives what it gives with that step by name."""
    space = Torus(2, period=1.0)
    energy = Shallow(Bump(space), jnp.array([[0.2, 0.7]]), jnp.array([-3.0]))
    key, step = jax.random.key(0), space.default_particle_step
    annealed = jax.jit(lambda step: anneal(key, energy, space, 20, temperatures=3, step=step).points)
    np.testing.assert_allclose(jax.jit(lambda: anneal(key, energy, space, 20, temperatures=3).points)(), annealed(step), atol=1e-6)
    assert not np.allclose(annealed(0.3), annealed(step), atol=1e-3)

    samples = Samples(space.sample_base(key, 20, jnp.float32))
    draw = drawn(key, 2, jnp.float32, "independent")
    moved = jax.jit(lambda: jnp.mean(energy(move("mala", space, draw, samples.points.T, energy, step, steps=3)[0].T)))()
    assert float(jax.jit(lambda: relaxation(key, energy, space, samples, moves=3))().after) == pytest.approx(float(moved), rel=1e-5)


@pytest.mark.heavy
def test_the_default_step_of_walkers_is_that_of_the_space():
    space, key = Torus(2, period=1.0), jax.random.key(0)
    dual = Dual(space, Bump(space), neurons=4)
    data = Samples(space.sample_base(key, 20, jnp.float32))
    named, default = (Audited(dual, walkers=20, particle_step=h) for h in (space.default_particle_step, None))
    columns = [np.asarray(one_step(key, m, start(key, m, m.rates, data), m.rates, data)[0].columns) for m in (named, default)]
    np.testing.assert_allclose(*columns, atol=1e-6)


CURVED = [Sphere(2), Sphere(4), Euclidean(3), Torus(3, period=2.5)]


@pytest.mark.parametrize("space", CURVED, ids=str)
def test_laplacians_are_traces_of_second_derivatives_along_geodesics(space, x64):
    """Of a ridge function and of a general one, at points and in an orthonormal frame; and the gradient of a linear function."""
    rng = np.random.default_rng(11)
    x, _ = draw(space, 3, 12)
    a, matrix = rng.normal(size=space.dimension), rng.normal(size=(space.dimension, space.dimension))
    frames = [np.linalg.svd(np.eye(space.dimension) - np.outer(p, p) * isinstance(space, Sphere)) for p in x]
    rank = space.dimension - isinstance(space, Sphere)
    frames = jnp.array([rows[:rank] for _, _, rows in frames])
    general = lambda x: jnp.cos(x @ matrix @ x) + jnp.sin(x @ a)  # noqa: E731

    def along(f, x, frame, order):
        derivative = lambda v: jax.jvp(lambda t: f(space.exp(x, t * v)), (0.0,), (1.0,))[1]  # noqa: E731
        second = lambda v: jax.jvp(lambda t: jax.jvp(lambda s: f(space.exp(x, s * v)), (t,), (1.0,))[1], (0.0,), (1.0,))[1]  # noqa: E731
        return sum(derivative(v) ** 2 if order == 1 else second(v) for v in frame)

    def all_ways(x, frame):
        inner = x @ a
        square = space.tangential_square(inner, jnp.array(a @ a))
        ridge = space.ridge_laplacian(inner, square, jnp.cos(inner + 0.3), -jnp.sin(inner + 0.3))
        smooth = space.laplacian(x, jax.grad(general)(x), jax.hessian(general)(x))
        found = (square, ridge, smooth)
        exact = (along(lambda y: y @ a, x, frame, 1), along(lambda y: jnp.sin(y @ a + 0.3), x, frame, 2), along(general, x, frame, 2))
        return found, exact

    for found, exact in [jax.jit(all_ways)(*pair) for pair in zip(jnp.array(x), frames, strict=True)]:
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", CURVED, ids=str)
def test_the_normal_and_the_mean_curvature_make_the_divergence_theorem(space):
    """-H n is the Laplacian of the coordinates; on the sphere it is -(d - 1) x."""
    x, _ = draw(space, 4, 13)
    expected = -(space.dimension - 1) * x if isinstance(space, Sphere) else 0 * x
    np.testing.assert_allclose(-space.mean_curvature * on_device(space.normal, x.astype("float32")), expected, atol=1e-6)


@pytest.mark.parametrize("space", CURVED, ids=str)
def test_proximity_is_of_the_ambient_distance(space, x64):
    x, y = draw(space, 5, 14)[0], draw(space, 4, 15)[0]
    found, left, right, nearest = on_device(
        lambda x, y: (space.proximity(x, y), space.ambient(x), space.ambient(y), space.nearest(x, y)), x, y
    )
    apart = np.sum((left[:, None] - right[None]) ** 2, axis=2)
    np.testing.assert_allclose(found, -0.5 * apart / space.unit**2, atol=1e-12)
    geodesic = np.linalg.norm(on_device(jax.vmap(lambda x: space.log(jnp.broadcast_to(x, y.shape), jnp.asarray(y))), x), axis=2)
    np.testing.assert_array_equal(nearest, geodesic.argmin(axis=1))
    short = geodesic[geodesic < 0.1 * space.unit]
    assert (np.abs(np.sqrt(apart)[geodesic < 0.1 * space.unit] / short - 1) < 0.01).all()


@pytest.mark.parametrize("space", [Sphere(2), Torus(1, 3.0)], ids=str)
def test_points_of_a_circle_by_turns(space):
    x = space.equispaced(8)
    np.testing.assert_allclose(np.mod(on_device(space.turns, x.astype("float32")), 1), np.arange(8) / 8, atol=1e-6)


@pytest.mark.parametrize("space", [Sphere(3), Torus(2), Euclidean(1)], ids=str)
def test_turns_are_of_circles_alone(space):
    for call in (lambda: space.equispaced(8), lambda: space.turns(jnp.zeros((2, space.dimension)))):
        with pytest.raises(ValueError, match=r"allowed: Torus\(1\), Sphere\(2\)"):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sphere(3, Gaussian()), r"base is Gaussian\(scale=1.0\) and the space a Sphere of dimension 3; allowed: Uniform\(\)"),
        (lambda: Torus(2, 1.0, Flat()), r"base is Flat\(\) and the space a Torus of dimension 2; allowed: Uniform\(\)"),
        (lambda: Euclidean(2, Uniform()), r"base is Uniform\(\) and the space a Euclidean of dimension 2; allowed: Gaussian"),
    ],
)
def test_a_base_measure_must_fit_its_space(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_the_flat_measure_is_not_proper():
    assert [s.base.proper for s in (Sphere(3), Torus(2), Euclidean(2), Euclidean(2, Flat()))] == [True, True, True, False]
    assert Euclidean(2) == Euclidean(2, Gaussian(1.0)) != Euclidean(2, Gaussian(2.0)) != Euclidean(2, Flat())
    with pytest.raises(ValueError, match="whose flat measure cannot be sampled"):
        Euclidean(2, Flat()).from_normal(jnp.zeros((1, 2)))
    plane = Euclidean(2)
    for call in (lambda: plane.sample_uniform(jax.random.key(0), 2, float), lambda: plane.uniform_from_normal(jnp.zeros(2), -1)):
        with pytest.raises(ValueError, match="not compact and has no uniform measure"):
            call()
