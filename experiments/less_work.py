"""Less work for the same answer: KL against wall time of the default method and of each option that changes what a step costs.

    python -m experiments.less_work --preset quick
    python -m experiments.less_work --preset paper

Options of `Dual`: data batches with a control variate, several moves of the particles or of the neurons in an iteration,
independent and orthogonal noise. All have the default rates and annealing, the same data and keys. A step is timed without
metrics, the options in turn, and the median is taken; the KL is recorded along runs of their own. Writes `results.nc`,
`summary.json` and `less_work.png` under `--out`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.methods import dual
from dualebm.plotting import charts
from dualebm.training import run_folder
from dualebm.training.run import run
from experiments import _common, report

PRESETS = {"quick": dict(n=2_000, seeds=1, steps=120), "paper": dict(n=20_000, seeds=3, steps=240)}
TEACHERS = ("s14_monomodal", "s14_bimodal")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 2e3, one seed) or paper (n = 2e4, 3 seeds)."""
    n: int | None = None
    """Data points; there are 2n particles."""
    seeds: int | None = None
    """Runs of each option."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    steps: int | None = None
    """Iterations of each run."""
    every: int = 10
    """Iterations between records."""
    repetitions: int = 7
    """Timings of each option."""
    test_points: int = 100_000
    """Exact draws from the teacher, for the KL."""
    out: Path = Path("results/less_work")
    """Folder of the results."""


def options(n: int) -> dict[str, dict]:
    """Returns by label what changes in `Dual`.

    >>> list(options(100))[0]
    'default'
    """
    return {
        "default": {},
        "data batch n/10": dict(data_batch=max(n // 10, 1)),
        "2 moves of particles": dict(particle_moves=2),
        "4 moves of particles": dict(particle_moves=4),
        "2 moves of neurons": dict(neuron_moves=2),
        "4 moves of neurons": dict(neuron_moves=4),
        "independent noise": dict(noise="independent"),
        "orthogonal noise": dict(noise="orthogonal"),
    }


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).n
    2000
    """
    settings = _common.settled(settings, PRESETS)
    checks.count("every", settings.every, 2)
    _common.check_multiple("steps", settings.steps, settings.every, "every")
    return settings


def measure(settings: Settings, teacher: str) -> tuple[xarray.DataArray, dict[str, float]]:
    """Returns the KL along (option, seed, step), and the seconds of a step of each option."""
    target = targets.teacher(teacher)
    methods = {label: dual.Dual(target.space, **changes) for label, changes in options(settings.n).items()}  # type: ignore[arg-type]
    curves, seconds = [], {}
    for seed in _common.seeds_of(settings):
        key, data, test = _common.draws(seed, target, settings.n, settings.test_points)  # type: ignore[arg-type]
        if not seconds:
            seconds = _common.seconds_a_step(methods, data, settings.repetitions)
        for label, method in methods.items():
            print(f"{teacher}, seed {seed}, {label}", file=sys.stderr)
            _, results = run(
                key, method, method.rates, data, steps=settings.steps, every=settings.every,  # type: ignore[arg-type]
                metrics={"kl": metrics.KLDivergence(target.energy, test)}, schedule=dual.annealing(), progress=False,
            )  # fmt: skip
            curves.append(results.kl.isel(run=0, drop=True, missing_dims="ignore").expand_dims(option=[label], seed=[seed]))
    return xarray.combine_by_coords([c.to_dataset(name="kl") for c in curves]).kl, seconds


DASHED = {"4 moves of particles": "--", "4 moves of neurons": "--", "orthogonal noise": "--"}
"""Dashes of the options of which a milder form has a solid line."""


def figure_of(kl: xarray.DataArray, seconds: xarray.DataArray) -> Figure:
    """Draws KL against seconds, a panel a teacher: the mean over seeds, with a band from the least to the largest."""
    figure, (panels,) = _common.panels_of(1, kl.sizes["teacher"], 3.4, sharey=True)
    for panel, teacher in zip(panels, kl.teacher.values, strict=True):
        for i, label in enumerate(seconds.option.values):
            curve = kl.sel(teacher=teacher, option=label)
            elapsed = curve.step * float(seconds.sel(teacher=teacher, option=label))
            form: dict[str, Any] = dict(color="black", linewidth=1.6) if label == "default" else dict(linestyle=DASHED.get(label, "-"))
            form |= dict(markevery=charts.marks(curve.step.values[1:], i))
            _common.band(panel, elapsed[1:], curve.transpose("seed", "step")[:, 1:], i - 1, alpha=0.12, label=label, **form)
        panel.set(title=_common.named(str(teacher)), xlabel="seconds of steps")
        charts.log_axis(panel.xaxis)
        charts.log_axis(panel.yaxis)
    panels[0].set_ylabel(_common.KL)
    _common.legend(figure, panels[:1], 4, title=_common.of_seeds(kl.sizes["seed"]))
    return figure


CAPTION = (
    "KL(teacher || student) against the seconds of the steps, on logarithmic axes, a panel for each teacher: the default and each "
    "option that changes what a step costs. Lines are means over {} seed(s), bands their least and largest."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Measures, writes `results.nc` and `summary.json`, and returns the content of the report."""
    measured = {teacher: measure(settings, teacher) for teacher in TEACHERS}
    names = list(measured)
    kl = xarray.concat([measured[t][0] for t in names], xarray.DataArray(names, dims="teacher", name="teacher"))
    order = list(measured[names[0]][1])
    seconds = xarray.DataArray(
        [[measured[t][1][label] for label in order] for t in names],
        coords={"teacher": names, "option": order}, attrs={"units": "s", "long_name": "seconds of a step"},
    )  # fmt: skip
    summary = {}
    for teacher in names:
        goals = [0.0184, 0.005, 0.001]
        budget = settings.steps * float(seconds.sel(teacher=teacher, option="default"))  # type: ignore[operator]
        for label in order:
            mean, each = kl.sel(teacher=teacher, option=label).mean("seed"), float(seconds.sel(teacher=teacher, option=label))
            reached = [_common.first_below(mean.step.values, mean.values, goal) for goal in goals]
            last = float(mean.sel(step=mean.step[mean.step * each <= budget * 1.001]).values[-1])
            times = [s * each if np.isfinite(s) else None for s in reached]
            summary[f"{teacher}, {label}"] = dict(seconds_a_step=each, seconds_to=dict(zip(map(str, goals), times, strict=True)), kl=last)
    settings.out.mkdir(parents=True, exist_ok=True)
    run_folder.to_netcdf(xarray.Dataset({"kl": kl, "seconds": seconds}), settings.out / "results.nc")
    (settings.out / "summary.json").write_text(json.dumps(summary, indent=1))
    rows = [
        {"teacher and option": name, "ms a step": 1e3 * row["seconds_a_step"], "KL in equal time": row["kl"]}
        | {f"seconds to {goal}": taken for goal, taken in row["seconds_to"].items()}
        for name, row in summary.items()
    ]
    sentences = []
    for teacher in names:
        ends = {label: summary[f"{teacher}, {label}"]["kl"] for label in order}
        best = min(ends, key=lambda label: ends[label])
        sentences.append(f"{teacher}: {best} {ends[best]:.3g} nat, default {ends['default']:.3g}.")
    return dict(
        title="Less work", summary=f"Least mean KL in the time that the default takes, on {' On '.join(sentences)}",
        about="KL against the time of steps, of each option that changes what a step costs.", rows=rows,
        figures={"less_work": (figure_of(kl, seconds), CAPTION.format(settings.seeds))},
        seeds=_common.seeds_of(settings), paper="nothing on it: its program has none of these options.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("less_work", given, settings.out, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
