"""Processes that share the particles of each run: equal to one, and what is left when one of them dies."""

import contextlib
import copy
import io
import itertools
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
from dualebm.sweeps.plan import plan_of
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
    place = address()
    return [Child(command, words(folder, place, i, *flags, processes=processes), devices=2) for i in range(processes)]


def address():
    """An address of this machine, with a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def words(folder, place, index, *flags, processes=2):
    """The words of one of the processes."""
    return ["sweep", *FLAGS, *flags, "--out", str(folder), "--coordinator", place, "--process", f"{index}/{processes}"]


def ended(children, seconds=180):
    """(exit code, standard output, standard error) of each."""
    try:
        return [child.answer(seconds) for child in children]
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
        said = dict(process=i, of=5, state=state, why="", group="group-0", step=40)
        files.write_json(folder / presence.PROCESS, "process", said)
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
    assert child.kill() == 1
    assert (tmp_path / "error").read_text() == "error: waiting for a barrier took more than 0.05 s; another process hangs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.1", 0, 2), "coordinator is '10.0.0.1'; it must be host:port"),
        (("10.0.0.1:http", 0, 2), "it must be host:port"),
        (("::1:80", 0, 2), r"as 10.0.0.1:1234 or \[fd00::1\]:1234"),
        (("10.0.0.1:99999999", 0, 2), "coordinator is '10.0.0.1:99999999'; its port must be from 1 to 65535"),
        (("10.0.0.1:0", 0, 2), "its port must be from 1 to 65535"),
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


def test_processes_that_share_the_runs_must_be_started_alike(tmp_path):
    """The second finds the folder of the first, and writes nothing."""
    placement = Placement(process=(1, 2))
    settings = plan_of(product(seed=[0, 1]), METHOD, None, data, metrics=METRICS, placement=placement, **COUNTS).each.settings
    header = dict(settings=settings | {"common": True}, groups=[], note=None)
    (tmp_path / "process-0-of-2").mkdir()
    files.write_json(tmp_path / "process-0-of-2" / "sweep.json", "sweep", header)
    with pytest.raises(ValueError, match=r"process-0-of-2 is of another run: common is True on disk and False in this call"):
        go(tmp_path, placement=placement)
    assert [path.name for path in tmp_path.iterdir()] == ["process-0-of-2"]


# -- What processes tell each other --------------------------------------------------------------------


class Service(dict):
    """JAX's coordination service, with the answers of process 1 already there."""

    def key_value_set(self, key, value):
        assert key not in self
        self[key] = value

    def key_value_delete(self, key):
        del self[key]

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self:
            self.late()
            raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {milliseconds}")
        return self[key]

    def late(self):
        raise AssertionError("nobody answers")


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost, "_rounds", itertools.count())
    monkeypatch.setattr(multihost.distributed.global_state, "client", Service())
    return multihost.distributed.global_state.client


def test_agreements_are_in_order_and_leave_nothing_but_the_last(service):
    for number, answer in enumerate([[1, 2], [True, False], "text"]):
        service[f"dualebm/{number}/1"] = json.dumps({"value": answer})
    assert multihost.agree([3, 4], "numbers").tolist() == [[3, 4], [1, 2]]
    assert multihost.agree([True, True], "facts").tolist() == [[True, True], [True, False]]
    service.late = lambda: service.update({"dualebm/2/1": json.dumps({"value": "late"})})
    del service["dualebm/2/1"]
    assert multihost.exchange("word", "words") == ["word", "late"]
    assert [key for key in service if key.endswith("/0")] == ["dualebm/2/0"]


def test_an_error_of_one_process_ends_the_others(service):
    """It takes the place of the next answer, so that all still count alike."""
    with pytest.raises(OSError, match="full"), multihost.telling():
        raise OSError("disk\nfull")
    assert json.loads(service["dualebm/0/0"]) == {"error": "disk full"}
    service["dualebm/1/1"] = json.dumps({"error": "no file"})
    with pytest.raises(multihost.Ended, match="process 1 of 2 ended: no file"), multihost.telling():
        multihost.agree(1, "the data")
    assert next(multihost._rounds) == 2


# -- One of several processes, whose others the test answers for ---------------------------------------


@pytest.fixture
def one_of_two(monkeypatch):
    """This process takes itself for the first of two, whose particles it has all.

    `others` holds, by question, what the second process answers; without an entry it answers as the first. For what they
    exchange it is a function of the answer of the first. `said` holds the last answers of the first.
    """
    others, said = {}, {}

    def agree(values, what):
        said[what] = np.asarray(values)
        return np.stack([said[what], np.asarray(others.get(what, values))])

    def exchange(value, what):
        said[what] = json.loads(json.dumps(value))
        return [said[what], others.get(what, lambda value: value)(copy.deepcopy(said[what]))]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "agree", agree)
    monkeypatch.setattr(multihost, "exchange", exchange)
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


def test_processes_must_be_started_alike(tmp_path, one_of_two):
    """Another setting, run, package or version in one of them is found before anything is written."""
    others, said = one_of_two
    go(tmp_path / "alike", note={"radius": 10.0})
    stated = said["the flags"]
    assert stated["settings"]["steps"] == 14 and stated["radius"] == 10.0 and "jax" in stated["versions"]

    def change(*names):
        def answer(stated):
            if names[0] not in stated:  # the first question is for the call
                return stated
            *outer, last = names
            within = stated
            for name in outer:
                within = within[name]
            within[last] = 3
            return stated

        others["the flags"] = answer

    inner = (["settings", "steps"], ["settings", "jax_config", "jax_enable_x64"], ["versions", "numpy"])
    for names in (["radius"], *inner, ["runs"], ["batch_size"], ["call"]):
        change(*names)
        with pytest.raises(ValueError, match=rf"the processes differ: {'.'.join(names)} is .* in process 0 and 3 in process 1; give all"):
            go(tmp_path / "other", note={"radius": 10.0})
    assert not (tmp_path / "other").exists()


def test_a_statement_is_short(one_of_two):
    """JAX's coordination service refuses long messages."""
    others, said = one_of_two
    multihost.check_alike({"runs": list(range(10**5)), "steps": 20})
    assert len(json.dumps(said["the flags"])) < 100 and said["the flags"]["steps"] == 20
    others["the flags"] = lambda stated: stated | {"runs": multihost._short(list(range(1, 10**5)))}
    with pytest.raises(ValueError, match=r"the processes differ: runs.sha256 is '"):
        multihost.check_alike({"runs": list(range(10**5)), "steps": 20})


def test_what_processes_that_share_particles_may_not_ask_for(one_of_two):
    with pytest.raises(ValueError, match="folder is None; the 2 processes that share the particles"):
        go()
    with pytest.raises(ValueError, match="devices is 2 and devices_per_run is 1; 2 processes share the particles"):
        go(placement=Placement(devices=2))
