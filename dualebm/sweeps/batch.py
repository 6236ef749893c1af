"""A batch: the runs of one group that are in memory together, from the making of their data to their last record."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dualebm.sweeps.folder import Group, checkpoint_name, write_manifest
from dualebm.sweeps.grid import Replica, signature
from dualebm.sweeps.plan import Like, Plan, shapes_of, stack
from dualebm.training import run_folder, segments, sharding, simulate
from dualebm.training.hosts import Alone, Together


class Session(NamedTuple):
    """One call of `sweep`.

    Args:
        plan: The plan of the sweep.
        hosts: The process or processes of the sweep, which decide who writes and where checkpoints lie.
        show: Function that shows a segment of a batch.
        ended: Function that returns whether the sweep stops now.
    """

    plan: Plan
    hosts: Alone | Together
    show: Callable
    ended: Callable[[], bool]


def run_batch(session: Session, group: Group, number: int, done: int, like: Like, known, failed: dict[str, str]) -> bool:
    """Run a batch from `done` records on. Its arrays are freed before the next batch is made.

    Args:
        session: The call of `sweep`.
        group: The group of the batch.
        number: The number of the batch in its group, from 0.
        done: The number of records done.
        like: The common structure of the runs of the group.
        known: Data and metrics that have been made, by their settings (see `Study.make`).
        failed: For each position of a failed run in the group the reason. The failed runs of this batch are added.

    Returns:
        Whether the batch came to its end.
    """
    plan, hosts, _, ended = session
    size, first = group.batch_size, number * group.batch_size
    chosen = group.replicas[first : first + size]
    made, why = _make(session, chosen, like, known)
    failed |= {str(first + i): reason for i, reason in why.items()}
    if not made:
        if hosts.writes:
            shapes = {name: (len(chosen), len(plan.each.step), *variable.shape) for name, variable in like.variables.items()}
            nothing = {name: np.full(shapes[name], variable.fill, variable.dtype) for name, variable in like.variables.items()}
            run_folder.write_results(group.folder, nothing, run=first)
            write_manifest(plan, group, number + 1, 0, failed)
        return True
    # All batches have one size, so that they compile once. Copies of a run stand in for runs that are missing.
    filled = [i if i in made else next(iter(made)) for i in range(len(chosen))]
    filled += filled[-1:] * (size - len(filled))
    setups = stack(plan, [chosen[i] for i in filled], [made[i] for i in filled], like)
    del made
    job = _Batch(session, group, number, chosen, like, why, failed, *programs(plan, *setups))
    done = hosts.latest(done, plan.each.segment, job.checkpoint)
    hosts.announce(group.folder.name, int(plan.each.step[max(done - 1, 0)]))
    _, done = segments.drive(plan.each, job, done, lambda _: ended())
    return done == len(plan.each.step)


@dataclasses.dataclass
class _Batch:
    """A batch as `segments.drive` sees it. The last segment leaves no checkpoint, because the next batch starts anew."""

    session: Session
    group: Group
    number: int
    chosen: list[Replica]
    like: Like
    why: dict[int, str]  # position in the batch -> why the run failed
    failed: dict[str, str]  # the same for the group
    start: Callable[[], Any]
    advance: Callable

    def checkpoint(self, done: int) -> Path:
        return self.session.hosts.checkpoint(self.group.folder, checkpoint_name(self.number, done))

    def load(self, done):
        plan, replica = self.session.plan, self.group.replicas[0]
        shapes = shapes_of(plan, replica, self.like, self.group.batch_size)
        return self.session.hosts.load(self.checkpoint(done), plan.mesh, replica.method, shapes, plan.each.settings)

    def write(self, first, done, records):
        if not self.session.hosts.writes:
            return
        made = {name: np.array(records[name])[: len(self.chosen), : done - first] for name in self.like.variables}
        for i in self.why:
            for name, variable in self.like.variables.items():
                made[name][i] = variable.fill
        run_folder.write_results(self.group.folder, made, run=self.number * self.group.batch_size, record=first)

    def save(self, first, done, states):
        plan = self.session.plan
        if done < len(plan.each.step):
            self.session.hosts.save(self.checkpoint(done), self.checkpoint(first), states, plan.each.settings)

    def mark(self, done):
        plan = self.session.plan
        if self.session.hosts.writes:
            batch, records = (self.number, done) if done < len(plan.each.step) else (self.number + 1, 0)
            write_manifest(plan, self.group, batch, records, self.failed)

    def report(self, first, done, states, seconds):
        self.session.hosts.announce(self.group.folder.name, int(self.session.plan.each.step[done - 1]))
        self.session.show(self.group, self.number, len(self.chosen), first, done, seconds)


def programs(plan: Plan, each: simulate.Setup, common: simulate.Setup) -> tuple[Callable, Callable]:
    """Return the functions `start()` and `advance(states, active)` of the runs of a batch.

    Args:
        plan: The plan of the sweep.
        each: The arrays that differ between the runs, stacked, as `stack` returns them.
        common: What the runs share, as `stack` returns it.

    Returns:
        `start`, which returns the states before the first iteration, stacked, and `advance`, which returns the states a
        segment later, and its records.
    """
    mesh = plan.mesh
    if mesh is None:
        devices = plan.placement.at_once(mesh, len(each.key))

        def start():
            return segments.strongly_typed(simulate.start_replicas(each, common, devices))

        def advance(states, active):
            return simulate.run_replicas(each, common, states, active, plan.placement.side_by_side(), devices)

        return start, advance
    setup = eqx.combine(each, common)
    shared = (not plan.study.varies("data"), not plan.study.varies("metrics"))
    setup = dataclasses.replace(setup, data=sharding.place_data(mesh, setup.data, shared[0]))

    def start_spread():
        return sharding.initial(setup, mesh, shared[0])

    def advance_spread(states, active):
        return sharding.run_intervals(setup, states, active, mesh, shared)

    return start_spread, advance_spread


def _make(session: Session, chosen: list[Replica], like: Like, known) -> tuple[dict[int, tuple], dict[int, str]]:
    """Return data and metrics by position in the batch, and the reason for each run for which they cannot be made."""
    made, why = {}, {}
    expected = signature((like.data, like.metrics))
    for i, replica in enumerate(chosen):
        try:
            data, metrics = (session.plan.study.make(name, replica.settings, known) for name in ("data", "metrics"))
            data = jax.tree.map(jnp.asarray, data)
            replica.method.check(replica.rates, data)
            if signature((data, metrics)) != expected:
                raise ValueError("its data or metrics have other shapes than in the rest of its group; the seed must not change shapes")
            made[i] = jax.block_until_ready((data, metrics))  # one at a time, so that temporary memory is freed
        except Exception as error:  # raised by a user's function: the other runs go on
            why[i] = f"{type(error).__name__}: {error}"
    for i, reason in session.hosts.lacking(made, [replica.index for replica in chosen]).items():
        why.setdefault(i, reason)
        made.pop(i, None)
    return made, why
