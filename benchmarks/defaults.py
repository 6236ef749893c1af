"""Do the defaults of two methods fit small tables? Each fit beside a normal distribution, the other method and an independent log Z.

    python -m benchmarks.defaults --json defaults.json --out results/defaults

Each fit is `dualebm fit TABLE --space euclidean --standardise --method METHOD --start mlp` on a table of `experiments.tables`, with no
other flag but the seed. The independent log Z is by importance sampling from a mixture of normal distributions that is fitted to samples of
the model, with wider ones beside it. It shares no particle and no path with the log Z of the fit. Numbers are written as they come, and a
second call goes on with what is missing.
"""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy.special import logsumexp

from dualebm import model, model_files
from dualebm._internal import checks
from dualebm.cli import main as cli
from dualebm.log_z import fresh
from experiments.tables import sets

METHODS = ("jarzynski", "contrastive")
COMPONENTS, SAMPLES, DRAWS, WIDER = 20, 2**12, 2**17, 2.0
"""Of the mixture: its largest number of components, the samples it is fitted to, its draws, and the factor of the wider ones."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    tables: tuple[str, ...] = ("moons", "rings", "iris", "wine5", "cancer5")
    """Tables of `experiments.tables`."""
    seeds: tuple[int, ...] = (0,)
    """Of the table, where it is drawn, and of the fit."""
    out: Path = Path("results/defaults")
    """The folder of the tables and fits."""
    json: Path | None = None
    """Where numbers are written and read again."""
    steps: int | None = None
    """Iterations, or the default of the command."""


def independent(key: Any, energy: Any, space: Any, *, draws: int = DRAWS) -> tuple[float, float, float]:
    """Returns log Z by importance sampling, its standard error and the effective share of the draws, in nats.

    >>> from dualebm.energies.networks import MLP; from dualebm.spaces import Euclidean
    >>> energy = MLP(8)(jax.random.key(0), Euclidean(2), jnp.float32)
    >>> value, error, share = independent(jax.random.key(1), energy, Euclidean(2), draws=2000)
    >>> abs(value) < 0.1, error < 0.05, share > 0.3
    (True, True, True)
    """
    from sklearn.mixture import GaussianMixture

    first, second = jax.random.split(key)
    points = np.asarray(jax.jit(lambda key: fresh.draw(key, energy, space, SAMPLES).points)(first), float)
    fits = [GaussianMixture(count, random_state=0, reg_covar=1e-3).fit(points) for count in (1, 5, COMPONENTS)]
    best = min(fits, key=lambda fit: fit.bic(points))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(second)))
    component = rng.choice(len(best.weights_), draws, p=best.weights_)
    wide = rng.uniform(size=draws) < 0.3
    normal = rng.normal(size=(draws, points.shape[1])) * np.where(wide, WIDER, 1)[:, None]
    factors = np.linalg.cholesky(best.covariances_)
    x = best.means_[component] + np.einsum("nij,nj->ni", factors[component], normal)
    parts = []
    for weight, mean, factor in zip(best.weights_, best.means_, factors, strict=True):
        z = np.sum(np.linalg.solve(factor, (x - mean).T) ** 2, axis=0)
        scale = math.log(weight) - np.sum(np.log(np.diag(factor))) - 0.5 * x.shape[1] * math.log(2 * math.pi)
        parts += [scale + math.log(0.7) - 0.5 * z, scale + math.log(0.3) - x.shape[1] * math.log(WIDER) - 0.5 * z / WIDER**2]
    moved = jnp.asarray(x, jnp.float32)
    log_weights = np.asarray(space.log_base(moved) - energy(moved), float) - logsumexp(parts, axis=0)
    value = logsumexp(log_weights) - math.log(draws)
    weights = np.exp(log_weights - value)
    return float(value), float(np.std(weights) / math.sqrt(draws)), float(1 / np.mean(weights**2))


def outcome(settings: Settings, table: str, method: str, seed: int) -> dict[str, Any]:
    """Fits a table by the defaults of a method, and returns what the fit says beside what is known."""
    settings.out.mkdir(parents=True, exist_ok=True)
    file, out = settings.out / f"{table}{seed}.csv", settings.out / f"{table}{seed}_{method}"
    if not file.exists():
        rows = sets.rows_of(table, seed)
        np.savetxt(file, rows, "%.6g", ",", header=",".join(f"x{i}" for i in range(rows.shape[1])), comments="")
    words = ["fit", str(file), "--space", "euclidean", "--standardise", "--method", method, "--start", "mlp", "--seed", str(seed)]
    begin = time.monotonic()
    if cli.main([*words, *([] if settings.steps is None else ["--steps", str(settings.steps)]), "--out", str(out)]):
        raise RuntimeError(f"{' '.join(words)} has failed")
    header, fitted = model_files.read(out), model_files.load(out)
    value, error, share = independent(jax.random.key(seed + 1), fitted.energy, fitted.preparation.space)
    normal = next(rival for rival in header["rivals"] if "normal" in rival["name"] and "mixture" not in rival["name"])
    held = header["held_out"][model.density_name(fitted.preparation.space)]
    return {
        "table": table, "method": method, "seed": seed, "held_out": held["mean"], "held_out_error": held["standard_error"],
        "normal": normal["mean"], "rivals": {rival["name"]: rival["mean"] for rival in header["rivals"]},
        "log_z": header["log_partition"]["value"], "log_z_error": header["log_partition"]["standard_error"],
        "trusted": header["log_partition"].get("doubt") is None, "independent": value, "independent_error": error, "share": share,
        "kept": header["kept"], "notes": header["notes"], "seconds": time.monotonic() - begin,
    }  # fmt: skip


def summary(found: list[dict[str, Any]]) -> str:
    """Returns a table of fits in Markdown.

    >>> numbers = dict(held_out=-1.0, held_out_error=0.1, normal=-2.0, log_z=0.5, log_z_error=0.01)
    >>> other = dict(independent=0.52, independent_error=0.01)
    >>> print(summary([{"table": "moons", "method": "jarzynski", "seed": 0, **numbers, **other}]).splitlines()[-1])
    | moons | 0 | jarzynski | -1.000 ± 0.100 | -2.000 | 0.5000 ± 0.0100 | 0.5200 ± 0.0100 |
    """
    lines = ["| table | seed | method | held out | normal | log Z | independent |", "| --- | --: | --- | --: | --: | --: | --: |"]
    for one in found:
        numbers = f"{one['held_out']:.3f} ± {one['held_out_error']:.3f} | {one['normal']:.3f}"
        both = f"{one['log_z']:.4f} ± {one['log_z_error']:.4f} | {one['independent']:.4f} ± {one['independent_error']:.4f}"
        lines.append(f"| {one['table']} | {one['seed']} | {one['method']} | {numbers} | {both} |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Runs the fits that are missing, writes their numbers and prints the table.

    Raises ValueError naming the argument, its value and what is allowed, before anything runs.
    """
    for name in settings.tables:
        checks.choice("tables", name, sets.NAMES)
    for seed in settings.seeds:
        checks.count("seeds", seed, 0)
    if settings.steps is not None:
        checks.count("steps", settings.steps, 20)
    about = {"steps": settings.steps}
    kept: dict[str, Any] = {"about": about, "fits": {}}
    if settings.json is not None and settings.json.exists():
        kept = json.loads(settings.json.read_text())
        if kept.get("about") != about:
            raise ValueError(f"json is {str(settings.json)!r}, which holds fits of {kept.get('about')}; give a new file for {about}")
    for seed in settings.seeds:
        for table in settings.tables:
            for method in METHODS:
                name = f"{table} {method} {seed}"
                if name not in kept["fits"]:
                    kept["fits"][name] = found = outcome(settings, table, method, seed)
                    print(summary([found]).splitlines()[-1], flush=True)
                    if settings.json is not None:
                        settings.json.write_text(json.dumps(kept, indent=1))
    print(summary(list(kept["fits"].values())))


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
