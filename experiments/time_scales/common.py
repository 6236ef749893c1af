"""What the sweeps over time scales share: settings, data, metrics and rates; and how KL is read, drawn as a map, and put into rows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import xarray

from dualebm import metrics
from dualebm.data import targets
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.presets import rates_from_paper
from dualebm.metrics.base import Metric
from dualebm.plotting import charts
from dualebm.spaces import Sphere
from dualebm.sweeps.grid import Grid
from experiments import _common, report

STUDIES = ("claim", "restarts", "plane", "radius", "factors", "large")
RATIOS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
STEP_SIZE, BETA = 0.2, 10.0
"""The text's s and inverse temperature: particle_step 0.02 at alpha = 1, the authors' own."""

FACTORS = (2, 4)
"""Of the least median KL at the end: the thresholds to which times are counted."""

INTEGRATORS = ("projected", "mala")
BASE = Dual(Sphere(15), signs="all_negative")
"""The method, but for what a study changes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (minutes) or paper (n = 1e3, 3000 iterations; about 90 minutes on two cores)."""
    only: tuple[str, ...] = STUDIES
    """Which of claim, restarts, plane, radius, factors, large."""
    seeds: int | None = None
    """Runs of each cell, each with its own data, test points, neurons and noise."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    steps: int | None = None
    """Iterations of a run."""
    test_points: int = 10_000
    """Fresh draws of the teacher for the KL."""
    dry_run: bool = False
    """Print the runs and the predicted time of each study, from a run of each kind that is timed, and stop."""
    out: Path = Path("results/time_scales")
    """Where results and figures are written."""


class Study(NamedTuple):
    """A sweep: its runs, its method and rates as `sweep` asks for them, and what draws its results."""

    about: str
    grid: Grid
    method: Any
    rates: Callable
    draw: Callable[[xarray.Dataset], tuple[dict[str, report.Captioned], list[dict]]]


def is_paper(settings: Settings) -> bool:
    """Returns whether the preset is that of the paper."""
    return settings.preset == "paper"


def steps_of(settings: Settings) -> dict[str, int]:
    """Returns the iterations of a run and those between records."""
    paper = is_paper(settings)
    return dict(steps=settings.steps or (3000 if paper else 240), every=50 if paper else 20)


def ratios_of(settings: Settings) -> tuple[float, ...]:
    """Returns the ratios alpha of a study."""
    return RATIOS if is_paper(settings) else RATIOS[::2]


def grid_seeds(settings: Settings, count: int) -> range:
    """Returns the seeds of a study: `count` in the paper preset and 2 in quick, unless the settings say how many."""
    return _common.seeds_of(settings, settings.seeds or (count if is_paper(settings) else 2))


def steps_of_plane(settings: Settings) -> dict[str, list[float]]:
    """Returns the particle steps and the neuron steps of a plane, each over a factor of 100."""
    thinned = slice(None, None, 1 if is_paper(settings) else 2)
    five = lambda low: [float(f"{low * 10 ** (i / 2):.3g}") for i in range(5)]  # noqa: E731
    return dict(particle_step=five(0.001)[thinned], neuron_step=five(0.05)[thinned])


# -- Data, metrics and rates -----------------------------------------------------------------------------


def target(teacher: str = "s14_monomodal", radius: float = BETA) -> targets.Target:
    """Returns the teacher, with weights of minus its radius."""
    known = targets.teacher(teacher)
    return targets.planted(known.energy.positions, [-radius] * known.energy.positions.shape[0], name=teacher)


def data(key, teacher="s14_monomodal", n=1000, radius=BETA) -> Samples:
    """Draws n points of the teacher."""
    return targets.sample(key, target(teacher, radius), n)[0]


class ModeMass(Metric):
    """The mass that the particles give to the side of the first planted neuron, less that of the teacher's test points."""

    direction: jax.Array
    expected: jax.Array
    long_name, units = "mass of the first mode, less the teacher's", "1"

    def __call__(self, key, iterate):
        """The difference, a scalar in [-1, 1]."""
        return jnp.mean((self.direction @ iterate.state.columns > 0).astype(self.direction.dtype)) - self.expected


def monitors(count: int) -> Callable:
    """Returns the function that makes the metrics of a run from its settings, with so many test points."""

    def made(key, teacher="s14_monomodal", radius=BETA):
        planted = target(teacher, radius)
        test = targets.sample(key, planted, count)[0]
        first, second = planted.energy.positions
        between = first - second
        mass = jnp.mean((test.points @ between > 0).astype(between.dtype))
        return {
            "kl": metrics.KLDivergence(planted.energy, test),
            "total_variation": metrics.TotalVariation(),
            "acceptance": metrics.Acceptance(),
            "mode_mass": ModeMass(between, mass),
        }

    return made


def paper_rates(ratio, scale="particle", restart_probability=0.0, radius=BETA) -> DualRates:
    """Returns the rates of the text's alpha."""
    return rates_from_paper(STEP_SIZE, ratio, radius, restart_probability, scale)


def step_rates(particle_step, neuron_step, radius=BETA) -> DualRates:
    """Returns the rates of the two steps themselves."""
    return DualRates(particle_step, neuron_step, neuron_step, 0.0, radius)


# -- Reading and drawing -----------------------------------------------------------------------------------


def times_of(kl: xarray.DataArray, floor: float) -> dict[str, float]:
    """Returns the thresholds, and the median over seeds of the iterations to each."""
    thresholds = {f"KL_{factor}": factor * floor for factor in FACTORS}
    return {**thresholds, **{f"to_KL_{factor}": float(_common.stays_below(kl, factor * floor).median()) for factor in FACTORS}}


def floor_of(final: xarray.DataArray) -> float:
    """Returns the least median KL over seeds at the end of any cell."""
    return float(final.median("seed").min())


def ratio_axis(panel, label: bool = True, both: bool = True) -> None:
    """Puts alpha of the text on the axis below, and that of the program (ball of radius beta, temperature 1), beta times it, above."""
    charts.log_axis(panel.xaxis, RATIOS[::2])
    panel.set_xlim(RATIOS[0] / 1.2, RATIOS[-1] * 1.2)
    if label:
        panel.set_xlabel(r"$\alpha$ of the text ($\beta$ = 10)")
    if both:
        above = panel.secondary_xaxis("top", functions=(lambda x: BETA * x, lambda x: x / BETA))
        charts.log_axis(above.xaxis, [BETA * ratio for ratio in RATIOS[::2]])
        above.set_xlabel(r"$h_\theta / h_x$ ($\alpha$ at $\beta$ = 1)")


NAMES = {"ratio": r"$\alpha$ of the text ($\beta$ = 10)", "restart_probability": "restart probability $p_R$"}
NAMES |= {"particle_step": "particle step $h_x$", "neuron_step": r"neuron step $h_\theta$"}
INTEGRATOR_NAMES = {"projected": "projected step", "mala": "MALA"}


def heat(panel, cells: xarray.DataArray, x: str, y: str, norm, missing: str = "diverged"):
    """Draws a table of cells as colours, each with its number, or with the word for a cell that has none; returns the image."""
    image = _common.heat(panel, cells.transpose(y, x).values, cells[x].values, cells[y].values, norm, missing)
    panel.set(xlabel=NAMES[x], ylabel=NAMES[y])
    return image


def rows_of(kl: xarray.DataArray, names: tuple[str, ...]) -> list[dict]:
    """Returns a row for each cell: mean, least, largest and median KL at the end over seeds, and iterations to the thresholds."""
    floor = floor_of(kl[..., -1])
    stacked = kl.stack(cell=names)
    rows = []
    for cell in stacked.cell.values:
        at = stacked.sel(cell=cell).transpose("seed", "step")
        final = at[:, -1]
        names_of_cell = {n: (v.item() if hasattr(v, "item") else v) for n, v in zip(names, cell, strict=True)}
        ends = _common.spread(final, "final") | dict(median=float(final.median()))
        rows.append(names_of_cell | ends | times_of(at, floor))
    return rows


def two_maps(panels, kl: xarray.DataArray, x: str, y: str, norms=None) -> list:
    """Draws the median KL at the end and the median iterations to twice its floor as maps, on two panels.

    Args:
        panels: The two panels.
        kl: The KL along both settings, `seed` and `step`.
        x: The setting of the columns.
        y: The setting of the rows.
        norms: The two scales of colours; None for those of the values.

    Returns:
        The two images.
    """
    both = maps_of(kl)
    norms = norms or [_common.log_norm(values) for values in both]
    pairs = zip(panels, both, norms, ("diverged", "never"), strict=True)
    return [heat(panel, values, x, y, norm, word) for panel, values, norm, word in pairs]


def maps_of(kl: xarray.DataArray) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Returns the median KL at the end, and the median iterations to twice its floor."""
    return kl[..., -1].median("seed"), _common.stays_below(kl, 2 * floor_of(kl[..., -1])).median("seed")
