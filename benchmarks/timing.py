"""How a program is compiled, warmed and timed, and what memory it takes."""

import functools
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp


def memory_bytes():
    """The largest resident memory of this process so far, and the present one (that alone where the system tells)."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would also hold the parent's peak: Linux carries it over the exec that starts a process.
        lines = dict(line.split(":") for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return tuple(1024 * int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (largest if sys.platform == "darwin" else 1024 * largest), None


def device_peak(torch=False):
    """The most memory that this process has taken on an accelerator so far, in bytes; None on a CPU."""
    if torch:
        import torch  # an optional peer

        return torch.cuda.max_memory_allocated() if torch_device() == "cuda" else None
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def torch_device():
    """Where PyTorch computes: on the GPU where JAX does so too, else on the CPU."""
    import torch  # an optional peer

    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def seconds_of(function):
    """The seconds a call takes until its arrays are there, and what it returns."""
    begin = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - begin, result


def float_rates(rates):
    """Rates as float32 arrays, arguments of the compiled program as they are in a run."""
    return jax.tree.map(jnp.float32, rates)


def compiled(function, *arguments):
    """A function compiled for its arguments; the seconds to lower and to compile it, and the temporaries XLA plans."""
    lowering, lowered = seconds_of(lambda: jax.jit(function).lower(*arguments))
    compiling, program = seconds_of(lowered.compile)
    temporary = program.memory_analysis().temp_size_in_bytes
    return program, dict(lower_seconds=lowering, compile_seconds=compiling, temporary_bytes=temporary)


def compile_and_warm(function, *arguments):
    """`compiled`, run once and bound to its arguments; and what it cost to make it."""
    program, cost = compiled(function, *arguments)
    _, resident = memory_bytes()
    jax.block_until_ready(program(*arguments))
    return functools.partial(program, *arguments), dict(resident_before_run_bytes=resident, **cost)


def scan_of_steps(method, count):
    """`count` steps of a method, those of a run: the key of step i is fold_in(key, i)."""

    def run(key, state, rates, data):
        def step(state, i):
            return method.step(jax.random.fold_in(key, i), state, rates, data)[0], None

        return jax.lax.scan(step, state, jnp.arange(count))[0]

    return run
