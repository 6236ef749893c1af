"""What fresh samples of the model say of a training: the cross-entropy, and how far the particles are from the model.

Neither the weights nor the energies of particles see what the particles have lost. Samples that are tempered from the base measure, and
that the training never sees, do.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm import measures, settings
from dualebm._internal.keys import check_key
from dualebm.log_z import fresh
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.validated import AGREEMENT, CROSS_ENTROPY, ENERGY, LOG_PARTITION, TOLERANCE, check_of
from dualebm.metrics.base import Metric
from dualebm.settings import Count, CountFrom2

ENERGY_TOLERANCE = 0.5
"""The difference of two mean energies that is not noticed. Particles of a model that moves lag behind it by some tenths."""


class AnnealedCheck(Metric):
    """The array [[E U + log Z, error], [log Z by the particles - log Z, error], [mean energy of the particles - that of the model, error]].

    log Z and the mean energy of the model are by fresh samples (`log_z.fresh.draw`). The array, (3, 2), in nats, is NaN in records
    between the checks, and where the fresh samples are not to be trusted. A row is NaN where the method has no such number. Errors are
    standard errors. That of the second row is of the fresh samples alone where the particles know none. That of the third row takes
    particles as independent.

    Args:
        samples: the samples of the cross-entropy, points (n, d), n at least 1.
        every: the number of iterations between checks, a multiple of the number between records. There is none at the start.
        count: the number of fresh samples, at least 2.

    Raises:
        ValueError: there is no sample, or a number is not allowed.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere; from dualebm.training.simulate import start
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> iterate = Iterate(method, start(jax.random.key(1), method, method.rates, data), method.rates, data)
    >>> bool(jnp.isnan(AnnealedCheck(data, 10)(jax.random.key(2), iterate)).all())
    True
    """

    samples: Samples
    every: Count = eqx.field(static=True)
    count: CountFrom2 = eqx.field(static=True, default=2**10)
    long_name: ClassVar[str | None] = "cross-entropy, and particles less the model in log Z and in energy, by fresh samples"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)
        measures.check_not_empty(self.samples)

    def __call__(self, key, iterate: Iterate) -> Float[Array, "3 2"]:
        """Return the array, (3, 2)."""
        check_key(key)
        unknown = jnp.full((3, 2), jnp.nan, iterate.data.points.dtype)
        if not fresh.available(iterate.energy, iterate.method.space):
            return unknown

        def check():
            made = check_of(key, iterate.method, iterate.state, iterate.energy, self.samples, self.count)
            return made.astype(unknown.dtype)

        due = (iterate.state.step % self.every == 0) & (iterate.state.step > 0)
        return jax.lax.cond(due, check, lambda: unknown)

    def warnings(self, values: np.ndarray) -> dict[str, str]:
        """Return what the checks of a run say against it, by kinds, in sentences with remedies (see `Metric.warnings`)."""
        made = values[np.isfinite(values[:, CROSS_ENTROPY, 0])].astype(float)
        return findings(made) if len(made) else {}


def findings(made: np.ndarray, ended: bool = False) -> dict[str, str]:
    """Return what checks say against a run, by kinds, in sentences with remedies.

    Args:
        made: the arrays of the checks that could be made, (k, 3, 2), k at least 1, in their order.
        ended: whether the run has ended.

    Returns:
        Sentences by "log_partition" (the weights' log Z is wrong), "particles" (the particles are not of the model) and "rise" (the
        cross-entropy was lower before), each where it is so at the last two checks: particles may catch up with a model that has moved
        fast, and a training may come back. At the end of a run one check is enough for a rise.

    >>> good, bad = [[-1.0, 0.01], [0.0, 0.01], [0.0, 0.1]], [[-1.0, 0.01], [-99.0, 0.01], [0.0, 0.1]]
    >>> findings(np.array([bad, good, bad]))
    {}
    >>> findings(np.array([good, bad, bad]))["log_partition"].split(": ")[0]
    'log Z by the particles is -99 nat off fresh samples of the model, and NOT TO BE TRUSTED'
    """
    said, last, two = {}, made[-1], made[-2:]
    off, gap = last[LOG_PARTITION, 0], last[ENERGY, 0]

    def differ(row, tolerance):
        return len(two) == 2 and bool(np.all(np.abs(two[:, row, 0]) > AGREEMENT * two[:, row, 1] + tolerance))

    if differ(LOG_PARTITION, TOLERANCE):
        said["log_partition"] = (
            f"log Z by the particles is {off:.3g} nat off fresh samples of the model, and NOT TO BE TRUSTED: use log Z by these, with the "
            "error that is printed; renewal redraws the particles, and Audited has some that the training does not follow"
        )
    if differ(ENERGY, ENERGY_TOLERANCE):
        where = "higher: they lag behind the model" if gap > 0 else "lower: they have lost parts of the model"
        said["particles"] = (
            f"the particles are no samples of the model: their mean energy is {abs(gap):.3g} {where}; the training then follows a wrong "
            "gradient. Lower the steps of the training, or give more moves"
        )
    values, errors = made[:, CROSS_ENTROPY].T
    least = int(np.argmin(values))
    worse = values - values[least] > AGREEMENT * np.hypot(errors, errors[least]) + TOLERANCE
    if worse[-1] and (ended or worse[-2:].sum() == 2):
        rise = values[-1] - values[least]
        said["rise"] = (
            f"the cross-entropy by fresh samples of the model has been {rise:.3g} nat lower, and the training has become worse "
            "since; lower its steps, or let them fall"
        )
    return said
