"""How the package computes with many points at once: components first, in blocks of columns that stay in cache.

Inside, N points in d dimensions are the columns of an array (d, N): a minor axis of length d is not vectorised on CPUs. No
array of N m elements is ever whole, so memory does not grow with N m and the step runs at the speed of arithmetic.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

BLOCK_ELEMENTS = {"cpu": 3 * 2**18}
"""Elements of the (m, columns) block that is alive at a time: 3 MB of float32 on a CPU, which stay in its cache."""

BLOCK_ELEMENTS_ELSEWHERE = 2**26
"""The same on accelerators: large enough to fill them."""

GRAIN = 256
"""Blocks are multiples of this many columns."""

CHAINS = 4
"""Blocks that a sum handles side by side: XLA runs their products concurrently, but the parts of a product one after another."""


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """a @ b in the precision of its factors, also where an accelerator would round float32.

    >>> product(jnp.array([[1.0, 2.0]]), jnp.array([3.0, 4.0])).tolist()
    [11.0]
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def block_columns(rows: int) -> int:
    """Columns of a block of an array (rows, N) on the default backend: a multiple of 256.

    >>> block_columns(64) % 256
    0
    """
    elements = BLOCK_ELEMENTS.get(jax.default_backend(), BLOCK_ELEMENTS_ELSEWHERE)
    return max(elements // (GRAIN * rows), 1) * GRAIN


def split(count: int, columns: int) -> tuple[int, int, int]:
    """(blocks, width, rest): `count` columns as blocks of one width, at most `columns`, and a rest that is not longer.

    The width is a multiple of 256 where `columns` is and there is more than one block; the rest is nearly a block.

    >>> split(100_000, 12_288)
    (8, 11264, 9888)
    """
    if count <= columns:
        return 1, count, 0
    grain = 1 if columns % GRAIN else GRAIN
    width = -(-count // (-(-count // columns) * grain)) * grain
    return count // width, width, count % width


def take(x: Shaped[Array, "*rows N"], start: Int[Array, ""] | int, width: int) -> Shaped[Array, "*rows width"]:
    """Columns start .. start + width - 1.

    >>> take(jnp.arange(6), 2, 3).tolist()
    [2, 3, 4]
    """
    return jax.lax.dynamic_slice_in_dim(x, start, width, axis=-1)


def choose(x: Shaped[Array, "*rows N"], index: Int[Array, " count"]) -> Shaped[Array, "*rows count"]:
    """Columns `index`. On a CPU row after row, or XLA would keep x transposed in all of the loop around it, whose products it slows.

    >>> choose(jnp.arange(6).reshape(2, 3), jnp.array([2, 2])).tolist()
    [[2, 2], [5, 5]]
    """
    if x.ndim == 1:
        return x[index]
    by_rows = lambda x: jax.lax.map(lambda row: row[..., index], x)  # noqa: E731
    return jax.lax.platform_dependent(x, cpu=by_rows, default=lambda x: x[..., index])


def put(x: Shaped[Array, "*rows N"], block: Shaped[Array, "*rows width"], start: Int[Array, ""] | int):
    """x with the columns from `start` on replaced by a block.

    >>> put(jnp.zeros(4), jnp.ones(2), 1).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis=-1)


def map_blocks(function: Callable, x: Shaped[Array, "*rows N"], columns: int):
    """`function(x)` for a function that treats columns one by one, at most `columns` at a time.

    >>> map_blocks(lambda x: 2 * x, jnp.arange(5), 2).tolist()
    [0, 2, 4, 6, 8]
    """
    count = x.shape[-1]
    if count <= columns:
        return function(x)
    blocks, width, rest = split(count, columns)
    kinds = jax.eval_shape(lambda: function(take(x, 0, width)))
    result = jax.tree.map(lambda a: jnp.zeros((*a.shape[:-1], count), a.dtype), kinds)

    def body(i, result):
        return jax.tree.map(lambda a, b: put(a, b, i * width), result, function(take(x, i * width, width)))

    result = jax.lax.fori_loop(0, blocks, body, result)
    if rest:
        tail = function(take(x, count - rest, rest))
        result = jax.tree.map(lambda a, b: put(a, b, count - rest), result, tail)
    return result


def sum_blocks(function: Callable, arrays: tuple, columns: int):
    """Sum over blocks of `function(*arrays)`, a function that itself sums over the last axis; added in block order.

    >>> int(sum_blocks(jnp.sum, (jnp.arange(5),), 2))
    10
    """
    count = jax.tree.leaves(arrays)[0].shape[-1]
    if count <= columns:
        return function(*arrays)
    blocks, width, rest = split(count, columns)
    at = lambda start, width: function(*jax.tree.map(lambda a: take(a, start, width), arrays))  # noqa: E731

    def several(before, first, chains):
        return total([before, *(at((first + i) * width, width) for i in range(chains))])

    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: at(0, width)))
    whole = jax.lax.fori_loop(0, blocks // CHAINS, lambda i, before: several(before, i * CHAINS, CHAINS), zero)
    whole = several(whole, blocks - blocks % CHAINS, blocks % CHAINS)
    return total([whole, at(count - rest, rest)]) if rest else whole


def map_pairs(function: Callable, arrays: tuple, pairs: int):
    """`function(start, *blocks)` over blocks of at most `pairs` pairs of columns, i and i + N/2 of arrays (*rows, N), N even.

    It is given the columns of the first members of pairs start, start + 1, ..., and then those of the second, (*rows, 2 size), and returns
    such arrays. `pairs` is a multiple of 256.

    >>> map_pairs(lambda start, x: start + x, (jnp.arange(4),), 256).tolist()
    [0, 1, 2, 3]
    """
    count = jax.tree.leaves(arrays)[0].shape[-1] // 2
    halves = lambda a: a.reshape(*a.shape[:-1], 2, -1)  # noqa: E731
    side_by_side = lambda a: a.reshape(*a.shape[:-2], -1)  # noqa: E731
    arrays = jax.tree.map(halves, arrays)

    def at(start, size):
        return jax.tree.map(halves, function(start, *jax.tree.map(lambda a: side_by_side(take(a, start, size)), arrays)))

    blocks, width, rest = split(count, pairs)
    if blocks == 1 and not rest:
        return jax.tree.map(side_by_side, at(0, width))
    result = jax.tree.map(lambda a: jnp.zeros((*a.shape[:-1], count), a.dtype), jax.eval_shape(lambda: at(0, width)))
    place = lambda result, made, start: jax.tree.map(lambda a, b: put(a, b, start), result, made)  # noqa: E731
    result = jax.lax.fori_loop(0, blocks, lambda i, result: place(result, at(i * width, width), i * width), result)
    if rest:
        result = place(result, at(count - rest, rest), count - rest)
    return jax.tree.map(side_by_side, result)


PARTICLES = "particles"
"""The mesh axis over whose devices the particles and the data of a run are split."""


def split_axis() -> str | None:
    """The axis `PARTICLES` where a program is traced in which several devices share the particles, else None.

    Only the moves and the sums over particles ask for it, so that a method need not know how many devices there are.

    >>> split_axis(), jax.vmap(lambda x: x + (split_axis() == "particles"), axis_name="particles")(jnp.zeros(2)).tolist()
    (None, [1.0, 1.0])
    """
    try:
        return PARTICLES if jax.lax.axis_size(PARTICLES) > 1 else None
    except NameError:  # no such axis is bound
        return None


def undivided(function: Callable):
    """The value of `function()` in a program in which devices share the particles, as if each device had all of them.

    >>> jax.vmap(lambda x: undivided(lambda: x if split_axis() is None else -x), axis_name="particles")(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    if split_axis() is None:
        return function()
    return jax.vmap(lambda _: function(), axis_name=PARTICLES, axis_size=1, out_axes=None)(jnp.zeros(1))


def gather_pairs(x: Shaped[Array, "*rows N"]) -> Shaped[Array, "*rows M"]:
    """All columns, of which each device that share the particles holds the next of the first and of the second members of all pairs; or x.

    >>> jax.vmap(lambda x: gather_pairs(x), axis_name="particles")(jnp.array([[0, 2], [1, 3]])).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    axis = split_axis()
    if axis is None:
        return x
    parts = jax.lax.all_gather(x.reshape(*x.shape[:-1], 2, -1), axis, axis=x.ndim, tiled=True)
    return parts.reshape(*x.shape[:-1], -1)


def own_pairs(x: Shaped[Array, "*rows M"], count: int) -> Shaped[Array, "*rows count"]:
    """What `gather_pairs` made x of: the `count` columns of this device.

    >>> jax.vmap(lambda i: own_pairs(jnp.arange(4), 2), axis_name="particles")(jnp.arange(2)).tolist()
    [[0, 2], [1, 3]]
    """
    axis = split_axis()
    if axis is None:
        return x
    pairs = count // 2
    part = take(x.reshape(*x.shape[:-1], 2, -1), jax.lax.axis_index(axis) * pairs, pairs)
    return part.reshape(*x.shape[:-1], -1)


def total(values: list):
    """Sum of pytrees, in their order.

    >>> [int(x) for x in total([(jnp.int32(1), jnp.int32(2)), (jnp.int32(3), jnp.int32(4))])]
    [4, 6]
    """
    first, *others = values
    for other in others:
        first = jax.tree.map(jnp.add, first, other)
    return first


def mean_over(values):
    """Mean of pytrees of floating arrays over the devices that share the particles, or `values` on one device.

    One gather of all of them as one vector; added in the order of the devices, so that every device has the same bits.

    >>> jax.vmap(lambda x: mean_over(x), axis_name="particles")(jnp.array([1.0, 2.0, 6.0])).tolist()
    [3.0, 3.0, 3.0]
    """
    axis = split_axis()
    if axis is None:
        return values
    vector, as_before = ravel_pytree(values)
    parts = list(jax.lax.all_gather(vector, axis))
    return as_before(total(parts) / len(parts))


def whole(arrays):
    """Arrays of which each device that share the particles holds consecutive rows, gathered; or `arrays` on one device.

    >>> jax.vmap(lambda x: whole(x), axis_name="particles")(jnp.array([[1], [2]])).tolist()
    [[1, 2], [1, 2]]
    """
    axis = split_axis()
    return arrays if axis is None else jax.tree.map(lambda a: jax.lax.all_gather(a, axis, tiled=True), arrays)


def pick(
    x: Shaped[Array, "n *k"], index: Int[Array, " count"] | Int[np.ndarray, " count"]
) -> Shaped[Array, "count *k"]:
    """Rows `index` of x; over a mesh axis, each device of which holds n consecutive ones of all rows, those of all, on all devices.

    >>> jax.vmap(lambda x: pick(x, jnp.array([3, 0])), axis_name="particles")(jnp.arange(4).reshape(2, 2)).tolist()
    [[3, 0], [3, 0]]
    """
    axis = split_axis()
    if axis is None:
        return x[index]
    here = index - jax.lax.axis_index(axis) * x.shape[0]
    held = (here >= 0) & (here < x.shape[0])
    rows = x[jnp.where(held, here, 0)]
    return jax.lax.psum(jnp.where(held.reshape(-1, *[1] * (x.ndim - 1)), rows, 0), axis)  # exact: but one term is zero


def once(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x, computed once. XLA on CPUs recomputes what a loop reads, such as the cosine of an angle for each of d components.

    Only the result of a product is surely kept, so on a CPU it is the product of the identity and x, which is exact.

    >>> once(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """

    def kept(x):
        rows = x if x.ndim == 2 and x.shape[0] > 1 else jnp.broadcast_to(x.reshape(1, -1), (2, x.size))
        product = jnp.matmul(jnp.eye(rows.shape[0], dtype=x.dtype), rows, precision=jax.lax.Precision.HIGHEST)
        return product if rows is x else product[0].reshape(x.shape)

    return jax.lax.platform_dependent(x, cpu=kept, default=lambda x: x)


def threefry(
    keys: tuple[UInt32[Array, "*#shape"], UInt32[Array, "*#shape"]], counter: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counters (0, counter): the words behind `jax.random`.

    JAX compiles the rounds to a loop on CPUs, each turn of which passes through memory; here they are one expression.

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
    """Uniform in [0, 1) as `jax.random.uniform` makes it of the same words: the mantissa of a number in [1, 2)."""
    if dtype == jnp.float32:
        bits = ((words[0] ^ words[1]) >> np.uint32(9)) | np.uint32(0x3F800000)
    else:
        bits = (words[0].astype(jnp.uint64) << 32) | words[1].astype(jnp.uint64)
        bits = (bits >> np.uint64(12)) | np.uint64(0x3FF0000000000000)
    return jax.lax.bitcast_convert_type(bits, dtype) - 1


def draw(
    kind: str, key: Key[Array, ""], block: Int[Array, ""] | int, blocks: int, rows: int, dtype, grain: int = GRAIN
) -> Float[Array, "rows columns"]:
    """Columns of `blocks` noise blocks of `grain` from `block` on: block b is `jax.random.<kind>(fold_in(key, b), (rows, grain))`.

    kind is "normal" or "uniform". The columns of a block depend on its number alone, however many are drawn at a time.

    >>> x = draw("normal", jax.random.key(0), 3, 2, 5, jnp.float32)
    >>> bool((x[:, 256:] == jax.random.normal(jax.random.fold_in(jax.random.key(0), 4), (5, 256))).all())
    True
    """
    dtype = jnp.dtype(dtype)
    # By JAX, whose loop keeps the keys; by `threefry` XLA would make them anew for each number that is drawn with them.
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
