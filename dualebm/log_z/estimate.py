"""log Z of a fitted energy by the best method for its space, with its error and what is doubtful about it."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy, precision_of
from dualebm.geometry import Space
from dualebm.log_z import adaptive
from dualebm.log_z.annealing import anneal, log_mean_weight, log_partition_by_sampling
from dualebm.measures import mean

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

CHAINS, TEMPERATURES = 2**10, 800
"""The number of annealed chains of each of the two estimates, and of their energies. With fewer energies fewer chains are effective."""

AGREEMENT = 4.0
"""Two estimates agree within this number of their combined standard errors, and `adaptive.TOLERANCE`."""

REMEDY = "use a smaller radius, or a base measure nearer the data"

METHODS = {"quadrature": "quadrature", "draws": "importance sampling", "annealing": "annealing"}
"""The methods of estimating log Z, and each in words."""


class LogPartitionEstimate(NamedTuple):
    """An estimate of log Z with its error.

    Args:
        value: log Z, in nats.
        standard_error: its standard error, in nats. By quadrature it is the sum of the errors of the cells.
        effective_sample_size: the effective number of draws or annealed chains. None by quadrature.
        draws: the number of draws or annealed chains. None by quadrature.
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
    unit = "draws" if estimate.method == "draws" else "chains"
    return f"the effective sample size is {estimate.effective_sample_size:.0f} of {estimate.draws} {unit}"


def estimate_log_partition(key: Key[Array, ""], energy: Energy, space: Space, particles: Float[Array, "N d"]) -> LogPartitionEstimate:
    """Estimate log Z of an energy, by adaptive quadrature on circles and S^2, and elsewhere by draws of the base measure or annealing.

    A quadrature whose evaluations would take too long is left out (see `adaptive.suits`).

    The error of a quadrature is trusted where it is at most `adaptive.TOLERANCE`. Where the energy or the base measure does not know its
    smallest scales, draws of the base measure must also agree, and KL + 3 <= log(nodes). KL(model || base) = -E U - log Z is by
    particles of the model. A region of the model that no node or draw has reached leaves the error as it is, but it lowers log Z and so
    raises this KL.

    The error of draws is trusted where the effective sample size is at least 100, KL + 3 <= log(draws), and other draws agree. Otherwise
    chains are annealed. They are trusted where their effective sample size is at least 100, other chains agree, and particles have
    a mean energy that is lower than that of the chains by at most 3 nats.

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with its base measure.
        particles: particles of the model as rows, (N, d).

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
    particle_mean = float(jnp.mean(energy(particles)))
    if not adaptive.suits(energy, space):
        return _by_draws_or_annealing(key, energy, space, particle_mean)
    exact = _by_quadrature(key, energy, space, particle_mean, float(jnp.finfo(particles.dtype).eps))
    if exact.trusted:
        return exact
    drawn = _by_draws_or_annealing(key, energy, space, particle_mean)
    return drawn if drawn.trusted and drawn.standard_error < exact.standard_error else exact


def _by_quadrature(key, energy, space, particle_mean, eps) -> LogPartitionEstimate:
    """Estimate log Z by quadrature. `particle_mean` is their mean energy, and `eps` the relative rounding of their dtype."""
    found = adaptive.log_partition(energy, space)
    value, divergence = found.value, -particle_mean - found.value
    error = max(found.error, eps * abs(value))
    doubts, drawn = [], None
    if not found.error <= adaptive.TOLERANCE:
        doubts.append(f"its error is above {adaptive.TOLERANCE:g} after {found.nodes} evaluations of the energy")
    if not found.known_scales:
        drawn, drawn_error, _, draws = _drawn(jax.random.fold_in(key, 0), energy, space)
        if not _agree(value, error, drawn, drawn_error):
            doubts.append(f"{draws} draws of the base measure give {drawn:.6g} +- {drawn_error:.2g}")
        if not divergence + MARGIN <= math.log(found.nodes):
            doubts.append(f"KL(model || base) is about {divergence:.3g} nat by particles, too much for {found.nodes} nodes")
    return LogPartitionEstimate(value, error, None, None, divergence, "quadrature", drawn, _doubt(doubts))


def _agree(value: float, error: float, other: float, other_error: float) -> bool:
    return abs(value - other) <= AGREEMENT * math.hypot(error, other_error) + adaptive.TOLERANCE


def _doubt(doubts: list[str]) -> str | None:
    return "; ".join([*doubts, REMEDY]) if doubts else None


def _by_draws_or_annealing(key, energy, space, particle_mean) -> LogPartitionEstimate:
    """Estimate log Z by draws of the base measure, and by annealing where they do not suffice."""
    keys = [jax.random.fold_in(key, index) for index in range(4)]
    value, error, size, draws = _drawn(keys[0], energy, space)
    other, other_error, *_ = _drawn(keys[1], energy, space, draws)
    drawn = LogPartitionEstimate(value, error, size, draws, -particle_mean - value, "draws", other, None)
    needed = f"KL(model || base) is about {drawn.kl_to_base:.3g} nat, and sampling needs many times exp(KL) draws"
    doubts = _sampling_doubts(drawn, other_error, None if drawn.kl_to_base + MARGIN <= math.log(draws) else needed)
    if not doubts:
        return drawn
    runs = [[float(x) for x in _annealed(k, energy, space, CHAINS, TEMPERATURES)] for k in keys[2:]]
    (value, error, size, mean_energy), (other, other_error, *_) = runs
    annealed = LogPartitionEstimate(value, error, size, CHAINS, -particle_mean - value, "annealing", other, None)
    missed = f"particles have a mean energy of {particle_mean:.3g}, the chains of {mean_energy:.3g}"
    other_doubts = _sampling_doubts(annealed, other_error, None if mean_energy - particle_mean <= MARGIN else missed)
    if not other_doubts:
        return annealed
    if size > (drawn.effective_sample_size or 0):
        return annealed._replace(doubt=_doubt([*other_doubts, f"importance sampling gives {drawn.value:.6g}"]))
    return drawn._replace(doubt=_doubt([*doubts, f"annealing gives {value:.6g}"]))


def _sampling_doubts(estimate: LogPartitionEstimate, other_error: float, missed: str | None) -> list[str]:
    """Return what is doubtful about an estimate with an independent one. `missed` says what it has missed, if anything."""
    doubts = []
    if not (estimate.effective_sample_size or 0) >= SMALLEST_SAMPLE:
        doubts.append(_sizes(estimate))
    if missed is not None:
        doubts.append(missed)
    other = estimate.independent
    if other is not None and not _agree(estimate.value, estimate.standard_error, other, other_error):
        doubts.append(f"an independent estimate is {other:.6g} +- {other_error:.2g}")
    return doubts


_sampled = eqx.filter_jit(log_partition_by_sampling)


def _drawn(key, energy, space, count: int | None = None) -> tuple[float, float, float, int]:
    """Return log Z, its standard error, the effective sample size and the number of draws of the base measure.

    Block b has the key fold_in(key, b), whatever the number of blocks. Without a `count` it draws until the error is small. The blocks'
    means and summed squared deviations of w are merged in float64 (Chan, Golub, LeVeque 1983).
    """
    largest = adaptive.largest_count(energy, LARGEST_DRAWS) if count is None else count
    eps = float(jnp.finfo(precision_of(energy)).eps)
    n, log_mean, square = 0, -math.inf, 0.0  # the sum of squared deviations is relative to the squared mean
    while True:
        value, error, _ = (float(x) for x in _sampled(jax.random.fold_in(key, n // BLOCK), energy, space, BLOCK))
        block_square = error**2 * BLOCK * (BLOCK - 1)
        total = n + BLOCK
        merged = float(np.logaddexp(log_mean + math.log(n), value + math.log(BLOCK))) - math.log(total) if n else value
        old, new = math.exp(log_mean - merged), math.exp(value - merged)
        square = old**2 * square + new**2 * block_square + (old - new) ** 2 * n * BLOCK / total
        n, log_mean = total, merged
        error = max(math.sqrt(square / n / (n - 1)), eps * abs(log_mean))
        if n + BLOCK > largest or (count is None and error <= SMALL_ERROR):
            return log_mean, error, n / (1 + square / n), n


@eqx.filter_jit
def _annealed(key, energy, space, chains, temperatures):
    """Return log Z by annealing, its standard error, the effective sample size, and the chains' weighted mean energy."""
    points, log_weights = anneal(key, energy, space, chains, temperatures=temperatures)
    return *log_mean_weight(log_weights), mean(energy(points), log_weights)  # pyright: ignore[reportArgumentType]
