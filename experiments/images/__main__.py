"""Are digits made in the right proportions? Jarzynski-corrected training of an energy of images beside PCD and CD (arXiv 2305.19414).

    python -m experiments.images --preset quick
    python -m experiments.images --preset medium --data MNIST
    python -m experiments.images --preset paper --data MNIST

Images of three digits with masses 4/7, 2/7, 1/7, scaled to [-1, 1]; a fifth of each class is held out. Without `--data` they are the
8 x 8 digits of scikit-learn, else those of a folder with idx files, as MNIST has them, in medium reduced to 14 x 14. Noise is added to the
data once, so that they have a density. The model is exp(-U) times a base measure, with U = 0 at the start: the first walkers are exact
draws and log Z = 0. The base N(0, s^2 I) replaces the authors' walkers of uniform pixels and 20000 steps without weights, and the moves are
Langevin's at temperature 1, for which the weights are exact; theirs have less noise than their weights assume, and take back pixels that
leave [-1, 1]. In medium the base is the normal distribution of the training images with their noise.
`Jarzynski` beside `Contrastive` that begins at the data (PCD), and that restarts there in each iteration (CD): one network, optimiser,
number of walkers and of moves; `--begin model` has PCD begin where Jarzynski does.

Told are the masses of the digits among the walkers, with their weights, as a classifier of this script sees them; the cross-entropy by the
walkers, known at each iteration; for all methods the masses and the cross-entropy of the last energy by fresh samples, which know nothing
of the training, and by annealed importance sampling; the same of a normal distribution, a mixture of them and kernels; and pictures of
walkers, also as training goes. Each run is a folder under `--out` from which the same command continues.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import measures
from dualebm.log_z import fresh
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.measures import Samples
from experiments import _common, report
from experiments.digit_classifier import ACCURACY, CLASSIFIER, CLASSIFIER_NOISE, LARGER, accuracy, trained
from experiments.images import rivals
from experiments.images.reading import (
    bits,
    chains_figure,
    masses_row,
    rival_row,
    row_of,
    samples_figure,
    training_figure,
)
from experiments.images.sets import Images, data
from experiments.images.training import SHOWN, Settings, checked, measured, methods

CHAINS = 512
"""Of the annealing, at most."""

WAY: dict[str, Any] = dict(moves=16, fraction=0.95)
"""Moves and effective fraction at each temperature of the fresh samples: more than the defaults of `fresh.draw`, with which samples of
energies of 14 x 14 images do not mix on their way."""


SAMPLES = "Images of the data, draws of the normal distribution, and walkers of each method at the end, first seed."
CHAINS_CAPTION = (
    "The walkers in the first eight places (lines) at records from the start to the end of the training (columns), first seed. The walker "
    "of a place is another one after a resampling, after a replacement by fresh samples, and for CD in each iteration."
)
TRAINING = (
    "Above: masses of the digits among the walkers of each method against the iteration, a line for each seed (paler after the "
    "first), with the masses of the data (dotted). Middle left: cross-entropy of training images (solid) and held-out images (dashed) "
    "by the weighted walkers, bands of two standard errors where they are known. Middle: effective fraction of the walkers, with the "
    "threshold of resampling (dotted). Middle right: how often they have been resampled. Below, where steps adapt: the share of the "
    "learning rate, the number of moves of a walker in an iteration and the factor of their step, means since the last record."
)


def classifier_of(settings: Settings, key, seed: int, images: Images):
    """Trains the classifier of a seed, and returns it and its accuracy on held-out images.

    Raises:
        ValueError: The accuracy is not above `ACCURACY`.
    """
    noise = jnp.float32(CLASSIFIER_NOISE[images.shape] * settings.data_noise)  # type: ignore[operator]
    classifier = trained(key, images.clean, images.labels, noise, len(settings.classes), **CLASSIFIER | LARGER.get(images.shape, {}))
    right = accuracy(classifier, images.pixels(images.held_out.points), images.held_out_labels)
    if right <= ACCURACY:
        raise ValueError(
            f"data_noise is {settings.data_noise}; the classifier is right on {right:.3f} of the held-out images of seed {seed}; "
            f"it must be on more than {ACCURACY}: give less noise, or other classes"
        )
    return classifier, right


@eqx.filter_jit
def annealed(key, energy, space, count: int, temperatures: int, step, samples: tuple[Samples, ...]):
    """Returns log Z by annealing and its standard error, and the mean energy of each of the samples."""
    log_z, error, _ = log_partition_by_annealing(key, energy, space, count, temperatures=temperatures, step=step)
    return log_z, error, [measures.mean(energy(s.points), s.log_weights) for s in samples]


@eqx.filter_jit
def drawn(key, energy, space, count: int) -> fresh.Fresh:
    """Returns fresh samples of a model."""
    return fresh.draw(key, energy, space, count, **WAY)


def last_of(settings: Settings, key, energy, space, images: Images, classifier, walkers: Samples) -> dict[str, Any]:
    """Returns what is known of the last energy: its cross-entropies by annealing and by fresh samples, and the masses of these.

    Args:
        settings: The settings of the study.
        key: The random key.
        energy: The energy.
        space: The space of the points.
        images: The images of the seed.
        classifier: Of points.
        walkers: The walkers at the end, whose mean energy is compared with that of the model (lag).
    """
    log_z, error, means = annealed(
        jax.random.fold_in(key, 2), energy, space, min(settings.walkers or 0, CHAINS), settings.temperatures,  # type: ignore[arg-type]
        jnp.float32(settings.particle_step), (images.train, images.held_out),
    )  # fmt: skip
    train, held_out = (float(mean + log_z) for mean in means)
    found: Any = drawn(jax.random.fold_in(key, 3), energy, space, settings.fresh)
    own = measures.mean(jax.nn.one_hot(jnp.argmax(classifier(found.points), axis=1), len(settings.classes)), found.log_weights)
    return dict(
        annealed_train=train, annealed_held_out=held_out, annealed_error=float(error),
        bits=bits(held_out, space, np.asarray(images.held_out.points), images.log_volume),
        last_train=float(means[0] + found.log_partition), last_held_out=float(means[1] + found.log_partition),
        last_error=float(found.error), trusted="yes" if found.trusted else "no",
        last_size=float(1 / (found.error**2 + 1 / found.points.shape[0])),
        lag=float(measures.mean(energy(walkers.points), walkers.log_weights) - found.mean_energy),
        **masses_row(settings, np.asarray(own), "model_mass"),
    )  # fmt: skip


def rival_rows(settings: Settings, seed: int, images: Images, space, classifier) -> list[dict]:
    """Returns the rows of the held-out images, as the classifier sees them, and of the simplest densities."""
    held_out = np.asarray(images.pixels(images.held_out.points))
    rows = [rival_row(settings, "held-out images", seed, None, rivals.masses_of(classifier, held_out), "")]
    log_base = np.asarray(space.log_base(images.held_out.points), np.float64) - images.log_volume
    for name, density in rivals.densities(images, settings.data_noise or 0.0, seed).items():
        entropy, masses = rivals.scored(images, density, log_base, classifier, seed)
        rows.append(rival_row(settings, name, seed, entropy, masses, density.chosen))
    return rows


def content_of(settings: Settings) -> dict[str, Any]:
    """Trains and measures, and returns the content of the report."""
    seeds = _common.seeds_of(settings)
    sets = [data(settings, seed) for seed in seeds]
    for method, rates in methods(settings, sets[0]).values():
        method.check(rates, sets[0].train)
    results: dict[str, list[xarray.Dataset]] = {label: [] for label in methods(settings, sets[0])}
    rows, accuracies, begin, earlier = [], [], time.perf_counter(), 0.0
    for seed, images in zip(seeds, sets, strict=True):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        classifier, right = classifier_of(settings, key, seed, images)
        accuracies.append(right)
        for label, (method, rates) in methods(settings, images).items():
            called = time.perf_counter()
            energy, walkers, one, seconds = measured(settings, label, method, rates, seed, images, classifier)
            earlier += seconds - (time.perf_counter() - called)
            results[label].append(one)
            last = last_of(settings, key, energy, method.space, images, images.seen(classifier), walkers)
            rows.append(row_of(settings, label, seed, one, last, seconds))
        rows += rival_rows(settings, seed, images, method.space, classifier)
    mean = {label: np.mean([row["mass_error"] for row in rows if row["method"] == label]) for label in results}
    own = {label: np.mean([row["model_mass_error"] for row in rows if row["method"] == label]) for label in results}
    said = lambda errors: ", ".join(f"{label} {error:.3f}" for label, error in errors.items())  # noqa: E731
    first = sets[0]
    normal = rivals.Single(first).draws(np.random.default_rng([seeds[0], 3]), SHOWN)
    shown = {"data": np.asarray(first.pixels(first.train.points[:SHOWN])), "normal": normal}
    shown |= {label: np.asarray(first.pixels(runs[0].images.values[-1])) for label, runs in results.items()}
    return dict(
        title="Digits in their proportions: Jarzynski's correction beside PCD and CD",
        about=f"{first.shape[0]} x {first.shape[1]} images of {', '.join(map(str, settings.classes))} with masses "
        f"{', '.join(f'{mass:.3f}' for mass in settings.masses)}: {len(first.clean)} to train, {len(first.held_out_labels)} held out; "
        "mass: of the walkers at the end; mass_error: the largest difference to the data, also in the mean over the last quarter (late) "
        "and at worst; model_mass: of fresh samples of the last energy, or of draws; train, held_out: cross-entropy to the base by the "
        "walkers (nat an image), error: of log Z; last: the same of the last energy by fresh samples, whose error is trusted or not, and "
        "their effective number (size); annealed: by annealing; lag: mean energy of the walkers less that of the fresh samples; bits a "
        "pixel: of held-out images, by annealing; share of the learning rate and moves: medians over the records.",
        rows=rows, seconds=time.perf_counter() - begin + earlier,
        summary=f"Largest error of a mass at the end, mean of seeds, among walkers: {said(mean)}; among fresh samples of the last energy: "
        f"{said(own)}. The classifier is right on {', '.join(f'{right:.3f}' for right in accuracies)} of the held-out images.",
        figures={
            "samples": (samples_figure(first.shape, shown), SAMPLES),
            "chains": (chains_figure(first, {label: runs[0] for label, runs in results.items()}), CHAINS_CAPTION),
            "training": (training_figure(settings, results), TRAINING),
        },
        seeds=seeds,
        paper="the same comparison on MNIST 2, 3, 6 with masses 4/7, 2/7, 1/7; it has no such numbers for these digits.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("images", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
