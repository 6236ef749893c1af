"""Energies, their gradients, and the witness: every N x m product of the package, streamed by blocks of rows.

The model of an energy U is the probability measure exp(-U) tau / Z, with tau the base measure of the space (temperature
1). No array of N x m is ever whole: its blocks stay in cache, so memory does not grow with N m and the step runs at the
speed of arithmetic.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualebm.features import Feature
from dualebm.measures import Atoms, Samples, coefficients

BLOCK_ELEMENTS = 2**20
"""Elements of the block of pre-activations that is alive at a time: a few MB, which stay in the cache of a CPU."""


def block_rows(columns: int) -> int:
    """Rows of a block of the (N, columns) product, a multiple of 256, at most 2^14 so that float32 sums keep their digits.

    >>> block_rows(64)
    16384
    """
    return min(max(BLOCK_ELEMENTS // (256 * columns), 1) * 256, 2**14)


def map_blocks(function: Callable, arrays: tuple, rows: int):
    """`function(*arrays)` for a function that treats the leading axis row by row, evaluated `rows` rows at a time.

    >>> map_blocks(lambda x: 2 * x, (jnp.arange(5),), rows=2).tolist()
    [0, 2, 4, 6, 8]
    """
    count = jax.tree.leaves(arrays)[0].shape[0]
    if count <= rows:
        return function(*arrays)
    whole = count - count % rows
    head = jax.tree.map(lambda a: a[:whole].reshape(whole // rows, rows, *a.shape[1:]), arrays)
    result = jax.lax.map(lambda block: function(*block), head)
    result = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), result)
    if whole == count:
        return result
    tail = function(*jax.tree.map(lambda a: a[whole:], arrays))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), result, tail)


def sum_blocks(function: Callable, arrays: tuple, rows: int):
    """Sum over blocks of `function(*arrays)`, a function that itself sums over the leading axis; added in block order.

    >>> int(sum_blocks(jnp.sum, (jnp.arange(5),), rows=2))
    10
    """
    count = jax.tree.leaves(arrays)[0].shape[0]
    if count <= rows:
        return function(*arrays)
    whole = count - count % rows
    first = function(*jax.tree.map(lambda a: a[:rows], arrays))
    rest = jax.tree.map(lambda a: a[rows:whole].reshape(whole // rows - 1, rows, *a.shape[1:]), arrays)
    total, _ = jax.lax.scan(lambda total, block: (jax.tree.map(jnp.add, total, function(*block)), None), first, rest)
    if whole == count:
        return total
    return jax.tree.map(jnp.add, total, function(*jax.tree.map(lambda a: a[whole:], arrays)))


class Energy(eqx.Module):
    """An energy U. Subclass it and write `__call__`, x `(N, d)` -> U(x) `(N,)`; the gradient comes from JAX.

    `__call__` must treat rows independently, and take its means over atoms as products (jaxlib 0.10.2 miscompiles a
    vmapped mean).

    >>> class Quadratic(Energy):
    ...     stiffness: float
    ...     def __call__(self, x):
    ...         return 0.5 * self.stiffness * jnp.sum(x**2, axis=1)
    >>> Quadratic(3.0).gradient(jnp.array([[1.0, 2.0]])).tolist()
    [[3.0, 6.0]]
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""

    @property
    def rows(self) -> int:
        """Rows that are evaluated at a time."""
        return block_rows(64)

    def value_and_gradient(self, x: Float[Array, "N d"]) -> tuple[Float[Array, " N"], Float[Array, "N d"]]:
        """U(x) and the ambient gradient of U at every row of x."""

        def block(x):
            value, pull_back = jax.vjp(self.__call__, x)
            return value, pull_back(jnp.ones_like(value))[0]

        return map_blocks(block, (x,), self.rows)

    def gradient(self, x: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The ambient gradient of U at every row of x."""
        return self.value_and_gradient(x)[1]


class Shallow(Energy):
    """U(x) = (1/m) sum_j c_j phi(x, theta_j), real coefficients c (arXiv 2107.05134, Section 3).

    positions (m, p), coefficients (m,); no atoms (m = 0) is an error. For the coefficients of signed atoms see
    `from_atoms`.

    >>> from dualebm.features import ReLU
    >>> energy = Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0]))
    >>> energy(jnp.array([[1.0, 0.0], [0.5, 0.75]])).tolist()
    [-2.0, -0.25]
    """

    feature: Feature = eqx.field(static=True)
    positions: Float[Array, "m p"]
    coefficients: Float[Array, " m"]

    @property
    def rows(self) -> int:
        """Rows that are evaluated at a time."""
        return block_rows(self.coefficients.shape[0])

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        scaled = self.coefficients / self.coefficients.shape[0]

        def block(x):
            return jnp.matmul(self.feature(x, self.positions), scaled, precision=jax.lax.Precision.HIGHEST)

        return map_blocks(block, (x,), self.rows)


def from_atoms(feature: Feature, atoms: Atoms) -> Shallow:
    """The energy f_gamma of a signed measure of atoms: `Shallow` with c_j = sigma_j w_j.

    >>> from dualebm.features import ReLU
    >>> atoms = Atoms(jnp.eye(2), jnp.zeros(2), jnp.array([1.0, -1.0]))
    >>> from_atoms(ReLU(), atoms).coefficients.tolist()
    [1.0, -1.0]
    """
    return Shallow(feature, atoms.positions, coefficients(atoms))


def feature_mean(
    feature: Feature, theta: Float[Array, "m p"], samples: Samples
) -> tuple[Float[Array, " m"], Float[Array, "m p"]]:
    """G(theta_j) = E_samples phi(x, theta_j) and its ambient gradient in theta_j: `(m,)`, `(m, p)`.

    Homogeneous features need one product for both: theta . grad G = k G for degree k.

    >>> from dualebm.features import ReLU
    >>> values, gradient = feature_mean(ReLU(), jnp.eye(2), Samples(jnp.array([[0.5, 0.75], [0.75, -0.5]])))
    >>> values.tolist()
    [0.625, 0.375]
    """
    points = samples.points
    if samples.log_weights is None:
        weights = jnp.full(points.shape[0], 1 / points.shape[0], points.dtype)
    else:
        weights = jax.nn.softmax(samples.log_weights)

    def block(x, weights):
        def weighted(theta):
            return jnp.matmul(weights, feature(x, theta), precision=jax.lax.Precision.HIGHEST)

        value, pull_back = jax.vjp(weighted, theta)
        (gradient,) = pull_back(jnp.ones_like(value))
        return gradient if feature.homogeneity else (value, gradient)

    total = sum_blocks(block, (points, weights), block_rows(theta.shape[0]))
    if feature.homogeneity:
        return jnp.sum(theta * total, axis=1) / feature.homogeneity, total
    return total


def witness(
    feature: Feature, theta: Float[Array, "m p"], particles: Samples, data: Samples
) -> tuple[Float[Array, " m"], Float[Array, "m p"]]:
    """F(theta_j) = E_particles phi - E_data phi (arXiv 2107.05134, eq. 9) and its ambient gradient: `(m,)`, `(m, p)`.

    >>> from dualebm.features import ReLU
    >>> cloud = Samples(jnp.array([[0.6, 0.8]]))
    >>> witness(ReLU(), jnp.eye(2), cloud, cloud)[0].tolist()
    [0.0, 0.0]
    """
    model, gradient = feature_mean(feature, theta, particles)
    observed, observed_gradient = feature_mean(feature, theta, data)
    return model - observed, gradient - observed_gradient


def log_density(energy: Energy, x: Float[Array, "N d"]) -> Float[Array, " N"]:
    """log dnu/dtau(x) + log Z = -U(x): the log density of the model in its base measure, up to log Z.

    >>> from dualebm.features import ReLU
    >>> log_density(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0]])).tolist()
    [-0.5]
    """
    return -energy(x)
