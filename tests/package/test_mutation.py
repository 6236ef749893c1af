"""The script of mutation checks: its mutants are programs, drawn by the seed, and a line is tested by what ran it."""

import ast

from tests import mutation


def test_a_mutant_differs_from_the_source_in_its_place_alone():
    path = mutation.ROOT / "dualebm/flows/wfr.py"
    source = path.read_bytes()
    made = list(mutation.mutants(path))
    assert len(made) > 20
    for m in made:
        assert source[m["start"] : m["stop"]].decode() == m["old"] != m["new"] and m["lines"][0] <= m["line"] <= m["lines"][1]
        broken = source[: m["start"]] + m["new"].encode() + source[m["stop"] :]
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))


def test_the_draw_is_that_of_its_seed_and_without_replacement():
    draw = mutation.drawn(["flows/*", "spaces"], 30, 1)
    assert draw == mutation.drawn(["flows/*", "spaces"], 30, 1) != mutation.drawn(["flows/*", "spaces"], 30, 2)
    assert len({(m["file"], m["start"], m["new"]) for m in draw}) == 30
    files = {m["file"] for m in draw}
    assert "dualebm/spaces.py" in files and all(f == "dualebm/spaces.py" or f.startswith("dualebm/flows/") for f in files)


def test_tests_that_ran_the_line_come_first_and_the_fastest_of_them_first():
    slow, quick, other = (f"tests/package/a.py::{name}" for name in ("slow", "quick", "other"))
    hot = "tests/optimised/b.py::hot"
    seconds = {slow: 2.0, quick: 1.0, other: 0.1, hot: 0.5, "tests/package/c.py::elsewhere": 0.0}
    lines = {"dualebm/x.py": {7: {slow, hot}, 8: {quick}, 20: {other}}}
    groups = list(mutation.in_order(dict(file="dualebm/x.py", lines=[7, 8]), lines, seconds))
    assert groups == [[quick, slow], [hot], [other], []]
    elsewhere = list(mutation.in_order(dict(file="dualebm/x.py", lines=[7, 8]), lines, seconds, {"tests/package/c.py"}))
    assert elsewhere == [[quick, slow], [hot], ["tests/package/c.py::elsewhere", other], []]
    at_import = list(mutation.in_order(dict(file="dualebm/x.py", lines=[1, 1]), lines, seconds))
    assert at_import == [[other, quick, slow], [hot], [], []]
