"""Where the witness F(theta) = E_model phi - E_data phi is largest over parameters: a grid of them, and ascent from the best."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal.blocks import block_columns, sum_blocks
from dualebm.energies.shallow import Sums, feature_mean, feature_sums
from dualebm.features import Feature
from dualebm.geometry import ParameterSpace, Space
from dualebm.log_z.quadrature import sphere_nodes
from dualebm.measures import Samples
from dualebm.parameters import ScaledCentres
from dualebm.spaces import Sphere, Torus

SIGNS: dict[str, tuple[int, ...]] = {"full": (1, -1), "negative": (-1,), "positive": (1,)}
"""The signs that coefficients may have in each ball."""

PEAKS = 32
"""The number of local maxima that a search returns, as many of each sign of a ball."""

FIRST_MOVE, LAST_MOVE = 0.3, 1e-3
"""The first and the last move of the ascent to a local maximum, in the lengths over which phi changes with theta (`FeatureMap.widths`)."""

APART = 0.3
"""The least distance between the parameters from which the ascents start, in the same lengths."""

CIRCLE_GRID, SPHERE_GRID, SCALES = 720, 40, 16
"""The parameters of a grid: on a circle, heights on S^2 (with twice as many on each; half of both where there is a concentration), and
values of a further coordinate."""


class Measure(NamedTuple):
    """Points with weights that may have both signs, as control variates make them (`control_variates.crossed`).

    Args:
        columns: the points, as columns, (d, N).
        weights: the weights, of sum 1, (N,).
    """

    columns: Float[Array, "d N"]
    weights: Float[Array, " N"]


def tilted(measure: Measure, change: Float[Array, " N"]) -> Measure:
    """Return the measure with its weights multiplied by exp(change), and of sum 1 again.

    >>> tilted(Measure(jnp.eye(2), jnp.array([0.5, 0.5])), jnp.log(jnp.array([1.0, 3.0]))).weights.round(6).tolist()
    [0.25, 0.75]
    """
    weights = measure.weights * jnp.exp(change - jnp.max(change))
    return measure._replace(weights=weights / jnp.sum(weights))


def means(feature: Feature, theta: Float[Array, "m p"], measure: Measure) -> Sums:
    """Return the means of phi(., theta_j) under a measure, (m,), and their gradients in theta_j, (m, p).

    >>> from dualebm.features import ReLU
    >>> means(ReLU(), jnp.eye(2), Measure(jnp.eye(2), jnp.array([0.25, 0.75])))[0].tolist()
    [0.25, 0.75]
    """
    return sum_blocks(lambda x, w: feature_sums(feature, theta, x, w), tuple(measure), block_columns(theta.shape[0]))


def parameter_grid(feature: Feature, space: Space) -> Float[np.ndarray, "P p"] | None:
    """Return a grid of all parameters, dense enough that an ascent from its best points reaches the supremum of |F|.

    Args:
        feature: phi.
        space: the space of the points.

    Returns:
        The parameters as a NumPy float64 array, (P, p), or None where they fill a space of too many dimensions: another than the circle,
        S^2, S^3 or the torus of one dimension, or one of these with a concentration.

    >>> from dualebm.features import ReLU, ScaledBump
    >>> parameter_grid(ReLU(), Sphere(3)).shape, parameter_grid(ScaledBump(Sphere(2)), Sphere(2)).shape
    ((3200, 3), (11520, 3))
    """
    return _grid_of(feature.parameter_space(space))


def _grid_of(parameters: ParameterSpace, heights: int = SPHERE_GRID) -> np.ndarray | None:
    if isinstance(parameters, ScaledCentres):
        centres = _grid_of(parameters.space, heights=SPHERE_GRID // 2)
        return None if centres is None else _product(centres, np.linspace(*parameters.bounds, SCALES))
    if isinstance(parameters, Torus) or parameters == Sphere(2):
        return parameters.equispaced(CIRCLE_GRID) if parameters.circumference else None
    if not isinstance(parameters, Sphere) or parameters.dimension > 4:
        return None
    globe = sphere_nodes(Sphere(3), heights // (parameters.dimension - 2))[0]
    if parameters.dimension == 3:
        return globe
    turned = _product(globe, (np.arange(SCALES) + 0.5) * math.pi / SCALES)  # a point of S^3: an angle, and a point of S^2
    return np.concatenate([np.sin(turned[:, 3:]) * turned[:, :3], np.cos(turned[:, 3:])], axis=1)


def _product(points, values):
    return np.concatenate([np.repeat(points, len(values), axis=0), np.tile(values, len(points))[:, None]], axis=1)


class Peaks(NamedTuple):
    """Local maxima of s F over parameters.

    Args:
        positions: the parameters, (K, p).
        signs: s, (K,).
        values: s F there, (K,).
    """

    positions: Float[Array, "K p"]
    signs: Float[Array, " K"]
    values: Float[Array, " K"]


def peaks(
    feature: Feature, space: Space, model: Measure, data: Samples, candidates: Float[Array, "P p"], seen: Float[Array, " P"], ball: str, *,
    steps: int,
) -> Peaks:  # fmt: skip
    """Find local maxima of s F(theta) = s (E_model phi - E_data phi) for each sign s of a ball, by ascent from the best candidates.

    The candidates of an ascent lie `APART`.

    Args:
        feature: phi.
        space: the space of the points.
        model: the model.
        data: the data.
        candidates: parameters, (P, p).
        seen: E_data phi at the candidates, (P,).
        ball: one of `SIGNS`.
        steps: the number of steps of each ascent.

    Returns:
        `PEAKS` maxima. Several of them may be the same.

    >>> from dualebm.features import ReLU
    >>> model, data = Measure(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 0.0])), Samples(jnp.array([[0.0, 1.0]]))
    >>> found = peaks(ReLU(), Sphere(2), model, data, jnp.eye(2), jnp.array([0.0, 1.0]), "positive", steps=1)
    >>> found.positions[0].tolist(), float(found.values[0])
    ([1.0, 0.0], 1.0)
    """
    parameters, signs = feature.parameter_space(space), SIGNS[ball]
    each = PEAKS // len(signs)
    witness = means(feature, candidates, model)[0] - seen
    widths = jnp.broadcast_to(feature.widths(space, candidates), candidates.shape)

    def best(values, _):
        i = jnp.argmax(values)
        ways = parameters.log(jnp.broadcast_to(candidates[i], candidates.shape), candidates)
        return jnp.where(jnp.linalg.norm(ways / widths, axis=1) > APART, values, -jnp.inf), i

    theta = candidates[jnp.concatenate([jax.lax.scan(best, s * witness, None, length=each)[1] for s in signs])]
    sign = jnp.repeat(jnp.asarray(signs, theta.dtype), each)

    def ascend(carry, length):
        theta, highest, value = carry
        values, gradient = jax.tree.map(jnp.subtract, means(feature, theta, model), feature_mean(feature, theta, data))
        better = sign * values > value
        highest, value = jnp.where(better[:, None], theta, highest), jnp.where(better, sign * values, value)
        width = feature.widths(space, theta)
        slope = sign[:, None] * width * parameters.tangent(theta, gradient)
        size = jnp.maximum(jnp.linalg.norm(slope, axis=1, keepdims=True), jnp.finfo(theta.dtype).tiny)
        return (parameters.retract(theta, length * width * slope / size), highest, value), None

    start = (theta, theta, jnp.full(theta.shape[0], -jnp.inf, theta.dtype))
    (_, highest, value), _ = jax.lax.scan(ascend, start, jnp.geomspace(FIRST_MOVE, LAST_MOVE, steps, dtype=theta.dtype))
    return Peaks(highest, sign, value)
