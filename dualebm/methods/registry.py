"""The methods of this package by name. The command line, the docs and the tests take them from this one list."""

import importlib
import inspect
import pkgutil
from functools import cache

from dualebm import methods, settings
from dualebm.methods.base import Method, Wrapper

DEFAULT = "dual"
"""The name of the method that is used where none is named."""


@cache
def by_name() -> dict[str, type[Method]]:
    """Return the training methods of this package, by the name of the class as a word (`settings.word`).

    It searches every module of `dualebm.methods`, so that a new file needs no entry. It leaves out wrappers, which need
    another method, abstract classes, and classes whose name begins with an underscore.

    >>> by_name()["dual"].__name__, "audited" in by_name()
    ('Dual', False)
    """
    modules = [importlib.import_module(f"{methods.__name__}.{info.name}") for info in pkgutil.iter_modules(methods.__path__)]
    classes = [
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and issubclass(kind, Method)
    ]
    kept = [kind for kind in classes if not (issubclass(kind, Wrapper) or inspect.isabstract(kind) or kind.__name__.startswith("_"))]
    return {settings.word(kind): kind for kind in kept}
