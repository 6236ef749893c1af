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

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import measures
from dualebm.log_z.annealing import log_partition_by_annealing
from dualebm.measures import Samples
from experiments import _common, report
from experiments.digit_classifier import ACCURACY, CLASSIFIER, CLASSIFIER_NOISE, accuracy, trained
from experiments.images.reading import bits, row_of, samples_figure, training_figure
from experiments.images.training import JARZYNSKI, PCD, SHOWN, Images, Settings, checked, data, measured, methods

CHAINS = 512
"""Of the annealing, at most."""


SAMPLES = "Images of the data and walkers of each method at the end, first seed."
TRAINING = (
    "Above: masses of the digits among the walkers of each method against the iteration, a line for each seed (paler after the "
    "first), with the masses of the data (dotted). Below left: cross-entropy of training images (solid) and held-out images (dashed) "
    "by the weighted walkers, bands of two standard errors. Below right: effective fraction of the walkers, with the threshold of "
    "resampling (dotted)."
)


def classifier_of(settings: Settings, key, seed: int, images: Images):
    """Trains the classifier of a seed, and returns it and its accuracy on held-out images.

    Raises:
        ValueError: The accuracy is not above `ACCURACY`.
    """
    noise = jnp.float32(CLASSIFIER_NOISE[images.shape] * settings.data_noise)  # type: ignore[operator]
    classifier = trained(key, images.clean, images.labels, noise, len(settings.classes), **CLASSIFIER)
    right = accuracy(classifier, images.held_out.points, images.held_out_labels)
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


def entropies_of(settings: Settings, key, energy, space, images: Images) -> dict[str, float]:
    """Returns the cross-entropies of an energy by annealing, in nats and, of held-out images, in bits a pixel."""
    log_z, error, means = annealed(
        key, energy, space, min(settings.walkers or 0, CHAINS), settings.temperatures,  # type: ignore[arg-type]
        jnp.float32(settings.particle_step), (images.train, images.held_out),
    )  # fmt: skip
    train, held_out = (float(mean + log_z) for mean in means)
    entropies = dict(annealed_train=train, annealed_held_out=held_out, annealed_error=float(error))
    return entropies | dict(bits=bits(held_out, space, np.asarray(images.held_out.points)))


def content_of(settings: Settings) -> dict[str, Any]:
    """Trains and measures, and returns the content of the report."""
    seeds = _common.seeds_of(settings)
    sets = [data(settings, seed) for seed in seeds]
    known = methods(settings, sets[0].shape, len(sets[0].clean))
    for method, rates in known.values():
        method.check(rates, sets[0].train)
    results: dict[str, list[xarray.Dataset]] = {label: [] for label in known}
    rows, accuracies = [], []
    for seed, images in zip(seeds, sets, strict=True):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        classifier, right = classifier_of(settings, key, seed, images)
        accuracies.append(right)
        for label, (method, rates) in known.items():
            energy, one, seconds = measured(settings, label, method, rates, seed, images, classifier)
            results[label].append(one)
            entropies = entropies_of(settings, jax.random.fold_in(key, 2), energy, method.space, images)
            rows.append(row_of(settings, label, seed, one, entropies, seconds))
    mean = {label: np.mean([row["mass_error"] for row in rows if row["method"] == label]) for label in known}
    shown = {"data": np.asarray(sets[0].train.points[:SHOWN])} | {label: runs[0].images.values[-1] for label, runs in results.items()}
    return dict(
        title="Digits in their proportions: Jarzynski's correction beside PCD",
        about=f"{sets[0].shape[0]} x {sets[0].shape[1]} images of {', '.join(map(str, settings.classes))} with masses "
        f"{', '.join(f'{mass:.3f}' for mass in settings.masses)}: {len(sets[0].clean)} to train, {len(sets[0].held_out_labels)} held out; "
        "mass_error: the largest difference of a mass at the end, and in the mean over the last quarter (late); train, held_out: "
        "cross-entropy to the base by the walkers (nat an image), error: of log Z; annealed: the same of the last energy by annealing; "
        "bits a pixel: of held-out images, by annealing.",
        rows=rows,
        summary=f"Largest error of a mass at the end, mean of seeds: {JARZYNSKI} {mean[JARZYNSKI]:.3f}, {PCD} {mean[PCD]:.3f}. The "
        f"classifier is right on {', '.join(f'{right:.3f}' for right in accuracies)} of the held-out images.",
        figures={
            "samples": (samples_figure(sets[0].shape, shown), SAMPLES), "training": (training_figure(settings, results), TRAINING),
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
