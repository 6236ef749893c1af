"""The experiment on neurons that move and neurons that stay: its numbers beside loops, and a small one from end to end."""

import json

import jax
import numpy as np
import pytest
import xarray

from dualebm.data import targets
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual
from experiments import dual_lazy
from experiments._common import data
from experiments.dual_lazy import HeldOut, Settings, completed, main, rates_of, slope, validated


def test_the_held_out_likelihood_is_that_of_the_model():
    """At the teacher itself, and at the zero energy, whose log Z is 0."""
    target = targets.teacher("s2_bimodal")
    key = jax.random.key(0)
    held_out, references = (targets.sample(k, target, 4000)[0] for k in jax.random.split(key))
    metric = HeldOut(target.energy, target.log_partition, held_out, references)
    method = Dual(target.space, neurons=2)
    state = method.init(key, method.rates, held_out)

    class Of(Dual):
        def energy(self, state, rates, data):
            return target.energy

    known = float(np.mean(target.energy(held_out.points))) + target.log_partition
    assert float(metric(key, Iterate(Of(target.space), state, method.rates, held_out))) == pytest.approx(known, abs=1e-5)
    none = state._replace(atoms=state.atoms._replace(log_weights=state.atoms.log_weights - 100))
    assert float(metric(key, Iterate(method, none, method.rates, held_out))) == pytest.approx(0, abs=0.05)  # log E* exp(U*), by 4000 points
    assert float(jax.numpy.mean(target.energy(held_out.points))) < -1


def test_the_radius_is_chosen_by_held_out_data_alone():
    rng = np.random.default_rng(0)
    shape, coordinates = (2, 3, 4), {"n": [10, 20], "radius": [5.0, 10.0, 20.0], "seed": range(4)}
    kl, held_out = (xarray.DataArray(rng.uniform(size=shape), coordinates, ("n", "radius", "seed")) for _ in range(2))
    held_out[0, 1, 2] = np.nan  # a run that diverged is not chosen
    found = validated(xarray.Dataset({"kl": kl, "held_out": held_out}))
    for i, j in np.ndindex(2, 4):
        column = np.where(np.isfinite(held_out[i, :, j]), held_out[i, :, j], np.inf)
        assert float(found.kl[i, j]) == float(kl[i, int(np.argmin(column)), j])
        assert float(found.radius[i, j]) == coordinates["radius"][int(np.argmin(column))]


def test_slope_of_a_power():
    n = np.array([100, 300, 1000])
    kl = xarray.DataArray(np.stack([3 * n**-0.7, 5 * n**-0.7]), {"seed": [0, 1], "n": n}, ("seed", "n"))
    assert slope(kl) == pytest.approx(-0.7)


def test_the_presets():
    paper = completed(Settings(preset="paper"))
    assert paper.teachers == dual_lazy.TEACHERS and paper.n == (100, 300, 1000, 3000, 10_000)
    assert rates_of("F1", "s14_monomodal", 10.0).radius == 10.0
    assert rates_of("F2", "s14_monomodal", 50.0).ascent_step == 225.0
    assert data(jax.random.key(0), "s2_bimodal", 7).points.shape == (7, 3)


def known_numbers(label, counts):
    """KL 10 / n of F1, 20 / n of F2 at every radius but the third, which held-out data prefer and where it is 40 / n."""
    radii = dual_lazy.RADII[label]
    kl = np.broadcast_to((10 if label == "F1" else 20) / np.array(counts)[:, None, None], (len(counts), len(radii), 2)).copy()
    held_out = np.zeros(kl.shape)
    if label == "F2":
        kl[:, 2], held_out[:, 2] = kl[:, 2] * 2, -1
    coordinates = {"n": list(counts), "radius": list(radii), "seed": [0, 1]}
    return xarray.Dataset({"kl": (("n", "radius", "seed"), kl), "held_out": (("n", "radius", "seed"), held_out)}, coordinates)


def test_rows_and_figures_of_known_numbers(tmp_path, monkeypatch, capsys):
    seen = []

    def solve(settings, kind, teacher, grid, label):
        seen.append((teacher, label, sorted(set(grid["n"])), sorted(set(grid.get("features", [None])))))
        return known_numbers(kind, sorted(set(grid["n"])))

    monkeypatch.setattr(dual_lazy, "solve", solve)
    main(Settings(teachers=dual_lazy.TEACHERS[::2], more_features=16, out=tmp_path))
    assert seen[:4] == [
        ("s14_monomodal", "F1", [300, 2000], [None]),
        ("s14_monomodal", "F2", [300, 2000], [512]),
        ("s14_monomodal", "kernel", [300], [None]),
        ("s14_monomodal", "features", [300], [16]),
    ]
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert [(row["teacher"], row["n"]) for row in said["rows"]] == [(t, n) for t in ("s14_monomodal", "s2_bimodal") for n in (300, 2000)]
    for row in said["rows"]:
        assert row["F1"] == row["F1_least"] == row["F1_largest"] == pytest.approx(10 / row["n"])
        assert row["ratio"] == pytest.approx(4)
        assert row["F2_radius"] == dual_lazy.RADII["F2"][2]
    assert "--more-features 16" in said["command"] and "s2_bimodal -1.00 (F1, radius 10) and -1.00 (F2)" in said["summary"]
    assert said["summary"] in capsys.readouterr().out
    for name in said["figures"]:
        assert (tmp_path / "quick" / name).stat().st_size > 10_000








@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'"),
        (dict(teachers=("s14_monomodl",)), "teachers is 's14_monomodl'; did you mean 's14_monomodal'"),
        (dict(n=(300, 300)), r"n is \(300, 300\); it must have at least one value, each once"),
        (dict(n=(300, 2)), "n is 2; it must be an integer of at least 4"),
        (dict(kernel_n=7), "kernel_n is 7; it must be one of n, 300, 2000"),
        (dict(steps=25), "steps is 25; it must be a multiple of 10"),
        (dict(seeds=0), "seeds is 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        completed(Settings(**changes))
