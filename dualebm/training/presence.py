"""Heartbeats of processes that share the particles of each run: each writes where it is and why it ended."""

import contextlib
import datetime
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from dualebm._internal import files, folders

BEAT = 2.0
"""Seconds between the heartbeats of a process. After five times this without one it counts as not running."""

PROCESS = "process.json"


def shard_of(folder: Path) -> Path:
    """Return the folder of this process in the folder of a sweep.

    Args:
        folder: the folder of the sweep.

    Returns:
        The folder of the process.
    """
    return folder / f"shard-{jax.process_index()}-of-{jax.process_count()}"


@contextlib.contextmanager
def presence(folder: Path) -> Iterator[Callable]:
    """Write into a folder that this process runs, renew it every `BEAT` seconds, and write at the end how it ended.

    Args:
        folder: the folder of this process.

    Yields:
        Function of the name of a group and a step, which writes where the process is.

    >>> import tempfile; sweep = Path(tempfile.mkdtemp())
    >>> (sweep / "shard-0-of-1").mkdir()
    >>> with presence(sweep / "shard-0-of-1") as at:
    ...     at("group-0", 20)
    >>> [(process["state"], process["step"]) for process in processes(sweep)]
    [('done', 20)]
    """
    path, over = folder / PROCESS, threading.Event()
    status = dict(process=jax.process_index(), of=jax.process_count(), state="running", why="", group=None, step=None)

    def announce(**changes):
        status.update(changes)
        files.write_json(path, "process", status)

    def beat():
        while not over.wait(BEAT):
            with contextlib.suppress(OSError), folders.entered(folder) as inside:
                os.utime(PROCESS, dir_fd=inside, follow_symlinks=False)

    announce()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lambda group, step: announce(group=group, step=step)
        announce(state="done")
    except BaseException as error:
        with contextlib.suppress(OSError):
            announce(state="stopped", why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        raise
    finally:
        over.set()
        thread.join()


def processes(folder: files.PathLike) -> list[dict[str, Any]]:
    """Return the last status of each process that shares the particles of a sweep.

    Each status has the keys `process` (its index), `of` (their number), `state`, `why`, `group`, `step` and `seen`
    (seconds since 1970). The states are

    - `running`: The process sends heartbeats.
    - `done`: It came to its end.
    - `stopped`: It was stopped, for the reason `why`.
    - `lost`: The first process to stop sending heartbeats, without a reason.
    - `ended`: It stopped later without a reason, because another was lost.

    A process that dies together with process 0 gives no reason either. Both then count as lost.

    Args:
        folder: the folder of a sweep.

    Returns:
        The statuses, in the order of the processes.

    Raises:
        ValueError: a file is damaged, or of another kind or format version.
    """
    statuses = []
    for path in sorted(Path(folder).glob(f"shard-*/{PROCESS}"), key=lambda path: int(path.parent.name.split("-")[1])):
        stored = files.read_json(path, "process")
        status = {name: stored[name] for name in ("process", "of", "state", "why", "group", "step")}
        statuses.append({**status, "seen": path.stat().st_mtime})
    now = datetime.datetime.now().timestamp()
    silent = [status for status in statuses if status["state"] == "running" and now - status["seen"] > 5 * BEAT]
    first = min((status["seen"] for status in silent), default=0.0)
    for status in silent:
        status["state"] = "lost" if status["seen"] - first < 5 * BEAT else "ended"
    return statuses


def describe_lost(statuses: list[dict[str, Any]]) -> str:
    """Return a text that says which processes of a sweep were lost, and in which segment. It is empty when none was lost.

    Only statuses whose `state` is "lost" count. Of these it reads the keys `process` (its index), `of` (the number of processes),
    `group` (a name, or None before the first segment), `step` (the iterations done before the segment) and `seen` (the time
    of the last heartbeat, in seconds since 1970).

    Args:
        statuses: The statuses that `processes` returns. A state is "running", "done", "stopped", "lost" or "ended".

    Returns:
        The text, one clause for each lost process.

    >>> describe_lost([dict(process=1, of=2, state="lost", why="", group="group-0", step=40, seen=0.0)])
    'process 1 of 2 was lost in the segment after step 40 of group-0 (last seen 1970-01-01 00:00:00 UTC)'
    """
    return "; ".join(
        f"process {status['process']} of {status['of']} was lost "
        + (f"in the segment after step {status['step']} of {status['group']}" if status["group"] else "before its first segment")
        + f" (last seen {datetime.datetime.fromtimestamp(status['seen'], datetime.UTC):%Y-%m-%d %H:%M:%S} UTC)"
        for status in statuses
        if status["state"] == "lost"
    )
