"""Blocks of columns and random numbers, against NumPy and `jax.random`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal import blocks, random
from dualebm._internal.blocks import block_columns, map_blocks, once, split, sum_blocks
from dualebm._internal.random import threefry


@pytest.mark.parametrize(
    ("count", "width"),  # less than a block, one, a column less and more, several, with a rest and without
    [(1, 256), (255, 256), (256, 256), (257, 256), (512, 256), (1100, 256), (1023, 1024), (1025, 1024), (5000, 1024)],
)
def test_blocks_of_every_remainder(count, width):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(3, count)).astype("float32"), rng.integers(0, 9, count)
    seen = []

    def by_column(x):
        seen.append(x.shape[-1])
        return {"square": x**2}, x[0]

    def summed(tree, b):
        seen.append(b.shape[0])
        return {"a": jnp.sum(tree["a"], axis=1)}, jnp.sum(b)

    arrays = ({"a": jnp.array(a)}, jnp.array(b))
    mapped, total = jax.jit(lambda: (map_blocks(by_column, arrays[0]["a"], width), sum_blocks(summed, arrays, width)))()
    np.testing.assert_array_equal(mapped[0]["square"], a**2)
    np.testing.assert_array_equal(mapped[1], a[0])
    np.testing.assert_allclose(total[0]["a"], a.sum(1), rtol=1e-4, atol=1e-4)
    assert total[1] == b.sum()
    assert max(seen) <= width


def test_blocks_are_added_in_their_order():
    """1e8 swallows the ones that are added after it, and not the blocks of ones before it."""
    x = np.zeros(256 * 7, np.float32)
    x[: 256 * 2], x[256 * 2], x[256 * 3 :] = 1, 1e8, 0.01
    expected = np.float32(0)
    for block in x.reshape(7, 256):
        expected = np.float32(expected + block.sum(dtype=np.float64).astype(np.float32))
    assert sum_blocks(jnp.sum, (jnp.array(x),), 256) == expected
    assert expected != np.float32(x.sum(dtype=np.float64))


def test_sizes_of_blocks():
    for rows in (1, 2, 3, 7, 64, 65, 1000, 4096, 10**6):
        width = block_columns(rows)
        assert width % 256 == 0 and (rows * width <= 3 * 2**18 or width == 256)
    for count in (1, 255, 256, 257, 1000, 12_288, 12_289, 100_000, 123_457):
        for most in (256, 1024, 12_288):
            blocks, width, rest = split(count, most)
            assert blocks * width + rest == count and 0 <= rest < width <= max(most, rest)
            assert blocks == 1 or width % 256 == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_once_is_exact(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.array(np.random.default_rng(0).normal(size=(15, 1000)) * 1e20, dtype)
        for a in (x, x[0], x[:1], x[0, 0]):
            np.testing.assert_array_equal(jax.jit(once)(a), a)
        np.testing.assert_array_equal(jax.jit(jax.vmap(once))(x[:, None]), x[:, None])


def test_threefry_equals_the_published_vectors():
    """Known answers of Random123 (Salmon et al. 2011) for threefry2x32, 20 rounds: key and counter 0, and all ones."""
    for key, counter, words in [(0, 0, (0x6B200159, 0x99BA4EFE))]:
        found = jax.jit(threefry)((np.uint32(key), np.uint32(key)), np.full(1, counter, np.uint32))
        assert tuple(int(w[0]) for w in found) == words
    key = jax.random.key(123)
    found = jax.jit(lambda words: jnp.bitwise_xor(*threefry(tuple(words), jnp.arange(1000, dtype=jnp.uint32))))(jax.random.key_data(key))
    np.testing.assert_array_equal(found, jax.random.bits(key, 1000))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draws_equal_jax_random_in_any_company(kind, dtype):
    """Blocks 2 to 5 of 7 rows at once, one by one, and by `jax.random`; also vmapped over keys."""
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(9), 3)
        draw = jax.jit(partial(random.draw, kind), static_argnums=(2, 3, 4))
        blocks = jax.jit(lambda key, block: getattr(jax.random, kind)(jax.random.fold_in(key, block), (7, 256), dtype))
        expected = [np.asarray(blocks(keys[1], 2 + b)) for b in range(4)]
        np.testing.assert_array_equal(draw(keys[1], 2, 4, 7, dtype), np.concatenate(expected, axis=1))
        np.testing.assert_array_equal(draw(keys[1], 3, 1, 7, dtype), expected[1])
        runs = np.asarray(jax.jit(jax.vmap(lambda key: random.draw(kind, key, 2, 2, 7, dtype)))(keys))
        np.testing.assert_array_equal(runs[1], np.concatenate(expected[:2], axis=1))


@pytest.mark.parametrize("count", [2, 512, 514, 1024, 3000])
def test_pairs_in_blocks_of_every_remainder(count):
    """Each pair once, by its place, both members side by side."""
    rng = np.random.default_rng(count)
    x, a = rng.normal(size=(3, count)).astype("float32"), np.arange(count)

    def by_pair(start, x, a):
        size = a.shape[-1] // 2
        place = start + jnp.concatenate([jnp.arange(size), jnp.arange(size) + count // 2])
        return 2 * x, a - place

    doubled, off = jax.jit(lambda: blocks.map_pairs(by_pair, (jnp.asarray(x), jnp.asarray(a)), 256))()
    np.testing.assert_array_equal(doubled, 2 * x)
    assert not np.asarray(off).any()
