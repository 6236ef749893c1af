"""The checks of a training that is validated, as records, and when they say that it is enough."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm import settings
from dualebm.methods.base import Iterate
from dualebm.methods.validated import AGREEMENT, CROSS_ENTROPY, TOLERANCE
from dualebm.metrics.annealed import findings
from dualebm.metrics.base import Metric

RISEN = 10
"""The number of checks in a row that are clearly above the least one, after which a training is stopped."""

GAIN = 0.01
"""The fall of the cross-entropy that counts as progress, in nats."""


class ValidationCheck(Metric):
    """The check of a method `Validated`: the array of `AnnealedCheck`, (3, 2), with the cross-entropy of its validation rows.

    It is NaN between the checks, and where the fresh samples of a check are not to be trusted. A record of another method raises
    AttributeError.

    Args:
        quiet: whether no check warns. The end then has to say what is wrong: a training that mends goes back from what a check says.
    """

    quiet: bool = eqx.field(static=True, default=False)

    long_name: ClassVar[str | None] = "cross-entropy of the validation rows, and particles less the model in log Z and in energy"
    units: ClassVar[str | None] = "nat"

    def __check_init__(self):
        settings.check(self, alone=True)

    def __call__(self, key, iterate: Iterate) -> Float[Array, "3 2"]:
        """Return the array, (3, 2)."""
        del key
        made, step = iterate.state.check, iterate.state.step
        due = (step % iterate.method.every == 0) & (step > 0)
        return jnp.where(due & ~jnp.isneginf(made), made, jnp.nan)

    def warnings(self, values: np.ndarray) -> dict[str, str]:
        """Return what the checks say against a run, as `AnnealedCheck` does. A rise is none: the energy before it is kept."""
        if self.quiet:
            return {}
        made = values[np.isfinite(values[:, CROSS_ENTROPY, 0])].astype(float)
        return {kind: said for kind, said in findings(made).items() if kind != "rise"} if len(made) else {}


def settled(checks: Float[np.ndarray, "k 3 2"]) -> bool:
    """Tell whether the cross-entropy of validation rows has not fallen for so long that a training may end.

    It has not where the first check within `GAIN` of the least one lies in the first third of the training, and at least `RISEN` checks
    before its end. This says little of a training whose steps fall along a schedule: its cross-entropy may fall with them at the end.

    Args:
        checks: the checks of a training in their order, with NaN where one could not be made.

    >>> of = lambda values: np.stack([np.stack([values, 0 * values], axis=1)] * 3, axis=1)
    >>> falls, stays = np.linspace(0, -1, 8), np.full(16, -1.0)
    >>> [settled(of(values)) for values in (falls, np.append(falls, stays[1:]), np.append(falls, stays), np.linspace(0, -1, 40))]
    [False, False, True, False]
    """
    values = np.nan_to_num(checks[:, CROSS_ENTROPY, 0].astype(float), nan=np.inf)
    if not np.isfinite(values).any():
        return False
    reached = int(np.argmax(values <= values.min() + GAIN)) + 1
    return len(values) >= max(3 * reached, reached + RISEN)


def risen(checks: Float[np.ndarray, "k 3 2"]) -> bool:
    """Tell whether the cross-entropy of validation rows has clearly risen for so long that a training may end.

    It has where none of the last `RISEN` checks is within 3 combined standard errors of log Z and 0.05 nat of the least one. A check that
    could not be made, as the fresh samples of the model were not to be trusted, counts as one that has risen.

    Args:
        checks: the checks of a training in their order, with NaN where one could not be made.

    >>> fall, rise = np.linspace(0, -1, 5), np.linspace(-1, 0, 15)
    >>> of = lambda values: np.stack([np.stack([values, 0 * values], axis=1)] * 3, axis=1)
    >>> risen(of(fall)), risen(of(np.concatenate([fall, rise]))), risen(of(np.concatenate([fall, rise, [-1.0]])))
    (False, True, False)
    """
    values, errors = np.nan_to_num(checks[:, CROSS_ENTROPY].astype(float), nan=np.inf).T
    least = int(np.argmin(values)) if len(values) > RISEN else 0
    if len(values) <= RISEN or not np.isfinite(values[least]):
        return False
    margin = TOLERANCE + AGREEMENT * np.hypot(np.where(np.isfinite(errors), errors, 0), errors[least])
    return bool(np.all(values[-RISEN:] > (values[least] + margin[-RISEN:])))
