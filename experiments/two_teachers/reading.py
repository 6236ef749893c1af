"""The summary of the runs on the planted teachers, their duality gaps, and a film."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import duality_gap, metrics
from dualebm.data import targets
from dualebm.energies.shallow import from_atoms
from dualebm.log_z.quadrature import sphere_quadrature
from dualebm.methods.base import Iterate
from dualebm.plotting import charts, films, maps, projection
from dualebm.spaces import Sphere
from dualebm.training.prepare import initial_state
from dualebm.training.simulate import simulate
from experiments import _common, reference, report
from experiments.two_teachers.runs import Problem, Settings


def authors_curve(settings: Settings) -> dict | None:
    """Returns the archived curve to draw beside, or None where there is none."""
    restarts = {None: "0", 1: "1", 40: "1/40", 60: "1/60"}.get(settings.restart_every)
    if settings.teacher == "s14_monomodal":
        return reference.author_runs(f"d15_mono_n1e4_p_R={restarts if restarts in ('0', '1', '1/40') else '0'}")
    if settings.teacher == "s2_bimodal":
        return reference.author_runs(f"d3_bimodal_n1000_p_R={restarts if restarts in ('0', '1', '1/60') else '0'}")
    return reference.author_primal() if settings.teacher == "s14_bimodal" else None


METHODS = {"default": "our default", "program": "the authors' program", "text": "the text's Algorithm 1"}
AUTHORS = {
    "s14_monomodal": ("authors", 10_000, "all signs \u22121"),
    "s14_bimodal": ("authors, primal", 100_000, "all signs \u22121"),
    "s2_bimodal": ("authors", 1_000, "all signs \u22121"),
}
"""Of the archived runs of each teacher: whose they are, their n, and their signs."""


def references(settings: Settings, n: int) -> dict[str, dict]:
    """Returns the curves to draw beside runs by their labels; of those with another n, the last values alone.

    >>> list(references(Settings(), 10_000)), list(references(Settings(), 100_000))
    (['authors, n = $10^{4}$, all signs −1'], ['authors, n = $10^{4}$, all signs −1, end'])
    """
    curve, found = authors_curve(settings), {}
    if curve is not None:
        who, its_n, signs = AUTHORS[settings.teacher]
        found[f"{who}, n = {charts.number(its_n)}, {signs}"] = its_n, curve
    if settings.teacher == "s14_bimodal" and settings.method != "program":
        found[f"authors' dual program run by us, n = {charts.number(100_000)}, one seed"] = 100_000, reference.reproduced_dual()
    return {label if its_n == n else f"{label}, end": one if its_n == n else reference.ended(one) for label, (its_n, one) in found.items()}


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
        quadrature = sphere_quadrature(task.target.space, 100, data.points.dtype) if on_s2 else None
        one = duality_gap.certify(test_key, energy, task.target.space, data, task.rates.radius, quadrature=quadrature, ball=ball)
        certificates.append(one)
    worst = max(certificates, key=lambda one: float(one.gap))
    sentence = f"The seed with the largest gap is {duality_gap.summary(worst, float(task.rates.radius), ball)}."
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


def published_of(settings: Settings, task: Problem, summary: dict, label: str) -> list[report.Published]:
    """Returns our KL at the end beside that of the authors' archived run, of which the label names the settings, where there is one."""
    theirs = summary.get("authors")
    if theirs is None:
        return []
    last, ours = list(summary["at"].items())[-1]
    quantity = f"KL (nat), {settings.teacher}, method {settings.method}, n = {task.n}, iteration {last}"
    source = f"archived run, iteration {theirs['last_iteration']} ({label})"
    return [report.Published(quantity, ours["kl"], ours["kl_min"], ours["kl_max"], theirs["last_kl"], source)]


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

    view = projection.view_of(np.asarray(task.target.energy.positions))
    films.film(path, frames(), teacher=task.target.energy, view=view)
