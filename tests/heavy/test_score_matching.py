"""The score matching flow: its operator by finite differences, V as a derivative, and the limit of Algorithm 1 with restarts."""


import jax
import jax.numpy as jnp

from dualebm.measures import Samples
from dualebm.methods.score_matching import ScoreMatching, loss
from dualebm.spaces import Sphere
from dualebm.training.simulate import simulate


def test_it_lowers_the_loss_and_keeps_the_budget():
    space = Sphere(3)
    points = space.sample_base(jax.random.key(0), 500, jnp.float32)
    data = Samples(space.retract(points, jnp.broadcast_to(jnp.array([0.0, 0.0, 0.8]), points.shape)))
    method = ScoreMatching(space, neurons=16, weight_update="additive")
    rates = method.rates._replace(radius=1.5)
    state = method.init(jax.random.key(1), rates, data)
    value = lambda state: loss(method.feature, space, state.atoms, data, 0.2)  # noqa: E731
    after, _ = simulate(jax.random.key(2), method, state, rates, data, steps=100, every=50, metrics={})
    assert value(after) < value(state) - 0.05
    assert float(jnp.mean(jnp.exp(after.atoms.log_weights))) <= 1.5 + 1e-5
