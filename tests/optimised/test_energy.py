"""Energies and the witness against loops at small sizes, and against NumPy float64 at those where compilers go wrong.

jaxlib 0.10.2 returns wrong rows, without a word, for some compiled means over atoms at N of 20000 and more
(https://github.com/jax-ml/jax/issues/39103); the tests at production size are what would show it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal.blocks import block_columns
from dualebm.energies.base import Energy, log_density
from dualebm.energies.shallow import Shallow, feature_mean, from_atoms, witness
from dualebm.features import ReLU, ScaledBump, Softplus
from dualebm.measures import Atoms, Samples
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles
from tests.cases import in_turns

TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
LONG_SUM = {"float32": 5e-6, "float64": 1e-12}
"""Of means over particles for few atoms: XLA's product of a long vector and a few columns is a plain loop on CPUs."""


def rows_of_length_one(seed, *shape):
    return oracles.normalise(np.random.default_rng(seed).normal(size=shape))


# ---- small sizes, loops --------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "bias"), in_turns([1, 2, 3], [False, True]))
def test_energy_and_witness_equal_the_loops(power, bias, x64):
    feature, d, m = ReLU(power, bias), 4, 5
    x, data, theta = rows_of_length_one(0, 9, d), rows_of_length_one(1, 6, d), rows_of_length_one(2, m, d + bias)
    signs, w = np.array([1.0, -1, -1, 1, 1]), np.array([0.5, 2, 0, 3, 1])
    shape = dict(power=power, bias=bias)
    with np.errstate(divide="ignore"):
        atoms = Atoms(*map(jnp.array, (theta, np.log(w), signs)))
    energy, cloud, sample = from_atoms(feature, atoms), Samples(jnp.array(x)), Samples(jnp.array(data))
    times = np.array([3, 0, 1, 2, 4, 1, 1, 0, 5])  # weights that are counts: the mean over repeated points
    with np.errstate(divide="ignore"):
        weighted = Samples(cloud.points, jnp.array(np.log(times) - 100))

    @jax.jit
    def results():
        return (
            energy.value_and_gradient(cloud.points), energy(cloud.points), log_density(energy, cloud.points),
            feature_mean(feature, atoms.positions, cloud),
            witness(feature, atoms.positions, cloud, sample), witness(feature, atoms.positions, weighted, sample),
        )  # fmt: skip

    (value, gradient), alone, density, mean, difference, weighted_difference = results()
    np.testing.assert_allclose(value, oracles.energy(x, theta, signs * w, **shape), atol=1e-14)
    np.testing.assert_allclose(gradient, oracles.energy_gradient(x, theta, signs * w, **shape), atol=1e-14)
    np.testing.assert_allclose(alone, value, atol=1e-14)
    np.testing.assert_allclose(density, -value, atol=1e-14)
    np.testing.assert_allclose(mean[0], oracles.witness(theta, x, x[:0], **shape), atol=1e-14)
    np.testing.assert_allclose(mean[1], oracles.witness_gradient(theta, x, x[:0], **shape), atol=1e-14)
    for (values, slopes), seen in [(difference, x), (weighted_difference, np.repeat(x, times, axis=0))]:
        np.testing.assert_allclose(values, oracles.witness(theta, seen, data, **shape), atol=1e-13)
        np.testing.assert_allclose(slopes, oracles.witness_gradient(theta, seen, data, **shape), atol=1e-13)


def test_the_witness_of_two_equal_clouds_vanishes():
    cloud = Samples(jnp.array(rows_of_length_one(0, 50, 3), jnp.float32))
    for part in witness(Softplus(), jnp.array(rows_of_length_one(1, 4, 3), jnp.float32), cloud, cloud):
        assert (part == 0).all()


# ---- production sizes, NumPy -----------------------------------------------------------------------------


def clear_of_kinks(seed, count, theta):
    """Points, float32 values in float64, at which no pre-activation is so near 0 that float32 could lose its sign."""
    x = np.float64(np.float32(rows_of_length_one(seed, count + 1, theta.shape[1])))
    near = np.abs(x @ theta.T).min(axis=1) < 2e-6
    x[near] = x[~near][0]
    return x[:count]


@jax.jit
def everything(x, theta, c, log_weights=None):
    return *Shallow(ReLU(), theta, c).value_and_gradient(x), *feature_mean(ReLU(), theta, Samples(x, log_weights))


def everything_in_numpy(x, theta, c, log_weights=None):
    reach = x @ theta.T
    on = np.float64(reach > 0)
    phi = reach * on
    p = np.ones(len(x)) if log_weights is None else np.exp(log_weights - log_weights.max())
    p /= p.sum()
    return phi @ c / len(c), on @ (c[:, None] * theta) / len(c), p @ phi, on.T @ (p[:, None] * x)


def problem(count, m, d, seed=0):
    """Points, positions, coefficients and, where the count is odd, log weights, all exact in float32."""
    rng = np.random.default_rng([count, seed])
    arrays = rows_of_length_one([m, seed], m, d), rng.normal(size=m), rng.normal(size=count)
    theta, c, w = (np.float64(np.float32(a)) for a in arrays)
    x = clear_of_kinks([count, seed], count, theta)
    return (x, theta, 4 * c, w) if count % 2 else (x, theta, 4 * c)


def assert_equal_to_numpy(results, expected, dtype):
    """Every entry, to a tolerance relative to the largest of its array."""
    for i, (result, right) in enumerate(zip(results, expected, strict=True)):
        assert result.dtype == dtype and result.shape == right.shape
        tolerance = (LONG_SUM if i > 1 and len(expected[2]) < 8 else TOLERANCE)[dtype]
        assert np.abs(np.float64(result) - right).max() <= tolerance * np.abs(right).max()


SIZES = [(2, 3, 1), (64, 15, 2)]
SIZES += [(m, d, count) for m, d in [(2, 3), (64, 15)] for count in (20_000, 100_000)] + [(64, 15, 32_769), (2, 15, 32_769)]
SIZES += [(64, 15, block_columns(64) + more) for more in (-1, 0, 1)] + [(2, 3, block_columns(2) + 1)]
"""Counts of a production run with few atoms and with many; about the size of a block; one and two."""


@pytest.mark.parametrize(("m", "d", "count"), SIZES)
def test_compiled_energy_and_means_equal_numpy(m, d, count):
    arrays = problem(count, m, d)
    expected = everything_in_numpy(*arrays)
    for dtype in TOLERANCE:
        with jax.enable_x64(dtype == "float64"):
            results = jax.device_get(everything(*(jnp.asarray(a.astype(dtype)) for a in arrays)))
        assert_equal_to_numpy(results, expected, dtype)


@pytest.mark.parametrize(("m", "d"), [(2, 3), (64, 15)])
def test_runs_equal_numpy(m, d):
    """The shape of a sweep: 3 runs of 20001 particles, each with its own atoms, vmapped and compiled."""
    runs = [problem(20_001, m, d, seed) for seed in range(3)]
    expected = [everything_in_numpy(*run) for run in runs]
    for dtype in TOLERANCE:
        with jax.enable_x64(dtype == "float64"):
            stacked = [jnp.asarray(np.stack(a).astype(dtype)) for a in zip(*runs, strict=True)]
            results = jax.device_get(jax.jit(jax.vmap(everything))(*stacked))
        for i in range(3):
            assert_equal_to_numpy([r[i] for r in results], expected[i], dtype)


# ---- energies of users -----------------------------------------------------------------------------------


class DoubleWell(Energy):
    """U(x) = height (x_1^2 - 1)^2 + |x|^2 / 2 in blocks of `block` points."""

    height: jax.Array
    block: int = eqx.field(static=True)

    @property
    def width(self):
        return self.block

    def __call__(self, x):
        return self.height * (x[:, 0] ** 2 - 1) ** 2 + 0.5 * jnp.sum(x**2, axis=1)


@pytest.mark.parametrize("block", [4, 11])
def test_the_gradient_of_a_users_energy(block, x64):
    x = np.random.default_rng(0).normal(size=(11, 3))
    energy = DoubleWell(jnp.array(3.0), block)
    (value, gradient), alone = jax.jit(lambda u, x: (u.value_and_gradient(x), u.gradient(x)))(energy, jnp.array(x))
    expected = x.copy()
    expected[:, 0] += 12 * x[:, 0] * (x[:, 0] ** 2 - 1)
    np.testing.assert_allclose(value, 3 * (x[:, 0] ** 2 - 1) ** 2 + 0.5 * (x**2).sum(1), rtol=1e-13)
    np.testing.assert_allclose(gradient, expected, atol=1e-13)
    np.testing.assert_allclose(alone, expected, atol=1e-13)


def test_an_energy_without_a_value_cannot_be_made():
    class Nothing(Energy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()
    assert DoubleWell.width is not Energy.width and Energy.width.fget(None) == block_columns(64)


# ---- memory ----------------------------------------------------------------------------------------------


def largest_array(jaxpr):
    """Elements of the largest array that a jaxpr, or one inside it, computes."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            sizes += [largest_array(inner)] if hasattr(inner, "eqns") else []
    return max(sizes)


N, M, D = 400_000, 64, 15
WHOLE = {
    "value_and_gradient": lambda x, theta, c: Shallow(ReLU(), theta, c).value_and_gradient(x),
    "value": lambda x, theta, c: Shallow(ReLU(), theta, c)(x),
    "witness": lambda x, theta, c: witness(ReLU(), theta, Samples(x), Samples(x, x[:, 0])),
    "witness without homogeneity": lambda x, theta, c: witness(Softplus(), theta, Samples(x), Samples(x)),
    "scaled bumps on R^d": lambda x, theta, c: Shallow(ScaledBump(Euclidean(D - 1)), theta, c).value_and_gradient(x[:, 1:]),
    "witness of scaled bumps on the torus": lambda x, theta, c: witness(
        ScaledBump(Torus(D - 1)), theta, Samples(x[:, 1:]), Samples(x[:, 1:])
    ),
    "weighted witness of scaled bumps": lambda x, theta, c: witness(
        ScaledBump(Sphere(D - 1)), theta, Samples(x[:, 1:]), Samples(x[:, 1:], x[:, 0])
    ),
    "a whole product": lambda x, theta, c: jnp.sum(jax.nn.relu(x @ theta.T), axis=1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_no_array_of_particles_times_atoms_is_ever_whole(name):
    """No array in the program has N m elements, nor has the compiled program the memory for one."""
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((N, D), (M, D), (M,))]
    largest = largest_array(jax.make_jaxpr(WHOLE[name])(*shapes).jaxpr)
    if name == "a whole product":  # what is looked for is found
        assert largest == N * M
    else:
        assert largest <= max(N * D, block_columns(M) * M)
        memory = jax.jit(WHOLE[name]).lower(*shapes).compile().memory_analysis()
        assert 0 < memory.temp_size_in_bytes < 4 * N * M
