"""The parts of the polish beside other algorithms: projections, the quadratic problem, the coefficients, the grids of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from dualebm.features import Bump, ReLU, ScaledBump, Softplus
from dualebm.frank_wolfe import Point, projected, quadratic_step, weighed
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.suprema import PEAKS, SIGNS, Measure, parameter_grid, peaks, tilted
from tests.oracles_ball import circle, relu


def constrained(value, size, radius, ball):
    """The least value over a ball, by sequential quadratic programs over the positive and the negative parts."""
    signs = np.repeat(SIGNS[ball], size)
    whole = dict(type="ineq", fun=lambda a: radius - a.sum())
    start = np.full(len(signs), 0.1 * radius / len(signs))
    fold = lambda a: (signs * a).reshape(-1, size).sum(0)  # noqa: E731
    options = dict(maxiter=500, ftol=1e-14)
    found = minimize(lambda a: value(fold(a)), start, method="SLSQP", bounds=[(0, None)] * len(signs), constraints=[whole], options=options)
    return fold(found.x)


@pytest.mark.parametrize("ball", SIGNS)
def test_the_projection_and_the_quadratic_step_are_the_least_of_the_ball(ball):
    rng = np.random.default_rng(0)
    both = jax.jit(lambda a, slope, curve, radius: (projected(a, radius, ball), quadratic_step(slope, curve, 0 * a, radius, ball)))
    for radius in (0.5, 50.0):
        a, slope, root = rng.standard_normal(6), rng.standard_normal(6), rng.standard_normal((6, 6))
        covariance = root @ root.T / 6 + 0.1 * np.eye(6)
        nearest, step = both(*(jnp.asarray(each, jnp.float32) for each in (a, slope, covariance)), jnp.float32(radius))
        np.testing.assert_allclose(nearest, constrained(lambda b, a=a: np.sum((a - b) ** 2), 6, radius, ball), atol=1e-4)
        value = lambda b, slope=slope, covariance=covariance: slope @ b + b @ covariance @ b / 2  # noqa: E731
        np.testing.assert_allclose(step, constrained(value, 6, radius, ball), atol=2e-3)


def test_the_coefficients_are_the_best_of_the_ball_for_their_atoms():
    rng, nodes, theta, f = np.random.default_rng(1), circle(90), circle(7), np.linspace(-1, 1, 90)
    data = nodes[rng.integers(0, 30, 40)]
    density, columns, seen = np.exp(-f) / np.exp(-f).sum(), relu(nodes, theta), relu(data, theta).mean(0)
    measure = Measure(jnp.asarray(nodes.T, jnp.float32), jnp.asarray(density, jnp.float32))
    single = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    start = Point(single(theta), jnp.zeros(7), single(seen), single(f), jnp.zeros(()))
    made = jax.jit(lambda: weighed(ReLU(), measure, start, 4.0, "full", jnp.float32(1e-6)))()
    best = constrained(lambda a: seen @ a + np.log(np.exp(-columns @ a).mean()), 7, 4.0, "full")
    np.testing.assert_allclose(made.coefficients, best, atol=5e-3)
    np.testing.assert_allclose(made.change, f - columns @ np.asarray(made.coefficients), atol=1e-5)  # f - g, as the steps kept it
    assert float(made.observed) == pytest.approx(-seen @ np.asarray(made.coefficients), abs=1e-5)
    model = np.exp(-columns @ best)
    np.testing.assert_allclose(tilted(measure, made.change).weights, model / model.sum(), atol=2e-4)


@pytest.mark.parametrize(
    ("feature", "space"),
    [
        (ReLU(), Sphere(2)), (Softplus(), Sphere(3)), (ReLU(bias=True), Sphere(3)), (Bump(Torus(1, 3.0)), Torus(1, 3.0)),
        (ScaledBump(Sphere(3), 2.0, 9.0), Sphere(3)), (ScaledBump(Torus(1), 2.0, 9.0), Torus(1)),
    ],
)  # fmt: skip
def test_a_grid_leaves_no_parameter_far(feature, space):
    parameters, grid = feature.parameter_space(space), parameter_grid(feature, space)

    @jax.jit
    def farthest(grid):
        drawn = parameters.sample_base(jax.random.key(0), 30, jnp.float32)
        ways = parameters.log(jnp.repeat(drawn, len(grid), axis=0), jnp.tile(grid, (30, 1)))
        return jnp.linalg.norm(ways, axis=1).reshape(30, -1).min(axis=1).max()

    assert float(farthest(jnp.asarray(grid, jnp.float32))) < 0.2


@pytest.mark.parametrize(("feature", "space"), [(ReLU(), Sphere(4 + 1)), (Bump(Torus(2)), Torus(2)), (Bump(Euclidean(1)), Euclidean(1))])
def test_other_spaces_have_no_grid(feature, space):
    assert parameter_grid(feature, space) is None


def test_the_search_climbs_from_few_parameters():
    """F = 1/4 - phi((1, 0, 0), .) over the uniform measure of S^2: the largest of -F is where phi is, and that of F is 1/4."""
    nodes, data = sphere_quadrature(Sphere(3), 32), Samples(jnp.eye(1, 3))
    model, start = Measure(nodes.points.T, jnp.exp(nodes.log_weights)), jnp.array([[0.6, 0.8, 0.0], [-0.6, 0.8, 0.0]])
    seen = jnp.array([0.6, 0.0])
    found = jax.jit(lambda: peaks(ReLU(), Sphere(3), model, data, start, seen, "full", steps=60))()
    top = [float(found.values[i : i + PEAKS // 2].max()) for i in (0, PEAKS // 2)]
    np.testing.assert_allclose(top, [0.25, 0.75], atol=1e-3)
    assert found.positions[int(found.values.argmax()), 0] > 0.9999 and found.signs.tolist() == [1.0] * 16 + [-1.0] * 16
