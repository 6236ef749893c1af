"""Algorithm 1 against the authors' traces and against NumPy loops."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.measures import Samples, total_variation
from dualebm.methods import presets
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.presets import rates_from_program
from dualebm.metrics import KLDivergence, ScoreError
from dualebm.spaces import Sphere
from tests import oracles
from tests.package.test_dual import advanced, advanced_with_info, sphere_points, state_of

TRACES = np.load(Path(__file__).parents[1] / "reference_traces.npz")


@partial(jax.jit, static_argnames="method")
def recorded(method, noise, state, rates, data, teacher, test):
    """A state after its step and what the traces record of it."""
    state = advanced(method, noise, None, state, rates, data)
    return state, {
        "particles": state.particles,
        "positions": state.atoms.positions,
        "weights": jnp.exp(state.atoms.log_weights),
        "kl": KLDivergence(teacher, test)(None, Iterate(method, state, rates, data)),
        "score": ScoreError(method.space, teacher, test)(None, Iterate(method, state, rates, data)),
        "total_variation": total_variation(state.atoms),
    }


@pytest.mark.parametrize("name", ["default", "alpha20", "restart1", "restart1_authors_alph"])
def test_authors_traces(x64, name):
    trace = {key.removeprefix(name + "/"): TRACES[key] for key in TRACES.files if key.startswith(name + "/")}
    method = presets.program(Sphere(5), neurons=8, restart_every=int(trace["restart_every"]))
    rates = rates_from_program(
        *(float(trace[k]) for k in ("particle_step", "transport_step", "reaction_step", "budget"))
    )
    data, test = Samples(jnp.array(trace["data"])), Samples(jnp.array(trace["test"]))
    teacher = Shallow(ReLU(), jnp.array(trace["teacher_positions"]), jnp.array(trace["teacher_weights"]))
    state = state_of(trace["particles_0"], trace["positions_0"], trace["weights_0"], trace["signs"])
    for i, half in enumerate(trace["noise_half"]):
        state, values = recorded(method, np.concatenate([half, -half]), state, rates, data, teacher, test)
        for quantity, value in values.items():
            np.testing.assert_allclose(value, trace[quantity][i], rtol=1e-12, atol=1e-12, err_msg=f"{quantity}, step {i + 1}")


# 6 of 24 combinations hold every pair of choices: an integrator comes with each row of the others and with its opposite.
@pytest.mark.parametrize(
    ("integrator", "witness_particles", "weight_update", "feature"),
    [
        ("projected", "moved", "multiplicative", ReLU()),
        ("projected", "current", "additive", ReLU(power=2, bias=True)),
        ("geodesic", "moved", "multiplicative", ReLU(power=2, bias=True)),
        ("geodesic", "current", "additive", ReLU()),
        ("mala", "moved", "additive", ReLU(power=2, bias=True)),
        ("mala", "current", "multiplicative", ReLU()),
    ],
)
def test_steps_with_moving_atoms_equal_the_numpy_loop(x64, integrator, witness_particles, weight_update, feature):
    """Two steps, so that a gradient kept from the old atoms would show; the budget and the restart act in the second."""
    d, m, n = 5, 6, 20
    rng = np.random.default_rng(1)
    data, positions = sphere_points(2, n, d), sphere_points(3, m, d + feature.bias)
    particles = np.concatenate([data, data])
    weights, signs = rng.uniform(0.5, 4, m), rng.choice([-1.0, 1.0], m)
    weights[0] = 1e-3
    settings = dict(particle_step=0.2, transport_step=0.5, reaction_step=0.7, radius=2.0)
    method = Dual(
        Sphere(d), feature, m, integrator=integrator, witness_particles=witness_particles,
        weight_update=weight_update, restart_every=2,
    )  # fmt: skip
    rates = DualRates(**settings, restart_probability=0.0)
    state = state_of(particles, positions, weights, signs)
    now, rejected = (particles, positions, weights), 0
    for i in range(2):
        noise, uniforms = rng.normal(size=(2 * n, d)), rng.uniform(size=2 * n)
        state, info = advanced_with_info(method, noise, uniforms, state, rates, Samples(jnp.array(data)))
        after = jax.device_get(state)
        expected = oracles.dual_step(
            *now, signs, data, noise, **settings, integrator=integrator, witness_particles=witness_particles,
            weight_update=weight_update, uniforms=uniforms, restart_to=np.concatenate([data, data]) if i == 1 else None,
            power=feature.power, bias=feature.bias,
        )  # fmt: skip
        now = expected["particles"], expected["positions"], expected["weights"]
        rejected += np.sum(~expected["accepted"])
        np.testing.assert_allclose(after.columns.T, now[0], atol=1e-12)
        np.testing.assert_allclose(after.atoms.positions, now[1], atol=1e-12)
        np.testing.assert_allclose(np.exp(after.atoms.log_weights), now[2], atol=1e-12)
        np.testing.assert_allclose(info.acceptance, np.mean(expected["accepted"]), atol=1e-12)
    assert (rejected > 0) == (integrator == "mala")
    assert np.exp(after.atoms.log_weights).mean() <= 2 + 1e-12
    assert after.step == 2


def test_production_size_equals_numpy(x64):
    """20001 particles and 1500 data: whole blocks, a remainder and one block; compared on sampled rows and all atoms."""
    d, m, n, N = 15, 64, 1500, 20001
    data, particles, positions = sphere_points(4, n, d), sphere_points(5, N, d), sphere_points(6, m, d)
    signs = np.where(np.arange(m) < 20, -1.0, 1.0)
    weights = np.linspace(0.1, 5, m)
    method = Dual(Sphere(d), particles=N, noise="independent", integrator="mala")
    noise = np.random.default_rng(7).normal(size=(N, d))
    uniforms = np.random.default_rng(8).uniform(size=N)
    rates = DualRates(0.05, 0.3, 0.4, 0.0, 10.0)
    first = state_of(particles, positions, weights, signs)
    state = jax.device_get(advanced(method, noise, uniforms, first, rates, Samples(jnp.array(data))))
    rows = np.r_[0:50, 16380:16390, N - 50 : N]
    moved, accepted = oracles.move(
        particles[rows], noise[rows], 0.05, "mala",
        lambda x: oracles.energy_gradient(x, positions, signs * weights),
        lambda x: oracles.energy(x, positions, signs * weights), uniforms[rows],
    )  # fmt: skip
    assert 0 < accepted.sum() < accepted.size
    np.testing.assert_allclose(state.columns.T[rows], moved, atol=1e-12)
    x = state.columns.T
    F = np.maximum(x @ positions.T, 0).mean(0) - np.maximum(data @ positions.T, 0).mean(0)
    slope = ((x @ positions.T > 0).T @ x) / N - ((data @ positions.T > 0).T @ data) / n
    slope -= np.sum(slope * positions, 1, keepdims=True) * positions
    expected = positions + 0.3 * signs[:, None] * slope
    np.testing.assert_allclose(
        state.atoms.positions, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-12
    )
    np.testing.assert_allclose(state.atoms.log_weights, np.log(weights) + 0.4 * signs * F, atol=1e-12)
