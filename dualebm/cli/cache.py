"""The compilation cache of the command line: the programs that XLA has compiled, kept in the user's cache folder from run to run.

An entry holds machine code, which JAX loads and runs. So the folder is used only where nobody else can write to it, and each entry
is compared with its SHA-256 before a command starts. An entry is dropped where it differs, is incomplete, or has no digest yet, as a
killed command leaves it. JAX compiles its program again.

JAX can bound its cache too, by `jax_compilation_cache_max_size`. It then reads a file for each entry at every write, and stops writing
for good when a process is killed between the two files of an entry. So the bounds are kept here, when a command starts and ends.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

BYTES = 2**28
"""The largest size of all entries in bytes."""

ENTRIES = 2000
"""The largest number of entries. To check as many takes about a tenth of a second."""

SECONDS = 0.02
"""The least time in seconds that a program takes to compile for which it is kept."""

DIGESTS = "digests.json"


@contextlib.contextmanager
def compilation_cache(enabled: bool) -> Iterator[None]:
    """Let JAX load and store compiled programs in the user's cache folder, while the context is open.

    Nothing is done where `enabled` is False, on other systems than Linux, and where a compilation cache of JAX is set, as by
    `JAX_COMPILATION_CACHE_DIR`. Where the folder cannot be used, standard error has one line that says why.

    >>> with compilation_cache(enabled=False):
    ...     pass
    """
    folder = _begin() if enabled and sys.platform == "linux" and not os.environ.get("JAX_COMPILATION_CACHE_DIR") else None
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        import jax

        if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
            errors = stack.enter_context(_errors())
            stack.callback(_end, folder, errors)
            stack.enter_context(_silent_loader())
            stack.enter_context(_settings(folder))
        yield


@contextlib.contextmanager
def _settings(folder: Path) -> Iterator[None]:
    """Set the cache of JAX, and set it back."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache as of_jax

    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": SECONDS,
        "jax_persistent_cache_enable_xla_caches": "none",  # their files would be neither bounded nor checked
    }
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        of_jax.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        of_jax.reset_cache()


@contextlib.contextmanager
def _silent_loader() -> Iterator[None]:
    """Let the compiler write no lines to standard error, unless `JAX_LOGGING_LEVEL` says what it shall write.

    Its loader writes long ones for each program, where nothing is wrong (https://github.com/jax-ml/jax/issues/38445).
    """
    import jax

    if jax.config.values["jax_logging_level"] != "NOTSET":
        yield
        return
    loggers = [logging.getLogger(name) for name in ("jax", "jaxlib")]
    levels = [logger.level for logger in loggers]
    jax.config.update("jax_logging_level", "CRITICAL")
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)  # the messages of Python stay, such as the one that a GPU is not used
    try:
        yield
    finally:
        # NOTSET leaves the level of the compiler as it is. JAX has put its level into the environment.
        before = ("INFO", "WARNING", "ERROR", "CRITICAL")[min(int(os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")), 3)]
        jax.config.update("jax_logging_level", before)
        jax.config.update("jax_logging_level", "NOTSET")
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    """Give the list of the errors of the cache. JAX makes them warnings, goes on, and compiles the program."""
    errors: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message="Error (reading|writing) persistent compilation cache")
        others = warnings.showwarning

        def show(message, *arguments, **options):
            if "persistent compilation cache" in str(message):
                errors.append(str(message))
            else:
                others(message, *arguments, **options)

        warnings.showwarning = show
        yield errors


# -- The folder ------------------------------------------------------------------------------------


def _begin() -> Path | None:
    """Return the folder of this kind of machine with checked entries, or None where it cannot be used."""
    parent = user_cache_path("dualebm")
    try:
        folder = parent / f"programs-{_machine()}"
        parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (parent, folder):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _check_private(path)
        digests = _digests(folder)
        kept = {path.name: digests[path.name] for path in _entries(folder) if digests.get(path.name) == _digest(path)}
        for path in _entries(folder):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        _write(folder, kept)
    except OSError as error:
        _note(f"in {parent} is not used: {error}")
        return None
    return folder


def _end(folder: Path, errors: list[str]) -> None:
    """Write the digests of new entries and drop the entries that are unused for the longest time, beyond the bounds.

    After an error no entry keeps its digest, so that the next command starts with none.
    """
    try:
        if errors:
            _write(folder, {})
            _note(f"in {folder} failed: {' '.join(errors[0].split())}")
            return
        digests, size = _digests(folder), 0
        entries = sorted(((max(path.stat().st_atime, path.stat().st_mtime), path) for path in _entries(folder)), reverse=True)
        kept = {}
        for index, (_, path) in enumerate(entries):
            size += path.stat().st_size
            if index < ENTRIES and size <= BYTES:
                kept[path.name] = digests.get(path.name) or _digest(path)
            else:
                path.unlink(missing_ok=True)
        _write(folder, kept)
    except OSError as error:
        _note(f"in {folder} failed: {error}")


def _machine() -> str:
    """Return a name of the kind of processor. Machine code for one kind may crash another, and homes may be shared."""
    fields = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant", "isa")
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    lines = [line for line in lines if line.partition(":")[0].strip() in fields]
    return hashlib.sha256("\n".join([platform.machine(), *lines]).encode()).hexdigest()[:16]


def _check_private(path: Path) -> None:
    """Raise OSError unless a path is a folder of this user to which nobody else can write, and no link to one."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(f"{path} is no folder, or is a link")
    if status.st_uid != os.getuid():
        raise OSError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"other users can write to {path}; chmod 700 {path}")


def _entries(folder: Path) -> list[Path]:
    return list(folder.glob("*-cache"))


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file. The reading does not count as a use of the entry."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Return the digests by the name of the entry. Without a readable file there are none."""
    try:
        digests = json.loads((folder / DIGESTS).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _write(folder: Path, digests: dict[str, str]) -> None:
    part = folder / f"{DIGESTS}.{os.getpid()}"
    part.write_text(json.dumps(digests))
    part.replace(folder / DIGESTS)


def _note(reason: str) -> None:
    print(f"note: the compilation cache {reason}", file=sys.stderr)
