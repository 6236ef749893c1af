"""Maximum likelihood by gradient steps for any energy: dtheta = E_model dU/dtheta - E_data dU/dtheta (arXiv 2305.19414, eq. 5).

A static function `start(key, space, dtype)` makes the energy of a method. The arrays of the energy are part of the state of a run.
`skeleton` makes its other fields, such as settings and functions, anew, so that a state holds only arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal import blocks, checks, collectives
from dualebm._internal.keys import key_of_seed
from dualebm.energies.base import Energy
from dualebm.energies.starts import Start
from dualebm.flows import two_layer
from dualebm.flows.two_layer import transformation
from dualebm.geometry import Space
from dualebm.measures import Samples, shares

Scalar = Float[Array, ""] | float

Optimiser = two_layer.Optimiser | Callable[[], Any]
"""A word of `flows.two_layer.OPTIMISERS`, or a function that makes an optax optimiser, an `optax.GradientTransformation`."""


class Training(NamedTuple):
    """The part of the state of a run that training changes.

    Args:
        arrays: the energy with only its arrays. Other fields are None.
        optimiser: the state of the optimiser.
    """

    arrays: Any
    optimiser: Any


def skeleton(start: Start, space: Space, dtype) -> Any:
    """Return the energy of `start` without its arrays, without computing anything.

    `eqx.combine` with the arrays makes the energy.

    Args:
        start: the function that makes the energy.
        space: the space of the energy.
        dtype: the floating dtype.

    Returns:
        The energy with None in place of arrays.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> skeleton(MLP(width=8), Sphere(3), jnp.float32).activation
    'softplus'
    """
    shapes = eqx.filter_eval_shape(start, key_of_seed(0), space, dtype)
    return eqx.filter(shapes, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))


def partition(energy: Any, fixed: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Split an energy into (trained, rest) as `eqx.partition` does.

    The trained part is the floating arrays, except those of the fields named in `fixed`. The rest is everything else.

    Args:
        energy: the energy, a pytree.
        fixed: names of fields that are not trained.

    Returns:
        The trained part and the rest, two pytrees that `eqx.combine` joins.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> trained, _ = partition(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), ("positions",))
    >>> trained.positions is None, trained.coefficients.tolist()
    (True, [1.0, 1.0])
    """

    def free(path, leaf):
        return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) and str(path[0]).lstrip(".") not in fixed

    return eqx.partition(energy, jax.tree_util.tree_map_with_path(free, energy))


def made(optimiser: Optimiser, clip: float | None) -> Any:
    """Make the optax transformation of a gradient into the direction of descent.

    Args:
        optimiser: a word or a function (see `Optimiser`).
        clip: the largest global norm of the gradient, or None for no clipping.

    Returns:
        The transformation. It applies no learning rate.

    >>> made("gradient", 1.0).update({"w": jnp.array([3.0, 4.0])}, made("gradient", 1.0).init({"w": jnp.zeros(2)}))[0]["w"].tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    import optax

    clipped = [] if clip is None else [optax.clip_by_global_norm(clip)]
    if callable(optimiser):
        return optax.chain(*clipped, optimiser(), optax.scale(-1.0))  # the updates of an optax optimiser are to be added
    return optax.chain(*clipped, transformation(optimiser))


def began(energy: Energy, optimiser: Optimiser, clip: float | None, fixed: tuple[str, ...]) -> Training:
    """Return the state of training at the start.

    Args:
        energy: the energy at the start.
        optimiser: the optimiser (see `Optimiser`).
        clip: the largest global norm of the gradient. None for no clipping.
        fixed: the names of the fields that are not trained.

    Returns:
        The state of training.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> began(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), "gradient", None, ()).arrays.coefficients.tolist()
    [1.0, 1.0]
    """
    return Training(eqx.filter(energy, eqx.is_array), made(optimiser, clip).init(partition(energy, fixed)[0]))


def mean_gradient(energy: Energy, samples: Samples, fixed: tuple[str, ...] = (), penalty: Scalar = 0.0) -> Any:
    """Return E_samples d/dtheta (U + penalty U^2) for the trained part of an energy, streamed by blocks of points.

    Over a mesh axis each device holds as many of the samples. The mean of the results by `collectives.mean_over` is then the mean over all
    samples.

    Args:
        energy: the energy U.
        samples: the samples.
        fixed: the names of the fields that are not trained.
        penalty: the factor of U^2.

    Returns:
        The gradient, with the structure of the trained part of the energy.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> network = MLP(width=8, depth=1)(jax.random.key(0), Sphere(3), jnp.float32)
    >>> mean_gradient(network, Samples(jnp.eye(3))).biases[-1].tolist()
    [1.0]
    """
    trained, rest = partition(energy, fixed)
    count = samples.points.shape[0]
    log_weights = samples.log_weights
    weights = jnp.full(count, 1 / count, samples.points.dtype) if log_weights is None else shares(log_weights)

    def block(x, weights):
        def total(trained):
            value = eqx.combine(trained, rest)(x.T)
            return jnp.sum(weights * (value + penalty * value**2))

        return jax.grad(total)(trained)

    return blocks.sum_blocks(block, (samples.points.T, weights), energy.width)


def likelihood_gradient(
    energy: Energy, model: Samples, data: Samples, fixed: tuple[str, ...] = (), penalty: Scalar = 0.0
) -> Any:
    """Return the gradient of the cross-entropy, E_data dU - E_model dU, and of a penalty on U^2.

    The penalty is penalty (E_data U^2 + E_model U^2), with the samples held fixed.

    Args:
        energy: the energy U.
        model: samples of the model.
        data: the data.
        fixed: the names of the fields that are not trained.
        penalty: the factor of the penalty.

    Returns:
        The gradient, with the structure of the trained part of the energy.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> network = MLP(width=8, depth=1)(jax.random.key(0), Sphere(3), jnp.float32)
    >>> likelihood_gradient(network, Samples(jnp.eye(3)), Samples(-jnp.eye(3))).biases[-1].tolist()
    [0.0]
    """
    observed = mean_gradient(energy, data, fixed, penalty)
    expected = mean_gradient(energy, model, fixed, -penalty)
    return collectives.mean_over(jax.tree.map(jnp.subtract, observed, expected))


def descend(energy: Energy, gradient: Any, state: Any, rates, optimiser: Optimiser, clip: float | None, fixed: tuple[str, ...]):
    """Make a step p <- p - learning_rate (direction + weight_decay p) of the trained part of an energy.

    Args:
        energy: the energy.
        gradient: the gradient of the loss, with the structure of the trained part.
        state: the state of the optimiser.
        rates: rates with the fields `learning_rate` and `weight_decay`.
        optimiser: the optimiser (see `Optimiser`).
        clip: the largest global norm of the gradient. None for no clipping.
        fixed: the names of the fields that are not trained.

    Returns:
        The energy after the step, and the state of the optimiser.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.flows.two_layer import NetworkRates
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.ones(2))
    >>> gradient, state = partition(energy, ("positions",))[0], began(energy, "gradient", None, ("positions",)).optimiser
    >>> descend(energy, gradient, state, NetworkRates(0.25), "gradient", None, ("positions",))[0].coefficients.tolist()
    [0.75, 0.75]
    """
    trained, rest = partition(energy, fixed)
    direction, state = made(optimiser, clip).update(gradient, state, trained)
    move = lambda p, d: p - rates.learning_rate * (d + rates.weight_decay * p)  # noqa: E731
    return eqx.combine(jax.tree.map(move, trained, direction), rest), state


def check(method, data: Samples) -> None:
    """Check that the energy of a method can be trained on the data. Only the energy of the first four points of the data is computed.

    Args:
        method: the method, with the settings `space`, `start` and `fixed`.
        data: the training data, points (n, d).

    Raises:
        ValueError: `start` gives no `Energy`; a name in `fixed` is no field of it; nothing is left to train; the energy does not return
            one value per point in the dtype of the data; or its values or gradients are not finite.
    """
    dtype = data.points.dtype
    energy = eqx.filter_eval_shape(method.start, key_of_seed(0), method.space, dtype)
    if not isinstance(energy, Energy):
        raise ValueError(f"start gives a {type(energy).__name__}; it must be an Energy (see dualebm.energies.base.Energy)")
    names = [str(path[0]).lstrip(".") for path, leaf in jax.tree_util.tree_leaves_with_path(energy) if hasattr(leaf, "dtype")]
    for name in method.fixed:
        checks.choice("fixed", name, dict.fromkeys(names))
    if not jax.tree.leaves(partition(energy, method.fixed)[0]):
        raise ValueError(f"fixed is {method.fixed}, which leaves nothing of {type(energy).__name__} to be trained")
    points = data.points[:4]
    shape = eqx.filter_eval_shape(lambda energy, x: energy(x), energy, points)
    if not hasattr(shape, "shape") or shape.shape != points.shape[:1] or shape.dtype != dtype:
        actual = f"{shape.dtype} of shape {shape.shape}" if hasattr(shape, "shape") else type(shape).__name__
        wanted = f"it must be {dtype} of shape {points.shape[:1]}"
        raise ValueError(f"the energy {type(energy).__name__} of points {points.shape} is {actual}; {wanted}")
    first = eqx.filter_jit(lambda x: method.start(key_of_seed(0), method.space, dtype).value_and_gradient(x))(jnp.asarray(points))
    if not all(bool(np.isfinite(np.asarray(value)).all()) for value in first):
        raise ValueError(f"the energy {type(energy).__name__} or its gradient is not finite in step 0, at the first points of the data")
