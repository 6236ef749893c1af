"""Two far modes of unequal mass, learnt with and without Jarzynski's correction (arXiv 2305.19414, the Gaussian mixture in d = 50).

    python -m experiments.gaussian_mixture --preset quick
    python -m experiments.gaussian_mixture --preset paper

The teacher is .25 N(-10 e_1, I) + .75 N(6 e_1, I), the student a mixture of two that begins at 0 with equal masses. Walkers cannot cross
between the modes. `Jarzynski` weights them; PCD has them begin at the data and persist; CD puts them back to the data every 4 iterations
and has learning rates ten times as large, as the paper has. All move by unadjusted Langevin steps of .1, one for each gradient step. The
weights of such steps vary even where the parameters rest, to an effective fraction of about exp(-d h^2 / 4) = .88. Resampled below .5, as
here, that is all; below the recommended 1 / 1.05 it is done in every third iteration, and each adds noise to the masses (`--variants`).
Beside them are the same walkers with an adjusted (Metropolis) step, whose weights change by the step of the parameters alone.

A second part has `Jarzynski` with fewer and more walkers: the parameters follow the noise of the walkers that weigh them, which lowers the
estimated log Z by about sum_k sum_i p_i^2 (s_means |dU/dmeans|^2 + s_offsets |dU/doffsets|^2) at walker i, of order 1/N.
Each sweep is a folder under `--out` from which the same command continues.
"""

from typing import Any

from dualebm.sweeps.grid import cross, product, zipped
from experiments import _common, report
from experiments.gaussian_mixture.figures import draw_counts, draw_methods, draw_weights
from experiments.gaussian_mixture.mixture import MASS, WEIGHTED
from experiments.gaussian_mixture.sweeps import (
    Settings,
    by_count,
    checked,
    row_of,
    rows_of_counts,
    rows_of_methods,
    swept,
    variants,
)

WALKERS_N = 2000
"""Data points where the number of walkers is what changes."""


METHODS_CAPTION = (
    "Mass of the first mode, first coordinates of the two means, and KL on fresh data, against the iteration. Lines are means over "
    "{} seeds, bands their least and largest. Dotted lines are the teacher. With `--variants` one more line is Jarzynski's correction "
    "with the recommended threshold of resampling, 1 / 1.05, of fewer seeds."
)
WEIGHTS_CAPTION = (
    "The weights of the walkers along training: effective fraction, mean since the last record, with the threshold of resampling "
    "(dotted), and the error of log Z, with the error that is expected of finite walkers "
    "(dashed). Lines are means over {} seeds, bands their least and largest."
)
COUNTS_CAPTION = (
    "What more walkers give. Left: by how much log Z is estimated too low, in nats, against the number of walkers N, with what is "
    "expected (dashed). Right: mass of the first mode at the end, with the teacher's (dotted). Each mark is one run; runs whose log "
    "Z is too high are not drawn on the left."
)


def of_methods(settings: Settings, others: dict[str, Any]) -> tuple[dict[str, Any], list[dict]]:
    """Compares the methods, and returns figures, the first with the runs of `others` too, and rows."""
    sizes = (settings.dimension, settings.n, settings.walkers, product(seed=_common.seeds_of(settings)))
    results = {name: swept(settings, name, "methods", *sizes) for name in settings.methods}  # type: ignore[arg-type]
    figures: dict[str, report.Captioned] = {"gaussian_mixture": (draw_methods(results | others), METHODS_CAPTION.format(settings.seeds))}
    if weighted := {name: one for name, one in results.items() if name in WEIGHTED}:
        figures["gaussian_mixture_weights"] = (draw_weights(weighted), WEIGHTS_CAPTION.format(settings.seeds))
    return figures, rows_of_methods(results)


def of_counts(settings: Settings) -> tuple[dict[str, Any], list[dict]]:
    """Changes the number of walkers of Jarzynski, and returns figures and rows."""
    grid = product(walkers=settings.walker_counts or (), seed=_common.seeds_of(settings, settings.walker_seeds))
    counts = by_count(swept(settings, "jarzynski", "walkers", settings.walker_dimension, WALKERS_N, 2, grid))  # type: ignore[arg-type]
    return {"gaussian_mixture_walkers": (draw_counts(counts), COUNTS_CAPTION)}, rows_of_counts(counts)


def of_variants(settings: Settings) -> tuple[dict[str, Any], list[dict]]:
    """Runs the variants of Jarzynski, and returns the runs of the recommended threshold, and rows."""
    known, recommended, rows = variants(), {}, []
    increments, kinds, thresholds = zip(*known.values(), strict=True)
    seeds = _common.seeds_of(settings)[: settings.variant_seeds]
    grid = cross(zipped(increment=increments, resampling=kinds, threshold=thresholds), product(seed=seeds))
    results = swept(settings, "jarzynski", "variants", settings.dimension, settings.n, settings.walkers, grid)  # type: ignore[arg-type]
    for i, label in enumerate(known):
        runs = results.isel(run=slice(i * len(seeds), (i + 1) * len(seeds)))
        if label == "systematic below 1 / 1.05":
            recommended = {"recommended": runs}
        rows.append(row_of(label, "mass of the first mode", f"{MASS:g}", runs.mass.values[:, -1]))
        rows.append(row_of(label, "KL, fresh data", "", runs.kl_fresh.values[:, -1]))
        rows.append(row_of(label, "log Z error", "", runs.partition_error.values[:, -1, 0]))
        rows.append(row_of(label, "resamplings", "", runs.resamplings.values[:, -1]))
    return recommended, rows


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the sweeps, and returns the content of the report."""
    others, its_rows = of_variants(settings) if settings.variants else ({}, [])
    figures, rows = of_methods(settings, others)
    if settings.walker_counts:
        count_figures, count_rows = of_counts(settings)
        figures, rows = figures | count_figures, rows + count_rows
    rows += its_rows
    return dict(
        title="A Gaussian mixture with Jarzynski's correction",
        about=f"A mixture of two in d = {settings.dimension}, n = {settings.n} data, {settings.walkers} walkers, {settings.steps} "
        "iterations: what is expected (at the size of the paper preset) beside the mean, least and largest over seeds at the end. For "
        "log Z: the error that finite walkers must have.",
        rows=rows, figures=figures, seeds=_common.seeds_of(settings),
        summary="; ".join(f"{row['part']}, {row['what']}: {row['have']} seeds within {row['expected']}" for row in rows if row["have"]),
        paper="Jarzynski's walkers, unadjusted, find the masses, PCD loses a mode, CD finds the means and not the masses; its curves are "
        "shown without numbers.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("gaussian_mixture", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
