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
        drawn = model.draw(jax.random.key(settings.seed), fitted, settings.count, steps=settings.steps, step=settings.step)
        table = from_space(fitted.preparation, drawn.points)
    output.write(settings.out, list(table.columns or (f"x{i + 1}" for i in range(table.rows.shape[1]))), table.rows)
    how = (
        f"weighted draws of the base measure, of which the fraction {drawn.fraction:.3g} counts"
        if drawn.acceptance is None
        else f"acceptance {drawn.acceptance:.3f} in {settings.steps or model.MOVES} moves from the base measure"
    )
    print(how, file=output.summary(settings.out))
    if drawn.acceptance is not None and drawn.acceptance < LOW_ACCEPTANCE:
        step = settings.step or fitted.particle_step
        print(f"note: fewer than 30% of moves were accepted; give a --step smaller than {step:.4g}", file=sys.stderr)
    if settings.out is not None:
        print(f"{settings.count} samples written to {settings.out}")
