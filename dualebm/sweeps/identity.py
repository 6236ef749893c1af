"""The identity of a run within a sweep: its settings as text, and the process that has it."""

import json
import zlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from dualebm._internal import files
from dualebm.training.descriptions import describe


def identity(settings: dict[str, Any]) -> str:
    """Return the settings of a run as text that is the same in every process and for every order of the names.

    Equal numbers have one text, as 10, 10.0 and an array of no dimension that holds 10. True is no number.

    Args:
        settings: the settings by name, or their descriptions.

    Returns:
        The text, JSON.

    >>> identity({"seed": 0, "radius": 10.0})
    '{"radius": 10, "seed": 0}'
    """
    return _text(settings, ())


def without_seed(settings: dict[str, Any], floats: Collection[str] = ()) -> str:
    """Return the identity of a run without its seed, from which its noise is drawn.

    Args:
        settings: the settings by name.
        floats: the names of the settings that are floats. Equal numbers are equal there as floats, and elsewhere as integers.

    Returns:
        The text, JSON.

    >>> without_seed({"seed": 0, "radius": 10, "neurons": 8}, ["radius"])
    '{"neurons": 8, "radius": 10.0}'
    """
    return _text({name: value for name, value in settings.items() if name != "seed"}, floats)


def owner(settings: dict[str, Any], count: int) -> int:
    """Return which of several processes has a run. It depends on the run alone, so that the owners stay as they are where runs are added.

    Runs that differ in their seeds alone go to the processes in turn.

    Args:
        settings: the settings of the run by name.
        count: the number of processes.

    Returns:
        The index of the process, from 0.

    >>> [owner({"radius": 10.0, "seed": seed}, 3) for seed in range(4)]
    [2, 0, 1, 2]
    """
    return (zlib.crc32(without_seed(settings).encode()) + int(settings.get("seed", 0))) % count


def in_words(settings: dict[str, Any]) -> str:
    """Return the settings of a run as a short text for messages.

    Args:
        settings: the settings by name, or their descriptions.

    Returns:
        The text.

    >>> in_words({"seed": 0, "radius": 10.0, "schedule": lambda step, rates: rates})
    'seed 0, radius 10.0, schedule <lambda>'
    """
    return ", ".join(f"{name} {_name(describe(value))}" for name, value in settings.items())


def scalar(value: Any) -> Any:
    """Return a number of NumPy, or an array of no dimension, as a number of Python, and any other value as it is.

    Args:
        value: the value of a setting.

    Returns:
        The value.

    >>> scalar(np.int64(3)), scalar(np.array(0.5)), scalar("mala")
    (3, 0.5, 'mala')
    """
    array = isinstance(value, (np.generic, np.ndarray, jax.Array)) and not files.is_key(value)
    return value.item() if array and not np.ndim(value) else value


def _text(settings: dict[str, Any], floats: Collection[str]) -> str:
    known = {name: describe(scalar(value)) for name, value in settings.items()}
    return json.dumps({name: _as_float(v) if name in floats else _as_integer(v) for name, v in known.items()}, sort_keys=True)


def _as_float(description: Any) -> Any:
    """Return an integer, or a float, as a float, and any other description as it is."""
    number = isinstance(description, (int, float)) and not isinstance(description, bool)
    return float(description) + 0.0 if number and abs(description) <= 2**53 else description  # the sum has no negative zero


def _as_integer(description: Any) -> Any:
    """Return a description with integers in place of the floats that equal them."""
    if isinstance(description, dict):
        return {name: _as_integer(part) for name, part in description.items()}
    if isinstance(description, list):
        return [_as_integer(part) for part in description]
    return int(description) if isinstance(description, float) and description.is_integer() else description


def _name(description: Any) -> str:
    """Return the name of a function, a class or an object, or the short text of any other value."""
    if not isinstance(description, dict):
        return str(description)
    kinds = ("function", "method", "class", "type", "sha256")
    return str(next((description[kind] for kind in kinds if kind in description), description))
