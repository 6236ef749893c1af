"""Early stopping and mending: a training that keeps its state of the least cross-entropy, and may go back to it with smaller steps.

    check    C = mean of U over the rows of the check + log Z, now and then
    kept     the state of the least C so far
    mending  where C has clearly risen, or the training has diverged, it goes back to the kept state with half the steps (see `mending`)

log Z of each check is by fresh samples of the model (`log_z.fresh`), whatever the method. So the checks of all methods are compared on the
same terms, and no particle that has lost a part of the model makes an energy look good. The least of many checks is a little too low, so
the kept energy is to be judged on other rows.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm import measures, settings
from dualebm._internal import checks
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.log_z import fresh
from dualebm.measures import Samples
from dualebm.methods import mending
from dualebm.methods.base import Info, Method, Wrapper
from dualebm.methods.mending import Mending
from dualebm.settings import CountFrom2, CountOrZero

ASIDE = 2**31 - 2
"""The number that makes the key of a check from the key of a step. No method uses it."""

CROSS_ENTROPY, LOG_PARTITION, ENERGY = range(3)
"""The rows of a check."""

AGREEMENT = 3.0
"""Two numbers differ where their distance is above this number of their combined standard errors, and a tolerance."""

TOLERANCE = 0.05
"""The difference of two values of log Z, or of two cross-entropies, that is not noticed, in nats."""


def check_of(key: Key[Array, ""], method: Method, state: Any, energy: Any, samples: Samples, count: int) -> Float[Array, "3 2"]:
    """Compare a training with fresh samples of its model.

    Args:
        key: the random key of the samples.
        method: the training method.
        state: its state, with log Z and particles where it has them.
        energy: the energy U of this state.
        samples: the samples of the cross-entropy, points (n, d).
        count: the number of fresh samples, at least 2.

    Returns:
        The array [[E U + log Z, error], [log Z by the particles - log Z, error], [mean energy of the particles - that of the model,
        error]], (3, 2), in nats. It is NaN where the fresh samples are not to be trusted. A row is NaN where the method has no such number.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = method.init(jax.random.key(0), method.rates, data)
    >>> made = check_of(jax.random.key(1), method, state, method.energy(state, method.rates, data), data, 64)
    >>> jnp.isfinite(made[:, 0]).tolist()  # this method does not follow log Z
    [True, False, True]
    """
    check_key(key)
    dtype = samples.points.dtype
    unknown = jnp.full((3, 2), jnp.nan, dtype)
    found = fresh.draw(key, energy, method.space, count)
    mean = measures.mean(energy(samples.points), samples.log_weights)
    rows = [jnp.stack([mean + found.log_partition, found.error])] + 2 * [unknown[0]]
    known = method.log_partition(state)
    if known is not None:
        value, error = known
        both = jnp.sqrt(found.error**2 + jnp.where(jnp.isnan(error), 0, error) ** 2)
        rows[LOG_PARTITION] = jnp.stack([value - found.log_partition, both])
    particles = method.samples(state)
    if particles is not None:
        energies = energy(particles.points)
        theirs = measures.mean(energies, particles.log_weights)
        error = jnp.sqrt(jnp.sum((particles.weights * (energies - theirs)) ** 2) + found.energy_error**2)
        rows[ENERGY] = jnp.stack([theirs - found.mean_energy, error])
    return jnp.where(found.trusted, jnp.stack(rows), unknown).astype(dtype)


class Kept(NamedTuple):
    """The state of the least cross-entropy.

    Args:
        state: the state of the wrapped method. Before the first check it is the start.
        cross_entropy: its cross-entropy and the error of its log Z, (2,), in nats. They are -inf before the first check.
    """

    state: Any
    cross_entropy: Float[Array, "2"]


class ValidatedState(NamedTuple):
    """The state of `Validated`.

    Args:
        inner: the state of the wrapped method.
        kept: its state of the least cross-entropy so far.
        check: the last check (see `check_of`), (3, 2), with -inf in place of NaN, which in a state would be a divergence.
        mending: how far the steps are changed, or None for a method that does not mend.
    """

    inner: Any
    kept: Kept
    check: Float[Array, "3 2"]
    mending: Mending | None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles of the wrapped method as rows, (N, d)."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The number of iterations done."""
        return self.inner.step


def divided(data: Samples, rows: int) -> tuple[Samples, Samples]:
    """Divide data into the rows to train on and the rows of the checks.

    Args:
        data: the points (n, d).
        rows: the number of validation rows, less than n. They are the last rows. For 0 the checks are at the rows to train on.

    Returns:
        The rows to train on and the rows of the checks.

    >>> [len(part.points) for part in divided(Samples(jnp.eye(5)), 2)], [len(part.points) for part in divided(Samples(jnp.eye(5)), 0)]
    ([3, 2], [5, 5])
    """
    if not rows:
        return data, data
    return jax.tree.map(lambda leaf: leaf[:-rows], data), jax.tree.map(lambda leaf: leaf[-rows:], data)


@dataclasses.dataclass(frozen=True)
class Validated(Wrapper):
    """A method that keeps its state of the least cross-entropy at validation rows, on which it does not train.

    The energy of a state is that of the training. That of `state.kept.state`, a state of the wrapped method, is the one that was kept.

    Args:
        method: any method.
        rows: the number of validation rows. They are the last rows of the data. The method trains on the others. For 0 it trains on all
            rows, and the checks are at these.
        every: the number of iterations between checks, at least 2.
        count: the number of fresh samples of the model in a check.
        mends: whether a training that has become worse or has diverged goes back to the kept state with smaller steps.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Validated(Dual(Sphere(3), neurons=8), rows=1, every=2, count=64), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> int(state.kept.state.step), bool(jnp.isfinite(state.kept.cross_entropy[0]))  # the start, which is checked in the first iteration
    (0, True)
    """

    method: Method
    rows: CountOrZero
    every: CountFrom2 = 20
    count: CountFrom2 = 2**10
    mends: bool = False

    def __post_init__(self):
        settings.check(self)

    def rates_for(self, data: Samples) -> Any:
        """Return the rates of the wrapped method that suit the rows to train on."""
        return self.method.rates_for(divided(data, self.rows)[0])

    def check(self, rates: Any, data: Samples) -> None:
        """Raise the errors of the wrapped method, and ValueError where no row is left to train on or no fresh sample can be drawn."""
        if self.rows >= len(data.points):
            raise ValueError(f"rows is {self.rows} of {len(data.points)}; at least one row must be left to train on")
        checks.samples("data", data, self.space)
        train, _ = divided(data, self.rows)
        self.method.check(rates, train)
        if not can_check(self.method, rates, train):
            raise ValueError(f"space is {self.space}, whose flat measure cannot be sampled: a check needs fresh samples of the model")

    def init(self, key: Key[Array, ""], rates, data: Samples) -> ValidatedState:
        """Return the start of the wrapped method under the same key. It is kept until the first check."""
        check_key(key)
        inner = self.method.init(key, rates, divided(data, self.rows)[0])
        unknown = jnp.full((3, 2), -jnp.inf, data.points.dtype)
        return ValidatedState(inner, Kept(inner, unknown[0]), unknown, mending.begin(data.points.dtype) if self.mends else None)

    def step(self, key: Key[Array, ""], state: ValidatedState, rates, data: Samples) -> tuple[ValidatedState, Info]:
        """Do one iteration of the wrapped method under the same key.

        Where it is time, check its energy, keep its state if it is the best, and go back to the kept one where the method mends and must.
        The first iteration checks the start, so that a training which is worse from its first steps on is seen.
        """
        check_key(key)
        train, held = divided(data, self.rows)
        mended = state.mending
        slowed = rates if mended is None else mending.slowed(self.method, rates, mended)
        inner, info = self.method.step(key, state.inner, slowed, train)
        if mended is not None:
            mended = mending.seen(mended, info)
        first = state.step == 0

        def check():
            checked = jax.tree.map(partial(jnp.where, first), state.inner, inner)
            energy = self.method.energy(checked, rates, train)
            unknown = jnp.full((3, 2), -jnp.inf, data.points.dtype)
            faulty = False if mended is None else mending.faulty(self.method, checked, energy, mended, jnp.where(first, 0, self.every))
            ask = lambda: _stored(check_of(jax.random.fold_in(key, ASIDE), self.method, checked, energy, held, self.count))  # noqa: E731
            made = ask() if mended is None else jax.lax.cond(faulty, lambda: unknown, ask)
            (value, error), (least, of_least) = made[CROSS_ENTROPY], state.kept.cross_entropy
            known = jnp.isfinite(value)
            better = known & (jnp.isneginf(least) | (value < least))
            kept = jax.tree.map(partial(jnp.where, better), Kept(checked, made[CROSS_ENTROPY]), state.kept)
            if mended is None:
                return inner, kept, made, None
            risen = known & jnp.isfinite(least) & (value > least + TOLERANCE + AGREEMENT * jnp.hypot(error, of_least))
            back = (faulty | risen) & mending.possible(mended)
            restored = mending.at_step(kept.state, inner.step)
            return jax.tree.map(partial(jnp.where, back), restored, inner), kept, made, mending.halved(mended, back)

        stay = lambda: (inner, state.kept, state.check, mended)  # noqa: E731
        return ValidatedState(*jax.lax.cond(first | (inner.step % self.every == 0), check, stay)), info

    def recovering(self, state: ValidatedState) -> Bool[Array, ""]:
        """Tell whether a divergence is left to the next check, which goes back."""
        return jnp.bool_(False) if state.mending is None else mending.possible(state.mending)

    def energy(self, state: ValidatedState, rates, data: Samples) -> Any:
        """Return the energy of the training."""
        return self.method.energy(state.inner, rates, divided(data, self.rows)[0])


def can_check(method: Method, rates: Any, data: Samples) -> bool:
    """Tell whether fresh samples of the model of a method can be drawn.

    Args:
        method: the method.
        rates: its rates.
        data: the rows to train on, points (n, d).

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> can_check(Dual(Sphere(3)), Dual(Sphere(3)).rates, Samples(jnp.eye(3)))
    True
    """
    init = lambda: method.energy(method.init(key_of_seed(0), rates, data), rates, data)  # noqa: E731
    return fresh.available(eqx.filter_eval_shape(init), method.space)


def _stored(values):
    """Return numbers with -inf in place of those that are not known."""
    return jnp.where(jnp.isfinite(values), values, -jnp.inf)
