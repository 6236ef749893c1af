"""Start and restart particles, at the data or at the base measure (arXiv 2107.05134, Algorithm 1, step 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import collectives
from dualebm._internal.keys import check_key
from dualebm.flows.noise import NOISE_PAIRS, NoiseKind, drawn, sharded
from dualebm.geometry import Space
from dualebm.measures import Samples, draw_indices

Scalar = Float[Array, ""] | float


def _draw_by_blocks(key, count, draw):
    """Draw for the `count` particles in pairs (i, i + ceil(count/2)). `draw(block_key)` has the shape `(halves, ..., NOISE_PAIRS)`."""

    def blocks(k, start, pairs):
        del k
        blocks = start // NOISE_PAIRS + jnp.arange(-(-pairs // NOISE_PAIRS))
        keys = jax.vmap(lambda block: jax.random.fold_in(key, block))(blocks)
        values = jnp.moveaxis(jax.vmap(draw)(keys), 0, -2)  # (halves, ..., blocks, NOISE_PAIRS)
        return values.reshape(*values.shape[:-2], -1)[..., :pairs]

    pairs = -(-count // 2)
    return sharded(blocks, pairs)(None, 0, pairs)


def restart(
    key: Key[Array, ""], x: Float[Array, "d N"], data: Samples, probability: Scalar
) -> Float[Array, "d N"]:
    """Move each particle with a given probability to a data point drawn at random, independently.

    This is step 1 of Algorithm 1 of arXiv 2107.05134. Where several devices share the particles and the data of a run, each draws
    from the data of all devices.

    Args:
        key: the random key.
        x: the particles as columns, (d, N).
        data: the data.
        probability: the probability of a restart, in [0, 1].

    Returns:
        The particles, (d, N).

    >>> restart(jax.random.key(0), jnp.zeros((2, 3)), Samples(jnp.ones((5, 2))), 1.0).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    check_key(key)
    def restarted():
        all_data = collectives.whole(data)

        def draw(key):
            chosen_key, index_key = jax.random.split(key)
            chosen = jax.random.uniform(chosen_key, (2, NOISE_PAIRS), x.dtype) < probability
            return jnp.stack([chosen, draw_indices(index_key, all_data, (2, NOISE_PAIRS))], axis=1)

        draws = _draw_by_blocks(key, x.shape[1], draw)
        chosen, index = jnp.concatenate([draws[0], draws[1]], axis=1)[:, : x.shape[1]]
        return jnp.where(chosen[None] == 1, all_data.points[index].T, x)

    return jax.lax.cond(probability > 0, restarted, lambda: x)


def refresh(
    key: Key[Array, ""], x: Float[Array, "d N"], space: Space, probability: Scalar
) -> Float[Array, "d N"]:
    """Move each particle with a given probability to a point drawn from the base measure, independently.

    Args:
        key: the random key.
        x: the particles as columns, (d, N).
        space: the space, with its base measure.
        probability: the probability of a restart, in [0, 1].

    Returns:
        The particles, (d, N).

    >>> from dualebm.spaces import Sphere
    >>> refresh(jax.random.key(0), jnp.zeros((2, 3)), Sphere(2), 0.0).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    check_key(key)
    def restarted():
        pairs = -(-x.shape[1] // 2)
        draw = sharded(drawn(key, x.shape[0], x.dtype, "independent"), pairs)
        noise = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1)[..., : x.shape[1]], *draw(None, 0, pairs))
        return jnp.where(noise.uniform[None] < probability, space.from_normal(noise.normal, axis=0), x)

    return jax.lax.cond(probability > 0, restarted, lambda: x)


def copies(data: Samples, count: int) -> Float[Array, "d count"]:
    """Place particles at the n data points in order, both particles of a pair (i, i + P) at the same point.

    There are P = ceil(count/2) pairs. Pair i is placed at data point i mod n, so that the data repeat where P > n, and the last ones
    are left out where P < n. For count = 2n the particles are [data, data], as in the authors' program for arXiv 2107.05134.

    Where several devices share the particles of a run, n and `count` are the numbers of data points and particles of one device.
    For count = 2n it uses the data points that the device holds. Otherwise it gathers the data of all devices and places all pairs
    of all devices in order.

    Args:
        data: the data, n points (n, d).
        count: the number of particles.

    Returns:
        The particles as columns, (d, count).

    >>> copies(Samples(jnp.array([[1.0], [2.0]])), 4).tolist()
    [[1.0, 2.0, 1.0, 2.0]]
    """
    pairs = (count + 1) // 2
    pair = jnp.arange(count) % pairs
    axis = collectives.split_axis()
    if axis is not None and pairs != data.points.shape[0]:
        data, pair = collectives.whole(data), pair + jax.lax.axis_index(axis) * pairs
    return data.points.T[:, pair % data.points.shape[0]]


def start(key: Key[Array, ""], count: int | None, data: Samples) -> Float[Array, "d N"]:
    """Place particles at data points, drawn at random or as two copies of the data.

    Args:
        key: the random key of the draws.
        count: the number N of particles, each at a data point drawn at random. None for two copies of the data in order.
        data: the data.

    Returns:
        The particles as columns, (d, N).

    >>> start(jax.random.key(0), None, Samples(jnp.array([[1.0], [2.0]]))).tolist()
    [[1.0, 2.0, 1.0, 2.0]]
    """
    check_key(key)
    if count is None:
        return copies(data, 2 * data.points.shape[0])
    return data.points[draw_indices(key, data, (count,))].T


def check_particles(count: int | None, noise: NoiseKind) -> None:
    """Check that a number of particles is allowed with a kind of noise: it must be even with "antithetic" and "orthogonal" noise.

    Args:
        count: the number of particles, or None for two copies of the data, which is always allowed.
        noise: the kind of noise.

    Raises:
        ValueError: the number is odd and the noise is not "independent".

    >>> check_particles(None, "antithetic")
    """
    if count is not None and noise != "independent" and count % 2:
        raise ValueError(f"particles is {count}; it must be even with {noise} noise (or noise='independent')")


def check_copies(name: str, count: int | None, data: Samples) -> None:
    """Raise ValueError where particles are copies of the data and the data have weights, which copies would not have.

    Args:
        name: the name of the setting that is the number of particles.
        count: the number of particles, or None for two copies of the data.
        data: the data.

    >>> check_copies("particles", None, Samples(jnp.eye(2)))
    """
    if count is None and data.log_weights is not None:
        raise ValueError(f"{name} is None, which is copies of the data, and the data have weights; give a number, of draws by the weights")
