"""Runs and particles over a mesh of eight devices, which a process of its own has, against `simulate` on one device."""

import numpy as np

from tests.package.test_sharding import CASES, WALKERS, answers_of, everything_of


def test_eight_devices():
    """One process tells all, so that it starts once."""
    cases = tuple(name for name in CASES if name not in WALKERS)
    answers = answers_of(everything_of, cases)
    for name in cases:
        errors, counts = answers[name], CASES[name][3]
        assert len(errors) == len(counts) and max(errors.values()) < 1e-9, (name, errors)
    assert answers["many"] < 1e-9
    assert answers["counted"] == {
        "step": ["all-gather"],
        "run": ["all-gather", "all-reduce"],  # and the test of divergence, once in an interval
        "reading": ["all-gather", "all-gather", "all-gather", "all-reduce"],  # and the particles and the data
    }
    here, there, types = (np.array(answers["float32"][name]) for name in ("here", "there", "types"))
    assert set(types) == {"float32"} and here.shape == there.shape == (8, 2, 3)
    assert (np.abs(there.mean(0) - here.mean(0)) <= here.std(0)).all()
