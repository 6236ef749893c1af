"""Processes that share the particles of each run: equal to one, and what is left when one of them dies."""

import contextlib
import io
import json
import os
import shlex
import socket
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal import files
from dualebm.cli import main
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.folder import manifest, open_sweep
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from dualebm.training import checkpoints, hosts, multihost, presence, sharding
from tests.children import Child

FLAGS = shlex.split("--teacher s2_bimodal --n 64 --neurons 8 --test-points 50 --seed 0:2 --alpha 1 --precision 64")


def command(arguments):
    """(exit code, standard output, standard error) of the command, which leaves JAX as a process that ends does."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main.main(arguments)
    jax.distributed.shutdown()
    return code, out.getvalue(), err.getvalue()


def start(folder, *flags, processes=2):
    """`dualebm sweep` in so many processes that have two devices each, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["sweep", *FLAGS, *flags, "--out", str(folder), "--coordinator", f"127.0.0.1:{port}", "--process"]
    return [Child(command, [*common, f"{i}/{processes}"], devices=2) for i in range(processes)]


def ended(children):
    """(exit code, standard output, standard error) of each."""
    try:
        return [child.answer(180) for child in children]
    finally:
        for child in children:
            child.kill()


def on_one_device(folder, *flags):
    assert main.main(["sweep", *FLAGS, *flags, "--out", str(folder)]) == 0
    return open_sweep(folder)


@pytest.mark.heavy
def test_two_processes_with_a_run_on_both_equal_one(tmp_path):
    """100 steps in float64."""
    flags = "--steps", "100", "--every", "10", "--restart-probability", "0.05"
    found = ended(start(tmp_path / "two", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    assert "written to" in found[0][1] and "written to" not in found[1][1]
    two, one = open_sweep(tmp_path / "two"), on_one_device(tmp_path / "one", *flags)
    for name in one.data_vars:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-9)
    assert {run["state"] for run in manifest(tmp_path / "two")} == {"done"}
    assert [process["state"] for process in presence.processes(tmp_path / "two")] == ["done", "done"]
    assert not list((tmp_path / "two").rglob("checkpoint*"))


def test_who_was_lost(tmp_path):
    """By the time of the last sign of life: the runtime ends the others half a minute after it."""
    now = time.time()
    for i, (state, seen) in enumerate([("running", 40), ("running", 75), ("stopped", 74), ("running", 1), ("done", 90)]):
        folder = tmp_path / f"shard-{i}-of-5"
        folder.mkdir()
        said = dict(kind="process", format=files.FORMAT, process=i, of=5, state=state, why="", group="group-0", step=40)
        (folder / presence.PROCESS).write_text(json.dumps(said))
        os.utime(folder / presence.PROCESS, (now - seen, now - seen))
    said = presence.processes(tmp_path)
    assert [one["state"] for one in said] == ["ended", "lost", "stopped", "running", "done"]
    assert presence.describe_lost(said).startswith("process 1 of 5 was lost in the segment after step 40 of group-0")


def test_presence_is_a_sign_of_life_and_a_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(presence, "BEAT", 0.01)
    folder = presence.shard_of(tmp_path)
    folder.mkdir()
    with pytest.raises(OSError, match="disk"), presence.presence(folder) as announce:
        announce("group-1", 60)
        os.utime(folder / presence.PROCESS, (0, 0))
        deadline = time.monotonic() + 10
        while (folder / presence.PROCESS).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (folder / presence.PROCESS).stat().st_mtime < 10
        raise OSError("disk\nfull")
    (last,) = presence.processes(tmp_path)
    assert (last["state"], last["why"], last["group"], last["step"]) == ("stopped", "OSError: disk", "group-1", 60)


def wait(path):
    """Longer than is allowed, with standard error in a file."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
    with multihost.at_most(0.05, "a barrier"):
        time.sleep(60)


def test_no_wait_is_without_an_end(tmp_path):
    child = Child(wait, tmp_path / "error")
    child.process.join(50)
    assert child.kill() == 1 and (tmp_path / "error").read_text() == "error: a barrier took more than 0.05 s; another process hangs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.1", 0, 2), "coordinator is '10.0.0.1'; it must be host:port"),
        (("10.0.0.1:http", 0, 2), "it must be host:port"),
        (("10.0.0.1:80", 2, 2), "process is 2; it must be from 0 to 1"),
        (("10.0.0.1:80", 0, 1), "the count of process is 1"),
    ],
)
def test_bad_addresses(arguments, message):
    with pytest.raises(ValueError, match=message):
        multihost.join(*arguments)


METHOD = Dual(Sphere(3), neurons=4)
COUNTS = dict(steps=14, every=2, segment=2)  # 8 records, 4 segments
METRICS = {"acceptance": lambda key, iterate: iterate.info.acceptance}


def data(key):
    return Samples(Sphere(3).sample_base(key, 10, jnp.zeros(()).dtype))


def go(folder=None, **changes):
    return sweep(product(seed=[0, 1]), METHOD, None, data, metrics=METRICS, folder=folder, progress=False, **COUNTS, **changes)


def test_a_folder_of_another_number_of_processes(tmp_path):
    group = tmp_path / "shard-0-of-2" / "group-0"
    group.mkdir(parents=True)
    (group / "checkpoint-0-3.npz").touch()
    with pytest.raises(ValueError, match=r"shard-0-of-2/group-0/checkpoint-0-3.npz, of another number of processes than the 1"):
        go(tmp_path)


# -- One of several processes, whose others the test answers for ---------------------------------------


@pytest.fixture
def one_of_two(monkeypatch):
    """This process takes itself for the first of two, whose particles it has all.

    `others` holds, by question, what the second process answers; without an entry it answers as the first.
    `said` holds the last answers of the first.
    """
    others, said = {}, {}

    def agree(values, what):
        said[what] = np.asarray(values)
        return np.stack([said[what], np.asarray(others.get(what, values))])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "agree", agree)
    return others, said


class Crash(BaseException):
    pass


def test_a_batch_continues_from_the_last_checkpoint_of_all(tmp_path, one_of_two, monkeypatch):
    """Of the last two of this process, where the other lacks one; from the start where it has none."""
    others, _ = one_of_two
    inner, segments, loaded = sharding.run_intervals, [], []

    def counting(*arguments):
        segments.append(1)
        if len(segments) == 4:
            raise Crash
        return inner(*arguments)

    def load(path, *_):
        loaded.append(path.name)
        raise Crash

    monkeypatch.setattr(sharding, "run_intervals", counting)
    with pytest.raises(Crash):
        go(tmp_path)
    last, before = (tmp_path / "shard-0-of-2" / "group-0" / f"checkpoint-0-{records}.npz" for records in (6, 4))
    assert sorted(path.name for path in last.parent.iterdir()) == [before.name, last.name]
    monkeypatch.setattr(checkpoints, "load_state", load)
    for _ in range(2):
        with pytest.raises(Crash):
            go(tmp_path)
        last.unlink(missing_ok=True)
    assert loaded == [last.name, before.name]
    others["the checkpoint"] = False
    go(tmp_path)
    assert len(loaded) == 2 and len(segments) == 4 + 4


def test_processes_must_make_the_same_data(tmp_path, one_of_two):
    others, said = one_of_two
    go(tmp_path / "whole")
    made, sums = said["the data"].tolist()
    assert made == [1, 1] and sums[0] != sums[1]
    others["the data"] = [[1, 0], [sums[0], 0]]
    with pytest.warns(UserWarning, match="1 runs failed, the first with another process could not make its data or metrics"):
        found = go(tmp_path / "lacking")
    assert np.isfinite(found.acceptance.values[0, 1:]).all() and np.isnan(found.acceptance.values[1]).all()
    others["the data"] = [[1, 1], [sums[0], sums[0]]]
    with pytest.raises(ValueError, match="run 1: the processes made different data"):
        go(tmp_path / "different")


def test_what_processes_that_share_particles_may_not_ask_for(one_of_two):
    with pytest.raises(ValueError, match="folder is None; the 2 processes that share the particles"):
        go()
    with pytest.raises(ValueError, match="devices is 2 and devices_per_run is 1; 2 processes share the particles"):
        go(placement=Placement(devices=2))
