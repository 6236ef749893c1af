"""The ports of the authors' program beside a loop of the formulas, a small run from end to end, and bad input. No timings."""

import json

import jax
import numpy as np
import pytest

from benchmarks import worker
from benchmarks.__main__ import SCALES
from tests.experiments.test_benchmarks import command


def test_a_sweep_is_the_same_runs_however_batched(tmp_path):
    file = str(tmp_path / "start.npz")
    worker.prepare(file, 40, 8, 40)
    job = dict(file=file, n=20, count=4, every=2)
    together = [worker.sweep(**job, first=0, runs=2, batch=batch)["answer"]["kl"] for batch in (1, 2)]
    alone = np.mean([worker.sweep(**job, first=k, runs=1, batch=1)["answer"]["kl"] for k in (0, 1)])
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_end_to_end(tmp_path):
    path = tmp_path / "measured.json"
    done = command("--only", "compile", "--scale", "small", "--repetitions", 1, "--json", path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(path.read_text())
    assert measured["scale"] == "small" and measured["machine"]["jax"] == jax.__version__
    assert measured["sizes"]["n"] == SCALES["small"].n
    runs = measured["compile"]["repetitions"]
    assert set(runs) == {"plain jax", "dualebm projected", "dualebm MALA"}
    assert all(len(run) == 1 and run[0]["compile_seconds"] > 0 for run in runs.values())
    variations = [runs[name][0]["answer"]["total_variation"] for name in ("plain jax", "dualebm projected")]
    assert variations[0] == pytest.approx(variations[1], abs=0.02)
    assert "| dualebm MALA" in done.stdout and "processor" in done.stdout and "plain jax" in done.stderr
