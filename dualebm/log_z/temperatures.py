"""Temperatures and moves on the way from the base measure to a model, chosen by particles that go it.

The particles go through the models of t U, from t = 0, the base measure tau, to t = 1. Each next t is such that the weights
exp(-(t' - t) U) have a given effective fraction, and each step size such that a given fraction of the moves is accepted. On flat space
the moves are whitened by the covariance of the particles.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import blocks
from dualebm._internal.keys import check_key
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy, Located, Tempered, precision_of
from dualebm.flows import langevin
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.measures import effective_sample_size, resample
from dualebm.settings import Count, CountFrom2, Fraction, checked
from dualebm.spaces import Euclidean

PILOTS = 2**10
"""The number of particles that choose a path."""

FRACTION = 0.7
"""The effective fraction of the weights from one temperature to the next."""

ACCEPTANCE = 0.6
"""The fraction of moves that are accepted, near the best of MALA, 0.574 (Roberts, Rosenthal 1998)."""

GAIN, TURNS = 2.0, 2
"""The step size is multiplied by exp(GAIN (acceptance - ACCEPTANCE)), TURNS times at each temperature."""

LARGEST_LENGTH = 500
"""The largest number of temperatures. Where it does not suffice, the last change of temperature is large and few particles count."""

BISECTIONS = 30
"""The number of halvings in the search for the next temperature."""

RIDGE = 1e-3
"""The share of the mean variance that is added to each variance before the moves are whitened."""

MOVES = 4
"""The number of moves at each temperature."""

class Path(NamedTuple):
    """The temperatures and the moves on the way from the base measure to a model. Only the first `length` rows count.

    Args:
        factors: t at each temperature, (K,), increasing to 1.
        steps: the step size of the moves at each, (K,).
        roots: the Cholesky factor of the covariance of the particles at each, (K, d, d), or None on compact spaces.
        length: the number of temperatures.
    """

    factors: Float[Array, " K"]
    steps: Float[Array, " K"]
    roots: Float[Array, "K d d"] | None
    length: Int[Array, ""]


class _Whitened(Energy):
    """The energy t U(R y) - log tau(R y) of y, relative to the flat measure."""

    energy: Energy
    factor: Float[Array, ""]
    root: Float[Array, "d d"]
    space: Space = eqx.field(static=True)

    @property
    def width(self) -> int:
        return self.energy.width

    def __call__(self, x):
        return self.locate(x.T).energy

    def locate(self, x):
        points = blocks.product(self.root, x)
        located = self.energy.locate(points)
        gradient = self.factor * located.gradient - self.space.grad_log_base(points, axis=0)
        value = self.factor * located.energy - self.space.log_base(points, axis=0)
        return Located(x, value, blocks.product(self.root.T, gradient), None)


def _root(x: Float[Array, "d N"]) -> Float[Array, "d d"]:
    """Return the Cholesky factor of the covariance of columns, with a ridge."""
    centred = x - jnp.mean(x, axis=1, keepdims=True)
    covariance = blocks.product(centred, centred.T) / x.shape[1]
    ridge = RIDGE * jnp.trace(covariance) / x.shape[0]
    return jnp.linalg.cholesky(covariance + ridge * jnp.eye(x.shape[0], dtype=x.dtype))


def moved(
    key: Key[Array, ""],
    space: Space,
    x: Float[Array, "d N"],
    energy: Energy,
    factor: Float[Array, ""],
    step: Float[Array, ""],
    root: Float[Array, "d d"] | None,
    moves: int,
) -> tuple[Float[Array, "d N"], Float[Array, ""]]:
    """Move particles by MALA under the model of t U, whitened where a root is given.

    Args:
        key: the random key.
        space: the space, with its base measure.
        x: the particles as columns, (d, N).
        energy: the energy U.
        factor: t.
        step: the step size. With a root it is that of the whitened coordinates.
        root: the Cholesky factor of a covariance, or None.
        moves: the number of moves.

    Returns:
        The particles, (d, N), and the fraction of moves that were accepted.

    >>> from dualebm.data import targets
    >>> teacher, one = targets.teacher("s2_bimodal"), jnp.ones(())
    >>> moved(jax.random.key(0), teacher.space, jnp.eye(3), teacher.energy, one, 0.1 * one, None, 2)[0].shape
    (3, 3)
    """
    check_key(key)
    draw = drawn(key, space.dimension, x.dtype, "independent")
    if root is None:
        x, acceptance, _ = langevin.move("mala", space, draw, x, Tempered(energy, factor), step, steps=moves)
        return x, acceptance
    flat, whitened = Euclidean(space.dimension, Flat()), _Whitened(energy, factor, root, space)
    y, acceptance, _ = langevin.move("mala", flat, draw, solve_triangular(root, x, lower=True), whitened, step, steps=moves)
    return blocks.product(root, y), acceptance


def _next_factor(factor, values, fraction):
    """Return the largest t' in (t, 1] at which the effective fraction of the weights exp(-(t' - t) U) is at least `fraction`."""

    def enough(change):
        return effective_sample_size(-change * values) >= fraction * values.size

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(factor), 1 - factor))
    return jnp.where(enough(1 - factor), jnp.ones_like(factor), jnp.minimum(factor + low, 1))


@checked
def choose_path(
    key: Key[Array, ""], energy: Energy, space: Space, count: CountFrom2 = PILOTS, *, moves: Count = MOVES, fraction: Fraction = FRACTION
) -> Path:
    """Choose temperatures and moves such that the weights from one temperature to the next have a given effective fraction.

    The function is pure, and its counts are static.

    Args:
        key: the random key.
        energy: the energy U.
        space: the space, with its base measure tau.
        count: the number of particles that choose the path.
        moves: the number of moves at each temperature.
        fraction: the effective fraction.

    Returns:
        The path.

    Raises:
        ValueError: for fewer than two particles, no move, a fraction outside (0, 1), and the flat base measure, which cannot be sampled.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> path = choose_path(jax.random.key(0), teacher.energy, teacher.space, 500)
    >>> int(path.length), float(path.factors[path.length - 1])
    (2, 1.0)
    """
    check_key(key)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}; it must be a number in (0, 1)")
    start_key, chain_key = jax.random.split(key)
    dtype = precision_of(energy)
    x = space.sample_base(start_key, count, dtype).T

    def go_on(carry):
        return (carry[0] < LARGEST_LENGTH) & (carry[2] < 1)

    def advance(carry):
        k, x, before, step, path = carry
        values = energy(x.T)
        factor = jnp.where(k == LARGEST_LENGTH - 1, jnp.ones_like(before), _next_factor(before, values, fraction))
        resample_key, move_key = jax.random.split(jax.random.fold_in(chain_key, k))
        x = blocks.choose(x, resample(resample_key, (before - factor) * values, count))
        root = None if path.roots is None else _root(x)

        def turn(carry, key):
            x, acceptance = moved(key, space, carry[0], energy, factor, carry[1], root, -(-moves // TURNS))
            return (x, carry[1] * jnp.exp(GAIN * (acceptance - ACCEPTANCE))), None

        (x, step), _ = jax.lax.scan(turn, (x, step), jax.random.split(move_key, TURNS))
        roots = None if path.roots is None or root is None else path.roots.at[k].set(root)
        return k + 1, x, factor, step, Path(path.factors.at[k].set(factor), path.steps.at[k].set(step), roots, k + 1)

    d, step = space.dimension, jnp.asarray(space.default_particle_step, dtype)
    roots = None if space.compact else jnp.zeros((LARGEST_LENGTH, d, d), dtype)
    empty = Path(jnp.ones(LARGEST_LENGTH, dtype), jnp.full(LARGEST_LENGTH, step), roots, jnp.int32(0))
    return jax.lax.while_loop(go_on, advance, (jnp.int32(0), x, jnp.zeros((), dtype), step, empty))[-1]
