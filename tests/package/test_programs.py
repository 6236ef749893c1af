"""Compiled programs are dropped before they hold as many memory maps as a process may have."""

import jax
import jax.numpy as jnp
import pytest

from dualebm import Dual
from dualebm._internal import programs
from dualebm.measures import Samples
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import product
from dualebm.training.run import run


def test_programs_are_dropped_where_they_hold_too_many_maps(tmp_path, monkeypatch):
    """Where there are more maps than allowed, not where there are as many, nor on a system that tells none."""
    dropped = []
    (tmp_path / "maps").write_text("a\nb\nc\n")
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: dropped.append(1))
    for name, most, expected in (("maps", 2, 1), ("maps", 3, 1), ("none", 2, 1)):
        monkeypatch.setattr(programs, "MAPS", tmp_path / name)
        monkeypatch.setattr(programs, "MOST_MAPS", most)
        programs.drop_programs()
        assert len(dropped) == expected


@pytest.mark.parametrize("start", ["run", "sweep"])
def test_runs_and_sweeps_drop_programs_before_they_compile(monkeypatch, start):
    calls = []
    monkeypatch.setattr(f"dualebm.{'training.run' if start == 'run' else 'sweeps.engine'}.drop_programs", lambda: calls.append(1))
    method, data = Dual(Sphere(3), neurons=4), Samples(jnp.eye(3))
    if start == "run":
        run(jax.random.key(0), method, method.rates, data, steps=4, every=2, metrics={}, progress=False)
    else:
        sweep(product(neurons=[4, 5], seed=[0]), method, None, data, steps=4, every=2, metrics={}, progress=False)
    assert len(calls) == (1 if start == "run" else 2)
