"""log Z along training, beside quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.log_z.quadrature import log_partition
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED
from dualebm.methods.tracked import Tracked
from dualebm.spaces import Sphere
from dualebm.training.simulate import simulate, start, step

TEACHER = targets.teacher("s2_bimodal")


def exact(key, iterate):
    return log_partition(iterate.energy, TEACHER.quadrature())


METRICS = {"exact": exact, "tracked": lambda key, iterate: iterate.state.log_partition}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["shallow", "deep"])
def test_it_follows_log_z(kind):
    """Within 0.01 nat after more than a hundred steps, for parameters that are slow beside the particles."""
    count, steps = (2000, 300) if kind == "shallow" else (1000, 150)
    data, _ = targets.sample(jax.random.key(0), TEACHER, count)
    inner = Dual(TEACHER.space, neurons=16) if kind == "shallow" else Contrastive(TEACHER.space, MLP(16), optimiser="gradient", **FIXED)
    rates = inner.rates._replace(**(dict(transport_step=0.05, reaction_step=0.05) if kind == "shallow" else dict(learning_rate=0.02)))
    method = Tracked(inner, chains=10_000 if kind == "shallow" else 0)
    state, alone = (start(jax.random.key(1), m, rates, data) for m in (method, inner))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(state.inner), strict=True))
    run = jax.jit(lambda key, state: simulate(key, method, state, rates, data, steps=steps, every=steps // 3, metrics=METRICS))
    records = jax.device_get(run(jax.random.key(2), state)[1])
    error = np.abs(records["tracked"] - records["exact"])
    assert abs(records["exact"][-1]) > 0.2 and error.max() < 0.01, (records["exact"], error)


def test_an_increment_is_the_mean_over_particles(x64):
    points = np.random.default_rng(0).normal(size=(20, 3))
    data = Samples(jnp.array(points / np.linalg.norm(points, axis=1, keepdims=True)))
    method = Tracked(Dual(Sphere(3), neurons=4), chains=0)
    state = start(jax.random.key(1), method, method.rates, data)
    after, _ = step(jax.random.key(2), method, state, method.rates, data)
    energies = jax.jit(lambda state: method.energy(state, method.rates, data)(after.particles))
    ratio = np.mean(np.exp(np.asarray(energies(state)) - np.asarray(energies(after))))
    assert float(after.log_partition) == pytest.approx(np.log(ratio), rel=1e-10) and float(state.log_partition) == 0


def test_bad_choices():
    with pytest.raises(ValueError, match="chains is -1"):
        Tracked(Dual(Sphere(3)), chains=-1)
    with pytest.raises(ValueError, match="particle_step is -1"):
        Tracked(Dual(Sphere(3))).check(Dual(Sphere(3)).rates._replace(particle_step=-1.0), Samples(jnp.array(np.eye(3))))
