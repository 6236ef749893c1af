"""A sweep that has been checked and not begun: its lanes, what those of one static structure have alike, and how many fit the memory."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualebm._internal import checks
from dualebm.sweeps.grid import Lane, Study, identity, lanes_of
from dualebm.training import run, run_folder, sharding, simulate
from dualebm.training.fingerprint import describe, provenance

SEGMENTS, LONGEST = 5, 100
"""A batch has about this many segments, each of at most this many records, where `segment` is None."""

MEMORY = 2**30
"""Bytes that the lanes of a batch may take, on a CPU; half of the memory elsewhere."""

MOST_LANES, MOST_IN_TURN = 256, 64
"""Of a batch, and of one whose lanes are computed one after another, which gains nothing by more: a kill loses a segment of as many."""


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
    if jax.process_count() > 1:
        every_device = jax.device_count()
        if (devices, devices_per_run) == (None, 1):
            devices = devices_per_run = every_device
        if not devices == devices_per_run == every_device:
            raise ValueError(
                f"devices is {devices} and devices_per_run is {devices_per_run}; {jax.process_count()} processes share the particles of "
                f"each lane, over all devices: leave both out, or give {every_device}"
            )
    if devices is not None or devices_per_run != 1:
        spread = sharding.make(devices, devices_per_run)
        if vmapped is not None:
            raise ValueError(f"vmapped is {vmapped} and devices is {devices}; give one of them")
        if batch_size is not None and batch_size % spread.shape[sharding.RUNS]:
            raise ValueError(f"batch_size is {batch_size}; it must be a multiple of the lanes side by side, {spread.shape[sharding.RUNS]}")
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


# -- The lanes of one static structure ---------------------------------------------------------------


class Like(NamedTuple):
    """What the lanes of a part have alike: data and metrics of one of them, the shapes of its state, what is recorded."""

    data: Any
    metrics: dict
    state: Any
    variables: dict[str, run_folder.Variable]


def like_of(plan: Plan, lane: Lane) -> Like:
    """The structure of a lane, found without computing more than its data and metrics."""
    data, metrics = (plan.study.make(name, lane.settings, {}) for name in ("data", "metrics"))
    data = jax.tree.map(jnp.asarray, data)
    run.check_names(metrics)
    check_lane(plan, lane, data)
    rates = run.traced(lane.rates, data)
    state = eqx.filter_eval_shape(run.initial_state, lane.key, lane.method, rates, data)
    setup = simulate.Setup(lane.key, lane.method, rates, data, metrics, plan.every, lane.schedule)
    return Like(data, metrics, state, run.recorded(setup, state, plan.segment))


def check_lane(plan: Plan, lane: Lane, data) -> None:
    """Raises the errors of the method's check and of the schedule, naming the lane."""
    try:
        run.check_rates(lane.method, lane.rates, data, lane.schedule, int(plan.step[-1]))
    except ValueError as error:
        raise ValueError(f"lane {lane.index}, {identity(lane.settings)}: {error}") from error


def stacked_shapes(lane: Lane, like: Like, count: int, split: bool):
    """The shapes of the states of so many lanes, for a mesh with their particles split."""
    state = jax.eval_shape(lambda state: sharding.split(lane.method, state), like.state) if split else like.state
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)


def bytes_of_lane(plan: Plan, lane: Lane, like: Like) -> int:
    """Memory that a lane of a batch takes: its state (three times: before, after, as good as it was), data and metrics of its own (twice:
    XLA copies what a loop over lanes reads), records.

    Where lanes are vmapped, what one lane needs to compute comes on top, from a program that is compiled to see it.
    """
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))  # noqa: E731
    own = [tree for name, tree in (("data", like.data), ("metrics", like.metrics)) if plan.study.varies(name)]
    records = plan.segment * sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in like.variables.values())
    scratch = 0
    if vmapped_lanes(plan) != 1:
        each, common = stack_lanes(plan, [lane], [(like.data, like.metrics)], like)
        program = simulate.run_lanes.lower(each, common, simulate.start_lanes(each, common), jnp.ones(2, bool))
        scratch = program.compile().compiled.memory_analysis().temp_size_in_bytes
    return 3 * size(like.state) + 2 * sum(map(size, own)) + records + scratch


def vmapped_lanes(plan: Plan) -> int | None:
    """Lanes that are computed side by side; None for all of a batch."""
    return 1 if plan.vmapped is None and jax.default_backend() == "cpu" else plan.vmapped


def memory() -> int:
    """Bytes that the lanes of a batch may take."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics["bytes_limit"] // 2 if "bytes_limit" in statistics else MEMORY


def batch_size_of(plan: Plan, lanes: list[Lane], like: Like | None) -> int:
    """At most the lanes that there are, and whole rows of the mesh: what is lacking in a batch are copies."""
    runs, per_run = (1, 1) if plan.mesh is None else plan.mesh.devices.shape
    whole = lambda count: math.ceil(count / runs) * runs  # noqa: E731
    if plan.batch_size is not None:
        return min(plan.batch_size, whole(len(lanes)))
    limit = MOST_IN_TURN if vmapped_lanes(plan) == 1 else MOST_LANES
    most = max(1, min(limit, runs * per_run * memory() // bytes_of_lane(plan, lanes[0], like or like_of(plan, lanes[0]))))
    return whole(math.ceil(len(lanes) / math.ceil(len(lanes) / most)))


def stack_lanes(plan: Plan, lanes: list[Lane], made: list[tuple], like: Like):
    """(each, common): the setups of lanes, stacked, and what they share: see `simulate.lanes`."""
    varies = [plan.study.varies(name) for name in ("data", "metrics")]

    def owned(pair):
        return tuple(eqx.filter(tree, eqx.is_array if own else lambda _: False) for tree, own in zip(pair, varies, strict=True))

    shared = (like.data, like.metrics)
    common: Any = tuple(
        eqx.filter(tree, eqx.is_array, inverse=True) if own else tree for tree, own in zip(shared, varies, strict=True)
    )
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    rates = [run.traced(lane.rates, data) for lane, (data, _) in zip(lanes, made, strict=True)]
    own: Any = jax.tree.map(stack, *map(owned, made))
    rates = jax.tree.map(stack, *rates)
    static = dict(method=lanes[0].method, every=plan.every, schedule=lanes[0].schedule)
    each = simulate.Setup(key=jnp.stack([lane.key for lane in lanes]), rates=rates, data=own[0], metrics=own[1], **static)
    none = jax.tree.map(lambda _: None, rates)
    return each, simulate.Setup(key=None, rates=none, data=common[0], metrics=common[1], **static)
