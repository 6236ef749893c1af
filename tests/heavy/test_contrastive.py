"""Contrastive divergence and its kin: a step beside its parts, where walkers restart, and what the weights of a diagnosis know."""


import jax
import numpy as np

from dualebm import metrics
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import FIXED
from dualebm.training import checkpoints
from dualebm.training.simulate import simulate


def test_it_learns_a_planted_teacher(tmp_path):
    """And its state goes to a file and back."""
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 2000)
    exact = metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature()))
    method = Contrastive(teacher.space, MLP(), moves=4, **FIXED)
    rates = method.rates._replace(learning_rate=0.01)
    state = method.init(jax.random.key(1), rates, data)
    falling = lambda k, rates: rates._replace(learning_rate=rates.learning_rate * (1 - k / 400))  # noqa: E731
    counts = dict(steps=400, every=200, metrics={"kl": exact}, schedule=falling)
    run = jax.jit(lambda state, data: simulate(jax.random.key(2), method, state, rates, data, **counts))
    state, records = run(state, data)
    assert float(records["kl"][-1]) < 0.03  # of the uniform measure 0.6325
    checkpoints.save_state(tmp_path / "state.npz", state)
    back = checkpoints.load_state(tmp_path / "state.npz", method.init(jax.random.key(1), method.rates, data))
    np.testing.assert_array_equal(method.energy(back, rates, data)(data.points), method.energy(state, rates, data)(data.points))
