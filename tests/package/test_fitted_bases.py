"""Fits of base measures: known parameters within their errors, the choice by BIC, and the rows that are refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import fit_mixture, fit_normal
from dualebm.data.spherical_bases import concentration_of, fit_von_mises_fisher, mean_resultant
from dualebm.spaces import Euclidean, Sphere
from tests.cases import heavy

TRUE = MixtureBase((0.3, 0.7), (Normal((100.0, -0.02), ((4.0, 0.018), (0.018, 1e-4))), Normal((120.0, 0.03), ((1.0, 0.0), (0.0, 4e-4)))))
DIRECTIONS = MixtureBase((0.25, 0.75), (VonMisesFisher((0.6, 0.0, 0.8), 200.0), VonMisesFisher((0.0, 1.0, 0.0), 10.0)))


def rows_of(space, count, seed=0):
    with jax.enable_x64(True):
        return np.asarray(space.sample_base(jax.random.key(seed), count, "float64"))


def ordered(mixture):
    """The weights and components of a mixture, the lightest first."""
    pairs = sorted(zip(mixture.weights, mixture.components, strict=True), key=lambda pair: pair[0])
    return [weight for weight, _ in pairs], [component for _, component in pairs]


def test_a_normal_distribution_has_the_moments_of_the_rows():
    rows = rows_of(Euclidean(2, TRUE), 500)
    fitted = fit_normal(rows)
    np.testing.assert_allclose(fitted.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(rows.T, bias=True), rtol=1e-9)
    assert fit_normal(rows.astype("float32")).fits(Euclidean(2))


def test_a_mixture_recovers_its_parameters_in_any_units():
    count = 2000
    fitted = fit_mixture(rows_of(Euclidean(2, TRUE), count), 3)
    weights, components = ordered(fitted)
    assert len(weights) == 2 and abs(weights[0] - 0.3) < 5 * math.sqrt(0.21 / count)
    for weight, component, true in zip((0.3, 0.7), components, TRUE.components, strict=True):
        covariance = np.asarray(true.covariance)
        scale = np.sqrt(np.diag(covariance))
        assert (np.abs(np.subtract(component.mean, true.mean)) < 5 * scale / math.sqrt(weight * count)).all()
        error = np.abs(np.asarray(component.covariance) - covariance) / scale / scale[:, None]
        assert (error < 5 * math.sqrt(2 / (weight * count))).all()


def test_bic_takes_one_component_and_a_diagonal_where_these_suffice():
    rng = np.random.default_rng(1)
    fitted = fit_mixture(rng.normal(size=(400, 3)) * [1, 50, 1e-3] + 7, 2)
    (component,) = fitted.components
    covariance = np.asarray(component.covariance)
    assert (covariance == np.diag(np.diag(covariance))).all()
    correlated = rng.normal(size=(800, 2)) @ np.array([[1.0, 0.9999], [0.0, 0.001]])
    (component,) = fit_mixture(correlated, 2).components
    np.testing.assert_allclose(component.covariance, np.cov(correlated.T, bias=True), rtol=1e-4)


def test_the_fit_has_the_density_of_its_rows_and_repeats():
    rows = rows_of(Euclidean(2, TRUE), 400)
    first, second = fit_mixture(rows, 2, seed=4), fit_mixture(rows, 2, seed=4)
    assert first == second
    with jax.enable_x64(True):
        gain = [float(jnp.mean(Euclidean(2, base).log_base(jnp.asarray(rows)))) for base in (first, TRUE, fit_normal(rows))]
    assert gain[0] > gain[1] > gain[2]


def test_no_component_sits_on_repeated_rows():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(300, 2)), np.tile([[1.0, 1.0]], (60, 1))])
    assert min(np.linalg.eigvalsh(np.asarray(component.covariance))[0] for component in fit_mixture(rows, 2).components) > 1e-5
    directions = rows_of(Sphere(3), 300)
    repeated = np.concatenate([directions, np.tile(directions[:1], (60, 1))])
    assert max(component.concentration for component in fit_von_mises_fisher(repeated, 2).components) < 1e6


def test_directions_recover_their_parameters():
    count = 2000
    fitted = fit_von_mises_fisher(rows_of(Sphere(3, DIRECTIONS), count), 3)
    weights, components = ordered(fitted)
    assert len(weights) == 2 and abs(weights[0] - 0.25) < 5 * math.sqrt(0.1875 / count)
    for weight, component, true in zip((0.25, 0.75), components, DIRECTIONS.components, strict=True):
        k = true.concentration
        assert abs(component.concentration - k) < 5 * 1.2 * k / math.sqrt(weight * count)
        assert np.linalg.norm(np.subtract(component.mean, true.mean)) < 5 * 1.5 / math.sqrt(k * weight * count)


@pytest.mark.parametrize(("dimension", "concentration"), [heavy(2, 2.0), (3, 1e4), (15, 30.0)])
def test_one_direction_has_the_resultant_of_the_rows(dimension, concentration):
    rows = rows_of(Sphere(dimension, VonMisesFisher(np.ones(dimension), concentration)), 2000)
    (component,) = fit_von_mises_fisher(rows, 1).components
    mean = rows.mean(axis=0)
    np.testing.assert_allclose(component.mean, mean / np.linalg.norm(mean), atol=1e-8)
    assert mean_resultant(dimension, component.concentration) == pytest.approx(np.linalg.norm(mean), rel=1e-10)


@pytest.mark.parametrize("dimension", [2, 3, 15, 784])
def test_the_concentration_inverts_the_mean_resultant(dimension):
    for concentration in (1e-3, 1.0, 50.0, 1e4):
        assert concentration_of(dimension, mean_resultant(dimension, concentration)) == pytest.approx(concentration, rel=1e-6)
    assert mean_resultant(dimension, 1e-6) == pytest.approx(1e-6 / dimension, rel=1e-9)
    assert concentration_of(dimension, 0.0) == 0 and concentration_of(dimension, 1.0) == 1e7


NORMALS = np.random.default_rng(3).normal(size=(40, 3))


@pytest.mark.parametrize("fit", [fit_normal, fit_mixture])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (NORMALS[:1], "points has 1 rows; a fit needs at least 2"),
        (NORMALS[:3], "points has 3 rows of 3 columns; a covariance matrix needs at least 4 rows"),
        (NORMALS[0], r"points has shape \(3,\)"),
        (np.where(np.arange(40)[:, None] == 7, np.nan, NORMALS), "not finite in row 7"),
        (np.tile(NORMALS[:1], (9, 1)), "points has equal rows"),
        (NORMALS * [1, 0, 1] + 1e6, r"points has the constant columns \[1\]"),
        (np.full((40, 3), 0.1) + NORMALS * [1, 0, 1], r"points has the constant columns \[1\]"),
        (NORMALS[:, [0, 1, 0]], r"points has columns \[0, 2\] of which one is a linear function of the others, or equals another"),
        (NORMALS @ np.array([[1, 0, 1], [0, 1, 2], [0, 0, 0]]) * [1, 1e6, 1], r"points has columns \[0, 1, 2\] of which one is a linear"),
    ],
)
def test_rows_without_a_covariance_are_refused(fit, rows, message):
    with pytest.raises(ValueError, match=message):
        fit(rows, 1) if fit is fit_mixture else fit(rows)


DIRECTED = NORMALS / np.linalg.norm(NORMALS, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_mixture(NORMALS, 41), "max_components is 41; points has 40 rows, and each component needs one"),
        (lambda: fit_von_mises_fisher(DIRECTED, 41), "max_components is 41; points has 40 rows"),
        (lambda: fit_mixture(NORMALS, 0), "max_components is 0; it must be an integer of at least 1"),
        (lambda: fit_mixture(NORMALS, 2, -1), "seed is -1"),
        (lambda: fit_von_mises_fisher(DIRECTED[:1], 1), "points has 1 rows; a fit needs at least 2"),
        (lambda: fit_von_mises_fisher(DIRECTED[[0, 0, 0]], 1), "points has equal rows"),
        (lambda: fit_von_mises_fisher(NORMALS, 1), r"rows off the unit sphere \(row \d+ has norm"),
        (lambda: fit_von_mises_fisher(np.ones((5, 1)), 1), r"points has shape \(5, 1\)"),
        (lambda: fit_von_mises_fisher(np.array([[1.0, 0.0], [-1.0, 0.0]]), 1), "no component has a direction and a spread"),
    ],
)
def test_counts_and_rows_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
