"""The scan: counts, segments, masks, divergence, randomness by step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics
from dualebm.measures import Samples
from dualebm.methods.base import Divergence
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Sphere
from dualebm.training.simulate import Setup, intervals, simulate, start, step
from tests import oracles

METHOD = Dual(Sphere(3), neurons=4)
DATA = Samples(jnp.array(oracles.normalise(np.random.default_rng(5).normal(size=(30, 3))), jnp.float32))
RATES = DualRates(*map(jnp.float32, (0.04, 0.4, 0.4, 0.1, 10.0)))
METRICS = {"total_variation": metrics.TotalVariation(), "acceptance": metrics.Acceptance()}

simulated = eqx.filter_jit(simulate)


def begun():
    return start(jax.random.key(1), METHOD, RATES, DATA)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_equals_a_loop_of_steps():
    """With a schedule, which sees the number of iterations done: the atoms rest for four."""
    key, now, accepted = jax.random.key(2), begun(), []
    schedule = lambda step, rates: rates._replace(reaction_step=jnp.where(step >= 4, rates.reaction_step, 0.0))  # noqa: E731
    state, records = jax.device_get(
        simulated(key, METHOD, now, RATES, DATA, steps=6, every=3, metrics=METRICS, schedule=schedule)
    )
    for i in range(6):
        rates = RATES if i >= 4 else RATES._replace(reaction_step=jnp.float32(0))
        now, info = step(jax.random.fold_in(key, i), METHOD, now, rates, DATA)
        accepted.append(float(info.acceptance))
        if i % 3 == 2:
            weights = np.exp(now.atoms.log_weights)
            np.testing.assert_allclose(records["total_variation"][i // 3], weights.mean(), rtol=1e-6)
            np.testing.assert_allclose(records["acceptance"][i // 3], np.mean(accepted[-3:]), rtol=1e-6)
    assert records["total_variation"][0] == 1 != records["total_variation"][1]
    np.testing.assert_allclose(state.columns, now.columns, atol=1e-5)
    np.testing.assert_allclose(state.atoms.log_weights, now.atoms.log_weights, atol=1e-6)
    assert records["step"].tolist() == [3, 6] and state.step == 6


def test_segments_equal_the_whole_bit_for_bit():
    key, first = jax.random.key(2), begun()
    setup = Setup(key, METHOD, RATES, DATA, METRICS, 2)
    run = jax.jit(lambda state, active: intervals(setup, state, active)[::2])
    whole, records = jax.device_get(run(first, np.ones(6, bool)))
    middle, one = run(first, np.arange(6) < 4)
    last, two = run(middle, np.arange(6) < 2)
    equal(last, whole)
    one, two = jax.device_get((one, two))
    equal({k: np.concatenate([one[k][:4], two[k][:2]]) for k in records}, records)
    assert int(middle.step) == 8 and one["step"].tolist() == [2, 4, 6, 8, 8, 8]
    # an inactive interval records the state as it is
    assert (one["total_variation"][4:] == one["total_variation"][3]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(steps=4, every=1), "every is 1; it must be an integer of at least 2"),
        (dict(steps=5, every=2), "steps is 5; it must be a multiple of every, which is 2"),
        (dict(steps=0, every=2), "steps is 0"),
    ],
)
def test_bad_counts(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(jax.random.key(0), METHOD, begun(), RATES, DATA, metrics={}, **arguments)


def test_a_diverged_run_freezes_and_the_others_go_on():
    """Run 0 is healthy; in run 1 an atom takes all the weight; in run 2 moves are too long; run 3 has NaN rates."""
    rates = DualRates(
        np.float32([0.04, 0.04, 1e6, 0.04]), np.zeros(4, "float32"), np.float32([0.1, 1e4, 0.0, np.nan]), np.zeros(4, "float32"),
        np.full(4, 10.0, "float32"),
    )  # fmt: skip

    def run(rates):
        state = METHOD.init(jax.random.key(1), rates, DATA)
        return simulate(jax.random.key(2), METHOD, state, rates, DATA, steps=8, every=2, metrics=METRICS)

    state, records = jax.device_get(jax.jit(jax.vmap(run))(rates))
    codes = records["diverged"]
    assert (codes[0] == 0).all() and int(state.step[0]) == 8
    assert codes[1, -1] == Divergence.ONE_ATOM
    assert codes[2, -1] == Divergence.REJECTED
    assert codes[3, -1] == Divergence.NOT_FINITE
    for run in (1, 2, 3):
        stays = np.cumsum(codes[run] != 0) > 0
        np.testing.assert_array_equal(codes[run] != 0, stays)  # once diverged, always
        assert int(state.step[run]) == 2 * int((~stays).sum())
        np.testing.assert_array_equal(np.isnan(records["total_variation"][run]), stays)
        assert all(np.isfinite(x[run]).all() for x in jax.tree.leaves(state))


def test_total_variation_zero_is_divergence():
    method = Dual(Sphere(3), neurons=4, signs="all_negative", weight_update="additive")
    away, rates = Samples(jnp.array([[0.0, 0.0, 1.0]])), DualRates(1e-6, 0.0, 5.0, 0.0, 10.0)
    state = start(jax.random.key(1), method, rates, away)
    positions = np.tile(np.float32([1.0, 0.0, 0.0]), (4, 1))
    state = state._replace(columns=jnp.array(positions[:2].T), atoms=state.atoms._replace(positions=jnp.array(positions)))
    _, records = simulated(jax.random.key(0), method, state, rates, away, steps=2, every=2, metrics={})
    assert records["diverged"].tolist() == [Divergence.NO_WEIGHT]
