"""One run of any method as a pure `lax.scan` that records metrics. It knows no method and no metric."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from dualebm._internal import collectives
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.measures import Samples
from dualebm.methods.base import LOWEST_ACCEPTANCE, Divergence, Info, Iterate, Method, energies_are_finite
from dualebm.settings import Count, CountFrom2, checked

ASIDE = 2**32 - 1
"""The number folded into the key of a run for draws outside of the iterations. No iteration has this number."""


class Setup(eqx.Module):
    """Everything that defines a run except its state.

    Args:
        key: The key of the run, the same in all of its segments. The noise of an iteration is keyed by `step` of the
            state.
        method: The method, static.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The points, (n, d).
        metrics: For each name a function `metric(key, iterate)` that returns an array. A metric that holds arrays is an
            Equinox module.
        every: The number of iterations between records, at least 2.
        schedule: Pure, hashable function `(step, rates) -> rates`, or None. It is static in the compiled program.
    """

    key: Any
    method: Method = eqx.field(static=True)
    rates: Any
    data: Samples
    metrics: dict[str, Any]
    every: int = eqx.field(static=True)
    schedule: Callable[[Any, Any], Any] | None = eqx.field(static=True, default=None)


@partial(brief, static_argnames="method")
def start(key: Key[Array, ""], method: Method, rates: Any, data: Samples) -> Any:
    """Return the state in which a method starts: `method.init`, compiled once for all methods of equal settings.

    Without jit each operation compiles alone, which takes several times as long.

    Args:
        key: The key of the initial state.
        method: A `Method`, static.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The points, (n, d).

    Returns:
        The state, with `step` 0.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> start(jax.random.key(1), method, method.rates, data).particles.shape
    (6, 3)
    """
    check_key(key)
    return method.init(key, rates, data)


@partial(jax.jit, static_argnames="method")
def step(key: Key[Array, ""], method: Method, state: Any, rates: Any, data: Samples) -> tuple[Any, Info]:
    """Do one iteration of a method: `method.step`, compiled once for all methods of equal settings.

    Args:
        key: The key of this iteration.
        method: A `Method`, static.
        state: The state before the iteration.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The points, (n, d).

    Returns:
        The state after the iteration, and its `Info`.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> int(state.step), float(info.acceptance) > 0
    (1, True)
    """
    check_key(key)
    return method.step(key, state, rates, data)


def initial(setup: Setup):
    """Return the state in which a run starts: `method.init` under the key of the run, folded with `ASIDE`.

    Args:
        setup: the settings and arrays of the run.

    Returns:
        The state.
    """
    return setup.method.init(jax.random.fold_in(setup.key, ASIDE), setup.rates, setup.data)


def _step(setup: Setup, state):
    """Do one iteration at the scheduled rates."""
    rates = setup.rates if setup.schedule is None else setup.schedule(state.step, setup.rates)
    return setup.method.step(jax.random.fold_in(setup.key, state.step), state, rates, setup.data)


def _divergence(setup: Setup, state, info: Info):
    """Return the first cause that holds, a `Divergence`, unless the method goes back by itself.

    A log weight of -inf belongs to a dead atom and is allowed.
    """
    leaves = [x for x in jax.tree.leaves((state, info)) if jnp.issubdtype(x.dtype, jnp.floating)]
    broken = jnp.any(jnp.array([jnp.any(jnp.isnan(x) | jnp.isposinf(x)) for x in leaves]))
    stuck = ~jnp.asarray(energies_are_finite(setup.method, state, setup.method.energy(state, setup.rates, setup.data)))
    if (axis := collectives.split_axis()) is not None:
        broken, stuck = (jax.lax.pmax(each.astype(jnp.int32), axis) > 0 for each in (broken, stuck))
    code = setup.method.diverged(state)
    if info.acceptance is not None:
        code = jnp.where(info.acceptance < LOWEST_ACCEPTANCE, Divergence.REJECTED, code)
    code = jnp.where(stuck, Divergence.ENERGY, code)
    code = jnp.where(broken, Divergence.NOT_FINITE, code)
    return jnp.where(setup.method.recovering(state), Divergence.NONE, code).astype(jnp.int32)


def interval(setup: Setup, state):
    """Do `every` iterations.

    A diverged interval leaves the state as it was: the run stays at its last good state, and all later records have its divergence.

    Args:
        setup: the settings and arrays of the run.
        state: the state at the start.

    Returns:
        The new state, the info averaged over the iterations, and the `Divergence` at their end.
    """
    moved, infos = jax.lax.scan(lambda state, _: _step(setup, state), state, length=setup.every)
    info = jax.tree.map(jnp.mean, infos)
    code = _divergence(setup, moved, info)
    return jax.tree.map(partial(jnp.where, code == 0), moved, state), info, code


def first_fault(setup: Setup, state):
    """Return the first of `every` iterations after which the state has diverged.

    It looks for the causes that `interval` looks for, except the acceptance. The whole state is checked after each iteration, which costs
    more than the one check of `interval`.

    Args:
        setup: the settings and arrays of the run.
        state: the state at the start.

    Returns:
        The number of the iteration in the run, or -1 for none.
    """

    def body(carry, _):
        state, first = carry
        state, info = _step(setup, state)
        fault = _divergence(setup, state, info._replace(acceptance=None)) > 0
        return (state, jnp.where((first < 0) & fault, state.step, first)), None

    return jax.lax.scan(body, (state, jnp.int32(-1)), length=setup.every)[0][1]


@checked
def simulate(
    key: Key[Array, ""],
    method: Method,
    state: Any,
    rates: Any,
    data: Samples,
    *,
    steps: Count,
    every: CountFrom2,
    metrics: dict[str, Callable],
    schedule: Callable[[Any, Any], Any] | None = None,
):
    """Run `steps` iterations of a method from `state`, and record each metric every `every` iterations.

    It is pure: jit and vmap it over keys, states and rates.

    Args:
        key: The key of the run, the same in all of its segments. The noise of an iteration is keyed by `step` of the
            state.
        method: A `Method`, static.
        state: The state to start from, as `method.init` returns it.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The points, (n, d).
        steps: The number of iterations, a multiple of `every`.
        every: The number of iterations between records, at least 2. A scan of length 1 compiles to a program that
            rounds differently.
        metrics: For each name a function `metric(key, iterate)` that returns an array. A metric that holds arrays is an
            Equinox module.
        schedule: Pure, hashable function `(step, rates) -> rates`, applied before each iteration, or None. `step` is the number
            of iterations done.

    Returns:
        The last state, and the records: the values of each metric along a leading axis of steps / every, `step`, the
        number of iterations done, and `diverged`, a `Divergence`. A diverged run keeps its last good state and records
        NaN.

    Raises:
        ValueError: When `steps` or `every` is not allowed.

    >>> from dualebm.methods.dual import Dual; from dualebm.metrics import Acceptance; from dualebm.spaces import Sphere
    >>> method, data, key = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3)), jax.random.key(1)
    >>> state = start(key, method, method.rates, data)
    >>> _, records = simulate(key, method, state, method.rates, data, steps=6, every=2, metrics={"acceptance": Acceptance()})
    >>> records["step"].tolist(), records["acceptance"].shape
    ([2, 4, 6], (3,))
    """
    check_key(key)
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {every}")
    state, _, records = intervals(Setup(key, method, rates, data, metrics, every, schedule), state, jnp.ones(steps // every, bool))
    return state, records


def measure(setup: Setup, state, info: Info, healthy=True):
    """Return the value of each metric at a state.

    The key of a metric depends on the key of the run and on `step` of the state. No draw of the method has it.

    Args:
        setup: The run.
        state: The state.
        info: The info averaged over the last interval.
        healthy: Whether the run is healthy, a bool. Otherwise the values are NaN.

    Returns:
        For each name an array.
    """
    metric_key = jax.random.fold_in(jax.random.fold_in(setup.key, state.step), ASIDE)
    iterate = Iterate(setup.method, state, setup.rates, setup.data, info)
    values = {name: metric(metric_key, iterate) for name, metric in setup.metrics.items()}
    return {name: jnp.where(healthy, value, jnp.nan) for name, value in values.items()}


def intervals(setup: Setup, state, active, whole=None):
    """Advance a run by the active intervals, and record the metrics after each interval.

    An interval that is not active does no iterations and only makes its record. Every segment of a run is this one
    program. The first segment begins with an inactive interval, which records the initial state. In a shorter last segment
    the surplus intervals are inactive.

    Args:
        setup: The run.
        state: The state in which the segment starts.
        active: For each interval of the segment whether its iterations are done, (intervals,), bool.
        whole: Function `(state, data) -> (state, data)` that gathers the particles and data which devices share, for
            the metrics (see `dualebm.training.sharding`); None on one device.

    Returns:
        The state, the info of the last active interval (NaN without one), and the records, each with a leading axis of
        intervals.
    """

    advance = jax.jit(lambda state: interval(setup, state), inline=True)  # traced once, for its shapes and for the scan
    unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(advance, state)[1])

    def body(carry, active):
        state, info = carry
        step = state.step + jnp.where(active, setup.every, 0)
        stay = lambda state: (state, info, jnp.int32(Divergence.NONE))  # noqa: E731
        state, info, code = jax.lax.cond(active, advance, stay, state)
        seen, data = (state, setup.data) if whole is None else whole(state, setup.data)
        setup_seen = dataclasses.replace(setup, data=data)
        values = collectives.undivided(lambda: measure(setup_seen, seen, info, code == Divergence.NONE))
        return (state, info), {**values, "step": step, "diverged": code}

    (state, info), records = jax.lax.scan(body, (state, unknown), active)
    return state, info, records


run_intervals = eqx.filter_jit(intervals)
"""`intervals` compiled. The arrays in its arguments, also in metrics, are traced. The other values are static."""

interval_shapes = partial(eqx.filter_eval_shape, run_intervals)
"""Return the shapes of what `run_intervals` returns. The first call of `run_intervals` then need not trace it again."""


def replicas(each: Setup, common: Setup, states, active, vmapped: int | None = None, devices: int = 1):
    """Advance many runs of one static structure by a segment (see `intervals`).

    Args:
        each: The arrays of the setups that differ between runs, stacked; None in place of the others.
        common: What the runs share; None in place of the arrays of `each`. The two are an Equinox partition.
        states: The states, stacked.
        active: For each interval of the segment whether its iterations are done, (intervals,), bool, for all runs.
        vmapped: The number of runs that are computed side by side. None computes all of them side by side.
        devices: The number of devices that divide the runs (see `collectives.divided`).

    Returns:
        The states and the records, both stacked.
    """

    def part(stacks, shared):
        common, active = shared

        def one(replica):
            state, setup = replica
            state, _, records = intervals(eqx.combine(setup, common), state, active)
            return state, records

        return jax.vmap(one)(stacks) if vmapped is None else jax.lax.map(one, stacks, batch_size=vmapped)

    return collectives.divided(part, devices, (states, each), (common, active))


def initial_replicas(each: Setup, common: Setup, devices: int = 1):
    """Return the states in which many runs start, stacked.

    Args:
        each: what differs between the runs, stacked, as for `replicas`.
        common: what all runs share, as for `replicas`.
        devices: the number of devices that divide the runs.

    Returns:
        The states, stacked.
    """

    def part(each, common):
        return jax.lax.map(lambda setup: initial(eqx.combine(setup, common)), each)

    return collectives.divided(part, devices, each, common)


run_replicas, start_replicas = eqx.filter_jit(replicas), eqx.filter_jit(initial_replicas)
"""`replicas` and `initial_replicas` compiled."""
