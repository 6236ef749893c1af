"""Trainings that keep their energy of the least cross-entropy at validation rows, where all is known in closed form."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.energies.networks import MLP
from dualebm.geometry import Space
from dualebm.log_z import fresh
from dualebm.measures import Samples
from dualebm.methods.base import Info, Iterate, Method
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import FIXED
from dualebm.methods.validated import Validated, divided
from dualebm.metrics import AnnealedCheck, ValidationCheck
from dualebm.metrics.validation import RISEN, risen, settled
from dualebm.rates import Probability
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.run import run
from dualebm.training.simulate import start, step
from tests.normal_energy import Normal

LINE = Euclidean(1, Flat())
DRAWN = np.random.default_rng(0).normal(size=(120, 1)).astype("float32")
DATA = Samples(jnp.array(np.concatenate([3 + 0.5 * DRAWN[:100], 2 + 0.5 * DRAWN[100:]])))
"""Training rows around 3, and 20 validation rows around 2, which the mean of the energy passes on its way from 0."""


class Speed(NamedTuple):
    speed: Probability = 0.1


class Place(NamedTuple):
    mean: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Walk(Method):
    """The mean of a normal density of precision 4 walks to that of the rows, with noise of its key. log Z is off by 0.001 an iteration."""

    space: Space

    @property
    def rates(self):
        return Speed()

    def init(self, key, rates, data):
        return Place(jnp.zeros((), data.points.dtype), jnp.int32(0))

    def step(self, key, state, rates, data):
        mean = state.mean + rates.speed * (jnp.mean(data.points) - state.mean) + 1e-3 * jax.random.normal(key)
        return Place(mean, state.step + 1), Info()

    def energy(self, state, rates, data):
        return Normal(state.mean, jnp.full_like(state.mean, 4.0))

    def log_partition(self, state):
        return LOG_Z + 0.001 * state.step.astype(state.mean.dtype), jnp.full_like(state.mean, jnp.nan)


LOG_Z = 0.5 * np.log(2 * np.pi / 4)
PLAIN = Walk(LINE)
METHOD, RATES = Validated(PLAIN, rows=20, every=2), PLAIN.rates


def test_the_energy_of_the_least_cross_entropy_is_kept():
    """The training is that without validation rows, and passes them. What is kept is the best of every second energy, by NumPy."""
    train, held = divided(DATA, 20)
    state, alone = start(jax.random.key(1), METHOD, RATES, DATA), start(jax.random.key(1), PLAIN, RATES, train)
    means, values = [], []
    for i in range(1, 41):
        state, info = step(jax.random.key(i), METHOD, state, RATES, DATA)
        alone, _ = step(jax.random.key(i), PLAIN, alone, RATES, train)
        means.append(float(METHOD.energy(state, RATES, DATA).mean))
        values.append(2 * np.mean((np.asarray(held.points, float) - means[-1]) ** 2) + LOG_Z)
        check = ValidationCheck()(jax.random.key(0), Iterate(METHOD, state, RATES, DATA, info))
        if i % 2:
            assert np.isnan(check).all()
        else:
            assert check[0].tolist() == pytest.approx([values[-1], 0], abs=1e-4)
            assert float(check[1, 0]) == pytest.approx(0.001 * i, abs=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state.inner, alone)
    best = 2 * (int(np.argmin(values[1::2])) + 1)
    assert 6 < best < 14 and int(state.kept.state.step) == best and values[-1] > values[best - 1] + 0.5
    assert float(PLAIN.energy(state.kept.state, RATES, train).mean) == means[best - 1]
    assert state.kept.cross_entropy.tolist() == pytest.approx([values[best - 1], 0], abs=1e-4)


def test_a_check_that_is_not_trusted_keeps_nothing(monkeypatch):
    exact = fresh.draw
    monkeypatch.setattr(fresh, "draw", lambda *arguments: exact(*arguments)._replace(trusted=jnp.asarray(False)))
    method = Validated(PLAIN, rows=20, every=2, count=50)  # the program of no other test
    state = start(jax.random.key(1), method, RATES, DATA)
    for i in (2, 3):
        state, _ = step(jax.random.key(i), method, state, RATES, DATA)
        assert int(state.kept.state.step) == 0 and np.isneginf(state.kept.cross_entropy).all() and np.isneginf(state.check).all()
    assert float(state.kept.state.mean) == 0 != float(method.energy(state, RATES, DATA).mean)


def results_of(folder, **options):
    made: dict[str, Any] = dict(steps=40, every=2, metrics={"check": ValidationCheck()}, segment=4, progress=False, schedule=None)
    return run(jax.random.key(3), METHOD, RATES, DATA, folder=folder, **made, **options)


def test_an_interrupted_training_keeps_the_same_energy(tmp_path):
    """It is stopped once before and once after the energy that is kept, and continued from its folder."""
    whole, records = results_of(None)
    kept = int(whole.kept.state.step)
    for end in (4, kept + 6):
        results_of(tmp_path / "run", callback=lambda results, end=end: results.step[-1] >= end)
    state, resumed = results_of(tmp_path / "run")
    assert 6 < kept < 14 and int(state.step) == 40
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    np.testing.assert_array_equal(resumed.check, records.check)
    assert int(np.nanargmin(records.check.values[:, 0, 0])) * 2 == kept


def checks(*values, error=0.01):
    return np.array([[[value, error]] * 3 for value in values])


@pytest.mark.parametrize(
    ("values", "error", "enough"),
    [
        ([0.0, -1.0] + RISEN * [-0.8], 0.01, True),
        ([0.0, -1.0] + (RISEN - 1) * [-0.8], 0.01, False),
        ([0.0, -1.0] + RISEN * [-0.8], 0.1, False),  # within the errors
        ([0.0, -1.0] + RISEN * [-0.96], 0.001, False),  # within the tolerance
        ([0.0, -1.0] + 4 * [-0.8] + [-0.99] + (RISEN - 1) * [-0.8], 0.01, False),  # it has come back
        ([0.0, -1.0] + 4 * [-0.8] + (RISEN - 4) * [np.nan], 0.01, True),
        (RISEN * [np.nan] + [np.nan], 0.01, False),  # nothing is kept so far
        ([], 0.01, False),
    ],
)
def test_when_a_training_may_end(values, error, enough):
    assert risen(checks(*values, error=error).reshape(-1, 3, 2)) == enough


@pytest.mark.parametrize(
    ("values", "enough"),
    [
        ([0.0, -1.0] + (RISEN - 1) * [-1.0], False),
        ([0.0, -1.0] + RISEN * [-1.0], True),
        ([0.0, -1.0] + RISEN * [-1.009], True),  # no progress that counts
        ([0.0, -1.0] + RISEN * [-1.011], False),
        ([0.0, -1.0] + RISEN * [np.nan], True),
        (9 * [0.0] + [-1.0] + 19 * [-0.99], False),
        (9 * [0.0] + [-1.0] + 20 * [-0.99], True),
        (30 * [np.nan], False),
        ([], False),
    ],
)
def test_when_a_training_has_settled(values, enough):
    assert settled(checks(*values).reshape(-1, 3, 2)) == enough


def test_a_rise_is_no_fault_of_a_training_that_keeps_the_energy_before_it():
    worse = checks(-1.2, -1.0, -1.0)
    assert list(AnnealedCheck(DATA, 2).warnings(worse)) == ["log_partition", "particles", "rise"]
    assert list(ValidationCheck().warnings(worse)) == ["log_partition", "particles"] and ValidationCheck().warnings(worse[:0]) == {}
    assert ValidationCheck(quiet=True).warnings(worse) == {}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Validated(PLAIN, rows=120), "rows is 120 of 120; at least one row must be left"),
        (Validated(Contrastive(LINE, MLP(4), walkers=8, **FIXED), rows=20), "whose flat measure cannot be sampled"),
        (Validated(Walk(Sphere(3)), rows=20), "data.*Sphere"),
    ],
)
def test_errors(method, message):
    with pytest.raises(ValueError, match=message):
        method.check(method.rates, DATA)


def test_settings_that_are_not_allowed():
    with pytest.raises(ValueError, match="rows is -1"):
        Validated(PLAIN, rows=-1)
    with pytest.raises(ValueError, match="every is 1"):
        Validated(PLAIN, rows=1, every=1)
