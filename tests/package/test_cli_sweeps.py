"""The commands `dualebm sweep`, `show` and `runs`, with what is not allowed."""

import json
import re

import numpy as np
import pytest

from dualebm.cli import main
from dualebm.cli.sweep import Sweep, arguments, merged, process_of
from dualebm.sweeps.folder import SWEEP, open_sweep
from dualebm.sweeps.plan import plan_of

FLAGS = "--teacher s2_bimodal --n 60 --neurons 8 --steps 12 --every 4 --test-points 100 --seed 0:2 --alpha 1,5"
QUICK = FLAGS.split()


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of the command in this process."""
    capsys.readouterr()
    code = main.main([str(a) for a in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept") / "alpha"
    assert main.main(["sweep", *QUICK, "--restart-probability", "0,1/40", "--out", str(folder)]) == 0
    return folder


def test_the_flags_are_the_settings(swept):
    found = open_sweep(swept)
    assert found.sizes["run"] == 8 and np.isfinite(found.kl.values).all()
    assert sorted(set(found.alpha.values)) == [1, 5] and sorted(set(found.restart_probability.values)) == [0, 0.025]
    given = arguments(Sweep(out=swept, alpha="2", beta="5", step_size="0.1"))
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
    changed = merged(Sweep(out=swept, config=tmp_path / "sweep.toml", alpha="7"))
    assert (changed.alpha, changed.n) == ("7", "60")  # flags win


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    code, out, _ = call(capsys, "sweep", *QUICK, "--dry-run", "--out", tmp_path / "new")
    assert code == 0 and "4 runs like (teacher s2_bimodal" in out and out.splitlines()[-1].startswith("4 runs, 1 programs")
    assert not (tmp_path / "new").exists()


def test_processes_are_asked_of_the_launcher(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert process_of("slurm") == (3, 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--alpha 1:2:log1", "alpha: "),
        ("--alpha 1,1", "alpha: "),
        ("--seed 0,4294967296", "seed is 4294967296; it must be an integer from 0 to 4294967295"),
        ("--teacher s14_modal", "did you mean 's14_bimodal'"),
        ("--radius 5 --alpha 1", "radius is 5 and alpha is 1"),
        ("--beta 5 --alpha=None", "beta is 5 and alpha is None"),
        ("--neurons 0", "neurons is 0"),
        ("--neurons 8.5", "neurons is 8.5"),
        ("--integrator mola", "integrator is 'mola'"),
        ("--process 4", "process is '4'; allowed: such as 0/4"),
        ("--process 4/4", "process is \\(4, 4\\)"),
        ("--process pmi", "PMI_RANK is not set"),
        ("--coordinator auto --process 0/2", "process must be slurm or mpi with auto"),
        ("--coordinator 10.0.0.1:80", "process is None; process must be"),
        ("--coordinator 10.0.0.1 --process 0/2", "it must be host:port of process 0"),
        ("--devices 64", "devices is 64; it must be at most"),
        ("--resume", "holds no sweep that was started by this command"),
        ("--config missing.toml", "missing.toml"),
        ("--restart-probability 2", "restart_probability is 2"),
        ("--precision 16", "precision is 16"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, message):
    code, out, err = call(capsys, "sweep", *QUICK, *flags.split(), "--out", tmp_path / "new")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and re.search(message, err), err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_method_is_swept_by_its_own_settings(tmp_path):
    for method, settings, name in (
        ("lazy", ("features=8,16", "averaged=true,false"), "features"),
        ("contrastive", ("learning_rate=0.001,0.01", "width=8"), "learning_rate"),
        ("jarzynski", ("order=particles_first,parameters_first", "depth=1"), "order"),
        ("weighted_dual", ("threshold=0.5,0.9",), "threshold"),
        ("kernel_flow", ("jitter=0,0.1",), "jitter"),
        ("mean_field", ("cells=64,128",), "cells"),
        ("score_matching", ("smoothing=0.1,0.2",), "smoothing"),
        ("likelihood", ("weight_decay=0,0.01",), "weight_decay"),
        ("kernel_stein", ("regime=active,lazy",), "regime"),
        ("network_stein", ("learning_rate=1,2",), "learning_rate"),
    ):
        given = arguments(Sweep(out=tmp_path, teacher="s2_bimodal", n="60", seed="0", method=method, set=settings))
        runs = plan_of(**given).replicas
        assert len(runs) == (4 if method == "lazy" else 2)
        found = [getattr(run.method if hasattr(run.method, name) else run.rates, name) for run in runs]
        assert sorted(set(found)) == sorted(set(given["grid"][name])), (method, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method="lzy"), "method is 'lzy'; did you mean 'lazy'"),
        (dict(method="lazy", set=("featurs=3",)), "'lazy' is 'featurs'; did you mean 'features'"),
        (dict(method="lazy", neurons="8"), "'lazy' is 'neurons'"),
        (dict(method="lazy", alpha="1"), "alpha is 1 and method is 'lazy'"),
        (dict(method="contrastive", anneal=True), "anneal is True and method is 'contrastive'"),
        (dict(set=("radius",)), "set has 'radius'; it must be name=value"),
        (dict(set=("radius=0:1:lin1",)), "set radius: range is '0:1:lin1'"),
    ],
)
def test_bad_settings_of_methods(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments(Sweep(out=tmp_path, **changes))
