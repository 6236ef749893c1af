"""The loop over segments, driven with a job that adds one in each interval: what it asks for, and in which order."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.training import segments


class Adding:
    """The state is a number of intervals; `calls` holds what the loop asked for, with the records done."""

    def __init__(self):
        self.calls, self.records = [], []

    def start(self):
        self.calls.append(("start",))
        return 0

    def load(self, done):
        self.calls.append(("load", done))
        return done - 1

    def advance(self, states, active):
        made = states + np.cumsum(active)
        return int(made[-1]), {"count": jnp.asarray(made)}

    def write(self, first, done, records):
        self.calls.append(("write", first, done))
        self.records += records["count"][: done - first].tolist()

    def save(self, first, done, states):
        self.calls.append(("save", first, done, states))

    def mark(self, done):
        self.calls.append(("mark", done))

    def report(self, first, done, states, seconds):
        self.calls.append(("report", done))


PLAN = segments.plan_of({"of": "a test"}, steps=12, every=2, segment=3)  # 7 records: segments of 3, 3 and 1


def test_each_segment_is_written_then_saved_then_marked():
    job = Adding()
    assert segments.drive(PLAN, job, 0, lambda done: False) == (6, 7)
    assert job.records == list(range(7))  # the first is of the initial state, and no interval beyond the last counts
    expected = [("start",)]
    for first, done in ((0, 3), (3, 6), (6, 7)):
        expected += [("write", first, done), ("save", first, done, done - 1), ("mark", done), ("report", done)]
    assert job.calls == expected


def test_it_ends_where_it_is_asked_to_and_goes_on_from_there():
    first, second = Adding(), Adding()
    asked = []
    assert segments.drive(PLAN, first, 0, lambda done: asked.append(done) or done == 3) == (2, 3)
    assert segments.drive(PLAN, second, 3, lambda done: asked.append(done) or False) == (6, 7)
    assert asked == [0, 3, 3, 6]
    assert first.records + second.records == list(range(7)) and second.calls[0] == ("load", 3)
    done = Adding()
    assert segments.drive(PLAN, done, 7, lambda done: pytest.fail("nothing is left")) == (6, 7)
    assert done.calls == [("load", 7)]


def test_the_plan():
    assert PLAN.step.tolist() == list(range(0, 13, 2)) and (PLAN.every, PLAN.segment) == (2, 3)
    assert PLAN.settings == PLAN.settings | {"of": "a test", "steps": 12, "every": 2, "segment": 3}
    assert {"versions", "git_revision"} <= set(PLAN.attributes) and "versions" not in PLAN.settings
    assert segments.plan_of({}, 4, 2, 2, first=10).step.tolist() == [10, 12, 14]


@pytest.mark.parametrize(("records", "segment"), [(2, 2), (41, 3), (1000, 50), (10_000, 100)])
def test_a_segment_is_a_twentieth_of_the_run_between_its_bounds(records, segment):
    assert segments.segment_of(2 * (records - 1), 2, None, 20) == segment


@pytest.mark.parametrize(("answers", "progress", "answer"), [(True, False, ""), (True, True, "\n"), (False, True, None)])
def test_the_first_signal_is_answered_below_a_bar(capfd, answers, progress, answer):
    with segments.deferred_signals(answers, progress) as received:
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    assert capfd.readouterr().err == ("" if answer is None else answer + segments.STOPPING)
