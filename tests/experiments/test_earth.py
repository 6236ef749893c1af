"""The sets of places: rows, splits, kernels beside loops in NumPy, and a small study from end to end."""

import json
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.plotting.projection import map_points
from experiments.earth import __main__ as earth
from experiments.earth import reading, rivals, sets
from experiments.earth.__main__ import Settings, checked, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of places around two points, of which each place is there twice."""
    folder, rng = tmp_path_factory.mktemp("earth"), np.random.default_rng(0)
    for name in sets.NAMES:
        rows = np.concatenate([rng.normal((40, 10), 3, (30, 2)), rng.normal((-20, 100), 3, (30, 2))]).round(3)
        text = "\n".join(f"{latitude},{longitude}" for latitude, longitude in np.concatenate([rows, rows]))
        (folder / f"{name}.csv").write_text(f"# places\nlat,long\n{text}\n")
    return folder


def test_rows_are_directions_and_distinct_places_count_once(folder):
    rows, once = sets.rows_of(folder, "flood", False), sets.rows_of(folder, "flood", True)
    assert rows.shape == (120, 3) and once.shape == (60, 3) and np.array_equal(rows[:60], once)
    latitude, longitude = np.radians(np.loadtxt((folder / "flood.csv").read_text().splitlines()[2:3], delimiter=","))
    expected = [math.cos(latitude) * math.cos(longitude), math.cos(latitude) * math.sin(longitude), math.sin(latitude)]
    np.testing.assert_allclose(rows[0], expected, atol=1e-12)


def test_a_split_uses_each_row_once(folder):
    once = sets.rows_of(folder, "fire", True)
    train, held = sets.split(once, 3)
    assert len(train) == 54 and {tuple(row) for row in (*train, *held)} == {tuple(row) for row in once}
    assert not np.array_equal(sets.split(once, 4).held, held)


# -- Kernels -----------------------------------------------------------------------------------------


def directions(n, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, 3)) + np.array([2.0, 0.0, 0.0])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_kernels_are_the_loop_over_centres(monkeypatch):
    monkeypatch.setattr(rivals, "BLOCK", 3)
    x, centres = directions(7, 1), directions(5)
    k = np.array([0.5, 3.0, 20.0, 200.0, 5.0])
    terms = [[kj / (4 * math.pi * math.sinh(kj)) * math.exp(kj * xi @ y) for kj, y in zip(k, centres, strict=True)] for xi in x]
    np.testing.assert_allclose(rivals.log_kernels(x, centres, k), np.log(np.mean(terms, axis=1)), rtol=1e-9)


def test_concentrations_follow_from_the_distance_to_a_neighbour():
    centres = np.concatenate([directions(20), directions(20)[:4]])
    distances = np.sort(np.linalg.norm(centres[:, None] - centres[None], axis=2), axis=1)
    np.testing.assert_allclose(rivals.by_neighbours(centres, 3, 1.5), 3 / distances[:, 3] ** 2)
    assert (rivals.by_neighbours(centres, 1, 1.5)[:4] == rivals.LARGEST).all()


@pytest.mark.parametrize("name", ["kernel", "neighbours"])
def test_the_setting_is_that_of_the_best_cross_validation(name, monkeypatch):
    monkeypatch.setattr(rivals, "CONCENTRATIONS", (1.0, 30.0, 1e5))
    monkeypatch.setattr(rivals, "NEIGHBOURS", (3,))
    monkeypatch.setattr(rivals, "FACTORS", (0.01, 1.0, 500.0))
    monkeypatch.setattr(rivals, "SHARES", (0.0, 0.5))
    train, held = directions(300), directions(40, 1)
    values, kept = rivals.rival(name, 0)[0](train, held)
    assert kept["setting"] == (30.0 if name == "kernel" else (3, 1.0)) and kept["share"] == 0
    k = np.full(300, 30.0) if name == "kernel" else rivals.by_neighbours(train, 3, 1.0)
    np.testing.assert_allclose(values, rivals.log_kernels(held, train, k))
    assert abs(kept["validated"] - values.mean()) < 0.6


def test_a_mixture_is_with_respect_to_area():
    spread = np.random.default_rng(0).normal(size=(400, 3))
    values, _ = rivals.mixture(spread / np.linalg.norm(spread, axis=1, keepdims=True), directions(5), 0)
    np.testing.assert_allclose(values, -math.log(4 * math.pi), atol=0.5)


# -- The study ---------------------------------------------------------------------------------------


def uniform(seed, train, held, space, auto):
    """A fit whose energy is 1 everywhere."""
    energy = Shallow(ReLU(bias=True), jnp.array([[0.0, 0.0, 0.0, 1.0]]), jnp.array([1.0]))
    fit = SimpleNamespace(energy=energy, space=space, log_partition=SimpleNamespace(value=-1.0))
    return fit, (np.full(len(held), -space.log_volume), dict(chosen="uniform relu", radius=0.0, base_measure=-space.log_volume))


def test_the_study_from_end_to_end_and_again(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(earth, "fitted", uniform)
    monkeypatch.setattr(reading, "MAP_ROWS", 8)
    settings = Settings(data=folder, sets=("volcano", "flood"), distinct=("volcano",), out=tmp_path)
    rows = main(settings)
    cases = {path.name: json.loads(path.read_text()) for path in (tmp_path / "quick/cases").iterdir()}
    assert len(cases) == 3 * 4
    values = np.array(cases["flood-all-0-automatic.json"]["map"])[map_points(8)[1]]
    np.testing.assert_allclose(values, -2.53)
    assert "map" not in cases["volcano-distinct-0-automatic.json"]
    table = {(row["rows"], row["method"]): row for row in rows}
    assert table["all rows", "automatic fit"] == dict(rows="all rows", method="automatic fit", volcano="2.53", flood="2.53")
    assert table["all rows", "Moser flow (the same)"]["flood"] == "0.57 +- 0.10"
    assert table["distinct places", "kernels by neighbours"]["flood"] == ""
    kernel = cases["flood-all-0-kernel.json"]["log_densities"]
    assert table["all rows", "kernels, one concentration"]["flood"] == f"{-np.mean(kernel):.2f}"
    assert "volcano, distinct places: below, " in capsys.readouterr().out
    assert {"earth.png", "earth_maps.png"} <= {path.name for path in (tmp_path / "quick").iterdir()}
    for module, name in ((earth, "fitted"), (rivals, "log_kernels"), (rivals, "fit_von_mises_fisher")):
        monkeypatch.setattr(module, name, None)
    assert main(settings) == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(sets=("fires",)), "sets is 'fires'; did you mean 'fire'"),
        (dict(sets=("fire",), distinct=("flood",)), "distinct is 'flood'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(draws=1), "draws is 1"),
        (dict(sets=("fire",)), r"data is .*nowhere, which has no file fire\.csv"),
    ],
)
def test_bad_settings(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, data=tmp_path / "nowhere", out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_distinct_places_are_those_of_the_preset_among_the_sets(folder):
    assert checked(Settings(preset="paper", data=folder)).distinct == ("volcano", "earthquake")
    assert checked(Settings(preset="paper", data=folder, sets=("flood", "earthquake"))).distinct == ("earthquake",)
