"""log Z by adaptive quadrature, draws and annealing, beside closed forms and integrals in one dimension, and doubts about it."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expi

from dualebm.base_families import VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import Gaussian, Uniform
from dualebm.base_mixtures import CustomBase, MixtureBase
from dualebm.data import targets
from dualebm.energies.base import Energy, Tempered
from dualebm.energies.shallow import Shallow
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump, Custom, ReLU, ScaledBump
from dualebm.log_z import adaptive, estimate, quadrature
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import resample
from dualebm.spaces import Euclidean, Sphere, Torus
from tests.cases import heavy

TEACHER = targets.teacher("s2_bimodal")
EDGES = [0, 0.5, 2, 5, 10, 20, 40, 80]


class Well(Energy):
    """The energy -depth exp(-concentration |x - place|^2 / 2), which does not know its scales."""

    depth: float
    concentration: float
    place: float

    def __call__(self, x):
        return -self.depth * jnp.exp(-0.5 * self.concentration * jnp.sum((x - self.place) ** 2, axis=1))


class Pull(Energy):
    """The energy stiffness |x|^2 / 2."""

    stiffness: jax.Array

    def __call__(self, x):
        return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)


@dataclasses.dataclass(frozen=True)
class Crowd(Uniform):
    """A base measure of as many fine places as no quadrature can afford."""

    def finest(self, space):
        return np.zeros((10**8, 1)), np.ones(10**8)


def integral(function, edges):
    return sum(quad(function, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] for a, b in itertools.pairwise(edges))


def of_model(energy, space, count=1000):
    """Samples of a model that is not far from its base measure, by weighted draws."""
    draws = space.sample_base(jax.random.key(1), 2**16, jnp.float32)
    return draws[resample(jax.random.key(2), -energy(draws), count)]


def one_bump(space, centre, k, a):
    theta = np.append(centre, space.unit * np.log(k))[None]
    energy = Shallow(ScaledBump(space, 1.0, 1e8), jnp.asarray(theta, jnp.float32), jnp.array([a], jnp.float32))
    rounded = np.asarray(energy.positions, np.float64)[0]  # the parameters that the energy holds
    return energy, rounded[:-1], float(np.exp(rounded[-1] / space.unit))


@pytest.mark.parametrize("a", [-16.0, -8.0, -2.0, 5.0])
@pytest.mark.parametrize("k", [10.0, 1e3, 1e5, 1e6])
def test_one_bump_on_the_sphere(k, a):
    """By an integral over s = k (1 - t), with t = <c, x> / |c| uniform in [-1, 1]."""
    energy, centre, k = one_bump(Sphere(3), [0.36, 0.48, -0.8], k, a)
    length = np.linalg.norm(centre)
    exact = integral(lambda s: np.expm1(-a * np.exp(k * (length - 1) - length * s)) / (2 * k), [min(s, 2 * k) for s in EDGES])
    found = adaptive.log_partition(energy, Sphere(3))
    assert found.known_scales and found.nodes < 300_000
    assert abs(found.value - np.log1p(exact)) < min(found.error + 1e-12, 1e-5) and found.error <= adaptive.TOLERANCE


@pytest.mark.parametrize("a", [-8.0, 5.0])
@pytest.mark.parametrize("k", [10.0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("space", [Sphere(2), Torus(1, 3.0)])
def test_one_bump_on_the_circle(space, k, a):
    centre = [1.0] if space.periodic else [0.6, -0.8]
    energy, centre, k = one_bump(space, centre, k, a)
    length = 1.0 if space.periodic else np.linalg.norm(centre)

    def excess(p):  # cos p - 1 = -2 sin^2(p / 2) keeps its digits
        return np.expm1(-a * np.exp(k * (length - 1 - 2 * length * np.sin(p / 2) ** 2))) / np.pi

    exact = np.log1p(integral(excess, [min(edge / np.sqrt(k), np.pi) for edge in EDGES]))
    found = adaptive.log_partition(energy, space)
    assert abs(found.value - exact) < min(found.error + 1e-12, 2e-5) and found.error <= adaptive.TOLERANCE


@pytest.mark.heavy
def test_many_narrow_bumps():
    """They do not overlap, so that the excess Z - 1 of their sum is the sum of their excesses, sum_n 8^n / (n n!) / 2 k of each."""
    rng = np.random.default_rng(0)
    height, angle = np.linspace(-0.99, 0.99, 100), np.pi * (3 - np.sqrt(5)) * np.arange(100)  # a spiral, whose points are apart
    across = np.sqrt(1 - height**2)
    centres = np.stack([across * np.cos(angle), across * np.sin(angle), height], axis=1)
    theta = np.concatenate([centres, rng.uniform(np.log(1e5), np.log(1e6), (100, 1))], axis=1)
    excess = np.sum((expi(8) - np.euler_gamma - np.log(8)) / (2 * np.exp(theta[:, 3])))
    with jax.enable_x64(True):
        energy = Shallow(ScaledBump(Sphere(3), 1.0, 1e7), jnp.asarray(theta), jnp.full(100, -800.0, jnp.float64))
    found = adaptive.log_partition(energy, Sphere(3))
    assert abs(found.value - np.log1p(excess)) < 1e-5 and found.error <= adaptive.TOLERANCE
    few = adaptive.log_partition(energy, Sphere(3), count=280_000)  # the shares of places that are not resolved count as errors
    assert few.nodes <= 280_000 and abs(few.value - np.log1p(excess)) < few.error and few.error > adaptive.TOLERANCE


@pytest.mark.parametrize("k", [1.0, heavy(1e3), heavy(1e5), 1e6])
def test_base_measures_have_mass_one(k):
    """With an energy that is nearly 0. Draws are not involved, because von Mises-Fisher measures and mixtures know their scales."""
    narrow = VonMisesFisher([0.1, -0.7, 0.4], k)
    other = VonMisesFisher([0.0, 0.0, 1.0], k / 2)
    for base in (narrow, MixtureBase((0.3, 0.7), (other, narrow)), MixtureBase((0.01, 0.99), (narrow, Uniform()))):
        space = Sphere(3, base)
        found = adaptive.log_partition(Shallow(Bump(space, 1.0), jnp.eye(3), jnp.full(3, 1e-30)), space)
        assert found.known_scales and abs(found.value) < min(found.error + 1e-12, 2e-5) and found.error <= 1e-4


@pytest.mark.parametrize("space", [heavy(Sphere(3)), Sphere(2), Torus(1, 3.0)])
def test_kernel_density_estimates_have_mass_one(space):
    """With kernels of many widths. One with too many centres for a quadrature is left to draws."""
    centres = np.asarray(space.sample_base(jax.random.key(0), 50), np.float64)
    space = dataclasses.replace(space, base=KernelBase(centres, np.geomspace(1, 1e5, 50)))
    energy = Shallow(Bump(space), jnp.ones((1, space.dimension)), jnp.full(1, 1e-30))
    found = adaptive.log_partition(energy, space)
    assert found.known_scales and abs(found.value) < min(found.error + 1e-7, 2e-5) and found.error <= 1e-4
    assert adaptive.suits(energy, space) and not adaptive.suits(energy, dataclasses.replace(space, base=Crowd()))


def test_the_scales_of_energies_and_bases():
    sphere, torus = Sphere(3), Torus(1, 3.0)
    energy = Shallow(Bump(torus, 100.0), jnp.array([[0.5]]), jnp.ones(1))
    (points, lengths), of_tempered = energy.finest(), Tempered(energy, jnp.array(0.5)).finest()
    assert points.tolist() == [[0.5]] and lengths.tolist() == pytest.approx([0.3 / (2 * np.pi)]) and of_tempered[1] == lengths
    assert len(Shallow(ReLU(bias=True), jnp.ones((5, 4)), jnp.ones(5)).finest()[0]) == 0
    table = Tabulated(torus, jnp.zeros(6)).finest()
    assert table[0].shape == (6, 1) and table[1].tolist() == pytest.approx([0.5] * 6)
    flow = CustomBase(lambda x: 0.0 * x[0], lambda key, n: Sphere(3).sample_base(key, n))
    known = MixtureBase((0.5, 0.5), (VonMisesFisher([0.0, 0.0, 1.0], 400.0), Uniform())).finest(sphere)
    assert known[0].tolist() == [[0.0, 0.0, 1.0]] and known[1].tolist() == [0.05]
    assert MixtureBase((0.5, 0.5), (flow, Uniform())).finest(sphere) is None and flow.finest(sphere) is None
    assert Custom(lambda x, t: x[0] * t[0], sphere).finest(jnp.eye(3)) is None and Well(1.0, 1.0, 0.0).finest() is None
    both = adaptive.fine_places(Shallow(Bump(sphere, 4.0), jnp.eye(3)[:1], jnp.ones(1)), Sphere(3, VonMisesFisher([0.0, 1.0, 0.0], 100.0)))
    assert both[0].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]] and both[1].tolist() == [0.5, 0.1]
    assert adaptive.fine_places(energy, Torus(1, 3.0, flow)) is None


def test_patches_cover_the_space_once():
    """The mean of x x^T is I / d on spheres, by midpoints of the cells."""
    for space, tolerance in ((Sphere(3), 1e-5), (Sphere(2), 1e-12)):
        patches = adaptive.patches_of(space)
        index = np.indices((patches.count, *[64] * patches.coordinates)).reshape(1 + patches.coordinates, -1)
        points, log_density = patches.embed(index[0], (index[1:].T + 0.5) / 64)
        weights = np.exp(log_density) / 64**patches.coordinates
        assert np.sum(weights) == pytest.approx(1, abs=1e-3) and np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-14)
        second = np.einsum("n,ni,nj->ij", weights / np.sum(weights), points, points)
        np.testing.assert_allclose(second, np.eye(space.dimension) / space.dimension, atol=tolerance)
    assert adaptive.patches_of(Torus(2)) is None and adaptive.patches_of(Euclidean(3)) is None and adaptive.patches_of(Sphere(4)) is None
    with pytest.raises(ValueError, match="allowed: a circle"):
        adaptive.log_partition(Well(1.0, 1.0, 0.0), Euclidean(2))


@pytest.mark.heavy
def test_a_strong_energy_beside_many_nodes(x64):
    """The reported error is at least the error against many nodes."""
    theta = np.random.default_rng(0).normal(size=(8, 4))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    strong = Shallow(ReLU(bias=True), jnp.array(theta), jnp.array(100 * np.linspace(-1, 1, 8)))
    cloud = quadrature.sphere_quadrature(Sphere(3), 900, jnp.float64)
    exact = float(eqx.filter_jit(quadrature.log_partition)(strong, cloud))
    points = cloud.points[resample(jax.random.key(1), cloud.log_weights - strong(cloud.points), 1000)]
    found = estimate_log_partition(jax.random.key(0), strong, Sphere(3), points)
    assert abs(found.value - exact) < found.standard_error <= 1e-4 and found.trusted and found.independent is None


def test_an_energy_of_zero():
    for space in (Sphere(3), Sphere(3, VonMisesFisher([0.0, 0.0, 1.0], 50.0)), Sphere(2), Sphere(7), Euclidean(3)):
        d = space.dimension
        found = estimate_log_partition(jax.random.key(0), Shallow(ReLU(), jnp.eye(d), jnp.zeros(d)), space, jnp.eye(d))
        assert found.value == found.standard_error == 0 and found.trusted and found.effective_sample_size == found.draws
        assert found.draws == (None if d < 4 and space.compact else estimate.BLOCK)


def test_unknown_scales_are_checked_by_draws(monkeypatch):
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**18)
    key, sphere = jax.random.key(0), Sphere(3)
    points = sphere.sample_base(jax.random.key(1), 1000)
    smooth = estimate_log_partition(key, Well(2.0, 1.0, 0.5), sphere, points)
    assert smooth.trusted and smooth.method == "quadrature" and 0 < abs(smooth.independent - smooth.value) < 0.01
    # Particles in a well that no node has seen.
    place = 1 / np.sqrt(3)
    inside = jnp.full((10, 3), place)
    missed = estimate_log_partition(key, Well(60.0, 1e9, place), sphere, inside)
    assert not missed.trusted and "NOT TO BE TRUSTED: KL(model || base) is about 60 nat by particles" in missed.summary()
    monkeypatch.setattr(adaptive, "log_partition", lambda energy, space: adaptive.Quadrature(smooth.value + 0.1, 1e-5, 10**6, -1.0, False))
    apart = estimate_log_partition(key, Well(2.0, 1.0, 0.5), sphere, points)
    assert apart.method == "quadrature" and "draws of the base measure give" in apart.doubt and estimate.REMEDY in apart.doubt


def test_a_base_of_a_user_that_allows_one_precision():
    """Its scales are not known, so that it is evaluated in the precision of the energy and checked by draws."""
    vmf = Sphere(3, VonMisesFisher([0.0, 0.0, 1.0], 30.0))

    def log_density(x):
        if x.dtype != jnp.float32:
            raise TypeError(x.dtype)
        return vmf.log_base(x)

    space = Sphere(3, CustomBase(log_density, lambda key, n: vmf.sample_base(key, n, jnp.float32)))
    exact = adaptive.log_partition(Shallow(ReLU(), jnp.eye(3), jnp.full(3, -2.0)), vmf)
    points = vmf.sample_base(jax.random.key(3), 1000)
    found = estimate_log_partition(jax.random.key(0), Shallow(ReLU(), jnp.eye(3), jnp.full(3, -2.0)), space, points)
    assert found.method == "quadrature" and found.trusted and found.independent is not None and exact.known_scales
    assert abs(found.value - exact.value) < found.standard_error + exact.error + 1e-6


def test_a_spent_budget(monkeypatch):
    """The quadrature is in doubt, and draws take its place only where their error is smaller."""
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**19)
    energy = Shallow(ReLU(), jnp.eye(3), jnp.array([-300.0, 200.0, 100.0]))
    points = of_model(energy, Sphere(3))
    exact = adaptive.log_partition(energy, Sphere(3)).value
    monkeypatch.setattr(adaptive, "TOLERANCE", 1e-9)
    few = adaptive.log_partition(energy, Sphere(3), 1e-9, 280_000)
    assert few.error > 1e-9 and few.nodes <= 280_000 and abs(few.value - exact) < 1e-4
    monkeypatch.setattr(adaptive, "log_partition", lambda energy, space: few)
    found = estimate_log_partition(jax.random.key(0), energy, Sphere(3), points)
    assert found.method == "quadrature" and f"its error is above 1e-09 after {few.nodes} evaluations" in found.doubt
    monkeypatch.setattr(adaptive, "log_partition", lambda energy, space: few._replace(error=0.5))
    found = estimate_log_partition(jax.random.key(0), energy, Sphere(3), points)
    assert found.method == "draws" and found.trusted and abs(found.value - exact) < 5 * found.standard_error < 0.2


def test_largest_counts():
    wide = Shallow(ReLU(), jnp.zeros((2**13, 3)), jnp.zeros(2**13))
    assert adaptive.largest_count(wide, 2**22) == 2**20 and adaptive.largest_count(wide, 1000) == 1000


# ---- draws and annealing ---------------------------------------------------------------------------------


def test_draws_beside_an_integral():
    """Of a bump in one dimension, and of a quadratic energy: E exp(-s x^2 / 2) = (1 + s)^(-1/2) for each coordinate."""
    space = Euclidean(1, Gaussian(2.0))
    energy, (centre,), k = one_bump(space, [1.0], 9.0, -3.0)
    exact = quad(lambda x: np.exp(3 * np.exp(-k * (x - centre) ** 2 / 2) - x * x / 8) / np.sqrt(8 * np.pi), -20, 20, points=[0, 1, 2])[0]
    points = of_model(energy, space)
    found = estimate_log_partition(jax.random.key(0), energy, space, points)
    assert abs(found.value - np.log(exact)) < 4 * found.standard_error and found.standard_error <= estimate.SMALL_ERROR
    assert found.trusted and found.method == "draws" and found.draws % estimate.BLOCK == 0 and found.independent != found.value

    points = jax.random.normal(jax.random.key(1), (100, 3)) / np.sqrt(1.5)
    found = estimate_log_partition(jax.random.key(0), Pull(jnp.array(0.5)), Euclidean(3), points)
    assert abs(found.value + 1.5 * np.log(1.5)) < 4 * found.standard_error <= 0.004


def test_blocks_are_merged_as_one_sample(monkeypatch):
    """The merged moments are those of all weights, and the first blocks do not depend on the number of blocks."""
    monkeypatch.setattr(estimate, "BLOCK", 1000)
    energy, key = Well(3.0, 1.0, 0.5), jax.random.key(4)
    value, error, size, draws, _ = estimate._drawn(key, energy, Euclidean(2), 3000)
    blocks = [np.asarray(-energy(_block_points(jax.random.fold_in(key, b), 1000))) for b in range(3)]
    w = np.exp(np.concatenate(blocks).astype(np.float64))
    assert draws == 3000 and value == pytest.approx(np.log(w.mean()), abs=1e-6)
    assert error == pytest.approx(w.std(ddof=1) / w.mean() / np.sqrt(3000), rel=1e-4)
    assert size == pytest.approx(w.sum() ** 2 / np.sum(w**2), rel=1e-4)
    assert estimate._drawn(key, energy, Euclidean(2), 1000)[0] == pytest.approx(np.log(np.exp(blocks[0]).mean()), abs=1e-6)


def _block_points(key, count):
    """The draws of `log_partition_by_sampling`, whose only block has the index 0."""
    return Euclidean(2).sample_base(jax.random.fold_in(key, 0), count, jnp.float32)


@pytest.mark.heavy
def test_draws_agree_with_the_teacher_on_a_sphere(monkeypatch):
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**18)
    target = targets.teacher("s14_bimodal")
    points = targets.sample(jax.random.key(0), target, 1000)[0].points
    found = estimate_log_partition(jax.random.key(1), target.energy, target.space, points)
    assert abs(found.value - target.log_partition) < 5 * found.standard_error < 0.02
    assert found.trusted and found.draws > estimate.BLOCK and "NOT" not in found.summary()


def test_annealing_where_draws_do_not_suffice(monkeypatch):
    monkeypatch.setattr(estimate, "CHAINS", 2048)
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**17)
    strong = Shallow(ReLU(), jnp.array(np.eye(15)[:1]), jnp.array([-45.0]))
    exact = float(quadrature.log_partition(strong, quadrature.plane_quadrature(np.eye(15)[:1], 400, 100)))
    t = 0.85 * np.ones((500, 1))  # particles whose mean energy is that of the model
    points = jnp.asarray(np.concatenate([t, np.sqrt(1 - t**2), np.zeros((500, 13))], axis=1), jnp.float32)
    found = estimate_log_partition(jax.random.key(0), strong, Sphere(15), points)
    assert found.method == "annealing" and found.trusted and found.effective_sample_size >= estimate.SMALLEST_SAMPLE
    assert abs(found.value - exact) < 4 * found.standard_error < 0.5 and "of 2048 particles" in found.summary()
    monkeypatch.setattr(estimate, "SMALLEST_SAMPLE", 2049)
    doubtful = estimate_log_partition(jax.random.key(0), strong, Sphere(15), points)
    assert doubtful.value == found.value and doubtful.summary().endswith(estimate.REMEDY)
    assert "by annealing; NOT TO BE TRUSTED: the effective sample size is" in doubtful.summary()


def test_a_well_that_no_draw_has_reached(monkeypatch):
    monkeypatch.setattr(estimate, "CHAINS", 2048)
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**17)
    inside = jnp.array(1.5 + 0.01 * np.random.default_rng(1).normal(size=(100, 8)))
    missed = estimate_log_partition(jax.random.key(0), Well(80.0, 100.0, 1.5), Euclidean(8), inside)
    assert missed.effective_sample_size > 130_000 and abs(missed.value) < 0.01
    assert not missed.trusted and missed.kl_to_base > 70 and "NOT TO BE TRUSTED: KL(model || base) is about" in missed.summary()
    assert "annealing gives" in missed.summary() and missed.summary().endswith(estimate.REMEDY)
    shallow = estimate_log_partition(jax.random.key(0), Well(1.0, 100.0, 1.5), Euclidean(8), jnp.zeros((100, 8)))
    assert shallow.trusted


def test_estimates_that_differ_are_in_doubt(monkeypatch):
    """Of two estimates that differ by more than 4 errors, the summary reports the second."""
    values = iter([(1.0, 0.001, 5e5, 10**6, -1.0), (1.01, 0.001, 5e5, 10**6, -1.0)] * 2)
    monkeypatch.setattr(estimate, "_drawn", lambda *arguments: next(values))
    monkeypatch.setattr(estimate, "_annealed", lambda *arguments: (1.0, 0.1, 10.0, 1.0, 0.0))
    found = estimate_log_partition(jax.random.key(0), Well(1.0, 1.0, 0.0), Euclidean(2), jnp.zeros((1, 2)))
    assert found.independent == 1.01 and "an independent estimate is 1.01 +- 0.001" in found.doubt
    monkeypatch.setattr(estimate, "AGREEMENT", 8.0)
    assert estimate_log_partition(jax.random.key(0), Well(1.0, 1.0, 0.0), Euclidean(2), jnp.zeros((1, 2))).trusted


def test_particles_that_are_no_samples(monkeypatch):
    """A positive KL by particles, or a mean energy that is not the model's, is said, whatever the method."""
    monkeypatch.setattr(estimate, "LARGEST_DRAWS", 2**17)
    well = Well(4.0, 1.0, 0.0)
    far = estimate_log_partition(jax.random.key(0), well, Euclidean(2), jnp.full((100, 2), 8.0))
    assert far.method == "draws" and far.kl_to_base < 0 and "the particles are no samples of the model: their mean energy is" in far.doubt
    assert far.doubt.endswith(estimate.RESAMPLE) and "NOT TO BE TRUSTED" in far.summary()
    model, _ = targets.sample(jax.random.key(1), TEACHER, 1000)
    lowest = model.points[jnp.argmin(TEACHER.energy(model.points))]
    exact = adaptive.log_partition(TEACHER.energy, TEACHER.space)
    cloud = TEACHER.quadrature(nodes=100)
    assert exact.mean_energy == pytest.approx(float(quadrature.mean_energy(TEACHER.energy, cloud)), abs=1e-3)
    found = [
        estimate_log_partition(jax.random.key(0), TEACHER.energy, TEACHER.space, points)
        for points in (model.points, jnp.tile(lowest, (1000, 1)), jnp.tile(jnp.array([[0.0, 0.0, 1.0]]), (1000, 1)))
    ]
    assert found[0].trusted and [f.value for f in found] == [exact.value] * 3 and not found[2].trusted
    assert found[2].kl_to_base < 0 and "no samples of the model" in found[2].doubt
    low = estimate._mismatch(estimate._Observed(exact.mean_energy - 3.1, 0.1), exact.value, exact.mean_energy)
    assert "a region is missed" in low and found[1].trusted  # the least energy is within 3 nats of the mean


def test_the_mean_energy_of_draws(monkeypatch):
    """E U = d s / (1 + s) / 2 for U = s |x|^2 / 2, over merged blocks of draws."""
    monkeypatch.setattr(estimate, "BLOCK", 10_000)
    *_, draws, mean_energy = estimate._drawn(jax.random.key(4), Pull(jnp.array(0.5)), Euclidean(3), 40_000)
    assert draws == 40_000 and mean_energy == pytest.approx(0.5, abs=0.02)


def test_a_flat_base_is_refused():
    from dualebm.base_measures import Flat

    with pytest.raises(ValueError, match="flat measure cannot be sampled"):
        estimate_log_partition(jax.random.key(0), Well(1.0, 1.0, 0.0), Euclidean(2, Flat()), jnp.zeros((1, 2)))
