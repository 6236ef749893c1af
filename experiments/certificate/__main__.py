"""Within how many nats of the best F1 energy is a run? The bound of its certificate along training, beside the true distance.

    python -m experiments.certificate --preset quick
    python -m experiments.certificate --preset paper
    python -m experiments.certificate --preset paper --teachers s14_monomodal --methods "default, half"

Our default (signs half and half, and all -1), the authors' program and score matching. At a few iterations the bound against the full ball
of radius 10, polished and not (arXiv 2107.05134, Theorem 1), which needs no teacher and no log Z: on S^14 estimated from annealed samples
of the model, with its standard error; on S^2 by quadrature. Beside it L(f_t) - L*, which needs the teacher; L* is the least loss found, by
any run or by the polish of one. And the bound that one would read off the particles of the training in place of samples of the model. At
the end a run that its certificate stops.

Each run is a folder under `--out` from which the same command continues.
"""

from typing import Any

from dualebm.data import targets
from experiments import _common, report
from experiments.certificate.reading import figure_of, particles_figure, read, rows_of
from experiments.certificate.runs import LINES, TOLERANCE, Settings, checked, lines, measured, scene_of, stopped

CAPTION = (
    "The bound along training on {}. Left: the polished bound (solid), the gap without a polish (dotted) and the distance L - L* (dashed), "
    "in nats against the iteration{}. Right: KL(teacher || student). Lines are means over seeds, bands their least and largest."
)
EXACT, ESTIMATED = "; the bounds are by quadrature", "; the bounds are estimated from annealed samples, bars are two standard errors"
PARTICLES = (
    "Above: the polished bound by samples of the model (filled) and by the particles of the training (open, dotted), in nats against the "
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
        scene = scene_of(settings, teacher, settings.first_seed)
        rows += rows_of(teacher, len(scene.data.points), reading, _common.seconds_a_step(methods, scene.data, 3))
        figures[f"certificate_{teacher}"] = figure_of(reading, teacher, exact), CAPTION.format(teacher, EXACT if exact else ESTIMATED)
        ended = stopped(settings, teacher, chosen[LINES[0]])
        at, steps = int(ended.step[-1]), chosen[LINES[0]].steps
        outcome = f"ends at iteration {at} of {steps}, at a KL of {float(ended.kl[-1]):.4f}" if at < steps else "does not end early"
        which = f"{_common.named(teacher)}, {LINES[0]}, seed {settings.first_seed}"
        sentences.append(f"{which}: with `callback=within({TOLERANCE:g})` it {outcome}.")
    figures["certificate_particles"] = (particles_figure(readings), PARTICLES)
    return dict(
        title="The certificate along training",
        about="The ball of F1 of radius 10. gap: without a polish; bound: polished, with its standard error (none by quadrature); gain: "
        "what the polished energy gains; distance: L - L*, where L* is the least loss found; particles: the bound from the training's own "
        "particles; negative: the bound over energies of negative neurons; moved: how far the particles are from samples of the model, in "
        "standard errors; seconds: of the steps alone. Means over seeds.",
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
