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

from dualebm._internal import checks, collectives
from dualebm.energies.base import Located
from dualebm.energies.shallow import Shallow, Sums, feature_mean, feature_sums, from_atoms
from dualebm.features import Feature, ReLU
from dualebm.flows import initialise, langevin, wfr
from dualebm.measures import Atoms, Samples, log_total_variation
from dualebm.methods.base import Divergence, Info, Method
from dualebm.rates import NonNegative, ParticleStep, Positive, Probability, Scalar
from dualebm.spaces import Space


class DualRates(NamedTuple):
    """The scalars of Algorithm 1 in the core convention: temperature 1, total variation at most `radius`.

    particle_step h_x > 0; transport_step h_theta >= 0 (0: lazy features); reaction_step h_w >= 0; restart_probability p_R in [0, 1];
    radius > 0, the radius of the ball times the inverse temperature. For the steps that fit a space see `Dual.rates`.
    """

    particle_step: ParticleStep
    transport_step: NonNegative
    reaction_step: NonNegative
    restart_probability: Probability = 0.0
    radius: Positive = 10.0


class Snapshot(NamedTuple):
    """Positions at which the mean of the feature over all data is known, and that mean: see `Dual.data_batch`."""

    positions: Float[Array, "m p"]
    mean: Sums


class DualState(NamedTuple):
    """The state of Algorithm 1.

    columns (d, N): the particles, as the columns of an array. atoms (m): the neurons. step: the iterations done. snapshot: where the data
    come in batches, else None.
    """

    columns: Float[Array, "d N"]
    atoms: Atoms
    step: Int[Array, ""]
    snapshot: Snapshot | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles, as rows."""
        return self.columns.T


CHOICES = {
    "integrator": tuple(langevin.TRANSITIONS),
    "noise": langevin.NOISES,
    "witness_particles": ("moved", "current"),
    "signs": wfr.SIGNS,
    "weights": wfr.WEIGHTS,
    "weight_unit": ("one", "radius"),
    "weight_update": wfr.UPDATES,
}


@dataclasses.dataclass(frozen=True)
class Dual(Method):
    """Algorithm 1 with every choice of the text and of the authors' program; the defaults are the best found.

    Args:
        space: where the particles live.
        feature: phi; the atoms live in `feature.parameter_space(space)`.
        neurons: m.
        particles: N drawn from the data at the start; None for two copies of the data, [data, data].
        integrator: of the particles: "mala", "geodesic" or "projected".
        noise: "independent"; "antithetic", particles i and i + N/2 have noise of opposite signs; or "orthogonal", moreover a quarter turn
            apart within the first half (`flows.langevin.drawn`). N must be even for the last two.
        witness_particles: F is built from the particles after their "moved", or as they were "current" when the step began, before its
            restart.
        signs: sigma "half" and half, "random", or "all_negative" (which knows that the teacher is negative).
        weights: w at the start, "one" or "uniform" in [0, 1), in units of "one" (the program) or of the "radius" (the text).
        weight_unit: see `weights`.
        weight_update: "multiplicative" (Algorithm 1) or "additive" (the program of the primal figures), clipped at zero and counted.
        budget: keep the total variation within the radius (step 5).
        restart_every: all particles to the data in iterations that are multiples of this (the program); None for never.
        restart_until: no such restart after this iteration; None for no end.
        particle_moves: moves of the particles in an iteration, under the same atoms.
        neuron_moves: updates of the atoms in an iteration, with the same particles.
        data_batch: data points that are drawn in each iteration for the data term of F, as a control variate: their mean of phi at the
            atoms less that at a snapshot of the atoms, plus the exact mean there, taken every `data_refresh` iterations; None for all data.
        block: pairs of particles that are moved at a time, a multiple of 256; None for what fits the machine. It changes only rounding.

    Raises ValueError for a choice that does not exist, with the nearest that does.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> state.particles.shape, int(state.step), method.energy(state, method.rates, data)(data.points).shape
    ((6, 3), 1, (3,))
    """

    space: Space
    feature: Feature = ReLU()
    neurons: int = 64
    particles: int | None = None
    integrator: str = "mala"
    noise: str = "antithetic"
    witness_particles: str = "moved"
    signs: str = "half"
    weights: str = "one"
    weight_unit: str = "one"
    weight_update: str = "multiplicative"
    budget: bool = True
    restart_every: int | None = None
    restart_until: int | None = None
    particle_moves: int = 1
    neuron_moves: int = 1
    data_batch: int | None = None
    data_refresh: int = 20
    block: int | None = None

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            checks.choice(name, getattr(self, name), allowed)
        for name in ("neurons", "particle_moves", "neuron_moves", "data_refresh"):
            checks.count(name, getattr(self, name))
        for name in ("restart_every", "restart_until", "data_batch", "block"):
            if getattr(self, name) is not None:
                checks.count(name, getattr(self, name))
        if self.restart_until is not None and self.restart_every is None:
            raise ValueError(f"restart_until is {self.restart_until} and restart_every is None; give both or neither")
        initialise.check_particles(self.particles, self.noise)
        if self.block is not None and self.block % langevin.NOISE_PAIRS:
            raise ValueError(f"block is {self.block}; it must be a multiple of {langevin.NOISE_PAIRS}, or None")

    @property
    def rates(self) -> DualRates:
        """The default rates, to be used with `annealing`: neuron steps near the edge of their stability, in units of the space.

        In d dimensions a move of the particles is accepted while h_x d is of order 1, and E (<theta, x>)_+^2 = 1 / 2d on the sphere
        bounds h_theta / d: particle_step 0.6 unit^2 / d, transport_step 0.4 d unit^2 and reaction_step 0.4 d, with the
        space's unit of length: 0.04 and 6 on S^14.
        """
        space = self.space
        return DualRates(space.default_particle_step, 0.4 * space.dimension * space.unit**2, 0.4 * space.dimension)

    def check(self, rates: DualRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        self.feature.parameter_space(self.space)
        if data.log_weights is not None and (self.particles is None or self.restart_every is not None):
            raise ValueError(
                "data.log_weights is given; copies of the data (particles=None, restart_every) need equal weights: None"
            )

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> DualState:
        """Particles at the data; positions uniform; signs and weights as chosen."""
        *atom_keys, particle_key = jax.random.split(key, 4)
        dtype, m = data.points.dtype, self.neurons
        unit = 1 if self.weight_unit == "one" else rates.radius
        parameters = self.feature.parameter_space(self.space)
        atoms = wfr.population(tuple(atom_keys), parameters, m, self.signs, self.weights, unit, dtype)
        x = initialise.start(particle_key, self.particles, data)
        snapshot = None
        if self.data_batch is not None:  # filled in the first step
            value = jnp.zeros(m, dtype)
            snapshot = Snapshot(jnp.zeros_like(atoms.positions), (value, jnp.zeros_like(atoms.positions)))
        return DualState(x, atoms, jnp.int32(0), snapshot)

    def paired(self, state: DualState) -> DualState:
        """True in place of the arrays whose last axis is the particles, i paired with i + N/2; False in place of the others."""
        return jax.tree.map(lambda _: False, state)._replace(columns=True)

    def step(
        self, key: Key[Array, ""], state: DualState, rates: DualRates, data: Samples
    ) -> tuple[DualState, Info]:
        """One iteration of Algorithm 1; the key belongs to this step alone.
        """
        restart_key, noise_key = jax.random.split(key)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = langevin.drawn(noise_key, x.shape[0], x.dtype, self.noise)
        batch = None
        if self.data_batch is not None:
            batch_key = jax.random.fold_in(key, 2)  # split(key) is 0 and 1
            index = initialise.draw_indices(batch_key, collectives.whole(data), (self.data_batch,))
            batch = Samples(collectives.pick(data.points, index))
        return self.advance(draw, x, state, rates, data, batch)

    def advance(
        self,
        draw: langevin.Draw,
        x: Float[Array, "d N"],
        state: DualState,
        rates: DualRates,
        data: Samples,
        batch: Samples | None = None,
        ) -> tuple[DualState, Info]:
        """The deterministic rest of a step, given its noise, the particles `x` after their random restarts, and its batch of data."""
        restarted = rates.restart_probability > 0
        if self.restart_every is not None:
            due = (state.step + 1) % self.restart_every == 0
            if self.restart_until is not None:
                due = due & (state.step + 1 <= self.restart_until)
            to_data = lambda: initialise.copies(data, x.shape[1])  # noqa: E731
            # Where devices share the particles it may gather the data, so only where it is due.
            x = jnp.where(due, to_data(), x) if collectives.split_axis() is None else jax.lax.cond(due, to_data, lambda: x)
            restarted = restarted | due
        atoms, snapshot = state.atoms, state.snapshot
        if snapshot is not None:
            at = atoms.positions
            snapshot = jax.lax.cond(
                state.step % self.data_refresh == 0,
                lambda: Snapshot(at, collectives.mean_over(feature_mean(self.feature, at, data))),
                lambda: snapshot,
            )
        energy = from_atoms(self.feature, atoms)
        moved, acceptance, model = self._move(draw, x, state.columns, restarted, energy, rates)
        died = jnp.int32(0)
        for i in range(self.neuron_moves):
            if i:
                seen = moved if self.witness_particles == "moved" else state.columns
                model = feature_mean(self.feature, atoms.positions, Samples(seen.T))
            observed = self._data_mean(atoms.positions, data, snapshot, batch)
            witness = jax.tree.map(jnp.subtract, model, observed)
            witness, acceptance = collectives.mean_over((witness, acceptance))
            atoms, cut = self.update_atoms(atoms, witness, rates)
            died = died + cut
        clipped = died.astype(x.dtype) if self.weight_update == "additive" else None
        return DualState(moved, atoms, state.step + 1, snapshot), Info(acceptance, clipped=clipped)

    def _move(self, draw, x, stored, restarted, energy, rates):
        """Step 2, and the mean of the feature over the particles that the neurons see, from the products that the moves have made."""

        def sums(located: Located):
            return feature_sums(self.feature, energy.positions, located.points, products=located.products)

        before = self.witness_particles == "current"
        x, acceptance, seen = langevin.move(
            self.integrator, self.space, draw, x, energy, rates.particle_step,
            steps=self.particle_moves, observe=sums, before=before, width=self.block,
        )  # fmt: skip
        mean = jax.tree.map(lambda total: total / x.shape[1], seen)
        if before:  # x has been seen as it was after its restart: right where there was none
            other = lambda: feature_mean(self.feature, energy.positions, Samples(stored.T))  # noqa: E731
            mean = jax.lax.cond(restarted, other, lambda: mean)
        return x, acceptance, mean

    def _data_mean(self, positions, data, snapshot, batch) -> Sums:
        """E_data phi at the positions, with a batch by the control variate (then over all devices)."""
        if snapshot is None:
            return feature_mean(self.feature, positions, data)
        here, there = (feature_mean(self.feature, at, batch) for at in (positions, snapshot.positions))
        return jax.tree.map(lambda known, new, old: known + (new - old), snapshot.mean, here, there)

    def update_atoms(self, atoms: Atoms, witness: Sums, rates: DualRates) -> tuple[Atoms, Int[Array, ""]]:
        """Steps 3 to 5: transport, reaction with F at the old positions, budget; and how many weights were clipped."""
        radius = rates.radius if self.budget else None
        parameters = self.feature.parameter_space(self.space)
        return wfr.update(atoms, witness, rates.transport_step, rates.reaction_step, radius, parameters, self.weight_update)

    def energy(self, state: DualState, rates: DualRates, data: Samples) -> Shallow:
        """f = (1/m) sum_j sigma_j w_j phi(., theta_j)."""
        del rates, data
        return from_atoms(self.feature, state.atoms)

    def diverged(self, state: DualState) -> Int[Array, ""]:
        """NO_WEIGHT where the total variation is 0, ONE_ATOM where one atom of several holds all the weight."""
        log_weights = state.atoms.log_weights
        total = log_total_variation(state.atoms) + math.log(self.neurons)
        alone = (jnp.max(log_weights) - total > math.log1p(-1e-6)) & (self.neurons > 1)
        code = jnp.where(alone, Divergence.ONE_ATOM, Divergence.NONE)
        return jnp.where(jnp.isneginf(total), Divergence.NO_WEIGHT, code).astype(jnp.int32)

    def samples(self, state: DualState) -> Samples:
        """The particles, of equal weights."""
        return Samples(state.particles)

    def atoms(self, state: DualState) -> Atoms:
        """The neurons."""
        return state.atoms


def annealing(warmup: int = 60, start: float = 0.7) -> Callable[[Scalar, DualRates], DualRates]:
    """The schedule that goes with the default rates: the budget grows to the radius, then the neuron steps fall.

    In iteration t the radius is times min(1, start + (1 - start) t / warmup) and the neuron steps are divided by
    1 + 4 max(t / warmup - 1, 0). While the budget is short of the teacher's, neurons gather where the witness is largest, as in a
    path of the lasso; the falling steps are meant to stop them from spreading into the sampling noise of the data.
    The warm-up must be long enough for the neurons to part: 60 on S^14, longer where d is small.
    Raises ValueError unless 0 < start <= 1 and warmup >= 1.

    >>> from dualebm.spaces import Sphere
    >>> rates = annealing()(100, Dual(Sphere(15)).rates)
    >>> round(float(rates.radius), 6), round(float(rates.transport_step), 6)
    (10.0, 1.636364)
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
