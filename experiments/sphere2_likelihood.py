"""Maximum likelihood on S^2 by neurons that are born and die, beside the authors' curve (arXiv 2104.07531).

    python -m experiments.sphere2_likelihood --preset quick
    python -m experiments.sphere2_likelihood --preset paper

Two neurons of weight -2.5 at an angle of 2.552 are the teacher; 64 neurons with a charge and a weight each are the student, and the
model's expectation is by 10,000 fresh uniform points with weights in each iteration. The data are all of the teacher: a million uniform
points with its weights (the paper preset), or a quadrature of S^2 (quick). Shown with weights that react, as the authors' program is
described, and with weights that stay, and beside them a network of two layers and Algorithm 1 from the same data.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm.data import targets
from dualebm.log_z import partition
from dualebm.measures import Samples
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.plotting import charts
from dualebm.sweeps.engine import sweep
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


SEEDS = {"quick": 2, "paper": 5}


def completed(settings: Settings) -> Settings:
    """With the values of the preset. Raises ValueError naming the setting.

    >>> completed(Settings()).seeds
    2
    """
    _common.check(settings)
    if settings.steps % EVERY:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of {EVERY}")
    return dataclasses.replace(settings, seeds=settings.seeds or SEEDS[settings.preset])


def teacher() -> targets.Target:
    """The two neurons."""
    return targets.planted([[1.0, 0, 0], [np.cos(ANGLE), np.sin(ANGLE), 0]], [WEIGHT, WEIGHT], name="two neurons")


def data(key, preset: str) -> Samples:
    """The teacher's measure: a quadrature, or weighted uniform points."""
    target = teacher()
    if preset == "quick":
        return metrics.exact_samples(target.energy, partition.sphere_quadrature(target.space, NODES))
    return metrics.exact_samples(target.energy, Samples(target.space.sample_base(key, POINTS, jnp.float32)))


def method_of(case: str) -> Any:
    """The method of a case."""
    space = teacher().space
    return Likelihood(space, neurons=64, sampler="importance", chains=10_000) if case == "network" else WeightedLikelihood(space)


def rates_of(case: str) -> Any:
    """Steps of 1, that of the weights 0 where they stay."""
    rates = method_of(case).rates
    if case == "network":
        return rates._replace(learning_rate=1.0, position_rate=1.0, weight_decay=1e-4)
    return rates._replace(reaction_step=0.0 if case == "stay" else 1.0)


def solve(settings: Settings) -> dict[str, xarray.Dataset]:
    """KL along (seed, step) of each case."""
    target = teacher()
    exact = metrics.exact_samples(target.energy, partition.sphere_quadrature(target.space, 60))
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)  # pyright: ignore[reportOperatorIssue]
    found = {}
    for case in CASES:
        results = sweep(
            product(case=[case], preset=[settings.preset], seed=seeds), method_of, rates_of, data, steps=settings.steps, every=EVERY,
            metrics={"kl": metrics.KLDivergence(target.energy, exact)}, folder=settings.out / f"{settings.preset}_{case}",
            progress=sys.stderr.isatty(),
        ).load()  # fmt: skip
        found[case] = by_setting(results, ("seed",))
    return found


def smoothed(steps: np.ndarray, kl: np.ndarray, at: float) -> float:
    """The geometric mean over iterations within a fifth of `at`, or between the two nearest where there is none.

    >>> round(smoothed(np.array([90, 110, 500]), np.array([0.1, 0.4, 9.0]), 100), 6)
    0.2
    """
    near = np.abs(np.log(steps / at)) < np.log(1.2)
    return float(np.exp(np.mean(np.log(kl[near])) if near.any() else np.interp(np.log(at), np.log(steps), np.log(kl))))


def ratios(found: xarray.Dataset) -> dict[int, float]:
    """Our KL, the geometric mean over seeds and near iterations, over the authors', likewise smoothed, where both are."""
    iterations, curve = reference.author_sphere2_likelihood()
    steps = found.step.values[1:]
    ours = np.exp(np.log(found.kl.transpose("seed", "step").values[:, 1:]).mean(axis=0))
    last = min(steps[-1], iterations[-1])  # of both: what lies beyond in one alone would be smoothed in there alone
    grid = np.unique(np.round(np.geomspace(EVERY, last, 40)).astype(int))
    pairs = ((steps[steps <= last], ours[steps <= last]), (iterations[iterations <= last], curve[iterations <= last]))
    return {int(i): smoothed(*pairs[0], i) / smoothed(*pairs[1], i) for i in grid}


def draw(found: dict[str, xarray.Dataset]) -> Figure:
    """KL against iterations: median over seeds with least and largest; the authors' curve; the start."""
    figure = Figure(figsize=(charts.WIDTHS["single"], 3.2), layout="constrained")
    panel = figure.subplots()
    for i, (case, one) in enumerate(found.items()):
        kl = one.kl.isel(step=slice(1, None))
        panel.fill_between(kl.step, kl.min("seed"), kl.max("seed"), color=charts.COLOURS[i], alpha=0.2, linewidth=0)
        panel.plot(kl.step, kl.median("seed"), color=charts.COLOURS[i], label=CASES[case])
    panel.plot(*reference.author_sphere2_likelihood(), color="black", linewidth=0.8, label="authors' run")
    panel.set_xlabel("iterations")
    panel.set_ylabel("KL(teacher || student) (nat)")
    charts.log_axis(panel.xaxis)
    panel.set_yscale("log")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def main(settings: Settings) -> None:
    """Runs the cases; writes results, the figure and the report."""
    settings, given = completed(settings), settings
    begin = time.perf_counter()
    found = solve(settings)
    iterations, curve = reference.author_sphere2_likelihood()
    rows = []
    for step in SHOWN:
        if step <= settings.steps:
            row: dict = dict(iteration=step, authors=smoothed(iterations, curve, step))
            for case, one in found.items():
                kl = one.kl.sel(step=step)
                row |= {case: float(kl.median("seed")), f"{case}_least": float(kl.min()), f"{case}_largest": float(kl.max())}
            rows.append(row)
    apart = {case: ratios(one) for case, one in found.items()}
    told = "; ".join(
        f"{CASES[case]}: {min(r.values()):.2f} to {max(r.values()):.2f} times the authors' KL from iteration {EVERY} on"
        for case, r in apart.items()
    )
    with matplotlib.rc_context(charts.STYLE):
        figures = {"sphere2_likelihood": draw(found)}
    report.write(
        settings.out / settings.preset,
        title="Maximum likelihood on S^2",
        about=f"KL by quadrature, {settings.seeds} seeds: median, least and largest. Curves are smoothed over a fifth to be compared.",
        command=report.command("sphere2_likelihood", given),
        seconds=time.perf_counter() - begin,
        rows=rows,
        summary=f"{told}.",
        paper="a curve of one run: .0649 at the start, .0055 at 100, .001 at 250, 1.3e-4 at 4000.",
        figures=figures,
    )


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
