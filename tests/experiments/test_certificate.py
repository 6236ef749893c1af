"""The iterations that are certified, and bad inputs."""

import pytest

from experiments.certificate.runs import (
    Settings,
    certified_at,
    checked,
)


def test_certified_iterations_are_records_and_end_with_the_last():
    for steps in (20, 100, 4000):
        at = certified_at(steps, 12)
        assert at[-1] == steps and all(i % 20 == 0 and i > 0 for i in at) and len(set(at)) == len(at) <= 12




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(teachers=("s14_bimodal",)), "teachers is 's14_bimodal'"),
        (dict(teachers=()), r"teachers is \(\)"),
        (dict(methods=("default",)), "methods is 'default'"),
        (dict(methods=("program, all -1",)), "it must have 'default, half'"),
        (dict(n=0), "n is 0"),
        (dict(chains=0), "chains is 0"),
        (dict(steps=30), "steps is 30; it must be a multiple of 20"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
