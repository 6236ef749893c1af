"""The methods on the circle, and their sweeps."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import xarray

from dualebm.features import Bump
from dualebm.kernels import BumpKernel
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy, LazyRates
from dualebm.methods.mean_field import MeanField
from dualebm.metrics import Acceptance
from dualebm.metrics.base import Metric
from dualebm.sweeps.folder import by_setting
from dualebm.sweeps.grid import product
from experiments import _common
from experiments.torus.exact import BETA, CONCENTRATION, GRID, SPACE, best_on, nodes, sample

PARTICLE_STEP, FLOW_STEP, CHANGED_STEP, JITTER = 2e-3, 5e-4, 0.1, 0.1
"""Of the particles, by their acceptance; of the kernel's flows in natural time, whose energy follows the particles at once and overshoots
with longer steps; of changed time, the authors'; and their noise at the start."""

FLOWS, REST = ("natural", "changed", "squared"), ("features", "F1", "mean field")
METHODS = FLOWS + REST
F2 = METHODS[:4]
TITLES = {
    "natural": "kernel, natural time", "changed": "kernel, changed time", "squared": "kernel, squared MMD", "features": "random features",
    "F1": "F1, Algorithm 1", "mean field": "F1, mean field",
}  # fmt: skip
EVERY, LONGER = 10, 10
"""Iterations between records of the kernel's flows, and how many times as many iterations the other methods make, which cost little."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment; None takes the value of the preset."""

    preset: str = "quick"
    """quick (100 seconds of CPU time) or paper (N = 1e3)."""
    n: int | None = None
    """Data points: 1000, in the paper preset 3000. A step of a kernel's flow takes a few N (N + n) kernels."""
    particles: int | None = None
    """N: 500, in the paper preset 1000."""
    steps: int | None = None
    """Iterations of the kernel's flows, a multiple of 10: 120, in the paper preset 200. The other methods make 10 times as many."""
    seeds: int | None = None
    """Runs of each method, each with its own data: 2, in the paper preset 3."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""
    out: Path = Path("results/torus")
    """Where results and figures are written."""


PRESETS = {"quick": dict(n=1000, particles=500, steps=120, seeds=2), "paper": dict(n=3000, particles=1000, steps=200, seeds=3)}


def completed(settings: Settings) -> Settings:
    """Returns the settings with the values of the preset.

    Raises:
        ValueError: A setting is not allowed; the message names it.

    >>> completed(Settings()).n
    1000
    """
    settings = _common.settled(settings, PRESETS)
    _common.check_multiple("steps", settings.steps, EVERY)
    return settings


class Profile(Metric):
    """f at the points of a grid: the last, and the mean over the iterations (NaN for a method that has none), (2, K)."""

    points: jax.Array

    def __call__(self, key, iterate):
        """Returns both, in units of temperature."""
        del key
        if not isinstance(iterate.method, KernelFlow | Lazy):
            last = iterate.energy(self.points)
            return jnp.stack([last, jnp.full_like(last, jnp.nan)])
        off = None if isinstance(iterate.method, KernelFlow) else False
        last = dataclasses.replace(iterate.method, averaged=off)  # pyright: ignore[reportArgumentType]
        return jnp.stack([m.energy(iterate.state, iterate.rates, iterate.data)(self.points) for m in (last, iterate.method)])


def method_of(kind: str = METHODS[0], particles: int = 1000):
    """Returns the method of a name in `METHODS`, with so many particles."""
    kernel, bump = BumpKernel(SPACE, CONCENTRATION), Bump(SPACE, CONCENTRATION)
    flow = KernelFlow(SPACE, kernel, particles, averaged=GRID)
    return {
        "natural": flow,
        "changed": dataclasses.replace(flow, time="changed", jitter=JITTER),
        "squared": dataclasses.replace(flow, penalty="squared"),
        "features": Lazy(SPACE, bump, particles=particles, averaged=True),
        "F1": Dual(SPACE, bump, particles=particles),
        "mean field": MeanField(SPACE, bump, cells=GRID, neuron_cells=GRID, substeps=512),
    }[kind]


def rates_of(kind: str = METHODS[0]):
    """Returns the rates of a name in `METHODS`; 1 / T of the squared penalty is beta over the MMD at the optimum of the ball."""
    if kind in ("F1", "mean field"):
        return DualRates(PARTICLE_STEP, 0.002, 0.2, radius=BETA)
    if kind == "squared":
        return LazyRates(FLOW_STEP, radius=BETA / best_on().discrepancy)
    if kind == "features":
        return LazyRates(PARTICLE_STEP, radius=BETA, ascent_step=10.0)
    return LazyRates(CHANGED_STEP if kind == "changed" else FLOW_STEP, radius=BETA)


def solve(settings: Settings, kinds: tuple[str, ...], steps: int, every: int) -> xarray.Dataset:
    """Sweeps these methods, and returns `profile` (kind, seed, step, 2, K) and `acceptance`."""
    grid = product(kind=kinds, n=[settings.n], particles=[settings.particles], seed=_common.seeds_of(settings))
    metrics = {"profile": Profile(jnp.asarray(nodes()[:, None], jnp.float32)), "acceptance": Acceptance()}
    folder = settings.out / f"{settings.preset}_{'flows' if kinds == FLOWS else 'rest'}"
    results = _common.swept(grid, method_of, rates_of, sample, steps=steps, every=every, metrics=metrics, folder=folder)
    return by_setting(results, ("kind", "seed")).sel(kind=list(kinds))
