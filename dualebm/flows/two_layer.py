"""Gradient descent of two-layer networks f = (1/m) sum_j w_j phi(<theta_j, x>), active or lazy (arXiv 2104.07531).

    coefficients  w <- w - s (m grad_w L + decay w)
    positions     theta <- theta - rho s (m grad_theta L + decay theta)      active (F1), fixed when lazy (F2)

For ReLUs the least decay (w^2 + |theta|^2) / 2 over rescalings is decay |w| |theta|. Decay on both layers is therefore the penalty
decay (1/m) sum_j |w_j| |theta_j|, the norm of F1. Decay on the coefficients alone is decay (1/m) sum_j w_j^2 / 2, the norm of F2. The
factor m makes the steps those of the measure of the neurons, whatever their number. The decay here is m times the decay of the authors'
program.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow
from dualebm.features import Feature, Ridge
from dualebm.geometry import Space
from dualebm.rates import NonNegative

Optimiser = Literal["gradient", "adam", "momentum", "rms"]
OPTIMISERS: tuple[Optimiser, ...] = get_args(Optimiser)
"""The names of the optimisers that `transformation` knows."""

Regime = Literal["active", "lazy"]
REGIMES: tuple[Regime, ...] = get_args(Regime)


class NetworkRates(NamedTuple):
    """The rates of a two-layer network.

    Args:
        learning_rate: the step size s >= 0 of the coefficients.
        position_rate: the factor rho >= 0 of the step size of the positions.
        weight_decay: the decay >= 0, in nats per unit of norm.
    """

    learning_rate: NonNegative = 0.05
    position_rate: NonNegative = 25.0
    weight_decay: NonNegative = 0.0


def network(key: Key[Array, ""], feature: Feature, space: Space, neurons: int, regime: Regime, scale: float, dtype) -> Shallow:
    """Draw a network at the start of training.

    Args:
        key: the random key.
        feature: the ridge feature phi.
        space: the space of the points x.
        neurons: the number m of neurons.
        regime: one of `REGIMES`. "active": normal coefficients and positions of variance `scale`. "lazy": coefficients 0 and
            standard normal positions.
        scale: the variance at the start of an active network.
        dtype: the floating dtype.

    Returns:
        The network as a shallow energy.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> start = network(jax.random.key(0), ReLU(), Sphere(3), 4, "lazy", 0.1, jnp.float32)
    >>> start.positions.shape, start.coefficients.tolist()
    ((4, 3), [0.0, 0.0, 0.0, 0.0])
    """
    check_key(key)
    position_key, weight_key = jax.random.split(key)
    positions = jax.random.normal(position_key, (neurons, feature.parameter_space(space).dimension), dtype)
    if regime == "lazy":
        return Shallow(feature, positions, jnp.zeros(neurons, dtype))
    size = jnp.sqrt(jnp.asarray(scale, dtype))
    return Shallow(feature, size * positions, size * jax.random.normal(weight_key, (neurons,), dtype))


def transformation(optimiser: Optimiser) -> Any:
    """Return the optax transformation of a gradient that belongs to a name. It applies no learning rate.

    Args:
        optimiser: one of `OPTIMISERS`.

    Returns:
        The transformation.

    >>> transformation("gradient").update(jnp.array([3.0]), None)[0].tolist()
    [3.0]
    """
    import optax  # here, as it takes long to import and few methods need it

    makers = {
        "gradient": optax.identity, "adam": optax.scale_by_adam, "momentum": lambda: optax.trace(0.9), "rms": optax.scale_by_rms,
    }
    return makers[optimiser]()


def start(optimiser: Optimiser, energy: Shallow) -> Any:
    """Return the initial state of an optimiser for an energy.

    Args:
        optimiser: one of `OPTIMISERS`.
        energy: the energy whose positions and coefficients are trained.

    Returns:
        The state, as optax has it.

    >>> from dualebm.features import ReLU
    >>> start("gradient", Shallow(ReLU(), jnp.eye(2), jnp.ones(2)))
    EmptyState()
    """
    return transformation(optimiser).init(_parameters(energy))


def descend(
    optimiser: Optimiser, regime: Regime, energy: Shallow, gradient: tuple[Float[Array, " m"], Float[Array, "m p"]], state: Any, rates
) -> tuple[Shallow, Any]:
    """Make a step of gradient descent.

    Args:
        optimiser: one of `OPTIMISERS`.
        regime: one of `REGIMES`. The positions of a lazy network stay fixed.
        energy: the network, with m neurons.
        gradient: m times the gradients of the loss in the coefficients, (m,), and in the positions, (m, p).
        state: the state of the optimiser.
        rates: rates with the fields of `NetworkRates`.

    Returns:
        The network after the step, and the state of the optimiser.

    >>> from dualebm.features import ReLU
    >>> before, rates = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), NetworkRates(0.5, 1.0, 0.5)
    >>> after, _ = descend("gradient", "lazy", before, (jnp.ones(2), jnp.ones((2, 2))), start("gradient", before), rates)
    >>> after.coefficients.tolist(), after.positions.tolist()
    ([0.25, 0.25], [[1.0, 0.0], [0.0, 1.0]])
    """
    (coefficient, position), state = transformation(optimiser).update(gradient, state, _parameters(energy))
    s, decay = rates.learning_rate, rates.weight_decay
    coefficients = energy.coefficients - s * (coefficient + decay * energy.coefficients)
    if regime == "lazy":
        return Shallow(energy.feature, energy.positions, coefficients), state
    positions = energy.positions - rates.position_rate * s * (position + decay * energy.positions)
    return Shallow(energy.feature, positions, coefficients), state


def norm(energy: Shallow) -> Float[Array, ""]:
    """Return (1/m) sum_j |w_j| |theta_j|, a scalar. For ReLUs it is at least the norm in F1.

    Args:
        energy: the energy, with m positions theta_j and coefficients w_j.

    Returns:
        The norm, a scalar.

    >>> from dualebm.features import ReLU
    >>> float(norm(Shallow(ReLU(), jnp.array([[3.0, 4.0]]), jnp.array([-2.0]))))
    10.0
    """
    return jnp.mean(jnp.abs(energy.coefficients) * jnp.linalg.norm(energy.positions, axis=1))


def scheduled(factor: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Make a schedule for `simulate`, `run` and `sweep` that multiplies the learning rate by an optax schedule of the iteration.

    Args:
        factor: a function of the number of the iteration that returns the factor.

    Returns:
        A function of the iteration and the rates that returns the new rates.

    >>> import optax
    >>> halved = scheduled(optax.piecewise_constant_schedule(1.0, {10: 0.5}))
    >>> float(halved(20, NetworkRates(0.25)).learning_rate)
    0.125
    """

    def schedule(step, rates):
        return rates._replace(learning_rate=rates.learning_rate * factor(step))

    return schedule


def inverse_time(rate: float) -> Callable[[Any], Any]:
    """Return the optax schedule 1 / (1 + rate t) of the iteration t.

    The authors use the rate 0.005 for maximum likelihood and 0.01 for Stein discrepancies (arXiv 2104.07531).

    Args:
        rate: the rate, at least 0.

    Returns:
        The schedule.

    Raises:
        ValueError: the rate is negative or not finite.

    >>> round(float(inverse_time(0.01)(100)), 6)
    0.5
    """
    checks.number("rate", rate)

    def factor(step):
        return 1 / (1 + rate * step)

    return factor


def check_ridge(feature: Feature) -> None:
    """Check that a feature is a ridge. The positions of a two-layer network are free only for a ridge.

    Args:
        feature: the feature.

    Raises:
        ValueError: it is no ridge.

    >>> from dualebm.features import ReLU
    >>> check_ridge(ReLU())
    """
    if not isinstance(feature, Ridge):
        raise ValueError(f"feature is {feature}; it must be a ridge feature (ReLU, Softplus), of free positions")


def _parameters(energy: Shallow):
    return energy.coefficients, energy.positions
