"""Samples by weighted draws of the base measure, beside quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import VonMisesFisher
from dualebm.data.preparation import Preparation
from dualebm.energies.shallow import Shallow
from dualebm.features import ScaledBump
from dualebm.flows import resampling
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.log_z.quadrature import sphere_nodes
from dualebm.model import Model, draw
from dualebm.spaces import Sphere

SPACE = Sphere(3, VonMisesFisher([0.0, 0.0, 1.0], 2.0))
ENERGY = Shallow(ScaledBump(Sphere(3)), jnp.array([[1.0, 0.0, 0.0, np.log(5.0)]]), jnp.array([-3.0]))
KNOWN = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)


def expected():
    """Means of x and of x^2 under the model, and the effective fraction of draws, by quadrature in float64."""
    points, log_weights = sphere_nodes(Sphere(3), 60)
    tau = np.exp(log_weights + 2.0 * points[:, 2])
    tau /= tau.sum()
    w = np.exp(3 * np.exp(5 * (points[:, 0] - 1)))
    p = tau * w / (tau @ w)
    return p @ points, p @ points**2, (tau @ w) ** 2 / (tau @ w**2)


def test_samples_have_the_moments_of_the_model_and_blocks_join():
    """The count needs several blocks. Each mean is within 5 standard errors."""
    mean, square, fraction = expected()
    measured = resampling.effective_fraction(jax.random.key(1), ENERGY, SPACE)
    assert measured == pytest.approx(fraction, rel=0.05)
    count = 2 * int(measured * resampling.DRAWS / resampling.SPARE) + 100
    x = np.asarray(resampling.resampled(jax.random.key(2), ENERGY, SPACE, count, measured), np.float64)
    assert x.shape == (count, 3) and len(np.unique(x, axis=0)) == count
    for values, exact in ((x, mean), (x**2, square)):
        assert (np.abs(values.mean(axis=0) - exact) < 5 * values.std(axis=0) / np.sqrt(count)).all()
    base = np.asarray(SPACE.sample_base(jax.random.key(3), count), np.float64)
    assert abs(base[:, 0].mean() - mean[0]) > 10 * base[:, 0].std() / np.sqrt(count)
    again = resampling.resampled(jax.random.key(2), ENERGY, SPACE, 10, measured)
    np.testing.assert_array_equal(again, x[:10].astype(np.float32))


def test_weighted_draws_are_taken_where_they_suffice_and_log_z_is_trusted():
    model = Model(ENERGY, Preparation(SPACE), KNOWN, 0.05)
    assert draw(jax.random.key(0), model, 20).acceptance is None
    doubtful = model._replace(log_partition=KNOWN._replace(doubt="few draws count"))
    few = model._replace(energy=Shallow(ENERGY.feature, ENERGY.positions.at[0, 3].set(np.log(100.0)), jnp.array([-30.0])))
    for other, steps in ((doubtful, None), (few, None), (model, 3)):
        drawn = draw(jax.random.key(0), other, 20, steps=steps)
        assert drawn.fraction is None and drawn.acceptance is not None and drawn.points.shape == (20, 3)


@pytest.mark.parametrize(
    ("count", "fraction", "message"),
    [
        (0, 0.5, "count is 0; it must be an integer of at least 1"),
        (5, 0.0, "fraction is 0.0; it must be"),
        (5, 1.5, "fraction is 1.5; it must be"),
        (5, 1e-6, "fraction is 1e-06; it must be at least 0.000244"),
    ],
)
def test_what_is_not_allowed(count, fraction, message):
    with pytest.raises(ValueError, match=message):
        resampling.resampled(jax.random.key(0), ENERGY, SPACE, count, fraction)
