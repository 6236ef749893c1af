"""The F2 methods: steps beside NumPy loops, their stationary states, and the kernel as the limit of features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import partition
from dualebm.energy import Tabulated
from dualebm.features import Bump, ReLU
from dualebm.measures import Samples
from dualebm.methods.lazy import KernelFlow, Lazy, LazyRates
from dualebm.rkhs import BumpKernel
from dualebm.simulate import simulate
from dualebm.spaces import Sphere, Torus

STILL = 1e-30
"""A step of the particles that does not move them."""


def points_of(space, count, seed=0, dtype=float):
    return space.sample_base(jax.random.key(seed), count, dtype)


@pytest.mark.parametrize(("charges", "penalty"), [("best", "ball"), ("ascent", "ball"), ("best", "squared")])
def test_charges_beside_a_loop(charges, penalty, x64):
    """Of particles that stay where they were drawn."""
    space = Sphere(3)
    data = Samples(points_of(space, 40))
    method = Lazy(space, features=7, particles=20, charges=charges, penalty=penalty, integrator="geodesic")
    rates = method.rates._replace(particle_step=STILL, radius=2.5, ascent_step=40.0 if charges == "ascent" else 0.0)
    state = method.init(jax.random.key(1), rates, data)
    theta, x, y = (np.asarray(a) for a in (state.positions, state.particles, data.points))
    witness = [np.mean([max(t @ p, 0) for p in x]) - np.mean([max(t @ p, 0) for p in y]) for t in theta]
    norm = np.sqrt(np.mean(np.square(witness)))
    h = np.zeros(7)
    total = np.zeros(7)
    step = jax.jit(method.step)
    for i in range(3):
        state = step(jax.random.fold_in(jax.random.key(2), i), state, rates, data)
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
    assert float(state.discrepancy) == pytest.approx(norm, rel=1e-9)
    last, mean = (dataclasses.replace(method, averaged=a).energy(state, rates, data).coefficients for a in (False, True))
    np.testing.assert_array_equal(last, state.charges)
    np.testing.assert_array_equal(mean, state.average)


def test_the_best_charges_are_where_the_ascent_ends(x64):
    space = Sphere(3)
    data = Samples(points_of(space, 40))
    best = Lazy(space, features=9, particles=20, charges="best", integrator="geodesic")
    ascent = dataclasses.replace(best, charges="ascent")
    found = []
    for method in (best, ascent):
        rates = method.rates._replace(particle_step=STILL, **(dict(ascent_step=30.0) if method is ascent else {}))
        state = method.init(jax.random.key(1), rates, data)
        counts = dict(steps=400, every=400, metrics={})
        found.append(simulate(jax.random.key(2), method, state, rates, data, **counts)[0].charges)
    np.testing.assert_allclose(*found, atol=1e-8)




@pytest.mark.parametrize("name", [pytest.param("kernel", marks=pytest.mark.heavy), "features"])
def test_stationary_states_are_of_the_model(name):
    """On the circle: particles ~ exp(-f) tau, by moments of the particles beside those of the model by quadrature, averaged over time."""
    space = Torus(1)
    a = 4.0
    feature, kernel = Bump(space, a), BumpKernel(space, a)
    key = jax.random.key(0)
    data = Samples((0.08 * jax.random.normal(key, (120, 1)) + jnp.where(jnp.arange(120) % 3 == 0, 0.25, 0.7)[:, None]) % 1)
    flow, lazy = KernelFlow(space, kernel, particles=300), Lazy(space, feature, features=256, particles=300, charges="best")
    method = flow if name == "kernel" else lazy
    rates = LazyRates(0.002, radius=6.0)
    grid = partition.line_quadrature(space, 256)
    waves = lambda x: jnp.stack([f(2 * jnp.pi * k * x[:, 0]) for k in (1, 2) for f in (jnp.cos, jnp.sin)])  # noqa: E731

    def moments(key, method, state, rates, data):
        weights = jax.nn.softmax(-method.energy(state, rates, data)(grid.points))
        return jnp.stack([jnp.mean(waves(state.particles), axis=1), waves(grid.points) @ weights])

    state = method.init(jax.random.key(1), rates, data)
    counts = dict(steps=1000, every=10, metrics={"moments": moments})
    run = jax.jit(lambda state, data: simulate(jax.random.key(2), method, state, rates, data, **counts)[1]["moments"])
    found = np.asarray(run(state, data))[36:]
    particles, model = found.mean(axis=0)
    deviation = (found[:, 0] - found[:, 1]).reshape(8, -1, 4).mean(axis=1)  # of eight stretches of time
    assert np.abs(model).max() > 0.2
    np.testing.assert_array_less(np.abs(particles - model), 5 * deviation.std(axis=0, ddof=1) / np.sqrt(8) + 0.008)




def test_the_squared_penalty_is_the_noisy_mmd_flow_of_arbel(x64):
    """X - delta g + sqrt(2 delta T) xi in one dimension, with radius 1 / T and a particle step delta T."""
    space, kernel = Torus(1), BumpKernel(Torus(1), 3.0)
    data = Samples(points_of(space, 11))
    method = KernelFlow(space, kernel, particles=8, penalty="squared", integrator="geodesic", noise="independent")
    temperature, delta = 0.05, 0.3
    rates = LazyRates(delta * temperature, radius=1 / temperature)
    state, step = jax.jit(method.init)(jax.random.key(1), rates, data), jax.jit(method.step)
    moved = step(jax.random.key(2), state, rates, data)
    still = step(jax.random.key(2), state, rates._replace(radius=STILL), data)  # the noise alone
    x, y, e = np.asarray(state.particles)[:, 0], np.asarray(data.points)[:, 0], 1e-6
    k = lambda a, b: float(kernel(jnp.array([[a]]), jnp.array([[b]]))[0, 0])  # noqa: E731
    mean = lambda a: np.mean([k(a, b) for b in x]) - np.mean([k(a, b) for b in y])  # noqa: E731
    drift = [-delta * (mean(a + e) - mean(a - e)) / (2 * e) for a in x]
    found = np.asarray(moved.columns - still.columns)[0]
    np.testing.assert_allclose((found + 0.5) % 1 - 0.5, drift, atol=1e-7)




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
        (lambda: KernelFlow(Sphere(3), averaged=64), r"averaged is 64 and space is Sphere\(dimension=3\); .* Torus\(1\) and Sphere\(2\)"),
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
        method.check(method.rates._replace(**changes), Samples(jnp.eye(3)))
    assert method.feature == ReLU() if isinstance(method, Lazy) else method.kernel is None


@pytest.mark.parametrize("space", [pytest.param(Torus(1, 2.0), marks=pytest.mark.heavy), Sphere(2)])
def test_the_average_beside_a_loop_over_the_last_energies(space, x64):
    """The particles move as without it, under the last energy; the model is that of the mean."""
    kernel, grid = BumpKernel(space, 4.0), 9
    data = Samples(points_of(space, 30))
    last = KernelFlow(space, kernel, particles=20, jitter=0.1)
    averaged = dataclasses.replace(last, averaged=grid)
    rates = LazyRates(0.01, radius=3.0)
    turn = np.arange(grid) / grid
    places = turn[:, None] * 2 if isinstance(space, Torus) else np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1)
    states = [method.init(jax.random.key(1), rates, data) for method in (last, averaged)]
    steps = [jax.jit(method.step) for method in (last, averaged)]
    values = []
    for i in range(5):
        states = [step(jax.random.fold_in(jax.random.key(2), i), state, rates, data) for step, state in zip(steps, states, strict=True)]
        np.testing.assert_array_equal(states[0].columns, states[1].columns)
        # f by sums over particles and data
        x, y = states[0].particles, data.points
        gram = lambda a, b: np.asarray(kernel(jnp.asarray(a), jnp.asarray(b)))  # noqa: E731
        mmd = np.sqrt(gram(x, x).mean() + gram(y, y).mean() - 2 * gram(x, y).mean())
        values.append([3.0 * (gram(p[None], x).mean() - gram(p[None], y).mean()) / mmd for p in places])
    model = averaged.energy(states[1], rates, data)
    both = [last.energy(state, rates, data)(data.points) for state in states]
    np.testing.assert_array_equal(*both)
    np.testing.assert_allclose(model(jnp.asarray(places)), np.mean(values, axis=0), rtol=1e-8, atol=1e-10)
    assert np.abs(np.mean(values, axis=0) - values[-1]).max() > 1e-3


@pytest.mark.parametrize("space", [Torus(1, 2.0), Sphere(2)])
def test_a_tabulated_energy_is_linear_between_its_values(space, x64):
    values = np.array([0.3, -1.0, 2.5, 0.7, 1.1])
    place = lambda turn: jnp.asarray(turn)[:, None] * 2 % 2 if isinstance(space, Torus) else jnp.stack(  # noqa: E731
        [jnp.cos(2 * np.pi * turn), jnp.sin(2 * np.pi * turn)], axis=1
    )  # fmt: skip
    energy = Tabulated(space, jnp.asarray(values))
    np.testing.assert_allclose(energy(place(np.arange(5) / 5)), values, atol=1e-12)
    turn = np.linspace(0, 1, 53)[:-1] + 1e-4  # no node
    cells = np.floor(5 * turn).astype(int)
    np.testing.assert_allclose(energy(place(turn)), np.interp(5 * turn, np.arange(6), np.append(values, values[0])), atol=1e-12)
    slopes = (np.append(values, values[0])[cells + 1] - values[cells]) * 5 / (2 if isinstance(space, Torus) else 2 * np.pi)
    along = np.ones((52, 1)) if isinstance(space, Torus) else np.stack([-np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)], axis=1)
    np.testing.assert_allclose(energy.gradient(place(turn)), slopes[:, None] * along, atol=1e-10)
    if isinstance(space, Torus):
        np.testing.assert_allclose(energy(jnp.array([[-0.1], [1.9], [3.9]])), [energy(jnp.array([[1.9]]))[0]] * 3, atol=1e-12)


