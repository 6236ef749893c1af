"""The experiment from end to end, its estimates beside plain formulas, and bad settings."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.jarzynski import algorithm_1
from experiments import gradient_bias
from experiments.gradient_bias import (
    PROBLEMS,
    Divergence,
    GradientError,
    LogPartitions,
    Settings,
    bias,
    checked,
)


def test_the_bias_of_vectors_without_their_scatter():
    """In the mean over many repetitions the square is right, where the mean's own norm is not."""
    rng = np.random.default_rng(0)
    found = [bias(np.array([0.3, 0.0, -0.4]) + rng.standard_normal((8, 3))) for _ in range(4000)]
    squares, noises = np.array(found).T ** 2
    assert abs(noises.mean() - 3 / 8) < 0.01
    assert 0.25 < squares.mean() < 0.45  # of 0.25; cut at 0 where the estimate is below, else 0.25 + 0.375
    large = np.mean([bias(np.array([3.0, 0.0, -4.0]) + rng.standard_normal((8, 3)))[0] ** 2 for _ in range(2000)])
    assert abs(large - 25) < 0.5


@pytest.mark.parametrize("energy", ["mixture", pytest.param("boltzmann", marks=pytest.mark.heavy)])
def test_what_is_recorded_beside_the_exact_model(energy, x64):
    """Of exact samples of the energy at hand the error is noise; log Z as it is at the start; the divergence of a teacher from itself 0."""
    problem = PROBLEMS[energy]
    data = gradient_bias.data(jax.random.key(0), energy, 300)
    method = algorithm_1(problem.space, problem.start, walkers=20_000)
    state = jax.jit(method.init)(jax.random.key(1), method.rates, data)
    rates = method.rates
    found = np.asarray(jax.jit(lambda: GradientError(problem.space)(None, Iterate(method, state, rates, data)))())
    at_start = method.energy(state, rates, data)
    slope = jax.grad(lambda e: jnp.mean(e(data.points)) + e.log_partition(problem.space))(at_start)
    norm = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(slope)))
    assert found[0] == pytest.approx(norm, rel=1e-9) and np.abs(found[1:]).max() < 0.1
    walkers, exact = jax.jit(lambda: LogPartitions(problem.space)(None, Iterate(method, state, rates, data)))()
    assert float(walkers) == pytest.approx(float(exact), abs=1e-2)
    teacher = problem.teacher()
    itself = algorithm_1(problem.space, lambda key, space, dtype: teacher, walkers=10)
    start = itself.init(jax.random.key(0), rates, Samples(data.points))
    assert float(Divergence(problem.space, teacher)(None, Iterate(itself, start, rates, data))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(energies=("mixtur",)), "did you mean 'mixture'"),
        (dict(energies=()), r"energies is \(\)"),
        (dict(methods=("PDC",)), "did you mean 'PCD'"),
        (dict(methods=()), r"methods is \(\)"),
        (dict(seeds=1), "seeds is 1"),
        (dict(steps=55), "steps is 55; it must be a multiple of 10"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
