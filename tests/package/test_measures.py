"""Measures against NumPy loops, and systematic resampling against its counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import measures
from dualebm.measures import (
    Atoms,
    Samples,
    coefficients,
    effective_sample_size,
    log_total_variation,
    mean,
    resample,
    total_variation,
)
from tests.cases import heavy

WEIGHTS = {
    "equal": [2.0, 2.0, 2.0, 2.0],
    "dead": [0.0, 1.5, 0.0, 2.5],
    "one": [0.0, 0.0, 3.0, 0.0],
    "uneven": [1e-9, 1.0, 1e3, 0.25],
}


@pytest.fixture(params=WEIGHTS)
def weights(request):
    return np.array(WEIGHTS[request.param])


def log(weights, dtype, constant=0.0):
    with np.errstate(divide="ignore"):
        return jnp.array(np.log(weights) + constant, dtype)


@jax.jit
def all_of(atoms):
    return coefficients(atoms), total_variation(atoms), log_total_variation(atoms)


def test_signed_measure_of_atoms(weights, dtype):
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    atoms = Atoms(jnp.array(np.zeros((4, 2)), dtype), log(weights, dtype), jnp.array(signs, dtype))
    results = all_of(atoms)
    total = math.fsum(weights) / 4
    for result, right in zip(results, (signs * weights, total, math.log(total)), strict=True):
        np.testing.assert_allclose(result, right, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)
        assert result.dtype == dtype


def test_total_variation_of_no_living_atom_and_of_weights_beyond_the_exponential():
    dead = Atoms(np.zeros((3, 1), np.float32), np.full(3, -np.inf, np.float32), np.ones(3, np.float32))
    none, total, log_total = map(np.asarray, all_of(dead))
    assert total == 0 and log_total == -np.inf and (none == 0).all() and not np.signbit(none).any()
    huge = dead._replace(log_weights=np.float32([1000.0, -np.inf, 1000.0]))
    np.testing.assert_allclose(all_of(huge)[2], 1000 + math.log(2 / 3), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 500.0, -500.0])
def test_weighted_means_do_not_see_the_constant(weights, constant, dtype):
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=4), rng.normal(size=(4, 2, 3))):
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
        result = jax.jit(mean)(jnp.array(values, dtype), log(weights, dtype, constant))
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(result, expected, atol=1e4 * eps if constant else 20 * eps)
        np.testing.assert_allclose(jax.jit(mean)(jnp.array(values, dtype), None), sum(values) / 4, atol=20 * eps)
        assert result.dtype == dtype and result.shape == values.shape[1:]


def test_effective_sample_size_is_kishs(weights, dtype):
    expected = math.fsum(weights) ** 2 / math.fsum(weights**2)
    for constant in (0.0, 300.0):  # exp(2 * 300) overflows
        size = jax.jit(effective_sample_size)(log(weights, dtype, constant))
        np.testing.assert_allclose(size, expected, rtol=2e3 * np.finfo(dtype).eps)
    assert 1 - 1e-5 <= expected <= 4 and size.dtype == dtype


systematic = jax.jit(resample, static_argnames="count")


@pytest.mark.parametrize("count", [7, heavy(1000)])
def test_resampling_is_systematic_and_unbiased(count, x64):
    """Over 4000 keys: every count within one of count * p, means within 5 sigma of it, the dead never drawn."""
    weights = np.random.default_rng(0).exponential(size=30) ** 3
    weights[[0, 5, 6, -1]] = 0
    p = weights / weights.sum()
    keys = jax.random.split(jax.random.key(count), 4000)
    resampled = jax.jit(jax.vmap(lambda key: resample(key, log(weights, "float64"), count)))
    draws = np.sort(np.asarray(resampled(keys)), axis=1)
    assert draws.shape == (4000, count) and np.issubdtype(draws.dtype, np.integer)
    counts = np.stack([np.bincount(row, minlength=30) for row in draws])
    lower, upper = np.floor(count * p - 1e-9), np.ceil(count * p + 1e-9)
    assert ((counts >= lower) & (counts <= upper)).all()
    fraction = count * p % 1  # the count is the floor plus a Bernoulli draw of this
    assert (np.abs(counts.mean(axis=0) - count * p) <= 5 * np.sqrt(fraction * (1 - fraction) / 4000) + 1e-9).all()
    assert not counts[:, weights == 0].any()
    assert len(np.unique(draws, axis=0)) > 1


def test_resampling_in_float32():
    weights = np.random.default_rng(1).exponential(size=50)
    counts = np.bincount(systematic(jax.random.key(0), log(weights, "float32"), 500), minlength=50)
    assert (np.abs(counts - 500 * weights / weights.sum()) < 1 + 1e-3).all() and counts.sum() == 500


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-23])
def test_the_ends_of_the_comb_never_draw_the_dead(uniform, monkeypatch):
    """The least and the largest draw of a float32: the first tooth is at 0, the last of 100000 would round to 1."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape=(), dtype=float: jnp.full(shape, uniform, dtype))
    weights = np.zeros(1000, np.float32)
    weights[[0, -1]] = -np.inf
    drawn = np.asarray(jax.jit(lambda weights: resample(jax.random.key(0), weights, 100_000))(weights))
    assert drawn.min() == 1 and drawn.max() == 998


def test_equal_weights_resample_to_a_permutation():
    assert sorted(systematic(jax.random.key(3), np.zeros(64, np.float32), 64).tolist()) == list(range(64))


@pytest.mark.parametrize("kind", measures.RESAMPLINGS)
def test_each_ancestor_as_often_as_its_weight(kind):
    """In the mean over 2000 keys within 5 sigma; and within one of it where the kind says so."""
    log_weights = log([0.05, 0.5, 0.0, 0.15, 0.3], "float32")
    draw = jax.jit(jax.vmap(lambda key: jnp.bincount(measures.resample(key, log_weights, 7, kind), length=5)))
    counts = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    expected = 7 * np.exp(np.asarray(log_weights))
    assert (counts.sum(1) == 7).all()
    assert (np.abs(counts.mean(0) - expected) <= 5 * counts.std(0) / np.sqrt(2000) + 1e-6).all()
    if kind == "systematic":
        assert (np.abs(counts - expected) < 1).all()
    if kind == "residual":
        assert (counts >= np.floor(expected)).all()
    assert counts.std(0).sum() < {"multinomial": 4.5, "residual": 3.5, "stratified": 3, "systematic": 2.5}[kind]


@pytest.mark.parametrize("kind", ["systematic", "stratified", "residual"])
def test_equal_weights_keep_everyone(kind):
    found = jax.jit(lambda weights: measures.resample(jax.random.key(1), weights, 1000, kind))(np.full(1000, -3.7, np.float32))
    np.testing.assert_array_equal(np.sort(found), np.arange(1000))


def test_the_weights_of_samples_sum_to_one(dtype):
    """Up to a constant of the log weights, also a large one; without them all are equal."""
    points, log_weights = np.zeros((3, 2), dtype), np.array([1000.0, 1001.0, -np.inf], dtype)
    weighted, equal = jax.device_get(jax.jit(lambda x, w: (Samples(x, w).weights, Samples(x).weights))(points, log_weights))
    np.testing.assert_allclose(weighted, np.array([1, math.e, 0]) / (1 + math.e), rtol=1e-6)
    assert equal.tolist() == [np.dtype(dtype).type(1 / 3)] * 3 and weighted.dtype == equal.dtype == dtype
