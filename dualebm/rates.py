"""Rates: the scalars of a method that a sweep varies, and the values that each may have.

The rates of a method are a NamedTuple of scalars. The type of each field carries its bound, so that a method states
what is allowed only once:

>>> from dualebm.spaces import Sphere
>>> from typing import NamedTuple
>>> class Rates(NamedTuple):
...     particle_step: ParticleStep
...     restart_probability: Probability = 0.0
>>> check(Rates(0.1, 1.5), Sphere(3))
Traceback (most recent call last):
...
ValueError: restart_probability is 1.5; it must be a finite number, at least 0 and at most 1
"""

from typing import Annotated, Any

from jaxtyping import Array, Float

from dualebm import settings
from dualebm._internal import checks
from dualebm.geometry import Space
from dualebm.settings import Bound

Scalar = Float[Array, ""] | float
"""A number, or an array of no dimension."""


NonNegative = Annotated[Scalar, Bound()]
"""A rate of at least 0."""
Positive = Annotated[Scalar, Bound(positive=True)]
"""A rate greater than 0."""
Probability = Annotated[Scalar, Bound(largest=1)]
"""A rate in [0, 1]."""
Fraction = Annotated[Scalar, Bound(positive=True, largest=1)]
"""A rate in (0, 1]."""
ParticleStep = Annotated[Scalar, Bound(positive=True, moves_particles=True)]
"""The time step of a Langevin move, greater than 0."""
ParticleStepOrNone = Annotated[Scalar, Bound(moves_particles=True)]
"""The time step of a Langevin move, or 0 where nothing moves."""


def bounds(kind: type) -> dict[str, Bound]:
    """Return the bound of each field of a class of rates, by name.

    A field whose type carries no bound may be any finite number of at least 0.

    Args:
        kind: a NamedTuple class.

    >>> from dualebm.methods.dual import DualRates
    >>> bounds(DualRates)["radius"]
    Bound(positive=True, largest=inf, least=0, signed=False, moves_particles=False)
    """
    return {name: setting.bound or Bound() for name, setting in settings.described(kind).items()}


def steps(kind: type) -> tuple[list[str], list[str]]:
    """Return the names of the rates that are steps: those of the particles, and those of the training, whose names end in _step or _rate.

    Args:
        kind: a NamedTuple class.

    >>> from dualebm.methods.dual import DualRates
    >>> steps(DualRates)
    (['particle_step'], ['transport_step', 'reaction_step'])
    """
    moves = [name for name, bound in bounds(kind).items() if bound.moves_particles]
    return moves, [name for name in bounds(kind) if name.endswith(("_step", "_rate")) and name not in moves]


def check(rates: Any, space: Space) -> None:
    """Check the rates of a method against their bounds.

    Args:
        rates: a NamedTuple of numbers.
        space: the space of the particles.

    Raises:
        ValueError: a rate is not one finite number within its bound, or a particle step is larger than the space
            allows: on a sphere its noise would reach half way round.

    >>> from dualebm.methods.dual import DualRates; from dualebm.spaces import Sphere
    >>> check(DualRates(1.0, 0.1, 0.1), Sphere(15))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: particle_step is 1.0; on Sphere(...) it must be at most 0.328987: beyond it the noise sqrt(2 h d) reaches pi, ...
    """
    limits = bounds(type(rates))
    for name, value in rates._asdict().items():
        checks.number(name, value, positive=limits[name].positive, largest=limits[name].largest)
    for name, value in rates._asdict().items():
        if limits[name].moves_particles:
            checks.particle_step(name, value, space)
