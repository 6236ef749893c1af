"""The integrators: weak order on a law in closed form, invariance, noise, restarts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.flows.langevin import move
from dualebm.flows.noise import drawn, given
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
    points = jnp.array(np.concatenate([start.points[:20_000]] * 2)) if antithetic else start.points
    x, acceptance = chain(target.space, target.energy, points, 0.1, 10, antithetic=antithetic)
    assert 0.3 < float(acceptance[-1]) < 0.95
    nodes, positions = target.quadrature(), np.asarray(target.energy.positions)
    here, there, x, at = jax.device_get((*map(target.energy, (x, nodes.points)), x, nodes.points))
    law = np.exp(np.float64(nodes.log_weights) - there)
    independent = 20_000 if antithetic else 40_000
    for values, exact in ((here, there), (x @ positions[0], at @ positions[0]), ((x @ positions[1]) ** 2, (at @ positions[1]) ** 2)):
        assert abs(values.mean() - law @ exact / law.sum()) < 5 * values.std() / independent**0.5


# Each remainder under one of the two draws; the other pairs of these are of the heavy run.
@pytest.mark.parametrize(
    ("integrator", "count", "noise"),
    [
        ("mala", 1, "given"), ("mala", 513, "drawn"), ("projected", 2047, "given"),
        *(
            pytest.param(*case, marks=pytest.mark.heavy)
            for case in (("mala", 1, "drawn"), ("mala", 513, "given"), ("projected", 2047, "drawn"))
        ),
        *(
            pytest.param(*case, noise, marks=pytest.mark.heavy)
            for case in (("mala", 1537), ("mala", 511), ("mala", 1024), ("geodesic", 1536)) for noise in ("drawn", "given")
        ),
    ],
)  # fmt: skip
def test_the_streamed_block_changes_nothing(x64, integrator, count, noise):
    """Every remainder, in blocks of 256 pairs and whole: particles, acceptance and what is observed."""
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    energy = Shallow(ReLU(), jnp.array(rng.normal(size=(4, 3))), jnp.array(3 * rng.normal(size=4)))

    @partial(jax.jit, static_argnames="width")
    def moved(x, normal, uniform, width):
        draw = given(normal, uniform) if noise == "given" else drawn(jax.random.key(0), 3, jnp.float64, "independent")
        observe = lambda here: jnp.sum(here.points, axis=1)  # noqa: E731
        return move(integrator, Sphere(3), draw, x, energy, 0.2, width=width, observe=observe)

    normal, uniform = rng.normal(size=(count, 3)), rng.uniform(size=count)
    blocks, whole = (jax.device_get(moved(x.T, normal, uniform, width)) for width in (256, None))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), blocks, whole)
    np.testing.assert_allclose(blocks[2], blocks[0].sum(1), atol=1e-11)
