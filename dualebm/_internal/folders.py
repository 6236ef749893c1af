"""Folders that this process holds, and the way to the files within them, which follows no link.

A held folder is locked. What is written within it goes by way of the descriptor of the lock, and so never into another folder that has
taken its path. Names of temporary files cannot be guessed, and their pattern is that of no other program.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Collection, Iterator
from io import BufferedReader
from pathlib import Path

if sys.platform == "win32":
    raise ImportError("dualebm runs on Linux and macOS; on Windows install it in WSL, the Windows Subsystem for Linux")

import fcntl

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

TEMPORARY = re.compile(r"\.dualebm-[0-9a-f]{16}\.tmp")
"""The names of temporary files. A process that is killed may leave one, which the next holder of the folder removes."""

LINK = "{} is a symbolic link, and links within a folder of runs are not followed; put the files themselves there"

_held: dict[Path, int] = {}
"""The descriptors of the folders that this process holds, by their absolute paths. A process has its locks as a whole."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into one of the same kind that names the path.

    >>> with writing(Path("a.npz")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    OSError: [Errno 28] cannot write a.npz: No space left on device
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def flush(descriptor: int) -> None:
    """Flushes a file or a folder to the disk. Of a folder these are the names in it."""
    os.fsync(descriptor)


def temporary_name() -> str:
    """Returns a new name of a temporary file.

    >>> TEMPORARY.fullmatch(temporary_name()) is not None
    True
    """
    return f".dualebm-{secrets.token_hex(8)}.tmp"


def create(name: str, folder: int) -> int:
    """Creates a file and returns its descriptor, open for writing. A link of this name is not followed.

    Args:
        name: the name of the file, which must be new.
        folder: the descriptor of its folder.
    """
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)


@contextlib.contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
    """Create the folder where it is missing, and keep other processes from writing to it within the block.

    The lock is an advisory lock of the operating system on the folder itself. It leaves no file, and it ends with the process, however
    the process ends. Temporary files that a killed process has left in the folder are removed. Where the block ends with an error, folders
    that were made here and are still empty are removed.

    Args:
        folder: the folder.

    Raises:
        OSError: the folder cannot be made or written to, another process holds it, or its file system has no locks.

    >>> import tempfile
    >>> with hold(Path(tempfile.mkdtemp()) / "runs" / "a"):
    ...     pass
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        make(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
        with entered(folder) as inside:
            descriptor = os.open(".", _FOLDER, dir_fd=inside)  # a lock belongs to the opening, not to the folder
    try:
        _lock(descriptor, folder)
        _held[folder.absolute()] = descriptor
        try:
            remove_temporary(folder)  # and so it is still the folder of this path
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # a folder that is not empty, or is another one by now, stays
                _check(descriptor, folder)
                for path in missing:
                    remove_empty(path)
            raise
        finally:
            del _held[folder.absolute()]
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    """Lock an open folder. Raise OSError, which names it, where that fails."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, f"folder {folder} is in use: another run writes to it") from error
    except OSError as error:  # ENOLCK, EOPNOTSUPP and others, by file system
        raise OSError(
            error.errno,
            f"folder {folder} cannot be locked ({error.strerror}), and without a lock two runs could write to it at once; give a folder "
            "on a local disk, or have the file system mounted with locks (NFS: with its lock service, or with the option local_lock=flock)",
        ) from error


def _check(descriptor: int, folder: Path) -> None:
    """Raise OSError unless the path of a held folder still leads to it."""
    mine = os.fstat(descriptor)
    try:
        there = folder.stat()
    except OSError:
        there = None
    if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        raise OSError(
            errno.ESTALE, f"folder {folder} was removed, moved or replaced while this run wrote to it; this run ends, and what lies there "
            "now is not its work",
        )  # fmt: skip


@contextlib.contextmanager
def entered(folder: Path) -> Iterator[int]:
    """Give the descriptor of a folder. Within a folder that this process holds no link is followed.

    Raises:
        OSError: there is no such folder, a link is in its place, or the held folder was replaced by another.
    """
    path = folder.absolute()
    above = next((place for place in (path, *path.parents) if place in _held), None)
    if above is None:
        descriptor = os.open(path, _FOLDER)
    else:
        _check(_held[above], above)
        descriptor = os.open(".", _FOLDER, dir_fd=_held[above])
    try:
        for name in () if above is None else path.relative_to(above).parts:
            outer = descriptor
            try:
                descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            except NotADirectoryError as error:
                raise _no_link(path, error) from error
            os.close(outer)
        yield descriptor
    finally:
        os.close(descriptor)


def _no_link(path: Path, error: OSError) -> OSError:
    """Return the error of a path on which something is no folder."""
    link = next((place for place in (path, *path.parents) if place.is_symlink()), None)
    return error if link is None else OSError(errno.ELOOP, LINK.format(link))


def refuse_link(path: Path) -> None:
    """Raise OSError where a path within a folder of runs is a link.

    >>> refuse_link(Path(__file__))
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, LINK.format(path))


def make(folder: Path) -> None:
    """Create a folder, and the folders above it, where they are missing. They outlast a power cut.

    Raises:
        OSError: a folder cannot be made, or a file is in its place.
    """
    if folder.is_dir():
        return
    if not folder.parent.exists():
        make(folder.parent)
    with entered(folder.parent) as parent:
        try:
            os.mkdir(folder.name, dir_fd=parent)
        except FileExistsError:
            if not folder.is_dir():
                raise
        flush(parent)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file of a folder of runs for its bytes. A link is not followed, and a pipe is not waited for.

    Raises:
        OSError: there is no such file, it is a link, or it cannot be opened.
        ValueError: it is no file of bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, LINK.format(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no file of bytes")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """Return the content of a file of a folder of runs. A link is not followed.

    Raises:
        OSError: there is no such file, it is a link, or it cannot be opened.
        ValueError: it is no file of bytes.
    """
    with opened(path) as file:
        return file.read()


def names(folder: Path) -> list[str]:
    """Return the names in a folder in their order, or none where it is missing. A link is not followed in a folder that is held."""
    if not os.path.lexists(folder):
        return []
    with entered(folder) as descriptor:
        return sorted(os.listdir(descriptor))  # noqa: PTH208


def remove(folder: Path, pattern: re.Pattern[str], but: Collection[str | None] = ()) -> None:
    """Remove the files of a folder whose whole names match a pattern.

    Args:
        folder: the folder.
        pattern: the pattern.
        but: the names of files that stay.

    Raises:
        OSError: when a file cannot be removed.
    """
    with writing(folder), entered(folder) as descriptor:
        for name in os.listdir(descriptor):  # noqa: PTH208
            if pattern.fullmatch(name) and name not in but:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that a killed process has left in a folder."""
    remove(folder, TEMPORARY)


def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing, or do nothing where it is missing. A link is not followed.

    Raises:
        OSError: when it cannot be removed.
    """
    with writing(folder), contextlib.suppress(FileNotFoundError), entered(folder.parent) as parent:
        os.rmdir(folder.name, dir_fd=parent)
