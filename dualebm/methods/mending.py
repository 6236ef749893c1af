"""Steps that are halved where a training has become worse or has diverged, and that follow the acceptance of its moves.

    steps of the training  h <- h / 2 at each time that it goes back (see `validated.Validated`), at most `HALVINGS` times
    particle step          of a Metropolis-adjusted move: log h <- log h + gain (acceptance - aim), as in `flows.adaptation`;
                           of another move: it is halved with the others

A flow in half the steps is the same flow, followed more finely. Particles of a given step can fall behind neurons that have become fast, or
freeze where the energy has become steep. So their step follows their acceptance.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dualebm import rates as bounds
from dualebm.flows import adaptation
from dualebm.methods.base import LOWEST_ACCEPTANCE, Divergence, Info, Method, energies_are_finite

HALVINGS = 8
"""The largest number of times that a training goes back."""


class Mending(NamedTuple):
    """How far the steps of a training are changed.

    Args:
        halvings: the number of times that it went back, an integer.
        log_particle: the log factor of the particle step of an adjusted move.
        accepted: the sum of the acceptances of the iterations since the last check. Where nothing can be rejected, their number.
    """

    halvings: Int[Array, ""]
    log_particle: Float[Array, ""]
    accepted: Float[Array, ""]


def begin(dtype: Any) -> Mending:
    """Return the start: the given steps.

    Args:
        dtype: the floating dtype of the particles.

    >>> [float(number) for number in begin(jnp.float32)]
    [0.0, 0.0, 0.0]
    """
    return Mending(jnp.int32(0), jnp.zeros((), dtype), jnp.zeros((), dtype))


def slowed(method: Method, rates: Any, mending: Mending) -> Any:
    """Return the rates of an iteration: the given ones, with all steps halved, and the step of adjusted moves by their acceptance.

    Args:
        method: the method.
        rates: its given rates.
        mending: how far the steps are changed.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3))
    >>> found = slowed(method, method.rates, begin(jnp.float32)._replace(halvings=jnp.int32(2)))
    >>> [round(float(new / old), 6) for new, old in zip(found[:3], method.rates[:3])]
    [1.0, 0.25, 0.25]
    """
    moves, trains = bounds.steps(type(rates))
    half = jnp.exp2(-mending.halvings.astype(mending.log_particle.dtype))
    changed = {name: getattr(rates, name) * half for name in trains}
    for name in moves:
        if method.adjusted:
            longest = (1 - 1e-6) * method.space.largest_particle_step  # rounding stays within it
            changed[name] = jnp.minimum(getattr(rates, name) * jnp.exp(mending.log_particle), longest)
        else:
            changed[name] = getattr(rates, name) * half
    return rates._replace(**changed)


def seen(mending: Mending, info: Info) -> Mending:
    """Return how far the steps are changed after an iteration.

    Args:
        mending: before it.
        info: the diagnostics of the iteration.

    >>> float(seen(begin(jnp.float32), Info(acceptance=jnp.array(0.8))).log_particle) > 0
    True
    """
    if info.acceptance is None:
        return mending._replace(accepted=mending.accepted + 1)
    gain = jnp.nan_to_num(adaptation.GAIN * (info.acceptance - adaptation.ACCEPTANCE))
    log_particle = adaptation.clipped(mending.log_particle + gain, adaptation.LONGEST)
    return mending._replace(log_particle=log_particle, accepted=mending.accepted + info.acceptance)


def faulty(method: Method, state: Any, energy: Any, mending: Mending, iterations: int | Int[Array, ""]) -> Bool[Array, ""]:
    """Tell whether a training has diverged, for the causes that a run looks for (`Divergence`).

    Args:
        method: the method.
        state: its state.
        energy: the energy of this state.
        mending: with the sum of the acceptances.
        iterations: the number of iterations since the last check.

    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = method.init(jax.random.key(0), method.rates, data)
    >>> energy = method.energy(state, method.rates, data)
    >>> [bool(faulty(method, state, energy, begin(jnp.float32)._replace(accepted=jnp.float32(number)), 20)) for number in (16, 0.1)]
    [False, True]
    """
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    broken = jnp.any(jnp.array([jnp.any(jnp.isnan(leaf) | jnp.isposinf(leaf)) for leaf in leaves]))
    stuck = ~jnp.asarray(energies_are_finite(method, state, energy)) | (method.diverged(state) != Divergence.NONE)
    return broken | stuck | (mending.accepted < LOWEST_ACCEPTANCE * iterations)


def possible(mending: Mending) -> Bool[Array, ""]:
    """Tell whether a training may go back once more.

    Args:
        mending: how far its steps are changed.

    >>> bool(possible(begin(jnp.float32))), bool(possible(begin(jnp.float32)._replace(halvings=jnp.int32(HALVINGS))))
    (True, False)
    """
    return mending.halvings < HALVINGS


def halved(mending: Mending, back: Bool[Array, ""]) -> Mending:
    """Return how far the steps are changed after a check.

    Args:
        mending: before it.
        back: whether the training goes back.

    >>> int(halved(begin(jnp.float32), jnp.bool_(True)).halvings)
    1
    """
    return mending._replace(halvings=mending.halvings + back, accepted=jnp.zeros_like(mending.accepted))


def at_step(state: Any, step: Int[Array, ""]) -> Any:
    """Return the state of a method as one after another number of iterations. This number keys the noise, so that it is drawn anew.

    Args:
        state: the state, which has a field `step` or, for a wrapper, `inner`.
        step: the number of iterations.

    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3), neurons=8)
    >>> state = method.init(jax.random.key(0), method.rates, Samples(jnp.eye(3)))
    >>> int(at_step(state, jnp.int32(5)).step)
    5
    """
    if "step" in state._fields:
        return state._replace(step=step)
    return state._replace(inner=at_step(state.inner, step))
