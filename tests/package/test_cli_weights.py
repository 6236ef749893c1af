"""`dualebm fit` and `dualebm score` of a table with a column of weights."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from dualebm import model, model_files, row_weights
from dualebm.cli import commands, main
from dualebm.cli import fit as fitting
from dualebm.methods import registry
from tests.package.test_cli import call, done, fewer_draws  # noqa: F401, which holds for every test here
from tests.package.test_cli_auto import one_component  # noqa: F401, which holds for every test here

TINY = ["--stages", 1, "--iterations", 2, "--draws", 64, "--neurons", 4, "--paths", 1, "--replicates", 2]
SMALL = ["--space", "euclidean", "--base", "normal", *TINY]
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 2)) * [10.0, 0.1] + [300.0, 0.0]
WEIGHTS = np.where(np.arange(60) % 10 == 0, 0.0, RNG.exponential(size=60))
KEPT = WEIGHTS > 0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with data.csv, whose second column holds weights, and the fit of it in `fit`."""
    folder = tmp_path_factory.mktemp("weighted")
    values = np.insert(ROWS, 1, WEIGHTS, axis=1)
    np.savetxt(folder / "data.csv", values, "%.17g", ",", header="length,share,width", comments="")
    words = ["fit", folder / "data.csv", *SMALL, "--weights", "share", "--out", folder / "fit"]
    assert main.main([str(word) for word in words]) == 0
    return folder


def test_the_held_out_mean_and_the_scored_mean_are_weighted(fitted, capsys):
    header, loaded = model_files.read(fitted / "fit"), model_files.load(fitted / "fit")
    assert header["settings"]["weights"] == "share" and loaded.preparation.columns == ("length", "width")
    split_key = jax.random.split(jax.random.key(0), 3)[0]
    train, held = fitting.split_rows(split_key, int(KEPT.sum()), 0.2)
    rows, weights = ROWS[KEPT], WEIGHTS[KEPT]
    np.testing.assert_allclose(loaded.preparation.mean, np.average(rows[train], axis=0, weights=weights[train]), rtol=1e-12)
    error, name = loaded.log_partition.standard_error, "log_density_lebesgue"
    for part, shares, means in (
        (rows[held], weights[held] / weights[held].sum(), header["held_out"][name]),
        (rows, weights / weights.sum(), None),
    ):
        values = model.log_densities(loaded, part)[name]
        expected = row_weights.mean(values, shares), np.hypot(row_weights.standard_error(values, shares), error)
        if means is None:
            code, out, err = call(capsys, "score", fitted / "fit", fitted / "data.csv", "--weights", "share", "--out", fitted / "s.csv")
            assert code == 0 and "note: 6 rows of" in err and "have the weight 0 and are left out" in err
            line = re.search(r"Lebesgue measure of 54 weighted rows \((\S+) by effective number\) = (\S+) \+- (\S+) nat", out)
            assert float(line[1]) == pytest.approx(1 / np.sum(shares**2), abs=0.06) and len((fitted / "s.csv").read_text().split()) == 55
            means = {"mean": float(line[2]), "standard_error": float(line[3])}
            assert means["mean"] == pytest.approx(expected[0], rel=1e-5) and means["standard_error"] == pytest.approx(expected[1], rel=0.05)
        else:
            assert (means["mean"], means["standard_error"]) == pytest.approx(expected, rel=1e-5)
            assert header["held_out"]["effective_rows"] == pytest.approx(1 / np.sum(shares**2), rel=1e-5)
    plain = done(capsys, "score", fitted / "fit", fitted / "data.csv", "--out", fitted / "s.csv")
    assert "of 60 rows = " in plain


def test_a_method_trains_on_weighted_rows_or_refuses_them(fitted, capsys):
    words = ["fit", fitted / "data.csv", "--space", "euclidean", "--weights", "share", "--standardise", "--method", "dual", "--neurons", 4]
    words += ["--steps", 4, "--every", 2, "--gap-chains", 0]
    code, _, err = call(capsys, *words, "--out", fitted / "copies")
    assert code == 2 and "particles is None, which is copies of the data, and the data have weights; give a number" in err
    assert not (fitted / "copies").exists()
    done(capsys, *words, "--particles", 32, "--out", fitted / "drawn")
    assert "effective_rows" in json.loads((fitted / "drawn" / "model.json").read_text())["trained_on"]


def test_no_setting_of_a_method_has_the_name_of_a_flag_of_fit():
    flags = {field.name for field in dataclasses.fields(commands.Fit)} - {"space"}  # which the flag names and the command makes
    for name, kind in registry.by_name().items():
        assert flags.isdisjoint(field.name for field in dataclasses.fields(kind)), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "{data}", *SMALL, "--weights", "shares"], "weights is 'shares', which .* lacks; did you mean 'share'"),
        (["fit", "{data}", *SMALL, "--weights", "share", "--columns", "share,width"], "weights is 'share', which is among the columns"),
        (["score", "{fit}", "{data}", "--weights", "length"], "weights is 'length', which is among the columns 'length', 'width'"),
        (["score", "{fit}", "{data}", "--weights", "share", "--quality", 9], "quality is 9 and weights is 'share'; these comparisons take"),
    ],
)
def test_what_is_not_allowed_is_one_line_and_writes_nothing(fitted, capsys, words, message):
    words = [str(word).format(data=fitted / "data.csv", fit=fitted / "fit") for word in words]
    code, _, err = call(capsys, *words, "--out", fitted / "none.csv")
    assert code == 2 and re.search(message, err) and not (fitted / "none.csv").exists()
    assert len([line for line in err.splitlines() if not line.startswith("note: ")]) == 1
