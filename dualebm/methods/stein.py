"""Two-layer networks trained by Stein discrepancies, active (F1) or lazy (F2), without samples of the model or log Z (arXiv 2104.07531).

`KernelStein` descends the squared kernelised Stein discrepancy KSD^2 of the data (see `dualebm.stein`). `NetworkStein`
descends SD^2 / 2 of F1, against d critics that are drawn anew in each iteration and ascend. A critic is a network that
is one component of the test function. Both methods take the steps of `flows.two_layer`. In the lazy regime KSD^2 is
quadratic in the coefficients. The V-statistic is convex. The U-statistic of few data is not, and may have no least value
without weight decay.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings, stein, stein_critics
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU, RidgeFeature
from dualebm.flows import two_layer
from dualebm.flows.two_layer import NetworkRates
from dualebm.geometry import Space
from dualebm.kernels import RBF, ArcCosine
from dualebm.measures import Samples, draw_indices
from dualebm.methods.base import Info, Method
from dualebm.settings import Count, Positive


class SteinState(NamedTuple):
    """The state of `KernelStein` and of `NetworkStein`.

    Args:
        neurons: the network, with m coefficients and positions (m, p).
        optimiser: the state of the optimiser.
        step: the number of iterations done.
    """

    neurons: Shallow
    optimiser: Any
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class _Stein(Method):
    """The part that both methods share. A subclass defines `loss`."""

    space: Space
    feature: RidgeFeature = ReLU()
    neurons: Count = 500
    regime: two_layer.Regime = "active"
    optimiser: two_layer.Optimiser = "gradient"
    initial_scale: Positive = 0.1
    batch: Count | None = None

    def __post_init__(self):
        settings.check(self)
        two_layer.check_ridge(self.feature)
        stein.check_space(self.space)

    @property
    def rates(self) -> NetworkRates:
        """The default rates of a two-layer network."""
        return NetworkRates()

    def init(self, key: Key[Array, ""], rates: NetworkRates, data: Samples) -> SteinState:
        """Return the network as `flows.two_layer.network` starts it."""
        check_key(key)
        del rates
        dtype = data.points.dtype
        network = two_layer.network(key, self.feature, self.space, self.neurons, self.regime, self.initial_scale, dtype)
        return SteinState(network, two_layer.start(self.optimiser, network), jnp.int32(0))

    @abc.abstractmethod
    def loss(self, key, samples: Samples, scores: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, "n d"]]:
        """Return the discrepancy that is recorded, and the gradient of the loss in the scores.

        Args:
            key: a random key.
            samples: n points of the data.
            scores: the scores of the model at the points, (n, d).

        Returns:
            A scalar, and the gradient (n, d).
        """

    def step(self, key: Key[Array, ""], state: SteinState, rates: NetworkRates, data: Samples) -> tuple[SteinState, Info]:
        """Do one iteration: the batch, the gradient of the loss and the step of the network."""
        check_key(key)
        batch_key, loss_key = jax.random.split(key)
        network, samples = state.neurons, data
        if self.batch is not None:
            samples = Samples(data.points[draw_indices(batch_key, data, (self.batch,))])
        value, slopes = self.loss(loss_key, samples, stein.score(network, self.space, samples.points))
        gradient = stein.pull_back(network, self.space, samples.points, self.neurons * slopes)
        network, optimiser = two_layer.descend(
            self.optimiser, self.regime, network, (gradient.coefficients, gradient.positions), state.optimiser, rates
        )
        return SteinState(network, optimiser, state.step + 1), Info(discrepancy=value)

    def energy(self, state: SteinState, rates: NetworkRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j w_j phi(., theta_j)."""
        del rates, data
        return state.neurons


@dataclasses.dataclass(frozen=True)
class KernelStein(_Stein):
    """A two-layer network trained by the kernelised Stein discrepancy.

    Args:
        space: the space of the data: a sphere or a Euclidean space.
        feature: phi, a ridge feature. The positions theta_j of the neurons need not be unit vectors.
        neurons: the number m of neurons.
        regime: "active", where coefficients and positions move, or "lazy", where only the coefficients do.
        optimiser: "gradient", "adam", "momentum" or "rms".
        initial_scale: in the active regime, the variance of the coefficients and of the components of the positions at
            the start. The lazy regime does not use it: its coefficients start at 0, its positions at variance 1.
        batch: the number of data points drawn in each iteration, with replacement. None for all data.
        kernel: a kernel with derivatives: `kernels.RBF`, `kernels.ArcCosine`, or your own with a method `derivatives`.
        statistic: the estimator of KSD^2: "U", over pairs of different points (the authors' program for arXiv
            2104.07531), or "V", over all pairs.

    Raises:
        ValueError: a setting is not allowed, or the kernel has no derivatives. The message names the setting, its value
            and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = KernelStein(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    kernel: ArcCosine | RBF = RBF()
    statistic: stein.Statistic = "U"

    def __post_init__(self):
        super().__post_init__()
        stein.check_kernel(self.kernel)
        if self.statistic == "U" and self.batch == 1:
            raise ValueError("batch is 1 and statistic is 'U', which is over pairs; batch must be at least 2")

    def check(self, rates: NetworkRates, data: Samples) -> None:
        """Check the rates and the data. The U-statistic needs at least two points."""
        super().check(rates, data)
        stein.check_samples("data", data, self.space, self.statistic)

    def loss(self, key, samples, scores):
        """Return KSD^2 and its gradient in the scores.

        Args:
            key: not used.
            samples: n points of the data.
            scores: the scores of the model at the points, (n, d).

        Returns:
            A scalar, and the gradient (n, d).
        """
        del key
        return stein.kernelised(self.kernel, self.space, samples, scores, self.statistic)


@dataclasses.dataclass(frozen=True)
class NetworkStein(_Stein):
    """A two-layer network trained by the F1 Stein discrepancy SD of the data from the model (arXiv 2104.07531).

    SD is the supremum of E_data A h over vector fields h on R^d, where A is the Stein operator of the model (see
    `dualebm.stein`). The components h_i of h lie in F1, the space of two-layer ReLU networks with the norm sum_j |outer
    weight j| |inner weight j|, and their squared norms sum to 1. Each component is a network of its own, the critic i. An
    iteration draws d critics, improves them by gradient ascent, and takes one step of the trained network down the gradient
    of SD^2 / 2.

    Args:
        space: the space of the data: a sphere or a Euclidean space.
        feature: phi, a ridge feature. The positions theta_j of the neurons need not be unit vectors.
        neurons: the number m of neurons.
        regime: "active", where coefficients and positions move, or "lazy", where only the coefficients do.
        optimiser: "gradient", "adam", "momentum" or "rms".
        initial_scale: in the active regime, the variance of the coefficients and of the components of the positions at
            the start. The lazy regime does not use it: its coefficients start at 0, its positions at variance 1.
        batch: the number of data points drawn in each iteration, with replacement. None for all data.
        critics: the number of neurons of each of the d critics, where d is the dimension of the space.
        critic_steps: the number of steps of the critics' ascent in each iteration.
        normalisation: how each critic is scaled after a step of its ascent. "exact": to norm 1. "program": to the fourth
            root of its norm, as in the authors' program for arXiv 2104.07531 (see `stein_critics.normalised`).

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = NetworkStein(Sphere(3), neurons=8, critics=4), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    critics: Count = 500
    critic_steps: Count = 25
    normalisation: stein_critics.Normalisation = "exact"

    def loss(self, key, samples, scores):
        """Return the discrepancy by critics, and the gradient of the loss in the scores.

        Args:
            key: the random key of the critics' start.
            samples: n points of the data.
            scores: the scores of the model at the points, (n, d).

        Returns:
            SD^2, a scalar, and the gradient of SD^2 / 2, (n, d).
        """
        check_key(key)
        critics = stein_critics.draw_critics(key, self.space.dimension, self.critics, scores.dtype)
        critics, values = stein_critics.ascend(critics, self.space, samples, scores, self.critic_steps, self.normalisation)
        value, slopes = stein_critics.critic_loss(critics, values, samples)
        return value, slopes / 2
