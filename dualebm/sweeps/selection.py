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
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import Study, cross, lanes_of, product, zipped
from dualebm.training.checkpoints import PathLike


class Selection(NamedTuple):
    """search, the results of the grid along (lane, step); chosen, the settings of each case; repeats, along (lane, step); best, the
    metrics of the repeats along lane at their early stop, with the step as `stopped`."""

    search: xarray.Dataset
    chosen: list[dict[str, Any]]
    repeats: xarray.Dataset
    best: xarray.Dataset


def stopped_early(results: xarray.Dataset, validation: str = "validation") -> xarray.Dataset:
    """Each lane at the record at which `validation` is least (of a value and its error, the value), its step as `stopped`.

    Records that are not finite do not count; of a lane that has none the last is taken, whatever it is.

    >>> steps = dict(step=[0, 10, 20], lane=[0])
    >>> records = xarray.Dataset({"validation": (("lane", "step"), [[3.0, 1.0, 2.0]]), "kl": (("lane", "step"), [[9.0, 5.0, 4.0]])}, steps)
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
    """For each case, a choice of the settings `cases`, those of `over` whose validation loss is least: the mean over other settings.

    Raises ValueError for a case whose lanes have all diverged.

    >>> lane = lambda values: ("lane", values)
    >>> loss = (("lane", "step"), [[3.0], [1.0]])
    >>> search = xarray.Dataset({"validation": loss}, {"step": [0], "n": lane([5, 5]), "rate": lane([0.1, 0.2])})
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
            told = ", ".join(f"{name} = {value}" for name, value in named.items())
            raise ValueError(f"no lane of {told} is finite for all settings of {', '.join(over)}; give smaller steps")
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
    """The settings of `over` chosen for each case by validation, and repetitions of these with new data.

    Args:
        cases: name of a setting -> its values; for each combination the choice is made anew (n, say).
        over: name -> the values to choose from, as learning_rate=[0.005, 0.05].
        method, rates, data, metrics, options: as for `sweep`; the metrics have one of the name `validation`, the less the better.
        folder: of both sweeps. seeds: of the search; repeats: of the repetitions, none of which may be one of the search.

    Raises ValueError for no settings, a setting that is in both, seeds that are in both, a validation that is no metric, and as `sweep` and
    `choose`.

    >>> import jax.numpy as jnp, tempfile; from dualebm.metrics import CrossEntropy; from dualebm.log_z.partition import sphere_quadrature
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> points = lambda key, n: Samples(Sphere(3).sample_base(key, n, jnp.float32))
    >>> found = select(
    ...     dict(n=[20]), dict(radius=[1.0, 5.0]), Dual(Sphere(3), neurons=4), None, points, repeats=[7, 8], steps=4, every=2,
    ...     metrics=lambda key: {"validation": CrossEntropy(points(key, 50), Sphere(3), sphere_quadrature(Sphere(3), 8))},
    ...     folder=tempfile.mkdtemp(), progress=False,
    ... )
    >>> [case["n"] for case in found.chosen], found.best.sizes["lane"]
    ([20], 2)
    """
    cases, over = ({name: list(values) for name, values in part.items()} for part in (cases, over))
    seeds, repeats = list(seeds), list(repeats)
    for name, part in (("cases", cases), ("over", over)):
        if not part or not all(part.values()):
            raise ValueError(f"{name} is {part}; it must have at least one setting, with at least one value")
    if both := sorted(set(seeds) & set(repeats)):
        raise ValueError(f"repeats has the seed {both[0]}, which the search has too; repetitions must have data of their own")
    if not seeds or not repeats:
        raise ValueError(f"seeds is {seeds} and repeats is {repeats}; each must have at least one seed")
    searched = cross(product(**cases), product(**over), product(seed=seeds))
    study, lanes = Study(method, rates, data, metrics), lanes_of(searched)
    study.check(lanes)
    checks.choice("validation", validation, study.make("metrics", lanes[0], {}))  # made once more than a sweep makes them: to know in time
    common: dict[str, Any] = dict(metrics=metrics, **options)
    search = sweep(searched, method, rates, data, folder=Path(folder) / "search", **common)
    chosen = choose(search, cases, over, validation)
    grid = cross(zipped(**{name: [case[name] for case in chosen] for name in chosen[0]}), product(seed=repeats))
    repeated = sweep(grid, method, rates, data, folder=Path(folder) / "repeats", **common)
    return Selection(search, chosen, repeated, stopped_early(repeated, validation).load())


def _loss(results: xarray.Dataset, validation: str) -> xarray.DataArray:
    """The validation loss along its settings and step: of (value, error) the value."""
    loss = results[validation].load()
    if "lane" not in loss.dims:
        raise ValueError(f"results has the dimensions {', '.join(map(str, loss.dims))}; it must have lane, as `sweep` returns it")
    extra = [name for name in loss.dims if name not in ("lane", "step")]
    return loss.isel(dict.fromkeys(extra, 0))
