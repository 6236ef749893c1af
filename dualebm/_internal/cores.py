"""The cores of a CPU that this process may use, and one device for each of them."""

import contextlib
import os

import jax

FLAG = "xla_force_host_platform_device_count"
"""The flag of XLA that says how many devices a CPU is."""


def count() -> int:
    """Returns the number of cores that this process may use.

    >>> count() > 0
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_devices() -> None:
    """Makes each core of a CPU a device, where JAX has no devices yet and neither `XLA_FLAGS` nor a setting of JAX says their number."""
    given = getattr(jax.config, "jax_num_cpu_devices", None)
    if given == -1 and FLAG not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has its devices
            jax.config.update("jax_num_cpu_devices", count())
