"""A device of each core: where it is made, and where a number that was given stays."""

import os

import jax
import pytest

from dualebm._internal import cores
from dualebm.cli import select, sweep
from tests.children import Child


def devices_with(flags, setting):
    """In a process that has no devices yet: the number of devices that a process of three cores makes, twice."""
    os.environ["XLA_FLAGS"] = flags
    cores.count = lambda: 3
    if setting is not None:
        jax.config.update("jax_num_cpu_devices", setting)
    cores.make_devices()
    made = jax.local_device_count()
    cores.count = lambda: 4
    cores.make_devices()
    return made, jax.local_device_count()


@pytest.mark.parametrize(("flags", "setting", "expected"), [("", None, 3), (f"--{cores.FLAG}=2", None, 2), ("", 1, 1)])
def test_a_number_that_is_given_stays(flags, setting, expected):
    assert Child(devices_with, flags, setting).answer() == (expected, expected)


@pytest.mark.parametrize(
    ("module", "words"),
    [(sweep, "sweep --alpha 1 --dry-run"), (select, "select {file} --space euclidean --radius 1,3")],
    ids=["sweep", "select"],
)
def test_commands_make_them_where_no_number_is_given(module, words, tmp_path, monkeypatch):
    from dualebm.cli import main

    made = []

    class Made(Exception):
        pass

    def make():
        made.append(True)
        raise Made

    monkeypatch.setattr(module.cores, "make_devices", make)
    (tmp_path / "rows.csv").write_text("x\n1\n2\n")
    words = words.format(file=tmp_path / "rows.csv").split()
    with pytest.raises(Made):
        main.main([*words, "--out", str(tmp_path / "out")])
    assert main.main([*words, "--devices", "64", "--out", str(tmp_path / "out")]) == 2  # more than there are
    assert made == [True]
