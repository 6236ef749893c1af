"""Processes that share the particles of each lane: equal to one, and what is left when one of them dies."""

import json
import os
import re
import signal
import time

import pytest
import xarray

from dualebm.sweeps.folder import open_sweep
from dualebm.training import multihost, run_folder
from tests.package.test_multihost import ended, start


@pytest.mark.parametrize(("which", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_survivors_end_within_a_minute(tmp_path, which, how):
    """Also where a process hangs; the same command then ends with the numbers of an uninterrupted one, bit for bit."""
    flags = "--steps", "4000", "--every", "2"
    whole = ended(start(tmp_path / "whole", *flags))
    assert [code for code, _, _ in whole] == [0, 0], whole
    children = start(tmp_path / "two", *flags)
    deadline = time.monotonic() + 120
    part, both = tmp_path / "two" / "part-0", [f"shard-{i}-of-2/part-0/checkpoint-*.npz" for i in range(2)]
    while time.monotonic() < deadline and not (
        all(list((tmp_path / "two").glob(one)) for one in both) and run_folder.read_manifest(part)["records"] > 0
    ):
        time.sleep(0.01)  # till a segment is committed: its manifest comes after the checkpoints
    os.kill(children[which].process.pid, how)
    other = children[1 - which]
    other.process.join(60)
    assert not other.process.is_alive() and (other.process.exitcode or other.answer()[0]) != 0
    time.sleep(6 * multihost.BEAT)
    told = multihost.processes(tmp_path / "two")
    assert told[which]["state"] == "lost", told
    lost = rf"process {which} of 2 was lost in the segment after step \d+ of part-0 \(last seen .* UTC\)"
    assert re.match(lost, multihost.tell_lost(told))
    children[which].kill()
    found = ended(start(tmp_path / "two", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    assert re.search(lost, found[0][2])
    first = [next(json.loads(line)["step"] for line in told[0][2].splitlines() if line.startswith("{")) for told in (whole, found)]
    assert first[1] > first[0]  # it went on
    xarray.testing.assert_equal(open_sweep(tmp_path / "two").load(), open_sweep(tmp_path / "whole").load())
