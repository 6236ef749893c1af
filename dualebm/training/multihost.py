"""Several processes that share the particles of each run: one JAX of them all, what they agree on, and where their checkpoints lie.

Each process has a folder of its own below that of the sweep, shard-I-of-P/, with its shard of the last two checkpoints and what it
says of itself (see `dualebm.training.presence`). No process goes on without the others: when one dies, JAX's runtime ends the others,
and the same command on all of them continues from the last checkpoint of which all have their shard.

A sweep asks `Alone` or `Together`, which have the same functions, and does not know which of them it has: see `hosts`.
"""

import contextlib
import os
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dualebm._internal import checks, files
from dualebm.training import checkpoints, run_folder, sharding
from dualebm.training.presence import describe_lost, presence, processes, shard_of

HEARTBEAT, SHUTDOWN = 30, 20
"""Seconds after which a process that is silent counts as dead; and that the others are waited for at the end."""

PATIENCE = 600.0
"""Seconds that a process waits where all have to agree, for one that writes or reads slowly."""


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
    """The values of each process, (processes, ...), known to all of them; they wait for each other, at most `PATIENCE` seconds.

    >>> agree([3, 4], "the records").tolist()
    [[3, 4]]
    """
    values = np.asarray(values)
    with at_most(PATIENCE, f"agreeing on {what}"):
        return np.asarray(multihost_utils.process_allgather(values)).reshape(jax.process_count(), *values.shape)


# -- One process, or several ---------------------------------------------------------------------------


class Alone(NamedTuple):
    """The one process of a sweep that shares its runs with no other: it writes all files."""

    writes: bool = True

    def first(self, values, what: str):
        """The values that the first process has."""
        return values

    def any(self, value: bool, what: str) -> bool:
        """Whether the value is true in one of the processes."""
        return value

    def announce(self, group: str, step: int) -> None:
        """Says where this process is."""

    def lacking(self, made: dict[int, Any], indices: list[int]) -> dict[int, str]:
        """By position in a batch: why a run cannot go on although this process made its data and metrics."""
        return {}

    def checkpoint(self, group: Path, name: str) -> Path:
        """The checkpoint of this process in a group."""
        return group / name

    def latest(self, done: int, segment: int, path: Callable[[int], Path]) -> int:
        """The number of records, at most `done`, after which all processes have a checkpoint."""
        return done

    def save(self, path: Path, before: Path, states, settings: dict) -> None:
        """Writes a checkpoint; `before` is the one that it replaces."""
        checkpoints.save_state(path, states, settings)

    def load(self, path: Path, mesh: Mesh | None, method, shapes, settings: dict):
        """The states of a checkpoint, on the devices of a mesh where it is given."""
        states = checkpoints.load_state(path, shapes, settings)
        return states if mesh is None else jax.device_put(states, sharding.shardings(mesh, method, states))


class Together(NamedTuple):
    """One of several processes that share the particles of each run; the first of them writes results and manifests.

    shard: the folder of this process. announce: a function of a group and a step, which says where this process is.
    """

    shard: Path
    announce: Callable[[str, int], None]

    @property
    def writes(self) -> bool:
        """Whether this process is the first."""
        return is_first()

    def first(self, values, what: str):
        """The values that the first process has."""
        return agree(values, what)[0].tolist()

    def any(self, value: bool, what: str) -> bool:
        """Whether the value is true in one of the processes."""
        return bool(agree(value, what).any())

    def lacking(self, made: dict[int, Any], indices: list[int]) -> dict[int, str]:
        """By position in a batch: why a run cannot go on although this process made its data and metrics.

        Raises ValueError where the processes made different ones: each has a shard of the same run.
        """
        sums = [_checksum(made[i]) if i in made else 0 for i in range(len(indices))]
        answers = agree([[i in made for i in range(len(indices))], sums], "the data")
        why = {}
        for i, index in enumerate(indices):
            if not answers[:, 0, i].all():
                why[i] = "another process could not make its data or metrics"
            elif len(set(answers[:, 1, i])) > 1:
                raise ValueError(f"run {index}: the processes made different data or metrics; they must depend on the key alone")
        return why

    def checkpoint(self, group: Path, name: str) -> Path:
        """The checkpoint of this process in a group."""
        return self.shard / group.name / name

    def latest(self, done: int, segment: int, path: Callable[[int], Path]) -> int:
        """The number of records, at most `done` and a segment less at least, after which all processes have a checkpoint; else 0."""
        for records in (done, done - segment):
            if records > 0 and agree(path(records).exists(), "the checkpoint").all():
                return records
        return 0

    def save(self, path: Path, before: Path, states, settings: dict) -> None:
        """Writes the shard of a checkpoint; keeps `before`, the one that it replaces, until all processes have theirs."""
        path.parent.mkdir(exist_ok=True)
        checkpoints.save_state(path, shard_of_states(states), settings)
        for other in set(path.parent.iterdir()) - {path, before}:
            other.unlink()

    def load(self, path: Path, mesh: Mesh | None, method, shapes, settings: dict):
        """The states of which each process saved a shard, on the devices of a mesh."""
        assert mesh is not None, "processes that share particles have a mesh"
        count = jax.process_count()
        share = lambda paired, x: jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] // count) if paired else x.shape, x.dtype)  # noqa: E731
        shard = checkpoints.load_state(path, jax.tree.map(share, method.paired(shapes), shapes), settings)
        return assemble(mesh, method, shard)


@contextlib.contextmanager
def hosts(folder: Path, header: str, begin: Callable[[], list]) -> Iterator[tuple[Alone | Together, list]]:
    """The processes of a sweep while they hold its folder, and its groups, which `begin` finds or makes.

    Of several processes the first begins, and writes the file `header` last; the others then find what it wrote.
    Raises the errors of `begin`; OSError where another process holds the folder; ValueError for one that is not the same for all.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_count() == 1:
            yield Alone(), _hold(folder, begin, stack)
            return
        groups, error = [], None
        if is_first():
            try:
                groups = _hold(folder, begin, stack)
            except Exception as raised:  # the others wait to hear of it
                error = raised
        refused = bool(agree(error is not None, "the folder").any())
        if error is not None:
            raise error
        if refused:
            raise RuntimeError("process 0 could not begin; its message says why")
        # The others look only now: a file system may remember that a file was missing.
        if not agree((folder / header).exists(), "the folder").all():
            raise ValueError(f"folder {folder} is not the same for all processes; give one that they share")
        groups = groups or begin()
        shard = shard_of(folder)
        stack.enter_context(run_folder.hold(shard))
        yield Together(shard, stack.enter_context(presence(shard))), groups
        agree(True, "the end")  # the results of all are written, and the checkpoints no longer needed
        for path in shard.glob("group-*/checkpoint-*.npz"):
            path.unlink()


def _hold(folder: Path, begin: Callable[[], list], stack: contextlib.ExitStack) -> list:
    """Holds the folder, warns of processes that were lost in it, and begins."""
    stack.enter_context(run_folder.hold(folder))
    count = jax.process_count()
    wrong = [path for path in folder.glob("shard-*/group-*/checkpoint-*.npz") if not path.parent.parent.name.endswith(f"-of-{count}")]
    if count > 1:
        wrong += folder.glob("group-*/checkpoint-*.npz")
    if wrong:
        raise ValueError(
            f"folder {folder} has {wrong[0].relative_to(folder)}, of another number of processes than the {count} that share the particles "
            "here; give the same number"
        )
    if lost := describe_lost(processes(folder)):
        warnings.warn(f"{lost}; the sweep continues from the last checkpoint of all", stacklevel=2)
    return begin()


@contextlib.contextmanager
def workplace(folder: files.PathLike | None) -> Iterator[Path]:
    """The folder of a sweep, or a temporary one where it is None, which one process alone may have."""
    if folder is not None:
        yield Path(folder)
    elif jax.process_count() > 1:
        raise ValueError(f"folder is None; the {jax.process_count()} processes that share the particles need one that they share")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def is_first() -> bool:
    """Whether this process is the first of those that share the particles, or the only one."""
    return jax.process_index() == 0


def devices_of(devices: int | None, devices_per_run: int) -> tuple[int | None, int]:
    """The same for one process; for several, all devices for each run. Raises ValueError where other numbers are asked for.

    >>> devices_of(None, 1)
    (None, 1)
    """
    count = jax.device_count()
    if jax.process_count() == 1:
        return devices, devices_per_run
    if (devices, devices_per_run) not in ((None, 1), (count, count)):
        raise ValueError(
            f"devices is {devices} and devices_per_run is {devices_per_run}; {jax.process_count()} processes share the particles of "
            f"each run, over all devices: leave both out, or give {count}"
        )
    return count, count


def _checksum(tree) -> int:
    """A number made of the bytes of all arrays of a tree."""
    total = 0
    for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        total = zlib.crc32(np.ascontiguousarray(jax.random.key_data(x) if files.is_key(x) else x).tobytes(), total)
    return total


# -- Arrays that several processes share ---------------------------------------------------------------


def shard_of_states(states):
    """What this process holds of a stack of split states, as NumPy arrays; `assemble` undoes it.

    >>> shard_of_states((jax.numpy.zeros((1, 3, 2, 4)),))[0].shape
    (1, 3, 2, 4)
    """

    def held(x):
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[-1].start)
        return np.concatenate([np.asarray(shard.data) for shard in shards], axis=-1)

    return jax.tree.map(held, states)


def assemble(mesh: Mesh, method, shard):
    """The stack of split states of which each process of a mesh holds an equal shard."""

    def whole(paired, x, placed):
        shape = (*x.shape[:-1], x.shape[-1] * jax.process_count()) if paired else x.shape
        return jax.make_array_from_process_local_data(placed, x, shape)

    return jax.tree.map(whole, method.paired(shard), shard, sharding.shardings(mesh, method, shard))
