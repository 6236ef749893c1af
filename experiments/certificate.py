"""Within how many nats of the best F1 energy is a run? The duality gap along training, beside the true distance.

    python -m experiments.certificate --preset quick
    python -m experiments.certificate --preset paper
    python -m experiments.certificate --preset paper --teachers s2_bimodal

Our default (signs half and half, and all -1), the authors' program and, in the paper preset, score matching. At a few iterations the
duality gap against the full ball of radius 10 (arXiv 2107.05134, Theorem 1), which needs no teacher and no log Z: on S^14 estimated from
annealed samples of the model, with its standard error; on S^2 by quadrature. Beside it L(f_t) - L*, which needs the teacher, so that
L(f_t) - L* <= gap is seen; L* is the least loss found, by any run and by descent on L itself from where the default ends. And the gap that
one would read off the particles of the training in place of samples of the model. At the end a run that its certificate stops.

Each run is a folder under `--out` from which the same command continues.
"""

import dataclasses
import math
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
from matplotlib.figure import Figure

from dualebm import duality_gap, measures, metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.duality_gap import Certificate, certify
from dualebm.energies.shallow import Energy, Shallow, feature_mean, from_atoms
from dualebm.features import ReLU
from dualebm.measures import Samples
from dualebm.methods import dual
from dualebm.methods.base import Info
from dualebm.methods.dual import Dual
from dualebm.methods.score_matching import ScoreMatching
from dualebm.plotting import charts
from dualebm.training.run import run
from experiments import _common, report

SIZES = {
    "quick": dict(n=2000, seeds=1, chains=5000, final_chains=40_000, test_points=50_000),
    "paper": dict(n=10_000, seeds=2, chains=60_000, final_chains=400_000, test_points=200_000),
}
"""Of the settings that a preset decides."""

TEACHERS = ("s14_monomodal", "s2_bimodal")
RADIUS, TOLERANCE = 10.0, 0.1
EVERY = 20
"""Iterations between records."""

STEPS = {
    ("quick", "s14_monomodal"): (400, 800), ("quick", "s2_bimodal"): (1000, 1000),
    ("paper", "s14_monomodal"): (2000, 4000), ("paper", "s2_bimodal"): (4000, 4000),
}  # fmt: skip
"""Iterations of our default, and of the authors' program and score matching."""

CERTIFIED = {"quick": 5, "paper": 8}
"""Iterations at which a run is certified, evenly in their logarithm."""

NODES = {"quick": 60, "paper": 100}
"""Heights of the quadrature on S^2."""

DESCENT = {"quick": 200, "paper": 1000}
"""Iterations of the descent on L."""

DRAWS = {"quick": 20_000, "paper": 100_000}
"""Samples of the teacher for the descent on S^14."""

METHODS = {"quick": 3, "paper": 4}
"""How many of the lines."""

LEAST = "descent on L"
LINES = ("default, half", "default, all -1", "program, all -1", "score matching, half")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 2e3 on S^14) or paper (n = 1e4); n = 1000 on S^2."""
    teachers: tuple[str, ...] = TEACHERS
    """Which of s14_monomodal, s2_bimodal."""
    n: int | None = None
    """Data points on S^14."""
    seeds: int | None = None
    """Runs of each method on S^14; twice as many on S^2."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    steps: int | None = None
    """Iterations of every run, in place of those of the preset."""
    chains: int | None = None
    """Annealed chains of a half of the estimate along training, on S^14."""
    final_chains: int | None = None
    """The same, at the end of a run."""
    test_points: int | None = None
    """Exact draws of the teacher on S^14, for KL and loss."""
    out: Path = Path("results/certificate")
    """Where results and figures are written."""


class Line(NamedTuple):
    """A method with its rates, schedule and iterations."""

    method: Any
    rates: Any
    schedule: Callable | None
    steps: int


def checked(settings: Settings) -> Settings:
    """The settings with the values of the preset. Raises ValueError naming what is not allowed.

    >>> checked(Settings()).n
    2000
    """
    _common.check(settings)
    for name in settings.teachers:
        checks.choice("teachers", name, TEACHERS)
    if not settings.teachers:
        raise ValueError("teachers is empty; it must have at least one")
    if settings.steps is not None and settings.steps % EVERY:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of {EVERY}")
    given = {name: value for name, value in vars(settings).items() if value is not None}
    return Settings(**{**SIZES[settings.preset], **given})


def lines(settings: Settings, teacher: str) -> dict[str, Line]:
    """The methods by label.

    >>> list(lines(checked(Settings()), "s2_bimodal"))
    ['default, half', 'default, all -1', 'program, all -1']
    """
    space = targets.teacher(teacher).space
    ours, theirs = (settings.steps,) * 2 if settings.steps else STEPS[settings.preset, teacher]
    schedule, neuron_step = (dual.annealing(), 0.2) if space.dimension == 15 else (dual.annealing(400, 0.5), 0.04)
    half, negative, program = Dual(space), Dual(space, signs="all_negative"), dual.program(space)
    score = ScoreMatching(space)
    found = (
        Line(half, half.rates, schedule, ours),
        Line(negative, negative.rates, schedule, ours),
        Line(program, dual.program_rates(neuron_step=neuron_step), None, theirs),
        Line(score, score.rates, None, theirs),
    )
    return dict(list(zip(LINES, found, strict=True))[: METHODS[settings.preset]])


def certified_at(steps: int, count: int) -> tuple[int, ...]:
    """`count` iterations or fewer, multiples of `EVERY` evenly in their logarithm, the last `steps`.

    >>> certified_at(400, 4)
    (20, 60, 140, 400)
    """
    return tuple(sorted({EVERY * round(x) for x in np.geomspace(1, steps // EVERY, count)}))


# -- What is recorded ----------------------------------------------------------------------------------


class At(eqx.Module):
    """A metric at some iterations, NaN at the others."""

    metric: Callable
    iterations: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, key, iterate):
        """As the metric."""
        made = lambda: self.metric(key, iterate)  # noqa: E731
        shape = jax.eval_shape(made)
        none = lambda: jnp.full(shape.shape, jnp.nan, shape.dtype)  # noqa: E731
        return jax.lax.cond(jnp.any(iterate.state.step == jnp.array(self.iterations)), made, none)


def positions(key, iterate):
    """Of the neurons."""
    del key
    return iterate.energy.positions


def coefficients(key, iterate):
    """Of the neurons."""
    del key
    return iterate.energy.coefficients


def particles(key, iterate):
    """Of the training."""
    del key
    return iterate.state.particles


class Excess(eqx.Module):
    """L(f) - L(f*) = E_data r + log E* exp(-r), r = f - f*, and its standard error over samples of the teacher (0 by quadrature).

    It holds L = E_data f + log Z to the digits that a difference of losses needs: log Z = log Z* + log E* exp(-r).
    """

    teacher: Energy
    samples: Samples
    reference: jax.Array
    long_name: ClassVar[str] = "loss less that of the teacher's energy"
    units: ClassVar[str] = "nat"

    def __init__(self, teacher: Energy, samples: Samples):
        self.teacher, self.samples, self.reference = teacher, samples, teacher(samples.points)

    def __call__(self, key, iterate):
        """The excess and its error, (2,)."""
        energy = iterate.energy
        difference = energy(self.samples.points) - self.reference
        log_ratio = metrics.relative_entropy(energy, self.reference, self.samples) - measures.mean(difference, self.samples.log_weights)
        error = jnp.zeros_like(log_ratio)
        if self.samples.log_weights is None:
            error = jnp.std(jnp.exp(-difference - log_ratio)) / math.sqrt(difference.size)
        return jnp.stack([jnp.mean(energy(iterate.data.points) - self.teacher(iterate.data.points)) + log_ratio, error])


@dataclasses.dataclass(frozen=True)
class Descent(Dual):
    """`Dual` with the model's own mean in place of that of its particles: descent on L, of which it finds the least.

    The model is known from the teacher: on S^2 by its quadrature, elsewhere by exact samples of it (the particles, which stay) reweighted.
    """

    teacher: str = "s2_bimodal"

    def step(self, key, state, rates, data):
        """Atoms along the gradient of L."""
        del key
        target, energy = targets.teacher(self.teacher, data.points.dtype), from_atoms(self.feature, state.atoms)
        if self.space.dimension == 3:
            nodes: Any = target.quadrature(data.points.dtype)
        else:
            nodes = Samples(state.particles, target.energy(state.particles))
        model = Samples(nodes.points, nodes.log_weights - energy(nodes.points))
        witness = jax.tree.map(
            jnp.subtract, *(feature_mean(self.feature, energy.positions, seen) for seen in (model, data))
        )
        atoms, _ = self.update_atoms(state.atoms, witness, rates)
        return state._replace(atoms=atoms, step=state.step + 1), Info()


# -- Runs ------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """Of a teacher and a seed: data, key, test samples with f* there, and a quadrature of the base measure where there is one."""

    target: targets.Target
    data: Samples
    key: Any
    test: Samples
    reference: jax.Array
    quadrature: Samples | None


def scene(settings: Settings, teacher: str, seed: int) -> Scene:
    """Data and test points of a seed."""
    target = targets.teacher(teacher)
    key, data_key, test_key = jax.random.split(jax.random.key(seed), 3)
    on_plane = target.space.dimension == 3
    data, _ = targets.sample(data_key, target, 1000 if on_plane else settings.n)  # type: ignore[arg-type]
    quadrature = target.quadrature(nodes=NODES[settings.preset]) if on_plane else None
    if quadrature is not None:
        test = metrics.exact_samples(target.energy, quadrature)
    else:
        test, _ = targets.sample(test_key, target, settings.test_points)  # type: ignore[arg-type]
    return Scene(target, data, key, test, target.energy(test.points), quadrature)


compiled = eqx.filter_jit(certify), eqx.filter_jit(duality_gap.relaxation)
"""One program for the energies of all methods."""


def known_gap(found: Scene, energy: Shallow, ball: str = "full"):
    """The gap and its error with what a user lacks: a quadrature, or samples of the teacher, made the model's by exp(f* - f)."""
    model = None if found.quadrature is not None else Samples(found.test.points, found.reference - energy(found.test.points))
    key, space = jax.random.fold_in(found.key, 2), found.target.space
    made = compiled[0](key, energy, space, found.data, RADIUS, quadrature=found.quadrature, model=model, ball=ball)
    return made.gap, made.error


def gaps(settings: Settings, found: Scene, records: xarray.Dataset, at: tuple[int, ...], negative: bool) -> dict[str, np.ndarray]:
    """The certificates of a run at the iterations: gap (k, 2); from its particles (k, 3), with the change of their mean energy in standard
    errors; at the end by the final chains, from the teacher's samples and against the negative cone (2,)."""
    space, relaxed = found.target.space, found.quadrature is None
    made: dict[str, Any] = {"gap": [], "particles": []}
    energy: Any = None
    for i in at:
        record = records.sel(step=i)
        energy = Shallow(ReLU(), jnp.asarray(record.positions.values), jnp.asarray(record.coefficients.values))
        key = jax.random.fold_in(found.key, i)
        chains = (settings.final_chains if i == at[-1] else settings.chains) or 0  # the preset's, never None
        one = compiled[0](key, energy, space, found.data, RADIUS, quadrature=found.quadrature, chains=chains)
        made["gap"].append((one.gap, one.error))
        if "particles" in record:
            cloud = Samples(jnp.asarray(record.particles.values))
            one, rest = compiled[0](key, energy, space, found.data, RADIUS, model=cloud), compiled[1](key, energy, space, cloud)
            made["particles"].append((one.gap, one.error, (rest.after - rest.before) / rest.error))
    if relaxed:
        made["known"] = known_gap(found, energy)
    if negative:
        made["negative"] = known_gap(found, energy, "negative")
    return {name: np.array(values, np.float64) for name, values in made.items()}


class Run(NamedTuple):
    """Of a method and a seed: step, kl and excess by record; the iterations that are certified, and what `gaps` made of them."""

    step: np.ndarray
    kl: np.ndarray
    excess: np.ndarray
    at: tuple[int, ...]
    gaps: dict[str, np.ndarray]


def trained(settings: Settings, teacher: str, found: Scene, label: str, line: Line, seed: int, start=None, at=None) -> tuple[Any, Run]:
    """A run and its certificates, from the folder where they are known."""
    print(f"{teacher}, seed {seed}: {label}", file=sys.stderr)
    at = certified_at(line.steps, CERTIFIED[settings.preset]) if at is None else at
    monitors: dict[str, Any] = {
        "kl": metrics.KLDivergence(found.target.energy, found.test), "excess": Excess(found.target.energy, found.test),
        "positions": positions, "coefficients": coefficients,
    }  # fmt: skip
    if isinstance(line.method, Dual) and start is None:
        monitors["particles"] = At(particles, at)
    folder = settings.out / f"{settings.preset}_{teacher}" / f"{label.replace(', ', '_').replace(' ', '_')}_{seed}"
    state, records = run(
        found.key, line.method, line.rates, found.data, steps=line.steps, every=EVERY, schedule=line.schedule, metrics=monitors,
        state=start, folder=folder, progress=sys.stderr.isatty(),
    )  # fmt: skip
    path = folder / f"gaps_{settings.chains}_{settings.final_chains}.npz"
    if not path.exists():
        made: Any = gaps(settings, found, records, at, getattr(line.method, "signs", "half") == "all_negative")
        np.savez(folder / "partial.npz", **made)
        (folder / "partial.npz").replace(path)
    with np.load(path) as made:
        known = {name: made[name] for name in made.files}
    return state, Run(records.step.values, records.kl.values, records.excess.values, at, known)


def least(settings: Settings, teacher: str, found: Scene, start, seed: int) -> Run:
    """The descent on L from the end of our default."""
    points = start.particles
    if found.quadrature is None:
        points = targets.sample(jax.random.fold_in(found.key, 1), found.target, DRAWS[settings.preset])[0].points
    steps = min(DESCENT[settings.preset], settings.steps or DESCENT[settings.preset])
    method = Descent(found.target.space, particles=points.shape[0], teacher=teacher)
    rates = method.rates._replace(transport_step=method.rates.transport_step / 2, reaction_step=method.rates.reaction_step / 2)
    start = start._replace(columns=points.T, step=jnp.int32(0))
    return trained(settings, teacher, found, LEAST, Line(method, rates, None, steps), seed, start, (steps,))[1]


def measured(settings: Settings, teacher: str, chosen: dict[str, Line]) -> dict[tuple[str, int], Run]:
    """The runs of every method and seed, and of the descent on L."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds * (2 if teacher == "s2_bimodal" else 1))  # type: ignore[operator]
    results = {}
    for seed in seeds:
        found, start = scene(settings, teacher, seed), None
        for label, line in chosen.items():
            state, results[label, seed] = trained(settings, teacher, found, label, line, seed)
            start = state if start is None else start
        results[LEAST, seed] = least(settings, teacher, found, start, seed)
    return results


def stopped(settings: Settings, teacher: str, line: Line) -> xarray.Dataset:
    """The records of a method that ends where its certificate is within the tolerance."""
    found = scene(settings, teacher, settings.first_seed)
    gap = metrics.DualityGap(found.target.space, found.quadrature, chains=settings.chains or 0)
    _, results = run(
        found.key, line.method, line.rates, found.data, steps=line.steps, every=EVERY, schedule=line.schedule, segment=2, progress=False,
        metrics={"gap": gap, "kl": metrics.KLDivergence(found.target.energy, found.test)},
        folder=settings.out / f"{settings.preset}_{teacher}" / "stopped", stop=duality_gap.within(TOLERANCE),
    )  # fmt: skip
    return results


# -- Reading the runs ----------------------------------------------------------------------------------


class Reading(NamedTuple):
    """Of a method: kl and distance L - L* (seed, step); the iterations that are certified; and by name what `gaps` made (seed, ...)."""

    step: np.ndarray
    kl: np.ndarray
    distance: np.ndarray
    at: np.ndarray
    gaps: dict[str, np.ndarray]


def read(results: dict[tuple[str, int], Run]) -> dict[str, Reading]:
    """The runs of a teacher by method. L* of a seed is the least loss that any of its runs has found."""
    seeds = sorted({seed for _, seed in results})
    lowest = np.array([min(r.excess[:, 0].min() for (_, s), r in results.items() if s == seed) for seed in seeds])
    found = {}
    for label in dict.fromkeys(label for label, _ in results):
        runs = [results[label, seed] for seed in seeds]
        distance = np.stack([r.excess[:, 0] for r in runs]) - lowest[:, None]
        made = {name: np.stack([r.gaps[name] for r in runs]) for name in runs[0].gaps}
        found[label] = Reading(runs[0].step, np.stack([r.kl for r in runs]), distance, np.array(runs[0].at), made)
    return found


def rows_of(teacher: str, readings: dict[str, Reading], seconds: dict[str, float], exact: bool) -> list[dict]:
    """The numbers: of each method the gap at some iterations, and at the end by every kind of samples."""
    rows = []
    for label, one in readings.items():

        def row(step, gap, samples, ball="full", label=label, one=one):
            at = int(np.searchsorted(one.step, step))
            return dict(
                teacher=teacher, method=label, ball=ball, samples=samples, iteration=int(step), gap=float(gap[:, 0].mean()),
                error=float(np.sqrt(np.sum(gap[:, 1] ** 2)) / len(gap)), largest=float(gap[:, 0].max()),
                distance=float(one.distance[:, at].mean()) if ball == "full" else None, KL=float(one.kl[:, at].mean()),
                seconds=seconds[label] * int(step) if label in seconds else None,
            )  # fmt: skip

        last, best = one.at[-1], "quadrature" if exact else "teacher's"
        for k in range(len(one.at) - 1, -1, -3)[::-1]:
            rows.append(row(one.at[k], one.gaps["gap"][:, k], "quadrature" if exact else "annealed"))
        if "known" in one.gaps:
            rows.append(row(last, one.gaps["known"], best))
        if "negative" in one.gaps:
            rows.append(row(last, one.gaps["negative"], best, "negative"))
        if one.gaps["particles"].size:
            rows.append(row(last, one.gaps["particles"][:, -1], "particles"))
    return rows


# -- Figures -------------------------------------------------------------------------------------------


def band(panel, x, values, i: int, **form) -> None:
    """The mean over seeds, with their minimum to maximum."""
    colour = charts.COLOURS[i]
    panel.plot(x, values.mean(0), color=colour, **form)
    panel.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def figure_of(teacher: str, readings: dict[str, Reading], exact: bool) -> Figure:
    """Gap and distance, and KL, against iterations."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        shown = []
        for i, label in enumerate(label for label in LINES if label in readings):
            one, colour, mark = readings[label], charts.COLOURS[i], charts.MARKERS[i]
            gap, errors = one.gaps["gap"][..., 0].mean(0), np.sqrt(np.sum(one.gaps["gap"][..., 1] ** 2, 0)) / len(one.kl)
            most = (gap <= 2 * errors) & (not exact)  # not told from 0: an arrow down from what it is at most
            shape = np.where(most, gap + 2 * errors, gap)
            bars = np.where(most, 0.35 * shape, 2 * errors)
            form = dict(color=colour, marker=mark, label=label, linewidth=1.0, elinewidth=0.6)
            left.errorbar(one.at, shape, None if exact else bars, uplims=most, **form)
            if exact:
                each = one.gaps["gap"][..., 0]
                left.fill_between(one.at, each.min(0), each.max(0), color=colour, alpha=0.15, linewidth=0)
            band(left, one.step[1:], one.distance[:, 1:], i, linestyle="--", linewidth=0.9)
            band(right, one.step[1:], one.kl[:, 1:], i, marker=mark, markevery=(i, max(len(one.step) // 8, 1)))
            shown += [*shape, *one.distance.mean(0)[np.isin(one.step, one.at)]]
        limits = max(min(value for value in shown if value > 0) / 1.5, 1e-4), 1.5 * max(shown)
        for panel in (left, right):
            panel.set_xlabel("iteration")
            charts.log_axis(panel.xaxis)
        left.set_ylim(limits)
        charts.log_axis(left.yaxis)
        left.set_ylim(limits)
        charts.log_axis(right.yaxis)
        left.set_ylabel("gap (solid) and L - L* (dashed) (nat)")
        right.set_ylabel("KL(teacher || student) (nat)")
        count = len(readings[LINES[0]].kl)
        left.set_title("gap by quadrature" if exact else "gap estimated; bars: two standard errors, arrows: at most so much")
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower center", ncols=4,
            title=f"{teacher}; " + (f"mean of {count} seeds, band: least to largest" if count > 1 else "one seed"),
        )  # fmt: skip
    return figure


def particles_figure(readings: dict[str, dict[str, Reading]]) -> Figure:
    """The gap from the training's own particles beside that of the model, and what `relaxation` sees of them."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(charts.WIDTHS["double"], 4.2), layout="constrained")
        panels = figure.subplots(2, len(readings), squeeze=False, height_ratios=(3, 2), sharex="col")
        for (above, below), (teacher, found) in zip(panels.T, readings.items(), strict=True):
            for i, label in enumerate(label for label in LINES if label in found):
                one = found[label]
                if one.gaps["particles"].size:
                    form = dict(color=charts.COLOURS[i], marker=charts.MARKERS[i])
                    above.plot(one.at, one.gaps["gap"][..., 0].mean(0), label=f"{label}: samples of the model", **form)
                    form |= dict(linestyle=":", mfc="white")
                    above.plot(one.at, one.gaps["particles"][..., 0].mean(0), label=f"{label}: its own particles", **form)
                    below.plot(one.at, np.abs(one.gaps["particles"][..., 2]).mean(0), **form)
            below.axhline(duality_gap.DOUBTFUL, color="black", linewidth=0.8)
            below.text(0.02, duality_gap.DOUBTFUL * 1.1, "warning above", fontsize=6, transform=below.get_yaxis_transform())
            above.axhline(0, color="0.7", linewidth=0.6)
            above.set_yscale("symlog", linthresh=0.1)
            above.set_title(teacher)
            below.set_xlabel("iteration")
            charts.log_axis(below.xaxis)
            charts.log_axis(below.yaxis)
        panels[0, 0].set_ylabel("gap (nat)")
        panels[1, 0].set_ylabel("change of mean energy\n(standard errors)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# -- The command ---------------------------------------------------------------------------------------


def main(settings: Settings) -> list[dict]:
    """Runs, reads, writes; returns the rows."""
    given, settings, begin = settings, checked(settings), time.perf_counter()
    readings, figures, rows, sentences = {}, {}, [], []
    for teacher in settings.teachers:
        exact, chosen = targets.teacher(teacher).space.dimension == 3, lines(settings, teacher)
        readings[teacher] = found = read(measured(settings, teacher, chosen))
        methods: Any = {label: line.method for label, line in chosen.items()}
        seconds = _common.seconds_a_step(methods, scene(settings, teacher, settings.first_seed).data, 3)
        rows += rows_of(teacher, found, seconds, exact)
        figures[f"certificate_{teacher}"] = figure_of(teacher, found, exact)
        ended = stopped(settings, teacher, chosen[LINES[0]])
        at, (gap, error) = int(ended.step[-1]), ended.gap.values[-1]
        rows.append(dict(
            teacher=teacher, method=f"{LINES[0]}, stop within {TOLERANCE:g}", ball="full", samples="quadrature" if exact else "annealed",
            iteration=at, gap=float(gap), error=float(error), largest=float(gap), distance=None, KL=float(ended.kl[-1]),
            seconds=seconds[LINES[0]] * at,
        ))  # fmt: skip
        last = Certificate(*jnp.asarray(found[LINES[0]].gaps["gap"][0, -1]), position=jnp.zeros(1), sign=jnp.ones(()))
        outcome = f"ends at iteration {at} of {chosen[LINES[0]].steps}" if at < chosen[LINES[0]].steps else "does not end early"
        sentences.append(
            f"{teacher}, {LINES[0]}, seed {settings.first_seed}: {duality_gap.told(last, RADIUS)}; "
            f"with `stop=within({TOLERANCE:g})` it {outcome}."
        )
    figures["certificate_particles"] = particles_figure(readings)
    report.write(
        settings.out / settings.preset,
        title="The duality gap along training",
        command=report.command("certificate", given), seconds=time.perf_counter() - begin,
        about="The gap against the F1 ball of radius 10 bounds L(f_t) - L*, which needs the teacher; beside it KL, and the gap from "
        "particles, which are no samples of the model. gap: mean over seeds; error: its standard error; distance: L - L*, where L* is the "
        "least loss found; seconds: of the steps alone.",
        rows=rows, figures=figures, summary=" ".join(sentences),
        paper="Theorem 1 gives the duality; the paper measures no gap.",
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
