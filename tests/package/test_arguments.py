"""Public functions refuse wrong arguments by name, before they do anything: those whose types are checked, and metrics."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import dualebm
from dualebm import metrics
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.data.bases import fit_normal
from dualebm.distances import median_distance
from dualebm.features import Custom
from dualebm.kernels import RBF
from dualebm.measures import Samples
from dualebm.methods.dual import Dual
from dualebm.metrics import held_out, walkers
from dualebm.plotting import pairs
from dualebm.settings import checked
from dualebm.spaces import Euclidean, Sphere
from dualebm.sweeps.engine import sweep
from dualebm.sweeps.grid import Uniform, cross, draws, product
from dualebm.sweeps.placement import Placement
from dualebm.sweeps.selection import choose, stopped_early
from dualebm.training.run import run


def checked_functions():
    """The functions of the package whose arguments are checked by their types, by their place."""
    found = {}
    for each in pkgutil.walk_packages(dualebm.__path__, "dualebm."):
        for name, thing in vars(importlib.import_module(each.name)).items():
            if inspect.isfunction(thing) and thing.__module__ == each.name and inspect.getsource(thing).startswith("@checked"):
                found[f"{each.name}.{name}"] = thing
    return found


CHECKED = checked_functions()
METRICS = {
    kind.__name__: kind
    for module in (metrics, held_out, walkers)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, metrics.Metric) and inspect.signature(kind).parameters and not inspect.isabstract(kind)
    if "Array" not in str(inspect.signature(kind))  # the tests' own check of annotations comes first
}


def test_the_functions_that_users_call_are_checked():
    assert len(CHECKED) > 90 and len(METRICS) > 8
    drawn = {"curves", "path", "sweep", "snapshot", "density_map", "sphere_density", "snapshots", "density", "pairs", "film"}
    named = {place.rpartition(".")[2] for place in CHECKED}
    files = {"open_results", "to_netcdf", "open_sweep", "by_setting", "save_energy", "load_energy"}
    assert drawn | files | {"log_density", "standard", "certify", "sweep", "simulate"} <= named


@pytest.mark.parametrize("place", CHECKED)
def test_each_checked_function_names_the_argument(place):
    function = CHECKED[place]
    parameters = inspect.signature(function).parameters.values()
    single = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    with pytest.raises(ValueError) as refused:
        function(**{p.name: ... for p in single})
    name, _, value = str(refused.value).partition(" is Ellipsis; it must be ")
    assert name in {p.name for p in single} and value


@pytest.mark.parametrize("kind", METRICS.values(), ids=METRICS)
def test_each_metric_names_the_argument(kind):
    with pytest.raises(ValueError, match=r"^\w+ is Ellipsis; it must be "):
        kind(*[... for _ in inspect.signature(kind).parameters])


ROWS = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
SAMPLES = Samples(jnp.asarray(ROWS))
LOSSES = xarray.Dataset({"validation": (("run", "step"), [[3.0], [1.0]])}, {"step": [0], "rate": ("run", [0.1, 0.2])})


KEY = jax.random.key(0)
bare = inspect.unwrap  # without the tests' own check of annotations, which comes first


def swept(**changes):
    given = dict(grid=product(seed=[0]), method=Dual(Sphere(2)), rates=None, data=SAMPLES, steps=4, every=2, metrics={})
    return sweep(**given | changes)


REFUSED = [
    (lambda: swept(grid=None), "grid is None; it must be an object of dict"),
    (lambda: swept(method=Dual), "method is the class Dual; it must be an object of Method or a function, such as Dual"),
    (lambda: swept(placement="x"), "placement is 'x'; it must be an object of Placement"),
    (lambda: swept(progress=None), "progress is None; it must be True or False"),
    (lambda: swept(folder=3), "folder is 3; it must be a string or an object of PathLike or None"),
    (lambda: swept(note=object()), "note is <object .*; it must be JSON"),
    (lambda: swept(every=1), "every is 1; it must be an integer of at least 2"),
    (lambda: bare(run)(KEY, Dual(Sphere(2)), None, SAMPLES, steps=4, every=2, metrics={}, progress="no"), "progress is 'no'"),
    (lambda: product(integrator="mala"), "integrator is 'mala'; it must be values, such as a list"),
    (lambda: bare(product)(radius=3), "radius is 3; it must be values, such as a list"),
    (lambda: bare(cross)(product(a=[1]), None), "grid is None; it must be an object of dict"),
    (lambda: draws(0, 2, a=Uniform("x", 1.0)), "a.low is 'x'; it must be a finite number$"),
    (lambda: Placement(batch_size="x"), "batch_size is 'x'; it must be an integer of at least 1"),
    (lambda: Placement(process=(0, 1, 2)), r"process is \(0, 1, 2\); it must be \(index, count\)"),
    (lambda: Placement(process=(1, 1)), r"process is \(1, 1\); it must be \(index, count\)"),
    (lambda: stopped_early(LOSSES, "valid"), "validation is 'valid'; did you mean 'validation'"),
    (lambda: choose(LOSSES, [], ["rat"]), "over is 'rat'; did you mean 'rate'"),
    (lambda: metrics.SlicedWasserstein(SAMPLES, order=3), "order is 3; Allowed: 1, 2"),
    (lambda: metrics.DualityGap("plane"), "space is 'plane'; it must be an object of Space"),
    (lambda: metrics.CrossEntropy(SAMPLES, Euclidean(2), draws=-1), "draws is -1; it must be an integer of at least 0"),
    (lambda: metrics.MMD(SAMPLES, RBF), r"kernel is the class RBF; .*, such as RBF\(...\)"),
    (lambda: metrics.DualityGap(Sphere(2), ball="all"), "ball is 'all'; did you mean 'full'"),
    (lambda: metrics.KLDivergence(lambda x: x, SAMPLES), "teacher is <function .*; it must be an object of Energy"),
    (lambda: pairs.pairs(ROWS, None, "ab"), "names is 'ab'; it must be an object of Sequence"),
    (lambda: pairs.pairs(ROWS, None, ["a"]), r"samples has shape \(20, 2\); it must be finite, with 1 columns as names"),
    (lambda: pairs.pairs(ROWS, np.nan * ROWS, ["a", "b"]), r"rows has shape \(20, 2\); it must be finite"),
    (lambda: Normal("x", [[1.0]]), "mean is 'x'; it must be an array of numbers"),
    (lambda: Normal([0.0], object()), "covariance is <object .*; it must be an array of numbers"),
    (lambda: VonMisesFisher(object(), 1.0), "mean is <object .*; it must be an array of numbers"),
    (lambda: KernelBase([[0.0], [1.0, 2.0]], [1.0, 1.0]), r"centres is \[\[0.0\].*; it must be an array of numbers"),
    (lambda: fit_normal("x"), "points is 'x'; it must be an array of numbers"),
    (lambda: median_distance(np.full((3, 2), np.nan)), r"points has shape \(3, 2\) and 6 values that are not finite"),
    (lambda: Custom(float, Euclidean(2)), "function is the class float; it must be a function"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_types_say_what_is_allowed():
    """Numbers of either sign, arrays of any number of dimensions, truth values of NumPy, and what has no type."""
    from jaxtyping import Array, Float

    from dualebm.settings import Number

    @checked
    def function(x: Float[Array, "*shape d"], scale: Float[Array, ""] | float = 1.0, shift: Number = 0.0, draw: bool = False, **options):
        return x * scale + shift

    assert function(jnp.ones((2, 3)), shift=-2.0, draw=np.True_, other=None).shape == (2, 3)
    assert function(np.ones(3), jnp.asarray(2.0)).tolist() == [2.0, 2.0, 2.0]
    assert jax.jit(lambda x, scale: function(x, scale))(jnp.ones(1), -1.0).tolist() == [-1.0]
    for changes, message in (
        (dict(x="x"), r"x is 'x'; it must be an array \(\*shape, d\)"),
        (dict(scale=jnp.ones(2)), "scale is .*; it must be a finite number, at least 0"),
        (dict(scale=jnp.asarray(-1.0)), "scale is -1.0; it must be a finite number, at least 0"),
        (dict(shift=np.inf), "shift is inf; it must be a finite number$"),
        (dict(draw=1), "draw is 1; it must be True or False"),
    ):
        with pytest.raises(ValueError, match=message):
            function(**dict(x=jnp.ones(1)) | changes)
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        function()


def test_a_placement_stays_comparable():
    assert dataclasses.replace(Placement(process=(0, 2)), process=(1, 2)).process == (1, 2)
