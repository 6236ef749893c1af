"""Commands that are killed again and again, each time at another moment, and started anew until they end.

    python -m tests.heavy.kills --kills 100

A command ends with the numbers of one that was never killed, bit for bit. The script kills the commands in turn, begins a command anew in
a new folder when it has ended, and prints the number of kills.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualebm import model_files
from dualebm._internal import files
from dualebm.cli import main
from dualebm.log_z import estimate
from dualebm.sweeps import selection
from dualebm.sweeps.folder import open_sweep
from tests.children import Child

STUDY = "--space euclidean --standardise --neurons 4 --particles 32 --steps 20 --every 2 --radius 1,5 --batch-size 1"
COMMANDS = {
    "fit": "--space euclidean --base normal --feature relu --neurons 4 --stages 3 --iterations 4 --draws 64 --paths 2",
    "sweep": f"{STUDY} --seed 0:2",
    "select": f"{STUDY} --seed 0,1 --repeats 7,8",
}
"""The flags of each command besides its file and its folder."""

DELAYS = (0.0, 0.06, 0.012, 0.15, 0.03, 0.001, 0.1, 0.02, 0.4, 0.005, 0.08)
"""The times in seconds from the first file that a command changes to its kill, in turn. The whole of a fit takes some seconds."""

EARLY = (0.3, 1.0, 2.0)
"""The times in seconds from the start of a command to its kill, for each fourth kill. Most of them come before a file is changed."""

PAUSE = 0.01
"""The time in seconds for which files wait before they are written, so that a command does not end before it is killed."""


CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""The environment of the script besides a compilation cache, from which all starts of the commands load their programs."""


class Killed(NamedTuple):
    """What became of a command.

    Attributes:
        kills: the number of kills.
        ended: the number of times that the command ended.
    """

    kills: int
    ended: int


def run(words: list[str]) -> int:
    """Return the exit code of a command. This is for a process of its own. The command writes slowly, draws little and prints nothing."""
    write = files.commit_all
    estimate.BLOCK, estimate.LARGEST_DRAWS, estimate.CHAINS = 2**15, 2**15, 2**10
    files.commit_all = lambda folder, writes: (time.sleep(PAUSE), write(folder, writes))[1]
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        return main.main(words)


def words_of(name: str, data: Path, out: Path) -> list[str]:
    """Return the words of a command of `COMMANDS`."""
    return [name, str(data), *COMMANDS[name].split(), "--out", str(out)]


def numbers(out: Path) -> dict[str, np.ndarray | str]:
    """Return everything that a command has computed, by name: the records of sweeps, or the model with its header."""
    if (out / model_files.MODEL).exists():
        header = json.loads((out / model_files.MODEL).read_text())
        del header["settings"]["out"], header["seconds"]
        with np.load(out / model_files.ENERGY) as arrays:
            return {"header": json.dumps(header, sort_keys=True)} | {name: arrays[name] for name in arrays.files}
    sweeps = {path.name if path != out else "": open_sweep(path).load() for path in selection.sweeps_of(out)}
    return {f"{folder}/{name}": records[name].values for folder, records in sweeps.items() for name in records.variables}


def differences(first: dict[str, np.ndarray | str], second: dict[str, np.ndarray | str]) -> list[str]:
    """Return the names of the values that differ in a bit. NaN equals NaN."""
    same = lambda a, b: a == b if isinstance(a, str) else a.dtype == b.dtype and a.tobytes() == b.tobytes()  # noqa: E731
    return [name for name in {**first, **second} if name not in first or name not in second or not same(first[name], second[name])]


def stamps(out: Path) -> set[tuple[str, int]]:
    """Return the files of a folder with the times of their last change."""
    found = set()
    for folder, _, names in os.walk(out):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):  # a temporary file may be gone
                found.add((str(path), path.stat().st_mtime_ns))
    return found


def kill(words: list[str], out: Path, early: float | None, delay: float) -> int:
    """Start a command, kill it, and return the exit code: that of SIGKILL, or 0 where it ended first.

    Args:
        words: the words of the command.
        out: its folder.
        early: the time in seconds from the start to the kill. None to kill after a file has changed.
        delay: the time in seconds from the change of a file to the kill.
    """
    before, child = stamps(out), Child(run, words)
    deadline = time.monotonic() + (300 if early is None else early)
    while time.monotonic() < deadline and child.process.is_alive() and (early is not None or stamps(out) == before):
        time.sleep(0.002)
    child.process.join(delay if early is None else 0)
    return child.kill()


def killed(name: str, folder: Path, kills: int, moments: Iterator[tuple[float | None, float]]) -> Killed:
    """Kill a command so many times, and let it end after the last kill.

    Args:
        name: the name of the command.
        folder: an empty folder.
        kills: the number of kills.
        moments: for each kill the arguments `early` and `delay` of `kill`.

    Returns:
        The number of kills, and how often the command ended. It begins anew in a new folder when it has ended.

    Raises:
        AssertionError: the numbers differ from those of a command that was not killed, or a start of the command failed.
    """
    data = folder / "data.csv"
    np.savetxt(data, np.random.default_rng(0).normal([3.0, -20.0], [0.5, 4.0], (60, 2)), "%.9g", ",")
    assert Child(run, words_of(name, data, folder / "whole")).answer() == 0
    whole, done, ended = numbers(folder / "whole"), 0, 0
    while True:
        out = folder / f"killed-{ended}"
        words = words_of(name, data, out)
        while done < kills:
            code = kill(words, out, *next(moments))
            assert code in (0, -signal.SIGKILL), f"{name} ended with {code}"
            if code == 0:
                break
            done += 1
        assert Child(run, words).answer() == 0
        assert not (wrong := differences(numbers(out), whole)), f"{name} after a kill has other numbers: {wrong}"
        ended += 1
        if done == kills:
            return Killed(done, ended)


def moments(first: int = 0) -> Iterator[tuple[float | None, float]]:
    """Yield the moments of kills, from the kill `first` on: the arguments `early` and `delay` of `kill`."""
    for number in itertools.count(first):
        yield EARLY[number // 4 % len(EARLY)] if number % 4 == 3 else None, DELAYS[number % len(DELAYS)]


def script() -> None:
    """Kill each command in turn and print the number of kills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="the number of kills of all commands together")
    count = parser.parse_args().kills
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(), **CACHE}
    total, begun = 0, time.monotonic()
    for number, name in enumerate(COMMANDS):
        share = count // len(COMMANDS) + (number < count % len(COMMANDS))
        result = killed(name, Path(tempfile.mkdtemp()), share, moments(7 * number))
        total += result.kills
        print(f"{name}: {result.kills} kills; it ended {result.ended} times, each time with the numbers of a command that was not killed")
    print(f"{total} kills in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    script()
