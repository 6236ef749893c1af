"""The default fit finds known densities, and makes none worse than its base measure."""

import dataclasses
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import make_moons

from dualebm.auto import fit
from dualebm.base_families import VonMisesFisher
from dualebm.base_mixtures import MixtureBase
from dualebm.cli import main
from dualebm.data import targets
from dualebm.data.bases import fit_normal
from dualebm.spaces import Euclidean, Sphere
from dualebm.training import run_folder, simulate
from tests.children import Child


def log_densities(result, points):
    """-U - log Z + log tau of rows, in nats."""
    x = jnp.asarray(points, "float32")
    return np.asarray(result.space.log_base(x) - result.energy(x), np.float64) - result.log_partition.value


def fitted(key, points, space):
    return fit(jax.random.key(key), jnp.asarray(points, "float32"), space)


def test_moons_are_far_above_one_gaussian():
    x = make_moons(2600, noise=0.1, random_state=0)[0]
    x = (x - x[:600].mean(axis=0)) / x[:600].std(axis=0)
    result = fitted(0, x[:600], Euclidean(2))
    values = log_densities(result, x[600:])
    normal = np.asarray(Euclidean(2, fit_normal(x[:600])).log_base(jnp.asarray(x[600:], "float32")))
    assert values.mean() - normal.mean() > 0.5
    error = math.hypot(result.log_density[1], values.std() / math.sqrt(2000))
    assert abs(values.mean() - result.log_density[0]) < 5 * error
    line = np.linspace(-4, 4, 400)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    assert np.exp(log_densities(result, grid)).sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_rows_of_a_normal_distribution_are_no_worse_than_one_gaussian():
    rng = np.random.default_rng(1)
    x, new = rng.normal(size=(300, 3)), rng.normal(size=(5000, 3))
    difference = log_densities(fitted(1, x, Euclidean(3)), new) - fit_normal(x).log_density(Euclidean(3), jnp.asarray(new, "float32"))
    assert difference.mean() > -(2 * difference.std() / math.sqrt(5000) + 0.01)


def test_a_planted_teacher_of_two_modes():
    target = targets.teacher("s14_bimodal")
    data, _ = targets.sample(jax.random.key(0), target, 10_000)
    result = fitted(2, data.points, target.space)
    test, _ = targets.sample(jax.random.key(1), target, 50_000)
    # KL = log E* exp(U* - V) + E* (V - U*), with the energy V = U - log tau in the uniform measure
    difference = np.asarray(result.energy(test.points) - result.space.log_base(test.points) - target.energy(test.points), np.float64)
    assert 0 < logsumexp(-difference) - math.log(len(difference)) + difference.mean() < 0.003


def test_a_mixture_on_the_sphere():
    parts = (VonMisesFisher([0.0, 0.0, 1.0], 20.0), VonMisesFisher([1.0, 1.0, -1.0], 5.0))
    known = Sphere(3, MixtureBase((0.4, 0.6), parts))
    x, new = (np.asarray(known.sample_base(jax.random.key(seed), count, "float32")) for seed, count in ((0, 1500), (1, 5000)))
    result = fitted(3, x, dataclasses.replace(known, base=Sphere(3).base))
    assert 0 < np.mean(np.asarray(known.log_base(jnp.asarray(new))) - log_densities(result, new)) < 0.03


def words_of(folder, out):
    flags = ["--space", "euclidean", "--base", "normal", "--stages", "4", "--iterations", "4", "--draws", "256", "--neurons", "8"]
    return ["fit", f"{folder}/data.csv", *flags, "--out", f"{folder}/{out}"]


def fit_and_die(folder):
    """In a process of its own: a command that kills itself in the middle of its second path."""
    calls, advance = [], simulate.run_intervals

    def count(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(*arguments)

    simulate.run_intervals = count
    main.main(words_of(folder, "parts"))


def test_a_command_that_is_killed_goes_on_and_ends_the_same(tmp_path):
    np.savetxt(tmp_path / "data.csv", np.random.default_rng(0).gumbel(size=(80, 2)), delimiter=",")
    with pytest.raises(EOFError):
        Child(fit_and_die, str(tmp_path)).answer()
    assert not (tmp_path / "parts" / "model.json").exists()
    made = sorted(run_folder.read_manifest(path)["records"] for path in (tmp_path / "parts" / "paths").iterdir())
    assert made == [2, 5]
    headers = []
    for out in ("parts", "whole"):
        assert main.main(words_of(tmp_path, out)) == 0
        headers.append(json.loads((tmp_path / out / "model.json").read_text()))
        del headers[-1]["settings"]["out"]
    assert headers[0] == headers[1]
