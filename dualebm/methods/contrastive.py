"""Contrastive divergence and its persistent form, for any energy: unweighted walkers (Hinton 2002; Tieleman 2008; arXiv 2107.05134, 6).

    restart     X_i <- a data point: all in every k-th iteration, or each with probability p_R
    Langevin    X_i <- X_i - h (grad U - grad log tau) + sqrt(2 h) xi_i
    parameters  theta <- theta - s (an optimiser's direction for E_data dU - E_walkers dU + decay theta)

With `restart_every=1` and `moves=k` it is contrastive divergence, CD-k; without restarts persistent contrastive divergence, PCD; with
p_R > 0 the replay buffer of Du and Mordatch (2019). Neither gradient is that of the likelihood: the walkers are not of the model. There is
no ball; the decay of the weights takes its place, and the ratio s / h is what alpha is to the dual scheme.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import checks, collectives
from dualebm.flows import initialise, jarzynski, langevin, likelihood
from dualebm.flows.jarzynski import Weights
from dualebm.flows.likelihood import Optimiser, Start, Training
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.methods.jarzynski import batch_of, check_training, check_walkers, drawn
from dualebm.rates import NonNegative, ParticleStep, Probability
from dualebm.spaces import Space

BEGIN = ("data", "model")
"""Where walkers are at the start: at data, or samples of the model of the first energy."""

RESTART_AT = ("data", "base")
"""Where the fraction `restart_probability` of the walkers begins anew: at data, or at the base measure."""


class ContrastiveRates(NamedTuple):
    """particle_step h > 0; learning_rate s >= 0; weight_decay >= 0; energy_penalty >= 0, as for `Jarzynski`; restart_probability p_R in
    [0, 1]."""

    particle_step: ParticleStep
    learning_rate: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    energy_penalty: NonNegative = 0.0
    restart_probability: Probability = 0.0


class ContrastiveState(NamedTuple):
    """columns (d, N), the walkers; training; step; diagnosis, weights that the training does not use, or None."""

    columns: Float[Array, "d N"]
    training: Training
    step: Int[Array, ""]
    diagnosis: Weights | None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The walkers, as rows."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class Contrastive(Method):
    """Any energy, trained against unweighted walkers.

    Args:
        space, start, moves, data_batch, optimiser, clip, fixed: as for `Jarzynski`.
        walkers: N, even, drawn from the data; None for two copies of the data.
        integrator: of `langevin.MOVES`; the adjusted "mala" leaves the model invariant. noise: as for `Dual`.
        begin: of `BEGIN`. restart_every: all walkers to the data before the moves of every k-th iteration, from the first; None for never.
        restart_at: of `RESTART_AT`, for walkers that restart with probability p_R.
        diagnosis: weights as those of `Jarzynski`, which nothing uses: they tell log Z, and how far the walkers are from the model. They
            need walkers that begin at the model and never restart.

    Raises ValueError for a choice that does not exist.

    >>> from dualebm.training.simulate import start, step; from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> method, data = Contrastive(Sphere(3), MLP(width=8), restart_every=1, moves=5), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    start: Start
    walkers: int | None = None
    integrator: str = "mala"
    moves: int = 1
    noise: str = "antithetic"
    begin: str = "data"
    restart_every: int | None = None
    restart_at: str = "data"
    data_batch: int | None = None
    optimiser: Optimiser = "adam"
    clip: float | None = None
    fixed: tuple[str, ...] = ()
    diagnosis: bool = False

    def __post_init__(self):
        likelihood.check_settings(self)
        check_walkers(self if self.walkers is not None else dataclasses.replace(self, walkers=2))
        checks.choice("begin", self.begin, BEGIN)
        checks.choice("restart_at", self.restart_at, RESTART_AT)
        if self.restart_every is not None:
            checks.count("restart_every", self.restart_every)
        if self.begin == "model" and self.walkers is None:
            raise ValueError("begin is 'model' and walkers is None, which is copies of the data; give their number")
        if self.diagnosis and (self.begin == "data" or self.restart_every is not None):
            raise ValueError(
                f"diagnosis is True with begin {self.begin!r} and restart_every {self.restart_every}; walkers at data have no known "
                "weights: allowed are begin='model' and restart_every=None"
            )
        if self.restart_at == "base" and not self.space.base.proper:
            raise ValueError(f"restart_at is 'base' on {self.space}, whose base cannot be sampled; give it the base Gaussian(scale)")

    @property
    def rates(self) -> ContrastiveRates:
        """The space's default particle step; learning_rate 1e-3, or 1 for an optimiser of optax."""
        return ContrastiveRates(self.space.default_particle_step, 1e-3 if isinstance(self.optimiser, str) else 1.0)

    def check(self, rates: ContrastiveRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed."""
        super().check(rates, data)
        check_training(self, data)
        initialise.check_copies(self.walkers, data)
        if self.restart_every is not None and rates.restart_probability != 0:
            found = f"restart_probability is {rates.restart_probability} and restart_every is {self.restart_every}"
            raise ValueError(f"{found}; give one of them")
        if self.diagnosis and rates.restart_probability != 0:
            found = f"restart_probability is {rates.restart_probability} and diagnosis is True"
            raise ValueError(f"{found}; a restart has no weight: allowed: 0")
        if self.begin == "model":
            jarzynski.check_start(eqx.filter_eval_shape(self.start, jax.random.key(0), self.space, data.points.dtype), self.space)

    def init(self, key: Key[Array, ""], rates: ContrastiveRates, data: Samples) -> ContrastiveState:
        """The energy of `start`; walkers at the data, or of its model."""
        del rates
        energy_key, walker_key = jax.random.split(key)
        energy: Any = self.start(energy_key, self.space, data.points.dtype)
        weights = None
        if self.begin == "data":
            x = initialise.start(walker_key, self.walkers, data)
        else:
            x, weights = jarzynski.first_walkers(walker_key, energy, self.space, self.walkers or 0)
            if not self.diagnosis:  # unweighted from here on
                x, weights, _ = jarzynski.advance(jax.random.fold_in(walker_key, 2), x, weights, 0 * weights.log_weights, 1.0)
        training = likelihood.began(energy, self.optimiser, self.clip, self.fixed)
        return ContrastiveState(x, training, jnp.int32(0), weights if self.diagnosis else None)

    def paired(self, state: ContrastiveState) -> ContrastiveState:
        """True in place of the arrays whose last axis is the walkers, i paired with i + N/2; False in place of the others."""
        none = jax.tree.map(lambda _: False, state)
        diagnosis = none.diagnosis._replace(log_weights=True, ancestors=True) if self.diagnosis else None
        return none._replace(columns=True, diagnosis=diagnosis)

    def step(
        self, key: Key[Array, ""], state: ContrastiveState, rates: ContrastiveRates, data: Samples
    ) -> tuple[ContrastiveState, Info]:
        """One iteration; the key belongs to this step alone."""
        restart_key, noise_key = jax.random.split(key)
        x, before = self._restarted(restart_key, state, rates, data), self.energy(state, rates, data)
        draw, diagnosis, effective = drawn(self, noise_key, before, x), state.diagnosis, None
        if diagnosis is None:
            x, acceptance, _ = langevin.move(self.integrator, self.space, draw, x, before, rates.particle_step, steps=self.moves)
        else:
            x, increments, acceptance = jarzynski.walk(
                self.integrator, self.space, draw, x, before, before, rates.particle_step, steps=self.moves
            )
        observed = batch_of(jax.random.fold_in(key, 2), data, self.data_batch)  # split(key) is 0 and 1
        gradient = likelihood.likelihood_gradient(before, Samples(x.T), observed, self.fixed, rates.energy_penalty)
        after, optimiser = likelihood.descend(
            before, gradient, state.training.optimiser, rates, self.optimiser, self.clip, self.fixed
        )
        if diagnosis is not None:
            increments = increments + jarzynski.reweigh(before, after, x)
            _, diagnosis, effective = jarzynski.advance(key, x, diagnosis, increments, 0.0, "none")
        training = Training(eqx.filter(after, eqx.is_array), optimiser)
        info = Info(collectives.mean_over(acceptance), effective)
        return ContrastiveState(x, training, state.step + 1, diagnosis), info

    def _restarted(self, key, state, rates, data):
        """The walkers after the restarts of an iteration."""
        x = state.columns
        if self.restart_every is not None:
            all_key = jax.random.fold_in(key, 3)
            count = x.shape[1]

            def to_data():
                return initialise.copies(data, count) if self.walkers is None else initialise.restart(all_key, x, data, 1.0)

            return jax.lax.cond(state.step % self.restart_every == 0, to_data, lambda: x)
        if self.restart_at == "data":
            return initialise.restart(key, x, data, rates.restart_probability)
        return initialise.refresh(key, x, self.space, rates.restart_probability)

    def energy(self, state: ContrastiveState, rates: ContrastiveRates, data: Samples) -> Any:
        """U."""
        del rates
        return eqx.combine(state.training.arrays, likelihood.skeleton(self.start, self.space, data.points.dtype))

    def log_partition(self, state: ContrastiveState) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
        """log Z and its standard error by the weights of the diagnosis; None without them."""
        return None if state.diagnosis is None else jarzynski.log_partition(state.diagnosis, "none")

    def samples(self, state: ContrastiveState) -> Samples:
        """The walkers, of equal weights."""
        return Samples(state.particles)


def contrastive_divergence(space: Space, start: Start, moves: int, **changes) -> Contrastive:
    """CD-k: in every iteration all walkers start at the data and make `moves` moves. `changes` replace fields of `Contrastive`.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Sphere
    >>> contrastive_divergence(Sphere(3), MLP(), 10).restart_every
    1
    """
    return Contrastive(space, start, **{**dict(moves=moves, restart_every=1), **changes})
