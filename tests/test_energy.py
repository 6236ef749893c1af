"""Energies and the witness against loops at small sizes, and against NumPy float64 at the sizes where compilers go wrong.

jaxlib 0.10.2 returns wrong rows, without a word, for some compiled means over atoms at N of 20000 and more
(https://github.com/jax-ml/jax/issues/39103); the tests at production size are what would show it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dualebm.energy import (
    Energy,
    Shallow,
    block_rows,
    feature_mean,
    from_atoms,
    log_density,
    map_blocks,
    sum_blocks,
    witness,
)
from dualebm.features import ReLU, Softplus
from dualebm.measures import Atoms, Samples

TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE)


def rows_of_length_one(seed, *shape):
    return oracles.normalise(np.random.default_rng(seed).normal(size=shape))


# ---- small sizes, loops --------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_energy_and_witness_equal_the_loops(power, bias, x64):
    feature, d, m = ReLU(power, bias), 4, 5
    x, data, theta = rows_of_length_one(0, 9, d), rows_of_length_one(1, 6, d), rows_of_length_one(2, m, d + bias)
    signs, w = np.array([1.0, -1, -1, 1, 1]), np.array([0.5, 2, 0, 3, 1])
    shape = dict(power=power, bias=bias)
    with np.errstate(divide="ignore"):
        energy = from_atoms(feature, Atoms(jnp.array(theta), jnp.array(np.log(w)), jnp.array(signs)))
    value, gradient = energy.value_and_gradient(jnp.array(x))
    np.testing.assert_allclose(value, oracles.energy(x, theta, signs * w, **shape), atol=1e-14)
    np.testing.assert_allclose(gradient, oracles.energy_gradient(x, theta, signs * w, **shape), atol=1e-14)
    np.testing.assert_array_equal(energy.gradient(jnp.array(x)), gradient)
    np.testing.assert_allclose(energy(jnp.array(x)), value, atol=1e-14)
    np.testing.assert_allclose(log_density(energy, jnp.array(x)), -value, atol=1e-14)

    cloud, sample = Samples(jnp.array(x)), Samples(jnp.array(data))
    nothing = np.zeros((1, d))  # phi of it vanishes without bias only: with bias the mean is the witness against no point
    if not bias:
        values, slopes = feature_mean(feature, jnp.array(theta), cloud)
        np.testing.assert_allclose(values, oracles.witness(theta, x, nothing, **shape), atol=1e-14)
        np.testing.assert_allclose(slopes, oracles.witness_gradient(theta, x, nothing, **shape), atol=1e-14)
    values, slopes = witness(feature, jnp.array(theta), cloud, sample)
    np.testing.assert_allclose(values, oracles.witness(theta, x, data, **shape), atol=1e-14)
    np.testing.assert_allclose(slopes, oracles.witness_gradient(theta, x, data, **shape), atol=1e-14)

    times = np.array([3, 0, 1, 2, 4, 1, 1, 0, 5])  # weights that are counts: the mean over repeated points
    with np.errstate(divide="ignore"):
        weighted = Samples(jnp.array(x), jnp.array(np.log(times) - 100))
    values, slopes = witness(feature, jnp.array(theta), weighted, sample)
    repeated = np.repeat(x, times, axis=0)
    np.testing.assert_allclose(values, oracles.witness(theta, repeated, data, **shape), atol=1e-13)
    np.testing.assert_allclose(slopes, oracles.witness_gradient(theta, repeated, data, **shape), atol=1e-13)


def test_the_witness_of_two_equal_clouds_vanishes():
    cloud = Samples(jnp.array(rows_of_length_one(0, 50, 3), jnp.float32))
    for part in witness(Softplus(), jnp.array(rows_of_length_one(1, 4, 3), jnp.float32), cloud, cloud):
        assert (part == 0).all()


# ---- production sizes, NumPy -----------------------------------------------------------------------------


def clear_of_kinks(seed, count, theta):
    """Points, float32 values in float64, at which no pre-activation is so near 0 that float32 could lose its sign."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, theta.shape[1]))
    for _ in range(3):
        x = np.float64(np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)))
        close = np.abs(x @ theta.T).min(axis=1) < 2e-6
        x[close] = rng.normal(size=(close.sum(), theta.shape[1]))
    return np.float64(np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)))


@jax.jit
def everything(x, theta, c, log_weights):
    value, gradient = Shallow(ReLU(), theta, c).value_and_gradient(x)
    return value, gradient, *feature_mean(ReLU(), theta, Samples(x)), *feature_mean(ReLU(), theta, Samples(x, log_weights))


def everything_in_numpy(x, theta, c, log_weights):
    reach = x @ theta.T
    phi, on = np.maximum(reach, 0), 1.0 * (reach > 0)
    p = np.exp(log_weights - log_weights.max())
    p /= p.sum()
    plain = phi.mean(axis=0), on.T @ x / len(x)
    return phi @ c / len(c), (on * c) @ theta / len(c), *plain, p @ phi, (on * p[:, None]).T @ x


def problem(count, m, d):
    theta = np.float64(np.float32(rows_of_length_one(m, m, d)))
    c = np.float64(np.float32(np.random.default_rng(3).normal(size=m) * 5))
    x = clear_of_kinks(count, count, theta)
    return x, theta, c, np.float64(np.float32(np.random.default_rng(4).normal(size=count)))


def assert_equal_to_numpy(results, expected, dtype):
    """To the tolerance relative to the largest entry of each result, every entry."""
    for result, right in zip(results, expected, strict=True):
        assert result.dtype == dtype and result.shape == right.shape
        np.testing.assert_allclose(np.float64(result) / np.abs(right).max(), right / np.abs(right).max(), atol=TOLERANCE[dtype])


SIZES = [(m, d, count) for m, d in [(2, 3), (64, 15)] for count in (1, 2, 20_000, 32_769, 100_000)]
SIZES += [(m, d, block_rows(m) + more) for m, d in [(2, 3), (64, 15)] for more in (-1, 0, 1)]
SIZES += [(2, 15, 20_000), (2, 15, 32_769), (64, 3, 20_000), (64, 3, 100_000)]


@both_precisions
@pytest.mark.parametrize(("m", "d", "count"), SIZES)
def test_compiled_energy_and_means_equal_numpy(m, d, count, dtype):
    arrays = problem(count, m, d)
    with jax.enable_x64(dtype == "float64"):
        results = everything(*(jnp.array(a, dtype) for a in arrays))
        assert_equal_to_numpy(results, everything_in_numpy(*arrays), dtype)


@both_precisions
@pytest.mark.parametrize(("m", "d"), [(2, 3), (64, 15)])
def test_lanes_equal_numpy(m, d, dtype):
    """The shape of a sweep: 3 lanes of 20000 particles, each with its own atoms, vmapped and compiled."""
    lanes = [problem(20_000 + i, m, d) for i in range(3)]
    lanes = [(x[:20_000], rows_of_length_one(70 + i, m, d), c * (i + 1), w[:20_000]) for i, (x, _, c, w) in enumerate(lanes)]
    lanes = [(clear_of_kinks(i, 20_000, theta), np.float64(np.float32(theta)), c, w) for i, (_, theta, c, w) in enumerate(lanes)]
    with jax.enable_x64(dtype == "float64"):
        stacked = [jnp.array(np.stack(a), dtype) for a in zip(*lanes, strict=True)]
        results = jax.jit(jax.vmap(everything))(*stacked)
        for i, lane in enumerate(lanes):
            assert_equal_to_numpy([r[i] for r in results], everything_in_numpy(*lane), dtype)


# ---- blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 14))
def test_blocks_of_four_rows_for_every_remainder(count):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(count, 3)).astype("float32"), rng.integers(0, 9, count)
    seen = []

    def rowwise(tree, b):
        seen.append(b.shape[0])
        return {"square": tree["a"] ** 2, "both": tree["a"] + b[:, None]}, -b

    def summed(tree, b):
        seen.append(b.shape[0])
        return {"a": jnp.sum(tree["a"], axis=0)}, jnp.sum(b)

    tree = {"a": jnp.array(a)}
    mapped, total = jax.jit(lambda: [f(g, (tree, jnp.array(b)), 4) for f, g in ((map_blocks, rowwise), (sum_blocks, summed))])()
    np.testing.assert_array_equal(mapped[0]["square"], a**2)
    np.testing.assert_array_equal(mapped[0]["both"], a + b[:, None].astype("float32"))
    np.testing.assert_array_equal(mapped[1], -b)
    np.testing.assert_allclose(total[0]["a"], a.sum(0), rtol=1e-5, atol=1e-6)
    assert total[1] == b.sum()
    assert max(seen) <= 4


def test_blocks_are_added_in_their_order():
    """1e8 swallows the ones that are added after it, and not the block of ones before it."""
    x = jnp.array([32.0] * 4 + [1e8] + [0.0] * 3 + [3.0] * 4 + [3.0])
    assert sum_blocks(jnp.sum, (x,), 4) == np.float32(np.float32(np.float32(128 + np.float32(1e8)) + 12) + 3)


def test_block_rows_keeps_blocks_within_bounds():
    for columns in (1, 2, 3, 7, 64, 65, 1000, 4096, 10**6):
        rows = block_rows(columns)
        assert rows % 256 == 0 and rows >= 256 and (rows * columns <= 2**20 or rows == 256)
        assert (rows + 256) * columns > 2**20
    assert Shallow(ReLU(), jnp.ones((8, 2)), jnp.ones(8)).rows == block_rows(8)


# ---- energies of users -----------------------------------------------------------------------------------


class DoubleWell(Energy):
    """U(x) = height (x_1^2 - 1)^2 + |x|^2 / 2 in blocks of `block` rows."""

    height: jax.Array
    block: int = eqx.field(static=True)

    @property
    def rows(self):
        return self.block

    def __call__(self, x):
        return self.height * (x[:, 0] ** 2 - 1) ** 2 + 0.5 * jnp.sum(x**2, axis=1)


@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_the_gradient_of_a_users_energy(block, x64):
    x = np.random.default_rng(0).normal(size=(11, 3))
    energy = DoubleWell(jnp.array(3.0), block)
    value, gradient = jax.jit(energy.value_and_gradient)(jnp.array(x))
    expected = x.copy()
    expected[:, 0] += 12 * x[:, 0] * (x[:, 0] ** 2 - 1)
    np.testing.assert_allclose(value, 3 * (x[:, 0] ** 2 - 1) ** 2 + 0.5 * (x**2).sum(1), rtol=1e-14)
    np.testing.assert_allclose(gradient, expected, rtol=1e-13)
    np.testing.assert_array_equal(energy.gradient(jnp.array(x)), gradient)


def test_an_energy_without_a_value_cannot_be_made():
    class Nothing(Energy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()
    assert DoubleWell.rows is not Energy.rows and Energy.rows.fget(None) == block_rows(64)


# ---- memory ----------------------------------------------------------------------------------------------


def largest_array(jaxpr):
    """Elements of the largest array that a jaxpr, or one inside it, computes."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                sizes.append(largest_array(getattr(inner, "jaxpr", inner)))
    return max(sizes)


N, M, D = 100_000, 64, 15
WHOLE = {
    "value_and_gradient": lambda x, theta, c: Shallow(ReLU(), theta, c).value_and_gradient(x),
    "value": lambda x, theta, c: Shallow(ReLU(), theta, c)(x),
    "witness": lambda x, theta, c: witness(ReLU(), theta, Samples(x), Samples(x, x[:, 0])),
    "witness without homogeneity": lambda x, theta, c: witness(Softplus(), theta, Samples(x), Samples(x)),
    "a whole product": lambda x, theta, c: jnp.sum(jax.nn.relu(x @ theta.T), axis=1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_no_array_of_particles_times_atoms_is_ever_whole(name):
    """Of all arrays in the program none has N m elements, nor has the compiled program the memory for a tenth of one."""
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((N, D), (M, D), (M,))]
    largest = largest_array(jax.make_jaxpr(WHOLE[name])(*shapes).jaxpr)
    if name == "a whole product":  # what is looked for is found
        assert largest == N * M
    else:
        assert largest <= max(N * D, block_rows(M) * M)
        memory = jax.jit(WHOLE[name]).lower(*shapes).compile().memory_analysis()
        assert 0 < memory.temp_size_in_bytes < 4 * N * M
