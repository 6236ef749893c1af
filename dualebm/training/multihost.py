"""Several processes that share the particles of each run: their start, what they agree on, and their shards.

The processes form one JAX runtime, which lists the devices of all processes. Each process has a folder shard-I-of-P/ in
the folder of the sweep. It holds this process's shard of the last two checkpoints and its status (see
`dualebm.training.presence`). No process goes on without the others: when one dies, JAX's runtime ends the others. The
same command on all processes continues from the last checkpoint whose shards are all there.
"""

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # JAX has no public way to its coordination service
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualebm._internal import checks, collectives, files
from dualebm.training import rendezvous, sharding
from dualebm.training.fingerprint import differences

HEARTBEAT = 30
"""Seconds without a heartbeat after which a process counts as dead."""

PATIENCE = 600.0
"""Seconds that a process waits for the others: at the start, where all of them have to agree, and at the end. Another may write or
read slowly."""

LONGEST = 200
"""The largest length of a value that processes compare as it is, and not by its SHA-256, in characters."""

_rounds = itertools.count()
"""The numbers of the agreements. All processes agree on the same things in the same order."""


def join(coordinator: str, index: int | None = None, count: int | None = None) -> None:
    """Make this process one of several that are one JAX, in which `jax.devices()` lists the devices of all.

    It must be called before anything is computed. The processes wait for each other for `PATIENCE` seconds, and connect their
    devices. A process that the others have not heard of for `HEARTBEAT` seconds counts as dead. JAX's runtime then ends the
    others with a non-zero exit code.

    Args:
        coordinator: The address host:port of process 0. "auto" asks Slurm or Open MPI, whose tasks then have one device
            each.
        index: The index of this process, from 0; not used with "auto".
        count: The number of processes, at least 2; not used with "auto".

    Raises:
        ValueError: When the address, the index or the count is not allowed, or two processes were given other counts or the
            same index.
        OSError: When process 0 cannot listen at the port, when a process is missing after `PATIENCE` seconds, or when another
            program answers at the address.
    """
    waits: dict[str, Any] = dict(
        initialization_timeout=int(PATIENCE), heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=int(PATIENCE)
    )
    if coordinator == "auto":
        jax.distributed.initialize(**waits)
    else:
        rendezvous.address_of(coordinator)
        checks.count("the count of process", count, 2)
        if index is None or count is None or not 0 <= index < count:
            raise ValueError(f"process is {index}; it must be from 0 to {(count or 0) - 1}")
        rendezvous.meet(coordinator, index, count, PATIENCE)
        # Otherwise JAX leaves this process one device under a launcher that it knows.
        jax.distributed.initialize(coordinator, count, index, cluster_detection_method="deactivate", **waits)
    _connect()


def _connect() -> None:
    """Connect the devices of all processes by a first gather.

    The first collective operation of a set of devices connects them, and fails where a process comes to it half a minute after
    another. Later ones wait. Every operation of a run is between all devices.
    """
    mesh = sharding.make(None, jax.device_count())
    placed = NamedSharding(mesh, PartitionSpec(collectives.PARTICLES))
    ones = jax.make_array_from_callback((mesh.size,), placed, lambda index: np.ones(mesh.size, "float32")[index])
    gather = jax.shard_map(collectives.whole, mesh=mesh, in_specs=placed.spec, out_specs=PartitionSpec(), check_vma=False)
    program = jax.jit(gather).lower(ones).compile()
    agree(True, "the start")
    jax.block_until_ready(program(ones))


@contextlib.contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """End this process with exit code 1 when the block takes too long.

    A wait inside of JAX cannot be interrupted in any other way.

    Args:
        seconds: the longest time, in seconds.
        what: a name for what is waited for, in the message on standard error.

    >>> with at_most(60, "a barrier"):
    ...     pass
    """

    def leave():
        os.write(2, f"error: waiting for {what} took more than {seconds:g} s; another process hangs\n".encode())
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Ended(ConnectionError):
    """Another process ended with an error, which the message repeats."""


def agree(values, what: str) -> np.ndarray:
    """Return the values that each process passes.

    The processes wait for each other. One that waits longer than `PATIENCE` seconds ends with a message.

    Args:
        values: the values of this process, an array of the same shape in each.
        what: a name for the values in the message.

    Returns:
        The values of all processes, (processes, ...).

    Raises:
        Ended: another process ended with an error (see `telling`).

    >>> agree([3, 4], "the records").tolist()
    [[3, 4]]
    """
    return np.asarray(exchange(np.asarray(values).tolist(), what))


def exchange(value: Any, what: str) -> list[Any]:
    """Return the JSON value that each process passes. The processes wait for each other as in `agree`.

    The values go through JAX's coordination service and not through the devices, whose operations have deadlines of their own.

    Args:
        value: the value of this process. It takes less than a megabyte as text.
        what: a name for the value in the message.

    Returns:
        The values of all processes, in their order.

    Raises:
        Ended: another process ended with an error (see `telling`).
    """
    client = distributed.global_state.client
    if client is None:
        return [value]
    number, index, answers = next(_rounds), jax.process_index(), []
    client.key_value_set(_key(number, index), json.dumps({"value": value}))
    for other in range(jax.process_count()):
        with at_most(PATIENCE, f"process {other} to agree on {what}"):
            answers.append(json.loads(_get(client, _key(number, other))))
    if number:  # all have come to this agreement, so that none still reads the answers of the one before
        client.key_value_delete(_key(number - 1, index))
    for other, answer in enumerate(answers):
        if "error" in answer:
            raise Ended(f"process {other} of {len(answers)} ended: {answer['error']}")
    return [answer["value"] for answer in answers]


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Tell the other processes when the block ends with an error. Where they next agree on something, they raise `Ended`.

    >>> with telling():
    ...     pass
    """
    try:
        yield
    except Ended:
        raise  # the others know
    except BaseException as error:
        client = distributed.global_state.client
        if client is not None:
            reason = " ".join(str(error).split())[:1000] or type(error).__name__
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                # It takes the place of the next answer of this process.
                client.key_value_set(_key(next(_rounds), jax.process_index()), json.dumps({"error": reason}))
        raise


def check_alike(stated: dict[str, Any]) -> None:
    """Check that all processes state the same.

    Args:
        stated: what this process states by name, as JSON: flags, settings, versions.

    Raises:
        ValueError: When a process differs from process 0. All processes raise it, with the first four differences.
        Ended: another process ended with an error (see `telling`).

    >>> check_alike({"steps": 20})
    """
    short = {name: _short(value) for name, value in stated.items()}
    first, *rest = exchange(short, "the flags")
    for index, other in enumerate(rest, start=1):
        if differing := differences(first, other, places=("in process 0", f"in process {index}")):
            more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
            raise ValueError(f"the processes differ: {'; '.join(differing[:4])}{more}; give all of them the same flags and packages")


def _short(value: Any) -> Any:
    """Return JSON in which long lists and texts are their SHA-256. A message of the coordination service must be short."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    text = json.dumps(value)
    return value if len(text) <= LONGEST else {"sha256": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _key(number: int, index: int) -> str:
    return f"dualebm/{number}/{index}"


def _get(client: Any, key: str) -> str:
    """Return a value of the coordination service, once it is there. Between waits of a second Python receives signals."""
    while True:
        try:
            return client.blocking_key_value_get(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


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
