"""Checks of arguments on the host. Each error names the argument, its value and the allowed values."""

import difflib
import importlib
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from dualebm.geometry import Space
from dualebm.measures import Samples

ON_SPACE = 1e-3
"""The largest allowed distance of data from their space. Float32 data read from a text file are within 1e-6."""

LARGEST_SEED = 2**32 - 1

LARGEST_COUNT = 2**31 - 1
"""The largest count: JAX counts by integers of 32 bits."""


def package(name: str, what: str, install: str) -> None:
    """Raises ImportError unless an optional package can be imported.

    Args:
        name: the name under which the package is imported.
        what: what needs the package, in the error.
        install: what `pip install` takes, in the error.

    Raises:
        ImportError: when the package is missing, or cannot be imported.

    >>> package("no_such_package", "a film", "no-such-package")
    Traceback (most recent call last):
    ...
    ImportError: a film needs the package no_such_package (No module named 'no_such_package'): pip install no-such-package
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{what} needs the package {name} ({error}): pip install {install}") from error


def choice(name: str, value, allowed: Iterable) -> None:
    """Raises ValueError unless a value is one of the allowed words. The error names the nearest of them.

    Args:
        name: the name of the argument in the error.
        value: the value to check.
        allowed: the allowed values.

    Raises:
        ValueError: when the value is not allowed.

    >>> choice("signs", "rndom", ("random", "half"))
    Traceback (most recent call last):
    ...
    ValueError: signs is 'rndom'; did you mean 'random'? Allowed: 'random', 'half'
    """
    allowed = list(allowed)
    if value not in allowed:
        words = [a for a in allowed if isinstance(a, str)]
        lower = {word.lower(): word for word in reversed(words)}
        near = difflib.get_close_matches(value.lower(), lower, 1, cutoff=0.5) if isinstance(value, str) else []
        hint = f" did you mean {lower[near[0]]!r}?" if near else ""
        raise ValueError(f"{name} is {value!r:.200};{hint} Allowed: {', '.join(map(repr, allowed))}")


def count(name: str, value, smallest: int = 1, largest: float = LARGEST_COUNT) -> None:
    """Raises ValueError unless a value is an integer in the allowed range.

    Args:
        name: the name of the argument in the error.
        value: the value to check.
        smallest: the smallest allowed value.
        largest: the largest allowed value.

    Raises:
        ValueError: when the value is no integer, too small or too large.

    >>> count("neurons", 0)
    Traceback (most recent call last):
    ...
    ValueError: neurons is 0; it must be an integer of at least 1
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not smallest <= value <= largest:
        limited = largest != LARGEST_COUNT or (whole and value > largest)
        allowed = f"from {smallest} to {largest}" if limited else f"of at least {smallest}"
        raise ValueError(f"{name} is {value!r:.200}; it must be an integer {allowed}")


def seed(name: str, value) -> None:
    """Raises ValueError unless a value is a seed, an integer from 0 to 2^32 - 1.

    Without x64, `jax.random.key` keeps only the last 32 bits of a seed. So 2^32 would repeat the numbers of seed 0, and -1 those of
    2^32 - 1.

    Args:
        name: the name of the argument in the error.
        value: the value to check.

    Raises:
        ValueError: when the value is no integer in the range.

    >>> seed("seed", 2**32)
    Traceback (most recent call last):
    ...
    ValueError: seed is 4294967296; it must be an integer from 0 to 4294967295
    """
    count(name, value, 0, LARGEST_SEED)


def number(name: str, value, *, positive: bool = False, largest: float = math.inf, signed: bool = False) -> None:
    """Raises ValueError unless a value is one finite real number in the allowed range.

    Args:
        name: the name of the argument in the error.
        value: the value to check.
        positive: whether 0 is excluded, with the negative numbers.
        largest: the largest allowed value.
        signed: whether negative numbers are allowed.

    Raises:
        ValueError: when the value is no finite number in the range.

    >>> number("restart_probability", 1.5, largest=1)
    Traceback (most recent call last):
    ...
    ValueError: restart_probability is 1.5; it must be a finite number, at least 0 and at most 1
    """
    try:
        finite = not isinstance(value, bool) and np.ndim(value) == 0 and math.isfinite(value)
        allowed = finite and (signed or (value > 0 if positive else value >= 0)) and value <= largest
    except (TypeError, ValueError, OverflowError):
        allowed = False
    if not allowed:
        bound = "" if signed else ", greater than 0" if positive else ", at least 0"
        limit = f" and at most {largest:g}" if math.isfinite(largest) else ""
        shown = f"{value!r:.200}" if isinstance(value, str) else f"{value!s:.200}"
        raise ValueError(f"{name} is {shown}; it must be a finite number{bound}{limit}")


def space(name: str, value) -> None:
    """Raises ValueError unless a value is a space.

    Args:
        name: the name of the argument in the error.
        value: the value to check.

    Raises:
        ValueError: when the value is another object, a class or a word.

    >>> space("space", "sphere")
    Traceback (most recent call last):
    ...
    ValueError: space is 'sphere'; it must be a space, such as Sphere(3), Euclidean(2) or Torus(1)
    """
    if not isinstance(value, Space):
        raise ValueError(f"{name} is {value!r:.200}; it must be a space, such as Sphere(3), Euclidean(2) or Torus(1)")


def particle_step(name: str, step, space: Space) -> None:
    """Raises ValueError for a step whose noise would go half way round a sphere, although the moves would stay finite.

    Args:
        name: the name of the argument in the error.
        step: h.
        space: the space of the particles.

    Raises:
        ValueError: when the step is larger than `space.largest_particle_step`.

    >>> from dualebm.spaces import Sphere
    >>> particle_step("step", 1.0, Sphere(15))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: step is 1.0; on Sphere(...) it must be at most 0.328987: beyond it the noise sqrt(2 h d) reaches pi, ...
    """
    if step > space.largest_particle_step:
        raise ValueError(
            f"{name} is {step}; on {space} it must be at most {space.largest_particle_step:.6g}: beyond it the noise "
            "sqrt(2 h d) reaches pi, half way round the sphere"
        )


def x64_enabled() -> bool:
    """Tells whether JAX keeps float64, by `JAX_ENABLE_X64=1` or within `jax.enable_x64(True)`.

    >>> with jax.enable_x64(True):
    ...     x64_enabled()
    True
    """
    return jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def precision(dtype) -> np.dtype:
    """Returns `dtype` as a NumPy dtype.

    Raises:
        ValueError: when it is not float32 or float64, or when it is float64 and x64 is off.

    >>> precision(jnp.float32).name
    'float32'
    """
    try:
        result = np.dtype(dtype)
    except TypeError:
        result = None
    if result is None or result not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; it must be float32 or float64")
    if result == np.float64 and not x64_enabled():
        raise ValueError("dtype is float64 and JAX would round it to float32: set JAX_ENABLE_X64=1, or pass float32")
    return result


def points(name: str, x, space: Space) -> None:
    """Raises ValueError unless an array holds at least one point and all its rows are finite points of the space.

    Args:
        name: the name of the argument in the error.
        x: an array, (n, d), of float32, or of float64 with x64 on.
        space: the space of the points.

    Raises:
        ValueError: when x is no such array, is empty, or has a row that is not finite, is outside the space, or has density 0 under a
            `CustomBase`.

    >>> from dualebm.spaces import Sphere
    >>> points("data", np.ones((4, 3), np.float32), Sphere(3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: data has rows off the unit sphere (row 0 has norm 1.73205); normalise them: x / np.linalg.norm(x, ...
    """
    if not isinstance(x, (np.ndarray, jax.Array)):
        raise ValueError(f"{name} is a {type(x).__name__}; it must be an array, np.asarray(x, 'float32')")
    if np.ndim(x) != 2:
        raise ValueError(f"{name} has shape {np.shape(x)}; it must be (count, {space.dimension})")
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} has dtype {x.dtype}; it must be float32 or float64")
    if x.dtype == np.float64 and not x64_enabled():
        raise ValueError(
            f"{name} has dtype float64 and JAX would round it to float32: "
            'set JAX_ENABLE_X64=1, or pass astype("float32")'
        )
    if x.shape[0] < 1:
        raise ValueError(f"{name} is empty, shape {x.shape}; it must hold at least one point")
    if x.shape[1] != space.dimension:
        raise ValueError(f"{name} has {x.shape[1]} components; it must have {space.dimension}, as {space}")
    finite = np.isfinite(np.asarray(x)).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{name} has NaN or infinite values (row {row} is {np.asarray(x)[row]}); they must be finite")
    distance = np.asarray(space.distance_from(jnp.asarray(x)))
    if distance.max() > ON_SPACE:
        row = int(np.argmax(distance > ON_SPACE))
        raise ValueError(f"{name} has {space.misplaced(row, np.asarray(x)[row])}")
    if not space.base.positive:
        known = np.isfinite(np.asarray(space.log_base(jnp.asarray(x))))
        if not known.all():
            row = int(np.argmin(known))
            raise ValueError(f"{name} has rows at which the density of the base is 0 or not finite (row {row} is {np.asarray(x)[row]})")


def samples(name: str, data: Samples, space: Space) -> None:
    """Raises ValueError unless an argument holds `Samples` of the space.

    Args:
        name: the name of the argument in the error.
        data: points that pass the check `points`. Log weights, (n,), of their dtype may be -inf, but not all of them.
        space: the space of the points.

    Raises:
        ValueError: when the points or the log weights are not allowed.

    >>> from dualebm.spaces import Sphere
    >>> samples("data", Samples(np.ones((1, 1), np.float32), np.zeros(2, np.float32)), Sphere(2))
    Traceback (most recent call last):
    ...
    ValueError: data.points has 1 components; it must have 2, as Sphere(dimension=2, base=Uniform())
    """
    if not isinstance(data, Samples):
        raise ValueError(f"{name} is a {type(data).__name__}; it must be Samples(points)")
    points(f"{name}.points", data.points, space)
    if data.log_weights is not None:
        weights = np.asarray(data.log_weights)
        if weights.dtype != data.points.dtype:
            raise ValueError(f"{name}.log_weights has dtype {weights.dtype}; it must be that of the points, {data.points.dtype}")
        if weights.shape != data.points.shape[:1]:
            raise ValueError(f"{name}.log_weights has shape {weights.shape}; it must be {data.points.shape[:1]}")
        if np.isnan(weights).any() or np.isposinf(weights).any() or np.isneginf(weights).all():
            raise ValueError(f"{name}.log_weights has NaN or +inf or no finite value; they must be finite or -inf")
