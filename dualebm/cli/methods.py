"""The settings of training methods as flags.

A method, its rates, and the feature, kernel or energy that it holds are classes of settings. Their fields are the flags. So a new
method or a new field needs no line here.
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dualebm import features, settings
from dualebm._internal import checks
from dualebm.candidates import Auto
from dualebm.cli import Refused
from dualebm.cli.commands import ON_ROWS, PASSING, Fit
from dualebm.cli.flags import NOT_GIVEN, Flag, Group, about, groups_of, sentence, spell
from dualebm.cli.words import named, nearest, parse, read_toml
from dualebm.features import Feature
from dualebm.geometry import Space
from dualebm.measures import Samples
from dualebm.methods.base import Method
from dualebm.methods.dual import ANNEALED, DualRates
from dualebm.methods.registry import DEFAULT, by_name
from dualebm.settings import Setting
from dualebm.spaces import Euclidean, Sphere, Torus

EXAMPLES: dict[str, Space] = {"sphere": Sphere(3), "euclidean": Euclidean(3), "torus": Torus(3)}
"""A space of each name, for the defaults in the help."""

AUTOMATIC = "auto"
"""The name of the choice of everything by validation (`candidates.Auto`), the default of a fit. It is no training method."""

NEEDED = {"method": set(), "annealing": set(ANNEALED), "scales": set(DualRates._fields), "radius": {"radius"}}
"""The rates that a training method must have for its flags, for a schedule that anneals, for the time scales of the paper, and for a
ball."""

ON_THE_LINE = ("config", "resume")
"""The flags that a configuration file may not give, because they say what else is read."""

ORDER = {"data": 0, "run": 2, "machine": 3}
"""The place of a group of flags in the help. The groups of the method are between data and run."""


class Choice(NamedTuple):
    """A method, and the classes of the objects that it holds.

    Args:
        name: the name of the method, or `AUTOMATIC`.
        kind: the class of the method, or `Auto`.
        objects: for each field that holds an object its class, or None where the method chooses. Only fields whose objects flags can
            make are here.
        suited: whether a feature is the one that suits any data on the space (`features.suited`). Otherwise it is the default of the
            method or of its class.
    """

    name: str
    kind: type
    objects: dict[str, type | None]
    suited: bool


def known(grid: bool) -> dict[str, type]:
    """Return the classes of settings that --method names, by name. A sweep, whose flags are grids, has training methods only.

    >>> list(known(grid=False))[0], "auto" in known(grid=True)
    ('auto', False)
    """
    return by_name() if grid else {AUTOMATIC: Auto, **by_name()}


def rates_class(kind: type[Method]) -> Any:
    """Return the NamedTuple class of the rates of a method, which is the declared type of `Method.rates`.

    >>> from dualebm.methods.dual import Dual
    >>> rates_class(Dual).__name__
    'DualRates'
    """
    return typing.get_type_hints(inspect.getattr_static(kind, "rates").fget)["return"]


def makeable(setting: Setting) -> dict[str, type]:
    """Return the classes of objects of a field that flags can make, by their words.

    >>> sorted(makeable(settings.of_type("feature", features.Feature)))
    ['bump', 'relu', 'scaled_bump', 'softplus']
    """
    concrete = [kind for kind in setting.objects if dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)]
    return {settings.word(kind): kind for kind in concrete if all(s.kinds or s.name == "space" for s in settings.fields(kind).values())}


def choose(words: Sequence[str], stored: Mapping[str, Any], space: Space | None = None, *, grid: bool = False) -> Choice:
    """Return the method and the classes of its objects, by the flags that name them.

    Args:
        words: the words of the command line.
        stored: values of flags from a configuration file or a folder. The words win over them.
        space: an example of the space for which features are suited, or None for the defaults of the method.
        grid: whether each flag takes several values, as in a sweep. There is then no choice of everything by validation.

    Raises:
        Refused: a name is not allowed.

    >>> choose(["--method", "lazy", "--feature", "bump"], {}, grid=True).objects
    {'feature': <class 'dualebm.features.Bump'>}
    """
    name = _named("method", words, stored, known(grid)) or (DEFAULT if grid else AUTOMATIC)
    kind = known(grid)[name]
    unions = {field: classes for field, s in settings.fields(kind).items() if (classes := makeable(s))}
    given = {field: classes[chosen] for field, classes in unions.items() if (chosen := _named(field, words, stored, classes))}
    objects = {field: given.get(field) or _default_class(kind, field, classes, space) for field, classes in unions.items()}
    return Choice(name, kind, objects, space is not None)


def _named(name: str, words: Sequence[str], stored: Mapping[str, Any], allowed: Mapping[str, Any]) -> str | None:
    """Return the word that was given for a flag, or None. Raise `Refused` for a word that is not allowed."""
    given = named(name, words) or stored.get(name)
    if given is None:
        return None
    value = str(given).replace("-", "_")
    try:
        checks.choice(name, value if value in allowed else given, allowed)
    except ValueError as error:
        raise Refused(str(error)) from None
    return value


def _default_class(kind: type, field: str, classes: Mapping[str, type], space: Space | None) -> type | None:
    """Return the class of the default object of a field. Where the field has no default, it is the first class."""
    default = settings.fields(kind)[field].default
    if default is dataclasses.MISSING:
        return next(iter(classes.values()))
    if space is not None and isinstance(default, Feature):
        return type(features.suited(space))
    return None if default is None else type(default)


# -- Command lines ---------------------------------------------------------------------------------------


class Given(NamedTuple):
    """The flags that a command line gives.

    Args:
        choice: the method and the classes of its objects.
        values: the values of flags of the method, of its objects and of its rates by name. In a sweep each is a tuple of values.
        flags: the values of all flags by name, of the command and of the method.
    """

    choice: Choice
    values: dict[str, Any]
    flags: dict[str, Any]


def read(kind: type, prog: str, words: Sequence[str]) -> tuple[Any, Given]:
    """Read the command line of a command that trains a method.

    Args:
        kind: the class of the settings of the command, a class of `cli.commands.WITH_METHOD`.
        prog: the command, for the help and for errors.
        words: the words of the command line.

    Returns:
        The settings of the command, and those of the method.

    Raises:
        Refused: a word, or a value of the configuration file or of the folder to resume, is not allowed.
    """
    stored, origin = stored_values(words)
    home = named("space", words) or stored.get("space")
    if kind in ON_ROWS and (home or "data" in stored or (words and not words[0].startswith("-"))):
        kind, prog = ON_ROWS[kind], f"{prog} DATA"
    grid = kind is not Fit
    space = None if kind in ON_ROWS else EXAMPLES.get(str(home), EXAMPLES["sphere"])
    choice = choose(words, stored, space, grid=grid)
    if named("method", words) or "method" in stored:
        prog = f"{prog} --method {choice.name}"
    of_command = groups_of(kind)
    absent = {f.name: f.needs for group in of_command for f in group.flags if f.needs and not _allows(choice.kind, f.needs)}
    fixed = [group._replace(flags=[f for f in group.flags if f.name not in absent]) for group in of_command]
    of_method = groups(choice, prog.split(" --")[0], space or EXAMPLES["sphere"], grid=grid)
    ordered = sorted([*fixed, *of_method], key=lambda group: ORDER.get(group.title, 1))
    listed = [group for group in ordered if group.flags]
    flags = parse(prog, about(kind), listed, words, stored, origin, lambda name: _advice(name, kind, choice, absent, listed))
    own = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in flags.items() if name not in own | {"method"}}
    return kind(**{name: value for name, value in flags.items() if name in own}), Given(choice, values, flags)


def _allows(kind: type, what: str) -> bool:
    """Tell whether a choice has a flag: one by validation, for "validation", or a method whose rates allow it, for a key of `NEEDED`."""
    if what == "validation":
        return not issubclass(kind, Method)
    return issubclass(kind, Method) and NEEDED[what] <= set(rates_class(kind)._fields)


def _advice(name: str, command: type, choice: Choice, absent: Mapping[str, str], listed: Sequence[Group]) -> str:
    """Return the advice for a name that is a flag with other methods or objects, with rows or without, or an empty text.

    Args:
        name: the name.
        command: the class of the settings of the command.
        choice: the method and the classes of its objects.
        absent: the flags of the command that this method does not have, with what they need.
        listed: the flags.
    """
    grid = command is not Fit
    for planted, rows in ON_ROWS.items():
        others = settings.fields(rows if command is planted else planted) if command in (planted, rows) else ()
        if name in others and name not in settings.fields(command):
            return "; it is one with DATA, the file of the rows" if command is planted else "; it is one without DATA, on planted teachers"
    for field in choice.objects:
        for other, kind in makeable(settings.fields(choice.kind)[field]).items():
            if name in {setting.name for setting in _spellable(kind, grid)}:
                return f"; it is one with --{field} {other}"
    has = (lambda kind: _allows(kind, absent[name])) if name in absent else (lambda kind: name in _names(kind, grid))
    holders = ", ".join(method for method, kind in known(grid).items() if has(kind))
    near = nearest(name, [flag.name for group in listed for flag in group.flags])
    return f"; it is one with --method {holders}{near.replace('; d', '. D')}" if holders else ""


def _names(kind: type, grid: bool) -> set[str]:
    """Return the names of the settings of a method, of the objects that it may hold, and of its rates."""
    described = settings.fields(kind)
    classes = {name: makeable(setting) for name, setting in described.items()}
    rates = (rates_class(kind),) if issubclass(kind, Method) else ()
    owners = (kind, *rates, *(made for words in classes.values() for made in words.values()))
    spellable = {setting.name for owner in owners for setting in _spellable(owner, grid)}
    return spellable | {name for name, words in classes.items() if words}


def stored_values(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the values of the file of --config and of the folder of --resume by name, and where they come from, in words.

    Raises `Refused` for a file that is not TOML or gives a flag twice, and for a folder without a sweep.
    """
    config, of_file = named("config", words), {}
    if config:
        for name, value in read_toml(Path(config)).items():
            spelt = name.replace("-", "_")
            if spelt in of_file:
                raise Refused(f"{spelt} comes twice in {config}; it must come once")
            if spelt in ON_THE_LINE:
                raise Refused(f"the name {name!r} in {config} is not allowed; give --{name} on the command line")
            of_file[spelt] = value
    out = named("out", words) or of_file.get("out")
    if "--resume" not in words or not isinstance(out, str) or not out:
        return of_file, config or ""
    from dualebm.sweeps import folder

    (first, *_) = folder.folders_of(Path(out))
    of_folder = (folder.read(first)["note"] or {}) if (first / folder.SWEEP).exists() else {}
    if not of_folder:
        raise Refused(f"resume is True and {out} holds no sweep that was started by this command")
    if not isinstance(of_folder, dict) or (wrong := sorted(of_folder.keys() & PASSING)):
        what = f"sets {wrong[0]}" if isinstance(of_folder, dict) else "is no list of flags"
        raise Refused(f"the note in {first / folder.SWEEP} {what}, which no sweep stores; give the flags of the sweep in place of --resume")
    return of_folder | of_file, " or ".join([out, config] if config else [out])


# -- Flags -----------------------------------------------------------------------------------------------


def groups(choice: Choice, prog: str, space: Space, *, grid: bool = False) -> list[Group]:
    """Return the flags of a method, of its objects and of its rates.

    Args:
        choice: the method and the classes of its objects.
        prog: the command, for the help.
        space: an example of the space, which decides some defaults.
        grid: whether each flag takes several values, as in a sweep.

    Returns:
        The groups.
    """
    described = settings.fields(choice.kind)
    meaning = f"the training method. {prog} --method NAME --help lists the flags of a method."
    flags = [Flag(Setting("method", frozenset({str}), tuple(known(grid)), help=meaning), DEFAULT if grid else AUTOMATIC, choice.name)]
    made = []
    for field, kind in choice.objects.items():
        words = (*makeable(described[field]),)
        default = _default_class(choice.kind, field, makeable(described[field]), space if choice.suited else None)
        shown = settings.word(default) if default else "set by the method"
        flags.append(Flag(Setting(field, frozenset({str}), words, help=described[field].help), shown))
        if kind is not None:
            defaults = _example_defaults(choice, field, kind, space)
            made.append(Group(field, sentence(kind), [_flag(s, defaults[s.name], grid) for s in _spellable(kind, grid)]))
    flags += [_flag(s, s.default, grid) for s in _spellable(choice.kind, grid)]
    if not issubclass(choice.kind, Method):
        return [Group("method", sentence(choice.kind), flags)]
    rates = rates_class(choice.kind)
    shown = _example_rates(choice, rates, space)
    listed = [Flag(s, shown[s.name], NOT_GIVEN, grid) for s in settings.fields(rates).values()]
    return [Group("method", sentence(choice.kind), flags), *made, Group("rates", sentence(rates), listed)]


def _spellable(kind: type, grid: bool) -> list[Setting]:
    """Return the settings of a class that text can spell. A grid has no tuples."""
    return [s for s in settings.fields(kind).values() if s.kinds and not (grid and s.many)]


def _flag(setting: Setting, default: Any, grid: bool) -> Flag:
    """Return the flag of a field. A switch needs its default, because tyro gives it a value always."""
    flag = Flag(setting._replace(default=default), None if default is dataclasses.MISSING else spell(default), NOT_GIVEN, grid)
    return flag._replace(default=default) if flag.switch else flag


def _example_defaults(choice: Choice, field: str, kind: type, space: Space) -> dict[str, Any]:
    """Return the defaults of the settings of an object, those of its class where it does not exist on the space."""
    defaults = {name: setting.default for name, setting in settings.fields(kind).items()}
    try:
        example = instance(choice, field, space)
    except ValueError:
        return defaults
    return {name: getattr(example, name) for name in defaults}


def _example_rates(choice: Choice, rates: Any, space: Space) -> dict[str, str]:
    """Return the default of each rate as text. One that changes with the dimension or the data is suited to them."""
    examples = []
    for dimension in (space.dimension, space.dimension + 1):
        points: Any = np.full((1000 * dimension, dimension), float(dimension))  # whose number and scale differ
        try:
            examples.append(build(choice, dataclasses.replace(space, dimension=dimension), {}).rates_for(Samples(points))._asdict())
        except ValueError:  # the method has no default on this space
            examples.append({})
    first, second = examples
    same = {name: value for name, value in first.items() if second.get(name) == value}
    return {name: f"{same[name]:g}" if name in same else "suited to the space and the data" for name in rates._fields}


# -- Methods ---------------------------------------------------------------------------------------------


def instance(choice: Choice, field: str, space: Space) -> Any:
    """Return the default object of a field, of the chosen class, on a space."""
    kind: Any = choice.objects[field]
    default: Any = settings.fields(choice.kind)[field].default
    if choice.suited and issubclass(kind, Feature):
        return features.suited(space, typing.cast(Any, kind))
    if type(default) is kind:
        return default
    return kind(space) if "space" in settings.fields(kind) else kind()


def build(choice: Choice, space: Space, values: Mapping[str, Any]) -> Method:
    """Return the method on a space.

    Args:
        choice: the method and the classes of its objects.
        space: the space.
        values: the values of fields of the method and of its objects. Other names are passed over.

    Returns:
        The method.

    Raises:
        ValueError: a value is not allowed.

    >>> from dualebm.spaces import Sphere
    >>> choice = choose(["--method", "dual", "--feature", "softplus"], {}, Sphere(3))
    >>> build(choice, Sphere(3), {"neurons": 8, "sharpness": 2.0}).feature
    Softplus(sharpness=2.0, bias=True)
    """
    objects = {}
    for field, kind in choice.objects.items():
        if kind is not None:
            default = instance(choice, field, space)
            changes = {name: values[name] for name in settings.fields(type(default)) if name in values}
            objects[field] = dataclasses.replace(default, **changes)
    fields = {s.name: values[s.name] for s in _spellable(choice.kind, grid=False) if s.name in values}
    kind: Any = choice.kind
    return kind(space, **objects, **fields)
