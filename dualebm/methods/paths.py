"""Schedules along a path of radii of the F1 ball: stage by stage the penalty falls, or the radius grows.

A schedule is a pure function `(step, rates) -> rates`. Each stage goes on from the end of the one before.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Int

from dualebm import settings
from dualebm.methods.dual import DualRates
from dualebm.methods.penalised import PenalisedRates
from dualebm.settings import Bound, Count, Fraction


@dataclasses.dataclass(frozen=True)
class Lowering:
    """The penalty of stage s is rates.penalty ratio^s. Within a stage both steps fall linearly to `least` of their value.

    Args:
        ratio: the penalty of a stage over that of the stage before, in (0, 1].
        iterations: the number of iterations of a stage.
        least: the fraction of the steps at the end of a stage.

    Raises:
        ValueError: when a value is not allowed.

    >>> halves = Lowering(0.5, 10)
    >>> float(halves(20, PenalisedRates(0.2)).penalty)
    0.05
    """

    ratio: Fraction
    iterations: Count
    least: Fraction = 0.3

    def __post_init__(self):
        settings.check(self)

    def __call__(self, step: Int[Array, ""] | int, rates: PenalisedRates) -> PenalisedRates:
        """Returns the rates of an iteration.

        Args:
            step: the number of the iteration.
            rates: the rates of iteration 0.

        Returns:
            The rates of this iteration.
        """
        stage = step // self.iterations
        slowed = 1 - (1 - self.least) * (step - stage * self.iterations) / self.iterations
        return PenalisedRates(rates.penalty * self.ratio**stage, rates.coefficient_step * slowed, rates.position_step * slowed)


@dataclasses.dataclass(frozen=True)
class Growth:
    """The radius of stage s is rates.radius ratio^s. From iteration `warmup` on the steps of the neurons fall, as by `dual.annealing`.

    In iteration t they are divided by 1 + 4 max(t / warmup - 1, 0).

    Args:
        ratio: the radius of a stage over that of the stage before, positive.
        iterations: the number of iterations of a stage.
        warmup: the number of iterations after which the steps fall.

    Raises:
        ValueError: when a value is not allowed.

    >>> float(Growth(2.0, 10)(20, DualRates(0.1, 1.0, 1.0, radius=5.0)).radius)
    20.0
    """

    ratio: Annotated[float, Bound(positive=True)]
    iterations: Count
    warmup: Count = 60

    def __post_init__(self):
        settings.check(self)

    def __call__(self, step: Int[Array, ""] | int, rates: DualRates) -> DualRates:
        """Returns the rates of an iteration.

        Args:
            step: the number of the iteration.
            rates: the rates of iteration 0.

        Returns:
            The rates of this iteration.
        """
        slower = 1 + 4 * jnp.maximum(step / self.warmup - 1, 0)
        return rates._replace(
            radius=rates.radius * self.ratio ** (step // self.iterations),
            transport_step=rates.transport_step / slower,
            reaction_step=rates.reaction_step / slower,
        )
