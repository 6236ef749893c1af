"""Algorithm 1 against the authors' traces and against NumPy loops."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualebm.features import ReLU
from dualebm.flows.noise import given
from dualebm.measures import Atoms, Samples
from dualebm.methods import presets
from dualebm.methods.dual import Dual, DualRates, DualState
from dualebm.methods.presets import rates_from_paper, rates_from_program
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.simulate import simulate, start, step
from tests import oracles

RATES = DualRates(0.04, 4.0, 4.0)


def sphere_points(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def state_of(particles, positions, weights, signs):
    atoms = Atoms(*map(jnp.array, (positions, np.log(weights), signs)))
    return DualState(jnp.array(np.transpose(particles)), atoms, jnp.int32(0))


@partial(jax.jit, static_argnames="method")
def advanced_with_info(method, normal, uniform, state, rates, data):
    """The deterministic rest of a step, without a random restart, under a known normal vector and uniform number of each particle."""
    return method.advance(given(normal, uniform), state.columns, state, rates, data)


def advanced(*arguments):
    """The state of `advanced_with_info`."""
    return advanced_with_info(*arguments)[0]


def still(count, dimension):
    """No noise, and uniform numbers under which every move is accepted."""
    return np.zeros((count, dimension)), np.zeros(count)


@pytest.mark.parametrize("witness_particles", ["moved", "current"])
@pytest.mark.parametrize("p_restart", [pytest.param(0.0, marks=pytest.mark.heavy), 0.5])
def test_current_sees_the_particles_before_their_restart_and_moved_after_their_move(x64, witness_particles, p_restart):
    """The sums that the moves leave behind are those of the right particles, with and without a random restart."""
    d, n = 3, 300
    data, method = Samples(jnp.array(sphere_points(1, n, d))), Dual(Sphere(d), neurons=5, witness_particles=witness_particles)
    rates = DualRates(0.1, 0.3, 0.4, p_restart, 10.0)
    state = start(jax.random.key(0), method, rates, data)._replace(columns=jnp.array(sphere_points(2, 2 * n, d).T))
    state, (after, _) = jax.device_get((state, step(jax.random.key(3), method, state, rates, data)))
    seen = after.columns.T if witness_particles == "moved" else state.columns.T
    F = oracles.witness(state.atoms.positions, seen, np.array(data.points))
    np.testing.assert_allclose(after.atoms.log_weights, 0.4 * state.atoms.signs * F, atol=1e-12)
    nearest = np.linalg.norm(after.columns.T[:, None] - np.array(data.points)[None], axis=-1).min(1)
    assert (np.median(nearest) < 0.25) or not p_restart


def test_several_moves_of_particles_and_of_neurons_equal_the_loops(x64):
    """3 Langevin moves under the old atoms, then 2 updates of the atoms, the second with F at the new ones."""
    d, m, n = 4, 5, 15
    data, theta = sphere_points(1, n, d), sphere_points(2, m, d)
    x, w, signs = np.concatenate([data, data]), np.linspace(0.5, 2, m), np.array([-1.0, 1, -1, 1, -1])
    method = Dual(Sphere(d), neurons=m, particle_moves=3, neuron_moves=2, integrator="projected")
    rates = DualRates(0.1, 0.5, 0.7, 0.0, 2.0)
    noise = np.random.default_rng(3).normal(size=(3, 2 * n, d))

    @jax.jit
    def moved(noise, state):
        draw = lambda k, start, pairs: given(noise[k])(None, start, pairs)  # noqa: E731
        return method.advance(draw, state.columns, state, rates, Samples(jnp.array(data)))[0]

    state = jax.device_get(moved(noise, state_of(x, theta, w, signs)))
    for k in range(3):
        x = oracles.move(x, noise[k], 0.1, "projected", lambda x: oracles.energy_gradient(x, theta, signs * w), None)[0]
    for _ in range(2):
        F, slope = oracles.witness(theta, x, data), oracles.witness_gradient(theta, x, data)
        theta = theta + 0.5 * signs[:, None] * oracles.tangent(theta, slope)
        theta, w = theta / np.linalg.norm(theta, axis=1, keepdims=True), w * np.exp(0.7 * signs * F)
        w = w * 2.0 / max(w.mean(), 2.0)
    np.testing.assert_allclose(state.columns.T, x, atol=1e-12)
    np.testing.assert_allclose(state.atoms.positions, theta, atol=1e-12)
    np.testing.assert_allclose(np.exp(state.atoms.log_weights), w, atol=1e-12)


@pytest.mark.heavy
def test_orthogonal_noise_has_the_same_law(x64):
    """Weak agreement at 5 sigma: mean energy after 5 moves from the same start, orthogonal against antithetic noise."""
    data, rates = Samples(jnp.array(sphere_points(1, 4000, 4))), DualRates(0.1, 0.0, 0.0, 0.0, 10.0)
    first, ends = None, {}
    for noise in ("antithetic", "orthogonal"):
        method = Dual(Sphere(4), neurons=6, noise=noise)
        first = state = start(jax.random.key(0), method, rates, data) if first is None else first
        for i in range(5):
            state, _ = step(jax.random.key(i + 2), method, state, rates, data)
        state = jax.device_get(state)
        coefficients = state.atoms.signs * np.exp(state.atoms.log_weights)
        ends[noise] = oracles.energy(state.columns.T, state.atoms.positions, coefficients)
    gap = ends["antithetic"].mean() - ends["orthogonal"].mean()
    assert abs(gap) < 5 * (ends["antithetic"].var() * 2 / 4000) ** 0.5 and gap != 0


def test_text_and_program_conventions_give_one_trajectory(x64):
    """Unit ball at inverse temperature beta with step s, against radius beta at temperature 1 (the text's Algorithm 1 in loops)."""
    beta, s, ratio, d, m, n = 10.0, 0.2, 1.0, 5, 6, 12
    rates = rates_from_paper(s, ratio, beta)
    assert rates == rates_from_program(0.02, 0.2, 0.2, 10.0)
    data, theta = sphere_points(1, n, d), sphere_points(2, m, d)
    samples, rng = Samples(jnp.array(data)), np.random.default_rng(3)
    w, signs, x = np.ones(m), rng.choice([-1.0, 1.0], m), np.concatenate([data, data])
    method = presets.text(Sphere(d), neurons=m, first_weights="one")
    scaled = start(jax.random.key(0), method, rates, samples).atoms.log_weights
    state = state_of(x, theta, np.exp(scaled), signs)
    for _ in range(3):
        noise = rng.normal(size=x.shape)
        state = advanced(method, noise, None, state, rates, samples)
        x = x - s * oracles.energy_gradient(x, theta, signs * w) + np.sqrt(2 * s / beta) * noise
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        F, slope = oracles.witness(theta, x, data), oracles.witness_gradient(theta, x, data)
        theta = theta + s * ratio * signs[:, None] * oracles.tangent(theta, slope)
        theta /= np.linalg.norm(theta, axis=1, keepdims=True)
        w = w * np.exp(s * ratio * signs * F)
        w = w / max(w.mean(), 1)
        after = jax.device_get(state)
        np.testing.assert_allclose(after.columns.T, x, atol=1e-12)
        np.testing.assert_allclose(after.atoms.positions, theta, atol=1e-12)
        np.testing.assert_allclose(np.exp(after.atoms.log_weights), beta * w, rtol=1e-12)


def test_fast_scale_of_the_paper():
    assert rates_from_paper(0.02, 20, 1, scale="fast")[:2] == (0.001, 0.02)
    assert rates_from_paper(0.02, 0.05, 1, scale="fast")[:2] == (0.02, 0.001)
    assert rates_from_paper(0.02, 20, 1, scale="particle")[:2] == (0.02, 0.4)


def test_initial_state_of_each_choice():
    data = Samples(jnp.array(sphere_points(0, 30, 4), jnp.float32))
    rates, points = RATES._replace(radius=7.0), np.asarray(data.points)
    init = lambda **changes: jax.device_get(start(jax.random.key(0), Dual(Sphere(4), **changes), rates, data))  # noqa: E731
    state = init()
    np.testing.assert_array_equal(state.columns.T, np.concatenate([points, points]))
    assert state.atoms.signs.sum() == 0 and (state.atoms.log_weights == 0).all()
    np.testing.assert_allclose(np.linalg.norm(state.atoms.positions, axis=1), 1, rtol=1e-6)
    drawn = init(signs="random", first_weights="uniform", neurons=4096)
    assert abs((drawn.atoms.signs == 1).mean() - 0.5) < 5 * 0.5 / 64
    uniform = np.exp(drawn.atoms.log_weights)
    assert abs(uniform.mean() - 0.5) < 5 * 12**-0.5 / 64 and uniform.max() < 1
    other = init(signs="all_negative", weight_unit="radius", particles=1000)
    assert (other.atoms.signs == -1).all()
    np.testing.assert_allclose(np.exp(other.atoms.log_weights), 7, rtol=1e-6)
    assert other.columns.T.shape == (1000, 4)
    counts = (other.columns.T[:, None] == points[None]).all(-1).sum(0)
    assert counts.sum() == 1000 and abs(counts - 1000 / 30).max() < 5 * (1000 / 30) ** 0.5


def test_weighted_data_are_drawn_and_seen_with_their_weights(x64):
    x = sphere_points(0, 4, 3)
    p = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        data = Samples(jnp.array(x), jnp.array(np.log(p)))
    method = Dual(Sphere(3), particles=4000, neurons=5)
    method.check(RATES, data)
    state = start(jax.random.key(0), method, RATES, data)
    particles = np.asarray(state.columns).T
    frequency = np.array([(particles == row).all(1).mean() for row in x])
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()
    repeated = Samples(jnp.array(np.repeat(x, [5, 0, 3, 2], axis=0)))
    moved = [advanced(method, *still(4000, 3), state, RATES, d).atoms for d in (data, repeated)]
    np.testing.assert_allclose(moved[0].positions, moved[1].positions, atol=1e-12)


def test_restart_until_switches_restarts_off(x64):
    data = Samples(jnp.array(sphere_points(0, 10, 3)))
    method = presets.program(Sphere(3), neurons=4, restart_every=2, restart_until=2)
    states = [start(jax.random.key(0), method, RATES, data)]
    for i in range(4):
        away = states[-1]._replace(columns=jnp.array(sphere_points(i + 1, 20, 3).T))
        states.append(advanced(method, *still(20, 3), away, RATES._replace(particle_step=1e-9), data))
    back = [float(abs(np.asarray(s.columns).T[:10] - data.points).max()) < 1e-6 for s in states[1:]]
    assert back == [False, True, False, False]


@pytest.mark.heavy
def test_bernoulli_restart_rate_and_schedule(x64):
    """p_R = 1 at first, then 0, by an optax schedule: particles are at the data plus one step, then wander off."""
    schedule = optax.piecewise_constant_schedule(1.0, {3: 0.0})
    method = Dual(Sphere(3), neurons=4, particles=600, integrator="projected")
    data, rates = Samples(jnp.array(sphere_points(0, 2, 3))), DualRates(1e-4, 0.0, 0.0)
    state = start(jax.random.key(0), method, rates, data)

    def distance(key, iterate):
        return jnp.mean(jnp.min(jnp.linalg.norm(iterate.state.particles[:, None] - iterate.data.points[None], axis=-1), axis=1))

    @jax.jit
    def records(key, state):
        return simulate(
            key, method, state, rates, data, steps=20, every=2, metrics={"distance": distance},
            schedule=lambda step, rates: rates._replace(restart_probability=schedule(step)),
        )[1]["distance"]  # fmt: skip

    found = np.asarray(records(jax.random.key(1), state))
    one_step = (np.pi * 1e-4) ** 0.5  # mean length of a two-dimensional Gaussian step of variance 2h per component
    assert abs(found[0] / one_step - 1) < 0.15
    assert found[-1] > 3 * one_step
    away = state._replace(columns=jnp.array(sphere_points(9, 600, 3).T))
    moved = step(jax.random.key(3), method, away, DualRates(1e-30, 0.0, 0.0, 0.25, 10.0), data)[0].columns
    restarted = np.linalg.norm(np.asarray(moved) - away.columns, axis=0) > 1e-9
    assert abs(restarted.mean() - 0.25) < 5 * (0.25 * 0.75 / 600) ** 0.5


@pytest.mark.heavy
def test_no_recompilation_when_rates_key_or_data_change():
    method = Dual(Sphere(3), neurons=4)
    data = [Samples(jnp.array(sphere_points(i, 10, 3), jnp.float32)) for i in range(2)]

    @chex.assert_max_traces(1)
    def traced(key, state, rates, data):
        return simulate(key, method, state, rates, data, steps=4, every=2, metrics={})

    run = jax.jit(traced)
    state = start(jax.random.key(0), method, method.rates, data[0])
    for seed, rates, x in [(0, RATES, data[0]), (1, DualRates(0.01, 0.1, 0.2, 0.5, 3.0), data[1])]:
        run(jax.random.key(seed), state, DualRates(*map(jnp.float32, rates)), x)
    assert Dual(Sphere(3), neurons=4) == method and hash(Dual(Sphere(3), neurons=4)) == hash(method)


@pytest.mark.heavy
def test_vmapped_runs_equal_single_runs(x64):
    """Seeds and rates vmapped through the start and a step of Algorithm 1, at a size with several noise blocks."""
    method = Dual(Sphere(15), neurons=16, particles=1202)
    data = Samples(jnp.array(sphere_points(0, 700, 15)))
    steps = np.array([0.01, 0.05, 0.2])

    def run(seed, size):
        key = jax.random.key(seed)
        rates = DualRates(size, 10 * size, 5 * size, 0.1, 10.0)
        return method.step(jax.random.fold_in(key, 1), method.init(key, rates, data), rates, data)[0]

    runs, one = jax.device_get(jax.jit(jax.vmap(run))(np.arange(3), steps)), jax.jit(run)
    for i in range(3):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-9), runs, one(i, steps[i]))


def test_both_precisions(dtype):
    data, method = Samples(jnp.array(sphere_points(0, 20, 3), dtype)), Dual(Sphere(3), neurons=4)
    rates = DualRates(*(jnp.asarray(r, dtype) for r in method.rates))
    state = jax.eval_shape(partial(start, method=method), jax.random.key(1), rates=rates, data=data)
    after = jax.eval_shape(partial(step, method=method), jax.random.key(0), state=state, rates=rates, data=data)
    for leaves in map(jax.tree.leaves, (state, after)):
        assert {x.dtype.name for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)} == {dtype}


def test_dead_atoms_stay_dead_and_are_counted(x64):
    data = Samples(jnp.array([[0.0, 0.0, 1.0]]))
    method = Dual(Sphere(3), neurons=2, weight_update="additive", signs="all_negative")
    state = state_of([[1.0, 0, 0], [1.0, 0, 0]], [[1.0, 0, 0], [0, 0, 1.0]], [0.1, 1.0], [-1.0, -1.0])
    clipped = []
    for _ in range(2):
        draw, rates = given(*map(jnp.array, still(2, 3))), DualRates(1e-12, 0.0, 1.0, 0.0, 10.0)
        state, info = jax.jit(lambda state, rates=rates, draw=draw: method.advance(draw, state.columns, state, rates, data))(state)
        clipped.append(int(info.clipped))
    assert np.exp(state.atoms.log_weights).tolist() == pytest.approx([0, 3], abs=1e-6)
    assert clipped == [1, 0]


BAD_RATES = [
    ("particle_step", 0.0), ("particle_step", -1.0), ("particle_step", np.nan), ("particle_step", 0.33), ("transport_step", -0.1),
    ("transport_step", np.inf), ("reaction_step", -1.0), ("restart_probability", 1.01), ("restart_probability", -0.1),
    ("radius", 0.0), ("radius", -3.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_RATES)
def test_bad_rates(name, value):
    data = Samples(jnp.array(sphere_points(0, 4, 15), jnp.float32))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Dual(Sphere(15)).check(RATES._replace(**{name: value}), data)
    Dual(Sphere(15)).check(RATES._replace(particle_step=0.32), data)


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        (rates_from_paper, (0.0, 1.0, 1.0), "step_size is 0.0"),
        (rates_from_paper, (0.1, -1.0, 1.0), "ratio is -1.0"),
        (rates_from_paper, (0.1, float("inf"), 1.0), "ratio is inf"),
        (rates_from_paper, (0.1, 1.0, 0.0), "beta is 0.0"),
        (rates_from_paper, (0.1, 1.0, 1.0, 2.0), "restart_probability is 2.0"),
        (rates_from_paper, (0.1, 1.0, 1.0, 0.0, "fats"), "did you mean 'fast'"),
        (rates_from_program, (0.0, 1.0, 1.0, 1.0), "hx is 0.0"),
        (rates_from_program, (1.0, -1.0, 1.0, 1.0), "hz is -1.0"),
        (rates_from_program, (1.0, 1.0, -1.0, 1.0), "hw is -1.0"),
        (rates_from_program, (1.0, 1.0, 1.0, 0.0), "budget is 0.0"),
    ],
)
def test_bad_builders(builder, arguments, message):
    with pytest.raises(ValueError, match=message):
        builder(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(neurons=0), "neurons is 0"),
        (dict(particles=0), "particles is 0"),
        (dict(particles=3), "particles is 3; it must be even"),
        (dict(noise="antithetc"), "did you mean 'antithetic'"),
        (dict(particle_moves=0), "particle_moves is 0"),
        (dict(neuron_moves=0), "neuron_moves is 0"),
        (dict(data_batch=0), "data_batch is 0"),
        (dict(data_refresh=0), "data_refresh is 0"),
        (dict(block=100), "block is 100; it must be a multiple of 256"),
        (dict(integrator="maal"), "did you mean 'mala'"),
        (dict(witness_particles="move"), "did you mean 'moved'"),
        (dict(signs="negative"), "Allowed: 'half', 'random', 'all_negative'"),
        (dict(weight_update="add"), "weight_update is 'add'"),
        (dict(restart_every=0), "restart_every is 0"),
        (dict(restart_until=5), "restart_until is 5 and restart_every is None"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Dual(Sphere(3), **changes)


def bad_data():
    x = sphere_points(0, 5, 3).astype("float32")
    nan = x.copy()
    nan[2, 1] = np.nan
    return [
        (x[:0], "empty"), (nan, "row 2"), (x * np.float32(2), "normalise"), (x[:, :2], "2 components; it must have 3"),
        (x[0], "shape"), (np.ones((3, 3), int), "int64"), (x.astype(complex), "complex128"), (x.astype(float), "JAX_ENABLE_X64"),
    ]  # fmt: skip


@pytest.mark.parametrize(("points", "message"), bad_data())
def test_bad_data(points, message):
    with pytest.raises(ValueError, match=message):
        Dual(Sphere(3)).check(RATES, Samples(points))


def test_weighted_data_refuse_copies():
    data = Samples(jnp.array(sphere_points(0, 5, 3), jnp.float32), jnp.zeros(5))
    with pytest.raises(ValueError, match="particles is None, which is copies of the data, and the data have weights; give a number"):
        Dual(Sphere(3)).check(RATES, data)
    with pytest.raises(ValueError, match=r"restart_every is 3, which moves particles to copies of the data, .* must be None"):
        Dual(Sphere(3), particles=10, restart_every=3).check(RATES, data)


def test_the_neuron_step_counts_the_weights_of_the_data():
    points, counts = np.random.default_rng(0).normal(size=(20, 2)).astype("float32"), np.arange(1, 21)
    weighted = Dual(Euclidean(2)).rates_for(Samples(jnp.asarray(points), jnp.log(jnp.asarray(counts, "float32"))))
    repeated = Dual(Euclidean(2)).rates_for(Samples(jnp.asarray(np.repeat(points, counts, axis=0))))
    assert weighted.transport_step == pytest.approx(repeated.transport_step, rel=1e-5)


def test_training_on_the_plane_with_a_bias():
    """Ten steps stay finite and move everything; the sphere with a bias is compared with the NumPy loop elsewhere."""
    data = Samples(jnp.array(np.random.default_rng(0).normal(size=(50, 2)), jnp.float32))
    method = Dual(Euclidean(2), ReLU(bias=True), neurons=6)
    method.check(method.rates, data)
    first = state = start(jax.random.key(1), method, method.rates, data)
    for i in range(10):
        state, _ = step(jax.random.key(i + 2), method, state, method.rates, data)
    first, state = jax.device_get((first, state))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert (state.columns.T != first.columns.T).any(1).mean() > 0.5
    assert (state.atoms.positions != first.atoms.positions).any(1).sum() >= 3  # a neuron that sees no point stays
