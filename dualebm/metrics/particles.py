"""Metrics of the particles of a run: how often they move, and how far they are from test samples."""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp

from dualebm import distances, settings
from dualebm._internal.keys import check_key
from dualebm.kernels import Kernel, squared_mmd
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric
from dualebm.settings import Count


class Acceptance(Metric):
    """The fraction of the particles' moves that were accepted since the last record. It is NaN where nothing moved."""

    long_name: ClassVar[str | None] = "acceptance rate"
    units: ClassVar[str | None] = "1"

    def __call__(self, key, iterate: Iterate):
        """Return the rate, a scalar."""
        del key
        unknown = jnp.full((), jnp.nan, iterate.data.points.dtype)
        return unknown if iterate.info.acceptance is None else iterate.info.acceptance


class MMD(Metric):
    """The maximum mean discrepancy between the particles and test samples (Gretton et al. 2012).

    It is the root of the V-statistic `kernels.squared_mmd`. The rounding of the square, a few eps, is a floor of
    sqrt(eps): 5e-4 in float32. Between N and n samples of one distribution the mean of the square is (1/N + 1/n) (E
    k(x, x) - E k(x, x')).

    Args:
        samples: test samples, (n, d).
        kernel: a kernel of `dualebm.kernels`.
    """

    samples: Samples
    kernel: Kernel = eqx.field(static=True)
    long_name: ClassVar[str | None] = "maximum mean discrepancy of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the discrepancy, a scalar."""
        del key
        return jnp.sqrt(jnp.maximum(squared_mmd(self.kernel, iterate.samples, self.samples), 0))


class EnergyDistance(Metric):
    """The energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of particles x and test samples y (see `distances.energy_distance`).

    Args:
        samples: test samples, (n, d).
    """

    samples: Samples
    long_name: ClassVar[str | None] = "energy distance of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the distance, a scalar, in the units of the points."""
        del key
        return distances.energy_distance(iterate.samples, self.samples)


class SlicedWasserstein(Metric):
    """The sliced Wasserstein distance of the particles to test samples (see `distances.sliced_wasserstein`).

    Args:
        samples: test samples, (n, d).
        projections: the number of random projections.
        order: the order of the Wasserstein distance, 1 or 2.
    """

    samples: Samples
    projections: Count = eqx.field(static=True, default=100)
    order: Literal[1, 2] = eqx.field(static=True, default=2)
    long_name: ClassVar[str | None] = "sliced Wasserstein distance of the particles to test samples"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate):
        """Return the distance, a scalar, in the units of the points."""
        check_key(key)
        return distances.sliced_wasserstein(key, iterate.samples, self.samples, projections=self.projections, order=self.order)
