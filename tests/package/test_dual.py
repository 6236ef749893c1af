"""Algorithm 1 against the authors' traces and against NumPy loops."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualebm.features import ReLU
from dualebm.flows.langevin import given
from dualebm.measures import Atoms, Samples
from dualebm.methods import dual
from dualebm.methods.dual import Dual, DualRates, DualState, rates_from_paper, rates_from_program
from dualebm.simulate import run_intervals, simulate
from dualebm.spaces import Euclidean, Sphere
from tests import oracles

RATES = DualRates(0.04, 4.0, 4.0)


def sphere_points(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def state_of(particles, positions, weights, signs):
    atoms = Atoms(jnp.array(positions), jnp.log(jnp.array(weights)), jnp.array(signs))
    return DualState(jnp.array(particles).T, atoms, jnp.int32(0), jnp.ones(()), jnp.int32(0))








@pytest.mark.parametrize("witness_particles", ["moved", "current"])
@pytest.mark.parametrize("p_restart", [pytest.param(0.0, marks=pytest.mark.heavy), 0.5])
def test_current_sees_the_particles_before_their_restart_and_moved_after_their_move(x64, witness_particles, p_restart):
    """The sums that the moves leave behind are those of the right particles, with and without a random restart."""
    d, n = 3, 300
    data, method = Samples(jnp.array(sphere_points(1, n, d))), Dual(Sphere(d), neurons=5, witness_particles=witness_particles)
    rates = DualRates(0.1, 0.3, 0.4, p_restart, 10.0)
    state = method.init(jax.random.key(0), rates, data)._replace(columns=jnp.array(sphere_points(2, 2 * n, d)).T)
    after = jax.jit(method.step)(jax.random.key(3), state, jax.tree.map(jnp.float64, rates), data)
    seen = after.particles if witness_particles == "moved" else state.particles
    F = oracles.witness(np.array(state.atoms.positions), np.array(seen), np.array(data.points))
    np.testing.assert_allclose(after.atoms.log_weights, 0.4 * state.atoms.signs * F, atol=1e-12)
    start = np.linalg.norm(np.array(after.particles)[:, None] - np.array(data.points)[None], axis=-1).min(1)
    assert (np.median(start) < 0.25) or not p_restart


def test_several_moves_of_particles_and_of_neurons_equal_the_loops(x64):
    """3 Langevin moves under the old atoms, then 2 updates of the atoms, the second with F at the new ones."""
    d, m, n = 4, 5, 15
    data, theta = sphere_points(1, n, d), sphere_points(2, m, d)
    x, w, signs = np.concatenate([data, data]), np.linspace(0.5, 2, m), np.array([-1.0, 1, -1, 1, -1])
    method = Dual(Sphere(d), neurons=m, particle_moves=3, neuron_moves=2, integrator="projected")
    rates = DualRates(0.1, 0.5, 0.7, 0.0, 2.0)
    noise = np.random.default_rng(3).normal(size=(3, 2 * n, d))

    def draw(k, start, pairs):
        first, second = given(jnp.array(noise)[k])(None, start, pairs)
        return first, second

    state = method.advance(draw, jnp.array(x).T, state_of(x, theta, w, signs), rates, Samples(jnp.array(data)))
    for k in range(3):
        x = oracles.move(x, noise[k], 0.1, "projected", lambda x: oracles.energy_gradient(x, theta, signs * w), None)[0]
    for _ in range(2):
        F, slope = oracles.witness(theta, x, data), oracles.witness_gradient(theta, x, data)
        theta = theta + 0.5 * signs[:, None] * oracles.tangent(theta, slope)
        theta, w = theta / np.linalg.norm(theta, axis=1, keepdims=True), w * np.exp(0.7 * signs * F)
        w = w * 2.0 / max(w.mean(), 2.0)
    np.testing.assert_allclose(state.particles, x, atol=1e-12)
    np.testing.assert_allclose(state.atoms.positions, theta, atol=1e-12)
    np.testing.assert_allclose(jnp.exp(state.atoms.log_weights), w, atol=1e-12)




def test_orthogonal_noise_has_the_same_law(x64):
    """Weak agreement at 5 sigma: mean energy after 5 moves from the same start, orthogonal against antithetic noise."""
    data = Samples(jnp.array(sphere_points(1, 4000, 4)))
    ends = {}
    for noise in ("antithetic", "orthogonal"):
        method = Dual(Sphere(4), neurons=6, noise=noise)
        rates = DualRates(0.1, 0.0, 0.0, 0.0, 10.0)
        state = method.init(jax.random.key(0), rates, data)
        state, _ = simulate(jax.random.key(2), method, state, rates, data, steps=6, every=2, metrics={})
        ends[noise] = np.array(method.energy(state, rates, data)(state.particles))
    gap = ends["antithetic"].mean() - ends["orthogonal"].mean()
    assert abs(gap) < 5 * (ends["antithetic"].var() * 2 / 4000) ** 0.5 and gap != 0


def test_text_and_program_conventions_give_one_trajectory(x64):
    """Unit ball at inverse temperature beta with step s, against radius beta at temperature 1 (the text's Algorithm 1 in loops)."""
    beta, s, ratio, d, m, n = 10.0, 0.2, 1.0, 5, 6, 12
    rates = rates_from_paper(s, ratio, beta)
    assert rates == rates_from_program(0.02, 0.2, 0.2, 10.0)
    data, theta = sphere_points(1, n, d), sphere_points(2, m, d)
    rng = np.random.default_rng(3)
    w, signs, x = np.ones(m), rng.choice([-1.0, 1.0], m), np.concatenate([data, data])
    method = dual.text(Sphere(d), neurons=m, weights="one")
    state = state_of(x, theta, np.exp(method_weights(method, rates, data)), signs)
    for _ in range(3):
        noise = rng.normal(size=x.shape)
        state = method.advance(
            given(jnp.array(noise)), state.columns, state, rates, Samples(jnp.array(data))
        )
        x = x - s * oracles.energy_gradient(x, theta, signs * w) + np.sqrt(2 * s / beta) * noise
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        F, slope = oracles.witness(theta, x, data), oracles.witness_gradient(theta, x, data)
        theta = theta + s * ratio * signs[:, None] * oracles.tangent(theta, slope)
        theta /= np.linalg.norm(theta, axis=1, keepdims=True)
        w = w * np.exp(s * ratio * signs * F)
        w = w / max(w.mean(), 1)
        np.testing.assert_allclose(state.particles, x, atol=1e-12)
        np.testing.assert_allclose(state.atoms.positions, theta, atol=1e-12)
        np.testing.assert_allclose(jnp.exp(state.atoms.log_weights), beta * w, rtol=1e-12)


def method_weights(method, rates, data):
    return method.init(jax.random.key(0), rates, Samples(jnp.array(data))).atoms.log_weights


def test_fast_scale_of_the_paper():
    assert rates_from_paper(0.02, 20, 1, scale="fast")[:2] == (0.001, 0.02)
    assert rates_from_paper(0.02, 0.05, 1, scale="fast")[:2] == (0.02, 0.001)
    assert rates_from_paper(0.02, 20, 1, scale="particle")[:2] == (0.02, 0.4)


def test_initial_state_of_each_choice():
    data = Samples(jnp.array(sphere_points(0, 30, 4), jnp.float32))
    rates = RATES._replace(radius=jnp.float32(7))
    init = lambda **changes: Dual(Sphere(4), **changes).init(jax.random.key(0), rates, data)  # noqa: E731
    state = init()
    np.testing.assert_array_equal(state.particles, jnp.concatenate([data.points, data.points]))
    assert state.atoms.signs.sum() == 0 and (state.atoms.log_weights == 0).all()
    np.testing.assert_allclose(jnp.linalg.norm(state.atoms.positions, axis=1), 1, rtol=1e-6)
    assert (init(signs="all_negative").atoms.signs == -1).all()
    assert 0 < (init(signs="random", neurons=256).atoms.signs == 1).mean() < 1
    uniform = jnp.exp(init(weights="uniform", neurons=4096).atoms.log_weights)
    assert abs(uniform.mean() - 0.5) < 5 * 12**-0.5 / 64 and uniform.max() < 1
    np.testing.assert_allclose(jnp.exp(init(weight_unit="radius").atoms.log_weights), 7, rtol=1e-6)
    drawn = init(particles=1000).particles
    assert drawn.shape == (1000, 4)
    counts = (drawn[:, None] == data.points[None]).all(-1).sum(0)
    assert counts.sum() == 1000 and abs(counts - 1000 / 30).max() < 5 * (1000 / 30) ** 0.5


def test_weighted_data_are_drawn_and_seen_with_their_weights(x64):
    x = sphere_points(0, 4, 3)
    p = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        data = Samples(jnp.array(x), jnp.array(np.log(p)))
    method = Dual(Sphere(3), particles=4000, neurons=5)
    method.check(RATES, data)
    state = method.init(jax.random.key(0), RATES, data)
    frequency = np.array([(np.asarray(state.particles) == row).all(1).mean() for row in x])
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()
    repeated = Samples(jnp.array(np.repeat(x, [5, 0, 3, 2], axis=0)))
    still = given(jnp.zeros((4000, 3)), jnp.zeros(4000))
    moved = [method.advance(still, state.columns, state, RATES, d).atoms for d in (data, repeated)]
    np.testing.assert_allclose(moved[0].positions, moved[1].positions, atol=1e-12)


def test_restart_until_switches_restarts_off(x64):
    data = Samples(jnp.array(sphere_points(0, 10, 3)))
    method = dual.program(Sphere(3), neurons=4, restart_every=2, restart_until=2)
    states = [method.init(jax.random.key(0), RATES, data)]
    still = given(jnp.zeros((20, 3)), jnp.zeros(20))
    for i in range(4):
        away = states[-1]._replace(columns=jnp.array(sphere_points(i + 1, 20, 3)).T)
        states.append(method.advance(still, away.columns, away, RATES._replace(particle_step=1e-9), data))
    back = [float(abs(s.particles[:10] - data.points).max()) < 1e-6 for s in states[1:]]
    assert back == [False, True, False, False]


def test_bernoulli_restart_rate_and_schedule(x64):
    """p_R = 1 at first, then 0, by an optax schedule: particles are at the data plus one step, then wander off."""
    schedule = optax.piecewise_constant_schedule(1.0, {3: 0.0})
    method = Dual(Sphere(3), neurons=4, particles=600, integrator="projected")
    data = Samples(jnp.array(sphere_points(0, 2, 3)))
    rates = DualRates(1e-4, 0.0, 0.0)
    state = method.init(jax.random.key(0), rates, data)

    def distance(key, method, state, rates, data):
        return jnp.mean(jnp.min(jnp.linalg.norm(state.particles[:, None] - data.points[None], axis=-1), axis=1))

    _, records = simulate(
        jax.random.key(1), method, state, rates, data, steps=20, every=2, metrics={"distance": distance},
        schedule=lambda step, rates: rates._replace(restart_probability=schedule(step)),
    )  # fmt: skip
    one_step = (np.pi * 1e-4) ** 0.5  # mean length of a two-dimensional Gaussian step of variance 2h per component
    assert abs(records["distance"][0] / one_step - 1) < 0.15
    assert records["distance"][-1] > 3 * one_step
    away = state._replace(columns=jnp.array(sphere_points(9, 600, 3)).T)
    moved = jax.jit(method.step)(jax.random.key(3), away, DualRates(1e-30, 0.0, 0.0, 0.25, 10.0), data).particles
    restarted = jnp.linalg.norm(moved - away.particles, axis=1) > 1e-9
    assert abs(restarted.mean() - 0.25) < 5 * (0.25 * 0.75 / 600) ** 0.5


def test_no_recompilation_when_rates_key_or_data_change():
    method = Dual(Sphere(3), neurons=4)
    data = [Samples(jnp.array(sphere_points(i, 10, 3), jnp.float32)) for i in range(2)]

    @chex.assert_max_traces(1)
    def traced(key, state, rates, data):
        return simulate(key, method, state, rates, data, steps=4, every=2, metrics={})

    run = jax.jit(traced)
    state = method.init(jax.random.key(0), method.rates, data[0])
    for seed, rates, x in [(0, RATES, data[0]), (1, DualRates(0.01, 0.1, 0.2, 0.5, 3.0), data[1])]:
        run(jax.random.key(seed), state, jax.tree.map(jnp.float32, rates), x)
    assert Dual(Sphere(3), neurons=4) == method and hash(Dual(Sphere(3), neurons=4)) == hash(method)


def test_vmapped_lanes_equal_single_runs(x64):
    """Seeds and rates vmapped through the whole of Algorithm 1, at a size with several noise blocks."""
    method = Dual(Sphere(15), neurons=16, particles=1202)
    data = Samples(jnp.array(sphere_points(0, 700, 15)))
    steps, keys = jnp.array([0.01, 0.05, 0.2]), jax.random.split(jax.random.key(0), 3)

    def run(key, step):
        rates = DualRates(step, 10 * step, 5 * step, 0.1, 10.0)
        return simulate(key, method, method.init(key, rates, data), rates, data, steps=4, every=2, metrics={})[0]

    lanes = jax.jit(jax.vmap(run))(keys, steps)
    for i in range(3):
        alone = jax.jit(run)(keys[i], steps[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-9), lanes, alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_precisions(dtype):
    with jax.enable_x64(dtype == "float64"):
        data = Samples(jnp.array(sphere_points(0, 20, 3), dtype))
        method = Dual(Sphere(3), neurons=4)
        rates = jax.tree.map(lambda r: jnp.asarray(r, dtype), method.rates)
        state = jax.jit(method.step)(jax.random.key(0), method.init(jax.random.key(1), rates, data), rates, data)
        floats = [x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert set(map(str, floats)) == {dtype}


def test_dead_atoms_stay_dead_and_are_counted(x64):
    data = Samples(jnp.array([[0.0, 0.0, 1.0]]))
    method = Dual(Sphere(3), neurons=2, weight_update="additive", signs="all_negative")
    state = state_of([[1.0, 0, 0], [1.0, 0, 0]], [[1.0, 0, 0], [0, 0, 1.0]], [0.1, 1.0], [-1.0, -1.0])
    rates = DualRates(1e-12, 0.0, 1.0, 0.0, 10.0)
    still = given(jnp.zeros((2, 3)), jnp.zeros(2))
    for _ in range(2):
        state = method.advance(still, state.columns, state, rates, data)
    assert jnp.exp(state.atoms.log_weights).tolist() == pytest.approx([0, 3], abs=1e-6)
    assert int(state.clipped) == 1


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
    with pytest.raises(ValueError, match=r"data\.log_weights is given"):
        Dual(Sphere(3)).check(RATES, data)


def test_other_spaces_train():
    """Ten steps on R^2 and with a bias on S^2 stay finite and move everything."""
    for space, feature in [(Euclidean(2), ReLU(bias=True)), (Sphere(3), ReLU(bias=True))]:
        points = space.sample_base(jax.random.key(0), 50, jnp.float32)
        method = Dual(space, feature, neurons=6)
        data = Samples(points)
        method.check(method.rates, data)
        state = method.init(jax.random.key(1), method.rates, data)
        after, records = run_intervals(
            jax.random.key(2), method, state, method.rates, data, jnp.ones(5, bool), 2, {}, None
        )
        assert (records["diverged"] == 0).all()
        assert (after.particles != state.particles).any(1).mean() > 0.5
        assert (after.atoms.positions != state.atoms.positions).any(1).sum() >= 3  # a neuron that sees no point stays


def test_settings_are_static_and_hold_no_arrays():
    for field in dataclasses.fields(Dual):
        hash(getattr(Dual(Sphere(3)), field.name))
