"""`dualebm sample`: samples of a fitted model."""

import sys
from collections.abc import Iterator

import jax
import numpy as np

from dualebm import model_files
from dualebm._internal.keys import key_of_seed
from dualebm.cli import output
from dualebm.cli.commands import Sample
from dualebm.data.preparation import from_space
from dualebm.sampling import MOVES, draw_blocks
from dualebm.training import segments

LOW_ACCEPTANCE = 0.3
"""The acceptance below which a note says that samples may not be samples of the model."""


def run(settings: Sample) -> None:
    """Draw the samples, write them, and print how they were drawn. Raises ValueError for a setting that is not allowed."""
    output.check(settings.out)
    with jax.enable_x64(model_files.read(settings.model)["precision"] == 64):
        fitted = model_files.load(settings.model)
        step = fitted.particle_step if settings.step is None else settings.step
        prepared, width = fitted.preparation, 2 if fitted.preparation.latlon else fitted.preparation.space.dimension
        output.check_size(settings.out, settings.count, width)
        blocks = draw_blocks(key_of_seed(settings.seed), fitted, settings.count, steps=settings.steps, step=settings.step)
        drawn = []

        with segments.bar(settings.count, 0, "sample", settings.out is not None and sys.stderr.isatty()) as bar:

            def made() -> Iterator[np.ndarray]:
                for block in blocks:
                    drawn.append((len(block.points), block.fraction, block.acceptance))
                    rows = from_space(prepared, block.points).rows
                    finite = np.isfinite(rows).all(axis=1)
                    if not finite.all():
                        raise ValueError(f"{settings.model}: samples of the model are not finite, such as {rows[~finite][0]}")
                    yield rows
                    bar.update(len(block.points))

            output.write(settings.out, list(prepared.columns or (f"x{i + 1}" for i in range(width))), made(), settings.count)
    fraction, acceptances = drawn[0][1], [size * accepted for size, _, accepted in drawn if accepted is not None]
    summary = output.summary(settings.out)
    if fraction is not None:
        print(f"weighted draws of the base measure, of which the fraction {fraction:.3g} counts", file=summary)
    else:
        moves = f"{MOVES if settings.steps is None else settings.steps} moves of step {step:.4g}"
        acceptance = sum(acceptances) / settings.count
        print(f"acceptance {acceptance:.3f} in {moves} from the base measure", file=summary)
        if acceptance < LOW_ACCEPTANCE:
            print(f"note: fewer than 30% of moves were accepted; give a --step smaller than {step:.4g}", file=sys.stderr)
    if settings.out is not None:
        print(f"{settings.count} samples written to {settings.out}")
