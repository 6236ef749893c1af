"""Compiled programs are dropped before they hold too many memory maps; some compile fast, and some work is done in a thread."""

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


def test_brief_programs_within_others_and_where_xla_does_not_know_the_options(monkeypatch):
    """Within a compiled function the options are those of that one, also where all arguments are constants."""
    doubled, constant = programs.brief(lambda x, times=2: times * x, static_argnames="times"), jnp.ones(3)
    assert doubled(constant).tolist() == [2, 2, 2] and doubled(constant, times=3).tolist() == [3, 3, 3]
    assert jax.jit(lambda y: doubled(constant) + y)(1.0).tolist() == [3, 3, 3]
    assert jax.vmap(doubled)(constant).tolist() == [2, 2, 2] and jax.grad(doubled)(1.0) == 2
    monkeypatch.setattr(programs, "BRIEFLY", {"xla_no_such_option": True})
    programs._known.cache_clear()
    try:
        assert not programs._known() and programs.brief(lambda x: -x)(constant).tolist() == [-1, -1, -1]
    finally:
        programs._known.cache_clear()


def test_an_error_of_a_brief_function_is_its_own():
    def wrong(x):
        raise ValueError(f"x has shape {x.shape}")

    with pytest.raises(ValueError, match="x has shape"):
        programs.brief(wrong)(jnp.ones(3))


def test_work_aside_has_the_precision_of_its_caller_and_its_errors_reach_it():
    with jax.enable_x64(True):
        wide = programs.aside(lambda: jnp.ones(1).dtype)
    assert (wide.result(), programs.aside(lambda: jnp.ones(1).dtype).result()) == ("float64", "float32")
    with pytest.raises(ZeroDivisionError):
        programs.aside(lambda: 1 / 0).result()
