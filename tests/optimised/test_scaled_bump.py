"""`Dual` finds a planted teacher of three bumps of different concentrations, from centres at data points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ScaledBump
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.simulate import start, step

CONCENTRATIONS = np.array([3.0, 12.0, 60.0])
CENTRES = {
    Euclidean(2): np.array([[-1.5, 0.0], [1.0, 1.0], [1.0, -1.0]]),
    Sphere(3): np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.6, -0.8, 0.0]]),
}


def quadrature(space):
    if space == Sphere(3):
        return sphere_quadrature(space, 64)
    axis = np.linspace(-5, 5, 401, dtype="float32")
    grid = jnp.array(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    return Samples(grid, space.log_base(grid))


def divergence(nodes, teacher, model):
    """KL(teacher | model) in nats by quadrature."""
    base = 0 if nodes.log_weights is None else nodes.log_weights
    log_p, log_q = (np.float64(jax.nn.log_softmax(base - energy(nodes.points))) for energy in (teacher, model))
    return float(np.sum(np.exp(log_p) * (log_p - log_q)))


def samples_of(space, energy, count):
    """Exact samples of a teacher with U >= -4, by rejection from the base measure."""
    x = space.sample_base(jax.random.key(7), 400_000, jnp.float32)
    accepted = jnp.log(jax.random.uniform(jax.random.key(8), (x.shape[0],))) < -energy(x) - 4
    return Samples(x[np.flatnonzero(np.asarray(accepted))[:count]])


@pytest.mark.parametrize("space", [pytest.param(Euclidean(2), marks=pytest.mark.heavy), Sphere(3)], ids=str)
def test_dual_finds_three_bumps_of_different_concentrations(space):
    """The KL divergence falls to less than 0.02 nats; the base measure has 0.47. The heaviest of the neurons near each centre has the
    teacher's concentration within a factor of 2."""
    feature, nodes = ScaledBump(space), quadrature(space)
    theta = np.concatenate([CENTRES[space], np.log(CONCENTRATIONS)[:, None]], axis=1)
    teacher = Shallow(feature, jnp.array(theta, jnp.float32), jnp.full(3, -9.0))
    data = samples_of(space, teacher, 2000)
    assert data.points.shape[0] == 2000 and float(jnp.min(teacher(nodes.points))) > -4
    method = Dual(space, feature, neurons=32, signs="all_negative")
    rates = method.rates._replace(particle_step=0.02, radius=9.0)
    state = start(jax.random.key(1), method, rates, data)
    first = divergence(nodes, teacher, method.energy(state, rates, data))
    for i in range(300):
        state, _ = step(jax.random.fold_in(jax.random.key(2), i), method, state, rates, data)
    assert divergence(nodes, teacher, method.energy(state, rates, data)) < 0.02 < 0.2 < first
    positions, weights = np.asarray(state.atoms.positions), np.exp(state.atoms.log_weights)
    apart = np.linalg.norm(positions[:, None, :-1] - CENTRES[space][None], axis=2)
    near = np.argmin(apart, axis=1)
    for i, k in enumerate(CONCENTRATIONS):
        heaviest = np.argmax(np.where(near == i, weights, 0))
        assert apart[heaviest, i] < 0.2 and abs(positions[heaviest, -1] - np.log(k)) < np.log(2)
