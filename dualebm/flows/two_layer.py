"""Gradient descent of two-layer networks f = (1/m) sum_j w_j phi(<theta_j, x>), active or lazy (arXiv 2104.07531).

    coefficients  w <- w - s (m grad_w L + decay w)
    positions     theta <- theta - rho s (m grad_theta L + decay theta)      active (F1); lazy (F2): they stay

For ReLUs the least decay (w^2 + |theta|^2) / 2 over rescalings is decay |w| |theta|: on both layers it is the penalty
decay (1/m) sum_j |w_j| |theta_j|, the norm of F1, and on the coefficients alone decay (1/m) sum_j w_j^2 / 2, that of F2. The factor m makes
the steps those of the measure of the neurons, whatever their number; the decay here is m times that of the authors' program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm.energies.shallow import Shallow
from dualebm.features import Feature, Ridge
from dualebm.geometry import Space
from dualebm.rates import NonNegative

OPTIMISERS: dict[str, Callable[[], Any]] = {
    "gradient": optax.identity,
    "adam": optax.scale_by_adam,
    "momentum": lambda: optax.trace(0.9),
    "rms": optax.scale_by_rms,
}
"""What makes the direction of a step of a gradient, by name; those of optax that need no rates of their own."""

REGIMES = ("active", "lazy")


class NetworkRates(NamedTuple):
    """learning_rate s >= 0; position_rate rho >= 0, times which the positions move; weight_decay >= 0, in nats per unit of norm."""

    learning_rate: NonNegative = 0.05
    position_rate: NonNegative = 25.0
    weight_decay: NonNegative = 0.0


def network(key: Key[Array, ""], feature: Feature, space: Space, neurons: int, regime: str, scale: float, dtype) -> Shallow:
    """The start: active, normal coefficients and positions of variance `scale`; lazy, coefficients 0, positions standard normal.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> start = network(jax.random.key(0), ReLU(), Sphere(3), 4, "lazy", 0.1, jnp.float32)
    >>> start.positions.shape, start.coefficients.tolist()
    ((4, 3), [0.0, 0.0, 0.0, 0.0])
    """
    position_key, weight_key = jax.random.split(key)
    positions = jax.random.normal(position_key, (neurons, feature.parameter_space(space).dimension), dtype)
    if regime == "lazy":
        return Shallow(feature, positions, jnp.zeros(neurons, dtype))
    size = jnp.sqrt(jnp.asarray(scale, dtype))
    return Shallow(feature, size * positions, size * jax.random.normal(weight_key, (neurons,), dtype))


def start(optimiser: str, energy: Shallow) -> Any:
    """The state of an optimiser of `OPTIMISERS`.

    >>> from dualebm.features import ReLU
    >>> start("gradient", Shallow(ReLU(), jnp.eye(2), jnp.ones(2)))
    EmptyState()
    """
    return OPTIMISERS[optimiser]().init(_parameters(energy))


def descend(
    optimiser: str, regime: str, energy: Shallow, gradient: tuple[Float[Array, " m"], Float[Array, "m p"]], state: Any, rates
) -> tuple[Shallow, Any]:
    """A step along m times the gradients of a loss in the coefficients and in the positions; rates as `NetworkRates`.

    >>> from dualebm.features import ReLU
    >>> before, rates = Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), NetworkRates(0.5, 1.0, 0.5)
    >>> after, _ = descend("gradient", "lazy", before, (jnp.ones(2), jnp.ones((2, 2))), start("gradient", before), rates)
    >>> after.coefficients.tolist(), after.positions.tolist()
    ([0.25, 0.25], [[1.0, 0.0], [0.0, 1.0]])
    """
    (coefficient, position), state = OPTIMISERS[optimiser]().update(gradient, state, _parameters(energy))
    s, decay = rates.learning_rate, rates.weight_decay
    coefficients = energy.coefficients - s * (coefficient + decay * energy.coefficients)
    if regime == "lazy":
        return Shallow(energy.feature, energy.positions, coefficients), state
    positions = energy.positions - rates.position_rate * s * (position + decay * energy.positions)
    return Shallow(energy.feature, positions, coefficients), state


def norm(energy: Shallow) -> Float[Array, ""]:
    """(1/m) sum_j |w_j| |theta_j|: of ReLUs, at least the norm in F1.

    >>> from dualebm.features import ReLU
    >>> float(norm(Shallow(ReLU(), jnp.array([[3.0, 4.0]]), jnp.array([-2.0]))))
    10.0
    """
    return jnp.mean(jnp.abs(energy.coefficients) * jnp.linalg.norm(energy.positions, axis=1))


def scheduled(factor: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """The schedule for `simulate`, `run` and `sweep` that multiplies the learning rate by an optax schedule of the iteration.

    >>> halved = scheduled(optax.piecewise_constant_schedule(1.0, {10: 0.5}))
    >>> float(halved(20, NetworkRates(0.25)).learning_rate)
    0.125
    """

    def schedule(step, rates):
        return rates._replace(learning_rate=rates.learning_rate * factor(step))

    return schedule


def inverse_time(rate: float) -> Callable[[Any], Any]:
    """The optax schedule 1 / (1 + rate t): the authors' have rate 0.005 for maximum likelihood and 0.01 for the Stein discrepancies.

    >>> round(float(inverse_time(0.01)(100)), 6)
    0.5
    """
    checks.number("rate", rate)

    def factor(step):
        return 1 / (1 + rate * step)

    return factor


def check(method) -> None:
    """Raises ValueError for the settings that methods of two-layer networks have in common.

    Those are feature, which must be a ridge, neurons, regime, optimiser and initial_scale.
    """
    if not isinstance(method.feature, Ridge):
        raise ValueError(f"feature is {method.feature}; it must be a ridge feature (ReLU, Softplus), of free positions")
    checks.count("neurons", method.neurons)
    checks.choice("regime", method.regime, REGIMES)
    checks.choice("optimiser", method.optimiser, OPTIMISERS)
    checks.number("initial_scale", method.initial_scale, positive=True)


def _parameters(energy: Shallow):
    return energy.coefficients, energy.positions
