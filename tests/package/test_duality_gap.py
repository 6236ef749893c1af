"""The bound beside the optimum itself, found by another algorithm; its error beside its spread; what it says where it says little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics
from dualebm.data import targets
from dualebm.duality_gap import Certificate, certify, summary, within
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.run import run
from tests.oracles_ball import ascended, circle, least_loss

CIRCLE, AXES = Sphere(2), Samples(jnp.array(np.eye(2)))
NODES = circle(360)


@pytest.fixture(scope="module")
def planted():
    """Data of two clusters on the circle, and for each ball of radius 3 the least loss, by another algorithm on the same nodes."""
    rng = np.random.default_rng(0)
    data = np.concatenate([0.5 + 0.4 * rng.standard_normal(60), 3 + 0.7 * rng.standard_normal(40)])
    data = np.stack([np.cos(data), np.sin(data)], axis=1).astype(np.float32).astype(float)
    weights, least = np.full(360, 1 / 360), {}
    for ball, signs in (("full", (1, -1)), ("negative", (-1,))):
        least[ball], slack = least_loss(NODES, weights, data, 3.0, signs, circle(720), refined=ascended(NODES, data))
        assert slack < 1e-4
    return data, least


def energy_of(seed, size):
    """A shallow energy of 8 neurons on the circle, and its loss less that of 0 at given data."""
    rng = np.random.default_rng(seed)
    theta, a = circle(64)[rng.choice(64, 8, replace=False)], size * rng.standard_normal(8)
    return Shallow(ReLU(), jnp.asarray(theta, jnp.float32), jnp.asarray(a, jnp.float32))


def loss_at(energy, data):
    theta, a = np.asarray(energy.positions, float), np.asarray(energy.coefficients, float) / len(energy.coefficients)
    values = np.maximum(NODES @ theta.T, 0) @ a
    return (np.maximum(data @ theta.T, 0) @ a).mean() + np.log(np.exp(-values).mean())


@pytest.mark.parametrize("ball", ["full", pytest.param("negative", marks=pytest.mark.heavy)])
def test_the_bound_is_the_distance_to_the_optimum(ball, planted):
    """From far energies, within 1% and 1e-5; weak duality without a polish; the polished energy is in the ball and as near as it says."""
    data, least = planted
    points, quadrature = Samples(jnp.asarray(data, jnp.float32)), sphere_quadrature(CIRCLE, 360)
    for size in (0.0, 2.0, 6.0):
        energy = energy_of(int(size), size)
        distance = loss_at(energy, data) - least[ball]
        bound, unpolished = (
            certify(jax.random.key(2), energy, CIRCLE, points, 3.0, quadrature=quadrature, ball=ball, polish=polish) for polish in (9, 0)
        )
        assert distance - 3e-6 < float(bound.gap) < 1.01 * distance + 1e-4 and float(bound.gap) < 0.7 * float(unpolished.gap)
        assert float(bound.error) == 0 and bool(bound.exact)
        coefficients = np.asarray(bound.energy.coefficients)
        assert np.abs(coefficients).mean() < 3.0001 and (ball == "full" or coefficients.max() <= 0)
        gained = loss_at(energy, data) - loss_at(bound.energy, data)
        assert float(bound.gain) == pytest.approx(gained, abs=1e-5) and gained < distance + 1e-6
        assert float(unpolished.gain) == 0 and loss_at(unpolished.energy, data) == pytest.approx(loss_at(energy, data), abs=1e-6)


def test_the_bound_from_samples_holds_and_is_near(planted):
    """From an energy near the best, whose samples stand for it, and from one so far that samples of others are drawn."""
    data, least = planted
    points = Samples(jnp.asarray(data, jnp.float32))
    for size, radius in ((2.0, 3.0), (40.0, 3.0)):
        energy = energy_of(3, size)
        distance = loss_at(energy, data) - least["full"]
        found = certify(jax.random.key(0), energy, CIRCLE, points, radius, chains=1000, temperatures=30, starts=32, steps=30)
        assert not found.exact and float(found.fraction) > 0.1
        assert distance - 3 * float(found.error) < float(found.gap) < 1.05 * distance + 3 * float(found.error) + 0.01
        assert float(found.gain) < distance + 3 * float(found.error) and 0 < float(found.error) < 0.05


def test_no_charge_is_best_where_the_witness_has_the_other_sign(x64):
    """The uniform model of the unit circle, and data on a larger and a smaller one: of R max(<theta, x>, 0) the mean is R |x| / pi."""
    zero, space, nodes = Shallow(ReLU(), jnp.array([[1.0, 0.0]]), jnp.array([0.0])), Euclidean(2), Samples(jnp.array(circle(400)))

    @jax.jit
    def gaps(data):
        key = jax.random.key(0)
        found = (certify(key, zero, space, Samples(data), 5.0, quadrature=nodes, ball=ball, polish=0) for ball in ("negative", "positive"))
        return [one.gap for one in found]

    np.testing.assert_allclose(gaps(jnp.array(2 * circle(400))), [5 / np.pi, 0], rtol=1e-3)
    np.testing.assert_allclose(gaps(jnp.array(circle(400) / 2)), [0, 2.5 / np.pi], rtol=1e-3)


def test_a_certificate_as_a_sentence():
    energy = Shallow(ReLU(), AXES.points, jnp.array([3.0, -4.0]))
    exact = Certificate(0.5, 0.0, 0.4, energy, jnp.array(np.zeros(2)), 1.0, 3.5, 1.0, True)
    assert summary(exact, 3.5) == "within 0.5000 nats of the best F1 energy of radius 3.5 (by quadrature)"
    estimated = summary(exact._replace(error=0.01, exact=False), 3.5, "positive")
    assert estimated == "estimated within 0.5000 +- 0.0100 nats of the best positive F1 energy of radius 3.5"
    nowhere = "not known to be near the best F1 energy of radius 3.5: "
    assert summary(exact._replace(gap=806.0), 3.5) == nowhere + "its bound is above 1 nat"
    assert summary(exact._replace(gap=np.nan), 3.5) == nowhere + "its bound is not finite"
    assert summary(exact._replace(total_variation=1.0), 3.5) == nowhere + "its total variation 1 is far from that of a better energy, 3.5"
    assert summary(exact._replace(fraction=0.03), 3.5) == nowhere + "only 3% of the samples count for a better energy"
    with pytest.raises(ValueError, match="ball is 'negatve'; did you mean 'negative'"):
        summary(exact, 1.0, "negatve")


def test_a_run_stops_by_its_certificate():
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 500)
    method = Dual(teacher.space, neurons=16, signs="all_negative")
    gap = metrics.DualityGap(teacher.space, teacher.quadrature(), "negative")
    counts = dict(steps=2000, every=20, segment=2, metrics={"gap": gap}, progress=False)
    rates = method.rates._replace(transport_step=0.3, reaction_step=0.3)
    _, results = run(jax.random.key(1), method, rates, data, callback=within(0.2), **counts)
    assert results.gap.values[-1, 0] <= 0.2 < results.gap.values[0, 0] and results.sizes["step"] < 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(ball="half", quadrature=AXES), "ball is 'half'"),
        (dict(quadrature=AXES, model=AXES), "quadrature and model are both given"),
        (dict(model=AXES), "model.points, in number, is 2; it must be an integer of at least 4"),
        (dict(polish=-1), "polish is -1"),
        *(({name: 0}, f"{name} is 0") for name in ("chains", "starts", "steps")),
    ],
)
def test_bad_arguments(changes, message):
    energy = Shallow(ReLU(), AXES.points, jnp.array(np.zeros(2)))
    with pytest.raises(ValueError, match=message):
        certify(jax.random.key(0), energy, CIRCLE, AXES, 1.0, **changes)
    with pytest.raises(ValueError, match="tolerance is 0"):
        within(0.0)
