"""Runs experiments one after the other and writes one page of them all.

    python -m experiments all --preset quick
    python -m experiments torus mean_field --preset paper

Each runs in another process and writes under `--out`/NAME. `--out`/index.html has every figure, its command, its numbers and the paper's.
When one fails, the others go on, and the last line names it.
"""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import tyro

from dualebm._internal import checks
from experiments import _common, page, report

EXPERIMENTS = (
    "two_teachers", "figure1", "restarts", "sphere", "dual_lazy", "mean_field", "certificate", "torus", "deep", "time_scales", "adaptive",
    "less_work", "active_lazy", "sphere2_likelihood", "hidden_dimension", "gaussian_mixture", "two_modes", "images", "gradient_bias",
    "weighted_dual", "threshold_law", "tables", "earth",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which experiments, and how."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names of experiments, or all."""
    preset: str = "quick"
    """quick (each under three minutes on two cores) or paper (hours)."""
    out: Path = Path("results")
    """Where a folder for each, and index.html, are written."""


def main(settings: Settings) -> None:
    """Runs the experiments and writes the page; exits with 1 if one has failed."""
    for name in settings.names:
        checks.choice("names", name, ("all", *EXPERIMENTS))
    checks.choice("preset", settings.preset, _common.PRESETS)
    chosen = EXPERIMENTS if "all" in settings.names else settings.names
    failed = []
    for name in chosen:
        begin = time.perf_counter()
        words = [sys.executable, "-m", f"experiments.{name}", "--preset", settings.preset, "--out", str(settings.out / name)]
        code = subprocess.run(words).returncode
        if code in (130, -2):
            sys.exit(code)
        failed += [name] if code else []
        print(f"{name}: {'failed' if code else 'done'} after {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"written to {page.index(settings.out, EXPERIMENTS)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
