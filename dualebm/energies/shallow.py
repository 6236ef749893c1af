"""Shallow energies, their gradients, and the witness. Each N x m product is computed in blocks of points."""


import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualebm._internal.blocks import block_columns, map_blocks, once, product, sum_blocks
from dualebm.base_measures import FinePlaces
from dualebm.energies.base import Energy, Located
from dualebm.features import Feature, ReLU, Ridge, ScaledBump
from dualebm.measures import Atoms, Samples, coefficients, shares


class Shallow(Energy):
    """The shallow energy U(x) = (1/m) sum_j c_j phi(x, theta_j) with real coefficients c (arXiv 2107.05134, Section 3).

    `from_atoms` makes it of signed atoms. An energy without atoms (m = 0) is an error.

    Args:
        feature: phi.
        positions: theta_j, (m, p).
        coefficients: c_j, (m,).

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
        """Returns the number of points that are evaluated at a time."""
        return block_columns(self.coefficients.shape[0])

    def finest(self) -> FinePlaces | None:
        """Returns the fine places of the features."""
        return self.feature.finest(self.positions)

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        scaled = self.coefficients / self.coefficients.shape[0]
        return map_blocks(lambda x: product(self.feature(x.T, self.positions), scaled), x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """Evaluates U and its gradient at points that are columns, (d, B).

        For ridge features grad U = (1/m) sum_j c_j slope(<theta_j, x>) theta_j. For scaled bumps see `ScaledBump.combine`.
        """
        if not isinstance(self.feature, Ridge | ScaledBump):
            return super().locate(x)
        x = once(x)
        scaled = self.coefficients / self.coefficients.shape[0]
        if isinstance(self.feature, ScaledBump):
            exponents = self.feature.exponents(x, self.positions)
            return Located(x, *self.feature.combine(scaled, self.positions, x, exponents), exponents)
        products = _products(self.feature, self.positions, x)
        pull = once((scaled[:, None] * self.positions[:, : x.shape[0]]).T)
        gradient = product(pull, self.feature.slope(products))
        if isinstance(self.feature, ReLU) and not self.feature.bias:  # U is homogeneous in x, so that x . grad U = k U.
            value = jnp.sum(x * gradient, axis=0) / self.feature.power
        else:
            value = product(scaled, self.feature.profile(products))
        return Located(x, value, gradient, products)


def from_atoms(feature: Feature, atoms: Atoms) -> Shallow:
    """Returns the energy f_gamma of a signed measure of atoms, `Shallow` with c_j = sigma_j w_j.

    Args:
        feature: phi.
        atoms: the atoms, with positions (m, p).

    Returns:
        The energy.

    >>> from dualebm.features import ReLU
    >>> atoms = Atoms(jnp.eye(2), jnp.zeros(2), jnp.array([1.0, -1.0]))
    >>> from_atoms(ReLU(), atoms).coefficients.tolist()
    [1.0, -1.0]
    """
    return Shallow(feature, atoms.positions, coefficients(atoms))


def _products(feature, theta, x):
    """Returns <theta_j, x_i>, or <theta_j, (x_i, 1)> with a bias, (m, B)."""
    if theta.shape[1] != x.shape[0] + feature.bias:
        allowed = x.shape[0] + feature.bias
        raise ValueError(f"theta has {theta.shape[1]} components and x has {x.shape[0]}; allowed: {allowed} for theta")
    products = product(theta[:, : x.shape[0]], x)
    return products + theta[:, -1:] if feature.bias else products


Sums = tuple[Float[Array, " m"], Float[Array, "m p"]]
"""Sums of values, and sums of their gradients."""


def feature_sums(
    feature: Feature,
    theta: Float[Array, "m p"],
    x: Float[Array, "d B"],
    weights: Float[Array, " B"] | None = None,
    products: Float[Array, "m B"] | None = None,
) -> Sums:
    """Returns sum_i weights_i phi(x_i, theta_j) and its ambient gradient in theta_j over points that are columns, all at once.

    A homogeneous feature of degree k needs one product for both sums, because theta . grad phi = k phi.

    Args:
        feature: phi.
        theta: the parameters, (m, p).
        x: the points, as columns, (d, B).
        weights: the weights of the points, (B,), or None for 1.
        products: <theta_j, x_i> of a ridge feature, or log phi of a scaled bump, (m, B), where they are known. None computes them.

    Returns:
        The sums, (m,), and their gradients, (m, p).

    Raises:
        ValueError: when theta and x do not fit the feature.

    >>> from dualebm.features import ReLU
    >>> feature_sums(ReLU(), jnp.eye(2), jnp.array([[0.5, 0.75], [0.75, -0.5]]))[0].tolist()
    [1.25, 0.75]
    """
    if isinstance(feature, ScaledBump):
        return feature.sums(theta, x, weights, feature.exponents(x, theta) if products is None else products)
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
    """Returns G(theta_j) = E_samples phi(x, theta_j) and its ambient gradient in theta_j.

    Where several devices share the samples, each device returns its part. `collectives.mean_over` makes the mean of the parts.

    Args:
        feature: phi.
        theta: the parameters, (m, p).
        samples: n weighted points, (n, d).

    Returns:
        The means, (m,), and their gradients, (m, p).

    Raises:
        ValueError: when theta and the samples do not fit the feature.

    >>> from dualebm.features import ReLU
    >>> values, gradient = feature_mean(ReLU(), jnp.eye(2), Samples(jnp.array([[0.5, 0.75], [0.75, -0.5]])))
    >>> values.tolist()
    [0.625, 0.375]
    """
    columns, width = once(samples.points.T), block_columns(theta.shape[0])  # computed once in a run for data, which do not change
    if samples.log_weights is not None:
        weights = shares(samples.log_weights)
        return sum_blocks(lambda x, w: feature_sums(feature, theta, x, w), (columns, weights), width)
    sums = sum_blocks(lambda x: feature_sums(feature, theta, x), (columns,), width)
    return jax.tree.map(lambda total: total / columns.shape[1], sums)


def witness(feature: Feature, theta: Float[Array, "m p"], particles: Samples, data: Samples) -> Sums:
    """Returns F(theta_j) = E_particles phi - E_data phi (arXiv 2107.05134, eq. 9) and its ambient gradient in theta_j.

    Args:
        feature: phi.
        theta: the parameters, (m, p).
        particles: weighted points of the model, (n, d).
        data: weighted points of the data, (n', d).

    Returns:
        The witness, (m,), and its gradients, (m, p).

    Raises:
        ValueError: when theta and the samples do not fit the feature.

    >>> from dualebm.features import ReLU
    >>> cloud = Samples(jnp.array([[0.6, 0.8]]))
    >>> witness(ReLU(), jnp.eye(2), cloud, cloud)[0].tolist()
    [0.0, 0.0]
    """
    model, observed = feature_mean(feature, theta, particles), feature_mean(feature, theta, data)
    return jax.tree.map(jnp.subtract, model, observed)
