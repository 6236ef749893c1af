"""Tempered islands beside closed forms: paths, weights, errors and bounds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat, Gaussian
from dualebm.energies.base import Energy
from dualebm.log_z import temperatures, tempering
from dualebm.log_z.temperatures import Path, choose_path
from dualebm.log_z.tempering import Islands, estimate, follow, follow_back
from dualebm.spaces import Euclidean

PLANE = Euclidean(2, Gaussian(1.5))
KEY = jax.random.key(0)


class Pulled(Energy):
    """stiffness |x - 1|^2 / 2 in the plane."""

    stiffness: jax.Array

    def __call__(self, x):
        return 0.5 * self.stiffness * jnp.sum((x - 1) ** 2, axis=1)

    def log_partition(self, scale):
        """log E exp(-U) under N(0, scale^2 I)."""
        k, s = float(self.stiffness), scale**2
        return -np.log1p(k * s) - k / (1 + k * s)

    def sample(self, key, scale, count):
        k, s = float(self.stiffness), scale**2
        return k * s / (1 + k * s) + jax.random.normal(key, (count, 2)) * np.sqrt(s / (1 + k * s))


ENERGY = Pulled(jnp.array(20.0))
EXACT = ENERGY.log_partition(1.5)
PATH = Path(jnp.array([0.3, 1.0]), jnp.full(2, 1e-12), jnp.broadcast_to(jnp.eye(2), (2, 2, 2)), jnp.int32(2))


@pytest.fixture(scope="module")
def found():
    """A path, the islands that follow it, those that keep chains, and those that go back, of one program."""

    @jax.jit
    def program(key, points):
        path = choose_path(key, ENERGY, PLANE, 512)
        there, again, home = jax.random.split(jax.random.fold_in(key, 1), 3)
        islands = follow(there, ENERGY, PLANE, path, 2048), follow(again, ENERGY, PLANE, path, 4096, kept=4)
        islands += (follow_back(home, ENERGY, PLANE, path, points),)
        return path, *islands, [jnp.stack(estimate(i)) for i in islands]

    return jax.device_get(program(KEY, ENERGY.sample(jax.random.key(9), 1.5, 2048)))


def test_a_path_rises_to_1_by_changes_of_the_given_fraction(found):
    path, islands, *_ = found
    length = int(path.length)
    factors = path.factors[:length]
    assert 3 <= length <= 8 and (np.diff(factors) > 0).all() and factors[-1] == 1 and (path.factors[length:] == 1).all()
    # all but the last change have the fraction .7: 1 / .7 - 1 of variance for each particle of an island
    assert 0.9 * (length - 1) < islands.least_variance * 64 / (1 / temperatures.FRACTION - 1) < 1.2 * length
    # the whitened steps are alike, though the model is 9 times narrower than the base measure
    assert 0.3 < path.steps[length - 1] < 2 and np.linalg.det(path.roots[length - 1]) == pytest.approx(1 / (20 + 1 / 2.25), rel=0.2)


def test_log_z_and_its_error(found):
    for islands, (value, error, size, spread), most in zip(found[1:3], found[-1][:2], (4, 16), strict=True):
        assert abs(value - EXACT) < 5 * error < 0.3 and 1 / (error**2 + 1 / islands.log_weights.size) == pytest.approx(size, rel=1e-4)
        assert 0.2 < spread < most  # the four states of a chain are not independent
        mean = np.average(islands.points, axis=0, weights=np.exp(islands.log_weights))
        assert mean == pytest.approx([45 / 46] * 2, abs=0.05) and np.var(islands.points[:, 0]) == pytest.approx(2.25 / 46, rel=0.3)


def test_samples_of_the_model_go_back(found):
    value, error, _, _ = found[-1][2]
    assert abs(value + EXACT) < 5 * error < 0.3
    assert found[3].points.var() == pytest.approx(2.25, rel=0.2)  # they have become samples of the base measure
    there, back = (found[k].log_partitions for k in (1, 3))
    assert there.mean() - 3 * there.std() / 5 < EXACT < -back.mean() + 3 * back.std() / 5


@pytest.mark.parametrize("kept", [1, 2])
def test_there_is_no_bias_without_moves(kept):
    """Moves too short to matter, and two temperatures: the mean of many islands, which are then importance sampling."""
    weak = Pulled(jnp.array(2.0))
    islands = jax.jit(lambda key: follow(key, weak, PLANE, PATH, 2**15, islands=2**10, kept=kept))(KEY)
    z = np.exp(np.asarray(islands.log_partitions, float) - weak.log_partition(1.5))
    assert abs(z.mean() - 1) < 4 * z.std() / 2**5 < 0.1


def test_islands_alone_give_the_error():
    logs = np.log([1.0, 2.0, 3.0, 6.0])
    found = estimate(Islands(jnp.asarray(logs) + 700, jnp.zeros((40, 1)), jnp.zeros(40), jnp.array(0.1)))
    variance = np.var([1, 2, 3, 6], ddof=1) / 9
    assert float(found.value) == pytest.approx(700 + np.log(3)) and float(found.spread) == pytest.approx(variance / 0.1, rel=1e-4)
    t = 3.182446  # the quantile .975 of Student's law with three degrees of freedom, which the factor is near
    assert float(found.standard_error) == pytest.approx(np.sqrt(variance / 4) * t / 1.96, rel=0.15)


def test_the_whitened_energy(x64):
    """Its gradient is that of its value, t U(R y) - log tau(R y)."""
    space, root = Euclidean(3, Gaussian(2.0)), jnp.array([[2.0, 0, 0], [0.5, 1, 0], [0.3, -1, 0.5]])
    energy = temperatures._Whitened(Pulled(jnp.array(3.0)), jnp.array(0.4), root, space)
    y = jnp.array(np.random.default_rng(0).normal(size=(3, 5)))
    located, value = jax.jit(lambda y: (energy.locate(y), jax.grad(lambda y: jnp.sum(energy(y.T)))(y)))(y)
    x = np.asarray(root @ y)
    log_base = -np.sum(x**2, axis=0) / 8 - 3 * np.log(2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(located.energy, 0.6 * np.sum((x - 1) ** 2, axis=0) - log_base)
    np.testing.assert_allclose(located.gradient, value, rtol=1e-10)


def test_a_path_that_no_length_suffices_for(monkeypatch):
    """The last change is then large, and the spread of the weights tells."""
    monkeypatch.setattr(temperatures, "LARGEST_LENGTH", 2)
    steep = Pulled(jnp.array(1e4))

    @eqx.filter_jit
    def program(key):
        path = choose_path(key, steep, PLANE, 512)
        return path, estimate(follow(key, steep, PLANE, path, 2048))

    path, result = program(KEY)
    assert int(path.length) == 2 and path.factors[1] == 1 and result.effective_sample_size < 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_path(KEY, ENERGY, PLANE, 1), "count is 1; it must be an integer of at least 2"),
        (lambda: choose_path(KEY, ENERGY, PLANE, moves=0), "moves is 0"),
        (lambda: choose_path(KEY, ENERGY, PLANE, fraction=1.0), r"fraction is 1.0; it must be a number in \(0, 1\)"),
        (lambda: choose_path(KEY, ENERGY, Euclidean(2, Flat())), "flat measure, which cannot be sampled|flat measure cannot be sampled"),
        (lambda: follow(KEY, ENERGY, PLANE, PATH, 100), "count is 100; it must be a multiple of islands times kept, which is 32"),
        (lambda: follow(KEY, ENERGY, PLANE, PATH, 64, islands=1), "islands is 1; it must be an integer of at least 2"),
        (lambda: follow(KEY, ENERGY, PLANE, PATH, 64, kept=0), "kept is 0"),
        (lambda: follow(KEY, ENERGY, PLANE, PATH, 64, moves=0), "moves is 0"),
        (lambda: follow_back(KEY, ENERGY, PLANE, PATH, jnp.zeros((31, 2))), "count is 31; it must be an integer of at least 32"),
        (lambda: tempering.bounds(KEY, ENERGY, PLANE, PATH, jnp.zeros((33, 2))), "count is 33; it must be a multiple"),
    ],
)
def test_errors_name_the_argument_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
