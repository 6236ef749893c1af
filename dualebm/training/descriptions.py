"""Descriptions: values as JSON that every process writes alike, and that differ where settings, data or functions differ.

A folder keeps the description of what its runs were made of. A call that continues it describes its own settings, and the two are
compared (see `dualebm.training.fingerprint`).
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dualebm.training import bytecode

LEVELS = 60
"""The largest depth of nesting of a value that is described."""

_NATIVE_WRAPPERS = (type(jax.jit(abs)), type(functools.cache(abs)))

OURS = __name__.partition(".")[0]

LONGEST = 10_000
"""The length, in characters of JSON, from which on the digest stands for a list or a text to which a function refers."""

REPEATED = "described above"
"""Stands for what a function or a class has where its description comes a second time, or within itself."""

Inner = Callable[[Any], Any]


def describe(value: Any) -> Any:
    """Return a value as JSON that is the same in every process.

    - Numbers, text, lists and dictionaries are described by what they hold, and sets in the order of their descriptions.
    - An array is described by its dtype, shape and SHA-256.
    - A function of the user's own files is described by its name, its code, its constants, the values that it closes over, its defaults,
      its attributes, and the global values that it refers to, such as the functions that it calls. These are described in the same way.
      Comments, docstrings, line numbers and the place of the file do not count. The code is the bytecode, which every minor version of
      Python writes in another form (see `bytecode.digest`).
    - A bound method is described by its function and by the object to which it is bound. A wrapper, such as that of `jax.jit` or
      `functools.partial`, is described by the function inside and its arguments.
    - An object is described by its type and its fields or its state. Of a class of the user's own files also the methods are described.
    - A function or a class of an installed package, of the standard library or of dualebm is described by its name and that of its package.
      A function that the package has made for the user also has the values that it closes over. Of an object of dualebm or of a package,
      fields that are declared with `repr=False` are left out.

    Args:
        value: any value: a method, rates, data, a function or a container of them.

    Returns:
        The description.

    Raises:
        ValueError: the value is nested too deeply.

    >>> from dualebm.spaces import Sphere
    >>> describe(Sphere(3)), describe(np.float32(0.1)), describe(np.zeros(2))["shape"]
    ({'type': 'Sphere', 'dimension': 3, 'base': {'type': 'Uniform'}}, 0.1, [2])
    >>> describe(math.sin), describe({3.0, 2.0, math.nan})
    ({'function': 'sin', 'package': 'math'}, {'set': [2.0, 3.0, {'float': 'nan'}]})
    """
    return _describe(value, {}, ())


def packages(description: Any) -> set[str]:
    """Return the packages of which a description has a function, a class or an object, without the standard library.

    Args:
        description: a description.

    Returns:
        The names of the packages.

    >>> packages(describe([jnp.dot, math.sin]))
    {'jax'}
    """
    if isinstance(description, list):
        return set().union(*map(packages, description))
    if not isinstance(description, dict):
        return set()
    named = description.get("package")
    own = {named} if isinstance(named, str) and named not in sys.stdlib_module_names else set()
    return own.union(*map(packages, description.values()))


def _describe(value: Any, seen: dict[int, Any], above: tuple[int, ...]) -> Any:
    """Return the description of a value.

    Args:
        value: the value.
        seen: the functions and classes that have been described, by their `id`. They are kept, so that no other object has the same.
        above: the `id` of each object that the value is a part of.
    """
    plain = _plain(value)
    if plain is not value:
        return plain if plain is None or isinstance(plain, (bool, int, float, str, dict)) else _describe(plain, seen, above)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if len(above) == LEVELS:
        raise ValueError(f"a {type(value).__name__} is nested more than {LEVELS} levels deep; use arrays, or values that are less nested")
    if id(value) in above or id(value) in seen:
        return {_kind(value): getattr(value, "__qualname__", type(value).__name__), "again": REPEATED}
    if isinstance(value, (types.FunctionType, type, types.ModuleType)):
        seen[id(value)] = value
    return _compound(value, lambda part: _describe(part, seen, (*above, id(value))))


def _kind(value: Any) -> str:
    return "function" if isinstance(value, types.FunctionType) else "class" if isinstance(value, type) else "type"


def _plain(value: Any) -> Any:
    """Return a number, text, bytes or an array as JSON or as a simpler value. Return any other value as it is."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, complex):
        return {"complex": repr(complex(value))}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return value
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.kind == "T":  # their bytes are addresses
        return {"dtype": str(array.dtype), "shape": list(array.shape), "values": describe(array.tolist())}
    if array.ndim:
        return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    if array.dtype.kind == "f":
        return _plain(float(str(array)))
    item = array.item()
    return repr(item) if isinstance(item, np.generic) else item


def _compound(value: Any, inner: Inner) -> Any:
    """Return the description of a value that has parts. `inner` describes a part."""
    if isinstance(value, functools.partial):
        return {"type": "partial", "function": inner(value.func), "arguments": inner([value.args, value.keywords])}
    if isinstance(value, types.FunctionType):
        return _function(value, inner)
    if isinstance(value, type):
        return _class(value, inner)
    if isinstance(value, types.ModuleType):
        return _module(value, inner)
    if isinstance(value, types.MethodType):
        return {"method": getattr(value.__func__, "__qualname__", ""), "of": inner(value.__self__), "function": inner(value.__func__)}
    if isinstance(value, bytecode.Package):
        return {"module": value.name, "package": value.name}
    if hasattr(value, "_asdict"):
        return {**_type(value, inner), **{name: inner(item) for name, item in value._asdict().items()}}
    if isinstance(value, (dict, types.MappingProxyType)) and type(value).__module__ in ("builtins", "collections"):
        if all(isinstance(name, str) for name in value):
            return {name: inner(item) for name, item in value.items()}
        return {"entries": _in_order([[inner(name), inner(item)] for name, item in value.items()])}
    if type(value) in (list, tuple):
        return [inner(item) for item in value]
    if type(value) in (set, frozenset):
        return {"set": _in_order([inner(item) for item in value])}
    if dataclasses.is_dataclass(value):
        own = bytecode.is_own_class(type(value))
        compared = [field.name for field in dataclasses.fields(value) if own or field.repr]
        return {**_type(value, inner), **_wraps(value, inner), **{name: inner(getattr(value, name, None)) for name in compared}}
    if isinstance(value, (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)):  # a cache
        return _type(value, inner)
    if isinstance(value, _NATIVE_WRAPPERS):  # the rest of its state is a cache of programs or of values
        return {"type": type(value).__name__, **_wraps(value, inner)}
    if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
        bound = getattr(value, "__self__", None)
        described = {"function": value.__qualname__, "package": _top(value.__module__ or type(bound).__module__)}
        return described if bound is None or isinstance(bound, types.ModuleType) else {**described, "of": inner(bound)}
    return _state(value, inner)


def _in_order(descriptions: list) -> list:
    return sorted(descriptions, key=lambda description: json.dumps(description, sort_keys=True))


def _top(module: str | None) -> str:
    """Return the name of the package of a module."""
    return (module or "builtins").partition(".")[0]


def _present(**parts: Any) -> dict[str, Any]:
    """Return the parts that are not empty."""
    return {name: part for name, part in parts.items() if part}


# -- Functions and modules ---------------------------------------------------------------------------


def _function(function: types.FunctionType, inner: Inner) -> dict[str, Any]:
    code, wrapped = function.__code__, getattr(function, "__wrapped__", None)
    package = _top(function.__globals__.get("__name__"))
    if wrapped is not None and (code.co_filename.startswith("<@beartype") or package == "jaxtyping"):  # a check of annotations
        return {"type": "wrapper", "wraps": inner(wrapped)}
    brief = lambda part: _brief(inner(part))  # noqa: E731
    closure = {name: brief(_content(cell)) for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)}
    if not bytecode.is_own(code.co_filename):
        return {"function": function.__qualname__, "package": package, **_present(closure=closure)}
    places = code.co_varnames[: code.co_argcount]
    defaults = dict(zip(reversed(places), reversed(function.__defaults__ or ()), strict=False)) | (function.__kwdefaults__ or {})
    attributes = _attributes(function, vars(function))
    listed = bytecode.references(code, function.__globals__)
    python, sha256, constants = bytecode.digest(code, describe)
    return {
        "function": function.__qualname__,
        "code": {"python": python, "sha256": sha256},
        **_present(
            constants=constants,
            closure=closure,
            defaults={name: brief(defaults[name]) for name in sorted(defaults)},
            attributes={name: brief(attributes[name]) for name in sorted(attributes)},
            globals={name: brief(listed[name]) for name in sorted(listed)},
        ),
    }


def _brief(description: Any) -> Any:
    """Return a description with a digest in place of a long list or text, which every checkpoint would else repeat."""
    text = json.dumps(description) if isinstance(description, (list, str)) else ""
    return {"length": len(description), "sha256": hashlib.sha256(text.encode()).hexdigest()} if len(text) > LONGEST else description


def _attributes(value: Any, held: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an object, without those that Python gives it, and those that a wrapper takes over from what it wraps."""
    inside = getattr(getattr(value, "__wrapped__", None), "__dict__", {})
    return {name: item for name, item in held.items() if not name.startswith("__") and inside.get(name, held) is not item}


def _content(cell: types.CellType) -> Any:
    return "an empty cell" if cell == types.CellType() else cell.cell_contents


def _module(module: types.ModuleType, inner: Inner) -> dict[str, Any]:
    """Return the description of a module, of the user's own files with all that it holds."""
    if not bytecode.is_own_module(module):
        return {"module": module.__name__.partition(".")[0], "package": _top(module.__name__)}
    held = {name: item for name, item in vars(module).items() if not name.startswith("__")}
    return {"module": module.__name__.rpartition(".")[2], **_present(globals={name: inner(held[name]) for name in sorted(held)})}


# -- Classes and objects -----------------------------------------------------------------------------


GENERATED = (
    "__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__lt__", "__le__", "__gt__", "__ge__", "__replace__",
)  # fmt: skip
"""Methods that a dataclass makes of its fields. They are in no file."""


def _class(kind: type, inner: Inner) -> dict[str, Any]:
    if not bytecode.is_own_class(kind):
        return {"class": kind.__qualname__, "package": _top(kind.__module__)}
    members = {name: inner(_accessor(member)) for name, member in sorted(vars(kind).items()) if _counts(kind, name, member)}
    bases = [inner(base) for base in kind.__bases__ if base is not object]
    return {"class": kind.__qualname__, **_present(members=members, bases=bases)}


def _counts(kind: type, name: str, member: Any) -> bool:
    """Return whether a member of a class is written by the user, rather than by Python."""
    if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)) or name == "_abc_impl":
        return False
    if not (name.startswith("__") and name.endswith("__")):
        return True
    file = member.__code__.co_filename if isinstance(member, types.FunctionType) else ""
    generated = dataclasses.is_dataclass(kind) and name in GENERATED and (file == "<string>" or not bytecode.is_own(file))
    return isinstance(member, (types.FunctionType, classmethod, staticmethod, property)) and not generated


def _accessor(member: Any) -> Any:
    """Return the functions of a property, a static method or a class method, and any other member as it is."""
    if isinstance(member, property):
        return [member.fget, member.fset]
    if isinstance(member, functools.cached_property):
        return member.func
    return member.__func__ if isinstance(member, (classmethod, staticmethod)) else member


def _type(value: Any, inner: Inner) -> dict[str, Any]:
    """Return the name of the type of an object, with the description of a class of the user's own files, and the name of a package.

    No field has the name `class`, which is a word of Python.
    """
    kind = type(value)
    if bytecode.is_own_class(kind):
        return {"type": kind.__name__, "class": inner(kind)}
    package = _top(kind.__module__)
    return {"type": kind.__name__, **({} if package == OURS or package in sys.stdlib_module_names else {"package": package})}


def _wraps(value: Any, inner: Inner) -> dict[str, Any]:
    """Return the description of the function that a wrapper calls, where the object is one."""
    wrapped = getattr(value, "__wrapped__", None)
    return {"wraps": inner(wrapped)} if callable(wrapped) else {}


def _state(value: Any, inner: Inner) -> Any:
    """Return the description of an object by the parts of which Python would make a copy, or by its text where it has none."""
    try:
        reduced: Any = value.__reduce_ex__(2)
    except Exception:  # an object may raise anything: it holds a lock, a file or a program
        return re.sub(r"(?: at)? 0x[0-9a-fA-F]+", "", repr(value))
    if isinstance(reduced, str):
        return {**_type(value, inner), "name": reduced}
    parts: list[Any] = [*reduced, None, None, None]
    make, arguments, state, *items = parts[:5]
    if getattr(make, "__name__", "") in ("__newobj__", "__newobj_ex__"):  # the first argument is the class
        arguments = arguments[1:]
    dictionary, slots = (state[0], state[1]) if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict) else (state, {})
    fields = {**(dictionary or {}), **slots} if isinstance(dictionary, (dict, type(None))) else {"state": state}
    fields = _attributes(value, fields)
    cached = [name for name in fields if isinstance(getattr(type(value), name, None), functools.cached_property)]
    held = [list(each) for each in items if each is not None]
    return {
        **_type(value, inner),
        **{name: inner(item) for name, item in sorted(fields.items()) if name not in cached},
        **_present(arguments=inner(arguments), items=inner([each for each in held if each])),
    }
