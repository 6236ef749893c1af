"""Coupled measure dynamics for energy-based models: neurons and particles that evolve together.

The words are here; the loops are `dualebm.training.run.run` and `dualebm.training.simulate.simulate`,
the figures `dualebm.plotting.charts`.
"""

from dualebm.base_measures import Flat, Gaussian, Uniform
from dualebm.energies.shallow import Energy, Shallow, log_density
from dualebm.features import Bump, Custom, ReLU, Softplus
from dualebm.flows.langevin import sample
from dualebm.measures import Atoms, Samples, total_variation
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.dual import Dual, DualRates, annealing
from dualebm.methods.presets import rates_from_paper, rates_from_program
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.checkpoints import load_energy, save_energy

__all__ = [
    "Adaptive",
    "Atoms",
    "Bump",
    "Custom",
    "Dual",
    "DualRates",
    "Energy",
    "Euclidean",
    "Flat",
    "Gaussian",
    "ReLU",
    "Samples",
    "Shallow",
    "Softplus",
    "Sphere",
    "Torus",
    "Uniform",
    "annealing",
    "load_energy",
    "log_density",
    "rates_from_paper",
    "rates_from_program",
    "sample",
    "save_energy",
    "total_variation",
]
