"""Within how many nats of the best F1 energy is a run? The duality gap along training, beside the true distance.

    python -m experiments.certificate --preset quick
    python -m experiments.certificate --preset paper
    python -m experiments.certificate --preset paper --teachers s2_bimodal

Our default (signs half and half, and all -1), the authors' program and, in the paper preset, score matching. At a few iterations the
duality gap against the full ball of radius 10 (arXiv 2107.05134, Theorem 1), which needs no teacher and no log Z: on S^14 estimated from
annealed samples of the model, with its standard error; on S^2 by quadrature. Beside it L(f_t) - L*, which needs the teacher, so that
L(f_t) - L* <= gap is seen; L* is the least loss found, by any run and by descent on L itself from where the default ends. And the gap that
one would read off the particles of the training in place of samples of the model. At the end a run that its certificate stops.

Each run is a folder under `--out` from which the same command continues.
"""

from typing import Any

import jax.numpy as jnp

from dualebm import duality_gap
from dualebm.data import targets
from dualebm.duality_gap import Certificate
from experiments import _common, report
from experiments.certificate.reading import figure_of, particles_figure, read, rows_of
from experiments.certificate.runs import LINES, RADIUS, TOLERANCE, Settings, checked, lines, measured, scene_of, stopped

CAPTION = (
    "The duality gap along training, a row for each teacher. Left: the gap (solid) and the true distance L - L* (dashed) in nats "
    "against the iteration; the gap bounds the distance. Right: KL(teacher || student). Lines are means over seeds, bands their least "
    "and largest."
)
EXACT = "On S^2 the gap is by quadrature."
ESTIMATED = (
    "On S^14 the gap is estimated from annealed samples: bars are two standard errors, and an arrow down is an upper bound, where the "
    "gap is not distinguishable from 0."
)
PARTICLES = (
    "Above: the gap by samples of the model (filled) and by the particles of the training (open, dotted), in nats against the "
    "iteration; means over seeds. Below: how far a step of the sampler changes the mean energy of the particles, in standard errors. "
    "Above the black line the package warns that the particles are no samples of the model."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the methods, and returns the content of the report."""
    readings, figures, rows, sentences = {}, {}, [], []
    seeds: set[int] = set()
    for teacher in settings.teachers:
        exact, chosen = targets.teacher(teacher).space.dimension == 3, lines(settings, teacher)
        runs = measured(settings, teacher, chosen)
        seeds |= {seed for _, seed in runs}
        readings[teacher] = reading = read(runs)
        methods: Any = {label: line.method for label, line in chosen.items()}
        seconds = _common.seconds_a_step(methods, scene_of(settings, teacher, settings.first_seed).data, 3)
        rows += rows_of(teacher, reading, seconds, exact)
        ended = stopped(settings, teacher, chosen[LINES[0]])
        at, (gap, error) = int(ended.step[-1]), ended.gap.values[-1]
        rows.append(dict(
            teacher=teacher, method=f"{LINES[0]}, stop within {TOLERANCE:g}", ball="full", samples="quadrature" if exact else "annealed",
            iteration=at, gap=float(gap), error=float(error), largest=float(gap), distance=None, KL=float(ended.kl[-1]),
            seconds=seconds[LINES[0]] * at,
        ))  # fmt: skip
        last = Certificate(*jnp.asarray(reading[LINES[0]].gaps["gap"][0, -1]), position=jnp.zeros(1), sign=jnp.ones(()))
        outcome = f"ends at iteration {at} of {chosen[LINES[0]].steps}" if at < chosen[LINES[0]].steps else "does not end early"
        sentences.append(
            f"{teacher}, {LINES[0]}, seed {settings.first_seed}: {duality_gap.summary(last, RADIUS)}; "
            f"with `callback=within({TOLERANCE:g})` it {outcome}."
        )
    known = [teacher for teacher in settings.teachers if targets.teacher(teacher).space.dimension == 3]
    how = " ".join([EXACT] * bool(known) + [ESTIMATED] * (len(known) < len(settings.teachers)))
    figures["certificate"] = (figure_of(readings, known), f"{CAPTION} {how}")
    figures["certificate_particles"] = (particles_figure(readings), PARTICLES)
    return dict(
        title="The duality gap along training",
        about="The gap against the F1 ball of radius 10 bounds L(f_t) - L*, which needs the teacher; beside it KL, and the gap from "
        "particles, which are no samples of the model. gap: mean over seeds; error: its standard error; distance: L - L*, where L* is the "
        "least loss found; seconds: of the steps alone.",
        rows=rows, figures=figures, summary=" ".join(sentences),
        paper="Theorem 1 gives the duality; the paper measures no gap.",
        seeds=seeds,
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("certificate", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
