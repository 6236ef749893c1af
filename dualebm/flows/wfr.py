"""The Wasserstein-Fisher-Rao flow of the atoms along a witness F (arXiv 2107.05134, eqs. 6 and 8; Algorithm 1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dualebm.measures import Atoms, log_total_variation
from dualebm.spaces import Space

Rate = Float[Array, ""] | float


def transport(atoms: Atoms, witness_gradient: Float[Array, "m p"], step: Rate, space: Space) -> Atoms:
    """theta_j <- retract(theta_j, s sigma_j P grad F(theta_j)) (Algorithm 1, step 3), without a 1/m or a weight.

    >>> from dualebm.spaces import Euclidean
    >>> atoms = Atoms(jnp.zeros((2, 1)), jnp.zeros(2), jnp.array([1.0, -1.0]))
    >>> transport(atoms, jnp.ones((2, 1)), 0.5, Euclidean(1)).positions.tolist()
    [[0.5], [-0.5]]
    """
    velocity = atoms.signs[:, None] * space.tangent(atoms.positions, witness_gradient)
    return atoms._replace(positions=space.retract(atoms.positions, step * velocity))


def react_multiplicatively(atoms: Atoms, witness: Float[Array, " m"], step: Rate) -> Atoms:
    """w_j <- w_j exp(s sigma_j F(theta_j)) (Algorithm 1, step 4).

    >>> atoms = Atoms(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones(1))
    >>> float(react_multiplicatively(atoms, jnp.ones(1), 0.25).log_weights[0])
    0.25
    """
    return atoms._replace(log_weights=atoms.log_weights + step * atoms.signs * witness)


def react_additively(atoms: Atoms, witness: Float[Array, " m"], step: Rate) -> tuple[Atoms, Int[Array, ""]]:
    """w_j <- max(w_j + s sigma_j F(theta_j), 0) for living atoms, and how many died (the primal figures' program).

    >>> atoms = Atoms(jnp.zeros((3, 1)), jnp.log(jnp.array([1.0, 0.1, 0.0])), jnp.ones(3))
    >>> atoms, died = react_additively(atoms, jnp.array([1.0, -1.0, 1.0]), 0.5)
    >>> jnp.exp(atoms.log_weights).tolist(), int(died)
    ([1.5, 0.0, 0.0], 1)
    """
    weights = jnp.exp(atoms.log_weights)
    alive = weights > 0
    moved = weights + step * atoms.signs * witness
    survives = alive & (moved > 0)
    log_weights = jnp.where(survives, jnp.log(jnp.where(survives, moved, 1)), -jnp.inf)
    return atoms._replace(log_weights=log_weights), jnp.sum(alive & ~survives, dtype=jnp.int32)


def keep_budget(atoms: Atoms, radius: Rate) -> Atoms:
    """w <- w radius / max(mean w, radius): the total variation stays within the radius (Algorithm 1, step 5).

    >>> from dualebm.measures import total_variation
    >>> atoms = Atoms(jnp.zeros((2, 1)), jnp.log(jnp.array([10.0, 30.0])), jnp.ones(2))
    >>> round(float(total_variation(keep_budget(atoms, 10.0))), 4)
    10.0
    """
    excess = jnp.maximum(log_total_variation(atoms) - jnp.log(radius), 0)
    # A dead population has excess -inf - log(radius), cut to 0: its log weights stay -inf.
    return atoms._replace(log_weights=atoms.log_weights - excess)
