"""The flow of the atoms against NumPy loops, with dead atoms and dead populations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.flows import wfr
from dualebm.measures import Atoms
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles

SPHERE = Sphere(4)


def population(dtype, space=SPHERE, count=9, seed=0):
    """Positions, weights (two of them dead), signs, a witness and its gradient, float64; and the atoms."""
    rng = np.random.default_rng(seed)
    positions, gradient = rng.normal(size=(2, count, space.dimension))
    if isinstance(space, Sphere):
        positions = oracles.normalise(positions)
    if isinstance(space, Torus):
        positions = rng.uniform(size=positions.shape) * space.period
    weights = rng.uniform(0.2, 3, count)
    weights[[2, 5]] = 0
    signs, witness = rng.choice([-1.0, 1.0], count), rng.normal(size=count)
    with np.errstate(divide="ignore"):
        atoms = Atoms(*(jnp.array(a, dtype) for a in (positions, np.log(weights), signs)))
    return positions, weights, signs, witness, gradient, atoms


@pytest.mark.parametrize("space", [Sphere(4), Euclidean(3), Torus(2, period=1.5)], ids=str)
def test_transport_moves_each_atom_by_its_sign_alone(space, dtype):
    """No 1/m and no weight in the velocity: dead atoms move too, and weights stay."""
    positions, _, signs, _, gradient, atoms = population(dtype, space)
    expected = np.empty_like(positions)
    for j, (theta, sign, slope) in enumerate(zip(positions, signs, gradient, strict=True)):
        if isinstance(space, Sphere):
            new = theta + 0.7 * sign * (slope - (theta @ slope) * theta)
            expected[j] = new / np.sqrt(new @ new)
        else:
            new = theta + 0.7 * sign * slope
            expected[j] = new - 1.5 * np.floor(new / 1.5) if isinstance(space, Torus) else new
    moved = jax.jit(wfr.transport, static_argnums=3)(atoms, jnp.array(gradient, dtype), 0.7, space)
    np.testing.assert_allclose(moved.positions, expected, atol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(moved.log_weights, atoms.log_weights)
    np.testing.assert_array_equal(moved.signs, atoms.signs)
    assert moved.positions.dtype == dtype


def test_multiplicative_reaction(dtype):
    _, weights, signs, witness, _, atoms = population(dtype)
    moved = jax.jit(wfr.react_multiplicatively)(atoms, jnp.array(witness, dtype), 0.4)
    expected = [w * np.exp(0.4 * s * f) for w, s, f in zip(weights, signs, witness, strict=True)]
    np.testing.assert_allclose(np.exp(moved.log_weights), expected, rtol=20 * np.finfo(dtype).eps)
    assert (moved.log_weights == -jnp.inf).tolist() == (weights == 0).tolist() and moved.log_weights.dtype == dtype
    np.testing.assert_array_equal(moved.positions, atoms.positions)


def test_additive_reaction_clips_at_zero_and_counts_the_dying(dtype):
    _, weights, signs, witness, _, atoms = population(dtype)
    weights[7], weights[8] = 0.25, 0.5  # one just dies, one survives; atom 0 would fall far below zero
    witness[[0, 7, 8]] = signs[[0, 7, 8]] * [-9, -0.501, 1]
    with np.errstate(divide="ignore"):
        atoms = atoms._replace(log_weights=jnp.array(np.log(weights), dtype))
    expected, dying = [], 0
    for w, s, f in zip(weights, signs, witness, strict=True):
        new = w + 0.5 * s * f if w > 0 else 0.0
        dying += w > 0 and new <= 0
        expected.append(max(new, 0.0))
    react = jax.jit(wfr.react_additively)
    moved, died = react(atoms, jnp.array(witness, dtype), 0.5)
    np.testing.assert_allclose(np.exp(moved.log_weights), expected, rtol=1e2 * np.finfo(dtype).eps)
    assert died == dying > 1 and died.dtype == jnp.int32 and moved.log_weights.dtype == dtype
    assert react(moved, jnp.array(witness, dtype), 0.0)[1] == 0  # the dead die once


def test_the_budget_scales_down_and_never_up(dtype):
    _, weights, *_, atoms = population(dtype)
    for radius in (weights.mean() / 3, weights.mean() * 0.999, weights.mean() * 1.001, 50.0):
        kept = jax.jit(wfr.keep_budget)(atoms, jnp.asarray(radius, dtype))
        expected = weights * radius / max(weights.mean(), radius)
        np.testing.assert_allclose(np.exp(kept.log_weights), expected, rtol=50 * np.finfo(dtype).eps)
        assert np.exp(kept.log_weights).mean() <= radius * (1 + 20 * np.finfo(dtype).eps) and kept.log_weights.dtype == dtype


def test_the_budget_holds_where_weights_overflow():
    atoms = Atoms(jnp.array([[0.0], [0.0]]), jnp.array([200.0, 200.0]), jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(np.exp(jax.jit(wfr.keep_budget)(atoms, 10.0).log_weights), 10, rtol=1e-4)


def test_a_dead_population_stays_dead_without_nan(dtype):
    *_, witness, gradient, atoms = population(dtype)
    atoms = atoms._replace(log_weights=jnp.full(9, -jnp.inf, dtype))
    witness, gradient = jnp.array(witness, dtype), jnp.array(gradient, dtype)

    @jax.jit
    def results():
        added, died = wfr.react_additively(atoms, witness, 0.5)
        budgets = [wfr.keep_budget(atoms, jnp.asarray(radius, dtype)) for radius in (10, 0.1)]
        moved = wfr.transport(atoms, gradient, 0.5, SPHERE)
        return [wfr.react_multiplicatively(atoms, witness, 0.5), added, moved, *budgets], died

    populations, died = jax.device_get(results())
    for moved in populations:
        assert (moved.log_weights == -np.inf).all() and np.isfinite(moved.positions).all()
    assert died == 0
