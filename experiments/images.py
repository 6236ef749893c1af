"""Are digits made in the right proportions? Jarzynski-corrected training of an energy of images beside PCD (arXiv 2305.19414, MNIST 2/3/6).

    python -m experiments.images --preset quick
    python -m experiments.images --preset paper --data MNIST

Images of three digits with masses 4/7, 2/7, 1/7, scaled to [-1, 1]; a fifth of each class is held out. Without `--data` they are the
8 x 8 digits of scikit-learn, else those of a folder with idx files, as MNIST has them. Noise is added to the data once, so that they have a
density. The model is exp(-U) N(0, s^2 I) with U = 0 at the start: the first walkers are exact draws and log Z = 0. It replaces the authors'
walkers of uniform pixels and 20000 steps without weights, and the moves are Langevin's at temperature 1, for which the weights are exact;
theirs have less noise than their weights assume, and take back pixels that leave [-1, 1].
`Jarzynski` beside `Contrastive` that begins at the data, PCD: one network, optimiser, number of walkers and of moves; `--begin model` has
it begin where Jarzynski does.

Told are the masses of the digits among the walkers, with their weights, as a classifier of this script sees them; the cross-entropy by the
walkers, known at each iteration; for both methods that of the last energy by annealed importance sampling, which knows nothing of the
training; and pictures of walkers, also as training goes. Each run is a folder under `--out` from which the same command continues.
"""

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.image
import numpy as np
import optax
import xarray
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualebm import measures
from dualebm._internal import checks
from dualebm.energies.networks import ConvNet
from dualebm.log_z import partition
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import Jarzynski, threshold_of_variation
from dualebm.metrics.walkers import EffectiveFraction, LogPartition, Resamplings, WalkerCrossEntropy, Walkers
from dualebm.plotting import charts
from dualebm.spaces import Euclidean
from dualebm.training.run import run
from experiments import _common, report
from experiments import idx_images as images
from experiments.digit_classifier import (
    ACCURACY,
    CLASSIFIER,
    CLASSIFIER_NOISE,
    Classifier,
    ClassMasses,
    accuracy,
    trained,
)

HELD_OUT = 0.2
"""The fraction of each class that no method sees."""

SHOWN = 64
"""Walkers of each record, and of a picture."""

JARZYNSKI, PCD = "Jarzynski", "PCD"

CHAINS = 512
"""Of the annealing, at most."""

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
    begin: str = "data"
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
    """How often what is told is measured."""
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
    """The settings with the values of the preset. Raises ValueError naming what is not allowed.

    >>> checked(Settings()).walkers
    4096
    """
    _common.check(settings)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    settings = Settings(**{**PRESETS[settings.preset], **given})
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
    """Of a seed: train and held_out with the noise, clean without (n, d), labels by place in `classes`, shape of an image."""

    train: Samples
    held_out: Samples
    clean: Float[Array, "n d"]
    labels: Int[Array, " n"]
    held_out_labels: Int[Array, " m"]
    shape: tuple[int, int]


def read(folder: Path | None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """All images as rows in [-1, 1], their labels, and the shape of one; raises ValueError and OSError as `experiments.idx_images`.

    >>> x, labels, shape = read(None)
    >>> x.shape, shape
    ((1797, 64), (8, 8))
    """
    parts = [images.digits()] if folder is None else [images.load_idx(*pair) for pair in images.find_idx(folder)]
    if len({x.shape[1:] for x, _ in parts}) > 1:
        raise ValueError(f"{folder} holds images of the shapes {[x.shape[1:] for x, _ in parts]}; they must be of one shape")
    x = np.concatenate([images.to_unit(x, 16 if folder is None else 255) for x, _ in parts])
    return x, np.concatenate([labels for _, labels in parts]), parts[0][0].shape[1:]


def data(settings: Settings, seed: int) -> Images:
    """The images of a seed; raises ValueError for classes, masses and images that are not allowed."""
    x, labels, shape = read(settings.data)
    if shape not in NETWORKS:
        allowed = ", ".join(f"{h} x {w}" for h, w in NETWORKS)
        raise ValueError(f"data has images of {shape[0]} x {shape[1]}; there are networks for {allowed}")
    parts = images.split(*images.chosen(x, labels, settings.classes, settings.masses, seed), HELD_OUT, seed)
    images.check_range("data", parts[0])
    random = np.random.default_rng([seed, 1])
    noisy = lambda x: Samples(jnp.asarray(x + settings.data_noise * random.standard_normal(x.shape), jnp.float32))  # noqa: E731
    own, held = (jnp.asarray([settings.classes.index(label) for label in part], jnp.int32) for part in parts[1::2])
    return Images(noisy(parts[0]), noisy(parts[2]), jnp.asarray(parts[0]), own, held, shape)


# -- Training ------------------------------------------------------------------------------------------


class CrossEntropy(eqx.Module):
    """The value of a `WalkerCrossEntropy` without its error, a number that the progress bar shows.

    >>> CrossEntropy(WalkerCrossEntropy(Samples(jnp.eye(2)))).units
    'nat'
    """

    of: WalkerCrossEntropy
    long_name: ClassVar[str] = "cross-entropy to the base measure, by the walkers"
    units: ClassVar[str] = "nat"

    def __call__(self, key, iterate):
        """The value."""
        return self.of(key, iterate)[0]


@functools.cache
def adam(learning_rate: float, steps: int) -> Callable[[], optax.GradientTransformation]:
    """What makes Adam (0, 0.999) with a learning rate that falls to 0 linearly; one object for each, so that it compiles once.

    >>> adam(0.1, 10) is adam(0.1, 10)
    True
    """
    return lambda: optax.adam(optax.linear_schedule(learning_rate, 0.0, steps), b1=0.0, b2=0.999)


def methods(settings: Settings, shape: tuple[int, int], count: int) -> dict[str, Any]:
    """Label -> (method, rates), for images of a shape, `count` of them. Raises ValueError for settings that do not fit.

    >>> known = methods(checked(Settings(walkers=1024, walker_batch=512, walker_batches=1, moves=4)), (8, 8), 100)
    >>> known["Jarzynski"][0].moves, known["PCD"][0].moves
    (4, 2)
    """
    space = Euclidean(math.prod(shape), settings.scale)
    batch, moves = settings.data_batch or count, settings.moves or 0
    common: dict[str, Any] = dict(
        integrator=settings.integrator, noise="independent", optimiser=adam(settings.learning_rate, settings.steps),  # type: ignore[arg-type]
        clip=1.0, walkers=settings.walkers, data_batch=batch if batch < count else None,
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


def monitors(label: str, classifier: Classifier, found: Images) -> dict[str, Any]:
    """What is recorded of a method."""
    every = {"masses": ClassMasses(classifier), "images": Walkers(SHOWN)}
    if label == PCD:
        return every
    of = {"train": found.train, "held_out": found.held_out}
    return {
        "effective": EffectiveFraction(), **{name: CrossEntropy(WalkerCrossEntropy(samples)) for name, samples in of.items()},
        "resamplings": Resamplings(), "log_partition": LogPartition(), **every,
    }  # fmt: skip


def picture(rows: np.ndarray, shape: tuple[int, int], columns: int = 8) -> np.ndarray:
    """Images (n, d) side by side, cut to [-1, 1], with lines of 0 between them.

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


def measured(settings: Settings, label: str, method, rates, seed: int, found: Images, classifier) -> tuple[Any, xarray.Dataset, float]:
    """The last energy, the records, and the seconds of all calls that made them, of a run in a folder of its own."""
    folder = settings.out / f"{settings.preset}_{label}{f'_{settings.begin}' if label == PCD else ''}_seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    spent, begin = folder / "seconds.json", time.perf_counter()
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    print(f"seed {seed}: {label}, pictures in {folder}", file=sys.stderr)
    try:
        state, results = run(
            jax.random.key(seed), method, rates, found.train, steps=settings.steps, every=settings.steps // settings.records,  # type: ignore
            metrics=monitors(label, classifier, found), folder=folder / "run", progress=settings.progress and sys.stderr.isatty(),
            stop=functools.partial(save_samples, folder, found.shape),
        )  # fmt: skip
    finally:
        seconds = before + time.perf_counter() - begin
        spent.write_text(json.dumps(seconds))
    save_samples(folder, found.shape, results)
    return method.energy(state, rates, found.train), results, seconds


@eqx.filter_jit
def annealed(key, energy, space, count: int, temperatures: int, step, samples: tuple[Samples, ...]):
    """log Z by annealing and its standard error, and the mean energy of each of the samples."""
    log_z, error, _ = partition.log_partition_by_annealing(key, energy, space, count, temperatures=temperatures, step=step)
    return log_z, error, [measures.mean(energy(s.points), s.log_weights) for s in samples]


# -- Rows and figures ----------------------------------------------------------------------------------


def bits(cross_entropy: float, space: Euclidean, x: np.ndarray) -> float:
    """A cross-entropy to the base measure, in nat an image, as bits a pixel to Lebesgue measure, over points (n, d).

    >>> round(bits(0.0, Euclidean(2), np.zeros((1, 2))), 4)  # log2 sqrt(2 pi)
    1.3257
    """
    return (cross_entropy - float(np.mean(np.asarray(space.log_base(jnp.asarray(x)))))) / (space.dimension * math.log(2))


def errors_of(masses: np.ndarray, wanted) -> np.ndarray:
    """The largest difference to the masses that are wanted, of each row.

    >>> errors_of(np.array([[0.5, 0.5], [0.25, 0.75]]), [0.5, 0.5]).tolist()
    [0.0, 0.25]
    """
    return np.max(np.abs(masses - np.asarray(wanted)[None]), axis=-1)


def row_of(settings: Settings, label: str, seed: int, results: xarray.Dataset, told: dict[str, float], seconds: float) -> dict:
    """Masses at the end, their error then and in the mean over the last quarter, cross-entropies, walkers that count, seconds."""
    masses = results.masses.values
    errors = errors_of(masses, settings.masses)
    late = errors[-max(settings.records // 4, 1) :].mean()
    own = {}
    if label == JARZYNSKI:
        own = {name: float(results[name].values[-1]) for name in ("train", "held_out", "effective", "resamplings")}
        own |= dict(error=float(results.log_partition.values[-1, 1]), median_effective=float(np.median(results.effective.values)))
    names = ("train", "held_out", "error", "effective", "median_effective", "resamplings")
    return dict(
        method=label, seed=seed, **{f"mass_{c}": float(m) for c, m in zip(settings.classes, masses[-1], strict=True)},
        mass_error=float(errors[-1]), late_mass_error=float(late), **{name: own.get(name) for name in names}, **told, seconds=seconds,
    )  # fmt: skip


def samples_figure(shape, shown: dict[str, np.ndarray]) -> Figure:
    """A panel of images for each label."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 2.6), layout="constrained")
        for panel, (label, rows) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            panel.imshow(picture(rows, shape), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            panel.set_title(label)
            panel.axis("off")
    return figure


def training_figure(settings: Settings, results: dict[str, list[xarray.Dataset]]) -> Figure:
    """Masses of both methods against iterations above; cross-entropy and effective fraction of Jarzynski below."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 4.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        for panel, (label, runs) in zip(panels[0], results.items(), strict=True):
            for i, (digit, wanted) in enumerate(zip(settings.classes, settings.masses, strict=True)):
                colour = charts.COLOURS[i % len(charts.COLOURS)]
                panel.axhline(wanted, color=colour, linestyle=":", linewidth=0.9)
                for j, found in enumerate(runs):
                    marker = charts.MARKERS[i % len(charts.MARKERS)]
                    form: dict[str, Any] = dict(color=colour, marker=marker, markevery=(2 * i, 8), alpha=1 if j == 0 else 0.5)
                    panel.plot(found.step.values, found.masses.values[:, i], label=None if j else f"digit {digit}", **form)
            handles, names = panel.get_legend_handles_labels()
            panel.legend([*handles, Line2D([], [], color="black", linestyle=":", linewidth=0.9)], [*names, "data"], ncols=2)
            panel.set(title=f"{label}, masses of the digits", ylabel="mass", ylim=(0, 1))
        entropy, effective = panels[1]
        for j, found in enumerate(results[JARZYNSKI]):
            alpha, error = 1 if j == 0 else 0.5, 2 * found.log_partition.values[:, 1]
            for i, (name, text) in enumerate({"train": "training images", "held_out": "held-out images"}.items()):
                form = dict(color=charts.COLOURS[i], linestyle=("-", "--")[i], alpha=alpha)
                entropy.plot(found.step.values, found[name].values, label=None if j else text, **form)
                low, high = found[name].values - error, found[name].values + error
                entropy.fill_between(found.step.values, low, high, color=charts.COLOURS[i], alpha=0.25, linewidth=0)
            form = dict(color=charts.COLOURS[0], marker=charts.MARKERS[0], markevery=4, alpha=alpha)
            effective.plot(found.step.values, found.effective.values, label=None if j else "at the records", **form)
        entropy.set(title=f"{JARZYNSKI}, by the walkers (band: 2 standard errors)", ylabel="cross-entropy to the base (nat)")
        effective.axhline(settings.threshold, color="black", linestyle=":", linewidth=0.9, label="resampled below")
        effective.set(title=f"{JARZYNSKI}, walkers that count", ylabel="effective fraction", ylim=(0, 1.05))
        for panel in panels[1]:
            panel.set_xlabel("iteration")
            panel.legend()
    return figure


# -- The command ---------------------------------------------------------------------------------------


def main(settings: Settings) -> list[dict]:
    """Trains, measures, writes; returns the rows."""
    given, settings, begin = settings, checked(settings), time.perf_counter()
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)  # type: ignore[operator]
    sets = [data(settings, seed) for seed in seeds]
    known = methods(settings, sets[0].shape, len(sets[0].clean))
    for method, rates in known.values():
        method.check(rates, sets[0].train)
    results: dict[str, list[xarray.Dataset]] = {label: [] for label in known}
    rows, told = [], []
    for seed, found in zip(seeds, sets, strict=True):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        noise = jnp.float32(CLASSIFIER_NOISE[found.shape] * settings.data_noise)  # type: ignore[operator]
        classifier = trained(key, found.clean, found.labels, noise, len(settings.classes), **CLASSIFIER)
        right = accuracy(classifier, found.held_out.points, found.held_out_labels)
        told.append(right)
        if right <= ACCURACY:
            raise ValueError(
                f"data_noise is {settings.data_noise}; the classifier is right on {right:.3f} of the held-out images of seed {seed}; "
                f"it must be on more than {ACCURACY}: give less noise, or other classes"
            )
        for label, (method, rates) in known.items():
            energy, one, seconds = measured(settings, label, method, rates, seed, found, classifier)
            results[label].append(one)
            log_z, error, means = annealed(
                jax.random.fold_in(key, 2), energy, method.space, min(settings.walkers or 0, CHAINS), settings.temperatures,  # type: ignore[arg-type]
                jnp.float32(settings.particle_step), (found.train, found.held_out),
            )  # fmt: skip
            train, held_out = (float(mean + log_z) for mean in means)
            entropies = dict(annealed_train=train, annealed_held_out=held_out, annealed_error=float(error))
            entropies["bits"] = bits(held_out, method.space, np.asarray(found.held_out.points))
            rows.append(row_of(settings, label, seed, one, entropies, seconds))
    mean = {label: np.mean([row["mass_error"] for row in rows if row["method"] == label]) for label in known}
    report.write(
        settings.out / settings.preset,
        title="Digits in their proportions: Jarzynski's correction beside PCD",
        about=f"{sets[0].shape[0]} x {sets[0].shape[1]} images of {', '.join(map(str, settings.classes))} with masses "
        f"{', '.join(f'{mass:.3f}' for mass in settings.masses)}: {len(sets[0].clean)} to train, {len(sets[0].held_out_labels)} held out; "
        "mass_error: the largest difference of a mass at the end, and in the mean over the last quarter (late); train, held_out: "
        "cross-entropy to the base by the walkers (nat an image), error: of log Z; annealed: the same of the last energy by annealing; "
        "bits a pixel: of held-out images, by annealing.",
        command=report.command("images", given), seconds=time.perf_counter() - begin, rows=rows,
        summary=f"Largest error of a mass at the end, mean of seeds: {JARZYNSKI} {mean[JARZYNSKI]:.3f}, {PCD} {mean[PCD]:.3f}. The classifier "
        f"is right on {', '.join(f'{right:.3f}' for right in told)} of the held-out images.",
        figures={
            "samples": samples_figure(
                sets[0].shape, {"data": np.asarray(sets[0].train.points[:SHOWN])} | {k: v[0].images.values[-1] for k, v in results.items()}
            ),
            "training": training_figure(settings, results),
        },
        paper="the same comparison on MNIST 2, 3, 6 with masses 4/7, 2/7, 1/7; it has no such numbers for these digits.",
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
