"""The mass of one of two far modes, the only parameter: where three ways to train it end, and what closed form says (arXiv 2305.19414).

    python -m experiments.two_modes --preset quick
    python -m experiments.two_modes --preset paper

The model is p N(-12, 1) + (1 - p) N(9, 1) with p = sigmoid(s); data have s = 1.4, training begins at s = .001. No walker crosses between
the modes. With p* the fraction of the data and p_0 that of the first walkers in the first mode:

    Jarzynski    weighted walkers of the model         s -> logit(p*) - logit(p_0) + s_0
    PCD          walkers begin as the data             s stays at s_0
    unweighted   walkers of the model, no weights      s = s_0 + eta (p* - p_0) t

Jarzynski's weights are made by the exact increments and by the work of continuous time in trapezoids, the paper's; nothing is resampled. In
float64: a step moves s by 1e-5 and less. Each sweep is a folder under `--out` from which the same command continues.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dualebm._internal import checks
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import FIXED, Jarzynski
from dualebm.metrics.base import Metric
from dualebm.plotting import charts
from dualebm.spaces import Euclidean
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from experiments import _common, report

FIRST, SECOND = -12.0, 9.0
"""The two means."""

TEACHER, START = 1.4, 0.001
"""s of the data and of the model at the start."""

ETA = 0.01
"""The speed of s in units of time; a step of dt is dt of time for the walkers."""

SPACE = Euclidean(1, Flat())
RECORDS = 200
JARZYNSKI = {"exact": "Jarzynski, exact", "trapezoid": "Jarzynski, trapezoid"}
PCD, UNWEIGHTED = "PCD", "unweighted"
TOLERANCE = 0.02
"""Of s at the end beside the closed form, in units of the latter."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(time_step=0.1, duration=7000.0, seeds=3),
    "paper": dict(time_step=0.01, duration=10_000.0, seeds=3),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (steps of .1 to time 7000) or paper (steps of .01 to time 10000, a million of them)."""
    n: int = 200
    """Data points, and walkers; even."""
    time_step: float | None = None
    """dt, the walkers' step; s has eta dt."""
    duration: float | None = None
    """The time at the end; s relaxes in about 600."""
    seeds: int | None = None
    """Runs of each kind."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    out: Path = Path("results/two_modes")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> steps_of(checked(Settings(preset="paper")))
    1000000
    """
    settings = _common.settled(settings, PRESETS)
    checks.count("n", settings.n, 2)
    if settings.n % 2:
        raise ValueError(f"n is {settings.n}; it must be even")
    checks.number("time_step", settings.time_step, positive=True, largest=0.5)
    checks.number("duration", settings.duration, positive=True)
    if steps_of(settings) % RECORDS or steps_of(settings) < 2 * RECORDS:
        ratio = f"duration / time_step is {settings.duration / settings.time_step:g}"  # type: ignore[operator]
        raise ValueError(f"{ratio}; it must be a multiple of {RECORDS}, and at least {2 * RECORDS}")
    return settings


def steps_of(settings: Settings) -> int:
    """Returns the iterations of a run."""
    return round(settings.duration / settings.time_step)  # type: ignore[operator]


# -- The model -----------------------------------------------------------------------------------------


class TwoModes(Energy):
    """U(x) = -log [p N(x; -12, 1) + (1 - p) N(x; 9, 1)], p = sigmoid(logit): a density, so that log Z = 0 on the flat line.

    >>> energy = TwoModes(jnp.zeros(()))
    >>> float(energy(jnp.array([[-12.0]]))[0])  # log 2 + log(2 pi) / 2
    1.612085...
    """

    logit: Float[Array, ""]

    def __call__(self, x: Float[Array, "N 1"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature."""
        first = jax.nn.log_sigmoid(self.logit) - 0.5 * (x[:, 0] - FIRST) ** 2
        second = jax.nn.log_sigmoid(-self.logit) - 0.5 * (x[:, 0] - SECOND) ** 2
        return 0.5 * float(np.log(2 * np.pi)) - jnp.logaddexp(first, second)

    def log_partition(self, space) -> Float[Array, ""]:
        """Returns 0."""
        del space
        return jnp.zeros((), self.logit.dtype)

    def sample(self, key, space, count: int) -> Float[Array, "count 1"]:
        """Returns `count` independent draws."""
        del space
        choice, normal = jax.random.split(key)
        first = jax.random.bernoulli(choice, jax.nn.sigmoid(self.logit), (count,))
        return (jnp.where(first, FIRST, SECOND) + jax.random.normal(normal, (count,), self.logit.dtype))[:, None]


def start(key, space, dtype) -> TwoModes:
    """Returns the model before training."""
    del key, space
    return TwoModes(jnp.asarray(START, dtype))


def data(key, n) -> Samples:
    """Returns n draws of the teacher, in float64 where JAX keeps it."""
    return Samples(TwoModes(jnp.asarray(TEACHER, jnp.result_type(float))).sample(key, SPACE, n))


def methods(n: int) -> dict[str, Any]:
    """Returns the methods by label; `increment` of the first is for the grid.

    >>> list(methods(200))
    ['Jarzynski', 'PCD', 'unweighted']
    """
    shared: dict[str, Any] = dict(integrator="geodesic", noise="independent", optimiser="gradient", **FIXED)
    return {
        "Jarzynski": Jarzynski(SPACE, start, walkers=n, resampling="none", **shared),
        PCD: Contrastive(SPACE, start, begin="data", **shared),
        UNWEIGHTED: Contrastive(SPACE, start, walkers=n, begin="model", **shared),
    }


def rates_of(method, time_step: float) -> Any:
    """Returns the rates of a method: in a step of dt the walkers move by dt, and s by eta dt times the gradient.

    >>> rates_of(methods(2)["PCD"], 0.5)[:2]
    (0.5, 0.005)
    """
    return method.rates._replace(particle_step=time_step, learning_rate=ETA * time_step)


# -- What is recorded ----------------------------------------------------------------------------------


class Logit(Metric):
    """s.

    >>> Logit().units
    '1'
    """

    long_name, units = "s, the logit of the mass of the first mode", "1"

    def __call__(self, key, iterate):
        """Returns s, a scalar."""
        del key
        return iterate.energy.logit


class Fraction(Metric):
    """The part in the first mode of the walkers, unweighted, and of the data, (2,).

    >>> Fraction().units
    '1'
    """

    long_name, units = "part in the first mode, of walkers and data", "1"

    def __call__(self, key, iterate):
        """Returns the two."""
        del key
        points = (iterate.samples.points, iterate.data.points)
        return jnp.stack([jnp.mean((x[:, 0] < 0.5 * (FIRST + SECOND)).astype(x.dtype)) for x in points])


MONITORS = {"logit": Logit(), "fraction": Fraction()}


def measured(settings: Settings) -> dict[str, xarray.Dataset]:
    """Returns the records of each kind of run along (run, step)."""
    records, steps = {}, steps_of(settings)
    for label, method in methods(settings.n).items():
        rates = rates_of(method, settings.time_step)  # type: ignore[arg-type]
        grid = dict(increment=list(JARZYNSKI)) if label == "Jarzynski" else {}
        print(label, file=sys.stderr)
        results = _common.swept(
            product(n=[settings.n], **grid, seed=_common.seeds_of(settings)), method, rates, data, metrics=MONITORS, steps=steps,
            every=steps // RECORDS, common=True, placement=Placement(batch_size=1), folder=settings.out / f"{settings.preset}_{label}",
        )  # fmt: skip
        if not grid:
            records[label] = results
            continue
        for increment, name in JARZYNSKI.items():
            records[name] = results.isel(run=np.flatnonzero(results.increment.values == increment))
    return records


# -- Closed forms, rows and figure -----------------------------------------------------------------------


def limit(data: float, walkers: float) -> float:
    """Returns where weighted walkers take s: logit(p*) - logit(p_0) + s_0, of the fractions of data and first walkers in the first mode.

    >>> round(limit(0.8, 0.5), 4)
    1.3873
    """
    return float(np.log(data / (1 - data)) - np.log(walkers / (1 - walkers)) + START)


def drifted(data: float, walkers: float, at: float) -> float:
    """Returns s of unweighted walkers at a time: s_0 + eta (p* - p_0) t.

    >>> drifted(0.75, 0.5, 100.0)
    0.251
    """
    return START + ETA * (data - walkers) * at


def expected(label: str, data: float, walkers: float, at: float) -> float:
    """Returns s of a kind of run at a time by the closed form."""
    if label == PCD:
        return START
    return drifted(data, walkers, at) if label == UNWEIGHTED else limit(data, walkers)


def rows_of(records: dict[str, xarray.Dataset], time_step: float) -> list[dict]:
    """Returns a row for each run: the fractions, s at the end beside the closed form, and how many walkers ever changed sides.

    A run has `held` where it is within 2% of the closed form; for PCD, whose s should not move, within 1e-9.
    """
    rows = []
    for label, results in records.items():
        at = time_step * float(results.step.values[-1])
        for seed, s, fractions in zip(results.seed.values, results.logit.values, results.fraction.values, strict=True):
            walkers, observed = fractions[0]
            closed_form, moved = expected(label, observed, walkers, at), np.abs(fractions[:, 0] - walkers).max()
            error = abs(s[-1] - closed_form)
            rows.append(dict(
                run=label, seed=int(seed), data=float(observed), first_walkers=float(walkers), closed_form=closed_form, s=float(s[-1]),
                relative=float(error / abs(closed_form)), held=bool(error <= (1e-9 if label == PCD else TOLERANCE * abs(closed_form))),
                crossed=float(moved),
            ))  # fmt: skip
    return rows


def mass_of(logit) -> np.ndarray:
    """Returns the mass of the first mode.

    >>> float(mass_of(0.0))
    0.5
    """
    return 1 / (1 + np.exp(-np.asarray(logit, float)))


def figure_of(records: dict[str, xarray.Dataset], time_step: float) -> Figure:
    """Draws the mass of the first mode against time, on one scale, a panel for each kind of run, with the closed forms."""
    figure, (panels,) = _common.panels_of(1, len(records), 2.7, sharex=True, sharey=True)
    for panel, (label, results) in zip(panels, records.items(), strict=True):
        at = time_step * results.step.values
        for i, (s, fractions) in enumerate(zip(results.logit.values, results.fraction.values, strict=True)):
            seed = f"seed {results.seed.values[i]}"
            panel.plot(at, mass_of(s), label=seed, markevery=(10 + 13 * i, 45), **_common.look(i))
            walkers, observed = fractions[0]
            closed = [expected(label, observed, walkers, t) for t in at]
            form = dict(color="black", linestyle=charts.DASHES[1], linewidth=1.0, zorder=3)
            panel.plot(at, mass_of(closed), label=None if i else "closed form", **form)
        panel.axhline(mass_of(TEACHER), color="0.5", linestyle="--", linewidth=0.8, label="teacher")
        panel.set(title=label.replace(", ", ",\n"), xlabel="time", ylim=(0.4, 1.03))
        panel.xaxis.set_major_locator(MaxNLocator(3))
    panels[0].set_ylabel("mass of the first mode")
    _common.legend(figure, panels[:1], 5)
    return figure


CAPTION = (
    "The mass of the first mode, the model's only parameter, against time, a panel for each kind of run and a coloured line for each "
    "seed. Black dotted lines are the closed form of each seed, for Jarzynski's correction its limit; the grey dashed line is the "
    "teacher."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    with jax.enable_x64(True):
        records = measured(settings)
    rows = rows_of(records, settings.time_step)  # type: ignore[arg-type]
    held = {label: [row["held"] for row in rows if row["run"] == label] for label in records}
    return dict(
        title="Two modes and their masses",
        about=f"s at time {settings.duration:g} by steps of {settings.time_step:g} beside the closed form of the parts of the data "
        f"and first walkers in the first mode; {settings.n} data, as many walkers. crossed: the largest change of the walkers' part.",
        rows=rows,
        summary="Within 2% of the closed form (PCD: 1e-9 of its start): "
        + ", ".join(f"{label} {sum(of)} of {len(of)}" for label, of in held.items()) + ".",
        figures={"two_modes": (figure_of(records, settings.time_step), CAPTION)}, seeds=_common.seeds_of(settings),  # type: ignore[arg-type]
        paper="A weighted run finds the mass, PCD stays where it began and unweighted walkers drift; curves without numbers.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("two_modes", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
