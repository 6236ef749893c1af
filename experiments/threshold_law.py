"""When does a resampling threshold act on a model at rest, and what noise does it keep? The law of unadjusted weights (arXiv 2305.19414).

    python -m experiments.threshold_law --preset quick
    python -m experiments.threshold_law --preset paper

The energy |x|^2 / 2 in d dimensions does not change, and walkers make unadjusted Langevin moves of step h. Their log weights are then
A_k = h/4 (|X_0|^2 - |X_k|^2). (X_0, X_k) is Gaussian in each coordinate, with variances 1 and v and covariance r = (1 - h)^k, so that the
effective fraction (E e^A)^2 / E e^2A is

    f_k = ((1 - h) (1 + v h) + r^2 h^2)^(d/2),   v = r^2 + (1 - r^2) / (1 - h/2),   at rest f = ((1 - h) (1 + h/2) / (1 - h/2))^(d/2)

about exp(-d h^2 / 4), and 0 from h = 1 on. A threshold C above f is crossed every k(C) steps for ever, and each crossing leaves the
variance (1 / f_k(C) - 1) / N in log Z, which no later step takes back. Both are measured with `Jarzynski` at a learning rate of 0, by the
papers' threshold 1/1.05 and by 1/2.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from dualebm._internal import checks
from dualebm.base_measures import Flat
from dualebm.energies.base import Energy
from dualebm.measures import Samples
from dualebm.methods.jarzynski import algorithm_1
from dualebm.plotting import charts
from dualebm.spaces import Euclidean
from experiments import _common, report

PAPER, HALF = 1 / 1.05, 0.5
"""The threshold of the papers, and the default of `Jarzynski`."""

NEVER = 1e-30
"""A threshold that is never crossed."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(dimensions=(1, 10, 100, 1000), steps=(0.01, 0.03, 0.1, 0.3, 0.6, 0.9), seeds=8),
    "paper": dict(dimensions=(1, 3, 10, 30, 100, 300, 1000), steps=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95, 1.0), seeds=64),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (four dimensions, six steps, 8 seeds) or paper (seven, nine and 64)."""
    dimensions: tuple[int, ...] | None = None
    """d."""
    steps: tuple[float, ...] | None = None
    """h, each at most 1."""
    seeds: int | None = None
    """Independent populations of each case, at least 2."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    walkers: int = 128
    """N of each population, even."""
    time: float = 3.0
    """The time k h after which everything is measured."""
    most: int = 20
    """The largest number of steps; small h then end at an earlier time."""
    out: Path = Path("results/threshold_law")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).seeds
    8
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_each("dimensions", settings.dimensions, checks.count)
    _common.check_each("steps", settings.steps, checks.number, positive=True, largest=1)
    checks.count("seeds", settings.seeds, 2)
    checks.count("walkers", settings.walkers, 2)
    _common.check_multiple("walkers", settings.walkers, 2)
    checks.number("time", settings.time, positive=True)
    return settings


# -- The law ---------------------------------------------------------------------------------------------


def fraction_after(k: float, dimension: int, h: float) -> float:
    """Returns the effective fraction f_k of walkers that were exact samples k steps ago; k may be infinite.

    >>> [round(f, 3) for f in (fraction_after(math.inf, 10, 0.3), fraction_after(0, 10, 0.3), fraction_after(math.inf, 1, 1.0))]
    [0.762, 1.0, 0.0]
    """
    r = (1 - h) ** k if h < 1 or k == 0 else 0.0
    v = r**2 + (1 - r**2) / (1 - h / 2)
    return max((1 - h) * (1 + v * h) + r**2 * h**2, 0.0) ** (dimension / 2)


def first_order(dimension: int, h: float) -> float:
    """Returns exp(-d h^2 / 4), to first order the effective fraction at rest.

    >>> round(first_order(10, 0.3), 3)
    0.799
    """
    return math.exp(-dimension * h**2 / 4)


def crossing(threshold: float, dimension: int, h: float, most: int) -> int | None:
    """Returns the first of `most` steps after which the effective fraction is below a threshold, or None.

    >>> crossing(PAPER, 1000, 0.03, 60), crossing(PAPER, 1, 0.03, 60), crossing(HALF, 1000, 0.9, 60)
    (4, None, 1)
    """
    return next((k for k in range(1, most + 1) if fraction_after(k, dimension, h) < threshold), None)


def noise_kept(threshold: float, dimension: int, h: float, steps: int) -> tuple[float, float]:
    """Returns sqrt(N) times the standard deviation of log Z after some steps by the law, and the number of resamplings.

    Each resampling after k steps adds 1 / f_k - 1, and the steps since the last add as much of their own. To first order in 1 / N.

    >>> noise_kept(PAPER, 1, 0.03, 60)[1]
    0
    """
    k = crossing(threshold, dimension, h, steps)
    count = 0 if k is None else steps // k
    rest = steps - count * (k or 0)
    parts = [count, 1], [fraction_after(k or 0, dimension, h), fraction_after(rest, dimension, h)]
    variance = sum(n * (1 / f - 1) if f > 0 else math.inf for n, f in zip(*parts, strict=True) if n)
    return math.sqrt(variance), count


# -- The measurement -------------------------------------------------------------------------------------


class Resting(Energy):
    """|x|^2 / 2 in the flat measure; its factor is there to be trained, at a learning rate of 0."""

    factor: jax.Array

    def __call__(self, x):
        """Returns the energy at points, (N,)."""
        return 0.5 * self.factor * jnp.sum(x**2, axis=1)

    def log_partition(self, space):
        """Returns log Z."""
        return 0.5 * space.dimension * jnp.log(2 * jnp.pi / self.factor)

    def sample(self, key, space, count):
        """Draws exact samples."""
        return jax.random.normal(key, (count, space.dimension), self.factor.dtype) / jnp.sqrt(self.factor)


def resting(key, space, dtype) -> Resting:
    """Returns the energy, of factor 1."""
    del key, space
    return Resting(jnp.ones((), dtype))


@partial(jax.jit, static_argnames=("dimension", "walkers"))
def populations(keys, dimension, walkers, h, threshold, steps):
    """Moves independent populations, and returns their log weights, log Z less its true value, and resamplings, a row for each key."""
    space = Euclidean(dimension, Flat())
    method = algorithm_1(space, resting, walkers=walkers, optimiser="gradient")
    rates = method.rates._replace(particle_step=h, learning_rate=0.0, threshold=threshold)
    data = Samples(jnp.zeros((1, dimension)))

    def one(key):
        first = method.init(jax.random.fold_in(key, 0), rates, data)
        body = lambda i, state: method.step(jax.random.fold_in(key, i + 1), state, rates, data)[0]  # noqa: E731
        state = jax.lax.fori_loop(0, steps, body, first)
        off = method.log_partition(state)[0] - method.log_partition(first)[0]
        return state.weights.log_weights, off, state.weights.resamplings

    return jax.lax.map(one, keys)


def rows_of(settings: Settings) -> list[dict]:
    """Returns a row for each dimension and step: the effective fraction, and the noise and the resamplings by both thresholds."""
    known: Any = settings
    rows = []
    for dimension in known.dimensions:
        for h in known.steps:
            steps = min(math.ceil(known.time / h), known.most)
            keys = jnp.stack([jax.random.key(seed) for seed in _common.seeds_of(known)])
            row: dict[str, Any] = dict(
                dimension=dimension, step=h, steps=steps, first_order=first_order(dimension, h),
                rest=fraction_after(math.inf, dimension, h), law=fraction_after(steps, dimension, h),
            )  # fmt: skip
            weights, _, _ = populations(keys, dimension, known.walkers, h, NEVER, steps)
            row["measured"] = effective_fraction(np.asarray(weights, float).ravel())
            for name, threshold in (("paper", PAPER), ("half", HALF)):
                _, off, resamplings = populations(keys, dimension, known.walkers, h, threshold, steps)
                noise, count = noise_kept(threshold, dimension, h, steps)
                row |= {
                    f"{name}_resamplings": float(np.mean(resamplings)), f"{name}_resamplings_law": count,
                    f"{name}_noise": float(np.sqrt(np.mean(np.asarray(off, float) ** 2) * known.walkers)), f"{name}_noise_law": noise,
                }  # fmt: skip
            rows.append(row)
    return rows


def effective_fraction(log_weights: np.ndarray) -> float:
    """Returns (mean w)^2 / mean w^2 of weights w.

    >>> round(effective_fraction(np.log([1.0, 3.0])), 6)
    0.8
    """
    w = np.exp(log_weights - log_weights.max())
    return float(np.mean(w) ** 2 / np.mean(w**2))


# -- Figure and report -----------------------------------------------------------------------------------


def figure_of(rows: list[dict], settings: Settings) -> Figure:
    """Draws the effective fraction at rest, and the noise in log Z by both thresholds, against the step."""
    figure, (panels,) = _common.panels_of(1, 3, 3.0)
    fine = np.geomspace(min(settings.steps or ()), 0.999, 200)
    for i, dimension in enumerate(settings.dimensions or ()):
        own, look = [row for row in rows if row["dimension"] == dimension], _common.look(i)
        h, colour = [row["step"] for row in own], look["color"]
        panels[0].plot(fine, [fraction_after(math.inf, dimension, x) for x in fine], color=colour)
        panels[0].plot(h, [row["measured"] for row in own], **{**look, "linestyle": "none"}, label=f"d = {dimension}")
        for panel, name in zip(panels[1:], ("paper", "half"), strict=True):
            panel.plot(h, [row[f"{name}_noise_law"] for row in own], color=colour)
            panel.plot(h, [row[f"{name}_noise"] for row in own], **{**look, "linestyle": "none"})
    for threshold in (PAPER, HALF):
        panels[0].axhline(threshold, color="0.5", linestyle=charts.DASHES[1], linewidth=0.8)
    panels[0].set(xscale="log", xlabel="step h", ylabel="effective fraction at rest", ylim=(0, 1.04))
    for panel, title in zip(panels[1:], ("threshold 1/1.05", "threshold 1/2"), strict=True):
        panel.set(xscale="log", yscale="log", ylim=(1e-3, 3e1), xlabel="step h", title=title)
    panels[1].set_ylabel("noise of log Z, times root N")
    _common.legend(figure, panels[:1], 7)
    return figure


CAPTION = (
    "Left, the effective fraction of weights of unadjusted moves at rest against the step, a colour for each dimension: lines are the law, "
    "markers the measurement at the end, and grey dotted lines the thresholds 1/1.05 and 1/2. Middle and right, the noise of log Z at the "
    "end by each threshold, in units of 1 / root N: lines are the law, markers the measurement."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    rows = rows_of(settings)
    seen = [row for row in rows if row["law"] > 0.05]
    worst = max((abs(row["measured"] - row["law"]) for row in seen), default=math.nan)
    acting = [row for row in rows if row["rest"] < PAPER]
    return dict(
        title="The threshold law",
        about=f"|x|^2 / 2 at rest, {settings.seeds} populations of {settings.walkers} walkers, to time {settings.time:g} or "
        f"{settings.most} steps. law: at the end of the run; rest: for ever. Noise of log Z in units of 1 / root N.",
        rows=rows,
        summary=f"The threshold 1/1.05 acts on a model at rest in {len(acting)} of {len(rows)} cases, 1/2 in "
        f"{sum(row['rest'] < HALF for row in rows)}. Where the law is above .05, the measured fraction is within {worst:.2g} of it.",
        figures={"threshold_law": (figure_of(rows, settings), CAPTION)}, seeds=_common.seeds_of(settings),
        paper="1/1.05 is recommended, in d = 50 with h = .1 and on images.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("threshold_law", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
