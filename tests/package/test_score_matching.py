"""The score matching flow: its operator by finite differences, V as a derivative, and the limit of Algorithm 1 with restarts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.features import Bump, Custom, ReLU, Softplus
from dualebm.measures import Atoms, Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates, derivative, loss, operator, smoothed_relu
from dualebm.simulate import simulate
from dualebm.spaces import Euclidean, Sphere, Torus

CASES = [
    (Sphere(4), ReLU(3)),
    (Sphere(4), Softplus(2.0)),
    (Sphere(3), Softplus(2.0, bias=True)),
    (Sphere(3), Bump(Sphere(3), 3.0)),
    (Euclidean(2), ReLU(4, bias=True)),
    (Euclidean(2, scale=None), Softplus(1.5)),
    (Euclidean(2), Bump(Euclidean(2), 0.7)),
    (Torus(2), Bump(Torus(2), 2.0)),
    (Sphere(3), Custom(lambda x, theta: jnp.sin(jnp.dot(x, theta) + x[0] ** 3), Sphere(3))),
]


def atoms_of(space, feature, count=5, seed=0):
    key = jax.random.key(seed)
    positions = feature.parameter_space(space).sample_base(key, count, float)
    return Atoms(positions, 0.3 * jnp.arange(count, dtype=float) - 0.5, jnp.where(jnp.arange(count) % 2, 1.0, -1.0))


def points_of(space, count, seed=1):
    there = Euclidean(space.dimension) if isinstance(space, Euclidean) else space
    return there.sample_base(jax.random.key(seed), count, float)


def tangent_basis(space, x):
    """Orthonormal tangent vectors at a point."""
    if not isinstance(space, Sphere):
        return np.eye(len(x))
    return np.linalg.svd(np.asarray(x)[None])[2][1:]


@pytest.mark.parametrize(
    ("space", "feature"), [pytest.param(*case, marks=pytest.mark.heavy) if i in (1, 3, 5, 6) else case for i, case in enumerate(CASES)]
)
def test_gradient_and_laplacian_along_the_space(space, feature, x64):
    """By differences along geodesics."""
    theta, points = atoms_of(space, feature).positions, points_of(space, 6)
    zero, e = jnp.zeros_like(points), 1e-4
    applied = jax.jit(lambda force: operator(feature, space, theta, points, force, 0.0))
    laplacian = -applied(zero)
    for i, x in enumerate(points):
        at = lambda v, x=x: np.asarray(feature(space.exp(x[None], jnp.asarray(v)[None]), theta)[0])  # noqa: E731
        basis = tangent_basis(space, x)
        second = sum(at(e * v) + at(-e * v) - 2 * at(0 * v) for v in basis) / e**2
        np.testing.assert_allclose(laplacian[i], second, rtol=1e-5, atol=1e-5)
        for v in basis:
            force = zero.at[i].set(v)
            along = (applied(force) + laplacian)[i]
            np.testing.assert_allclose(along, (at(e * v) - at(-e * v)) / (2 * e), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("space", "feature"), [CASES[0], CASES[2], CASES[4], CASES[7]])
def test_v_is_the_derivative_of_the_loss(space, feature, x64):
    """In the weights, and in the positions (with f held fixed: the loss is quadratic in gamma)."""
    atoms, data = atoms_of(space, feature), Samples(points_of(space, 200), jnp.linspace(-1, 1, 200))
    value, gradient = jax.jit(lambda atoms: derivative(feature, space, atoms, data, 0.0))(atoms)
    slopes = jax.jit(jax.grad(lambda atoms: loss(feature, space, atoms, data, 0.0)))(atoms)
    charge = atoms.signs * jnp.exp(atoms.log_weights) / 5
    np.testing.assert_allclose(slopes.log_weights, charge * value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slopes.positions, charge[:, None] * gradient, rtol=1e-9, atol=1e-12)


def test_the_loss_is_that_of_score_matching(x64):
    """In one dimension, by differences of the energy: E |f'|^2 / 2 - f'' + f' x."""
    space, feature = Euclidean(1), Softplus(2.0, bias=True)
    atoms, x = atoms_of(space, feature), np.linspace(-2, 2, 50)
    (slope, shift), charge = np.asarray(atoms.positions).T, np.asarray(atoms.signs * np.exp(atoms.log_weights))
    f = lambda x: np.mean(charge * np.log1p(np.exp(2 * (x[:, None] * slope + shift))) / 2, axis=1)  # noqa: E731
    e = 1e-4
    first, second = (f(x + e) - f(x - e)) / (2 * e), (f(x + e) + f(x - e) - 2 * f(x)) / e**2
    expected = np.mean(first**2 / 2 - second + first * x)
    assert float(loss(feature, space, atoms, Samples(jnp.asarray(x)[:, None]), 0.0)) == pytest.approx(expected, abs=1e-6)


def test_smoothed_relu_is_an_average_over_gaussians(x64):
    t, variance = np.linspace(-2, 2, 9), 0.7
    nodes, weights = np.polynomial.legendre.leggauss(400)
    root = (nodes + 1) / 2 * np.sqrt(variance)  # s = root^2: ds = 2 root droot
    share = weights / 2 * np.sqrt(variance) * 2 * root / variance
    density = np.exp(-0.5 * (t[:, None] / root) ** 2) / (np.sqrt(2 * np.pi) * root)
    slope, curvature = smoothed_relu(jnp.asarray(t), jnp.full(9, variance))
    np.testing.assert_allclose(curvature, density @ share, atol=1e-5)
    step = 1e-5
    above, below = (smoothed_relu(jnp.asarray(t + e), jnp.full(9, variance))[0] for e in (step, -step))
    np.testing.assert_allclose(((above - below) / (2 * step))[t != 0], curvature[t != 0], atol=1e-8)  # at 0 it has a kink
    np.testing.assert_allclose(slope + slope[::-1], 1, atol=1e-12)


@pytest.mark.parametrize(("feature", "order"), [(Softplus(3.0), 1.0), (ReLU(), 0.5)])
def test_the_witness_of_one_step_is_minus_h_v(feature, order, x64):
    """On the circle, with the noise of the step by quadrature: |F / h + V| falls with h, at least with this order."""
    space = Sphere(2)
    atoms = atoms_of(space, feature)
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 400)
    at = lambda a: np.stack([np.cos(a), np.sin(a)], axis=-1)  # noqa: E731
    theta, charge = np.asarray(atoms.positions), np.asarray(atoms.signs * np.exp(atoms.log_weights)) / 5
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
        value, _ = derivative(feature, space, atoms, Samples(jnp.asarray(at(angles))), h)
        errors.append(np.abs(witness / h + np.asarray(value)).max())
    assert errors[1] < 0.1 * np.abs(value).max()
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.1, errors


def test_restarts_in_every_iteration_come_to_this_flow(x64):
    """Algorithm 1 with all particles at the data in each iteration and neuron steps s / h_x: nearer as h_x falls (alpha as h_x^-2)."""
    space, feature = Sphere(3), Softplus(3.0)
    data = Samples(space.sample_base(jax.random.key(0), 20_000, float) * jnp.array([[1, 1, 2.0]]))
    data = Samples(data.points / jnp.linalg.norm(data.points, axis=1, keepdims=True))
    counts, key = dict(steps=60, every=60, metrics={}), jax.random.key(1)

    def run(method, rates):
        state = method.init(jax.random.key(2), rates, data)
        return jax.jit(lambda state: simulate(key, method, state, rates, data, **counts)[0])(state).atoms

    flow = run(ScoreMatching(space, feature, neurons=6), ScoreMatchingRates(0.02, 0.02))
    far = []
    for h in (0.08, 0.02):
        dual = Dual(space, feature, neurons=6, integrator="geodesic", restart_every=1)
        found = run(dual, DualRates(h, 0.02 / h, 0.02 / h))
        far.append(max(float(jnp.abs(a - b).max()) for a, b in zip(found, flow, strict=True)))
    moved = float(jnp.abs(flow.log_weights).max())
    assert far[1] < 0.1 * moved and far[0] > 3 * far[1], (far, moved)  # of first order: 4




@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreMatching(Sphere(3), Softplus(), smoothing=0.1), "smoothing is 0.1 and feature is"),
        (lambda: ScoreMatching(Sphere(3), smoothing=0.0), "smoothing is 0"),
        (lambda: ScoreMatching(Sphere(3), signs="negative"), "signs is 'negative'"),
        (lambda: ScoreMatching(Sphere(3), neurons=0), "neurons is 0"),
        (lambda: ReLU().curvature(jnp.zeros(1)), "power is 1"),
    ],
)
def test_bad_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["transport_step", "reaction_step", "radius"])
def test_bad_rates(name):
    method = ScoreMatching(Sphere(3))
    data = Samples(jnp.eye(3))
    with pytest.raises(ValueError, match=f"{name} is -1"):
        method.check(method.rates._replace(**{name: -1.0}), data)
    assert dataclasses.is_dataclass(method)


def test_the_gradient_sees_the_jump_of_the_curvature(x64):
    """phi = max(t, 0)^2 on the circle: differences of V by quadrature, with the curvature as it is, against the gradient."""
    space, feature, count = Sphere(2), ReLU(2), 40_000
    angle = 2 * np.pi * (np.arange(count) + 0.5) / count
    log_density = np.cos(angle - 0.4) - 0.6 * np.sin(2 * angle)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shares = np.exp(log_density) / np.exp(log_density).sum()
    atoms = atoms_of(space, feature, 4)
    coefficients = np.asarray(atoms.signs * jnp.exp(atoms.log_weights))

    def slope(place, at):  # of max(cos(at - place), 0)^2 in the angle `at`
        return -2 * np.maximum(np.cos(at - place), 0) * np.sin(at - place)

    places = np.arctan2(*np.asarray(atoms.positions).T[::-1])
    force = np.mean([c * slope(place, angle) for c, place in zip(coefficients, places, strict=True)], axis=0)

    def exact(place):
        t = np.cos(angle - place)
        laplacian = np.where(t > 0, 2 * np.sin(angle - place) ** 2 - 2 * t**2, 0)
        return float(np.sum(shares * (slope(place, angle) * force - laplacian)))

    e = 1e-2  # many nodes
    expected = [(exact(place + e) - exact(place - e)) / (2 * e) for place in places]
    value, gradient = derivative(feature, space, atoms, Samples(jnp.asarray(x), jnp.asarray(log_density)), 1e-4)
    along = np.stack([-np.sin(places), np.cos(places)], axis=1)
    np.testing.assert_allclose(value, [exact(place) for place in places], atol=2e-3)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * along, axis=1), expected, atol=5e-3)
