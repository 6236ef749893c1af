"""Kernels beside the means over features that they stand for, and their streamed products beside NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import kernels
from dualebm.features import Bump, ReLU, Softplus
from dualebm.kernels import RBF, ArcCosine, BumpKernel, Embedding, embedding, kernel_of, mean_kernel, squared_mmd
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles


def cloud(count, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, d))


@pytest.mark.parametrize(
    ("space", "feature"),
    [
        (Sphere(2), ReLU()),
        (Torus(1), Bump(Torus(1), 10.0)),
        (Torus(2, 3.0), Bump(Torus(2, 3.0), 2.0)),
        (Sphere(2), Bump(Sphere(2), 4.0)),
    ],
)
def test_a_kernel_is_the_mean_over_its_features(space, feature, x64):
    """By equispaced parameters, on the circle and the torus."""
    x, y = (oracles.normalise(cloud(4, 2, i)) if isinstance(space, Sphere) else cloud(4, space.dimension, i) for i in (0, 1))
    if isinstance(space, Sphere):
        angle = 2 * np.pi * np.arange(20_000) / 20_000
        theta = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        line = space.period * np.arange(120) / 120
        theta = np.stack([g.ravel() for g in np.meshgrid(*[line] * space.dimension)], axis=1)

    @jax.jit
    def both(x, y, theta):
        return feature(x, theta), feature(y, theta), kernel_of(feature, space)(x, y)

    of_x, of_y, found = map(np.asarray, both(x, y, theta))
    np.testing.assert_allclose(found, of_x @ of_y.T / len(theta), atol=1e-8)


def test_random_features_come_to_the_kernel_at_rate_one_half(x64):
    """Root mean square error over draws of the features, for m and 16 m, on S^14 and off the sphere."""
    rng, x, errors = np.random.default_rng(0), cloud(6, 15), []
    exact = np.asarray(jax.jit(ArcCosine())(x, x))
    for m in (200, 3200):
        theta = oracles.normalise(rng.normal(size=(40, m, 15)))
        phi = np.maximum(np.einsum("nd,smd->snm", x, theta), 0)
        errors.append(np.sqrt(np.mean((phi @ phi.transpose(0, 2, 1) / m - exact) ** 2)))
    assert np.log(errors[0] / errors[1]) / np.log(16) == pytest.approx(0.5, abs=0.1)
    assert errors[1] < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("kernel", [ArcCosine(), RBF(0.7), BumpKernel(Torus(3), 2.0)])
def test_streamed_products_are_those_of_a_loop(kernel, x64, monkeypatch):
    monkeypatch.setattr(kernels, "SOURCES", 100)
    x, y, c, e = cloud(60), cloud(250, seed=1), cloud(250, 1, 2)[:, 0], 1e-6

    @jax.jit
    def both(x, y, c, shifts):
        energy = Embedding(kernel, y, c)
        whole = lambda shift: kernel(x + shift[None], y) @ c  # noqa: E731
        return energy(x), energy.value_and_gradient(x), jax.lax.map(whole, shifts)

    alone, (value, gradient), whole = map(jax.device_get, both(x, y, c, e * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])))
    np.testing.assert_allclose(alone, value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(value, whole[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(gradient, (whole[1:4] - whole[4:]).T / (2 * e), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_arc_cosine_kernel_at_its_own_points(x64):
    """(pi y - 0 ...) / 2 pi d at x = y: (1 / 2d) y, where the angle's own derivative is infinite."""
    y = oracles.normalise(cloud(5, 4))
    alone = jax.jit(jax.vmap(lambda y: Embedding(ArcCosine(), y[None], jnp.ones(1)).gradient(y[None])[0]))
    np.testing.assert_allclose(alone(y), y / 8, atol=1e-7)


def test_discrepancies(x64):
    """Beside loops over pairs, with weights; 0 between a sample and itself."""
    x, y = Samples(cloud(20), np.linspace(-1, 1, 20)), Samples(cloud(30, seed=1) + 0.5)
    weights = [np.exp(np.linspace(-1, 1, 20)), np.ones(30)]
    weights = [w / w.sum() for w in weights]

    def loop(a, b, wa, wb):
        return sum(wa[i] * wb[j] * np.exp(-0.5 * np.sum((a[i] - b[j]) ** 2)) for i in range(len(a)) for j in range(len(b)))

    points = [s.points for s in (x, y)]
    terms = [loop(points[i], points[j], weights[i], weights[j]) for i, j in ((0, 0), (1, 1), (0, 1))]

    @jax.jit
    def found(x, y):
        means = mean_kernel(RBF(), x, y), squared_mmd(RBF(), x, y), squared_mmd(RBF(), x, x)
        return *means, embedding(RBF(), y)(y.points)[0]

    mean, distance, none, at = map(float, found(x, y))
    assert mean == pytest.approx(terms[2], rel=1e-12)
    assert distance == pytest.approx(terms[0] + terms[1] - 2 * terms[2], rel=1e-10)
    assert abs(none) < 1e-15
    assert at == pytest.approx(np.mean(np.exp(-0.5 * np.sum((points[1] - points[1][0]) ** 2, axis=1))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RBF(0.0), "bandwidth is 0"),
        (lambda: BumpKernel(Sphere(3)), "space is Sphere"),
        (lambda: BumpKernel(Torus(1), -1.0), "concentration is -1"),
        (lambda: kernel_of(Softplus(), Sphere(3)), "feature is Softplus"),
        (lambda: kernel_of(Bump(Euclidean(2)), Euclidean(2)), "feature is Bump"),
    ],
)
def test_bad_kernels(make, message):
    with pytest.raises(ValueError, match=message):
        make()
