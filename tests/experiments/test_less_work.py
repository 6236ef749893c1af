"""The experiment from end to end, and its bad inputs."""


import pytest

from dualebm.methods import dual
from dualebm.spaces import Sphere
from experiments.less_work import Settings, checked, options


def test_every_option_is_a_method_that_differs():
    methods = [dual.Dual(Sphere(15), **changes) for changes in options(1000).values()]
    assert len(set(methods)) == len(methods) and methods[0] == dual.Dual(Sphere(15))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(n=0), "n is 0"),
        (dict(steps=15), "steps is 15; it must be a multiple of every, which is 10"),
        (dict(every=1), "every is 1"),
        (dict(seeds=0), "seeds is 0"),
        (dict(first_seed=-1), "first_seed is -1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
