"""dX = (-grad U + grad log tau) dt + sqrt(2) dW: the particles' flow at temperature 1 (arXiv 2107.05134, eq. 8).

A transition `(space, noise, here, energy, step) -> (there, Info)` is deterministic in its noise; it takes and returns points
`Located` in the energy, the columns of a block (see `dualebm._internal.blocks`). `move` streams it over all particles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dualebm._internal import blocks
from dualebm.energies.base import Energy, Located, precision_of
from dualebm.flows.noise import Draw, Noise, drawn, sharded
from dualebm.geometry import Space

Step = Float[Array, ""] | float


class Info(NamedTuple):
    """Whether each particle accepted, the log densities (up to one constant) of its proposal and of the way back, and that velocity.

    The unadjusted transitions fill the densities, which Jarzynski weights need (see `log_backward`); NaN where they have no closed form
    (the projected transition on the sphere). A transition that leaves the model invariant needs none and returns zeros, and no velocity.
    """

    accepted: Bool[Array, " B"]
    log_forward: Float[Array, " B"]
    log_backward: Float[Array, " B"]
    back: Float[Array, "d B"] | None = None


def projected(space: Space, noise: Noise, here: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Euler-Maruyama with the ambient gradient and ambient noise, then retraction (Algorithm 1, step 2).

    X <- retract(X, h (-grad U + grad log tau) + sqrt(2 h) xi); on the sphere (X + ...)/|X + ...|. The authors' choice;
    its bias on the sphere is O(h). On Euclidean space and the torus it is the usual Euler-Maruyama step.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, still = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Noise(jnp.zeros((2, 1)), jnp.zeros(1))
    >>> here = energy.locate(jnp.array([[1.0], [0.0]]))
    >>> projected(Sphere(2), still, here, energy, 0.1)[0].points.tolist()
    [[1.0], [0.0]]
    """
    if not space.mean_curvature:
        return geodesic(space, noise, here, energy, step)
    x = here.points
    drift = space.grad_log_base(x) - here.gradient
    y = space.retract(x, step * drift + jnp.sqrt(2 * step) * noise.normal, axis=0)
    unknown = jnp.full(x.shape[1], jnp.nan, x.dtype)
    return energy.locate(y), Info(jnp.ones(x.shape[1], bool), unknown, unknown)


def _square(v):
    return jnp.sum(v * v, axis=0)


def _score(space, located):
    """Riemannian gradient of log p = log tau - U."""
    x = located.points
    return space.tangent(x, space.grad_log_base(x) - located.gradient, axis=0)


def log_backward(space: Space, back: Float[Array, "d B"], there: Located, step: Step) -> Float[Array, " B"]:
    """The log density, up to a constant, of the velocity `back` among those that the unadjusted move draws at points of an energy.

    -|u - h grad log p(y)|^2 / 4h. The energy need not be that of the move that led there.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Euclidean
    >>> there = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)).locate(jnp.array([[1.0], [0.0]]))
    >>> from dualebm.base_measures import Flat
    >>> log_backward(Euclidean(2, Flat()), jnp.array([[0.0], [1.0]]), there, 0.25).tolist()
    [-1.0]
    """
    return -_square(back - step * _score(space, there)) / (4 * step)


def _propose(space, noise, here, energy, step):
    """y = Exp_x(v), v = h s(x) + sqrt(2h) P xi, with v, the velocity that leads back, and their log densities."""
    x = here.points
    kick = jnp.sqrt(2 * step) * space.tangent(x, noise.normal, axis=0)
    velocity = step * _score(space, here) + kick
    y, back = space.exp_and_back(x, velocity, axis=0)
    there = energy.locate(y)
    return there, velocity, back, -_square(kick) / (4 * step), log_backward(space, back, there, step)


def geodesic(space: Space, noise: Noise, here: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Euler-Maruyama in the tangent space, then the exponential map; weak order 1 on every space.

    X <- Exp_X(v), v = h grad log p(X) + sqrt(2 h) P xi, with p = exp(-U) tau and Riemannian gradients.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, push = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), Noise(jnp.array([[5.0], [jnp.pi / 2]]), jnp.zeros(1))
    >>> here = energy.locate(jnp.array([[1.0], [0.0]]))
    >>> geodesic(Sphere(2), push, here, energy, 0.5)[0].points.round(3).tolist()
    [[-0.0], [1.0]]
    """
    there, _, back, forward, backward = _propose(space, noise, here, energy, step)
    return there, Info(jnp.ones(forward.shape, bool), forward, backward, back)


def mala(space: Space, noise: Noise, here: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Metropolis-adjusted Langevin (Roberts, Tweedie 1996): `geodesic`, accepted so that p = exp(-U) tau is invariant.

    Accept y = Exp_x(v) when log u < log p(y) - log p(x) + (|v - h s(x)|^2 - |u_back - h s(y)|^2) / 4h, with s = grad
    log p and u_back the velocity from y to x; the Jacobian of the exponential map is symmetric in x and y and cancels. A
    proposal that reaches to the injectivity radius is rejected: two velocities would lead there.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, far = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), Noise(jnp.array([[0.0], [4.0]]), jnp.zeros(1))
    >>> mala(Sphere(2), far, energy.locate(jnp.array([[1.0], [0.0]])), energy, 0.5)[1].accepted.tolist()
    [False]
    """
    there, velocity, _, forward, backward = _propose(space, noise, here, energy, step)
    log_target = lambda located: space.log_base(located.points, axis=0) - located.energy  # noqa: E731
    log_acceptance = log_target(there) - log_target(here) + backward - forward
    accepted = (jnp.log(noise.uniform) < log_acceptance) & ~space.too_long(velocity, axis=0)
    accepted = blocks.once(accepted.astype(velocity.dtype)) > 0
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted if new.ndim == 1 else accepted[None], new, old), there, here)
    none = jnp.zeros_like(forward)
    return chosen, Info(accepted, none, none)


def independence(space: Space, noise: Noise, here: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Independence Metropolis: a proposal y ~ tau, whatever x, accepted when log u < U(x) - U(y); the step is not used.

    The proposals of the authors' program of arXiv 2104.07531; uniform on the sphere and the torus.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, noise = Shallow(ReLU(), jnp.eye(2), jnp.array([2.0, 0.0])), Noise(jnp.array([[0.0], [5.0]]), jnp.full(1, 0.9))
    >>> independence(Sphere(2), noise, energy.locate(jnp.array([[1.0], [0.0]])), energy, 0.0)[0].points.tolist()
    [[0.0], [1.0]]
    """
    del step
    there = energy.locate(space.from_normal(noise.normal, axis=0))
    accepted = blocks.once((jnp.log(noise.uniform) < here.energy - there.energy).astype(here.energy.dtype)) > 0
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted if new.ndim == 1 else accepted[None], new, old), there, here)
    none = jnp.zeros_like(here.energy)
    return chosen, Info(accepted, none, none)


def gibbs(space: Space, noise: Noise, here: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """The exact move that an energy has of its own, `energy.gibbs(space, noise, x)`; the step is not used.

    >>> from dualebm.energies.boltzmann import BoltzmannMachine; from dualebm.spaces import Euclidean
    >>> energy = BoltzmannMachine(jnp.ones((1, 2)), jnp.zeros(2), jnp.zeros(1))
    >>> noise, here = Noise(jnp.zeros((2, 1)), jnp.full((1, 1), 0.9)), energy.locate(jnp.ones((2, 1)))
    >>> gibbs(Euclidean(2), noise, here, energy, 0.0)[0].points.tolist()
    [[0.0], [0.0]]
    """
    del step
    there = energy.locate(energy.gibbs(space, noise, here.points))  # pyright: ignore[reportAttributeAccessIssue]
    none = jnp.zeros_like(here.energy)
    return there, Info(jnp.ones(none.shape, bool), none, none)


TRANSITIONS: dict[str, Callable] = {"projected": projected, "geodesic": geodesic, "mala": mala}
"""The integrators by name."""

MOVES: dict[str, Callable] = {**TRANSITIONS, "independence": independence, "gibbs": gibbs}
"""All that `move` knows."""


def move(
    integrator: str,
    space: Space,
    draw: Draw,
    x: Float[Array, "d N"],
    energy: Energy,
    step: Step,
    *,
    steps: int = 1,
    observe: Callable[[Located], Any] | None = None,
    before: bool = False,
    width: int | None = None,
) -> tuple[Float[Array, "d N"], Float[Array, ""], Any]:
    """`steps` transitions of every particle under one energy, streamed by blocks of pairs.

    integrator: of `MOVES`. x: particles, the columns. observe: sums over the particles of a block, which are added in the order of the
    blocks: of where the particles end, or where they are `before` they move.
    width: pairs that are moved at a time, a multiple of `NOISE_PAIRS`; None for what fits the machine. It changes nothing but rounding.

    Returns the particles, the fraction of moves that were accepted, and the total of `observe` (None without).

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    >>> x, acceptance, total = move(
    ...     "mala", Sphere(2), drawn(jax.random.key(0), 2, jnp.float32), jnp.eye(2), energy, 0.01,
    ...     observe=lambda located: located.points.shape[1] * jnp.ones(1),
    ... )
    >>> float(acceptance), total.tolist()
    (1.0, [2.0])
    """
    count = x.shape[1]
    pairs, lone = -(-count // 2), count % 2
    draw = sharded(draw, pairs)
    number, width, rest = blocks.split(pairs, energy.width if width is None else width)
    if not rest and (number == 1 or lone):  # what is handled apart: all in one, or the block whose last pair has one particle
        number, rest = number - 1, width

    def moved(x, start, size, lone=0):
        """x (d, 2, pairs) with `size` pairs from `start` on moved; the count of moves accepted, and the sums over the particles."""
        block = blocks.take(x, start, size)
        halves = (block[:, 0], block[:, 1, : size - lone])

        def transitions(k, heres):
            results = []
            for noise, here in zip(draw(k, start, size), heres, strict=True):
                noise = jax.tree.map(lambda a, here=here: a[..., : here.points.shape[1]], noise)
                results.append(MOVES[integrator](space, noise, here, energy, step))
            return tuple(there for there, _ in results), sum(jnp.sum(info.accepted, dtype=jnp.int32) for _, info in results)

        def again(k, carry):
            there, accepted = transitions(k, carry[0])
            return there, carry[1] + accepted

        here = tuple(energy.locate(half) for half in halves)
        there, accepted = transitions(None, here) if steps == 1 else jax.lax.fori_loop(0, steps, again, (here, jnp.int32(0)))
        seen = None if observe is None else blocks.total([observe(half) for half in (here if before else there)])
        first, second = (half.points for half in there)
        block = jnp.stack([first, jnp.pad(second, ((0, 0), (0, lone)))], axis=1)
        return blocks.put(x, block, start), (accepted, seen)

    def body(i, carry):
        x, sums = moved(carry[0], i * width, width)
        return x, blocks.total([carry[1], sums])

    # Both particles of a pair in one block, read and then written at once, or XLA would copy all of x to write in place.
    y = jnp.pad(x, ((0, 0), (0, lone))).reshape(x.shape[0], 2, pairs)
    sums = []
    if rest:
        y, last = moved(y, pairs - rest, rest, lone)
        sums.append(last)
    if number:
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: moved(y, 0, width)[1]))
        y, first = jax.lax.fori_loop(0, number, body, (y, zero))
        sums.insert(0, first)
    accepted, seen = blocks.total(sums)
    return y.reshape(x.shape[0], -1)[:, :count], jnp.asarray(accepted, x.dtype) / (count * steps), seen


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

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-5.0, 0.0]))
    >>> x, acceptance = sample(jax.random.key(0), energy, Sphere(2), 1000, steps=200, step=0.05)
    >>> bool(x[:, 0].mean() > 0.3)
    True
    """
    start_key, chain_key = jax.random.split(key)
    dtype = precision_of(energy)
    x = space.sample_base(start_key, count, dtype).T

    def body(x, i):
        draw = drawn(jax.random.fold_in(chain_key, i), space.dimension, dtype, "independent")
        x, acceptance, _ = move("mala", space, draw, x, energy, step)
        return x, acceptance

    x, acceptance = jax.lax.scan(body, x, jnp.arange(steps))
    return x.T, jnp.mean(acceptance)
