"""Every public module is on one page of the API, and every docstring names every parameter.

A public module is one of `dualebm` outside `_internal`, and of the command line the entry alone. The docstring of a method that overrides
another counts with the sections that it takes from the base class (`api_pages.complete`). The docstring of a class counts with those of its
base classes, which describe the fields that it inherits.
"""

import collections
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import ClassVar, get_origin

import docstring_parser
import pytest

import dualebm

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_extensions"))

api_pages = importlib.import_module("api_pages")

NAMES = [module.name for module in pkgutil.walk_packages(dualebm.__path__, "dualebm.")]
MODULES = [
    "dualebm",
    *(name for name in NAMES if not name.startswith(("dualebm._internal", "dualebm.cli.")) or name == "dualebm.cli.main"),
]


def public(module):
    """The public classes and functions that a module defines, by name."""
    things = {name: thing for name, thing in vars(module).items() if not name.startswith("_") and callable(thing)}
    return {name: thing for name, thing in things.items() if getattr(inspect.unwrap(thing), "__module__", None) == module.__name__}


def named(docstring):
    """The parameters that a docstring describes."""
    parameters = docstring_parser.parse(docstring, docstring_parser.DocstringStyle.GOOGLE).params
    return {name.strip().lstrip("*") for parameter in parameters for name in parameter.arg_name.split(",")}


def arguments(function, bound):
    """The names of the parameters of a function, without `self`."""
    return list(inspect.signature(function).parameters)[int(bound) :]


def fields(kind):
    """The fields or the parameters that make an instance of a class."""
    own = vars(kind).get("__init__")
    if inspect.isfunction(own) and own.__code__.co_filename == inspect.getsourcefile(kind):
        return arguments(own, bound=True)
    if dataclasses.is_dataclass(kind):
        return list(inspect.signature(kind).parameters)
    if hasattr(kind, "_fields"):
        return list(kind._fields)
    hints = inspect.get_annotations(kind)
    return [name for name, hint in hints.items() if not name.startswith("_") and get_origin(hint) is not ClassVar and hint is not ClassVar]


def lacking(module):
    """What the docstrings of a module lack, one line for each class, method or function."""
    for name, thing in public(importlib.import_module(module)).items():
        if not isinstance(thing, type):
            expected, docstring = arguments(inspect.unwrap(thing), bound=False), inspect.getdoc(thing) or ""
            yield name, docstring, set(expected) - named(docstring)
            continue
        bases = [base for base in thing.__mro__ if base.__module__.startswith("dualebm") and base.__doc__]
        yield name, thing.__doc__ or "", set(fields(thing)) - set().union(*(named(inspect.getdoc(base)) for base in bases))
        for own, method in vars(thing).items():
            if own.startswith("_") and own != "__call__":
                continue
            if isinstance(method, property):
                yield f"{name}.{own}", inspect.getdoc(getattr(thing, own)) or "", set()
            elif inspect.isfunction(method) or isinstance(method, (classmethod, staticmethod)):
                docstring = api_pages.complete(thing, own)
                expected = arguments(getattr(method, "__func__", method), bound=not isinstance(method, staticmethod))
                yield f"{name}.{own}", docstring, set(expected) - named(docstring)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_name_every_parameter(module):
    assert importlib.import_module(module).__doc__
    wrong = [f"{name} lacks {', '.join(sorted(absent)) or 'a docstring'}" for name, text, absent in lacking(module) if absent or not text]
    assert not wrong, "\n".join(wrong)


def test_every_public_module_is_on_one_page():
    pages = "\n".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
    assert collections.Counter(re.findall(r"automodule:: (\S+)", pages)) == dict.fromkeys(MODULES, 1)


def test_names_of_the_package_lead_to_pages():
    for place in api_pages.public_names().values():
        assert place in MODULES or place.rpartition(".")[0] in MODULES
        assert api_pages.first_sentence(place)


def test_the_check_sees_what_is_missing():
    assert named("Do it.\n\nArgs:\n    x: a number.\n    y, z: others.\n    **more: more.") == {"x", "y", "z", "more"}
    assert named("Do it to `x`.") == set()
