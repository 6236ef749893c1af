"""Training on images: settings, methods, what is recorded, and runs with their pictures."""

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import matplotlib.image
import numpy as np
import optax
import xarray

from dualebm._internal import checks
from dualebm._internal.blocks import product
from dualebm.base_families import Normal
from dualebm.base_measures import Gaussian
from dualebm.energies.base import Energy
from dualebm.measures import Samples
from dualebm.methods.contrastive import Begin, Contrastive
from dualebm.methods.jarzynski import Jarzynski, threshold_of_variation
from dualebm.metrics.base import Metric
from dualebm.metrics.walkers import (
    AdaptedSteps,
    EffectiveFraction,
    LogPartition,
    Resamplings,
    WalkerCrossEntropy,
    Walkers,
)
from dualebm.settings import Count
from dualebm.spaces import Euclidean
from dualebm.training.run import run
from experiments import _common
from experiments.digit_classifier import Classifier, ClassMasses
from experiments.images.sets import NETWORKS, Frame, Images

SHOWN = 64
"""Walkers of each record, and of a picture."""

FOLLOWED = 8
"""Places of walkers that are followed along a training."""

JARZYNSKI, PCD, CD = "Jarzynski", "PCD", "CD"

BASES = ("isotropic", "fitted")
"""Of the setting `base`."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(
        base="isotropic", scale=0.8, copies=1, data_noise=0.3, walkers=4096, walker_batches=1, integrator="mala", moves=2,
        particle_step=0.02, learning_rate=1.2e-3, momentum=0.0, energy_penalty=0.0, threshold=0.5, steps=800, seeds=2, temperatures=1000,
    ),
    "medium": dict(
        side=14, base="fitted", scale=1.0, copies=8, data_noise=0.3, walkers=4096, walker_batches=1, integrator="mala", moves=4,
        particle_step=0.2, target=0.9, renewal=100, learning_rate=2e-3, momentum=0.9, energy_penalty=0.0, threshold=0.5, data_batch=2048,
        steps=720, seeds=1, temperatures=1000,
    ),
    "paper": dict(
        base="isotropic", scale=1.0, copies=1, data_noise=0.3, walkers=1024, walker_batch=256, walker_batches=6, integrator="geodesic",
        moves=30, particle_step=0.01, learning_rate=1e-4, momentum=0.0, energy_penalty=0.01, threshold=threshold_of_variation(1.5**2),
        data_batch=128, steps=36_800, seeds=1, temperatures=2000,
    ),
}  # fmt: skip
"""Of the settings that a preset decides."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (8 x 8 digits), medium (MNIST at 14 x 14) or paper (MNIST, as the paper's program but for the start and the noise of moves)."""
    data: Path | None = None
    """A folder with idx files, as MNIST has them; None for scikit-learn's digits."""
    side: int | None = None
    """Height and width to which images are reduced, by means of blocks of pixels; those of the files but in medium."""
    classes: tuple[int, ...] = (2, 3, 6)
    """The digits."""
    masses: tuple[float, ...] = (4 / 7, 2 / 7, 1 / 7)
    """Of the classes, fractions of sum 1."""
    data_noise: float | None = None
    """Standard deviation of the noise that is added to the data once."""
    copies: int | None = None
    """Of each training image, each with noise of its own."""
    base: str | None = None
    """Base measure: isotropic, N(0, s^2 I), or fitted, the normal distribution of the training images with their noise. Walkers then move
    in the coordinates in which it is the standard one."""
    scale: float | None = None
    """s of an isotropic base measure."""
    walkers: int | None = None
    """N."""
    walker_batch: int | None = None
    """Walkers of Jarzynski that move at a time; all in quick."""
    walker_batches: int | None = None
    """How often such a batch is drawn in an iteration."""
    begin: Begin = "data"
    """Where the walkers of PCD begin: data, or model, as those of Jarzynski do."""
    integrator: str | None = None
    """geodesic (Langevin without adjustment) or mala, of all methods."""
    moves: int | None = None
    """Langevin steps of a walker of a batch; PCD and CD move all their walkers as often in the mean."""
    particle_step: float | None = None
    """Of Langevin; the first where it adapts."""
    target: float | None = None
    """Share of the effective fraction that an iteration leaves at the least: learning rate and particle step adapt to it. None, but in
    medium, for the given ones."""
    renewal: int | None = None
    """Iterations after which the walkers of Jarzynski are replaced by fresh samples of the model. None, but in medium, for never."""
    learning_rate: float | None = None
    """Of Adam (momentum, 0.999) at the start, where it adapts the largest; it falls to 0 linearly."""
    momentum: float | None = None
    """Of Adam."""
    energy_penalty: float | None = None
    """Of E U^2 over data and walkers."""
    threshold: float | None = None
    """Effective fraction below which Jarzynski resamples."""
    data_batch: int | None = None
    """Data points of a gradient; all in quick, or where there are no more."""
    steps: int | None = None
    """Iterations, a multiple of records."""
    records: int = 40
    """How many times a run is measured for its summary."""
    temperatures: int | None = None
    """Of the annealing that tells log Z of the last energies."""
    fresh: int = 4096
    """Fresh samples of each last energy, which tell its log Z and its masses."""
    seeds: int | None = None
    """Runs of each method; a seed decides data, network and noise."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    progress: bool = True
    """A bar on a terminal."""
    out: Path = Path("results/images")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).walkers
    4096
    """
    settings = _common.settled(settings, PRESETS)
    if settings.preset != "quick" and settings.data is None:
        raise ValueError(f"data is None; preset {settings.preset} needs --data, a folder with the idx files of MNIST")
    checks.choice("base", settings.base, BASES)
    checks.number("momentum", settings.momentum, largest=0.999)
    for name in ("data_noise", "learning_rate"):
        checks.number(name, getattr(settings, name), positive=True)
    every, rest = divmod(settings.steps, settings.records)  # type: ignore[operator]
    if rest or every < 2:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of records, which is {settings.records}, at least twice it")
    if len(settings.classes) < 2:
        raise ValueError(f"classes is {settings.classes}; it must have at least two")
    return settings


class CrossEntropy(Metric):
    """The value of a `WalkerCrossEntropy` without its error, a number that the progress bar shows.

    >>> import jax.numpy as jnp
    >>> CrossEntropy(WalkerCrossEntropy(Samples(jnp.eye(2)))).units
    'nat'
    """

    of: WalkerCrossEntropy
    long_name, units = "cross-entropy to the base measure, by the walkers", "nat"

    def __call__(self, key, iterate):
        """Returns the value."""
        return self.of(key, iterate)[0]


@functools.cache
def adam(learning_rate: float, momentum: float, steps: int) -> Callable[[], optax.GradientTransformation]:
    """Returns what makes Adam (momentum, 0.999) whose learning rate falls to 0 linearly: one object for each, so that it compiles once.

    >>> adam(0.1, 0.0, 10) is adam(0.1, 0.0, 10)
    True
    """
    return lambda: optax.adam(optax.linear_schedule(learning_rate, 0.0, steps), b1=momentum, b2=0.999)


class Framed(Energy):
    """The energy of images as one of their coordinates in a `Frame`."""

    of: Any
    frame: Frame

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        return self.of.width

    def __call__(self, x):
        """Returns the energies, (N,)."""
        return self.of(product(self.frame.root, x.T).T + self.frame.mean[None])


@dataclasses.dataclass(frozen=True)
class FramedStart:
    """A start of energies of images, as one of energies of their coordinates in the `Frame` of a normal distribution."""

    start: Any
    normal: Normal

    def __call__(self, key, space, dtype) -> Framed:
        """Returns the energy at the start."""
        return Framed(self.start(key, space, dtype), Frame.of(self.normal, dtype))


class Followed(Metric):
    """The particles in the first places: the same ones along a training, but where they are resampled, replaced or restarted.

    >>> Followed(2).units
    '1'
    """

    count: Count = eqx.field(static=True)
    long_name, units = "particles in the first places", "1"

    def __call__(self, key, iterate):
        """Returns the particles as rows."""
        del key
        return iterate.samples.points[: self.count]


def methods(settings: Settings, known: Images) -> dict[str, Any]:
    """Returns the methods.

    Args:
        settings: The settings of the study.
        known: The images of a seed.

    Returns:
        The method and its rates by the label.

    Raises:
        ValueError: Settings do not fit together.

    >>> from experiments.images.sets import data
    >>> settings = checked(Settings(walkers=1024, walker_batch=512, walker_batches=1, moves=4))
    >>> [method.moves for method, _ in methods(settings, data(settings, 0)).values()]
    [4, 2, 2]
    """
    scale: Any = settings.scale  # not None: `settled` has given it the preset's
    start: Any = NETWORKS[known.shape]
    if known.fitted:
        start, scale = FramedStart(start, known.normal), 1.0
    space = Euclidean(math.prod(known.shape), Gaussian(scale))
    count = known.train.points.shape[0]
    batch, moves = settings.data_batch or count, settings.moves or 0
    common: dict[str, Any] = dict(
        integrator=settings.integrator, noise="independent", target=settings.target,
        optimiser=adam(settings.learning_rate, settings.momentum, settings.steps),  # type: ignore[arg-type]
        clip=1.0, walkers=settings.walkers, data_batch=batch if batch < count else None, fixed=("frame",) if known.fitted else (),
    )  # fmt: skip
    moved = moves * settings.walker_batches * (settings.walker_batch or settings.walkers) / settings.walkers  # type: ignore[operator]
    most = lambda moves: None if settings.target is None else moves  # noqa: E731  a number of moves that is known: one budget
    corrected = Jarzynski(
        space, start, moves=moves, largest_moves=most(moves), order="particles_first" if settings.target else "parameters_first",
        renewal=settings.renewal, walker_batch=settings.walker_batch, walker_batches=settings.walker_batches, **common,  # type: ignore[arg-type]
    )  # fmt: skip
    common["moves"] = max(round(moved), 1)
    persistent = Contrastive(space, start, begin=settings.begin, largest_moves=most(common["moves"]), renewal=None, **common)
    divergence = Contrastive(space, start, restart_every=1, renewal=None, **common)
    same = dict(particle_step=settings.particle_step, energy_penalty=settings.energy_penalty)
    return {
        JARZYNSKI: (corrected, corrected.rates._replace(**same, threshold=settings.threshold)),
        PCD: (persistent, persistent.rates._replace(**same)),
        CD: (divergence, divergence.rates._replace(**same)),
    }


def monitors(label: str, classifier: Classifier, known: Images) -> dict[str, Any]:
    """Returns the metrics of a method."""
    every = {
        "masses": ClassMasses(known.seen(classifier)), "images": Walkers(SHOWN), "followed": Followed(FOLLOWED), "steps": AdaptedSteps(),
    }  # fmt: skip
    if label != JARZYNSKI:
        return every
    of = {"train": known.train, "held_out": known.held_out}
    return {
        "effective": EffectiveFraction(), **{name: CrossEntropy(WalkerCrossEntropy(samples)) for name, samples in of.items()},
        "resamplings": Resamplings(), "log_partition": LogPartition(), **every,
    }  # fmt: skip


def picture(rows: np.ndarray, shape: tuple[int, int], columns: int = 8) -> np.ndarray:
    """Puts images (n, d) side by side, cut to [-1, 1], with lines of 0 between them.

    >>> picture(np.array([[-2.0], [1.0]]), (1, 1), columns=2).tolist()
    [[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    (height, width), count = shape, -(-len(rows) // columns)
    made = np.zeros((count * (height + 1) + 1, columns * (width + 1) + 1))
    for i, row in enumerate(rows):
        top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
        made[top : top + height, left : left + width] = np.clip(row, -1, 1).reshape(shape)
    return made


def save_samples(folder: Path, known: Images, results: xarray.Dataset) -> bool:
    """Writes the walkers of the last record as `samples_ITERATION.png`; False, as `run` asks whether to stop."""
    made = picture(np.asarray(known.pixels(results.images.values[-1])), known.shape)
    pixels = np.kron(made, np.ones((max(512 // len(made), 1),) * 2))
    matplotlib.image.imsave(folder / f"samples_{int(results.step.values[-1])}.png", pixels, cmap="gray", vmin=-1, vmax=1)
    return False


def measured(
    settings: Settings, label: str, method, rates, seed: int, known: Images, classifier: Classifier
) -> tuple[Any, Samples, xarray.Dataset, float]:
    """Trains in a folder, and returns the last energy, its walkers, the records, and the seconds of all calls that made them."""
    folder = settings.out / f"{settings.preset}_{label}{f'_{settings.begin}' if label == PCD else ''}_seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    spent, begin = folder / "seconds.json", time.perf_counter()
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    print(f"seed {seed}: {label}, pictures in {folder}", file=sys.stderr)
    try:
        state, results = run(
            jax.random.key(seed), method, rates, known.train, steps=settings.steps, every=settings.steps // settings.records,  # type: ignore
            metrics=monitors(label, classifier, known), folder=folder / "run", progress=settings.progress and sys.stderr.isatty(),
            callback=functools.partial(save_samples, folder, known),
        )  # fmt: skip
    finally:
        seconds = before + time.perf_counter() - begin
        spent.write_text(json.dumps(seconds))
    save_samples(folder, known, results)
    return method.energy(state, rates, known.train), method.samples(state), results, seconds
