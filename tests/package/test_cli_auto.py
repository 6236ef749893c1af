"""`dualebm fit` without a method: base measure, feature and radius are chosen by validation."""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from scipy import stats

from dualebm import candidates, model, model_files, optimality, rivals
from dualebm.base_mixtures import MixtureBase, in_words
from dualebm.cli import fit as fitting
from dualebm.cli import main, page
from dualebm.data import stacking, tables
from dualebm.data.bases import fit_normal
from dualebm.features import ScaledBump
from dualebm.training import simulate
from tests.package.test_cli import call, done, fewer_draws  # noqa: F401, which holds for every test here

SMALL = ["--replicates", 2, "--stages", 2, "--iterations", 4, "--draws", 256, "--neurons", 8]
RNG = np.random.default_rng(0)
ROWS = np.concatenate([RNG.normal(size=(40, 2)) * 0.5, RNG.normal(size=(40, 2)) * 0.3 + [2.0, 1.0]]) * [10.0, 0.1] + [300.0, 0.0]


@pytest.fixture(scope="module", autouse=True)
def one_component():
    """Of the mixtures in the stacked base measure, whose fits and programs take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimality, "DRAWS", 2**10)
        patch.setattr(rivals, "fit_mixture", lambda rows, count, seed, weights: MixtureBase((1.0,), (fit_normal(rows),)))
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
    page_before, figure = (fitted / "fit" / "report.html").read_bytes(), fitted / "fit" / "figure.png"
    (fitted / "fit" / "report.html").unlink()  # as if the process had been killed before it
    figure.unlink()
    code, out, err = call(capsys, *words_of(fitted))
    assert code == 0 and (fitted / "fit" / "model.json").read_bytes() == before, err
    assert (fitted / "fit" / "report.html").read_bytes() == page_before and figure.exists()
    header = json.loads(before)
    chosen, path = header["chosen"], header["path"]
    assert chosen in path and {stage["candidate"] for stage in path} == {"stacked scaled_bump", "normal scaled_bump"}
    assert header["settings"]["method"] == "auto" and header["settings"]["neurons"] == 8 and header["automatic"]["stages"] == 2
    assert out.startswith(f"64 rows of {fitted / 'data.csv'} on Euclidean(") and ", 16 held out\n" in out
    assert f"chosen of 2 candidates and {len(path)} radii: {chosen['candidate']}, radius " in out
    assert f"\nbase measure: {in_words(model_files.load(fitted / 'fit').preparation.space.base)}\n" in out
    offset = model.log_unit(model_files.load(fitted / "fit").preparation)
    validated = re.search(r"validation: mean log density in Lebesgue measure of (\d+) of 64 rows = (\S+) \+- \S+ nat; the choice", out)
    assert int(validated[1]) in (24, 25, 26) and float(validated[2]) == pytest.approx(chosen["log_density"] - offset, rel=1e-4)
    assert "\nlog Z = " in out
    means = header["held_out"]
    assert means["rows"] == 16 and "trained_on" not in header
    lebesgue, base = (means[f"log_density_{name}"]["mean"] for name in ("lebesgue", "base"))
    assert f"\nheld out: mean log density in Lebesgue measure of 16 rows = {lebesgue:.6g} +- " in out
    relative = f"\nheld out: mean log density in the base measure of 16 rows = {base:.6g} +- "
    assert out.index("in Lebesgue measure of 16") < out.index(relative)
    assert out.endswith(f"written to {fitted / 'fit'}; {fitted / 'fit' / 'report.html'} explains the numbers\n")
    assert all(line.startswith("note: ") for line in err.splitlines())


def test_the_folder_is_scored_and_sampled_in_the_units_of_the_data(fitted, capsys):
    loaded = model_files.load(fitted / "fit")
    assert isinstance(loaded.energy.feature, ScaledBump)
    (mean, scale), rough = (np.asarray(loaded.preparation.mean), np.asarray(loaded.preparation.scale)), ROWS.std(axis=0)
    assert (np.abs(mean - ROWS.mean(axis=0)) < rough).all() and (np.abs(np.log(scale / rough)) < 0.3).all()  # of the rows trained on
    x = np.stack(np.meshgrid(np.linspace(260, 360, 150), np.linspace(-0.3, 0.3, 150)), axis=-1).reshape(-1, 2)
    np.savetxt(fitted / "grid.csv", x[:, ::-1], "%.17g", ",", header="width,length", comments="")  # columns go by their names
    done(capsys, "score", fitted / "fit", fitted / "grid.csv", "--out", fitted / "grid.npy")
    densities = np.exp(np.load(fitted / "grid.npy")[:, 1]) * (100 / 149) * (0.6 / 149)
    assert densities.sum() == pytest.approx(1, abs=0.02)
    out = done(capsys, "sample", fitted / "fit", "--count", 500, "--out", fitted / "samples.csv")
    assert re.match(r"weighted draws of the base measure, of which the fraction (0\.9\d*|1) counts\n500 samples written", out)
    samples = np.loadtxt(fitted / "samples.csv", delimiter=",", skiprows=1)
    assert (fitted / "samples.csv").read_text().startswith("length,width\n")
    spread = np.sqrt(densities @ (x - densities @ x / densities.sum()) ** 2)
    assert (np.abs(samples.mean(axis=0) - densities @ x / densities.sum()) < 5 * spread / np.sqrt(500)).all()
    assert (np.abs(np.log(samples.std(axis=0) / spread)) < 0.3).all()


def test_without_held_out_rows_the_value_is_of_all_folds(fitted, tmp_path, capsys):
    flags = ["--space", "euclidean", *SMALL, "--replicates", 0, "--base", "normal", "--holdout", 0, "--out", tmp_path / "fit"]
    out = done(capsys, "fit", fitted / "data.csv", *flags)
    assert ", 0 held out" in out and "held out:" not in out
    assert "cross-validation: mean log density in Lebesgue measure of 80 of 80 rows = " in out
    header = model_files.read(tmp_path / "fit")
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


def test_a_fit_stands_beside_simple_densities_of_the_same_rows(fitted):
    """The numbers of the rivals, the leads and the test are in the header, and are those of an own computation."""
    header, loaded = model_files.read(fitted / "fit"), model_files.load(fitted / "fit")
    kept, held = fitting.split_rows(jax.random.split(jax.random.key(0), 3)[0], 80, 0.2)
    rows = np.loadtxt(fitted / "data.csv", delimiter=",", skiprows=1)
    mean, covariance = rows[kept].mean(axis=0), np.cov(rows[kept].T, bias=True)
    normal = stats.multivariate_normal(mean, covariance).logpdf(rows[held])
    names = ["normal distribution", "kernel density estimate", "Gaussian mixture"]
    rival = header["rivals"][0]
    assert [each["name"] for each in header["rivals"]] == names and rival["mean"] == pytest.approx(normal.mean(), abs=1e-4)
    difference = model.log_densities(loaded, rows[held])["log_density_lebesgue"] - normal
    error = np.hypot(difference.std(ddof=1) / 4, loaded.log_partition.standard_error)
    assert (rival["difference"], rival["difference_error"]) == pytest.approx((difference.mean(), error), abs=1e-4)
    (lead,) = header["leads"]
    assert lead["candidate"] == "normal scaled_bump" and header["chosen"]["candidate"] == "stacked scaled_bump"
    assert lead["difference"] > -lead["error"] and 0 < header["test_of_fit"]["p_value"] <= 1 and header["test_of_fit"]["rows"] == 16
    assert header["duality_gap"]["nats"] > 0


def test_show_draws_figure_and_report_from_the_folder_alone(fitted, tmp_path, capsys):
    """The same page comes again, when the data file has moved; without the rows a note says that the figure has none."""
    folder = shutil.copytree(fitted / "fit", tmp_path / "fit")
    text = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "figure.png").unlink()
    code, out, err = call(capsys, "show", folder)
    path = model_files.read(folder)["path"]
    lines = out.splitlines()
    assert code == 0 and sum("  chosen; " in line for line in lines) == 1 and len(lines) > len(path) + 10
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG") and lines[-1].startswith("drawn in ")
    assert (folder / "report.html").read_text() == text and "rows.npy" not in err
    (folder / "rows.npy").unlink()
    code, out, err = call(capsys, "show", folder, "--out", tmp_path / "other.png")
    assert code == 0 and "rows.npy is missing, and so the figure has no rows" in err and (tmp_path / "other.png").exists()
    assert (folder / "report.html").read_text() != text
    code, _, err = call(capsys, "show", folder, "--metric", "kl")
    assert code == 2 and "metric is 'kl'" in err


class Page(HTMLParser):
    """Reads a page and refuses elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.images, self.words = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.images += [dict(attrs)["src"]] if tag == "img" else []
        assert not {name for name, _ in attrs if name.startswith("on") or name == "href"}
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_all_that_it_shows_and_runs_nothing(fitted):
    """A name of a file that is a script is text, an energy whose log Z is not trusted has a warning at the top."""
    header, loaded = model_files.read(fitted / "fit"), model_files.load(fitted / "fit")
    found = Page((fitted / "fit" / "report.html").read_text())
    words = " ".join(found.words)
    assert len(found.images) == 2 and all(image.startswith("data:image/png;base64,iVBOR") for image in found.images)
    assert "not to be trusted" not in words and "normal distribution" in words and header["data"]["sha256"] in words
    header["data"]["file"] = "<script>alert(1)</script>.csv"
    doubtful = loaded._replace(log_partition=loaded.log_partition._replace(doubt="<b>draws</b> disagree"))
    found = Page(page.page(header, doubtful, []))
    text = "".join(found.words)
    assert "script" not in found.seen and "b" not in found.seen and "<script>alert(1)</script>.csv, 80 rows" in text
    assert text.index("not to be trusted: <b>draws</b> disagree") < text.index("Chosen of")


def test_the_example_is_written_once_and_names_a_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = done(capsys, "example")
    table = tables.read("volcanoes.csv")
    assert table.columns == ("latitude", "longitude") and table.rows.shape == (267, 2)
    assert len(np.unique(table.rows, axis=0)) == 267 and (np.abs(table.rows) <= [90, 180]).all()
    name, *words = shlex.split(out.splitlines()[-1])
    assert name == "dualebm" and words[:2] == ["fit", "volcanoes.csv"] and main.read(words)[0].latlon
    code, out, err = call(capsys, "example")
    assert (code, out) == (2, "") and "volcanoes.csv is in this folder already, and is kept" in err


def test_a_fit_that_nobody_sees_says_now_and_then_how_far_it_has_come(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0, 75.0, 75.0])
    monkeypatch.setattr(fitting.time, "monotonic", lambda: next(clock))
    say = fitting.now_and_then(fitting._place)
    for fold in (0, 1, 2, None):
        assert say({"candidate": "normal scaled_bump", "fold": fold, "radius": 2.0}) is None
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["fitting normal scaled_bump, fold 2, radius 2, 31 s", "fitting normal scaled_bump, all rows, radius 2, 75 s"]
    monkeypatch.setattr(fitting.sys.stderr, "isatty", lambda: True)
    assert fitting.now_and_then(fitting._place) is None
