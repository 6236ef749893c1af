"""Fingerprints of runs: settings as JSON that every process writes alike, and the versions of the software."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import re
import subprocess
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(value: Any, depth: int = 12) -> Any:
    """Return a value as JSON that is the same in every process.

    An object is described by its type and its fields, without the fields that are declared with `repr=False`. An array is described
    by its dtype, shape and SHA-256. A function is described by its name, its floating constants and the values that it closes
    over, so that two schedules with different numbers differ.

    Args:
        value: Any value: a method, rates, data, a function or a container of them.
        depth: The levels of nesting that are described. Deeper values are described by the name of their type.

    >>> from dualebm.spaces import Sphere
    >>> describe(Sphere(3)), describe(np.float32(0.1)), describe(np.zeros(2))["shape"]
    ({'type': 'Sphere', 'dimension': 3, 'base': {'type': 'Uniform'}}, 0.1, [2])
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.ndim == 0:
            return float(str(array)) if array.dtype.kind == "f" else array.item()
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}
    if depth == 0:
        return type(value).__name__
    inner = functools.partial(describe, depth=depth - 1)
    if isinstance(value, dict):
        return {str(name): inner(item) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return {"type": type(value).__name__, **inner(value._asdict())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [inner(item) for item in value]
    if isinstance(value, functools.partial):
        return {"type": "partial", "function": inner(value.func), "arguments": inner([value.args, value.keywords])}
    function = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    if inspect.isfunction(function):
        constants = [c for c in function.__code__.co_consts if isinstance(c, float)]
        closure = [c.cell_contents for c in function.__closure__ or () if c != types.CellType()]  # a cell may be empty
        return {"function": function.__qualname__, "constants": constants, "closure": inner(closure)}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def differences(stored: Any, current: Any, path: str = "", places: tuple[str, str] = ("on disk", "in this call")) -> list[str]:
    """Return the settings in which two descriptions differ, one sentence each.

    Args:
        stored: The first description, such as that on disk.
        current: The second description, such as that in this call.
        path: The name of the setting that the descriptions belong to; empty for the whole.
        places: The words that say where both are.

    Returns:
        A list of sentences, each with the name of the setting and both values.

    >>> differences({"every": 10, "rates": {"radius": 10.0}}, {"every": 10, "rates": {"radius": 5.0}})
    ['rates.radius is 10.0 on disk and 5.0 in this call']
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        pairs = ((name, stored.get(name), current.get(name)) for name in {**stored, **current})
        return [sentence for name, a, b in pairs for sentence in differences(a, b, f"{path}.{name}" if path else name, places)]
    return [] if stored == current else [f"{path} is {stored!r} {places[0]} and {current!r} {places[1]}"]


def check_settings(where: str, stored: dict, current: dict) -> None:
    """Check that the stored settings equal the settings of this call.

    Args:
        where: The file or folder, for the message.
        stored: The settings on disk.
        current: The settings of this call.

    Raises:
        ValueError: When they differ. The message names the first four settings that differ, with both values.

    >>> check_settings("folder runs/a", {"every": 10}, {"every": 20})
    Traceback (most recent call last):
    ...
    ValueError: folder runs/a is of another run: every is 10 on disk and 20 in this call; give another, or the same settings
    """
    if differing := differences(stored, current):
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(f"{where} is of another run: {'; '.join(differing[:4])}{more}; give another, or the same settings")


def provenance() -> dict[str, Any]:
    """Return where numbers come from, as JSON: versions, git revision, backend and number of devices.

    The revision is taken from the repository of the sources. It is None outside a git repository.

    >>> sorted(provenance())
    ['backend', 'device_count', 'git_revision', 'versions']
    """
    versions = {name: importlib.metadata.version(name) for name in ("dualebm", "jax", "jaxlib", "numpy")}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        revision = finished.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = None
    return {
        "versions": {**versions, "python": platform.python_version()},
        "git_revision": revision,
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
    }
