"""Two limits of arXiv 2107.05134, measured: many neurons and particles (Proposition 2), and restarts at a high rate (Proposition 3).

    python -m experiments.mean_field --preset quick
    python -m experiments.mean_field --preset paper
    python -m experiments.mean_field --preset paper --only circle

    circle      N particles and N / 10 neurons of Algorithm 1 against the coupled equations of the measures nu and gamma (eq. 6), solved by
                finite volumes, on the circle: the error of integrals of test functions against N, at several times; and the densities
    sphere      the same on S^2
    matching    restarts at the rate alpha, neurons at the speed alpha: the energy against that of the score matching flow, against alpha,
                for the equations and for N particles

The equations are solved on three grids, the cells of each half as wide as those of the one before. Their upwind fluxes are of order 1, so
that pairs of grids are extrapolated. Shown beside the error of particles: what the extrapolated values change from one pair of grids to the
next, and what half the time step changes.
"""

from typing import Any

from dualebm._internal import checks
from experiments import _common, report
from experiments.mean_field import many, matching
from experiments.mean_field.measured import STUDIES, Settings


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the studies, and returns the content of their report."""
    figures, rows, measured = {}, [], []
    for name in settings.only:
        if name == "matching":
            its_figures, its_rows = matching.study(settings)
        else:
            one, its_figures, its_rows = many.study(name, settings)
            measured.append(one)
        figures |= its_figures
        rows += its_rows
    if measured:
        seeds = len(many.seeds_of(settings))
        figures["mean_field_errors"] = (many.draw_errors(measured), many.ERRORS.format(seeds))
    slopes = {row["case"]: [] for row in rows if row["expected"] is not None}
    for row in rows:
        if row["expected"] is not None:
            slopes[row["case"]].append(row["slope"])
    words = "; ".join(f"{case} {min(each):.2f} to {max(each):.2f}" for case, each in slopes.items())
    return dict(
        summary=f"Slopes of the error, where -1/2 against N and -1 against alpha are expected: {words}.",
        title="The limits of many particles and of many restarts", rows=rows, figures=figures,
        about="Particles and neurons against the mean-field equations, and the equations with restarts against score matching: errors "
        "(root mean square) of the first and the last size or rate, their slope, and what the grids and the time step may add.",
        paper="proves both limits (Propositions 2 and 3) and measures neither; a law of large numbers has the rate N^(-1/2), "
        "and the quasi-static expansion in its proof the rate 1 / alpha",
    )  # fmt: skip


def main(settings: Settings) -> list[dict[str, Any]]:
    """Runs the studies, writes figures and the report, and returns its rows."""
    _common.check(settings)
    _common.check_each("only", settings.only, checks.choice, STUDIES)
    for name in ("seeds", "sizes"):
        if getattr(settings, name) is not None:
            checks.count(name, getattr(settings, name), 2)
    return report.run("mean_field", settings, settings.out, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
