"""Training on images: settings, data, methods, what is recorded, and runs with their pictures."""

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import xarray
from jaxtyping import Array, Float, Int

from dualebm._internal import checks
from dualebm.base_measures import Gaussian
from dualebm.energies.networks import ConvNet
from dualebm.measures import Samples
from dualebm.methods.contrastive import Begin, Contrastive
from dualebm.methods.jarzynski import FIXED, Jarzynski, threshold_of_variation
from dualebm.metrics.base import Metric
from dualebm.metrics.walkers import EffectiveFraction, LogPartition, Resamplings, WalkerCrossEntropy, Walkers
from dualebm.spaces import Euclidean
from dualebm.training.run import run
from experiments import _common, idx_images
from experiments.digit_classifier import Classifier, ClassMasses

HELD_OUT = 0.2
"""The fraction of each class that no method sees."""

SHOWN = 64
"""Walkers of each record, and of a picture."""

JARZYNSKI, PCD = "Jarzynski", "PCD"

NETWORKS: dict[tuple[int, int], Any] = {
    (8, 8): ConvNet(shape=(8, 8), channels=(16,), kernels=(3,), strides=(2,), paddings=(1,)),
    (28, 28): ConvNet(),
}
"""The energies by the shape of the images; that of MNIST is the paper's."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(
        walkers=4096, walker_batches=1, integrator="mala", moves=2, particle_step=0.02, learning_rate=1.2e-3, energy_penalty=0.0,
        threshold=0.5, data_noise=0.3, scale=0.8, steps=800, seeds=2, temperatures=1000,
    ),
    "paper": dict(
        walkers=1024, walker_batch=256, walker_batches=6, integrator="geodesic", moves=30, particle_step=0.01, learning_rate=1e-4,
        energy_penalty=0.01, threshold=threshold_of_variation(1.5**2), data_batch=128, data_noise=0.3, scale=1.0, steps=36_800, seeds=1,
        temperatures=2000,
    ),
}  # fmt: skip
"""Of the settings that a preset decides."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (8 x 8 digits) or paper (MNIST, as the paper's program but for the start and the noise of the moves)."""
    data: Path | None = None
    """A folder with idx files, as MNIST has them; None for scikit-learn's digits."""
    classes: tuple[int, ...] = (2, 3, 6)
    """The digits."""
    masses: tuple[float, ...] = (4 / 7, 2 / 7, 1 / 7)
    """Of the classes, fractions of sum 1."""
    data_noise: float | None = None
    """Standard deviation of the noise that is added to the data once."""
    scale: float | None = None
    """s of the base measure."""
    walkers: int | None = None
    """N."""
    walker_batch: int | None = None
    """Walkers of Jarzynski that move at a time; all in quick."""
    walker_batches: int | None = None
    """How often such a batch is drawn in an iteration."""
    begin: Begin = "data"
    """Where the walkers of PCD begin: data, or model, as those of Jarzynski do."""
    integrator: str | None = None
    """geodesic (Langevin without adjustment) or mala, of both methods."""
    moves: int | None = None
    """Langevin steps of a walker of a batch; PCD moves all its walkers as often in the mean."""
    particle_step: float | None = None
    """Of Langevin."""
    learning_rate: float | None = None
    """Of Adam (0, 0.999) at the start; it falls to 0 linearly."""
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
    if settings.preset == "paper" and settings.data is None:
        raise ValueError("data is None; preset paper needs --data, a folder with the idx files of MNIST")
    for name in ("data_noise", "learning_rate"):
        checks.number(name, getattr(settings, name), positive=True)
    every, rest = divmod(settings.steps, settings.records)  # type: ignore[operator]
    if rest or every < 2:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of records, which is {settings.records}, at least twice it")
    if len(settings.classes) < 2:
        raise ValueError(f"classes is {settings.classes}; it must have at least two")
    return settings


# -- Data ----------------------------------------------------------------------------------------------


class Images(NamedTuple):
    """The images of a seed: train and held_out with the noise, clean without (n, d), labels by place in `classes`, shape of an image."""

    train: Samples
    held_out: Samples
    clean: Float[Array, "n d"]
    labels: Int[Array, " n"]
    held_out_labels: Int[Array, " m"]
    shape: tuple[int, int]


def read(folder: Path | None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Reads all images.

    Args:
        folder: Where the idx files are; None for the digits of scikit-learn.

    Returns:
        The images as rows in [-1, 1], (n, pixels), their labels, (n,), and the shape of one.

    Raises:
        ValueError: The files are not as `experiments.idx_images` expects them, or hold images of several shapes.
        OSError: The folder or a file cannot be read.

    >>> x, labels, shape = read(None)
    >>> x.shape, shape
    ((1797, 64), (8, 8))
    """
    parts = [idx_images.digits()] if folder is None else [idx_images.load_idx(*pair) for pair in idx_images.find_idx(folder)]
    if len({x.shape[1:] for x, _ in parts}) > 1:
        raise ValueError(f"{folder} holds images of the shapes {[x.shape[1:] for x, _ in parts]}; they must be of one shape")
    x = np.concatenate([idx_images.to_unit(x, 16 if folder is None else 255) for x, _ in parts])
    return x, np.concatenate([labels for _, labels in parts]), parts[0][0].shape[1:]


def data(settings: Settings, seed: int) -> Images:
    """Returns the images of a seed, with noise.

    Raises:
        ValueError: The classes, the masses or the images are not allowed.
    """
    x, labels, shape = read(settings.data)
    if shape not in NETWORKS:
        allowed = ", ".join(f"{h} x {w}" for h, w in NETWORKS)
        raise ValueError(f"data has images of {shape[0]} x {shape[1]}; there are networks for {allowed}")
    parts = idx_images.split(*idx_images.chosen(x, labels, settings.classes, settings.masses, seed), HELD_OUT, seed)
    idx_images.check_range("data", parts[0])
    random = np.random.default_rng([seed, 1])
    noisy = lambda x: Samples(jnp.asarray(x + settings.data_noise * random.standard_normal(x.shape), jnp.float32))  # noqa: E731
    kept, held = (jnp.asarray([settings.classes.index(label) for label in part], jnp.int32) for part in parts[1::2])
    return Images(noisy(parts[0]), noisy(parts[2]), jnp.asarray(parts[0]), kept, held, shape)


# -- Training ------------------------------------------------------------------------------------------


class CrossEntropy(Metric):
    """The value of a `WalkerCrossEntropy` without its error, a number that the progress bar shows.

    >>> CrossEntropy(WalkerCrossEntropy(Samples(jnp.eye(2)))).units
    'nat'
    """

    of: WalkerCrossEntropy
    long_name, units = "cross-entropy to the base measure, by the walkers", "nat"

    def __call__(self, key, iterate):
        """Returns the value."""
        return self.of(key, iterate)[0]


@functools.cache
def adam(learning_rate: float, steps: int) -> Callable[[], optax.GradientTransformation]:
    """Returns what makes Adam (0, 0.999) with a learning rate that falls to 0 linearly: one object for each, so that it compiles once.

    >>> adam(0.1, 10) is adam(0.1, 10)
    True
    """
    return lambda: optax.adam(optax.linear_schedule(learning_rate, 0.0, steps), b1=0.0, b2=0.999)


def methods(settings: Settings, shape: tuple[int, int], count: int) -> dict[str, Any]:
    """Returns the methods.

    Args:
        settings: The settings of the study.
        shape: The shape of an image.
        count: How many images there are.

    Returns:
        The method and its rates by the label.

    Raises:
        ValueError: Settings do not fit together.

    >>> known = methods(checked(Settings(walkers=1024, walker_batch=512, walker_batches=1, moves=4)), (8, 8), 100)
    >>> known["Jarzynski"][0].moves, known["PCD"][0].moves
    (4, 2)
    """
    scale: Any = settings.scale  # not None: `settled` has given it the preset's
    space = Euclidean(math.prod(shape), Gaussian(scale))
    batch, moves = settings.data_batch or count, settings.moves or 0
    common: dict[str, Any] = dict(
        integrator=settings.integrator, noise="independent", optimiser=adam(settings.learning_rate, settings.steps),  # type: ignore[arg-type]
        clip=1.0, walkers=settings.walkers, data_batch=batch if batch < count else None, **FIXED,
    )  # fmt: skip
    corrected = Jarzynski(
        space, NETWORKS[shape], moves=moves, order="parameters_first", walker_batch=settings.walker_batch,
        walker_batches=settings.walker_batches, **common,  # type: ignore[arg-type]
    )  # fmt: skip
    moved = moves * settings.walker_batches * (settings.walker_batch or settings.walkers) / settings.walkers  # type: ignore[operator]
    persistent = Contrastive(space, NETWORKS[shape], moves=max(round(moved), 1), begin=settings.begin, **common)
    same = dict(particle_step=settings.particle_step, energy_penalty=settings.energy_penalty)
    return {
        JARZYNSKI: (corrected, corrected.rates._replace(**same, threshold=settings.threshold)),
        PCD: (persistent, persistent.rates._replace(**same)),
    }


def monitors(label: str, classifier: Classifier, known: Images) -> dict[str, Any]:
    """Returns the metrics of a method."""
    every = {"masses": ClassMasses(classifier), "images": Walkers(SHOWN)}
    if label == PCD:
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


def save_samples(folder: Path, shape: tuple[int, int], results: xarray.Dataset) -> bool:
    """Writes the walkers of the last record as `samples_ITERATION.png`; False, as `run` asks whether to stop."""
    made = picture(results.images.values[-1], shape)
    pixels = np.kron(made, np.ones((max(512 // len(made), 1),) * 2))
    matplotlib.image.imsave(folder / f"samples_{int(results.step.values[-1])}.png", pixels, cmap="gray", vmin=-1, vmax=1)
    return False


def measured(settings: Settings, label: str, method, rates, seed: int, known: Images, classifier) -> tuple[Any, xarray.Dataset, float]:
    """Trains in a folder, and returns the last energy, the records, and the seconds of all calls that made them."""
    folder = settings.out / f"{settings.preset}_{label}{f'_{settings.begin}' if label == PCD else ''}_seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    spent, begin = folder / "seconds.json", time.perf_counter()
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    print(f"seed {seed}: {label}, pictures in {folder}", file=sys.stderr)
    try:
        state, results = run(
            jax.random.key(seed), method, rates, known.train, steps=settings.steps, every=settings.steps // settings.records,  # type: ignore
            metrics=monitors(label, classifier, known), folder=folder / "run", progress=settings.progress and sys.stderr.isatty(),
            callback=functools.partial(save_samples, folder, known.shape),
        )  # fmt: skip
    finally:
        seconds = before + time.perf_counter() - begin
        spent.write_text(json.dumps(seconds))
    save_samples(folder, known.shape, results)
    return method.energy(state, rates, known.train), results, seconds
