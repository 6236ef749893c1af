"""Coupled measure dynamics for energy-based models: neurons and particles that evolve together.

The words are here; the loops are `dualebm.run.run` and `dualebm.simulate.simulate`, the figures `dualebm.plot`.
"""

from dualebm.energy import Energy, Shallow, log_density
from dualebm.features import Bump, Custom, ReLU, Softplus
from dualebm.flows.langevin import sample
from dualebm.measures import Atoms, Samples, total_variation
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.dual import Dual, DualRates, annealing, rates_from_paper, rates_from_program
from dualebm.saved import load_energy, save_energy
from dualebm.spaces import Euclidean, Sphere, Torus

__all__ = [
    "Adaptive",
    "Atoms",
    "Bump",
    "Custom",
    "Dual",
    "DualRates",
    "Energy",
    "Euclidean",
    "ReLU",
    "Samples",
    "Shallow",
    "Softplus",
    "Sphere",
    "Torus",
    "annealing",
    "load_energy",
    "log_density",
    "rates_from_paper",
    "rates_from_program",
    "sample",
    "save_energy",
    "total_variation",
]
