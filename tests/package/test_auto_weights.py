"""An automatic fit to weighted rows: equal weights, rows of weight 0, the means that make the choice, and the paths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import auto
from dualebm.auto import Stage, choose, smallest_good_radius
from dualebm.candidates import Auto, candidates_of
from dualebm.data.bases import fit_normal
from dualebm.data.kernel_bases import deal, fit_kernel
from dualebm.features import ScaledBump
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.radii import Task, bump_of, follow, grown, plan_of
from dualebm.row_weights import mean, standard_error
from dualebm.spaces import Euclidean, Sphere
from dualebm.training import segments
from tests.package import test_auto
from tests.package.test_auto import PLANE, SPHERE, same
from tests.package.test_cli import fewer_draws  # noqa: F401, which holds for every test here

SMALL = test_auto.SMALL | dict(base="normal")  # the same programs
WEIGHTS = np.random.default_rng(1).exponential(size=60) + 0.1
COUNTS = np.random.default_rng(2).integers(1, 4, 60)


def go(points, weights, space=None, **changes):
    return auto.fit(jax.random.key(3), jnp.asarray(points), space or Euclidean(2), Auto(**{**SMALL, **changes}), weights=weights)


def test_equal_weights_are_no_weights_and_rows_of_weight_zero_are_left_out(monkeypatch):
    tasks, train = [], auto.follow

    def collect(key, task, *arguments, **options):
        tasks.append((task, train(key, task, *arguments, **options)))
        return tasks[-1][1]

    same(go(PLANE, None), go(PLANE, np.full(60, 0.3)))
    monkeypatch.setattr(auto, "follow", collect)
    weights = np.where(np.arange(60) % 5 == 0, 0.0, WEIGHTS)
    result = go(PLANE, weights)
    kept = np.flatnonzero(weights)
    same(result, go(PLANE[kept], 8 * weights[kept]))
    # The same numbers from the paths, with the weights of each row by its coordinates.
    weight_of = {tuple(row): weight for row, weight in zip(PLANE, weights, strict=True)}
    of = lambda rows: np.array([weight_of[tuple(row)] for row in np.asarray(rows)])  # noqa: E731
    for task, _ in tasks[:3]:
        for rows in (task.data, task.held) if len(task.held.points) else (task.data,):
            np.testing.assert_allclose(rows.weights, of(rows.points) / of(rows.points).sum(), rtol=1e-5)
    values = np.concatenate([path.log_densities[result.chosen.stage] for _, path in tasks[:2]])
    shares = np.concatenate([of(task.held.points) for task, _ in tasks[:2]])
    shares /= shares.sum()
    assert result.validated == len(values)
    assert result.log_density == pytest.approx((mean(values, shares), standard_error(values, shares)), rel=1e-9)
    assert result.space.base == fit_normal(PLANE[kept], weights[kept]) and tasks[0][0].base != tasks[1][0].base


def test_the_choice_weighs_rows():
    """A candidate that is better at a heavy row is chosen, and one that is better at light rows is not."""
    flat, better = np.zeros(4), np.array([1.0, -0.5, -0.5, -0.5])
    none = [[0.0], [0.0]]
    assert choose([[flat], [better]], none) == (0, 0)
    assert choose([[flat], [better]], none, np.array([0.97, 0.01, 0.01, 0.01])) == (0, 0)  # one effective row, whose error is large
    heavy = np.repeat(better, 10)
    shares = np.repeat([0.85, 0.05, 0.05, 0.05], 10) / 10
    assert choose([[np.zeros(40)], [heavy]], none) == (0, 0) and choose([[np.zeros(40)], [heavy]], none, shares) == (1, 0)
    path = [Stage("a", stage, 2.0 * stage, 0.0, 0.0, 0.0, 1.0, 0.0) for stage in range(3)]
    rows = [np.zeros(40), heavy, heavy + 0.1 * (heavy > 0)]
    assert smallest_good_radius(path, rows) == 0 and smallest_good_radius(path, rows, shares) == 4.0


def test_candidates_of_weighted_rows():
    space, fold = Euclidean(2), deal(60, 5, 0)
    shares = WEIGHTS / WEIGHTS.sum()
    (candidate,) = candidates_of(PLANE, space, fold, Auto(base="normal"), 0, shares)
    assert candidate.base == fit_normal(PLANE, shares)
    assert candidate.fold_bases[1] == fit_normal(PLANE[fold != 1], shares[fold != 1])
    assert candidate.feature == bump_of(PLANE, space, fit_kernel(PLANE, space, weights=shares).concentrations[0], shares)
    repeated = bump_of(np.repeat(PLANE, COUNTS, axis=0), space, 9.0).smallest_concentration
    assert bump_of(PLANE, space, 9.0, COUNTS / COUNTS.sum()).smallest_concentration == pytest.approx(repeated, rel=1e-5)


@pytest.mark.heavy
def test_a_path_of_repeated_rows(monkeypatch):
    """Whole weights and repeated rows give one path, up to the draw of the first centres, which are given."""
    space = Euclidean(2, fit_normal(PLANE))
    plan = plan_of(Euclidean(2), bump_of(PLANE, space, 30.0), 60, neurons=4, stages=1, iterations=2, draws=64)
    logs = jnp.log(jnp.asarray(COUNTS / COUNTS.sum(), "float32"))
    centres = plan.method.feature.draw(jax.random.key(0), space, 4, Samples(jnp.asarray(PLANE)))
    monkeypatch.setattr(ScaledBump, "draw", lambda *arguments: centres)
    results, held = [], Samples(jnp.asarray(PLANE))
    for data in (Samples(jnp.asarray(PLANE), logs), Samples(jnp.asarray(np.repeat(PLANE, COUNTS, axis=0)))):
        with segments.bar(0, 0, "radius", False) as bar:
            results.append(follow(jax.random.key(1), Task(space.base, plan, data, held), 1, None, bar, early=False))
    np.testing.assert_allclose(results[0].log_densities, results[1].log_densities, atol=2e-5)
    np.testing.assert_allclose(results[0].slope, results[1].slope, atol=2e-5)


def test_ridges_start_at_rows_drawn_by_their_weights():
    """Copies of rows would forget the weights, and are refused."""
    plan = plan_of(Sphere(3), candidates_of(SPHERE, Sphere(3), deal(60, 5, 0), Auto(base="uniform", feature="relu"), 0)[0].feature, 60)
    data = Samples(jnp.asarray(SPHERE), jnp.log(jnp.asarray(WEIGHTS, "float32")))
    method = grown(plan, 2.0, 120).method
    method.check(method.rates, data)
    copies = grown(plan, 2.0, None).method
    assert isinstance(copies, Dual) and copies.particles is None
    with pytest.raises(ValueError, match="particles is None, which is copies of the data"):
        copies.check(copies.rates, data)


@pytest.mark.heavy
def test_ridges_are_fitted_to_weighted_rows():
    result = go(SPHERE, WEIGHTS, Sphere(3), base="uniform", feature="relu", paths=1)
    assert math.isfinite(result.log_density[0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(59), r"weights has shape \(59,\) and dtype float64; it must have one number for each of 60 rows"),
        (np.append(np.ones(59), -1.0), "weights has -1 at row 60; weights must be finite and not negative"),
        (np.append(np.ones(59), 1000.0), "weights leaves 1 of 60 rows by Kish's effective number; validation on 5 folds needs at least 10"),
        (np.append(np.zeros(52), np.ones(8)), "points has 8 rows; validation on 5 folds needs at least 10"),
    ],
)
def test_weights_that_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        go(PLANE, weights)
