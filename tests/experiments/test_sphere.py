"""The experiment on S^2: exact numbers, records that are the run's, log-spaced frames, a small run from end to end, bad settings."""


import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm import metrics
from dualebm.data import targets
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.methods import dual, presets
from dualebm.spaces import Sphere
from experiments import reference, sphere
from experiments.sphere import Settings, log_spaced, main, problem, rows_of


def test_methods_are_those_of_the_archive_and_our_default():
    program, rates, schedule = problem("program", "s2_bimodal")
    assert program == presets.program(Sphere(3), budget=False) and schedule is None
    assert rates == dual.DualRates(0.02, 0.04, 0.04, 0.0, 10.0)
    assert problem("program", "s2_monomodal")[1] == rates._replace(reaction_step=0.02)
    ours, rates, schedule = problem("default", "s2_bimodal")
    assert ours == dual.Dual(Sphere(3)) and rates == ours.rates
    np.testing.assert_allclose([schedule(t, rates).radius for t in (0, 200, 400, 4000)], [5, 7.5, 10, 10])






def test_frames_are_spaced_in_the_logarithm():
    steps = np.array([*range(0, 400, 5), *range(400, 40_001, 100)])
    chosen = log_spaced(steps, 60)
    assert chosen[:4] == [0, 5, 10, 15] and chosen[-1] == 40_000 and 45 <= len(chosen) <= 60
    assert set(chosen) <= set(steps.tolist()) and chosen == sorted(set(chosen))
    assert np.diff(np.log(chosen[1:]))[10:].max() < 0.3


def test_rows_are_means_over_seeds_beside_the_archive():
    kl = np.array([[0.6, 0.5, 0.2, 0.01], [0.7, 0.6, 0.1, 0.03]])
    values = dict.fromkeys(("kl", "score", "total_variation"), (("run", "step"), kl))
    runs = xarray.Dataset(values, {"step": [0, 80, 400, 4_000]})
    rows = rows_of("s2_bimodal", "program", runs)
    assert [row["iteration"] for row in rows] == [0, 80, 400, 4_000]
    assert (rows[3]["kl"], rows[3]["least"], rows[3]["largest"]) == pytest.approx((0.02, 0.01, 0.03))
    theirs = reference.author_runs("d3_bimodal_n1000_p_R=0")
    at_400 = theirs["KL"]["mean"][theirs["iterations"].tolist().index(400)]
    assert rows[2]["archived_kl"] == pytest.approx(at_400, rel=0.05) and rows[0]["archived_kl"] is None
    assert all(row["archived_kl"] is None for row in rows_of("s2_bimodal", "default", runs))




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(n=0), "n is 0"),
        (dict(frames=0), "frames is 0"),
        (dict(steps=400), "steps is 400; it must be a multiple of 100 above 400"),
        (dict(steps=1_050), "steps is 1050"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_monitors_are_exact_at_the_zero_energy():
    """KL(teacher || uniform) by the nodes that the experiment uses."""
    for name in sphere.TEACHERS:
        target = targets.teacher(name)
        nodes = metrics.exact_samples(target.energy, target.quadrature())
        zero = metrics.relative_entropy(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), target.energy(nodes.points), nodes)
        assert float(zero) == pytest.approx(target.kl_to_uniform, rel=1e-4)
