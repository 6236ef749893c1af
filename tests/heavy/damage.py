"""What the same call does in folders that are damaged, cut off at any file operation, left by a power cut, or on a full disk.

    python -m tests.heavy.damage --flips 200 --states 200 --cuts 30 --full 6

The same call ends with the numbers of a run that nothing happened to, or with an error of one line. The script prints how often each
came about. Everything else, such as other numbers or an error that is no `ValueError` or `OSError`, is a fault that it lists.
"""

import argparse
import collections
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm._internal import files
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.folder import SWEEP, manifest, open_sweep
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from dualebm.training import run_folder, simulate
from dualebm.training.run import run

METHOD = Dual(Sphere(3), neurons=8)
COUNTS = dict(steps=14, every=2, segment=2, progress=False)  # 8 records in 4 segments


def points(key, n=30):
    return Samples(Sphere(3).sample_base(key, n, jnp.float32))


def acceptance(key, iterate):
    return iterate.info.acceptance


def weights(key, iterate):
    return iterate.state.atoms.log_weights + jax.random.normal(key, iterate.state.atoms.signs.shape, jnp.float32)


METRICS = {"acceptance": acceptance, "weights": weights}


def one_run(folder: Path) -> xarray.Dataset:
    """Return the results of a run in a folder."""
    return run(jax.random.key(1), METHOD, METHOD.rates, points(jax.random.key(0)), metrics=METRICS, folder=folder, **COUNTS)[1]


def one_sweep(folder: Path) -> xarray.Dataset:
    """Return the results of a sweep of two groups, each in two batches, in a folder."""
    grid = product(n=[30, 40], restart_probability=[0.0, 0.5], seed=[0, 1])
    placement = Placement(batch_size=3)
    return sweep(grid, METHOD, None, points, metrics=METRICS, folder=folder, placement=placement, **COUNTS).load()


CALLS: dict[str, Callable[[Path], xarray.Dataset]] = {"run": one_run, "sweep": one_sweep}
PROGRAMS = {"run": "run_intervals", "sweep": "run_replicas"}
"""The function of `simulate` that computes a segment of each call."""


def unflushed():
    """Return a context in which nothing is flushed to the disk, which takes most of the time. That it would be is seen all the same."""
    return unittest.mock.patch.object(os, "fsync", lambda descriptor: None)


class Stopped(BaseException):
    """Stands for the end of a process."""


def begun(name: str, folder: Path, segments: int) -> None:
    """Let a call do so many segments in a folder, and end as a killed process does."""
    inner, calls = getattr(simulate, PROGRAMS[name]), []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > segments:
            raise Stopped
        return inner(*arguments)

    with unittest.mock.patch.object(simulate, PROGRAMS[name], stopping), contextlib.suppress(Stopped):
        CALLS[name](folder)


def stored(folder: Path) -> xarray.Dataset:
    """Return everything that can be read in a folder, and look at the states of the runs of a sweep."""
    if not (folder / SWEEP).exists():
        return run_folder.open_results(folder).load()
    manifest(folder)
    return open_sweep(folder).load()


def outcome(call: Callable[[], xarray.Dataset], expected: xarray.Dataset) -> str:
    """Return what came of a call: "same", "one line", or in words what is wrong."""
    try:
        found = call()
    except (ValueError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror and error.filename is None else str(error)
        return "one line" if text and "\n" not in text and "/" in text else f"a puzzling error: {error!r}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {error}"
    for name in {*expected.variables, *found.variables}:
        if name not in found.variables or name not in expected.variables:
            return f"{name} is missing or new"
        a, b = found[name].values, expected[name].values
        if a.dtype != b.dtype or a.shape != b.shape or (a.tobytes() != b.tobytes() and not (a.dtype.kind in "UT" and (a == b).all())):
            return f"other numbers in {name}"
    return "same"


class Counts(NamedTuple):
    """How often each outcome came about, and the cases that are wrong."""

    outcomes: collections.Counter
    wrong: list[str]

    def add(self, case: str, found: str) -> None:
        """Count an outcome of a case."""
        self.outcomes[found if found in ("same", "one line") else "wrong"] += 1
        if found not in ("same", "one line"):
            self.wrong.append(f"{case}: {found}")


def counts() -> Counts:
    """Return counts of nothing."""
    return Counts(collections.Counter(), [])


# -- Bits that are flipped -------------------------------------------------------------------------


def flips(folder: Path, count: int, seed: int = 0) -> Counts:
    """Flip a bit of a file of a finished or half-done run or sweep, read the folder, and call again; so many times.

    The file is drawn first, and then the bit of it.
    """
    generator, found, kinds = np.random.default_rng(seed), counts(), []
    for name, call in CALLS.items():
        for segments in (1, 5, 99) if name == "sweep" else (2, 99):
            place = folder / f"{name}-{segments}"
            begun(name, place, segments)
            kinds.append((place, call, stored(place), call(folder / f"whole-{name}")))
    for number in range(count):
        place, call, there, whole = kinds[generator.integers(len(kinds))]
        copy = folder / f"flipped-{number}"
        shutil.copytree(place, copy)
        paths = sorted(path for path in copy.rglob("*") if path.is_file())
        path = paths[generator.integers(len(paths))]
        content = bytearray(path.read_bytes())
        bit = generator.integers(8 * len(content))
        content[bit // 8] ^= 1 << int(bit % 8)
        path.write_bytes(content)
        case = f"flip {number}, bit {bit} of {path.relative_to(folder)}"
        found.add(f"{case}, read", outcome(lambda copy=copy: stored(copy), there))
        found.add(f"{case}, called again", outcome(lambda copy=copy, call=call: call(copy), whole))
        shutil.rmtree(copy)
    return found


# -- A process that ends at any file operation -------------------------------------------------------

OPERATIONS = ("open", "replace", "unlink", "mkdir", "rmdir", "fsync")
"""The functions of `os` before which a folder is looked at."""


@contextlib.contextmanager
def watched(before: Callable[[str, tuple], None], after: Callable[[str, tuple, object], None] = lambda *_: None) -> Iterator[None]:
    """Call functions before and after each operation of the package that changes files. It names each file within its open folder."""

    def wrapped(name):
        inner = getattr(os, name)

        def operation(*arguments, **options):
            changes = arguments[1] & os.O_CREAT if name == "open" else name == "fsync" or any("dir_fd" in option for option in options)
            if changes:
                before(name, arguments)
            result = inner(*arguments, **options)
            if changes:
                after(name, arguments, result)
            return result

        return unittest.mock.patch.object(os, name, operation)

    with contextlib.ExitStack() as stack:
        for name in OPERATIONS:
            stack.enter_context(wrapped(name))
        yield


def states(folder: Path, count: int, seed: int = 0) -> Counts:
    """Copy the folder of a call before file operations, and call again in each copy."""
    generator, found = np.random.default_rng(seed), counts()
    for name, call in CALLS.items():
        moments: list[str] = []
        with watched(lambda operation, _, moments=moments: moments.append(operation)):
            whole = call(folder / f"counted-{name}")
        chosen = set(generator.choice(len(moments), min(count // len(CALLS), len(moments)), replace=False).tolist())
        place, reached, copies = folder / f"watched-{name}", [], {}

        def copy(operation, _, place=place, reached=reached, copies=copies, chosen=chosen):
            if len(reached) in chosen:
                copies[len(reached)] = folder / f"{place.name}-{len(reached)}"
                if place.exists():
                    shutil.copytree(place, copies[len(reached)])
            reached.append(operation)

        with watched(copy):
            call(place)
        for moment, copied in copies.items():
            found.add(f"{name} before operation {moment}, {moments[moment]}", outcome(lambda copied=copied, call=call: call(copied), whole))
            left = [path for path in copied.rglob("*") if path.suffix in (".tmp", ".partial")]
            if left:
                found.wrong.append(f"{name} before operation {moment}: it leaves {left[0]}")
            shutil.rmtree(copied)
    return found


# -- A power cut -----------------------------------------------------------------------------------


class Disk:
    """What a disk keeps for certain: of a file its bytes, and of a folder its names, as they were when they were last flushed."""

    def __init__(self):
        self.ids: dict[int, int] = {}
        """A number for each file or folder that was ever made, by its inode. An inode is used again after its file is removed."""
        self.made = 0
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()

    def id_of(self, inode: int) -> int:
        """Return the number of a file that has the inode now."""
        if inode not in self.ids:
            self.new(inode)
        return self.ids[inode]

    def new(self, inode: int) -> None:
        """Note that an inode has a new file."""
        self.made += 1
        self.ids[inode] = self.made

    def after(self, operation: str, arguments: tuple, result) -> None:
        """Note an operation."""
        if operation == "open" and arguments[1] & os.O_CREAT:
            self.new(os.fstat(result).st_ino)
        if operation == "fsync":
            inside = Path(f"/proc/self/fd/{arguments[0]}")
            number = self.id_of(inside.stat().st_ino)
            if inside.is_dir():
                self.names[number] = {entry.name: self.id_of(entry.inode()) for entry in os.scandir(inside)}
                self.folders |= {self.id_of(entry.inode()) for entry in os.scandir(inside) if entry.is_dir()}
            else:
                self.bytes[number] = inside.read_bytes()

    def survivor(self, folder: Path, to: Path) -> None:
        """Write what a power cut leaves where the file system keeps all names, and only the bytes that were flushed."""
        for path in [folder, *folder.rglob("*")]:
            there = to / path.relative_to(folder)
            if path.is_dir():
                there.mkdir(parents=True)
            else:
                there.write_bytes(self.bytes.get(self.id_of(path.stat().st_ino), b""))

    def flushed(self, number: int, to: Path) -> None:
        """Write what a power cut leaves where the file system keeps only names that were flushed: the folder `number`."""
        to.mkdir(parents=True)
        for name, inner in self.names.get(number, {}).items():
            if inner in self.folders:
                self.flushed(inner, to / name)
            else:
                (to / name).write_bytes(self.bytes.get(inner, b""))


def cuts(folder: Path, count: int, seed: int = 0) -> Counts:
    """Cut the power at moments of a call, in two ways each, and call again on what is left."""
    generator, found = np.random.default_rng(seed), counts()
    for name, call in CALLS.items():
        moments: list[str] = []
        with watched(lambda operation, _, moments=moments: moments.append(operation)):
            whole = call(folder / f"counted-{name}")
        chosen = set(generator.choice(len(moments), min(count // len(CALLS), len(moments)), replace=False).tolist())
        place, disk, reached, left = folder / f"cut-{name}", Disk(), [], {}

        def cut(operation, _, place=place, disk=disk, reached=reached, left=left, chosen=chosen):
            moment = len(reached)
            if moment in chosen:
                pair = left[moment] = [folder / f"{place.name}-{moment}-{kind}" for kind in ("data", "names")]
                if place.exists():
                    disk.survivor(place, pair[0])
                    disk.flushed(disk.id_of(place.stat().st_ino), pair[1])
            reached.append(operation)

        with watched(cut, disk.after):
            call(place)
        for moment, pair in left.items():
            for cut_off in pair:
                found.add(f"{cut_off.name}, before {moments[moment]}", outcome(lambda cut_off=cut_off, call=call: call(cut_off), whole))
        found.add(f"{name} after its end", outcome(lambda place=place, disk=disk: _after_end(disk, place), stored(place)))
    return found


def _after_end(disk: Disk, place: Path) -> xarray.Dataset:
    """Return what can be read of a call that has ended just before a power cut."""
    left = place.with_name(f"{place.name}-ended")
    disk.flushed(disk.id_of(place.stat().st_ino), left)
    return stored(left)


# -- A full disk -----------------------------------------------------------------------------------


def sizes(name: str, folder: Path, count: int) -> list[int]:
    """Return sizes of disks in bytes, from one that holds nearly nothing to one that a call nearly fits in."""
    CALLS[name](folder)
    whole = sum(4096 * -(-path.stat().st_size // 4096) for path in [folder, *folder.rglob("*")])
    return np.linspace(8192, 0.75 * whole, count).astype(int).tolist()


def full(folder: Path, count: int, seed: int = 0) -> Counts:
    """Run each call, and draw its figure, on small disks; then make the disk larger, and call again. The process must be able to mount."""
    del seed
    found, disk = counts(), folder / "disk"
    disk.mkdir()
    for name, call in CALLS.items():
        whole = call(folder / f"whole-{name}")
        for size in sizes(name, folder / f"sized-{name}", count):
            with mounted(disk, size) as enlarge:
                place, case = disk / "place", f"{name} on {size} bytes"
                first = outcome(lambda call=call, place=place: call(place), whole)
                found.add(case, first if first == "one line" else f"{first}, although the disk is full")
                with contextlib.suppress(OSError):  # where no byte is free there is no old figure
                    (disk / "figure.png").write_bytes(b"old")
                old = (disk / "figure.png").read_bytes()
                with contextlib.suppress(OSError):
                    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
                found.add(f"{case}, the figure", outcome(lambda: files.commit_figure(disk / "figure.png", figure()), whole))
                if (disk / "figure.png").read_bytes() != old:
                    found.wrong.append(f"{case}: the old figure is lost")
                (disk / "filler").unlink()
                enlarge()
                found.add(f"{case}, then on a larger disk", outcome(lambda call=call, place=place: call(place), whole))
                if left := [path for path in place.rglob("*") if path.suffix in (".tmp", ".partial")]:
                    found.wrong.append(f"{case}: it leaves {left[0]}")
    return found


def figure() -> Figure:
    """Return a figure."""
    drawn = Figure()
    drawn.add_subplot().plot(np.random.default_rng(0).normal(size=2000))
    return drawn


@contextlib.contextmanager
def mounted(disk: Path, size: int) -> Iterator[Callable[[], object]]:
    """Give a function that makes the disk, a file system in memory of so many bytes, large."""
    mount = lambda *words: subprocess.run(["mount", *words], check=True, capture_output=True)  # noqa: E731
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
    try:
        yield lambda: mount("-o", "remount,size=64m", str(disk))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def script() -> None:
    """Do all of it and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = {"flips": (flips, 200), "states": (states, 200), "cuts": (cuts, 30), "full": (full, 6)}
    for name, (_, default) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, (function, _) in numbers.items():
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, unflushed():
            found = function(Path(folder), getattr(given, name), given.seed)
        print(f"{name}: {dict(found.outcomes)} in {time.monotonic() - begin:.0f} s", *found.wrong, sep="\n  ")


if __name__ == "__main__":
    script()
