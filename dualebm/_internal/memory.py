"""The memory that is free, so that what cannot fit is refused before anything is made or written."""

from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")
"""The file that says on Linux how much memory is free."""


def free() -> int | None:
    """Returns the number of bytes of memory that are free, or None where the system does not say.

    >>> free() is None or free() > 0
    True
    """
    lines = MEMORY_INFO.read_text().splitlines() if MEMORY_INFO.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def check(what: str, needed: int, advice: str) -> None:
    """Raises ValueError for what does not fit into the free memory. It checks nothing where that is not known.

    Args:
        what: what takes the memory, with its size, for the error.
        needed: the bytes that it takes at least.
        advice: what the user can change, for the error.

    Raises:
        ValueError: it does not fit.

    >>> check("count is 10^15, which", 10**16, "give a smaller one")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: count is 10^15, which takes at least 1e+07 GB of the ... GB of memory that are free; give a smaller one
    """
    known = free()
    if known is not None and needed > known:
        raise ValueError(f"{what} takes at least {needed / 1e9:.3g} GB of the {known / 1e9:.3g} GB of memory that are free; {advice}")


def check_points(name: str, count: int, dimension: int, bytes_of_number: int = 4) -> None:
    """Raises ValueError for a number of points that do not fit into the free memory.

    Args:
        name: the name of the number in the error.
        count: the number of points.
        dimension: the number of coordinates of each.
        bytes_of_number: the bytes of a coordinate.

    Raises:
        ValueError: they do not fit.

    >>> check_points("count", 1000, 3)
    """
    needed = count * dimension * bytes_of_number
    check(f"{name} is {count}, which", needed, "give a smaller number")
