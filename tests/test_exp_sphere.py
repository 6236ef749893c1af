"""The experiment on S^2: exact numbers, records that are the run's, log-spaced frames, a small run from end to end, bad settings."""

import json

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm import metrics, sphere_plot, targets
from dualebm.energy import Shallow
from dualebm.features import ReLU
from dualebm.methods import dual
from dualebm.run import run
from dualebm.spaces import Sphere
from experiments import reference, sphere
from experiments.sphere import EARLY, Settings, frame, log_spaced, main, problem, rows_of, scale_of, train

STEPS = 500
SMALL = dict(n=60, seeds=1, steps=STEPS)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("sphere")


@pytest.fixture(scope="module")
def trained(out):
    settings = Settings(**SMALL, out=out)
    return train(settings, scale_of(settings), "s2_bimodal", "program", 0)


def test_methods_are_those_of_the_archive_and_our_default():
    program, rates, schedule = problem("program")
    assert program == dual.program(Sphere(3), budget=False) and schedule is None
    assert rates == dual.DualRates(0.02, 0.04, 0.04, 0.0, 10.0)
    ours, rates, schedule = problem("default")
    assert ours == dual.Dual(Sphere(3)) and rates == ours.rates
    np.testing.assert_allclose([schedule(t, rates).radius for t in (0, 200, 400, 4000)], [5, 7.5, 10, 10])


@pytest.mark.heavy
def test_two_folders_are_one_run(trained, tmp_path):
    """Early records, and the later part, equal a run of one call; the records of the maps are its state's."""
    assert trained.step.values.tolist() == [*range(0, EARLY, 5), EARLY, STEPS]
    target = targets.teacher("s2_bimodal")
    run_key, data_key = jax.random.split(jax.random.key(0))
    data, _ = targets.sample(data_key, target, SMALL["n"])
    method, rates, _ = problem("program")
    state, _ = run(run_key, method, rates, data, steps=STEPS, every=100, metrics={}, progress=False)
    last = trained.sel(step=STEPS)
    np.testing.assert_allclose(last.positions, state.atoms.positions, atol=1e-4)
    np.testing.assert_allclose(last.coefficients, -np.exp(state.atoms.log_weights), rtol=1e-3)
    np.testing.assert_allclose(last.particles, state.particles, atol=1e-3)


@pytest.mark.heavy
def test_the_recorded_kl_is_exact(trained):
    """The KL of a record, by a quadrature of its own in NumPy float64, with four times the nodes."""
    target = targets.teacher("s2_bimodal")
    nodes = target.quadrature(nodes=200)
    tau = np.exp(np.asarray(nodes.log_weights, float))
    tau /= tau.sum()
    for step in (0, 100, STEPS):
        at = trained.sel(step=step)
        x = np.asarray(nodes.points, float)
        student = np.maximum(x @ at.positions.values.T.astype(float), 0) @ at.coefficients.values / 64
        taught = np.maximum(x @ np.asarray(target.energy.positions, float).T, 0) @ np.asarray(target.energy.coefficients, float) / 2
        p = tau * np.exp(-taught)
        p /= p.sum()
        kl = p @ (student - taught) + np.log(tau @ np.exp(-student)) - np.log(tau @ np.exp(-taught))
        assert float(at.kl) == pytest.approx(kl, rel=1e-3)
        density = sphere_plot.density_map(frame(trained, step).energy, 40)
        points, inside = sphere_plot.map_points(40)
        expected = np.exp(-np.maximum(points[inside] @ at.positions.values.T, 0) @ at.coefficients.values / 64)
        np.testing.assert_allclose(density[inside], expected / expected.mean(), rtol=1e-3)


def test_frames_are_spaced_in_the_logarithm():
    steps = np.array([*range(0, 400, 5), *range(400, 40_001, 100)])
    chosen = log_spaced(steps, 60)
    assert chosen[:4] == [0, 5, 10, 15] and chosen[-1] == 40_000 and 45 <= len(chosen) <= 60
    assert set(chosen) <= set(steps.tolist()) and chosen == sorted(set(chosen))
    assert np.diff(np.log(chosen[1:]))[10:].max() < 0.3


def test_rows_are_means_over_seeds_beside_the_archive():
    kl = np.array([[0.6, 0.5, 0.2, 0.01], [0.7, 0.6, 0.1, 0.03]])
    values = dict.fromkeys(("kl", "score", "total_variation"), (("lane", "step"), kl))
    runs = xarray.Dataset(values, {"step": [0, 80, 400, 4_000]})
    rows = rows_of("s2_bimodal", "program", runs)
    assert [row["iteration"] for row in rows] == [0, 80, 400, 4_000]
    assert (rows[3]["kl"], rows[3]["least"], rows[3]["largest"]) == pytest.approx((0.02, 0.01, 0.03))
    theirs = reference.author_runs("d3_bimodal_n1000_p_R=0")
    at_400 = theirs["KL"]["mean"][theirs["iterations"].tolist().index(400)]
    assert rows[2]["archived_kl"] == pytest.approx(at_400, rel=0.05) and rows[0]["archived_kl"] is None
    assert all(row["archived_kl"] is None for row in rows_of("s2_bimodal", "default", runs))


@pytest.mark.heavy
def test_end_to_end(out, trained, capsys, monkeypatch):
    """By the authors' program alone, whose run is done: it is found in its folder."""
    monkeypatch.setattr(sphere, "TEACHERS", ("s2_bimodal",))
    monkeypatch.setattr(sphere, "METHODS", {"program": "the authors' program"})
    rows = main(Settings(**SMALL, frames=4, out=out))
    assert [row["kl"] for row in rows] == [float(trained.kl.sel(step=step)) for step in (0, 80, 400, STEPS)]
    assert rows[3]["kl"] < 0.5 * rows[0]["kl"]
    told = json.loads((out / "report.json").read_text())
    assert set(told["figures"]) == {f"s2_bimodal{end}" for end in (".mp4", "_program.png", "_curves.png")}
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "s2_bimodal.mp4"))[0] == 4
    assert "KL at" in told["told"] and "authors' program" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(n=0), "n is 0"),
        (dict(frames=0), "frames is 0"),
        (dict(steps=400), "steps is 400; it must be a multiple of 100 above 400"),
        (dict(steps=1_050), "steps is 1050"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_monitors_are_exact_at_the_zero_energy():
    """KL(teacher || uniform) by the nodes that the experiment uses."""
    for name in sphere.TEACHERS:
        target = targets.teacher(name)
        nodes = metrics.exact_samples(target.energy, target.quadrature())
        zero = metrics.relative_entropy(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), target.energy(nodes.points), nodes)
        assert float(zero) == pytest.approx(target.kl_to_uniform, rel=1e-4)
