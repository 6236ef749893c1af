"""Model selection by validation, as in arXiv 2104.07531: a grid of settings, the best of them with early stopping, and repetitions.

A selection is two sweeps in one folder: `search` over the settings to choose, and `repeats` of the chosen settings with
new data. Each run counts at the record with the least validation loss. A call with the same folder continues a
selection that was interrupted.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray

from dualebm._internal import checks, folders
from dualebm._internal.files import PathLike
from dualebm.measures import Samples
from dualebm.methods.base import Method
from dualebm.settings import checked
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.folder import SWEEP
from dualebm.sweeps.grid import Study, cross, product, settings_of, zipped

SEARCH, REPEATS = "search", "repeats"
"""The folders of the two sweeps within the folder of a selection."""


@checked
def sweeps_of(folder: PathLike) -> list[Path]:
    """Return the folders of the sweeps of a selection that have begun, or the folder itself, which then is that of one sweep.

    Args:
        folder: the folder of a selection or of a sweep.

    Returns:
        The folders.

    >>> [str(path) for path in sweeps_of("results/alpha")]
    ['results/alpha']
    """
    parts = [path for path in (Path(folder) / SEARCH, Path(folder) / REPEATS) if (path / SWEEP).exists()]
    return parts or [Path(folder)]


class Selection(NamedTuple):
    """The results of a selection.

    Args:
        search: The results of the grid, along (run, step).
        chosen: The settings of each case, with those that were chosen.
        repeats: The results of the repetitions, along (run, step).
        best: The metrics of the repetitions at their early stop, along run, with the step as `stopped`.
    """

    search: xarray.Dataset
    chosen: list[dict[str, Any]]
    repeats: xarray.Dataset
    best: xarray.Dataset


@checked
def stopped_early(results: xarray.Dataset, validation: str = "validation") -> xarray.Dataset:
    """Return each run at the record with the least validation loss, and the step of that record as `stopped`.

    A loss of the form (value, error) counts by its value. A record whose loss is not finite does not count, and a run without a finite
    loss is returned at its last record.

    Args:
        results: the results of a sweep, over `run` and `step`.
        validation: the name of the metric that is the loss.

    Returns:
        The results over `run` alone.

    Raises:
        ValueError: the results do not have the dimension `run`.

    >>> steps = dict(step=[0, 10, 20], run=[0])
    >>> records = xarray.Dataset({"validation": (("run", "step"), [[3.0, 1.0, 2.0]]), "kl": (("run", "step"), [[9.0, 5.0, 4.0]])}, steps)
    >>> best = stopped_early(records)
    >>> best.kl.values.tolist(), best.stopped.values.tolist()
    ([5.0], [10])
    """
    loss = _loss(results, validation)
    last = loss.sizes["step"] - 1
    finite = xarray.apply_ufunc(np.isfinite, loss)
    index = xarray.where(finite.any("step"), loss.where(finite, np.inf).argmin("step"), last)
    best = results.isel(step=index)
    return best.assign(stopped=best.step).drop_vars("step")


@checked
def choose(search: xarray.Dataset, cases: Iterable[str], over: Iterable[str], validation: str = "validation") -> list[dict[str, Any]]:
    """Return, for each combination of the settings `cases`, the settings of `over` with the least mean validation loss.

    The mean is over the other settings, such as the seed, and each run counts at its early stop.

    Args:
        search: The results of the grid, along (run, step).
        cases: The names of settings. A choice is made for each combination of their values.
        over: The names of the settings that are chosen.
        validation: The name of the metric to minimise.

    Returns:
        For each case its settings, with the chosen ones.

    Raises:
        ValueError: When a case has no choice for which all runs have a finite loss.

    >>> run = lambda values: ("run", values)
    >>> loss = (("run", "step"), [[3.0], [1.0]])
    >>> search = xarray.Dataset({"validation": loss}, {"step": [0], "n": run([5, 5]), "rate": run([0.1, 0.2])})
    >>> choose(search, ["n"], ["rate"])
    [{'n': 5, 'rate': 0.2}]
    """
    cases, over = list(cases), list(over)
    for argument, names in (("cases", cases), ("over", over)):
        for name in names:
            checks.choice(argument, name, map(str, search.coords))
    loss = _loss(stopped_early(search, validation), validation).values
    columns = {name: search[name].values for name in (*cases, *over)}
    totals: dict[tuple, dict[tuple, list[float]]] = {}
    for i, value in enumerate(loss):
        case, setting = (tuple(columns[name][i].item() for name in names) for names in (cases, over))
        totals.setdefault(case, {}).setdefault(setting, []).append(float(value) if np.isfinite(value) else np.inf)
    chosen = []
    for case, settings in totals.items():
        best = min(settings, key=lambda setting, settings=settings: float(np.mean(settings[setting])))
        named = dict(zip(cases, case, strict=True))
        if not np.isfinite(np.mean(settings[best])):
            text = ", ".join(f"{name} = {value}" for name, value in named.items())
            of = f" of {text}" if text else ""
            raise ValueError(
                f"every setting of {', '.join(over)} has a run{of} without a finite loss, which diverged or whose log Z is not known; "
                "give smaller steps or radii"
            )
        chosen.append(named | dict(zip(over, best, strict=True)))
    return chosen


@checked
def select(
    cases: Mapping[str, Iterable],
    over: Mapping[str, Iterable],
    method: Method | Callable[..., Method],
    rates: Any,
    data: Samples | Callable[..., Samples],
    *,
    metrics: dict[str, Callable] | Callable[..., dict[str, Callable]],
    folder: PathLike,
    seeds: Iterable[int] = (0,),
    repeats: Iterable[int] = range(100, 110),
    validation: str = "validation",
    **options,
) -> Selection:
    """Choose the settings of `over` for each case by validation, and repeat the runs of the chosen settings with new data.

    Args:
        cases: For each setting its values. A choice is made for each combination of them, such as each number of data
            points n. Without settings, one choice is made.
        over: For each setting the values to choose from, such as learning_rate=[0.005, 0.05].
        method: A `Method`, or a function, as for `sweep`.
        rates: The rates, a function or None, as for `sweep`.
        data: The data, or a function, as for `sweep`.
        metrics: The metrics by name, or a function, as for `sweep`. One is named `validation`, and smaller values of it
            are better.
        folder: The folder of both sweeps.
        seeds: The seeds of the search.
        repeats: The seeds of the repetitions, other than the seeds of the search.
        validation: The name of the metric to minimise.
        options: Other arguments of `sweep`.

    Returns:
        The results of both sweeps and the choice.

    Raises:
        ValueError: When there are no settings to choose or no seeds, a seed is not allowed, a setting is in `cases` and `over`, a
            seed is in `seeds` and `repeats`, `validation` is no metric, a case has no finite choice, or `sweep` raises it.

    >>> import jax.numpy as jnp, tempfile; from dualebm.metrics import CrossEntropy; from dualebm.log_z.quadrature import sphere_quadrature
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> points = lambda key, n: Samples(Sphere(3).sample_base(key, n, jnp.float32))
    >>> selection = select(
    ...     dict(n=[20]), dict(radius=[1.0, 5.0]), Dual(Sphere(3), neurons=4), None, points, repeats=[7, 8], steps=4, every=2,
    ...     metrics=lambda key: {"validation": CrossEntropy(points(key, 50), Sphere(3), sphere_quadrature(Sphere(3), 8))},
    ...     folder=tempfile.mkdtemp(), progress=False,
    ... )
    >>> [case["n"] for case in selection.chosen], selection.best.sizes["run"]
    ([20], 2)
    """
    cases, over = ({name: list(values) for name, values in settings.items()} for settings in (cases, over))
    seeds, repeats = list(seeds), list(repeats)
    for seed in seeds:
        checks.seed("seeds", seed)
    for seed in repeats:
        checks.seed("repeats", seed)
    for name, settings, least in (("cases", cases, 0), ("over", over, 1)):
        if len(settings) < least or not all(settings.values()):
            number = "at least one setting" if least else "settings"
            raise ValueError(f"{name} is {settings}; it must have {number}, each with at least one value")
    if both := sorted(set(seeds) & set(repeats)):
        raise ValueError(f"repeats has the seed {both[0]}, which the search has too; repetitions must have new data")
    if not seeds or not repeats:
        raise ValueError(f"seeds is {seeds} and repeats is {repeats}; each must have at least one seed")
    searched = cross(*(product(**settings) for settings in (cases, over) if settings), product(seed=seeds))
    study, runs = Study(method, rates, data, metrics), settings_of(searched)
    study.check(runs)
    # The metrics are made here as well, so that a wrong name is refused before the search runs.
    checks.choice("validation", validation, study.make("metrics", runs[0], {}))
    common: dict[str, Any] = dict(metrics=metrics, **options)
    for name in (SEARCH, REPEATS):
        folders.refuse_link(Path(folder) / name)
    search = sweep(searched, method, rates, data, folder=Path(folder) / SEARCH, **common)
    chosen = choose(search, cases, over, validation)
    grid = cross(zipped(**{name: [case[name] for case in chosen] for name in chosen[0]}), product(seed=repeats))
    repeated = sweep(grid, method, rates, data, folder=Path(folder) / REPEATS, **common)
    return Selection(search, chosen, repeated, stopped_early(repeated, validation).load())


def _loss(results: xarray.Dataset, validation: str) -> xarray.DataArray:
    """Return the validation loss along run and step. A loss of the form (value, error) is returned without its error."""
    checks.choice("validation", validation, map(str, results.data_vars))
    loss = results[validation].load()
    if "run" not in loss.dims:
        raise ValueError(f"results has the dimensions {', '.join(map(str, loss.dims))}; it must have run, as `sweep` returns it")
    extra = [name for name in loss.dims if name not in ("run", "step")]
    return loss.isel(dict.fromkeys(extra, 0))
