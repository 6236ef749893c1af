"""An energy learnt on S^2, seen: densities, neurons and particles along training (arXiv 2107.05134, Appendix I), and exact curves.

    python -m experiments.sphere --preset quick
    python -m experiments.sphere --preset paper

Both S^2 teachers, n = 1000, N = 2000, m = 64, by the authors' program (p_R = 0, no budget, as in their archived runs) and by our default.
KL, score error and total variation are recorded with the teacher's own quadrature, so that they are exact up to rounding, without test
points; bands are over seeds. Of the first seed, neurons and particles are recorded too: maps at iterations 0, 80, 400 and the last, on one
scale beside the teacher's, and of the program a film, its frames evenly spaced in the logarithm of the iteration. Each run has two folders
under `--out`, to iteration 400 and from there on, and the same command continues what was interrupted.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import metrics
from dualebm.data import targets
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.methods import dual, presets
from dualebm.plotting import charts, films, maps, projection
from dualebm.spaces import Sphere
from dualebm.training.run import run
from experiments import _common, reference, report

TEACHERS = ("s2_monomodal", "s2_bimodal")
METHODS = {"program": "the authors' program", "default": "our default"}
EARLY, EVERY = 400, (5, 100)
"""Records are every 5 iterations up to the 400th, and every 100 from there on."""

SHOWN = (0, 80, EARLY)
"""Iterations of the maps, before the last: those of the paper's figures."""

DRAWN = 120
"""Records of a curve, evenly spaced in the logarithm, at the most: all of them would be a blot at the end."""

ARCHIVED = "s2_bimodal"
"""The teacher of the authors' archived run: n = 1000, p_R = 0, one seed, 4000 iterations."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (4,000 iterations, 2 seeds; two minutes) or paper (40,000 iterations, 4 seeds; 20 minutes)."""
    n: int = 1000
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Runs of each method, each with its own data, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    steps: int | None = None
    """Iterations, a multiple of 100 above 400."""
    film: bool = True
    """Write a film of the first seed by the authors' program."""
    frames: int = 60
    """Frames of the film, at the most."""
    out: Path = Path("results/sphere")
    """Where the runs, the figures and the films are written."""


class Scale(NamedTuple):
    """Iterations and seeds."""

    steps: int
    seeds: int


PRESETS = {"quick": Scale(4_000, 2), "paper": Scale(40_000, 4)}


def scale_of(settings: Settings) -> Scale:
    """Returns the scale of the preset with what the settings change.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> scale_of(Settings(steps=1000))
    Scale(steps=1000, seeds=2)
    """
    _common.check(settings)
    steps, seeds = PRESETS[settings.preset]
    scale = Scale(settings.steps or steps, settings.seeds or seeds)
    if scale.steps % EVERY[1] or scale.steps <= EARLY:
        raise ValueError(f"steps is {scale.steps}; it must be a multiple of {EVERY[1]} above {EARLY}")
    return scale


WEIGHT_STEPS = {"s2_monomodal": 0.02, "s2_bimodal": 0.04}
"""The step hw of the logarithms of the weights by the authors' program; that of the positions, hz, is 0.04 in both. The values of one mode
are those of the authors' published script, which the first 400 iterations of their archived run confirm."""


def problem(method: str, teacher: str) -> tuple[dual.Dual, dual.DualRates, Callable | None]:
    """Returns the method, its rates and its schedule by a name of `METHODS` and a teacher.

    >>> rates = problem("program", "s2_monomodal")[1]
    >>> rates.transport_step, rates.reaction_step
    (0.04, 0.02)
    """
    if method == "program":
        return presets.program(Sphere(3), budget=False), presets.program_rates(hz=0.04, hw=WEIGHT_STEPS[teacher]), None
    ours = dual.Dual(Sphere(3))
    return ours, ours.rates, dual.annealing(400, 0.5)


# -- Runs --------------------------------------------------------------------------------------------------


def particles(key, iterate):
    """Returns as many of the particles as a map shows: a metric."""
    return iterate.state.particles[:: -(-iterate.state.columns.shape[1] // maps.PARTICLES_DRAWN)]


def train(settings: Settings, scale: Scale, teacher: str, method: str, seed: int) -> xarray.Dataset:
    """Trains one run, and returns its records along `step`, with what the maps show for the first seed."""
    target = targets.teacher(teacher)
    run_key, data_key = jax.random.split(jax.random.key(seed))
    data, _ = targets.sample(data_key, target, settings.n)
    monitors = metrics.standard(target.space, target.energy, metrics.exact_samples(target.energy, target.quadrature()))
    if seed == settings.first_seed:
        monitors |= dict(positions=_common.positions, coefficients=_common.coefficients, particles=particles)
    algorithm, rates, schedule = problem(method, teacher)
    state: Any = None
    legs: list[xarray.Dataset] = []
    for steps, every in zip((EARLY, scale.steps - EARLY), EVERY, strict=True):
        state, results = run(
            run_key, algorithm, rates, data, steps=steps, every=every, metrics=monitors, schedule=schedule, state=state,
            folder=settings.out / f"n={settings.n}" / f"{teacher}_{method}_{seed}_every={every}", progress=sys.stderr.isatty(),
        )  # fmt: skip
        legs.append(results)
    return xarray.concat([legs[0], legs[1].isel(step=slice(1, None))], "step", combine_attrs="drop_conflicts")


def frame(results: xarray.Dataset, step: int) -> maps.Frame:
    """Returns a record of the first seed as a picture."""
    at = results.sel(step=step)
    energy = Shallow(ReLU(), jnp.asarray(at.positions.values), jnp.asarray(at.coefficients.values))
    return maps.Frame(int(step), energy, at.particles.values, kl=float(at.kl))


def log_spaced(steps: np.ndarray, count: int) -> list[int]:
    """Returns at most `count` of the steps: 0, and others as evenly spaced in the logarithm as there are.

    >>> log_spaced(np.array([0, 5, 10, 15, 20, 120, 220]), 4)
    [0, 5, 20, 220]
    """
    wanted = np.geomspace(steps[1], steps[-1], max(count - 1, 2))
    nearest = np.abs(np.log(steps[1:, None] / wanted)).argmin(axis=0)
    return [0, *(int(step) for step in np.unique(steps[1:][nearest]))]


# -- What is written ---------------------------------------------------------------------------------------


def rows_of(teacher: str, method: str, runs: xarray.Dataset) -> list[dict]:
    """Returns a row for each iteration of the maps, and for the 4000th: means over seeds, and least and largest KL."""
    last = int(runs.step[-1])
    rows = []
    for step in sorted({*SHOWN, min(4_000, last), last}):
        at, archived = runs.sel(step=step), None
        if (teacher, method) == (ARCHIVED, "program") and 0 < step <= 4_000:
            curve = reference.author_sphere2("0")
            archived = float(np.interp(step, curve["iterations"], curve["KL"]["mean"]))
        rows.append(dict(
            teacher=teacher, method=METHODS[method], iteration=step, **_common.spread(at.kl, "kl"), archived_kl=archived,
            score=float(at.score.mean()), total_variation=float(at.total_variation.mean()),
        ))  # fmt: skip
    return rows


MAPS = (
    "Densities on S^2 along training: teacher {}, trained by {}, first seed. Equal-area maps on one colour scale, after the "
    "teacher's, each with its iteration and KL. Small dots are particles, at most 1500 of them. Marks are neurons by their sign, "
    "with an area in proportion to their weight."
)
CURVES = (
    "KL(teacher || student), score error and total variation against the iteration on {}, by quadrature. Lines are means over {} "
    "seeds, bands their least and largest. A dashed line is the authors' archived run, of one seed."
)
FILM = (
    "Density, neurons and particles on S^2 along training: teacher {}, {}, first seed, in {} frames evenly spaced in the logarithm "
    "of the iteration."
)


def published_of(rows: list[dict]) -> list[report.Published]:
    """Returns the last KL by the authors' program that has an archived one beside it, of one seed."""
    known = [row for row in rows if row["archived_kl"] is not None]
    return [
        report.Published(
            f"KL (nat), {row['teacher']}, the authors' program, iteration {row['iteration']}", row["kl"], row["least"], row["largest"],
            row["archived_kl"], f"archived run, one seed, iteration {row['iteration']}",
        )
        for row in known[-1:]
    ]  # fmt: skip


def main(settings: Settings) -> list[dict]:
    """Trains and draws, writes the report, and returns its rows."""
    scale, begin = scale_of(settings), time.perf_counter()
    rows: list[dict] = []
    figures: dict[str, report.Captioned] = {}
    files, agreement = {}, ""
    for teacher in TEACHERS:
        target = targets.teacher(teacher)
        view = projection.view_of(np.asarray(target.energy.positions))
        curves = {}
        for method, words in METHODS.items():
            each = [train(settings, scale, teacher, method, seed) for seed in _common.seeds_of(settings, scale.seeds)]
            names = [*charts.QUANTITIES]
            curves[words] = runs = xarray.concat([one[names] for one in each], "run", combine_attrs="drop_conflicts")
            rows += rows_of(teacher, method, runs)
            pictures = [frame(each[0], step) for step in (*SHOWN, scale.steps)]
            caption = f"{_common.named(teacher)}, n = {settings.n}, {words}"
            drawn = maps.snapshots(pictures, teacher=target.energy, view=view, caption=caption)
            figures[f"{teacher}_{method}"] = (drawn, MAPS.format(teacher, words))
            if method == "program" and teacher == ARCHIVED:
                agrees = reference.compare(runs, reference.author_runs("d3_bimodal_n1000_p_R=0"))
                agreement = "; ".join(f"{name} at {one['agree']} of {one['of']}" for name, one in agrees.items())
            if method == "program" and settings.film:
                settings.out.mkdir(parents=True, exist_ok=True)
                steps = log_spaced(each[0].step.values, settings.frames)
                pictures = (frame(each[0], step) for step in steps)
                file = films.film(settings.out / f"{teacher}.mp4", pictures, teacher=target.energy, view=view)
                files[file.name] = FILM.format(teacher, words, len(steps))
        archived = {"authors' archived run, one seed": reference.author_sphere2("0")} if teacher == ARCHIVED else None
        drawn = {words: runs.sel(step=log_spaced(runs.step.values, DRAWN)) for words, runs in curves.items()}
        figures[f"{teacher}_curves"] = (charts.curves(drawn, archived), CURVES.format(teacher, scale.seeds))
    report.write(
        settings.out,
        title="S^2: densities, neurons and particles along training",
        about=f"n = {settings.n}, N = {2 * settings.n}, m = 64, p_R = 0, {scale.seeds} seeds; KL, score error and total variation by "
        "quadrature. The authors' program has no budget here, as in the archived runs. The maps are of the first seed.",
        command=report.command("sphere", settings),
        seconds=time.perf_counter() - begin,
        rows=rows,
        paper="maps at iterations 0, 80, 400 and 40000 and videos, without numbers; archived is the authors' run, of one seed.",
        figures=figures,
        files=files,
        published=published_of(rows),
        seeds=_common.seeds_of(settings, scale.seeds),
        summary=f"The archived curve lies within the range of our {scale.seeds} seeds, widened on each side by its own width: "
        f"{agreement} of the archive's iterations from 50 on.",
    )
    return rows


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
