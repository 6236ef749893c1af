"""Each energy beside a loop over points in NumPy, its exact samples and log Z beside enumeration and grids, and its start."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal import blocks, platforms
from dualebm.base_measures import Flat, Gaussian
from dualebm.energies.boltzmann import Boltzmann, BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.energies.networks import MLP, ConvNet, Convolutional
from dualebm.flows.noise import Noise
from dualebm.spaces import Euclidean, Sphere

SMALL = ConvNet(shape=(9, 6), channels=(2, 3), kernels=(5, 3), strides=(2, 2), paddings=(4, 1), width=4)


def mixture(k=3, d=2, full=True, seed=0):
    rng = np.random.default_rng(seed)
    roots = jnp.asarray(np.eye(d) + 0.8 * np.eye(d, k=1) + 0.2 * rng.normal(size=(k, d, d))) if full else None
    return GaussianMixture(jnp.asarray(2 * rng.normal(size=(k, d))), jnp.asarray(0.5 * rng.normal(size=k - 1)), roots)


def machine(m=3, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return BoltzmannMachine(*(jnp.asarray(a) for a in (rng.normal(size=(m, d)), 0.5 * rng.normal(size=d), rng.normal(size=m))))


def made(start, space, dtype="float32", seed=0):
    """What a start makes, with the arrays of NumPy."""
    return jax.device_get(jax.jit(start, static_argnums=(1, 2))(jax.random.key(seed), space, jnp.dtype(dtype)))


def network(start=SMALL, d=54, size=0.3):
    """With all arrays at random."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: start(jax.random.key(0), Euclidean(d), float))
    return jax.tree.map(lambda a: jnp.asarray(size * rng.normal(size=a.shape), a.dtype), shapes)


# ---- in NumPy --------------------------------------------------------------------------------------------


def mixture_in_numpy(energy, x):
    """U and its gradient, point by point."""
    a, roots = np.float64(energy.means), energy.roots
    z = np.append(0, np.float64(energy.offsets))
    roots = np.broadcast_to(np.eye(a.shape[1]), (*a.shape, a.shape[1])) if roots is None else np.float64(roots)
    values, gradients = [], []
    for point in np.float64(x):
        y = [root @ (point - mean) for root, mean in zip(roots, a, strict=True)]
        logits = np.array([-0.5 * v @ v - level for v, level in zip(y, z, strict=True)])
        total = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        values.append(-total)
        gradients.append(sum(math.exp(log - total) * root.T @ v for log, root, v in zip(logits, roots, y, strict=True)))
    return np.array(values), np.array(gradients)


def machine_in_numpy(energy, x):
    w, b, c = (np.float64(a) for a in (energy.weights, energy.visible, energy.hidden))
    values, gradients = [], []
    for point in np.float64(x):
        field = c + w @ point
        values.append(-b @ point - np.logaddexp(0, field).sum())
        gradients.append(-b - w.T @ (1 / (1 + np.exp(-field))))
    return np.array(values), np.array(gradients)


def network_in_numpy(energy, x):
    """U alone, pixel by pixel; with what size the image of each layer has."""
    silu = lambda t: t / (1 + np.exp(-t))  # noqa: E731
    values, sizes = [], []
    for row in np.float64(x):
        image, sizes = row.reshape(*energy.shape, 1), []
        parts = zip(energy.kernels, energy.kernel_biases, energy.strides, energy.paddings, strict=True)
        for kernel, bias, stride, padding in parts:
            kernel, k = np.float64(kernel), kernel.shape[0]
            padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
            places = [range(0, n - k + 1, stride) for n in padded.shape[:2]]
            pixel = lambda i, j, p=padded, a=kernel, k=k: np.tensordot(p[i : i + k, j : j + k], a, 3)  # noqa: E731
            image = silu(np.array([[pixel(i, j) for j in places[1]] for i in places[0]]) + np.float64(bias))
            sizes.append(image.shape)
        h = silu(image.reshape(-1) @ np.float64(energy.weights[0]) + np.float64(energy.biases[0]))
        values.append((h @ np.float64(energy.weights[1]) + np.float64(energy.biases[1]))[0])
    return np.array(values), sizes


def hidden_states(energy, s):
    """All h with their log masses (not normalised) and the means of x given h."""
    w, b, c = (np.float64(a) for a in (energy.weights, energy.visible, energy.hidden))
    h = np.array(list(itertools.product([0, 1], repeat=len(c))))
    drive = b + h @ w
    return h, h @ c + s**2 * (drive**2).sum(1) / 2, s**2 * drive


def log_sum(values):
    return np.log(np.exp(values - values.max()).sum()) + values.max()


# ---- values and gradients --------------------------------------------------------------------------------


@jax.jit
def everything(energy, x):
    """U three ways and its gradient two ways."""
    located = energy.locate(x.T)
    value, gradient = energy.value_and_gradient(x)
    return energy(x), value, located.energy, gradient, located.gradient.T


@pytest.mark.parametrize(
    ("energy", "oracle"),
    [
        (lambda: mixture(full=False), mixture_in_numpy),
        (lambda: mixture(), mixture_in_numpy),
        (lambda: mixture(k=1, d=3), mixture_in_numpy),
        (lambda: machine(m=3, d=4), machine_in_numpy),
        (lambda: machine(m=1, d=1), machine_in_numpy),
    ],
)
def test_values_and_gradients_beside_a_loop(energy, oracle, x64):
    energy = energy()
    x = 3 * np.random.default_rng(1).normal(size=(7, jax.tree.leaves(energy)[0].shape[1]))
    value, gradient = oracle(energy, x)
    for result, expected in zip(everything(energy, jnp.asarray(x)), [value] * 3 + [gradient] * 2, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-12)
    by_jax = jax.jit(lambda energy, x: jax.grad(lambda x: jnp.sum(energy(x)))(x))(energy, jnp.asarray(x))
    np.testing.assert_allclose(by_jax, gradient, rtol=1e-11, atol=1e-12)


def test_a_small_network_beside_a_loop_over_pixels(x64):
    energy, x = network(), np.random.default_rng(1).normal(size=(3, 54))
    expected = network_in_numpy(energy, x)[0]
    assert np.abs(expected).min() > 1e-3
    value, *others, gradient, located = everything(energy, jnp.asarray(x))
    for result in (value, *others):
        np.testing.assert_allclose(result, expected, rtol=1e-11)
    step = 1e-5 * np.random.default_rng(2).normal(size=x.shape)
    slope = (network_in_numpy(energy, x + step)[0] - network_in_numpy(energy, x - step)[0]) / 2
    for result in (gradient, located):
        np.testing.assert_allclose((np.asarray(result) * step).sum(1), slope, rtol=1e-6, atol=1e-14)


def test_the_network_for_28_by_28_beside_a_loop_over_pixels():
    start = made(ConvNet(), Euclidean(784))
    assert start.width == blocks.block_columns(16 * 16 * 16)
    assert start.kernels[2].shape == (3, 3, 32, 64) and start.kernels[2].std() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.05)
    assert start.weights[0].std() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert not start.weights[1].any() and not any(b.any() for b in start.kernel_biases + start.biases)
    last, bias = np.ones((64, 1), np.float32), np.full(16, 0.1, np.float32)
    energy = eqx.tree_at(lambda e: (e.weights[1], e.kernel_biases[0]), start, (last, bias))
    x = np.random.default_rng(0).uniform(size=(2, 784)).astype(np.float32)
    expected, sizes = network_in_numpy(energy, x)
    assert sizes == [(16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 64)]
    value = np.asarray(jax.jit(lambda energy, x: energy(x))(energy, x))
    assert value.dtype == np.float32 and np.abs(value - expected).max() < 2e-6 * np.abs(expected).max()


def test_a_network_of_images_at_production_size():
    """20,000 images in blocks, beside XLA's own convolution."""
    start = ConvNet(shape=(8, 8), channels=(4, 8), kernels=(3, 3), strides=(2, 1), paddings=(1, 0))
    energy = network(start, d=64)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(20_000, 64)), "float32")

    def whole(x, energy):
        images = x.reshape(-1, 8, 8, 1)
        for kernel, bias, stride, padding in zip(energy.kernels, energy.kernel_biases, energy.strides, energy.paddings, strict=True):
            dimensions = ("NHWC", "HWIO", "NHWC")
            images = jax.lax.conv_general_dilated(images, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=dimensions)
            images = jax.nn.silu(images + bias[None, None, None])
        hidden = jax.nn.silu(images.reshape(len(x), -1) @ energy.weights[0] + energy.biases[0][None])
        return (hidden @ energy.weights[1] + energy.biases[1][None])[:, 0]

    @jax.jit
    def by_xla(energy, x):
        value, pull = jax.vjp(lambda x: whole(x, energy), x)
        return value, pull(jnp.ones(len(x)))[0]

    value, gradient = jax.jit(lambda energy, x: energy.value_and_gradient(x))(energy, x)
    expected, slope = by_xla(energy, x)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5)


def assert_slopes(function, energy):
    """The derivative along a random direction of each leaf, beside a difference."""
    gradient = jax.device_get(jax.jit(jax.grad(function))(energy))
    value, rng = jax.jit(function), np.random.default_rng(5)
    leaves, tree = jax.tree.flatten(jax.device_get(energy))
    for i, (leaf, ours) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        v = rng.normal(size=leaf.shape)
        ends = [value(jax.tree.unflatten(tree, [*leaves[:i], leaf + step * v, *leaves[i + 1 :]])) for step in (1e-5, -1e-5)]
        assert float(np.sum(ours * v)) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)
    return gradient


@pytest.mark.parametrize("energy", [lambda: mixture(full=False), mixture, machine, network])
def test_gradients_in_the_parameters_beside_differences(energy, x64):
    energy = energy()
    rng, dimension = np.random.default_rng(4), 54 if isinstance(energy, Convolutional) else 2
    x, weights = jnp.asarray(2 * rng.normal(size=(5, dimension))), jnp.asarray(rng.normal(size=5))
    gradient = assert_slopes(lambda energy: jnp.sum(weights * energy(x)), energy)
    assert all(np.abs(a).max() > 1e-6 for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize("full", [False, True])
def test_a_mixture_at_production_size(full):
    """20000 points in R^50 around two means 10 apart, all of which are away from 0."""
    d, count, rng = 50, 20_000, np.random.default_rng(0)
    means = 0.1 * rng.normal(size=(2, d)) + 3
    means[:, 0] += (-5, 5)
    roots = np.eye(d) + 0.05 * rng.normal(size=(2, d, d)) if full else None
    x = means[rng.integers(2, size=count)] + rng.normal(size=(count, d))
    arrays = [a if a is None else np.float64(np.float32(a)) for a in (means, rng.normal(size=1), roots, x)]
    value, gradient = blockwise(*arrays)
    *parts, x = (a if a is None else jnp.asarray(a, "float32") for a in arrays)
    results = jax.device_get(everything(GaussianMixture(*parts), x))
    for result, expected in zip(results, [value] * 3 + [gradient] * 2, strict=True):
        assert result.dtype == np.float32 and (np.abs(result - expected) / np.maximum(1, np.abs(expected))).max() < 1e-5


def blockwise(means, offsets, roots, x):
    """The mixture's U and gradient of all points at once, in NumPy."""
    y = x[None] - means[:, None]
    y = y if roots is None else y @ roots.transpose(0, 2, 1)
    logits = -0.5 * (y**2).sum(2) - np.append(0, offsets)[:, None]
    total = np.logaddexp.reduce(logits, axis=0)
    pull = y if roots is None else y @ roots
    return -total, (np.exp(logits - total)[:, :, None] * pull).sum(0)


def test_a_machine_at_production_size():
    rng = np.random.default_rng(0)
    arrays = 0.3 * rng.normal(size=(64, 50)), rng.normal(size=50), rng.normal(size=64), 2 * rng.normal(size=(20_000, 50))
    w, b, c, x = (np.float64(np.float32(a)) for a in arrays)
    field = x @ w.T + c
    value, gradient = -x @ b - np.logaddexp(0, field).sum(1), -b - (1 / (1 + np.exp(-field))) @ w
    *parts, points = (jnp.asarray(a, "float32") for a in (w, b, c, x))
    results = jax.device_get(everything(BoltzmannMachine(*parts), points))
    for result, expected in zip(results, [value] * 3 + [gradient] * 2, strict=True):
        assert result.dtype == np.float32 and np.abs(result - expected).max() < 2e-6 * np.abs(expected).max()


def test_a_mixture_far_from_zero_keeps_its_digits():
    energy = GaussianMixture(jnp.array([[1000.0], [1002.0]]), jnp.zeros(1), None)
    value, gradient = mixture_in_numpy(energy, np.array([[1000.5]]))
    results = jax.device_get(everything(energy, jnp.array([[1000.5]])))
    for result, expected in zip(results, [value] * 3 + [gradient] * 2, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


# ---- partition functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "d", "full"), [(2, 1, True), (3, 2, True), (3, 2, False), (1, 2, True)])
def test_the_partition_function_and_masses_of_a_mixture_on_a_grid(k, d, full, x64):
    energy, space = mixture(k, d, full), Euclidean(d, Flat())
    axis = np.linspace(-40, 40, 401)
    grid = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    means, offsets, roots = (None if a is None else np.asarray(a) for a in (energy.means, energy.offsets, energy.roots))
    parts = ((means, offsets, roots), (means[:1], offsets[:0], None if roots is None else roots[:1]))
    whole, first = (log_sum(-blockwise(*part, grid)[0]) + d * math.log(0.2) for part in parts)
    log_partition, log_masses = jax.device_get(jax.jit(lambda e: (e.log_partition(space), e.log_masses()))(energy))
    assert log_partition == pytest.approx(whole, abs=1e-9)
    assert log_masses[0] == pytest.approx(first - whole, abs=1e-9)
    assert np.exp(log_masses).sum() == pytest.approx(1, abs=1e-12)
    if (k, full) == (3, True):
        assert_slopes(lambda energy: energy.log_partition(space), energy)


@pytest.mark.parametrize("s", [1.0, 0.7])
def test_the_partition_function_of_a_machine_by_brute_force_and_on_a_grid(s, x64):
    for energy, space in ((machine(3, 2), Euclidean(2, Gaussian(s))), (machine(3, 1), Euclidean(1, Gaussian(s)))):
        log_partition = float(jax.jit(lambda energy, space=space: energy.log_partition(space))(energy))
        assert log_partition == pytest.approx(log_sum(hidden_states(energy, s)[1]), abs=1e-12)
    axis = np.linspace(-20, 20, 4001)
    log_base = -0.5 * (axis / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
    on_grid = log_sum(log_base - machine_in_numpy(energy, axis[:, None])[0]) + math.log(0.01)
    assert log_partition == pytest.approx(on_grid, abs=1e-10)
    if s == 0.7:
        assert_slopes(lambda energy: energy.log_partition(space), energy)


def test_the_hidden_states_are_enumerated_in_blocks(x64, monkeypatch):
    monkeypatch.setitem(platforms.CHOICES, "cpu", platforms.CPU._replace(block_elements=1))
    energy = machine(9, 2)
    assert energy.width == 256
    value = float(jax.jit(lambda energy: energy.log_partition(Euclidean(2)))(energy))
    assert value == pytest.approx(log_sum(hidden_states(energy, 1)[1]), abs=1e-12)


# ---- exact samples and Gibbs -----------------------------------------------------------------------------

COUNT = 20_000


def moments(x):
    """Per row: x, the products x_i x_j, and the product with the row before."""
    products = (x[:, :, None] * x[:, None])[:, *np.triu_indices(x.shape[1])]
    return np.concatenate([x, products, (x * np.roll(x, 1, 0)).sum(1, keepdims=True)], axis=1)


def assert_moments(x, masses, means, covariances):
    """Within 5 standard errors of those of a mixture of Gaussians."""
    x = np.float64(x)
    first = masses @ means
    second = (masses[:, None, None] * (covariances + means[:, :, None] * means[:, None])).sum(0)
    expected = np.concatenate([first, second[np.triu_indices(x.shape[1])], [first @ first]])
    found = moments(x)
    assert len(np.unique(x, axis=0)) > 0.999 * len(x)
    errors = (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(x)))
    assert np.abs(errors).max() < 5, errors


@pytest.mark.parametrize(("full", "dtype"), [(False, "float32"), (True, "float64")])
def test_exact_samples_of_a_mixture(full, dtype):
    with jax.enable_x64(dtype == "float64"):
        energy = jax.tree.map(lambda a: a.astype(dtype), mixture(full=full))
        x = jax.jit(lambda energy, key: energy.sample(key, Euclidean(2, Flat()), COUNT))(energy, jax.random.key(0))
    assert x.dtype == dtype and x.shape == (COUNT, 2)
    roots = np.broadcast_to(np.eye(2), (3, 2, 2)) if energy.roots is None else np.float64(energy.roots)
    weights = np.exp(-np.append(0, np.float64(energy.offsets))) / np.abs(np.linalg.det(roots))
    covariances = np.array([np.linalg.inv(root.T @ root) for root in roots])
    assert_moments(x, weights / weights.sum(), np.float64(energy.means), covariances)


def machine_moments(energy, s):
    _, logs, means = hidden_states(energy, s)
    return np.exp(logs - log_sum(logs)), means, np.broadcast_to(s**2 * np.eye(means.shape[1]), (len(logs), *[means.shape[1]] * 2))


@pytest.mark.parametrize(("m", "dtype"), [(1, "float64"), (4, "float32")])
def test_exact_samples_of_a_machine(m, dtype):
    with jax.enable_x64(dtype == "float64"):
        energy = jax.tree.map(lambda a: a.astype(dtype), machine(m))
        x = jax.jit(lambda energy, key: energy.sample(key, Euclidean(2, Gaussian(0.8)), COUNT))(energy, jax.random.key(0))
    assert x.dtype == dtype and x.shape == (COUNT, 2)
    assert_moments(x, *machine_moments(energy, 0.8))


def test_a_gibbs_move_beside_a_loop(x64):
    energy, rng, s = machine(3, 2), np.random.default_rng(3), 0.7
    w, b, c = (np.asarray(a) for a in (energy.weights, energy.visible, energy.hidden))
    x, normal, uniform = rng.normal(size=(2, 6)), rng.normal(size=(2, 6)), rng.uniform(size=(3, 6))
    uniform[0, 0] = 1 / (1 + np.exp(-(c + w @ x[:, 0])[0])) - 1e-9  # just on
    uniform[0, 1] = 1 / (1 + np.exp(-(c + w @ x[:, 1])[0])) + 1e-9  # just off
    noise = Noise(jnp.asarray(normal), jnp.asarray(uniform))
    moved = np.asarray(jax.jit(lambda energy, x: energy.gibbs(Euclidean(2, Gaussian(s)), noise, x))(energy, jnp.asarray(x)))
    assert energy.uniforms == 3
    for i in range(6):
        h = [float(uniform[j, i] < 1 / (1 + math.exp(-(c[j] + w[j] @ x[:, i])))) for j in range(3)]
        np.testing.assert_allclose(moved[:, i], s**2 * (b + h @ w) + s * normal[:, i], rtol=1e-12)


def test_gibbs_leaves_the_model_as_it_is_and_finds_it_from_afar():
    energy, space = jax.tree.map(lambda a: a.astype("float32"), machine(4)), Euclidean(2, Gaussian(0.8))

    def moved(x, key):
        normal_key, uniform_key = jax.random.split(key)
        noise = Noise(jax.random.normal(normal_key, x.shape), jax.random.uniform(uniform_key, (energy.uniforms, x.shape[1])))
        return energy.gibbs(space, noise, x), None

    @jax.jit
    def clouds(keys):
        exact = energy.sample(keys[0], space, COUNT)
        after = moved(exact.T, keys[1])[0].T
        from_afar = jax.lax.scan(moved, jnp.full((2, COUNT), 30.0), keys[2:])[0].T
        return after, energy(after) - energy(exact), from_afar

    after, change, from_afar = jax.device_get(clouds(jax.random.split(jax.random.key(0), 50)))
    assert_moments(after, *machine_moments(energy, 0.8))
    assert_moments(from_afar, *machine_moments(energy, 0.8))
    assert abs(change.mean()) < 5 * change.std() / math.sqrt(COUNT) and change.std() > 0.1


# ---- starts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "settings", "space"),
    [
        (Mixture, dict(covariances="full"), Euclidean(5, Flat())),
        (Boltzmann, {}, Euclidean(5)),
        (MLP, {}, Sphere(5)),
        (ConvNet, dict(shape=(2, 2), channels=(2,), kernels=(1,), strides=(1,), paddings=(0,)), Euclidean(4)),
    ],
)
def test_starts_are_static_and_make_arrays_of_the_precision_asked_for(kind, settings, space, dtype):
    start = kind(**settings)
    assert hash(start) == hash(kind(**settings))
    with jax.enable_x64(dtype == "float64"):
        energy = jax.eval_shape(lambda: start(jax.random.key(0), space, jnp.dtype(dtype)))
        value = jax.eval_shape(lambda energy: energy(jnp.ones((3, space.dimension), dtype)), energy)
    assert {a.dtype for a in jax.tree.leaves(energy)} == {jnp.dtype(dtype)}
    assert value.shape == (3,) and value.dtype == dtype


def test_the_start_of_a_mixture():
    space = Euclidean(4, Flat())
    energy = made(Mixture(components=3, spread=0.5, separation=2.0, covariances="full"), space, seed=7)
    np.testing.assert_allclose(energy.means[:, 0], [-2, 0, 2], atol=1e-6)
    np.testing.assert_allclose(energy.means[:, 1:], 0.5 * np.asarray(jax.random.normal(jax.random.key(7), (3, 4)))[:, 1:], rtol=1e-6)
    assert not energy.offsets.any()
    np.testing.assert_array_equal(energy.roots, np.broadcast_to(np.eye(4), (3, 4, 4)))
    alone = made(Mixture(components=1), space)
    assert alone.means[0, 0] == 0 and alone.offsets.shape == (0,) and alone.roots is None


def test_the_start_of_a_machine():
    energy = made(Boltzmann(hidden=3, spread=0.5), Euclidean(4), seed=7)
    np.testing.assert_allclose(energy.weights, 0.5 * np.asarray(jax.random.normal(jax.random.key(7), (3, 4))), rtol=1e-6)
    assert not energy.visible.any() and not energy.hidden.any()


def test_the_start_of_a_perceptron():
    """The numbers of earlier versions: one key for each layer."""
    energy = made(MLP(width=4, depth=2, activation="tanh"), Euclidean(3), seed=3)
    keys = jax.random.split(jax.random.key(3), 3)
    for weight, key, fan_in in zip(energy.weights, keys[:2], (3, 4), strict=False):
        np.testing.assert_allclose(weight, math.sqrt(2 / fan_in) * np.asarray(jax.random.normal(key, (fan_in, 4))), rtol=1e-6)
    assert [b.shape for b in energy.biases] == [(4,), (4,), (1,)] and energy.weights[2].shape == (4, 1)
    assert not energy.weights[2].any() and not any(b.any() for b in energy.biases) and energy.activation == "tanh"


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "softplus"])
def test_a_perceptron_beside_a_loop(activation, x64):
    functions = {
        "tanh": np.tanh, "relu": lambda t: np.maximum(t, 0), "silu": lambda t: t / (1 + np.exp(-t)),
        "softplus": lambda t: np.logaddexp(0, t),
    }  # fmt: skip
    energy = network(MLP(width=5, depth=3, activation=activation), 3, size=1.0)
    x = np.random.default_rng(0).normal(size=(7, 3))
    value = jax.jit(lambda energy, x: energy(x))(energy, jnp.asarray(x))
    for i, h in enumerate(x):
        for a, b in zip(energy.weights[:-1], energy.biases[:-1], strict=True):
            h = functions[activation](h @ np.asarray(a) + np.asarray(b))
        expected = h @ np.asarray(energy.weights[-1])[:, 0] + np.asarray(energy.biases[-1])[0]
        assert float(value[i]) == pytest.approx(expected, rel=1e-12)


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "settings", "message"),
    [
        (Mixture, dict(components=0), "components is 0; it must be an integer of at least 1"),
        (Mixture, dict(spread=-0.1), r"spread is -0\.1"),
        (Mixture, dict(separation=math.inf), "separation is inf"),
        (Mixture, dict(covariances="ful"), "covariances is 'ful'; did you mean 'full'"),
        (Boltzmann, dict(hidden=0), "hidden is 0"),
        (Boltzmann, dict(spread=math.nan), "spread is nan"),
        (MLP, dict(width=0), "width is 0"),
        (MLP, dict(depth=0), "depth is 0"),
        (MLP, dict(activation="gelu"), "activation is 'gelu'"),
        (ConvNet, dict(shape=(28, 0)), r"shape\[1\] is 0"),
        (ConvNet, dict(channels=()), r"channels is \(\); it must be a tuple of 1 integers"),
        (ConvNet, dict(channels=(16, 32, 0, 64)), r"channels\[2\] is 0"),
        (ConvNet, dict(kernels=(5, 3)), r"kernels is \(5, 3\); it must be a tuple of 4 integers, with channels=\(16, 32, 64, 64\)"),
        (ConvNet, dict(strides=(2,) * 5), "strides is .* a tuple of 4 integers"),
        (ConvNet, dict(strides=(2, 2, 2, 0)), r"strides\[3\] is 0"),
        (ConvNet, dict(paddings=(4, 1, 1)), "paddings is .* a tuple of 4 integers"),
        (ConvNet, dict(paddings=(4, 1, 1, -1)), r"paddings\[3\] is -1; it must be an integer of at least 0"),
        (ConvNet, dict(kernels=(5, 3, 3, 7)), r"kernels\[3\] is 7; it must be at most the padded image, 6 x 6"),
        (ConvNet, dict(width=0), "width is 0"),
        (ConvNet, dict(activation="gelu"), "activation is 'gelu'"),
    ],
)
def test_bad_settings(start, settings, message):
    with pytest.raises(ValueError, match=message):
        start(**settings)


@pytest.mark.parametrize(
    ("start", "space", "message"),
    [
        (Mixture(), Euclidean(3), r"space is Euclidean\(dimension=3, base=Gaussian\(.*\)\); .* Euclidean\(dimension=3, base=Flat\(\)\)"),
        (Mixture(), Sphere(3), r"space is Sphere\(dimension=3, .*\)"),
        (Boltzmann(), Euclidean(3, Flat()), r"space is Euclidean\(dimension=3, base=Flat\(\)\); .* Euclidean\(3, Gaussian\(s\)\)"),
        (Boltzmann(), Sphere(3), r"space is Sphere\(dimension=3, .*\)"),
        (ConvNet(), Euclidean(783), r"space is Euclidean\(dimension=783, .*; its dimension must be 784, for shape=\(28, 28\)"),
    ],
)
def test_a_space_that_does_not_fit_a_start(start, space, message):
    with pytest.raises(ValueError, match=message):
        start(jax.random.key(0), space, jnp.float32)


def test_a_space_that_does_not_fit_an_energy():
    energy, key = GaussianMixture(jnp.zeros((1, 2)), jnp.zeros(0), None), jax.random.key(0)
    for space in (Euclidean(2), Euclidean(3, Flat()), Sphere(2)):
        for call in (lambda s: energy.log_partition(s), lambda s: energy.sample(key, s, 3)):
            with pytest.raises(ValueError, match=r"space is .*; a Gaussian mixture needs the flat measure"):
                call(space)
    rbm, noise = BoltzmannMachine(jnp.zeros((1, 2)), jnp.zeros(2), jnp.zeros(1)), Noise(jnp.zeros((2, 4)), jnp.zeros((1, 4)))
    for space in (Euclidean(2, Flat()), Euclidean(3), Sphere(2)):
        for call in (lambda s: rbm.log_partition(s), lambda s: rbm.sample(key, s, 3), lambda s: rbm.gibbs(s, noise, noise.normal)):
            with pytest.raises(ValueError, match=r"space is .*; a Boltzmann machine needs Euclidean"):
                call(space)


def test_too_many_hidden_units_to_enumerate():
    energy = BoltzmannMachine(jnp.zeros((21, 2)), jnp.zeros(2), jnp.zeros(21))
    for call in (lambda: energy.log_partition(Euclidean(2)), lambda: energy.sample(jax.random.key(0), Euclidean(2), 3)):
        with pytest.raises(ValueError, match="the machine has 21 hidden units; the enumeration allows at most 20"):
            call()
