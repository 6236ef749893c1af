"""Runs over many devices: over the mesh axis `runs`, with the particles and data of each run over the axis `particles`.

Particles i and i + N/2 share their noise, so a device holds whole pairs. A split state has its particles as an array of
shape (d, 2, N/2) in place of (d, N). `split` makes it and `join` inverts it. The devices of a run hold equal parts of
the last axis, and each holds all atoms. An iteration gathers once: each device's part of the witness. The noise of a
pair does not depend on the device that holds it, so a run differs from the same run on one device only by rounding. A
restart at data also gathers the data when it draws them or when N is not 2n. A metric gathers what it reads.
"""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dualebm._internal import blocks, checks, collectives, platforms
from dualebm.measures import Samples
from dualebm.training import simulate

RUNS, PARTICLES = "runs", collectives.PARTICLES


def make(devices: int | None = None, particles: int = 1) -> Mesh:
    """Return a mesh with the axes (`runs`, `particles`).

    Args:
        devices: The number of devices, the first of those that JAX lists; None for all.
        particles: The number of devices that share the particles of each run.

    Returns:
        The mesh, of shape (devices / particles, particles).

    Raises:
        ValueError: When there are fewer devices, or `particles` does not divide their number.

    >>> dict(make(1).shape)
    {'runs': 1, 'particles': 1}
    """
    available = jax.devices()  # ordered by process
    if devices is None:
        devices = len(available)
    checks.count("devices", devices)
    checks.count("particles", particles)
    if devices > len(available):
        raise ValueError(f"devices is {devices}; it must be at most {len(available)}, the number of {available[0].platform} devices")
    if devices % particles:
        raise ValueError(f"particles is {particles}; it must divide devices, which is {devices}")
    shape = (devices // particles, particles)
    return Mesh(np.asarray(available[:devices]).reshape(shape), (RUNS, PARTICLES), axis_types=(AxisType.Auto,) * 2)


def check(mesh: Mesh | AbstractMesh, method, states, data: Samples) -> None:
    """Check that states and data can be distributed over a mesh.

    Args:
        mesh: The mesh.
        method: The method of the runs.
        states: A stack of split states (see `split`), or their shapes.
        data: The data of a run, (n, d), or of a stack of runs, (runs, n, d).

    Raises:
        ValueError: When the number of runs is not a multiple of the length of the mesh axis `runs`, or the number of pairs of
            particles or of data points is not a multiple of the length of the mesh axis `particles`.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jax.numpy.eye(3))
    >>> init = jax.vmap(lambda key: split(method, method.init(key, method.rates, data)))
    >>> states = jax.eval_shape(init, jax.random.split(jax.random.key(1), 1))
    >>> check(AbstractMesh((1, 2), (RUNS, PARTICLES)), method, states, data)
    Traceback (most recent call last):
    ...
    ValueError: a state has 6 particles; it must be a multiple of 4, whole pairs for each of 2 devices
    """
    runs, parts = mesh.shape[RUNS], mesh.shape[PARTICLES]
    count = jax.tree.leaves(states)[0].shape[0]
    if count % runs:
        raise ValueError(f"there are {count} runs; it must be a multiple of the mesh's runs, which are {runs}")
    pairs = {x.shape[-1] for paired, x in zip(*map(jax.tree.leaves, (method.paired(states), states)), strict=True) if paired}
    for half in sorted(pairs):
        if half % parts:
            allowed = f"it must be a multiple of {2 * parts}, whole pairs for each of {parts} devices"
            raise ValueError(f"a state has {2 * half} particles; {allowed}")
    points = data.points.shape[-2]
    if points % parts:
        raise ValueError(f"data has {points} points; it must be a multiple of the mesh's particles, which are {parts}")


def split(method, state):
    """Return a split state, with its particles (..., d, N) reshaped to (..., d, 2, N/2).

    Particles i and i + N/2 are a pair. The last axis counts pairs, so that devices can share it.

    Args:
        method: the method, whose `paired` says which arrays hold particles.
        state: a state, or a stack of states.

    Returns:
        The split state.

    Raises:
        ValueError: N is odd, or the method does not have `paired`.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3), neurons=8)
    >>> state = simulate.start(jax.random.key(1), method, method.rates, Samples(jax.numpy.eye(3)))
    >>> split(method, state).columns.shape, join(method, split(method, state)).columns.shape
    ((3, 2, 3), (3, 6))
    """
    if method.paired(state) is None:
        raise ValueError(f"method is {method}; it has no `paired`, so its particles cannot be split over devices")

    def halves(x):
        if x.shape[-1] % 2:
            raise ValueError(f"a state has {x.shape[-1]} particles; it must be an even number to be split into pairs")
        return x.reshape(*x.shape[:-1], 2, -1)

    return jax.tree.map(lambda paired, x: halves(x) if paired else x, method.paired(state), state)


def join(method, state):
    """Return the state, or the stack of states, that `split` got: its particles are (..., d, N) again.

    Args:
        method: the method.
        state: the split state.

    Returns:
        The state.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3), neurons=8)
    >>> state = simulate.start(jax.random.key(1), method, method.rates, Samples(jax.numpy.eye(3)))
    >>> bool((join(method, split(method, state)).columns == state.columns).all())
    True
    """
    return jax.tree.map(lambda paired, x: x.reshape(*x.shape[:-2], -1) if paired else x, method.paired(state), state)


def _state_specs(method, states):
    """Return specs with the runs over the axis `runs`, and the particles over the axis `particles`."""

    def spec(paired, x):
        return PartitionSpec(RUNS, *[None] * (len(x.shape) - 2), PARTICLES) if paired else PartitionSpec(RUNS)

    return jax.tree.map(spec, method.paired(states), states)


def shardings(mesh: Mesh, method, states):
    """Return the sharding of each array of a stack of split states.

    Args:
        mesh: The mesh.
        method: The method of the runs.
        states: A stack of split states (see `split`), or their shapes.

    Returns:
        A pytree of the structure of `states` with a `NamedSharding` for each array.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method = Dual(Sphere(3), neurons=8)
    >>> state = split(method, simulate.start(jax.random.key(1), method, method.rates, Samples(jax.numpy.eye(3))))
    >>> tuple(shardings(make(1), method, jax.tree.map(lambda a: a[None], state)).columns.spec)
    ('runs', None, None, 'particles')
    """
    return jax.tree.map(lambda _, spec: NamedSharding(mesh, spec), states, _state_specs(method, states))


def _data_spec(shared):
    return PartitionSpec(PARTICLES) if shared else PartitionSpec(RUNS, PARTICLES)


def place(mesh: Mesh, method, states, data: Samples, shared: bool = False):
    """Put states and data on the devices of a mesh. No device ever holds more than its part of a NumPy array.

    Args:
        mesh: The mesh.
        method: The method of the runs.
        states: A stack of split states.
        data: The data, (n, d) where they are `shared`, else (runs, n, d).
        shared: Whether all runs have the same data.

    Returns:
        The states and the data.

    Raises:
        ValueError: When they do not fit the mesh (see `check`).

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jax.numpy.eye(3))
    >>> state = split(method, simulate.start(jax.random.key(1), method, method.rates, data))
    >>> states, data = place(make(1), method, jax.tree.map(lambda a: a[None], state), data, shared=True)
    >>> tuple(states.columns.sharding.spec), tuple(data.points.sharding.spec)
    (('runs', None, None, 'particles'), ('particles',))
    """
    check(mesh, method, states, data)
    return jax.device_put(states, shardings(mesh, method, states)), place_data(mesh, data, shared)


def place_data(mesh: Mesh, data: Samples, shared: bool = False) -> Samples:
    """Put data on the devices of a mesh.

    The mesh may have devices of several processes. Each process then passes the whole data.

    Args:
        mesh: The mesh.
        data: The data, (n, d) where they are `shared`, else (runs, n, d).
        shared: Whether all runs have the same data.

    Returns:
        The data.

    >>> place_data(make(1), Samples(jax.numpy.eye(3)), shared=True).points.shape
    (3, 3)
    """
    sharding = NamedSharding(mesh, _data_spec(shared))
    if sharding.is_fully_addressable:
        return jax.tree.map(lambda x: jax.device_put(x, sharding), data)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x[index])), data)


def _each_run(run, stacks):
    """Apply `run` to each run of this device, in turn or side by side (see `platforms.Choices`)."""
    if jax.tree.leaves(stacks)[0].shape[0] == 1:
        return jax.tree.map(lambda a: a[None], run(*jax.tree.map(lambda a: a[0], stacks)))
    if platforms.choices().runs_in_turn:
        return jax.lax.map(lambda arguments: run(*arguments), stacks)
    return jax.vmap(run)(*stacks)


@eqx.filter_jit
def initial(setup: simulate.Setup, mesh: Mesh | AbstractMesh, shared: bool = False):
    """Return the initial states of a stack of runs: stacked, split, and on their devices.

    They are the states of `simulate.initial`. Each device makes the whole state of a run from all of its data, and
    keeps its part.

    Args:
        setup: The runs. Its keys and rates have a leading axis of runs, and so have its data unless they are `shared`.
        mesh: The mesh.
        shared: Whether all runs have the same data.

    Returns:
        The stack of split states (see `split`).

    Raises:
        ValueError: When the method has no `paired`, the number of particles is odd, or states or data do not fit the mesh.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jax.numpy.eye(3))
    >>> rates = jax.tree.map(lambda rate: np.full(2, rate, "float32"), method.rates)
    >>> setup = simulate.Setup(jax.random.split(jax.random.key(1), 2), method, rates, data, {}, 2)
    >>> initial(setup, make(1), shared=True).columns.shape
    (2, 3, 2, 3)
    """

    method, keys, rates, data = setup.method, setup.key, setup.rates, setup.data

    def state(key, rates, data):
        return split(method, simulate.initial(dataclasses.replace(setup, key=key, rates=rates, data=data)))

    def stack(keys, rates, data):
        return jax.vmap(state, in_axes=(0, 0, None if shared else 0))(keys, rates, data)

    shapes = jax.eval_shape(stack, keys, rates, data)
    check(mesh, method, shapes, data)

    def part(paired, x):
        if not paired:
            return x
        width = x.shape[-1] // mesh.shape[PARTICLES]
        return blocks.take(x, jax.lax.axis_index(PARTICLES) * width, width)

    def run(key, rates, data):
        all_data = collectives.whole(data)
        made = collectives.undivided(lambda: state(key, rates, all_data))
        return jax.tree.map(part, method.paired(made), made)

    def local(keys, rates, data):
        if shared:
            return _each_run(lambda key, rates: run(key, rates, data), (keys, rates))
        return _each_run(run, (keys, rates, data))

    runs = PartitionSpec(RUNS)
    specs = (runs, runs, _data_spec(shared))
    made = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_state_specs(method, shapes), check_vma=False)
    return made(keys, rates, data)


def intervals(setup: simulate.Setup, states, active, mesh: Mesh | AbstractMesh, shared: tuple[bool, bool] = (False, False)):
    """Advance a stack of runs over the devices of a mesh by a segment, which is a number of recording intervals.

    An interval has `setup.every` iterations and ends with a record (see `simulate.intervals`). The function is pure.
    `run_intervals` is its compiled form. Metrics see all particles and data of their run. XLA drops the gathers that no
    metric reads.

    Args:
        setup: The runs. Its keys and rates have a leading axis of runs. So have its data and the arrays in its metrics,
            unless they are `shared`.
        states: The states of the runs at the start of the segment, with a leading axis of runs and with particles
            (runs, d, 2, N/2) (see `split`). The number of runs is a multiple of the length of the mesh axis `runs`. A single
            run is a stack of one.
        active: For each interval of the segment whether its iterations are done, (intervals,), bool, the same for all runs.
            An interval that is not active does no iterations and only makes its record.
        mesh: The mesh.
        shared: Two values: whether all runs have the same data, and whether they have the same metrics.

    Returns:
        The states after the segment, split like `states`, and for each name the records, (runs, intervals, ...).

    Raises:
        ValueError: When states or data do not fit the mesh (see `check`).

    >>> from dualebm.methods.dual import Dual; from dualebm.metrics import Acceptance; from dualebm.spaces import Sphere
    >>> method, mesh, keys = Dual(Sphere(3), neurons=8), make(1), jax.random.split(jax.random.key(1), 2)
    >>> data, rates = Samples(jax.numpy.eye(3)), jax.tree.map(lambda rate: np.full(2, rate, "float32"), method.rates)
    >>> setup = simulate.Setup(keys, method, rates, data, {"acceptance": Acceptance()}, 2)
    >>> states = initial(setup, mesh, shared=True)
    >>> run_intervals(setup, states, np.ones(3, bool), mesh, (True, True))[1]["step"].tolist()
    [[2, 4, 6], [2, 4, 6]]
    """
    method, keys, rates, data = setup.method, setup.key, setup.rates, setup.data
    check(mesh, method, states, data)
    axis = PARTICLES if mesh.shape[PARTICLES] > 1 else None
    arrays, static = eqx.partition(setup.metrics, eqx.is_array)

    def whole(state, data):
        if axis is None:
            return state, data
        last = lambda paired, x: jax.lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True) if paired else x  # noqa: E731
        state = join(method, jax.tree.map(last, method.paired(state), split(method, state)))
        return state, collectives.whole(data)

    def local(active, keys, states, rates, data, arrays):
        def run(key, state, rates, data_of_run, arrays_of_run):
            metrics = eqx.combine(arrays if shared[1] else arrays_of_run, static)
            run_data = data if shared[0] else data_of_run
            one = dataclasses.replace(setup, key=key, rates=rates, data=run_data, metrics=metrics)
            state, _, records = simulate.intervals(one, join(method, state), active, whole)
            return split(method, state), records

        return _each_run(run, (keys, states, rates, None if shared[0] else data, None if shared[1] else arrays))

    runs, everywhere = PartitionSpec(RUNS), PartitionSpec()
    state_specs = _state_specs(method, states)
    specs = (everywhere, runs, state_specs, runs, _data_spec(shared[0]), everywhere if shared[1] else runs)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(state_specs, runs), check_vma=False)
    return sharded(active, keys, states, rates, data, arrays)


run_intervals = eqx.filter_jit(intervals)
"""`intervals` compiled. The arrays in its arguments, also in metrics, are traced. The other values are static."""
