"""The run-time checker of annotations that the tests use: an int is a float, as PEP 484 has it.

It leaves out the constructors of settings, which hold no arrays. Those check their fields by `dualebm.settings.check`, and the tests
read its errors.
"""

from collections.abc import Callable
from typing import get_origin

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typecheck(function):
    """Returns the function with its annotations checked, unless it is a constructor without arrays."""
    hints = getattr(function, "__annotations__", {}).values()
    arrays = any("Array" in str(hint) for hint in hints if get_origin(hint) is not Callable)
    return function if getattr(function, "__name__", "") == "__init__" and not arrays else checked(function)
