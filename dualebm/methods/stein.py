"""Two-layer networks trained by Stein discrepancies, active (F1) or lazy (F2), without samples of the model or log Z (arXiv 2104.07531).

`KernelStein` descends KSD^2 of the data (see `dualebm.stein`); `NetworkStein` descends SD^2 / 2 of F1, against d critics that are drawn
anew in each iteration and ascend. Both by the steps of `flows.two_layer`. In the lazy regime KSD^2 is quadratic in the coefficients: as
the V-statistic it is convex, as the U-statistic of few data it is not, and may have no least value without weight decay.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import stein
from dualebm._internal import checks
from dualebm.energies.shallow import Shallow
from dualebm.features import Feature, ReLU
from dualebm.flows import initialise, two_layer
from dualebm.flows.two_layer import NetworkRates
from dualebm.kernels import RBF
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.spaces import Space


class SteinState(NamedTuple):
    """neurons, the network; optimiser, its state; step, the iterations done."""

    neurons: Shallow
    optimiser: Any
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class _Stein(Method):
    """What both methods have in common; a subclass has `loss`."""

    space: Space
    feature: Feature = ReLU()
    neurons: int = 500
    regime: str = "active"
    optimiser: str = "gradient"
    initial_scale: float = 0.1
    batch: int | None = None

    def __post_init__(self):
        two_layer.check(self)
        stein.check_space(self.space)
        if self.batch is not None:
            checks.count("batch", self.batch)

    @property
    def rates(self) -> NetworkRates:
        """The default rates."""
        return NetworkRates()

    def init(self, key: Key[Array, ""], rates: NetworkRates, data: Samples) -> SteinState:
        """The network as `flows.two_layer.network` starts it."""
        del rates
        dtype = data.points.dtype
        network = two_layer.network(key, self.feature, self.space, self.neurons, self.regime, self.initial_scale, dtype)
        return SteinState(network, two_layer.start(self.optimiser, network), jnp.int32(0))

    def loss(self, key, samples: Samples, scores: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, "n d"]]:
        """What is recorded, and the gradient in the scores of what is descended."""
        raise NotImplementedError

    def step(self, key: Key[Array, ""], state: SteinState, rates: NetworkRates, data: Samples) -> tuple[SteinState, Info]:
        """One iteration; the key belongs to this step alone."""
        batch_key, loss_key = jax.random.split(key)
        network, samples = state.neurons, data
        if self.batch is not None:
            samples = Samples(data.points[initialise.draw_indices(batch_key, data, (self.batch,))])
        value, slopes = self.loss(loss_key, samples, stein.score(network, self.space, samples.points))
        found = stein.pull_back(network, self.space, samples.points, self.neurons * slopes)
        network, optimiser = two_layer.descend(
            self.optimiser, self.regime, network, (found.coefficients, found.positions), state.optimiser, rates
        )
        return SteinState(network, optimiser, state.step + 1), Info(discrepancy=value)

    def energy(self, state: SteinState, rates: NetworkRates, data: Samples) -> Shallow:
        """f = (1/m) sum_j w_j phi(., theta_j)."""
        del rates, data
        return state.neurons


@dataclasses.dataclass(frozen=True)
class KernelStein(_Stein):
    """A two-layer network trained by the kernelised Stein discrepancy.

    Args:
        space: a sphere or a Euclidean space. feature, neurons, regime, optimiser, initial_scale: as for `Likelihood`.
        batch: data points drawn for each iteration, with replacement; None for all.
        kernel: with derivatives: RBF, ArcCosine. statistic: "U", the program's, or "V".

    Raises ValueError for choices that do not exist, another space, and a kernel without derivatives.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = KernelStein(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    kernel: Any = RBF()
    statistic: str = "U"

    def __post_init__(self):
        super().__post_init__()
        stein.check_kernel(self.kernel)
        checks.choice("statistic", self.statistic, stein.STATISTICS)
        if self.statistic == "U" and self.batch == 1:
            raise ValueError("batch is 1 and statistic 'U', which is over pairs; it must be at least 2")

    def check(self, rates: NetworkRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        stein.check_samples("data", data, self.space, self.statistic)

    def loss(self, key, samples, scores):
        """KSD^2 and its gradient."""
        del key
        return stein.kernelised(self.kernel, self.space, samples, scores, self.statistic)


@dataclasses.dataclass(frozen=True)
class NetworkStein(_Stein):
    """A two-layer network trained by the F1 Stein discrepancy: descent of SD^2 / 2 against the ascent of critics.

    Args:
        space, feature, neurons, regime, optimiser, initial_scale, batch: as for `KernelStein`.
        critics: neurons of each of the d critics. critic_steps: of their ascent, in each iteration from a new start.
        normalisation: "exact", or the authors' "program" (see `stein.normalised`).

    Raises ValueError for choices that do not exist and another space.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = NetworkStein(Sphere(3), neurons=8, critics=4), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    critics: int = 500
    critic_steps: int = 25
    normalisation: str = "exact"

    def __post_init__(self):
        super().__post_init__()
        checks.count("critics", self.critics)
        checks.count("critic_steps", self.critic_steps)
        checks.choice("normalisation", self.normalisation, stein.NORMALISATIONS)

    def loss(self, key, samples, scores):
        """SD^2, and the gradient of its half."""
        critics = stein.draw_critics(key, self.space.dimension, self.critics, scores.dtype)
        critics, found = stein.ascend(critics, self.space, samples, scores, self.critic_steps, self.normalisation)
        value, slopes = stein.critic_loss(critics, found, samples)
        return value, slopes / 2
