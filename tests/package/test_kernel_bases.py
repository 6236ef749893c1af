"""Kernel density estimates: densities by loops, scores by JAX, masses by quadrature, draws by moments, fits by their rules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import i0, i1, ive

from dualebm import base_kernels
from dualebm.base_families import log_excess
from dualebm.base_kernels import KernelBase, log_normalisers
from dualebm.base_measures import Uniform
from dualebm.base_mixtures import MixtureBase
from dualebm.data.kernel_bases import deal, fit_kernel, fit_neighbours, points_of
from dualebm.energies.files import build, spell
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.spaces import Euclidean, Sphere, Torus
from tests.cases import heavy, in_turns

SPACES = [Euclidean(2), Sphere(3), Sphere(5), Torus(2, 3.0)]
DRAWS = 8000
LARGE = np.array([3.0, 40.0, 500.0, 1e4, 1e6])


def name(value):
    return f"{type(value).__name__}{value.dimension}" if hasattr(value, "dimension") else None


def uniform_rows(space, count, seed=0):
    """Rows of a space, in float64."""
    rows = np.random.default_rng(seed).normal(size=(count, space.dimension))
    if isinstance(space, Torus):
        return np.mod(rows, 1.0) * space.period
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if isinstance(space, Sphere) else rows


def with_base(space, base):
    return dataclasses.replace(space, base=base)


def around(space, concentrations=LARGE):
    """The space with kernels around centres, and points at the distance of the width of a kernel from each centre, and far away."""
    centres = uniform_rows(space, len(concentrations))
    steps = np.random.default_rng(1).normal(size=(2, *centres.shape)) / np.sqrt(concentrations)[:, None]
    x = np.concatenate([*(centres + steps), uniform_rows(space, 4, 2)])
    if isinstance(space, Sphere):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return with_base(space, KernelBase(centres, concentrations)), x


def log_density(space, x):
    """The log density in float64, by loops."""
    values = np.empty((len(x), len(space.base.centres)))
    for i, point in enumerate(x):
        for j, (centre, k) in enumerate(zip(space.base.centres, space.base.concentrations, strict=True)):
            if isinstance(space, Torus):
                angles = 2 * math.pi / space.period * (point - np.asarray(centre))
                values[i, j] = sum(-2 * k * math.sin(a / 2) ** 2 - math.log(ive(0, k)) for a in angles)
            else:
                lag = 0.5 * np.sum((point - np.asarray(centre)) ** 2)
                log_mass = log_excess(space.dimension, k) if space.compact else space.dimension / 2 * math.log(2 * math.pi / k)
                values[i, j] = -k * lag - log_mass
    return np.logaddexp.reduce(values, axis=1) - math.log(values.shape[1])


@pytest.mark.parametrize(("space", "dtype"), in_turns(SPACES), indirect=["dtype"], ids=name)
def test_densities_and_scores(space, dtype):
    space, x = around(space)
    rounded = jnp.asarray(x.astype(dtype))
    value, score = space.log_base(rounded), space.grad_log_base(rounded)
    assert value.dtype == score.dtype == dtype and value.shape == (14,) and score.shape == x.shape
    with jax.enable_x64(True):
        exact = jnp.asarray(np.asarray(rounded, "float64") if dtype == "float32" and not isinstance(space, Sphere) else x)
        gradient = np.asarray(jax.jit(lambda x: space.tangent(x, jax.vmap(jax.grad(space.log_base))(x)))(exact))
    expected = log_density(space, np.asarray(exact))
    # At the distance of the width from a centre, rounding of the coordinates moves k |x - c|^2 by about sqrt(k) eps.
    np.testing.assert_allclose(value, expected, rtol=1e-6 if dtype == "float32" else 1e-12, atol=1e-3 if dtype == "float32" else 1e-9)
    size = np.abs(gradient).max(axis=1, keepdims=True)
    assert (np.abs(score - gradient) <= (1e-3 if dtype == "float32" else 1e-9) * size).all()


@pytest.mark.parametrize("space", SPACES, ids=name)
def test_axes_shapes_and_single_points(space):
    space, x = around(space)
    x = jnp.asarray(x.astype("float32"))
    value, score = space.log_base(x), space.grad_log_base(x)
    np.testing.assert_array_equal(space.log_base(x.T, axis=0), value)
    np.testing.assert_array_equal(space.grad_log_base(x.T, axis=0).T, score)
    np.testing.assert_allclose(space.log_base(x.reshape(2, 7, -1)).ravel(), value, rtol=1e-6)
    np.testing.assert_allclose(space.grad_log_base(x[3]), score[3], rtol=1e-6)


@pytest.mark.parametrize("space", [heavy(Euclidean(2)), Sphere(3), heavy(Sphere(5)), Torus(2, 3.0)], ids=name)
def test_blocks_change_nothing(space, monkeypatch):
    space, x = around(space)
    x = jnp.asarray(np.tile(x, (3, 1)).astype("float32"))
    whole = space.log_base(x), space.grad_log_base(x)
    widths = []
    monkeypatch.setattr(base_kernels, "block_columns", lambda rows: widths.append(rows) or 16)
    jax.clear_caches()
    for values, expected in zip((space.log_base(x), space.grad_log_base(x)), whole, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-4)
    assert widths == [5, 5]
    jax.clear_caches()


def test_another_base_of_the_same_shape_compiles_nothing(monkeypatch):
    traced = []
    for name in ("map_blocks", "at_lag"):  # which are called where a program is traced
        function = getattr(base_kernels, name)
        monkeypatch.setattr(base_kernels, name, lambda *a, name=name, function=function: traced.append(name) or function(*a))
    jax.clear_caches()
    x = jnp.asarray(uniform_rows(Sphere(3), 6).astype("float32"))
    for seed in range(3):
        space = with_base(Sphere(3), KernelBase(uniform_rows(Sphere(3), 5, seed), np.arange(1.0, 6.0) + seed))
        space.log_base(x), space.grad_log_base(x), space.sample_base(jax.random.key(0), 6, "float32")
        assert sorted(traced) == ["at_lag", "map_blocks", "map_blocks"]


def test_the_mass_is_one():
    line = with_base(Euclidean(1), KernelBase([[-1.0], [2.0]], [3.0, 200.0]))
    circle = with_base(Torus(1, 5.0), KernelBase([[0.5], [4.9]], [0.5, 300.0]))
    ring = with_base(Sphere(2), KernelBase([[1.0, 0.0], [-0.6, 0.8]], [0.5, 300.0]))
    on_ring = lambda t: np.stack([np.cos(t), np.sin(t)], axis=-1)  # noqa: E731
    with jax.enable_x64(True):
        for space, places, low, high, volume in ((line, None, -6, 8, 1), (circle, None, 0, 5, 5), (ring, on_ring, 0, 2 * np.pi, 2 * np.pi)):
            t = np.linspace(low, high, 20_001)
            values = np.asarray(space.log_base(jnp.asarray(t[:, None] if places is None else places(t))))
            assert np.trapezoid(np.exp(values), t) / volume == pytest.approx(1, abs=1e-9)
    nodes = sphere_quadrature(Sphere(3), 60)
    sphere = with_base(Sphere(3), KernelBase([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]], [20.0, 1.0]))
    assert float(jnp.sum(jnp.exp(nodes.log_weights + sphere.log_base(nodes.points)))) == pytest.approx(1, abs=1e-5)


def test_normalisers():
    k = np.array([0.3, 5.0, 5.0, 0.3])
    bessel = [quad(lambda t, k=k: math.exp(k * (math.cos(t) - 1)) / math.pi, 0, math.pi)[0] for k in (0.3, 5.0)]
    np.testing.assert_allclose(log_normalisers(Torus(3), k), 3 * np.log([*bessel, *bessel[::-1]]), rtol=1e-12)
    np.testing.assert_allclose(log_normalisers(Sphere(5), k), [log_excess(5, value) for value in k], rtol=0)


def moments(space):
    """The means of the coordinates, and the means of their products, in closed form. On a torus those of (cos, sin) of angles."""
    parts = []
    for centre, k in zip(np.asarray(space.base.centres), space.base.concentrations, strict=True):
        d = space.dimension
        if isinstance(space, Torus):
            angles, first, second = 2 * math.pi / space.period * centre, i1(k) / i0(k), 1 - 2 * i1(k) / i0(k) / k
            mean = first * np.concatenate([np.cos(angles), np.sin(angles)])
            square = np.outer(mean, mean)
            for a in range(d):
                twice = second * np.array([np.cos(2 * angles[a]), np.sin(2 * angles[a])])
                square[a, a], square[d + a, d + a] = (1 + twice[0]) / 2, (1 - twice[0]) / 2
                square[a, d + a] = square[d + a, a] = twice[1] / 2
        elif isinstance(space, Sphere):
            first, across = ive(d / 2, k) / ive(d / 2 - 1, k), ive(d / 2, k) / ive(d / 2 - 1, k) / k
            mean, square = first * centre, across * np.eye(d) + (1 - d * across) * np.outer(centre, centre)
        else:
            mean, square = centre, np.outer(centre, centre) + np.eye(d) / k
        parts.append((mean, square))
    return np.mean([mean for mean, _ in parts], axis=0), np.mean([square for _, square in parts], axis=0)


@pytest.mark.parametrize("space", [Euclidean(2), Sphere(3), Sphere(5), heavy(Torus(2, 3.0))], ids=name)
def test_draws_have_the_moments(space):
    check_moments(space, "float32")


@pytest.mark.parametrize("space", [Euclidean(2), Sphere(3)], ids=name)  # the rejection of the others takes seconds to compile
def test_draws_in_double_precision_have_the_moments(space):
    with jax.enable_x64(True):
        check_moments(space, "float64")


def check_moments(space, dtype):
    """Means of x and of products of its coordinates are within 5 standard errors."""
    space, _ = around(space, np.array([0.5, 4.0, 60.0]))
    x = space.sample_base(jax.random.key(4), DRAWS, dtype)
    assert x.shape == (DRAWS, space.dimension) and x.dtype == dtype
    x = np.asarray(x, "float64")
    if isinstance(space, Sphere):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    if isinstance(space, Torus):
        assert (x >= 0).all() and (x <= 3).all()
        x = np.concatenate([np.cos(2 * math.pi * x / 3), np.sin(2 * math.pi * x / 3)], axis=1)
    values = np.concatenate([x, (x[:, :, None] * x[:, None]).reshape(len(x), -1)], axis=1)
    expected = np.concatenate([part.ravel() for part in moments(space)])
    assert (np.abs(values.mean(axis=0) - expected) <= 5 * values.std(axis=0) / math.sqrt(len(x)) + 1e-6).all()
    assert len(np.unique(x, axis=0)) > 0.999 * len(x)


@pytest.mark.parametrize("space", [Euclidean(2), Sphere(3), Sphere(5), Torus(2, 3.0)], ids=name)
def test_draws_of_narrow_kernels_have_their_width(space):
    """The mean of k |x - c|^2 / unit^2 is the dimension of the space as a manifold."""
    k, size = 1e6, space.dimension - isinstance(space, Sphere)
    centre = uniform_rows(space, 1)
    space = with_base(space, KernelBase(np.tile(centre, (3, 1)), np.full(3, k)))
    x = np.asarray(space.sample_base(jax.random.key(0), DRAWS, "float32"), "float64")
    square = k * np.sum((x - centre) ** 2, axis=1) / space.unit**2
    assert abs(square.mean() - size) < 5 * math.sqrt(2 * size / DRAWS) + 0.01


def test_equality_hashes_and_json():
    rows = uniform_rows(Euclidean(2), 40)
    one, same = KernelBase(rows, np.arange(1.0, 41)), KernelBase(rows.tolist(), range(1, 41))
    assert one == same and hash(one) == hash(same) == hash(one._digest) and repr(one) == "KernelBase(40 centres of dimension 2)"
    for centres, concentrations in ((rows + 1e-12, one.concentrations), (rows, np.arange(2.0, 42)), (rows[:39], np.arange(1.0, 40))):
        other = KernelBase(centres, concentrations)
        assert one != other and hash(one) != hash(other)
    zero, negative = KernelBase([[0.0]], [1.0]), KernelBase([[-0.0]], [1.0])
    assert zero == negative and hash(zero) == hash(negative)
    mixture = MixtureBase((0.5, 0.5), (one, KernelBase(rows, np.full(40, 3.0))))
    assert build(spell(Euclidean(2, mixture))) == Euclidean(2, mixture)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelBase([1.0, 2.0], [1.0, 1.0]), r"centres has shape \(2,\)"),
        (lambda: KernelBase(np.zeros((0, 2)), [1.0]), r"centres has shape \(0, 2\)"),
        (lambda: KernelBase([[math.nan]], [1.0]), "finite numbers"),
        (lambda: KernelBase([[0.0]], [1.0, 2.0]), "concentrations has 2 numbers; centres has 1 rows"),
        (lambda: KernelBase([[0.0]], [0.0]), "concentrations has the number 0.0; concentrations must be positive"),
        (lambda: KernelBase([[0.0]], [math.inf]), "concentrations is .* vector of finite numbers"),
        (lambda: Euclidean(2, KernelBase([[0.0]], [1.0])), "base is KernelBase.* of dimension 2"),
        (lambda: Sphere(2, KernelBase([[0.0, 1.1]], [1.0])), "base is KernelBase"),
        (lambda: Euclidean(1, KernelBase([[0.0]], [1.0])).from_normal(jnp.zeros(1)), "cannot be mapped to draws of its KernelBase"),
    ],
)
def test_bad_kernels(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- Fits ----------------------------------------------------------------------------------------------------


def cross_validated(space, rows, k, folds, seed):
    """The mean log density of rows under the kernels around the rows of other folds."""
    fold = deal(len(rows), folds, seed)
    parts = [
        log_density(with_base(space, KernelBase(rows[fold != f], np.full((fold != f).sum(), k))), rows[fold == f]) for f in range(folds)
    ]
    return np.concatenate(parts).mean()


@pytest.mark.parametrize("space", [Euclidean(2), Sphere(3), Torus(1, 3.0)], ids=name)
def test_the_concentration_maximises_the_cross_validated_likelihood(space):
    rows = uniform_rows(space, 60)
    fitted = fit_kernel(rows, space, folds=3, seed=1)
    k = fitted.concentrations[0]
    assert set(fitted.concentrations) == {k} and fitted.centres == tuple(map(tuple, points_of(rows, space).tolist()))
    best = cross_validated(space, rows, k, 3, 1)
    assert all(cross_validated(space, rows, factor * k, 3, 1) <= best + 1e-5 for factor in (0.6, 0.9, 1.1, 1.7))


def test_repeated_rows_reach_the_bound_and_no_more():
    rows = np.repeat(uniform_rows(Euclidean(2), 30), 10, axis=0)
    variance = rows.var(axis=0).mean()
    assert fit_kernel(rows, Euclidean(2)).concentrations[0] == pytest.approx(3e3 / variance, rel=0.02)
    assert fit_kernel(np.repeat(uniform_rows(Sphere(3), 30), 10, axis=0), Sphere(3)).concentrations[0] == pytest.approx(3e5, rel=0.02)


def test_the_units_of_the_rows_set_the_unit_of_the_concentration():
    rows = uniform_rows(Euclidean(2), 80)
    one, other = (fit_kernel(scale * rows, Euclidean(2)).concentrations[0] for scale in (1, 1000))
    assert other * 1e6 == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("space", SPACES, ids=name)
def test_widths_by_the_seventh_neighbour(space):
    rows, factor = np.concatenate([uniform_rows(space, 50), np.tile(uniform_rows(space, 1, 9), (8, 1))]), 2.0
    fitted = fit_neighbours(rows, space, factor)
    for i in (0, 20, 49):
        if isinstance(space, Torus):
            squares = np.sum(4 * np.sin(math.pi / space.period * (rows - rows[i])) ** 2, axis=1)
        else:
            squares = np.sum((rows - rows[i]) ** 2, axis=1)
        size = space.dimension - isinstance(space, Sphere)
        assert fitted.concentrations[i] == pytest.approx(factor * size / np.sort(squares)[7], rel=1e-9)
    assert fitted.concentrations[-1] == pytest.approx(1e6, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_kernel(np.zeros((5, 2)), Euclidean(2)), "points has equal rows"),
        (lambda: fit_kernel(uniform_rows(Euclidean(2), 5), Euclidean(3)), "points has 2 columns; the space has dimension 3"),
        (lambda: fit_kernel(uniform_rows(Euclidean(3), 5), Sphere(3)), "off the unit sphere"),
        (lambda: fit_kernel(uniform_rows(Euclidean(2), 5), Euclidean(2), folds=6), "folds is 6; it must be an integer from 2 to 5"),
        (lambda: fit_kernel(uniform_rows(Euclidean(2), 5), Euclidean(2), seed=-1), "seed is -1"),
        (lambda: fit_neighbours(uniform_rows(Euclidean(2), 7), Euclidean(2), 1.0), "points has 7 rows; .* need at least 8"),
        (lambda: fit_neighbours(uniform_rows(Euclidean(2), 9), Euclidean(2), 0.0), "factor is 0.0"),
    ],
)
def test_fits_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.heavy
def test_a_mixture_with_kernels_on_a_torus():
    space = Torus(2, 3.0)
    base = MixtureBase((0.25, 0.75), (Uniform(), KernelBase(np.full((3, 2), 1.5), np.full(3, 50.0))))
    x = with_base(space, base).sample_base(jax.random.key(0), DRAWS, "float32")
    near = float(jnp.mean(jnp.all(jnp.abs(x - 1.5) < 0.3, axis=1)))  # 4.4 widths of a kernel
    assert abs(near - (0.25 * 0.04 + 0.75)) < 5 * 0.5 / math.sqrt(DRAWS) and not base.from_normal_exists
