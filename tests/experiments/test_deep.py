"""The experiment from end to end, what it chooses and times, and its bad inputs."""


import numpy as np
import optax
import pytest
import xarray

from dualebm.energies.networks import MLP
from dualebm.methods.contrastive import Contrastive
from dualebm.spaces import Sphere
from experiments._common import first_below
from experiments.deep import CHOOSING, Settings, checked, chosen_rate, cosine


def test_the_schedule_is_the_cosine_and_one_object():
    schedule, rates = cosine(40), Contrastive(Sphere(3), MLP()).rates._replace(learning_rate=0.5)
    assert schedule is cosine(40)
    for step in (0, 13, 40):
        expected = 0.5 * 0.5 * (1 + np.cos(np.pi * step / 40))
        assert float(schedule(step, rates).learning_rate) == pytest.approx(expected, abs=1e-7)
        assert float(optax.cosine_decay_schedule(0.5, 40)(step)) == pytest.approx(expected, abs=1e-7)
    assert schedule(7, rates).particle_step == rates.particle_step


def test_a_rate_with_a_run_that_diverged_is_not_chosen():
    kl = [[1.0, 0.3], [1.0, 0.3], [1.0, 0.1], [1.0, np.nan]]
    results = xarray.Dataset({"kl": (("run", "step"), kl)}, {"learning_rate": ("run", [0.01, 0.01, 0.1, 0.1])})
    assert chosen_rate(results) == 0.01
    with pytest.raises(ValueError, match="a run diverged with each"):
        chosen_rate(results.isel(run=slice(2, 4)))


def test_first_below():
    assert first_below(np.array([0, 5]), np.array([1.0, 0.5]), 0.4) == float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(teachers=("s2_bimodel",)), "did you mean 's2_bimodal'"),
        (dict(teachers=()), r"teachers is \(\)"),
        (dict(depths=(0,)), "depths is 0"),
        (dict(learning_rates=(-0.1,)), "learning_rates is -0.1"),
        (dict(width=0), "width is 0"),
        (dict(seeds=0), "seeds is 0"),
        (dict(steps=50), "steps is 50; it must be a multiple of 20"),
        (dict(first_seed=CHOOSING), "the last seed must be below 1000"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
