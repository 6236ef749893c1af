"""The process or processes of a sweep while they hold its folder: who writes, and where the checkpoints lie.

`Alone` and `Together` have the same methods. `hosts` gives a sweep the one that applies.
"""

import contextlib
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh

from dualebm._internal import files, folders
from dualebm.training import checkpoints, run_folder, sharding
from dualebm.training.multihost import agree, assemble, is_first, shard_of_states
from dualebm.training.presence import describe_lost, presence, processes, shard_of


class Alone(NamedTuple):
    """The process of a sweep that shares its runs with no other process. It writes all files.

    Args:
        writes: whether the process writes the files, which is always true here.
    """

    writes: bool = True

    def first(self, values, what: str):
        """Return the values that the first process passes.

        Args:
            values: the values of this process.
            what: a name for the values in error messages.

        Returns:
            The values of the first process.
        """
        return values

    def any(self, value: bool, what: str) -> bool:
        """Return whether a value is true in at least one process.

        Args:
            value: the value of this process.
            what: a name for the value in error messages.

        Returns:
            True where it is true in one of them.
        """
        return value

    def announce(self, group: str, step: int) -> None:
        """Do nothing: other processes need not know where this process is.

        Args:
            group: the name of the group.
            step: the step in the group.
        """

    def lacking(self, made: dict[int, Any], indices: list[int]) -> dict[int, str]:
        """Return no run: see `Together.lacking`.

        Args:
            made: what the process has made for the runs, by their indices.
            indices: the indices of the runs.

        Returns:
            An empty dictionary.
        """
        return {}

    def checkpoint(self, group: Path, name: str) -> Path:
        """Return the path of a checkpoint of this process.

        Args:
            group: the folder of its group.
            name: the name of the file.

        Returns:
            The path.
        """
        return group / name

    def latest(self, done: int, segment: int, path: Callable[[int], Path]) -> int:
        """Return the number of records after which all processes have a checkpoint.

        Args:
            done: The number of records that the manifest counts.
            segment: The number of records of a segment.
            path: Function from a number of records to the path of the checkpoint.

        Returns:
            `done`.
        """
        return done

    def save(self, path: Path, before: Path, states, settings: dict) -> None:
        """Write a checkpoint.

        Args:
            path: The file.
            before: The checkpoint that it replaces.
            states: The states of a batch of runs, stacked.
            settings: The settings of the sweep, as JSON.
        """
        checkpoints.save_state(path, states, settings)

    def load(self, path: Path, mesh: Mesh | None, method, shapes, settings: dict):
        """Return the states of a checkpoint.

        Args:
            path: The file.
            mesh: The devices on which the states are put, or None for the default device.
            method: The method of the runs.
            shapes: The shapes of the states.
            settings: The settings that the checkpoint must have, as JSON.

        Returns:
            The states of a batch of runs, stacked.

        Raises:
            ValueError: When the checkpoint does not fit (see `checkpoints.load_state`).
        """
        states = checkpoints.load_state(path, shapes, settings)
        return states if mesh is None else jax.device_put(states, sharding.shardings(mesh, method, states))


class Together(NamedTuple):
    """One of several processes that share the particles of each run. The first of them writes results and manifests.

    Args:
        shard: The folder of this process.
        announce: Function of the name of a group and a step, which writes where this process is.
    """

    shard: Path
    announce: Callable[[str, int], None]

    @property
    def writes(self) -> bool:
        """Whether this process is the first, which writes results and manifests."""
        return is_first()

    def first(self, values, what: str):
        """Return the values that the first process passes. All processes wait for each other.

        Args:
            values: the values of this process.
            what: a name for the values in error messages.

        Returns:
            The values of the first process.
        """
        return agree(values, what)[0].tolist()

    def any(self, value: bool, what: str) -> bool:
        """Return whether a value is true in at least one process. All processes wait for each other.

        Args:
            value: the value of this process.
            what: a name for the value in error messages.

        Returns:
            True where it is true in one of them.
        """
        return bool(agree(value, what).any())

    def lacking(self, made: dict[int, Any], indices: list[int]) -> dict[int, str]:
        """Return the runs of a batch that cannot go on, although this process made their data and metrics.

        Args:
            made: For each position in the batch, the data and metrics that this process made.
            indices: The indices of the runs in the grid.

        Returns:
            For each position in the batch of a run whose data or metrics another process could not make: the reason.

        Raises:
            ValueError: When the processes made different data or metrics of a run. Each holds a shard of the same run.
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
        """Return the path of a checkpoint of this process, in its shard of the folder.

        Args:
            group: the folder of its group.
            name: the name of the file.

        Returns:
            The path.
        """
        return self.shard / group.name / name

    def latest(self, done: int, segment: int, path: Callable[[int], Path]) -> int:
        """Return the number of records after which all processes have a checkpoint.

        Args:
            done: The number of records that the manifest counts.
            segment: The number of records of a segment.
            path: Function from a number of records to the path of the checkpoint.

        Returns:
            `done`, or `done - segment`, or 0 where some process has neither checkpoint.
        """
        for records in (done, done - segment):
            if records > 0 and agree(path(records).exists(), "the checkpoint").all():
                return records
        return 0

    def save(self, path: Path, before: Path, states, settings: dict) -> None:
        """Write this process's shard of a checkpoint, and remove all older shards but one.

        The shard `before` is kept, because another process may not have written its shard of the new checkpoint yet.

        Args:
            path: The file.
            before: The checkpoint that it replaces.
            states: The states of a batch of runs, stacked and split.
            settings: The settings of the sweep, as JSON.
        """
        folders.make(path.parent)
        checkpoints.save_state(path, shard_of_states(states), settings)
        folders.remove(path.parent, run_folder.CHECKPOINT, but=(path.name, before.name))

    def load(self, path: Path, mesh: Mesh | None, method, shapes, settings: dict):
        """Return the states of a checkpoint. Each process loads the shard that it saved.

        Args:
            path: The file of this process.
            mesh: The devices on which the states are put.
            method: The method of the runs.
            shapes: The shapes of the whole states.
            settings: The settings that the checkpoint must have, as JSON.

        Returns:
            The states of a batch of runs, stacked and split.

        Raises:
            ValueError: When the checkpoint does not fit (see `checkpoints.load_state`).
        """
        assert mesh is not None, "processes that share particles have a mesh"
        count = jax.process_count()
        share = lambda paired, x: jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] // count) if paired else x.shape, x.dtype)  # noqa: E731
        shard = checkpoints.load_state(path, jax.tree.map(share, method.paired(shapes), shapes), settings)
        return assemble(mesh, method, shard)


@contextlib.contextmanager
def hosts(folder: Path, header: str, begin: Callable[[], list]) -> Iterator[tuple[Alone | Together, list]]:
    """Hold the folder of a sweep for all of its processes, and give the groups of the sweep.

    Among several processes the first calls `begin`. It writes the file `header` last. The others then call `begin`,
    which finds what the first has written. At the end the shards of checkpoints are removed, because the results of all
    processes are written.

    Args:
        folder: The folder of the sweep.
        header: The name of the file that `begin` writes last.
        begin: Function that reads the groups of the folder, or makes them.

    Yields:
        `Alone` or `Together`, and the list of groups.

    Raises:
        OSError: When another process holds the folder.
        ValueError: When the folder is not the same for all processes, or holds checkpoints of another number of
            processes.
        multihost.Ended: When `begin` failed in process 0, raised in the others. In process 0 the error of `begin` is
            raised.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_count() == 1:
            yield Alone(), _hold(folder, begin, stack)
            return
        groups = _hold(folder, begin, stack) if is_first() else []
        agree(True, "the folder")
        # The others must not look earlier: a shared file system may cache that the file was missing.
        if not agree((folder / header).exists(), "the folder").all():
            raise ValueError(f"folder {folder} is not the same for all processes; give one that they share")
        groups = groups or begin()
        shard = shard_of(folder)
        folders.refuse_link(shard)
        stack.enter_context(folders.hold(shard))
        for group in shard.glob("group-*"):
            run_folder.clean(group)
        yield Together(shard, stack.enter_context(presence(shard))), groups
        agree(True, "the end")  # from here on no process needs the checkpoints: all results are written
        for group in shard.glob("group-*"):
            folders.remove(group, run_folder.CHECKPOINT)


def _hold(folder: Path, begin: Callable[[], list], stack: contextlib.ExitStack) -> list:
    """Hold the folder, warn of processes that were lost in it, and begin."""
    stack.enter_context(folders.hold(folder))
    for group in folder.glob("group-*"):
        run_folder.clean(group)
    count = jax.process_count()
    unusable = [path for path in folder.glob("shard-*/group-*/checkpoint-*.npz") if not path.parent.parent.name.endswith(f"-of-{count}")]
    if count > 1:
        unusable += folder.glob("group-*/checkpoint-*.npz")
    if unusable:
        raise ValueError(
            f"folder {folder} has {unusable[0].relative_to(folder)}, of another number of processes than the {count} that now share "
            "the particles; give the same number"
        )
    if lost := describe_lost(processes(folder)):
        warnings.warn(f"{lost}; the sweep continues from the last checkpoint of all", stacklevel=2)
    return begin()


def _checksum(tree) -> int:
    """Return a checksum of the bytes of all arrays of a tree."""
    total = 0
    for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        total = zlib.crc32(np.ascontiguousarray(jax.random.key_data(x) if files.is_key(x) else x).tobytes(), total)
    return total
