"""Energies in `.npz` files. Arrays are stored by path, and everything else by name and fields. No file holds code."""

import dataclasses
import itertools
from typing import Any

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
from dualebm.features import Bump, Feature, ReLU, ScaledBump, Softplus
from dualebm.kernels import RBF, ArcCosine, BumpKernel, Distance, Embedding
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
        KeyError: when a name is unknown.

    >>> build(spell(Torus(1, period=2.0)))
    Torus(dimension=1, period=2.0, base=Uniform())
    """
    if isinstance(spelt, list):  # JSON has no tuples
        return tuple(build(item) for item in spelt)
    if not isinstance(spelt, dict):
        return spelt
    return _NAMED[spelt["name"]](**{name: build(item) for name, item in spelt["fields"].items()})


def _static(energy: Energy) -> dict[str, Any]:
    """Returns the fields of an energy that are no arrays, such as its feature or kernel, and the fields that are None."""
    values = {f.name: getattr(energy, f.name) for f in dataclasses.fields(energy)}
    return {f.name: values[f.name] for f in dataclasses.fields(energy) if f.metadata.get("static") or values[f.name] is None}


def save_energy(path: PathLike, energy: Energy) -> None:
    """Writes an energy to an `.npz` file.

    The file holds the arrays of the energy. For a class of `ENERGIES` it also holds the other fields, by name. It does not hold
    the callable of a `Custom` feature or the class of a user's energy, so that `load_energy` takes them as arguments.

    Args:
        path: the file to write.
        energy: the energy.

    Raises:
        OSError: when the file cannot be written.

    >>> import tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "energy.npz"
    >>> save_energy(path, Tabulated(Torus(1), jnp.array([0.0, 4.0])))
    >>> load_energy(path).values.tolist()
    [0.0, 4.0]
    """
    static = {name: spell(value) for name, value in _static(energy).items()} if type(energy).__name__ in ENERGIES else {}
    files.save(path, "energy", energy, {"energy": type(energy).__name__, "static": static})


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
    header, arrays = files.load(path, "energy")
    if any(a.dtype in (np.float64, np.int64) for n, a in arrays.items() if a.ndim) and not checks.x64_enabled():
        raise ValueError(f"{path} holds 64-bit arrays and JAX would round them: set JAX_ENABLE_X64=1")
    if like is not None:
        if type(like).__name__ != header["energy"]:
            raise ValueError(f"like is a {type(like).__name__}; {path} holds a {header['energy']}")
        return files.fill(path, like, header, arrays)
    if header["energy"] not in ENERGIES:
        raise ValueError(f"like is None; {path} holds a {header['energy']}: pass one of the same structure, like=")
    kind, static = ENERGIES[header["energy"]], dict(header["static"])
    spelt = static.get("feature")
    if feature is not None:
        if changes := differences(spelt, spell(feature), "feature"):
            raise ValueError(f"{path}: {'; '.join(changes)}")
    elif unknown := [(name, value["name"]) for name, value in static.items() if isinstance(value, dict) and value["name"] not in _NAMED]:
        name, kind_of = unknown[0]
        argument = "feature" if name == "feature" else "like"
        raise ValueError(f"{argument} is None; {path} was saved with the {name} {kind_of}, and code is not stored: give {argument}")
    fields = {name: build(value) for name, value in static.items() if feature is None or name != "feature"}
    fields |= {} if feature is None else {"feature": feature}
    for name in [f.name for f in dataclasses.fields(kind) if f.name not in fields]:
        if f"leaf.{name}" in arrays:
            fields[name] = jnp.asarray(arrays[f"leaf.{name}"])
        elif f"leaf.{name}[0]" in arrays:  # a list of arrays
            places = (f"leaf.{name}[{i}]" for i in itertools.count())
            fields[name] = [jnp.asarray(arrays[place]) for place in itertools.takewhile(arrays.__contains__, places)]
        else:
            raise ValueError(f"{path} is corrupt: it lacks leaf.{name}")
    return kind(**fields)
