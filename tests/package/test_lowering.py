"""Programs lower for GPUs and TPUs on a machine that has none, from shapes alone: nothing in them is for CPUs, and no product is rounded.

`jax.export` refuses a call of a function that the target may not have, such as a callback to Python or a kernel of `jax.ffi`.
"""

import re

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from dualebm import metrics
from dualebm._internal import blocks, platforms
from dualebm.data import targets
from dualebm.duality_gap import certify
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z import estimate
from dualebm.measures import Samples
from dualebm.methods.dual import Dual, annealing
from dualebm.methods.registry import by_name
from dualebm.spaces import Euclidean
from dualebm.sweeps.placement import Placement
from dualebm.training import sharding, simulate
from tests.package.test_methods import DATA, made

PLATFORMS = ("cuda", "rocm", "tpu")
RUNS = sharding.RUNS, sharding.PARTICLES
N, NEURONS, RECORDS, TESTS = 100_000, 64, 5, 10_000
TEACHER, SCHEDULE = targets.teacher("s14_monomodal"), annealing(400)
DUAL = Dual(TEACHER.space, neurons=NEURONS)


@pytest.fixture(autouse=True, scope="module")
def accelerator():
    """Programs are traced as where the default backend is a GPU. None of another test is used here, and none of these there."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platforms, "kind", lambda: "gpu")
        yield
    jax.clear_caches()


def shape(*lengths, dtype=jnp.float32, over=None):
    return jax.ShapeDtypeStruct(lengths, dtype, sharding=over)


def scalars(rates, *lengths, over=None):
    return jax.tree.map(lambda _: shape(*lengths, over=over), rates)


def key(*lengths, over=None):
    return shape(*lengths, dtype=jax.random.key(0).dtype, over=over)


def exported(function, *arguments):
    """The program of a function for the three platforms, whose products are checked, as text."""
    program = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert program.platforms == PLATFORMS
    text = program.mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products and all("[HIGHEST, HIGHEST]" in line for line in products)
    return program, text


def setup_of(keys, rates, data, measured):
    return simulate.Setup(keys, DUAL, rates, data, measured, 20, SCHEDULE)


def test_a_run_of_the_default_method():
    """A segment from the first state on, with the standard metrics. One block of columns holds all particles of the paper's scale."""

    def run(key, rates, points, test, active):
        setup = setup_of(key, rates, Samples(points), metrics.standard(TEACHER.space, TEACHER.energy, Samples(test)))
        return simulate.intervals(setup, simulate.initial(setup), active)

    arguments = (key(), scalars(DUAL.rates), shape(N, 15), shape(TESTS, 15), shape(RECORDS, dtype=bool))
    program, text = exported(run, *arguments)
    assert program.nr_devices == 1 and text.count("stablehlo.while") == 2  # over records and steps


def test_the_runs_of_a_sweep_are_side_by_side():
    def sweep(keys, rates, points, active):
        setup = setup_of(keys, rates, Samples(points), {"acceptance": metrics.Acceptance()})
        each, common = eqx.partition(setup, eqx.tree_at(lambda s: (s.key, s.rates), jax.tree.map(lambda _: False, setup), (True, True)))
        states = simulate.initial_replicas(each, common)
        return simulate.replicas(each, common, states, active, Placement().side_by_side())

    _, text = exported(sweep, key(256), scalars(DUAL.rates, 256), shape(10_000, 15), shape(RECORDS, dtype=bool))
    assert re.search(rf"tensor<256x({NEURONS}x20000|20000x{NEURONS})xf32>", text)


def test_a_run_over_devices():
    """Two runs side by side, the particles of each on four devices that this machine does not have; a step gathers once."""
    mesh = AbstractMesh((2, 4), RUNS)
    over = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731

    def run(keys, rates, points, active):
        setup = setup_of(keys, rates, Samples(points), {})
        return sharding.intervals(setup, sharding.initial(setup, mesh, True), active, mesh, (True, True))

    each, points = over("runs"), shape(N, 15, over=over("particles"))
    arguments = (key(2, over=each), scalars(DUAL.rates, 2, over=each), points, shape(RECORDS, dtype=bool, over=over()))
    program, text = exported(run, *arguments)
    assert program.nr_devices == 8 and "stablehlo.all_gather" in text


@pytest.mark.parametrize("name", by_name())
def test_a_step_of_every_method(name):
    method = made(name, renewal=None)  # annealing is below
    data = Samples(DATA.points[:2, :2]) if name == "mean_field" else DATA
    rates = scalars(method.rates)
    state = jax.eval_shape(method.init, key(), rates, data)
    exported(method.step, key(), state, rates, Samples(shape(*data.points.shape)))


def test_log_z_and_the_certificate():
    """By draws of the base measure and by annealing; the certificate with samples that it draws."""
    space = Euclidean(3)
    feature = ReLU(bias=True)

    def all_of_them(key, positions, coefficients, points):
        energy = Shallow(feature, positions, coefficients)
        drawn = estimate._sampled(key, energy, space, estimate.BLOCK)
        annealed = estimate._annealed(key, energy, space, estimate.CHAINS)
        return drawn, annealed, certify(key, energy, space, Samples(points), 5.0)

    exported(all_of_them, key(), shape(64, 4), shape(64), shape(1000, 3))


CALLS = {
    "to Python": lambda x: jax.pure_callback(lambda x: 2 * x, shape(3, 3), x),
    "of a kernel": lambda x: jax.ffi.ffi_call("a_kernel", shape(3, 3))(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_target_may_not_have_is_noticed(name):
    with pytest.raises((ValueError, NotImplementedError), match=r"custom call|python_callback"):
        exported(lambda x: blocks.product(CALLS[name](x), x), shape(3, 3))


def test_a_rounded_product_is_noticed():
    with pytest.raises(AssertionError):
        exported(lambda x: x @ x, shape(3, 3))
