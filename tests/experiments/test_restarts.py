"""Restarts: the witness after them against NumPy, the annealed rates, the rows on known curves, and small studies from end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm.data import targets
from dualebm.methods import dual, presets
from dualebm.sweeps.grid import Study, settings_of
from experiments.restarts import annealed, continuum, noise
from experiments.restarts.__main__ import main
from experiments.restarts.annealed import SHAPES
from experiments.restarts.noise import WAYS
from experiments.restarts.problem import Settings, cells, problems


def test_the_witness_after_a_restart_against_numpy():
    """Its mean over draws is that of NumPy's own projected steps; its noise at a step of nearly 0 is that of sampling N points, or none."""
    target = targets.teacher("s2_bimodal")
    data = targets.sample(jax.random.key(0), target, 40)[0]
    method = presets.program(target.space)
    theta = np.asarray(method.init(jax.random.key(0), method.rates, data).atoms.positions, np.float64)
    x, rng, step = np.asarray(data.points, np.float64), np.random.default_rng(0), 0.1
    phi = lambda x: np.maximum(x @ theta.T, 0)  # noqa: E731
    gradient = -((x @ theta.T > 0) @ theta) / len(theta)
    y = x - step * gradient + np.sqrt(2 * step) * rng.normal(size=(4000, *x.shape))
    expected = phi(y / np.linalg.norm(y, axis=-1, keepdims=True)).mean((0, 1)) - phi(x).mean(0)
    keys = jax.random.split(jax.random.key(1), 500)
    sampling = np.sqrt(np.mean(phi(x).var(0)) / (2 * len(x)))
    for way in WAYS:
        found = noise.witnesses(keys, target, data, step, way)
        np.testing.assert_allclose(found.mean(0), expected, atol=5 * found.std(0).max() / np.sqrt(len(keys)))
        least = np.sqrt(np.mean(noise.witnesses(keys, target, data, 1e-6, way).var(0)))
        np.testing.assert_allclose(least, sampling, rtol=0.1) if way == WAYS[0] else np.testing.assert_array_less(least, 0.01 * sampling)


def test_annealed_rates():
    rates = presets.program_rates()
    at = lambda shape, step: float(jnp.asarray(SHAPES[shape](10)(jnp.int32(step))))  # noqa: E731
    steps = np.arange(0, 13)
    line = np.clip(1 - steps / 10, 0, 1)
    np.testing.assert_allclose([at("linear", t) for t in steps], line, atol=1e-6)
    np.testing.assert_allclose([at("reversed", t) for t in steps], 1 - line, atol=1e-6)
    np.testing.assert_allclose([at("cosine", t) for t in steps], (1 + np.cos(np.pi * (1 - line))) / 2, atol=1e-6)
    np.testing.assert_allclose([at("exponential", t) for t in steps], np.maximum(1e-3, 10 ** (-0.3 * steps)), rtol=1e-5)
    # Where the method itself restarts, in iterations step + 1 <= 10, the age factor is there in the same ones.
    assert [at("step", t) for t in steps] == [at("step_in_order", t) for t in steps] == [float(t + 1 <= 10) for t in steps]
    for age, factor in ((True, 1 + 0.1 * 0.5 / 0.02), (False, 1.0)):
        found = annealed.annealed(SHAPES["linear"](10), age)(5, rates)
        assert float(found.restart_probability) == 0.5 and found.particle_step == rates.particle_step
        np.testing.assert_allclose([found.transport_step, found.reaction_step], 0.2 * factor, rtol=1e-6)
    assert annealed.annealed(SHAPES["step_in_order"](10), True, bernoulli=False)(0, rates).restart_probability == 0
    (chosen,) = problems(Settings(), "annealed")
    variant = annealed.annealed_variant(chosen, "step_in_order", 10, True)
    assert (variant.method.restart_every, variant.method.restart_until) == (1, 10)
    assert variant.schedule is not None
    with_age = variant.schedule(0, variant.rates)
    assert float(with_age.transport_step) == pytest.approx(presets.program_rates(1).transport_step)
    on_top = annealed.annealed_variant(chosen, "linear", 10, False, default=True)
    before = dual.annealing()(5, on_top.rates)
    assert on_top.schedule is not None
    assert on_top.schedule(5, on_top.rates)._replace(restart_probability=0.0) == before


def test_the_rows_of_known_curves():
    """KL 1 / period + seed at the end, 0.1 less in the middle."""
    (known,) = problems(Settings(preset="paper", periods=(2, 5), teachers=("s2_bimodal",)), "continuum")
    runs = [(a, kind, k, seed) for a in ("program", "MALA") for kind, k in cells((2, 5)) for seed in (0, 1)]
    assert [kind for _, kind, k, _ in runs if k == 0] == ["periodic"] * 4
    end = np.array([(1 / k if k else 0) + seed + (10 if kind == "bernoulli" else 0) for _, kind, k, seed in runs])
    kl = ("run", "step"), np.stack([end + 5, end - 0.1, end], 1)
    names = ("algorithm", "restarts", "period", "seed")
    coordinates = {name: ("run", [run[i] for run in runs]) for i, name in enumerate(names)} | {"step": [0, 20, 40]}
    results = xarray.Dataset({"kl": kl, "score": kl, "total_variation": kl}, coordinates)
    rows = continuum.rows_of(known, results)
    assert len(rows) == 10
    row = next(row for row in rows if (row["restarts"], row["k"], row["algorithm"]) == ("bernoulli", 5, "MALA"))
    said = [row[name] for name in ("p_R", "KL", "KL_least", "KL_largest", "best_KL", "best_at")]
    assert said == pytest.approx([0.2, 10.7, 10.2, 11.2, 10.6, 20])
    assert rows[0]["restarts"] == "none" and rows[0]["KL"] == 0.5
    figure = continuum.figure_of([known], [results])
    bernoulli = next(line for line in figure.axes[0].lines if line.get_label() == "program, Bernoulli")
    np.testing.assert_allclose(np.array(bernoulli.get_data()), [[0.5 / 1.1**0.5, 0.2 / 1.1**0.5], [11.0, 10.7]])  # beside the others


def test_annealed_are_chosen_on_some_seeds_and_told_on_others(tmp_path, monkeypatch):
    """With runs of known KL: the least on the first seeds is chosen, and told with what the other seeds say of it."""
    asked = []

    def known(problem, settings, grid, method, rates, folder, schedule=None):
        asked.append((folder.parent.name, folder.name, grid["seed"]))
        level = 0.1 if folder.name == "exponential_100_age" and folder.parent.name == "choosing" else 0.2
        level = 0.05 if folder.name == "reversed_100_age" else level  # a control, which may not be chosen
        kl = [[1.0, level + 0.01 * (seed % 2), level + 0.01 * (seed % 2)] for seed in grid["seed"]]
        return xarray.Dataset({"kl": (("run", "step"), kl)}, {"step": [0, 20, 40]})

    monkeypatch.setattr(annealed, "trained", known)
    main(Settings(only=("annealed",), out=tmp_path))
    content = json.loads((tmp_path / "quick_annealed" / "report.json").read_text())
    assert "chosen was exponential, 100, age factor" in content["summary"]
    assert "bands overlap (0 of 2 seeds lower, differences 0 to 0)" in content["summary"]
    assert {tuple(seeds) for part, _, seeds in asked if part == "choosing"} == {(0, 1)}
    assert {tuple(seeds) for part, _, seeds in asked if part == "telling"} == {(100, 101)}
    assert ("telling", "default_exponential_100", [100, 101]) in asked
    row = next(row for row in content["rows"] if row["variant"] == "exponential, 100, age factor" and row["part"] == "choosing")
    assert [row["KL"], row["KL_least"], row["KL_largest"]] == pytest.approx([0.105, 0.1, 0.11]) and row["to_0.1"] == "inf"
    assert (tmp_path / "quick_annealed" / "annealed_s14_monomodal.png").stat().st_size > 10_000


def test_the_runs_of_the_continuum(tmp_path, monkeypatch):
    """Periodic restarts are the method's and Bernoulli ones a rate, and the neuron steps of both are the program's."""

    def planned(problem, settings, grid, method, rates, folder):
        runs = [Study(method, rates, None, {}).replica(i, run) for i, run in enumerate(settings_of(grid))]
        for run in runs:
            every, probability = run.method.restart_every, run.rates.restart_probability
            k = run.settings["period"]
            assert (every, probability) == ((k or None, 0) if run.settings["restarts"] == "periodic" else (None, 1 / k))
            assert run.rates._replace(restart_probability=0.0) == presets.program_rates(k or None, problem.neuron_step)
            assert run.method.integrator == {"program": "projected", "MALA": "mala"}[run.settings["algorithm"]]
        seen.append((problem.name, len(runs)))
        names = ("algorithm", "restarts", "period", "seed")
        values = ("run", "step"), np.ones((len(runs), 2))
        coordinates = {name: ("run", [run.settings[name] for run in runs]) for name in names}
        return xarray.Dataset(dict.fromkeys(("kl", "score", "total_variation"), values), coordinates | {"step": [0, 20]})

    seen = []
    monkeypatch.setattr(continuum, "trained", planned)
    main(Settings(preset="paper", only=("continuum",), teachers=("s14_bimodal", "s2_bimodal"), out=tmp_path))
    cells = (1 + 2 * 7) * 2 * 4
    assert seen == [("s14_bimodal", cells), ("s2_bimodal", cells)]
    assert (tmp_path / "paper_continuum" / "continuum.png").stat().st_size > 10_000




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'"),
        (dict(only=("annealing",)), "only is 'annealing'"),
        (dict(teachers=("s3",)), "teachers is 's3'"),
        (dict(periods=(0,)), "periods is 0"),
        (dict(steps=30), "steps is 30; it must be a multiple of 20"),
        (dict(seeds=101), "seeds is 101; it must be at most 100"),
        (dict(n=0), "n is 0"),
        (dict(test_points=0), "test_points is 0"),
    ],
)
def test_bad_settings_are_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(Settings(out=tmp_path / "none", **changes))
    assert not (tmp_path / "none").exists()
