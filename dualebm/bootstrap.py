"""What finite data leave uncertain of a fitted density: a Bayesian bootstrap of the fit (Rubin 1981).

A replicate gives the rows random weights, independent and exponential. With them the base measure is fitted again, and the energy is
trained on from that of the fit, without the penalty that holds its radius. So the replicates vary as fits to other rows would, and they
also show a part of what the radius keeps the energy from fitting. The error of a log density is the root mean square of the differences
of the replicates from the fit.

What was chosen stays: the candidate, the widths of kernels and the number of components. So the error does not contain the bias of the
base measure.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import base_kernels
from dualebm._internal import files
from dualebm._internal.keys import check_key
from dualebm._internal.programs import brief
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import BaseMeasure, Gaussian, Uniform
from dualebm.base_mixtures import MixtureBase
from dualebm.data.refitting import refit
from dualebm.energies.files import build, spell
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.measures import Samples, resample
from dualebm.methods.penalised import PenalisedLikelihood, PenalisedRates
from dualebm.row_weights import shares_of
from dualebm.settings import Count, checked

REPLICATES = 20
"""The number of replicates of a fit."""

ITERATIONS = 200
"""The number of iterations that train the energy of a replicate."""

STEP, LEAST = 0.03, 0.1
"""The step of the neurons at the first iteration, and its fraction at the last."""

DRAWS, BATCH = 2**15, 1024
"""The number of draws of the base measure, and of those that an iteration takes."""


class Replicates(NamedTuple):
    """The models exp(-U_b) tau_b / Z_b of B replicates.

    Args:
        energies: the energies U_b, whose arrays have a leading axis of length B.
        bases: the base measures tau_b.
        log_partition: log Z_b, (B,), in nats.
    """

    energies: Shallow
    bases: tuple[BaseMeasure, ...]
    log_partition: Float[np.ndarray, " B"]


@checked
def replicate(
    key: Key[Array, ""], energy: Shallow, space: Space, points: Float[Array, "n d"], weights: Any = None, count: Count = REPLICATES
) -> Replicates:
    """Fit replicates of a model.

    Args:
        key: the random key.
        energy: the fitted energy U.
        space: the space, with the base measure that was fitted to the rows.
        points: the rows, (n, d).
        weights: the non-negative weights of the rows, (n,), or None for equal weights.
        count: the number B of replicates.

    Returns:
        The replicates.

    Raises:
        ValueError: when the base measure holds kernels around other points than the rows, or a weight or the count is not allowed.

    >>> from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> energy = Shallow(ReLU(), jnp.eye(3), jnp.zeros(3))
    >>> replicates = replicate(jax.random.key(0), energy, Sphere(3), jnp.eye(3), count=2)
    >>> log_densities(replicates, Sphere(3), jnp.eye(3)).shape
    (2, 3)
    """
    check_key(key)
    weight_key, pool_key, checked_key, choice_key, train_key = jax.random.split(key, 5)
    dtype, n = points.dtype, len(points)
    shares = shares_of("weights", weights, n)
    if shares is not None and not shares.all():  # the fit leaves out rows of weight 0
        return replicate(key, energy, space, points[np.flatnonzero(shares)], shares[shares > 0], count)
    drawn = np.asarray(jax.random.exponential(weight_key, (count, n), dtype), np.float64)
    drawn = drawn if shares is None else drawn * n * shares
    bases = tuple(refit(space.base, points, each, space) for each in drawn)
    # All replicates take their draws from those of the fit, so that they share the noise of the draws.
    draws, checked = space.sample_base(pool_key, DRAWS, dtype), space.sample_base(checked_key, DRAWS, dtype)
    ratios, check_ratios = (log_bases(bases, space, x) - np.asarray(space.log_base(x), np.float64) for x in (draws, checked))
    if space.base == bases[0]:
        pools = jnp.broadcast_to(draws, (count, *draws.shape))
    else:
        chosen = [np.asarray(resample(choice_key, jnp.asarray(ratio, dtype), DRAWS)) for ratio in ratios]
        pools = jnp.asarray(np.asarray(draws)[np.stack(chosen)])
    energies = energy
    if not (energy.coefficients == 0).all():
        geometry = dataclasses.replace(space, base=Uniform() if space.compact else Gaussian())
        method = PenalisedLikelihood(geometry, energy.feature, len(energy.coefficients), DRAWS, BATCH, rows=2**14)
        energies = _train(train_key, method, energy, pools, points, jnp.log(jnp.asarray(drawn, dtype)))
    else:
        energies = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), energy)
    values = np.asarray(_values(energies, checked), np.float64)
    log_partition = _log_sum(check_ratios - values, 1) - _log_sum(check_ratios, 1)
    return Replicates(energies, bases, np.asarray(log_partition, np.float64))


def _log_sum(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return log sum exp along an axis."""
    return np.asarray(_log_sum_exp(values, axis=axis))


@brief
def _values(energies, x):
    """Return the energies of all replicates at points, (B, N)."""
    return jax.lax.map(lambda energy: energy(x), energies)


_log_sum_exp = brief(logsumexp, static_argnames="axis")


@functools.partial(jax.jit, static_argnames="method")
def _train(key, method, energy, draws, points, log_weights) -> Shallow:
    """Return the energies of all replicates. Each takes the same parts of its draws in the same order."""

    def one(draws, log_weights):
        data = Samples(points, log_weights)

        def body(i, state):
            step = STEP * (1 - (1 - LEAST) * i / ITERATIONS)
            return method.step(jax.random.fold_in(key, i), state, PenalisedRates(1.0, step, step), data)[0]

        state = jax.lax.fori_loop(0, ITERATIONS, body, method.resumed(energy, draws, 0.0))
        return method.energy(state, method.rates, data)

    return jax.vmap(one)(draws, log_weights)


def log_bases(bases: Sequence[BaseMeasure], space: Space, x: Float[Array, "N d"]) -> Float[np.ndarray, "B N"]:
    """Return the log densities of base measures of one kind at points, (B, N), in nats.

    Args:
        bases: B base measures that `refitting.refit` has made of one measure.
        space: the space. Its base plays no part.
        x: the points, (N, d).
    """
    if all(base == bases[0] for base in bases):
        return np.broadcast_to(np.asarray(bases[0].log_density(space, x), np.float64), (len(bases), len(x)))
    estimates = [base for base in bases if isinstance(base, KernelBase)]
    if estimates:
        return base_kernels.log_densities(estimates, space, x)
    mixtures = [base for base in bases if isinstance(base, MixtureBase)]
    if mixtures:
        terms = [log_bases(parts, space, x) for parts in zip(*(base.components for base in mixtures), strict=True)]
        weights = np.log(np.array([base.weights for base in mixtures]))
        return _log_sum(np.stack([w[:, None] + term for w, term in zip(weights.T, terms, strict=True)]), 0)
    return np.stack([np.asarray(base.log_density(space, x), np.float64) for base in bases])


@checked
def log_densities(replicates: Replicates, space: Space, x: Float[Array, "N d"]) -> Float[np.ndarray, "B N"]:
    """Return the log densities of the replicates at points, (B, N), in nats, with respect to the reference measure of the space.

    Args:
        replicates: the replicates.
        space: the space.
        x: the points, (N, d).
    """
    values = np.asarray(_values(replicates.energies, x), np.float64)
    return log_bases(replicates.bases, space, x) - values - replicates.log_partition[:, None]


def save(path: files.PathLike, replicates: Replicates, base: BaseMeasure) -> None:
    """Write replicates to an `.npz` file: the energies, log Z_b, and the numbers in which the base measures differ from that of the fit.

    Args:
        path: the path.
        replicates: the replicates.
        base: the base measure of the fit.

    Raises:
        OSError: when the file cannot be written.
    """
    fitted = _numbers(_spelt(base))
    numbers = np.array([_numbers(_spelt(each)) for each in replicates.bases])
    places = np.flatnonzero((numbers != fitted).any(axis=0))
    values, column = np.unique(numbers[:, places], axis=1, return_inverse=True)  # the kernels of several components share their weights
    tree = dict(
        positions=replicates.energies.positions, coefficients=replicates.energies.coefficients, log_partition=replicates.log_partition,
        places=places, values=values, column=column.reshape(-1),
    )  # fmt: skip
    files.save(path, "replicates", tree, {})


def load(path: files.PathLike, space: Space, energy: Shallow) -> Replicates:
    """Read the replicates that `save` has written.

    Args:
        path: the path.
        space: the space, with the base measure of the fit.
        energy: the fitted energy.

    Returns:
        The replicates.

    Raises:
        ValueError: when the file is damaged, of another format, or of another fit.
    """
    _, arrays = files.load(path, "replicates")
    spelt = _spelt(space.base)
    leaves, structure = jax.tree.flatten(spelt)
    names = ("positions", "coefficients", "log_partition", "places", "values", "column")
    try:
        stored = {name: arrays.pop(f"leaf['{name}']") for name in names}
        if arrays:
            raise ValueError(f"it has no {next(iter(arrays))}")
        numbers = np.tile(_numbers(spelt), (len(stored["log_partition"]), 1))
        _check(stored, energy, numbers.shape)
        numbers[:, stored["places"]] = stored["values"][:, stored["column"]]
        bases = []
        for each in numbers:
            rest = iter(each.tolist())
            bases.append(build(jax.tree.unflatten(structure, [next(rest) if isinstance(leaf, float) else leaf for leaf in leaves])))
            dataclasses.replace(space, base=bases[-1])  # raises for a measure that is not of the space
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is corrupt ({type(error).__name__}: {' '.join(str(error).split())[:300]})") from error
    parts = jnp.asarray(stored["positions"]), jnp.asarray(stored["coefficients"])
    return Replicates(jax.vmap(lambda each, weights: Shallow(energy.feature, each, weights))(*parts), tuple(bases), stored["log_partition"])


def _check(stored: dict[str, np.ndarray], energy: Shallow, numbers: tuple[int, int]) -> None:
    """Raise ValueError unless the arrays of replicates fit the energy of the fit. `numbers` are B and the count of numbers of a base."""
    count, dtype = numbers[0], energy.positions.dtype
    values, places = stored["values"], stored["places"]
    wanted = {
        "positions": ((count, *energy.positions.shape), dtype), "coefficients": ((count, *energy.coefficients.shape), dtype),
        "log_partition": ((count,), np.float64), "values": ((count, *values.shape[1:2]), np.float64),
        "places": (places.shape[:1], np.int64), "column": (places.shape, np.int64),
    }  # fmt: skip
    for name, (shape, kind) in wanted.items():
        array = stored[name]
        if not count or array.shape != shape or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; it must be {np.dtype(kind)} of shape {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinite values")
    for name, largest in (("places", numbers[1]), ("column", values.shape[1])):
        if ((stored[name] < 0) | (stored[name] >= largest)).any():
            raise ValueError(f"{name} has a number that is not from 0 to {largest - 1}")


def _spelt(value: Any) -> Any:
    """Return a base measure as JSON. The equal weights of kernels are written out, so that all replicates have as many numbers."""
    if isinstance(value, BaseMeasure):
        value = spell(value)
    if isinstance(value, list):
        return [_spelt(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("weights", 0) is None:
        count = len(value["concentrations"])
        value = value | {"weights": [1 / count] * count}
    return {name: _spelt(item) for name, item in value.items()}


def _numbers(spelt: Any) -> np.ndarray:
    """Return the floating-point numbers of a base measure as JSON, in the order of its leaves."""
    return np.array([leaf for leaf in jax.tree.leaves(spelt) if isinstance(leaf, float)], np.float64)


def errors(replicates: Float[np.ndarray, "B *k"], fitted: Any) -> Any:
    """Return the root mean square of the differences of replicates from the value of the fit.

    Args:
        replicates: the values of B replicates, (B, *k).
        fitted: the value of the fit, (*k).

    Returns:
        The errors, (*k), in the unit of the values.

    >>> errors(np.array([[1.0], [4.0]]), np.array([1.0])).round(4).tolist()
    [2.1213]
    """
    return np.sqrt(np.mean((replicates - fitted) ** 2, axis=0))
