"""How many data does a teacher of few directions need, as the ambient dimension grows? Active (F1) against lazy (F2) (arXiv 2104.07531).

    python -m experiments.hidden_dimension --preset quick
    python -m experiments.hidden_dimension --preset paper

Teachers of k orthogonal ReLU neurons on the sphere in R^d: the density depends on k coordinates of d. Their weights make
KL(teacher || uniform) the same for all k and d, so that what changes is the dimension alone. Students are Algorithm 1 (F1, both layers
of 64 neurons) and its lazy form (F2, random features); the radius of the ball and the iteration are chosen for each case by
validation. The summary is the n at which the KL falls to a given fraction of that of the uniform measure.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, annealing
from dualebm.methods.lazy import Lazy
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.selection import select
from experiments import _common, report

START = 0.5
"""KL(teacher || uniform), in nats."""

REGIMES = {"active": "F1", "lazy": "F2"}
RADII = {"active": (0.5, 1.0, 2.0), "lazy": (0.5, 1.0, 2.0, 4.0)}
"""Of the ball, in units of the norm of the teacher in F1; for F2 moreover times sqrt(d)."""

FEATURES = 1024
STEPS, RECORDS = 200, 20
TEST = 10_000
"""Validation points, and test points, whatever n (as the paper, which has 20,000 and more)."""

FIRST_REPEAT = 1000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (k = 1, d = 5 and 20, n to 1000) or paper (k = 1, 2, 4, d to 100, n to 30000)."""
    hidden: tuple[int, ...] | None = None
    """Hidden dimensions k, each at most d."""
    dimensions: tuple[int, ...] | None = None
    """Ambient dimensions d."""
    n: tuple[int, ...] | None = None
    """Data points."""
    repeats: int | None = None
    """Runs with new data."""
    fraction: float = 0.2
    """Of KL(teacher || uniform), at which n is read."""
    out: Path = Path("results/hidden_dimension")
    """Where results and figures are written."""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(hidden=(1,), dimensions=(5, 20), n=(10, 100, 1000), repeats=1),
    "paper": dict(hidden=(1, 2, 4), dimensions=(5, 10, 20, 50, 100), n=(10, 30, 100, 300, 1000, 3000, 10_000, 30_000), repeats=4),
}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).dimensions
    (5, 20)
    """
    settings = _common.settled(settings, PRESETS)
    for name, least in (("hidden", 1), ("dimensions", 2), ("n", 2)):
        _common.check_each(name, getattr(settings, name), checks.count, least)
    checks.number("fraction", settings.fraction, positive=True, largest=1)
    if max(settings.hidden) > min(settings.dimensions):  # pyright: ignore[reportArgumentType]
        raise ValueError(f"hidden is {settings.hidden}; each must be at most the least of dimensions, {min(settings.dimensions)}")  # pyright: ignore[reportArgumentType]
    return settings


# -- The runs ---------------------------------------------------------------------------------------------


def divergence(weight: float, hidden: int, dimension: int) -> float:
    """Returns KL(teacher || uniform) of k orthogonal neurons whose weights are `weight`, each, f = (1/k) sum_j w relu(x_j).

    The coordinates x_1 .. x_k of a uniform point have density ~ (1 - r^2)^((d - k - 2) / 2), or are the point where k = d. Exact for
    k <= 2; for more by 2^20 quasi-random normal points.

    >>> round(divergence(10.0, 1, 15), 4)
    0.2825
    """
    if hidden <= 2:
        return targets.planted(np.eye(hidden, dimension), [weight] * hidden).kl_to_uniform
    x = _uniform_coordinates(hidden, dimension)
    energy = weight * np.maximum(x, 0).mean(axis=1)
    p = np.exp(-energy - np.max(-energy))
    log_z = np.log(p.mean()) + np.max(-energy)
    return float(-(p * energy).sum() / p.sum() - log_z)


@cache
def _uniform_coordinates(hidden, dimension):
    """So many coordinates of points uniform on the sphere: normal ones over the length of all, a chi variable for the others."""
    from scipy.stats import chi2, norm, qmc

    unit = qmc.Sobol(hidden + 1, scramble=False).random(2**20) + 2.0**-21  # in the middle of their cells: none at 0, nor with z = 0
    z = norm.ppf(unit[:, :hidden])
    rest = chi2.ppf(unit[:, hidden], dimension - hidden) if dimension > hidden else 0.0
    return z / np.sqrt((z**2).sum(axis=1) + rest)[:, None]


@cache
def teacher(hidden: int, dimension: int) -> targets.Target:
    """Returns the teacher of k orthogonal neurons, of the negative weight that makes the divergence `START`."""
    from scipy.optimize import brentq

    weight = brentq(lambda w: divergence(w, hidden, dimension) - START, -1000.0, -0.1, xtol=1e-3)
    return targets.planted(np.eye(hidden, dimension), [weight] * hidden, name=f"k={hidden}, d={dimension}")


def data(key, hidden: int, dimension: int, n: int) -> Samples:
    """Draws n points of the teacher."""
    return targets.sample(key, teacher(hidden, dimension), n)[0]


def monitors(key, hidden: int, dimension: int) -> dict[str, Any]:
    """Returns the metrics: the KL to the teacher on validation points and on test points."""
    target = teacher(hidden, dimension)
    held, test = (targets.sample(k, target, TEST)[0] for k in jax.random.split(key))
    return {
        "kl": metrics.KLDivergence(target.energy, test),
        "validation": metrics.KLDivergence(target.energy, held),
        "acceptance": metrics.Acceptance(),
    }


def radii_of(hidden: int, dimension: int, regime: str) -> tuple[float, ...]:
    """Returns the radii to choose from."""
    norm = float(np.mean(np.abs(np.asarray(teacher(hidden, dimension).energy.coefficients))))
    scale = 1.0 if regime == "active" else dimension**0.5
    return tuple(round(norm * scale * factor, 3) for factor in RADII[regime])


def solve(settings: Settings, hidden: int, dimension: int, regime: str) -> xarray.Dataset:
    """Searches and repeats one case, and returns the KL of the repetitions along run, with n."""
    space = Sphere(dimension)
    method = Dual(space) if regime == "active" else Lazy(space, features=FEATURES)
    rates = method.rates if regime == "active" else method.rates._replace(ascent_step=float(dimension**2))
    schedule: Callable | None = annealing() if regime == "active" else None
    return select(
        dict(hidden=[hidden], dimension=[dimension], n=settings.n or ()), dict(radius=radii_of(hidden, dimension, regime)), method, rates,
        data, metrics=monitors, steps=STEPS, every=STEPS // RECORDS, schedule=schedule,
        repeats=range(FIRST_REPEAT, FIRST_REPEAT + settings.repeats),  # pyright: ignore[reportOperatorIssue]
        folder=settings.out / f"{settings.preset}_k={hidden}_d={dimension}_{regime}", progress=sys.stderr.isatty(),
    ).best  # fmt: skip


# -- Reading ----------------------------------------------------------------------------------------------


def needed(n: np.ndarray, kl: np.ndarray, level: float) -> float:
    """Returns the n at which the KL falls to a level, linear in logarithms between the first two n around it; NaN where there are none.

    >>> needed(np.array([100, 1000]), np.array([0.1, 0.001]), 0.01).round(3)
    np.float64(316.228)
    """
    below = np.flatnonzero(kl <= level)
    if not len(below):
        return np.nan
    i = below[0]
    if i == 0:
        return np.nan  # it has fallen below before the first
    x, y = np.log(n[i - 1 : i + 1]), np.log(kl[i - 1 : i + 1])
    return np.exp(x[0] + (x[1] - x[0]) * (np.log(level) - y[0]) / (y[1] - y[0]))


def by_count(best: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns n, and the KL of the repetitions, (repetitions, n)."""
    n = np.unique(best.n.values)
    return n, np.stack([best.kl.values[best.n.values == one] for one in n], axis=1)


def draw_curves(results: dict, settings: Settings) -> Figure:
    """Draws KL against n, a panel for each k and regime, a curve for each d."""
    hidden_dimensions: tuple[int, ...] = settings.hidden or ()
    rows = len(hidden_dimensions)
    figure, panels = _common.panels_of(rows, 2, 2.4 * rows + 0.5, sharex=True, sharey=True)
    for row, hidden in zip(panels, hidden_dimensions, strict=True):
        for panel, (regime, label) in zip(row, REGIMES.items(), strict=True):
            panel.axhline(START, color="black", linestyle="--", linewidth=0.8, label="zero energy (uniform)")
            panel.axhline(START * settings.fraction, color="black", linestyle=":", linewidth=0.8, label="level at which n is read")
            for i, dimension in enumerate(settings.dimensions):  # pyright: ignore[reportArgumentType]
                _common.band(panel, *by_count(results[hidden, dimension, regime]), i, label=f"d = {dimension}")
            panel.set_title(f"{regime} ({label}), k = {hidden}")
            charts.log_axis(panel.xaxis, settings.n)
        charts.log_axis(row[0].yaxis)
        row[0].set_ylabel(_common.KL)
    for panel in panels[-1]:
        panel.set_xlabel("data points n")
    title = f"mean of {settings.repeats} runs; band: least to largest" if settings.repeats > 1 else "1 run"  # pyright: ignore[reportOptionalOperand]
    _common.legend(figure, panels[0, :1], 4, title=title)
    return figure


CURVES = (
    "Test KL(teacher || student) against the number of data n, on logarithmic axes: active (F1) on the left, lazy (F2) on the right, "
    "a row for each hidden dimension k, a line for each ambient dimension d. Lines are means over {} repetition(s), bands their "
    "least and largest. The dashed line is the KL of the uniform density, the dotted line the level at which n is read."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    cases = [(k, d) for k in settings.hidden for d in settings.dimensions]  # pyright: ignore[reportOptionalIterable]
    results = {(k, d, regime): solve(settings, k, d, regime) for k, d in cases for regime in REGIMES}
    rows = []
    for k, d in cases:
        row: dict = dict(k=k, d=d, weight=float(teacher(k, d).energy.coefficients[0]))
        for regime, label in REGIMES.items():
            n, kl = by_count(results[k, d, regime])
            mean = kl.mean(axis=0)
            row[f"{label}_needs"] = needed(n, mean, settings.fraction * START)
            row |= {f"{label}_KL_{one}": value for one, value in zip(n, mean, strict=True)}
        rows.append(row)
    needs = "; ".join(f"k = {row['k']}, d = {row['d']}: {row['F1_needs']:.3g} against {row['F2_needs']:.3g}" for row in rows)
    figures = {"hidden_dimension": (draw_curves(results, settings), CURVES.format(settings.repeats))}
    return dict(
        title="Hidden dimension against ambient dimension",
        about=(
            f"n at which the test KL falls to {settings.fraction:g} of its start, {START:g} nat; {settings.repeats} repetition(s), radius "
            "and iteration by validation. nan where no n of those tried has it, or all have."
        ),
        rows=rows,
        summary=f"n to reach it, F1 against F2 (nan: not read): {needs}.",
        paper="its theorems: F1 adapts to hidden directions, F2 does not; it has no such figure.",
        figures=figures,
        seeds=range(FIRST_REPEAT, FIRST_REPEAT + settings.repeats),  # pyright: ignore[reportOperatorIssue]
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("hidden_dimension", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
