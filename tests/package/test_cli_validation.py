"""`dualebm fit` of an energy by one method: validation rows, the energy that they keep, and the end of the training that they say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import model_files, rivals
from dualebm.cli import evaluate, main
from dualebm.cli import fit as fitting
from dualebm.log_z import estimate
from dualebm.training import run_folder
from dualebm.training.run import run

FLAGS = ["--space", "euclidean", "--method", "jarzynski", "--width", "16", "--walkers", "200", "--renewal", "none", "--every", "5"]
LEARNT = ["--steps", "300", "--validation", "0.15", "--learning-rate", "0.005", "--energy-penalty", "0"]
COUNT, VALIDATED = 40, 6  # of 50 rows 10 are held out, and 15% of the others validate


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "LARGEST_DRAWS", 2**16)
        patch.setattr(estimate, "CHAINS", 2**10)
        patch.setattr(evaluate, "ANNEALED_SAMPLES", 1000)
        patch.setattr(rivals, "COMPONENTS", 1)
        yield


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of the command in this process."""
    capsys.readouterr()
    code = main.main([str(a) for a in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """50 rows in the plane, which a network of 16 neurons learns by heart."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    np.savetxt(path, np.random.default_rng(0).normal(size=(50, 2)), "%.6g", ",", header="x,y", comments="")
    return path


def fit(capsys, table, out, *flags):
    return call(capsys, "fit", table, *FLAGS, *LEARNT, *flags, "--out", out)


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    """The folder of a fit that was not interrupted, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "fit"
    assert main.main(["fit", str(table), *FLAGS, *LEARNT, "--out", str(out)]) == 0
    return out


def test_the_model_is_the_energy_of_the_least_cross_entropy(folder):
    """An independent log Z of the model gives the validation rows the cross-entropy that is told, and the training went on after it."""
    header, records = model_files.read(folder), run_folder.open_results(folder).isel(run=0).load()
    kept, checks = header["kept"], records.check.values[:, 0]
    assert kept["rows"] == VALIDATED and kept["iteration"] == records.step.values[np.nanargmin(checks[:, 0])] < kept["done"]
    assert kept["cross_entropy"] == pytest.approx(np.nanmin(checks[:, 0])) and header["trained_on"]["rows"] == COUNT - VALIDATED
    fitted, data = model_files.load(folder), np.loadtxt(header["data"]["file"], delimiter=",", skiprows=1).astype("float32")
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-8, 8, 401)]), axis=-1).reshape(-1, 2).astype("float32")
    base = -0.5 * np.sum(grid.astype(float) ** 2, axis=1) - np.log(2 * np.pi)
    log_z = np.log(np.sum(np.exp(base - np.asarray(fitted.energy(jnp.asarray(grid)), float))) * 0.04**2)
    assert log_z == pytest.approx(header["log_partition"]["value"], abs=5 * header["log_partition"]["standard_error"] + 1e-3)
    assert header["log_partition_by_particles"]["value"] == pytest.approx(log_z, abs=0.3)
    split, _, partition = jax.random.split(jax.random.key(0), 3)
    held_in, _ = fitting.split_rows(split, 50, 0.2)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(partition, 3), COUNT))
    rows = data[held_in][order[-VALIDATED:]]
    value = np.mean(np.asarray(fitted.energy(jnp.asarray(rows)), float)) + log_z
    assert value == pytest.approx(kept["cross_entropy"], abs=5 * kept["standard_error"] + 1e-3)
    assert f"ept iteration {kept['iteration']} of {kept['done']}: least" in (folder / "report.html").read_text()
    assert header["records"].startswith(f"{kept['iteration']} iterations: ")


def test_a_training_that_has_clearly_risen_ends(folder):
    """Before its last step, and the same command then does no more of it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "stopped" and model_files.read(folder)["kept"]["done"] < 300


def test_a_training_that_adapts_ends_when_it_gets_no_better(table, tmp_path, capsys, monkeypatch):
    """The default number of iterations is the most that it may take."""
    monkeypatch.setattr(evaluate, "MOST_STEPS", 300)
    monkeypatch.setattr(fitting, "risen", lambda checks: False)
    code, told, err = call(capsys, "fit", table, *FLAGS, *LEARNT[2:], "--out", tmp_path / "fit")
    kept = model_files.read(tmp_path / "fit")["kept"]
    assert code == 0 and 3 * kept["iteration"] <= kept["done"] < 300 and f" of {kept['done']}: least" in told, err


def test_an_interrupted_fit_keeps_the_same_energy(folder, table, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        def stop(records):
            if len(records.step) > 6:
                raise KeyboardInterrupt
            return options["callback"](records)

        return run(*arguments, **{**options, "callback": stop})

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", interrupted)
        assert fit(capsys, table, tmp_path / "parts")[0] == 130
    for _ in range(2):  # the second call finds a fit that has ended
        code, told, err = fit(capsys, table, tmp_path / "parts")
        assert code == 0, err
        first, second = map(model_files.read, (folder, tmp_path / "parts"))
        for header in (first, second):
            header["settings"].pop("out")
            assert header.pop("seconds") > 0 and header.pop("command").startswith("dualebm fit ")
            header.pop("notes")  # a warning has the step at which a call has first seen its cause
        assert first == second and f"kept iteration {first['kept']['iteration']} of" in told


def test_an_error_names_the_default_number_of_iterations(table, tmp_path, capsys):
    for method, steps in (("jarzynski", 6000), ("dual", 2000)):
        code, _, err = call(capsys, "fit", table, "--space", "euclidean", "--method", method, "--every", 7, "--out", tmp_path / "fit")
        assert code == 2 and f"steps is {steps}; it must be a multiple of every, which is 7" in err


def test_without_validation_rows_the_last_energy_is_the_model(table, tmp_path, capsys):
    code, told, err = fit(capsys, table, tmp_path / "out", "--validation", 0, "--steps", 10)
    assert code == 0, err
    header = model_files.read(tmp_path / "out")
    assert header["kept"] is None and header["trained_on"]["rows"] == COUNT and "kept iteration" not in told


def test_a_fit_of_fixed_steps_says_that_it_went_back(table, tmp_path, capsys):
    """Steps of neurons that are far too long are halved. With --no-mend they stay, and the model is the last energy."""
    flags = ["--space", "euclidean", "--method", "dual", "--neurons", 16, "--steps", 100, "--every", 5, "--gap-chains", 0]
    code, told, err = call(capsys, "fit", table, *flags, "--transport-step", 100, "--reaction-step", 50, "--out", tmp_path / "a")
    assert code == 0, err
    kept = model_files.read(tmp_path / "a")["kept"]
    assert kept["halvings"] > 1 and kept["rows"] == 0 and kept["iteration"] > 0
    assert f"ept iteration {kept['iteration']} of 100, after all steps were halved {kept['halvings']} times: least" in told
    code, told, err = call(capsys, "fit", table, *flags, "--no-mend", "--out", tmp_path / "b")
    assert code == 0 and "kept iteration" not in told and model_files.read(tmp_path / "b")["kept"] is None, err
    code, told, err = call(capsys, "fit", table, *FLAGS, "--no-mend", "--out", tmp_path / "c")
    assert code == 2 and "mend is False, and this method adapts its steps" in err and not (tmp_path / "c").exists()


def test_which_methods_have_validation_rows_by_default():
    from dualebm.energies.networks import MLP
    from dualebm.measures import Samples
    from dualebm.methods.contrastive import Contrastive
    from dualebm.methods.dual import Dual
    from dualebm.methods.validated import Validated
    from dualebm.spaces import Sphere

    data, key = Samples(jnp.tile(jnp.eye(3), (10, 1))), jax.random.key(0)
    deep, ball = Contrastive(Sphere(3), MLP()), Dual(Sphere(3))
    made = lambda method, fraction, mend: evaluate.validated(key, method, data, 2000, 20, fraction, mend)  # noqa: E731
    assert made(deep, None, True)[0].rows == 6 and not made(deep, None, True)[0].mends
    assert made(ball, None, True)[0] == Validated(ball, 0, 60, mends=True) and made(ball, None, True)[1] == data
    assert made(ball, None, False) == (ball, data) and made(ball, 0.1, False)[0] == Validated(ball, 3, 60)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1", "validation is 1.0 of 40 rows, which is 40 rows; at least one must validate and one be left"),
        ("0.01", "validation is 0.01 of 40 rows, which is 0 rows; at least one must validate and one be left"),
        ("-0.1", "validation is -0.1"),
        ("some", "validation"),
    ],
)
def test_fractions_that_are_not_allowed(table, tmp_path, capsys, value, message):
    code, told, err = call(capsys, "fit", table, *FLAGS, "--steps", 10, "--validation", value, "--out", tmp_path / "out")
    assert code == 2 and told == "" and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
