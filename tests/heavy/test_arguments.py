"""The calls of the examples in docstrings, with one argument at a time replaced by a wrong one.

Each ends with an error of this package that names the argument, or is taken. It never ends with an error from within another package,
and what is refused has written nothing.
"""

import contextlib
import doctest
import functools
import importlib
import inspect
import io
import math
import pkgutil
import sys
import traceback
import typing
from pathlib import Path

import dualebm

WRONG = {"None": None, "a word": "x", "an object": object(), "a list": [], "a class": dict}
NUMBERS = {"-1": -1, "NaN": math.nan, "10^20": 1e20, "2.5": 2.5}
ERRORS = ValueError, OSError, ImportError

modules = {each.name: importlib.import_module(each.name) for each in pkgutil.walk_packages(dualebm.__path__, "dualebm.")}
FUNCTIONS = {
    (place, name): function
    for place, module in modules.items()
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == place
    if inspect.getsource(function).startswith("@checked") or getattr(dualebm, name, None) is function
}


def called_by_an_example(frame) -> bool:
    while frame is not None and "/dualebm/" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith("<doctest"):
            return True
        frame = frame.f_back
    return False


def faults(function, arguments, options):
    """What is wrong with the errors of a function, as lines, for each argument that has a type."""
    signature = inspect.signature(function)
    given = signature.bind(*arguments, **options)
    for name, parameter in signature.parameters.items():
        untyped = parameter.annotation is inspect.Parameter.empty or "Any" in str(parameter.annotation)
        if untyped or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        number = isinstance(given.arguments.get(name, parameter.default), (int, float))
        for word, value in (WRONG | NUMBERS if number else WRONG).items():
            changed = inspect.BoundArguments(signature, type(given.arguments)(given.arguments | {name: value}))
            changed.arguments = {each: changed.arguments[each] for each in signature.parameters if each in changed.arguments}
            if value is None and type(None) in typing.get_args(parameter.annotation):
                continue
            before = sorted(Path().rglob("*"))
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    function(*changed.args, **changed.kwargs)
            except ERRORS as error:
                ours = "/dualebm/" in traceback.extract_tb(error.__traceback__)[-1].filename
                named = name.rstrip("s") in str(error) or (isinstance(error, OSError) and str(value) in str(error))  # a file by its path
                if not (ours and named) or sorted(Path().rglob("*")) != before:
                    yield f"{function.__module__}.{function.__name__}, {name} {word}: {type(error).__name__}: {str(error)[:200]}"
            except Exception as error:  # any other is a fault
                yield f"{function.__module__}.{function.__name__}, {name} {word}: {type(error).__name__}: {str(error)[:200]}"


def test_no_wrong_argument_gives_an_error_from_within(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen, found, busy = set(), [], []

    def watched(key, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            if key not in seen and not busy and called_by_an_example(sys._getframe(1)):
                seen.add(key)
                busy.append(key)
                found.extend(faults(function, arguments, options))
                busy.clear()
            return function(*arguments, **options)

        return call

    for (place, name), function in FUNCTIONS.items():
        for module in (*modules.values(), dualebm):
            if vars(module).get(name) is function:
                monkeypatch.setattr(module, name, watched((place, name), function))
    for place, name in FUNCTIONS:
        globs = vars(modules[place]).copy()
        for example in doctest.DocTestFinder(recurse=False).find(vars(modules[place])[name].__wrapped__, name, globs=globs):
            doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(example, out=lambda text: None)
    if found:
        raise AssertionError("\n".join(found))
    assert len(seen) > 0.8 * len(FUNCTIONS), sorted(set(FUNCTIONS) - seen)


