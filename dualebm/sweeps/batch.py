"""A batch: runs of one group that are in memory together, from the making of their data to the last of their records."""

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
from dualebm.training import multihost, run_folder, segments, sharding, simulate


class Session(NamedTuple):
    """One call of `sweep`.

    plan: of the sweep. hosts: who writes, and where checkpoints lie. show: shows a segment of a batch. ended: whether to stop here.
    """

    plan: Plan
    hosts: multihost.Alone | multihost.Together
    show: Callable
    ended: Callable[[], bool]


def run_batch(session: Session, group: Group, number: int, done: int, like: Like, known, failed: dict[str, str]) -> bool:
    """Runs a batch from `done` records on; returns whether it came to its end. Its arrays are let go before the next takes their place.

    Args:
        session: of the sweep.
        group: of the batch.
        number: of the batch in its group.
        done: records that are there.
        like: what the runs of the group have alike.
        known: data and metrics that were made already.
        failed: position of a run in the group -> why it failed; those of this batch are added.
    """
    plan, hosts, _, ended = session
    size, first = group.batch_size, number * group.batch_size
    chosen = group.replicas[first : first + size]
    made, why = _make(session, chosen, like, known)
    failed |= {str(first + i): reason for i, reason in why.items()}
    if not made:
        if hosts.writes:
            write_manifest(plan, group, number + 1, 0, failed)
        return True
    # A batch is always of one size, so that it compiles once: copies of a run stand for those that are missing.
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
    """A batch as `segments.drive` sees it. The last segment leaves no checkpoint, as the next batch starts anew."""

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
    """`start()` and `advance(states, active)` of the runs of a batch, whose setups are those that `stack` makes."""
    mesh = plan.mesh
    if mesh is None:

        def start():
            return segments.strongly_typed(simulate.start_replicas(each, common))

        def advance(states, active):
            return simulate.run_replicas(each, common, states, active, plan.placement.side_by_side())

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
    """Position in the batch -> data and metrics; and, for the runs whose data or metrics cannot be made, why."""
    made, why = {}, {}
    expected = signature((like.data, like.metrics))
    for i, replica in enumerate(chosen):
        try:
            data, metrics = (session.plan.study.make(name, replica.settings, known) for name in ("data", "metrics"))
            data = jax.tree.map(jnp.asarray, data)
            replica.method.check(replica.rates, data)
            if signature((data, metrics)) != expected:
                raise ValueError("its data or metrics have other shapes than those of its group; the seed may not change them")
            made[i] = jax.block_until_ready((data, metrics))  # one at a time: what making them needs is let go
        except Exception as error:  # of the user's own functions: the other runs go on
            why[i] = f"{type(error).__name__}: {error}"
    for i, reason in session.hosts.lacking(made, [replica.index for replica in chosen]).items():
        why.setdefault(i, reason)
        made.pop(i, None)
    return made, why
