"""Correctness, speed and memory of one device, within eight minutes: on the device that JAX uses by itself, a GPU, a TPU or the CPU.

    python -m benchmarks device --json device.json
    python -m benchmarks device --scale small

The parts are: float32 beside NumPy float64; the rates of the device, from which the floor of a step follows; a step at the scale of
the paper in this package, in plain JAX, in PyTorch where it is installed, and on two cores of the CPU; and sweeps of 64 and of 1024 runs.
Each part is a process of its own with a budget of seconds. What fails or takes longer is left out, with the reason. The numbers are
written after each part.
"""

import dataclasses
import importlib.util
import json
import tempfile
import time
from pathlib import Path

from benchmarks.processes import aligned, isolated, machine, say
from dualebm._internal import checks

SECONDS = 480
"""The longest time of the whole script."""

LAST = 5
"""The seconds that are left at its end. No part begins with less."""

STEP, SWEEP, CPU = "step, {}", "{} runs, {}", "step, dualebm projected, two cores of the CPU"
PLAIN, OURS, MALA, TORCH = "plain jax", "dualebm projected", "dualebm MALA", ("torch eager", "torch.compile")


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of the parts."""

    n: int  # data points of a step; N = 2n particles
    neurons: int
    tests: int  # test points of KL
    steps: int  # timed
    runs: tuple[int, ...]  # of the sweeps
    run_n: int  # data points of each run
    run_steps: int
    checked: tuple[int, ...]  # numbers of points at which energies are compared with NumPy
    step_n: int  # data points of the steps that are compared
    rates: dict  # the sizes from which the rates of the device are measured


SCALES = {
    "paper": Scale(
        n=100_000, neurons=64, tests=100_000, steps=20, runs=(64, 1024), run_n=10_000, run_steps=10,
        checked=(20_000, 32_769, 100_000), step_n=500, rates=dict(repetitions=5, size=4096, length=2**27, fill=0.02),
    ),
    "small": Scale(
        n=1000, neurons=16, tests=1000, steps=4, runs=(2, 4), run_n=200, run_steps=2,
        checked=(300,), step_n=100, rates=dict(repetitions=1, size=256, length=2**20, fill=0.0),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the script."""

    scale: str = "paper"
    """paper (S^14, n = 1e5, N = 2e5, m = 64; 64 and 1024 runs of n = 1e4) or small (some thousand points, for a look)."""
    json: Path = Path("device.json")
    """Where every number is written. The table goes beside it, to the same name with the ending .md."""


def parts(scale: Scale, file: str) -> list[tuple[str, float, dict]]:
    """The parts in the order of their weight: name, budget in seconds, and the job of `benchmarks.worker`."""
    step = dict(job="steps", file=file, count=scale.steps, on_device=True)
    runs = dict(job="runs_of", n=scale.run_n, neurons=scale.neurons, count=scale.run_steps, on_device=True)
    few, many = scale.runs
    return [
        ("correctness", 90, dict(job="correct", n=scale.step_n, counts=scale.checked, on_device=True)),
        ("start", 60, dict(job="prepare", file=file, n=scale.n, neurons=scale.neurons, tests=scale.tests)),
        ("rates", 75, dict(job="limit", n=scale.n, neurons=scale.neurons, dimension=15, on_device=True, **scale.rates)),
        *[(STEP.format(name), 45, step | dict(implementation=name)) for name in (OURS, PLAIN, MALA)],
        (SWEEP.format(few, OURS), 60, runs | dict(implementation=OURS, runs=few)),
        (SWEEP.format(many, OURS), 75, runs | dict(implementation=OURS, runs=many)),
        (CPU, 40, dict(job="steps", file=file, count=scale.steps, implementation=OURS, cores=2)),
        (SWEEP.format(few, PLAIN), 45, runs | dict(implementation=PLAIN, runs=few)),
        *[(STEP.format(name), 60, step | dict(implementation=name)) for name in TORCH],
        (SWEEP.format(many, PLAIN), 60, runs | dict(implementation=PLAIN, runs=many)),
        *[(SWEEP.format(count, TORCH[0]), 45, runs | dict(implementation=TORCH[0], runs=count)) for count in scale.runs],
    ]


def measured(name: str, budget: float, job: dict, end: float) -> dict:
    """What a part answers, or `{"left_out": why}`. It takes no longer than its budget, and ends before the time `end`."""
    if any(torch in name for torch in TORCH) and importlib.util.find_spec("torch") is None:
        return dict(left_out="torch is not installed")
    left = end - time.monotonic()
    if left < LAST:
        return dict(left_out="no time was left")
    try:
        return isolated(timeout=min(budget, left), **job)
    except TimeoutError:
        return dict(left_out=f"it took more than {min(budget, left):.0f} s")
    except RuntimeError as error:
        return dict(left_out=(str(error).strip().splitlines() or ["it failed"])[-1][:200], error=str(error))


# ---- the table ---------------------------------------------------------------------------------------------------


def megabytes(answer: dict) -> str:
    """The peak memory of the device, or of the process on a CPU."""
    return f"{(answer.get('device_peak_bytes') or answer['peak_bytes']) / 1e6:.0f}"


def rows_of(scale: Scale, found: dict) -> list[list[str]]:
    """A row for each step and sweep that was measured: its time, beside the floor and beside plain JAX, its memory and its answer."""
    floor = found.get("rates", {}).get("floor_seconds")
    rows = []
    for name, answer in found.items():
        if "answer" not in answer:
            continue
        runs = int(name.split()[0]) if name[0].isdigit() else None
        least = floor and (floor if runs is None else floor * runs * scale.run_n / scale.n)
        plain = found.get(SWEEP.format(runs, PLAIN) if runs else STEP.format(PLAIN), {}).get("seconds")
        rows.append([
            name, f"{1e3 * answer['seconds']:.3g}", f"{answer['seconds'] / least:.2f}" if least else "",
            f"{plain / answer['seconds']:.2f}" if plain else "", megabytes(answer),
            f"{answer['answer']['kl']:.4f}" if "kl" in answer["answer"] else "", f"{answer['answer']['total_variation']:.4f}",
        ])  # fmt: skip
    return rows


def text_of(scale: Scale, results: dict) -> str:
    """The device, what is wrong with it or not, its floor, and the table."""
    found = results["parts"]
    about = found["correctness"].get("device", {})
    lines = [f"device: {about.get('kind', 'not known')} ({about.get('platform', '?')}), {about.get('count', '?')} of them, one is used"]
    lines.append(", ".join(f"{name}: {value}" for name, value in results["machine"].items()))
    for name, one in found["correctness"].get("errors", {}).items():
        verdict = "right" if one["error"] <= one["allowed"] else "WRONG"
        lines.append(f"{verdict}: {name}, off by {one['error']:.1e} of {one['allowed']:.0e}")
    if "floor_seconds" in found.get("rates", {}):
        rates = found["rates"]
        lines.append(
            f"floor of a step: {1e3 * rates['floor_seconds']:.3g} ms, from {rates['operations_per_second'] / 1e9:.0f} GFLOP/s, "
            f"{rates['bytes_per_second'] / 1e9:.0f} GB/s and {1e3 * min(rates['normals_seconds'].values()):.3g} ms of normal numbers"
        )
    header = ["", "ms a step", "this / floor", "plain jax / this", "peak memory, MB", f"KL at {scale.steps}", "total variation"]
    lines += ["", aligned(header, rows_of(scale, found)), ""]
    here, cores = (found.get(name, {}).get("seconds") for name in (STEP.format(OURS), CPU))
    if here and cores:
        lines.append(f"Two cores of this machine's CPU take {cores / here:.1f} times as long for a step of this package as the device.")
    lines += [f"left out: {name}: {answer['left_out']}" for name, answer in found.items() if "left_out" in answer]
    lines.append(
        f"A step has n = {scale.n}, N = {2 * scale.n}, m = {scale.neurons}. Each run of a sweep has n = {scale.run_n}; its time is that of "
        f"a step of all runs, and its floor that of a step for as many points. {results['seconds']:.0f} s in all."
    )
    return "\n".join(lines)


def main(settings: Settings, seconds: float = SECONDS) -> dict:
    """Measures the parts, writes the numbers after each and the table at the end, and returns them.

    Raises ValueError naming the argument, its value and what is allowed, before anything runs.
    """
    checks.choice("scale", settings.scale, SCALES)
    if settings.json.is_dir() or not settings.json.parent.is_dir() or settings.json.suffix == ".md":
        raise ValueError(f"json is {settings.json}; it must be a file, not of the ending .md, in a folder that exists")
    begin, scale = time.monotonic(), SCALES[settings.scale]
    results = dict(machine=machine(), scale=settings.scale, sizes=dataclasses.asdict(scale), parts={}, seconds=0.0)
    with tempfile.TemporaryDirectory() as folder:
        for name, budget, job in parts(scale, str(Path(folder) / "start.npz")):
            say(name)
            results["parts"][name] = measured(name, budget, job, begin + seconds - LAST)
            results["seconds"] = time.monotonic() - begin
            settings.json.write_text(json.dumps(results, indent=1))
    text = text_of(scale, results)
    settings.json.with_suffix(".md").write_text(text + "\n")
    print(text)
    return results
