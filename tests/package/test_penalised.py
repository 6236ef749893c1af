"""Penalised maximum likelihood by draws: a NumPy loop, the largest penalty, the average, weights, parts, segments, and its schedules."""

import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.features import ReLU, ScaledBump
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.dual import DualRates
from dualebm.methods.paths import Growth, Lowering
from dualebm.methods.penalised import MEMORY, ROUNDING, Network, PenalisedLikelihood, PenalisedRates
from dualebm.methods.registry import by_name
from dualebm.metrics import TotalVariation
from dualebm.metrics.held_out import DrawnFraction, FitGap, LogDensities
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training import run_folder
from dualebm.training.run import run
from dualebm.training.simulate import start, step
from tests import oracles
from tests.cases import in_turns
from tests.children import Child

PERIOD = 1.5
UNIT = PERIOD / (2 * math.pi)
SMALL = dict(neurons=5, draws=64, batch=64)
CASES = [
    (Sphere(3), ScaledBump(Sphere(3), 0.5, 8.0)),
    (Euclidean(2), ScaledBump(Euclidean(2), 0.5, 8.0)),
    (Torus(2, PERIOD), ScaledBump(Torus(2, PERIOD), 0.5, 8.0)),
    (Euclidean(2), ReLU(bias=True)),
    (Sphere(3), ReLU(bias=True)),
]
every_case = pytest.mark.parametrize(("space", "feature"), CASES, ids=lambda value: type(value).__name__)


# -- NumPy -------------------------------------------------------------------------------------------


def unit_of(space):
    return UNIT if isinstance(space, Torus) else 1.0


def phi(space, feature, x, theta):
    """The matrix phi(x_i, theta_j), (N, m)."""
    if isinstance(feature, ReLU):
        return np.maximum(oracles.lift(x, True) @ theta.T, 0)
    centres, k = theta[:, :-1], np.exp(theta[:, -1] / unit_of(space))
    apart = x[:, None] - centres[None]
    if isinstance(space, Torus):
        return np.exp(k * np.sum(np.cos(apart / UNIT) - 1, axis=-1))
    return np.exp(-k * np.sum(apart**2, axis=-1) / 2)


def loss(space, feature, network, draws, data, shares, penalty):
    """E_data f + log E_draws exp(-f) + lambda sum_j (a_j^2 + ROUNDING^2)^(1/2)."""
    a, theta = network
    observed, model = (phi(space, feature, x, theta) @ a for x in (data, draws))
    return shares @ observed + np.log(np.mean(np.exp(-model))) + penalty * np.sum(np.sqrt(a**2 + ROUNDING**2))


def slopes(value, x, width=1e-6):
    """The derivatives of a function of an array by central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * width
            ends.append(value(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * width)
    return gradient


def on_sphere(space, feature):
    """The number of leading coordinates of theta that lie on a sphere."""
    return space.dimension + 1 if isinstance(feature, ReLU) else space.dimension if isinstance(space, Sphere) else 0


def project(space, feature, theta, v):
    d = on_sphere(space, feature)
    x, w = theta[:, :d], v[:, :d]
    return np.concatenate([w - np.sum(w * x, axis=1, keepdims=True) * x, v[:, d:]], axis=1)


def move(space, feature, theta, v):
    """theta + v, back on its space."""
    new, d = theta + v, on_sphere(space, feature)
    if isinstance(feature, ScaledBump):
        new[:, -1] = np.clip(new[:, -1], *(unit_of(space) * np.log([0.5, 8.0])))
    if isinstance(space, Torus):
        new[:, :-1] %= PERIOD
    return np.concatenate([oracles.normalise(new[:, :d]), new[:, d:]], axis=1) if d else new


def apart(space, feature, old, new):
    """The shortest moves from old to new positions."""
    d, way = on_sphere(space, feature), new - old
    if isinstance(space, Torus):
        way[:, :-1] = (way[:, :-1] + PERIOD / 2) % PERIOD - PERIOD / 2
    if d:
        tangent = project(space, feature, old, new)[:, :d]
        sine = np.linalg.norm(tangent, axis=1, keepdims=True)
        cosine = np.sum(old[:, :d] * new[:, :d], axis=1, keepdims=True)
        way[:, :d] = tangent * np.arctan2(sine, cosine) / np.where(sine > 0, sine, 1)
    return way


def descend(space, feature, networks, draws, data, shares, rates, largest, steps):
    """The network and its average after steps of Adam."""
    network, average = networks
    penalty = rates.penalty * largest
    moments = [[np.zeros_like(x), np.zeros_like(x)] for x in network]
    for t in range(1, steps + 1):
        a, theta = network
        in_a = slopes(lambda a, theta=theta: loss(space, feature, (a, theta), draws, data, shares, penalty), a)
        in_theta = slopes(lambda theta, a=a: loss(space, feature, (a, theta), draws, data, shares, penalty), theta)
        directions = []
        for moment, g in zip(moments, (in_a, project(space, feature, theta, in_theta)), strict=True):
            moment[0] = 0.9 * moment[0] + 0.1 * g
            moment[1] = 0.99 * moment[1] + 0.01 * g**2
            directions.append(moment[0] / (1 - 0.9**t) / (np.sqrt(moment[1] / (1 - 0.99**t)) + 1e-8))
        widths = np.full_like(theta, unit_of(space))
        if isinstance(feature, ScaledBump):
            widths[:, :-1] /= np.exp(theta[:, -1:] / unit_of(space) / 2)
        way = project(space, feature, theta, -rates.position_step * widths * directions[1])
        network = a - rates.coefficient_step * directions[0], move(space, feature, theta, way)
        way = (1 - MEMORY) * apart(space, feature, average[1], network[1])
        average = MEMORY * average[0] + (1 - MEMORY) * network[0], move(space, feature, average[1], way)
    return network, average


def begun(space, feature, weighted=False, dtype="float64", coefficients=None, rows=24, **changes):
    """A method, data, and its state with given coefficients."""
    method = PenalisedLikelihood(space, feature, **{**SMALL, **changes})
    points = space.sample_base(jax.random.key(3), rows, dtype)
    data = Samples(points, jnp.linspace(-1, 1, rows, dtype=dtype) if weighted else None)
    state = start(jax.random.key(1), method, method.rates, data)
    if coefficients is not None:
        network = Network(jnp.asarray(coefficients, dtype), state.network.positions)
        state = state._replace(network=network, average=network)
    return method, data, state


def shares_of(data):
    weights = np.exp(np.zeros(len(data.points)) if data.log_weights is None else np.asarray(data.log_weights))
    return weights / weights.sum()


# -- Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "weighted"),
    in_turns(CASES, [False, True]),
    ids=lambda value: "-".join(type(part).__name__ for part in value) if isinstance(value, tuple) else None,
)
def test_steps_equal_a_loop_in_numpy(case, weighted, x64):
    """The gradient of the penalised loss by finite differences, Adam, the moves and the average."""
    space, feature = case
    method, data, state = begun(space, feature, weighted, coefficients=[0.7, -1.2, 0.01, 2.0, -0.3])
    draws, networks = np.asarray(state.draws.T), [tuple(map(np.array, part)) for part in (state.network, state.average)]
    rates = PenalisedRates(0.3, 0.2, 0.1)
    shares = shares_of(data)
    matrices = [phi(space, feature, np.asarray(x), networks[0][1]) for x in (data.points, draws)]
    largest = np.abs(shares @ matrices[0] - matrices[1].mean(axis=0)).max()
    np.testing.assert_allclose(state.largest_penalty, largest, rtol=1e-12)
    weights = np.exp(-matrices[1] @ networks[0][0])
    for number in range(4):
        state, info = step(jax.random.key(number), method, state, rates, data)
        if not number:
            np.testing.assert_allclose(info.effective_fraction, weights.sum() ** 2 / np.sum(weights**2) / 64, rtol=1e-12)
    expected = descend(space, feature, networks, draws, np.asarray(data.points), shares, rates, largest, 4)
    for part, reference in zip((state.network, state.average), expected, strict=True):
        for values, known in zip(part, reference, strict=True):
            np.testing.assert_allclose(values, known, rtol=2e-6, atol=2e-7)
    assert int(state.step) == 4
    energy = method.energy(state, rates, data)
    a, theta = state.average
    np.testing.assert_allclose(energy(data.points), phi(space, feature, np.asarray(data.points), np.asarray(theta)) @ a, rtol=1e-9)
    variation = TotalVariation()(jax.random.key(0), Iterate(method, state, rates, data))
    np.testing.assert_allclose(variation, np.abs(a).sum(), rtol=1e-12)
    atoms = method.atoms(state)
    np.testing.assert_allclose(atoms.signs * np.exp(atoms.log_weights) / 5, a, rtol=1e-12)


def test_an_iteration_takes_one_part_of_the_draws_and_some_rows(x64):
    """The first step has the signs of the gradient; the coefficients move by the gradient of one part, which varies."""
    space, feature = CASES[1]
    method, data, state = begun(space, feature, coefficients=[0.7, -1.2, 0.1, 2.0, -0.3], batch=16)
    halves = [np.asarray(state.draws.T)[first : first + 16] for first in range(0, 64, 16)]
    matrices = [phi(space, feature, part, np.asarray(state.network.positions)) for part in halves]
    fractions = [(w.sum() ** 2 / np.sum(w**2) / 16) for w in (np.exp(-m @ np.asarray(state.network.coefficients)) for m in matrices)]
    assert min(np.diff(sorted(fractions))) > 1e-6
    seen = [float(step(jax.random.key(i), method, state, method.rates, data)[1].effective_fraction) for i in range(40)]
    nearest = [int(np.argmin(np.abs(np.array(fractions) - value))) for value in seen]
    np.testing.assert_allclose(seen, np.array(fractions)[nearest], rtol=1e-9)
    assert set(nearest) == {0, 1, 2, 3}
    # Rows are drawn by their weights: with all weight on one row the step is that of this row alone.
    few, alone = (PenalisedLikelihood(space, feature, **SMALL, rows=rows) for rows in (3, 24))
    weights = jnp.full(24, -jnp.inf).at[7].set(0.0)
    one = Samples(data.points[7:8])
    first = start(jax.random.key(1), alone, alone.rates, one)._replace(network=state.network, average=state.average)
    drawn, _ = step(jax.random.key(5), few, first, few.rates, Samples(data.points, weights))
    expected, _ = step(jax.random.key(5), alone, first, alone.rates, one)
    for values, known in zip(jax.tree.leaves(drawn.network), jax.tree.leaves(expected.network), strict=True):
        np.testing.assert_allclose(values, known, rtol=1e-12)


@every_case
def test_at_the_largest_penalty_the_energy_stays_zero(space, feature, x64):
    """Above it f = 0 is a minimum in each direction, at the first positions. Below it one coefficient lowers the loss."""
    _, data, state = begun(space, feature)
    positions, draws, points = np.asarray(state.network.positions), np.asarray(state.draws.T), np.asarray(data.points)
    differences = phi(space, feature, points, positions).mean(axis=0) - phi(space, feature, draws, positions).mean(axis=0)
    strongest, size = int(np.abs(differences).argmax()), 1e-4
    for factor, lower in ((1.001, False), (0.98, True)):
        penalty = factor * float(state.largest_penalty)
        changes = []
        for j, sign in ((j, sign) for j in range(5) for sign in (1, -1)):
            a = np.zeros(5)
            a[j] = sign * size
            f = [phi(space, feature, x, positions) @ a for x in (points, draws)]
            changes.append(f[0].mean() + np.log(np.mean(np.exp(-f[1]))) + penalty * size)
        assert (min(changes) < 0) == lower and int(np.argmin(changes)) // 2 == strongest


@pytest.mark.heavy
def test_a_penalty_of_one_keeps_the_coefficients_small():
    space, feature = CASES[1]
    data = Samples(space.sample_base(jax.random.key(3), 24, "float32") * 0.5)
    method = PenalisedLikelihood(space, feature, **SMALL)
    sizes = {}
    for penalty in (1.0, 0.05):
        rates = PenalisedRates(penalty, 0.02, 0.0)
        state, _ = run(jax.random.key(0), method, rates, data, steps=200, every=100, metrics={}, progress=False)
        sizes[penalty] = float(jnp.sum(jnp.abs(state.average.coefficients)))
    assert sizes[1.0] < 0.02 * sizes[0.05] and sizes[0.05] > 0.5


def test_neurons_start_at_zero_with_a_pool_of_draws_of_the_base_measure():
    space, feature = CASES[0]
    method, _, state = begun(space, feature, dtype="float32")
    assert (np.asarray(state.network.coefficients) == 0).all() and state.network.positions.shape == (5, 4)
    assert state.draws.shape == (3, 64) and state.draws.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(state.draws, axis=0), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="draws has 63 points; the method takes 64"):
        method.begin(jax.random.key(0), state.draws.T[:63], Samples(state.draws.T))


def test_what_is_refused():
    with pytest.raises(ValueError, match="batch is 65 and draws is 64"):
        PenalisedLikelihood(Sphere(3), draws=64, batch=65)
    with pytest.raises(ValueError, match=r"flat measure cannot be sampled; give it the base Gaussian"):
        PenalisedLikelihood(Euclidean(2, base=Flat()))
    for setting in ("neurons", "rows"):
        with pytest.raises(ValueError, match=f"{setting} is 0"):
            PenalisedLikelihood(Sphere(3), **{setting: 0})
    method, data = PenalisedLikelihood(Sphere(3), **SMALL), Samples(jnp.eye(3))
    for rates, message in ((PenalisedRates(penalty=0.0), "penalty is 0"), (PenalisedRates(penalty=1.1), "penalty is 1.1")):
        with pytest.raises(ValueError, match=message):
            method.check(rates, data)
    with pytest.raises(ValueError, match="this feature was built for"):
        PenalisedLikelihood(Sphere(3), ScaledBump(Euclidean(3)), **SMALL).check(method.rates, data)
    assert by_name()["penalised_likelihood"] is PenalisedLikelihood


# -- Runs --------------------------------------------------------------------------------------------


def go(folder=None, callback=None):
    """A run of 12 iterations along a path of penalties, with a record every 2 and segments of 2 records."""
    space, feature = CASES[1]
    method, data, state = begun(space, feature, dtype="float32", batch=16, rows=40)
    draws = space.sample_base(jax.random.key(9), 50, "float32")
    metrics = {"fraction": DrawnFraction(draws), "log_densities": LogDensities(data.points, draws)}
    options = dict(schedule=Lowering(0.5, 4), state=state, folder=folder, segment=2, progress=False, callback=callback)
    return run(jax.random.key(2), method, PenalisedRates(0.5), data, steps=12, every=2, metrics=metrics, **options)


def go_and_die(folder):
    """In a process of its own: a run that kills itself after its first segment."""
    go(folder, lambda records: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.heavy
def test_a_run_that_is_killed_goes_on_and_ends_the_same(tmp_path):
    with pytest.raises(EOFError):
        Child(go_and_die, str(tmp_path / "parts")).answer()
    assert run_folder.read_manifest(tmp_path / "parts")["records"] == 2
    (state, results), (whole, expected) = go(tmp_path / "parts"), go()
    assert results.drop_attrs().identical(expected.drop_attrs())
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True))
    assert float(expected.log_densities[-1].std()) > 0.01


# -- Schedules ---------------------------------------------------------------------------------------


def test_the_penalty_falls_by_stages_and_the_steps_within_them():
    lowering, rates = Lowering(0.5, 10, least=0.2), PenalisedRates(0.8, 0.4, 0.1)
    for t in (0, 1, 9, 10, 25):
        values = lowering(t, rates)
        traced = jax.jit(lowering)(jnp.int32(t), jax.tree.map(jnp.float32, rates))
        slowed = 1 - 0.8 * (t % 10) / 10
        np.testing.assert_allclose(values, (0.8 * 0.5 ** (t // 10), 0.4 * slowed, 0.1 * slowed), rtol=1e-12)
        np.testing.assert_allclose(traced, values, rtol=1e-6)
    for settings, message in (((0.0, 10), "ratio is 0"), ((1.1, 10), "ratio is 1.1"), ((0.5, 0), "iterations is 0")):
        with pytest.raises(ValueError, match=message):
            Lowering(*settings)


def test_the_radius_grows_by_stages_and_the_steps_of_the_neurons_fall():
    growth, rates = Growth(1.5, 10, warmup=20), DualRates(0.1, 0.2, 0.3, radius=4.0)
    for t in (0, 9, 10, 20, 45):
        values = growth(t, rates)
        traced = jax.jit(growth)(jnp.int32(t), jax.tree.map(jnp.float32, rates))
        slower = 1 + 4 * max(t / 20 - 1, 0)
        expected = rates._replace(radius=4.0 * 1.5 ** (t // 10), transport_step=0.2 / slower, reaction_step=0.3 / slower)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        np.testing.assert_allclose(traced, expected, rtol=1e-6)
    for settings, message in (((0.0, 10), "ratio is 0"), ((2.0, 0), "iterations is 0"), ((2.0, 1, 0), "warmup is 0")):
        with pytest.raises(ValueError, match=message):
            Growth(*settings)


# -- Metrics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_draws_equal_numpy(weighted, x64):
    space, feature = CASES[1]
    method, data, state = begun(space, feature, weighted, coefficients=[0.7, -1.2, 0.01, 2.0, -0.3])
    points, draws = (space.sample_base(jax.random.key(seed), count, "float64") for seed, count in ((4, 7), (5, 90)))
    iterate = Iterate(method, state, method.rates, data)

    @jax.jit
    def values(points, draws):
        made = (LogDensities(points, draws), DrawnFraction(draws), FitGap(draws))
        return [metric(jax.random.key(0), iterate) for metric in made]

    at, fraction, gap = values(points, draws)
    a, theta = map(np.asarray, state.average)
    u, f, of_data = (phi(space, feature, np.asarray(x), theta) @ a for x in (points, draws, data.points))
    weights = np.exp(-f)
    np.testing.assert_allclose(at, -u - np.log(np.mean(weights)), rtol=1e-12)
    np.testing.assert_allclose(fraction, weights.sum() ** 2 / np.sum(weights**2) / 90, rtol=1e-12)
    weights /= weights.sum()
    model = weights @ f
    error = np.sqrt(np.sum(weights**2 * (f - model) ** 2))
    np.testing.assert_allclose(gap, [shares_of(data) @ of_data - model, error], rtol=1e-12)
