"""The adapted steps against NumPy recursions, dense matrices, and the stability of exact dynamics on the circle."""


import jax
import jax.numpy as jnp
import numpy as np

from dualebm.features import Bump
from dualebm.measures import Samples
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.dual import Dual, DualRates, annealing
from dualebm.spaces import Sphere, Torus
from dualebm.training import checkpoints
from dualebm.training.run import run
from dualebm.training.simulate import simulate
from tests.package.test_adaptive import RATES, small, sphere_points, trajectory


def test_the_particle_step_stays_within_the_sphere():
    """However low the target acceptance, `check` allows the step that results."""
    method, data = small(15, warmup=30, acceptance=0.02)
    state = trajectory(method, RATES, data, 30)[-1]
    found = method.adapted(state, RATES)
    np.testing.assert_allclose(found.particle_step, np.pi**2 / 30, rtol=1e-5)
    method.check(found, data)
    assert method.adapted(state, RATES._replace(particle_step=0.3)).particle_step <= np.pi**2 / 30


def test_the_torus_trains():
    data = Samples(Torus(1).sample_base(jax.random.key(0), 60, jnp.float32))
    method = Adaptive(Dual(Torus(1), Bump(Torus(1)), neurons=6), warmup=10)
    state = trajectory(method, method.rates, data, 12)[-1]
    assert np.isfinite(state.log_particle) and state.log_particle != 0 and state.eigenvalue > 0


def test_segments_files_and_one_run_agree(tmp_path):
    """A run stopped in the middle of its warm-up continues from its files to the same bits; its state survives the disk."""
    method, data = small(warmup=10)
    arguments = dict(
        steps=16, every=2, metrics={"x": lambda key, iterate: iterate.info.acceptance}, progress=False
    )
    whole, results = run(jax.random.key(3), method, RATES, data, **arguments, schedule=annealing(10), segment=3)
    arguments |= dict(schedule=annealing(10), folder=tmp_path / "run", segment=3)
    part, _ = run(jax.random.key(3), method, RATES, data, **arguments, callback=lambda results: results.step[-1] >= 4)
    assert 0 < int(part.step) < 10
    again, found = run(jax.random.key(3), method, RATES, data, **arguments)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    np.testing.assert_array_equal(found.x, results.x)
    checkpoints.save_state(tmp_path / "state.npz", whole)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load_state(tmp_path / "state.npz", whole), whole)


def test_vmapped_runs_equal_single_runs(x64):
    method = Adaptive(Dual(Sphere(4), neurons=5), warmup=6)
    data = Samples(jnp.array(sphere_points(0, 50, 4)))
    steps, keys = jnp.array([0.01, 0.05, 0.2]), jax.random.split(jax.random.key(0), 3)

    def one(key, step):
        rates = DualRates(step, 10 * step, 5 * step)
        return simulate(key, method, method.init(key, rates, data), rates, data, steps=8, every=2, metrics={})[0]

    runs = jax.jit(jax.vmap(one))(keys, steps)
    for i in range(3):
        alone = jax.jit(one)(keys[i], steps[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-9), runs, alone)


