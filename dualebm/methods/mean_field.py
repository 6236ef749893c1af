"""The coupled mean-field equations, for infinitely many neurons and particles (arXiv 2107.05134, eq. 6; Proposition 2).

    nu    d nu / dt = div(nu (grad f - grad log tau)) + Lap nu - p (nu - nu_n)
    gamma d gamma_s / dt = -s div(gamma_s grad F) + gamma_s (s F - K),   s = +1, -1

with f = int phi d(gamma_+ - gamma_-) and F = E_nu phi - E_data phi. K keeps the total variation within the radius. One
iteration takes the time `particle_step` for nu and the neuron steps for gamma, in the order of Algorithm 1. It is the
limit of `Dual` for large N and m and small steps of the particles.

The equations are solved by finite volumes on cells (see `dualebm._internal.finite_volume`). nu flows through a face by
the fluxes of Scharfetter and Gummel,

    conductance (B(f_j - f_i) nu_i / v_i - B(f_i - f_j) nu_j / v_j),   B(z) = z / (e^z - 1).

This is a reversible jump process between cells. Mass is conserved to rounding, nothing becomes negative, and exp(-f)
tau is stationary exactly. gamma is carried by upwind fluxes, which are conservative and positive too, and grows by
exact exponentials.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dualebm import settings
from dualebm._internal.finite_volume import Cells, cells
from dualebm.energies.shallow import Shallow, feature_mean
from dualebm.features import Feature, ReLU
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.base import Divergence, Info, Method
from dualebm.methods.dual import DualRates
from dualebm.settings import Count


class MeanFieldState(NamedTuple):
    """The state of `MeanField`.

    Args:
        nu: the masses of the particles in the K cells, (K,).
        gamma: the masses of the neurons of sign + and of sign - in the M cells, (2, M).
        start: the masses of the data in the K cells, (K,).
        observed: E_data phi at the centres of the neurons' cells, (M,).
        step: the number of iterations done.
    """

    nu: Float[Array, " K"]
    gamma: Float[Array, "2 M"]
    start: Float[Array, " K"]
    observed: Float[Array, " M"]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class MeanField(Method):
    """The mean-field equations of Algorithm 1 on a grid.

    Args:
        space: the space of the particles: Sphere(2), Torus(1) or Sphere(3).
        feature: phi. Its parameters must live on one of these spaces too.
        cells: the number K of cells of the particles.
        neuron_cells: the number M of cells of the neurons.
        signs: "half", where gamma has the mass 1/2 of each sign at the start; or "all_negative". The mass is uniform,
            of total variation 1.
        budget: whether to keep the total variation within the radius.
        substeps: the number of explicit Euler steps of nu, and of gamma's transport, in an iteration. `check` says how
            many are needed.

    Raises:
        ValueError: a setting is not allowed, or a space has no cells. The message names the setting, its value and what
            is allowed.

    >>> from dualebm.training.simulate import start, step; from dualebm.spaces import Sphere
    >>> method, data = MeanField(Sphere(2), cells=64, neuron_cells=64), Samples(jnp.eye(2))
    >>> state = start(jax.random.key(1), method, method.rates, data)
    >>> state, info = step(jax.random.key(2), method, state, method.rates, data)
    >>> round(float(state.nu.sum()), 5), bool((state.nu > 0).all())
    (1.0, True)
    """

    space: Space
    feature: Feature = ReLU()
    cells: Count = 256
    neuron_cells: Count = 256
    signs: Literal["half", "all_negative"] = "half"
    budget: bool = True
    substeps: Count = 64

    def __post_init__(self):
        settings.check(self)
        _ = self.grids  # raises for a space without cells

    @property
    def grids(self) -> tuple[Cells, Cells]:
        """The cells of the particles and the cells of the neurons."""
        particles, parameters = cells(self.space, self.cells), self.feature.parameter_space(self.space)
        try:
            return particles, cells(parameters, self.neuron_cells)
        except ValueError:
            allowed = "one with parameters in Sphere(2), Torus(1) or Sphere(3), on S^2 a ridge with bias=False"
            lacking = f"feature is {self.feature}, whose parameters lie in {parameters}, which has no cells"
            raise ValueError(f"{lacking}; allowed: {allowed}") from None

    @property
    def rates(self) -> DualRates:
        """The default rates, 0.01 for the particles and 0.1 for the neurons: an iteration is short beside the time of the flow."""
        return DualRates(0.01, 0.1, 0.1)

    def check(self, rates: DualRates, data: Samples) -> None:
        """Check the rates and the data, and that no mass can become negative with these steps and substeps."""
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
        """Return the largest `particle_step` and `transport_step` for which one substep keeps all masses positive.

        Args:
            rates: the rates, of which the limits depend on `radius` alone.
            data: the data, whose dtype is that of the computation.

        Returns:
            The two limits by name, in units of time.
        """
        points, neurons = self.grids
        x, theta = (jnp.asarray(grid.centres, data.points.dtype) for grid in (points, neurons))
        phi = np.asarray(self.feature(x, theta))
        across = np.abs(phi[points.first] - phi[points.second]).max(axis=1)  # largest jump of f over a face, per unit of total variation
        over = np.abs(phi[:, neurons.first] - phi[:, neurons.second]).max(axis=0)
        return {
            "particle_step": 1 / _fastest(points, 1 + float(rates.radius) * across),
            "transport_step": 1 / _fastest(neurons, 2 * over),
        }

    def init(self, key: Key[Array, ""], rates: DualRates, data: Samples) -> MeanFieldState:
        """Return nu at the data, in their cells, and a uniform gamma. Nothing is drawn."""
        del key, rates
        neurons, dtype = self.grids[1], data.points.dtype
        start = jnp.zeros(self.cells, dtype).at[self.cell_of(data.points)].add(data.weights)
        split = {"half": (0.5, 0.5), "all_negative": (0.0, 1.0)}[self.signs]
        gamma = jnp.stack([share * jnp.asarray(neurons.shares, dtype) for share in split])
        observed = feature_mean(self.feature, jnp.asarray(neurons.centres, dtype), data)[0]
        return MeanFieldState(start, gamma, start, observed, jnp.int32(0))

    def cell_of(self, x: Float[Array, "n d"]) -> Int[Array, " n"]:
        """Return the number of the cell of each point: the cell with the nearest centre.

        Args:
            x: points, (n, d).

        Returns:
            The numbers, integers (n,).
        """
        centres = jnp.asarray(self.grids[0].centres, x.dtype)
        return self.space.nearest(x, centres)

    def step(self, key: Key[Array, ""], state: MeanFieldState, rates: DualRates, data: Samples) -> tuple[MeanFieldState, Info]:
        """Do one iteration in the order of Algorithm 1: restart, nu, F of the new nu, reaction, transport, budget."""
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
        """Return f = int phi d(gamma_+ - gamma_-), as M neurons at the centres of the cells."""
        del rates, data
        charges = self.neuron_cells * (state.gamma[0] - state.gamma[1])
        return Shallow(self.feature, jnp.asarray(self.grids[1].centres, charges.dtype), charges)

    def diverged(self, state: MeanFieldState) -> Int[Array, ""]:
        """Return `NO_WEIGHT` where the total variation is 0."""
        return jnp.where(jnp.sum(state.gamma) == 0, Divergence.NO_WEIGHT, Divergence.NONE).astype(jnp.int32)


# -- Fluxes ----------------------------------------------------------------------------------------------


def _fastest(grid: Cells, factor: np.ndarray) -> float:
    """Return the largest rate at which mass can leave a cell, with a factor for each face."""
    out = np.zeros(len(grid.shares))
    for side in (grid.first, grid.second):
        np.add.at(out, side, grid.conductance * factor)
    return float((out / grid.shares).max())


def bernoulli(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the Bernoulli function B(z) = z / (e^z - 1), which is 1 at z = 0.

    Args:
        z: numbers, an array of any shape.

    Returns:
        The values, of the same shape.

    >>> [round(float(b), 4) for b in bernoulli(jnp.array([0.0, 1.0, -1.0]))]
    [1.0, 0.582, 1.582]
    """
    small = jnp.abs(z) < 1e-3
    safe = jnp.where(small, 1, z)
    return jnp.where(small, 1 - z / 2 + z**2 / 12, safe / jnp.expm1(safe))


def _moved(grid: Cells, mass, forward, backward, step, substeps: int):
    """Do explicit Euler steps of the masses, which flow over the faces.

    Per unit of mass, `forward` is the rate from the first cell of a face to the second, and `backward` the rate in the
    other direction.
    """

    def body(_, mass):
        flux = step / substeps * (forward * mass[grid.first] - backward * mass[grid.second])
        return mass.at[grid.first].add(-flux).at[grid.second].add(flux)

    return jax.lax.fori_loop(0, substeps, body, mass)


def _diffuse(grid: Cells, nu, f, step, substeps: int):
    """Solve the Fokker-Planck equation of a fixed energy f for a time `step`."""
    dtype = nu.dtype
    conductance, share = (jnp.asarray(a, dtype) for a in (grid.conductance, grid.shares))
    rise = f[grid.second] - f[grid.first]
    forward = conductance * bernoulli(rise) / share[grid.first]
    backward = conductance * bernoulli(-rise) / share[grid.second]
    return _moved(grid, nu, forward, backward, step, substeps)


def _carry(grid: Cells, mass, potential, step, substeps: int):
    """Transport the masses along the gradient of a potential, upwind, for a time `step`."""
    dtype = mass.dtype
    conductance, share = (jnp.asarray(a, dtype) for a in (grid.conductance, grid.shares))
    rise = potential[grid.second] - potential[grid.first]
    forward = conductance * jnp.maximum(rise, 0) / share[grid.first]
    backward = conductance * jnp.maximum(-rise, 0) / share[grid.second]
    return _moved(grid, mass, forward, backward, step, substeps)
