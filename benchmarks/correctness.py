"""Is float32 on this device right? Energies, steps, vmapped runs and normal numbers beside NumPy float64 and the CPU."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import float_rates
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import ReLU
from dualebm.flows.noise import drawn
from dualebm.measures import Samples
from dualebm.methods import dual
from dualebm.spaces import Sphere
from dualebm.training import simulate
from tests import oracles


def correct(n, counts):
    """How far float32 on this device is from NumPy float64, and how far it may be; and what device it is.

    Energies, gradients and means at so many points, steps with known noise beside the loops of the tests, vmapped runs beside one, and
    the normal numbers beside those of the CPU. A step may be off by the move of one particle that lies on a kink of a neuron.
    """
    found = {}
    for count in counts:
        found[f"energy, gradient and means at {count} points"] = (energy_error(count), 2e-5)
    for integrator in ("projected", "mala"):
        found[f"a step, {integrator}"] = (step_error(n, integrator), 2e-4)
    found["vmapped runs beside one"] = (vmapped_error(n), 2e-4)
    found["normal numbers beside the CPU's"] = (normals_error(n), 2e-5)
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    about = dict(platform=device.platform, kind=device.device_kind, count=jax.local_device_count(), bytes_limit=limit)
    return dict(device=about, errors={name: dict(error=float(error), allowed=allowed) for name, (error, allowed) in found.items()})


def on_sphere(rng, count, dimension=15):
    """Points of length 1 as rows, of float32, in float64."""
    x = rng.normal(size=(count, dimension))
    return np.float64(np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)))


def energy_error(count):
    """The largest error of U, grad U and the means of phi and its gradient, each relative to its largest entry.

    Points near a kink of a neuron, where rounding decides which side they are on, are left out.
    """
    rng = np.random.default_rng(count)
    theta, c, x = on_sphere(rng, 64), np.float64(np.float32(rng.normal(size=64))), on_sphere(rng, count)
    x = np.where(np.abs(x @ theta.T).min(axis=1, keepdims=True) < 1e-5, on_sphere(rng, 1), x)
    along = x @ theta.T
    right = (
        np.maximum(along, 0) @ c / 64, (along > 0) * c @ theta / 64, np.maximum(along, 0).mean(0), (along > 0).T @ x / count,
    )  # fmt: skip

    def all_of_them(x, theta, c):
        return *Shallow(ReLU(), theta, c).value_and_gradient(x), *feature_mean(ReLU(), theta, Samples(x))

    made = jax.jit(all_of_them)(*(jnp.asarray(a, jnp.float32) for a in (x, theta, c)))
    return max(np.abs(np.float64(a) - b).max() / np.abs(b).max() for a, b in zip(made, right, strict=True))


def method_of(integrator):
    """The default method with an integrator, at the size of the paper but for its data."""
    return dual.Dual(Sphere(15), neurons=64, integrator=integrator)


def step_of(method, n):
    """The key, state, rates and data of a step of a method: n data points, two particles at each, weights and signs that differ."""
    rng = np.random.default_rng(n)
    data = Samples(jnp.asarray(on_sphere(rng, n), jnp.float32))
    rates = float_rates(method.rates._replace(particle_step=0.05, transport_step=0.3, reaction_step=0.4, restart_probability=0.0))
    state = simulate.start(jax.random.key(2), method, rates, data)
    weights = jnp.log(jnp.linspace(0.1, 5, method.neurons, dtype=jnp.float32))
    return jax.random.key(3), state._replace(atoms=state.atoms._replace(log_weights=weights)), rates, data


def step_error(n, integrator):
    """The error of a step beside `tests.oracles`: the largest of neurons, of weights, and of all particles but one in a thousand.

    Rounding decides which side of a kink a particle is on, or whether a move is accepted, where either is a close call.
    """
    method = method_of(integrator)
    key, state, rates, data = step_of(method, n)
    _, noise_key = jax.random.split(key)
    halves = jax.device_get(jax.jit(lambda key: drawn(key, 15, jnp.float32, method.noise)(None, 0, n))(noise_key))
    normal, uniforms = np.concatenate([h.normal.T for h in halves]), np.concatenate([h.uniform for h in halves])
    settings = {name: float(getattr(rates, name)) for name in ("particle_step", "transport_step", "reaction_step", "radius")}
    weights, signs = np.exp(np.asarray(state.atoms.log_weights, np.float64)), np.asarray(state.atoms.signs)
    right = oracles.dual_step(
        state.particles, state.atoms.positions, weights, signs, data.points, normal, uniforms=uniforms, integrator=integrator,
        witness_particles="moved", weight_update="multiplicative", **settings,
    )  # fmt: skip
    after = jax.device_get(simulate.step(key, method, state, rates, data)[0])
    off = np.linalg.norm(after.columns.T - right["particles"], axis=1)
    neurons, weights = after.atoms.positions - right["positions"], np.exp(after.atoms.log_weights) / right["weights"] - 1
    return max(np.quantile(off, 0.999), np.abs(neurons).max(), np.abs(weights).max())


def vmapped_error(n):
    """The largest difference of neurons between a step of a run alone and the same step as one of three."""
    method = method_of("projected")
    key, state, rates, data = step_of(method, n)
    keys = jax.random.split(key, 3)
    several, _ = jax.jit(jax.vmap(method.step, (0, None, None, None)))(keys, state, rates, data)
    alone, _ = simulate.step(keys[1], method, state, rates, data)
    return np.abs(several.atoms.positions[1] - alone.atoms.positions).max()


def normals_error(n):
    """The largest difference between normal numbers of this device and of the CPU of this machine under one key."""
    draw = jax.jit(lambda key: drawn(key, 15, jnp.float32)(None, 0, n)[0].normal)
    here = np.asarray(draw(jax.random.key(0)))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.abs(here - np.asarray(draw(jax.random.key(0)))).max()
