"""A fitted model: its energy, the map of rows of data to its space, log Z with its error, and log densities of rows.

`dualebm.model_files` writes models to folders and reads them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm import bootstrap, row_weights
from dualebm._internal import checks
from dualebm.bootstrap import Replicates
from dualebm.data.preparation import Preparation, to_points, to_space
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.row_weights import Shares
from dualebm.settings import checked
from dualebm.spaces import Sphere


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

    >>> from dualebm.spaces import Euclidean
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
        kept = (jnp.asarray(np.asarray(values)[large]) for values in (energy.positions, energy.coefficients))
        energy = Shallow(energy.feature, *kept)
    places = [known for known in (energy.finest(), space.base.finest(space)) if known is not None]
    shortest = min([space.unit, *(float(np.min(lengths)) for _, lengths in places if len(lengths))])
    return space.default_particle_step * (shortest / space.unit) ** 2


@checked
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

    >>> from dualebm.spaces import Euclidean
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


@checked
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
    padded = np.pad(points, ((0, -count % BLOCK), (0, 0)), mode="edge").reshape(-1, BLOCK, points.shape[1])
    values = np.concatenate([np.asarray(_energy_and_base(model.energy, space, jnp.asarray(block)), np.float64) for block in padded], axis=1)
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


@checked
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


@checked
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

    >>> from dualebm.spaces import Euclidean
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

    >>> from dualebm.spaces import Euclidean
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
