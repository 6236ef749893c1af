"""The searches and the repetitions of active and lazy training."""

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dualebm import metrics
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.flows import two_layer
from dualebm.log_z.quadrature import rank
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, annealing
from dualebm.methods.lazy import Lazy
from dualebm.methods.likelihood import Likelihood
from dualebm.methods.stein import KernelStein, NetworkStein
from dualebm.spaces import Sphere
from dualebm.sweeps.selection import Selection, select
from experiments import _common

TEACHERS = {"J1_w2": (2.0,), "J1_w10": (10.0,), "J2_w2.5": (-2.5,) * 2, "J2_w5": (-5.0,) * 2, "J4_w7.5": (-7.5, -7.5, 7.5, 7.5)}
"""Weights of the teachers' neurons; the energy is the mean over them."""

LOSSES = {
    "likelihood": "maximum likelihood", "ksd": "kernelised Stein discrepancy", "f1_sd": "F1 Stein discrepancy",
    "dual": "dual (Algorithm 1)",
}  # fmt: skip
REGIMES: dict[two_layer.Regime, str] = {"active": "F1", "lazy": "F2"}

NEURONS = 500
DIMENSION, DIMENSION_F1_SD = 15, 10
CRITICS = 64
"""Neurons of each critic: the supremum is at one, of which these are the starts (the paper: 500)."""

TEST, DRAWS = 20_000, 50_000
"""Fresh points of the teacher for the test KL and cross-entropy, and of the base measure for log Z."""

VALIDATION = {"likelihood": 20_000, "ksd": 5000, "f1_sd": 2000, "dual": 20_000}
RECORDS = {"quick": 10, "paper": 20}
FIRST_REPEAT = 1000
"""The search has the seeds 0, 1, ...; the repetitions these."""

Over = dict[str, tuple[float, ...]]

OVER: dict[str, dict[tuple[str, str], Over]] = {
    "quick": {
        ("likelihood", "active"): dict(learning_rate=(0.05, 0.1), weight_decay=(0.0,)),
        ("likelihood", "lazy"): dict(learning_rate=(0.5, 5.0), weight_decay=(0.0,)),
        ("ksd", "active"): dict(learning_rate=(0.2, 0.5), weight_decay=(0.0,)),
        ("ksd", "lazy"): dict(learning_rate=(0.5, 5.0), weight_decay=(0.0,)),
        ("f1_sd", "active"): dict(learning_rate=(5.0, 10.0), weight_decay=(0.0,)),
        ("f1_sd", "lazy"): dict(learning_rate=(50.0, 200.0), weight_decay=(0.0,)),
        ("dual", "active"): dict(radius=(5.0, 10.0)),
        ("dual", "lazy"): dict(radius=(20.0, 50.0)),
    },
    "paper": {
        ("likelihood", "active"): dict(learning_rate=(0.005, 0.05, 0.5), weight_decay=(0.0, 5e-6, 5e-3)),
        ("likelihood", "lazy"): dict(learning_rate=(0.05, 0.5, 5.0), weight_decay=(0.0, 5e-6, 5e-3)),
        ("ksd", "active"): dict(learning_rate=(0.05, 0.2, 0.5), weight_decay=(0.0, 5e-7, 5e-5)),
        ("ksd", "lazy"): dict(learning_rate=(0.05, 0.5, 5.0), weight_decay=(0.0, 5e-7, 5e-5)),
        ("f1_sd", "active"): dict(learning_rate=(0.1, 0.5, 2.5), weight_decay=(5e-8, 5e-6, 5e-4)),
        ("f1_sd", "lazy"): dict(learning_rate=(2.5, 25.0, 100.0), weight_decay=(5e-8, 5e-6, 5e-4)),
        ("dual", "active"): dict(radius=(2.0, 5.0, 10.0, 20.0)),
        ("dual", "lazy"): dict(radius=(5.0, 10.0, 20.0, 50.0, 100.0)),
    },
}
"""What is chosen from. The decays of the paper preset are the program's, times m; the lazy learning rates go beyond its, where those end
too early."""

STEPS = {
    "quick": {"likelihood": 400, "ksd": 200, "f1_sd": 100, "dual": 200},
    "paper": {"likelihood": 1000, "ksd": 1000, "f1_sd": 1000, "dual": 400},
}
FALL = {"likelihood": 0.005, "ksd": 0.01, "f1_sd": 0.01}
"""b of the learning rate s / (1 + b t)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (J1_w10, n = 1000, 2 repetitions) or paper (all teachers, n from 10 to 30000, 10 repetitions)."""
    teachers: tuple[str, ...] | None = None
    """Which of J1_w2, J1_w10, J2_w2.5, J2_w5, J4_w7.5."""
    losses: tuple[str, ...] = tuple(LOSSES)
    """Which of likelihood, ksd, f1_sd, dual."""
    n: tuple[int, ...] | None = None
    """Data points; the Stein discrepancies have at most 10000, that of F1 at most 3000."""
    repeats: int | None = None
    """Runs with new data of what was chosen."""
    seeds: int = 1
    """Runs of each setting that is chosen from."""
    out: Path = Path("results/active_lazy")
    """Where results and figures are written."""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(teachers=("J1_w10",), n=(1000,), repeats=2),
    "paper": dict(teachers=tuple(TEACHERS), n=(10, 30, 100, 300, 1000, 3000, 10_000, 30_000), repeats=10),
}
MOST = {"ksd": 10_000, "f1_sd": 3000}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).n
    (1000,)
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_each("teachers", settings.teachers, checks.choice, TEACHERS)
    _common.check_each("losses", settings.losses, checks.choice, LOSSES)
    _common.check_each("n", settings.n, checks.count, 2)
    if not any(counts_of(settings, loss) for loss in settings.losses):
        most = max(MOST[loss] for loss in settings.losses)
        raise ValueError(f"n is {settings.n}; one at least must be at most {most}, the most of {', '.join(settings.losses)}")
    return settings


# -- The runs ---------------------------------------------------------------------------------------------


def teacher(name: str, dimension: int) -> targets.Target:
    """Returns a teacher with directions drawn once for all."""
    weights = TEACHERS[name]
    return targets.planted(np.random.default_rng(12).standard_normal((len(weights), dimension)), weights, name=name)


def cross_entropy(target: targets.Target, draws: int = 2**22) -> tuple[float, float]:
    """Returns the cross-entropy of the teacher itself, -KL(teacher || uniform), and its error.

    It is exact for neurons of one plane, and else by uniform points. Of a point only the coordinates in the span of the neurons are drawn:
    normal ones over the length of all, where a chi variable stands for the others.

    >>> [round(cross_entropy(teacher("J1_w10", d))[0], 4) for d in (15, 10)]
    [-0.2825, -0.3363]
    """
    if rank(target.energy.positions) <= 2:
        return -target.kl_to_uniform, 0.0
    positions, weights = (np.asarray(array, np.float64) for array in (target.energy.positions, target.energy.coefficients))
    basis, coordinates = np.linalg.qr(positions.T)
    (d, k), rng = basis.shape, np.random.default_rng(0)
    z, rest = rng.standard_normal((draws, k)), rng.chisquare(d - k, draws) if d > k else 0.0
    energies = np.maximum(z @ coordinates, 0) @ weights / len(weights) / np.sqrt((z**2).sum(axis=1) + rest)
    p = np.exp(-energies)
    log_z, p = np.log(p.mean()), p / p.mean()
    mean = np.mean(p * energies)
    influence = p * (energies - mean + 1) - 1  # of a point, on the mean energy and log Z together
    return float(mean + log_z), float(influence.std() / math.sqrt(draws))


def data(key, teacher_name: str, dimension: int, n: int) -> Samples:
    """Draws n points of the teacher."""
    return targets.sample(key, teacher(teacher_name, dimension), n)[0]


def monitors(key, loss: str, teacher_name: str, dimension: int, validation_points: int) -> dict[str, Any]:
    """Returns the metrics: validation by the loss that trains, and KL and cross-entropy of the test points."""
    target = teacher(teacher_name, dimension)
    keys = jax.random.split(key, 3)
    held, test = (targets.sample(k, target, count)[0] for k, count in zip(keys[:2], (validation_points, TEST), strict=True))
    by_likelihood = metrics.CrossEntropy(held, target.space, draws=DRAWS, key=keys[2])
    validation = {
        "ksd": lambda: metrics.SteinDiscrepancy(held, target.space),
        "f1_sd": lambda: metrics.NetworkSteinDiscrepancy(held, target.space, width=CRITICS),
    }.get(loss, lambda: by_likelihood)
    return {
        "kl": metrics.KLDivergence(target.energy, test),
        "validation": validation(),
        "cross_entropy": metrics.CrossEntropy(test, target.space, draws=DRAWS),
        "acceptance": metrics.Acceptance(),
    }


def dimension_of(loss: str) -> int:
    """Returns d of the sphere in R^d."""
    return DIMENSION_F1_SD if loss == "f1_sd" else DIMENSION


def method_of(loss: str, regime: two_layer.Regime) -> Any:
    """Returns the method of a loss and a regime."""
    space = Sphere(dimension_of(loss))
    if loss == "dual":
        return Dual(space) if regime == "active" else Lazy(space, features=NEURONS)
    if loss == "likelihood":
        return Likelihood(space, neurons=NEURONS, regime=regime, chains=1000)
    if loss == "ksd":
        return KernelStein(space, neurons=NEURONS, regime=regime)
    return NetworkStein(space, neurons=NEURONS, regime=regime, critics=CRITICS)


def rates_of(loss: str, regime: two_layer.Regime) -> Any:
    """Returns the method's rates, but charges ascend by d^2: the covariance of ReLU features has eigenvalues of at most about 1 / 4 d^2."""
    rates = method_of(loss, regime).rates
    return rates._replace(ascent_step=float(dimension_of(loss) ** 2)) if (loss, regime) == ("dual", "lazy") else rates


def schedule_of(loss: str, regime: two_layer.Regime) -> Callable | None:
    """Returns the schedule: the learning rate falls, and Algorithm 1 anneals its radius."""
    if loss == "dual":
        return annealing() if regime == "active" else None
    return two_layer.scheduled(two_layer.inverse_time(FALL[loss]))


def counts_of(settings: Settings, loss: str) -> tuple[int, ...]:
    """Returns the n of a loss."""
    return tuple(n for n in settings.n if n <= MOST.get(loss, max(settings.n)))  # pyright: ignore[reportOptionalIterable, reportArgumentType]


def solve(settings: Settings, name: str, loss: str, regime: two_layer.Regime) -> Selection:
    """Runs the search and the repetitions of one teacher, loss and regime."""
    steps = STEPS[settings.preset][loss]
    points = VALIDATION[loss] if settings.preset == "paper" else min(VALIDATION[loss], 5000)
    fixed = dict(loss=[loss], teacher_name=[name], dimension=[dimension_of(loss)], validation_points=[points])
    return select(
        dict(**fixed, n=counts_of(settings, loss)), OVER[settings.preset][loss, regime], method_of(loss, regime), rates_of(loss, regime),
        data, metrics=monitors, steps=steps, every=steps // RECORDS[settings.preset], schedule=schedule_of(loss, regime),
        seeds=range(settings.seeds), repeats=range(FIRST_REPEAT, FIRST_REPEAT + settings.repeats),  # pyright: ignore[reportOperatorIssue]
        folder=settings.out / f"{settings.preset}_{name}_{loss}_{regime}", progress=sys.stderr.isatty(),
    )  # fmt: skip


Selections = dict[tuple[str, str, str], Selection]


def solve_all(settings: Settings) -> Selections:
    """Returns the selection of each teacher, loss and regime."""
    cases: list[tuple[str, str, two_layer.Regime]] = [
        (name, loss, regime) for name in settings.teachers for loss in settings.losses for regime in REGIMES  # pyright: ignore[reportOptionalIterable]
    ]
    return {case: solve(settings, *case) for case in cases if counts_of(settings, case[1])}
