"""The experiment on the two limits: what it measures with, against NumPy and closed forms; from end to end; and its bad settings."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal.finite_volume import cells
from dualebm.measures import Atoms, Samples
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual
from dualebm.methods.mean_field import MeanField
from dualebm.spaces import Sphere
from experiments.mean_field import matching, measured
from experiments.mean_field.__main__ import Settings, main


@pytest.mark.parametrize("space", [Sphere(2), Sphere(3)])
def test_the_test_functions_are_harmonics(space):
    """Their mean is 0, degree 1 and 2 are orthogonal, and there are d + (d - 1)(d + 2) / 2 of them."""
    grid, d = cells(space, 2000), space.dimension
    values = np.asarray(measured.harmonics(jnp.asarray(grid.centres, jnp.float32)))
    assert values.shape[1] == d + (d - 1) * (d + 2) // 2 == np.linalg.matrix_rank(values)
    np.testing.assert_allclose(grid.shares @ values, 0, atol=2e-3)
    np.testing.assert_allclose(values[:, :d].T @ (grid.shares[:, None] * values[:, d:]), 0, atol=2e-3)


def test_cells_and_particles_are_measured_alike():
    """Integrals and densities of particles and neurons that are put at the centres of the cells, as many as the masses say."""
    counts, plus = np.arange(8) % 3 + 1, np.array([1, 0, 2, 0, 1, 3, 0, 1])
    minus = plus[::-1].copy()
    method, centres = MeanField(Sphere(2), cells=8, neuron_cells=8), jnp.asarray(cells(Sphere(2), 8).centres, jnp.float32)
    data = Samples(centres)
    state = method.init(jax.random.key(0), method.rates, data)
    gamma = jnp.asarray(np.stack([plus, minus]) / 16, jnp.float32)
    state = state._replace(nu=jnp.asarray(counts / counts.sum(), jnp.float32), gamma=gamma)
    particles, neurons = np.repeat(np.arange(8), counts), np.concatenate([np.repeat(np.arange(8), n) for n in (plus, minus)])
    system = Dual(Sphere(2), neurons=16, particles=len(particles), noise="independent")
    atoms = Atoms(centres[neurons], jnp.zeros(16), jnp.where(jnp.arange(16) < 8, 1.0, -1.0))
    other = system.init(jax.random.key(0), system.rates, data)._replace(columns=centres[particles].T, atoms=atoms)
    for metric in (measured.of_particles, measured.of_neurons, measured.Densities(4)):
        in_cells, in_particles = (np.asarray(metric(None, Iterate(*one, None, data))) for one in ((method, state), (system, other)))
        np.testing.assert_allclose(in_particles, in_cells, atol=1e-6)
    densities = measured.Densities(4)(None, Iterate(method, state, None, data))
    np.testing.assert_allclose(densities[0], 4 * counts.reshape(4, 2).sum(axis=1) / counts.sum(), rtol=1e-5)
    angle = 2 * np.pi * np.arange(8) / 8
    expected = (plus - minus) @ np.stack([np.cos(angle), np.sin(angle)], axis=1) / 16
    np.testing.assert_allclose(measured.of_neurons(None, Iterate(method, state, None, data))[:2], expected, atol=1e-6)


def test_slopes_have_the_error_of_least_squares():
    """Against `numpy.polyfit` with its covariance."""
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    y = x**-0.5 * np.exp(0.1 * np.array([1.0, -1.0, 0.5, 0.3, -0.7]))
    (slope, constant), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    np.testing.assert_allclose(measured.fitted_slope(x, y), (slope, np.sqrt(covariance[0, 0]), constant), rtol=1e-10)


def test_the_clock_of_restarts():
    """A particle that moves s in an iteration after a restart with probability p_R has the mean age s / p_R: times the neuron step, s."""
    rates = matching.restarting(20, 50, clock=True)
    ages = np.arange(1, 4000)
    age = rates.particle_step * np.sum(ages * rates.restart_probability * (1 - rates.restart_probability) ** (ages - 1))
    assert age * rates.transport_step == pytest.approx(rates.particle_step, rel=1e-6)
    paper = matching.restarting(20, 50, clock=False)
    assert paper.restart_probability == rates.restart_probability and paper.transport_step == pytest.approx(20 * 0.5 / 50)


def test_data_are_where_all_grids_have_a_centre():
    for count in (256, 512):
        centres = cells(Sphere(2), count).centres
        distance = np.abs(np.asarray(measured.drawn_data(count).points)[:, None] - centres[None]).max(axis=2).min(axis=1)
        assert distance.max() < 1e-6
    with pytest.raises(ValueError, match="count is 100; it must be a multiple of 256"):
        measured.drawn_data(100)




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(only=("torus",)), "only is 'torus'"),
        (dict(seeds=1), "seeds is 1; it must be an integer of at least 2"),
        (dict(sizes=1), "sizes is 1; it must be an integer of at least 2"),
        (dict(first_seed=-1), "first_seed is -1"),
    ],
)
def test_bad_settings(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()
