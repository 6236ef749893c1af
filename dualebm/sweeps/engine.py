"""Sweeps: thousands of runs over any settings, in batches that fit the memory, in one folder that survives anything.

The runs of a group, which have one static structure, go in batches, each of them to its end before the next; a segment of a batch is
committed as one of a run. See `dualebm.sweeps.folder` for the files, `dualebm.sweeps.plan` for what is settled before,
`dualebm.sweeps.batch` for a batch, `dualebm.training.multihost` for runs whose particles are on several hosts.
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

from dualebm._internal import files
from dualebm.sweeps.batch import Session, programs, run_batch
from dualebm.sweeps.folder import SWEEP, Group, begin, group_manifest, open_sweep
from dualebm.sweeps.grid import Grid, Replica, identity
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.plan import Plan, batch_size_of, bytes_of_run, like_of, plan_of, stack
from dualebm.training import multihost, segments, sharding


def sweep(
    grid: Grid,
    method,
    rates,
    data,
    *,
    steps: int,
    every: int,
    metrics,
    schedule: Callable[[Any, Any], Any] | None = None,
    common: bool = False,
    folder: files.PathLike | None = None,
    segment: int | None = None,
    placement: Placement = Placement(),
    note: Any = None,
    progress: bool = True,
) -> xarray.Dataset:
    """Runs a method for each combination of settings of a grid, and compiles once for each static structure (method, shapes).

    The same call with the same folder continues a sweep that was interrupted or killed, and then equals an uninterrupted one bit
    for bit; with a larger grid it adds runs. A kill costs at most one segment of one batch.

    Args:
        grid: name of a setting -> its value in each run: `product`, `zipped`, `draws` or `cross` of `dualebm.sweeps.grid`.
        method: as for `run`, or a function of those settings of the run that its arguments name.
        rates: the same; None for the method's own.
        data: the same, as `lambda key, n: ...`, where `key` is of the setting `seed`. Draws are keyed by it alone.
        steps: iterations of each run, a multiple of `every`.
        every: iterations between records, at least 2.
        metrics: as for `run`, or a function as for `data`.
        schedule: as for `run`.
        common: runs of one seed have the same noise and start from the same neurons; else each run has its own. Their data are the
            same in either case.
        folder: for results, checkpoints and manifests; None keeps the results in memory alone.
        segment: records between checkpoints; None for a fifth of the run, at most 100.
        placement: runs in memory at a time, devices and processes.
        note: JSON that is kept in the folder, such as the flags of a command.
        progress: a bar on standard error, or a line of JSON for each segment where that is no terminal.

    Returns:
        The results of the runs of the grid, in its order: each metric along (run, step), the settings as coordinates; NaN where a run
        diverged (`diverged` says why) or failed. `by_setting` makes the settings dimensions, `manifest` lists runs and their states.

    Raises:
        ValueError: naming the argument, the run or the setting that is not allowed, before anything is compiled or written.
        OSError: for a folder that cannot be written or that another process holds.
        KeyboardInterrupt: as `run`.

    >>> from dualebm.sweeps.grid import product; from dualebm.metrics import Acceptance; from dualebm.sweeps.folder import by_setting
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> grid, metrics = product(particle_step=[0.1, 0.3], seed=range(2)), {"acceptance": Acceptance()}
    >>> results = sweep(
    ...     grid, Dual(Sphere(3), neurons=8), None, lambda key: Samples(jnp.eye(3)), steps=4, every=2, metrics=metrics, progress=False
    ... )
    >>> by_setting(results).acceptance.dims, by_setting(results).acceptance.shape
    (('particle_step', 'seed', 'step'), (2, 2, 3))
    """
    plan = plan_of(
        grid, method, rates, data, steps=steps, every=every, metrics=metrics, schedule=schedule, common=common, segment=segment,
        placement=placement,
    )  # fmt: skip
    with multihost.workplace(folder) as place:
        results = _sweep(plan, place, note, progress)
        return results.load() if folder is None else results


class Forecast(NamedTuple):
    """What the runs of one static structure will take.

    replica: one of them. runs: how many there are. batch_size: of their batches. bytes: of a batch. seconds: for all of them.
    """

    replica: Replica
    runs: int
    batch_size: int
    bytes: int
    seconds: float


def forecast(plan: Plan) -> list[Forecast]:
    """What a sweep will take, a `Forecast` for each static structure, from a run of each that is compiled and goes on for a segment.

    Compiling, and the making of data, come on top. Raises the errors of `sweep`.
    """
    forecasts = []
    for members in plan.study.groups(plan.placement.share(plan.replicas)):
        like = like_of(plan, members[0])
        side = 1 if plan.mesh is None else plan.mesh.shape[sharding.RUNS]
        start, advance = programs(plan, *stack(plan, members[:1] * side, [(like.data, like.metrics)] * side, like))
        states = start()
        timed = []
        for _ in range(3):
            begun = time.perf_counter()
            segments.wait(advance(states, jnp.ones(plan.each.segment, bool)))
            timed.append(time.perf_counter() - begun)
        seconds = min(timed[1:]) / plan.each.segment * len(plan.each.step) * math.ceil(len(members) / side)
        size = batch_size_of(plan, members, like)
        forecasts.append(Forecast(members[0], len(members), size, size * bytes_of_run(plan, members[0], like), seconds))
    return forecasts


# -- The loop --------------------------------------------------------------------------------------


def _sweep(plan: Plan, folder: Path, note: Any, progress: bool) -> xarray.Dataset:
    folder = _share_of(folder, plan.placement)
    with multihost.hosts(folder, SWEEP, lambda: begin(plan, folder, note)) as (hosts, groups):
        unfinished = [group for group in groups if group_manifest(group)["status"] != "done"]
        for group in unfinished:
            _check(plan, folder, group)
        shown = _progress(plan, unfinished, progress and hosts.writes)
        with segments.deferred_signals() as received, shown as show:
            # All processes ask at the same places whether one of them has received a signal.
            session = Session(plan, hosts, show, lambda: hosts.any(bool(received), "signals"))
            for group in unfinished:
                _run_group(session, group)
                drop_programs()
                if session.ended():
                    name = received[0].name if received else "a signal to another process"
                    raise KeyboardInterrupt(f"{name}; what is done is saved: the same call continues in {folder}")
    if failed := [reason for group in groups for reason in group_manifest(group)["failed"].values()]:
        warnings.warn(f"{len(failed)} runs failed, the first with {failed[0]}; `manifest` says which", stacklevel=3)
    return open_sweep(folder, [replica.settings for replica in plan.placement.share(plan.replicas)])


def _share_of(folder: Path, placement: Placement) -> Path:
    """The folder of this process's share of the runs. Raises ValueError where the folder was begun by another number of processes."""
    index, count = placement.process
    others = [path.name for path in (*sorted(folder.glob("process-*-of-*")), *folder.glob(SWEEP))]
    if wrong := [name for name in others if not name.endswith(SWEEP if count == 1 else f"-of-{count}")]:
        raise ValueError(f"folder {folder} has {wrong[0]}, of another number of processes than {count}; give the same number")
    return folder if count == 1 else folder / f"process-{index}-of-{count}"


def _check(plan: Plan, folder: Path, group: Group) -> None:
    """Raises ValueError for an unfinished group whose runs the grid lacks, or that was begun with another batch size."""
    if lacking := [replica for replica in group.replicas if replica.index < 0]:
        raise ValueError(
            f"folder {folder} has runs that are not done and that the grid lacks, such as {identity(lacking[0].settings)}; "
            "the grid must have them"
        )
    asked = plan.placement.batch_size
    if asked is not None and batch_size_of(plan, group.replicas, None) != group.batch_size:
        raise ValueError(f"batch_size is {asked}; {group.folder} was begun with {group.batch_size}: give this or None")


def _run_group(session: Session, group: Group) -> None:
    """Runs all batches of a group that are not done, each to its end."""
    manifest = group_manifest(group)
    failed = manifest["failed"]
    # The first process writes the manifest, and so knows it best.
    batch, done = session.hosts.first([manifest["batch"], manifest["records"]], "the batch")
    like = like_of(session.plan, group.replicas[0])
    known: Any = {}
    while batch * group.batch_size < len(group.replicas) and not session.ended():
        known = collections.ChainMap({}, dict(known))
        over = run_batch(session, group, batch, done, like, known, failed)
        known = known.maps[0]
        if over:
            batch, done = batch + 1, 0


MAPS, MOST_MAPS = Path("/proc/self/maps"), 20_000
"""The memory maps of this process on Linux, of which it allows 65,530, and how many may be kept from one group to the next."""


def drop_programs() -> None:
    """Drops compiled programs where they hold too many memory maps: a sweep of hundreds of structures would end in LLVM."""
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@contextlib.contextmanager
def _progress(plan: Plan, groups: list[Group], progress: bool) -> Iterator[Callable]:
    """A function that shows a segment: on a bar, or as a line of JSON where standard error is no terminal."""
    step = plan.each.step
    total = sum(len(group.replicas) for group in groups) * len(step)
    done = sum(m["batch"] * m["batch_size"] * len(step) + m["records"] * m["batch_size"] for m in map(group_manifest, groups))
    person = progress and sys.stderr.isatty()
    with segments.bar(total, done, "rec", person) as bar:

        def show(group, batch, width, before, done, seconds):
            first = batch * group.batch_size
            bar.set_postfix(group=group.folder.name, runs=f"{first + width}/{len(group.replicas)}", refresh=False)
            bar.update(width * (done - before))
            if progress and not person:
                line = dict(
                    group=group.folder.name, runs=[first, first + width], step=int(step[done - 1]), of=int(step[-1]),
                    seconds=round(seconds, 3),
                )  # fmt: skip
                print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201

        yield show
