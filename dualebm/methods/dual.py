"""Algorithm 1 of arXiv 2107.05134: neurons and particles, evolving together, solve the dual of maximum likelihood.

    restart     X_i <- a data point, with probability p_R                                       (step 1)
    Langevin    X_i <- X_i - h_x (grad f - grad log tau) + sqrt(2 h_x) xi_i                     (step 2)
    transport   theta_j <- theta_j + h_theta sigma_j grad F(theta_j)                            (step 3)
    reaction    w_j <- w_j exp(h_w sigma_j F(theta_j)), F at the old theta_j                    (step 4)
    budget      w <- w radius / max(mean w, radius)                                             (step 5)

with f = (1/m) sum_j sigma_j w_j phi(., theta_j) and F = E_particles phi - E_data phi, at temperature 1.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import checks
from dualebm.energy import Shallow, from_atoms, witness
from dualebm.features import Feature, ReLU
from dualebm.flows import langevin, wfr
from dualebm.measures import Atoms, Samples, log_total_variation
from dualebm.spaces import Space, Sphere, Torus

Scalar = Float[Array, ""] | float


class DualRates(NamedTuple):
    """The scalars of Algorithm 1 in the core convention: temperature 1, total variation at most `radius`.

    particle_step h_x > 0; transport_step h_theta >= 0 (0: lazy features); reaction_step h_w >= 0; restart_probability p_R in [0, 1];
    radius > 0, the radius of the ball times the inverse temperature. For the steps that fit a space see `Dual.rates`.
    """

    particle_step: Scalar
    transport_step: Scalar
    reaction_step: Scalar
    restart_probability: Scalar = 0.0
    radius: Scalar = 10.0


class DualState(NamedTuple):
    """particles (N, d); atoms (m); step, the iterations done; acceptance of the particles' last move; clipped, the weights that an
    additive update has cut to zero so far."""

    particles: Float[Array, "N d"]
    atoms: Atoms
    step: Int[Array, ""]
    acceptance: Float[Array, ""]
    clipped: Int[Array, ""]


CHOICES = {
    "integrator": tuple(langevin.TRANSITIONS),
    "witness_particles": ("moved", "current"),
    "signs": ("half", "random", "all_negative"),
    "weights": ("one", "uniform"),
    "weight_unit": ("one", "radius"),
    "weight_update": ("multiplicative", "additive"),
}


@dataclasses.dataclass(frozen=True)
class Dual:
    """Algorithm 1 with every choice of the text and of the authors' program; the defaults are the best found.

    Args:
        space: where the particles live.
        feature: phi; the atoms live in `feature.parameter_space(space)`.
        neurons: m.
        particles: N drawn from the data at the start; None for two copies of the data, [data, data].
        integrator: of the particles: "mala", "geodesic" or "projected".
        antithetic: particles i and i + N/2 share their noise, with opposite signs (N even).
        witness_particles: F is built from the particles after their "moved", or as they were "current" when the step began, before its
            restart.
        signs: sigma "half" and half, "random", or "all_negative" (which knows that the teacher is negative).
        weights: w at the start, "one" or "uniform" in [0, 1), in units of "one" (the program) or of the "radius" (the text).
        weight_unit: see `weights`.
        weight_update: "multiplicative" (Algorithm 1) or "additive" (the program of the primal figures), clipped at zero and counted.
        budget: keep the total variation within the radius (step 5).
        restart_every: all particles to the data in iterations that are multiples of this (the program); None for never.
        restart_until: no such restart after this iteration; None for no end.

    Raises ValueError for a choice that does not exist, with the nearest that does.

    >>> method = Dual(Sphere(3), neurons=8)
    >>> data = Samples(Sphere(3).sample_base(jax.random.key(0), 100, jnp.float32))
    >>> method.check(method.rates, data)
    >>> state = method.init(jax.random.key(1), method.rates, data)
    >>> state = method.step(jax.random.key(2), state, method.rates, data)
    >>> state.particles.shape, int(state.step), method.energy(state, method.rates, data)(data.points).shape
    ((200, 3), 1, (100,))
    """

    space: Space
    feature: Feature = ReLU()
    neurons: int = 64
    particles: int | None = None
    integrator: str = "mala"
    antithetic: bool = True
    witness_particles: str = "moved"
    signs: str = "half"
    weights: str = "one"
    weight_unit: str = "one"
    weight_update: str = "multiplicative"
    budget: bool = True
    restart_every: int | None = None
    restart_until: int | None = None

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            checks.choice(name, getattr(self, name), allowed)
        checks.count("neurons", self.neurons)
        for name in ("particles", "restart_every", "restart_until"):
            if getattr(self, name) is not None:
                checks.count(name, getattr(self, name))
        if self.restart_until is not None and self.restart_every is None:
            raise ValueError(f"restart_until is {self.restart_until} and restart_every is None; give both or neither")
        if self.antithetic and self.particles is not None and self.particles % 2:
            raise ValueError(
                f"particles is {self.particles}; it must be even with antithetic noise (or antithetic=False)"
            )

    @property
    def rates(self) -> DualRates:
        """The default rates, to be used with `annealing`: neuron steps near the edge of their stability, in units of the space.

        In d dimensions a move of the particles is accepted while h_x d is of order 1, and E (<theta, x>)_+^2 = 1 / 2d on the sphere
        bounds h_theta / d: particle_step 0.6 / d and neuron steps 0.4 d, 0.04 and 6 on S^14. A torus is a circle of its period.
        """
        scale = (self.space.period / (2 * math.pi)) ** 2 if isinstance(self.space, Torus) else 1.0
        d = self.space.dimension
        return DualRates(0.6 / d * scale, 0.4 * d * scale, 0.4 * d)

    def check(self, rates: DualRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        checks.samples("data", data, self.space)
        self.feature.parameter_space(self.space)
        checks.number("particle_step", rates.particle_step, positive=True)
        checks.number("transport_step", rates.transport_step)
        checks.number("reaction_step", rates.reaction_step)
        checks.number("restart_probability", rates.restart_probability, largest=1)
        checks.number("radius", rates.radius, positive=True)
        longest = math.pi**2 / (2 * self.space.dimension)
        if isinstance(self.space, Sphere) and rates.particle_step > longest:
            raise ValueError(
                f"particle_step is {rates.particle_step}; on {self.space} it must be at most {longest:.6g}: beyond it the noise "
                "sqrt(2 h d) reaches pi, half way round the sphere"
            )
        if data.log_weights is not None and (self.particles is None or self.restart_every is not None):
            raise ValueError(
                "data.log_weights is given; copies of the data (particles=None, restart_every) need equal weights: None"
            )

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> DualState:
        """Particles at the data; positions uniform; signs and weights as chosen."""
        position_key, sign_key, weight_key, particle_key = jax.random.split(key, 4)
        points, m = data.points, self.neurons
        dtype = points.dtype
        positions = self.feature.parameter_space(self.space).sample_base(position_key, m, dtype)
        if self.signs == "random":
            signs = jax.random.rademacher(sign_key, (m,), dtype)
        else:
            signs = jnp.where(jnp.arange(m) < (m // 2 if self.signs == "half" else m), -1, 1).astype(dtype)
        weights = jnp.ones(m, dtype) if self.weights == "one" else jax.random.uniform(weight_key, (m,), dtype)
        unit = 1 if self.weight_unit == "one" else rates.radius
        atoms = Atoms(positions, jnp.log(weights) + jnp.log(jnp.asarray(unit, dtype)), signs)
        if self.particles is None:
            particles = langevin.copies(data, 2 * points.shape[0])
        else:
            particles = points[langevin.draw_indices(particle_key, data, (self.particles,))]
        return DualState(particles, atoms, jnp.int32(0), jnp.ones((), dtype), jnp.int32(0))

    def step(self, key: Key[Array, ""], state: DualState, rates: DualRates, data: Samples) -> DualState:
        """One iteration of Algorithm 1; the key belongs to this step alone."""
        restart_key, noise_key = jax.random.split(key)
        x = langevin.restart(restart_key, state.particles, data, rates.restart_probability)
        count, dimension = x.shape
        noise = langevin.draw_noise(noise_key, count, dimension, x.dtype, self.antithetic)
        return self.advance(noise, x, state, rates, data)

    def advance(
        self, noise: langevin.Noise, x: Float[Array, "N d"], state: DualState, rates: DualRates, data: Samples
    ) -> DualState:
        """The deterministic rest of a step, given its noise and the particles `x` after their random restarts."""
        if self.restart_every is not None:
            due = (state.step + 1) % self.restart_every == 0
            if self.restart_until is not None:
                due = due & (state.step + 1 <= self.restart_until)
            x = jnp.where(due, langevin.copies(data, x.shape[0]), x)
        energy = from_atoms(self.feature, state.atoms)
        x, acceptance = langevin.move(self.integrator, self.space, noise, x, energy, rates.particle_step)
        seen = x if self.witness_particles == "moved" else state.particles
        atoms, died = self.update_atoms(state.atoms, seen, rates, data)
        return DualState(x, atoms, state.step + 1, acceptance, state.clipped + died)

    def update_atoms(
        self, atoms: Atoms, particles: Float[Array, "N d"], rates: DualRates, data: Samples
    ) -> tuple[Atoms, Int[Array, ""]]:
        """Steps 3 to 5: transport, reaction with F at the old positions, budget; and how many weights were clipped."""
        values, gradient = witness(self.feature, atoms.positions, Samples(particles), data)
        parameter_space = self.feature.parameter_space(self.space)
        moved = wfr.transport(atoms, gradient, rates.transport_step, parameter_space)
        if self.weight_update == "multiplicative":
            moved, died = wfr.react_multiplicatively(moved, values, rates.reaction_step), jnp.int32(0)
        else:
            moved, died = wfr.react_additively(moved, values, rates.reaction_step)
        return (wfr.keep_budget(moved, rates.radius) if self.budget else moved), died

    def energy(self, state: DualState, rates: DualRates, data: Samples) -> Shallow:
        """f = (1/m) sum_j sigma_j w_j phi(., theta_j)."""
        del rates, data
        return from_atoms(self.feature, state.atoms)

    def diverged(self, state: DualState) -> Int[Array, ""]:
        """0, or the cause: 3 where the total variation is 0, 4 where one atom of several holds all the weight."""
        log_weights = state.atoms.log_weights
        total = log_total_variation(state.atoms) + math.log(self.neurons)
        alone = (jnp.max(log_weights) - total > math.log1p(-1e-6)) & (self.neurons > 1)
        return jnp.where(jnp.isneginf(total), 3, jnp.where(alone, 4, 0)).astype(jnp.int32)


def text(space: Space, **changes) -> Dual:
    """The preset of the paper's text: i.i.d. noise, random signs, weights uniform in [0, 1) times the radius, projected steps.

    N = 2n particles need `particles=2 * n`; the default is two copies of the data. `changes` replace fields of `Dual`.

    >>> text(Sphere(15), particles=200_000).antithetic
    False
    """
    preset = dict(integrator="projected", antithetic=False, signs="random", weights="uniform", weight_unit="radius")
    return Dual(space, **{**preset, **changes})


def program(space: Space, **changes) -> Dual:
    """The preset of the authors' program: antithetic noise, two copies of the data, all signs -1, weights 1, projected steps.

    `changes` replace fields of `Dual`; the rates of the archived runs are `program_rates`.

    >>> program(Sphere(15), restart_every=40).integrator
    'projected'
    """
    return Dual(space, **{**dict(integrator="projected", signs="all_negative"), **changes})


def annealing(warmup: int = 80, start: float = 0.5) -> Callable[[Scalar, DualRates], DualRates]:
    """The schedule that goes with the default rates: the budget grows to the radius, then the neuron steps fall.

    In iteration t the radius is times min(1, start + (1 - start) t / warmup) and the neuron steps are divided by
    1 + 4 max(t / warmup - 1, 0). While the budget is short of the teacher's, neurons gather where the witness is largest, as in a
    path of the lasso; the falling steps are meant to stop them from spreading into the sampling noise of the data.
    The warm-up must be long enough for the neurons to part: 80 on S^14, longer where d is small.
    Raises ValueError unless 0 < start <= 1 and warmup >= 1.

    >>> rates = annealing()(100, Dual(Sphere(15)).rates)
    >>> round(float(rates.radius), 6), round(float(rates.transport_step), 6)
    (10.0, 3.0)
    """
    checks.number("start", start, positive=True, largest=1)
    checks.count("warmup", warmup)

    def schedule(step, rates):
        radius = rates.radius * jnp.minimum(1, start + (1 - start) * step / warmup)
        slower = 1 + 4 * jnp.maximum(step / warmup - 1, 0)
        return rates._replace(
            radius=radius, transport_step=rates.transport_step / slower, reaction_step=rates.reaction_step / slower
        )

    return schedule


PRESETS = {"text": text, "program": program, "default": Dual}
"""The named presets; "default" is our own."""


def rates_from_paper(
    step_size: float, ratio: float, beta: float, restart_probability: float = 0.0, scale: str = "fast"
) -> DualRates:
    """Rates from the text's s, alpha, beta (unit ball): particle_step s_x / beta, neuron steps s_theta, radius beta.

    With scale="particle" s_x = s and s_theta = s alpha (Algorithm 1). With scale="fast" s is the step of the faster process (Section 5):
    s_x = s / max(alpha, 1), s_theta = s min(alpha, 1). Weights are beta times the text's: use `weight_unit="radius"`.
    Raises ValueError for s <= 0, alpha < 0, beta <= 0 or not finite.

    >>> rates_from_paper(0.2, 1.0, 10.0)
    DualRates(particle_step=0.02, transport_step=0.2, reaction_step=0.2, restart_probability=0.0, radius=10.0)
    """
    checks.number("step_size", step_size, positive=True)
    checks.number("ratio", ratio)
    checks.number("beta", beta, positive=True)
    checks.number("restart_probability", restart_probability, largest=1)
    checks.choice("scale", scale, ("fast", "particle"))
    shrink = max(ratio, 1) if scale == "fast" else 1
    particle, neuron = step_size / shrink, step_size * ratio / shrink
    return DualRates(particle / beta, neuron, neuron, restart_probability, beta)


def rates_from_program(hx: float, hz: float, hw: float, budget: float) -> DualRates:
    """Rates from the program's hx, hz, hw and budget, which is the core convention itself.

    Raises ValueError for hx <= 0, hz < 0, hw < 0, budget <= 0 or not finite.

    >>> rates_from_program(0.02, 0.2, 0.2, 10.0).transport_step
    0.2
    """
    checks.number("hx", hx, positive=True)
    checks.number("hz", hz)
    checks.number("hw", hw)
    checks.number("budget", budget, positive=True)
    return DualRates(hx, hz, hw, 0.0, budget)


def program_rates(restart_every: int | None = None, neuron_step: float = 0.2, hx: float = 0.02) -> DualRates:
    """The rates of the archived runs: hz = hw = neuron_step (1 + 0.1 / (k hx)) with k = `restart_every`, budget 10.

    `neuron_step` is 0.2 in 15 dimensions and 0.04 in 3.

    >>> round(program_rates(restart_every=1).transport_step, 6)
    1.2
    """
    scale = 1 if restart_every is None else 1 + 0.1 / (restart_every * hx)
    return rates_from_program(hx, neuron_step * scale, neuron_step * scale, 10.0)
