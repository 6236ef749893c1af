"""Time and memory of `dualebm` beside the authors' program in NumPy, PyTorch and plain JAX, and the machine's limit.

    python -m benchmarks --scale small
    python -m benchmarks --only step memory --json measured.json
    python -m benchmarks device --json device.json

The last line measures one device, an accelerator or a CPU, within eight minutes (see `benchmarks.device`). The others measure CPUs.
Every number is of a process of its own, in a clean environment; repetitions alternate between the implementations.
"""

import concurrent.futures
import dataclasses
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from benchmarks import device, first
from benchmarks.processes import ROOT, isolated, machine, say, table
from dualebm._internal import checks, cores
from dualebm._internal.files import commit_figure

STEPS = 20
PLAIN = "plain jax"
OURS = ("dualebm projected", "dualebm MALA")
PROJECTED = ("numpy float64", "numpy float32", "torch eager", "torch.compile", PLAIN, OURS[0])
"""The implementations of one and the same update, whose answers must agree; that of `OURS[1]` is another."""

FACTORS = {"N": "N (particles)", "m": "m (neurons)", "d": "d (ambient dimensions)", "runs": "vmapped at once (runs)"}
"""What `scan` varies: the label of its axis, with its unit."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of a suite."""

    n: int  # data points; N = 2n particles
    neurons: int
    tests: int  # test points of KL
    repetitions: int
    scan: dict  # factor -> its values
    sweep_runs: int
    sweep_steps: int
    sweep_tried: int  # steps of a run while the batch of the sweep is chosen
    sweep_processes: int  # runs timed in a process each; 0: none
    program_iterations: int  # of the NumPy port, timed for time-to-kl


SCALES = {
    "paper": Scale(
        n=100_000, neurons=64, tests=100_000, repetitions=5,
        scan=dict(
            N=[25_000, 50_000, 100_000, 200_000, 400_000], m=[16, 32, 64, 128, 256], d=[8, 15, 30, 60, 120],
            runs=[1, 2, 4, 8],
        ),
        sweep_runs=64, sweep_steps=1000, sweep_tried=100, sweep_processes=8, program_iterations=200,
    ),
    "small": Scale(
        n=2000, neurons=64, tests=10_000, repetitions=1,
        scan=dict(N=[4000, 16_000], m=[64, 256], d=[15, 60], runs=[1, 4]),
        sweep_runs=4, sweep_steps=100, sweep_tried=50, sweep_processes=0, program_iterations=20,
    ),
}  # fmt: skip
SWEEP_N, SWEEP_EVERY = 1000, 50
GOAL = 0.0184
"""KL of the authors' archived run of this size (n = 1e5, monomodal) at iteration 4000."""

PROGRAM_NEEDS = 3000
"""Iterations of the authors' program to that KL, about."""

SMALL_N = 500
"""Data points of the program whose memory is taken off: what the libraries themselves need."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the suite."""

    only: tuple[str, ...] = ()
    """Any of step, scan, sweep, time-to-kl, memory, compile, devices, networks, walkers, first-answer; all of them when absent."""
    scale: str = "paper"
    """paper (S^14, n = 1e5, N = 2e5, m = 64) or small (n = 2000, for a look)."""
    repetitions: int | None = None
    """Processes a measurement; None for the scale's own."""
    json: Path | None = None
    """Where every number is written, repetition by repetition."""
    figure: Path | None = None
    """Where the figure of `scan` is written; None for benchmarks/figures/scan.png at paper scale and nowhere at small."""


# ---- processes ---------------------------------------------------------------------------------------------------


def alternate(jobs: dict, repetitions: int) -> dict:
    """Every job once, then every job again, and so on: name -> its answers. A drift of the machine meets all alike.

    A job of a PyTorch port that fails (no compiler for C++, say) is left out, with the reason on standard error.
    """
    answers = {name: [] for name in jobs}
    for repetition in range(repetitions):
        for name in [name for name in jobs if name in answers]:
            say(f"{repetition + 1}/{repetitions} {name}")
            try:
                answers[name].append(isolated(**jobs[name]))
            except RuntimeError as error:
                if not name.startswith("torch"):
                    raise
                say(f"{name} is left out: {error}")
                del answers[name]
    return answers


def implementations() -> list[str]:
    """The implementations that can run here."""
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        say("torch is not installed: its ports are left out (pip install -e '.[torch]')")
    return [name for name in (*PROJECTED, OURS[1]) if torch or not name.startswith("torch")]


# ---- tables ------------------------------------------------------------------------------------------------------


def median(answers: list[dict], name: str = "seconds") -> float:
    """The median of a number over the repetitions."""
    return statistics.median(answer[name] for answer in answers)


def spread(answers: list[dict], unit: float = 1.0, digits: int = 2, name: str = "seconds") -> str:
    """A number's median and, in brackets, its least and largest, in units of `unit`."""
    values = [answer[name] / unit for answer in answers]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def prepare(folder: Path, n: int, neurons: int, tests: int) -> str:
    """The file with the shared start, made in a process of its own."""
    file = str(folder / f"start_{n}.npz")
    if not Path(file).exists():
        say(f"drawing {n} data points")
        isolated("prepare", file=file, n=n, neurons=neurons, tests=tests)
    return file


# ---- the benchmarks ----------------------------------------------------------------------------------------------


def step(scale: Scale, folder: Path) -> dict:
    """Milliseconds of one step in every implementation, beside the limit and each implementation's answer."""
    file = prepare(folder, scale.n, scale.neurons, scale.tests)
    jobs = {name: dict(job="steps", implementation=name, file=file, count=STEPS) for name in implementations()}
    jobs["limit"] = dict(job="limit", n=scale.n, neurons=scale.neurons, dimension=15, repetitions=3)
    answers = alternate(jobs, scale.repetitions)
    limits = answers.pop("limit")
    rate = max(limit["operations_per_second"] for limit in limits)
    normals = {name: min(limit["normals_seconds"][name] for limit in limits) for name in limits[0]["normals_seconds"]}
    products = limits[0]["operations"] / rate
    limit = products + min(normals.values())
    print(
        f"limit {1e3 * limit:.2f} ms = {1e3 * products:.2f} ms of products ({limits[0]['operations'] / 1e9:.3f} GFLOP at "
        f"{rate / 1e9:.0f} GFLOP/s, float32, 4096^3) + {1e3 * min(normals.values()):.2f} ms of normals alone, the best of:"
    )
    print("; ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in normals.items()) + "\n")
    last = {name: runs[-1]["answer"] for name, runs in answers.items()}
    tolerance = 1 / (2 * scale.n) ** 0.5
    rows = [
        [
            name, spread(runs, 1e-3), f"{median(answers[PLAIN]) / median(runs):.2f}", f"{median(runs) / limit:.2f}",
            f"{last[name]['kl']:.4f}", f"{last[name]['total_variation']:.4f}", f"{last[name]['particle_mean']:.4f}",
        ]
        for name, runs in answers.items()
    ]  # fmt: skip
    header = [
        "implementation", "ms a step", "plain / this", "this / limit", f"KL at {STEPS}", "total variation", "norm of mean particle",
    ]  # fmt: skip
    table(header, rows)
    for name in [name for name in answers if name in PROJECTED]:
        for quantity, value in last[name].items():
            if abs(value - last[PLAIN][quantity]) > tolerance:
                print(f"WARNING: {quantity} of {name} is further than {tolerance:.4f} from that of {PLAIN}")
    print(
        f"The projected updates' answers are compared within 1 / sqrt(N) = {tolerance:.4f}; MALA is another update.\n"
    )
    return dict(repetitions=answers, limits=limits, limit_seconds=limit, normals_seconds=normals)


def scan(scale: Scale, folder: Path) -> dict:
    """Seconds of our step (MALA) against N, m, d and the number of runs, one at a time, and the slopes."""
    base = dict(N=2 * scale.n, m=scale.neurons, d=15, runs=1)
    points = {(factor, value): {**base, factor: value} for factor, values in scale.scan.items() for value in values}
    jobs = {  # the points that two factors share are measured once
        str(p): dict(job="grown_steps", n=p["N"] // 2, neurons=p["m"], dimension=p["d"], runs=p["runs"], count=STEPS)
        for p in points.values()
    }
    measured = alternate(jobs, min(scale.repetitions, 3))
    answers = {f"{factor} = {value}": measured[str(p)] for (factor, value), p in points.items()}
    slopes = {}
    for factor, values in scale.scan.items():
        seconds = [median(answers[f"{factor} = {value}"]) for value in values]
        slopes[factor] = float(np.polyfit(np.log(values), np.log(seconds), 1)[0])
    rows = []
    for factor, value in points:
        runs = answers[f"{factor} = {value}"]
        slope = f"{slopes[factor]:.2f}" if value == scale.scan[factor][-1] else ""
        rows.append([f"{factor} = {value}", spread(runs, 1e-3), f"{1e6 * median(runs) / value:.3f}", slope])
    table(["", "ms a step", "us / value", "log-log slope"], rows)
    print(f"What is not varied: N = {base['N']}, m = {base['m']}, d = {base['d']}, 1 run.\n")
    return dict(base=base, values=scale.scan, repetitions=answers, slopes=slopes)


def draw_scan(result: dict, path: Path) -> None:
    """The figure of `scan`: a panel a factor, the median with its least and largest, and a line of slope 1."""
    import matplotlib
    from matplotlib.figure import Figure

    from dualebm.plotting import charts

    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 5.4), layout="constrained")
        for axes, (factor, label) in zip(figure.subplots(2, 2).flat, FACTORS.items(), strict=True):
            values = np.array(result["values"][factor])
            times = [[1e3 * run["seconds"] for run in result["repetitions"][f"{factor} = {v}"]] for v in values]
            middle = np.array([statistics.median(t) for t in times])
            ends = np.array([[m - min(t), max(t) - m] for m, t in zip(middle, times, strict=True)]).T
            label_of_slope = f"measured, slope {result['slopes'][factor]:.2f}"
            axes.errorbar(values, middle, ends, marker="o", color=charts.COLOURS[0], capsize=2, label=label_of_slope)
            axes.plot(values, middle[-1] * values / values[-1], "--", color="0.5", label="proportional")
            axes.set(xlabel=label, ylabel="one step (ms)")
            charts.log_axis(axes.xaxis, values.tolist())
            charts.log_axis(axes.yaxis)
            axes.minorticks_off()
            axes.legend()
        base = result["base"]
        others = f"$N$ = {charts.number(base['N'])}, $m$ = {base['m']}, $d$ = {base['d']}, one run"
        figure.suptitle(f"One step of the MALA default (what is not varied: {others}); median, bars: least to largest", fontsize=8)
        commit_figure(path, figure)


def sweep(scale: Scale, folder: Path) -> dict:
    """Many runs in one program beside one run of all their points, and beside a process each, two at a time."""
    runs, points = scale.sweep_runs, scale.sweep_runs * SWEEP_N
    file = prepare(folder, points, scale.neurons, points)
    job = dict(job="sweep", file=file, n=SWEEP_N, first=0, every=SWEEP_EVERY)
    batches = [b for b in (1, 2, 4, 8, 16, 32, 64) if b <= runs]
    tries = {f"{b} vmapped at a time": {**job, "runs": runs, "count": scale.sweep_tried, "batch": b} for b in batches}
    tried = alternate(tries, min(scale.repetitions, 3))
    best = min(batches, key=lambda b: median(tried[f"{b} vmapped at a time"]))
    rows = [[name, spread(answers), f"{answers[-1]['answer']['kl']:.5f}"] for name, answers in tried.items()]
    table([f"{runs} runs, {scale.sweep_tried} steps", "seconds", "mean KL"], rows)
    print()
    whole = {"one run of all points": {**job, "n": points, "runs": 1, "count": scale.sweep_steps, "batch": 1}}
    for b in sorted({best, runs}):
        whole[f"{runs} runs, {b} at a time"] = {**job, "runs": runs, "count": scale.sweep_steps, "batch": b}
    devices = max(count for count in range(1, cores.count() + 1) if runs % count == 0)
    divided = dict(runs=runs, count=scale.sweep_steps, batch=1, devices=devices)
    whole[f"{runs} runs, {devices} devices of a core each"] = {**job, **divided}
    answers = alternate(whole, min(scale.repetitions, 3))
    one = median(answers["one run of all points"])
    result = dict(tried=tried, best_batch=best, repetitions=answers)
    rows = [
        [
            name, spread(measured), f"{median(measured) / one:.2f}", f"{median(measured, 'compile_seconds'):.1f}",
            f"{measured[-1]['answer']['kl']:.5f}",
        ]
        for name, measured in answers.items()
    ]  # fmt: skip
    if scale.sweep_processes:
        result["processes"] = processes = separate_processes(job, scale)
        for name in ("wall_seconds", "wall_less_compiling_seconds"):
            compiling = "with" if name == "wall_seconds" else "without"
            kl = statistics.mean(answer["answer"]["kl"] for answer in processes["runs"])
            label = f"{runs} processes, two at a time, {compiling} compiling"
            rows.append([label, f"{processes[name]:.2f}", f"{processes[name] / one:.2f}", "", f"{kl:.5f}"])
    header = [f"n = {SWEEP_N} a run, {scale.sweep_steps} steps", "seconds", "this / one run", "compiling, s", "mean KL"]
    table(header, rows)
    print(
        f"One run has all {points} data points, twice as many particles, and all the test points ({SWEEP_N} a run): the "
        f"same arithmetic. KL every {SWEEP_EVERY} steps."
    )
    if scale.sweep_processes:
        factor = runs / scale.sweep_processes
        print(f"Of the processes {scale.sweep_processes} were timed, and their time multiplied by {factor:g}.")
    print()
    return result


def separate_processes(job: dict, scale: Scale) -> dict:
    """Some of the sweep's runs in a process each, two at a time, scaled to all of them."""
    say(f"{scale.sweep_processes} of the runs in processes of their own")
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        tasks = [
            pool.submit(isolated, **{**job, "first": k, "runs": 1, "count": scale.sweep_steps, "batch": 1})
            for k in range(scale.sweep_processes)
        ]
        answers = [task.result() for task in tasks]
    wall, factor = time.perf_counter() - begin, scale.sweep_runs / scale.sweep_processes
    compiling = sum(answer["lower_seconds"] + answer["compile_seconds"] for answer in answers) / 2
    return dict(runs=answers, wall_seconds=factor * wall, wall_less_compiling_seconds=factor * (wall - compiling))


def measure_time_to_kl(scale: Scale, folder: Path) -> dict:
    """Seconds to the KL of the authors' archived run: our default beside the port of their program in NumPy float64."""
    file = prepare(folder, scale.n, scale.neurons, scale.tests)
    ours = []
    for seed in range(min(scale.repetitions, 3)):
        say(f"time to KL <= {GOAL}, seed {seed}")
        ours.append(isolated("time_to_kl", file=file, seed=seed, goal=GOAL, every=10, longest=1000))
    count = scale.program_iterations
    say(f"{count} iterations of the NumPy port")
    theirs = isolated("steps", implementation="numpy float64", file=file, count=count)
    needed = PROGRAM_NEEDS * theirs["seconds"]
    reached = "" if all(run["reached"] for run in ours) else " (NOT reached by every seed)"
    iterations = ", ".join(str(run["iterations"]) for run in ours)
    kl = ", ".join(f"{run['kl'][-1]:.4f}" for run in ours)
    rows = [
        ["dualebm, steps alone", iterations, kl, spread(ours), f"{needed / median(ours):.0f}"],
        [
            "dualebm, with start, compiling and KL", iterations, kl, spread(ours, name="whole_seconds"),
            f"{needed / median(ours, 'whole_seconds'):.0f}",
        ],
        ["numpy float64", f"about {PROGRAM_NEEDS}", f"{theirs['answer']['kl']:.4f} at {count}", f"{needed:.0f}", "1"],
    ]  # fmt: skip
    table([f"to KL <= {GOAL}{reached}", "iterations", "KL", "seconds", "numpy / this"], rows)
    print(
        f"Ours: seeds 0 to {len(ours) - 1}. NumPy: {count} iterations were timed, {1e3 * theirs['seconds']:.0f} ms each, and "
        f"multiplied; {PROGRAM_NEEDS} is what the authors' program needs at n = 1e5.\n"
    )
    return dict(dualebm=ours, numpy=theirs, numpy_seconds=needed, ratio=needed / median(ours))


def memory(scale: Scale, folder: Path) -> dict:
    """Peak memory of 20 steps above that of the same program at N = 1000 and above its own arguments."""
    large = prepare(folder, scale.n, scale.neurons, scale.tests)
    small = prepare(folder, SMALL_N, scale.neurons, SMALL_N)
    names = implementations()
    jobs = {
        f"{name}, {size}": dict(job="steps", implementation=name, file=file, count=STEPS)
        for name in names
        for size, file in (("large", large), ("small", small))
    }
    answers = alternate(jobs, min(scale.repetitions, 3))
    rows, extra = [], {}
    for name in [name for name in names if f"{name}, large" in answers and f"{name}, small" in answers]:
        pairs = zip(answers[f"{name}, large"], answers[f"{name}, small"], strict=True)
        extra[name] = [
            dict(bytes=a["peak_bytes"] - b["peak_bytes"] - (a["argument_bytes"] - b["argument_bytes"]))
            for a, b in pairs
        ]
        large_run = answers[f"{name}, large"]
        planned = large_run[0].get("temporary_bytes")
        alone = [
            r["peak_bytes"] - r["resident_before_run_bytes"] for r in large_run if r.get("resident_before_run_bytes")
        ]
        rows.append([
            name, spread(extra[name], 1e6, 0, "bytes"),
            f"{statistics.median(alone) / 1e6:.0f}" if alone else "",
            "" if planned is None else f"{planned / 1e6:.0f}",
            f"{large_run[0]['argument_bytes'] / 1e6:.0f}", f"{median(large_run, 'peak_bytes') / 1e6:.0f}",
        ])  # fmt: skip
    header = ["MB", "above its arguments", "of the run alone", "temporaries XLA plans", "arguments", "whole process"]
    table(header, rows)
    print(
        f"Above: less the same program at N = {2 * SMALL_N}; it holds what compiling the larger program takes. Run alone: the "
        f"peak less what is resident once compiled. n = {scale.n}, m = {scale.neurons}, {STEPS} steps.\n"
    )
    return dict(repetitions=answers, above=extra)


def compile_time(scale: Scale, folder: Path) -> dict:
    """Seconds to lower and to compile 20 steps in a cold process."""
    file = prepare(folder, scale.n, scale.neurons, scale.tests)
    names = (PLAIN, *OURS)
    jobs = {name: dict(job="steps", implementation=name, file=file, count=STEPS) for name in names}
    answers = alternate(jobs, scale.repetitions)
    rows = [
        [
            name,
            spread(runs, name="lower_seconds"),
            spread(runs, name="compile_seconds"),
            spread(runs, name="process_seconds"),
        ]
        for name, runs in answers.items()
    ]
    table(["implementation", "lowering, s", "compiling, s", "whole process, s"], rows)
    print()
    return dict(repetitions=answers)


def devices(scale: Scale, folder: Path) -> dict:
    """Milliseconds a step of one run over 1, 2, 4 and 8 devices, which here are threads of one processor."""
    del folder
    jobs = {str(d): dict(job="spread_steps", n=scale.n, neurons=scale.neurons, devices=d, count=STEPS) for d in (1, 2, 4, 8)}
    answers = alternate(jobs, min(scale.repetitions, 3))
    one = median(answers["1"])
    first = np.array(answers["1"][0]["neuron"])
    rows = [
        [name, spread(runs, 1e-3), f"{median(runs) / one:.2f}", f"{np.linalg.norm(runs[0]['neuron'] - first):.1e}"]
        for name, runs in answers.items()
    ]
    table(["devices", "ms a step", "this / one device", "a neuron, off that of one"], rows)
    print()
    return dict(repetitions=answers)


NETWORKS = ("kernel Stein", "kernel Stein, plain jax", "F1 Stein", "likelihood")
"""The methods of two-layer networks; the second is the step of the first in plain JAX, with whole n x n arrays."""


def networks(scale: Scale, folder: Path) -> dict:
    """Milliseconds and memory of a step of the methods of two-layer networks, on S^14."""
    del folder
    n, neurons = (10_000, 500) if scale.n > 10_000 else (1000, 100)
    jobs = {name: dict(job="network_steps", implementation=name, n=n, neurons=neurons, dimension=15, count=3) for name in NETWORKS}
    answers = alternate(jobs, min(scale.repetitions, 3))
    ours, plain = (np.array(answers[name][0]["answer"]) for name in NETWORKS[:2])
    rows = [
        [name, spread(runs, 1e-3), f"{median(runs) / median(answers[NETWORKS[0]]):.2f}", f"{runs[0]['temporary_bytes'] / 1e6:.0f}",
         f"{median(runs, 'peak_bytes') / 1e6:.0f}"]
        for name, runs in answers.items()
    ]  # fmt: skip
    table(["method", "ms a step", "this / kernel Stein", "temporaries XLA plans, MB", "whole process, MB"], rows)
    apart = np.linalg.norm(ours - plain) / np.linalg.norm(plain)
    print(f"S^14, n = {n}, m = {neurons}; the two kernel Stein steps move the coefficients alike but for {apart:.1e} of it\n")
    return dict(repetitions=answers)


WALKERS = ("Jarzynski", "PCD", "noise", "products")
"""The step with weights and without, and its parts: what no implementation can do without."""


def walkers(scale: Scale, folder: Path) -> dict:
    """Milliseconds of a step on the Gaussian mixture in 50 dimensions, beside those of its noise and its matrix products."""
    del folder
    jobs = {name: dict(job="walker_steps", implementation=name, count=20) for name in WALKERS}
    answers = alternate(jobs, min(scale.repetitions, 3))
    least = median(answers["noise"]) + median(answers["products"])
    rows = [
        [name, spread(runs, 1e-3), f"{median(runs) / least:.2f}", f"{runs[0]['temporary_bytes'] / 1e6:.0f}"]
        for name, runs in answers.items()
    ]
    table(["step", "ms", "this / (noise + products)", "temporaries XLA plans, MB"], rows)
    print("d = 50, n = N = 10,000, two components\n")
    return dict(repetitions=answers)


BENCHMARKS = {
    "step": step,
    "scan": scan,
    "sweep": sweep,
    "time-to-kl": measure_time_to_kl,
    "memory": memory,
    "compile": compile_time,
    "devices": devices,
    "networks": networks,
    "walkers": walkers,
    "first-answer": first.measure,
}


# ---- the suite ---------------------------------------------------------------------------------------------------


def check(settings: Settings) -> None:
    """Raises ValueError naming the argument, its value and what is allowed, before anything runs."""
    for name in settings.only:
        checks.choice("only", name, BENCHMARKS)
    checks.choice("scale", settings.scale, SCALES)
    if settings.repetitions is not None:
        checks.count("repetitions", settings.repetitions)
    for name in ("json", "figure"):
        path = getattr(settings, name)
        if path is not None:
            blocked = path.is_dir() or not path.parent.is_dir()
            if blocked or not os.access(path if path.exists() else path.parent, os.W_OK):
                raise ValueError(f"{name} is {path}; it must be a file that can be written, in a folder that exists")


def main(settings: Settings) -> dict:
    """Runs the suite, prints its tables and writes its numbers; returns them."""
    check(settings)
    scale = SCALES[settings.scale]
    if settings.repetitions is not None:
        scale = dataclasses.replace(scale, repetitions=settings.repetitions)
    figure = settings.figure
    if figure is None and settings.scale == "paper":
        figure = ROOT / "benchmarks/figures/scan.png"
    results = dict(machine=machine(), scale=settings.scale, sizes=dataclasses.asdict(scale))
    print(", ".join(f"{name}: {value}" for name, value in results["machine"].items()))
    print(
        f"scale {settings.scale}: S^14, n = {scale.n}, N = {2 * scale.n}, m = {scale.neurons}; median (least to largest)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name in BENCHMARKS if not settings.only or name in settings.only]:
            print(f"## {name}\n")
            results[name] = BENCHMARKS[name](scale, Path(folder))
            sys.stdout.flush()
            if settings.json is not None:  # after each, so that what is done is kept
                settings.json.write_text(json.dumps(results, indent=1))
            if name == "scan" and figure is not None:
                figure.parent.mkdir(exist_ok=True)
                draw_scan(results[name], figure)
                print(f"figure: {figure}\n")
    return results


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["device"]:
            device.main(tyro.cli(device.Settings, description=device.__doc__, prog="benchmarks device", args=arguments[1:]))
        else:
            main(tyro.cli(Settings, description=__doc__))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
