"""log Z of a fitted energy by the best method for its space, with its error."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.log_z.annealing import log_partition_by_sampling
from dualebm.log_z.quadrature import log_partition, sphere_quadrature
from dualebm.spaces import Sphere

NODES: dict[Space, int] = {Sphere(2): 4000, Sphere(3): 200}
"""The number of quadrature nodes of the spaces that have a quadrature for every energy."""

DRAWS = 2**20
"""The number of draws from the base measure on other spaces."""

SMALLEST_SAMPLE = 100
"""The effective sample size below which the error of log Z is not trusted."""

MARGIN = 3.0
"""The log of the factor by which the draws must exceed exp(KL) (Chatterjee, Diaconis 2018, Theorem 1.1)."""


class LogPartitionEstimate(NamedTuple):
    """An estimate of log Z with its error.

    Attributes:
        value: log Z, in nats.
        standard_error: its standard error, in nats. By quadrature it is the distance to the value with half the nodes.
        effective_sample_size: the effective number of draws. None by quadrature.
        draws: the number of draws. None by quadrature.
        kl_to_base: KL(model || base) by particles of the model, in nats.
        trusted: whether the error can be trusted.
    """

    value: float
    standard_error: float
    effective_sample_size: float | None
    draws: int | None
    kl_to_base: float
    trusted: bool

    def summary(self) -> str:
        """Return the estimate as a sentence.

        >>> LogPartitionEstimate(1.25, 0.5, 3.0, 1000, 5.0, False).summary()  # doctest: +ELLIPSIS
        'log Z = 1.25 +- 0.5 nat by importance sampling; NOT TO BE TRUSTED: the effective sample size is 3 of 1000 draws...'
        """
        figures = f"log Z = {self.value:.6g} +- {self.standard_error:.2g} nat"
        if self.draws is None:
            return f"{figures} by quadrature"
        size = f"the effective sample size is {self.effective_sample_size:.0f} of {self.draws} draws"
        if self.trusted:
            return f"{figures} by importance sampling; {size}"
        cause = f"KL(model || base) is about {self.kl_to_base:.3g} nat, and sampling needs many times exp(KL) draws"
        return f"{figures} by importance sampling; NOT TO BE TRUSTED: {size}, {cause}"


def estimate_log_partition(key: Key[Array, ""], energy: Energy, space: Space, particles: Float[Array, "N d"]) -> LogPartitionEstimate:
    """Estimate log Z of an energy, by quadrature on S^1 and S^2 and by importance sampling from the base measure elsewhere.

    Particles of the model give KL(model || base) = -E U - log Z. The error of sampling is trusted where the effective sample
    size is at least 100 and KL + 3 <= log(draws). A region of the model that no draw has reached leaves the effective sample
    size as it is, but it lowers log Z and so raises this KL.

    Args:
        key: the random key of the draws.
        energy: the energy U.
        space: the space, with its base measure.
        particles: particles of the model as rows, (N, d).

    Returns:
        The estimate, in nats.

    Raises:
        ValueError: for the flat base measure, which cannot be sampled.

    >>> import jax
    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> estimate_log_partition(jax.random.key(0), energy, Sphere(3), jnp.eye(3)).trusted
    True
    """
    mean = float(jnp.mean(energy(particles)))
    if space in NODES:
        nodes = NODES[space]
        fine, coarse = (
            float(log_partition(energy, sphere_quadrature(space, n, particles.dtype)))
            for n in (nodes, nodes // 2)
        )
        rounding = float(jnp.finfo(particles.dtype).eps) * (1 + abs(fine))
        return LogPartitionEstimate(fine, max(abs(fine - coarse), rounding), None, None, -mean - fine, True)
    value, error, size = (float(x) for x in log_partition_by_sampling(key, energy, space, DRAWS))
    divergence = -mean - value
    trusted = size >= SMALLEST_SAMPLE and divergence + MARGIN <= math.log(DRAWS)
    return LogPartitionEstimate(value, error, size, DRAWS, divergence, trusted)
