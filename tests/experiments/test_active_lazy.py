"""The experiment on active and lazy training: its teachers beside quadratures, its reading beside loops, a small one from end to end."""


import jax
import numpy as np
import pytest
import xarray
from scipy.integrate import quad

from dualebm import metrics
from dualebm.methods.dual import Dual
from dualebm.methods.lazy import Lazy
from experiments.active_lazy import runs
from experiments.active_lazy.reading import band_of
from experiments.active_lazy.runs import (
    Settings,
    completed,
    counts_of,
    cross_entropy,
    method_of,
    rates_of,
    schedule_of,
    teacher,
)


def test_the_presets():
    quick, paper = completed(Settings()), completed(Settings(preset="paper", repeats=3))
    assert (quick.teachers, quick.n, quick.repeats) == (("J1_w10",), (1000,), 2)
    assert paper.teachers == tuple(runs.TEACHERS) and paper.repeats == 3 and paper.losses == tuple(runs.LOSSES)
    assert counts_of(paper, "dual") == counts_of(paper, "likelihood") == paper.n == (10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
    assert counts_of(paper, "ksd") == paper.n[:7] and counts_of(paper, "f1_sd") == paper.n[:6]
    assert counts_of(completed(Settings(n=(30_000,))), "f1_sd") == ()
    for preset, over in runs.OVER.items():
        assert set(over) == {(loss, regime) for loss in runs.LOSSES for regime in runs.REGIMES}
        assert all(steps % runs.RECORDS[preset] == 0 for steps in runs.STEPS[preset].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'; did you mean 'paper'"),
        (dict(teachers=("J1_w10", "J1_w1")), "teachers is 'J1_w1'; did you mean 'J1_w10'"),
        (dict(teachers=()), r"teachers is \(\); it must have at least one value, each once"),
        (dict(losses=("ksdd",)), "losses is 'ksdd'; did you mean 'ksd'"),
        (dict(losses=("ksd", "ksd")), r"losses is \('ksd', 'ksd'\); it must have at least one value, each once"),
        (dict(n=(100, 1)), "n is 1; it must be an integer of at least 2"),
        (dict(n=(100, 100)), r"n is \(100, 100\); it must have at least one value, each once"),
        (dict(losses=("f1_sd", "ksd"), n=(30_000,)), r"n is \(30000,\); one at least must be at most 10000, the most of f1_sd, ksd"),
        (dict(seeds=0), "seeds is 0"),
        (dict(repeats=0), "repeats is 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        completed(Settings(**changes))


# -- Teachers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dimension", "known"), [("J1_w2", 15, -0.0332), ("J1_w10", 15, -0.2825), ("J1_w2", 10, -0.0468), ("J1_w10", 10, -0.3363)]
)
def test_the_cross_entropy_of_one_neuron(name, dimension, known):
    """x_1 of a uniform point has density ~ (1 - t^2)^((d - 3) / 2)."""
    (weight,) = runs.TEACHERS[name]
    integral = lambda f: quad(lambda t: f(t) * (1 - t * t) ** ((dimension - 3) / 2), -1, 1, points=[0], epsabs=1e-12)[0]  # noqa: E731
    model = lambda t: np.exp(-weight * max(t, 0))  # noqa: E731
    mean = integral(lambda t: weight * max(t, 0) * model(t)) / integral(model)
    value, error = cross_entropy(teacher(name, dimension))
    assert error == 0
    assert value == pytest.approx(mean + np.log(integral(model) / integral(lambda t: 1)), abs=1e-6)
    assert value == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("dimension", [10, 15])
def test_the_cross_entropy_of_four_neurons(dimension):
    """Beside uniform points of all d coordinates, with weights."""
    target = teacher("J4_w7.5", dimension)
    assert target.energy.coefficients.tolist() == [-7.5, -7.5, 7.5, 7.5]
    value, error = cross_entropy(target)
    assert 0 < error < 1e-3
    x = np.random.default_rng(5).standard_normal((400_000, dimension))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    energy = np.maximum(x @ np.asarray(target.energy.positions, float).T, 0) @ np.array([-7.5, -7.5, 7.5, 7.5]) / 4
    parts = []
    for some in np.array_split(energy, 40):
        p = np.exp(-some)
        parts.append(np.sum(p * some) / np.sum(p) + np.log(np.mean(p)))
    assert abs(value - np.mean(parts)) < 5 * np.std(parts) / np.sqrt(40) + 1e-3  # the bias of 10,000 points, and the error
    few, wide = cross_entropy(target, 2**16)
    assert wide == pytest.approx(8 * error, rel=0.3) and abs(few - value) < 5 * wide


def test_drawn_points_have_the_error_that_is_told(monkeypatch):
    """Where the value is exact: two neurons, by points all the same."""
    target = teacher("J2_w5", 15)
    exact = cross_entropy(target)[0]
    monkeypatch.setattr(runs, "rank", lambda directions: 3)
    value, error = cross_entropy(target, 2**18)
    assert error < 3e-3 and abs(value - exact) < 4 * error
    assert abs(cross_entropy(target, 2**12)[0] - exact) > error  # few points are told from many


def test_the_directions_are_drawn_once_for_all():
    for name in runs.TEACHERS:
        one, again = teacher(name, 15), teacher(name, 15)
        np.testing.assert_array_equal(one.energy.positions, again.energy.positions)
        assert one.energy.coefficients.tolist() == list(runs.TEACHERS[name])
    assert runs.data(jax.random.key(0), "J4_w7.5", 10, 7).points.shape == (7, 10)


# -- Methods ----------------------------------------------------------------------------------------------


def test_the_methods():
    for loss in runs.LOSSES:
        dimension = 10 if loss == "f1_sd" else 15
        for regime in runs.REGIMES:
            method = method_of(loss, regime)
            assert method.space.dimension == dimension
            if loss == "dual":
                assert type(method) is (Dual if regime == "active" else Lazy)
            else:
                assert (method.regime, method.neurons) == (regime, 500)
    assert rates_of("dual", "lazy").ascent_step == 225 and rates_of("dual", "active") == Dual(method_of("dual", "active").space).rates
    assert schedule_of("dual", "lazy") is None
    rates = rates_of("ksd", "lazy")._replace(learning_rate=0.8)
    assert float(schedule_of("ksd", "lazy")(100, rates).learning_rate) == pytest.approx(0.4)
    assert float(schedule_of("likelihood", "lazy")(100, rates).learning_rate) == pytest.approx(0.8 / 1.5)


def test_validation_is_by_the_loss_that_trains(monkeypatch):
    monkeypatch.setattr(runs, "TEST", 30)
    kinds = dict(likelihood=metrics.CrossEntropy, dual=metrics.CrossEntropy, ksd=metrics.SteinDiscrepancy)
    kinds["f1_sd"] = metrics.NetworkSteinDiscrepancy
    for loss, kind in kinds.items():
        made = runs.monitors(jax.random.key(0), loss, "J1_w10", 5, 20)
        assert type(made["validation"]) is kind
        held, test = made["validation"].samples.points, made["cross_entropy"].samples.points
        assert held.shape == (20, 5) and test.shape == made["kl"].samples.points.shape == (30, 5)
        assert not np.isin(np.asarray(held), np.asarray(test)).any()
    with pytest.raises(ValueError, match="count is 0"):
        runs.monitors(jax.random.key(0), "dual", "J1_w10", 5, 0)


# -- Reading ----------------------------------------------------------------------------------------------


def test_bands():
    counts, values = [30, 10, 30, 10, 30, 90], np.array([3.0, 1.0, 5.0, 2.0, 7.0, 4.0])
    variables = {"kl": ("run", values), "ce": (("run", "ce_0"), np.stack([values, 100 * values], axis=1))}
    best = xarray.Dataset(variables, {"n": ("run", counts)})
    for name in ("kl", "ce"):
        n, mean, spread = band_of(best, name)
        assert n.tolist() == [10, 30, 90] and mean.tolist() == [1.5, 5.0, 4.0]
        np.testing.assert_allclose(spread, [np.sqrt(0.5), 2.0, 0.0])




