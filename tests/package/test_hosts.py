"""Processes that share the particles of each lane: equal to one, and what is left when one of them dies."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import cli, hosts
from dualebm import sweep as sweeps
from dualebm.grid import product
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.plan import plan_of
from dualebm.spaces import Sphere
from dualebm.sweep_folder import Part, manifest, open_sweep

FLAGS = shlex.split("--teacher s2_bimodal --n 64 --neurons 8 --every 2 --test-points 50 --seed 0:2 --alpha 1 --precision 64")


def start(folder, *flags, processes=2):
    """`dualebm sweep` in so many processes that have two devices each, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    common = [sys.executable, "-m", "dualebm.cli", "sweep", *FLAGS, *flags, "--out", str(folder)]
    each = [[*common, "--coordinator", f"127.0.0.1:{port}", "--process", f"{i}/{processes}"] for i in range(processes)]
    pipe = subprocess.PIPE
    return [subprocess.Popen(one, env=environment, stdout=pipe, stderr=pipe, text=True) for one in each]


def ended(children, seconds=180):
    """(exit code, standard output, standard error) of each."""
    try:
        told = [child.communicate(timeout=seconds) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, told, strict=True)]


def on_one_device(folder, *flags):
    assert cli.main(["sweep", *FLAGS, *flags, "--out", str(folder)]) == 0
    return open_sweep(folder)


def test_two_processes_with_a_run_on_both_equal_one(tmp_path):
    """100 steps in float64."""
    flags = "--steps", "100", "--restart-probability", "0.05"
    found = ended(start(tmp_path / "two", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    assert "written to" in found[0][1] and "written to" not in found[1][1]
    two, one = open_sweep(tmp_path / "two"), on_one_device(tmp_path / "one", *flags)
    for name in one.data_vars:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-9)
    assert {lane["state"] for lane in manifest(tmp_path / "two")} == {"done"}
    assert [told["state"] for told in hosts.processes(tmp_path / "two")] == ["done", "done"]
    assert not list((tmp_path / "two").rglob("checkpoint*"))




def test_who_was_lost(tmp_path):
    """By the time of the last sign of life: the runtime ends the others half a minute after it."""
    now = time.time()
    for i, (state, seen) in enumerate([("running", 40), ("running", 75), ("stopped", 74), ("running", 1), ("done", 90)]):
        folder = tmp_path / f"shard-{i}-of-5"
        folder.mkdir()
        said = dict(kind="process", format=1, process=i, of=5, state=state, why="", part="part-0", step=40)
        (folder / hosts.PROCESS).write_text(json.dumps(said))
        os.utime(folder / hosts.PROCESS, (now - seen, now - seen))
    assert [one["state"] for one in hosts.processes(tmp_path)] == ["ended", "lost", "stopped", "running", "done"]
    assert hosts.tell_lost(hosts.processes(tmp_path)).startswith("process 1 of 5 was lost in the segment after step 40 of part-0")


def test_presence_is_a_sign_of_life_and_a_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "BEAT", 0.01)
    folder = hosts.shard_of(tmp_path)
    folder.mkdir()
    with pytest.raises(OSError, match="disk"), hosts.presence(folder) as tell:
        tell("part-1", 60)
        os.utime(folder / hosts.PROCESS, (0, 0))
        deadline = time.monotonic() + 10
        while (folder / hosts.PROCESS).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (folder / hosts.PROCESS).stat().st_mtime < 10
        raise OSError("disk\nfull")
    (told,) = hosts.processes(tmp_path)
    assert (told["state"], told["why"], told["part"], told["step"]) == ("stopped", "OSError: disk", "part-1", 60)


def test_no_wait_is_without_an_end():
    program = "import time; from dualebm import hosts\nwith hosts.at_most(0.05, 'a barrier'): time.sleep(60)"
    child = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=50)
    assert child.returncode == 1 and child.stderr == "error: a barrier took more than 0.05 s; another process hangs\n"


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
        hosts.join(*arguments)


def test_a_folder_of_another_number_of_processes(tmp_path):
    part = tmp_path / "shard-0-of-2" / "part-0"
    part.mkdir(parents=True)
    (part / "checkpoint-0-3.npz").touch()
    with pytest.raises(ValueError, match=r"shard-0-of-2/part-0/checkpoint-0-3.npz, of another number of processes than the 1"):
        sweeps._check_shards(tmp_path)


# -- One of several processes, with the words of the others put in its mouth --------------------------


@pytest.fixture
def one_of_two(monkeypatch):
    """This process takes itself for the first of two; what the second says is `others`, by what is asked, else the same."""
    others = {}

    def agree(values, what):
        values = np.asarray(values)
        return np.stack([values, np.asarray(others.get(what, values))])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "agree", agree)
    return others


METHOD = Dual(Sphere(3), neurons=4)
COUNTS = dict(steps=4, every=2, metrics={"acceptance": lambda key, method, state, rates, data: state.acceptance})


def data(key):
    return Samples(Sphere(3).sample_base(key, 10, jnp.zeros(()).dtype))


def test_a_batch_continues_from_the_last_checkpoint_of_all(tmp_path, one_of_two):
    planned = plan_of(product(seed=[0]), METHOD, None, data, segment=2, **COUNTS)
    where = sweeps.Whereabouts(tmp_path, None)
    part = Part(tmp_path / "part-0", [], 1)
    assert sweeps._common(planned, part, where, 0, 8) == 0
    (tmp_path / "part-0").mkdir()
    for records in (6, 8):
        where.checkpoint(part, 0, records).touch()
    assert sweeps._common(planned, part, where, 0, 8) == 8
    where.checkpoint(part, 0, 8).unlink()
    assert sweeps._common(planned, part, where, 0, 8) == 6
    one_of_two["the checkpoint"] = False
    assert sweeps._common(planned, part, where, 0, 8) == 0
    assert sweeps._common(planned, part, sweeps.Whereabouts(None, None), 0, 8) == 8  # of a process alone the manifest is right


def test_processes_must_make_the_same_data(one_of_two):
    planned = plan_of(product(seed=[0, 1]), METHOD, None, data, **COUNTS)
    like = sweeps.like_of(planned, planned.lanes[0])
    made, why = sweeps._make(planned, planned.lanes, like, {})
    assert set(made) == {0, 1} and not why
    sums = [sweeps._checksum(made[i]) for i in (0, 1)]
    assert sums[0] != sums[1]
    one_of_two["the data"] = [[1, 0], [sums[0], 0]]
    made, why = sweeps._make(planned, planned.lanes, like, {})
    assert set(made) == {0} and why == {1: "another process could not make its data or metrics"}
    one_of_two["the data"] = [[1, 1], [sums[0], sums[0]]]
    with pytest.raises(ValueError, match="lane 1: the processes made different data"):
        sweeps._make(planned, planned.lanes, like, {})


def test_what_processes_that_share_particles_may_not_ask_for(one_of_two):
    with pytest.raises(ValueError, match="folder is None; the 2 processes that share the particles"):
        sweeps.sweep(product(seed=[0]), METHOD, None, data, **COUNTS)
    with pytest.raises(ValueError, match="devices is 2 and devices_per_run is 1; 2 processes share the particles"):
        plan_of(product(seed=[0]), METHOD, None, data, devices=2, **COUNTS)
