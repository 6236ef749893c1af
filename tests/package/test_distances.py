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
from dualebm.kernels import RBF, Distance, Embedding, squared_mmd
from dualebm.measures import Samples
from dualebm.methods.base import Iterate

KEY = jax.random.key(7)

energy = jax.jit(energy_distance)


@functools.partial(jax.jit, static_argnames="projections")
def slices(first, second, projections=10):
    """The distances of order 1 and of order 2."""
    return [sliced_wasserstein(KEY, first, second, projections=projections, order=order) for order in (1, 2)]


@jax.jit
def of_distances(x, y, c):
    """k(x, y) = -|x - y| and k(y, y), the gradient in x of sum_i c_i k(x, y_i), and that of sum_j c . k(x_j, y) in y."""
    slopes = jax.grad(lambda y: jnp.sum(Distance()(x, y) @ c))(y)
    return Distance()(x, y), Distance()(y, y), Embedding(Distance(), y, c).gradient(x), slopes


def cloud(count, d=3, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(count, d)).astype(dtype)


def pair(n, m, d=3, *, weighted=True):
    """Two samples, weighted or not, and their points and weights in NumPy float64; a tenth of the weights are zero."""
    x, y = cloud(n, d), 1.3 * cloud(m, d, 1) + 0.2
    if not weighted:
        return (Samples(x), Samples(y)), [(np.float64(z), np.full(len(z), 1 / len(z))) for z in (x, y)]
    logs = [np.where(np.arange(k) % 10, cloud(k, 1, 2 + k)[:, 0], -np.inf) for k in (n, m)]
    weights = [np.exp(a) / np.exp(a).sum() for a in logs]
    return (Samples(x, logs[0]), Samples(y, logs[1])), [(np.float64(x), weights[0]), (np.float64(y), weights[1])]


def energy_loop(first, second):
    def mean(a, b):
        return sum(p * np.sum(b[1] * np.sqrt(np.sum((x - b[0]) ** 2, axis=1))) for x, p in zip(*a, strict=True))

    return 2 * mean(first, second) - mean(first, first) - mean(second, second)


def line_loop(x, p, y, q, order):
    """W_p^p on the line by the north-west corner: the mass of one pair of sorted points after another."""
    ranks = np.argsort(x), np.argsort(y)
    (x, p), (y, q) = (x[ranks[0]], p[ranks[0]]), (y[ranks[1]], q[ranks[1]])
    i = j = 0
    cost = 0.0
    while i < len(x) and j < len(y):
        mass = min(p[i], q[j])
        cost += mass * abs(x[i] - y[j]) ** order
        p[i], q[j] = p[i] - mass, q[j] - mass
        i, j = i + (p[i] <= 0), j + (q[j] <= 0)
    return cost


def directions(d, projections, dtype):
    x = np.float64(jax.random.normal(KEY, (projections, d), dtype))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sliced_loop(first, second, projections, order, dtype=float):
    (x, p), (y, q) = first, second
    costs = [line_loop(x @ a, p, y @ a, q, order) for a in directions(x.shape[1], projections, dtype)]
    return np.mean(costs) ** (1 / order)


# -- The kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, pytest.param(16, marks=pytest.mark.heavy), 17, pytest.param(40, marks=pytest.mark.heavy)])
def test_the_kernel_is_minus_the_distance_and_its_gradient_of_unit_vectors(d, x64):
    x, y, c = cloud(20, d), cloud(30, d, 1), cloud(30, 1, 2)[:, 0]
    apart = x[:, None] - y[None]
    lengths = np.linalg.norm(apart, axis=2)
    found, _, by_x, by_y = of_distances(x, y, c)
    np.testing.assert_allclose(found, -lengths, rtol=1e-12)
    pull = c[None, :, None] * apart / lengths[:, :, None]
    np.testing.assert_allclose(by_x, -pull.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(by_y, pull.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize("d", [3, pytest.param(40, marks=pytest.mark.heavy)])
def test_the_gradient_at_a_point_itself_is_that_of_the_others(d, x64):
    y = cloud(5, d)
    expected = (y[1:] - y[:1]) / np.linalg.norm(y[1:] - y[:1], axis=1, keepdims=True)
    np.testing.assert_allclose(of_distances(y[:1], y, np.ones(5))[2], expected.sum(axis=0)[None], atol=1e-6)


@pytest.mark.parametrize("d", [1, 16, 17, 784])
def test_near_points_far_from_the_origin_in_float32(d):
    """Up to 16 components to 1e-6 of a distance of 1e-4 or so at 30; beyond, to sqrt(eps) of the cloud's own size."""
    y = cloud(50, d, dtype=np.float32) + np.float32(30)
    x = y + np.float32(1e-4) * cloud(50, d, 1, np.float32)
    found, itself = (-np.float64(k) for k in of_distances(x, y, np.ones(50, np.float32))[:2])
    exact = np.linalg.norm(np.float64(x)[:, None] - np.float64(y)[None], axis=2)
    near = np.eye(50, dtype=bool)
    np.testing.assert_allclose(found[~near], exact[~near], rtol=2e-6)
    if d <= 16:
        np.testing.assert_allclose(found[near], exact[near], rtol=1e-6)
        assert (np.diag(itself) == 0).all()
    else:
        assert np.abs(found - exact)[near].max() < 5 * np.sqrt(np.finfo("float32").eps * d)
        assert itself.min() >= 0 and np.diag(itself).max() ** 2 < 1e-5 * d


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
    n, shift, blocks = 200, 2.0, 400

    def mean(m):
        return 2 / np.sqrt(np.pi) * np.exp(-(m**2) / 4) + m * (1 - 2 * scipy.stats.norm.cdf(-m / np.sqrt(2)))

    x = cloud(2 * blocks * n, 1, dtype=np.float32).reshape(2, blocks, n, 1)
    each = jax.jit(lambda x, y: jax.lax.map(lambda pair: energy_distance(*map(Samples, pair)), (x, y)))
    found = np.float64(each(x[0], x[1] + shift))
    sigma = np.std(found, ddof=1) / np.sqrt(blocks)
    assert abs(np.mean(found) - (2 * mean(shift) - 2 * mean(0) + 2 / n * mean(0))) < 5 * sigma < 0.05


# -- Sliced Wasserstein ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "weighted"),
    [
        (50, 50, False),
        *(pytest.param(*sizes, False, marks=pytest.mark.heavy) for sizes in ((50, 75), (1, 40))),
        (20, 75, True), (75, 2, True),
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


def test_a_translation_is_its_length_over_the_root_of_the_dimension_within_5_sigma():
    """W_2^2 of a slice is <s, a>^2, whose mean is |s|^2 / d and variance 2 (d - 1) / (d^2 (d + 2)) |s|^4."""
    d, count = 15, 4000
    x = cloud(100, d, dtype=np.float32)
    by_order_1, found = (float(value) for value in slices(Samples(x), Samples(x + 1), count))
    sigma = np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / count) * d
    assert abs(found**2 - 1) < 5 * sigma < 0.12
    along = np.abs(directions(d, count, np.float32) @ np.ones(d))
    assert by_order_1 == pytest.approx(along.mean(), rel=1e-4)


def test_shifted_and_scaled_gaussians_on_the_line_within_5_sigma():
    """W_2^2 of N(0, 1) and N(1, 4) is 1 + 1, up to 1 / n."""
    n, blocks = 10_000, 20
    clouds = (cloud(2 * n, 1, i, np.float32) for i in range(blocks))
    found = [float(slices(Samples(x[:n]), Samples(2 * x[n:] + 1), 1)[1]) ** 2 for x in clouds]
    sigma = np.std(found, ddof=1) / np.sqrt(blocks)
    assert abs(np.mean(found) - 2) < 5 * sigma + 1e-3 and sigma < 0.02


def test_samples_far_from_the_origin_keep_their_digits():
    """In float32, the sample and its move at a distance of 4096, where float32 has 11 binary digits behind the point."""
    x = np.round(64 * cloud(500, dtype=np.float32)) / 64
    y = np.round(64 * cloud(700, seed=1, dtype=np.float32)) / 64 + np.float32(0.5)
    near, far = (np.array(slices(Samples(x + s), Samples(y + s))) for s in np.float32([0, 4096]))
    np.testing.assert_allclose(far, near, rtol=1e-6)


def test_a_point_of_no_weight_has_no_part():
    """A thousand of them at 1e6, which the rounding of cumulative weights in float32 would show."""
    x, y = cloud(3000, dtype=np.float32), cloud(2000, seed=1, dtype=np.float32)
    log_weights = cloud(3000, 1, 2, np.float32)[:, 0]
    kept = Samples(x[::3], log_weights[::3])
    dead = np.arange(3000) % 3 > 0
    whole = Samples(np.where(dead[:, None], np.float32(1e6) * x, x), np.where(dead, np.float32(-np.inf), log_weights))
    found, expected = (np.array(slices(s, Samples(y))) for s in (whole, kept))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_equal_samples_are_at_zero_whatever_their_order_and_copies():
    x = cloud(64, dtype=np.float32)
    twice = Samples(np.concatenate([x[::-1], x]))
    counts = Samples(np.concatenate([x, x + 5]), np.repeat(np.float32([0, -np.inf]), 64))
    for other in (twice, counts):
        assert max(float(value) for value in slices(Samples(x), other)) < 2e-3
    assert float(slices(Samples(x), twice)[1]) < 1e-6  # unweighted: exact to the digits of a product


def test_the_coupling_has_the_marginals(x64):
    laws, couple = [np.random.default_rng(i).dirichlet(np.ones(n)) for i, n in enumerate((30, 50))], jax.jit(quantile_coupling)
    for p, q in (laws, laws[::-1]):
        i, j, mass = map(np.asarray, couple(np.cumsum(p), np.cumsum(q)))
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
    x = cloud(400)
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
        distance(Samples(np.zeros(first)), Samples(np.zeros(second)))


def test_weights_of_another_count():
    with pytest.raises(ValueError, match=r"second has log_weights of shape \(3,\); it must be \(4,\)"):
        distances.check_pair(Samples(np.eye(4)), Samples(np.eye(4), np.zeros(3)))


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
        sliced_wasserstein(KEY, Samples(np.eye(2)), Samples(np.eye(2)), **options)


def test_equal_points_have_no_median_distance():
    with pytest.raises(ValueError, match=r"a\.csv has no two different points among 5"):
        median_distance(np.ones((5, 2)), name="a.csv")


# -- Metrics ---------------------------------------------------------------------------------------


def test_metrics_are_of_the_particles_and_the_test_samples(x64):
    (first, test), (x, y) = pair(60, 90)
    particles, x = first.points, (x[0], np.full(60, 1 / 60))
    kinds = (
        metrics.EnergyDistance(test), metrics.SlicedWasserstein(test, 10, 1), metrics.SlicedWasserstein(test),
        metrics.MMD(test, RBF(0.7)),
    )  # fmt: skip

    @jax.jit
    def measure(metrics, particles, test):
        iterate = Iterate(SimpleNamespace(samples=lambda state: Samples(particles)), None, None, None)
        return [metric(KEY, iterate) for metric in metrics], squared_mmd(RBF(0.7), Samples(particles), test)

    (by_energy, first_order, second_order, mmd), squared = measure(kinds, particles, test)
    assert float(by_energy) == pytest.approx(energy_loop(x, y), rel=1e-9)
    assert float(first_order) == pytest.approx(sliced_loop(x, y, 10, 1), rel=1e-9)
    assert float(second_order) == pytest.approx(sliced_loop(x, y, 100, 2), rel=1e-9)
    assert float(mmd) == pytest.approx(float(squared) ** 0.5, rel=1e-12) and float(mmd) > 0.1
