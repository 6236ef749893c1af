"""Labelled grey images from idx files (as MNIST has them) and scikit-learn's digits, and their rows in [-1, 1]; nothing is unpickled."""

import gzip
import math
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from dualebm._internal import checks

SETS = ("train", "t10k")
"""The sets of images that `find_idx` looks for: their names as MNIST has them."""

DENOMINATOR = 1000
"""The largest denominator that `chosen` gives a mass."""

OUT_OF_RANGE = 1e-6
"""How far rounding may take a value out of [-1, 1]."""

_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_MOST_DIMENSIONS = 64  # of a NumPy array


def read_idx(path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, plain or gzip (whatever its suffix): uint8, of the shape in its header.

    Raises FileNotFoundError, and ValueError naming the file for gzip that is damaged, another magic number, another type
    of data, sizes of zero, and data that are shorter or longer than the sizes say.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    >>> read_idx(path).tolist()
    [7, 9]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path is {str(path)!r}; there is no such file")
    contents = path.read_bytes()
    if contents[:2] == b"\x1f\x8b":
        try:
            contents = gzip.decompress(contents)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged gzip ({error}); it must be a whole idx file") from error
    sizes, start = _idx_header(path, contents)
    expected, found = math.prod(sizes), len(contents) - start  # Python's integers: no product of sizes overflows
    if expected == 0:
        raise ValueError(f"{path} has the sizes {sizes} and holds no images or labels; each size must be at least 1")
    if found != expected:
        wrong = "is truncated" if found < expected else "is too long"
        raise ValueError(f"{path} {wrong}: its sizes {sizes} need {expected} bytes after the header, found {found}")
    return np.frombuffer(contents, np.uint8, offset=start).reshape(sizes).copy()  # a copy can be written to


def _idx_header(path, contents):
    """The sizes in the header of an idx file, and the number of bytes of that header."""
    magic, start = contents[:4], 4
    if len(magic) == 4:
        if magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= _MOST_DIMENSIONS:
            allowed = "0x00000803 for images, 0x00000801 for labels"
            raise ValueError(f"{path} has the magic number 0x{magic.hex()}; it must be {allowed}")
        if magic[2] != 0x08:
            raise ValueError(f"{path} holds {_TYPES[magic[2]]} (type byte 0x{magic[2]:02x}); it must hold unsigned bytes (0x08)")
        start += 4 * magic[3]
    if len(contents) < start:
        raise ValueError(f"{path} is truncated in its header: it needs {start} bytes, found {len(contents)}")
    return tuple(np.frombuffer(contents, ">u4", magic[3], offset=4).tolist()), start


def load_idx(images, labels) -> tuple[UInt8[np.ndarray, "n h w"], UInt8[np.ndarray, " n"]]:
    """Images and their labels from two idx files; raises as `read_idx`, and ValueError unless their shapes are (n, h, w) and (n,).

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255]))
    >>> _ = (folder / "b").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]))
    >>> [array.tolist() for array in load_idx(folder / "a", folder / "b")]
    [[[[0, 255]]], [7]]
    """
    x, y = read_idx(images), read_idx(labels)
    for name, path, array, dimensions, shape in (("images", images, x, 3, "(n, h, w)"), ("labels", labels, y, 1, "(n,)")):
        if array.ndim != dimensions:
            raise ValueError(f"{name} is {str(path)!r}, which holds an array of shape {array.shape}; it must be {shape}")
    if len(x) != len(y):
        raise ValueError(f"{images} holds {len(x)} images and {labels} holds {len(y)} labels; there must be one label per image")
    return x, y


def find_idx(folder) -> list[tuple[Path, Path]]:
    """The pairs (images, labels) of idx files in a folder, `train` before `t10k`, for `load_idx`; a plain file goes before its gzip.

    Raises FileNotFoundError, and ValueError naming the folder where it holds no pair or half of one.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"):
    ...     (folder / name).touch()
    >>> [[path.name for path in pair] for pair in find_idx(folder)]
    [['t10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte']]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder is {str(folder)!r}; there is no such folder")
    pairs = []
    for name in SETS:
        stems = f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte"
        images, labels = (next((p for p in (folder / s, folder / f"{s}.gz") if p.is_file()), None) for s in stems)
        if images and labels:
            pairs.append((images, labels))
        elif images or labels:
            present, missing = stems if images else stems[::-1]
            raise ValueError(f"{folder} holds {present} and no {missing}; it must hold both, plain or .gz")
    if not pairs:
        raise ValueError(
            f"{folder} holds no idx files; it must hold {SETS[0]}-images-idx3-ubyte and {SETS[0]}-labels-idx1-ubyte, "
            f"or those of {SETS[1]}, plain or .gz"
        )
    return pairs


def digits() -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """The 1797 digits that come with scikit-learn, 8 x 8 with values from 0 to 16, and their labels; ImportError without it."""
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn ({error}): pip install scikit-learn") from error
    stored: Any = load_digits()
    return stored.images, stored.target


def to_unit(images, highest: float) -> Float32[np.ndarray, "n d"]:
    """Images (n, h, w) as rows of d = h w values in [-1, 1]: 2 x / highest - 1.

    highest: of the values that an image can have, 255 for bytes, 16 for `digits`. Raises ValueError for another shape,
    values that are no real numbers, NaN, and values outside [0, highest].

    >>> to_unit(np.array([[[0, 51], [204, 255]]], np.uint8), 255).tolist()
    [[-1.0, -0.6000000238418579, 0.6000000238418579, 1.0]]
    """
    checks.number("highest", highest, positive=True)
    x = np.asarray(images)
    if x.dtype.kind not in "uif":
        raise ValueError(f"images has dtype {x.dtype}; it must be of integers or floating")
    if x.ndim != 3 or x.size == 0:
        raise ValueError(f"images has shape {x.shape}; it must be (n, h, w), each at least 1")
    smallest, largest = x.min().item(), x.max().item()
    if math.isnan(smallest):
        raise ValueError(f"images has NaN values; they must be from 0 to {highest:g}")
    if smallest < 0 or largest > max(highest, float(np.float32(highest))):  # float32 data may hold `highest` rounded up
        raise ValueError(f"images has values from {smallest:g} to {largest:g}; they must be from 0 to {highest:g}")
    return x.reshape(len(x), -1).astype(np.float32) * 2 / np.float32(highest) - 1


def check_range(name: str, x) -> None:
    """Raises ValueError unless `x` is a floating array whose values are all finite and in [-1, 1], as `to_unit` makes them.

    >>> check_range("data", np.array([[0.0, 255.0]]))
    Traceback (most recent call last):
    ...
    ValueError: data has values from 0 to 255: images in the wrong range; they must be in [-1, 1], as images.to_unit makes them
    """
    x = np.asarray(x)
    allowed = "they must be in [-1, 1], as images.to_unit makes them"
    if x.dtype.kind != "f":
        raise ValueError(f"{name} has values of dtype {x.dtype}, not floating; {allowed}")
    if x.size == 0:
        raise ValueError(f"{name} is empty, shape {x.shape}; it must hold at least one value")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has NaN or infinite values; {allowed}")
    smallest, largest = x.min().item(), x.max().item()
    if max(-smallest, largest) > 1 + OUT_OF_RANGE:
        raise ValueError(f"{name} has values from {smallest:g} to {largest:g}: images in the wrong range; {allowed}")


def chosen(images, labels, classes: Sequence[int], masses: Sequence[float], key_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of some classes and their labels, thinned at random to the exact proportions `masses`, as many as there can be.

    images: (n, ...), labels: (n,). masses: one per class, greater than 0, of sum 1, fractions such as 4/7 of denominators
    up to `DENOMINATOR`. What is chosen keeps its order. Raises ValueError for masses that are not so, classes that are not
    there or too small, and lengths that differ.

    >>> chosen(np.arange(7.0), np.array([2, 2, 2, 2, 3, 3, 3]), (2, 3), (2 / 3, 1 / 3), key_seed=0)[1].tolist()
    [2, 2, 2, 2, 3, 3]
    """
    images, labels = _labelled(images, labels)
    checks.seed("key_seed", key_seed)
    parts = _parts(masses)
    if len(classes) != len(masses) or len(set(classes)) != len(classes):
        raise ValueError(f"classes is {classes} and masses is {masses}; there must be one mass per class, each class once")
    found = [np.flatnonzero(labels == c) for c in classes]
    for c, rows in zip(classes, found, strict=True):
        if not rows.size:
            raise ValueError(f"classes has {c}, which no label is; allowed: {np.unique(labels).tolist()}")
    times = [rows.size // part for rows, part in zip(found, parts, strict=True)]
    if min(times) == 0:
        c, rows, part = min(zip(classes, found, parts, strict=True), key=lambda each: each[1].size / each[2])
        raise ValueError(f"masses is {masses}: class {c} must have at least {part} images to be in that proportion, found {rows.size}")
    random = np.random.default_rng(key_seed)
    kept = [random.choice(rows, min(times) * part, replace=False) for rows, part in zip(found, parts, strict=True)]
    order = np.sort(np.concatenate(kept))
    return images[order], labels[order]


def _parts(masses):
    """The smallest integers in the proportions `masses`: 4, 2, 1 for 4/7, 2/7, 1/7."""
    for mass in masses:
        checks.number("masses", mass, positive=True)
    if abs(math.fsum(masses) - 1) > 1e-9:
        raise ValueError(f"masses is {masses}, of sum {math.fsum(masses):.9g}; the sum must be 1")
    fractions = [Fraction(float(mass)).limit_denominator(DENOMINATOR) for mass in masses]
    for mass, fraction in zip(masses, fractions, strict=True):
        if not fraction or abs(mass - fraction) > 1e-9:
            raise ValueError(f"masses has {mass}; it must be a fraction such as 4/7, of a denominator up to {DENOMINATOR}")
    whole = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * whole) for fraction in fractions]


def split(images, labels, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, held-out images and labels: of each class the fraction, rounded, is held out at random.

    images: (n, ...), labels: (n,). Both parts keep their order. Raises ValueError for a fraction that is not between 0 and
    1 or leaves a part empty, and for lengths that differ.

    >>> train, _, held, labels = split(np.arange(8), np.array([0, 1, 1, 1, 1, 0, 0, 0]), 0.25, seed=0)
    >>> sorted([*train.tolist(), *held.tolist()]), sorted(labels.tolist())
    ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1])
    """
    images, labels = _labelled(images, labels)
    checks.number("fraction", fraction, positive=True, largest=1)
    checks.seed("seed", seed)
    random, held = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        held[random.choice(rows, round(fraction * rows.size), replace=False)] = True
    if held.all() or not held.any():
        raise ValueError(f"fraction is {fraction}; of {len(labels)} images it holds out {held.sum()}, and no part may be empty")
    return images[~held], labels[~held], images[held], labels[held]


def _labelled(images, labels):
    """Both as arrays, with one label per image."""
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.ndim != 1 or images.shape[:1] != labels.shape or not labels.size:
        raise ValueError(f"images has shape {images.shape} and labels {labels.shape}; they must be (n, ...) and (n,), n at least 1")
    return images, labels
