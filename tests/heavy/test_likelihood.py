"""Maximum likelihood: steps beside loops, expectations beside quadrature, log Z by increments, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np

from dualebm import metrics
from dualebm.data import targets
from dualebm.measures import Samples
from dualebm.methods.likelihood import Likelihood
from dualebm.spaces import Sphere
from dualebm.training.run import run
from tests.package.test_likelihood import points_of


def test_fresh_chains_forget_and_others_do_not(x64):
    """Under the zero energy with a step that moves nothing, chains are where they were, or drawn anew."""
    space = Sphere(3)
    data = Samples(points_of(space, 20))
    for fresh in (False, True):
        method = Likelihood(space, neurons=3, chains=10, fresh=fresh, regime="lazy")
        rates = method.rates._replace(particle_step=1e-30)
        state = method.init(jax.random.key(0), rates, data)
        moved, _ = method.step(jax.random.key(1), state, rates, data)
        assert bool(jnp.allclose(moved.particles, state.particles, atol=1e-9)) is not fresh


def test_it_learns_and_resumes_bit_for_bit(tmp_path):
    """A run in two halves is the run in one; KL falls tenfold."""
    teacher = targets.teacher("s2_bimodal")
    data = targets.sample(jax.random.key(0), teacher, 2000)[0]
    method = Likelihood(teacher.space, neurons=32, chains=1000)
    kl = {"kl": metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature(nodes=40)))}
    common = dict(steps=400, every=50, metrics=kl, progress=False)
    rates = method.rates._replace(learning_rate=0.1)
    state, results = run(jax.random.key(1), method, rates, data, **common)
    halted, _ = run(jax.random.key(1), method, rates, data, **common, folder=tmp_path, callback=lambda r: r.step.max() >= 200)
    assert int(halted.step) < 400
    again, _ = run(jax.random.key(1), method, rates, data, **common, folder=tmp_path)
    assert float(results.kl[-1]) < 0.1 * float(results.kl[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
