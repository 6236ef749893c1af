"""Stein discrepancies: values and gradients beside loops and differences, Stein's identity, critics, and what training by them does."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics, stein, stein_critics
from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU, Softplus
from dualebm.flows.two_layer import NetworkRates
from dualebm.kernels import RBF, ArcCosine, BumpKernel
from dualebm.measures import Samples
from dualebm.methods.stein import KernelStein, NetworkStein
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.simulate import simulate, start, step
from tests import oracles, oracles_stein

score, kernelised, stein_kernel, pull_back = map(eqx.filter_jit, (stein.score, stein.kernelised, stein.stein_kernel, stein.pull_back))
normalised = eqx.filter_jit(stein_critics.normalised)


@eqx.filter_jit
def of_kernel(kernel, space, energy, x):
    """The scores, the matrix u, its diagonal, and both statistics."""
    scores = stein.score(energy, space, x)
    statistics = [stein.kernelised(kernel, space, Samples(x), scores, statistic)[0] for statistic in stein.STATISTICS]
    return scores, stein.stein_kernel(kernel, space, x, scores, x, scores), stein.diagonal(kernel, space, x, scores), statistics


@eqx.filter_jit
def in_network(kernel, space, energy, x, statistic):
    """The gradient of the discrepancy in the network."""
    slopes = stein.kernelised(kernel, space, Samples(x), stein.score(energy, space, x), statistic)[1]
    return stein.pull_back(energy, space, x, slopes)


@eqx.filter_jit
def of_critics(key, space, energy, x, width):
    """The scores, critics, their slopes, values, and the loss with its gradient in the scores."""
    scores, critics = stein.score(energy, space, x), stein_critics.draw_critics(key, space.dimension, width, float)
    slopes = stein_critics.critic_slopes(critics, space, Samples(x), scores)
    values = stein_critics.critic_values(critics, slopes)
    return scores, critics, slopes, values, stein_critics.critic_loss(critics, values, Samples(x))


@eqx.filter_jit
def best_critics(key, space, energy, x, width, steps):
    """The scores, and critics that ascend, with their values."""
    scores, critics = stein.score(energy, space, x), stein_critics.draw_critics(key, space.dimension, width, float)
    return scores, *stein_critics.ascend(critics, space, Samples(x), scores, steps)


KERNELS = {"rbf": RBF(0.8), "arc_cosine": ArcCosine()}
NAMES = {"rbf": ("rbf", 0.8), "arc_cosine": ("arc_cosine",)}
SPACES = {"sphere": Sphere(4), "flat": Euclidean(3, Flat()), "gaussian": Euclidean(3, Gaussian(1.5))}
ORACLE = {"sphere": ("sphere",), "flat": ("flat", None), "gaussian": ("flat", 1.5)}


def cloud(space, count, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, space.dimension))
    return jnp.array(oracles.normalise(x) if isinstance(space, Sphere) else x * getattr(space.base, "scale", 1))


def network(space, m=5, seed=1, feature=None):
    rng = np.random.default_rng(seed)
    positions, coefficients = rng.normal(size=(m, space.dimension)), 3 * rng.normal(size=m)
    return Shallow(ReLU() if feature is None else feature, jnp.array(positions), jnp.array(coefficients))


@pytest.mark.parametrize(("kind", "where"), [("rbf", "sphere"), ("arc_cosine", "sphere"), ("rbf", "gaussian"), ("arc_cosine", "flat")])
def test_values_beside_loops(kind, where, x64):
    """Each kernel on the sphere and off it; the base measure of the flat spaces is in the scores alone."""
    space, kernel = SPACES[where], KERNELS[kind]
    x, energy = cloud(space, 9), network(space)
    arrays = [np.asarray(a) for a in (energy.positions, energy.coefficients, x)]
    scores, matrix, diagonal, statistics = jax.device_get(of_kernel(kernel, space, energy, x))
    np.testing.assert_allclose(scores, oracles_stein.score(*arrays, oracles_stein.relu_slope, ORACLE[where]), rtol=1e-11, atol=1e-12)
    expected = oracles_stein.stein_matrix(NAMES[kind], arrays[2], arrays[2], scores, scores, ORACLE[where])
    tolerance = dict(rtol=1e-6, atol=1e-6)  # arccos near 1
    np.testing.assert_allclose(matrix, expected, **tolerance)
    np.testing.assert_allclose(diagonal, np.diag(expected), **tolerance)
    for statistic, value in zip(stein.STATISTICS, statistics, strict=True):
        theirs = oracles_stein.ksd(NAMES[kind], arrays[2], scores, ORACLE[where], statistic)
        assert float(value) == pytest.approx(theirs, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("statistic", stein.STATISTICS)
def test_weighted_samples_are_repeated_points_as_v_and_leave_themselves_out_as_u(statistic, x64):
    space, kernel = Sphere(3), RBF()
    x, energy = cloud(space, 6), network(Sphere(3))
    p = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 1.0]) / 10
    log_weights = jnp.array(np.log(p) + 1)
    scores, matrix = (np.asarray(a) for a in of_kernel(kernel, space, energy, x)[:2])
    expected = p @ matrix @ p
    if statistic == "U":
        expected = (expected - np.sum(p**2 * np.diag(matrix))) / (1 - np.sum(p**2))
    at = lambda scores: kernelised(kernel, space, Samples(x, log_weights), jnp.array(scores), statistic)  # noqa: E731
    found, slopes = at(scores)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    direction = np.random.default_rng(3).normal(size=x.shape)
    value = lambda e: float(at(scores + e * direction)[0])  # noqa: E731
    assert np.sum(np.asarray(slopes) * direction) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)


HEAVY = pytest.mark.heavy


@pytest.mark.parametrize(
    ("where", "kind", "statistic", "feature"),
    [  # each two of the four choices together in one case or another
        ("sphere", "rbf", "U", "softplus"), ("sphere", "arc_cosine", "V", "relu"), ("gaussian", "rbf", "V", "relu"),
        ("gaussian", "arc_cosine", "U", "relu"), ("gaussian", "arc_cosine", "V", "softplus"),
        *(
            pytest.param(where, "rbf", statistic, feature, marks=HEAVY)
            for where, statistic in (("sphere", "V"), ("gaussian", "U")) for feature in ("softplus", "relu")
        ),
    ],
)  # fmt: skip
def test_gradients_in_the_network_beside_differences(where, kind, statistic, feature, x64):
    """Of a smooth feature, and of ReLUs whose kinks no difference crosses."""
    space, kernel = SPACES[where], KERNELS[kind]
    feature, slope = {"softplus": (Softplus(), oracles_stein.softplus_slope), "relu": (ReLU(), oracles_stein.relu_slope)}[feature]
    x, energy = cloud(space, 8), network(space, feature=feature)
    found = in_network(kernel, space, energy, x, statistic)
    arrays = [np.asarray(a) for a in (energy.positions, energy.coefficients, x)]
    w, theta = oracles_stein.ksd_parameter_gradient(NAMES[kind], *arrays, slope, ORACLE[where], statistic)
    np.testing.assert_allclose(found.coefficients, w, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.positions, theta, rtol=1e-5, atol=1e-7)


@pytest.mark.heavy
def test_blocks_change_nothing(x64, monkeypatch):
    """Of both points, at a count that leaves a rest, beside the whole matrix."""
    space, kernel, count = Sphere(5), RBF(), 650
    x, energy = cloud(space, count), network(Sphere(5))

    @jax.jit
    def whole(x):
        def u(scores):
            matrix = stein.stein_kernel(kernel, space, x, scores, x, scores)
            return (jnp.sum(matrix) - jnp.trace(matrix)) / count / (count - 1), matrix

        scores = stein.score(energy, space, x)
        return scores, *jax.value_and_grad(u, has_aux=True)(scores)

    scores, (value, matrix), slopes = jax.device_get(whole(x))
    monkeypatch.setattr(stein, "SOURCES", 256)
    monkeypatch.setattr(stein, "block_columns", lambda rows: 128)
    found, pull = kernelised(kernel, space, Samples(x), jnp.array(scores))
    assert float(found) == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(pull, slopes, rtol=1e-8, atol=1e-13)
    test = stein.goodness_of_fit(jax.random.key(0), kernel, space, energy, x, 20)
    assert float(test.statistic) == pytest.approx(value, rel=1e-9)
    signs = np.asarray(jax.random.rademacher(jax.random.key(0), (20, count), float))
    expected = (np.einsum("bi,ij,bj->b", signs, matrix, signs, optimize=True) - np.trace(matrix)) / count / (count - 1)
    np.testing.assert_allclose(test.null, expected, rtol=1e-8)


def model_points(space, count):
    """(energy, independent points of its model): a teacher on a sphere, a Gaussian less wide than the base elsewhere."""
    if isinstance(space, Sphere):
        theta = np.zeros((2, space.dimension))
        theta[0, 0], theta[1, :2] = 1, (-0.6, 0.8)
        teacher = targets.planted(theta, [-4.0, 3.0], dtype=float)
        return teacher.energy, targets.sample(jax.random.key(0), teacher, count)[0].points
    # -grad U moves the mean of N(0, 1.5^2) by -1.5^2 times the slope of a linear energy: relu(t) - relu(-t) = t
    slope = np.zeros((2, space.dimension))
    slope[0, 0], slope[1, 0] = 0.3, -0.3
    energy = Shallow(ReLU(), jnp.asarray(slope), jnp.array([2.0, -2.0]))
    x = np.asarray(cloud(space, count)) - [1.5**2 * 0.3, *[0.0] * (space.dimension - 1)]
    return energy, jnp.array(x)


@pytest.mark.parametrize("space", [*(pytest.param(Sphere(d), marks=HEAVY) for d in (2, 3, 10)), Euclidean(4, Gaussian(1.5))], ids=str)
def test_steins_identity(space, x64):
    """E u(x, y) = 0 at fixed y, and E A (h e_i) = 0 of critics, under the model; 5 sigma, and not under another."""
    energy, x = model_points(space, 20_000)

    @jax.jit
    def found(x):
        scores = stein.score(energy, space, x)
        critics = stein_critics.draw_critics(jax.random.key(2), space.dimension, 3, float)
        of_one = lambda x, s: stein_critics.critic_values(critics, stein_critics.critic_slopes(critics, space, Samples(x[None]), s[None]))  # noqa: E731
        both = [
            [stein.stein_kernel(kernel, space, x[5:], s[5:], x[:5], s[:5]) for s in (scores, 1.5 * scores + 0.5)]
            for kernel in KERNELS.values()
        ]
        return jax.vmap(of_one)(x, scores), both

    of_critics, both = jax.device_get(found(x))
    within = lambda values: np.abs(values.mean(axis=0)) < 5 * values.std(axis=0) / np.sqrt(len(values))  # noqa: E731
    assert within(of_critics).all()
    for of_model, of_another in both:
        assert within(of_model).all() and not within(of_another).all()


@pytest.mark.parametrize("where", SPACES)
def test_critics_beside_loops(where, x64):
    space = SPACES[where]
    x, energy = cloud(space, 9), network(space)
    scores, critics, slopes, values, (total, pull) = jax.device_get(of_critics(jax.random.key(2), space, energy, x, 4))
    v, omega = critics
    oracle = functools.partial(oracles_stein.critic_objective, x=np.asarray(x), score=scores, space=ORACLE[where])
    np.testing.assert_allclose(values, oracle(v, omega), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(oracles_stein.critic_norm(v, omega), 1, rtol=1e-12)
    # the slopes by differences, one neuron of each critic
    e = 1e-6 * np.random.default_rng(0).standard_normal(omega.shape)
    difference = (oracle(v, omega + e) - oracle(v, omega - e)) / 2
    np.testing.assert_allclose(np.einsum("ik,ikd,ikd->i", v, slopes, e), difference, rtol=1e-6, atol=1e-13)
    # the loss in the scores, by differences
    assert float(total) == pytest.approx(np.sum(oracle(v, omega) ** 2), rel=1e-10)
    move = 1e-6 * np.random.default_rng(1).standard_normal(x.shape)
    ends = [np.sum(oracle(v, omega, score=scores + sign * move) ** 2) for sign in (1, -1)]
    assert np.sum(pull * move) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-6)


def test_normalisations_beside_the_oracle(x64):
    rng = np.random.default_rng(0)
    v, omega = rng.normal(size=(3, 6)), rng.normal(size=(3, 6, 3))
    before = oracles_stein.critic_norm(v, omega)
    exact, program = oracles_stein.normalise_exact, oracles_stein.normalise_as_program
    for rule, oracle, after in (("exact", exact, 1.0), ("program", program, before**0.25)):
        found = normalised(stein_critics.Critics(v, omega), rule)
        for a, b in zip(found, oracle(v, omega), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        np.testing.assert_allclose(oracles_stein.critic_norm(*map(np.asarray, found)), after, rtol=1e-12)


def test_the_ascent_finds_the_supremum_on_the_circle(x64):
    """Beside the best of all directions of a neuron; the ascent may not pass it. On other data it ends at one less good."""
    space = Sphere(2)
    x = cloud(space, 40, 14)
    scores, _, found = best_critics(jax.random.key(0), space, network(space), x, 64, 400)
    exact = [oracles_stein.best_critic_exact(np.asarray(x), np.asarray(scores), ("sphere",), i)[0] for i in range(2)]
    found = np.abs(found)
    assert (found < np.array(exact) * (1 + 1e-9)).all()
    np.testing.assert_allclose(found, exact, rtol=0.05)


@pytest.mark.parametrize(("kind", "regime"), [("kernel", "active"), ("kernel", "lazy"), ("network", "active")])
def test_a_step_is_down_the_discrepancy(kind, regime, x64):
    """m times the gradient of KSD^2, or of half of SD^2 at the critics that were found, by differences."""
    space = Sphere(3)
    data = Samples(cloud(space, 10))
    method = (KernelStein if kind == "kernel" else NetworkStein)(
        space, neurons=4, regime=regime, **({} if kind == "kernel" else dict(critics=3, critic_steps=2))
    )
    rates = NetworkRates(0.01, 3.0, 0.0)
    energy = network(space, 4)
    state = start(jax.random.key(0), method, rates, data)._replace(neurons=energy)
    after, _ = jax.device_get(step(jax.random.key(1), method, state, rates, data))
    theta, w = np.asarray(energy.positions), np.asarray(energy.coefficients)
    x = np.asarray(data.points)
    if kind == "kernel":
        slope_w, slope_theta = oracles_stein.ksd_parameter_gradient(("rbf", 1.0), theta, w, x, oracles_stein.relu_slope, ("sphere",), "U")
    else:
        _, loss_key = jax.random.split(jax.random.key(1))
        _, critics, _ = best_critics(loss_key, space, energy, data.points, 3, 2)
        v, omega = (np.asarray(a) for a in critics)

        def half(w, theta):
            field = oracles_stein.score(theta, w, x, oracles_stein.relu_slope, ("sphere",))
            return 0.5 * np.sum(oracles_stein.critic_objective(v, omega, x, field, ("sphere",)) ** 2)

        slope_w = oracles_stein.central_gradient(lambda a: half(a, theta), w)
        slope_theta = oracles_stein.central_gradient(lambda a: half(w, a), theta)
    np.testing.assert_allclose(w - after.neurons.coefficients, 0.01 * 4 * slope_w, rtol=1e-5, atol=1e-9)
    moved = 0.03 * 4 * slope_theta if regime == "active" else 0 * theta
    np.testing.assert_allclose(theta - after.neurons.positions, moved, rtol=1e-5, atol=1e-9)


def test_the_lazy_v_statistic_goes_to_the_solution_of_its_linear_equations(x64):
    """KSD^2 + (decay / m) |w|^2 / 2 is a convex quadratic: its least value by a linear solve is where training ends."""
    space, m, decay = Sphere(3), 6, 0.05
    data = Samples(cloud(space, 40))
    method = KernelStein(space, neurons=m, regime="lazy", statistic="V")
    rates = NetworkRates(0.3, 0.0, decay)
    state = start(jax.random.key(0), method, rates, data)
    theta = state.neurons.positions

    @jax.jit
    @jax.vmap
    def value(w):
        return stein.kernelised(RBF(), space, data, stein.score(Shallow(ReLU(), theta, w), space, data.points), "V")[0]

    eye = np.eye(m)
    pairs = (eye[:, None] + eye[None]).reshape(-1, m)
    at = np.asarray(value(np.concatenate([eye, -eye, pairs, np.zeros((1, m))])))
    ahead, back, both, origin = at[:m], at[m : 2 * m], at[2 * m : -1].reshape(m, m), at[-1]
    slope, hessian = (ahead - back) / 2, both - ahead[:, None] - ahead[None] + origin
    assert np.linalg.eigvalsh(hessian).min() > -1e-12
    best = np.linalg.solve(hessian + decay / m * eye, -slope)
    learn = jax.jit(lambda state: simulate(jax.random.key(1), method, state, rates, data, steps=4000, every=2000, metrics={})[0])
    np.testing.assert_allclose(learn(state).neurons.coefficients, best, rtol=1e-6, atol=1e-8)


def test_the_u_statistic_of_few_points_is_not_convex(x64):
    """Ten points, m = 40, S^4: an eigenvalue of about -0.1, where the V-statistic has none below 0."""
    space, m = Sphere(5), 40
    x, theta = cloud(space, 10, 4), network(space, m, 5).positions

    @jax.jit
    def hessians(x):
        fields = jax.vmap(lambda w: stein.score(Shallow(ReLU(), theta, w), space, x))(jnp.eye(m))
        found = []
        for statistic in stein.STATISTICS:
            slopes = jax.vmap(lambda s, statistic=statistic: stein.kernelised(RBF(), space, Samples(x), s, statistic)[1])
            found.append(jnp.einsum("jnd,knd->jk", slopes(fields) - slopes(0 * fields), fields))
        return found

    least = dict(zip(stein.STATISTICS, (np.linalg.eigvalsh(h).min() for h in hessians(x)), strict=True))
    assert least["V"] > -1e-12 and least["U"] < -1e-4


def test_batches_are_unbiased(x64):
    """The mean step by batches is that of V on all the data: draws with replacement pair a point with itself; 5 sigma."""
    space, rates = Sphere(3), NetworkRates(1.0, 0.0)
    data, energy = Samples(cloud(space, 12)), network(space, 3)
    whole = KernelStein(space, neurons=3, statistic="V")
    state = start(jax.random.key(0), whole, rates, data)._replace(neurons=energy)
    exact = step(jax.random.key(1), whole, state, rates, data)[0].neurons.coefficients
    batches = KernelStein(space, neurons=3, batch=6)
    found = jax.jit(jax.vmap(lambda key: batches.step(key, state, rates, data)[0].neurons.coefficients))
    values = np.asarray(found(jax.random.split(jax.random.key(0), 10_000)))
    error = values.std(axis=0) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - exact) < 5 * error).all() and (error > 0).all()
    assert (20 * error < np.abs(values.mean(axis=0) - energy.coefficients)).any()


@pytest.mark.parametrize("kind", ["kernel", pytest.param("network", marks=HEAVY)])
def test_it_learns(kind):
    """A planted teacher on S^2 from 2000 points: KL falls fivefold."""
    teacher = targets.teacher("s2_bimodal")
    data = targets.sample(jax.random.key(0), teacher, 1000)[0]
    exact = metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature(nodes=40)))
    method = KernelStein(teacher.space, neurons=32) if kind == "kernel" else NetworkStein(teacher.space, neurons=32, critics=16)
    rates = method.rates._replace(learning_rate=0.2 if kind == "kernel" else 0.5)
    state = start(jax.random.key(1), method, rates, data)
    learn = jax.jit(lambda state: simulate(jax.random.key(2), method, state, rates, data, steps=200, every=100, metrics={"kl": exact}))
    _, records = learn(state)
    assert np.asarray(records["kl"])[-1] < 0.2 * teacher.kl_to_uniform


def test_goodness_of_fit_of_the_model_and_of_another(x64):
    """p-values of the model's own samples are uniform enough over 40 tests (5 sigma of the mean); those of the zero energy are least."""
    teacher = targets.teacher("s2_bimodal", float)
    points = np.asarray(targets.sample(jax.random.key(0), teacher, 40 * 100)[0].points).reshape(40, 100, 3)
    zero = Shallow(ReLU(), teacher.energy.positions, jnp.array([0.0, 0.0]))

    def p_value(seed, energy, x):
        return float(stein.goodness_of_fit(jax.random.key(seed), RBF(), teacher.space, energy, jnp.array(x), 99).p_value)

    assert abs(np.mean([p_value(i, teacher.energy, x) for i, x in enumerate(points)]) - 0.5) < 5 * np.sqrt(1 / 12 / 40)
    assert p_value(40, zero, points[0]) == pytest.approx(0.01)


@pytest.mark.heavy
def test_the_discrepancy_by_critics_tells_models_apart(x64):
    teacher = targets.teacher("s2_bimodal", float)
    data = targets.sample(jax.random.key(0), teacher, 2000)[0]
    zero = Shallow(ReLU(), teacher.energy.positions, jnp.array([0.0, 0.0]))
    discrepancy = lambda energy: float(stein_critics.network_discrepancy(jax.random.key(1), teacher.space, energy, data, width=8))  # noqa: E731
    right, wrong = discrepancy(teacher.energy), discrepancy(zero)
    assert right < 0.2 * wrong


def test_bad_input_is_named():
    space, x = Sphere(3), np.float32(np.concatenate([np.eye(3), -np.eye(3)[:1]]))
    energy = Shallow(ReLU(), jnp.array(np.eye(3)), jnp.array(np.ones(3)))
    discrepancy = inspect.unwrap(stein_critics.network_discrepancy)  # without the tests' check of annotations
    for make, message in (
        (lambda: KernelStein(Torus(2)), r"space is Torus.*allowed: a Sphere"),
        (lambda: KernelStein(space, kernel=BumpKernel(Sphere(2))), "kernel is BumpKernel"),
        (lambda: KernelStein(space, kernel=RBF(0.0)), "bandwidth is 0.0"),
        (lambda: KernelStein(space, kernel=RBF(-1.0)), "bandwidth is -1.0"),
        (lambda: KernelStein(space, statistic="W"), "statistic is 'W'"),
        (lambda: KernelStein(space, batch=1), "batch is 1 and statistic is 'U'"),
        (lambda: KernelStein(space, batch=0), "batch is 0"),
        (lambda: NetworkStein(space, critics=0), "critics is 0"),
        (lambda: NetworkStein(space, critic_steps=0), "critic_steps is 0"),
        (lambda: NetworkStein(space, normalisation="sequential"), "normalisation is 'sequential'"),
        (lambda: KernelStein(space).check(KernelStein(space).rates, Samples(2 * x)), "off the unit sphere"),
        (lambda: KernelStein(space).check(KernelStein(space).rates, Samples(x[:1])), "data has 1 point"),
        (lambda: KernelStein(space).check(NetworkRates(weight_decay=-1.0), Samples(x)), "weight_decay is -1.0"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, jnp.array(x[:1])), "points has 1 point"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, jnp.array(2 * x)), "off the unit sphere"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, jnp.array(x), 0), "bootstraps is 0"),
        (lambda: stein_critics.network_discrepancy(jax.random.key(0), space, energy, Samples(x), width=0), "width is 0"),
        (lambda: discrepancy(jax.random.key(0), space, energy, Samples(x), rule="fast"), "rule is 'fast'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    one = KernelStein(space, statistic="V")
    one.check(one.rates, Samples(x[:1]))
