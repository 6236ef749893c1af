"""Distances between samples beside NumPy loops in float64, SciPy on the line, OTT-JAX, and closed forms at 5 sigma."""

import functools
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dualebm import distances, metrics
from dualebm.distances import energy_distance, median_distance, quantile_coupling, sliced_wasserstein
from dualebm.measures import Samples
from dualebm.rkhs import RBF, Distance, Embedding, squared_distances, squared_mmd

KEY = jax.random.key(7)

energy = jax.jit(energy_distance)


@functools.partial(jax.jit, static_argnames="projections")
def slices(first, second, projections=10):
    """The distances of order 1 and of order 2."""
    return [sliced_wasserstein(KEY, first, second, projections=projections, order=order) for order in (1, 2)]


def cloud(count, d=3, seed=0, dtype=float):
    return jax.random.normal(jax.random.key(seed), (count, d), dtype)


def pair(n, m, d=3, *, weighted=True):
    """Two samples, weighted or not, and their points and weights in NumPy float64; a tenth of the weights are zero."""
    x, y = cloud(n, d), 1.3 * cloud(m, d, 1) + 0.2
    if not weighted:
        return (Samples(x), Samples(y)), [(np.float64(z), np.full(len(z), 1 / len(z))) for z in (x, y)]
    logs = [cloud(k, 1, 2 + k)[:, 0].at[::10].set(-jnp.inf) for k in (n, m)]
    weights = [np.exp(np.float64(a)) / np.exp(np.float64(a)).sum() for a in logs]
    return (Samples(x, logs[0]), Samples(y, logs[1])), [(np.float64(x), weights[0]), (np.float64(y), weights[1])]


def energy_loop(first, second):
    def mean(a, b):
        return sum(p * np.sum(b[1] * np.sqrt(np.sum((x - b[0]) ** 2, axis=1))) for x, p in zip(*a, strict=True))

    return 2 * mean(first, second) - mean(first, first) - mean(second, second)


def line_loop(x, p, y, q, order):
    """W_p^p on the line by the north-west corner: the mass of one pair of sorted points after another."""
    ranks = np.argsort(x), np.argsort(y)
    (x, p), (y, q) = (x[ranks[0]], p[ranks[0]].copy()), (y[ranks[1]], q[ranks[1]].copy())
    i = j = 0
    cost = 0.0
    while i < len(x) and j < len(y):
        mass = min(p[i], q[j])
        cost += mass * abs(x[i] - y[j]) ** order
        p[i], q[j] = p[i] - mass, q[j] - mass
        i, j = i + (p[i] <= 0), j + (q[j] <= 0)
    return cost


def directions(d, projections, dtype):
    x = jax.random.normal(KEY, (projections, d), dtype)
    return np.float64(x / jnp.linalg.norm(x, axis=1, keepdims=True))


def sliced_loop(first, second, projections, order, dtype=float):
    (x, p), (y, q) = first, second
    costs = [line_loop(x @ a, p, y @ a, q, order) for a in directions(x.shape[1], projections, dtype)]
    return np.mean(costs) ** (1 / order)


# -- The kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, pytest.param(16, marks=pytest.mark.heavy), 17, pytest.param(40, marks=pytest.mark.heavy)])
def test_the_kernel_is_minus_the_distance_and_its_gradient_that_of_differences(d, x64):
    x, y, c = cloud(20, d), cloud(30, d, 1), cloud(30, 1, 2)[:, 0]
    found = Distance()(x, y)
    np.testing.assert_allclose(found, [[-np.linalg.norm(a - b) for b in np.asarray(y)] for a in np.asarray(x)], rtol=1e-12)
    energy, e = Embedding(Distance(), y, c), 1e-6
    for k in range(min(d, 3)):
        shift = jnp.zeros((1, d)).at[0, k].set(e)
        np.testing.assert_allclose(energy.gradient(x)[:, k], (energy(x + shift) - energy(x - shift)) / (2 * e), atol=1e-7)
    by_y = jax.grad(lambda y: jnp.sum(Distance()(x, y) @ c))(y)
    np.testing.assert_allclose(by_y, c[:, None] * Embedding(Distance(), x, jnp.ones(20)).gradient(y), atol=1e-12)


@pytest.mark.parametrize("d", [3, pytest.param(40, marks=pytest.mark.heavy)])
def test_the_gradient_at_a_point_itself_is_that_of_the_others(d, x64):
    y = cloud(5, d)
    gradient = Embedding(Distance(), y, jnp.ones(5)).gradient(y[:1])
    np.testing.assert_allclose(gradient, Embedding(Distance(), y[1:], jnp.ones(4)).gradient(y[:1]), atol=1e-6)


@pytest.mark.parametrize("d", [1, 15, 16, 17, 784])
def test_near_points_far_from_the_origin_in_float32(d):
    """Up to 16 components to 1e-6 of a distance of 1e-4 or so at 30; beyond, to sqrt(eps) of the cloud's own size."""
    y = cloud(50, d, dtype=jnp.float32) + 30
    x = y + 1e-4 * cloud(50, d, 1, jnp.float32)
    found = -np.float64(Distance()(x, y))
    exact = np.linalg.norm(np.float64(x)[:, None] - np.float64(y)[None], axis=2)
    near = np.eye(50, dtype=bool)
    np.testing.assert_allclose(found[~near], exact[~near], rtol=2e-6)
    if d <= 16:
        np.testing.assert_allclose(found[near], exact[near], rtol=1e-6)
        assert (np.diag(Distance()(y, y)) == 0).all()
    else:
        assert np.abs(found - exact)[near].max() < 5 * np.sqrt(np.finfo("float32").eps * d)
        assert np.min(squared_distances(y, y)) >= 0 and np.diag(squared_distances(y, y)).max() < 1e-5 * d


# -- Energy distance -------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "weighted"), [(1, True), (1, False), pytest.param(3, False, marks=pytest.mark.heavy), (20, True)])
def test_energy_distance_is_that_of_a_loop(d, weighted, x64):
    samples, arrays = pair(60, 90, d, weighted=weighted)
    found = float(energy(*samples))
    assert found == pytest.approx(energy_loop(*arrays), rel=1e-9) and found > 0.01
    assert abs(float(energy(samples[0], samples[0]))) < 1e-14
    if d == 1:
        (x, p), (y, q) = arrays
        assert np.sqrt(found) == pytest.approx(scipy.stats.energy_distance(x[:, 0], y[:, 0], p, q), rel=1e-9)


def test_energy_distance_of_shifted_gaussians_within_5_sigma():
    """Of N(0, 1) and N(2, 1): 2 E|N(2, 2)| - 2 E|N(0, 2)|, and as a V-statistic 2 / n of E|N(0, 2)| more."""
    n, shift, blocks = 2000, 2.0, 40

    def mean(m):
        return 2 / np.sqrt(np.pi) * np.exp(-(m**2) / 4) + m * (1 - 2 * scipy.stats.norm.cdf(-m / np.sqrt(2)))

    clouds = [cloud(n, 1, i, jnp.float32) for i in range(2 * blocks)]
    found = [float(energy(Samples(x), Samples(y + shift))) for x, y in zip(clouds[::2], clouds[1::2], strict=True)]
    sigma = np.std(found, ddof=1) / np.sqrt(blocks)
    assert abs(np.mean(found) - (2 * mean(shift) - 2 * mean(0) + 2 / n * mean(0))) < 5 * sigma < 0.05


# -- Sliced Wasserstein ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "weighted"),
    [
        (50, 50, False),
        *(pytest.param(*sizes, False, marks=pytest.mark.heavy) for sizes in ((50, 75), (1, 40))),
        (50, 50, True), (20, 75, True), (75, 2, True),
    ],
)  # fmt: skip
def test_sliced_wasserstein_is_that_of_a_loop(n, m, weighted, x64, monkeypatch):
    monkeypatch.setattr(distances, "ELEMENTS", 3 * (n + m))  # batches of three directions, and a rest
    samples, arrays = pair(n, m, weighted=weighted)
    for order, found in zip((1, 2), slices(*samples), strict=True):
        assert float(found) == pytest.approx(sliced_loop(*arrays, 10, order), rel=1e-9)


def test_one_weighted_and_one_not(x64):
    (first, _), (one, _) = pair(40, 60)
    (_, second), (_, other) = pair(40, 60, weighted=False)
    for found in (slices(first, second), slices(second, first)):
        assert float(found[1]) == pytest.approx(sliced_loop(one, other, 10, 2), rel=1e-9)


def test_the_line_beside_scipy(x64):
    (first, second), ((x, p), (y, q)) = pair(200, 300, 1)
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], p, q)
    assert float(slices(first, second)[0]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_slices_beside_ott(weighted, x64):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        pytest.importorskip("ott", exc_type=ImportError)
        from ott.geometry.costs import PNormP, SqEuclidean
        from ott.tools import sliced
    samples, ((x, p), (y, q)) = pair(80, 130, weighted=weighted)
    along = directions(3, 20, float)
    for order, cost in ((1, PNormP(1.0)), (2, SqEuclidean())):
        with jax.numpy_rank_promotion("allow"):
            weights = [jnp.asarray(w) for w in (p, q)]
            expected, _ = sliced.sliced_wasserstein(*(jnp.asarray(z) for z in (x, y)), *weights, cost, lambda z: z @ along.T)
        assert float(slices(*samples, 20)[order - 1]) == pytest.approx(float(expected) ** (1 / order), rel=1e-8)


@pytest.mark.parametrize("d", [2, 15])
def test_a_translation_is_its_length_over_the_root_of_the_dimension_within_5_sigma(d):
    """W_2^2 of a slice is <s, a>^2, whose mean is |s|^2 / d and variance 2 (d - 1) / (d^2 (d + 2)) |s|^4."""
    x, shift, count = cloud(300, d, dtype=jnp.float32), jnp.ones((1, d)), 4000
    by_order_1, found = (float(value) for value in slices(Samples(x), Samples(x + shift), count))
    sigma = np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / count) * d
    assert abs(found**2 - 1) < 5 * sigma < 0.12
    along = np.abs(directions(d, count, jnp.float32) @ np.ones(d))
    assert by_order_1 == pytest.approx(along.mean(), rel=1e-4)


def test_shifted_and_scaled_gaussians_on_the_line_within_5_sigma():
    """W_2^2 of N(0, 1) and N(1, 4) is 1 + 1, up to 1 / n."""
    n, blocks = 20_000, 20
    found = [
        float(slices(Samples(x[:n]), Samples(2 * x[n:] + 1), 1)[1]) ** 2
        for x in (cloud(2 * n, 1, i, jnp.float32) for i in range(blocks))
    ]
    sigma = np.std(found, ddof=1) / np.sqrt(blocks)
    assert abs(np.mean(found) - 2) < 5 * sigma + 1e-3 and sigma < 0.02


def test_samples_far_from_the_origin_keep_their_digits():
    """In float32, the sample and its move at a distance of 4096, where float32 has 11 binary digits behind the point."""
    x = jnp.round(64 * cloud(500, dtype=jnp.float32)) / 64
    y = jnp.round(64 * cloud(700, seed=1, dtype=jnp.float32)) / 64 + 0.5
    near, far = (np.array(slices(Samples(x + s), Samples(y + s))) for s in (0.0, 4096.0))
    np.testing.assert_allclose(far, near, rtol=1e-6)


def test_a_point_of_no_weight_has_no_part():
    """A thousand of them at 1e6, which the rounding of cumulative weights in float32 would show."""
    x, y = cloud(3000, dtype=jnp.float32), cloud(2000, seed=1, dtype=jnp.float32)
    log_weights = cloud(3000, 1, 2, jnp.float32)[:, 0]
    kept = Samples(x[::3], log_weights[::3])
    dead = jnp.arange(3000) % 3 > 0
    whole = Samples(jnp.where(dead[:, None], 1e6 * x, x), jnp.where(dead, -jnp.inf, log_weights))
    found, expected = (np.array(slices(s, Samples(y))) for s in (whole, kept))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_equal_samples_are_at_zero_whatever_their_order_and_copies():
    x = cloud(64, dtype=jnp.float32)
    twice = Samples(jnp.concatenate([x[::-1], x]))
    counts = Samples(jnp.concatenate([x, x[:9] + 5]), jnp.concatenate([jnp.zeros(64), jnp.full(9, -jnp.inf)]))
    for other in (twice, counts, Samples(x)):
        assert max(float(value) for value in slices(Samples(x), other)) < 2e-3
    assert float(slices(Samples(x), twice)[1]) < 1e-6  # unweighted: exact to the digits of a product


def test_the_coupling_has_the_marginals(x64):
    laws = [jnp.asarray(np.random.default_rng(i).dirichlet(np.ones(n))) for i, n in enumerate((30, 50))]
    for p, q in (laws, laws[::-1]):
        i, j, mass = quantile_coupling(jnp.cumsum(p), jnp.cumsum(q))
        np.testing.assert_allclose(np.bincount(i, mass), p, atol=1e-15)
        np.testing.assert_allclose(np.bincount(j, mass), q, atol=1e-15)
        assert (np.diff(i) >= 0).all() and (np.diff(j) >= 0).all() and (mass >= 0).all()




def test_memory_does_not_grow_with_directions():
    shape = Samples(jax.ShapeDtypeStruct((20_000, 15), jnp.float32))
    sizes = [
        jax.jit(lambda key, x, y, count=count: sliced_wasserstein(key, x, y, projections=count))
        .lower(KEY, shape, shape).compile().memory_analysis().temp_size_in_bytes
        for count in (100, 1000)
    ]  # fmt: skip
    assert sizes[1] < sizes[0] + 2**20


def test_median_distance():
    x = np.asarray(cloud(400))
    apart = [np.linalg.norm(x[i] - x[j]) for i in range(400) for j in range(i)]
    assert median_distance(x) == pytest.approx(np.median(apart))
    assert median_distance(np.concatenate([x[:30]] * 2)) == pytest.approx(median_distance(x[:30]), rel=1e-12)
    assert median_distance(np.repeat(x, 10, axis=0), largest=400) == pytest.approx(np.median(apart), rel=0.01)


@pytest.mark.parametrize("distance", [energy_distance, lambda *pair: sliced_wasserstein(KEY, *pair)])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((4, 3), (5, 2), r"second has points of shape \(5, 2\); it must be \(count, 3\), as first"),
        ((0, 3), (5, 3), r"first has points of shape \(0, 3\); it must hold at least one point"),
        ((4, 3), (0, 3), r"second has points of shape \(0, 3\); it must hold at least one point"),
    ],
)
def test_pairs_that_are_not_allowed(distance, first, second, message):
    with pytest.raises(ValueError, match=message):
        distance(Samples(jnp.zeros(first)), Samples(jnp.zeros(second)))


def test_weights_of_another_count():
    with pytest.raises(ValueError, match=r"second has log_weights of shape \(3,\); it must be \(4,\)"):
        distances.check_pair(Samples(jnp.eye(4)), Samples(jnp.eye(4), jnp.zeros(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(order=3), "order is 3; Allowed: 1, 2"),
        (dict(order=0), "order is 0; Allowed: 1, 2"),
        (dict(projections=0), "projections is 0; it must be an integer of at least 1"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(KEY, Samples(jnp.eye(2)), Samples(jnp.eye(2)), **options)


def test_equal_points_have_no_median_distance():
    with pytest.raises(ValueError, match=r"a\.csv has no two different points among 5"):
        median_distance(np.ones((5, 2)), name="a.csv")


# -- Metrics ---------------------------------------------------------------------------------------


def test_metrics_are_of_the_particles_and_the_test_samples(x64):
    (first, test), (x, y) = pair(60, 90)
    particles, x = first.points, (x[0], np.full(60, 1 / 60))
    state = SimpleNamespace(particles=particles)
    measure = jax.jit(lambda metric: metric(KEY, None, state, None, None))
    assert float(measure(metrics.EnergyDistance(test))) == pytest.approx(energy_loop(x, y), rel=1e-9)
    assert float(measure(metrics.SlicedWasserstein(test, 10, 1))) == pytest.approx(sliced_loop(x, y, 10, 1), rel=1e-9)
    assert float(measure(metrics.SlicedWasserstein(test))) == pytest.approx(sliced_loop(x, y, 100, 2), rel=1e-9)
    expected = float(squared_mmd(RBF(0.7), Samples(particles), test)) ** 0.5
    assert float(measure(metrics.MMD(test, RBF(0.7)))) == pytest.approx(expected, rel=1e-12) and expected > 0.1
    same = [Samples(particles[jax.random.permutation(jax.random.key(i), 60)]) for i in range(20)]
    assert min(float(squared_mmd(RBF(0.7), Samples(particles), x)) for x in same) < 0  # by rounding
    assert all(0 <= float(measure(metrics.MMD(x, RBF(0.7)))) < 1e-7 for x in same)
    for metric in (metrics.MMD(test, RBF(0.7)), metrics.EnergyDistance(test), metrics.SlicedWasserstein(test)):
        assert metric.units == "1" and metric.long_name.endswith("of the particles to test samples")
