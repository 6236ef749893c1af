"""Maximum likelihood on S^2 by neurons that are born and die, beside the authors' curve (arXiv 2104.07531).

    python -m experiments.sphere2_likelihood --preset quick
    python -m experiments.sphere2_likelihood --preset paper

Two neurons of weight -2.5 at an angle of 2.552 are the teacher; 64 neurons with a charge and a weight each are the student, and the
model's expectation is by 10,000 fresh uniform points with weights in each iteration. The data are all of the teacher: a million uniform
points with its weights (the paper preset), or a quadrature of S^2 (quick). Shown with weights that react, as the authors' program is
described, and with weights that stay, and beside them a network of two layers and Algorithm 1 from the same data.
"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm.data import targets
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.measures import Samples
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.plotting import charts
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common, reference, report

ANGLE, WEIGHT = 2.552, -2.5
EVERY = 10
POINTS, NODES = 10**6, 50
"""Uniform data with weights in the paper preset; Gauss-Legendre nodes of the quadrature in quick, 2 NODES^2 points."""

CASES = {
    "stay": "charges and positions move (weights stay 1)",
    "react": "charges, positions and weights move",
    "network": "network of two layers, one step size",
}
SHOWN = (10, 20, 50, 100, 250, 1000, 4000)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (2 seeds, data as a quadrature) or paper (5 seeds, data as a million weighted points)."""
    seeds: int | None = None
    """Runs of each case."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    steps: int = 4000
    """Iterations, a multiple of 10."""
    out: Path = Path("results/sphere2_likelihood")
    """Where results and figures are written."""


PRESETS = {"quick": dict(seeds=2), "paper": dict(seeds=5)}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).seeds
    2
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_multiple("steps", settings.steps, EVERY)
    return settings


def teacher() -> targets.Target:
    """Returns the teacher of two neurons."""
    return targets.planted([[1.0, 0, 0], [np.cos(ANGLE), np.sin(ANGLE), 0]], [WEIGHT, WEIGHT], name="two neurons")


def data(key, preset: str) -> Samples:
    """Returns the teacher's measure: a quadrature, or weighted uniform points."""
    target = teacher()
    if preset == "quick":
        return metrics.exact_samples(target.energy, sphere_quadrature(target.space, NODES))
    return metrics.exact_samples(target.energy, Samples(target.space.sample_base(key, POINTS, jnp.float32)))


def method_of(case: str) -> Any:
    """Returns the method of a case."""
    space = teacher().space
    return Likelihood(space, neurons=64, sampler="importance", chains=10_000) if case == "network" else WeightedLikelihood(space)


def rates_of(case: str) -> Any:
    """Returns the rates of a case: steps of 1, that of the weights 0 where they stay."""
    rates = method_of(case).rates
    if case == "network":
        return rates._replace(learning_rate=1.0, position_rate=1.0, weight_decay=1e-4)
    return rates._replace(reaction_step=0.0 if case == "stay" else 1.0)


def solve(settings: Settings) -> dict[str, xarray.Dataset]:
    """Sweeps the cases, and returns the KL of each along (seed, step)."""
    target = teacher()
    exact = metrics.exact_samples(target.energy, sphere_quadrature(target.space, 60))
    by_case = {}
    for case in CASES:
        grid = product(case=[case], preset=[settings.preset], seed=_common.seeds_of(settings))
        results = _common.swept(
            grid, method_of, rates_of, data, steps=settings.steps, every=EVERY, folder=settings.out / f"{settings.preset}_{case}",
            metrics={"kl": metrics.KLDivergence(target.energy, exact)},
        )  # fmt: skip
        by_case[case] = by_setting(results, ("seed",))
    return by_case


def smoothed(steps: np.ndarray, kl: np.ndarray, at: float) -> float:
    """Returns the geometric mean over iterations within a fifth of `at`, or between the two nearest where there is none.

    >>> round(smoothed(np.array([90, 110, 500]), np.array([0.1, 0.4, 9.0]), 100), 6)
    0.2
    """
    near = np.abs(np.log(steps / at)) < np.log(1.2)
    return float(np.exp(np.mean(np.log(kl[near])) if near.any() else np.interp(np.log(at), np.log(steps), np.log(kl))))


def ratios(results: xarray.Dataset) -> dict[int, float]:
    """Returns our KL, the geometric mean over seeds and near iterations, over the authors', likewise smoothed, where both are."""
    iterations, curve = reference.author_sphere2_likelihood()
    steps = results.step.values[1:]
    ours = np.exp(np.log(results.kl.transpose("seed", "step").values[:, 1:]).mean(axis=0))
    last = min(steps[-1], iterations[-1])  # of both: what lies beyond in one alone would be smoothed in there alone
    grid = np.unique(np.round(np.geomspace(EVERY, last, 40)).astype(int))
    pairs = ((steps[steps <= last], ours[steps <= last]), (iterations[iterations <= last], curve[iterations <= last]))
    return {int(i): smoothed(*pairs[0], i) / smoothed(*pairs[1], i) for i in grid}


def smooth_curve(steps: np.ndarray, kl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the curve as it is up to iteration 100, and smoothed from there on.

    >>> smooth_curve(np.array([50, 100]), np.array([0.2, 0.1]))[1].tolist()
    [0.2, 0.1]
    """
    early = steps <= 100
    places = np.geomspace(110, steps[-1], 40) if steps[-1] > 110 else np.zeros(0)
    return np.append(steps[early], places), np.append(kl[early], [smoothed(steps, kl, at) for at in places])


def draw(by_case: dict[str, xarray.Dataset]) -> Figure:
    """Draws KL against iterations, and beside it smoothed curves: the geometric mean over seeds; and the authors' curve."""
    figure, ((panel,),) = _common.panels_of(1, 1, 3.4, 5.0)
    iterations, curve = reference.author_sphere2_likelihood()
    for i, (case, one) in enumerate(by_case.items()):
        kl, steps = one.kl.isel(step=slice(1, None)).transpose("seed", "step").values, one.step.values[1:]
        mean = np.exp(np.log(kl).mean(axis=0))
        form = _common.look(i) | dict(linestyle=("-", "--", "-.")[i], markevery=(3 * i, 10), zorder=3, markeredgecolor="white")
        panel.fill_between(steps, kl.min(axis=0), kl.max(axis=0), color=form["color"], alpha=0.15, linewidth=0)
        panel.plot(*smooth_curve(steps, mean), label=CASES[case], markeredgewidth=0.3, **form)
    panel.plot(iterations, curve, color="0.6", linewidth=0.5, zorder=1)
    panel.plot(*smooth_curve(iterations, curve), color="black", linewidth=1.4, label="authors' run")
    panel.set_xlabel("iteration")
    panel.set_ylabel(_common.KL)
    charts.log_axis(panel.xaxis)
    charts.log_axis(panel.yaxis)
    count = next(iter(by_case.values())).sizes["seed"]
    title = f"geometric mean of {count} seeds, smoothed over a fifth of the iteration from 100 on; band: least to largest, not smoothed"
    _common.legend(figure, [panel], 2, title="\n".join(textwrap.wrap(title, 70)))
    return figure


CAPTION = (
    "KL(teacher || student) against the iteration, on logarithmic axes, for maximum likelihood on S^2. Coloured lines are geometric "
    "means over {} seeds, from iteration 100 on smoothed over a fifth of the iteration; bands are the least and the largest, not "
    "smoothed. The black line is the authors' run, likewise smoothed, and the grey line the run itself."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    by_case = solve(settings)
    iterations, curve = reference.author_sphere2_likelihood()
    rows = []
    for step in SHOWN:
        if step <= settings.steps:
            row: dict = dict(iteration=step, authors=smoothed(iterations, curve, step))
            for case, one in by_case.items():
                row |= _common.spread(one.kl.sel(step=step), case, f"{case}_least", f"{case}_largest", of="median")
            rows.append(row)
    apart = {case: ratios(one) for case, one in by_case.items()}
    sentences = "; ".join(
        f"{CASES[case]}: {min(r.values()):.2f} to {max(r.values()):.2f} times the authors' KL from iteration {EVERY} on"
        for case, r in apart.items()
    )
    figures = {"sphere2_likelihood": (draw(by_case), CAPTION.format(settings.seeds))}
    return dict(
        title="Maximum likelihood on S^2",
        about=f"KL by quadrature, {settings.seeds} seeds: median, least and largest. Curves are smoothed over a fifth to be compared.",
        rows=rows,
        summary=f"{sentences}.",
        paper="a curve of one run: .0649 at the start, .0055 at 100, .001 at 250, 1.3e-4 at 4000.",
        figures=figures,
        published=[
            report.Published(
                f"KL (nat), S^2, {CASES[case]}, iteration {rows[-1]['iteration']}", rows[-1][case], rows[-1][f"{case}_least"],
                rows[-1][f"{case}_largest"], rows[-1]["authors"], f"curve of one run, iteration {rows[-1]['iteration']}, smoothed",
            )
            for case in CASES
        ] if rows else [],
        seeds=_common.seeds_of(settings),
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("sphere2_likelihood", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
