"""The host loop: a run as segments of one compiled program, with progress, checkpoints, resume, early stop, signals."""

import contextlib
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import xarray

from dualebm._internal import checks
from dualebm.measures import Samples
from dualebm.methods.base import Divergence
from dualebm.metrics import Metric
from dualebm.training import checkpoints, run_folder, simulate
from dualebm.training.fingerprint import check_settings, describe, differences, provenance

SEGMENTS, LONGEST = 20, 100
"""A run has about this many segments, each of at most this many records, where `segment` is None."""

RESERVED = ("step", "lane", "diverged")


class Diverged(RuntimeError):
    """A run that diverged: `step`, at the end of the interval in which it did; `code`, the cause,
    a `Divergence`; `state`, the last good one; `results`, the records made."""

    step: int
    code: int
    state: Any
    results: xarray.Dataset


@eqx.filter_jit
def initial_state(key, method, rates, data: Samples):
    """`method.init` under the key that a run with `key` gives it, which is that of no step.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> int(initial_state(jax.random.key(1), method, method.rates, data).step)
    0
    """
    return method.init(jax.random.fold_in(key, simulate.ASIDE), rates, data)


def run(
    key,
    method,
    rates,
    data: Samples,
    *,
    steps: int,
    every: int,
    metrics: dict[str, Callable],
    schedule: Callable[[Any, Any], Any] | None = None,
    state: Any = None,
    folder: checkpoints.PathLike | None = None,
    segment: int | None = None,
    progress: bool = True,
    stop: Callable[[xarray.Dataset], bool] | None = None,
) -> tuple[Any, xarray.Dataset]:
    """One run of a method, with its records, and its files where it has a folder.

    The same call with the same folder continues a run that was interrupted or killed, and then equals an uninterrupted
    one bit for bit; a finished run returns its results at once. A kill costs at most one segment.

    Args:
        key: of the run, one typed threefry key.
        method, rates, data: see `dualebm.methods`. New values of rates, key and data of one shape compile nothing new.
        steps: iterations to do, a multiple of `every`. every: iterations between records, at least 2.
        metrics: name -> `metric(key, iterate)`, an array; the labels of a `Metric` go to the results. Functions that are made
            anew for each run compile anew.
        schedule: static `(step, rates) -> rates`, applied before each step; step is the number of iterations done.
        state: to start from; None for `initial_state(key, method, rates, data)`.
        folder: for results, checkpoint and manifest (see `dualebm.training.run_folder`); None writes nothing.
        segment: records of a segment, at least 2: the unit of checkpoints, progress and early stop; None for a
            twentieth of the run, at most 100.
        progress: a bar on standard error, with the rate, the time that remains and the last value of the first metric.
        stop: `stop(records so far) -> bool`, asked after each segment; True ends the run. Not one of the settings of a
            run: without it, or when it says False, the run that it ended continues.

    Returns (state, results): results hold each metric along `step`, iterations done, of which the first is the initial
    state's; `diverged` is 0.
    Raises ValueError for arguments that are not allowed and for a folder that holds something else, naming what
    differs; OSError for one that cannot be written; `Diverged`, naming the step and the likely cause; KeyboardInterrupt
    on SIGINT or SIGTERM, when the segment at hand is done and saved (a second signal interrupts at once).

    >>> from dualebm.methods.dual import Dual; from dualebm.metrics import Acceptance; from dualebm.spaces import Sphere
    >>> method, data, metrics = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3)), {"acceptance": Acceptance()}
    >>> state, results = run(jax.random.key(1), method, method.rates, data, steps=6, every=2, metrics=metrics, progress=False)
    >>> results.step.values.tolist(), results.acceptance.shape
    ([0, 2, 4, 6], (4,))
    """
    plan = _plan(key, method, rates, data, steps, every, metrics, schedule, state, segment)
    data = jax.tree.map(jnp.asarray, data)
    rates = traced(rates, data)
    like = eqx.filter_eval_shape(initial_state, key, method, rates, data)
    if state is not None:
        check_state(like, state)
    setup = simulate.Setup(key, method, rates, data, metrics, every, schedule)
    variables = recorded(setup, like, plan.segment)
    total = len(plan.step)
    records = {name: np.full((total, *v.shape), v.fill, v.dtype) for name, v in variables.items()}
    done = 0

    def results():
        made = {name: values[:done] for name, values in records.items()}
        return run_folder.dataset(made, plan.step[:done], variables, plan.attributes)

    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(run_folder.hold(folder))
            done = _begin(Path(folder), plan, variables, records)
        if done:
            state = checkpoints.load_state(_checkpoint(folder, done), like, plan.settings)
        elif state is None:
            state = initial_state(key, method, rates, data)
        # A weakly typed leaf would compile the first segment apart from the others.
        state = jax.tree.map(lambda x: x if checkpoints.is_key(x) else jnp.asarray(x, x.dtype), state)
        _raise_if_diverged(plan, records, done, state, results)

        with deferred_signals() as signals, _bar(steps, every, done, progress) as bar:
            while done < total and not signals:
                if stop is not None and done and stop(results()):
                    if folder is not None:
                        _write_manifest(Path(folder), plan, done, "stopped")
                    break
                index = done + np.arange(plan.segment)
                active = jnp.asarray((index > 0) & (index < total))
                state, info, new = simulate.run_intervals(setup, state, active)
                wait(new)
                first, done = done, min(done + plan.segment, total)
                for name, values in records.items():
                    values[first:done] = np.asarray(new[name])[: done - first]
                if folder is not None:
                    _commit(Path(folder), plan, records, first, done, state)
                _show(bar, every, done, records)
                _raise_if_diverged(plan, records, done, state, results, lambda state: first_fault(setup, state))
                if words := method.warning(state, info):
                    warnings.warn(f"step {int(state.step)}: {words}", stacklevel=2)
        if signals:
            kept = "nothing is saved, as folder is None"
            if folder is not None:
                kept = f"all of it is saved: the same call continues in {folder}"
            where = f"step {plan.step[done - 1]} of {plan.step[-1]}" if done else "the start"
            raise KeyboardInterrupt(f"{signals[0].name} at {where}; {kept}")
    return state, results()


class _Plan(NamedTuple):
    """`settings`, compared when a run continues; `attributes`, all that is told of it; `step`, of each record."""

    settings: dict
    attributes: dict
    step: np.ndarray
    segment: int


def _plan(key, method, rates, data, steps, every, metrics, schedule, state, segment) -> _Plan:
    """Raises the errors of arguments, before anything is compiled or written."""
    checks.key(key)
    checks.count("every", every, 2)
    checks.count("steps", steps)
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of every, which is {every}")
    total = steps // every + 1
    if segment is None:
        segment = min(max(2, math.ceil(total / SEGMENTS)), LONGEST)
    checks.count("segment", segment, 2)
    check_names(metrics)
    if type(rates) is not type(method.rates):
        raise ValueError(f"rates is {rates!r}; it must be a {type(method.rates).__name__}, such as {method.rates}")
    check_rates(method, rates, data, schedule, steps, 0 if state is None else int(state.step))
    source = provenance()
    settings = {
        "method": describe(method),
        "rates": describe(traced(rates, data)),
        "data": describe(data),
        "key": jax.random.key_data(key).tolist(),
        "state": describe(state),
        "steps": int(steps),
        "every": int(every),
        "segment": int(segment),
        "metrics": describe(metrics),
        "schedule": describe(schedule),
        "backend": source["backend"],
        "device_count": source["device_count"],
    }
    step = np.arange(total) * int(every) + (0 if state is None else int(state.step))
    return _Plan(settings, {**settings, **source}, step, int(segment))


def check_state(like, state) -> None:
    """Raises ValueError for a state that is not of the method: other arrays, shapes or dtypes than those that it starts with.

    Such as one whose optimiser is another's.

    >>> check_state({"x": jnp.zeros(2)}, {"x": jnp.zeros(3)})
    Traceback (most recent call last):
    ...
    ValueError: state is of another method or other settings: ['x'] is float32 of shape (3,) there and float32 of shape (2,) here
    """
    there, here = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (state, like))
    for path in {**here, **there}:
        told = [f"{a.dtype} of shape {tuple(a.shape)}" if (a := leaves.get(path)) is not None else "nothing" for leaves in (there, here)]
        if told[0] != told[1]:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"state is of another method or other settings: {name} is {told[0]} there and {told[1]} here")


def check_names(metrics: dict) -> None:
    """Raises ValueError for a metric whose name is no identifier, or reserved.

    >>> check_names({"kl": None})
    """
    for name in metrics:
        if not name.isidentifier() or name in RESERVED:
            raise ValueError(f"metrics has the name {name!r}; it must be an identifier other than {', '.join(RESERVED)}")


@eqx.filter_jit
def _scheduled(schedule, steps, rates):
    return jax.vmap(schedule, (0, None))(steps, rates)


def check_rates(method, rates, data: Samples, schedule: Callable[[Any, Any], Any] | None, steps: int, first: int = 0) -> None:
    """Raises the errors of a method's check: for the rates, and for what a schedule makes of them, where each is least and largest.

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
    made = _scheduled(schedule, first + jnp.arange(steps), traced(rates, data))
    table = {name: np.broadcast_to(values, (steps,)) for name, values in zip(made._fields, map(np.asarray, made), strict=True)}
    # A schedule that falls to 0 may pass it by its rounding, which does no harm.
    table = {name: np.where((v < 0) & (v > -1e-6 * np.abs(v).max()), 0, v) for name, v in table.items()}
    extremes = {int(extreme(values)) for values in table.values() for extreme in (np.argmin, np.argmax)}
    for i in sorted(extremes):
        try:
            method.check(type(made)(*(float(f"{values[i]:.6g}") for values in table.values())), data)
        except ValueError as error:
            raise ValueError(f"schedule, in step {first + i}: {error}") from error


def traced(rates, data: Samples):
    """Rates as arrays, in the precision of the data: traced, so that new values compile nothing new.

    >>> traced((0.1,), Samples(jnp.zeros((1, 2))))[0].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda rate: jnp.asarray(rate, data.points.dtype), rates)


def recorded(setup: simulate.Setup, state, segment: int) -> dict[str, run_folder.Variable]:
    """What is recorded, found without computing anything: the program of a segment is traced, which its first call need not do again."""
    active = jax.ShapeDtypeStruct((segment,), bool)
    records = simulate.interval_shapes(setup, state, active)[2]
    shapes = {name: jax.ShapeDtypeStruct(records[name].shape[1:], records[name].dtype) for name in setup.metrics}
    attributes = {name: metric.labels if isinstance(metric, Metric) else {} for name, metric in setup.metrics.items()}
    causes = ", ".join(f"{code} {code.cause}" for code in Divergence if code)
    return {
        **{name: run_folder.Variable(shape.shape, shape.dtype, attributes[name]) for name, shape in shapes.items()},
        "diverged": run_folder.Variable(
            (), np.dtype(np.int32), {"long_name": f"divergence: 0 none, {causes}", "units": "1"}
        ),
    }


def _checkpoint(folder, done: int) -> Path:
    return Path(folder) / f"checkpoint-{done}.npz"


def _write_manifest(folder: Path, plan: _Plan, done: int, status: str) -> None:
    said = {name: plan.attributes[name] for name in ("versions", "git_revision")}
    run_folder.write_manifest(
        folder,
        {
            "status": status,
            "records": done,
            "of": len(plan.step),
            "step": int(plan.step[max(done - 1, 0)]),
            "checkpoint": _checkpoint(folder, done).name if done else None,
            "settings": plan.settings,
            **said,
        },
    )


def _begin(folder: Path, plan: _Plan, variables, records) -> int:
    """The number of records that the folder holds of this run, read into `records`; an empty folder is prepared."""
    manifest = run_folder.read_manifest(folder)
    if manifest is None or not manifest["records"]:  # a run without a record has nothing to lose
        _write_manifest(folder, plan, 0, "running")
        run_folder.create_results(folder, plan.step, variables, chunk=(1, plan.segment), attributes=plan.attributes)
        return 0
    check_settings(f"folder {folder}", manifest["settings"], plan.settings)
    if changed := differences(manifest["versions"], plan.attributes["versions"]):
        warnings.warn(f"folder {folder}: {'; '.join(changed)}; the rest may differ in its last bits", stacklevel=3)
    done = manifest["records"]
    with run_folder.open_results(folder) as found:
        for name, values in records.items():
            values[:done] = found[name].isel(lane=0, step=slice(0, done)).values
    return done


def _commit(folder: Path, plan: _Plan, records, first: int, done: int, state) -> None:
    """Results, checkpoint, manifest, in this order: the manifest names only what is there."""
    run_folder.write_results(folder, {name: values[None, first:done] for name, values in records.items()}, record=first)
    checkpoints.save_state(_checkpoint(folder, done), state, plan.settings)
    status = "diverged" if records["diverged"][:done].any() else "done" if done == len(plan.step) else "running"
    _write_manifest(folder, plan, done, status)


@eqx.filter_jit
def first_fault(setup: simulate.Setup, state):
    """The first of `every` steps from a good state after which the state is at fault by itself; -1 for none. Steps are counted from 1.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = initial_state(jax.random.key(1), method, method.rates, data)
    >>> rates = method.rates._replace(reaction_step=jnp.nan)
    >>> int(first_fault(simulate.Setup(jax.random.key(1), method, rates, data, {}, 4), state))
    1
    """
    return simulate.first_fault(setup, state)


def _raise_if_diverged(plan: _Plan, records, done: int, state, results, fault: Callable | None = None) -> None:
    codes = records["diverged"][:done]
    if codes.any():
        at = int(np.argmax(codes != 0))
        code = int(codes[at])
        rates = ", ".join(f"{name}={value}" for name, value in plan.settings["rates"].items() if name != "type")
        where = f"between steps {plan.step[at - 1]} and {plan.step[at]}"
        step = int(fault(state)) if fault is not None else -1
        if step >= 0:
            where = f"in step {step}, {where}"
        error = Diverged(
            f"the run diverged {where}: {Divergence(code).cause}; {Divergence(code).remedy} (rates: {rates})"
        )
        error.step, error.code, error.state, error.results = int(plan.step[at]), code, state, results()
        raise error


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[signal.Signals]]:
    """The list of signals received, for the loop to look at between segments; a second one interrupts at once."""
    received = []

    def receive(number, frame):
        del frame
        received.append(signal.Signals(number))
        if len(received) > 1:
            raise KeyboardInterrupt(f"{received[-1].name}, the second signal; what the last segment saved stands")

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {n: signal.signal(n, receive) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(arrays) -> None:
    """Waits where Python can still receive signals, which it cannot inside JAX."""
    pause = 1e-4
    while not all(array.is_ready() for array in jax.tree.leaves(arrays)):
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _bar(steps: int, every: int, done: int, progress: bool) -> tqdm.tqdm:
    initial = max(done - 1, 0) * every
    return tqdm.tqdm(total=steps, initial=initial, unit="it", file=sys.stderr, disable=not progress)


def _show(bar: tqdm.tqdm, every: int, done: int, records) -> None:
    """Moves the bar, with the last values of the metrics that are scalars, or values with their errors."""
    shown = {n: v[done - 1].reshape(-1) for n, v in records.items() if n != "diverged" and (v.ndim == 1 or v.shape[1:] == (2,))}
    told = {n: f"{v[0]:.4g}" if v.size == 1 else f"{v[0]:.4g}+-{v[1]:.1g}" for n, v in shown.items()}
    bar.set_postfix(told, refresh=False)
    bar.update((done - 1) * every - bar.n)
