"""Grids of settings, and what a run is by them."""

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.methods.presets import rates_from_paper
from dualebm.spaces import Sphere
from dualebm.sweeps.grid import Study, Uniform, cross, draws, product, settings_of, zipped
from dualebm.sweeps.identity import identity, owner

METHOD = Dual(Sphere(3), neurons=8)


def data(key, n=20):
    return Samples(Sphere(3).sample_base(key, n, jnp.float32))


def study(**changes):
    return Study(**{**dict(method=METHOD, rates=None, data=data, metrics={}), **changes})


def test_product_varies_the_last_fastest_and_cross_combines():
    assert settings_of(product(a=[1, 2], b=list("xy"))) == [dict(a=a, b=b) for a in (1, 2) for b in "xy"]
    grid = cross(zipped(a=[1, 2], b=[3, 4]), product(seed=range(3)))
    assert settings_of(grid) == [dict(a=a, b=a + 2, seed=s) for a in (1, 2) for s in range(3)]


def test_draws_are_within_their_bounds_and_the_same_for_a_seed():
    grid = draws(3, 4000, step=Uniform(0.01, 100.0, log=True), radius=Uniform(-1.0, 3.0), integrator=["mala", "projected"])
    assert grid == draws(3, 4000, step=Uniform(0.01, 100.0, log=True), radius=Uniform(-1.0, 3.0), integrator=["mala", "projected"])
    step, radius = np.array(grid["step"]), np.array(grid["radius"])
    assert step.min() >= 0.01 and step.max() <= 100 and radius.min() >= -1 and radius.max() <= 3
    # Of a uniform variable on (0, 1) the mean is 1/2, its standard error 1 / sqrt(12 count); 5 of them.
    band = 5 / math.sqrt(12 * 4000)
    assert abs(np.mean(np.log(step / 0.01) / np.log(1e4)) - 0.5) < band and abs(np.mean((radius + 1) / 4) - 0.5) < band
    assert abs(grid["integrator"].count("mala") / 4000 - 0.5) < 5 / (2 * math.sqrt(4000))


def test_a_setting_reaches_the_rates_the_method_and_the_functions():
    found = study(
        rates=lambda ratio, beta=10.0: rates_from_paper(0.2, ratio, beta),
        metrics=lambda key, tests: {"count": tests},
    )
    settings = dict(ratio=2.0, neurons=16, radius=3.0, n=7, tests=5, seed=4)
    run = found.replica(0, settings)
    assert run.method == Dual(Sphere(3), neurons=16)
    assert run.rates == rates_from_paper(0.2, 2.0, 10.0)._replace(radius=3.0)
    assert found.make("metrics", settings, {}) == {"count": 5}
    data_key = jax.random.split(jax.random.key(4), 3)[1]
    np.testing.assert_array_equal(found.make("data", settings, {}).points, data(data_key, 7).points)


def test_data_of_a_seed_are_made_once_and_shared_by_its_runs():
    known = {}
    found = study()
    first = found.make("data", dict(seed=1, radius=2.0), known)
    assert found.make("data", dict(seed=1, radius=3.0), known) is first
    assert found.make("data", dict(seed=2, radius=3.0), known) is not first


def test_noise_is_of_the_run_or_common_to_the_runs_of_a_seed():
    bits = lambda run: jax.random.key_data(run.key).tolist()  # noqa: E731
    runs = [dict(radius=2.0, seed=0), dict(radius=3.0, seed=0), dict(radius=2.0, seed=1)]
    own = [bits(study().replica(i, run)) for i, run in enumerate(runs)]
    assert len({tuple(b) for b in own}) == 3
    assert bits(study().replica(7, dict(seed=0, radius=2.0))) == own[0]  # neither the order nor the place counts
    common = [bits(study(common=True).replica(i, run)) for i, run in enumerate(runs)]
    assert common[0] == common[1] != common[2]


def test_groups_are_of_one_method_and_shape():
    grid = product(neurons=[4, 8], n=[10, 20], radius=[1.0, 2.0], seed=[0, 1])
    runs = [study().replica(i, run) for i, run in enumerate(settings_of(grid))]
    groups = study().groups(runs)
    assert [len(group) for group in groups] == [4] * 4
    assert [(g[0].method.neurons, g[0].settings["n"]) for g in groups] == [(4, 10), (4, 20), (8, 10), (8, 20)]


def test_identity_is_of_the_values():
    assert identity(dict(a=1, b=np.float64(0.5))) == identity(dict(b=0.5, a=1))
    assert identity(dict(a=np.zeros(2))) != identity(dict(a=np.ones(2)))
    assert identity(dict(a=lambda x: x**2)) != identity(dict(a=lambda x: x**3)) == identity(dict(a=lambda x: x**3))
    assert identity(dict(a=math.nan)) == identity(dict(a=float("nan")))


TENS = [10, 10.0, np.int32(10), np.float32(10.0), np.array(10), np.array(10.0), jnp.array(10), jnp.array(10.0)]


@pytest.mark.parametrize("name", ["radius", "neurons", "other"])
def test_equal_numbers_are_one_run_with_one_noise(name):
    """For a rate, for a field that is an integer, and for the argument of a function."""
    found = study(rates=lambda other=1: None)
    runs = [found.replica(0, run) for run in settings_of({name: TENS if name != "neurons" else TENS[::2]})]
    assert len({identity(run.settings) for run in runs}) == 1
    assert len({tuple(jax.random.key_data(run.key).tolist()) for run in runs}) == 1
    with pytest.raises(ValueError, match=f"runs 0 and 1 are the same: {name} 10"):
        found.check([run.settings for run in runs])
    assert len({owner(run.settings, 1000) for run in runs}) == 1


def test_noise_is_that_of_floats_in_rates_and_of_integers_elsewhere():
    found = study(rates=lambda other=1: None)
    expected = jax.random.fold_in(jax.random.split(jax.random.key(3), 3)[0], zlib.crc32(b'{"neurons": 8, "other": 2, "radius": 10.0}'))
    key = found.replica(0, dict(other=2.0, seed=3, radius=10, neurons=8)).key
    assert jax.random.key_data(key).tolist() == jax.random.key_data(expected).tolist()


def test_unequal_values_are_two_runs():
    pairs = [(True, 1), (False, 0), (0.1, np.float32(0.1)), ("10", 10), (2**53, 2**53 + 1), ((1, 2), (1, 3)), (None, 0)]
    for a, b in pairs:
        assert identity(dict(a=a)) != identity(dict(a=b))
    for a, b in [((1, 2.0), [1.0, 2]), (0.0, -0.0), (np.bool_(True), True), (Sphere(3), Sphere(3))]:
        assert identity(dict(a=a)) == identity(dict(a=b))


def test_owners_are_of_the_run_and_share_the_seeds_evenly():
    grid = product(radius=[1.0, 2.0, 3.0], seed=range(8))
    owners = [owner(run, 4) for run in settings_of(grid)]
    assert [owner(run, 4) for run in settings_of(product(seed=range(8), radius=[1, 2, 3]))] == [*np.reshape(owners, (3, 8)).T.ravel()]
    assert [owners.count(index) for index in range(4)] == [6] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product(), "the grid is empty"),
        (lambda: product(radius=[]), "radius has no values"),
        (lambda: zipped(a=[1], b=[1, 2]), r"different numbers of values \(a 1, b 2\)"),
        (lambda: cross(product(a=[1]), product(a=[2])), "a is in two of the grids"),
        (lambda: draws(0, 0, a=Uniform(0, 1)), "count is 0"),
        (lambda: draws(0, 2, a=Uniform(1, 1)), "a is Uniform.* low < high"),
        (lambda: draws(0, 2, a=Uniform(0, 1, log=True)), "0 < low < high"),
        (lambda: draws(0, 2, a=Uniform(0, math.inf)), "a.high is inf; it must be a finite number"),
        (lambda: settings_of({}), "the grid is empty"),
        (lambda: settings_of({"step": [1]}), "the setting 'step'; it must be an identifier other than run, step, key"),
        (lambda: study().check(settings_of({"seed": [0, 1, 0]})), "runs 0 and 2 are the same"),
        (lambda: study().replica(0, dict(radus=1.0)), "the nearest is 'radius'"),
        (lambda: study().replica(3, dict(radius=math.nan)), "radius is nan in run 3"),
        (lambda: study().replica(0, dict(seed=-1)), "seed is -1"),
        (lambda: study().replica(0, dict(seed=2**32)), "seed is 4294967296; it must be an integer from 0 to 4294967295"),
        (lambda: draws(-1, 3, a=[1]), "seed is -1; it must be an integer from 0 to 4294967295"),
        (lambda: study().replica(0, dict(integrator="mola")), "integrator is 'mola'"),
        (lambda: study(rates=lambda ratio: None).replica(0, dict(seed=0)), "rates takes 'ratio'"),
        (lambda: study(rates=(1.0,)).replica(0, dict(seed=0)), "it must be a DualRates"),
    ],
)
def test_bad_grids_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
