"""The Gaussian mixture of arXiv 2305.19414: its teacher, data, methods and metrics."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dualebm.base_measures import Flat
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.flows import jarzynski
from dualebm.measures import Samples, shares
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import FIXED, Jarzynski
from dualebm.metrics.base import Metric
from dualebm.metrics.walkers import EffectiveFraction, Resamplings
from dualebm.spaces import Euclidean

FIRST, SECOND, MASS = -10.0, 6.0, 0.25
"""The first coordinates of the teacher's means, and the mass of its first mode."""

PARTICLE_STEP, MEANS_STEP, OFFSETS_STEP = 0.1, 0.0025, 0.0125
THRESHOLD = 0.5
"""The effective fraction of the walkers below which they are resampled."""

RESTART_EVERY, FASTER = 4, 10.0
"""Of CD: iterations between restarts at the data, and its learning rates in units of those of the others."""

METHODS = {"jarzynski": "Jarzynski", "adjusted": "Jarzynski, adjusted", "pcd": "PCD", "cd": "CD"}
WEIGHTED = ("jarzynski", "adjusted")


def teacher(dimension: int) -> GaussianMixture:
    """Returns the mixture that makes the data.

    >>> [round(float(mass), 3) for mass in jnp.exp(teacher(3).log_masses())]
    [0.25, 0.75]
    """
    means = jnp.zeros((2, dimension)).at[:, 0].set(jnp.array([FIRST, SECOND]))
    return GaussianMixture(means, jnp.array([-math.log((1 - MASS) / MASS)]), None)


def data(key, n, dimension) -> Samples:
    """Draws n points of the teacher, exactly a quarter of them in the first mode.

    >>> (data(jax.random.key(0), 8, 2).points[:, 0] < -2).tolist()
    [True, True, False, False, False, False, False, False]
    """
    first = jnp.where(jnp.arange(n) < n * MASS, FIRST, SECOND)
    return Samples(jax.random.normal(key, (n, dimension)).at[:, 0].add(first))


def optimiser() -> optax.GradientTransformation:
    """Returns gradient descent with a step for each of the two fields."""
    field = lambda path, _: str(path[0]).lstrip(".")  # noqa: E731
    steps: dict[Any, Any] = {"means": optax.sgd(MEANS_STEP), "offsets": optax.sgd(OFFSETS_STEP)}
    return optax.partition(steps, lambda energy: jax.tree_util.tree_map_with_path(field, energy))


def method_of(name: str, dimension: int, walkers: int) -> tuple[Any, Any]:
    """Returns a method of `METHODS` and its rates.

    >>> method_of("cd", 3, 100)[0].restart_every, method_of("cd", 3, 100)[1].learning_rate, method_of("pcd", 3, 100)[0].restart_every
    (4, 10.0, None)
    """
    integrator = "mala" if name == "adjusted" else "geodesic"
    shared: dict[str, Any] = dict(walkers=walkers, integrator=integrator, noise="independent", optimiser=optimiser, **FIXED)
    space, start = Euclidean(dimension, Flat()), Mixture(2, spread=0.01, separation=0.1)
    if name in WEIGHTED:
        weighted = Jarzynski(space, start, **shared)
        return weighted, weighted.rates._replace(particle_step=PARTICLE_STEP, learning_rate=1.0, threshold=THRESHOLD)
    plain = Contrastive(space, start, **shared, begin="data", restart_every=RESTART_EVERY if name == "cd" else None)
    return plain, plain.rates._replace(particle_step=PARTICLE_STEP, learning_rate=FASTER if name == "cd" else 1.0)


# -- What is recorded ----------------------------------------------------------------------------------


class Mass(Metric):
    """The mass of the student's first mode.

    >>> Mass().units
    '1'
    """

    long_name, units = "mass of the first mode", "1"

    def __call__(self, key, iterate):
        """Returns the mass, a scalar."""
        del key
        return jnp.exp(iterate.energy.log_masses()[0])


class Means(Metric):
    """The first coordinates of the student's means, (2,).

    >>> Means().units
    '1'
    """

    long_name, units = "first coordinates of the means", "1"

    def __call__(self, key, iterate):
        """Returns the coordinates."""
        del key
        return iterate.energy.means[:, 0]


class Divergence(Metric):
    """KL(teacher || student), E (U - U*) + log Z - log Z* with both log Z exact, over samples of the teacher; None for the training data.

    >>> Divergence(teacher(2), None).units
    'nat'
    """

    teacher: GaussianMixture
    samples: Samples | None
    long_name, units = "KL(teacher || student)", "nat"

    def __call__(self, key, iterate):
        """Returns the KL, a scalar; noise, or on the training data overfitting, may make it negative."""
        del key
        student, points = iterate.energy, (self.samples or iterate.data).points
        levels = student.log_partition(iterate.method.space) - self.teacher.log_partition(iterate.method.space)
        return jnp.mean(student(points) - self.teacher(points)) + levels


class PartitionError(Metric):
    """log Z by the weights of the walkers less the exact one, and its standard error by the walkers, (2,).

    >>> PartitionError().units
    'nat'
    """

    long_name, units = "log Z by the walkers less log Z", "nat"

    def __call__(self, key, iterate):
        """Returns the difference and the error."""
        del key
        method, state = iterate.method, iterate.state
        weights, kind = (state.diagnosis, "none") if isinstance(method, Contrastive) else (state.weights, method.resampling)
        value, error = jarzynski.log_partition(weights, kind)  # the error is that of walkers that the energy does not follow
        return jnp.stack([value - iterate.energy.log_partition(iterate.method.space), error])


class Drift(Metric):
    """sum_i p_i^2 (s_means |dU/dmeans|^2 + s_offsets |dU/doffsets|^2) at the walkers: what a step is expected to take off log Z.

    dU/da_j = r_j (a_j - x) and dU/dz_j = r_j, with r_j the share of component j at x.

    >>> Drift().units
    'nat'
    """

    long_name, units = "expected loss of log Z in a step", "nat"

    def __call__(self, key, iterate):
        """Returns the loss, a scalar."""
        del key
        energy, walkers = iterate.energy, iterate.samples
        x, p = walkers.points, shares(walkers.log_weights)  # type: ignore[arg-type]
        levels = jnp.concatenate([jnp.zeros(1, x.dtype), energy.offsets])
        squares = jnp.stack([jnp.sum((x - mean[None]) ** 2, axis=1) for mean in energy.means], axis=1)
        r = jax.nn.softmax(-0.5 * squares - levels[None], axis=1)
        of_means, of_offsets = jnp.sum(r**2 * squares, axis=1), jnp.sum(r[:, 1:] ** 2, axis=1)
        return iterate.rates.learning_rate * jnp.sum(p**2 * (MEANS_STEP * of_means + OFFSETS_STEP * of_offsets))


def monitors(key, dimension, test_points) -> dict:
    """Returns the metrics of all methods."""
    target = teacher(dimension)
    fresh = Samples(target.sample(key, Euclidean(dimension, Flat()), test_points))
    return {"mass": Mass(), "means": Means(), "kl": Divergence(target, None), "kl_fresh": Divergence(target, fresh)}


def weighted_monitors(key, dimension, test_points) -> dict:
    """Returns the metrics of a method with weighted walkers."""
    more = {"partition_error": PartitionError(), "drift": Drift(), "ess": EffectiveFraction(), "resamplings": Resamplings()}
    return monitors(key, dimension, test_points) | more
