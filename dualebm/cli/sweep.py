"""`dualebm sweep`: grids of runs on planted teachers, or on the rows of a file."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

import jax

from dualebm import metrics, settings
from dualebm._internal import checks, cores
from dualebm.cli import output, study
from dualebm.cli.commands import PASSING, Sweep, SweepRows
from dualebm.cli.methods import Given, build
from dualebm.cli.show import print_table
from dualebm.data import targets
from dualebm.methods.dual import DualRates, annealing_over
from dualebm.methods.presets import rates_from_paper
from dualebm.plotting import charts
from dualebm.sweeps.engine import forecast, sweep
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.plan import plan_of
from dualebm.training import multihost

SCALES = ("alpha", "beta", "step_size")
"""Flags that set the rates by the time scales of the paper."""

SCALED = tuple(name for name in DualRates._fields if name not in inspect.signature(rates_from_paper).parameters)
"""The rates that the time scales set."""

GRID = ("teacher", "n", *SCALES, "seed")
"""Fields of `Sweep` and `SweepRows` that are settings of the runs."""

CLUSTERS = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "pmi": ("PMI_RANK", "PMI_SIZE"),
}
"""The environment variables in which a launcher gives a process its index and the number of processes."""


WHOLE = re.compile(r"\d{1,9}", re.ASCII)
"""The index of a process and the number of processes as text."""


def run(settings: Sweep | SweepRows, given: Given) -> None:
    """Run, continue or forecast the sweep, and print its table. Raises ValueError for flags that are not allowed."""
    output.check_folder(settings.out)
    process = process_of(settings.process)
    if settings.coordinator is not None:
        if settings.process is None or (settings.coordinator == "auto" and settings.process not in ("slurm", "mpi")):
            allowed = "process must be slurm or mpi with auto, or such as 0/2 with an address"
            raise ValueError(f"coordinator is {settings.coordinator!r} and process is {settings.process!r}; {allowed}")
        multihost.join(settings.coordinator, *process)
        process = 0, 1
    elif settings.devices is None and settings.devices_per_run == 1:
        cores.make_devices()
    with jax.enable_x64(settings.precision == 64):
        with multihost.telling():
            planned = arguments(settings, given, process)
            if settings.dry_run:
                print_forecast(planned)
                return
        results = sweep(**planned, folder=settings.out, note=note(given))
    if not results.sizes["run"]:
        print(f"process {process[0]} of {process[1]} has none of the runs")
    elif multihost.is_first():
        planted = study.VALIDATION not in results
        print_table(results, "kl" if planted else study.VALIDATION)
        if not planted:
            print(study.least(results, charts.varied(results)))
        print(f"written to {settings.out}; dualebm show {settings.out} draws it")


def note(given: Given) -> dict[str, Any]:
    """Return the values of the flags that define the sweep by name, as JSON. The folder keeps them for --resume."""
    kept = {name: value for name, value in given.flags.items() if name not in PASSING and value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def process_of(text: str | None) -> tuple[int, int]:
    """Return the index of this process and the number of processes, from "0/4" or from a launcher's variables.

    Raises ValueError for another form, and when an environment variable of the launcher is not set.

    >>> process_of("1/4"), process_of(None)
    ((1, 4), (0, 1))
    """
    if text is None:
        return 0, 1
    if text in CLUSTERS:
        names = CLUSTERS[text]
        if lacking := [name for name in names if name not in os.environ]:
            raise ValueError(f"process is {text!r} and {lacking[0]} is not set; start it with the launcher, or give process as 0/4")
        for name in names:
            if not WHOLE.fullmatch(os.environ[name]):
                raise ValueError(f"process is {text!r} and {name} is {os.environ[name]!r}; it must be an integer of at least 0")
        index, count = (int(os.environ[name]) for name in names)
        return index, count
    index, _, count = text.partition("/")
    if not (WHOLE.fullmatch(index) and WHOLE.fullmatch(count)):
        raise ValueError(f"process is {text!r}; allowed: such as 0/4, or {', '.join(CLUSTERS)}")
    return int(index), int(count)


def values_of(settings: Sweep | SweepRows, given: Given) -> dict[str, list]:
    """Return the values of each setting of the grid. Raises ValueError, which names the flag, for flags that exclude each other."""
    fixed = {name: getattr(settings, name, None) for name in GRID}
    objects = given.choice.objects
    values = {name: list(listed) for name, listed in (fixed | given.values).items() if listed is not None and name not in objects}
    for name in values.get("teacher", ()):
        checks.choice("teacher", name, targets.TEACHERS)
    if "alpha" in values:
        if wrong := [name for name in SCALED if name in values]:
            both = f"{wrong[0]} is {_text(values[wrong[0]])} and alpha is {_text(values['alpha'])}"
            raise ValueError(f"{both}, which sets it; give one of them")
    elif wrong := [name for name in SCALES if name in values]:
        raise ValueError(f"{wrong[0]} is {_text(values[wrong[0]])} and alpha is not given; give alpha with it")
    elif settings.scale != Sweep.scale:
        raise ValueError(f"scale is {settings.scale!r} and alpha is not given; give alpha with it")
    return values


def _text(values: list) -> str:
    return ",".join(map(str, values))


def arguments(settings: Sweep | SweepRows, given: Given, process: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Return the arguments of `sweep`.

    Args:
        settings: the settings of the command.
        given: the settings of the method.
        process: the index of this process and the number of processes that share the runs.

    Returns:
        The arguments by name.

    Raises:
        ValueError: values are not allowed. The message names the flag.
        OSError: the file of the rows cannot be read.
    """
    values, scale = values_of(settings, given), settings.scale
    if isinstance(settings, SweepRows):
        rows = study.read(settings, split=settings.split)
        study.check_folder(settings.out, settings.data, rows)
        made = study.sources(given, rows, list(values))
    else:
        made = planted(settings, given, values)

    def rates(alpha, beta=10.0, step_size=0.2):
        return rates_from_paper(step_size, alpha, beta, scale=scale)

    return dict(
        grid=product(**values), **made._replace(rates=rates if "alpha" in values else made.rates)._asdict(),
        steps=settings.steps, every=settings.every, common=settings.common, schedule=annealing_over(settings.steps, settings.anneal),
        placement=Placement(settings.batch_size, None, settings.devices, settings.devices_per_run, process),
    )  # fmt: skip


def planted(settings: Sweep, given: Given, values: dict[str, list]) -> study.Sources:
    """Return the method, the data and the metrics of runs on planted teachers, whose rates are those of the method.

    Args:
        settings: the settings of the command.
        given: the settings of the method.
        values: the values of each setting of the grid.
    """
    # The functions below close over these values alone, which a sweep that continues compares with those in its folder.
    dtype, count = f"float{settings.precision}", settings.test_points

    def data(key, teacher, n):
        return targets.sample(key, targets.teacher(teacher, dtype), n)[0]

    def monitors(key, teacher):
        target = targets.teacher(teacher, dtype)
        return metrics.standard(target.space, target.energy, targets.sample(key, target, count)[0])

    return study.Sources(method_of(given, values, dtype), None, data, monitors)


def method_of(given: Given, values: dict[str, list], dtype: str) -> Any:
    """Return the function that makes the method of a run, for `sweep`.

    Args:
        given: the settings of the method.
        values: the values of each setting of the grid.
        dtype: the floating dtype.

    Returns:
        A function of the teacher and of the settings of objects of the method, such as those of its feature, that are in the grid.
    """
    choice, kinds = given.choice, [kind for kind in given.choice.objects.values() if kind is not None]
    names = [name for kind in kinds for name in settings.fields(kind) if name in values]

    def method(teacher, **changes):
        return build(choice, targets.teacher(teacher, dtype).space, changes)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("teacher", *names)]
    method.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return method


def print_forecast(given: dict[str, Any]) -> None:
    """Print the number of runs, the batches, the memory and the predicted time of a sweep."""
    forecasts = forecast(plan_of(**given))
    if not multihost.is_first():
        return
    for each in forecasts:
        about = ", ".join(f"{name} {value}" for name, value in each.replica.settings.items())
        print(
            f"{each.runs} runs like ({about}), in batches of {each.batch_size} ({each.bytes / 2**20:.0f} MiB): "
            f"about {each.seconds:.0f} s"
        )
    runs, seconds = sum(each.runs for each in forecasts), sum(each.seconds for each in forecasts)
    print(f"{runs} runs, {len(forecasts)} programs, about {seconds:.0f} s and the time to compile")
