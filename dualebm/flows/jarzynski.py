"""Weighted particles of a moving model: Jarzynski's equality for the discretised chain (arXiv 2305.19414, Prop. 1).

    A <- A + log [ e^{-U'(x')} tau(x') B(x' -> x) ] - log [ e^{-U(x)} tau(x) F(x -> x') ]

F is the density of the move under the energy U before the step, and B the density of the way back under the energy U' after it. If
X_0 ~ e^{-U_0} tau / Z_0 and A_0 = 0, then E[phi(X) e^A] / E[e^A] is the mean of phi under the model of U', and E[e^A] = Z'/Z_0, for any
size of the steps and any speed of the energy. For a move that leaves e^{-U} tau invariant the increment is U(x') - U'(x'). On curved
spaces F and B are the densities of velocities. The geodesic flow preserves the volume of (point, velocity), also where several velocities
lead to one point.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm import measures
from dualebm._internal import blocks, collectives
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy
from dualebm.flows import langevin
from dualebm.flows.noise import Draw, sharded
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal

Scalar = Float[Array, ""] | float

Increment = Literal["exact", "uncorrected", "trapezoid", "release"]
INCREMENTS: tuple[Increment, ...] = get_args(Increment)
"""The rules by which the weights of unadjusted moves grow. Only "exact" has no bias. "uncorrected" is U(x') - U'(x'), as if
the move left the model invariant. "trapezoid" is the work of continuous time, -(dU(x) + dU'(x')) / 2 with dU the derivative
along the step of the parameters. "release" is U(x') - U'(x') + h/4 (|grad U|^2 - |grad U'|^2)(x'), as in the authors'
program of the Gaussian mixture."""

Resampling = Literal[measures.Resampling, "none"]
"""The kinds of resampling by name. With "none" the particles are never resampled."""

FEW_FAMILIES = 10
"""The effective number of first particles with descendants below which log Z and its error are estimates from too few."""

FEW_EFFECTIVE = 100
"""The effective sample size of the particles below which means by their weights are estimates from too few."""

TEMPERATURES = 100
"""The number of temperatures of the annealing that draws the first particles."""


class Renewed(NamedTuple):
    """What the last renewal of the particles says about log Z (see `flows.renewal`).

    Args:
        error: the standard error of log Z by the fresh samples of this renewal, in nats. At the start it is that of the first particles.
        drift: log Z by the particles less log Z by the fresh samples that checked them, in nats.
        age: the share of the time between two renewals that has passed since the last, in [0, 1).
        known: whether the drift is known: there was a check, and its fresh samples could be trusted.
        resamplings: the number of resamplings before this renewal.
    """

    error: Float[Array, ""]
    drift: Float[Array, ""]
    age: Float[Array, ""]
    known: Bool[Array, ""]
    resamplings: Int[Array, ""]


class Weights(NamedTuple):
    """The weights of N particles.

    Args:
        log_weights: the log weights A since the last resampling, (N,).
        log_partition: log Z at the last resampling or renewal, in nats.
        ancestors: the index of the first particle from which each particle descends, (N,). A renewal makes all particles the first.
        resamplings: the number of resamplings.
        renewed: what the last renewal says, or None for particles that are never renewed.
    """

    log_weights: Float[Array, " N"]
    log_partition: Float[Array, ""]
    ancestors: Int[Array, " N"]
    resamplings: Int[Array, ""]
    renewed: Renewed | None = None


def unadjusted(integrator: langevin.Move) -> bool:
    """Return whether a move leaves the model only nearly invariant, so that the weights need its densities.

    Args:
        integrator: a move of `langevin.MOVES`.

    Returns:
        True for "geodesic" and "projected".

    >>> unadjusted("geodesic"), unadjusted("mala")
    (True, False)
    """
    return integrator in ("geodesic", "projected")


def first_walkers(key: Key[Array, ""], energy: Any, space: Space, count: int) -> tuple[Float[Array, "d N"], Weights]:
    """Draw weighted particles of the model of an energy, exactly where the energy can, else by annealing.

    An energy with `sample` and `log_partition` gives exact draws. Otherwise annealed importance sampling starts at the base measure. It is
    unbiased for Z for any energy, and exact for U = 0.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space of the particles.
        count: the number N of particles.

    Returns:
        The particles as columns, (d, N), and their weights.

    Raises:
        ValueError: as `annealing.anneal`, for the flat measure, and as the energy's `sample` and `log_partition`.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> network = MLP(width=8)(jax.random.key(0), Sphere(3), jnp.float32)
    >>> x, weights = first_walkers(jax.random.key(1), network, Sphere(3), 6)
    >>> x.shape, weights.log_weights.tolist()
    ((3, 6), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    check_key(key)
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
    integrator: langevin.Move,
    space: Space,
    draw: Draw,
    x: Float[Array, "d N"],
    before: Energy,
    after: Energy,
    step: Scalar,
    *,
    steps: int | Int[Array, ""] = 1,
    increment: Increment = "exact",
    width: int | None = None,
) -> tuple[Float[Array, "d N"], Float[Array, " N"], Float[Array, ""]]:
    """Move every particle by `steps` moves under the energy `before`, then change the energy to `after`.

    With one and the same energy the increments are those of the moves alone.

    Args:
        integrator: the name of a move of `langevin.MOVES`.
        space: the space of the particles.
        draw: the noise of the step. Where several devices share the particles, each takes its part.
        x: the particles as columns, (d, N).
        before: the energy U of the moves.
        after: the energy U' after the step.
        step: the step size h of each move.
        steps: the number of moves of each particle, at least 1. It may be traced.
        increment: one of `INCREMENTS`.
        width: the number of pairs that are moved at a time. None for the width of the energy.

    Returns:
        The particles, (d, N), the increments of their log weights A, (N,), and the fraction of moves that were accepted.

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

    def move(k, current, start):
        pairs = current.points.shape[1] // 2
        noise = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), *draw(k, start, pairs))
        moved, info = langevin.MOVES[integrator](space, noise, current, before, step)
        change = jnp.zeros_like(current.energy)
        if exact:
            rise = log_density(moved.energy, moved.points) - log_density(current.energy, current.points)
            change = rise + info.log_backward - info.log_forward
        return moved, info, change

    def block(start, x):
        first = before.locate(x)

        def again(k, carry):
            current, work, accepted = carry
            current, info, change = move(k, current, start)
            return current, work + change, accepted + info.accepted.astype(x.dtype)

        work = accepted = jnp.zeros_like(first.energy)
        last, one = first, isinstance(steps, int) and steps == 1
        if not one:
            last, work, accepted = jax.lax.fori_loop(0, steps - 1, again, (first, work, accepted))
        moved, info, change = move(None if one else steps - 1, last, start)
        work, accepted = work + change, accepted + info.accepted.astype(x.dtype)
        if after is not before:
            work = work + _changed(moved, info.back if exact else None, first)
        return moved.points, work, accepted / steps

    def _changed(moved, back, first):
        """Return the increments from the change of the energy. `back` is the velocity of the last move, or None without a density."""
        if increment == "trapezoid":
            return -0.5 * (derivative(before, after, before, first.points) + derivative(before, after, after, moved.points))
        new = after.locate(moved.points)
        change = moved.energy - new.energy
        if back is not None:
            return change + langevin.log_backward(space, back, new, step) - langevin.log_backward(space, back, moved, step)
        if increment == "release":
            square = lambda located: jnp.sum(located.gradient**2, axis=0)  # noqa: E731
            return change + step / 4 * (square(moved) - square(new))
        return change

    pairs = before.width if width is None else width
    x, increments, accepted = blocks.map_pairs(block, (x,), pairs)
    return x, increments, jnp.mean(accepted)


def derivative(before: Any, after: Any, at: Any, x: Float[Array, "d B"]) -> Float[Array, " B"]:
    """Return the derivative of U(x) along the step of the parameters from `before` to `after`, at the energy `at`.

    Args:
        before: the energy before the step.
        after: the energy after it.
        at: the energy whose derivative it is.
        x: the points as columns, (d, B).

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, changed = (Shallow(ReLU(), jnp.eye(2), jnp.full(2, c)) for c in (1.0, 3.0))
    >>> derivative(energy, changed, energy, jnp.eye(2)).tolist()
    [1.0, 1.0]
    """
    inexact, rest = eqx.partition(at, eqx.is_inexact_array)
    ends = (eqx.filter(energy, eqx.is_inexact_array) for energy in (after, before))
    return jax.jvp(lambda arrays: eqx.combine(arrays, rest)(x.T), (inexact,), (jax.tree.map(jnp.subtract, *ends),))[1]


def reweigh(before: Energy, after: Energy, x: Float[Array, "d N"]) -> Float[Array, " N"]:
    """Return U(x) - U'(x), the increments of particles that stay while the energy changes, streamed by blocks.

    Args:
        before: the energy U.
        after: the energy U'.
        x: the particles as columns, (d, N).

    Returns:
        The increments, (N,).

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
    kind: Resampling = "systematic",
) -> tuple[Float[Array, "d N"], Weights, Float[Array, ""]]:
    """Add increments to the weights of particles, and resample where their effective fraction falls below a threshold.

    log Z is continuous over a resampling: the mean weight goes to `log_partition`, and the log weights start again at 0.
    Over a mesh axis the ancestors are drawn among all particles, which are gathered.

    Args:
        key: the random key of the resampling.
        x: the particles as columns, (d, N).
        weights: the weights before the step.
        increments: the increments of the log weights, (N,).
        threshold: the effective fraction below which the particles are resampled, in [0, 1].
        kind: one of `measures.RESAMPLINGS`, or "none" never to resample.

    Returns:
        The particles, (d, N), their weights, and the effective fraction before the resampling.

    >>> start = Weights(jnp.zeros(2), jnp.zeros(()), jnp.arange(2, dtype=jnp.int32), jnp.int32(0))
    >>> x, weights, effective = advance(jax.random.key(0), jnp.array([[0.0, 1.0]]), start, jnp.log(jnp.array([1e-9, 2.0])), 0.9)
    >>> x.tolist(), float(weights.log_partition), int(weights.resamplings)
    ([[1.0, 1.0]], 0.0, 1)
    """
    check_key(key)
    count = x.shape[1]
    log_weights = weights.log_weights + increments
    everyone = collectives.gather_pairs(log_weights)
    effective = measures.effective_sample_size(everyone) / everyone.shape[0]
    kept = weights._replace(log_weights=log_weights)
    if kind == "none":
        return x, kept, effective

    def resampled():
        ancestors = measures.resample(key, everyone, everyone.shape[0], kind)
        local = collectives.scatter_pairs(ancestors, count)
        chosen, families = (blocks.choose(collectives.gather_pairs(a), local) for a in (x, weights.ancestors))
        level = weights.log_partition + logsumexp(everyone) - math.log(everyone.shape[0])
        return chosen, Weights(jnp.zeros_like(log_weights), level, families, weights.resamplings + 1, weights.renewed)

    return *jax.lax.cond(effective < threshold, resampled, lambda: (x, kept)), effective


def log_partition(weights: Weights, kind: Resampling = "systematic") -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return log Z and its standard error by the weights of the particles of one whole run.

    log Z = log Z_r + log (1/N) sum_i e^{A_i} since the last resampling r. The error is that for a path of energies that does not depend on
    the particles, and comes from their genealogy (Lee, Whiteley 2018). With W the normalised weights, its square is the sum over first
    particles of (the weight of all their descendants)^2, less the part that comes from resampling alone: (r + 1) / N for multinomial
    resampling and 1 / N for the others. The latter holds for kinds with little noise, and the error of "residual" is too large. The error
    does not account for modes without a particle.

    Where the same particles train the energy, it follows their noise. log Z then comes out too low by an amount of order 1/N, which may be
    many times this error, so that methods that train on their particles report no error (see `value_of_training`).

    Args:
        weights: the weights of the N particles.
        kind: the kind of resampling, as for `advance`.

    Returns:
        log Z and its standard error, two scalars in nats.

    >>> weights = Weights(jnp.zeros(4), jnp.ones(()), jnp.arange(4, dtype=jnp.int32), jnp.int32(0))
    >>> [float(value) for value in log_partition(weights)]
    [1.0, 0.0]
    """
    count = weights.log_weights.shape[0]
    value = weights.log_partition + logsumexp(weights.log_weights) - math.log(count)
    families = jax.ops.segment_sum(jax.nn.softmax(weights.log_weights), weights.ancestors, count)
    since = weights.resamplings - (0 if weights.renewed is None else weights.renewed.resamplings)
    by_itself = jnp.where(kind == "multinomial", 1 + since, 1).astype(value.dtype) / count
    return value, jnp.sqrt(jnp.maximum(jnp.sum(families**2) - by_itself, 0))


def value_of_training(weights: Weights, kind: Resampling = "systematic") -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return log Z by the particles that train the energy, and its standard error where renewals have measured it, else NaN.

    The square of the error is the sum of three squares: the error of the fresh samples of the last renewal, the error by the genealogy
    since (see `log_partition`), and the drift times the age. The drift is what log Z was off at the end of the time before the last
    renewal, and holds what the weights cannot see. It is taken to grow in proportion to the time.

    `methods.audited.Audited` adds particles that the training does not see, whose log Z has an error without renewals.

    Args:
        weights: the weights of the N particles.
        kind: the kind of resampling, as for `advance`.

    Returns:
        log Z and its standard error, two scalars in nats.

    >>> weights = Weights(jnp.zeros(4), jnp.ones(()), jnp.arange(4, dtype=jnp.int32), jnp.int32(0))
    >>> [float(value) for value in value_of_training(weights)]
    [1.0, nan]
    >>> checked = weights._replace(renewed=Renewed(jnp.array(0.03), jnp.array(-0.08), jnp.array(0.5), jnp.array(True), jnp.int32(0)))
    >>> [round(float(value), 6) for value in value_of_training(checked)]
    [1.0, 0.05]
    """
    value, error = log_partition(weights, kind)
    if weights.renewed is None:
        return value, jnp.full_like(error, jnp.nan)
    whole = jnp.sqrt(error**2 + weights.renewed.error**2 + (weights.renewed.drift * weights.renewed.age) ** 2)
    return value, jnp.where(weights.renewed.known, whole, jnp.nan)


def families(weights: Weights) -> Float[Array, ""]:
    """Return the effective number of first particles that have descendants, Kish's number of the weights of all descendants of each.

    It falls with each resampling, and never rises again. Where it is small, all particles descend from a few, and log Z rests on these.

    Args:
        weights: the weights of the N particles.

    Returns:
        A scalar between 1 and N.

    >>> float(families(Weights(jnp.zeros(4), jnp.zeros(()), jnp.array([2, 2, 3, 3], dtype=jnp.int32), jnp.int32(1))))
    2.0
    """
    count = weights.log_weights.shape[0]
    return 1 / jnp.sum(jax.ops.segment_sum(jax.nn.softmax(weights.log_weights), weights.ancestors, count) ** 2)


def check_integrator(integrator: langevin.Move, space: Space) -> None:
    """Check that a space allows a move.

    On a sphere the projected move has no known density. Independence Metropolis needs a base measure with `from_normal`.

    Args:
        integrator: the move.
        space: the space of the particles.

    Raises:
        ValueError: the space does not allow the move.

    >>> from dualebm.spaces import Sphere
    >>> check_integrator("mala", Sphere(3))
    """
    if integrator == "projected" and space.mean_curvature:
        raise ValueError(f"integrator is 'projected' on {space}, where its density has no closed form; allowed: 'geodesic', 'mala'")
    if integrator == "independence" and not space.base.from_normal_exists:
        raise ValueError(f"integrator is 'independence' on {space}, whose base has no map of normal vectors; allowed: 'geodesic', 'mala'")


def check_start(energy: Any, space: Space) -> None:
    """Check that the first particles can be drawn. They cannot for the flat measure and an energy without an exact sampler.

    Args:
        energy: the energy of the start.
        space: the space, with its base measure.

    Raises:
        ValueError: the particles cannot be drawn.
    """
    if not space.base.proper and not hasattr(energy, "sample"):
        raise ValueError(
            f"space is {space}, whose flat measure cannot be sampled, and {type(energy).__name__} has no method `sample`; "
            "give the space the base Gaussian(scale), or the energy `sample(key, space, count)` and `log_partition(space)`"
        )
