"""log Z with what is known of its error, log densities of rows, and the files of a model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from dualebm import model
from dualebm.base_measures import Flat, Gaussian
from dualebm.data import tables, targets
from dualebm.data.preparation import Preparation
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.estimate import LogPartitionEstimate, estimate_log_partition
from dualebm.model import Model, log_densities, log_densities_at
from dualebm.spaces import Euclidean, Sphere, Torus

SHALLOW = Shallow(ReLU(), jnp.eye(3), jnp.array([-4.0, 2.0, 1.0]))
ESTIMATE = LogPartitionEstimate(0.5, 0.01, 900.0, 1000, 0.3, "draws", 0.51, None)


def test_quadrature_on_the_sphere_agrees_with_the_teacher():
    target = targets.teacher("s2_bimodal")
    points = targets.sample(jax.random.key(0), target, 4000)[0].points
    found = estimate_log_partition(jax.random.key(1), target.energy, target.space, points)
    assert abs(found.value - target.log_partition) < 5e-6 and found.trusted and found.draws is None
    assert 0 < found.standard_error < 1e-4
    assert found.kl_to_base == pytest.approx(target.kl_to_uniform, abs=5 * float(np.std(target.energy(points))) / 4000**0.5)
    assert found.summary().endswith("by quadrature")


def test_log_densities():
    points = np.array([[0.6, 0.8, 0.0], [0.0, -1.0, 0.0]])
    expected = -np.array([(-4 * 0.6 + 2 * 0.8) / 3, 0.0]) - 0.5
    on_sphere = log_densities(Model(SHALLOW, Preparation(Sphere(3)), ESTIMATE, 0.1), points)
    assert list(on_sphere) == ["log_density_base", "log_density_area"]
    np.testing.assert_allclose(on_sphere["log_density_area"], expected - np.log(4 * np.pi), rtol=1e-6)
    on_torus = log_densities(Model(SHALLOW, Preparation(Torus(3, 2.0)), ESTIMATE, 0.1), np.abs(points))
    np.testing.assert_allclose(on_torus["log_density_lebesgue"], on_torus["log_density_base"] - 3 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(on_sphere["log_density_base"], expected, rtol=1e-6)
    mean, scale = np.array([1.0, -7.0, 0.5]), np.array([2.0, 3.0, 4.0])
    scaled = Model(SHALLOW, Preparation(Euclidean(3), ("a", "b", "c"), mean=mean, scale=scale), ESTIMATE, 0.1)
    lebesgue = expected - 0.5 - 1.5 * np.log(2 * np.pi) - np.log(24)
    rows = points * scale + mean
    frame = pandas.DataFrame({"c": rows[:, 2], "note": ["p", "q"], "b": rows[:, 1], "a": rows[:, 0]})
    for x in (rows, frame, tables.as_table(frame, ["a", "b", "c"])):
        values = log_densities(scaled, x)
        np.testing.assert_allclose(values["log_density_base"], expected, rtol=1e-6)
        np.testing.assert_allclose(values["log_density_lebesgue"], lebesgue, rtol=1e-6)
    at_points = log_densities_at(scaled, jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(at_points["log_density_lebesgue"], lebesgue, rtol=1e-6)
    with pytest.raises(ValueError, match="x lacks the columns 'c'; it must have 'a', 'b', 'c'"):
        log_densities(scaled, frame[["a", "b"]])


def test_mean_with_error():
    values = np.random.default_rng(0).normal(size=50)
    mean, error = model.mean_with_error(values, 0.3)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(np.sqrt(values.var(ddof=1) / 50 + 0.09))
    assert model.mean_with_error(values[:1]) == (pytest.approx(values[0]), None)


MEAN, SCALE = np.array([1.0, 2.0, 3.0]) / 7, np.array([1.0, 2.0, 3.0]) / 3


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(Sphere(3), normalise=True), Preparation(Sphere(3), ("lat", "lon"), latlon=True),
        Preparation(Euclidean(3, Gaussian(2.0)), ("a", "b", "ü"), mean=MEAN, scale=SCALE), Preparation(Euclidean(3, Flat())),
        Preparation(Torus(3, period=2.0), ("0", "1", "2")),
    ],
)  # fmt: skip
def test_what_is_saved_is_loaded(tmp_path, preparation):
    by_quadrature = ESTIMATE._replace(effective_sample_size=None, draws=None, method="quadrature", independent=None, doubt="too few nodes")
    model.save(tmp_path, Model(SHALLOW, preparation, by_quadrature, 0.1), {"data": "a.csv"})
    assert model.load(tmp_path).log_partition == by_quadrature
    model.save(tmp_path, Model(SHALLOW, preparation, ESTIMATE, 0.1), {"data": "a.csv"})
    loaded = model.load(tmp_path)
    assert loaded.preparation[:4] == preparation[:4] and loaded.log_partition == ESTIMATE
    assert loaded.particle_step == 0.1 and loaded.energy.feature == ReLU()
    assert np.array_equal(loaded.energy.coefficients, SHALLOW.coefficients)
    for name in ("mean", "scale"):
        before, after = getattr(preparation, name), getattr(loaded.preparation, name)
        assert before is after is None or np.array_equal(before, after)
    header = model.read(tmp_path)
    assert header["precision"] == 32 and header["data"] == "a.csv"


def test_damaged_models_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no fitted model"):
        model.read(tmp_path)
    model.save(tmp_path, Model(SHALLOW, Preparation(Sphere(3)), ESTIMATE, 0.1), {})
    path = tmp_path / "model.json"
    header = json.loads(path.read_text())
    plane = model.spell(Euclidean(3))
    for change, message in (
        ({"kind": "run"}, "holds 'run'; it must hold 'model'"),
        ({"format": 99}, "has format version 99; this version of dualebm reads 3: install a newer dualebm"),
        ({"format": 2}, "has format version 2; this version of dualebm reads 3: write it again, or read it with the version"),
        ({"format": None}, "has format version None; .*: write it again"),
        ({"space": {"name": "Klein", "fields": {}}}, "model.json is corrupt .KeyError: 'Klein'"),
        ({"space": "sphere"}, "model.json is corrupt .TypeError: "),
        ({"space": model.spell(Sphere(2))}, "model.json is corrupt "),
        ({"columns": ["a", "b"]}, r"model.json is corrupt .ValueError: columns is \['a', 'b'\]; it must list 3 different names"),
        ({"columns": ["a", "b", "a"]}, "it must list 3 different names"),
        ({"columns": "abc"}, "columns is 'abc'; it must list names"),
        ({"columns": [1, 2, 3]}, r"columns is \[1, 2, 3\]; it must list names"),
        ({"latlon": 1}, "latlon is 1 and normalise is False; they must be true or false"),
        ({"latlon": True, "normalise": True}, "latlon is True, normalise is True and space is Sphere"),
        ({"normalise": True, "space": plane}, "normalise is True and space is Euclidean"),
        ({"mean": [0, 0, 0]}, "mean and scale must both be given"),
        ({"mean": [0, 0, 0], "scale": [1, 1, 1]}, "mean and scale must both be given, on Euclidean space"),
        ({"mean": [0, 0, 0], "scale": [1, 1, 0], "space": plane}, "scales must be positive"),
        ({"mean": [0, 0], "scale": [1, 1], "space": plane}, "must be 3 finite numbers each"),
        ({"mean": ["x", 0, 0], "scale": [1, 1, 1], "space": plane}, "model.json is corrupt .ValueError"),
        ({"log_partition": {"value": 1.0}}, "model.json is corrupt .TypeError"),
        ({"log_partition": {**header["log_partition"], "value": float("nan")}}, "log_partition.value is nan; it must be finite"),
        ({"log_partition": {**header["log_partition"], "doubt": True}}, "log_partition.doubt is True"),
        ({"log_partition": {**header["log_partition"], "method": "guess"}}, "log_partition.method is 'guess'"),
        ({"log_partition": {**header["log_partition"], "value": True}}, "log_partition.value is True"),
        ({"log_partition": {**header["log_partition"], "standard_error": None}}, "log_partition.standard_error is None"),
        ({"log_partition": 3}, "model.json is corrupt .TypeError"),
        ({"particle_step": -1.0}, "particle_step is -1.0"),
        ({"precision": 64}, "precision is 64, and the energy has 32 bits"),
    ):
        path.write_text(json.dumps({**header, **change}))
        with pytest.raises(ValueError, match=message) as caught:
            model.load(tmp_path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for name in ("scale", "latlon", "columns", "particle_step"):
        path.write_text(json.dumps({key: value for key, value in header.items() if key != name}))
        with pytest.raises(ValueError, match=rf"model.json is corrupt .KeyError: '{name}'"):
            model.load(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"model.json is truncated or corrupt"):
        model.load(tmp_path)
