"""The grammar of ranges, by tables of what is read and what is refused."""

import math

import numpy as np
import pytest

from dualebm.cli.values import LARGEST, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:32", list(range(32))),
        ("3:5", [3, 4]),
        ("-2:2", [-2, -1, 0, 1]),
        ("0:32:4", list(range(0, 32, 4))),
        ("32:0:-8", [32, 24, 16, 8]),
        ("0:1:lin5", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0:4:lin5", [0.0, 1.0, 2.0, 3.0, 4.0]),
        ("0:1:lin11", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("1:0:lin3", [1.0, 0.5, 0.0]),
        ("-1e308:1e308:lin3", [-1e308, 0.0, 1e308]),
        ("0:1/40:lin3", [0.0, 0.0125, 0.025]),
        ("1:2:lin2", [1.0, 2.0]),
        ("0,1/40,1", [0.0, 0.025, 1.0]),
        (" 0 , 1/40 ,1 ", [0.0, 0.025, 1.0]),
        ("1,2,3", [1, 2, 3]),
        ("1,2.0,3", [1.0, 2.0, 3.0]),
        ("4/2", [2.0]),
        ("-1/4,.5,1e-3,+2", [-0.25, 0.5, 0.001, 2.0]),
        ("0.3", [0.3]),
        ("7", [7]),
        ("9007199254740993", [9007199254740993]),
        ("1e-999999999", [0.0]),
        ("mala", ["mala"]),
        ("mala,projected", ["mala", "projected"]),
        ("all_negative, half", ["all_negative", "half"]),
        ("info,nano", ["info", "nano"]),
    ],
)
def test_what_is_read(text, expected):
    values = parse(text)
    assert values == expected and [type(v) for v in values] == [type(e) for e in expected]


def test_log_has_equal_ratios_and_both_ends():
    values = parse("0.05:20:log9")
    assert len(values) == 9 and values[0] == 0.05 and values[-1] == 20.0
    np.testing.assert_allclose(values, np.geomspace(0.05, 20, 9), rtol=1e-14)
    assert parse("20:1/20:log9") == pytest.approx(values[::-1], rel=1e-14)
    extreme = parse("1e-300:1e300:log3")
    assert extreme[1] == pytest.approx(1.0, rel=1e-12) and all(map(math.isfinite, extreme))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which is empty; allowed: 0.05:20:log9"),
        ("  ", "which is empty"),
        (",", "a value is missing between commas"),
        ("1,,2", "a value is missing between commas"),
        ("1,2,", "a value is missing between commas"),
        (":", "a number is missing"),
        ("0:", "a number is missing"),
        ("0:1:", "a number is missing"),
        ("1/", "a number is missing"),
        ("0:1:2:3", "allowed: 0.05:20:log9"),
        ("0,1:3", "allowed: 0.05:20:log9"),
        ("nan", "'nan' is not finite"),
        ("1,inf", "'inf' is not finite"),
        ("-Infinity", "'-Infinity' is not finite"),
        ("0:inf:lin3", "'inf' is not finite"),
        ("1e400", "'1e400' is not finite"),
        ("1e300/1e-300", "a number that is not finite"),
        ("1/0", "divides by zero"),
        ("0:1/0.0:lin3", "divides by zero"),
        ("0:20:log9", "with the end 0.0; both ends of log must be greater than 0"),
        ("1:-2:log9", "with the end -2.0; both ends of log"),
        ("1:2:log1", "which has 1 values; log must have between 2 and"),
        ("1:2:lin0", "which has 0 values; lin must have between 2 and"),
        ("1:2:lin-3", "which has -3 values"),
        (f"1:2:lin{LARGEST + 1}", f"between 2 and {LARGEST}"),
        ("1:2:log", "the count of log is missing; it must be an integer, as log9"),
        ("1:2:log2.5", "the count of log is 2.5; it must be an integer, as log9"),
        ("1:2:log" + "9" * 5000, "is not finite"),
        ("0.05:20:lgo9", "'lgo9' is no spacing; did you mean 'log9'? allowed: log or lin with the number of values, as log9"),
        ("0:1:linn5", "'linn5' is no spacing; did you mean 'lin5'?"),
        ("0.05:20:LOG9", "did you mean 'log9'?"),
        ("0.05:20:log 9", "did you mean 'log9'?"),
        ("0.05:20:9log", "did you mean 'log9'?"),
        ("0:1:geo9", "'geo9' is no spacing; allowed: log or lin"),
        ("1:2:log9x", "the count of log is 9x; it must be an integer"),
        ("0.05:20:9", "'0.05' is not an integer; did you mean '0.05:20:log9'? a range of floats needs a count"),
        ("-0.5:1:9", "did you mean '-0.5:1:lin9'?"),
        ("0.5:1:1e5", "'0.5' is not an integer; a range of floats needs a count"),
        ("log9:0.05:20", "'log9' comes first; did you mean '0.05:20:log9'? allowed"),
        ("lgo9:0.05:20", "'lgo9' comes first; allowed"),
        ("0,05:20:log9", "which has a comma; did you mean '0.05:20:log9'? allowed"),
        ("1,2:3,4", "which has a comma; allowed"),
        ("1:1:lin2", "has 1.0 twice"),
        ("1:1.0000000000000002:lin9", "twice; values must differ"),
        ("1,2,1", "has 1 twice"),
        ("1/2,0.5", "has 0.5 twice"),
        ("mala,mala", "has 'mala' twice"),
        ("mala,1", "'mala' is a name; values must be all numbers or all names"),
        ("0:1.5", "'1.5' is not an integer; a range of floats needs a count, as 0:1:lin5"),
        ("0:10:0.5", "'0.5' is not an integer"),
        ("a:b", "'a' is not a number"),
        ("0:32:0", "with the step 0"),
        ("5:5", "is empty: it starts at 5 and stops before 5"),
        ("5:3", "is empty"),
        ("0:5:-1", "is empty"),
        ("5:5:-1", "is empty"),
        ("0:10000000", f"more than {LARGEST} values"),
        ("0:" + "9" * 40, f"more than {LARGEST} values"),
        ("1_000", "'1_000' is not a number"),
        ("0x10", "'0x10' is not a number"),
        ("1;2", "'1;2' is not a number"),
        ("1 2", "'1 2' is not a number"),
        ("\u0661", "'\u0661' is not a number"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError) as raised:
        parse(text)
    assert message in str(raised.value) and f"range is {text!r}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("items", [["1", "2"], ["1", "2.5"], ["0.5", "0.25"], ["3/1", "4"], ["2", "1e3"]])
def test_all_values_are_floats_where_one_is_not_an_integer(items):
    kinds = {type(value) for value in parse(",".join(items))}
    assert kinds == ({int} if all(item.isdigit() for item in items) else {float})
