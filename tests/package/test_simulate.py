"""The scan: counts, segments, masks, divergence, randomness by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics
from dualebm.measures import Samples, total_variation
from dualebm.methods.dual import Dual, DualRates
from dualebm.simulate import DIVERGENCE, intervals, simulate
from dualebm.spaces import Sphere

METHOD = Dual(Sphere(3), neurons=4)
DATA = Samples(Sphere(3).sample_base(jax.random.key(5), 30, jnp.float32))
RATES = DualRates(*map(jnp.float32, (0.04, 0.4, 0.4, 0.1, 10.0)))
METRICS = {"total_variation": metrics.TotalVariation(), "acceptance": metrics.Acceptance()}


def start(method=METHOD, rates=RATES):
    return method.init(jax.random.key(1), rates, DATA)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_equals_a_loop_of_steps():
    state, records = simulate(jax.random.key(2), METHOD, start(), RATES, DATA, steps=6, every=3, metrics=METRICS)
    step, now, accepted = jax.jit(METHOD.step), start(), []
    for i in range(6):
        now = step(jax.random.fold_in(jax.random.key(2), i), now, RATES, DATA)
        accepted.append(now.acceptance)
        if i % 3 == 2:
            np.testing.assert_allclose(records["total_variation"][i // 3], total_variation(now.atoms), rtol=1e-6)
            np.testing.assert_allclose(records["acceptance"][i // 3], np.mean(accepted[-3:]), rtol=1e-6)
    np.testing.assert_allclose(state.particles, now.particles, atol=1e-5)
    assert records["step"].tolist() == [3, 6] and int(state.step) == 6


def test_segments_equal_the_whole_bit_for_bit():
    key = jax.random.key(2)
    run = jax.jit(lambda state, active: intervals(key, METHOD, state, RATES, DATA, active, 2, METRICS, None))
    whole, records = run(start(), jnp.ones(6, bool))
    middle, first = run(start(), jnp.arange(6) < 4)
    last, second = run(middle, jnp.arange(6) < 2)
    equal(last, whole)
    equal({k: jnp.concatenate([first[k][:4], second[k][:2]]) for k in records}, records)
    assert int(middle.step) == 8 and first["step"].tolist() == [2, 4, 6, 8, 8, 8]
    # an inactive interval records the state as it is
    assert (first["total_variation"][4:] == first["total_variation"][3]).all()


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
        simulate(jax.random.key(0), METHOD, start(), RATES, DATA, metrics={}, **arguments)


def test_a_diverged_lane_freezes_and_the_others_go_on():
    """Lane 0 is healthy; in lane 1 an atom takes all the weight; in lane 2 moves are too long; lane 3 has NaN rates."""
    method = Dual(Sphere(3), neurons=4, integrator="mala")
    rates = DualRates(
        jnp.array([0.04, 0.04, 1e6, 0.04]),
        jnp.zeros(4),
        jnp.array([0.1, 1e4, 0.0, jnp.nan]),
        jnp.zeros(4),
        jnp.full(4, 10.0),
    )
    start_of = jax.vmap(lambda rates: method.init(jax.random.key(1), rates, DATA))(rates)

    def run(state, rates):
        return simulate(jax.random.key(2), method, state, rates, DATA, steps=8, every=2, metrics=METRICS)

    state, records = jax.jit(jax.vmap(run))(start_of, rates)
    codes = records["diverged"]
    assert (codes[0] == 0).all() and int(state.step[0]) == 8
    assert codes[1, -1] == DIVERGENCE.index("one atom holds all the weight")
    assert codes[2, -1] == DIVERGENCE.index("fewer than 1% of the particles' moves were accepted")
    assert codes[3, -1] == DIVERGENCE.index("the state is not finite")
    for lane in (1, 2, 3):
        stays = jnp.cumsum(codes[lane] != 0) > 0
        np.testing.assert_array_equal(codes[lane] != 0, stays)  # once diverged, always
        assert int(state.step[lane]) == 2 * int((~stays).sum())
        np.testing.assert_array_equal(np.isnan(records["total_variation"][lane]), stays)
        assert all(np.isfinite(x[lane]).all() for x in jax.tree.leaves(state))


def test_total_variation_zero_is_divergence():
    method = Dual(Sphere(3), neurons=4, signs="all_negative", weight_update="additive")
    away = Samples(jnp.array([[0.0, 0.0, 1.0]]))
    state = method.init(jax.random.key(1), RATES, away)
    positions = jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (4, 1))
    state = state._replace(columns=positions[:2].T, atoms=state.atoms._replace(positions=positions))
    rates = DualRates(1e-6, 0.0, 5.0, 0.0, 10.0)
    _, records = simulate(jax.random.key(0), method, state, rates, away, steps=2, every=2, metrics={})
    assert records["diverged"].tolist() == [DIVERGENCE.index("the total variation is 0")]


def test_schedule_sees_the_step():
    seen = lambda key, method, state, rates, data: state.atoms.log_weights[0]  # noqa: E731
    frozen = RATES._replace(reaction_step=0.0)
    schedule = lambda step, rates: rates._replace(reaction_step=jnp.where(step >= 4, 1.0, 0.0))  # noqa: E731
    _, records = simulate(
        jax.random.key(2), METHOD, start(), frozen, DATA, steps=8, every=2, metrics={"w": seen}, schedule=schedule
    )
    assert records["w"][0] == records["w"][1] == 0 and records["w"][2] != 0
