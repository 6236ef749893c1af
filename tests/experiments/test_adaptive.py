"""The adapted steps against NumPy recursions, dense matrices, and the stability of exact dynamics on the circle."""

import numpy as np
import pytest
import xarray

from experiments import adaptive as experiment
from experiments._common import stays_below


def test_comparison_with_the_grid():
    """Iterations by hand: the floor is 1; the cells need 30 and 20 iterations to stay within 2, the adaptive method 30 of three seeds."""
    cells = [[3, 3, 1, 1], [3, 2, 2, 2]]
    kl = np.tile(np.array(cells, float).reshape(1, 1, 2, 4), (3, 1, 1, 1))
    adapted = np.array([[3, 3, 2, 2], [3, 1, 3, 1], [1, 1, 1, 1.0]])
    results = xarray.Dataset(
        {"kl": (("seed", "particle_step", "neuron_step", "step"), kl), "adapted": (("seed", "step"), adapted)},
        {"particle_step": [0.1], "neuron_step": [1.0, 2.0], "step": [10, 20, 30, 40]},
    )
    row = experiment.compare(results, 10)["2.0"]
    assert (row["kl"], row["adapted"], row["best"], row["ratio"], row["best_steps"]) == (2, 30, 20, 1.5, [0.1, 2.0])
    kl = xarray.DataArray([[3.0, np.nan], [1.0, 1.0]], {"step": [5, 10]}, ("seed", "step"))
    assert stays_below(kl, 1.0, never=15).values.tolist() == [15, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(teachers=("s2_bimodl",)), "did you mean 's2_bimodal'"),
        (dict(signs=("haf",)), "did you mean 'half'"),
        (dict(preset="quik"), "did you mean 'quick'"),
        (dict(every=3), "steps is 200; it must be a multiple of every, which is 3"),
        (dict(seeds=0), "seeds is 0"),
    ],
)
def test_bad_settings_of_the_experiment_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        experiment.main(experiment.Settings(**changes, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
