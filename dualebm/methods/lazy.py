"""The F2 ball: frozen features or their kernel, and the flow of a maximum mean discrepancy (arXiv 2107.05134, Section 2 and Appendix C).

Over the ball of radius R in L^2 the best charges under F = E_particles phi - E_data phi are h = R F / M, M = |F|_2 = MMD(particles, data),
so that the neurons need no flow of their own:

    restart     X_i <- a data point, with probability p_R
    Langevin    X_i <- X_i - h_x (grad f - grad log tau) + sqrt(2 h_x) xi_i
    charges     h_j <- R F(theta_j) / M      or the ascent   h <- h + s F, h <- h R / max(|h|_2, R)

`Lazy` has m features at fixed theta_j, f = (1/m) sum_j h_j phi(., theta_j) and M^2 = (1/m) sum_j F_j^2; `KernelFlow` has all of them,
f = R (E_particles k - E_data k) / M. Stationary states have particles ~ exp(-f) tau, the maximum likelihood over the ball. With the penalty
|h|^2 / (2 R) in place of the ball f = R (E_particles k - E_data k): the noisy MMD flow of Arbel et al. (2019) at temperature 1 / R.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import checks
from dualebm._internal.finite_volume import cells
from dualebm.energies.shallow import Shallow, feature_mean, feature_sums
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Feature, ReLU
from dualebm.flows import initialise, langevin
from dualebm.kernels import Embedding, Kernel, embedding, kernel_of, mean_kernel
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.rates import NonNegative, ParticleStep, Positive, Probability
from dualebm.spaces import Space

SMALLEST = 1e-12
"""By which the discrepancy is bounded below, where it divides."""

CHOICES = {
    "penalty": ("ball", "squared"),
    "integrator": tuple(langevin.TRANSITIONS),
    "noise": langevin.NOISES,
}


class LazyRates(NamedTuple):
    """particle_step h_x > 0; restart_probability p_R in [0, 1]; radius R > 0 of the ball (with the squared penalty 1 / its factor);
    ascent_step s >= 0, of the charges where they ascend."""

    particle_step: ParticleStep
    restart_probability: Probability = 0.0
    radius: Positive = 10.0
    ascent_step: NonNegative = 0.0


class LazyState(NamedTuple):
    """columns (d, N); positions (m, p), which stay; observed (m), E_data phi at them; charges (m), h; average (m), the mean of h over
    the iterations; step."""

    columns: Float[Array, "d N"]
    positions: Float[Array, "m p"]
    observed: Float[Array, " m"]
    charges: Float[Array, " m"]
    average: Float[Array, " m"]
    step: Int[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles, as rows."""
        return self.columns.T


def _check_choices(method, names):
    for name in names:
        checks.choice(name, getattr(method, name), CHOICES[name])
    initialise.check_particles(method.particles, method.noise)


@dataclasses.dataclass(frozen=True)
class Lazy(Method):
    """Fixed features, whose charges ascend to the best of the ball or are these at once.

    Args:
        space, feature: as for `Dual`.
        features: m, at theta_j that are drawn uniformly at the start and stay.
        particles: N drawn from the data at the start; None for two copies of the data.
        charges: "ascent", by steps of `ascent_step`, projected on the ball; or "best", h = R F / M, which follows the noise of F where the
            ball hardly binds, so that particles and charges oscillate unless the particles' steps are small.
        penalty: "ball", |h| <= R; or "squared", |h|^2 / (2 R), for which the best charges are R F.
        averaged: the energy is that of the mean charges over all iterations, not of the last.
        integrator, noise: of the particles, as for `Dual`.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Lazy(Sphere(3), features=50, charges="best"), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> round(float(jnp.sqrt(jnp.mean(state.charges**2))), 4)
    10.0
    """

    space: Space
    feature: Feature = ReLU()
    features: int = 512
    particles: int | None = None
    charges: str = "ascent"
    penalty: str = "ball"
    averaged: bool = False
    integrator: str = "mala"
    noise: str = "antithetic"

    def __post_init__(self):
        checks.choice("charges", self.charges, ("best", "ascent"))
        checks.count("features", self.features)
        _check_choices(self, CHOICES)
        if self.charges == "ascent" and self.penalty == "squared":
            raise ValueError("charges is 'ascent' and penalty is 'squared'; the ascent is on the ball")

    @property
    def rates(self) -> LazyRates:
        """The space's default particle step; ascent_step 10 where charges ascend."""
        return LazyRates(self.space.default_particle_step, ascent_step=10.0 if self.charges == "ascent" else 0.0)

    def check(self, rates: LazyRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        initialise.check_copies(self.particles, data)
        self.feature.parameter_space(self.space)
        if self.charges == "best" and rates.ascent_step != 0:
            raise ValueError(f"ascent_step is {rates.ascent_step} and charges is 'best', which does not ascend; it must be 0")

    def init(self, key: Key[Array, ""], rates: LazyRates, data: Samples) -> LazyState:
        """Features uniform, particles at the data, charges 0."""
        position_key, particle_key = jax.random.split(key)
        dtype = data.points.dtype
        positions = self.feature.parameter_space(self.space).sample_base(position_key, self.features, dtype)
        observed, zero = feature_mean(self.feature, positions, data)[0], jnp.zeros(self.features, dtype)
        x = initialise.start(particle_key, self.particles, data)
        return LazyState(x, positions, observed, zero, zero, jnp.int32(0))

    def step(self, key: Key[Array, ""], state: LazyState, rates: LazyRates, data: Samples) -> tuple[LazyState, Info]:
        """One iteration; the key belongs to this step alone."""
        restart_key, noise_key = jax.random.split(key)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = langevin.drawn(noise_key, x.shape[0], x.dtype, self.noise)
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
        """h = R F / M, R F, or an ascent step projected on the ball."""
        if self.penalty == "squared":
            return rates.radius * witness
        if self.charges == "best":
            return rates.radius * witness / jnp.maximum(discrepancy, SMALLEST)
        charges = charges + rates.ascent_step * witness
        return charges * rates.radius / jnp.maximum(jnp.sqrt(jnp.mean(charges**2)), rates.radius)

    def energy(self, state: LazyState, rates: LazyRates, data: Samples) -> Shallow:
        """f = (1/m) sum_j h_j phi(., theta_j)."""
        del rates, data
        return Shallow(self.feature, state.positions, state.average if self.averaged else state.charges)

    def samples(self, state: LazyState) -> Samples:
        """The particles, of equal weights."""
        return Samples(state.particles)


# -- All features at once --------------------------------------------------------------------------------


class KernelState(NamedTuple):
    """columns (d, N); observed, E_data k over both arguments; step; discrepancy, the MMD of particles and data; average (K), f
    at the points of the grid, the mean over the iterations (None where none is asked for)."""

    columns: Float[Array, "d N"]
    observed: Float[Array, ""]
    step: Int[Array, ""]
    discrepancy: Float[Array, ""]
    average: Float[Array, " K"] | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles, as rows."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class KernelFlow(Method):
    """The flow of particles under f = R (E_particles k - E_data k) / MMD: entropy-regularised MMD, N (N + n) kernels in an iteration.

    Args:
        space: where the particles live. kernel: k; None for that of ReLUs (`kernels.kernel_of`).
        particles: N drawn from the data at the start; None for two copies of the data.
        jitter: the standard deviation of a step of noise at the start, which the changed time needs: particles that lie on the data have an
            MMD of 0, and would stay.
        penalty: "ball", or "squared", f = R (E_particles k - E_data k).
        time: "natural", in which an iteration takes `particle_step`; or "changed" (the authors' programs), times the MMD over R.
        averaged: K, and the energy is the mean of f over all iterations, kept at K equally spaced points and linear between them; on
            Torus(1) and Sphere(2). None for the last f, under which the particles move in either case.
        integrator, noise: of the particles, as for `Dual`.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = KernelFlow(Sphere(3)), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    kernel: Kernel | None = None
    particles: int | None = None
    jitter: float = 0.0
    penalty: str = "ball"
    time: str = "natural"
    averaged: int | None = None
    integrator: str = "mala"
    noise: str = "antithetic"

    def __post_init__(self):
        checks.choice("time", self.time, ("natural", "changed"))
        if self.averaged is not None:
            checks.count("averaged", self.averaged, 4)
            if self.space.circumference is None:
                raise ValueError(
                    f"averaged is {self.averaged} and space is {self.space}; a grid is allowed on Torus(1) and Sphere(2) "
                    "(elsewhere Lazy(averaged=True) averages on random features)"
                )
        checks.number("jitter", self.jitter)
        _check_choices(self, CHOICES)
        if self.time == "changed" and self.penalty == "squared":
            raise ValueError("time is 'changed' and penalty is 'squared'; the squared flow has its natural time alone")
        if self.time == "changed" and self.jitter == 0:
            raise ValueError("jitter is 0 and time is 'changed'; particles on the data would stay: give a positive one, such as 0.1")

    @property
    def rates(self) -> LazyRates:
        """The space's default particle step."""
        return LazyRates(self.space.default_particle_step)

    def check(self, rates: LazyRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        initialise.check_copies(self.particles, data)
        if rates.ascent_step != 0:
            raise ValueError(f"ascent_step is {rates.ascent_step}; a kernel has no charges that ascend: it must be 0")

    def init(self, key: Key[Array, ""], rates: LazyRates, data: Samples) -> KernelState:
        """Particles at the data, jittered."""
        particle_key, noise_key = jax.random.split(key)
        x = initialise.start(particle_key, self.particles, data)
        if self.jitter:
            noise = self.space.tangent(x, self.jitter * jax.random.normal(noise_key, x.shape, x.dtype), axis=0)
            x = self.space.exp(x, noise, axis=0)
        kernel, dtype = self._kernel, x.dtype
        observed = mean_kernel(kernel, data, data)
        average = None if self.averaged is None else jnp.zeros(self.averaged, dtype)
        return KernelState(x, observed, jnp.int32(0), self._discrepancy(x, observed, data), average)

    @property
    def _kernel(self) -> Kernel:
        return kernel_of(ReLU(), self.space) if self.kernel is None else self.kernel

    def _discrepancy(self, x, observed, data) -> Float[Array, ""]:
        """MMD(particles, data), from E_data k over both arguments."""
        particles = Samples(x.T)
        inner = mean_kernel(self._kernel, particles, particles) - 2 * mean_kernel(self._kernel, particles, data)
        return jnp.sqrt(jnp.maximum(inner + observed, 0))

    def step(self, key: Key[Array, ""], state: KernelState, rates: LazyRates, data: Samples) -> tuple[KernelState, Info]:
        """One iteration; the key belongs to this step alone."""
        restart_key, noise_key = jax.random.split(key)
        energy = self._last_energy(state, rates, data)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = langevin.drawn(noise_key, x.shape[0], x.dtype, self.noise)
        step = rates.particle_step * (state.discrepancy / rates.radius if self.time == "changed" else 1)
        x, acceptance, _ = langevin.move(self.integrator, self.space, draw, x, energy, step)
        discrepancy = self._discrepancy(x, state.observed, data)
        state, info = state._replace(columns=x, step=state.step + 1, discrepancy=discrepancy), Info(acceptance, discrepancy=discrepancy)
        if self.averaged is None or state.average is None:
            return state, info
        values = self._last_energy(state, rates, data)(jnp.asarray(cells(self.space, self.averaged).centres, x.dtype))
        return state._replace(average=state.average + (values - state.average) / state.step), info

    def energy(self, state: KernelState, rates: LazyRates, data: Samples) -> Embedding | Tabulated:
        """f, or its mean over the iterations."""
        if self.averaged is None or state.average is None:  # of a state of one that has it, `replace(method, averaged=None)` gives the last
            return self._last_energy(state, rates, data)
        return Tabulated(self.space, state.average)

    def _last_energy(self, state: KernelState, rates: LazyRates, data: Samples) -> Embedding:
        """f = R (E_particles k - E_data k) / MMD, or R times the difference."""
        rounding = jnp.sqrt(jnp.finfo(state.columns.dtype).eps * state.observed)  # of the MMD, the root of a difference
        scale = rates.radius / (jnp.maximum(state.discrepancy, rounding) if self.penalty == "ball" else 1)
        ours, theirs = embedding(self._kernel, Samples(state.particles)), embedding(self._kernel, data)
        points = jnp.concatenate([ours.points, theirs.points])
        return Embedding(self._kernel, points, scale * jnp.concatenate([ours.coefficients, -theirs.coefficients]))

    def samples(self, state: KernelState) -> Samples:
        """The particles, of equal weights."""
        return Samples(state.particles)
