"""The types of settings: every field of every class refuses what its type does not allow, and says what it is."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import pytest

from dualebm import settings
from dualebm.energies import starts
from dualebm.energies.boltzmann import Boltzmann
from dualebm.energies.mixture import Mixture
from dualebm.energies.networks import ACTIVATIONS, MLP, Activation, ConvNet
from dualebm.features import Bump, Custom, ReLU, ScaledBump, Softplus
from dualebm.flows import langevin, two_layer
from dualebm.kernels import RBF, ArcCosine, BumpKernel, Kernel
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.audited import Audited
from dualebm.methods.base import Method
from dualebm.methods.dual import Dual
from dualebm.methods.registry import by_name
from dualebm.methods.tracked import Tracked
from dualebm.settings import Bound, Count, CountOrZero, Fraction, NonNegative, Positive, Setting
from dualebm.spaces import Sphere

NEEDED = dict(space=Sphere(2), start=MLP(), method=Dual(Sphere(3)), function=jnp.dot, parameters=Sphere(3))
CLASSES = [
    *by_name().values(), Adaptive, Audited, Tracked, ReLU, Softplus, Bump, ScaledBump, Custom, RBF, BumpKernel, MLP, ConvNet,
    Boltzmann, Mixture,
]  # fmt: skip
FIELDS = [(kind, name) for kind in CLASSES for name in settings.fields(kind)]


def made(kind, **changes):
    """An object of a class, with what it needs and some changes."""
    needed = {field.name: NEEDED[field.name] for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    return kind(**{**needed, **changes})


def outside(setting: Setting) -> list:
    """Values outside a type, as a reader of the description would give them."""
    if setting.many:
        elements = [(-1,), ("1",)] if int in setting.kinds else [(1,)]
        return [3, "word", [1, 2], (1.5,), (None,), *elements, *([] if setting.optional else [None])]
    values: list[Any] = [] if setting.optional else [None]
    if float in setting.kinds:
        values += [-1.0, math.nan, math.inf, True, "1"]
    elif int in setting.kinds:
        assert setting.bound is not None
        values += [setting.bound.least - 1, 1.5, True, "1"]
    else:
        values += [3, 1.5]
    if setting.bound is not None and setting.bound.positive:
        values.append(0.0)
    if setting.bound is not None and setting.bound.largest < math.inf:
        values.append(setting.bound.largest + 0.5)
    if bool not in setting.kinds:
        values.append(False)
    if setting.kinds or setting.function:
        values.append(["a list"])
    return [*values, "no such word"]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
def test_every_field_refuses_values_outside_its_type(kind, name):
    made(kind)
    for value in outside(settings.fields(kind)[name]):
        with pytest.raises(ValueError, match=rf"^{re.escape(name)}(\[0\])? is "):
            made(kind, **{name: value})


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_is_described(kind):
    described = settings.fields(kind)
    assert list(described) == [field.name for field in dataclasses.fields(kind)]
    for setting in described.values():
        assert setting.help or kind in (RBF, BumpKernel), f"{setting.name} has no text in the docstring"
        assert setting.kinds or setting.objects or setting.function
        assert setting.default == {field.name: field.default for field in dataclasses.fields(kind)}[setting.name]
        assert "\n" not in setting.help


@pytest.mark.parametrize("name", by_name())
def test_every_rate_is_described(name):
    rates = made(by_name()[name]).rates
    described = settings.fields(type(rates))
    assert tuple(described) == rates._fields
    assert all(s.kinds == {float} and s.bound is not None and s.help and not (s.words or s.objects) for s in described.values())


@pytest.mark.parametrize(
    ("words", "functions"),
    [
        (langevin.Integrator, langevin.TRANSITIONS), (langevin.Move, langevin.MOVES), (two_layer.Optimiser, two_layer.OPTIMISERS),
        (Activation, ACTIVATIONS),
    ],
)  # fmt: skip
def test_words_are_the_names_of_functions(words, functions):
    assert get_args(words) == tuple(functions)


class Point(NamedTuple):
    x: NonNegative


@dataclasses.dataclass(frozen=True)
class Everything:
    """One field of each type.

    Args:
        count: how many,
            on two lines.
        word: a word.
    """

    count: Count
    zero: CountOrZero | None = None
    word: Literal["a", "b"] | None = "a"
    either: Literal["all"] | Count = "all"
    switch: bool = False
    part: Fraction = 1.0
    free: str = ""
    number: float = 0.0
    sizes: tuple[Count, ...] | None = (1,)
    names: tuple[Literal["a", "b"], ...] = ()
    kernel: Kernel | None = None
    make: Literal["a"] | Callable[[], int] = "a"
    anything: Any = None

    def __post_init__(self):
        settings.check(self)


class Renamed(Everything):
    """Another text for a field.

    Args:
        count: another text.
    """


def test_the_description_of_each_type():
    described = settings.fields(Everything)
    expected = dict(
        count=Setting("count", frozenset({int}), bound=Bound(least=1), help="how many, on two lines."),
        zero=Setting("zero", frozenset({int}), bound=Bound(), optional=True, default=None),
        word=Setting("word", frozenset({str}), ("a", "b"), optional=True, default="a", help="a word."),
        either=Setting("either", frozenset({str, int}), ("all",), Bound(least=1), default="all"),
        switch=Setting("switch", frozenset({bool}), default=False),
        part=Setting("part", frozenset({float}), bound=Bound(positive=True, largest=1), default=1.0),
        free=Setting("free", frozenset({str}), default=""),
        number=Setting("number", frozenset({float}), bound=Bound(), default=0.0),
        sizes=Setting("sizes", frozenset({int}), bound=Bound(least=1), optional=True, many=True, default=(1,)),
        names=Setting("names", frozenset({str}), ("a", "b"), many=True, default=()),
        kernel=Setting("kernel", objects=get_args(Kernel), optional=True, default=None),
        make=Setting("make", frozenset({str}), ("a",), function=True, default="a"),
    )
    assert described == expected
    assert settings.fields(Point)["x"].default is dataclasses.MISSING
    texts = {name: setting.help for name, setting in settings.fields(Renamed).items()}
    assert (texts["count"], texts["word"]) == ("another text.", "a word.")  # its text, else that of the class that it inherits


@pytest.mark.parametrize(
    "changes",
    [
        dict(zero=None), dict(word=None), dict(either=3), dict(either="all"), dict(switch=True), dict(number=2), dict(sizes=None),
        dict(sizes=()), dict(names=("b", "a")), dict(kernel=ArcCosine()), dict(make=lambda: 1), dict(anything=[3]),
    ],
)  # fmt: skip
def test_what_a_type_allows_passes(changes):
    Everything(1, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(word="c"), "word is 'c'; Allowed: 'a', 'b', None"),
        (dict(word=1), "word is 1; Allowed: 'a', 'b', None"),
        (dict(either="al"), "either is 'al'; did you mean 'all'? Allowed: 'all'"),
        (dict(either=0), "either is 0; it must be an integer of at least 1"),
        (dict(switch=1), "switch is 1; it must be True or False"),
        (dict(part=True), "part is True; it must be a finite number, greater than 0 and at most 1"),
        (dict(free=1), "free is 1; it must be a string"),
        (dict(sizes=[1]), "sizes is [1]; it must be a tuple of elements, each an integer of at least 1 or None"),
        (dict(sizes=(1, 0)), "sizes[1] is 0; it must be an integer of at least 1"),
        (dict(names=("c",)), "names[0] is 'c'; Allowed: 'a', 'b'"),
        (dict(names="a"), "names is 'a'; it must be a tuple of elements, each one of 'a', 'b'"),
        (dict(kernel="rbf"), "kernel is 'rbf'; it must be an object of ArcCosine, RBF, BumpKernel, Distance or None"),
        (dict(make=[]), "make is []; it must be one of 'a' or a function"),
    ],
)
def test_the_error_says_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Everything(1, **changes)


def test_a_start_is_settings_or_a_function():
    start = settings.fields(by_name()["contrastive"])["start"]
    assert start.objects == (MLP, ConvNet, Boltzmann, Mixture) == get_args(starts.Start)[:-1] and start.function and not start.kinds
    assert settings.fields(Audited)["method"].objects == (Method,)
    assert settings.fields(Custom)["function"][:2] == ("function", frozenset()) and settings.fields(Custom)["function"].function
    assert settings.fields(RBF)["bandwidth"].bound == Bound(positive=True) == settings.described(Softplus)["sharpness"].bound
    assert get_args(Positive)[1] == Bound(positive=True)
