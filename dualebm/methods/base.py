"""The contract of a training method: all that the training loop, the sweeps, the metrics and the commands use of it.

A method is a frozen dataclass of static settings: a space, a feature, an integrator, counts. It holds no arrays and
compares by its settings, so that JAX takes it as a static argument of a compiled program. A method never changes. Three
values go with it:

    rates   a NamedTuple of scalars, such as step sizes. They are traced, so that a new value compiles nothing new.
    data    the training data: n points of the space, as `Samples`.
    state   a NamedTuple of arrays that holds everything that training changes. Its field `step` counts the iterations done.

A run initialises the state once and then repeats `step` with a new key for each iteration:

    state = method.init(key, rates, data)
    state, info = method.step(key, state, rates, data)
    energy = method.energy(state, rates, data)

These functions are pure: the same arguments give the same result. The model at temperature 1 is exp(-U) tau / Z, with
the energy U, the base measure tau of the space, and the partition function Z. `info` holds diagnostics that the next
iteration does not need.
"""

import abc
import enum
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dualebm import rates as bounds
from dualebm._internal import checks, feature_check
from dualebm.geometry import Space
from dualebm.measures import Atoms, Samples

VALIDATION = 0.2
"""The share of validation rows of a fit by a method whose energy would otherwise learn few rows by heart."""

LOWEST_ACCEPTANCE = 0.01
"""The least acceptance over a recording interval. A run whose moves are accepted less often has diverged."""


class Divergence(enum.IntEnum):
    """The reasons why a run may diverge. `records["diverged"]` holds the number of the reason, and 0 for a healthy run.

    `NOT_FINITE`: the state holds NaN or infinity. `REJECTED`: almost no move of the particles was accepted.
    `NO_WEIGHT`: the total variation of the neurons is 0. `ONE_ATOM`: one of several neurons holds all the weight. `ENERGY`: the energy is
    not finite at a particle, which then stays where it is.

    >>> Divergence(4).name, Divergence.REJECTED.remedy
    ('ONE_ATOM', 'lower particle_step')
    """

    NONE = 0
    NOT_FINITE = 1
    REJECTED = 2
    NO_WEIGHT = 3
    ONE_ATOM = 4
    ENERGY = 5

    @property
    def cause(self) -> str:
        """What happened, as a phrase. Empty for `NONE`."""
        return _CAUSES[self][0]

    @property
    def remedy(self) -> str:
        """What the user can change to avoid it, as a phrase. Empty for `NONE`."""
        return _CAUSES[self][1]


_CAUSES = {
    Divergence.NONE: ("", ""),
    Divergence.NOT_FINITE: ("the state is not finite", "lower the steps"),
    Divergence.REJECTED: ("fewer than 1% of the particles' moves were accepted", "lower particle_step"),
    Divergence.NO_WEIGHT: ("the total variation is 0", "lower reaction_step"),
    Divergence.ONE_ATOM: ("one atom holds all the weight", "lower reaction_step"),
    Divergence.ENERGY: ("the energy is not finite at a particle", "lower the steps"),
}


class AdaptedSteps(NamedTuple):
    """The steps that a training has chosen in an iteration.

    Args:
        rate_factor: the factor of the learning rate.
        moves: the number of moves of each moving particle.
        particle_factor: the factor of the particle step.
    """

    rate_factor: Float[Array, ""]
    moves: Float[Array, ""]
    particle_factor: Float[Array, ""]


class Info(NamedTuple):
    """The diagnostics of one iteration. The loop averages each number over a recording interval.

    A field is None where the method has no such number.

    Args:
        acceptance: the fraction of the particles' moves that were accepted, in [0, 1].
        effective_fraction: Kish's effective sample size of weighted particles, divided by their number, before any
            resampling. It lies in (0, 1].
        clipped: the number of neuron weights that an additive update cut to zero.
        adapted: the steps of a training that adapts them.
        discrepancy: the discrepancy between model and data that the iteration measured or descended.
        inner: the `Info` of the method inside, where a wrapper replaces a number of it.

    >>> Info(acceptance=jnp.array(0.5)).discrepancy is None
    True
    """

    acceptance: Float[Array, ""] | None = None
    effective_fraction: Float[Array, ""] | None = None
    clipped: Float[Array, ""] | None = None
    adapted: AdaptedSteps | None = None
    discrepancy: Float[Array, ""] | None = None
    inner: Any = None


class Iterate(NamedTuple):
    """A snapshot of a run, which is what a metric receives: `metric(key, iterate)` returns an array.

    Args:
        method: the training method, a `Method`.
        state: the state of the method after some iterations.
        rates: the rates of the run, a NamedTuple of scalars.
        data: the training data, points (n, d).
        info: the diagnostics, averaged over the iterations since the last record. They are NaN before the first
            iteration.

    >>> from jax import random; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> iterate = Iterate(method, method.init(random.key(0), method.rates, data), method.rates, data)
    >>> iterate.samples.points.shape, iterate.energy(data.points).shape
    ((6, 3), (3,))
    """

    method: Any
    state: Any
    rates: Any
    data: Samples
    info: Info = Info()

    @property
    def energy(self) -> Any:
        """The energy U of the state, an `Energy`."""
        return self.method.energy(self.state, self.rates, self.data)

    @property
    def samples(self) -> Samples:
        """The particles (N, d) as samples of the model. Raises ValueError for a method without particles."""
        samples = self.method.samples(self.state)
        if samples is None:
            raise ValueError(f"a metric needs particles; the method {type(self.method).__name__} has none")
        return samples

    @property
    def log_partition(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """log Z and its standard error, two scalars in nats. Raises ValueError for a method that does not know log Z."""
        known = self.method.log_partition(self.state)
        if known is None:
            raise ValueError(f"a metric needs log Z along training; the method {type(self.method).__name__} does not know it")
        return known


class Method(abc.ABC):
    """A training method. Subclass it as a frozen dataclass with a field `space`, and define `rates`, `init`, `step` and `energy`.

    All other functions have a default, which a method overrides for what it has besides: particles, neurons, log Z,
    warnings. Code that runs a method therefore need not know which method it is. The how-to
    page on a method of your own builds one in 25 lines.

    Args:
        space: the space of the data and the particles. Its base measure is the tau of the model exp(-U) tau / Z.

    >>> from dualebm.methods.dual import Dual; from dualebm.methods.score_matching import ScoreMatching; from dualebm.spaces import Sphere
    >>> isinstance(Dual(Sphere(3)), Method), ScoreMatching(Sphere(3)).samples(None) is None  # score matching has no particles
    (True, True)
    """

    space: Space
    """The space of the data and the particles. Its base measure is the tau of the model exp(-U) tau / Z."""

    @property
    def ball(self) -> Literal["full", "negative"]:
        """The F1 ball that holds the energies of the method: "negative" where a setting `signs` makes all charges negative."""
        return "negative" if getattr(self, "signs", "") == "all_negative" else "full"

    @property
    def validation_share(self) -> float:
        """The share of the rows that a fit sets aside as validation rows where none is given. The default is 0."""
        return 0.0

    @property
    def adapts(self) -> bool:
        """Whether the method chooses its steps along training. The default is False."""
        return False

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves. Their step can follow the acceptance. The default is False."""
        return False

    @property
    @abc.abstractmethod
    def rates(self) -> Any:
        """The default rates: a NamedTuple of scalars. A sweep varies them and compiles nothing new.

        The type of each field states the values that are allowed (see `dualebm.rates`).
        """

    def rates_for(self, data: Samples) -> Any:
        """Return default rates whose steps suit the data. They are `rates` unless a method knows better ones.

        Args:
            data: the training data, points (n, d).

        Returns:
            Numbers, in a NamedTuple of the type of `self.rates`.
        """
        del data
        return self.rates

    def check(self, rates: Any, data: Samples) -> None:
        """Check the arguments of a run on the host, before anything is compiled.

        Args:
            rates: numbers, in a NamedTuple of the type of `self.rates`.
            data: the training data, points (n, d) with or without weights.

        Raises:
            ValueError: a data point does not lie in the space, a rate is out of its bounds, or a feature of the user's is not finite.
                The message names the argument, its value and what is allowed.
        """
        checks.samples("data", data, self.space)
        bounds.check(rates, self.space)
        feature = getattr(self, "feature", None)
        if feature is not None:
            feature_check.check("feature", feature, self.space, data.points)

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], rates: Any, data: Samples) -> Any:
        """Return the state in which training starts.

        Args:
            key: a random key that is used for this call alone.
            rates: scalars, traced, in a NamedTuple of the type of `self.rates`.
            data: the training data, points (n, d), traced.

        Returns:
            The state, with `step` 0.
        """

    @abc.abstractmethod
    def step(self, key: Key[Array, ""], state: Any, rates: Any, data: Samples) -> tuple[Any, Info]:
        """Do one iteration of training.

        Args:
            key: a random key that is used for this iteration alone.
            state: the state that `init` or the last call of `step` returned.
            rates: scalars, traced, in a NamedTuple of the type of `self.rates`.
            data: the training data, points (n, d), traced.

        Returns:
            The next state, whose `step` is larger by one, and the diagnostics of the iteration.
        """

    @abc.abstractmethod
    def energy(self, state: Any, rates: Any, data: Samples) -> Any:
        """Return the energy U of a state. The model is exp(-U) times the base measure of the space, normalised.

        Args:
            state: a state of this method.
            rates: scalars, traced, in a NamedTuple of the type of `self.rates`.
            data: the training data, points (n, d), traced.

        Returns:
            An `Energy`: a function from points (N, d) to values (N,), in units of temperature.
        """

    def diverged(self, state: Any) -> Int[Array, ""]:
        """Return the number of the `Divergence` of a finite state. The default is `Divergence.NONE`.

        A method reports what only it can see. The loop itself detects states that are not finite and rejected moves.

        Args:
            state: the state of the method.

        Returns:
            The number, an integer scalar, traced.
        """
        del state
        return jnp.int32(Divergence.NONE)

    def recovering(self, state: Any) -> Bool[Array, ""]:
        """Tell whether the method itself will go back from a state that has diverged, so that a run goes on. The default is no.

        Args:
            state: the state of the method.

        Returns:
            Whether it will, a bool scalar, traced.
        """
        del state
        return jnp.bool_(False)

    def samples(self, state: Any) -> Samples | None:
        """Return the particles as samples of the model, with log weights where they are weighted.

        The default is None, for a method without particles.

        Args:
            state: the state of the method.

        Returns:
            The samples, points (N, d) with log weights (N,) or None, or None.
        """
        del state
        return None

    def atoms(self, state: Any) -> Atoms | None:
        """Return the neurons as the atoms of a signed measure.

        The default is None, for a method whose energy is not given by such a measure.

        Args:
            state: the state of the method.

        Returns:
            The m atoms, with positions (m, p), or None.
        """
        del state
        return None

    def log_partition(self, state: Any) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """Return log Z of the energy and its standard error, where the method follows log Z in training.

        The default is None, for a method that does not know log Z.

        Args:
            state: the state of the method.

        Returns:
            Two scalars in nats, or None.
        """
        del state
        return None

    def penalty(self, state: Any, rates: Any) -> Any:
        """Return the multiplier of the total variation in the loss that the method descends. The default is 0.

        Args:
            state: the state of the method.
            rates: the rates of the method.

        Returns:
            The multiplier, a scalar in nats per unit of the total variation.
        """
        del state, rates
        return 0.0

    def resamplings(self, state: Any) -> Int[Array, ""] | None:
        """Return how often the weighted particles have been resampled.

        The default is None, for a method that never resamples.

        Args:
            state: the state of the method.

        Returns:
            An integer scalar, or None.
        """
        del state
        return None

    def warnings(self, state: Any, info: Info) -> dict[str, str]:
        """Return what there is to warn of in a healthy state. `run` warns of each kind once. It is called on the host.

        Args:
            state: a state of this method.
            info: the diagnostics, averaged over the last recording interval.

        Returns:
            Sentences for the user by kinds, which are words, such as "collapse". The default is none.
        """
        del state, info
        return {}

    def paired(self, state: Any) -> Any | None:
        """Mark the arrays of a state that hold particles, so that several devices can share them.

        Particles i and i + N/2 form a pair, which stays on one device.

        Args:
            state: a state of this method.

        Returns:
            The state with True in place of each array whose last axis is the particles and False in place of all
            others. The default is None, for a method whose particles cannot be shared.
        """
        del state
        return None


def energies_are_finite(method: Method, state: Any, energy: Any) -> Any:
    """Tell whether an energy is finite at all particles of a state, but those of weight 0.

    Args:
        method: the method.
        state: its state.
        energy: the energy.

    Returns:
        True for a method without particles, else a bool, traced.
    """
    samples = method.samples(state)
    if samples is None:
        return True
    return jnp.all(jnp.isfinite(energy(samples.points)) | (False if samples.log_weights is None else jnp.isneginf(samples.log_weights)))


class Wrapper(Method):
    """A method that adds something to another method. Its state has a field `inner`, the state of the wrapped method.

    A subclass is a frozen dataclass with a field `method`, the wrapped method. It defines `init` and `step` and
    overrides what it adds. All else is passed on to the wrapped method, except `paired`. Wrappers compose:
    `Audited(Adaptive(Dual(space)))`.

    Args:
        method: the wrapped method.

    >>> from dualebm.methods.audited import Audited; from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3))
    >>> Audited(method).space == method.space, Audited(method).rates == method.rates
    (True, True)
    """

    method: Any

    @property
    def space(self) -> Space:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The space of the wrapped method."""
        return self.method.space

    @property
    def ball(self) -> Literal["full", "negative"]:
        """The F1 ball of the wrapped method."""
        return self.method.ball

    @property
    def validation_share(self) -> float:
        """The share of validation rows of the wrapped method."""
        return self.method.validation_share

    @property
    def adapts(self) -> bool:
        """Whether the wrapped method chooses its steps."""
        return self.method.adapts

    @property
    def adjusted(self) -> bool:
        """Whether the particles of the wrapped method make Metropolis-adjusted Langevin moves."""
        return self.method.adjusted

    @property
    def rates(self) -> Any:
        """The default rates of the wrapped method."""
        return self.method.rates

    def rates_for(self, data: Samples) -> Any:
        """Return the rates of the wrapped method that suit the data."""
        return self.method.rates_for(data)

    def check(self, rates: Any, data: Samples) -> None:
        """Raise the errors of the wrapped method."""
        self.method.check(rates, data)

    def energy(self, state: Any, rates: Any, data: Samples) -> Any:
        """Return the energy of the wrapped method."""
        return self.method.energy(state.inner, rates, data)

    def diverged(self, state: Any) -> Int[Array, ""]:
        """Return the divergence of the wrapped method."""
        return self.method.diverged(state.inner)

    def recovering(self, state: Any) -> Bool[Array, ""]:
        """Tell whether the wrapped method goes back by itself."""
        return self.method.recovering(state.inner)

    def samples(self, state: Any) -> Samples | None:
        """Return the particles of the wrapped method."""
        return self.method.samples(state.inner)

    def atoms(self, state: Any) -> Atoms | None:
        """Return the atoms of the wrapped method."""
        return self.method.atoms(state.inner)

    def log_partition(self, state: Any) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """Return log Z and its standard error as the wrapped method knows them."""
        return self.method.log_partition(state.inner)

    def penalty(self, state: Any, rates: Any) -> Any:
        """Return the multiplier of the total variation in the loss of the wrapped method."""
        return self.method.penalty(state.inner, rates)

    def resamplings(self, state: Any) -> Int[Array, ""] | None:
        """Return how often the wrapped method has resampled."""
        return self.method.resamplings(state.inner)

    def warnings(self, state: Any, info: Info) -> dict[str, str]:
        """Return the warnings of the wrapped method."""
        return self.method.warnings(state.inner, info)
