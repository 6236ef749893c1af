"""Which cases of a check are heavy, because others notice the same broken line."""

import pytest

PRECISIONS = ("float32", "float64")


def heavy(*values):
    """A case of several arguments that is heavy."""
    return pytest.param(*values, marks=pytest.mark.heavy)


def in_turns(values, others=PRECISIONS):
    """Each pair of two lists. The first value goes with the first of the others, the second with the second, and so on in turn; all other
    pairs are heavy."""
    return [
        (value, other) if (i - j) % len(others) == 0 else heavy(value, other)
        for i, value in enumerate(values)
        for j, other in enumerate(others)
    ]
