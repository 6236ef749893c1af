"""The F2 methods: steps beside NumPy loops, their stationary states, and the kernel as the limit of features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics
from dualebm.data import targets
from dualebm.kernels import ArcCosine, BumpKernel, squared_mmd
from dualebm.measures import Samples
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy, LazyRates
from dualebm.spaces import Sphere, Torus
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import product
from dualebm.training.simulate import simulate
from tests.package.test_lazy import STILL, points_of


def test_features_come_to_the_kernel(x64):
    """f of the best charges, at rate m^(-1/2), for particles that stay."""
    space = Sphere(3)
    data, radius = Samples(points_of(space, 50)), 3.0
    flow = KernelFlow(space, ArcCosine(), particles=30, integrator="geodesic")
    rates = flow.rates._replace(particle_step=STILL, radius=radius)
    start = flow.init(jax.random.key(1), rates, data)
    exact = flow.energy(start, rates, data)(data.points)
    assert float(start.discrepancy) == pytest.approx(float(jnp.sqrt(squared_mmd(ArcCosine(), Samples(start.particles), data))), rel=1e-9)
    errors = []
    for m in (400, 6400):
        lazy, found = Lazy(space, features=m, particles=30, charges="best", integrator="geodesic"), []
        init, step = jax.jit(lazy.init), jax.jit(lazy.step)
        for seed in range(12):
            state = init(jax.random.key(seed), rates, data)._replace(columns=start.columns)
            state, _ = step(jax.random.key(3), state, rates, data)
            found.append(lazy.energy(state, rates, data)(data.points) - exact)
        errors.append(float(jnp.sqrt(jnp.mean(jnp.square(jnp.stack(found))))))
    assert np.log(errors[0] / errors[1]) / np.log(16) == pytest.approx(0.5, abs=0.15), errors


def test_the_changed_time_is_the_natural_one_at_another_speed():
    space = Sphere(3)
    data = Samples(points_of(space, 30, dtype=jnp.float32))
    changed = KernelFlow(space, time="changed", jitter=0.3)
    natural = dataclasses.replace(changed, time="natural")
    rates = changed.rates._replace(radius=2.0)
    state = jax.jit(changed.init)(jax.random.key(1), rates, data)
    assert float(state.discrepancy) > 0.01
    slowed = rates._replace(particle_step=rates.particle_step * state.discrepancy / 2.0)
    moved = [jax.jit(m.step)(jax.random.key(2), state, r, data)[0].columns for m, r in ((changed, rates), (natural, slowed))]
    np.testing.assert_allclose(*moved, atol=1e-6)
    assert float(jnp.abs(moved[0] - state.columns).max()) > 1e-3


def test_it_learns_a_planted_teacher():
    """F2 with many features on S^2, where it can: far below the KL of the uniform measure."""
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 2000)
    exact = metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature()))
    method = Lazy(teacher.space)
    rates = method.rates._replace(radius=20.0, ascent_step=30.0)
    state = method.init(jax.random.key(1), rates, data)
    counts = dict(steps=300, every=300, metrics={"kl": exact})
    state, records = simulate(jax.random.key(2), method, state, rates, data, **counts)
    assert float(records["kl"][-1]) < 0.03  # of the uniform measure 0.6325


def test_runs_of_a_sweep_with_and_without_the_average():
    space = Torus(1)
    method, data = KernelFlow(space, BumpKernel(space), particles=4), Samples(points_of(space, 6, dtype=jnp.float32))
    finite = lambda key, iterate: jnp.isfinite(iterate.energy(iterate.data.points)).all()  # noqa: E731
    grid = product(averaged=[None, 8], seed=range(2))
    results = sweep(grid, method, LazyRates(0.001), data, steps=2, every=2, metrics={"finite": finite}, progress=False)
    assert bool(results.finite.all())
