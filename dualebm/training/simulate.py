"""One run of any method: a pure `lax.scan` that records metrics and knows nothing of what it runs or measures."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dualebm._internal import checks, collectives
from dualebm.measures import Samples
from dualebm.methods.base import Divergence, Info, Iterate, Method

LOWEST_ACCEPTANCE = 0.01
"""A run whose moves are accepted less often than this over a recording interval has diverged."""

ASIDE = 2**32 - 1
"""Folded into a key for what is drawn beside the steps; no step has this number (`split(key)[i]` is that of step i)."""


class Setup(eqx.Module):
    """Everything that defines a run but its state.

    key: of the run, the same in every segment of it; the noise of a step is keyed by the step count in the state.
    method: static. rates: a NamedTuple of scalars. data: points (n, d).
    metrics: name -> `metric(key, iterate)`, an array; equinox modules where they hold arrays.
    every: iterations between records, at least 2. schedule: static `(step, rates) -> rates`, or None.
    """

    key: Any
    method: Method = eqx.field(static=True)
    rates: Any
    data: Samples
    metrics: dict[str, Any]
    every: int = eqx.field(static=True)
    schedule: Callable[[Any, Any], Any] | None = eqx.field(static=True, default=None)


@partial(jax.jit, static_argnames="method")
def start(key, method, rates, data: Samples):
    """The state in which a method begins: `method.init`, compiled once for all methods of equal settings.

    Without jit each operation compiles alone, which takes several times as long.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> start(jax.random.key(1), method, method.rates, data).particles.shape
    (6, 3)
    """
    return method.init(key, rates, data)


@partial(jax.jit, static_argnames="method")
def step(key, method, state, rates, data: Samples):
    """The state after one iteration and its info, under the key of that iteration: `method.step`, compiled as `start` is.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> int(state.step), float(info.acceptance) > 0
    (1, True)
    """
    return method.step(key, state, rates, data)


def initial(setup: Setup):
    """The state in which a run starts: `method.init` under the key of the run, folded with `ASIDE`."""
    return setup.method.init(jax.random.fold_in(setup.key, ASIDE), setup.rates, setup.data)


def _step(setup: Setup, state):
    """One iteration at the scheduled rates."""
    rates = setup.rates if setup.schedule is None else setup.schedule(state.step, setup.rates)
    return setup.method.step(jax.random.fold_in(setup.key, state.step), state, rates, setup.data)


def _divergence(method, state, info: Info):
    """The first cause that holds, a `Divergence`; a log weight of -inf is a dead atom, not a fault."""
    leaves = [x for x in jax.tree.leaves((state, info)) if jnp.issubdtype(x.dtype, jnp.floating)]
    broken = jnp.any(jnp.array([jnp.any(jnp.isnan(x) | jnp.isposinf(x)) for x in leaves]))
    if (axis := collectives.split_axis()) is not None:
        broken = jax.lax.pmax(broken.astype(jnp.int32), axis) > 0
    code = method.diverged(state)
    if info.acceptance is not None:
        code = jnp.where(info.acceptance < LOWEST_ACCEPTANCE, Divergence.REJECTED, code)
    return jnp.where(broken, Divergence.NOT_FINITE, code).astype(jnp.int32)


def interval(setup: Setup, state):
    """`every` steps: the new state, the info averaged over them, and the code of its divergence.

    A diverged interval leaves the state as it was: the run stays at its last good record and says so in the later ones.
    """
    moved, infos = jax.lax.scan(lambda state, _: _step(setup, state), state, length=setup.every)
    info = jax.tree.map(jnp.mean, infos)
    code = _divergence(setup.method, moved, info)
    return jax.tree.map(partial(jnp.where, code == 0), moved, state), info, code


def first_fault(setup: Setup, state):
    """The number of the first of `every` steps after which the state is at fault, other than by its acceptance; -1 where none is.

    What `interval` finds at its end, looked for step by step: it costs a check of the whole state in each.
    """

    def body(carry, _):
        state, first = carry
        state, info = _step(setup, state)
        fault = _divergence(setup.method, state, info._replace(acceptance=None)) > 0
        return (state, jnp.where((first < 0) & fault, state.step, first)), None

    return jax.lax.scan(body, (state, jnp.int32(-1)), length=setup.every)[0][1]


def simulate(
    key,
    method: Method,
    state,
    rates,
    data: Samples,
    *,
    steps: int,
    every: int,
    metrics: dict[str, Callable],
    schedule: Callable[[Any, Any], Any] | None = None,
):
    """Run `steps` iterations of a method from `state`, recording each metric every `every` steps.

    It is pure: jit and vmap it over keys, states and rates.

    Args:
        key: of the run, the same in every segment of it; the noise of a step is keyed by the step count in the state.
        method: a `Method`, static.
        state: from `method.init`.
        rates: of the method.
        data: points (n, d).
        steps: a multiple of `every`.
        every: iterations between records, at least 2 (a scan of length 1 compiles to other bits).
        metrics: name -> `metric(key, iterate)`, an array; equinox modules where they hold arrays.
        schedule: static `(step, rates) -> rates`, applied before each step; step is the number of iterations done.

    Returns:
        (state, records): each metric's values stacked along a leading axis of steps / every, with `records["step"]`
        (iterations done) and `records["diverged"]` (a `Divergence`). A diverged run keeps its last good state and records NaN.

    Raises:
        ValueError: for counts that are not allowed.

    >>> from dualebm.methods.dual import Dual; from dualebm.metrics import Acceptance; from dualebm.spaces import Sphere
    >>> method, data, key = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3)), jax.random.key(1)
    >>> state = start(key, method, method.rates, data)
    >>> _, records = simulate(key, method, state, method.rates, data, steps=6, every=2, metrics={"acceptance": Acceptance()})
    >>> records["step"].tolist(), records["acceptance"].shape
    ([2, 4, 6], (3,))
    """
    checks.count("every", every, 2)
    checks.count("steps", steps)
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {every}")
    state, _, records = intervals(Setup(key, method, rates, data, metrics, every, schedule), state, jnp.ones(steps // every, bool))
    return state, records


def measure(setup: Setup, state, info: Info, healthy=True):
    """Each metric at a state, NaN where it is not `healthy`; its key is of the step of the state and of no draw."""
    metric_key = jax.random.fold_in(jax.random.fold_in(setup.key, state.step), ASIDE)
    iterate = Iterate(setup.method, state, setup.rates, setup.data, info)
    values = {name: metric(metric_key, iterate) for name, metric in setup.metrics.items()}
    return {name: jnp.where(healthy, value, jnp.nan) for name, value in values.items()}


def intervals(setup: Setup, state, active, whole=None):
    """`simulate` with a mask: an interval that is not active costs nothing and records the metrics at the state.

    Every segment of a run is this one program: the first begins with an inactive interval, which is the record of the
    initial state, and the surplus intervals of a shorter last one are inactive.

    Args:
        setup: of the run.
        state: where it starts.
        active: which intervals are done, (intervals,), bool.
        whole: where devices share the particles, (state, data) -> all of them, which metrics see; see `dualebm.training.sharding`.

    Returns:
        The state, the info of the last active interval (NaN without one), and the records.
    """

    advance = jax.jit(lambda state: interval(setup, state), inline=True)  # traced once, for its shapes and in the scan
    unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(advance, state)[1])

    def body(carry, active):
        state, info = carry
        step = state.step + jnp.where(active, setup.every, 0)
        stay = lambda state: (state, info, jnp.int32(Divergence.NONE))  # noqa: E731
        state, info, code = jax.lax.cond(active, advance, stay, state)
        seen, data = (state, setup.data) if whole is None else whole(state, setup.data)
        everything = dataclasses.replace(setup, data=data)
        values = collectives.undivided(lambda: measure(everything, seen, info, code == Divergence.NONE))
        return (state, info), {**values, "step": step, "diverged": code}

    (state, info), records = jax.lax.scan(body, (state, unknown), active)
    return state, info, records


run_intervals = eqx.filter_jit(intervals)
"""`intervals`, compiled: arrays (also those of metrics) are arguments, the rest is static."""

interval_shapes = partial(eqx.filter_eval_shape, run_intervals)
"""The shapes of what `run_intervals` returns; its first call then has no more to trace."""


def replicas(each: Setup, common: Setup, states, active, vmapped=None):
    """`intervals` of many runs of one static structure: of everything but `common` and `active` there is one for each.

    Args:
        each: the arrays of the setups that differ between runs, stacked; None in place of the others.
        common: what the runs share; None in place of the arrays of `each` (an equinox partition).
        states: stacked.
        active: as for `intervals`.
        vmapped: runs that are computed side by side, the others in turn; None for one at a time.

    Returns:
        The states and the records, stacked.
    """

    def one(replica):
        state, setup = replica
        state, _, records = intervals(eqx.combine(setup, common), state, active)
        return state, records

    return jax.lax.map(one, (states, each), batch_size=vmapped)


def initial_replicas(each: Setup, common: Setup):
    """The states in which runs start, stacked: see `initial`."""
    return jax.lax.map(lambda setup: initial(eqx.combine(setup, common)), each)


run_replicas, start_replicas = eqx.filter_jit(replicas), eqx.filter_jit(initial_replicas)
"""`replicas` and `initial_replicas`, compiled."""
