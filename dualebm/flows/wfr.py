"""The Wasserstein-Fisher-Rao flow of the atoms along a witness F (arXiv 2107.05134, eqs. 6 and 8, Algorithm 1)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal.keys import check_key
from dualebm.features import Feature
from dualebm.geometry import ParameterSpace, Space
from dualebm.measures import Atoms, Samples, log_total_variation

Rate = Float[Array, ""] | float

Signs = Literal["half", "random", "all_negative"]
"""The rules of the signs with which a population starts. See `population`."""
FirstWeights = Literal["one", "uniform"]
"""The rules of the weights with which a population starts. See `population`."""
WeightUnit = Literal["one", "radius"]
"""The units of the weights with which a population starts: 1, or the radius of the ball."""
WeightUpdate = Literal["multiplicative", "additive"]
"""The rules by which the weights of a population react. See `update`."""


def population(
    keys: tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]],
    feature: Feature,
    space: Space,
    count: int,
    signs: Signs,
    weights: FirstWeights,
    unit: Rate,
    data: Samples,
) -> Atoms:
    """Draw the first atoms. Their positions are those of `FeatureMap.draw`, uniform on the parameter space of most features.

    Args:
        keys: the random keys of the positions, the signs and the weights.
        feature: the feature phi.
        space: the space of the data.
        count: the number m of atoms.
        signs: the rule of the signs sigma_j. "half": the first half is negative. "random": each sign is drawn. "all_negative": all are -1.
        weights: the rule of the weights w_j. "one": all are 1. "uniform": each is uniform in [0, 1).
        unit: the factor of all weights.
        data: the data, whose dtype the atoms take. A `ScaledBump` has its first centres at data points.

    Returns:
        The atoms.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> keys = tuple(jax.random.split(jax.random.key(0), 3))
    >>> atoms = population(keys, ReLU(), Sphere(3), 4, "half", "one", 1.0, Samples(jnp.eye(3)))
    >>> atoms.positions.shape, atoms.signs.tolist()
    ((4, 3), [-1.0, -1.0, 1.0, 1.0])
    """
    for i, key in enumerate(keys):
        check_key(key, f"keys[{i}]")
    position_key, sign_key, weight_key = keys
    positions, dtype = feature.draw(position_key, space, count, data), data.points.dtype
    if signs == "random":
        sigma = jax.random.rademacher(sign_key, (count,), dtype)
    else:
        sigma = jnp.where(jnp.arange(count) < (count // 2 if signs == "half" else count), -1, 1).astype(dtype)
    w = jnp.ones(count, dtype) if weights == "one" else jax.random.uniform(weight_key, (count,), dtype)
    return Atoms(positions, jnp.log(w) + jnp.log(jnp.asarray(unit, dtype)), sigma)


def transport(atoms: Atoms, witness_gradient: Float[Array, "m p"], step: Rate, space: ParameterSpace) -> Atoms:
    """Move the positions of atoms along the gradient of a witness F, which is step 3 of Algorithm 1 of arXiv 2107.05134.

    Atom j has the position theta_j, the sign sigma_j and the weight w_j. It moves by theta_j <- retract(theta_j, s sigma_j P grad
    F(theta_j)), where P projects onto the tangent space at theta_j and `retract` leads back to the space. The step is not multiplied by
    w_j / m.

    Args:
        atoms: m atoms.
        witness_gradient: the ambient gradient of F at the atoms, (m, p).
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
    """Change the weights of atoms by w_j <- w_j exp(s sigma_j F(theta_j)), which is step 4 of Algorithm 1 of arXiv 2107.05134.

    Atom j has the position theta_j, the sign sigma_j = +-1 and the weight w_j, which is stored as log w_j.

    Args:
        atoms: m atoms.
        witness: the witness F at the atoms, (m,).
        step: the step size s.

    Returns:
        The atoms with their new weights.

    >>> atoms = Atoms(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones(1))
    >>> float(react_multiplicatively(atoms, jnp.ones(1), 0.25).log_weights[0])
    0.25
    """
    return atoms._replace(log_weights=atoms.log_weights + step * atoms.signs * witness)


def react_additively(atoms: Atoms, witness: Float[Array, " m"], step: Rate) -> tuple[Atoms, Int[Array, ""]]:
    """Change the weights of living atoms by w_j <- max(w_j + s sigma_j F(theta_j), 0).

    This is the rule of the authors' program for the primal figures of arXiv 2107.05134. Atom j has the position theta_j, the sign
    sigma_j = +-1 and the weight w_j, which is stored as log w_j. It lives while w_j > 0.

    Args:
        atoms: m atoms.
        witness: the witness F at the atoms, (m,).
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
    """Keep the total variation within a radius: w_j <- w_j radius / max(mean w, radius).

    This is step 5 of Algorithm 1 of arXiv 2107.05134. The total variation of atoms is the mean of their weights w_j >= 0.

    Args:
        atoms: the m atoms.
        radius: the largest total variation, in the unit of the weights.

    Returns:
        The atoms with their new weights.

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
    space: ParameterSpace,
    rule: WeightUpdate = "multiplicative",
) -> tuple[Atoms, Int[Array, ""]]:
    """Make steps 3 to 5 of Algorithm 1 of arXiv 2107.05134: transport, reaction and budget.

    The transport moves the positions along the gradient of a witness F (`transport`). The reaction changes the weights w_j by F at the
    old positions. The budget multiplies all weights by one factor where their mean, the total variation, exceeds the radius
    (`keep_budget`).

    Args:
        atoms: m atoms.
        witness: F, (m,), and its ambient gradient, (m, p), at the atoms.
        transport_step: the step size of the transport.
        reaction_step: the step size of the reaction.
        radius: the largest total variation. None for no budget.
        space: the parameter space.
        rule: the rule of the reaction, "multiplicative" (`react_multiplicatively`) or "additive" (`react_additively`).

    Returns:
        The atoms, and the number of atoms whose weight the additive reaction cut to 0. It is 0 for the other rule.

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
