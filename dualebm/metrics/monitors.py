"""Metrics that compare the model of a run with a teacher or with samples.

A metric is called as `metric(key, iterate)` with an `Iterate` of a run, and returns an array. A metric that holds
arrays, such as test points, is a `Metric`. The arrays are then arguments of the compiled program.

>>> import jax
>>> from dualebm.methods.dual import Dual; from dualebm.training.simulate import start; from dualebm.spaces import Sphere
>>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
>>> state = start(jax.random.key(1), method, method.rates, data)
>>> float(TotalVariation()(jax.random.key(2), Iterate(method, state, method.rates, data)))
1.0
"""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualebm import duality_gap, measures, settings
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, evaluated
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.annealing import log_partition_by_annealing, log_partition_by_sampling
from dualebm.log_z.quadrature import effective_temperature, log_partition
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric
from dualebm.metrics.particles import Acceptance
from dualebm.settings import Count, CountFrom2, CountOrZero, checked


@checked
def relative_entropy(
    energy: Energy, reference: Float[Array, " n"], samples: Samples
) -> Float[Array, ""]:
    """Return KL(p* || p) = log E* exp(U* - U) + E* (U - U*), in nats, for p ~ exp(-U) tau (arXiv 2107.05134, Section 5).

    E* is the mean over samples of p* ~ exp(-U*) tau. With the nodes and weights of a quadrature of p* the value is
    exact.

    Args:
        energy: U.
        reference: the values of U* at the samples, (n,).
        samples: samples of p*, points (n, d) with or without weights.

    Returns:
        The divergence, a scalar.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy, x = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0], [0.0, -1.0]])
    >>> round(abs(float(relative_entropy(energy, energy(x) + 3, Samples(x)))), 6)
    0.0
    """
    difference = energy(samples.points) - reference
    difference = difference - measures.mean(difference, samples.log_weights)  # keeps the digits of small values
    return measures.log_mean_exp(-difference, samples.weights)


def _model_mean(energy, samples: Samples):
    """Return E U over the particles, with their weights."""
    points, log_weights = samples
    return measures.mean(energy(points), log_weights)


class KLDivergence(Metric):
    """KL(teacher || student) on test points of the teacher, in nats (see `relative_entropy`). It is NaN where the energy is.

    Args:
        teacher: the energy U* of the teacher.
        samples: samples of the teacher that had no part in any choice, (n, d), or `exact_samples`, which make the value
            exact.
    """

    samples: Samples
    reference: Float[Array, " n"]
    long_name: ClassVar[str | None] = "KL(teacher || student)"
    units: ClassVar[str | None] = "nat"

    @checked
    def __init__(self, teacher: Energy, samples: Samples):
        self.samples = samples
        self.reference = evaluated(teacher, samples.points)

    def __call__(self, key, iterate: Iterate):
        """Return the divergence, a scalar."""
        del key
        return relative_entropy(iterate.energy, self.reference, self.samples)


class ScoreError(Metric):
    """The mean squared score error E* |grad U - grad U*|^2 over samples of the teacher (arXiv 2107.05134, Section 5).

    Args:
        space: the space of the samples. The gradients are tangential to it.
        teacher: the energy U* of the teacher.
        samples: samples of the teacher, (n, d).
    """

    space: Space = eqx.field(static=True)
    samples: Samples
    gradient: Float[Array, "n d"]
    long_name: ClassVar[str | None] = "mean squared score error"
    units: ClassVar[str | None] = "1"

    @checked
    def __init__(self, space: Space, teacher: Energy, samples: Samples):
        self.space = space
        self.samples = samples
        self.gradient = teacher.gradient(samples.points)

    def __call__(self, key, iterate: Iterate):
        """Return the mean squared error, a scalar."""
        del key
        x = self.samples.points
        error = self.space.tangent(x, iterate.energy.gradient(x) - self.gradient)
        return measures.mean(jnp.sum(error**2, axis=1), self.samples.log_weights)


class EffectiveTemperature(Metric):
    """The temperature T at which the exact mean of U under exp(-U/T) tau equals the particles' mean of U, with U the current energy.

    It is 1 for unbiased particles in equilibrium. Its distance from 1 measures the bias of an integrator. It is NaN
    where no temperature fits.

    Args:
        quadrature: a quadrature of the base measure that is exact for U. There is one for any energy on S^1 and S^2,
            and for functions of a plane on other spheres (see `dualebm.log_z`).
    """

    quadrature: Samples
    long_name: ClassVar[str | None] = "effective temperature"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the temperature, a scalar."""
        del key
        energy = iterate.energy
        return effective_temperature(energy, self.quadrature, _model_mean(energy, iterate.samples))


class TotalVariation(Metric):
    """The total variation |gamma|_TV = (1/m) sum_j |c_j| of the neurons, in units of temperature. It is NaN for an energy
    without neurons.
    """

    long_name: ClassVar[str | None] = "total variation"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """Return the total variation, a scalar."""
        del key
        energy = iterate.energy
        return jnp.mean(jnp.abs(energy.coefficients)) if isinstance(energy, Shallow) else jnp.full((), jnp.nan, iterate.data.points.dtype)


class EnergyGap(Metric):
    """The mean energy of the data minus the mean energy of the particles, in units of temperature. It needs neither a teacher nor log Z.

    At a fit the model and its training data have the same mean of each neuron's phi, and so of U. The gap over the
    training data is then 0, or below 0 where the radius holds the fit back. Over held-out samples the gap rises as the
    energy fits the noise of its training data. The gap is the slope at t = 0 of the mean negative log-likelihood of
    exp(-(1 + t) U). It is not a divergence: a gap of 0 does not say that the model is right.

    Args:
        samples: samples of the data, (n, d).
    """

    samples: Samples
    long_name: ClassVar[str | None] = "mean energy of the data less that of the particles"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the gap, a scalar."""
        del key
        energy = iterate.energy
        return measures.mean(energy(self.samples.points), self.samples.log_weights) - _model_mean(energy, iterate.samples)


class CrossEntropy(Metric):
    """The cross-entropy E U + log Z over test samples, in nats, with the standard error of log Z.

    It is the mean negative log-likelihood of the model, whose density is taken with respect to the base measure tau.
    Over samples of a teacher it is KL(teacher || student) less KL(teacher || tau). log Z is estimated anew in each
    record: by `quadrature` if there is one, else by `draws` if that is not 0, else by annealed importance sampling.

    Args:
        samples: test samples, (n, d), at least one.
        space: the space of the samples.
        quadrature: a quadrature of the base measure, for which log Z has no error. None for an estimate.
        chains: the number of annealed chains (`log_partition_by_annealing`).
        temperatures: the number of temperatures of the annealing.
        draws: the number of points of the base measure from which log Z is estimated (`log_partition_by_sampling`). 0
            for annealing.
        key: the random key of these draws in every record, which gives all records the same errors. None draws anew in
            each record.

    Raises:
        ValueError: there is no sample, or both a quadrature and draws are given.
    """

    samples: Samples
    space: Space = eqx.field(static=True)
    quadrature: Samples | None = None
    chains: CountFrom2 = eqx.field(static=True, default=1000)
    temperatures: Count = eqx.field(static=True, default=100)
    draws: CountOrZero = eqx.field(static=True, default=0)
    key: Array | None = None
    long_name: ClassVar[str | None] = "cross-entropy to the base measure"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)
        measures.check_not_empty(self.samples)
        if self.draws and self.quadrature is not None:
            raise ValueError(f"draws is {self.draws} and a quadrature is given; give one of them")
        if self.key is not None:
            check_key(self.key)

    def __call__(self, key, iterate: Iterate):
        """Return the cross-entropy and its standard error, (2,)."""
        check_key(key)
        energy = iterate.energy
        mean = measures.mean(energy(self.samples.points), self.samples.log_weights)
        if self.quadrature is not None:
            return jnp.stack([mean + log_partition(energy, self.quadrature), jnp.zeros_like(mean)])
        if self.draws:
            draw_key = key if self.key is None else self.key
            log_z, error, _ = log_partition_by_sampling(draw_key, energy, self.space, self.draws)
            return jnp.stack([mean + log_z, error])
        log_z, error, _ = log_partition_by_annealing(key, energy, self.space, self.chains, temperatures=self.temperatures)
        return jnp.stack([mean + log_z, error])


class DualityGap(Metric):
    """The bound of the distance in nats of the energy from the best energy of the F1 ball (see `duality_gap.certify`).

    The training data and the radius are those of the run. The bound is an estimate, or exact up to the search of the
    supremum with a quadrature. Recorded under the name `gap`, it can stop a run through `duality_gap.within`.

    Args:
        space: the space of the data.
        quadrature: a quadrature of the base measure that is exact for the energy. None for annealed samples.
        ball: the energies of the comparison: "full", or "negative" or "positive", for neurons of one sign.
        polish: the largest number of rounds of the polish. With 0 the bound is the duality gap of the energy itself.
        chains: the number of annealed chains in each of the two halves of the samples.
        temperatures: the number of temperatures of the annealing.
    """

    space: Space = eqx.field(static=True)
    quadrature: Samples | None = None
    ball: Literal["full", "negative", "positive"] = eqx.field(static=True, default="full")
    polish: CountOrZero = eqx.field(static=True, default=3)
    chains: Count = eqx.field(static=True, default=20_000)
    temperatures: Count = eqx.field(static=True, default=100)
    long_name: ClassVar[str | None] = "bound of the distance from the best energy"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the bound and its standard error, (2,)."""
        check_key(key)
        energy = iterate.energy
        certificate = duality_gap.certify(
            key, energy, self.space, iterate.data, iterate.rates.radius, quadrature=self.quadrature, ball=self.ball, polish=self.polish,
            chains=self.chains, temperatures=self.temperatures,
        )  # fmt: skip
        return jnp.stack([certificate.gap, certificate.error])


@checked
def exact_samples(teacher: Energy, quadrature: Samples) -> Samples:
    """Return a quadrature of the teacher's measure exp(-U*) tau / Z, made from a quadrature of tau. Metrics over it are exact.

    Args:
        teacher: the energy U* of the teacher.
        quadrature: nodes of a quadrature of tau, (K, d), with log weights (K,).

    Returns:
        The same nodes with other log weights, (K,).

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


@checked
def standard(space: Space, teacher: Energy, samples: Samples) -> dict:
    """Return the monitors of the paper: `kl`, `score`, `total_variation` and the `acceptance` rate.

    Args:
        space: the space of the samples.
        teacher: the energy U* of the teacher.
        samples: test samples of the teacher, (n, d).

    Returns:
        The metrics by name.

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
