"""`dualebm sweep DATA` and `dualebm select`: the split, the loss beside closed forms, resuming, the command that fits, bad flags."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dualebm import rivals
from dualebm._internal import files
from dualebm.cli import Refused, main, select, study, sweep
from dualebm.cli.commands import Fit
from dualebm.cli.fit import split_rows
from dualebm.cli.methods import build
from dualebm.data.bases import fit_normal
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual
from dualebm.metrics import Metric
from dualebm.metrics.held_out import Loss, RowError
from dualebm.spaces import Sphere
from dualebm.sweeps.folder import open_sweep
from dualebm.training import simulate
from tests.package.test_cli import call, done

QUICK = ["--neurons", "4", "--steps", "4", "--every", "2", "--particles", "32"]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """Rows of the plane, far from the standard Gaussian."""
    path = tmp_path_factory.mktemp("plane") / "plane.csv"
    rows = np.random.default_rng(0).normal([3.0, -20.0], [0.5, 4.0], (60, 2))
    np.savetxt(path, rows, "%.9g", ",", header="x,y", comments="")
    return path


def planned(*words):
    settings, given = main.read([str(word) for word in words])
    return settings, given, sweep.arguments(settings, given)


@pytest.fixture(scope="module")
def swept(plane):
    """The words of a sweep over radii and two seeds, in a folder beside the rows."""
    out = plane.parent / "sweep"
    words = ["sweep", plane, "--space", "euclidean", "--standardise", *QUICK, "--radius", "1,5", "--seed", "0:2", "--out", out]
    assert main.main([str(word) for word in words]) == 0
    return words


def test_the_held_out_rows_are_those_of_fit_and_standardise_nothing(plane, swept):
    rows = np.loadtxt(plane, delimiter=",", skiprows=1)
    _, _, arguments = planned(*swept)
    for seed in (0, 1):
        kept, held = split_rows(jax.random.split(jax.random.key(seed), 3)[0], 60, 0.2)
        mean, scale = rows[kept].mean(axis=0), rows[kept].std(axis=0)
        data, metrics = arguments["data"](seed), arguments["metrics"](seed)
        np.testing.assert_allclose(data.points, (rows[kept] - mean) / scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["held_out_gap"].samples.points, (rows[held] - mean) / scale, rtol=1e-4, atol=1e-5)
    split = planned(*swept, "--split", 1)[-1]
    assert np.array_equal(split["data"](0).points, data.points) and np.array_equal(split["data"](5).points, data.points)


def test_the_loss_is_that_of_the_density_in_the_units_of_the_data(plane, swept):
    """Beside NumPy: the weighted draws of the Gaussian that standardised rows have as base measure, mapped to the units of the rows."""
    settings, _, arguments = planned(*swept)
    method, data = arguments["method"](), arguments["data"](0)
    rates = arguments["rates"](0)._replace(radius=5.0)
    assert rates.transport_step == method.rates_for(data).transport_step != method.rates.transport_step
    state = simulate.start(jax.random.key(3), method, rates, data)
    iterate = Iterate(method, state, rates, data)
    parts = study.read(settings, split=None).parts(0)
    (_, scale), held = (parts.preparation.mean, parts.preparation.scale), np.asarray(parts.validation.points, np.float64)
    draws = jnp.asarray(np.random.default_rng(0).normal(size=(200_000, 2)), np.float32)
    log_z = logsumexp(-np.asarray(iterate.energy(draws), np.float64)) - np.log(len(draws))
    log_base = -0.5 * np.sum(held**2, axis=1) - np.log(2 * np.pi) - np.log(scale).sum()
    values = log_base - np.asarray(iterate.energy(parts.validation.points), np.float64) - log_z
    metric = arguments["metrics"](0)["validation"]
    assert float(metric(jax.random.key(9), iterate)) == pytest.approx(-values.mean(), abs=0.02)
    error = RowError(parts.validation, jnp.asarray(log_base, np.float32))(None, iterate)
    assert float(error) == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=1e-4)
    weights = np.arange(12.0)
    shares = weights / weights.sum()
    weighted = RowError(Samples(parts.validation.points, jnp.log(jnp.asarray(weights, np.float32))), jnp.asarray(log_base, np.float32))
    expected = np.sqrt(np.sum(shares**2 * (values - shares @ values) ** 2) * 12 / 11)
    assert float(weighted(None, iterate)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("error", "known"), [(0.1, True), (0.1001, False), (np.nan, False), (np.inf, False)])
def test_a_loss_with_an_unknown_log_z_is_no_number(error, known):
    class Known(Metric):
        def __call__(self, key, iterate):
            return jnp.asarray([2.0, error], np.float32)

    method, data = Dual(Sphere(3), neurons=4), Samples(jnp.eye(3))
    state = simulate.start(jax.random.key(0), method, method.rates, data)
    loss = Loss(Known(), jnp.asarray(0.5, np.float32))(jax.random.key(0), Iterate(method, state, method.rates, data))
    assert float(loss) == 1.5 if known else np.isnan(float(loss))


def test_a_radius_for_which_too_few_draws_count_has_no_loss(swept):
    """The neurons begin with the total variation of the radius, so that few draws of the base measure have all the weight."""
    _, _, arguments = planned(*swept, "--weight-unit", "radius")
    method, data, metric = arguments["method"](weight_unit="radius"), arguments["data"](0), arguments["metrics"](0)["validation"]
    losses = []
    for radius in (0.1, 200.0):
        rates = method.rates._replace(radius=radius)
        state = simulate.start(jax.random.key(0), method, rates, data)
        losses.append(float(metric(jax.random.key(1), Iterate(method, state, rates, data))))
    assert np.isfinite(losses[0]) and np.isnan(losses[1])


def test_the_least_loss_of_a_sweep_counts_runs_that_are_known():
    losses = [[3.0, 1.5, 2.0], [3.0, np.nan, 2.5], [1.0, np.nan, np.nan], [np.nan] * 3]
    runs = {"step": [0, 5, 10], "radius": ("run", [1, 1, 2, 2]), "seed": ("run", [0, 1, 0, 1])}
    results = xarray.Dataset({"validation": (("run", "step"), losses)}, runs)
    assert study.least(results, ["radius"]) == "least validation loss, each run at its early stop: 2 nat with radius 1"
    assert study.least(results.isel(run=[2, 3]), []).startswith("no values of the settings have a finite validation loss for all seeds")


@pytest.mark.parametrize(
    ("space", "method", "kind", "others"),
    [
        ("sphere", "weighted_dual", "CrossEntropy", ["effective_fraction"]),
        ("torus", "weighted_dual", "WalkerCrossEntropy", ["effective_fraction"]),
        ("torus", "dual", "CrossEntropy", ["fit_gap", "held_out_gap"]),
        ("torus", "lazy", "CrossEntropy", ["fit_gap", "held_out_gap"]),
    ],
)
def test_log_z_of_the_loss_is_by_quadrature_particles_or_draws(tmp_path, space, method, kind, others):
    np.savetxt(tmp_path / "a.csv", np.random.default_rng(0).uniform(0.1, 0.9, (20, 3)), delimiter=",")
    flags = ["--space", space, *(["--normalise"] if space == "sphere" else []), "--method", method, "--out", tmp_path / "out"]
    _, _, arguments = planned("sweep", tmp_path / "a.csv", *flags)
    metrics = arguments["metrics"](0)
    cross_entropy = metrics["validation"].cross_entropy
    assert type(cross_entropy).__name__ == kind and list(metrics) == ["validation", *others, "total_variation", "acceptance"]
    if kind == "CrossEntropy":
        assert (cross_entropy.quadrature is not None) == (space == "sphere") == (cross_entropy.draws == 0)
        fixed = [arguments["metrics"](seed)["validation"].cross_entropy.key for seed in (0, 1)]
        assert space == "sphere" or not np.array_equal(*(jax.random.key_data(key) for key in fixed))


@pytest.mark.heavy
def test_a_sweep_goes_on_with_the_same_content_under_another_name_only(plane, swept, tmp_path, capsys):
    out = swept[-1]
    results = open_sweep(out)
    assert results.sizes["run"] == 4 and np.isfinite(results.validation.values).all()
    moved = tmp_path / "moved.csv"
    moved.write_bytes(plane.read_bytes())
    assert call(capsys, "sweep", moved, *swept[2:])[0] == 0
    printed = done(capsys, "sweep", "--resume", "--seed", "0:3", "--out", out)
    assert printed.splitlines()[0].split() == ["radius", "validation", "least", "largest", "step", "runs"]
    assert open_sweep(out).sizes["run"] == 6 and "least validation loss" in printed
    before = (out / "sweep.json").read_bytes()
    moved.write_text(plane.read_text().replace("3", "4", 1))
    code, _, err = call(capsys, "sweep", moved, *swept[2:])
    assert code == 2 and f"data is '{moved}', whose content is not that of the sweep in {out} (SHA-256 " in err
    code, _, err = call(capsys, *swept, "--holdout", 0.3)
    assert code == 2 and f"folder {out} is of another run: data.rows.holdout is 0.2 on disk and 0.3 in this call; give" in err
    assert (out / "sweep.json").read_bytes() == before
    printed = done(capsys, "show", out)
    assert "validation" in printed and (out / "figure.png").stat().st_size > 10_000
    assert done(capsys, "runs", out).splitlines()[-1] == "6 done"


# -- Selections --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selected(plane):
    out = plane.parent / "selection"
    flags = ["--space", "euclidean", "--standardise", *QUICK, "--feature", "softplus", "--bias", "true", "--radius", "1,5"]
    words = ["select", plane, *flags, "--seed", "0:2", "--repeats", "7,8", "--anneal", 0.3, "--split", 3, "--out", out]
    return [str(word) for word in words]


def test_a_selection_tests_its_choice_and_says_how_to_fit_it(plane, selected, capsys, monkeypatch):
    def refused(rows, weights):
        raise ValueError("no reason")

    monkeypatch.setattr(rivals, "fits_of", lambda space: {"normal distribution": fit_normal, "other density": refused})
    printed = done(capsys, *selected)
    out = plane.parent / "selection"
    search, repeats = (open_sweep(out / name) for name in ("search", "repeats"))
    assert search.sizes["run"] == 4 and repeats.seed.values.tolist() == [7, 8]
    losses = {radius: search.validation.values[search.radius.values == radius].min(axis=1).mean() for radius in (1, 5)}
    radius = min(losses, key=losses.get)
    assert set(repeats.radius.values) == {radius} and printed.startswith(f"38 rows of {plane} to train on, 10 to validate, 12 to test\n")
    (line,) = [line for line in printed.splitlines() if line.endswith("chosen")]
    assert float(line.split()[0]) == radius and float(line.split()[1]) == pytest.approx(losses[radius], rel=1e-4)
    first = repeats.validation.values.argmin(axis=1)
    tests = repeats.test.values[[0, 1], first]
    choice, normal, other = printed.split("over these rows:\n")[1].splitlines()[:3]
    error = repeats.test_error.values[[0, 1], first].mean()
    assert choice.split("repetitions", 1)[1].split()[0] == f"{tests.mean():.5g}" and f" +- {error:.2g} (+- " in choice
    assert choice.endswith(f"(+- {abs(tests[0] - tests[1]) / 2:.2g} over the repetitions)")
    assert other.endswith("other density  cannot be fitted: no reason")
    kept, held = split_rows(jax.random.split(jax.random.key(3), 3)[0], 60, 0.2)
    table = np.loadtxt(plane, delimiter=",", skiprows=1)
    by_scipy = multivariate_normal(table[kept].mean(axis=0), np.cov(table[kept].T, ddof=0)).logpdf(table[held])
    assert normal.split()[:2] == ["normal", "distribution"] and float(normal.split()[2]) == pytest.approx(-by_scipy.mean(), rel=1e-3)
    assert float(normal.split()[4]) == pytest.approx(by_scipy.std(ddof=1) / np.sqrt(12), rel=0.05)
    (line,) = [line for line in printed.splitlines() if line.startswith("dualebm fit ")]
    settings, given = main.read(shlex.split(line)[1:])
    assert isinstance(settings, Fit) and settings.data == plane and settings.standardise and settings.seed == 3
    read, chosen = main.read(selected)
    method = build(chosen.choice, study.read(read, split=3, validation=0.2).parts(0).preparation.space, {"neurons": 4, "particles": 32})
    assert build(given.choice, method.space, given.values) == method and given.values["radius"] == radius
    assert settings.steps % settings.every == 0 and np.ceil(settings.anneal * settings.steps) == 2 == np.ceil(0.3 * 4)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert done(capsys, *selected) == printed and before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert done(capsys, "runs", out).splitlines()[-1] == "6 done"
    assert "radius" in done(capsys, "show", out).splitlines()[0] and (out / "figure.png").exists()


def test_test_rows_are_those_of_fit_and_enter_nothing(selected):
    settings, _ = main.read(selected)
    rows = study.read(settings, split=3, validation=0.2)
    _, held = split_rows(jax.random.split(jax.random.key(3), 3)[0], 60, 0.2)
    validated = []
    for seed in (0, 7):
        train, validation, test = rows.divided(seed)
        assert np.array_equal(test, held) and sorted([*train, *validation, *test]) == list(range(60))
        validated.append(validation)
    assert not np.array_equal(*validated)


def test_the_words_of_a_fit_keep_what_is_not_the_default(tmp_path):
    flags = "--space torus --period 2 --columns b,a --drop-missing --holdout 0.25 --precision 64 --method lazy --averaged true,false"
    settings, given = main.read(["select", "my data.csv", *flags.split(), "--features", "8", "--out", "o"])
    words = select.fit_words(settings, given, {"features": 8, "averaged": False}, 0)
    read, method = main.read(words[1:])
    assert (read.data.name, read.columns, read.drop_missing, read.period, read.holdout) == ("my data.csv", "b,a", True, 2.0, 0.25)
    assert (read.precision, read.steps, method.values) == (64, 20, {"features": 8, "averaged": False}) and "--anneal" not in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep {data} --out {out}", "--space is not given; dualebm sweep DATA needs it: the space of the points"),
        ("sweep --space sphere --out {out}", "DATA is not given; dualebm sweep DATA needs it"),
        ("sweep {data} --space euclidean --teacher s2_bimodal --out {out}", "--teacher is no flag of dualebm sweep DATA; it is one"),
        ("sweep --space euclidean {data} --n 5 --out {out}", "--n is no flag of dualebm sweep DATA; it is one without DATA"),
        ("sweep --out {out} --holdout 0.5", "--holdout is no flag of dualebm sweep; it is one with DATA, the file of the rows"),
        ("sweep {data} --space euclidean --holdout 0 --out {out}", "holdout is 0.0; the loss needs held-out rows"),
        ("sweep {data} --space euclidean --holdout 1 --out {out}", "holdout is 1.0 of 60 rows, which is 60 rows"),
        ("sweep {data} --space sphere --out {out}", "plane.csv, line 2: "),
        ("sweep {data} --space euclidean --method mean_field --out {out}", "space is Euclidean"),
        ("sweep {data} --space euclidean --radius 5 --alpha 1 --out {out}", "radius is 5 and alpha is 1"),
        ("sweep {data} --space euclidean --steps 5 --out {out}", "steps is 5; it must be a multiple of every"),
        ("sweep no.csv --space euclidean --out {out}", "no.csv"),
        ("select {data} --out {out}", "--space is not given; dualebm select needs it"),
        ("select {data} --space euclidean --radius 3 --out {out}", "no setting of the method has several values to choose from; give one"),
        ("select {data} --space euclidean --radius 3,4 --alpha 1 --out {out}", "--alpha is no flag of dualebm select"),
        ("select {data} --space euclidean --radius 3,4 --repeats 2,7 --out {out}", "repeats has the seed 2, which the search has too"),
        ("select {data} --space euclidean --radius 3,4 --validation 1 --out {out}", "validation is 1.0 of 48 rows, which is 48 rows"),
        ("select {data} --space euclidean --radius 3,4 --method auto --out {out}", "method is 'auto'; Allowed: "),
        ("select {data} --space euclidean --radius 3,4 --process 0/2 --out {out}", "--process is no flag of dualebm select"),
    ],
)
def test_bad_flags_are_one_line_before_anything_is_written(plane, tmp_path, capsys, words, message):
    out = tmp_path / "new"
    code, printed, err = call(capsys, *words.format(data=plane, out=out).split())
    assert (code, printed) == (2, "") and len(err.splitlines()) == 1 and message in err, err
    assert not out.exists()


def test_a_folder_of_another_kind_is_refused(plane, swept, tmp_path, capsys):
    folder = tmp_path / "teacher"
    folder.mkdir()
    header = json.loads((swept[-1] / "sweep.json").read_text())
    header["settings"]["data"] = {"function": "arguments.<locals>.data", "constants": [], "closure": []}
    files.write_json(folder / "sweep.json", "sweep", {name: value for name, value in header.items() if name != files.DIGEST})
    code, _, err = call(capsys, *swept[:-1], folder)
    assert code == 2 and f"out is '{folder}', which holds a sweep on no file; give a new folder" in err


def test_weights_of_rows_reach_the_training_and_the_loss(tmp_path):
    rows = np.random.default_rng(0).normal([3.0, -20.0, 0.0], [0.5, 4.0, 1.0], (40, 3))
    rows[:, 2] = np.exp(rows[:, 2])
    np.savetxt(tmp_path / "a.csv", rows, "%.9g", ",", header="x,y,w", comments="")
    words = ["sweep", tmp_path / "a.csv", "--space", "euclidean", "--standardise", "--weights", "w", "--out", tmp_path / "out"]
    settings, _, arguments = planned(*words)
    kept, held = split_rows(jax.random.split(jax.random.key(1), 3)[0], 40, 0.2)
    data, parts = arguments["data"](1), study.read(settings, split=None).parts(1)
    np.testing.assert_allclose(data.weights, rows[kept, 2] / rows[kept, 2].sum(), rtol=1e-5)
    mean = np.average(rows[kept, :2], axis=0, weights=rows[kept, 2])
    np.testing.assert_allclose(parts.preparation.mean, mean, rtol=1e-6)
    shares, points = rows[held, 2] / rows[held, 2].sum(), (rows[held, :2] - mean) / parts.preparation.scale
    log_base = -0.5 * np.sum(points**2, axis=1) - np.log(2 * np.pi) - np.log(parts.preparation.scale).sum()
    loss = arguments["metrics"](1)["validation"]
    assert float(loss.log_base) == pytest.approx(shares @ log_base, rel=1e-5)
    np.testing.assert_allclose(loss.cross_entropy.samples.weights, shares, rtol=1e-5)


def test_the_words_of_a_fit_stop_where_the_repetitions_stopped_and_let_the_radius_grow_as_long():
    flags = "--space euclidean --radius 1,3 --steps 1000 --every 20 --anneal 0.305 --out o"
    words = ["select", "a.csv", *flags.split()]
    settings, given = main.read(words)
    for stop, steps in ((500, 500), (120, 320), (0, 320)):
        read, _ = main.read(select.fit_words(settings, given, {"radius": 3}, stop)[1:])
        assert read.steps == steps and np.ceil(read.anneal * steps) == 305
    settings, given = main.read([*words, "--anneal", "0"])
    read, _ = main.read(select.fit_words(settings, given, {"radius": 3}, 0)[1:])
    assert (read.steps, read.anneal) == (20, 0)


def test_a_configuration_file_may_name_the_rows(tmp_path):
    (tmp_path / "a.toml").write_text('data = "rows.csv"\nradius = "1,3"\n')
    words = ["sweep", "--config", str(tmp_path / "a.toml"), "--out", "o"]
    settings, given = main.read([*words, "--space", "torus"])
    assert settings.data.name == "rows.csv" and given.values["radius"] == (1, 3)
    with pytest.raises(Refused, match="--space is not given; dualebm sweep DATA needs it"):
        main.read(words)
