"""The experiment on likelihood on S^2: its teacher and data, its smoothing beside loops, and a small one from end to end."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from experiments import reference, sphere2_likelihood
from experiments.sphere2_likelihood import (
    EVERY,
    Settings,
    completed,
    data,
    method_of,
    rates_of,
    ratios,
    smoothed,
    teacher,
)


def test_the_presets():
    assert completed(Settings()).seeds == 2 and completed(Settings(preset="paper")).seeds == 5 and completed(Settings(seeds=3)).seeds == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'; did you mean 'paper'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(first_seed=-1), "first_seed is -1"),
        (dict(steps=0), "steps is 0"),
        (dict(steps=25), "steps is 25; it must be a multiple of 10"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        completed(Settings(**changes))


def test_the_teacher_is_as_far_from_the_uniform_measure_as_the_authors():
    """By a product grid of its own, and the first value of their curve, whose network is all but zero after an iteration."""
    target = teacher()
    one, two = np.asarray(target.energy.positions, float)
    assert np.arccos(one @ two) == pytest.approx(2.552, abs=1e-5)
    z, weight = np.polynomial.legendre.leggauss(400)
    angle = 2 * np.pi * (np.arange(800) + 0.5) / 800
    ring = np.sqrt(1 - z[:, None] ** 2)
    x = np.stack([ring * np.cos(angle), ring * np.sin(angle), np.broadcast_to(z[:, None], (400, 800))], axis=-1)
    energy = -1.25 * (np.maximum(x @ one, 0) + np.maximum(x @ two, 0))
    p = weight[:, None] / 2 / 800 * np.exp(-energy)
    kl = -np.sum(p * energy) / p.sum() - np.log(p.sum())
    assert target.kl_to_uniform == pytest.approx(kl, abs=1e-5)
    assert reference.author_sphere2_likelihood()[1][0] == pytest.approx(kl, rel=0.05)


def test_the_data_are_the_teacher(monkeypatch):
    monkeypatch.setattr(sphere2_likelihood, "POINTS", 40_000)
    monkeypatch.setattr(sphere2_likelihood, "NODES", 20)
    target, means = teacher(), {}
    for preset, count in (("quick", 800), ("paper", 40_000)):
        found = data(jax.random.key(0), preset)
        assert found.points.shape == (count, 3)
        weights = np.asarray(jax.nn.softmax(found.log_weights), float)
        means[preset] = np.sum(weights * np.asarray(target.energy(found.points), float))
    exact = -target.kl_to_uniform - target.log_partition
    assert means["quick"] == pytest.approx(exact, abs=2e-3) and means["paper"] == pytest.approx(exact, abs=0.02)
    other = data(jax.random.key(1), "paper").points
    assert not np.array_equal(other, data(jax.random.key(0), "paper").points)
    np.testing.assert_array_equal(data(jax.random.key(1), "quick").points, data(jax.random.key(0), "quick").points)


def test_the_cases():
    kinds = dict(stay=WeightedLikelihood, react=WeightedLikelihood, network=Likelihood)
    assert set(sphere2_likelihood.CASES) == set(kinds)
    for case, kind in kinds.items():
        method = method_of(case)
        assert type(method) is kind and (method.neurons, method.chains, method.sampler) == (64, 10_000, "importance")
    stay, react, network = map(rates_of, kinds)
    assert (stay.reaction_step, react.reaction_step) == (0, 1)
    assert (react.charge_step, react.transport_step, react.charge_decay) == (1, 1, 1e-4)
    assert (network.learning_rate, network.position_rate, network.weight_decay) == (1, 1, 1e-4)


def test_the_weights_stay_or_react(monkeypatch):
    monkeypatch.setattr(sphere2_likelihood, "NODES", 10)
    for case in ("stay", "react"):
        method, points = WeightedLikelihood(teacher().space, neurons=4, chains=100), data(jax.random.key(0), "quick")
        state = method.init(jax.random.key(1), rates_of(case), points)
        for i in range(3):
            state, _ = method.step(jax.random.key(i), state, rates_of(case), points)
        assert (np.abs(np.asarray(state.neurons.log_weights)).max() > 1e-4) == (case == "react")
        assert float(jnp.abs(state.neurons.charges).min()) > 0


# -- Reading ----------------------------------------------------------------------------------------------


def test_the_smoothing():
    rng = np.random.default_rng(0)
    steps, kl = np.arange(1, 2001), rng.uniform(0.1, 1, 2000)
    for at in (1, 7, 100, 1990):
        near = [float(kl[i]) for i in range(2000) if at / 1.2 < steps[i] < at * 1.2]
        assert smoothed(steps, kl, at) == pytest.approx(np.exp(np.mean(np.log(near))))
    sparse = np.array([10.0, 1000.0])
    assert smoothed(sparse, np.array([0.1, 0.001]), 100) == pytest.approx(0.01)  # none is near: between them
    assert smoothed(sparse, np.array([0.1, 0.001]), 5) == pytest.approx(0.1)  # before the first


def found_of(kl, steps):
    return xarray.Dataset({"kl": (("step", "seed"), np.asarray(kl).T)}, {"step": steps, "seed": np.arange(len(kl))})


def test_the_ratios(monkeypatch):
    """To a curve of which ours are 1 and 4 times: the geometric mean is 2, and the record at the start counts for nothing."""
    iterations, steps = np.arange(1.0, 4001.0), np.arange(0, 1001, EVERY)
    monkeypatch.setattr(reference, "author_sphere2_likelihood", lambda: (iterations, np.full(4000, 0.03)))
    found = ratios(found_of([np.where(steps == 0, 99, 0.03), np.where(steps == 0, 99, 0.12)], steps))
    assert min(found) == EVERY and max(found) == 1000
    assert list(found.values()) == pytest.approx([2.0] * len(found))
    monkeypatch.setattr(reference, "author_sphere2_likelihood", lambda: (iterations, 1 / iterations))
    power = ratios(found_of([3 / np.maximum(steps, 1)], steps))
    assert power[1000] == pytest.approx(3, rel=0.01)  # neither curve is smoothed over what the other lacks
    assert all(abs(ratio / 3 - 1) < 0.2 for ratio in power.values())
    longer = ratios(found_of([3 / np.maximum(np.arange(0, 5001, EVERY), 1)], np.arange(0, 5001, EVERY)))
    assert max(longer) == 4000 and longer[4000] == pytest.approx(3, rel=0.01)
    assert list(ratios(found_of([[1.0, 3.0 / EVERY]], [0, EVERY]))) == [EVERY]  # one record


