"""Methods by name and their settings as text, for the subcommands that train."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from dualebm._internal import checks
from dualebm.cli.values import parse
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.networks import MLP
from dualebm.energies.starts import Start
from dualebm.methods.registry import by_name
from dualebm.spaces import Sphere

WORDS = {"true": True, "false": False, "none": None}
"""Words that stand for values that are neither numbers nor names."""

OBJECTS = ("space", "feature", "kernel", "start")
"""Fields of methods that are objects, which no flag sets directly."""

ENERGIES: dict[str, type] = {"mlp": MLP, "boltzmann": Boltzmann}
"""The energies by name, for the methods that train any energy. Their settings count as settings of such a method."""


def kind(name: str) -> Any:
    """Return the class of a method. Raises ValueError for an unknown name, with the nearest name.

    >>> kind("lazy").__name__
    'Lazy'
    """
    checks.choice("method", name, by_name())
    return by_name()[name]


def assignments(texts: Iterable[str]) -> dict[str, list]:
    """Return the names and values of texts of the form name=values.

    Values are read by `values.parse`, and also true, false and none. Raises ValueError, which names the text, for
    another form, for a name that comes twice, and for values that cannot be read.

    >>> assignments(["width=64,128", "averaged=true"])
    {'width': [64, 128], 'averaged': [True]}
    """
    assigned: dict[str, list] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (equals and name.isidentifier()) or name in assigned:
            raise ValueError(f"set has {text!r}; it must be name=value, and each name must come once")
        try:
            assigned[name] = [WORDS.get(value, value) if isinstance(value, str) else value for value in parse(values)]
        except ValueError as error:
            raise ValueError(f"set {name}: {error}") from error
    return assigned


def check_names(method: str, names: Iterable[str]) -> None:
    """Check that names are settings of a method: fields of it or of its energies, or rates.

    Raises ValueError for the first name that is not, with the nearest setting.

    >>> check_names("contrastive", ["widht"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: a setting of the method 'contrastive' is 'widht'; did you mean 'width'? Allowed: ...
    """
    fields = [field.name for field in dataclasses.fields(kind(method))]
    energies = ["energy", *ENERGY_SETTINGS] if "start" in fields else []
    rates = (kind(method)(Sphere(3), MLP()) if energies else kind(method)(Sphere(3))).rates._fields
    allowed = [*(name for name in fields if name not in OBJECTS), *energies, *rates]
    for name in names:
        checks.choice(f"a setting of the method {method!r}", name, allowed)


ENERGY_SETTINGS = tuple(dict.fromkeys(field.name for energy in ENERGIES.values() for field in dataclasses.fields(energy)))
"""The settings of the energies of `ENERGIES`."""


def start(energy: str = "mlp", **settings: Any) -> Start:
    """Return the start of an energy of `ENERGIES` with the settings that are not None.

    Raises ValueError for an unknown energy and for a setting that it does not have.

    >>> start(width=8, hidden=None)
    MLP(width=8, depth=2, activation='softplus')
    """
    checks.choice("energy", energy, ENERGIES)
    given = {name: value for name, value in settings.items() if value is not None}
    allowed = [field.name for field in dataclasses.fields(ENERGIES[energy])]
    for name in given:
        checks.choice(f"a setting of the energy {energy!r}", name, allowed)
    return ENERGIES[energy](**given)
