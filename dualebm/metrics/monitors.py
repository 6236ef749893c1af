"""Metrics of a run: how near its model is to a teacher or to samples.

A metric is called as `metric(key, iterate)` and returns an array; `iterate` is a `methods.base.Iterate`. A metric that holds arrays (test
points) is a `Metric`, an equinox module, so that they are arguments of the compiled program.

>>> import jax
>>> from dualebm.methods.dual import Dual; from dualebm.training.simulate import start; from dualebm.spaces import Sphere
>>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
>>> state = start(jax.random.key(1), method, method.rates, data)
>>> float(TotalVariation()(jax.random.key(2), Iterate(method, state, method.rates, data)))
1.0
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from dualebm import distances, duality_gap, measures, stein
from dualebm._internal import checks
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow
from dualebm.kernels import RBF, squared_mmd
from dualebm.log_z.annealing import log_partition_by_annealing, log_partition_by_sampling
from dualebm.log_z.quadrature import effective_temperature, log_partition
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric
from dualebm.spaces import Space


def relative_entropy(
    energy: Energy, reference: Float[Array, " n"], samples: Samples
) -> Float[Array, ""]:
    """KL(p* || p) = log E* exp(U* - U) + E* (U - U*), in nats (arXiv 2107.05134, Section 5).

    E* is over `samples` of p* ~ exp(-U*) tau; `reference` is U* at the points, `(n,)`. With the weights of a quadrature
    of p* the value is exact.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, x = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0], [0.0, -1.0]])
    >>> round(abs(float(relative_entropy(energy, energy(x) + 3, Samples(x)))), 6)
    0.0
    """
    difference = energy(samples.points) - reference
    difference = difference - measures.mean(difference, samples.log_weights)  # so that small values keep their digits
    weights = samples.weights
    # Centred, so that log E* exp(-r) = log(1 + E* (exp(-r) - 1 + r)): a sum of positive terms keeps the digits of small values.
    series = term = difference**2 / 2
    for k in range(3, 10):  # to the ninth power: 1e-14 of the sum at 0.1
        term = -term * difference / k
        series = series + term
    bounded = jnp.maximum(difference, -50)
    excess = jnp.where(jnp.abs(difference) < 0.1, series, jnp.expm1(-bounded) + bounded)
    small = jnp.log1p(jnp.sum(weights * excess))
    return jnp.where(jnp.min(difference) > -50, small, logsumexp(-difference, b=weights))


def _model_mean(energy, samples: Samples):
    """E U over the particles, with their weights."""
    points, log_weights = samples
    return measures.mean(energy(points), log_weights)


class KLDivergence(Metric):
    """KL(teacher || student) on test points of the teacher: see `relative_entropy`.

    `samples` are draws of the teacher that chose nothing, or `exact_samples`, which make it exact. Raises nothing; NaN
    where the energy is.
    """

    samples: Samples
    reference: Float[Array, " n"]
    long_name: ClassVar[str | None] = "KL(teacher || student)"
    units: ClassVar[str | None] = "nat"

    def __init__(self, teacher: Energy, samples: Samples):
        self.samples = samples
        self.reference = teacher(samples.points)

    def __call__(self, key, iterate: Iterate):
        """The divergence, a scalar."""
        del key
        return relative_entropy(iterate.energy, self.reference, self.samples)


class ScoreError(Metric):
    """E* |grad U - grad U*|^2, tangential gradients, over samples of the teacher (arXiv 2107.05134, Section 5)."""

    space: Space = eqx.field(static=True)
    samples: Samples
    gradient: Float[Array, "n d"]
    long_name: ClassVar[str | None] = "mean squared score error"
    units: ClassVar[str | None] = "1"

    def __init__(self, space: Space, teacher: Energy, samples: Samples):
        self.space = space
        self.samples = samples
        self.gradient = teacher.gradient(samples.points)

    def __call__(self, key, iterate: Iterate):
        """The mean squared error, a scalar."""
        del key
        x = self.samples.points
        error = self.space.tangent(x, iterate.energy.gradient(x) - self.gradient)
        return measures.mean(jnp.sum(error**2, axis=1), self.samples.log_weights)


class EffectiveTemperature(Metric):
    """T such that the exact mean of U under exp(-U/T) tau equals the particles' mean of U, with U the current energy.

    1 for unbiased particles in equilibrium; below or above 1 measures the bias of an integrator. `quadrature` must be
    exact for U: any energy on S^1 and S^2, and functions of a plane elsewhere (`dualebm.log_z.quadrature`). NaN where no
    temperature fits.
    """

    quadrature: Samples
    long_name: ClassVar[str | None] = "effective temperature"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The temperature, a scalar."""
        del key
        energy = iterate.energy
        return effective_temperature(energy, self.quadrature, _model_mean(energy, iterate.samples))


class TotalVariation(Metric):
    """|gamma|_TV = (1/m) sum_j |c_j| of the neurons of the energy, in units of temperature; NaN for energies of no neurons."""

    long_name: ClassVar[str | None] = "total variation"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The total variation, a scalar."""
        del key
        energy = iterate.energy
        return jnp.mean(jnp.abs(energy.coefficients)) if isinstance(energy, Shallow) else jnp.full((), jnp.nan, iterate.data.points.dtype)


class Acceptance(Metric):
    """The fraction of the particles' moves that were accepted since the last record; NaN where nothing moved."""

    long_name: ClassVar[str | None] = "acceptance rate"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The rate, a scalar."""
        del key
        unknown = jnp.full((), jnp.nan, iterate.data.points.dtype)
        return unknown if iterate.info.acceptance is None else iterate.info.acceptance


class EnergyGap(Metric):
    """E U over samples of the data less E U over the particles: a monitor that needs neither a teacher nor log Z.

    At a fit the model and its data agree in the mean of each neuron's phi, so of U: the gap over the data trained on is
    then 0, or below 0 where the radius holds the fit back. Over held-out samples it rises above that as the energy fits the
    noise of its data. It is the slope at t = 0 of the mean negative log-likelihood of exp(-(1 + t) U), and no divergence:
    a gap of 0 does not say that the model is right.
    """

    samples: Samples
    long_name: ClassVar[str | None] = "mean energy of the data less that of the particles"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The gap, a scalar, in units of temperature."""
        del key
        energy = iterate.energy
        return measures.mean(energy(self.samples.points), self.samples.log_weights) - _model_mean(energy, iterate.samples)


class CrossEntropy(Metric):
    """E U + log Z over test samples, less the mean log-likelihood of the model in its base measure: (value, standard error of log Z).

    log Z is by a `quadrature` of the base measure, where there is one, without error; else, with `draws`, by so many points of the base
    measure (`annealing.log_partition_by_sampling`), drawn anew in each record, or by the same `key`, which makes the errors common to
    all; else by annealed importance sampling with so many `chains` and `temperatures` (`annealing.log_partition_by_annealing`). Raises
    ValueError for no samples, and for a quadrature and draws. Over samples of a teacher it is KL(teacher || student) less
    KL(teacher || tau).
    """

    samples: Samples
    space: Space = eqx.field(static=True)
    quadrature: Samples | None = None
    chains: int = eqx.field(static=True, default=1000)
    temperatures: int = eqx.field(static=True, default=100)
    draws: int = eqx.field(static=True, default=0)
    key: Array | None = None
    long_name: ClassVar[str | None] = "cross-entropy to the base measure"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        measures.check_not_empty(self.samples)
        if self.draws and self.quadrature is not None:
            raise ValueError(f"draws is {self.draws} and a quadrature is given; give one of them")

    def __call__(self, key, iterate: Iterate):
        """The cross-entropy and its error, (2,)."""
        energy = iterate.energy
        mean = measures.mean(energy(self.samples.points), self.samples.log_weights)
        if self.quadrature is not None:
            return jnp.stack([mean + log_partition(energy, self.quadrature), jnp.zeros_like(mean)])
        if self.draws:
            drawn_by = key if self.key is None else self.key
            log_z, error, _ = log_partition_by_sampling(drawn_by, energy, self.space, self.draws)
            return jnp.stack([mean + log_z, error])
        log_z, error, _ = log_partition_by_annealing(key, energy, self.space, self.chains, temperatures=self.temperatures)
        return jnp.stack([mean + log_z, error])


class SteinDiscrepancy(Metric):
    """KSD^2 of test samples from the model, the U-statistic (see `dualebm.stein`): needs no log Z; near 0, of both signs, where they agree.

    Raises ValueError for fewer than two samples, points off the space, and a kernel without derivatives.
    """

    samples: Samples
    space: Space = eqx.field(static=True)
    kernel: Any = eqx.field(static=True, default=RBF())
    long_name: ClassVar[str | None] = "squared kernelised Stein discrepancy"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        stein.check_space(self.space)
        stein.check_kernel(self.kernel)
        stein.check_samples("samples", self.samples, self.space, "U")

    def __call__(self, key, iterate: Iterate):
        """The discrepancy, a scalar."""
        del key
        scores = stein.score(iterate.energy, self.space, self.samples.points)
        return stein.kernelised(self.kernel, self.space, self.samples, scores)[0]


class NetworkSteinDiscrepancy(Metric):
    """SD of test samples from the model, by critics in F1 of `width` neurons that ascend for `steps`: see `stein.network_discrepancy`."""

    samples: Samples
    space: Space = eqx.field(static=True)
    width: int = eqx.field(static=True, default=64)
    steps: int = eqx.field(static=True, default=101)
    long_name: ClassVar[str | None] = "F1 Stein discrepancy"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        stein.check_space(self.space)
        stein.check_samples("samples", self.samples, self.space, "V")
        for name in ("width", "steps"):
            checks.count(name, getattr(self, name))

    def __call__(self, key, iterate: Iterate):
        """The discrepancy, a scalar."""
        energy = iterate.energy
        scores = stein.score(energy, self.space, self.samples.points)
        return stein.by_critics(key, self.space, self.samples, scores, self.width, self.steps)


class DualityGap(Metric):
    """Within how many nats of the best energy of the F1 ball the present one is, and the standard error: see `duality_gap.certify`.

    The training data are those of the run, the radius that of its rates. An estimate, but by a quadrature, which makes it exact up to
    the search of the supremum; recorded under the name `gap`, `duality_gap.within` stops a run by it.
    """

    space: Space = eqx.field(static=True)
    quadrature: Samples | None = None
    ball: str = eqx.field(static=True, default="full")
    chains: int = eqx.field(static=True, default=20_000)
    temperatures: int = eqx.field(static=True, default=100)
    long_name: ClassVar[str | None] = "duality gap"
    units: ClassVar[str | None] = "nat"

    def __call__(self, key, iterate: Iterate):
        """The gap and its error, (2,)."""
        energy = iterate.energy
        found = duality_gap.certify(
            key, energy, self.space, iterate.data, iterate.rates.radius, quadrature=self.quadrature, ball=self.ball, chains=self.chains,
            temperatures=self.temperatures,
        )  # fmt: skip
        return jnp.stack([found.gap, found.error])


class MMD(Metric):
    """The maximum mean discrepancy between the particles and test samples, of a kernel of `dualebm.kernels` (Gretton et al. 2012).

    The root of the V-statistic `kernels.squared_mmd`, whose rounding, a few eps, is a floor of sqrt(eps): 5e-4 in float32. Between N and n
    samples of one law its square is (1/N + 1/n) (E k(x, x) - E k(x, x')) in the mean.
    """

    samples: Samples
    kernel: Any = eqx.field(static=True)
    long_name: ClassVar[str | None] = "maximum mean discrepancy of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The discrepancy, a scalar."""
        del key
        return jnp.sqrt(jnp.maximum(squared_mmd(self.kernel, iterate.samples, self.samples), 0))


class EnergyDistance(Metric):
    """2 E|x - y| - E|x - x'| - E|y - y'| of the particles x and test samples y: see `distances.energy_distance`."""

    samples: Samples
    long_name: ClassVar[str | None] = "energy distance of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The distance, a scalar, in the units of the points."""
        del key
        return distances.energy_distance(iterate.samples, self.samples)


class SlicedWasserstein(Metric):
    """The sliced Wasserstein distance of the particles to test samples: see `distances.sliced_wasserstein`."""

    samples: Samples
    projections: int = eqx.field(static=True, default=100)
    order: int = eqx.field(static=True, default=2)
    long_name: ClassVar[str | None] = "sliced Wasserstein distance of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """The distance, a scalar, in the units of the points."""
        options = dict(projections=self.projections, order=self.order)
        return distances.sliced_wasserstein(key, iterate.samples, self.samples, **options)


def exact_samples(teacher: Energy, quadrature: Samples) -> Samples:
    """A quadrature of the teacher's own measure exp(-U*) tau / Z, from one of tau: metrics over it are exact.

    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> nodes = exact_samples(teacher.energy, teacher.quadrature())
    >>> nodes.points.shape[1]
    3
    """
    log_weights = -teacher(quadrature.points)
    if quadrature.log_weights is not None:
        log_weights = quadrature.log_weights + log_weights
    return Samples(quadrature.points, log_weights)


def standard(space: Space, teacher: Energy, samples: Samples) -> dict:
    """The monitors of the paper: `kl`, `score`, `total_variation`, and the `acceptance` rate.

    >>> import jax
    >>> from dualebm.data import targets
    >>> teacher = targets.teacher("s2_bimodal")
    >>> points, _ = targets.sample(jax.random.key(0), teacher, 100)
    >>> sorted(standard(teacher.space, teacher.energy, points))
    ['acceptance', 'kl', 'score', 'total_variation']
    """
    return {
        "kl": KLDivergence(teacher, samples),
        "score": ScoreError(space, teacher, samples),
        "total_variation": TotalVariation(),
        "acceptance": Acceptance(),
    }
