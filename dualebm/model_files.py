"""Fitted models in folders.

A folder holds `energy.npz` (see `dualebm.energies.files`), `model.json`, and where the model has replicates `replicates.npz` (see
`dualebm.bootstrap`). They may lie beside the files of the run that made them. Values in `model.json` are plain JSON. It states the SHA-256
of its own content and of the other files, so that a file that was damaged or belongs to another fit is refused. No file holds code.
"""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dualebm import bootstrap
from dualebm._internal import checks, files
from dualebm.data.preparation import Preparation
from dualebm.energies.files import build, load_energy, save_energy, spell
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.estimate import METHODS, LogPartitionEstimate
from dualebm.model import Model, precision
from dualebm.settings import checked
from dualebm.spaces import Euclidean, Sphere

ENERGY, MODEL, REPLICATES = "energy.npz", "model.json", "replicates.npz"

KIND = "model"
"""The kind of file that `model.json` is."""

OPTIONAL = ("effective_sample_size", "draws", "independent", "doubt")
"""The fields of an estimate of log Z that may be None."""


@checked
def save(folder: files.PathLike, model: Model, about: dict[str, Any]) -> None:
    """Write the files of a model, `model.json` last.

    Args:
        folder: the folder.
        model: the fitted model.
        about: JSON values that go to `model.json` too, such as the data and the settings of the fit. A value named as a
            value of the model is replaced by it.

    Raises:
        ValueError: a number of the model is not finite, or its base measure is a `CustomBase`, whose functions no file holds.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    space, columns, latlon, normalise, mean, scale = model.preparation
    header = {
        "space": spell(space),
        "columns": None if columns is None else list(columns),
        "latlon": latlon,
        "normalise": normalise,
        "mean": None if mean is None else mean.tolist(),
        "scale": None if scale is None else scale.tolist(),
        "log_partition": model.log_partition._asdict(),
        "particle_step": model.particle_step,
        "replicates": 0 if model.replicates is None else len(model.replicates.bases),
        "precision": 8 * precision(model).itemsize,
    }
    _log_partition(header["log_partition"])
    save_energy(folder / ENERGY, model.energy)
    if model.replicates is not None:
        bootstrap.save(folder / REPLICATES, model.replicates, space.base)
    names = [ENERGY] if model.replicates is None else [ENERGY, REPLICATES]
    digests = {name: files.digest_of(folder / name) for name in names}
    files.write_json(folder / MODEL, KIND, {**about, **header, "files": digests})


@checked
def read(folder: files.PathLike) -> dict[str, Any]:
    """Read `model.json` of a folder.

    Args:
        folder: the folder that `save` wrote.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: the file is damaged, or is not that of a model.

    >>> read("no/such/folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: folder no/such/folder holds no fitted model (model.json); dualebm fit writes one
    """
    path = Path(folder) / MODEL
    if not path.exists():
        raise FileNotFoundError(f"folder {folder} holds no fitted model ({MODEL}); dualebm fit writes one")
    header = files.read_json(path, KIND)
    if header.get("precision") not in (32, 64) or isinstance(header["precision"], float):
        raise ValueError(f"{path} is corrupt: precision is {header.get('precision')!r}; it must be 32 or 64")
    return header


@checked
def load(folder: files.PathLike) -> Model:
    """Load the model that `save` wrote to a folder.

    A model of 64 bits needs x64: `with jax.enable_x64(read(folder)["precision"] == 64)`.

    Args:
        folder: the folder that `save` wrote.

    Returns:
        The model, with its replicates where the folder has them.

    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: a file is damaged, is of another format version, or is not that of this model.

    >>> import tempfile; from jax import numpy as jnp; from dualebm.features import ReLU
    >>> estimate = LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, Model(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), Preparation(Sphere(2)), estimate, 0.1), {})
    >>> load(folder).energy.coefficients.tolist()
    [1.0, 1.0]
    """
    folder, header = Path(folder), read(folder)
    _check_digests(folder, header)
    energy = load_energy(folder / ENERGY)
    try:
        preparation = _preparation(header)
        log_partition = _log_partition(header["log_partition"])
        checks.number("particle_step", header["particle_step"], positive=True)
        checks.count("replicates", header["replicates"], 0)
        model = Model(energy, preparation, log_partition, header["particle_step"])
        if header["precision"] != 8 * precision(model).itemsize:
            raise ValueError(f"precision is {header['precision']}, and the energy has {8 * precision(model).itemsize} bits")
        points = jax.ShapeDtypeStruct((1, preparation.space.dimension), precision(model))
        jax.eval_shape(lambda points: energy(points), points)  # an energy of points of another dimension raises
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{folder / MODEL} is corrupt ({kind}{' '.join(str(error).split())[:300]})") from error
    if not header["replicates"]:
        return model
    if not isinstance(energy, Shallow):
        raise ValueError(f"{folder / MODEL} is corrupt (replicates is {header['replicates']}, and the energy is a {type(energy).__name__})")
    replicates = bootstrap.load(folder / REPLICATES, preparation.space, energy)
    if len(replicates.bases) != header["replicates"]:
        raise ValueError(f"{folder / REPLICATES} holds {len(replicates.bases)} replicates; {MODEL} states {header['replicates']}")
    return model._replace(replicates=replicates)


def _check_digests(folder: Path, header: dict[str, Any]) -> None:
    """Raise ValueError unless the files beside `model.json` are those with which it was written."""
    wanted = [ENERGY, REPLICATES] if header.get("replicates") else [ENERGY]
    stated = header.get("files")
    if not isinstance(stated, dict) or sorted(stated) != sorted(wanted):
        raise ValueError(f"{folder / MODEL} is corrupt: files is {stated!r:.100}; it must state the SHA-256 of {' and '.join(wanted)}")
    for name in wanted:
        if files.digest_of(folder / name) != stated[name]:
            raise ValueError(f"{folder / name} is not the file that {MODEL} was written with (its SHA-256 differs); restore it, or fit")


def _preparation(header: dict[str, Any]) -> Preparation:
    """Return the preparation that `model.json` holds. Raises KeyError, TypeError or ValueError for fields that are not allowed."""
    space, columns = build(header["space"]), header["columns"]
    latlon, normalise = header["latlon"], header["normalise"]
    if not isinstance(space, Space):
        raise TypeError(f"space is {space!r}")
    if not (isinstance(latlon, bool) and isinstance(normalise, bool)):
        raise TypeError(f"latlon is {latlon!r} and normalise is {normalise!r}; they must be true or false")
    if (latlon and (space.dimension != 3 or normalise)) or ((latlon or normalise) and not isinstance(space, Sphere)):
        raise ValueError(f"latlon is {latlon}, normalise is {normalise} and space is {space}")
    width = 2 if latlon else space.dimension
    if columns is not None:
        if not (isinstance(columns, list) and all(isinstance(column, str) for column in columns)):
            raise TypeError(f"columns is {columns!r}; it must list names")
        if len(columns) != width or len(set(columns)) < width:
            raise ValueError(f"columns is {columns!r}; it must list {width} different names")
    mean, scale = (None if header[name] is None else np.array(header[name], np.float64) for name in ("mean", "scale"))
    if mean is not None or scale is not None:
        if mean is None or scale is None or not isinstance(space, Euclidean):
            raise ValueError("mean and scale must both be given, on Euclidean space, or neither")
        if mean.shape != (width,) or scale.shape != (width,) or not (np.isfinite([mean, scale]).all() and (scale > 0).all()):
            raise ValueError(f"mean and scale must be {width} finite numbers each, and scales must be positive")
    return Preparation(space, None if columns is None else tuple(columns), latlon, normalise, mean, scale)


def _log_partition(fields: Any) -> LogPartitionEstimate:
    """Return the estimate of log Z that `model.json` holds. Raises TypeError or ValueError for fields that are not allowed."""
    estimate = LogPartitionEstimate(**fields)
    checks.choice("log_partition.method", estimate.method, METHODS)
    for name, value in estimate._asdict().items():
        if value is None and name in OPTIONAL:
            continue
        if not isinstance(value, str if name in ("method", "doubt") else (int, float)) or isinstance(value, bool):
            raise TypeError(f"log_partition.{name} is {value!r:.100}")
        # The effective size of draws whose weights overflow is NaN, with a doubt that says so.
        if not isinstance(value, str) and not math.isfinite(value) and (name == "value" or estimate.doubt is None):
            raise ValueError(f"log_partition.{name} is {value}; it must be finite")
    if estimate.method != "quadrature" and (estimate.effective_sample_size is None or estimate.draws is None):
        raise ValueError("log_partition.effective_sample_size and draws are null; the method is by sampling, which has both")
    return estimate
