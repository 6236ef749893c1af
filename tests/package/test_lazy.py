"""The F2 methods: steps beside NumPy loops, their stationary states, and the kernel as the limit of features."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump
from dualebm.kernels import RBF, BumpKernel
from dualebm.log_z.quadrature import line_quadrature
from dualebm.measures import Samples
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy, LazyRates
from dualebm.spaces import Sphere, Torus
from dualebm.training.simulate import simulate, start, step
from tests import oracles
from tests.cases import heavy

STILL = 1e-30
"""A step of the particles that does not move them."""


def points_of(space, count, seed=0, dtype=float):
    rng, size = np.random.default_rng(seed), (count, space.dimension)
    x = rng.uniform(size=size) * space.period if isinstance(space, Torus) else oracles.normalise(rng.normal(size=size))
    return jnp.array(x, dtype)


def bump_kernel(space, concentration, x, y):
    """The kernel of bumps with centres on the circle or the torus of one dimension, by its closed form."""
    if isinstance(space, Torus):
        half = np.abs(np.cos(np.pi / space.period * (x[:, None] - y[None])))[:, :, 0]
    else:
        half = np.linalg.norm(x[:, None] + y[None], axis=2) / 2
    return np.exp(-2 * concentration) * np.i0(2 * concentration * half)


@pytest.mark.parametrize(("charges", "penalty"), [heavy("best", "ball"), ("ascent", "ball"), ("best", "squared")])
def test_charges_beside_a_loop(charges, penalty, x64):
    """Of particles that stay where they were drawn."""
    space = Sphere(3)
    data = Samples(points_of(space, 40))
    method = Lazy(space, features=7, particles=20, charges=charges, penalty=penalty, integrator="geodesic")
    rates = method.rates._replace(particle_step=STILL, radius=2.5, ascent_step=40.0 if charges == "ascent" else 0.0)
    state = start(jax.random.key(1), method, rates, data)
    theta, x, y = (np.asarray(a) for a in (state.positions, state.particles, data.points))
    witness = [np.mean([max(t @ p, 0) for p in x]) - np.mean([max(t @ p, 0) for p in y]) for t in theta]
    norm = np.sqrt(np.mean(np.square(witness)))
    h = np.zeros(7)
    total = np.zeros(7)
    for i in range(3):
        state, info = step(jax.random.key(i), method, state, rates, data)
        if penalty == "squared":
            h = 2.5 * np.array(witness)
        elif charges == "best":
            h = 2.5 * np.array(witness) / norm
        else:
            h = h + 40 * np.array(witness)
            h = h * min(1, 2.5 / np.sqrt(np.mean(h**2)))
        total += h
        np.testing.assert_allclose(state.charges, h, rtol=1e-9)
        np.testing.assert_allclose(state.average, total / (i + 1), rtol=1e-9)
    assert float(info.discrepancy) == pytest.approx(norm, rel=1e-9)
    last, mean = (dataclasses.replace(method, averaged=a).energy(state, rates, data).coefficients for a in (False, True))
    np.testing.assert_array_equal(last, state.charges)
    np.testing.assert_array_equal(mean, state.average)


def test_the_best_charges_are_where_the_ascent_ends(x64):
    space = Sphere(3)
    data = Samples(points_of(space, 40))
    best = Lazy(space, features=7, particles=20, charges="best", integrator="geodesic")
    ascent = dataclasses.replace(best, charges="ascent")
    found = []
    for method, rates, count in ((best, {}, 1), (ascent, dict(ascent_step=30.0), 400)):
        rates = method.rates._replace(particle_step=STILL, **rates)
        state = start(jax.random.key(1), method, rates, data)
        for _ in range(count):
            state, _ = step(jax.random.key(2), method, state, rates, data)
        found.append(state.charges)
    np.testing.assert_allclose(*found, atol=1e-8)


@pytest.mark.heavy
@pytest.mark.parametrize("name", [pytest.param("kernel", marks=pytest.mark.heavy), "features"])
def test_stationary_states_are_of_the_model(name):
    """On the circle: particles ~ exp(-f) tau, by moments of the particles beside those of the model by quadrature, averaged over time."""
    space = Torus(1)
    a = 4.0
    feature, kernel = Bump(space, a), BumpKernel(space, a)
    points = 0.08 * np.random.default_rng(0).normal(size=(120, 1)) + np.where(np.arange(120) % 3 == 0, 0.25, 0.7)[:, None]
    data = Samples(jnp.array(points % 1, jnp.float32))
    flow, lazy = KernelFlow(space, kernel, particles=300), Lazy(space, feature, features=128, particles=300, charges="best")
    method = flow if name == "kernel" else lazy
    rates = LazyRates(0.002, radius=6.0)
    grid = line_quadrature(space, 256)
    waves = lambda x: jnp.stack([f(2 * jnp.pi * k * x[:, 0]) for k in (1, 2) for f in (jnp.cos, jnp.sin)])  # noqa: E731

    def moments(key, iterate):
        weights = jax.nn.softmax(-iterate.energy(grid.points))
        return jnp.stack([jnp.mean(waves(iterate.state.particles), axis=1), waves(grid.points) @ weights])

    state = start(jax.random.key(1), method, rates, data)
    counts = dict(steps=1000, every=10, metrics={"moments": moments})
    run = jax.jit(lambda state, data: simulate(jax.random.key(2), method, state, rates, data, **counts)[1]["moments"])
    found = np.asarray(run(state, data))[36:]
    particles, model = found.mean(axis=0)
    deviation = (found[:, 0] - found[:, 1]).reshape(8, -1, 4).mean(axis=1)  # of eight stretches of time
    assert np.abs(model).max() > 0.2
    np.testing.assert_array_less(np.abs(particles - model), 5 * deviation.std(axis=0, ddof=1) / np.sqrt(8) + 0.008)




@pytest.mark.heavy
def test_the_squared_penalty_is_the_noisy_mmd_flow_of_arbel(x64):
    """X - delta g + sqrt(2 delta T) xi in one dimension, with radius 1 / T and a particle step delta T."""
    space, kernel = Torus(1), BumpKernel(Torus(1), 3.0)
    data = Samples(points_of(space, 11))
    method = KernelFlow(space, kernel, particles=8, penalty="squared", integrator="geodesic", noise="independent")
    temperature, delta = 0.05, 0.3
    rates = LazyRates(delta * temperature, radius=1 / temperature)
    state = start(jax.random.key(1), method, rates, data)
    moved, still = (  # still: the noise alone
        np.asarray(step(jax.random.key(2), method, state, rates._replace(radius=radius), data)[0].columns)[0]
        for radius in (rates.radius, STILL)
    )
    x, y, e = np.asarray(state.columns).T, np.asarray(data.points), 1e-6
    mean = lambda a: bump_kernel(space, 3.0, a, x).mean(axis=1) - bump_kernel(space, 3.0, a, y).mean(axis=1)  # noqa: E731
    drift = -delta * (mean(x + e) - mean(x - e)) / (2 * e)
    np.testing.assert_allclose((moved - still + 0.5) % 1 - 0.5, drift, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lazy(Sphere(3), charges="bets"), "charges is 'bets'"),
        (lambda: Lazy(Sphere(3), charges="best", penalty="ridge"), "penalty is 'ridge'"),
        (lambda: Lazy(Sphere(3), features=0), "features is 0"),
        (lambda: Lazy(Sphere(3), particles=3), "particles is 3; it must be even"),
        (lambda: Lazy(Sphere(3), charges="ascent", penalty="squared"), "the ascent is on the ball"),
        (lambda: KernelFlow(Sphere(3), time="changed"), "jitter is 0 and time is 'changed'"),
        (lambda: KernelFlow(Sphere(3), time="changed", penalty="squared", jitter=0.1), "has its natural time alone"),
        (lambda: KernelFlow(Sphere(3), jitter=-1.0), "jitter is -1"),
        (lambda: KernelFlow(Sphere(3), averaged=64), r"averaged is 64 and space is Sphere\(dimension=3, .* Torus\(1\) and Sphere\(2\)"),
        (lambda: KernelFlow(Torus(2), BumpKernel(Torus(2)), averaged=64), r"averaged is 64 and space is Torus"),
        (lambda: KernelFlow(Torus(1), BumpKernel(Torus(1)), averaged=3), "averaged is 3; it must be an integer of at least 4"),
    ],
)
def test_bad_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (Lazy(Sphere(3)), dict(radius=0.0), "radius is 0"),
        (Lazy(Sphere(3)), dict(particle_step=-1.0), "particle_step is -1"),
        (Lazy(Sphere(3), charges="best"), dict(ascent_step=0.1), "ascent_step is 0.1 and charges is 'best'"),
        (KernelFlow(Sphere(3)), dict(ascent_step=0.1), "ascent_step is 0.1; a kernel has no charges"),
        (KernelFlow(Sphere(3)), dict(restart_probability=2.0), "restart_probability is 2"),
    ],
)
def test_bad_rates(method, changes, message):
    with pytest.raises(ValueError, match=message):
        method.check(method.rates._replace(**changes), Samples(np.eye(3, dtype=np.float32)))


@pytest.mark.parametrize(
    ("space", "kernel"),
    [pytest.param(Torus(1, 2.0), BumpKernel(Torus(1, 2.0), 4.0), marks=pytest.mark.heavy), (Sphere(2), RBF(0.6))],  # RBF compiles quickly
)
def test_the_average_beside_a_loop_over_the_last_energies(space, kernel, x64):
    """The particles move as without it, under the last energy; the model is that of the mean."""
    grid = 9
    data = Samples(points_of(space, 30))
    last = KernelFlow(space, kernel, particles=20, jitter=0.1, integrator="geodesic")
    averaged = dataclasses.replace(last, averaged=grid)
    rates = LazyRates(0.01, radius=3.0)
    turn = np.arange(grid) / grid
    places = turn[:, None] * 2 if isinstance(space, Torus) else np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1)
    states, values = [start(jax.random.key(1), method, rates, data) for method in (last, averaged)], []
    y = np.asarray(data.points)
    rbf = lambda x, y: np.exp(-0.5 * np.sum((x[:, None] - y[None]) ** 2, axis=2) / 0.6**2)  # noqa: E731
    gram = rbf if isinstance(kernel, RBF) else partial(bump_kernel, space, 4.0)
    for i in range(5):
        states = [step(jax.random.key(i), method, state, rates, data)[0] for method, state in zip((last, averaged), states, strict=True)]
        np.testing.assert_array_equal(states[0].columns, states[1].columns)
        # f by sums over particles and data
        x = np.asarray(states[0].columns).T
        mmd = np.sqrt(gram(x, x).mean() + gram(y, y).mean() - 2 * gram(x, y).mean())
        values.append(3.0 * (gram(places, x).mean(axis=1) - gram(places, y).mean(axis=1)) / mmd)

    @jax.jit
    def energies(states):
        return [method.energy(states[1], rates, data)(jnp.array(places)) for method in (averaged, last)]

    of_mean, of_last = energies(states)
    np.testing.assert_allclose(of_mean, np.mean(values, axis=0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(of_last, values[-1], rtol=1e-8, atol=1e-10)
    assert np.abs(np.mean(values, axis=0) - values[-1]).max() > 1e-3


@pytest.mark.parametrize("space", [Torus(1, 2.0), Sphere(2)])
def test_a_tabulated_energy_is_linear_between_its_values(space, x64):
    values = np.array([0.3, -1.0, 2.5, 0.7, 1.1])
    if isinstance(space, Torus):
        place = lambda turn: turn[:, None] * 2  # noqa: E731
    else:
        place = lambda turn: np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1)  # noqa: E731
    turn = np.linspace(0, 1, 53)[:-1] + 1e-4  # no node
    points, cells = np.concatenate([place(np.arange(5) / 5), place(turn)]), np.floor(5 * turn).astype(int)

    @jax.jit
    def found(points, around):
        energy = Tabulated(space, jnp.array(values))
        return energy(points), energy.gradient(points)[5:], energy(around)

    at, gradient, elsewhere = map(np.asarray, found(points, points - 2 if isinstance(space, Torus) else points))
    np.testing.assert_allclose(at[:5], values, atol=1e-12)
    np.testing.assert_allclose(at[5:], np.interp(5 * turn, np.arange(6), np.append(values, values[0])), atol=1e-12)
    np.testing.assert_allclose(elsewhere, at, atol=1e-12)  # on the torus a period away
    slopes = (np.append(values, values[0])[cells + 1] - values[cells]) * 5 / (2 if isinstance(space, Torus) else 2 * np.pi)
    along = np.ones((52, 1)) if isinstance(space, Torus) else np.stack([-np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)], axis=1)
    np.testing.assert_allclose(gradient, slopes[:, None] * along, atol=1e-10)
