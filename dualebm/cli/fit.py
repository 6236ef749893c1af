"""`dualebm fit`: the settings of a fit of an energy to a file of data, and the run."""

import dataclasses
import hashlib
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from jaxtyping import Array, Key

from dualebm import model
from dualebm._internal import checks
from dualebm.cli import evaluate, methods, report
from dualebm.data import tables
from dualebm.features import Bump, Feature, ReLU, Ridge, Softplus
from dualebm.geometry import Space
from dualebm.kernels import kernel_of
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, annealing
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.fingerprint import describe
from dualebm.training.run import run

SPACES = ("sphere", "euclidean", "torus")
"""The values of --space."""

FEATURES = ("relu_bias", "relu", "softplus_bias", "softplus", "bump")
"""The values of --feature."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fits an energy to the rows of a file by the coupled flow (Algorithm 1 of arXiv 2107.05134).

    For example: dualebm fit wind.csv --space sphere --normalise --out results/wind

    The model is exp(-U) times the base measure: uniform on the sphere and the torus, the standard Gaussian on Euclidean
    space. The command writes records, a checkpoint and the model into --out. The same command continues a fit that was
    interrupted.
    """

    data: tyro.conf.Positional[Path]
    """A .csv, .npy or .npz file with one point per row."""
    space: str
    """The space of the points: sphere (rows of norm 1), euclidean or torus (coordinates in [0, period))."""
    out: Path
    """The folder to write: a new or an empty one, or the folder of the fit to continue."""
    normalise: bool = False
    """Divide the rows by their norms (sphere)."""
    standardise: bool = False
    """Subtract the mean of each column and divide by its standard deviation (euclidean). The model keeps both, and returns samples
    and densities in the units of the data."""
    period: float | None = None
    """The period of the coordinates (torus); None for 1."""
    method: str = "dual"
    """dual (Algorithm 1), score_matching, lazy (fixed features), kernel_flow, mean_field (on a grid, circle and S^2), likelihood,
    weighted_likelihood, kernel_stein or network_stein (Stein discrepancies, not on a torus), weighted_dual (Algorithm 1 with Jarzynski's
    weights), jarzynski or contrastive (any energy: --set energy=mlp width=64 depth=2, or energy=boltzmann hidden=16). A flag below that
    is None keeps the method's default. A flag that the method does not have is refused."""
    set: tuple[str, ...] = ()
    """Other settings and rates of the method, such as width=128 learning_rate=0.003."""
    feature: str | None = None
    """The feature phi of the energy: relu_bias, relu (spans only even and linear functions on the sphere), softplus_bias, softplus or
    bump; None for bump on the torus, relu for kernel_flow elsewhere, and relu_bias otherwise."""
    neurons: int | None = None
    """The number of neurons of the energy; None for 64."""
    particles: int | None = None
    """The number of particles; None for two copies of the data."""
    signs: str | None = None
    """The signs of the neurons: half (None), random or all_negative."""
    integrator: str | None = None
    """The moves of the particles: mala (None), geodesic or projected."""
    noise: str | None = None
    """The noise of the particles: independent, antithetic (None) or orthogonal."""
    particle_moves: int | None = None
    """The number of moves of each particle in an iteration; None for 1."""
    neuron_moves: int | None = None
    """The number of updates of the neurons in an iteration; None for 1."""
    data_batch: int | None = None
    """The number of rows drawn in each iteration for the data term; None for all."""
    restart_every: int | None = None
    """The number of iterations after which all particles restart at the data; None for never."""
    particle_step: float | None = None
    """The step of the particles; None for one that suits the space."""
    transport_step: float | None = None
    """The step of the neurons' positions; None for one that suits the space and the data."""
    reaction_step: float | None = None
    """The step of the neurons' weights; None for one that suits the space and the data."""
    restart_probability: float | None = None
    """The probability with which each particle restarts at a row of the data in an iteration; None for 0."""
    radius: float | None = None
    """The largest total variation of the neurons, which bounds the energy, in units of temperature; None for 10."""
    anneal: bool = True
    """Let the radius grow to its value in the first fifth of the iterations, and the neurons' steps fall afterwards. It applies to the
    methods whose neurons move in a ball: dual, weighted_dual, score_matching and mean_field."""
    steps: int = 2000
    """The number of iterations, a multiple of --every."""
    every: int = 20
    """The number of iterations between records, at least 2."""
    holdout: float = 0.2
    """The fraction of the rows, drawn at random, that is not trained on; 0 for none."""
    gap_chains: int = 20_000
    """The number of annealed chains by which the duality gap is estimated at the end; 0 for no gap. The circle and S^2 have a quadrature
    instead."""
    seed: int = 0
    """The seed of all random numbers."""
    precision: int = 32
    """The precision in bits, 32 or 64."""


def fit(settings: Fit) -> None:
    """Fit the energy, write the folder of the run and the model, and print log Z and the mean log densities.

    Raises ValueError for a setting or a file that is not allowed, and `Diverged` when the run diverges.
    """
    checks.choice("precision", settings.precision, (32, 64))
    checks.seed("seed", settings.seed)
    checks.count("gap_chains", settings.gap_chains, 0)
    with jax.enable_x64(settings.precision == 64):
        _fit(settings)


class Task(NamedTuple):
    """What a fit trains, and the points.

    Attributes:
        method: The training method.
        rates: The rates of the method, a NamedTuple of scalars.
        data: The points to train on, (n, d).
        held_out: The points that are not trained on, (k, d), where k may be 0.
        mean: The means of the columns, (d,) in float64, or None where columns are not standardised.
        scale: The standard deviations of the columns, (d,) in float64, or None where columns are not standardised.
    """

    method: Any
    rates: Any
    data: Samples
    held_out: Samples
    mean: np.ndarray | None
    scale: np.ndarray | None


def _fit(settings: Fit) -> None:
    split_key, run_key, partition_key = jax.random.split(jax.random.key(settings.seed), 3)
    task = _task(split_key, settings)
    method, rates, data, space = task.method, task.rates, task.data, task.method.space
    if not space.compact and not settings.standardise:
        _note(report.note_of_scales(data.points))
    recorded = evaluate.monitors(method, rates, data, task.held_out)
    state, results = run(
        run_key, method, rates, data, steps=settings.steps, every=settings.every, metrics=recorded,
        schedule=schedule_of(settings, rates), folder=settings.out, progress=sys.stderr.isatty(),
    )  # fmt: skip
    energy = method.energy(state, rates, data)
    particles = evaluate.particles_of(run_key, partition_key, energy, space, method.samples(state))
    log_partition = estimate_log_partition(partition_key, energy, space, particles)
    step = evaluate.particle_step_of(rates, space)
    fitted = model.Model(energy, space, settings.normalise, task.mean, task.scale, log_partition, step)
    likelihoods = {
        "trained_on": evaluate.likelihood(fitted, data.points),
        "held_out": evaluate.likelihood(fitted, task.held_out.points),
    }
    ball = "negative" if settings.signs == "all_negative" else "full"
    gap = evaluate.gap_of(partition_key, energy, space, rates, data, ball=ball, chains=settings.gap_chains)
    rows, digest = len(data.points) + len(task.held_out.points), hashlib.sha256(settings.data.read_bytes()).hexdigest()
    about = {
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(settings).items()},
        "data": {"file": str(settings.data), "sha256": digest, "rows": rows},
        "method": describe(method),
        "rates": describe(rates),
        "duality_gap": gap,
        **likelihoods,
    }
    model.save(settings.out, fitted, about)
    print(f"{len(data.points)} rows of {settings.data} on {space}, {len(task.held_out.points)} held out; {settings.steps} iterations")
    print(report.last_records(results, list(recorded)))
    print("\n".join(report.evaluation(log_partition, likelihoods, gap)))
    print(f"written to {settings.out}")
    _note(report.note_of_radius(results, rates))


def _note(note: str | None) -> None:
    if note is not None:
        print(note, file=sys.stderr)


def _task(key, settings: Fit) -> Task:
    """Read the file, and make the method, its rates and the points. Raise ValueError for what is not allowed."""
    rows = tables.read(settings.data)
    space = space_of(settings, rows)
    method = method_of(settings, space)
    kept, held = split_rows(key, len(rows), settings.holdout)
    mean, scale = column_scales(str(settings.data), rows[kept]) if settings.standardise else (None, None)
    points = model.to_space(
        rows, space, f"float{settings.precision}", normalise=settings.normalise, mean=mean, scale=scale,
        name=str(settings.data),
    ).points  # fmt: skip
    data = Samples(points[kept])
    rates = rates_of(settings, method, data)
    method.check(rates, data)
    return Task(method, rates, data, Samples(points[held]), mean, scale)


def schedule_of(settings: Fit, rates: Any) -> Any:
    """Return `annealing` over a fifth of the iterations, or None.

    It is None where --no-anneal is given, and where the rates lack the radius or a step of the neurons, which
    `annealing` changes.
    """
    anneals = {"radius", "transport_step", "reaction_step"} <= set(rates._fields)
    return annealing(math.ceil(settings.steps / 5)) if settings.anneal and anneals else None


def split_rows(key: Key[Array, ""], count: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows to train on and of the rows that are held out, both in increasing order.

    Args:
        key: The key of the draw of held-out rows.
        count: The number of rows.
        holdout: The fraction of the rows to hold out, from 0 to 1.

    Returns:
        Two arrays of indices.

    Raises:
        ValueError: When no row is left to train on, or none is held out although `holdout` is not 0.

    >>> [len(part) for part in split_rows(jax.random.key(0), 10, 0.2)]
    [8, 2]
    """
    checks.number("holdout", holdout, largest=1)
    held = round(count * holdout)
    if held == count or (holdout and not held):
        raise ValueError(f"holdout is {holdout} of {count} rows, which is {held} rows; at least one row must be held out and one be left")
    order = np.asarray(jax.random.permutation(key, count))
    return np.sort(order[held:]), np.sort(order[:held])


def space_of(settings: Fit, rows: np.ndarray) -> Space:
    """Return the space of the data. Raises ValueError for rows of another shape, and for flags of another space."""
    checks.choice("space", settings.space, SPACES)
    for flag, home in (("normalise", "sphere"), ("standardise", "euclidean"), ("period", "torus")):
        value = getattr(settings, flag)
        if value not in (None, False) and settings.space != home:
            raise ValueError(f"{flag} is {value} and space is {settings.space!r}; allowed: {home!r}")
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"{settings.data} has shape {rows.shape}; it must be (rows, columns)")
    if settings.space == "sphere" and rows.shape[1] < 2:
        raise ValueError(f"{settings.data} has 1 column; points of a sphere must have at least 2")
    if settings.space == "torus":
        return Torus(rows.shape[1], 1.0 if settings.period is None else settings.period)
    return (Sphere if settings.space == "sphere" else Euclidean)(rows.shape[1])


def column_scales(name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each column of `rows`, (d,) in float64.

    Raises ValueError for a column that is constant. The message names the file `name`.

    >>> [a.tolist() for a in column_scales("x", np.array([[1.0, 0.0], [3.0, 8.0]]))]
    [[2.0, 4.0], [1.0, 4.0]]
    """
    rows = rows.astype(np.float64) if rows.dtype.kind == "f" else rows  # rows of another dtype are refused with the points
    mean, scale = np.mean(rows, axis=0), np.std(rows, axis=0)
    usable = scale > 1e-12 * np.abs(mean)
    if np.isfinite(scale).all() and not usable.all():
        column = int(np.argmin(usable)) + 1
        raise ValueError(f"{name} has the one value {mean[column - 1]:g} in column {column}; a column must vary to be standardised")
    return mean, scale


def method_of(settings: Fit, space: Space) -> Any:
    """Return the method on a space, with its fields that are set by flags or by --set.

    Raises ValueError for settings that the method does not have.
    """
    kind = methods.kind(settings.method)
    fields = {field.name for field in dataclasses.fields(kind)}
    values = given(settings)
    named = {name: value for name, value in values.items() if name in fields - set(methods.OBJECTS)}
    feature = feature_of(settings, space)
    if "feature" in fields:
        return kind(space, feature, **named)
    if kind is KernelFlow:
        return kind(space, kernel_of(feature, space), **named)
    if settings.feature is not None:
        raise ValueError(f"feature is {settings.feature!r} and method is {settings.method!r}, which has no feature; leave it out")
    if "start" in fields:
        energy = {name: value for name, value in values.items() if name in ("energy", *methods.ENERGY_SETTINGS) and name not in fields}
        return kind(space, methods.start(**energy), **named)
    return kind(space, **named)


FLAGS = (
    "neurons", "particles", "signs", "integrator", "noise", "particle_moves", "neuron_moves", "data_batch", "restart_every",
    "particle_step", "transport_step", "reaction_step", "restart_probability", "radius",
)  # fmt: skip
"""The flags that are fields or rates of a method."""


def given(settings: Fit) -> dict[str, Any]:
    """Return the fields and rates of the method that are set: the flags that are not None, and the values of --set.

    Raises ValueError for settings that the method does not have, and for one that is set twice.
    """
    values = {name: getattr(settings, name) for name in FLAGS if getattr(settings, name) is not None}
    for name, listed in methods.assignments(settings.set).items():
        if len(listed) > 1 or name in values:
            raise ValueError(f"set has {name} with several values; it must have one")
        values[name] = listed[0]
    methods.check_names(settings.method, values)
    return values


def feature_of(settings: Fit, space: Space) -> Feature:
    """Return the feature phi by its name. Raises ValueError for one that is not continuous on a torus."""
    default = "bump" if space.periodic else "relu" if settings.method == "kernel_flow" else "relu_bias"
    name = settings.feature or default
    checks.choice("feature", name, FEATURES)
    if name == "bump":
        return Bump(space)
    if space.periodic:
        raise ValueError(f"feature is {name!r} and space is 'torus', where it is not continuous; allowed: 'bump'")
    return (ReLU if name.startswith("relu") else Softplus)(bias=name.endswith("_bias"))


def rates_of(settings: Fit, method: Any, data: Samples) -> Any:
    """Return the rates that the settings give, with defaults for the other rates.

    The defaults are `method.rates`, except for the steps `transport_step` and `reaction_step` of the neurons of `Dual` and
    `WeightedDual` with a ridge feature. Their largest stable value is proportional to 1 / q. The mean q = E <theta, (x, 1)>^2 is over
    data points x and over theta uniform on the unit sphere. The constant 1 is there only for a feature with a bias. The default
    of both steps is 0.4 / q. On the sphere without a bias 1 / q is d.

    Args:
        settings: The settings of the fit.
        method: The training method.
        data: The samples to train on, with points (n, d).

    Returns:
        The rates, a NamedTuple of scalars.

    >>> method = Dual(Sphere(4), ReLU())
    >>> rates = rates_of(Fit(Path("x.csv"), "sphere", Path("out")), method, Samples(np.eye(4, dtype="float32")))
    >>> round(float(rates.transport_step), 6)
    1.6
    """
    rates = method.rates
    if isinstance(method, (Dual, WeightedDual)) and isinstance(method.feature, Ridge):
        bias = method.feature.bias
        square = float(np.mean(np.sum(np.asarray(data.points, np.float64) ** 2, axis=1)))
        step = 0.4 * (method.space.dimension + bias) / (square + bias)
        rates = rates._replace(transport_step=step, reaction_step=step)
    return rates._replace(**{name: value for name, value in given(settings).items() if name in rates._fields})
