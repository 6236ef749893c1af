"""One run of any method: a pure `lax.scan` that records metrics and knows nothing of what it runs or measures."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dualebm._internal import checks
from dualebm.measures import Samples

DIVERGENCE = (
    "",
    "the state is not finite",
    "fewer than 1% of the particles' moves were accepted",
    "the total variation is 0",
    "one atom holds all the weight",
)
"""What the codes of `records["diverged"]` mean; 0 is a healthy run."""

REMEDY = ("", "lower the steps", "lower particle_step", "lower reaction_step", "lower reaction_step")
"""What to change for each cause in `DIVERGENCE`."""

LOWEST_ACCEPTANCE = 0.01

ASIDE = 2**32 - 1
"""Folded into a key for what is drawn beside the steps; no step has this number (`split(key)[i]` is that of step i)."""


def _divergence(method, state, axis):
    """The code of the first cause that holds; a log weight of -inf is a dead atom, not a fault."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    broken = jnp.any(jnp.array([jnp.any(jnp.isnan(x) | jnp.isposinf(x)) for x in leaves]))
    if axis is not None:
        broken = jax.lax.pmax(broken.astype(jnp.int32), axis) > 0
    rejected = state.acceptance < LOWEST_ACCEPTANCE
    return jnp.where(broken, 1, jnp.where(rejected, 2, method.diverged(state))).astype(jnp.int32)


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
    """The state after one iteration, under the key of that iteration: `method.step`, compiled as `start` is.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> int(step(jax.random.key(2), method, state, method.rates, data).step)
    1
    """
    return method.step(key, state, rates, data)


def interval(key, method, state, rates, data, every, schedule, axis=None):
    """`every` steps; the new state, with its acceptance averaged over them, and the code of its divergence.

    A diverged interval leaves the state as it was: the run stays at its last good record and says so in the later ones.
    """
    advance = method.step if axis is None else partial(method.step, axis=axis)

    def body(state, _):
        current = rates if schedule is None else schedule(state.step, rates)
        state = advance(jax.random.fold_in(key, state.step), state, current, data)
        return state, state.acceptance

    moved, acceptance = jax.lax.scan(body, state, length=every)
    moved = moved._replace(acceptance=jnp.mean(acceptance))
    code = _divergence(method, moved, axis)
    return jax.tree.map(partial(jnp.where, code == 0), moved, state), code


def first_fault(key, method, state, rates, data, every, schedule):
    """The number of the first of `every` steps after which the state is at fault, other than by its acceptance; -1 where none is.

    What `interval` finds at its end, looked for step by step: it costs a check of the whole state in each.
    """

    def body(carry, _):
        state, found = carry
        current = rates if schedule is None else schedule(state.step, rates)
        state = method.step(jax.random.fold_in(key, state.step), state, current, data)
        fault = _divergence(method, state._replace(acceptance=jnp.ones_like(state.acceptance)), None) > 0
        return (state, jnp.where((found < 0) & fault, state.step, found)), None

    return jax.lax.scan(body, (state, jnp.int32(-1)), length=every)[0][1]


def simulate(
    key,
    method,
    state,
    rates,
    data: Samples,
    *,
    steps: int,
    every: int,
    metrics: dict[str, Callable],
    schedule: Callable[[Any, Any], Any] | None = None,
):
    """`steps` iterations of a method from `state`, with each metric recorded every `every` steps.

    Args:
        key: the run's, the same in every segment of it; the noise of a step is keyed by the step count in the state.
        method, rates, data: see `dualebm.methods`; a state comes from `method.init`.
        steps: a multiple of `every`. every: at least 2 (a scan of length 1 compiles to other bits).
        metrics: name -> `metric(key, method, state, rates, data)`, an array; equinox modules where they hold arrays.
        schedule: static `(step, rates) -> rates`, applied before each step; step is the number of iterations done.

    Returns (state, records): each metric's values stacked along a leading axis of steps / every, with `records["step"]`
    (iterations done) and `records["diverged"]` (0, or the index of a cause in `DIVERGENCE`). A diverged run keeps its
    last good state and records NaN. Raises ValueError for counts that are not allowed. Pure: jit and vmap it over keys,
    states and rates.

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
    return intervals(key, method, state, rates, data, jnp.ones(steps // every, bool), every, metrics, schedule)


def measure(key, method, state, rates, data, metrics, healthy=True):
    """Each metric at a state, NaN where it is not `healthy`; its key is of the step of the state and of no draw."""
    metric_key = jax.random.fold_in(jax.random.fold_in(key, state.step), ASIDE)
    values = {name: metric(metric_key, method, state, rates, data) for name, metric in metrics.items()}
    return {name: jnp.where(healthy, value, jnp.nan) for name, value in values.items()}


def intervals(key, method, state, rates, data, active, every, metrics, schedule, axis=None, whole=None):
    """`simulate` with a mask: an interval that is not active costs nothing and records the metrics at the state.

    Every segment of a run is this one program: the first begins with an inactive interval, which is the record of the
    initial state, and the surplus intervals of a shorter last one are inactive.

    axis: of a mesh over whose devices the particles and the data are split; whole: (state, data) -> what metrics see of them then. See
    `dualebm.training.sharding`.
    """

    def advance(state):
        return interval(key, method, state, rates, data, every, schedule, axis)

    def body(state, active):
        step = state.step + jnp.where(active, every, 0)
        state, code = jax.lax.cond(active, advance, lambda state: (state, jnp.int32(0)), state)
        seen, seen_data = (state, data) if whole is None else whole(state, data)
        values = measure(key, method, seen, rates, seen_data, metrics, code == 0)
        return state, {**values, "step": step, "diverged": code}

    return jax.lax.scan(body, state, active)


run_intervals = eqx.filter_jit(intervals)
"""`intervals`, compiled: arrays (also those of metrics) are arguments, the rest is static."""


def lanes(keys, method, states, rates, own, common, active, every, schedule, vmapped=None):
    """`intervals` of many runs of one static structure, its lanes: of everything but `common` and `active` there is one for each.

    own, common: the parts of (data, metrics) that lanes have of their own, stacked, and those that they share (equinox partitions).
    vmapped: lanes that are computed side by side, the others in turn; None for one at a time.

    Returns the states and the records, stacked.
    """

    def one(lane):
        key, state, rates, own = lane
        data, metrics = eqx.combine(own, common)
        return intervals(key, method, state, rates, data, active, every, metrics, schedule)

    return jax.lax.map(one, (keys, states, rates, own), batch_size=vmapped)


def init_lanes(keys, method, rates, own, common):
    """The states in which lanes start, stacked: `method.init` under each lane's key, folded with `ASIDE`."""

    def one(lane):
        key, rates, own = lane
        return method.init(jax.random.fold_in(key, ASIDE), rates, eqx.combine(own, common)[0])

    return jax.lax.map(one, (keys, rates, own))


run_lanes, start_lanes = eqx.filter_jit(lanes), eqx.filter_jit(init_lanes)
"""`lanes` and `init_lanes`, compiled."""
