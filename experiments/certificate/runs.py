"""The certified runs: methods, data and certificates of each seed, and a run that its certificate stops."""

import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from dualebm import duality_gap, metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.duality_gap import certify
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.measures import Samples
from dualebm.methods import dual, presets
from dualebm.methods.dual import Dual
from dualebm.methods.score_matching import ScoreMatching
from dualebm.relaxation import relaxation
from dualebm.training.run import run
from experiments import _common
from experiments.certificate.recorded import At, Excess, particles

SIZES = {
    "quick": dict(n=2000, seeds=1, chains=5000, final_chains=30_000, test_points=50_000),
    "paper": dict(n=10_000, seeds=1, chains=20_000, final_chains=60_000, test_points=200_000),
}
"""Of the settings that a preset decides."""

TEACHERS = ("s14_monomodal", "s2_bimodal")
RADIUS, TOLERANCE = 10.0, 0.02
EVERY = 20
"""Iterations between records."""

STEPS = {
    ("quick", "s14_monomodal"): (400, 800), ("quick", "s2_bimodal"): (1000, 1000),
    ("paper", "s14_monomodal"): (2000, 4000), ("paper", "s2_bimodal"): (4000, 4000),
}  # fmt: skip
"""Iterations of our default, and of the authors' program and score matching."""

CERTIFIED = {"quick": 5, "paper": 6}
"""Iterations at which a run is certified, evenly in their logarithm."""

NODES = 100
"""Heights of the quadrature on S^2."""

ROUNDS = 12
"""Rounds of the polish from which the least loss is taken, on S^2."""

LINES = ("default, half", "default, all -1", "program, all -1", "score matching, half")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = 2e3 on S^14) or paper (n = 1e4); n = 1000 on S^2."""
    teachers: tuple[str, ...] = TEACHERS
    """Which of s14_monomodal, s2_bimodal."""
    methods: tuple[str, ...] = LINES
    """Which of the methods, the first among them."""
    n: int | None = None
    """Data points on S^14."""
    seeds: int | None = None
    """Runs of each method on S^14; twice as many on S^2."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    steps: int | None = None
    """Iterations of every run, in place of those of the preset."""
    chains: int | None = None
    """Annealed chains of a half of the estimate along training, on S^14."""
    final_chains: int | None = None
    """The same, at the end of a run."""
    test_points: int | None = None
    """Exact draws of the teacher on S^14, for KL and loss."""
    out: Path = Path("results/certificate")
    """Where results and figures are written."""


class Line(NamedTuple):
    """A method with its rates, schedule and iterations."""

    method: Any
    rates: Any
    schedule: Callable | None
    steps: int


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).n
    2000
    """
    settings = _common.settled(settings, SIZES)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("methods", settings.methods, checks.choice, LINES)
    if LINES[0] not in settings.methods:
        raise ValueError(f"methods is {', '.join(settings.methods)}; it must have {LINES[0]!r}, whose run the certificate stops")
    _common.check_multiple("steps", settings.steps, EVERY)
    return settings


def lines(settings: Settings, teacher: str) -> dict[str, Line]:
    """Returns the methods of a teacher by their labels.

    >>> list(lines(checked(Settings()), "s2_bimodal"))
    ['default, half', 'default, all -1', 'program, all -1', 'score matching, half']
    """
    space = targets.teacher(teacher).space
    ours, theirs = (settings.steps,) * 2 if settings.steps else STEPS[settings.preset, teacher]
    schedule, neuron_step = (dual.annealing(), 0.2) if space.dimension == 15 else (dual.annealing(400, 0.5), 0.04)
    half, negative, program = Dual(space), Dual(space, signs="all_negative"), presets.program(space)
    score = ScoreMatching(space)
    known = (
        Line(half, half.rates, schedule, ours),
        Line(negative, negative.rates, schedule, ours),
        Line(program, presets.program_rates(neuron_step=neuron_step), None, theirs),
        Line(score, score.rates, None, theirs),
    )
    return {label: line for label, line in zip(LINES, known, strict=True) if label in settings.methods}


def certified_at(steps: int, count: int) -> tuple[int, ...]:
    """Returns `count` iterations or fewer, multiples of `EVERY` evenly in their logarithm, the last `steps`.

    >>> certified_at(400, 4)
    (20, 60, 140, 400)
    """
    return tuple(sorted({EVERY * round(x) for x in np.geomspace(1, steps // EVERY, count)}))


# -- Runs ------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """Of a teacher and a seed: data, key, test samples with f* there, and a quadrature of the base measure where there is one."""

    target: targets.Target
    data: Samples
    key: Any
    test: Samples
    reference: jax.Array
    quadrature: Samples | None


def scene_of(settings: Settings, teacher: str, seed: int) -> Scene:
    """Returns the data and the test points of a seed."""
    target = targets.teacher(teacher)
    key, data_key, test_key = jax.random.split(jax.random.key(seed), 3)
    on_plane = target.space.dimension == 3
    data, _ = targets.sample(data_key, target, 1000 if on_plane else settings.n)  # type: ignore[arg-type]
    quadrature = target.quadrature(nodes=NODES) if on_plane else None
    if quadrature is not None:
        test = metrics.exact_samples(target.energy, quadrature)
    else:
        test, _ = targets.sample(test_key, target, settings.test_points)  # type: ignore[arg-type]
    return Scene(target, data, key, test, target.energy(test.points), quadrature)


compiled = eqx.filter_jit(relaxation)
"""One program for the particles of all methods."""


def gaps(settings: Settings, scene: Scene, records: xarray.Dataset, at: tuple[int, ...], negative: bool) -> dict[str, np.ndarray]:
    """Certifies a run at some iterations.

    Args:
        settings: The settings of the study.
        scene: The data and the test points.
        records: The records of the run.
        at: The k iterations; the last has the final chains.
        negative: Whether the bound against the negative cone is taken too.

    Returns:
        gap: The gap without a polish and its error, (k, 2).
        bound: The polished bound, its error and what the polished energy gains, (k, 3).
        particles: The bound from the particles of the training, its error, and the change of their mean energy in standard errors, (k, 3).
        polished: The excess of the loss of the last polished energy, the error of that, and its KL, (3,).
        negative: The bound at the end against the negative cone, its error and gain, (3,).
    """
    space = scene.target.space
    made: dict[str, Any] = {"gap": [], "bound": [], "particles": []}
    energy: Any = None
    key, chains = scene.key, 0
    for i in at:
        record = records.sel(step=i)
        energy = Shallow(ReLU(), jnp.asarray(record.positions.values), jnp.asarray(record.coefficients.values))
        key = jax.random.fold_in(scene.key, i)
        chains = (settings.final_chains if i == at[-1] else settings.chains) or 0  # the preset's, never None
        options: dict[str, Any] = dict(quadrature=scene.quadrature, chains=chains)
        one = certify(key, energy, space, scene.data, RADIUS, polish=0, **options)
        made["gap"].append((one.gap, one.error))
        one = certify(key, energy, space, scene.data, RADIUS, **options)
        made["bound"].append((one.gap, one.error, one.gain))
        if "particles" in record:
            cloud = Samples(jnp.asarray(record.particles.values))
            rest = compiled(key, energy, space, cloud)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # the study says it
                one = certify(key, energy, space, scene.data, RADIUS, model=cloud)
            made["particles"].append((one.gap, one.error, (rest.after - rest.before) / rest.error))
    rounds = 3 if scene.quadrature is None else ROUNDS
    options = dict(quadrature=scene.quadrature, chains=chains)
    best = certify(key, energy, space, scene.data, RADIUS, polish=rounds, **options).energy
    made["polished"] = (*loss_of(scene, best), metrics.relative_entropy(best, scene.reference, scene.test))
    if negative:
        one = certify(key, energy, space, scene.data, RADIUS, ball="negative", **options)
        made["negative"] = one.gap, one.error, one.gain
    return {name: np.array(values, np.float64) for name, values in made.items()}


def loss_of(scene: Scene, energy: Shallow) -> jax.Array:
    """Returns the excess of the loss of an energy and its error, (2,)."""
    return Excess(scene.target.energy, scene.test).of(energy, scene.data)


class Run(NamedTuple):
    """Of a method and a seed: step, kl and excess by record; the iterations that are certified, and what `gaps` made of them."""

    step: np.ndarray
    kl: np.ndarray
    excess: np.ndarray
    at: tuple[int, ...]
    gaps: dict[str, np.ndarray]


def trained(settings: Settings, teacher: str, scene: Scene, label: str, line: Line, seed: int) -> Run:
    """Trains and certifies a run, or reads both from its folder."""
    print(f"{teacher}, seed {seed}: {label}", file=sys.stderr)
    at = certified_at(line.steps, CERTIFIED[settings.preset])
    monitors: dict[str, Any] = {
        "kl": metrics.KLDivergence(scene.target.energy, scene.test), "excess": Excess(scene.target.energy, scene.test),
        "positions": _common.positions, "coefficients": _common.coefficients,
    }  # fmt: skip
    if isinstance(line.method, Dual):
        monitors["particles"] = At(particles, at)
    folder = settings.out / f"{settings.preset}_{teacher}" / f"{label.replace(', ', '_').replace(' ', '_')}_{seed}"
    _, records = run(
        scene.key, line.method, line.rates, scene.data, steps=line.steps, every=EVERY, schedule=line.schedule, metrics=monitors,
        folder=folder, progress=sys.stderr.isatty(),
    )  # fmt: skip
    path = folder / f"bounds_{settings.chains}_{settings.final_chains}.npz"
    if not path.exists():
        made: Any = gaps(settings, scene, records, at, getattr(line.method, "signs", "half") == "all_negative")
        np.savez(folder / "partial.npz", **made)
        (folder / "partial.npz").replace(path)
    with np.load(path) as made:
        known = {name: made[name] for name in made.files}
    return Run(records.step.values, records.kl.values, records.excess.values, at, known)


def measured(settings: Settings, teacher: str, chosen: dict[str, Line]) -> dict[tuple[str, int], Run]:
    """Returns the runs of every method and seed."""
    seeds = _common.seeds_of(settings, settings.seeds * (2 if teacher == "s2_bimodal" else 1))  # type: ignore[operator]
    results = {}
    for seed in seeds:
        known = scene_of(settings, teacher, seed)
        for label, line in chosen.items():
            results[label, seed] = trained(settings, teacher, known, label, line, seed)
    return results


def stopped(settings: Settings, teacher: str, line: Line) -> xarray.Dataset:
    """Runs a method until its certificate is within the tolerance, and returns the records."""
    scene = scene_of(settings, teacher, settings.first_seed)
    gap = metrics.DualityGap(scene.target.space, scene.quadrature, chains=settings.chains or 0)
    _, results = run(
        scene.key, line.method, line.rates, scene.data, steps=line.steps, every=EVERY, schedule=line.schedule, segment=2, progress=False,
        metrics={"gap": gap, "kl": metrics.KLDivergence(scene.target.energy, scene.test)},
        folder=settings.out / f"{settings.preset}_{teacher}" / "stopped", callback=duality_gap.within(TOLERANCE),
    )  # fmt: skip
    return results
