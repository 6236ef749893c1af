"""Model selection by validation, as in arXiv 2104.07531: a grid of settings, the best of them with early stopping, and repetitions.

Two sweeps in one folder: `search`, over settings that are chosen, and `repeats`, of the chosen ones with new data. In each run the record
at which the validation loss is least is the one that counts. A call with the same folder continues what was interrupted.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray

from dualebm._internal import checks
from dualebm._internal.files import PathLike
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import Study, cross, product, settings_of, zipped


class Selection(NamedTuple):
    """The results of a selection.

    search: results of the grid along (run, step). chosen: the settings of each case. repeats: results of the repetitions along (run, step).
    best: metrics of the repetitions along run, at their early stop, with the step as `stopped`.
    """

    search: xarray.Dataset
    chosen: list[dict[str, Any]]
    repeats: xarray.Dataset
    best: xarray.Dataset


def stopped_early(results: xarray.Dataset, validation: str = "validation") -> xarray.Dataset:
    """Each run at the record at which `validation` is least, with the step of the record as `stopped`.

    Of metrics with a value and its error the value counts. Records that are not finite do not count; a run without a finite record is
    taken at its last.

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


def choose(search: xarray.Dataset, cases: Iterable[str], over: Iterable[str], validation: str = "validation") -> list[dict[str, Any]]:
    """For each combination of the settings `cases`, the settings of `over` with the least validation loss in the mean over all others.

    Args:
        search: results along (run, step).
        cases: names of the settings for which the choice is made anew.
        over: names of the settings that are chosen.
        validation: the metric that counts.

    Raises:
        ValueError: for a case whose runs have all diverged.

    >>> run = lambda values: ("run", values)
    >>> loss = (("run", "step"), [[3.0], [1.0]])
    >>> search = xarray.Dataset({"validation": loss}, {"step": [0], "n": run([5, 5]), "rate": run([0.1, 0.2])})
    >>> choose(search, ["n"], ["rate"])
    [{'n': 5, 'rate': 0.2}]
    """
    cases, over = list(cases), list(over)
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
            raise ValueError(f"no run of {text} is finite for all settings of {', '.join(over)}; give smaller steps")
        chosen.append(named | dict(zip(over, best, strict=True)))
    return chosen


def select(
    cases: Mapping[str, Iterable],
    over: Mapping[str, Iterable],
    method,
    rates,
    data,
    *,
    metrics,
    folder: PathLike,
    seeds: Iterable[int] = (0,),
    repeats: Iterable[int] = range(100, 110),
    validation: str = "validation",
    **options,
) -> Selection:
    """Chooses the settings of `over` for each case by validation, and repeats the runs of those chosen with new data.

    Args:
        cases: name of a setting -> its values; for each combination the choice is made anew (n, say).
        over: name -> the values to choose from, as learning_rate=[0.005, 0.05].
        method, rates, data: as for `sweep`.
        metrics: as for `sweep`; one has the name `validation`, and is the better the less it is.
        folder: of both sweeps.
        seeds: of the search.
        repeats: seeds of the repetitions, none of which may be one of the search.
        validation: the name of the metric that counts.
        options: of `sweep`.

    Raises:
        ValueError: for no settings, a setting that is in both, seeds that are in both, a validation that is no metric, and as `sweep` and
            `choose`.

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
    for name, settings in (("cases", cases), ("over", over)):
        if not settings or not all(settings.values()):
            raise ValueError(f"{name} is {settings}; it must have at least one setting, with at least one value")
    if both := sorted(set(seeds) & set(repeats)):
        raise ValueError(f"repeats has the seed {both[0]}, which the search has too; repetitions must have data of their own")
    if not seeds or not repeats:
        raise ValueError(f"seeds is {seeds} and repeats is {repeats}; each must have at least one seed")
    searched = cross(product(**cases), product(**over), product(seed=seeds))
    study, runs = Study(method, rates, data, metrics), settings_of(searched)
    study.check(runs)
    checks.choice("validation", validation, study.make("metrics", runs[0], {}))  # once more than a sweep makes them, to know in time
    common: dict[str, Any] = dict(metrics=metrics, **options)
    search = sweep(searched, method, rates, data, folder=Path(folder) / "search", **common)
    chosen = choose(search, cases, over, validation)
    grid = cross(zipped(**{name: [case[name] for case in chosen] for name in chosen[0]}), product(seed=repeats))
    repeated = sweep(grid, method, rates, data, folder=Path(folder) / "repeats", **common)
    return Selection(search, chosen, repeated, stopped_early(repeated, validation).load())


def _loss(results: xarray.Dataset, validation: str) -> xarray.DataArray:
    """The validation loss along run and step; of a value and its error, the value."""
    loss = results[validation].load()
    if "run" not in loss.dims:
        raise ValueError(f"results has the dimensions {', '.join(map(str, loss.dims))}; it must have run, as `sweep` returns it")
    extra = [name for name in loss.dims if name not in ("run", "step")]
    return loss.isel(dict.fromkeys(extra, 0))
