"""Stein discrepancies of samples from a model p = exp(-U) tau: the supremum over a ball of h of E_samples A h, whose mean under p is 0.

With s = grad log p along the space, the operator on ambient fields h is A h = s . h + div h in R^d and A h = (s - (d - 1) x) . h + div h
on the sphere in R^d (arXiv 2104.07531), so that E_p A h = 0. Over the ball of d copies of a reproducing kernel it is the kernelised
discrepancy,

    KSD^2 = E u(x, x'),   u = s~(x) . s~(y) k + s~(y) . grad_x k + s~(x) . grad_y k + Tr grad_x grad_y k,   s~ = s or s - (d - 1) x.

Over d functions of F1 whose squared norms sum to 1 it is SD^2 = sum_i D_i^2, D_i = sup_h E (A h e_i). Neither asks for log Z. Both are
quadratic in s, so that training needs only their gradient in s at the points. `pull_back` brings that gradient to the energy.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.blocks import block_columns, map_blocks, once, product, sum_blocks
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.kernels import SOURCES
from dualebm.measures import Samples
from dualebm.settings import Count, checked

Points = Float[Array, "n d"]

Statistic = Literal["U", "V"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
"""The estimators of E u(x, x'). "U" takes the mean over pairs of different samples and has no bias. "V" takes it over all pairs and is
never below 0."""


def check_space(space: Space) -> None:
    """Check that a space is not periodic, because the kernels and critics are not periodic.

    Args:
        space: the space.

    Raises:
        ValueError: the space is periodic.

    >>> from dualebm.spaces import Sphere
    >>> check_space(Sphere(3))
    """
    if space.periodic:
        raise ValueError(f"space is {space}; allowed: a Sphere, a Euclidean space")


def check_kernel(kernel: Any) -> None:
    """Check that a kernel has the method `derivatives`.

    Args:
        kernel: the kernel.

    Raises:
        ValueError: it does not have it.

    >>> from dualebm.kernels import RBF
    >>> check_kernel(RBF())
    """
    if not hasattr(kernel, "derivatives") or isinstance(kernel, type):
        raise ValueError(f"kernel is {kernel}; allowed: RBF, ArcCosine, and your own with a method `derivatives`")


def check_samples(name: str, samples: Samples, space: Space, statistic: Statistic) -> None:
    """Check samples of a space for a statistic.

    Args:
        name: the name of the samples in the error.
        samples: the samples.
        space: the space of the samples.
        statistic: the estimator, "U" or "V" (see `STATISTICS`).

    Raises:
        ValueError: for another statistic, for samples that are not on the space, and for fewer than two samples of a U-statistic.

    >>> from dualebm.spaces import Sphere
    >>> check_samples("data", Samples(jnp.eye(2)), Sphere(2), "U")
    """
    checks.choice("statistic", statistic, STATISTICS)
    checks.samples(name, samples, space)
    if statistic == "U" and samples.points.shape[0] < 2:
        raise ValueError(f"{name} has 1 point; the U-statistic is over pairs and must have at least 2 (or statistic='V')")


@checked
def score(energy: Energy, space: Space, points: Points) -> Points:
    """Return the scores s = grad log p = P (grad log tau - grad U) at points.

    Args:
        energy: the energy U.
        space: the space of the points.
        points: the points as rows, (n, d).

    Returns:
        The scores, tangent to the space, (n, d).

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> score(Shallow(ReLU(), jnp.eye(2), jnp.array([2.0, 4.0])), Sphere(2), jnp.array([[1.0, 0.0]])).tolist()
    [[0.0, 0.0]]
    """
    return space.tangent(points, space.grad_log_base(points) - energy.gradient(points))


def pull_back(energy: Energy, space: Space, points: Points, slopes: Points) -> Any:
    """Return the gradient of sum_i slopes_i . s(x_i) in the arrays of an energy, streamed by blocks of points.

    Args:
        energy: the energy U of the scores s.
        space: the space of the points.
        points: the points x_i as rows, (n, d).
        slopes: the slopes, such as the gradient of a loss in the scores, (n, d).

    Returns:
        The gradient, an energy whose arrays are the derivatives.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Euclidean
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.ones(2))
    >>> pull_back(energy, Euclidean(2), jnp.array([[0.6, 0.8]]), jnp.array([[4.0, -6.0]])).coefficients.tolist()
    [-2.0, 3.0]
    """

    def block(x, g):
        return jax.grad(lambda energy: -jnp.sum(g * energy.locate(x).gradient))(energy)

    return sum_blocks(block, (once(points.T), once(space.tangent(points, slopes).T)), energy.width)


def shifted_scores(space, points, scores):
    """Return s~ = s - H n, the field that the operator multiplies h by, with H the mean curvature and n the unit normal.

    Args:
        space: the space.
        points: the points, (n, d).
        scores: the scores s at the points, (n, d).

    Returns:
        The field, (n, d).
    """
    return scores - space.mean_curvature * space.normal(points)


# -- Kernels -------------------------------------------------------------------------------------------


def stein_kernel(
    kernel: Any, space: Space, x: Float[Array, "N d"], score_x: Float[Array, "N d"], y: Points, score_y: Points
) -> Float[Array, "N n"]:
    """Return the matrix u(x_i, y_j), without blocks.

    Args:
        kernel: a kernel with the method `derivatives`, such as `RBF`.
        space: a sphere or a Euclidean space.
        x: points as rows, (N, d).
        score_x: the scores at x, (N, d).
        y: points as rows, (n, d).
        score_y: the scores at y, (n, d).

    Returns:
        The matrix, (N, n).

    >>> from dualebm.kernels import RBF; from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> x = jnp.array([[1.0, 0.0]])
    >>> stein_kernel(RBF(), Euclidean(2, Flat()), x, jnp.zeros((1, 2)), x, jnp.zeros((1, 2))).tolist()
    [[2.0]]
    """
    k = kernel.derivatives(x, y, space)
    a, b = shifted_scores(space, x, score_x), shifted_scores(space, y, score_y)
    along_x = k.cross * jnp.sum(b * y, axis=1)[None] + k.first * product(x, b.T)
    along_y = k.cross * jnp.sum(a * x, axis=1)[:, None] + k.second * product(a, y.T)
    return product(a, b.T) * k.value + along_x + along_y + k.trace


def diagonal(kernel: Any, space: Space, points: Points, scores: Points) -> Float[Array, " n"]:
    """Return the diagonal u(x_i, x_i) of the Stein kernel.

    Args:
        kernel: a kernel with the method `derivatives`, such as `RBF`.
        space: a sphere or a Euclidean space.
        points: the points x_i as rows, (n, d).
        scores: the scores at the points, (n, d).

    Returns:
        The diagonal, (n,).

    >>> from dualebm.kernels import RBF; from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> diagonal(RBF(), Euclidean(2, Flat()), jnp.eye(2), jnp.zeros((2, 2))).tolist()
    [2.0, 2.0]
    """
    return jax.vmap(lambda x, s: stein_kernel(kernel, space, x[None], s[None], x[None], s[None])[0, 0])(points, scores)


@checked
def kernelised(
    kernel: Any, space: Space, samples: Samples, scores: Points, statistic: Statistic = "U"
) -> tuple[Float[Array, ""], Points]:
    """Return KSD^2 of samples and its gradient in the scores, streamed by blocks of both points.

    With weights p_i that sum to 1, V = sum_ij p_i p_j u_ij and U = (V - sum_i p_i^2 u_ii) / (1 - sum_i p_i^2). U has no bias, but for few
    samples it is not convex in s.

    Args:
        kernel: a kernel with the method `derivatives`, such as `RBF`.
        space: a sphere or a Euclidean space.
        samples: n samples.
        scores: the scores grad log p at the samples, as `score` returns them, (n, d).
        statistic: the estimator, "U" or "V" (see `STATISTICS`).

    Returns:
        KSD^2, a scalar, and its gradient in the scores, (n, d).

    >>> from dualebm.kernels import RBF; from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> value, slopes = kernelised(RBF(), Euclidean(2, Flat()), Samples(jnp.zeros((2, 2))), jnp.ones((2, 2)))
    >>> float(value), slopes.tolist()
    (4.0, [[1.0, 1.0], [1.0, 1.0]])
    """
    x, shifted, p = samples.points, shifted_scores(space, samples.points, scores), samples.weights
    sources = (once(x.T), once(shifted.T), p)

    def against(x, y, shifted, p):
        """Return E_y of k s~(y), of grad_y k and of the trace, at columns x."""
        k = kernel.derivatives(x.T, y.T, space)
        field = product(p[None] * shifted, k.value.T)
        slope = x * product(k.cross, p)[None] + product(p[None] * y, k.second.T)
        return field, slope, product(k.trace, p)

    def block(x):
        return sum_blocks(lambda *y: against(x, *y), sources, SOURCES)

    field, slope, trace = map_blocks(block, x.T, block_columns(min(x.shape[0], SOURCES)))
    field, slope = field.T, slope.T
    if statistic == "U":
        same = jax.vmap(lambda x: jax.tree.map(lambda a: a[0, 0], kernel.derivatives(x[None], x[None], space)))(x)
        field = field - p[:, None] * same.value[:, None] * shifted
        slope = slope - p[:, None] * (same.cross + same.second)[:, None] * x
        trace = trace - p * same.trace
    scale = 1 / (1 - jnp.sum(p**2)) if statistic == "U" else 1
    value = jnp.sum(p * (jnp.sum(shifted * (field + 2 * slope), axis=1) + trace))
    return scale * value, 2 * scale * p[:, None] * (field + slope)


class GoodnessOfFit(NamedTuple):
    """The result of `goodness_of_fit`.

    Args:
        statistic: KSD^2 as the U-statistic.
        p_value: the probability that samples of the model have a statistic as large.
        null: the bootstrapped values of the statistic, (B,).
    """

    statistic: Float[Array, ""]
    p_value: Float[Array, ""]
    null: Float[Array, " B"]


@checked
def goodness_of_fit(
    key: Key[Array, ""], kernel: Any, space: Space, energy: Energy, points: Points, bootstraps: Count = 500
) -> GoodnessOfFit:
    """Test whether independent points are samples of a model, by KSD^2 and the wild bootstrap.

    The sources are Liu, Lee, Jordan 2016 and Chwialkowski et al. 2016. The null distribution of U is that of
    U_e = sum_(i != j) e_i e_j u_ij / n (n - 1) with random signs e, and p = (1 + #(U_e >= U)) / (1 + B) over B draws of e. The test needs
    no log Z and no samples of the model.

    Args:
        key: the random key of the signs.
        kernel: a kernel with the method `derivatives`, such as `RBF`.
        space: a sphere or a Euclidean space.
        energy: the energy of the model.
        points: the points as rows, (n, d). They must be independent, such as data held out. Points of one chain are not.
        bootstraps: the number B of draws of the signs.

    Returns:
        The statistic, its p-value and the bootstrapped values.

    Raises:
        ValueError: for a periodic space, a kernel without derivatives, points off the space, fewer than two points, and fewer than one
            bootstrap.

    >>> from dualebm.spaces import Sphere
    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.kernels import RBF
    >>> points = Sphere(3).sample_base(jax.random.key(0), 200, jnp.float32)
    >>> wrong = Shallow(ReLU(), jnp.eye(3), jnp.array([-9.0, 0.0, 0.0]))
    >>> round(float(goodness_of_fit(jax.random.key(1), RBF(), Sphere(3), wrong, points, 99).p_value), 4)
    0.01
    """
    check_key(key)
    check_space(space)
    check_kernel(kernel)
    check_samples("points", Samples(points), space, "U")
    return _goodness_of_fit(key, kernel, space, energy, points, bootstraps)


@functools.partial(brief, jit=eqx.filter_jit)
def _goodness_of_fit(key, kernel, space, energy, points, bootstraps):
    count, scores = points.shape[0], score(energy, space, points)
    signs = jax.random.rademacher(key, (bootstraps, count), points.dtype)
    signs = jnp.concatenate([jnp.ones((1, count), points.dtype), signs])  # the first row gives the statistic
    sources = (once(points.T), once(scores.T), signs)

    def block(x, s, e):
        def against(y, t, f):
            return product(f, stein_kernel(kernel, space, x.T, s.T, y.T, t.T).T)

        return jnp.sum(e * sum_blocks(against, sources, SOURCES), axis=1)

    total = sum_blocks(block, sources, block_columns(min(count, SOURCES)))
    values = (total - jnp.sum(diagonal(kernel, space, points, scores))) / count / (count - 1)
    value, null = values[0], values[1:]
    return GoodnessOfFit(value, (1 + jnp.sum(null >= value)) / (1 + bootstraps), null)
