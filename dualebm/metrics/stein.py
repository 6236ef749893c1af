"""Metrics of a run by Stein discrepancies, which need no log Z (see `dualebm.stein`)."""

from typing import Any, ClassVar

import equinox as eqx

from dualebm import settings, stein, stein_critics
from dualebm._internal.keys import check_key
from dualebm.geometry import Space
from dualebm.kernels import RBF
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.metrics.base import Metric
from dualebm.settings import Count


class SteinDiscrepancy(Metric):
    """The squared kernelised Stein discrepancy KSD^2 of test samples from the model, by the U-statistic (see `dualebm.stein`).

    It needs no log Z. Where samples and model agree it is near 0, with either sign.

    Args:
        samples: test samples, (n, d), at least two.
        space: the space of the samples: a sphere or a Euclidean space.
        kernel: a kernel with derivatives.

    Raises:
        ValueError: there are fewer than two samples, a point is not in the space, or the kernel has no derivatives.
    """

    samples: Samples
    space: Space = eqx.field(static=True)
    kernel: Any = eqx.field(static=True, default=RBF())
    long_name: ClassVar[str | None] = "squared kernelised Stein discrepancy"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)
        stein.check_space(self.space)
        stein.check_kernel(self.kernel)
        stein.check_samples("samples", self.samples, self.space, "U")

    def __call__(self, key, iterate: Iterate):
        """Return the discrepancy, a scalar."""
        del key
        scores = stein.score(iterate.energy, self.space, self.samples.points)
        return stein.kernelised(self.kernel, self.space, self.samples, scores)[0]


class NetworkSteinDiscrepancy(Metric):
    """The Stein discrepancy of test samples from the model, with critics in F1 (see `stein_critics.network_discrepancy`).

    Args:
        samples: test samples, (n, d).
        space: the space of the samples: a sphere or a Euclidean space.
        width: the number of neurons of each of the d critics.
        steps: the number of steps of the critics' ascent.

    Raises:
        ValueError: a point is not in the space, or a setting is not allowed.
    """

    samples: Samples
    space: Space = eqx.field(static=True)
    width: Count = eqx.field(static=True, default=64)
    steps: Count = eqx.field(static=True, default=101)
    long_name: ClassVar[str | None] = "F1 Stein discrepancy"
    units: ClassVar[str | None] = "1"

    def __check_init__(self):
        settings.check(self, alone=True)
        stein.check_space(self.space)
        stein.check_samples("samples", self.samples, self.space, "V")

    def __call__(self, key, iterate: Iterate):
        """Return the discrepancy, a scalar."""
        check_key(key)
        energy = iterate.energy
        scores = stein.score(energy, self.space, self.samples.points)
        return stein_critics.by_critics(key, self.space, self.samples, scores, self.width, self.steps)
