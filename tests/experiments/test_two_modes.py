"""The experiment from end to end at toy size, its energy and closed forms beside NumPy, and its bad inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from scipy import integrate

from dualebm.methods.base import Iterate
from dualebm.methods.contrastive import ContrastiveState
from dualebm.training.simulate import simulate
from experiments import two_modes as experiment
from experiments.two_modes import ETA, SPACE, Settings, TwoModes, checked, drifted, expected, limit, methods


def test_the_energy_is_that_of_a_density(x64):
    energy = TwoModes(jnp.asarray(0.7))
    p = 1 / (1 + np.exp(-0.7))

    def density(x):
        return (p * np.exp(-((x + 12) ** 2) / 2) + (1 - p) * np.exp(-((x - 9) ** 2) / 2)) / np.sqrt(2 * np.pi)

    x = np.linspace(-14, 11, 7)
    np.testing.assert_allclose(energy(jnp.asarray(x)[:, None]), -np.log(density(x)), rtol=1e-10)
    whole = sum(integrate.quad(lambda x: np.exp(-float(energy(jnp.asarray([[x]]))[0])), a - 9, a + 9)[0] for a in (-12, 9))
    assert whole == pytest.approx(1, abs=1e-6) and float(energy.log_partition(SPACE)) == 0
    points = np.asarray(energy.sample(jax.random.key(0), SPACE, 20_000))[:, 0]
    assert np.mean(points < 0) == pytest.approx(p, abs=0.02)
    for part, mean in ((points[points < 0], -12), (points[points > 0], 9)):
        assert part.mean() == pytest.approx(mean, abs=0.05) and part.std() == pytest.approx(1, abs=0.03)


def run(label, steps, seed=0, n=20, **changes):
    """The method, first and last state, and data of a run with steps of .1."""
    data = experiment.data(jax.random.key(seed), n)
    method = dataclasses.replace(methods(n)[label], **changes)
    rates = experiment.rates_of(method, 0.1)

    @jax.jit
    def both():
        first = method.init(jax.random.key(seed + 1), rates, data)
        return first, simulate(jax.random.key(seed + 2), method, first, rates, data, steps=steps, every=steps, metrics={})[0]

    return method, *both(), data


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        ("Jarzynski", {}),
        pytest.param("Jarzynski", dict(increment="trapezoid"), marks=pytest.mark.heavy),
        ("PCD", {}),
        pytest.param("unweighted", {}, marks=pytest.mark.heavy),
    ],
)
def test_s_follows_the_flow_of_two_fractions(label, changes, x64):
    """s beside a loop of ds = eta dt (p* - p_model), p_model by the weights in the two modes alone."""
    steps = 300
    method, first, last, data = run(label, steps, **changes)
    assert last.columns.dtype == jnp.float64 and (method.fixed, method.integrator) == ((), "geodesic")
    walkers, observed = (np.mean(np.asarray(x) < -1.5) for x in (first.particles, data.points))
    assert float(experiment.Logit()(None, Iterate(method, first, method.rates, data))) == 0.001
    assert experiment.Fraction()(None, Iterate(method, last, method.rates, data)).tolist() == pytest.approx([walkers, observed], abs=1e-12)
    assert 0 < walkers < 1 and (walkers == observed) == (label == "PCD")
    s = 0.001
    for _ in range(steps):
        level = s - 0.001 if label == "Jarzynski" else 0.0
        model = walkers * np.exp(level) / (walkers * np.exp(level) + 1 - walkers)
        s += ETA * 0.1 * (observed - model)
    found = float(method.energy(last, method.rates, data).logit)
    exact = isinstance(last, ContrastiveState) or changes
    assert found == pytest.approx(s, rel=1e-9 if exact else 0.01)
    if label == "unweighted":
        assert found == pytest.approx(drifted(observed, walkers, steps * 0.1), rel=1e-9)
    if label == "PCD":
        assert found == pytest.approx(0.001, abs=1e-13)


def test_limit_is_where_the_flow_rests():
    s, walkers, observed = 0.001, 0.45, 0.8
    for _ in range(20_000):
        odds = walkers / (1 - walkers) * np.exp(s - 0.001)
        s += 0.01 * (observed - odds / (1 + odds))
    assert limit(observed, walkers) == pytest.approx(s, abs=1e-9)
    assert expected("Jarzynski, exact", 0.8, 0.45, 7.0) == limit(0.8, 0.45) and expected("PCD", 0.8, 0.45, 7.0) == 0.001
    assert expected("unweighted", 0.8, 0.45, 7.0) == pytest.approx(0.001 + 0.01 * 0.35 * 7)


def found_of(label, s, fractions):
    sizes = dict(logit=(("run", "step"), [s]), fraction=(("run", "step", "of"), [fractions]))
    return {label: xarray.Dataset(sizes, {"seed": ("run", [3]), "step": [0, 50]})}


def test_rows_hold_within_two_percent():
    asked = limit(0.8, 0.5)
    for factor, held in ((1.019, True), (1.021, False), (0.981, True)):
        row = experiment.rows_of(found_of("Jarzynski, exact", [0.001, asked * factor], [[0.5, 0.8], [0.55, 0.8]]), 0.1)[0]
        assert row["held"] is held and row["crossed"] == pytest.approx(0.05) and row["closed_form"] == asked
        assert row["relative"] == pytest.approx(abs(factor - 1))
    for s, held in ((0.001 + 1e-10, True), (0.001 + 1e-8, False)):
        assert experiment.rows_of(found_of("PCD", [0.001, s], [[0.8, 0.8]] * 2), 0.1)[0]["held"] is held
    row = experiment.rows_of(found_of("unweighted", [0.001, 0.016], [[0.5, 0.8]] * 2), 0.1)[0]
    assert row["closed_form"] == pytest.approx(0.016) and row["held"]




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(n=7), "n is 7; it must be even"),
        (dict(n=1), "n is 1"),
        (dict(time_step=0.0), "time_step is 0.0"),
        (dict(time_step=0.6), "time_step is 0.6"),
        (dict(duration=-1.0), "duration is -1.0"),
        (dict(duration=10.0), "duration / time_step is 100; it must be a multiple of 200"),
        (dict(duration=20.0), "at least 400"),
        (dict(seeds=0), "seeds is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
