"""Active (F1) against lazy (F2) training by maximum likelihood and by Stein discrepancies, and by the dual method (arXiv 2104.07531).

    python -m experiments.active_lazy --preset quick
    python -m experiments.active_lazy --preset paper
    python -m experiments.active_lazy --preset paper --teachers J1_w10 --losses ksd --n 100 1000

Teachers of one, two and four ReLU neurons on the sphere; students of 500 neurons, both layers of which move (active) or the outer alone
(lazy), trained by the likelihood, the kernelised Stein discrepancy, and that of F1; and, beside them, Algorithm 1 of arXiv 2107.05134 and
its lazy form, in balls of F1 and F2. Learning rates and decays, or the radius of the ball, are chosen for each n by a validation set, under
the loss that trains (the likelihood for the dual methods), with early stopping; then runs with new data are stopped early by
validation sets of their own, and tell the mean and standard deviation of the test KL and cross-entropy. The same command continues what was
interrupted.
"""

from typing import Any

from experiments import report
from experiments.active_lazy.reading import draw, rows_of
from experiments.active_lazy.runs import NEURONS, Settings, completed, solve_all

CAPTION = (
    "Active (F1) against lazy (F2) training on the teacher {}: test cross-entropy (above) and KL(teacher || student) (below), in "
    "nats, against the number of data n, a column for each loss. Marks are means and bars standard deviations of {} runs with new "
    "data. The solid line is the teacher, the dashed line the uniform density."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    selections = solve_all(settings)
    figures = {
        f"active_lazy_{name}": (draw(selections, name, settings), CAPTION.format(name, settings.repeats))
        for name in settings.teachers  # pyright: ignore[reportOptionalIterable]
    }
    rows = rows_of(selections, settings)
    apart = [row for row in rows if row["F1_KL"] + row["F1_KL_std"] < row["F2_KL"] - row["F2_KL_std"]]
    return dict(
        title="Active against lazy training",
        about=(
            f"Students of {NEURONS} neurons (the dual method: 64 in F1, {NEURONS} in F2) of planted teachers; test KL and cross-entropy, "
            f"mean and standard deviation of {settings.repeats} runs with new data, of settings chosen by {settings.seeds} run(s) each, "
            "stopped early."
        ),
        rows=rows,
        summary=f"The KL of F1 is below that of F2, the bands of one standard deviation apart, in {len(apart)} of {len(rows)} rows.",
        paper="Active training (F1) beats lazy training (F2) where the target depends on few directions, by all three losses.",
        figures=figures,
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("active_lazy", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
