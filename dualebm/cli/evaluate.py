"""The numbers that `dualebm fit` records along training and reports at its end."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from dualebm import duality_gap, measures, metrics, model, quality, row_weights
from dualebm._internal.keys import key_of_seed
from dualebm.energies.base import Energy
from dualebm.energies.shallow import Shallow
from dualebm.geometry import Space
from dualebm.log_z.annealing import anneal
from dualebm.log_z.quadrature import quadrature_of
from dualebm.measures import Samples
from dualebm.methods.validated import Validated, can_check
from dualebm.metrics.walkers import EffectiveFraction, WalkerCrossEntropy
from dualebm.training.prepare import initial_state, traced

ANNEALED_SAMPLES = 10_000
"""The number of samples of the model that are annealed where the method has no particles."""


def monitors(method: Any, data: Samples, held_out: Samples) -> dict[str, Any]:
    """Return the metrics that a fit records.

    Every method has its total variation and its acceptance recorded. A method that knows log Z along training also has
    the cross-entropies of the data and the held-out points recorded, and the effective fraction of its weighted
    particles. Any other method with particles has energy gaps recorded: the mean energy of points minus the mean energy
    of particles. A method without particles has the cross-entropies recorded, with log Z by quadrature or annealing.

    Args:
        method: The training method.
        data: The points to train on, (n, d).
        held_out: The points that are not trained on, (k, d), where k may be 0.

    Returns:
        The metrics by name. A name begins with `fit` for the data and with `held_out` for the held-out points.
    """
    follows, particles = abilities(method, data)
    groups = {"fit": data, "held_out": held_out} if len(held_out.points) else {"fit": data}
    recorded: dict[str, Any] = {}
    if follows:
        recorded = {f"{name}_cross_entropy": WalkerCrossEntropy(points) for name, points in groups.items()}
    elif not particles:
        quadrature = quadrature_of(method.space, data.points.dtype)
        recorded = {
            f"{name}_cross_entropy": metrics.CrossEntropy(points, method.space, quadrature) for name, points in groups.items()
        }
    return recorded | signs(method, data, held_out)


def signs(method: Any, data: Samples, held_out: Samples) -> dict[str, Any]:
    """Return the metrics of `monitors` besides the cross-entropies, for the same arguments."""
    follows, particles = abilities(method, data)
    groups = {"fit": data, "held_out": held_out} if len(held_out.points) else {"fit": data}
    recorded: dict[str, Any] = {}
    if follows:
        recorded["effective_fraction"] = EffectiveFraction()
    elif particles:
        recorded = {f"{name}_gap": metrics.EnergyGap(points) for name, points in groups.items()}
    return recorded | {"total_variation": metrics.TotalVariation(), "acceptance": metrics.Acceptance()}


CHECKS = 10
"""The largest number of checks by fresh samples along a fit."""

LEAST_BETWEEN = 100
"""The least number of iterations between such checks. A shorter fit has none."""


def checks_of(steps: int, every: int, data: Samples, held_out: Samples) -> dict[str, metrics.AnnealedCheck]:
    """Return the check of a fit by fresh samples of the model, `metrics.AnnealedCheck`, by its name.

    Its cross-entropy is that of the held-out points, or of the data where no point is held out. The last check is at the end.

    Args:
        steps: the number of iterations, a multiple of `every`.
        every: the number of iterations between records.
        data: the points to train on, (n, d).
        held_out: the points that are not trained on, (k, d), where k may be 0.

    Returns:
        The metric by its name, or nothing for a short fit.

    >>> data = Samples(np.eye(3))
    >>> checks_of(2000, 20, data, data)["check"].every, checks_of(80, 20, data, data)
    (200, {})
    """
    periods = [every * k for k in range(1, steps // every + 1) if steps % (every * k) == 0]
    kept = [period for period in periods if period >= LEAST_BETWEEN and period * CHECKS >= steps]
    return {"check": metrics.AnnealedCheck(held_out if len(held_out.points) else data, min(kept))} if kept else {}


STEPS, MOST_STEPS = 2000, 6000
"""The number of iterations of a training where none is given, and that of a method that adapts its steps, the most that it may take."""

VALIDATIONS = 40
"""The largest number of checks at validation rows along a fit."""


def validated(
    key: Key[Array, ""], method: Any, data: Samples, steps: int, every: int, fraction: float | None, mend: bool
) -> tuple[Any, Samples]:
    """Return a method that sets validation rows aside or mends, and the data with the validation rows at its end.

    A method whose steps are fixed mends: where its training becomes worse or diverges, it goes back with smaller steps. A training of less
    than `LEAST_BETWEEN` iterations does not.

    Args:
        key: the key of the draw of validation rows.
        method: the training method.
        data: the rows that are not held out, (n, d).
        steps: the number of iterations, a multiple of `every`.
        every: the number of iterations between records.
        fraction: the fraction of the rows that validate. None for that of the method (`Method.validation_share`).
        mend: whether a method mends whose steps are fixed.

    Returns:
        A `Validated` and the data in another order. For the fraction 0 the data in their order, and the method itself where it adapts its
        steps, or no fresh samples of its model can be drawn.

    Raises:
        ValueError: no row is left to train on, or none validates although the fraction is not 0, or a method that adapts its steps is
            told not to mend.

    >>> from dualebm.energies.networks import MLP; from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> method, data = validated(key_of_seed(0), Jarzynski(Sphere(3), MLP()), Samples(np.ones((10, 3))), 2000, 20, None, True)
    >>> method.rows, method.every
    (2, 60)
    """
    if fraction is None:
        fraction = method.validation_share
    if method.adapts and not mend:
        raise ValueError("mend is False, and this method adapts its steps: it has nothing to mend; target None fixes the steps")
    mends = mend and not method.adapts and can_check(method, method.rates, data)
    mends &= steps >= LEAST_BETWEEN
    every *= -(-steps // (every * VALIDATIONS))
    if not fraction:
        return Validated(method, 0, every, mends=True) if mends else method, data
    count = len(data.points)
    rows = round(count * fraction)
    if not 0 < rows < count:
        raise ValueError(f"validation is {fraction} of {count} rows, which is {rows} rows; at least one must validate and one be left")
    order = np.asarray(jax.random.permutation(key, count))
    return Validated(method, rows, every, mends=mends), jax.tree.map(lambda leaf: leaf[order], data)


class ByParticles(NamedTuple):
    """log Z by the particles of a training.

    Args:
        value: log Z, in nats.
        standard_error: its standard error, in nats. NaN where it is not known.
    """

    value: float
    standard_error: float


class Kept(NamedTuple):
    """The energy of a training that is kept by its checks.

    Args:
        iteration: the number of iterations of this energy.
        done: the number of iterations that were done in all.
        rows: the number of validation rows. 0 where the checks are at the rows that it trains on.
        cross_entropy: the cross-entropy of the rows of the checks, in nats, the least of all checks and so a little too low.
        standard_error: the error of its log Z.
        halvings: how often the training went back with half the steps. None for a method that adapts its steps.
    """

    iteration: int
    done: int
    rows: int
    cross_entropy: float
    standard_error: float
    halvings: int | None


def kept_of(method: Validated, state: Any) -> Kept | None:
    """Return what is kept by a training that is validated, or None where no check could be trusted.

    Args:
        method: the training method.
        state: its last state.
    """
    value, error = (float(number) for number in state.kept.cross_entropy)
    halvings = None if state.mending is None else int(state.mending.halvings)
    return Kept(int(state.kept.state.step), int(state.step), method.rows, value, error, halvings) if np.isfinite(value) else None


def log_partition_of(method: Any, state: Any) -> ByParticles | None:
    """Return log Z by the particles of a training and its standard error, in nats, or None where the method does not know log Z.

    Args:
        method: the training method.
        state: its state.

    >>> from dualebm.methods.dual import Dual
    >>> from dualebm.spaces import Sphere
    >>> log_partition_of(Dual(Sphere(3)), None)
    """
    known = method.log_partition(state)
    return None if known is None else ByParticles(float(known[0]), float(known[1]))


def abilities(method: Any, data: Samples) -> tuple[bool, bool]:
    """Tell whether a method follows log Z along training, and whether it has particles.

    >>> import jax.numpy as jnp
    >>> from dualebm.methods.dual import Dual
    >>> from dualebm.spaces import Sphere
    >>> abilities(Dual(Sphere(3)), Samples(jnp.eye(3)))
    (False, True)
    """
    return _abilities(method, *(None if leaf is None else (leaf.shape, leaf.dtype) for leaf in data))


@functools.lru_cache(maxsize=128)
def _abilities(method: Any, points: Any, log_weights: Any) -> tuple[bool, bool]:
    shapes: Any = [None if leaf is None else jax.ShapeDtypeStruct(*leaf) for leaf in (points, log_weights)]
    data = Samples(*shapes)
    state = eqx.filter_eval_shape(initial_state, key_of_seed(0), method, traced(method.rates, data), data)
    log_z, samples = (eqx.filter_eval_shape(ask, state) for ask in (method.log_partition, method.samples))
    return log_z is not None, samples is not None


def particles_of(
    run_key: Key[Array, ""], key: Key[Array, ""], energy: Energy, space: Space, samples: Samples | None
) -> Float[Array, "N d"]:
    """Return unweighted particles of the model exp(-energy) with respect to the base measure.

    Args:
        run_key: The key of the annealing, used where the method has no particles.
        key: The key of the resampling, used where the particles have weights.
        energy: The trained energy.
        space: The space of the particles.
        samples: The particles of the method, (N, d), or None for a method without particles.

    Returns:
        The particles themselves where they have no weights, the resampled particles where they have, and
        `ANNEALED_SAMPLES` annealed samples where the method has no particles.
    """
    if samples is None:
        return anneal(run_key, energy, space, ANNEALED_SAMPLES).points
    if samples.log_weights is None:
        return samples.points
    return samples.points[measures.resample(key, samples.log_weights, len(samples.points))]


def particle_step_of(rates: Any, space: Space) -> float:
    """Return the particle step of a method's rates, or the space's default where the method moves no particles.

    >>> from dualebm.methods.dual import Dual
    >>> from dualebm.spaces import Sphere
    >>> particle_step_of(Dual(Sphere(3)).rates._replace(particle_step=0.125), Sphere(3))
    0.125
    """
    step = float(rates.particle_step) if "particle_step" in rates._fields else 0.0
    return step or space.default_particle_step


def shares_of(data: Samples) -> row_weights.Shares:
    """Return the weights of points, (n,), in float64 and of sum 1, or None for equal ones.

    >>> shares_of(Samples(np.eye(2)))
    """
    return None if data.log_weights is None else row_weights.shares_of("weights", np.asarray(data.weights), len(data.points))


def likelihood(fitted: model.Model, data: Samples) -> dict[str, Any]:
    """Return the mean log densities of a model at points, weighted where they have weights, as JSON.

    Args:
        fitted: the model.
        data: the points, (n, d).

    Returns:
        `rows`, the number n, `effective_rows`, Kish's effective number where the points have weights, and for each log density of
        `model.log_densities_at` its `mean` and `standard_error` in nats (None for one row). For a model with replicates `errors` has what
        finite training rows leave uncertain (`model.errors_at`): that of the `mean`, and the median of those of the `rows`. For no
        points, `rows` alone.

    Raises:
        ValueError: A log density is not finite.
    """
    means: dict[str, Any] = {"rows": len(data.points)}
    if len(data.points):
        shares = shares_of(data)
        if shares is not None:
            means["effective_rows"] = row_weights.effective_count(len(shares), shares)
        for kind, values in model.log_densities_at(fitted, data.points).items():
            if not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values)))
                raise ValueError(
                    f"{kind} is {values[row]} at the point {np.asarray(data.points[row]).tolist()}, one of {len(values)} rows of the fit; "
                    "the model has no number there, so leave such rows out"
                )
            mean, error = model.mean_with_error(values, fitted.log_partition.standard_error, shares)
            means[kind] = {"mean": mean, "standard_error": error}
        errors = model.errors_at(fitted, data.points, shares)
        if errors is not None:
            means["errors"] = {"mean": errors.mean, "rows": float(np.median(errors.rows))}
    return means


def fit_test(key: Key[Array, ""], fitted: model.Model, held_out: Samples) -> dict[str, Any]:
    """Return the p-value of the test that rows are of a model (`quality.goodness_of_fit`), as JSON.

    Args:
        key: The key of the test.
        fitted: The model.
        held_out: The held-out points, (N, d), where N may be 0.

    Returns:
        `rows`, the number of rows that were tested, their `p_value`, and the `reason` why there is none.
    """
    count = min(len(held_out.points), quality.TESTED)
    if not count:
        return {"rows": 0, "p_value": None, "reason": "no row is held out"}
    if fitted.preparation.space.periodic:
        return {"rows": count, "p_value": None, "reason": "the test is not for a torus"}
    if held_out.log_weights is not None:
        return {"rows": count, "p_value": None, "reason": "the test is not for rows with weights"}
    try:
        p_value = float(quality.goodness_of_fit(key, fitted, held_out.points).p_value)
    except ValueError as error:
        return {"rows": count, "p_value": None, "reason": str(error)}
    return {"rows": count, "p_value": p_value, "reason": None}


def gap_of(
    key: Key[Array, ""], energy: Energy, space: Space, rates: Any, data: Samples, *, ball: str, chains: int
) -> dict[str, Any] | None:
    """Return how far a trained energy is from the best of its F1 ball, as JSON.

    Args:
        key: Key of the annealed chains.
        energy: The trained energy.
        space: The space of the data.
        rates: The rates of the method, a NamedTuple of scalars, with the radius of the ball where the method has one.
        data: The points trained on, (n, d).
        ball: "full", or "negative" for energies whose charges are all negative.
        chains: The number of annealed chains; 0 for no gap.

    Returns:
        The bound in `nats` with its `standard_error`, the `ball`, and a `summary` in words, without a number where that says little. None
        where there are no chains, the method has no radius or the energy has no neurons.
    """
    if not chains or "radius" not in rates._fields or not isinstance(energy, Shallow):
        return None
    radius = float(rates.radius)
    options: dict[str, Any] = dict(quadrature=quadrature_of(space, data.points.dtype), ball=ball, chains=chains)
    certificate = duality_gap.certify(key, energy, space, data, radius, **options)
    sentence = duality_gap.summary(certificate, radius, ball)
    return {"nats": float(certificate.gap), "standard_error": float(certificate.error), "ball": ball, "summary": sentence}
