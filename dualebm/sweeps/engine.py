"""Sweeps: thousands of runs over any settings, in batches of lanes that fit the memory, in one folder that survives anything.

The lanes of a part, which have one static structure, go in batches, each of them to its end before the next; a segment of a batch is
committed as one of a run. See `dualebm.sweeps.folder` for the files, `dualebm.sweeps.plan` for what is settled before,
`dualebm.training.multihost` for lanes whose particles are on several hosts.
"""

import collections
import contextlib
import dataclasses
import json
import math
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import xarray

from dualebm.sweeps.folder import SWEEP, Part, begin, open_sweep, part_manifest, write_manifest
from dualebm.sweeps.grid import Grid, Lane, identity, signature
from dualebm.sweeps.plan import (
    Like,
    Plan,
    batch_size_of,
    bytes_of_lane,
    like_of,
    plan_of,
    stack_lanes,
    stacked_shapes,
    vmapped_lanes,
)
from dualebm.training import checkpoints, multihost, run, run_folder, sharding, simulate


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
    folder: checkpoints.PathLike | None = None,
    batch_size: int | None = None,
    segment: int | None = None,
    vmapped: int | None = None,
    devices: int | None = None,
    devices_per_run: int = 1,
    process: tuple[int, int] = (0, 1),
    note: Any = None,
    progress: bool = True,
) -> xarray.Dataset:
    """A run for each lane of a grid (see `dualebm.sweeps.grid`), compiled once for each static structure (method, shapes).

    The same call with the same folder continues a sweep that was interrupted or killed, and then equals an uninterrupted one bit
    for bit; with a larger grid it adds lanes. A kill costs at most one segment of one batch.

    Args:
        grid: name of a setting -> its value in each lane: `product`, `zipped`, `draws` or `cross` of `dualebm.sweeps.grid`.
        method, rates, data, metrics: as for `run`, or functions of those settings of the lane that their arguments name, as
            `data=lambda key, n: ...`, where `key` is of the seed; rates None for the method's own. What is drawn is keyed by the
            setting `seed`.
        steps, every, schedule: as for `run`.
        common: lanes of one seed have the same noise and start from the same neurons; else each lane has its own. Their data are
            the same in either case.
        folder: for results, checkpoints and manifests; None keeps the results in memory alone.
        batch_size: lanes that are in memory at a time; None for what fits. segment: records between checkpoints; None for a fifth.
        vmapped: lanes of a batch that are computed side by side; None for one on CPUs, whose cache holds one, else all.
        devices: that share the lanes of a batch; None for the first one alone. devices_per_run: of these, that share the particles and the
            data of each lane (see `training.sharding`). Processes that have joined (see `training.multihost`) share the particles of each
            lane over all of their devices: all of them make this call, with one folder.
        process: (index, count) where several processes share the lanes: this one has every count-th. They need not know each other.
        note: JSON that is kept in the folder, such as the flags of a command.
        progress: a bar on standard error, or a line of JSON for each segment where that is no terminal.

    Returns the results of the grid's lanes, in its order: each metric along (lane, step), the settings as coordinates; NaN where
    a lane diverged (`diverged` says why) or failed. `by_setting` makes the settings dimensions, `manifest` lists lanes and states.
    Raises ValueError naming the argument, the lane or the setting that is not allowed, before anything is compiled or written;
    OSError for a folder that cannot be written or that another process holds; KeyboardInterrupt as `run`.

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
        grid, method, rates, data, steps=steps, every=every, metrics=metrics, schedule=schedule, common=common,
        batch_size=batch_size, segment=segment, vmapped=vmapped, devices=devices, devices_per_run=devices_per_run, process=process,
    )  # fmt: skip
    if folder is None:
        if jax.process_count() > 1:
            raise ValueError(f"folder is None; the {jax.process_count()} processes that share the particles need one that they share")
        with tempfile.TemporaryDirectory() as temporary:
            return _sweep(plan, Path(temporary), note, progress).load()
    return _sweep(plan, Path(folder), note, progress)


class Forecast(NamedTuple):
    """Of the lanes of one static structure: how many, in batches of which size, bytes of a batch, and seconds for all of them."""

    lane: Lane
    lanes: int
    batch_size: int
    bytes: int
    seconds: float


def forecast(plan: Plan) -> list[Forecast]:
    """What a sweep will take, a `Forecast` for each static structure, from a lane of each that runs for `segment` records, compiled before.

    Compiling, and the making of data, come on top. Raises the errors of `sweep`.
    """
    found = []
    for group in plan.study.groups(plan.lanes[plan.process[0] :: plan.process[1]]):
        like = like_of(plan, group[0])
        side = 1 if plan.mesh is None else plan.mesh.shape[sharding.RUNS]
        start, advance = _programs(plan, *stack_lanes(plan, group[:1] * side, [(like.data, like.metrics)] * side, like))
        states = start(None)
        timed = []
        for _ in range(3):
            begin = time.perf_counter()
            run.wait(advance(states, jnp.ones(plan.segment, bool)))
            timed.append(time.perf_counter() - begin)
        seconds = min(timed[1:]) / plan.segment * len(plan.step) * math.ceil(len(group) / side)
        size = batch_size_of(plan, group, like)
        found.append(Forecast(group[0], len(group), size, size * bytes_of_lane(plan, group[0], like), seconds))
    return found


# -- The loop --------------------------------------------------------------------------------------


def _sweep(plan: Plan, folder: Path, note: Any, progress: bool) -> xarray.Dataset:
    index, count = plan.process
    others = [path.name for path in (*sorted(folder.glob("process-*-of-*")), *folder.glob(SWEEP))]
    if wrong := [name for name in others if not name.endswith(SWEEP if count == 1 else f"-of-{count}")]:
        raise ValueError(f"folder {folder} has {wrong[0]}, of another number of processes than {count}; give the same number")
    own = folder if count == 1 else folder / f"process-{index}-of-{count}"
    with contextlib.ExitStack() as stack:
        every = _begin_together(plan, own, note, stack)
        where = Whereabouts(None, lambda part, step: None)
        if jax.process_count() > 1:
            shard = multihost.shard_of(own)
            stack.enter_context(run_folder.hold(shard))
            where = Whereabouts(shard, stack.enter_context(multihost.presence(shard)))
        parts = [part for part in every if part_manifest(part)["status"] != "done"]
        for part in parts:
            if lacking := [lane for lane in part.lanes if lane.index < 0]:
                raise ValueError(
                    f"folder {own} has lanes that are not done and that the grid lacks, such as {identity(lacking[0].settings)}; "
                    "the grid must have them"
                )
            if plan.batch_size is not None and batch_size_of(plan, part.lanes, None) != part.batch_size:
                raise ValueError(f"batch_size is {plan.batch_size}; {part.folder} was begun with {part.batch_size}: give this or None")
        received = stack.enter_context(run.deferred_signals())
        show = stack.enter_context(_progress(plan, parts, progress and jax.process_index() == 0))

        def interrupted():
            """Whether one of the processes was told to stop: asked by all of them at the same places."""
            return bool(multihost.agree(bool(received), "signals").any())

        for part in parts:
            _run_part(plan, part, where, show, interrupted)
            drop_programs()
            if interrupted():
                name = received[0].name if received else "a signal to another process"
                raise KeyboardInterrupt(f"{name}; what is done is saved: the same call continues in {own}")
        if where.shard is not None:
            multihost.agree(True, "the end")  # of all results, without which the checkpoints are still needed
            for path in where.shard.glob("part-*/checkpoint-*.npz"):
                path.unlink()
    if failed := [reason for part in every for reason in part_manifest(part)["failed"].values()]:
        warnings.warn(f"{len(failed)} lanes failed, the first with {failed[0]}; `manifest` tells which", stacklevel=3)
    return open_sweep(own, [lane.settings for lane in plan.lanes[index::count]])


class Whereabouts(NamedTuple):
    """Where processes that share the particles have several folders: that of this one, else None; and a function that tells its place."""

    shard: Path | None
    tell: Callable

    def checkpoint(self, part: Part, batch: int, records: int) -> Path:
        """The checkpoint of a batch of a part after so many records."""
        folder = part.folder if self.shard is None else self.shard / part.folder.name
        return folder / f"checkpoint-{batch}-{records}.npz"


def _begin_together(plan: Plan, own: Path, note: Any, stack: contextlib.ExitStack) -> list[Part]:
    """The parts, which the first process prepares while it holds the folder, and which the others then find."""
    found, error = [], None
    if jax.process_index() == 0:
        try:
            stack.enter_context(run_folder.hold(own))
            _check_shards(own)
            if lost := multihost.tell_lost(multihost.processes(own)):
                warnings.warn(f"{lost}; the sweep continues from the last checkpoint of all", stacklevel=4)
            found = begin(plan, own, note)
        except Exception as raised:  # the others wait to hear of it
            error = raised
    refused = bool(multihost.agree(error is not None, "the folder").any())
    if error is not None:
        raise error
    if refused:
        raise RuntimeError("process 0 could not begin; its message says why")
    # Looked for by the others only now: a file system may remember that something was not there.
    if not multihost.agree((own / SWEEP).exists(), "the folder").all():
        raise ValueError(f"folder {own} is not the same for all processes; give one that they share")
    return found or begin(plan, own, note)


def _check_shards(own: Path) -> None:
    """Raises ValueError for a folder whose lanes have checkpoints of another number of processes."""
    count = jax.process_count()
    wrong = [path for path in own.glob("shard-*/part-*/checkpoint-*.npz") if not path.parent.parent.name.endswith(f"-of-{count}")]
    if count > 1:
        wrong += own.glob("part-*/checkpoint-*.npz")
    if wrong:
        raise ValueError(
            f"folder {own} has {wrong[0].relative_to(own)}, of another number of processes than the {count} that share the particles here; "
            "give the same number"
        )


MAPS, MOST_MAPS = Path("/proc/self/maps"), 20_000
"""The memory maps of this process on Linux, of which it allows 65,530, and how many may be kept from one part to the next."""


def drop_programs() -> None:
    """Drops compiled programs where they hold too many memory maps: a sweep of hundreds of structures would end in LLVM."""
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


def _run_part(plan: Plan, part: Part, where: Whereabouts, show: Callable, interrupted: Callable) -> None:
    """All batches of a part that are not done, each to its end."""
    manifest = part_manifest(part)
    failed = manifest["failed"]
    # The word of the first process, which writes the manifest.
    batch, done = map(int, multihost.agree([manifest["batch"], manifest["records"]], "the batch")[0])
    like = like_of(plan, part.lanes[0])
    known: Any = {}
    while batch * part.batch_size < len(part.lanes) and not interrupted():
        known = collections.ChainMap({}, dict(known))
        over = _run_batch(plan, part, batch, done, like, known, failed, where, show, interrupted)
        known = known.maps[0]
        if over:
            batch, done = batch + 1, 0


def _run_batch(plan: Plan, part: Part, batch: int, done: int, like: Like, known, failed: dict, where, show, interrupted) -> bool:
    """A batch from `done` records on; whether it came to its end. What it holds is let go before the next takes its place."""
    total, size, first = len(plan.step), part.batch_size, jax.process_index() == 0
    chosen = part.lanes[batch * size : (batch + 1) * size]
    made, why = _make(plan, chosen, like, known)
    failed |= {str(batch * size + i): reason for i, reason in why.items()}
    if not made:
        if first:
            write_manifest(plan, part, batch + 1, 0, failed)
        return True
    # A batch is always of one size, so that it compiles once: what is missing is a copy of a lane that is there.
    filled = [i if i in made else next(iter(made)) for i in range(len(chosen))]
    filled += filled[-1:] * (size - len(filled))
    each, common = stack_lanes(plan, [chosen[i] for i in filled], [made[i] for i in filled], like)
    del made
    start, advance = _programs(plan, each, common)
    done = _common(plan, part, where, batch, done)
    where.tell(part.folder.name, int(plan.step[max(done - 1, 0)]))
    states = start(_load(plan, part, where, batch, done, like) if done else None)
    while done < total and not interrupted():
        begun = time.perf_counter()
        index = done + np.arange(plan.segment)
        active = jnp.asarray((index > 0) & (index < total))
        states, new = advance(states, active)
        run.wait(new)
        before, done = done, min(done + plan.segment, total)
        if first:
            records = {name: np.array(new[name])[: len(chosen), : done - before] for name in like.variables}
            for i in why:
                for name, variable in like.variables.items():
                    records[name][i] = variable.fill
            run_folder.write_results(part.folder, records, lane=batch * size, record=before)
        if done < total:
            _save(plan, part, where, batch, before, done, states)
        if first:
            write_manifest(plan, part, *((batch, done) if done < total else (batch + 1, 0)), failed)
        where.tell(part.folder.name, int(plan.step[done - 1]))
        show(part, batch, len(chosen), before, done, time.perf_counter() - begun)
    return done == total


def _common(plan: Plan, part: Part, where: Whereabouts, batch: int, done: int) -> int:
    """The records of a batch to go on from: the last of which every process has its part of the checkpoint, a segment less at most."""
    if where.shard is None:
        return done
    for records in (done, done - plan.segment):
        if records > 0 and multihost.agree(where.checkpoint(part, batch, records).exists(), "the checkpoint").all():
            return records
    return 0


def _save(plan: Plan, part: Part, where: Whereabouts, batch: int, before: int, done: int, states) -> None:
    """The checkpoint of this process; one that shares the particles keeps that before it too, until all have theirs."""
    path = where.checkpoint(part, batch, done)
    path.parent.mkdir(exist_ok=True)
    checkpoints.save_state(path, states if plan.mesh is None else sharding.parts(states), plan.settings)
    if where.shard is not None:
        kept = {path, where.checkpoint(part, batch, before)}
        for other in set(path.parent.iterdir()) - kept:
            other.unlink()


def _load(plan: Plan, part: Part, where: Whereabouts, batch: int, done: int, like: Like):
    """What `_save` wrote."""
    lane = part.lanes[0]
    shapes = stacked_shapes(lane, like, part.batch_size, split=plan.mesh is not None)
    if where.shard is not None:
        own = lambda paired, x: jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] // jax.process_count()) if paired else x.shape, x.dtype)  # noqa: E731
        shapes = jax.tree.map(own, lane.method.paired(shapes), shapes)
    return checkpoints.load_state(where.checkpoint(part, batch, done), shapes, plan.settings)


def _programs(plan: Plan, each: simulate.Setup, common: simulate.Setup) -> tuple[Callable, Callable]:
    """Functions that start the lanes of a batch, from saved states or None, and that take them a segment further."""
    grid = plan.mesh
    if grid is None:

        def start(states):
            states = simulate.start_lanes(each, common) if states is None else states
            return jax.tree.map(lambda x: x if checkpoints.is_key(x) else jnp.asarray(x, x.dtype), states)

        def advance(states, active):
            return simulate.run_lanes(each, common, states, active, vmapped_lanes(plan))

        return start, advance
    setup = eqx.combine(each, common)
    shared = (not plan.study.varies("data"), not plan.study.varies("metrics"))
    setup = dataclasses.replace(setup, data=sharding.place_data(grid, setup.data, shared[0]))

    def start_spread(states):
        if states is None:
            return sharding.initial(setup, grid, shared[0])
        return sharding.assemble(grid, setup.method, states)

    def advance_spread(states, active):
        return sharding.run_intervals(setup, states, active, grid, shared)

    return start_spread, advance_spread


def _make(plan: Plan, chosen: list[Lane], like: Like, known) -> tuple[dict[int, tuple], dict[int, str]]:
    """Position in the batch -> data and metrics; and, for the lanes whose data or metrics cannot be made, why."""
    made, why = {}, {}
    expected = signature((like.data, like.metrics))
    for i, lane in enumerate(chosen):
        try:
            data, metrics = (plan.study.make(name, lane.settings, known) for name in ("data", "metrics"))
            data = jax.tree.map(jnp.asarray, data)
            lane.method.check(lane.rates, data)
            if signature((data, metrics)) != expected:
                raise ValueError("its data or metrics have other shapes than those of its part; the seed may not change them")
            made[i] = jax.block_until_ready((data, metrics))  # one at a time: what making them needs is let go
        except Exception as error:  # of the user's own functions: the other lanes go on
            why[i] = f"{type(error).__name__}: {error}"
    if jax.process_count() > 1:
        # Each process has its part of one lane: what one cannot make no other may, and all must have made the same.
        sums = [_checksum(made[i]) if i in made else 0 for i in range(len(chosen))]
        told = multihost.agree([[i in made for i in range(len(chosen))], sums], "the data")
        for i in range(len(chosen)):
            if not told[:, 0, i].all():
                why.setdefault(i, "another process could not make its data or metrics")
                made.pop(i, None)
            elif len(set(told[:, 1, i])) > 1:
                raise ValueError(f"lane {chosen[i].index}: the processes made different data or metrics; they must depend on the key alone")
    return made, why


def _checksum(tree) -> int:
    """Of the bytes of the arrays of a tree."""
    total = 0
    for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        total = zlib.crc32(np.ascontiguousarray(jax.random.key_data(x) if checkpoints.is_key(x) else x).tobytes(), total)
    return total


@contextlib.contextmanager
def _progress(plan: Plan, parts: list[Part], progress: bool) -> Iterator[Callable]:
    """A function that shows a segment: on a bar, or as a line of JSON where standard error is no terminal."""
    lanes, records = sum(len(part.lanes) for part in parts), len(plan.step)
    behind = sum(m["batch"] * m["batch_size"] * records + m["records"] * m["batch_size"] for m in map(part_manifest, parts))
    person = progress and sys.stderr.isatty()
    with tqdm.tqdm(total=lanes * records, initial=behind, unit="rec", file=sys.stderr, disable=not person) as bar:

        def show(part, batch, width, before, done, seconds):
            bar.set_postfix(part=part.folder.name, lanes=f"{batch * part.batch_size + width}/{len(part.lanes)}", refresh=False)
            bar.update(width * (done - before))
            if progress and not person:
                line = dict(
                    part=part.folder.name, lanes=[batch * part.batch_size, batch * part.batch_size + width],
                    step=int(plan.step[done - 1]), of=int(plan.step[-1]), seconds=round(seconds, 3),
                )  # fmt: skip
                print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201

        yield show


