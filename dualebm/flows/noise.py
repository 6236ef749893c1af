"""Gaussian and uniform noise of Langevin moves. It is keyed by block of pairs of particles and drawn where it is used."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import blocks, collectives, random
from dualebm._internal.keys import check_key

NOISE_PAIRS = blocks.GRAIN
"""The number of pairs of particles whose noise shares a key. It is part of the definition of the results, unlike the streamed block."""

NoiseKind = Literal["independent", "antithetic", "orthogonal"]
NOISES: tuple[NoiseKind, ...] = get_args(NoiseKind)
"""The kinds of Gaussian noise by name. See `drawn`."""


class Noise(NamedTuple):
    """The noise of one move of B particles, which are columns.

    Args:
        normal: a standard normal vector for each particle, (d, B).
        uniform: a uniform number in [0, 1) for each particle, (B,), or k of them, (k, B).
    """

    normal: Float[Array, "d B"]
    uniform: Float[Array, " B"] | Float[Array, "k B"]


Draw = Callable[[Any, Any, int], tuple[Noise, Noise]]
"""`draw(k, start, pairs)` returns the noise of the pairs start, start + 1, ...: first that of the first particle of each pair, then that
of the second. `k` is None for a single move, or the index of one of several moves.

Particles i and i + ceil(N/2) are a pair. `start` is a multiple of `NOISE_PAIRS`."""


def drawn(key: Key[Array, ""], dimension: int, dtype, noise: NoiseKind = "antithetic", uniforms: int | None = None) -> Draw:
    """Make the noise of one step, keyed by block of `NOISE_PAIRS` pairs and drawn where it is used.

    Args:
        key: the random key of the step.
        dimension: d, the number of components of each normal vector.
        dtype: the floating dtype of the numbers.
        noise: one of `NOISES`. "independent": all vectors are independent. "antithetic": the particles of a pair have
            opposite vectors. "orthogonal": as "antithetic", and the vectors of pairs i and i + 128 of a block are a quarter
            turn apart, (x, y) -> (-y, x) in halves of the components. An odd last component changes sign.
        uniforms: the number k of uniform numbers of each particle, which are the rows of `Noise.uniform`. None for one
            number, without an axis for it.

    Returns:
        The `Draw` of the step.

    >>> first, second = drawn(jax.random.key(0), 2, jnp.float32)(None, 0, 3)
    >>> first.normal.shape, bool((first.normal == -second.normal).all()), first.uniform.shape
    ((2, 3), True, (3,))
    """

    check_key(key)
    def draw(k, start, pairs):
        # The indices 2, 3, ... keep the keys of several moves apart from the keys of a single move, which are split(key).
        normal_key, uniform_key = jax.random.split(key if k is None else jax.random.fold_in(key, k + 2))
        block, blocks = start // NOISE_PAIRS, -(-pairs // NOISE_PAIRS)
        rows = 2 * dimension if noise == "independent" else dimension
        grain = NOISE_PAIRS // 2 if noise == "orthogonal" else NOISE_PAIRS
        normal = random.draw("normal", normal_key, block, blocks, rows, dtype, grain)
        if noise == "orthogonal":
            normal = normal.reshape(dimension, blocks, grain)
            quarter = dimension // 2
            turned = jnp.concatenate([-normal[quarter : 2 * quarter], normal[:quarter], -normal[2 * quarter :]])
            normal = jnp.concatenate([normal, turned], axis=2).reshape(dimension, blocks * NOISE_PAIRS)
        normal = normal[:, :pairs]
        uniform = random.draw("uniform", uniform_key, block, blocks, 2 * (uniforms or 1), dtype)[:, :pairs]
        halves = (uniform[0], uniform[1]) if uniforms is None else (uniform[:uniforms], uniform[uniforms:])
        second = normal[dimension:] if noise == "independent" else -normal
        return Noise(normal[:dimension], halves[0]), Noise(second, halves[1])

    return draw


def sharded(draw: Callable, pairs: int) -> Callable:
    """Restrict a `Draw` to the pairs of this device, where several devices share the particles.

    The pairs of this device are the next `pairs` after those of the device before it. The numbers belong to the pairs and
    do not depend on the number of devices. Without a mesh axis the function returns `draw` itself.

    Args:
        draw: a `Draw`, or another function of (k, start, pairs) that draws for pairs along the last axis of its arrays.
        pairs: the number of pairs that each device holds.

    Returns:
        A function of (k, start, pairs) that counts `start` from the first pair of this device.

    >>> def draw(k, start, pairs):
    ...     return 2 * (Noise((jnp.arange(pairs) + start)[None].astype(float), jnp.zeros(pairs)),)
    >>> def normals(_):
    ...     return sharded(draw, 300)(None, 256, 2)[0].normal[0]
    >>> jax.vmap(normals, axis_name="particles")(jnp.arange(3)).tolist()
    [[256.0, 257.0], [556.0, 557.0], [856.0, 857.0]]
    """
    axis = collectives.split_axis()
    if axis is None:
        return draw
    first = jax.lax.axis_index(axis) * pairs
    if pairs % NOISE_PAIRS == 0:
        return lambda k, start, count: draw(k, first + start, count)

    def covering(k, start, count):
        ahead = (first + start) % NOISE_PAIRS
        noise = draw(k, first + start - ahead, count + NOISE_PAIRS)
        return jax.tree.map(lambda a: blocks.take(a, ahead, count), noise)

    return covering


def given(normal: Float[Array, "N d"], uniform: Float[Array, " N"] | None = None) -> Draw:
    """Make a `Draw` that returns known noise, for one move.

    Args:
        normal: a vector for each particle, (N, d).
        uniform: a uniform number for each particle, (N,). None for zeros, which suit a move without a rejection.

    Returns:
        The `Draw`. An odd N is completed by a last particle without noise.

    >>> first, second = given(jnp.arange(6.0).reshape(3, 2))(None, 0, 2)
    >>> first.normal.T.tolist(), second.normal.T.tolist()
    ([[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [0.0, 0.0]])
    """
    half = -(-normal.shape[0] // 2)
    fill = jnp.zeros(normal.shape[0], normal.dtype) if uniform is None else uniform
    halves = [Noise(normal.T[:, :half], fill[:half]), Noise(normal.T[:, half:], fill[half:])]
    halves[1] = jax.tree.map(lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, half - a.shape[-1])]), halves[1])

    def draw(k, start, pairs):
        del k
        return tuple(jax.tree.map(lambda a: blocks.take(a, start, pairs), noise) for noise in halves)

    return draw
