"""The ports of the authors' program beside a loop of the formulas, a small run from end to end, and bad input. No timings."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import correctness, defaults, device, first, ports, processes, worker
from benchmarks.__main__ import SCALES, Settings, check, draw_scan
from dualebm.energies.base import Energy
from dualebm.methods import presets
from dualebm.spaces import Euclidean, Sphere
from tests import oracles

ROOT = Path(__file__).parents[2]


def start(weight):
    """Walkers, neurons, weights, data and noise; a weight of 9.999 meets the budget, one of 1 does not."""
    rng = np.random.default_rng(0)
    data, z = (oracles.normalise(rng.standard_normal((count, 5))) for count in (12, 4))
    walkers = oracles.normalise(rng.standard_normal((24, 5)))
    return walkers, z, weight * np.exp(0.1 * rng.standard_normal(4)), data, rng.standard_normal((12, 5))


def expected(walkers, z, w, data, noise):
    after = oracles.dual_step(
        walkers, z, w, -np.ones(len(z)), data, np.concatenate([noise, -noise]), particle_step=0.02, transport_step=0.2,
        reaction_step=0.2, radius=10.0, integrator="projected", witness_particles="moved", weight_update="multiplicative",
    )  # fmt: skip
    return after["particles"], after["positions"], after["weights"]


@pytest.mark.parametrize("weight", [1.0, 12.0])
def test_numpy_port(weight):
    arguments = start(weight)
    for ours, theirs in zip(ports.array_step(np, *arguments), expected(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert (expected(*arguments)[2].mean() == pytest.approx(10, abs=1e-9)) == (weight == 12)
    single = ports.array_step(np, *(a.astype(np.float32) for a in arguments))
    assert {a.dtype for a in single} == {np.dtype(np.float32)}


@pytest.mark.parametrize("weight", [1.0, 12.0])
def test_plain_jax_port(weight, x64):
    arguments = start(weight)
    moved = jax.jit(lambda *a: ports.array_step(jnp, *a))(*map(jnp.asarray, arguments))
    for ours, theirs in zip(moved, expected(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [1.0, 12.0])
def test_torch_port(weight):
    torch = pytest.importorskip("torch")
    arguments = start(weight)
    for ours, theirs in zip(ports.torch_step(*map(torch.from_numpy, arguments)), expected(*arguments), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)


def test_divergence():
    points, z, w, teacher, _ = start(3.0)
    reference = oracles.energy(points, teacher[:2], np.array([-10.0, -4.0]))
    kl, _ = oracles.kl_and_score(points, teacher[:2], np.array([-10.0, -4.0]), z, -w)
    assert ports.divergence(points, reference, z, w) == pytest.approx(kl, abs=1e-12)


def test_all_implementations_share_one_start(tmp_path):
    file = str(tmp_path / "start.npz")
    worker.prepare(file, 40, 8, 10)
    shared = np.load(file)
    state = presets.program(Sphere(15), neurons=8).init(jax.random.key(2), presets.program_rates(), worker.Samples(jnp.ones((1, 15))))
    np.testing.assert_array_equal(shared["positions"], state.atoms.positions)
    assert shared["data"].shape == (40, 15) and shared["reference"].shape == (10,)
    answers = {name: worker.steps(name, file, 2)["answer"] for name in ("numpy float64", "dualebm projected")}
    for quantity, value in answers["numpy float64"].items():  # the noise differs
        assert value == pytest.approx(answers["dualebm projected"][quantity], abs=0.1)


def test_every_way_to_draw_normals_draws_normals():
    for generator in worker.normal_generators(3000, 4).values():
        drawn = np.asarray(jax.jit(generator)(jax.random.key(0)))
        assert drawn.size >= 12_000 and abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05




def test_figure(tmp_path):
    values = {factor: [1, 2, 4] for factor in ("N", "m", "d", "runs")}
    times = {f"{factor} = {v}": [dict(seconds=0.001 * v), dict(seconds=0.002 * v)] for factor in values for v in values[factor]}
    result = dict(base=dict(N=2, m=2, d=2, runs=1), values=values, repetitions=times, slopes=dict.fromkeys(values, 1.0))
    draw_scan(result, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 10_000


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_the_floor_is_the_larger_of_arithmetic_and_memory(fill, monkeypatch):
    """Rates from programs that do each thing once, and as often as they may."""
    loops = []
    inner = jax.lax.fori_loop
    monkeypatch.setattr(jax.lax, "fori_loop", lambda first, count, *rest: (loops.append(count), inner(first, count, *rest))[1])
    monkeypatch.setattr(worker, "normal_generators", lambda pairs, d: {"whole": lambda key: jax.random.normal(key, (d, pairs))})
    found = worker.limit(10, 4, 3, 1, size=8, length=64, fill=fill)
    arithmetic = found["operations"] / found["operations_per_second"] + found["normals_seconds"]["whole"]
    assert found["operations"] == 2 * 4 * 3 * (4 * 20 + 20) and found["bytes"] == 4 * 3 * (20 + 20 + 10)
    assert found["seconds"] == pytest.approx(arithmetic)
    assert found["floor_seconds"] == max(arithmetic, found["bytes"] / found["bytes_per_second"])
    assert loops.count(worker.MOST_TIMES) == (3 if fill else 0)


# ---- one device --------------------------------------------------------------------------------------------


def here(job, *, on_device=False, timeout=None, cores=None, **arguments):
    """A job in this process, in place of one of its own."""
    del on_device, timeout, cores
    return json.loads(json.dumps(worker.JOBS[job](**arguments)))


def test_the_script_for_one_device_runs_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "isolated", here)
    results = device.main(device.Settings("small", tmp_path / "device.json"))
    assert json.loads((tmp_path / "device.json").read_text()) == json.loads(json.dumps(results))
    found = results["parts"]
    assert all(0 <= one["error"] < one["allowed"] for one in found["correctness"]["errors"].values())
    assert {part["left_out"] for part in found.values() if "left_out" in part} <= {"torch is not installed"}
    table = (tmp_path / "device.md").read_text()
    assert table in capsys.readouterr().out and "WRONG" not in table
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in table.splitlines() if line.startswith("|")}
    projected, plain = (rows[f"step, {name}"] for name in (device.OURS, device.PLAIN))
    assert all(float(one) == pytest.approx(float(other), abs=0.02) for one, other in zip(projected[4:6], plain[4:6], strict=True))
    assert float(rows[f"2 runs, {device.OURS}"][5]) == pytest.approx(float(rows[f"2 runs, {device.PLAIN}"][5]), abs=0.02)
    assert all(float(cell) > 0 for row in rows.values() if row is not rows[""] for cell in row[:4] if "-" not in cell)


def test_a_part_that_fails_or_takes_too_long_is_left_out(monkeypatch):
    end = time.monotonic() + 100
    assert "took more than 0 s" in device.measured("start", 0.01, dict(job="prepare"), end)["left_out"]
    assert "no time was left" in device.measured("start", 60, dict(job="prepare"), time.monotonic() + 1)["left_out"]

    def failing(**job):
        raise RuntimeError("a job failed:\n  in a file\nValueError: out of memory\n")

    monkeypatch.setattr(device, "isolated", failing)
    assert device.measured("start", 60, dict(job="prepare"), end)["left_out"] == "ValueError: out of memory"


def test_the_time_of_the_script_ends(tmp_path, monkeypatch, capsys):
    """Without time for any part the table is there, and says so."""
    monkeypatch.setattr(device, "isolated", here)
    results = device.main(device.Settings("small", tmp_path / "device.json"), seconds=1)
    assert {part["left_out"] for part in results["parts"].values()} <= {"no time was left", "torch is not installed"}
    assert "left out: rates: no time was left" in capsys.readouterr().out


@pytest.mark.parametrize(("before", "after"), [(None, None), ("cuda", "cuda,cpu"), ("cpu", "cpu")])
def test_a_process_that_measures_a_device_has_that_device_and_the_cpu(before, after, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    if before is not None:
        monkeypatch.setenv("JAX_PLATFORMS", before)
    environment = processes.environment_of(on_device=True)
    assert environment.get("JAX_PLATFORMS") == after and environment["CUDA_VISIBLE_DEVICES"] == "1" and "XLA_FLAGS" not in environment
    assert processes.environment_of(on_device=False)["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "words"), [(dict(scale="big"), "scale is 'big'"), (dict(json=Path("/nowhere/at/all.json")), "json is /nowhere")]
)
def test_bad_input_for_one_device(settings, words):
    with pytest.raises(ValueError, match=words):
        device.main(device.Settings(**settings))


def test_a_wrong_step_is_found(monkeypatch):
    assert correctness.step_error(50, "projected") < 1e-6
    monkeypatch.setattr(correctness.dual.Dual, "update_atoms", lambda self, atoms, witness, rates: (atoms, jnp.int32(0)))
    assert correctness.step_error(51, "projected") > 1e-3  # another size, for which the step is traced anew


def command(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)




class Quadratic(Energy):
    scale: jax.Array

    def __call__(self, x):
        return 0.5 * jnp.matmul(x**2, self.scale, precision="highest")


def test_the_independent_log_z_of_a_normal_energy():
    """U = sum_i a_i x_i^2 / 2 against the standard normal law has Z = prod (1 + a_i)^(-1/2)."""
    scale = jnp.array([3.0, 0.0, 1.0])
    value, error, share = defaults.independent(jax.random.key(0), Quadratic(scale), Euclidean(3), draws=2**14)
    assert abs(value + 0.5 * np.sum(np.log1p(np.asarray(scale)))) < 5 * error < 0.05 and 0.3 < share < 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(only=("step", "stp")), "only is 'stp'; did you mean 'step'?"),
        (dict(scale="big"), "scale is 'big'"),
        (dict(repetitions=0), "repetitions is 0; it must be an integer of at least 1"),
        (dict(json=Path("/nowhere/at/all.json")), "json is /nowhere/at/all.json; it must be a file that can be written"),
        (dict(figure=Path("/")), "figure is /; it must be a file"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(settings, words):
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        check(Settings(**settings))


def test_bad_input_at_the_command_line():
    done = command("--only", "compile", "--json", "/nowhere/at/all.json")
    assert done.returncode == 1 and done.stderr.startswith("error: json is /nowhere/at/all.json") and not done.stdout


def test_first_answers(tmp_path, monkeypatch, capsys):
    """A small run in this process: the parts and the answers are there, and a job that has no earlier programs has a new folder for them.

    A fit takes a minute where programs are not optimised. In its place is one that only looks at what it is given.
    """

    def fit(file, out, flags):
        assert len(np.loadtxt(file, delimiter=",", skiprows=1)) == 100 and not list(Path(out).iterdir())
        return dict(importing=0.0, answer=float(jax.jit(lambda x: x + len(flags))(1.0)))

    folders = []

    def here(job, module, cache=None, **arguments):
        assert module == "benchmarks.first"
        folders.append(cache)
        return first.timed(first.JOBS[job], **arguments)

    monkeypatch.setattr(processes, "isolated", here)
    monkeypatch.setitem(first.JOBS, "fit", fit)
    start = str(tmp_path / "start.npz")
    worker.prepare(start, 50, 4, 50)
    monkeypatch.setattr("benchmarks.__main__.prepare", lambda *sizes: start)
    monkeypatch.setattr(first, "WHERE", {"without programs": True})
    answers = first.measure(SCALES["small"], tmp_path)["repetitions"]
    assert [len(runs) for runs in answers.values()] == [1, 1] and folders[0] is None and len(set(folders)) == 3
    for (run,) in answers.values():
        assert run["programs"] > 0 and np.isfinite(run["answer"]) and 0 < run["tracing"] < run["seconds"]
        assert run["importing"] + run["tracing"] + run["compiling"] + run["rest"] == pytest.approx(run["seconds"])
    assert "first answer" in capsys.readouterr().out
