"""The settings of every method are flags, and the command line knows none of them by name."""

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Literal

import pytest

from dualebm import settings
from dualebm.cli import commands, main
from dualebm.cli.flags import Flag, groups_of, hint, metavar, spell
from dualebm.cli.methods import EXAMPLES, build, choose, groups, makeable, rates_class
from dualebm.features import ScaledBump
from dualebm.methods.registry import by_name
from dualebm.settings import Count, Fraction, Positive
from dualebm.spaces import Euclidean, Sphere, Torus

CLI = Path(main.__file__).parent


def choices():
    """Each method with each class of each object that it may hold."""
    for name, kind in by_name().items():
        yield [name]
        for field, setting in settings.fields(kind).items():
            yield from ([name, f"--{field}", made] for made in makeable(setting))


def text_of(arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main.main(arguments) == 0
    return out.getvalue()


@pytest.mark.parametrize("chosen", list(choices()), ids=" ".join)
@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_every_setting_is_one_flag(command, chosen):
    """A field of the method, of its rates and of the chosen object is in exactly one group, and no flag of the command has its name."""
    kind = commands.COMMANDS[command]
    choice = choose(["--method", *chosen], {}, None if command == "sweep" else Sphere(3), grid=command == "sweep")
    listed = [flag.name for group in groups(choice, "dualebm", Sphere(3), grid=command == "sweep") for flag in group.flags]
    owners = [choice.kind, rates_class(choice.kind), *(made for made in choice.objects.values() if made)]
    spellable = [name for owner in owners for name, s in settings.fields(owner).items() if s.kinds and not (s.many and command == "sweep")]
    assert sorted(listed) == sorted([*spellable, "method", *choice.objects])
    everything = listed + [flag.name for group in groups_of(kind) for flag in group.flags]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("name", by_name())
def test_help_lists_the_flags_of_a_method(name):
    text = " ".join(text_of(["fit", "--method", name, "--help"]).replace("│", " ").split())
    assert "dualebm fit --method NAME --help lists the flags of a method." in text
    for owner in (by_name()[name], rates_class(by_name()[name])):
        for field, setting in settings.fields(owner).items():
            if setting.kinds or makeable(setting):
                assert f"--{field.replace('_', '-')}" in text, field
                assert setting.help and " ".join(setting.help.split()[-3:]).rstrip(".") in text, f"{owner.__name__}.{field}"


@pytest.mark.parametrize(
    ("kind", "default", "grid", "text"),
    [
        (Count, 5, False, "INT (at least 1; default: 5)"),
        (Count | None, 5, False, "INT|none (at least 1; default: 5)"),
        (Count | None, None, False, "INT (at least 1; default: none)"),
        (Positive, 0.5, True, "FLOAT[,...] (greater than 0; default: 0.5)"),
        (Fraction, 0.5, False, "FLOAT (greater than 0, at most 1; default: 0.5)"),
        (Literal[32, 64], 32, False, "{32,64} (default: 32)"),
        (bool, True, True, "true|false[,...] (default: true)"),
    ],
)
def test_what_the_help_says_of_values(kind, default, grid, text):
    flag = Flag(settings.of_type("x", kind)._replace(default=default), spell(default), grid=grid)
    assert f"{metavar(flag)} {hint(flag)}" == text


def test_help_goes_from_the_data_over_the_method_to_the_machine(tmp_path):
    (tmp_path / "a.toml").write_text("particle-step = 1\n")
    text = text_of(["fit", "--space", "torus", "--method", "dual", "--config", str(tmp_path / "a.toml"), "--help"])
    flags = ["DATA", "columns", "space", "method", "feature", "concentration", "particle-step", "out", "steps", "precision"]
    places = [re.search(rf"^\W*(--|\[){flag}\b", text, re.MULTILINE) for flag in flags]
    assert all(places) and [place.start() for place in places] == sorted(place.start() for place in places)
    joined = re.sub(r"[\s│]", "", text)
    assert "(default:bump)" in joined and "(greaterthan0;default:10.0)" in joined
    assert f"default:1.0,from{tmp_path}/a.toml" in joined
    assert "--no-bias" in text_of(["fit", "--method", "dual", "--help"])  # the feature that suits the sphere has a bias


def test_no_method_feature_energy_or_field_of_them_is_named_in_the_command_line():
    """The text of the modules of `dualebm.cli`, apart from docstrings, has none of their names."""
    kinds = list(by_name().values())
    objects = {made for kind in kinds for s in settings.fields(kind).values() for made in makeable(s).values()}
    names = {settings.word(kind) for kind in (*kinds, *objects)} | {kind.__name__ for kind in (*kinds, *objects)}
    names |= {field for kind in (*kinds, *objects) for field, s in settings.fields(kind).items()}
    of_commands = {flag.name for kind in commands.COMMANDS.values() for group in groups_of(kind) for flag in group.flags}
    names -= of_commands | {"space"}
    for path in CLI.glob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
        found = {node.value for node in constants if isinstance(node.value, str)}
        found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id[0].isupper()}
        assert not found & names, (path.name, found & names)


def test_the_default_feature_suits_the_space():
    assert type(build(choose(["--method", "dual"], {}, Torus(2)), Torus(2), {}).feature).__name__ == "Bump"
    assert build(choose(["--method", "dual"], {}, Sphere(3)), Sphere(3), {}).feature.bias is True
    softplus = choose(["--method", "dual", "--feature", "softplus"], {}, Euclidean(2))
    assert build(softplus, Euclidean(2), {"bias": False}).feature.bias is False
    planted = choose([], {}, grid=True)  # a sweep on planted teachers keeps the default of the method
    assert build(planted, Sphere(3), {}).feature == by_name()["dual"](Sphere(3)).feature


def test_a_bump_with_a_learnt_concentration_is_a_feature_by_its_fields():
    choice = choose(["--method", "dual", "--feature", "scaled-bump"], {}, Torus(2))
    assert build(choice, Torus(2), {"largest_concentration": 30.0}).feature == ScaledBump(Torus(2), largest_concentration=30.0)
    (flags,) = [group.flags for group in groups(choice, "dualebm fit", Torus(2)) if group.title == "feature"]
    assert {flag.name: flag.shown for flag in flags} == {"smallest_concentration": "1.0", "largest_concentration": "100.0"}


@pytest.mark.parametrize("name", by_name())
def test_the_shown_default_of_a_rate_is_the_rate_of_the_method(name):
    choice = choose(["--method", name], {}, EXAMPLES["sphere"])
    (rates,) = [group for group in groups(choice, "dualebm", EXAMPLES["sphere"]) if group.title == "rates"]
    shown = {flag.name: flag.shown for flag in rates.flags}
    for space in (Sphere(3), Sphere(5)):
        with contextlib.suppress(ValueError):
            rates = build(choice, space, {}).rates
            assert all(text.startswith("suited") or float(text) == pytest.approx(getattr(rates, field)) for field, text in shown.items())
