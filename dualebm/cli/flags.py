"""Flags: settings as the command line shows them, with their texts and defaults.

A dataclass of settings becomes groups of flags. Marks in the types of its fields say how a field differs from a flag with one value.
"""

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import Any, NamedTuple

from dualebm import settings
from dualebm.settings import Setting

NOT_GIVEN: Any = type("NotGiven", (), {"__repr__": lambda self: "NOT_GIVEN"})()
"""The value of a flag that was not given and has no default."""

NAMES: dict[type, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "true|false"}
"""The kinds of values in the help."""


@dataclasses.dataclass(frozen=True)
class Positional:
    """Mark of a field whose value is given without the name of the flag."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Mark of a field that holds several values of a type, which text spells in the grammar of `cli.values`."""

    of: Any


@dataclasses.dataclass(frozen=True)
class Shown:
    """Mark of a field whose default is None, with what None stands for."""

    text: str


@dataclasses.dataclass(frozen=True)
class Needs:
    """Mark of a flag that only some methods have: those whose rates allow what it names (`cli.methods.NEEDED`)."""

    what: str


class Flag(NamedTuple):
    """A setting as a flag.

    Args:
        setting: the setting: its name, type, bound and help.
        shown: the default as text in the help. None for a setting that must be given.
        default: the value where the flag is not given.
        grid: whether the flag takes several values, which text spells in the grammar of `cli.values`.
        positional: whether the value is given without the name of the flag.
        needs: what the rates of a method must allow for the flag to exist, a key of `cli.methods.NEEDED`, or None.
    """

    setting: Setting
    shown: str | None
    default: Any = NOT_GIVEN
    grid: bool = False
    positional: bool = False
    needs: str | None = None

    @property
    def name(self) -> str:
        """The name of the setting."""
        return self.setting.name

    @property
    def spelt(self) -> str:
        """The flag as it is written on the command line."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value: --flag or --no-flag."""
        return self.setting.kinds == {bool} and not self.grid


class Group(NamedTuple):
    """Flags that the help shows together.

    Args:
        title: one word.
        about: a sentence about the group.
        flags: the flags.
    """

    title: str
    about: str
    flags: list[Flag]


def groups_of(kind: type) -> list[Group]:
    """Return the flags of a dataclass of settings. Its bases have a class variable `group`, the title of the group of their flags.

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Run:
    ...     '''The run.
    ...
    ...     Args:
    ...         steps: the number of iterations.
    ...     '''
    ...
    ...     steps: settings.Count = 2000
    >>> [(group.title, [flag.spelt for flag in group.flags]) for group in groups_of(Run)]
    [('run', ['--steps'])]
    """
    described = settings.fields(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    grouped: dict[str, list[Flag]] = {}
    for owner in reversed(kind.__mro__):
        names = [name for name in inspect.get_annotations(owner) if name in described]
        if names:
            grouped.setdefault(getattr(owner, "group", owner.__name__.lower()), []).extend(_flag(described[n], hints[n]) for n in names)
    return [Group(title, "", flags) for title, flags in grouped.items()]


def _flag(setting: Setting, hint: Any) -> Flag:
    """Return the flag of a field of a dataclass of settings, by the marks of its type."""
    marks = {type(mark): mark for mark in getattr(hint, "__metadata__", ())}
    missing = setting.default is dataclasses.MISSING
    if Path in setting.objects:
        setting = setting._replace(kinds=frozenset({Path}), objects=())
    grid = marks.get(Grid)
    shown = marks[Shown].text if Shown in marks else None if missing else spell_default(setting.default, bool(grid))
    if grid is not None:
        of = settings.of_type(setting.name, grid.of)
        setting = of._replace(default=setting.default, help=setting.help)
    default, needs = NOT_GIVEN if missing else setting.default, marks[Needs].what if Needs in marks else None
    return Flag(setting, shown, default, grid is not None, Positional in marks, needs)


# -- Texts -------------------------------------------------------------------------------------------


def about(kind: type) -> str:
    """Return the docstring of a class without its arguments, for the help."""
    return (kind.__doc__ or "").split("\n    Args:")[0].strip()


def sentence(kind: type) -> str:
    """Return the first sentence of the docstring of a class.

    >>> sentence(Grid)
    'Mark of a field that holds several values of a type, which text spells in the grammar of `cli.values`.'
    """
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def spell(value: Any) -> str:
    """Return a value as the command line spells it.

    >>> spell(0.25), spell(None), spell((3, 3)), spell(True)
    ('0.25', 'none', '3 3', 'true')
    """
    if isinstance(value, tuple):
        return " ".join(map(spell, value)) or "none"
    return {True: "true", False: "false", None: "none"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def spell_default(value: Any, grid: bool) -> str:
    """Return a value as the command line spells it, with commas between the values of a flag that takes several."""
    return ",".join(map(spell, value)) if grid else spell(value)


def capitalised(text: str) -> str:
    """Return a text of a docstring as a sentence of the help, which has a full stop, and a capital where it begins with a word.

    >>> capitalised("the number of neurons."), capitalised("h_x > 0, the time step")
    ('The number of neurons.', 'h_x > 0, the time step.')
    """
    first = re.match(r"[a-z]{3,}\b(?!_)", text)
    return (text[:1].upper() + text[1:] if first else text).rstrip(".") + "." if text else ""


def metavar(flag: Flag) -> str:
    """Return the placeholder of the value in the help.

    >>> metavar(Flag(settings.of_type("signs", typing.Literal["half", "random"]), "half"))
    '{half,random}'
    """
    setting = flag.setting
    if flag.positional:
        return flag.name.upper()
    names = [NAMES[kind] for kind in NAMES if kind in setting.kinds]
    if setting.words:
        names = ["{" + ",".join(map(str, setting.words)) + "}", *(name for name in names if name not in ("TEXT", "INT"))]
    text = "|".join([*names, "none"] if setting.optional and setting.default is not None else names)
    return f"{text}[,...]" if flag.grid else text


def hint(flag: Flag) -> str:
    """Return what the help says behind the meaning of a flag: the bound and the default.

    >>> hint(Flag(settings.of_type("steps", settings.Count), "2000"))
    '(at least 1; default: 2000)'
    """
    bound, words = flag.setting.bound, []
    if bound is not None and not flag.setting.words:
        words = ["greater than 0" if bound.positive else f"at least {bound.least}"]
        words += [f"at most {spell(bound.largest)}"] if bound.largest < float("inf") else []
    return f"({'; '.join([', '.join(words)] * bool(words) + ['required' if flag.shown is None else f'default: {flag.shown}'])})"
