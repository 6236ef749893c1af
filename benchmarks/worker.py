"""What runs in a process of its own: `python -m benchmarks.worker '{"job": "limit", ...}'` prints one JSON line.

Every job is a function of this file, called with the rest of the object and answering with numbers.
"""

import functools
import json
import math
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import ports
from benchmarks.correctness import correct
from benchmarks.timing import (
    compile_and_warm,
    compiled,
    device_peak,
    float_rates,
    memory_bytes,
    scan_of_steps,
    seconds_of,
    torch_device,
)
from dualebm import metrics
from dualebm._internal import blocks, collectives, random
from dualebm.base_measures import Flat
from dualebm.data import targets
from dualebm.energies.mixture import GaussianMixture, Mixture
from dualebm.flows.noise import drawn
from dualebm.measures import Samples, total_variation
from dualebm.methods import dual, presets
from dualebm.methods.base import Iterate
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import Jarzynski
from dualebm.methods.likelihood import Likelihood
from dualebm.methods.stein import KernelStein, NetworkStein
from dualebm.spaces import Euclidean, Sphere
from dualebm.sweeps import placement
from dualebm.sweeps.placement import Placement
from dualebm.training import sharding
from dualebm.training.simulate import simulate
from dualebm.training.simulate import start as start_of

TEACHER, PLAIN = "s14_monomodal", "plain jax"


# ---- one step, in every implementation ---------------------------------------------------------------------------


def prepare(file, n, neurons, tests):
    """Writes the start that all implementations share: data, the neurons' positions, and test points with their f*."""
    target = targets.teacher(TEACHER)
    data, _ = targets.sample(jax.random.key(0), target, n)
    test, _ = targets.sample(jax.random.key(1), target, tests)
    state = presets.program(target.space, neurons=neurons).init(jax.random.key(2), presets.program_rates(), data)
    arrays = dict(
        data=data.points, positions=state.atoms.positions, test=test.points, reference=target.energy(test.points)
    )
    np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
    return dict(n=n, neurons=neurons, tests=tests)


def eager_program(step, normal, start, count):
    """`count` steps of an eager port; one step is run first, so that the libraries' threads are there."""
    step(*start[:3], start[3], normal())

    def program():
        particles, positions, weights, data = start
        for _ in range(count):
            particles, positions, weights = step(particles, positions, weights, data, normal())
        return particles, positions, weights

    return program


def numpy_program(data, positions, count, dtype):
    """The port in NumPy: whole arrays, BLAS products."""
    generator = np.random.default_rng(3)
    data, positions = data.astype(dtype), positions.astype(dtype)
    start = (np.concatenate([data, data]), positions, np.ones(len(positions), dtype), data)
    step = functools.partial(ports.array_step, np)
    return eager_program(step, lambda: generator.standard_normal(data.shape, dtype), start, count), {}


def torch_program(data, positions, count, inductor):
    """The port in PyTorch, eager or compiled; compiling is the first call. Runs along a first axis of the data are vmapped."""
    import torch  # an optional peer

    where = torch_device()
    torch.manual_seed(3)
    torch.set_grad_enabled(False)
    data, positions = (torch.from_numpy(np.array(array)).to(where) for array in (data, positions))
    start = (torch.cat([data, data], dim=-2), positions, torch.ones(positions.shape[:-1], device=where), data)
    begin = time.perf_counter()
    step = torch.compile(ports.torch_step) if inductor else ports.torch_step
    program = eager_program(torch.vmap(step) if data.ndim == 3 else step, lambda: torch.randn(data.shape, device=where), start, count)

    def until_there():
        end = program()
        if where == "cuda":
            torch.cuda.synchronize()
        return end

    return until_there, dict(compile_seconds=time.perf_counter() - begin) if inductor else {}


def plain_steps(key, start, data, count):
    """`count` steps of the port in JAX, as a scan."""

    def step(state, key):
        return ports.array_step(jnp, *state, data, jax.random.normal(key, data.shape, data.dtype)), None

    return jax.lax.scan(step, start, jax.random.split(key, count))[0]


def plain_program(data, positions, count):
    """The port in JAX on whole (N, d) and (N, m) arrays: one jit of a scan, noise drawn as (N/2, d) and mirrored."""
    data, positions = jnp.asarray(data), jnp.asarray(positions)
    start = (jnp.concatenate([data, data]), positions, jnp.ones(len(positions), data.dtype))

    run = functools.partial(plain_steps, count=count)
    with jax.default_matmul_precision("highest"):  # as all the others; a GPU or a TPU would round
        return compile_and_warm(run, jax.random.key(3), start, data)


def own_program(data, positions, count, integrator):
    """`dualebm`: the program's preset and rates, a scan of `method.step`; its own start is the shared one."""
    method = presets.program(Sphere(data.shape[1]), neurons=len(positions), integrator=integrator)
    rates, data = float_rates(presets.program_rates()), Samples(jnp.asarray(data))
    state, steps = method.init(jax.random.key(2), rates, data), scan_of_steps(method, count)

    def run(key, state, rates, data):
        end = steps(key, state, rates, data)
        return end.particles, end.atoms.positions, jnp.exp(end.atoms.log_weights)

    return compile_and_warm(run, jax.random.key(3), state, rates, data)


PROGRAMS = {
    "numpy float64": functools.partial(numpy_program, dtype=np.float64),
    "numpy float32": functools.partial(numpy_program, dtype=np.float32),
    "torch eager": functools.partial(torch_program, inductor=False),
    "torch.compile": functools.partial(torch_program, inductor=True),
    PLAIN: plain_program,
    "dualebm projected": functools.partial(own_program, integrator="projected"),
    "dualebm MALA": functools.partial(own_program, integrator="mala"),
}
"""Implementations of the step by name: `(data, positions, count) -> (program, what it cost to make it)`."""


def steps(implementation, file, count):
    """Seconds of `count` steps of an implementation, its compile time, its peak memory and its answer."""
    start = np.load(file)
    data, positions = start["data"], start["positions"]
    bytes_each = 8 if implementation == "numpy float64" else 4
    arguments = bytes_each * (3 * data.size + positions.size + len(positions))  # data, particles, positions, weights
    program, cost = PROGRAMS[implementation](data, positions, count)
    del data
    seconds, end = seconds_of(program)
    peak, _ = memory_bytes()  # before the answer is worked out
    on_device = None if implementation.startswith("numpy") else device_peak(implementation.startswith("torch"))
    particles, positions, weights = (np.asarray(a.cpu() if hasattr(a, "cpu") else a, np.float64) for a in end)
    answer = dict(
        kl=ports.divergence(start["test"], start["reference"], positions, weights),
        total_variation=float(weights.mean()),
        particle_mean=float(np.linalg.norm(particles.mean(0))),
    )
    return dict(
        seconds=seconds / count, peak_bytes=peak, device_peak_bytes=on_device, argument_bytes=arguments, answer=answer, **cost
    )  # fmt: skip


# ---- the limit ---------------------------------------------------------------------------------------------------


def normal_generators(pairs, dimension):
    """Ways to draw (d, N/2) threefry normals, components first, by name; another generator is one more entry."""

    def by_blocks(block, key):
        keys = jax.random.split(key, -(-pairs // block))
        return jax.lax.map(lambda k: jax.random.normal(k, (dimension, block), jnp.float32), keys)

    def whole(key):
        return jax.random.normal(key, (dimension, pairs), jnp.float32)

    def own(key):
        number, width, rest = blocks.split(pairs, blocks.block_columns(64))
        grains, last = -(-width // blocks.GRAIN), -(-rest // blocks.GRAIN)
        draw = lambda first, count: random.draw("normal", key, first, count, dimension, jnp.float32)  # noqa: E731
        whole = jax.lax.map(lambda i: draw(i * grains, grains), jnp.arange(number))
        return (whole, draw(number * grains, last)) if rest else whole

    sizes = [
        -(-pairs // count) for count in (400, 100, 25, 10, 4, 2) if count <= pairs
    ]  # so that few are drawn in vain
    return {f"blocks of {b}": functools.partial(by_blocks, b) for b in sizes} | {"whole": whole, "dualebm": own}


MOST_TIMES, PASSES = 20, 16
"""How often a program of `limit` does the same at most, and how often it goes through the memory in place: a new array would cost more."""


def limit(n, neurons, dimension, repetitions, size=4096, length=2**26, fill=0.0):
    """The best float32 matrix rate, the best bandwidth of the memory, and the best time to draw the normals of a step, alone.

    The products of a step: at each of N = 2n particles two for the energy's gradient and two for the witness, two at
    each data point, each of 2 m d operations. What passes through the memory at least: particles and data are read, and particles are
    written. What takes less than `fill` seconds is done several times in one program: a device may take longer to start a program than
    to run it.
    """

    def best(function, first, *arguments, tries=repetitions):
        def seconds(times):
            def program(first, *arguments):
                if times == 1:
                    return function(0, first, *arguments)
                return jax.lax.fori_loop(0, times, lambda i, before: function(i, before, *arguments), first)

            made, _ = compile_and_warm(program, first, *arguments)
            return min(seconds_of(made)[0] for _ in range(tries)) / times

        once = seconds(1)
        times = min(MOST_TIMES, math.ceil(fill / once))
        return seconds(times) if times > 1 else once

    matrix, key = jax.random.normal(jax.random.key(0), (size, size), jnp.float32) / size**0.5, jax.random.key(1)
    rate = 2 * size**3 / best(lambda i, before, matrix: blocks.product(matrix, before), matrix, matrix)
    passes = lambda i, before: jax.lax.fori_loop(0, PASSES, lambda _, x: x + 1, before)  # noqa: E731
    bandwidth = 8 * length * PASSES / best(passes, jnp.zeros(length, jnp.float32))
    draws = {}
    for name, draw in normal_generators(n, dimension).items():
        first = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(draw, key))
        draws[name] = best(lambda i, _, key, draw=draw: draw(jax.random.fold_in(key, i)), first, key, tries=5 * repetitions)
    operations, moved = 2 * neurons * dimension * (4 * 2 * n + 2 * n), 4 * dimension * (2 * 2 * n + n)
    seconds = operations / rate + min(draws.values())
    return dict(
        operations=operations, operations_per_second=rate, normals_seconds=draws, seconds=seconds, bytes=moved, bytes_per_second=bandwidth,
        floor_seconds=max(seconds, moved / bandwidth),
    )  # fmt: skip


# ---- growth, sweeps, time to a divergence ------------------------------------------------------------------------


def grown_steps(n, neurons, dimension, runs, count):
    """Seconds a step of the default method, `runs` of it vmapped, on data uniform on the sphere."""
    space = Sphere(dimension)
    method = dual.Dual(space, neurons=neurons)
    rates = float_rates(method.rates)
    run = scan_of_steps(method, count)
    keys = jax.random.split(jax.random.key(0), runs)
    data = Samples(space.sample_base(jax.random.key(1), n * runs, jnp.float32).reshape(runs, n, dimension))
    if runs == 1:
        keys, data = keys[0], Samples(data.points[0])
        state = method.init(keys, rates, data)
    else:
        state = jax.vmap(method.init, (0, None, 0))(keys, rates, data)
        run = jax.vmap(run, (0, 0, None, 0))
    program, cost = compile_and_warm(run, keys, state, rates, data)
    return dict(seconds=seconds_of(program)[0] / count, peak_bytes=memory_bytes()[0], **cost)


def runs_of(implementation, n, neurons, runs, count):
    """Seconds a step of all of `runs` runs of the authors' update on S^14, each on `n` data points of its own, and their mean answers.

    As many are side by side as a sweep computes side by side on this device.
    """
    space, method = Sphere(15), presets.program(Sphere(15), neurons=neurons)
    rates, batch = float_rates(presets.program_rates()), Placement().side_by_side() or min(runs, placement.MOST_RUNS)
    points = space.sample_base(jax.random.key(1), n * runs, jnp.float32).reshape(runs, n, 15)
    keys = jax.random.split(jax.random.key(0), runs)
    begin = lambda key, points: method.init(key, rates, Samples(points))  # noqa: E731
    if implementation.startswith("torch"):
        positions = jax.jit(jax.vmap(lambda key, points: begin(key, points).atoms.positions))(keys, points)
        parts = [slice(first, first + batch) for first in range(0, runs, batch)]
        programs = [torch_program(points[part], positions[part], count, inductor=implementation == "torch.compile") for part in parts]
        program, cost = lambda: [one() for one, _ in programs], {}
        seconds, ends = seconds_of(program)
        weights = np.concatenate([end[2].cpu() for end in ends])
    else:
        if implementation == PLAIN:

            def one(key, points):
                state = (jnp.concatenate([points, points]), begin(key, points).atoms.positions, jnp.ones(neurons))
                return plain_steps(key, state, points, count)[2]
        else:

            def one(key, points):
                end = scan_of_steps(method, count)(key, begin(key, points), rates, Samples(points))
                return jnp.exp(end.atoms.log_weights)

        with jax.default_matmul_precision("highest"):
            run = lambda keys, points: jax.lax.map(lambda pair: one(*pair), (keys, points), batch_size=batch)  # noqa: E731
            program, cost = compile_and_warm(run, keys, points)
        seconds, weights = seconds_of(program)
    on_device = device_peak(implementation.startswith("torch"))
    answer = dict(total_variation=float(np.mean(np.asarray(weights, np.float64))))
    return dict(seconds=seconds / count, device_peak_bytes=on_device, peak_bytes=memory_bytes()[0], answer=answer, batch=batch, **cost)


def sweep(file, runs, n, first, count, every, batch, devices=1):
    """`runs` runs of the default method with their KL every `every` steps, on data and test points of their own.

    All in one program: `batch` of them vmapped at a time, one batch after the other; 1 is a loop without vmap. So many devices divide
    the runs. Run k, from `first` on, takes rows k n to (k + 1) n of the file's data and test points.
    """
    start = np.load(file)
    target = targets.teacher(TEACHER)
    method = dual.Dual(target.space, neurons=len(start["positions"]))
    rates = float_rates(method.rates)

    def one(key, points, test):
        data = Samples(points)
        init_key, run_key = jax.random.split(key)
        state = method.init(init_key, rates, data)
        kl = metrics.KLDivergence(target.energy, Samples(test))
        counts = dict(steps=count, every=every)
        schedule = dual.annealing()
        state, records = simulate(run_key, method, state, rates, data, **counts, metrics={"kl": kl}, schedule=schedule)
        return records["kl"][-1], total_variation(state.atoms)

    def part(each, common):
        del common
        if batch == runs > 1:
            return jax.vmap(one)(*each)
        size = None if batch == 1 else batch
        return jax.lax.map(lambda run: one(*run), each, batch_size=size)

    def all_of_them(*each):
        return collectives.divided(part, devices, each, ())

    rows = slice(first * n, (first + runs) * n)
    points, tests = (jnp.asarray(start[name][rows].reshape(runs, n, -1)) for name in ("data", "test"))
    keys = jax.random.split(jax.random.key(0), first + runs)[first:]
    program, cost = compiled(all_of_them, keys, points, tests)
    seconds, (kl, variation) = seconds_of(lambda: program(keys, points, tests))
    answer = dict(kl=float(kl.mean()), total_variation=float(variation.mean()))
    return dict(seconds=seconds, answer=answer, peak_bytes=memory_bytes()[0], **cost)


def time_to_kl(file, seed, goal, every, longest):
    """Seconds of steps until KL <= goal, seen every `every` steps of our default with all signs -1; and of it all."""
    begin = time.perf_counter()
    start = np.load(file)
    target = targets.teacher(TEACHER)
    data, test = Samples(jnp.asarray(start["data"])), Samples(jnp.asarray(start["test"]))
    method = dual.Dual(target.space, neurons=len(start["positions"]), signs="all_negative")
    init_key, key = jax.random.split(jax.random.key(seed))
    rates = float_rates(method.rates)
    state = start_of(init_key, method, rates, data)
    monitor = metrics.KLDivergence(target.energy, test)

    def advance(state, data):
        counts = dict(steps=every, every=every)
        return simulate(key, method, state, rates, data, **counts, metrics={}, schedule=dual.annealing())[0]

    def measure(state, data, monitor):
        return monitor(key, Iterate(method, state, rates, data))

    advance, _ = compiled(advance, state, data)
    measure, _ = compiled(measure, state, data, monitor)
    stepping, kl, iterations = 0.0, [], 0
    while iterations < longest and not (kl and kl[-1] <= goal):
        seconds, state = seconds_of(functools.partial(advance, state, data))
        stepping, iterations = stepping + seconds, iterations + every
        kl.append(float(measure(state, data, monitor)))
    whole = time.perf_counter() - begin
    return dict(seconds=stepping, whole_seconds=whole, iterations=iterations, reached=kl[-1] <= goal, kl=kl)


def spread_steps(n, neurons, devices, count):
    """Seconds a step of the default method with its particles and data over so many devices of this machine, and where neurons then are."""
    space, grid = Sphere(15), sharding.make(devices, devices)
    method = dual.Dual(space, neurons=neurons)
    rates = jax.tree.map(lambda rate: rate[None], float_rates(method.rates))
    data = sharding.place_data(grid, Samples(space.sample_base(jax.random.key(1), n, jnp.float32)), shared=True)
    keys, active = jax.random.split(jax.random.key(0), 1), jnp.ones(2, bool)
    setup = simulate.Setup(keys, method, rates, data, {}, count // 2)
    state = sharding.initial(setup, grid, True)
    program = lambda: sharding.run_intervals(setup, state, active, grid, (True, True))  # noqa: E731
    jax.block_until_ready(program())
    seconds, (end, _) = seconds_of(program)
    return dict(seconds=seconds / (count // 2 * 2), neuron=np.asarray(end.atoms.positions[0, 0], float).tolist())


def plain_kernel_stein(points, positions, coefficients, rates):
    """A step of KSD^2, the U-statistic of exp(-|x - y|^2 / 2), by JAX's derivatives of whole n x n arrays."""
    n, d = points.shape

    def loss(w, theta):
        on = (points @ theta.T > 0) * w / w.size
        ambient = on @ theta
        score = -(ambient - jnp.sum(ambient * points, axis=1, keepdims=True) * points) - (d - 1) * points
        t = points @ points.T
        k = jnp.exp(t - 1)
        dots = score @ points.T
        own = jnp.sum(score * points, axis=1)
        u = k * (score @ score.T + own[None] - t * dots.T + own[:, None] - t * dots - t + t**3 + d - 2 + t**2)
        return (jnp.sum(u) - jnp.trace(u)) / n / (n - 1)

    value, (w_slope, theta_slope) = jax.value_and_grad(loss, (0, 1))(coefficients, positions)
    s, rho = rates.learning_rate * w_slope.size, rates.position_rate
    return positions - rho * s * theta_slope, coefficients - s * w_slope, value


def network_steps(implementation, n, neurons, dimension, count):
    """Seconds a step of a method of two-layer networks, the memory that it takes, and how far it has moved the coefficients."""
    space = Sphere(dimension)
    data = Samples(space.sample_base(jax.random.key(1), n, jnp.float32))
    kind, settings = {"likelihood": (Likelihood, {}), "F1 Stein": (NetworkStein, dict(critics=64))}.get(implementation, (KernelStein, {}))
    method = kind(space, neurons=neurons, **settings)
    rates = float_rates(method.rates)
    state = method.init(jax.random.key(0), rates, data)
    if implementation == "kernel Stein, plain jax":

        def run(key, state, rates, data):
            del key

            def step(carry, _):
                positions, coefficients = carry
                return plain_kernel_stein(data.points, positions, coefficients, rates)[:2], None

            start = (state.neurons.positions, state.neurons.coefficients)
            return jax.lax.scan(step, start, length=count)[0][1]
    else:
        whole = scan_of_steps(method, count)

        def run(key, state, rates, data):
            return whole(key, state, rates, data).neurons.coefficients

    program, cost = compile_and_warm(jax.jit(run), jax.random.key(2), state, rates, data)
    seconds, coefficients = seconds_of(program)
    moved = np.asarray(coefficients - state.neurons.coefficients, float).tolist()
    return dict(seconds=seconds / count, answer=moved, peak_bytes=memory_bytes()[0], **cost)


WALKERS, MIXTURE_DIMENSION = 10_000, 50


def mixture_steps():
    """An optimiser of optax with a rate for each field: that of the authors' program of the mixture."""
    rates = {"means": optax.sgd(0.0025), "offsets": optax.sgd(0.0125)}
    return optax.partition(rates, lambda parameters: GaussianMixture("means", "offsets", None))  # type: ignore[arg-type]


def walker_steps(implementation, count):
    """Seconds of a step on the Gaussian mixture of arXiv 2305.19414 (d = 50, n = N = 1e4), of its noise alone, or of its products alone.

    The products are those with the two means, at each walker two for the gradient of the likelihood and two for the energy and the force
    before and after the step of the parameters, and at each data point two.
    """
    d, n = MIXTURE_DIMENSION, WALKERS
    space = Euclidean(d, Flat())
    x = jax.random.normal(jax.random.key(1), (n, d)).at[:, 0].add(jnp.where(jnp.arange(n) < n // 4, -10.0, 6.0))
    data = Samples(x)
    if implementation == "noise":

        def run(key, x):
            def step(i, x):
                halves = drawn(jax.random.fold_in(key, i), d, jnp.float32, "independent")(None, 0, n // 2)
                return x + jnp.concatenate([half.normal for half in halves], axis=1)

            return jax.lax.fori_loop(0, count, step, x)

        arguments = (jax.random.key(2), x.T)
    elif implementation == "products":

        def run(means, x, data):
            product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

            def step(_, means):
                shares = product(means, x)
                gradient = product(shares, x.T) - product(product(means, data), data.T)
                moved = x - product(means.T, shares)
                after = product(means.T, product(means, moved))
                return means + 1e-9 * gradient + 1e-9 * product(shares, after.T)

            return jax.lax.fori_loop(0, count, step, means)

        arguments = (jnp.ones((2, d)), x.T + 0, x.T)
    else:
        common = dict(walkers=n, optimiser=mixture_steps, noise="independent", integrator="geodesic")
        kind = {"Jarzynski": Jarzynski, "PCD": Contrastive}[implementation]
        method = kind(space, Mixture(2), **common)
        rates = float_rates(method.rates._replace(particle_step=0.1))
        state = jax.jit(method.init)(jax.random.key(0), rates, data)
        whole = scan_of_steps(method, count)

        def run(key, state, rates, data):
            return whole(key, state, rates, data).training.arrays.means

        arguments = (jax.random.key(2), state, rates, data)
    program, cost = compile_and_warm(jax.jit(run), *arguments)
    seconds, _ = seconds_of(program)
    return dict(seconds=seconds / count, peak_bytes=memory_bytes()[0], **cost)


JOBS = {
    job.__name__: job
    for job in (prepare, steps, limit, grown_steps, runs_of, sweep, time_to_kl, spread_steps, network_steps, walker_steps, correct)
}
"""The jobs of a process, by name."""


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    if "cores" in task:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.pop("cores")])
    print(json.dumps(JOBS[task.pop("job")](**task)))
