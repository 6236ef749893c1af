"""A fit that is chosen by validation: the choice, the folds, what is refused, and whole fits on each space."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import auto, candidates, radii
from dualebm.auto import Stage, choose, fit, notes_of, split, summarised
from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.base_mixtures import CustomBase, MixtureBase
from dualebm.candidates import Auto, Candidate, candidates_of, check_base
from dualebm.data import stacking
from dualebm.data.bases import fit_normal
from dualebm.data.kernel_bases import deal
from dualebm.features import ReLU
from dualebm.geometry import Space
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.methods.penalised import PenalisedLikelihood
from dualebm.radii import Followed, Task, bump_of, follow, grown, plan_of
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training import fingerprint, segments, simulate
from tests.cases import heavy
from tests.package.test_cli import fewer_draws  # noqa: F401, which holds for every test here

SMALL = dict(neurons=8, stages=2, iterations=4, draws=256, paths=2)
RNG = np.random.default_rng(0)
PLANE = np.concatenate([RNG.normal(size=(30, 2)) * 0.5, RNG.normal(size=(30, 2)) * 0.3 + [2.0, 1.0]]).astype("float32")
LIFTED = np.concatenate([PLANE, np.ones((60, 1), "float32")], axis=1)
SPHERE = LIFTED / np.linalg.norm(LIFTED, axis=1, keepdims=True)
TORUS = PLANE % np.float32(6.0)
KEY = jax.random.key(3)


def wide_log_density(x):
    return -jnp.sum(x**2) / 18 - jnp.log(18 * jnp.pi)


WIDE = CustomBase(wide_log_density, lambda key, count: 3 * jax.random.normal(key, (count, 2)))


def go(points, space, folder=None, key=KEY, callback=None, **changes):
    return fit(key, jnp.asarray(points), space, Auto(**{**SMALL, **changes}), folder=folder, callback=callback)


def same(first, second):
    assert first._replace(energy=None) == second._replace(energy=None)
    leaves = map(jax.tree.leaves, (first.energy, second.energy))
    assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


# -- The choice --------------------------------------------------------------------------------------


def test_the_largest_mean_of_each_candidate_is_compared_by_paired_differences():
    """A later candidate needs a mean difference above one standard error, whatever the spread of the rows is."""
    exact = lambda rows: choose(rows, [[0.0] * len(path) for path in rows])  # noqa: E731
    rng = np.random.default_rng(1)
    rows, noise = 10 * rng.normal(size=100), rng.normal(size=100)
    noise = (noise - noise.mean()) / noise.std(ddof=1)  # whose mean has the standard error 0.1
    for difference, expected in ((0.09, 0), (0.11, 1), (-1.0, 0)):
        assert exact([[rows - 1, rows], [rows - 2, rows - 1, rows + difference + noise]]) == (expected, 1 + expected)
    # The last candidate is compared with the best so far, not with the first.
    tie = rows + 0.5 + 0.01 * noise
    assert exact([[rows], [tie], [tie + 0.05 * noise + 0.004]]) == (1, 0)
    # Rows that only one candidate has take no part in the difference.
    more = np.concatenate([rows - 0.5, rows + 100])
    assert exact([[rows], [more]]) == (0, 0) and exact([[more], [rows]]) == (1, 0)
    assert exact([[rows, rows - math.inf], [rows - math.inf, rows + 1]]) == (1, 1)
    # An error of log Z, which all rows share, is part of the error of the difference.
    better = [[rows], [rows + 0.2 + noise]]
    assert choose(better, [[0.0], [0.17]]) == choose(better, [[0.17], [0.0]]) == (1, 0)
    assert choose(better, [[0.0], [0.18]]) == choose(better, [[0.13], [0.13]]) == (0, 0)


def followed(values, fractions, radius=(0.0, 1.0, 2.0)):
    count = len(values)
    errors = 0.1 * (1 - np.array(fractions))
    return Followed(None, np.array(radius[:count]), np.array(values), np.array(fractions), errors, np.zeros((count, 2)))


def test_stages_are_summarised_over_folds():
    candidate = Candidate("a b", Uniform(), (), ReLU())
    edge = auto.SMALLEST_FRACTION
    first = followed([[0.0, 1.0], [1.0, 2.0], [3.0, 3.0]], [1.0, 0.5, edge])
    second = followed([[1.0, 1.0], [2.0, 4.0], [3.0, 3.0]], [1.0, 0.4, 0.9], (0.0, 2.0, 3.0))
    stages, rows = summarised(candidate, [first, second], 1000)
    np.testing.assert_array_equal(rows[1], [1, 2, 2, 4])
    gains = np.array([1.0, 1.0, 1.0, 3.0])
    assert stages[1] == Stage("a b", 1, 1.5, 2.25, 1.5, pytest.approx(gains.std(ddof=1) / 2), 0.4, pytest.approx(0.06))
    assert stages[2].log_density == 3.0 and stages[2].effective_fraction == edge  # which is just enough
    # Too few draws on one fold, or a value that is not finite, and the stage is not chosen.
    few = second._replace(fraction=np.array([1.0, 0.4, 0.99 * edge]))
    lost = second._replace(log_densities=np.array([[1.0, 1.0], [np.nan, 4.0], [3.0, 3.0]]))
    for broken, stage in ((few, 2), (lost, 1)):
        stages, rows = summarised(candidate, [first, broken], 1000)
        assert len(rows[stage]) == 4 and (rows[stage] == -np.inf).all()
        assert stages[stage].log_density == stages[stage].gain == -math.inf and stages[stage].gain_error == math.inf
        assert all(np.isfinite(values).all() for values in rows[:stage] + rows[stage + 1 :])
    # Nor is a stage in which one row would be more than 5% of Z, were it a draw. The largest gain is 3.
    edge = int(math.exp(3.0) / auto.LARGEST_SHARE)
    assert summarised(candidate, [first, second], edge + 1)[0][2].gain == 2.25
    assert summarised(candidate, [first, second], edge)[0][2].gain == -math.inf
    # A stage that one fold did not reach is left out.
    stages, rows = summarised(candidate, [first, followed([[1.0, 1.0], [2.0, 4.0]], [1.0, 0.4])], 1000)
    assert len(stages) == len(rows) == 2
    assert summarised(candidate, [followed([[1.0]], [1.0])], 1000)[0][0].gain_error == math.inf  # of one row


def test_the_rows_of_a_fold_are_not_trained_on_and_shapes_are_equal():
    for n in (10, 11, 14, 63):
        fold = deal(n, 5, 1)
        parts = [split(fold, number) for number in range(5)]
        assert len({(len(train), len(held)) for train, held in parts}) == 1
        for number, (train, held) in enumerate(parts):
            assert (fold[held] == number).all() and (fold[train] != number).all()
            assert len({*train, *held}) == len(train) + len(held) >= n - 5


def test_notes_say_what_is_at_a_bound_or_has_not_converged():
    plan = plan_of(Sphere(3), ReLU(), 60, stages=2)
    stages = [Stage("a", number, float(number), 0.1 * number, 0.0, 0.0, 1.0, 0.0) for number in range(3)]
    slope = np.array([[0.0, 0.0], [0.0, 0.1], [0.0, 0.1]])
    energy = Followed(None, np.array([0.0, 1.0, 2.0]), np.zeros((3, 0)), np.ones(3), np.zeros(3), slope)
    assert notes_of(plan, stages, 0, energy) == notes_of(plan, stages, 1, energy) == ()
    (note,) = notes_of(plan, stages, 2, energy)
    assert "the best radius, 2, is the largest of the path; more stages than 2" in note
    cut = [*stages[:2], stages[2]._replace(log_density=-math.inf)]
    (note,) = notes_of(plan, cut, 1, energy)
    assert "the path ends at the radius 2, because beyond it too few draws" in note
    for slope, error, said in ((0.2, 0.01, True), (-0.2, 0.01, True), (0.2, 0.1, False), (0.9 * auto.LARGEST_SLOPE, 0.0, False)):
        notes = notes_of(plan, stages, 1, energy._replace(slope=np.array([[0.0, 0.0], [slope, error]])))
        assert len(notes) == said and all("has not converged" in note for note in notes)


# -- Candidates and plans ----------------------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch):
    """Stacked base measures without their kernels and of one component."""
    kinds = []

    def stacked(points, space, **options):
        kinds.append(options["kinds"])
        return stacking.stack(points, space, **{**options, "kinds": ["uniform"] if space.compact else ["normal"]})

    monkeypatch.setattr(candidates, "stack", stacked)
    return kinds


def names_of(space, points, **settings):
    return [candidate.name for candidate in candidates_of(points, space, deal(len(points), 5, 0), Auto(**settings), 0)]


def test_the_candidates_suit_the_space(cheap):
    curved, flat, torus = (Sphere(3), SPHERE), (Euclidean(2), PLANE), (Torus(2, 6.0), TORUS)
    assert names_of(*curved) == ["uniform relu", "uniform biased_relu", "stacked scaled_bump"]
    assert names_of(*flat) == ["stacked scaled_bump", "normal scaled_bump"]
    assert names_of(*torus) == ["stacked scaled_bump", "uniform scaled_bump"]
    assert names_of(*curved, feature="relu") == ["uniform relu", "uniform biased_relu", "stacked relu", "stacked biased_relu"]
    assert names_of(*curved, base="uniform") == ["uniform scaled_bump", "uniform relu", "uniform biased_relu"]
    assert names_of(*flat, base="normal") == ["normal scaled_bump"]
    assert names_of(*flat, base=WIDE, feature="relu") == ["given biased_relu"]
    (candidate,) = candidates_of(PLANE, Euclidean(2), deal(60, 5, 0), Auto(base=WIDE), 0)
    assert candidate.base is WIDE and candidate.fold_bases == (WIDE,) * 5
    assert set(cheap) == {None}
    points = RNG.normal(size=(40, 5))  # in more dimensions no kernel is near
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert names_of(Sphere(5), unit, base="stacked", feature="relu") == ["stacked relu", "stacked biased_relu"]
    assert cheap[-1] == candidates.LOCAL_KINDS


def test_a_row_of_a_fold_has_no_part_in_what_is_fitted_to_the_other_folds(monkeypatch):
    """Apart from the weights of the stacked base measure, which maximise the density of all rows under the fits of the other folds."""
    monkeypatch.setattr(stacking, "fit_mixture", lambda rows, count, seed, shares: MixtureBase((1.0,), (fit_normal(rows, shares),)))
    fold, moved = deal(60, 5, 3), PLANE.copy()
    row = int(np.flatnonzero(fold == 0)[3])
    moved[row] += 0.25
    first, second = (candidates_of(points, Euclidean(2), fold, Auto(), 3) for points in (PLANE, moved))
    for old, new in zip(first, second, strict=True):
        components = [base.components if hasattr(base, "components") else base for base in (old.fold_bases[0], new.fold_bases[0])]
        assert components[0] == components[1] and old.fold_bases[1] != new.fold_bases[1] and old.base != new.base
    assert first[1].fold_bases[0] == fit_normal(PLANE[fold != 0]) and first[1].base == fit_normal(PLANE)
    train, held = split(fold, 0)
    assert row in held and np.array_equal(PLANE[train], moved[train])


def test_bumps_reach_from_the_kernels_to_the_spread_of_the_rows():
    assert bump_of(PLANE, Euclidean(2), 1e3).largest_concentration == pytest.approx(100)
    spread = np.mean(np.sum((PLANE - PLANE.mean(axis=0)) ** 2, axis=1))
    assert bump_of(PLANE, Euclidean(2), 1e3).smallest_concentration == pytest.approx(1 / (4 * spread), rel=1e-5)
    wide = bump_of(PLANE, Euclidean(2), 1e-3)
    assert wide.largest_concentration == 2 * wide.smallest_concentration
    angles = TORUS * 2 * np.pi / 6
    circles = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    spread = np.mean(np.sum((circles - circles.mean(axis=0)) ** 2, axis=1))
    assert bump_of(TORUS, Torus(2, 6.0), 1e3).smallest_concentration == pytest.approx(1 / (4 * spread), rel=1e-5)


def test_the_settings_are_the_numbers_of_the_path():
    few, many = (plan_of(Sphere(3), ReLU(), n) for n in (radii.FEW - 1, radii.FEW))
    assert isinstance(few.method, PenalisedLikelihood) and few.method.draws <= many.method.draws and few.stages <= many.stages
    plan = plan_of(Sphere(3), ReLU(), 60, neurons=7, iterations=5, stages=3, draws=100)
    method = plan.method
    assert isinstance(method, PenalisedLikelihood) and plan.stages == 3 and plan.schedule.iterations == 5
    assert (method.neurons, method.draws, method.batch) == (7, 100, 100) and plan_of(Sphere(3), ReLU(), 4).method.neurons == 4
    around = grown(plan, 2.0, None)
    assert isinstance(around.method, Dual) and around.method.feature == ReLU() and around.method.neurons == 7
    assert around.rates.radius < 2.0 < around.rates.radius * around.schedule.ratio**20


# -- What is refused ---------------------------------------------------------------------------------


def in_a_box(x):
    return jnp.where(jnp.all(jnp.abs(x) < 2), -2 * jnp.log(4.0), -jnp.inf)


BOX = CustomBase(in_a_box, lambda key, count: jax.random.uniform(key, (count, 2), minval=-2, maxval=2))


def test_a_base_measure_that_does_not_suit_the_rows_is_refused():
    outside = int(np.flatnonzero((np.abs(PLANE) >= 2).any(axis=1))[0])
    with pytest.raises(ValueError, match=rf"whose log density is -inf at row {outside}; it must be positive at every row"):
        check_base(BOX, Euclidean(2), PLANE)
    check_base(BOX, Euclidean(2), PLANE[(np.abs(PLANE) < 2).all(axis=1)])
    with pytest.raises(ValueError, match=r"Flat.*which cannot be sampled; it must be a probability measure"):
        check_base(Flat(), Euclidean(2), PLANE)
    for base, space, points in ((Gaussian(), Sphere(3), SPHERE), (Uniform(), Euclidean(2), PLANE), ("normal", Euclidean(2), PLANE)):
        with pytest.raises(ValueError, match="it must be a base measure on"):
            check_base(base, space, points)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(stages=0), "stages is 0; it must be an integer of at least 1"),
        (dict(paths=6), "paths is 6; it must be an integer from 1 to 5"),
        (dict(paths=0), "paths is 0"),
        (dict(iterations=1), "iterations is 1; it must be an integer of at least 2"),
        (dict(draws=1), "draws is 1"),
        (dict(neurons=0), "neurons is 0"),
        (dict(base="gaussian"), "base is 'gaussian'"),
        (dict(base=3), "base is 3"),
        (dict(feature="bump"), "feature is 'bump'"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        Auto(**settings)


def test_a_base_measure_needs_a_sampler():
    with pytest.raises(ValueError, match="sampler is None; it must be a function"):
        CustomBase(wide_log_density, None)
    with pytest.raises(ValueError, match=r"sampler returns the shape \(60,\)|sampler returns the shape"):
        go(PLANE, Euclidean(2), base=CustomBase(wide_log_density, lambda key, count: jnp.zeros(count)))


@pytest.mark.parametrize(
    ("points", "space", "settings", "message"),
    [
        (PLANE[:9], Euclidean(2), {}, "points has 9 rows; validation on 5 folds needs at least 10"),
        (SPHERE, Sphere(3), dict(base="normal"), r"base is 'normal' and space is Sphere\(.*allowed: 'stacked', 'uniform', 'auto'"),
        (PLANE, Euclidean(2), dict(base="uniform"), "base is 'uniform' .*allowed: 'stacked', 'normal', 'auto'"),
        (TORUS, Torus(2, 6.0), dict(feature="relu"), "feature is 'relu' .*not continuous; allowed: 'scaled_bump', 'auto'"),
        (PLANE, Euclidean(2), dict(base=BOX), "it must be positive at every row"),
        (1.5 * SPHERE, Sphere(3), {}, "norm"),
        (TORUS + 6, Torus(2, 6.0), {}, "points"),
        (SPHERE, Euclidean(2), {}, "points"),
    ],
)
def test_rows_and_spaces_that_are_not_allowed(tmp_path, points, space, settings, message):
    with pytest.raises(ValueError, match=message):
        go(points, space, tmp_path / "fit", **settings)
    assert not (tmp_path / "fit").exists()


# -- Whole fits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A fit on the plane by two folds and all rows, and its folder."""
    folder = tmp_path_factory.mktemp("auto")
    return go(PLANE, Euclidean(2), folder / "fit", base="normal"), folder / "fit"


def cells(space: Space):
    """Points of a quadrature and its weights in the reference measure of the space."""
    if isinstance(space, Sphere):
        rule = sphere_quadrature(space, 60)
        return np.asarray(rule.points, "float32"), np.exp(np.asarray(rule.log_weights))
    low, high, count = (0.0, space.period, 200) if isinstance(space, Torus) else (-15.0, 15.0, 400)
    line = low + (np.arange(count) + 0.5) * (high - low) / count
    x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype("float32")
    return x, np.full(len(x), 1 / count**2 * (1 if isinstance(space, Torus) else (high - low) ** 2))


def log_partition_of(energy, space):
    """log E_tau exp(-U) by quadrature, with the mass of tau."""
    x, weights = cells(space)
    tau = weights * np.exp(np.asarray(space.log_base(jnp.asarray(x)), np.float64))
    return math.log(tau @ np.exp(-np.asarray(energy(jnp.asarray(x)), np.float64))), tau.sum()


@pytest.mark.parametrize(
    ("points", "space", "settings"),
    [
        heavy(PLANE, Euclidean(2), dict(base="normal", paths=3)),
        (SPHERE, Sphere(3), dict(base="uniform", feature="relu")),
        heavy(TORUS, Torus(2, 6.0), dict(base="uniform")),
        (PLANE, Euclidean(2), dict(base=WIDE)),
    ],
    ids=["plane", "sphere", "torus", "given"],
)
def test_validated_densities_are_those_of_the_energies(monkeypatch, points, space, settings):
    """The log densities of the held-out rows are -U - log Z + log tau, with log Z by quadrature, and so is log Z of the fit."""
    tasks, train = [], auto.follow

    def watched(key, task, *arguments, **options):
        tasks.append((task, train(key, task, *arguments, **options)))
        return tasks[-1][1]

    ridges = settings.get("feature") == "relu"  # a path by draws comes before those of Algorithm 1
    if ridges:  # with a bias they compile as many programs again
        monkeypatch.setattr(auto, "candidates_of", lambda *arguments: candidates_of(*arguments)[:1])
    monkeypatch.setattr(auto, "follow", watched)
    result = go(points, space, **settings)
    assert len(tasks) == 1 + settings.get("paths", 2) + ridges
    for task, path in tasks[:-1]:
        on = dataclasses.replace(space, base=task.base)
        log_z, mass = log_partition_of(path.energy, on)
        assert mass == pytest.approx(1, abs=1e-3)
        if settings["base"] == "normal":  # which is fitted without the held-out rows too
            assert task.base == fit_normal(np.asarray(task.data.points))
        expected = -np.asarray(path.energy(task.held.points)) - log_z + np.asarray(on.log_base(task.held.points))
        spread = float(jnp.std(path.energy(on.sample_base(jax.random.key(0), 1000, "float32"))))
        np.testing.assert_allclose(path.log_densities[-1], expected, atol=1e-4 + 5 * spread / math.sqrt(task.plan.checked))
        np.testing.assert_allclose(path.log_densities[0], np.asarray(on.log_base(task.held.points)), atol=1e-5)
        np.testing.assert_allclose(path.log_z_error, np.sqrt(np.maximum(1 / path.fraction - 1, 0) / task.plan.checked), rtol=1e-6)
        assert path.radius[0] == 0 and path.fraction[0] == pytest.approx(1) and (path.slope[0] == 0).all()
        assert path.radius[-1] == pytest.approx(float(jnp.mean(jnp.abs(path.energy.coefficients))), rel=1e-5)
        assert {tuple(row) for row in np.asarray(task.held.points)}.isdisjoint({tuple(row) for row in np.asarray(task.data.points)})
    task, path = tasks[-1]
    assert len(task.data.points) == len(points) and not len(task.held.points) and result.energy is path.energy
    # The chosen stage is one of the recorded ones, and its mean is over the rows of its folds.
    assert result.chosen in result.path and result.log_density[0] == pytest.approx(result.chosen.log_density)
    of_chosen = [path for task, path in tasks[:-1] if task.plan.method == tasks[-1][0].plan.method]
    values = np.concatenate([path.log_densities[result.chosen.stage] for path in of_chosen])
    assert result.validated == len(values) and result.chosen.log_density == pytest.approx(values.mean())
    assert result.log_density[1] == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))
    log_z, _ = log_partition_of(result.energy, result.space)
    assert abs(result.log_partition.value - log_z) < 1e-3 + 5 * result.log_partition.standard_error
    if ridges:
        methods = [type(task.plan.method) for task, _ in tasks]
        assert methods == [PenalisedLikelihood, Dual, Dual, Dual]


@pytest.mark.heavy
def test_the_slope_of_a_path_is_that_of_the_penalised_loss(monkeypatch):
    """The derivative of E_data U + log Z + lambda |a| along the scale of U, with the lambda of the last stage, and 0 at radius 0."""
    states, train, space = [], radii.run, Euclidean(2, fit_normal(PLANE))

    def watched(*arguments, **options):
        states.append(train(*arguments, **options))
        return states[-1]

    monkeypatch.setattr(radii, "run", watched)
    plan = plan_of(Euclidean(2), bump_of(PLANE, Euclidean(2), 30.0), 60, neurons=8, stages=2, iterations=4, draws=256)
    task = Task(space.base, plan, Samples(jnp.asarray(PLANE[:40])), Samples(jnp.asarray(PLANE[40:])))
    with segments.bar(0, 0, "radius", False) as bar:
        path = follow(KEY, task, 2, None, bar, early=False)
        base = follow(KEY, task, 0, None, bar, early=False)
    x, weights = cells(space)
    energy = np.asarray(path.energy(jnp.asarray(x)), np.float64)
    model = weights * np.exp(np.asarray(space.log_base(jnp.asarray(x)), np.float64) - energy)
    penalty = float(plan.schedule(4, plan.rates).penalty * states[0][0].largest_penalty)  # of the second stage
    slope = float(path.energy(task.data.points).mean()) - model @ energy / model.sum() + penalty * path.radius[2]
    np.testing.assert_allclose(path.slope[2, 0], slope, atol=5 * path.slope[2, 1])
    assert penalty * path.radius[2] > 20 * path.slope[2, 1] > 0
    assert len(base.radius) == 1 and base.radius[0] == 0 and base.fraction[0] == 1 and (base.slope == 0).all()
    np.testing.assert_array_equal(base.log_densities[0], np.asarray(space.log_base(task.held.points)))
    assert (np.asarray(base.energy(task.held.points)) == 0).all()


def test_a_radius_of_zero_is_the_base_measure(monkeypatch):
    monkeypatch.setattr(auto, "choose", lambda rows, errors, shares: (0, 0))
    result = go(PLANE, Euclidean(2), base="normal")
    assert result.radius == 0 and result.log_partition.value == 0 and result.notes == ()
    assert (np.asarray(result.energy(jnp.asarray(PLANE))) == 0).all() and result.chosen.stage == 0
    assert result.space.base == fit_normal(PLANE) and result.chosen.gain == 0


def no_training(*arguments):
    raise AssertionError("an iteration")


def test_the_same_call_returns_the_same_fit(plane, monkeypatch, tmp_path):
    """In the folder without an iteration, and elsewhere by the same iterations. Another key is another fit, and refused in the folder."""
    whole, folder = plane
    records = []
    same(whole, go(PLANE, Euclidean(2), base="normal", callback=records.append))
    validated = [record for record in records if record["fold"] is not None]
    assert [(record["fold"], record["step"]) for record in validated] == [(0, 4), (0, 8), (1, 4), (1, 8)]
    assert all(record["candidate"] == "normal scaled_bump" and record["seconds"] > 0 for record in records)
    for stage, last in zip(whole.path[1:], (validated[::2], validated[1::2]), strict=True):
        means = {name: np.mean([record[name] for record in last]) for name in ("log_density", "radius")}
        assert means == pytest.approx(dict(log_density=stage.log_density, radius=stage.radius))
        assert min(record["effective_fraction"] for record in last) == pytest.approx(stage.effective_fraction)
    assert all(record["log_density"] is None for record in records if record["fold"] is None)
    other = go(PLANE, Euclidean(2), key=jax.random.key(4), base="normal")
    assert whole.path != other.path
    with pytest.raises(ValueError, match="is of another run"):
        go(PLANE, Euclidean(2), folder, base="normal", stages=3)
    monkeypatch.setattr(simulate, "run_intervals", no_training)
    monkeypatch.setattr(fingerprint, "version_of", lambda package: "0")
    with pytest.warns(UserWarning, match="jax is .* on disk and '0' in this call") as warned:
        same(whole, go(PLANE, Euclidean(2), folder, base="normal"))
    assert [str(each.message).partition(":")[0] for each in warned] == [f"folder {folder}"]  # and not once for each path


def test_a_fit_that_is_interrupted_between_paths_goes_on_to_the_same_numbers(plane, monkeypatch, tmp_path):
    whole, folder = plane
    train, paths = auto.follow, []

    def stopped(*arguments, **options):
        if paths:
            raise KeyboardInterrupt
        paths.append(train(*arguments, **options))
        return paths[0]

    with monkeypatch.context() as patch:
        patch.setattr(auto, "follow", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(PLANE, Euclidean(2), tmp_path, base="normal")
    (first,) = (tmp_path / "paths").iterdir()
    before = (first / "manifest.json").stat().st_mtime_ns
    same(whole, go(PLANE, Euclidean(2), tmp_path, base="normal"))
    assert (first / "manifest.json").stat().st_mtime_ns == before
    assert {path.name for path in (tmp_path / "paths").iterdir()} == {path.name for path in (folder / "paths").iterdir()}


@pytest.mark.parametrize(("points", "space"), [heavy(PLANE[25:36], Euclidean(2)), (SPHERE[25:35], Sphere(3))], ids=["plane", "sphere"])
def test_ten_rows_are_enough(points, space):
    """Where mixtures have at most as many components as rows."""
    candidates = candidates_of(points, space, deal(len(points), 5, 0), Auto(), 0)
    assert np.isfinite(np.asarray(candidates[0].base.log_density(space, jnp.asarray(points)))).all()


def test_few_rows_are_all_validated(monkeypatch):
    train = auto.follow
    monkeypatch.setattr(auto, "follow", lambda key, task, stages, folder, bar, **options: train(key, task, 0, None, bar, early=False))
    result = go(TORUS[:12], Torus(2, 6.0), base="uniform", paths=None)
    assert result.validated == 10 and math.isfinite(result.log_density[0])  # folds of equal sizes
