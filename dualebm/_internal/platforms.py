"""What is chosen by the kind of device: sizes and ways that change the time and the memory of a program.

Of its results they change at most the last digits.
Only the numbers of the CPU are measured. Those of accelerators follow from their memory and from what one operation must have to fill
them, and no time on a GPU or a TPU stands behind them.
"""

from typing import NamedTuple

import jax


class Choices(NamedTuple):
    """What a program takes from the kind of its device.

    Args:
        block_elements: the number of elements of the (m, columns) block that is alive at a time (see `blocks.block_columns`).
        chains: the number of blocks that a sum handles side by side. They are added in one order, whatever this number.
        runs_in_turn: whether one device computes the runs of a batch one after another, and not side by side.
    """

    block_elements: int
    chains: int
    runs_in_turn: bool


CPU = Choices(block_elements=3 * 2**18, chains=4, runs_in_turn=True)
"""3 MB of float32 stay in the cache. XLA runs several products concurrently on a CPU, but not the parts of one. The cache holds one run."""

ACCELERATOR = Choices(block_elements=2**26, chains=1, runs_in_turn=False)
"""What an accelerator that has not been measured gets.

A block of float32 takes 256 MB, and a program keeps a few at a time, which fits the memory of any device in use. With 64 rows it has a
million columns. An operation on it passes 256 MB through the memory, at 2 TB/s for 0.1 ms, which is long beside the microseconds that it
takes to start one. So a larger block would gain little, and a smaller one would wait for starts. One product fills the device, so that
several side by side would only take more memory. Runs of a sweep are too small to fill it alone, and are computed side by side.
"""

CHOICES = {"cpu": CPU}
"""The choices by backend, as `jax.default_backend` names it. A backend that is not named has those of `ACCELERATOR`."""


def kind() -> str:
    """Returns the backend for which programs are made: the default backend of JAX.

    >>> kind() in ("cpu", "gpu", "tpu")
    True
    """
    return jax.default_backend()


def choices() -> Choices:
    """Returns the choices for the devices of this process. They are made when a program is traced.

    >>> choices().block_elements > 0
    True
    """
    return CHOICES.get(kind(), ACCELERATOR)
