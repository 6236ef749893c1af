"""Every feature against NumPy loops, its gradients through the energies against finite differences, and its errors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Bump, Custom, ReLU, ScaledBump, Softplus
from dualebm.measures import Samples
from dualebm.parameters import ScaledCentres
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles


def wave(x, theta):
    return jnp.cos(jnp.dot(x, theta[:-1])) + theta[-1] * x[0]


def dot(x, theta):
    """<theta, x>, or <theta, (x, 1)> where theta is longer."""
    return sum(t * v for t, v in zip(theta, (*x, 1.0), strict=False))


def softplus(sharpness):
    return lambda x, theta: math.log1p(math.exp(sharpness * dot(x, theta))) / sharpness


def torus_bump(x, theta):
    return math.prod(math.exp(3 * (math.cos(2 * math.pi * (a - b) / 1.5) - 1)) for a, b in zip(x, theta, strict=True))


def gaussian(x, theta):
    return math.exp(-5 * sum((a - b) ** 2 for a, b in zip(x, theta, strict=True)))


def scaled(proximity, unit=1.0):
    """The bump of a proximity whose concentration is the exponential of the last component of theta."""
    return lambda x, theta: math.exp(math.exp(theta[-1] / unit) * proximity(x, theta[:-1]))


def torus_proximity(x, c):
    return sum(math.cos(2 * math.pi * (a - b) / 1.5) - 1 for a, b in zip(x, c, strict=True))


def relu(power):
    return lambda x, theta: max(dot(x, theta), 0.0) ** power


S4, R3, T2 = Sphere(4), Euclidean(3), Torus(2, period=1.5)
CASES = {  # (feature, space of x, space of theta, phi of one x and one theta in Python floats, degree in theta)
    "relu": (ReLU(), S4, S4, relu(1), 1),
    "relu squared": (ReLU(power=2), R3, Sphere(3), relu(2), 2),
    "relu cubed, bias": (ReLU(power=3, bias=True), R3, S4, relu(3), 3),
    "relu, bias": (ReLU(bias=True), S4, Sphere(5), relu(1), 1),
    "softplus": (Softplus(), S4, S4, softplus(1.0), None),
    "sharp softplus, bias": (Softplus(sharpness=7.0, bias=True), R3, S4, softplus(7.0), None),
    "torus bump": (Bump(T2, concentration=3.0), T2, T2, torus_bump, None),
    "sphere bump": (Bump(S4, concentration=3.0), S4, S4, lambda x, t: math.exp(3 * (dot(x, t) - 1)), None),
    "euclidean bump": (Bump(R3), R3, R3, gaussian, None),
    "torus scaled bump": (ScaledBump(T2), T2, ScaledCentres(T2, 1, 100), scaled(torus_proximity, 1.5 / (2 * math.pi)), None),
    "sphere scaled bump": (ScaledBump(S4, 2, 5), S4, ScaledCentres(S4, 2, 5), scaled(lambda x, c: dot(x, c) - 1), None),
    "euclidean scaled bump": (ScaledBump(R3), R3, ScaledCentres(R3, 1, 100), scaled(lambda x, c: -math.dist(x, c) ** 2 / 2), None),
    "custom": (Custom(wave, S4), R3, S4, lambda x, t: math.cos(dot(x, t[:-1])) + t[-1] * x[0], None),
}  # fmt: skip
every_feature = pytest.mark.parametrize("name", CASES)


def draw(space, count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, space.dimension))
    return oracles.normalise(x) if isinstance(space, Sphere) else rng.uniform(0, 1.5, x.shape)


def matrix(phi, x, theta):
    return np.array([[phi(list(a), list(b)) for b in theta] for a in x])


@every_feature
def test_feature_equals_the_loop(name):
    """In float32; the tests that follow compare float64."""
    feature, space, parameters, phi, _ = CASES[name]
    x, theta = draw(space, 6, 0).astype("float32"), draw(parameters, 5, 1).astype("float32")
    assert feature.parameter_space(space) == parameters
    value = jax.jit(feature.__call__)(x, theta)
    assert value.shape == (6, 5) and value.dtype == "float32"
    eps = np.finfo("float32").eps
    np.testing.assert_allclose(value, matrix(phi, x, theta), rtol=50 * eps, atol=5 * eps)


@every_feature
def test_gradients_equal_central_differences_of_the_loop(name, x64):
    """In x through the energy, in theta through the mean over weighted samples."""
    feature, space, parameters, phi, _ = CASES[name]
    x, theta = draw(space, 4, 2), draw(parameters, 3, 3)
    c, p = np.array([2.0, -3.0, 0.5]), np.array([0.1, 0.4, 0.2, 0.3])
    h = 1e-6

    def slope(f, at):
        out = np.zeros(at.shape)
        for index in np.ndindex(*at.shape):
            step = np.zeros(at.shape)
            step[index] = h
            out[index] = (f(at + step) - f(at - step)).sum() / (2 * h)  # rows are independent: the others cancel
        return out

    samples = Samples(jnp.array(x), jnp.array(np.log(p) + 3))
    energy = Shallow(feature, jnp.array(theta), jnp.array(c))
    (value, gradient), (mean, mean_gradient) = jax.jit(
        lambda: (energy.value_and_gradient(samples.points), feature_mean(feature, energy.positions, samples))
    )()
    np.testing.assert_allclose(value, matrix(phi, x, theta) @ c / 3, rtol=1e-13)
    np.testing.assert_allclose(gradient, slope(lambda x: matrix(phi, x, theta) @ c / 3, x), atol=2e-8)
    np.testing.assert_allclose(mean, p @ matrix(phi, x, theta), rtol=1e-13)
    np.testing.assert_allclose(mean_gradient, slope(lambda theta: p @ matrix(phi, x, theta), theta), atol=2e-8)


@every_feature
def test_values_and_homogeneity(name, x64):
    """Values equal the loop in float64. phi(x, s theta) = s^k phi(x, theta), hence theta . grad F = k F, for features that claim it and
    for no other."""
    feature, space, parameters, _, degree = CASES[name]
    assert feature.homogeneity == degree
    x, theta = draw(space, 6, 4), draw(parameters, 5, 5)
    phi, doubled, (mean, gradient) = jax.device_get(
        jax.jit(lambda x, t: (feature(x, t), feature(x, 2 * t), feature_mean(feature, t, Samples(x))))(x, theta)
    )
    assert phi.dtype == "float64"
    np.testing.assert_allclose(phi, matrix(CASES[name][3], x, theta), rtol=1e-14, atol=1e-15)
    excess = np.abs(doubled - 2.0 ** (degree or 1) * phi).max()
    assert (excess < 1e-12) == (degree is not None)
    euler = np.abs(np.sum(theta * gradient, axis=1) - (degree or 1) * mean).max()
    assert (euler < 1e-12) == (degree is not None)


@pytest.mark.parametrize("feature", [ReLU(), ReLU(power=2), Softplus(sharpness=2.0)])
def test_the_bias_is_a_constant_component_of_x(feature):
    x, theta = draw(R3, 6, 6).astype("float32"), draw(S4, 5, 7).astype("float32")
    lifted = np.concatenate([x, np.ones((6, 1), "float32")], axis=1)
    biased = dataclasses.replace(feature, bias=True)
    value, expected = jax.jit(lambda x, lifted, theta: (biased(x, theta), feature(lifted, theta)))(x, lifted, theta)
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_relu_has_no_slope_at_its_kink():
    """The authors' indicator is strict: a neuron at a right angle to x does not move."""
    theta, x = jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.0]])
    slopes = jax.jit(
        lambda x, theta: (Shallow(ReLU(), theta, jnp.ones(1)).gradient(x), feature_mean(ReLU(), theta, Samples(x))[1])
    )
    assert [slope.tolist() for slope in slopes(x, theta)] == [[[0, 0]], [[0, 0]]]


def test_softplus_tends_to_the_relu_and_does_not_overflow():
    x, theta = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    value = jax.jit(Softplus(sharpness=1e4).__call__)(x, theta)
    np.testing.assert_allclose(value, [[1, 0, math.log(2) / 1e4]], atol=1e-7)


def test_bumps_are_one_at_their_centre_and_wrap_on_the_torus():
    spaces = S4, R3, T2
    points = [draw(space, 5, 8).astype("float32") for space in spaces]
    edges = np.float32([[0.01, 1.49]]), np.float32([[1.51, -0.01]])
    *values, wrapped = jax.jit(
        lambda points, edges: [*(Bump(space)(x, x) for space, x in zip(spaces, points, strict=True)), Bump(T2)(*edges)]
    )(points, edges)
    for value in values:
        np.testing.assert_allclose(np.diag(value), 1, rtol=1e-5)
    np.testing.assert_allclose(wrapped, 1, rtol=1e-5)
    with pytest.raises(ValueError, match="this feature was built for Torus"):
        Bump(T2).parameter_space(Torus(2))


@pytest.mark.parametrize("power", [0, -1, True])
def test_bad_powers(power):
    with pytest.raises(ValueError, match=f"power is {power!r}; it must be an integer of at least 1"):
        ReLU(power=power)


@pytest.mark.parametrize("value", [0.0, -2.0, math.nan, math.inf])
def test_bad_sharpness_and_concentration(value):
    with pytest.raises(ValueError, match=f"sharpness is {value}; it must be a finite number, greater than 0"):
        Softplus(sharpness=value)
    with pytest.raises(ValueError, match=f"concentration is {value}; it must be a finite number, greater than 0"):
        Bump(S4, concentration=value)


@pytest.mark.parametrize(
    ("feature", "allowed"),
    [(ReLU(), 3), (ReLU(power=2, bias=True), 4), (Softplus(), 3), (Softplus(bias=True), 4)],
)
def test_parameters_with_another_number_of_components_are_refused(feature, allowed):
    x = jnp.ones((2, 3))
    for components in (allowed - 1, allowed + 1):
        message = f"theta has {components} components and x has 3; allowed: {allowed} for theta"
        with pytest.raises(ValueError, match=message):
            feature(x, jnp.ones((5, components)))
    assert jax.eval_shape(feature.__call__, x, jnp.ones((5, allowed))).shape == (2, 5)


@pytest.mark.parametrize("space", [Euclidean(3), Torus(3), Sphere(3)], ids=str)
@pytest.mark.parametrize(("points", "parameters"), [(3, 1), (2, 2), (1, 3)])
def test_bumps_refuse_points_and_parameters_of_another_space(space, points, parameters):
    with pytest.raises(ValueError, match=r"(x|theta) has [12] components; it must have 3"):
        Bump(space)(jnp.ones((2, points)), jnp.ones((5, parameters)))
    with pytest.raises(ValueError, match=r"(x has [12] components; it must have 3|theta has [23] components; it must have 4)"):
        ScaledBump(space)(jnp.ones((2, points)), jnp.ones((5, parameters + 1)))
