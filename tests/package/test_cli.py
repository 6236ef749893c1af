"""The command from end to end: on a planted teacher, interrupted, on every space, and with what is not allowed."""

import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import xarray

from dualebm import model, model_files, rivals
from dualebm.cli import commands, main, output, page, report
from dualebm.cli import fit as fitting
from dualebm.cli import rows as rows_of_file
from dualebm.cli import score as scoring
from dualebm.cli.flags import capitalised, groups_of
from dualebm.data import tables, targets
from dualebm.features import ReLU
from dualebm.log_z import estimate, quadrature
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.contrastive import ContrastiveRates
from dualebm.methods.dual import Dual, DualRates
from dualebm.plotting import densities
from dualebm.spaces import Euclidean, Sphere
from dualebm.training import run_folder
from dualebm.training.run import run

ROOT = Path(__file__).parents[2]
QUICK = ["--neurons", "16", "--steps", "20", "--every", "10", "--method", "dual"]


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of the command in this process."""
    capsys.readouterr()
    code = main.main([str(a) for a in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def done(capsys, *arguments):
    code, out, err = call(capsys, *arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    """For log Z, which are otherwise up to 4 million, fewer annealed particles, and fewer nodes on S^2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "BLOCK", 2**15)
        patch.setattr(estimate, "LARGEST_DRAWS", 2**16)
        patch.setattr(estimate, "CHAINS", 2**10)
        patch.setitem(quadrature.NODES, Sphere(3), 30)
        for name, value in {"ON_LINE": 50, "ON_PLANE": 12, "ON_MAP": 20, "SAMPLES": 100}.items():
            patch.setattr(densities, name, value)
        patch.setattr(page, "RESOLUTION", 40)
        patch.setattr(rivals, "COMPONENTS", 1)
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with data.csv of the teacher, and the model fitted to it in `fit`."""
    folder = tmp_path_factory.mktemp("fitted")
    points, _ = targets.sample(jax.random.key(0), targets.teacher("s2_bimodal"), 2000)
    np.savetxt(folder / "data.csv", points.points, "%.9g", ",", header="x,y,z", comments="")
    settings = ["--space", "sphere", "--method", "dual", "--neurons", "32", "--steps", "300", "--every", "50"]
    assert main.main(["fit", str(folder / "data.csv"), *settings, "--out", str(folder / "fit")]) == 0
    return folder


def test_a_planted_teacher_is_found(fitted, capsys):
    """Held-out points have the teacher's log density, on average (KL) and point by point (correlation)."""
    target = targets.teacher("s2_bimodal")
    test, _ = targets.sample(jax.random.key(5), target, 2000)
    np.save(fitted / "test.npy", test.points)
    out = done(capsys, "score", fitted / "fit", fitted / "test.npy", "--out", fitted / "scores.csv")
    scores, area = np.loadtxt(fitted / "scores.csv", delimiter=",", skiprows=1).T
    assert (fitted / "scores.csv").read_text().startswith("log_density_base,log_density_area\n")
    np.testing.assert_allclose(area, scores - np.log(4 * np.pi), rtol=1e-6)
    exact = -np.asarray(target.energy(test.points), np.float64) - target.log_partition
    assert abs(np.mean(exact - scores)) < 0.02 and np.corrcoef(exact, scores)[0, 1] > 0.985
    assert "by quadrature" in out and f"mean log density in area measure of 2000 rows = {area.mean():.6g} +- " in out
    assert out.index("in area measure") < out.index(f"in the base measure of 2000 rows = {scores.mean():.6g} +- ")
    code, out, err = call(capsys, "score", fitted / "fit", fitted / "test.npy")
    assert code == 0 and "by quadrature" in err
    np.testing.assert_allclose(np.loadtxt(out.splitlines()[1:], delimiter=",")[:, 0], scores, rtol=1e-8, atol=1e-8)


def test_samples_are_of_the_model(fitted, capsys):
    command = ["sample", fitted / "fit", "--count", 3000, "--steps", 100]
    out = done(capsys, *command, "--out", fitted / "samples.csv")
    samples = np.loadtxt(fitted / "samples.csv", delimiter=",", skiprows=1)
    energy = eqx.filter_jit(model_files.load(fitted / "fit").energy)
    nodes = jax.tree.map(np.asarray, sphere_quadrature(Sphere(3), 60))
    p = np.exp(nodes.log_weights - np.asarray(energy(nodes.points), np.float64))
    mean = p @ nodes.points / np.sum(p)
    error = np.std(samples, axis=0) / np.sqrt(3000)
    assert (np.abs(samples.mean(axis=0) - mean) < 5 * error).all() and (np.abs(mean) > 10 * error).any()
    assert 0.3 < float(out.split()[1]) < 1 and out.startswith("acceptance ")
    assert (fitted / "samples.csv").read_text().startswith("x,y,z\n")  # the names of the columns of the data
    done(capsys, *command, "--out", fitted / "samples.npy")
    assert np.load(fitted / "samples.npy").dtype == np.float64 and np.array_equal(np.load(fitted / "samples.npy"), samples)
    code, out, err = call(capsys, *command)
    assert code == 0 and out == (fitted / "samples.csv").read_text() and err.startswith("acceptance ")
    done(capsys, *command, "--seed", 1, "--out", fitted / "b.npy")
    assert not np.array_equal(np.load(fitted / "b.npy"), samples)
    code, _, err = call(capsys, *command, "--step", 1.6, "--out", fitted / "b.npy")
    assert code == 0 and "note: fewer than 30% of moves were accepted; give a --step smaller than 1.6" in err


def test_what_the_folder_of_a_fit_holds(fitted):
    header = model_files.read(fitted / "fit")
    assert header["data"]["sha256"] == hashlib.sha256((fitted / "data.csv").read_bytes()).hexdigest()
    assert header["settings"]["neurons"] == 32 and header["rates"]["radius"] == 10.0
    results = run_folder.open_results(fitted / "fit").isel(run=0)
    assert {"fit_gap", "held_out_gap", "total_variation", "acceptance"} <= set(results)
    assert results.step.values.tolist() == [0, 50, 100, 150, 200, 250, 300]
    # The rows that are held out are those that the likelihood is of, and none that was trained on.
    rows = jax.numpy.asarray(tables.read(fitted / "data.csv").rows, "float32")
    kept, held = fitting.split_rows(jax.random.split(jax.random.key(0), 3)[0], 2000, 0.2)
    assert len(held) == 400 and sorted([*kept, *held]) == list(range(2000)) and held.tolist() != list(range(400))
    found = model_files.load(fitted / "fit")
    for name, part in (("held_out", held), ("trained_on", kept)):
        values = model.log_densities_at(found, rows[part])["log_density_base"]
        assert header[name]["rows"] == len(part)
        assert header[name]["log_density_base"]["mean"] == pytest.approx(values.mean(), rel=1e-9)
        error = np.hypot(values.std(ddof=1) / np.sqrt(len(part)), found.log_partition.standard_error)
        assert header[name]["log_density_base"]["standard_error"] == pytest.approx(error, rel=1e-9)
    end = results.sel(step=header["kept"]["iteration"])
    gaps = float(end.held_out_gap - end.fit_gap)
    assert gaps == pytest.approx(float(found.energy(rows[held]).mean() - found.energy(rows[kept]).mean()), abs=1e-5)
    trained = json.loads((fitted / "fit" / "manifest.json").read_text())["settings"]["data"]
    assert trained["points"]["sha256"] == hashlib.sha256(np.asarray(rows[kept]).tobytes()).hexdigest()


def test_an_interrupted_fit_goes_on_and_ends_the_same(fitted, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "few.npy", np.loadtxt(fitted / "data.csv", delimiter=",", skiprows=1, max_rows=150))
    flags = [tmp_path / "few.npy", "--space", "sphere", "--normalise", "--neurons", 16, "--method", "dual"]
    flags += ["--steps", 120, "--every", 20, "--gap-chains", 0]
    folders = tmp_path / "whole", tmp_path / "parts"
    done(capsys, "fit", *flags, "--out", tmp_path / "whole")

    def interrupted(*arguments, **options):
        def stop(records):
            if len(records.step) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return False

        return run(*arguments, **{**options, "callback": stop})

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have it ignore in the background
    try:
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "train", interrupted)
            code, _, err = call(capsys, "fit", *flags, "--out", tmp_path / "parts")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130 and err.startswith("SIGINT at step 100 of 120; the run so far is saved") and err.count("\n") == 1
    assert not (tmp_path / "parts" / "model.json").exists()
    code, _, err = call(capsys, "score", tmp_path / "parts", tmp_path / "few.npy")
    assert code == 2 and "holds no fitted model" in err
    done(capsys, "fit", *flags, "--out", tmp_path / "parts")
    whole, parts = map(model_files.load, folders)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (whole.energy, parts.energy)), strict=True))
    first, second = map(model_files.read, folders)
    for header in (first, second):
        header["settings"].pop("out")
        assert header.pop("seconds") > 0 and header.pop("command").startswith("dualebm fit ")
    assert first == second
    stores = [run_folder.open_results(folder).load() for folder in folders]
    assert stores[0].equals(stores[1])
    again = (tmp_path / "parts" / "model.json").read_bytes()
    done(capsys, "fit", *flags, "--out", tmp_path / "parts")  # finished: it returns at once, and says the same
    assert (tmp_path / "parts" / "model.json").read_bytes() == again
    code, _, err = call(capsys, "fit", *flags, "--seed", 1, "--out", tmp_path / "parts")
    assert code == 2 and "is of another run" in err and err.count("\n") == 1
    assert (tmp_path / "parts" / "model.json").read_bytes() == again


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1"], "is of another run: seed is 0 on disk and 1 in this call"),
        (["--method", "auto"], "which holds a run (manifest.json)"),
        (["--method", "lazy"], "is of another run: method is 'dual' on disk and 'lazy' in this call"),
    ],
)
def test_a_finished_fit_is_not_replaced_by_another(fitted, capsys, flags, message):
    settings = ["--space", "sphere", "--method", "dual", "--neurons", "32", "--steps", "300", "--every", "50"]
    settings = settings if flags[0] == "--seed" else ["--space", "sphere"]
    before = {path: path.read_bytes() for path in (fitted / "fit").rglob("*") if path.is_file()}
    code, out, err = call(capsys, "fit", fitted / "data.csv", *settings, *flags, "--out", fitted / "fit")
    assert (code, out) == (2, "") and message in err and str(fitted / "fit") in err
    assert before == {path: path.read_bytes() for path in (fitted / "fit").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["report.html", "figure.png", "rows.npy", "energy.npz", "sweep.json"])
def test_a_fit_replaces_no_file_that_it_has_not_written(fitted, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    code, out, err = call(capsys, "fit", fitted / "data.csv", "--space", "sphere", "--out", tmp_path)
    assert (code, out) == (2, "") and name in err and "give a new or an empty folder" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_radius_that_is_too_small_is_told_of(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(2.0, 0.5, (50, 2)).astype("float32"))
    flags = ["--space", "euclidean", "--radius", 1, "--gap-chains", 100, "--neurons", 16, "--method", "dual"]
    flags += ["--steps", 100, "--every", 5, "--out", tmp_path / "fit"]
    code, out, err = call(capsys, "fit", tmp_path / "a.npy", *flags)
    assert re.search(r"estimated within \S+ \+- \S+ nats of the best F1 energy of radius 1\b", out)
    told = re.fullmatch(r"note: the total variation is at the radius, 1, and held_out_gap is (\S+): .*\n", err)
    gap = float(run_folder.open_results(tmp_path / "fit").held_out_gap[0].sel(step=model_files.read(tmp_path / "fit")["kept"]["iteration"]))
    assert code == 0 and told and gap < -0.1 and float(told[1]) == pytest.approx(gap, rel=0.05)  # of two digits


@pytest.mark.parametrize(
    ("rates", "total", "noted"), [(DualRates(0.1, 0.1, 0.1, radius=1.0), 1.0, True), (ContrastiveRates(0.1), np.nan, False)]
)
def test_a_method_without_a_radius_has_no_note_of_it(rates, total, noted):
    records = xarray.Dataset({"held_out_gap": ("step", [-0.9]), "total_variation": ("step", [total])})
    assert (report.note_of_radius(records, rates) is not None) == noted



def test_rows_are_normalised_at_fit_and_at_score_or_refused_and_all_may_be_trained_on(fitted, tmp_path, capsys):
    rows = np.loadtxt(fitted / "data.csv", delimiter=",", skiprows=1)[:300]
    np.savetxt(tmp_path / "long.csv", 5 * rows, delimiter=",")
    np.savetxt(tmp_path / "unit.csv", rows, delimiter=",")
    code, _, err = call(capsys, "fit", tmp_path / "long.csv", "--space", "sphere", *QUICK, "--out", tmp_path / "a")
    assert code == 2 and "long.csv, line 1: found a row of norm 5 off the unit sphere; give normalise" in err
    assert not (tmp_path / "a").exists()
    flags = ["--normalise", "--holdout", 0, "--anneal", 0, "--gap-chains", 0, *QUICK]
    out = done(capsys, "fit", tmp_path / "long.csv", "--space", "sphere", *flags, "--out", tmp_path / "a")
    assert "300 rows" in out and ", 0 held out" in out and "held_out_gap" not in out and "held out:" not in out
    assert model_files.read(tmp_path / "a")["held_out"] == {"rows": 0}
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["settings"]["schedule"] is None
    for name in ("long", "unit"):
        done(capsys, "score", tmp_path / "a", tmp_path / f"{name}.csv", "--out", tmp_path / f"{name}.npy")
    np.testing.assert_allclose(np.load(tmp_path / "long.npy"), np.load(tmp_path / "unit.npy"), atol=1e-5)
    code, _, err = call(capsys, "score", fitted / "fit", tmp_path / "long.csv")
    assert code == 2 and "long.csv, line 1: found a row of norm 5 off the unit sphere" in err


BASE = "fit {data} --space sphere --out {out} "
FIT = BASE + "--method dual --neurons 8 --steps 20 --every 10 "
TORUS = "fit {wave} --space torus --out {out} --method dual "


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fti a", "the command is 'fti'; did you mean 'fit'? Allowed: fit, sample, score, sweep, select, show, runs"),
        ("FIT a", "the command is 'FIT'; did you mean 'fit'?"),
        ("fit --space sphere --out {out}", "DATA is not given; dualebm fit needs it"),
        ("fit {data} --out {out}", "--space is not given"),
        ("fit {data} --space sphere", "--out is not given"),
        ("fit {data} --space --out {out}", "--space has no value"),
        ("fit {data} more.csv --space sphere --out {out}", "'more.csv' is unexpected; dualebm fit takes DATA and flags"),
        ("fit missing.csv --space sphere --out {out}", "path is 'missing.csv'; there is no such file"),
        ("fit {data} --space shpere --out {out}", "space is 'shpere'; did you mean 'sphere'?"),
        ("fit {below} --space torus --method dual --out {out}", "below.csv, line 1, column 3: found -1"),
        (FIT + "--standardise", "standardise is True and space is 'sphere'; allowed: 'euclidean'"),
        (FIT + "--period 2", "period is 2.0 and space is 'sphere'; allowed: 'torus'"),
        (FIT + "--latlon", "latlon is True and"),
        ("fit {data} --space euclidean --method dual --normalise --out {out}", "normalise is True and space is 'euclidean'"),
        ("fit {data} --space torus --period -1 --out {out}", "period is -1; it must be a finite number, greater than 0"),
        (TORUS + "--feature relu --holdout 0", "feature is ReLU(power=1, bias=True) and space is Torus("),
        ("fit {flat} --space euclidean --method dual --standardise --out {out}", "flat.csv has the one value 7 in column 2"),
        (FIT + "--steps 30 --every 20", "steps is 30; it must be a multiple of every, which is 20"),
        ("fit {one} --space sphere --out {out}", "one.csv has 1 column; points of a sphere must have at least 2"),
        (FIT + "--columns x,w", "columns has 'w', which {data} lacks; Allowed: 'x', 'y', 'z'"),
        (FIT + "--feature rellu", "feature is 'rellu'; did you mean 'relu'?"),
        (FIT + "--feature relu --sharpness 2", "--sharpness is no flag of dualebm fit --method dual; it is one with --feature softplus"),
        (FIT + "--power 0", "power is 0; it must be an integer of at least 1"),
        (FIT + "--power 1.5", "power is 1.5; it must be an integer of at least 1"),
        (FIT + "--bias true", "--bias is followed by 'true'; it takes no value: give --bias or --no-bias"),
        (FIT + "--integrator mela", "integrator is 'mela'; did you mean 'mala'?"),
        (FIT + "--signs none", "signs is 'none'; Allowed: 'half', 'random', 'all_negative'"),
        (FIT + "--neurons 0", "neurons is 0; it must be an integer of at least 1"),
        (FIT + "--neurons 8,16", "neurons is '8,16'; it must be an integer of at least 1"),
        (FIT + "--neurons 1:2", "neurons is '1:2'; it must be an integer of at least 1"),
        (FIT + "--neurons 99999999999", "neurons is 99999999999; it must be an integer from 1 to 2147483647"),
        (FIT + "-neurons 8", "-neurons is no flag of dualebm fit --method dual; did you mean --neurons?\n"),
        (FIT + "--output x", "--output is no flag of dualebm fit --method dual; did you mean --out?"),
        (FIT + "--normalise=true", "--normalise is followed by 'true'; it takes no value: give --normalise or --no-normalise"),
        (FIT + "--no-cache=", "--no-cache is followed by ''; it takes no value: give --cache or --no-cache"),
        (FIT + "--config=", "config is ''; it must be a path"),
        ("fit {data} --space sphere --out=", "out is ''; it must be a path"),
        ("fit {data} --space= --out {out}", "space is ''; Allowed: 'sphere', 'euclidean', 'torus'"),
        ("fit {data} --space sphere --out {data}", "data.csv', which is a file; it must be a folder"),
        (FIT + "--method LAZY", "method is 'LAZY'; did you mean 'lazy'?"),
        (FIT + "--neurons many", "neurons is 'many'; it must be an integer of at least 1"),
        (FIT + "--neurons 1e400", "neurons is '1e400'; it must be an integer of at least 1"),
        (FIT + "--nuerons 8", "--nuerons is no flag of dualebm fit --method dual; did you mean --neurons?"),
        (FIT + "--particle-step 9", "particle_step is 9.0; on Sphere(dimension=3, base=Uniform()) it must be at most"),
        (FIT + "--transport-step -1", "transport_step is -1"),
        (FIT + "--reaction-step nan", "reaction_step is 'nan'; it must be a finite number, at least 0"),
        (FIT + "--restart-probability 3/2", "restart_probability is 1.5; it must be a finite number, at least 0 and at most 1"),
        (FIT + "--radius 0", "radius is 0; it must be a finite number, greater than 0"),
        (FIT + "--radius", "--radius has no value; it takes FLOAT"),
        (FIT + "--holdout 1", "holdout is 1.0 of 30 rows, which is 30"),
        (FIT + "--holdout 0.001", "holdout is 0.001 of 30 rows, which is 0"),
        (FIT + "--holdout -0.1", "holdout is -0.1"),
        (FIT + "--anneal 2", "anneal is 2; it must be a finite number, at least 0 and at most 1"),
        (FIT + "--no-anneal", "--no-anneal is no flag of dualebm fit --method dual; did you mean --anneal?"),
        (BASE + "--method lazy --no-neurons", "--no-neurons is no flag of dualebm fit --method lazy; it is one with --method auto, dual"),
        (BASE + "--features 5", "--features is no flag of dualebm fit; it is one with --method lazy. Did you mean --feature?"),
        (FIT + "--precision 16", "precision is 16; Allowed: 32, 64"),
        (FIT + "--steps 0", "steps is 0; it must be an integer of at least 1"),
        (FIT + "--every 1", "every is 1; it must be an integer of at least 2"),
        (FIT + "--seed -1", "seed is -1"),
        (FIT + "--seed 4294967296", "seed is 4294967296; it must be an integer from 0 to 4294967295"),
        (FIT + "--gap-chains -1", "gap_chains is -1"),
        (FIT + "--method lzy", "method is 'lzy'; did you mean 'lazy'?"),
        (BASE + "--method lazy --neurons 5", "--neurons is no flag of dualebm fit --method lazy; it is one with"),
        (BASE + "--method lazy --featurs 5", "did you mean --features?"),
        (BASE + "--method contrastive --feature relu", "--feature is no flag of dualebm fit --method contrastive"),
        (BASE + "--method contrastive --anneal 0.5", "--anneal is no flag of dualebm fit --method contrastive; it is"),
        (BASE + "--method contrastive --gap-chains 5", "--gap-chains is no flag of dualebm fit --method contrastive; it is"),
        (BASE + "--method jarzynski --start mpl", "start is 'mpl'; did you mean 'mlp'?"),
        (BASE + "--method jarzynski --hidden 4", "--hidden is no flag of dualebm fit --method jarzynski; it is one with --start"),
        (BASE + "--method jarzynski --start boltzmann", "space is Sphere"),
        (BASE + "--method jarzynski --threshold 2", "threshold is 2"),
        (BASE + "--method network_stein --critics 0", "critics is 0"),
        (BASE + "--method likelihood --feature bump", "feature is 'bump'; Allowed: 'relu', 'softplus'"),
        (BASE + "--method mean_field", "feature is ReLU(power=1, bias=True), whose parameters lie in Sphere(dimension=4"),
        (FIT + "--config missing.toml", "config is 'missing.toml', which cannot be read as TOML (No such file or directory)"),
        (FIT + "--config {data}", "which cannot be read as TOML"),
        ("sample {model} --out {out}.txt", "the suffix of"),
        ("sample {model} --out {folder}", "folder.csv', which is a folder; it must be a file"),
        ("score {model} {data} --out {data}", "data.csv', which is the file of the rows; give another file"),
        ("score {model} {data} {data}", "is unexpected; dualebm score takes MODEL, ROWS and flags"),
        ("sample {model} --out {out}/a.csv", "there is no folder"),
        ("sample {model} --count 0 --out {out}.csv", "count is 0"),
        ("sample {model} --steps 0 --out {out}.csv", "steps is 0; it must be an integer of at least 1"),
        ("sample {model} --step 0 --out {out}.csv", "step is 0; it must be a finite number, greater than 0"),
        ("sample {model} --seed 4294967296", "seed is 4294967296; it must be an integer from 0 to 4294967295"),
        ("sample {data} --out {out}.csv", "holds no fitted model (model.json)"),
        ("sample", "MODEL is not given; dualebm sample needs it"),
        ("score {model}", "ROWS is not given; dualebm score needs it"),
        ("score {model} {wave}", "wave.csv lacks the columns"),
        ("score {model} missing.csv", "path is 'missing.csv'; there is no such file"),
        ("score {model} {data} --out {out}.json", "Allowed: '.csv', '.npy'"),
        ("score {model} {data} --seed 4294967296", "seed is 4294967296"),
        ("score {out} {data}", "holds no fitted model (model.json); dualebm fit writes one"),
        ("show {out}", "out"),
        ("runs {out}", "holds no sweep"),
        ("runs --jsn {out}", "--jsn is no flag of dualebm runs; did you mean --json?"),
        ("sample --cuont 5 {model}", "--cuont is no flag of dualebm sample; did you mean --count?"),
        ("runs --folder {out}", "--folder is no flag of dualebm runs; give FOLDER without a name"),
        (BASE + "--method jarzynski --start conv_net --channels 8 0", "channels is 0; it must be an integer of at least 1\n"),
        ("runs {out} --jsn", "--jsn is no flag of dualebm runs; did you mean --json?"),
    ],
)
def test_what_is_not_allowed_is_one_line_and_writes_nothing(fitted, tmp_path, capsys, command, message):
    files = {
        "data": "x,y,z\n" + "0,0,1\n" * 30, "below": "0,0,-1\n" * 30, "one": "1\n-1\n1\n", "wave": "u,v\n0.5,0.5\n0.1,0.2\n",
        "flat": "x,y\n1,7\n2,7\n3,7\n4,7\n5,7\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "folder.csv").mkdir()
    before = sorted(tmp_path.iterdir())
    places = {path.stem: path for path in before} | {"out": tmp_path / "out", "model": fitted / "fit"}
    code, out, err = call(capsys, *command.format(**places).split())
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and out == "", err
    assert message.format(**places) in err, err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("space", ['["sphere"]', "{a = 1}", "3"])
def test_a_space_of_another_type_in_a_configuration_file_is_one_line(tmp_path, capsys, space):
    (tmp_path / "a.toml").write_text(f"space = {space}\n")
    code, out, err = call(capsys, "fit", "a.csv", "--config", tmp_path / "a.toml", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "it must be a string" in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a.csv"), "a.csv: No space left on device"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "MemoryError"),
        (ValueError("two\n  lines"), "two lines"),
    ],
)
def test_an_error_is_one_line_without_its_number(monkeypatch, capsys, error, line):
    def fail(settings):
        raise error

    monkeypatch.setattr(scoring, "run", fail)
    assert call(capsys, "score", "a", "b.csv") == (2, "", f"error: {line}\n")


def test_warnings_of_other_packages_are_no_notes(monkeypatch, capsys):
    def warn(settings):
        warnings.warn("of this package\nfor its user", UserWarning, stacklevel=1)
        warnings.warn("of another package", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(scoring, "run", warn)
    with pytest.warns(DeprecationWarning, match="of another package"):
        assert call(capsys, "score", "a", "b.csv") == (0, "", "note: of this package for its user\n")


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".npy", ".NPY"])
def test_columns_are_written_and_read_back(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(output, "ROWS", 2)
    values, out = np.random.default_rng(0).normal(size=(5, 2)), tmp_path / f"a{suffix}"
    output.check(out)
    output.write(out, ["x, in m", "y"], iter([values[:3], values[3:]]), 5)
    table = tables.read(out)
    assert np.array_equal(table.rows, values) and table.columns == (("x, in m", "y") if suffix.lower() == ".csv" else None)


@pytest.mark.parametrize(("missing", "said"), [(0, ""), (1, "note: 1 row of {} has "), (2, "note: 2 rows of {} have ")])
def test_rows_that_are_left_out_are_counted(tmp_path, capsys, missing, said):
    (tmp_path / "a.csv").write_text('"x, in m",y,place\n1,2,Oslo\n' + "1,NA,Roma\n" * missing)
    assert rows_of_file.read(tmp_path / "a.csv", '"x, in m", y', True).rows.tolist() == [[1, 2]]
    assert capsys.readouterr().err.startswith(said.format(tmp_path / "a.csv"))
    assert rows_of_file.read(tmp_path / "a.csv", None, True, ["y", "x, in m"]).rows.tolist() == [[2, 1]]


@pytest.mark.heavy
def test_a_warning_of_the_data_is_a_note_of_one_line(tmp_path, capsys):
    """Distinct time stamps that float32 does not tell apart are announced, and standardising avoids it."""
    stamps = 1.7e9 + np.sort(np.random.default_rng(0).uniform(0, 1000, (200, 1)), axis=0)
    np.save(tmp_path / "a.npy", stamps)
    flags = ["--space", "euclidean", *QUICK, "--gap-chains", 0, "--out"]
    code, _, err = call(capsys, "fit", tmp_path / "a.npy", *flags, tmp_path / "raw")
    assert code in (0, 1) and re.search(r"^note: .*a\.npy, column 1: \d+ different values become \d+ in float32; ", err, re.MULTILINE)
    code, _, err = call(capsys, "fit", tmp_path / "a.npy", "--standardise", *flags, tmp_path / "fit")
    assert code == 0 and "different values" not in err
    done(capsys, "sample", tmp_path / "fit", "--count", 1000, "--steps", 5, "--out", tmp_path / "x.npy")
    samples = np.load(tmp_path / "x.npy")
    assert len(np.unique(samples)) == 1000 and abs(samples.mean() - stamps.mean()) < 100


def test_columns_are_matched_by_name_and_missing_values_are_refused_or_dropped(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 5.0]
    np.savetxt(tmp_path / "a.csv", rows, "%.17g", ",", header="x,y", comments="")
    np.savetxt(tmp_path / "b.csv", rows[:, ::-1], "%.17g", ",", header="y,x", comments="")
    (tmp_path / "gaps.csv").write_text((tmp_path / "a.csv").read_text() + "1,NA\n,2\n")
    flags = ["--space", "euclidean", *QUICK, "--gap-chains", 0, "--out"]
    code, _, err = call(capsys, "fit", tmp_path / "gaps.csv", *flags, tmp_path / "fit")
    assert code == 2 and err.count("\n") == 1 and re.search("2 .*missing", err) and "drop_missing" in err
    assert not (tmp_path / "fit").exists()
    code, out, err = call(capsys, "fit", tmp_path / "gaps.csv", "--drop-missing", *flags, tmp_path / "fit")
    assert code == 0 and out.startswith("48 rows") and "note: 2 rows of " in err
    for name in ("a", "b"):
        done(capsys, "score", tmp_path / "fit", tmp_path / f"{name}.csv", "--out", tmp_path / f"{name}.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    code, _, err = call(capsys, "fit", tmp_path / "a.csv", "--columns", "z", *flags, tmp_path / "z")
    assert code == 2 and "'z'" in err and not (tmp_path / "z").exists()


@pytest.mark.heavy
def test_columns_are_chosen_by_name_or_by_number(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 5.0]
    np.savetxt(tmp_path / "a.csv", rows, "%.17g", ",", header="x,y", comments="")
    flags = ["--space", "euclidean", *QUICK, "--gap-chains", 0, "--out"]
    done(capsys, "fit", tmp_path / "a.csv", "--columns", "y", *flags, tmp_path / "y")
    assert model_files.load(tmp_path / "y").preparation.columns == ("y",)
    np.save(tmp_path / "wide.npy", np.column_stack([rows, np.zeros(60)]))
    done(capsys, "fit", tmp_path / "wide.npy", "--columns", "2,1", *flags, tmp_path / "wide")
    done(capsys, "score", tmp_path / "wide", tmp_path / "wide.npy", "--columns", "2,1", "--out", tmp_path / "c.npy")
    np.savetxt(tmp_path / "b.csv", rows[:, ::-1], "%.17g", ",", header="y,x", comments="")
    done(capsys, "score", tmp_path / "wide", tmp_path / "b.csv", "--out", tmp_path / "d.npy")
    assert np.array_equal(np.load(tmp_path / "c.npy"), np.load(tmp_path / "d.npy"))


@pytest.mark.heavy
def test_latitudes_and_longitudes_are_fitted_scored_and_sampled_in_degrees(tmp_path, capsys):
    x = np.random.default_rng(0).normal([1.0, 1.0, 1.0], 0.5, (200, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    degrees = np.degrees(np.stack([np.arctan2(x[:, 1], x[:, 0]), np.arcsin(x[:, 2])], axis=1))
    np.savetxt(tmp_path / "a.csv", degrees, "%.17g", ",", header="lon,lat", comments="")
    np.save(tmp_path / "x.npy", x)
    flags = ["--space", "sphere", *QUICK, "--gap-chains", 0, "--out"]
    code, _, err = call(capsys, "fit", tmp_path / "a.csv", "--normalise", *flags, tmp_path / "circle")
    assert code == 2 and "latlon" in err and not (tmp_path / "circle").exists()
    done(capsys, "fit", tmp_path / "a.csv", "--latlon", *flags, tmp_path / "fit")
    done(capsys, "fit", tmp_path / "x.npy", "--normalise", *flags, tmp_path / "same")
    done(capsys, "score", tmp_path / "fit", tmp_path / "a.csv", "--out", tmp_path / "a.npy")
    done(capsys, "score", tmp_path / "same", tmp_path / "x.npy", "--out", tmp_path / "b.npy")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-5)
    done(capsys, "sample", tmp_path / "fit", "--count", 2000, "--steps", 50, "--out", tmp_path / "s.csv")
    lat, lon = np.loadtxt(tmp_path / "s.csv", delimiter=",", skiprows=1).T
    assert (tmp_path / "s.csv").read_text().startswith("lat,lon\n")
    assert (np.abs(lat) <= 90).all() and abs(np.median(lat) - np.median(degrees[:, 1])) < 25 and (np.abs(lon) <= 180).all()


def test_standard_output_that_is_closed_ends_quietly(fitted):
    """As in `dualebm sample results/wind | head -1`."""
    words = ["sample", str(fitted / "fit"), "--count", "50000", "--steps", "1"]
    program = f"import sys; from dualebm.cli.main import main; sys.exit(main({words!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "x,y,z\n"
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0 and "Error" not in err and "Traceback" not in err


def test_an_interruption_while_modules_are_imported_is_one_line(tmp_path):
    """It waits for the end of the import."""
    (tmp_path / "xarray.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from dualebm.cli.main import main; exit(main())"
    command = [sys.executable, "-c", program, "show", "a"]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("call", "code", "out", "err"),
    [
        ("--version >&-", 0, "", ""),
        ("--help >/dev/full", 2, "", "error: No space left on device\n"),
        ("shwo 2>&-", 2, "", ""),  # the error does not go to standard output in place of standard error
        ("shwo 2>/dev/full", 2, "", ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(call, code, out, err):
    command = f"{sys.executable} -m dualebm.cli.main {call}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}  # a buffer hides a full disk until the end
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stdout, found.stderr) == (code, out, err)


def test_a_run_that_diverges_is_one_line(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(100, 2)).astype("float32"))
    flags = ["--space", "euclidean", "--particle-step", 1e4, *QUICK, "--out", tmp_path / "fit"]
    code, _, err = call(capsys, "fit", tmp_path / "a.npy", *flags)
    assert code == 1 and err.startswith("error: the run diverged between steps 0 and 10") and err.count("\n") == 1


def test_a_rate_that_is_given_is_kept_and_the_others_suit_the_data(tmp_path, capsys):
    np.save(tmp_path / "a.npy", 3 * np.random.default_rng(0).normal(size=(100, 2)))
    rates = ["--reaction-step", 0.1, "--restart-probability", "1/4"]
    done(capsys, "fit", tmp_path / "a.npy", "--space", "euclidean", *rates, *QUICK, "--gap-chains", 0, "--out", tmp_path / "fit")
    x, method = jax.numpy.asarray(np.load(tmp_path / "a.npy"), "float32"), Dual(Euclidean(2), ReLU(bias=True))
    kept, _ = fitting.split_rows(jax.random.split(jax.random.key(0), 3)[0], 100, 0.2)
    suited = method.rates_for(Samples(x[kept]))
    found = model_files.read(tmp_path / "fit")["rates"]
    assert (found["reaction_step"], found["restart_probability"]) == (0.1, 0.25)
    assert found["transport_step"] == pytest.approx(suited.transport_step, rel=1e-5) != method.rates.transport_step


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_has_an_example_and_every_flag(name, capsys):
    text = ""
    for method in [[], ["--method", "dual"]] if name == "fit" else [[]]:  # together they have every flag of the command
        code, out, err = call(capsys, name, *method, "--help")
        text += " ".join(out.replace("│", " ").split())
        assert (code, err) == (0, "")
    assert f"For example: dualebm {name} " in text
    assert not re.search(r"None for \d", text)
    for group in groups_of(commands.COMMANDS[name]):
        for flag in group.flags:
            assert flag.spelt in text and flag.setting.help and capitalised(flag.setting.help).split()[0] in text
            assert "required" in text if flag.shown is None else f"default: {flag.shown}" in text


@pytest.mark.heavy
def test_a_configuration_file_may_hold_all_flags_of_a_fit(fitted, tmp_path, capsys):
    (tmp_path / "fit.toml").write_text(
        f'data = "{fitted / "data.csv"}"\nspace = "sphere"\nmethod = "dual"\nneurons = 8\nsteps = 20\nevery = 10\ngap-chains = 0\n'
        'restart_probability = 0.025\n'
        f'out = "{tmp_path / "a"}"\nseed = 3\nfeature = "softplus"\nsharpness = 2\nanneal = 0\n'
    )
    done(capsys, "fit", "--config", tmp_path / "fit.toml")
    done(capsys, "fit", fitted / "data.csv", "--config", tmp_path / "fit.toml", "--out", tmp_path / "b", "--seed", 0, "--anneal", 0.2)
    first, second = (model_files.read(tmp_path / name) for name in ("a", "b"))
    assert first["rates"]["restart_probability"] == 0.025 and first["method"]["feature"]["sharpness"] == 2.0
    changed = {name: value for name, value in first["settings"].items() if value != second["settings"][name]}
    assert changed == {"out": str(tmp_path / "a"), "seed": 3, "anneal": 0.0}
    assert second["settings"]["seed"] == 0 and second["settings"]["anneal"] == 0.2  # flags win, also where they equal the default


@pytest.mark.parametrize(
    ("content", "flags", "values"),
    [
        ("", "", dict(method="auto")),
        ('method = "dual"', "", dict(method="dual", feature="ReLU", bias=True)),
        ('space = "torus"\nmethod = "dual"\nconcentration = 3', "", dict(feature="Bump", concentration=3.0)),
        ('method = "lazy"\nfeature = "bump"', "--method dual --feature softplus", dict(method="dual", feature="Softplus")),
        ('method = "jarzynski"\nstart = "conv-net"\nchannels = [4, 8]', "", dict(start="ConvNet", channels=(4, 8))),
    ],
)
def test_what_a_configuration_file_decides(tmp_path, content, flags, values):
    """The classes of the method and of its objects, unless a flag names another, and their values in the types of the settings."""
    (tmp_path / "a.toml").write_text(content)
    space = [] if "space" in content else ["--space", "sphere"]
    _, given = main.read(["fit", "a.csv", *space, "--out", "out", "--config", str(tmp_path / "a.toml"), *flags.split()])
    found = given.flags | {name: kind.__name__ for name, kind in given.choice.objects.items() if kind} | {"method": given.choice.name}
    assert {name: (found[name], type(found[name])) for name in values} == {name: (value, type(value)) for name, value in values.items()}


def test_the_command_alone_and_its_version(capsys):
    code, out, err = call(capsys)
    assert (code, err) == (0, "") and all(f"  {name} " in out for name in commands.COMMANDS)
    assert call(capsys, "--help") == call(capsys, "-h") == (0, out, "")
    code, out, _ = call(capsys, "--version")
    assert code == 0 and re.fullmatch(r"dualebm \d+\.\d+\.\d+\n", out)


def test_the_example_of_fit_is_parsed(capsys):
    example = commands.Fit.__doc__.split("For example: dualebm ")[1].splitlines()[0].split()
    code, _, err = call(capsys, *example)
    assert code == 2 and "path is 'wind.csv'; there is no such file" in err


def test_interrupted_anywhere_else(monkeypatch, capsys):
    def press(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "run", press)
    assert call(capsys, "score", "a", "b.csv") == (130, "", "interrupted\n")


def test_the_command_itself(tmp_path):
    """In a process of its own, by the entry point of the package, with what ends before JAX is imported."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["dualebm"]
    name, function = entry.split(":")
    assert getattr(importlib.import_module(name), function) is main.main
    program = f"import sys; from {name} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", program, "shwo", "a"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: the command is 'shwo'; did you mean 'show'? Allowed: fit, ") and found.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        pytest.param("lazy", ["--features", "32", "--ascent-step", "5", "--gap-chains", 200], marks=pytest.mark.heavy),
        pytest.param("score_matching", ["--neurons", 16], marks=pytest.mark.heavy),
        pytest.param("kernel_flow", ["--integrator", "geodesic"], marks=pytest.mark.heavy),
        pytest.param("mean_field", ["--no-bias", "--cells", "64", "--neuron-cells", "64"], marks=pytest.mark.heavy),
        ("jarzynski", ["--width", "8", "--depth", "1", "--walkers", "500", "--learning-rate", "0.01", "--renewal", "none"]),
        pytest.param("contrastive", ["--width", "8", "--depth", "1", "--restart-every", "1"], marks=pytest.mark.heavy),
        pytest.param("weighted_dual", ["--particles", "2000"], marks=pytest.mark.heavy),
        pytest.param(
            "likelihood",
            ["--neurons", 32, "--learning-rate", 0.2, "--sampler", "importance", "--optimiser", "adam"],
            marks=pytest.mark.heavy,
        ),
        pytest.param("weighted_likelihood", ["--neurons", 32, "--sampler", "mala", "--chains", "500"], marks=pytest.mark.heavy),
        pytest.param("kernel_stein", ["--neurons", 32, "--learning-rate", "0.2", "--batch", "100"], marks=pytest.mark.heavy),
        pytest.param("network_stein", ["--neurons", 32, "--learning-rate", "0.2", "--critics", "8"], marks=pytest.mark.heavy),
    ],
)
def test_every_method_is_fitted_scored_and_sampled(fitted, capsys, tmp_path, method, flags):
    data, out = fitted / "data.csv", tmp_path / "out"
    length = ["--validation", 0, "--steps", 20, "--every", 10]
    told = done(capsys, "fit", data, "--space", "sphere", "--method", method, *flags, *length, "--out", out)
    about = json.loads((out / "model.json").read_text())
    assert about["settings"]["method"] == method and about["trained_on"]["rows"] == 1600
    assert about["trained_on"]["log_density_base"]["mean"] > 0  # better than the uniform measure
    with_radius = method in ("lazy", "score_matching", "mean_field", "weighted_dual")
    assert ("the best F1 energy of radius" in told) == with_radius
    if method == "lazy":
        assert about["method"]["features"] == 32 and about["rates"]["ascent_step"] == 5.0 and about["duality_gap"]["nats"] > 0
    scored = done(capsys, "score", out, data, "--out", tmp_path / "scores.csv")
    mean = float(scored.split("rows = ")[1].split()[0])
    both = [about[part]["log_density_area"]["mean"] * about[part]["rows"] for part in ("trained_on", "held_out")]
    assert mean == pytest.approx(sum(both) / 2000, rel=1e-4)
    done(capsys, "sample", out, "--count", 5, "--steps", 3, "--out", tmp_path / "x.csv")
