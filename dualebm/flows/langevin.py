"""dX = (-grad U + grad log tau) dt + sqrt(2) dW: the particles' flow at temperature 1 (arXiv 2107.05134, eq. 8).

A transition `(space, noise, x, energy, step) -> (x, Info)` is deterministic in its noise, which `draw_noise` draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm.energy import Energy, map_blocks
from dualebm.measures import Samples
from dualebm.spaces import Space, Sphere, too_long

NOISE_PAIRS = 256
"""Pairs of particles whose noise shares a key: part of the definition of the results, unlike the streamed block."""

Step = Float[Array, ""] | float


class Noise(NamedTuple):
    """What a transition draws: a standard normal vector and a uniform number in [0, 1) per particle."""

    normal: Float[Array, "N d"]
    uniform: Float[Array, " N"]


class Info(NamedTuple):
    """Whether each particle accepted, and the log densities (up to one constant) of its proposal and of the way back.

    The unadjusted transitions fill the densities, which Jarzynski weights need; NaN where they have no closed form (the
    projected transition on the sphere). A reversible transition needs none and returns zeros.
    """

    accepted: Bool[Array, " N"]
    log_forward: Float[Array, " N"]
    log_backward: Float[Array, " N"]


def _log_target_and_score(space, x, energy):
    """log density exp(-U) tau, up to a constant, and its Riemannian gradient."""
    value, gradient = energy.value_and_gradient(x)
    return space.log_base(x) - value, space.tangent(x, space.grad_log_base(x) - gradient)


def _log_proposal(velocity, score, step):
    """log N(velocity; step * score, 2 step) up to a constant."""
    return -jnp.sum((velocity - step * score) ** 2, axis=-1) / (4 * step)


def projected(
    space: Space, noise: Noise, x: Float[Array, "N d"], energy: Energy, step: Step
) -> tuple[Float[Array, "N d"], Info]:
    """Euler-Maruyama with the ambient gradient and ambient noise, then retraction (Algorithm 1, step 2).

    X <- retract(X, h (-grad U + grad log tau) + sqrt(2 h) xi); on the sphere (X + ...)/|X + ...|. The authors' choice;
    its bias on the sphere is O(h). On Euclidean space and the torus it is the usual Euler-Maruyama step.

    >>> from dualebm.energy import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> x, still = jnp.array([[1.0, 0.0]]), Noise(jnp.zeros((1, 2)), jnp.zeros(1))
    >>> projected(Sphere(2), still, x, Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), 0.1)[0].tolist()
    [[1.0, 0.0]]
    """
    if not isinstance(space, Sphere):
        return geodesic(space, noise, x, energy, step)
    drift = space.grad_log_base(x) - energy.gradient(x)
    y = space.retract(x, step * drift + jnp.sqrt(2 * step) * noise.normal)
    unknown = jnp.full(x.shape[0], jnp.nan, x.dtype)
    return y, Info(jnp.ones(x.shape[0], bool), unknown, unknown)


def _propose(space, noise, x, energy, step):
    log_target, score = _log_target_and_score(space, x, energy)
    velocity = step * score + jnp.sqrt(2 * step) * space.tangent(x, noise.normal)
    y = space.exp(x, velocity)
    log_target_y, score_y = _log_target_and_score(space, y, energy)
    log_forward = _log_proposal(velocity, score, step)
    log_backward = _log_proposal(space.log(y, x), score_y, step)
    return y, velocity, log_target_y - log_target, log_forward, log_backward


def geodesic(
    space: Space, noise: Noise, x: Float[Array, "N d"], energy: Energy, step: Step
) -> tuple[Float[Array, "N d"], Info]:
    """Euler-Maruyama in the tangent space, then the exponential map; weak order 1 on every space.

    X <- Exp_X(v), v = h grad log p(X) + sqrt(2 h) P xi, with p = exp(-U) tau and Riemannian gradients.

    >>> from dualebm.energy import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> x, push = jnp.array([[1.0, 0.0]]), Noise(jnp.array([[5.0, jnp.pi / 2]]), jnp.zeros(1))
    >>> geodesic(Sphere(2), push, x, Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), 0.5)[0].round(3).tolist()
    [[-0.0, 1.0]]
    """
    y, _, _, log_forward, log_backward = _propose(space, noise, x, energy, step)
    return y, Info(jnp.ones(x.shape[0], bool), log_forward, log_backward)


def mala(
    space: Space, noise: Noise, x: Float[Array, "N d"], energy: Energy, step: Step
) -> tuple[Float[Array, "N d"], Info]:
    """Metropolis-adjusted Langevin (Roberts, Tweedie 1996): `geodesic`, accepted so that p = exp(-U) tau is invariant.

    Accept y = Exp_x(v) when log u < log p(y) - log p(x) + (|v - h s(x)|^2 - |u_back - h s(y)|^2) / 4h, with s = grad
    log p and u_back = Log_y(x); the Jacobian of the exponential map is symmetric in x and y and cancels. A proposal
    that reaches to the injectivity radius is rejected: the logarithm would return another velocity.

    >>> from dualebm.energy import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> x, far = jnp.array([[1.0, 0.0]]), Noise(jnp.array([[0.0, 4.0]]), jnp.zeros(1))
    >>> mala(Sphere(2), far, x, Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), 0.5)[1].accepted.tolist()
    [False]
    """
    y, velocity, log_ratio, log_forward, log_backward = _propose(space, noise, x, energy, step)
    log_acceptance = log_ratio + log_backward - log_forward
    accepted = (jnp.log(noise.uniform) < log_acceptance) & ~too_long(space, velocity)
    none = jnp.zeros(x.shape[0], x.dtype)
    return jnp.where(accepted[:, None], y, x), Info(accepted, none, none)


TRANSITIONS: dict[str, Callable] = {"projected": projected, "geodesic": geodesic, "mala": mala}
"""The integrators by name."""


def _draw_by_blocks(key, count, draw):
    """Rows 0 .. count-1 of pairs (i, i + ceil(count/2)); `draw(block_key)` is `(halves, ..., NOISE_PAIRS)`."""
    pairs = (count + 1) // 2
    keys = jax.vmap(lambda block: jax.random.fold_in(key, block))(jnp.arange(-(-pairs // NOISE_PAIRS)))
    # Mapped, not vmapped: XLA would fuse the generator into the transposition, where it is not vectorised, and draw
    # it twice.
    drawn = jnp.moveaxis(jax.lax.map(draw, keys, batch_size=32), (1, -1), (0, 2))  # (halves, blocks, NOISE_PAIRS, ...)
    return drawn.reshape(drawn.shape[0], -1, *drawn.shape[3:])[:, :pairs]


def draw_noise(key: Key[Array, ""], count: int, dimension: int, dtype, antithetic: bool) -> Noise:
    """The noise of one step, keyed by block of pairs; antithetic particles i and i + count/2 have opposite vectors.

    >>> noise = draw_noise(jax.random.key(0), 4, 2, jnp.float32, True)
    >>> bool((noise.normal[:2] == -noise.normal[2:]).all())
    True
    """
    normal_key, uniform_key = jax.random.split(key)
    halves = 1 if antithetic else 2
    # Components before particles: a minor axis of length d would not be vectorised.
    normal = _draw_by_blocks(
        normal_key, count, lambda k: jax.random.normal(k, (halves, dimension, NOISE_PAIRS), dtype)
    )
    normal = jnp.concatenate([normal[0], -normal[0] if antithetic else normal[1]])[:count]
    uniform = _draw_by_blocks(uniform_key, count, lambda k: jax.random.uniform(k, (2, NOISE_PAIRS), dtype))
    return Noise(normal, jnp.concatenate([uniform[0], uniform[1]])[:count])


def move(
    integrator: str, space: Space, noise: Noise, x: Float[Array, "N d"], energy: Energy, step: Step
) -> tuple[Float[Array, "N d"], Float[Array, ""]]:
    """One transition of every particle, streamed by blocks, and the fraction that accepted.

    >>> from dualebm.energy import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    >>> noise = draw_noise(jax.random.key(0), 2, 2, jnp.float32, False)
    >>> x, acceptance = move("mala", Sphere(2), noise, jnp.eye(2), energy, 0.01)
    >>> float(acceptance)
    1.0
    """

    def block(noise, x):
        y, info = TRANSITIONS[integrator](space, noise, x, energy, step)
        return y, info.accepted

    y, accepted = map_blocks(block, (noise, x), energy.rows)
    return y, jnp.mean(accepted, dtype=x.dtype)


def restart(
    key: Key[Array, ""], x: Float[Array, "N d"], data: Samples, probability: Step
) -> Float[Array, "N d"]:
    """Each particle, independently with `probability`, at a data point drawn at random (Algorithm 1, step 1).

    >>> restart(jax.random.key(0), jnp.zeros((3, 2)), Samples(jnp.ones((5, 2))), 1.0).tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """

    def draw(key):
        chosen_key, index_key = jax.random.split(key)
        chosen = jax.random.uniform(chosen_key, (2, NOISE_PAIRS), x.dtype) < probability
        return jnp.stack([chosen, draw_indices(index_key, data, (2, NOISE_PAIRS))], axis=1)

    def restarted():
        drawn = _draw_by_blocks(key, x.shape[0], draw)
        chosen, index = jnp.moveaxis(jnp.concatenate([drawn[0], drawn[1]])[: x.shape[0]], -1, 0)
        return jnp.where(chosen[:, None] == 1, data.points[index], x)

    return jax.lax.cond(probability > 0, restarted, lambda: x)


def draw_indices(key: Key[Array, ""], data: Samples, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Indices of data points drawn independently with the weights of the data.

    >>> draw_indices(jax.random.key(0), Samples(jnp.ones((1, 2))), (3,)).tolist()
    [0, 0, 0]
    """
    if data.log_weights is None:
        return jax.random.randint(key, shape, 0, data.points.shape[0])
    cumulative = jnp.cumsum(jax.nn.softmax(data.log_weights))
    uniform = jax.random.uniform(key, shape, data.points.dtype) * cumulative[-1]
    return jnp.searchsorted(cumulative, uniform, side="right").clip(0, data.points.shape[0] - 1)


def copies(data: Samples, count: int) -> Float[Array, "count d"]:
    """All particles at the data in order, both particles of a pair (i, i + count/2) at the same point.

    With count = 2n it is the program's [data, data].

    >>> copies(Samples(jnp.array([[1.0], [2.0]])), 4)[:, 0].tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    pair = jnp.arange(count) % ((count + 1) // 2)
    return data.points[pair % data.points.shape[0]]


def sample(
    key: Key[Array, ""],
    energy: Energy,
    space: Space,
    count: int,
    *,
    steps: int = 1000,
    step: Step = 0.01,
) -> tuple[Float[Array, "count d"], Float[Array, ""]]:
    """`count` approximate samples of the model exp(-U) tau / Z, and the mean acceptance rate.

    Each is the end of its own `mala` chain of `steps` steps of size `step`, started at the base measure. Raises
    ValueError where the base measure cannot be sampled (flat Euclidean space).

    >>> from dualebm.energy import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-5.0, 0.0]))
    >>> x, acceptance = sample(jax.random.key(0), energy, Sphere(2), 1000, steps=200, step=0.05)
    >>> bool(x[:, 0].mean() > 0.3)
    True
    """
    start_key, chain_key = jax.random.split(key)
    dtype = jnp.result_type(*jax.tree.leaves(energy))
    x = space.sample_base(start_key, count, dtype)

    def body(x, i):
        noise = draw_noise(jax.random.fold_in(chain_key, i), *x.shape, dtype=x.dtype, antithetic=False)
        return move("mala", space, noise, x, energy, step)

    x, acceptance = jax.lax.scan(body, x, jnp.arange(steps))
    return x, jnp.mean(acceptance)
