"""Do the intervals of log Z cover? Estimates beside energies whose log Z is known, and beside rivals at equal work.

    python -m benchmarks.log_z
    python -m benchmarks.log_z --parts coverage --only "teacher on S^2" --repetitions 200

It prints one table for each part. With `--json` numbers are written as they come, and a second call goes on with what is missing.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.known_log_z import KNOWN, Known, correlated, funnel, machine, mixture_of_40
from dualebm._internal import checks
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.flows import jarzynski
from dualebm.log_z import estimate, quadrature, tempering
from dualebm.log_z.annealing import log_partition_by_sampling
from dualebm.log_z.temperatures import MOVES, PILOTS, TURNS, choose_path
from dualebm.methods.audited import Audited
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED, Jarzynski
from dualebm.methods.weighted_dual import WeightedDual

DRAWS, PARTICLES = 2**14, 2**13
"""The numbers of draws of the base measure and of tempered particles, small so that 2000 repetitions take minutes."""

CHUNK = 100
"""The number of repetitions between two writes of the numbers."""

PARTS = ("coverage", "training", "bounds", "variants", "rivals")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    parts: tuple[str, ...] = PARTS
    """Any of coverage, training, bounds, variants, rivals."""
    only: tuple[str, ...] = ()
    """Names of energies of `known_log_z.KNOWN`; all of them when absent."""
    repetitions: int = 2000
    """The number of repetitions of coverage; the other parts have fewer."""
    json: Path | None = None
    """Where numbers are written and read again."""


# ---- estimates of one energy, (log Z, standard error, trusted) ---------------------------------------------


def by_draws(known: Known, mean_energy: float) -> Callable:
    """Returns the estimate by draws of the base measure, trusted as `estimate_log_partition` trusts it."""

    def one(key):
        value, error, size = log_partition_by_sampling(key, known.energy, known.space, DRAWS)
        enough = -mean_energy - value + estimate.MARGIN <= math.log(DRAWS)
        return jnp.stack([value, error, (enough & (size >= estimate.SMALLEST_SAMPLE)).astype(value.dtype)])

    return one


def by_tempering(known: Known, count: int = PARTICLES) -> Callable:
    """Returns the estimate by tempered islands, trusted as `estimate_log_partition` trusts it."""

    def one(key):
        found = tempering.log_partition_by_tempering(key, known.energy, known.space, count)
        trusted = (found.effective_sample_size >= estimate.SMALLEST_SAMPLE) & (found.spread <= estimate.LARGEST_SPREAD)
        return jnp.stack([found.value, found.standard_error, trusted.astype(found.value.dtype)])

    return one


def repeated(one: Callable, repetitions: int, kept: dict, name: str, write: Callable) -> np.ndarray:
    """Returns the results of repetitions under keys of their own, chunk by chunk; those that `kept` holds already are not made again."""
    program = jax.jit(lambda keys: jax.lax.map(one, keys))
    rows = kept.setdefault(name, [])
    while len(rows) < repetitions:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(7), len(rows)), CHUNK)
        rows.extend(np.asarray(program(keys), np.float64).tolist())
        write()
    return np.asarray(rows[:repetitions])


def summary(found: np.ndarray, exact) -> list[str]:
    """Returns the share that is trusted, the coverage among these, and their median |error| and standard error."""
    value, error, trusted = found[:, :3].T
    good = trusted > 0
    if not good.any():
        return [f"{np.mean(good):.1%}", "", f"{np.median(np.abs(value - exact)):.4f}", f"{np.median(error):.4f}"]
    off = np.abs(value - exact)[good]
    return [f"{np.mean(good):.1%}", f"{np.mean(off <= 1.96 * error[good]):.1%}", f"{np.median(off):.4f}", f"{np.median(error[good]):.4f}"]


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a markdown table."""
    for row in (header, ["---", *["--:"] * (len(header) - 1)], *rows):
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)


# ---- the parts -------------------------------------------------------------------------------------------


def coverage(settings: Settings, kept: dict, write: Callable) -> None:
    """Prints how often intervals cover log Z."""
    rows = []
    for name in settings.only or KNOWN:
        known = KNOWN[name]()
        mean_energy = mean_energy_of(known)
        for method, one in (("draws", by_draws(known, mean_energy)), ("tempering", by_tempering(known))):
            found = repeated(one, settings.repetitions, kept, f"{name}: {method}", write)
            rows.append([name, method, *summary(found, known.log_partition)])
            print("; ".join(rows[-1]), file=sys.stderr, flush=True)
    table(["energy", "estimate", "trusted", "coverage of 95%", "median \\|error\\|", "median standard error"], rows)


def mean_energy_of(known: Known) -> float:
    """Returns the mean energy of the model by exact samples, or by tempered particles where there are none."""
    if known.sample is not None:
        return float(jnp.mean(known.energy(known.sample(jax.random.key(11), 2**14))))
    path = choose_path(jax.random.key(11), known.energy, known.space)
    islands = tempering.follow(jax.random.key(12), known.energy, known.space, path, 2**14)
    return float(jax.nn.softmax(islands.log_weights) @ known.energy(islands.points))


def training(settings: Settings, kept: dict, write: Callable) -> None:
    """Prints how often log Z along training is covered: by particles that the training does not see, and by its own."""
    teacher = targets.teacher("s2_bimodal")
    data, cloud = targets.sample(jax.random.key(0), teacher, 500)[0], teacher.quadrature(nodes=50)
    dual = Dual(teacher.space, neurons=8, particles=500)
    network = Jarzynski(teacher.space, MLP(8), walkers=500, integrator="mala", **FIXED)
    methods = {
        "Audited(Dual)": (Audited(dual, walkers=500, moves=2), dual.rates, 1),
        "Audited(Jarzynski)": (Audited(network, walkers=500, moves=2), network.rates._replace(learning_rate=0.01), 1),
        "WeightedDual, its own particles": (WeightedDual(teacher.space, neurons=8, particles=500), None, 10),
        "Jarzynski, its own particles": (network, network.rates._replace(learning_rate=0.01), 10),
    }
    rows = []
    for name, (method, rates, part) in methods.items():
        rates = method.rates if rates is None else rates

        def one(key, method=method, rates=rates):
            state = method.init(key, rates, data)
            state = jax.lax.fori_loop(0, 50, lambda i, s: method.step(jax.random.fold_in(key, i), s, rates, data)[0], state)
            value, error = jarzynski.log_partition(state.weights)
            exact = quadrature.log_partition(method.energy(state, rates, data), cloud)
            trusted = jarzynski.families(state.weights) >= jarzynski.FEW_FAMILIES
            return jnp.stack([value - exact, error, trusted.astype(value.dtype)])

        found = repeated(one, settings.repetitions // part, kept, f"training: {name}", write)
        rows.append([name, *summary(found, 0.0), f"{np.mean(found[:, 0]):+.4f}"])
    table(["particles", "trusted", "coverage of 95%", "median \\|error\\|", "median standard error", "mean error"], rows)


def bounds(settings: Settings, kept: dict, write: Callable) -> None:
    """Prints bounds of log Z in expectation, less log Z."""
    rows = []
    for name in settings.only or KNOWN:
        known = KNOWN[name]()
        if known.sample is None:
            continue

        points = known.sample(jax.random.key(5), 2**12)
        path = jax.jit(lambda key, known=known: choose_path(key, known.energy, known.space))(jax.random.key(3))
        program = jax.jit(lambda key, path, x, known=known: tempering.bounds(key, known.energy, known.space, path, x))
        found = program(jax.random.key(4), path, points)
        lower, upper = float(found.lower) - known.log_partition, float(found.upper) - known.log_partition
        rows.append([name, f"{lower:+.4f} +- {found.lower_error:.4f}", f"{upper:+.4f} +- {found.upper_error:.4f}", f"{int(path.length)}"])
        print("; ".join(rows[-1]), file=sys.stderr, flush=True)
    table(["energy", "lower bound less log Z", "upper bound less log Z", "temperatures"], rows)


def variants(settings: Settings, kept: dict, write: Callable) -> None:
    """Prints the error of systematic and waste-free islands that make about as many moves."""
    rows, each = [], min(settings.repetitions, 200)
    for name, make in (("correlated normal, d = 20", correlated), ("Boltzmann machine", machine)):
        known = make()
        path = jax.jit(lambda key, known=known: choose_path(key, known.energy, known.space))(jax.random.key(3))
        for label, count, options in (
            ("systematic, 4 moves", 2048, dict(moves=4)), ("systematic, 8 moves", 1024, dict(moves=8)),
            ("waste-free, 4 states", 10_240, dict(kept=4)), ("waste-free, 8 states", 9216, dict(kept=8)),
        ):  # fmt: skip

            def one(key, known=known, path=path, count=count, options=options):
                found = tempering.estimate(tempering.follow(key, known.energy, known.space, path, count, **options))
                return jnp.stack([found.value, found.standard_error, jnp.ones(())])

            found = repeated(one, each, kept, f"variants: {name}, {label}", write)
            work = count * options["moves"] if "moves" in options else count * (options["kept"] - 1) // options["kept"]
            error = np.sqrt(np.mean((found[:, 0] - known.log_partition) ** 2))
            rows.append([name, label, f"{work:,}", f"{error:.4f}", f"{np.mean(found[:, 1]):.4f}"])
    table(["energy", "islands", "moves at each temperature", "root mean square error", "mean standard error"], rows)


def rivals(settings: Settings, kept: dict, write: Callable) -> None:
    """Prints the error of 20 runs on the mixture of 40 and the funnel, beside adaptive tempered SMC of blackjax."""
    rows = []
    for name, known, count in (
        ("mixture of 40, base N(0, 20^2)", mixture_of_40(), 2**14),
        ("funnel, base N(0, 1)", funnel(1.0), 2**14),
        ("funnel, base N(0, 3^2)", funnel(3.0), 2**14),
        ("funnel of deviation 1, base N(0, 1)", funnel(1.0, 1.0), 2**14),
    ):

        def ours(key, known=known, count=count):
            path_key, follow_key = jax.random.split(key)
            path = choose_path(path_key, known.energy, known.space)
            found = tempering.estimate(tempering.follow(follow_key, known.energy, known.space, path, count))
            trusted = (found.effective_sample_size >= estimate.SMALLEST_SAMPLE) & (found.spread <= estimate.LARGEST_SPREAD)
            moves = path.length * (count * MOVES + PILOTS * TURNS * -(-MOVES // TURNS))
            last = path.steps[path.length - 1]
            return jnp.stack([found.value, found.standard_error, trusted, moves, last])

        start = time.perf_counter()
        found = _runs(ours, kept, f"rivals: {name}, dualebm", write)
        rows.append([name, "dualebm", *_errors(found, known), f"{np.mean(found[:, 2]):.0%}", f"{time.perf_counter() - start:.0f}"])
        print("; ".join(rows[-1]), file=sys.stderr, flush=True)
        budget = float(np.mean(found[:, 3]))
        start = time.perf_counter()
        peer = _runs(blackjax_smc(known, count), kept, f"rivals: {name}, blackjax", write)
        rows.append([name, "blackjax", *_errors(peer, known), "", f"{time.perf_counter() - start:.0f}"])
        print("; ".join(rows[-1]), f"our moves {budget:.3g}", file=sys.stderr, flush=True)
    table(["energy", "program", "median \\|error\\|", "mean error", "moves", "trusted", "seconds of 20 runs"], rows)


def _runs(one, kept, name, write):
    """Returns the results of 20 runs."""
    if name not in kept:
        kept[name] = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(9), 20)), np.float64).tolist()
        write()
    return np.asarray(kept[name])


def _errors(found, known):
    off = found[:, 0] - known.log_partition
    return [f"{np.median(np.abs(off)):.3f}", f"{np.mean(off):+.3f}", f"{np.mean(found[:, 3]):,.0f}"]


def blackjax_smc(known: Known, count: int) -> Callable:
    """Returns log Z by adaptive tempered SMC of blackjax, with MALA of our number of moves, effective fraction and last step."""
    import blackjax
    from blackjax.smc import resampling
    from blackjax.smc.solver import dichotomy

    def one(key):
        path_key, start_key, run_key = jax.random.split(key, 3)
        path = choose_path(path_key, known.energy, known.space)  # whose last step size is that of all temperatures
        log_prior = lambda x: known.space.log_base(x[None])[0]  # noqa: E731
        log_likelihood = lambda x: -known.energy(x[None])[0]  # noqa: E731
        kernel = blackjax.mala.build_kernel()
        step = path.steps[path.length - 1] * jnp.mean(jnp.diagonal(path.roots[path.length - 1])) ** 2
        smc = blackjax.adaptive_tempered_smc(
            log_prior, log_likelihood, kernel, blackjax.mala.init, dict(step_size=step[None]), resampling.systematic,
            0.7, dichotomy, MOVES,
        )  # fmt: skip
        state = smc.init(known.space.sample_base(start_key, count, jnp.float32))
        temperature = lambda state: state.tempering_param if hasattr(state, "tempering_param") else state.lmbda  # noqa: E731

        def advance(carry):
            k, state, log_z = carry
            state, info = smc.step(jax.random.fold_in(run_key, k), state)
            return k + 1, state, log_z + info.log_likelihood_increment

        go_on = lambda carry: (temperature(carry[1]) < 1) & (carry[0] < 500)  # noqa: E731
        k, _, log_z = jax.lax.while_loop(go_on, advance, (0, state, jnp.zeros(())))
        return jnp.stack([log_z, jnp.nan, 0.0, k * count * MOVES, step])

    return one


# ---- the suite -------------------------------------------------------------------------------------------


def main(settings: Settings) -> None:
    """Runs the parts, prints their tables and writes their numbers.

    Raises ValueError naming the argument, its value and what is allowed, before anything runs.
    """
    for part in settings.parts:
        checks.choice("parts", part, PARTS)
    for name in settings.only:
        checks.choice("only", name, KNOWN)
    checks.count("repetitions", settings.repetitions, CHUNK)
    kept = json.loads(settings.json.read_text()) if settings.json is not None and settings.json.exists() else {}

    def write():
        if settings.json is not None:
            settings.json.write_text(json.dumps(kept))

    for part in settings.parts:
        print(f"## {part}\n", flush=True)
        globals()[part](settings, kept, write)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
