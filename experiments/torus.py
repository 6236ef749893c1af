"""Bumps on a circle, where everything can be computed: the flows of the F2 ball, with their last and their mean energy, beside F1.

    python -m experiments.torus --preset quick
    python -m experiments.torus --preset paper

The teacher is f* = sum_j q_j exp(a cos 2 pi (x - theta_j) - a) on the circle of length 1, a = 10, with four charges of which the absolute
values sum to beta = 10, the radius of all balls: it lies in the ball of F1, and outside that of F2. The kernel of F2 is
exp(-2a) I_0(2a cos pi (x - y)). Methods:

    natural     the kernel's flow, an iteration takes `particle_step`
    changed     the same in a time that runs with the MMD, as in the authors' programs: step 0.1, noise at the start 0.1
    squared     the squared MMD (Arbel et al. 2019), its temperature such that it has the same stationary state
    features    random features, whose charges ascend
    F1          Algorithm 1 with bumps
    mean field  its equations on a grid: F1 with infinitely many neurons and particles

The error of an energy is by quadrature, without noise: L2 of the centred energy, L1 of the density, and KL. The best of the F2 ball on the
same data, found by convex optimisation on a grid, is drawn beside.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.features import Bump
from dualebm.kernels import BumpKernel
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.lazy import KernelFlow, Lazy, LazyRates
from dualebm.methods.mean_field import MeanField
from dualebm.metrics import Acceptance
from dualebm.plotting import charts
from dualebm.spaces import Torus
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common, report

SPACE, CONCENTRATION, BETA = Torus(1), 10.0, 10.0
POSITIONS, CHARGES = (0.1, 0.3, 0.55, 0.8), (-4.0, -3.0, -2.0, 1.0)
GRID = 256
"""Points on which energies are recorded, and F2 is solved: at the 128 waves that they hold, bumps have no weight left."""

PARTICLE_STEP, FLOW_STEP, CHANGED_STEP, JITTER = 2e-3, 5e-4, 0.1, 0.1
"""Of the particles, by their acceptance; of the kernel's flows in natural time, whose energy follows the particles at once and overshoots
with longer steps; of changed time, the authors'; and their noise at the start."""

FLOWS, REST = ("natural", "changed", "squared"), ("features", "F1", "mean field")
METHODS = FLOWS + REST
F2 = METHODS[:4]
TITLES = {
    "natural": "kernel, natural time", "changed": "kernel, changed time", "squared": "kernel, squared MMD", "features": "random features",
    "F1": "F1, Algorithm 1", "mean field": "F1, mean field",
}  # fmt: skip
ERRORS = {"energy": "L2 error of the energy", "density": "L1 error of the density", "kl": "KL(teacher || student) (nat)"}
EVERY, LONGER = 10, 10
"""Iterations between records of the kernel's flows, and how many times as many iterations the other methods make, which cost little."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (100 seconds of CPU time) or paper (N = 1e3)."""
    n: int | None = None
    """Data points: 1000, in the paper preset 3000. A step of a kernel's flow takes a few N (N + n) kernels."""
    particles: int | None = None
    """N: 500, in the paper preset 1000."""
    steps: int | None = None
    """Iterations of the kernel's flows, a multiple of 10: 120, in the paper preset 200. The other methods make 10 times as many."""
    seeds: int | None = None
    """Runs of each method, each with its own data: 2, in the paper preset 3."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    out: Path = Path("results/torus")
    """Where results and figures are written."""


PRESETS = {"quick": dict(n=1000, particles=500, steps=120, seeds=2), "paper": dict(n=3000, particles=1000, steps=200, seeds=3)}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).n
    1000
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_multiple("steps", settings.steps, EVERY)
    return settings


# -- The teacher, and F2 solved -----------------------------------------------------------------------------


def nodes(count: int = GRID) -> np.ndarray:
    """Returns equally spaced points, (count,)."""
    return np.arange(count) / count


def bumps(x: np.ndarray, centres) -> np.ndarray:
    """Returns exp(a cos 2 pi (x_i - c_j) - a), (n, m).

    >>> bumps(np.array([0.25]), [0.25]).tolist()
    [[1.0]]
    """
    return np.exp(CONCENTRATION * (np.cos(2 * np.pi * (np.asarray(x)[:, None] - np.asarray(centres)[None])) - 1))


def teacher(x: np.ndarray) -> np.ndarray:
    """Returns f* at points (n,)."""
    return bumps(x, POSITIONS) @ np.array(CHARGES)


def density(energy: np.ndarray) -> np.ndarray:
    """Returns exp(-f) / Z at equally spaced points, along the last axis."""
    weights = np.exp(energy.min(axis=-1, keepdims=True) - energy)
    return weights / weights.mean(axis=-1, keepdims=True)


def sample(seed: int = 0, n: int = 1000) -> Samples:
    """Draws n points of the teacher, by its distribution function at 65536 points."""
    p = density(teacher((np.arange(2**16) + 0.5) / 2**16))
    below = np.append(0, np.cumsum(p)) / p.sum()
    drawn = np.interp(np.random.default_rng(seed).uniform(size=n), below, np.arange(2**16 + 1) / 2**16)
    return Samples(jnp.asarray(drawn[:, None] % 1, jnp.float32))


def errors(energy: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the errors, by the names of `ERRORS`, of energies at `nodes()` along the last axis.

    >>> {name: float(value.round(6)) for name, value in errors(teacher(nodes()) + 3).items()}
    {'energy': 0.0, 'density': 0.0, 'kl': 0.0}
    """
    energy = np.asarray(energy, np.float64)
    theirs = teacher(nodes(energy.shape[-1]))
    difference = energy - theirs
    difference = difference - difference.mean(axis=-1, keepdims=True)
    p, ours = density(theirs), density(energy)
    with np.errstate(divide="ignore"):
        kl = np.mean(p * np.log(p / ours), axis=-1)
    return {"energy": np.sqrt(np.mean(difference**2, axis=-1)), "density": np.mean(np.abs(p - ours), axis=-1), "kl": kl}


class Best(NamedTuple):
    """Of the F2 ball: the energy at `nodes()`, and the MMD of its model to the data."""

    energy: np.ndarray
    discrepancy: float


def best_of_ball(observed: np.ndarray, radius: float, iterations: int = 3000) -> Best:
    """Returns the energy of the F2 ball that is likeliest on data of which E_data phi at `nodes()` is `observed`.

    Projected ascent of -(h, observed) - log mean exp(-f), f = phi h / K, with the momentum of Nesterov, which starts afresh where it points
    the other way; its step is 1 / k(x, x), the largest curvature.
    """
    x = nodes(len(observed))
    phi = bumps(x, x)
    step = 1 / np.mean(phi[0] ** 2)
    h, ahead, t = np.zeros(len(x)), np.zeros(len(x)), 1.0
    witness = lambda h: phi.T @ density(phi @ h / len(x)) / len(x) - observed  # noqa: E731
    for _ in range(iterations):
        moved = ahead + step * witness(ahead)
        moved *= min(1, radius / np.sqrt(np.mean(moved**2)))
        if (ahead - moved) @ (moved - h) > 0:
            t = 1.0
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        ahead, h = moved + (before - 1) / t * (moved - h), moved
    return Best(phi @ h / len(x), float(np.sqrt(np.mean(witness(h) ** 2))))


def best_on(data: Samples | None = None, radius: float = BETA) -> Best:
    """Returns `best_of_ball` for data, or for the teacher itself."""
    x = nodes()
    observed = bumps(x, x).T @ density(teacher(x)) / len(x) if data is None else bumps(np.asarray(data.points)[:, 0], x).mean(axis=0)
    return best_of_ball(observed, radius)


# -- The methods ------------------------------------------------------------------------------------------


class Profile(eqx.Module):
    """f at the points of a grid: the last, and the mean over the iterations (NaN for a method that has none), (2, K)."""

    points: jax.Array

    def __call__(self, key, method, state, rates, data):
        """Returns both, in units of temperature."""
        del key
        if not isinstance(iterate.method, KernelFlow | Lazy):
            last = iterate.energy(self.points)
            return jnp.stack([last, jnp.full_like(last, jnp.nan)])
        off = None if isinstance(iterate.method, KernelFlow) else False
        last = dataclasses.replace(iterate.method, averaged=off)  # pyright: ignore[reportArgumentType]
        return jnp.stack([m.energy(iterate.state, iterate.rates, iterate.data)(self.points) for m in (last, iterate.method)])


def method_of(kind: str = METHODS[0], particles: int = 1000):
    """Returns the method of a name in `METHODS`, with so many particles."""
    kernel, bump = BumpKernel(SPACE, CONCENTRATION), Bump(SPACE, CONCENTRATION)
    flow = KernelFlow(SPACE, kernel, particles, averaged=GRID)
    return {
        "natural": flow,
        "changed": dataclasses.replace(flow, time="changed", jitter=JITTER),
        "squared": dataclasses.replace(flow, penalty="squared"),
        "features": Lazy(SPACE, bump, particles=particles, averaged=True),
        "F1": Dual(SPACE, bump, particles=particles),
        "mean field": MeanField(SPACE, bump, cells=GRID, neuron_cells=GRID, substeps=512),
    }[kind]


def rates_of(kind: str = METHODS[0]):
    """Returns the rates of a name in `METHODS`; 1 / T of the squared penalty is beta over the MMD at the optimum of the ball."""
    if kind in ("F1", "mean field"):
        return DualRates(PARTICLE_STEP, 0.002, 0.2, radius=BETA)
    if kind == "squared":
        return LazyRates(FLOW_STEP, radius=BETA / best_on().discrepancy)
    if kind == "features":
        return LazyRates(PARTICLE_STEP, radius=BETA, ascent_step=10.0)
    return LazyRates(CHANGED_STEP if kind == "changed" else FLOW_STEP, radius=BETA)


def solve(settings: Settings, kinds: tuple[str, ...], steps: int, every: int) -> xarray.Dataset:
    """Sweeps these methods, and returns `profile` (kind, seed, step, 2, K) and `acceptance`."""
    grid = product(kind=kinds, n=[settings.n], particles=[settings.particles], seed=_common.seeds_of(settings))
    metrics = {"profile": Profile(jnp.asarray(nodes()[:, None], jnp.float32)), "acceptance": Acceptance()}
    folder = settings.out / f"{settings.preset}_{'flows' if kinds == FLOWS else 'rest'}"
    results = _common.swept(grid, method_of, rates_of, sample, steps=steps, every=every, metrics=metrics, folder=folder)
    return by_setting(results, ("kind", "seed")).sel(kind=list(kinds))


# -- Figures ----------------------------------------------------------------------------------------------


def style(kind: str) -> dict:
    """Returns the colour, the marker and the label of a method."""
    return _common.look(METHODS.index(kind)) | dict(label=TITLES[kind])


def draw_errors(parts: list[xarray.Dataset], best: list[Best]) -> Figure:
    """Draws errors against iterations: above of the last energy, below of the mean one; median over seeds, least to largest."""
    figure, panels = _common.panels_of(2, 3, 4.6, sharex=True, sharey="col")
    of_best = [errors(one.energy) for one in best]
    for (row, column), panel in np.ndenumerate(panels):
        name = list(ERRORS)[column]
        for part in parts:
            for kind in part.kind.values:
                if row and kind not in F2:
                    continue
                values = errors(part.profile.sel(kind=kind).values[:, 1:, row])[name]
                i = METHODS.index(str(kind))
                _common.band(panel, part.step[1:], values, i, np.nanmedian, markevery=0.15, label=TITLES[str(kind)])
        level = np.median([one[name] for one in of_best])
        panel.axhline(level, color="black", linestyle="--", linewidth=0.8, label="best of the F2 ball")
        charts.log_axis(panel.xaxis)
        charts.log_axis(panel.yaxis)
        panel.set_title(ERRORS[name] if not row else None)
        if row:
            panel.set_xlabel("iteration")
    for row, label in enumerate(("last energy", "mean energy")):
        panels[row, 0].set_ylabel(label)
    _common.legend(figure, panels[0, :1], 4)
    return figure


def draw_profiles(parts: list[xarray.Dataset], best: Best) -> Figure:
    """Draws energies and densities at the end, of the first seed."""
    figure, panels = _common.panels_of(2, 3, 4.4, sharex=True, sharey="row")
    x = nodes()
    known = {"teacher": (teacher(x), "-"), "best of the F2 ball": (best.energy, "--")}
    for column, (title, row, kinds) in enumerate((("F2, last energy", 0, F2), ("F2, mean energy", 1, F2), ("F1", 0, METHODS[4:]))):
        lines = [(energy, dict(color="black", linestyle=dash, label=label)) for label, (energy, dash) in known.items()]
        for part in parts:
            lines += [
                (part.profile.sel(kind=kind)[0, -1, row].values, style(str(kind)) | dict(markevery=(5 * METHODS.index(kind), 40)))
                for kind in part.kind.values
                if kind in kinds
            ]
        for energy, look in lines:
            look |= dict(linewidth=1)
            panels[0, column].plot(x, energy - np.mean(energy), **look)
            panels[1, column].plot(x, density(np.asarray(energy, np.float64)), **look)
        panels[0, column].set_title(title)
        panels[1, column].set_xlabel("x (of a length of 1)")
    panels[0, 0].set_ylabel("energy, centred")
    panels[1, 0].set_ylabel("density")
    _common.legend(figure, panels[0, ::2], 4)
    return figure


def rows_of(parts: list[xarray.Dataset], best: list[Best]) -> list[dict]:
    """Returns the errors at the end of each method, medians over seeds, and how far its density is from that of the best of the F2 ball."""
    empty = dict(of="", iterations=None, to_best=None, acceptance=None)
    rows = [dict(method="best of the F2 ball", **medians_of([errors(b.energy) for b in best]), **empty)]
    for part in parts:
        for kind in part.kind.values:
            for i, label in enumerate(("last", "mean") if kind in F2 else ("last",)):
                ends = part.profile.sel(kind=kind)[:, -1, i].values
                apart = [float(np.mean(np.abs(density(f.astype(float)) - density(b.energy)))) for f, b in zip(ends, best, strict=True)]
                rows.append(dict(
                    method=TITLES[str(kind)], **medians_of([errors(f) for f in ends]), of=label, iterations=int(part.step[-1]),
                    to_best=float(np.median(apart)) if kind in F2 else None,
                    acceptance=float(part.acceptance.sel(kind=kind)[:, 1:].min()),
                ))  # fmt: skip
    return rows


def medians_of(each: list[dict]) -> dict[str, float]:
    """Returns medians over seeds, and the least and the largest KL.

    >>> medians_of([{"kl": 1.0}, {"kl": 2.0}])
    {'kl': 1.5, 'least_kl': 1.0, 'largest_kl': 2.0}
    """
    kl = [float(one["kl"]) for one in each]
    medians = {name: float(np.median([one[name] for one in each])) for name in each[0]}
    return medians | dict(least_kl=min(kl), largest_kl=max(kl))


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    steps: int = settings.steps  # pyright: ignore[reportAssignmentType]
    parts = [solve(settings, FLOWS, steps, EVERY), solve(settings, REST, LONGER * steps, LONGER * EVERY)]
    best = [best_on(sample(int(seed), settings.n)) for seed in parts[0].seed.values]  # pyright: ignore[reportArgumentType]
    figures = {"torus_errors": draw_errors(parts, best), "torus_profiles": draw_profiles(parts, best[0])}
    return dict(
        title="Bumps on a circle: F2 by its kernel, with its last and its mean energy, and F1",
        about=(
            f"Four bumps, n = {settings.n}, N = {settings.particles}, balls of radius {BETA:g}, {settings.seeds} seeds: median, least and "
            "largest. Errors by quadrature; the dashed line is the best of the F2 ball on the same data."
        ),
        rows=rows_of(parts, best),
        paper="Nothing: the toy is in the authors' programs (n = 1e4, N = 1e3), its teacher is not known.",
        figures=figures,
    )


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = completed(given)
    return report.run("torus", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
