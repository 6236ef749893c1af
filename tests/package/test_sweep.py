"""Sweeps: runs alone, in batches and after kills; groups, manifests, locks, errors."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import dualebm.sweeps.engine as sweep_module
from dualebm._internal import files, folders
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Sphere
from dualebm.sweeps import folder as sweep_folder
from dualebm.sweeps import placement, plan
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.folder import by_setting, manifest, open_sweep
from dualebm.sweeps.grid import product, settings_of, zipped
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.plan import plan_of
from dualebm.sweeps.selection import select
from dualebm.training import run as run_module
from dualebm.training import run_folder, sharding, simulate
from dualebm.training.fingerprint import provenance
from tests.children import Child

METHOD = Dual(Sphere(3), neurons=8)
COUNTS = dict(steps=10, every=2, segment=2)  # 6 records, 3 segments
GRID = product(particle_step=[0.1, 0.2], restart_probability=[0.0, 0.5], seed=[0, 1])


def data(key, n=60):
    return Samples(Sphere(3).sample_base(key, n, jnp.zeros(()).dtype))


def acceptance(key, iterate):
    return iterate.info.acceptance


def weights(key, iterate):
    return iterate.state.atoms.log_weights + jax.random.normal(key, iterate.state.atoms.signs.shape, iterate.data.points.dtype)


METRICS = {"acceptance": acceptance, "weights": weights}


class Crash(BaseException):
    pass


PLACED = [field.name for field in dataclasses.fields(Placement)]


def go(folder=None, grid=GRID, **changes):
    """A sweep in batches of three, unless the changes, some of which are of the placement, say otherwise."""
    placed = {"batch_size": 3, **{name: changes.pop(name) for name in PLACED if name in changes}}
    given = dict(method=METHOD, rates=None, data=data, metrics=METRICS, progress=False, folder=folder, placement=Placement(**placed))
    return sweep(grid, **{**COUNTS, **given, **changes})


def edit(path, change):
    """Changes a file of JSON, and the SHA-256 that it states."""
    content = json.loads(path.read_text())
    change(content)
    del content[files.DIGEST]
    files.write_json(path, content["kind"], content)


@pytest.fixture(scope="module")
def whole():
    return go()


def test_results_have_the_settings_as_dimensions(whole):
    found = by_setting(whole)
    assert found.weights.dims == ("particle_step", "restart_probability", "seed", "step", "weights_0")
    for run in range(8):
        settings = {name: whole[name].values[run] for name in ("particle_step", "restart_probability", "seed")}
        np.testing.assert_array_equal(found.weights.sel(settings), whole.weights[run])
    with pytest.raises(ValueError, match="not a product"):
        by_setting(whole.isel(run=[0, 1, 2]))


def test_each_group_compiles_once():
    grid = product(particle_step=[0.1, 0.2, 0.3], seed=[0, 1])
    traced = []

    def counting(key, iterate):
        traced.append(1)
        return iterate.info.acceptance

    go(grid=grid, metrics={"counting": counting})
    shapes = 1  # of the records, found when the group is begun
    assert len(traced) == shapes + 1  # segments, batches and runs add nothing
    traced.clear()
    go(grid=product(particle_step=[0.7], seed=range(4)), metrics={"counting": counting})
    assert not traced  # other rates compile nothing


def test_common_random_numbers():
    grid = product(restart_probability=[0.0, 0.25], seed=[0, 1])
    first = lambda results: results.weights.values[:, 0]  # noqa: E731
    common, own = first(go(grid=grid, common=True)), first(go(grid=grid))
    np.testing.assert_array_equal(common[0], common[2])
    assert not np.allclose(own[0], own[2]) and not np.allclose(common[0], common[1])


def test_runs_that_are_added_leave_the_others_as_they_are(tmp_path, whole, monkeypatch):
    few = product(particle_step=[0.1], restart_probability=[0.0, 0.5], seed=[0, 1])
    go(tmp_path, grid=few)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "group-0").rglob("*") if path.is_file()}
    edit(tmp_path / "group-0" / run_folder.MANIFEST, lambda manifest: manifest.update(git_revision="another"))
    before |= {path: path.stat().st_mtime_ns for path in before if path.name == run_folder.MANIFEST}
    changed = f"folder {tmp_path}: git_revision is 'another' on disk and '.*' in this call; the records"
    with pytest.warns(UserWarning, match=changed) as warned:
        both = go(tmp_path)
    assert len(warned) == 1
    edit(tmp_path / "group-0" / run_folder.MANIFEST, lambda manifest: manifest.update(git_revision=provenance()["git_revision"]))
    before |= {path: path.stat().st_mtime_ns for path in before if path.name == run_folder.MANIFEST}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "group-0").rglob("*") if path.is_file()}
    xarray.testing.assert_equal(both, whole)
    assert (tmp_path / "group-1").is_dir() and not (tmp_path / "group-2").exists()
    monkeypatch.setattr(simulate, "run_replicas", None)  # all is done: nothing is computed
    xarray.testing.assert_equal(go(tmp_path), both)
    xarray.testing.assert_equal(go(tmp_path, grid=few), both.isel(run=slice(0, 4)))


def test_groups_of_other_shapes_lie_side_by_side(tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr(sweep_module, "drop_programs", lambda: dropped.append(1))
    found = go(tmp_path, grid=zipped(neurons=[8, 8, 8, 4], n=[60, 60, 60, 30], seed=[0, 1, 2, 0]))
    assert len(dropped) == 2  # after each group, so that programs of many groups are not all kept
    assert found.weights.shape == (4, 6, 8)
    np.testing.assert_array_equal(np.isnan(found.weights.values).any(axis=1).sum(axis=1), [0, 0, 0, 4])
    for runs, neurons, n, seeds in ((slice(0, 3), 8, 60, [0, 1, 2]), (slice(3, 4), 4, 30, [0])):
        alone = go(grid=product(neurons=[neurons], n=[n], seed=seeds))
        np.testing.assert_array_equal(found.weights.values[runs, :, :neurons], alone.weights.values)


def test_settings_may_be_text(tmp_path):
    found = go(tmp_path, grid=product(integrator=["mala", "projected"], seed=[0, 1]))
    assert by_setting(found).integrator.values.tolist() == ["mala", "projected"]
    assert run_folder.open_results(tmp_path / "group-1").integrator.values.tolist() == ["projected"] * 2
    run_folder.to_netcdf(found, tmp_path / "results.nc")
    assert xarray.load_dataset(tmp_path / "results.nc").integrator.values.tolist() == ["mala"] * 2 + ["projected"] * 2


def test_a_diverged_run_stops_and_the_others_go_on(tmp_path, whole):
    grid = product(transport_step=[0.5], seed=[0, 1, 2], reaction_step=[1e30, 0.5])  # two batches, with two and one that diverge
    found = go(tmp_path, grid=grid)
    members = manifest(tmp_path)
    assert [run["state"] for run in members] == ["diverged", "done"] * 3
    assert all(run["step"] == 2 and run["why"] for run in members[::2])
    assert np.isnan(found.acceptance.values[::2, 1:]).all() and np.isfinite(found.acceptance.values[1::2, 1:]).all()
    healthy = go(grid=product(transport_step=[0.5], seed=[0, 1, 2], reaction_step=[0.5]))
    np.testing.assert_array_equal(found.weights.values[1::2], healthy.weights)


def test_a_run_whose_data_fail_is_named_and_the_others_go_on(tmp_path):
    def broken(key, n=60):
        if (key == jax.random.split(jax.random.key(1), 3)[1]).all():
            raise OSError("no such file")
        return data(key, n)

    with pytest.warns(UserWarning, match="2 runs failed, the first with OSError: no such file"):
        found = go(tmp_path, data=broken, grid=product(particle_step=[0.1, 0.2], seed=[0, 1, 2]))
    members = manifest(tmp_path)
    assert [run["state"] for run in members] == ["done", "failed", "done"] * 2
    assert members[1]["why"] == "OSError: no such file" and members[1]["settings"] == dict(particle_step=0.1, seed=1)
    good = go(grid=product(particle_step=[0.1, 0.2], seed=[0, 1, 2]))
    np.testing.assert_array_equal(found.weights.values[[0, 2, 3, 5]], good.weights.values[[0, 2, 3, 5]])
    assert np.isnan(found.weights.values[[1, 4]]).all() and (found.diverged.values[[1, 4]] == -1).all()


def test_processes_share_the_runs_and_need_not_know_each_other(tmp_path, whole):
    for index in (1, 0, 2):
        go(tmp_path, process=(index, 3))
    found = open_sweep(tmp_path, settings_of(GRID))
    for name in METRICS:
        np.testing.assert_allclose(found[name], whole[name], atol=1e-5)
    with pytest.raises(ValueError, match=r"process-0-of-3, of another number of processes than 1"):
        go(tmp_path)
    before = open_sweep(tmp_path, settings_of(GRID)).load()
    larger = product(particle_step=[0.1, 0.2, 0.4], restart_probability=[0.0, 0.5], seed=[0, 1])  # other positions
    for index in range(3):
        go(tmp_path, grid=larger, process=(index, 3))
    xarray.testing.assert_equal(open_sweep(tmp_path, settings_of(GRID)), before)
    assert open_sweep(tmp_path).sizes["run"] == len(manifest(tmp_path)) == 12
    with pytest.raises(ValueError, match=r"lacks the run seed 7; wanted must name runs of the sweep"):
        open_sweep(tmp_path, [{"seed": 7}])


def test_a_process_may_have_none_of_the_runs_and_parts_must_agree(tmp_path):
    """Three processes share two runs. Then the folder of one of them is changed."""
    few = product(particle_step=[0.1], restart_probability=[0.0], seed=[0, 1])
    shares = [go(tmp_path, grid=few, process=(index, 3)).sizes["run"] for index in range(3)]
    assert sorted(shares) == [0, 1, 1] and open_sweep(tmp_path).sizes["run"] == 2
    first, second = (tmp_path / f"process-{index}-of-3" / sweep_folder.SWEEP for index in range(3) if shares[index])
    kept = second.read_text()
    edit(second, lambda header: header["groups"][0].update(runs=json.loads(first.read_text())["groups"][0]["runs"]))
    for read in (open_sweep, manifest):
        with pytest.raises(ValueError, match=r"has the run particle_step 0\.1, .* twice, in process-\d-of-3/group-0 and in process-\d-of"):
            read(tmp_path)
    second.write_text(kept)
    edit(second, lambda header: header["settings"]["data"].update(defaults={"n": 61}))
    with pytest.raises(ValueError, match=r"parts of different sweeps: data.n is 6\d in process-\d-of-3 and 6\d in process-\d-of-3; move"):
        open_sweep(tmp_path)
    with pytest.raises(ValueError, match=r"process-\d-of-3 is of another run: data.n is 61 on disk and 60 in this call"):
        go(tmp_path, grid=few, process=(int(first.parent.name[8]), 3))


def on_cores(folder):
    """With four CPU devices: the sizes of batches, and whether a sweep that they divide and one of them goes on with is that of one."""
    made = go(batch_size=None).sizes["run"], [Placement().dividing(runs) for runs in (1, 2, 6, 8)]
    inner, calls = simulate.run_replicas, []

    def crashing(each, common, states, *others):
        calls.append((len(each.key), others[-1], len(states.columns.sharding.device_set)))
        if len(calls) == 3:
            raise Crash
        return inner(each, common, states, *others)

    simulate.run_replicas = crashing
    with contextlib.suppress(Crash):
        go(folder, batch_size=None, segment=2)
    simulate.run_replicas = inner
    divided = go(batch_size=None)
    timed = []
    sweep_module.stack = lambda made, runs, *others: (timed.append(len(runs)), plan.stack(made, runs, *others))[1]
    for size in (1, 4, 6):
        sweep_module.forecast(plan_of(GRID, METHOD, None, data, metrics=METRICS, **COUNTS, placement=Placement(batch_size=size)))
    Placement.dividing = lambda self, runs: 1
    return made, calls, timed, divided.equals(go(batch_size=None)), go(folder, batch_size=None, segment=2).equals(divided)


def test_cpu_devices_divide_runs_and_change_no_number(tmp_path):
    """Eight runs of one group, in a process of four devices and then of one."""
    made, calls, timed, equal, resumed = Child(on_cores, tmp_path, devices=4).answer()
    assert made == (8, [1, 2, 3, 4]) and calls == [(8, 4, 4)] * 3
    assert timed == [1, 4, 3]  # a forecast times as many runs as are computed at once in a batch of 1, of 4 and of 6
    assert equal and resumed


DEVICES = dict(steps=100, every=20, segment=3, batch_size=8)


def on_devices(folder):
    """With four devices and float64: the errors of the sweep on several meshes; whether one that crashes goes on; what is refused."""
    points = lambda key: data(key, 64)  # noqa: E731
    expected, found = go(data=points, **DEVICES), {}
    whole = go(data=points, devices=4, **DEVICES)
    halves = go(data=points, devices=4, devices_per_run=2, **DEVICES)
    errors = [max(float(np.abs(results[name] - expected[name]).max()) for name in METRICS) for results in (whole, halves)]
    inner, calls = sharding.run_intervals, []

    def crashing(*args):
        calls.append(1)
        if len(calls) == 2:
            raise Crash
        return inner(*args)

    sharding.run_intervals = crashing
    try:
        go(folder, data=points, devices=4, **DEVICES)
    except Crash:
        sharding.run_intervals = inner
    resumed = go(folder, data=points, devices=4, **DEVICES).equals(whole)
    for name, changes in {
        "other devices": dict(folder=folder, data=points, devices=2),
        "points": dict(data=lambda key: data(key, 61), devices=2, devices_per_run=2),
    }.items():
        try:
            go(**{**DEVICES, **changes})
        except ValueError as error:
            found[name] = str(error)
    return errors, resumed and len(calls) == 2, found


def test_devices_share_runs_and_particles(tmp_path):
    errors, resumed, refused = Child(on_devices, tmp_path, devices=4, x64=True).answer()
    assert resumed and max(errors) < 1e-9, errors
    assert "devices is 4 on disk and 2 in this call" in refused["other devices"]
    assert "it must be a multiple of" in refused["points"]


def test_more_devices_than_there_are():
    for changes, message in (
        (dict(devices=64), "devices is 64; it must be at most"),
        (dict(devices=1, devices_per_run=2), "must divide"),
        (dict(devices=1, vmapped=2), "vmapped is 2 and devices is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            go(**changes)


def share_of(folder, index):
    go(folder, process=(index, 2))


@pytest.mark.heavy
def test_two_processes_at_once_and_one_that_dies(tmp_path, whole):
    """Each process runs and keeps its own runs; the death of one leaves the other running, and its start again goes on."""
    children = [Child(share_of, tmp_path, index) for index in range(2)]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "process-1-of-2" / sweep_folder.SWEEP).exists():
        time.sleep(0.01)
    assert children[1].kill() == -signal.SIGKILL
    children[0].answer()
    states = {"process-0-of-2": [], "process-1-of-2": []}
    for run in manifest(tmp_path):
        states[run["group"].split("/")[-2]].append(run["state"])
    assert set(states["process-0-of-2"]) == {"done"} and len(states["process-1-of-2"]) == 4
    assert set(states["process-1-of-2"]) != {"done"}, "it was done before it was killed"
    share_of(tmp_path, 1)
    found = open_sweep(tmp_path, settings_of(GRID))
    for name in METRICS:
        np.testing.assert_allclose(found[name], whole[name], atol=1e-5)


# -- Kills ------------------------------------------------------------------------------------------

LONG = dict(steps=60)  # 31 records, 16 segments of each of 3 batches


def long(folder):
    write = files.commit
    files.commit = lambda path, content: (time.sleep(0.02), write(path, content))[1]  # not done before it is killed
    go(folder, **LONG)


def kill_at_random(folder, kills, generator):
    """Starts the sweep and kills it, so many times, each at a random moment after it has done something new."""
    seen = -1
    for _ in range(kills):
        child = Child(long, folder)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.process.is_alive():
            done = [m["batch"] * 1000 + m["records"] for p in folder.glob("group-*/manifest.json") if (m := json.loads(p.read_text()))]
            if done and max(done) > seen:
                break
            time.sleep(0.005)
        seen = max(done)
        time.sleep(generator.uniform(0, 0.15))
        child.kill()


@pytest.mark.heavy
@pytest.mark.parametrize("kills", [2, 20])
def test_kill_at_any_moment_then_the_same_call(tmp_path, kills):
    kill_at_random(tmp_path, kills, np.random.default_rng(os.getpid()))
    states = {run["state"] for run in manifest(tmp_path)}
    assert "waiting" in states or "running" in states or kills > 2, "it was done before it was killed"
    xarray.testing.assert_equal(go(tmp_path, **LONG), go(**LONG))
    assert {run["state"] for run in manifest(tmp_path)} == {"done"}
    assert not list(tmp_path.rglob("checkpoint*"))


def test_a_crash_at_any_write_costs_at_most_a_segment(tmp_path, whole, monkeypatch):
    """Each of the writes of a sweep fails once, in turn; then the same call goes on."""
    counted, original = [], files.commit
    monkeypatch.setattr(files, "commit", lambda path, write: (counted.append(path), original(path, write))[1])
    go(tmp_path / "whole")
    for moment in range(0, len(counted), 5):
        made = []

        def commit(path, write, made=made, moment=moment):
            made.append(path)
            if len(made) == moment + 1:
                raise Crash
            original(path, write)

        folder = tmp_path / str(moment)
        monkeypatch.setattr(files, "commit", commit)
        with pytest.raises(Crash):
            go(folder)
        monkeypatch.setattr(files, "commit", original)
        segments = []
        inner = simulate.run_replicas
        monkeypatch.setattr(simulate, "run_replicas", lambda *a, inner=inner, segments=segments: (segments.append(1), inner(*a))[1])
        xarray.testing.assert_equal(go(folder), whole)
        monkeypatch.setattr(simulate, "run_replicas", inner)
        manifests = sum(path.name == run_folder.MANIFEST for path in counted[:moment]) - 1  # one is written before any segment
        assert len(segments) <= 9 - max(manifests, 0)


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, whole, monkeypatch):
    calls, original = [], run_folder.write_results

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            with folders.writing(tmp_path):
                raise OSError(errno.ENOSPC, "No space left on device")
        original(*args, **kwargs)

    monkeypatch.setattr(run_folder, "write_results", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left"):
        go(tmp_path)
    states = [run["state"] for run in manifest(tmp_path)]
    assert states == ["done"] * 3 + ["waiting"] * 5
    monkeypatch.setattr(run_folder, "write_results", original)
    xarray.testing.assert_equal(go(tmp_path), whole)


def test_a_signal_ends_the_sweep_after_the_segment_at_hand(tmp_path, whole, monkeypatch, capfd):
    inner, calls = simulate.run_replicas, []

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args)

    monkeypatch.setattr(simulate, "run_replicas", interrupting)
    with pytest.raises(KeyboardInterrupt, match=f"SIGTERM; .* continues it in {tmp_path}"):
        go(tmp_path)
    assert len(calls) == 5 and capfd.readouterr().err == "stopping after this segment; again to stop now\n"
    assert [run["state"] for run in manifest(tmp_path)] == ["done"] * 3 + ["running"] * 3 + ["waiting"] * 2
    monkeypatch.setattr(simulate, "run_replicas", inner)
    xarray.testing.assert_equal(go(tmp_path), whole)


# -- Memory, progress, errors ------------------------------------------------------------------------


def test_batches_fit_the_memory(monkeypatch):
    planned = plan_of(GRID, METHOD, None, data, metrics=METRICS, **COUNTS)
    replica = planned.replicas[0]
    like = plan.like_of(planned, replica)
    size = plan.bytes_of_run(planned, replica, like)
    least = 3 * 120 * 3 * 4 + 60 * 3 * 4  # three states of 120 particles in 3 dimensions, and the data
    assert least < size < 2 * least
    monkeypatch.setattr(placement, "memory", lambda: 3 * size)
    shapes = []
    inner = simulate.run_replicas
    monkeypatch.setattr(simulate, "run_replicas", lambda *a: (shapes.append(a[0].key.shape), inner(*a))[1])
    go(batch_size=None)
    assert set(shapes) == {(3,)}
    monkeypatch.undo()
    side_by_side = planned._replace(placement=Placement(vmapped=8))
    assert plan.bytes_of_run(side_by_side, replica, like) > size  # what a run needs to compute counts too


def test_progress_is_a_line_of_json_for_each_segment(capsys):
    go(progress=True)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 9 and lines[-1] == lines[-1] | dict(group="group-0", runs=[6, 8], step=10, of=10)


def test_two_sweeps_never_share_a_folder(tmp_path):
    with folders.hold(tmp_path), pytest.raises(OSError, match="in use"):
        go(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=9), "steps is 9; it must be a multiple of every"),
        (dict(every=1, steps=2), "every is 1"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(vmapped=0), "vmapped is 0"),
        (dict(segment=1), "segment is 1"),
        (dict(process=(2, 2)), r"process is \(2, 2\); it must be \(index, count\)"),
        (dict(grid={}), "the grid is empty"),
        (dict(grid=dict(seed=[1, 1])), "runs 0 and 1 are the same"),
        (dict(grid=dict(partical_step=[0.1])), "the nearest is 'particle_step'"),
        (dict(grid=dict(particle_step=[0.1, float("inf")])), "particle_step is inf in run 1"),
        (dict(grid=dict(particle_step=[0.1, -0.1])), "run 1, particle_step -0.1: particle_step is -0.1"),
        (dict(metrics={"step": acceptance}), "metrics has the name 'step'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_compiled_or_written(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(simulate, "run_replicas", None)
    folder = tmp_path / "sweep"
    with pytest.raises(ValueError, match=message):
        go(folder, **changes)
    assert not list(folder.rglob("*"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    inner, calls = simulate.run_replicas, []

    def crashing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Crash
        return inner(*args)

    simulate.run_replicas = crashing
    try:
        with pytest.raises(Crash):
            go(folder)
    finally:
        simulate.run_replicas = inner
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=12), "steps is 10 on disk and 12 in this call"),
        (dict(method=Dual(Sphere(3), neurons=9)), "method.neurons is 8 on disk and 9 in this call"),
        (dict(common=True), "common is False on disk and True in this call"),
        (dict(data=lambda key: data(key, 61)), "data is the function data on disk and the function <lambda> in this call"),
        (dict(data=types.FunctionType(data.__code__, globals(), "data", (61,))), "data.n is 60 on disk and 61 in this call"),
        (dict(batch_size=2), "batch_size is 2; .* was begun with 3"),
        (dict(grid=product(particle_step=[0.1], restart_probability=[0.0], seed=[0])), "the grid lacks runs that are not done"),
    ],
)
def test_a_folder_of_another_sweep_is_refused_and_kept(interrupted, changes, message):
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        go(interrupted, **changes)
    assert before == {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}


def test_a_folder_of_an_older_format_is_refused(tmp_path, interrupted):
    """By whoever reads or continues it, and it is left as it is."""
    folder = tmp_path / "older"
    shutil.copytree(interrupted, folder)
    for path in (folder / sweep_folder.SWEEP, folder / "group-0" / run_folder.MANIFEST):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for read in (go, open_sweep, manifest, lambda folder: run_folder.open_results(folder / "group-0")):
        with pytest.raises(ValueError, match=r"json has format version 1; this version of dualebm reads 3"):
            read(folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_foreign_and_damaged_folders(tmp_path, interrupted):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\)"):
        go(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        open_sweep(tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / sweep_folder.SWEEP)
    with pytest.raises(ValueError, match="truncated or corrupt"):
        go(tmp_path)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_records_that_no_header_names_are_kept(tmp_path, interrupted):
    """A sweep without its header, a group of it as the folder of a run, and a group that was not begun by the sweep."""
    folder = tmp_path / "sweep"
    shutil.copytree(interrupted, folder)
    (folder / sweep_folder.SWEEP).rename(tmp_path / "header")
    before = content(folder)
    message = f"{folder / 'group-0'} holds records, and {folder / sweep_folder.SWEEP} does not name it"
    for changes in ({}, dict(grid=product(seed=[7]))):
        with pytest.raises(ValueError, match=message):
            go(folder, **changes)
    with pytest.raises(ValueError, match=r"group-0/manifest.json holds 'group'; it must hold 'run'"):
        alone = dict(metrics=METRICS, folder=folder / "group-0", **COUNTS)
        run_module.run(jax.random.key(0), METHOD, METHOD.rates, data(jax.random.key(0)), **alone)
    assert content(folder) == before


def test_records_that_are_lost_are_not_told_as_done(tmp_path, interrupted, whole, monkeypatch):
    """In a sweep that is half done and in one that is finished: by whoever reads, lists or continues it, before any work."""
    folder = tmp_path / "sweep"
    shutil.copytree(interrupted, folder)
    for lost in ("acceptance/c.0.0", "weights/c.0.2.0"):
        file = folder / "group-0" / run_folder.RESULTS / lost
        kept = file.read_bytes() if file.exists() else None
        if kept is None:
            xarray.testing.assert_equal(go(folder), whole)
            kept = file.read_bytes()
        file.unlink()
        for read in (go, open_sweep, manifest):
            with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"{file} is missing, although its records were written"):
                patch.setattr(simulate, "run_replicas", None)
                read(folder)
        file.write_bytes(kept)


@pytest.mark.parametrize("name", ["group-0", "group-0/results.zarr", "group-0/results.zarr/weights", "group-0/manifest.json", "sweep.json"])
def test_nothing_is_written_through_a_link(tmp_path, interrupted, name):
    outside, folder = tmp_path / "outside", tmp_path / "sweep"
    shutil.copytree(interrupted, folder)
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    before = content(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises(OSError, match=f"{folder / name} is a symbolic link, and links within a folder of runs are not followed"):
        go(folder)
    assert before == (content(outside) if outside.is_dir() else outside.read_bytes())


def test_a_batch_without_data_has_its_records_too(tmp_path):
    """They are NaN, and no chunk is missing."""

    def broken(key, seed):
        if seed >= 3:
            raise ValueError("no data")
        return data(key)

    with pytest.warns(UserWarning, match="2 runs failed"):
        found = go(tmp_path, grid=product(seed=range(5)), data=broken)
    assert np.isnan(found.acceptance[3:]).all() and np.isfinite(found.acceptance[:3, 1:]).all()
    assert [one["state"] for one in manifest(tmp_path)] == ["done"] * 3 + ["failed"] * 2


@pytest.mark.parametrize("name", ["process-0-of-2", "search", "repeats"])
def test_folders_of_processes_and_of_selections_are_no_links(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=f"{tmp_path / name} is a symbolic link"):
        if name == "process-0-of-2":
            go(tmp_path, process=(0, 2))
        else:
            chosen = dict(validation="acceptance", folder=tmp_path, seeds=[0], repeats=[1], metrics=METRICS, **COUNTS, progress=False)
            select({}, dict(radius=[1.0, 5.0]), METHOD, None, data, **chosen)
    assert not list((tmp_path / "outside").iterdir())
