"""Processes that share the particles of each run: equal to one, and what is left when one of them dies."""

import json
import os
import re
import signal
import time

import pytest
import xarray

from dualebm.data import targets
from dualebm.sweeps.folder import open_sweep
from dualebm.training import presence, run_folder
from tests.children import Child
from tests.package.test_multihost import address, command, ended, start, words


def test_another_flag_in_one_process_is_found_before_anything_is_written(tmp_path):
    place = address()
    given = [(), ("--steps", "40")], [("--every", "2"), ("--every", "2", "--dry-run")], [(), ("--radius", "3")]
    for flags in given:
        found = ended([Child(command, words(tmp_path / "two", place, i, *flags[i])) for i in range(2)])
        assert [code for code, _, _ in found] == [2, 2], found
        errors = [[line for line in error.splitlines() if line.startswith("error: ")] for _, _, error in found]
        assert [len(lines) for lines in errors] == [1, 1], found
        assert not (tmp_path / "two").exists()


def slowly(seconds, arguments):
    """The command, in a process that makes its data slowly."""
    draw = targets.sample
    targets.sample = lambda *given: (time.sleep(seconds), draw(*given))[1]
    return command(arguments)


def test_a_process_may_begin_long_after_another(tmp_path):
    """The devices connect half a minute at the longest, and did so when they first computed."""
    place, flags = address(), ("--steps", "4", "--every", "2", "--seed", "0")
    children = [Child(slowly, 35 * (i == 0), words(tmp_path / "two", place, i, *flags), devices=2) for i in range(2)]
    found = ended(children, 400)
    assert [code for code, _, _ in found] == [0, 0], found


@pytest.mark.parametrize(("which", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_survivors_end_within_a_minute(tmp_path, which, how):
    """Also where a process hangs; the same command then ends with the numbers of an uninterrupted one, bit for bit."""
    flags = "--steps", "4000", "--every", "2"
    whole = ended(start(tmp_path / "whole", *flags))
    assert [code for code, _, _ in whole] == [0, 0], whole
    children = start(tmp_path / "two", *flags)
    deadline = time.monotonic() + 120
    group, both = tmp_path / "two" / "group-0", [f"shard-{i}-of-2/group-0/checkpoint-*.npz" for i in range(2)]
    while time.monotonic() < deadline and not (
        all(list((tmp_path / "two").glob(one)) for one in both) and run_folder.read_manifest(group)["records"] > 0
    ):
        time.sleep(0.01)  # till a segment is committed: its manifest comes after the checkpoints
    os.kill(children[which].process.pid, how)
    other = children[1 - which]
    other.process.join(60)
    assert not other.process.is_alive() and (other.process.exitcode or other.answer()[0]) != 0
    time.sleep(6 * presence.BEAT)
    said = presence.processes(tmp_path / "two")
    assert said[which]["state"] == "lost", said
    lost = rf"process {which} of 2 was lost in the segment after step \d+ of group-0 \(last seen .* UTC\)"
    assert re.match(lost, presence.describe_lost(said))
    children[which].kill()
    found = ended(start(tmp_path / "two", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    assert re.search(lost, found[0][2])
    first = [next(json.loads(line)["step"] for line in one[0][2].splitlines() if line.startswith("{")) for one in (whole, found)]
    assert first[1] > first[0]  # it went on
    xarray.testing.assert_equal(open_sweep(tmp_path / "two").load(), open_sweep(tmp_path / "whole").load())
