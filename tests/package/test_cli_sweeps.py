"""The commands `dualebm sweep`, `show` and `runs`, with what is not allowed."""

import json

import numpy as np
import pytest

from dualebm._internal import files, folders
from dualebm.cli import main
from dualebm.cli.sweep import arguments, process_of
from dualebm.sweeps.folder import SWEEP, open_sweep
from dualebm.sweeps.plan import plan_of
from dualebm.training import multihost

FLAGS = "--teacher s2_bimodal --n 60 --neurons 8 --steps 12 --every 4 --test-points 100 --seed 0:2 --alpha 1,5"
QUICK = FLAGS.split()


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of the command in this process."""
    capsys.readouterr()
    code = main.main([str(a) for a in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def planned(*words):
    """The arguments of `sweep` by these flags."""
    return arguments(*main.read(["sweep", "--out", "out", *words]))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept") / "alpha"
    assert main.main(["sweep", *QUICK, "--restart-probability", "0,1/40", "--out", str(folder)]) == 0
    return folder


def test_the_flags_are_the_settings(swept):
    found = open_sweep(swept)
    assert found.sizes["run"] == 8 and np.isfinite(found.kl.values).all()
    assert sorted(set(found.alpha.values)) == [1, 5] and sorted(set(found.restart_probability.values)) == [0, 0.025]
    given = planned("--alpha", "2", "--beta", "5", "--step-size", "0.1")
    assert given["rates"](2.0, 5.0, 0.1)._asdict() == dict(
        particle_step=0.02, transport_step=0.2, reaction_step=0.2, restart_probability=0.0, radius=5.0
    )


def test_show_prints_a_table_and_draws(swept, tmp_path, capsys):
    code, out, err = call(capsys, "show", swept, "--out", tmp_path / "figure.png")
    assert (code, err) == (0, "") and (tmp_path / "figure.png").stat().st_size > 10_000
    head, *rows, last = out.splitlines()
    assert head.split() == ["alpha", "restart_probability", "kl", "least", "largest", "step", "runs"]
    kl = open_sweep(swept).kl.values[:, -1]
    alpha, restart = (open_sweep(swept)[name].values for name in ("alpha", "restart_probability"))
    for row in rows:
        a, p, mean, least, largest, step, runs = map(float, row.split())
        chosen = kl[(alpha == a) & (restart == p)]
        assert (step, runs) == (12, 2)
        np.testing.assert_allclose([mean, least, largest], [chosen.mean(), chosen.min(), chosen.max()], rtol=1e-4)
    assert len(rows) == 4 and "drawn in" in last
    for flags, message in [
        (["--metric", ""], "metric is ''; Allowed: 'acceptance', 'kl'"),
        (["--metric", "KL"], "metric is 'KL'; did you mean 'kl'?"),
        (["--out", "figure"], "the suffix of figure is ''; Allowed: "),
        (["--out", tmp_path], f"the suffix of {tmp_path} is ''"),
        (["--out", tmp_path / "none" / "a.png"], "there is no folder"),
    ]:
        code, out, err = call(capsys, "show", swept, *flags)
        assert (code, out) == (2, "") and message in err, err
    code, _, err = call(capsys, "show", swept, "--metric", "klx")
    assert code == 2 and "metric is 'klx'" in err and "'kl'" in err


def test_runs_prints_the_manifest(swept, capsys):
    code, out, _ = call(capsys, "runs", swept)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 9 and lines[-1] == "8 done" and lines[0].startswith("done ")
    _, out, _ = call(capsys, "runs", swept, "--json")
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["done"] * 8


def test_resume_and_config_files_say_the_same(swept, tmp_path, capsys):
    before = (swept / SWEEP).stat().st_mtime_ns
    assert call(capsys, "sweep", "--resume", "--out", swept)[0] == 0
    (tmp_path / "sweep.toml").write_text(
        'teacher = "s2_bimodal"\nn = 60\nneurons = 8\nsteps = 12\nevery = 4\ntest_points = 100\nseed = "0:2"\n'
        'alpha = [1, 5]\nrestart_probability = "0,1/40"\n'
    )
    assert call(capsys, "sweep", "--config", tmp_path / "sweep.toml", "--out", swept)[0] == 0
    assert (swept / SWEEP).stat().st_mtime_ns == before  # nothing was added
    config = ["--config", str(tmp_path / "sweep.toml")]
    settings, given = main.read(["sweep", "--out", "out", *config, "--alpha", "7", "--steps", "1000", "--neurons", "64"])
    assert (settings.alpha, settings.n, settings.steps) == ((7,), (60,), 1000)  # flags win, also where they equal the default
    assert given.values["neurons"] == (64,)


def test_show_prints_its_table_where_the_figure_cannot_be_written(swept, tmp_path, capsys, monkeypatch):
    def closed(name, folder):
        raise PermissionError(13, "Permission denied")

    figure = tmp_path / "figure.png"
    figure.write_text("old")
    monkeypatch.setattr(folders, "create", closed)
    code, out, err = call(capsys, "show", swept, "--out", figure)
    assert code == 2 and len(out.splitlines()) == 5 and err == f"error: cannot write {figure}: Permission denied\n"
    assert figure.read_text() == "old"


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ({"teacher": "s2_bimodal", "coordinator": "10.0.0.1:1234"}, "sets coordinator"),
        ({"teacher": "s2_bimodal", "cache": False}, "sets cache"),
        (["--teacher"], "is no list of flags"),
    ],
)
def test_a_note_sets_only_what_a_sweep_stores(swept, tmp_path, capsys, monkeypatch, note, message):
    """The folder may be a stranger's."""
    header = {name: value for name, value in files.read_json(swept / SWEEP, "sweep").items() if name != "note"}
    files.write_json(tmp_path / SWEEP, "sweep", header | {"note": note})
    monkeypatch.setattr(multihost, "join", None)
    code, out, err = call(capsys, "sweep", "--resume", "--process", "0/2", "--out", tmp_path)
    assert (code, out) == (2, "") and err.startswith(f"error: the note in {tmp_path / SWEEP} {message}, which no sweep stores")


@pytest.mark.heavy
def test_a_sweep_is_resumed_with_a_setting_that_is_none(tmp_path, capsys):
    common = "--teacher s2_bimodal --n 60 --neurons 8 --steps 4 --every 2 --test-points 100"
    flags = [*common.split(), "--particles", "none", "--out"]
    assert call(capsys, "sweep", *flags, tmp_path / "whole", "--seed", "0:2")[0] == 0
    assert call(capsys, "sweep", *flags, tmp_path / "parts", "--seed", "0")[0] == 0
    (tmp_path / "out.toml").write_text(f'out = "{tmp_path / "parts"}"\nseed = "0:2"\n')
    code, out, _ = call(capsys, "sweep", "--resume", "--config", tmp_path / "out.toml")
    assert code == 0 and out.splitlines()[1].split()[-1] == "2"
    whole, parts = (open_sweep(tmp_path / name).sortby("seed") for name in ("whole", "parts"))
    assert np.array_equal(whole.kl.values, parts.kl.values)


def test_a_sweep_is_resumed_only_where_its_folder_is_given(capsys):
    code, _, err = call(capsys, "sweep", "--resume")
    assert code == 2 and err.startswith("error: --out is not given; ")


def test_a_sweep_is_resumed_with_more_seeds_and_another_feature_is_swept(tmp_path, capsys):
    """The folder keeps the flags. The settings of the feature are settings of the grid."""
    flags = "--method likelihood --feature relu --power 1,2 --teacher s2_bimodal --n 60 --neurons 8 --steps 4 --every 2 --test-points 100"
    assert call(capsys, "sweep", *flags.split(), "--seed", "0", "--out", tmp_path / "a")[0] == 0
    (tmp_path / "a.toml").write_text("steps = 0\n")  # the file wins over the folder
    code, _, err = call(capsys, "sweep", "--resume", "--config", tmp_path / "a.toml", "--out", tmp_path / "a")
    assert code == 2 and f"steps in {tmp_path / 'a'} or {tmp_path / 'a.toml'} is 0; it must be" in err
    (tmp_path / "a.toml").write_text('method = "likelihood"\n')
    code, _, err = call(capsys, "sweep", "--config", tmp_path / "a.toml", "--out", tmp_path / "a", "--batches", 3)
    assert code == 2 and "--batches is no flag of dualebm sweep --method likelihood\n" in err
    code, out, _ = call(capsys, "sweep", "--resume", "--seed", "0:2", "--out", tmp_path / "a")
    found = open_sweep(tmp_path / "a")
    settings = sorted(zip(found.power.values.tolist(), found.seed.values.tolist(), strict=True))
    assert code == 0 and settings == [(1, 0), (1, 1), (2, 0), (2, 1)]
    first, second = (found.kl.values[(found.power.values == power) & (found.seed.values == 0), -1] for power in (1, 2))
    assert first != second and out.split()[0] == "power"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('anneal = "false"', "anneal in {file} is 'false'; it must be a number"),
        ("anneal = true", "anneal in {file} is True; it must be a number"),
        ('common = "false"', "common in {file} is 'false'; it must be true or false"),
        ('steps = "1000"', "steps in {file} is '1000'; it must be an integer"),
        ("steps = 10.5", "steps in {file} is 10.5; it must be an integer"),
        ("steps = 0", "steps in {file} is 0; it must be an integer of at least 1"),
        ("steps = 99999999999", "steps in {file} is 99999999999; it must be an integer from 1 to 2147483647"),
        ("neurons = []", "neurons in {file} is []; it must be an integer or a string"),
        ('neurons = "8,8"', "neurons in {file}: range is '8,8', which has 8 twice"),
        ("radius = nan", "radius in {file}: range is 'nan', in which 'nan' is not finite"),
        ("test-points = 5\ntest_points = 5", "test_points comes twice in {file}; it must come once"),
        ('config = "other.toml"', "the name 'config' in {file} is not allowed; give --config on the command line"),
        ("resume = true", "the name 'resume' in {file} is not allowed; give --resume on the command line"),
        ('out = ""', "out in {file} is ''; it must be a path"),
        ("precision = 16", "precision in {file} is 16; Allowed: 32, 64"),
        ("NEURONS = 8", "the name 'NEURONS' in {file} is no flag of this command; did you mean --neurons?"),
        ("steps = [10, 20]", "steps in {file} is [10, 20]; it must be an integer"),
        ("alpha = [1, true]", "alpha in {file} is [1, True]; it must be"),
        ('alpha = "0.05:20:lgo9"', "log9"),
        ("alhpa = 1", "the name 'alhpa' in {file} is no flag of this command; did you mean --alpha?"),
        ("out = 3", "out in {file} is 3; it must be a string"),
        ('method = "lzy"', "method is 'lzy'; did you mean 'lazy'?"),
        ('method = "lazy"\nneurons = 8', "the name 'neurons' in {file} is no flag of this command; it is one with --method dual"),
        ("[run]\nsteps = 10", "the name 'run' in {file} is no flag"),
        ("steps = ", "cannot be read as TOML"),
    ],
)
def test_what_a_configuration_file_may_not_hold(tmp_path, capsys, content, message):
    file = tmp_path / "sweep.toml"
    file.write_text(content + "\n")
    code, out, err = call(capsys, "sweep", "--config", file, "--dry-run", "--out", tmp_path / "new")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and message.format(file=file) in err, err


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    code, out, _ = call(capsys, "sweep", *QUICK, "--dry-run", "--out", tmp_path / "new")
    assert code == 0 and "4 runs like (teacher s2_bimodal" in out and out.splitlines()[-1].startswith("4 runs, 1 programs")
    assert not (tmp_path / "new").exists()


def test_processes_are_asked_of_the_launcher(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert process_of("slurm") == (3, 4)
    for wrong in ("", "abc", "-1", "4.0"):
        monkeypatch.setenv("SLURM_NTASKS", wrong)
        with pytest.raises(ValueError, match=f"process is 'slurm' and SLURM_NTASKS is '{wrong}'; it must be an integer of at least 0"):
            process_of("slurm")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--alpha 1:2:log1", "alpha: "),
        ("--alpha 1,1", "alpha: "),
        ("--alpha 0.05:20:lgo9", "log9"),
        ("--alpha 1e400", "alpha: "),
        ("--alpha -1", "alpha is -1; it must be a finite number, at least 0"),
        ("--teacher s14_modal", "did you mean 's14_bimodal'"),
        ("--radius 5", "radius is 5 and alpha is 1,5"),
        ("--neurons 0", "neurons is 0; it must be an integer of at least 1"),
        ("--neurons 8.5", "neurons is 8.5"),
        ("--neurons 8,many", "neurons: "),
        ("--n 0", "n is 0"),
        ("--seed 0:4294967297:4294967296", "seed is 4294967296; it must be an integer from 0 to 4294967295"),
        ("--seed -1", "seed is -1"),
        ("--integrator mola", "integrator is 'mola'; did you mean 'mala'"),
        ("--integrator mala,projetced", "did you mean 'projected'"),
        ("--budget maybe", "budget is 'maybe'; it must be True or False"),
        ("--steps 0", "steps is 0; it must be an integer of at least 1"),
        ("--steps 10,20", "steps is '10,20'; it must be an integer of at least 1"),
        ("--every 0", "every is 0"),
        ("--steps 10 --every 4", "multiple of every"),
        ("--test-points 0", "test_points is 0"),
        ("--batch-size 0", "batch_size is 0"),
        ("--process 4", "process is '4'; allowed: such as 0/4"),
        ("--process ²/4", "process is '²/4'; allowed: such as 0/4"),
        ("--scale fast --alpha=", "alpha: range is '', which is empty"),
        ("--resume=true", "--resume is followed by 'true'; it takes no value: give --resume or --no-resume"),
        ("--space sphere", "--teacher is no flag of dualebm sweep DATA; it is one without DATA, on planted teachers"),
        ("--normalise", "--normalise is no flag of dualebm sweep; it is one with DATA, the file of the rows\n"),
        ("--process 4/4", "process is (4, 4)"),
        ("--process pmi", "PMI_RANK is not set"),
        ("--coordinator auto --process 0/2", "process must be slurm or mpi with auto"),
        ("--coordinator 10.0.0.1:80", "process is None; process must be"),
        ("--coordinator 10.0.0.1 --process 0/2", "it must be host:port of process 0"),
        ("--devices 64", "devices is 64; it must be at most"),
        ("--resume", "holds no sweep that was started by this command"),
        ("--config missing.toml", "config is 'missing.toml'"),
        ("--restart-probability 2", "restart_probability is 2; it must be a finite number, at least 0 and at most 1"),
        ("--precision 16", "precision is 16; Allowed: 32, 64"),
        ("--scale fsat", "scale is 'fsat'; did you mean 'fast'"),
        ("--dry-run yes", "--dry-run is followed by 'yes'; it takes no value: give --dry-run or --no-dry-run"),
        ("more.csv", "'more.csv' is unexpected; dualebm sweep takes flags\n"),
        ("--set radius=3", "--set is no flag of dualebm sweep"),
        ("--anneal 1.5", "anneal is 1.5"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, message):
    code, out, err = call(capsys, "sweep", *QUICK, *flags.split(), "--out", tmp_path / "new")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and message in err, err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("method", "flags", "name"),
    [
        ("lazy", "--features 8,16 --averaged true,false", "features"),
        ("contrastive", "--learning-rate 0.001,0.01 --width 8", "learning_rate"),
        ("contrastive", "--start mlp --width 8,16", "width"),
        ("jarzynski", "--order particles_first,parameters-first --depth 1 --target none --integrator geodesic", "order"),
        ("weighted_dual", "--threshold 0.5,0.9", "threshold"),
        ("kernel_flow", "--jitter 0,0.1", "jitter"),
        ("mean-field", "--cells 64,128", "cells"),
        ("score_matching", "--smoothing 0.1,0.2", "smoothing"),
        ("likelihood", "--weight-decay 0,0.01", "weight_decay"),
        ("likelihood", "--feature softplus --sharpness 1,2", "sharpness"),
        ("kernel_stein", "--regime active,lazy", "regime"),
        ("network_stein", "--learning-rate 1,2", "learning_rate"),
    ],
)
def test_every_method_is_swept_by_its_own_settings(method, flags, name):
    given = planned("--teacher", "s2_bimodal", "--n", "60", "--seed", "0", "--method", method, *flags.split())
    runs = plan_of(**given).replicas
    assert len(runs) == (4 if method == "lazy" else 2)
    owners = [(run.method, run.rates, getattr(run.method, "feature", None), getattr(run.method, "start", None)) for run in runs]
    found = [next(getattr(owner, name) for owner in each if hasattr(owner, name)) for each in owners]
    assert sorted(set(found)) == sorted(set(given["grid"][name])), found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method lzy", "method is 'lzy'; did you mean 'lazy'"),
        ("--method lazy --featurs 3", "--featurs is no flag of dualebm sweep --method lazy; did you mean --features?"),
        ("--method lazy --neurons 8", "--neurons is no flag of dualebm sweep --method lazy; it is one with --method dual"),
        ("--method lazy --alpha 1", "--alpha is no flag of dualebm sweep --method lazy; it is one with --method dual"),
        ("--method contrastive --anneal 0.2", "--anneal is no flag of dualebm sweep --method contrastive; it is one with --method dual"),
        ("--method jarzynski --start conv_net --channels 3", "--channels is no flag of dualebm sweep --method jarzynski\n"),
        ("--beta 5", "beta is 5 and alpha is not given"),
        ("--scale fast", "scale is 'fast' and alpha is not given; give alpha with it"),
        ("--radius 0:1:lin1", "radius: range is '0:1:lin1'"),
    ],
)
def test_bad_settings_of_methods(tmp_path, capsys, flags, message):
    code, out, err = call(capsys, "sweep", *flags.split(), "--out", tmp_path / "new")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and message in err, err
