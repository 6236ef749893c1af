"""A fitted model in a folder: its energy, the map of rows of data to its space, and log Z with its error.

The folder holds `energy.npz` (see `dualebm.energies.files`), `model.json`, and where the model has replicates `replicates.npz` (see
`dualebm.bootstrap`). They may lie beside the files of the run that made them. Values in `model.json` are plain JSON. No file holds code.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm import bootstrap, row_weights
from dualebm._internal import checks, files
from dualebm.bootstrap import Replicates
from dualebm.data.preparation import Preparation, to_points, to_space
from dualebm.energies.base import Energy
from dualebm.energies.files import build, load_energy, save_energy, spell
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.estimate import METHODS, LogPartitionEstimate
from dualebm.row_weights import Shares
from dualebm.spaces import Euclidean, Sphere

ENERGY, MODEL, REPLICATES = "energy.npz", "model.json", "replicates.npz"


class Model(NamedTuple):
    """A fitted model exp(-U) tau / Z, with the map from rows in the units of the data to its space.

    Args:
        energy: the energy U.
        preparation: the map of rows to points of the model's space, and back.
        log_partition: the estimate of log Z, in nats.
        particle_step: the step size of the particles' moves at the end of the fit.
        replicates: the replicates of a bootstrap, which show what finite data leave uncertain, or None.
    """

    energy: Energy
    preparation: Preparation
    log_partition: LogPartitionEstimate
    particle_step: float
    replicates: Replicates | None = None


def precision(model: Model) -> np.dtype:
    """Return the floating dtype of a model, which is that of its energy's arrays.

    Args:
        model: the model.

    Returns:
        The dtype, float32 or float64.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; import jax.numpy as jnp
    >>> energy = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1))
    >>> precision(Model(energy, Preparation(Euclidean(1)), None, 0.1)).name
    'float32'
    """
    return np.dtype(jax.tree.leaves(model.energy)[0].dtype)


SMALL_CHANGE = 0.01
"""The change of the energy by a bump, in nats, up to which moves of particles need not resolve the bump."""


def resolving_step(energy: Energy, space: Space) -> float:
    """Return a particle step that resolves the shortest length over which the energy or the base measure changes.

    It is the default of the space, times the square of that length in its unit where this is below 1. Lengths that are not known do not
    count, nor do neurons that change the energy by `SMALL_CHANGE` or less.

    Args:
        energy: the energy.
        space: the space, with its base measure.

    Returns:
        The step, in the square of the unit of length of the points.

    >>> from dualebm import VonMisesFisher; import jax.numpy as jnp
    >>> from dualebm.features import ReLU
    >>> space, flat = Sphere(3, VonMisesFisher([1.0, 0.0, 0.0], 100.0)), Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> round(resolving_step(flat, space) / space.default_particle_step, 6)
    0.01
    """
    if isinstance(energy, Shallow):
        large = np.abs(np.asarray(energy.coefficients)) > SMALL_CHANGE * len(energy.coefficients)
        energy = Shallow(energy.feature, energy.positions[large], energy.coefficients[large])
    places = [known for known in (energy.finest(), space.base.finest(space)) if known is not None]
    shortest = min([space.unit, *(float(np.min(lengths)) for _, lengths in places if len(lengths))])
    return space.default_particle_step * (shortest / space.unit) ** 2


def log_densities(model: Model, x: Any) -> dict[str, np.ndarray]:
    """Return log p at rows in the units of the data, in nats.

    Rows are always standardised here. Rows that were standardised before are not told from rows of the data, because both are finite
    numbers and may overlap. `log_densities_at` takes points, and `Samples` of points are refused here.

    Args:
        model: the fitted model. A model of 64 bits needs x64.
        x: the rows, (n, d): a `tables.Table`, a DataFrame or an array, as `tables.as_table` takes them. Named columns are matched to
            those of the data of the fit.

    Returns:
        `log_density_base`, (n,), the density -U - log Z relative to the base measure, and the density in the units of the data, (n,).
        This is `log_density_area` on a sphere, with respect to the surface measure of the unit sphere, and `log_density_lebesgue` on
        Euclidean space and the torus. It adds log tau and subtracts the log scales of the columns, or the log volume of the space.

    Raises:
        ValueError: as `preparation.to_space`, for a missing column or a row that is no point of the model's space.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; import jax.numpy as jnp
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> standardised = Preparation(Euclidean(1), mean=np.array([4.0]), scale=np.array([2.0]))
    >>> values = log_densities(Model(energy, standardised, log_z, 0.1), [[4.0]])
    >>> {name: value.round(4).tolist() for name, value in values.items()}
    {'log_density_base': [-0.0], 'log_density_lebesgue': [-1.6121]}
    """
    return log_densities_at(model, to_space(model.preparation, x, precision(model)).points)


BLOCK = 1024
"""The number of rows whose log densities are computed at a time, so that the number of a row does not depend on other rows."""


def log_densities_at(model: Model, points: Float[Array, "n d"]) -> dict[str, np.ndarray]:
    """Return what `log_densities` returns, at points of the model's space that `preparation.to_space` has made of rows.

    Args:
        model: the model.
        points: the points, (n, d).

    Returns:
        The log densities by name, each (n,), in nats.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; import jax.numpy as jnp
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), LogPartitionEstimate(0.5, 0.0, 1.0, 1, 0.0, "draws", 0.5, None)
    >>> log_densities_at(Model(energy, Preparation(Sphere(2)), log_z, 0.1), jnp.eye(2))["log_density_base"].tolist()
    [-0.5, -0.5]
    """
    space, count = model.preparation.space, len(points)
    padded = jnp.pad(points, ((0, -count % BLOCK), (0, 0)), mode="edge").reshape(-1, BLOCK, points.shape[1])
    values = np.concatenate([np.asarray(_energy_and_base(model.energy, space, block), np.float64) for block in padded], axis=1)
    energy, log_base = values[:, :count]
    base = -energy - model.log_partition.value
    return {"log_density_base": base, density_name(space): base + log_base - log_unit(model.preparation)}


@eqx.filter_jit
def _energy_and_base(energy, space, points):
    return jnp.stack([energy(points), space.log_base(points)])


class Errors(NamedTuple):
    """What finite data leave uncertain of log densities, in nats (`dualebm.bootstrap`). The error of log Z is not part of it.

    Args:
        rows: the error of the log density at each row, (n,).
        mean: the error of the weighted mean of the log densities of all rows.
    """

    rows: Float[np.ndarray, " n"]
    mean: float


def errors_at(model: Model, points: Float[Array, "n d"], shares: Shares = None) -> Errors | None:
    """Return the errors of the log densities at points of the model's space, or None for a model without replicates.

    Args:
        model: the fitted model.
        points: the points, (n, d).
        shares: the weights of the points, positive and of sum 1, (n,), or None for equal ones.
    """
    if model.replicates is None:
        return None
    space = model.preparation.space
    blocks = [points[first : first + BLOCK] for first in range(0, len(points), BLOCK)]
    values = np.concatenate([bootstrap.log_densities(model.replicates, space, block) for block in blocks], axis=1)
    fitted = log_densities_at(model, points)[density_name(space)] + log_unit(model.preparation)
    means = np.average(values, axis=1, weights=shares)
    return Errors(bootstrap.errors(values, fitted), float(bootstrap.errors(means, np.average(fitted, weights=shares))))


def log_density_function(model: Model) -> Callable[[Any], Array]:
    """Return log p as a JAX function of one row in the units of the data, (d,), or of an array of rows, (..., d).

    The function maps rows as `preparation.to_space` does, in the precision of the model, and does not check them. The density is that of
    `log_densities`, with respect to Lebesgue measure or on a sphere to its area measure.

    Args:
        model: the fitted model.

    Returns:
        The function.

    Raises:
        ValueError: for a model of 64 bits while x64 is off.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; import jax.numpy as jnp
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> standardised = Preparation(Euclidean(1), mean=np.array([4.0]), scale=np.array([2.0]))
    >>> log_density = log_density_function(Model(energy, standardised, log_z, 0.1))
    >>> round(float(log_density(jnp.array([4.0]))), 4), jax.grad(log_density)(jnp.array([6.0])).tolist()
    (-1.6121, [-0.5])
    """
    energy, preparation, dtype = model.energy, model.preparation, checks.precision(precision(model))
    space, offset = preparation.space, model.log_partition.value + log_unit(preparation)

    def log_density(x):
        x = to_points(preparation, jnp.asarray(x, dtype))
        points = x.reshape(-1, x.shape[-1])
        return (space.log_base(points) - energy(points)).reshape(x.shape[:-1]) - offset

    return log_density


def density_name(space: Space) -> str:
    """Return the name of the log density in the units of the data.

    Args:
        space: the space of the model.

    Returns:
        "log_density_area" on a sphere, else "log_density_lebesgue".
    """
    return "log_density_area" if isinstance(space, Sphere) else "log_density_lebesgue"


def log_unit(preparation: Preparation) -> float:
    """Return what a log density in the units of the data subtracts from one of points: the log scales of columns, or the log volume.

    Args:
        preparation: the map of rows to points.

    Returns:
        The number to subtract, in nats.

    >>> log_unit(Preparation(Euclidean(1), mean=np.array([4.0]), scale=np.array([1.0])))
    0.0
    """
    scales = 0.0 if preparation.scale is None else float(np.sum(np.log(preparation.scale)))
    return scales + preparation.space.log_volume


def mean_with_error(values: np.ndarray, error: float = 0.0, shares: Shares = None) -> tuple[float, float | None]:
    """Return the mean of independent values and its standard error. Both are in the units of the values.

    Args:
        values: the values, (n,).
        error: the standard error of an offset that all values share. The error of the mean includes it.
        shares: the weights of the values, positive and of sum 1, (n,), or None for equal ones.

    Returns:
        The mean and its error, which is None for a single value.

    >>> mean_with_error(np.array([1.0, 3.0]), 1.0)
    (2.0, 1.4142135623730951)
    """
    spread = row_weights.standard_error(values, shares)
    return row_weights.mean(values, shares), math.hypot(spread, error) if math.isfinite(spread) else None


# -- Files -----------------------------------------------------------------------------------------


def save(folder: files.PathLike, model: Model, about: dict[str, Any]) -> None:
    """Write the files of a model, `model.json` last.

    Args:
        folder: the folder.
        model: the fitted model.
        about: JSON values that go to `model.json` too, such as the data and the settings of the fit. A value named as a
            value of the model is replaced by it.
    """
    save_energy(Path(folder) / ENERGY, model.energy)
    space, columns, latlon, normalise, mean, scale = model.preparation
    if model.replicates is not None:
        bootstrap.save(Path(folder) / REPLICATES, model.replicates, space.base)
    header = {
        "kind": "model",
        "format": files.FORMAT,
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
    files.commit(Path(folder) / MODEL, lambda path: path.write_text(json.dumps({**about, **header}, indent=1)))


def read(folder: files.PathLike) -> dict[str, Any]:
    """Read `model.json` of a folder.

    Args:
        folder: the folder that `save` wrote.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: the file is not that of a model.

    >>> read("no/such/folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: folder no/such/folder holds no fitted model (model.json); dualebm fit writes one
    """
    path = Path(folder) / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"folder {folder} holds no fitted model ({MODEL}); dualebm fit writes one")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or corrupt ({error})") from error
    files.check_format(path, header, "model")
    return header


def load(folder: files.PathLike) -> Model:
    """Load the model that `save` wrote to a folder.

    A model of 64 bits needs x64: `with jax.enable_x64(read(folder)["precision"] == 64)`.

    Args:
        folder: the folder that `save` wrote.

    Returns:
        The model, with its replicates where the folder has them.

    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: a file is corrupt, is of another format version, or is not that of a model.
    """
    path, header = Path(folder) / MODEL, read(folder)
    energy = load_energy(Path(folder) / ENERGY)
    try:
        preparation = _preparation(header)
        log_partition = _log_partition(header["log_partition"])
        checks.number("particle_step", header["particle_step"], positive=True)
        model = Model(energy, preparation, log_partition, header["particle_step"])
        if header["precision"] != 8 * precision(model).itemsize:
            raise ValueError(f"precision is {header['precision']}, and the energy has {8 * precision(model).itemsize} bits")
        points = jax.ShapeDtypeStruct((1, preparation.space.dimension), precision(model))
        jax.eval_shape(lambda points: energy(points), points)  # an energy of points of another dimension raises
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is corrupt ({type(error).__name__}: {' '.join(str(error).split())[:300]})") from error
    if header.get("replicates") and isinstance(energy, Shallow):
        return model._replace(replicates=bootstrap.load(Path(folder) / REPLICATES, preparation.space.base, energy.feature))
    return model


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
        optional = value is None and name in ("effective_sample_size", "draws", "independent", "doubt")
        kind = str if name in ("method", "doubt") else (int, float)
        if not optional and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"log_partition.{name} is {value!r}")
    if not math.isfinite(estimate.value):
        raise ValueError(f"log_partition.value is {estimate.value}; it must be finite")
    return estimate
