"""Several processes that share the particles of each run: their start, what they agree on, and their shards.

The processes form one JAX runtime, which lists the devices of all processes. Each process has a folder shard-I-of-P/ in
the folder of the sweep. It holds this process's shard of the last two checkpoints and its status (see
`dualebm.training.presence`). No process goes on without the others: when one dies, JAX's runtime ends the others. The
same command on all processes continues from the last checkpoint whose shards are all there.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dualebm._internal import checks, files
from dualebm.training import sharding

HEARTBEAT, SHUTDOWN = 30, 20
"""Seconds without a heartbeat after which a process counts as dead, and seconds that it waits for the others at its end."""

PATIENCE = 600.0
"""Seconds that a process waits for the others where all of them have to agree. Another may write or read slowly."""


def join(coordinator: str, index: int | None = None, count: int | None = None) -> None:
    """Make this process one of several that are one JAX, in which `jax.devices()` lists the devices of all.

    It must be called before anything is computed. A process that the others have not heard of for `HEARTBEAT` seconds
    counts as dead. JAX's runtime then ends the others with a non-zero exit code.

    Args:
        coordinator: The address host:port of process 0. "auto" asks Slurm or Open MPI, whose tasks then have one device
            each.
        index: The index of this process, from 0; not used with "auto".
        count: The number of processes, at least 2; not used with "auto".

    Raises:
        ValueError: When the address, the index or the count is not allowed.
        RuntimeError: When the processes do not find each other within five minutes.
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
    # Otherwise JAX leaves this process one device under a launcher that it knows.
    jax.distributed.initialize(coordinator, count, index, cluster_detection_method="deactivate", **waits)


@contextlib.contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """End this process with exit code 1 when the block takes too long.

    A wait inside of JAX cannot be interrupted in any other way.

    Args:
        seconds: the longest time, in seconds.
        what: a name for the wait in the message on standard error.

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
    """Return the values that each process passes.

    The processes wait for each other. One that waits longer than `PATIENCE` seconds ends with a message.

    Args:
        values: the values of this process, an array of the same shape in each.
        what: a name for the values in the message.

    Returns:
        The values of all processes, (processes, ...).

    >>> agree([3, 4], "the records").tolist()
    [[3, 4]]
    """
    values = np.asarray(values)
    with at_most(PATIENCE, f"agreeing on {what}"):
        return np.asarray(multihost_utils.process_allgather(values)).reshape(jax.process_count(), *values.shape)


@contextlib.contextmanager
def workplace(folder: files.PathLike | None) -> Iterator[Path]:
    """Give the folder of a sweep, or a temporary one where it is None.

    Args:
        folder: the folder, or None.

    Yields:
        The folder.

    Raises:
        ValueError: the folder is None, and several processes share the particles.
    """
    if folder is not None:
        yield Path(folder)
    elif jax.process_count() > 1:
        raise ValueError(f"folder is None; the {jax.process_count()} processes that share the particles need one folder that they share")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def is_first() -> bool:
    """Return whether this process is the first of those that share the particles, or the only one."""
    return jax.process_index() == 0


def devices_of(devices: int | None, devices_per_run: int) -> tuple[int | None, int]:
    """Return the devices of a sweep, and the devices that share the particles of each run.

    A single process gets back what it passes. Where several processes share the particles, all devices share each run.

    Args:
        devices: the number of devices of the sweep, or None for one.
        devices_per_run: the number of devices that share the particles of a run.

    Returns:
        Both numbers, as the sweep uses them.

    Raises:
        ValueError: several processes share the particles, and the numbers are not those of all devices.

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


# -- Arrays that several processes share ---------------------------------------------------------------


def shard_of_states(states):
    """Return the part of a stack of split states that this process holds, as NumPy arrays. `assemble` inverts it.

    Args:
        states: the stack of split states, a pytree.

    Returns:
        The part, a pytree of the same structure.

    >>> shard_of_states((jax.numpy.zeros((1, 3, 2, 4)),))[0].shape
    (1, 3, 2, 4)
    """

    def addressable(x):
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[-1].start)
        return np.concatenate([np.asarray(shard.data) for shard in shards], axis=-1)

    return jax.tree.map(addressable, states)


def assemble(mesh: Mesh, method, shard):
    """Return a stack of split states, put together from the shards of all processes.

    Args:
        mesh: The devices of all processes.
        method: The method of the runs.
        shard: The equal part of the states that this process holds, as `shard_of_states` returns it.

    Returns:
        The states, whose particles are distributed over the devices of all processes.
    """

    def global_array(paired, x, placed):
        shape = (*x.shape[:-1], x.shape[-1] * jax.process_count()) if paired else x.shape
        return jax.make_array_from_process_local_data(placed, x, shape)

    return jax.tree.map(global_array, method.paired(shard), shard, sharding.shardings(mesh, method, shard))
