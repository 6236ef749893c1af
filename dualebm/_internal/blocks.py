"""How the package computes with many points at once: components first, in blocks of columns that stay in cache.

Inside, N points in d dimensions are the columns of an array (d, N): a minor axis of length d is not vectorised on CPUs. No
array of N m elements is ever whole, so memory does not grow with N m and the step runs at the speed of arithmetic.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

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


def total(values: list):
    """Sum of pytrees, in their order.

    >>> [int(x) for x in total([(jnp.int32(1), jnp.int32(2)), (jnp.int32(3), jnp.int32(4))])]
    [4, 6]
    """
    first, *others = values
    for other in others:
        first = jax.tree.map(jnp.add, first, other)
    return first


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
