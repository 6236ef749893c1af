"""The host loop: segments, resume after a kill, signals, early stop, divergence, errors, compilation."""

import dataclasses
import inspect
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

from dualebm import metrics
from dualebm._internal import files, folders
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import MLP
from dualebm.measures import Samples
from dualebm.methods.base import Info
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED, algorithm_1
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.metrics import Metric
from dualebm.spaces import Euclidean, Sphere
from dualebm.training import run_folder, simulate
from dualebm.training.prepare import initial_state
from dualebm.training.run import Diverged, run
from tests.children import Child

METHOD = Dual(Sphere(3), neurons=8)
KEY = jax.random.key(1)
STEPS, EVERY, SEGMENT = 22, 2, 3  # 12 records in 4 segments
LONG = dict(steps=240)  # 121 records in 41 segments


class Accepted(Metric):
    units, long_name = "1", "accepted moves"

    def __call__(self, key, iterate):
        return iterate.info.acceptance


def noisy_weights(key, iterate):
    return iterate.state.atoms.log_weights + jax.random.normal(key, iterate.state.atoms.signs.shape, iterate.data.points.dtype)


acceptance = Accepted()
METRICS = {"acceptance": acceptance, "noisy_weights": noisy_weights}


def points(seed=0, count=60, dtype=jnp.float32):
    return Samples(Sphere(3).sample_base(jax.random.key(seed), count, dtype))


def go(folder=None, **changes):
    given = dict(key=KEY, method=METHOD, rates=METHOD.rates, data=points(), steps=STEPS, every=EVERY, metrics=METRICS)
    return run(**{**given, "segment": SEGMENT, "progress": False, "folder": folder, **changes})


def long(folder, segments):
    """In a process of its own: a run that kills itself after so many segments (0: it waits to be killed)."""
    calls = []

    def stop(records):
        calls.append(records)
        if len(calls) == segments:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0 if segments else 0.03)  # so that it is not done before it is killed
        return False

    go(folder, callback=stop, **LONG)


def assert_same(one, other):
    """State and records, bit for bit."""
    assert jax.tree.structure(one[0]) == jax.tree.structure(other[0])
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    xarray.testing.assert_equal(one[1], other[1])


def stored(folder):
    return run_folder.open_results(folder).isel(run=0, drop=True).load()


@pytest.fixture(scope="module")
def whole():
    return go()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "dtype, segments", [(np.float32, (SEGMENT, 12)), (np.float64, (5,))]
)
def test_segments_of_any_length_equal_simulate(dtype, segments):
    with jax.enable_x64(dtype == np.float64):
        data = points(dtype=dtype)
        rates = jax.tree.map(lambda rate: jnp.asarray(rate, dtype), METHOD.rates)
        start = initial_state(KEY, METHOD, rates, data)
        direct, records = simulate.simulate(KEY, METHOD, start, rates, data, steps=STEPS, every=EVERY, metrics=METRICS)
        for segment in segments:
            state, results = go(data=data, segment=segment)
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(direct), strict=True):
                np.testing.assert_array_equal(a, b)
            for name in (*METRICS, "step", "diverged"):
                np.testing.assert_array_equal(results[name].values[1:], records[name])
            assert results.noisy_weights.dtype == dtype


def test_first_record_is_the_initial_state(whole):
    _, results = whole
    start = initial_state(KEY, METHOD, jax.tree.map(jnp.float32, METHOD.rates), points())

    @jax.jit
    def first(start, data):
        return simulate.measure(simulate.Setup(KEY, METHOD, METHOD.rates, data, METRICS, EVERY), start, Info(jnp.nan))

    expected = first(start, points())
    assert results.step.values.tolist() == list(range(0, STEPS + 1, EVERY))
    np.testing.assert_array_equal(results.noisy_weights[0], expected["noisy_weights"])
    assert int(start.step) == 0 and int(whole[0].step) == STEPS
    of_a_step = simulate.start(jax.random.fold_in(KEY, 0), METHOD, METHOD.rates, points())
    assert not np.allclose(start.atoms.positions, of_a_step.atoms.positions)


def test_a_folder_holds_what_the_call_returns(tmp_path, whole):
    state, results = go(tmp_path / "a" / "b")
    assert_same((state, results), whole)
    xarray.testing.assert_identical(stored(tmp_path / "a" / "b"), results)
    assert results.acceptance.attrs == {"units": "1", "long_name": "accepted moves"}
    assert results.attrs["rates"]["particle_step"] == pytest.approx(METHOD.rates.particle_step, rel=1e-6)
    assert results.attrs["method"]["neurons"] == 8
    assert {"versions", "git_revision", "backend", "device_count", "key"} <= set(results.attrs)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "checkpoint-12.npz",
        "manifest.json",
        "results.zarr",
    ]
    manifest = run_folder.read_manifest(tmp_path / "a" / "b")
    assert (manifest["status"], manifest["records"], manifest["step"]) == ("done", 12, STEPS)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_returns_at_once(tmp_path, whole, monkeypatch):
    go(tmp_path)
    monkeypatch.setattr(simulate, "run_intervals", None)
    assert_same(go(tmp_path), whole)


def test_a_run_goes_on_from_a_state(whole):
    state, first = go(steps=10)
    state, second = go(steps=STEPS - 10, state=state)
    assert second.step.values.tolist() == list(range(10, STEPS + 1, EVERY))
    assert_same((state, xarray.concat([first, second.isel(step=slice(1, None))], "step")), whole)


class Crash(BaseException):
    pass


def test_a_crash_at_any_write_costs_at_most_a_segment(tmp_path, whole, monkeypatch):
    """Dies at the n-th flush, which lies before and after each rename, for every n; and leaves its temporary files."""
    flush, unlink, run_intervals = folders.flush, os.unlink, simulate.run_intervals

    def leave(path, **options):
        if not str(path).endswith(".tmp"):
            unlink(path, **options)

    segments = []

    def count(*arguments):
        segments.append(arguments)
        return run_intervals(*arguments)

    monkeypatch.setattr(simulate, "run_intervals", count)
    fatal, crashes = 0, 0
    while True:
        folder, flushes = tmp_path / str(fatal), []

        def dying(descriptor, flushes=flushes, fatal=fatal):
            flush(descriptor)
            flushes.append(descriptor)
            if len(flushes) > fatal:
                raise Crash

        segments.clear()
        with monkeypatch.context() as patch:
            patch.setattr(folders, "flush", dying)
            patch.setattr(os, "unlink", leave)
            try:
                go(folder)
                break
            except Crash:
                crashes += 1
        assert_same(go(folder), whole)
        assert len(segments) <= 4 + 1
        xarray.testing.assert_equal(stored(folder), whole[1])
        assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-12.npz", "manifest.json", "results.zarr"]
        assert not list(folder.rglob("*.tmp"))
        fatal += 9 if crashes > 4 else 1
    assert crashes > 10 and os.unlink is unlink


@pytest.mark.heavy
def test_sigkill_then_the_same_call_equals_an_uninterrupted_run(tmp_path):
    itself, waiting = Child(long, tmp_path / "itself", 7), Child(long, tmp_path / "waiting", 0)
    expected = go(**LONG)
    deadline = time.monotonic() + 120
    manifest = tmp_path / "waiting" / "manifest.json"
    while time.monotonic() < deadline and not (manifest.exists() and run_folder.read_manifest(manifest.parent)["records"] >= 9):
        time.sleep(0.01)
    time.sleep(np.random.default_rng(os.getpid()).uniform(0, 0.1))  # any moment will do
    codes = [waiting.kill()]
    itself.process.join(300)
    assert [*codes, itself.kill()] == [-signal.SIGKILL] * 2
    for name in ("itself", "waiting"):
        done = run_folder.read_manifest(tmp_path / name)["records"]
        assert 0 < done < 121 and (name == "waiting" or done == 21)
        assert np.isfinite(stored(tmp_path / name).acceptance[1:done]).all()
        assert_same(go(tmp_path / name, **LONG), expected)
        xarray.testing.assert_equal(stored(tmp_path / name), expected[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_segment_at_hand(tmp_path, whole, number, capfd):
    before = signal.signal(number, signal.default_int_handler)
    try:
        calls = []

        def stop(records):
            calls.append(records.sizes["step"])
            os.kill(os.getpid(), number)
            return False

        with pytest.raises(KeyboardInterrupt, match=rf"{number.name} at step 10 of 22; .*the same call continues it in "):
            go(tmp_path, callback=stop)
        assert calls == [3] and capfd.readouterr().err == "stopping after this segment; again to stop now\n"
        assert signal.getsignal(number) is signal.default_int_handler
        manifest = run_folder.read_manifest(tmp_path)
        assert (manifest["status"], manifest["records"]) == ("running", 6)
        assert_same(go(tmp_path), whole)

        with pytest.raises(KeyboardInterrupt, match="nothing is saved"):
            go(callback=stop)
    finally:
        signal.signal(number, before)


def test_a_second_signal_interrupts_at_once(tmp_path, whole, capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:

        def stop(records):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not interrupted")

        with pytest.raises(KeyboardInterrupt, match="second signal"):
            go(tmp_path, callback=stop)
        assert capfd.readouterr().err.count("stopping after this segment") == 1
        assert run_folder.read_manifest(tmp_path)["records"] == 3
        assert_same(go(tmp_path), whole)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_callback_is_called_after_each_segment_and_before_the_first_of_a_run_that_goes_on(tmp_path, whole):
    steps = []

    def log(records):
        steps.append(int(records.step[-1]))
        return steps == [4, 10]

    go(tmp_path, callback=log)
    assert steps == [4, 10]
    assert_same(go(tmp_path, callback=log), whole)
    assert steps == [4, 10, 10, 16, 22]
    go(tmp_path, callback=log)  # a finished run
    assert steps == [4, 10, 10, 16, 22]


def test_early_stop_and_going_on(tmp_path, whole):
    def stop(records):
        return bool(records.step[-1] >= 8)

    state, results = go(tmp_path, callback=stop)
    assert int(state.step) == 10 and results.step.values.tolist() == [0, 2, 4, 6, 8, 10]
    assert run_folder.read_manifest(tmp_path)["status"] == "stopped"
    assert np.isnan(stored(tmp_path).acceptance[6:]).all() and (stored(tmp_path).diverged[6:] == -1).all()
    assert_same(go(tmp_path, callback=stop), (state, results))
    assert_same(go(callback=stop), (state, results))
    assert_same(go(tmp_path), whole)
    assert run_folder.read_manifest(tmp_path)["status"] == "done"


def test_results_can_be_read_while_the_run_goes_on(tmp_path):
    seen = []

    def stop(records):
        there = stored(tmp_path)
        done = records.sizes["step"]
        xarray.testing.assert_equal(there.isel(step=slice(0, done)), records)
        assert there.sizes["step"] == 12 and np.isnan(there.noisy_weights[done:]).all()
        seen.append(done)
        return False

    go(tmp_path, callback=stop)
    assert seen == [3, 6, 9, 12]


def test_a_diverged_run_raises_and_leaves_valid_files(tmp_path):
    rates = METHOD.rates._replace(reaction_step=1e5)
    message = (
        r"(in step [12], )?between steps 0 and 2: one atom holds all the weight; lower reaction_step \(rates: .*reaction_step=100000.0"
    )
    with pytest.raises(Diverged, match=message) as caught:
        go(tmp_path, rates=rates)
    error = caught.value
    assert (
        (error.step, error.code) == (2, 4) and np.isfinite(error.state.particles).all() and int(error.state.step) == 0
    )
    assert error.results.diverged.values.tolist() == [0, 4, 4] and np.isnan(error.results.acceptance[1:]).all()
    assert run_folder.read_manifest(tmp_path)["status"] == "diverged"
    assert stored(tmp_path).diverged.values.tolist() == [0, 4, 4] + [-1] * 9
    with pytest.raises(Diverged, match=message):
        go(tmp_path, rates=rates)
    with pytest.raises(RuntimeError, match="between steps 0 and 2"):
        go(rates=rates)


def test_a_fault_is_named_with_its_step():
    """Of an energy whose values end in step 7, between two records."""

    class Ending(Energy):
        clock: jax.Array

        def __call__(self, x):
            return jnp.where(self.clock > 6.5, jnp.nan, 1.0) * jnp.sum(x**2, axis=1)

    def ticking():
        return optax.GradientTransformation(lambda p: optax.EmptyState(), lambda g, s, p: (jax.tree.map(jnp.ones_like, p), s))

    method = algorithm_1(Euclidean(2), lambda key, space, dtype: Ending(jnp.zeros((), dtype)), walkers=10, optimiser=ticking)
    data = Samples(jnp.ones((4, 2), jnp.float32))
    with pytest.raises(Diverged, match="the run diverged in step 7, between steps 5 and 10: the state is not finite"):
        run(jax.random.key(0), method, method.rates, data, steps=20, every=5, metrics={}, progress=False)


def test_a_state_of_another_optimiser_is_refused():
    method = Contrastive(Sphere(3), MLP(4), walkers=10, **FIXED)
    data = Samples(jnp.eye(3, dtype=jnp.float32))
    other = dataclasses.replace(method, optimiser="gradient")
    state = initial_state(jax.random.key(0), other, other.rates, data)
    with pytest.raises(ValueError, match=r"state is of another method or other settings: \.training\.optimiser.* is absent; it must be"):
        run(jax.random.key(0), method, method.rates, data, steps=4, every=2, metrics={}, state=state, progress=False)
    wider = initial_state(jax.random.key(0), dataclasses.replace(method, start=MLP(5)), method.rates, data)
    with pytest.raises(ValueError, match=r"weights\[0\] is float32 of shape \(3, 5\); it must be float32 of shape \(3, 4\)"):
        run(jax.random.key(0), method, method.rates, data, steps=4, every=2, metrics={}, state=wider, progress=False)


def test_weights_that_collapse_are_warned_of():
    """Learning steps far too long for two hundred walkers that hardly move."""
    method = algorithm_1(Euclidean(2, Flat()), Mixture(1), walkers=200, optimiser="gradient", resampling="none")
    rates = method.rates._replace(particle_step=1e-4, learning_rate=0.1)
    data = Samples(20 + jax.random.normal(jax.random.key(0), (50, 2)))
    with pytest.warns(UserWarning, match=r"step \d+: the weights have collapsed to few particles: .* of 200; .*Lower learning_rate"):
        run(jax.random.key(0), method, rates, data, steps=20, every=10, metrics={}, progress=False)


WALKERS = {
    "jarzynski": algorithm_1(Sphere(3), MLP(4), walkers=64, walker_batch=32, data_batch=10, resampling="multinomial"),
    "contrastive": Contrastive(Sphere(3), MLP(4), walkers=64, begin="model", diagnosis=True, clip=1.0, **FIXED),
    "weighted dual": WeightedDual(Sphere(3), neurons=4, particles=64),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", WALKERS)
def test_methods_with_walkers_go_on_bit_for_bit(name, tmp_path):
    """Stopped after a segment and continued from its folder, against a run at once."""
    method, data = WALKERS[name], Samples(Sphere(3).sample_base(jax.random.key(0), 40, jnp.float32))
    rates = method.rates._replace(**({"threshold": 1.0} if hasattr(method.rates, "threshold") else {}))
    common = dict(steps=16, every=2, metrics={"acceptance": metrics.Acceptance()}, segment=2, progress=False)
    at_once, expected = run(jax.random.key(1), method, rates, data, **common)
    run(jax.random.key(1), method, rates, data, folder=tmp_path, callback=lambda records: True, **common)
    assert run_folder.read_manifest(tmp_path)["status"] == "stopped"
    continued, results = run(jax.random.key(1), method, rates, data, folder=tmp_path, **common)
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(continued), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(results.acceptance, expected.acceptance)
    if name != "contrastive":
        assert int(continued.weights.resamplings) > 2


@dataclasses.dataclass(frozen=True)
class Counted(Dual):
    def step(self, key, state, rates, data):
        TRACES.append(self)
        return super().step(key, state, rates, data)


TRACES = []


def test_new_values_compile_nothing_new(tmp_path):
    def again(folder=None, seed=0, **changes):
        method = Counted(Sphere(3), neurons=8)  # built anew: it compares by its settings
        return go(folder, method=method, **{"rates": method.rates, "data": points(seed), **changes})

    state, _ = again()
    once = len(TRACES)
    assert once > 0
    rates = METHOD.rates._replace(particle_step=0.03, radius=np.float32(5))
    state, _ = again(tmp_path, key=jax.random.key(2), seed=3, rates=rates)
    state = state._replace(atoms=state.atoms._replace(signs=jnp.asarray([1.0] * 8) * 1.0))
    again(state=state, rates=METHOD.rates._replace(radius=jnp.float32(4)), steps=40)
    again(data=Samples(np.asarray(points(5).points)))
    assert len(TRACES) == once


def test_progress_goes_to_standard_error(capsys):
    """With the metrics that are numbers, or numbers with their errors."""
    estimate = lambda key, iterate: jnp.array([0.25, 0.03125])  # noqa: E731
    go(progress=True, metrics={**METRICS, "estimate": estimate})
    shown = capsys.readouterr()
    assert "22/22" in shown.err and "it/s" in shown.err and shown.out == ""
    assert "acceptance=" in shown.err and "estimate=0.25+-0.03" in shown.err and "noisy_weights=" not in shown.err
    go(progress=False)
    shown = capsys.readouterr()
    assert shown.err == shown.out == ""


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(every=1), "every is 1; it must be an integer of at least 2"),
        (dict(steps=0), "steps is 0"),
        (dict(steps=21), "steps is 21; it must be a multiple of every, which is 2"),
        (dict(segment=1), "segment is 1; it must be an integer of at least 2"),
        (dict(metrics={"step": acceptance}), "metrics has the name 'step'"),
        (dict(metrics={"a/b": acceptance}), "metrics has the name 'a/b'"),
        (dict(rates={"radius": 1.0}), "rates is {'radius': 1.0}; it must be a DualRates"),
        (dict(rates=METHOD.rates._replace(particle_step=-1.0)), "particle_step is -1.0"),
        (dict(data=Samples(jnp.ones((4, 3)))), "rows off the unit sphere"),
        (dict(data=Samples(np.ones((4, 3)))), "JAX_ENABLE_X64"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        go(tmp_path / "new", **changes)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_another_kind_is_refused(tmp_path):
    """By `run` itself: the check of annotations, which these tests add, would speak first."""
    bare = inspect.unwrap(run)
    with pytest.raises(ValueError, match="key is 0"):
        bare(0, METHOD, METHOD.rates, points(), steps=STEPS, every=EVERY, metrics=METRICS, folder=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_fails_writes_nothing(tmp_path):
    def broken(key, iterate):
        return iterate.state.missing

    with pytest.raises(ValueError, match=r"metrics\[.broken.\] is .*, which fails at a key .*has no attribute .missing"):
        go(tmp_path / "new", metrics={"broken": broken})
    assert list(tmp_path.iterdir()) == []


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(rates=METHOD.rates._replace(radius=5.0)), "rates.radius is 10.0 on disk and 5.0 in this call"),
        (
            dict(method=dataclasses.replace(METHOD, integrator="geodesic")),
            "method.integrator is 'mala' on disk and 'geodesic' in this call",
        ),
        (dict(method=Dual(Sphere(3), neurons=4)), "method.neurons is 8 on disk and 4 in this call"),
        (dict(steps=24), "steps is 22 on disk and 24 in this call"),
        (dict(segment=4), "segment is 3 on disk and 4 in this call"),
        (dict(key=jax.random.key(9)), "key is [0, 1] on disk and [0, 9] in this call"),
        (dict(data=points(count=61)), "data.points.shape is [60, 3] on disk and [61, 3] in this call"),
        (dict(data=points(seed=4)), "data.points.sha256 is "),
        (dict(metrics={"acceptance": acceptance}), "metrics.noisy_weights is the function noisy_weights on disk and None in this call"),
        (dict(schedule=lambda step, rates: rates), "schedule is None on disk and the function <lambda> in this call"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_kept(tmp_path, interrupted, changes, message):
    before = content(interrupted)
    with pytest.raises(ValueError) as caught:
        go(interrupted, **changes)
    assert message in str(caught.value) and str(interrupted) in str(caught.value)
    assert content(interrupted) == before


def test_another_configuration_of_jax_that_changes_numbers_is_refused(interrupted):
    before = content(interrupted)
    other = not jax.config.jax_threefry_partitionable
    with (
        jax.threefry_partitionable(other),
        pytest.raises(ValueError, match=f"jax_config.jax_threefry_partitionable is {not other} on disk and {other} in this call"),
    ):
        go(interrupted)
    assert content(interrupted) == before


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of a run that has done two of its four segments."""
    folder = tmp_path_factory.mktemp("interrupted")
    go(folder, callback=lambda records: records.sizes["step"] == 6)
    return folder


def annealed(start):
    restart = optax.linear_schedule(start, 0.0, 20)
    return lambda step, rates: rates._replace(restart_probability=restart(step))


@pytest.mark.parametrize(
    ("name", "schedule", "message"),
    [
        ("restart_probability", optax.linear_schedule(0.5, 1.5, 20), r"schedule, in step 20: restart_probability is 1\.5; .*at most 1"),
        ("restart_probability", optax.linear_schedule(0.5, -0.5, 20), "restart_probability is -0.5; .*at least 0"),
        ("particle_step", lambda step: 0.1 / (7 - step), "in step 7: particle_step is inf"),
        ("radius", optax.linear_schedule(1.0, 0.0, 20), "in step 20: radius is 0.0; .*greater than 0"),
    ],
)
def test_what_a_schedule_makes_is_checked_before_anything_is_written(tmp_path, name, schedule, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "run", schedule=lambda step, rates: rates._replace(**{name: schedule(step)}))
    assert not (tmp_path / "run").exists()


def test_a_schedule_is_known_by_its_numbers(tmp_path):
    state, _ = go(tmp_path, schedule=annealed(0.5))
    assert not np.array_equal(state.particles, go()[0].particles)
    go(tmp_path, schedule=annealed(0.5))
    with pytest.raises(ValueError, match=r"schedule\.restart\.init_value is 0\.5 on disk and 0\.25 in this call"):
        go(tmp_path, schedule=annealed(0.25))


def copy(folder, to):
    for path, data in content(folder).items():
        target = to / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return to


def test_damaged_folders(tmp_path, interrupted, whole):
    folder = copy(interrupted, tmp_path / "truncated")
    checkpoint = folder / "checkpoint-6.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint-6\.npz is truncated or corrupt"):
        go(folder)

    folder = copy(interrupted, tmp_path / "gone")
    (folder / "checkpoint-6.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint-6\.npz"):
        go(folder)

    go(tmp_path / "other", key=jax.random.key(7), callback=lambda records: records.sizes["step"] == 6)
    folder = copy(interrupted, tmp_path / "swapped")
    (folder / "checkpoint-6.npz").write_bytes((tmp_path / "other" / "checkpoint-6.npz").read_bytes())
    with pytest.raises(
        ValueError, match=r"checkpoint-6.npz is of another run: key is \[0, 7\] on disk and \[0, 1\] in this call"
    ):
        go(folder)

    folder = copy(interrupted, tmp_path / "corrupt")
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-9])
    with pytest.raises(ValueError, match=r"manifest\.json is truncated or corrupt"):
        go(folder)

    folder = copy(interrupted, tmp_path / "version")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(ValueError, match=r"format version 1; this version of dualebm reads 3"):
        go(folder)
    with pytest.raises(ValueError, match=r"format version 1; this version of dualebm reads 3"):
        run_folder.open_results(folder)

    manifest["versions"]["jax"] = "0.1"
    run_folder.write_manifest(folder, {name: value for name, value in manifest.items() if name != files.DIGEST})
    with pytest.warns(UserWarning, match="jax is '0.1' on disk and"):
        assert_same(go(folder), whole)


def test_foreign_and_unwritable_folders(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"foreign holds other files \(notes\.txt\); give a new or an empty folder"):
        go(foreign)
    assert [p.name for p in foreign.iterdir()] == ["notes.txt"]

    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json holds None; it must hold 'run'"):
        go(foreign)

    with pytest.raises(NotADirectoryError, match=r"cannot write .*notes\.txt/run"):
        go(foreign / "notes.txt" / "run")
    with pytest.raises(FileExistsError, match=r"cannot write .*notes\.txt"):
        go(foreign / "notes.txt")

    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"cannot write .*closed: Permission denied"):
        go(tmp_path / "closed")


def test_two_runs_never_share_a_folder(tmp_path, whole):
    with folders.hold(tmp_path), pytest.raises(BlockingIOError, match="in use"):
        go(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert_same(go(tmp_path), whole)


def test_a_run_whose_folder_is_begun_anew_ends_with_one_line(tmp_path, whole):
    """And the folder holds the new run alone."""
    folder, calls = tmp_path / "run", []
    go(tmp_path / "new")

    def replace(records):
        calls.append(records)
        if len(calls) == 2:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "new", folder)  # as another process would have begun it

    with pytest.raises(OSError, match=rf"cannot write {folder}[^\n]*: folder {folder} was removed, moved or replaced[^\n]*$"):
        go(folder, callback=replace)
    xarray.testing.assert_equal(stored(folder), whole[1])
    assert_same(go(folder), whole)


def test_a_run_without_records_is_taken_over(tmp_path, whole, monkeypatch):
    def crash(*arguments):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(simulate, "run_intervals", crash)
        go(tmp_path, method=Dual(Sphere(3), neurons=9))
    assert run_folder.read_manifest(tmp_path)["records"] == 0
    assert_same(go(tmp_path), whole)


def test_signals_are_heard_while_a_segment_runs(tmp_path, monkeypatch):
    """In a segment that never ends, two signals interrupt: Python is not stuck inside JAX."""

    class Never:
        def is_ready(self):
            return False

    def send():
        for _ in range(2):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    def run_intervals(*arguments):
        sender.start()
        return None, None, Never()

    sender = threading.Thread(target=send)
    monkeypatch.setattr(simulate, "run_intervals", run_intervals)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="second signal"):
            go(tmp_path)
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ignored_signals_stay_ignored_and_threads_may_run(whole):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert_same(go(callback=lambda records: os.kill(os.getpid(), signal.SIGINT) is not None), whole)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor() as pool:
        assert_same(pool.submit(go).result(), whole)
