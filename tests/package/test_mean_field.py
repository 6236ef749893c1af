"""Cells, the fluxes between them, and the mean-field equations as the limit of many neurons and particles (Proposition 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.cells import cells, nearest
from dualebm.features import Bump, ReLU
from dualebm.measures import Samples
from dualebm.methods import mean_field
from dualebm.methods.dual import DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.simulate import simulate
from dualebm.spaces import Euclidean, Sphere, Torus


def data_of(space, count=40, seed=0, dtype=float):
    if isinstance(space, Torus):
        return Samples((0.1 * jax.random.normal(jax.random.key(seed), (count, 1), dtype) + 0.3) % space.period)
    points = jax.random.normal(jax.random.key(seed), (count, space.dimension), dtype)
    points = points.at[:, 0].add(1.0)
    return Samples(points / jnp.linalg.norm(points, axis=1, keepdims=True))


@pytest.mark.parametrize(("space", "count", "tolerance"), [(Sphere(2), 200, 1e-3), (Torus(1, 3.0), 200, 1e-3), (Sphere(3), 2000, 0.01)])
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
    points = space.sample_base(jax.random.key(0), 300, float)
    centres = jnp.asarray(cells(space, 50).centres)
    expected = [int(jnp.argmin(jnp.stack([jnp.linalg.norm(space.log(c[None], x[None])) for c in centres]))) for x in points[:40]]
    np.testing.assert_array_equal(method.cell_of(points)[:40], expected)
    np.testing.assert_array_equal(method.cell_of(points), nearest(cells(space, 50), np.asarray(points), space))


@pytest.mark.parametrize("space", [Sphere(2), Sphere(3)])
def test_the_gibbs_measure_stays_and_is_reached(space, x64):
    found = cells(space, 100)
    f = jnp.asarray(3 * found.centres[:, 0] ** 2 - found.centres[:, 1])
    gibbs = jnp.asarray(found.shares) * jnp.exp(-f)
    gibbs = gibbs / gibbs.sum()
    np.testing.assert_allclose(mean_field._diffuse(found, gibbs, f, 0.1, 400), gibbs, rtol=1e-11)
    start = jnp.zeros(100).at[7].set(1.0)
    later = mean_field._diffuse(found, start, f, 60.0, 60_000)
    np.testing.assert_allclose(later, gibbs, atol=1e-8)


def test_heat_on_the_circle_has_the_order_two(x64):
    """cos(2 theta) decays as exp(-4 t)."""
    errors = []
    for count in (40, 80):
        found = cells(Sphere(2), count)
        wave = jnp.asarray(2 * found.centres[:, 0] ** 2 - 1)
        later = mean_field._diffuse(found, (1 + 0.5 * wave) / count, jnp.zeros(count), 0.2, 20_000)
        errors.append(float(jnp.abs(later * count - 1 - 0.5 * np.exp(-0.8) * wave).max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_transport_follows_the_gradient(x64):
    """On the circle, under the potential cos: tan(theta / 2) falls as exp(-t); the front of an upwind scheme spreads, its mean does not."""
    found, count = cells(Sphere(2), 2000), 2000
    at = np.arctan2(found.centres[:, 1], found.centres[:, 0])
    start = jnp.asarray(np.exp(-0.5 * ((at - 1) / 0.02) ** 2))
    moved = np.asarray(mean_field._carry(found, start / start.sum(), jnp.asarray(found.centres[:, 0]), 0.5, count))
    expected = 2 * np.arctan(np.tan(0.5) * np.exp(-0.5))
    assert moved.sum() == pytest.approx(1, abs=1e-12) and moved.min() >= 0
    assert float(np.arctan2(moved @ found.centres[:, 1], moved @ found.centres[:, 0])) == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize(
    ("space", "feature"),
    [
        (Sphere(2), ReLU()),
        pytest.param(Sphere(3), ReLU(), marks=pytest.mark.heavy),
        pytest.param(Torus(1), Bump(Torus(1), 3.0), marks=pytest.mark.heavy),
    ],
)
def test_masses_are_kept_and_positive(space, feature, x64):
    method = MeanField(space, feature, cells=150, neuron_cells=100, substeps=2000)
    rates = method.rates._replace(particle_step=0.002, radius=1.05, restart_probability=0.01, reaction_step=0.5)
    data = data_of(space)
    method.check(rates, data)
    state = method.init(jax.random.key(0), rates, data)
    state, _ = simulate(jax.random.key(0), method, state, rates, data, steps=60, every=30, metrics={})
    assert float(state.nu.sum()) == pytest.approx(1, abs=1e-12) and float(state.nu.min()) > 0
    assert float(state.gamma.min()) >= 0 and float(state.gamma.sum()) == pytest.approx(1.05, abs=1e-12)  # at the radius




def test_neurons_see_the_particles_after_their_move():
    """The first reaction, from particles at the data: with F of the moved ones it is not 0. Restarts all, and without transport."""
    space, feature = Sphere(2), ReLU()
    centres = np.asarray(cells(space, 64).centres)
    data = Samples(jnp.asarray(centres[:10], jnp.float32))
    method = MeanField(space, feature, cells=64, neuron_cells=32, budget=False)
    rates = DualRates(0.01, 0.0, 2.0, 1.0)
    begin = method.init(jax.random.key(0), rates, data)
    after = method.step(jax.random.key(0), begin._replace(nu=begin.nu[::-1]), rates, data)
    phi = np.maximum(centres @ np.asarray(cells(space, 32).centres).T, 0)
    witness = np.asarray(after.nu) @ phi - phi[:10].mean(axis=0)
    assert np.abs(witness).max() > 1e-3
    np.testing.assert_allclose(after.gamma, begin.gamma * np.exp(2 * np.array([[1.0], [-1.0]]) * witness), rtol=1e-5)




@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanField(Sphere(4)), "space is Sphere"),
        (lambda: MeanField(Euclidean(1), Bump(Euclidean(1))), "space is Euclidean"),
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
    """The number of substeps that is asked for is enough, and one that is far from it is not."""
    method = MeanField(Sphere(2), cells=64, neuron_cells=64, substeps=1)
    rates = method.rates._replace(**{"particle_step": 1e-4, "transport_step": 1e-3, name: 0.3})
    with pytest.raises(ValueError, match=rf"{name} is 0.3; with 1 substeps it must be at most .* or substeps at least (\d+)") as error:
        method.check(rates, data_of(Sphere(2)))
    needed = int(str(error.value).split("at least ")[1].split(":")[0])
    MeanField(Sphere(2), cells=64, neuron_cells=64, substeps=needed).check(rates, data_of(Sphere(2)))
