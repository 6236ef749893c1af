"""Stein discrepancies over F1: critics that are two-layer networks, their ascent and what they measure (arXiv 2104.07531)."""

from typing import Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import stein
from dualebm._internal import checks
from dualebm._internal.blocks import block_columns, map_blocks, once, product, sum_blocks
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.settings import Count, checked
from dualebm.stein import Points


class Critics(NamedTuple):
    """d critics h_i(x) = sum_j outer_ij relu(<positions_ij, x>), the components of a test function h. Each is a network of k neurons.

    Args:
        outer: the outer weights, (d, k).
        positions: the inner weights, (d, k, d).
    """

    outer: Float[Array, "d k"]
    positions: Float[Array, "d k d"]


Normalisation = Literal["exact", "program"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
"""The rules by which critics are scaled (see `normalised`). "exact" gives them norm 1. "program", the rule of the authors' program for
arXiv 2104.07531, gives them the fourth root of their norm."""


def normalised(critics: Critics, rule: Normalisation = "exact") -> Critics:
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
    check_key(key)
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
    shifted = stein.shifted_scores(space, samples.points, scores)
    arrays = (once(samples.points.T), once(shifted.T), samples.weights)
    return sum_blocks(lambda *columns: _each(critics, space, *columns), arrays, block_columns(critics.outer.size))


def critic_values(critics: Critics, slopes: Float[Array, "d k d"]) -> Float[Array, " d"]:
    """Return D_i = E_samples A (h_i e_i) of d critics.

    Args:
        critics: the critics.
        slopes: the result of `critic_slopes`, (d, k, d).

    Returns:
        The values D_i, (d,).

    >>> from dualebm.spaces import Euclidean; from dualebm.base_measures import Flat
    >>> critics = Critics(jnp.ones((2, 1)), jnp.ones((2, 1, 2)))
    >>> critic_values(critics, critic_slopes(critics, Euclidean(2, Flat()), Samples(jnp.eye(2)), jnp.zeros((2, 2)))).tolist()
    [1.0, 1.0]
    """
    return jnp.sum(critics.outer * jnp.sum(critics.positions * slopes, axis=2), axis=1)


def ascend(
    critics: Critics, space: Space, samples: Samples, scores: Points, steps: int, rule: Normalisation = "exact"
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
    """Return h_i(x) for each point x and critic i, streamed by blocks of points.

    Times the weights of the points it is the gradient of D_i in the component s_i of the scores.

    Args:
        critics: the d critics.
        points: the points, (n, d).

    Returns:
        The values, (n, d).

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
    key: Key[Array, ""], space: Space, samples: Samples, scores: Points, width: int, steps: int, rule: Normalisation = "exact"
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
    check_key(key)
    critics = draw_critics(key, space.dimension, width, samples.points.dtype)
    _, values = ascend(critics, space, samples, scores, steps, rule)
    return jnp.sqrt(jnp.sum(values**2))


@checked
def network_discrepancy(
    key: Key[Array, ""], space: Space, energy: Energy, samples: Samples, *, width: Count = 64, steps: Count = 101,
    rule: Normalisation = "exact",
) -> Float[Array, ""]:  # fmt: skip
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
    check_key(key)
    stein.check_space(space)
    stein.check_samples("samples", samples, space, "V")
    checks.choice("rule", rule, NORMALISATIONS)
    return by_critics(key, space, samples, stein.score(energy, space, samples.points), width, steps, rule)
