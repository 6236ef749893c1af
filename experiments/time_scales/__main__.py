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
from typing import Any

import jax
import numpy as np

from dualebm._internal import checks
from dualebm.sweeps.engine import forecast
from dualebm.sweeps.plan import plan_of
from experiments import _common, report
from experiments.time_scales import claim, factors, large, plane, radius, restarts
from experiments.time_scales.common import STUDIES, Settings, Study, data, monitors, steps_of

PAPER = "training performs best when neurons and particles move on similar time scales (abstract)."


TITLES = {
    "claim": "the ratio alpha", "restarts": "alpha and restarts", "plane": "both steps", "radius": "both steps at larger radii",
    "factors": "alpha with one factor changed", "large": "alpha with more data",
}  # fmt: skip


def studies(settings: Settings) -> dict[str, Study]:
    """Returns the studies of the settings by their names.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> list(studies(Settings(only=("plane", "large"))))
    ['plane', 'large']
    """
    _common.check(settings)
    _common.check_each("only", settings.only, checks.choice, STUDIES)
    _common.check_multiple("steps", settings.steps, steps_of(settings)["every"])
    modules: dict[str, Any] = dict(zip(STUDIES, (claim, restarts, plane, radius, factors, large), strict=True))
    return {name: modules[name].study(settings) for name in settings.only}


def arguments(settings: Settings, study: Study) -> dict[str, Any]:
    """Returns the arguments of `sweep` but for the grid."""
    monitored = monitors(settings.test_points)
    return dict(method=study.method, rates=study.rates, data=data, metrics=monitored, **steps_of(settings))


def predict(settings: Settings) -> None:
    """Prints the runs and the predicted time of each study, from a run of each kind that is timed."""
    total = 0.0
    for name, study in studies(settings).items():
        groups = forecast(plan_of(study.grid, **arguments(settings, study)))
        runs, seconds = sum(group.runs for group in groups), sum(group.seconds for group in groups)
        total += seconds
        print(f"{name:10} {runs:5} runs of {steps_of(settings)['steps']} iterations, about {seconds / 60:.1f} minutes")
    print(f"about {total / 60:.0f} minutes in all, on {jax.devices()[0].device_kind}")


def outcome(rows: list[dict[str, Any]]) -> str:
    """Returns a sentence on the cell with the least KL at the end.

    >>> outcome([dict(ratio=0.5, final=0.2, least=0.1), dict(ratio=2.0, final=0.02, least=0.01), dict(ratio=5.0, final=np.nan, least=1.0)])
    'The KL at the end is least, 0.02 nat in the mean over seeds, at ratio 2.'
    """
    best = min(rows, key=lambda row: np.nan_to_num(row["final"], nan=np.inf))
    cell = list(best.items())[: list(best).index("final")]
    where = ", ".join(f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}" for name, value in cell)
    return f"The KL at the end is least, {best['final']:.3g} nat in the mean over seeds, at {where}."


def content_of(settings: Settings, name: str, study: Study) -> dict[str, Any]:
    """Runs a study, and returns the content of its report."""
    results = _common.swept(study.grid, **arguments(settings, study), folder=settings.out / f"{settings.preset}_{name}")
    figures, rows = study.draw(results)
    about = f"{results.sizes['run']} runs. {study.about}"
    return dict(
        title=f"Time scales: {TITLES[name]}", about=about, rows=rows, figures=figures, paper=PAPER, summary=outcome(rows),
        seeds=np.unique(results.seed.values),
    )


def main(settings: Settings) -> None:
    """Runs the studies, or predicts their time; each study writes its results, figures and report into a folder."""
    chosen = studies(settings)
    if settings.dry_run:
        predict(settings)
        return
    for name, study in chosen.items():
        one = dataclasses.replace(settings, only=(name,))
        folder = settings.out / f"{settings.preset}_{name}"
        report.run("time_scales", one, folder, lambda name=name, study=study: content_of(settings, name, study))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
