"""Coupled measure dynamics for energy-based models: neurons and particles that evolve together.

This package has the names that a user needs, and `dualebm.metrics`, `dualebm.data` and `dualebm.plotting` have metrics, data and
figures. `__init__.pyi` lists the names. Each is imported when it is first used, so that importing the package is fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
