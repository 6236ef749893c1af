"""What the same call makes of damaged folders, of any state of a folder, of a power cut and of a full disk."""

import subprocess

import pytest

from tests.heavy import damage


@pytest.mark.parametrize(("name", "count"), [("flips", 100), ("states", 100), ("cuts", 30)])
def test_the_same_call_goes_on_or_says_why_not(tmp_path, name, count):
    with damage.unflushed():
        found = getattr(damage, name)(tmp_path, count)
    assert not found.wrong and found.outcomes["same"] > count / 4
    assert name == "flips" or not found.outcomes["one line"]


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    try:
        found = damage.full(tmp_path, 6)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this process cannot mount a file system: {error.stderr.decode().strip()}")
    assert not found.wrong and found.outcomes["same"] == 12


def test_faults_are_seen(tmp_path):
    """A file that is not flushed is empty after a power cut, and other numbers, other errors and missing variables are faults."""
    whole = damage.one_run(tmp_path / "run")
    other = whole.assign(acceptance=whole.acceptance + 1)
    assert damage.outcome(lambda: whole, whole) == "same"
    assert damage.outcome(lambda: other, whole) == "other numbers in acceptance"
    assert damage.outcome(lambda: whole.drop_vars("acceptance"), whole) == "acceptance is missing or new"
    assert damage.outcome(lambda: 1 / 0, whole).startswith("a traceback: ZeroDivisionError")
    disk = damage.Disk()
    disk.survivor(tmp_path / "run", tmp_path / "cut")
    assert {path.stat().st_size for path in (tmp_path / "cut").rglob("*") if path.is_file()} == {0}
