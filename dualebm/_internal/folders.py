"""The way to the files of a folder, which follows no link."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

LINK = "{} is a symbolic link, and links within a folder of runs are not followed; put the files themselves there"


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
