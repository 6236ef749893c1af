"""`dualebm fit` without a method: base measure, feature and radius are chosen by validation."""

import json
import re

import numpy as np
import pytest

from dualebm import candidates, model
from dualebm.base_mixtures import MixtureBase
from dualebm.cli import main
from dualebm.data import stacking
from dualebm.data.bases import fit_normal
from dualebm.features import ScaledBump
from dualebm.training import simulate
from tests.package.test_cli import call, done, fewer_draws  # noqa: F401, which holds for every test here

SMALL = ["--stages", 2, "--iterations", 4, "--draws", 256, "--neurons", 8]
RNG = np.random.default_rng(0)
ROWS = np.concatenate([RNG.normal(size=(40, 2)) * 0.5, RNG.normal(size=(40, 2)) * 0.3 + [2.0, 1.0]]) * [10.0, 0.1] + [300.0, 0.0]


@pytest.fixture(scope="module", autouse=True)
def one_component():
    """Of the mixtures in the stacked base measure, whose fits and programs take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacking, "fit_mixture", lambda rows, count, seed, shares: MixtureBase((1.0,), (fit_normal(rows, shares),)))
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with rows of two groups in data.csv, and the fit of them in `fit`."""
    folder = tmp_path_factory.mktemp("chosen")
    np.savetxt(folder / "data.csv", ROWS, "%.17g", ",", header="length,width", comments="")
    words = ["fit", folder / "data.csv", "--space", "euclidean", *SMALL, "--paths", 2, "--out", folder / "fit"]
    assert main.main([str(word) for word in words]) == 0
    return folder


def words_of(fitted):
    return ["fit", fitted / "data.csv", "--space", "euclidean", *SMALL, "--paths", 2, "--out", fitted / "fit"]


def test_what_is_printed_and_stored_is_what_was_chosen(fitted, capsys, monkeypatch):
    """The second call prints it without an iteration."""
    before = (fitted / "fit" / "model.json").read_bytes()

    def no_training(*arguments):
        raise AssertionError("an iteration")

    monkeypatch.setattr(simulate, "run_intervals", no_training)
    code, out, err = call(capsys, *words_of(fitted))
    assert code == 0 and (fitted / "fit" / "model.json").read_bytes() == before
    header = json.loads(before)
    chosen, path = header["chosen"], header["path"]
    assert chosen in path and {stage["candidate"] for stage in path} == {"stacked scaled_bump", "normal scaled_bump"}
    assert header["settings"]["method"] == "auto" and header["settings"]["neurons"] == 8 and header["automatic"]["stages"] == 2
    assert out.startswith(f"64 rows of {fitted / 'data.csv'} on Euclidean(") and ", 16 held out\n" in out
    assert f"chosen of 2 candidates and {len(path)} radii: {chosen['candidate']}, radius " in out
    assert f"\nbase measure: {model.load(fitted / 'fit').preparation.space.base!r}\n" in out
    offset = model.log_unit(model.load(fitted / "fit").preparation)
    validated = re.search(r"validation: mean log density in Lebesgue measure of (\d+) of 64 rows = (\S+) \+- \S+ nat; the choice", out)
    assert int(validated[1]) in (24, 25, 26) and float(validated[2]) == pytest.approx(chosen["log_density"] - offset, rel=1e-4)
    assert "\nlog Z = " in out
    means = header["held_out"]
    assert means["rows"] == 16 and "trained_on" not in header
    lebesgue, base = (means[f"log_density_{name}"]["mean"] for name in ("lebesgue", "base"))
    assert f"\nheld out: mean log density in Lebesgue measure of 16 rows = {lebesgue:.6g} +- " in out
    relative = f"\nheld out: mean log density in the base measure of 16 rows = {base:.6g} +- "
    assert out.index("in Lebesgue measure of 16") < out.index(relative)
    assert out.endswith(f"written to {fitted / 'fit'}\n") and all(line.startswith("note: ") for line in err.splitlines())


def test_the_folder_is_scored_and_sampled_in_the_units_of_the_data(fitted, capsys):
    loaded = model.load(fitted / "fit")
    assert isinstance(loaded.energy.feature, ScaledBump)
    (mean, scale), rough = (np.asarray(loaded.preparation.mean), np.asarray(loaded.preparation.scale)), ROWS.std(axis=0)
    assert (np.abs(mean - ROWS.mean(axis=0)) < rough).all() and (np.abs(np.log(scale / rough)) < 0.3).all()  # of the rows trained on
    x = np.stack(np.meshgrid(np.linspace(260, 360, 150), np.linspace(-0.3, 0.3, 150)), axis=-1).reshape(-1, 2)
    np.savetxt(fitted / "grid.csv", x[:, ::-1], "%.17g", ",", header="width,length", comments="")  # columns go by their names
    done(capsys, "score", fitted / "fit", fitted / "grid.csv", "--out", fitted / "grid.npy")
    densities = np.exp(np.load(fitted / "grid.npy")[:, -1]) * (100 / 149) * (0.6 / 149)
    assert densities.sum() == pytest.approx(1, abs=0.02)
    out = done(capsys, "sample", fitted / "fit", "--count", 500, "--out", fitted / "samples.csv")
    assert re.match(r"weighted draws of the base measure, of which the fraction (0\.9\d*|1) counts\n500 samples written", out)
    samples = np.loadtxt(fitted / "samples.csv", delimiter=",", skiprows=1)
    assert (fitted / "samples.csv").read_text().startswith("length,width\n")
    spread = np.sqrt(densities @ (x - densities @ x / densities.sum()) ** 2)
    assert (np.abs(samples.mean(axis=0) - densities @ x / densities.sum()) < 5 * spread / np.sqrt(500)).all()
    assert (np.abs(np.log(samples.std(axis=0) / spread)) < 0.3).all()


def test_without_held_out_rows_the_value_is_of_all_folds(fitted, tmp_path, capsys):
    flags = ["--space", "euclidean", *SMALL, "--base", "normal", "--holdout", 0, "--out", tmp_path / "fit"]
    out = done(capsys, "fit", fitted / "data.csv", *flags)
    assert ", 0 held out" in out and "held out:" not in out
    assert "cross-validation: mean log density in Lebesgue measure of 80 of 80 rows = " in out
    header = model.read(tmp_path / "fit")
    assert header["automatic"]["paths"] == candidates.FOLDS and header["held_out"] == {"rows": 0}
    assert {stage["candidate"] for stage in header["path"]} == {"normal scaled_bump"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steps 100", "--steps is no flag of dualebm fit; it is one with --method contrastive, dual"),
        ("--standardise", "--standardise is no flag of dualebm fit; it is one with --method"),
        ("--radius 3", "--radius is no flag of dualebm fit; it is one with --method dual"),
        ("--stages 0", "stages is 0; it must be an integer of at least 1"),
        ("--paths 6", "paths is 6; it must be an integer from 1 to 5"),
        ("--paths none --stages 1 --iterations 1", "iterations is 1; it must be an integer of at least 2"),
        ("--base gaussian", "base is 'gaussian'; Allowed: 'auto', 'stacked', 'normal', 'uniform'"),
        ("--base uniform", "base is 'uniform' and space is Euclidean("),
        ("--feature bump", "feature is 'bump'; did you mean 'scaled_bump'? Allowed: 'auto', 'scaled_bump', 'relu'"),
        ("--method dual --stages 2", "--stages is no flag of dualebm fit --method dual; it is one with --method auto"),
        ("--holdout 0.9", "points has 8 rows; validation on 5 folds needs at least 10"),
        ("--method aut", "method is 'aut'; did you mean 'auto'?"),
    ],
)
def test_what_is_not_allowed_is_one_line_and_writes_nothing(fitted, tmp_path, capsys, flags, message):
    words = ["fit", fitted / "data.csv", "--space", "euclidean", *flags.split(), "--out", tmp_path / "fit"]
    code, out, err = call(capsys, *words)
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (code, out, len(errors)) == (2, "", 1) and message in errors[0], err
    assert not (tmp_path / "fit").exists()


def test_the_help_has_the_settings_of_the_choice(capsys):
    text = " ".join(done(capsys, "fit", "--help").replace("│", " ").split())
    for flag in ("--method", "--base", "--feature", "--neurons", "--stages", "--iterations", "--draws", "--paths", "--holdout", "--seed"):
        assert flag in text
    assert not [flag for flag in ("--steps", "--every", "--anneal", "--gap-chains", "--standardise", "--radius") if f"{flag} " in text]
    assert "default: auto" in text and "chosen by validation" in text


def test_show_prints_and_draws_the_radii(fitted, tmp_path, capsys):
    out = done(capsys, "show", fitted / "fit", "--out", tmp_path / "path.png")
    path = model.read(fitted / "fit")["path"]
    lines = out.splitlines()
    assert len(lines) == len(path) + 2 and sum(line.endswith("  chosen") for line in lines) == 1
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG") and "drawn in" in lines[-1]
    code, _, err = call(capsys, "show", fitted / "fit", "--metric", "kl")
    assert code == 2 and "metric is 'kl'" in err
