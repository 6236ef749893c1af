"""Bumps on a circle, where everything can be computed: the flows of the F2 ball, with their last and their mean energy, beside F1.

    python -m experiments.torus --preset quick
    python -m experiments.torus --preset paper

The teacher is f* = sum_j q_j exp(a cos 2 pi (x - theta_j) - a) on the circle of length 1, a = 10, with four charges of which the absolute
values sum to beta = 10, the radius of all balls: it lies in the ball of F1, and outside that of F2. The kernel of F2 is
exp(-2a) I_0(2a cos pi (x - y)). Methods:

    natural     the kernel's flow, an iteration takes `particle_step`
    changed     the same in a time that runs with the MMD, as in the authors' programs: step 0.1, noise at the start 0.1
    squared     the squared MMD (Arbel et al. 2019), its temperature such that it has the same stationary state
    features    random features, whose charges ascend
    F1          Algorithm 1 with bumps
    mean field  its equations on a grid: F1 with infinitely many neurons and particles

The error of an energy is by quadrature, without noise: L2 of the centred energy, L1 of the density, and KL. The best of the F2 ball on the
same data, found by convex optimisation on a grid, is drawn beside.
"""

from typing import Any

from experiments import report
from experiments.torus.exact import BETA, best_on, sample
from experiments.torus.reading import draw_errors, draw_profiles, rows_of
from experiments.torus.runs import EVERY, FLOWS, LONGER, REST, Settings, completed, solve

ERRORS = (
    "Errors on the circle against the iteration, on logarithmic axes: above of the last energy, below of the mean of the energies so "
    "far. The columns are three measures of the error, by quadrature. Lines are medians over {} seeds, bands their least and "
    "largest. The dashed line is the best of the F2 ball on the same data."
)
PROFILES = (
    "Energies, centred (above), and densities (below) along the circle of length 1, at the end of the first seed. Black: the "
    "teacher, and dashed the best of the F2 ball on the same data. Coloured: the methods, by their last energy or by the mean of "
    "their energies."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    steps: int = settings.steps  # pyright: ignore[reportAssignmentType]
    parts = [solve(settings, FLOWS, steps, EVERY), solve(settings, REST, LONGER * steps, LONGER * EVERY)]
    best = [best_on(sample(int(seed), settings.n)) for seed in parts[0].seed.values]  # pyright: ignore[reportArgumentType]
    figures = {
        "torus_errors": (draw_errors(parts, best), ERRORS.format(settings.seeds)),
        "torus_profiles": (draw_profiles(parts, best[0]), PROFILES),
    }
    rows = rows_of(parts, best)
    ends = "; ".join(f"{' '.join(filter(None, (row['method'], row['of'])))} {row['kl']:.2g}" for row in rows)
    return dict(
        title="Bumps on a circle: F2 by its kernel, with its last and its mean energy, and F1",
        about=(
            f"Four bumps, n = {settings.n}, N = {settings.particles}, balls of radius {BETA:g}, {settings.seeds} seeds: median, least and "
            "largest. Errors by quadrature; the dashed line is the best of the F2 ball on the same data."
        ),
        rows=rows,
        summary=f"Median KL at the end: {ends}.",
        paper="Nothing: the toy is in the authors' programs (n = 1e4, N = 1e3), its teacher is not known.",
        figures=figures,
        seeds=[int(seed) for seed in parts[0].seed.values],
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("torus", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
