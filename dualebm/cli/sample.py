"""`dualebm sample`: samples of a fitted model."""

import sys

import jax

from dualebm import model
from dualebm.cli import output
from dualebm.cli.commands import Sample
from dualebm.data.preparation import from_space

LOW_ACCEPTANCE = 0.3
"""The acceptance below which a note says that samples may not be samples of the model."""


def run(settings: Sample) -> None:
    """Draw the samples, write them, and print how they were drawn. Raises ValueError for a setting that is not allowed."""
    output.check(settings.out)
    with jax.enable_x64(model.read(settings.model)["precision"] == 64):
        fitted = model.load(settings.model)
        step = fitted.particle_step if settings.step is None else settings.step
        drawn = model.draw(jax.random.key(settings.seed), fitted, settings.count, steps=settings.steps, step=settings.step)
        table = from_space(fitted.preparation, drawn.points)
    output.write(settings.out, list(table.columns or (f"x{i + 1}" for i in range(table.rows.shape[1]))), table.rows)
    summary = output.summary(settings.out)
    if drawn.acceptance is None:
        print(f"weighted draws of the base measure, of which the fraction {drawn.fraction:.3g} counts", file=summary)
    else:
        moves = f"{settings.steps or model.MOVES} moves of step {step:.4g}"
        print(f"acceptance {drawn.acceptance:.3f} in {moves} from the base measure", file=summary)
        if drawn.acceptance < LOW_ACCEPTANCE:
            print(f"note: fewer than 30% of moves were accepted; give a --step smaller than {step:.4g}", file=sys.stderr)
    if settings.out is not None:
        print(f"{settings.count} samples written to {settings.out}")
