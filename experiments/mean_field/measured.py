"""What both limits are measured with: settings, data, integrals and densities of both kinds of measures, slopes and floors of errors."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal.finite_volume import cells
from dualebm.geometry import Space
from dualebm.measures import Samples, coefficients
from dualebm.methods.dual import DualRates
from dualebm.methods.mean_field import MeanField
from dualebm.metrics.base import Metric
from dualebm.spaces import Sphere
from experiments import _common

STUDIES = ("circle", "sphere", "matching")
RADIUS = 10.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (about two minutes) or paper (about a quarter of an hour, on two cores)."""
    only: tuple[str, ...] = STUDIES
    """Which of circle, sphere, matching."""
    seeds: int | None = None
    """Particle systems of each size, each with its own neurons, particles and noise."""
    sizes: int | None = None
    """Sizes of the particle systems: 200 particles and 20 neurons, 400 and 40, ..."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    out: Path = Path("results/mean_field")
    """Where results and figures are written."""


def sizes_of(settings: Settings, count: int) -> list[int]:
    """Returns the numbers of particles of the systems, `count` of them unless the settings say how many."""
    return [200 * 2**k for k in range(settings.sizes or count)]


def system_seeds(settings: Settings, count: int) -> range:
    """Returns the seeds of the particle systems, `count` of them unless the settings say how many."""
    return _common.seeds_of(settings, settings.seeds or count)


# -- Data and what is measured ---------------------------------------------------------------------------


def log_density(x: np.ndarray) -> np.ndarray:
    """Returns the log density of a mixture of two von Mises-Fisher bumps, up to a constant."""
    first, second = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    first[:2], second[:2] = (math.cos(0.7), math.sin(0.7)), (math.cos(2.2), -math.sin(2.2))
    return np.logaddexp(np.log(0.65) + 4 * (x @ first - 1), np.log(0.35) + 10 * (x @ second - 1))


def drawn_data(count: int) -> Samples:
    """Returns 100 draws of the mixture on the circle, each at the centre of one of 256 arcs, which grids of 256, 512, ... cells all have.

    >>> drawn_data(512).points.shape
    (100, 2)
    """
    _common.check_multiple("count", count, 256)
    centres = cells(Sphere(2), 256).centres
    density = np.exp(log_density(centres))
    chosen = np.random.default_rng(0).choice(256, 100, p=density / density.sum())
    return Samples(jnp.asarray(centres[chosen], jnp.float32))


def smooth_data(space: Space, count: int) -> Samples:
    """Returns the mixture itself, as weights of the centres of so many cells."""
    grid = cells(space, count)
    log_weights = log_density(grid.centres) + np.log(grid.shares)
    return Samples(jnp.asarray(grid.centres, jnp.float32), jnp.asarray(log_weights, jnp.float32))


def harmonics(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """Returns the test functions: spherical harmonics of degree 1 and 2, x_i, 2 x_i x_j (i < j) and x_i^2 - x_{i+1}^2.

    >>> [round(float(value), 2) for value in harmonics(jnp.array([[0.6, 0.8]]))[0]]
    [0.6, 0.8, 0.96, -0.28]
    """
    i, j = np.triu_indices(x.shape[1], 1)
    return jnp.concatenate([x, 2 * x[:, i] * x[:, j], x[:, :-1] ** 2 - x[:, 1:] ** 2], axis=1)


def measures(method, state):
    """Returns nu as points and masses, and gamma as points and the masses of either sign, of cells or of particles and neurons."""
    if isinstance(method, MeanField):
        x, theta = (jnp.asarray(grid.centres, state.nu.dtype) for grid in method.grids)
        return (x, state.nu), (theta, state.gamma[0], state.gamma[1])
    x, mass = state.particles, coefficients(state.atoms) / method.neurons
    uniform = jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)
    return (x, uniform), (state.atoms.positions, jnp.maximum(mass, 0), jnp.maximum(-mass, 0))


def of_particles(key, iterate):
    """Returns the integrals of the harmonics in nu: a metric."""
    del key
    (x, mass), _ = measures(iterate.method, iterate.state)
    return mass @ harmonics(x)


def of_neurons(key, iterate):
    """Returns the integrals of the harmonics and of 1 in gamma: a metric."""
    del key
    _, (theta, plus, minus) = measures(iterate.method, iterate.state)
    return jnp.append((plus - minus) @ harmonics(theta), jnp.sum(plus - minus))


class Densities(Metric):
    """On the circle: nu, and gamma of the signs + and -, in so many arcs, with respect to the uniform measure: (3, bins)."""

    bins: int = eqx.field(static=True)

    def __call__(self, key, iterate):
        """The densities."""
        del key
        (x, mass), (theta, plus, minus) = measures(iterate.method, iterate.state)

        def of(points, mass):
            turn = jnp.arctan2(points[:, 1], points[:, 0]) / (2 * math.pi)
            arc = jnp.floor(turn * self.bins + 1e-3).astype(int) % self.bins  # the centre of a cell is where an arc begins: never below it
            return self.bins * jnp.zeros(self.bins, mass.dtype).at[arc].add(mass)

        return jnp.stack([of(x, mass), of(theta, plus), of(theta, minus)])


def centred_energy(key, iterate):
    """Returns f at 64 points of the circle, less its mean: a metric."""
    del key
    f = iterate.energy(jnp.asarray(cells(Sphere(2), 64).centres, iterate.data.points.dtype))
    return f - jnp.mean(f)


MEASURES = {"nu": of_particles, "gamma": of_neurons}
"""Name of a measure -> the integrals in it."""


def root_mean_square(x, *, keep: int = 0) -> np.ndarray:
    """Returns the root mean square over all axes but the first `keep`.

    >>> root_mean_square([[3.0, 4.0], [0.0, 0.0]], keep=1).round(3).tolist()
    [3.536, 0.0]
    """
    x = np.asarray(x, float)
    return np.sqrt(np.mean(x**2, axis=tuple(range(keep, x.ndim))))


def fitted_slope(x, y) -> tuple[float, float, float]:
    """Fits log y against log x by least squares: the slope, its standard error (NaN for two points), and the constant.

    >>> [round(value, 6) for value in fitted_slope([1, 10, 100], [2.0, 0.2, 0.02])]
    [-1.0, 0.0, 0.693147]
    """
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    across = x - x.mean()
    slope = float(across @ y / (across @ across))
    constant = float(y.mean() - slope * x.mean())
    rest = y - constant - slope * x
    error = math.sqrt(rest @ rest / (len(x) - 2) / (across @ across)) if len(x) > 2 else math.nan
    return slope, error, constant


def extrapolated(coarse, fine):
    """Returns the limit of values whose error halves from one grid to the next."""
    return 2 * np.asarray(fine, float) - np.asarray(coarse, float)


def admissible(method: MeanField, rates: DualRates, data: Samples) -> MeanField:
    """Returns the method with as many substeps as these steps need."""
    needed = [float(getattr(rates, name)) / limit for name, limit in method.largest_steps(rates, data).items()]
    return dataclasses.replace(method, substeps=math.ceil(1.01 * max(needed)))


@partial(jax.jit, static_argnums=0)
def after(method, state, rates, data: Samples, steps):
    """Returns the state of a method that draws nothing, so many steps later: one program for any number of steps."""
    return jax.lax.fori_loop(0, steps, lambda _, state: method.step(jax.random.key(0), state, rates, data)[0], state)




def row(case, at, against, expected, slope, uncertain, values, bias=None, chance=None, grid=None, step=None) -> dict[str, Any]:
    """Returns a row of the table: a slope of errors, the first and the last of them, and floors."""
    return dict(
        case=case, at=at, against=against, expected=expected, slope=slope, slope_error=uncertain, first=values[0], last=values[-1],
        bias=bias, chance=chance, grid_floor=grid, step_floor=step,
    )  # fmt: skip
