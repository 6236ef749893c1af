"""Sweeps: thousands of runs over any settings, in batches of lanes that fit the memory, in one folder that survives anything.

The folder holds

    sweep.json           what all lanes have in common, and the lanes of each part
    part-K/              the lanes of one static structure: a folder as in `dualebm.store`, with results along (lane, step)

and, where several processes share the lanes, one such folder for each: process-I-of-P/. The lanes of a part go in batches, each of
them to its end before the next; a segment of a batch is committed as one of a run. New lanes become new parts.
"""

import collections
import contextlib
import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import xarray
from jax.sharding import Mesh

from dualebm import checks, mesh, run, saved, simulate, store
from dualebm.grid import Grid, Lane, Study, identity, lanes_of, signature
from dualebm.settings import check_settings, describe, provenance

SWEEP = "sweep.json"

SEGMENTS, LONGEST = 5, 100
"""A batch has about this many segments, each of at most this many records, where `segment` is None."""

MEMORY = 2**30
"""Bytes that the lanes of a batch may take, on a CPU; half of the memory elsewhere."""

MOST_LANES = 256
"""Of a batch: a kill loses the segment of at most so many."""


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
    folder: saved.PathLike | None = None,
    batch_size: int | None = None,
    segment: int | None = None,
    vmapped: int | None = None,
    devices: int | None = None,
    devices_per_run: int = 1,
    process: tuple[int, int] = (0, 1),
    note: Any = None,
    progress: bool = True,
) -> xarray.Dataset:
    """A run for each lane of a grid (see `dualebm.grid`), compiled once for each static structure (method, shapes).

    The same call with the same folder continues a sweep that was interrupted or killed, and then equals an uninterrupted one bit
    for bit; with a larger grid it adds lanes. A kill costs at most one segment of one batch.

    Args:
        grid: name of a setting -> its value in each lane: `product`, `zipped`, `draws` or `cross` of `dualebm.grid`.
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
            data of each lane (see `dualebm.mesh`).
        process: (index, count) where several processes share the lanes: this one has every count-th. They need not know each other.
        note: JSON that is kept in the folder, such as the flags of a command.
        progress: a bar on standard error, or a line of JSON for each segment where that is no terminal.

    Returns the results of the grid's lanes, in its order: each metric along (lane, step), the settings as coordinates; NaN where
    a lane diverged (`diverged` says why) or failed. `by_setting` makes the settings dimensions, `manifest` lists lanes and states.
    Raises ValueError naming the argument, the lane or the setting that is not allowed, before anything is compiled or written;
    OSError for a folder that cannot be written or that another process holds; KeyboardInterrupt as `run`.

    >>> from dualebm.grid import product
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> def data(key):
    ...     return Samples(Sphere(3).sample_base(key, 100, jnp.float32))
    >>> metrics = {"acceptance": lambda key, method, state, rates, data: state.acceptance}
    >>> grid = product(particle_step=[0.1, 0.3], seed=range(2))
    >>> results = sweep(grid, Dual(Sphere(3), neurons=8), None, data, steps=4, every=2, metrics=metrics, progress=False)
    >>> by_setting(results).acceptance.dims, by_setting(results).acceptance.shape
    (('particle_step', 'seed', 'step'), (2, 2, 3))
    """
    plan = plan_of(
        grid, method, rates, data, steps=steps, every=every, metrics=metrics, schedule=schedule, common=common,
        batch_size=batch_size, segment=segment, vmapped=vmapped, devices=devices, devices_per_run=devices_per_run, process=process,
    )  # fmt: skip
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return _sweep(plan, Path(temporary), note, progress).load()
    return _sweep(plan, Path(folder), note, progress)


class Plan(NamedTuple):
    """A sweep that has been checked and not begun: what its lanes have in common, and its lanes."""

    study: Study
    lanes: list[Lane]
    settings: dict
    attributes: dict
    step: np.ndarray
    every: int
    batch_size: int | None
    segment: int
    vmapped: int | None
    mesh: Mesh | None
    process: tuple[int, int]


def plan_of(
    grid, method, rates, data, *, steps, every, metrics, schedule=None, common=False, batch_size=None, segment=None,
    vmapped=None, devices=None, devices_per_run=1, process=(0, 1),
) -> Plan:  # fmt: skip
    """The sweep that the arguments of `sweep` describe. Raises its ValueErrors."""
    for name, value, smallest in (("every", every, 2), ("steps", steps, 1)):
        checks.count(name, value, smallest)
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {every}")
    total = steps // every + 1
    if segment is None:
        segment = min(max(2, math.ceil(total / SEGMENTS)), LONGEST)
    checks.count("segment", segment, 2)
    for name, value in (("batch_size", batch_size), ("vmapped", vmapped)):
        if value is not None:
            checks.count(name, value)
    index, count = process
    checks.count("the count of process", count)
    if not 0 <= index < count:
        raise ValueError(f"process is {process}; its index must be from 0 to {count - 1}")
    spread = None
    if devices is not None or devices_per_run != 1:
        spread = mesh.make(devices, devices_per_run)
        if vmapped is not None:
            raise ValueError(f"vmapped is {vmapped} and devices is {devices}; give one of them")
        if batch_size is not None and batch_size % spread.shape[mesh.RUNS]:
            raise ValueError(f"batch_size is {batch_size}; it must be a multiple of the lanes side by side, {spread.shape[mesh.RUNS]}")
    study = Study(method, rates, data, metrics, schedule, common)
    settings = lanes_of(grid)
    study.check(settings)
    lanes = [study.lane(i, lane) for i, lane in enumerate(settings)]
    source = provenance()
    shared = {
        **{name: describe(getattr(study, name)) for name in ("method", "rates", "data", "metrics", "schedule", "common")},
        "steps": int(steps),
        "every": int(every),
        "segment": int(segment),
        "processes": int(count),
        "backend": source["backend"],
        "devices": 1 if spread is None else spread.size,
        "devices_per_run": devices_per_run,
    }
    step = np.arange(total) * int(every)
    return Plan(study, lanes, shared, {**shared, **source}, step, int(every), batch_size, int(segment), vmapped, spread, process)


# -- The parts of a sweep --------------------------------------------------------------------------


class Part(NamedTuple):
    """Lanes of one static structure, in a folder of their own."""

    folder: Path
    lanes: list[Lane]
    batch_size: int


class Like(NamedTuple):
    """What the lanes of a part have alike: data and metrics of one of them, the shapes of its state, what is recorded."""

    data: Any
    metrics: dict
    state: Any
    variables: dict[str, store.Variable]


def like_of(study: Study, lane: Lane) -> Like:
    """The structure of a lane, found without computing more than its data and metrics."""
    data, metrics = (study.make(name, lane.settings, {}) for name in ("data", "metrics"))
    data = jax.tree.map(jnp.asarray, data)
    run.check_names(metrics)
    _check(lane, data)
    rates = run.traced(lane.rates, data)
    state = eqx.filter_eval_shape(run.initial_state, lane.key, lane.method, rates, data)
    return Like(data, metrics, state, run.recorded(lane.key, lane.method, state, rates, data, metrics))


def _check(lane: Lane, data) -> None:
    try:
        lane.method.check(lane.rates, data)
    except ValueError as error:
        raise ValueError(f"lane {lane.index}, {identity(lane.settings)}: {error}") from error


def _stacked(lane: Lane, like: Like, count: int, split: bool):
    """The shapes of the states of so many lanes, for a mesh with their particles split."""
    state = jax.eval_shape(lambda state: mesh.split(lane.method, state), like.state) if split else like.state
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)


def bytes_of_lane(plan: Plan, lane: Lane, like: Like) -> int:
    """Memory that a lane of a batch takes: its state (three times: before, after, as good as it was), data and metrics of its own, records.

    Where lanes are vmapped, what one lane needs to compute comes on top, from a program that is compiled to see it.
    """
    size = lambda tree: sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(eqx.filter(tree, _is_array)))  # noqa: E731
    own = [tree for name, tree in (("data", like.data), ("metrics", like.metrics)) if plan.study.varies(name)]
    records = plan.segment * sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in like.variables.values())
    scratch = 0
    if vmapped_lanes(plan) != 1:
        keys, rates, arrays, common = _stack(plan, [lane], [(like.data, like.metrics)], like)
        states = simulate.start_lanes(keys, lane.method, rates, arrays, common)
        program = simulate.run_lanes.lower(
            keys, lane.method, states, rates, arrays, common, jnp.ones(2, bool), plan.every, lane.schedule
        )
        scratch = program.compile().compiled.memory_analysis().temp_size_in_bytes
    return 3 * size(like.state) + sum(map(size, own)) + records + scratch


def _is_array(x):
    return hasattr(x, "shape") and hasattr(x, "dtype")


def vmapped_lanes(plan: Plan) -> int | None:
    """Lanes that are computed side by side; None for all of a batch."""
    return 1 if plan.vmapped is None and jax.default_backend() == "cpu" else plan.vmapped


def memory() -> int:
    """Bytes that the lanes of a batch may take."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics["bytes_limit"] // 2 if "bytes_limit" in statistics else MEMORY


def _batch_size(plan: Plan, lanes: list[Lane], like: Like | None) -> int:
    """At most the lanes that there are, and whole rows of the mesh: what is lacking in a batch are copies."""
    runs, per_run = (1, 1) if plan.mesh is None else plan.mesh.devices.shape
    whole = lambda count: math.ceil(count / runs) * runs  # noqa: E731
    if plan.batch_size is not None:
        return min(plan.batch_size, whole(len(lanes)))
    most = max(1, min(MOST_LANES, runs * per_run * memory() // bytes_of_lane(plan, lanes[0], like or like_of(plan.study, lanes[0]))))
    return whole(math.ceil(len(lanes) / math.ceil(len(lanes) / most)))


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
        like = like_of(plan.study, group[0])
        side = 1 if plan.mesh is None else plan.mesh.shape[mesh.RUNS]
        keys, rates, own, common = _stack(plan, group[:1] * side, [(like.data, like.metrics)] * side, like)
        start, advance = _programs(plan, group[0], keys, rates, own, common)
        states = start(None)
        timed = []
        for _ in range(3):
            begin = time.perf_counter()
            run.wait(advance(states, jnp.ones(plan.segment, bool)))
            timed.append(time.perf_counter() - begin)
        seconds = min(timed[1:]) / plan.segment * len(plan.step) * math.ceil(len(group) / side)
        size = _batch_size(plan, group, like)
        found.append(Forecast(group[0], len(group), size, size * bytes_of_lane(plan, group[0], like), seconds))
    return found


def _begin(plan: Plan, folder: Path, note: Any) -> list[Part]:
    """The parts of the folder, and new ones for the lanes that it does not have."""
    known: list[dict] = []
    if (folder / SWEEP).exists():
        found = read(folder)
        check_settings(f"folder {folder}", found["settings"], plan.settings)
        known = found["parts"]
    elif names := sorted(path.name for path in folder.iterdir() if not re.match(rf"part-\d+$|process-|\.{SWEEP}\.", path.name)):
        raise ValueError(f"folder {folder} holds other files ({', '.join(names[:3])}); give a new or an empty folder")
    index, count = plan.process
    mine = {identity(lane.settings): lane for lane in plan.lanes[index::count]}
    old = []
    for number, part in enumerate(known):
        lanes = [mine.get(identity(lane)) or Lane(-1, lane, None, None, None, None) for lane in part["lanes"]]
        old.append(Part(folder / f"part-{number}", lanes, part["batch_size"]))
    there = {identity(lane) for part in known for lane in part["lanes"]}
    groups = plan.study.groups([lane for name, lane in mine.items() if name not in there])
    likes = [like_of(plan.study, group[0]) for group in groups]
    for group, like in zip(groups, likes, strict=True):
        for lane in group:
            _check(lane, like.data)
        if plan.mesh is not None:
            mesh.check(plan.mesh, group[0].method, _stacked(group[0], like, plan.mesh.shape[mesh.RUNS], split=True), like.data)
    new = [
        Part(folder / f"part-{number}", group, _batch_size(plan, group, like))
        for number, (group, like) in enumerate(zip(groups, likes, strict=True), start=len(known))
    ]
    for part, like in zip(new, likes, strict=True):
        part.folder.mkdir(exist_ok=True)
        names = part.lanes[0].settings
        store.create_results(
            part.folder, plan.step, like.variables, chunk=(part.batch_size, plan.segment), lanes=len(part.lanes),
            coordinates={name: _column([lane.settings[name] for lane in part.lanes]) for name in names},
            attributes=plan.attributes,
        )  # fmt: skip
        _write_manifest(plan, part, 0, 0, {})
    if new:
        parts = [*known, *({"batch_size": p.batch_size, "lanes": [describe(x.settings) for x in p.lanes]} for p in new)]
        said = {"kind": "sweep", "format": saved.FORMAT, "settings": plan.settings, "parts": parts, "note": note}
        text = json.dumps(said, indent=1)
        saved.commit(folder / SWEEP, lambda path: path.write_text(text))
    return old + new


def _column(values: list) -> np.ndarray:
    """Values of a setting as a coordinate; what is no number and no text is told by its description."""
    if all(isinstance(value, (bool, int, float, np.number)) for value in values):
        return np.asarray(values)
    return np.asarray([value if isinstance(value, str) else json.dumps(describe(value)) for value in values])


def _write_manifest(plan: Plan, part: Part, batch: int, done: int, failed: dict[str, str]) -> None:
    """`batch` batches are done, and `done` records of the next; failed: position of a lane in the part -> why."""
    over = batch * part.batch_size >= len(part.lanes)
    said = {name: plan.attributes[name] for name in ("versions", "git_revision")}
    store.write_manifest(
        part.folder,
        {
            "status": "done" if over else "running",
            "lanes": len(part.lanes),
            "batch_size": part.batch_size,
            "batch": batch,
            "records": done,
            "of": len(plan.step),
            "checkpoint": f"checkpoint-{batch}-{done}.npz" if done else None,
            "failed": failed,
            **said,
        },
    )


# -- The loop --------------------------------------------------------------------------------------


def _sweep(plan: Plan, folder: Path, note: Any, progress: bool) -> xarray.Dataset:
    index, count = plan.process
    others = [path.name for path in (*sorted(folder.glob("process-*-of-*")), *folder.glob(SWEEP))]
    if wrong := [name for name in others if not name.endswith(SWEEP if count == 1 else f"-of-{count}")]:
        raise ValueError(f"folder {folder} has {wrong[0]}, of another number of processes than {count}; give the same number")
    own = folder if count == 1 else folder / f"process-{index}-of-{count}"
    with store.hold(own):
        every = _begin(plan, own, note)
        parts = [part for part in every if _manifest(part)["status"] != "done"]
        for part in parts:
            if lacking := [lane for lane in part.lanes if lane.index < 0]:
                raise ValueError(
                    f"folder {own} has lanes that are not done and that the grid lacks, such as {identity(lacking[0].settings)}; "
                    "the grid must have them"
                )
            if plan.batch_size is not None and _batch_size(plan, part.lanes, None) != part.batch_size:
                raise ValueError(f"batch_size is {plan.batch_size}; {part.folder} was begun with {part.batch_size}: give this or None")
        with run.deferred_signals() as signals, _progress(plan, parts, progress) as show:
            for part in parts:
                _run_part(plan, part, show, signals)
                if signals:
                    raise KeyboardInterrupt(f"{signals[0].name}; what is done is saved: the same call continues in {own}")
    if failed := [reason for part in every for reason in _manifest(part)["failed"].values()]:
        warnings.warn(f"{len(failed)} lanes failed, the first with {failed[0]}; `manifest` tells which", stacklevel=3)
    return open_sweep(own, [lane.settings for lane in plan.lanes[index::count]])


def _manifest(part: Part) -> dict:
    manifest = store.read_manifest(part.folder)
    if manifest is None:
        raise ValueError(f"folder {part.folder} has no manifest; the sweep cannot be continued: give another folder")
    return manifest


def _run_part(plan: Plan, part: Part, show: Callable, signals: list) -> None:
    """All batches of a part that are not done, each to its end."""
    manifest = _manifest(part)
    batch, done, failed = manifest["batch"], manifest["records"], manifest["failed"]
    total, size = len(plan.step), part.batch_size
    like = like_of(plan.study, part.lanes[0])
    known: Any = {}
    while batch * size < len(part.lanes) and not signals:
        chosen = part.lanes[batch * size : (batch + 1) * size]
        known = collections.ChainMap({}, dict(known))
        made, why = _make(plan, chosen, like, known)
        known = known.maps[0]
        failed |= {str(batch * size + i): reason for i, reason in why.items()}
        if not made:
            batch, done = batch + 1, 0
            _write_manifest(plan, part, batch, done, failed)
            continue
        # A batch is always of one size, so that it compiles once: what is missing is a copy of a lane that is there.
        filled = [i if i in made else next(iter(made)) for i in range(len(chosen))]
        filled += filled[-1:] * (size - len(filled))
        keys, rates, own, common = _stack(plan, [chosen[i] for i in filled], [made[i] for i in filled], like)
        first = chosen[0]
        start, advance = _programs(plan, first, keys, rates, own, common)
        if done:
            stacked = _stacked(first, like, size, split=plan.mesh is not None)
            states = start(saved.load_state(part.folder / manifest["checkpoint"], stacked, plan.settings))
        else:
            states = start(None)
        while done < total and not signals:
            begin = time.perf_counter()
            index = done + np.arange(plan.segment)
            active = jnp.asarray((index > 0) & (index < total))
            states, new = advance(states, active)
            run.wait(new)
            before, done = done, min(done + plan.segment, total)
            records = {name: np.array(new[name])[: len(chosen), : done - before] for name in like.variables}
            for i in why:
                for name, variable in like.variables.items():
                    records[name][i] = variable.fill
            store.write_results(part.folder, records, lane=batch * size, record=before)
            if done < total:
                saved.save_state(part.folder / f"checkpoint-{batch}-{done}.npz", states, plan.settings)
                _write_manifest(plan, part, batch, done, failed)
            else:
                _write_manifest(plan, part, batch + 1, 0, failed)
            show(part, batch, len(chosen), before, done, time.perf_counter() - begin)
        if done == total:
            batch, done = batch + 1, 0


def _programs(plan: Plan, lane: Lane, keys, rates, own, common) -> tuple[Callable, Callable]:
    """Functions that start the lanes of a batch, from saved states or None, and that take them a segment further."""
    method, schedule, grid = lane.method, lane.schedule, plan.mesh
    if grid is None:

        def start(states):
            states = simulate.start_lanes(keys, method, rates, own, common) if states is None else states
            return jax.tree.map(lambda x: x if saved.is_key(x) else jnp.asarray(x, x.dtype), states)

        def advance(states, active):
            return simulate.run_lanes(keys, method, states, rates, own, common, active, plan.every, schedule, vmapped_lanes(plan))

        return start, advance
    data, metrics = eqx.combine(own, common)
    shared = (not plan.study.varies("data"), not plan.study.varies("metrics"))

    def start_spread(states):
        if states is None:
            return mesh.initial(keys, method, rates, data, grid, shared[0])
        return mesh.place(grid, method, states, data, shared[0])[0]

    def advance_spread(states, active):
        return mesh.run_intervals(keys, method, states, rates, data, active, plan.every, metrics, schedule, grid, shared)

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
            made[i] = data, metrics
        except Exception as error:  # of the user's own functions: the other lanes go on
            why[i] = f"{type(error).__name__}: {error}"
    return made, why


def _stack(plan: Plan, lanes: list[Lane], made: list[tuple], like: Like):
    """Keys, rates and the lanes' own arrays of (data, metrics), stacked; and what they share."""
    varies = [plan.study.varies(name) for name in ("data", "metrics")]

    def owned(pair):
        return tuple(eqx.filter(tree, eqx.is_array if own else lambda _: False) for tree, own in zip(pair, varies, strict=True))

    shared = (like.data, like.metrics)
    common = tuple(
        eqx.filter(tree, eqx.is_array, inverse=True) if own else tree for tree, own in zip(shared, varies, strict=True)
    )
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    rates = [run.traced(lane.rates, data) for lane, (data, _) in zip(lanes, made, strict=True)]
    own = jax.tree.map(stack, *map(owned, made))
    return jnp.stack([lane.key for lane in lanes]), jax.tree.map(stack, *rates), own, common


@contextlib.contextmanager
def _progress(plan: Plan, parts: list[Part], progress: bool) -> Iterator[Callable]:
    """A function that shows a segment: on a bar, or as a line of JSON where standard error is no terminal."""
    lanes, records = sum(len(part.lanes) for part in parts), len(plan.step)
    behind = sum(m["batch"] * m["batch_size"] * records + m["records"] * m["batch_size"] for m in map(_manifest, parts))
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


# -- Reading ---------------------------------------------------------------------------------------


def read(folder: saved.PathLike) -> dict:
    """What a sweep's folder, or that of one of its processes, says of itself: `settings`, and `parts` with their lanes.

    Raises FileNotFoundError where there is no sweep, ValueError for a corrupt file and one of another format version.
    """
    path = Path(folder) / SWEEP
    if not path.exists():
        raise FileNotFoundError(2, f"folder {folder} holds no sweep ({SWEEP})")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}); give another folder") from error
    saved.check_format(path, found, "sweep")
    return found


def _folders(folder: Path) -> list[Path]:
    """Of the processes, or the folder itself."""
    found = sorted(folder.glob("process-*-of-*"), key=lambda path: int(path.name.split("-")[1]))
    return [path for path in found if (path / SWEEP).exists()] or [folder]


def _parts(folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    """The folders of the parts, and the settings of their lanes."""
    for own in _folders(folder):
        for number, part in enumerate(read(own)["parts"]):
            yield own / f"part-{number}", part["lanes"]


def open_sweep(folder: saved.PathLike, wanted: list[dict] | None = None) -> xarray.Dataset:
    """The results of a sweep, finished or running: metrics along (lane, step), the lanes' settings as coordinates.

    wanted: the settings of the lanes to return, in their order; None for all. NaN where nothing is written, -1 for integers;
    array-valued metrics of different shapes are filled up with NaN. Raises FileNotFoundError where there is no sweep.
    """
    found, lanes = [], []
    for path, settings in _parts(Path(folder)):
        found.append(store.open_results(path).drop_vars("lane"))
        lanes += settings
    largest = {dim: max(part.sizes.get(dim, 0) for part in found) for part in found for dim in part.dims if dim != "lane"}
    for i, part in enumerate(found):
        wider = {dim: (0, largest[dim] - size) for dim, size in part.sizes.items() if dim != "lane" and size < largest[dim]}
        found[i] = part.drop_vars([name for name in part.coords if name != "step"]).pad(wider)
    results = xarray.concat(found, "lane", data_vars="all", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    names = list(dict.fromkeys(name for settings in lanes for name in settings))  # in the order of the grid
    columns = {name: ("lane", _column([settings.get(name, math.nan) for settings in lanes])) for name in names}
    results = results.assign_coords(columns)
    if wanted is not None:
        position = {identity(settings): i for i, settings in enumerate(lanes)}
        results = results.isel(lane=[position[identity(lane)] for lane in wanted])
    return results.assign_coords(lane=np.arange(results.sizes["lane"]))


def by_setting(results: xarray.Dataset, names: Iterable[str] | None = None) -> xarray.Dataset:
    """Results along settings, one dimension each, in place of `lane`: those named, or None for all that vary.

    Raises ValueError where the lanes are not a product of these settings.
    """
    coordinates = [str(name) for name, values in results.coords.items() if values.dims == ("lane",) and name != "lane"]
    varied = [name for name in coordinates if len(np.unique(results[name])) > 1] or coordinates[-1:]
    varied = varied if names is None else list(names)
    for name in varied:
        checks.choice("names", name, coordinates)
    if math.prod(len(np.unique(results[name])) for name in varied) != results.sizes["lane"]:
        raise ValueError(f"the {results.sizes['lane']} lanes are not a product of {', '.join(varied)}; use them along lane")
    rest = [name for name in coordinates if name not in varied]
    found = results.drop_vars([*rest, "lane"]).set_index(lane=varied)
    if len(varied) == 1:
        return found.rename(lane=varied[0])
    return found.unstack("lane").transpose(*varied, ...)


def manifest(folder: saved.PathLike) -> list[dict[str, Any]]:
    """The lanes of a sweep, a dict each: `settings`, `part`, `state`, `step` and `why`.

    state: "done"; "running"; "waiting"; "diverged", in the interval that ends at `step`, with the cause; "failed", with the
    error. Raises FileNotFoundError where there is no sweep.
    """
    told = []
    for path, lanes in _parts(Path(folder)):
        there = store.read_manifest(path)
        if there is None:
            raise FileNotFoundError(2, f"folder {path} has no manifest")
        results = store.open_results(path)
        codes, steps = results["diverged"].values, results["step"].values
        for i, settings in enumerate(lanes):
            batch = i // there["batch_size"]
            records = there["of"] if batch < there["batch"] else there["records"] if batch == there["batch"] else 0
            step = int(steps[records - 1]) if records else 0
            state, why = "done" if records == there["of"] else "running" if records else "waiting", ""
            broken = np.flatnonzero(codes[i, :records] > 0)
            if str(i) in there["failed"]:
                state, why = "failed", there["failed"][str(i)]
            elif len(broken):
                state, step, why = "diverged", int(steps[broken[0]]), simulate.DIVERGENCE[codes[i, broken[0]]]
            told.append(dict(settings=settings, part=str(path), state=state, step=step, why=why))
    return told
