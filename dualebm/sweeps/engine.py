"""Sweeps: thousands of runs over any settings, in batches that fit the memory, in one folder that survives a kill.

The runs of a group have one static structure. They are computed in batches, each to its end before the next. A segment
of a batch is committed like a segment of a run. See `dualebm.sweeps.folder` for the files, `dualebm.sweeps.plan` for
the checks before a sweep, `dualebm.sweeps.batch` for a batch, and `dualebm.training.multihost` for several hosts.
"""

import collections
import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import xarray

from dualebm._internal import files, folders
from dualebm._internal.programs import drop_programs
from dualebm.measures import Samples
from dualebm.methods.base import Method
from dualebm.settings import Count, CountFrom2, checked
from dualebm.sweeps.batch import Session, programs, run_batch
from dualebm.sweeps.folder import SWEEP, Group, begin, group_manifest, open_sweep, read
from dualebm.sweeps.grid import Grid, Replica
from dualebm.sweeps.identity import in_words
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.plan import Plan, batch_size_of, bytes_of_run, like_of, plan_of, stack
from dualebm.training import multihost, run_folder, segments
from dualebm.training.descriptions import describe
from dualebm.training.fingerprint import check_settings, warn_of_versions
from dualebm.training.hosts import hosts


@checked
def sweep(
    grid: Grid,
    method: Method | Callable[..., Method],
    rates: Any,
    data: Samples | Callable[..., Samples],
    *,
    steps: Count,
    every: CountFrom2,
    metrics: dict[str, Callable] | Callable[..., dict[str, Callable]],
    schedule: Callable[[Any, Any], Any] | None = None,
    common: bool = False,
    folder: files.PathLike | None = None,
    segment: Count | None = None,
    placement: Placement = Placement(),
    note: Any = None,
    progress: bool = True,
) -> xarray.Dataset:
    """Run a method for each combination of settings of a grid, and compile once for each static structure (method, shapes).

    The same call with the same folder continues a sweep that was interrupted or killed. Its results then equal the
    results of an uninterrupted sweep bit for bit. A call with a larger grid adds runs. A kill costs at most one segment of one
    batch.

    Args:
        grid: For each setting its value in each run, as `product`, `zipped`, `draws` or `cross` of
            `dualebm.sweeps.grid` return it.
        method: A `Method`, or a function that returns one. The arguments of a function name the settings of the run
            that it takes.
        rates: The rates, or a function as for `method`; None for `method.rates`.
        data: The data, (n, d), or a function as for `method`, such as `lambda key, n: ...`. The argument `key` is a key
            of the setting `seed` alone.
        steps: The number of iterations of each run, a multiple of `every`.
        every: The number of iterations between records, at least 2.
        metrics: The metrics by name, as for `run`, or a function as for `data`.
        schedule: Pure, hashable function `(step, rates) -> rates`, applied before each iteration, or None.
        common: Whether runs of one seed have the same noise and start from the same neurons. Otherwise each run has its
            own. Runs of one seed have the same data in either case.
        folder: The folder of results, checkpoints and manifests. None keeps the results in memory alone.
        segment: The number of records between checkpoints; None for a fifth of the run, at most 100.
        placement: The batch size, devices and processes.
        note: JSON that is stored in the folder, such as the flags of a command.
        progress: Whether to show a bar on standard error. Where that is no terminal, a line of JSON is printed for each
            segment.

    Returns:
        The results of the runs of the grid, in its order: each metric along (run, step), with the settings as
        coordinates. Values are NaN where a run diverged (`diverged` holds the cause) or failed. `by_setting` turns
        settings into dimensions, and `manifest` lists the runs and their states.

    Raises:
        ValueError: When an argument, a run or a setting is not allowed, before anything is compiled or written.
        OSError: When the folder cannot be written, or another process holds it; when another of the processes that share the
            particles ended with an error.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the current segment is done and saved. A second signal interrupts
            at once.

    >>> from dualebm.sweeps.grid import product; from dualebm.metrics import Acceptance; from dualebm.sweeps.folder import by_setting
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> grid, metrics = product(particle_step=[0.1, 0.3], seed=range(2)), {"acceptance": Acceptance()}
    >>> results = sweep(
    ...     grid, Dual(Sphere(3), neurons=8), None, lambda key: Samples(jnp.eye(3)), steps=4, every=2, metrics=metrics, progress=False
    ... )
    >>> by_setting(results).acceptance.dims, by_setting(results).acceptance.shape
    (('particle_step', 'seed', 'step'), (2, 2, 3))
    """
    try:
        json.dumps(note)
    except (TypeError, ValueError) as error:
        raise ValueError(f"note is {note!r:.200}; it must be JSON: numbers, text, lists and dictionaries ({error})") from error
    with multihost.telling():
        plan = plan_of(
            grid, method, rates, data, steps=steps, every=every, metrics=metrics, schedule=schedule, common=common, segment=segment,
            placement=placement,
        )  # fmt: skip
        _check_alike(plan, "sweep", note)
        with multihost.workplace(folder) as place:
            results = _sweep(plan, place, note, progress)
            return results.load() if folder is None else results


class Forecast(NamedTuple):
    """The predicted cost of the runs of one static structure.

    Args:
        replica: One of the runs.
        runs: The number of runs.
        batch_size: The number of runs in a batch.
        bytes: The memory of a batch.
        seconds: The time of all runs.
    """

    replica: Replica
    runs: int
    batch_size: int
    bytes: int
    seconds: float


@checked
def forecast(plan: Plan) -> list[Forecast]:
    """Return the predicted cost of a sweep, for each static structure.

    A run of each structure is compiled and timed for a segment. The time to compile and to make data is not included.

    Args:
        plan: the plan of the sweep.

    Returns:
        The forecasts.

    Raises:
        ValueError: the plan is not allowed (see `sweep`).
    """
    _check_alike(plan, "forecast", None)
    forecasts = []
    for members in plan.study.groups(plan.placement.share(plan.replicas)):
        like = like_of(plan, members[0])
        size = batch_size_of(plan, members, like)
        side = plan.placement.at_once(plan.mesh, size)
        start, advance = programs(plan, *stack(plan, members[:1] * side, [(like.data, like.metrics)] * side, like))
        states = start()
        timed = []
        for _ in range(3):
            begun = time.perf_counter()
            segments.wait(advance(states, jnp.ones(plan.each.segment, bool)))
            timed.append(time.perf_counter() - begun)
        seconds = min(timed[1:]) / plan.each.segment * len(plan.each.step) * math.ceil(len(members) / side)
        forecasts.append(Forecast(members[0], len(members), size, size * bytes_of_run(plan, members[0], like), seconds))
    return forecasts


# -- The loop --------------------------------------------------------------------------------------


def _sweep(plan: Plan, folder: Path, note: Any, progress: bool) -> xarray.Dataset:
    folder = _share_of(folder, plan)
    with hosts(folder, SWEEP, lambda: begin(plan, folder, note)) as (host, groups):
        for group in groups:
            run_folder.open_results(group.folder).close()  # records that are done and lost are an error before any work
        manifests = [group_manifest(group) for group in groups]
        if host.writes:
            warn_of_versions(f"folder {folder}", manifests, plan.each.attributes, stacklevel=3)
        unfinished = [group for group, manifest in zip(groups, manifests, strict=True) if manifest["status"] != "done"]
        for group in unfinished:
            _check(plan, folder, group)
        shown = _progress(plan, unfinished, progress and host.writes)
        with segments.deferred_signals(host.writes, progress) as received, shown as show:
            # All processes must ask at the same places whether one of them has received a signal.
            session = Session(plan, host, show, lambda: host.any(bool(received), "signals"))
            for group in unfinished:
                _run_group(session, group)
                drop_programs()
                if session.ended():
                    name = received[0].name if received else "a signal to another process"
                    raise KeyboardInterrupt(f"{name}; the sweep so far is saved, and the same call continues it in {folder}")
    if failed := [reason for group in groups for reason in group_manifest(group)["failed"].values()]:
        warnings.warn(f"{len(failed)} runs failed, the first with {failed[0]}; `manifest` lists them", stacklevel=3)
    return open_sweep(folder, [replica.settings for replica in plan.placement.share(plan.replicas)])


def _check_alike(plan: Plan, call: str, note: Any) -> None:
    """Raise ValueError where processes that share the particles were not started alike. No process has written anything yet."""
    if jax.process_count() == 1:
        return
    multihost.check_alike({"call": call})
    named = note if isinstance(note, dict) else {"note": note}
    runs = [describe(replica.settings) for replica in plan.replicas]
    software = {name: plan.each.attributes[name] for name in ("versions", "git_revision")}
    multihost.check_alike({**named, "settings": plan.each.settings, "runs": runs, "batch_size": plan.placement.batch_size, **software})


def _share_of(folder: Path, plan: Plan) -> Path:
    """Return the folder of this process's share of the runs.

    Raise ValueError where the folder was begun by another number of processes, or another process has begun another sweep.
    """
    index, count = plan.placement.process
    others = [path.name for path in (*sorted(folder.glob("process-*-of-*")), *folder.glob(SWEEP))]
    if wrong := [name for name in others if not name.endswith(SWEEP if count == 1 else f"-of-{count}")]:
        raise ValueError(f"folder {folder} has {wrong[0]}, of another number of processes than {count}; give the same number")
    for path in folder.glob(f"process-*-of-{count}"):
        if (path / SWEEP).exists():
            check_settings(f"folder {path}", read(path)["settings"], plan.each.settings)
    if count == 1:
        return folder
    folders.refuse_link(share := folder / f"process-{index}-of-{count}")
    return share


def _check(plan: Plan, folder: Path, group: Group) -> None:
    """Raise ValueError for an unfinished group with runs that the grid lacks, or with another batch size."""
    if lacking := [replica for replica in group.replicas if replica.index < 0]:
        raise ValueError(
            f"the grid lacks runs that are not done in folder {folder}, such as {in_words(lacking[0].settings)}; the grid must have them"
        )
    wanted = plan.placement.batch_size
    if wanted is not None and batch_size_of(plan, group.replicas, None) != group.batch_size:
        raise ValueError(f"batch_size is {wanted}; {group.folder} was begun with {group.batch_size}: give this or None")


def _run_group(session: Session, group: Group) -> None:
    """Run all batches of a group that are not done, each to its end."""
    manifest = group_manifest(group)
    failed = manifest["failed"]
    # The first process writes the manifest. Another may read an older one from a shared file system.
    batch, done = session.hosts.first([manifest["batch"], manifest["records"]], "the batch")
    like = like_of(session.plan, group.replicas[0])
    known: Any = {}
    while batch * group.batch_size < len(group.replicas) and not session.ended():
        known = collections.ChainMap({}, dict(known))
        over = run_batch(session, group, batch, done, like, known, failed)
        known = known.maps[0]
        if over:
            batch, done = batch + 1, 0


@contextlib.contextmanager
def _progress(plan: Plan, groups: list[Group], progress: bool) -> Iterator[Callable]:
    """Give a function that shows a segment: on a bar, or as a line of JSON where standard error is no terminal."""
    step = plan.each.step
    total = sum(len(group.replicas) for group in groups) * len(step)
    done = sum(m["batch"] * m["batch_size"] * len(step) + m["records"] * m["batch_size"] for m in map(group_manifest, groups))
    terminal = progress and sys.stderr.isatty()
    with segments.bar(total, done, "rec", terminal) as bar:

        def show(group, batch, width, before, done, seconds):
            first = batch * group.batch_size
            bar.set_postfix(group=group.folder.name, runs=f"{first + width}/{len(group.replicas)}", refresh=False)
            bar.update(width * (done - before))
            if progress and not terminal:
                line = dict(
                    group=group.folder.name, runs=[first, first + width], step=int(step[done - 1]), of=int(step[-1]),
                    seconds=round(seconds, 3),
                )  # fmt: skip
                print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201

        yield show
