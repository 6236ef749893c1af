"""Particles that several devices share: gathers, means and choices that give all devices the same bits. Runs that CPU devices divide.

Where no devices share the particles, a gather, a mean or a part of all returns its argument as it is.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Int, Shaped

from dualebm._internal.blocks import take, total

PARTICLES = "particles"
"""The mesh axis of the devices that share the particles and the data of a run."""


def split_axis() -> str | None:
    """Returns the axis `PARTICLES` while a program is traced in which several devices share the particles, else None.

    Only the moves and the sums over particles ask for it. A method need not know the number of devices.

    >>> split_axis(), jax.vmap(lambda x: x + (split_axis() == "particles"), axis_name="particles")(jnp.zeros(2)).tolist()
    (None, [1.0, 1.0])
    """
    try:
        return PARTICLES if jax.lax.axis_size(PARTICLES) > 1 else None
    except NameError:  # No such axis is bound.
        return None


def undivided(function: Callable):
    """Returns `function()` in a program in which devices share the particles, as if each device held all of them.

    >>> jax.vmap(lambda x: undivided(lambda: x if split_axis() is None else -x), axis_name="particles")(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    if split_axis() is None:
        return function()
    return jax.vmap(lambda _: function(), axis_name=PARTICLES, axis_size=1, out_axes=None)(jnp.zeros(1))


def gather_pairs(x: Shaped[Array, "*rows N"]) -> Shaped[Array, "*rows M"]:
    """Gathers the columns of all devices that share the particles of a run. Every device receives the same M columns.

    A column belongs to a particle. Particles i and i + M/2 are a pair, which shares its noise. Each of D devices holds N = M/D
    columns: the first members of N/2 consecutive pairs, then their second members. On one device it returns x.

    >>> jax.vmap(lambda x: gather_pairs(x), axis_name="particles")(jnp.array([[0, 2], [1, 3]])).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    axis = split_axis()
    if axis is None:
        return x
    parts = jax.lax.all_gather(x.reshape(*x.shape[:-1], 2, -1), axis, axis=x.ndim, tiled=True)
    return parts.reshape(*x.shape[:-1], -1)


def scatter_pairs(x: Shaped[Array, "*rows M"], count: int) -> Shaped[Array, "*rows count"]:
    """Inverts `gather_pairs`: returns the columns of this device out of the columns of all devices.

    Columns i and i + M/2 are a pair. Device k of D holds the pairs i from k M/2D up to (k + 1) M/2D: their first members, then
    their second members. On one device it returns x.

    Args:
        x: the columns of all devices, (*rows, M), the same on every device.
        count: the even number M/D of columns that each of the D devices holds.

    Returns:
        The columns of this device, (*rows, count).

    >>> jax.vmap(lambda i: scatter_pairs(jnp.arange(4), 2), axis_name="particles")(jnp.arange(2)).tolist()
    [[0, 2], [1, 3]]
    """
    axis = split_axis()
    if axis is None:
        return x
    pairs = count // 2
    part = take(x.reshape(*x.shape[:-1], 2, -1), jax.lax.axis_index(axis) * pairs, pairs)
    return part.reshape(*x.shape[:-1], -1)


def mean_over(values):
    """Returns the mean of pytrees of floating arrays over the devices that share the particles, or `values` on one device.

    All arrays are gathered as one vector and added in the order of the devices, so that every device receives the same bits.

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
    """Gathers the consecutive rows of arrays that each device holds. On one device it returns `arrays`.

    >>> jax.vmap(lambda x: whole(x), axis_name="particles")(jnp.array([[1], [2]])).tolist()
    [[1, 2], [1, 2]]
    """
    axis = split_axis()
    return arrays if axis is None else jax.tree.map(lambda a: jax.lax.all_gather(a, axis, tiled=True), arrays)


def pick(
    x: Shaped[Array, "n *k"], index: Int[Array, " count"] | Int[np.ndarray, " count"]
) -> Shaped[Array, "count *k"]:
    """Gathers rows `index`, (count,), of an array x.

    Over a mesh axis each device holds n consecutive rows, and every device receives the same gathered rows.

    >>> jax.vmap(lambda x: pick(x, jnp.array([3, 0])), axis_name="particles")(jnp.arange(4).reshape(2, 2)).tolist()
    [[3, 0], [3, 0]]
    """
    axis = split_axis()
    if axis is None:
        return x[index]
    row = index - jax.lax.axis_index(axis) * x.shape[0]
    held = (row >= 0) & (row < x.shape[0])
    rows = x[jnp.where(held, row, 0)]
    # The sum is exact, because all terms but one are zero.
    return jax.lax.psum(jnp.where(held.reshape(-1, *[1] * (x.ndim - 1)), rows, 0), axis)


def divided(function: Callable, devices: int, each: Any, common: Any) -> Any:
    """Returns `function(each, common)`, where each device computes it for its part of the runs.

    A run is whole on its device. So it has the numbers of one device, bit for bit.

    Args:
        function: a function of stacks, which returns arrays with the same leading axis of runs.
        devices: the number of devices, the first of this process. It divides the number of runs.
        each: what the runs have of their own, a pytree whose arrays have a leading axis of runs.
        common: what they share, a pytree.

    Returns:
        The stacks.

    >>> divided(lambda each, common: each + common, 1, jnp.arange(3), 2).tolist()
    [2, 3, 4]
    """
    if devices == 1:
        return function(each, common)
    mesh = Mesh(np.asarray(jax.local_devices()[:devices]), ("runs",), axis_types=(AxisType.Auto,))
    arrays, others = eqx.partition((each, common), eqx.is_array)
    runs = PartitionSpec("runs")
    part = jax.shard_map(
        lambda *arrays: function(*eqx.combine(arrays, others)), mesh=mesh, in_specs=(runs, PartitionSpec()), out_specs=runs, check_vma=False
    )
    return part(*arrays)
