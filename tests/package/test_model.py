"""log Z with what is known of its error, the way of rows to the space and back, and the files of a model."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import model
from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z import estimate
from dualebm.log_z.estimate import LogPartitionEstimate, estimate_log_partition
from dualebm.log_z.quadrature import log_partition, sphere_quadrature
from dualebm.model import Model, from_space, log_densities, to_space
from dualebm.spaces import Euclidean, Sphere, Torus

SHALLOW = Shallow(ReLU(), jnp.eye(3), jnp.array([-4.0, 2.0, 1.0]))
FOUND = LogPartitionEstimate(0.5, 0.01, 900.0, 1000, 0.3, True)


class Well(Energy):
    """Flat but for a narrow well, deeper than it is improbable."""

    depth: float

    def __call__(self, x):
        return -self.depth * jnp.exp(-50 * jnp.sum((x - 1.5) ** 2, axis=1))


def test_quadrature_on_the_sphere_agrees_with_the_teacher():
    target = targets.teacher("s2_bimodal")
    points = targets.sample(jax.random.key(0), target, 4000)[0].points
    found = estimate_log_partition(jax.random.key(1), target.energy, target.space, points)
    assert abs(found.value - target.log_partition) < 5e-6 and found.trusted and found.draws is None
    assert 0 < found.standard_error < 1e-4
    assert found.kl_to_base == pytest.approx(target.kl_to_uniform, abs=5 * float(np.std(target.energy(points))) / 4000**0.5)
    assert found.summary().endswith("by quadrature")


def test_sampling_elsewhere_agrees_with_the_teacher(monkeypatch):
    monkeypatch.setattr(estimate, "DRAWS", 2**18)
    target = targets.teacher("s14_bimodal")
    points = targets.sample(jax.random.key(0), target, 1000)[0].points
    found = estimate_log_partition(jax.random.key(1), target.energy, target.space, points)
    assert abs(found.value - target.log_partition) < 5 * found.standard_error < 0.02
    assert found.trusted and found.draws == estimate.DRAWS and "NOT" not in found.summary()


def test_an_error_that_cannot_be_trusted_is_told(monkeypatch):
    monkeypatch.setattr(estimate, "DRAWS", 20_000)
    strong = Shallow(ReLU(), jnp.array(np.eye(15)[:1]), jnp.array([-60.0]))
    few = estimate_log_partition(jax.random.key(0), strong, Sphere(15), strong.positions)
    assert not few.trusted and few.effective_sample_size < estimate.SMALLEST_SAMPLE
    assert "NOT TO BE TRUSTED: the effective sample size is" in few.summary()
    inside = jnp.array(1.5 + 0.01 * np.random.default_rng(1).normal(size=(100, 8)))
    missed = estimate_log_partition(jax.random.key(0), Well(80.0), Euclidean(8), inside)
    assert missed.effective_sample_size > 19_000 and abs(missed.value) < 0.01  # no draw has seen the well
    assert not missed.trusted and missed.kl_to_base > 70
    shallow = estimate_log_partition(jax.random.key(0), Well(1.0), Euclidean(8), jnp.zeros((100, 8)))
    assert shallow.trusted


def test_rows_go_to_the_space_and_back():
    rows, mean, scale = np.array([[100.0, -3.0], [104.0, 5.0]]), np.array([102.0, 1.0]), np.array([2.0, 4.0])
    points = to_space(rows, Euclidean(2), "float32", mean=mean, scale=scale).points
    assert points.dtype == jnp.float32 and points.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert from_space(Model(SHALLOW, Euclidean(2), False, mean, scale, FOUND, 0.1), points).tolist() == rows.tolist()
    plain = Model(SHALLOW, Euclidean(2), False, None, None, FOUND, 0.1)
    assert from_space(plain, points).tolist() == points.tolist()
    with pytest.raises(ValueError, match=r"new.csv has 3 components; it must have 2"):
        to_space(np.zeros((4, 3)), Euclidean(2), "float32", mean=mean, scale=scale, name="new.csv")
    with pytest.raises(ValueError, match=r"new.csv has dtype int64"):
        to_space(np.zeros((4, 2), int), Euclidean(2), "float32", mean=mean, scale=scale, name="new.csv")
    with pytest.raises(ValueError, match=r"new.csv has shape \(2,\)"):
        to_space(np.zeros(2), Euclidean(2), "float32", mean=mean, scale=scale, name="new.csv")


def test_log_densities():
    points = jnp.array([[0.6, 0.8, 0.0], [0.0, -1.0, 0.0]])
    expected = -np.array([(-4 * 0.6 + 2 * 0.8) / 3, 0.0]) - 0.5
    on_sphere = log_densities(Model(SHALLOW, Sphere(3), False, None, None, FOUND, 0.1), points)
    assert list(on_sphere) == ["log_density_base"]
    np.testing.assert_allclose(on_sphere["log_density_base"], expected, rtol=1e-6)
    scaled = Model(SHALLOW, Euclidean(3), False, np.zeros(3), np.array([2.0, 3.0, 4.0]), FOUND, 0.1)
    found = log_densities(scaled, points)
    np.testing.assert_allclose(found["log_density_base"], expected, rtol=1e-6)
    lebesgue = expected - 0.5 - 1.5 * np.log(2 * np.pi) - np.log(24)
    np.testing.assert_allclose(found["log_density_lebesgue"], lebesgue, rtol=1e-6)


def test_mean_with_error():
    values = np.random.default_rng(0).normal(size=50)
    mean, error = model.mean_with_error(values, 0.3)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(np.sqrt(values.var(ddof=1) / 50 + 0.09))
    assert model.mean_with_error(values[:1]) == (pytest.approx(values[0]), None)


@pytest.mark.parametrize("space", [Sphere(3), Euclidean(3, Gaussian(2.0)), Euclidean(3, Flat()), Torus(3, period=2.0)])
def test_what_is_saved_is_loaded(tmp_path, space):
    scale = np.array([1.0, 2.0, 3.0]) / 3 if isinstance(space, Euclidean) else None
    saved = Model(SHALLOW, space, isinstance(space, Sphere), None if scale is None else scale / 7, scale, FOUND, 0.1)
    model.save(tmp_path, saved, {"data": "a.csv"})
    found = model.load(tmp_path)
    assert found.space == space and found.normalise == saved.normalise and found.log_partition == FOUND
    assert found.particle_step == 0.1 and found.energy.feature == ReLU()
    assert np.array_equal(found.energy.coefficients, SHALLOW.coefficients)
    if scale is not None:
        assert np.array_equal(found.scale, scale) and np.array_equal(found.mean, scale / 7)
    header = model.read(tmp_path)
    assert header["precision"] == 32 and header["data"] == "a.csv"


def test_damaged_models_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no fitted model"):
        model.read(tmp_path)
    model.save(tmp_path, Model(SHALLOW, Sphere(3), False, None, None, FOUND, 0.1), {})
    path = tmp_path / "model.json"
    header = json.loads(path.read_text())
    for change, message in (
        ({"kind": "run"}, "holds 'run'; it must hold 'model'"),
        ({"format": 99}, "has format version 99"),
        ({"space": {"name": "Klein", "fields": {}}}, "model.json is corrupt .KeyError: 'Klein'"),
        ({"log_partition": {"value": 1.0}}, "model.json is corrupt .TypeError"),
        ({"particle_step": -1.0}, "particle_step is -1.0"),
    ):
        path.write_text(json.dumps({**header, **change}))
        with pytest.raises(ValueError, match=message):
            model.load(tmp_path)
    path.write_text(json.dumps({name: value for name, value in header.items() if name != "scale"}))
    with pytest.raises(ValueError, match=r"model.json is corrupt .KeyError: 'scale'"):
        model.load(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"model.json is truncated or corrupt"):
        model.load(tmp_path)


def test_quadrature_nodes_suffice_for_a_strong_energy(x64):
    """The error that is told is at least the error against many more nodes."""
    theta = np.random.default_rng(0).normal(size=(8, 4))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    strong = Shallow(ReLU(bias=True), jnp.array(theta), jnp.array(100 * np.linspace(-1, 1, 8)))
    nodes = sphere_quadrature(Sphere(3), 900, jnp.float64)
    exact = float(eqx.filter_jit(log_partition)(strong, nodes))
    found = estimate_log_partition(jax.random.key(0), strong, Sphere(3), jnp.eye(3))
    assert abs(found.value - exact) < found.standard_error < 1e-3
