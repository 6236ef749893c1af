"""The score matching flow: its operator by finite differences, V as a derivative, and the limit of Algorithm 1 with restarts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.features import Bump, Custom, ReLU, ScaledBump, Softplus
from dualebm.measures import Atoms, Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates, derivative, loss, operator, smoothed_relu
from dualebm.parameters import ScaledCentres
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import simulate, start
from tests import oracles

CASES = [
    (Sphere(4), ReLU(3)),
    (Sphere(4), Softplus(2.0)),
    (Sphere(3), Softplus(2.0, bias=True)),
    (Sphere(3), Bump(Sphere(3), 3.0)),
    (Euclidean(2), ReLU(4, bias=True)),
    (Euclidean(2, Flat()), Softplus(1.5)),
    (Euclidean(2), Bump(Euclidean(2), 0.7)),
    (Torus(2), Bump(Torus(2), 2.0)),
    (Sphere(3), Custom(lambda x, theta: jnp.sin(jnp.dot(x, theta) + x[0] ** 3), Sphere(3))),
    (Sphere(3), ScaledBump(Sphere(3), 0.5, 4.0)),
    (Euclidean(2), ScaledBump(Euclidean(2), 0.5, 4.0)),
    (Torus(2), ScaledBump(Torus(2), 0.5, 4.0)),
]


v_of = jax.jit(derivative, static_argnums=(0, 1))
smoothed = jax.jit(smoothed_relu)


@partial(jax.jit, static_argnums=(0, 1))
def operators(feature, space, theta, points, forces):
    """Of several forces at the points, without smoothing."""
    return jax.lax.map(lambda force: operator(feature, space, theta, points, force, 0.0), forces)


@partial(jax.jit, static_argnums=1)
def later(key, method, state, rates, data):
    """The atoms after 60 steps."""
    return simulate(key, method, state, rates, data, steps=60, every=60, metrics={})[0].atoms


def points_of(space, count, seed=1):
    rng, size = np.random.default_rng(seed), (count, space.dimension)
    if isinstance(space, ScaledCentres):
        return np.concatenate([points_of(space.space, count, seed), rng.uniform(*space.bounds, (count, 1))], axis=1)
    if isinstance(space, Torus):
        return rng.uniform(size=size)
    return oracles.normalise(rng.normal(size=size)) if isinstance(space, Sphere) else rng.normal(size=size)


def atoms_of(space, feature, count=5):
    positions = points_of(feature.parameter_space(space), count, 0)
    return Atoms(positions, 0.3 * np.arange(count) - 0.5, np.resize([-1.0, 1.0], count))


def tangent_basis(space, x):
    """Orthonormal tangent vectors at a point."""
    return np.linalg.svd(x[None])[2][1:] if isinstance(space, Sphere) else np.eye(len(x))


@pytest.mark.parametrize(
    ("space", "feature"), [pytest.param(*case, marks=pytest.mark.heavy) if i in (1, 3, 5, 6) else case for i, case in enumerate(CASES)]
)
def test_gradient_and_laplacian_along_the_space(space, feature, x64):
    """By differences along geodesics."""
    theta, points, e = atoms_of(space, feature).positions, points_of(space, 6), 1e-4
    basis = np.stack([tangent_basis(space, x) for x in points], axis=1)
    applied = np.asarray(operators(feature, space, theta, points, np.concatenate([0 * points[None], basis])))
    laplacian, along = -applied[0], applied[1:] - applied[:1]
    flat, moves = np.broadcast_to(points, basis.shape).reshape(-1, points.shape[1]), e * basis.reshape(-1, points.shape[1])
    sides = [oracles.sphere_exp(flat, v) if isinstance(space, Sphere) else flat + v for v in (moves, -moves, 0 * moves)]
    above, below, at = np.asarray(jax.jit(feature)(np.concatenate(sides), theta)).reshape(3, *along.shape)
    np.testing.assert_allclose(laplacian, np.sum(above + below - 2 * at, axis=0) / e**2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(along, (above - below) / (2 * e), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("space", "feature"), [CASES[0], CASES[2], CASES[4], CASES[7], *CASES[9:]])
def test_v_is_the_derivative_of_the_loss(space, feature, x64):
    """In the weights, and in the positions (with f held fixed: the loss is quadratic in gamma)."""
    atoms, data = atoms_of(space, feature), Samples(points_of(space, 200), np.linspace(-1, 1, 200))

    @jax.jit
    def both(atoms, data):
        of = lambda atoms: loss(feature, space, atoms, data, 0.0)  # noqa: E731
        return derivative(feature, space, atoms, data, 0.0), jax.grad(of)(atoms)

    (value, gradient), slopes = jax.device_get(both(atoms, data))
    charge = atoms.signs * np.exp(atoms.log_weights) / 5
    np.testing.assert_allclose(slopes.log_weights, charge * value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slopes.positions, charge[:, None] * gradient, rtol=1e-9, atol=1e-12)


def test_the_loss_is_that_of_score_matching(x64):
    """In one dimension, by differences of the energy: E |f'|^2 / 2 - f'' + f' x."""
    space, feature = Euclidean(1), Softplus(2.0, bias=True)
    atoms, x = atoms_of(space, feature), np.linspace(-2, 2, 50)
    (slope, shift), charge = atoms.positions.T, atoms.signs * np.exp(atoms.log_weights)
    f = lambda x: np.mean(charge * np.log1p(np.exp(2 * (x[:, None] * slope + shift))) / 2, axis=1)  # noqa: E731
    e = 1e-4
    first, second = (f(x + e) - f(x - e)) / (2 * e), (f(x + e) + f(x - e) - 2 * f(x)) / e**2
    expected = np.mean(first**2 / 2 - second + first * x)
    found = jax.jit(loss, static_argnums=(0, 1))(feature, space, atoms, Samples(x[:, None]), 0.0)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_smoothed_relu_is_an_average_over_gaussians(x64):
    t, variance = np.linspace(-2, 2, 9), 0.7
    nodes, weights = np.polynomial.legendre.leggauss(400)
    root = (nodes + 1) / 2 * np.sqrt(variance)  # s = root^2: ds = 2 root droot
    share = weights / 2 * np.sqrt(variance) * 2 * root / variance
    density = np.exp(-0.5 * (t[:, None] / root) ** 2) / (np.sqrt(2 * np.pi) * root)
    slope, curvature = map(np.asarray, smoothed(t, np.full(9, variance)))
    np.testing.assert_allclose(curvature, density @ share, atol=1e-5)
    step = 1e-5
    above, below = (np.asarray(smoothed(t + e, np.full(9, variance))[0]) for e in (step, -step))
    np.testing.assert_allclose(((above - below) / (2 * step))[t != 0], curvature[t != 0], atol=1e-8)  # at 0 it has a kink
    np.testing.assert_allclose(slope + slope[::-1], 1, atol=1e-12)


@pytest.mark.parametrize(("feature", "order"), [(Softplus(3.0), 1.0), (ReLU(), 0.5)])
def test_the_witness_of_one_step_is_minus_h_v(feature, order, x64):
    """On the circle, with the noise of the step by quadrature: |F / h + V| falls with h, at least with this order."""
    space = Sphere(2)
    atoms = atoms_of(space, feature)
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 400)
    at = lambda a: np.stack([np.cos(a), np.sin(a)], axis=-1)  # noqa: E731
    theta, charge = atoms.positions, atoms.signs * np.exp(atoms.log_weights) / 5
    profile, slope = {
        Softplus: (lambda t: np.log1p(np.exp(3 * t)) / 3, lambda t: 1 / (1 + np.exp(-3 * t))),
        ReLU: (lambda t: np.maximum(t, 0), lambda t: (t > 0) * 1.0),
    }[type(feature)]
    tangent = np.stack([-np.sin(angles), np.cos(angles)], axis=-1)
    drift = -np.sum(slope(at(angles) @ theta.T) * (tangent @ theta.T) * charge, axis=1)
    noise, share = np.polynomial.hermite_e.hermegauss(150)
    share = share / share.sum()
    errors = []
    for h in (0.02, 0.005):
        moved = at((angles + h * drift)[:, None] + np.sqrt(2 * h) * noise[None])
        witness = np.mean(np.einsum("iqj,q->ij", profile(moved @ theta.T), share) - profile(at(angles) @ theta.T), axis=0)
        value = np.asarray(v_of(feature, space, atoms, Samples(at(angles)), h)[0])
        errors.append(np.abs(witness / h + value).max())
    assert errors[1] < 0.1 * np.abs(value).max()
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.1, errors


@pytest.mark.heavy
def test_restarts_in_every_iteration_come_to_this_flow(x64):
    """Algorithm 1 with all particles at the data in each iteration and neuron steps s / h_x: nearer as h_x falls (alpha as h_x^-2)."""
    space, feature = Sphere(3), Softplus(3.0)
    points = np.random.default_rng(0).normal(size=(4_000, 3)) * np.array([1, 1, 2])
    data = Samples(jnp.asarray(oracles.normalise(points)))

    def run(method, rates):
        state = start(jax.random.key(2), method, rates, data)
        return later(jax.random.key(1), method, state, rates, data)

    flow = jax.device_get(run(ScoreMatching(space, feature, neurons=6), ScoreMatchingRates(0.02, 0.02)))
    far = []
    for h in (0.08, 0.02):
        dual = Dual(space, feature, neurons=6, integrator="geodesic", restart_every=1)
        found = run(dual, DualRates(h, 0.02 / h, 0.02 / h))
        far.append(max(np.abs(a - b).max() for a, b in zip(map(np.asarray, found), flow, strict=True)))
    moved = np.abs(flow.log_weights).max()
    assert far[1] < 0.1 * moved and far[0] > 3 * far[1], (far, moved)  # of first order: 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreMatching(Sphere(3), Softplus(), smoothing=0.1), "smoothing is 0.1 and feature is"),
        (lambda: ScoreMatching(Sphere(3), smoothing=0.0), "smoothing is 0"),
        (lambda: ScoreMatching(Sphere(3), signs="negative"), "signs is 'negative'"),
        (lambda: ScoreMatching(Sphere(3), neurons=0), "neurons is 0"),
        (lambda: ReLU().curvature(jnp.array([0.0])), "power is 1"),
    ],
)
def test_bad_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["transport_step", "reaction_step", "radius"])
def test_bad_rates(name):
    method = ScoreMatching(Sphere(3))
    with pytest.raises(ValueError, match=f"{name} is -1"):
        method.check(method.rates._replace(**{name: -1.0}), Samples(np.eye(3, dtype=np.float32)))


def test_the_gradient_sees_the_jump_of_the_curvature(x64):
    """phi = max(t, 0)^2 on the circle: differences of V by quadrature, with the curvature as it is, against the gradient."""
    space, feature, count = Sphere(2), ReLU(2), 40_000
    angle = 2 * np.pi * (np.arange(count) + 0.5) / count
    log_density = np.cos(angle - 0.4) - 0.6 * np.sin(2 * angle)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shares = np.exp(log_density) / np.exp(log_density).sum()
    atoms = atoms_of(space, feature, 4)
    coefficients = atoms.signs * np.exp(atoms.log_weights)

    def slope(place, at):  # of max(cos(at - place), 0)^2 in the angle `at`
        return -2 * np.maximum(np.cos(at - place), 0) * np.sin(at - place)

    places = np.arctan2(*atoms.positions.T[::-1])
    force = np.mean([c * slope(place, angle) for c, place in zip(coefficients, places, strict=True)], axis=0)

    def exact(place):
        t = np.cos(angle - place)
        laplacian = np.where(t > 0, 2 * np.sin(angle - place) ** 2 - 2 * t**2, 0)
        return float(np.sum(shares * (slope(place, angle) * force - laplacian)))

    e = 1e-2  # many nodes
    expected = [(exact(place + e) - exact(place - e)) / (2 * e) for place in places]
    value, gradient = v_of(feature, space, atoms, Samples(x, log_density), 1e-4)
    along = np.stack([-np.sin(places), np.cos(places)], axis=1)
    np.testing.assert_allclose(value, [exact(place) for place in places], atol=2e-3)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * along, axis=1), expected, atol=5e-3)
