"""Neurons that move (F1) against neurons that stay (F2), on the planted teachers: how many data does each need?

    python -m experiments.dual_lazy --preset quick
    python -m experiments.dual_lazy --preset paper
    python -m experiments.dual_lazy --preset paper --n 30000 --seeds 1

A teacher of two ReLU neurons has norm 10 in F1, and none in F2: the larger the ball of F2, the nearer its functions come to the teacher,
and the more of the data's noise they fit. F1 is `Dual`, both layers of 64 neurons; F2 is `Lazy`, random features of which the charges alone
ascend, and at small n `KernelFlow`, which has all features, and the noise of its particles.

The radius is chosen for each n and seed on data held out, a quarter as many as n on top of the n, by the negative log-likelihood (log Z is
known here); F1 is also shown with the radius of the teacher. The KL is on points that chose nothing.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax.scipy.special import logsumexp
from matplotlib.figure import Figure

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.base import Energy
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, annealing
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy
from dualebm.metrics.base import Metric
from dualebm.plotting import charts
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import Grid, product
from experiments import _common, report

TEACHERS = ("s14_monomodal", "s14_bimodal", "s2_bimodal")
RADIUS = 10.0
"""Norm of the teachers in F1."""

RADII = {"F1": (5.0, 10.0, 20.0), "F2": (10.0, 20.0, 50.0, 100.0, 200.0), "kernel": (10.0, 20.0, 50.0, 100.0)}
FEATURES = 512
REFERENCES = 10_000
"""Points of the teacher by which log Z of a student is known for its held-out likelihood."""

RECORDS = 10
"""The records of a run. The summary is the mean over the last half of them."""

NAMES = {"F1": "F1, both layers (64 neurons)", "F2": f"F2, {FEATURES} random features", "kernel": "F2, all features (kernel)"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n to 2000) or paper (n to 1e4)."""
    teachers: tuple[str, ...] | None = None
    """Which of s14_monomodal, s14_bimodal, s2_bimodal: all in the paper preset, the first in quick."""
    n: tuple[int, ...] | None = None
    """Data points: 300 and 2000 in quick; 100, 300, 1000, 3000, 10000 in the paper preset."""
    kernel_n: int = 300
    """Data points of the flow of the kernel, whose cost grows with the square; one of n."""
    seeds: int | None = None
    """Runs of each cell, each with its own data: 2, in the paper preset 3."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    more_features: int | None = None
    """A second number of random features, at kernel_n: none in quick, 2048 in the paper preset."""
    steps: int | None = None
    """Iterations, a multiple of 10: 200 on S^14 and 600 on S^2; the flow of the kernel makes 100."""
    test_points: int = 10_000
    """Fresh draws of the teacher for the KL."""
    out: Path = Path("results/dual_lazy")
    """Where results and figures are written."""


PRESETS = {
    "quick": dict(teachers=TEACHERS[:1], n=(300, 2000), seeds=2),
    "paper": dict(teachers=TEACHERS, n=(100, 300, 1000, 3000, 10_000), seeds=3, more_features=2048),
}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).n
    (300, 2000)
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("n", settings.n, checks.count, 4)  # a quarter as many are held out
    if settings.kernel_n not in settings.n:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"kernel_n is {settings.kernel_n}; it must be one of n, {', '.join(map(str, settings.n))}")  # pyright: ignore[reportArgumentType]
    _common.check_multiple("steps", settings.steps, RECORDS)
    return settings


# -- The runs ---------------------------------------------------------------------------------------------


class HeldOut(Metric):
    """E U + log Z over held-out points, the negative log-likelihood; log Z - log Z* = log E* exp(U* - U) over reference points."""

    samples: Samples
    references: Samples
    reference: jax.Array
    known: float
    long_name, units = "negative log-likelihood of held-out data", "nat"

    def __init__(self, teacher: Energy, log_partition: float, samples: Samples, references: Samples):
        self.samples, self.references = samples, references
        self.reference, self.known = teacher(references.points), log_partition

    def __call__(self, key, iterate):
        """Returns the mean over the held-out points, a scalar."""
        del key
        energy = iterate.energy
        difference = self.reference - energy(self.references.points)
        return jnp.mean(energy(self.samples.points)) + self.known + logsumexp(difference) - jnp.log(difference.size)


def monitors(count: int) -> Callable:
    """Returns the function that makes the metrics of a run from its settings, with so many test points."""

    def made(key, teacher: str, n: int):
        target = targets.teacher(teacher)
        sizes = (count, max(n // 4, 1), REFERENCES)
        test, held_out, references = (targets.sample(k, target, size)[0] for k, size in zip(jax.random.split(key, 3), sizes, strict=True))
        return {
            "kl": metrics.KLDivergence(target.energy, test),
            "held_out": HeldOut(target.energy, target.log_partition, held_out, references),
            "acceptance": metrics.Acceptance(),
        }

    return made


def method_of(kind: str, teacher: str, features: int = FEATURES):
    """Returns the method of a name in `NAMES`, N = 2n."""
    space = targets.teacher(teacher).space
    return {"F1": Dual(space), "F2": Lazy(space, features=features), "kernel": KernelFlow(space)}[kind]


def rates_of(kind: str, teacher: str, radius: float, features: int = FEATURES):
    """Returns the method's rates, but charges ascend by d^2: the covariance of ReLU features has eigenvalues of at most about 1 / 4 d^2."""
    rates = method_of(kind, teacher, features).rates._replace(radius=radius)
    d = targets.teacher(teacher).space.dimension
    return rates._replace(ascent_step=float(d * d)) if kind == "F2" else rates


def steps_of(settings: Settings, kind: str, teacher: str) -> int:
    """Returns the iterations of a run."""
    return settings.steps or (100 if kind == "kernel" else 600 if teacher.startswith("s2") else 200)


def solve(settings: Settings, kind: str, teacher: str, grid: Grid, label: str) -> xarray.Dataset:
    """Sweeps one method; returns KL, held-out likelihood and acceptance along (n, radius, seed), as means over the second half of a run."""
    steps = steps_of(settings, kind, teacher)
    warmup = annealing(400, 0.5) if teacher.startswith("s2") else annealing()
    results = _common.swept(
        grid, method_of, rates_of, _common.data, steps=steps, every=steps // RECORDS, metrics=monitors(settings.test_points),
        schedule=warmup if kind == "F1" else None, folder=settings.out / f"{settings.preset}_{teacher}_{label}",
    )  # fmt: skip
    return by_setting(results, ("n", "radius", "seed")).isel(step=slice(-RECORDS // 2, None)).mean("step")


def solve_all(settings: Settings) -> dict[tuple[str, str], xarray.Dataset]:
    """Returns the results of each teacher and label; labels are those of `NAMES`, and `features` for the second number of them."""
    seeds, results = _common.seeds_of(settings), {}
    for teacher in settings.teachers:  # pyright: ignore[reportOptionalIterable]
        few = (settings.kernel_n,)
        asked = {"F1": ("F1", settings.n, FEATURES), "F2": ("F2", settings.n, FEATURES), "kernel": ("kernel", few, FEATURES)}
        if settings.more_features is not None:
            asked["features"] = ("F2", few, settings.more_features)
        for label, (kind, counts, features) in asked.items():
            more = dict(features=[features]) if kind == "F2" else {}
            grid = product(kind=[kind], teacher=[teacher], n=counts, radius=RADII[kind], **more, seed=seeds)  # pyright: ignore[reportArgumentType]
            results[teacher, label] = solve(settings, kind, teacher, grid, label)
    return results


# -- Reading ----------------------------------------------------------------------------------------------


def validated(results: xarray.Dataset) -> xarray.Dataset:
    """Returns `kl` and `radius` along (n, seed), at the radius whose held-out likelihood is best.

    >>> values = xarray.DataArray([[[3.0, 1.0], [2.0, 5.0]]], {"n": [9], "radius": [5, 10], "seed": [0, 1]}, ("n", "radius", "seed"))
    >>> chosen = validated(xarray.Dataset({"kl": 10 * values, "held_out": values}))
    >>> chosen.kl.values.tolist(), chosen.radius.values.tolist()
    ([[20.0, 10.0]], [[10.0, 5.0]])
    """
    radius = results.held_out.fillna(np.inf).idxmin("radius")
    return xarray.Dataset({"kl": results.kl.sel(radius=radius).drop_vars("radius"), "radius": radius})


def lines_of(results: dict, teacher: str) -> dict[str, xarray.DataArray]:
    """Returns the KL of each curve along (n, seed)."""
    active = results[teacher, "F1"]
    return {
        f"F1, radius {RADIUS:g} (the teacher's)": active.kl.sel(radius=RADIUS),
        "F1, radius by held-out data": validated(active).kl,
        "F2, radius by held-out data": validated(results[teacher, "F2"]).kl,
    }


def slope(kl: xarray.DataArray) -> float:
    """Returns the slope of log KL against log n, by least squares through all seeds.

    >>> round(slope(xarray.DataArray([[0.1], [0.01]], {"n": [100, 1000], "seed": [0]}, ("n", "seed"))), 6)
    -1.0
    """
    x, y = np.broadcast_arrays(np.log(kl.n.values)[:, None], np.log(kl.transpose("n", "seed").values))
    return float(np.polyfit(x.ravel(), y.ravel(), 1)[0])


def draw_radii(results: dict, settings: Settings) -> Figure:
    """Draws KL against the radius, at kernel_n of all methods, and at the largest n of two; a panel for each teacher."""
    figure, (panels,) = _common.panels_of(1, len(settings.teachers), 3.2, sharey=True)  # pyright: ignore[reportArgumentType]
    few, many = settings.kernel_n, max(settings.n)  # pyright: ignore[reportArgumentType]
    small, large = charts.number(few), charts.number(many)
    for panel, teacher in zip(panels, settings.teachers, strict=True):  # pyright: ignore[reportArgumentType]
        panel.axhline(targets.teacher(teacher).kl_to_uniform, color="black", linestyle="--", linewidth=0.8, label="zero energy (uniform)")
        labels = {
            f"F1, n = {small}": ("F1", few), f"F1, n = {large}": ("F1", many),
            f"F2, n = {small}": ("F2", few), f"F2, n = {large}": ("F2", many),
            f"F2 by its kernel, n = {small}": ("kernel", few), f"F2, {settings.more_features} features, n = {small}": ("features", few),
        }  # fmt: skip
        for i, (label, (kind, n)) in enumerate(labels.items()):
            if (teacher, kind) in results:
                kl = results[teacher, kind].kl.sel(n=n)
                form = dict(linestyle="--" if n == few else "-", label=label)
                _common.band(panel, kl.radius, kl.transpose("seed", "radius"), i, np.nanmedian, alpha=0.15, **form)
        panel.set(title=_common.named(teacher), xlabel="radius of the ball")
        charts.log_axis(panel.xaxis, sorted({r for radii in RADII.values() for r in radii}))
        charts.log_axis(panel.yaxis)
    panels[0].set_ylabel(_common.KL)
    _common.legend(figure, panels[:1], 3, title=_common.of_seeds(settings.seeds, "median"))  # pyright: ignore[reportArgumentType]
    return figure


def rows_of(results: dict, settings: Settings) -> list[dict]:
    """Returns for each teacher and n the KL of each curve, median and range, and the radius chosen for F2."""
    rows = []
    for teacher in settings.teachers:  # pyright: ignore[reportOptionalIterable]
        chosen = validated(results[teacher, "F2"]).radius
        for n in settings.n:  # pyright: ignore[reportOptionalIterable]
            row: dict = dict(teacher=teacher, n=n)
            for short, kl in zip(("F1", "F1_held_out", "F2"), lines_of(results, teacher).values(), strict=True):
                row |= _common.spread(kl.sel(n=n), short, f"{short}_least", f"{short}_largest", of="median")
            rows.append(row | dict(F2_radius=float(chosen.sel(n=n).median()), ratio=row["F2"] / row["F1"]))
    return rows


RADII_CAPTION = (
    "KL(teacher || student) against the radius of the ball, on logarithmic axes, a panel for each teacher. Lines are medians over {} "
    "seeds, bands their least and largest. The dashed line is the KL of the uniform density: above it a fit is worse than none."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    results = solve_all(settings)
    figures = {"dual_lazy_radius": (draw_radii(results, settings), RADII_CAPTION.format(settings.seeds))}
    slopes = [
        f"{teacher} {slope(lines[0]):.2f} (F1, radius {RADIUS:g}) and {slope(lines[2]):.2f} (F2)"
        for teacher in settings.teachers  # pyright: ignore[reportOptionalIterable]
        for lines in [list(lines_of(results, teacher).values())]
        if len(settings.n) > 1  # pyright: ignore[reportArgumentType]
    ]
    return dict(
        title="Neurons that move against neurons that stay",
        about=(
            f"KL to the planted teachers against n: F1 by Algorithm 1 (64 neurons, N = 2n), F2 by {FEATURES} random features; "
            f"{settings.seeds} seeds: median, least and largest, of the mean over the second half of each run. The radius of F2 is chosen "
            "for each n and seed by the likelihood of n / 4 points more."
        ),
        rows=rows_of(results, settings),
        summary="Slopes of log KL against log n: " + "; ".join(slopes) + "." if slopes else "",
        paper="Its experiments are in F1: it has no such comparison.",
        figures=figures,
        seeds=_common.seeds_of(settings),
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("dual_lazy", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
