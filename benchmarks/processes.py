"""What the benchmarks share: a process of its own for each measurement, what the machine is, and tables."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from dualebm._internal import cores

ROOT = Path(__file__).parent.parent
BEGIN = time.perf_counter()
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
"""The variables that a measuring process inherits: none that sets threads, flags or caches of a library."""

DEVICE_KEPT = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""The variables that say which device is meant. A process that measures a device inherits them too."""


def environment_of(on_device: bool) -> dict[str, str]:
    """The variables of a measuring process: on the CPU, or on the device that JAX takes by itself, beside which there is the CPU."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    if not on_device:
        return environment | {"JAX_PLATFORMS": "cpu"}
    environment |= {name: os.environ[name] for name in DEVICE_KEPT if name in os.environ}
    if "cpu" not in environment.get("JAX_PLATFORMS", "cpu"):
        environment["JAX_PLATFORMS"] += ",cpu"
    return environment


def isolated(
    job: str, *, module: str = "benchmarks.worker", on_device: bool = False, timeout: float | None = None, cache: str | None = None,
    **arguments,
) -> dict:  # fmt: skip
    """What a module, such as `benchmarks.worker`, answers to a job in a new process, with the process's whole time as `process_seconds`.

    JAX keeps compiled programs in the folder `cache`, if one is given, and takes those that it finds there.

    It runs on the CPU, or `on_device` where JAX runs by itself. Raises RuntimeError with the end of its error output where it fails, and
    TimeoutError where it takes more than `timeout` seconds; the process is then stopped.
    """
    environment = environment_of(on_device)
    if "devices" in arguments:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={arguments['devices']}"
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02"}
    command = [sys.executable, "-m", module, json.dumps({"job": job, **arguments})]
    begin = time.perf_counter()
    try:
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{job} {arguments} took more than {timeout:.0f} s") from None
    if process.returncode:
        raise RuntimeError(f"{job} {arguments} failed:\n{process.stderr[-2000:]}")
    answer = json.loads(process.stdout.splitlines()[-1])
    return {**answer, "process_seconds": time.perf_counter() - begin}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"[{time.perf_counter() - BEGIN:6.0f} s] {text}", file=sys.stderr, flush=True)


def machine() -> dict:
    """The processor, its cores, the load as the suite starts, and the versions of the libraries."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    available = cores.count()
    installed = [name for name in ("jax", "jaxlib", "torch", "numpy") if importlib.util.find_spec(name)]
    return dict(
        processor=model, cores=available, load=os.getloadavg()[0], python=platform.python_version(),
        **{name: importlib.metadata.version(name) for name in installed},
        threads=f"as many as each library takes by itself, of {available} cores",
    )  # fmt: skip


def aligned(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table whose columns are aligned: the first to the left, the others to the right.

    >>> print(aligned(["a", "number"], [["one", "1"]]))
    | a   | number |
    | --- | -----: |
    | one |      1 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (header, rule, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a markdown table."""
    print(aligned(header, rows))
