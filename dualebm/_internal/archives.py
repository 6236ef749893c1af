"""`.npz` archives of arrays that nobody vouches for. To read one takes no more memory than its file has bytes."""

import io
import math
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from dualebm._internal import folders

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SUFFIX = ".npy"


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an archive by name.

    Archives are those that `numpy.savez` writes: they are not compressed. So an archive that would grow as it is read is refused.

    Args:
        path: the path of the file. A link is not followed.

    Returns:
        The arrays, of booleans, numbers or text.

    Raises:
        ValueError: the file is damaged, or is not such an archive.
        OSError: the file is missing, is a link, or cannot be opened.

    >>> import tempfile; path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(path, x=np.arange(3)); read(path)["x"].tolist()
    [0, 1, 2]
    >>> np.savez_compressed(path, x=np.arange(3)); read(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...a.npz is truncated or corrupt (its member 'x.npy' is compressed)
    """
    with folders.opened(path) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, size)
        except Exception as error:  # zipfile and NumPy raise almost anything on damaged bytes
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{path} is truncated or corrupt ({kind}{' '.join(str(error).split())[:200]})") from error


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """Return the arrays of an open archive of so many bytes. Raises ValueError for one that is not allowed."""
    members = archive.infolist()
    name, count = Counter(member.filename for member in members).most_common(1)[0] if members else ("", 1)
    if count > 1:
        raise ValueError(f"it has {count} members {name!r}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its member {member.filename!r} is compressed")
        if not member.filename.endswith(_SUFFIX):
            raise ValueError(f"its member {member.filename!r} is no array")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members have more bytes than the file")
    return {member.filename.removesuffix(_SUFFIX): _array(archive.read(member)) for member in members}


def _array(content: bytes) -> np.ndarray:
    """Return the array of the bytes of a `.npy` file. Memory is taken after its size is known to be that of the bytes."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array has the format {version}")
    shape, by_columns, dtype = _HEADERS[version](file)
    if dtype.kind not in "biufU" or not dtype.isnative:
        raise ValueError(f"an array has the dtype {dtype}")
    start = file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} has {len(content) - start} bytes")
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if by_columns else "C").copy()
