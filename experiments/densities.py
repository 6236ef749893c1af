"""What studies of fitted densities share: cases in files, the automatic fit of rows, and paired differences of log densities.

A case is one method on one split of one data set. Its file is written when the case is done, so that a later call continues.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from dualebm import auto
from dualebm._internal import files
from dualebm.geometry import Space
from dualebm.plotting import charts

OURS = "automatic"
"""The name of the automatic fit among methods. The others are its rivals."""

Rows = Float[np.ndarray, "n d"]
Values = Float[np.ndarray, " n"]
Scored = tuple[Values, dict[str, Any]]
"""The log densities of the rows that were held out, in nats, and what else is worth keeping, as JSON."""


# -- Cases -------------------------------------------------------------------------------------------


def stored(path: Path, settings: Mapping[str, Any], score: Callable[[], Scored]) -> dict[str, Any]:
    """Returns a case, from its file where the file has the same settings, else computed and written whole.

    Args:
        path: The file of the case.
        settings: All that decides the numbers of the case, as JSON. A file of other settings is computed again.
        score: Fits a density, and returns the log densities of the rows held out and what else is kept.

    Returns:
        The `settings`, the `log_densities` (n,) in nats, the `seconds` of the processor for the fit and the scores, and what else is kept.

    Raises:
        OSError: The file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "moons-0-gaussian.json"
    >>> case = stored(path, {"seed": 0}, lambda: (np.array([-1.0, -2.0]), {"parameters": 5}))
    >>> stored(path, {"seed": 0}, lambda: 1 / 0) == case
    True
    """
    settings = json.loads(json.dumps(settings))
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        case = json.loads(path.read_text())
        if case["settings"] == settings:
            return case
    print(f"{path.stem}", file=sys.stderr, flush=True)
    begin = time.process_time()
    values, kept = score()
    seconds = round(time.process_time() - begin, 1)
    jax.clear_caches()  # each program holds mapped memory, of which a process may have only so much
    case = dict(settings=settings, log_densities=np.round(values, 5).tolist(), seconds=seconds, **kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.commit(path, lambda file: file.write(json.dumps(case).encode()))
    return json.loads(path.read_text())


def automatic(settings: Any) -> auto.Auto:
    """Returns the settings of the automatic fit: the stages, iterations, draws and neurons of a study, where None is the fit's default."""
    return auto.Auto(**{name: getattr(settings, name) for name in ("stages", "iterations", "draws", "neurons")})


def fitted(seed: int, train: Rows, held: Rows, space: Space, settings: auto.Auto) -> tuple[auto.Fit, Scored]:
    """Fits a density by `auto.fit`, and scores rows that were held out.

    Args:
        seed: The seed of the fit.
        train: The rows of the fit, points of the space, (n, d).
        held: The rows that were held out, (k, d).
        space: The space.
        settings: The settings of the fit.

    Returns:
        The fit, and with it the log densities with respect to Lebesgue measure, or to the area of a sphere, with what was chosen.
    """
    fit = auto.fit(jax.random.key(seed), jnp.asarray(train, jnp.float32), space, settings)
    at = jnp.asarray(held, jnp.float32)
    base = np.asarray(fit.space.log_base(at), float) - space.log_volume
    values = base - np.asarray(fit.energy(at), float) - fit.log_partition.value
    kept = dict(
        chosen=fit.chosen.candidate, stage=fit.chosen.stage, radius=fit.radius, base_measure=float(base.mean()),
        validated=fit.log_density[0], log_z_error=fit.log_partition.standard_error, notes=list(fit.notes),
    )  # fmt: skip
    return fit, (values, kept)


# -- Differences -------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The mean difference of log densities between two methods over splits, in nats.

    Attributes:
        mean: The mean over splits.
        error: Its standard error: over the rows of all splits, or over splits where that is larger.
        least: The least of the splits.
        largest: The largest.
    """

    mean: float
    error: float
    least: float
    largest: float


def difference(cases: Sequence[Mapping], others: Sequence[Mapping]) -> Difference:
    """Returns the difference of two methods, row by row of the same splits.

    Args:
        cases: The cases of a method, one a split.
        others: The cases of the other method, on the same splits.

    >>> case = lambda *values: dict(log_densities=values)
    >>> difference([case(1.0, 2.0), case(3.0, 5.0)], [case(0.0, 0.0), case(0.0, 0.0)])
    Difference(mean=2.75, error=1.25, least=1.5, largest=4.0)
    """
    lags = [np.subtract(case["log_densities"], other["log_densities"]) for case, other in zip(cases, others, strict=True)]
    means, splits = np.array([lag.mean() for lag in lags]), len(lags)
    over_rows = math.sqrt(sum(np.var(lag, ddof=1) / len(lag) for lag in lags)) / splits
    over_splits = float(np.std(means, ddof=1)) / math.sqrt(splits) if splits > 1 else 0.0
    return Difference(float(means.mean()), max(over_rows, over_splits), float(means.min()), float(means.max()))


def verdict(lag: Difference) -> str:
    """Returns "above", "below" or "level": a difference counts where it is more than two standard errors from 0.

    >>> verdict(Difference(0.3, 0.1, 0.2, 0.4)), verdict(Difference(-0.1, 0.1, -0.2, 0.1))
    ('above', 'level')
    """
    return "above" if lag.mean > 2 * lag.error else "below" if lag.mean < -2 * lag.error else "level"


def means(cases: Sequence[Mapping]) -> Values:
    """Returns the mean log density of each case.

    >>> means([dict(log_densities=[1.0, 2.0])]).tolist()
    [1.5]
    """
    return np.array([np.mean(case["log_densities"]) for case in cases])


def best_rival(cases: Mapping[str, Sequence[Mapping]]) -> str:
    """Returns the rival of the largest mean log density over splits.

    >>> case = lambda value: [dict(log_densities=[value, value])]
    >>> best_rival({OURS: case(3.0), "kernel": case(1.0), "flow": case(2.0)})
    'flow'
    """
    return max((name for name in cases if name != OURS), key=lambda name: means(cases[name]).mean())


def costs(cases: Iterable[Mapping[str, Sequence[Mapping]]]) -> str:
    """Returns the median seconds of each method over data sets and splits, as text.

    >>> costs([{"flow": [dict(seconds=2.0)]}, {"flow": [dict(seconds=4.4)]}])
    'flow 3.2'
    """
    seconds: dict[str, list[float]] = {}
    for each in cases:
        for method, of in each.items():
            seconds.setdefault(method, []).extend(case["seconds"] for case in of)
    return ", ".join(f"{method} {np.median(values):.1f}" for method, values in seconds.items())


def spelled(values: Values, digits: int = 3) -> str:
    """Returns the mean of values and their standard error, as a cell of a table.

    >>> spelled(np.array([1.0, 2.0])), spelled(np.array([1.0]))
    ('1.500 +- 0.500', '1.000')
    """
    error = f" +- {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def energy_adds(cases: Sequence[Mapping]) -> str:
    """Returns how much the energies of automatic fits add to the mean log densities of their base measures, as a cell of a table.

    >>> energy_adds([dict(log_densities=[1.0, 2.0], base_measure=1.25), dict(log_densities=[1.0, 2.0], base_measure=1.5)])
    '+0.125 (+0.000 to +0.250)'
    """
    gains = means(cases) - [case["base_measure"] for case in cases]
    return f"{gains.mean():+.3f} ({gains.min():+.3f} to {gains.max():+.3f})"


def total_seconds(cases: Iterable[Mapping[str, Sequence[Mapping]]]) -> float:
    """Returns the seconds of the processor that all cases of all data sets took.

    >>> total_seconds([{"flow": [dict(seconds=2.0)]}, {"flow": [dict(seconds=4.5)]}])
    6.5
    """
    return sum(case["seconds"] for each in cases for of in each.values() for case in of)


def signed_logarithmic(panel: Axes, linear: float = 0.1) -> None:
    """Gives a panel a horizontal axis of differences: linear between minus and plus `linear`, and logarithmic beyond."""
    charts.signed_axis(panel.xaxis, linear)
