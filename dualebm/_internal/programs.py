"""Compiled programs of this process, which may hold only so much of what the system gives."""

from pathlib import Path

import jax

MAPS, MOST_MAPS = Path("/proc/self/maps"), 20_000
"""The file that lists this process's memory maps, and how many of them are kept. Linux allows a process 65,530."""


def drop_programs() -> None:
    """Drops all compiled programs where they hold too many memory maps; those that are needed again are compiled again.

    Each compiled program holds memory maps, some 2,000 for each automatic fit. A process that has as many as Linux allows ends inside the
    compiler, without a message. So a run, and each group of a sweep, calls this function before it compiles. A fit consists of runs.
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
