"""The Wasserstein-Fisher-Rao flow of the atoms along a witness F (arXiv 2107.05134, eqs. 6 and 8, Algorithm 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm.geometry import Space
from dualebm.measures import Atoms, log_total_variation

Rate = Float[Array, ""] | float

SIGNS, WEIGHTS, UPDATES = ("half", "random", "all_negative"), ("one", "uniform"), ("multiplicative", "additive")
"""The signs and the weights with which a population can start, and the rules by which its weights can react."""


def population(
    keys: tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]], space: Space, count: int, signs: str, weights: str, unit: Rate, dtype
) -> Atoms:
    """Draw atoms uniform on a space.

    Args:
        keys: the random keys of the positions, the signs and the weights.
        space: the parameter space.
        count: the number m of atoms.
        signs: one of `SIGNS`. "half": the first half is negative. "random": each sign is drawn. "all_negative": all are -1.
        weights: one of `WEIGHTS`. "one": all are 1. "uniform": each is uniform in [0, 1).
        unit: the factor of all weights.
        dtype: the floating dtype.

    Returns:
        The atoms.

    >>> from dualebm.spaces import Sphere
    >>> keys = tuple(jax.random.split(jax.random.key(0), 3))
    >>> atoms = population(keys, Sphere(3), 4, "half", "one", 1.0, jnp.float32)
    >>> atoms.positions.shape, atoms.signs.tolist()
    ((4, 3), [-1.0, -1.0, 1.0, 1.0])
    """
    position_key, sign_key, weight_key = keys
    positions = space.sample_base(position_key, count, dtype)
    if signs == "random":
        sigma = jax.random.rademacher(sign_key, (count,), dtype)
    else:
        sigma = jnp.where(jnp.arange(count) < (count // 2 if signs == "half" else count), -1, 1).astype(dtype)
    w = jnp.ones(count, dtype) if weights == "one" else jax.random.uniform(weight_key, (count,), dtype)
    return Atoms(positions, jnp.log(w) + jnp.log(jnp.asarray(unit, dtype)), sigma)


def transport(atoms: Atoms, witness_gradient: Float[Array, "m p"], step: Rate, space: Space) -> Atoms:
    """Move the atoms: theta_j <- retract(theta_j, s sigma_j P grad F(theta_j)) (Algorithm 1, step 3), without a 1/m or a weight.

    Args:
        atoms: m atoms.
        witness_gradient: grad F at the atoms, (m, p).
        step: the step size s.
        space: the parameter space.

    Returns:
        The atoms after the move.

    >>> from dualebm.spaces import Euclidean
    >>> atoms = Atoms(jnp.zeros((2, 1)), jnp.zeros(2), jnp.array([1.0, -1.0]))
    >>> transport(atoms, jnp.ones((2, 1)), 0.5, Euclidean(1)).positions.tolist()
    [[0.5], [-0.5]]
    """
    velocity = atoms.signs[:, None] * space.tangent(atoms.positions, witness_gradient)
    return atoms._replace(positions=space.retract(atoms.positions, step * velocity))


def react_multiplicatively(atoms: Atoms, witness: Float[Array, " m"], step: Rate) -> Atoms:
    """Change the weights by w_j <- w_j exp(s sigma_j F(theta_j)) (Algorithm 1, step 4).

    Args:
        atoms: m atoms.
        witness: F at the atoms, (m,).
        step: the step size s.

    Returns:
        The atoms with their new weights.

    >>> atoms = Atoms(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones(1))
    >>> float(react_multiplicatively(atoms, jnp.ones(1), 0.25).log_weights[0])
    0.25
    """
    return atoms._replace(log_weights=atoms.log_weights + step * atoms.signs * witness)


def react_additively(atoms: Atoms, witness: Float[Array, " m"], step: Rate) -> tuple[Atoms, Int[Array, ""]]:
    """Change the weights of living atoms by w_j <- max(w_j + s sigma_j F(theta_j), 0), as the program of the primal figures does.

    Args:
        atoms: m atoms.
        witness: F at the atoms, (m,).
        step: the step size s.

    Returns:
        The atoms with their new weights, and the number of atoms that died.

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
    """Keep the total variation within a radius: w <- w radius / max(mean w, radius) (Algorithm 1, step 5).

    `radius` is in the units of the weights. Returns the atoms with their new weights.

    >>> from dualebm.measures import total_variation
    >>> atoms = Atoms(jnp.zeros((2, 1)), jnp.log(jnp.array([10.0, 30.0])), jnp.ones(2))
    >>> round(float(total_variation(keep_budget(atoms, 10.0))), 4)
    10.0
    """
    excess = jnp.maximum(log_total_variation(atoms) - jnp.log(radius), 0)
    # A dead population has the excess -inf - log(radius), which is cut to 0, so that its log weights stay -inf.
    return atoms._replace(log_weights=atoms.log_weights - excess)


def update(
    atoms: Atoms,
    witness: tuple[Float[Array, " m"], Float[Array, "m p"]],
    transport_step: Rate,
    reaction_step: Rate,
    radius: Rate | None,
    space: Space,
    rule: str = "multiplicative",
) -> tuple[Atoms, Int[Array, ""]]:
    """Make steps 3 to 5 of Algorithm 1: transport, reaction with F at the old positions, and the budget.

    Args:
        atoms: m atoms.
        witness: F, (m,), and grad F, (m, p), at the atoms.
        transport_step: the step size of the transport.
        reaction_step: the step size of the reaction.
        radius: the largest total variation. None for no budget.
        space: the parameter space.
        rule: the rule of the reaction, one of `UPDATES`.

    Returns:
        The atoms, and the number of weights that were clipped at 0.

    >>> from dualebm.spaces import Euclidean
    >>> atoms = Atoms(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones(1))
    >>> moved, _ = update(atoms, (jnp.ones(1), jnp.ones((1, 1))), 0.5, 0.25, None, Euclidean(1))
    >>> moved.positions.tolist(), moved.log_weights.tolist()
    ([[0.5]], [0.25])
    """
    values, gradient = witness
    moved, died = transport(atoms, gradient, transport_step, space), jnp.int32(0)
    if rule == "multiplicative":
        moved = react_multiplicatively(moved, values, reaction_step)
    else:
        moved, died = react_additively(moved, values, reaction_step)
    return (moved if radius is None else keep_budget(moved, radius)), died
