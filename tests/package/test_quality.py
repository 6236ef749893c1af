"""How near samples of a model are to rows: of its own law, of another, and by the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import kernels, model_files, quality
from dualebm.cli import main
from dualebm.data.preparation import Preparation
from dualebm.distances import energy_distance, median_distance, sliced_wasserstein
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.measures import Samples
from dualebm.model import Model
from dualebm.sampling import Drawn
from dualebm.spaces import Euclidean, Sphere, Torus

KNOWN = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)
STEPS = 5


def free(space, mean=None, scale=None, step=0.1):
    """The base measure as a model."""
    energy = Shallow(ReLU(), jnp.eye(1, space.dimension), jnp.zeros(1))
    return Model(energy, Preparation(space, normalise=isinstance(space, Sphere), mean=mean, scale=scale), KNOWN, step)


def base(space, count=800, seed=1):
    """Of the uniform measure, or the standard Gaussian; float32, NumPy."""
    x = np.random.default_rng(seed).normal(size=(count, space.dimension))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) if isinstance(space, Sphere) else x).astype(np.float32)


@pytest.mark.heavy
def test_rows_of_the_model_are_near_and_those_of_another_are_not():
    """Between samples of one law MMD^2 and the energy distance are (1/n + 1/m) (k(x, x) - E k(x, x')) in the mean; within a factor of 2."""
    space = Sphere(3)
    rows = base(space)
    moved = rows + np.array([0, 0, 0.5], np.float32)
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    near, far = (quality.quality(jax.random.key(0), free(space), jnp.asarray(x), 1000, steps=STEPS) for x in (rows, moved))
    assert (near["samples"], near["rows"]) == (1000, 800) and 0.9 < near["acceptance"] <= 1
    assert near["bandwidth"] == pytest.approx(np.sqrt(2), rel=0.02)  # of uniform points
    share, distances = 1 / 1000 + 1 / 800, np.linalg.norm(rows[:, None] - rows, axis=2)
    beyond = {"mmd": 1 - np.mean(np.exp(-((distances / near["bandwidth"]) ** 2) / 2)), "energy_distance": np.mean(distances)}
    for value, name in ((near["mmd"] ** 2, "mmd"), (near["energy_distance"], "energy_distance")):
        assert 0.5 < value / (share * beyond[name]) < 2
    for name in ("mmd", "energy_distance", "sliced_wasserstein", "ksd"):
        assert far[name] > 2 * near[name], name
    assert far["p_value"] == pytest.approx(1 / 501) and near["p_value"] > 0.02
    assert "p-value = 0.001996" in quality.summary(far)[-1]


def test_values_are_those_of_the_distances(monkeypatch):
    """Of the samples that the chains end at, about the rows' own mean: also of rows far from the origin."""
    space = Euclidean(2)
    drawn, rows = (jnp.asarray(x) for x in (base(space, 300) + 1000, base(space, 200, 2) + 1000.5))
    monkeypatch.setattr(quality, "draw", lambda *arguments, **options: Drawn(drawn, None, 0.5))
    found = quality.quality(jax.random.key(0), free(space), rows, 300)
    bandwidth = median_distance(rows)
    direction_key = jax.random.split(jax.random.key(0), 3)[2]

    @jax.jit
    def compared(drawn, rows):
        drawn, rows = Samples(drawn), Samples(rows)
        sliced = sliced_wasserstein(direction_key, drawn, rows, projections=quality.PROJECTIONS)
        return kernels.squared_mmd(kernels.RBF(bandwidth), drawn, rows), energy_distance(drawn, rows), sliced

    squared, energy, sliced = map(float, compared(np.asarray(drawn) - 1000, np.asarray(rows) - 1000))
    expected = {
        "samples": 300, "rows": 200, "acceptance": 0.5, "bandwidth": bandwidth, "mmd": squared**0.5, "energy_distance": energy,
        "sliced_wasserstein": sliced,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("period", [pytest.param(1.0, marks=pytest.mark.heavy), 5.0])
def test_a_torus_has_no_seam(period, monkeypatch):
    """Rows on both sides of 0 are near each other: as far from the same rows, turned by half a period, on both."""
    space = Torus(1, period)
    rows, here = (0.02 * period * np.random.default_rng(seed).normal(size=(500 - 100 * seed, 1)) % period for seed in (0, 1))
    rows, drawn = jnp.asarray(rows, jnp.float32), {"here": here, "away": (here + period / 2) % period}
    found = {}
    for name, x in ((name, jnp.asarray(x, jnp.float32)) for name, x in drawn.items()):
        monkeypatch.setattr(quality, "draw", lambda *arguments, x=x, **options: Drawn(x, None, 1.0))
        found[name] = quality.quality(jax.random.key(0), free(space), rows, 400)
    diameter = period / np.pi
    assert found["here"]["sliced_wasserstein"] < 0.02 * period and found["here"]["energy_distance"] < 0.01 * period
    assert found["away"]["energy_distance"] == pytest.approx(2 * diameter, rel=0.2)
    assert found["away"]["sliced_wasserstein"] == pytest.approx(diameter / np.sqrt(2), rel=0.1)


# -- The command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of N((4, -2), diag(4, 1)), and rows of it and of another."""
    folder = tmp_path_factory.mktemp("quality")
    mean, scale = np.array([4.0, -2.0]), np.array([2.0, 1.0])
    (folder / "fit").mkdir()
    model_files.save(folder / "fit", free(Euclidean(2), mean, scale), {})
    rows = np.asarray(base(Euclidean(2), 300), np.float64) * scale + mean
    np.savetxt(folder / "own.csv", rows, "%.9g", ",")
    np.savetxt(folder / "other.csv", rows + np.array([2.0, 0.0]), "%.9g", ",")
    np.savetxt(folder / "equal.csv", np.ones((4, 2)), "%.9g", ",", header="x,y", comments="")
    return folder


def score(capsys, *arguments):
    """(exit code, standard output, standard error) of dualebm score."""
    capsys.readouterr()
    code = main.main(["score", *(str(a) for a in arguments)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_score_says_how_near_samples_are_in_the_models_own_space(folder, capsys):
    """The shift of one standard deviation in one of two columns: sliced W_2 1 / sqrt(2), sampling aside."""
    told = {}
    for name in ("own", "other"):
        code, out, err = score(capsys, folder / "fit", folder / f"{name}.csv", "--quality", 300, "--out", folder / "scores.csv")
        assert code == 0 and not err
        lines = out.splitlines()
        head = lines.index("300 samples of the model (weighted draws of the base measure) beside 300 rows:")
        assert "mean log density in Lebesgue measure of 300 rows" in lines[head - 2]
        assert [line.split(" = ")[0].split(" (")[0] for line in lines[head + 1 : head + 4]] == [
            "MMD", "energy distance", "sliced Wasserstein distance of order 2"
        ]  # fmt: skip
        assert "(RBF kernel, bandwidth 1." in lines[head + 1]
        told[name] = [float(line.split(" = ")[1]) for line in lines[head + 1 : head + 4]]
    assert all(a < b / 2 for a, b in zip(told["own"], told["other"], strict=True))
    assert told["other"][2] == pytest.approx(1 / np.sqrt(2), abs=0.15) and told["own"][2] < 0.25




def test_moves_that_are_refused_are_spoken_of(folder, capsys, tmp_path):
    (tmp_path / "fit").mkdir()
    doubtful = free(Euclidean(2), step=1e3)  # draws of the base measure do not suffice
    doubtful = doubtful._replace(log_partition=KNOWN._replace(doubt="few draws count"))
    model_files.save(tmp_path / "fit", doubtful, {})
    code, _, err = score(capsys, tmp_path / "fit", folder / "own.csv", "--quality", 20, "--out", tmp_path / "scores.csv")
    assert code == 0 and err.startswith("note: fewer than 30% of the samples' moves were accepted") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["own.csv", "--quality", -1], "quality is -1; it must be an integer of at least 0"),
        (["own.csv", "--quality", 5, "--seed", -1], "seed is -1; it must be an integer from 0 to 4294967295"),
    ],
)
def test_what_is_not_allowed_is_one_line_before_anything_is_read(folder, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(model_files, "read", lambda folder: pytest.fail("read"))
    code, out, err = score(capsys, folder / "fit", folder / flags[0], *flags[1:])
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_equal_rows_are_one_line_and_write_nothing(folder, capsys, tmp_path):
    code, out, err = score(capsys, folder / "fit", folder / "equal.csv", "--quality", 5, "--out", tmp_path / "scores.csv")
    assert (code, out) == (2, "") and "equal.csv has no two different points among 4" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_the_seed_is_of_the_samples_and_the_scores_are_as_without(folder, capsys):
    runs = {
        flags: score(capsys, folder / "fit", folder / "own.csv", *flags)
        for flags in [(), ("--quality", 50), ("--quality", 50, "--seed", 0), ("--quality", 50, "--seed", 1)]
    }
    plain, zero, again, one = runs.values()
    assert plain[1] == zero[1] == one[1] and "samples of the model" not in plain[2]
    assert zero == again and zero[2].startswith(plain[2]) and zero[2] != one[2]
