"""The check of a user's feature before a run: what it returns, and that this is finite at points of the data."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm.features import Bump, FeatureMap, ReLU, ScaledBump, Softplus
from dualebm.geometry import Space
from dualebm.measures import Samples

KNOWN = (ReLU, Softplus, Bump, ScaledBump)
"""The classes of features that are finite everywhere."""

PARAMETERS, POINTS = 4, 256
"""The number of parameters, and the largest number of points, at which a feature is computed."""


def check(name: str, feature: Any, space: Space, points: Float[Array | np.ndarray, "n d"]) -> None:
    """Check that a feature maps points (n, d) and parameters (m, p) to finite numbers (n, m), with finite gradients.

    It is computed at the first points and at parameters that `feature.draw` draws. The features of this package pass at once.

    Args:
        name: the name of the argument in the error.
        feature: the feature.
        space: the space of the points.
        points: the points, (n, d).

    Raises:
        ValueError: the feature is no `FeatureMap`, fails, returns another shape or integers, or is not finite.

    >>> from dualebm.features import Custom; from dualebm.spaces import Sphere
    >>> check("feature", Custom(lambda x, theta: jnp.log(x @ theta), Sphere(2)), Sphere(2), jnp.eye(2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: feature is nan or its gradient is not finite at the point [...] and the parameter [...]; both must be finite at all points
    """
    if not isinstance(feature, FeatureMap):
        raise ValueError(f"{name} is {feature!r:.200}; it must be a feature, such as ReLU() or Custom(function, space)")
    if isinstance(feature, KNOWN):
        return
    points = jnp.asarray(points[:POINTS])
    try:
        theta = feature.draw(jax.random.key(0), space, PARAMETERS, Samples(points))
        made = jax.eval_shape(feature, points, theta)
    except Exception as error:  # a user's function may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{name} is {feature!r:.200}, which fails at points {points.shape} of {space} ({said})") from error
    wanted = (len(points), PARAMETERS)
    if getattr(made, "shape", None) != wanted or made.dtype != points.dtype:
        shown = f"{made.dtype} of shape {made.shape}" if hasattr(made, "shape") else type(made).__name__
        called = f"points {points.shape} and parameters {theta.shape}"
        raise ValueError(f"{name} is {feature!r:.200}, which returns {shown} at {called}; it must return {points.dtype} of shape {wanted}")
    values, sound = map(np.asarray, _evaluated(feature, points, theta))
    if not sound.all():
        i, j = np.argwhere(~sound)[0]
        at = f"the point {np.asarray(points[i]).tolist()} and the parameter {np.asarray(theta[j]).tolist()}"
        raise ValueError(f"{name} is {values[i, j]} or its gradient is not finite at {at}; both must be finite at all points")


@partial(jax.jit, static_argnames="feature")
def _evaluated(feature, points, theta):
    """Return the values of a feature, (n, m), and whether they and their gradients are finite, (n, m)."""

    def one(x, t):
        value, gradients = jax.value_and_grad(lambda x, t: feature(x[None], t[None])[0, 0], argnums=(0, 1))(x, t)
        return value, jnp.isfinite(value) & jnp.all(jnp.isfinite(jnp.concatenate(gradients)))

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(points, theta)
