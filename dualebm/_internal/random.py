"""The random numbers of noise blocks. They are those of `jax.random`, by a program that is fast on CPUs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from dualebm._internal.blocks import GRAIN, once


def threefry(
    keys: tuple[UInt32[Array, "*#shape"], UInt32[Array, "*#shape"]], counter: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Returns Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counters (0, counter): the words behind `jax.random`.

    On CPUs JAX compiles the rounds to a loop, and each turn passes through memory. Here they are one expression.

    Args:
        keys: the two words of the keys, of shapes that broadcast with the shape of `counter`.
        counter: the counters.

    Returns:
        The two words, of the shape of `counter`.

    >>> words = threefry(tuple(jax.random.key_data(jax.random.key(0))), jnp.arange(4, dtype=jnp.uint32))
    >>> bool(((words[0] ^ words[1]) == jax.random.bits(jax.random.key(0), 4)).all())
    True
    """
    rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
    schedule = (*keys, keys[0] ^ keys[1] ^ np.uint32(0x1BD11BDA))
    x, y = jnp.broadcast_to(schedule[0], counter.shape), counter + schedule[1]
    for i in range(5):
        for distance in rotations[i % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(distance)) | (y >> np.uint32(32 - distance)))
        x, y = x + schedule[(i + 1) % 3], y + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def _unit(words, dtype):
    """Returns uniform numbers in [0, 1), as `jax.random.uniform` makes them: words fill the mantissa of a number in [1, 2).
    """
    if dtype == jnp.float32:
        bits = ((words[0] ^ words[1]) >> np.uint32(9)) | np.uint32(0x3F800000)
    else:
        bits = (words[0].astype(jnp.uint64) << 32) | words[1].astype(jnp.uint64)
        bits = (bits >> np.uint64(12)) | np.uint64(0x3FF0000000000000)
    return jax.lax.bitcast_convert_type(bits, dtype) - 1


def draw(
    kind: str, key: Key[Array, ""], block: Int[Array, ""] | int, blocks: int, rows: int, dtype, grain: int = GRAIN
) -> Float[Array, "rows columns"]:
    """Draws the columns of consecutive noise blocks.

    Block b is `jax.random.<kind>(fold_in(key, b), (rows, grain))`. It depends on its number alone, and not on how many
    blocks are drawn at a time.

    Args:
        kind: "normal" or "uniform".
        key: a key of `jax.random`.
        block: the number of the first block.
        blocks: the number of blocks.
        rows: the number of rows of a block.
        dtype: float32 or float64.
        grain: the number of columns of a block.

    Returns:
        The columns, (rows, blocks * grain).

    >>> x = draw("normal", jax.random.key(0), 3, 2, 5, jnp.float32)
    >>> bool((x[:, 256:] == jax.random.normal(jax.random.fold_in(jax.random.key(0), 4), (5, 256))).all())
    True
    """
    dtype = jnp.dtype(dtype)
    # JAX folds the keys, because its loop keeps them. With `threefry` XLA would compute them anew for each drawn number.
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, block + i)))(jnp.arange(blocks))
    shape = (rows, blocks * grain)
    first, second = (jnp.broadcast_to(word[:, None], (blocks, grain)).reshape(1, -1) for word in keys.T)
    iota = lambda axis: jax.lax.broadcasted_iota(jnp.uint32, shape, axis)  # noqa: E731
    counter = iota(0) * np.uint32(grain) + iota(1) % np.uint32(grain)
    unit = _unit(threefry((first, second), counter), dtype)
    if kind == "uniform":
        return once(unit)
    least = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    between = jnp.maximum(least, unit * (1 - least) + least)
    return once(jnp.asarray(math.sqrt(2), dtype) * jax.lax.erf_inv(between))
