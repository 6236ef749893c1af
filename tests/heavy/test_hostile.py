"""Models that are damaged or hostile are refused in one line, and none gives other numbers in silence."""

from tests.heavy import hostile


def test_no_changed_model_gives_a_traceback_or_other_numbers():
    outcomes, bad = hostile.trial(300, 100, 0)
    assert set(outcomes) <= {"refused", "the same numbers", "another model"}, "\n".join(bad)
    assert outcomes["refused"] > 300 and sum(outcomes.values()) == 400
