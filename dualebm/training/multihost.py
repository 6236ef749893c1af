"""Several processes that share the particles of each lane: one JAX of them all, and what each tells of itself in the folder of a sweep.

Each process has a folder of its own below that of the sweep, shard-I-of-P/, with `process.json` and its part of the last two
checkpoints. No process goes on without the others: when one dies, JAX's runtime ends the others, and the same command on all of them
continues from the last checkpoint of which all have their part.
"""

import contextlib
import datetime
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dualebm._internal import checks
from dualebm.training import checkpoints

HEARTBEAT, SHUTDOWN = 30, 20
"""Seconds after which a process that is silent counts as dead; and that the others are waited for at the end."""

PATIENCE = 600.0
"""Seconds that a process waits where all have to agree, for one that writes or reads slowly."""

BEAT = 2.0
"""Seconds between the signs of life in a process's folder; after five of them without one it is not running."""

PROCESS = "process.json"


def join(coordinator: str, index: int | None = None, count: int | None = None) -> None:
    """Makes this process one of `count` that are one JAX, in which `jax.devices()` are those of all; before anything is computed.

    Args:
        coordinator: host:port of process 0; "auto" to ask Slurm or Open MPI, whose tasks then have one device each.
        index, count: of this process, and of all.

    Raises ValueError for an address or an index that is not allowed, RuntimeError where the processes do not find each other
    within five minutes. A process that the others have not heard of for 30 s is dead; the runtime then ends them too, non-zero.
    """
    waits: dict[str, Any] = dict(heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN)
    if coordinator == "auto":
        jax.distributed.initialize(**waits)
        return
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"coordinator is {coordinator!r}; it must be host:port of process 0, as 10.0.0.1:1234, or auto")
    checks.count("the count of process", count, 2)
    if index is None or not 0 <= index < (count or 0):
        raise ValueError(f"process is {index}; it must be from 0 to {(count or 0) - 1}")
    # Where JAX knows the launcher it would else leave this process one device.
    jax.distributed.initialize(coordinator, count, index, cluster_detection_method="deactivate", **waits)


@contextlib.contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Ends this process, non-zero, where what it waits for takes longer: nothing else can interrupt a wait inside of JAX.

    >>> with at_most(60, "a barrier"):
    ...     pass
    """

    def leave():
        os.write(2, f"error: {what} took more than {seconds:g} s; another process hangs\n".encode())
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def agree(values, what: str) -> np.ndarray:
    """What each process says, (processes, ...), known to all of them; they wait for each other, at most `PATIENCE` seconds.

    >>> agree([3, 4], "the records").tolist()
    [[3, 4]]
    """
    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    with at_most(PATIENCE, f"agreeing on {what}"):
        return np.asarray(multihost_utils.process_allgather(values)).reshape(jax.process_count(), *values.shape)


# -- What a process tells of itself ------------------------------------------------------------------


def shard_of(folder: Path) -> Path:
    """The folder of this process below that of a sweep."""
    return folder / f"shard-{jax.process_index()}-of-{jax.process_count()}"


@contextlib.contextmanager
def presence(folder: Path) -> Iterator[Callable]:
    """Tells in `folder` that this process runs, with a sign of life every `BEAT` seconds: a function tells where it is, and its end why.

    >>> import tempfile; sweep = Path(tempfile.mkdtemp())
    >>> (sweep / "shard-0-of-1").mkdir()
    >>> with presence(sweep / "shard-0-of-1") as at:
    ...     at("part-0", 20)
    >>> [(told["state"], told["step"]) for told in processes(sweep)]
    [('done', 20)]
    """
    path, over = folder / PROCESS, threading.Event()
    said = dict(process=jax.process_index(), of=jax.process_count(), state="running", why="", part=None, step=None)

    def tell(**changes):
        said.update(changes)
        text = json.dumps({"kind": "process", "format": checkpoints.FORMAT, **said})
        checkpoints.commit(path, lambda temporary: temporary.write_text(text))

    def live():
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    tell()
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield lambda part, step: tell(part=part, step=step)
        tell(state="done")
    except BaseException as error:
        with contextlib.suppress(OSError):
            tell(state="stopped", why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        raise
    finally:
        over.set()
        thread.join()


def processes(folder: checkpoints.PathLike) -> list[dict[str, Any]]:
    """What the processes that shared the particles of a sweep told last: process, of, state, why, part, step, seen (seconds since 1970).

    state: "running"; "done"; "stopped", which it told with its reason; "lost", silent without a word, the first of them to be so; "ended",
    silent too, but only when another was lost. A process that dies with process 0 leaves no word either, and both count as lost.
    """
    told = []
    for path in sorted(Path(folder).glob(f"shard-*/{PROCESS}"), key=lambda path: int(path.parent.name.split("-")[1])):
        said = json.loads(path.read_text())
        checkpoints.check_format(path, said, "process")
        told.append({**{name: said[name] for name in ("process", "of", "state", "why", "part", "step")}, "seen": path.stat().st_mtime})
    now = datetime.datetime.now().timestamp()
    silent = [one for one in told if one["state"] == "running" and now - one["seen"] > 5 * BEAT]
    first = min((one["seen"] for one in silent), default=0.0)
    for one in silent:
        one["state"] = "lost" if one["seen"] - first < 5 * BEAT else "ended"
    return told


def tell_lost(told: list[dict[str, Any]]) -> str:
    """A sentence of which processes were lost, and where; empty where none was.

    >>> tell_lost([dict(process=1, of=2, state="lost", why="", part="part-0", step=40, seen=0.0)])
    'process 1 of 2 was lost in the segment after step 40 of part-0 (last seen 1970-01-01 00:00:00 UTC)'
    """
    return "; ".join(
        f"process {one['process']} of {one['of']} was lost "
        + (f"in the segment after step {one['step']} of {one['part']}" if one["part"] else "before its first segment")
        + f" (last seen {datetime.datetime.fromtimestamp(one['seen'], datetime.UTC):%Y-%m-%d %H:%M:%S} UTC)"
        for one in told
        if one["state"] == "lost"
    )
