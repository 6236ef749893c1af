"""The contract that every method keeps, the registry, and wrappers around wrappers."""

import dataclasses
import inspect
import re
import typing
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm import metrics
from dualebm.energies.networks import MLP
from dualebm.features import Bump, ReLU, Softplus, suited
from dualebm.kernels import RBF, ArcCosine, BumpKernel, kernel_of
from dualebm.measures import Samples
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.audited import Audited
from dualebm.methods.base import Divergence, Info, Iterate, Method
from dualebm.methods.dual import ANNEALED, Dual, DualRates, annealing, annealing_over
from dualebm.methods.kernel_flow import KernelFlow
from dualebm.methods.lazy import Lazy
from dualebm.methods.likelihood import Likelihood, WeightedLikelihood
from dualebm.methods.registry import by_name
from dualebm.methods.score_matching import ScoreMatching
from dualebm.methods.tracked import Tracked
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.rates import Bound, bounds
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training.run import run
from dualebm.training.simulate import start, step
from tests.cases import heavy

DATA = Samples(jnp.eye(3, dtype="float32"))
SMALL = dict(neurons=8, features=8, particles=20, walkers=20, chains=20, cells=64, neuron_cells=64, critics=4, start=MLP(4))


def made(name, **changes):
    """A method of the registry, small, with those of the changes that it has."""
    kind = by_name()[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(Sphere(2) if name == "mean_field" else Sphere(3), **{n: v for n, v in (SMALL | changes).items() if n in fields})


@pytest.mark.parametrize("name", by_name())
def test_every_method_keeps_the_contract(name):
    method = made(name)
    data = Samples(DATA.points[:2, :2]) if name == "mean_field" else DATA
    method.check(method.rates, data)
    assert hash(method) == hash(made(name)) and method == made(name)
    state = start(jax.random.key(0), method, method.rates, data)
    after, info = step(jax.random.key(1), method, state, method.rates, data)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_tree_all_finite(info)
    chex.assert_rank(jax.tree.leaves(info), 0)
    assert isinstance(info, Info) and int(after.step) == 1
    assert method.energy(after, method.rates, data)(data.points).shape == data.points.shape[:1]
    assert int(method.diverged(after)) == Divergence.NONE
    samples, paired = method.samples(after), method.paired(after)
    assert samples is None or samples.points.shape[1] == method.space.dimension
    assert paired is None or (samples is not None and any(jax.tree.leaves(paired)))
    assert method.warnings(after, info) == {}
    metrics.Acceptance()(None, Iterate(method, after, method.rates, data, info))


@pytest.mark.parametrize("name", by_name())
def test_every_rate_carries_its_bound(name):
    kind = type(made(name).rates)
    assert all(isinstance(bound, Bound) for bound in bounds(kind).values())
    carried = typing.get_type_hints(kind, include_extras=True)
    assert all(any(isinstance(extra, Bound) for extra in carried[field].__metadata__) for field in kind._fields)


def test_the_registry_finds_every_file_of_a_method():
    folder = Path(inspect.getfile(Method)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "any_energy", "base", "mending", "registry", "presets", "paths"}
    found = {Path(inspect.getfile(kind)).stem for kind in by_name().values()}
    assert files - found == {"adaptive", "audited", "tracked", "validated"}, "wrappers alone are no methods by themselves"


def test_a_method_without_a_step_is_not_a_method():
    @dataclasses.dataclass(frozen=True)
    class Nothing(Method):
        space: Sphere

    with pytest.raises(TypeError, match=r"abstract methods? .*energy.*init.*rates.*step"):
        Nothing(Sphere(3))  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize(
    "method",
    [
        heavy(Audited(Adaptive(Dual(Sphere(3), neurons=8), warmup=4), walkers=20)),
        heavy(Audited(Tracked(Dual(Sphere(3), neurons=8), chains=20), walkers=20)),
        Tracked(Audited(Adaptive(Dual(Sphere(3), neurons=8), warmup=4), walkers=20), chains=20),
        heavy(Audited(WeightedDual(Sphere(3), neurons=8, particles=20), walkers=20)),
    ],
    ids=["audited adaptive", "audited tracked", "tracked audited adaptive", "audited weighted"],
)
def test_wrappers_compose(method):
    """The innermost state is that of the method alone, and everything is forwarded to it."""
    inner = method
    while hasattr(inner, "method"):
        inner = inner.method
    recorded = {"acceptance": metrics.Acceptance(), "total_variation": metrics.TotalVariation(), "mmd": metrics.MMD(DATA, RBF())}
    state, results = run(jax.random.key(1), method, method.rates, DATA, steps=4, every=2, metrics=recorded, progress=False)
    assert method.space == Sphere(3) and method.rates == inner.rates
    assert np.isfinite(results.mmd).all() and np.isfinite(results.acceptance[1:]).all()
    innermost = state
    while hasattr(innermost, "inner"):
        innermost = innermost.inner
    assert method.samples(state).points is not None and innermost.step == 4 == state.step
    np.testing.assert_array_equal(method.samples(state).points, inner.samples(innermost).points)
    np.testing.assert_array_equal(method.atoms(state).positions, innermost.atoms.positions)
    value, error = method.log_partition(state)
    assert np.isfinite(value) and np.isfinite(error) == isinstance(method, Audited)  # only it has particles that the energy does not follow


@pytest.mark.parametrize("name", by_name())
def test_the_page_of_methods_has_a_line_for_every_method(name):
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "methods.md").read_text()
    assert re.search(rf"^\|.*\.{by_name()[name].__name__}`", page, re.MULTILINE)


def test_a_wrapper_hides_no_warning_of_the_method_inside():
    """Both sets of weights have collapsed: each has its words, and one alone is not hidden by the other."""
    method = Audited(WeightedDual(Sphere(3), neurons=8, particles=20), walkers=20)
    state = start(jax.random.key(0), method, method.rates, DATA)
    few, many = jnp.array(0.06), jnp.array(0.9)
    both = method.warnings(state, Info(effective_fraction=few, inner=Info(effective_fraction=few)))
    inside = method.warnings(state, Info(effective_fraction=many, inner=Info(effective_fraction=few)))
    outside = method.warnings(state, Info(effective_fraction=few, inner=Info(effective_fraction=many)))
    assert "lower the steps of the method" in outside["audit_collapse"] and "particle_moves" in inside["collapse"]
    assert both == outside | inside
    assert method.warnings(state, Info(effective_fraction=many, inner=Info(effective_fraction=many))) == {}


@pytest.mark.parametrize("bias", [False, True])
def test_the_neuron_steps_suit_the_scale_of_the_data(bias):
    """0.4 / q for `Dual` and `WeightedDual` with a ridge, through wrappers too; the default rates of all other methods."""
    space, points = Euclidean(3), np.float32(np.random.default_rng(0).normal(2.0, 3.0, (50, 3)))
    data, feature = Samples(points), ReLU(bias=bias)
    steps = 0.4 * (3 + bias) / (np.mean(np.sum(np.float64(points) ** 2, axis=1)) + bias)
    dual, weighted = Dual(space, feature), WeightedDual(space, feature)
    for method in (dual, weighted, Audited(dual), Tracked(Adaptive(dual))):
        expected = method.rates._replace(transport_step=steps, reaction_step=steps)
        assert method.rates_for(data) == pytest.approx(expected) and type(method.rates_for(data)) is type(method.rates)
    for method in (Dual(space, Bump(space)), WeightedDual(space, Bump(space)), ScoreMatching(space, feature)):
        assert method.rates_for(data) == method.rates


def test_annealing_lets_the_radius_grow_and_then_the_steps_fall():
    rates = DualRates(0.1, 1.0, 2.0, radius=10.0)
    for t, radius, slower in ((0, 7.0, 1.0), (1, 8.0, 1.0), (3, 10.0, 1.0), (6, 10.0, 5.0)):
        for schedule in (annealing(3), annealing_over(10, 0.25)):  # 2.5 iterations are 3
            changed = schedule(t, rates)
            assert changed == pytest.approx(rates._replace(radius=radius, transport_step=1.0 / slower, reaction_step=2.0 / slower))
    assert annealing_over(10, 0.0) is None


def test_the_ball_of_a_method_is_that_of_its_signs_through_wrappers_too():
    for signs, ball in (("half", "full"), ("all_negative", "negative")):
        dual = Dual(Sphere(3), signs=signs)
        assert dual.ball == Audited(dual).ball == Tracked(Adaptive(dual)).ball == ball
    assert made("kernel_flow").ball == "full"


def test_annealing_names_the_rates_that_a_method_lacks():
    assert set(ANNEALED) <= set(Dual(Sphere(3)).rates._fields)
    rates = made("kernel_flow").rates
    with pytest.raises(ValueError, match=r"LazyRates has no transport_step, reaction_step; it must have \('radius', "):
        annealing()(1, rates)


def test_a_ridge_refuses_a_torus():
    torus = Torus(2)
    data = Samples(np.zeros((4, 2), np.float32))
    for kind in (Dual, Lazy, ScoreMatching, WeightedDual, Likelihood, WeightedLikelihood):
        for feature in (ReLU(), Softplus(bias=True)):
            method = kind(torus, feature)
            with pytest.raises(ValueError, match=r"feature is .*\(.*space is Torus.*not continuous; allowed: Bump\(space\)"):
                method.check(method.rates, data)
    for feature in (ReLU(), Softplus()):
        with pytest.raises(ValueError, match="not continuous"):
            kernel_of(feature, torus)


def test_the_feature_and_the_kernel_that_suit_a_space():
    torus = Torus(1)
    assert suited(Sphere(3)) == suited(Euclidean(3), ReLU) == ReLU(bias=True)
    assert suited(Sphere(3), Softplus) == Softplus(bias=True) and suited(torus) == suited(torus, Bump) == Bump(torus)
    assert suited(Sphere(2), Bump) == Bump(Sphere(2))
    data = Samples(jnp.array([[0.1], [0.4], [0.7]]))
    states = [start(jax.random.key(1), m, m.rates, data) for m in (KernelFlow(torus), KernelFlow(torus, kernel_of(Bump(torus), torus)))]
    chex.assert_trees_all_equal(*states)
    assert KernelFlow(torus).energy(states[0], KernelFlow(torus).rates, data).kernel == BumpKernel(torus)
    flow, data = KernelFlow(Sphere(2)), Samples(jnp.eye(2))
    assert flow.energy(start(jax.random.key(1), flow, flow.rates, data), flow.rates, data).kernel == ArcCosine()
