"""Steps that find themselves, against a grid of steps: `dualebm.methods.adaptive`.

    python -m experiments.adaptive --preset quick
    python -m experiments.adaptive --preset paper --n 4000 --seeds 3
    python -m experiments.adaptive --preset paper --teachers s14_bimodal --signs half

For each teacher, every cell of a grid (particle step x neuron step, each over a factor of 25 or more) and the adaptive default, all under
the same `annealing`, are trained on the same data, test points, initial states and noise. The floor is the least median KL at the end of
any cell. The table compares the iterations from which the KL stays within a multiple of the floor: the medians over seeds of the adaptive
method and of the best cell. The cost of an iteration while steps adapt, relative to one of the grid, is timed; seconds are iterations at
that cost.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.flows.wfr import Signs
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.dual import Dual, annealing
from dualebm.plotting import charts
from dualebm.training import run_folder
from dualebm.training.prepare import initial_state
from dualebm.training.simulate import simulate
from experiments import _common, report

ALL = ("s14_monomodal", "s14_bimodal", "s2_bimodal", "s9_trimodal")
PRESETS = {
    "quick": dict(n=2_000, seeds=2, teachers=ALL[:1], signs=("half",)),
    "paper": dict(n=10_000, seeds=8, teachers=ALL, signs=("all_negative", "half")),
}
TEACHERS = (*targets.TEACHERS, "s9_trimodal")
PARTICLE_STEPS = (0.09, 0.45, 2.25)
"""h_x d of the grid's cells: 0.006, 0.03 and 0.15 on S^14."""
NEURON_STEPS = (0.03, 0.1, 0.2, 0.4, 0.8)
"""h_theta / d = h_w / d of the grid's cells: 0.45, 1.5, 3, 6 and 12 on S^14."""
MULTIPLES = (1.5, 2.0, 4.0)
"""Multiples of the floor that are to be reached."""
NEAR = 1.3
"""Steps are near the best where their iterations to twice the floor are at most so many times those of the best cell."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (one teacher, n = 2000, 2 seeds) or paper (four teachers, n = 10,000, 8 seeds)."""
    teachers: tuple[str, ...] = ()
    """Names of `targets.TEACHERS`, and s9_trimodal: three neurons of weights -12, -8, -6 in 10 dimensions; none for the preset's."""
    signs: tuple[str, ...] = ()
    """Signs of the neurons: half, random or all_negative; none for the preset's."""
    n: int | None = None
    """Data points; there are 2n particles."""
    neurons: int = 64
    """Neurons m."""
    steps: int = 200
    """Iterations on S^14 and S^9; twice as many on S^2."""
    every: int = 4
    """Iterations between records."""
    warmup: int = 80
    """Of the annealing and of the adaptation."""
    anneal: bool = True
    """The annealing of the default, in every cell and in the adaptive method; else constant steps and radius."""
    seeds: int | None = None
    """Runs of each cell, each with its own data, test points, neurons and noise."""
    first_seed: int = 100
    """The seeds are first_seed, first_seed + 1, ... Seeds below 100 chose the constants of the method."""
    test_points: int = 10_000
    """Fresh draws of the teacher for KL."""
    out: Path = Path("results/adaptive")
    """Where the figures are written, and results.nc and summary.json of each teacher and signs."""


def teacher_of(name: str) -> targets.Target:
    """Returns a teacher by its name.

    Raises:
        ValueError: There is no such teacher.

    >>> teacher_of("s9_trimodal").space
    Sphere(dimension=10, base=Uniform())
    """
    checks.choice("teachers", name, TEACHERS)
    if name in targets.TEACHERS:
        return targets.teacher(name)
    positions = np.random.default_rng(9).normal(size=(3, 10))
    return targets.planted(positions, [-12.0, -8.0, -6.0], name=name)


@eqx.filter_jit
def train(key, method, rates, data, divergence, steps: int, every: int, schedule: Callable | None):
    """Trains; returns the last state, and the KL after every `every` steps."""
    state = initial_state(key, method, rates, data)
    monitors = {"kl": divergence}
    state, records = simulate(
        key, method, state, rates, data, steps=steps, every=every, metrics=monitors, schedule=schedule
    )
    return state, records["kl"]


def compare(results: xarray.Dataset, every: int) -> dict:
    """Returns by multiple of the floor the iterations of the adaptive method and of the best cell, medians over seeds, and their ratio."""
    kl = results.kl.transpose("seed", "particle_step", "neuron_step", "step")
    never = float(results.step[-1]) + every
    floor = float(np.nanmin(np.median(np.median(kl.values[..., -kl.shape[-1] // 4 :], axis=-1), axis=0)))
    rows = {}
    for multiple in MULTIPLES:
        cells = np.median(_common.stays_below(kl, multiple * floor, never), axis=0)
        adapted = float(np.median(_common.stays_below(results.adapted, multiple * floor, never)))
        i, j = np.unravel_index(np.argmin(cells), cells.shape)
        rows[str(multiple)] = {
            "kl": multiple * floor,
            "adapted": adapted,
            "best": float(cells[i, j]),
            "ratio": adapted / float(cells[i, j]),
            "best_steps": [float(results.particle_step[i]), float(results.neuron_step[j])],
            "cells": cells.tolist(),
        }
    return rows


def cost_of_adapting(method: Dual, adaptive: Adaptive, data, warmup: int) -> float:
    """Returns the seconds of an iteration while steps adapt, relative to one of `method`: the median of five alternating timings."""
    steps = max(warmup - warmup % 2, 2)
    rates = jax.tree.map(jnp.float32, method.rates)
    runs, ratios = [], []
    for each in (method, adaptive):
        state = initial_state(jax.random.key(0), each, rates, data)

        def whole(state, each=each):
            return simulate(jax.random.key(0), each, state, rates, data, steps=steps, every=steps, metrics={})[0]

        compiled = jax.jit(whole)
        jax.block_until_ready(compiled(state))
        runs.append((compiled, state))
    for _ in range(5):
        times = []
        for compiled, state in runs:
            start = time.perf_counter()
            jax.block_until_ready(compiled(state))
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def contest(settings: Settings, target: targets.Target, signs: Signs) -> tuple[xarray.Dataset, dict]:
    """Trains all cells and the adaptive method on one teacher; returns the records and a summary."""
    preset = PRESETS[settings.preset]
    n, seeds = settings.n or preset["n"], _common.seeds_of(settings, settings.seeds or preset["seeds"])
    d = target.space.dimension
    steps = settings.steps * (2 if d == 3 else 1)
    method = Dual(target.space, neurons=settings.neurons, signs=signs)
    adaptive = Adaptive(method, warmup=settings.warmup)
    schedule = annealing(settings.warmup, 0.5) if settings.anneal else None
    particle_steps, neuron_steps = [h / d for h in PARTICLE_STEPS], [h * d for h in NEURON_STEPS]
    kl = np.full((len(seeds), len(particle_steps), len(neuron_steps), steps // settings.every), np.nan)
    adapted, steps_taken = np.full((len(seeds), steps // settings.every), np.nan), []
    cost = 1.0
    for at, seed in enumerate(seeds):
        key, data, test = _common.draws(seed, target, n, settings.test_points)
        rest = data, metrics.KLDivergence(target.energy, test), steps, settings.every, schedule
        for i, particle_step in enumerate(particle_steps):
            for j, neuron_step in enumerate(neuron_steps):
                rates = method.rates._replace(
                    particle_step=particle_step, transport_step=neuron_step, reaction_step=neuron_step
                )
                kl[at, i, j] = train(key, method, jax.tree.map(jnp.float32, rates), *rest)[1]
        rates = jax.tree.map(jnp.float32, adaptive.rates)
        state, adapted[at] = train(key, adaptive, rates, *rest)
        steps_taken.append([float(h) for h in adaptive.adapted(state, rates)[:2]])
        cost = cost_of_adapting(method, adaptive, data, settings.warmup) if at == 0 else cost
    results = xarray.Dataset(
        {"kl": (("seed", "particle_step", "neuron_step", "step"), kl), "adapted": (("seed", "step"), adapted)},
        {
            "seed": list(seeds),
            "particle_step": particle_steps,
            "neuron_step": neuron_steps,
            "step": settings.every * (1 + np.arange(steps // settings.every)),
        },
    )
    rows = compare(results, settings.every)
    for row in rows.values():  # at equal cost of an iteration, but for those in which steps adapt
        extra = (cost - 1) * min(row["adapted"], settings.warmup)
        row["ratio_of_seconds"] = (row["adapted"] + extra) / row["best"]
    summary = dict(n=n, seeds=len(seeds), steps=steps, adapted_steps=np.median(steps_taken, axis=0).tolist(), cost_of_adapting=cost)
    return results, {**summary, "anneal": settings.anneal, "at": rows}


def draw(cases: list[tuple[str, xarray.Dataset, dict]]) -> Figure:
    """Draws, a row for each teacher, iterations to twice the floor in each cell with the adapted steps, and KL of all cells.

    Args:
        cases: The title, the records and the summary of each teacher.
    """
    figure, panels = _common.panels_of(len(cases), 2, 0.7 + 2.0 * len(cases), width_ratios=(1.1, 1))
    reached = [np.array(summary["at"]["2.0"]["cells"]) for _, _, summary in cases]
    last = [float(results.step[-1]) for _, results, _ in cases]
    reached = [np.where(cells > end, np.nan, cells) for cells, end in zip(reached, last, strict=True)]
    norm = _common.log_norm(np.concatenate([cells.ravel() for cells in reached]))
    image: Any = None
    for (left, right), cells, (title, results, summary) in zip(panels, reached, cases, strict=True):
        row, steps = summary["at"]["2.0"], (results.neuron_step.values, results.particle_step.values)
        image = _common.heat(left, cells, *steps, norm, "never", lift=0.3)
        places = [np.interp(np.log(h), np.log(x), np.arange(len(x))) for h, x in zip(summary["adapted_steps"][::-1], steps, strict=True)]
        form: dict[str, Any] = dict(color="white", markeredgecolor="black", markersize=12, linestyle="")
        left.plot(*places, "*", label="steps that were found", **form)
        left.set_ylabel("particle step $h_x$")
        left.set_title(title, loc="left")
        for i, j in np.ndindex(*cells.shape):
            curve, label = results.kl.isel(particle_step=i, neuron_step=j).median("seed"), "" if i or j else "a cell of the grid"
            right.plot(results.step, curve, color="0.7", linewidth=0.7, label=label)
        colour, at = charts.COLOURS[5], charts.marks(results.step.values)
        found = results.adapted.median("seed")
        right.plot(results.step, found, color=colour, marker="o", markevery=at, label="adaptive method")
        right.axhline(row["kl"], color="black", linewidth=0.8, linestyle=":", label="twice the floor")
        charts.log_axis(right.yaxis)
        right.set_ylabel(_common.KL)
        right.set_title(f"iterations: adaptive {row['adapted']:.0f}, best cell {row['best']:.0f}", loc="left")
    panels[-1, 0].set_xlabel(r"neuron step $h_\theta$")
    panels[-1, 1].set_xlabel("iteration")
    _common.colour_bar(figure, image, panels[:, 0], "iterations to twice the floor")
    _common.legend(figure, panels[0], 4, title=f"median of {cases[0][2]['seeds']} seeds")
    return figure


def show(name: str, signs: str, summary: dict) -> None:
    """Prints the numbers of one teacher."""
    steps = "particle step {:.3g}, neuron step {:.3g}".format(*summary["adapted_steps"])
    cost = f"adapting costs {summary['cost_of_adapting']:.2f} of an iteration"
    print(f"{name}, {signs}, n = {summary['n']}, {summary['seeds']} seeds: {steps}; {cost}")
    for multiple, row in summary["at"].items():
        print(
            f"  {multiple} floors, KL {row['kl']:.5f}: adapted {row['adapted']:.0f}, best cell {row['best']:.0f} at "
            f"({row['best_steps'][0]:.3g}, {row['best_steps'][1]:.3g}), ratio {row['ratio']:.2f}, of seconds {row['ratio_of_seconds']:.2f}",
            flush=True,
        )


CAPTION = (
    "Steps that adapt beside a grid of steps, signs {}, a row for each teacher. Left: iterations from which KL stays within twice the "
    "floor, in colours on a logarithmic scale, for each particle step and neuron step; hatched cells never reach it, and the star is "
    "at the steps that the adaptive method found. Right: KL(teacher || student) against the iteration; grey lines are the cells of "
    "the grid, the coloured line is the adaptive method, and the dotted line is twice the floor. Medians over {} seeds."
)


def content_of(settings: Settings, tasks: list[tuple[targets.Target, Any]]) -> dict[str, Any]:
    """Trains, writes the records of each task, and returns the content of the report."""
    rows, cases = [], {}
    for target, signs in tasks:
        results, summary = contest(settings, target, signs)
        name = f"{target.name}_{signs}_n={summary['n']}{'' if settings.anneal else '_constant'}"
        folder = settings.out / name
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.to_netcdf(results, folder / "results.nc")
        (folder / "summary.json").write_text(json.dumps(summary, indent=1))
        cases.setdefault(signs, []).append((f"{_common.named(target.name)}, {_common.SIGNS[signs]}", results, summary))
        show(target.name, signs, summary)
        found, row = dict(zip(("particle_step", "neuron_step"), summary["adapted_steps"], strict=True)), summary["at"]["2.0"]
        compared = {word: row[word] for word in ("kl", "adapted", "best", "ratio", "ratio_of_seconds")}
        rows.append(dict(teacher=target.name, signs=_common.SIGNS[signs], n=summary["n"]) | found | compared)
    near = sum(row["ratio"] <= NEAR for row in rows)
    return dict(
        title="Adaptive steps", about="Iterations to twice the floor of the KL: steps that find themselves beside a grid.", rows=rows,
        figures={f"adaptive_{signs}": (draw(each), CAPTION.format(signs, each[0][2]["seeds"])) for signs, each in cases.items()},
        summary=f"At most {NEAR} times the iterations of the best cell: {near} of {len(rows)}.",
        paper="nothing on it: its steps are tuned by hand.",
        seeds=_common.seeds_of(settings, settings.seeds or PRESETS[settings.preset]["seeds"]),
    )  # fmt: skip


def main(settings: Settings) -> list[dict[str, Any]]:
    """Trains, writes the report, and returns its rows, one for each teacher and signs."""
    _common.check(settings)
    checks.count("every", settings.every, 2)
    _common.check_multiple("steps", settings.steps, settings.every, "every")
    teachers, signs = (getattr(settings, name) or PRESETS[settings.preset][name] for name in ("teachers", "signs"))
    tasks = [(teacher_of(name), sign) for name in teachers for sign in signs]
    for target, sign in tasks:
        Dual(target.space, signs=sign)  # raises before any run
    return report.run("adaptive", settings, settings.out, lambda: content_of(settings, tasks))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
