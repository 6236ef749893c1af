"""Selection by validation: the early stop and the choice beside loops, a search with its repetitions from end to end, bad inputs."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.metrics import CrossEntropy
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.selection import choose, select, stopped_early
from dualebm.training import simulate

STEPS = np.array([0, 3, 6, 9, 12])
GRID = product(n=[20, 5], kind=["b", "a"], rate=[0.1, 0.3, 0.2], seed=[0, 1, 2])
RUNS = len(GRID["n"])


def records(seed=0, pairs=False):
    """A loss with records that are missing, infinite and lost after a good one, one run without any, and a metric beside it."""
    rng = np.random.default_rng(seed)
    loss = rng.uniform(size=(RUNS, len(STEPS))).astype(np.float32)
    loss[rng.uniform(size=loss.shape) < 0.2] = np.nan
    loss[3, 1], loss[4, 2] = np.inf, -np.inf
    loss[5] = [0.5, 0.01, np.nan, np.nan, np.nan]
    loss[7] = np.nan
    loss[9] = [0.4, 0.2, 0.3, 0.2, 0.2]
    kl = rng.normal(size=(RUNS, len(STEPS)))
    dims = ("run", "step")
    values = (dims, loss)
    if pairs:  # the errors rank the other way round
        values = ((*dims, "validation_0"), np.stack([loss, 1 - loss], axis=-1))
    coordinates = {"run": np.arange(RUNS), "step": STEPS, **{name: ("run", found) for name, found in GRID.items()}}
    variables = {"validation": values, "kl": (dims, kl), "wide": ((*dims, "wide_0"), np.stack([kl, 2 * kl], axis=-1))}
    return xarray.Dataset(variables, coordinates), loss


def best_record(row):
    """The first of the least finite values, else the last record."""
    found = len(row) - 1
    least = None
    for i, value in enumerate(row):
        if np.isfinite(value) and (least is None or value < least):
            found, least = i, value
    return found


@pytest.mark.parametrize("pairs", [False, True], ids=["value", "value and error"])
def test_the_early_stop(pairs):
    results, loss = records(pairs=pairs)
    best = stopped_early(results)
    assert best.kl.dims == ("run",) and "step" not in best.coords and set(GRID) <= set(best.coords)
    for run, row in enumerate(loss):
        i = best_record(row)
        assert best.stopped.values[run] == STEPS[i]
        assert best.kl.values[run] == results.kl.values[run, i]
        np.testing.assert_array_equal(best.wide.values[run], results.wide.values[run, i])
        np.testing.assert_array_equal(best.validation.values[run], results.validation.values[run, i])
    assert best.stopped.values[[5, 7, 9]].tolist() == [3, 12, 3]


def test_the_early_stop_by_another_name():
    results, loss = records()
    best = stopped_early(results.rename(validation="held_out"), "held_out")
    assert best.stopped.values.tolist() == [STEPS[best_record(row)] for row in loss]


def choice_by_loops(loss, cases, over):
    """A dict for each case: the settings of the least mean over the other settings of the least losses."""
    found = []
    for case in dict.fromkeys(zip(*(GRID[name] for name in cases), strict=True)):
        best, least = None, np.inf
        for setting in dict.fromkeys(zip(*(GRID[name] for name in over), strict=True)):
            total = []
            for run in range(RUNS):
                if all(GRID[name][run] == value for name, value in zip((*cases, *over), (*case, *setting), strict=True)):
                    row = loss[run]
                    total.append(float(np.min(row[np.isfinite(row)])) if np.isfinite(row).any() else np.inf)
            if np.mean(total) < least:
                best, least = setting, np.mean(total)
        found.append(dict(zip((*cases, *over), (*case, *best), strict=True)))
    return found


@pytest.mark.parametrize("pairs", [False, True], ids=["value", "value and error"])
@pytest.mark.parametrize(
    ("cases", "over"), [(["n"], ["rate"]), (["n"], ["kind", "rate"]), (["n", "kind"], ["rate"]), (["kind"], ["n", "rate"])]
)
def test_the_choice(cases, over, pairs):
    for seed in range(5):
        results, loss = records(seed, pairs)
        chosen = choose(results, cases, over)
        assert chosen == choice_by_loops(loss, cases, over)
        assert all(type(case["n"]) is int for case in chosen if "n" in case)


def test_a_setting_of_which_a_run_diverged_is_not_chosen():
    results, _ = records()
    runs = [i for i in range(RUNS) if (GRID["n"][i], GRID["kind"][i], GRID["rate"][i]) == (20, "b", 0.3)]
    results.validation.values[runs] = -1.0
    assert choose(results, ["n"], ["kind", "rate"])[0] == dict(n=20, kind="b", rate=0.3)
    results.validation.values[runs[1]] = np.nan
    assert choose(results, ["n"], ["kind", "rate"])[0] != dict(n=20, kind="b", rate=0.3)


def test_of_equal_settings_the_first_is_chosen():
    results, _ = records()
    results.validation.values[:] = 0.5
    assert choose(results, ["n"], ["kind", "rate"]) == [dict(n=n, kind="b", rate=0.1) for n in (20, 5)]


def test_a_case_that_diverged_is_named():
    results, _ = records()
    results.validation.values[[i for i in range(RUNS) if (GRID["n"][i], GRID["kind"][i]) == (5, "b")]] = np.nan
    assert len(choose(results, ["n"], ["kind", "rate"])) == 2
    with pytest.raises(ValueError, match=r"every setting of rate has a run of n = 5, kind = b without a finite loss, which diverged or"):
        choose(results, ["n", "kind"], ["rate"])


# -- From end to end --------------------------------------------------------------------------------------

SPACE = Sphere(3)
CASES, OVER = dict(tilt=[3.0, -3.0]), dict(radius=[2.0, 8.0], transport_step=[0.5, 1.0])


def points(key, tilt, n=20):
    """Of one shape for all runs, so that all compile once."""
    x = SPACE.sample_base(key, n, jnp.float32) + tilt * jnp.eye(3)[:1]
    return Samples(x / jnp.linalg.norm(x, axis=1, keepdims=True))


def centre(key, iterate):
    """Tells which data a run has."""
    return jnp.mean(iterate.data.points, axis=0)


def monitors(key, tilt):
    """The loss falls where the tilt is that of the data, and rises where it is the opposite."""
    return {"validation": CrossEntropy(points(key, abs(tilt), 50), SPACE, sphere_quadrature(SPACE, 8)), "centre": centre}


def go(folder, **changes):
    given = dict(cases=CASES, over=OVER, method=Dual(SPACE, neurons=4), rates=None, data=points, metrics=monitors, folder=folder)
    given |= dict(seeds=[0, 1], repeats=[7, 8], steps=4, every=2, placement=Placement(batch_size=4), progress=False)
    return select(**given | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    return folder, go(folder)


def test_the_search_and_what_it_chooses(whole):
    folder, found = whole
    assert sorted(path.name for path in folder.iterdir()) == ["repeats", "search"]
    assert found.search.sizes["run"] == 2 * 4 * 2 and found.repeats.sizes["run"] == found.best.sizes["run"] == 2 * 2
    assert [case["tilt"] for case in found.chosen] == [3.0, -3.0]
    losses = {}
    for run in range(found.search.sizes["run"]):
        tilt, radius, step, seed = (found.search[name].values[run].item() for name in ("tilt", "radius", "transport_step", "seed"))
        losses[tilt, radius, step, seed] = min(found.search.validation.values[run, :, 0].tolist())
    assert len(set(losses.values())) == len(losses)
    for case in found.chosen:
        settings = [(radius, step) for radius in OVER["radius"] for step in OVER["transport_step"]]
        means = [np.mean([losses[case["tilt"], *setting, seed] for seed in (0, 1)]) for setting in settings]
        assert (case["radius"], case["transport_step"]) == settings[int(np.argmin(means))]


def test_the_repetitions_are_runs_of_the_chosen_settings_with_other_data(whole):
    _, found = whole
    assert found.repeats.seed.values.tolist() == [7, 8, 7, 8]
    for name in ("tilt", "radius", "transport_step"):
        assert found.repeats[name].values.tolist() == [case[name] for case in found.chosen for _ in range(2)]
    searched, repeated = (
        {(float(t), int(s)): tuple(c[0]) for t, s, c in zip(results.tilt, results.seed, results.centre.values, strict=True)}
        for results in (found.search, found.repeats)
    )
    assert len(searched) == len(repeated) == 4
    assert len({*searched.values(), *repeated.values()}) == 8
    grid = {name: found.repeats[name].values.tolist() for name in ("tilt", "radius", "transport_step", "seed")}
    common = dict(metrics=monitors, steps=4, every=2, placement=Placement(batch_size=4), progress=False)
    alone = sweep(grid, Dual(SPACE, neurons=4), None, points, **common)
    np.testing.assert_array_equal(alone.validation, found.repeats.validation)


def test_the_best_are_the_repetitions_at_their_early_stop(whole):
    _, found = whole
    assert len(set(found.best.stopped.values.tolist())) > 1
    for run, rows in enumerate(found.repeats.validation.values):
        i = best_record(rows[:, 0])
        assert found.best.stopped.values[run] == found.repeats.step.values[i]
        np.testing.assert_array_equal(found.best.validation.values[run], rows[i])


def test_again_from_its_folder(whole, monkeypatch):
    folder, found = whole
    monkeypatch.setattr(simulate, "run_replicas", None)  # all is done: nothing is computed
    again = go(folder)
    assert again.chosen == found.chosen
    for name in ("search", "repeats", "best"):
        xarray.testing.assert_identical(getattr(again, name).load(), getattr(found, name).load())


def test_more_repetitions_leave_the_others_as_they_are(whole):
    folder, found = whole
    before = {path: path.stat().st_mtime_ns for group in folder.glob("*/group-*") for path in group.rglob("*") if path.is_file()}
    more = go(folder, repeats=[7, 8, 9, 10])
    assert before and before == {path: path.stat().st_mtime_ns for path in before}
    assert more.chosen == found.chosen and more.best.seed.values.tolist() == [7, 8, 9, 10] * 2
    for name in ("repeats", "best"):
        old = getattr(more, name).isel(run=[0, 1, 4, 5]).drop_vars("run")
        xarray.testing.assert_identical(old.load(), getattr(found, name).drop_vars("run").load())
    assert np.isfinite(more.best.validation.values).all()


def empty(key):
    return {"validation": CrossEntropy(Samples(jnp.zeros((0, 3))), SPACE, sphere_quadrature(SPACE, 8))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(repeats=[5, 1]), "repeats has the seed 1, which the search has too"),
        (dict(seeds=[2**32]), "seeds is 4294967296; it must be an integer from 0 to 4294967295"),
        (dict(repeats=[-1]), "repeats is -1; it must be an integer from 0 to 4294967295"),
        (dict(seeds=[]), r"seeds is \[\] and repeats is \[7, 8\]; each must have at least one seed"),
        (dict(repeats=range(0)), r"seeds is \[0, 1\] and repeats is \[\]; each must have at least one seed"),
        (dict(cases=dict(tilt=[])), r"cases is {'tilt': \[\]}; it must have settings, each with at least one value"),
        (dict(over={}), "over is {}; it must have at least one setting"),
        (dict(over=dict(radius=())), r"over is {'radius': \[\]}"),
        (dict(over=dict(tilt=[3])), "tilt is in two of the grids"),
        (dict(over=dict(seed=[3])), "seed is in two of the grids"),
        (dict(over=dict(radus=[1.0])), "the nearest is 'radius'"),
        (dict(validation="validaton"), "validation is 'validaton'; did you mean 'validation'"),
        (dict(metrics={"kl": centre}), "validation is 'validation'; Allowed: 'kl'"),
        (dict(metrics=empty), r"samples is empty, shape \(0, 3\); it must hold at least one point"),
        (dict(steps=5), "steps is 5; it must be a multiple of every"),
    ],
)
def test_bad_inputs_are_named_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()
