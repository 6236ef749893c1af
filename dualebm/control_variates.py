"""Stein terms as control variates: functions whose mean under a model exp(-f) tau is 0, for means over samples of it.

For a function h the Stein term is T h = Laplacian h + (grad log tau - grad f) . grad h, along the space. Its mean is 0, by an integration
by parts (`stein`). Here h are the ambient coordinates y_k of the space, on a torus the cosines and sines of its angles, and their products.
By the product rule T(y_k y_l) = y_k T y_l + y_l T y_k + 2 <grad y_k, grad y_l>.

A mean over samples, less the part of it that a regression on the means of the Stein terms explains, varies less. The regression is made
with other samples than the mean, so that the mean stays without bias. That mean is one over the points of both, with weights of both
signs, which do not depend on the function (`crossed`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal.blocks import product
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.stein import score

LARGEST_PRODUCTS = 20
"""The largest number of coordinates of which all products are taken, 230 terms. With more, only squares are."""

RIDGE = 1e-4
"""The part of the variance of each term that is added to it in the regression."""


def stein_terms(energy: Energy, space: Space, x: Float[Array, "N d"]) -> Float[Array, "N J"]:
    """Return the Stein terms of the coordinates and of their products at points.

    Args:
        energy: the energy f.
        space: the space.
        x: the points, (N, d).

    Returns:
        The terms, (N, J). There are J = k + k (k + 1) / 2 for k coordinates, or 2 k where k is above `LARGEST_PRODUCTS`.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Euclidean
    >>> zero = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1))
    >>> stein_terms(zero, Euclidean(1), jnp.array([[3.0]])).tolist()  # -x, and 2 - 2 x^2 of the base N(0, 1)
    [[-3.0, -16.0]]
    """
    scores, y = score(energy, space, x), space.ambient(x) / space.unit
    if space.periodic:  # y are cosines and sines of the angles x / unit
        d, unit = space.dimension, space.unit
        slopes = jnp.concatenate([-y[:, d:], y[:, :d]], axis=1) / unit
        first = slopes * jnp.concatenate([scores, scores], axis=1) - y / unit**2
        circle = np.concatenate([np.arange(d), np.arange(d)])
        metric = lambda i, j: jnp.asarray(circle[i] == circle[j], x.dtype)[None] * slopes[:, i] * slopes[:, j]  # noqa: E731
    else:
        normal = space.normal(x)
        first = scores - space.mean_curvature * normal
        metric = lambda i, j: jnp.asarray(i == j, x.dtype)[None] - normal[:, i] * normal[:, j]  # noqa: E731
    count = y.shape[1]
    i, j = np.triu_indices(count) if count <= LARGEST_PRODUCTS else (np.arange(count),) * 2
    return jnp.concatenate([first, y[:, i] * first[:, j] + y[:, j] * first[:, i] + 2 * metric(i, j)], axis=1)


class Crossed(NamedTuple):
    """Two halves of samples, each with control variates whose regression is made on the other half.

    Args:
        weights: a row for each half, with the weights of the n points of the first half and then those of the second, (2, 2 n). The mean
            of a function with a row is its mean over the half, less what the other half's regression explains of it.
        terms: the Stein terms of each half less their means, (2, n, J).
        regression: for each half the matrix whose product with values at its n points is their regression on its terms, (2, J, n).
    """

    weights: Float[Array, "2 twice_n"]
    terms: Float[Array, "2 n J"]
    regression: Float[Array, "2 J n"]


def crossed(energy: Energy, space: Space, halves: Samples) -> Crossed:
    """Return the weights with which means over either half have control variates.

    With weights p_i and terms S_i of one half, of means s and 0, and weights q_j, terms T_j, means t and covariance C of the other, the
    mean of h is

        sum_i p_i h(x_i) - sum_j q_j (s . C^-1 (T_j - t)) h(x_j).

    Given the other half, its expectation is that of h, because s has the expectation 0.

    Args:
        energy: the energy f, of whose model the samples are.
        space: the space. Where its base measure may be 0 somewhere, no control variates are used.
        halves: the samples of both halves, points (2, n, d) and log weights (2, n).

    Returns:
        The weights, and what `errors` needs.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Euclidean
    >>> zero, points = Shallow(ReLU(), jnp.eye(1), jnp.zeros(1)), jax.random.normal(jax.random.key(0), (2, 500, 1))
    >>> rows = crossed(zero, Euclidean(1), Samples(points, jnp.zeros((2, 500)))).weights
    >>> [round(float(row @ points.ravel() ** 2), 3) for row in rows]  # the variance of the base, which the terms explain
    [1.0, 1.0]
    """

    def parts(points, log_weights):
        weights = jax.nn.softmax(log_weights)
        terms = stein_terms(energy, space, points) if space.base.positive else jnp.zeros_like(points)
        mean = product(weights, terms)
        centred = terms - mean[None]
        covariance = product(centred.T * weights[None], centred)
        variances = jnp.diag(covariance)
        covariance = covariance + jnp.diag(RIDGE * variances + jnp.finfo(variances.dtype).tiny)
        return weights, mean, centred, jnp.linalg.solve(covariance, centred.T * weights[None])

    weights, mean, centred, regression = jax.lax.map(lambda half: parts(*half), tuple(halves))
    explained = [-product(mean[1 - i], regression[i]) for i in range(2)]
    rows = [jnp.concatenate([weights[0], explained[1]]), jnp.concatenate([explained[0], weights[1]])]
    return Crossed(jnp.stack(rows), centred, regression)


def errors(samples: Crossed, values: Float[Array, "2 twice_n"]) -> Float[Array, "2"]:
    """Return the standard errors of the means of `crossed`, one of each half, for independent samples.

    Args:
        samples: the samples.
        values: the values at the points of both halves that are averaged with each row of weights, (2, 2 n). Their mean is about 0.

    Returns:
        The errors, (2,).
    """
    count = values.shape[1] // 2

    def error(i):
        own, other = (values[i, j * count : (j + 1) * count] for j in (i, 1 - i))
        rest = own - product(samples.terms[i], product(samples.regression[1 - i], other))
        weights = samples.weights[i, i * count : (i + 1) * count]
        return jnp.sqrt(jnp.sum((weights * rest) ** 2))

    return jnp.stack([error(0), error(1)])
