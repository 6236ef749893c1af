"""The duality gap beside the optimum itself, found by another algorithm; its search beside a grid; its error beside its spread."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import duality_gap, metrics
from dualebm.data import targets
from dualebm.duality_gap import DOUBTFUL, Certificate, certify, relaxation, summary, within
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import mean_energy, sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.run import run
from dualebm.training.simulate import simulate, start

CIRCLE, AXES = Sphere(2), Samples(jnp.array(np.eye(2)))


def circle(count):
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def best_loss(data, radius, signs, iterations=10_000):
    """The least L over the ball, on a grid of 180 parameters and 360 points, by Frank-Wolfe with its own gap: (L, how far at most)."""
    theta, nodes = circle(180), circle(360)
    features, observed = np.maximum(nodes @ theta.T, 0), np.maximum(data @ theta.T, 0).mean(0)
    energy, at_data, least, loss = np.zeros(360), 0.0, np.inf, np.inf  # the energy of the charges at the nodes, its mean at the data
    for i in range(iterations):
        top = (-energy).max()
        density = np.exp(-energy - top)
        loss = at_data + top + np.log(density.mean())
        density /= density.sum()
        slope = observed - density @ features
        scores = {s: (s * slope).min() for s in signs}
        sign = min(scores, key=scores.get)
        j, charge = np.argmin(sign * slope), sign * radius if scores[sign] < 0 else 0.0
        least = min(least, at_data - density @ energy - charge * slope[j])
        energy += 2 / (i + 2) * (charge * features[:, j] - energy)
        at_data += 2 / (i + 2) * (charge * observed[j] - at_data)
    return loss, least


@jax.jit
def loss_of(energy, data):
    values = energy(jnp.asarray(circle(720)))
    return energy(data.points).mean() + jax.scipy.special.logsumexp(-values) - np.log(720)


@pytest.mark.parametrize(("ball", "signs"), [("full", (1, -1)), pytest.param("negative", (-1,), marks=pytest.mark.heavy)])
def test_the_gap_bounds_the_distance_to_the_optimum_and_falls_to_zero(ball, signs, x64):
    """On the circle, where all of it is exact up to the grids: weak duality along training, and the gap in the end."""
    rng = np.random.default_rng(0)
    angle = np.concatenate([0.5 + 0.4 * rng.standard_normal(60), 3 + 0.7 * rng.standard_normal(40)])
    data, radius = Samples(jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1))), 3.0
    optimum, slack = best_loss(np.asarray(data.points), radius, signs)
    assert slack < 0.006
    method = Dual(CIRCLE, neurons=32, particles=4000, signs="all_negative" if ball == "negative" else "half")
    quadrature = sphere_quadrature(CIRCLE, 720, float)
    rates = method.rates._replace(radius=radius, particle_step=0.1, transport_step=0.2, reaction_step=0.4)
    gap = metrics.DualityGap(CIRCLE, quadrature, ball)
    state = start(jax.random.key(1), method, rates, data)
    judge = jax.jit(lambda energy: certify(jax.random.key(2), energy, CIRCLE, data, radius, quadrature=quadrature, ball=ball))
    train = jax.jit(lambda key, state: simulate(key, method, state, rates, data, steps=200, every=200, metrics={"gap": gap}))
    seen = []
    for i in range(4):
        found = judge(method.energy(state, rates, data))
        distance = float(loss_of(method.energy(state, rates, data), data)) - optimum
        assert -0.001 < distance < float(found.gap) + slack and float(found.error) == 0
        seen.append(float(found.gap))
        state, records = train(jax.random.fold_in(jax.random.key(3), i), state)
        assert float(records["gap"][0, 1]) == 0
    assert seen[0] > 0.2 and float(records["gap"][-1, 0]) < 0.1 * seen[0]


def test_no_charge_is_best_where_the_witness_has_the_other_sign(x64):
    """The uniform model of the unit circle, and data on a larger and a smaller one: of R max(<theta, x>, 0) the mean is R |x| / pi."""
    zero, space, nodes = Shallow(ReLU(), jnp.array([[1.0, 0.0]]), jnp.array([0.0])), Euclidean(2), Samples(jnp.array(circle(400)))

    @jax.jit
    def gaps(data):
        key = jax.random.key(0)
        return [certify(key, zero, space, Samples(data), 5.0, quadrature=nodes, ball=ball).gap for ball in ("negative", "positive")]

    np.testing.assert_allclose(gaps(jnp.array(2 * circle(400))), [5 / np.pi, 0], rtol=1e-3)
    np.testing.assert_allclose(gaps(jnp.array(circle(400) / 2)), [0, 2.5 / np.pi], rtol=1e-3)


@pytest.fixture(scope="module")
def known():
    """A teacher, data, an energy of 0.7 of its charges, samples that are of the base measure, and the energy's mean over them and under its
    own measure."""
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 500)
    energy = Shallow(ReLU(), teacher.energy.positions, jnp.array(0.7 * np.asarray(teacher.energy.coefficients)))

    @jax.jit
    def of(key):
        base = teacher.space.sample_base(key, 4000, jnp.float32)
        return base, jnp.mean(energy(base)), mean_energy(energy, teacher.quadrature())

    base, *means = of(jax.random.key(1))
    return teacher, data, energy, Samples(base), [float(mean) for mean in means]


def test_the_change_of_the_mean_energy_of_samples_of_the_model_is_within_its_error(known):
    """Over 128 keys: mean 0 and variance 1 within 5 sigma, with samples of their own for each."""
    teacher = known[0]

    def one(key):
        first, second = jax.random.split(key)
        base = teacher.space.sample_base(first, 1000, jnp.float32)
        found = relaxation(second, teacher.energy, teacher.space, Samples(base, -teacher.energy(base)), moves=10)
        return (found.after - found.before) / found.error

    scores = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(4), 128)))
    assert abs(scores.mean()) < 5 / np.sqrt(128) and abs(scores.var() - 1) < 5 * np.sqrt(2 / 128)


@pytest.mark.heavy
def test_samples_that_are_not_relaxed_are_told(known, monkeypatch):
    """With both means; not under jit, where they are not known."""
    teacher, data, energy, model, means = known
    for name in ("relaxation", "supremum"):  # whose values certify sees, outside of jit: the same, in one program each
        monkeypatch.setattr(duality_gap, name, eqx.filter_jit(getattr(duality_gap, name)))
    arguments = (jax.random.key(3), energy, teacher.space, data, 10.0)
    with pytest.warns(UserWarning, match="model is not relaxed") as caught:
        found = certify(*arguments, model=model, starts=4, steps=4)
    change = duality_gap.relaxation(jax.random.key(5), energy, teacher.space, model)
    before, after = (float(word) for word in str(caught[0].message).split("from ")[1].split(" under")[0].split(" to "))
    assert before == pytest.approx(means[0], abs=1e-3)
    assert after == pytest.approx(float(change.after), abs=5 * float(change.error)) and abs(after - before) > DOUBTFUL * float(change.error)
    assert after == pytest.approx(means[1], abs=0.1)
    jitted = jax.jit(lambda key: certify(key, *arguments[1:], model=model, starts=4, steps=4))(jax.random.key(3))
    assert float(jitted.gap) == pytest.approx(float(found.gap), abs=1e-4)


def test_the_search_climbs_from_few_parameters():
    """F = 1/4 - phi((1, 0, 0), .) over the uniform measure of S^2: the largest of |F| is where phi is."""
    model, data = sphere_quadrature(Sphere(3), 32), Samples(jnp.eye(1, 3))
    zero = Shallow(ReLU(), jnp.array([[0.6, 0.8, 0.0]]), jnp.zeros(1))
    theta, sign = jax.jit(lambda key: duality_gap.supremum(key, zero, Sphere(3), model, data, starts=1))(jax.random.key(0))
    assert theta[0] > 0.9999 and sign == -1


@pytest.mark.heavy
def test_the_gap_from_samples_of_annealing(known):
    """Within 5 of its errors of the gap by quadrature, at nearly the same theta*."""
    teacher, data, energy, *_ = known
    by = eqx.filter_jit(lambda key, quadrature=None: certify(
        key, energy, teacher.space, data, 10.0, quadrature=quadrature, chains=2000, temperatures=50, starts=8, steps=40
    ))  # fmt: skip
    drawn, exact = by(jax.random.key(3)), by(jax.random.key(3), teacher.quadrature())
    assert 0.005 < float(drawn.error) < 0.2 and float(exact.error) == 0
    assert abs(float(drawn.gap) - float(exact.gap)) < 5 * float(drawn.error) + 0.01


def test_a_certificate_as_a_sentence():
    exact = Certificate(jnp.float32(0.5), jnp.float32(0.0), jnp.array(np.zeros(2)), jnp.ones(()))
    assert summary(exact, 3.5) == "within 0.5000 nats of the best F1 energy of radius 3.5 (by quadrature)"
    estimated = summary(exact._replace(error=jnp.float32(0.01)), 3.5, "positive")
    assert estimated == "estimated within 0.5000 +- 0.0100 nats of the best positive F1 energy of radius 3.5"
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
        *(({name: 0}, f"{name} is 0") for name in ("chains", "starts", "steps")),
    ],
)
def test_bad_arguments(changes, message):
    energy = Shallow(ReLU(), AXES.points, jnp.array(np.zeros(2)))
    with pytest.raises(ValueError, match=message):
        certify(jax.random.key(0), energy, CIRCLE, AXES, 1.0, **changes)
    with pytest.raises(ValueError, match="tolerance is 0"):
        within(0.0)
