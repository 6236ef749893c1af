"""Cells, the fluxes between them, and the mean-field equations as the limit of many neurons and particles (Proposition 2)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal.finite_volume import cells
from dualebm.features import Bump, ReLU, ScaledBump
from dualebm.measures import Samples
from dualebm.methods.dual import DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import simulate, start, step
from tests import oracles


def points_of(space, count, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, Torus):
        return rng.uniform(size=(count, 1)) * space.period
    return oracles.normalise(rng.normal(size=(count, space.dimension)))


def data_of(space, count=40, seed=0, dtype=np.float64):
    if isinstance(space, Torus):
        points = (0.1 * np.random.default_rng(seed).normal(size=(count, 1)) + 0.3) % space.period
    else:
        points = np.random.default_rng(seed).normal(size=(count, space.dimension))
        points[:, 0] += 1
        points = oracles.normalise(points)
    return Samples(jnp.array(points, dtype))


@partial(jax.jit, static_argnums=0)
def later(method, state, rates, data):
    """The state after 40 steps."""
    return simulate(jax.random.key(0), method, state, rates, data, steps=40, every=20, metrics={})[0]


def moved(method, rates, **changes):
    """What a step of these rates makes of a state, from one that has these values."""
    data = data_of(method.space)
    state = start(jax.random.key(0), method, rates, data)._replace(**{name: jnp.array(value) for name, value in changes.items()})
    return jax.device_get(step(jax.random.key(0), method, state, rates, data)[0])


@pytest.mark.parametrize(("space", "count", "tolerance"), [(Sphere(2), 200, 1e-3), (Torus(1, 3.0), 200, 1e-3), (Sphere(3), 1000, 0.01)])
def test_differences_over_faces_make_the_dirichlet_form(space, count, tolerance):
    """E |grad u|^2 of u a wave or a coordinate, and what flows out of a cell flows into others."""
    found = cells(space, count)
    assert found.shares.sum() == pytest.approx(1) and found.shares.min() > 0.5 / count
    if isinstance(space, Torus):
        u, exact = np.sin(2 * np.pi * found.centres[:, 0] / 3), (2 * np.pi / 3) ** 2 / 2
    else:
        u, exact = found.centres[:, -1], {2: 1 / 2, 3: 2 / 3}[space.dimension]
    form = np.sum(found.conductance * (u[found.first] - u[found.second]) ** 2)
    assert form == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("space", [Sphere(2), pytest.param(Sphere(3), marks=pytest.mark.heavy), Torus(1)])
def test_points_are_in_the_cell_whose_centre_is_nearest(space, x64):
    method = MeanField(space, Bump(space), cells=50, neuron_cells=50)
    points, centres = points_of(space, 300), cells(space, 50).centres
    apart = points[:, None] - centres[None]
    far = np.abs(apart - np.rint(apart))[:, :, 0] if isinstance(space, Torus) else np.linalg.norm(apart, axis=2)
    found = np.asarray(jax.jit(method.cell_of)(points))
    np.testing.assert_array_equal(found, np.argmin(far, axis=1))


@pytest.mark.parametrize("space", [Sphere(2), Sphere(3)])
def test_the_gibbs_measure_stays_and_is_reached(space, x64):
    """Of an energy whose neurons stay."""
    method = MeanField(space, cells=60, neuron_cells=12, budget=False, substeps=20_000)
    points, neurons = method.grids
    gamma = np.random.default_rng(0).uniform(0, 0.6, (2, 12))
    f = np.maximum(points.centres @ neurons.centres.T, 0) @ (gamma[0] - gamma[1])
    assert np.ptp(f) > 0.3
    gibbs = points.shares * np.exp(-f) / np.sum(points.shares * np.exp(-f))
    rates = DualRates(20.0, 0.0, 0.0)
    for begin in (gibbs, np.eye(60)[7]):
        after = moved(method, rates, nu=begin, gamma=gamma)
        np.testing.assert_allclose(after.nu, gibbs, atol=1e-8 if begin is not gibbs else 1e-13)
        np.testing.assert_array_equal(after.gamma, gamma)


def test_heat_on_the_circle_has_the_order_two(x64):
    """cos(2 theta) decays as exp(-4 t)."""
    errors = []
    for count in (20, 40):
        method = MeanField(Sphere(2), cells=count, neuron_cells=4, substeps=5000)
        wave = 2 * method.grids[0].centres[:, 0] ** 2 - 1
        later = moved(method, DualRates(0.2, 0.0, 0.0), nu=(1 + 0.5 * wave) / count).nu  # as many neurons of each sign: no energy
        errors.append(np.abs(later * count - 1 - 0.5 * np.exp(-0.8) * wave).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_neurons_follow_the_gradient_of_the_witness(x64):
    """Where it is the cosine tan(theta / 2) falls as exp(-t) or, by their sign, grows so.

    The front of an upwind scheme spreads, its mean does not.
    """
    method = MeanField(Sphere(2), cells=8, neuron_cells=2000, budget=False, substeps=2000)
    centres = method.grids[1].centres
    turn = np.arctan2(centres[:, 1], centres[:, 0])
    start = np.exp(-0.5 * ((turn - 1) / 0.02) ** 2)
    nu = np.eye(8)[0]  # all at (1, 0): its phi less the cosine is what is observed
    observed = np.maximum(centres[:, 0], 0) - centres[:, 0]
    gamma = np.stack([start, start]) / start.sum()
    after = moved(method, DualRates(0.0, 0.5, 0.0), nu=nu, observed=observed, gamma=gamma).gamma
    for found, t in zip(after, (0.5, -0.5), strict=True):
        assert found.sum() == pytest.approx(1, abs=1e-12) and found.min() >= 0
        mean = np.arctan2(found @ centres[:, 1], found @ centres[:, 0])
        assert mean == pytest.approx(2 * np.arctan(np.tan(0.5) * np.exp(-t)), abs=3e-3)


@pytest.mark.parametrize(
    ("space", "feature"),
    [
        (Sphere(2), ReLU()),
        pytest.param(Sphere(3), ReLU(), marks=pytest.mark.heavy),
        pytest.param(Torus(1), Bump(Torus(1), 3.0), marks=pytest.mark.heavy),
    ],
)
def test_masses_are_kept_and_positive(space, feature, x64):
    method = MeanField(space, feature, cells=80, neuron_cells=60, substeps=800)
    rates = method.rates._replace(particle_step=0.002, radius=1.02, restart_probability=0.01, reaction_step=0.5)
    data = data_of(space)
    method.check(rates, data)
    state = jax.device_get(later(method, start(jax.random.key(0), method, rates, data), rates, data))
    assert state.nu.sum() == pytest.approx(1, abs=1e-12) and state.nu.min() > 0
    assert state.gamma.min() >= 0 and state.gamma.sum() == pytest.approx(1.02, abs=1e-12)  # at the radius


def test_neurons_see_the_particles_after_their_move():
    """The first reaction, from particles at the data: with F of the moved ones it is not 0. Restarts all, and without transport."""
    space, feature = Sphere(2), ReLU()
    centres = cells(space, 64).centres
    data = Samples(jnp.array(centres[:10], jnp.float32))
    method = MeanField(space, feature, cells=64, neuron_cells=32, budget=False)
    rates = DualRates(0.01, 0.0, 2.0, 1.0)
    begin = start(jax.random.key(0), method, rates, data)
    turned = begin._replace(nu=jnp.array(np.asarray(begin.nu)[::-1]))
    after, _ = step(jax.random.key(0), method, turned, rates, data)
    phi = np.maximum(centres @ cells(space, 32).centres.T, 0)
    witness = np.asarray(after.nu) @ phi - phi[:10].mean(axis=0)
    assert np.abs(witness).max() > 1e-3
    np.testing.assert_allclose(after.gamma, np.asarray(begin.gamma) * np.exp(2 * np.array([[1.0], [-1.0]]) * witness), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanField(Sphere(4)), "space is Sphere"),
        (lambda: MeanField(Euclidean(1), Bump(Euclidean(1))), "space is Euclidean"),
        (lambda: MeanField(Torus(1), ScaledBump(Torus(1))), "feature is ScaledBump.* which has no cells"),
        (lambda: MeanField(Sphere(2), signs="random"), "signs is 'random'"),
        (lambda: MeanField(Sphere(2), cells=3), "count is 3"),
        (lambda: MeanField(Sphere(2), substeps=0), "substeps is 0"),
    ],
)
def test_bad_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["particle_step", "transport_step"])
def test_steps_for_which_a_mass_could_become_negative_are_refused(name, x64):
    """The method takes enough substeps; far fewer are not enough."""
    method = MeanField(Sphere(2), cells=64, neuron_cells=64, substeps=1)
    rates = method.rates._replace(**{"particle_step": 1e-4, "transport_step": 1e-3, name: 0.3})
    with pytest.raises(ValueError, match=rf"{name} is 0.3; with 1 substeps it must be at most .* or substeps at least (\d+)") as error:
        method.check(rates, data_of(Sphere(2)))
    needed = int(str(error.value).split("at least ")[1].split(":")[0])
    MeanField(Sphere(2), cells=64, neuron_cells=64, substeps=needed).check(rates, data_of(Sphere(2)))
