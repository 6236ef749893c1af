"""States and energies come back as they were written; what is damaged, foreign or of another version is refused."""

import io
import json
import zipfile
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal import files
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.files import load_energy, save_energy
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import MLP, ConvNet
from dualebm.energies.shallow import Shallow
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump, Custom, ReLU, ScaledBump, Softplus
from dualebm.kernels import BumpKernel, Embedding
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training import checkpoints


class State(NamedTuple):
    particles: jax.Array
    inner: dict
    step: jax.Array
    key: jax.Array


def a_state(dtype=jnp.float32):
    particles = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), dtype)
    inner = {"log/weights": jnp.array([-jnp.inf, 0.5], dtype), "flag": jnp.array([True, False])}
    return State(particles, inner, jnp.int32(7), jax.random.split(jax.random.key(3), 2))


def leaves(tree):
    return [jax.random.key_data(x) if files.is_key(x) else x for x in jax.tree.leaves(tree)]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_comes_back(tmp_path, dtype):
    with jax.enable_x64(dtype == np.float64):
        state = a_state(dtype)
        checkpoints.save_state(tmp_path / "s.npz", state)
        like = eqx.filter_eval_shape(lambda: a_state(dtype))
        for given in (state, like):
            loaded = checkpoints.load_state(tmp_path / "s.npz", given)
            assert_same(loaded, state)
            assert loaded.key.dtype == state.key.dtype
        with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
            assert archive["leaf.key"].dtype == np.uint32
            assert json.loads(str(archive["header"]))["format"] == files.FORMAT


def test_a_state_of_other_shapes_is_refused(tmp_path):
    state = a_state()
    path = tmp_path / "s.npz"
    checkpoints.save_state(path, state)
    with pytest.raises(
        ValueError, match=r"\.particles is float32 of shape \(5, 3\) there and float32 of shape \(6, 3\) here"
    ):
        checkpoints.load_state(path, state._replace(particles=jnp.zeros((6, 3))))
    with pytest.raises(ValueError, match=r"\.step is int32 of shape \(\) there and float32 of shape \(\) here"):
        checkpoints.load_state(path, state._replace(step=jnp.float32(0)))
    with pytest.raises(ValueError, match=r"\.inner\['more'\] is missing there and float32"):
        checkpoints.load_state(path, state._replace(inner={**state.inner, "more": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"\.inner\['flag'\] is bool of shape \(2,\) there and missing here"):
        checkpoints.load_state(path, state._replace(inner={"log/weights": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"\.key is key<fry> of shape \(2,\) there and uint32"):
        checkpoints.load_state(path, state._replace(key=jnp.zeros((2, 2), jnp.uint32)))


def test_settings_that_differ_are_named(tmp_path):
    path = tmp_path / "s.npz"
    checkpoints.save_state(path, a_state(), {"every": 10, "rates": {"radius": 10.0}})
    assert_same(checkpoints.load_state(path, a_state(), {"every": 10, "rates": {"radius": 10.0}}), a_state())
    with pytest.raises(ValueError, match=r"s\.npz is of another run: rates\.radius is 10\.0 on disk and 5\.0 in this call"):
        checkpoints.load_state(path, a_state(), {"every": 10, "rates": {"radius": 5.0}})


def test_damage_is_noticed_at_every_byte(tmp_path):
    """A checkpoint with one byte changed, or cut short, is refused; or, where no array lies there, loads the same."""
    state, path = a_state(), tmp_path / "s.npz"
    checkpoints.save_state(path, state)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(bytes(damaged))
        try:
            assert_same(checkpoints.load_state(path, state), state)
        except ValueError:
            refused += 1
    assert refused > len(whole) // 11 // 2
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"s\.npz is truncated or corrupt"):
            checkpoints.load_state(path, state)


def test_files_of_another_kind_or_version_are_refused(tmp_path):
    path = tmp_path / "s.npz"
    for header, message in (
        ({"kind": "state", "format": 99}, "has format version 99; this version of dualebm reads 3"),
        ({"kind": "energy", "format": 3}, "holds 'energy'; it must hold 'state'"),
        ([], "holds None; it must hold 'state'"),
    ):
        np.savez(path, header=np.array(json.dumps(header)))
        with pytest.raises(ValueError, match=message):
            checkpoints.load_state(path, a_state())
    np.savez(path, x=np.zeros(2))
    with pytest.raises(ValueError, match="truncated or corrupt"):
        checkpoints.load_state(path, a_state())
    with pytest.raises(FileNotFoundError):
        checkpoints.load_state(tmp_path / "none.npz", a_state())


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (("header", json.dumps({"kind": "state", "format": 3, "keys": {}})), ("leaf.x", Bomb())):
            buffer = io.BytesIO()
            np.save(buffer, np.array(value, object if name != "header" else None), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="an array has the dtype object"):
        checkpoints.load_state(path, {"x": jnp.zeros(())})


def test_a_file_is_replaced_whole(tmp_path):
    """One who opened the old file reads the old file to its end."""
    path = tmp_path / "s.npz"
    checkpoints.save_state(path, a_state())
    before = path.read_bytes()
    with path.open("rb") as file:
        checkpoints.save_state(path, a_state()._replace(step=jnp.int32(8)))
        assert file.read() == before != path.read_bytes()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    checkpoints.save_state(path, a_state())
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"cannot write .*s\.npz: No space left on device") as caught:
        checkpoints.save_state(path, a_state()._replace(step=jnp.int32(8)))
    assert caught.value.errno == 28
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s.npz"]


# -- energies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feature, width",
    [
        (ReLU(), 3),
        (ReLU(power=2, bias=True), 4),
        (Softplus(sharpness=3.5), 3),
        (Bump(Torus(3, period=2.0), 5.0), 3),
        (Bump(Euclidean(3, Flat())), 3),
        (ScaledBump(Euclidean(3, Flat()), 0.5, 20.0), 4),
    ],
)
def test_a_shallow_energy_comes_back(tmp_path, feature, width):
    energy = Shallow(feature, jnp.asarray(np.random.default_rng(0).normal(size=(4, width)), jnp.float32), jnp.arange(4.0))
    save_energy(tmp_path / "e.npz", energy)
    for given in (None, feature):
        loaded = load_energy(tmp_path / "e.npz", given)
        assert loaded.feature == feature and type(loaded) is Shallow
        assert_same(loaded, energy)
    with pytest.raises(ValueError, match=r"feature\.name is .* on disk and 'Bump' in this call|feature\.fields\.concentration"):
        load_energy(tmp_path / "e.npz", Bump(Sphere(3), 7.0))


def test_a_custom_feature_is_passed_in_and_never_stored(tmp_path):
    feature = Custom(lambda x, theta: jnp.cos(jnp.dot(x, theta)), Sphere(3))
    energy = Shallow(feature, jnp.eye(3), jnp.ones(3))
    path = tmp_path / "e.npz"
    save_energy(path, energy)
    with pytest.raises(ValueError, match=r"feature is None; .*e\.npz was saved with the feature Custom"):
        load_energy(path)
    with pytest.raises(ValueError, match=r"feature\.fields\.parameters\.fields\.dimension is 3 on disk and 2 in this call"):
        load_energy(path, Custom(feature.function, Sphere(2)))
    assert_same(load_energy(path, feature), energy)
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
    save_energy(path, energy)
    loaded = load_energy(path, like=build(1))
    value = eqx.filter_jit(lambda energy, x: energy(x))
    np.testing.assert_array_equal(value(loaded, x), value(energy, x))
    assert loaded.stiffness == 0.5 and isinstance(loaded.stiffness, float)
    with pytest.raises(ValueError, match="like is None"):
        load_energy(path)
    with pytest.raises(ValueError, match=r"\.network\.layers\[0\]\.weight is float32 of shape \(4, 3\) there and"):
        load_energy(path, like=build(1, width=5))
    with pytest.raises(ValueError, match=r"like is a Shallow; .* holds a Mixed"):
        load_energy(path, like=Shallow(ReLU(), jnp.eye(3), jnp.ones(3)))


def test_float64_energies_are_not_rounded(tmp_path):
    with jax.enable_x64(True):
        energy = Shallow(ReLU(), jnp.eye(3), jnp.array([0.1, 0.2, 0.3]))
        save_energy(tmp_path / "e.npz", energy)
        assert_same(load_energy(tmp_path / "e.npz"), energy)
    with jax.enable_x64(False), pytest.raises(ValueError, match="set JAX_ENABLE_X64=1"):
        load_energy(tmp_path / "e.npz")


def test_energies_of_kernels_and_tables_come_back_from_the_file_alone(tmp_path):
    kernel = Embedding(BumpKernel(Torus(1, 2.0), 3.0), jnp.ones((4, 1)), jnp.arange(4.0))
    table = Tabulated(Torus(1), jnp.arange(4.0))
    for energy in (kernel, table):
        save_energy(tmp_path / "e.npz", energy)
        assert_same(load_energy(tmp_path / "e.npz"), energy)


@pytest.mark.parametrize(
    "start, space",
    [
        (Mixture(), Euclidean(4, Flat())),
        (Mixture(components=1, covariances="full"), Euclidean(4, Flat())),
        (Boltzmann(hidden=3), Euclidean(4)),
        (MLP(width=5, activation="silu"), Sphere(4)),
        (ConvNet((2, 2), (2, 3), (3, 1), (1, 2), (1, 0), width=4, activation="relu"), Euclidean(4)),
    ],
)
def test_trained_energies_come_back_from_the_file_alone(tmp_path, start, space):
    energy = jax.jit(lambda key: jax.tree.map(lambda a: a + 0.1, start(key, space, jnp.float32)))(jax.random.key(0))
    save_energy(tmp_path / "e.npz", energy)
    back = load_energy(tmp_path / "e.npz")
    assert_same(back, energy)
    x = jnp.asarray(np.linspace(-1, 1, 12).reshape(3, 4), jnp.float32)
    value = jax.jit(lambda energy: energy(x))  # jit needs what is static to be hashable
    np.testing.assert_array_equal(value(back), value(energy))


def test_a_kernel_of_ones_own_is_not_stored(tmp_path):
    energy = Embedding(lambda x, y: jnp.exp(x @ y.T), jnp.eye(2), jnp.ones(2))
    save_energy(tmp_path / "e.npz", energy)
    with pytest.raises(ValueError, match="saved with the kernel <lambda>, and code is not stored: give like"):
        load_energy(tmp_path / "e.npz")
    assert_same(load_energy(tmp_path / "e.npz", like=energy), energy)
