"""The coupled equations themselves, of infinitely many neurons and particles (arXiv 2107.05134, eq. 6; Proposition 2).

    nu    d nu / dt = div(nu (grad f - grad log tau)) + Lap nu - p (nu - nu_n)
    gamma d gamma_s / dt = -s div(gamma_s grad F) + gamma_s (s F - K),   s = +1, -1

with f = int phi d(gamma_+ - gamma_-), F = E_nu phi - E_data phi, and K what keeps the total variation within the radius. One iteration
takes the time `particle_step` for nu and the neuron steps for gamma, in the order of Algorithm 1: the limit of `Dual` with N and m large,
and small steps of its particles.

Finite volumes on cells (`dualebm._internal.finite_volume`). nu flows through a face by the fluxes of Scharfetter and Gummel,

    conductance (B(f_j - f_i) nu_i / v_i - B(f_i - f_j) nu_j / v_j),   B(z) = z / (e^z - 1),

a jump process between cells that is reversible: mass is conserved to rounding, nothing becomes negative, and exp(-f) tau is stationary
exactly. gamma is carried by upwind fluxes, conserved and positive too, and grows by exact exponentials.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import checks
from dualebm._internal.finite_volume import Cells, cells
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Feature, ReLU
from dualebm.measures import Samples
from dualebm.methods.base import Divergence, Info, Method
from dualebm.methods.dual import DualRates
from dualebm.spaces import Space

SIGNS = ("half", "all_negative")


class MeanFieldState(NamedTuple):
    """particles' masses nu (K); neurons' masses gamma (2, M), of the signs + and -; start, the masses of the data (K); observed, E_data phi
    at the neurons' cells (M); step."""

    nu: Float[Array, " K"]
    gamma: Float[Array, "2 M"]
    start: Float[Array, " K"]
    observed: Float[Array, " M"]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class MeanField(Method):
    """The mean-field equations on a grid.

    Args:
        space: Sphere(2), Torus(1) or Sphere(3), of the particles, and of a feature whose parameters live on one of these.
        cells, neuron_cells: K and M.
        signs: "half" and half, gamma of each sign at 1/2 in all; or "all_negative". Uniform at the start, of total variation 1, as `Dual`.
        budget: keep the total variation within the radius.
        substeps: of nu (explicit Euler steps), and of gamma's transport, in an iteration: `check` tells how many are needed.

    Raises ValueError for a choice that does not exist, and for spaces without cells.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = MeanField(Sphere(2), cells=64, neuron_cells=64), Samples(jnp.eye(2))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> round(float(state.nu.sum()), 5), bool((state.nu > 0).all())
    (1.0, True)
    """

    space: Space
    feature: Feature = ReLU()
    cells: int = 256
    neuron_cells: int = 256
    signs: str = "half"
    budget: bool = True
    substeps: int = 64

    def __post_init__(self):
        checks.choice("signs", self.signs, SIGNS)
        for name in ("cells", "neuron_cells", "substeps"):
            checks.count(name, getattr(self, name))
        _ = self.grids  # its errors

    @property
    def grids(self) -> tuple[Cells, Cells]:
        """The cells of the particles and of the neurons."""
        return cells(self.space, self.cells), cells(self.feature.parameter_space(self.space), self.neuron_cells)

    @property
    def rates(self) -> DualRates:
        """Steps in which the time of an iteration is short beside that of the flow: 0.01, and 0.1 of the neurons."""
        return DualRates(0.01, 0.1, 0.1)

    def check(self, rates: DualRates, data: Samples) -> None:
        """Raises ValueError naming the argument, its value and what is allowed: also steps for which a mass could become negative."""
        super().check(rates, data)
        for name, limit in self.largest_steps(rates, data).items():
            value = float(getattr(rates, name))
            if value > self.substeps * limit:
                needed = int(np.ceil(value / limit))
                raise ValueError(
                    f"{name} is {value}; with {self.substeps} substeps it must be at most {self.substeps * limit:.3g}, "
                    f"or substeps at least {needed}: a mass could become negative"
                )

    def largest_steps(self, rates: DualRates, data: Samples) -> dict[str, float]:
        """The largest particle_step and transport_step with one substep: beyond them a mass could become negative."""
        points, neurons = self.grids
        x, theta = (jnp.asarray(grid.centres, data.points.dtype) for grid in (points, neurons))
        phi = np.asarray(self.feature(x, theta))
        across = np.abs(phi[points.first] - phi[points.second]).max(axis=1)  # of f over a face, for each unit of total variation
        over = np.abs(phi[:, neurons.first] - phi[:, neurons.second]).max(axis=0)
        return {
            "particle_step": 1 / _fastest(points, 1 + float(rates.radius) * across),
            "transport_step": 1 / _fastest(neurons, 2 * over),
        }

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> MeanFieldState:
        """nu at the data, in their cells; gamma uniform. Draws nothing."""
        del key, rates
        neurons, dtype = self.grids[1], data.points.dtype
        start = jnp.zeros(self.cells, dtype).at[self.cell_of(data.points)].add(data.weights)
        split = {"half": (0.5, 0.5), "all_negative": (0.0, 1.0)}[self.signs]
        gamma = jnp.stack([share * jnp.asarray(neurons.shares, dtype) for share in split])
        observed = feature_mean(self.feature, jnp.asarray(neurons.centres, dtype), data)[0]
        return MeanFieldState(start, gamma, start, observed, jnp.int32(0))

    def cell_of(self, x: Float[Array, "n d"]) -> Int[Array, " n"]:
        """The cell of each point: that whose centre is nearest."""
        centres = jnp.asarray(self.grids[0].centres, x.dtype)
        return self.space.nearest(x, centres)

    def step(self, key: Key[Array, ""], state: MeanFieldState, rates: DualRates, data: Samples) -> tuple[MeanFieldState, Info]:
        """One iteration, as in Algorithm 1: restart, nu, then F of the moved nu, reaction where the mass is, transport, budget."""
        del key
        points, neurons = self.grids
        dtype = state.nu.dtype
        nu = (1 - rates.restart_probability) * state.nu + rates.restart_probability * state.start
        f = self.energy(state, rates, data)(jnp.asarray(points.centres, dtype))
        nu = _diffuse(points, nu, f, rates.particle_step, self.substeps)
        centres = jnp.asarray(neurons.centres, dtype)
        model = Samples(jnp.asarray(points.centres, dtype), jnp.log(nu))
        witness = feature_mean(self.feature, centres, model)[0] - state.observed
        signs = jnp.array([[1.0], [-1.0]], dtype)
        gamma = state.gamma * jnp.exp(rates.reaction_step * signs * witness[None])
        carried = [_carry(neurons, g, s * witness, rates.transport_step, self.substeps) for g, s in zip(gamma, (1, -1), strict=True)]
        gamma = jnp.stack(carried)
        if self.budget:
            gamma = gamma * rates.radius / jnp.maximum(jnp.sum(gamma), rates.radius)
        return state._replace(nu=nu, gamma=gamma, step=state.step + 1), Info()

    def energy(self, state: MeanFieldState, rates: DualRates, data: Samples) -> Shallow:
        """f = int phi d(gamma_+ - gamma_-), as M neurons at the centres of the cells."""
        del rates, data
        charges = self.neuron_cells * (state.gamma[0] - state.gamma[1])
        return Shallow(self.feature, jnp.asarray(self.grids[1].centres, charges.dtype), charges)

    def diverged(self, state: MeanFieldState) -> Int[Array, ""]:
        """NO_WEIGHT where the total variation is 0."""
        return jnp.where(jnp.sum(state.gamma) == 0, Divergence.NO_WEIGHT, Divergence.NONE).astype(jnp.int32)


# -- Fluxes ----------------------------------------------------------------------------------------------


def _fastest(grid: Cells, factor: np.ndarray) -> float:
    """The largest rate at which mass can leave a cell, for factors of the faces."""
    out = np.zeros(len(grid.shares))
    for side in (grid.first, grid.second):
        np.add.at(out, side, grid.conductance * factor)
    return float((out / grid.shares).max())


def bernoulli(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """B(z) = z / (e^z - 1), 1 at 0.

    >>> [round(float(b), 4) for b in bernoulli(jnp.array([0.0, 1.0, -1.0]))]
    [1.0, 0.582, 1.582]
    """
    small = jnp.abs(z) < 1e-3
    safe = jnp.where(small, 1, z)
    return jnp.where(small, 1 - z / 2 + z**2 / 12, safe / jnp.expm1(safe))


def _moved(grid: Cells, mass, there, back, step, substeps: int):
    """Explicit steps of dm_i/dt = what comes over the faces of i less what goes, per mass `there` from first to second and `back`."""

    def body(_, mass):
        flux = step / substeps * (there * mass[grid.first] - back * mass[grid.second])
        return mass.at[grid.first].add(-flux).at[grid.second].add(flux)

    return jax.lax.fori_loop(0, substeps, body, mass)


def _diffuse(grid: Cells, nu, f, step, substeps: int):
    """The Fokker-Planck equation of an energy f that stays, for a time `step`."""
    dtype = nu.dtype
    conductance, share = (jnp.asarray(a, dtype) for a in (grid.conductance, grid.shares))
    rise = f[grid.second] - f[grid.first]
    there = conductance * bernoulli(rise) / share[grid.first]
    back = conductance * bernoulli(-rise) / share[grid.second]
    return _moved(grid, nu, there, back, step, substeps)


def _carry(grid: Cells, mass, potential, step, substeps: int):
    """Transport along the gradient of a potential, upwind."""
    dtype = mass.dtype
    conductance, share = (jnp.asarray(a, dtype) for a in (grid.conductance, grid.shares))
    rise = potential[grid.second] - potential[grid.first]
    there = conductance * jnp.maximum(rise, 0) / share[grid.first]
    back = conductance * jnp.maximum(-rise, 0) / share[grid.second]
    return _moved(grid, mass, there, back, step, substeps)

