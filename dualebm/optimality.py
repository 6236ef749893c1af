"""How far the energy of an automatic fit is from the best of its F1 ball, in nats.

The energy f has the radius R, its total variation. The bound says how much larger the mean log density of the rows that were fitted could
be, at most, for another energy of the ball |f|_F1 <= R on the same base measure (`duality_gap`). A bound near 0 says that training has
converged. It says nothing about rows that were not fitted, nor about another radius or another base measure.
"""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from dualebm import duality_gap
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.auto import Fit
from dualebm.base_measures import Uniform
from dualebm.duality_gap import Certificate, certify
from dualebm.energies.base import evaluated
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.estimate import SMALLEST_SAMPLE
from dualebm.log_z.quadrature import quadrature_of
from dualebm.measures import Samples, effective_sample_size
from dualebm.settings import checked

DRAWS = 2**16
"""The number of draws of the base measure that stand for the model, in two halves."""

NODES_PER_LENGTH = 4
"""The number of nodes of a quadrature along the shortest length of an energy and a base measure from which it is taken."""


class Gap(NamedTuple):
    """How far an energy is from the best of its F1 ball, at most.

    Args:
        nats: the bound, in nats. None where it is not known.
        standard_error: its standard error, in nats, which is 0 by quadrature. None where the bound is not known.
        radius: the radius of the ball.
        doubt: why the bound is not known, or None.
        exact: whether the bound is by quadrature and its supremum was sought from a grid of all parameters.
    """

    nats: float | None
    standard_error: float | None
    radius: float
    doubt: str | None
    exact: bool = False

    def summary(self) -> str:
        """Return the bound as a sentence, without a full stop.

        >>> Gap(0.0213, 0.0021, 10.0, None).summary()
        'estimated within 0.0213 +- 0.0021 nats of the best F1 energy of radius 10'
        >>> Gap(None, None, 0.0, "the radius is 0").summary()
        'not known to be near the best F1 energy of radius 0: the radius is 0'
        """
        return duality_gap.stated(self.nats, self.standard_error, self.exact, self.doubt, float(f"{self.radius:.4g}"))


@checked
def gap_of_fit(key: Key[Array, ""], fit: Fit, data: Samples) -> Gap:
    """Estimate how far the energy of an automatic fit is from the best of its F1 ball.

    The model is a quadrature on the circle and on S^2 where its nodes resolve the energies and the base measure. Elsewhere it is `DRAWS`
    draws of the base measure with the weights exp(-f). The bound is that of a polish (`duality_gap.certify`). A search of a supremum may
    stop at a local one, so the distance may be larger than the estimate. It takes a few seconds for 10 000 rows.

    Args:
        key: the random key of the draws and of the search.
        fit: the fit.
        data: the rows that were fitted as points of the space, (n, d), with their weights.

    Returns:
        The bound. It is not known where the radius is 0, log Z is not trusted, fewer than 200 draws count, or it says little
        (`duality_gap.doubt`).

    >>> from dualebm.features import ReLU; from dualebm.log_z.estimate import LogPartitionEstimate; from dualebm.spaces import Sphere
    >>> log_z = LogPartitionEstimate(0.0, 0.0, None, None, 0.0, "quadrature", None, None)
    >>> fit = Fit(Shallow(ReLU(), jnp.eye(2), jnp.full(2, -2.0)), Sphere(2), log_z, 2.0, None, 1, (0.0, 0.0), (), ())
    >>> gap = gap_of_fit(jax.random.key(0), fit, Samples(jnp.eye(2)[:1]))
    >>> gap.summary()
    'within 0.8011 nats of the best F1 energy of radius 2 (by quadrature)'
    """
    check_key(key)
    energy, space, radius = fit.energy, fit.space, fit.radius
    if not radius:
        return Gap(None, None, radius, "the ball holds no energy but 0, and the model is the base measure")
    if not fit.log_partition.trusted:
        return Gap(None, None, radius, "log Z is not to be trusted")
    draw_key, search_key = jax.random.split(key)
    scale = jnp.asarray(radius, data.points.dtype)
    nodes = quadrature_of(dataclasses.replace(space, base=Uniform()), data.points.dtype) if space.compact else None
    if nodes is not None and _resolve(nodes, energy, space):
        log_weights = jnp.asarray(nodes.log_weights) + space.log_base(nodes.points)
        certificate = _certified(search_key, energy, space, data, scale, quadrature=nodes._replace(log_weights=log_weights))
        kept = np.asarray(certificate.energy.coefficients) != 0
        places = jnp.concatenate([certificate.energy.positions[kept], certificate.position[None]])
        if _resolve(nodes, Shallow(energy.feature, places, jnp.ones(len(places))), space):
            return _gap(certificate, radius)
    draws = space.sample_base(draw_key, DRAWS, data.points.dtype)
    log_weights = -evaluated(energy, draws)
    size = float(effective_sample_size(log_weights))
    if not size >= 2 * SMALLEST_SAMPLE:
        return Gap(None, None, radius, f"only {size:.0f} of {DRAWS} draws of the base measure count")
    return _gap(_certified(search_key, energy, space, data, scale, model=Samples(draws, log_weights)), radius)


_certified = brief(certify, eqx.filter_jit)  # within jit it does not ask whether the samples are relaxed: weighted draws of the base are


def _gap(certificate: Certificate, radius: float) -> Gap:
    doubt = duality_gap.doubt(certificate)
    if doubt is not None:
        return Gap(None, None, radius, doubt)
    return Gap(float(certificate.gap), float(certificate.error), radius, None, bool(certificate.exact))


def _resolve(nodes: Samples, energy: Shallow, space: Space) -> bool:
    """Tell whether nodes of a circle or of S^2 are near enough to each other for the shortest lengths of an energy and the base measure."""
    places = [known for known in (energy.finest(), space.base.finest(space)) if known is not None]
    shortest = min([math.inf, *(float(np.min(lengths)) for _, lengths in places if len(lengths))])
    apart = (math.exp(space.log_volume) / len(nodes.points)) ** (1 / (space.dimension - 1))
    return len(places) == 2 and shortest >= NODES_PER_LENGTH * apart
