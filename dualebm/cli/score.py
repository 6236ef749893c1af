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
    """Draws samples of a fitted model by MALA, each the end of a separate chain from the base measure.

    For example: dualebm sample results/wind --count 1000 --out samples.csv
    """

    model: tyro.conf.Positional[Path]
    """The folder that dualebm fit wrote."""
    out: Path
    """The file to write, .csv or .npy, in the units of the data."""
    count: int = 1000
    """The number of samples."""
    steps: int = 1000
    """The number of moves of each chain."""
    step: float | None = None
    """The step of a move; None for the particle step of the fit."""
    seed: int = 0
    """The seed of all random numbers."""


def sample(settings: Sample) -> None:
    """Draw the samples, write them, and print the acceptance. Raises ValueError for a setting that is not allowed."""
    for name in ("count", "steps"):
        checks.count(name, getattr(settings, name))
    checks.seed("seed", settings.seed)
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
    """Computes the log density of a fitted model at each row of a file, in nats.

    For example: dualebm score results/wind new.csv --out scores.csv

    Rows are mapped to the space as in the fit. The columns of the output are log_density_base, with respect to the base
    measure, and on Euclidean space log_density_lebesgue, with respect to Lebesgue measure in the units of the data.
    """

    model: tyro.conf.Positional[Path]
    """The folder that dualebm fit wrote."""
    data: tyro.conf.Positional[Path]
    """A .csv, .npy or .npz file with one point per row."""
    out: Path | None = None
    """The file to write, .csv or .npy; None for standard output. The summary then goes to standard error."""
    quality: int = 0
    """The number of samples of the model to draw, as dualebm sample does, and to compare with the rows by MMD, energy distance,
    sliced Wasserstein distance and the p-value of a kernel Stein test; 0 for none. The rows should not have been trained on."""
    seed: int = 0
    """The seed of the samples of --quality."""


def score(settings: Score) -> None:
    """Write the log densities, and print log Z and the mean log densities with their errors.

    With --quality it also prints how near samples of the model are to the rows. Raises ValueError for a setting or a
    row that is not allowed.
    """
    checks.count("quality", settings.quality, 0)
    checks.seed("seed", settings.seed)
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
        densities = model.log_densities(fitted, points)
        measured = None
        if settings.quality:
            measured = quality.quality(jax.random.key(settings.seed), fitted, points, settings.quality, name=str(settings.data))
    table = np.stack(list(densities.values()), axis=1)
    if settings.out is None:
        print(",".join(densities))
        for row in table:
            print(",".join(f"{value:.9g}" for value in row))
    else:
        write_table(settings.out, list(densities), table)
    summary = sys.stderr if settings.out is None else sys.stdout
    print(fitted.log_partition.summary(), file=summary)
    for name, values in densities.items():
        mean = report.with_error(*model.mean_with_error(values, fitted.log_partition.standard_error))
        print(f"mean {report.LOG_DENSITIES[name]} of {len(values)} rows = {mean} nat", file=summary)
    if measured is not None:
        print("\n".join(quality.summary(measured)), file=summary)
        if measured["acceptance"] < 0.3:
            print("note: fewer than 30% of the samples' moves were accepted; they may not be samples of the model", file=sys.stderr)
    if settings.out is not None:
        print(f"written to {settings.out}")


def check_table(path: Path) -> None:
    """Check that a table can be written to a path.

    Raises ValueError for a suffix other than .csv and .npy, and FileNotFoundError when the folder is missing.

    >>> check_table(Path("samples.txt"))
    Traceback (most recent call last):
    ...
    ValueError: the suffix of samples.txt is '.txt'; Allowed: '.csv', '.npy'
    """
    checks.choice(f"the suffix of {path}", path.suffix.lower(), TABLES)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out is {str(path)!r}; there is no folder {str(path.parent)!r}")


def write_table(path: Path, names: list[str], values: np.ndarray) -> None:
    """Write columns to a .csv file, with a line of their names and all digits, or to a .npy file.

    Args:
        path: The file, whose suffix gives the format.
        names: The names of the columns.
        values: The columns, (rows, columns).

    Raises:
        OSError: When the file cannot be written.
    """
    digits = 9 if values.dtype == np.float32 else 17

    def write(temporary):
        with temporary.open("wb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, values)
            else:
                np.savetxt(file, values, f"%.{digits}g", ",", header=",".join(names), comments="")

    files.commit(path, write)
