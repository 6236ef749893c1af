"""Files: what is written comes back, and what is damaged, foreign or of another version is refused."""

import io
import json
import zipfile
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm import store
from dualebm.energy import Energy, Shallow
from dualebm.features import Bump, Custom, ReLU, Softplus
from dualebm.spaces import Euclidean, Sphere, Torus


class State(NamedTuple):
    particles: jax.Array
    inner: dict
    step: jax.Array
    key: jax.Array


def a_state(dtype=jnp.float32):
    particles = jax.random.normal(jax.random.key(0), (5, 3), dtype)
    inner = {"log/weights": jnp.array([-jnp.inf, 0.5], dtype), "flag": jnp.array([True, False])}
    return State(particles, inner, jnp.int32(7), jax.random.split(jax.random.key(3), 2))


def leaves(tree):
    return [jax.random.key_data(x) if store.is_key(x) else x for x in jax.tree.leaves(tree)]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_comes_back(tmp_path, dtype):
    with jax.enable_x64(dtype == np.float64):
        state = a_state(dtype)
        store.save_state(tmp_path / "s.npz", state)
        like = eqx.filter_eval_shape(lambda: a_state(dtype))
        for given in (state, like):
            loaded = store.load_state(tmp_path / "s.npz", given)
            assert_same(loaded, state)
            assert loaded.key.dtype == state.key.dtype
        with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
            assert archive["leaf.key"].dtype == np.uint32
            assert json.loads(str(archive["header"]))["format"] == store.FORMAT


def test_a_state_of_other_shapes_is_refused(tmp_path):
    state = a_state()
    path = tmp_path / "s.npz"
    store.save_state(path, state)
    with pytest.raises(
        ValueError, match=r"\.particles is float32 of shape \(5, 3\) there and float32 of shape \(6, 3\) here"
    ):
        store.load_state(path, state._replace(particles=jnp.zeros((6, 3))))
    with pytest.raises(ValueError, match=r"\.step is int32 of shape \(\) there and float32 of shape \(\) here"):
        store.load_state(path, state._replace(step=jnp.float32(0)))
    with pytest.raises(ValueError, match=r"\.inner\['more'\] is missing there and float32"):
        store.load_state(path, state._replace(inner={**state.inner, "more": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"\.inner\['flag'\] is bool of shape \(2,\) there and missing here"):
        store.load_state(path, state._replace(inner={"log/weights": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"\.key is key<fry> of shape \(2,\) there and uint32"):
        store.load_state(path, state._replace(key=jnp.zeros((2, 2), jnp.uint32)))


def test_settings_that_differ_are_named(tmp_path):
    path = tmp_path / "s.npz"
    store.save_state(path, a_state(), {"every": 10, "rates": {"radius": 10.0}})
    assert_same(store.load_state(path, a_state(), {"every": 10, "rates": {"radius": 10.0}}), a_state())
    with pytest.raises(ValueError, match=r"s\.npz is of another run: rates\.radius is 10\.0 there and 5\.0 here"):
        store.load_state(path, a_state(), {"every": 10, "rates": {"radius": 5.0}})


def test_damage_is_noticed_at_every_byte(tmp_path):
    """A checkpoint with one byte changed, or cut short, is refused; or, where no array lies there, loads the same."""
    state, path = a_state(), tmp_path / "s.npz"
    store.save_state(path, state)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(bytes(damaged))
        try:
            assert_same(store.load_state(path, state), state)
        except ValueError:
            refused += 1
    assert refused > len(whole) // 3 // 2
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"s\.npz is truncated or corrupt"):
            store.load_state(path, state)


def test_files_of_another_kind_or_version_are_refused(tmp_path):
    path = tmp_path / "s.npz"
    for header, message in (
        ({"kind": "state", "format": 99}, "has format version 99; this version of dualebm reads 1"),
        ({"kind": "energy", "format": 1}, "holds 'energy'; it must hold 'state'"),
        ([], "holds None; it must hold 'state'"),
    ):
        np.savez(path, header=np.array(json.dumps(header)))
        with pytest.raises(ValueError, match=message):
            store.load_state(path, a_state())
    np.savez(path, x=np.zeros(2))
    with pytest.raises(ValueError, match="truncated or corrupt"):
        store.load_state(path, a_state())
    with pytest.raises(FileNotFoundError):
        store.load_state(tmp_path / "none.npz", a_state())


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (("header", json.dumps({"kind": "state", "format": 1, "keys": {}})), ("leaf.x", Bomb())):
            buffer = io.BytesIO()
            np.save(buffer, np.array(value, object if name != "header" else None), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.load_state(path, {"x": jnp.zeros(())})


def test_a_file_is_replaced_whole(tmp_path):
    """One who opened the old file reads the old file to its end."""
    path = tmp_path / "s.npz"
    store.save_state(path, a_state())
    before = path.read_bytes()
    with path.open("rb") as file:
        store.save_state(path, a_state()._replace(step=jnp.int32(8)))
        assert file.read() == before != path.read_bytes()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    store.save_state(path, a_state())
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"cannot write .*s\.npz: No space left on device") as caught:
        store.save_state(path, a_state()._replace(step=jnp.int32(8)))
    assert caught.value.errno == 28
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s.npz"]


# -- results ----------------------------------------------------------------------------------------

VARIABLES = {
    "kl": store.Variable((), "float32", {"units": "nat", "long_name": "KL(teacher, student)"}),
    "weights": store.Variable((4,), "float64", {}),
    "diverged": store.Variable((), "int32", {}),
}


def a_store(folder, lanes=5, records=7, chunk=(2, 3), **changes):
    given = dict(coordinates={"radius": np.linspace(1, 2, lanes)}, attributes={"settings": {"every": 10}, "none": None})
    store.create_results(folder, np.arange(records) * 10, VARIABLES, lanes=lanes, chunk=chunk, **{**given, **changes})


def some_records(lanes, records):
    values = np.random.default_rng(0).normal(size=(lanes, records, 4))
    return {"kl": values[..., 0].astype("float32"), "weights": values, "diverged": np.zeros((lanes, records), "int32")}


def test_a_sweep_is_written_by_region_on_whole_chunks(tmp_path):
    a_store(tmp_path)
    found = store.open_results(tmp_path)
    assert dict(found.sizes) == {"lane": 5, "step": 7, "weights_0": 4}
    assert found.step.values.tolist() == list(range(0, 70, 10)) and found.lane.values.tolist() == [0, 1, 2, 3, 4]
    assert "radius" in found.coords and found.radius.dims == ("lane",)
    assert np.isnan(found.kl).all() and np.isnan(found.weights).all() and (found.diverged == -1).all()
    assert found.kl.attrs == VARIABLES["kl"].attributes and found.attrs["settings"] == {"every": 10}

    expected = some_records(5, 7)
    lanes = {name: values[2:4, 3:6] for name, values in expected.items()}
    store.write_results(tmp_path, lanes, lane=2, record=3)
    store.write_results(tmp_path, {name: values[4:, 6:] for name, values in expected.items()}, lane=4, record=6)
    found = store.open_results(tmp_path).load()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].values[2:4, 3:6], values[2:4, 3:6])
        np.testing.assert_array_equal(found[name].values[4:, 6:], values[4:, 6:])
    assert np.isfinite(found.kl).sum() == 6 + 1 and (found.diverged == 0).sum() == 7

    for start, size in ((1, 3), (3, 2), (0, 4)):
        with pytest.raises(ValueError, match="is not made of whole chunks of 3"):
            store.write_results(tmp_path, {"kl": np.zeros((2, size), "float32")}, lane=0, record=start)
    with pytest.raises(ValueError, match=r"\[1, 3\) on axis 0 is not made of whole chunks of 2"):
        store.write_results(tmp_path, {"kl": np.zeros((2, 3), "float32")}, lane=1)
    xarray.testing.assert_identical(store.open_results(tmp_path).load(), found)


def test_a_store_is_preallocated_without_memory(tmp_path):
    a_store(tmp_path, lanes=1_000_000, records=10_001, chunk=(512, 100), coordinates=None)
    store.write_results(tmp_path, {"kl": np.ones((512, 100), "float32")}, lane=512_000, record=9_900)
    found = store.open_results(tmp_path)
    assert found.kl.shape == (1_000_000, 10_001)
    assert float(found.kl[512_100, 9_950]) == 1 and np.isnan(found.kl[0, 0])


def test_netcdf_holds_the_same(tmp_path):
    a_store(tmp_path)
    store.write_results(tmp_path, {name: v[:, :3] for name, v in some_records(5, 3).items()})
    store.to_netcdf(tmp_path, tmp_path / "results.nc")
    found, there = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf"), store.open_results(tmp_path).load()
    xarray.testing.assert_equal(found, there)
    assert found.kl.attrs == there.kl.attrs and found.diverged.dtype == np.int32
    assert json.loads(found.attrs["settings"]) == {"every": 10} and json.loads(found.attrs["none"]) is None
    with pytest.raises(FileNotFoundError, match="holds no results"):
        store.to_netcdf(tmp_path / "empty", tmp_path / "other.nc")
    with pytest.raises(OSError, match="cannot write"):
        store.to_netcdf(tmp_path, tmp_path / "results.nc" / "x.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.nc", "results.zarr"]


# -- energies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feature, width",
    [
        (ReLU(), 3),
        (ReLU(power=2, bias=True), 4),
        (Softplus(sharpness=3.5), 3),
        (Bump(Torus(3, period=2.0), 5.0), 3),
        (Bump(Euclidean(3, scale=None)), 3),
    ],
)
def test_a_shallow_energy_comes_back(tmp_path, feature, width):
    energy = Shallow(feature, jax.random.normal(jax.random.key(0), (4, width)), jnp.arange(4.0))
    store.save_energy(tmp_path / "e.npz", energy)
    for given in (None, feature):
        loaded = store.load_energy(tmp_path / "e.npz", given)
        assert loaded.feature == feature and type(loaded) is Shallow
        x = jax.random.normal(jax.random.key(1), (6, 3))
        np.testing.assert_array_equal(loaded(x), energy(x))
    with pytest.raises(ValueError, match=r"feature\.name is .* there and 'Bump' here|feature\.fields\.concentration"):
        store.load_energy(tmp_path / "e.npz", Bump(Sphere(3), 7.0))


def test_a_custom_feature_is_passed_in_and_never_stored(tmp_path):
    feature = Custom(lambda x, theta: jnp.cos(jnp.dot(x, theta)), Sphere(3))
    energy = Shallow(feature, jnp.eye(3), jnp.ones(3))
    path = tmp_path / "e.npz"
    store.save_energy(path, energy)
    with pytest.raises(ValueError, match=r"feature is None; it must be the Custom that .*e\.npz was saved with"):
        store.load_energy(path)
    with pytest.raises(ValueError, match=r"feature\.fields\.parameters\.fields\.dimension is 3 there and 2 here"):
        store.load_energy(path, Custom(feature.function, Sphere(2)))
    assert_same(store.load_energy(path, feature), energy)
    assert b"lambda" not in path.read_bytes() and b"cos" not in path.read_bytes()


class Mixed(Energy):
    network: eqx.nn.MLP
    stiffness: float
    name: str = eqx.field(static=True, default="mixed")

    def __call__(self, x):
        return self.stiffness * jax.vmap(self.network)(x)


def test_any_energy_loads_into_one_like_it(tmp_path):
    def build(seed, width=4):
        return Mixed(eqx.nn.MLP(3, "scalar", width, 1, key=jax.random.key(seed)), 0.5 + seed)

    energy, path, x = build(0), tmp_path / "e.npz", jnp.ones((2, 3))
    store.save_energy(path, energy)
    loaded = store.load_energy(path, like=build(1))
    np.testing.assert_array_equal(loaded(x), energy(x))
    assert loaded.stiffness == 0.5 and isinstance(loaded.stiffness, float)
    with pytest.raises(ValueError, match="like is None"):
        store.load_energy(path)
    with pytest.raises(ValueError, match=r"\.network\.layers\[0\]\.weight is float32 of shape \(4, 3\) there and"):
        store.load_energy(path, like=build(1, width=5))
    with pytest.raises(ValueError, match=r"like is a Shallow; .* holds a Mixed"):
        store.load_energy(path, like=Shallow(ReLU(), jnp.eye(3), jnp.ones(3)))


def test_float64_energies_are_not_rounded(tmp_path):
    with jax.enable_x64(True):
        energy = Shallow(ReLU(), jnp.eye(3), jnp.array([0.1, 0.2, 0.3]))
        store.save_energy(tmp_path / "e.npz", energy)
        assert_same(store.load_energy(tmp_path / "e.npz"), energy)
    with jax.enable_x64(False), pytest.raises(ValueError, match="set JAX_ENABLE_X64=1"):
        store.load_energy(tmp_path / "e.npz")


# -- what a run is ----------------------------------------------------------------------------------


def test_descriptions_tell_settings_apart():
    class Metric(eqx.Module):
        points: jax.Array
        units: str = eqx.field(static=True, default="nat")

    def scaled(factor):
        return lambda step, rates: factor * step

    pairs = [
        (Sphere(3), Sphere(4)),
        (Sphere(3), Torus(3)),
        (Metric(jnp.zeros(2)), Metric(jnp.ones(2))),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2, np.float32), np.zeros(2)),
        (scaled(0.1), scaled(0.2)),
        (jax.jit(scaled(0.1)), jax.jit(scaled(0.2))),
        (lambda x: 0.5 * x, lambda x: 0.25 * x),
        (jax.tree_util.Partial(scaled, 0.1), jax.tree_util.Partial(scaled, 0.2)),
        (jax.random.key(0), jax.random.key(1)),
        (Custom(jnp.dot, Sphere(3)), Custom(jnp.vdot, Sphere(3))),
    ]
    for a, b in pairs:
        described = store.describe({"it": a}), store.describe({"it": b})
        assert json.loads(json.dumps(described[0])) == described[0] == store.describe({"it": a})
        assert "0x" not in json.dumps(described)
        assert store.differences(*described) != []
        assert store.differences(described[0], described[0]) == []


def test_differences_are_counted_beyond_four():
    there, here = dict.fromkeys("abcdef", 0), dict.fromkeys("abcdef", 1)
    with pytest.raises(ValueError, match=r"a is 0 there and 1 here; .*; d is 0 there and 1 here; and 2 more; give"):
        store.check_settings("folder x", there, here)


def test_provenance_names_versions_and_revision():
    found = store.provenance()
    assert found["versions"]["jax"] == jax.__version__ and found["versions"]["python"].startswith("3.")
    assert found["backend"] == jax.default_backend() and found["device_count"] == jax.device_count()


def test_provenance_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "__file__", str(tmp_path / "store.py"))
    assert store.provenance()["git_revision"] is None
    monkeypatch.setenv("PATH", "")
    assert store.provenance()["git_revision"] is None
