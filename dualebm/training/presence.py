"""The signs of life of processes that share the particles of each run: each says in the folder of a sweep where it is, and why it ended."""

import contextlib
import datetime
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from dualebm._internal import files

BEAT = 2.0
"""Seconds between the signs of life in a process's folder; after five of them without one it is not running."""

PROCESS = "process.json"


def shard_of(folder: Path) -> Path:
    """The folder of this process below that of a sweep."""
    return folder / f"shard-{jax.process_index()}-of-{jax.process_count()}"


@contextlib.contextmanager
def presence(folder: Path) -> Iterator[Callable]:
    """Says in `folder` that this process runs, with a sign of life every `BEAT` seconds, and at its end how it ended.

    Yields a function of a group and a step, which says where the process is.

    >>> import tempfile; sweep = Path(tempfile.mkdtemp())
    >>> (sweep / "shard-0-of-1").mkdir()
    >>> with presence(sweep / "shard-0-of-1") as at:
    ...     at("group-0", 20)
    >>> [(process["state"], process["step"]) for process in processes(sweep)]
    [('done', 20)]
    """
    path, over = folder / PROCESS, threading.Event()
    said = dict(process=jax.process_index(), of=jax.process_count(), state="running", why="", group=None, step=None)

    def announce(**changes):
        said.update(changes)
        text = json.dumps({"kind": "process", "format": files.FORMAT, **said})
        files.commit(path, lambda temporary: temporary.write_text(text))

    def live():
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    announce()
    thread = threading.Thread(target=live, daemon=True)
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
    """What the processes that share the particles of a sweep said last: process, of, state, why, group, step, seen (seconds since 1970).

    state: "running"; "done"; "stopped", with the reason in `why`; "lost", silent without a reason, before all others; "ended", silent too,
    but only after another was lost. A process that dies with process 0 gives no reason either, and both count as lost.
    """
    said = []
    for path in sorted(Path(folder).glob(f"shard-*/{PROCESS}"), key=lambda path: int(path.parent.name.split("-")[1])):
        last = json.loads(path.read_text())
        files.check_format(path, last, "process")
        said.append({**{name: last[name] for name in ("process", "of", "state", "why", "group", "step")}, "seen": path.stat().st_mtime})
    now = datetime.datetime.now().timestamp()
    silent = [one for one in said if one["state"] == "running" and now - one["seen"] > 5 * BEAT]
    first = min((one["seen"] for one in silent), default=0.0)
    for one in silent:
        one["state"] = "lost" if one["seen"] - first < 5 * BEAT else "ended"
    return said


def describe_lost(said: list[dict[str, Any]]) -> str:
    """A sentence that says which processes were lost, and where; empty where none was.

    >>> describe_lost([dict(process=1, of=2, state="lost", why="", group="group-0", step=40, seen=0.0)])
    'process 1 of 2 was lost in the segment after step 40 of group-0 (last seen 1970-01-01 00:00:00 UTC)'
    """
    return "; ".join(
        f"process {one['process']} of {one['of']} was lost "
        + (f"in the segment after step {one['step']} of {one['group']}" if one["group"] else "before its first segment")
        + f" (last seen {datetime.datetime.fromtimestamp(one['seen'], datetime.UTC):%Y-%m-%d %H:%M:%S} UTC)"
        for one in said
        if one["state"] == "lost"
    )
