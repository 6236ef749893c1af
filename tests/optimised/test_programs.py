"""Programs that run once have the same numbers as those that are compiled as usual, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import base_mixtures, measures
from dualebm._internal import programs
from dualebm.base_families import Normal
from dualebm.base_kernels import KernelBase
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.simulate import start

POINTS = np.random.default_rng(0).normal(size=(300, 2))


def draws():
    base = base_mixtures.MixtureBase((0.3, 0.7), (Normal([0.0, 1.0], np.eye(2)), KernelBase(POINTS, np.full(300, 9.0))))
    space = Euclidean(2, base)
    x = space.sample_base(jax.random.key(0), 5000, jnp.float32)
    return x, space.log_base(x)


def ancestors():
    log_weights = jax.random.normal(jax.random.key(1), (5000,))
    return measures.resample(jax.random.key(2), log_weights, 5000), measures.effective_sample_size(log_weights)


def first_state():
    return start(jax.random.key(0), Dual(Sphere(15)), Dual(Sphere(15)).rates, Samples(jnp.eye(15)))


@pytest.mark.parametrize("of", [draws, ancestors, first_state])
def test_brief_programs_have_the_usual_numbers(of, monkeypatch):
    assert programs._known() == (jax.default_backend() == "cpu")
    brief = of()
    monkeypatch.setattr(programs, "_known", lambda: False)
    jax.tree.map(np.testing.assert_array_equal, brief, of())
