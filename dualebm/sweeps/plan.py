"""A sweep that has been checked and not begun: its runs, what those of one static structure have alike, and how many fit the memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualebm.sweeps.grid import Grid, Replica, Study, identity, settings_of
from dualebm.sweeps.placement import Placement
from dualebm.training import prepare, run_folder, segments, sharding, simulate
from dualebm.training.fingerprint import describe

SEGMENTS = 5
"""A batch has about this many segments where `segment` is None."""


class Plan(NamedTuple):
    """A sweep that has been checked and not begun.

    study: what its runs have in common. replicas: its runs. each: the plan of each run. placement: where they are computed. mesh: of
    devices, None where there is one.
    """

    study: Study
    replicas: list[Replica]
    each: segments.Plan
    placement: Placement
    mesh: Mesh | None


def plan_of(
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
    segment: int | None = None,
    placement: Placement = Placement(),
) -> Plan:
    """The sweep that these arguments of `sweep` describe. Raises its ValueErrors."""
    segment = segments.segment_of(steps, every, segment, SEGMENTS)
    mesh = placement.check()
    study = Study(method, rates, data, metrics, schedule, common)
    runs = settings_of(grid)
    study.check(runs)
    replicas = [study.replica(i, settings) for i, settings in enumerate(runs)]
    settings = {
        **{name: describe(getattr(study, name)) for name in ("method", "rates", "data", "metrics", "schedule", "common")},
        "processes": int(placement.process[1]),
        "devices": 1 if mesh is None else mesh.size,
        "devices_per_run": 1 if mesh is None else mesh.shape[sharding.PARTICLES],
    }
    return Plan(study, replicas, segments.plan_of(settings, steps, every, segment), placement, mesh)


# -- The runs of one static structure ----------------------------------------------------------------


class Like(NamedTuple):
    """What the runs of a group have alike: data and metrics of one of them, the shapes of its state, what is recorded."""

    data: Any
    metrics: dict
    state: Any
    variables: dict[str, run_folder.Variable]


def like_of(plan: Plan, replica: Replica) -> Like:
    """The structure of a run, of which only the data and the metrics are computed."""
    data, metrics = (plan.study.make(name, replica.settings, {}) for name in ("data", "metrics"))
    data = jax.tree.map(jnp.asarray, data)
    prepare.check_names(metrics)
    check(plan, replica, data)
    rates = prepare.traced(replica.rates, data)
    state = eqx.filter_eval_shape(prepare.initial_state, replica.key, replica.method, rates, data)
    setup = simulate.Setup(replica.key, replica.method, rates, data, metrics, plan.each.every, replica.schedule)
    return Like(data, metrics, state, prepare.recorded(setup, state, plan.each.segment))


def check(plan: Plan, replica: Replica, data) -> None:
    """Raises the errors of the method's check and of the schedule, naming the run."""
    try:
        prepare.check_rates(replica.method, replica.rates, data, replica.schedule, int(plan.each.step[-1]))
    except ValueError as error:
        raise ValueError(f"run {replica.index}, {identity(replica.settings)}: {error}") from error


def shapes_of(plan: Plan, replica: Replica, like: Like, count: int):
    """The shapes of the states of so many runs, with their particles split where the plan has a mesh."""
    state = like.state if plan.mesh is None else jax.eval_shape(lambda state: sharding.split(replica.method, state), like.state)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)


def bytes_of_run(plan: Plan, replica: Replica, like: Like) -> int:
    """The memory that a run of a batch takes.

    It is that of its state three times (before, after, as good as it was), of data and metrics of its own twice (XLA copies what a loop
    over runs reads) and of its records. Where runs are vmapped, a program is compiled to see what one run needs besides to compute.
    """
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))  # noqa: E731
    own = [tree for name, tree in (("data", like.data), ("metrics", like.metrics)) if plan.study.varies(name)]
    records = plan.each.segment * sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in like.variables.values())
    scratch = 0
    if plan.placement.side_by_side() != 1:
        each, common = stack(plan, [replica], [(like.data, like.metrics)], like)
        program = simulate.run_replicas.lower(each, common, simulate.start_replicas(each, common), jnp.ones(2, bool))
        scratch = program.compile().compiled.memory_analysis().temp_size_in_bytes
    return 3 * size(like.state) + 2 * sum(map(size, own)) + records + scratch


def batch_size_of(plan: Plan, replicas: list[Replica], like: Like | None) -> int:
    """The size of the batches of a group of runs; `like` is found where it is needed and None."""
    one = replicas[0]
    return plan.placement.batch_size_of(plan.mesh, len(replicas), lambda: bytes_of_run(plan, one, like or like_of(plan, one)))


def stack(plan: Plan, replicas: list[Replica], made: list[tuple], like: Like) -> tuple[simulate.Setup, simulate.Setup]:
    """The setups of a batch: those arrays that its runs have each, stacked, and what all share; see `simulate.replicas`.

    made: data and metrics of each of the runs.
    """
    varies = [plan.study.varies(name) for name in ("data", "metrics")]

    def owned(pair):
        return tuple(eqx.filter(tree, eqx.is_array if own else lambda _: False) for tree, own in zip(pair, varies, strict=True))

    shared = (like.data, like.metrics)
    common: Any = tuple(eqx.filter(tree, eqx.is_array, inverse=True) if own else tree for tree, own in zip(shared, varies, strict=True))
    stacked = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    each: Any = jax.tree.map(stacked, *map(owned, made))
    rates = jax.tree.map(stacked, *(prepare.traced(replica.rates, data) for replica, (data, _) in zip(replicas, made, strict=True)))
    none = jax.tree.map(lambda _: None, rates)
    keys = jnp.stack([replica.key for replica in replicas])
    static = dict(method=replicas[0].method, every=plan.each.every, schedule=replicas[0].schedule)
    return (
        simulate.Setup(key=keys, rates=rates, data=each[0], metrics=each[1], **static),
        simulate.Setup(key=None, rates=none, data=common[0], metrics=common[1], **static),
    )
