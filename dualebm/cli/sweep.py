"""`dualebm sweep`: grids of runs on planted teachers."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import jax

from dualebm import metrics
from dualebm._internal import checks
from dualebm.cli import methods
from dualebm.cli.show import print_table
from dualebm.cli.values import parse
from dualebm.data import targets
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import annealing
from dualebm.methods.jarzynski import Jarzynski
from dualebm.methods.presets import rates_from_paper
from dualebm.sweeps.engine import forecast, sweep
from dualebm.sweeps.folder import SWEEP, read
from dualebm.sweeps.grid import product
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.plan import plan_of
from dualebm.training import multihost

PAPER = ("alpha", "beta", "step_size")
"""Flags that set the rates by the paper's conventions."""

CORE = ("particle_step", "transport_step", "reaction_step", "radius")
"""The rates that the flags of `PAPER` set."""

CLUSTERS = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "pmi": ("PMI_RANK", "PMI_SIZE"),
}
"""The environment variables in which a launcher gives a process its index and the number of processes."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs a method, by default the coupled flow, on planted teachers for every combination of the values given.

    For example: dualebm sweep --alpha 0.05:20:log9 --seed 0:32 --restart-probability 0,1/40,1 --out results/alpha

    A value is a single one, a list (0,1/40,1), a range of integers without its end (0:32), or a spaced range with both
    ends (0.05:20:log9, 0:1:lin5). The same command continues a sweep that was interrupted. With more values it adds
    runs.
    """

    out: Path
    """The folder to write: a new or an empty one, or the folder of the sweep to continue."""
    config: Path | None = None
    """A TOML file with values of these flags by name (alpha = "0.05:20:log9", or a list). Flags override it."""
    resume: bool = False
    """Continue the sweep of --out with the flags with which it was started. No other flags are needed."""
    method: str = "dual"
    """dual, score_matching, lazy, kernel_flow, mean_field, likelihood, weighted_likelihood, kernel_stein, network_stein, weighted_dual,
    jarzynski or contrastive."""
    set: tuple[str, ...] = ()
    """Other settings and rates of the method, with their values, such as features=256,512 ascent_step=10."""
    teacher: str | None = None
    """The teacher: s14_monomodal (None), s14_bimodal, s2_monomodal or s2_bimodal."""
    n: str | None = None
    """The number of data points; None for 1000."""
    seed: str | None = None
    """The seeds of data, neurons and noise; None for 0:4."""
    alpha: str | None = None
    """The paper's ratio of time scales, (transport_step / particle_step) / beta. It excludes the four rates below."""
    beta: str | None = None
    """With --alpha: the paper's inverse temperature, which is the radius; None for 10."""
    step_size: str | None = None
    """With --alpha: the paper's step s; None for 0.2, a particle_step of 0.02."""
    scale: str = "particle"
    """With --alpha: the process that s is the step of, the particles ("particle") or the faster process ("fast")."""
    particle_step: str | None = None
    """The step h_x of the particles; None for one that suits the space."""
    transport_step: str | None = None
    """The step h_theta of the neurons' positions; None for one that suits the space."""
    reaction_step: str | None = None
    """The step h_w of the neurons' weights; None for one that suits the space."""
    radius: str | None = None
    """The largest total variation of the neurons; None for 10."""
    restart_probability: str | None = None
    """The probability p_R with which each particle restarts at a data point in an iteration; None for 0."""
    restart_every: str | None = None
    """The number of iterations after which all particles restart at data points; None for never."""
    neurons: str | None = None
    """The number m of neurons; None for 64."""
    particles: str | None = None
    """The number N of particles; None for two copies of the data."""
    integrator: str | None = None
    """The moves of the particles: mala (None), geodesic or projected."""
    noise: str | None = None
    """The noise of the particles: antithetic (None), independent or orthogonal."""
    signs: str | None = None
    """The signs of the neurons: half (None), random or all_negative."""
    weight_update: str | None = None
    """The update of the neurons' weights: multiplicative (None) or additive."""
    witness_particles: str | None = None
    """The particles of the witness that moves the neurons: moved (None) or current."""
    anneal: bool = False
    """Let the radius grow to its value in the first part of a run, and the neurons' steps fall afterwards."""
    common: bool = False
    """Use common random numbers: runs of one seed have the same noise and start."""
    steps: int = 1000
    """The number of iterations, a multiple of --every."""
    every: int = 20
    """The number of iterations between records."""
    test_points: int = 10_000
    """The number of fresh draws of the teacher by which KL and score are estimated."""
    batch_size: int | None = None
    """The number of runs in memory at a time; None for as many as fit."""
    devices: int | None = None
    """The number of devices that share the runs; None for one."""
    devices_per_run: int = 1
    """The number of devices that share the particles of each run."""
    process: str | None = None
    """The index of this process and the number of processes that share the runs, such as 0/4; slurm, mpi or pmi to ask the launcher."""
    coordinator: str | None = None
    """The address host:port of process 0, or auto with slurm and mpi. The processes of --process then share the particles of each run
    instead of the runs."""
    precision: int = 32
    """The precision in bits, 32 or 64."""
    dry_run: bool = False
    """Print runs, batches, memory and the predicted time, and stop."""


SWEPT = (
    "teacher", "n", *PAPER, *CORE, "restart_probability", "restart_every", "neurons", "particles", "integrator", "noise", "signs",
    "weight_update", "witness_particles", "seed",
)  # fmt: skip
"""The flags that take several values."""

DEFAULTS = dict(teacher="s14_monomodal", n="1000", seed="0:4")
"""The values of flags that every sweep needs, where they are not given."""


def run_sweep(settings: Sweep) -> None:
    """Run, continue or forecast the sweep, and print its table. Raises ValueError for flags that are not allowed."""
    settings = merged(settings)
    checks.choice("precision", settings.precision, (32, 64))
    process = process_of(settings.process)
    if settings.coordinator is not None:
        if settings.process is None or (settings.coordinator == "auto" and settings.process not in ("slurm", "mpi")):
            allowed = "process must be slurm or mpi with auto, or such as 0/2 with an address"
            raise ValueError(f"coordinator is {settings.coordinator!r} and process is {settings.process!r}; {allowed}")
        multihost.join(settings.coordinator, *process)
        process = 0, 1
    with jax.enable_x64(settings.precision == 64):
        given = arguments(settings, process)
        if settings.dry_run:
            print_forecast(given)
            return
        results = sweep(**given, folder=settings.out, note=stored(settings))
    if multihost.is_first():
        print_table(results)
        print(f"written to {settings.out}; dualebm show {settings.out} draws it")


def stored(settings: Sweep) -> dict[str, Any]:
    """Return the flags that define the sweep, which its folder keeps."""
    skip = ("out", "config", "resume", "process", "coordinator", "dry_run")
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in skip}


def merged(settings: Sweep) -> Sweep:
    """Return the flags, where those that are not given come from the file of --config or the folder of --resume.

    Raises ValueError for a name that is no flag, for a file that is not TOML, and for a folder without a sweep.
    """
    values: dict[str, Any] = {}
    if settings.resume:
        folders = [path.parent for path in (settings.out / SWEEP, *settings.out.glob(f"process-*/{SWEEP}")) if path.exists()]
        values = read(folders[0])["note"] if folders else {}
        if not values:
            raise ValueError(f"resume is True and {settings.out} holds no sweep that was started by this command")
    if settings.config is not None:
        try:
            values = tomllib.loads(settings.config.read_text())
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{settings.config} is no TOML file ({error})") from error
    fields = {field.name: field for field in dataclasses.fields(Sweep)}
    changes = {}
    for name, value in values.items():
        where = f"the name {name!r} in {settings.config or settings.out}"
        checks.choice(where, name, [n for n in fields if n not in ("out", "config")])
        if name in SWEPT and value is not None:
            value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        elif name == "set":
            value = tuple(value or ())
        if getattr(settings, name) == fields[name].default:
            changes[name] = value
    return dataclasses.replace(settings, **changes)


def process_of(text: str | None) -> tuple[int, int]:
    """Return the index of this process and the number of processes, from "0/4" or from a launcher's variables.

    Raises ValueError for another form, and when an environment variable of the launcher is not set.

    >>> process_of("1/4"), process_of(None)
    ((1, 4), (0, 1))
    """
    if text is None:
        return 0, 1
    if text in CLUSTERS:
        names = CLUSTERS[text]
        if lacking := [name for name in names if name not in os.environ]:
            raise ValueError(f"process is {text!r} and {lacking[0]} is not set; start it with the launcher, or give process as 0/4")
        index, count = (int(os.environ[name]) for name in names)
        return index, count
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ValueError(f"process is {text!r}; allowed: such as 0/4, or {', '.join(CLUSTERS)}")
    return int(index), int(count)


ANNEALED = ("dual", "weighted_dual", "score_matching", "mean_field")
"""The methods whose rates `annealing` changes."""


def values_of(settings: Sweep) -> dict[str, list]:
    """Return the values of each setting of the grid. Raises ValueError, which names the flag, for values that are not allowed."""
    texts = {name: getattr(settings, name) or DEFAULTS.get(name) for name in SWEPT}
    values = {}
    for name, text in texts.items():
        if text is not None:
            try:
                values[name] = parse(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    values |= {name: listed for name, listed in methods.assignments(settings.set).items() if name not in values}
    of_method = [name for name in values if name not in ("teacher", "n", "seed", *PAPER)]
    methods.check_names(settings.method, of_method)
    if "alpha" in values and settings.method != "dual":
        raise ValueError(f"alpha is {texts['alpha']} and method is {settings.method!r}; allowed: 'dual'")
    if settings.anneal and settings.method not in ANNEALED:
        raise ValueError(f"anneal is True and method is {settings.method!r}; allowed: {', '.join(map(repr, ANNEALED))}")
    for name in values["teacher"]:
        checks.choice("teacher", name, targets.TEACHERS)
    for name in ("n", "neurons", "particles", "restart_every"):
        for value in values.get(name, []):
            checks.count(name, value)
    for value in values.get("seed", []):
        checks.seed("seed", value)
    checks.count("test_points", settings.test_points)
    if "alpha" in values:
        if wrong := [name for name in CORE if name in values]:
            raise ValueError(f"{wrong[0]} is {texts[wrong[0]]} and alpha is {texts['alpha']}, which sets it; give one of them")
    elif wrong := [name for name in PAPER if name in values]:
        raise ValueError(f"{wrong[0]} is {texts[wrong[0]]} and alpha is None; give alpha with it")
    return values


def arguments(settings: Sweep, process: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Return the arguments of `sweep`. Raises ValueError, which names the flag, for values that are not allowed.

    `process` is the index of this process and the number of processes that share the runs.
    """
    values = values_of(settings)
    # The functions below close over these values alone, which a sweep that continues compares with those in its folder.
    dtype, scale, count = f"float{settings.precision}", settings.scale, settings.test_points
    kind = methods.kind(settings.method)

    def method(teacher):
        return kind(targets.teacher(teacher, dtype).space)

    def with_energy(teacher, energy="mlp", width=None, depth=None, activation=None, hidden=None, spread=None):
        chosen = methods.start(energy, width=width, depth=depth, activation=activation, hidden=hidden, spread=spread)
        return kind(targets.teacher(teacher, dtype).space, chosen)

    def rates(alpha, beta=10.0, step_size=0.2):
        return rates_from_paper(step_size, alpha, beta, scale=scale)

    def data(key, teacher, n):
        return targets.sample(key, targets.teacher(teacher, dtype), n)[0]

    def monitors(key, teacher):
        target = targets.teacher(teacher, dtype)
        return metrics.standard(target.space, target.energy, targets.sample(key, target, count)[0])

    return dict(
        grid=product(**values), method=with_energy if issubclass(kind, (Jarzynski, Contrastive)) else method,
        rates=rates if "alpha" in values else None, data=data, metrics=monitors,
        steps=settings.steps, every=settings.every, schedule=annealing() if settings.anneal else None, common=settings.common,
        placement=Placement(settings.batch_size, None, settings.devices, settings.devices_per_run, process),
    )  # fmt: skip


def print_forecast(given: dict[str, Any]) -> None:
    """Print the number of runs, the batches, the memory and the predicted time of a sweep."""
    forecasts = forecast(plan_of(**given))
    if not multihost.is_first():
        return
    for each in forecasts:
        about = ", ".join(f"{name} {value}" for name, value in each.replica.settings.items())
        print(
            f"{each.runs} runs like ({about}), in batches of {each.batch_size} ({each.bytes / 2**20:.0f} MiB): "
            f"about {each.seconds:.0f} s"
        )
    runs, seconds = sum(each.runs for each in forecasts), sum(each.seconds for each in forecasts)
    print(f"{runs} runs, {len(forecasts)} programs, about {seconds:.0f} s and the time to compile")
