"""Stein discrepancies of samples from a model p = exp(-U) tau: the supremum over a ball of h of E_samples A h, whose mean under p is 0.

With s = grad log p along the space, the operator on ambient fields h is A h = s . h + div h in R^d and A h = (s - (d - 1) x) . h + div h
on the sphere in R^d (arXiv 2104.07531), so that E_p A h = 0. Over the ball of d copies of a reproducing kernel it is the kernelised
discrepancy,

    KSD^2 = E u(x, x'),   u = s~(x) . s~(y) k + s~(y) . grad_x k + s~(x) . grad_y k + Tr grad_x grad_y k,   s~ = s or s - (d - 1) x.

Over d functions of F1 whose squared norms sum to 1 it is SD^2 = sum_i D_i^2, D_i = sup_h E (A h e_i). Neither asks for log Z. Both are
quadratic in s, so that training needs only their gradient in s at the points. `pull_back` brings that gradient to the energy.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks
from dualebm._internal.blocks import block_columns, map_blocks, once, product, sum_blocks
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.kernels import SOURCES
from dualebm.measures import Samples

Points = Float[Array, "n d"]

STATISTICS = ("U", "V")
"""The estimators of E u(x, x'). "U" takes the mean over pairs of different samples and has no bias. "V" takes it over all pairs and is
never below 0."""


def check_space(space: Space) -> None:
    """Raise ValueError for a periodic space, because the kernels and critics are not periodic.

    >>> from dualebm.spaces import Sphere
    >>> check_space(Sphere(3))
    """
    if space.periodic:
        raise ValueError(f"space is {space}; allowed: a Sphere, a Euclidean space")


def check_kernel(kernel: Any) -> None:
    """Raise ValueError for a kernel without the method `derivatives`.

    >>> from dualebm.kernels import RBF
    >>> check_kernel(RBF())
    """
    if not hasattr(kernel, "derivatives"):
        raise ValueError(f"kernel is {kernel}; allowed: RBF, ArcCosine, and your own with a method `derivatives`")


def check_samples(name: str, samples: Samples, space: Space, statistic: str) -> None:
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


def _shifted(space, points, scores):
    """Return s~, the field that the operator multiplies h by."""
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
    a, b = _shifted(space, x, score_x), _shifted(space, y, score_y)
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


def kernelised(
    kernel: Any, space: Space, samples: Samples, scores: Points, statistic: str = "U"
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
    x, shifted, p = samples.points, _shifted(space, samples.points, scores), samples.weights
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

    Attributes:
        statistic: KSD^2 as the U-statistic.
        p_value: the probability that samples of the model have a statistic as large.
        null: the bootstrapped values of the statistic, (B,).
    """

    statistic: Float[Array, ""]
    p_value: Float[Array, ""]
    null: Float[Array, " B"]


def goodness_of_fit(
    key: Key[Array, ""], kernel: Any, space: Space, energy: Energy, points: Points, bootstraps: int = 500
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
    check_space(space)
    check_kernel(kernel)
    check_samples("points", Samples(points), space, "U")
    checks.count("bootstraps", bootstraps)
    return _goodness_of_fit(key, kernel, space, energy, points, bootstraps)


@eqx.filter_jit
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


# -- Critics of F1 -------------------------------------------------------------------------------------


class Critics(NamedTuple):
    """d critics h_i(x) = sum_j outer_ij relu(<positions_ij, x>), the components of a test function h. Each is a network of k neurons.

    Attributes:
        outer: the outer weights, (d, k).
        positions: the inner weights, (d, k, d).
    """

    outer: Float[Array, "d k"]
    positions: Float[Array, "d k d"]


NORMALISATIONS = ("exact", "program")
"""The rules by which critics are scaled (see `normalised`). "exact" gives them norm 1. "program", the rule of the authors' program for
arXiv 2104.07531, gives them the fourth root of their norm."""


def normalised(critics: Critics, rule: str = "exact") -> Critics:
    """Scale each critic i on its own, by its norm M_i = sum_j |outer_ij| |positions_ij|.

    Both rules divide the outer weights by M_i^(1/2). The rule "exact" divides the positions by M_i^(1/2) too, so that the new norm is 1.
    The rule "program" divides the positions by M_i^(1/4), so that the new norm is M_i^(1/4). This is the rule of the authors' program for
    arXiv 2104.07531. A critic of norm 0 becomes infinite or NaN.

    Args:
        critics: d critics of k neurons, with outer weights (d, k) and positions (d, k, d).
        rule: "exact" or "program".

    Returns:
        The scaled critics, of the same shapes.

    >>> critics = Critics(jnp.full((1, 1), 4.0), jnp.full((1, 1, 1), 4.0))
    >>> [float(normalised(critics, rule).outer[0, 0] * normalised(critics, rule).positions[0, 0, 0]) for rule in NORMALISATIONS]
    [1.0, 2.0]
    """
    sizes = jnp.linalg.norm(critics.positions, axis=2)
    root = jnp.sqrt(jnp.sum(jnp.abs(critics.outer) * sizes, axis=1, keepdims=True))
    second = root if rule == "exact" else jnp.sqrt(root)
    return Critics(critics.outer / root, critics.positions / second[:, :, None])


def draw_critics(key: Key[Array, ""], dimension: int, width: int, dtype) -> Critics:
    """Draw critics with normal coefficients and positions, and scale them to norm 1.

    Args:
        key: the random key.
        dimension: the dimension d of the space, and the number of critics.
        width: the number k of neurons of each critic.
        dtype: the floating dtype.

    Returns:
        The critics.

    >>> draw_critics(jax.random.key(0), 3, 5, jnp.float32).positions.shape
    (3, 5, 3)
    """
    outer_key, position_key = jax.random.split(key)
    outer = jax.random.normal(outer_key, (dimension, width), dtype)
    return normalised(Critics(outer, jax.random.normal(position_key, (dimension, width, dimension), dtype)))


def _each(critics, space, x, shifted, p):
    """Return the gradient of G_i(omega) = E (A relu(<omega, .>) e_i) in omega, for each critic's neurons.

    The sums go over columns x with weights p.
    """
    d, width = critics.outer.shape
    on = (product(critics.positions.reshape(d * width, d), x) > 0).astype(x.dtype).reshape(d, width, -1)
    push = p[None] * (shifted - space.normal(x))  # d h_i / d x_i - x_i x . grad h on the sphere, as h is homogeneous
    gradient = product((on * push[:, None]).reshape(d * width, -1), x.T).reshape(d, width, d)
    return gradient + product(on, p)[:, :, None] * jnp.eye(d, dtype=x.dtype)[:, None]


def critic_slopes(critics: Critics, space: Space, samples: Samples, scores: Points) -> Float[Array, "d k d"]:
    """Return the gradient in omega of G_i(omega) = E_samples A (relu(<omega, .>) e_i) at the positions of critics.

    The product of the gradient with omega is G_i itself.

    Args:
        critics: d critics of k neurons.
        space: a sphere or a Euclidean space.
        samples: n samples.
        scores: the scores grad log p at the samples, as `score` returns them, (n, d).

    Returns:
        The gradients, (d, k, d).

    >>> from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> critics = Critics(jnp.ones((2, 1)), jnp.ones((2, 1, 2)))
    >>> critic_slopes(critics, Euclidean(2, Flat()), Samples(jnp.eye(2)), jnp.zeros((2, 2)))[:, 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    shifted = _shifted(space, samples.points, scores)
    arrays = (once(samples.points.T), once(shifted.T), samples.weights)
    return sum_blocks(lambda *columns: _each(critics, space, *columns), arrays, block_columns(critics.outer.size))


def critic_values(critics: Critics, slopes: Float[Array, "d k d"]) -> Float[Array, " d"]:
    """Return D_i = E_samples A (h_i e_i) of d critics, (d,), from the result of `critic_slopes`, (d, k, d).

    >>> from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> critics = Critics(jnp.ones((2, 1)), jnp.ones((2, 1, 2)))
    >>> critic_values(critics, critic_slopes(critics, Euclidean(2, Flat()), Samples(jnp.eye(2)), jnp.zeros((2, 2)))).tolist()
    [1.0, 1.0]
    """
    return jnp.sum(critics.outer * jnp.sum(critics.positions * slopes, axis=2), axis=1)


def ascend(
    critics: Critics, space: Space, samples: Samples, scores: Points, steps: int, rule: str = "exact"
) -> tuple[Critics, Float[Array, " d"]]:
    """Improve critics by gradient ascent of each D_i, with steps t = 0, 1, ... of size 1 / (1 + 0.05 t).

    Here D_i = E_samples A (h_i e_i) for critic i. After each step the critics are scaled by `normalised`. A single neuron attains the
    supremum over the ball. The ascent ends near the best neuron among those that it started from, and below the supremum.

    Args:
        critics: d critics of k neurons.
        space: a sphere or a Euclidean space.
        samples: n samples.
        scores: the scores grad log p at the samples, as `score` returns them, (n, d).
        steps: the number of steps.
        rule: the rule of `normalised`, "exact" or "program".

    Returns:
        The critics and their D_i, (d,).

    >>> from dualebm.spaces import Sphere
    >>> points = Sphere(3).sample_base(jax.random.key(0), 100, jnp.float32)
    >>> _, values = ascend(draw_critics(jax.random.key(1), 3, 8, jnp.float32), Sphere(3), Samples(points), jnp.zeros((100, 3)), 25)
    >>> values.shape
    (3,)
    """

    def step(critics, t):
        slopes = critic_slopes(critics, space, samples, scores)
        size = 1 / (1 + 0.05 * t)
        outer = critics.outer + size * jnp.sum(critics.positions * slopes, axis=2)
        positions = critics.positions + size * critics.outer[:, :, None] * slopes
        return normalised(Critics(outer, positions), rule), None

    critics, _ = jax.lax.scan(step, critics, jnp.arange(steps, dtype=samples.points.dtype))
    return critics, critic_values(critics, critic_slopes(critics, space, samples, scores))


def responses(critics: Critics, points: Points) -> Points:
    """Return h_i(x) for each point x and critic i, (n, d), streamed by blocks of points.

    Times the weights of the points it is the gradient of D_i in the component s_i of the scores.

    >>> responses(Critics(jnp.ones((2, 1)), jnp.eye(2)[:, None]), jnp.array([[3.0, -4.0]])).tolist()
    [[3.0, 0.0]]
    """
    d, width = critics.outer.shape

    def block(x):
        on = jnp.maximum(product(critics.positions.reshape(d * width, d), x), 0).reshape(d, width, -1)
        return jnp.sum(critics.outer[:, :, None] * on, axis=1)

    return map_blocks(block, once(points.T), block_columns(critics.outer.size)).T


def critic_loss(critics: Critics, values: Float[Array, " d"], samples: Samples) -> tuple[Float[Array, ""], Points]:
    """Return SD^2 = sum_i D_i^2 and its gradient in the scores at the samples, for fixed critics.

    At the best critics it is the gradient of the supremum, by the envelope theorem.

    Args:
        critics: d critics of k neurons.
        values: the D_i of the critics, (d,).
        samples: n samples.

    Returns:
        SD^2, a scalar, and its gradient in the scores, (n, d).

    >>> critics, samples = Critics(jnp.ones((2, 1)), jnp.eye(2)[:, None]), Samples(jnp.array([[3.0, 4.0]]))
    >>> value, slopes = critic_loss(critics, jnp.array([1.0, 0.5]), samples)
    >>> float(value), slopes.tolist()
    (1.25, [[6.0, 4.0]])
    """
    return jnp.sum(values**2), 2 * samples.weights[:, None] * values[None] * responses(critics, samples.points)


@eqx.filter_jit
def by_critics(
    key: Key[Array, ""], space: Space, samples: Samples, scores: Points, width: int, steps: int, rule: str = "exact"
) -> Float[Array, ""]:
    """Return SD = (sum_i D_i^2)^(1/2) with critics that are drawn and then improved by `ascend`.

    Args:
        key: the random key of the critics.
        space: a sphere or a Euclidean space.
        samples: n samples.
        scores: the scores grad log p at the samples, as `score` returns them, (n, d).
        width: the number of neurons of each critic.
        steps: the number of steps of `ascend`.
        rule: the rule of `normalised`, "exact" or "program".

    Returns:
        SD, a scalar.

    >>> from dualebm.spaces import Sphere
    >>> samples = Samples(Sphere(3).sample_base(jax.random.key(0), 100, jnp.float32))
    >>> bool(by_critics(jax.random.key(1), Sphere(3), samples, jnp.zeros((100, 3)), 8, 25) < 1)
    True
    """
    critics = draw_critics(key, space.dimension, width, samples.points.dtype)
    _, values = ascend(critics, space, samples, scores, steps, rule)
    return jnp.sqrt(jnp.sum(values**2))


def network_discrepancy(
    key: Key[Array, ""], space: Space, energy: Energy, samples: Samples, *, width: int = 64, steps: int = 101, rule: str = "exact"
) -> Float[Array, ""]:
    """Return SD, the F1 Stein discrepancy of samples from a model, by critics that `ascend` improves.

    Args:
        key: the random key of the critics.
        space: a sphere or a Euclidean space.
        energy: the energy of the model.
        samples: n samples.
        width: the number of neurons of each critic.
        steps: the number of steps of the ascent.
        rule: the rule of `normalised`, "exact" or "program".

    Returns:
        SD, a scalar. The critics are not the best of the ball, so that it is below the supremum.

    Raises:
        ValueError: for a periodic space, samples off the space, a width or steps below 1, and a rule that does not exist.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> points = Sphere(3).sample_base(jax.random.key(0), 100, jnp.float32)
    >>> zero = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> bool(network_discrepancy(jax.random.key(1), Sphere(3), zero, Samples(points), width=8) < 1)
    True
    """
    check_space(space)
    check_samples("samples", samples, space, "V")
    checks.count("width", width)
    checks.count("steps", steps)
    checks.choice("rule", rule, NORMALISATIONS)
    return by_critics(key, space, samples, score(energy, space, samples.points), width, steps, rule)
