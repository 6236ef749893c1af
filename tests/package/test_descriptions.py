"""Descriptions differ where a function or an object differs, and only there, in every process."""

import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import jaxtyped

from dualebm.features import Custom
from dualebm.spaces import Sphere, Torus
from dualebm.training import bytecode, fingerprint
from dualebm.training.descriptions import LEVELS, describe, packages

PROGRAM = """
import functools
import jax
import numpy as np


def helper(x, factor=1):
    return factor * x


class Base:
    shift = 0

    def moved(self, x):
        return x + self.shift


class Scale(Base):
    def __init__(self, factor):
        self.factor = np.full(3, factor)

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return helper(self.moved(x))

    @functools.cached_property
    def cached(self):
        return 0


def draw(key, n=50, *, kind="normal"):
    '''Draws points.'''

    def inner(x):
        return x + 0.5 + SHIFT

    names = ("a", "b")
    return inner(helper(n)) + len(names) if key in {"p", "q", "r"} else -SIZE * n.real


SIZE, SHIFT = 4, 1
it = draw
"""


def value_of(program, file="study.py"):
    """The value `it` of a program that is executed as if it were a file."""
    namespace = {"__name__": "study"}
    exec(compile(textwrap.dedent(program), file, "exec"), namespace)
    return namespace["it"]


def edited(*changes):
    program = PROGRAM
    for before, after in changes:
        assert before in program, before
        program = program.replace(before, after)
    return value_of(program)


def the(expression):
    return ("it = draw", f"it = {expression}")


CHANGED = {
    "an integer in a default": [("n=50", "n=5000")],
    "a keyword's default": [('"normal"', '"uniform"')],
    "a text": [('"p"', '"s"')],
    "a tuple": [('("a", "b")', '("a", "c")')],
    "a constant of an inner function": [("x + 0.5", "x + 0.25")],
    "an operator": [("SIZE * n", "SIZE + n")],
    "an operator of one number": [("-SIZE", "~SIZE")],
    "an attribute": [("n.real", "n.imag")],
    "a function of Python": [("len(names)", "max(names)")],
    "the order of two names": [("factor * x\n\n", "x * factor\n\n")],
    "the name that is called": [("inner(helper(n))", "inner(abs(n))")],
    "a global": [("SHIFT = 4, 1", "SHIFT = 5, 1")],
    "a global of an inner function": [("SHIFT = 4, 1", "SHIFT = 4, 2")],
    "a helper": [("factor * x\n\n", "factor / x\n\n")],
    "a default of a helper": [("factor=1", "factor=2")],
}

OBJECTS = {
    "an array of an object": (the("Scale(1.0)"), the("Scale(2.0)")),
    "the call of an object": (the("Scale(1.0)"), the("Scale(1.0)"), ("self.factor * x", "self.factor + x")),
    "a method of a base": (the("Scale(1.0)"), the("Scale(1.0)"), ("x + self.shift", "x - self.shift")),
    "a value of a base": (the("Scale(1.0)"), the("Scale(1.0)"), ("shift = 0", "shift = 1")),
    "the object of a method": (the("Scale(1.0).method"), the("Scale(2.0).method")),
    "a helper of a method": (the("Scale(1.0).method"), the("Scale(1.0).method"), ("factor * x\n\n", "factor / x\n\n")),
    "arguments of a partial": (the("functools.partial(draw, 1)"), the("functools.partial(draw, 2)")),
    "a function in jit": (the("jax.jit(draw)"), the("jax.jit(draw)"), ("SIZE * n", "SIZE + n")),
    "a method in jit": (the("jax.jit(Scale(1.0).method)"), the("jax.jit(Scale(2.0).method)")),
    "an object in jit": (the("jax.jit(Scale(1.0))"), the("jax.jit(Scale(2.0))")),
    "a partial in jit": (the("jax.jit(functools.partial(draw, 1))"), the("jax.jit(functools.partial(draw, 2))")),
    "a function in a cache": (the("functools.cache(draw)"), the("functools.cache(draw)"), ("SIZE * n", "SIZE + n")),
    "the argument of a gradient": (the("jax.grad(draw, 0)"), the("jax.grad(draw, 1)")),
    "an attribute of a function": (the("draw; draw.scale = 1"), the("draw; draw.scale = 2")),
    "the body of a lambda": (the("lambda x: x**2"), the("lambda x: x**3")),
}


@pytest.mark.parametrize("case", CHANGED)
def test_an_edited_function_is_described_differently(case):
    before, after = describe(edited()), describe(edited(*CHANGED[case]))
    assert before == describe(edited()) and before != after
    (sentence, *_) = fingerprint.differences({"data": before}, {"data": after})
    assert sentence.startswith("data")


@pytest.mark.parametrize("case", OBJECTS)
def test_an_edited_object_is_described_differently(case):
    first, second, *changes = OBJECTS[case]
    before, after = describe(edited(first)), describe(edited(second, *changes))
    assert before == describe(edited(first)) and before != after
    assert fingerprint.differences({"data": before}, {"data": after})


def test_comments_docstrings_lines_and_places_do_not_count():
    for it in ("draw", "Scale(1.0)", "jax.jit(draw)", "functools.partial(draw, 1)"):
        program = PROGRAM.replace(*the(it))
        moved = "# Another comment.\n\n\n" + program.replace("Draws points.", "Draws many\n    points.")
        moved = moved.replace("factor=1):\n", "factor=1):\n    '''Scales.'''\n").replace("names =", "# A comment.\n    names =")
        moved = moved.replace("class Scale(Base):\n", "class Scale(Base):\n    '''A scale.'''\n\n")
        assert moved.count("'''") == 6 and describe(value_of(program)) == describe(value_of(moved, "elsewhere/other.py"))


def test_a_class_within_a_function_has_no_line_numbers():
    program = "def it():\n    class Inner:\n        '''A class.'''\n        def f(self): self.x = 1\n    return Inner\n"
    assert describe(value_of(program)) == describe(value_of("\n\n# moved\n" + program.replace("A class.", "Another text.")))
    assert describe(value_of(program)) != describe(value_of(program.replace("x = 1", "x = 2")))


def test_a_value_that_is_cached_does_not_count():
    it = edited(the("Scale(1.0)"))
    before = describe(it)
    assert it.cached == 0 and describe(it) == before
    squares = value_of("import functools\nit = functools.cache(lambda x: x**2)\n")
    before = describe(squares)
    assert squares(3) == 9 and describe(squares) == before


def test_values_are_told_apart_and_are_json():
    class Metric(eqx.Module):
        points: jax.Array
        units: str = eqx.field(static=True, default="nat")

    def scaled(factor):
        return lambda step, rates: factor * step

    @dataclasses.dataclass
    class Hidden:
        points: int = dataclasses.field(repr=False)

    masked = [np.ma.array([1.0, 2.0], mask=mask) for mask in ([0, 1], [1, 0])]
    pairs = [
        (Sphere(3), Sphere(4)),
        (Sphere(3), Torus(3)),
        (Metric(jnp.zeros(2)), Metric(jnp.ones(2))),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2, np.float32), np.zeros(2)),
        (scaled(0.1), scaled(0.2)),
        (jax.jit(scaled(0.1)), jax.jit(scaled(0.2))),
        (eqx.filter_jit(scaled(0.1)), eqx.filter_jit(scaled(0.2))),
        (scaled(np.zeros(2)), scaled(np.ones(2))),
        (scaled({1.0, 2.0}), scaled({1.0, 3.0})),
        (scaled(float("nan")), scaled(float("inf"))),
        (jax.tree_util.Partial(scaled, 0.1), jax.tree_util.Partial(scaled, 0.2)),
        (jax.random.key(0), jax.random.key(1)),
        (Custom(jnp.dot, Sphere(3)), Custom(jnp.vdot, Sphere(3))),
        (np.array(["a", None], object), np.array(["b", None], object)),
        (masked[0], masked[1]),
        (Hidden(1), Hidden(2)),
        (scaled([*range(5000)]), scaled([*range(5001)])),
        ({1: 2.0}, {"1": 2.0}),
        (b"a", b"b"),
        (1j, 2j),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (np.random.default_rng(0).normal, np.random.default_rng(1).normal),
        (types.SimpleNamespace(x=1), types.SimpleNamespace(x=2)),
        (Path("a"), Path("b")),
        (jax.vmap(scaled(0.1)), jax.vmap(scaled(0.2))),
        (functools.partial(jnp.dot, 1.0), functools.partial(jnp.dot, 2.0)),
    ]
    for a, b in pairs:
        described = describe({"it": a}), describe({"it": b})
        text = json.dumps(described[0])
        assert json.loads(text) == described[0] == describe({"it": a}) == describe(json.loads(text))
        assert "0x" not in text
        assert fingerprint.differences(*described) != []
        assert fingerprint.differences(described[0], described[0]) == []


def test_every_process_describes_alike(tmp_path, monkeypatch):
    """Sets, objects without a value, recursion and imports: under two seeds of Python's hashes, from source and from a .pyc file."""
    module = tmp_path / "drawn.py"
    module.write_text(
        "import threading, equinox as eqx, jax, numpy\n"
        "rng, lock, names = numpy.random.default_rng(0), threading.Lock(), {'a', 'b', 'c', 'd'}\n"
        "table = numpy.array(['a', None, 1.5], object)\n"
        "def even(n): return n in {'p', 'q', 'r'} or odd(n - 1)\n"
        "def odd(n): return not even(n) and lock and rng and names and table\n"
        "def it(n):\n    import helpers\n    from helpers import half\n    return jax.vmap(even)(half(n)) + helpers.SIZE\n"
    )
    (tmp_path / "helpers.py").write_text("SIZE = 3\ndef half(n): return n / 2\n")
    program = "import json, drawn; from dualebm.training.descriptions import describe; print(json.dumps(describe(drawn.it)))"
    places = f"{tmp_path}:{Path(bytecode.__file__).parents[2]}"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {"PYTHONPATH": places, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    monkeypatch.syspath_prepend(tmp_path)
    described = describe(importlib.import_module("drawn").it)
    assert json.dumps(described) == child.stdout.strip() and "0x" not in child.stdout
    helpers = described["globals"]["helpers"]["globals"]
    assert helpers["half"]["constants"] == [2] and helpers["SIZE"] == 3 and "again" in described["globals"]["helpers.half"]
    assert described["globals"]["even"]["globals"]["odd"]["globals"]["even"]["again"]
    assert packages(described) == {"jax", "numpy"}


def test_of_an_own_module_only_what_is_named_counts(monkeypatch):
    own = types.ModuleType("helpers")
    own.__file__ = "helpers.py"
    own.used, own.unused = 1, 2
    monkeypatch.setitem(sys.modules, "helpers", own)
    it = value_of("import helpers\ndef it(): return helpers.used\n")
    before = describe(it)
    own.unused = 3
    assert describe(it) == before
    own.used = 3
    assert describe(it) != before


def test_a_long_list_to_which_a_function_refers_is_a_digest():
    values = [*range(5000)]
    assert len(json.dumps(describe(lambda: values))) < 500


def test_functions_of_packages_are_described_by_their_names():
    assert not bytecode.is_own("<frozen os>") and bytecode.is_own("<stdin>")

    assert describe(jnp.dot)["wraps"] == {"function": "dot", "package": "jax"}
    assert describe(eqx.partition) == {"function": "partition", "package": "equinox"}
    assert describe(Sphere(3))["type"] == "Sphere" and "package" not in describe(Sphere(3))
    assert describe(Sphere) == {"class": "Sphere", "package": "dualebm"}
    assert packages(describe([np, Sphere, {"x": lambda: eqx.partition}])) == {"numpy", "dualebm", "equinox"}


def test_cycles_end_and_too_deep_a_value_is_one_line():
    cycle = [1]
    cycle.append(cycle)
    assert describe(cycle) == [1, {"type": "list", "again": "described above"}]
    deep = 0
    for _ in range(LEVELS - 1):
        deep = [deep]
    describe(deep)
    with pytest.raises(ValueError, match="a list is nested more than 60 levels deep"):
        describe([[deep]])


def test_a_check_of_annotations_is_no_part_of_a_function():
    def checked(added, checker):
        def raised(x):
            return x + added

        return describe(jaxtyped(typechecker=checker)(raised))

    seen = []
    first, second = checked(1, lambda function: function), checked(1, lambda function: seen.append(function) or function)
    assert first == second != checked(2, lambda function: function)
