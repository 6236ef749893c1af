"""A fitted model in a folder: its energy, the map of data to its space, and log Z with its error.

The folder holds two files, `energy.npz` (see `dualebm.energies.files`) and `model.json`. They may lie beside the files of the run that
made them. Values in `model.json` are plain JSON. No file holds code.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal import checks, files
from dualebm.data import tables
from dualebm.energies.base import Energy
from dualebm.energies.files import build, load_energy, save_energy, spell
from dualebm.geometry import Space
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.measures import Samples

ENERGY, MODEL = "energy.npz", "model.json"


class Model(NamedTuple):
    """A fitted model exp(-U) tau / Z, with the map from rows of a data file to its space.

    Attributes:
        energy: the energy U.
        space: the space of the model.
        normalise: whether rows are divided by their norms.
        mean: the means of the columns in float64, (d,), where rows are standardised to (x - mean) / scale, else None.
        scale: the scales of the columns in float64, (d,), where rows are standardised, else None.
        log_partition: the estimate of log Z, in nats.
        particle_step: the step size of the particles' moves at the end of the fit.
    """

    energy: Energy
    space: Space
    normalise: bool
    mean: np.ndarray | None
    scale: np.ndarray | None
    log_partition: LogPartitionEstimate
    particle_step: float


def to_space(
    x, space: Space, dtype, *, normalise: bool = False, mean=None, scale=None, name: str = "x"
) -> Samples:
    """Map rows to points of a space.

    Args:
        x: the rows, (n, d).
        space: the space.
        dtype: the floating dtype of the points.
        normalise: whether to divide rows by their norms.
        mean: the means of the columns, (d,), to standardise the rows. None for no standardisation.
        scale: the scales of the columns, (d,). None for no standardisation.
        name: the name of x in errors.

    Returns:
        The points as samples with equal weights.

    Raises:
        ValueError: as `tables.as_samples`, for rows that are no points of the space.

    >>> from dualebm.spaces import Euclidean
    >>> x = np.array([[3.0], [5.0]])
    >>> to_space(x, Euclidean(1), "float32", mean=np.array([4.0]), scale=np.array([2.0])).points.tolist()
    [[-0.5], [0.5]]
    """
    if scale is not None and np.ndim(x) == 2 and x.shape[1] == len(scale) and x.dtype.kind == "f":
        x = (x.astype(np.float64) - mean) / scale  # `as_samples` refuses other shapes and dtypes
    return tables.as_samples(x, space, normalise, dtype, name)


def from_space(model: Model, points: Float[Array, "N d"]) -> np.ndarray:
    """Map points of the model's space, (N, d), to rows in the units of the data, (N, d).

    >>> from dualebm.spaces import Euclidean
    >>> import jax.numpy as jnp
    >>> model = Model(None, Euclidean(1), False, np.array([4.0]), np.array([2.0]), None, 0.1)
    >>> from_space(model, jnp.array([[0.5]])).tolist()
    [[5.0]]
    """
    x = np.asarray(points)
    if model.mean is None or model.scale is None:
        return x
    return (x.astype(np.float64) * model.scale + model.mean).astype(x.dtype)


def log_densities(model: Model, points: Float[Array, "N d"]) -> dict[str, np.ndarray]:
    """Return log p at points of the model's space, (N, d), in nats.

    `log_density_base`, (N,), is the density -U - log Z relative to the base measure. On Euclidean space
    `log_density_lebesgue`, (N,), is the density in the units of the data. It adds log tau and subtracts the log scales of the columns.

    >>> from dualebm.spaces import Euclidean
    >>> import jax.numpy as jnp
    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, True)
    >>> model = Model(energy, Euclidean(1), False, np.array([4.0]), np.array([2.0]), log_z, 0.1)
    >>> {name: values.round(4).tolist() for name, values in log_densities(model, jnp.zeros((1, 1))).items()}
    {'log_density_base': [-0.0], 'log_density_lebesgue': [-1.6121]}
    """
    base = -np.asarray(model.energy(points), np.float64) - model.log_partition.value
    if model.space.compact:
        return {"log_density_base": base}
    volume = 0.0 if model.scale is None else float(np.sum(np.log(model.scale)))
    log_base = np.asarray(model.space.log_base(points), np.float64)
    return {"log_density_base": base, "log_density_lebesgue": base + log_base - volume}


def mean_with_error(values: np.ndarray, error: float = 0.0) -> tuple[float, float | None]:
    """Return the mean of independent values, (n,), and its standard error. Both are in the units of the values.

    `error` is the standard error of an offset that all values share. The error of the mean includes it. It is None for a single value.

    >>> mean_with_error(np.array([1.0, 3.0]), 1.0)
    (2.0, 1.4142135623730951)
    """
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), math.hypot(float(np.std(values, ddof=1)) / math.sqrt(len(values)), error)


# -- Files -----------------------------------------------------------------------------------------


def save(folder: files.PathLike, model: Model, about: dict[str, Any]) -> None:
    """Write the two files of a model, `model.json` last.

    Args:
        folder: the folder.
        model: the fitted model.
        about: JSON values that go to `model.json` too, such as the data and the settings of the fit. A value named as a
            value of the model is replaced by it.
    """
    save_energy(Path(folder) / ENERGY, model.energy)
    header = {
        "kind": "model",
        "format": files.FORMAT,
        "space": spell(model.space),
        "normalise": model.normalise,
        "mean": None if model.mean is None else model.mean.tolist(),
        "scale": None if model.scale is None else model.scale.tolist(),
        "log_partition": model.log_partition._asdict(),
        "particle_step": model.particle_step,
        "precision": 8 * jax.tree.leaves(model.energy)[0].dtype.itemsize,
    }
    files.commit(Path(folder) / MODEL, lambda path: path.write_text(json.dumps({**about, **header}, indent=1)))


def read(folder: files.PathLike) -> dict[str, Any]:
    """Read `model.json` of a folder.

    Raises FileNotFoundError where the folder has no such file, and ValueError where the file is not that of a model.

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

    A model of 64 bits needs x64: `with jax.enable_x64(read(folder)["precision"] == 64)`. Raises the errors of `read` and of
    `energies.files.load_energy`, and ValueError for a corrupt `model.json`.
    """
    header = read(folder)
    energy = load_energy(Path(folder) / ENERGY)
    try:
        space = build(header["space"])
        mean, scale = (None if header[n] is None else np.array(header[n], np.float64) for n in ("mean", "scale"))
        log_partition = LogPartitionEstimate(**header["log_partition"])
        model = Model(energy, space, header["normalise"], mean, scale, log_partition, header["particle_step"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{Path(folder) / MODEL} is corrupt ({type(error).__name__}: {error})") from error
    checks.number("particle_step", model.particle_step, positive=True)
    return model
