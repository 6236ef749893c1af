"""Where the runs of a sweep are computed: how many are in memory at a time, over which devices, in which of several processes."""

import dataclasses
import math

import jax
from jax.sharding import Mesh

from dualebm._internal import checks
from dualebm.training import multihost, sharding

MEMORY = 2**30
"""Bytes that the runs of a batch may take, on a CPU; half of the memory elsewhere."""

MOST_RUNS, MOST_IN_TURN = 256, 64
"""Of a batch, and of one whose runs are computed one after another, which gains nothing by more: a kill loses a segment of as many."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the runs of a sweep are computed. It changes time and memory, and rounding, but not what is computed.

    Processes that share the particles of each run (see `dualebm.training.multihost`) do so over all of their devices. All of them make
    the same call of `sweep`, with one folder.

    Attributes:
        batch_size: runs in memory at a time; None for as many as fit.
        vmapped: runs of a batch that are computed side by side; None for one on CPUs, whose cache holds one, else for all.
        devices: devices that share the runs of a batch; None for the first device alone.
        devices_per_run: of these, devices that share the particles and the data of each run (see `dualebm.training.sharding`).
        process: (index, count) where several processes share the runs: this one has every count-th. They need not know each other.

    >>> Placement(batch_size=8).batch_size
    8
    """

    batch_size: int | None = None
    vmapped: int | None = None
    devices: int | None = None
    devices_per_run: int = 1
    process: tuple[int, int] = (0, 1)

    def check(self) -> Mesh | None:
        """The mesh of the devices, None where there is one device. Raises ValueError for numbers that are not allowed."""
        for name in ("batch_size", "vmapped"):
            if getattr(self, name) is not None:
                checks.count(name, getattr(self, name))
        index, count = self.process
        checks.count("the count of process", count)
        if not 0 <= index < count:
            raise ValueError(f"process is {self.process}; its index must be from 0 to {count - 1}")
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

    def share(self, values: list) -> list:
        """Those of the values that fall to this process.

        >>> Placement(process=(1, 2)).share([0, 1, 2, 3])
        [1, 3]
        """
        index, count = self.process
        return values[index::count]

    def side_by_side(self) -> int | None:
        """Runs of a batch that are computed side by side on one device; None for all."""
        return 1 if self.vmapped is None and jax.default_backend() == "cpu" else self.vmapped

    def batch_size_of(self, mesh: Mesh | None, count: int, bytes_of_run) -> int:
        """The size of the batches of a group of `count` runs, a multiple of the runs side by side; copies fill the last batch.

        `bytes_of_run()` is the memory that one run takes, asked only where `batch_size` is None.
        """
        side, per_run = (1, 1) if mesh is None else mesh.devices.shape
        whole = lambda runs: math.ceil(runs / side) * side  # noqa: E731
        if self.batch_size is not None:
            return min(self.batch_size, whole(count))
        limit = MOST_IN_TURN if self.side_by_side() == 1 else MOST_RUNS
        most = max(1, min(limit, side * per_run * memory() // bytes_of_run()))
        return whole(math.ceil(count / math.ceil(count / most)))


def memory() -> int:
    """Bytes that the runs of a batch may take."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics["bytes_limit"] // 2 if "bytes_limit" in statistics else MEMORY
