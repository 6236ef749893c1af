"""Annealed restarts: p_R from high to low over a warm-up, chosen on some seeds and compared on others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

from dualebm.methods import presets
from dualebm.methods.dual import Dual, DualRates
from dualebm.plotting import charts
from dualebm.sweeps.grid import product
from experiments import _common
from experiments.restarts.problem import (
    AWAY,
    HX,
    Problem,
    Settings,
    along_seeds,
    cells,
    method_of,
    problems,
    rates_of,
    reach,
    seeds_of,
    trained,
)

AGE = 0.1
"""The program's t_r: particles that restart with probability p are about h_x / p old, and F is of the order of their age, so that the
neuron steps are multiplied by 1 + t_r p / h_x."""

THRESHOLDS = (0.1, 0.03, 0.01)
"""KL, in nats, to which iterations are counted."""

SHAPES: dict[str, Callable[[int], optax.Schedule]] = {
    "linear": lambda warmup: optax.linear_schedule(1.0, 0.0, warmup),
    "cosine": lambda warmup: optax.cosine_decay_schedule(1.0, warmup),
    "exponential": lambda warmup: optax.exponential_decay(1.0, warmup, 1e-3, end_value=1e-3),
    "step": lambda warmup: optax.piecewise_constant_schedule(1.0, {warmup: 0.0}),
    "step_in_order": lambda warmup: optax.piecewise_constant_schedule(1.0, {warmup: 0.0}),
    "reversed": lambda warmup: optax.linear_schedule(0.0, 1.0, warmup),
}
"""p_R over a warm-up: 1 to 0 along a line, a cosine, a step; 1 to 1e-3; and, a control, 0 to 1. In "step_in_order" all particles restart at
two copies of the data in each iteration of the warm-up; the others are Bernoulli restarts."""

QUICK_SHAPES = ("linear", "exponential", "step_in_order", "reversed")
"""The shapes of the quick preset: each compiles another program."""


CAPTION = (
    "Annealed restarts on {}. Left: KL(teacher || student) against the iteration, means over {} seeds with bands from the least to "
    "the largest. Right: KL at the end (filled circles) and the least KL along training (open squares) of every variant, means with "
    "bars from the least to the largest. The names say the shape of p_R along the warm-up, the length of the warm-up in iterations, "
    "and whether the neuron steps have the age factor."
)
CHOOSING = (
    "How the shape and the warm-up were chosen: KL at the end on the seeds that chose, for each shape of p_R along the warm-up. "
    "Marks are means over {} seeds, bars their least and largest. The range of p_R stands below each shape."
)


def annealed(schedule: optax.Schedule, age_factor: bool, bernoulli: bool = True) -> Callable:
    """Returns the schedule of rates with p_R = schedule(step) and, with the age factor, neuron steps times 1 + 0.1 p_R / h_x.

    Args:
        schedule: The restart probability by the step.
        age_factor: Whether the neuron steps have the factor.
        bernoulli: False where the method itself restarts (`restart_every`, `restart_until`): the rate then stays as it is.

    Returns:
        A function of the step and the rates.

    >>> rates = annealed(optax.linear_schedule(1.0, 0.0, 100), True)(50, presets.program_rates())
    >>> round(float(rates.restart_probability), 6), round(float(rates.transport_step), 6)
    (0.5, 0.7)
    """

    def anneal(step, rates):
        probability = schedule(step)
        factor = 1 + AGE * probability / rates.particle_step if age_factor else 1.0
        return rates._replace(
            restart_probability=probability if bernoulli else rates.restart_probability,
            transport_step=rates.transport_step * factor,
            reaction_step=rates.reaction_step * factor,
        )

    return anneal


class Variant(NamedTuple):
    """A way to train: its name, which its folder has too, and what `sweep` needs."""

    name: str
    method: Dual
    rates: DualRates
    schedule: Callable | None = None


def annealed_variant(problem: Problem, shape: str, warmup: int, age_factor: bool, default: bool = False) -> Variant:
    """Returns MALA at the program's rates under an annealed p_R, or with `default` our default rates and schedule with it on top."""
    in_order = shape == "step_in_order"
    restarts = dict(restart_every=1, restart_until=warmup) if in_order else {}
    method = presets.program(problem.target.space, integrator="mala", **restarts)
    anneal = annealed(SHAPES[shape](warmup), age_factor, not in_order)
    name = f"{shape}_{warmup}{'_age' if age_factor else ''}"
    if not default:
        return Variant(name, method, presets.program_rates(None, problem.neuron_step, hx=HX), anneal)
    before = problem.default
    return Variant(f"default_{name}", method, method.rates, lambda step, rates: anneal(step, before(step, rates)))


def constant_variants(problem: Problem) -> list[Variant]:
    """Returns what the annealed are compared with: constant p_R = 0, 1/40 and 1 with the age factor, MALA; and our default."""
    variants = []
    for kind, period in cells((1, 40)):
        method = method_of(problem.target, "MALA", kind, period)
        name = f"constant_{kind}_{period}" if period else "constant_0"
        variants.append(Variant(name, method, rates_of(problem.neuron_step, kind, period)))
    method = presets.program(problem.target.space, integrator="mala")
    return [*variants, Variant("default", method, method.rates, problem.default)]


def title_of(name: str) -> str:
    """Returns the name of a variant for readers.

    >>> title_of("constant_bernoulli_40"), title_of("default_linear_100_age")
    ('p_R = 1/40, Bernoulli', 'default and linear, 100, age factor')
    """
    if name.startswith("constant_"):
        kind, _, period = name.removeprefix("constant_").partition("_")
        p = {"": "0", "1": "1"}.get(period, f"1/{period}")
        return f"p_R = {p}{', ' + {'bernoulli': 'Bernoulli'}.get(kind, kind) if period else ''}"
    if name == "default":
        return "our default"
    if name.startswith("default_"):
        return f"default and {title_of(name.removeprefix('default_'))}"
    shape, warmup, *age = name.replace("step_in_order", "step in order").split("_")
    return f"{shape}, {warmup}{', age factor' if age else ''}"


def annealed_row(problem: Problem, name: str, seeds: range, results: xarray.Dataset, part: str) -> dict[str, Any]:
    """Returns the row of a variant: KL at the end, least KL along training, and the median iterations to the thresholds."""
    kl = results.kl
    times = {f"to_{level:g}": float(_common.stays_below(kl, level).median()) for level in THRESHOLDS}
    cell = dict(teacher=problem.name, n=problem.n, steps=problem.steps, part=part, seeds=f"{seeds[0]}-{seeds[-1]}", variant=title_of(name))
    return cell | _common.spread(kl[:, -1], "KL", "KL_least", "KL_largest") | dict(best_KL=float(kl.min("step").mean())) | times


def chosen_of(runs: dict[str, xarray.Dataset]) -> str:
    """Returns the name with the least mean KL at the end; NaN, a run that diverged, is never the least.

    >>> runs = {name: xarray.Dataset({"kl": (("seed", "step"), [[1.0, end]])}) for name, end in [("a", np.nan), ("b", 0.2), ("c", 0.3)]}
    >>> chosen_of(runs)
    'b'
    """
    return min(runs, key=lambda name: np.nan_to_num(float(runs[name].kl[:, -1].mean(skipna=False)), nan=np.inf))


def fastest_of(runs: dict[str, xarray.Dataset]) -> str:
    """Returns the name with the least median iterations to the middle threshold; of equal ones, the one with the least KL at the end."""

    def order(name):
        kl = runs[name].kl
        return float(_common.stays_below(kl, THRESHOLDS[1]).median()), float(kl[:, -1].mean())

    return min(runs, key=order)


def beats(ours: np.ndarray, other: np.ndarray) -> str:
    """Says whether every seed of ours is below every seed of the other, and the differences of seeds, which share their data.

    >>> beats(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    'below, bands apart (2 of 2 seeds lower, differences -2 to -2)'
    >>> beats(np.array([1.0, 3.5]), np.array([3.0, 4.0]))
    'bands overlap (2 of 2 seeds lower, differences -2 to -0.5)'
    """
    difference = ours - other
    lower = f"{int((difference < 0).sum())} of {len(ours)} seeds lower, differences {difference.min():.2g} to {difference.max():.2g}"
    apart = "below, bands apart" if ours.max() < other.min() else "above, bands apart" if ours.min() > other.max() else "bands overlap"
    return f"{apart} ({lower})"


def study(settings: Settings, folder: Path) -> dict[str, Any]:
    """Chooses the warm-up and the age factor of each shape on some seeds; compares the chosen, constants and our default on others."""
    rows, figures, sentences, choices = [], {}, [], []
    first, other = seeds_of(settings), seeds_of(settings, AWAY)
    for problem in problems(settings, "annealed"):

        def run(variant: Variant, seeds: range, part: str, problem=problem) -> xarray.Dataset:
            grid = product(seed=seeds)
            where = folder / problem.name / part / variant.name
            results = trained(problem, settings, grid, variant.method, variant.rates, where, variant.schedule)
            return along_seeds(results)

        paper = settings.preset == "paper"
        ages = (True, False) if paper else (True,)
        variants, best = {}, {}
        for shape in SHAPES if paper else QUICK_SHAPES:
            runs = {}
            for warmup in problem.warmups:
                for age in ages:
                    variant = annealed_variant(problem, shape, warmup, age)
                    variants[variant.name] = (variant, shape, warmup, age)
                    runs[variant.name] = run(variant, first, "choosing")
                    rows.append(annealed_row(problem, variant.name, first, runs[variant.name], "choosing"))
            best[shape] = chosen_of(runs), runs
        candidates = {name: results for _, runs in best.values() for name, results in runs.items()}
        choices.append((problem, variants, candidates))
        # The control is compared too, but cannot be chosen.
        competing = {name: results for name, results in candidates.items() if variants[name][1] != "reversed"}
        winner, fastest = chosen_of(competing), fastest_of(competing)
        _, shape, warmup, _ = variants[winner]
        compared_names = dict.fromkeys([*(name for name, _ in best.values()), fastest])
        compared = [*(variants[name][0] for name in compared_names), *constant_variants(problem)]
        compared.append(annealed_variant(problem, shape, warmup, False, default=True))
        results = {variant.name: run(variant, other, "telling") for variant in compared}
        rows += [annealed_row(problem, name, other, r, "telling") for name, r in results.items()]
        figures[f"annealed_{problem.name}"] = (annealed_figure(problem, winner, fastest, results), CAPTION.format(problem.name, len(other)))
        ends = {name: r.kl[:, -1].values for name, r in results.items()}
        against = [name for name in ends if name.startswith("constant_") or name == "default"]
        verdicts = "; ".join(f"{title_of(name)}: {beats(ends[winner], ends[name])}" for name in against)
        on_top = f"The default with it on top, against the default: {beats(ends[compared[-1].name], ends['default'])}."
        times = {name: float(_common.stays_below(r.kl, THRESHOLDS[1]).median()) for name, r in results.items()}
        slow = ", ".join(f"{times[name]:.0f} ({title_of(name)})" for name in against)
        speed = f"Fastest to KL {THRESHOLDS[1]:g} was {title_of(fastest)}: {times[fastest]:.0f} iterations, against {slow}."
        sentences.append(f"{problem.name}: chosen was {title_of(winner)}; KL at the end, against {verdicts}. {on_top} {speed}")
    figures["choosing"] = (choosing_figure(choices), CHOOSING.format(len(first)))
    return dict(
        title="Annealed restarts",
        about="MALA at the program's rates (all signs -1, h_x = 0.02) with p_R from 1 to 0 over a warm-up, with and without the factor "
        f"1 + 0.1 p_R / h_x on the neuron steps. Of each shape the cell with the least mean KL at the end on seeds {first[0]} to "
        f"{first[-1]}, and the fastest cell there, are compared on seeds {other[0]} to {other[-1]}, beside constant p_R and our default "
        "(its own steps and schedule, all signs -1). Means, least and largest over seeds; the variants share the data of a seed.",
        rows=rows, figures=figures, summary=" ".join(sentences),
        paper="Section 4 leaves annealed restarts, from high to low p_R, as future work; there are no numbers.",
        seeds=[*first, *other],
    )  # fmt: skip


def annealed_figure(problem: Problem, winner: str, fastest: str, results: dict[str, xarray.Dataset]) -> Figure:
    """Draws KL against iterations of the chosen, the constants and the default; and KL of all, at the end and at its least."""
    figure, ((curves, ends),) = _common.panels_of(1, 2, 4.6, width_ratios=[1, 0.9])
    on_top = next(name for name in results if name.startswith("default_"))
    shown = list(dict.fromkeys([winner, "constant_0", "constant_periodic_40", "constant_periodic_1", "default", on_top, fastest]))
    for i, name in enumerate(shown):
        kl = results[name].kl[:, 1:]
        form: dict[str, Any] = dict(markevery=charts.marks(kl.step.values, i), label=title_of(name).replace("p_R", "$p_R$"))
        _common.band(curves, kl.step, kl, i, alpha=0.1, **form)
    curves.set(xlabel="iteration", ylabel=_common.KL)
    charts.log_axis(curves.xaxis, [t for t in (20, 50, 100, 200, 500, 1000, 2000) if t <= problem.steps])
    charts.log_axis(curves.yaxis)
    curves.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    names, marks = list(results)[::-1], {fastest: " (fastest)"} | {winner: " (chosen)"}
    for y, name in enumerate(names):
        colour = charts.COLOURS[shown.index(name)] if name in shown else "0.45"
        kl = results[name].kl
        for values, offset, marker, fill, kind in (
            (kl[:, -1], 0.12, "o", colour, "at the end"),
            (kl.min("step"), -0.12, "s", "white", "least along training"),
        ):
            style: dict[str, Any] = dict(marker=marker, color=colour, markerfacecolor=fill, linestyle="none")
            ends.errorbar([float(values.mean())], [y + offset], xerr=reach(values), capsize=2, **style)
            if not y:  # the colours are those of the curves
                ends.plot([], [], label=kind, **style | dict(color="0.3", markerfacecolor="white" if fill == "white" else "0.3"))
    ends.set_yticks(range(len(names)), [title_of(name).replace("p_R", "$p_R$") + marks.get(name, "") for name in names], fontsize=6)
    low, high = ends.get_xlim()
    charts.log_axis(ends.xaxis, [m * 10.0**e for e in range(-4, 1) for m in (1, 1.5, 2, 3, 5, 7) if low <= m * 10.0**e <= high])
    ends.set_xlabel(_common.KL)
    ends.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    ends.grid(axis="x", color="0.9", linewidth=0.5)
    seeds = results[winner].sizes["seed"]
    what = f"{_common.named(problem.name)}, n = {charts.number(problem.n)}, MALA, all signs \u22121"
    figure.suptitle(f"{what}; mean of {seeds} seeds, bands and bars: least to largest", fontsize=8)
    return figure


def choosing_figure(choices: list[tuple]) -> Figure:
    """Draws KL at the end of all candidates on the seeds that choose, a panel for each teacher."""
    figure, panels = _common.panels_of(len(choices), 1, 2.6 * len(choices) + 0.4)
    for panel, (problem, variants, runs) in zip(panels[:, 0], choices, strict=True):
        kinds = list(dict.fromkeys((warmup, age) for _, _, warmup, age in variants.values()))
        shapes = list(dict.fromkeys(shape for _, shape, _, _ in variants.values()))
        for name, (_, shape, warmup, age) in variants.items():
            i, values = kinds.index((warmup, age)), runs[name].kl[:, -1]
            x, value = shapes.index(shape) + 0.16 * (i - (len(kinds) - 1) / 2), float(values.mean())
            label = f"warm-up {warmup}, {'with' if age else 'without'} age factor" if shape == shapes[0] else ""
            panel.errorbar([x], [value], reach(values), label=label, capsize=2, linestyle="none", **_common.look(i))
        ranges = {"reversed": "0 to 1", "exponential": "1 to 0.001"}
        panel.set_xticks(range(len(shapes)), [f"{shape.replace('_', ' ')}\n{ranges.get(shape, '1 to 0')}" for shape in shapes])
        panel.set(title=f"{_common.named(problem.name)}, n = {charts.number(problem.n)}", ylabel=f"KL at iteration {problem.steps} (nat)")
        charts.log_axis(panel.yaxis)
        panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


