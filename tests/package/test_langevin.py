"""The integrators: weak order on a law in closed form, invariance, noise, restarts."""

import inspect
import math
import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.flows import langevin
from dualebm.flows.initialise import copies, refresh, restart
from dualebm.flows.langevin import move, sample
from dualebm.flows.noise import NOISE_PAIRS, NOISES, Noise, drawn, sharded
from dualebm.log_z.quadrature import effective_temperature, mean_energy
from dualebm.measures import Samples, draw_indices
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles
from tests.cases import heavy


def by_rows(transition):
    """The transition, compiled, of points, noise and results that are rows."""

    @partial(jax.jit, static_argnums=0)
    def step(space, noise, x, energy, step):
        there, info = transition(space, Noise(noise.normal.T, noise.uniform), energy.locate(x.T), energy, step)
        return there.points.T, info

    return step


mala, geodesic, projected = map(by_rows, langevin.TRANSITIONS.values())


class Linear(Energy):
    """U(x) = -concentration * x_1: the von Mises-Fisher law on a sphere."""

    concentration: float

    def __call__(self, x):
        return -self.concentration * x[:, 0]


class Waves(Energy):
    """U(x) = -concentration * sum_k cos(2 pi x_k): von Mises laws on the torus."""

    concentration: float

    def __call__(self, x):
        return -self.concentration * jnp.sum(jnp.cos(2 * jnp.pi * x), axis=1)


class Spring(Energy):
    """U(x) = stiffness |x|^2 / 2."""

    stiffness: float

    def __call__(self, x):
        return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)


FLAT = Linear(0.0)


def gaussian_nodes(dimension, count):
    """Tensor Gauss-Hermite nodes and weights of a standard normal vector: expectations over the noise without sampling."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    grid = np.stack(np.meshgrid(*[nodes] * dimension, indexing="ij"), -1).reshape(-1, dimension)
    return grid, np.prod(np.stack(np.meshgrid(*[weights] * dimension), -1), -1).ravel() / weights.sum() ** dimension


def expected(transition, space, energy, x, step, observable, nodes, levels):
    """E f(X') from x after one step, by quadrature over the normal vector and `levels` stratified uniform numbers."""
    grid, weights = gaussian_nodes(space.dimension, nodes)
    uniform = (np.arange(levels) + 0.5) / levels
    noise = Noise(np.repeat(grid, levels, 0), np.tile(uniform, len(grid)))
    y, _ = transition(space, noise, np.tile(x, (len(grid) * levels, 1)), energy, step)
    return float(np.repeat(weights / levels, levels) @ observable(np.asarray(y)))


@pytest.mark.parametrize(("transition", "levels"), [(projected, 1), (geodesic, 1), pytest.param(mala, 4001, marks=pytest.mark.heavy)])
def test_weak_order_one_on_the_circle(x64, transition, levels):
    """U = -4 cos: E f(X') - f - h L f = O(h^2) with L f = f'' - U' f', for f = sin: an error of order 1 after 1/h steps."""
    angle, errors = 0.7, []
    generator = -np.sin(angle) - 4 * np.sin(angle) * np.cos(angle)
    for step in (0.02, 0.01, 0.005):
        x = np.array([np.cos(angle), np.sin(angle)])
        nodes = 30 if transition is mala else 60
        mean = expected(transition, Sphere(2), Linear(4.0), x, step, lambda y: y[:, 1], nodes, levels)
        errors.append(abs(mean - np.sin(angle) - step * generator))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25) and errors[1] / errors[2] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("transition", [projected, geodesic])
def test_weak_order_one_of_brownian_motion_on_the_sphere(x64, transition):
    """E x_1(t) = exp(-(d-1) t) from the pole; a step multiplies it by E x_1(h), so that the error after t = 0.4 is known exactly."""
    errors = []
    for step in (0.04, 0.02, 0.01):
        factor = expected(transition, Sphere(3), FLAT, np.array([1.0, 0, 0]), step, lambda y: y[:, 0], 30, 1)
        errors.append(factor ** round(0.4 / step) - np.exp(-0.8))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) and errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_geodesic_step_on_the_circle_is_exact_brownian_motion(x64):
    """A Gaussian angle of variance 2h: E cos = exp(-h) at any step."""
    mean = expected(geodesic, Sphere(2), FLAT, np.array([1.0, 0.0]), 0.3, lambda y: y[:, 0], 40, 1)
    assert mean == pytest.approx(np.exp(-0.3), rel=1e-10)


def test_weak_order_one_of_euler_maruyama_on_euclidean_space(x64):
    """Ornstein-Uhlenbeck: the stationary variance of Euler-Maruyama is 1 / (k (1 - h k / 2)), by iterating its one-step map."""
    k, variances = 2.0, []
    x, noise = np.array([[1.0], [0.0]]), Noise(np.array([[0.0], [1.0]]), np.zeros(2))  # a point alone, and noise alone
    for h in (0.2, 0.1):
        for transition in (projected, geodesic):  # the base N(0, 1) adds 1 to the stiffness
            factor, spread = np.asarray(transition(Euclidean(1), noise, x, Spring(k - 1), h)[0])[:, 0]
            assert factor == pytest.approx(1 - h * k) and spread == pytest.approx((2 * h) ** 0.5)
        variances.append(spread**2 / (1 - factor**2))
        assert variances[-1] == pytest.approx(1 / (k * (1 - h * k / 2)))
    assert (variances[0] - 1 / k) / (variances[1] - 1 / k) == pytest.approx(2, rel=0.15)


@partial(jax.jit, static_argnames=("space", "steps", "integrator", "antithetic"))
def chain(space, energy, x, step, steps, integrator="mala", antithetic=False):
    """Where points, as rows, are after so many moves; and the acceptance of each move."""

    def body(x, i):
        key = jax.random.fold_in(jax.random.key(7), i)
        draw = drawn(key, space.dimension, x.dtype, "antithetic" if antithetic else "independent")
        return move(integrator, space, draw, x, energy, step)[:2]

    x, acceptance = jax.lax.scan(body, x.T, jnp.arange(steps))
    return x.T, acceptance


@pytest.mark.heavy
def test_the_projected_step_is_biased_and_mala_is_not():
    """At h = 0.02 on S^14 the projected chain runs at an effective temperature of about 0.87, MALA at 1."""
    target = targets.teacher("s14_monomodal")
    first, _ = targets.sample(jax.random.key(0), target, 8_000)

    @jax.jit
    def temperature(x, quadrature):
        return effective_temperature(target.energy, quadrature, jnp.mean(target.energy(x)))

    found = {}
    for integrator in ("projected", "mala"):
        x, _ = chain(target.space, target.energy, first.points, 0.02, 100, integrator)
        found[integrator] = float(temperature(x, target.quadrature()))
    assert 0.8 < found["projected"] < 0.93
    assert abs(found["mala"] - 1) < 0.03


@pytest.mark.heavy
def test_mala_on_euclidean_space_and_torus(x64):
    """Gaussian base times a quadratic energy is a Gaussian; von Mises on the circle by Bessel functions."""
    from scipy.special import i0, i1

    rng = np.random.default_rng(0)
    x, acceptance = map(np.asarray, chain(Euclidean(3, Gaussian(2.0)), Spring(3.0), rng.normal(size=(20_000, 3)), 0.15, 30))
    variance = 1 / (3 + 1 / 4)
    assert 0.5 < acceptance[-1] < 0.97
    assert abs(x.var() - variance) < 5 * variance * (2 / x.size) ** 0.5
    assert abs(x.mean()) < 5 * (variance / x.size) ** 0.5
    y, acceptance = map(np.asarray, chain(Torus(2), Waves(2.0), rng.uniform(size=(20_000, 2)), 0.02, 60))
    assert 0.5 < acceptance[-1] < 0.97
    cosine = np.cos(2 * np.pi * y)
    assert abs(cosine.mean() - i1(2) / i0(2)) < 5 * cosine.std() / cosine.size**0.5


@pytest.mark.parametrize(("transition", "name"), [(projected, "projected"), (geodesic, "geodesic"), (mala, "mala")])
def test_one_step_equals_the_numpy_loop(x64, transition, name):
    rng = np.random.default_rng(0)
    positions, coefficients = rng.normal(size=(6, 5)), 5 * rng.normal(size=6)
    x = rng.normal(size=(40, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    noise, uniforms = rng.normal(size=(40, 5)), rng.uniform(size=40)
    energy = Shallow(ReLU(), jnp.array(positions), jnp.array(coefficients))
    y, info = transition(Sphere(5), Noise(noise, uniforms), x, energy, 0.3)
    expected, accepted = oracles.move(
        x, noise, 0.3, name, lambda x: oracles.energy_gradient(x, positions, coefficients),
        lambda x: oracles.energy(x, positions, coefficients), uniforms,
    )  # fmt: skip
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_array_equal(info.accepted, accepted)
    if name == "mala":
        assert 0 < accepted.sum() < 40


def test_proposal_densities_of_the_unadjusted_step(x64):
    """Forward and backward densities give the Metropolis ratio of the flat proposal, written out with scipy."""
    from scipy.stats import norm

    space, energy, h = Euclidean(2, Gaussian(1.5)), Spring(2.0), 0.3
    x = np.array([[0.4, -1.0], [2.0, 0.1]])
    noise = Noise(np.array([[0.3, -0.2], [1.0, 2.0]]), np.zeros(2))
    y, info = jax.device_get(geodesic(space, noise, x, energy, h))
    assert info.accepted.all()
    pull = 2.0 + 1 / 1.5**2
    forward = norm.logpdf(y, x - h * pull * x, (2 * h) ** 0.5).sum(1)
    backward = norm.logpdf(x, y - h * pull * y, (2 * h) ** 0.5).sum(1)
    np.testing.assert_allclose(info.log_backward - info.log_forward, backward - forward, rtol=1e-12)
    _, on_sphere = projected(Sphere(2), noise, np.eye(2), energy, h)
    assert np.isnan(on_sphere.log_forward).all()
    _, reversible = jax.device_get(mala(space, noise, x, energy, h))
    assert (reversible.log_forward == 0).all() and (reversible.log_backward == 0).all()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.heavy)])
def test_noise_is_that_of_jax_random_by_block_of_pairs(dtype):
    """Block b of a step's key k: jax.random.normal(fold_in(split(k)[0], b)), uniform of split(k)[1]; halves have opposite signs."""
    with jax.enable_x64(dtype == "float64"):
        key, pairs = jax.random.key(5), 2 * NOISE_PAIRS + 7

        @jax.jit
        def draws(start):
            return {noise: drawn(key, 3, dtype, noise)(None, start, pairs) for noise in NOISES}

        @jax.jit
        def blocks():
            keys = [[jax.random.fold_in(k, 3 + b) for b in range(3)] for k in jax.random.split(key)]
            shapes = {"both": (6, NOISE_PAIRS), "normal": (3, NOISE_PAIRS), "half": (3, NOISE_PAIRS // 2)}
            normal = {name: [jax.random.normal(k, shape, dtype) for k in keys[0]] for name, shape in shapes.items()}
            return normal | {"uniform": [jax.random.uniform(k, (2, NOISE_PAIRS), dtype) for k in keys[1]]}

        found, known = jax.device_get((draws(3 * NOISE_PAIRS), blocks()))
        half = known.pop("half")
        known = {name: np.concatenate(parts, axis=1)[:, :pairs] for name, parts in known.items()}
        for first, second in found.values():
            np.testing.assert_array_equal([first.uniform, second.uniform], known["uniform"])
        np.testing.assert_array_equal(found["antithetic"][0].normal, known["normal"])
        np.testing.assert_array_equal(found["antithetic"][1].normal, -known["normal"])
        np.testing.assert_array_equal(np.concatenate([a.normal for a in found["independent"]]), known["both"])
        x, y = (a.normal for a in found["orthogonal"])
        np.testing.assert_array_equal(x, -y)
        np.testing.assert_array_equal(x[:, : NOISE_PAIRS // 2], half[0])
        np.testing.assert_array_equal(x[:, NOISE_PAIRS // 2 : NOISE_PAIRS], [-half[0][1], half[0][0], -half[0][2]])
        assert x.dtype == known["uniform"].dtype == dtype


@pytest.mark.parametrize("pairs", [heavy(NOISE_PAIRS), NOISE_PAIRS + 1, heavy(300)])
def test_noise_belongs_to_the_pairs_however_they_are_split(pairs):
    """Whole blocks on each of three devices, a pair more, and a part of one; of moves in a row too."""
    for k in (None, 1):
        draw = drawn(jax.random.key(5), 3, jnp.float32)
        whole = jax.jit(lambda draw=draw, k=k: draw(k, 0, 3 * pairs))()
        axis = dict(axis_name="particles", axis_size=3)
        parts = jax.jit(jax.vmap(lambda draw=draw, k=k: sharded(draw, pairs)(k, 0, pairs), **axis))()
        for part, one in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(np.concatenate(part, axis=-1), one)


def test_noise_of_the_moves_of_a_step():
    """Standard normal and uniform at 5 sigma, and the moves of one step and their pairs do not share any."""
    draw = drawn(jax.random.key(0), 3, jnp.float32, "independent")
    draws = jax.device_get(jax.jit(lambda: [draw(k, 0, 50_000) for k in (None, jnp.int32(0), jnp.int32(1))])())
    normals = [np.float64(half.normal) for noise in draws for half in noise]
    for i, normal in enumerate(normals):
        assert abs(normal.mean()) < 5 / normal.size**0.5 and abs(normal.var() - 1) < 5 * (2 / normal.size) ** 0.5
        assert len(np.unique(normal[0])) > 0.99 * 50_000
        for other in normals[:i]:
            assert abs(np.mean(normal * other)) < 5 / normal.size**0.5
    for uniform in (np.float64(half.uniform) for noise in draws for half in noise):
        assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / uniform.size) ** 0.5
        assert uniform.min() >= 0 and uniform.max() < 1




def test_several_moves_under_one_energy_are_moves_in_a_row(x64):
    """What is kept of a point from move to move is what would be computed there; `before` sees the points before the first."""
    rng = np.random.default_rng(0)
    energy = Shallow(ReLU(2, True), jnp.array(rng.normal(size=(4, 4))), jnp.array([0.0, 1.0, 2.0, 3.0]))
    x = oracles.normalise(rng.normal(size=(700, 3))).T
    draw = drawn(jax.random.key(2), 3, jnp.float64)

    @partial(jax.jit, static_argnames=("steps", "before"))
    def moved(x, k=0, steps=1, before=False):
        observe = lambda here: jnp.sum(here.products, axis=1)  # noqa: E731
        at = draw if steps > 1 else lambda _, start, pairs: draw(k, start, pairs)
        return move("mala", Sphere(3), at, x, energy, 0.3, steps=steps, observe=observe, before=before)

    together, acceptance, total = moved(x, steps=3)
    one, rates = x, []
    for k in range(3):
        one, rate, now = moved(one, k)
        rates.append(float(rate))
    np.testing.assert_allclose(together, one, atol=1e-13)
    np.testing.assert_allclose(total, now, atol=1e-11)
    assert float(acceptance) == pytest.approx(np.mean(rates)) and 0.2 < acceptance < 0.99
    lifted = np.concatenate([x, np.ones((1, 700))])
    products = np.asarray(energy.positions) @ lifted
    np.testing.assert_allclose(moved(x, steps=3, before=True)[2], products.sum(1), atol=1e-11)


def test_restart_draws_data_independently(x64):
    """Rate, uniformity over the data, and independence of neighbours and of a pair, at 5 sigma; probability 0 and 1 exactly."""
    count, p = 20_001, 0.3
    data, x, restarted = Samples(jnp.array(np.arange(1.0, 8)[:, None])), np.zeros((1, count)), jax.jit(restart)
    y = np.asarray(restarted(jax.random.key(0), x, data, p))[0]
    chosen = y > 0
    assert abs(chosen.mean() - p) < 5 * (p * (1 - p) / count) ** 0.5
    for apart in (1, (count + 1) // 2):  # particles i and i + N/2 share a block
        both = (chosen[apart:] & chosen[:-apart]).mean()
        assert abs(both - p**2) < 5 * (p**2 / (count - apart)) ** 0.5
    for value in range(1, 8):
        assert abs((y == value).mean() - p / 7) < 5 * (p / 7 / count) ** 0.5
    assert (np.asarray(restarted(jax.random.key(0), x, data, 0.0)) == x).all()
    assert (np.asarray(restarted(jax.random.key(0), x, data, 1.0)) > 0).all()


def test_restarts_at_the_base_measure_belong_to_the_pairs_however_they_are_split():
    """300 pairs on each of two devices, whose particles are the first and the second halves of their pairs."""
    x = np.zeros((3, 2, 600), np.float32)

    def anew(x):
        return refresh(jax.random.key(3), x.reshape(3, -1), Sphere(3), 0.5).reshape(x.shape)

    whole = jax.jit(lambda x: anew(x))(x)
    split = jax.vmap(anew, in_axes=2, out_axes=2, axis_name="particles")
    np.testing.assert_array_equal(jax.jit(split)(x.reshape(3, 2, 2, 300)).reshape(x.shape), whole)
    assert 0.4 < np.mean(np.any(np.asarray(whole) != 0, axis=0)) < 0.6


def test_copies_and_weighted_indices(x64):
    data = Samples(jnp.array([[0.0], [1.0], [2.0]]))
    weighted = data._replace(log_weights=jnp.array([np.log(0.2), -np.inf, np.log(0.8)]))
    found = jax.jit(lambda: [copies(data, count)[0] for count in (6, 4, 10)])()
    assert [row.tolist() for row in found] == [[0, 1, 2, 0, 1, 2], [0, 1, 0, 1], [0, 1, 2, 0, 1] * 2]
    index = np.asarray(jax.jit(draw_indices, static_argnums=2)(jax.random.key(0), weighted, (10_000,)))
    assert abs((index == 2).mean() - 0.8) < 5 * (0.16 / 10_000) ** 0.5 and not (index == 1).any()


@pytest.mark.heavy
def test_sample_of_a_trained_model():
    target = targets.teacher("s2_bimodal")

    @jax.jit
    def results(key, quadrature):
        x, acceptance = sample(key, target.energy, Sphere(3), 20_000, steps=200, step=0.1)
        return target.energy(x), acceptance, mean_energy(target.energy, quadrature)

    values, acceptance, exact = jax.device_get(results(jax.random.key(0), target.quadrature()))
    assert abs(values.mean() - exact) < 5 * values.std() / 20_000**0.5
    assert 0.5 < acceptance < 1
    with pytest.raises(ValueError, match="flat"):
        sample(jax.random.key(0), target.energy, Euclidean(3, Flat()), 10)


class Given(Energy):
    """U(x) = wall where x_1 <= 0, else 0; or what is returned of another shape or dtype."""

    wall: float
    other: str = eqx.field(static=True, default="")

    def __call__(self, x):
        if self.other == "columns":
            return x[:, :1]
        return jnp.where(x[:, 0] > 0, 0, 1) if self.other == "integers" else jnp.where(x[:, 0] > 0, 0.0, self.wall)


def test_chains_start_where_the_energy_is_finite():
    key, plane = jax.random.key(0), Euclidean(2)
    x, _ = sample(key, Given(math.inf), plane, 50, steps=3, step=0.1)
    assert (x[:, 0] > 0).all() and jnp.isfinite(x).all()
    compiled, _ = jax.jit(lambda energy: sample(key, energy, plane, 50, steps=3, step=0.1))(Given(math.inf))
    base = plane.sample_base(jax.random.split(key)[0], 50, jnp.float32)
    np.testing.assert_array_equal(jnp.isnan(compiled[:, 0]), base[:, 0] <= 0)
    for wall in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=rf"energy is {wall} at a draw of the base measure, \[-.*in all; it must be a finite number"):
            sample(key, Given(wall), plane, 50, steps=3, step=0.1)

    class Nowhere(Given):
        def __call__(self, x):
            return jnp.full(x.shape[0], self.wall)

    with pytest.raises(ValueError, match=r"energy is a Nowhere, which is infinite .* at 50 of 50 draws of the base measure"):
        sample(key, Nowhere(math.inf), plane, 50, steps=3, step=0.1)


BARE_SAMPLE = inspect.unwrap(sample)  # without the tests' own check of annotations, which comes first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(step=-0.1), "step is -0.1; it must be a finite number, greater than 0"),
        (dict(step=0.0), "step is 0.0; it must be a finite number, greater than 0"),
        (dict(step=math.nan), "step is nan; it must be a finite number, greater than 0"),
        (dict(step=4.0, space=Sphere(2)), "step is 4.0; on Sphere(dimension=2, base=Uniform()) it must be at most 2.4674"),
        (dict(steps=0), "steps is 0; it must be an integer of at least 1"),
        (dict(steps=2.5), "steps is 2.5; it must be an integer of at least 1"),
        (dict(count=0), "count is 0; it must be an integer of at least 1"),
        (dict(energy=Given(0.0, "columns")), "energy is a Given, which returns float32 of shape (2, 1) at points (2, 2)"),
        (dict(energy=Given(0.0, "integers")), "energy is a Given, which returns int32 of shape (2,) at points (2, 2)"),
        (dict(energy=Shallow(ReLU(), jnp.eye(3), jnp.ones(3))), "energy is a Shallow, which fails at points (2, 2) of Euclidean"),
        (dict(energy=Given), "it must be an Energy, an object and no class or function"),
        (dict(space="sphere"), "space is 'sphere'; it must be a space, such as Sphere(3)"),
    ],
)  # fmt: skip
def test_sample_refuses(changes, message):
    given = dict(energy=Given(0.0), space=Euclidean(2), count=4, steps=1, step=0.1) | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        BARE_SAMPLE(jax.random.key(0), **given)
