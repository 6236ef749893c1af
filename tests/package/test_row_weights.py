"""Weighted rows: whole weights against repeated rows, closed forms and loops in NumPy, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dualebm import row_weights
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import Uniform
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import fit_mixture, fit_normal, improve_mixture
from dualebm.data.kernel_bases import deal, fit_kernel, fit_neighbours
from dualebm.data.refitting import refit
from dualebm.data.spherical_bases import fit_von_mises_fisher, improve_directions
from dualebm.data.stacking import stack, stacking_weights
from dualebm.energies.files import build, spell
from dualebm.measures import Samples
from dualebm.methods.penalised import PenalisedLikelihood
from dualebm.spaces import Euclidean, Sphere, Torus

RNG = np.random.default_rng(0)
ROWS = np.concatenate([RNG.normal(size=(25, 2)), 0.3 * RNG.normal(size=(15, 2)) + [4.0, 1.0]])
DIRECTED = ROWS - [2.0, 0.5]
DIRECTED = DIRECTED / np.linalg.norm(DIRECTED, axis=1, keepdims=True)
COUNTS = RNG.integers(1, 5, 40)
REPEATED = np.repeat(np.arange(40), COUNTS)
DRAWS = RNG.exponential(size=40)


def close(first, second, tolerance=1e-6):
    """Compare the numbers of two base measures."""
    assert type(first) is type(second)
    if isinstance(first, MixtureBase):
        np.testing.assert_allclose(first.weights, second.weights, rtol=tolerance)
        for pair in zip(first.components, second.components, strict=True):
            close(*pair, tolerance)
    elif isinstance(first, Normal):
        np.testing.assert_allclose(first.mean, second.mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(first.covariance, second.covariance, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_allclose(first.mean, second.mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(first.concentration, second.concentration, rtol=tolerance)


# -- Shares ----------------------------------------------------------------------------------------


def test_shares_are_relative_and_equal_ones_are_none():
    shares = row_weights.shares_of("weights", COUNTS, 40)
    np.testing.assert_allclose(shares, COUNTS / COUNTS.sum(), rtol=1e-15)
    np.testing.assert_array_equal(row_weights.shares_of("weights", shares, 40), shares)
    np.testing.assert_allclose(row_weights.shares_of("weights", COUNTS * 4e307, 40), shares, rtol=1e-14)
    assert row_weights.shares_of("weights", np.full(40, 0.1), 40) is None and row_weights.subset(shares, COUNTS == 2) is None


def test_means_errors_and_numbers_of_rows():
    values, shares = RNG.normal(size=40), COUNTS / COUNTS.sum()
    assert row_weights.mean(values, shares) == pytest.approx(np.mean(values[REPEATED]), rel=1e-12)
    assert row_weights.effective_count(40, shares) == pytest.approx(COUNTS.sum() ** 2 / (COUNTS**2).sum())
    equal = np.full(40, 1 / 40)
    assert row_weights.standard_error(values, equal) == pytest.approx(row_weights.standard_error(values, None), rel=1e-12)
    assert row_weights.standard_error(values, None) == np.std(values, ddof=1) / math.sqrt(40)
    assert row_weights.standard_error(values[:1], None) == math.inf


def test_the_standard_error_is_that_of_weighted_means():
    """The mean square of the error is the variance of weighted means of independent values."""
    values, shares = np.random.default_rng(3).normal(size=(4000, 40)), DRAWS / DRAWS.sum()
    squares = [row_weights.standard_error(row, shares) ** 2 for row in values]
    variance = np.sum(shares**2)
    assert abs(np.mean(squares) / variance - 1) < 0.02 and np.var(values @ shares) == pytest.approx(variance, rel=0.1)


def test_copies_are_in_proportion():
    shares = DRAWS / DRAWS.sum()
    counts = np.bincount(row_weights.copies(shares, 160), minlength=40)
    assert counts.sum() == 160 and np.abs(counts - 160 * shares).max() <= 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -2.0, 1.0], "weights has -2 at row 2; weights must be finite and not negative"),
        ([1.0, 1.0, np.nan], "weights has nan at row 3; weights must be finite"),
        ([1.0, np.inf, 1.0], "weights has inf at row 2; weights must be finite"),
        ([0, 0, 0], "weights is zero at all 3 rows; at least one weight must be positive"),
        ([1.0, 2.0], r"weights has shape \(2,\) and dtype float64; it must have one number for each of 3 rows"),
        (["a", "b", "c"], r"weights has shape \(3,\) and dtype <U1; it must have one number"),
    ],
)
def test_weights_that_are_refused(weights, message):
    rows = np.array([[0.0], [1.0], [3.0]])
    for call in (
        lambda: fit_normal(rows, weights), lambda: fit_kernel(rows, Euclidean(1), folds=2, weights=weights),
        lambda: KernelBase(rows, np.ones(3), weights), lambda: refit(Uniform(), rows, weights, Euclidean(1)),
        lambda: stack(rows, Euclidean(1), weights=weights, folds=2), lambda: stacking_weights(rows, weights),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


# -- Fits ------------------------------------------------------------------------------------------


def test_rows_of_weight_zero_have_no_part():
    weights = np.where(np.arange(40) % 3 == 0, 0.0, DRAWS)
    kept = weights > 0
    circle = Sphere(2)
    for fit in (
        fit_normal, lambda rows, weights: fit_mixture(rows, 2, 0, weights), lambda rows, weights: fit_von_mises_fisher(rows, 2, 0, weights),
        lambda rows, weights: fit_kernel(rows, circle, weights=weights), lambda rows, weights: fit_neighbours(rows, circle, 4.0, weights),
    ):  # fmt: skip
        assert fit(DIRECTED, weights) == fit(DIRECTED[kept], weights[kept])


def test_a_normal_distribution_of_repeated_rows():
    close(fit_normal(ROWS, COUNTS), fit_normal(ROWS[REPEATED]), 1e-12)


def test_mixtures_of_repeated_rows():
    """Whole weights give what repeated rows give, and a mixture that is a maximum of the weighted likelihood."""
    first = MixtureBase((0.5, 0.5), (Normal([0.0, 0.0], np.eye(2)), Normal([3.0, 0.0], np.eye(2))))
    weighted = improve_mixture(first, ROWS, COUNTS / COUNTS.sum(), 200, 1e-12)
    close(weighted, improve_mixture(first, ROWS[REPEATED], None, 200, 1e-12))
    fitted = fit_mixture(ROWS, 2, weights=COUNTS)
    order = np.argsort([component.mean[0] for component in fitted.components])
    close(MixtureBase(np.asarray(fitted.weights)[order], [fitted.components[k] for k in order]), weighted, 1e-4)


def test_rounds_of_a_mixture_follow_the_equations():
    """One round by hand, in float64 and without the floor of the variances."""
    start = MixtureBase((0.3, 0.7), (Normal([0.0, 0.0], np.eye(2)), Normal([3.0, 0.0], [[2.0, 0.5], [0.5, 1.0]])))
    shares = DRAWS / DRAWS.sum()
    joint = np.empty((40, 2))
    for k, (weight, component) in enumerate(zip(start.weights, start.components, strict=True)):
        covariance = np.asarray(component.covariance)
        for i, row in enumerate(ROWS - component.mean):
            square = row @ np.linalg.solve(covariance, row)
            joint[i, k] = weight * math.exp(-square / 2) / math.sqrt((2 * math.pi) ** 2 * np.linalg.det(covariance))
    parts = joint / joint.sum(axis=1, keepdims=True) * shares[:, None]
    after = improve_mixture(start, ROWS, shares, 1, 0.0)
    np.testing.assert_allclose(after.weights, parts.sum(axis=0), rtol=1e-12)
    for k, component in enumerate(after.components):
        p = parts[:, k] / parts[:, k].sum()
        np.testing.assert_allclose(component.mean, p @ ROWS, rtol=1e-10)
        np.testing.assert_allclose(component.covariance, np.cov(ROWS.T, aweights=p, ddof=0), atol=1e-5)
    diagonal = MixtureBase((0.3, 0.7), (Normal([0.0, 0.0], np.eye(2)), Normal([3.0, 0.0], np.diag([2.0, 1.0]))))
    assert all(c.covariance[0][1] == 0 for c in improve_mixture(diagonal, ROWS, shares, 3, 0.0).components)


def test_directions_of_repeated_rows():
    start = MixtureBase((0.5, 0.5), (VonMisesFisher([-1.0, 0.0], 4.0), VonMisesFisher([1.0, 0.0], 4.0)))
    weighted = improve_directions(start, DIRECTED, COUNTS / COUNTS.sum(), 60, 0.0)
    close(weighted, improve_directions(start, DIRECTED[REPEATED], None, 60, 0.0))
    fitted = fit_von_mises_fisher(DIRECTED, 1, weights=COUNTS)
    close(fitted, fit_von_mises_fisher(DIRECTED[REPEATED], 1))


def test_bic_counts_the_effective_number_of_rows(monkeypatch):
    """A second component that the 160 copies of 40 rows would justify is not taken."""
    rows = np.random.default_rng(2).normal(size=(40, 1)) + np.repeat([[0.0], [2.5]], 20, axis=0)
    assert len(fit_mixture(rows, 2, weights=DRAWS).components) == 1
    monkeypatch.setattr(row_weights, "effective_count", lambda count, shares: 160)
    assert len(fit_mixture(rows, 2, weights=DRAWS).components) == 2


# -- Kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [Euclidean(2), Sphere(2), Torus(2)])
def test_a_kernel_density_estimate_of_repeated_rows(space):
    rows = DIRECTED if isinstance(space, Sphere) else np.mod(ROWS, 1.0)
    k = np.linspace(5, 50, 40)
    weighted, repeated = KernelBase(rows, k, COUNTS), KernelBase(rows[REPEATED], k[REPEATED])
    with jax.enable_x64(True):
        x = jnp.asarray(rows[::-1] if isinstance(space, Sphere) else np.mod(rows + 0.1, 1.0))
        np.testing.assert_allclose(weighted.log_density(space, x), repeated.log_density(space, x), rtol=1e-10)
        np.testing.assert_allclose(weighted.score(space, x), repeated.score(space, x), rtol=1e-8, atol=1e-10)


def test_centres_are_drawn_by_their_weights():
    draws = KernelBase(ROWS, np.full(40, 1e8), COUNTS).sample(Euclidean(2), jax.random.key(1), 20_000)
    counts = np.bincount(np.argmin(cdist(np.asarray(draws), ROWS), axis=1), minlength=40) / 20_000
    assert np.abs(counts - COUNTS / COUNTS.sum()).max() < 5 * math.sqrt(0.05 / 20_000)


def test_weights_of_kernels_are_stored():
    base = KernelBase(ROWS, np.ones(40), COUNTS)
    assert build(spell(base)) == base and hash(build(spell(base))) == hash(base)
    other = KernelBase(ROWS, np.ones(40))
    assert other != base and hash(other) != hash(base) and KernelBase(ROWS, np.ones(40), np.full(40, 3.0)) == other
    assert build(spell(other)) == other
    np.testing.assert_array_equal(base.finest(Euclidean(2))[0], ROWS)
    none = KernelBase([[0.0], [1.0], [9.0]], np.ones(3), [1.0, 1.0, 0.0])
    pair = KernelBase([[0.0], [1.0]], np.ones(2))
    x = jnp.array([[0.5], [-3.0]])
    np.testing.assert_allclose(none.log_density(Euclidean(1), x), pair.log_density(Euclidean(1), x), rtol=1e-6)
    assert none.sample(Euclidean(1), jax.random.key(0), 1000).max() < 6


def test_the_concentration_maximises_the_weighted_cross_validated_likelihood():
    fold, shares = deal(40, 5, 0), DRAWS / DRAWS.sum()
    lag = 0.5 * cdist(ROWS, ROWS, "sqeuclidean")

    def score(k):
        kernels = np.where(fold[:, None] == fold, 0, k / (2 * math.pi) * np.exp(-k * lag)) @ shares
        return shares @ np.log(kernels)

    fitted = fit_kernel(ROWS, Euclidean(2), weights=DRAWS)
    grid = fitted.concentrations[0] * np.array([0.93, 1.0, 1.07])
    assert np.argmax([score(k) for k in grid]) == 1
    np.testing.assert_allclose(fitted.weights, shares, rtol=1e-12)


def test_widths_by_the_weight_of_near_rows():
    count = 1 / np.sum((DRAWS / DRAWS.sum()) ** 2)
    fitted = fit_neighbours(ROWS, Euclidean(2), 1.0, DRAWS)
    for i, row in enumerate(ROWS):
        distance = np.linalg.norm(ROWS - row, axis=1)
        others = [j for j in np.argsort(distance, kind="stable") if j != i]
        mass = np.cumsum(DRAWS[others]) / DRAWS.sum()
        radius = distance[others][np.argmax(mass >= 7 / count)]
        assert fitted.concentrations[i] == pytest.approx(2 / radius**2, rel=1e-10)
    nearly = fit_neighbours(ROWS, Euclidean(2), 1.0, 1 + 1e-13 * DRAWS)
    np.testing.assert_allclose(nearly.concentrations, fit_neighbours(ROWS, Euclidean(2), 1.0).concentrations, rtol=1e-10)
    with pytest.raises(ValueError, match=r"points has 40 rows, 4 by Kish's effective number; kernels by neighbours need at least 8"):
        fit_neighbours(ROWS, Euclidean(2), 1.0, np.where(np.arange(40) % 10 == 0, 1.0, 1e-9))


# -- Mixtures of fits and refits -------------------------------------------------------------------


def test_stacking_weights_of_repeated_rows():
    log_densities = RNG.normal(size=(40, 3))
    weighted = stacking_weights(log_densities, COUNTS)
    np.testing.assert_allclose(weighted, stacking_weights(log_densities[REPEATED]), rtol=1e-8)
    assert np.abs(weighted - stacking_weights(log_densities)).max() > 1e-3


def test_the_fits_of_the_folds_are_weighted():
    result = stack(ROWS, Euclidean(2), kinds=["normal", "kernel"], folds=2, weights=DRAWS)
    for index, base in enumerate(result.fold_bases):
        outside = result.fold != index
        normal, kernel = base.components
        close(normal, fit_normal(ROWS[outside], DRAWS[outside]), 1e-12)
        np.testing.assert_allclose(kernel.weights, DRAWS[outside] / DRAWS[outside].sum(), rtol=1e-12)
    np.testing.assert_allclose(result.weights, stacking_weights(result.log_densities, DRAWS), rtol=1e-6)


def test_a_refit_keeps_the_settings_and_takes_the_weights():
    circle, twice = Sphere(2), np.ones(40) + (np.arange(40) < 20)
    assert refit(Uniform(), DIRECTED, DRAWS, circle) == Uniform()
    assert refit(fit_normal(ROWS), ROWS, DRAWS, Euclidean(2)) == fit_normal(ROWS, DRAWS)
    kernels = fit_neighbours(DIRECTED, circle, 4.0)
    again = refit(kernels, DIRECTED.astype(np.float32), twice, circle)
    assert again.concentrations == kernels.concentrations and again.centres == kernels.centres
    np.testing.assert_allclose(again.weights, twice / twice.sum(), rtol=1e-12)
    mixture = MixtureBase((0.4, 0.6), (VonMisesFisher([-1.0, 0.0], 4.0), VonMisesFisher([1.0, 0.0], 4.0)))
    whole = MixtureBase((0.2, 0.3, 0.5), (Uniform(), mixture, kernels))
    result = refit(whole, DIRECTED, DRAWS, circle)
    assert result.weights == whole.weights and result.components[2] == refit(kernels, DIRECTED, DRAWS, circle)
    close(result.components[1], improve_directions(mixture, DIRECTED, DRAWS / DRAWS.sum(), 50, 1e-6), 1e-12)


def test_a_refit_of_a_mixture_raises_the_weighted_likelihood():
    fitted, shares = fit_mixture(ROWS, 2), DRAWS / DRAWS.sum()
    result = refit(fitted, ROWS, DRAWS, Euclidean(2))
    x = jnp.asarray(ROWS, "float32")
    before, after = (float(shares @ base.log_density(Euclidean(2), x)) for base in (fitted, result))
    assert after > before + 1e-3 and len(result.components) == len(fitted.components)


def test_a_refit_needs_the_rows_of_the_kernels():
    with pytest.raises(ValueError, match=r"base is KernelBase\(40 centres .* are not the 39 rows of points"):
        refit(fit_kernel(ROWS, Euclidean(2)), ROWS[1:], None, Euclidean(2))
    with pytest.raises(ValueError, match=r"are not the 40 rows of points"):
        refit(fit_kernel(ROWS, Euclidean(2)), ROWS[::-1], None, Euclidean(2))


# -- Training --------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_the_penalised_loss_of_repeated_rows():
    """Whole weights train the energy that repeated rows train."""
    space = Euclidean(2)
    method = PenalisedLikelihood(space, neurons=4, draws=64, batch=64, rows=1000)
    with jax.enable_x64(True):
        draws = space.sample_base(jax.random.key(0), 64, "float64")
        data = Samples(jnp.asarray(ROWS), jnp.log(jnp.asarray(COUNTS / COUNTS.sum()))), Samples(jnp.asarray(ROWS[REPEATED]))
        states = [method.begin(jax.random.key(1), draws, each) for each in data]
        for step in range(3):
            states = [method.step(jax.random.key(step), s, method.rates, d)[0] for s, d in zip(states, data, strict=True)]
        np.testing.assert_allclose(*(state.network.coefficients for state in states), rtol=1e-6)
        np.testing.assert_allclose(*(state.network.positions for state in states), rtol=1e-6)
