"""The Wasserstein-Fisher-Rao flow of the atoms along a witness F (arXiv 2107.05134, eqs. 6 and 8; Algorithm 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm.geometry import Space
from dualebm.measures import Atoms, log_total_variation

Rate = Float[Array, ""] | float

SIGNS, WEIGHTS, UPDATES = ("half", "random", "all_negative"), ("one", "uniform"), ("multiplicative", "additive")
"""How a population starts, its signs and its weights; and how its weights react."""


def population(
    keys: tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]], space: Space, count: int, signs: str, weights: str, unit: Rate, dtype
) -> Atoms:
    """Atoms uniform on a space, with signs and weights (times `unit`) as chosen of `SIGNS` and `WEIGHTS`; keys: of each of the three.

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


def update(
    atoms: Atoms,
    witness: tuple[Float[Array, " m"], Float[Array, "m p"]],
    transport_step: Rate,
    reaction_step: Rate,
    radius: Rate | None,
    space: Space,
    rule: str = "multiplicative",
) -> tuple[Atoms, Int[Array, ""]]:
    """Steps 3 to 5 of Algorithm 1 under F and its gradient: transport; reaction with F at the old positions, by a rule of `UPDATES`;
    and the budget, unless radius is None. The atoms, and how many weights were clipped.

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
