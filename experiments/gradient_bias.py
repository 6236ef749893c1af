"""The bias of the likelihood's gradient and of log Z: contrastive divergence, its persistent form, Jarzynski's correction.

    python -m experiments.gradient_bias --preset quick
    python -m experiments.gradient_bias --preset paper

The protocol of arXiv 2305.19414, on two energies whose log Z is known at every iteration, and with it the gradient, E_model dU = -d log Z:
a Gaussian mixture in 10 dimensions (masses 1/4 and 3/4, means 6 apart: walkers rarely cross) and a Gaussian-Bernoulli Boltzmann machine
with 8 hidden units in 8 dimensions, whose states are enumerated. All methods have the same data, walkers, unadjusted Langevin steps and
learning rate. The error of a gradient is E_walkers dU + d log Z at the parameters of the moment; its mean over seeds is the bias. log Z is
by the weights, or, of unweighted walkers, by the mean of exp(U - U') over them in every iteration (`methods.tracked`).
Each sweep is a folder under `--out` from which the same command continues.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from dualebm import measures, metrics
from dualebm._internal import checks
from dualebm.base_measures import Flat
from dualebm.energies.boltzmann import Boltzmann, BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.flows import likelihood
from dualebm.measures import Samples
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import FIXED, Jarzynski
from dualebm.methods.tracked import Tracked
from dualebm.metrics.base import Metric
from dualebm.plotting import charts
from dualebm.spaces import Euclidean
from dualebm.sweeps.grid import product
from experiments import _common, report

RECORDS = 10
ENERGIES = ("mixture", "boltzmann")
METHODS = ("CD-1", "CD-10", "PCD", "Jarzynski", "PCD from the model", "Jarzynski, 10 moves", "uncorrected weights")

SIZES: dict[str, dict[str, Any]] = {
    "quick": dict(n=2000, walkers=2000, seeds=8, steps=600, methods=METHODS[:4]),
    "paper": dict(n=10_000, walkers=10_000, seeds=20, steps=4000, methods=METHODS),
}
"""Of the settings that a preset decides."""



@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (n = N = 2000, 8 seeds, 600 iterations, four methods) or paper (10,000, 20 seeds, 4000 iterations, all seven)."""
    energies: tuple[str, ...] = ENERGIES
    """Which of mixture, boltzmann."""
    methods: tuple[str, ...] | None = None
    """Which of CD-1, CD-10, PCD, Jarzynski, "PCD from the model", "Jarzynski, 10 moves", "uncorrected weights"."""
    n: int | None = None
    """Data points."""
    walkers: int | None = None
    """Of each method, even."""
    seeds: int | None = None
    """Runs of each method, at least 2."""
    first_seed: int = 0
    """The seeds are this and those that follow."""
    steps: int | None = None
    """Iterations, a multiple of 10."""
    out: Path = Path("results/gradient_bias")
    """Where results and figures are written."""


def checked(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> checked(Settings()).walkers
    2000
    """
    settings = _common.settled(settings, SIZES)
    _common.check_each("energies", settings.energies, checks.choice, ENERGIES)
    _common.check_each("methods", settings.methods, checks.choice, METHODS)
    checks.count("seeds", settings.seeds, 2)
    _common.check_multiple("steps", settings.steps, RECORDS)
    return settings


# -- What is trained ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Problem:
    """A space, a teacher by its key, the start of the student, and the rates."""

    space: Euclidean
    teacher: Any
    start: Any
    particle_step: float
    learning_rate: float


def mixture_teacher():
    """Returns the mixture of means -3 e_1 and 3 e_1, masses 1/4 and 3/4."""
    means = jnp.zeros((2, 10)).at[:, 0].set(jnp.array([-3.0, 3.0]))
    return GaussianMixture(means, -jnp.log(jnp.array([3.0])), None)


def boltzmann_teacher():
    """Returns the Boltzmann machine of eight dimensions, four hidden units with weights of norm about 2.8: several modes."""
    weights = jax.random.normal(jax.random.key(11), (4, 8))
    return BoltzmannMachine(weights, jnp.zeros(8), -0.5 * jnp.sum(weights**2, axis=1))


PROBLEMS = {
    "mixture": Problem(Euclidean(10, Flat()), mixture_teacher, Mixture(2, separation=0.5), 0.1, 0.05),
    "boltzmann": Problem(Euclidean(8), boltzmann_teacher, Boltzmann(8, spread=0.1), 0.05, 0.01),
}


def methods(settings: Settings, problem: Problem) -> dict[str, Any]:
    """Returns the methods of the settings by label: all with unadjusted moves and plain gradient steps.

    >>> list(methods(checked(Settings()), PROBLEMS["mixture"]))
    ['CD-1', 'CD-10', 'PCD', 'Jarzynski']
    """
    common: dict[str, Any] = dict(walkers=settings.walkers, noise="independent", optimiser="gradient", integrator="geodesic", **FIXED)
    plain = lambda **changes: Tracked(Contrastive(problem.space, problem.start, **common, **changes), chains=0)  # noqa: E731
    weighted = lambda **changes: Jarzynski(problem.space, problem.start, **common, **changes)  # noqa: E731
    known = {
        "CD-1": plain(restart_every=1),
        "CD-10": plain(restart_every=1, moves=10),
        "PCD": plain(),
        "Jarzynski": weighted(),
        "PCD from the model": plain(begin="model"),
        "Jarzynski, 10 moves": weighted(moves=10),
        "uncorrected weights": weighted(increment="uncorrected"),
    }
    return {label: known[label] for label in settings.methods or ()}


def data(key, energy, n) -> Samples:
    """Draws n points of the teacher."""
    problem = PROBLEMS[energy]
    return Samples(problem.teacher().sample(key, problem.space, n))


class GradientError(Metric):
    """E_walkers dU + d log Z, all parameters as one vector; and before it the norm of d log Z, less its value at data: the gradient's."""

    space: Euclidean = eqx.field(static=True)

    def __call__(self, key, iterate):
        """Returns the vector, (1 + parameters,)."""
        del key
        energy = iterate.energy
        estimate = ravel_pytree(likelihood.mean_gradient(energy, iterate.samples))[0]
        exact = -ravel_pytree(jax.grad(lambda energy: energy.log_partition(self.space))(energy))[0]
        observed = ravel_pytree(likelihood.mean_gradient(energy, iterate.data))[0]
        return jnp.concatenate([jnp.linalg.norm(observed - exact)[None], estimate - exact])


class LogPartitions(Metric):
    """log Z by the walkers, and exactly, (2,)."""

    space: Euclidean = eqx.field(static=True)

    def __call__(self, key, iterate):
        """Returns both."""
        del key
        exact = iterate.energy.log_partition(self.space)
        return jnp.stack([iterate.log_partition[0], exact])


class Divergence(Metric):
    """KL(data's teacher || student) over the training data: E (U - U*) + log Z - log Z*, with both log Z exact."""

    space: Euclidean = eqx.field(static=True)
    teacher: Any

    def __call__(self, key, iterate):
        """Returns the divergence, a scalar, in nats."""
        del key
        energy = iterate.energy
        apart = measures.mean(energy(iterate.data.points) - self.teacher(iterate.data.points), iterate.data.log_weights)
        return apart + energy.log_partition(self.space) - self.teacher.log_partition(self.space)


def monitors(energy) -> dict[str, Any]:
    """Returns the metrics."""
    problem = PROBLEMS[energy]
    return {
        "kl": Divergence(problem.space, problem.teacher()), "log_partition": LogPartitions(problem.space),
        "gradient": GradientError(problem.space), "acceptance": metrics.Acceptance(),
    }  # fmt: skip


def swept(settings: Settings, energy: str, label: str, method) -> xarray.Dataset:
    """Sweeps the seeds of a method."""
    problem = PROBLEMS[energy]
    print(f"{energy}: {label}", file=sys.stderr)
    runs = product(
        energy=[energy], n=[settings.n], particle_step=[problem.particle_step], learning_rate=[problem.learning_rate],
        seed=_common.seeds_of(settings),
    )  # fmt: skip
    folder = settings.out / f"{settings.preset}_{energy}" / label.replace(" ", "_").replace(",", "")
    every = settings.steps // RECORDS  # type: ignore[operator]
    return _common.swept(runs, method, None, data, metrics=monitors, steps=settings.steps, every=every, folder=folder)


# -- Rows and figures -------------------------------------------------------------------------------------


def bias(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the norm of the mean of vectors over seeds without the part that their scatter makes, and the size of that part.

    |mean|^2 - sum of variances / seeds estimates the squared bias without bias. The second is the root of what is taken away, the norm that
    a gradient without bias would show.

    Args:
        errors: The vectors, (seed, ..., component).

    Returns:
        Both, (...,).

    >>> [float(v) for v in bias(np.array([[3.0, 4.0], [3.0, 4.0]]))]
    [5.0, 0.0]
    """
    noise = np.sum(np.var(errors, axis=0, ddof=1), axis=-1) / len(errors)
    return np.sqrt(np.maximum(np.sum(np.mean(errors, axis=0) ** 2, axis=-1) - noise, 0)), np.sqrt(noise)


def rows_of(energy: str, results: dict[str, xarray.Dataset], seconds: dict[str, float]) -> list[dict]:
    """Returns a row for each method: biases halfway and at the end, and what they cost."""
    rows = []
    for label, one in results.items():
        gradient, log_z = one.gradient.values, one.log_partition.values
        size, noise = bias(gradient[..., 1:])
        error = (log_z[..., 0] - log_z[:, :1, 0]) - (log_z[..., 1] - log_z[:, :1, 1])  # unweighted walkers know its changes alone
        half, steps = RECORDS // 2, int(one.step.values[-1])
        rows.append(dict(
            energy=energy, method=label, gradient_half=size[half], gradient_end=size[-1], noise=noise[-1],
            exact_gradient=float(np.mean(gradient[:, half, 0])), log_Z_half=float(np.mean(error[:, half])),
            log_Z=float(np.mean(error[:, -1])), log_Z_error=float(np.std(error[:, -1], ddof=1) / np.sqrt(len(error))),
            KL=float(np.mean(one.kl.values[:, -1])), ms_a_step=1e3 * seconds[label], seconds=steps * seconds[label],
        ))  # fmt: skip
    return rows


def figure_of(results: dict[str, dict[str, xarray.Dataset]], seconds: dict[str, dict[str, float]]) -> Figure:
    """Draws the bias of the gradient, error of log Z and KL against seconds of steps, a column for each energy."""
    figure, panels = _common.panels_of(3, len(results), 6.6, sharex="col")
    for column, (energy, runs) in enumerate(results.items()):
        for i, (label, one) in enumerate(runs.items()):
            x = one.step.values[1:] * seconds[energy][label]
            style = _common.look(i)
            size, noise = bias(one.gradient.values[..., 1:])
            panels[0, column].plot(x, np.maximum(size, noise)[1:], label=label, **style)
            log_z = one.log_partition.values
            error = (log_z[..., 0] - log_z[:, :1, 0]) - (log_z[..., 1] - log_z[:, :1, 1])
            mean, spread = np.mean(error, 0)[1:], np.std(error, 0, ddof=1)[1:]
            panels[1, column].plot(x, mean, **style)
            panels[1, column].fill_between(x, mean - spread, mean + spread, color=style["color"], alpha=0.2, linewidth=0)
            _common.band(panels[2, column], x, one.kl.values[:, 1:], i)
        panels[0, column].set_title({"mixture": "Gaussian mixture, d = 10", "boltzmann": "Boltzmann machine, d = 8"}[energy])
        charts.log_axis(panels[0, column].yaxis)
        charts.signed_axis(panels[1, column].yaxis, 0.1)
        panels[1, column].axhline(0, color="0.6", linewidth=0.8)
        charts.signed_axis(panels[2, column].yaxis, 0.01)
        for panel in panels[:, column]:
            charts.log_axis(panel.xaxis)
        panels[2, column].set_xlabel("seconds of steps")
    names = ("bias of the gradient, or noise\nof its mean where that is larger", "log Z by the walkers less exact (nat)", _common.KL)
    for panel, name in zip(panels[:, 0], names, strict=True):
        panel.set_ylabel(name)
    count = next(iter(next(iter(results.values())).values())).sizes["run"]
    title = f"mean of {count} seeds; bands: standard deviation (log Z), least to largest (KL)"
    _common.legend(figure, panels[0, :1], 4, title=title)
    return figure


# -- The command ---------------------------------------------------------------------------------------------


CAPTION = (
    "Bias of the gradient's estimate, error of log Z and KL against the seconds of the steps, a column for each energy. Above: the "
    "norm of the bias over {} seeds, or the noise of its mean where that is larger. Middle: log Z by the walkers less the exact one, "
    "mean and one standard deviation. Below: KL(teacher || student), mean with a band from the least to the largest."
)


def content_of(settings: Settings) -> dict[str, Any]:
    """Runs the study, and returns the content of its report."""
    results, seconds, rows = {}, {}, []
    for energy in settings.energies:
        known = methods(settings, PROBLEMS[energy])
        seconds[energy] = _common.seconds_a_step(known, data(jax.random.key(settings.first_seed), energy, settings.n), 3)
        results[energy] = {label: swept(settings, energy, label, method) for label, method in known.items()}
        rows += rows_of(energy, results[energy], seconds[energy])
    of = lambda row: f"{row['method']} {row['gradient_end']:.2g} (noise {row['noise']:.2g}), {row['log_Z']:.2g} nat"  # noqa: E731
    sentences = [f"{energy}: {'; '.join(of(row) for row in rows if row['energy'] == energy)}." for energy in settings.energies]
    return dict(
        title="Bias of the gradient and of log Z",
        about=f"n = {settings.n}, N = {settings.walkers} walkers, {settings.seeds} seeds, {settings.steps} iterations. gradient: norm of "
        "the mean over seeds of E_walkers dU + d log Z, less its scatter, halfway and at the end; noise: what a gradient without bias "
        "would show; exact_gradient: the norm of the likelihood's own halfway; log_Z: by the walkers less exact, change since the start.",
        rows=rows,
        summary="Bias of the gradient at the end, and of log Z. " + " ".join(sentences),
        figures={"gradient_bias": (figure_of(results, seconds), CAPTION.format(settings.seeds))}, seeds=_common.seeds_of(settings),
        paper="Shows the protocol on a mixture and on images; has no such table.",
    )  # fmt: skip


def main(given: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    settings = checked(given)
    return report.run("gradient_bias", given, settings.out / settings.preset, lambda: content_of(settings))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
