"""log Z of a fitted energy by the best method for its space, with its error and what is doubtful about it.

Each method has the mean energy of its own weighted points beside log Z. Particles of the model must have about the same. Where theirs is
lower, they have found a region that the points have missed. Where it is higher, they are no samples of the model, and tell nothing.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, evaluated, precision_of
from dualebm.geometry import Space
from dualebm.log_z import adaptive, tempering
from dualebm.log_z.annealing import sampled_moments
from dualebm.log_z.temperatures import choose_path
from dualebm.measures import mean
from dualebm.settings import checked

BLOCK = 2**17
"""The number of draws from the base measure at a time. It is part of the definition of the results."""

LARGEST_DRAWS = 2**22
"""The largest number of draws from the base measure. It is smaller for energies of many parameters (see `adaptive.largest_count`)."""

SMALL_ERROR = 1e-3
"""The standard error of log Z, in nats, at which drawing ends."""

SMALLEST_SAMPLE = 100
"""The effective sample size below which the error of log Z is not trusted."""

MARGIN = 3.0
"""The log of the factor by which the draws must exceed exp(KL) (Chatterjee, Diaconis 2018, Theorem 1.1)."""

CHAINS = 2**14
"""The number of annealed particles of each of the two estimates."""

LARGEST_SPREAD = 4.0
"""The factor by which the variance of annealed islands may exceed that of particles that forget the past at each temperature."""

AGREEMENT = 4.0
"""Two estimates agree within this number of their combined standard errors, and `adaptive.TOLERANCE`."""

NEGATIVE = 0.1
"""KL(model || base) by particles is not negative. A value below minus this number of nats, and `AGREEMENT` errors, is no noise."""

REMEDY = "use a smaller radius, or a base measure nearer the data"

RESAMPLE = "give samples of the model, such as those of more or shorter moves"

METHODS = {"quadrature": "quadrature", "draws": "importance sampling", "annealing": "annealing"}
"""The methods of estimating log Z, and each in words."""


class LogPartitionEstimate(NamedTuple):
    """An estimate of log Z with its error.

    Args:
        value: log Z, in nats.
        standard_error: its standard error, in nats. By quadrature it is the sum of the errors of the cells.
        effective_sample_size: the effective number of draws or annealed particles. None by quadrature.
        draws: the number of draws or annealed particles. None by quadrature.
        kl_to_base: KL(model || base) by particles of the model, in nats.
        method: the method, a key of `METHODS`.
        independent: log Z by other draws, in nats. None by quadrature of an energy that knows its scales, which has no draws.
        doubt: why the error cannot be trusted, and the remedy. None where it can.
    """

    value: float
    standard_error: float
    effective_sample_size: float | None
    draws: int | None
    kl_to_base: float
    method: str
    independent: float | None
    doubt: str | None

    @property
    def trusted(self) -> bool:
        """Tells whether the error can be trusted."""
        return self.doubt is None

    def summary(self) -> str:
        """Return the estimate as a sentence.

        >>> LogPartitionEstimate(1.25, 0.001, 900.0, 1000, 0.2, "draws", 1.251, None).summary()
        'log Z = 1.25 +- 0.001 nat by importance sampling; the effective sample size is 900 of 1000 draws'
        >>> LogPartitionEstimate(1.25, 0.5, None, None, 5.0, "quadrature", 2.0, "draws give 2").summary()
        'log Z = 1.25 +- 0.5 nat by quadrature; NOT TO BE TRUSTED: draws give 2'
        """
        figures = f"log Z = {self.value:.6g} +- {self.standard_error:.2g} nat by {METHODS[self.method]}"
        if self.doubt is not None:
            return f"{figures}; NOT TO BE TRUSTED: {self.doubt}"
        return figures if self.draws is None else f"{figures}; {_sizes(self)}"


def _sizes(estimate: LogPartitionEstimate) -> str:
    unit = "draws" if estimate.method == "draws" else "particles"
    return f"the effective sample size is {estimate.effective_sample_size:.0f} of {estimate.draws} {unit}"


@checked
def estimate_log_partition(key: Key[Array, ""], energy: Energy, space: Space, particles: Float[Array, "N d"]) -> LogPartitionEstimate:
    """Estimate log Z of an energy, by adaptive quadrature on circles and S^2, and elsewhere by draws of the base measure or annealing.

    A quadrature whose evaluations would take too long is left out (see `adaptive.suits`).

    The error of a quadrature is trusted where it is at most `adaptive.TOLERANCE`. Where the energy or the base measure does not know its
    smallest scales, draws of the base measure must also agree, and KL + 3 <= log(nodes). KL(model || base) = -E U - log Z is by
    particles of the model. A region of the model that no node or draw has reached leaves the error as it is, but it lowers log Z and so
    raises this KL.

    The error of draws is trusted where the effective sample size is at least 100, KL + 3 <= log(draws), and other draws agree. Otherwise
    particles are annealed from the base measure (see `tempering`). They are trusted where their effective sample size is at least 100,
    their islands scatter as far as the weights explain (see `LARGEST_SPREAD`), and other annealed particles agree.

    Whatever the method, the given particles must have the mean energy of the model to 3 nats, and must not give a negative KL. Otherwise
    they are no samples of the model, or the method has missed a region.

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with its base measure.
        particles: samples of the model as rows, (N, d). They check log Z and do not enter it.

    Returns:
        The estimate, in nats.

    Raises:
        ValueError: for the flat base measure, which cannot be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> estimate_log_partition(jax.random.key(0), energy, Sphere(3), jnp.eye(3)).summary()
    'log Z = 0 +- 0 nat by quadrature'
    """
    check_key(key)
    energies = np.asarray(evaluated(energy, particles), np.float64)
    observed = _Observed(float(np.mean(energies)), float(np.std(energies)) / math.sqrt(len(energies)))
    if not adaptive.suits(energy, space):
        return _by_draws_or_annealing(key, energy, space, observed)
    exact = _by_quadrature(key, energy, space, observed, float(jnp.finfo(particles.dtype).eps))
    if exact.trusted:
        return exact
    drawn = _by_draws_or_annealing(key, energy, space, observed)
    return drawn if drawn.trusted and drawn.standard_error < exact.standard_error else exact


class _Observed(NamedTuple):
    """The mean energy of particles, and its standard error if they are independent."""

    mean: float
    error: float


def _mismatch(observed: _Observed, log_z: float, mean_energy: float) -> str | None:
    """Return how particles differ from the points of a method, whose weighted mean energy is given, or None where they do not."""
    divergence = -observed.mean - log_z
    if not observed.mean >= mean_energy - MARGIN:  # NaN too
        return f"particles have a mean energy of {observed.mean:.3g}, the model by its weights of {mean_energy:.3g}: a region is missed"
    if observed.mean > mean_energy + MARGIN or divergence < -AGREEMENT * observed.error - NEGATIVE:
        energies = f"their mean energy is {observed.mean:.3g}, that of the model {mean_energy:.3g}"
        return f"the particles are no samples of the model: {energies}, and KL(model || base) by them is {divergence:.3g} nat"
    return None


def _by_quadrature(key, energy, space, observed, eps) -> LogPartitionEstimate:
    """Estimate log Z by quadrature. `eps` is the relative rounding of the dtype of the particles."""
    found = adaptive.log_partition(energy, space)
    value, divergence = found.value, -observed.mean - found.value
    error = max(found.error, eps * abs(value))
    doubts, drawn = [], None
    if not found.error <= adaptive.TOLERANCE:
        doubts.append(f"its error is above {adaptive.TOLERANCE:g} after {found.nodes} evaluations of the energy")
    if not found.known_scales:
        drawn, drawn_error, _, draws, _ = _drawn(jax.random.fold_in(key, 0), energy, space)
        if not _agree(value, error, drawn, drawn_error):
            doubts.append(f"{draws} draws of the base measure give {drawn:.6g} +- {drawn_error:.2g}")
        if not divergence + MARGIN <= math.log(found.nodes):
            doubts.append(f"KL(model || base) is about {divergence:.3g} nat by particles, too much for {found.nodes} nodes")
    mismatch = _mismatch(observed, value, found.mean_energy)
    doubt = _doubt(doubts) if doubts or mismatch is None else f"{mismatch}; {RESAMPLE}"
    return LogPartitionEstimate(value, error, None, None, divergence, "quadrature", drawn, doubt)


def _agree(value: float, error: float, other: float, other_error: float) -> bool:
    return abs(value - other) <= AGREEMENT * math.hypot(error, other_error) + adaptive.TOLERANCE


def _doubt(doubts: list[str]) -> str | None:
    return "; ".join([*doubts, REMEDY]) if doubts else None


def _by_draws_or_annealing(key, energy, space, observed) -> LogPartitionEstimate:
    """Estimate log Z by draws of the base measure, and by annealing where they do not suffice."""
    keys = [jax.random.fold_in(key, index) for index in range(4)]
    value, error, size, draws, mean_energy = _drawn(keys[0], energy, space)
    other, other_error, *_ = _drawn(keys[1], energy, space, draws)
    drawn = LogPartitionEstimate(value, error, size, draws, -observed.mean - value, "draws", other, None)
    doubts = _sampling_doubts(drawn, other_error)
    if not drawn.kl_to_base + MARGIN <= math.log(draws):
        needed = f"KL(model || base) is about {drawn.kl_to_base:.3g} nat, and sampling needs many times exp(KL) draws"
        doubts.append(needed)
    if not doubts:
        return _compared(drawn, observed, mean_energy)
    runs = [[float(x) for x in _annealed(k, energy, space, CHAINS)] for k in keys[2:]]
    (value, error, size, spread, mean_energy), (other, other_error, *_) = runs
    annealed = LogPartitionEstimate(value, error, size, CHAINS, -observed.mean - value, "annealing", other, None)
    other_doubts = _sampling_doubts(annealed, other_error)
    if not spread <= LARGEST_SPREAD:
        other_doubts.append(f"islands of particles scatter {spread:.3g} times as much as moves that mix would let them")
    if not other_doubts:
        return _compared(annealed, observed, mean_energy)
    if size > (drawn.effective_sample_size or 0):
        return annealed._replace(doubt=_doubt([*other_doubts, f"importance sampling gives {drawn.value:.6g}"]))
    return drawn._replace(doubt=_doubt([*doubts, f"annealing gives {value:.6g}"]))


def _compared(estimate: LogPartitionEstimate, observed: _Observed, mean_energy: float) -> LogPartitionEstimate:
    """Return an estimate without a doubt, or with that which particles raise."""
    mismatch = _mismatch(observed, estimate.value, mean_energy)
    return estimate if mismatch is None else estimate._replace(doubt=f"{mismatch}; {RESAMPLE}")


def _sampling_doubts(estimate: LogPartitionEstimate, other_error: float) -> list[str]:
    """Return what is doubtful about an estimate with an independent one."""
    doubts = []
    if not (estimate.effective_sample_size or 0) >= SMALLEST_SAMPLE:
        doubts.append(_sizes(estimate))
    other = estimate.independent
    if other is not None and not _agree(estimate.value, estimate.standard_error, other, other_error):
        doubts.append(f"an independent estimate is {other:.6g} +- {other_error:.2g}")
    return doubts


_sampled = eqx.filter_jit(sampled_moments)


def _drawn(key, energy, space, count: int | None = None) -> tuple[float, float, float, int, float]:
    """Return log Z, its standard error, the effective sample size, the number of draws of the base measure, and the mean energy.

    Block b has the key fold_in(key, b), whatever the number of blocks. Without a `count` it draws until the error is small. The blocks'
    means and summed squared deviations of w are merged in float64 (Chan, Golub, LeVeque 1983).
    """
    largest = adaptive.largest_count(energy, LARGEST_DRAWS) if count is None else count
    eps = float(jnp.finfo(precision_of(energy)).eps)
    n, log_mean, square, mean_energy = 0, -math.inf, 0.0, 0.0  # the sum of squared deviations is relative to the squared mean
    while True:
        value, error, _, energy_here = (float(x) for x in _sampled(jax.random.fold_in(key, n // BLOCK), energy, space, BLOCK))
        block_square = error**2 * BLOCK * (BLOCK - 1)
        total = n + BLOCK
        merged = float(np.logaddexp(log_mean + math.log(n), value + math.log(BLOCK))) - math.log(total) if n else value
        old, new = math.exp(log_mean - merged), math.exp(value - merged)
        square = old**2 * square + new**2 * block_square + (old - new) ** 2 * n * BLOCK / total
        mean_energy = (old * n * mean_energy + new * BLOCK * energy_here) / total
        n, log_mean = total, merged
        error = max(math.sqrt(square / n / (n - 1)), eps * abs(log_mean))
        if n + BLOCK > largest or (count is None and error <= SMALL_ERROR):
            return log_mean, error, n / (1 + square / n), n, mean_energy


@eqx.filter_jit
def _annealed(key, energy, space, count):
    """Return the fields of `tempering.Estimate` by annealed particles, and their weighted mean energy."""
    path_key, follow_key = jax.random.split(key)
    islands = tempering.follow(follow_key, energy, space, choose_path(path_key, energy, space), count)
    return *tempering.estimate(islands), mean(energy(islands.points), islands.log_weights)
