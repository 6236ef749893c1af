"""Trainings that go back to their best state with half the steps, against loops in NumPy."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Flat
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods import mending, validated
from dualebm.methods.audited import Audited
from dualebm.methods.base import Info, Method
from dualebm.methods.dual import Dual
from dualebm.methods.likelihood import Likelihood
from dualebm.methods.mending import HALVINGS
from dualebm.methods.validated import TOLERANCE, Validated
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.metrics import ValidationCheck
from dualebm.rates import NonNegative, ParticleStep
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.run import Diverged, run
from tests.normal_energy import Normal

DATA = Samples(jnp.array(np.random.default_rng(0).normal(3, 0.5, size=(120, 1)).astype("float32")))
TARGET, PRECISION, EVERY, STEPS = float(np.mean(np.asarray(DATA.points, float))), 4.0, 4, 40


class Steps(NamedTuple):
    learning_rate: NonNegative = 0.5
    particle_step: ParticleStep = 0.5


class Place(NamedTuple):
    mean: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Descent(Method):
    """The mean of a normal density descends to that of the rows. From a rate of 2 on it swings out."""

    space: Space
    rejected_above: float = float("inf")
    """The learning rate from which on all moves are rejected."""

    @property
    def adjusted(self):
        return True

    @property
    def rates(self):
        return Steps()

    def init(self, key, rates, data):
        return Place(jnp.zeros((), data.points.dtype), jnp.int32(0))

    def step(self, key, state, rates, data):
        accepted = jnp.where(rates.learning_rate > self.rejected_above, 0.0, 0.6)
        mean = state.mean + rates.learning_rate * (jnp.mean(data.points) - state.mean)
        return Place(mean, state.step + 1), Info(acceptance=accepted)

    def energy(self, state, rates, data):
        return Normal(state.mean, jnp.full_like(state.mean, PRECISION))


PLAIN = Descent(Euclidean(1, Flat()))


def mended(rate, plain=PLAIN, steps=STEPS, **options):
    method = Validated(plain, rows=0, every=EVERY, count=50, mends=True)
    metrics = {"check": ValidationCheck(quiet=True)}
    rates = Steps(rate)
    return run(jax.random.key(3), method, rates, DATA, steps=steps, every=EVERY, metrics=metrics, progress=False, **options)


def by_numpy(rate, rejected_above=np.inf):
    """Returns the mean, the kept mean, its step, the number of halvings and the checks. log Z is exact."""
    x = np.asarray(DATA.points, float)[:, 0]
    loss = lambda mean: PRECISION / 2 * np.mean((x - mean) ** 2) + 0.5 * np.log(2 * np.pi / PRECISION)  # noqa: E731
    mean, halvings, kept, found = 0.0, 0, (0.0, 0, loss(0.0)), []
    for i in range(1, STEPS + 1):
        used = rate / 2**halvings
        mean += used * (TARGET - mean)
        if i % EVERY == 0:
            value = loss(mean)
            back = used > rejected_above or value > kept[2] + TOLERANCE
            found.append(np.nan if used > rejected_above else value)
            if value < kept[2] and used <= rejected_above:
                kept = mean, i, value
            if back:
                mean, halvings = kept[0], halvings + 1
    return mean, kept, halvings, found


@pytest.mark.parametrize(("rate", "halvings"), [(0.5, 0), (1.9, 0), (3.0, 1), (7.0, 2), (15.0, 3)])
def test_a_training_that_swings_out_goes_back_with_half_the_steps(rate, halvings):
    state, results = mended(rate)
    mean, kept, expected, found = by_numpy(rate)
    assert int(state.mending.halvings) == expected == halvings and int(state.step) == STEPS
    assert float(state.inner.mean) == pytest.approx(mean, rel=1e-5)
    assert float(state.kept.state.mean) == pytest.approx(kept[0], abs=1e-3)  # once it rests, rounding says which check is the least
    assert float(state.kept.cross_entropy[0]) == pytest.approx(kept[2], rel=1e-5)
    np.testing.assert_allclose(results.check.values[1:, 0, 0], found, rtol=1e-4)
    assert abs(mean - TARGET) < 0.1


def test_a_training_whose_state_is_no_number_goes_back():
    """A rate of 1e30 is infinite within a few steps. It is halved as often as allowed, and then the run says that it has diverged."""
    with pytest.raises(Diverged, match=f"between steps {EVERY * HALVINGS} and {EVERY * (HALVINGS + 1)}: the state is not finite"):
        mended(1e30)
    state, _ = mended(1e30, steps=EVERY * HALVINGS)
    assert int(state.mending.halvings) == HALVINGS and float(state.inner.mean) == 0 == int(state.kept.state.step)


def test_a_training_whose_moves_are_rejected_goes_back():
    state, results = mended(1.8, dataclasses.replace(PLAIN, rejected_above=0.5))
    mean, _, halvings, found = by_numpy(1.8, rejected_above=0.5)
    assert int(state.mending.halvings) == halvings == 2 and float(state.inner.mean) == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(results.check.values[1:, 0, 0], found, rtol=1e-4)


def test_a_training_that_does_not_mend_diverges():
    method = Validated(PLAIN, rows=0, every=EVERY, count=50)
    with pytest.raises(Diverged, match="the state is not finite"):
        run(jax.random.key(3), method, Steps(1e30), DATA, steps=8, every=EVERY, metrics={}, progress=False)


def test_an_interrupted_training_mends_alike(tmp_path):
    """It is stopped after it has gone back once and twice, and continued from its folder."""
    whole, records = mended(7.0)
    for end in (8, 16):
        mended(7.0, folder=tmp_path / "run", segment=2, callback=lambda results, end=end: results.step[-1] >= end)
    state, resumed = mended(7.0, folder=tmp_path / "run", segment=2)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    np.testing.assert_array_equal(resumed.check, records.check)


def test_the_particle_step_follows_the_acceptance():
    """By the rule in NumPy. On the sphere the step stays below the largest that is allowed."""
    found, log_factor = mending.begin(jnp.float32), 0.0
    for acceptance in (0.9, 0.1, 0.1, 1.0):
        found = mending.seen(found, Info(acceptance=jnp.float32(acceptance)))
        log_factor += 0.1 * (acceptance - 0.6)
    method = Dual(Euclidean(2))
    rates = method.rates._replace(particle_step=0.25)
    assert float(mending.slowed(method, rates, found).particle_step) == pytest.approx(0.25 * np.exp(log_factor), rel=1e-6)
    assert float(found.accepted) == pytest.approx(2.1)
    for _ in range(200):
        found = mending.seen(found, Info(acceptance=jnp.float32(1.0)))
    assert float(mending.slowed(method, rates, found).particle_step) == pytest.approx(0.25 * 20, rel=1e-5)
    sphere = Dual(Sphere(3))
    assert float(mending.slowed(sphere, sphere.rates, found).particle_step) <= sphere.space.largest_particle_step


def test_which_methods_make_adjusted_moves():
    """A wrapper makes those of the method that it wraps."""
    plane = Euclidean(2)
    adjusted = [Dual(plane), Audited(Dual(plane)), WeightedDual(plane), Likelihood(plane)]
    others = [Likelihood(plane, sampler="importance"), Audited(Dual(plane, integrator="geodesic"))]
    assert all(method.adjusted for method in adjusted) and not any(method.adjusted for method in others)


def test_moves_without_an_acceptance_are_halved_with_the_others():
    found = mending.begin(jnp.float32)._replace(halvings=jnp.int32(3), log_particle=jnp.float32(1.0))
    method = Dual(Euclidean(2), integrator="geodesic")
    for name, value in mending.slowed(method, method.rates, found)._asdict().items():
        share = 1 / 8 if name.endswith("_step") else 1
        assert float(value) == pytest.approx(share * float(getattr(method.rates, name)), rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        Dual(Euclidean(2), neurons=8), WeightedDual(Euclidean(2), neurons=8, particles=20), Likelihood(Euclidean(2), neurons=8, chains=20),
    ],
)  # fmt: skip
def test_methods_go_back_with_all_that_they_hold(method, monkeypatch):
    """The state after a fault is that which was kept, with new noise from its number on."""
    monkeypatch.setattr(validated, "check_of", lambda *arguments: jnp.zeros((3, 2)))  # small programs
    data = Samples(jnp.asarray(np.random.default_rng(1).normal(size=(40, 2)), jnp.float32))
    both = Validated(method, rows=0, every=2, count=20, mends=True)
    state = both.init(jax.random.key(0), method.rates, data)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state.inner)
    stepped, _ = jax.jit(both.step)(jax.random.key(1), state._replace(inner=mending.at_step(broken, jnp.int32(1))), method.rates, data)
    kept = mending.at_step(state.kept.state, jnp.int32(2))
    jax.tree.map(np.testing.assert_array_equal, stepped.inner, kept)
    assert int(stepped.mending.halvings) == 1
