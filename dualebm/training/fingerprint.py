"""Fingerprints of runs: what differs between the settings of a folder and those of a call, and the versions of the software."""

import collections
import contextlib
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

PARTS = ("attributes", "class", "closure", "defaults", "globals", "members", "wraps")
"""Names of the parts of the description of a function or a class. Sentences leave them out."""

PACKAGES = ("dualebm", "jax", "jaxlib", "numpy")
"""The packages whose versions every folder records."""

CONFIGURATION = (
    "jax_default_matmul_precision", "jax_default_prng_impl", "jax_enable_x64", "jax_random_seed_offset", "jax_threefry_partitionable",
)  # fmt: skip
"""The settings of JAX that change numbers."""


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
        if stored.get("function", stored) == current.get("function"):
            if "again" in stored or "again" in current:  # it is compared where it comes first
                return []
            if "code" in stored and "code" in current and stored["code"] != current["code"]:
                return _of_functions(stored, current, path, places)
            if "code" in current and not {"code", "package"} & stored.keys():
                return [f"{path}: the function {current['function']} was stored by an older dualebm, and cannot be compared"]
        elif "code" in stored or "code" in current:
            return [f"{path} is {_shown(stored)} {places[0]} and {_shown(current)} {places[1]}"]
        pairs = ((name, stored.get(name), current.get(name)) for name in {**stored, **current})
        return [sentence for name, a, b in pairs for sentence in differences(a, b, _joined(path, name), places)]
    return [] if stored == current else [f"{path} is {_shown(stored)} {places[0]} and {_shown(current)} {places[1]}"]


def _joined(path: str, name: str) -> str:
    return path if path and name in PARTS else f"{path}.{name}" if path else name


def _of_functions(stored: dict, current: dict, path: str, places: tuple[str, str]) -> list[str]:
    """Return what differs between two functions of one name, whose code differs."""
    name, before, now = current["function"], stored["code"], current["code"]
    if before["python"] != now["python"]:
        return [
            f"{path}: the function {name} was stored under Python {before['python']}, whose bytecode cannot be compared with that of "
            f"Python {now['python']}"
        ]
    lost, found = (collections.Counter(json.dumps(c) for c in each.get("constants", ())) for each in (stored, current))
    texts = [", ".join(map(_cut, (counted - other).elements())) or "none" for counted, other in ((lost, found), (found, lost))]
    constants = "" if texts == ["none"] * 2 else f": of its constants, {texts[0]} {places[0]} and {texts[1]} {places[1]}"
    before, now = ({name: part for name, part in each.items() if name not in ("code", "constants")} for each in (stored, current))
    return [f"{path}: the code of the function {name} has changed{constants}", *differences(before, now, path, places)]


def _shown(description: Any) -> str:
    """Return a description in words or as a short text."""
    if isinstance(description, dict) and "code" in description:
        return f"the function {description['function']}"
    return _cut(repr(description))


def _cut(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


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
        same = "the same Python" if any("bytecode cannot be compared" in sentence for sentence in differing) else "the same settings"
        raise ValueError(f"{where} is of another run: {'; '.join(differing[:4])}{more}; give another, or {same}")


_shared: ContextVar[tuple[str, set[str]] | None] = ContextVar("_shared", default=None)
"""The name of the place whose parts are opened, and the differences of versions that warnings have named."""


@contextlib.contextmanager
def warned_once(where: str) -> Iterator[None]:
    """Within the block, tell of each difference of versions once, whichever part of a place it is in.

    Args:
        where: the file or folder that has the parts, for the message.

    >>> with warnings.catch_warnings(record=True, action="always") as caught, warned_once("folder fit"):
    ...     for part in ("folder fit/0", "folder fit/1"):
    ...         warn_of_versions(part, [{"versions": {"jax": "0.9"}}], {"versions": {"jax": "0.10"}}, 1)
    >>> [str(each.message)[:20] for each in caught]
    ["folder fit: jax is '"]
    """
    token = _shared.set((where, set()))
    try:
        yield
    finally:
        _shared.reset(token)


def warn_of_versions(where: str, stored: Iterable[dict], current: dict, stacklevel: int) -> None:
    """Warn once where the git revision or the version of a package differs from those that a folder recorded.

    Args:
        where: The file or folder, for the message.
        stored: What the folder recorded, each a dictionary with the entries `versions` and `git_revision`.
        current: The entries of this call.
        stacklevel: The number of calls from here to the user's.

    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_of_versions("folder runs/a", [{"versions": {"jax": "0.9"}}], {"versions": {"jax": "0.10"}}, 1)
    >>> str(caught[0].message)
    "folder runs/a: jax is '0.9' on disk and '0.10' in this call; the records to come may differ from those that are there"
    """
    flat = lambda entries: {**entries.get("versions", {}), "git_revision": entries.get("git_revision")}  # noqa: E731
    where, named = _shared.get() or (where, set())
    sentences = dict.fromkeys(sentence for each in stored for sentence in differences(flat(each), flat(current)) if sentence not in named)
    if sentences:
        named.update(sentences)
        text = f"{where}: {'; '.join(sentences)}; the records to come may differ from those that are there"
        warnings.warn(text, stacklevel=stacklevel + 1)


def configuration() -> dict[str, Any]:
    """Return the settings of JAX that change numbers, by name.

    >>> configuration()["jax_default_prng_impl"]
    'threefry2x32'
    """
    return {name: getattr(jax.config, name, None) for name in CONFIGURATION}


@functools.cache
def version_of(package: str) -> str | None:
    """Return the version of a package, which may be in a distribution of another name, as sklearn is in scikit-learn.

    Args:
        package: the name under which the package is imported.

    Returns:
        The version, or None where it is not known, as for a package that runs without the metadata of an installed one.

    >>> version_of("no_such_package") is None
    True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if version := getattr(sys.modules.get(package), "__version__", None):
            return version
        names = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(names[0]) if names else None


def provenance(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return where numbers come from, as JSON: versions, git revision, backend and number of devices.

    The revision is that of the source tree of this package. It is None for an installed package, and where the package is copied
    into another repository. A version is None where a package runs without its metadata.

    Args:
        packages: The packages whose versions are added to those of `PACKAGES`.

    >>> sorted(provenance())
    ['backend', 'device_count', 'git_revision', 'versions']
    """
    versions = {name: version_of(name) for name in (*PACKAGES, *sorted({*packages} - {*PACKAGES}))}
    return {
        "versions": {**versions, "python": platform.python_version()},
        "git_revision": _revision(Path(__file__).parents[2]),
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
    }


def _revision(root: Path) -> str | None:
    """Return the git revision of the source tree of this package, or None where a folder is no such tree.

    The repository around an installed package is another project's. Its revision says nothing of this package.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if not (root / ".git").exists() or project.get("name") != "dualebm":
            return None
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
