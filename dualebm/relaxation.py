"""Whether samples are of the model of an energy: the change of their mean energy under moves that leave the model as it is."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import measures
from dualebm._internal import checks
from dualebm.energies.base import Energy
from dualebm.flows import langevin
from dualebm.flows.noise import drawn
from dualebm.geometry import Space
from dualebm.measures import Samples, shares

DOUBTFUL = 4
"""The number of standard errors by which the mean energy of samples may move under MALA before `duality_gap.certify` warns."""


class Relaxation(NamedTuple):
    """The mean energy of samples before and after moves under that energy.

    Args:
        before: the mean energy before the moves.
        after: the mean energy after the moves.
        error: the standard error of the change.
    """

    before: Float[Array, ""]
    after: Float[Array, ""]
    error: Float[Array, ""]


def relaxation(key: Key[Array, ""], energy: Energy, space: Space, model: Samples, *, moves: int = 100) -> Relaxation:
    """Measure the change of E f over samples under `moves` steps of MALA of the space's default size.

    The moves leave the model exp(-f) tau invariant, so that for samples of the model the change is 0 up to its error. The change shows
    relaxation only within a mode. It does not show wrong masses of modes between which no particle moves, nor that an energy was fitted
    to the samples. The function is pure, and `moves` is static.

    Args:
        key: the random key of the moves.
        energy: the energy f.
        space: the space of the samples.
        model: the samples, with or without weights.
        moves: the number of moves.

    Returns:
        The mean energies before and after the moves, and the error of the change.

    Raises:
        ValueError: for fewer than one move.

    >>> import jax; from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> at_data, _ = targets.sample(jax.random.key(0), teacher, 1000)
    >>> change = relaxation(jax.random.key(1), teacher.energy, teacher.space, at_data)
    >>> bool(abs(change.after - change.before) < DOUBTFUL * change.error)
    True
    """
    checks.count("moves", moves)
    draw = drawn(key, space.dimension, model.points.dtype, "independent")
    moved, _, _ = langevin.move("mala", space, draw, model.points.T, energy, space.default_particle_step, steps=moves)
    before, after = energy(model.points), energy(moved.T)
    log_weights = jnp.zeros_like(before) if model.log_weights is None else model.log_weights
    mean, error = _mean_and_error(after - before, log_weights)
    at_first = measures.mean(before, log_weights)
    return Relaxation(at_first, at_first + mean, error)


def _mean_and_error(values, log_weights):
    """Return the weighted mean, and its standard error for independent samples by the delta method."""
    weights = shares(log_weights)
    mean = jnp.sum(weights * values)
    return mean, jnp.sqrt(jnp.sum((weights * (values - mean)) ** 2))
