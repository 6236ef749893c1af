"""The automatic fit without any setting on twelve tables, beside a normal distribution, kernels, a normal mixture and a normalising flow.

    python -m experiments.tables --preset quick
    python -m experiments.tables --preset paper
    python -m experiments.tables --preset paper --tables moons iris --seeds 2

Each table is split at random into 75% of the rows, on which each method is fitted and tuned, and 25%, which are scored: the mean log
density in nats, in units of the columns standardised by the former. Differences are taken row by row, on the same split. Each case, a
table, a split and a method, is a small file under `--out`/PRESET/cases, which a later call reads again unless a setting of the case has
changed. The flow needs flowjax: pip install 'dualebm[experiments]'.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dualebm._internal import checks
from dualebm.spaces import Euclidean
from experiments import _common, report
from experiments.densities import OURS, automatic, fitted, stored, total_seconds
from experiments.tables import reading, rivals, sets

METHODS = (OURS, *rivals.NAMES)
PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(tables=("moons", "iris"), seeds=1, epochs=20, stages=4, iterations=40, draws=4096, neurons=64),
    "paper": dict(tables=sets.NAMES, seeds=5, epochs=300),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (two tables, one split, short fits) or paper (twelve tables, 5 splits, the automatic fit with its defaults)."""
    tables: tuple[str, ...] | None = None
    """Names of the tables."""
    methods: tuple[str, ...] = METHODS
    """The methods, the automatic fit among them, and at least one rival."""
    seeds: int | None = None
    """Splits of each table."""
    first_seed: int = 0
    """The seeds of the splits are this and those that follow."""
    epochs: int | None = None
    """Largest number of epochs of a flow."""
    stages: int | None = None
    """Radii of the automatic fit, or none for its default, as for the three that follow."""
    iterations: int | None = None
    """Iterations at each radius."""
    draws: int | None = None
    """Draws of the base measure."""
    neurons: int | None = None
    """Neurons."""
    out: Path = Path("results/tables")
    """Folder of the results."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).tables
    ('moons', 'iris')
    """
    _common.check_each("tables", settings.tables, checks.choice, sets.NAMES)
    _common.check_each("methods", settings.methods, checks.choice, METHODS)
    if settings.methods[0] != OURS or len(settings.methods) < 2:
        raise ValueError(f"methods is {settings.methods}; it must begin with {OURS!r} and name at least one rival")
    settings = _common.settled(settings, PRESETS)
    automatic(settings)
    return settings


def case(settings: Settings, table: str, seed: int, method: str) -> dict[str, Any]:
    """Returns the case of a table, a split and a method, from its file or computed."""
    where = settings.out / settings.preset / "cases" / f"{table}-{seed}-{method}.json"
    train, held, indices = sets.split(table, seed)
    size = dict(rows=len(indices), columns=train.shape[1])
    same = dict(table=table, seed=seed, method=method)
    if method == OURS:
        auto, space = automatic(settings), Euclidean(train.shape[1])
        return stored(where, same | dataclasses.asdict(auto), lambda: fitted(seed, train, held, space, auto)[1]) | size
    score, decides = rivals.rival(method, seed, settings.epochs)  # pyright: ignore[reportArgumentType]
    return stored(where, same | decides, lambda: score(train, held)) | size


CAPTION = (
    "Mean log density of held-out rows of the automatic fit less that of other estimators, in nats, a line for each table; right of "
    "0 the automatic fit is better. Left: against the best rival, named beside the table, with its standard error (thick) and the "
    "least and largest of {} splits (thin). Right: against each rival, mean with the least and the largest over splits. The axes are "
    "linear within 0.1 of 0 and logarithmic beyond."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Computes the cases that have no file, split after split, and returns the content of the report."""
    cases: dict[str, dict[str, list]] = {table: {method: [] for method in settings.methods} for table in settings.tables or ()}
    for seed in _common.seeds_of(settings):
        for table, each in cases.items():
            for method, of in each.items():
                of.append(case(settings, table, seed, method))
    rows = reading.rows_of(cases)
    return dict(
        title="The automatic fit on twelve tables, beside other density estimators",
        about=(
            "Mean log density of the 25% of rows that are held out, in nats, columns standardised: the mean over "
            f"{settings.seeds} splits and its standard error. difference: the automatic fit less the best rival of the table, row by row, "
            "with the larger of its standard errors over the rows and over the splits, and with the least and the largest of the splits. "
            "The splits of a real table share rows, so that its errors are too small."
        ),
        rows=rows,
        summary=reading.outcome(cases),
        seconds=total_seconds(cases.values()),
        figures={"tables": (reading.figure_of(cases), CAPTION.format(settings.seeds))},
        seeds=_common.seeds_of(settings),
        paper="nothing on these tables.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("tables", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
