"""Samples by weighted draws of the base measure beside quadrature, and when they are taken."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import model, sampling
from dualebm._internal import memory
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import Flat, Gaussian
from dualebm.base_mixtures import MixtureBase
from dualebm.data.preparation import Preparation
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU, ScaledBump
from dualebm.flows import resampling
from dualebm.flows.resampling import effective_fraction, resampled
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.model import Model, resolving_step
from dualebm.spaces import Euclidean, Sphere, Torus
from tests.cases import heavy

TWO = MixtureBase((0.4, 0.6), (VonMisesFisher([0.0, 0.0, 1.0], 6.0), VonMisesFisher([1.0, 0.0, 0.0], 2.0)))
KNOWN = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)


def bumps(space, centre, log_concentration, height):
    """An energy -height exp(k g(x, centre))."""
    theta = jnp.array([[*centre, log_concentration]])
    return Shallow(ScaledBump(space), theta, jnp.array([-height]))


def on_sphere():
    space = Sphere(3, TWO)
    known = sphere_quadrature(Sphere(3), 100)
    return space, bumps(space, [0.6, 0.8, 0.0], 1.5, 3.0), known.points, np.exp(np.asarray(known.log_weights, np.float64))


def on_line():
    space = Euclidean(1, MixtureBase((0.5, 0.5), (Normal([0.0], [[1.0]]), KernelBase([[2.0], [3.0]], [25.0, 25.0]))))
    x = jnp.linspace(-8, 8, 4001)[:, None]
    return space, bumps(space, [2.5], 1.0, 2.0), x, np.full(4001, 16 / 4000)


@pytest.fixture(scope="module", params=[heavy(on_sphere), on_line])
def problem(request):
    """A space, an energy, and the points and probabilities of a quadrature of the model."""
    space, energy, x, measure = request.param()
    p = measure * np.exp(np.asarray(eqx.filter_jit(lambda x: space.log_base(x) - energy(x))(x), np.float64))
    return space, energy, np.asarray(x, np.float64), p / p.sum()


@pytest.fixture(scope="module")
def samples(problem):
    """200 000 samples, which take many blocks."""
    space, energy, _, _ = problem
    fraction = effective_fraction(jax.random.key(1), energy, space)
    drawn = np.concatenate(list(resampled(jax.random.key(0), energy, space, 200_000, fraction))).astype(np.float64)
    assert 20 * fraction * resampling.DRAWS / resampling.SPARE < 200_000
    return drawn, fraction


def test_moments_are_those_of_quadrature(problem, samples):
    """The mean weight too, which a choice without replacement lowers. The pool adds 1 / SPARE to each variance at the most."""
    _, energy, x, p = problem
    drawn = samples[0]
    weight = lambda x: np.exp(-np.asarray(eqx.filter_jit(energy)(jnp.asarray(x, jnp.float32)), np.float64))[:, None]  # noqa: E731
    for values in (lambda x: x, np.square, weight):
        exact = p @ values(x)
        error = np.sqrt(p @ (values(x) - exact) ** 2 * (1 + 1 / resampling.SPARE) / len(drawn))
        assert (np.abs(values(drawn).mean(axis=0) - exact) < 5 * error).all()
        assert (np.abs(values(drawn[:2000]).mean(axis=0) - exact) < 5 * error * np.sqrt(len(drawn) / 2000)).all()


def test_the_fraction_is_that_of_quadrature(problem, samples):
    """(E w)^2 / E w^2 under tau, which is 1 / (E_p w E_p 1/w)."""
    _, energy, x, p = problem
    w = np.exp(-np.asarray(energy(jnp.asarray(x, jnp.float32)), np.float64))
    assert samples[1] == pytest.approx(1 / (p @ w) / (p @ (1 / w)), rel=0.03) and samples[1] < 0.9


def test_blocks_differ_and_more_samples_begin_with_the_same_ones(problem, samples):
    space, energy, _, _ = problem
    drawn, fraction = samples
    each = int(fraction * resampling.DRAWS / resampling.SPARE)
    some = np.concatenate(list(resampled(jax.random.key(0), energy, space, each + 7, fraction)))
    np.testing.assert_array_equal(some, drawn[: each + 7])
    assert not np.intersect1d(some[:each, 0], some[each:, 0]).size
    other = np.concatenate(list(resampled(jax.random.key(2), energy, space, each + 7, fraction)))
    assert not np.array_equal(other, some) and len(np.unique(some, axis=0)) > 0.99 * len(some)


def test_what_is_not_allowed():
    space, energy = Sphere(3), Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    for count, fraction, message in (
        (0, 0.5, "count is 0; it must be an integer of at least 1"),
        (5, 0.0, "fraction is 0.0; it must be a finite number, greater than 0 and at most 1"), (5, 1.5, "fraction is 1.5"),
        (5, math.nan, "fraction is nan"), (5, 2e-4, "fraction is 0.0002; it must be at least 0.000244141, so that a block"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            resampled(jax.random.key(0), energy, space, count, fraction)


# -- Which samples a model gives -------------------------------------------------------------------


def drawn_from(energy, space, count=50, log_partition=KNOWN, **options):
    return sampling.draw(jax.random.key(0), Model(energy, Preparation(space), log_partition, 0.1), count, **options)


def test_moves_are_made_where_draws_do_not_suffice_and_where_they_are_asked_for(monkeypatch):
    space, calls = Sphere(3), []

    def sample(key, energy, space, count, *, steps, step):
        calls.append((count, steps, step))
        return space.sample_base(key, count), jnp.float32(0.5)

    monkeypatch.setattr(sampling.langevin, "sample", sample)
    easy, hard = (Shallow(ReLU(), jnp.eye(3), jnp.array([c, 0.0, 0.0])) for c in (-3.0, -6000.0))
    weighted = drawn_from(easy, space)
    assert weighted.points.shape == (50, 3) and weighted.acceptance is None and 0.5 < weighted.fraction < 1 and not calls
    for energy, options, expected in (
        (hard, {}, (50, sampling.MOVES, 0.1)), (easy, {"steps": 7}, (50, 7, 0.1)), (easy, {"step": 0.3}, (50, sampling.MOVES, 0.3)),
        (easy, {"log_partition": KNOWN._replace(doubt="few draws")}, (50, sampling.MOVES, 0.1)),
    ):  # fmt: skip
        moved = drawn_from(energy, space, **options)
        assert calls.pop() == expected and (moved.fraction, moved.acceptance) == (None, 0.5)
    with pytest.raises(ValueError, match="count is 0"):
        drawn_from(easy, space, 0)


def test_chains_move_in_groups_and_a_group_of_its_own_has_the_key_itself(monkeypatch):
    def sample(key, energy, space, count, *, steps, step):
        return space.sample_base(key, count), jax.random.uniform(key)

    monkeypatch.setattr(sampling, "CHAINS", 20)
    monkeypatch.setattr(sampling.langevin, "sample", sample)
    energy, space = Shallow(ReLU(), jnp.eye(3), jnp.array([-3.0, 0.0, 0.0])), Sphere(3)
    drawn = drawn_from(energy, space, 50, steps=5)
    keys = [jax.random.fold_in(jax.random.key(0), group) for group in range(3)]
    parts = [sampling.langevin.sample(key, energy, space, size, steps=5, step=0.1) for key, size in zip(keys, (20, 20, 10), strict=True)]
    np.testing.assert_array_equal(drawn.points, np.concatenate([points for points, _ in parts]))
    rates = [float(rate) for _, rate in parts]
    assert drawn.acceptance == pytest.approx((20 * rates[0] + 20 * rates[1] + 10 * rates[2]) / 50)
    alone = sampling.langevin.sample(jax.random.key(0), energy, space, 20, steps=5, step=0.1)[0]
    np.testing.assert_array_equal(drawn_from(energy, space, 20, steps=5).points, alone)


@pytest.mark.skipif(memory.free() is None, reason="the system does not say how much memory is free")
def test_more_samples_than_fit_into_memory_are_refused():
    sampling.check_memory("n_samples", 10**6, 3)
    with pytest.raises(ValueError, match=r"n_samples is 1000000000000, which takes about 9.6e\+04 GB .* at most about .* --out FILE"):
        sampling.check_memory("n_samples", 10**12, 3)


def test_flat_measures_are_refused_before_a_block_is_drawn():
    flat = Model(Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), Preparation(Euclidean(2, Flat())), KNOWN, 0.1)
    with pytest.raises(ValueError, match="whose base measure cannot be sampled"):
        sampling.draw_blocks(jax.random.key(0), flat, 5)


def test_the_step_resolves_the_shortest_length_that_counts():
    """Kernels beside normal components, and bumps that change the energy; broad lengths leave the default."""
    plane, flat = Euclidean(2), Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    relative = lambda energy, space: resolving_step(energy, space) / space.default_particle_step  # noqa: E731
    narrow = Normal([0.0, 0.0], np.array([[1.0, 0.9], [0.9, 1.0]]))
    kernels = KernelBase([[0.0, 0.0], [1.0, 1.0]], [400.0, 100.0])
    assert relative(flat, plane) == 1 and relative(flat, Euclidean(2, Normal([3.0, 0.0], 9 * np.eye(2)))) == 1
    assert relative(flat, Euclidean(2, Gaussian(0.5))) == 0.25
    assert relative(flat, Euclidean(2, narrow)) == pytest.approx(0.1)  # the least eigenvalue of the covariance
    assert relative(flat, Euclidean(2, MixtureBase((0.5, 0.5), (narrow, kernels)))) == pytest.approx(1 / 400)
    theta = jnp.array([[0.0, 0.0, math.log(10.0)], [0.0, 0.0, math.log(1000.0)]])
    for coefficients, expected in (([1.0, 1.0], 1e-3), ([1.0, 0.0], 0.1), ([1.0, 0.019], 0.1), ([0.0, 0.0], 1.0)):
        energy = Shallow(ScaledBump(plane), theta, jnp.array(coefficients))
        assert relative(energy, plane) == pytest.approx(expected, rel=1e-5)
    torus = Torus(1, period=3.0)
    assert relative(Shallow(ScaledBump(torus), jnp.array([[0.5, 0.0]]), jnp.ones(1)), torus) == pytest.approx(1)


@pytest.mark.heavy
def test_moves_of_that_step_are_accepted_within_a_kernel():
    """Of the default step fewer than 1% are."""
    space = Euclidean(2, KernelBase([[0.0, 0.0], [1.0, 1.0]], [4e4, 4e4]))
    energy = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2))
    rates = [drawn_from(energy, space, steps=20, step=step).acceptance for step in (resolving_step(energy, space), 0.3)]
    assert rates[0] > 0.7 and rates[1] < 0.05


# -- Densities in the units of the data ------------------------------------------------------------


def test_volumes_of_spaces():
    areas = [math.exp(Sphere(d).log_volume) for d in (2, 3, 4)]
    assert areas == pytest.approx([2 * math.pi, 4 * math.pi, 2 * math.pi**2])
    assert math.exp(Torus(3, period=2.0).log_volume) == pytest.approx(8) and Euclidean(4).log_volume == 0


def surface():
    """A model on the sphere, points of it and its area."""
    space, energy, *_ = on_sphere()
    i = np.arange(40_000) + 0.5  # a spiral of equal areas
    z, angle = 1 - 2 * i / len(i), i * math.pi * (1 + math.sqrt(5))
    points = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)
    return "log_density_area", Preparation(space), energy, points, 4 * math.pi


def box():
    """A model on the torus, points of it and its volume."""
    torus = Torus(2, period=3.0, base=KernelBase([[0.5, 1.0], [2.0, 2.5]], [4.0, 9.0]))
    grid = np.stack(np.meshgrid(*2 * [np.arange(0, 3, 0.015)]), axis=-1).reshape(-1, 2)
    return "log_density_lebesgue", Preparation(torus), bumps(torus, [2.0, 2.0], 1.0, 2.0), grid, 9.0


def standardised_line():
    """A model of standardised rows, points of a line and the length of the line in the units of the data."""
    line, energy, *_ = on_line()
    standardised = Preparation(line, mean=np.array([100.0]), scale=np.array([5.0]))
    return "log_density_lebesgue", standardised, energy, np.linspace(-8, 8, 4001)[:, None], 5 * 16.0


@pytest.mark.parametrize("case", [heavy(surface), box, standardised_line])
def test_densities_integrate_to_z_over_the_surface_or_the_box_in_the_units_of_the_data(case):
    """With log Z = 0 the integral is Z = E_tau exp(-U), which draws of tau estimate without the density of tau."""
    name, preparation, energy, x, volume = case()
    values = model.log_densities_at(Model(energy, preparation, KNOWN, 0.1), jnp.asarray(x, jnp.float32))
    (kind,) = set(values) - {"log_density_base"}
    found, space = np.exp(values[kind]).mean() * volume, preparation.space
    w = np.exp(-np.asarray(energy(space.sample_base(jax.random.key(0), 20_000, "float32")), np.float64))
    assert kind == name and found == pytest.approx(w.mean(), abs=5 * w.std() / np.sqrt(len(w)) + 2e-3)
    assert w.mean() > 1.05
