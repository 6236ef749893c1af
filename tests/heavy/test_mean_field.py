"""Cells, the fluxes between them, and the mean-field equations as the limit of many neurons and particles (Proposition 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal.finite_volume import cells
from dualebm.features import Softplus
from dualebm.measures import Samples
from dualebm.methods.dual import DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates
from dualebm.spaces import Sphere


def test_restarts_at_a_high_rate_are_score_matching():
    """Proposition 3: with restarts at the rate alpha and neurons at that speed, the energy comes to that of the flow of the score matching
    loss as 1 / alpha: from 32 to 64 its error is halved, but for what is of the order 1 / alpha^2 (measured: 1.92).

    The neuron step is p_R, by which the time of an iteration is that of the particles: see `experiments.mean_field.matching.restarting`.
    """
    space, feature, end = Sphere(2), Softplus(), 0.5
    centres = jnp.asarray(cells(space, 128).centres, jnp.float32)
    data = Samples(centres, 4 * centres[:, 0] + jnp.sin(3 * centres[:, 1]))

    def energy(method, state, rates, steps):
        body = lambda _, state: method.step(jax.random.key(0), state, rates, data)[0]  # noqa: E731
        last = jax.jit(lambda state: jax.lax.fori_loop(0, steps, body, state))(state)
        f = method.energy(last, rates, data)(centres)
        return f - jnp.mean(f)

    matching, rates = ScoreMatching(space, feature, neurons=512), ScoreMatchingRates(end / 500, end / 500)
    state, even = matching.init(jax.random.key(0), rates, data), jnp.asarray(cells(space, 256).centres, jnp.float32)
    state = state._replace(atoms=state.atoms._replace(positions=jnp.concatenate([even, even])))
    expected = energy(matching, state, rates, 500)
    errors = []
    for ratio in (32, 64):
        steps = 10 * ratio // 2
        restart = -np.expm1(-ratio * end / steps)
        method = MeanField(space, feature, cells=128, neuron_cells=512, substeps=24)
        rates = DualRates(end / steps, restart, restart, restart)
        method.check(rates, data)
        found = energy(method, method.init(jax.random.key(0), rates, data), rates, steps)
        errors.append(float(jnp.sqrt(jnp.mean((found - expected) ** 2))))
    assert float(jnp.std(expected)) > 5 * errors[0]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15), errors
