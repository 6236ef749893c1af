"""The lines and notes that `dualebm fit` and `dualebm score` print."""

import math
from typing import Any

import numpy as np
import xarray

from dualebm.auto import Fit
from dualebm.candidates import FOLDS
from dualebm.data.preparation import Preparation
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.model import density_name, log_unit

LARGEST_SCALE = 3.0
"""The column mean, standard deviation or inverse of one above which `dualebm fit` suggests --standardise."""

WORSE = -0.1
"""The held-out energy gap below which `dualebm fit` suggests a larger radius."""

LOG_DENSITIES = {
    "log_density_lebesgue": "log density in Lebesgue measure",
    "log_density_area": "log density in area measure",
    "log_density_base": "log density in the base measure",
}
"""The log densities of `model.log_densities` in words, in the order in which they are printed."""


def with_error(mean: float, error: float | None) -> str:
    """Return a mean over rows and its standard error as text; the error of one row is None.

    >>> with_error(1.5, 0.25)
    '1.5 +- 0.25'
    """
    return f"{mean:.6g} (one row: no standard error)" if error is None else f"{mean:.6g} +- {error:.2g}"


def last_records(results: xarray.Dataset, names: list[str]) -> str:
    """Return the last records of metrics as one line. A metric is a number, or a number and its standard error.

    >>> last_records(xarray.Dataset({"kl": ("step", [0.5, 0.25])}), ["kl"])
    'kl 0.25'
    """
    return ", ".join(f"{name} {_number(results[name].values[-1])}" for name in names)


def _number(value) -> str:
    return f"{float(value):.4g}" if np.ndim(value) == 0 else f"{value[0]:.4g} +- {value[1]:.2g}"


def evaluation(log_partition: LogPartitionEstimate, likelihoods: dict[str, Any], gap: dict[str, Any] | None) -> list[str]:
    """Return the lines that state log Z, the mean log densities and the duality gap of a model.

    Args:
        log_partition: log Z and its error.
        likelihoods: For each set of rows, such as "held_out", the means of `evaluate.likelihood`.
        gap: The duality gap of `evaluate.gap_of`, or None.

    Returns:
        The lines, in the order in which they are printed.
    """
    lines = [log_partition.summary()]
    for rows, means in likelihoods.items():
        for kind in [kind for kind in LOG_DENSITIES if kind in means]:
            mean = with_error(means[kind]["mean"], means[kind]["standard_error"])
            lines.append(f"{rows.replace('_', ' ')}: mean {LOG_DENSITIES[kind]} of {counted(means)} = {mean} nat")
    return lines if gap is None else [*lines, gap["summary"]]


def counted(means: dict[str, Any]) -> str:
    """Return the number of rows of `evaluate.likelihood` in words.

    >>> counted({"rows": 20}), counted({"rows": 20, "effective_rows": 12.25})
    ('20 rows', '20 weighted rows (12.2 by effective number)')
    """
    if "effective_rows" not in means:
        return f"{means['rows']} rows"
    return f"{means['rows']} weighted rows ({means['effective_rows']:.3g} by effective number)"


def choice(fitted: Fit, preparation: Preparation, rows: int) -> list[str]:
    """Return the lines that state what was chosen by validation.

    Args:
        fitted: the fit.
        preparation: the map of rows to points.
        rows: the number of rows that were trained on.

    Returns:
        The lines, in the order in which they are printed.
    """
    chosen, tried = fitted.chosen, len({stage.candidate for stage in fitted.path})
    gain = f"{chosen.gain:+.3g} +- {chosen.gain_error:.2g} nat over the base measure" if chosen.stage else "no radius above 0 is better"
    mean, error = fitted.log_density
    kind = LOG_DENSITIES[density_name(preparation.space)]
    how = "cross-validation" if fitted.validated > rows - FOLDS else "validation"  # equal folds leave out fewer rows than there are folds
    return [
        f"chosen of {tried} candidates and {len(fitted.path)} radii: {chosen.candidate}, radius {fitted.radius:.4g} ({gain})",
        f"base measure: {fitted.space.base!r}",
        f"{how}: mean {kind} of {fitted.validated} of {rows} rows = {with_error(mean - log_unit(preparation), error)} nat; the choice was "
        "made on these rows",
    ]


def note_of_scales(points: Any) -> str | None:
    """Return a note when columns of points (n, d) are far from mean 0 and standard deviation 1, and None otherwise.

    A column is far from them when the absolute value of its mean or its standard deviation is above 3, or its standard deviation is
    below 1/3.

    >>> note_of_scales(np.array([[-1.0], [1.0]])) is None
    True
    """
    x = np.asarray(points, np.float64)
    mean, scale = np.abs(np.mean(x, axis=0)).max(), np.std(x, axis=0)
    if mean <= LARGEST_SCALE and scale.max() <= LARGEST_SCALE and scale.min() >= 1 / LARGEST_SCALE:
        return None
    return (
        f"note: columns have means up to {mean:.3g} and standard deviations from {scale.min():.3g} to {scale.max():.3g}, and the "
        "base measure is the standard Gaussian; --standardise brings them to it"
    )


def note_of_radius(results: xarray.Dataset, rates: Any) -> str | None:
    """Return a note when the radius keeps the energy from fitting the held-out rows, and None otherwise.

    This is so when the last record of `held_out_gap` is below -0.1 and the last record of `total_variation` is above 99% of the radius.

    Args:
        results: The records of a run along `step`, with `total_variation` where the rates have a radius.
        rates: The rates of the method, a NamedTuple of scalars.

    Returns:
        The note or None.
    """
    radius = rates.radius if "radius" in rates._fields else math.inf
    held_out = float(results["held_out_gap"][-1]) if "held_out_gap" in results else 0.0
    if held_out >= WORSE or float(results["total_variation"][-1]) <= 0.99 * radius:
        return None
    return (
        f"note: the total variation is at the radius, {radius:g}, and held_out_gap is {held_out:.2g}: a stronger energy, "
        "of a larger --radius, would fit the held-out rows better"
    )
