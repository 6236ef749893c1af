"""The F2 ball: frozen features or their kernel, and the flow of a maximum mean discrepancy (arXiv 2107.05134, Section 2 and Appendix C).

With the witness F = E_particles phi - E_data phi, the best charges in the ball of radius R in L^2 are h = R F / M,
where M = |F|_2 is the maximum mean discrepancy (MMD) of particles and data. The neurons therefore need no flow of their
own:

    restart     X_i <- a data point, with probability p_R
    Langevin    X_i <- X_i - h_x (grad f - grad log tau) + sqrt(2 h_x) xi_i
    charges     h_j <- R F(theta_j) / M      or the ascent   h <- h + s F, h <- h R / max(|h|_2, R)

`Lazy` has m features at fixed theta_j, with f = (1/m) sum_j h_j phi(., theta_j) and M^2 = (1/m) sum_j F_j^2.
`KernelFlow` has all features at once, through their kernel k, with f = R (E_particles k - E_data k) / M. In a
stationary state the particles are samples of exp(-f) tau, which is the maximum likelihood over the ball. With the
penalty |h|^2 / (2 R) in place of the ball, f = R (E_particles k - E_data k): the noisy MMD flow of Arbel et al. (2019)
at temperature 1 / R.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.keys import check_key
from dualebm.energies.shallow import Shallow, feature_mean, feature_sums
from dualebm.features import Feature, ReLU
from dualebm.flows import initialise, langevin
from dualebm.flows.langevin import Integrator
from dualebm.flows.noise import NoiseKind, drawn
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.rates import NonNegative, ParticleStep, Positive, Probability
from dualebm.settings import Count

SMALLEST = 1e-12
"""The lower bound of a discrepancy that divides."""

Penalty = Literal["ball", "squared"]
"""How the function is bounded: |h|_2 <= R, or the penalty |h|^2 / (2 R)."""


class LazyRates(NamedTuple):
    """The scalars of `Lazy` and `KernelFlow`.

    Args:
        particle_step: h_x > 0, the time step of a Langevin move.
        restart_probability: p_R in [0, 1], for each particle in each iteration.
        radius: R > 0, the radius of the ball, or the inverse factor of the squared penalty.
        ascent_step: s >= 0, the step of charges that ascend. It is 0 for charges that do not.
    """

    particle_step: ParticleStep
    restart_probability: Probability = 0.0
    radius: Positive = 10.0
    ascent_step: NonNegative = 0.0


class LazyState(NamedTuple):
    """The state of `Lazy`.

    Args:
        columns: the N particles as the columns of an array, (d, N).
        positions: the positions theta_j of the features, which stay, (m, p).
        observed: E_data phi at the positions, (m,).
        charges: the charges h_j, (m,).
        average: the mean of the charges over the iterations, (m,).
        step: the number of iterations done.
    """

    columns: Float[Array, "d N"]
    positions: Float[Array, "m p"]
    observed: Float[Array, " m"]
    charges: Float[Array, " m"]
    average: Float[Array, " m"]
    step: Int[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class Lazy(Method):
    """Maximum likelihood over the F2 ball with m fixed features, whose charges ascend or are the best at once.

    Args:
        space: the space of the data and the particles.
        feature: phi. Its positions lie in `feature.parameter_space(space)`.
        features: the number m of features. Their positions are drawn at the start (`FeatureMap.draw`) and stay.
        particles: the number N of particles, which start at data points drawn at random. None starts them at two copies
            of the data.
        charges: "ascent", by steps of `ascent_step` projected on the ball; or "best", h = R F / M. The best charges
            follow the noise of F where the ball hardly binds. Particles and charges then oscillate unless the
            particles' steps are small.
        penalty: "ball", for |h|_2 <= R; or "squared", for the penalty |h|^2 / (2 R), whose best charges are R F.
        averaged: whether the energy takes the mean of the charges over all iterations instead of the last charges.
        integrator: the Langevin move of the particles: "mala", "geodesic" or "projected".
        noise: the Gaussian noise of the particles: "independent", "antithetic" (opposite for particles i and i + N/2)
            or "orthogonal" (see `flows.noise.drawn`). N must be even for the last two.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Lazy(Sphere(3), features=50, charges="best"), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> round(float(jnp.sqrt(jnp.mean(state.charges**2))), 4)
    10.0
    """

    space: Space
    feature: Feature = ReLU()
    features: Count = 512
    particles: Count | None = None
    charges: Literal["best", "ascent"] = "ascent"
    penalty: Penalty = "ball"
    averaged: bool = False
    integrator: Integrator = "mala"
    noise: NoiseKind = "antithetic"

    def __post_init__(self):
        settings.check(self)
        initialise.check_particles(self.particles, self.noise)
        if self.charges == "ascent" and self.penalty == "squared":
            raise ValueError("charges is 'ascent' and penalty is 'squared'; the ascent is on the ball")

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves."""
        return self.integrator == "mala"

    @property
    def rates(self) -> LazyRates:
        """The default rates: the space's default particle step, and ascent_step 10 where the charges ascend."""
        return LazyRates(self.space.default_particle_step, ascent_step=10.0 if self.charges == "ascent" else 0.0)

    def check(self, rates: LazyRates, data: Samples) -> None:
        """Check the rates and the data, which must have equal weights where particles are copies of them."""
        super().check(rates, data)
        initialise.check_copies("particles", self.particles, data)
        self.feature.parameter_space(self.space)
        if self.charges == "best" and rates.ascent_step != 0:
            raise ValueError(f"ascent_step is {rates.ascent_step} and charges is 'best', which does not ascend; it must be 0")

    def init(self, key: Key[Array, ""], rates: LazyRates, data: Samples) -> LazyState:
        """Return features at drawn positions (`FeatureMap.draw`) with charges 0, and particles at the data."""
        check_key(key)
        position_key, particle_key = jax.random.split(key)
        dtype = data.points.dtype
        positions = self.feature.draw(position_key, self.space, self.features, data)
        observed, zero = feature_mean(self.feature, positions, data)[0], jnp.zeros(self.features, dtype)
        x = initialise.start(particle_key, self.particles, data)
        return LazyState(x, positions, observed, zero, zero, jnp.int32(0))

    def step(self, key: Key[Array, ""], state: LazyState, rates: LazyRates, data: Samples) -> tuple[LazyState, Info]:
        """Do one iteration: the restarts, the moves and the charges."""
        check_key(key)
        restart_key, noise_key = jax.random.split(key)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = drawn(noise_key, x.shape[0], x.dtype, self.noise)
        energy = Shallow(self.feature, state.positions, state.charges)

        def sums(located):
            return feature_sums(self.feature, state.positions, located.points, products=located.products)[0]

        x, acceptance, total = langevin.move(self.integrator, self.space, draw, x, energy, rates.particle_step, observe=sums)
        witness = total / x.shape[1] - state.observed
        discrepancy = jnp.sqrt(jnp.mean(witness**2))
        charges = self.next_charges(state.charges, witness, discrepancy, rates)
        average = state.average + (charges - state.average) / (state.step + 1)
        state = state._replace(columns=x, charges=charges, average=average, step=state.step + 1)
        return state, Info(acceptance, discrepancy=discrepancy)

    def next_charges(self, charges, witness, discrepancy, rates: LazyRates) -> Float[Array, " m"]:
        """Return the charges after an iteration: R F / M, R F, or an ascent step projected on the ball.

        Args:
            charges: the charges h_j before, (m,).
            witness: F at the positions of the features, (m,).
            discrepancy: M = |F|_2, a scalar.
            rates: the rates of the iteration.

        Returns:
            The charges h_j, (m,).
        """
        if self.penalty == "squared":
            return rates.radius * witness
        if self.charges == "best":
            return rates.radius * witness / jnp.maximum(discrepancy, SMALLEST)
        charges = charges + rates.ascent_step * witness
        return charges * rates.radius / jnp.maximum(jnp.sqrt(jnp.mean(charges**2)), rates.radius)

    def energy(self, state: LazyState, rates: LazyRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j h_j phi(., theta_j), with the last charges or their mean."""
        del rates, data
        return Shallow(self.feature, state.positions, state.average if self.averaged else state.charges)

    def samples(self, state: LazyState) -> Samples:
        """Return the particles, with equal weights."""
        return Samples(state.particles)
