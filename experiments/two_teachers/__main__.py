"""The planted-teacher experiment of arXiv 2107.05134 (Section 5, Figure 1): an energy learnt by the coupled flow.

    python -m experiments.two_teachers --preset quick
    python -m experiments.two_teachers --preset paper --teacher s14_bimodal
    python -m experiments.two_teachers --preset paper --method program --restart-every 40

Trains one run a seed, prints a table, and writes under `--out` one folder a seed (Zarr results, checkpoint, manifest), `results.nc`,
`summary.json` and the report, with the authors' curve drawn beside. The same command continues a run that was interrupted.
"""

import dataclasses
import json
import time

import jax
import numpy as np

from dualebm.energies.shallow import from_atoms
from dualebm.plotting import charts, maps, projection
from dualebm.spaces import Sphere
from dualebm.training import run_folder
from experiments import _common, report
from experiments.two_teachers.reading import (
    METHODS,
    authors_curve,
    film,
    gaps,
    published_of,
    references,
    sentence_of,
    summarise,
)
from experiments.two_teachers.runs import Settings, problem, train

ABOUT = "Section 5 of arXiv 2107.05134: a planted energy, learnt from its samples by the coupled flow of neurons and particles."
CURVES = (
    "KL(teacher || student), mean squared score difference and total variation of the neurons against the iteration. Solid lines are "
    "means over our seeds, bands their least and largest. Dashed lines are the authors' archived runs with the same n; a star is the "
    "last value of a run with another n."
)
DENSITY = (
    "The teacher's density on S^2 and the density of the first seed's model at its last iteration, as equal-area maps on one colour "
    "scale. Small dots are particles, at most 1500 of them. Marks are neurons by their sign, with an area in proportion to their "
    "weight."
)
FILM = "The density, neurons and particles of the first seed along training on S^2, in 60 frames."


def name_of(settings: Settings, n: int) -> str:
    """Returns the name of the folder: teacher, method, n, and what differs from the defaults."""
    plain = {f.name: f.default for f in dataclasses.fields(Settings)}
    skip = ("preset", "teacher", "method", "n", "out", "film", "seeds")
    changed = [f"{k}={v}" for k, v in dataclasses.asdict(settings).items() if k not in skip and v != plain[k]]
    return "_".join([settings.teacher, settings.method, f"n={n}", *changed])


def main(settings: Settings) -> dict:
    """Trains, writes the report, and returns the summary."""
    if settings.precision == 64:
        jax.config.update("jax_enable_x64", True)
    task = problem(settings)
    folder = settings.out / name_of(settings, task.n)
    start = time.perf_counter()
    results, states = train(settings, task, folder)
    authors = authors_curve(settings)
    summary = summarise(results, task, authors, time.perf_counter() - start)
    run_folder.to_netcdf(results, folder / "results.nc")
    summary["certificate"] = gaps(settings, task, states)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    label = f"{METHODS[settings.method]}, n = {charts.number(task.n)}, {_common.SIGNS[task.method.signs]}"
    beside = references(settings, task.n)
    figures = {"curves": (charts.curves({label: results}, beside), CURVES)}
    if task.target.space == Sphere(3):
        energy = from_atoms(task.method.feature, states[0].atoms)
        view = projection.view_of(np.asarray(task.target.energy.positions))
        kl = float(results.kl.isel(run=0, step=-1))
        title = f"student, n = {charts.number(task.n)}, iteration {task.steps}, KL = {kl:.2g} nat"
        density = maps.sphere_density(
            energy, states[0].atoms, states[0].particles, teacher=task.target.energy, view=view, title=title
        )
        figures["density"] = (density, DENSITY)
        if settings.film:
            film(task, settings, folder / "film.mp4")
    files = {"film.mp4": FILM} if (folder / "film.mp4").exists() else {}
    report.write(
        folder, title=f"Two teachers: {settings.teacher}, {settings.method}, n = {task.n}", about=ABOUT,
        command=report.command("two_teachers", settings),
        seconds=summary["seconds"], rows=[{"iteration": step, **row} for step, row in summary["at"].items()], files=files,
        paper=sentence_of(summary), summary=summary["certificate"]["summary"], figures=figures,
        published=published_of(settings, task, summary, ", ".join(beside)), seeds=_common.seeds_of(settings, task.seeds),
    )  # fmt: skip
    return summary


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
