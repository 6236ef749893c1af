"""One run of a method, with progress, checkpoints, continuation, early stopping and signals."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import xarray
from jaxtyping import Array, Key

from dualebm import rates as bounds
from dualebm._internal import checks, files, folders
from dualebm._internal.keys import check_key
from dualebm._internal.programs import drop_programs
from dualebm.measures import Samples
from dualebm.methods.base import Divergence, Method
from dualebm.metrics.base import Metric
from dualebm.training import checkpoints, prepare, run_folder, segments, simulate
from dualebm.training.descriptions import describe
from dualebm.training.fingerprint import check_settings, warn_of_versions

SEGMENTS = 20
"""The approximate number of segments of a run where `segment` is None."""


SMALLER = 0.01
"""The factor of a step that is tried where a run has diverged, to find which step to lower."""


class Diverged(RuntimeError):
    """The error of a run that diverged.

    Attributes:
        step: The number of iterations at the end of the interval in which the run diverged.
        code: The cause, a `Divergence`.
        state: The last state before the divergence.
        results: The records made, along `step`.
    """

    step: int
    code: int
    state: Any
    results: xarray.Dataset


def run(
    key: Key[Array, ""],
    method: Method,
    rates: Any,
    data: Samples,
    *,
    steps: int,
    every: int,
    metrics: dict[str, Callable],
    schedule: Callable[[Any, Any], Any] | None = None,
    state: Any = None,
    folder: files.PathLike | None = None,
    segment: int | None = None,
    progress: bool = True,
    callback: Callable[[xarray.Dataset], Any] | None = None,
) -> tuple[Any, xarray.Dataset]:
    """Run a method and record metrics. In a folder, keep results and checkpoints.

    The same call with the same folder continues a run that was interrupted or killed. Its results then equal the
    results of an uninterrupted run bit for bit. A finished run returns its results at once. A kill costs at most one segment.

    Args:
        key: The key of the run, one typed threefry key.
        method: A `Method`, static.
        rates: The rates of the method, a NamedTuple of scalars. New values of rates, key and data of one shape compile
            nothing new.
        data: The points (n, d), with their log weights where they have any.
        steps: The number of iterations, a multiple of `every`.
        every: The number of iterations between records, at least 2.
        metrics: For each name a function `metric(key, iterate)` that returns an array. The labels of a `Metric` are
            stored with the results. A function that is created anew for each run compiles anew.
        schedule: Pure, hashable function `(step, rates) -> rates`, applied before each iteration, or None. `step` is the number
            of iterations done.
        state: The state to start from; None for `initial_state(key, method, rates, data)`.
        folder: The folder of results, checkpoint and manifest (see `dualebm.training.run_folder`); None writes nothing.
        segment: The number of records of a segment, at least 2. After each segment a checkpoint is written and `callback`
            is called. None for a twentieth of the run, at most 100 records.
        progress: Whether to show a bar on standard error, with the rate, the time that remains and the last scalar
            records.
        callback: Function `callback(results so far)`, called on the host after each segment is saved, and before the first
            segment of a run that is continued. The run ends when it returns a true value. A function that logs or draws
            returns None. It is not part of the settings of a run: a call without it, or whose `callback` returns None, continues the
            run that it ended.

    Returns:
        The last state, and the results: each metric along `step`, the number of iterations done, from the initial state
        on. `diverged` is 0 everywhere.

    Raises:
        ValueError: When an argument is not allowed, or the folder holds another run. The message names what differs.
        OSError: When the folder cannot be written.
        Diverged: When the run diverges. The message names the step and the likely cause.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the current segment is done and saved. A second signal interrupts
            at once.

    >>> from dualebm.methods.dual import Dual; from dualebm.metrics import Acceptance; from dualebm.spaces import Sphere
    >>> method, data, metrics = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3)), {"acceptance": Acceptance()}
    >>> state, results = run(jax.random.key(1), method, method.rates, data, steps=6, every=2, metrics=metrics, progress=False)
    >>> results.step.values.tolist(), results.acceptance.shape
    ([0, 2, 4, 6], (4,))
    """
    check_key(key)
    if callback is not None and not callable(callback):
        raise ValueError(f"callback is {callback!r:.200}; it must be a function callback(results), or None")
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise ValueError(f"folder is {folder!r:.200}; it must be a path, or None")
    checks.choice("progress", progress, (True, False))
    plan = _plan(key, method, rates, data, steps, every, metrics, schedule, state, segment)
    drop_programs()
    data = jax.tree.map(jnp.asarray, data)
    rates = prepare.traced(rates, data)
    like = eqx.filter_eval_shape(prepare.initial_state, key, method, rates, data)
    prepare.check_memory(method, like)
    if state is not None:
        prepare.check_state(like, state)
    setup = simulate.Setup(key, method, rates, data, metrics, every, schedule)
    variables = prepare.recorded(setup, like, plan.segment)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folders.hold(folder))
            folder = Path(folder)
            run_folder.clean(folder)
        records = {name: np.full((len(plan.step), *v.shape), v.fill, v.dtype) for name, v in variables.items()}
        done = 0 if folder is None else _begin(folder, plan, variables, records)
        job = _Run(plan, setup, state, like, variables, records, folder)
        if job.diverged(done):
            job.raise_diverged(done, job.load(done))
        with segments.deferred_signals(answers=True, progress=progress) as signals:
            job.bar = stack.enter_context(segments.bar(steps, max(done - 1, 0) * every, "it", progress))
            first = done
            state, done = segments.drive(plan, job, done, lambda done: bool(signals) or job.stopped(done, callback))
            if callback is not None and first < done == len(plan.step):
                callback(job.results(done))
        if signals:
            raise KeyboardInterrupt(f"{signals[0].name} at {job.place(done)}")
    return state, job.results(done)


def _plan(key, method, rates, data, steps, every, metrics, schedule, state, segment) -> segments.Plan:
    """Return the plan of a run. Raise the errors of its arguments before anything is compiled or written."""
    if not isinstance(method, Method):
        raise ValueError(f"method is {method!r:.200}; it must be an object of a method, such as Dual(Sphere(3))")
    segment = segments.segment_of(steps, every, segment, SEGMENTS)
    prepare.check_names(metrics)
    if state is not None and not hasattr(state, "step"):
        raise ValueError(f"state is {state!r:.200}; it must be a state of {type(method).__name__}, as `run` returns it, or None")
    if type(rates) is not type(method.rates):
        raise ValueError(f"rates is {rates!r}; it must be a {type(method.rates).__name__}, such as {method.rates}")
    first = 0 if state is None else int(state.step)
    prepare.check_rates(method, rates, data, schedule, steps, first)
    settings = {
        "method": describe(method),
        "rates": describe(prepare.traced(rates, data)),
        "data": describe(data),
        "key": jax.random.key_data(key).tolist(),
        "state": describe(state),
        "metrics": describe(metrics),
        "schedule": describe(schedule),
        "device_count": jax.device_count(),
    }
    return segments.plan_of(settings, steps, every, segment, first)


def _begin(folder: Path, plan: segments.Plan, variables, records) -> int:
    """Read the records of this run in the folder into `records` and return their number. Prepare an empty folder."""
    manifest = run_folder.read_manifest(folder, "run")
    if manifest is None or not manifest["records"]:  # a run without a record may be overwritten
        _write_manifest(folder, plan, "running", 0)
        run_folder.create_results(folder, plan.step, variables, chunk=(1, plan.segment), attributes=plan.attributes)
        return 0
    check_settings(f"folder {folder}", manifest["settings"], plan.settings)
    warn_of_versions(f"folder {folder}", [manifest], plan.attributes, stacklevel=3)
    done = manifest["records"]
    with run_folder.open_results(folder) as stored:
        for name, values in records.items():
            values[:done] = stored[name].isel(run=0, step=slice(0, done)).values
    return done


def _write_manifest(folder: Path, plan: segments.Plan, status: str, done: int) -> None:
    checkpoint = _checkpoint(folder, done).name if done else None
    step = int(plan.step[max(done - 1, 0)])
    segments.write_manifest(folder, "run", plan, status, done, checkpoint, step=step, settings=plan.settings)


def _checkpoint(folder: Path, done: int) -> Path:
    return folder / f"checkpoint-{done}.npz"


@dataclasses.dataclass
class _Run:
    """A run as `segments.drive` sees it. It keeps the records in memory, and also in its folder where it has one."""

    plan: segments.Plan
    setup: simulate.Setup
    given: Any  # the state to start from, or None
    like: Any  # the shapes of a state
    variables: dict[str, run_folder.Variable]
    records: dict[str, np.ndarray]
    folder: Path | None
    bar: Any = None
    info: Any = None  # of the last segment
    said: set[str] = dataclasses.field(default_factory=set)  # the kinds of warnings that were given

    def start(self):
        setup = self.setup
        state = prepare.initial_state(setup.key, setup.method, setup.rates, setup.data) if self.given is None else self.given
        return segments.strongly_typed(state)

    def load(self, done):
        assert self.folder is not None
        return checkpoints.load_state(_checkpoint(self.folder, done), self.like, self.plan.settings)

    def advance(self, states, active):
        state, self.info, records = simulate.run_intervals(self.setup, states, active)
        return state, records

    def write(self, first, done, records):
        for name, values in self.records.items():
            values[first:done] = np.asarray(records[name])[: done - first]
        if self.folder is not None:
            run_folder.write_results(self.folder, {name: v[None, first:done] for name, v in self.records.items()}, record=first)

    def save(self, first, done, states):
        if self.folder is not None:
            checkpoints.save_state(_checkpoint(self.folder, done), states, self.plan.settings)

    def mark(self, done):
        if self.folder is not None:
            status = "diverged" if self.diverged(done) else "done" if done == len(self.plan.step) else "running"
            _write_manifest(self.folder, self.plan, status, done)

    def report(self, first, done, states, seconds):
        _show(self.bar, self.plan.every, done, self.records)
        if self.diverged(done):
            self.raise_diverged(done, states, _first_fault)
        said = dict(self.setup.method.warnings(states, self.info))
        for name, metric in self.setup.metrics.items():
            if isinstance(metric, Metric):
                found = metric.warnings(self.records[name][:done])
                said |= {f"{name}: {kind}": sentence for kind, sentence in found.items()}
        for kind, sentence in said.items():
            if kind not in self.said:
                warnings.warn(f"step {int(states.step)}: {sentence}", stacklevel=4)
        self.said |= said.keys()

    def results(self, done) -> xarray.Dataset:
        """Return the records made so far."""
        made = {name: values[:done] for name, values in self.records.items()}
        return run_folder.dataset(made, self.plan.step[:done], self.variables, self.plan.attributes)

    def stopped(self, done, callback) -> bool:
        """Return whether `callback` ends the run. The manifest then has the status `stopped`."""
        if callback is None or not done or not callback(self.results(done)):
            return False
        if self.folder is not None:
            _write_manifest(self.folder, self.plan, "stopped", done)
        return True

    def place(self, done) -> str:
        """Return in words at which step the run is, and whether it is saved."""
        where = f"step {self.plan.step[done - 1]} of {self.plan.step[-1]}" if done else "the start"
        if self.folder is None:
            return f"{where}; nothing is saved, because folder is None"
        return f"{where}; the run so far is saved, and the same call continues it in {self.folder}"

    def diverged(self, done) -> bool:
        """Return whether one of the records has a divergence."""
        return bool(self.records["diverged"][:done].any())

    def raise_diverged(self, done, state, first_fault: Callable | None = None):
        """Raise `Diverged`. `first_fault` finds the step from the state at the start of the interval."""
        plan, codes = self.plan, self.records["diverged"][:done]
        at = int(np.argmax(codes != 0))
        code = Divergence(codes[at])
        rates = ", ".join(f"{name}={value}" for name, value in plan.settings["rates"].items() if name != "type")
        where = f"between steps {plan.step[at - 1]} and {plan.step[at]}"
        if first_fault is not None:
            step = int(first_fault(self.setup, state))
            where = f"in step {step}, {where}" if step >= 0 else where
        error = Diverged(f"the run diverged {where}: {code.cause}; {_remedy(self.setup, state, code)} (rates: {rates})")
        error.step, error.code, error.state, error.results = int(plan.step[at]), code, state, self.results(done)
        raise error


_first_fault = eqx.filter_jit(simulate.first_fault)
_interval = eqx.filter_jit(simulate.interval)


def _remedy(setup: simulate.Setup, state, code: Divergence) -> str:
    """Return what to change so that a run does not diverge after a state. The interval is repeated with other rates to find it."""
    if code in (Divergence.NO_WEIGHT, Divergence.ONE_ATOM):
        return code.remedy
    given = {name: float(value) for name, value in setup.rates._asdict().items()}
    moves, trains = ([name for name in names if given[name]] for names in bounds.steps(type(setup.rates)))

    def healthy(names, factor, before=state):
        changed = {name: getattr(setup.rates, name) * factor for name in names}
        return int(_interval(dataclasses.replace(setup, rates=setup.rates._replace(**changed)), before)[2]) == Divergence.NONE

    if trains and healthy(trains, 0):
        return f"lower {' or '.join(trains)}"
    slower = bool(moves) and (healthy(moves, SMALLER) or (bool(trains) and healthy([*trains, *moves], SMALLER)))
    unbounded = moves and trains and "radius" not in given  # the energy may have become steep by its training
    if unbounded and healthy(trains, 0, prepare.initial_state(setup.key, setup.method, setup.rates, setup.data)):
        return f"lower {' or '.join(trains)}, by which the energy has become too steep{f', or {moves[0]}' if slower else ''}"
    if slower:
        return f"lower {moves[0]}"
    if code in (Divergence.ENERGY, Divergence.NOT_FINITE):
        return "smaller steps do not help: the energy, its feature and the base measure must be finite at all particles and data"
    return code.remedy


def _show(bar: tqdm.tqdm, every: int, done: int, records) -> None:
    """Move the bar, and show the last records of the metrics that are scalars or scalars with their errors."""
    last = {n: v[done - 1].reshape(-1) for n, v in records.items() if n != "diverged" and (v.ndim == 1 or v.shape[1:] == (2,))}
    texts = {n: f"{v[0]:.4g}" if v.size == 1 else f"{v[0]:.4g}+-{v[1]:.1g}" for n, v in last.items()}
    bar.set_postfix(texts, refresh=False)
    bar.update((done - 1) * every - bar.n)
