"""The estimator: all checks of scikit-learn, its tools, the command, other spaces, and NUTS of blackjax and NumPyro on its density."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dualebm import EnergyModel
from dualebm.cli import main
from tests.package.test_cli import fewer_draws  # noqa: F401, which holds for every test here

pytestmark = pytest.mark.heavy

TINY = dict(base="normal", neurons=2, stages=1, iterations=2, draws=64, paths=1)
RNG = np.random.default_rng(0)
ROWS = RNG.normal([500.0, 0.0], [20.0, 0.5], (200, 2)) + RNG.choice([-30.0, 30.0], (200, 1)) * [1.0, 0.01]

FAILED_CHECKS = {
    "check_sample_weights_not_overwritten": "its 16 rows have weights of Kish's effective number 5, and a fit needs 10",
    "check_sample_weight_equivalence_on_dense_data": "it fits a density of 30 columns to 27 rows, and validation deals rows to folds",
}


@parametrize_with_checks([EnergyModel(**TINY)], expected_failed_checks=lambda estimator: FAILED_CHECKS)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


# -- The tools of scikit-learn -----------------------------------------------------------------------


def test_pipelines_cross_validation_and_grids():
    small = EnergyModel(**{**TINY, "neurons": 8, "draws": 512, "iterations": 20})
    piped = make_pipeline(StandardScaler(), clone(small)).fit(ROWS)
    alone = small.fit(ROWS)
    np.testing.assert_allclose(piped.score(ROWS) - np.log(ROWS.std(axis=0)).sum(), alone.score(ROWS), atol=1e-3)
    scores = cross_val_score(small, pd.DataFrame(ROWS, columns=["a", "b"]), cv=3)
    assert scores.shape == (3,) and np.abs(scores - alone.score(ROWS)).max() < 0.5
    grid = GridSearchCV(small, {"stages": [1, 8], "neurons": [8]}, cv=2).fit(ROWS)
    assert grid.best_params_["stages"] == 8  # the rows have two modes, and a radius near 0 is a normal distribution


def test_integers_and_weights():
    whole = ROWS.round().astype(int)
    assert EnergyModel(**TINY).fit(whole.tolist()).score(whole) == EnergyModel(**TINY).fit(whole.astype(float)).score(whole)
    right = (ROWS[:, 0] > 500).astype(float)
    fitted = EnergyModel(**TINY).fit(ROWS, sample_weight=0.2 + right)
    assert abs(fitted.sample(4000)[:, 0].mean() - np.average(ROWS[:, 0], weights=0.2 + right)) < 3
    only = EnergyModel(**TINY).fit(ROWS[right > 0])
    np.testing.assert_allclose(EnergyModel(**TINY).fit(ROWS, sample_weight=right).score_samples(ROWS), only.score_samples(ROWS), rtol=1e-6)


def test_the_numbers_are_those_of_the_command(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    flags = [word for name, value in {**TINY, "paths": 5}.items() for word in (f"--{name}", str(value))]
    arguments = ["fit", tmp_path / "rows.csv", "--space", "euclidean", "--holdout", 0, "--seed", 4, "--out", tmp_path / "fit", *flags]
    assert main.main([str(word) for word in arguments]) == 0
    fitted, loaded = EnergyModel(**{**TINY, "paths": 5}, random_state=4).fit(frame), EnergyModel.load(tmp_path / "fit")
    np.testing.assert_array_equal(fitted.score_samples(frame), loaded.score_samples(frame))
    assert loaded.path_ == fitted.path_ and loaded.feature_names_in_.tolist() == ["a", "b"]


@pytest.mark.parametrize("precision", [32, 64])
@pytest.mark.parametrize("space", ["latlon", "sphere", "torus"])
def test_other_spaces(space, precision):
    latitude, longitude = RNG.normal(20, 15, 60), RNG.normal(100, 20, 60)
    rows = {"latlon": np.stack([latitude, longitude], axis=1), "sphere": RNG.normal([2.0, 0.0, 0.0], 1.0, (60, 3))}
    options = {"latlon": dict(space="sphere", latlon=True), "sphere": dict(space="sphere", normalise=True)}
    x = rows.get(space, ROWS[:60] % 7.0)
    small = dict(base="uniform", feature="scaled_bump", neurons=8, stages=2, iterations=10, draws=512, paths=1, precision=precision)
    fitted = EnergyModel(**options.get(space, dict(space="torus", period=7.0)), **small).fit(x)
    values, samples = fitted.score_samples(x), fitted.sample(50)
    assert np.isfinite(fitted.score_samples(samples)).all() and samples.shape == (50, x.shape[1])
    with jax.enable_x64(precision == 64):
        rows = jnp.asarray(x, f"float{precision}")
        log_densities, gradients = jax.jit(jax.vmap(jax.value_and_grad(fitted.log_density)))(rows)
    np.testing.assert_allclose(log_densities, values, rtol=1e-4 if precision == 32 else 1e-10)
    assert gradients.shape == x.shape and np.isfinite(gradients).all() and fitted.gap_.nats is not None
    if precision == 64:
        with pytest.raises(ValueError, match="dtype is float64 and JAX would round it"):
            fitted.log_density  # noqa: B018


# -- Samplers of other packages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return EnergyModel(base="normal", neurons=32, stages=6, iterations=60, draws=4096).fit(ROWS)


def blackjax_samples(log_density, start):
    import blackjax

    warm_key, key = jax.random.split(jax.random.key(1))
    warmup = blackjax.window_adaptation(blackjax.nuts, log_density)
    (state, parameters), _ = warmup.run(warm_key, start, num_steps=1000)
    kernel = blackjax.nuts(log_density, **parameters)
    _, states = jax.lax.scan(lambda state, key: (lambda s: (s, s.position))(kernel.step(key, state)[0]), state, jax.random.split(key, 8000))
    return states


def numpyro_samples(log_density, start):
    from numpyro.infer import MCMC, NUTS

    chain = MCMC(NUTS(potential_fn=lambda x: -log_density(x)), num_warmup=1000, num_samples=8000, progress_bar=False)
    chain.run(jax.random.key(2), init_params=start)
    return chain.get_samples()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", [blackjax_samples, numpyro_samples])
def test_samplers_of_other_packages_agree_with_sample(fitted, sampler):
    """Means, and the means of the products of deviations, within 5 standard errors, with the effective sample size of the chain."""
    import arviz

    assert fitted.radius_ > 1
    chain = np.asarray(sampler(fitted.log_density, jnp.asarray(ROWS.mean(axis=0), jnp.float32)), np.float64)
    drawn = fitted.sample(100_000)
    centre = drawn.mean(axis=0)
    for moment in (lambda x: x, lambda x: (x - centre) ** 2, lambda x: np.prod(x - centre, axis=1, keepdims=True)):
        ours, theirs = moment(drawn), moment(chain)
        size = np.array([float(arviz.ess(column[None], method="mean")) for column in theirs.T])
        error = np.sqrt(theirs.var(axis=0) / size + ours.var(axis=0) / (len(ours) / 16))
        assert (size > 200).all()
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()
