"""Energies, their gradients, and the witness: every N x m product of the package, streamed by blocks of points.

The model of an energy U is the probability measure exp(-U) tau / Z, with tau the base measure of the space (temperature
1). Points come and go as rows, (N, d); inside they are the columns of blocks (see `dualebm._internal.columns`).
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dualebm._internal.columns import block_columns, map_blocks, once, product, sum_blocks
from dualebm.features import Feature, ReLU, Ridge
from dualebm.measures import Atoms, Samples, coefficients, shares
from dualebm.spaces import Space


class Located(NamedTuple):
    """Points (columns), with U, its ambient gradient, and the products <theta, x> that a ridge energy made of them (else None).

    What is not used is not computed; a move that keeps some points and replaces others keeps all of this with them.
    """

    points: Float[Array, "d B"]
    energy: Float[Array, " B"]
    gradient: Float[Array, "d B"]
    products: Float[Array, "m B"] | None


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
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(64)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient at points that are columns, all at once."""
        x = once(x)
        value, pull_back = jax.vjp(lambda x: self(x.T), x)
        return Located(x, value, pull_back(jnp.ones_like(value))[0], None)

    def value_and_gradient(self, x: Float[Array, "N d"]) -> tuple[Float[Array, " N"], Float[Array, "N d"]]:
        """U(x) and the ambient gradient of U at every row of x."""

        def block(x):
            located = self.locate(x)
            return located.energy, located.gradient

        value, gradient = map_blocks(block, x.T, self.width)
        return value, gradient.T

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
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(self.coefficients.shape[0])

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        scaled = self.coefficients / self.coefficients.shape[0]
        return map_blocks(lambda x: product(self.feature(x.T, self.positions), scaled), x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient at points that are columns: for ridge features grad U = (1/m) sum_j c_j slope(<theta_j, x>) theta_j."""
        if not isinstance(self.feature, Ridge):
            return super().locate(x)
        x = once(x)
        scaled = self.coefficients / self.coefficients.shape[0]
        products = _products(self.feature, self.positions, x)
        pull = once((scaled[:, None] * self.positions[:, : x.shape[0]]).T)
        gradient = product(pull, self.feature.slope(products))
        if isinstance(self.feature, ReLU) and not self.feature.bias:  # homogeneous in x: x . grad U = k U
            value = jnp.sum(x * gradient, axis=0) / self.feature.power
        else:
            value = product(scaled, self.feature.profile(products))
        return Located(x, value, gradient, products)


class Tempered(Energy):
    """t U: the energy of the model at temperature 1 / t.

    >>> from dualebm.features import ReLU
    >>> Tempered(Shallow(ReLU(), jnp.eye(2), jnp.array([-4.0, 2.0])), jnp.array(0.5))(jnp.array([[1.0, 0.0]])).tolist()
    [-1.0]
    """

    energy: Energy
    factor: Float[Array, ""]

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return self.energy.width

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """t U(x), in units of temperature."""
        return self.factor * self.energy(x)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """t U and its gradient at points that are columns."""
        there = self.energy.locate(x)
        return there._replace(energy=self.factor * there.energy, gradient=self.factor * there.gradient)


class Tabulated(Energy):
    """U on `Torus(1)` or `Sphere(2)`: linear between its values at K equally spaced points, the first at coordinate or angle 0.

    >>> from dualebm.spaces import Torus
    >>> Tabulated(Torus(1), jnp.array([0.0, 4.0, 0.0, 0.0]))(jnp.array([[0.25], [0.125], [0.5]])).tolist()
    [4.0, 2.0, 0.0]
    """

    space: Space = eqx.field(static=True)
    values: Float[Array, " K"]

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        place = self.space.turns(x) * self.values.shape[0]
        cell = jnp.floor(place)
        left, right = (jnp.take(self.values, cell.astype(jnp.int32) + i, mode="wrap") for i in (0, 1))
        return left + (place - cell) * (right - left)


def from_atoms(feature: Feature, atoms: Atoms) -> Shallow:
    """The energy f_gamma of a signed measure of atoms: `Shallow` with c_j = sigma_j w_j.

    >>> from dualebm.features import ReLU
    >>> atoms = Atoms(jnp.eye(2), jnp.zeros(2), jnp.array([1.0, -1.0]))
    >>> from_atoms(ReLU(), atoms).coefficients.tolist()
    [1.0, -1.0]
    """
    return Shallow(feature, atoms.positions, coefficients(atoms))


def _products(feature, theta, x):
    """<theta_j, x_i>, (m, B), or <theta_j, (x_i, 1)>."""
    if theta.shape[1] != x.shape[0] + feature.bias:
        allowed = x.shape[0] + feature.bias
        raise ValueError(f"theta has {theta.shape[1]} components and x has {x.shape[0]}; allowed: {allowed} for theta")
    products = product(theta[:, : x.shape[0]], x)
    return products + theta[:, -1:] if feature.bias else products


Sums = tuple[Float[Array, " m"], Float[Array, "m p"]]
"""Of values and of gradients."""


def feature_sums(
    feature: Feature,
    theta: Float[Array, "m p"],
    x: Float[Array, "d B"],
    weights: Float[Array, " B"] | None = None,
    products: Float[Array, "m B"] | None = None,
) -> Sums:
    """sum_i weights_i phi(x_i, theta_j) and its ambient gradient in theta_j over points that are columns, all at once.

    `products` of a ridge feature, where they are known, spare their product. Homogeneous features of degree k need one
    product for both sums: theta . grad phi = k phi.

    >>> from dualebm.features import ReLU
    >>> feature_sums(ReLU(), jnp.eye(2), jnp.array([[0.5, 0.75], [0.75, -0.5]]))[0].tolist()
    [1.25, 0.75]
    """
    if not isinstance(feature, Ridge):
        ones = jnp.ones(x.shape[1], x.dtype) if weights is None else weights
        value, pull_back = jax.vjp(lambda theta: product(ones, feature(x.T, theta)), theta)
        return value, pull_back(jnp.ones_like(value))[0]
    products = _products(feature, theta, x) if products is None else products
    weighted = lambda a: a if weights is None else a * weights[None]  # noqa: E731
    slopes = weighted(feature.slope(products))
    gradient = product(slopes, x.T)
    if feature.bias:
        gradient = jnp.concatenate([gradient, jnp.sum(slopes, axis=1, keepdims=True)], axis=1)
    if feature.homogeneity:
        return jnp.sum(theta * gradient, axis=1) / feature.homogeneity, gradient
    return jnp.sum(weighted(feature.profile(products)), axis=1), gradient


def feature_mean(feature: Feature, theta: Float[Array, "m p"], samples: Samples) -> Sums:
    """G(theta_j) = E_samples phi(x, theta_j) and its ambient gradient in theta_j: `(m,)`, `(m, p)`.

    Over a mesh axis, of which each device holds as many of the samples: what `columns.mean_over` makes this mean of.

    >>> from dualebm.features import ReLU
    >>> values, gradient = feature_mean(ReLU(), jnp.eye(2), Samples(jnp.array([[0.5, 0.75], [0.75, -0.5]])))
    >>> values.tolist()
    [0.625, 0.375]
    """
    columns, width = once(samples.points.T), block_columns(theta.shape[0])  # once in a whole run: it does not change
    if samples.log_weights is not None:
        weights = shares(samples.log_weights)
        return sum_blocks(lambda x, w: feature_sums(feature, theta, x, w), (columns, weights), width)
    sums = sum_blocks(lambda x: feature_sums(feature, theta, x), (columns,), width)
    return jax.tree.map(lambda total: total / columns.shape[1], sums)


def witness(feature: Feature, theta: Float[Array, "m p"], particles: Samples, data: Samples) -> Sums:
    """F(theta_j) = E_particles phi - E_data phi (arXiv 2107.05134, eq. 9) and its ambient gradient: `(m,)`, `(m, p)`.

    >>> from dualebm.features import ReLU
    >>> cloud = Samples(jnp.array([[0.6, 0.8]]))
    >>> witness(ReLU(), jnp.eye(2), cloud, cloud)[0].tolist()
    [0.0, 0.0]
    """
    model, observed = feature_mean(feature, theta, particles), feature_mean(feature, theta, data)
    return jax.tree.map(jnp.subtract, model, observed)


def precision_of(energy: Energy) -> np.dtype:
    """The dtype of the floating arrays of an energy.

    >>> from dualebm.features import ReLU
    >>> precision_of(Shallow(ReLU(), jnp.eye(2), jnp.ones(2))).name
    'float32'
    """
    leaves = [leaf for leaf in jax.tree.leaves(energy) if hasattr(leaf, "shape") or isinstance(leaf, float)]
    return jnp.result_type(*(leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)))


def log_density(energy: Energy, x: Float[Array, "N d"]) -> Float[Array, " N"]:
    """log dnu/dtau(x) + log Z = -U(x): the log density of the model in its base measure, up to log Z.

    >>> from dualebm.features import ReLU
    >>> log_density(Shallow(ReLU(), jnp.eye(2), jnp.ones(2)), jnp.array([[1.0, 0.0]])).tolist()
    [-0.5]
    """
    return -energy(x)
