"""The dual scheme beyond one layer: a multilayer perceptron as energy, against persistent particles (arXiv 2107.05134, Section 6).

    restart     X_i <- a data point, with probability p_R
    Langevin    X_i <- X_i - h_x (grad U - grad log tau) + sqrt(2 h_x) xi_i
    parameters  p <- p - s (D(grad_p (E_data U - E_particles U)) + decay p),   D the direction of an optimiser

There is no ball: the decay of the weights takes its place. The ratio s / h_x is what alpha is to the shallow case.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import checks
from dualebm.columns import block_columns, sum_blocks
from dualebm.energy import Energy
from dualebm.flows import langevin
from dualebm.flows.descent import OPTIMISERS
from dualebm.measures import Samples, shares
from dualebm.spaces import Space

Scalar = Float[Array, ""] | float

ACTIVATIONS = {"softplus": jax.nn.softplus, "relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}


class Perceptron(Energy):
    """U(x) = A_L s(A_{L-1} ... s(A_1 x + b_1) ...) + b_L, of products of whole batches.

    >>> network = Perceptron.create(jax.random.key(0), 3, width=8, depth=2, activation="softplus", dtype=jnp.float32)
    >>> network(jnp.eye(3)).shape
    (3,)
    """

    weights: list[Float[Array, "_ _"]]
    biases: list[Float[Array, " _"]]
    activation: str = eqx.field(static=True)

    @classmethod
    def create(cls, key: Key[Array, ""], dimension: int, *, width: int, depth: int, activation: str, dtype) -> "Perceptron":
        """`depth` hidden layers of `width`: weights normal of variance 2 / fan in, those of the last layer 0, so that U = 0."""
        sizes = [dimension, *[width] * depth, 1]
        keys = jax.random.split(key, depth + 1)
        pairs = list(itertools.pairwise(sizes))
        weights = [math.sqrt(2 / a) * jax.random.normal(k, (a, b), dtype) for k, (a, b) in zip(keys, pairs, strict=True)]
        return cls([*weights[:-1], jnp.zeros_like(weights[-1])], [jnp.zeros(b, dtype) for _, b in pairs], activation)

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(max(a.shape[1] for a in self.weights))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        product = lambda x, a, b: jnp.matmul(x, a, precision=jax.lax.Precision.HIGHEST) + b[None]  # noqa: E731
        for a, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = ACTIVATIONS[self.activation](product(x, a, b))
        return product(x, self.weights[-1], self.biases[-1])[:, 0]


def mean_gradient(network: Perceptron, samples: Samples) -> Perceptron:
    """E_samples grad_p U, in the form of the network, streamed by blocks of points.

    >>> network = Perceptron.create(jax.random.key(0), 3, width=8, depth=1, activation="relu", dtype=jnp.float32)
    >>> mean_gradient(network, Samples(jnp.eye(3))).biases[-1].tolist()
    [1.0]
    """
    count = samples.points.shape[0]
    weights = jnp.full(count, 1 / count, samples.points.dtype) if samples.log_weights is None else shares(samples.log_weights)

    def block(x, weights):
        return jax.grad(lambda network: jnp.sum(weights * network(x.T)))(network)

    return sum_blocks(block, (samples.points.T, weights), network.width)


class DeepRates(NamedTuple):
    """particle_step h_x > 0; learning_rate s >= 0; weight_decay >= 0; restart_probability p_R in [0, 1]."""

    particle_step: Scalar
    learning_rate: Scalar = 1e-3
    weight_decay: Scalar = 0.0
    restart_probability: Scalar = 0.0


class DeepState(NamedTuple):
    """columns (d, N); network, the energy; optimiser, its state; step; acceptance."""

    columns: Float[Array, "d N"]
    network: Perceptron
    optimiser: Any
    step: Int[Array, ""]
    acceptance: Float[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles, as rows."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class Deep:
    """A perceptron trained by persistent particles.

    Args:
        space: where the particles live. width, depth: of the hidden layers, and their number. activation: of `ACTIVATIONS`.
        optimiser: of `flows.descent.OPTIMISERS`: "adam", "gradient" (plain), "momentum", "rms".
        particles, integrator, noise: as for `Dual`.
        particle_moves: moves of the particles in an iteration.

    Raises ValueError for a choice that does not exist.

    >>> from dualebm.spaces import Sphere
    >>> method = Deep(Sphere(3), width=8)
    >>> data = Samples(Sphere(3).sample_base(jax.random.key(0), 100, jnp.float32))
    >>> state = method.init(jax.random.key(1), method.rates, data)
    >>> state = method.step(jax.random.key(2), state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (100,)
    """

    space: Space
    width: int = 64
    depth: int = 2
    activation: str = "softplus"
    optimiser: str = "adam"
    particles: int | None = None
    integrator: str = "mala"
    noise: str = "antithetic"
    particle_moves: int = 1

    def __post_init__(self):
        choices = {
            "activation": tuple(ACTIVATIONS), "optimiser": tuple(OPTIMISERS), "integrator": tuple(langevin.TRANSITIONS),
            "noise": langevin.NOISES,
        }  # fmt: skip
        for name, allowed in choices.items():
            checks.choice(name, getattr(self, name), allowed)
        for name in ("width", "depth", "particle_moves"):
            checks.count(name, getattr(self, name))
        langevin.check_particles(self.particles, self.noise)

    @property
    def rates(self) -> DeepRates:
        """particle_step 0.6 / d, as for `Dual`; learning_rate 1e-3."""
        return DeepRates(0.6 / self.space.dimension)

    def check(self, rates: DeepRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        checks.samples("data", data, self.space)
        checks.rates(rates, self.space)
        langevin.check_copies(self.particles, data)

    def init(self, key: Key[Array, ""], rates: DeepRates, data: Samples) -> DeepState:
        """Particles at the data, U = 0."""
        del rates
        network_key, particle_key = jax.random.split(key)
        dtype = data.points.dtype
        network = Perceptron.create(
            network_key, self.space.dimension, width=self.width, depth=self.depth, activation=self.activation, dtype=dtype
        )
        x = langevin.start(particle_key, self.particles, data)
        return DeepState(x, network, OPTIMISERS[self.optimiser]().init(network), jnp.int32(0), jnp.ones((), dtype))

    def step(self, key: Key[Array, ""], state: DeepState, rates: DeepRates, data: Samples) -> DeepState:
        """One iteration; the key belongs to this step alone."""
        restart_key, noise_key = jax.random.split(key)
        x = langevin.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = langevin.drawn(noise_key, x.shape[0], x.dtype, self.noise)
        x, acceptance, _ = langevin.move(
            self.integrator, self.space, draw, x, state.network, rates.particle_step, steps=self.particle_moves
        )

        observed, model = mean_gradient(state.network, data), mean_gradient(state.network, Samples(x.T))
        gradient = jax.tree.map(jnp.subtract, observed, model)
        direction, optimiser = OPTIMISERS[self.optimiser]().update(gradient, state.optimiser)
        network = jax.tree.map(lambda p, d: p - rates.learning_rate * (d + rates.weight_decay * p), state.network, direction)
        return DeepState(x, network, optimiser, state.step + 1, acceptance)

    def energy(self, state: DeepState, rates: DeepRates, data: Samples) -> Perceptron:
        """U."""
        del rates, data
        return state.network

    def diverged(self, state: DeepState) -> Int[Array, ""]:
        """0: no cause of its own."""
        del state
        return jnp.int32(0)
