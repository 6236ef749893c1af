"""log Z with what is known of its error, log densities of rows, and the files of a model."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from dualebm import bootstrap, model, model_files
from dualebm._internal import files
from dualebm.base_measures import Flat, Gaussian
from dualebm.bootstrap import Replicates
from dualebm.data import tables, targets
from dualebm.data.preparation import Preparation
from dualebm.energies.files import spell
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
    model_files.save(tmp_path, Model(SHALLOW, preparation, by_quadrature, 0.1), {"data": "a.csv"})
    assert model_files.load(tmp_path).log_partition == by_quadrature
    model_files.save(tmp_path, Model(SHALLOW, preparation, ESTIMATE, 0.1), {"data": "a.csv"})
    loaded = model_files.load(tmp_path)
    assert loaded.preparation[:4] == preparation[:4] and loaded.log_partition == ESTIMATE
    assert loaded.particle_step == 0.1 and loaded.energy.feature == ReLU()
    assert np.array_equal(loaded.energy.coefficients, SHALLOW.coefficients)
    for name in ("mean", "scale"):
        before, after = getattr(preparation, name), getattr(loaded.preparation, name)
        assert before is after is None or np.array_equal(before, after)
    header = model_files.read(tmp_path)
    assert header["precision"] == 32 and header["data"] == "a.csv"


def test_damaged_models_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no fitted model"):
        model_files.read(tmp_path)
    model_files.save(tmp_path, Model(SHALLOW, Preparation(Sphere(3)), ESTIMATE, 0.1), {})
    path = tmp_path / "model.json"
    header = json.loads(path.read_text())
    del header["sha256"]
    plane = spell(Euclidean(3))
    fields = header["space"]["fields"]
    for change, message in (
        ({"kind": "run"}, "holds 'run'; it must hold 'model'"),
        ({"format": 99}, "has format version 99; this version of dualebm reads 3: install a newer dualebm"),
        ({"format": 2}, "has format version 2; this version of dualebm reads 3: write it again, or read it with the version"),
        ({"format": None}, "has format version None; .*: write it again"),
        ({"space": {"name": "Klein", "fields": {}}}, "model.json is corrupt .'Klein' is the name of no feature"),
        ({"space": {"name": ["Sphere"], "fields": {}}}, r"model.json is corrupt .\['Sphere'\] is the name of no feature"),
        ({"space": {"name": "Sphere", "fields": 3.5}}, "the fields of Sphere are 3.5; they must be base, dimension"),
        ({"space": {"name": "Sphere", "fields": {"dimension": 3}}}, "the fields of Sphere are dimension; they must be base, dimension"),
        ({"space": {"name": "Sphere", "fields": {**fields, "code": "x"}}}, "the fields of Sphere are base, code, dimension"),
        ({"space": {"name": "Sphere", "fields": {**fields, "dimension": "x"}}}, "dimension is 'x'"),
        ({"space": {"name": "Gaussian", "fields": {"scale": None}}}, "model.json is corrupt .scale is None; it must be a positive number"),
        ({"space": "sphere"}, "model.json is corrupt .TypeError: "),
        ({"space": spell(Sphere(2))}, "model.json is corrupt "),
        ({"columns": ["a", "b"]}, r"model.json is corrupt .columns is \['a', 'b'\]; it must list 3 different names"),
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
        ({"mean": [0, math.nan, 0], "scale": [1, 1, 1], "space": plane}, "must be 3 finite numbers each"),
        ({"mean": ["x", 0, 0], "scale": [1, 1, 1], "space": plane}, "model.json is corrupt .could not convert"),
        ({"log_partition": {"value": 1.0}}, "model.json is corrupt .TypeError"),
        ({"log_partition": {**header["log_partition"], "value": float("nan")}}, "log_partition.value is nan; it must be finite"),
        ({"log_partition": {**header["log_partition"], "value": 10**400}}, "model.json is corrupt .OverflowError"),
        ({"log_partition": {**header["log_partition"], "standard_error": math.inf}}, "log_partition.standard_error is inf"),
        ({"log_partition": {**header["log_partition"], "draws": None}}, "log_partition.effective_sample_size and draws are null"),
        ({"log_partition": {**header["log_partition"], "doubt": True}}, "log_partition.doubt is True"),
        ({"log_partition": {**header["log_partition"], "method": "guess"}}, "log_partition.method is 'guess'"),
        ({"log_partition": {**header["log_partition"], "value": True}}, "log_partition.value is True"),
        ({"log_partition": {**header["log_partition"], "standard_error": None}}, "log_partition.standard_error is None"),
        ({"log_partition": 3}, "model.json is corrupt .TypeError"),
        ({"particle_step": -1.0}, "particle_step is -1.0"),
        ({"replicates": 2.0}, "files is .*it must state the SHA-256 of energy.npz and replicates.npz"),
        ({"replicates": -1}, "files is .*it must state the SHA-256 of energy.npz and replicates.npz"),
        ({"replicates": False}, "replicates is False; it must be an integer"),
        ({"files": None}, "files is None; it must state the SHA-256 of energy.npz"),
        ({"files": {"energy.npz": "0"}}, "energy.npz is not the file that model.json was written with .its SHA-256 differs"),
        ({"precision": 64}, "precision is 64, and the energy has 32 bits"),
        ({"precision": 16}, "model.json is corrupt: precision is 16; it must be 32 or 64"),
    ):
        write(path, {**header, **change})
        with pytest.raises(ValueError, match=message) as caught:
            model_files.load(tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    for name in ("scale", "latlon", "columns", "particle_step", "replicates"):
        write(path, {key: value for key, value in header.items() if key != name})
        with pytest.raises(ValueError, match=rf"model.json is corrupt .KeyError: '{name}'"):
            model_files.load(tmp_path)
    for content, message in (
        (path.read_bytes()[:40], "model.json is truncated or corrupt"), (b"[" * 100_000, "truncated or corrupt"),
        (b"null", "holds None"), (json.dumps(header).encode(), "it states no SHA-256, as files of earlier versions"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            model_files.load(tmp_path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def write(path, header):
    """Writes `model.json` with a digest that is right."""
    path.write_text(json.dumps({**header, "sha256": files.digest(header)}))


def test_a_file_of_a_model_that_was_changed_is_refused(tmp_path):
    many = jax.vmap(lambda weight: Shallow(ReLU(), jnp.eye(3), weight * jnp.ones(3)))(jnp.ones(2))
    replicates = Replicates(many, (Sphere(3).base, Sphere(3).base), np.array([0.5, 0.25]))
    fitted = Model(SHALLOW, Preparation(Sphere(3)), ESTIMATE, 0.125, replicates)
    model_files.save(tmp_path, fitted, {"data": "a.csv"})
    assert model_files.load(tmp_path).replicates.log_partition.tolist() == [0.5, 0.25]
    stored = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name for path in stored) == ["energy.npz", "model.json", "replicates.npz"]
    header = stored[tmp_path / "model.json"]
    changes = [(tmp_path / "model.json", header.replace(old, new)) for old, new in ((b"0.125", b"0.135"), (b"a.csv", b"b.csv"))]
    for path, content in stored.items():
        if path.suffix == ".npz":
            changes.append((path, content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]))
    for path, content in changes:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="SHA-256") as caught:
            model_files.load(tmp_path)
        assert str(path) in str(caught.value)
        path.write_bytes(stored[path])
    with np.load(tmp_path / "replicates.npz") as archive:
        arrays = dict(archive)
    for name, change, message in (
        ("log_partition", lambda a: a * math.nan, "log_partition has NaN"),
        ("positions", lambda a: a[:, :1], r"positions is float32 of shape \(2, 1, 3\); it must be float32 of shape \(2, 3, 3\)"),
        ("coefficients", lambda a: a.astype(float), "coefficients is float64 of shape"),
        ("column", lambda a: np.array([7]), r"column is int64 of shape \(1,\); it must be int64 of shape \(0,\)"),
        ("places", lambda a: np.array([0]), r"column is int64 of shape \(0,\); it must be int64 of shape \(1,\)"),
    ):
        np.savez(tmp_path / "changed.npz", **{**arrays, f"leaf['{name}']": change(arrays[f"leaf['{name}']"])})
        with pytest.raises(ValueError, match=f"changed.npz is corrupt .ValueError: {message}"):
            bootstrap.load(tmp_path / "changed.npz", Sphere(3), SHALLOW)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path):
    broken = SHALLOW.__class__(ReLU(), SHALLOW.positions, SHALLOW.coefficients * jnp.nan)
    for fitted, message in (
        (Model(broken, Preparation(Sphere(3)), ESTIMATE, 0.1), "energy is a Shallow that no file holds: coefficients has NaN"),
        (Model(SHALLOW, Preparation(Sphere(3)), ESTIMATE._replace(value=math.nan), 0.1), "log_partition.value is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            model_files.save(tmp_path, fitted, {})
    assert not list(tmp_path.iterdir())
