"""Simple densities of the same rows, which a fitted model must beat: their log densities at rows that neither has seen."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from dualebm.base_measures import BaseMeasure, Uniform
from dualebm.data.bases import Rows, fit_mixture, fit_normal
from dualebm.data.kernel_bases import fit_kernel
from dualebm.data.spherical_bases import fit_von_mises_fisher
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.model import Model, density_name, log_densities_at, log_unit, mean_with_error
from dualebm.row_weights import Shares
from dualebm.settings import Seed, checked

COMPONENTS = 8
"""The largest number of components of a mixture."""

FOLDS = 5
"""The number of folds that choose the width of a kernel."""


class Rival(NamedTuple):
    """A simple density beside a model, at the same held-out rows. Log densities are in nats, in the units of the data.

    Args:
        name: the name of the density.
        mean: its mean log density. None where it cannot be fitted.
        standard_error: the standard error of the mean over rows. None for one row.
        difference: the mean of the log density of the model less its own, row by row.
        difference_error: the standard error of the difference, with that of log Z of the model. None for one row.
        reason: why the density cannot be fitted. None where it can.
    """

    name: str
    mean: float | None = None
    standard_error: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    reason: str | None = None


@checked
def fits_of(space: Space, seed: Seed = 0) -> Mapping[str, Callable[[Rows, Shares], BaseMeasure]]:
    """Return the simple densities on a space by name. Each maps rows and their weights to a probability measure.

    They are a normal distribution, a kernel density estimate whose width is chosen by cross-validation, and a mixture of normal
    distributions chosen by BIC. On spheres the uniform measure and von Mises-Fisher distributions take their places. On tori they are the
    uniform measure and a kernel density estimate.

    Args:
        space: the space.
        seed: the seed of the fits.

    >>> from dualebm.spaces import Torus
    >>> list(fits_of(Torus(2)))
    ['uniform', 'kernel density estimate']
    """

    def kernel(rows, weights):
        return fit_kernel(rows, space, folds=min(FOLDS, len(rows)), seed=seed, weights=weights)

    if not space.compact:
        mixture = {"Gaussian mixture": lambda rows, weights: fit_mixture(rows, min(COMPONENTS, len(rows)), seed, weights)}
        return {"normal distribution": fit_normal, "kernel density estimate": kernel} | mixture
    simple = {"uniform": lambda rows, weights: Uniform(), "kernel density estimate": kernel}
    if space.periodic:
        return simple
    directions = lambda rows, weights: fit_von_mises_fisher(rows, min(COMPONENTS, len(rows)), seed, weights)  # noqa: E731
    return simple | {"von Mises-Fisher mixture": directions}


@checked
def compare(model: Model, train: Samples, held_out: Samples, seed: Seed = 0) -> tuple[Rival, ...]:
    """Fit simple densities to the training rows of a model and compare all of them at held-out rows.

    Args:
        model: the fitted model.
        train: the rows to which the model was fitted, as points of its space, (n, d), with their weights.
        held_out: the rows to which it was not, as points of its space, (k, d), where k may be 0, with their weights.
        seed: the seed of the fits.

    Returns:
        The simple densities in the order of `fits_of`. None for no held-out rows.

    >>> import jax, jax.numpy as jnp
    >>> from dualebm.base_measures import Gaussian; from dualebm.data.preparation import Preparation; from dualebm.spaces import Euclidean
    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> from dualebm.log_z.estimate import LogPartitionEstimate
    >>> log_z = LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> free = Model(Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), Preparation(Euclidean(1, Gaussian())), log_z, 0.1)
    >>> rows = 3 + jax.random.normal(jax.random.key(0), (60, 1))
    >>> normal, *_ = compare(free, Samples(rows[:40]), Samples(rows[40:]))
    >>> normal.name, normal.difference < -2
    ('normal distribution', True)
    """
    if not len(held_out.points):
        return ()
    space, unit = model.preparation.space, log_unit(model.preparation)
    values, points = log_densities_at(model, held_out.points)[density_name(space)], np.asarray(train.points)
    weights, shares = (None if rows.log_weights is None else np.asarray(rows.weights, np.float64) for rows in (train, held_out))

    def rival(name: str, fit: Callable[[Rows, Shares], BaseMeasure]) -> Rival:
        try:
            log_density = np.asarray(fit(points, weights).log_density(space, held_out.points), np.float64) - unit
        except (ValueError, ImportError) as error:
            return Rival(name, reason=str(error))
        error = model.log_partition.standard_error
        return Rival(name, *mean_with_error(log_density, 0.0, shares), *mean_with_error(values - log_density, error, shares))

    return tuple(rival(name, fit) for name, fit in fits_of(space, seed).items())
