"""Score matching as a flow of the neurons alone: Algorithm 1 with restarts at every instant (arXiv 2107.05134, Section 4
and Appendix G).

    transport   theta_j <- theta_j - h_theta sigma_j grad V(theta_j)
    reaction    w_j <- w_j exp(-h_w sigma_j V(theta_j)), V at the old theta_j
    budget      w <- w radius / max(mean w, radius)

with f = (1/m) sum_j sigma_j w_j phi(., theta_j) at temperature 1, and V(theta) = E_data[<grad phi, grad f> - Lap phi -
<grad phi, grad log tau>]. V is the derivative in gamma of the loss L(gamma) = E_data[|grad f|^2 / 2 - Lap f - <grad f,
grad log tau>], with gradients and Laplacian along the space. There are no particles. When Algorithm 1 restarts all
particles at the data in every iteration, its witness is F = -h_x V + O(h_x^2), so that its neuron steps are h_x times
the steps of this flow.

The Laplacian of a ReLU is a point mass on its kink. This flow uses the average that particles see which move for a time
h from the data (see `smoothed_relu`).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc, ndtr
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.blocks import block_columns, map_blocks, once, product, sum_blocks
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow, Sums, from_atoms
from dualebm.features import Feature, ReLU, Ridge, ScaledBump
from dualebm.flows import wfr
from dualebm.geometry import Space
from dualebm.measures import Atoms, Samples, coefficients, log_total_variation
from dualebm.methods.base import Divergence, Info, Method
from dualebm.rates import NonNegative, Positive, Scalar
from dualebm.settings import Count


class ScoreMatchingRates(NamedTuple):
    """The scalars of `ScoreMatching`.

    Args:
        transport_step: h_theta >= 0, the step of the neurons' positions.
        reaction_step: h_w >= 0, the step of the logarithms of the neurons' weights.
        radius: the largest total variation of the neurons, > 0.
    """

    transport_step: NonNegative
    reaction_step: NonNegative
    radius: Positive = 10.0


class ScoreMatchingState(NamedTuple):
    """The state of `ScoreMatching`.

    Args:
        atoms: the m neurons.
        step: the number of iterations done.
    """

    atoms: Atoms
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ScoreMatching(Method):
    """The flow of the score matching loss over the ball.

    Args:
        space: the space of the data.
        feature: phi, a smooth feature or a ReLU. The kink of a ReLU of power 1 or 2 is smoothed.
        neurons: the number m of neurons.
        smoothing: h > 0, the time over which the Laplacian of such a ReLU is averaged. None for the space's
            `default_particle_step`, and for all other features.
        signs: the signs sigma_j: "half" of each sign, "random", or "all_negative".
        first_weights: the weights w_j at the start, in the unit `weight_unit`: all "one", or "uniform" in [0, 1).
        weight_unit: the unit of the weights at the start: "one" or the "radius".
        weight_update: "multiplicative", or "additive", which cuts weights at zero and counts the cuts.
        budget: whether to keep the total variation within the radius.

    Raises:
        ValueError: a setting is not allowed, or `smoothing` is given for a feature that needs none. The message names
            the setting, its value and what is allowed.

    >>> from dualebm.spaces import Sphere; from dualebm.training.simulate import start, step
    >>> method, data = ScoreMatching(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> int(state.step), method.energy(state, method.rates, data)(data.points).shape
    (1, (3,))
    """

    space: Space
    feature: Feature = ReLU()
    neurons: Count = 64
    smoothing: settings.Positive | None = None
    signs: wfr.Signs = "half"
    first_weights: wfr.FirstWeights = "one"
    weight_unit: wfr.WeightUnit = "one"
    weight_update: wfr.WeightUpdate = "multiplicative"
    budget: bool = True

    def __post_init__(self):
        settings.check(self)
        if self.smoothing is not None and not _kinked(self.feature):
            raise ValueError(f"smoothing is {self.smoothing} and feature is {self.feature}, which is smooth; it must be None")

    @property
    def rates(self) -> ScoreMatchingRates:
        """The default rates: 0.024, the neuron step 1.2 of the authors' program for arXiv 2107.05134, run with
        restart probability 1, times its particle step 0.02."""
        return ScoreMatchingRates(0.024, 0.024)

    def check(self, rates: ScoreMatchingRates, data: Samples) -> None:
        """Check the rates and the data, and that the feature goes with the space."""
        super().check(rates, data)
        self.feature.parameter_space(self.space)

    def init(self, key: Key[Array, ""], rates: ScoreMatchingRates, data: Samples) -> ScoreMatchingState:
        """Return the neurons that `Dual` starts with under the same key."""
        check_key(key)
        position_key, sign_key, weight_key, _ = jax.random.split(key, 4)
        keys, unit = (position_key, sign_key, weight_key), 1 if self.weight_unit == "one" else rates.radius
        atoms = wfr.population(keys, self.feature, self.space, self.neurons, self.signs, self.first_weights, unit, data)
        return ScoreMatchingState(atoms, jnp.int32(0))

    def step(
        self, key: Key[Array, ""], state: ScoreMatchingState, rates: ScoreMatchingRates, data: Samples
    ) -> tuple[ScoreMatchingState, Info]:
        """Do one iteration. Nothing is drawn."""
        del key
        width = self.space.default_particle_step if self.smoothing is None else self.smoothing
        witness = jax.tree.map(jnp.negative, derivative(self.feature, self.space, state.atoms, data, width))
        radius, parameters = rates.radius if self.budget else None, self.feature.parameter_space(self.space)
        atoms, died = wfr.update(
            state.atoms, witness, rates.transport_step, rates.reaction_step, radius, parameters, self.weight_update
        )
        clipped = died.astype(data.points.dtype) if self.weight_update == "additive" else None
        return ScoreMatchingState(atoms, state.step + 1), Info(clipped=clipped)

    def energy(self, state: ScoreMatchingState, rates: ScoreMatchingRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j sigma_j w_j phi(., theta_j)."""
        del rates, data
        return from_atoms(self.feature, state.atoms)

    def diverged(self, state: ScoreMatchingState) -> Int[Array, ""]:
        """Return `NO_WEIGHT` where the total variation is 0."""
        dead = jnp.isneginf(log_total_variation(state.atoms))
        return jnp.where(dead, Divergence.NO_WEIGHT, Divergence.NONE).astype(jnp.int32)

    def atoms(self, state: ScoreMatchingState) -> Atoms:
        """Return the neurons."""
        return state.atoms


# -- V and its gradient --------------------------------------------------------------------------------


def _kinked(feature: Feature) -> bool:
    """Return whether a feature needs smoothing: whether its slope or its curvature jumps.

    The gradient of V contains the derivative of the curvature.
    """
    return isinstance(feature, ReLU) and feature.power in (1, 2)


def smoothed_relu(t: Float[Array, "*shape"], variance: Float[Array, "*#shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return the slope and the curvature of max(t, 0), smoothed by a Gaussian in t whose variance s is uniform on (0, v).

    The curvature is k(t) = (1/v) int_0^v N(t; 0, s) ds = (sqrt(2 v / pi) exp(-t^2 / 2v) - |t| erfc(|t| / sqrt(2v))) /
    v. The slope is its integral Phi(t / sqrt v) + t k(t) / 2. A particle that diffuses for a time h from the data has v
    = 2 h |a|^2, with a the part of theta along the space.

    Args:
        t: the arguments <theta_j, x_i>, of any shape.
        variance: v > 0, of a shape that broadcasts to that of t.

    Returns:
        The slope and the curvature, each of the shape of t.

    >>> slope, curvature = smoothed_relu(jnp.array([0.0, 9.0]), jnp.ones(2))
    >>> slope.tolist(), [round(c, 4) for c in curvature.tolist()]
    ([0.5, 1.0], [0.7979, 0.0])
    """
    root = jnp.sqrt(variance)
    scaled = jnp.abs(t) / (math.sqrt(2) * root)
    curvature = (math.sqrt(2 / math.pi) * root * jnp.exp(-(scaled**2)) - jnp.abs(t) * erfc(scaled)) / variance
    return ndtr(t / root) + 0.5 * t * curvature, curvature


def operator(feature: Feature, space: Space, theta: Float[Array, "m p"], x: Float[Array, "B d"], force: Float[Array, "B d"], width: Scalar):
    """Return <grad phi, force> - Lap phi along the space, for all pairs of points and neurons.

    Args:
        feature: phi. The kink of a ReLU of power 1 or 2 is smoothed.
        space: the space of the points.
        theta: the positions theta_j of the neurons, (m, p).
        x: points of the space, (B, d).
        force: tangent vectors at the points, (B, d).
        width: the time h of the smoothing. Only ReLUs of power 1 or 2 use it.

    Returns:
        The values for point i and neuron j, (B, m).

    >>> from dualebm.features import Softplus; from dualebm.spaces import Euclidean
    >>> operator(Softplus(), Euclidean(1), jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 2.0), 0.0).tolist()
    [[0.75]]
    """
    d = space.dimension
    if isinstance(feature, Ridge):
        along = theta[:, :d]
        inner = product(x, along.T)
        t = inner + theta[None, :, -1] if feature.bias else inner
        square = space.tangential_square(inner, jnp.sum(along**2, axis=1)[None])  # |grad t|^2
        if _kinked(feature):
            slope, curvature = smoothed_relu(t, 2 * width * jnp.maximum(square, jnp.finfo(t.dtype).eps))
            if feature == ReLU(2, feature.bias):  # the curvature of max(t, 0)^2 is twice the slope of max(t, 0)
                slope, curvature = feature.slope(t), 2 * slope
        else:
            slope, curvature = feature.slope(t), feature.curvature(t)
        laplacian = space.ridge_laplacian(inner, square, slope, curvature)
        return slope * product(force, along.T) - laplacian

    if isinstance(feature, ScaledBump):
        return feature.generator(theta, x.T, force.T)

    def one(x, force, theta):
        phi = lambda x: feature(x[None], theta[None])[0, 0]  # noqa: E731
        gradient = jax.grad(phi)(x)
        laplacian = space.laplacian(x, gradient, jax.hessian(phi)(x))
        return product(gradient, force) - laplacian

    return jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(x, force, theta)


def derivative(feature: Feature, space: Space, atoms: Atoms, data: Samples, width: Scalar, self_interaction: float = 1.0) -> Sums:
    """Return V(theta_j) = E_data[<grad phi, grad f> - Lap phi - <grad phi, grad log tau>] and its gradient in theta_j,
    with f held fixed.

    The energy is f = (1/m) sum_j sigma_j w_j phi(., theta_j), and phi in V stands for phi(., theta_j).

    Args:
        feature: the feature phi.
        space: the space of the data, with the base measure tau.
        atoms: the m neurons, with positions theta_j, weights w_j and signs sigma_j.
        data: the data, with points (n, d).
        width: the time h > 0 of the smoothing of a ReLU of power 1 or 2 (see `smoothed_relu`). Other features do not use it.
        self_interaction: a factor of grad f. With 1/2, (1/m) sum_j sigma_j w_j V(theta_j) is the loss.

    Returns:
        V at the positions of the neurons, (m,), and its gradient, (m, p).

    >>> from dualebm.spaces import Euclidean
    >>> from dualebm.features import Softplus
    >>> atoms = Atoms(jnp.array([[1.0]]), jnp.array([-jnp.inf]), jnp.ones(1))  # f = 0, so that V = -Lap phi + <grad phi, x>
    >>> round(float(derivative(Softplus(), Euclidean(1), atoms, Samples(jnp.ones((1, 1))), 0.0)[0][0]), 4)
    0.5344
    """
    energy = from_atoms(feature, atoms)
    columns, rows = once(data.points.T), block_columns(atoms.positions.shape[0])

    def force(x):
        along = self_interaction * energy.locate(x).gradient - space.grad_log_base(x.T).T
        return space.tangent(x, along, axis=0)

    forces = map_blocks(force, columns, rows)

    def block(x, force, weights):
        def values(theta):
            return product(weights, operator(feature, space, theta, x.T, force.T, width))

        value, pull_back = jax.vjp(values, atoms.positions)
        return value, pull_back(jnp.ones_like(value))[0]

    return sum_blocks(block, (columns, forces, data.weights), rows)


def loss(feature: Feature, space: Space, atoms: Atoms, data: Samples, width: Scalar) -> Float[Array, ""]:
    """Return the score matching loss L = E_data[|grad f|^2 / 2 - Lap f - <grad f, grad log tau>] of the model exp(-f) tau / Z.

    The energy is f(x) = (1/m) sum_j sigma_j w_j phi(x, theta_j). Gradients and the Laplacian are along the space.

    Args:
        feature: the feature phi.
        space: the space of the data, with the base measure tau.
        atoms: the m neurons, with positions theta_j, weights w_j and signs sigma_j.
        data: the data, with points (n, d).
        width: the time h > 0 of the smoothing of a ReLU of power 1 or 2, whose slope or curvature jumps at the kink. Both are
            averaged over the displacements, of variance 2 s in each direction, of particles that diffuse from the data
            for times s uniform on (0, h) (see `smoothed_relu`). Other features do not use it.

    Returns:
        The loss, a scalar.

    >>> from dualebm.features import Softplus; from dualebm.spaces import Euclidean
    >>> atoms = Atoms(jnp.ones((1, 1)), jnp.zeros(1), jnp.ones(1))  # f(x) = softplus(x), and grad log tau = -x
    >>> float(loss(Softplus(), Euclidean(1), atoms, Samples(jnp.zeros((1, 1))), 0.0))
    -0.125
    """
    return jnp.mean(coefficients(atoms) * derivative(feature, space, atoms, data, width, 0.5)[0])
