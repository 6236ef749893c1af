"""`dualebm select`: settings chosen by the validation loss on the rows of a file, with a test on rows that took no part."""

import dataclasses
import math
import shlex
import statistics
from typing import Any

import jax
import numpy as np
import xarray

from dualebm import model, rivals
from dualebm._internal import cores
from dualebm.cli import evaluate, output, study
from dualebm.cli.commands import Points, Precision, Select, Table
from dualebm.cli.flags import spell
from dualebm.cli.methods import Given, rates_class
from dualebm.cli.sweep import note
from dualebm.methods.dual import annealing_over
from dualebm.sweeps import selection
from dualebm.sweeps.placement import Placement

WIDTH = 44
"""The width of the names in the table of losses on the test rows."""


def run(settings: Select, given: Given) -> None:
    """Search, choose, repeat, and print the losses and the command that fits the choice. Raises ValueError for what is not allowed."""
    output.check_folder(settings.out)
    values = {name: list(listed) for name, listed in given.values.items() if name not in given.choice.objects}
    cases, over = ({name: listed for name, listed in values.items() if (len(listed) > 1) == several} for several in (False, True))
    if not over:
        example = rates_class(given.choice.kind)._fields[-1].replace("_", "-")
        raise ValueError(f"no setting of the method has several values to choose from; give one a list, such as --{example} 1,3,10")
    if settings.devices is None and settings.devices_per_run == 1:
        cores.make_devices()
    with jax.enable_x64(settings.precision == 64):
        rows = study.read(settings, split=settings.split, validation=settings.validation)
        for folder in selection.sweeps_of(settings.out):
            study.check_folder(folder, settings.data, rows)
        found = selection.select(
            cases, over, **study.sources(given, rows, [*cases, *over])._asdict(), folder=settings.out, seeds=settings.seed,
            repeats=settings.repeats, steps=settings.steps, every=settings.every, common=settings.common, note=note(given),
            schedule=annealing_over(settings.steps, settings.anneal), validation=study.VALIDATION,
            placement=Placement(settings.batch_size, None, settings.devices, settings.devices_per_run),
        )  # fmt: skip
        train, validation, test = (len(part) for part in rows.divided(settings.seed[0]))
        print(f"{train} rows of {settings.data} to train on, {validation} to validate, {test} to test")
        print("\n".join(searched(found.search, list(over), found.chosen[0])))
        print("\n".join(tested(found.best, rows, settings.split)))
    stop = statistics.median_high(found.best.stopped.values.tolist())
    print(f"to fit the choice to all rows but the test rows:\n{shlex.join(fit_words(settings, given, found.chosen[0], stop))}")
    print(f"written to {settings.out}; dualebm show {settings.out} draws it")


def searched(search: xarray.Dataset, over: list[str], chosen: dict[str, Any]) -> list[str]:
    """Return a table with a line for each combination of the settings to choose from.

    A line has the mean, the least and the largest validation loss over the seeds, each run at its early stop, and the median of the steps
    at which the runs stop.

    Args:
        search: the results of the search.
        over: the names of the settings.
        chosen: the chosen settings, which are marked.

    Returns:
        The lines.
    """
    best = selection.stopped_early(search, study.VALIDATION)
    groups: dict[tuple, list[int]] = {}
    for run in range(best.sizes["run"]):
        groups.setdefault(tuple(best[name].values[run].item() for name in over), []).append(run)
    widths = [max(len(name), 9) for name in over]
    heads = [f"{name:>{width}}" for name, width in zip(over, widths, strict=True)]
    lines = ["  ".join([*heads, *(f"{head:>11}" for head in (study.VALIDATION, "least", "largest")), "   step"])]
    for key, runs in groups.items():
        losses, stops = best[study.VALIDATION].values[runs], best.stopped.values[runs].tolist()
        cells = [f"{value:>{w}}" if isinstance(value, str) else f"{value:>{w}.5g}" for value, w in zip(key, widths, strict=True)]
        numbers = [f"{value:>11.5g}" for value in (np.mean(losses), np.min(losses), np.max(losses))]
        mark = "  chosen" if key == tuple(chosen[name] for name in over) else ""
        lines.append("  ".join([*cells, *numbers, f"{statistics.median_high(stops):>7}"]) + mark)
    return lines


def tested(best: xarray.Dataset, rows: study.Rows, seed: int) -> list[str]:
    """Return a table with the loss of the choice on the test rows, and the losses of simple densities.

    The simple densities are fitted to all rows but the test rows, on which the runs train and are validated.

    Args:
        best: the repetitions at their early stops, along run.
        rows: the rows.
        seed: the seed of the test rows.

    Returns:
        The lines.
    """
    train, test, _, prepared = dataclasses.replace(rows, validation=None).parts(seed)
    known, count = best[study.TEST].values[np.isfinite(best[study.TEST].values)].tolist(), best.sizes["run"]
    about = f"the choice, mean of {len(known)} of {count} repetitions"
    spread = f" (+- {statistics.stdev(known) / math.sqrt(len(known)):.2g} over the repetitions)" if len(known) > 1 else ""
    errors = [float(np.nanmean(best[study.TEST_ERROR].values))] if known else []
    lines = [_loss(about, statistics.mean(known), *errors) + spread if known else f"{about:>{WIDTH}}  log Z is not known"]
    for name, fit in rivals.fits_of(prepared.space).items():
        try:
            log_density = fit(np.asarray(train.points), evaluate.shares_of(train)).log_density(prepared.space, test.points)
        except (ValueError, ImportError) as error:
            lines.append(f"{name:>{WIDTH}}  cannot be fitted: {error}")
            continue
        values = model.log_unit(prepared) - np.asarray(log_density, np.float64)
        lines.append(_loss(name, *model.mean_with_error(values, shares=evaluate.shares_of(test))))
    return ["loss on the test rows in nats, with its standard error over these rows:", *lines]


def _loss(name: str, value: float, error: float | None) -> str:
    return f"{name:>{WIDTH}}  {value:>9.5g}" + ("" if error is None or not math.isfinite(error) else f" +- {error:.2g}")


def fit_words(settings: Select, given: Given, chosen: dict[str, Any], stop: int) -> list[str]:
    """Return the words of the `dualebm fit` command that fits the choice, and holds out the test rows.

    Args:
        settings: the settings of the command.
        given: the settings of the method.
        chosen: the values of the settings of the grid.
        stop: the iteration at which the repetitions stop.

    Returns:
        The words.
    """
    fixed = {f.name: f for kind in (Table, Points, Precision) for f in dataclasses.fields(kind)}
    given_flags = {name: getattr(settings, name) for name, field in fixed.items() if getattr(settings, name) != field.default}
    del given_flags["data"]
    objects = {name: word for name, word in given.flags.items() if name in given.choice.objects and word is not None}
    growth = math.ceil(settings.anneal * settings.steps)  # the iterations in which the radius grows
    steps = max(stop, settings.every, -(-growth // settings.every) * settings.every)
    run: dict[str, Any] = {"steps": steps, "every": settings.every, "validation": 0.0, "seed": settings.split, "out": f"{settings.out}/fit"}
    if "anneal" in given.flags:
        run["anneal"] = (growth - 0.5) / steps if growth else 0.0
    flags = given_flags | {"method": given.choice.name} | objects | chosen | run
    words = ["dualebm", "fit", str(settings.data)]
    for name, value in flags.items():
        spelt = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{spelt}"] if isinstance(value, bool) else [f"--{spelt}", spell(value)]
    return words
