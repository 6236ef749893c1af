"""Compiled programs of this process: how much they may hold of what the system gives, and those that run too seldom to compile for long."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dualebm._internal.platforms import kind

MAPS, MOST_MAPS = Path("/proc/self/maps"), 20_000
"""The file that lists this process's memory maps, and how many of them are kept. Linux allows a process 65,530."""


def drop_programs() -> None:
    """Drops all compiled programs where they hold too many memory maps; those that are needed again are compiled again.

    Each compiled program holds memory maps, some 2,000 for each automatic fit. A process that has as many as Linux allows ends inside the
    compiler, without a message. So a run, and each group of a sweep, calls this function before it compiles. A fit consists of runs.
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


BRIEFLY = {"xla_cpu_use_fusion_emitters": False}
"""Options of XLA by which a program for a CPU compiles in about half the time. Its loops are then made by the older emitters of LLVM code.

Large programs that run once gain. Loops of training lose more than they gain: a step of `Dual` takes a fifth longer, and one of a network
three times as long.
"""


def brief(function: Callable, jit: Callable = jax.jit, **settings: Any) -> Callable:
    """Returns a compiled function that runs once or a few times in a process, and so shall compile fast (see `BRIEFLY`).

    Within another compiled function it is a part of that one, which has its own options.

    Args:
        function: the function.
        jit: what compiles it, `jax.jit` or `equinox.filter_jit`.
        settings: further arguments of `jit`.

    >>> int(brief(lambda x: x + 1)(1))
    2
    """
    usual, fast = jit(function, **settings), jit(function, compiler_options=BRIEFLY, **settings)

    @functools.wraps(function)
    def compiled(*arguments, **named):
        if not _known() or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arguments, named))):
            return usual(*arguments, **named)
        try:
            return fast(*arguments, **named)
        except ValueError as error:  # all arguments are constants of a function that is being compiled
            if "compiler_options" not in str(error):
                raise
        return usual(*arguments, **named)

    return compiled


@functools.cache
def _known() -> bool:
    """Tells whether the programs are for a CPU and XLA knows the options, which other versions may not have."""
    if kind() != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=BRIEFLY).lower(jax.ShapeDtypeStruct((), np.float32)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def aside(function: Callable, *arguments: Any) -> Future:
    """Calls a function in a thread, with the precision of JAX of the caller, and returns its `Future`.

    JAX compiles and computes outside of Python's lock, so that a second core does this beside the caller. The thread ends with the call.

    Args:
        function: the function.
        arguments: its arguments.

    >>> aside(pow, 2, 3).result()
    8
    """
    wide = jnp.result_type(float) == jnp.float64

    def call():
        with jax.enable_x64(wide):
            return function(*arguments)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future
