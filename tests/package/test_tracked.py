"""log Z along training, beside quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import partition, targets
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.tracked import Tracked
from dualebm.networks import MLP
from dualebm.simulate import simulate
from dualebm.spaces import Sphere

TEACHER = targets.teacher("s2_bimodal")


def exact(key, method, state, rates, data):
    return partition.log_partition(method.energy(state, rates, data), TEACHER.quadrature())


METRICS = {"exact": exact, "tracked": lambda key, method, state, rates, data: state.log_partition}


@pytest.mark.parametrize("kind", [pytest.param("shallow", marks=pytest.mark.heavy), "deep"])
def test_it_follows_log_z(kind):
    """Within 0.01 nat after hundreds of steps, for parameters that are slow beside the particles."""
    data, _ = targets.sample(jax.random.key(0), TEACHER, 2000)
    inner = Dual(TEACHER.space, neurons=16) if kind == "shallow" else Contrastive(TEACHER.space, MLP(16), optimiser="gradient")
    rates = inner.rates._replace(**(dict(transport_step=0.05, reaction_step=0.05) if kind == "shallow" else dict(learning_rate=0.01)))
    method = Tracked(inner, chains=10_000 if kind == "shallow" else 0)
    state = method.init(jax.random.key(1), rates, data)
    alone = inner.init(jax.random.key(1), rates, data)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(state.inner), strict=True))
    state, records = simulate(jax.random.key(2), method, state, rates, data, steps=300, every=100, metrics=METRICS)
    error = np.abs(np.asarray(records["tracked"] - records["exact"]))
    assert abs(float(records["exact"][-1])) > 0.2 and error.max() < 0.01, (records["exact"], error)


def test_an_increment_is_the_mean_over_particles(x64):
    space = Sphere(3)
    data = Samples(space.sample_base(jax.random.key(0), 20, float))
    method = Tracked(Dual(space, neurons=4), chains=0)
    state = method.init(jax.random.key(1), method.rates, data)
    after = jax.jit(method.step)(jax.random.key(2), state, method.rates, data)
    before, now = (method.energy(s, method.rates, data) for s in (state, after))
    ratio = np.mean([np.exp(float(before(x[None])[0] - now(x[None])[0])) for x in after.particles])
    assert float(after.log_partition) == pytest.approx(np.log(ratio), rel=1e-10) and float(state.log_partition) == 0


def test_bad_choices():
    with pytest.raises(ValueError, match="chains is -1"):
        Tracked(Dual(Sphere(3)), chains=-1)
    with pytest.raises(ValueError, match="particle_step is -1"):
        Tracked(Dual(Sphere(3))).check(Dual(Sphere(3)).rates._replace(particle_step=-1.0), Samples(jnp.eye(3)))
