"""Preparation of a run: its checks, the state in which it starts, and the variables that it records."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from dualebm._internal import memory
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.measures import Samples
from dualebm.methods.base import Divergence, Iterate, Method
from dualebm.metrics import Metric
from dualebm.training import run_folder, simulate

RESERVED = ("step", "run", "diverged")
"""Names that a metric may not have."""


@partial(brief, jit=eqx.filter_jit)
def initial_state(key: Key[Array, ""], method: Method, rates: Any, data: Samples) -> Any:
    """Return the state in which a run with this key starts.

    It is `method.init` under the key of the run folded with `simulate.ASIDE`, a key that no step has. It is compiled.

    Args:
        key: The key of the run.
        method: A `Method`, static.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The data, (n, d).

    Returns:
        The state, with `step` 0.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> int(initial_state(jax.random.key(1), method, method.rates, data).step)
    0
    """
    check_key(key)
    return method.init(jax.random.fold_in(key, simulate.ASIDE), rates, data)


def traced(rates: Any, data: Samples) -> Any:
    """Return the rates as arrays in the precision of the data, which JAX traces: new values compile nothing new.

    Args:
        rates: the rates, a NamedTuple of numbers.
        data: the data.

    Returns:
        The rates, as arrays of no dimension.

    >>> traced((0.1,), Samples(jnp.zeros((1, 2))))[0].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda rate: jnp.asarray(rate, data.points.dtype), rates)


def check_state(like, state) -> None:
    """Check that a state is of the method and its settings.

    Args:
        like: A state in which the method starts, or its shapes.
        state: The state to check.

    Raises:
        ValueError: When the state has other arrays, shapes or dtypes than `like`, as after a change of the optimiser.

    >>> check_state({"x": jnp.zeros(2)}, {"x": jnp.zeros(3)})
    Traceback (most recent call last):
    ...
    ValueError: state is of another method or other settings: ['x'] is float32 of shape (3,); it must be float32 of shape (2,)
    """
    arrays, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (state, like))
    for path in {**expected, **arrays}:
        given, allowed = (_shape(leaves.get(path)) for leaves in (arrays, expected))
        if given != allowed:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"state is of another method or other settings: {name} is {given}; it must be {allowed}")


def _shape(array) -> str:
    return "absent" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"


def check_memory(method: Method, state: Any) -> None:
    """Check that two states, before and after an iteration, fit into the free memory.

    Args:
        method: The method, for the message.
        state: A state, or its shapes.

    Raises:
        ValueError: They do not fit. The message names the largest array.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> check_memory(Dual(Sphere(3)), {"x": jnp.zeros(2)})
    """
    sizes = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    if sizes:
        name, largest = max(sizes.items(), key=lambda item: item[1].size * item[1].dtype.itemsize)
        needed = 2 * sum(x.size * x.dtype.itemsize for x in sizes.values())
        about = f"the state of {type(method).__name__}, whose largest array {name} is {_shape(largest)},"
        memory.check(about, needed, "give fewer particles, neurons or data points")


def check_names(metrics: Any) -> None:
    """Check that the name of each metric is an identifier and is not one of `RESERVED`, and that each metric is a function.

    Args:
        metrics: the metrics by name.

    Raises:
        ValueError: a name or a metric is not allowed.

    >>> check_names({"kl": lambda key, iterate: 0.0})
    """
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics is {metrics!r:.200}; it must be a dictionary of functions, such as {{'acceptance': Acceptance()}}")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise ValueError(f"metrics has the name {name!r}; it must be an identifier other than {', '.join(RESERVED)}")
        if not callable(metric) or isinstance(metric, type):
            raise ValueError(f"metrics[{name!r}] is {metric!r:.200}; it must be a function metric(key, iterate), such as Acceptance()")


@partial(brief, jit=eqx.filter_jit)
def _scheduled(schedule, first, steps, rates):
    return jax.vmap(schedule, (0, None))(first + jnp.arange(steps), rates)


def check_rates(method: Method, rates: Any, data: Samples, schedule: Any, steps: int, first: int = 0) -> None:
    """Check the data and the rates of a run with `method.check`.

    With a schedule, the check is repeated at the steps at which a scheduled rate has its least or its largest value.

    Args:
        method: The method whose `check` is called.
        rates: The rates of the run, a NamedTuple of scalars.
        data: The data of the run, (n, d).
        schedule: Function `(step, rates) -> rates`, or None.
        steps: The number of iterations.
        first: The number of iterations done at the start.

    Raises:
        ValueError: When `method.check` raises it. For a scheduled rate the message names the step.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3)), Samples(jnp.eye(3))
    >>> rising = lambda step, rates: rates._replace(restart_probability=0.1 * step)
    >>> check_rates(method, method.rates, data, rising, 100)
    Traceback (most recent call last):
    ...
    ValueError: schedule, in step 99: restart_probability is 9.9; it must be a finite number, at least 0 and at most 1
    """
    method.check(rates, data)
    if schedule is None:
        return
    if not callable(schedule):
        raise ValueError(f"schedule is {schedule!r:.200}; it must be a function (step, rates) -> rates, or None")
    try:
        made = _scheduled(schedule, np.int32(first), steps, traced(rates, data))
    except Exception as error:  # a user's function may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"schedule fails at a step and the rates, which it must take as (step, rates) ({said})") from error
    if type(made) is not type(rates) or any(jnp.ndim(values) > 1 for values in made):
        shown = {name: jnp.shape(v)[1:] for name, v in made._asdict().items()} if type(made) is type(rates) else type(made).__name__
        raise ValueError(f"schedule returns {shown}; it must return {type(rates).__name__} of numbers, such as rates._replace(...)")
    table = {name: np.broadcast_to(values, (steps,)) for name, values in zip(made._fields, map(np.asarray, made), strict=True)}
    # A schedule that falls to 0 may fall slightly below it by rounding, which does no harm.
    table = {name: np.where((v < 0) & (v > -1e-6 * np.abs(v).max()), 0, v) for name, v in table.items()}
    extremes = {int(extreme(values)) for values in table.values() for extreme in (np.argmin, np.argmax)}
    for i in sorted(extremes):
        try:
            method.check(type(made)(*(float(f"{values[i]:.6g}") for values in table.values())), data)
        except ValueError as error:
            raise ValueError(f"schedule, in step {first + i}: {error}") from error


def recorded(setup: simulate.Setup, state, segment: int) -> dict[str, run_folder.Variable]:
    """Return the variables that a run records, by name: each metric, and `diverged`.

    Nothing is computed. The program of a segment is traced, and its first call need not trace it again.

    Args:
        setup: The run.
        state: The state in which it starts, or its shapes.
        segment: The number of records of a segment.

    Returns:
        For each name the shape, dtype and attributes of one record.

    Raises:
        ValueError: a metric fails, or returns no array of numbers.
    """
    try:
        records = simulate.interval_shapes(setup, state, jax.ShapeDtypeStruct((segment,), bool))[2]
    except Exception as error:
        _check_metrics(setup, state)
        raise error
    labels = {name: metric.labels if isinstance(metric, Metric) else {} for name, metric in setup.metrics.items()}
    causes = ", ".join(f"{code} {code.cause}" for code in Divergence if code)
    return {
        **{name: run_folder.Variable(records[name].shape[1:], records[name].dtype, labels[name]) for name in setup.metrics},
        "diverged": run_folder.Variable((), np.dtype(np.int32), {"long_name": f"divergence: 0 none, {causes}", "units": "1"}),
    }


def _check_metrics(setup: simulate.Setup, state) -> None:
    """Raise ValueError, which names the metric, where a metric fails or returns no array of numbers. Nothing is computed."""
    iterate = Iterate(setup.method, state, setup.rates, setup.data)
    for name, metric in setup.metrics.items():
        called = f"metrics[{name!r}] is {metric!r:.100}, which"
        try:
            made = eqx.filter_eval_shape(lambda key, iterate, metric=metric: metric(key, iterate), setup.key, iterate)
        except Exception as error:  # a user's function may raise anything
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"{called} fails at a key and an `Iterate`, which it must take ({said})") from error
        if not isinstance(made, jax.ShapeDtypeStruct | bool | int | float):
            raise ValueError(f"{called} returns a {type(made).__name__}; it must return an array of numbers")
