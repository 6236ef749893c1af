"""The command from end to end: on a planted teacher, interrupted, on every space, and with what is not allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import model_files
from dualebm.cli import fit as fitting
from dualebm.cli import main
from dualebm.spaces import Torus
from dualebm.training import run_folder
from tests.package.test_cli import QUICK, call, done, fewer_draws  # noqa: F401, which holds for every test here

LINE = ["--space", "euclidean", "--method", "dual", "--standardise", "--neurons", "32", "--steps", "600", "--every", "100"]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Two peaks far from the standard Gaussian, and the model of them, standardised."""
    folder = tmp_path_factory.mktemp("line")
    draws = np.random.default_rng(0)
    peaks = np.where(draws.integers(0, 2, 1500), 996.0, 1004.0) + draws.normal(size=1500)
    np.savetxt(folder / "data.csv", peaks)
    assert main.main(["fit", str(folder / "data.csv"), *LINE, "--out", str(folder / "fit")]) == 0
    return folder


def test_standardised_data_come_back_in_their_units(line, capsys):
    """The density in Lebesgue measure integrates to 1 over the data's own units, and is that of the peaks."""
    grid = np.linspace(980, 1020, 4001)
    np.savetxt(line / "grid.csv", grid)
    out = done(capsys, "score", line / "fit", line / "grid.csv", "--out", line / "scores.csv")
    names = (line / "scores.csv").read_text().splitlines()[0].split(",")
    base, lebesgue = np.loadtxt(line / "scores.csv", delimiter=",", skiprows=1).T
    assert names == ["log_density_base", "log_density_lebesgue"] and "by importance sampling; the effective" in out
    found = model_files.load(line / "fit")
    (mean,), (scale,) = found.preparation.mean, found.preparation.scale
    assert abs(np.sum(np.exp(lebesgue)) * 0.01 - 1) < 5 * found.log_partition.standard_error + 2e-3
    peaks = 0.5 * sum(np.exp(-((grid - m) ** 2) / 2) for m in (996, 1004)) / np.sqrt(2 * np.pi)
    assert np.sum(peaks * (np.log(peaks) - lebesgue)) * 0.01 < 0.4  # 0.72 of the Gaussian that has their variance
    standard = (grid - mean) / scale
    np.testing.assert_allclose(
        lebesgue - base, -0.5 * standard**2 - 0.5 * np.log(2 * np.pi) - np.log(scale), rtol=1e-4
    )
    kept, _ = fitting.split_rows(jax.random.split(jax.random.key(0), 3)[0], 1500, 0.2)
    rows = np.loadtxt(line / "data.csv")[kept]
    assert mean == pytest.approx(rows.mean()) and scale == pytest.approx(rows.std())
    done(capsys, "sample", line / "fit", "--count", 2000, "--out", line / "samples.csv")
    samples = np.loadtxt(line / "samples.csv", skiprows=1)
    assert abs(samples.mean() - 1000) < 1 and abs(samples.std() - np.sqrt(17)) < 0.5


def test_data_far_from_the_base_measure_are_told_of(line, tmp_path, capsys):
    code, _, err = call(capsys, "fit", line / "data.csv", "--space", "euclidean", *QUICK, "--out", tmp_path / "a")
    assert code in (0, 1) and "note: columns have means up to 1e+03" in err and "--standardise brings" in err
    np.save(tmp_path / "standard.npy", np.random.default_rng(0).normal(size=(100, 2)).astype("float32"))
    code, _, err = call(capsys, "fit", tmp_path / "standard.npy", "--space", "euclidean", *QUICK, "--out", tmp_path / "b")
    assert code == 0 and "columns have" not in err


def test_torus_in_double_precision(tmp_path, capsys):
    draws = np.random.default_rng(0)
    np.save(tmp_path / "angles.npy", (3.0 + 0.6 * draws.normal(size=(400, 2))) % 6.0)
    flags = ["--space", "torus", "--method", "dual", "--period", 6, "--precision", 64, "--steps", 200, "--every", 50, "--neurons", 16]
    out = done(capsys, "fit", tmp_path / "angles.npy", *flags, "--out", tmp_path / "fit")
    assert "Torus(dimension=2, period=6.0, base=Uniform()), 80 held out\n200 iterations" in out
    with jax.enable_x64(True):
        found = model_files.load(tmp_path / "fit")
        assert found.energy.positions.dtype == jnp.float64 and found.preparation.space == Torus(2, 6.0)
        assert run_folder.open_results(tmp_path / "fit").acceptance.dtype == np.float64
    with pytest.raises(ValueError, match="holds 64-bit arrays"):
        model_files.load(tmp_path / "fit")
    done(capsys, "sample", tmp_path / "fit", "--count", 500, "--steps", 300, "--out", tmp_path / "s.npy")
    samples = np.load(tmp_path / "s.npy")
    assert samples.dtype == np.float64 and samples.shape == (500, 2) and 0 <= samples.min() <= samples.max() < 6
    assert np.mean(np.abs(samples - 3) < 1.5) > 0.6  # 0.25 of the base measure
    out = done(capsys, "score", tmp_path / "fit", tmp_path / "angles.npy", "--out", tmp_path / "scores.npy")
    scores = np.load(tmp_path / "scores.npy")
    assert scores.shape == (400, 2) and scores.dtype == np.float64 and f"{scores[:, 1].mean():.6g}" in out
    np.testing.assert_allclose(scores[:, 1], scores[:, 0] - 2 * np.log(6), rtol=1e-6)
    assert not jax.config.jax_enable_x64


def test_a_collapse_is_said_in_words_in_the_results_and_in_the_notes(tmp_path, capsys):
    """Unadjusted moves of far too long a step: log Z by the walkers is wrong by nats, and the fit says so everywhere, each kind once."""
    draws = np.random.default_rng(0)
    np.savetxt(tmp_path / "rows.csv", 0.4 * draws.normal(size=(300, 2)) + np.where(draws.integers(0, 2, (300, 1)), 1.0, -1.0))
    fit = ["fit", tmp_path / "rows.csv", "--space", "euclidean", "--method", "jarzynski", "--start", "mlp", "--width", 16, "--depth", 1]
    fit += ["--walkers", 500, "--steps", 400, "--every", 20, "--learning-rate", 0.02, "--out", tmp_path / "out"]
    code, out, err = call(capsys, *fit, "--target", "none", "--renewal", "none", "--integrator", "geodesic", "--particle-step", 0.6)
    assert code == 0 and "fit_cross_entropy" in out and "(NOT TO BE TRUSTED)" in out
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert any("log Z by the particles of the training is" in note for note in notes)
    assert any("the particles descend from" in note or "descend from" in note or "collapsed" in note for note in notes)
    assert len(notes) == len({" ".join(note.split()[3:8]) for note in notes})  # no kind twice
    about = model_files.read(tmp_path / "out")
    assert about["log_partition_by_particles"]["standard_error"] is None and about["checks"][-1]["step"] <= 400
    assert any("NOT TO BE TRUSTED" in note for note in about["notes"])


def test_a_training_by_default_says_a_true_log_z(tmp_path, capsys):
    draws = np.random.default_rng(0)
    np.savetxt(tmp_path / "rows.csv", 0.4 * draws.normal(size=(300, 2)) + np.where(draws.integers(0, 2, (300, 1)), 1.0, -1.0))
    fit = ["fit", tmp_path / "rows.csv", "--space", "euclidean", "--method", "jarzynski", "--start", "mlp", "--width", 16, "--depth", 1]
    out = done(capsys, *fit, "--walkers", 1000, "--steps", 400, "--every", 20, "--out", tmp_path / "out")
    about = model_files.read(tmp_path / "out")
    said, known = about["log_partition_by_particles"], about["log_partition"]
    assert abs(said["value"] - known["value"]) < 5 * said["standard_error"] and said["standard_error"] < 0.2
    assert "NOT TO BE TRUSTED" not in out and about["checks"][-1]["step"] == 400
