"""The plan of a sweep, checked before anything is run: its runs, their common structure, and the batch sizes that fit the memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualebm.sweeps.grid import Grid, Replica, Study, settings_of
from dualebm.sweeps.identity import in_words
from dualebm.sweeps.placement import Placement
from dualebm.training import prepare, run_folder, segments, sharding, simulate
from dualebm.training.descriptions import describe

SEGMENTS = 5
"""The approximate number of segments of a batch where `segment` is None."""


class Plan(NamedTuple):
    """A sweep that has been checked but not begun.

    Args:
        study: What its runs have in common.
        replicas: Its runs.
        each: The plan of each run.
        placement: Where the runs are computed.
        mesh: The mesh of the devices, or None for one device.
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
    """Return the plan of a sweep.

    Args:
        grid: For each setting its value in each run.
        method: A `Method`, or a function of settings that returns one.
        rates: The rates, or a function of settings; None for `method.rates`.
        data: The data, (n, d), or a function of settings and `key`.
        steps: The number of iterations of each run, a multiple of `every`.
        every: The number of iterations between records, at least 2.
        metrics: The metrics by name, or a function of settings and `key`.
        schedule: Pure, hashable function `(step, rates) -> rates`, or None. It is static in the compiled program.
        common: Whether runs of one seed have the same noise and the same start.
        segment: The number of records between checkpoints; None for a fifth of the run, at most 100.
        placement: The batch size, devices and processes.

    Returns:
        The plan.

    Raises:
        ValueError: When an argument, a run or a setting is not allowed.
    """
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
    """The common structure of the runs of a group: they have the same method, schedule and array shapes, and share a compiled program.

    Args:
        data: The data of one of the runs.
        metrics: The metrics of one of the runs, by name.
        state: The shapes and dtypes of the state of one run, a pytree of `jax.ShapeDtypeStruct`.
        variables: For each name the shape, dtype and labels of one record.
    """

    data: Any
    metrics: dict
    state: Any
    variables: dict[str, run_folder.Variable]


def like_of(plan: Plan, replica: Replica) -> Like:
    """Return the structure that a run has in common with the runs of its group, which share a compiled program.

    The data and the metrics of the run are made. Of its state and its records only shapes and dtypes are found, without running it.

    Args:
        plan: The plan of the sweep.
        replica: The run.

    Returns:
        The data, the metrics, the shapes of the state, and the shape, dtype and labels of each recorded variable.

    Raises:
        ValueError: When the data, the rates or the name of a metric are not allowed.
    """
    data, metrics = (plan.study.make(name, replica.settings, {}) for name in ("data", "metrics"))
    data = jax.tree.map(jnp.asarray, data)
    prepare.check_names(metrics)
    check(plan, replica, data)
    rates = prepare.traced(replica.rates, data)
    state = eqx.filter_eval_shape(prepare.initial_state, replica.key, replica.method, rates, data)
    prepare.check_memory(replica.method, state)
    setup = simulate.Setup(replica.key, replica.method, rates, data, metrics, plan.each.every, replica.schedule)
    return Like(data, metrics, state, prepare.recorded(setup, state, plan.each.segment))


def check(plan: Plan, replica: Replica, data) -> None:
    """Check the rates and the data of a run with the `check` of its method.

    With a schedule, the rates of all iterations are computed, and the check is repeated at the iterations in which one of the rates
    has its least or its largest value.

    Args:
        plan: The plan of the sweep.
        replica: The run.
        data: The data of the run, with points (n, d).

    Raises:
        ValueError: When the data or a rate is not allowed. The message names the run.
    """
    try:
        prepare.check_rates(replica.method, replica.rates, data, replica.schedule, int(plan.each.step[-1]))
    except ValueError as error:
        raise ValueError(f"run {replica.index}, {in_words(replica.settings)}: {error}") from error


def shapes_of(plan: Plan, replica: Replica, like: Like, count: int):
    """Return the shapes of the states of `count` runs, stacked.

    Args:
        plan: The plan of the sweep.
        replica: One of the runs.
        like: The common structure of the runs.
        count: The number of runs.

    Returns:
        A pytree of `jax.ShapeDtypeStruct` with a leading axis of runs. Where the plan has a mesh, particles (d, N) have the
        shape (d, 2, N/2) instead (see `sharding.split`).
    """
    state = like.state if plan.mesh is None else jax.eval_shape(lambda state: sharding.split(replica.method, state), like.state)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)


def bytes_of_run(plan: Plan, replica: Replica, like: Like) -> int:
    """Return the memory that a run of a batch takes, in bytes.

    It is the sum of three states (before, after, and the last good one), its separate data and metrics twice (XLA
    copies the arrays that a loop over runs reads), and its records. Where runs are vmapped, a program is compiled to
    add its temporary memory.

    Args:
        plan: The plan of the sweep.
        replica: The run.
        like: The common structure of the runs.

    Returns:
        The number of bytes.
    """
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))  # noqa: E731
    separate = [tree for name, tree in (("data", like.data), ("metrics", like.metrics)) if plan.study.varies(name)]
    records = plan.each.segment * sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in like.variables.values())
    scratch = 0
    if plan.placement.side_by_side() != 1:
        each, common = stack(plan, [replica], [(like.data, like.metrics)], like)
        program = simulate.run_replicas.lower(each, common, simulate.start_replicas(each, common), jnp.ones(2, bool))
        scratch = program.compile().compiled.memory_analysis().temp_size_in_bytes
    return 3 * size(like.state) + 2 * sum(map(size, separate)) + records + scratch


def batch_size_of(plan: Plan, replicas: list[Replica], like: Like | None) -> int:
    """Return the number of runs in each batch of a group.

    Args:
        plan: The plan of the sweep.
        replicas: The runs of the group.
        like: Their common structure; None to make it where it is needed.

    Returns:
        The number of runs.
    """
    one = replicas[0]
    return plan.placement.batch_size_of(plan.mesh, len(replicas), lambda: bytes_of_run(plan, one, like or like_of(plan, one)))


def stack(plan: Plan, replicas: list[Replica], made: list[tuple], like: Like) -> tuple[simulate.Setup, simulate.Setup]:
    """Return the setups of a batch: the arrays that differ between its runs, stacked, and what they share.

    Args:
        plan: The plan of the sweep.
        replicas: The runs of the batch.
        made: The data and metrics of each of the runs.
        like: The common structure of the runs.

    Returns:
        The setups `each` and `common` of `simulate.replicas`.
    """
    varies = [plan.study.varies(name) for name in ("data", "metrics")]

    def varying(pair):
        return tuple(eqx.filter(tree, eqx.is_array if varied else lambda _: False) for tree, varied in zip(pair, varies, strict=True))

    shared = (like.data, like.metrics)
    common: Any = tuple(
        eqx.filter(tree, eqx.is_array, inverse=True) if varied else tree for tree, varied in zip(shared, varies, strict=True)
    )
    stacked = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    each: Any = jax.tree.map(stacked, *map(varying, made))
    rates = jax.tree.map(stacked, *(prepare.traced(replica.rates, data) for replica, (data, _) in zip(replicas, made, strict=True)))
    none = jax.tree.map(lambda _: None, rates)
    keys = jnp.stack([replica.key for replica in replicas])
    static = dict(method=replicas[0].method, every=plan.each.every, schedule=replicas[0].schedule)
    return (
        simulate.Setup(key=keys, rates=rates, data=each[0], metrics=each[1], **static),
        simulate.Setup(key=None, rates=none, data=common[0], metrics=common[1], **static),
    )
