"""dX = (-grad U + grad log tau) dt + sqrt(2) dW: the flow of the particles at temperature 1 (arXiv 2107.05134, eq. 8).

A transition `(space, noise, current, energy, step) -> (proposal, Info)` is deterministic in its noise. It takes and returns
particles that are `Located` in the energy, as the columns of a block (see `dualebm._internal.blocks`). `move` applies a
transition to all particles, block by block.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key

from dualebm._internal import blocks, checks, memory
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, Located, precision_of
from dualebm.energies.base import check as check_energy
from dualebm.flows.noise import Draw, Noise, drawn, sharded
from dualebm.geometry import Space

Step = Float[Array, ""] | float


class Info(NamedTuple):
    """The result of a transition for each of B particles.

    The unadjusted transitions fill the log densities, which Jarzynski weights need (see `log_backward`). They are NaN where they
    have no closed form, which is the projected transition on the sphere. A transition that leaves the model invariant needs
    none, and returns zeros and no velocity.

    Args:
        accepted: whether the particle accepted its proposal, (B,).
        log_forward: the log density of the proposal, up to a constant, (B,).
        log_backward: the log density of the way back, up to the same constant, (B,).
        back: the velocity that leads back, (d, B), or None.
    """

    accepted: Bool[Array, " B"]
    log_forward: Float[Array, " B"]
    log_backward: Float[Array, " B"]
    back: Float[Array, "d B"] | None = None


def projected(space: Space, noise: Noise, current: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Make a step of Euler-Maruyama in ambient space and retract it to the space (Algorithm 1, step 2).

    X <- retract(X, h (-grad U + grad log tau) + sqrt(2 h) xi), with ambient gradients and ambient noise. On the sphere it is
    (X + ...) / |X + ...|, the choice of the authors, with a bias of O(h). On Euclidean space and the torus it is the usual
    step of Euler-Maruyama.

    Args:
        space: the space of the particles.
        noise: the noise of the particles, `normal` (d, B), whose uniform numbers are not used.
        current: the particles as columns, (d, B), located in the energy.
        energy: the energy U.
        step: the step size h.

    Returns:
        The particles after the move, located in the energy, and the `Info` of the move.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, still = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Noise(jnp.zeros((2, 1)), jnp.zeros(1))
    >>> current = energy.locate(jnp.array([[1.0], [0.0]]))
    >>> projected(Sphere(2), still, current, energy, 0.1)[0].points.tolist()
    [[1.0], [0.0]]
    """
    if not space.mean_curvature:
        return geodesic(space, noise, current, energy, step)
    x = current.points
    drift = space.grad_log_base(x, axis=0) - current.gradient
    y = space.retract(x, step * drift + jnp.sqrt(2 * step) * noise.normal, axis=0)
    unknown = jnp.full(x.shape[1], jnp.nan, x.dtype)
    return energy.locate(y), Info(jnp.ones(x.shape[1], bool), unknown, unknown)


def _square(v):
    return jnp.sum(v * v, axis=0)


def _score(space, located):
    """Riemannian gradient of log p = log tau - U."""
    x = located.points
    return space.tangent(x, space.grad_log_base(x, axis=0) - located.gradient, axis=0)


def log_backward(space: Space, back: Float[Array, "d B"], located: Located, step: Step) -> Float[Array, " B"]:
    """Return the log density of a velocity among those that the unadjusted move draws at given points, up to a constant.

    It is -|u - h grad log p(y)|^2 / 4h. The energy in which the points are located may differ from the energy of the move that
    led to them.

    Args:
        space: the space of the particles.
        back: the velocities u, tangent at the points, (d, B).
        located: the points y as columns, (d, B), located in an energy.
        step: the step size h.

    Returns:
        The log densities, (B,).

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Euclidean
    >>> located = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)).locate(jnp.array([[1.0], [0.0]]))
    >>> from dualebm.base_measures import Flat
    >>> log_backward(Euclidean(2, Flat()), jnp.array([[0.0], [1.0]]), located, 0.25).tolist()
    [-1.0]
    """
    return -_square(back - step * _score(space, located)) / (4 * step)


def _propose(space, noise, current, energy, step):
    """y = Exp_x(v) with v = h s(x) + sqrt(2h) P xi. Returns y, v, the velocity that leads back, and the log densities of both."""
    x = current.points
    kick = jnp.sqrt(2 * step) * space.tangent(x, noise.normal, axis=0)
    velocity = step * _score(space, current) + kick
    y, back = space.exp_and_back(x, velocity, axis=0)
    proposal = energy.locate(y)
    return proposal, velocity, back, -_square(kick) / (4 * step), log_backward(space, back, proposal, step)


def geodesic(space: Space, noise: Noise, current: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Make a step of Euler-Maruyama in the tangent space, followed by the exponential map.

    X <- Exp_X(v), v = h grad log p(X) + sqrt(2 h) P xi, with p = exp(-U) tau and Riemannian gradients. The weak order is 1 on
    every space.

    Args:
        space: the space of the particles.
        noise: the noise of the particles, `normal` (d, B), whose uniform numbers are not used.
        current: the particles as columns, (d, B), located in the energy.
        energy: the energy U.
        step: the step size h.

    Returns:
        The particles after the move, located in the energy, and the `Info` of the move.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, push = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), Noise(jnp.array([[5.0], [jnp.pi / 2]]), jnp.zeros(1))
    >>> current = energy.locate(jnp.array([[1.0], [0.0]]))
    >>> geodesic(Sphere(2), push, current, energy, 0.5)[0].points.round(3).tolist()
    [[-0.0], [1.0]]
    """
    proposal, _, back, forward, backward = _propose(space, noise, current, energy, step)
    return proposal, Info(jnp.ones(forward.shape, bool), forward, backward, back)


def mala(space: Space, noise: Noise, current: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Make a step of the Metropolis-adjusted Langevin algorithm, which leaves p = exp(-U) tau invariant (Roberts, Tweedie 1996).

    The proposal is y = Exp_x(v) of `geodesic`. It is accepted when log u < log p(y) - log p(x) + (|v - h s(x)|^2 -
    |u_back - h s(y)|^2) / 4h, with s = grad log p and u_back the velocity from y to x. The Jacobian of the exponential map is
    symmetric in x and y and cancels. A proposal that reaches to the injectivity radius is rejected, because two velocities
    would lead there.

    Args:
        space: the space of the particles.
        noise: the noise of the particles, `normal` (d, B) and `uniform` (B,).
        current: the particles as columns, (d, B), located in the energy.
        energy: the energy U.
        step: the step size h.

    Returns:
        The particles after the move, located in the energy, and the `Info` of the move.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, far = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), Noise(jnp.array([[0.0], [4.0]]), jnp.zeros(1))
    >>> mala(Sphere(2), far, energy.locate(jnp.array([[1.0], [0.0]])), energy, 0.5)[1].accepted.tolist()
    [False]
    """
    proposal, velocity, _, forward, backward = _propose(space, noise, current, energy, step)
    log_target = lambda located: space.log_base(located.points, axis=0) - located.energy  # noqa: E731
    log_acceptance = log_target(proposal) - log_target(current) + backward - forward
    accepted = (jnp.log(noise.uniform) < log_acceptance) & ~space.too_long(velocity, axis=0)
    accepted = blocks.once(accepted.astype(velocity.dtype)) > 0
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted if new.ndim == 1 else accepted[None], new, old), proposal, current)
    none = jnp.zeros_like(forward)
    return chosen, Info(accepted, none, none)


def independence(space: Space, noise: Noise, current: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Make a step of independence Metropolis: the proposal y ~ tau does not depend on x.

    It is accepted when log u < U(x) - U(y). The authors' program of arXiv 2104.07531 uses these proposals. They are uniform on
    the sphere and the torus.

    Args:
        space: the space of the particles.
        noise: the noise of the particles, `normal` (d, B) and `uniform` (B,).
        current: the particles as columns, (d, B), located in the energy.
        energy: the energy U.
        step: not used.

    Returns:
        The particles after the move, located in the energy, and the `Info` of the move.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, noise = Shallow(ReLU(), jnp.eye(2), jnp.array([2.0, 0.0])), Noise(jnp.array([[0.0], [5.0]]), jnp.full(1, 0.9))
    >>> independence(Sphere(2), noise, energy.locate(jnp.array([[1.0], [0.0]])), energy, 0.0)[0].points.tolist()
    [[0.0], [1.0]]
    """
    del step
    proposal = energy.locate(space.from_normal(noise.normal, axis=0))
    accepted = blocks.once((jnp.log(noise.uniform) < current.energy - proposal.energy).astype(current.energy.dtype)) > 0
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted if new.ndim == 1 else accepted[None], new, old), proposal, current)
    none = jnp.zeros_like(current.energy)
    return chosen, Info(accepted, none, none)


def gibbs(space: Space, noise: Noise, current: Located, energy: Energy, step: Step) -> tuple[Located, Info]:
    """Make the exact Gibbs move that an energy defines, `energy.gibbs(space, noise, x)`.

    Args:
        space: the space of the particles.
        noise: the noise of the particles, `normal` (d, B) and `uniform` as the energy needs it.
        current: the particles as columns, (d, B), located in the energy.
        energy: the energy U, which must have the method `gibbs`.
        step: not used.

    Returns:
        The particles after the move, located in the energy, and the `Info` of the move.

    >>> from dualebm.energies.boltzmann import BoltzmannMachine; from dualebm.spaces import Euclidean
    >>> energy = BoltzmannMachine(jnp.ones((1, 2)), jnp.zeros(2), jnp.zeros(1))
    >>> noise, current = Noise(jnp.zeros((2, 1)), jnp.full((1, 1), 0.9)), energy.locate(jnp.ones((2, 1)))
    >>> gibbs(Euclidean(2), noise, current, energy, 0.0)[0].points.tolist()
    [[0.0], [0.0]]
    """
    del step
    proposal = energy.locate(energy.gibbs(space, noise, current.points))  # pyright: ignore[reportAttributeAccessIssue]
    none = jnp.zeros_like(current.energy)
    return proposal, Info(jnp.ones(none.shape, bool), none, none)


Integrator = Literal["mala", "geodesic", "projected"]
"""The names of the Langevin moves."""

TRANSITIONS: dict[str, Callable] = {"mala": mala, "geodesic": geodesic, "projected": projected}
"""The Langevin moves by name."""

Move = Literal[Integrator, "independence", "gibbs"]
"""The names of all transitions."""

MOVES: dict[str, Callable] = {**TRANSITIONS, "independence": independence, "gibbs": gibbs}
"""All transitions that `move` knows, by name."""


def move(
    integrator: Move,
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
    """Move every particle by `steps` transitions under one energy, streamed by blocks of pairs.

    Args:
        integrator: the name of a transition of `MOVES`.
        space: the space of the particles.
        draw: the noise of the step, such as `drawn` makes it. Where several devices share the particles, each takes its part.
        x: the particles as columns, (d, N).
        energy: the energy U.
        step: the step size h.
        steps: the number of transitions of each particle.
        observe: a function from the located particles of a block to sums over them, as a tree of arrays. The sums are added in
            the order of the blocks. None to observe nothing.
        before: whether `observe` sees the particles before they move instead of after.
        width: the number of pairs that are moved at a time, a multiple of `NOISE_PAIRS`. None for a number that fits the
            machine. It changes nothing but rounding.

    Returns:
        The particles, (d, N), the fraction of moves that were accepted, and the total of `observe` (None without it).

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
    if not rest and (number == 1 or lone):  # a single block is handled apart, or the last one if it has a lone particle
        number, rest = number - 1, width

    def moved(x, start, size, lone=0):
        """Move `size` pairs of x, (d, 2, pairs), from `start` on. Returns x, the number of accepted moves and the observed sums."""
        block = blocks.take(x, start, size)
        halves = (block[:, 0], block[:, 1, : size - lone])

        def transitions(k, currents):
            results = []
            for noise, current in zip(draw(k, start, size), currents, strict=True):
                noise = jax.tree.map(lambda a, current=current: a[..., : current.points.shape[1]], noise)
                results.append(MOVES[integrator](space, noise, current, energy, step))
            return tuple(final for final, _ in results), sum(jnp.sum(info.accepted, dtype=jnp.int32) for _, info in results)

        def again(k, carry):
            final, accepted = transitions(k, carry[0])
            return final, carry[1] + accepted

        current = tuple(energy.locate(half) for half in halves)
        final, accepted = transitions(None, current) if steps == 1 else jax.lax.fori_loop(0, steps, again, (current, jnp.int32(0)))
        observed = None if observe is None else blocks.total([observe(half) for half in (current if before else final)])
        first, second = (half.points for half in final)
        block = jnp.stack([first, jnp.pad(second, ((0, 0), (0, lone)))], axis=1)
        return blocks.put(x, block, start), (accepted, observed)

    def body(i, carry):
        x, sums = moved(carry[0], i * width, width)
        return x, blocks.total([carry[1], sums])

    # A block holds both particles of its pairs and is read and written at once. Otherwise XLA would copy all of x.
    y = jnp.pad(x, ((0, 0), (0, lone))).reshape(x.shape[0], 2, pairs)
    sums = []
    if rest:
        y, last = moved(y, pairs - rest, rest, lone)
        sums.append(last)
    if number:
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: moved(y, 0, width)[1]))
        y, first = jax.lax.fori_loop(0, number, body, (y, zero))
        sums.insert(0, first)
    accepted, observed = blocks.total(sums)
    return y.reshape(x.shape[0], -1)[:, :count], jnp.asarray(accepted, x.dtype) / (count * steps), observed


def sample(
    key: Key[Array, ""],
    energy: Energy,
    space: Space,
    count: int,
    *,
    steps: int = 1000,
    step: Step = 0.01,
) -> tuple[Float[Array, "count d"], Float[Array, ""]]:
    """Draw `count` approximate samples of the model exp(-U) tau / Z by `mala`.

    Each sample is the end of a chain that starts at a draw of the base measure where the energy is finite. Draws where it is infinite are
    drawn again. Within a compiled function these are not drawn again, and their samples are NaN. Nothing checks that the chains are long
    enough. Moves of the step h go about sqrt(2 h steps) far in each direction, 4.5 with the defaults, and cross no barrier of many nats.
    Compare the mean energy with that of twice as many steps, or take the weighted particles of `log_z.tempering.follow`, whose islands tell
    how they mix.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space of the samples.
        count: the number of samples.
        steps: the number of moves of each chain.
        step: the step size h of each move.

    Returns:
        The samples, (count, d), and the mean acceptance rate.

    Raises:
        ValueError: when an argument is not allowed, the base measure cannot be sampled, as on flat Euclidean space, or the energy is NaN or
            minus infinity at a draw or at the end of a chain, or infinite at the draws again and again.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-5.0, 0.0]))
    >>> x, acceptance = sample(jax.random.key(0), energy, Sphere(2), 1000, steps=200, step=0.05)
    >>> bool(x[:, 0].mean() > 0.3)
    True
    """
    check_key(key)
    check_energy("energy", energy, space)
    checks.count("count", count)
    checks.count("steps", steps)
    if not isinstance(step, Tracer):
        checks.number("step", step, positive=True)
        checks.particle_step("step", step, space)
    dtype = precision_of(energy)
    memory.check_points("count", count, space.dimension, dtype.itemsize)
    start_key, chain_key = jax.random.split(key)
    x = _starts(start_key, energy, space, count, dtype).T

    def body(x, i):
        draw = drawn(jax.random.fold_in(chain_key, i), space.dimension, dtype, "independent")
        x, acceptance, _ = move("mala", space, draw, x, energy, step)
        return x, acceptance

    x, acceptance = jax.lax.scan(body, x, jnp.arange(steps))
    if not isinstance(x, Tracer):
        _check_energies("the end of a chain", x.T, energy(x.T))
    return x.T, jnp.mean(acceptance)


TRIES = 100
"""The number of times that draws at which an energy is infinite are drawn again."""


def _starts(key, energy, space, count, dtype):
    """Draw the base measure where an energy and its gradient are finite, (count, d)."""
    x, moves = space.sample_base(key, count, dtype), jnp.zeros(count, bool)
    for attempt in range(TRIES + 1):
        value, gradient = energy.value_and_gradient(x)
        moves = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient), axis=1)
        if isinstance(x, Tracer):
            return jnp.where(moves[:, None], x, jnp.nan)
        _check_energies("a draw of the base measure", x, value)
        if moves.all():
            return x
        x = jnp.where(moves[:, None], x, space.sample_base(jax.random.fold_in(key, attempt), count, dtype))
    raise ValueError(
        f"energy is a {type(energy).__name__}, which is infinite or has no finite gradient at {int((~moves).sum())} of {count} draws of "
        f"the base measure, and so at those in their place, {TRIES} times; chains cannot start there: give a base measure that draws "
        "where it is finite"
    )


def _check_energies(place, x, values):
    """Raise ValueError where an energy is NaN or minus infinity at points."""
    wrong = np.isnan(values) | np.isneginf(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"energy is {np.asarray(values)[row]} at {place}, {np.asarray(x[row]).tolist()}, and at {int(wrong.sum())} of {len(wrong)} in "
            "all; it must be a finite number, or infinite where the model has no mass"
        )
