"""The automatic fit on volcanoes, earthquakes, floods and fires, beside kernels, a mixture and the numbers of published models.

    python -m experiments.earth --preset quick
    python -m experiments.earth --preset paper
    python -m experiments.earth --preset paper --sets volcano flood --seeds 2

The rows are latitudes and longitudes of natural disasters (Mathieu and Nickel 2020, arXiv 2006.10605). Each split holds 10% of the rows
out, as the published splits do. Published models divide the other 90% into 80% to train on and 10% to choose settings. Each method of this
study receives the 90% as a whole, and divides them by itself. Scores are negative log-likelihoods in nats with respect to the area of the
unit sphere, where the uniform density has log 4 pi = 2.531. Many rows repeat a place exactly, most of the volcanoes among them: at such a
place a sharp density scores without bound. So a second evaluation counts each place once. Each case, a set, a split and a method, is a
small file under `--out`/PRESET/cases, which a later call reads again unless a setting of the case has changed.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dualebm._internal import checks
from dualebm.candidates import Auto
from dualebm.plotting.projection import map_points
from experiments import _common, report
from experiments.densities import OURS, Scored, automatic, fitted, stored, total_seconds
from experiments.earth import reading, rivals, sets

METHODS = (OURS, *rivals.NAMES)
PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(sets=("volcano",), distinct=("volcano",), seeds=1, stages=3, iterations=30, draws=4096, neurons=64),
    "paper": dict(sets=sets.NAMES, distinct=("volcano", "earthquake"), seeds=5),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (volcanoes, one split, a short fit) or paper (four sets, 5 splits, the automatic fit with its defaults)."""
    data: Path = Path("data/earth")
    """Folder of the files volcano.csv, earthquake.csv, flood.csv and fire.csv."""
    sets: tuple[str, ...] | None = None
    """Names of the sets."""
    distinct: tuple[str, ...] | None = None
    """Those of which a second evaluation counts each place once. Of floods 14 rows repeat a place, of fires 7."""
    seeds: int | None = None
    """Splits of each set."""
    first_seed: int = 0
    """The seeds of the splits are this and those that follow."""
    stages: int | None = None
    """Radii of the automatic fit, or none for its default, as for the three that follow."""
    iterations: int | None = None
    """Iterations at each radius."""
    draws: int | None = None
    """Draws of the base measure."""
    neurons: int | None = None
    """Neurons."""
    out: Path = Path("results/earth")
    """Folder of the results."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed, or the folder lacks a file; the message names it.

    >>> checked(Settings(sets=("volcanoes",)))
    Traceback (most recent call last):
    ...
    ValueError: sets is 'volcanoes'; did you mean 'volcano'? allowed: 'volcano', 'earthquake', 'flood', 'fire'
    """
    _common.check_each("sets", settings.sets, checks.choice, sets.NAMES)
    given, settings = settings, _common.settled(settings, PRESETS)
    if given.distinct:
        _common.check_each("distinct", given.distinct, checks.choice, settings.sets)
    elif given.distinct is None:  # those of the preset that are among the sets
        again = tuple(name for name in settings.distinct or () if name in (settings.sets or ()))
        settings = dataclasses.replace(settings, distinct=again)
    automatic(settings)
    for name in settings.sets or ():
        if not (settings.data / f"{name}.csv").is_file():
            raise ValueError(f"data is {settings.data}, which has no file {name}.csv; give the folder of the four sets")
    return settings


def mapped(seed: int, train, held, auto: Auto, map_rows: int) -> Scored:
    """Fits a density, scores the rows held out, and keeps its log density on a map of `map_rows` rows, or no map for 0."""
    fit, (values, kept) = fitted(seed, train, held, sets.SPHERE, auto)
    if map_rows:
        points, _ = map_points(map_rows)
        at = jnp.asarray(points.reshape(-1, 3), jnp.float32)
        on_map = np.asarray(fit.space.log_base(at) - fit.energy(at), float) - fit.log_partition.value - fit.space.log_volume
        kept["map"] = np.round(on_map.reshape(points.shape[:2]), 2).tolist()
    return values, kept


def case(settings: Settings, name: str, distinct: bool, seed: int, method: str) -> dict[str, Any]:
    """Returns the case of a set, a split and a method, from its file or computed."""
    place = f"{name}-{'distinct' if distinct else 'all'}-{seed}-{method}.json"
    where = settings.out / settings.preset / "cases" / place
    split = sets.split(sets.rows_of(settings.data, name, distinct), seed)
    same = dict(set=name, distinct=distinct, rows=sum(map(len, split)), seed=seed, method=method)
    if method == OURS:
        auto, map_rows = automatic(settings), 0 if distinct or seed != settings.first_seed else reading.MAP_ROWS
        return stored(where, same | dataclasses.asdict(auto) | dict(map=map_rows), partial(mapped, seed, *split, auto, map_rows))
    score, decides = rivals.rival(method, seed)
    return stored(where, same | decides, lambda: score(*split))


DIFFERENCES = (
    "Mean log density of held-out places of the automatic fit less that of each rival, in nats, a line for each set; right of 0 the "
    "automatic fit is better. Marks are means over {} splits, lines reach from the least to the largest. The axis is linear within "
    "0.1 of 0 and logarithmic beyond."
)
MAPS = (
    "Log density of the automatic fit of the first split, by area of the unit sphere, on an equal-area map of the Earth, a panel for "
    "each set. Black dots are at most 1500 of its places."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Computes the cases that have no file, split after split, and returns the content of the report."""
    names, again = settings.sets or (), settings.distinct or ()
    both = [*((name, False) for name in names), *((name, True) for name in again)]
    cases: dict[tuple[str, bool], dict[str, list]] = {key: {method: [] for method in METHODS} for key in both}
    for seed in _common.seeds_of(settings):
        for (name, distinct), each in cases.items():
            for method, of in each.items():
                of.append(case(settings, name, distinct, seed, method))
    rows = {name: sets.rows_of(settings.data, name, False) for name in names}
    return dict(
        title="Places of natural disasters: the automatic fit beside kernels and published models",
        about=(
            "Negative log-likelihood of the 10% of rows that are held out, in nats by area: mean and standard deviation over "
            f"{settings.seeds} random splits. Less is better. The difference to the best rival is taken row by row, with the larger of its "
            "standard errors over the rows and over the splits, and the least and the largest of the splits. Published models had other "
            "random splits. The maps show the first split, with at most 1500 rows."
        ),
        rows=reading.rows_of(cases),
        summary=reading.outcome(cases),
        seconds=total_seconds(cases.values()),
        figures={
            "earth": (reading.figure_of(cases), DIFFERENCES.format(settings.seeds)),
            "earth_maps": (reading.maps_of(cases, rows), MAPS),
        },
        published=reading.published_of(cases),
        seeds=_common.seeds_of(settings),
        paper=(
            "the rows that name a paper, diffusion mixture by Jo and Hwang, flow matching by Chen and Lipman. None of these papers gives a "
            "row of kernels."
        ),
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("earth", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
