"""Are bad trainings flagged, and good ones not? Many trainings of random settings, on data of known law.

    python -m benchmarks.flags --count 200 --json flags.json
    python -m benchmarks.flags --count 200 --json flags.json --part 0/4

Each configuration is drawn by the printed seed and its number: the method, the dimension, and all its steps and learning rates, each over
two decades around its default. Runs of one dimension have the same data. A run is trained, validated, warned of and checked as
`dualebm fit` does it. It is BAD where it diverges, where the cross-entropy that it says is more than .1 nat from the true one, or where
that of its model is more than .1 nat above the least of its records. It is FLAGGED where it diverges, warns, or says that log Z is not to
be trusted. Cross-entropies of records have log Z by importance sampling by the law of the data, where enough of its draws count. At the
end the true log Z is the larger of two: that, and the estimate of the fit's own kind under another key. Numbers are written as they come,
and a second call goes on with what is missing.
"""

import dataclasses
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.scipy.special import logsumexp

from dualebm import rates as bounds
from dualebm._internal import checks
from dualebm.cli import evaluate, report
from dualebm.energies.networks import MLP
from dualebm.features import ReLU, suited
from dualebm.log_z.estimate import estimate_log_partition
from dualebm.measures import Samples, effective_sample_size
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import Jarzynski
from dualebm.methods.likelihood import Likelihood
from dualebm.methods.validated import Validated, divided
from dualebm.methods.weighted_dual import WeightedDual
from dualebm.metrics.base import Metric
from dualebm.metrics.validation import ValidationCheck
from dualebm.spaces import Euclidean
from dualebm.training.run import Diverged, run

DIMENSIONS = (1, 2, 5, 15)
ROWS, HELD_OUT, PARTICLES, EVERY = 500, 100, 1000, 20
TRUTH, ALONG = 2**15, 2**13
"""The numbers of draws of the law, for the true log Z and cross-entropy at the end and along the training."""

ENOUGH = 1000
"""The effective number of these draws from which on log Z by them counts."""

FAR = 0.1
"""The distance from what a run says, or from its best, at which it is bad, in nats."""

NEAR = 0.05
"""The distance from the best of its method and dimension within which a start has succeeded, in nats."""

DECADES = 2.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    count: int = 200
    """The number of configurations."""
    seed: int = 0
    """Of the configurations."""
    steps: int = 600
    """Iterations of a run, a multiple of 100."""
    part: str = "0/1"
    """i/P runs the configurations whose number is i modulo P."""
    methods: tuple[str, ...] = ("jarzynski", "contrastive", "dual", "weighted_dual", "likelihood")
    """The methods that are drawn."""
    json: Path | None = None
    """Where numbers are written and read again."""


MAKE: dict[str, Callable[[Any], Any]] = {
    "jarzynski": lambda space: Jarzynski(space, MLP(32), walkers=PARTICLES),
    "contrastive": lambda space: Contrastive(space, MLP(32)),
    "dual": lambda space: Dual(space, suited(space, ReLU), neurons=32),
    "weighted_dual": lambda space: WeightedDual(space, suited(space, ReLU), neurons=32, particles=PARTICLES, renewal=100),
    "likelihood": lambda space: Likelihood(space, ReLU(bias=True), neurons=100, chains=PARTICLES),
}


# ---- the law ---------------------------------------------------------------------------------------------


def law(key: Any, count: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws points of two normals of widths .6 and masses .3 and .7, and returns them with their log densities (Lebesgue)."""
    sign_key, noise_key = jax.random.split(key)
    sign = np.where(np.asarray(jax.random.uniform(sign_key, (count, 1))) < 0.3, -1.0, 1.0)
    x = 0.6 * np.asarray(jax.random.normal(noise_key, (count, dimension)), float)
    x[:, :1] += sign
    return x, log_law(x)


def log_law(x: np.ndarray) -> np.ndarray:
    """Returns the log density of `law`.

    >>> round(float(np.exp(log_law(np.linspace(-5, 5, 2001)[:, None])).sum() * 0.005), 4)
    1.0
    """
    rest = np.sum(x[:, 1:] ** 2, axis=1)
    parts = [math.log(p) - ((x[:, 0] - a) ** 2 + rest) / 0.72 for p, a in ((0.3, -1.0), (0.7, 1.0))]
    return np.logaddexp(*parts) - x.shape[1] * math.log(0.6 * math.sqrt(2 * math.pi))


class ByLaw(Metric):
    """The cross-entropy by draws of the law, [E U + log Z, effective number of the draws], (2,), in nats.

    log Z is the mean of exp(-U) tau / p over draws of the law p.

    >>> from dualebm.methods.base import Iterate
    >>> x, log_density = law(jax.random.key(0), 1000, 1)
    >>> method = Jarzynski(Euclidean(1), MLP(8), walkers=10)  # at the start the energy is near 0
    >>> data = Samples(jnp.asarray(x, jnp.float32))
    >>> iterate = Iterate(method, method.init(jax.random.key(1), method.rates, data), method.rates, data)
    >>> value, size = ByLaw(data, jnp.asarray(log_density, jnp.float32))(jax.random.key(2), iterate)
    >>> bool(abs(value) < 0.2), bool(size > 300)
    (True, True)
    """

    samples: Samples
    log_density: jax.Array
    long_name, units = "cross-entropy by the law, and effective number of its draws", "nat"

    def __call__(self, key, iterate):
        """Returns the array."""
        del key
        return jnp.stack(by_law(iterate.energy, iterate.method.space, self.samples.points, self.log_density))


def by_law(energy, space, points, log_density):
    """Returns the cross-entropy by draws of the law, (N, d), and the effective number of the draws."""
    values = energy(points)
    log_weights = space.log_base(points) - values - log_density
    log_z = logsumexp(log_weights) - jnp.log(jnp.float32(len(points)))
    return jnp.mean(values) + log_z, effective_sample_size(log_weights)


# ---- one configuration -----------------------------------------------------------------------------------


def configuration(settings: Settings, number: int) -> dict[str, Any]:
    """Returns the method, the dimension and the rates of a configuration.

    >>> configuration(Settings(), 3) == configuration(Settings(), 3)
    True
    """
    rng = np.random.default_rng([settings.seed, number])
    name, dimension = str(rng.choice(settings.methods)), int(rng.choice(DIMENSIONS))
    method = MAKE[name](Euclidean(dimension))
    moves, trains = bounds.steps(type(method.rates))
    factors = {field: float(10 ** rng.uniform(-DECADES / 2, DECADES / 2)) for field in (*moves, *trains)}
    return dict(method=name, dimension=dimension, factors=factors)


def outcome(settings: Settings, number: int) -> dict[str, Any]:
    """Trains a configuration, and returns what it says, what is true and whether it is flagged."""
    chosen = configuration(settings, number)
    plain = MAKE[chosen["method"]](Euclidean(chosen["dimension"]))
    shared = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed + 1), chosen["dimension"]), 3)  # of runs of one dimension
    keys = [jax.random.fold_in(jax.random.key(settings.seed), 10 * number + i) for i in range(4)]
    x, _ = law(shared[0], ROWS + HELD_OUT, chosen["dimension"])
    data, held_out = (Samples(jnp.asarray(part, jnp.float32)) for part in (x[:ROWS], x[ROWS:]))
    points, log_density = law(shared[1], TRUTH, chosen["dimension"])
    points = jnp.asarray(points, jnp.float32)
    method, data = evaluate.validated(shared[2], plain, data, settings.steps, EVERY, None, True)
    watched = method if isinstance(method, Validated) else None
    rates = method.rates_for(data)
    rates = rates._replace(**{name: float(getattr(rates, name)) * factor for name, factor in chosen["factors"].items()})
    watched_by = evaluate.checks_of(settings.steps, EVERY, data, held_out) if watched is None else {"check": ValidationCheck(watched.mends)}
    metrics = watched_by | {"law": ByLaw(Samples(points[:ALONG]), jnp.asarray(log_density[:ALONG], jnp.float32))}
    begin = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            state, results = run(keys[1], method, rates, data, steps=settings.steps, every=EVERY, metrics=metrics, progress=False)
        except Diverged as error:
            said = {"diverged": str(error)[:200], "flags": [str(error)[:200]], "bad": True, "seconds": time.monotonic() - begin}
            return chosen | said
    flags = [str(w.message)[:200] for w in caught]
    kept = None if watched is None else evaluate.kept_of(watched, state)
    if watched is not None and kept is None:
        flags += [f"{report.note_of_validation(kept)}"[:200]]
    last = state if watched is None else state.inner if kept is None else state.kept.state
    trained = data if watched is None else divided(data, watched.rows)[0]
    energy, by_particles = plain.energy(last, rates, trained), evaluate.log_partition_of(plain, last)
    particles = evaluate.particles_of(keys[2], keys[3], energy, method.space, plain.samples(last))
    fitted = estimate_log_partition(keys[3], energy, method.space, particles)
    flags += [f"{fitted.doubt}"[:200]] if fitted.doubt else []
    note = report.note_of_particles(by_particles, fitted)
    flags += [note[:200]] if note else []
    rise = report.note_of_rise(results.check.values) if watched is None else None
    flags += [rise[:200]] if rise else []
    mean = float(jnp.mean(energy(points)))
    exact, size = (float(number) for number in by_law(energy, method.space, points, jnp.asarray(log_density, jnp.float32)))
    other = mean + estimate_log_partition(keys[0], energy, method.space, particles).value
    true = max(exact, other) if size >= ENOUGH else other
    says = mean + (fitted.value if by_particles is None else by_particles.value)
    seen = results.law.values[1:]
    least = min([true, *(float(value) for value, count in seen if count >= ENOUGH / (TRUTH / ALONG))])
    return chosen | {
        "says": says, "true": true, "least": least, "end": int(last.step), "kept": kept,
        "by_law": exact, "by_law_size": size, "estimate": other,
        "flags": flags, "bad": not (abs(says - true) <= FAR and true - least <= FAR), "seconds": time.monotonic() - begin,
    }  # fmt: skip


# ---- all of them -----------------------------------------------------------------------------------------


def summary(found: list[dict[str, Any]]) -> str:
    """Returns the shares of bad runs that are flagged, of good runs that are, and of starts near the best, as lines.

    >>> a, b = dict(method="m", dimension=1, bad=True, flags=["x"], true=0.3), dict(method="m", dimension=1, bad=False, flags=[], true=0.0)
    >>> print(summary([a, b]))
    2 runs, 1 bad: 1 of them flagged (100%)
    1 good: 0 of them flagged (0%)
    within 0.05 nat of the best of the method and dimension: m 1 of 2
    """
    bad, good = [[run for run in found if run["bad"] == is_bad] for is_bad in (True, False)]
    lines = []
    for runs, words in ((bad, f"{len(found)} runs, {len(bad)} bad"), (good, f"{len(good)} good")):
        flagged = sum(bool(run["flags"]) for run in runs)
        lines.append(f"{words}: {flagged} of them flagged ({flagged / max(len(runs), 1):.0%})")
    near: dict[str, list[bool]] = {}
    for run_ in found:
        of = [one.get("true", math.inf) for one in found if (one["method"], one["dimension"]) == (run_["method"], run_["dimension"])]
        near.setdefault(run_["method"], []).append(bool(run_.get("true", math.inf) <= min(of) + NEAR))
    starts = ", ".join(f"{name} {sum(held)} of {len(held)}" for name, held in sorted(near.items()))
    return "\n".join([*lines, f"within {NEAR} nat of the best of the method and dimension: {starts}"])


def main(settings: Settings) -> None:
    """Runs the configurations that are missing, writes their numbers and prints the summary.

    Raises ValueError naming the argument, its value and what is allowed, before anything runs.
    """
    checks.count("count", settings.count)
    checks.count("steps", settings.steps, 100)
    if settings.steps % 100:
        raise ValueError(f"steps is {settings.steps}; it must be a multiple of 100")
    for name in settings.methods:
        checks.choice("methods", name, MAKE)
    index, _, parts = settings.part.partition("/")
    if not (index.isdigit() and parts.isdigit() and int(index) < int(parts)):
        raise ValueError(f"part is {settings.part!r}; it must be i/P with 0 <= i < P, such as 0/4")
    about = {"seed": settings.seed, "steps": settings.steps, "methods": list(settings.methods)}
    kept: dict[str, Any] = {"about": about, "runs": {}}
    if settings.json is not None and settings.json.exists():
        kept = json.loads(settings.json.read_text())
        if kept.get("about") != about:
            raise ValueError(f"json is {str(settings.json)!r}, which holds {kept.get('about')}; give a new file for {about}")
    print(f"seed {settings.seed}", flush=True)
    for number in range(int(index), settings.count, int(parts)):
        if str(number) in kept["runs"]:
            continue
        kept["runs"][str(number)] = found = outcome(settings, number)
        words = "bad" if found["bad"] else "good"
        print(f"{number}: {found['method']} d={found['dimension']} {words}, {len(found['flags'])} flags", flush=True)
        if settings.json is not None:
            settings.json.write_text(json.dumps(kept, indent=1))
    print(summary(list(kept["runs"].values())))


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
