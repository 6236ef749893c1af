"""Settings: the fields of frozen dataclasses and of NamedTuples of rates, whose types say which values are allowed.

The type of a field states its allowed values once. `check` refuses all other values, and `fields` describes the fields to a
program that offers them to a user, such as the command line:

>>> @dataclasses.dataclass(frozen=True)
... class Network:
...     width: Count = 64
...     spread: Positive | None = None
...     activation: Literal["relu", "tanh"] = "relu"
...
...     def __post_init__(self):
...         check(self)
>>> Network(activation="rleu")
Traceback (most recent call last):
...
ValueError: activation is 'rleu'; did you mean 'relu'? Allowed: 'relu', 'tanh'

A type is one of these, or a union of several: a number, whole or not, with a `Bound`; `bool`; `str`, or a `Literal` of words;
None; a tuple of numbers or words; a class of objects; a function.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray

from dualebm._internal import checks


@dataclasses.dataclass(frozen=True)
class Bound:
    """The values that a number may have: finite numbers from `least` to `largest`.

    Args:
        positive: whether 0 is excluded.
        largest: the largest value.
        least: the smallest value of a whole number. A number that is not whole is at least 0.
        moves_particles: whether the number is the time step of a Langevin move. A space may have a smaller bound for it
            (`Space.largest_particle_step`).
    """

    positive: bool = False
    largest: float = math.inf
    least: int = 0
    moves_particles: bool = False


Count = Annotated[int, Bound(least=1)]
"""A whole number of at least 1."""
CountFrom2 = Annotated[int, Bound(least=2)]
"""A whole number of at least 2."""
CountOrZero = Annotated[int, Bound()]
"""A whole number of at least 0."""
Seed = Annotated[int, Bound(largest=checks.LARGEST_SEED)]
"""A seed of random numbers."""
NonNegative = Annotated[float, Bound()]
"""A number of at least 0."""
Positive = Annotated[float, Bound(positive=True)]
"""A number greater than 0."""
Fraction = Annotated[float, Bound(positive=True, largest=1)]
"""A number in (0, 1]."""


class Setting(NamedTuple):
    """The description of a field of a dataclass or of a NamedTuple.

    Args:
        name: the name of the field.
        kinds: the kinds of values that text can spell: a subset of int, float, bool and str. Empty where there are none.
        words: the allowed words (or numbers) of a `Literal`. Empty where any value within `kinds` and `bound` is allowed.
        bound: the bound of the numbers. None where no number is allowed, or only those of `words`.
        optional: whether None is allowed.
        many: whether the value is a tuple of such values.
        objects: the classes of which the value may be an object.
        function: whether the value may be a function.
        default: the default, or `dataclasses.MISSING`.
        help: the text of the field in the docstring of the class.
    """

    name: str
    kinds: frozenset[type] = frozenset()
    words: tuple[Any, ...] = ()
    bound: Bound | None = None
    optional: bool = False
    many: bool = False
    objects: tuple[type, ...] = ()
    function: bool = False
    default: Any = dataclasses.MISSING
    help: str = ""


def word(kind: type) -> str:
    """Return the name of a class as a word: in lower case with underscores.

    Args:
        kind: the class.

    Returns:
        The word.

    >>> word(Setting), word(type("ReLU", (), {})), word(type("KernelFlow", (), {}))
    ('setting', 'relu', 'kernel_flow')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def fields(kind: type) -> dict[str, Setting]:
    """Return the descriptions of the fields of a class, by name and in order.

    Args:
        kind: a dataclass or a NamedTuple class. Its docstring, or that of a class that it inherits, has a section `Args:`.

    >>> from dualebm.methods.dual import Dual
    >>> fields(Dual)["signs"].words, fields(Dual)["neurons"].bound, fields(Dual)["particles"].optional
    (('half', 'random', 'all_negative'), Bound(positive=False, largest=inf, least=1, moves_particles=False), True)
    """
    texts = _texts(kind)
    return {name: setting._replace(help=texts.get(name, "")) for name, setting in described(kind).items()}


def check(settings: Any) -> None:
    """Check every field of a dataclass against its type.

    An object is not checked against the classes that the type names, because another class may stand in for them. Numbers, words,
    None, and values that cannot be called where a function is needed, are refused in place of objects.

    Args:
        settings: the dataclass. Its `__post_init__` calls `check(self)` before it checks relations between fields.

    Raises:
        ValueError: a value is not allowed. The message names the field, its value and the allowed values.

    >>> from dualebm.features import ReLU
    >>> ReLU(power=0)
    Traceback (most recent call last):
    ...
    ValueError: power is 0; it must be an integer of at least 1
    """
    for name, setting in described(type(settings)).items():
        value = getattr(settings, name)
        if not setting.many or (value is None and setting.optional):
            check_value(name, value, setting)
        elif isinstance(value, tuple):
            for i, element in enumerate(value):
                check_value(f"{name}[{i}]", element, setting._replace(many=False, optional=False))
        else:
            raise ValueError(f"{name} is {value!r}; it must be {_allowed(setting)}")


def check_value(name: str, value: Any, setting: Setting) -> None:
    """Check one value of a setting, which is no tuple, or one element of a tuple.

    Args:
        name: the name in errors.
        value: the value.
        setting: the description of the setting.

    Raises:
        ValueError: the value is not allowed. The message names it and what is allowed.

    >>> check_value("neurons", 0, of_type("neurons", Count))
    Traceback (most recent call last):
    ...
    ValueError: neurons is 0; it must be an integer of at least 1
    """
    kinds, words, bound = setting.kinds, setting.words, setting.bound
    objects = bool(setting.objects) or setting.function
    if value is None and setting.optional:
        return
    abstract = len(setting.objects) == 1 and inspect.isabstract(setting.objects[0]) and not kinds and not setting.function
    if abstract and not isinstance(value, (*setting.objects, type)):  # nothing stands in for an object of an abstract class
        raise ValueError(f"{name} is {value!r:.200}; it must be {_allowed(setting)}")
    if objects and isinstance(value, type) and (not setting.function or issubclass(value, setting.objects)):
        raise ValueError(f"{name} is the class {value.__name__}; it must be {_allowed(setting)}, such as {value.__name__}(...)")
    if objects and not isinstance(value, (bool, int, float, str, type(None))):
        if setting.function and not (callable(value) or isinstance(value, setting.objects)):
            raise ValueError(f"{name} is {value!r}; it must be {_allowed(setting)}")
    elif (isinstance(value, bool) and bool in kinds) or (isinstance(value, str) and str in kinds and not words):
        return
    elif words and (isinstance(value, str) or not (objects or bound or bool in kinds)):
        checks.choice(name, value, (*words, None) if setting.optional else words)
    elif bound is None:
        raise ValueError(f"{name} is {value!r}; it must be {_allowed(setting)}")
    elif float in kinds:
        checks.number(name, value, positive=bound.positive, largest=bound.largest)
    else:
        checks.count(name, value, bound.least, bound.largest if math.isfinite(bound.largest) else checks.LARGEST_COUNT)


def _allowed(setting: Setting) -> str:
    """Say in words which values a setting may have."""
    kinds, bound = setting.kinds, setting.bound
    ways = [f"one of {', '.join(map(repr, setting.words))}"] if setting.words else ["a string"] if str in kinds else []
    if bound is not None:
        ways.append("a finite number" if float in kinds else f"an integer of at least {bound.least}")
    if bool in kinds:
        ways.append("True or False")
    if setting.many:
        ways = [f"a tuple of elements, each {' or '.join(ways)}"]
    if setting.objects:
        ways.append(f"an object of {', '.join(kind.__name__ for kind in setting.objects)}")
    if setting.function:
        ways.append("a function")
    return " or ".join([*ways, "None"] if setting.optional else ways)


@functools.cache
def described(kind: type) -> dict[str, Setting]:
    """Return the descriptions of the fields of a class without their texts, in order.

    Fields of the type `Any` may have any value. They are left out.

    Args:
        kind: a dataclass or a NamedTuple class.

    Returns:
        The descriptions by name.

    >>> from dualebm.methods.dual import DualRates
    >>> described(DualRates)["radius"].default, described(DualRates)["radius"].bound.positive
    (10.0, True)
    """
    hints = get_type_hints(kind, include_extras=True)
    defaults = {name: default for name, default in _defaults(kind).items() if hints[name] is not Any}
    return {name: of_type(name, hints[name])._replace(default=default) for name, default in defaults.items()}


def of_type(name: str, hint: Any) -> Setting:
    """Return the description of a setting of a type, without a default and a text.

    Args:
        name: the name of the setting.
        hint: the type.

    Returns:
        The description.

    >>> of_type("neurons", Count).bound.least
    1
    """
    return _of_type(Setting(name), hint, None)


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the defaults of the fields of a dataclass or of a NamedTuple class. `MISSING` stands for none."""
    if dataclasses.is_dataclass(kind):
        return {field.name: field.default for field in dataclasses.fields(kind)}
    return {name: kind._field_defaults.get(name, dataclasses.MISSING) for name in kind._fields}


def _of_type(setting: Setting, hint: Any, bound: Bound | None) -> Setting:
    """Return a description to which one type of a union is added. A number without a bound is at least 0."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _of_type(setting, arguments[0], next((extra for extra in arguments[1:] if isinstance(extra, Bound)), bound))
    if origin in (Union, types.UnionType):
        return functools.reduce(lambda known, member: _of_type(known, member, bound), arguments, setting)
    if origin is Literal:
        return setting._replace(words=setting.words + arguments, kinds=setting.kinds | {type(word) for word in arguments})
    if origin is tuple:
        return _of_type(setting, arguments[0], bound)._replace(many=True)
    if hint is type(None):
        return setting._replace(optional=True)
    if hint in (int, float):
        return setting._replace(kinds=setting.kinds | {hint}, bound=bound or Bound())
    if hint in (bool, str):
        return setting._replace(kinds=setting.kinds | {hint})
    if isinstance(hint, type) and issubclass(hint, AbstractArray):  # the traced form of a rate
        return setting
    if isinstance(hint, type):
        return setting._replace(objects=(*setting.objects, hint))
    return setting._replace(function=True)


def _texts(kind: type) -> dict[str, str]:
    """Return the texts of the sections `Args:` of a class and of the classes that it inherits, by the name of the argument."""
    import docstring_parser

    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__ != "builtins" and each.__doc__:
            parameters = docstring_parser.parse(each.__doc__, docstring_parser.DocstringStyle.GOOGLE).params
            texts |= {p.arg_name: " ".join((p.description or "").split()) for p in parameters}
    return texts
