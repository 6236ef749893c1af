"""Algorithm 1 of arXiv 2107.05134: neurons and particles, evolving together, solve the dual of maximum likelihood.

    restart     X_i <- a data point, with probability p_R                                       (step 1)
    Langevin    X_i <- X_i - h_x (grad f - grad log tau) + sqrt(2 h_x) xi_i                     (step 2)
    transport   theta_j <- theta_j + h_theta sigma_j grad F(theta_j)                            (step 3)
    reaction    w_j <- w_j exp(h_w sigma_j F(theta_j)), F at the old theta_j                    (step 4)
    budget      w <- w radius / max(mean w, radius)                                             (step 5)

Here f = (1/m) sum_j sigma_j w_j phi(., theta_j) is the energy at temperature 1, and F = E_particles phi - E_data phi is
the witness, a function of theta.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal import checks, collectives
from dualebm._internal.keys import check_key
from dualebm.energies.base import Located
from dualebm.energies.shallow import Shallow, Sums, feature_mean, feature_sums, from_atoms
from dualebm.features import Feature, ReLU, Ridge
from dualebm.flows import initialise, langevin, wfr
from dualebm.flows.langevin import Integrator
from dualebm.flows.noise import NOISE_PAIRS, Draw, NoiseKind, drawn
from dualebm.geometry import Space
from dualebm.measures import Atoms, Samples, draw_indices, log_total_variation
from dualebm.methods.base import Divergence, Info, Method
from dualebm.rates import NonNegative, ParticleStep, Positive, Probability, Scalar
from dualebm.settings import Count


class DualRates(NamedTuple):
    """The scalars of Algorithm 1 at temperature 1. `Dual.rates` returns values that fit a space.

    Args:
        particle_step: h_x > 0, the time step of a Langevin move.
        transport_step: h_theta >= 0, the step of the neurons' positions. With 0 the positions stay.
        reaction_step: h_w >= 0, the step of the logarithms of the neurons' weights.
        restart_probability: p_R in [0, 1], for each particle in each iteration.
        radius: the largest total variation of the neurons, > 0. It is the radius of the paper's ball times its inverse
            temperature.
    """

    particle_step: ParticleStep
    transport_step: NonNegative
    reaction_step: NonNegative
    restart_probability: Probability = 0.0
    radius: Positive = 10.0


class Snapshot(NamedTuple):
    """The exact mean of the feature over all data at earlier positions of the neurons, the control variate of `Dual.data_batch`.

    Args:
        positions: the positions theta_j of the neurons at that time, (m, p).
        mean: E_data phi at these positions, (m,), and its gradient in theta_j, (m, p).
    """

    positions: Float[Array, "m p"]
    mean: Sums


class DualState(NamedTuple):
    """The state of Algorithm 1.

    Args:
        columns: the N particles as the columns of an array, (d, N).
        atoms: the m neurons.
        step: the number of iterations done.
        snapshot: the control variate where the data come in batches, else None.
    """

    columns: Float[Array, "d N"]
    atoms: Atoms
    step: Int[Array, ""]
    snapshot: Snapshot | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class Dual(Method):
    """Algorithm 1 of arXiv 2107.05134, with every choice of the paper's text and of the authors' program for it.

    The defaults are the best choices that are known.

    Args:
        space: the space of the data and the particles.
        feature: phi. The neurons live in `feature.parameter_space(space)`.
        neurons: the number m of neurons.
        particles: the number N of particles, which start at data points drawn at random. None starts them at two copies
            of the data, so that N = 2 n.
        integrator: the Langevin move of the particles: "mala", "geodesic" or "projected".
        noise: the Gaussian noise of the particles: "independent"; "antithetic", with opposite signs for particles i and
            i + N/2; or "orthogonal", which also turns the noise of half of the pairs by a quarter turn (see
            `flows.noise.drawn`). N must be even for the last two.
        witness_particles: the particles in the witness F: those that have "moved" in this iteration, or the "current"
            ones that the previous iteration left, before any restart.
        signs: the signs sigma_j: "half" of each sign, "random", or "all_negative" (which uses that the teacher is
            negative).
        first_weights: the weights w_j at the start, in the unit `weight_unit`: all "one", or "uniform" in [0, 1).
        weight_unit: the unit of the weights at the start: "one" (the program) or the "radius" (the text).
        weight_update: "multiplicative" (Algorithm 1), or "additive" (the authors' program for the primal figures), which cuts
            weights at zero and counts the cuts.
        budget: whether to keep the total variation within the radius (step 5).
        restart_every: move all particles to the data in every iteration whose number is a multiple of this (the
            program). None for never.
        restart_until: the last iteration in which `restart_every` acts. None for no end.
        particle_moves: the number of moves of each particle in an iteration, all under the same neurons.
        neuron_moves: the number of updates of the neurons in an iteration, all with the same particles.
        data_batch: the number of data points that are drawn in each iteration for the data term of F; None for all
            data. The exact mean of phi over all data is then taken at a snapshot of the neurons only, and the batch
            estimates the difference since.
        data_refresh: the number of iterations after which the snapshot of `data_batch` is renewed.
        block: the number of pairs of particles that are moved at a time, a multiple of 256. None for what fits the
            machine. It changes only rounding.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> state.particles.shape, int(state.step), method.energy(state, method.rates, data)(data.points).shape
    ((6, 3), 1, (3,))
    """

    space: Space
    feature: Feature = ReLU()
    neurons: Count = 64
    particles: Count | None = None
    integrator: Integrator = "mala"
    noise: NoiseKind = "antithetic"
    witness_particles: Literal["moved", "current"] = "moved"
    signs: wfr.Signs = "half"
    first_weights: wfr.FirstWeights = "one"
    weight_unit: wfr.WeightUnit = "one"
    weight_update: wfr.WeightUpdate = "multiplicative"
    budget: bool = True
    restart_every: Count | None = None
    restart_until: Count | None = None
    particle_moves: Count = 1
    neuron_moves: Count = 1
    data_batch: Count | None = None
    data_refresh: Count = 20
    block: Count | None = None

    def __post_init__(self):
        settings.check(self)
        if self.restart_until is not None and self.restart_every is None:
            raise ValueError(f"restart_until is {self.restart_until} and restart_every is None; give both or neither")
        initialise.check_particles(self.particles, self.noise)
        if self.block is not None and self.block % NOISE_PAIRS:
            raise ValueError(f"block is {self.block}; it must be a multiple of {NOISE_PAIRS}, or None")

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves."""
        return self.integrator == "mala"

    @property
    def rates(self) -> DualRates:
        """The default rates, to be used with the schedule `annealing`. The neuron steps are near the edge of their stability.

        They are particle_step 0.6 unit^2 / d, transport_step 0.4 d unit^2 and reaction_step 0.4 d, with the space's
        unit of length: 0.04, 6 and 6 on S^14. In d dimensions most moves of the particles are accepted while h_x d is
        of order 1. On the sphere E (<theta, x>)_+^2 = 1 / 2d, which bounds h_theta / d.
        """
        space = self.space
        return DualRates(space.default_particle_step, 0.4 * space.dimension * space.unit**2, 0.4 * space.dimension)

    def rates_for(self, data: Samples) -> DualRates:
        """Return `rates`, but with both neuron steps 0.4 / q where the feature is a ridge, with q the mean of <theta, (x, 1)>^2.

        The largest stable neuron step is proportional to 1 / q. The mean is over the data points x and over theta uniform on
        the unit sphere. The coordinate 1 is there only for a feature with a bias. On the sphere without a bias 1 / q is d.

        Args:
            data: the training data, points (n, d).

        Returns:
            The rates.

        >>> from dualebm.spaces import Sphere
        >>> round(Dual(Sphere(4)).rates_for(Samples(np.eye(4, dtype="float32"))).transport_step, 6)
        1.6
        """
        if not isinstance(self.feature, Ridge):
            return self.rates
        bias = self.feature.bias
        squares = np.sum(np.asarray(data.points, np.float64) ** 2, axis=1)
        square = float(np.mean(squares) if data.log_weights is None else np.average(squares, weights=np.asarray(data.weights)))
        step = 0.4 * (self.space.dimension + bias) / (square + bias)
        return self.rates._replace(transport_step=step, reaction_step=step)

    def check(self, rates: DualRates, data: Samples) -> None:
        """Check the rates and the data, which must have equal weights where particles are copies of them."""
        super().check(rates, data)
        self.feature.parameter_space(self.space)
        initialise.check_copies("particles", self.particles, data)
        if data.log_weights is not None and self.restart_every is not None:
            raise ValueError(
                f"restart_every is {self.restart_every}, which moves particles to copies of the data, and the data have weights; it must "
                "be None (restart_probability draws data by their weights)"
            )

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> DualState:
        """Return particles at the data, and neurons at drawn positions (`wfr.population`) with the chosen signs and weights."""
        check_key(key)
        *atom_keys, particle_key = jax.random.split(key, 4)
        dtype, m = data.points.dtype, self.neurons
        unit = 1 if self.weight_unit == "one" else rates.radius
        atoms = wfr.population(tuple(atom_keys), self.feature, self.space, m, self.signs, self.first_weights, unit, data)
        x = initialise.start(particle_key, self.particles, data)
        snapshot = None
        if self.data_batch is not None:  # the first step fills it
            value = jnp.zeros(m, dtype)
            snapshot = Snapshot(jnp.zeros_like(atoms.positions), (value, jnp.zeros_like(atoms.positions)))
        return DualState(x, atoms, jnp.int32(0), snapshot)

    def paired(self, state: DualState) -> DualState:
        """Mark the particles, whose columns are paired."""
        return jax.tree.map(lambda _: False, state)._replace(columns=True)

    def step(
        self, key: Key[Array, ""], state: DualState, rates: DualRates, data: Samples
    ) -> tuple[DualState, Info]:
        """Do one iteration of Algorithm 1."""
        check_key(key)
        restart_key, noise_key = jax.random.split(key)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = drawn(noise_key, x.shape[0], x.dtype, self.noise)
        batch = None
        if self.data_batch is not None:
            batch_key = jax.random.fold_in(key, 2)  # 0 and 1 would give the keys of split(key)
            index = draw_indices(batch_key, collectives.whole(data), (self.data_batch,))
            batch = Samples(collectives.pick(data.points, index))
        return self.advance(draw, x, state, rates, data, batch)

    def advance(
        self,
        draw: Draw,
        x: Float[Array, "d N"],
        state: DualState,
        rates: DualRates,
        data: Samples,
        batch: Samples | None = None,
    ) -> tuple[DualState, Info]:
        """Do the part of an iteration that is deterministic, given its random draws. `step` makes the draws and calls it.

        Args:
            draw: the noise of the particles' moves.
            x: the particles after their random restarts, as columns, (d, N).
            state: the state before the iteration.
            rates: the rates of the iteration.
            data: the training data, points (n, d).
            batch: the data points drawn for the data term of F, as many as `data_batch`. None where that is None.

        Returns:
            The next state, and the diagnostics of the iteration.
        """
        restarted = rates.restart_probability > 0
        if self.restart_every is not None:
            due = (state.step + 1) % self.restart_every == 0
            if self.restart_until is not None:
                due = due & (state.step + 1 <= self.restart_until)
            to_data = lambda: initialise.copies(data, x.shape[1])  # noqa: E731
            # Where devices share the particles, `to_data` may gather all data. It then runs only when it is due.
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
        cut = jnp.int32(0)
        for i in range(self.neuron_moves):
            if i:
                seen = moved if self.witness_particles == "moved" else state.columns
                model = feature_mean(self.feature, atoms.positions, Samples(seen.T))
            observed = self._data_mean(atoms.positions, data, snapshot, batch)
            witness = jax.tree.map(jnp.subtract, model, observed)
            witness, acceptance = collectives.mean_over((witness, acceptance))
            atoms, newly_cut = self.update_atoms(atoms, witness, rates)
            cut = cut + newly_cut
        clipped = cut.astype(x.dtype) if self.weight_update == "additive" else None
        return DualState(moved, atoms, state.step + 1, snapshot), Info(acceptance, clipped=clipped)

    def _move(self, draw, x, stored, restarted, energy, rates):
        """Move the particles (step 2), and take the mean of the feature over the particles of the witness.

        The mean uses the products <theta_j, x_i> that the moves have computed already.
        """

        def sums(located: Located):
            return feature_sums(self.feature, energy.positions, located.points, products=located.products)

        before = self.witness_particles == "current"
        x, acceptance, seen = langevin.move(
            self.integrator, self.space, draw, x, energy, rates.particle_step,
            steps=self.particle_moves, observe=sums, before=before, width=self.block,
        )  # fmt: skip
        mean = jax.tree.map(lambda total: total / x.shape[1], seen)
        if before:  # the move has observed particles after their restart, which is right only without one
            other = lambda: feature_mean(self.feature, energy.positions, Samples(stored.T))  # noqa: E731
            mean = jax.lax.cond(restarted, other, lambda: mean)
        return x, acceptance, mean

    def _data_mean(self, positions, data, snapshot, batch) -> Sums:
        """Return E_data phi at the positions and its gradient. With a batch it is the snapshot's mean plus the batch's difference."""
        if snapshot is None:
            return feature_mean(self.feature, positions, data)
        now, earlier = (feature_mean(self.feature, theta, batch) for theta in (positions, snapshot.positions))
        return jax.tree.map(lambda known, new, old: known + (new - old), snapshot.mean, now, earlier)

    def update_atoms(self, atoms: Atoms, witness: Sums, rates: DualRates) -> tuple[Atoms, Int[Array, ""]]:
        """Update the neurons by steps 3 to 5: transport, reaction with F at the old positions, and budget.

        Args:
            atoms: the m neurons.
            witness: F at their positions, (m,), and its gradient in theta_j, (m, p).
            rates: the rates of the iteration.

        Returns:
            The neurons after the update, and the number of weights that were cut to zero, an integer scalar.
        """
        radius = rates.radius if self.budget else None
        parameters = self.feature.parameter_space(self.space)
        return wfr.update(atoms, witness, rates.transport_step, rates.reaction_step, radius, parameters, self.weight_update)

    def energy(self, state: DualState, rates: DualRates, data: Samples) -> Shallow:
        """Return the energy f = (1/m) sum_j sigma_j w_j phi(., theta_j)."""
        del rates, data
        return from_atoms(self.feature, state.atoms)

    def diverged(self, state: DualState) -> Int[Array, ""]:
        """Return `NO_WEIGHT` where the total variation is 0, and `ONE_ATOM` where one of several neurons holds all the weight."""
        log_weights = state.atoms.log_weights
        total = log_total_variation(state.atoms) + math.log(self.neurons)
        alone = (jnp.max(log_weights) - total > math.log1p(-1e-6)) & (self.neurons > 1)
        code = jnp.where(alone, Divergence.ONE_ATOM, Divergence.NONE)
        return jnp.where(jnp.isneginf(total), Divergence.NO_WEIGHT, code).astype(jnp.int32)

    def samples(self, state: DualState) -> Samples:
        """Return the particles, with equal weights."""
        return Samples(state.particles)

    def atoms(self, state: DualState) -> Atoms:
        """Return the neurons."""
        return state.atoms


ANNEALED = ("radius", "transport_step", "reaction_step")
"""The rates that `annealing` changes. It goes with the methods whose rates have all of them."""


def annealing(warmup: int = 60, start: float = 0.7) -> Callable[[Scalar, DualRates], DualRates]:
    """Return the schedule that goes with the default rates: the budget grows to the radius, then the neuron steps fall.

    In iteration t it multiplies the radius by min(1, start + (1 - start) t / warmup) and divides both neuron steps by 1
    + 4 max(t / warmup - 1, 0). While the budget is smaller than the teacher's, neurons gather where the witness is
    largest, as along a path of the lasso. The falling steps are meant to keep the neurons from spreading into the
    sampling noise of the data.

    Args:
        warmup: the number of iterations in which the budget grows, at least 1. The neurons need this time to part: 60
            iterations on S^14, more where d is small.
        start: the budget at the start as a fraction of the radius, in (0, 1].

    Returns:
        A function `(step, rates) -> rates`, for the arguments named `schedule`. It raises ValueError for rates that lack one
        of `ANNEALED`.

    Raises:
        ValueError: `warmup` or `start` is out of its bounds.

    >>> from dualebm.spaces import Sphere
    >>> rates = annealing()(100, Dual(Sphere(15)).rates)
    >>> round(float(rates.radius), 6), round(float(rates.transport_step), 6)
    (10.0, 1.636364)
    """
    checks.number("start", start, positive=True, largest=1)
    checks.count("warmup", warmup)

    def schedule(step, rates):
        missing = [name for name in ANNEALED if name not in rates._fields]
        if missing:
            raise ValueError(f"schedule is annealing() and {type(rates).__name__} has no {', '.join(missing)}; it must have {ANNEALED}")
        radius = rates.radius * jnp.minimum(1, start + (1 - start) * step / warmup)
        slower = 1 + 4 * jnp.maximum(step / warmup - 1, 0)
        return rates._replace(
            radius=radius, transport_step=rates.transport_step / slower, reaction_step=rates.reaction_step / slower
        )

    return schedule


def annealing_over(steps: int, fraction: float) -> Callable[[Scalar, DualRates], DualRates] | None:
    """Return the schedule `annealing` whose radius grows in a fraction of all iterations, or None for the fraction 0.

    Args:
        steps: the number of iterations.
        fraction: the fraction of them, from 0 to 1.

    >>> annealing_over(1000, 0.0) is None, float(annealing_over(1000, 0.2)(0, DualRates(0.1, 1.0, 1.0)).radius)
    (True, 7.0)
    """
    return annealing(math.ceil(fraction * steps)) if fraction else None
