"""How long a user waits for the first answer of a new process, in parts: importing, tracing, compiling, and all the rest.

`python -m benchmarks.first '{"job": "fit", ...}'` runs one job in this process and prints one JSON line. It imports what a user imports.
A job is timed from the first line of this file on, and imports NumPy and JAX itself. `measure` runs the jobs in processes of their own,
with compiled programs of an earlier process and without.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BEGIN = time.perf_counter()

PARTS = {
    "tracing": ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"),
    "compiling": ("/jax/core/compile/backend_compile_duration",),
}
"""The events of JAX whose durations are parts. Compiling includes the reading of a program that an earlier process has compiled."""

WHERE = {"without programs": True, "with programs": False}
"""Whether a process has a new folder for compiled programs, or that of the process before it."""


# ---- in the measured process -------------------------------------------------------------------------------------


def rows(file, count):
    """Writes two half circles with noise, a table of `count` rows."""
    import numpy as np

    generator = np.random.default_rng(0)
    angle, upper = np.pi * generator.random(count), generator.random(count) < 0.5
    moons = np.stack([np.where(upper, np.cos(angle), 1 - np.cos(angle)), np.where(upper, np.sin(angle), 0.5 - np.sin(angle))], axis=1)
    np.savetxt(file, moons + 0.1 * generator.standard_normal((count, 2)), delimiter=",", header="a,b", comments="")
    return {}


def fit(file, out, flags):
    """`dualebm fit` on the rows of a file, and the mean log density of the rows that it held out."""
    from dualebm.cli import fit as command  # what the command imports before it does anything
    from dualebm.cli.main import main

    del command
    imported = time.perf_counter() - BEGIN
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["fit", file, "--space", "euclidean", "--out", out, *flags])
    if code:
        raise RuntimeError(f"dualebm fit ended with the code {code}")
    held = json.loads((Path(out) / "model.json").read_text())["held_out"]["log_density_lebesgue"]["mean"]
    return dict(importing=imported, answer=held)


def to_kl(file, goal, longest):
    """The default method with all signs -1, from data in a file to KL <= goal, which is looked at after each ten iterations."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dualebm import Dual, annealing, metrics
    from dualebm.data import targets
    from dualebm.measures import Samples
    from dualebm.training.run import run

    imported = time.perf_counter() - BEGIN
    start, target = np.load(file), targets.teacher("s14_monomodal")
    data, test = (Samples(jnp.asarray(start[name])) for name in ("data", "test"))
    method, seen = Dual(target.space, neurons=len(start["positions"]), signs="all_negative"), []

    def reached(results):
        seen.append((int(results.step[-1]), time.perf_counter()))
        return bool(results.kl[-1] <= goal)

    _, results = run(
        jax.random.key(0), method, method.rates, data, steps=longest, every=10, metrics={"kl": metrics.KLDivergence(target.energy, test)},
        schedule=annealing(), segment=2, progress=False, callback=reached,
    )  # fmt: skip
    (first, begun), (last, ended) = seen[0], seen[-1]
    paces = dict(seconds_a_step=(ended - begun) / (last - first)) if last > first else {}
    return dict(importing=imported, answer=float(results.kl[-1]), iterations=last, **paces)


def timed(job, **arguments):
    """What a job answers, with the seconds of its parts, of its processor and of it all."""
    import jax.monitoring

    parts = dict.fromkeys(PARTS, 0.0)
    programs = 0

    def add(event: str, duration_secs: float, **kwargs: str | int) -> None:
        nonlocal programs
        del kwargs
        programs += event in PARTS["compiling"]
        for part, events in PARTS.items():
            parts[part] += duration_secs * (event in events)

    jax.monitoring.register_event_duration_secs_listener(add)
    answer = job(**arguments)
    seconds = time.perf_counter() - BEGIN
    rest = seconds - sum(parts.values()) - answer.get("importing", 0.0)
    return dict(**answer, **parts, rest=rest, programs=programs, seconds=seconds, processor=time.process_time())


# ---- in the suite ------------------------------------------------------------------------------------------------


def measure(scale, folder: Path) -> dict:
    """Seconds until the first answer of a new process: `dualebm fit` on 1000 rows by its defaults, and the default method to a KL."""
    from benchmarks.__main__ import GOAL, median, prepare, spread  # which imports this file
    from benchmarks.processes import isolated, say, table

    small = scale.n < 10_000
    table_file, start = str(folder / "rows.csv"), prepare(folder, scale.n, scale.neurons, scale.tests)
    isolated("rows", module="benchmarks.first", file=table_file, count=100 if small else 1000)
    few = dict(base="normal", feature="scaled_bump", stages=1, iterations=2, neurons=8, draws=1024, paths=1, replicates=0)
    quickly = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    jobs: dict[str, dict[str, Any]] = {
        f"KL <= {GOAL}": dict(job="to_kl", file=start, goal=GOAL, longest=20 if small else 1000),
        "fit": dict(job="fit", file=table_file, flags=quickly if small else []),
    }
    answers, cache = {f"{name}, {where}": [] for name in jobs for where in WHERE}, ""
    for repetition in range(min(scale.repetitions, 3)):
        for name, job in jobs.items():
            for where, new in WHERE.items():
                say(f"{repetition + 1} {name}, {where}")
                cache = tempfile.mkdtemp(dir=folder) if new else cache
                out: dict[str, Any] = dict(out=tempfile.mkdtemp(dir=folder)) if job["job"] == "fit" else {}
                answers[f"{name}, {where}"].append(isolated(**job, **out, module="benchmarks.first", cache=cache))
    columns = ("importing", "tracing", "compiling", "rest", "seconds", "processor")
    lines = []
    for name, runs in answers.items():
        cold = median(answers[f"{name.split(',')[0]}, without programs"])
        parts = (spread(runs, digits=1, name=column) for column in columns)
        lines.append([name, *parts, f"{median(runs) / cold:.2f}", f"{runs[0]['programs']}", f"{runs[-1]['answer']:.4f}"])
    table(["first answer", *(f"{column}, s" for column in columns), "this / without", "programs", "answer"], lines)
    print("Seconds of the whole process from its first line on. Parts of threads that run at once add up to more than the whole.\n")
    return dict(repetitions=answers)


JOBS = {job.__name__: job for job in (rows, fit, to_kl)}
"""The jobs of a process, by name."""


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(timed(JOBS[task.pop("job")], **task)))
