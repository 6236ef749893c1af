"""Jarzynski's weights beside loops, closed forms and quadrature, whatever the move, the order and the resampling."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualebm import measures
from dualebm.base_measures import Flat, Gaussian
from dualebm.energies.base import Energy
from dualebm.energies.boltzmann import Boltzmann, BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.energies.networks import MLP
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.flows import jarzynski, likelihood
from dualebm.flows.noise import Noise, drawn
from dualebm.log_z.quadrature import log_partition, mean_energy, sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.base import Info
from dualebm.methods.jarzynski import Jarzynski, algorithm_1, threshold_of_variation
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import start, step
from tests.normal_energy import Normal, at_rest

LINE = Euclidean(1, Flat())
STEPS = 30


def protocol():
    """A fixed path, whatever the gradient: from mean 0 and variance 1 to 1.5 and 0.4 in `STEPS` steps."""

    def update(gradient, state, params):
        del gradient
        return Normal(jnp.full_like(params.mean, 1.5 / STEPS), jnp.full_like(params.mean, 1.5 / STEPS)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def weighted_moments(state):
    """Mean and variance, with standard errors, of weighted walkers on a line."""
    x, log_weights = (np.asarray(a, float) for a in (state.particles[:, 0], state.log_weights))
    w = np.exp(log_weights - log_weights.max())
    w /= w.sum()
    mean = np.sum(w * x)
    variance = np.sum(w * (x - mean) ** 2)
    return mean, np.sqrt(np.sum((w * (x - mean)) ** 2)), variance, np.sqrt(np.sum((w * ((x - mean) ** 2 - variance)) ** 2))


# -- Exactness at any step size --------------------------------------------------------------------------


def test_weights_of_unadjusted_moves_come_back_where_the_energy_rests(x64):
    """U = a |x|^2 / 2 and h = 0.3: A_k = h/4 (|grad U(X_0)|^2 - |grad U(X_k)|^2) to rounding, so that its variance stays d h^2 / 4."""
    space, energy, h = Euclidean(50, Flat()), Normal(jnp.array(0.0), jnp.array(1.7)), 0.3 / 1.7
    method = algorithm_1(space, lambda key, space, dtype: energy, walkers=1000, optimiser="gradient", resampling="none")
    rates, data = method.rates._replace(particle_step=h, learning_rate=0.0), Samples(jnp.array(np.zeros((1, 50))))

    @jax.jit
    def run(key):
        first = method.init(jax.random.fold_in(key, 1000), rates, data)
        return first, jax.lax.fori_loop(0, 20, lambda i, state: method.step(jax.random.fold_in(key, i), state, rates, data)[0], first)

    first, state = run(jax.random.key(0))
    squares = [1.7**2 * np.sum(np.asarray(s.columns) ** 2, axis=0) for s in (first, state)]
    np.testing.assert_allclose(state.log_weights, h / 4 * (squares[0] - squares[1]), rtol=0, atol=1e-10)
    # (h a / 4)^2 (2 d + 2 d / (1 - h a / 2)^2): the law of the unadjusted chain has the variance 1 / (a (1 - h a / 2))
    assert np.var(state.log_weights) == pytest.approx((0.3 / 4) ** 2 * 100 * (1 + 1 / 0.85**2), rel=5 * (2 / 1000) ** 0.5)


def final(key, method, rates, data, steps=STEPS):
    state = method.init(jax.random.fold_in(key, 1000), rates, data)
    return jax.lax.fori_loop(0, steps, lambda i, state: method.step(jax.random.fold_in(key, i), state, rates, data)[0], state)


WAYS = {
    "three moves": dict(moves=3),
    "parameters first, three moves": dict(moves=3, order="parameters_first"),
    "parameters first": dict(order="parameters_first", resampling="stratified"),
    "mala": dict(integrator="mala", resampling="residual"),
    "mala, parameters first": dict(integrator="mala", order="parameters_first", noise="antithetic"),
    "batches": dict(walker_batch=20_000, walker_batches=2, moves=2, resampling="multinomial"),
    "batches, parameters first": dict(walker_batch=10_000, order="parameters_first"),
}


HEAVY = ("three moves", "parameters first", "mala, parameters first", "batches, parameters first")


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.heavy) if way in HEAVY else way for way in WAYS])
def test_every_way_is_exact(way):
    """Through the method, with resampling, at h = 0.2 and a step that varies."""
    method = algorithm_1(LINE, at_rest, walkers=40_000, optimiser=protocol, **WAYS[way])
    rates, data = method.rates._replace(particle_step=0.2, threshold=0.8), Samples(jnp.array([[0.0]]))

    @jax.jit
    def run(key):
        state = method.init(jax.random.fold_in(key, 1000), rates, data)

        def body(state, i):
            return method.step(jax.random.fold_in(key, i), state, rates._replace(particle_step=0.2 * (1 + i % 3) / 2), data)

        state, info = jax.lax.scan(body, state, jnp.arange(STEPS))
        return state, jarzynski.log_partition(state.weights, method.resampling), info.acceptance

    state, (value, error), acceptance = run(jax.random.key(1))
    value, error, last = float(value), float(error), float(acceptance[-1])
    mean, mean_error, variance, variance_error = weighted_moments(state)
    assert int(state.weights.resamplings) > 0
    assert last == 1 if method.integrator == "geodesic" else 0.5 < last < 1
    assert abs(value - 0.5 * np.log(2 * np.pi) - 0.5 * np.log(0.4)) < 5 * error < 0.15, (value, error)
    # resampled walkers are not independent: three times the error that takes them to be
    assert abs(mean - 1.5) < 15 * mean_error and abs(variance - 0.4) < 15 * variance_error, (mean, mean_error, variance, variance_error)


def moving_shallow(dimension, dtype, k):
    """Two ReLUs that turn and grow with k in [0, 1]."""
    angle = 0.5 * k
    positions = jnp.zeros((2, dimension), dtype).at[0, 0].set(jnp.cos(angle)).at[0, 1].set(jnp.sin(angle)).at[1, -1].set(-1.0)
    return Shallow(ReLU(), positions, jnp.array([-3.0, 2.0], dtype) * (0.5 + k))


@pytest.mark.parametrize("integrator", ["geodesic", pytest.param("mala", marks=pytest.mark.heavy)])
def test_on_the_sphere_beside_quadrature(integrator):
    """Moves of up to half way round and beyond: the weights are those of velocities."""
    space = Sphere(3)
    steps, count, h = 3, 100_000, 0.4  # noise of length 1.3, one of 500 beyond pi

    @jax.jit
    def run(key):
        x = space.sample_base(jax.random.fold_in(key, 99), count, jnp.float32).T

        def body(i, carry):
            x, log_weights = carry
            k = i.astype(jnp.float32)
            before, after = (moving_shallow(3, jnp.float32, (k + j) / steps) for j in (0, 1))
            draw = drawn(jax.random.fold_in(key, i), 3, jnp.float32, "independent")
            x, change, _ = jarzynski.walk(integrator, space, draw, x, before, after, h, steps=2)
            return x, log_weights + change

        x, log_weights = jax.lax.fori_loop(0, steps, body, (x, -moving_shallow(3, jnp.float32, 0.0)(x.T)))
        end, cloud = moving_shallow(3, jnp.float32, 1.0), sphere_quadrature(space, 100)
        return log_weights, end(x.T), log_partition(end, cloud), mean_energy(end, cloud)

    log_weights, values, exact, exact_mean = (np.asarray(a, float) for a in run(jax.random.key(2)))
    weights = np.exp(log_weights)
    error = weights.std() / weights.mean() / np.sqrt(count)
    assert abs(np.log(weights.mean()) - exact) < 5 * error < 0.1, (np.log(weights.mean()), exact, error)
    mean = np.sum(weights * values) / weights.sum()
    spread = np.sqrt(np.sum((weights * (values - mean)) ** 2)) / weights.sum()
    assert abs(mean - exact_mean) < 5 * spread


# -- One step beside loops -------------------------------------------------------------------------------


def curved(k):
    """An energy of R^3 with a gradient of its own in each component."""
    a = np.array([1.0, 0.5, 2.0]) * (1 + 0.3 * k)
    return (lambda x: float(np.sum(a * np.log(np.cosh(x - 0.2 * k))))), (lambda x: a * np.tanh(x - 0.2 * k))


class Curved(Energy):
    scale: Any
    shift: Any

    def __call__(self, x):
        return jnp.sum(self.scale[None] * jnp.log(jnp.cosh(x - self.shift)), axis=1)


def curved_energy(k):
    return Curved(jnp.array(np.array([1.0, 0.5, 2.0]) * (1 + 0.3 * k)), jnp.array(0.2 * k))


# one move and several, and a base measure and none, do not meet in the code
@pytest.mark.parametrize(("moves", "scale"), [(1, None), (3, 1.5)])
def test_the_kernel_form_is_the_alpha_form(moves, scale, x64):
    """alpha_k(x, y) = U(x) + (y - x) . grad U / 2 + h |grad U|^2 / 4 to rounding, by a loop; with tau, U - log tau in its place."""
    space, h, count = Euclidean(3, Flat() if scale is None else Gaussian(scale)), 0.3, 600
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((count, 3)), rng.standard_normal((moves, count, 3))
    halves = noise.reshape(moves, 2, count // 2, 3)

    def draw(k, start, pairs):
        mine = jax.lax.dynamic_slice_in_dim(jnp.asarray(halves)[0 if k is None else k], start, pairs, 1)
        return tuple(Noise(half.T, jnp.zeros(pairs)) for half in mine)

    energies = curved_energy(0), curved_energy(1)
    walked = jax.jit(lambda x: jarzynski.walk("geodesic", space, draw, x, *energies, h, steps=moves, width=256))(jnp.asarray(x.T))
    y, change, _ = jax.device_get(walked)
    confined = 0 if scale is None else 1 / scale**2
    for i in range(0, count, 7):
        at, total = x[i], 0.0
        for move in range(moves):
            ends = (0, 1 if move == moves - 1 else 0)
            pairs = [curved(k) for k in ends]
            potentials = [(lambda x, u=u: u(x) + confined * np.sum(x**2) / 2) for u, _ in pairs]
            forces = [(lambda x, g=g: g(x) + confined * x) for _, g in pairs]
            alpha = [
                (lambda x, y, u=u, g=g: u(x) + 0.5 * np.dot(y - x, g(x)) + h / 4 * np.sum(g(x) ** 2))
                for u, g in zip(potentials, forces, strict=True)
            ]
            new = at - h * forces[0](at) + np.sqrt(2 * h) * noise[move, i]
            total += alpha[0](at, new) - alpha[1](new, at)
            at = new
        np.testing.assert_allclose(y[:, i], at, rtol=1e-12)
        assert float(change[i]) == pytest.approx(total, rel=1e-10, abs=1e-12)


def test_a_step_of_the_mixture_beside_numpy(x64):
    """Algorithm 1 with plain gradient steps: parameters, walkers, weights, effective fraction and log Z."""
    space, h, rate, count = Euclidean(2, Flat()), 0.1, 0.05, 40
    method = algorithm_1(space, Mixture(2, separation=1.0), walkers=count, optimiser="gradient", resampling="none")
    rates = method.rates._replace(particle_step=h, learning_rate=rate, weight_decay=0.1, energy_penalty=0.02)
    data = Samples(jnp.array(np.random.default_rng(5).normal(size=(30, 2))))
    state = start(jax.random.key(0), method, rates, data)
    state = state._replace(weights=state.weights._replace(log_weights=jnp.array(np.linspace(-1, 1, count))))
    key = jax.random.key(1)
    after, info = step(key, method, state, rates, data)
    value, error = jax.jit(lambda state: (method.log_partition(state)[0], jarzynski.log_partition(state.weights, "none")[1]))(after)

    a, z = np.asarray(state.training.arrays.means), np.append(0, state.training.arrays.offsets)

    def parts(a, z, x):
        logits = -0.5 * np.sum((x[None] - a) ** 2, axis=1) - z
        u = -np.log(np.sum(np.exp(logits)))
        r = np.exp(logits + u)
        return u, r[:, None] * (a - x[None]), r, r @ (x[None] - a)

    p = np.exp(np.linspace(-1, 1, count))
    p /= p.sum()
    means, offsets = np.zeros_like(a), np.zeros(2)
    for i, x in enumerate(np.asarray(state.particles)):
        u, da, dz, _ = parts(a, z, x)
        means, offsets = means - p[i] * da * (1 - 0.04 * u), offsets - p[i] * dz * (1 - 0.04 * u)
    for x in np.asarray(data.points):
        u, da, dz, _ = parts(a, z, x)
        means, offsets = means + da * (1 + 0.04 * u) / 30, offsets + dz * (1 + 0.04 * u) / 30
    new_a, new_z = a - rate * (means + 0.1 * a), np.append(0, (z - rate * (offsets + 0.1 * z))[1:])
    np.testing.assert_allclose(after.training.arrays.means, new_a, rtol=1e-10)
    np.testing.assert_allclose(after.training.arrays.offsets, new_z[1:], rtol=1e-10)

    @jax.jit
    def noise(key):
        return drawn(jax.random.split(key, 3)[2], 2, float, "independent")(None, 0, count // 2)

    draw = noise(key)
    xi = np.concatenate([np.asarray(half.normal).T for half in draw])
    log_weights = np.linspace(-1, 1, count)
    for i, x in enumerate(np.asarray(state.particles)):
        u, _, _, g = parts(a, z, x)
        y = x - h * g + np.sqrt(2 * h) * xi[i]
        new_u, _, _, new_g = parts(new_a, new_z, y)
        log_weights[i] += u + 0.5 * np.dot(y - x, g) + h / 4 * g @ g - (new_u + 0.5 * np.dot(x - y, new_g) + h / 4 * new_g @ new_g)
        np.testing.assert_allclose(after.particles[i], y, rtol=1e-10)
    np.testing.assert_allclose(after.log_weights, log_weights, rtol=1e-9, atol=1e-12)
    w = np.exp(log_weights)
    assert float(info.effective_fraction) == pytest.approx(w.sum() ** 2 / np.sum(w**2) / count, rel=1e-10)
    assert float(value) == pytest.approx(float(state.weights.log_partition) + np.log(w.mean()), rel=1e-10)
    assert float(error) == pytest.approx(np.sqrt(np.sum((w / w.sum()) ** 2) - 1 / count), rel=1e-9)


def test_the_gradient_of_a_batch_is_of_the_pairs_that_are_drawn(x64):
    """Of 32 walkers the 8 of a batch change the step of the parameters: 4 pairs, one of each 4 consecutive ones, any of them."""
    space = Euclidean(2, Flat())
    method = algorithm_1(space, Mixture(2, separation=1.0), walkers=32, walker_batch=8, optimiser="gradient")
    data = Samples(jnp.array(np.random.default_rng(0).normal(size=(5, 2))))
    state = start(jax.random.key(1), method, method.rates, data)

    def means(columns, key):
        return method.energy(method.step(key, state._replace(columns=columns), method.rates, data)[0], method.rates, data).means

    slopes = jax.jit(jax.vmap(jax.jacobian(means), (None, 0)))(state.columns, jax.random.split(jax.random.key(2), 40))
    seen = np.abs(np.asarray(slopes)).sum(axis=(1, 2, 3)) > 0  # by step and walker
    assert (seen[:, :16] == seen[:, 16:]).all() and (seen[:, :16].reshape(40, 4, 4).sum(axis=2) == 1).all()
    assert seen.any(axis=0).all()


def test_moves_that_leave_the_model_invariant_have_no_density(x64):
    """MALA and Gibbs: U(x') - U'(x')."""
    space = Euclidean(3)

    @jax.jit
    def walks(key):
        found = []
        before, after = (Boltzmann(4, spread=s)(key, space, float) for s in (0.3, 0.6))
        x = jax.random.normal(jax.random.fold_in(key, 2), (3, 50), float)
        for integrator, uniforms in (("mala", None), ("gibbs", 4), ("independence", None)):
            draw = drawn(jax.random.fold_in(key, 1), 3, float, "independent", uniforms)
            y, change, _ = jarzynski.walk(integrator, space, draw, x, before, after, 0.1)
            found.append((jnp.any(y != x), change, before(y.T) - after(y.T)))
        return found

    for moved, change, expected in walks(jax.random.key(0)):
        assert moved
        np.testing.assert_allclose(change, expected, rtol=1e-12)


# -- Resampling, log Z, its error -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", measures.RESAMPLINGS)
def test_log_z_is_continuous_through_resampling(kind, x64):
    x = np.random.default_rng(0).normal(size=(2, 64))
    weights = jarzynski.Weights(*map(jnp.array, (np.zeros(64), 0.7, np.arange(64, dtype=np.int32)[::-1], np.int32(3))))

    @jax.jit
    def both(key):
        found = [jarzynski.advance(key, jnp.array(x), weights, jnp.sin(jnp.arange(64.0)), threshold, kind) for threshold in (0.01, 1.0)]
        return found, [jarzynski.log_partition(w, kind)[0] for _, w, _ in found]

    ((kept_x, kept, kept_effective), (new_x, new, effective)), (before, after) = jax.device_get(both(jax.random.key(1)))
    assert int(kept.resamplings) == 3 and int(new.resamplings) == 4 and (kept_x == x).all()
    assert float(before) == pytest.approx(float(after), abs=1e-14)
    assert float(before) == pytest.approx(0.7 + np.log(np.mean(np.exp(np.sin(np.arange(64))))), abs=1e-13)
    # what goes along with a walker: where it is, and from whom it comes
    places = np.argmax(np.all(x[:, None] == new_x[:, :, None], axis=0), axis=1)
    np.testing.assert_array_equal(new.ancestors, np.arange(64)[::-1][places])
    assert not new.log_weights.any() and float(effective) == float(kept_effective) < 1


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [
        ("systematic", 0.9),
        pytest.param("multinomial", 0.9, marks=pytest.mark.heavy),
        pytest.param("residual", 0.99, marks=pytest.mark.heavy),
        pytest.param("systematic", 1e-6, marks=pytest.mark.heavy),
    ],
)
def test_errors_of_log_z_are_calibrated(kind, threshold):
    """Over 200 keys: (log Z - exact) / error has variance about 1, with many resamplings, few, and none."""
    method = algorithm_1(LINE, at_rest, walkers=500, optimiser=protocol, resampling=kind)
    rates, data = method.rates._replace(particle_step=0.05, threshold=threshold), Samples(jnp.array([[0.0]]))

    @jax.jit
    @jax.vmap
    def one(key):
        state = final(key, method, rates, data)
        return jnp.stack([*jarzynski.log_partition(state.weights, kind), state.weights.resamplings.astype(jnp.float32)])

    value, error, resamplings = np.asarray(one(jax.random.split(jax.random.key(3), 200)), float).T
    score = (value - 0.5 * np.log(2 * np.pi * 0.4)) / error
    least = 0.5 if kind == "residual" else 0.75  # whose own noise is not taken away
    assert least < np.sqrt(np.mean(score**2)) < 1.3 and abs(score.mean()) < 5 / np.sqrt(200), (score.std(), score.mean())
    assert (resamplings.mean() > 2) == (threshold > 0.5)


def test_a_few_families_are_a_warning_and_training_has_no_error():
    method = algorithm_1(LINE, at_rest, walkers=1000)
    of = lambda families: jarzynski.Weights(  # noqa: E731
        jnp.zeros(1000), jnp.zeros(()), jnp.arange(1000, dtype=jnp.int32) % families, jnp.int32(7)
    )
    state = start(jax.random.key(0), method, method.rates, Samples(jnp.zeros((1, 1))))
    warnings = [
        method.warnings(state._replace(weights=of(k)), Info(effective_fraction=jnp.array(0.5))).get("families") for k in (2, 9, 11, 1000)
    ]
    said = "after 7 resamplings the 1000 particles descend from 2 of the first; log Z is then an estimate from"
    assert warnings[0] is not None and warnings[0].startswith(said)
    assert "Lower particle_step" in warnings[0] and warnings[1] is not None and warnings[2:] == [None, None]
    value, error = method.log_partition(state)
    assert value == jarzynski.log_partition(state.weights)[0] and np.isnan(error)


@pytest.mark.heavy
def test_the_default_step_on_a_quartic_is_a_warning():
    """Unadjusted moves that overshoot: log Z is off by tens of nats, and a few families are left."""

    class Quartic(Energy):
        factor: Any

        def __call__(self, x):
            return self.factor * jnp.sum(x**4, axis=1)

    method = algorithm_1(Euclidean(2), lambda key, space, dtype: Quartic(jnp.asarray(0.1, dtype)), walkers=1000)
    data = Samples(0.5 * jax.random.normal(jax.random.key(1), (500, 2)))
    rates = method.rates._replace(learning_rate=1e-2)
    assert rates.particle_step == 0.3
    state = jax.jit(lambda key: final(key, method, rates, data, 300))(jax.random.key(2))
    assert "descend from" in method.warnings(state, Info(effective_fraction=jnp.array(0.4)))["families"]


# -- Training ---------------------------------------------------------------------------------------------


def two_modes(count, dimension=2, seed=0, dtype=None):
    """A quarter of the points about -3 e_1, three quarters about 3 e_1."""
    x = np.random.default_rng(seed).standard_normal((count, dimension))
    x[:, 0] += np.where(np.arange(count) < count // 4, -3.0, 3.0)
    return Samples(jnp.asarray(x, dtype or jnp.float32))


@partial(jax.jit, static_argnames=("method", "steps"))
def trained(key, method, rates, data, steps):
    """The state; log Z as it is known and as it is; E dU/dtheta of the walkers with their weights, as it is, and without weights."""
    state = final(key, method, rates, data, steps)
    energy = method.energy(state, rates, data)
    log_partition, slope = jax.value_and_grad(lambda energy: energy.log_partition(method.space))(energy)
    found, unweighted = (likelihood.mean_gradient(energy, Samples(state.particles, w)) for w in (state.log_weights, None))
    return state, jarzynski.log_partition(state.weights), log_partition, found, jax.tree.map(jnp.negative, slope), unweighted


@pytest.mark.heavy
def test_the_gradient_is_that_of_the_cross_entropy():
    """Far from equilibrium, at a large step: E_p dU is -d log Z, exact for the mixture; unweighted it is not."""
    method = algorithm_1(Euclidean(2, Flat()), Mixture(2, separation=2.0), walkers=200_000, optimiser="gradient")
    data = two_modes(200)
    rates = method.rates._replace(particle_step=0.3, learning_rate=0.2, threshold=0.5)
    *_, found, exact, unweighted = trained(jax.random.key(0), method, rates, data, 12)
    for name in ("means", "offsets"):
        e, f, u = (np.asarray(getattr(tree, name)) for tree in (exact, found, unweighted))
        assert np.abs(f - e).max() < 0.02
        if name == "means":
            assert np.abs(u - e).max() > 4 * np.abs(f - e).max()


@pytest.mark.heavy
def test_a_boltzmann_machine_by_gibbs_moves():
    """Trained on data of another machine: log Z beside the enumeration of hidden states, and the gradient's expectation."""
    space = Euclidean(4)

    @jax.jit
    def sampled(key):
        weights = jax.random.normal(jax.random.key(7), (2, 4))
        return BoltzmannMachine(weights, jnp.zeros(4), -0.5 * jnp.sum(weights**2, axis=1)).sample(key, space, 500)

    data = Samples(sampled(jax.random.key(1)))
    method = algorithm_1(space, Boltzmann(3, spread=0.1), walkers=20_000, integrator="gibbs", optimiser="gradient")
    rates = method.rates._replace(learning_rate=0.05, threshold=0.95)
    state, (value, error), log_partition, found, exact, _ = trained(jax.random.key(0), method, rates, data, 60)
    assert int(state.weights.resamplings) > 2 and np.abs(state.training.arrays.weights).max() > 0.5
    assert abs(value - log_partition) < 5 * error < 0.3
    for e, f in zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True):
        assert np.abs(e - f).max() < 0.1


def test_any_optimiser_of_optax_with_its_schedule_and_clipping():
    """adamw, its updates added as they are, beside optax by hand; fields that are fixed stay; the norm is clipped."""
    space, data = Euclidean(2, Flat()), two_modes(50)

    def adamw():
        return optax.adamw(optax.linear_schedule(0.1, 0.0, 10), weight_decay=0.01)

    method = algorithm_1(space, Mixture(2, separation=1.0), walkers=100, optimiser=adamw, clip=0.01, fixed=("offsets",))
    assert float(method.rates.learning_rate) == 1.0
    theirs = optax.chain(optax.clip_by_global_norm(0.01), adamw())

    @jax.jit
    def by_hand(parameters, offsets, inner, x, log_weights):
        def mean(parameters, x, w):
            return jnp.sum(w * GaussianMixture(parameters, offsets, None)(x))

        observed = jax.grad(mean)(parameters, data.points, jnp.full(50, 1 / 50))
        model = jax.grad(mean)(parameters, x, jax.nn.softmax(log_weights))
        updates, inner = theirs.update(observed - model, inner, parameters)
        return optax.apply_updates(parameters, updates), inner

    state = start(jax.random.key(0), method, method.rates, data)
    parameters = state.training.arrays.means
    inner = jax.jit(theirs.init)(parameters)
    for i in range(3):
        parameters, inner = by_hand(parameters, state.training.arrays.offsets, inner, state.particles, state.log_weights)
        state, _ = step(jax.random.key(i), method, state, method.rates, data)
        np.testing.assert_allclose(state.training.arrays.means, parameters, rtol=2e-5, atol=1e-6)
    assert float(state.training.arrays.offsets[0]) == 0.0


def test_functions_in_an_energy_stay_out_of_the_state():
    """equinox's own network, whose activation is a function."""

    class Wrapped(Energy):
        network: eqx.nn.MLP

        def __call__(self, x):
            return jax.vmap(self.network)(x)

    def network(key, space, dtype):
        return Wrapped(eqx.nn.MLP(space.dimension, "scalar", 8, 2, dtype=dtype, key=key))

    method = algorithm_1(Torus(2), network, walkers=100)
    data = Samples(jnp.array(np.full((10, 2), 0.5, np.float32)))
    method.check(method.rates, data)

    def moved(key):
        first = method.init(key, method.rates, data)
        state, _ = method.step(key, first, method.rates, data)
        return first, state, method.energy(state, method.rates, data)(data.points)

    *_, values = jax.eval_shape(moved, jax.random.key(0))  # which only arrays leave
    assert values.shape == (10,)


# -- Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(walkers=5), "walkers is 5; it must be even"),
        (dict(integrator="projected", space=Sphere(3)), "integrator is 'projected' on Sphere"),
        (dict(integrator="ula"), "integrator is 'ula'"),
        (dict(noise="antithetc"), "did you mean 'antithetic'"),
        (dict(data_batch=0), "data_batch is 0"),
        (dict(order="first"), "order is 'first'"),
        (dict(increment="exakt"), "did you mean 'exact'"),
        (dict(resampling="sistematic"), "did you mean 'systematic'"),
        (dict(optimiser="adamm"), "did you mean 'adam'"),
        (dict(clip=0.0), "clip is 0.0"),
        (dict(walker_batch=30), "walker_batch is 30; it must be even and divide walkers, which is 100"),
        (dict(walker_batches=2), "walker_batches is 2 and walker_batch is None"),
        (dict(increment="release", order="parameters_first"), "increment is 'release'"),
        (dict(moves=0), "moves is 0"),
    ],
)
def test_bad_settings(changes, message):
    settings = {**dict(space=Euclidean(3), start=MLP(8), walkers=100), **changes}
    with pytest.raises(ValueError, match=message):
        Jarzynski(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(optimiser=3), "optimiser is 3; it must be one of 'gradient', 'adam', 'momentum', 'rms' or a function"),
        (dict(fixed="means"), "fixed is 'means'; it must be a tuple"),
        (dict(start=3), "start is 3; it must be an object of MLP, ConvNet, Boltzmann, Mixture or a function"),
    ],
)
def test_settings_of_another_type(changes, message):
    with pytest.raises(ValueError, match=message):
        Jarzynski(**{**dict(space=Sphere(3), start=MLP(8)), **changes})


class Wrong(Energy):
    shape: str = eqx.field(static=True)
    scale: Any

    def __call__(self, x):
        last = jnp.where(jnp.arange(x.shape[0]) == x.shape[0] - 1, jnp.nan, 1.0)
        return {"matrix": jnp.ones((x.shape[0], 1)), "scalar": jnp.ones(()), "nan at a point": last}[self.shape] * self.scale


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        (lambda key, space, dtype: Wrong("matrix", jnp.ones((), dtype)), {}, r"\(3, 2\) is float32 of shape \(3, 1\); it must be"),
        (lambda key, space, dtype: Wrong("scalar", jnp.ones((), dtype)), {}, r"is float32 of shape \(\); it must be"),
        (lambda key, space, dtype: Wrong("nan at a point", jnp.ones((), dtype)), {}, "is not finite in step 0"),
        (lambda key, space, dtype: jnp.ones(3), {}, "it must be an Energy"),
        (Mixture(2), dict(fixed=("meens",)), "fixed is 'meens'; did you mean 'means'"),
        (Mixture(2), dict(fixed=("means", "offsets")), "leaves nothing of GaussianMixture"),
        (Mixture(2), dict(integrator="gibbs"), "GaussianMixture has no such move"),
        (MLP(8), {}, "flat measure cannot be sampled, and Perceptron has no method `sample`"),
    ],
)
def test_bad_energies(start, changes, message):
    method = algorithm_1(Euclidean(2, Flat()), start, walkers=100, **changes)
    with pytest.raises(ValueError, match=message):
        method.check(method.rates, Samples(jnp.ones((3, 2), jnp.float32)))


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_thresholds_outside_the_unit_interval(threshold):
    method = algorithm_1(Euclidean(2, Flat()), Mixture(2), walkers=100)
    with pytest.raises(ValueError, match=r"threshold is .*greater than 0 and at most 1"):
        method.check(method.rates._replace(threshold=threshold), Samples(jnp.ones((3, 2), jnp.float32)))


def test_a_threshold_by_variation():
    assert threshold_of_variation(0.05) == pytest.approx(1 / 1.05)
    with pytest.raises(ValueError, match="square is -1"):
        threshold_of_variation(-1.0)


def test_collapse_is_told_with_what_to_change():
    method = algorithm_1(Euclidean(2, Flat()), Mixture(2), walkers=100)
    data = Samples(jnp.array(np.ones((3, 2), np.float32)))
    state = start(jax.random.key(0), method, method.rates, data)
    assert method.warnings(state, Info(effective_fraction=jnp.array(0.5))) == {}
    told = method.warnings(state, Info(effective_fraction=jnp.array(0.0101)))["collapse"]
    assert "effective sample size is 1.01 of 100" in told and "Lower learning_rate" in told
