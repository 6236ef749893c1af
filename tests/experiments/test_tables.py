"""The twelve tables: splits, rivals beside independent ones, files that a second call reads, and a small run from end to end."""

import json

import jax
import numpy as np
import pytest

from experiments import densities
from experiments.densities import best_rival, difference, stored
from experiments.tables import __main__ as tables
from experiments.tables import reading, rivals, sets
from experiments.tables.__main__ import Settings, checked, main


@pytest.mark.parametrize("name", sets.NAMES)
def test_a_split_uses_each_row_once_and_is_standardised_by_the_rows_of_the_fit(name):
    train, held, indices = sets.split(name, 1)
    rows = sets.rows_of(name, 1)
    assert sorted(indices) == list(range(len(rows))) and len(train) == int(0.75 * len(rows)) and len(train) + len(held) == len(rows)
    np.testing.assert_allclose([train.mean(axis=0), train.std(axis=0)], [[0] * train.shape[1], [1] * train.shape[1]], atol=1e-9)
    scale, at = rows[indices[: len(train)]].std(axis=0), indices[len(train)]
    np.testing.assert_allclose((held[0] - held[1]) * scale, rows[at] - rows[indices[len(train) + 1]], atol=1e-9)
    again = sets.rows_of(name, 2)
    assert np.array_equal(rows, again) == (name in sets.REAL)
    assert np.array_equal(sets.split(name, 1).train, train) and not np.array_equal(sets.split(name, 2).indices, indices)


# -- Rivals ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def correlated():
    rows = np.random.default_rng(0).normal(size=(130, 2)) @ np.array([[1.0, 0.95], [0.0, 0.3]])
    return rows[:100], rows[100:]


@pytest.mark.parametrize("covariance", [True, False])
def test_kernels_are_the_loop_over_rows(correlated, covariance):
    train, held = correlated if covariance else (np.sign(rows) + 0.1 * rows[:, ::-1] for rows in correlated)
    values, kept = rivals.kernel(train, held)
    assert kept["shape"] == ("covariance" if covariance else "round")
    shape = np.cov(train.T) if covariance else np.eye(2)
    matrix = shape * kept["bandwidth"] ** 2
    expected = []
    for x in held:
        terms = [np.exp(-0.5 * (x - y) @ np.linalg.inv(matrix) @ (x - y)) for y in train]
        expected.append(np.log(np.mean(terms) / (2 * np.pi * np.sqrt(np.linalg.det(matrix)))))
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_the_normal_distribution_is_that_of_scipy(correlated):
    from scipy.stats import multivariate_normal

    train, held = correlated
    expected = multivariate_normal(train.mean(axis=0), np.cov(train.T)).logpdf(held)
    np.testing.assert_allclose(rivals.gaussian(train, held)[0], expected, rtol=1e-9)


def test_a_mixture_has_the_clusters_and_few_enough_components(correlated):
    rows = np.concatenate([correlated[0] + shift for shift in ([0.0, 0.0], [20.0, 0.0], [0.0, 20.0])])
    assert rivals.mixture(rows, rows)[1] == dict(components=3, shape="full")
    assert rivals.mixture(rows[:19], rows)[1]["components"] == 1


def test_a_flow_is_a_density_and_moves_towards_the_rows(correlated, monkeypatch):
    monkeypatch.setattr(rivals, "FLOWS", (rivals.Flow("autoregressive", 0, 1, 4, 5e-2),))
    train, held = correlated
    grid = np.stack(np.meshgrid(*[np.linspace(-6, 6, 121)] * 2), -1).reshape(-1, 2)
    with jax.numpy_rank_promotion("allow"):  # flowjax relies on it
        values, kept = rivals.flow(train, np.concatenate([held, grid]), seed=0, epochs=8)
    assert np.exp(values[len(held) :]).sum() * 0.1**2 == pytest.approx(1, abs=0.01)
    assert 1 <= kept["epochs"] <= 8 and kept["validated"][0] > -3
    assert abs(values[: len(held)].mean() - rivals.gaussian(train, held)[0].mean()) < 0.4


# -- Cases and their reading -------------------------------------------------------------------------


def test_a_case_is_read_again_unless_a_setting_has_changed_or_the_file_is_cut(tmp_path):
    path, calls = tmp_path / "cases/moons-0-flow.json", []

    def score():
        calls.append(1)
        return np.array([float(len(calls))]), dict(epochs=3)

    first = stored(path, dict(rate=(0.1,)), score)
    assert stored(path, dict(rate=(0.1,)), score) == first and len(calls) == 1 and first["epochs"] == 3
    assert stored(path, dict(rate=(0.2,)), score)["log_densities"] == [2.0]
    path.write_text(path.read_text()[:-5])
    assert stored(path, dict(rate=(0.2,)), score)["log_densities"] == [3.0] and list(path.parent.iterdir()) == [path]


def case(*values, **kept):
    return dict(log_densities=values, seconds=1.0, rows=8, columns=2, chosen="stacked scaled_bump", radius=2.0, base_measure=-1.5) | kept


def test_differences_are_paired_by_rows_and_splits():
    lag = difference([case(1.0, 5.0), case(2.0, 2.0)], [case(0.0, 3.0), case(0.0, 0.0)])
    assert lag.mean == pytest.approx(1.75) and (lag.least, lag.largest) == (1.5, 2.0)
    assert lag.error == pytest.approx(np.std([1.5, 2.0], ddof=1) / np.sqrt(2))
    wide = difference([case(1.0, 9.0), case(2.0, 8.0)], [case(0.0, 0.0), case(0.0, 0.0)])
    assert wide.error == pytest.approx(np.sqrt(np.var([1.0, 9.0], ddof=1) / 2 + np.var([2.0, 8.0], ddof=1) / 2) / 2)


def test_the_outcome_counts_what_is_above_and_below():
    splits = lambda *means: [case(mean - 0.01, mean + 0.01) for mean in means]  # noqa: E731
    cases = {
        "moons": {densities.OURS: splits(1.0, 1.1), "kernel": splits(0.5, 0.6), "flow": splits(0.2, 0.9)},
        "rings": {densities.OURS: splits(1.0, 1.1), "kernel": splits(1.5, 1.61), "flow": splits(0.2, 0.9)},
        "eight": {densities.OURS: splits(1.0, 1.2), "kernel": splits(1.1, 1.0), "flow": splits(0.2, 0.9)},
    }
    assert best_rival(cases["moons"]) == "kernel"
    rows = reading.rows_of(cases)
    assert [row["difference"] for row in rows] == pytest.approx([0.5, -0.505, 0.05]) and rows[0]["kernel"] == "0.550 +- 0.050"
    told = reading.outcome(cases)
    assert "on 1 of 3 tables (moons), and below it on 1 (rings)" in told and "kernel on 2, flow on 3" in told
    panel = reading.figure_of(cases).axes[0]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["moons (kernel)", "rings (kernel)", "eight (kernel)"]


def test_a_second_call_computes_nothing(tmp_path, monkeypatch, capsys):
    settings = Settings(
        tables=("iris",), methods=("automatic", "gaussian", "kernel"), stages=1, iterations=2, draws=64, neurons=4, out=tmp_path,
    )  # fmt: skip
    rows = main(settings)
    assert rows[0]["table"] == "iris" and rows[0]["rows"] == 150 and rows[0]["splits"] == 1
    assert sorted(path.name for path in (tmp_path / "quick/cases").iterdir()) == [f"iris-0-{name}.json" for name in settings.methods]
    held = sets.split("iris", 0).held
    kept = json.loads((tmp_path / "quick/cases/iris-0-automatic.json").read_text())
    assert len(kept["log_densities"]) == len(held) and np.isfinite(kept["log_densities"]).all()
    assert {"tables.png", "tables.pdf", "report.json"} <= {path.name for path in (tmp_path / "quick").iterdir()}
    for module, name in ((tables, "fitted"), (rivals, "gaussian"), (rivals, "kernel")):
        monkeypatch.setattr(module, name, None)
    assert main(settings) == rows
    with pytest.raises(TypeError):
        main(Settings(**(vars(settings) | dict(neurons=5))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(tables=("irs",)), "tables is 'irs'; did you mean 'iris'"),
        (dict(tables=("iris", "iris")), r"tables is \('iris', 'iris'\); it must have at least one value, each once"),
        (dict(methods=("automatic",)), r"methods is \('automatic',\); it must begin with 'automatic' and name at least one rival"),
        (dict(methods=("kernel", "flow")), "it must begin with 'automatic'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(epochs=0), "epochs is 0"),
        (dict(stages=0), "stages is 0"),
        (dict(first_seed=-1), "first_seed is -1"),
    ],
)
def test_bad_settings(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes, out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_paper_preset_leaves_the_automatic_fit_as_it_is():
    settings = checked(Settings(preset="paper"))
    assert settings.tables == sets.NAMES and settings.seeds == 5 and len(sets.NAMES) == 12
    assert densities.automatic(settings) == densities.auto.Auto()
