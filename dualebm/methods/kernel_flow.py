"""The F2 ball with all features at once: the flow of a maximum mean discrepancy (arXiv 2107.05134, Appendix C; see `methods.lazy`)."""

import dataclasses
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.finite_volume import cells
from dualebm._internal.keys import check_key
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump, ReLU
from dualebm.flows import initialise, langevin
from dualebm.flows.langevin import Integrator
from dualebm.flows.noise import NoiseKind, drawn
from dualebm.geometry import Space
from dualebm.kernels import Embedding, Kernel, embedding, kernel_of, mean_kernel
from dualebm.measures import Samples
from dualebm.methods.base import Info, Method
from dualebm.methods.lazy import LazyRates, Penalty
from dualebm.settings import Bound, Count, NonNegative


class KernelState(NamedTuple):
    """The state of `KernelFlow`.

    Args:
        columns: the N particles as the columns of an array, (d, N).
        observed: E_data k(x, x') over both arguments, a scalar.
        step: the number of iterations done.
        discrepancy: the MMD of particles and data, a scalar.
        average: the mean of f over the iterations at the K points of the grid, (K,). None where `averaged` is None.
    """

    columns: Float[Array, "d N"]
    observed: Float[Array, ""]
    step: Int[Array, ""]
    discrepancy: Float[Array, ""]
    average: Float[Array, " K"] | None = None

    @property
    def particles(self) -> Float[Array, "N d"]:
        """The particles as rows, (N, d)."""
        return self.columns.T


@dataclasses.dataclass(frozen=True)
class KernelFlow(Method):
    """The particle flow of entropy-regularised MMD, under f = R (E_particles k - E_data k) / MMD(particles, data).

    An iteration evaluates N (N + n) kernels.

    Args:
        space: the space of the data and the particles.
        kernel: k. None for the kernel of `Bump(space)` features on a torus, and of `ReLU()` features elsewhere (see
            `kernels.kernel_of`).
        particles: the number N of particles, which start at data points drawn at random. None starts them at two copies
            of the data.
        jitter: the standard deviation of a step of noise that particles make at the start, >= 0. The changed time needs
            one: particles that lie on the data have an MMD of 0 and would stay.
        penalty: "ball"; or "squared", for which f = R (E_particles k - E_data k).
        time: the time of an iteration: "natural", which is `particle_step`; or "changed" (the authors' programs for
            arXiv 2107.05134), which is `particle_step` MMD / R.
        averaged: the number K of equally spaced points at which the mean of f over all iterations is kept. The energy
            is then this mean, linear between the points. Allowed on Torus(1) and Sphere(2). None for the last f as the
            energy. The particles move under the last f in either case.
        integrator: the Langevin move of the particles: "mala", "geodesic" or "projected".
        noise: the Gaussian noise of the particles: "independent", "antithetic" (opposite for particles i and i + N/2)
            or "orthogonal" (see `flows.noise.drawn`). N must be even for the last two.

    Raises:
        ValueError: a setting is not allowed. The message names it, its value and what is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = KernelFlow(Sphere(3)), Samples(jnp.eye(3))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> method.energy(state, method.rates, data)(data.points).shape
    (3,)
    """

    space: Space
    kernel: Kernel | None = None
    particles: Count | None = None
    jitter: NonNegative = 0.0
    penalty: Penalty = "ball"
    time: Literal["natural", "changed"] = "natural"
    averaged: Annotated[int, Bound(least=4)] | None = None
    integrator: Integrator = "mala"
    noise: NoiseKind = "antithetic"

    def __post_init__(self):
        settings.check(self)
        initialise.check_particles(self.particles, self.noise)
        if self.averaged is not None and self.space.circumference is None:
            raise ValueError(
                f"averaged is {self.averaged} and space is {self.space}; a grid is allowed on Torus(1) and Sphere(2) "
                "(elsewhere Lazy(averaged=True) averages on random features)"
            )
        if self.time == "changed" and self.penalty == "squared":
            raise ValueError("time is 'changed' and penalty is 'squared'; the squared flow has its natural time alone")
        if self.time == "changed" and self.jitter == 0:
            raise ValueError("jitter is 0 and time is 'changed'; particles on the data would stay: give a positive one, such as 0.1")

    @property
    def adjusted(self) -> bool:
        """Whether the particles make Metropolis-adjusted Langevin moves."""
        return self.integrator == "mala"

    @property
    def rates(self) -> LazyRates:
        """The default rates, with the space's default particle step."""
        return LazyRates(self.space.default_particle_step)

    def check(self, rates: LazyRates, data: Samples) -> None:
        """Check the rates and the data, which must have equal weights where particles are copies of them."""
        super().check(rates, data)
        initialise.check_copies("particles", self.particles, data)
        if rates.ascent_step != 0:
            raise ValueError(f"ascent_step is {rates.ascent_step}; a kernel has no charges that ascend: it must be 0")

    def init(self, key: Key[Array, ""], rates: LazyRates, data: Samples) -> KernelState:
        """Return particles at the data, after the jitter."""
        check_key(key)
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
        """The kernel of the setting. None stands for the kernel of bumps on a periodic space, where ReLUs are not continuous."""
        return self.kernel or kernel_of(Bump(self.space) if self.space.periodic else ReLU(), self.space)

    def _discrepancy(self, x, observed, data) -> Float[Array, ""]:
        """Return MMD(particles, data), given E_data k over both arguments."""
        particles = Samples(x.T)
        inner = mean_kernel(self._kernel, particles, particles) - 2 * mean_kernel(self._kernel, particles, data)
        return jnp.sqrt(jnp.maximum(inner + observed, 0))

    def step(self, key: Key[Array, ""], state: KernelState, rates: LazyRates, data: Samples) -> tuple[KernelState, Info]:
        """Do one iteration: the restarts, the moves and the new discrepancy."""
        check_key(key)
        restart_key, noise_key = jax.random.split(key)
        energy = self._last_energy(state, rates, data)
        x = initialise.restart(restart_key, state.columns, data, rates.restart_probability)
        draw = drawn(noise_key, x.shape[0], x.dtype, self.noise)
        step = rates.particle_step * (state.discrepancy / rates.radius if self.time == "changed" else 1)
        x, acceptance, _ = langevin.move(self.integrator, self.space, draw, x, energy, step)
        discrepancy = self._discrepancy(x, state.observed, data)
        state, info = state._replace(columns=x, step=state.step + 1, discrepancy=discrepancy), Info(acceptance, discrepancy=discrepancy)
        if self.averaged is None or state.average is None:
            return state, info
        values = self._last_energy(state, rates, data)(jnp.asarray(cells(self.space, self.averaged).centres, x.dtype))
        return state._replace(average=state.average + (values - state.average) / state.step), info

    def energy(self, state: KernelState, rates: LazyRates, data: Samples) -> Embedding | Tabulated:
        """Return the last f, or its mean over the iterations."""
        # A method with averaged=None gives the last f of any state, also of one that has kept the mean.
        if self.averaged is None or state.average is None:
            return self._last_energy(state, rates, data)
        return Tabulated(self.space, state.average)

    def _last_energy(self, state: KernelState, rates: LazyRates, data: Samples) -> Embedding:
        """Return f = R (E_particles k - E_data k) / MMD, or R times the difference for the squared penalty."""
        rounding = jnp.sqrt(jnp.finfo(state.columns.dtype).eps * state.observed)  # the MMD is the root of a rounded difference
        scale = rates.radius / (jnp.maximum(state.discrepancy, rounding) if self.penalty == "ball" else 1)
        model, observed = embedding(self._kernel, Samples(state.particles)), embedding(self._kernel, data)
        points = jnp.concatenate([model.points, observed.points])
        return Embedding(self._kernel, points, scale * jnp.concatenate([model.coefficients, -observed.coefficients]))

    def samples(self, state: KernelState) -> Samples:
        """Return the particles, with equal weights."""
        return Samples(state.particles)
