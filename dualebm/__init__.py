"""Coupled measure dynamics for energy-based models: neurons and particles that evolve together.

What a user needs is here, and `dualebm.metrics`, `dualebm.data` and `dualebm.plotting` hold metrics, data and figures. What reads or writes
files is imported where it is first used: importing the package stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dualebm import metrics
from dualebm.base_measures import BaseMeasure, Flat, Gaussian, Uniform
from dualebm.energies.base import Energy, log_density
from dualebm.energies.boltzmann import Boltzmann, BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.energies.networks import MLP, ConvNet
from dualebm.energies.shallow import Shallow
from dualebm.features import Bump, Custom, Feature, ReLU, Softplus
from dualebm.flows.langevin import sample
from dualebm.geometry import Space
from dualebm.kernels import RBF, ArcCosine
from dualebm.measures import Atoms, Samples, total_variation
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.audited import Audited
from dualebm.methods.base import Divergence, Info, Iterate, Method, Wrapper
from dualebm.methods.contrastive import Contrastive, ContrastiveRates
from dualebm.methods.dual import Dual, DualRates, annealing
from dualebm.methods.jarzynski import Jarzynski, JarzynskiRates
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy, LazyRates
from dualebm.methods.likelihood import Likelihood, LikelihoodRates, WeightedLikelihood, WeightedRates
from dualebm.methods.mean_field import MeanField
from dualebm.methods.presets import rates_from_paper, rates_from_program
from dualebm.methods.score_matching import ScoreMatching, ScoreMatchingRates
from dualebm.methods.stein import KernelStein, NetworkRates, NetworkStein
from dualebm.methods.weighted_dual import WeightedDual, WeightedDualRates
from dualebm.metrics import Metric
from dualebm.rates import Fraction, NonNegative, ParticleStep, Positive, Probability
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.sweeps.grid import cross, draws, product, zipped
from dualebm.training.simulate import simulate

if TYPE_CHECKING:
    from dualebm.energies.files import load_energy, save_energy
    from dualebm.sweeps.engine import forecast, sweep
    from dualebm.sweeps.folder import by_setting, manifest, open_sweep
    from dualebm.sweeps.placement import Placement
    from dualebm.training.run import Diverged, run
    from dualebm.training.run_folder import open_results, to_netcdf

_IMPORTED_LATE = {
    "Diverged": "training.run",
    "Placement": "sweeps.placement",
    "by_setting": "sweeps.folder",
    "forecast": "sweeps.engine",
    "load_energy": "energies.files",
    "manifest": "sweeps.folder",
    "open_results": "training.run_folder",
    "open_sweep": "sweeps.folder",
    "run": "training.run",
    "save_energy": "energies.files",
    "sweep": "sweeps.engine",
    "to_netcdf": "training.run_folder",
}


def __getattr__(name: str) -> Any:
    """Import a name of `_IMPORTED_LATE` when it is first used."""
    if name not in _IMPORTED_LATE:
        raise AttributeError(f"module 'dualebm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dualebm.{_IMPORTED_LATE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


__all__ = [
    "MLP",
    "RBF",
    "Adaptive",
    "ArcCosine",
    "Atoms",
    "Audited",
    "BaseMeasure",
    "Boltzmann",
    "BoltzmannMachine",
    "Bump",
    "Contrastive",
    "ContrastiveRates",
    "ConvNet",
    "Custom",
    "Diverged",
    "Divergence",
    "Dual",
    "DualRates",
    "Energy",
    "Euclidean",
    "Feature",
    "Flat",
    "Fraction",
    "Gaussian",
    "GaussianMixture",
    "Info",
    "Iterate",
    "Jarzynski",
    "JarzynskiRates",
    "KernelFlow",
    "KernelStein",
    "Lazy",
    "LazyRates",
    "Likelihood",
    "LikelihoodRates",
    "MeanField",
    "Method",
    "Metric",
    "Mixture",
    "NetworkRates",
    "NetworkStein",
    "NonNegative",
    "ParticleStep",
    "Placement",
    "Positive",
    "Probability",
    "ReLU",
    "Samples",
    "ScoreMatching",
    "ScoreMatchingRates",
    "Shallow",
    "Softplus",
    "Space",
    "Sphere",
    "Torus",
    "Uniform",
    "WeightedDual",
    "WeightedDualRates",
    "WeightedLikelihood",
    "WeightedRates",
    "Wrapper",
    "annealing",
    "by_setting",
    "cross",
    "draws",
    "forecast",
    "load_energy",
    "log_density",
    "manifest",
    "metrics",
    "open_results",
    "open_sweep",
    "product",
    "rates_from_paper",
    "rates_from_program",
    "run",
    "sample",
    "save_energy",
    "simulate",
    "sweep",
    "to_netcdf",
    "total_variation",
    "zipped",
]
