"""The experiment on hidden dimensions: its divergences beside independent ones, its reading of n, and a small one from end to end."""

import json
import math

import jax
import numpy as np
import pytest
import xarray
from scipy.integrate import quad

from dualebm.methods.base import Iterate
from experiments import hidden_dimension
from experiments.hidden_dimension import (
    START,
    Settings,
    by_count,
    completed,
    divergence,
    main,
    monitors,
    needed,
    radii_of,
    teacher,
)


def test_the_presets():
    quick, paper = completed(Settings()), completed(Settings(preset="paper", repeats=2, fraction=1.0))
    assert (quick.hidden, quick.dimensions, quick.n, quick.repeats) == ((1,), (5, 20), (10, 100, 1000), 1)
    assert (paper.hidden, paper.dimensions, paper.repeats) == ((1, 2, 4), (5, 10, 20, 50, 100), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'; did you mean 'paper'"),
        (dict(hidden=()), r"hidden is \(\); it must have at least one value, each once"),
        (dict(hidden=(0,)), "hidden is 0; it must be an integer of at least 1"),
        (dict(hidden=(1, 6)), r"hidden is \(1, 6\); each must be at most the least of dimensions, 5"),
        (dict(dimensions=(1,)), "dimensions is 1; it must be an integer of at least 2"),
        (dict(dimensions=(5, 5)), r"dimensions is \(5, 5\); it must have at least one value, each once"),
        (dict(n=(1,)), "n is 1; it must be an integer of at least 2"),
        (dict(fraction=0.0), "fraction is 0.0; it must be a finite number, greater than 0 and at most 1"),
        (dict(fraction=1.5), "fraction is 1.5"),
        (dict(repeats=0), "repeats is 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        completed(Settings(**changes))


# -- Teachers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "dimension"), [(10.0, 15), (-6.0, 5), (-25.0, 100)])
def test_the_divergence_of_one_neuron(weight, dimension):
    integral = lambda f: quad(lambda t: f(t) * (1 - t * t) ** ((dimension - 3) / 2), -1, 1, points=[0], epsabs=1e-13)[0]  # noqa: E731
    model = lambda t: math.exp(-weight * max(t, 0))  # noqa: E731
    mean = integral(lambda t: weight * max(t, 0) * model(t)) / integral(model)
    assert divergence(weight, 1, dimension) == pytest.approx(-mean - math.log(integral(model) / integral(lambda t: 1)), abs=1e-6)


@pytest.mark.parametrize(("hidden", "dimension", "weight"), [(2, 3, -5.0), (3, 5, -7.0), (4, 20, -13.6), (4, 4, -9.0), (3, 8, 4.0)])
def test_the_divergence_beside_monte_carlo(hidden, dimension, weight):
    """Uniform points of all d coordinates; the error is that of 50 groups of them."""
    x = np.random.default_rng(hidden + dimension).standard_normal((1_000_000, dimension))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    energy = weight * np.maximum(x[:, :hidden], 0).sum(axis=1) / hidden
    groups = []
    for some in energy.reshape(50, -1):
        p = np.exp(-some)
        groups.append(-np.sum(p * some) / np.sum(p) - np.log(np.mean(p)))
    p = np.exp(-energy)
    value = -np.sum(p * energy) / np.sum(p) - np.log(np.mean(p))
    error = np.std(groups) / math.sqrt(50)
    assert error < 2e-3
    assert abs(divergence(weight, hidden, dimension) - value) < 5 * error


@pytest.mark.parametrize(("hidden", "dimension"), [(1, 2), (1, 100), (2, 2), (2, 10), (3, 5), (4, 4), (4, 20)])
def test_all_teachers_are_as_far_from_the_uniform_measure(hidden, dimension):
    target = teacher(hidden, dimension)
    weights = np.asarray(target.energy.coefficients)
    assert weights.shape == (hidden,) and (weights < 0).all() and np.ptp(weights) == 0
    np.testing.assert_array_equal(target.energy.positions, np.eye(hidden, dimension))
    assert divergence(float(weights[0]), hidden, dimension) == pytest.approx(START, abs=1e-3)
    if hidden <= 2:
        assert target.kl_to_uniform == pytest.approx(0.5, abs=1e-3)
    for regime, scale in (("active", 1), ("lazy", math.sqrt(dimension))):
        expected = [-float(weights[0]) * scale * factor for factor in hidden_dimension.RADII[regime]]
        np.testing.assert_allclose(radii_of(hidden, dimension, regime), expected, atol=1e-3)


def test_the_monitors(monkeypatch):
    """Two sets of points that share none; both divergences of the teacher itself are 0."""
    monkeypatch.setattr(hidden_dimension, "TEST", 300)
    made = monitors(jax.random.key(0), 2, 5)
    sets = [np.asarray(made[name].samples.points) for name in ("validation", "kl")]
    assert [len(part) for part in sets] == [300, 300] and len(np.unique(np.concatenate(sets), axis=0)) == 600

    class Known:
        def energy(self, state, rates, data):
            return teacher(2, 5).energy

    for name in ("validation", "kl"):
        assert float(made[name](None, Iterate(Known(), None, None, made[name].samples))) == pytest.approx(0, abs=1e-6)


# -- Reading ----------------------------------------------------------------------------------------------


def test_the_n_that_is_needed():
    n = np.array([10, 100, 1000, 10_000])
    kl = 3.0 / n
    for level in (0.2, 0.03, 0.007, 3e-4):
        assert needed(n, kl, level) == pytest.approx(3.0 / level)
    assert needed(n, np.array([0.5, 0.2, 0.4, 0.1]), 0.2) == pytest.approx(100)  # the first time
    assert needed(n, np.array([0.5, 0.4, 0.3, 0.1]), 0.2) == pytest.approx(1000 * 10 ** (math.log(1.5) / math.log(3)))
    assert math.isnan(needed(n, kl, 1e-4)) and math.isnan(needed(n, kl, 0.3)) and math.isnan(needed(n, kl, 1.0))
    assert math.isnan(needed(n, np.array([0.5, np.nan, 0.1, 0.05]), 0.2)) and math.isnan(needed(n, np.full(4, np.nan), 0.2))


def test_repetitions_by_their_count():
    best = xarray.Dataset({"kl": ("run", [3.0, 1.0, 5.0, 2.0])}, {"n": ("run", [30, 10, 30, 10])})
    n, kl = by_count(best)
    assert n.tolist() == [10, 30] and kl.tolist() == [[1.0, 3.0], [2.0, 5.0]]




def test_no_n_is_enough(tmp_path, monkeypatch):
    """Nor do the figures need any."""

    def solve(settings, hidden, dimension, regime):
        return xarray.Dataset({"kl": ("run", np.full(len(settings.n), 0.4))}, {"n": ("run", list(settings.n))})

    monkeypatch.setattr(hidden_dimension, "solve", solve)
    main(Settings(out=tmp_path))
    rows = json.loads((tmp_path / "quick" / "report.json").read_text())["rows"]
    assert [row["F1_needs"] for row in rows] == ["nan", "nan"] and (tmp_path / "quick" / "hidden_dimension.pdf").exists()
