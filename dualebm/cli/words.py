"""The words of a command line and the values of a configuration file, read as the values of flags.

`tyro` splits the words and prints the help. The values are read here, so that every error is one line that names the flag, its value and
what is allowed.
"""

import contextlib
import dataclasses
import difflib
import io
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from dualebm import settings
from dualebm.cli import Refused, values
from dualebm.cli.flags import NOT_GIVEN, Flag, Group, capitalised, hint, metavar, spell, spell_default
from dualebm.settings import Setting

# -- Values ------------------------------------------------------------------------------------------


def value_of(flag: Flag, text: str) -> Any:
    """Return the value that a text spells for a flag.

    Args:
        flag: the flag.
        text: the text.

    Returns:
        The value, or a tuple of values where the flag takes several.

    Raises:
        Refused: the text is not allowed. The message names the flag, the text and what is allowed.

    >>> value_of(Flag(settings.of_type("steps", settings.Count), "2000"), "0")
    Traceback (most recent call last):
    ...
    dualebm.cli.Refused: steps is 0; it must be an integer of at least 1
    """
    setting = flag.setting
    if not flag.grid and setting.kinds & {str, Path} and not setting.words:
        if Path in setting.kinds and not text:
            raise Refused(f"{flag.name} is ''; it must be a path")
        return None if setting.optional and text == "none" else Path(text) if Path in setting.kinds else text
    try:
        listed = _typed(setting, values.parse(text) if flag.grid else [_single(text)])
        for value in listed:
            settings.check_value(flag.name, value, setting._replace(many=False))
    except ValueError as error:
        message = str(error)
        raise Refused(message if message.startswith(flag.name) else f"{flag.name}: {message}") from None
    if flag.grid:
        return tuple(listed)
    return float(listed[0]) if float in setting.kinds and type(listed[0]) is int else listed[0]


def _single(text: str) -> Any:
    """Return the number that a text spells, or the text itself where it spells no number or several."""
    try:
        listed = values.parse(text)
    except ValueError:
        return text
    return listed[0] if len(listed) == 1 and ":" not in text else text


def _typed(setting: Setting, listed: list) -> list:
    """Return values of the grammar with hyphens of words as underscores, and with true, false and none where the setting allows them."""
    meanings: dict[Any, Any] = {str(word).replace("_", "-"): word for word in setting.words}
    meanings |= {"true": True, "false": False} if bool in setting.kinds else {}
    meanings |= {"none": None} if setting.optional else {}
    return [meanings.get(value, value) for value in listed]


# -- Words -------------------------------------------------------------------------------------------


def parse(
    prog: str,
    about: str,
    groups: Sequence[Group],
    words: Sequence[str],
    stored: Mapping[str, Any] | None = None,
    origin: str = "",
    elsewhere: Callable[[str], str] = lambda name: "",
) -> dict[str, Any]:
    """Return the value of each flag.

    Args:
        prog: the command, as in "dualebm fit".
        about: the text of the help above the flags.
        groups: the flags.
        words: the words of the command line.
        stored: values of flags by name, from a configuration file or a folder. The words win over them.
        origin: where `stored` comes from, in errors.
        elsewhere: returns the advice for a name that is no flag here and may be one elsewhere, or an empty text.

    Returns:
        The values by name. A flag that was not given has its default, or is absent where it has none.

    Raises:
        Refused: an unknown flag, a value that is not allowed, or a flag that must be given and is not.
        SystemExit: after `--help`, with code 0.
    """
    flags = {flag.name: flag for group in groups for flag in group.flags}
    kept = {name: _stored_value(flags, name, value, origin, elsewhere) for name, value in (stored or {}).items()}
    for name, value in kept.items():
        flags[name] = flags[name]._replace(default=value, shown=f"{spell_default(value, flags[name].grid)}, from {origin}")
    groups = [group._replace(flags=[flags[flag.name] for flag in group.flags]) for group in groups]
    cli = dataclasses.make_dataclass("Flags", [(group.title, _struct(group)) for group in groups], kw_only=True)
    cli.__doc__ = about
    _check_switches(flags, words)
    chosen, rest = _quietly(cli, prog, [*words], flags)
    if rest:
        raise Refused(_unknown(prog, flags, words, rest, elsewhere))
    given = {name: value for group in groups for name, value in vars(getattr(chosen, group.title)).items() if value is not NOT_GIVEN}
    for flag in flags.values():
        if flag.shown is None and flag.name not in given:
            raise Refused(f"{flag.spelt} is not given; {prog} needs it: {flag.setting.help}")
    return given


def named(name: str, words: Sequence[str]) -> str | None:
    """Return the value that words give to one flag, whatever the other words are, or None.

    >>> named("method", ["wind.csv", "--method", "lazy", "--features", "8"])
    'lazy'
    """
    flag = dataclasses.make_dataclass("Flag", [(name, str | None, None)])
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            chosen, _ = tyro.cli(flag, args=list(words), return_unknown_args=True, add_help=False)
        except SystemExit:
            raise Refused(f"--{name.replace('_', '-')} has no value") from None
    return getattr(chosen, name)


def _struct(group: Group) -> type:
    """Return the dataclass that tyro reads for a group of flags."""
    fields = [(flag.name, _annotation(flag), dataclasses.field(default=flag.default)) for flag in group.flags]
    struct = dataclasses.make_dataclass(group.title.title(), fields, kw_only=True)
    struct.__doc__ = group.about
    return struct


def _annotation(flag: Flag) -> Any:
    """Return the type of a flag for tyro."""
    setting = flag.setting
    about = tyro.conf.arg(help=capitalised(setting.help), help_behavior_hint=hint(flag), prefix_name=False)
    if flag.switch:
        return Annotated[bool, about]

    def read(texts: Sequence[Any]) -> Any:
        if setting.many:
            return tuple(value_of(flag, text) for text in texts)
        # tyro gives an empty list for a positional that comes behind an unknown flag
        return value_of(flag, texts[0]) if isinstance(texts[0], str) else flag.default

    spec = PrimitiveConstructorSpec(
        nargs=1 if not setting.many else "*",
        metavar=metavar(flag),
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [spell(value)],
    )
    marks = (about, spec, tyro.conf.Positional) if flag.positional else (about, spec)
    return Annotated[(Any, *marks)]


def _quietly(cli: type, prog: str, words: list[str], flags: Mapping[str, Flag]) -> tuple[Any, list[str]]:
    """Return what tyro reads and the words that it does not know. Its errors, which are boxes of lines, become one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cli, prog=prog, args=words, return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as end:
        if not end.code:
            raise
        text = " ".join(re.sub(r"[\u2500-\u257f]+", " ", said.getvalue()).split("For full helptext")[0].split())
        lacking = re.search(r"Missing value for argument '--([\w-]+)'", text)
        flag = flags.get(lacking[1].replace("-", "_")) if lacking else None
        raise Refused(f"{flag.spelt} has no value; it takes {metavar(flag)}" if flag else f"{text} See {prog} --help") from None


def _check_switches(flags: Mapping[str, Flag], words: Sequence[str]) -> None:
    """Raise `Refused` for a flag that takes no value and has one, as --cache=true."""
    for word in words:
        name, equals, value = word.partition("=")
        flag = flags.get(name.removeprefix("--").removeprefix("no-").replace("-", "_")) if equals and name.startswith("--") else None
        if flag and flag.switch:
            raise Refused(_no_value(flag, name, value))


def _no_value(flag: Flag, given: str, value: str) -> str:
    """Say that a flag that takes no value was given one."""
    return f"{given} is followed by {value!r}; it takes no value: give {flag.spelt} or --no-{flag.spelt[2:]}"


def _stored_value(flags: Mapping[str, Flag], name: str, value: Any, origin: str, elsewhere: Callable[[str], str]) -> Any:
    """Return the value of a flag that a stored value gives. Raise `Refused` for a name, a type or a value that is not allowed."""
    where = f"the name {name!r} in {origin}"
    flag = flags.get(name)
    if flag is None:
        raise Refused(f"{where} is no flag of this command{elsewhere(name) or nearest(name, flags)}")
    kinds = flag.setting.kinds
    allowed = {bool} if flag.switch else {kind for kind in kinds if kind is not Path}
    allowed |= {str} if flag.grid or Path in kinds else set()
    allowed |= {int} if float in kinds else set()
    allowed |= {type(None)} if flag.grid and flag.setting.optional else set()
    several = isinstance(value, list)
    listed = value if several else [value]
    if (several and not (flag.setting.many or (flag.grid and listed))) or any(type(item) not in allowed for item in listed):
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
        ways = [names[kind] for kind in names if kind in allowed and not (kind is int and float in allowed)]
        raise Refused(f"{flag.name} in {origin} is {value!r}; it must be {' or '.join(ways)}")
    if flag.switch:
        return value
    texts = [",".join(map(spell, listed))] if flag.grid else [spell(item) for item in listed]
    try:
        read = tuple(value_of(flag, text) for text in texts)
    except Refused as error:
        raise Refused(f"{flag.name} in {origin}{str(error).removeprefix(flag.name)}") from None
    return read if flag.setting.many else read[0]


def _unknown(prog: str, flags: Mapping[str, Flag], words: Sequence[str], rest: list[str], elsewhere: Callable[[str], str]) -> str:
    """Say what is wrong with words that tyro does not know."""
    wrong = next((word for word in rest if re.match("-+[a-zA-Z]", word)), rest[0])
    if not re.match("-+[a-zA-Z]", wrong):
        before = words[words.index(wrong) - 1] if wrong in words[1:] else ""
        flag = flags.get(before.removeprefix("--").removeprefix("no-").replace("-", "_"))
        if flag and flag.switch:
            return _no_value(flag, before, wrong)
        *places, last = [*(flag.spelt for flag in flags.values() if flag.positional), "flags"]
        return f"{wrong!r} is unexpected; {prog} takes {', '.join(places)}{' and ' * bool(places)}{last}"
    name = wrong.lstrip("-").split("=")[0].replace("-", "_")
    name = name.removeprefix("no_") if name not in flags else name
    if name in flags and flags[name].positional:
        advice = f"; give {flags[name].spelt} without a name"
    else:
        advice = nearest(name, flags) if name in flags else elsewhere(name) or nearest(name, flags)
    return f"{wrong.split('=')[0]} is no flag of {prog}{advice}"


def nearest(name: str, flags: Iterable[str]) -> str:
    """Return the advice for a wrong name: the nearest flag, or nothing where none is near.

    A flag of which the name is the beginning, or which is the beginning of the name, is near.

    >>> nearest("stpes", ["steps", "every"]), nearest("output", ["out"]), nearest("normalise", ["noise"])
    ('; did you mean --steps?', '; did you mean --out?', '')
    """
    flags, name = list(flags), name.replace("-", "_").lower()
    begun = [flag for flag in flags if min(len(flag), len(name)) > 2 and (flag.startswith(name) or name.startswith(flag))]
    near = difflib.get_close_matches(name, begun or flags, 1, cutoff=0.0 if begun else 0.75)
    return f"; did you mean --{near[0].replace('_', '-')}?" if near else ""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file. Raises `Refused` for a file that cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"config is {str(path)!r}, which cannot be read as TOML ({reason})") from None
