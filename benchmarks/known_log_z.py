"""Energies whose log Z is known without sampling, with exact samples of their models where there are some."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dualebm import auto
from dualebm.base_measures import Flat, Gaussian
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.energies.boltzmann import BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture
from dualebm.geometry import Space
from dualebm.spaces import Euclidean


@dataclasses.dataclass(frozen=True)
class Known:
    """An energy with log Z with respect to the base measure of its space.

    `sample(key, count)` draws independent samples of the model, (count, d). It is None where no exact sampler is known.
    """

    energy: Energy
    space: Space
    log_partition: float
    sample: Callable | None


class Relative(Energy):
    """The energy U + log tau of a density exp(-U) of Lebesgue's measure, so that tau drops out of the model."""

    energy: Energy
    scale: float

    def __call__(self, x):
        """Returns the energy relative to N(0, scale^2 I), (N,)."""
        scale, d = self.scale, x.shape[1]
        return self.energy(x) - 0.5 * jnp.sum(x * x, axis=1) / scale**2 - d * math.log(scale * math.sqrt(2 * math.pi))


class Normal(Energy):
    """The energy |R (x - a)|^2 / 2."""

    mean: jax.Array
    root: jax.Array

    def __call__(self, x):
        """Returns the energy, (N,)."""
        return 0.5 * jnp.sum(jnp.matmul(x - self.mean, self.root.T, precision="highest") ** 2, axis=1)


class Stretched(Energy):
    """The energy U(x / factor)."""

    energy: Energy
    factor: float

    def __call__(self, x):
        """Returns the energy, (N,)."""
        return self.energy(x / self.factor)


class Funnel(Energy):
    """Neal's funnel, normalised: x_1 has the standard deviation `deviation`, and the others the variance exp(x_1) given it."""

    deviation: jax.Array

    def __call__(self, x):
        """Returns the energy, (N,)."""
        first, rest, d = x[:, 0], x[:, 1:], x.shape[1]
        narrow = 0.5 * jnp.exp(-first) * jnp.sum(rest**2, axis=1) + 0.5 * (d - 1) * first
        return 0.5 * (first / self.deviation) ** 2 + narrow + 0.5 * d * math.log(2 * math.pi) + jnp.log(self.deviation)


class ManyWell(Energy):
    """The energy sum_i (x_i^2 - depth)^2 over the first `wells` coordinates, and |x|^2 / 2 over the others: 2^wells modes."""

    depth: jax.Array
    wells: int

    def __call__(self, x):
        """Returns the energy, (N,)."""
        first, rest = x[:, : self.wells], x[:, self.wells :]
        return jnp.sum((first**2 - self.depth) ** 2, axis=1) + 0.5 * jnp.sum(rest**2, axis=1)


# ---- the list --------------------------------------------------------------------------------------------


def _teacher(target) -> Known:
    return Known(target.energy, target.space, target.log_partition, lambda key, count: targets.sample(key, target, count)[0].points)


def _normal(covariance, mean) -> Known:
    d = len(covariance)
    root, factor = np.linalg.cholesky(np.linalg.inv(covariance)).T, jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    energy = Relative(Normal(jnp.full(d, mean, jnp.float32), jnp.asarray(root, jnp.float32)), 1.0)
    log_z = 0.5 * d * math.log(2 * math.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    return Known(energy, Euclidean(d), float(log_z), lambda key, count: mean + jax.random.normal(key, (count, d)) @ factor.T)


def correlated() -> Known:
    """A normal distribution of 20 coordinates of variance 1, with correlations .8^|i - j| and the mean .5 in each."""
    return _normal(0.8 ** np.abs(np.subtract.outer(np.arange(20), np.arange(20))), 0.5)


def mixture_of_40(scale: float = 20.0) -> Known:
    """40 normal distributions of equal mass in the square of side 80, each of the standard deviation log(1 + e)."""
    deviation = math.log1p(math.e)
    means = np.random.default_rng(0).uniform(-40, 40, (40, 2)) / deviation
    mixture = GaussianMixture(jnp.asarray(means, jnp.float32), jnp.zeros(39), None)
    log_z, flat = math.log(40) + math.log(2 * math.pi) + 2 * math.log(deviation), Euclidean(2, Flat())
    sample = lambda key, count: deviation * mixture.sample(key, flat, count)  # noqa: E731
    return Known(Relative(Stretched(mixture, deviation), scale), Euclidean(2, Gaussian(scale)), log_z, sample)


def funnel(scale: float = 1.0, deviation: float = 3.0) -> Known:
    """The funnel in 10 dimensions, from the base measure N(0, scale^2 I)."""

    def sample(key, count):
        z = jax.random.normal(key, (count, 10))
        first = deviation * z[:, :1]
        return jnp.concatenate([first, jnp.exp(first / 2) * z[:, 1:]], axis=1)

    return Known(Relative(Funnel(jnp.asarray(deviation)), scale), Euclidean(10, Gaussian(scale)), 0.0, sample)


def many_well(dimension: int, wells: int = 5, depth: float = 4.0) -> Known:
    """Wells of depth 16 at +-2 in five coordinates, and the standard normal distribution in the others."""
    grid = np.linspace(-4, 4, 2**16 + 1)
    density = np.exp(-((grid**2 - depth) ** 2))
    mass = float(np.sum(density) * (grid[1] - grid[0]))  # the trapezoid rule, exact to rounding for a density that vanishes at both ends
    cumulative = jnp.asarray(np.cumsum(density) / np.sum(density))

    def sample(key, count):
        one, two = jax.random.split(key)
        place = jnp.interp(jax.random.uniform(one, (count, wells)), cumulative, jnp.asarray(grid))
        return jnp.concatenate([place, jax.random.normal(two, (count, dimension - wells))], axis=1)

    log_z = wells * math.log(mass) + 0.5 * (dimension - wells) * math.log(2 * math.pi)
    return Known(Relative(ManyWell(jnp.asarray(depth), wells), 1.0), Euclidean(dimension), log_z, sample)


def machine() -> Known:
    """A Boltzmann machine of 12 hidden units and 6 visible ones."""
    energy, space = BoltzmannMachine(jax.random.normal(jax.random.key(5), (12, 6)), jnp.zeros(6), -jnp.ones(12)), Euclidean(6)
    return Known(energy, space, float(energy.log_partition(space)), lambda key, count: energy.sample(key, space, count))


def fitted() -> Known:
    """An automatic fit to 300 rows of two half moons, with log Z by the trapezoid rule on the plane."""
    from sklearn.datasets import make_moons

    rows = make_moons(300, noise=0.1, random_state=0)[0]
    rows = (rows - rows.mean(0)) / rows.std(0)
    options = auto.Auto(base="normal", feature="relu", neurons=32, stages=6, iterations=30, draws=2048, paths=1)
    fit = auto.fit(jax.random.key(0), jnp.asarray(rows, jnp.float32), Euclidean(2), options)
    space, axis = fit.space, np.linspace(-12, 12, 1601)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    values = np.asarray(jax.jit(lambda x: space.log_base(x) - fit.energy(x))(grid), np.float64)
    log_z = float(np.logaddexp.reduce(values) + 2 * math.log(axis[1] - axis[0]))
    return Known(fit.energy, space, log_z, None)


KNOWN: dict[str, Callable[[], Known]] = {
    "teacher on S^1": lambda: _teacher(targets.planted([[1.0, 0.0], [0.0, 1.0]], [-10.0, -10.0])),
    "teacher on S^2": lambda: _teacher(targets.teacher("s2_bimodal")),
    "teacher on S^14": lambda: _teacher(targets.teacher("s14_bimodal")),
    "normal, d = 20": lambda: _normal(np.eye(20) / 4, 1.0),
    "correlated normal, d = 20": correlated,
    "mixture of 40, d = 2": mixture_of_40,
    "funnel, d = 10": lambda: funnel(3.0),
    "many-well, d = 5": lambda: many_well(5),
    "many-well, d = 50": lambda: many_well(50),
    "Boltzmann machine": machine,
    "fitted model, d = 2": fitted,
}
"""The energies by name."""
