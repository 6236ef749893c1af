"""Walkers with weights that are exact for a moving model: Jarzynski's equality for the discretised chain (arXiv 2305.19414, Prop. 1).

    A <- A + log [ e^{-U'(x')} tau(x') B(x' -> x) ] - log [ e^{-U(x)} tau(x) F(x -> x') ]

F is the density of the move under the energy U before, B that of the way back under U' after it. If X_0 ~ e^{-U_0} tau / Z_0 and
A_0 = 0, then E[phi(X) e^A] / E[e^A] is the mean of phi under the model of U' and E[e^A] = Z'/Z_0, whatever the size of the steps and
however fast the energy moves. For a move that leaves e^{-U} tau invariant the increment is U(x') - U'(x'). On curved spaces F and B are
the densities of velocities: the geodesic flow preserves the volume of (point, velocity), also where several velocities lead to one point.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from dualebm import measures
from dualebm._internal import blocks, collectives
from dualebm.energies.base import Energy
from dualebm.flows import langevin
from dualebm.flows.noise import Draw, sharded
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal

Scalar = Float[Array, ""] | float

INCREMENTS = ("exact", "uncorrected", "trapezoid", "release")
"""How the weights of unadjusted moves grow; only "exact" is right. "uncorrected": U(x') - U'(x'), as if the move were invariant.
"trapezoid": the work of continuous time, -(dU(x) + dU'(x')) / 2 with dU the derivative along the step of the parameters. "release": as the
authors' program of the Gaussian mixture computes it, U(x') - U'(x') + h/4 (|grad U|^2 - |grad U'|^2)(x')."""

TEMPERATURES = 100
"""Of the annealing that draws the first walkers."""


class Weights(NamedTuple):
    """log_weights A (N,) since the last resampling; log_partition, log Z at the last resampling; ancestors, from which of the first walkers
    each comes (N,); resamplings, their number."""

    log_weights: Float[Array, " N"]
    log_partition: Float[Array, ""]
    ancestors: Int[Array, " N"]
    resamplings: Int[Array, ""]


def unadjusted(integrator: str) -> bool:
    """Whether a move of `langevin.MOVES` leaves the model only nearly invariant, so that its densities are in the weights.

    >>> unadjusted("geodesic"), unadjusted("mala")
    (True, False)
    """
    return integrator in ("geodesic", "projected")


def first_walkers(key: Key[Array, ""], energy: Any, space: Space, count: int) -> tuple[Float[Array, "d N"], Weights]:
    """Walkers of the model of an energy, columns, with weights: exact draws where it has `sample` and `log_partition`, else annealed.

    Annealed importance sampling from the base measure is unbiased for Z whatever the energy, and exact for U = 0. Raises ValueError as
    `annealing.anneal`, for the flat measure, and as the energy's own functions.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> network = MLP(width=8)(jax.random.key(0), Sphere(3), jnp.float32)
    >>> x, weights = first_walkers(jax.random.key(1), network, Sphere(3), 6)
    >>> x.shape, weights.log_weights.tolist()
    ((3, 6), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    if hasattr(energy, "sample"):
        points, log_partition = energy.sample(key, space, count), energy.log_partition(space)
        log_weights = jnp.zeros(count, points.dtype)
    else:
        annealed: Any = anneal(key, energy, space, count, temperatures=TEMPERATURES)
        points, log_weights = annealed
        log_partition = jnp.zeros((), points.dtype)
    weights = Weights(log_weights, log_partition, jnp.arange(count, dtype=jnp.int32), jnp.int32(0))
    return points.T, weights


def walk(
    integrator: str,
    space: Space,
    draw: Draw,
    x: Float[Array, "d N"],
    before: Energy,
    after: Energy,
    step: Scalar,
    *,
    steps: int = 1,
    increment: str = "exact",
    width: int | None = None,
) -> tuple[Float[Array, "d N"], Float[Array, " N"], Float[Array, ""]]:
    """`steps` moves of every walker under the energy `before`, which is then `after`: (walkers, increments of A, fraction accepted).

    With one and the same energy the increments are those of the moves alone. width: pairs that are moved at a time.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy, changed = (Shallow(ReLU(), jnp.eye(2), jnp.full(2, c)) for c in (1.0, 3.0))
    >>> from dualebm.flows.noise import given
    >>> still = given(jnp.zeros((2, 2)), jnp.ones(2))
    >>> walk("mala", Sphere(2), still, jnp.eye(2), energy, changed, 0.1)[1].tolist()
    [-1.0, -1.0]
    """
    exact, draw = unadjusted(integrator) and increment == "exact", sharded(draw, x.shape[1] // 2)

    def log_density(energy_at, points):
        return space.log_base(points, axis=0) - energy_at

    def move(k, here, start):
        pairs = here.points.shape[1] // 2
        noise = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), *draw(k, start, pairs))
        there, info = langevin.MOVES[integrator](space, noise, here, before, step)
        change = jnp.zeros_like(here.energy)
        if exact:
            change = log_density(there.energy, there.points) - log_density(here.energy, here.points) + info.log_backward - info.log_forward
        return there, info, change

    def block(start, x):
        here = before.locate(x)

        def again(k, carry):
            here, work, accepted = carry
            here, info, change = move(k, here, start)
            return here, work + change, accepted + info.accepted.astype(x.dtype)

        work = accepted = jnp.zeros_like(here.energy)
        last = here
        if steps > 1:
            last, work, accepted = jax.lax.fori_loop(0, steps - 1, again, (here, work, accepted))
        there, info, change = move(None if steps == 1 else steps - 1, last, start)
        work, accepted = work + change, accepted + info.accepted.astype(x.dtype)
        if after is not before:
            work = work + _changed(there, info.back if exact else None, here)
        return there.points, work, accepted / steps

    def _changed(there, back, here):
        """What the change of the energy adds to the increments at the end of the moves; `back`, of the last, where it has a density."""
        if increment == "trapezoid":
            return -0.5 * (_derivative(before, after, before, here.points) + _derivative(before, after, after, there.points))
        new = after.locate(there.points)
        change = there.energy - new.energy
        if back is not None:
            return change + langevin.log_backward(space, back, new, step) - langevin.log_backward(space, back, there, step)
        if increment == "release":
            square = lambda located: jnp.sum(located.gradient**2, axis=0)  # noqa: E731
            return change + step / 4 * (square(there) - square(new))
        return change

    pairs = before.width if width is None else width
    x, increments, accepted = blocks.map_pairs(block, (x,), pairs)
    return x, increments, jnp.mean(accepted)


def _derivative(before: Any, after: Any, at: Any, x: Float[Array, "d B"]) -> Float[Array, " B"]:
    """The derivative of U(x) along the step of the parameters from `before` to `after`, at the energy `at`."""
    there, rest = eqx.partition(at, eqx.is_inexact_array)
    ends = (eqx.filter(energy, eqx.is_inexact_array) for energy in (after, before))
    return jax.jvp(lambda arrays: eqx.combine(arrays, rest)(x.T), (there,), (jax.tree.map(jnp.subtract, *ends),))[1]


def reweigh(before: Energy, after: Energy, x: Float[Array, "d N"]) -> Float[Array, " N"]:
    """U(x) - U'(x), the increments of walkers that stay while the energy changes, streamed.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, changed = (Shallow(ReLU(), jnp.eye(2), jnp.full(2, c)) for c in (1.0, 3.0))
    >>> reweigh(energy, changed, jnp.eye(2)).tolist()
    [-1.0, -1.0]
    """
    return blocks.map_blocks(lambda x: before(x.T) - after(x.T), x, before.width)


def advance(
    key: Key[Array, ""],
    x: Float[Array, "d N"],
    weights: Weights,
    increments: Float[Array, " N"],
    threshold: Scalar,
    kind: str = "systematic",
) -> tuple[Float[Array, "d N"], Weights, Float[Array, ""]]:
    """Weigh walkers after a step, and resample them where their effective fraction falls below `threshold`.

    kind: of `measures.RESAMPLINGS`, or "none". log Z is continuous: what the weights say goes to `log_partition` and they start from 1.
    Over a mesh axis the ancestors are drawn of all walkers, which are then gathered.
    Returns the walkers, their weights, and the effective fraction before the resampling.

    >>> start = Weights(jnp.zeros(2), jnp.zeros(()), jnp.arange(2, dtype=jnp.int32), jnp.int32(0))
    >>> x, weights, effective = advance(jax.random.key(0), jnp.array([[0.0, 1.0]]), start, jnp.log(jnp.array([1e-9, 2.0])), 0.9)
    >>> x.tolist(), float(weights.log_partition), int(weights.resamplings)
    ([[1.0, 1.0]], 0.0, 1)
    """
    count = x.shape[1]
    log_weights = weights.log_weights + increments
    everyone = collectives.gather_pairs(log_weights)
    effective = measures.effective_sample_size(everyone) / everyone.shape[0]
    kept = weights._replace(log_weights=log_weights)
    if kind == "none":
        return x, kept, effective

    def resampled():
        ancestors = measures.resample(key, everyone, everyone.shape[0], kind)
        own = collectives.own_pairs(ancestors, count)
        chosen, of = (blocks.choose(collectives.gather_pairs(a), own) for a in (x, weights.ancestors))
        level = weights.log_partition + logsumexp(everyone) - math.log(everyone.shape[0])
        return chosen, Weights(jnp.zeros_like(log_weights), level, of, weights.resamplings + 1)

    return *jax.lax.cond(effective < threshold, resampled, lambda: (x, kept)), effective


def log_partition(weights: Weights, kind: str = "systematic") -> tuple[Float[Array, ""], Float[Array, ""]]:
    """log Z and its standard error, of the walkers of one whole run.

    log Z = log Z_r + log (1/N) sum_i e^{A_i} since the last resampling r. The error is of the genealogy (Lee, Whiteley 2018): with W the
    normalised weights, its square is the sum over first walkers of (the weight of all their descendants)^2, less what resampling adds by
    itself, (r + 1) / N for multinomial resampling and 1 / N for the others: of little noise, but for "residual", whose error is then too
    large. It does not see what the weights cannot: modes without a walker, and the bias of order 1/N of training on the same walkers.

    >>> weights = Weights(jnp.zeros(4), jnp.ones(()), jnp.arange(4, dtype=jnp.int32), jnp.int32(0))
    >>> [float(value) for value in log_partition(weights)]
    [1.0, 0.0]
    """
    count = weights.log_weights.shape[0]
    value = weights.log_partition + logsumexp(weights.log_weights) - math.log(count)
    families = jax.ops.segment_sum(jax.nn.softmax(weights.log_weights), weights.ancestors, count)
    by_itself = jnp.where(kind == "multinomial", 1 + weights.resamplings, 1).astype(value.dtype) / count
    return value, jnp.sqrt(jnp.maximum(jnp.sum(families**2) - by_itself, 0))


def check_integrator(integrator: str, space: Space) -> None:
    """Raises ValueError for a move whose densities are not known: the projected one on a sphere.

    >>> from dualebm.spaces import Sphere
    >>> check_integrator("mala", Sphere(3))
    """
    if integrator == "projected" and space.mean_curvature:
        raise ValueError(f"integrator is 'projected' on {space}, where its density has no closed form; allowed: 'geodesic', 'mala'")


def check_start(energy: Any, space: Space) -> None:
    """Raises ValueError where first walkers cannot be drawn: the flat measure, with an energy that has no exact sampler."""
    if not space.base.proper and not hasattr(energy, "sample"):
        raise ValueError(
            f"space is {space}, whose flat measure cannot be sampled, and {type(energy).__name__} has no `sample` of its own; "
            "give the space the base Gaussian(scale), or the energy `sample(key, space, count)` and `log_partition(space)`"
        )
