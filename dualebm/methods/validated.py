"""Early stopping: a training that keeps its energy of the least cross-entropy at rows on which it does not train.

    check    C = mean of U over the validation rows + log Z, now and then
    kept     the energy of the least C so far

log Z of each check is by fresh samples of the model (`log_z.fresh`), whatever the method. So the checks of all methods are compared on the
same terms, and no particle that has lost a part of the model makes an energy look good. The least of many checks is a little too low, so
the kept energy is to be judged on other rows.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import measures, settings
from dualebm._internal import checks
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.log_z import fresh
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method, Wrapper
from dualebm.settings import Count, CountFrom2

ASIDE = 2**31 - 2
"""The number that makes the key of a check from the key of a step. No method uses it."""

CROSS_ENTROPY, LOG_PARTITION, ENERGY = range(3)
"""The rows of a check."""


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
    """The energy of the least cross-entropy at the validation rows. A number that is not known is -inf.

    Args:
        arrays: the energy with only its arrays.
        step: the number of iterations done. Before the first check it is 0.
        cross_entropy: the cross-entropy of the validation rows and the error of its log Z, (2,), in nats.
        log_partition: log Z by the particles of the training and its error, (2,), in nats.
    """

    arrays: Any
    step: Int[Array, ""]
    cross_entropy: Float[Array, "2"]
    log_partition: Float[Array, "2"]


class ValidatedState(NamedTuple):
    """The state of `Validated`.

    Args:
        inner: the state of the wrapped method.
        kept: the energy of the least cross-entropy so far.
        check: the last check (see `check_of`), (3, 2), with -inf in place of NaN, which in a state would be a divergence.
    """

    inner: Any
    kept: Kept
    check: Float[Array, "3 2"]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles of the wrapped method as rows, (N, d)."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The number of iterations done."""
        return self.inner.step


def divided(data: Samples, rows: int) -> tuple[Samples, Samples]:
    """Divide data into the rows to train on and the validation rows, which are the last ones.

    Args:
        data: the points (n, d).
        rows: the number of validation rows, at least 1 and less than n.

    Returns:
        The rows to train on and the validation rows.

    >>> [len(part.points) for part in divided(Samples(jnp.eye(5)), 2)]
    [3, 2]
    """
    return jax.tree.map(lambda leaf: leaf[:-rows], data), jax.tree.map(lambda leaf: leaf[-rows:], data)


@dataclasses.dataclass(frozen=True)
class Validated(Wrapper):
    """A method that keeps its energy of the least cross-entropy at validation rows, on which it does not train.

    The energy of a state is that of the training. `kept_energy` is the one that was kept.

    Args:
        method: any method.
        rows: the number of validation rows. They are the last rows of the data. The method trains on the others.
        every: the number of iterations between checks.
        count: the number of fresh samples of the model in a check.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Validated(Dual(Sphere(3), neurons=8), rows=1, every=1, count=64), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> int(state.kept.step), method.kept_energy(state, method.rates, data)(data.points).shape
    (1, (3,))
    """

    method: Method
    rows: Count
    every: Count = 20
    count: CountFrom2 = 2**10

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
        init = lambda: self.method.energy(self.method.init(key_of_seed(0), rates, train), rates, train)  # noqa: E731
        if not fresh.available(eqx.filter_eval_shape(init), self.space):
            raise ValueError(f"space is {self.space}, whose flat measure cannot be sampled: a check needs fresh samples of the model")

    def init(self, key: Key[Array, ""], rates, data: Samples) -> ValidatedState:
        """Return the start of the wrapped method under the same key. Its energy is kept until the first check."""
        check_key(key)
        train, _ = divided(data, self.rows)
        inner = self.method.init(key, rates, train)
        unknown = jnp.full((3, 2), -jnp.inf, data.points.dtype)
        arrays = eqx.filter(self.method.energy(inner, rates, train), eqx.is_array)
        return ValidatedState(inner, Kept(arrays, jnp.int32(0), unknown[0], unknown[0]), unknown)

    def step(self, key: Key[Array, ""], state: ValidatedState, rates, data: Samples) -> tuple[ValidatedState, Info]:
        """Do one iteration of the wrapped method under the same key. Where it is time, check its energy, and keep it if it is the best."""
        check_key(key)
        train, held = divided(data, self.rows)
        inner, info = self.method.step(key, state.inner, rates, train)

        def check():
            energy = self.method.energy(inner, rates, train)
            made = _stored(check_of(jax.random.fold_in(key, ASIDE), self.method, inner, energy, held, self.count))
            (value, _), (least, _) = made[CROSS_ENTROPY], state.kept.cross_entropy
            better = jnp.isfinite(value) & (jnp.isneginf(least) | (value < least))
            known = self.method.log_partition(inner)
            by_particles = jnp.full(2, -jnp.inf, made.dtype) if known is None else _stored(jnp.stack(known)).astype(made.dtype)
            new = Kept(eqx.filter(energy, eqx.is_array), inner.step, made[CROSS_ENTROPY], by_particles)
            return jax.tree.map(lambda new, old: jnp.where(better, new, old), new, state.kept), made

        kept, made = jax.lax.cond(inner.step % self.every == 0, check, lambda: (state.kept, state.check))
        return ValidatedState(inner, kept, made), info

    def energy(self, state: ValidatedState, rates, data: Samples) -> Any:
        """Return the energy of the training."""
        return self.method.energy(state.inner, rates, divided(data, self.rows)[0])

    def kept_energy(self, state: ValidatedState, rates, data: Samples) -> Any:
        """Return the energy of the least cross-entropy at the validation rows, or that of the start before the first check.

        Args:
            state: a state of this method.
            rates: the rates of the wrapped method.
            data: the data, with the validation rows.
        """
        return eqx.combine(state.kept.arrays, eqx.filter(self.energy(state, rates, data), eqx.is_array, inverse=True))


def _stored(values):
    """Return numbers with -inf in place of those that are not known."""
    return jnp.where(jnp.isfinite(values), values, -jnp.inf)
