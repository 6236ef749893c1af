"""The contract of a training method: what the loop, the sweeps, the metrics and the commands ask of it, and nothing else.

A method is a frozen dataclass of static settings. It holds no arrays and compares by its settings, so that it is a static argument of a
compiled program. Everything that changes is in its state, a NamedTuple of arrays with a field `step`, the number of iterations done.

One iteration is

    state, info = method.step(key, state, rates, data)

which is a pure function: the same arguments give the same result. `Info` holds what a diagnostic needs and the next iteration does not.
"""

import abc
import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import rates as bounds
from dualebm._internal import checks
from dualebm.measures import Atoms, Samples
from dualebm.spaces import Space


class Divergence(enum.IntEnum):
    """Why a run diverged. `records["diverged"]` holds its number: 0 for a healthy run."""

    NONE = 0
    NOT_FINITE = 1
    REJECTED = 2
    NO_WEIGHT = 3
    ONE_ATOM = 4

    @property
    def cause(self) -> str:
        """What happened, in words."""
        return _CAUSES[self][0]

    @property
    def remedy(self) -> str:
        """What to change."""
        return _CAUSES[self][1]


_CAUSES = {
    Divergence.NONE: ("", ""),
    Divergence.NOT_FINITE: ("the state is not finite", "lower the steps"),
    Divergence.REJECTED: ("fewer than 1% of the particles' moves were accepted", "lower particle_step"),
    Divergence.NO_WEIGHT: ("the total variation is 0", "lower reaction_step"),
    Divergence.ONE_ATOM: ("one atom holds all the weight", "lower reaction_step"),
}


class Info(NamedTuple):
    """What one iteration tells besides the new state. The loop averages each number over a recording interval.

    A field is None where the method has no such number.

    acceptance: the fraction of the particles' moves that were accepted.
    effective_fraction: Kish's effective sample size of weighted particles over their number, before any resampling, in (0, 1].
    clipped: how many weights of neurons an additive update cut to zero.
    discrepancy: the discrepancy of the model from the data that the iteration descended or measured.
    """

    acceptance: Float[Array, ""] | None = None
    effective_fraction: Float[Array, ""] | None = None
    clipped: Float[Array, ""] | None = None
    discrepancy: Float[Array, ""] | None = None


class Iterate(NamedTuple):
    """An iterate of a run, as a metric sees it: `metric(key, iterate)` returns an array.

    info: averaged since the last record; NaN before the first iteration.
    """

    method: Any
    state: Any
    rates: Any
    data: Samples
    info: Info = Info()

    @property
    def energy(self) -> Any:
        """The energy U of the state."""
        return self.method.energy(self.state, self.rates, self.data)

    @property
    def samples(self) -> Samples:
        """The particles as samples of the model. Raises ValueError for a method without particles."""
        samples = self.method.samples(self.state)
        if samples is None:
            raise ValueError(f"a metric needs particles; the method {type(self.method).__name__} has none")
        return samples

    @property
    def log_partition(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """log Z and its standard error, in nats. Raises ValueError for a method that does not know them."""
        known = self.method.log_partition(self.state)
        if known is None:
            raise ValueError(f"a metric needs log Z along training; the method {type(self.method).__name__} does not know it")
        return known


class Method(abc.ABC):
    """A training method. A subclass is a frozen dataclass with a field `space` and the five abstract members below.

    What only some methods have is a function with a default here, so that nothing that runs a method need ask which one it is.
    The guide builds a method in 25 lines (docs/guide.md, "Your own method").

    >>> from dualebm.methods.dual import Dual; from dualebm.methods.score_matching import ScoreMatching; from dualebm.spaces import Sphere
    >>> isinstance(Dual(Sphere(3)), Method), ScoreMatching(Sphere(3)).samples(None) is None  # score matching has no particles
    (True, True)
    """

    space: Space
    """Where the data and the particles live; the model is exp(-U) times its base measure."""

    @property
    @abc.abstractmethod
    def rates(self) -> Any:
        """The default rates: a NamedTuple of scalars. A sweep varies them and compiles nothing new."""

    def check(self, rates: Any, data: Samples) -> None:
        """Check the arguments of a run on the host, before anything is compiled.

        Args:
            rates: of the type of `self.rates`.
            data: points (n, d) of the space, with or without weights.

        Raises:
            ValueError: the data do not lie in the space, or a rate is out of its bound; the message names the argument, its
                value and what is allowed.
        """
        checks.samples("data", data, self.space)
        bounds.check(rates, self.space)

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], rates: Any, data: Samples) -> Any:
        """Return the state in which training starts.

        Args:
            key: of this call alone.
            rates: scalars, traced.
            data: points (n, d), traced.

        Returns:
            The state, with `step` 0.
        """

    @abc.abstractmethod
    def step(self, key: Key[Array, ""], state: Any, rates: Any, data: Samples) -> tuple[Any, Info]:
        """Do one iteration.

        Args:
            key: of this iteration alone.
            state: of this method.
            rates: scalars, traced.
            data: points (n, d), traced.

        Returns:
            The next state, whose `step` is one more, and what a diagnostic needs.
        """

    @abc.abstractmethod
    def energy(self, state: Any, rates: Any, data: Samples) -> Any:
        """Return the energy U of a state, an `Energy`: the model is exp(-U) times the base measure of the space."""

    def diverged(self, state: Any) -> Int[Array, ""]:
        """Return the `Divergence` of a finite state, traced; by default `Divergence.NONE`. The loop looks for other causes itself."""
        del state
        return jnp.int32(Divergence.NONE)

    def samples(self, state: Any) -> Samples | None:
        """Return the particles (N, d) as samples of the model, with their weights where they have any; None without particles."""
        del state
        return None

    def atoms(self, state: Any) -> Atoms | None:
        """Return the neurons as atoms of a signed measure; None where the energy has none."""
        del state
        return None

    def log_partition(self, state: Any) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """Return log Z of the energy and its standard error, in nats, where training knows them; else None."""
        del state
        return None

    def resamplings(self, state: Any) -> Int[Array, ""] | None:
        """Return how often weighted particles have been resampled; None where there are none."""
        del state
        return None

    def warning(self, state: Any, info: Info) -> str | None:
        """Return a warning about a healthy state, on the host, or None. `info` is averaged over the last recording interval."""
        del state, info
        return None

    def paired(self, state: Any) -> Any | None:
        """Say which arrays of a state hold particles, so that devices can share them; None where they cannot.

        Args:
            state: of this method.

        Returns:
            The state with True in place of each array whose last axis is the particles, i paired with i + N/2, and False in
            place of the others.
        """
        del state
        return None


class Wrapper(Method):
    """A method around another one. Its state has a field `inner`, the state of that method, and everything is forwarded to it.

    A subclass is a frozen dataclass with a field `method`; it overrides what it adds. Wrappers compose:
    `Audited(Adaptive(Dual(space)))`.
    """

    method: Any

    @property
    def space(self) -> Space:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The space of the method inside."""
        return self.method.space

    @property
    def rates(self) -> Any:
        """The default rates of the method inside."""
        return self.method.rates

    def check(self, rates: Any, data: Samples) -> None:
        """Raise the errors of the method inside."""
        self.method.check(rates, data)

    def energy(self, state: Any, rates: Any, data: Samples) -> Any:
        """Return the energy of the method inside."""
        return self.method.energy(state.inner, rates, data)

    def diverged(self, state: Any) -> Int[Array, ""]:
        """Return the divergence of the method inside."""
        return self.method.diverged(state.inner)

    def samples(self, state: Any) -> Samples | None:
        """Return the particles of the method inside."""
        return self.method.samples(state.inner)

    def atoms(self, state: Any) -> Atoms | None:
        """Return the atoms of the method inside."""
        return self.method.atoms(state.inner)

    def log_partition(self, state: Any) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """Return log Z and its error as the method inside knows them."""
        return self.method.log_partition(state.inner)

    def resamplings(self, state: Any) -> Int[Array, ""] | None:
        """Return how often the method inside has resampled."""
        return self.method.resamplings(state.inner)

    def warning(self, state: Any, info: Info) -> str | None:
        """Return the warning of the method inside."""
        return self.method.warning(state.inner, info)
