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
None; a tuple of numbers or words; a class of objects; an array; a function.

The types of the arguments of a function say the same. The decorator `checked` refuses other arguments:

>>> @checked
... def curve(steps: Count, width: Literal["single", "double"] = "double"): ...
>>> curve(0)
Traceback (most recent call last):
...
ValueError: steps is 0; it must be an integer of at least 1
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import AbstractArray

from dualebm._internal import checks


@dataclasses.dataclass(frozen=True)
class Bound:
    """The values that a number may have: finite numbers from `least` to `largest`.

    Args:
        positive: whether 0 is excluded.
        largest: the largest value.
        least: the smallest value of a whole number. A number that is not whole is at least 0.
        signed: whether a number that is not whole may be below 0.
        moves_particles: whether the number is the time step of a Langevin move. A space may have a smaller bound for it
            (`Space.largest_particle_step`).
    """

    positive: bool = False
    largest: float = math.inf
    least: int = 0
    signed: bool = False
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
Number = Annotated[float, Bound(signed=True)]
"""A finite number, with either sign."""


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
        arrays: the types of which the value may be an array.
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
    arrays: tuple[type, ...] = ()
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
    (('half', 'random', 'all_negative'), Bound(positive=False, largest=inf, least=1, signed=False, moves_particles=False), True)
    """
    texts = _texts(kind)
    return {name: setting._replace(help=texts.get(name, "")) for name, setting in described(kind).items()}


def check(settings: Any, *, alone: bool = False) -> None:
    """Check every field of a dataclass against its type.

    An object is not checked against the classes that the type names, because another class may stand in for them. Numbers, words,
    None, classes, and values that cannot be called where a function is needed, are refused in place of objects.

    Args:
        settings: the dataclass. Its `__post_init__` calls `check(self)` before it checks relations between fields.
        alone: whether no other class may stand in for those that the types name.

    Raises:
        ValueError: a value is not allowed. The message names the field, its value and the allowed values.

    >>> from dualebm.features import ReLU
    >>> ReLU(power=0)
    Traceback (most recent call last):
    ...
    ValueError: power is 0; it must be an integer of at least 1
    """
    for name, setting in described(type(settings)).items():
        check_value(name, getattr(settings, name), setting, alone=alone)


P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that refuses arguments that its annotations do not allow, before it does anything else.

    The types are those of fields (see `check`). An argument of a class must be an object of this class, and no other class may stand in
    for it. Of an array the number of dimensions is checked. An argument without a type or of the type `Any`, and those of `*args` and
    `**options`, may be anything.

    Args:
        function: the function. It may be called where its arrays are traced.

    Returns:
        The function, which raises ValueError for an argument that is not allowed.

    >>> import pathlib
    >>> @checked
    ... def write(path: str | pathlib.PurePath): ...
    >>> write(3)
    Traceback (most recent call last):
    ...
    ValueError: path is 3; it must be a string or an object of PurePath
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        known = _arguments(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in known:
                check_value(name, value, known[name], alone=True)
        return function(*args, **kwargs)

    return checking


@functools.cache
def _arguments(function: Callable) -> dict[str, Setting]:
    """Return the descriptions of the arguments of a function that have a type, by name."""
    hints = get_type_hints(function, include_extras=True)
    kinds = {name: each.kind for name, each in inspect.signature(function).parameters.items()}
    single = (name for name, kind in kinds.items() if kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD))
    checked_here = (name for name in single if hints.get(name, Any) is not Any and getattr(hints[name], "dtypes", ()) != ("prng_key",))
    return {name: of_type(name, hints[name]) for name in checked_here}  # `keys.check_key` has its own sentence


def check_value(name: str, value: Any, setting: Setting, *, alone: bool = False) -> None:
    """Check one value of a setting.

    Args:
        name: the name in errors.
        value: the value.
        setting: the description of the setting.
        alone: whether no other class may stand in for the classes of the setting.

    Raises:
        ValueError: the value is not allowed. The message names it and what is allowed.

    >>> check_value("neurons", 0, of_type("neurons", Count))
    Traceback (most recent call last):
    ...
    ValueError: neurons is 0; it must be an integer of at least 1
    """
    kinds, words, bound, objects = setting.kinds, setting.words, setting.bound, setting.objects
    refused = f"it must be {_allowed(setting)}"
    if value is None and setting.optional:
        return
    if setting.many:
        if not isinstance(value, tuple):
            raise ValueError(f"{name} is {value!r:.200}; {refused}")
        for i, element in enumerate(value):
            check_value(f"{name}[{i}]", element, setting._replace(many=False, optional=False), alone=alone)
        return
    shape = getattr(value, "shape", None)
    if setting.arrays and shape is not None and (bound is None or isinstance(value, Tracer)):
        if not any(_has_dimensions(value, kind) for kind in setting.arrays):
            raise ValueError(f"{name} has shape {shape}; {refused}")
        return
    if objects or setting.function:
        if isinstance(value, type):
            raise ValueError(f"{name} is the class {value.__name__}; {refused}, such as {value.__name__}(...)")
        if (isinstance(value, objects) and not isinstance(value, str)) or (setting.function and callable(value)):
            return
        if not isinstance(value, (bool, int, float, str, type(None))):
            abstract = len(objects) == 1 and inspect.isabstract(objects[0]) and not kinds
            if alone or abstract or setting.function:  # nothing stands in for an object of an abstract class
                raise ValueError(f"{name} is {value!r:.200}; {refused}")
            return
    if (isinstance(value, (bool, np.bool_)) and bool in kinds) or (isinstance(value, str) and str in kinds and not words):
        return
    if words and (isinstance(value, str) or not (objects or setting.function or bound or bool in kinds)):
        checks.choice(name, value, (*words, None) if setting.optional else words)
    elif bound is None:
        raise ValueError(f"{name} is {value!r:.200}; {refused}")
    elif float in kinds:
        checks.number(name, value, positive=bound.positive, largest=bound.largest, signed=bound.signed)
    else:
        checks.count(name, value, bound.least, bound.largest if math.isfinite(bound.largest) else checks.LARGEST_COUNT)


def _has_dimensions(value: Any, kind: Any) -> bool:
    """Whether an array has as many dimensions as its type says."""
    return not issubclass(kind, AbstractArray) or kind.index_variadic is not None or len(kind.dims) == np.ndim(value)


def _shape(kind: Any) -> str:
    """Return the shape that a type of arrays states, in words."""
    return f" ({', '.join(kind.dim_str.split())})" if issubclass(kind, AbstractArray) else ""


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
    if setting.arrays:
        ways.append(" or ".join(dict.fromkeys(f"an array{_shape(kind)}" for kind in setting.arrays)))
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
    if isinstance(hint, type) and issubclass(hint, (AbstractArray, np.ndarray, jax.Array)):
        return setting._replace(arrays=(*setting.arrays, hint))
    if isinstance(origin or hint, type) and origin is not collections.abc.Callable:
        return setting._replace(objects=(*setting.objects, origin or hint))
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
