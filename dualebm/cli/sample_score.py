"""`dualebm sample` and `dualebm score`: samples of a fitted model, and the log density of new data under it."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import tyro

from dualebm import model, quality
from dualebm._internal import checks, files
from dualebm.cli import report
from dualebm.data import tables
from dualebm.flows import langevin

TABLES = (".csv", ".npy")
"""The suffixes of the files that `sample` and `score` write."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Samples of a fitted model by MALA, each the end of a chain of its own from the base measure.

    For example: dualebm sample results/wind --count 1000 --out samples.csv
    """

    model: tyro.conf.Positional[Path]
    """The folder that dualebm fit wrote."""
    out: Path
    """The file to write, .csv or .npy, in the units of the data."""
    count: int = 1000
    """Samples."""
    steps: int = 1000
    """Moves of each chain."""
    step: float | None = None
    """Step of a move; None for the particle step of the fit."""
    seed: int = 0
    """Of everything that is drawn."""


def sample(settings: Sample) -> None:
    """Writes the samples and prints the acceptance."""
    for name in ("count", "steps"):
        checks.count(name, getattr(settings, name))
    checks.count("seed", settings.seed, 0)
    if settings.step is not None:
        checks.number("step", settings.step, positive=True)
    check_table(settings.out)
    with jax.enable_x64(model.read(settings.model)["precision"] == 64):
        fitted = model.load(settings.model)
        step = fitted.particle_step if settings.step is None else settings.step
        key = jax.random.key(settings.seed)
        x, acceptance = langevin.sample(key, fitted.energy, fitted.space, settings.count, steps=settings.steps, step=step)
        rows, acceptance = model.from_space(fitted, x), float(acceptance)
    write_table(settings.out, [f"x{i + 1}" for i in range(rows.shape[1])], rows)
    print(f"acceptance {acceptance:.3f} in {settings.steps} moves of step {step:.4g} from the base measure")
    if acceptance < 0.3:
        print(f"note: fewer than 30% of moves were accepted; give a --step smaller than {step:.4g}", file=sys.stderr)
    print(f"{settings.count} samples written to {settings.out}")


@dataclasses.dataclass(frozen=True)
class Score:
    """The log density of a fitted model at each row of a file, in nats.

    For example: dualebm score results/wind new.csv --out scores.csv

    Rows are brought to the space as those of the fit were. The columns are log_density_base, in the base measure, and on
    Euclidean space log_density_lebesgue, in the units of the data.
    """

    model: tyro.conf.Positional[Path]
    """The folder that dualebm fit wrote."""
    data: tyro.conf.Positional[Path]
    """A .csv, .npy or .npz file with one point per row."""
    out: Path | None = None
    """The file to write, .csv or .npy; None for standard output, and the summary for standard error."""
    quality: int = 0
    """Samples of the model to draw, as dualebm sample does, and compare with the rows: MMD, energy distance, sliced Wasserstein
    distance, and the p-value of a kernel Stein test, for rows that were not trained on; 0 for none."""
    seed: int = 0
    """Of what --quality draws."""


def score(settings: Score) -> None:
    """Writes the log densities, and prints log Z, its error, and the means; how near samples of the model are to the rows."""
    for name in ("quality", "seed"):
        checks.count(name, getattr(settings, name), 0)
    if settings.out is not None:
        check_table(settings.out)
    header = model.read(settings.model)
    with jax.enable_x64(header["precision"] == 64):
        fitted = model.load(settings.model)
        rows = tables.read(settings.data)
        points = model.to_space(
            rows, fitted.space, f"float{header['precision']}", normalise=fitted.normalise,
            mean=fitted.mean, scale=fitted.scale, name=str(settings.data),
        ).points  # fmt: skip
        found = model.log_densities(fitted, points)
        near = None
        if settings.quality:
            near = quality.quality(jax.random.key(settings.seed), fitted, points, settings.quality, name=str(settings.data))
    table = np.stack(list(found.values()), axis=1)
    if settings.out is None:
        print(",".join(found))
        for row in table:
            print(",".join(f"{value:.9g}" for value in row))
    else:
        write_table(settings.out, list(found), table)
    summary = sys.stderr if settings.out is None else sys.stdout
    print(fitted.log_partition.told(), file=summary)
    for name, values in found.items():
        told = report.with_error(*model.mean_with_error(values, fitted.log_partition.standard_error))
        print(f"mean {report.LOG_DENSITIES[name]} of {len(values)} rows = {told} nat", file=summary)
    if near is not None:
        print("\n".join(quality.told(near)), file=summary)
        if near["acceptance"] < 0.3:
            print("note: fewer than 30% of the samples' moves were accepted: they may not be the model's", file=sys.stderr)
    if settings.out is not None:
        print(f"written to {settings.out}")


def check_table(path: Path) -> None:
    """Raises ValueError for another suffix than .csv and .npy, FileNotFoundError where the folder is missing.

    >>> check_table(Path("samples.txt"))
    Traceback (most recent call last):
    ...
    ValueError: the suffix of samples.txt is '.txt'; Allowed: '.csv', '.npy'
    """
    checks.choice(f"the suffix of {path}", path.suffix.lower(), TABLES)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out is {str(path)!r}; there is no folder {str(path.parent)!r}")


def write_table(path: Path, names: list[str], values: np.ndarray) -> None:
    """Writes columns to a .csv file, with a line of their names and all their digits, or to a .npy file."""
    digits = 9 if values.dtype == np.float32 else 17

    def write(temporary):
        with temporary.open("wb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, values)
            else:
                np.savetxt(file, values, f"%.{digits}g", ",", header=",".join(names), comments="")

    files.commit(path, write)
