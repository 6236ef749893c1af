"""log Z and the cross-entropy along dual training, by Jarzynski's weights on its particles.

    python -m experiments.weighted_dual --preset quick
    python -m experiments.weighted_dual --preset paper

Algorithm 1 of arXiv 2107.05134 with weights (`WeightedDual`; neither paper has them) beside the unweighted flow, whose log Z is followed by
the mean of exp(U - U') over its particles in every iteration (`Tracked`), or by weighted walkers that it does not see (`Audited`). On S^2
log Z is known by quadrature at every record. On S^14 the learnt energy has no exact log Z, but the teacher of two neurons has, by
quadrature of their plane: KL(teacher || student) by the walkers, E* (U - U*) + log Z - log Z*, is beside the divergence by exact samples of
the teacher, log E* exp(U* - U) + E* (U - U*), the same samples.
The particles are made slow: `ratio` is the neurons' step over its default, over that of the particles. Where they keep up with the
neurons the weights change nothing. Each sweep is a folder under `--out` from which the same command continues.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import measures, metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.flows import jarzynski
from dualebm.log_z.quadrature import log_partition
from dualebm.measures import Samples
from dualebm.methods.audited import Audited
from dualebm.methods.dual import Dual
from dualebm.methods.tracked import Tracked
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.metrics.base import Metric
from dualebm.metrics.walkers import EffectiveFraction
from dualebm.plotting import charts
from dualebm.sweeps.grid import product
from experiments import _common, report

TEACHERS = ("s2_bimodal", "s14_monomodal", "s14_bimodal")
SIZES = {
    "quick": dict(teachers=TEACHERS[:2], n=2000, particles=10_000, seeds=2),
    "paper": dict(teachers=TEACHERS, n=10_000, particles=100_000, seeds=5),
}
"""Of the settings that a preset decides."""

RECORDS = 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 2000, N = 1e4, 2 seeds) or paper (n = 1e4, N = 1e5, 5 seeds)."""
    teachers: tuple[str, ...] | None = None
    """Which of s2_bimodal, s14_monomodal, s14_bimodal; quick has the first two."""
    ratios: tuple[float, ...] = (0.1, 10.0)
    """Neurons' steps over those of the particles, each over its default; the slower has the tenth of its default, or its default."""
    n: int | None = None
    """Data points."""
    particles: int | None = None
    """N, even."""
    seeds: int | None = None
    """Runs of each kind."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    steps: int = 200
    """Iterations, a multiple of 20."""
    test_points: int = 20_000
    """Exact draws of the teacher on S^14."""
    out: Path = Path("results/weighted_dual")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).n
    2000
    """
    settings = _common.settled(settings, SIZES)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("ratios", settings.ratios, checks.number, positive=True)
    _common.check_multiple("steps", settings.steps, RECORDS)
    return settings


def steps_of(teacher: str, ratio: float) -> dict[str, float]:
    """Returns the rates of a ratio: what is slower keeps its default step divided by the ratio.

    >>> [round(steps_of("s2_bimodal", ratio)["particle_step"], 6) for ratio in (10.0, 0.1)]
    [0.02, 0.2]
    """
    default = Dual(targets.teacher(teacher).space).rates
    slow, fast = max(ratio, 1.0), min(ratio, 1.0)
    return dict(
        particle_step=default.particle_step / slow, transport_step=default.transport_step * fast, reaction_step=default.reaction_step * fast
    )  # type: ignore[operator]


class Estimate(Metric):
    """KL(teacher || student) with log Z by the walkers: E* (U - U*) + log Z - log Z*; the same with exact means; the error of log Z.

    On S^2 log Z and the mean are by quadrature. On S^14 the second is by the samples alone, `metrics.relative_entropy`, and has their
    error.
    """

    teacher: Energy
    samples: Samples
    log_partition: Any
    quadrature: Samples | None

    def __call__(self, key, iterate):
        """Returns (KL by the walkers, KL beside it, error of log Z, effective fraction), (4,)."""
        energy = iterate.energy
        x, reference = self.samples.points, self.teacher(self.samples.points)
        apart = measures.mean(energy(x) - reference, self.samples.log_weights)
        value, error = iterate.log_partition
        if isinstance(iterate.method, WeightedDual):  # the error that the weights would have if the neurons did not follow them
            value, error = jarzynski.log_partition(iterate.state.weights, iterate.method.resampling)
        if self.quadrature is None:
            beside = metrics.relative_entropy(energy, reference, self.samples)
        else:
            beside = apart + log_partition(energy, self.quadrature) - self.log_partition
        return jnp.stack([apart + value - self.log_partition, beside, error, EffectiveFraction()(key, iterate)])


def monitors(key, teacher, test_points) -> dict[str, Any]:
    """Returns the metrics."""
    target = targets.teacher(teacher)
    quadrature = target.quadrature()
    value = log_partition(target.energy, quadrature)
    if target.space.dimension == 3:
        return {"kl": Estimate(target.energy, metrics.exact_samples(target.energy, quadrature), value, quadrature)}
    return {"kl": Estimate(target.energy, targets.sample(key, target, test_points)[0], value, None)}


def methods(settings: Settings, teacher: str) -> dict[str, Any]:
    """Returns the methods by label.

    >>> list(methods(checked(Settings()), "s2_bimodal"))
    ['weighted', 'unweighted', 'unweighted, audited']
    """
    count: Any = settings.particles
    space = targets.teacher(teacher).space
    dual = Dual(space, particles=count)
    return {
        "weighted": WeightedDual(space, particles=count), "unweighted": Tracked(dual, chains=10_000),
        "unweighted, audited": Audited(dual, walkers=count),
    }  # fmt: skip


def swept(settings: Settings, teacher: str, ratio: float, label: str, method) -> xarray.Dataset:
    """Sweeps the seeds of a method."""
    print(f"{teacher}, ratio {ratio:g}: {label}", file=sys.stderr)
    runs = product(
        teacher=[teacher], n=[settings.n], test_points=[settings.test_points], seed=_common.seeds_of(settings),
        **{name: [value] for name, value in steps_of(teacher, ratio).items()},
    )  # fmt: skip
    return _common.swept(
        runs, method, None, _common.data, metrics=monitors, steps=settings.steps, every=settings.steps // RECORDS,
        folder=settings.out / f"{settings.preset}_{teacher}" / f"{label.replace(', ', '_')}_{ratio:g}",
    )  # fmt: skip


# -- Rows and figures -----------------------------------------------------------------------------------------


def rows_of(teacher: str, ratio: float, results: dict[str, xarray.Dataset]) -> list[dict]:
    """Returns a row for each method: KL by the walkers less that beside it, largest and at the end, and the error that the weights tell."""
    rows = []
    for label, one in results.items():
        values = one.kl.values
        off = values[..., 0] - values[..., 1]
        rows.append(dict(
            teacher=teacher, ratio=ratio, particles=label, KL=float(values[:, -1, 1].mean()), KL_by_walkers=float(values[:, -1, 0].mean()),
            off_at_end=float(off[:, -1].mean()), largest_off=float(np.abs(off).max()), error=float(np.mean(values[:, -1, 2])),
            least_effective=float(np.nanmin(values[..., 3])) if label != "unweighted" else None,
        ))  # fmt: skip
    return rows


NAMES = {
    "weighted": "weighted particles", "unweighted": "unweighted particles", "unweighted, audited": "unweighted, by weighted walkers beside",
}  # fmt: skip
"""The methods for readers. The last two train alike and differ in what estimates log Z."""


def figure_of(results: dict[tuple[str, float], dict[str, xarray.Dataset]]) -> Figure:
    """Draws the KL above, with log Z as it is, and below what the estimates of log Z add to it, a column for each teacher and ratio."""
    figure, panels = _common.panels_of(2, len(results), 4.6, sharex="col", sharey="row")
    for column, ((teacher, ratio), runs) in enumerate(results.items()):
        above, below = panels[:, column]
        for i, (label, one) in enumerate(runs.items()):
            x, values = one.step.values, one.kl.values
            form: dict[str, Any] = dict(markevery=(i, 5), alpha=0.15)
            if label != "unweighted, audited":  # trains as "unweighted" does
                _common.band(above, x, values[..., 1], i, **form)
            _common.band(below, x, values[..., 0] - values[..., 1], i, label=NAMES[label], **form)
            if label == "unweighted, audited":
                error = 2 * values[..., 2].mean(0)
                grey = dict(color="0.5", alpha=0.25, linewidth=0, zorder=0, label="twice the error of those walkers")
                below.fill_between(x, -error, error, **grey)
        for panel, linear in ((above, 0.01), (below, 0.001)):
            panel.axhline(0, color="0.6", linewidth=0.6, zorder=0)
            charts.signed_axis(panel.yaxis, linear)
        above.set_title(f"{_common.named(teacher)}\nratio {ratio:g}")
        below.set_xlabel("iteration")
    panels[0, 0].set_ylabel(_common.KL)
    panels[1, 0].set_ylabel("KL by the estimated log Z,\nless KL (nat)")
    count = next(iter(next(iter(results.values())).values())).sizes["run"]
    _common.legend(figure, [panels[1, 0]], 2, title=_common.of_seeds(count))
    return figure


# -- The command -------------------------------------------------------------------------------------------------


CAPTION = (
    "KL along dual training, a column for each teacher and ratio of time scales. Above: KL with the exact "
    "log Z, or by test points, against the iteration. Below: KL with log Z by the particles, or by weighted walkers beside them, less "
    "the KL above. Lines are means over {} seeds, bands their least and largest; the grey band is twice the standard error that the "
    "weights of the walkers give. Unweighted particles train alike with and without these walkers."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    results, rows = {}, []
    for teacher in settings.teachers or ():
        known = methods(settings, teacher)
        for ratio in settings.ratios:
            results[teacher, ratio] = {label: swept(settings, teacher, ratio, label, method) for label, method in known.items()}
            rows += rows_of(teacher, ratio, results[teacher, ratio])
    sentences = [
        f"{row['teacher']}, ratio {row['ratio']:g}, {row['particles']}: off by at most {row['largest_off']:.2g}, at the end by "
        f"{row['off_at_end']:.2g}" + (f" (its error is {row['error']:.2g})." if row["particles"] != "unweighted" else ".")
        for row in rows
    ]
    return dict(
        title="log Z along dual training",
        about=f"n = {settings.n}, N = {settings.particles}, {settings.seeds} seeds, {settings.steps} iterations. KL: exact on S^2, by "
        f"{settings.test_points} exact draws of the teacher on S^14; off: KL with log Z by the particles less that, mean over seeds at the "
        "end, and the largest of all records and seeds; error: of log Z, by the weights.",
        rows=rows, summary=" ".join(sentences),
        figures={"weighted_dual": (figure_of(results), CAPTION.format(settings.seeds))},
        seeds=_common.seeds_of(settings), paper="Neither paper has weights on the particles of the dual flow.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("weighted_dual", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
