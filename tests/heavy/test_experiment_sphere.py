"""The experiment on S^2: exact numbers, records that are the run's, log-spaced frames, a small run from end to end, bad settings."""

import json

import imageio_ffmpeg
import jax
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.plotting import maps, projection
from dualebm.training.run import run
from experiments import sphere
from experiments.sphere import EARLY, Settings, frame, main, problem, scale_of, train

STEPS = 500


SMALL = dict(n=60, seeds=1, steps=STEPS)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("sphere")


@pytest.fixture(scope="module")
def trained(out):
    settings = Settings(**SMALL, out=out)
    return train(settings, scale_of(settings), "s2_bimodal", "program", 0)


def test_two_folders_are_one_run(trained, tmp_path):
    """Early records, and the later part, equal a run of one call; the records of the maps are its state's."""
    assert trained.step.values.tolist() == [*range(0, EARLY, 5), EARLY, STEPS]
    target = targets.teacher("s2_bimodal")
    run_key, data_key = jax.random.split(jax.random.key(0))
    data, _ = targets.sample(data_key, target, SMALL["n"])
    method, rates, _ = problem("program", "s2_bimodal")
    state, _ = run(run_key, method, rates, data, steps=STEPS, every=100, metrics={}, progress=False)
    last = trained.sel(step=STEPS)
    np.testing.assert_allclose(last.positions, state.atoms.positions, atol=1e-4)
    np.testing.assert_allclose(last.coefficients, -np.exp(state.atoms.log_weights), rtol=1e-3)
    np.testing.assert_allclose(last.particles, state.particles, atol=1e-3)


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
        density = maps.density_map(frame(trained, step).energy, 40)
        points, inside = projection.map_points(40)
        expected = np.exp(-np.maximum(points[inside] @ at.positions.values.T, 0) @ at.coefficients.values / 64)
        np.testing.assert_allclose(density[inside], expected / expected.mean(), rtol=1e-3)


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
    assert "KL at" in told["summary"] and "authors' program" in capsys.readouterr().out
