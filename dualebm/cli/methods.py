"""The methods by name, and settings of them as text: what every subcommand that trains needs of them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from dualebm._internal import checks
from dualebm.cli.values import parse
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.networks import MLP
from dualebm.flows.likelihood import Start
from dualebm.methods.registry import by_name
from dualebm.spaces import Sphere

WORDS = {"true": True, "false": False, "none": None}

OBJECTS = ("space", "feature", "kernel", "start")
"""Fields of methods that are no numbers or words."""

ENERGIES: dict[str, type] = {"mlp": MLP, "boltzmann": Boltzmann}
"""The energies of methods for any, by name; their settings are among those of the method."""


def kind(name: str) -> Any:
    """The class of a method. Raises ValueError with the nearest name.

    >>> kind("lazy").__name__
    'Lazy'
    """
    checks.choice("method", name, by_name())
    return by_name()[name]


def assignments(texts: Iterable[str]) -> dict[str, list]:
    """name=values pairs, values as `values.parse` reads them and true, false and none. Raises ValueError naming the pair.

    >>> assignments(["width=64,128", "averaged=true"])
    {'width': [64, 128], 'averaged': [True]}
    """
    found: dict[str, list] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (equals and name.isidentifier()) or name in found:
            raise ValueError(f"set has {text!r}; it must be name=value, each name once")
        try:
            found[name] = [WORDS.get(value, value) if isinstance(value, str) else value for value in parse(values)]
        except ValueError as error:
            raise ValueError(f"set {name}: {error}") from error
    return found


def check_names(method: str, names: Iterable[str]) -> None:
    """Raises ValueError for names that are neither fields nor rates of a method or its energies, with the nearest that is.

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
"""Settings of the energies."""


def start(energy: str = "mlp", **settings: Any) -> Start:
    """The start of an energy of `ENERGIES`, of its settings that are not None. Raises ValueError for one that is another's.

    >>> start(width=8, hidden=None)
    MLP(width=8, depth=2, activation='softplus')
    """
    checks.choice("energy", energy, ENERGIES)
    given = {name: value for name, value in settings.items() if value is not None}
    allowed = [field.name for field in dataclasses.fields(ENERGIES[energy])]
    for name in given:
        checks.choice(f"a setting of the energy {energy!r}", name, allowed)
    return ENERGIES[energy](**given)
