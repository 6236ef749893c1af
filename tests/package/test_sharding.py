"""Runs and particles over a mesh of several devices, which a process of its own has, against `simulate` on one device."""

import dataclasses
import re
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from dualebm.energies.networks import MLP
from dualebm.measures import Samples, shares, total_variation
from dualebm.methods.adaptive import Adaptive
from dualebm.methods.audited import Audited
from dualebm.methods.base import Info
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual, DualRates
from dualebm.methods.jarzynski import FIXED, Jarzynski, algorithm_1
from dualebm.methods.score_matching import ScoreMatching
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.spaces import Sphere
from dualebm.training import sharding, simulate
from dualebm.training.prepare import initial_state
from tests.children import Child

DUAL = Dual(Sphere(3), neurons=8)
EVERY, RECORDS = 20, 5
CASES = {  # method, restart probability, weighted data, numbers of devices
    "default": (DUAL, 0.02, False, (1, 2, 8)),
    "program": (
        dataclasses.replace(DUAL, integrator="projected", restart_every=7, restart_until=80, block=256), 0.0, False, (2,),
    ),
    "text, 150 pairs on each device": (
        dataclasses.replace(
            DUAL, integrator="projected", noise="independent", particles=2400, restart_every=7, witness_particles="current"
        ), 0.02, False, (8,),
    ),
    "several moves": (
        dataclasses.replace(DUAL, noise="orthogonal", witness_particles="current", particle_moves=2, neuron_moves=2),
        0.0, False, (4,),
    ),
    "adaptive, batches of weighted data": (
        Adaptive(dataclasses.replace(DUAL, particles=2400, data_batch=50, data_refresh=7), warmup=60, safety=0.05, sample=700),
        0.02, True, (4,),
    ),
    "jarzynski, batches, resampled": (
        algorithm_1(Sphere(3), MLP(8), walkers=2048, walker_batch=512, data_batch=100, optimiser="momentum"), 0.0, False, (8,),
    ),
    "jarzynski, all walkers, multinomial": (
        algorithm_1(Sphere(3), MLP(8), walkers=1024, resampling="multinomial", optimiser="gradient"), 0.0, True, (4,),
    ),
    "contrastive": (Contrastive(Sphere(3), MLP(8), restart_every=7, optimiser="gradient", **FIXED), 0.0, False, (8,)),
    "contrastive, told": (
        Contrastive(Sphere(3), MLP(8), walkers=2400, begin="model", diagnosis=True, integrator="geodesic", optimiser="gradient", **FIXED),
        0.0, False, (4,),
    ),
    "contrastive, from the base": (
        Contrastive(Sphere(3), MLP(8), walkers=2400, restart_at="base", optimiser="gradient", **FIXED), 0.1, False, (4,),
    ),
    "audited": (Audited(DUAL, walkers=2400, threshold=1.0), 0.0, False, (8,)),
    "jarzynski, adapted and renewed": (
        Jarzynski(Sphere(3), MLP(8), walkers=1024, walker_batch=512, optimiser="gradient", renewal=30), 0.0, False, (4,),
    ),
    "weighted dual, renewed": (WeightedDual(Sphere(3), neurons=8, particles=2400, renewal=30), 0.0, False, (8,)),
    "weighted dual": (WeightedDual(Sphere(3), neurons=8, particles=2400), 0.0, False, (8,)),
}  # fmt: skip


def everything(key, iterate):
    """Reads every particle and data point in its place."""
    del key
    points, log_weights = iterate.data
    weights = 0 if log_weights is None else jnp.sum(shares(log_weights) * jnp.arange(log_weights.size))
    by_place = [jnp.sum(x * jnp.cos(jnp.arange(x.shape[0]))[:, None], axis=0) for x in (iterate.samples.points, points)]
    return jnp.stack(by_place) + weights


METRICS = {"everything": everything, "acceptance": lambda key, iterate: iterate.info.acceptance}
NONE = {"total_variation": lambda key, iterate: total_variation(iterate.state.atoms)}


def samples(weighted=False, count=2048, seed=0, dtype=float):
    points = Sphere(3).sample_base(jax.random.key(seed), count, dtype)
    return Samples(points, jnp.linspace(-3, 3, count) if weighted else None)


def stacked(rates, count=1):
    return jax.tree.map(lambda rate: jnp.full(count, rate), rates)


def one(tree, i=0):
    return jax.tree.map(lambda a: a[i], tree)


def on_one_device(key, method, state, rates, data, records=RECORDS):
    """The final state with the records, from `simulate` as it is without a mesh."""
    return simulate.run_intervals(simulate.Setup(key, method, rates, data, METRICS, EVERY), state, jnp.ones(records, bool))[::2]


def error(a, b):
    """The largest difference."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(np.asarray(a, float) - b).max()), a, b)))


def one_run(name):
    """Errors of a run whose particles are split, by number of devices."""
    method, restart, weighted, counts = CASES[name]
    changes = dict(restart_probability=restart, threshold=1.0, learning_rate=0.01)  # of those that it has
    rates = stacked(method.rates._replace(**{n: v for n, v in changes.items() if n in method.rates._fields}))
    data, key = samples(weighted), jax.random.key(1)
    state = initial_state(key, method, one(rates), data)
    # Its longer moves let rounding grow tenfold in ten steps, on one device too.
    total = 2 if isinstance(method, Adaptive) else RECORDS
    expected, found = on_one_device(key, method, state, one(rates), data, total), {}
    if isinstance(method, (Audited, Jarzynski, WeightedDual)):
        assert int(expected[0].weights.resamplings) > 1
    for count in counts:
        grid = sharding.make(count, particles=count)
        states, there = sharding.place(grid, method, jax.tree.map(lambda a: a[None], sharding.split(method, state)), data, shared=True)
        setup = simulate.Setup(key[None], method, rates, there, METRICS, EVERY)
        states, records = sharding.run_intervals(setup, states, jnp.ones(total, bool), grid, (True, True))
        found[count] = error((one(sharding.join(method, states)), one(records)), expected)
    return found


def eight_runs(dtype=float):
    """Keys, rates and data of eight runs, each with its own."""
    rates = stacked(DUAL.rates, 8)
    rates = DualRates(*(jnp.asarray(rate, dtype) for rate in rates))
    spread = jnp.linspace(0.5, 1, 8, dtype=dtype)
    rates = rates._replace(particle_step=rates.particle_step * spread, restart_probability=jnp.arange(8) % 3 * spread / 20)
    each = [samples(count=512, seed=10 + i, dtype=dtype) for i in range(8)]
    return jax.random.split(jax.random.key(3), 8), rates, jax.tree.map(lambda *a: jnp.stack(a), *each)


def many_runs():
    """Errors of eight runs on 4 x 2 devices that go on, from a checkpoint, on 2 x 4."""
    keys, rates, data = eight_runs()
    state = starts = None
    made = []
    for shape, records in (((4, 2), 2), ((2, 4), 3)):
        grid = sharding.make(8, particles=shape[1])
        if state is None:
            state = sharding.initial(simulate.Setup(keys, DUAL, rates, data, METRICS, EVERY), grid)
            starts = sharding.join(DUAL, state)
            for i in range(8):
                assert error(one(starts, i), initial_state(keys[i], DUAL, one(rates, i), one(data, i))) == 0
        else:
            state = jax.tree.map(np.asarray, sharding.join(DUAL, state))
            state, data = sharding.place(grid, DUAL, sharding.split(DUAL, state), data)
        setup = simulate.Setup(keys, DUAL, rates, data, METRICS, EVERY)
        state, new = sharding.run_intervals(setup, state, jnp.ones(records, bool), grid)
        part = state.columns.addressable_shards[0].data.shape
        assert part == (8 // shape[0], 3, 2, 512 // shape[1]), part
        made.append(new)
    records = jax.tree.map(lambda *a: jnp.concatenate([np.asarray(x) for x in a], axis=1), *made)
    expected = [on_one_device(keys[i], DUAL, one(starts, i), one(rates, i), one(data, i)) for i in range(8)]
    found = [(one(sharding.join(DUAL, state), i), one(records, i)) for i in range(8)]
    return max(error(a, b) for a, b in zip(found, expected, strict=True))


def side_by_side():
    """As on accelerators, in float32: the sums over particles at the end of eight runs, on 2 x 4 devices and on one."""
    keys, rates, data = eight_runs("float32")
    grid = sharding.make(8, particles=4)
    one_by_one, jax.lax.map = jax.lax.map, lambda function, stacks: jax.vmap(function)(stacks)
    try:
        setup = simulate.Setup(keys, DUAL, rates, data, METRICS, EVERY)
        start = sharding.initial(setup, grid)
        state, records = sharding.run_intervals(setup, start, jnp.ones(2, bool), grid)
    finally:
        jax.lax.map = one_by_one
    start = sharding.join(DUAL, start)
    expected = [on_one_device(keys[i], DUAL, one(start, i), one(rates, i), one(data, i), 2)[1] for i in range(8)]
    return {
        "here": [r["everything"][-1].tolist() for r in expected],
        "there": records["everything"][:, -1].tolist(),
        "types": [str(x.dtype) for x in jax.tree.leaves((state.columns, records["everything"]))],
    }


def collectives(compiled):
    return sorted(re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", compiled.as_text()))


def counted():
    """Collectives in a step without restarts, and in the program of a run whose metrics read no particles, or do."""
    grid, data, keys = sharding.make(4, particles=4), samples(), jax.random.split(jax.random.key(1), 1)
    states = sharding.initial(simulate.Setup(keys, DUAL, stacked(DUAL.rates), data, {}, EVERY), grid, shared=True)
    spec = jax.tree.map(
        lambda pairs: PartitionSpec(None, None, "particles") if pairs else PartitionSpec(), DUAL.paired(one(states))
    )

    def step(state, data):
        return sharding.split(DUAL, DUAL.step(jax.random.key(0), sharding.join(DUAL, state), DUAL.rates, data)[0])

    specs = (spec, PartitionSpec("particles"))
    sharded = jax.jit(jax.shard_map(step, mesh=grid, in_specs=specs, out_specs=spec, check_vma=False))

    def run(metrics):
        def never(states, data):  # rates that are constants: XLA sees that there is no restart
            rates = stacked(DUAL.rates)
            schedule = lambda step, rates: DUAL.rates  # noqa: E731
            active = jnp.ones(RECORDS, bool)
            setup = simulate.Setup(keys, DUAL, rates, data, metrics, EVERY, schedule)
            return sharding.intervals(setup, states, active, grid, (True, True))

        return collectives(jax.jit(never).lower(states, data).compile())

    return {"step": collectives(sharded.lower(one(states), data).compile()), "run": run(NONE), "reading": run(METRICS)}


WALKERS = tuple(name for name, case in CASES.items() if isinstance(case[0], (Audited, Jarzynski, Contrastive, WeightedDual)))


def errors_of(*cases):
    warnings.simplefilter("error")
    return {name: one_run(name) for name in cases}


def everything_of(*cases):
    answers: dict = errors_of(*cases) | {"many": many_runs(), "counted": counted()}
    with jax.enable_x64(False):
        answers["float32"] = side_by_side()
    return answers


def answers_of(function, cases):
    """What a process with eight devices and float64 finds."""
    return Child(function, *cases, devices=8, x64=True).answer(600)


@pytest.mark.heavy
@pytest.mark.parametrize("cases", [WALKERS[:1], WALKERS[1:]])
def test_walkers_over_devices(cases):
    """Weights, resampling among all walkers, batches of them, restarts: as on one device, to rounding."""
    answers = answers_of(errors_of, cases)
    for name in cases:
        assert len(answers[name]) == len(CASES[name][3]) and max(answers[name].values()) < 1e-9, (name, answers[name])


@dataclasses.dataclass(frozen=True)
class Still(Dual):
    """What is wrong on one device stays there."""

    def step(self, key, state, rates, data):
        return state, Info(jnp.ones(()))


def test_a_fault_on_one_device_is_a_divergence_on_all():
    method, data = Still(Sphere(3), neurons=8), Samples(jnp.eye(3))
    state = jax.tree.map(np.asarray, simulate.start(jax.random.key(0), method, method.rates, data))
    whole = jax.tree.map(lambda a: np.stack([a] * 3), state)
    broken = whole.columns.copy()
    broken[1, 0, 2] = np.nan

    @partial(jax.vmap, axis_name="particles")
    def code(state):
        setup = simulate.Setup(jax.random.key(1), method, method.rates, data, {}, 2)
        return simulate.interval(setup, state)[2]

    code = jax.jit(code)
    assert code(whole).tolist() == [0, 0, 0] and code(whole._replace(columns=broken)).tolist() == [1, 1, 1]


def shapes(runs, particles):
    def stack(keys):
        data = Samples(jnp.ones((particles // 2, 3)))
        return jax.vmap(lambda key: sharding.split(DUAL, DUAL.init(key, DUAL.rates, data)))(keys)

    return jax.eval_shape(stack, jax.random.split(jax.random.key(0), runs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharding.make(2), "devices is 2; it must be at most 1, the number of cpu devices"),
        (lambda: sharding.make(1, particles=2), "particles is 2; it must divide devices, which is 1"),
        (lambda: sharding.make(0), "devices is 0; it must be an integer of at least 1"),
        (
            lambda: sharding.check(AbstractMesh((4, 2), ("runs", "particles")), DUAL, shapes(6, 8), Samples(jnp.ones((4, 3)))),
            "there are 6 runs; it must be a multiple of the mesh's runs, which are 4",
        ),
        (
            lambda: sharding.check(AbstractMesh((4, 2), ("runs", "particles")), DUAL, shapes(8, 6), Samples(jnp.ones((4, 3)))),
            "a state has 6 particles; it must be a multiple of 4, whole pairs for each of 2 devices",
        ),
        (
            lambda: sharding.check(AbstractMesh((4, 2), ("runs", "particles")), DUAL, shapes(8, 8), Samples(jnp.ones((8, 5, 3)))),
            "data has 5 points; it must be a multiple of the mesh's particles, which are 2",
        ),
        (lambda: sharding.split(ScoreMatching(Sphere(3)), None), "its particles cannot be split over devices"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_an_odd_number_of_particles_has_no_pairs():
    method = dataclasses.replace(DUAL, noise="independent", particles=5)
    with pytest.raises(ValueError, match="a state has 5 particles; it must be an even number"):
        sharding.split(method, simulate.start(jax.random.key(0), method, method.rates, Samples(jnp.eye(3))))
