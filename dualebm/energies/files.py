"""Energies in `.npz` files. Arrays are stored by path, and everything else by name and fields. No file holds code."""

import contextlib
import dataclasses
import itertools
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from dualebm._internal import checks, files
from dualebm._internal.files import PathLike
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.base_mixtures import CustomBase, MixtureBase
from dualebm.energies.base import Energy
from dualebm.energies.boltzmann import BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture
from dualebm.energies.networks import Convolutional, Perceptron
from dualebm.energies.shallow import Shallow
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump, Feature, FeatureMap, ReLU, Ridge, ScaledBump, Softplus
from dualebm.kernels import RBF, ArcCosine, BumpKernel, Distance, Embedding
from dualebm.settings import checked
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.fingerprint import differences

ENERGIES = {
    kind.__name__: kind
    for kind in (Shallow, Embedding, Perceptron, Convolutional, GaussianMixture, BoltzmannMachine, Tabulated)
}
"""The classes of energies that a file alone restores, by name."""

_NAMED = {
    kind.__name__: kind
    for kind in (
        ReLU, Softplus, Bump, ScaledBump, Sphere, Euclidean, Torus, Uniform, Gaussian, Flat, Normal, VonMisesFisher,
        KernelBase, MixtureBase, ArcCosine, RBF, BumpKernel, Distance,
    )
}  # fmt: skip


def spell(value: Any) -> Any:
    """Returns a feature, a kernel, a space or a base measure as JSON, by name and fields. Callables are left out.

    Args:
        value: the value, or a tuple of such values.

    Returns:
        Dictionaries, lists, numbers and text.

    Raises:
        ValueError: when the value holds a `CustomBase`, whose functions define the model.

    >>> spell(Euclidean(2))
    {'name': 'Euclidean', 'fields': {'dimension': 2, 'base': {'name': 'Gaussian', 'fields': {'scale': 1.0}}}}
    """
    if isinstance(value, tuple):
        return [spell(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {"name": getattr(value, "__name__", type(value).__name__), "fields": {}} if callable(value) else value
    if isinstance(value, CustomBase):
        raise ValueError("base is a CustomBase, whose functions are code; no code is stored in files")
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    spelt = {name: spell(item) for name, item in fields.items()}
    return {"name": type(value).__name__, "fields": {name: item for name, item in spelt.items() if not callable(item)}}


def build(spelt: Any) -> Any:
    """Inverts `spell`.

    Args:
        spelt: what `spell` has returned.

    Returns:
        The feature, kernel, space or base measure, or a tuple of such.

    Raises:
        ValueError: when a name is unknown, a field is missing or superfluous, or a value is not allowed.

    >>> build(spell(Torus(1, period=2.0)))
    Torus(dimension=1, period=2.0, base=Uniform())
    >>> build({"name": "Klein", "fields": {}})
    Traceback (most recent call last):
    ...
    ValueError: 'Klein' is the name of no feature, kernel, space or base measure
    """
    if isinstance(spelt, list):  # JSON has no tuples
        return tuple(build(item) for item in spelt)
    if not isinstance(spelt, dict):
        return spelt
    name, given = spelt.get("name"), spelt.get("fields")
    if not isinstance(name, str) or name not in _NAMED:
        raise ValueError(f"{name!r} is the name of no feature, kernel, space or base measure")
    wanted = {field.name for field in dataclasses.fields(_NAMED[name])}
    if not isinstance(given, dict) or given.keys() != wanted:
        stored = ", ".join(sorted(given)) if isinstance(given, dict) else repr(given)
        raise ValueError(f"the fields of {name} are {stored or 'none'}; they must be {', '.join(sorted(wanted)) or 'none'}")
    try:
        return _NAMED[name](**{field: build(item) for field, item in given.items()})
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a value of a type that no field has
        raise ValueError(f"{name} has a value that is not allowed ({error})") from error


def _static(energy: Energy) -> dict[str, Any]:
    """Returns the fields of an energy that are no arrays, such as its feature or kernel, and the fields that are None."""
    values = {f.name: getattr(energy, f.name) for f in dataclasses.fields(energy)}
    return {f.name: values[f.name] for f in dataclasses.fields(energy) if f.metadata.get("static") or values[f.name] is None}


@checked
def save_energy(path: PathLike, energy: Energy) -> None:
    """Writes an energy to an `.npz` file.

    The file holds the arrays of the energy. For a class of `ENERGIES` it also holds the other fields, by name. It does not hold
    the callable of a `Custom` feature or the class of a user's energy, so that `load_energy` takes them as arguments.

    Args:
        path: the file to write.
        energy: the energy.

    Raises:
        ValueError: when `energy` is no energy, or has an array that is not finite or does not fit the others.
        OSError: when the file cannot be written.

    >>> import tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "energy.npz"
    >>> save_energy(path, Tabulated(Torus(1), jnp.array([0.0, 4.0])))
    >>> load_energy(path).values.tolist()
    [0.0, 4.0]
    >>> save_energy(path, Tabulated(Torus(1), jnp.array([0.0, jnp.nan])))
    Traceback (most recent call last):
    ...
    ValueError: energy is a Tabulated that no file holds: values has NaN or infinite values
    """
    if not isinstance(energy, Energy):
        raise ValueError(f"energy is {energy!r}; it must be an Energy")
    try:
        check_energy(energy)
    except ValueError as error:
        raise ValueError(f"energy is a {type(energy).__name__} that no file holds: {error}") from error
    static = {name: spell(value) for name, value in _static(energy).items()} if type(energy).__name__ in ENERGIES else {}
    files.save(path, "energy", energy, {"energy": type(energy).__name__, "static": static})


@checked
def load_energy(path: PathLike, feature: Feature | None = None, *, like: Energy | None = None) -> Energy:
    """Reads an energy from a file that `save_energy` wrote.

    Args:
        path: the path of the file.
        feature: the feature, needed for `Custom`, whose callable is not stored. Any other must equal the stored one.
        like: for a class outside `ENERGIES`, an energy of the same structure, shapes and dtypes. Its arrays are replaced.

    Returns:
        The energy.

    Raises:
        ValueError: when the file is damaged or of another format version, when a feature or structure differs, or when the
            file holds 64-bit arrays and x64 is off.

    >>> import tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "energy.npz"
    >>> save_energy(path, Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])))
    >>> load_energy(path).feature, load_energy(path).coefficients.tolist()
    (ReLU(power=1, bias=False), [-4.0, 2.0])
    """
    path = Path(path)
    header, arrays = files.load(path, "energy")
    if any(a.dtype in (np.float64, np.int64) for n, a in arrays.items() if a.ndim) and not checks.x64_enabled():
        raise ValueError(f"{path} holds 64-bit arrays and JAX would round them: set JAX_ENABLE_X64=1")
    name, static = header.get("energy"), header.get("static")
    if not isinstance(name, str) or not isinstance(static, dict):
        raise ValueError(f"{path} is corrupt: energy is {name!r:.100} and static is {static!r:.100}; they must be a name and an object")
    if like is not None:
        if not isinstance(like, Energy):
            raise ValueError(f"like is {like!r}; it must be an Energy")
        if type(like).__name__ != name:
            raise ValueError(f"like is a {type(like).__name__}; {path} holds a {name}")
        filled = files.fill(path, like, header, arrays)
        with _corrupt(path):
            check_energy(filled)
        return filled
    if name not in ENERGIES:
        raise ValueError(f"like is None; {path} holds a {name}: pass one of the same structure, like=")
    if feature is None:
        names = {field: value["name"] for field, value in static.items() if isinstance(value, dict) and isinstance(value.get("name"), str)}
        for field in [field for field, kind in names.items() if kind not in _NAMED]:
            argument = "feature" if field == "feature" else "like"
            stored = f"{path} was saved with the {field} {names[field]}, and code is not stored"
            raise ValueError(f"{argument} is None; {stored}: give {argument}")
    elif changes := differences(static.get("feature"), spell(feature), "feature"):
        raise ValueError(f"{path}: {'; '.join(changes)}")
    with _corrupt(path):
        return _energy(ENERGIES[name], static, arrays, feature)


@contextlib.contextmanager
def _corrupt(path: Path) -> Iterator[None]:
    """Turns an error of what a file holds into one that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is corrupt ({' '.join(str(error).split())[:300]})") from error


def _energy(kind: type[Energy], static: dict[str, Any], arrays: dict[str, np.ndarray], feature: Feature | None) -> Energy:
    """Returns the energy of a class of `ENERGIES` with the values of a file. Raises ValueError for values that are not allowed."""
    fields = {name: build(value) for name, value in static.items() if feature is None or name != "feature"}
    fields |= {} if feature is None else {"feature": feature}
    rest = dict(arrays)
    for name in [field.name for field in dataclasses.fields(kind) if field.name not in fields]:
        if f"leaf.{name}" in rest:
            fields[name] = jnp.asarray(rest.pop(f"leaf.{name}"))
        elif f"leaf.{name}[0]" in rest:  # a list of arrays
            places = (f"leaf.{name}[{i}]" for i in itertools.count())
            fields[name] = [jnp.asarray(rest.pop(place)) for place in itertools.takewhile(rest.__contains__, places)]
        else:
            raise ValueError(f"it lacks leaf.{name}")
    unknown = [*rest, *(name for name in fields if name not in {field.name for field in dataclasses.fields(kind)})]
    if unknown:
        raise ValueError(f"a {kind.__name__} has no {unknown[0]}")
    energy = kind(**fields)
    check_energy(energy)
    return energy


def check_energy(energy: Energy) -> None:
    """Checks the values of an energy on the host.

    The arrays of an energy of a class of `ENERGIES` must be finite, of one dtype, float32 or float64, and of shapes that fit each other and
    the dimension of the points. No array of another class may hold NaN.

    Args:
        energy: the energy.

    Raises:
        ValueError: a value is not allowed. The message names the field.

    >>> check_energy(Shallow(ReLU(), jnp.eye(2), jnp.array([1.0, jnp.inf])))
    Traceback (most recent call last):
    ...
    ValueError: coefficients has NaN or infinite values
    """
    kind = type(energy)
    if kind in ENERGIES.values():
        hints, lengths = get_type_hints(kind), {}
        for field in dataclasses.fields(kind):
            _check_field(field.name, getattr(energy, field.name), hints[field.name], lengths)
    arrays = {name.removeprefix("leaf."): np.asarray(a) for name, a in files.leaves(energy).items() if not files.is_key(a)}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not (np.isfinite(array) if kind in ENERGIES.values() else ~np.isnan(array)).all():
            raise ValueError(f"{name} has NaN or infinite values")
    if kind not in ENERGIES.values():
        return
    dtypes = sorted({str(array.dtype) for array in arrays.values()})
    if dtypes not in (["float32"], ["float64"]):
        raise ValueError(f"its arrays have the dtypes {', '.join(dtypes)}; all must be float32 or all float64")
    dimension = _dimension(energy)
    if dimension is not None:
        made = jax.eval_shape(lambda energy, x: energy(x), energy, jax.ShapeDtypeStruct((2, dimension), np.dtype(dtypes[0])))
        if made.shape != (2,):
            raise ValueError(f"its arrays give energies of shape {made.shape} at 2 points")


def _check_field(name: str, value: Any, hint: Any, lengths: dict[str, int]) -> None:
    """Raises ValueError unless a value is of a type, such as `Float[Array, "m p"]`. `lengths` gets the lengths of axes by name."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and type(None) in arguments:
        if value is None:
            return
        hint, origin = arguments[0], None
    if hasattr(hint, "dim_str"):
        _check_array(name, value, hint.dim_str.split(), lengths)
    elif origin is Literal:
        checks.choice(name, value, arguments)
    elif origin in (list, tuple):
        if not isinstance(value, origin) or not value:
            raise ValueError(f"{name} is {value!r}; it must be a {origin.__name__} that is not empty")
        for i, each in enumerate(value):
            _check_field(f"{name}[{i}]", each, arguments[0], lengths)
    elif hint is int:
        checks.count(name, value, 0)
    elif hint is not Any and not isinstance(value, FeatureMap if hint == Feature else hint):
        raise ValueError(f"{name} is {value!r}; it must be a {getattr(hint, '__name__', hint)}")


def _check_array(name: str, value: Any, axes: list[str], lengths: dict[str, int]) -> None:
    """Raises ValueError unless a value is an array of floats. Its axes are names of lengths, such as m, or less by one, such as k-1."""
    shape = getattr(value, "shape", ())
    fits = hasattr(value, "dtype") and np.dtype(value.dtype).kind == "f" and len(shape) == len(axes)
    for axis, length in zip(axes, shape, strict=False):
        symbol, less, _ = axis.partition("-")
        known = lengths.setdefault(symbol, length + bool(less)) if symbol != "_" else length
        fits = fits and known == length + bool(less) and known > 0
    if not fits:
        shown = f"{value.dtype} of shape {shape}" if hasattr(value, "dtype") else repr(value)
        lengths_known = f" with {', '.join(f'{n} = {length}' for n, length in lengths.items())}" if lengths else ""
        raise ValueError(f"{name} is {shown}; it must be an array of floats of shape ({', '.join(axes)}){lengths_known}")


def _dimension(energy: Energy) -> int | None:
    """Returns the dimension of the points of an energy of a class of `ENERGIES`, or None where a user's feature says it."""
    if isinstance(energy, Shallow):
        if isinstance(energy.feature, Bump | ScaledBump):
            return energy.feature.space.dimension
        return energy.positions.shape[1] - energy.feature.bias if isinstance(energy.feature, Ridge) else None
    if isinstance(energy, Embedding):
        return energy.points.shape[1]
    if isinstance(energy, Perceptron):
        return energy.weights[0].shape[0]
    if isinstance(energy, Convolutional):
        return math.prod(energy.shape)
    if isinstance(energy, GaussianMixture):
        return energy.means.shape[1]
    if isinstance(energy, BoltzmannMachine):
        return energy.weights.shape[1]
    return energy.space.dimension if isinstance(energy, Tabulated) else None
