"""log Z of a fitted energy by the best way that its space has, with what is known of its error."""

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
"""Nodes of the quadrature, of the spaces that have one for every energy."""

DRAWS = 2**20
"""Draws of the base measure for log Z elsewhere."""

SMALLEST_SAMPLE = 100
"""The effective sample size below which the error of log Z is not to be trusted."""

MARGIN = 3.0
"""log of how many times exp(KL) draws there must be (Chatterjee, Diaconis 2018, Theorem 1.1)."""


class LogPartitionEstimate(NamedTuple):
    """log Z, in nats: `value`; its `standard_error` (by `quadrature`, how far half the nodes are from it); the
    `effective_sample_size` of `draws` (None by quadrature); `kl_to_base`, the divergence of the model from the base measure by
    its particles; `trusted`, whether the error can be."""

    value: float
    standard_error: float
    effective_sample_size: float | None
    draws: int | None
    kl_to_base: float
    trusted: bool

    def told(self) -> str:
        """In words.

        >>> LogPartitionEstimate(1.25, 0.5, 3.0, 1000, 5.0, False).told()  # doctest: +ELLIPSIS
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
    """log Z: by quadrature on S^1 and S^2, by importance sampling from the base measure elsewhere.

    `particles` of the model give KL(model || base) = -E U - log Z. The error of sampling is trusted where the effective
    sample size is at least 100 and KL + 3 <= log(draws): a region of the model that no draw has reached leaves the
    effective sample size as it is, but lowers log Z, and so raises this KL.

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
