"""Placement of the runs of a sweep: how many are in memory at a time, on which devices, and in which of several processes."""

import dataclasses
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from dualebm import settings
from dualebm._internal import platforms
from dualebm.settings import Count
from dualebm.sweeps.grid import Replica
from dualebm.sweeps.identity import owner
from dualebm.training import multihost, sharding

MEMORY = 2**30
"""The bytes that the runs of a batch may take on a CPU. On other devices they may take half of the memory."""

MOST_RUNS, MOST_IN_TURN = 256, 64
"""The largest numbers of runs in a batch, and in a batch whose runs are computed one after another.

The second is smaller, because such a batch gains no speed by more runs, and a kill loses a segment of each."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the runs of a sweep are computed. It changes time, memory and rounding, but no result otherwise.

    Processes that share the particles of each run (see `dualebm.training.multihost`) share them over all of their
    devices. All of these processes make the same call of `sweep`, with one folder.

    Args:
        batch_size: The number of runs in memory at a time; None for as many as fit.
        vmapped: The number of runs of a batch that one device computes side by side. None for one on CPUs, whose cache
            holds one, and for all elsewhere.
        devices: The number of devices that share the runs of a batch. None for all CPU devices of this process, which divide the runs
            where they compute them one after another, without a change of any number; elsewhere None is the first device alone.
        devices_per_run: The number of these devices that share the particles and data of each run (see
            `dualebm.training.sharding`).
        process: The index of this process and the number of processes that share the runs. The settings of a run say which process has
            it (see `owner`), whatever other runs there are. The processes need not know each other.

    Raises:
        ValueError: a number is not allowed.

    >>> Placement(batch_size=8).batch_size
    8
    """

    batch_size: Count | None = None
    vmapped: Count | None = None
    devices: Count | None = None
    devices_per_run: Count = 1
    process: tuple[int, int] = (0, 1)

    def __post_init__(self):
        settings.check(self)
        if len(self.process) != 2 or not self.process[0] < self.process[1]:
            raise ValueError(f"process is {self.process}; it must be (index, count) with an index from 0 to count - 1")

    def check(self) -> Mesh | None:
        """Check the devices, and return the mesh of the devices, or None for one device.

        Returns:
            The mesh, or None.

        Raises:
            ValueError: a number is not allowed.
        """
        devices, devices_per_run = multihost.devices_of(self.devices, self.devices_per_run)
        if devices is None and devices_per_run == 1:
            return None
        mesh = sharding.make(devices, devices_per_run)
        if self.vmapped is not None:
            raise ValueError(f"vmapped is {self.vmapped} and devices is {self.devices}; give one of them")
        side = mesh.shape[sharding.RUNS]
        if self.batch_size is not None and self.batch_size % side:
            raise ValueError(f"batch_size is {self.batch_size}; it must be a multiple of the runs side by side, {side}")
        return mesh

    def share(self, runs: list[Replica]) -> list[Replica]:
        """Return the runs of this process.

        Args:
            runs: the runs.

        Returns:
            The runs whose owner is this process, in the same order.

        >>> [run.index for run in Placement(process=(1, 2)).share([Replica(i, {"seed": i}, *[None] * 4) for i in range(4)])]
        [0, 2]
        """
        index, count = self.process
        return [run for run in runs if owner(run.settings, count) == index]

    def side_by_side(self) -> int | None:
        """Return the number of runs of a batch that one device computes side by side; None for all."""
        return 1 if self.vmapped is None and platforms.choices().runs_in_turn else self.vmapped

    def dividing(self, runs: int) -> int:
        """Return the number of devices that divide the runs of a batch where `devices` is None.

        A CPU with several devices, such as one of each core (`jax.config.update("jax_num_cpu_devices", ...)` before JAX computes
        anything), has its runs computed on all of them at once.

        Args:
            runs: The number of runs of the batch.

        Returns:
            The largest number of CPU devices that divides the number of runs, and 1 where runs are vmapped or the devices are no CPU.

        >>> Placement(vmapped=2).dividing(4)
        1
        """
        available = jax.local_device_count() if platforms.kind() == "cpu" and self.side_by_side() == 1 else 1
        return max(count for count in range(1, min(available, runs) + 1) if runs % count == 0)

    def at_once(self, mesh: Mesh | None, runs: int) -> int:
        """Return the number of runs of a batch that are computed at once: one on each device, or on each part of the mesh.

        Args:
            mesh: The mesh of the devices, or None where `devices` is None.
            runs: The number of runs of the batch.

        Returns:
            The number of runs.
        """
        return self.dividing(runs) if mesh is None else mesh.shape[sharding.RUNS]

    def batch_size_of(self, mesh: Mesh | None, count: int, bytes_of_run: Callable[[], int]) -> int:
        """Return the number of runs in each batch of a group.

        It is a multiple of the runs that the devices compute side by side. Copies of runs fill the last batch.

        Args:
            mesh: The mesh of the devices, or None for one device.
            count: The number of runs of the group.
            bytes_of_run: Function that returns the memory of one run, called only where `batch_size` is None.

        Returns:
            The number of runs.
        """
        side = self.at_once(mesh, min(count, jax.local_device_count()))  # no more devices than runs
        memories = 1 if mesh is None else mesh.size
        round_up = lambda runs: math.ceil(runs / side) * side  # noqa: E731
        if self.batch_size is not None:
            return min(self.batch_size, round_up(count))
        limit = MOST_IN_TURN if self.side_by_side() == 1 else MOST_RUNS
        most = max(1, min(limit, memories * memory() // bytes_of_run()))
        return round_up(math.ceil(count / math.ceil(count / most)))


def memory() -> int:
    """Return the number of bytes that the runs of a batch may take."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics["bytes_limit"] // 2 if "bytes_limit" in statistics else MEMORY
