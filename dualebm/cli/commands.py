"""The settings of the commands. Each class of `COMMANDS` is a command of `dualebm`, and each of its fields is a flag.

A class states the type, the default and the meaning of its flags. The settings of training methods are not here, as `cli.methods` reads
them from the methods.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from dualebm.cli.flags import Grid, Needs, Positional, Shown
from dualebm.settings import Bound, Count, CountOrZero, NonNegative, Positive, Seed

Share = Annotated[float, Bound(largest=1)]
"""A number in [0, 1]."""


# -- Groups of flags -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a file.

    Args:
        data: the file with one point per row: .csv, .tsv, .npy, .npz, .parquet or .xlsx.
        columns: the columns to use, separated by commas: their names, or their numbers from 1 where the file has no names.
        drop_missing: leave out the rows with missing values, which are an error otherwise.
        weights: the column of the weights of the rows, by name, or by number from 1 where the file has no names. A weight counts as that
            many equal rows, up to a common factor. The column is no coordinate.
    """

    group: ClassVar = "data"
    data: Annotated[Path, Positional()]
    columns: Annotated[str | None, Shown("all but --weights")] = None
    drop_missing: bool = False
    weights: Annotated[str | None, Shown("equal weights")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """The points that the rows become.

    Args:
        space: the space of the points: sphere (rows of norm 1), euclidean, or torus (coordinates in [0, period)).
        normalise: divide the rows by their norms (sphere).
        latlon: the two columns are latitude and longitude in degrees (sphere). Names such as lat and lon tell which is which. Otherwise
            --columns gives the latitude first.
        standardise: subtract the mean of each column and divide by its standard deviation (euclidean). Samples and densities are in the
            units of the data all the same.
        period: the period of the coordinates (torus).
        holdout: the fraction of the rows, drawn at random, that enter no choice and no training. Their mean log density is reported.
    """

    group: ClassVar = "data"
    space: Literal["sphere", "euclidean", "torus"]
    normalise: bool = False
    latlon: bool = False
    standardise: Annotated[bool, Needs("method")] = False
    period: Annotated[Positive | None, Shown("1")] = None
    holdout: Share = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """The compiled programs.

    Args:
        cache: keep compiled programs in the cache folder of the user, so that the next command starts faster.
    """

    group: ClassVar = "machine"
    cache: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision(Programs):
    """The precision of all numbers.

    Args:
        precision: the precision in bits.
    """

    group: ClassVar = "machine"
    precision: Literal[32, 64] = 32


# -- Commands ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(Precision, Points, Table):
    """Fits a density to the rows of a file.

    For example: dualebm fit wind.csv --space sphere --normalise --out results/wind

    The model is exp(-U) times a base measure. By default base measure, feature and radius are chosen by validation. With --method and the
    name of a training method that method trains U, and the base measure is uniform on the sphere and the torus, and the standard Gaussian
    on Euclidean space. The command writes records, checkpoints and the model into --out. The same command continues a fit that was
    interrupted. dualebm fit --method lazy --help lists the flags of lazy.

    Args:
        out: the folder to write: a new or an empty one, or the folder of the fit to continue.
        config: a TOML file with values of flags by name. Flags win over it.
        steps: the number of iterations, a multiple of --every.
        every: the number of iterations between records.
        validation: the fraction of the rows that are not held out that are validation rows. The method does not train on them. The model is
            the energy of their least cross-entropy along the training, which ends when this has clearly risen, and for jarzynski and
            contrastive also when it has not fallen for two thirds of the iterations so far. 0 trains on all of the rows.
        mend: whether a training of fixed steps that has become worse or has diverged goes back to its best energy so far with half the
            steps, and its particle step follows the acceptance. The model is then its best energy. Otherwise, and in less than 100
            iterations, all steps stay as given.
        anneal: the fraction of the iterations in which the radius grows to its value. Afterwards the steps of the neurons fall. 0 keeps
            radius and steps.
        gap_chains: the number of annealed chains that estimate the duality gap at the end. On the circle and S^2 a quadrature takes
            their place. 0 leaves the gap out.
        replicates: the number of replicates of a bootstrap, from which the error bars of log densities come, or 0 for none.
        seed: the seed of all random numbers.
    """

    group: ClassVar = "run"
    out: Path
    config: Annotated[Path | None, Shown("no file")] = None
    replicates: Annotated[CountOrZero, Needs("validation")] = 20
    steps: Annotated[Count | None, Shown("6000 for jarzynski and contrastive with a target, else 2000"), Needs("method")] = None
    every: Annotated[int, Bound(least=2), Needs("method")] = 20
    validation: Annotated[Share | None, Shown("0.2 for jarzynski, contrastive and likelihood, else 0"), Needs("method")] = None
    mend: Annotated[bool, Needs("method")] = True
    anneal: Annotated[Share, Needs("annealing")] = 0.2
    gap_chains: Annotated[CountOrZero, Needs("radius")] = 20_000
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Programs):
    """Draws samples of a fitted model.

    For example: dualebm sample results/wind --count 1000 --out samples.csv

    Samples are weighted draws of the base measure, where at least 1% of these draws count. Otherwise, and with --steps or --step, each
    sample is the end of a chain of MALA moves from the base measure. Samples are in the units of the data.

    Args:
        model: the folder that dualebm fit wrote.
        out: the file to write, .csv or .npy.
        count: the number of samples.
        steps: the number of moves of each chain.
        step: the step of a move.
        seed: the seed of all random numbers.
    """

    group: ClassVar = "run"
    model: Annotated[Path, Positional()]
    out: Annotated[Path | None, Shown("standard output")] = None
    count: Count = 1000
    steps: Annotated[Count | None, Shown("0 where weighted draws of the base measure suffice, else 1000")] = None
    step: Annotated[Positive | None, Shown("the particle step of the fit")] = None
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Programs):
    """Computes the log density of a fitted model at each row of a file, in nats.

    For example: dualebm score results/wind new.csv --out scores.csv

    The columns of the file are matched by name to those of the fit. The columns of the output are log_density_base, with respect to the
    base measure, and the density in the units of the data: log_density_lebesgue, or on a sphere log_density_area, with respect to the
    surface measure.

    Args:
        model: the folder that dualebm fit wrote.
        rows: the file with one point per row: .csv, .tsv, .npy, .npz, .parquet or .xlsx.
        columns: the columns to use, separated by commas: their names, or their numbers from 1 where the file has no names.
        drop_missing: leave out the rows with missing values, which are an error otherwise.
        weights: the column of the weights of the rows in their mean, by name, or by number from 1 where the file has no names.
        out: the file to write, .csv or .npy. With standard output the summary goes to standard error.
        quality: the number of samples of the model to draw and to compare with the rows by MMD, energy distance, sliced Wasserstein
            distance and the p-value of a kernel Stein test. 0 draws none. The rows should not have been trained on, and have equal weights.
        seed: the seed of the samples of --quality.
    """

    group: ClassVar = "run"
    model: Annotated[Path, Positional()]
    rows: Annotated[Path, Positional()]
    columns: Annotated[str | None, Shown("those of the fit by name, or all")] = None
    drop_missing: bool = False
    weights: Annotated[str | None, Shown("equal weights")] = None
    out: Annotated[Path | None, Shown("standard output")] = None
    quality: CountOrZero = 0
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates by the time scales of the paper, in place of the three steps and the radius.

    Args:
        alpha: the ratio of time scales, (transport_step / particle_step) / beta.
        beta: the inverse temperature, which is the radius.
        step_size: the step s. The default is a particle_step of 0.02.
        scale: the process that s is the step of: the particles, or the faster of both processes.
    """

    group: ClassVar = "scales"
    alpha: Annotated[tuple | None, Grid(NonNegative), Shown("none"), Needs("scales")] = None
    beta: Annotated[tuple | None, Grid(Positive), Shown("10"), Needs("scales")] = None
    step_size: Annotated[tuple | None, Grid(Positive), Shown("0.2"), Needs("scales")] = None
    scale: Annotated[Literal["particle", "fast"], Needs("scales")] = "particle"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(Precision):
    """The devices of one machine.

    Args:
        batch_size: the number of runs in memory at a time.
        devices: the number of devices that share the runs. Without it each core of a CPU computes runs of its own, and elsewhere the
            first device computes all.
        devices_per_run: the number of devices that share the particles of each run.
    """

    group: ClassVar = "machine"
    batch_size: Annotated[Count | None, Shown("as many as fit")] = None
    devices: Annotated[Count | None, Shown("each core of a CPU")] = None
    devices_per_run: Count = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines(Devices):
    """Several machines.

    Args:
        process: the index of this process and the number of processes that share the runs, such as 0/4. The words slurm, mpi and pmi
            ask the launcher.
        coordinator: the address host:port of process 0, or auto with slurm and mpi. The processes of --process then share the particles
            of each run, in place of the runs.
    """

    group: ClassVar = "machine"
    process: Annotated[str | None, Shown("0/1")] = None
    coordinator: Annotated[str | None, Shown("none")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grids(Devices):
    """The runs of a grid of settings.

    Args:
        out: the folder to write: a new or an empty one, or the folder of the command to continue.
        config: a TOML file with values of flags by name (alpha = "0.05:20:log9", or a list). Flags win over it.
        seed: the seeds of data, neurons and noise.
        steps: the number of iterations, a multiple of --every.
        every: the number of iterations between records.
        anneal: the fraction of the iterations in which the radius grows to its value. Afterwards the steps of the neurons fall. 0 keeps
            radius and steps.
        common: use common random numbers: runs of one seed have the same noise and start.
    """

    group: ClassVar = "run"
    out: Path
    config: Annotated[Path | None, Shown("no file")] = None
    seed: Annotated[tuple, Grid(Seed)] = (0, 1, 2, 3)
    steps: Count = 1000
    every: Count = 20
    anneal: Annotated[Share, Needs("annealing")] = 0.0
    common: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweeps(Grids, Machines, Rates):
    """A sweep.

    Args:
        resume: continue the sweep of --out with the flags with which it was started.
        dry_run: print runs, batches, memory and the predicted time, and stop.
    """

    group: ClassVar = "run"
    resume: bool = False
    dry_run: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Sweeps):
    """Runs a method for every combination of the values given, on planted teachers or on the rows of a file.

    For example: dualebm sweep --alpha 0.05:20:log9 --seed 0:32 --restart-probability 0,1/40,1 --out results/alpha

    A flag with [,...] takes one value, a list (0,1/40,1), a range of integers without its end (0:32), or a spaced range with both ends
    (0.05:20:log9, 0:1:lin5). The same command continues a sweep that was interrupted. With more values it adds runs. Each method has flags
    for its settings: dualebm sweep --method lazy --help lists those of lazy. dualebm sweep DATA --help lists the flags of a sweep on rows.

    Args:
        teacher: the planted teacher: s14_monomodal, s14_bimodal, s2_monomodal or s2_bimodal.
        n: the number of data points.
        test_points: the number of fresh draws of the teacher that estimate KL and score.
    """

    group: ClassVar = "run"
    teacher: Annotated[tuple, Grid(str)] = ("s14_monomodal",)
    n: Annotated[tuple, Grid(Count)] = (1000,)
    test_points: Count = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRows(Sweeps, Points, Table):
    """Runs a method on the rows of a file for every combination of the values given.

    For example: dualebm sweep wind.csv --space sphere --normalise --radius 1,3,10 --neurons 16,64 --seed 0:4 --out results/radii

    The validation loss of a run is minus the mean log density of its held-out rows in the units of the data, in nats. It compares runs of
    any settings, methods and base measures. It is NaN where log Z is not known: by quadrature on the circle and S^2, by the particles of
    a method that follows log Z, and elsewhere by draws of the base measure. A flag with [,...] takes one value, a list (1,3,10), a range
    of integers without its end (0:4), or a spaced range with both ends (0.05:20:log9, 0:1:lin5). The same command continues a sweep that
    was interrupted. With more values it adds runs. A file that was moved is the same file, and one whose content has changed is refused.

    Args:
        holdout: the fraction of the rows, drawn at random, that a run does not train on. They give its validation loss.
        seed: the seeds of the held-out rows, of neurons and of noise.
        split: the seed of the held-out rows, which are then the same for all runs. By default each seed draws its own, and runs of one
            seed share them. They are the rows that dualebm fit holds out with this value of --seed.
    """

    group: ClassVar = "run"
    split: Annotated[Seed | None, Shown("the seed of each run")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Select(Grids, Points, Table):
    """Chooses settings of a method by the validation loss on the rows of a file, and tests the choice on other rows.

    For example: dualebm select wind.csv --space sphere --normalise --radius 1,3,10 --neurons 16,64 --out results/choice

    Test rows are set aside. Each seed draws validation rows from the others, and a run trains on what is left. A run counts at the record
    of the least validation loss, which is minus the mean log density of the validation rows in the units of the data, in nats. Every
    setting with several values is chosen: its values with the least mean loss over --seed. The runs of the choice are repeated with the
    seeds --repeats, and their loss on the test rows is printed beside those of simple densities, with the dualebm fit command of the
    choice. The same command continues a selection that was interrupted.

    Args:
        holdout: the fraction of the rows, drawn at random, that are test rows: they enter no choice and no training.
        validation: the fraction of the other rows that are validation rows.
        split: the seed of the test rows. They are the rows that dualebm fit holds out with this value of --seed.
        seed: the seeds of the search, of validation rows, neurons and noise.
        repeats: the seeds of the repetitions, other than those of the search.
    """

    group: ClassVar = "run"
    validation: Share = 0.2
    split: Seed = 0
    repeats: Annotated[tuple, Grid(Seed)] = (100, 101, 102, 103, 104)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show:
    """Shows the table and the figure of a sweep or a run, finished or still running, or the report of a fit.

    For example: dualebm show results/alpha --metric kl

    The figure and report.html of a fit are drawn again from its folder, which holds at most 2000 rows of the data for them. With --metric
    the records of a fit by --method are shown in their place.

    Args:
        folder: the folder of a sweep, of a run, or of dualebm fit. Of dualebm select the runs of the search are shown. The
            folder repeats within it is that of the repetitions.
        metric: the metric to show.
        out: the figure to write.
    """

    group: ClassVar = "run"
    folder: Annotated[Path, Positional()]
    metric: Annotated[str | None, Shown("kl or validation, or the first by name where these were not recorded; none for a fit")] = None
    out: Annotated[Path | None, Shown("figure.png in the folder")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """Lists the runs of a sweep or a selection: which are done, running, waiting, diverged or failed, at which step, and why.

    For example: dualebm runs results/alpha

    Args:
        folder: the folder of the sweep or the selection.
        json: print a line of JSON for each run in place of the table.
    """

    group: ClassVar = "run"
    folder: Annotated[Path, Positional()]
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """Writes an example of a table into this folder, and prints the command that fits a density to it.

    For example: dualebm example

    The table is volcanoes.csv, the latitudes and longitudes of 267 places where volcanoes have erupted. A file of this name is kept.
    """


COMMANDS = {kind.__name__.lower(): kind for kind in (Fit, Sample, Score, Sweep, Select, Show, Runs, Example)}
"""The commands by name. The module `dualebm.cli.NAME` has the function `run`, which takes the settings."""

PASSING = ("out", "config", "resume", "process", "coordinator", "dry_run", "cache")
"""Fields of `Sweep`, `SweepRows` and `Select` that do not define the runs. No folder stores them, and none sets them."""

WITH_METHOD = (Fit, Sweep, Select)
"""The commands that train, whose flags depend on the method."""

ON_ROWS: dict[type, type] = {Sweep: SweepRows}
"""The classes of the commands that take the rows of a file as well as planted teachers, and the class that stands for them on rows."""
