"""The loop over the segments of a run, or of the runs of a sweep that are computed together, and what it shares with both.

A run is a number of segments, each of the same number of records, which one compiled program computes. After each segment the results are
written, then the checkpoint, then the manifest. So a run that is killed at any moment loses at most one segment.
"""

import contextlib
import math
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
from dualebm.training.fingerprint import provenance

LONGEST = 100
"""The most records of a segment where `segment` is None."""


# -- The plan --------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The settings of a run, or of all runs of a sweep, and the times of their records.

    settings: compared when a run continues. attributes: the settings and where the numbers come from, kept with the results.
    step: iterations done at each record. every: iterations between records. segment: records of a segment.
    """

    settings: dict
    attributes: dict
    step: np.ndarray
    every: int
    segment: int


def segment_of(steps: int, every: int, segment: int | None, segments: int) -> int:
    """Checks the counts of a run and returns the number of records of a segment.

    Args:
        steps: iterations.
        every: iterations between records.
        segment: records of a segment; None for as many as make about `segments` segments, at least 2 and at most `LONGEST`.
        segments: the number of segments where `segment` is None.

    Raises:
        ValueError: where a count is too small, or where `steps` is no multiple of `every`.

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
    """The plan of a run with these settings, to which it adds the counts and the backend; `first` is the step at which the run starts.

    >>> plan_of({}, 20, 10, 2).step.tolist()
    [0, 10, 20]
    """
    source = provenance()
    settings = {**settings, "steps": int(steps), "every": int(every), "segment": int(segment), "backend": source["backend"]}
    step = first + np.arange(steps // every + 1) * int(every)
    return Plan(settings, {**settings, **source}, step, int(every), int(segment))


# -- Files -----------------------------------------------------------------------------------------


def write_manifest(folder: Path, plan: Plan, status: str, records: int, checkpoint: str | None, **more) -> None:
    """Replaces the manifest of a folder: `records` are done, and `checkpoint` is the name of the file that continues from them."""
    versions = {name: plan.attributes[name] for name in ("versions", "git_revision")}
    said = {"status": status, "records": records, "of": len(plan.step), "checkpoint": checkpoint, **more, **versions}
    run_folder.write_manifest(folder, said)


# -- The loop --------------------------------------------------------------------------------------


@runtime_checkable
class Job(Protocol):
    """A run, or the runs of a sweep that are computed together, as `drive` sees them."""

    def start(self) -> Any:
        """The states before the first step."""
        ...

    def load(self, done: int) -> Any:
        """The states after `done` records, which `save` saved."""
        ...

    def advance(self, states: Any, active: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """The states a segment later, and its records; intervals that are not `active` do nothing."""
        ...

    def write(self, first: int, done: int, records: dict[str, jax.Array]) -> None:
        """Writes the results from record `first` to record `done`."""
        ...

    def save(self, first: int, done: int, states: Any) -> None:
        """Writes the checkpoint after `done` records, `first` of which the last one had."""
        ...

    def mark(self, done: int) -> None:
        """Writes the manifest, which counts `done` records."""
        ...

    def report(self, first: int, done: int, states: Any, seconds: float) -> None:
        """Shows the segment, and warns or raises where the states ask for it."""
        ...


def drive(plan: Plan, job: Job, done: int, ended: Callable[[int], bool]) -> tuple[Any, int]:
    """Takes a job from `done` records to its end, segment by segment.

    Args:
        plan: of the job.
        job: what is computed, and where it is kept.
        done: records that are there already, after which the job is loaded; 0 to start it.
        ended: asked before each segment with the number of records done; True ends the loop.

    Returns:
        The states, and the number of records done.
    """
    total = len(plan.step)
    states = job.load(done) if done else job.start()
    while done < total and not ended(done):
        begun = time.perf_counter()
        index = done + np.arange(plan.segment)
        # The record of the initial state has no steps before it, and the last segment may have more intervals than are left.
        states, records = job.advance(states, jnp.asarray((index > 0) & (index < total)))
        wait(records)
        first, done = done, min(done + plan.segment, total)
        job.write(first, done, records)
        job.save(first, done, states)
        job.mark(done)
        job.report(first, done, states, time.perf_counter() - begun)
    return states, done


def strongly_typed(states: Any) -> Any:
    """The same states with no weakly typed leaf, which would compile the first segment apart from the others."""
    return jax.tree.map(lambda x: x if files.is_key(x) else jnp.asarray(x, x.dtype), states)


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[signal.Signals]]:
    """The list of signals received, for the loop to look at between segments; a second one interrupts at once."""
    received = []

    def receive(number, frame):
        del frame
        received.append(signal.Signals(number))
        if len(received) > 1:
            raise KeyboardInterrupt(f"{received[-1].name}, the second signal; what the last segment saved stands")

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {n: signal.signal(n, receive) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(arrays: Any) -> None:
    """Waits where Python can still receive signals, which it cannot inside JAX."""
    pause = 1e-4
    while not all(array.is_ready() for array in jax.tree.leaves(arrays)):
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def bar(total: int, done: int, unit: str, shown: bool) -> tqdm.tqdm:
    """A progress bar on standard error."""
    return tqdm.tqdm(total=total, initial=done, unit=unit, file=sys.stderr, disable=not shown)
