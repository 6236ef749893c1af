"""The experiment on time scales: its runs, its numbers on known curves, and a small study from end to end."""


import numpy as np
import pytest
import xarray

from dualebm.methods.presets import rates_from_paper
from experiments._common import stays_below
from experiments.time_scales.__main__ import studies
from experiments.time_scales.common import STUDIES, Settings, paper_rates


def test_the_paper_preset_covers_the_grid():
    found = studies(Settings(preset="paper"))
    assert set(found) == set(STUDIES)
    claim = found["claim"].grid
    assert sorted(set(claim["ratio"])) == [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
    assert len(set(claim["seed"])) == 8 and len(claim["seed"]) == 9 * 8 * 2 * 2 * 2
    plane = found["plane"].grid
    assert max(plane["particle_step"]) / min(plane["particle_step"]) == pytest.approx(100, rel=0.01)
    assert max(plane["neuron_step"]) / min(plane["neuron_step"]) == pytest.approx(100, rel=0.01)
    assert set(found["radius"].grid["radius"]) == {30, 60, 100}
    assert set(found["factors"].grid["neurons"]) == {8, 16, 64, 256, 1024}
    assert paper_rates(2.0, "fast") == rates_from_paper(0.2, 2.0, 10.0, 0.0, "fast")


def test_time_to_a_threshold_is_that_from_which_it_stays():
    kl = xarray.DataArray([[3.0, 0.5, 2.0, 0.9], [3.0, 0.5, 0.4, np.nan]], {"step": [0, 10, 20, 30]}, ("seed", "step"))
    assert stays_below(kl, 1.0).values.tolist() == [30, np.inf]




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'"),
        (dict(only=("clam",)), "only is 'clam'"),
        (dict(steps=30), "steps is 30; it must be a multiple of 20"),
        (dict(seeds=0), "seeds is 0"),
        (dict(first_seed=-1), "first_seed is -1"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        studies(Settings(**changes))
