"""Stacked base measures: their weights, their folds, the kinds that are left out, and what is refused."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_kernels import KernelBase
from dualebm.base_mixtures import MixtureBase
from dualebm.data import stacking
from dualebm.data.bases import fit_normal
from dualebm.data.kernel_bases import deal
from dualebm.data.stacking import fits_of, stack, stacking_weights
from dualebm.spaces import Euclidean, Sphere, Torus

RNG = np.random.default_rng(0)
ROWS = np.concatenate([RNG.normal(size=(60, 2)), 0.1 * RNG.normal(size=(40, 2)) + [3.0, 0.0]])
DIRECTED = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)


@pytest.fixture
def cheap(monkeypatch):
    """Fits with one component."""
    monkeypatch.setattr(stacking, "fit_mixture", lambda rows, count, seed, shares: MixtureBase((1.0,), (fit_normal(rows, shares),)))


def test_the_weights_maximise_the_likelihood():
    log_densities = np.random.default_rng(1).normal(size=(50, 2)) * [1.0, 2.0] + [0.0, 0.5]
    grid = np.linspace(0, 1, 10_001)
    values = [np.mean(np.log(np.exp(log_densities) @ [w, 1 - w])) for w in grid]
    assert 0.1 < grid[np.argmax(values)] < 0.9
    np.testing.assert_allclose(stacking_weights(log_densities)[0], grid[np.argmax(values)], atol=2e-4)
    far = log_densities - np.array([[0.0], [5e4]]).repeat(25, axis=0)
    np.testing.assert_allclose(stacking_weights(far), stacking_weights(log_densities), rtol=1e-8)


def test_densities_are_of_the_other_folds():
    """The density of a row follows from the rows of the other folds alone: by hand, and when the row moves."""
    result = stack(ROWS, Euclidean(2), kinds=["normal", "kernel"], folds=3, seed=2)
    np.testing.assert_array_equal(result.fold, deal(100, 3, 2))
    for index in range(3):
        rest, rows = ROWS[result.fold != index], ROWS[result.fold == index]
        normal, kernel = result.fold_bases[index].components
        assert normal == fit_normal(rest) and kernel.centres == tuple(map(tuple, rest.tolist()))
        for column, base in enumerate((normal, kernel)):
            np.testing.assert_allclose(
                result.log_densities[result.fold == index, column], base.log_density(Euclidean(2), jnp.asarray(rows, "float32")), rtol=1e-5
            )
    moved = ROWS.copy()
    moved[7] += 0.5
    other = stack(moved, Euclidean(2), kinds=["normal", "kernel"], folds=3, seed=2)
    neighbours = result.fold == result.fold[7]
    neighbours[7] = False
    np.testing.assert_array_equal(other.log_densities[neighbours], result.log_densities[neighbours])
    assert (other.log_densities[~neighbours] != result.log_densities[~neighbours]).all()
    assert other.fold_bases[result.fold[7]].components == result.fold_bases[result.fold[7]].components


def test_the_base_has_the_weights_and_fits_of_all_rows(cheap):
    result = stack(ROWS, Euclidean(2), folds=3)
    assert result.names == ("mixture", "kernel") or result.names == ("normal", "mixture", "kernel")
    assert sum(result.weights) == pytest.approx(1) and min(result.weights) >= 0.01
    kernel = result.base.components[-1]
    assert kernel.centres == tuple(map(tuple, ROWS.tolist())) and len(kernel.centres) == 100
    for base in (result.base, *result.fold_bases):
        np.testing.assert_allclose(base.weights, result.weights, rtol=1e-12)
    assert result.log_densities.shape == (100, len(result.names))
    assert result.base.fits(Euclidean(2)) and stack(ROWS, Euclidean(2), folds=3).base == result.base


def test_light_components_are_dropped():
    """Rows of a normal distribution need no kernels of concentration 1e6 beside it."""
    fits = {"normal": fit_normal, "narrow": lambda rows, shares: KernelBase(rows, np.full(len(rows), 1e6))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacking, "fits_of", lambda *arguments: fits)
        result = stack(ROWS[:60], Euclidean(2), folds=3)
    assert result.names == ("normal",) and result.weights == (1.0,) and result.base == fit_normal(ROWS[:60])
    assert result.log_densities.shape == (60, 1) and len(result.fold_bases) == 3


@pytest.mark.parametrize(
    ("space", "light", "dropped"),
    [(Euclidean(2), 0.009, True), (Euclidean(2), 0.011, False), (Torus(2), 0.0029, True), (Torus(2), 0.0031, False)],
)
def test_the_weight_below_which_a_component_is_dropped(space, light, dropped, monkeypatch):
    fits = {f"kernel {k}": lambda rows, shares, k=k: KernelBase(rows, np.full(len(rows), k)) for k in (4.0, 8.0, 16.0)}
    monkeypatch.setattr(stacking, "fits_of", lambda *arguments: fits)
    monkeypatch.setattr(stacking, "stacking_weights", lambda densities, shares: np.array([0.6, light, 0.4 - light]))
    result = stack(ROWS, space, folds=2)
    assert (len(result.names) == 2) == dropped and sum(result.weights) == pytest.approx(1, rel=1e-12)
    assert result.weights[0] == pytest.approx(0.6 / (1 - light * dropped)) and result.base.weights == pytest.approx(result.weights)


def test_kinds_of_each_space():
    assert list(fits_of(Euclidean(3))) == ["normal", "mixture", "kernel"]
    neighbours = ["neighbours 1", "neighbours 4", "neighbours 16"]
    assert list(fits_of(Sphere(3))) == ["uniform", "mixture", "kernel 300", "kernel 3000", "kernel 30000", "kernel 300000", *neighbours]
    assert list(fits_of(Torus(2))) == ["uniform", *(f"kernel {4**i}" for i in range(1, 7))]
    assert set(fits_of(Sphere(2))["kernel 3000"](DIRECTED, None).concentrations) == {3000.0}
    assert fits_of(Sphere(2))["neighbours 4"](DIRECTED, None) != fits_of(Sphere(2))["neighbours 16"](DIRECTED, None)


@pytest.mark.parametrize(("space", "kinds"), [(Sphere(2), ["uniform", "kernel 300", "neighbours 4"]), (Torus(2), None)])
def test_compact_spaces(space, kinds):
    result = stack(DIRECTED if isinstance(space, Sphere) else ROWS, space, kinds=kinds, folds=2)
    assert min(result.weights) >= 0.003 and result.base.fits(space) and len(result.names) > 1
    stacked = np.mean(np.log(np.exp(result.log_densities) @ result.weights))
    assert stacked > result.log_densities.mean(axis=0).max() and set(result.names) <= set(fits_of(space))


def test_kinds_that_cannot_be_fitted_are_left_out(cheap):
    collinear = np.concatenate([ROWS, ROWS[:, :1]], axis=1)
    with pytest.warns(UserWarning, match=r"the component '(normal|mixture)' of the base is left out: points has columns \[0, 2\]"):
        result = stack(collinear, Euclidean(3), folds=2)
    assert result.names == ("kernel",) and isinstance(result.base, KernelBase)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"kinds is \['normal'\]; none of them can be fitted to 100 rows of 3 columns"):
            stack(collinear, Euclidean(3), kinds=["normal"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kinds=["kernle"]), "kinds is 'kernle'; did you mean 'kernel'"),
        (dict(folds=1), "folds is 1; it must be an integer from 2 to 100"),
        (dict(seed=-1), "seed is -1"),
        (dict(space=Euclidean(3)), "points has 2 columns; the space has dimension 3"),
        (dict(space=Sphere(2)), "off the unit sphere"),
        (dict(points=ROWS[:1]), "points has 1 rows"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        stack(**({"points": ROWS, "space": Euclidean(2)} | arguments))
