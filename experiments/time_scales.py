"""Is training best when neurons and particles move on similar time scales? The claim of arXiv 2107.05134, swept.

    python -m experiments.time_scales --preset quick
    python -m experiments.time_scales --preset paper --dry-run
    python -m experiments.time_scales --preset paper --only claim

Six sweeps, each a folder under `--out` that survives a kill, a figure and a table:

    claim       KL against the ratio alpha, in both conventions of the step, for the projected and the MALA step, on both S^14 teachers
    restarts    alpha by the restart probability
    plane       the particle step by the neuron step, each over a factor of 100
    radius      the same plane where particles mix badly: the bimodal teacher with a radius of 30, 60 and 100
    factors     alpha with one factor changed at a time: the signs, the number of neurons, the number of particles
    large       alpha at n = 1e4
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates, rates_from_paper
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.engine import forecast, sweep
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import Grid, cross, product, zipped
from dualebm.sweeps.plan import plan_of
from experiments import report

STUDIES = ("claim", "restarts", "plane", "radius", "factors", "large")
TEACHERS = ("s14_monomodal", "s14_bimodal")
RATIOS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
ABOUT = {
    "claim": "KL against the ratio alpha, in both conventions of the step, for the projected and the MALA step.",
    "restarts": "The ratio alpha by the restart probability.",
    "plane": "The particles' step by the neurons' step.",
    "radius": "The same plane where particles mix badly: the bimodal teacher with larger radii.",
    "factors": "The ratio alpha with one factor changed at a time.",
    "large": "The ratio alpha with more data.",
}
PAPER = "training performs best when neurons and particles move on similar time scales (abstract)."
STEP_SIZE, BETA = 0.2, 10.0
"""The text's s and inverse temperature: particle_step 0.02 at alpha = 1, the authors' own."""

FACTORS = (2, 4)
"""Of the least median KL at the end: the thresholds to which times are told."""

PRODUCTS = {"projected": 5, "mala": 6}
"""Products of N m d numbers that an iteration takes: two for the gradient at each point at which it is evaluated, the witness (one
more, or two where the products at the new points are not known) and the data's sums (two of N / 2)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (minutes) or paper (n = 1e3, 3000 iterations; about an hour on two cores)."""
    only: tuple[str, ...] = STUDIES
    """Which of claim, restarts, plane, radius, factors, large."""
    seeds: int | None = None
    """Runs of each cell, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    steps: int | None = None
    """Iterations of a run."""
    test_points: int = 10_000
    """Fresh draws of the teacher for the KL."""
    dry_run: bool = False
    """Print the lanes and the predicted time of each study, from a run of each kind that is timed, and stop."""
    out: Path = Path("results/time_scales")
    """Where results and figures are written."""


class Study(NamedTuple):
    """A sweep: its lanes, the rest of what `sweep` asks for, and what draws it."""

    grid: Grid
    method: Any
    rates: Callable
    steps: int
    every: int
    draw: Callable


def target(teacher: str = "s14_monomodal", radius: float = BETA) -> targets.Target:
    """The teacher, with weights of minus its radius."""
    known = targets.teacher(teacher)
    return targets.planted(known.energy.positions, [-radius] * known.energy.positions.shape[0], name=teacher)


def data(key, teacher="s14_monomodal", n=1000, radius=BETA) -> Samples:
    """n points of the teacher."""
    return targets.sample(key, target(teacher, radius), n)[0]


class ModeMass(eqx.Module):
    """The mass that the particles give to the side of the first planted neuron, less that of the teacher's test points."""

    direction: jax.Array
    expected: jax.Array
    long_name: ClassVar[str] = "mass of the first mode, less the teacher's"
    units: ClassVar[str] = "1"

    def __call__(self, key, iterate):
        """The difference, a scalar in [-1, 1]."""
        return jnp.mean((self.direction @ iterate.state.columns > 0).astype(self.direction.dtype)) - self.expected


def monitors(count: int) -> Callable:
    """The metrics of a lane by its settings."""

    def made(key, teacher="s14_monomodal", radius=BETA):
        planted = target(teacher, radius)
        test = targets.sample(key, planted, count)[0]
        first, second = planted.energy.positions
        between = first - second
        mass = jnp.mean((test.points @ between > 0).astype(between.dtype))
        return {
            "kl": metrics.KLDivergence(planted.energy, test),
            "total_variation": metrics.TotalVariation(),
            "acceptance": metrics.Acceptance(),
            "mode_mass": ModeMass(between, mass),
        }

    return made


def paper_rates(ratio, scale="particle", restart_probability=0.0, radius=BETA) -> DualRates:
    """Of the text's alpha."""
    return rates_from_paper(STEP_SIZE, ratio, radius, restart_probability, scale)


def step_rates(particle_step, neuron_step, radius=BETA) -> DualRates:
    """Of the two steps themselves."""
    return DualRates(particle_step, neuron_step, neuron_step, 0.0, radius)


def studies(settings: Settings) -> dict[str, Study]:
    """The studies that were asked for. Raises ValueError naming the setting.

    >>> len(studies(Settings(preset="paper"))["claim"].grid["seed"])
    576
    """
    checks.choice("preset", settings.preset, report.PRESETS)
    for name in settings.only:
        checks.choice("only", name, STUDIES)
    for name in ("seeds", "steps", "test_points"):
        if getattr(settings, name) is not None:
            checks.count(name, getattr(settings, name))
    checks.count("first_seed", settings.first_seed, 0)
    paper = settings.preset == "paper"
    steps = settings.steps or (3000 if paper else 240)
    every = 50 if paper else 20
    if steps % every:
        raise ValueError(f"steps is {steps}; it must be a multiple of {every}")
    ratios = RATIOS if paper else RATIOS[::2]
    seeds = lambda count: range(settings.first_seed, settings.first_seed + (settings.seeds or (count if paper else 2)))  # noqa: E731
    base = Dual(Sphere(15), signs="all_negative")
    kinds = dict(integrator=list(PRODUCTS))
    teachers, scales = dict(teacher=list(TEACHERS)), dict(scale=["particle", "fast"])
    five = lambda low: [float(f"{low * 10 ** (i / 2):.3g}") for i in range(5)]  # noqa: E731
    particle_steps, neuron_steps = five(0.001), five(0.05)
    if not paper:
        particle_steps, neuron_steps = particle_steps[::2], neuron_steps[::2]
    changed = [dict(signs="half"), *(dict(neurons=m) for m in ((8, 16, 256, 1024) if paper else (16,)))]
    changed += [dict(particles=count) for count in ((100, 500, 20_000, 200_000) if paper else (100,))]
    common = dict(signs="all_negative", neurons=64, particles=2000)
    one_at_a_time = [common | change for change in [{}, *changed]]
    factor = ["none", *(f"{k} = {v}" for change in changed for k, v in change.items())]
    factors = zipped(**{name: [lane[name] for lane in one_at_a_time] for name in common}, factor=factor)
    factors = cross(factors, product(ratio=RATIOS[::2], seed=seeds(2)))
    # N = 2e5 takes most of the time: it has the ends and the middle of alpha alone.
    kept = [i for i, count in enumerate(factors["particles"]) if count < 200_000 or factors["ratio"][i] in RATIOS[::4]]
    factors = zipped(**{name: [values[i] for i in kept] for name, values in factors.items()})
    table = {
        "claim": Study(
            product(**teachers, **scales, **kinds, ratio=ratios, seed=seeds(8)), base, paper_rates, steps, every, draw_claim
        ),
        "restarts": Study(
            product(ratio=ratios, restart_probability=[0.0, 0.001, 0.01, 0.025, 0.1, 1.0], seed=seeds(4)),
            base, paper_rates, steps, every, draw_restarts,
        ),
        "plane": Study(
            product(**kinds, particle_step=particle_steps, neuron_step=neuron_steps, seed=seeds(4)),
            base, step_rates, steps, every, draw_plane,
        ),
        "radius": Study(
            product(
                teacher=["s14_bimodal"], radius=[30.0, 60.0, 100.0], particle_step=particle_steps, neuron_step=neuron_steps,
                seed=seeds(3),
            ),
            base, step_rates, steps, every, draw_radius,
        ),
        "factors": Study(
            factors,
            lambda factor: base, paper_rates, steps, every, draw_factors,
        ),
        "large": Study(
            product(n=[10_000 if paper else 4000], **kinds, ratio=ratios, seed=seeds(3)), base, paper_rates, steps, every, draw_large
        ),
    }  # fmt: skip
    return {name: table[name] for name in settings.only}


def arguments(settings: Settings, study: Study) -> dict:
    """What `sweep` is called with."""
    return dict(
        method=study.method, rates=study.rates, data=data, metrics=monitors(settings.test_points), steps=study.steps, every=study.every
    )


# -- Reading a sweep -----------------------------------------------------------------------------------


def first_below(kl: xarray.DataArray, threshold) -> xarray.DataArray:
    """The iteration of the record from which the KL stays within the threshold; inf where it never does.

    >>> kl = xarray.DataArray([3.0, 0.5, 2.0, 0.9, 0.8], {"step": [0, 1, 2, 3, 4]}, "step")
    >>> float(first_below(kl, 1.0)), float(first_below(kl, 0.1))
    (3.0, inf)
    """
    outside = ~(kl <= threshold)  # NaN is outside
    last = xarray.where(outside, kl.step, -1).max("step")
    after = kl.step.where(kl.step > last).min("step")
    return after.fillna(np.inf)


def _times(kl: xarray.DataArray, floor: float) -> dict[str, float]:
    """The thresholds, and the median over seeds of the iterations to each."""
    thresholds = {f"KL_{factor}": factor * floor for factor in FACTORS}
    return {**thresholds, **{f"to_KL_{factor}": float(first_below(kl, factor * floor).median()) for factor in FACTORS}}


def floor_of(final: xarray.DataArray) -> float:
    """The least median KL over seeds at the end of any cell."""
    return float(final.median("seed").min())


def band(panel, x, values: xarray.DataArray, label: str, i: int) -> None:
    """The median over seeds, with their minimum to maximum; what never arrives is left out of the line."""
    median, low, high = values.median("seed"), values.min("seed"), values.max("seed")
    finite = lambda a: np.where(np.isfinite(a), a, np.nan)  # noqa: E731
    colour = charts.COLOURS[i % len(charts.COLOURS)]
    panel.plot(x, finite(median), marker=charts.MARKERS[i % len(charts.MARKERS)], color=colour, label=label)
    panel.fill_between(x, finite(low), finite(high), color=colour, alpha=0.2, linewidth=0)


def ratio_axis(panel, label: bool = True, both: bool = True) -> None:
    """alpha of the text on the axis below; of the program (ball of radius beta, temperature 1), beta times it, above."""
    charts.log_axis(panel.xaxis, RATIOS[::2])
    panel.set_xlim(RATIOS[0] / 1.2, RATIOS[-1] * 1.2)
    if label:
        panel.set_xlabel("alpha of the text (beta = 10)")
    if both:
        above = panel.secondary_xaxis("top", functions=(lambda x: BETA * x, lambda x: x / BETA))
        charts.log_axis(above.xaxis, [BETA * ratio for ratio in RATIOS[::2]])
        above.set_xlabel("h_theta / h_x (alpha at beta = 1)")


def heat(figure, panel, cells: xarray.DataArray, x: str, y: str, label: str, norm, missing: str = "diverged") -> None:
    """A table of cells as colours, each with its number, or the word for one that has none."""
    values = cells.transpose(y, x).values
    image = panel.imshow(np.where(np.isfinite(values), values, np.nan), origin="lower", aspect="auto", cmap="viridis_r", norm=norm)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        shade = image.norm(value) if np.isfinite(value) else 0
        text = (f"{value:.0f}" if value >= 100 else f"{value:.2g}") if np.isfinite(value) else missing
        panel.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if shade > 0.55 else "black")
    for axis, name, names in ((panel.xaxis, x, cells[x]), (panel.yaxis, y, cells[y])):
        axis.set_ticks(range(len(names)), [f"{float(v):.2g}" for v in names.values], fontsize=6)
        axis.set_label_text({"ratio": "alpha", "restart_probability": "p_R"}.get(name, name.replace("_", " ")))
    charts.log_axis(figure.colorbar(image, ax=panel, label=label).ax.yaxis)


def log_norm(values) -> LogNorm:
    """From the least to the largest finite positive value; any scale where there is none."""
    finite = np.asarray(values)[np.isfinite(values) & (np.asarray(values) > 0)]
    return LogNorm(finite.min(), finite.max()) if finite.size else LogNorm(1, 10)


# -- Figures -------------------------------------------------------------------------------------------


def draw_claim(results: xarray.Dataset) -> tuple[dict[str, Figure], list[dict]]:
    """Of each teacher: curves of KL by alpha; the KL at the end, and iterations and work to thresholds, against alpha."""
    kl = by_setting(results, ("teacher", "scale", "integrator", "ratio", "seed")).kl
    figures, rows = {}, []
    for teacher in kl.teacher.values:
        curves = Figure(figsize=(7.0, 5.2), layout="constrained")
        panels = curves.subplots(2, 4, sharey=True, squeeze=False)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, kl.sizes["ratio"]))
        for row, scale in enumerate(kl.scale.values):
            for column, (integrator, work) in enumerate((k, w) for w in (False, True) for k in kl.integrator.values):
                panel = panels[row, column]
                for colour, ratio in zip(colours, kl.ratio.values, strict=True):
                    values = kl.sel(teacher=teacher, scale=scale, integrator=integrator, ratio=ratio)[..., 1:]
                    x = values.step * (PRODUCTS[str(integrator)] if work else 1)
                    panel.plot(x, values.mean("seed"), color=colour, label=f"{ratio:g}", linewidth=1)
                    panel.fill_between(x, values.min("seed"), values.max("seed"), color=colour, alpha=0.12, linewidth=0)
                panel.set_title(f"{integrator}\n{'particle' if scale == 'particle' else 'faster'} step fixed", fontsize=7)
                charts.log_axis(panel.xaxis, [10.0**i for i in range(6) if x[0] <= 10**i <= x[-1]])
                charts.log_axis(panel.yaxis)
                if row:
                    panel.set_xlabel("work (products of N m d)" if work else "iteration")
                if not column:
                    panel.set_ylabel("KL(teacher || student) (nat)")
        curves.legend(*panels[0, 0].get_legend_handles_labels(), title="alpha", loc="outside right center")
        figures[f"claim_{teacher}_curves"] = curves
    for teacher in kl.teacher.values:
        floor = floor_of(kl.sel(teacher=teacher)[..., -1])
        summary = Figure(figsize=(7.0, 5.2), layout="constrained")
        panels = summary.subplots(2, 2)
        for i, (integrator, scale) in enumerate((k, s) for k in kl.integrator.values for s in kl.scale.values):
            one = kl.sel(teacher=teacher, integrator=integrator, scale=scale)
            label = f"{integrator}, {'particle step fixed' if scale == 'particle' else 'faster step fixed'}"
            near, far = (first_below(one, factor * floor) for factor in FACTORS)
            shown = (one[..., -1], near * PRODUCTS[str(integrator)], near, far)
            for panel, values in zip(panels.flat, shown, strict=True):
                band(panel, one.ratio, values.transpose("ratio", "seed"), label, i)
            for ratio in one.ratio.values:
                at = one.sel(ratio=ratio)
                rows.append(dict(
                    teacher=str(teacher), integrator=str(integrator), scale=str(scale), alpha=float(ratio), final=float(at[:, -1].mean()),
                    least=float(at[:, -1].min()), largest=float(at[:, -1].max()), **_times(at, floor),
                ))  # fmt: skip
        near, far = (f"KL {factor * floor:.2g}" for factor in FACTORS)
        titles = ("KL at the end (nat)", f"work to {near} (products of N m d)", f"iterations to {near}", f"iterations to {far}")
        for i, (panel, title) in enumerate(zip(panels.flat, titles, strict=True)):
            ratio_axis(panel, label=i > 1, both=i < 2)
            charts.log_axis(panel.yaxis)
            panel.set_ylabel(title)
        summary.suptitle(str(teacher))
        summary.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figures[f"claim_{teacher}"] = summary
    return figures, rows


def _cells(kl: xarray.DataArray, names: tuple[str, ...]) -> list[dict]:
    """A row for each cell: KL at the end, its least and largest over seeds, iterations to the thresholds."""
    floor = floor_of(kl[..., -1])
    stacked = kl.stack(cell=names)
    rows = []
    for cell in stacked.cell.values:
        at = stacked.sel(cell=cell).transpose("seed", "step")
        final = at[:, -1]
        said = {n: (v.item() if hasattr(v, "item") else v) for n, v in zip(names, cell, strict=True)}
        rows.append(said | dict(
            final=float(final.mean()), least=float(final.min()), largest=float(final.max()),
            **_times(at, floor),
        ))  # fmt: skip
    return rows


def _two_maps(kl: xarray.DataArray, x: str, y: str, title: str) -> Figure:
    """The KL at the end and the iterations to twice its floor, as maps."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    panels = figure.subplots(1, 2)
    final = kl[..., -1].median("seed")
    times = first_below(kl, 2 * floor_of(kl[..., -1])).median("seed")
    heat(figure, panels[0], final, x, y, "KL at the end (nat), median", log_norm(final))
    heat(figure, panels[1], times, x, y, f"iterations to KL {2 * floor_of(kl[..., -1]):.2g}, median", log_norm(times), "never")
    figure.suptitle(title)
    return figure


def draw_restarts(results):
    """The phase diagram alpha x p_R."""
    kl = by_setting(results, ("ratio", "restart_probability", "seed")).kl
    figure = _two_maps(kl, "ratio", "restart_probability", "S^14 monomodal, MALA, n = 1000")
    return {"restarts": figure}, _cells(kl, ("ratio", "restart_probability"))


def draw_plane(results):
    """Particle step x neuron step, for each integrator."""
    kl = by_setting(results, ("integrator", "particle_step", "neuron_step", "seed")).kl
    figures, rows = {}, []
    for integrator in kl.integrator.values:
        one = kl.sel(integrator=integrator, drop=True)
        figures[f"plane_{integrator}"] = _two_maps(one, "particle_step", "neuron_step", f"S^14 monomodal, {integrator}, n = 1000")
        rows += [dict(integrator=str(integrator)) | row for row in _cells(one, ("particle_step", "neuron_step"))]
    return figures, rows


def draw_radius(results):
    """The plane where particles mix badly: KL, and the error of the mode's mass among the particles."""
    found = by_setting(results, ("radius", "particle_step", "neuron_step", "seed"))
    figure = Figure(figsize=(7.0, 7.6), layout="constrained")
    panels = figure.subplots(found.sizes["radius"], 2, squeeze=False)
    rows = []
    for row, radius in enumerate(found.radius.values):
        one = found.sel(radius=radius, drop=True)
        final = one.kl[..., -1].median("seed")
        error = np.abs(one.mode_mass[..., -1]).median("seed")
        heat(figure, panels[row, 0], final, "particle_step", "neuron_step", "KL at the end (nat)", log_norm(final))
        heat(figure, panels[row, 1], error, "particle_step", "neuron_step", "error of a mode's mass, particles", log_norm(error))
        panels[row, 0].set_title(f"radius {radius:g}", fontsize=7, loc="left")
        rows += [dict(radius=float(radius)) | row for row in _cells(one.kl, ("particle_step", "neuron_step"))]
    figure.suptitle("S^14 bimodal, MALA, n = 1000, median over seeds")
    return {"radius": figure}, rows


def draw_factors(results):
    """KL at the end and iterations to twice the floor of each, against alpha, one factor changed at a time: above of the neurons, below of
    the particles."""
    names = list(dict.fromkeys(str(name) for name in results.factor.values))
    of_particles = [name for name in names if name.startswith("particles")]
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 2)
    rows = []
    for row, chosen in enumerate(([name for name in names if name not in of_particles], ["none", *of_particles])):
        for i, name in enumerate(chosen):
            lanes = results.isel(lane=np.flatnonzero(results.factor.values == name))
            kl = lanes.kl.drop_vars([c for c in lanes.coords if c not in ("ratio", "seed", "step", "lane")])
            kl = by_setting(kl.to_dataset(), ("ratio", "seed")).kl.transpose("ratio", "seed", "step")
            if (row, name) != (1, "none"):
                rows += [dict(factor=name) | found for found in _cells(kl, ("ratio",))]
            label = {"none": ("neurons = 64", "particles = 2000")[row]}.get(name, name)
            band(panels[row, 0], kl.ratio, kl[..., -1], label, i)
            band(panels[row, 1], kl.ratio, first_below(kl, 2 * floor_of(kl[..., -1])), label, i)
        for panel, title in zip(panels[row], ("KL at the end (nat)", "iterations to twice the least of each"), strict=True):
            ratio_axis(panel, label=row == 1, both=row == 0)
            charts.log_axis(panel.yaxis)
            panel.set_ylabel(title)
        panels[row, 0].legend(fontsize=6)
    return {"factors": figure}, rows


def draw_large(results):
    """n = 1e4: KL at the end and iterations to twice its floor, against alpha."""
    kl = by_setting(results, ("integrator", "ratio", "seed")).kl
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    panels = figure.subplots(1, 2)
    floor = floor_of(kl[..., -1])
    for i, integrator in enumerate(kl.integrator.values):
        one = kl.sel(integrator=integrator)
        band(panels[0], one.ratio, one[..., -1], str(integrator), i)
        band(panels[1], one.ratio, first_below(one, 2 * floor), str(integrator), i)
    for panel, title in zip(panels, ("KL at the end (nat)", f"iterations to KL {2 * floor:.2g}"), strict=True):
        ratio_axis(panel)
        charts.log_axis(panel.yaxis)
        panel.set_ylabel(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"large": figure}, _cells(kl, ("integrator", "ratio"))


# -- The command -----------------------------------------------------------------------------------------


def main(settings: Settings) -> None:
    """Runs the studies, prints their tables, and writes results, figures and `summary.json`."""
    chosen = studies(settings)
    if settings.dry_run:
        total = 0.0
        for name, study in chosen.items():
            found = forecast(plan_of(study.grid, **arguments(settings, study)))
            lanes, seconds = sum(group.lanes for group in found), sum(group.seconds for group in found)
            total += seconds
            print(f"{name:10} {lanes:5} lanes of {study.steps} iterations, about {seconds / 60:.1f} minutes")
        print(f"about {total / 60:.0f} minutes in all, on {jax.devices()[0].device_kind}")
        return
    for name, study in chosen.items():
        folder = settings.out / f"{settings.preset}_{name}"
        begin = time.perf_counter()
        results = sweep(study.grid, **arguments(settings, study), folder=folder, progress=sys.stderr.isatty()).load()
        seconds = time.perf_counter() - begin
        with matplotlib.rc_context(charts.STYLE):
            figures, rows = study.draw(results)
        one = dataclasses.replace(settings, only=(name,))
        report.write(
            folder, title=f"Time scales: {name}", about=f"{results.sizes['lane']} runs. {ABOUT[name]}", seconds=seconds, rows=rows,
            command=report.command("time_scales", one), figures=figures, paper=PAPER,
        )  # fmt: skip


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
