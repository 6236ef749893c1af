"""Base measures made of others: finite mixtures, and a density and a sampler of the user's."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr, ndtri
from jaxtyping import Array, Float, Key

from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.base_families import Vector, vector
from dualebm.base_measures import BaseMeasure, FinePlaces, Geometry, Points, Scalars

# Each of these is one program, where its operations outside a compiled function would be a program each.


@brief
def _log_joint(log_weights, log_densities):
    """Returns log weight + log density of each component, (K, *batch)."""
    return jnp.stack([weight + density for weight, density in zip(log_weights, log_densities, strict=True)])


@brief
def _log_sum(log_weights, log_densities):
    """Returns the log density of the mixture, (*batch)."""
    return logsumexp(_log_joint(log_weights, log_densities), axis=0)


@functools.partial(brief, static_argnames="dtype")
def _choose(key, edges, points, dtype):
    """Returns for each row that of the component whose interval of the cumulative weights holds a uniform number, (count, d)."""
    uniform, chosen = jax.random.uniform(key, (len(points[0]), 1), dtype), points[0]
    for edge, others in zip(edges.astype(uniform.dtype), points[1:], strict=True):
        chosen = jnp.where(uniform >= edge, others, chosen)
    return chosen


@dataclasses.dataclass(frozen=True, repr=False)
class MixtureBase(BaseMeasure):
    """The mixture sum_k weights_k components_k of probability measures on one space.

    A mixture of `Normal` is a Gaussian mixture. A component `Uniform()` beside `VonMisesFisher` components keeps the density of outliers
    away from 0.

    Args:
        weights: the weights of the components, positive, (K,). They are divided by their sum.
        components: K base measures that are proper.

    Raises:
        ValueError: when the weights are not positive, the numbers of weights and components differ, or a component cannot be sampled.

    >>> from dualebm.base_measures import Gaussian; from dualebm.spaces import Euclidean
    >>> wide = MixtureBase((0.5, 0.5), (Gaussian(1.0), Gaussian(2.0)))
    >>> round(float(Euclidean(1, wide).log_base(jnp.zeros(1))), 4)  # log((1 + 1/2) / 2) - log(2 pi) / 2
    -1.2066
    """

    weights: Vector
    components: Sequence[BaseMeasure]

    def __post_init__(self):
        weights, components = np.asarray(vector("weights", self.weights)), tuple(self.components)
        if not (weights > 0).all():
            raise ValueError(f"weights is {self.weights!r}; weights must be positive")
        if len(weights) != len(components):
            raise ValueError(f"components has {len(components)} measures; weights has {len(weights)}")
        for component in components:
            if not isinstance(component, BaseMeasure) or not component.proper:
                raise ValueError(f"components holds {component!r}; components must be base measures that can be sampled")
        # Weights of sum 1 up to rounding stay as they are, so that a mixture that is built from its fields equals it.
        total = math.fsum(weights)
        object.__setattr__(self, "weights", tuple((weights if abs(total - 1) < 1e-14 else weights / total).tolist()))
        object.__setattr__(self, "components", components)

    def __repr__(self) -> str:
        return f"MixtureBase({len(self.components)} components, the first {self.components[0]!r})"

    @property
    def positive(self) -> bool:
        """Tells whether a component is known to be positive everywhere."""
        return any(component.positive for component in self.components)

    @property
    def from_normal_exists(self) -> bool:
        """Tells whether every component has `from_normal`."""
        return all(component.from_normal_exists for component in self.components)

    def fits(self, space: Geometry) -> bool:
        """Tells whether every component is a measure on the space."""
        return all(component.fits(space) for component in self.components)

    def finest(self, space: Geometry) -> FinePlaces | None:
        """Returns the fine places of all components, and None where those of a component are not known."""
        places = [component.finest(space) for component in self.components]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return None
        return np.concatenate([points for points, _ in known]), np.concatenate([lengths for _, lengths in known])

    def _terms(self, space, x, axis):
        """Returns the logarithms of the weights, and the log density of each component."""
        return [math.log(weight) for weight in self.weights], [part.log_density(space, x, axis) for part in self.components]

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns log sum_k weights_k p_k(x), with the densities p_k of the components."""
        return _log_sum(*self._terms(space, x, axis))

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns the mean of the scores of the components under their probabilities given x."""
        shares = jax.nn.softmax(_log_joint(*self._terms(space, x, axis)), axis=0)
        scores = (component.score(space, x, axis) for component in self.components)
        return sum(jnp.expand_dims(share, axis) * score for share, score in zip(shares, scores, strict=True))  # pyright: ignore[reportReturnType]

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Draws `count` independent points: for each the component by the weights, then a point of it."""
        check_key(key)
        choice_key, key = jax.random.split(key)
        points = [part.sample(space, jax.random.fold_in(key, index), count, dtype) for index, part in enumerate(self.components)]
        return _choose(choice_key, np.cumsum(self.weights)[:-1], points, dtype)

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Maps standard normal vectors to draws of the mixture.

        The distribution function u of the first coordinate of z is uniform. It lies in one of K intervals whose lengths are the weights,
        and that interval names the component. The position of u within the interval is again uniform and independent of the component.
        Its normal quantile replaces the first coordinate, and the component maps the new vector. Upper halves are mapped from 1 - u,
        which keeps the digits of the tail. In float32 the replaced coordinate of a component of weight w has about 2^24 w different values.

        Raises:
            ValueError: when a component has no such map.
        """
        z = jnp.moveaxis(z, axis, 0)
        weights, eps = np.asarray(self.weights), float(jnp.finfo(z.dtype).eps)
        # On either side of the median a component is the interval [low, low + weight] of the mass that lies further out.
        below = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
        above = np.concatenate([np.cumsum(weights[:0:-1])[::-1], [0.0]])
        below, above, weights = (jnp.asarray(values.astype(z.dtype)) for values in (below, above, weights))
        upper, mass = z[0] > 0, ndtr(-jnp.abs(z[0]))
        each = (-1, *[1] * mass.ndim)
        from_above = jnp.sum(mass[None] < above[:-1].reshape(each), axis=0)
        from_below = jnp.sum(mass[None] >= below[1:].reshape(each), axis=0)
        chosen = jnp.where(upper, from_above, from_below)
        low, weight = jnp.where(upper, above[chosen], below[chosen]), weights[chosen]
        # A position is known up to the rounding of the mass. Positions 0 and 1 would be infinite.
        least = jnp.minimum(jnp.maximum(0.5 * eps * low / weight, jnp.finfo(z.dtype).tiny), 0.5)
        greatest = 1 - jnp.clip(0.5 * eps * (low + weight) / weight, 0.5 * eps, 0.5)
        position = ndtri(jnp.clip((mass - low) / weight, least, greatest))
        z = z.at[0].set(jnp.where(upper, -position, position))
        draws = self.components[0].from_normal(space, z, 0)
        for index, component in enumerate(self.components[1:], 1):
            draws = jnp.where(chosen[None] == index, component.from_normal(space, z, 0), draws)
        return jnp.moveaxis(draws, 0, axis)


@dataclasses.dataclass(frozen=True)
class CustomBase(BaseMeasure):
    """A base measure that two functions of the user's define, such as a trained normalising flow. It is not written to files.

    The density must be of total mass 1 with respect to Lebesgue's measure on R^d, and to the uniform probability measure on a sphere or a
    torus. The sampler must draw from it. With a flow `flow` of flowjax: `CustomBase(lambda x: flow.log_prob(x), lambda key, count:
    flow.sample(key, (count,)))`. A measure equals another one when both hold the same functions.

    Args:
        log_density_at: maps one point, (d,), to its log density in nats, a scalar. JAX differentiates it.
        sampler: maps a key of `jax.random` and a number n to n independent points, (n, d).

    Raises:
        ValueError: when one of them cannot be called or is not hashable.

    >>> from dualebm.spaces import Euclidean
    >>> laplace = CustomBase(lambda x: -jnp.sum(jnp.abs(x) + jnp.log(2)), lambda key, n: jax.random.laplace(key, (n, 2)))
    >>> Euclidean(2, laplace).grad_log_base(jnp.array([3.0, -1.0])).tolist()
    [-1.0, 1.0]
    """

    log_density_at: Callable[[Float[Array, " d"]], Float[Array, ""]]
    sampler: Callable[[Key[Array, ""], int], Float[Array, "n d"]]

    def __post_init__(self):
        for name in ("log_density_at", "sampler"):
            value = getattr(self, name)
            if not callable(value):
                raise ValueError(f"{name} is {value!r}; it must be a function. A base measure needs a log density and a sampler")
            try:
                hash(value)
            except TypeError:
                raise ValueError(f"{name} is not hashable; wrap it in a function, such as lambda x: flow.log_prob(x)") from None

    @property
    def positive(self) -> bool:
        """Returns False: the user's density may be 0 somewhere."""
        return False

    @property
    def from_normal_exists(self) -> bool:
        """Returns False: a sampler takes a key."""
        return False

    def fits(self, space: Geometry) -> bool:
        """Returns True: the functions must be made for the space."""
        return True

    def log_density(self, space: Geometry, x: Points, axis: int = -1) -> Scalars:
        """Returns the user's log density at each point."""
        rows = jnp.moveaxis(x, axis, -1)
        values = jax.vmap(self.log_density_at)(rows.reshape(-1, space.dimension))
        if values.shape != (rows.size // space.dimension,):
            raise ValueError(f"log_density_at returns the shape {values.shape[1:]} for one point; it must be a scalar")
        return values.reshape(rows.shape[:-1])

    def score(self, space: Geometry, x: Points, axis: int = -1) -> Points:
        """Returns the derivative of the user's log density, projected on the tangent space."""
        rows = jnp.moveaxis(x, axis, -1)
        slopes = jax.vmap(jax.grad(self.log_density_at))(rows.reshape(-1, space.dimension)).reshape(rows.shape)
        return jnp.moveaxis(space.tangent(rows, slopes), -1, axis)

    def sample(self, space: Geometry, key: Key[Array, ""], count: int, dtype: Any = float) -> Float[Array, "count dimension"]:
        """Returns `count` points of the user's sampler.

        Raises:
            ValueError: when the sampler returns another shape.
        """
        check_key(key)
        points = jnp.asarray(self.sampler(key, count))
        if points.shape != (count, space.dimension):
            raise ValueError(f"sampler returns the shape {points.shape} for {count} points; it must be {(count, space.dimension)}")
        return points.astype(jax.dtypes.canonicalize_dtype(dtype))

    def from_normal(self, space: Geometry, z: Points, axis: int = -1) -> Points:
        """Raises ValueError, because a sampler takes a key and no normal vectors."""
        del z, axis
        raise ValueError(f"space is {space}; its sampler takes a key, so that normal vectors cannot be mapped to draws")


def in_words(base: BaseMeasure) -> str:
    """Return a base measure as text: the sum of its components with their weights, or its name where it is no mixture.

    Args:
        base: the base measure.

    Returns:
        The text, with weights of two digits.

    >>> from dualebm.base_measures import Gaussian
    >>> in_words(MixtureBase((0.25, 0.75), (Gaussian(), Gaussian(2.0))))
    '0.25 Gaussian(scale=1.0) + 0.75 Gaussian(scale=2.0)'
    """
    if not isinstance(base, MixtureBase):
        return repr(base)
    return " + ".join(f"{weight:.2g} {component!r}" for weight, component in zip(base.weights, base.components, strict=True))
