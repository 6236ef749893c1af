"""The loop over segments by which a run and a batch of a sweep advance, its plan, its signals and its bar.

Each segment has the same number of records, and one compiled program computes it. After a segment the results are
written, then the checkpoint, then the manifest. So a run that is killed at any moment loses at most one segment.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from dualebm._internal import checks, files
from dualebm.training import run_folder
from dualebm.training.descriptions import packages
from dualebm.training.fingerprint import configuration, provenance

LONGEST = 100
"""The largest number of records of a segment where `segment` is None."""

STOPPING = "stopping after this segment; again to stop now\n"
"""The answer to the first signal, on standard error."""


# -- The plan --------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The settings of a run, or of all runs of a sweep, and the times of their records.

    Args:
        settings: The settings as JSON, compared when a run continues.
        attributes: The settings together with the versions and devices, stored with the results.
        step: The number of iterations done at each record, (records,).
        every: The number of iterations between records.
        segment: The number of records of a segment.
    """

    settings: dict
    attributes: dict
    step: np.ndarray
    every: int
    segment: int


def segment_of(steps: int, every: int, segment: int | None, segments: int) -> int:
    """Check the counts of a run and return the number of records of a segment.

    Args:
        steps: The number of iterations.
        every: The number of iterations between records.
        segment: The number of records of a segment. None for a number that makes about `segments` segments, at least 2
            and at most `LONGEST`.
        segments: The number of segments where `segment` is None.

    Returns:
        The number of records of a segment.

    Raises:
        ValueError: When a count is too small, or `steps` is not a multiple of `every`.

    >>> segment_of(1000, 10, None, 20)
    6
    """
    checks.count("every", every, 2)
    checks.count("steps", steps)
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {every}")
    if segment is None:
        segment = min(max(2, math.ceil((steps // every + 1) / segments)), LONGEST)
    checks.count("segment", segment, 2)
    return int(segment)


def plan_of(settings: dict, steps: int, every: int, segment: int, first: int = 0) -> Plan:
    """Return the plan of a run. The counts, the backend and the settings of JAX that change numbers are added to its settings.

    Args:
        settings: The settings as JSON.
        steps: The number of iterations, a multiple of `every`.
        every: The number of iterations between records.
        segment: The number of records of a segment.
        first: The number of iterations done at the start.

    Returns:
        The plan.

    >>> plan_of({}, 20, 10, 2).step.tolist()
    [0, 10, 20]
    """
    source = provenance(packages(settings))
    counts = {"steps": int(steps), "every": int(every), "segment": int(segment)}
    settings = {"jax_config": configuration(), **settings, **counts, "backend": source["backend"]}
    step = first + np.arange(steps // every + 1) * int(every)
    return Plan(settings, {**settings, **source}, step, int(every), int(segment))


# -- Files -----------------------------------------------------------------------------------------


def write_manifest(folder: Path, kind: str, plan: Plan, status: str, records: int, checkpoint: str | None, **more) -> None:
    """Replace the manifest of a folder.

    Args:
        folder: The folder of the run.
        kind: "run", or "group" for runs of a sweep.
        plan: The plan of the run.
        status: "running", "done", "stopped" or "diverged".
        records: The number of records done.
        checkpoint: The name of the file from which the run continues, or None.
        more: Other entries, as JSON.

    Raises:
        OSError: When the manifest cannot be written.
    """
    versions = {name: plan.attributes[name] for name in ("versions", "git_revision")}
    entries = {"status": status, "records": records, "of": len(plan.step), "checkpoint": checkpoint, **more, **versions}
    run_folder.write_manifest(folder, entries, kind)


# -- The loop --------------------------------------------------------------------------------------


@runtime_checkable
class Job(Protocol):
    """A run, or a batch of runs of a sweep, as `drive` sees it."""

    def start(self) -> Any:
        """Return the states before the first step."""
        ...

    def load(self, done: int) -> Any:
        """Return the states that `save` saved.

        Args:
            done: the number of records that were done.

        Returns:
            The states.
        """
        ...

    def advance(self, states: Any, active: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """Return the states a segment later, and its records.

        Args:
            states: the states at the start of the segment.
            active: which intervals of the segment to do, booleans. The others are skipped.

        Returns:
            The states at its end, and the records by name.
        """
        ...

    def write(self, first: int, done: int, records: dict[str, jax.Array]) -> None:
        """Write the results of a segment.

        Args:
            first: The number of records done before the segment.
            done: The number of records done after it.
            records: For each name the records of the segment.
        """
        ...

    def save(self, first: int, done: int, states: Any) -> None:
        """Write the checkpoint after a segment.

        Args:
            first: The number of records done before the segment, at the previous checkpoint.
            done: The number of records done after it.
            states: The states to save.
        """
        ...

    def mark(self, done: int) -> None:
        """Write the manifest, which counts the records.

        Args:
            done: the number of records that are done.
        """
        ...

    def report(self, first: int, done: int, states: Any, seconds: float) -> None:
        """Show the progress of a segment, and warn or raise where the states ask for it.

        Args:
            first: The number of records done before the segment.
            done: The number of records done after it.
            states: The states after it.
            seconds: The time that it took to compute and to write.
        """
        ...


def drive(plan: Plan, job: Job, done: int, ended: Callable[[int], bool]) -> tuple[Any, int]:
    """Take a job from `done` records to its end, segment by segment.

    Args:
        plan: The plan of the job.
        job: What is computed and where it is kept.
        done: The number of records done, after which the job is loaded; 0 to start it.
        ended: Function of the number of records done, called before each segment. The loop ends when it returns True.

    Returns:
        The states, and the number of records done.
    """
    total = len(plan.step)
    states = job.load(done) if done else job.start()
    while done < total and not ended(done):
        begun = time.perf_counter()
        index = done + np.arange(plan.segment)
        # Record 0 is the initial state, before any step. The last segment may have more intervals than records are left.
        states, records = job.advance(states, jnp.asarray((index > 0) & (index < total)))
        wait(records)
        first, done = done, min(done + plan.segment, total)
        job.write(first, done, records)
        job.save(first, done, states)
        job.mark(done)
        job.report(first, done, states, time.perf_counter() - begun)
    return states, done


def strongly_typed(states: Any) -> Any:
    """Return the states without weak types. A weakly typed leaf would compile the first segment a second time.

    Args:
        states: the states, a pytree.

    Returns:
        The same values.
    """
    return jax.tree.map(lambda x: x if files.is_key(x) else jnp.asarray(x, x.dtype), states)


@contextlib.contextmanager
def deferred_signals(answers: bool, progress: bool) -> Iterator[list[signal.Signals]]:
    """Give the list of SIGINT and SIGTERM signals received, at which the loop looks between segments.

    The first signal is answered at once by the line `STOPPING`. A second signal raises KeyboardInterrupt at once.
    Outside the main thread no signal is caught, and the list stays empty.

    Args:
        answers: Whether this process answers. It is one of the processes that run together.
        progress: Whether a bar is shown. The answer then begins on a new line, below the bar.

    Returns:
        A context manager. It gives the list.
    """
    received = []
    answer = ("\n" * progress + STOPPING).encode() if answers else b""

    def receive(number, frame):
        del frame
        received.append(signal.Signals(number))
        if len(received) == 1:
            with contextlib.suppress(OSError):
                os.write(2, answer)  # not `print`: the signal may have come within a write to the same buffer
        else:
            raise KeyboardInterrupt(f"{received[-1].name}, the second signal; the run is saved up to the last segment")

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {n: signal.signal(n, receive) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(arrays: Any) -> None:
    """Wait until arrays are computed, in Python, which receives signals as JAX does not.

    Args:
        arrays: a pytree of arrays.
    """
    pause = 1e-4
    while not all(array.is_ready() for array in jax.tree.leaves(arrays)):
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def bar(total: int, done: int, unit: str, shown: bool) -> tqdm.tqdm:
    """Return a progress bar on standard error.

    Args:
        total: The number of units in all.
        done: The number of units done at the start.
        unit: The name of a unit.
        shown: Whether to show the bar.

    Returns:
        The bar.
    """
    return tqdm.tqdm(total=total, initial=done, unit=unit, file=sys.stderr, disable=not shown)
