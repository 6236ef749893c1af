"""Algorithm 1 with steps that adapt in a warm-up and are then frozen.

Particles: log h_x <- log h_x + g_t (acceptance - target), with g_t = 2 (t + 1)^-0.6. This is the stochastic
approximation of Andrieu and Thoms (2008, Statistics and Computing 18, Section 4), with the mean over all particles as
the acceptance.

Neurons: near equilibrium, a change of the atoms by (dlog w_j, dtheta_j) changes the energy by

    df = (1/m) sum_j sigma_j w_j (phi_j dlog w_j + <grad phi_j, dtheta_j>)

and, once the particles have relaxed to the new Gibbs measure, F by -Cov(phi, df). One iteration adds h_w sigma_j
F(theta_j) to log w_j and h_theta sigma_j grad F(theta_j) to theta_j. It therefore multiplies the change by I - M. Here
M = K* K is symmetric positive in the coordinates dlog w_j / sqrt(h_w w_j / m), dtheta_j / sqrt(h_theta w_j / m), and K
maps these to the centred df in L2 of the particles. If the particles relaxed within an iteration, the flow would be
stable while lambda = lambda_max(M) < 2, the quasi-static edge. They do not. Let g be the top function of M, and let the
particles forget a fraction rho of g in a step: x <- (1 - rho) x - rho lambda u, u <- u + x. This is the heavy ball of
momentum 1 - rho. Its determinant is 1 - rho, its trace is 2 - rho - rho lambda, and it is stable while

    lambda < 4 / rho - 2 = 2 (2 - rho) / rho,    rho = E (g(X') - g(X))^2 / (2 Var g).

This bound is at least 2, so that the particles' memory leaves room. The memory also keeps their sampling noise. Where
rho is small, u = (theta, log w) settles to a variance of lambda / rho times that of a mean of independent particles. In
each step one iteration of the power method estimates lambda and g, and one move of the particles estimates rho. Then
h_theta and h_w are scaled together to

    lambda = min(2, safety (4 / rho - 2), 8 rho).

Beyond the quasi-static edge large oscillations were seen to sustain themselves where small ones decay. The factor 8 was
chosen on S^2 and S^14.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal import collectives
from dualebm._internal.keys import check_key
from dualebm.features import Feature
from dualebm.measures import Atoms, Samples, total_variation
from dualebm.methods.base import Info, Wrapper
from dualebm.methods.dual import Dual, DualRates, DualState
from dualebm.settings import Count, CountFrom2, Fraction

START, WAIT = 20, 5
"""The iterations of the power method before the first step, and the steps after which its estimates set the neuron steps."""

NOISE = 8.0
"""The largest lambda / rho: the variance of the atoms in the direction of g, over that of a mean over independent particles."""

Direction = tuple[Float[Array, " m"], Float[Array, "m p"]]


class AdaptiveState(NamedTuple):
    """The state of `Adaptive`.

    Args:
        inner: the state of the wrapped `Dual`.
        start: the rates that `init` received.
        log_particle: the logarithm of the factor on the particle step, a scalar.
        log_neuron: the logarithm of the factor on both neuron steps, a scalar.
        direction: the unit vector of the power method, with components for the weights, (m,), and for the positions,
            (m, p).
        eigenvalue: lambda at the rates `start`, a scalar.
        relaxation: rho, the fraction of g that the particles forget in one iteration, a scalar.
    """

    inner: DualState
    start: DualRates
    log_particle: Float[Array, ""]
    log_neuron: Float[Array, ""]
    direction: Direction
    eigenvalue: Float[Array, ""]
    relaxation: Float[Array, ""]

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.inner.particles

    @property
    def step(self) -> Int[Array, ""]:
        """The number of iterations done."""
        return self.inner.step


def roots(atoms: Atoms, rates: DualRates, additive: bool = False) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return sqrt(h_w w_j / m) and sqrt(h_theta w_j / m), which define the coordinates in which M is symmetric.

    Args:
        atoms: the m neurons.
        rates: the rates, with the steps h_w and h_theta.
        additive: whether the weights are updated additively. The first root is then sqrt(h_w) / m.

    Returns:
        The two roots, (m,) each.

    >>> atoms = Atoms(jnp.eye(2), jnp.log(jnp.array([2.0, 8.0])), jnp.ones(2))
    >>> [root.round(3).tolist() for root in roots(atoms, DualRates(0.1, 1.0, 4.0))]
    [[2.0, 4.0], [1.0, 2.0]]
    """
    mass = jnp.exp(atoms.log_weights) / atoms.log_weights.size
    p = jnp.full_like(mass, 1 / mass.size) if additive else mass
    return jnp.sqrt(rates.reaction_step * p), jnp.sqrt(rates.transport_step * mass)


def power_iteration(
    feature: Feature,
    atoms: Atoms,
    scales: tuple[Float[Array, " m"], Float[Array, " m"]],
    before: Float[Array, "S d"],
    x: Float[Array, "S d"],
    direction: Direction,
    space,
) -> tuple[Direction, Float[Array, ""], Float[Array, ""]]:
    """Do one iteration of the power method for M = K* K, with means over the particles `x`.

    K (a, b) = sum_j sigma_j (p_j a_j phi(., theta_j) + q_j <grad phi(., theta_j), b_j>), centred, with (p, q) =
    `scales`. Rayleigh's quotient |K (a, b)|^2 is a lower bound of lambda.

    Args:
        feature: phi.
        atoms: the m neurons.
        scales: the factors (p, q), as `roots` returns them, (m,) each.
        before: the particles before their move, (S, d).
        x: the same particles after their move, (S, d).
        direction: the unit direction (a, b), with shapes (m,) and (m, p).
        space: the space of the neurons' positions.

    Returns:
        The next unit direction, lambda, and rho = E (g(x) - g(before))^2 / (2 Var g) with g = K (a, b). They are 0
        where M is 0.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> atoms, x = Atoms(jnp.eye(2), jnp.zeros(2), jnp.ones(2)), jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> one, none = jnp.ones(2), jnp.zeros(2)
    >>> _, eigenvalue, _ = power_iteration(ReLU(), atoms, (one, none), x, x, (jnp.array([1.0, 0.0]), jnp.eye(2)), Sphere(2))
    >>> float(eigenvalue)  # the variance of one positive part
    0.1875
    """

    def image(x, direction):
        a, b = direction

        def combined(coefficients, theta):
            return jnp.matmul(feature(x, theta), coefficients, precision=jax.lax.Precision.HIGHEST)

        tangents = (atoms.signs * scales[0] * a, scales[1][:, None] * b)
        g = jax.jvp(combined, (atoms.signs, atoms.positions), tangents)[1]
        return g - jnp.mean(g)

    g, pull_back = jax.vjp(lambda direction: image(x, direction), direction)
    eigenvalue = jnp.mean(g**2)
    relaxation = jnp.mean((g - image(before, direction)) ** 2) / jnp.where(eigenvalue > 0, 2 * eigenvalue, 1)
    ((a, b),) = pull_back(g)
    return _unit((a, space.tangent(atoms.positions, b))), eigenvalue, relaxation


def _unit(direction):
    a, b = direction
    largest = jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))  # keeps the squares from underflow
    largest = jnp.where(largest > 0, largest, 1)
    a, b = a / largest, b / largest
    norm = jnp.sqrt(jnp.sum(a**2) + jnp.sum(b**2))
    norm = jnp.where(norm > 0, norm, 1)
    return a / norm, b / norm


@dataclasses.dataclass(frozen=True)
class Adaptive(Wrapper):
    """`Dual` with steps that adapt in the first `warmup` iterations, so that no step need be guessed.

    The rates are those of the wrapped method. `particle_step` is where the adaptation of the particles begins. Of the
    neuron steps only the ratio counts. A schedule acts as usual: the rates that it returns are multiplied by the
    adapted factors (see `adapted`), so that `annealing(warmup)` goes with it. After the warm-up the factors are frozen,
    and for given neurons the particles' chain is exactly reversible again.

    Args:
        method: a `Dual`.
        warmup: the number of iterations in which the steps adapt.
        acceptance: the target for the acceptance of the particles' moves, in (0, 1]. It needs the integrator "mala".
            None leaves particle_step as it is. On a sphere the step stays within its bound pi^2 / 2d whatever the
            acceptance.
        safety: in (0, 1]. The neuron steps go to lambda = min(2, safety (4 / rho - 2), 8 rho). None leaves them as they
            are.
        sample: the largest number of particles from which lambda and rho are estimated, at least 2.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = Adaptive(Dual(Sphere(3), neurons=8), warmup=4), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> bool(method.adapted(state, method.rates).particle_step > method.rates.particle_step)  # all moves were accepted
    True
    """

    method: Dual
    warmup: Count = 80
    acceptance: Fraction | None = 0.8
    safety: Fraction | None = 0.6
    sample: CountFrom2 = 2048

    def __post_init__(self):
        settings.check(self)
        if not isinstance(self.method, Dual):
            raise ValueError(f"method is {self.method!r}; it must be a Dual, whose steps adapt")
        if self.acceptance is not None and self.method.integrator != "mala":
            allowed = "'mala' has an acceptance to adapt; give acceptance=None"
            raise ValueError(f"method.integrator is {self.method.integrator!r}; only {allowed}")

    @property
    def adapts(self) -> bool:
        """Whether the method chooses its steps: it does."""
        return True

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> AdaptiveState:
        """Return the initial state of the wrapped method under the same key, with neuron steps at half the quasi-static
        edge of full weights.

        At the start the particles are data points, and the weights may be far below the budget, which they reach within
        a few steps. As lambda is linear in the weights, it is scaled to a total variation of `radius`.
        """
        check_key(key)
        inner = self.method.init(key, rates, data)
        dtype = data.points.dtype
        zero = jnp.zeros((), dtype)
        start = jax.tree.map(lambda rate: jnp.asarray(rate, dtype), rates)
        a_key, b_key = jax.random.split(jax.random.fold_in(key, 1))
        a = jax.random.normal(a_key, inner.atoms.log_weights.shape, dtype)
        b = jax.random.normal(b_key, inner.atoms.positions.shape, dtype)
        direction = _unit((a, self._parameters().tangent(inner.atoms.positions, b)))
        state = AdaptiveState(inner, start, zero, zero, direction, zero, zero)
        if self.safety is None:
            return state
        x = self._few(inner)

        def iterate(_, estimate):
            return self._iterate(inner.atoms, start, x, x, estimate[0])[:2]

        direction, eigenvalue = jax.lax.fori_loop(0, START, iterate, (direction, zero))
        full = eigenvalue * jnp.maximum(start.radius / total_variation(inner.atoms), 1)
        factor = 1 / jnp.where(full > 0, full, 1)
        return state._replace(direction=direction, eigenvalue=eigenvalue, log_neuron=jnp.log(factor))

    def paired(self, state: AdaptiveState) -> AdaptiveState:
        """Mark the particles of the wrapped method, which are paired."""
        return jax.tree.map(lambda _: False, state)._replace(inner=self.method.paired(state.inner))

    def step(
        self, key: Key[Array, ""], state: AdaptiveState, rates: DualRates, data: Samples
    ) -> tuple[AdaptiveState, Info]:
        """Do one iteration of the wrapped method at the adapted rates, and adapt the factors during the warm-up."""
        check_key(key)
        inner, info = self.method.step(key, state.inner, self.adapted(state, rates), data)
        moved: Any = info.acceptance

        def adapt():
            gain = (state.step.astype(moved.dtype) + 1) ** -0.6
            adapting = state
            if self.acceptance is not None:
                log_particle = state.log_particle + 2 * gain * (moved - self.acceptance)
                log_longest = math.log(self._longest()) - jnp.log(state.start.particle_step)
                adapting = adapting._replace(log_particle=jnp.minimum(log_particle, log_longest))
            if self.safety is not None:
                direction, eigenvalue, relaxation = self._iterate(
                    inner.atoms, state.start, self._few(state.inner), self._few(inner), state.direction
                )
                rho = jnp.clip(relaxation, 0.01, 1)
                most = jnp.minimum(jnp.minimum(2, NOISE * rho), self.safety * (4 / rho - 2))
                known = (eigenvalue > 0) & (state.step >= WAIT)
                aim = jnp.log(most / jnp.where(known, eigenvalue, 1))
                log_neuron = jnp.where(known, state.log_neuron + gain * (aim - state.log_neuron), state.log_neuron)
                adapting = adapting._replace(
                    direction=direction, eigenvalue=eigenvalue, relaxation=relaxation, log_neuron=log_neuron
                )
            return adapting

        state = jax.lax.cond(state.step < self.warmup, adapt, lambda: state)
        return state._replace(inner=inner), info

    def adapted(self, state: AdaptiveState, rates: DualRates) -> DualRates:
        """Return the rates of the next step: particle_step and both neuron steps are multiplied by the adapted factors.

        Args:
            state: the state, which holds the factors.
            rates: the given rates.

        Returns:
            The adapted rates.
        """
        particle = jnp.minimum(rates.particle_step * jnp.exp(state.log_particle), self._longest())
        factor = jnp.exp(state.log_neuron)
        return rates._replace(
            particle_step=particle if self.acceptance is not None else rates.particle_step,
            transport_step=rates.transport_step * factor,
            reaction_step=rates.reaction_step * factor,
        )

    def _parameters(self):
        return self.method.feature.parameter_space(self.method.space)

    def _longest(self) -> float:
        """The space's largest particle step, made a little smaller so that rounding stays within it."""
        return (1 - 1e-6) * self.method.space.largest_particle_step

    def _few(self, inner):
        """Return every k-th particle as rows, at most `sample` of them.

        They are one block whatever N is. Where several devices share the particles, all devices receive the same ones.
        """
        d, count = inner.columns.shape
        axis = collectives.split_axis()
        if axis is None:
            return inner.particles[:: -(-count // self.sample)]
        pairs = count // 2 * jax.lax.axis_size(axis)
        half, pair = np.divmod(np.arange(0, 2 * pairs, -(-2 * pairs // self.sample)), pairs)
        both = collectives.pick(inner.columns.reshape(2 * d, count // 2).T, pair).reshape(-1, d, 2)
        return both[np.arange(half.size), :, half]

    def _iterate(self, atoms, start, before, x, direction):
        scales = roots(atoms, start, self.method.weight_update == "additive")
        return power_iteration(self.method.feature, atoms, scales, before, x, direction, self._parameters())
