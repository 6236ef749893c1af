"""The integrators: weak order on a law in closed form, invariance, noise, restarts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import targets
from dualebm.energy import Shallow
from dualebm.features import ReLU
from dualebm.flows.langevin import (
    drawn,
    given,
    move,
)
from dualebm.spaces import Sphere
from tests.package.test_langevin import chain


@pytest.mark.parametrize(
    ("name", "antithetic"),
    [
        ("s2_bimodal", False),
        pytest.param("s2_bimodal", True, marks=pytest.mark.heavy),
        pytest.param("s14_monomodal", False, marks=pytest.mark.heavy),
        ("s14_monomodal", True),
        *(pytest.param("s14_bimodal", antithetic, marks=pytest.mark.heavy) for antithetic in (False, True)),
    ],
)
def test_mala_leaves_the_exact_law_invariant(name, antithetic):
    """From exact draws of a teacher, 10 large steps: mean energy, and positions along both neurons, at 5 sigma of quadrature."""
    target = targets.teacher(name)
    start, _ = targets.sample(jax.random.key(0), target, 40_000)
    points = jnp.concatenate([start.points[:20_000]] * 2) if antithetic else start.points
    x, acceptance = chain(target.space, target.energy, points, 0.1, 10, antithetic=antithetic)
    assert 0.3 < float(acceptance[-1]) < 0.95
    nodes = target.quadrature()
    law = jax.nn.softmax(nodes.log_weights - target.energy(nodes.points))
    independent = 20_000 if antithetic else 40_000
    for observable in (
        target.energy,
        lambda x: x @ target.energy.positions[0],
        lambda x: (x @ target.energy.positions[1]) ** 2,
    ):
        exact, values = float(jnp.sum(law * observable(nodes.points))), observable(x)
        assert abs(float(values.mean()) - exact) < 5 * float(values.std()) / independent**0.5


@pytest.mark.parametrize(
    ("integrator", "count"),
    [
        *(("mala", count) for count in (1, 513)),
        *(pytest.param("mala", count, marks=pytest.mark.heavy) for count in (1537, 511, 1024)),
        ("projected", 2047), pytest.param("geodesic", 1536, marks=pytest.mark.heavy),
    ],
)
def test_the_streamed_block_changes_nothing(x64, integrator, count):
    """Every remainder, in blocks of 256 pairs and whole: particles, acceptance and what is observed."""
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    energy = Shallow(ReLU(), jnp.array(rng.normal(size=(4, 3))), jnp.array(3 * rng.normal(size=4)))
    known = given(jnp.array(rng.normal(size=(count, 3))), jnp.array(rng.uniform(size=count)))
    for draw in (drawn(jax.random.key(0), 3, jnp.float64, "independent"), known):
        results = [
            jax.jit(
                lambda x, width=width, draw=draw: move(
                    integrator, Sphere(3), draw, x, energy, 0.2, width=width, observe=lambda here: jnp.sum(here.points, axis=1)
                )
            )(jnp.array(x).T)
            for width in (256, None)
        ]
        for result in results[1:]:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), result, results[0])
        np.testing.assert_allclose(results[0][2], results[0][0].sum(1), atol=1e-11)
