"""The starts of energies: the values that a method which trains any energy may have as its setting `start`."""

from collections.abc import Callable
from typing import Any

from dualebm.energies.base import Energy
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import MLP, ConvNet
from dualebm.geometry import Space

Start = MLP | ConvNet | Boltzmann | Mixture | Callable[[Any, Space, Any], Energy]
"""`start(key, space, dtype)` returns the energy at the start of training. It is a frozen dataclass of settings, or a function."""
