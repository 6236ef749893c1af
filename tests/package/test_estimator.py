"""The estimator in scikit-learn's form: one small fit, its density, samples and files; arguments that are refused; quick checks."""

import pickle
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from dualebm import EnergyModel
from dualebm.cli import main, output
from dualebm.estimator import seed_of
from tests.package.test_cli import fewer_draws  # noqa: F401, which holds for every test here

TINY = dict(base="normal", neurons=4, stages=1, iterations=4, draws=256, paths=1, replicates=3)
RNG = np.random.default_rng(0)
ROWS = RNG.normal([500.0, 0.0], [20.0, 0.5], (40, 2)) + RNG.choice([-30.0, 30.0], (40, 1)) * [1.0, 0.0]
FRAME = pd.DataFrame(ROWS, columns=["east", "north"])


@pytest.fixture(scope="module")
def records():
    return []


@pytest.fixture(scope="module")
def fitted(records):
    return EnergyModel(**TINY, callback=records.append, random_state=3).fit(FRAME)


# -- The density -------------------------------------------------------------------------------------


def test_the_density_is_normalised_in_the_units_of_the_data(fitted):
    axes = np.linspace(300, 700, 201), np.linspace(-5, 5, 201)
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    values = fitted.score_samples(pd.DataFrame(grid, columns=FRAME.columns))
    assert np.exp(values).sum() * cell == pytest.approx(1, abs=0.01)
    means = np.exp(values) @ grid * cell
    assert (np.abs(fitted.sample(20_000).mean() - means) < 0.05 * ROWS.std(axis=0)).all()
    assert fitted.score(FRAME) == pytest.approx(fitted.score_samples(FRAME).mean())


def test_the_log_density_is_a_function_of_jax(fitted):
    values, rows = fitted.score_samples(FRAME), jnp.asarray(ROWS, jnp.float32)
    for function in (fitted.log_density, jax.jit(fitted.log_density), jax.vmap(fitted.log_density)):
        np.testing.assert_allclose(function(rows), values, atol=2e-5)
    assert fitted.log_density(rows[0]).shape == ()
    gradient = jax.jit(jax.grad(fitted.log_density))(rows[0])
    ahead = FRAME.iloc[[0] * 4].to_numpy() + np.array([[0.5, 0], [-0.5, 0], [0, 0.02], [0, -0.02]])
    around = fitted.score_samples(pd.DataFrame(ahead, columns=FRAME.columns))
    np.testing.assert_allclose(gradient, [around[0] - around[1], (around[2] - around[3]) / 0.04], rtol=2e-2, atol=1e-4)


def test_columns_are_matched_by_name_and_samples_have_them(fitted):
    assert fitted.n_features_in_ == 2 and fitted.feature_names_in_.tolist() == ["east", "north"]
    assert fitted.sample(3).columns.tolist() == ["east", "north"]
    pd.testing.assert_frame_equal(fitted.sample(3), fitted.sample(3, random_state=0))
    assert not fitted.sample(3, random_state=1).equals(fitted.sample(3))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.score_samples(FRAME[["north", "east"]])
    with pytest.raises(ValueError, match="unseen at fit time"):
        fitted.score_samples(pd.DataFrame(np.ones((2, 3)), columns=["east", "north", "up"]))


def test_latitudes_may_come_second(monkeypatch):
    """The samples of a fit with the columns lon and lat have these columns in this order."""
    from dualebm import auto
    from dualebm.energies.shallow import Shallow
    from dualebm.features import ReLU
    from dualebm.spaces import Sphere
    from tests.package.test_optimality import STAGE, TRUSTED

    fit = auto.Fit(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Sphere(3), TRUSTED, 0.0, STAGE, 1, (0.0, 0.0), (STAGE,), ())
    monkeypatch.setattr(auto, "fit", lambda key, points, space, settings, **options: fit)
    rows = pd.DataFrame({"lon": np.linspace(100.0, 170.0, 12), "lat": np.linspace(-20.0, 40.0, 12) ** 2 / 60})
    result = EnergyModel("sphere", latlon=True).fit(rows)
    samples = result.sample(500)
    assert samples.columns.tolist() == ["lon", "lat"] and samples.lat.abs().max() <= 90 < samples.lon.abs().max()
    area = -np.log(4 * np.pi)
    np.testing.assert_allclose(result.score_samples(samples), area, rtol=1e-5)
    np.testing.assert_allclose(result.log_density(jnp.array([10.0, 170.0])), area, rtol=1e-5)
    assert result.path_[0].log_density == pytest.approx(STAGE.log_density + area)


# -- What is known of the fit ------------------------------------------------------------------------


def test_the_path_and_the_records_of_the_callback_are_in_the_units_of_the_data(fitted, records):
    stages = fitted.to_pandas()
    assert stages.columns.tolist()[:4] == ["candidate", "stage", "radius", "log_density"] and len(stages) == 2
    (validated,) = [record for record in records if record["fold"] == 0]
    assert validated["candidate"] == stages.candidate[1] and validated["log_density"] == pytest.approx(stages.log_density[1])
    assert fitted.history_.log_density.sel(candidate="normal scaled_bump").values.tolist() == stages.log_density.tolist()
    assert abs(stages.log_density[1] - fitted.score(FRAME)) < 0.5  # of a fifth of the rows
    assert fitted.radius_ > 0 and fitted.log_partition_.trusted and any("largest of the path" in note for note in fitted.notes_)


@pytest.mark.filterwarnings("ignore:\\nArviZ:FutureWarning")
def test_samples_go_to_arviz(fitted):
    data = fitted.to_arviz(40)
    assert dict(data.posterior.sizes) == dict(chain=4, draw=10) and set(data.posterior) == {"east", "north"}
    samples = pd.DataFrame({name: data.posterior[name].values.ravel() for name in ("east", "north")})
    pd.testing.assert_frame_equal(samples, fitted.sample(40))
    np.testing.assert_array_equal(data.sample_stats.lp.values.ravel(), fitted.score_samples(samples))
    with pytest.raises(ValueError, match="n_samples is 41; it must be a multiple of 4"):
        fitted.to_arviz(41)


# -- The same fit again ------------------------------------------------------------------------------


def test_lists_and_equal_weights_make_the_same_fit(fitted):
    for rows, weights in ((ROWS.tolist(), None), (ROWS, [2.0] * 40)):
        estimator = EnergyModel(**TINY, random_state=3).fit(rows, sample_weight=weights)
        assert estimator.score(ROWS) == fitted.score(FRAME) and not hasattr(estimator, "feature_names_in_")
    assert isinstance(estimator.sample(2), np.ndarray)


def test_copies_pickles_and_files(fitted, tmp_path, capsys):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "model_")
    stripped = pickle.loads(pickle.dumps(clone(fitted).set_params(callback=None).fit(FRAME)))
    assert stripped.score(FRAME) == fitted.score(FRAME)
    fitted.save(tmp_path / "model")
    loaded = EnergyModel.load(tmp_path / "model")
    assert loaded.get_params() == {**fitted.get_params(), "callback": None}
    np.testing.assert_array_equal(loaded.score_samples(FRAME), fitted.score_samples(FRAME))
    assert loaded.path_ == fitted.path_ and loaded.notes_ == fitted.notes_ and loaded.radius_ == pytest.approx(fitted.radius_)
    pd.testing.assert_frame_equal(loaded.sample(5), fitted.sample(5))
    assert "not stored" in loaded.gap_.summary()
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    main.main(["score", str(tmp_path / "model"), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "scores.csv")])
    np.testing.assert_allclose(pd.read_csv(tmp_path / "scores.csv").log_density_lebesgue, fitted.score_samples(FRAME), rtol=1e-12)


def test_errors_come_from_replicates_that_are_stored(fitted, tmp_path):
    values, errors = fitted.score_samples(FRAME, return_std=True)
    np.testing.assert_array_equal(values, fitted.score_samples(FRAME))
    assert errors.shape == (40,) and (errors > 0).all() and np.median(errors) < 1
    fitted.save(tmp_path / "model")
    loaded = EnergyModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(FRAME, return_std=True)[1], errors)
    (tmp_path / "model" / "replicates.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"replicates\.npz"):
        EnergyModel.load(tmp_path / "model")
    loaded.model_ = loaded.model_._replace(replicates=None)
    with pytest.raises(ValueError, match="return_std is True, and the folder of this model holds no replicates"):
        loaded.score_samples(FRAME, return_std=True)


def test_the_command_writes_the_same_samples_block_by_block(fitted, tmp_path, capsys, monkeypatch):
    fitted.save(tmp_path / "model")
    samples = fitted.sample(9000).to_numpy()  # of three blocks
    for out in (tmp_path / "a.npy", tmp_path / "a.csv"):
        assert main.main(["sample", str(tmp_path / "model"), "--count", "9000", "--out", str(out)]) == 0
        np.testing.assert_array_equal(np.load(out) if out.suffix == ".npy" else pd.read_csv(out), samples)
    monkeypatch.setattr("dualebm.cli.sample.draw_blocks", None)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    capsys.readouterr()
    assert main.main(["sample", str(tmp_path / "model"), "--count", "1000000", "--out", str(tmp_path / "b.npy")]) == 2
    error = capsys.readouterr().err
    assert re.search(r"count is 1000000, and .*b.npy would take about 0.016 GB of the 0.001 GB .* at most about 62500\n$", error), error
    assert not (tmp_path / "b.npy").exists()


# -- Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(space="plane"), "space is 'plane'"),
        (dict(latlon=1.5), "latlon is 1.5"),
        (dict(precision=16), "precision is 16"),
        (dict(period=-1.0), "period is -1.0"),
        (dict(period=2.0), "period is 2.0 and space is 'euclidean'"),
        (dict(stages=0), "stages is 0"),
        (dict(replicates=1), "replicates is 1"),
        (dict(base="flat"), "base is 'flat'"),
        (dict(callback="log"), "callback is 'log'; it must be a function or None"),
        (dict(random_state=-1), "random_state is -1"),
        (dict(random_state=np.random.default_rng(0)), r"random_state is Generator\(.*; it must be None, an integer or .*RandomState"),
    ],
)
def test_parameters_are_refused_in_fit_before_anything_is_compiled(settings, message, monkeypatch):
    estimator = EnergyModel(**settings)
    monkeypatch.setattr("dualebm.auto.fit", None)
    with pytest.raises(ValueError, match=message):
        estimator.fit(ROWS)


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        (ROWS[:9], None, r"9 sample\(s\) .* while a minimum of 10 is required"),
        (ROWS, np.ones(39), r"sample_weight has shape \(39,\).*each of 40 rows"),
        (ROWS, np.r_[-1.0, np.ones(39)], "sample_weight has -1 at row 1; weights must be finite and not negative"),
        (ROWS, np.r_[np.ones(9), np.zeros(31)], "has 9 rows; .* at least 10"),
        (np.c_[ROWS, np.ones(40)], None, "the one value 1"),
    ],
)
def test_rows_and_weights_that_are_refused(rows, weights, message):
    with pytest.raises(ValueError, match=message):
        EnergyModel().fit(rows, sample_weight=weights)


def test_a_model_that_is_not_trusted_is_warned_of(monkeypatch):
    from dualebm import auto

    real = auto.fit
    doubtful = lambda *a, **k: (fit := real(*a, **k))._replace(log_partition=fit.log_partition._replace(doubt="too few"))  # noqa: E731
    monkeypatch.setattr(auto, "fit", doubtful)
    with pytest.warns(UserWarning, match="NOT TO BE TRUSTED: too few"):
        EnergyModel(**TINY).fit(ROWS)


def test_seeds():
    state = np.random.RandomState(5)
    drawn = np.random.RandomState(5).randint(2**31 - 1, size=2).tolist()
    assert [seed_of(state), seed_of(state)] == drawn and seed_of(np.int64(4)) == 4


def test_an_estimator_that_is_not_fitted_says_so(tmp_path):
    estimator = EnergyModel()
    calls = [
        lambda: estimator.score_samples(ROWS), lambda: estimator.score(ROWS), lambda: estimator.log_density, lambda: estimator.sample(),
        lambda: estimator.gap_, lambda: estimator.history_, estimator.to_pandas, estimator.to_arviz, lambda: estimator.save(tmp_path / "a"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable", "check_estimator_repr", "check_no_attributes_set_in_init", "check_estimators_unfitted",
        "check_do_not_raise_errors_in_init_or_set_params", "check_complex_data", "check_estimators_empty_data_messages",
        "check_parameters_default_constructible", "check_fit2d_1sample", "check_fit1d", "check_get_params_invariance", "check_set_params",
        "check_estimator_sparse_array", "check_all_zero_sample_weights_error",
    ],
)  # fmt: skip
def test_checks_of_scikit_learn_that_fit_nothing(name):
    """The others are in tests/heavy/test_estimator.py."""
    getattr(estimator_checks, name)("EnergyModel", EnergyModel(**TINY))
