"""The continuum from maximum likelihood (p_R = 0) to score matching (p_R = 1), by both kinds of restart."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from dualebm.sweeps.grid import cross, product, zipped
from experiments import _common, report
from experiments.reference import author_runs
from experiments.restarts.problem import (
    INTEGRATORS,
    Problem,
    Settings,
    along_seeds,
    cells,
    method_of,
    problems,
    rates_of,
    seeds_of,
    trained,
)

AUTHORS = {
    "s14_monomodal": {0: "d15_mono_n1e4_p_R=0", 40: "d15_mono_n1e4_p_R=1/40", 1: "d15_mono_n1e4_p_R=1"},
    "s2_bimodal": {0: "d3_bimodal_n1000_p_R=0", 60: "d3_bimodal_n1000_p_R=1/60", 1: "d3_bimodal_n1000_p_R=1"},
}
"""Teacher -> period, 0 for never -> the archived set."""


CAPTION = (
    "From maximum likelihood (p_R = 0, at the left, before the break of the axis) to score matching (p_R = 1): KL at the end, the "
    "least KL along training, score error and total variation against the restart probability, a column for each teacher. Lines are "
    "means over {} seeds, bars their least and largest. Solid lines are periodic restarts, dashed lines Bernoulli "
    "restarts. Stars are the authors' archived runs, filled at their iteration 4000 and open at our last iteration."
)


def published_of(problem: Problem, results: xarray.Dataset) -> list[report.Published]:
    """Returns the KL of the authors' program at our last iteration beside that of their archived runs at the same iteration."""
    pairs = []
    for period, name in AUTHORS.get(problem.name, {}).items():
        if period and period not in problem.periods:
            continue
        cell = picked(results, algorithm="program", restarts="periodic", period=period)
        runs = author_runs(name)
        at = int(np.flatnonzero(runs["iterations"] <= problem.steps)[-1])
        share = "0" if not period else "1" if period == 1 else f"1/{period}"
        quantity = f"KL (nat), {problem.name}, n = {problem.n}, the authors' program, p_R = {share}, iteration {problem.steps}"
        numbers: dict[str, Any] = _common.spread(cell.kl[:, -1], "ours")
        source = f"archived run, iteration {int(runs['iterations'][at])}, n = {1e4 if '1e4' in name else 1000:g}"
        pairs.append(report.Published(quantity, **numbers, published=float(runs["KL"]["mean"][at]), source=source))
    return pairs


def picked(results: xarray.Dataset, **settings) -> xarray.Dataset:
    """Returns the runs with these settings, along (seed, step).

    >>> runs = dict(period=("run", [1, 3, 1]), seed=("run", [0, 0, 1]))
    >>> picked(xarray.Dataset({"kl": ("run", [0.1, 0.2, 0.3])}, runs), period=1).kl.values.tolist()
    [0.1, 0.3]
    """
    chosen = np.logical_and.reduce([results[name].values == value for name, value in settings.items()])
    return along_seeds(results.isel(run=np.flatnonzero(chosen)))


def study(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains all cells of all teachers, and returns the rows and the figure."""
    teachers, all_results = problems(settings, "continuum"), []
    for problem in teachers:
        pairs = cells(problem.periods)
        kinds = zipped(restarts=[kind for kind, _ in pairs], period=[period for _, period in pairs])
        grid = cross(kinds, product(algorithm=list(INTEGRATORS), seed=seeds_of(settings)))
        method = partial(method_of, problem.target)
        rates = partial(rates_of, problem.neuron_step)
        all_results.append(trained(problem, settings, grid, method, rates, folder / problem.name))
    rows = [row for problem, results in zip(teachers, all_results, strict=True) for row in rows_of(problem, results)]
    least = teachers[0].periods[0]
    at = {(row["teacher"], row["algorithm"], row["restarts"]): f"{row['KL']:.3g}" for row in rows if row["k"] == least}
    pairs = [(problem.name, algorithm) for problem in teachers for algorithm in INTEGRATORS]
    gaps = [f"{t} {a} {at[t, a, 'bernoulli']} against {at[t, a, 'periodic']}" for t, a in pairs]
    return dict(
        title="The continuum from maximum likelihood to score matching",
        about="Algorithm 1 with restarts, all signs -1, h_x = 0.02, neuron steps 0.2 (S^14) and 0.04 (S^2) times 1 + 0.1 p_R / h_x, "
        f"constant, budget 10. Lines are means over {len(seeds_of(settings))} seeds, bands their least and largest. p_R = 0 is maximum "
        "likelihood, 1 score matching.",
        rows=rows, figures={"continuum": (figure_of(teachers, all_results), CAPTION.format(len(seeds_of(settings))))},
        summary=f"Mean KL at the end at p_R = {1 / least:.3g}, Bernoulli against periodic: {'; '.join(gaps)}.",
        paper="Proposition 3 has the two ends. The authors' archived runs (periodic) have KL at iteration 4000 for p_R = 0, 1/40, 1 of "
        "0.0209, 0.0194, 0.0216 (S^14, n = 1e4), and for 0, 1/60, 1 of 0.0044, 0.0039, 0.0107 (S^2, n = 1e3; at p_R = 1 without the "
        "budget).",
        published=[one for problem, results in zip(teachers, all_results, strict=True) for one in published_of(problem, results)],
        seeds=seeds_of(settings),
    )  # fmt: skip


def rows_of(problem: Problem, results: xarray.Dataset) -> list[dict[str, Any]]:
    """Returns a row for each algorithm and cell: means over seeds at the end, and the least KL along training with its iteration."""
    rows = []
    for algorithm in INTEGRATORS:
        for kind, period in cells(problem.periods):
            cell = picked(results, algorithm=algorithm, restarts=kind, period=period)
            end = cell.isel(step=-1)
            mean = cell.kl.mean("seed", skipna=False)
            best_at = int(mean.step[np.nanargmin(mean.values)])
            rows.append(dict(
                teacher=problem.name, n=problem.n, steps=problem.steps, seeds=cell.sizes["seed"], algorithm=algorithm,
                restarts=kind if period else "none", k=period, p_R=1 / period if period else 0.0,
                **_common.spread(end.kl, "KL", "KL_least", "KL_largest"),
                best_KL=float(cell.kl.min("step").mean()), best_at=best_at,
                score=float(end.score.mean()), TV=float(end.total_variation.mean()),
            ))  # fmt: skip
    return rows


def figure_of(teachers: list[Problem], all_results: list[xarray.Dataset]) -> Figure:
    """Draws KL, least KL, score error and total variation against p_R, a column for each teacher."""
    measures: tuple[tuple[str, Callable, Callable], ...] = (
        ("KL at the end (nat)", lambda r: r.kl[:, -1], lambda a, i: a["KL"]["mean"][i]),
        ("least KL along training (nat)", lambda r: r.kl.min("step"), lambda a, i: a["KL"]["mean"][: i + 1].min()),
        ("score error at the end", lambda r: r.score[:, -1], lambda a, i: a["SM"]["mean"][i]),
        ("total variation at the end", lambda r: r.total_variation[:, -1], lambda a, i: a["TV"]["mean"][i]),
    )
    whose = "authors ($S^{14}$: n = $10^4$)"
    figure, panels = _common.panels_of(len(measures), len(teachers), 7.6, max(2.4 * len(teachers), 4.8), sharex="col")
    for column, (problem, results) in enumerate(zip(teachers, all_results, strict=True)):
        seeds = results.sizes["run"] // len(INTEGRATORS) // len(cells(problem.periods))
        never = 1 / (4 * max(problem.periods))  # where p_R = 0 is drawn on the logarithmic axis
        for row, (label, of_runs, of_authors) in enumerate(measures):
            panel = panels[row, column]
            for i, (algorithm, kind) in enumerate((a, k) for a in INTEGRATORS for k in ("periodic", "bernoulli")):
                ends = [of_runs(picked(results, algorithm=algorithm, restarts=kind, period=k)) for k in problem.periods]
                text = f"{algorithm}, {'periodic' if kind == 'periodic' else 'Bernoulli'}"
                dashes: dict[str, Any] = dict(linestyle="-" if kind == "periodic" else "--")
                _common.bars(panel, [1 / k for k in problem.periods], np.stack(ends, axis=1), i, 4, apart=1.1, label=text, **dashes)
                if kind == "periodic":
                    start = of_runs(picked(results, algorithm=algorithm, restarts=kind, period=0))
                    _common.bars(panel, [never], start.values[:, None], i, 4, apart=1.1)
            for period, name in AUTHORS.get(problem.name, {}).items():
                runs = author_runs(name)
                x = 1 / period if period else never
                last = int(np.flatnonzero(runs["iterations"] <= problem.steps)[-1])
                form = dict(linestyle="none", color="black", markersize=7, zorder=5)
                panel.plot(x, of_authors(runs, len(runs["iterations"]) - 1), marker="*", label=f"{whose}, iteration 4000", **form)
                panel.plot(x, of_authors(runs, last), marker="*", markerfacecolor="none", label=f"{whose}, at our last iteration", **form)
            panel.set_xlim(never / 1.6, 1.6)
            if not column:
                panel.set_ylabel(label)
            if row < 3:
                charts.log_axis(panel.yaxis)
            shown = [p for p in (0.001, 0.01, 0.1, 1.0) if p > 2 * never]
            charts.log_axis(panel.xaxis, [never, *shown])
            panel.xaxis.set_ticks([never, *shown], ["0", *(f"{p:g}" for p in shown)])
            between = [m * 10.0**e for e in range(-4, 0) for m in range(1, 10)]
            panel.xaxis.set_ticks([p for p in between if p > 2 * never], minor=True)
            panel.text(2 * never, 0, "//", transform=panel.get_xaxis_transform(), ha="center", va="center", fontsize=8, clip_on=False)
        panels[0, column].set_title(f"{_common.named(problem.name)}\nn = {charts.number(problem.n)}, {problem.steps} iterations")
        panels[-1, column].set_xlabel("restart probability $p_R$ = 1 / k")
    _common.legend(figure, panels[0], max(len(teachers), 2), title=_common.of_seeds(seeds, shape="bar"))
    return figure


