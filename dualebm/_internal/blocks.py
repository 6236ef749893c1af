"""Computation with many points at once, in blocks of columns that stay in the cache.

Inside the package, N points in d dimensions are the columns of an array (d, N), because CPUs do not vectorise over a minor axis
of length d. No array of N m elements is ever whole. Memory then does not grow with N m, and arithmetic limits the speed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from dualebm._internal.platforms import choices

GRAIN = 256
"""The number of columns of a block is a multiple of this number."""


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns a @ b in the precision of its factors, also on accelerators that would round float32.

    >>> product(jnp.array([[1.0, 2.0]]), jnp.array([3.0, 4.0])).tolist()
    [11.0]
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def block_columns(rows: int) -> int:
    """Returns the number of columns of a block of an array (rows, N) on the default backend, a multiple of 256.

    >>> block_columns(64) % 256
    0
    """
    return max(choices().block_elements // (GRAIN * rows), 1) * GRAIN


def split(count: int, columns: int) -> tuple[int, int, int]:
    """Divides `count` columns into blocks of one width, at most `columns`, and a rest that is at most as wide.

    The rest is nearly as wide as a block. With several blocks the width is a multiple of 256 if `columns` is one.

    Args:
        count: the number of columns to divide.
        columns: the largest width of a block.

    Returns:
        (the number of blocks, their width, the width of the rest).

    >>> split(100_000, 12_288)
    (8, 11264, 9888)
    """
    if count <= columns:
        return 1, count, 0
    grain = 1 if columns % GRAIN else GRAIN
    width = -(-count // (-(-count // columns) * grain)) * grain
    return count // width, width, count % width


def take(x: Shaped[Array, "*rows N"], start: Int[Array, ""] | int, width: int) -> Shaped[Array, "*rows width"]:
    """Returns the columns start .. start + width - 1 of an array.

    Args:
        x: the array, (*rows, N).
        start: the first column.
        width: the number of columns.

    Returns:
        The columns, (*rows, width).

    >>> take(jnp.arange(6), 2, 3).tolist()
    [2, 3, 4]
    """
    return jax.lax.dynamic_slice_in_dim(x, start, width, axis=-1)


def choose(x: Shaped[Array, "*rows N"], index: Int[Array, " count"]) -> Shaped[Array, "*rows count"]:
    """Returns the columns `index`, (count,), of an array x, (*rows, N), as an array (*rows, count).

    On a CPU it goes row after row. XLA would otherwise keep x transposed in the whole loop around it, which slows its products.

    >>> choose(jnp.arange(6).reshape(2, 3), jnp.array([2, 2])).tolist()
    [[2, 2], [5, 5]]
    """
    if x.ndim == 1:
        return x[index]
    by_rows = lambda x: jax.lax.map(lambda row: row[..., index], x)  # noqa: E731
    return jax.lax.platform_dependent(x, cpu=by_rows, default=lambda x: x[..., index])


def put(x: Shaped[Array, "*rows N"], block: Shaped[Array, "*rows width"], start: Int[Array, ""] | int):
    """Returns an array with some columns replaced.

    Args:
        x: the array, (*rows, N).
        block: the new columns, (*rows, width).
        start: the first column to replace.

    Returns:
        The array, (*rows, N).

    >>> put(jnp.zeros(4), jnp.ones(2), 1).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis=-1)


def map_blocks(function: Callable, x: Shaped[Array, "*rows N"], columns: int):
    """Returns `function(x)`, computed in blocks of columns.

    Args:
        function: maps an array of columns to a pytree of such arrays. It treats columns independently.
        x: the array, (*rows, N).
        columns: the largest width of a block.

    Returns:
        A pytree of arrays whose last axis has length N.

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
    """Returns `function(*arrays)` for a function that sums over the last axis. Blocks of columns are added in their order.

    Args:
        function: maps arrays of columns to a pytree of sums over the columns.
        arrays: arrays or pytrees of arrays, each (*rows, N).
        columns: the largest width of a block.

    Returns:
        The pytree of sums over all N columns.

    >>> int(sum_blocks(jnp.sum, (jnp.arange(5),), 2))
    10
    """
    count = jax.tree.leaves(arrays)[0].shape[-1]
    if count <= columns:
        return function(*arrays)
    blocks, width, rest = split(count, columns)
    side = choices().chains
    at = lambda start, width: function(*jax.tree.map(lambda a: take(a, start, width), arrays))  # noqa: E731

    def several(before, first, chains):
        return total([before, *(at((first + i) * width, width) for i in range(chains))])

    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: at(0, width)))
    whole = jax.lax.fori_loop(0, blocks // side, lambda i, before: several(before, i * side, side), zero)
    whole = several(whole, blocks - blocks % side, blocks % side)
    return total([whole, at(count - rest, rest)]) if rest else whole


def map_pairs(function: Callable, arrays: tuple, pairs: int):
    """Applies a function to blocks of pairs of columns. Columns i and i + N/2 are a pair, with N even.

    Args:
        function: called as `function(start, *blocks)` for `size` consecutive pairs from number `start` on. Each block,
            (*rows, 2 size), holds the first members of the pairs, then the second. The function returns such arrays.
        arrays: arrays or pytrees of arrays, each (*rows, N).
        pairs: the largest number of pairs of a block, a multiple of 256.

    Returns:
        A pytree of arrays whose last axis has length N.

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
    """Returns the sum of pytrees, added in their order.

    >>> [int(x) for x in total([(jnp.int32(1), jnp.int32(2)), (jnp.int32(3), jnp.int32(4))])]
    [4, 6]
    """
    first, *others = values
    for other in others:
        first = jax.tree.map(jnp.add, first, other)
    return first


def once(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x and makes XLA compute it only once.

    XLA on CPUs recomputes the values that a loop reads, such as the cosine of an angle for each of d components. It surely
    keeps only the result of a product. On a CPU this is therefore the product of the identity and x, which is exact.

    >>> once(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """

    def kept(x):
        rows = x if x.ndim == 2 and x.shape[0] > 1 else jnp.broadcast_to(x.reshape(1, -1), (2, x.size))
        product = jnp.matmul(jnp.eye(rows.shape[0], dtype=x.dtype), rows, precision=jax.lax.Precision.HIGHEST)
        return product if rows is x else product[0].reshape(x.shape)

    return jax.lax.platform_dependent(x, cpu=kept, default=lambda x: x)
