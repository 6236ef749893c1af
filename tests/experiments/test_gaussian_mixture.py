"""The experiment from end to end at toy size, its metrics beside NumPy, and its bad inputs."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.mixture import GaussianMixture
from dualebm.flows import jarzynski, likelihood
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.jarzynski import Jarzynski, algorithm_1
from dualebm.training.simulate import simulate
from experiments.gaussian_mixture import mixture, sweeps
from experiments.gaussian_mixture.mixture import method_of, teacher
from experiments.gaussian_mixture.sweeps import RECORDS, Settings, checked, slope


@functools.cache
def trained(dimension=3, count=40, steps=4):
    """The method with weights, its rates, data, and a state of it after some steps."""
    method, rates = method_of("jarzynski", dimension, count)
    data = mixture.data(jax.random.key(0), count, dimension)

    @jax.jit
    def last():
        first = method.init(jax.random.key(1), rates, data)
        return simulate(jax.random.key(2), method, first, rates, data, steps=steps, every=steps, metrics={})[0]

    return method, rates, data, last()


def numpy_energy(x, means, offsets):
    """U of one point, by a loop."""
    return -np.log(sum(np.exp(-np.sum((x - a) ** 2) / 2 - z) for a, z in zip(means, [0.0, *offsets], strict=True)))


def test_data_and_teacher():
    data = mixture.data(jax.random.key(3), 4000, 5).points
    assert int(jnp.sum(data[:, 0] < -3)) == 1000
    for part, first in ((data[:1000], -10), (data[1000:], 6)):
        np.testing.assert_allclose(part.mean(0), [first, 0, 0, 0, 0], atol=0.15)
        np.testing.assert_allclose(part.std(0), 1, atol=0.1)
    np.testing.assert_allclose(jnp.exp(teacher(5).log_masses()), [0.25, 0.75], rtol=1e-6)
    assert teacher(5).means.tolist() == [[-10, 0, 0, 0, 0], [6, 0, 0, 0, 0]]


@pytest.mark.parametrize("name", ["jarzynski", "adjusted", "pcd", "cd"])
def test_a_step_is_gradient_descent_with_two_steps(name):
    method, rates = method_of(name, 3, 40)
    data = mixture.data(jax.random.key(0), 40, 3)
    start = method.start(jax.random.key(1), method.space, jnp.float32)
    assert start.means[:, 0].tolist() == pytest.approx([-0.1, 0.1])
    assert rates.particle_step == 0.1 and method.integrator == ("mala" if name == "adjusted" else "geodesic") and method.walkers == 40
    assert getattr(method, "restart_every", None) == (4 if name == "cd" else None)
    if name in mixture.WEIGHTED:
        assert method.resampling == "systematic" and rates.threshold == 0.5
    faster = 10 if name == "cd" else 1
    gradient = jax.grad(lambda e: jnp.mean(e(data.points)) - 0.5 * jnp.mean(e(data.points + 1)))(start)
    optimiser = likelihood.began(start, method.optimiser, None, ()).optimiser
    after, _ = likelihood.descend(start, gradient, optimiser, rates, method.optimiser, None, ())
    np.testing.assert_allclose(after.means, start.means - faster * 0.0025 * gradient.means, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.offsets, start.offsets - faster * 0.0125 * gradient.offsets, rtol=1e-5, atol=1e-8)


def test_divergence_beside_numpy():
    method, rates, data, state = trained()
    energy, target = method.energy(state, rates, data), teacher(3)
    fresh = Samples(data.points[:7] + 0.5)
    for samples in (None, fresh):
        found = mixture.Divergence(target, samples)(None, Iterate(method, state, rates, data))
        points = (samples or data).points
        value = 0.0
        for sign, one in ((1, energy), (-1, target)):
            means, offsets = np.asarray(one.means, float), np.asarray(one.offsets, float)
            value += sign * np.mean([numpy_energy(np.asarray(x, float), means, offsets) for x in points])
            value += sign * np.log(1 + np.exp(-offsets[0]))  # of log Z, without the factors that both have
        assert float(found) == pytest.approx(value, abs=1e-4)
    at_teacher = mixture.Divergence(target, None)(None, Iterate(Fixed(target), None, None, data))
    assert float(at_teacher) == 0


class Fixed:
    """In place of a method: an energy that is given."""

    resampling = "systematic"

    def __init__(self, energy):
        self._energy, self.space = energy, method_of("pcd", energy.means.shape[1], 2)[0].space

    def energy(self, state, rates, data):
        return self._energy


def test_masses_means_and_log_z():
    data = Samples(jnp.zeros((1, 2)))
    energy = GaussianMixture(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([np.log(4.0)]), None)
    assert float(mixture.Mass()(None, Iterate(Fixed(energy), None, None, data))) == pytest.approx(0.8)
    assert mixture.Means()(None, Iterate(Fixed(energy), None, None, data)).tolist() == [1, 3]
    weights = jarzynski.Weights(jnp.log(jnp.array([1.0, 3.0])), jnp.asarray(2.0), jnp.arange(2), jnp.asarray(1))  # a mean weight of 2
    difference, error = mixture.PartitionError()(None, Iterate(Fixed(energy), SimpleNamespace(weights=weights), None, data))
    assert float(difference) == pytest.approx(2 + np.log(2) - np.log(1.25) - np.log(2 * np.pi), abs=1e-5)
    assert float(error) == pytest.approx((0.25**2 + 0.75**2 - 1 / 2) ** 0.5)


def test_the_expected_drift_beside_a_loop_and_beside_autodiff():
    method, rates, data, state = trained()
    rates, energy = rates._replace(learning_rate=3.0), method.energy(state, rates, data)
    found = float(mixture.Drift()(None, Iterate(method, state, rates, data)))
    log_weights = np.asarray(state.log_weights, float)
    p = np.exp(log_weights) / np.exp(log_weights).sum()
    assert np.ptp(log_weights) > 0
    means, z = np.asarray(energy.means, float), [0.0, float(energy.offsets[0])]
    value, by_autodiff, of_point = 0.0, 0.0, jax.jit(jax.grad(lambda e, x: e(x[None])[0]))
    for x, share in zip(np.asarray(state.particles, float), p, strict=True):
        parts = np.array([np.exp(-np.sum((x - a) ** 2) / 2 - b) for a, b in zip(means, z, strict=True)])
        r = parts / parts.sum()
        value += share**2 * sum(0.0025 * np.sum((r[i] * (means[i] - x)) ** 2) for i in range(2))
        value += share**2 * 0.0125 * r[1] ** 2
        gradient = of_point(energy, jnp.asarray(x, jnp.float32))
        by_autodiff += share**2 * float(0.0025 * jnp.sum(gradient.means**2) + 0.0125 * jnp.sum(gradient.offsets**2))
    assert found == pytest.approx(rates.learning_rate * value, rel=1e-4)
    assert found == pytest.approx(rates.learning_rate * by_autodiff, rel=1e-4)


def test_accumulated_along_the_last_axis():
    step, rate = np.array([0, 2, 6]), np.array([[1.0, 3.0, 5.0], [0.0, 0.0, 1.0]])
    assert sweeps.accumulated(step, rate).tolist() == [[0, 4, 20], [0, 0, 2]]


def test_slope_leaves_out_what_is_not_below_zero():
    counts = np.array([10, 100, 1000, 10_000])
    assert slope(counts, np.array([-1.0, -0.1, 0.3, -0.001])) == pytest.approx(-1)
    assert np.isnan(slope(counts, np.array([-1.0, 0.1, 0.3, 0.001])))
    errors = -1.0 / counts * np.array([1, 1, 1, 3])  # the last counts least
    assert -1 < slope(counts, errors) < np.polyfit(np.log(counts), np.log(-errors), 1)[0]


def test_rows_count_the_runs_that_have_it():
    row = sweeps.row_of("a", "b", "0 to 1", [0.5, 2.0, 1.0], (0.0, 1.0))
    assert row["have"] == "2 of 3" and (row["least"], row["largest"]) == (0.5, 2.0) and row["mean"] == pytest.approx(3.5 / 3)
    assert sweeps.row_of("a", "b", "", [1.0])["have"] == ""


def test_variants_are_methods():
    for increment, resampling, threshold in sweeps.variants().values():
        method, rates = method_of("jarzynski", 2, 4)
        assert isinstance(method, Jarzynski) and 0 < rates._replace(threshold=threshold).threshold < 1
        assert algorithm_1(method.space, method.start, walkers=4, increment=increment, resampling=resampling).walkers == 4
    assert sweeps.variants()["multinomial at CV^2 > 0.4"][2] == pytest.approx(1 / 1.4)








@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(methods=()), r"methods is \(\)"),
        (dict(methods=("pdc",)), "did you mean 'pcd'"),
        (dict(n=10), "n is 10; it must be a multiple of 4"),
        (dict(walkers=11), "walkers is 11; it must be even"),
        (dict(walker_counts=(10, 11)), "walkers is 11; it must be even"),
        (dict(walker_counts=(10, 10)), "each number once"),
        (dict(steps=RECORDS), "steps is 160"),
        (dict(steps=1000), "it must be a multiple of 160"),
        (dict(seeds=0), "seeds is 0"),
        (dict(test_points=0), "test_points is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
