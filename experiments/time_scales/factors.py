"""The ratio alpha with one factor changed at a time: the signs, the number of neurons, the number of particles."""

import numpy as np

from dualebm.plotting import charts
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import cross, product, zipped
from experiments import _common
from experiments.time_scales.common import (
    BASE,
    RATIOS,
    Settings,
    Study,
    floor_of,
    grid_seeds,
    is_paper,
    paper_rates,
    ratio_axis,
    rows_of,
)

CAPTION = (
    "The ratio alpha with one factor changed at a time, on logarithmic axes: signs and number of the neurons above, number of the "
    "particles below. Left: KL at the end. Right: iterations from which KL stays within twice the least of the same line. Lines are "
    "medians over seeds, bars their least and largest."
)


def study(settings: Settings) -> Study:
    """Returns the sweep."""
    paper = is_paper(settings)
    changed = [dict(signs="half"), *(dict(neurons=m) for m in ((8, 16, 256, 1024) if paper else (16,)))]
    changed += [dict(particles=count) for count in ((100, 500, 20_000, 200_000) if paper else (100,))]
    common = dict(signs="all_negative", neurons=64, particles=2000)
    one_at_a_time = [common | change for change in [{}, *changed]]
    factor = ["none", *(f"{k} = {v}" for change in changed for k, v in change.items())]
    factors = zipped(**{name: [run[name] for run in one_at_a_time] for name in common}, factor=factor)
    factors = cross(factors, product(ratio=RATIOS[::2], seed=grid_seeds(settings, 2)))
    # N = 2e5 takes most of the time: it has the ends and the middle of alpha alone.
    kept = [i for i, count in enumerate(factors["particles"]) if count < 200_000 or factors["ratio"][i] in RATIOS[::4]]
    grid = zipped(**{name: [values[i] for i in kept] for name, values in factors.items()})
    return Study("The ratio alpha with one factor changed at a time.", grid, lambda factor: BASE, paper_rates, draw)


def words_of(factor: str) -> str:
    """Returns the name of a factor for readers.

    >>> words_of("particles = 200000"), words_of("signs = half")
    ('$N$ = $2·10^{5}$', 'signs half and half')
    """
    name, _, value = factor.partition(" = ")
    return "signs half and half" if name == "signs" else f"${dict(neurons='m', particles='N')[name]}$ = {charts.number(float(value))}"


def draw(results):
    """Draws KL at the end and iterations to twice the floor of each against alpha: factors of the neurons above, of the particles below."""
    names = list(dict.fromkeys(str(name) for name in results.factor.values))
    of_particles = [name for name in names if name.startswith("particles")]
    figure, panels = _common.panels_of(2, 2, 5.6)
    rows = []
    for row, chosen in enumerate(([name for name in names if name not in of_particles], ["none", *of_particles])):
        for i, name in enumerate(chosen):
            runs = results.isel(run=np.flatnonzero(results.factor.values == name))
            kl = runs.kl.drop_vars([c for c in runs.coords if c not in ("ratio", "seed", "step", "run")])
            kl = by_setting(kl.to_dataset(), ("ratio", "seed")).kl.transpose("ratio", "seed", "step")
            if (row, name) != (1, "none"):
                rows += [dict(factor=name) | cell for cell in rows_of(kl, ("ratio",))]
            label = words_of(("neurons = 64", "particles = 2000")[row] if name == "none" else name)
            times = _common.stays_below(kl, 2 * floor_of(kl[..., -1]))
            for panel, values in zip(panels[row], (kl[..., -1], times), strict=True):
                _common.bars(panel, kl.ratio, values.transpose("seed", "ratio"), i, len(chosen), np.nanmedian, label=label)
        for panel, title in zip(panels[row], ("KL at the end (nat)", "iterations to twice the least of each"), strict=True):
            ratio_axis(panel, label=row == 1, both=row == 0)
            charts.log_axis(panel.yaxis)
            panel.set_ylabel(title)
        panels[row, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    title = f"{_common.named('s14_monomodal')}, MALA, n = 1000; {_common.of_seeds(kl.sizes['seed'], 'median', 'bar')}"
    figure.suptitle(title, fontsize=8)
    return {"factors": (figure, CAPTION)}, rows
