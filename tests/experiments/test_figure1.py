"""Figure 1: its settings, iterations to thresholds on known curves, a small comparison from end to end, and bad settings."""


import numpy as np
import pytest
import xarray

from dualebm.data.targets import teacher
from dualebm.methods import dual, presets
from dualebm.spaces import Sphere
from experiments import reference, report
from experiments.figure1 import __main__ as figure1
from experiments.figure1.__main__ import main
from experiments.figure1.figures import archived
from experiments.figure1.runs import (
    ALGORITHMS,
    PRESETS,
    READINGS,
    THRESHOLDS,
    Settings,
    passed,
    rows_of,
    setting,
    speed_ups,
)


def test_the_settings_of_both_readings():
    """The numbers of the text's Section 5 and of the archives, written out."""
    rates = {(r, a): setting(r, a, 10).rates for r in READINGS for a in ALGORITHMS}
    assert rates["archived", "primal"] == dual.DualRates(0.02, 0.005, 0.005, 0.0, 10.0)
    assert rates["archived", "dual"] == dual.DualRates(0.02, 0.2, 0.2, 0.0, 10.0)
    assert rates["text", "primal"] == pytest.approx(dual.DualRates(0.02, 0.001, 0.001, 0.0, 10.0), rel=1e-12)
    assert rates["text", "dual"] == pytest.approx(dual.DualRates(0.001, 0.02, 0.02, 0.0, 10.0), rel=1e-12)
    methods = {(r, a): setting(r, a, 10).method for r in READINGS for a in ALGORITHMS}
    assert methods["archived", "primal"] == presets.program(Sphere(15), weight_update="additive")
    assert methods["archived", "dual"] == presets.program(Sphere(15))
    assert methods["text", "primal"] == methods["text", "dual"] == presets.text(Sphere(15), particles=20, weight_unit="one")
    assert PRESETS["paper"].n == 100_000 and all(m.neurons == 64 for m in methods.values())


def test_iterations_to_a_threshold_are_those_of_an_exponential():
    """KL = exp(-t / 7) passes a at t = -7 log a exactly, whatever the records, and exp(t / 7) rises through 1 / a there."""
    steps = np.array([0, 3, 10, 20, 50])
    fall = xarray.DataArray(np.exp(-steps / 7), {"step": steps}, ("step",))
    for a in (0.9, 0.2, 0.01):
        assert passed(fall, a, rising=False) == pytest.approx(-7 * np.log(a))
        assert passed(1 / fall, 1 / a, rising=True) == pytest.approx(-7 * np.log(a))
    assert passed(fall, 1e-9, rising=False) == np.inf and passed(fall, 2.0, rising=False) == 0
    wave = xarray.DataArray([1.0, 0.1, 1.0, 0.1], {"step": [0, 10, 20, 30]}, ("step",))
    assert passed(wave, 0.1, rising=False) == 10  # the first time
    ratio = speed_ups(np.array([[40.0, 9.0, np.inf, 3.0]]), np.array([[4.0, 3.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(ratio, [[10, 3, np.nan, np.nan]])


def test_thresholds_lie_below_the_zero_energy_and_the_archives_pass_them():
    for name, thresholds in THRESHOLDS.items():
        assert all(value < teacher(name).kl_to_uniform for quantity, value in thresholds if quantity == "kl")
    curve = reference.author_primal()
    x, y, n = archived("s14_bimodal", "primal", "kl")
    np.testing.assert_array_equal(y, curve["KL"]["mean"])
    known = xarray.DataArray(y, {"step": x}, ("step",))
    assert 3_000 < passed(known, 0.3, rising=False) < 5_000 and n == 100_000
    assert archived("s14_bimodal", "dual", "kl") is None and archived("s14_monomodal", "primal", "score") is None


def test_rows_are_means_over_the_seeds_that_have_passed():
    primal = np.array([[30.0, 40.0, 50.0, np.inf, 9.0], [10.0, 20.0, np.inf, np.inf, 9.0]])
    fast = np.array([[3.0, 2.0, 1.0, 1.0, 3.0], [2.0, 4.0, 1.0, 1.0, 1.0]])
    rows = rows_of("s14_monomodal", "text", primal, fast)
    assert [row["to"] for row in rows] == ["KL 0.8", "KL 0.5", "KL 0.2", "KL 0.1", "TV 1.7"]
    assert [row["speed_up"] for row in rows] == [7.5, 12.5, 50, None, 6]
    assert [row["seeds"] for row in rows] == ["2 of 2", "2 of 2", "1 of 2", "0 of 2", "2 of 2"]
    assert (rows[0]["primal"], rows[0]["dual"], rows[0]["least"], rows[0]["largest"]) == (20, 2.5, 5, 10)




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(n=-1), "n is -1"),
        (dict(first_seed=-1), "first_seed is -1"),
        (dict(first_seed=2**32), "first_seed is 4294967296"),
        (dict(first_seed=2**32 - 2, seeds=3), r"first_seed \+ seeds - 1 is 4294967296; it must be an integer from 0 to 4294967295"),
        (dict(primal_steps=150), "primal_steps is 150; it must be a multiple of 100"),
        (dict(dual_steps=15), "dual_steps is 15; it must be a multiple of 10"),
        (dict(teachers=("s14_bimodl",)), "did you mean 's14_bimodal'"),
        (dict(readings=()), r"readings is \(\); it must have at least one value"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_bad_flag_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["figure1", "--dual-steps", "15", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        report.script(main, Settings, figure1.__doc__)
    assert end.value.code == 2 and capsys.readouterr().err == "error: dual_steps is 15; it must be a multiple of 10\n"
