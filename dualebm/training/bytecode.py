"""The code of functions: a digest of it, what it refers to, and whether it is of the user's own files."""

import dis
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

IDLE = ("CACHE", "EXTENDED_ARG", "NOP")
"""Instructions that change no result."""

OF_CLASSES = ("__doc__", "__firstlineno__", "__static_attributes__")
"""Names that the body of a class stores: its docstring, the number of its line, and the names that its methods set."""

FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
"""The flags of code that count: *args, **kwargs, generators and coroutines."""

ATTRIBUTES, GLOBALS = ("LOAD_ATTR", "LOAD_METHOD"), ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

NAMED = {*dis.hasname, *dis.haslocal, *dis.hasfree, *dis.hascompare}
"""The operations whose argument is the index of a name, or of a comparison."""

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version of Python whose bytecode is compared. Each minor version has another."""


# -- Code ------------------------------------------------------------------------------------------


def digest(code: types.CodeType, describe: Callable[[Any], Any]) -> tuple[str, str, list]:
    """Return the minor version of Python, the SHA-256 of code, and its constants.

    The digest is of the instructions with their names and constants, and of inner functions. Comments, docstrings, line numbers, the name
    of the function and the place of its file do not count. Python writes other instructions in each minor version, and digests of two of
    them cannot be compared.

    Args:
        code: the code of a function.
        describe: the function that describes constants as JSON.

    Returns:
        The version, the digest in hexadecimal digits, and the descriptions of the constants.

    >>> digest((lambda x: x**2).__code__, lambda value: value)[2]
    [2]
    """
    constants: list = []
    text = json.dumps(_stream(code, describe, constants))
    return PYTHON, hashlib.sha256(text.encode()).hexdigest(), constants


def _instructions(code: types.CodeType) -> list[dis.Instruction]:
    """Return the instructions of code that count."""
    listed: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_NAME" and instruction.argval in OF_CLASSES:
            listed.pop()  # the instruction that loads what is stored
        elif instruction.opname not in IDLE:
            listed.append(instruction)
    return listed


def _stream(code: types.CodeType, describe, constants: list) -> list:
    """Return code as JSON. Its constants are added to `constants`."""
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    stream: list = [code.co_flags & FLAGS, code.co_argcount, code.co_posonlyargcount, parameters, code.co_exceptiontable.hex()]
    for instruction in _instructions(code):
        if isinstance(instruction.argval, types.CodeType):
            argument = _stream(instruction.argval, describe, constants)
        elif instruction.opcode in dis.hasconst or instruction.opname == "LOAD_SMALL_INT":
            argument = describe(instruction.argval)
            if instruction.opname != "KW_NAMES" and argument is not None:
                constants.append(argument)
        elif instruction.opcode in NAMED:
            argument = instruction.argrepr
        else:
            argument = instruction.arg
        stream.append([instruction.opname, argument])
    return stream


# -- What code refers to ----------------------------------------------------------------------------


class Package(NamedTuple):
    """An installed package that code imports.

    Args:
        name: the name of the package.
    """

    name: str


def references(code: types.CodeType, namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the global values that code refers to, by name, without the functions that are built into Python.

    Of a module of the user's own files only the attributes that the code names are returned. Modules that the code imports are imported.

    Args:
        code: the code of a function.
        namespace: the global values of the function.

    Returns:
        The values by name, such as `helpers.draw`.

    >>> references((lambda x: PYTHON + str(x)).__code__, {"PYTHON": "3.11"})
    {'PYTHON': '3.11'}
    """
    found: dict[str, Any] = {}
    listed = _instructions(code)
    for i, instruction in enumerate(listed):
        if isinstance(instruction.argval, types.CodeType):
            found |= references(instruction.argval, namespace)
        elif instruction.opname in GLOBALS and instruction.argval in namespace:
            name, value = instruction.argval, namespace[instruction.argval]
            for attribute in _attributes(listed[i + 1 :]):
                if not (isinstance(value, types.ModuleType) and is_own_module(value) and hasattr(value, attribute)):
                    break
                name, value = f"{name}.{attribute}", getattr(value, attribute)
            found[name] = value
        elif instruction.opname == "IMPORT_NAME":
            level, names = listed[i - 2].argval, listed[i - 1].argval
            found |= _imported(instruction.argval, level, names or (), namespace)
    return found


def _attributes(listed: list[dis.Instruction]) -> Iterator[str]:
    """Yield the names of the attributes that the next instructions load, one of the other."""
    for instruction in listed:
        if instruction.opname not in ATTRIBUTES:
            return
        yield instruction.argval


def _imported(name: str, level: int, names: tuple[str, ...], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return what a statement `import` within a function gives: a module, or the names that are taken from it."""
    try:
        name = importlib.util.resolve_name("." * level + name, namespace.get("__package__"))
        if not level and not _is_own_name(name.partition(".")[0]):
            return {name: Package(name.partition(".")[0])}
        module = importlib.import_module(name)
    except ImportError:  # the function may do without it
        return {name: "a module that cannot be imported"}
    if not names or "*" in names or not is_own_module(module):
        return {name: module}
    return {f"{name.rpartition('.')[2]}.{each}": getattr(module, each, None) for each in names}


# -- Whose code it is --------------------------------------------------------------------------------


@functools.cache
def _installed() -> tuple[str, ...]:
    """Return the folders of the standard library, of installed packages and of dualebm."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, names), *site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in folders if folder)  # noqa: PTH118


@functools.cache
def is_own(file: str) -> bool:
    """Return whether a file is the user's own: not of the standard library, of an installed package or of dualebm.

    Args:
        file: the path of a file, or the name of a cell or of text that was executed.

    Returns:
        True where it is the user's own.

    >>> is_own("study.py"), is_own(json.__file__), is_own(__file__)
    (True, False, False)
    """
    return not file.startswith("<frozen") and not os.path.realpath(file).startswith(_installed())


def is_own_module(module: types.ModuleType) -> bool:
    """Return whether a module is of the user's own files.

    Args:
        module: the module.

    Returns:
        True where it is.

    >>> is_own_module(json)
    False
    """
    if module.__name__.partition(".")[0] in sys.builtin_module_names:
        return False
    files = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return is_own(next(filter(None, files), ""))


def is_own_class(kind: type) -> bool:
    """Return whether a class is of the user's own files.

    Args:
        kind: the class.

    Returns:
        True where it is.

    >>> is_own_class(dict), is_own_class(Path)
    (False, False)
    """
    return _is_own_name(kind.__module__)


def _is_own_name(module: str) -> bool:
    """Return whether a module of this name is of the user's own files, without importing it. Text that was executed may have any name."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names and package != "__main__":
        return False
    if module in sys.modules or package in sys.modules:
        return is_own_module(sys.modules.get(module, sys.modules.get(package)))  # pyright: ignore[reportArgumentType]
    spec = importlib.util.find_spec(package)
    return spec is None or is_own(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
