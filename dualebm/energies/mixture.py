"""Gaussian mixtures as energies. Their gradient, log Z and samples are exact."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import settings
from dualebm._internal.blocks import block_columns, map_blocks, product
from dualebm._internal.keys import check_key
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy, Located
from dualebm.geometry import Space
from dualebm.settings import Count, NonNegative
from dualebm.spaces import Euclidean


def _flat(space: Space, dimension: int) -> None:
    """Raises ValueError unless the space is R^d with the flat measure."""
    allowed = Euclidean(dimension, Flat())
    if space != allowed:
        raise ValueError(f"space is {space}; a Gaussian mixture needs the flat measure, {allowed}")


class GaussianMixture(Energy):
    """The energy U(x) = -log sum_i exp(-|R_i (x - a_i)|^2 / 2 - z_i), with z_1 = 0 and z_{i+1} = offsets_i.

    On the flat space `Euclidean(d, Flat())` the model is a Gaussian mixture with masses proportional to exp(-z_i) / |det R_i|.

    Args:
        means: a, (k, d).
        offsets: z_2, ..., z_k, (k - 1,).
        roots: R, (k, d, d). The inverse covariances are R_i^T R_i. None stands for the identity.

    >>> energy = GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.zeros(1), None)
    >>> [round(float(u), 4) for u in energy(jnp.array([[0.0], [1.0]]))]  # 1/2 - log 2 and -log(1 + exp(-2))
    [-0.1931, -0.1269]
    >>> round(float(energy.log_partition(Euclidean(1, Flat()))), 4)  # log 2 + log(2 pi) / 2
    1.6121
    """

    means: Float[Array, "k d"]
    offsets: Float[Array, " k-1"]
    roots: Float[Array, "k d d"] | None

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        k, d = self.means.shape
        return block_columns(max(k, d) if self.roots is None else k * d)

    def _levels(self) -> Float[Array, " k"]:
        return jnp.concatenate([jnp.zeros(1, self.offsets.dtype), self.offsets])

    def _value_and_forces(self, x):
        """Returns U (B,) and its gradient (d, B) at columns x. `once` is absent: its product would cost more than the rest.
        """
        k, d = self.means.shape
        if self.roots is None:
            # With the centre c of the means and b_i = a_i - c, |x - a_i|^2 = |x - c|^2 - 2 <b_i, x - c> + |b_i|^2. This makes no
            # (k, d, B) array, and it loses digits to the distances between the means alone, not to their distance from 0.
            # U does not depend on c, so that the derivative in c is left out. It would be a product as large as the others.
            centre = jax.lax.stop_gradient(jnp.sum(self.means, axis=0) / k)
            apart, y = self.means - centre[None], x - centre[:, None]
            logits = product(apart, y) - (0.5 * jnp.sum(apart**2, axis=1) + self._levels())[:, None]
            total = logsumexp(logits, axis=0)
            return 0.5 * jnp.sum(y * y, axis=0) - total, y - product(apart.T, jnp.exp(logits - total[None]))
        y = product(self.roots, x[None] - self.means[:, :, None])
        logits = -0.5 * jnp.sum(y * y, axis=1) - self._levels()[:, None]
        total = logsumexp(logits, axis=0)
        forces = jnp.exp(logits - total[None])[:, None] * y
        return -total, product(self.roots.reshape(k * d, d).T, forces.reshape(k * d, -1))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        return map_blocks(lambda x: self._value_and_forces(x)[0], x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Evaluates U and its gradient sum_i r_i R_i^T R_i (x - a_i) at points that are columns, (d, B).

        r_i is the share of component i at x.
        """
        return Located(x, *self._value_and_forces(x), None)

    def _log_weights(self):
        """Returns the logs of the integrals of the components over R^d, up to (d/2) log 2 pi."""
        return -self._levels() if self.roots is None else -self._levels() - jnp.linalg.slogdet(self.roots)[1]

    def log_masses(self) -> Float[Array, " k"]:
        """Returns the logs of the masses of the components on the flat space, (k,). The masses sum to 1."""
        return jax.nn.log_softmax(self._log_weights())

    def log_partition(self, space: Space) -> Float[Array, ""]:
        """Returns log Z = log sum_i exp(-z_i - log |det R_i|) + (d/2) log 2 pi, a scalar.

        Args:
            space: Euclidean space with the base measure `Flat()`.

        Raises:
            ValueError: when the space is not flat R^d.
        """
        _flat(space, self.means.shape[1])
        return logsumexp(self._log_weights()) + 0.5 * self.means.shape[1] * math.log(2 * math.pi)

    def sample(self, key: Key[Array, ""], space: Space, count: int) -> Float[Array, "count d"]:
        """Draws independent points of the model.

        Args:
            key: a key of `jax.random`.
            space: the space, `Euclidean(d, Flat())`.
            count: the number of points.

        Returns:
            Points, (count, d).

        Raises:
            ValueError: when the space is not flat R^d.
        """
        check_key(key)
        k, d = self.means.shape
        _flat(space, d)
        component_key, normal_key = jax.random.split(key)
        component = jax.random.categorical(component_key, self.log_masses(), shape=(count,))
        x = jax.random.normal(normal_key, (d, count), self.means.dtype)
        if self.roots is not None:

            def coloured(result, part):
                i, inverse = part
                return jnp.where((component == i)[None], product(inverse, x), result), None

            x, _ = jax.lax.scan(coloured, x, (jnp.arange(k), jnp.linalg.inv(self.roots)))
        return self.means[component] + x.T


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The start of a `GaussianMixture` with equal masses and unit covariances.

    The means are spread * N(0, I), but for their first coordinates, which are equally spaced. Calling it with (key, space,
    dtype) returns the energy.

    Args:
        components: k, the number of components.
        spread: the standard deviation of the coordinates of the means other than the first.
        separation: the first coordinates run from -separation to separation. With k = 1 the first coordinate is 0.
        covariances: "unit" keeps them at the identity, "full" trains them.

    Raises:
        ValueError: when a setting is not allowed, or on the call when the space is not flat R^d.

    >>> energy = Mixture()(jax.random.key(0), Euclidean(3, Flat()), jnp.float32)
    >>> energy.means.shape, [round(float(a), 3) for a in energy.means[:, 0]], energy.offsets.tolist(), energy.roots
    ((2, 3), [-0.1, 0.1], [0.0], None)
    """

    components: Count = 2
    spread: NonNegative = 0.01
    separation: NonNegative = 0.1
    covariances: Literal["unit", "full"] = "unit"

    def __post_init__(self):
        settings.check(self)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> GaussianMixture:
        """Returns the mixture at the start of training.

        Args:
            key: a random key.
            space: Euclidean space with the base measure `Flat()`.
            dtype: the floating dtype of the mixture.

        Returns:
            The mixture.

        Raises:
            ValueError: the space is another.
        """
        check_key(key)
        k, d = self.components, space.dimension
        _flat(space, d)
        first = jnp.linspace(-self.separation, self.separation, k, dtype=dtype) if k > 1 else jnp.zeros(1, dtype)
        means = (self.spread * jax.random.normal(key, (k, d), dtype)).at[:, 0].set(first)
        roots = None if self.covariances == "unit" else jnp.broadcast_to(jnp.eye(d, dtype=dtype), (k, d, d))
        return GaussianMixture(means, jnp.zeros(k - 1, dtype), roots)
