"""`dualebm sample`: samples of a fitted model."""

import sys

import jax

from dualebm import model
from dualebm.cli import output
from dualebm.cli.commands import Sample
from dualebm.data.preparation import from_space
from dualebm.flows import langevin

LOW_ACCEPTANCE = 0.3
"""The acceptance below which a note says that samples may not be samples of the model."""


def run(settings: Sample) -> None:
    """Draw the samples, write them, and print the acceptance. Raises ValueError for a setting that is not allowed."""
    output.check(settings.out)
    with jax.enable_x64(model.read(settings.model)["precision"] == 64):
        fitted = model.load(settings.model)
        step = fitted.particle_step if settings.step is None else settings.step
        key = jax.random.key(settings.seed)
        space = fitted.preparation.space
        x, acceptance = langevin.sample(key, fitted.energy, space, settings.count, steps=settings.steps, step=step)
        table, acceptance = from_space(fitted.preparation, x), float(acceptance)
    output.write(settings.out, list(table.columns or (f"x{i + 1}" for i in range(table.rows.shape[1]))), table.rows)
    summary = output.summary(settings.out)
    print(f"acceptance {acceptance:.3f} in {settings.steps} moves of step {step:.4g} from the base measure", file=summary)
    if acceptance < LOW_ACCEPTANCE:
        print(f"note: fewer than 30% of moves were accepted; give a --step smaller than {step:.4g}", file=sys.stderr)
    if settings.out is not None:
        print(f"{settings.count} samples written to {settings.out}")
