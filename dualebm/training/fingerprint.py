"""What a run is: its settings as JSON, the same in every process, how two differ, and where the numbers come from."""

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


def describe(value: Any, depth: int = 8) -> Any:
    """`value` as JSON that is the same in every process: settings by field, arrays by dtype, shape and SHA-256.

    A function is told by its name, the floating constants in it and what it closes over (a schedule by its numbers).

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
        fields = {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [inner(item) for item in value]
    if isinstance(value, functools.partial):
        return {"type": "partial", "function": inner(value.func), "arguments": inner([value.args, value.keywords])}
    function = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    if inspect.isfunction(function):
        constants = [c for c in function.__code__.co_consts if isinstance(c, float)]
        held = [c.cell_contents for c in function.__closure__ or () if c != types.CellType()]  # a cell may be empty
        return {"function": function.__qualname__, "constants": constants, "closure": inner(held)}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """The settings in which two descriptions differ, each with both values.

    >>> differences({"every": 10, "rates": {"radius": 10.0}}, {"every": 10, "rates": {"radius": 5.0}})
    ['rates.radius is 10.0 there and 5.0 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = ((name, there.get(name), here.get(name)) for name in {**there, **here})
        return [found for name, a, b in pairs for found in differences(a, b, f"{path}.{name}" if path else name)]
    return [] if there == here else [f"{path} is {there!r} there and {here!r} here"]


def check_settings(where: str, there: dict, here: dict) -> None:
    """Raises ValueError naming each setting that differs, with both values.

    >>> check_settings("folder runs/a", {"every": 10}, {"every": 20})
    Traceback (most recent call last):
    ...
    ValueError: folder runs/a is of another run: every is 10 there and 20 here; give another, or the same settings
    """
    if found := differences(there, here):
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise ValueError(f"{where} is of another run: {'; '.join(found[:4])}{more}; give another, or the same settings")


def provenance() -> dict[str, Any]:
    """What the numbers come from: versions, git revision of the sources (None outside git), backend, devices.

    >>> sorted(provenance())
    ['backend', 'device_count', 'git_revision', 'versions']
    """
    versions = {name: importlib.metadata.version(name) for name in ("dualebm", "jax", "jaxlib", "numpy")}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        revision = found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = None
    return {
        "versions": {**versions, "python": platform.python_version()},
        "git_revision": revision,
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
    }
