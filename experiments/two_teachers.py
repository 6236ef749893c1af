"""The planted-teacher experiment of arXiv 2107.05134 (Section 5, Figure 1): an energy learnt by the coupled flow.

    python -m experiments.two_teachers --preset quick
    python -m experiments.two_teachers --preset paper --teacher s14_bimodal
    python -m experiments.two_teachers --preset paper --method program --restart-every 40

Trains one run a seed, prints a table, and writes under `--out` one folder a seed (Zarr results, checkpoint, manifest), `results.nc`,
`summary.json` and `curves.png`, with the authors' curve drawn beside. The same command continues a run that was interrupted.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import duality_gap, metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.shallow import from_atoms
from dualebm.log_z import partition
from dualebm.measures import Samples
from dualebm.methods import dual, presets
from dualebm.methods.base import Iterate
from dualebm.plotting import charts, maps
from dualebm.spaces import Sphere
from dualebm.training import run_folder
from dualebm.training.prepare import initial_state
from dualebm.training.run import run
from dualebm.training.simulate import simulate
from experiments import _common, reference, report

AUTHORS = {
    "s14_monomodal": "authors, n=10000",
    "s14_bimodal": "authors, n=100000, primal",
    "s2_bimodal": "authors, n=1000",
}
"""Labels of the archived curves."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset and the method."""

    preset: str = "quick"
    """quick (n = 1e4, minutes) or paper (the paper's n = 1e5; n = 1e4 for the authors' program; n = 1e3 on S^2)."""
    teacher: str = "s14_monomodal"
    """s14_monomodal, s14_bimodal, s2_monomodal or s2_bimodal."""
    method: str = "default"
    """default (ours), program (the authors' program) or text (the paper's Algorithm 1)."""
    n: int | None = None
    """Data points; there are 2n particles."""
    neurons: int = 64
    """Neurons m."""
    signs: str | None = None
    """Signs of the neurons: half, random or all_negative (which knows the teachers)."""
    integrator: str | None = None
    """Of the particles: mala, geodesic or projected."""
    particle_step: float | None = None
    """h_x, at temperature 1."""
    neuron_step: float | None = None
    """h_theta = h_w; for the program before its factor 1 + 0.1 / (k h_x)."""
    restart_every: int | None = None
    """All particles to the data every k iterations (the program's p_R = 1/k)."""
    restart_probability: float = 0.0
    """Each particle to a random data point with this probability (the text's p_R)."""
    budget: bool = True
    """Keep the total variation within 10."""
    steps: int | None = None
    """Iterations."""
    every: int = 10
    """Iterations between records."""
    seeds: int | None = None
    """Runs, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    test_points: int = 100_000
    """Fresh draws of the teacher for KL and score."""
    precision: int = 32
    """32 or 64 bits."""
    film: bool = False
    """On S^2, write film.mp4 of one more run of the first seed, recorded in 60 frames."""
    out: Path = Path("results/two_teachers")
    """Where a folder named after the settings is written."""


certify = eqx.filter_jit(duality_gap.certify)

ABOUT = "Section 5 of arXiv 2107.05134: a planted energy, learnt from its samples by the coupled flow of neurons and particles."
MADE = {
    "density.png": "the teacher's density, and the model's with its neurons and particles, first seed",
    "film.mp4": "the model of the first seed along training",
}
"""Files that only some settings make, and their captions."""


class Problem(NamedTuple):
    """What the settings say: the target, the method, its rates and their schedule, and the counts."""

    target: targets.Target
    method: dual.Dual
    rates: dual.DualRates
    schedule: Callable | None
    n: int
    steps: int
    seeds: int


def problem(settings: Settings) -> Problem:
    """Returns the problem of the settings.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> problem(Settings(method="program")).rates.particle_step
    0.02
    """
    _common.check(settings)
    checks.choice("teacher", settings.teacher, targets.TEACHERS)
    checks.choice("method", settings.method, presets.PRESETS)
    checks.choice("precision", settings.precision, (32, 64))
    target = targets.teacher(settings.teacher, jnp.float32 if settings.precision == 32 else jnp.float64)
    on_s2, paper, ours = target.space == Sphere(3), settings.preset == "paper", settings.method == "default"
    n = settings.n or (1_000 if on_s2 else 100_000 if paper and ours else 10_000)
    steps = settings.steps or (600 if ours and not on_s2 else 4_000)
    seeds = settings.seeds or (8 if paper and not ours else 4)
    changes = dict(neurons=settings.neurons, restart_every=settings.restart_every, budget=settings.budget)
    changes |= {k: getattr(settings, k) for k in ("signs", "integrator") if getattr(settings, k) is not None}
    if settings.method == "text":
        changes["particles"] = 2 * n
    method = presets.PRESETS[settings.method](target.space, **changes)
    if settings.method == "program":
        neuron_step = settings.neuron_step if settings.neuron_step is not None else 0.04 if on_s2 else 0.2
        particle_step = 0.02 if settings.particle_step is None else settings.particle_step
        rates = presets.program_rates(settings.restart_every, neuron_step, particle_step)
    else:
        rates = method.rates if ours else presets.rates_from_paper(0.2, 1.0, 10.0)
        if settings.particle_step is not None:
            rates = rates._replace(particle_step=settings.particle_step)
        if settings.neuron_step is not None:
            rates = rates._replace(transport_step=settings.neuron_step, reaction_step=settings.neuron_step)
    rates = rates._replace(restart_probability=settings.restart_probability)
    method.check(rates, Samples(target.energy.positions))  # the rates, before any data are drawn
    checks.count("every", settings.every, 2)
    _common.check_multiple("steps", steps, settings.every, "every")
    if settings.film and not on_s2:
        raise ValueError(f"film is True and {settings.teacher} lives on {target.space}; allowed on S^2: s2_*")
    annealing = dual.annealing(400, 0.5) if on_s2 else dual.annealing()
    return Problem(target, method, rates, annealing if ours else None, n, steps, seeds)


def name_of(settings: Settings, n: int) -> str:
    """Returns the name of the folder: teacher, method, n, and what differs from the defaults."""
    plain = {f.name: f.default for f in dataclasses.fields(Settings)}
    skip = ("preset", "teacher", "method", "n", "out", "film", "seeds")
    changed = [f"{k}={v}" for k, v in dataclasses.asdict(settings).items() if k not in skip and v != plain[k]]
    return "_".join([settings.teacher, settings.method, f"n={n}", *changed])


def authors_curve(settings: Settings) -> dict | None:
    """Returns the archived curve to draw beside, or None where there is none."""
    restarts = {None: "0", 1: "1", 40: "1/40", 60: "1/60"}.get(settings.restart_every)
    if settings.teacher == "s14_monomodal":
        return reference.author_runs(f"d15_mono_n1e4_p_R={restarts if restarts in ('0', '1', '1/40') else '0'}")
    if settings.teacher == "s2_bimodal":
        return reference.author_runs(f"d3_bimodal_n1000_p_R={restarts if restarts in ('0', '1', '1/60') else '0'}")
    return reference.author_primal() if settings.teacher == "s14_bimodal" else None


def train(settings: Settings, task: Problem, folder: Path) -> tuple[xarray.Dataset, list]:
    """Trains one run a seed, or continues those in its folder; returns the records along (run, step), and the last states."""
    runs: list[xarray.Dataset] = []
    states = []
    for seed in _common.seeds_of(settings, task.seeds):
        key, data, test = _common.draws(seed, task.target, task.n, settings.test_points)
        monitors = metrics.standard(task.target.space, task.target.energy, test)
        if task.target.space == Sphere(3):
            nodes = partition.sphere_quadrature(task.target.space, 50, data.points.dtype)
            monitors["effective_temperature"] = metrics.EffectiveTemperature(nodes)
        state, results = run(
            key, task.method, task.rates, data, steps=task.steps, every=settings.every, metrics=monitors,
            schedule=task.schedule, folder=folder / f"seed_{seed}", progress=sys.stderr.isatty(),
        )  # fmt: skip
        runs.append(results)
        states.append(state)
    return xarray.concat(runs, "run", combine_attrs="drop_conflicts"), states


def summarise(results: xarray.Dataset, task: Problem, authors: dict | None, seconds: float) -> dict:
    """Returns the numbers that go to `summary.json`."""
    mean = results.kl.mean("run").values[1:]
    steps = results.step.values[1:]
    marks = sorted({*(s for s in (20, 50, 100, 200, 300, 400, 600, 1000, 2000, 4000) if s in steps), int(steps[-1])})
    rows = {
        int(s): {
            **_common.spread(results.kl.sel(step=s), "kl", "kl_min", "kl_max"),
            "largest_later_kl": float(mean[steps >= s].max()),
            "score": float(results.score.sel(step=s).mean()),
            "total_variation": float(results.total_variation.sel(step=s).mean()),
            "acceptance": float(results.acceptance.sel(step=s).mean()),
        }
        for s in marks
    }
    summary = {
        "kl_to_uniform": task.target.kl_to_uniform,
        "n": task.n,
        "seeds": task.seeds,
        "rates": task.rates._asdict(),
        "method": repr(task.method),
        "annealed": task.schedule is not None,
        "seconds": round(seconds, 1),
        "at": rows,
    }
    if authors is not None:
        theirs = float(authors["KL"]["mean"][-1])
        above = steps[mean > theirs]
        below_from = steps[0] if not above.size else steps[steps > above[-1]][0] if above[-1] < steps[-1] else None
        summary["authors"] = {
            "runs": authors["meta"],
            "last_iteration": int(authors["iterations"][-1]),
            "last_kl": theirs,
            "our_kl_stays_below_it_from": None if below_from is None else int(below_from),
            "agreement": reference.compare(results, authors) if task.method.integrator == "projected" else {},
        }
    return summary


def gaps(settings: Settings, task: Problem, states: list) -> dict:
    """Returns the duality gap of each seed's last energy (see `dualebm.duality_gap`): exact on S^2, estimated elsewhere."""
    ball = "negative" if task.method.signs == "all_negative" else "full"
    on_s2, certificates = task.target.space == Sphere(3), []
    for seed, state in enumerate(states, settings.first_seed):
        _, data_key, test_key = jax.random.split(jax.random.key(seed), 3)
        data, _ = targets.sample(data_key, task.target, task.n)
        energy = from_atoms(task.method.feature, state.atoms)
        quadrature = partition.sphere_quadrature(task.target.space, 100, data.points.dtype) if on_s2 else None
        certificates.append(certify(test_key, energy, task.target.space, data, task.rates.radius, quadrature=quadrature, ball=ball))
    worst = max(certificates, key=lambda one: float(one.gap))
    sentence = f"The seed with the largest gap is {duality_gap.told(worst, float(task.rates.radius), ball)}."
    gap, error = ([float(getattr(one, name)) for one in certificates] for name in ("gap", "error"))
    return {"ball": ball, "gap": gap, "error": error, "summary": sentence}


def sentence_of(summary: dict) -> str:
    """Returns a sentence on the authors' archived run, and on how far our runs agree with it."""
    theirs = summary.get("authors")
    if theirs is None:
        return "no archived run of this teacher."
    since = theirs["our_kl_stays_below_it_from"]
    below = "ours does not stay below it" if since is None else f"ours stays below it from iteration {since} on"
    agreement = [
        f" {name}: {one['agree']} of {one['of']} iterations from {reference.FIRST_COMPARED} on within the widened band, outside "
        f"{one['outside'] or 'none'}."
        for name, one in theirs["agreement"].items()
    ]
    last = f"has KL {theirs['last_kl']:.4f} at iteration {theirs['last_iteration']}"
    return f"the authors' archived run ({theirs['runs']}) {last}; {below}.{''.join(agreement)}"


def film(task: Problem, settings: Settings, path: Path) -> None:
    """Makes a film of the first seed on S^2 in 60 frames, seen from the teacher's side."""
    run_key, data_key, _ = jax.random.split(jax.random.key(settings.first_seed), 3)
    data, _ = targets.sample(data_key, task.target, task.n)
    exact = metrics.exact_samples(task.target.energy, task.target.quadrature(data.points.dtype))
    divergence = metrics.KLDivergence(task.target.energy, exact)
    rates = jax.tree.map(lambda r: jnp.asarray(r, data.points.dtype), task.rates)
    state = initial_state(run_key, task.method, rates, data)
    every = max(task.steps // 60, 2)

    @jax.jit
    def advance(state):
        counts = dict(steps=every, every=every)
        return simulate(run_key, task.method, state, rates, data, **counts, metrics={}, schedule=task.schedule)[0]

    def frames():
        current = state
        for _ in range(60):
            kl = float(divergence(run_key, Iterate(task.method, current, rates, data)))
            yield maps.snapshot(task.method, current, rates, data, kl)
            current = advance(current)

    view = maps.view_of(np.asarray(task.target.energy.positions))
    maps.film(path, frames(), teacher=task.target.energy, view=view)


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
    label = f"dualebm, {settings.method}, n={task.n}"
    figure = charts.curves({label: results}, None if authors is None else {AUTHORS[settings.teacher]: authors})
    figure.savefig(folder / "curves.png", dpi=200)
    if task.target.space == Sphere(3):
        energy = from_atoms(task.method.feature, states[0].atoms)
        view = maps.view_of(np.asarray(task.target.energy.positions))
        density = maps.sphere_density(
            energy, states[0].atoms, states[0].particles, teacher=task.target.energy, view=view
        )
        density.savefig(folder / "density.png", dpi=200)
        if settings.film:
            film(task, settings, folder / "film.mp4")
    made = {"curves.png": "KL, score error and total variation, the mean over seeds with their range, beside the authors'"}
    made |= {file: text for file, text in MADE.items() if (folder / file).exists()}
    report.write(
        folder, title=f"{settings.teacher}, {settings.method}, n = {task.n}", about=ABOUT, command=report.command("two_teachers", settings),
        seconds=summary["seconds"], rows=[{"iteration": step, **row} for step, row in summary["at"].items()], files=made,
        paper=sentence_of(summary), summary=summary["certificate"]["summary"],
    )  # fmt: skip
    return summary


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
