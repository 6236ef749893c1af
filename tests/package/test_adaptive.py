"""The adapted steps against NumPy recursions, dense matrices, and the stability of exact dynamics on the circle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.features import ReLU, Softplus
from dualebm.measures import Atoms, Samples
from dualebm.methods.adaptive import Adaptive, power_iteration, roots
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Sphere
from dualebm.training.simulate import start, step
from tests.cases import heavy

RATES = DualRates(0.02, 1.0, 2.0)
COMMON = dict(warmup=12, acceptance=0.6, safety=1.0, sample=30)
"""Settings of most tests, so that they share their programs; every fourth of 120 particles is seen."""


def sphere_points(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def small(d=3, count=60, **changes):
    data = Samples(jnp.array(sphere_points(0, count, d), jnp.float32))
    return Adaptive(Dual(Sphere(d), neurons=6), **changes), data


def traced(rates, dtype=jnp.float32):
    return DualRates(*(jnp.asarray(rate, dtype) for rate in rates))


def trajectory_with_infos(method, rates, data, steps):
    rates = traced(rates, data.points.dtype)
    states, infos = [start(jax.random.key(1), method, rates, data)], []
    for i in range(steps):
        state, info = step(jax.random.fold_in(jax.random.key(2), i), method, states[-1], rates, data)
        states.append(state)
        infos.append(info)
    return states, infos


def trajectory(method, rates, data, steps):
    return trajectory_with_infos(method, rates, data, steps)[0]


adapted = jax.jit(Adaptive.adapted, static_argnums=0)


@partial(jax.jit, static_argnames=("feature", "space", "count", "additive"))
def iterated(feature, atoms, rates, before, x, direction, space, count=1, additive=False):
    """The scales of the power method, and what `count` of its iterations find."""
    scales = roots(atoms, rates, additive)
    found = direction, jnp.zeros((), x.dtype), jnp.zeros((), x.dtype)
    again = lambda _, found: power_iteration(feature, atoms, scales, before, x, found[0], space)  # noqa: E731
    return scales, *jax.lax.fori_loop(0, count, again, found)


def test_eigenvalue_and_relaxation_against_a_dense_matrix(x64):
    """Weights and tangential positions, unequal steps: lambda_max of K^T K / S in NumPy, and rho of its vector."""
    rng = np.random.default_rng(0)
    x, before, theta = sphere_points(1, 300, 3), sphere_points(2, 300, 3), sphere_points(3, 5, 3)
    weights, signs = rng.uniform(0.5, 9, 5), np.array([1.0, -1, -1, 1, -1])
    atoms = Atoms(jnp.array(theta), jnp.log(jnp.array(weights)), jnp.array(signs))

    def dense(x):
        reach = x @ theta.T
        columns = [signs * np.sqrt(3.0 * weights / 5) * np.maximum(reach, 0)]
        for j in range(5):
            inner = np.where(reach[:, j, None] > 0, x, 0.0)
            tangential = inner - (inner @ theta[j])[:, None] * theta[j]
            columns.append(signs[j] * np.sqrt(0.7 * weights[j] / 5) * tangential)
        K = np.concatenate(columns, axis=1)
        return K - K.mean(0)

    values, vectors = np.linalg.eigh(dense(x).T @ dense(x) / 300)
    g, old = dense(x) @ vectors[:, -1], dense(before) @ vectors[:, -1]
    direction, rates = (rng.normal(size=5), rng.normal(size=(5, 3))), DualRates(0.1, 0.7, 3.0)
    scales, _, eigenvalue, relaxation = iterated(ReLU(), atoms, rates, before, x, direction, Sphere(3), 300)
    assert values[-2] < 0.95 * values[-1]
    np.testing.assert_allclose(eigenvalue, values[-1], rtol=1e-10)
    np.testing.assert_allclose(relaxation, np.mean((g - old) ** 2) / (2 * np.mean(g**2)), rtol=1e-6)
    additive = jax.jit(roots, static_argnums=2)(atoms, rates, True)
    np.testing.assert_allclose(additive[0], np.sqrt(3.0 / 5), rtol=1e-12)
    np.testing.assert_allclose(additive[1], scales[1], rtol=1e-12)


@pytest.mark.parametrize("rho", [pytest.param(1.0, marks=pytest.mark.heavy), 0.5])
def test_the_edge_is_that_of_the_exact_dynamics(x64, rho):
    """On the circle, the particles' measure by quadrature, of which a fraction rho relaxes in a step: F's sign alternates and grows just
    above lambda = 4 / rho - 2, and dies below. Weights and positions move, in loops of NumPy; lambda is of the package."""
    angle = 2 * np.pi * (np.arange(2000) + 0.5) / 2000
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    theta, weights, signs = sphere_points(4, 3, 2), np.array([4.0, 6.0, 3.0]), np.array([-1.0, -1.0, 1.0])
    sharpness, steps = 3.0, (1.0, 2.0)

    def phi(theta):
        return np.log1p(np.exp(sharpness * x @ theta.T)) / sharpness

    def gibbs(theta, weights):
        p = np.exp(-phi(theta) @ (signs * weights) / 3)
        return p / p.sum()

    data = gibbs(theta, weights)
    quantiles = np.interp((np.arange(20_000) + 0.5) / 20_000, np.cumsum(data), angle + np.pi / 2000)
    particles = np.stack([np.cos(quantiles), np.sin(quantiles)], axis=1)
    atoms = Atoms(jnp.array(theta), jnp.log(jnp.array(weights)), jnp.array(signs))
    direction, rates = (np.ones(3), sphere_points(5, 3, 2)), DualRates(0.1, *steps)
    scales, direction, eigenvalue, _ = jax.device_get(
        iterated(Softplus(sharpness), atoms, rates, particles, particles, direction, Sphere(2), 100)
    )

    def last(fraction, iterations=100):
        factor = fraction * (4 / rho - 2) / float(eigenvalue)
        a, b = direction[0] * scales[0], direction[1] * scales[1][:, None]
        mass = weights / 3
        w, z = weights * np.exp(1e-5 * a / mass), theta + 1e-5 * b / mass[:, None]
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        p, history = data, []
        for _ in range(iterations):
            p = (1 - rho) * p + rho * gibbs(z, w)
            F = (p - data) @ phi(z)
            slope = ((p - data)[:, None] / (1 + np.exp(-sharpness * x @ z.T))).T @ x
            slope -= np.sum(slope * z, 1, keepdims=True) * z
            z = z + factor * steps[0] * signs[:, None] * slope
            z /= np.linalg.norm(z, axis=1, keepdims=True)
            w = w * np.exp(factor * steps[1] * signs * F)
            history.append(F)
        return np.array(history)

    below, above = last(0.95), last(1.05)
    size = lambda F: np.abs(F).max()  # noqa: E731
    assert size(below[-10:]) < 0.2 * size(below[:10])
    assert size(above[-10:]) > 5 * size(above[:10])
    strongest = np.argmax(np.abs(above[-1]))
    assert (np.sign(above[-6:-1, strongest]) == -np.sign(above[-5:, strongest])).all()


@pytest.mark.parametrize(
    ("particle_step", "safety", "bound"),
    [(0.4, 1.0, 0), *(pytest.param(*case, marks=pytest.mark.heavy) for case in ((0.4, 0.1, 1), (0.0002, 1.0, 2)))],
)
def test_factors_follow_the_recursions(particle_step, safety, bound):
    """Both in NumPy, from the recorded acceptance, eigenvalue and relaxation; neurons wait five steps; all stop after the warm-up."""
    method, data = small(**{**COMMON, "acceptance": 0.6 if bound < 2 else None, "safety": safety})
    states, infos = jax.device_get(trajectory_with_infos(method, RATES._replace(particle_step=particle_step), data, 16))
    binding = set()
    particle, neuron = 0.0, float(states[0].log_neuron)
    for t, state in enumerate(states[1:13]):
        gain = (t + 1.0) ** -0.6
        if bound < 2:
            particle = min(particle + 2 * gain * (float(infos[t].acceptance) - 0.6), np.log(np.pi**2 / 6 / particle_step))
        if t >= 5:
            rho = np.clip(float(state.relaxation), 0.01, 1)
            bounds = (2, safety * (4 / rho - 2), 8 * rho)
            binding.add(int(np.argmin(bounds)))
            neuron += gain * (np.log(min(bounds) / float(state.eigenvalue)) - neuron)
        np.testing.assert_allclose(state.log_particle, particle, atol=1e-5)
        np.testing.assert_allclose(state.log_neuron, neuron, atol=1e-5)
    assert bound in binding and neuron != float(states[0].log_neuron)
    for state in states[13:]:
        for name in ("log_particle", "log_neuron", "direction", "eigenvalue", "relaxation", "start"):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(states[12], name))
    assert (states[13].inner.columns != states[12].inner.columns).any() and states[-1].inner.step == 16


def test_neurons_begin_at_half_the_quasi_static_edge(x64):
    """lambda of the initial atoms at full weights, dense, from the data themselves."""
    data = Samples(jnp.array(sphere_points(0, 80, 3)))
    method = Adaptive(Dual(Sphere(3), neurons=3, signs="all_negative"))
    state = start(jax.random.key(0), method, RATES._replace(transport_step=0.0, radius=7.0), data)
    state = jax.device_get(state)
    K = -np.sqrt(2.0 * 7 / 3) * np.maximum(np.asarray(data.points) @ state.inner.atoms.positions.T, 0)
    largest = np.linalg.eigvalsh(np.cov(K.T, ddof=0)).max()
    np.testing.assert_allclose(np.exp(state.log_neuron) * largest, 1, rtol=1e-3)


def test_nothing_adapted_is_the_method_within():
    data = Samples(jnp.array(sphere_points(0, 60, 3), jnp.float32))
    inner = Dual(Sphere(3), neurons=6)
    a = trajectory(Adaptive(inner, acceptance=None, safety=None), RATES, data, 5)
    b = trajectory(inner, RATES, data, 5)
    for mine, other in zip(a, b, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine.inner, other)
        assert mine.step == other.step
        np.testing.assert_array_equal(mine.particles, other.particles)


def test_the_method_within_takes_the_adapted_steps():
    """A step of the adaptive method is a step of its own at `adapted`; a schedule multiplies, and the radius passes through."""
    method, data = small(**COMMON)
    rates = traced(RATES)
    state = trajectory(method, RATES, data, 10)[-1]
    particle, transport, reaction, _, radius = adapted(method, state, rates._replace(radius=4.0, transport_step=0.5))
    np.testing.assert_allclose(particle, 0.02 * np.exp(state.log_particle), rtol=1e-6)
    np.testing.assert_allclose(transport, 0.5 * np.exp(state.log_neuron), rtol=1e-6)
    np.testing.assert_allclose(reaction, 2.0 * np.exp(state.log_neuron), rtol=1e-6)
    assert radius == 4.0
    stepped, _ = step(jax.random.key(7), method, state, rates, data)
    alone, _ = step(jax.random.key(7), method.method, state.inner, adapted(method, state, rates), data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), stepped.inner, alone)


@pytest.mark.heavy
@pytest.mark.parametrize("begin", [pytest.param(0.004, marks=pytest.mark.heavy), 0.32])
def test_the_acceptance_is_reached(begin):
    """From steps far too short and too long, on the data of a teacher with the teacher's own atoms: 0.8 within 0.04, as a mean of 40 steps
    of 2000 particles after the warm-up (standard error 0.002)."""
    target = targets.teacher("s14_monomodal")
    data, _ = targets.sample(jax.random.key(0), target, 1000)
    method = Adaptive(Dual(target.space, neurons=2, signs="all_negative"), warmup=60)
    rates = traced(DualRates(begin, 0.0, 0.0))
    state = start(jax.random.key(1), method, rates, data)
    energy = target.energy
    atoms = Atoms(energy.positions, jnp.array(np.log(-np.asarray(energy.coefficients))), jnp.array([-1.0, -1.0]))
    state, acceptance = state._replace(inner=state.inner._replace(atoms=atoms)), []
    for i in range(100):
        state, info = step(jax.random.fold_in(jax.random.key(2), i), method, state, rates, data)
        acceptance.append(float(info.acceptance))
    assert abs(np.mean(acceptance[-40:]) - 0.8) < 0.04


def test_neuron_steps_do_not_depend_on_where_they_begin():
    """A factor of a thousand in both neuron steps is taken back, but for rounding."""
    method, data = small(**COMMON)
    found = []
    for factor in (1, 1000):
        rates = traced(RATES._replace(transport_step=0.01 * factor, reaction_step=0.02 * factor))
        state = trajectory(method, rates, data, 8)[-1]
        found.append(float(adapted(method, state, rates).transport_step))
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_resting_neurons_and_dead_atoms_give_no_nan():
    method, data = small(**COMMON)
    state = trajectory(method, DualRates(0.02, 0.0, 0.0), data, 8)[-1]
    assert state.log_neuron == 0 and state.eigenvalue == 0
    dead = state.inner.atoms._replace(log_weights=jnp.array([0.0] + 5 * [-np.inf], jnp.float32))
    state = state._replace(inner=state.inner._replace(atoms=dead))
    state, _ = step(jax.random.key(0), method, state, traced(RATES), data)
    assert all(not np.isnan(leaf).any() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "changes", [{}, heavy(dict(weight_update="additive")), heavy(dict(feature=Softplus(3.0)))]
)
def test_every_kth_particle_tells_lambda_and_rho(changes):
    """What a step finds is an iteration of the power method for its atoms, over at most `sample` particles before and after their move."""
    data = small()[1]
    inner = Dual(Sphere(3), neurons=6, **changes)
    before, after = trajectory(Adaptive(inner, **COMMON), RATES, data, 2)[1:]
    seen = [jnp.array(np.asarray(state.inner.columns)[:, ::4].T) for state in (before, after)]
    additive = inner.weight_update == "additive"
    _, direction, eigenvalue, relaxation = iterated(
        inner.feature, after.inner.atoms, before.start, *seen, before.direction, Sphere(3), additive=additive
    )
    assert after.eigenvalue > 0 and after.relaxation > 0
    np.testing.assert_allclose(after.eigenvalue, eigenvalue, rtol=1e-5)
    np.testing.assert_allclose(after.relaxation, relaxation, rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), after.direction, direction)


def test_both_precisions(dtype):
    data, method = Samples(jnp.array(sphere_points(0, 20, 3), dtype)), Adaptive(Dual(Sphere(3), neurons=4), warmup=3)
    rates = traced(method.rates, dtype)
    state = jax.eval_shape(partial(start, method=method), jax.random.key(1), rates=rates, data=data)
    after = jax.eval_shape(partial(step, method=method), jax.random.key(0), state=state, rates=rates, data=data)
    for leaves in map(jax.tree.leaves, (state, after)):
        assert {x.dtype.name for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)} == {dtype}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(warmup=0), "warmup is 0; it must be an integer of at least 1"),
        (dict(sample=1), "sample is 1; it must be an integer of at least 2"),
        (dict(acceptance=0.0), "acceptance is 0.0; it must be a finite number, greater than 0 and at most 1"),
        (dict(acceptance=1.2), "acceptance is 1.2"),
        (dict(safety=-0.1), "safety is -0.1; it must be a finite number, greater than 0 and at most 1"),
        (dict(method=Dual(Sphere(3), integrator="projected")), r"method.integrator is 'projected'; only 'mala'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**{"method": Dual(Sphere(3)), **changes})
    Adaptive(Dual(Sphere(3), integrator="projected"), acceptance=None)


def test_bad_rates_are_those_of_the_method_within():
    method, data = small()
    with pytest.raises(ValueError, match=r"particle_step is 2\.0"):
        method.check(RATES._replace(particle_step=2.0), data)
