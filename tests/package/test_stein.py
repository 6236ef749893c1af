"""Stein discrepancies: values and gradients beside loops and differences, Stein's identity, critics, and what training by them does."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics, stein, targets
from dualebm.energy import Shallow
from dualebm.features import ReLU, Softplus
from dualebm.flows.descent import NetworkRates
from dualebm.measures import Samples
from dualebm.methods.stein import KernelStein, NetworkStein
from dualebm.rkhs import RBF, ArcCosine, BumpKernel
from dualebm.simulate import simulate
from dualebm.spaces import Euclidean, Sphere, Torus
from tests import oracles_stein

score, kernelised, stein_kernel, pull_back, diagonal = map(
    eqx.filter_jit, (stein.score, stein.kernelised, stein.stein_kernel, stein.pull_back, stein.diagonal)
)
critic_slopes, critic_values, critic_loss, ascend, draw_critics = map(
    eqx.filter_jit, (stein.critic_slopes, stein.critic_values, stein.critic_loss, stein.ascend, stein.draw_critics)
)

KERNELS = {"rbf": RBF(0.8), "arc_cosine": ArcCosine()}
NAMES = {"rbf": ("rbf", 0.8), "arc_cosine": ("arc_cosine",)}
SPACES = {"sphere": Sphere(4), "flat": Euclidean(3, None), "gaussian": Euclidean(3, 1.5)}
ORACLE = {"sphere": ("sphere",), "flat": ("flat", None), "gaussian": ("flat", 1.5)}


def cloud(space, count, seed=0):
    space = Euclidean(space.dimension, 1.0) if space == Euclidean(3, None) else space
    return space.sample_base(jax.random.key(seed), count, float)


def network(space, m=5, seed=1, feature=None):
    keys = jax.random.split(jax.random.key(seed))
    return Shallow(ReLU() if feature is None else feature, jax.random.normal(keys[0], (m, space.dimension), float),
                   3 * jax.random.normal(keys[1], (m,), float))  # fmt: skip


@pytest.mark.parametrize("where", SPACES)
@pytest.mark.parametrize("kind", KERNELS)
def test_values_beside_loops(kind, where, x64):
    space, kernel = SPACES[where], KERNELS[kind]
    x, energy = cloud(space, 9), network(space)
    arrays = [np.asarray(a) for a in (energy.positions, energy.coefficients, x)]
    scores = score(energy, space, x)
    np.testing.assert_allclose(scores, oracles_stein.score(*arrays, oracles_stein.relu_slope, ORACLE[where]), rtol=1e-11, atol=1e-12)
    expected = oracles_stein.stein_matrix(NAMES[kind], arrays[2], arrays[2], *[np.asarray(scores)] * 2, ORACLE[where])
    tolerance = dict(rtol=1e-6, atol=1e-6)  # arccos near 1
    np.testing.assert_allclose(stein_kernel(kernel, space, x, scores, x, scores), expected, **tolerance)
    np.testing.assert_allclose(diagonal(kernel, space, x, scores), np.diag(expected), **tolerance)
    for statistic in stein.STATISTICS:
        value, _ = kernelised(kernel, space, Samples(x), scores, statistic)
        theirs = oracles_stein.ksd(NAMES[kind], arrays[2], np.asarray(scores), ORACLE[where], statistic)
        assert float(value) == pytest.approx(theirs, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("statistic", stein.STATISTICS)
def test_weighted_samples_are_repeated_points_as_v_and_leave_themselves_out_as_u(statistic, x64):
    space, kernel = Sphere(3), RBF()
    x, energy = cloud(space, 6), network(Sphere(3))
    scores, log_weights = score(energy, space, x), jnp.log(jnp.array([1.0, 2.0, 3.0, 1.0, 2.0, 1.0]))
    p = np.asarray(jax.nn.softmax(log_weights))
    matrix = np.asarray(stein_kernel(kernel, space, x, scores, x, scores))
    expected = p @ matrix @ p
    if statistic == "U":
        expected = (expected - np.sum(p**2 * np.diag(matrix))) / (1 - np.sum(p**2))
    found, slopes = kernelised(kernel, space, Samples(x, log_weights), scores, statistic)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    direction = jax.random.normal(jax.random.key(3), x.shape, float)
    value = lambda e: float(kernelised(kernel, space, Samples(x, log_weights), scores + e * direction, statistic)[0])  # noqa: E731
    assert float(jnp.sum(slopes * direction)) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)


HEAVY = pytest.mark.heavy


@pytest.mark.parametrize(
    ("where", "kind", "statistic"),
    [
        ("sphere", "rbf", "U"),
        pytest.param("sphere", "rbf", "V", marks=HEAVY),
        *(("sphere", "arc_cosine", statistic) for statistic in stein.STATISTICS),
        pytest.param("gaussian", "rbf", "U", marks=HEAVY),
        ("gaussian", "rbf", "V"),
    ],
)
def test_gradients_in_the_network_beside_differences(where, kind, statistic, x64):
    """Of a smooth feature, and of ReLUs whose kinks no difference crosses."""
    space, kernel = SPACES[where], KERNELS[kind]
    x = cloud(space, 8)
    for feature, slope in ((Softplus(), oracles_stein.softplus_slope), (ReLU(), oracles_stein.relu_slope)):
        energy = network(space, feature=feature)
        _, slopes = kernelised(kernel, space, Samples(x), score(energy, space, x), statistic)
        found = pull_back(energy, space, x, slopes)
        arrays = [np.asarray(a) for a in (energy.positions, energy.coefficients, x)]
        w, theta = oracles_stein.ksd_parameter_gradient(NAMES[kind], *arrays, slope, ORACLE[where], statistic)
        np.testing.assert_allclose(found.coefficients, w, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.positions, theta, rtol=1e-5, atol=1e-7)


def test_blocks_change_nothing(x64, monkeypatch):
    """Of both points, at a count that leaves a rest."""
    space, kernel = Sphere(5), RBF()
    x, energy = cloud(space, 1300), network(Sphere(5))
    scores = score(energy, space, x)
    whole = kernelised(kernel, space, Samples(x), scores)
    matrix = np.asarray(stein_kernel(kernel, space, x, scores, x, scores))
    assert float(whole[0]) == pytest.approx((matrix.sum() - np.trace(matrix)) / 1300 / 1299, rel=1e-9)
    test = stein.goodness_of_fit(jax.random.key(0), kernel, space, energy, x, 20)
    monkeypatch.setattr(stein, "SOURCES", 512)
    monkeypatch.setattr(stein, "block_columns", lambda rows: 256)
    anew = eqx.filter_jit(lambda x: stein.kernelised(kernel, space, Samples(x), scores))
    for a, b in zip(whole, anew(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    anew = eqx.filter_jit(lambda x: stein._goodness_of_fit.__wrapped__(jax.random.key(0), kernel, space, energy, x, 20))
    streamed = anew(x)
    np.testing.assert_allclose(streamed.null, test.null, rtol=1e-9)
    assert float(test.statistic) == pytest.approx(float(whole[0]), rel=1e-9)
    signs = np.asarray(jax.random.rademacher(jax.random.key(0), (20, 1300), float))
    expected = (np.einsum("bi,ij,bj->b", signs, matrix, signs, optimize=True) - np.trace(matrix)) / 1300 / 1299
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
    x = 1.5 * jax.random.normal(jax.random.key(0), (count, space.dimension), float)
    return energy, x - jnp.asarray([1.5**2 * 0.3, *[0.0] * (space.dimension - 1)])[None]


@pytest.mark.parametrize(
    "space",
    [*(pytest.param(Sphere(d), marks=HEAVY) for d in (2, 3, 10)), Euclidean(1, 1.5), Euclidean(4, 1.5)],
    ids=str,
)
def test_steins_identity(space, x64):
    """E u(x, y) = 0 at fixed y, and E A (h e_i) = 0 of critics, under the model; 5 sigma, and not under another."""
    energy, x = model_points(space, 20_000)
    scores, fixed = score(energy, space, x), x[:5] + 0
    for kernel in (RBF(), ArcCosine()):
        if kernel == ArcCosine() and space == Euclidean(1, 1.5):
            continue  # its x / |x| jumps at 0 in one dimension, where the identity has a boundary term
        values = stein_kernel(kernel, space, x[5:], scores[5:], fixed, scores[:5])
        error = jnp.std(values, axis=0) / np.sqrt(len(values))
        assert bool((jnp.abs(jnp.mean(values, axis=0)) < 5 * error).all()), kernel
        other = stein_kernel(kernel, space, x[5:], 1.5 * scores[5:] + 0.5, fixed, 1.5 * scores[:5] + 0.5)
        error = jnp.std(other, axis=0) / np.sqrt(len(values))
        assert bool((jnp.abs(jnp.mean(other, axis=0)) > 5 * error).any()), kernel
    critics = draw_critics(jax.random.key(2), space.dimension, 3, float)
    each = jax.vmap(lambda x, s: critic_values(critics, critic_slopes(critics, space, Samples(x[None]), s[None])))(x, scores)
    assert bool((jnp.abs(jnp.mean(each, axis=0)) < 5 * jnp.std(each, axis=0) / np.sqrt(len(x))).all())


@pytest.mark.parametrize("where", SPACES)
def test_critics_beside_loops(where, x64):
    space = SPACES[where]
    x, energy = cloud(space, 9), network(space)
    scores = score(energy, space, x)
    critics = draw_critics(jax.random.key(2), space.dimension, 4, float)
    v, omega = (np.asarray(a) for a in critics)
    oracle = functools.partial(oracles_stein.critic_objective, x=np.asarray(x), score=np.asarray(scores), space=ORACLE[where])
    slopes = critic_slopes(critics, space, Samples(x), scores)
    values = critic_values(critics, slopes)
    np.testing.assert_allclose(values, oracle(v, omega), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(oracles_stein.critic_norm(v, omega), 1, rtol=1e-12)
    # the slopes by differences, one neuron of each critic
    e = 1e-6 * np.random.default_rng(0).standard_normal(omega.shape)
    difference = (oracle(v, omega + e) - oracle(v, omega - e)) / 2
    np.testing.assert_allclose(np.einsum("ik,ikd,ikd->i", v, slopes, e), difference, rtol=1e-6, atol=1e-13)
    # the loss in the scores, by differences
    total, pull = critic_loss(critics, values, Samples(x))
    assert float(total) == pytest.approx(np.sum(oracle(v, omega) ** 2), rel=1e-10)
    move = 1e-6 * np.random.default_rng(1).standard_normal(x.shape)
    ends = [np.sum(oracle(v, omega, score=np.asarray(scores) + sign * move) ** 2) for sign in (1, -1)]
    assert float(jnp.sum(pull * move)) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-6)


def test_normalisations_beside_the_oracle(x64):
    critics = stein.Critics(*(jax.random.normal(jax.random.key(i), s, float) for i, s in enumerate([(3, 6), (3, 6, 3)])))
    v, omega = (np.asarray(a) for a in critics)
    before = oracles_stein.critic_norm(v, omega)
    exact, program = oracles_stein.normalise_exact, oracles_stein.normalise_as_program
    for rule, oracle, after in (("exact", exact, 1.0), ("program", program, before**0.25)):
        found = stein.normalised(critics, rule)
        for a, b in zip(found, oracle(v, omega), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        np.testing.assert_allclose(oracles_stein.critic_norm(*map(np.asarray, found)), after, rtol=1e-12)


def test_the_ascent_finds_the_supremum_on_the_circle(x64):
    """Beside a search over all directions of a neuron; the ascent may not pass it."""
    space = Sphere(2)
    x = cloud(space, 40)
    scores = score(network(space), space, x)
    exact = np.array([abs(oracles_stein.best_critic(np.asarray(x), np.asarray(scores), ("sphere",), i)[0]) for i in range(2)])
    _, found = ascend(draw_critics(jax.random.key(0), 2, 64, float), space, Samples(x), scores, 400)
    assert (np.abs(found) < exact * (1 + 1e-9)).all()
    np.testing.assert_allclose(np.abs(found), exact, rtol=0.05)


@pytest.mark.parametrize("kind", ["kernel", "network"])
@pytest.mark.parametrize("regime", ["active", "lazy"])
def test_a_step_is_down_the_discrepancy(kind, regime, x64):
    """m times the gradient of KSD^2, or of half of SD^2 at the critics that were found, by differences."""
    space = Sphere(3)
    data = Samples(cloud(space, 10))
    method = (KernelStein if kind == "kernel" else NetworkStein)(
        space, neurons=4, regime=regime, **({} if kind == "kernel" else dict(critics=3, critic_steps=2))
    )
    rates = NetworkRates(0.01, 3.0, 0.0)
    state = method.init(jax.random.key(0), rates, data)._replace(neurons=network(space, 4))
    energy = state.neurons
    after = jax.jit(method.step)(jax.random.key(1), state, rates, data)
    theta, w = np.asarray(energy.positions), np.asarray(energy.coefficients)
    x = np.asarray(data.points)
    if kind == "kernel":
        slope_w, slope_theta = oracles_stein.ksd_parameter_gradient(("rbf", 1.0), theta, w, x, oracles_stein.relu_slope, ("sphere",), "U")
    else:
        _, loss_key = jax.random.split(jax.random.key(1))
        scores = score(energy, space, data.points)
        critics, _ = ascend(draw_critics(loss_key, 3, 3, float), space, data, scores, 2)
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
    state = method.init(jax.random.key(0), rates, data)
    theta = state.neurons.positions

    def value(w):
        return kernelised(RBF(), space, data, score(Shallow(ReLU(), theta, w), space, data.points), "V")[0]

    origin, eye = jnp.zeros(m), np.eye(m)
    slope = np.array([float(value(jnp.asarray(e)) - value(jnp.asarray(-e))) / 2 for e in eye])
    pair = lambda a, b: float(value(jnp.asarray(a + b)) - value(jnp.asarray(a)) - value(jnp.asarray(b)) + value(origin))  # noqa: E731
    hessian = np.array([[pair(a, b) for b in eye] for a in eye])
    assert np.linalg.eigvalsh(hessian).min() > -1e-12
    best = np.linalg.solve(hessian + decay / m * eye, -slope)
    state, _ = jax.jit(lambda state: simulate(jax.random.key(1), method, state, rates, data, steps=4000, every=2000, metrics={}))(state)
    np.testing.assert_allclose(state.neurons.coefficients, best, rtol=1e-6, atol=1e-8)


def test_the_u_statistic_of_few_points_is_not_convex(x64):
    """Ten points, m = 40, S^4: an eigenvalue of about -0.1, where the V-statistic has none below 0."""
    space, m = Sphere(5), 40
    x = cloud(space, 10, 4)
    theta = jax.random.normal(jax.random.key(5), (m, 5), float)
    fields = jax.vmap(lambda w: score(Shallow(ReLU(), theta, w), space, x))(jnp.eye(m))
    least = {}
    for statistic in stein.STATISTICS:
        slopes = jax.vmap(lambda s, statistic=statistic: kernelised(RBF(), space, Samples(x), s, statistic)[1])
        bend = slopes(fields) - slopes(0 * fields)
        least[statistic] = float(np.linalg.eigvalsh(np.einsum("jnd,knd->jk", bend, fields)).min())
    assert least["V"] > -1e-12 and least["U"] < -1e-4


def test_batches_are_unbiased(x64):
    """The mean over batches of the gradient of U is that of all the data; 5 sigma."""
    space = Sphere(3)
    x = cloud(space, 12)
    energy = network(space, 3)
    scores = score(energy, space, x)

    def found(key):
        index = jax.random.randint(key, (6,), 0, 12)
        slopes = kernelised(RBF(), space, Samples(x[index]), scores[index])[1]
        return pull_back(energy, space, x[index], slopes).coefficients

    values = jax.jit(jax.vmap(found))(jax.random.split(jax.random.key(0), 20_000))
    # draws with replacement pair a point with itself: their mean is the V-statistic of the data
    exact = pull_back(energy, space, x, kernelised(RBF(), space, Samples(x), scores, "V")[1]).coefficients
    assert bool((jnp.abs(values.mean(0) - exact) < 5 * values.std(0) / np.sqrt(20_000)).all())
    method = KernelStein(space, neurons=3, batch=6)
    state = method.init(jax.random.key(0), method.rates, Samples(x))
    steps = [method.step(jax.random.key(i), state, method.rates, Samples(x)).neurons.coefficients for i in (1, 2)]
    assert not np.allclose(*steps)


@pytest.mark.parametrize("kind", ["kernel", pytest.param("network", marks=HEAVY)])
def test_it_learns(kind):
    """A planted teacher on S^2 from 2000 points: KL falls fivefold."""
    teacher = targets.teacher("s2_bimodal")
    data = targets.sample(jax.random.key(0), teacher, 1000)[0]
    exact = metrics.KLDivergence(teacher.energy, metrics.exact_samples(teacher.energy, teacher.quadrature(nodes=40)))
    method = KernelStein(teacher.space, neurons=32) if kind == "kernel" else NetworkStein(teacher.space, neurons=32, critics=16)
    rates = method.rates._replace(learning_rate=0.2 if kind == "kernel" else 0.5)
    state = method.init(jax.random.key(1), rates, data)
    learn = jax.jit(lambda state: simulate(jax.random.key(2), method, state, rates, data, steps=200, every=100, metrics={"kl": exact}))
    _, records = learn(state)
    assert float(records["kl"][-1]) < 0.2 * teacher.kl_to_uniform


def test_goodness_of_fit_of_the_model_and_of_another(x64):
    """p-values of the model's own samples are uniform enough over 40 tests (5 sigma of the mean); those of the zero energy are least."""
    teacher = targets.teacher("s2_bimodal", float)
    points, zero = targets.sample(jax.random.key(0), teacher, 40 * 100)[0].points.reshape(40, 100, 3), network(Sphere(3), 1)
    zero = Shallow(ReLU(), zero.positions, jnp.zeros(1))
    p = jax.vmap(lambda k, x: stein._goodness_of_fit(k, RBF(), teacher.space, teacher.energy, x, 99)[1])(
        jax.random.split(jax.random.key(1), 40), points
    )
    assert abs(float(p.mean()) - 0.5) < 5 * np.sqrt(1 / 12 / 40)
    assert float(stein.goodness_of_fit(jax.random.key(2), RBF(), teacher.space, zero, points[0], 99).p_value) == pytest.approx(0.01)


def test_the_discrepancy_by_critics_tells_models_apart(x64):
    teacher = targets.teacher("s2_bimodal", float)
    data = targets.sample(jax.random.key(0), teacher, 2000)[0]
    zero = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    right, wrong = (float(stein.network_discrepancy(jax.random.key(1), teacher.space, e, data, width=8)) for e in (teacher.energy, zero))
    assert right < 0.2 * wrong


def test_bad_input_is_named():
    space, x = Sphere(3), Sphere(3).sample_base(jax.random.key(0), 4, jnp.float32)
    energy = Shallow(ReLU(), jnp.eye(3), jnp.ones(3))
    for make, message in (
        (lambda: KernelStein(Torus(2)), r"space is Torus.*allowed: a Sphere"),
        (lambda: KernelStein(space, kernel=BumpKernel(Sphere(2))), "kernel is BumpKernel"),
        (lambda: KernelStein(space, kernel=RBF(0.0)), "bandwidth is 0.0"),
        (lambda: KernelStein(space, kernel=RBF(-1.0)), "bandwidth is -1.0"),
        (lambda: KernelStein(space, statistic="W"), "statistic is 'W'"),
        (lambda: KernelStein(space, batch=1), "batch is 1 and statistic 'U'"),
        (lambda: KernelStein(space, batch=0), "batch is 0"),
        (lambda: NetworkStein(space, critics=0), "critics is 0"),
        (lambda: NetworkStein(space, critic_steps=0), "critic_steps is 0"),
        (lambda: NetworkStein(space, normalisation="sequential"), "normalisation is 'sequential'"),
        (lambda: KernelStein(space).check(KernelStein(space).rates, Samples(2 * x)), "off the unit sphere"),
        (lambda: KernelStein(space).check(KernelStein(space).rates, Samples(x[:1])), "data has 1 point"),
        (lambda: KernelStein(space).check(NetworkRates(weight_decay=-1.0), Samples(x)), "weight_decay is -1.0"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, x[:1]), "points has 1 point"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, 2 * x), "off the unit sphere"),
        (lambda: stein.goodness_of_fit(jax.random.key(0), RBF(), space, energy, x, 0), "bootstraps is 0"),
        (lambda: stein.network_discrepancy(jax.random.key(0), space, energy, Samples(x), width=0), "width is 0"),
        (lambda: stein.network_discrepancy(jax.random.key(0), space, energy, Samples(x), rule="fast"), "rule is 'fast'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    one = KernelStein(space, statistic="V")
    one.check(one.rates, Samples(x[:1]))
